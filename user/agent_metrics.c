/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counters come from closed windows, gauges from now. Every counter of a loss is there from the
 * start, at 0. No series per key, customer or route.
 */
#include "agent_parts.h"
#include "observe/process.h"
#include "observe/prom.h"

#define TEXT_ITEM(symbol, value, text) [value] = text,
static const char *const attribution_texts[] = { TALLY_ATTRIBUTIONS(TEXT_ITEM) };
static const char *const unparsed_texts[] = { TALLY_UNPARSED(TEXT_ITEM) };
static const char *const gap_texts[] = { TALLY_GAPS(TEXT_ITEM) };
static const char *const protocol_texts[] = { TALLY_PROTOCOLS(TEXT_ITEM) };

#define LABELS(...) ((const struct tally_prom_label[]){ __VA_ARGS__, { NULL, NULL } })

static void gauge(FILE *out, const char *name, const char *help, uint64_t value)
{
	tally_prom_family(out, name, "gauge", help);
	tally_prom_count(out, name, NULL, value);
}

static void counter(FILE *out, const char *name, const char *help, uint64_t value)
{
	tally_prom_family(out, name, "counter", help);
	tally_prom_count(out, name, NULL, value);
}

/* name{service, LABEL = texts[i]} for all services of now and before. */
static void per_service(const struct tally_agent *agent, FILE *out, const char *name,
			const char *label, const char *const *texts, size_t n,
			uint64_t (*value)(const struct tally_agent *agent, int service, size_t i))
{
	for (int service = 0; service < TALLY_SERVICES; service++) {
		const char *text = agent->rules.names[service];

		for (size_t i = 0; text && i < n; i++)
			tally_prom_count(out, name,
					 LABELS({ "service", text }, { label, texts[i] }),
					 value(agent, service, i));
	}
}

static uint64_t requests_of(const struct tally_agent *agent, int service, size_t protocol)
{
	return agent->counters.requests[service][protocol];
}

static uint64_t class_of(const struct tally_agent *agent, int service, size_t class)
{
	return agent->counters.classes[service][class];
}

static uint64_t bytes_of(const struct tally_agent *agent, int service, size_t direction)
{
	return agent->counters.totals[service].bytes[direction];
}

static void put_requests(const struct tally_agent *agent, FILE *out)
{
	static const char *const classes[] = { "none", "1xx", "2xx", "3xx", "4xx", "5xx" };
	static const char *const directions[] = { "in", "out" };

	tally_prom_family(out, "requests_total", "counter",
			  "Requests booked in closed windows, by service and protocol.");
	per_service(agent, out, "requests_total", "protocol", protocol_texts,
		    TALLY_ARRAY_SIZE(protocol_texts), requests_of);
	tally_prom_family(out, "responses_total", "counter",
			  "The same by class of status; none: no final response left the server.");
	per_service(agent, out, "responses_total", "class", classes, TALLY_ARRAY_SIZE(classes),
		    class_of);
	tally_prom_family(out, "bytes_total", "counter", "Stream bytes of metered connections.");
	per_service(agent, out, "bytes_total", "direction", directions,
		    TALLY_ARRAY_SIZE(directions), bytes_of);
	tally_prom_family(out, "exchange_seconds_total", "counter",
			  "Time from the first byte of requests to the last of their responses.");
	for (int i = 0; i < TALLY_SERVICES; i++)
		if (agent->rules.names[i])
			tally_prom_sample(out, "exchange_seconds_total",
					  LABELS({ "service", agent->rules.names[i] }),
					  (double)agent->counters.duration_ns[i] / 1e9);
}

static void sum_totals(const struct tally_agent *agent, struct tally_totals *ret_sum)
{
	__u64 *into = (__u64 *)ret_sum;

	*ret_sum = agent->counters.gone;
	for (int i = 0; i < TALLY_SERVICES; i++) {
		const __u64 *from = (const __u64 *)&agent->counters.totals[i];

		for (size_t w = 0; w < sizeof(*ret_sum) / sizeof(__u64); w++)
			into[w] += from[w];
	}
}

static void put_reasons(const struct tally_agent *agent, FILE *out)
{
	struct tally_totals sum;

	sum_totals(agent, &sum);
	tally_prom_family(out, "unattributed_requests_total", "counter",
			  "Answered requests without a key that could be charged.");
	for (int i = 1; i < TALLY_ATTR_COUNT; i++)
		tally_prom_count(out, "unattributed_requests_total",
				 LABELS({ "reason", attribution_texts[i] }), sum.unattributed[i]);
	tally_prom_family(out, "unparsed_bytes_total", "counter",
			  "Bytes that belong to no exchange.");
	for (int i = 0; i < TALLY_UNPARSED_COUNT; i++)
		tally_prom_count(out, "unparsed_bytes_total",
				 LABELS({ "reason", unparsed_texts[i] }),
				 sum.unparsed_bytes[0][i] + sum.unparsed_bytes[1][i]);
	tally_prom_family(out, "resyncs_total", "counter", "Events of the stream layer.");
	for (int i = 0; i < TALLY_GAP_COUNT; i++)
		tally_prom_count(out, "resyncs_total", LABELS({ "reason", gap_texts[i] }),
				 tally_totals_gap(&sum, i));
	tally_prom_family(out, "map_overflow_total", "counter", "Entries a full map refused.");
	tally_prom_count(out, "map_overflow_total", LABELS({ "map", "connection_rows" }),
			 sum.gaps[TALLY_GAP_ROW_FULL]);
	tally_prom_count(out, "map_overflow_total", LABELS({ "map", "rows" }),
			 sum.gaps[TALLY_GAP_AGG_FULL]);
	tally_prom_count(out, "map_overflow_total", LABELS({ "map", "dictionary" }),
			 sum.gaps[TALLY_GAP_DICTIONARY_FULL]);
	tally_prom_count(out, "map_overflow_total", LABELS({ "map", "candidates" }),
			 sum.gaps[TALLY_GAP_CANDIDATE_FULL]);
	counter(out, "aborted_requests_total", "Requests that got no final response.", sum.aborted);
	counter(out, "connections_total", "Connections of metered services.", sum.connections);
	counter(out, "uncatalogued_requests_total",
		"Requests attributed to a key that is not in the catalog.",
		agent->counters.uncatalogued);
}

static void put_maps(const struct tally_agent *agent, FILE *out)
{
	struct tally_keys_status keys;

	tally_keys_status(agent->keys, &keys);
	tally_prom_family(out, "map_entries", "gauge", "Entries in use; rows: in the last window.");
	tally_prom_count(out, "map_entries", LABELS({ "map", "dictionary" }), keys.entries);
	tally_prom_count(out, "map_entries", LABELS({ "map", "candidates" }), keys.held);
	tally_prom_count(out, "map_entries", LABELS({ "map", "scopes" }), agent->tags.scopes);
	tally_prom_count(out, "map_entries", LABELS({ "map", "connection_rows" }),
			 agent->counters.map_rows_last);
	tally_prom_family(out, "map_capacity", "gauge", "Room of a map, in entries.");
	tally_prom_count(out, "map_capacity", LABELS({ "map", "dictionary" }), keys.capacity);
	tally_prom_count(out, "map_capacity", LABELS({ "map", "candidates" }),
			 TALLY_CANDIDATES + TALLY_CANDIDATES_LONG);
	tally_prom_count(out, "map_capacity", LABELS({ "map", "scopes" }), TALLY_SCOPES_MAX);
	tally_prom_count(out, "map_capacity", LABELS({ "map", "connection_rows" }),
			 agent->load->connection_rows);
	counter(out, "keys_dropped_total", "Keys that made room for others in the dictionary.",
		keys.dropped);
}

static void put_books(const struct tally_agent *agent, FILE *out)
{
	const struct tally_agent_counters *c = &agent->counters;

	gauge(out, "epochs_frozen", "Closed windows still in the kernel.",
	      tally_ledger_frozen_count(agent->ledger));
	counter(out, "windows_total", "Windows sealed.", c->windows);
	gauge(out, "window_end_timestamp_seconds", "End of the last window sealed; 0: none yet.",
	      agent->live.end_ns / TALLY_NS_PER_S);
	tally_prom_family(out, "book_errors_total", "counter", "Windows that could not be closed.");
	tally_prom_count(out, "book_errors_total", LABELS({ "step", "swap" }), c->swap_errors);
	tally_prom_count(out, "book_errors_total", LABELS({ "step", "seal" }), c->seal_errors);
	tally_prom_family(out, "swap_seconds_max", "gauge", "Longest closing of a window.");
	tally_prom_sample(out, "swap_seconds_max", NULL, (double)c->swap_ns_max / 1e9);
	counter(out, "ledger_rows_total", "Rows read from closed windows.", c->rows);
	tally_prom_family(out, "book_seconds_total", "counter", "Time spent on closed windows.");
	tally_prom_sample(out, "book_seconds_total", LABELS({ "step", "drain" }),
			  (double)c->drain_ns / 1e9);
	tally_prom_sample(out, "book_seconds_total", LABELS({ "step", "seal" }),
			  (double)c->seal_ns / 1e9);
}

static void put_attach_errors(const struct tally_agent *agent, FILE *out)
{
	static const char *const reasons[] = { "cgroup", "full", "deep", "taken" };

	tally_prom_family(
		out, "attach_errors_total", "counter",
		"Cgroups that a look left unattached (cgroup), services that one left unattached in part (full, deep, taken), and looks that failed (look).");
	for (int i = 0; i < TALLY_AGENT_TROUBLES; i++)
		tally_prom_count(out, "attach_errors_total", LABELS({ "reason", reasons[i] }),
				 agent->tags.errors[i]);
	tally_prom_count(out, "attach_errors_total", LABELS({ "reason", "look" }),
			 agent->tags.failures);
}

static void put_config(const struct tally_agent *agent, FILE *out)
{
	const struct tally_agent_counters *c = &agent->counters;
	uint32_t wanted, attached;

	tally_agent_services_count(agent, &wanted, &attached);
	gauge(out, "services_configured",
	      "Services in the config, but those of pods of which none is on this node.", wanted);
	gauge(out, "services_attached", "Of these, metered now.", attached);
	gauge(out, "metered_hops", "Pairs of services of which one calls the other on this host.",
	      tally_agent_hops_count(agent));
	gauge(out, "cgroups_attached", "Cgroups with our programs.", agent->tags.attached);
	gauge(out, "cgroups_watched",
	      "1: the kernel tells of cgroups that come; 0: some are found within a second only.",
	      tally_agent_tags_watched(agent));
	put_attach_errors(agent, out);
	gauge(out, "config_last_reload_successful", "1: the config file is the one in force.",
	      c->reload_ok);
	gauge(out, "config_restart_pending",
	      "1: of the config file something comes into force by a restart only.",
	      c->restart_for != NULL);
	counter(out, "config_reloads_total", "Attempts to reload the config.", c->reloads);
	counter(out, "config_reload_errors_total", "Of these, refused.", c->reload_errors);
	gauge(out, "catalog_last_reload_successful", "1: the key catalog is the one in force.",
	      c->catalog_ok);
	gauge(out, "catalog_keys", "Keys in the catalog.", tally_catalog_count(agent->catalog));
	gauge(out, "programs_old",
	      "1: the kernel refused this version's programs; older ones count.",
	      agent->load->stale);
}

static void put_spool(const struct tally_agent *agent, FILE *out)
{
	struct tally_ship_status s;
	uint64_t now_s = tally_util_real_ns() / TALLY_NS_PER_S;

	tally_ship_status(agent->ship, &s);
	counter(out, "records_sealed_total", "Records made durable.", s.records_sealed);
	counter(out, "records_acked_total", "Records every required sink has.", s.records_acked);
	counter(out, "connection_records_sealed_total",
		"Records of connections made durable (records.connections).", s.connections_sealed);
	counter(out, "connections_shed_total",
		"Windows sealed without records of connections, for want of room.",
		s.connections_shed);
	gauge(out, "ledger_imbalance_records",
	      "Difference in held_before + seen = attributed + unattributed + held_after. Must be 0.",
	      s.imbalance);
	gauge(out, "held_requests", "Answered exchanges that are not booked yet.",
	      s.held > 0 ? (uint64_t)s.held : 0);
	tally_prom_family(out, "holes_total", "counter", "Periods that nobody metered, by cause.");
	tally_prom_count(out, "holes_total", LABELS({ "cause", "stopped" }), s.holes_stopped);
	tally_prom_count(out, "holes_total", LABELS({ "cause", "lost" }), s.holes_lost);
	gauge(out, "spool_records", "Records on disk, not yet acknowledged.", s.spool_records);
	gauge(out, "spool_bytes", "Bytes of the spool.", s.spool_bytes);
	gauge(out, "spool_capacity_bytes", "Bytes the spool may take; 0: the disk.",
	      agent->config->agent.limits.spool_bytes);
	gauge(out, "spool_disk_free_bytes", "Bytes left on the spool's file system.",
	      tally_agent_disk_free(agent));
	gauge(out, "spool_oldest_seconds", "Age of the oldest record on disk.",
	      s.oldest_s && s.oldest_s < now_s ? now_s - s.oldest_s : 0);
	gauge(out, "spool_quarantined_files", "Damaged or foreign files kept aside.",
	      s.quarantined_files);
	gauge(out, "sealing_fails", "1: the last window could not be made durable.",
	      s.sealing_fails);
}

static void put_sinks(const struct tally_agent *agent, FILE *out)
{
	struct tally_ship_sink_status sink;

	tally_prom_family(out, "sink_connected", "gauge", "1: the sink answers.");
	for (size_t i = 0; !tally_ship_sink_status(agent->ship, i, &sink); i++)
		tally_prom_count(out, "sink_connected", LABELS({ "sink", sink.name }),
				 sink.connected);
	tally_prom_family(out, "kafka_errors_total", "counter", "Failed attempts of a sink.");
	for (size_t i = 0; !tally_ship_sink_status(agent->ship, i, &sink); i++) {
		tally_prom_count(out, "kafka_errors_total",
				 LABELS({ "sink", sink.name }, { "kind", "failed" }),
				 sink.failures);
		tally_prom_count(out, "kafka_errors_total",
				 LABELS({ "sink", sink.name }, { "kind", "doubt" }), sink.doubts);
	}
	tally_prom_family(out, "kafka_last_ack_timestamp_seconds", "gauge",
			  "When a sink last confirmed.");
	for (size_t i = 0; !tally_ship_sink_status(agent->ship, i, &sink); i++)
		tally_prom_count(out, "kafka_last_ack_timestamp_seconds",
				 LABELS({ "sink", sink.name }), sink.last_ack_s);
}

/* Under the names that exporters of all kinds have agreed on, without our prefix. */
static void put_process(FILE *out)
{
	static const struct {
		const char *name, *type, *help;
	} families[] = {
		{ "process_cpu_seconds_total", "counter", "CPU time of the agent." },
		{ "process_resident_memory_bytes", "gauge", "Resident memory of the agent." },
		{ "process_virtual_memory_bytes", "gauge", "Address space of the agent." },
		{ "process_open_fds", "gauge", "Open file descriptors." },
		{ "process_max_fds", "gauge", "Limit of file descriptors." },
		{ "process_start_time_seconds", "gauge", "Start of the agent, UTC." },
	};
	double values[TALLY_ARRAY_SIZE(families)];
	struct tally_process process;

	tally_process_read(&process);
	values[0] = process.cpu_seconds;
	values[1] = (double)process.resident_bytes;
	values[2] = (double)process.virtual_bytes;
	values[3] = process.open_fds;
	values[4] = (double)process.max_fds;
	values[5] = process.start_seconds;
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(families); i++)
		(void)fprintf(out, "# HELP %s %s\n# TYPE %s %s\n%s %.15g\n", families[i].name,
			      families[i].help, families[i].name, families[i].type,
			      families[i].name, values[i]);
	gauge(out, "heap_bytes", "Heap in use.", process.heap_bytes);
}

static void put_programs(const struct tally_agent *agent, FILE *out)
{
	uint64_t runs[TALLY_HOOK_COUNT], ns[TALLY_HOOK_COUNT];

	for (int i = 0; i < TALLY_HOOK_COUNT; i++)
		tally_load_cost(agent->load, i, &runs[i], &ns[i]);
	tally_prom_family(out, "prog_run_seconds_total", "counter",
			  "Time in our programs; 0 while kernel.bpf_stats_enabled is 0.");
	for (int i = 0; i < TALLY_HOOK_COUNT; i++)
		tally_prom_sample(out, "prog_run_seconds_total",
				  LABELS({ "prog", tally_load_prog_name(i) }), (double)ns[i] / 1e9);
	tally_prom_family(out, "prog_runs_total", "counter", "Runs of our programs, likewise.");
	for (int i = 0; i < TALLY_HOOK_COUNT; i++)
		tally_prom_count(out, "prog_runs_total",
				 LABELS({ "prog", tally_load_prog_name(i) }), runs[i]);
	gauge(out, "map_memory_bytes", "Kernel memory of the maps, epochs not included.",
	      tally_load_memory(agent->load));
}

/* All zero where no pods are watched. */
static void put_kubernetes(const struct tally_agent *agent, FILE *out)
{
	struct tally_kubernetes_status s = {};

	if (agent->pods.watch)
		tally_kubernetes_watch_status(agent->pods.watch, &s);
	tally_prom_family(out, "kubernetes_requests_total", "counter",
			  "Requests to the Kubernetes API server.");
	tally_prom_count(out, "kubernetes_requests_total", LABELS({ "verb", "list" }), s.lists);
	tally_prom_count(out, "kubernetes_requests_total", LABELS({ "verb", "watch" }), s.watches);
	tally_prom_family(out, "kubernetes_errors_total", "counter",
			  "Requests to it that failed, or were answered wrongly.");
	for (int i = 0; i < TALLY_KUBERNETES_ERROR_COUNT; i++)
		tally_prom_count(out, "kubernetes_errors_total",
				 LABELS({ "kind", tally_kubernetes_watch_error(i) }), s.errors[i]);
	counter(out, "kubernetes_events_total", "Pods that came, changed or went.", s.events);
	gauge(out, "kubernetes_watching", "1: the API server tells of changes.", s.watching);
	gauge(out, "kubernetes_last_answer_timestamp_seconds", "Its newest good answer.",
	      s.synced_s);
	tally_prom_family(out, "kubernetes_pods", "gauge",
			  "Pods that opted in, by what became of it.");
	for (int i = 0; i < TALLY_KUBERNETES_VERDICT_COUNT; i++)
		tally_prom_count(out, "kubernetes_pods",
				 LABELS({ "state", tally_kubernetes_pod_verdict(i) }),
				 agent->pods.verdicts[i]);
	counter(out, "kubernetes_pods_refused_total", "Pods beyond the agent's cap.",
		agent->pods.refused);
}

char *tally_agent_metrics(const struct tally_agent *agent)
{
	char *text = NULL;
	size_t bytes;
	FILE *out = open_memstream(&text, &bytes);

	if (!out)
		return NULL;
	tally_prom_family(out, "build_info", "gauge", "Always 1; labels say what runs.");
	tally_prom_count(out, "build_info", LABELS({ "version", TALLY_VERSION }), 1);
	put_requests(agent, out);
	put_reasons(agent, out);
	put_maps(agent, out);
	put_programs(agent, out);
	put_books(agent, out);
	put_config(agent, out);
	put_spool(agent, out);
	put_sinks(agent, out);
	put_kubernetes(agent, out);
	put_process(out);
	if (fclose(out)) {
		free(text);
		return NULL;
	}
	return text;
}
