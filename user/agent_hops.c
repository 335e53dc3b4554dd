/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two metered hops of one request on one host: nginx is a service, and so is the application behind it.
 * Each counts the request, on purpose; who invoices both should know. A service is called by another when
 * a client's socket at one of its ports belongs to a cgroup of the other. One service is looked at a time,
 * at its first few ports, within this network namespace; what was seen is remembered for a while.
 */
#include "agent_parts.h"
#include "observe/sockdiag.h"

#define PORTS_LOOKED 4
#define REMEMBERED_S 600

static uint64_t now_s(void)
{
	return 1 + tally_util_mono_ns() / TALLY_NS_PER_S;
}

/* Is that cgroup one where this service is metered? */
static bool is_at(const struct tally_agent *agent, const struct tally_config_service *service,
		  const char *path)
{
	json_t *cgroups = tally_agent_service_cgroups(agent, service), *cgroup;
	bool found = false;
	size_t i;

	json_array_foreach(cgroups, i, cgroup)
		found |= !strcmp(json_string_value(cgroup), path);
	json_decref(cgroups);
	return found;
}

static const char *path_of(const struct tally_agent *agent, uint64_t cgroup)
{
	for (size_t i = 0; i < agent->tags.cgroups.n; i++)
		if (agent->tags.cgroups.items[i].id == cgroup && agent->tags.cgroups.items[i].level)
			return agent->tags.cgroups.items[i].path;
	return NULL;
}

/* One cgroup that is of both is no hop: who called whom cannot be told. */
static void note_callers(struct tally_agent *agent, const struct tally_config_service *called,
			 uint16_t index, const char *path)
{
	uint16_t caller;

	if (is_at(agent, called, path))
		return;
	for (size_t i = 0; i < agent->view.n_services; i++) {
		const struct tally_config_service *service = &agent->view.services[i];

		if (service != called && is_at(agent, service, path) &&
		    !tally_agent_rules_index(agent, service->name, &caller))
			agent->hops.seen_s[index][caller] = now_s();
	}
}

static void look_at_port(struct tally_agent *agent, const struct tally_config_service *service,
			 uint16_t index, uint16_t port)
{
	uint64_t cgroups[TALLY_SOCKDIAG_MAX];
	size_t n;

	if (tally_sockdiag_clients(port, cgroups, &n))
		return; /* not now */
	for (size_t i = 0; i < n; i++) {
		const char *path = path_of(agent, cgroups[i]);

		if (path)
			note_callers(agent, service, index, path);
	}
}

void tally_agent_hops_look(struct tally_agent *agent)
{
	const struct tally_config_service *service;
	uint16_t index;

	if (agent->view.n_services < 2)
		return;
	service = &agent->view.services[agent->hops.next++ % agent->view.n_services];
	if (tally_agent_rules_index(agent, service->name, &index))
		return;
	for (size_t i = 0; i < service->match.ports.n && i < PORTS_LOOKED; i++)
		look_at_port(agent, service, index, service->match.ports.list[i]);
}

static bool calls(const struct tally_agent *agent, int caller, int called)
{
	uint64_t seen_s = agent->hops.seen_s[called][caller];

	return seen_s && seen_s + REMEMBERED_S > now_s();
}

uint32_t tally_agent_hops_count(const struct tally_agent *agent)
{
	uint32_t n = 0;

	for (int i = 0; i < TALLY_SERVICES; i++)
		for (int j = 0; j < TALLY_SERVICES; j++)
			n += calls(agent, i, j);
	return n;
}

json_t *tally_agent_hops_callers(const struct tally_agent *agent, const char *service)
{
	json_t *out = json_array();
	uint16_t index;

	if (tally_agent_rules_index(agent, service, &index))
		return out;
	for (int i = 0; i < TALLY_SERVICES; i++)
		if (calls(agent, i, index) && agent->rules.names[i])
			(void)!json_array_append_new(out, json_string(agent->rules.names[i]));
	return out;
}
