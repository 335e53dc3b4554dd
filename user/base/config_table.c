// SPDX-License-Identifier: Apache-2.0
/*
 * The options of the configuration, section by section, in the manual's order. A member added to a
 * struct of config.h needs one line here, and nothing else.
 */
#include "base/config.h"
#include "tally/limits.h"
#include "tally/maps.h"

#define PORTS_MAX 256
#define HOUR_NS (3600 * TALLY_NS_PER_S)

#define TABLE(name, title_text, type)                           \
	static const struct tally_option_table name##_table = { \
		.title = title_text,                            \
		.options = name##_options,                      \
		.n_options = TALLY_ARRAY_SIZE(name##_options),  \
		.bytes = sizeof(struct type),                   \
		.place = offsetof(struct type, place),          \
	}

#define AT(type, member) .offset = offsetof(struct type, member)
/* A list's length stands right behind its pointer: option.h. */
#define AT_LIST(type, member)                                                                    \
	.offset = offsetof(struct type, member) +                                                \
		  0 * sizeof(char[offsetof(struct type, n_##member) ==                           \
						  offsetof(struct type, member) + sizeof(void *) \
					  ? 1                                                    \
					  : -1])

static const struct tally_option key_options[] = {
	{ "header", TALLY_OPTION_TEXT, AT(tally_config_key, header), .max = TALLY_HEADER_NAME,
	  .help = "Request header whose value is the key. Names are compared without case." },
	{ "scheme", TALLY_OPTION_TEXT, AT(tally_config_key, scheme), .max = TALLY_SCHEME - 1,
	  .help = "With `header`: the authentication scheme before the key, like `Bearer`. With `Basic` the key is the user part." },
	{ "query", TALLY_OPTION_TEXT, AT(tally_config_key, query), .max = 32,
	  .help = "Query parameter whose value is the key; case-sensitive, taken as it stands in the URL." },
	{ "response_header", TALLY_OPTION_TEXT, AT(tally_config_key, response_header),
	  .max = TALLY_HEADER_NAME,
	  .help = "Header of the *response* whose value names the customer, for services that authenticate by session or rotating token. The service must strip it from what clients could make it echo." },
};
TABLE(key, "Key source", tally_config_key);

static const char *const auth_words[] = { "key", "none", NULL };
static const char *const truncated_words[] = { "billable", "unbillable", NULL };

static const struct tally_option route_options[] = {
	{ "match", TALLY_OPTION_TEXT, AT(tally_config_route, match), TALLY_OPTION_REQUIRED,
	  .max = 1024,
	  .help = "`[METHOD] TEMPLATE`. A template is a path whose segments are literal, `{name}` for exactly one segment that is not empty, or, at the end only, `**` for any number of segments. The most specific template wins: segment by segment from the left, literal before `{name}` before `**`; then one with a method before one without. `OPTIONS *` is a route of its own." },
	{ "credits", TALLY_OPTION_DECIMAL_TEXT, AT(tally_config_route, credits), .fallback = "0",
	  .help = "Credits that one billable request costs; up to 9 decimals." },
	{ "billable", TALLY_OPTION_BOOLS, AT_LIST(tally_config_route, billable),
	  .help = "Which answers are charged, by status (`\"404\": true`) or class (`\"4xx\": true`); a status wins over its class. By default 101, 2xx and 3xx are." },
	{ "health", TALLY_OPTION_BOOL, AT(tally_config_route, health), .fallback = "false",
	  .help = "Health checks: counted, never charged." },
	{ "auth", TALLY_OPTION_ENUM, AT(tally_config_route, auth), .fallback = "key",
	  .words = auth_words,
	  .help = "`none`: the service does not check keys here, so an unknown key seen here is not believed." },
	{ "truncated", TALLY_OPTION_ENUM, AT(tally_config_route, truncated), .fallback = "billable",
	  .words = truncated_words,
	  .help = "Whether a response that the client cut off is charged." },
};
TABLE(route, "Route", tally_config_route);

static const struct tally_option pods_options[] = {
	{ "namespace", TALLY_OPTION_TEXT, AT(tally_config_pods, namespace), .max = 63,
	  .help = "Only pods of this namespace. Without it, whoever may make pods anywhere can call theirs by the service's name." },
	{ "labels", TALLY_OPTION_TEXTS, AT_LIST(tally_config_pods, labels), .max = 16,
	  .help = "Only pods that carry all of these labels. Without any, those that name the service by the annotation `tallyd.io/service`, else by the label `app.kubernetes.io/name`." },
};
TABLE(pods, "Pods", tally_config_pods);

static const struct tally_option match_options[] = {
	{ "ports", TALLY_OPTION_PORTS, AT(tally_config_match, ports), .max = PORTS_MAX,
	  .help = "Local TCP ports, a list or one; or `all`, together with `cgroup`, `unit`, `executable` or `pods`. Required; only with `pods` they may be left to the pod's annotation `tallyd.io/ports`." },
	{ "cgroup", TALLY_OPTION_TEXT, AT(tally_config_match, cgroup), .max = TALLY_CONFIG_GLOB,
	  .help = "Only sockets of cgroups whose path matches, component by component: `/system.slice/geo*.service`; `**` stands for any number of components. A backslash stands for itself; `[*]` is an asterisk." },
	{ "unit", TALLY_OPTION_TEXT, AT(tally_config_match, unit), .max = TALLY_CONFIG_GLOB,
	  .help = "Only sockets of this systemd unit, as `systemctl` names it; `*`, `?` and `[...]` are globs. It is one of the system's: its cgroup lies below slices alone, not below a user's manager or a container; name such by `cgroup`." },
	{ "executable", TALLY_OPTION_TEXT, AT(tally_config_match, executable), .max = 1024,
	  .help = "Only sockets of processes that run this file (or what this symbolic link leads to, now or when they were found): those of their cgroups, on the ports. With `ports: all` in a cgroup shared with other programs, the ports that such a process listens on, which needs CAP_DAC_READ_SEARCH, too. Needs CAP_SYS_PTRACE, and a restart for the first such service." },
	{ "pods", TALLY_OPTION_SECTION, AT(tally_config_match, pods), TALLY_OPTION_OPTIONAL,
	  .table = &pods_table,
	  .help = "Only sockets of these Kubernetes pods, of those that opted in; see `kubernetes`." },
};
TABLE(match, "Match", tally_config_match);

static const struct tally_option anonymous_options[] = {
	{ "billable", TALLY_OPTION_BOOL, AT(tally_config_anonymous, billable), .fallback = "false",
	  .help = "Whether requests without a key carry units (under no customer)." },
};
TABLE(anonymous, "Anonymous requests", tally_config_anonymous);

static const struct tally_option paths_options[] = {
	{ "merge_slashes", TALLY_OPTION_BOOL, AT(tally_config_paths, merge_slashes),
	  .fallback = "true",
	  .help = "`//` in a path is one slash, as nginx (`merge_slashes`) and Apache (`MergeSlashes`) read it by default; `/a//../b` is then `/b`. `false` where the server takes `//` for another path, as Node, Express and nginx with `merge_slashes off` do, or redirects it, as Go's ServeMux and Flask do: else that redirect is charged as the route is, by its `billable`." },
	{ "decode_slash", TALLY_OPTION_BOOL, AT(tally_config_paths, decode_slash),
	  .fallback = "true",
	  .help = "`%2F` in a path is a slash, as nginx reads it where it chooses the `location`, and Flask, and others behind WSGI. `false` where it is part of a segment, as for Go's ServeMux and Express, or refused, as by Apache (`AllowEncodedSlashes`)." },
};
TABLE(paths, "Paths", tally_config_paths);

static const char *const tainted_words[] = { "unattributed", "owner", NULL };

static const struct tally_option service_options[] = {
	{ "name", TALLY_OPTION_TEXT, AT(tally_config_service, name), TALLY_OPTION_REQUIRED,
	  .max = 64,
	  .help = "Unique; letters, digits, `.`, `-` and `_`. It stands in every record." },
	{ "match", TALLY_OPTION_SECTION, AT(tally_config_service, match), TALLY_OPTION_REQUIRED,
	  .table = &match_table,
	  .help = "Whose connections are metered: those accepted on these ports. Where services overlap, cgroup, unit or pods win over executable, and executable over port alone; a tie is an error, or, where pods and a cgroup meet, the latter's." },
	{ "key", TALLY_OPTION_LIST, AT_LIST(tally_config_service, key), .max = 10,
	  .table = &key_table,
	  .help = "Where the API key stands, in this order; the first that is there wins. Each entry is `header` (perhaps with `scheme`), `query` or `response_header`. Without any, all requests are anonymous." },
	{ "routes", TALLY_OPTION_LIST, AT_LIST(tally_config_service, routes),
	  .max = TALLY_ROUTES - 1, .table = &route_table,
	  .help = "Endpoints told apart. What matches none is `_other`, without credits." },
	{ "paths", TALLY_OPTION_SECTION, AT(tally_config_service, paths), .table = &paths_table,
	  .help = "Which spellings of a path the server takes for the same. Wrong here, a client has a route's work for the price of another, or of none, by writing its path otherwise. By default as nginx does: what another server refuses is free in any case." },
	{ "tainted", TALLY_OPTION_ENUM, AT(tally_config_service, tainted),
	  .fallback = "unattributed", .words = tainted_words,
	  .help = "What becomes of a request whose key servers may understand in different ways, and of all that follow one whose end they may: `unattributed` counts and does not charge them; `owner` charges the last clean key of the connection, or, before there is one, that of the request. `owner` is right where clients connect directly, and wrong behind a proxy that shares connections." },
	{ "anonymous", TALLY_OPTION_SECTION, AT(tally_config_service, anonymous),
	  .table = &anonymous_table, .help = "Requests without a key, or with an empty one." },
};
TABLE(service, "Service", tally_config_service);

static const struct tally_option topics_options[] = {
	{ "records", TALLY_OPTION_TEXT, AT(tally_config_topics, records), .max = 249,
	  .fallback = "usage.records.v1",
	  .help = "Usage records: the ledger. Two sinks on the same brokers need two." },
	{ "control", TALLY_OPTION_TEXT, AT(tally_config_topics, control), .max = 249,
	  .fallback = "usage.control.v1", .help = "Control totals, also when idle." },
	{ "progress", TALLY_OPTION_TEXT, AT(tally_config_topics, progress), .max = 249,
	  .fallback = "usage.progress.v1",
	  .help = "Checkpoints, by agent and sink; compacted. Sinks may share it." },
	{ "connections", TALLY_OPTION_TEXT, AT(tally_config_topics, connections), .max = 249,
	  .fallback = "usage.connections.v1",
	  .help = "Records of connections, with `records.connections: on`; elsewhere the topic is not looked for." },
};
TABLE(topics, "Topics", tally_config_topics);

static const char *const format_words[] = { "cloudevents", "openmeter", NULL };
static const char *const delivery_words[] = { "transactional", "idempotent", NULL };

/* Of librdkafka's settings */
static const char *const secret_endings[] = { ".password", ".secret", "ssl.key.pem", NULL };

static const struct tally_option kafka_options[] = {
	{ "brokers", TALLY_OPTION_TEXT, AT(tally_config_kafka, brokers), TALLY_OPTION_REQUIRED,
	  .max = 4096, .help = "HOST:PORT, several parted by commas." },
	{ "topics", TALLY_OPTION_SECTION, AT(tally_config_kafka, topics), .table = &topics_table,
	  .help = "Names of the topics." },
	{ "format", TALLY_OPTION_ENUM, AT(tally_config_kafka, format), .fallback = "cloudevents",
	  .words = format_words,
	  .help = "`cloudevents`: structured CloudEvents 1.0 in JSON; `openmeter`: what OpenMeter's own collector writes." },
	{ "namespace", TALLY_OPTION_TEXT, AT(tally_config_kafka, namespace), .max = 249,
	  .fallback = "default", .help = "OpenMeter's namespace, with `format: openmeter`." },
	{ "delivery", TALLY_OPTION_ENUM, AT(tally_config_kafka, delivery),
	  .fallback = "transactional", .words = delivery_words,
	  .help = "`transactional`: records, control record and checkpoint appear together or not at all; `idempotent`: for brokers without transactions." },
	{ "create_topics", TALLY_OPTION_BOOL, AT(tally_config_kafka, create_topics),
	  .fallback = "true", .help = "Make topics that do not exist." },
	{ "partitions", TALLY_OPTION_COUNT, AT(tally_config_kafka, partitions), .fallback = "6",
	  .min = 1, .max = 10000, .help = "Partitions of a topic that is made." },
	{ "replication", TALLY_OPTION_COUNT, AT(tally_config_kafka, replication), .fallback = "0",
	  .max = 100,
	  .help = "Replication factor of a topic that is made; 0: the broker's default." },
	{ "transaction_timeout", TALLY_OPTION_DURATION,
	  AT(tally_config_kafka, transaction_timeout_ns), .fallback = "30s", .min = TALLY_NS_PER_S,
	  .max = 900 * TALLY_NS_PER_S,
	  .help = "After it the broker aborts a transaction left open." },
	{ "properties", TALLY_OPTION_TEXTS, AT_LIST(tally_config_kafka, properties),
	  TALLY_OPTION_SECRET, .words = secret_endings,
	  .help = "Settings passed to librdkafka as they are, like `security.protocol`, `sasl.username`, `sasl.password`, `ssl.ca.location`." },
	{ "required", TALLY_OPTION_BOOL, AT(tally_config_kafka, required), .fallback = "true",
	  .help = "Keep records in the spool until this sink has them." },
};
TABLE(kafka, "Kafka", tally_config_kafka);

static const struct tally_option file_options[] = {
	{ "path", TALLY_OPTION_TEXT, AT(tally_config_file, path), TALLY_OPTION_REQUIRED,
	  .max = 4000,
	  .help = "File that gets one record a line (NDJSON); an absolute path. Beside it a hidden file says how far it is complete. It grows without end: rotate it by renaming, as the package's `/etc/logrotate.d/tallyd` does for `/var/lib/tallyd/usage.ndjson`; a new one is begun. The unit may write below `/var/lib/tallyd` alone: another folder needs `ReadWritePaths=` in a drop-in." },
	{ "required", TALLY_OPTION_BOOL, AT(tally_config_file, required), .fallback = "true",
	  .help = "Keep records in the spool until this sink has them." },
};
TABLE(file, "File", tally_config_file);

static const struct tally_option stdout_options[] = {
	{ "required", TALLY_OPTION_BOOL, AT(tally_config_stdout, required), .fallback = "true",
	  .help = "Keep records in the spool until this sink has them." },
};
TABLE(stdout, "Standard output", tally_config_stdout);

static const struct tally_option sink_options[] = {
	{ "name", TALLY_OPTION_TEXT, AT(tally_config_sink, name), .max = 64,
	  .help = "Unique; by default the kind of sink. The sink's checkpoint is kept under this name: a sink of another name begins with what the spool still has, and may write again, under the same ids, what the one before it has written." },
	{ "kafka", TALLY_OPTION_SECTION, AT(tally_config_sink, kafka), TALLY_OPTION_OPTIONAL,
	  .table = &kafka_table, .help = "Apache Kafka, or what speaks its protocol." },
	{ "file", TALLY_OPTION_SECTION, AT(tally_config_sink, file), TALLY_OPTION_OPTIONAL,
	  .table = &file_table, .help = "A local file." },
	{ "stdout", TALLY_OPTION_SECTION, AT(tally_config_sink, out), TALLY_OPTION_OPTIONAL,
	  .table = &stdout_table, .help = "Standard output, one record a line." },
};
const struct tally_option_table tally_config_sink_table = {
	.title = "Sink",
	.one_of = true,
	.options = sink_options,
	.n_options = TALLY_ARRAY_SIZE(sink_options),
	.bytes = sizeof(struct tally_config_sink),
	.place = offsetof(struct tally_config_sink, place),
};

static const char *const level_words[] = { "error", "warning", "notice", "info", "debug", NULL };
static const char *const log_format_words[] = { "auto", "text", "json", NULL };

static const struct tally_option log_options[] = {
	{ "level", TALLY_OPTION_ENUM, AT(tally_config_log, level), .fallback = "info",
	  .words = level_words, .help = "The least important level that is written." },
	{ "format", TALLY_OPTION_ENUM, AT(tally_config_log, format), .fallback = "auto",
	  .words = log_format_words,
	  .help = "`auto` adds the journal's priorities when stderr is the journal, else a time." },
};
TABLE(log, "Log", tally_config_log);

static const struct tally_option limits_options[] = {
	{ "connection_rows", TALLY_OPTION_COUNT, AT(tally_config_limits, connection_rows),
	  .fallback = "262144", .min = 1024, .max = 16777216,
	  .help = "Ledger rows with their connection, per window, beside a first one for each of 16,384 connections. Beyond it, usage is added up without the connection." },
	{ "rows", TALLY_OPTION_COUNT, AT(tally_config_limits, rows), .fallback = "16384",
	  .min = 1024, .max = 16777216,
	  .help = "Ledger rows without connection, per window, preallocated. Beyond it, usage is counted as `unattributed:overflow`." },
	{ "keys", TALLY_OPTION_COUNT, AT(tally_config_limits, keys), .fallback = "65536",
	  .min = 1024, .max = 16777216,
	  .help = "Keys known at a time. Beyond it, usage of new keys is counted as `unattributed:dictionary_full`; beyond half of it, those that the catalog does not have make room." },
	{ "spool_bytes", TALLY_OPTION_COUNT, AT(tally_config_limits, spool_bytes), .fallback = "0",
	  .help = "Bytes that the spool may take; 0: all there is. When it is full, windows stay open and grow; nothing is lost." },
};
TABLE(limits, "Limits", tally_config_limits);

static const char *const page_words[] = { "local", "any", "off", NULL };

static const struct tally_option metrics_options[] = {
	{ "listen", TALLY_OPTION_TEXT, AT(tally_config_metrics, listen), .max = 256,
	  .fallback = "127.0.0.1:9464",
	  .help = "ADDRESS:PORT of `/metrics`, `/healthz`, `/readyz` and the status page; `[::]:PORT`: all addresses, of IPv4 and of IPv6, or of the one that the host has; `off`: none." },
	{ "page", TALLY_OPTION_ENUM, AT(tally_config_metrics, page), .fallback = "local",
	  .words = page_words,
	  .help = "Who may see the status page (`/`), which shows the usage of customers and keys by their ids: `local`, clients on this host alone; `any`, all who reach `listen`; `off`, nobody." },
};
TABLE(metrics, "Metrics", tally_config_metrics);

static const struct tally_option agent_options[] = {
	{ "window", TALLY_OPTION_DURATION, AT(tally_config_agent, window_ns), .fallback = "10s",
	  .min = TALLY_NS_PER_S, .max = HOUR_NS,
	  .help = "Length of a usage window; whole seconds that divide an hour." },
	{ "state_dir", TALLY_OPTION_TEXT, AT(tally_config_agent, state_dir), .max = 4000,
	  .fallback = "/var/lib/tallyd",
	  .help = "Spool, checkpoints and identity of the agent. The unit may write below `/var/lib/tallyd` alone: another folder needs `ReadWritePaths=` in a drop-in." },
	{ "runtime_dir", TALLY_OPTION_TEXT, AT(tally_config_agent, runtime_dir), .max = 90,
	  .fallback = "/run/tallyd", .help = "Folder of the control socket." },
	{ "pin_dir", TALLY_OPTION_TEXT, AT(tally_config_agent, pin_dir), .max = 200,
	  .fallback = TALLY_PIN_DIR,
	  .help = "Folder in a bpf file system for what counts on while no agent runs." },
	{ "log", TALLY_OPTION_SECTION, AT(tally_config_agent, log), .table = &log_table,
	  .help = "Logging, to stderr." },
	{ "limits", TALLY_OPTION_SECTION, AT(tally_config_agent, limits), .table = &limits_table,
	  .help = "Sizes of maps and of the spool." },
	{ "fleet_secret", TALLY_OPTION_TEXT, AT(tally_config_agent, fleet_secret),
	  TALLY_OPTION_SECRET | TALLY_OPTION_NO_LITERAL,
	  .help = "Secret that ids of keys outside of the catalog are made with (`kfp_...`); the same on all nodes, at least 16 bytes. Without it each agent makes its own, and such an id differs from node to node." },
	{ "metrics", TALLY_OPTION_SECTION, AT(tally_config_agent, metrics), .table = &metrics_table,
	  .help = "Prometheus metrics and health." },
};
TABLE(agent, "Agent", tally_config_agent);

static const struct tally_option unlisted_options[] = {
	{ "ports", TALLY_OPTION_PORTS, AT(tally_config_unlisted, ports), .max = PORTS_MAX,
	  .help = "Ports of pods without the annotation `tallyd.io/ports`." },
	{ "key", TALLY_OPTION_LIST, AT_LIST(tally_config_unlisted, key), .max = 10,
	  .table = &key_table,
	  .help = "Key sources of pods without the annotation `tallyd.io/key`." },
	{ "routes", TALLY_OPTION_LIST, AT_LIST(tally_config_unlisted, routes),
	  .max = TALLY_ROUTES - 1, .table = &route_table, .help = "As of a service." },
	{ "paths", TALLY_OPTION_SECTION, AT(tally_config_unlisted, paths), .table = &paths_table,
	  .help = "As of a service." },
	{ "tainted", TALLY_OPTION_ENUM, AT(tally_config_unlisted, tainted),
	  .fallback = "unattributed", .words = tainted_words, .help = "As of a service." },
	{ "anonymous", TALLY_OPTION_SECTION, AT(tally_config_unlisted, anonymous),
	  .table = &anonymous_table, .help = "As of a service." },
};
TABLE(unlisted, "Unlisted pods", tally_config_unlisted);

static const struct tally_option dimensions_options[] = {
	{ "namespace", TALLY_OPTION_BOOL, AT(tally_config_dimensions, namespace),
	  .fallback = "false", .help = "The pod's namespace." },
	{ "workload", TALLY_OPTION_BOOL, AT(tally_config_dimensions, workload), .fallback = "false",
	  .help = "What made the pod, like `Deployment/geo-api`." },
	{ "pod", TALLY_OPTION_BOOL, AT(tally_config_dimensions, pod), .fallback = "false",
	  .help = "The pod's name: as many more records as there are pods." },
	{ "node", TALLY_OPTION_BOOL, AT(tally_config_dimensions, node), .fallback = "false",
	  .help = "The node's name." },
};
TABLE(dimensions, "Dimensions", tally_config_dimensions);

#define SERVICE_ACCOUNT "/var/run/secrets/kubernetes.io/serviceaccount/"

static const struct tally_option kubernetes_options[] = {
	{ "api", TALLY_OPTION_TEXT, AT(tally_config_kubernetes, api), .max = 1024,
	  .help = "URL of the API server; by default what Kubernetes tells a pod (KUBERNETES_SERVICE_HOST and _PORT)." },
	{ "token_file", TALLY_OPTION_TEXT, AT(tally_config_kubernetes, token_file), .max = 4000,
	  .fallback = SERVICE_ACCOUNT "token",
	  .help = "Token of the service account; read again for each request." },
	{ "ca_file", TALLY_OPTION_TEXT, AT(tally_config_kubernetes, ca_file), .max = 4000,
	  .fallback = SERVICE_ACCOUNT "ca.crt", .help = "Who may vouch for the API server." },
	{ "node", TALLY_OPTION_TEXT, AT(tally_config_kubernetes, node), .max = 253,
	  .help = "Name of this node; by default NODE_NAME of the environment, else the host's name." },
	{ "selector", TALLY_OPTION_TEXT, AT(tally_config_kubernetes, selector), .max = 1024,
	  .fallback = "tallyd.io/meter=enabled",
	  .help = "Label selector of the pods that opted in." },
	{ "cgroup_root", TALLY_OPTION_TEXT, AT(tally_config_kubernetes, cgroup_root),
	  .max = TALLY_CONFIG_GLOB, .fallback = "/",
	  .help = "Below which cgroup the kubelet keeps its pods (its `cgroupRoot`)." },
	{ "linger", TALLY_OPTION_DURATION, AT(tally_config_kubernetes, linger_ns),
	  .fallback = "30s", .max = HOUR_NS,
	  .help = "How long a pod that is gone from the API, or no longer selected, is metered on while its cgroup stands: what it answers while stopping counts, too." },
	{ "unlisted", TALLY_OPTION_SECTION, AT(tally_config_kubernetes, unlisted),
	  TALLY_OPTION_OPTIONAL, .table = &unlisted_table,
	  .help = "Pods that opted in and that no service matches: each becomes part of a service NAMESPACE/NAME of its own, by its annotations and these rules. Without this section they are not metered." },
	{ "dimensions", TALLY_OPTION_SECTION, AT(tally_config_kubernetes, dimensions),
	  .table = &dimensions_table,
	  .help = "What of a pod its records say, and are told apart by." },
};
TABLE(kubernetes, "Kubernetes", tally_config_kubernetes);

static const struct tally_option keys_options[] = {
	{ "file", TALLY_OPTION_TEXT, AT(tally_config_keys, file), .max = 4000,
	  .help = "Key catalog (YAML or JSON): `keys: [ {id, customer, sha256, mode, valid_from, valid_to, billable} ]`. Read again when it has changed and rests for a second. Replace it by renaming another onto it: of one that is written in place, and stops halfway, each part up to some line may be a good catalog." },
};
TABLE(keys, "Keys", tally_config_keys);

static const struct tally_option prefix_options[] = {
	{ "ipv4", TALLY_OPTION_COUNT, AT(tally_config_prefix, ipv4), .fallback = "32", .max = 32,
	  .help = "Bits of an IPv4 address that are kept, like 24; 0: the address is left out." },
	{ "ipv6", TALLY_OPTION_COUNT, AT(tally_config_prefix, ipv6), .fallback = "128", .max = 128,
	  .help = "Bits of an IPv6 address that are kept, like 48; 0: the address is left out." },
};
TABLE(prefix, "Prefix of a peer", tally_config_prefix);

static const char *const connections_words[] = { "off", "on", NULL };

static const struct tally_option records_options[] = {
	{ "connections", TALLY_OPTION_ENUM, AT(tally_config_records, connections),
	  .fallback = "off", .words = connections_words,
	  .help = "`on`: a record for each connection beside the usage record it is a part of, with the address of its client, for disputes. It goes to a topic of its own, and as another type of line to files. It carries no units: nothing is charged by it." },
	{ "peer_prefix", TALLY_OPTION_SECTION, AT(tally_config_records, peer_prefix),
	  .table = &prefix_table,
	  .help = "How much of a client's address is kept; the rest is cut off before anything is written to disk. The client's port is kept only with a whole address." },
};
TABLE(records, "Records", tally_config_records);

static const struct tally_option config_options[] = {
	{ "agent", TALLY_OPTION_SECTION, AT(tally_config, agent), .table = &agent_table,
	  .help = "The agent itself." },
	{ "services", TALLY_OPTION_LIST, AT_LIST(tally_config, services), .max = TALLY_SERVICES,
	  .table = &service_table, .help = "What is metered." },
	{ "kubernetes", TALLY_OPTION_SECTION, AT(tally_config, kubernetes), TALLY_OPTION_OPTIONAL,
	  .table = &kubernetes_table,
	  .help = "Pods of this node, watched for at the API server. Without this section none are." },
	{ "keys", TALLY_OPTION_SECTION, AT(tally_config, keys), .table = &keys_table,
	  .help = "Whose keys are whose." },
	{ "records", TALLY_OPTION_SECTION, AT(tally_config, records), .table = &records_table,
	  .help = "What is recorded beside usage." },
	{ "sinks", TALLY_OPTION_LIST, AT_LIST(tally_config, sinks), TALLY_OPTION_REQUIRED, .min = 1,
	  .max = 16, .table = &tally_config_sink_table,
	  .help = "Where usage records go. Each entry is one of `kafka`, `file`, `stdout`." },
};

const struct tally_option_table tally_config_table = {
	.title = "Configuration of tallyd",
	.options = config_options,
	.n_options = TALLY_ARRAY_SIZE(config_options),
	.bytes = sizeof(struct tally_config),
	.place = offsetof(struct tally_config, place),
};
