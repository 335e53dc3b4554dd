/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The figures of the status page. Counters are those of /metrics: of closed windows. Rates are over the
 * last window and the open one. Lists are the largest few: how many there are stands beside them.
 */
#include <inttypes.h>
#include <math.h>

#include "agent_parts.h"
#include "observe/process.h"

#define TOP 12
#define KEYS_NAMED 2000 /* whose customers are added up; the others are told as a number */
#define SECONDS_SENT 15
#define WINDOWS_SENT 4

static const char *const classes[] = { "none", "1xx", "2xx", "3xx", "4xx", "5xx" };
#define TEXT_ITEM(symbol, value, text) [value] = text,
static const char *const attributions[] = { TALLY_ATTRIBUTIONS(TEXT_ITEM) };
static const char *const unparsed[] = { TALLY_UNPARSED(TEXT_ITEM) };
static const char *const gaps[] = { TALLY_GAPS(TEXT_ITEM) };

static void put_int(json_t *out, const char *name, uint64_t value)
{
	(void)!json_object_set_new(out, name, json_integer((json_int_t)value)); /* missing, then */
}

static void put(json_t *out, const char *name, json_t *value)
{
	(void)!json_object_set_new(out, name, value); /* likewise */
}

/* ---- history ---- */

/* Columns of the samples: services that the config has. */
static size_t columns(const struct tally_agent *agent, uint16_t ret_columns[TALLY_SERVICES])
{
	size_t n = 0;

	for (size_t i = 0; i < agent->view.n_services; i++)
		if (!tally_agent_rules_index(agent, agent->view.services[i].name, &ret_columns[n]))
			n++;
	return n;
}

/* Three decimals are enough, and short. */
static json_t *rate_json(double rate)
{
	return json_real(round(rate * 1000) / 1000);
}

/* The last `want` samples: [[rate of each column], ...], oldest first. */
static json_t *samples(const struct tally_agent *agent, uint64_t want)
{
	const struct tally_agent_live *live = &agent->live;
	uint64_t n = TALLY_MIN(live->second, TALLY_MIN(want, (uint64_t)TALLY_AGENT_SECONDS));
	uint16_t column[TALLY_SERVICES];
	size_t n_columns = columns(agent, column);
	json_t *out = json_array();

	for (uint64_t i = live->second - n; i < live->second; i++) {
		json_t *sample = json_array();

		for (size_t c = 0; c < n_columns; c++)
			(void)!json_array_append_new(
				sample,
				rate_json(live->seconds[i % TALLY_AGENT_SECONDS][column[c]]));
		(void)!json_array_append_new(out, sample);
	}
	return out;
}

static json_t *sums_by(const char *const *names, const uint64_t *values, size_t n)
{
	json_t *out = json_object();

	for (size_t i = 0; i < n; i++)
		put_int(out, names[i], values[i]);
	return out;
}

static json_t *windows(const struct tally_agent *agent, uint64_t want)
{
	const struct tally_agent_live *live = &agent->live;
	uint64_t n = TALLY_MIN(live->window, TALLY_MIN(want, (uint64_t)TALLY_AGENT_WINDOWS));
	json_t *out = json_array();

	for (uint64_t i = live->window - n; i < live->window; i++) {
		const struct tally_agent_window *w = &live->windows[i % TALLY_AGENT_WINDOWS];

		(void)!json_array_append_new(
			out, json_pack("{s:I,s:I,s:I,s:o,s:I,s:I,s:I,s:I}", "number", (json_int_t)i,
				       "start", (json_int_t)w->start_s, "end", (json_int_t)w->end_s,
				       "classes", sums_by(classes, w->classes, TALLY_AGENT_CLASSES),
				       "unattributed", (json_int_t)w->unattributed, "bytes_in",
				       (json_int_t)w->bytes[0], "bytes_out",
				       (json_int_t)w->bytes[1], "rows", (json_int_t)w->rows));
	}
	return out;
}

static void put_history(const struct tally_agent *agent, json_t *out, uint64_t n_seconds,
			uint64_t n_windows)
{
	uint16_t column[TALLY_SERVICES];
	size_t n = columns(agent, column);
	json_t *names = json_array();

	for (size_t i = 0; i < n; i++)
		(void)!json_array_append_new(names, json_string(agent->rules.names[column[i]]));
	put(out, "columns", names);
	put_int(out, "second", agent->live.second);
	put(out, "seconds", samples(agent, n_seconds));
	put(out, "windows", windows(agent, n_windows));
}

/* ---- counters, as in /metrics ---- */

static void sum_counters(const struct tally_agent *agent, struct tally_totals *ret_totals,
			 uint64_t ret_classes[TALLY_AGENT_CLASSES], uint64_t *ret_requests)
{
	const struct tally_agent_counters *counters = &agent->counters;
	__u64 *into = (__u64 *)ret_totals; /* all of them are */

	memset(ret_totals, 0, sizeof(*ret_totals));
	memset(ret_classes, 0, TALLY_AGENT_CLASSES * sizeof(*ret_classes));
	*ret_requests = 0;
	for (int i = 0; i < TALLY_SERVICES; i++) {
		const __u64 *from = (const __u64 *)&counters->totals[i];

		for (size_t w = 0; w < sizeof(*ret_totals) / sizeof(__u64); w++)
			into[w] += from[w];
		for (int c = 0; c < TALLY_AGENT_CLASSES; c++)
			ret_classes[c] += counters->classes[i][c];
		for (int p = 0; p < TALLY_PROTO_COUNT; p++)
			*ret_requests += counters->requests[i][p];
	}
}

static json_t *counters_of(const struct tally_agent *agent)
{
	uint64_t by_class[TALLY_AGENT_CLASSES], requests, bytes[TALLY_UNPARSED_COUNT];
	uint64_t by_gap[TALLY_GAP_COUNT];
	struct tally_totals totals;
	json_t *out = json_object();

	sum_counters(agent, &totals, by_class, &requests);
	for (int i = 0; i < TALLY_UNPARSED_COUNT; i++)
		bytes[i] = totals.unparsed_bytes[0][i] + totals.unparsed_bytes[1][i];
	for (int i = 0; i < TALLY_GAP_COUNT; i++)
		by_gap[i] = tally_totals_gap(&totals, i);
	put_int(out, "requests", requests);
	put_int(out, "seen", totals.seen);
	put_int(out, "attributed", totals.attributed);
	put_int(out, "aborted", totals.aborted);
	put_int(out, "connections", totals.connections);
	put_int(out, "bytes_in", totals.bytes[0]);
	put_int(out, "bytes_out", totals.bytes[1]);
	put_int(out, "uncatalogued", agent->counters.uncatalogued);
	put_int(out, "windows", agent->counters.windows);
	put(out, "classes", sums_by(classes, by_class, TALLY_AGENT_CLASSES));
	put(out, "unattributed",
	    sums_by(attributions + 1, (const uint64_t *)totals.unattributed + 1,
		    TALLY_ATTR_COUNT - 1));
	put(out, "unparsed", sums_by(unparsed, bytes, TALLY_UNPARSED_COUNT));
	put(out, "gaps", sums_by(gaps, by_gap, TALLY_GAP_COUNT));
	return out;
}

/* ---- rates ---- */

static double period_of(const struct tally_agent_sums *sums)
{
	return sums->end_ns > sums->start_ns ? (double)(sums->end_ns - sums->start_ns) / 1e9 : 0;
}

static json_t *keys_of(struct tally_agent *agent, const struct tally_agent_sums *keys)
{
	json_t *out = json_array();

	for (size_t i = 0; i < keys->n && i < TOP; i++) {
		json_t *row = json_object();

		tally_agent_live_put_who(agent, &keys->items[i], row);
		tally_agent_live_put_sums(&keys->items[i], period_of(keys), row);
		(void)!json_array_append_new(out, row);
	}
	return out;
}

struct customer {
	char *name; /* "" : none */
	struct tally_agent_sum sum;
	uint32_t keys;
};

static void customers_done(struct customer *customers, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(customers[i].name);
	free(customers);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct customer *)a)->name, ((const struct customer *)b)->name);
}

static int by_requests(const void *a, const void *b)
{
	uint64_t x = ((const struct customer *)a)->sum.row.requests;
	uint64_t y = ((const struct customer *)b)->sum.row.requests;

	return (x < y) - (x > y);
}

static void add_customer(struct customer *into, const struct customer *from)
{
	into->sum.row.requests += from->sum.row.requests;
	into->sum.row.incomplete += from->sum.row.incomplete;
	into->sum.row.request_bytes += from->sum.row.request_bytes;
	into->sum.row.response_bytes += from->sum.row.response_bytes;
	into->sum.row.duration_ns += from->sum.row.duration_ns;
	for (int c = 0; c < TALLY_AGENT_CLASSES; c++)
		into->sum.by_class[c] += from->sum.by_class[c];
	into->keys += from->keys;
}

/* Keys of one customer become one; the number of customers is returned. */
static size_t merge_customers(struct customer *customers, size_t n)
{
	size_t kept = 0;

	qsort(customers, n, sizeof(*customers), by_name);
	for (size_t i = 0; i < n; i++) {
		if (kept && !strcmp(customers[kept - 1].name, customers[i].name)) {
			add_customer(&customers[kept - 1], &customers[i]);
			free(customers[i].name);
		} else {
			customers[kept++] = customers[i];
		}
	}
	qsort(customers, kept, sizeof(*customers), by_requests);
	return kept;
}

static size_t name_customers(struct tally_agent *agent, const struct tally_agent_sums *keys,
			     struct customer *customers)
{
	uint64_t now_s = tally_clock_now_ns(agent->clock) / TALLY_NS_PER_S;
	struct tally_resolver resolver;
	size_t n = 0;

	tally_agent_rules_resolver(agent, &resolver);
	for (size_t i = 0; i < keys->n && i < KEYS_NAMED; i++) {
		const struct tally_agent_sum *sum = &keys->items[i];
		struct tally_owner owner = {};

		if (sum->who && resolver.owner(agent, sum->who, now_s, &owner))
			memset(&owner, 0, sizeof(owner));
		customers[n] = (struct customer){ strdup(owner.customer ? owner.customer : ""),
						  *sum, sum->who != 0 };
		n += customers[n].name != NULL;
	}
	return n;
}

static void put_customers(struct tally_agent *agent, const struct tally_agent_sums *keys,
			  json_t *out)
{
	struct customer *customers = calloc(KEYS_NAMED, sizeof(*customers));
	json_t *rows = json_array();
	size_t n, none = 0;

	if (!customers)
		return;
	n = merge_customers(customers, name_customers(agent, keys, customers));
	for (size_t i = 0; i < n && i < TOP; i++) {
		const char *name = customers[i].name;
		json_t *row = json_object();

		put(row, "customer_id", *name ? json_string(name) : json_null());
		put_int(row, "keys", customers[i].keys);
		tally_agent_live_put_sums(&customers[i].sum, period_of(keys), row);
		(void)!json_array_append_new(rows, row);
	}
	put(out, "customers", rows);
	put_int(out, "customers_total", n);
	for (size_t i = 0; i < n; i++)
		none += !*customers[i].name;
	put_int(out, "customers_active", n - none);
	customers_done(customers, n);
}

static void put_routes(struct tally_agent *agent, const struct tally_agent_sums *usage, json_t *out)
{
	_cleanup_(tally_agent_sums_done) struct tally_agent_sums sums = {};
	struct tally_resolver resolver;
	json_t *rows = json_array();

	put(out, "routes", rows);
	if (tally_agent_sums_fold(usage, tally_agent_by_route, &sums))
		return;
	put_int(out, "routes_total", sums.n);
	tally_agent_rules_resolver(agent, &resolver);
	for (size_t i = 0; i < sums.n && i < TOP; i++) {
		struct tally_terms terms = {};
		json_t *row;

		if (resolver.terms(agent, &sums.items[i].key, &terms))
			continue;
		row = json_pack("{s:s,s:s,s:s}", "service", terms.service, "method", terms.method,
				"route", terms.route);
		tally_agent_live_put_sums(&sums.items[i], period_of(usage), row);
		(void)!json_array_append_new(rows, row);
	}
}

/* The rates of a service stand beside what `tallyd services` says of it. */
static void put_services(struct tally_agent *agent, const struct tally_agent_sums *usage,
			 json_t *out)
{
	_cleanup_(tally_agent_sums_done) struct tally_agent_sums sums = {};
	json_t *all = tally_agent_live_services(agent), *rows = json_object_get(all, "rows"), *row;
	uint16_t index;
	size_t i;

	if (tally_agent_sums_fold(usage, tally_agent_by_service, &sums))
		sums.n = 0;
	json_array_foreach(rows, i, row) {
		const struct tally_agent_sum none = {}, *sum = &none;

		if (tally_agent_rules_index(agent, agent->view.services[i].name, &index))
			continue;
		for (size_t s = 0; s < sums.n; s++)
			sum = sums.items[s].key.service == index ? &sums.items[s] : sum;
		tally_agent_live_put_sums(sum, period_of(usage), row);
	}
	put(out, "services", json_incref(rows));
	json_decref(all);
}

/* Sums that are of a key. */
static uint64_t active(const struct tally_agent_sums *keys)
{
	uint64_t n = 0;

	for (size_t i = 0; i < keys->n; i++)
		n += keys->items[i].who != 0;
	return n;
}

static void put_rates(struct tally_agent *agent, json_t *out)
{
	_cleanup_(tally_agent_sums_done) struct tally_agent_sums keys = {};
	const struct tally_agent_sums *usage;
	uint64_t requests = 0;

	if (tally_agent_usage_now(agent, &usage) ||
	    tally_agent_sums_fold(usage, tally_agent_by_key, &keys))
		return;
	for (size_t i = 0; i < usage->n; i++)
		requests += usage->items[i].row.requests;
	put(out, "rate_seconds", json_real(period_of(usage)));
	put_int(out, "rate_requests", requests + usage->left_out);
	put(out, "keys", keys_of(agent, &keys));
	put_int(out, "keys_total", keys.n);
	put_int(out, "keys_active", active(&keys));
	put_customers(agent, &keys, out);
	put_routes(agent, usage, out);
	put_services(agent, usage, out);
}

/* ---- the whole ---- */

static json_t *maps_of(const struct tally_agent *agent)
{
	struct tally_keys_status keys;

	tally_keys_status(agent->keys, &keys);
	return json_pack("[{s:s,s:I,s:I},{s:s,s:I,s:I},{s:s,s:I,s:I},{s:s,s:I,s:I}]", "name",
			 "Connection rows", "entries", (json_int_t)agent->counters.map_rows_last,
			 "capacity", (json_int_t)agent->load->connection_rows, "name", "Known keys",
			 "entries", (json_int_t)keys.entries, "capacity", (json_int_t)keys.capacity,
			 "name", "Keys awaiting an answer", "entries", (json_int_t)keys.held,
			 "capacity", (json_int_t)(TALLY_CANDIDATES + TALLY_CANDIDATES_LONG), "name",
			 "Cgroup and port rules", "entries", (json_int_t)agent->tags.scopes,
			 "capacity", (json_int_t)TALLY_SCOPES_MAX);
}

static json_t *programs_of(const struct tally_agent *agent)
{
	uint64_t runs, ns, all_runs = 0, all_ns = 0;

	for (int i = 0; i < TALLY_HOOK_COUNT; i++) {
		tally_load_cost(agent->load, i, &runs, &ns);
		all_runs += runs;
		all_ns += ns;
	}
	return json_pack("{s:I,s:I}", "runs", (json_int_t)all_runs, "ns", (json_int_t)all_ns);
}

static json_t *process_of(const struct tally_agent *agent)
{
	struct tally_process process;

	tally_process_read(&process);
	return json_pack("{s:f,s:I,s:I}", "cpu_seconds", process.cpu_seconds, "resident_bytes",
			 (json_int_t)process.resident_bytes, "map_bytes",
			 (json_int_t)tally_load_memory(agent->load));
}

static json_t *whole(struct tally_agent *agent)
{
	json_t *out = tally_agent_live_status(agent);
	char host[HOST_NAME_MAX + 1] = "";

	(void)gethostname(host, sizeof(host) - 1); /* empty, then */
	put(out, "host", json_string(host));
	put(out, "time", json_real((double)tally_util_real_ns() / 1e9));
	put_int(out, "window_seconds", agent->config->agent.window_ns / TALLY_NS_PER_S);
	put_int(out, "spool_capacity_bytes", agent->config->agent.limits.spool_bytes);
	put_int(out, "spool_free_bytes", tally_agent_disk_free(agent));
	put(out, "counters", counters_of(agent));
	put(out, "maps", maps_of(agent));
	put(out, "programs", programs_of(agent));
	put(out, "process", process_of(agent));
	put_history(agent, out, SECONDS_SENT, WINDOWS_SENT);
	put_rates(agent, out);
	return out;
}

static char *dump(json_t *json)
{
	char *text = json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(15));

	json_decref(json);
	return text;
}

char *tally_agent_page_live(struct tally_agent *agent)
{
	struct tally_agent_live *live = &agent->live;
	uint64_t now = tally_util_mono_ns();

	if (!live->page || now - live->page_at_ns >= TALLY_NS_PER_S / 2) {
		free(live->page);
		live->page = dump(whole(agent));
		live->page_at_ns = now;
	}
	return live->page ? strdup(live->page) : NULL;
}

char *tally_agent_page_history(const struct tally_agent *agent)
{
	json_t *out = json_object();

	put_history(agent, out, TALLY_AGENT_SECONDS, TALLY_AGENT_WINDOWS);
	return dump(out);
}

void tally_agent_page_close(struct tally_agent *agent)
{
	free(agent->live.page);
	agent->live.page = NULL;
}
