/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Seals and ships epochs that are a function of (seed, number), without a kernel: what a fault
 * harness needs, because the truth can be computed again at any time.
 *
 *	driver STATE_DIR --until N [--rows R] [--kafka BROKERS] [--idempotent] [--openmeter] [--no-create]
 *		[--file PATH] [--topics PREFIX] [--every-ms MS] [--grace-s S] [--txn-ms MS] [--connections]
 *	driver --truth N [--rows R]
 *
 * Started again on the same folder it goes on where its spool says. Exit 0: all is shipped; 75: not
 * within the grace.
 */
#include <getopt.h>
#include <poll.h>
#include <stdio.h>

#include "base/log.h"
#include "base/util.h"
#include "deliver/ship.h"

#define START_S 1788264000ULL /* 2026-09-01T12:00:00Z */
#define WINDOW_S 10
#define CUSTOMERS 50

static struct {
	const char *state_dir, *kafka, *file, *topics;
	__u64 until, rows, every_ms, grace_s, txn_ms, truth;
	bool idempotent, openmeter, no_create;
} opt = { .rows = 20, .grace_s = 60, .txn_ms = 10000 };

static __u64 mix(__u64 x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
	return x ^ x >> 31;
}

/* Row i of epoch n: how often which key was used. */
static void fill_row(__u64 n, __u64 i, struct tally_frozen_row *row)
{
	__u64 dice = mix(n * 1000003 + i);

	*row = (struct tally_frozen_row){
		.key = { .conn = dice,
			 .key = 1 + i % (CUSTOMERS * 4),
			 .hour = (__u32)((START_S + n * WINDOW_S) / 3600),
			 .ruleset = 1,
			 .route = (__u16)(1 + i / (CUSTOMERS * 4)),
			 .status = dice % 10 ? 200 : 404,
			 .method = 1,
			 .protocol = TALLY_PROTO_HTTP11 },
		.row = { .requests = 1 + dice % 7,
			 .request_bytes = 100 + dice % 1000,
			 .response_bytes = 500 + dice % 100000,
			 .duration_ns = 1000 * (dice % 1000000),
			 .peer = { [10] = 0xff, [11] = 0xff, 192, 0, 2, (__u8)dice },
			 .peer_port = 40000 },
	};
}

static void fill(__u64 n, struct tally_frozen_row *rows, struct tally_totals *totals,
		 struct tally_frozen *ret_frozen)
{
	*totals = (struct tally_totals){ 0 };
	for (__u64 i = 0; i < opt.rows; i++) {
		fill_row(n, i, &rows[i]);
		totals->seen += rows[i].row.requests;
		totals->attributed += rows[i].row.requests;
		totals->held_enter += rows[i].row.requests;
		totals->held_leave += rows[i].row.requests;
	}
	*ret_frozen = (struct tally_frozen){
		.ledger = "driver",
		.number = n,
		.start_ns = (START_S + n * WINDOW_S) * TALLY_NS_PER_S,
		.end_ns = (START_S + (n + 1) * WINDOW_S) * TALLY_NS_PER_S,
		.rows = rows,
		.n_rows = opt.rows,
		.totals = totals,
		.n_services = 1,
	};
}

static int owner(void *ctx, __u64 key, __u64 time_s, struct tally_owner *ret_owner)
{
	static char customer[32], id[32];

	(void)ctx;
	(void)time_s;
	(void)snprintf(customer, sizeof(customer), "cus_%03llu",
		       (unsigned long long)key % CUSTOMERS);
	(void)snprintf(id, sizeof(id), "key_%04llu", (unsigned long long)key);
	*ret_owner =
		(struct tally_owner){ customer, id, TALLY_KEYREF_CATALOG, TALLY_MODE_LIVE, true };
	return 0;
}

static int terms(void *ctx, const struct tally_row_key *key, struct tally_terms *ret_terms)
{
	static const struct tally_unit units[] = { { "requests", TALLY_UNIT_SCALE },
						   { "credits", TALLY_UNIT_SCALE / 2 } };
	static char route[32];

	(void)ctx;
	(void)snprintf(route, sizeof(route), "/v1/r%u", key->route);
	*ret_terms = (struct tally_terms){
		.service = "api",
		.route = route,
		.method = "GET",
		.ruleset = "sha256:00000000",
		.billable = key->status == 200,
		.charge_truncated = true,
		.units = units,
		.n_units = 2,
	};
	return 0;
}

static const char *service(void *ctx, __u16 index)
{
	(void)ctx;
	return index ? NULL : "api";
}

static const struct tally_peer_cut cut = { 24, 48 };
static struct tally_resolver resolver = { NULL, owner, terms, service, NULL, NULL };

static int print_truth(void)
{
	__u64 requests = 0, request_bytes = 0, response_bytes = 0;

	for (__u64 n = 1; n <= opt.truth; n++) {
		for (__u64 i = 0; i < opt.rows; i++) {
			struct tally_frozen_row row;

			fill_row(n, i, &row);
			requests += row.row.requests;
			request_bytes += row.row.request_bytes;
			response_bytes += row.row.response_bytes;
		}
	}
	printf("{\"requests\": %llu, \"request_bytes\": %llu, \"response_bytes\": %llu}\n",
	       (unsigned long long)requests, (unsigned long long)request_bytes,
	       (unsigned long long)response_bytes);
	return 0;
}

static int add_kafka(struct tally_ship *ship)
{
	char records[64], control[64], progress[64], connections[64], *error = NULL;
	struct tally_kafka_config config = {
		.name = "kafka",
		.state_dir = opt.state_dir,
		.brokers = opt.kafka,
		.delivery = opt.idempotent ? TALLY_KAFKA_IDEMPOTENT : TALLY_KAFKA_TRANSACTIONAL,
		.format = opt.openmeter ? TALLY_KAFKA_OPENMETER : TALLY_KAFKA_CLOUDEVENTS,
		.create_topics = !opt.no_create,
		.transaction_timeout_ms = (__u32)opt.txn_ms,
	};
	struct tally_sink *sink = NULL;
	int r;

	if (opt.topics) {
		(void)snprintf(records, sizeof(records), "%s.records", opt.topics);
		(void)snprintf(control, sizeof(control), "%s.control", opt.topics);
		(void)snprintf(progress, sizeof(progress), "%s.progress", opt.topics);
		(void)snprintf(connections, sizeof(connections), "%s.connections", opt.topics);
		config.topic_connections = connections;
		config.topic_records = records;
		config.topic_control = control;
		config.topic_progress = progress;
	}
	r = tally_kafka_sink_new(&config, &sink, &error);
	if (r < 0) {
		fprintf(stderr, "driver: kafka: %s\n", error ? error : strerror(-r));
		free(error);
		return r;
	}
	return tally_ship_add(ship, sink);
}

static int add_sinks(struct tally_ship *ship)
{
	int r = 0;

	if (opt.file)
		r = tally_ship_add(ship, tally_file_sink_new("file", opt.file));
	if (r == 0 && opt.kafka)
		r = add_kafka(ship);
	if (r == 0 && !opt.kafka && !opt.file)
		r = tally_ship_add(ship, tally_stdout_sink_new("stdout", opt.state_dir));
	return r;
}

static void wait_for(struct tally_ship *ship, int wait_ms, __u64 at_most_ms)
{
	struct pollfd pfd = { .fd = tally_ship_fd(ship), .events = POLLIN };

	if (wait_ms < 0 || (__u64)wait_ms > at_most_ms)
		wait_ms = (int)at_most_ms;
	(void)poll(&pfd, 1, wait_ms);
}

/* Seals the next epoch when it is time. */
static void seal_next(struct tally_ship *ship, __u64 *next, __u64 *next_ns)
{
	struct tally_frozen_row *rows = calloc(opt.rows, sizeof(*rows));
	struct tally_totals totals;
	struct tally_frozen frozen;
	int r;

	fill(*next, rows, &totals, &frozen);
	r = tally_ship_seal(ship, &frozen, &resolver);
	tally_ship_released(ship);
	if (r == 0)
		++*next;
	else
		fprintf(stderr, "driver: seal %llu: %s\n", (unsigned long long)*next, strerror(-r));
	*next_ns = tally_util_mono_ns() + TALLY_MAX(opt.every_ms, r ? 100ULL : 0) * 1000000;
	free(rows);
}

static int drive(struct tally_ship *ship)
{
	__u64 next = 1, next_ns = 0, deadline = 0;
	int wait_ms = 0;

	while (tally_ship_has(ship, (const __u8 *)"driver\0\0\0\0\0\0\0\0\0\0", next))
		next++;
	tally_ship_released(ship);
	for (;;) {
		if (next <= opt.until && tally_util_mono_ns() >= next_ns)
			seal_next(ship, &next, &next_ns);
		(void)tally_ship_step(ship, &wait_ms);
		if (next > opt.until) {
			if (tally_ship_idle(ship))
				return 0;
			if (!deadline)
				deadline = tally_util_mono_ns() + opt.grace_s * TALLY_NS_PER_S;
			if (tally_util_mono_ns() > deadline)
				return 75;
			wait_for(ship, wait_ms, 100);
		} else {
			wait_for(ship, wait_ms, TALLY_MIN(opt.every_ms, 10ULL));
		}
	}
}

static int run(void)
{
	const struct tally_ship_config config = {
		.state_dir = opt.state_dir,
		.machine_id = "driver",
		.boot_id = "00000000-0000-4000-8000-000000000000",
		.host = "localhost",
		.version = "test",
		.backoff_max_ms = 1000,
	};
	struct tally_ship_status status;
	struct tally_ship *ship = NULL;
	int r;

	r = tally_ship_new(&config, &ship);
	if (r == 0)
		r = add_sinks(ship);
	if (r < 0) {
		fprintf(stderr, "driver: %s\n", strerror(-r));
		return 74;
	}
	r = drive(ship);
	tally_ship_status(ship, &status);
	fprintf(stderr, "driver: agent=%s incarnation=%u epochs=%llu batches=%llu seq=%llu\n",
		status.agent, status.incarnation, (unsigned long long)status.epoch_last,
		(unsigned long long)status.batch_last, (unsigned long long)status.seq_last);
	tally_ship_free(ship);
	return r;
}

/* Options without a value. */
static bool set_flag(int c)
{
	switch (c) {
	case 'i':
		opt.idempotent = true;
		return true;
	case 'c':
		resolver.connections = &cut;
		return true;
	case 'n':
		opt.no_create = true;
		return true;
	case 'o':
		opt.openmeter = true;
		return true;
	default:
		return false;
	}
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "until", 1, NULL, 'u' },	 { "rows", 1, NULL, 'r' },
		{ "kafka", 1, NULL, 'k' },	 { "file", 1, NULL, 'f' },
		{ "topics", 1, NULL, 't' },	 { "every-ms", 1, NULL, 'e' },
		{ "grace-s", 1, NULL, 'g' },	 { "txn-ms", 1, NULL, 'x' },
		{ "truth", 1, NULL, 'T' },	 { "idempotent", 0, NULL, 'i' },
		{ "no-create", 0, NULL, 'n' },	 { "openmeter", 0, NULL, 'o' },
		{ "connections", 0, NULL, 'c' }, { NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'u':
			opt.until = strtoull(optarg, NULL, 10);
			break;
		case 'r':
			opt.rows = strtoull(optarg, NULL, 10);
			break;
		case 'k':
			opt.kafka = optarg;
			break;
		case 'f':
			opt.file = optarg;
			break;
		case 't':
			opt.topics = optarg;
			break;
		case 'e':
			opt.every_ms = strtoull(optarg, NULL, 10);
			break;
		case 'g':
			opt.grace_s = strtoull(optarg, NULL, 10);
			break;
		case 'x':
			opt.txn_ms = strtoull(optarg, NULL, 10);
			break;
		case 'T':
			opt.truth = strtoull(optarg, NULL, 10);
			break;
		default:
			if (!set_flag(c))
				return 64;
		}
	}
	if (opt.truth)
		return print_truth();
	if (optind >= argc)
		return 64;
	opt.state_dir = argv[optind];
	return run();
}
