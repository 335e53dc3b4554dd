/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is to be attached: scopes of all services, and their cgroups.
 *
 *	found whole, and fits	in any case: small services first
 *	pods, executables	what is left, one by one
 *	does not fit whole	what is left then, as far as it goes
 *
 * Invariants: N1 what does not fit of one service keeps no other from being attached; N2 of every service
 * that is not attached as it should be it is known why; N3 of two services of one cgroup and port
 * the one that is named by cgroup or unit has it.
 */
#include <limits.h>

#include "agent_parts.h"

/* The folders of a service by cgroup, unit or port alone. */
struct found {
	const struct tally_config_service *service;
	uint16_t index;
	struct tally_cgroups cgroups;
	size_t n_scopes;
	bool late; /* it does not fit whole */
};

struct look {
	struct tally_agent *agent;
	struct tally_agent_plan *plan;
	struct found found[TALLY_SERVICES];
	size_t n_found;
};

static void look_free(struct look *look)
{
	for (size_t i = 0; look && i < look->n_found; i++)
		tally_cgroups_done(&look->found[i].cgroups);
	free(look);
}

TALLY_CLEANUP(struct look *, look_freep, look_free)

void tally_agent_plan_free(struct tally_agent_plan *plan)
{
	if (plan)
		tally_cgroups_done(&plan->cgroups);
	free(plan);
}

/* Below the mount; "": that itself. */
static const char *path_of(const struct look *look, const struct tally_cgroup *cgroup)
{
	return cgroup->path + strlen(look->agent->tags.mount);
}

static size_t count_ports(const struct tally_option_ports *ports)
{
	return ports->all ? 1 : ports->n;
}

/* ---- what goes wrong ---- */

static void leave_out(struct tally_agent_plan *plan, uint16_t service,
		      enum tally_agent_trouble_kind kind, size_t scopes)
{
	struct tally_agent_trouble *trouble = &plan->troubles[service];

	trouble->kind = kind;
	trouble->left_out += scopes;
}

static void is_of_another(struct look *look, uint16_t service, const char *path, uint32_t other)
{
	struct tally_agent_trouble *trouble = &look->plan->troubles[service];
	const char *name = look->agent->rules.names[other];

	leave_out(look->plan, service, TALLY_AGENT_TAKEN, 1);
	(void)snprintf(trouble->text, sizeof(trouble->text),
		       "service %s has the ports of %s, with equal precedence",
		       name ? name : "_unknown", path);
}

static void describe(struct tally_agent_trouble *trouble)
{
	if (trouble->kind == TALLY_AGENT_FULL)
		(void)snprintf(
			trouble->text, sizeof(trouble->text),
			"%zu of its pairs of cgroup and port do not fit: there is room for %d, and for %d cgroups",
			trouble->left_out, TALLY_SCOPES_MAX, TALLY_CGROUPS_MAX);
	else if (trouble->kind == TALLY_AGENT_DEEP)
		(void)snprintf(trouble->text, sizeof(trouble->text),
			       "%zu of its cgroups lie more than %d folders deep",
			       trouble->left_out, TALLY_SCOPE_LEVELS - 1);
}

/* ---- scopes ---- */

static void add_scopes(struct tally_agent_plan *plan, const struct tally_option_ports *ports,
		       struct tally_scope_want want, const char *path)
{
	for (size_t i = 0; i < count_ports(ports); i++) {
		want.port = ports->all ? 0 : ports->list[i];
		plan->paths[plan->n] = path;
		plan->scopes[plan->n++] = want;
	}
}

/* A scope of another service for the same sockets. */
static const struct tally_scope_want *find_other(const struct tally_agent_plan *plan,
						 const struct tally_scope_want *want,
						 const struct tally_option_ports *ports)
{
	for (size_t i = 0; i < plan->n; i++) {
		const struct tally_scope_want *scope = &plan->scopes[i];

		if (scope->cgroup != want->cgroup || scope->service == want->service)
			continue;
		for (size_t p = 0; p < count_ports(ports); p++)
			if (ports->all || !scope->port || scope->port == ports->list[p])
				return scope;
	}
	return NULL;
}

static const struct tally_cgroup *find_cgroup(const struct tally_agent_plan *plan, uint64_t id)
{
	for (size_t i = plan->cgroups.n; i-- > 0;)
		if (plan->cgroups.items[i].id == id)
			return &plan->cgroups.items[i];
	return NULL;
}

/* *ret_cgroup: it stands in the plan once, though it may be of several scopes. -ENOENT: it is gone. */
static int add_cgroup(struct look *look, const char *path, const struct tally_cgroup **ret_cgroup)
{
	struct tally_cgroups *cgroups = &look->plan->cgroups;
	const char *below = strcmp(path, "/") ? path : "";
	size_t at = cgroups->n;
	int err = 0;

	while (at && strcmp(path_of(look, &cgroups->items[at - 1]), below) != 0)
		at--;
	if (!at) {
		err = tally_cgroup_add(look->agent->tags.mount, path, cgroups);
		at = err ? 0 : cgroups->n;
	}
	if (err || !at)
		return err ? err : -ENOENT;
	*ret_cgroup = &cgroups->items[at - 1];
	return 0;
}

/* ---- by cgroup, unit, port alone ---- */

static int find(struct look *look, const struct tally_config_service *service)
{
	const struct tally_config_match *match = &service->match;
	struct found *found = &look->found[look->n_found];
	struct tally_agent_tags *tags = &look->agent->tags;
	int err;

	if (match->pods.place.line || match->executable)
		return 0; /* on_pod(), on_executable() */
	err = tally_agent_rules_index(look->agent, service->name, &found->index);
	if (err)
		return err;
	look->n_found++;
	found->service = service;
	if (match->unit)
		err = tally_cgroup_find_unit(tags->mount, match->unit, &tags->watch,
					     &found->cgroups);
	else
		err = tally_cgroup_find(tags->mount, match->cgroup ? match->cgroup : "/",
					&tags->watch, &found->cgroups);
	found->n_scopes = (found->cgroups.n + found->cgroups.left_out) * count_ports(&match->ports);
	return err;
}

static int compare(const void *a, const void *b)
{
	const struct found *x = a, *y = b;

	if (x->n_scopes != y->n_scopes)
		return x->n_scopes < y->n_scopes ? -1 : 1;
	return x->index < y->index ? -1 : x->index > y->index;
}

static bool fits(const struct tally_agent_plan *plan, const struct found *found)
{
	return plan->n + found->n_scopes <= TALLY_SCOPES_MAX && !found->cgroups.left_out &&
	       plan->cgroups.n + found->cgroups.n <= TALLY_CGROUPS_MAX;
}

static bool has_room(const struct tally_agent_plan *plan, uint64_t cgroup, size_t ports)
{
	return plan->n + ports <= TALLY_SCOPES_MAX &&
	       (plan->cgroups.n < TALLY_CGROUPS_MAX || find_cgroup(plan, cgroup));
}

static int place_one(struct look *look, const struct found *found,
		     const struct tally_cgroup *cgroup)
{
	const struct tally_config_match *match = &found->service->match;
	const char *path = path_of(look, cgroup);
	size_t ports = count_ports(&match->ports);
	bool anywhere = !match->cgroup && !match->unit;
	struct tally_scope_want want = {
		.cgroup = anywhere ? 0 : cgroup->id,
		.level = cgroup->level,
		.service = found->index,
	};
	const struct tally_scope_want *other;
	int err;

	if (cgroup->level >= TALLY_SCOPE_LEVELS) {
		leave_out(look->plan, found->index, TALLY_AGENT_DEEP, 1);
		return 0;
	}
	if (!has_room(look->plan, cgroup->id, ports)) {
		leave_out(look->plan, found->index, TALLY_AGENT_FULL, ports);
		return 0;
	}
	other = found->late ? find_other(look->plan, &want, &match->ports) : NULL;
	if (other) {
		is_of_another(look, found->index, path, other->service);
		return 0;
	}
	err = add_cgroup(look, *path ? path : "/", &cgroup);
	if (err)
		return err == -ENOENT ? 0 : err;
	add_scopes(look->plan, &match->ports, want, anywhere ? NULL : path_of(look, cgroup));
	return 0;
}

static int place(struct look *look, struct found *found)
{
	size_t left_out = found->cgroups.left_out * count_ports(&found->service->match.ports);
	int err = 0;

	for (size_t i = 0; i < found->cgroups.n && !err; i++)
		err = place_one(look, found, &found->cgroups.items[i]);
	if (left_out)
		leave_out(look->plan, found->index, TALLY_AGENT_FULL, left_out);
	return err;
}

static int place_all(struct look *look, bool late)
{
	int err = 0;

	for (size_t i = 0; i < look->n_found && !err; i++) {
		struct found *found = &look->found[i];

		if (!late)
			found->late = !fits(look->plan, found);
		if (found->late == late)
			err = place(look, found);
	}
	return err;
}

/* ---- pods ---- */

/* tally_agent_pods_fn */
static int on_pod(void *ctx, const char *path, const struct tally_agent_claim *claim)
{
	struct look *look = ctx;
	const struct tally_scope_want *other;
	const struct tally_cgroup *cgroup;
	struct tally_scope_want want = { .origin = claim->origin };
	size_t ports = count_ports(claim->ports);
	uint16_t index;
	int err = tally_agent_rules_index(look->agent, claim->service, &index);

	if (err)
		return err == -ENOENT ? 0 : err;
	err = look->plan->n + ports > TALLY_SCOPES_MAX ? -E2BIG : add_cgroup(look, path, &cgroup);
	if (!err && cgroup->level >= TALLY_SCOPE_LEVELS)
		err = -E2BIG;
	if (err == -E2BIG)
		leave_out(look->plan, index, TALLY_AGENT_FULL, ports);
	if (err)
		return err == -ENOENT ? 0 : err;
	want.cgroup = cgroup->id;
	want.level = cgroup->level;
	want.service = index;
	other = find_other(look->plan, &want, claim->ports);
	if (other) {
		is_of_another(look, index, path, other->service);
		return -EADDRINUSE;
	}
	add_scopes(look->plan, claim->ports, want, path_of(look, cgroup));
	return 0;
}

/* ---- executables ---- */

/* Does a scope by cgroup, unit or pod have this port of the folder? Or has another executable? */
static bool is_taken(const struct tally_agent_plan *plan, const char *path, uint16_t port)
{
	for (size_t i = 0; i < plan->n; i++) {
		const struct tally_scope_want *scope = &plan->scopes[i];
		const char *above = plan->paths[i];
		size_t len;

		if (!above || (scope->port && port && scope->port != port))
			continue;
		len = strlen(above);
		if (!strncmp(above, path, len) && (!path[len] || path[len] == '/'))
			return true;
	}
	return false;
}

/* tally_agent_exe_fn. By executable is weaker than by cgroup, though its cgroup may be deeper. */
static int on_executable(void *ctx, const char *path, const char *service, uint16_t port)
{
	struct look *look = ctx;
	const struct tally_option_ports all = { .all = true };
	const struct tally_cgroup *cgroup;
	struct tally_scope_want want = {};
	struct tally_agent_plan *plan = look->plan;
	uint16_t index;
	int err;

	if (is_taken(plan, path, port))
		return port ? 0 : -EEXIST;
	err = tally_agent_rules_index(look->agent, service, &index);
	if (err)
		return err == -ENOENT ? 0 : err;
	err = plan->n == TALLY_SCOPES_MAX ? -E2BIG : add_cgroup(look, path, &cgroup);
	if (err == -E2BIG || (!err && cgroup->level >= TALLY_SCOPE_LEVELS)) {
		leave_out(plan, index, err ? TALLY_AGENT_FULL : TALLY_AGENT_DEEP, 1);
		return 0;
	}
	if (err)
		return err == -ENOENT ? 0 : err;
	want.cgroup = cgroup->id;
	want.level = cgroup->level;
	want.service = index;
	add_scopes(plan, &all, want, path_of(look, cgroup));
	plan->scopes[plan->n - 1].port = port;
	return 0;
}

int tally_agent_plan_make(struct tally_agent *agent, struct tally_agent_plan **ret_plan)
{
	_cleanup_(tally_agent_plan_freep) struct tally_agent_plan *plan = calloc(1, sizeof(*plan));
	_cleanup_(look_freep) struct look *look = calloc(1, sizeof(*look));
	int err = plan && look ? 0 : -ENOMEM;

	if (err)
		return err;
	look->agent = agent;
	look->plan = plan;
	for (size_t i = 0; i < agent->view.n_services && !err; i++)
		err = find(look, &agent->view.services[i]);
	qsort(look->found, look->n_found, sizeof(*look->found), compare);
	if (!err)
		err = place_all(look, false);
	if (!err)
		err = tally_agent_pods_look(agent, on_pod, look);
	if (!err)
		err = tally_agent_exe_look(agent, on_executable, look);
	if (!err)
		err = place_all(look, true);
	if (err)
		return err;
	for (size_t i = 0; i < TALLY_SERVICES; i++)
		describe(&plan->troubles[i]);
	*ret_plan = TAKE_PTR(plan);
	return 0;
}
