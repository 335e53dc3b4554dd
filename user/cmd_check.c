// SPDX-License-Identifier: Apache-2.0
#include <limits.h>
#include <sys/utsname.h>

#include "base/config.h"
#include "base/manual.h"
#include "base/text.h"
#include "cli.h"
#include "collect/probe.h"
#include "identify/catalog.h"
#include "identify/rules.h"
#include "sinks_check.h"
#include "tally/ledger.h"

static bool want_schema, want_catalog_schema, want_reference, be_quiet, be_strict;
static const char *output, *config_path;

static const struct tally_cli_option options[] = {
	{ "config", 'c', TALLY_CLI_TEXT, &config_path, "FILE",
	  "the same as FILE (default: " TALLY_CONFIG_PATH ")", NULL },
	{ "schema", 0, TALLY_CLI_FLAG, &want_schema, NULL,
	  "print the JSON schema of the configuration, for editors", NULL },
	{ "catalog-schema", 0, TALLY_CLI_FLAG, &want_catalog_schema, NULL,
	  "print the JSON schema of the key catalog", NULL },
	{ "reference", 0, TALLY_CLI_FLAG, &want_reference, NULL,
	  "print the reference of the configuration as Markdown", NULL },
	{ "quiet", 'q', TALLY_CLI_FLAG, &be_quiet, NULL, "no summary", NULL },
	{ "strict", 0, TALLY_CLI_FLAG, &be_strict, NULL, "a warning is an error", NULL },
	{ "output", 'o', TALLY_CLI_WORD, &output, "FORMAT", "of the summary",
	  tally_cli_table_words },
	{ NULL },
};

static int print_schema(const struct tally_option_table *table)
{
	json_t *schema = tally_manual_schema(table);

	if (!schema)
		return tally_cli_fail(TALLY_EXIT_BUG, "out of memory");
	(void)json_dumpf(schema, stdout, JSON_INDENT(2)); /* seen by the flush */
	putchar('\n');
	json_decref(schema);
	return tally_cli_flush();
}

/* What the maps will take --------------------------------------------------------------------- */

/* Per element of a kernel hash: struct htab_elem on 64 bit, and its share of the buckets. */
#define HASH_ELEMENT 48
#define HASH_BUCKET 16
/* Held segments without a connection, ports, scopes, state of running programs. */
#define OTHER_BYTES (2u << 20)
#define OTHER_CPU_BYTES (64u << 10)

struct estimate {
	const char *what;
	uint64_t bytes;
};

static uint64_t element_bytes(size_t key, size_t value)
{
	return HASH_ELEMENT + ((key + 7) & ~7ULL) + ((value + 7) & ~7ULL);
}

/* An element allocated by itself takes a whole object of the kernel's allocator. */
static uint64_t object_bytes(uint64_t bytes)
{
	static const uint64_t sizes[] = { 96, 128, 192, 256, 512, 1024 };

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(sizes); i++)
		if (bytes <= sizes[i])
			return sizes[i];
	return bytes;
}

/* Two epochs of each stand side by side while the books are closed. */
static void estimate(const struct tally_config *config, struct estimate out[4])
{
	const struct tally_config_limits *limits = &config->agent.limits;
	uint64_t row = element_bytes(sizeof(struct tally_row_key), sizeof(struct tally_row));
	uint64_t key = element_bytes(sizeof(uint64_t), sizeof(struct tally_key_entry));
	long cpus = sysconf(_SC_NPROCESSORS_CONF);
	uint64_t n_cpus = cpus > 0 ? (uint64_t)cpus : 1;

	out[0] = (struct estimate){ "connection rows, when all are in use, two epochs",
				    2 * limits->connection_rows *
					    (object_bytes(row) + HASH_BUCKET) };
	out[1] = (struct estimate){ "rows without connection, reserved, two epochs",
				    2 * limits->rows * (row + HASH_BUCKET) };
	out[2] = (struct estimate){ "keys, and those that wait for acceptance",
				    limits->keys * (key + HASH_BUCKET) +
					    TALLY_CANDIDATES * sizeof(struct tally_candidate) +
					    TALLY_CANDIDATES_LONG *
						    sizeof(struct tally_candidate_long) };
	out[3] = (struct estimate){ "places, rulesets, totals, segments that came early, other",
				    TALLY_RULESET_SLOTS * sizeof(struct tally_rules) +
					    2 * TALLY_PLACES * sizeof(struct tally_row_place) +
					    2 * TALLY_SERVICES * n_cpus *
						    sizeof(struct tally_totals) +
					    TALLY_PARK_POOL * (TALLY_CHUNK + 64ULL) + OTHER_BYTES +
					    n_cpus * OTHER_CPU_BYTES };
}

/* The summary --------------------------------------------------------------------------------- */

static void put_ports(const struct tally_config_match *match, FILE *out)
{
	const struct tally_option_ports *ports = &match->ports;

	if (!ports->all && !ports->n)
		fputs("ports by annotation", out);
	else
		fprintf(out, "port%s %s", ports->n == 1 ? "" : "s", ports->all ? "all" : "");
	for (size_t i = 0; i < ports->n; i++)
		fprintf(out, "%s%u", i ? "," : "", ports->list[i]);
}

static void put_pods(const struct tally_config_pods *pods, FILE *out)
{
	fputs(" of pods", out);
	if (pods->namespace)
		fprintf(out, " in %s", pods->namespace);
	for (size_t i = 0; i < pods->n_labels; i++)
		fprintf(out, "%s %s=%s", i ? "," : " with", pods->labels[i].name,
			pods->labels[i].value);
}

/* A new text, or NULL: however many ports there are, none is cut. */
static char *match_text(const struct tally_config_match *match)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *out = open_memstream(&text, &bytes);

	if (!out)
		return NULL;
	put_ports(match, out);
	if (match->cgroup)
		fprintf(out, " of cgroup %s", match->cgroup);
	else if (match->unit)
		fprintf(out, " of unit %s", match->unit);
	else if (match->executable)
		fprintf(out, " of %s", match->executable);
	else if (match->pods.place.line)
		put_pods(&match->pods, out);
	if (fclose(out) == 0)
		return text;
	free(text);
	return NULL;
}

static void key_text(const struct tally_config_key *key, char *text, size_t bytes)
{
	if (key->header)
		snprintf(text, bytes, "header %s%s%s", key->header, key->scheme ? " " : "",
			 key->scheme ? key->scheme : "");
	else if (key->query)
		snprintf(text, bytes, "query %s", key->query);
	else
		snprintf(text, bytes, "response header %s", key->response_header);
}

static json_t *service_summary(const struct tally_config_service *service)
{
	_cleanup_free_ char *match = match_text(&service->match);
	json_t *keys = json_array();
	char text[512];

	for (size_t i = 0; i < service->n_key; i++) {
		key_text(&service->key[i], text, sizeof(text));
		json_array_append_new(keys, json_string(text));
	}
	return json_pack("{s:s,s:s*,s:I,s:o}", "name", service->name, "match", match, "routes",
			 (json_int_t)service->n_routes, "key", keys);
}

static json_t *summary(const struct tally_config *config, const struct tally_catalog *catalog)
{
	json_t *services = json_array(), *sinks = json_array(), *memory = json_array();
	char id[TALLY_RULESET_ID] = "", path[3 * PATH_MAX];
	struct estimate estimates[4];

	if (tally_rules_id(config, id) < 0)
		id[0] = '\0';
	for (size_t i = 0; i < config->n_services; i++)
		json_array_append_new(services, service_summary(&config->services[i]));
	for (size_t i = 0; i < config->n_sinks; i++)
		json_array_append_new(sinks, json_string(config->sinks[i].name));
	estimate(config, estimates);
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(estimates); i++)
		json_array_append_new(memory, json_pack("{s:s,s:I}", "what", estimates[i].what,
							"bytes", (json_int_t)estimates[i].bytes));
	return json_pack("{s:s,s:s,s:I,s:o,s:o,s:I,s:o}", "file",
			 tally_text_clean(config->path, path, sizeof(path)), "ruleset", id,
			 "window_s", (json_int_t)(config->agent.window_ns / TALLY_NS_PER_S),
			 "services", services, "sinks", sinks, "catalog_keys",
			 (json_int_t)tally_catalog_count(catalog), "memory", memory);
}

static void print_service(const struct tally_config_service *service)
{
	_cleanup_free_ char *match = match_text(&service->match);
	char text[512];

	printf("service %s: %s; %zu routes\n", service->name, match ? match : "?",
	       service->n_routes);
	for (size_t i = 0; i < service->n_key; i++) {
		key_text(&service->key[i], text, sizeof(text));
		printf("  key %zu: %s\n", i + 1, text);
	}
}

static void print_summary(const struct tally_config *config, const struct tally_catalog *catalog)
{
	char id[TALLY_RULESET_ID] = "?";
	struct estimate estimates[4];
	uint64_t sum = 0;

	if (tally_rules_id(config, id) < 0)
		id[0] = '\0';
	for (size_t i = 0; i < config->n_services; i++)
		print_service(&config->services[i]);
	if (catalog)
		printf("catalog %s: %zu keys\n", config->keys.file, tally_catalog_count(catalog));
	for (size_t i = 0; i < config->n_sinks; i++)
		printf("sink %s\n", config->sinks[i].name);
	printf("window %llu s, ruleset %s\n",
	       (unsigned long long)(config->agent.window_ns / TALLY_NS_PER_S), id);
	puts("kernel memory, at most about (connections apart):");
	estimate(config, estimates);
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(estimates); i++) {
		printf("  %7.1f MiB  %s\n", (double)estimates[i].bytes / 1048576,
		       estimates[i].what);
		sum += estimates[i].bytes;
	}
	printf("  %7.1f MiB  in all\n", (double)sum / 1048576);
	printf("%s: good\n", config->path);
}

/* Running -------------------------------------------------------------------------------------- */

/* -errno when it is wrong or cannot be read; the diagnosis is printed. */
static int check_catalog(const struct tally_config *config, struct tally_catalog **ret_catalog)
{
	struct tally_diag diag;
	int r;

	if (!config->keys.file)
		return 0;
	tally_diag_init(&diag, config->keys.file);
	r = tally_catalog_load(config->keys.file, &diag, ret_catalog);
	tally_diag_print(&diag, stderr);
	tally_diag_done(&diag);
	return r;
}

static int report(const struct tally_config *config, const struct tally_catalog *catalog)
{
	if (be_quiet)
		return TALLY_EXIT_OK;
	if (output && strcmp(output, "json") == 0) {
		json_t *json = summary(config, catalog);

		if (!json)
			return tally_cli_fail(TALLY_EXIT_BUG, "out of memory");
		(void)json_dumpf(json, stdout, JSON_INDENT(2)); /* seen by the flush */
		putchar('\n');
		json_decref(json);
	} else {
		print_summary(config, catalog);
	}
	return tally_cli_flush();
}

/* Of this host, as the files that a configuration refers to. */
static int check_pins(const struct tally_config *config, struct tally_diag *diag)
{
	if (!config->agent.pin_dir || tally_probe_pin_dir(config->agent.pin_dir) == 0)
		return 0;
	tally_diag_error(diag, config->agent.place, "agent.pin_dir",
			 "is not on a bpf file system (mount -t bpf)");
	return -EINVAL;
}

static int check(const char *path)
{
	_cleanup_(tally_config_freep) struct tally_config *config = NULL;
	_cleanup_(tally_catalog_freep) struct tally_catalog *catalog = NULL;
	struct tally_diag diag;
	size_t warnings;
	int r;

	tally_diag_init(&diag, path);
	r = tally_config_load(path, TALLY_CONFIG_CHECK_ONLY | TALLY_CONFIG_FAULTY_TOO, &diag,
			      &config);
	if (config && tally_rules_check(config, &diag) < 0)
		r = -EINVAL;
	if (config && tally_sinks_check(config, &diag) < 0)
		r = -EINVAL;
	if (config && check_pins(config, &diag) < 0)
		r = -EINVAL;
	if (r == 0)
		r = tally_sinks_check_clients(config, &diag);
	tally_diag_print(&diag, stderr);
	warnings = diag.warnings;
	tally_diag_done(&diag);
	if (r == 0)
		r = check_catalog(config, &catalog);
	if (r < 0)
		return TALLY_EXIT_CONFIG;
	if (be_strict && warnings)
		return tally_cli_fail(TALLY_EXIT_CONFIG, "%s: --strict: %zu warning%s", path,
				      warnings, warnings == 1 ? " is an error" : "s are errors");
	return report(config, catalog);
}

static int run(int argc, char **argv)
{
	if (want_schema)
		return print_schema(&tally_config_table);
	if (want_catalog_schema)
		return print_schema(&tally_catalog_table);
	if (want_reference) {
		tally_manual_reference(&tally_config_table, stdout);
		return tally_cli_flush();
	}
	if (argc && config_path)
		return tally_cli_usage_error("give FILE or --config FILE, not both");
	if (argc)
		config_path = argv[0];
	return check(config_path ? config_path : TALLY_CONFIG_PATH);
}

static void more_help(void)
{
	puts("\nKeys of the configuration, with their defaults:");
	tally_manual_help(&tally_config_table, 0, stdout);
}

const struct tally_cli_command tally_cmd_check = {
	.name = "check-config",
	.args = "[FILE]",
	.summary = "read a configuration (" TALLY_CONFIG_PATH
		   ") and its key catalog; list every error",
	.details = "Exit code 78 when something is wrong, each error with file, line and column.",
	.options = options,
	.max_args = 1,
	.run = run,
	.more_help = more_help,
};
