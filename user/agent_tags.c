/* SPDX-License-Identifier: Apache-2.0 */
#include <limits.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <time.h>

#include "agent_parts.h"

#define AGAIN_NS (TALLY_NS_PER_S / 4) /* for what does not listen yet */
#define LOOK_NS (TALLY_NS_PER_S / 20) /* from one look to the next, at least */

/* What is to be written to the maps and attached. */
struct plan {
	struct tally_scope_want *scopes;
	size_t n, cap;
	struct tally_cgroups cgroups;
};

static void plan_done(struct plan *plan)
{
	free(plan->scopes);
	tally_cgroups_done(&plan->cgroups);
}

static int add_scope(struct plan *plan, const struct tally_scope_want *want)
{
	if (plan->n == plan->cap) {
		size_t cap = plan->cap ? plan->cap * 2 : 64;
		struct tally_scope_want *more = reallocarray(plan->scopes, cap, sizeof(*more));

		if (!more)
			return -ENOMEM;
		plan->scopes = more;
		plan->cap = cap;
	}
	plan->scopes[plan->n++] = *want;
	return 0;
}

static int add_ports(struct plan *plan, const struct tally_option_ports *ports,
		     struct tally_scope_want want)
{
	int err = 0;

	if (ports->all)
		return add_scope(plan, &want);
	for (size_t i = 0; i < ports->n && !err; i++) {
		want.port = ports->list[i];
		err = add_scope(plan, &want);
	}
	return err;
}

static int pattern_of(const struct tally_config_match *match, char *out, size_t size)
{
	int n;

	if (match->cgroup)
		n = snprintf(out, size, "%s", match->cgroup);
	else if (match->unit)
		n = snprintf(out, size, "**/%s", match->unit);
	else
		n = snprintf(out, size, "/");
	return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

static int add_service(struct tally_agent *agent, const struct tally_config_service *service,
		       struct plan *plan)
{
	const struct tally_config_match *match = &service->match;
	size_t first = plan->cgroups.n;
	char pattern[PATH_MAX];
	uint16_t index;
	int err;

	if (match->pods.place.line || match->executable)
		return 0; /* add_pod(), add_executable() */
	err = tally_agent_rules_index(agent, service->name, &index);
	if (!err)
		err = pattern_of(match, pattern, sizeof(pattern));
	if (!err)
		err = tally_cgroup_find(agent->tags.mount, pattern, agent->tags.watch_fd,
					&plan->cgroups);
	for (size_t i = first; i < plan->cgroups.n && !err; i++) {
		const struct tally_cgroup *cgroup = &plan->cgroups.items[i];
		bool anywhere = !match->cgroup && !match->unit;
		struct tally_scope_want want = {
			.cgroup = anywhere ? 0 : cgroup->id,
			.level = cgroup->level,
			.service = index,
		};

		if (cgroup->level >= TALLY_SCOPE_LEVELS) {
			tally_log_warning("service_not_attached", "service=%s cgroup=%s reason=%s",
					  service->name, cgroup->path, "too deep");
			agent->tags.errors++;
			continue;
		}
		err = add_ports(plan, &match->ports, want);
	}
	return err;
}

/* What the callbacks below add to. */
struct addition {
	struct tally_agent *agent;
	struct plan *plan;
};

/* A folder may be of several scopes, and stands in the plan once. NULL: it is gone. */
static int add_cgroup(const struct addition *to, const char *path, struct tally_scope_want *want)
{
	struct tally_cgroups *cgroups = &to->plan->cgroups;
	const char *mount = to->agent->tags.mount;
	const struct tally_cgroup *cgroup;
	size_t at = cgroups->n;
	int err = 0;

	while (at && strcmp(cgroups->items[at - 1].path + strlen(mount),
			    strcmp(path, "/") ? path : "") != 0)
		at--;
	if (!at) {
		err = tally_cgroup_add(mount, path, cgroups);
		at = cgroups->n;
	}
	if (err || !at)
		return err ? err : -ENOENT;
	cgroup = &cgroups->items[at - 1];
	if (cgroup->level >= TALLY_SCOPE_LEVELS)
		return -E2BIG;
	want->cgroup = cgroup->id;
	want->level = cgroup->level;
	return 0;
}

/* tally_agent_pods_fn */
static int add_pod(void *ctx, const char *path, const struct tally_agent_claim *claim)
{
	const struct addition *to = ctx;
	struct tally_scope_want want = {};
	uint16_t index;
	int err;

	if (to->plan->n + TALLY_MAX(claim->ports->n, (size_t)1) > TALLY_SCOPES_MAX)
		return -E2BIG;
	err = tally_agent_rules_index(to->agent, claim->service, &index);
	if (!err)
		err = add_cgroup(to, path, &want);
	if (err)
		return err == -ENOENT ? 0 : err;
	want.service = index;
	want.origin = claim->origin;
	return add_ports(to->plan, claim->ports, want);
}

static const char *path_of(const struct plan *plan, uint64_t cgroup)
{
	for (size_t i = 0; i < plan->cgroups.n; i++)
		if (plan->cgroups.items[i].id == cgroup)
			return plan->cgroups.items[i].path;
	return NULL;
}

/* Does a scope by cgroup, unit or pod have this port of the folder? Or has another executable? */
static bool is_taken(const struct addition *to, const char *path, uint16_t port)
{
	const char *mount = to->agent->tags.mount;

	for (size_t i = 0; i < to->plan->n; i++) {
		const struct tally_scope_want *scope = &to->plan->scopes[i];
		const char *above = scope->cgroup ? path_of(to->plan, scope->cgroup) : NULL;
		size_t len;

		if (!above || (scope->port && port && scope->port != port))
			continue;
		above += strlen(mount);
		len = strlen(above);
		if (!strncmp(above, path, len) && (!path[len] || path[len] == '/'))
			return true;
	}
	return false;
}

/* tally_agent_exe_fn. By executable is weaker than by cgroup, though its cgroup may be deeper. */
static int add_executable(void *ctx, const char *path, const char *service, uint16_t port)
{
	const struct addition *to = ctx;
	struct tally_scope_want want = { .port = port };
	uint16_t index;
	int err;

	if (is_taken(to, path, port))
		return port ? 0 : -EEXIST;
	if (to->plan->n == TALLY_SCOPES_MAX)
		return -E2BIG;
	err = tally_agent_rules_index(to->agent, service, &index);
	if (!err)
		err = add_cgroup(to, path, &want);
	if (err)
		return err == -ENOENT ? 0 : err;
	want.service = index;
	return add_scope(to->plan, &want);
}

static int carry_out(struct tally_agent *agent, struct plan *plan)
{
	struct tally_agent_tags *tags = &agent->tags;
	int err = tally_scopes_set(agent->load, plan->scopes, plan->n);

	if (!err)
		err = tally_attach_set(agent->load, &plan->cgroups, &tags->attached, &tags->failed);
	if (err)
		return err;
	tags->scopes = plan->n;
	tags->errors += tags->failed;
	tally_cgroups_done(&tags->cgroups);
	tags->cgroups = plan->cgroups;
	memset(&plan->cgroups, 0, sizeof(plan->cgroups));
	return 0;
}

int tally_agent_tags_apply(struct tally_agent *agent)
{
	_cleanup_(plan_done) struct plan plan = {};
	struct addition to = { agent, &plan };
	uint32_t before = agent->tags.attached;
	int err = 0;

	agent->tags.looked_ns = tally_util_mono_ns();
	for (size_t i = 0; i < agent->view.n_services && !err; i++)
		err = add_service(agent, &agent->view.services[i], &plan);
	if (!err)
		err = tally_agent_pods_look(agent, add_pod, &to);
	if (!err)
		err = tally_agent_exe_look(agent, add_executable, &to);
	if (!err)
		err = carry_out(agent, &plan);
	if (!err)
		err = tally_agent_rules_drop_gone(agent);
	agent->tags.again_soon = err && err != -E2BIG;
	if (err) {
		agent->tags.errors++;
		tally_log_error("attach", "error=%s", strerror(-err));
		return err;
	}
	if (tally_agent_exe_again(agent))
		(void)!tally_loop_set_timer(agent->tags.again, tally_util_mono_ns() + AGAIN_NS,
					    0); /* likewise */
	if (before != agent->tags.attached)
		tally_log_info("attach", "cgroups=%u scopes=%u failed=%u", agent->tags.attached,
			       agent->tags.scopes, agent->tags.failed);
	return 0;
}

static int on_again(void *ctx, uint32_t events, uint64_t value)
{
	(void)!tally_agent_tags_apply(ctx); /* said there; the slow tick tries again */
	return 0;
}

/* The first folder is looked for at once, since its service may be about to answer; those that
 * follow it closely are looked for together. */
void tally_agent_tags_soon(struct tally_agent *agent)
{
	uint64_t at_ns = agent->tags.looked_ns + LOOK_NS;

	if (tally_util_mono_ns() >= at_ns)
		(void)!tally_agent_tags_apply(agent); /* likewise */
	else
		(void)!tally_loop_set_timer(agent->tags.again, at_ns, 0); /* likewise */
}

/* A folder came or went. What exactly does not matter: we look again. */
static int on_watch(void *ctx, uint32_t events, uint64_t value)
{
	struct tally_agent *agent = ctx;
	char buffer[4096];

	while (read(agent->tags.watch_fd, buffer, sizeof(buffer)) > 0)
		;
	tally_agent_tags_soon(agent);
	return 0;
}

int tally_agent_tags_open(struct tally_agent *agent)
{
	struct tally_agent_tags *tags = &agent->tags;
	int err = tally_cgroup_mount(tags->mount, sizeof(tags->mount));

	if (err)
		return err;
	tags->watch_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (tags->watch_fd < 0)
		return -errno;
	err = tally_loop_add_timer(agent->loop, CLOCK_MONOTONIC, on_again, agent, &tags->again);
	if (err)
		return err;
	return tally_loop_add_fd(agent->loop, tags->watch_fd, EPOLLIN, on_watch, agent,
				 &tags->watch);
}

void tally_agent_tags_close(struct tally_agent *agent)
{
	tally_loop_remove(agent->tags.watch);
	tally_loop_remove(agent->tags.again);
	if (agent->tags.watch_fd > 0)
		tally_util_close(agent->tags.watch_fd);
	tally_cgroups_done(&agent->tags.cgroups);
	memset(&agent->tags, 0, sizeof(agent->tags));
}
