/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>

#include "account/json.h"
#include "base/text.h"
#include "cli.h"
#include "replay_books.h"
#include "setup.h"

#define NO_SECRET "replay without a fleet secret" /* kfp_ ids of such a replay match nobody's */

static const char *config_path = TALLY_CONFIG_PATH, *output, *filter, *service;
static bool be_quiet;

static const char *const output_words[] = { "ndjson", "table", NULL };

static const struct tally_cli_option options[] = {
	{ "config", 'c', TALLY_CLI_TEXT, &config_path, "FILE",
	  "services, catalog and window (" TALLY_CONFIG_PATH ")", NULL },
	{ "output", 'o', TALLY_CLI_WORD, &output, "FORMAT", "of the records", output_words },
	{ "filter", 'f', TALLY_CLI_TEXT, &filter, "EXPRESSION",
	  "look only at these packets; as tcpdump takes it", NULL },
	{ "service", 's', TALLY_CLI_TEXT, &service, "NAME", "meter only this service", NULL },
	{ "quiet", 'q', TALLY_CLI_FLAG, &be_quiet, NULL, "no summary on standard error", NULL },
	{ NULL },
};

/* What the whole replay added up to. */
struct account {
	bool table;
	struct tally_sealed all;
	size_t settled; /* its rows, when equal ones were added up last */
	int64_t held;
};

/* That of the config, or of the agent of this host; else one that says so. To be wiped. */
static int read_secret(const struct tally_config *config, char **ret_secret)
{
	int r = tally_setup_secret(config, ret_secret);

	if (!r || r == -ENOMEM)
		return r;
	*ret_secret = strdup(NO_SECRET);
	return *ret_secret ? 0 : -ENOMEM;
}

/* Records --------------------------------------------------------------------------------------- */

static int print_records(const struct tally_batch *batch)
{
	struct tally_message msg;
	int r = 0;

	tally_message_init(&msg);
	for (uint64_t i = 0; !r && i < tally_batch_messages(batch); i++) {
		r = tally_batch_message(batch, i, TALLY_FORMAT_CLOUDEVENTS, &msg);
		if (!r)
			puts(msg.value.data);
	}
	if (!r)
		r = tally_batch_control(batch, &msg);
	if (!r)
		puts(msg.value.data);
	tally_message_done(&msg);
	return r ? r : ferror(stdout) ? -EPIPE : 0;
}

static int take_batch(void *ctx, const struct tally_batch *batch)
{
	struct account *account = ctx;
	int r = tally_sealed_merge(&account->all, &batch->sealed);

	if (account->all.n_rows > 2 * account->settled + 1024) {
		tally_sealed_settle(&account->all);
		account->settled = account->all.n_rows;
	}
	account->held = batch->sealed.held_after;
	return r || account->table ? r : print_records(batch);
}

/* The table ------------------------------------------------------------------------------------- */

#define TEXT(symbol, value, text) [value] = (text),
static const char *const attributions[] = { TALLY_ATTRIBUTIONS(TEXT) };
static const char *const details[] = { TALLY_DETAILS(TEXT) };
static const char *const unparsed[] = { TALLY_UNPARSED(TEXT) };

#define CELL_MAX 30 /* columns */

static void cell(const struct tally_sealed *all, uint32_t text, size_t width)
{
	const char *word = text == TALLY_NO_TEXT ? "-" : all->strings[text];
	char out[TALLY_TEXT_CELL(CELL_MAX)];

	printf("%s ", tally_text_cell(word, width, out, sizeof(out)));
}

static void print_credits(const struct tally_sealed *all, const struct tally_sealed_row *row)
{
	const struct tally_sealed_tariff *tariff = &all->tariffs[all->shapes[row->shape].tariff];
	struct tally_buf buf = { 0 };

	for (uint32_t i = 0; i < tariff->n; i++) {
		const struct tally_sealed_unit *unit = &all->units[tariff->first + i];

		if (!strcmp(all->strings[unit->name], "credits"))
			tally_json_decimal(&buf,
					   (unsigned __int128)unit->amount * row->sums.chargeable);
	}
	printf(" %10s\n", buf.len ? buf.data : "0");
	tally_buf_done(&buf);
}

static void print_row(const struct tally_sealed *all, const struct tally_sealed_row *row)
{
	const struct tally_sealed_owner *owner = &all->owners[row->owner];
	const struct tally_sealed_shape *shape = &all->shapes[row->shape];
	char who[64];

	if (shape->attribution == TALLY_ATTR_KEY) {
		cell(all, owner->customer, 16);
		cell(all, owner->api_key, 16);
	} else {
		(void)snprintf(who, sizeof(who), "%s%s%s", attributions[shape->attribution],
			       shape->detail ? ": " : "", details[shape->detail]); /* fits */
		printf("%-33.33s ", who);
	}
	cell(all, shape->method, 7);
	cell(all, shape->route, CELL_MAX);
	printf("%4u %9" PRIu64 " %12" PRIu64 " %13" PRIu64, shape->status,
	       (uint64_t)row->sums.requests, (uint64_t)row->sums.request_bytes,
	       (uint64_t)row->sums.response_bytes);
	print_credits(all, row);
}

/* Hours are one: rows are sorted by hour first. */
static void join_hours(struct tally_sealed *all)
{
	for (size_t i = 0; i < all->n_rows; i++) {
		all->rows[i].hour = 0;
		all->rows[i].start_s = 0;
		all->rows[i].end_s = 3600;
	}
	tally_sealed_settle(all);
}

static void print_table(struct tally_sealed *all)
{
	join_hours(all);
	printf("%-16s %-16s %-7s %-30s %4s %9s %12s %13s %10s\n", "CUSTOMER", "KEY", "METHOD",
	       "ROUTE", "CODE", "REQUESTS", "BYTES IN", "BYTES OUT", "CREDITS");
	for (size_t i = 0; i < all->n_rows; i++)
		print_row(all, &all->rows[i]);
}

/* The summary ----------------------------------------------------------------------------------- */

static void say_counts(const char *what, const char *const *texts, const uint64_t *n, size_t count)
{
	const char *comma = "";
	bool any = false;

	for (size_t i = 0; i < count; i++)
		any |= n[i] && texts[i];
	if (!any)
		return;
	fprintf(stderr, "  %s: ", what);
	for (size_t i = 0; i < count; i++) {
		if (!n[i] || !texts[i])
			continue;
		fprintf(stderr, "%s%" PRIu64 " %s", comma, n[i], texts[i]);
		comma = ", ";
	}
	fputc('\n', stderr);
}

static void say_open(const struct tally_replay *replay, const struct account *account)
{
	struct tally_meter_held held;
	size_t open = tally_replay_held(replay, &held);

	if (!open)
		return;
	fprintf(stderr,
		"  still open at the end: %zu connections, with %" PRIu64
		" exchanges that are not over (%" PRIi64 " of them answered in part), %" PRIu64
		" octets of clients and %" PRIu64 " of servers in no record\n",
		open, held.exchanges, account->held, held.octets[0] + held.parked[0],
		held.octets[1] + held.parked[1]);
}

static void say_all(const char *path, struct tally_capture *capture,
		    const struct tally_replay *replay, const struct account *account)
{
	const struct tally_capture_counts *read = tally_capture_counts(capture);
	const struct tally_flows_counts *flows = tally_replay_counts(replay);
	const struct tally_sealed_totals *t = &account->all.totals;
	uint64_t others[TALLY_ATTR_COUNT] = { 0 }, lost[TALLY_UNPARSED_COUNT];

	memcpy(lost, t->unparsed_bytes, sizeof(lost));
	memcpy(others, t->unattributed, sizeof(others));
	(void)fflush(stdout); /* both streams keep their order; the end looks at errors */
	fprintf(stderr,
		"%s: %" PRIu64 " packets, %" PRIu64 " of metered ports; %" PRIu64
		" connections, %" PRIu64 " of them without their beginning\n"
		"  %" PRIu64 " requests answered, %" PRIu64 " under their key; %" PRIu64
		" not answered\n",
		path, read->packets, flows->segments, flows->born + flows->midstream,
		flows->midstream, (uint64_t)t->seen, (uint64_t)t->attributed, (uint64_t)t->aborted);
	say_counts("unattributed", attributions, others, TALLY_ATTR_COUNT);
	say_counts("octets of no request", unparsed, lost, TALLY_UNPARSED_COUNT);
	say_open(replay, account);
	say_counts("segments not metered", tally_flows_drop_texts, flows->dropped,
		   TALLY_FLOWS_DROP_COUNT);
	say_counts("packets not looked at", tally_capture_skip_texts, read->skipped,
		   TALLY_CAPTURE_SKIP_COUNT);
	if (read->cut)
		fprintf(stderr, "  cut short when they were captured: %" PRIu64 " segments\n",
			read->cut);
}

/* Running --------------------------------------------------------------------------------------- */

/* What a packet's failure means; 0 for none. */
static int fail_of(int r)
{
	if (r == -EPIPE)
		return tally_cli_flush();
	return r ? tally_cli_fail(TALLY_EXIT_BUG, "replay: %s", strerror(-r)) : 0;
}

/* A damaged file is metered as far as it goes, and said to be damaged. */
static int replay_all(const char *path, struct tally_capture *capture, struct tally_replay *replay)
{
	struct tally_capture_packet packet;
	uint64_t read;
	int more, r = 0;

	while (!r && (more = tally_capture_next(capture, &packet)) == 1)
		r = tally_replay_packet(replay, &packet);
	if (!r)
		r = tally_replay_finish(replay);
	if (r)
		return fail_of(r);
	read = tally_capture_counts(capture)->packets;
	return more ? tally_cli_fail(TALLY_EXIT_INPUT,
				     "%s: damaged after packet %" PRIu64
				     ": %s; what stands before it was metered",
				     path, read, tally_capture_error(capture))
		    : 0;
}

static int replay_file(const char *path, const struct tally_replay_setup *setup)
{
	_cleanup_(tally_capture_closep) struct tally_capture *capture = NULL;
	_cleanup_(tally_replay_freep) struct tally_replay *replay = NULL;
	_cleanup_free_ char *error = NULL;
	struct account *account = setup->ctx;
	int code, r = tally_replay_new(setup, &replay, &error);

	if (r == -EINVAL)
		return tally_cli_fail(TALLY_EXIT_CONFIG, "%s: %s", config_path,
				      error ? error : "the rules do not compile");
	if (!r)
		r = tally_capture_open(path, filter, &capture, &error);
	if (r == -EBADMSG)
		return tally_cli_fail(TALLY_EXIT_INPUT, "%s: %s", path, error);
	if (r)
		return fail_of(r);
	code = replay_all(path, capture, replay);
	if (account->table)
		print_table(&account->all);
	if (!be_quiet)
		say_all(path, capture, replay, account);
	r = tally_cli_flush();
	return code ? code : r;
}

static int run(int argc, char **argv)
{
	_cleanup_(tally_config_freep) struct tally_config *config = NULL;
	_cleanup_(tally_catalog_freep) struct tally_catalog *catalog = NULL;
	struct account account = { .table = output && !strcmp(output, "table") };
	struct tally_replay_setup setup = { .service = service, .batch = take_batch };
	char *secret = NULL;
	int r;

	/* Ports alone decide: a capture knows no cgroup. */
	if (tally_setup_load(config_path, &config, &catalog) < 0)
		return TALLY_EXIT_CONFIG;
	r = read_secret(config, &secret);
	if (r)
		return fail_of(r);
	setup.config = config;
	setup.catalog = catalog;
	setup.secret = secret;
	setup.ctx = &account;
	tally_sealed_init(&account.all);
	r = replay_file(argv[0], &setup);
	tally_sealed_done(&account.all);
	tally_util_wipe_free(secret);
	return r;
}

const struct tally_cli_command tally_cmd_replay = {
	.name = "replay",
	.args = "FILE",
	.summary = "meter a packet capture with the kernel's engine and print its usage records",
	.details =
		"FILE is what tcpdump -w writes (pcap or pcapng; - is standard input), with both directions.\n"
		"Services are found by their ports. Capture whole packets, or at least whole request and\n"
		"response heads: bodies of known length need not be there. A key is known from the first\n"
		"response in the capture that accepts it. Exit code 65 when the file is no capture, or damaged.",
	.options = options,
	.min_args = 1,
	.max_args = 1,
	.run = run,
};
