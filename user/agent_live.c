/* SPDX-License-Identifier: Apache-2.0 */
/* Answers of the control socket. Names come from the same resolver as in records. */
#include <arpa/inet.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <sys/statvfs.h>

#include "agent_parts.h"

static double seconds(uint64_t start_ns, uint64_t end_ns)
{
	return end_ns > start_ns ? (double)(end_ns - start_ns) / (double)TALLY_NS_PER_S : 0;
}

void tally_agent_live_put_who(struct tally_agent *agent, const struct tally_agent_sum *sum,
			      json_t *out)
{
	static const char *const attributions[] = {
#define TEXT(symbol, value, text) [value] = text,
		TALLY_ATTRIBUTIONS(TEXT)
	};
	struct tally_resolver resolver;
	struct tally_owner owner = {};
	uint64_t now_s = tally_clock_now_ns(agent->clock) / TALLY_NS_PER_S;

	tally_agent_rules_resolver(agent, &resolver);
	if (sum->who && resolver.owner(agent, sum->who, now_s, &owner))
		memset(&owner, 0, sizeof(owner));
	json_object_set_new(out, "customer_id",
			    owner.customer ? json_string(owner.customer) : json_null());
	json_object_set_new(out, "api_key_id",
			    owner.api_key ? json_string(owner.api_key) : json_null());
	json_object_set_new(out, "attribution",
			    json_string(sum->attribution < TALLY_ATTR_COUNT
						? attributions[sum->attribution]
						: "_unknown"));
}

void tally_agent_live_put_sums(const struct tally_agent_sum *sum, double period, json_t *out)
{
	static const char *const classes[] = { "none", "1xx", "2xx", "3xx", "4xx", "5xx" };
	json_t *by_class = json_object();

	for (int i = 0; i < 6; i++)
		if (sum->by_class[i])
			json_object_set_new(by_class, classes[i],
					    json_integer((json_int_t)sum->by_class[i]));
	json_object_set_new(out, "requests", json_integer((json_int_t)sum->row.requests));
	json_object_set_new(out, "incomplete", json_integer((json_int_t)sum->row.incomplete));
	json_object_set_new(out, "request_bytes", json_integer((json_int_t)sum->row.request_bytes));
	json_object_set_new(out, "response_bytes",
			    json_integer((json_int_t)sum->row.response_bytes));
	json_object_set_new(out, "duration_us",
			    json_integer((json_int_t)(sum->row.duration_ns / 1000)));
	json_object_set_new(out, "status_classes", by_class);
	json_object_set_new(
		out, "requests_per_s",
		json_real(period > 0 ? round((double)sum->row.requests / period * 1000) / 1000
				     : 0));
}

static json_t *usage_row(struct tally_agent *agent, const struct tally_agent_sum *sum,
			 double period)
{
	struct tally_resolver resolver;
	struct tally_terms terms = {};
	json_t *out = json_object();

	tally_agent_rules_resolver(agent, &resolver);
	if (resolver.terms(agent, &sum->key, &terms))
		memset(&terms, 0, sizeof(terms));
	json_object_set_new(out, "service",
			    json_string(terms.service ? terms.service : "_unknown"));
	json_object_set_new(out, "method", json_string(terms.method ? terms.method : "_unknown"));
	json_object_set_new(out, "route", json_string(terms.route ? terms.route : "_unknown"));
	tally_agent_live_put_who(agent, sum, out);
	tally_agent_live_put_sums(sum, period, out);
	return out;
}

static json_t *answer_top(struct tally_agent *agent)
{
	const struct tally_agent_sums *sums;
	json_t *out, *rows;
	double period;

	if (tally_agent_usage_now(agent, &sums))
		return NULL;
	period = seconds(sums->start_ns, sums->end_ns);
	out = json_object();
	rows = json_array();
	for (size_t i = 0; i < sums->n && i < 1000; i++)
		json_array_append_new(rows, usage_row(agent, &sums->items[i], period));
	json_object_set_new(out, "seconds", json_real(period));
	json_object_set_new(out, "epoch",
			    json_integer((json_int_t)tally_ledger_number(agent->ledger)));
	json_object_set_new(out, "rows_total", json_integer((json_int_t)sums->n));
	json_object_set_new(out, "requests_not_listed", json_integer((json_int_t)sums->left_out));
	json_object_set_new(out, "rows", rows);
	return out;
}

/* IPv4 mapped into IPv6 is shown as IPv4. */
static void peer_text(const struct tally_row *row, char out[INET6_ADDRSTRLEN])
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
	bool four = !memcmp(row->peer, mapped, sizeof(mapped));

	if (!inet_ntop(four ? AF_INET : AF_INET6, four ? row->peer + 12 : row->peer, out,
		       INET6_ADDRSTRLEN))
		strcpy(out, "?");
}

static json_t *connection_row(struct tally_agent *agent, const struct tally_agent_sum *sum,
			      double period)
{
	const char *name =
		sum->key.service < TALLY_SERVICES ? agent->rules.names[sum->key.service] : NULL;
	char peer[INET6_ADDRSTRLEN];
	json_t *out = json_object();

	peer_text(&sum->row, peer);
	json_object_set_new(out, "connection", json_integer((json_int_t)sum->key.conn));
	json_object_set_new(out, "peer", json_string(peer));
	json_object_set_new(out, "peer_port", json_integer(sum->row.peer_port));
	json_object_set_new(out, "service", json_string(name ? name : "_unknown"));
	json_object_set_new(out, "keys", json_integer(sum->keys + 1));
	tally_agent_live_put_who(agent, sum, out);
	tally_agent_live_put_sums(sum, period, out);
	return out;
}

static json_t *answer_connections(struct tally_agent *agent)
{
	_cleanup_(tally_agent_sums_done) struct tally_agent_sums sums = {};
	json_t *out, *rows;
	double period;

	if (tally_agent_usage_connections(agent, &sums))
		return NULL;
	period = seconds(sums.start_ns, sums.end_ns);
	out = json_object();
	rows = json_array();
	for (size_t i = 0; i < sums.n && i < 10000; i++)
		json_array_append_new(rows, connection_row(agent, &sums.items[i], period));
	json_object_set_new(out, "seconds", json_real(period));
	json_object_set_new(out, "rows_total", json_integer((json_int_t)sums.n));
	json_object_set_new(out, "rows", rows);
	return out;
}

/* ---- services ---- */

static json_t *ports_of(const struct tally_option_ports *ports)
{
	json_t *out = json_array();

	if (!ports->set) {
		json_decref(out);
		return json_string("of pods");
	}
	if (ports->all) {
		json_decref(out);
		return json_string("all");
	}
	for (size_t i = 0; i < ports->n; i++)
		json_array_append_new(out, json_integer(ports->list[i]));
	return out;
}

static bool in_pattern(const struct tally_agent *agent, const struct tally_config_match *match,
		       const char *path)
{
	if (match->cgroup)
		return tally_cgroup_matches(match->cgroup, path + strlen(agent->tags.mount));
	if (match->unit)
		return tally_cgroup_is_unit(match->unit, path + strlen(agent->tags.mount));
	return !strcmp(path, agent->tags.mount);
}

json_t *tally_agent_service_cgroups(const struct tally_agent *agent,
				    const struct tally_config_service *service)
{
	const struct tally_config_match *match = &service->match;
	json_t *out = json_array();

	if (match->executable) {
		json_decref(out);
		return tally_agent_exe_cgroups(agent, service->name);
	}
	if (match->pods.place.line) {
		json_decref(out);
		return tally_agent_pods_cgroups(agent, service->name);
	}
	for (size_t i = 0; i < agent->tags.cgroups.n; i++) {
		const char *path = agent->tags.cgroups.items[i].path;

		if (in_pattern(agent, match, path))
			json_array_append_new(out, json_string(path));
	}
	return out;
}

#define ALL_HOOKS ((1U << TALLY_HOOK_COUNT) - 1)

/* Hooks at this folder as it is now, or at one above it, which covers it. */
static uint32_t hooks_at(const struct tally_agent *agent, const char *path)
{
	size_t mount = strlen(agent->tags.mount);
	struct stat st;
	char at[PATH_MAX], *end;
	uint32_t hooks;

	if (snprintf(at, sizeof(at), "%s", path) >= (int)sizeof(at))
		return 0;
	for (;;) {
		if (stat(at, &st))
			return 0; /* it is gone; what is pinned for it is dead */
		hooks = tally_attach_hooks(agent->load, st.st_ino);
		end = strrchr(at, '/');
		if (hooks || !end || end < at + mount)
			return hooks;
		*end = 0;
	}
}

/* The hooks that all of its cgroups have. */
static uint32_t hooks_of(const struct tally_agent *agent, const json_t *cgroups)
{
	uint32_t common = json_array_size(cgroups) ? ALL_HOOKS : 0;
	const json_t *cgroup;
	size_t i;

	json_array_foreach(cgroups, i, cgroup)
		if (common)
			common &= hooks_at(agent, json_string_value(cgroup));
	return common;
}

static const char *why_none(const struct tally_config_match *match)
{
	if (match->executable)
		return access(match->executable, F_OK)
			       ? "that file is not there, and no process runs it"
			       : "no process runs that file, or it listens on none of its ports";
	if (match->pods.place.line)
		return "no pod of it runs on this node";
	return match->unit ? "its unit has no cgroup: it does not run"
			   : "no cgroup of that name is there";
}

/* NULL: there is none. */
static const struct tally_agent_trouble *trouble_of(const struct tally_agent *agent,
						    const struct tally_config_service *service)
{
	uint16_t index;

	if (tally_agent_rules_index(agent, service->name, &index))
		return NULL;
	return agent->tags.troubles[index].kind ? &agent->tags.troubles[index] : NULL;
}

const char *tally_agent_service_why_not(const struct tally_agent *agent,
					const struct tally_config_service *service)
{
	const struct tally_agent_trouble *trouble = trouble_of(agent, service);
	json_t *cgroups;
	bool none, whole;

	if (trouble)
		return trouble->text;
	cgroups = tally_agent_service_cgroups(agent, service);
	none = !json_array_size(cgroups);
	whole = hooks_of(agent, cgroups) == ALL_HOOKS;
	json_decref(cgroups);
	if (none)
		return why_none(&service->match);
	if (whole)
		return NULL;
	return agent->tags.failed || agent->tags.error
		       ? "the programs could not be attached; the log says why"
		       : "one of its cgroups went or came a moment ago";
}

bool tally_agent_service_is_partly(const struct tally_agent *agent,
				   const struct tally_config_service *service)
{
	json_t *cgroups;
	bool partly;

	if (!trouble_of(agent, service))
		return false;
	cgroups = tally_agent_service_cgroups(agent, service);
	partly = hooks_of(agent, cgroups) != 0;
	json_decref(cgroups);
	return partly;
}

bool tally_agent_service_is_idle(const struct tally_agent *agent,
				 const struct tally_config_service *service)
{
	json_t *cgroups;
	bool none;

	if (!service->match.pods.place.line || trouble_of(agent, service))
		return false;
	cgroups = tally_agent_service_cgroups(agent, service);
	none = !json_array_size(cgroups);
	json_decref(cgroups);
	return none;
}

void tally_agent_services_count(const struct tally_agent *agent, uint32_t *ret_wanted,
				uint32_t *ret_attached)
{
	*ret_wanted = *ret_attached = 0;
	for (size_t i = 0; i < agent->view.n_services; i++) {
		const struct tally_config_service *service = &agent->view.services[i];

		*ret_wanted += !tally_agent_service_is_idle(agent, service);
		*ret_attached += !tally_agent_service_why_not(agent, service);
	}
}

static void match_text(const struct tally_config_match *match, char *out, size_t size)
{
	if (match->cgroup)
		(void)snprintf(out, size, "cgroup %s", match->cgroup);
	else if (match->unit)
		(void)snprintf(out, size, "unit %s", match->unit);
	else if (match->executable)
		(void)snprintf(out, size, "executable %s", match->executable);
	else
		(void)snprintf(out, size, "%s", match->pods.place.line ? "pods" : "port alone");
}

static json_t *hook_names(const struct tally_agent *agent, const json_t *cgroups)
{
	uint32_t hooks = hooks_of(agent, cgroups);
	json_t *out = json_array();

	for (int hook = 0; hook < TALLY_HOOK_COUNT; hook++)
		if (hooks & 1U << hook)
			json_array_append_new(out, json_string(tally_load_hook_name(hook)));
	return out;
}

static json_t *service_row(struct tally_agent *agent, const struct tally_config_service *service,
			   const struct tally_frozen *open)
{
	const char *why = tally_agent_service_why_not(agent, service);
	struct tally_totals totals = {};
	json_t *out = json_object();
	uint64_t mptcp = 0;
	char match[512];
	uint16_t index;

	if (!tally_agent_rules_index(agent, service->name, &index)) {
		const struct tally_totals *a = &agent->counters.totals[index];
		const struct tally_totals *b = &open->totals[index];

		totals.seen = a->seen + b->seen;
		totals.connections = a->connections + b->connections;
		totals.attributed = a->attributed + b->attributed;
		totals.bytes[0] = a->bytes[0] + b->bytes[0];
		totals.bytes[1] = a->bytes[1] + b->bytes[1];
		mptcp = tally_agent_mptcp_bytes(a) + tally_agent_mptcp_bytes(b);
	}
	json_object_set_new(out, "service", json_string(service->name));
	json_object_set_new(out, "attached", json_boolean(!why));
	json_object_set_new(out, "partly",
			    json_boolean(tally_agent_service_is_partly(agent, service)));
	json_object_set_new(out, "why_not", why ? json_string(why) : json_null());
	json_object_set_new(out, "ports", ports_of(&service->match.ports));
	match_text(&service->match, match, sizeof(match));
	json_object_set_new(out, "matched_by", json_string(match));
	json_object_set_new(out, "cgroups", tally_agent_service_cgroups(agent, service));
	json_object_set_new(out, "hooks", hook_names(agent, json_object_get(out, "cgroups")));
	json_object_set_new(out, "called_by", tally_agent_hops_callers(agent, service->name));
	json_object_set_new(out, "routes", json_integer((json_int_t)service->n_routes));
	json_object_set_new(out, "connections", json_integer((json_int_t)totals.connections));
	json_object_set_new(out, "responses", json_integer((json_int_t)totals.seen));
	json_object_set_new(out, "attributed", json_integer((json_int_t)totals.attributed));
	json_object_set_new(out, "bytes_in", json_integer((json_int_t)totals.bytes[0]));
	json_object_set_new(out, "bytes_out", json_integer((json_int_t)totals.bytes[1]));
	json_object_set_new(out, "bytes_mptcp", json_integer((json_int_t)mptcp));
	return out;
}

json_t *tally_agent_live_services(struct tally_agent *agent)
{
	struct tally_frozen open = {};
	json_t *out, *rows;

	if (tally_ledger_peek_totals(agent->ledger, &open))
		return NULL;
	out = json_object();
	rows = json_array();
	for (size_t i = 0; i < agent->view.n_services; i++)
		json_array_append_new(rows, service_row(agent, &agent->view.services[i], &open));
	json_object_set_new(out, "rows", rows);
	json_object_set_new(out, "pods", tally_agent_pods_json(agent));
	tally_ledger_frozen_done(&open);
	return out;
}

/* ---- status ---- */

static json_t *spool_of(const struct tally_ship_status *s)
{
	return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:b}", "records",
			 (json_int_t)s->spool_records, "bytes", (json_int_t)s->spool_bytes,
			 "sealed_files", (json_int_t)s->sealed_files, "batch_files",
			 (json_int_t)s->batch_files, "quarantined_files",
			 (json_int_t)s->quarantined_files, "oldest", (json_int_t)s->oldest_s,
			 "records_sealed", (json_int_t)s->records_sealed, "records_acked",
			 (json_int_t)s->records_acked, "sealing_fails", s->sealing_fails);
}

static json_t *sinks_of(const struct tally_agent *agent)
{
	struct tally_ship_sink_status sink;
	json_t *out = json_array();

	for (size_t i = 0; !tally_ship_sink_status(agent->ship, i, &sink); i++)
		json_array_append_new(
			out, json_pack("{s:s,s:b,s:b,s:I,s:I,s:I,s:I,s:I}", "name", sink.name,
				       "required", sink.required, "connected", sink.connected,
				       "batch", (json_int_t)sink.acked.batch, "seq",
				       (json_int_t)sink.acked.seq, "failures",
				       (json_int_t)sink.failures, "doubts", (json_int_t)sink.doubts,
				       "last_ack", (json_int_t)sink.last_ack_s));
	return out;
}

static json_t *kernel_of(const struct tally_agent *agent)
{
	struct tally_keys_status keys;

	tally_keys_status(agent->keys, &keys);
	return json_pack("{s:I,s:I,s:I,s:b,s:b,s:I,s:I,s:I,s:I,s:f}", "epoch",
			 (json_int_t)tally_ledger_number(agent->ledger), "window_start",
			 (json_int_t)(tally_ledger_start_ns(agent->ledger) / TALLY_NS_PER_S),
			 "frozen", (json_int_t)tally_ledger_frozen_count(agent->ledger),
			 "pins_reused", agent->load->reused, "old_programs", agent->load->stale,
			 "keys", (json_int_t)keys.entries, "keys_capacity",
			 (json_int_t)keys.capacity, "candidates_held", (json_int_t)keys.held,
			 "rows_last_window", (json_int_t)agent->counters.rows_last, "swap_ms_max",
			 (double)agent->counters.swap_ns_max / 1e6);
}

json_t *tally_agent_live_status(struct tally_agent *agent)
{
	struct tally_ship_status ship;
	json_t *out = json_object();

	tally_ship_status(agent->ship, &ship);
	json_object_set_new(out, "ready", json_boolean(agent->ready && !agent->stopping));
	json_object_set_new(out, "version", json_string(TALLY_VERSION));
	json_object_set_new(out, "agent", json_string(ship.agent));
	json_object_set_new(out, "incarnation", json_integer(ship.incarnation));
	json_object_set_new(out, "pid", json_integer(getpid()));
	json_object_set_new(out, "uptime_s",
			    json_integer((json_int_t)((tally_util_mono_ns() - agent->started_ns) /
						      TALLY_NS_PER_S)));
	json_object_set_new(out, "config", json_string(agent->config_path));
	json_object_set_new(out, "config_ok", json_boolean(agent->counters.reload_ok));
	json_object_set_new(out, "services", json_integer((json_int_t)agent->view.n_services));
	json_object_set_new(out, "cgroups_attached", json_integer(agent->tags.attached));
	json_object_set_new(out, "cgroups_failed", json_integer(agent->tags.failed));
	json_object_set_new(out, "ruleset_generation", json_integer(agent->rules.generation));
	json_object_set_new(out, "windows", json_integer((json_int_t)agent->counters.windows));
	json_object_set_new(out, "held", json_integer((json_int_t)ship.held));
	json_object_set_new(out, "imbalance", json_integer((json_int_t)ship.imbalance));
	json_object_set_new(out, "kubernetes", tally_agent_pods_status(agent));
	json_object_set_new(out, "warnings", tally_agent_warnings(agent));
	json_object_set_new(out, "kernel", kernel_of(agent));
	json_object_set_new(out, "spool", spool_of(&ship));
	json_object_set_new(out, "sinks", sinks_of(agent));
	return out;
}

uint64_t tally_agent_disk_free(const struct tally_agent *agent)
{
	struct statvfs fs;

	return statvfs(agent->config->agent.state_dir, &fs) ? 0 : fs.f_bavail * fs.f_frsize;
}

char *tally_agent_live_answer(void *ctx, const char *request)
{
	static const struct {
		const char *request;
		json_t *(*answer)(struct tally_agent *agent);
	} answers[] = { { "status", tally_agent_live_status },
			{ "services", tally_agent_live_services },
			{ "top", answer_top },
			{ "connections", answer_connections } };
	char *text = NULL;
	json_t *out;

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(answers); i++) {
		if (strcmp(request, answers[i].request) != 0)
			continue;
		out = answers[i].answer(ctx);
		if (out)
			text = json_dumps(out, JSON_INDENT(1) | JSON_REAL_PRECISION(15));
		json_decref(out);
	}
	return text;
}
