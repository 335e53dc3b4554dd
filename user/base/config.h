/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration file: what an operator writes, checked as a whole.
 *
 * Invariants of a config that loaded: C1 names of services and of sinks are unique; C2 no two
 * services have the same precedence and can match the same socket; C3 every service names its ports
 * (or `all`; one matched by pods may leave them to the pods) and at most one of cgroup, unit,
 * executable, pods; C4 the window divides an hour; C5 secrets are expanded. Routes are checked by
 * identify/rules.h, which also compiles them.
 */
#ifndef TALLY_BASE_CONFIG_H
#define TALLY_BASE_CONFIG_H

#include "base/log.h"
#include "base/option.h"

#define TALLY_CONFIG_PATH "/etc/tallyd/tallyd.yaml"
#define TALLY_CONFIG_GLOB 256 /* longest pattern of a cgroup */

/* One place a key may stand in: exactly one of the three. */
struct tally_config_key {
	struct tally_place place;
	char *header;
	char *scheme; /* of header: Bearer, Basic (its user part), ... */
	char *query;
	char *response_header; /* names the customer in the response */
};

enum tally_config_auth { TALLY_CONFIG_AUTH_KEY, TALLY_CONFIG_AUTH_NONE };
enum tally_config_truncated { TALLY_CONFIG_TRUNCATED_BILLABLE, TALLY_CONFIG_TRUNCATED_UNBILLABLE };

struct tally_config_route {
	struct tally_place place;
	char *match;
	uint64_t credits;		    /* 10^-9 */
	struct tally_option_pair *billable; /* "4xx", "404" -> flag */
	size_t n_billable;
	bool health;
	unsigned int auth;	/* enum tally_config_auth */
	unsigned int truncated; /* enum tally_config_truncated */
};

/* Which pods of this node, of those that opted in. */
struct tally_config_pods {
	struct tally_place place; /* line 0: not matched by pods */
	char *namespace;
	struct tally_option_pair *labels; /* all of them */
	size_t n_labels;
};

struct tally_config_match {
	struct tally_place place;
	struct tally_option_ports ports;
	char *cgroup; /* glob over the path below the cgroup root: /system.slice/geo*.service */
	char *unit;   /* systemd unit */
	char *executable;
	struct tally_config_pods pods;
};

enum tally_config_tainted { TALLY_CONFIG_TAINTED_UNATTRIBUTED, TALLY_CONFIG_TAINTED_OWNER };

struct tally_config_anonymous {
	struct tally_place place;
	bool billable;
};

/* How the server reads slashes in a path. */
struct tally_config_paths {
	struct tally_place place;
	bool merge_slashes, decode_slash;
};

struct tally_config_service {
	struct tally_place place;
	char *name;
	struct tally_config_match match;
	struct tally_config_key *key;
	size_t n_key;
	struct tally_config_route *routes;
	size_t n_routes;
	struct tally_config_paths paths;
	unsigned int tainted; /* enum tally_config_tainted */
	struct tally_config_anonymous anonymous;
};

enum tally_config_format { TALLY_CONFIG_CLOUDEVENTS, TALLY_CONFIG_OPENMETER };
enum tally_config_delivery { TALLY_CONFIG_TRANSACTIONAL, TALLY_CONFIG_IDEMPOTENT };

struct tally_config_topics {
	struct tally_place place;
	char *records, *control, *progress, *connections;
};

struct tally_config_kafka {
	struct tally_place place; /* line 0: this sink is not kafka */
	char *brokers;
	struct tally_config_topics topics;
	unsigned int format;   /* enum tally_config_format */
	char *namespace;       /* openmeter */
	unsigned int delivery; /* enum tally_config_delivery */
	bool create_topics;
	uint64_t partitions, replication;
	uint64_t transaction_timeout_ns;
	struct tally_option_pair *properties; /* for librdkafka; secrets expanded */
	size_t n_properties;
	bool required;
};

struct tally_config_file {
	struct tally_place place;
	char *path;
	bool required;
};

struct tally_config_stdout {
	struct tally_place place;
	bool required;
};

/* Exactly one of the three has a place. */
struct tally_config_sink {
	struct tally_place place;
	char *name; /* unique; default: its kind */
	struct tally_config_kafka kafka;
	struct tally_config_file file;
	struct tally_config_stdout out;
};

struct tally_config_log {
	struct tally_place place;
	unsigned int level;  /* index: error, warning, notice, info, debug */
	unsigned int format; /* enum tally_log_format */
};

struct tally_config_limits {
	struct tally_place place;
	uint64_t connection_rows, rows, keys;
	uint64_t spool_bytes;
};

enum tally_config_page { TALLY_PAGE_LOCAL, TALLY_PAGE_ANY, TALLY_PAGE_OFF };

struct tally_config_metrics {
	struct tally_place place;
	char *listen;	   /* ADDRESS:PORT, or "off" */
	unsigned int page; /* enum tally_config_page */
};

struct tally_config_agent {
	struct tally_place place;
	uint64_t window_ns;
	char *state_dir, *runtime_dir, *pin_dir;
	struct tally_config_log log;
	struct tally_config_limits limits;
	char *fleet_secret; /* expanded; NULL: the agent makes its own */
	struct tally_config_metrics metrics;
};

/* Of pods that no service matches. */
struct tally_config_unlisted {
	struct tally_place place; /* line 0: they are not metered */
	struct tally_option_ports ports;
	struct tally_config_key *key;
	size_t n_key;
	struct tally_config_route *routes;
	size_t n_routes;
	struct tally_config_paths paths;
	unsigned int tainted; /* enum tally_config_tainted */
	struct tally_config_anonymous anonymous;
};

/* What of a pod stands in records. */
struct tally_config_dimensions {
	struct tally_place place;
	bool namespace, workload, pod, node;
};

struct tally_config_kubernetes {
	struct tally_place place; /* line 0: no pods are looked for */
	char *api;		  /* NULL: as the kubelet says in the environment */
	char *token_file, *ca_file;
	char *node; /* NULL: NODE_NAME of the environment, else the host's name */
	char *selector;
	char *cgroup_root;
	uint64_t linger_ns;
	struct tally_config_unlisted unlisted;
	struct tally_config_dimensions dimensions;
};

/* How much of a client's address is told, in bits; 0: nothing. */
struct tally_config_prefix {
	struct tally_place place;
	uint64_t ipv4, ipv6;
};

enum tally_config_connections { TALLY_CONFIG_CONNECTIONS_OFF, TALLY_CONFIG_CONNECTIONS_ON };

struct tally_config_records {
	struct tally_place place;
	unsigned int connections; /* enum tally_config_connections */
	struct tally_config_prefix peer_prefix;
};

struct tally_config_keys {
	struct tally_place place;
	char *file; /* catalog; NULL: none */
};

struct tally_config {
	struct tally_place place;
	char *path;
	struct tally_config_agent agent;
	struct tally_config_service *services;
	size_t n_services;
	struct tally_config_kubernetes kubernetes;
	struct tally_config_keys keys;
	struct tally_config_records records;
	struct tally_config_sink *sinks;
	size_t n_sinks;
};

enum tally_config_flag {
	/* For commands at a prompt: ${cred:NAME}, which only a unit has, is a warning. */
	TALLY_CONFIG_CHECK_ONLY = TALLY_OPTION_NO_UNIT,
	/* Secrets are not read at all. */
	TALLY_CONFIG_NO_SECRETS = TALLY_OPTION_KEEP_REFERENCES,
	/* With -EINVAL and -ENOKEY, too, *ret_config is given, with holes: for further checks, and for unhooking. */
	TALLY_CONFIG_FAULTY_TOO = 4,
};

/*
 * Read, decode, check; flags: enum tally_config_flag. 0: *ret_config is whole (diag may hold warnings). -EINVAL: diag holds errors;
 * -ENOKEY: the only ones are files of secrets that cannot be read, perhaps yet; -errno of reading, said in diag too.
 */
TALLY_MUST int tally_config_load(const char *path, unsigned int flags, struct tally_diag *diag,
				 struct tally_config **ret_config);
/* The same from memory. */
TALLY_MUST int tally_config_parse(const char *text, size_t bytes, unsigned int flags,
				  struct tally_diag *diag, struct tally_config **ret_config);
void tally_config_free(struct tally_config *config);

enum tally_log_level tally_config_log_level(const struct tally_config *config);
extern const struct tally_option_table tally_config_table, tally_config_sink_table;

TALLY_CLEANUP(struct tally_config *, tally_config_freep, tally_config_free)

#endif
