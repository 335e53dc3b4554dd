/* SPDX-License-Identifier: Apache-2.0 */
#include <jansson.h>

#include "account/audit.h"
#include "account/json.h"
#include "audit_source.h"
#include "base/text.h"
#include "deliver/kafka_reader.h"

#define CONTROL 0
#define HOST 20	   /* columns */
#define LIVE_S 900 /* as long as the first records of an agent may wait for their control record */
#define PERIOD_S (31 * 86400) /* that is closed with --until, if nobody says since when */
#define CONNECTIONS 2	      /* the topic that is read only where control records tell of it */

static struct tally_cli_list properties;
static struct tally_audit_words words = { .properties = &properties };
static const char *until, *since, *agents, *output;
static bool from_file, strict, without_connections;
static bool is_stuck; /* a thread of librdkafka's does not come back */

static bool from_brokers(void)
{
	return words.brokers || words.config || words.sink;
}

static int feed(void *ctx, const void *value, size_t len)
{
	return tally_audit_feed(ctx, value, len);
}

static int cannot_read(const char *path, int err)
{
	return tally_cli_fail(TALLY_EXIT_INPUT, "%s: %s", path, strerror(-err));
}

/* Once for each file; the findings have them all, without their place. */
static void say_unreadable(const char *path, size_t line)
{
	(void)tally_cli_fail(TALLY_EXIT_INPUT, "%s:%zu: not a record, the first that is none", path,
			     line);
}

/* Is it no whole text? Whoever writes the file may have been killed in the middle of a line. */
static bool is_cut(const char *line, size_t n)
{
	json_t *root = json_loadb(line, n, 0, NULL);
	bool cut = !root;

	json_decref(root);
	return cut;
}

static int read_lines(struct tally_audit *audit, FILE *in, const char *path)
{
	uint64_t before = tally_audit_count(audit, TALLY_FIND_UNREADABLE);
	_cleanup_free_ char *line = NULL;
	size_t cap = 0, number = 0;
	bool said = false;
	ssize_t n;
	int r = 0;

	while (r == 0 && (n = getline(&line, &cap, in)) > 0) {
		number++;
		if (line[n - 1] == '\n')
			n--;
		else if (is_cut(line, (size_t)n)) {
			(void)fprintf(
				stderr,
				"%s:%zu: half a line at the end: an agent that starts cuts it off\n",
				path, number);
			break;
		}
		if (n)
			r = tally_audit_feed(audit, line, (size_t)n);
		if (!said && tally_audit_count(audit, TALLY_FIND_UNREADABLE) > before) {
			say_unreadable(path, number);
			said = true;
		}
	}
	if (r == 0 && ferror(in))
		r = -EIO;
	return r < 0 ? cannot_read(path, r) : 0;
}

static int read_file(struct tally_audit *audit, const char *path)
{
	bool is_stdin = strcmp(path, "-") == 0;
	_cleanup_fclose_ FILE *in = is_stdin ? NULL : fopen(path, "re");

	if (!in && !is_stdin)
		return cannot_read(path, -errno);
	return read_lines(audit, in ? in : stdin, path);
}

static void end_at_once(int code)
{
	(void)tally_cli_flush(); /* said by it, and this code is the better one */
	_exit(code);
}

static int reading_failed(int err, const char *error)
{
	int code = err == -EINVAL ? tally_cli_usage_error("--property: %s", error)
				  : tally_cli_fail(TALLY_EXIT_UNAVAILABLE, "%s", error);

	if (err == -ENOTRECOVERABLE)
		end_at_once(code);
	return code;
}

static void note_gone(struct tally_audit *audit, size_t index, __u64 gone_s)
{
	if (index == CONTROL)
		tally_audit_gone_control(audit, gone_s);
	else
		tally_audit_gone(audit, index == CONNECTIONS, gone_s);
}

static int read_topic(struct tally_audit *audit, const struct tally_audit_source *source,
		      size_t index)
{
	const struct tally_kafka_reading reading = {
		.brokers = source->brokers,
		.topic = source->topics[index],
		.options = source->options,
		.n_options = source->n_options,
	};
	_cleanup_free_ char *error = NULL;
	__u64 gone_s = 0;
	int r = tally_kafka_reader_run(&reading, feed, audit, &gone_s, &error);

	if (r < 0)
		return reading_failed(r, error ? error : strerror(-r));
	is_stuck |= r > 0;
	note_gone(audit, index, gone_s);
	return 0;
}

/* The control topic comes first: a record whose batch is known need not be kept. */
static int read_topics(struct tally_audit *audit, const struct tally_audit_source *source)
{
	int code = 0;

	for (size_t i = 0; !code && i < TALLY_ARRAY_SIZE(source->topics); i++) {
		if (i == CONNECTIONS &&
		    (without_connections || !tally_audit_told_connections(audit)))
			break;
		code = read_topic(audit, source, i);
	}
	return code;
}

static int read_brokers(struct tally_audit *audit)
{
	struct tally_audit_source source = { 0 };
	int code = tally_audit_source_init(&source, &words);

	if (!code)
		code = read_topics(audit, &source);
	tally_audit_source_done(&source);
	return code;
}

/* One agent id, blanks around it, or nothing; # begins a comment. */
static int read_agent(struct tally_audit *audit, char *line)
{
	static const char blanks[] = " \t\r\n";
	char *id = line + strspn(line, blanks), *end;

	id[strcspn(id, "#")] = 0;
	for (end = id + strlen(id); end > id && strchr(blanks, end[-1]); end--)
		end[-1] = 0;
	if (*id && tally_audit_expect(audit, id) < 0)
		return tally_cli_fail(TALLY_EXIT_INPUT, "%s: '%s' is no agent's id", agents, id);
	return 0;
}

static int read_agents(struct tally_audit *audit)
{
	_cleanup_fclose_ FILE *in = fopen(agents, "re");
	_cleanup_free_ char *line = NULL;
	size_t cap = 0;
	int code = 0;

	if (!in)
		return cannot_read(agents, -errno);
	while (!code && getline(&line, &cap, in) > 0)
		code = read_agent(audit, line);
	return !code && ferror(in) ? cannot_read(agents, -EIO) : code;
}

static json_t *agent_json(const struct tally_audit_agent *agent)
{
	char complete[TALLY_JSON_TIME], id[TALLY_TEXT_LINE], host[TALLY_TEXT_LINE];

	tally_json_time(agent->complete_until_s, complete);
	return json_pack("{s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:s?}", "agent",
			 tally_text_clean(agent->id, id, sizeof(id)), "host",
			 tally_text_clean(agent->host, host, sizeof(host)), "incarnations",
			 (json_int_t)agent->incarnations, "batches", (json_int_t)agent->batches,
			 "records", (json_int_t)agent->records, "connection_records",
			 (json_int_t)agent->connections, "duplicates",
			 (json_int_t)agent->duplicates, "requests", (json_int_t)agent->requests,
			 "pending", (json_int_t)agent->pending, "complete_until",
			 agent->complete_until_s ? complete : NULL);
}

/* Its text may quote what is no record, and so anything. */
static json_t *finding_json(const struct tally_finding *one)
{
	char agent[TALLY_TEXT_LINE], text[TALLY_TEXT_LINE];

	return json_pack("{s:s,s:s,s:s}", "kind", tally_audit_kind(one->kind), "agent",
			 tally_text_clean(one->agent, agent, sizeof(agent)), "text",
			 tally_text_clean(one->text, text, sizeof(text)));
}

static void print_json(const struct tally_audit *audit, int code)
{
	json_t *list = json_array(), *found = json_array(), *counts = json_object(), *root;

	for (size_t i = 0; i < tally_audit_agents(audit); i++) {
		struct tally_audit_agent agent;

		tally_audit_agent(audit, i, &agent);
		json_array_append_new(list, agent_json(&agent));
	}
	for (size_t i = 0; i < tally_audit_findings(audit); i++) {
		const struct tally_finding *one = tally_audit_finding(audit, i);

		json_array_append_new(found, finding_json(one));
	}
	for (int i = 0; i < TALLY_FIND_COUNT; i++)
		json_object_set_new(counts, tally_audit_kind((enum tally_finding_kind)i),
				    json_integer((json_int_t)tally_audit_count(
					    audit, (enum tally_finding_kind)i)));
	root = json_pack("{s:b,s:i,s:o,s:o,s:o}", "balanced",
			 code == 0 || code == TALLY_EXIT_LOSSES, "exit", code, "agents", list,
			 "counts", counts, "findings", found);
	json_dumpf(root, stdout, JSON_INDENT(1));
	puts("");
	json_decref(root);
}

static const char *verdict(int code)
{
	if (code == 0)
		return "the books balance";
	return code == TALLY_EXIT_LOSSES ? "the books balance, but for what they declare as lost"
					 : "the books do not balance";
}

static void print_agent(const struct tally_audit_agent *agent)
{
	char complete[TALLY_JSON_TIME] = "never", cells[2][TALLY_TEXT_CELL(HOST)];

	if (agent->complete_until_s)
		tally_json_time(agent->complete_until_s, complete);
	printf("%s  %s %8llu %10llu %12llu %6llu  %s\n",
	       tally_text_cell(agent->id, 12, cells[0], sizeof(cells[0])),
	       tally_text_cell(agent->host, HOST, cells[1], sizeof(cells[1])),
	       (unsigned long long)agent->batches, (unsigned long long)agent->records,
	       (unsigned long long)agent->requests, (unsigned long long)agent->duplicates,
	       complete);
}

static void print_finding(const struct tally_finding *one)
{
	char agent[TALLY_TEXT_LINE], text[TALLY_TEXT_LINE];

	printf("%s: %s: %s\n", tally_audit_kind(one->kind),
	       tally_text_plain(one->agent, agent, sizeof(agent)),
	       tally_text_plain(one->text, text, sizeof(text)));
}

static void print_table(const struct tally_audit *audit, int code)
{
	printf("%-12s  %-20s %8s %10s %12s %6s  %s\n", "AGENT", "HOST", "BATCHES", "RECORDS",
	       "REQUESTS", "TWICE", "COMPLETE UNTIL");
	for (size_t i = 0; i < tally_audit_agents(audit); i++) {
		struct tally_audit_agent agent;

		tally_audit_agent(audit, i, &agent);
		print_agent(&agent);
	}
	for (size_t i = 0; i < tally_audit_findings(audit); i++) {
		const struct tally_finding *one = tally_audit_finding(audit, i);

		if (one->kind != TALLY_FIND_DUPLICATE || strict)
			print_finding(one);
	}
	printf("%s\n", verdict(code));
}

static int judge(const struct tally_audit *audit)
{
	for (int i = TALLY_FIND_BEHIND; i < TALLY_FIND_COUNT; i++) {
		if (tally_audit_count(audit, (enum tally_finding_kind)i))
			return TALLY_EXIT_DIFFERS;
	}
	if (strict && tally_audit_count(audit, TALLY_FIND_DUPLICATE))
		return TALLY_EXIT_DIFFERS;
	return tally_audit_count(audit, TALLY_FIND_LOSS) ? TALLY_EXIT_LOSSES : TALLY_EXIT_OK;
}

static int read_input(struct tally_audit *audit, int argc, char **argv)
{
	int code = agents ? read_agents(audit) : 0;

	if (!code && from_brokers())
		code = read_brokers(audit);
	for (int i = 0; !code && i < argc; i++)
		code = read_file(audit, argv[i]);
	return code;
}

/* Where the period begins that is closed. Of files one may be all there is. */
static int ask_since(struct tally_audit *audit, __u64 until_s)
{
	__u64 since_s = 0;

	if (since && tally_json_parse_time(since, &since_s) < 0)
		return tally_cli_usage_error("--since: not a time like 2026-09-01T00:00:00Z: %s",
					     since);
	if (!since && (!until || !from_brokers()))
		return 0;
	if (!since)
		since_s = until_s > PERIOD_S ? until_s - PERIOD_S : 0;
	tally_audit_since(audit, since_s);
	return 0;
}

static int audit_all(struct tally_audit *audit, int argc, char **argv)
{
	__u64 until_s = 0;
	int code;

	if (until && tally_json_parse_time(until, &until_s) < 0)
		return tally_cli_usage_error("--until: not a time like 2026-09-01T00:00:00Z: %s",
					     until);
	code = ask_since(audit, until_s);
	if (!code)
		code = read_input(audit, argc, argv);
	if (code)
		return code;
	if (tally_audit_close(audit, until_s) < 0)
		return tally_cli_fail(TALLY_EXIT_BUG, "out of memory");
	if (!tally_audit_agents(audit))
		return tally_cli_fail(TALLY_EXIT_INPUT, "no record was found");
	code = judge(audit);
	if (output && strcmp(output, "json") == 0)
		print_json(audit, code);
	else
		print_table(audit, code);
	return tally_cli_flush() ? TALLY_EXIT_IO : code;
}

static int run(int argc, char **argv)
{
	struct tally_audit *audit = NULL;
	int code;

	if (from_brokers() == (argc > 0))
		return tally_cli_usage_error(
			"give --brokers or --config, or --file and files (- is stdin)");
	if (argc && !from_file)
		return tally_cli_usage_error("files need --file");
	if (tally_audit_new(&audit) < 0)
		return tally_cli_fail(TALLY_EXIT_BUG, "out of memory");
	if (without_connections)
		tally_audit_without_connections(audit);
	tally_audit_live_since(audit, tally_util_real_ns() / TALLY_NS_PER_S - LIVE_S);
	code = audit_all(audit, argc, argv);
	if (is_stuck)
		end_at_once(code);
	tally_audit_free(audit);
	return code;
}

static const struct tally_cli_option options[] = {
	{ .name = "brokers",
	  .letter = 'b',
	  .type = TALLY_CLI_TEXT,
	  .value = &words.brokers,
	  .arg = "HOST:PORT,...",
	  .help = "read the topics of this cluster" },
	{ .name = "config",
	  .letter = 'c',
	  .type = TALLY_CLI_TEXT,
	  .value = &words.config,
	  .arg = "FILE",
	  .help = "brokers, topics and settings are those of the Kafka sink in this configuration" },
	{ .name = "sink",
	  .type = TALLY_CLI_TEXT,
	  .value = &words.sink,
	  .arg = "NAME",
	  .help = "which one, where there are several (without --config: in " TALLY_CONFIG_PATH
		  ")" },
	{ .name = "file",
	  .letter = 'f',
	  .type = TALLY_CLI_FLAG,
	  .value = &from_file,
	  .help = "the arguments are NDJSON files of a file sink" },
	{ .name = "until",
	  .letter = 'u',
	  .type = TALLY_CLI_TEXT,
	  .value = &until,
	  .arg = "TIME",
	  .help = "name the agents whose books are not complete up to this UTC time" },
	{ .name = "since",
	  .type = TALLY_CLI_TEXT,
	  .value = &since,
	  .arg = "TIME",
	  .help = "what retention took of the time since then is a gap; from a cluster: 31 days before --until" },
	{ .name = "agents",
	  .letter = 'a',
	  .type = TALLY_CLI_TEXT,
	  .value = &agents,
	  .arg = "FILE",
	  .help = "agents that must be there: one id a line" },
	{ .name = "strict",
	  .letter = 's',
	  .type = TALLY_CLI_FLAG,
	  .value = &strict,
	  .help = "a record that came twice is a fault, though consumers drop it by its id" },
	{ .name = "topic-records",
	  .type = TALLY_CLI_TEXT,
	  .value = &words.topics[1],
	  .arg = "TOPIC",
	  .help = "instead of usage.records.v1" },
	{ .name = "topic-control",
	  .type = TALLY_CLI_TEXT,
	  .value = &words.topics[0],
	  .arg = "TOPIC",
	  .help = "instead of usage.control.v1" },
	{ .name = "topic-connections",
	  .type = TALLY_CLI_TEXT,
	  .value = &words.topics[2],
	  .arg = "TOPIC",
	  .help = "instead of usage.connections.v1; read if control records tell of it" },
	{ .name = "without-connections",
	  .type = TALLY_CLI_FLAG,
	  .value = &without_connections,
	  .help = "leave records of connections out: they may be read by others only" },
	{ .name = "property",
	  .letter = 'X',
	  .type = TALLY_CLI_LIST,
	  .value = &properties,
	  .arg = "NAME=VALUE",
	  .help = "a setting of librdkafka; one -X for each" },
	{ .name = "output",
	  .letter = 'o',
	  .type = TALLY_CLI_WORD,
	  .value = &output,
	  .arg = "FORMAT",
	  .help = "how to print it",
	  .words = tally_cli_table_words },
	{},
};

const struct tally_cli_command tally_cmd_audit = {
	.name = "audit",
	.args = "[--brokers LIST | --config FILE | --file FILE...]",
	.summary = "say whether the books balance: gaps, duplicates, sums, chain, losses",
	.details =
		"Exit 0: they balance. 1: they do not. 3: they do, but for losses that they declare "
		"themselves\n(spool declare-lost, a window lost in a power cut). Closing a billing "
		"period: --until END --agents FILE;\nan agent of that file without any control record is behind, with "
		"--until and without.\nRecords that no control record vouches for are a gap, unless they are of the "
		"last 15 minutes,\nor retention took control records as old, and they are of no period that is closed.\n"
		"What retention took of a topic, before it took its control records, is a note, unless the period "
		"that is\nclosed begins before it (--since).\nWhere records of connections are kept, they must "
		"add up to the usage records of their batch.\n"
		"A password does not belong on a command line, where all users see it: "
		"-X 'sasl.password=${file:/path}',\nor --config with the file that has it.",
	.options = options,
	.max_args = -1,
	.run = run,
};
