// SPDX-License-Identifier: Apache-2.0
/*
 * exchange RULES [VARIANT [REPEAT [LINES]]]: nanoseconds per exchange by BPF_PROG_TEST_RUN, as JSON;
 * into the file LINES, before, what code that is (liblines.h); it goes on when that file is gone.
 *
 * Rounds of all programs take turns, so that a noisy machine disturbs them alike; of each the
 * fastest and the median round are told. What the rows hold at the end must be exactly the
 * exchanges that were run, or nothing is told at all.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "bpf/meter_types.h"
#include "tally/ledger.h"
#include "tests/bench/exchange.skel.h"
#include "tests/bench/libbench.h"
#include "tests/bench/liblines.h"

#define ROUNDS 21
#define PORT_OF_TEST_SOCKET 26000
#define BATCH 4096
#define PLACES_BYTES (TALLY_PLACES * sizeof(struct tally_row_place))

enum { P_EMPTY, P_FRONT, P_REQUEST, P_RESPONSE, P_EXCHANGE, PROGS };
static const char *const names[PROGS] = { "empty", "front", "request", "response", "exchange" };

struct variant {
	const char *name;
	struct bench_setup setup;
};

static const struct variant variants[] = {
	{ "rows_10", { .conns = 8, .rows = 10, .keys = 1 } },
	{ "rows_10_fresh", { .conns = 8, .rows = 10, .keys = 1, .fresh = 1 } },
	{ "rows_10_keys_2", { .conns = 8, .rows = 10, .keys = 2 } },
	{ "rows_10000", { .conns = 8, .rows = 10000, .keys = 1 } },
	{ "rows_1000000", { .conns = 8, .rows = 1000000, .keys = 1 } },
	{ "rows_1000000_conns_8192", { .conns = 8192, .rows = 1000000, .keys = 1 } },
};
#define VARIANTS (sizeof(variants) / sizeof(*variants))

struct bench {
	uint32_t repeat;
	struct exchange_bpf *skel;
	int rows;			/* descriptor of the ledger's rows */
	struct tally_row_place *places; /* of the epoch, mapped */
	int progs[PROGS];
	uint8_t frame[BENCH_FRAME];
	uint64_t exchanges; /* that the rows must show */
	double ns[PROGS][ROUNDS];
};

static void put(int fd, uint32_t key, const void *value)
{
	if (bpf_map_update_elem(fd, &key, value, BPF_ANY))
		bench_die("map");
}

static int map_new(enum bpf_map_type type, uint32_t entries, uint32_t flags)
{
	bool totals = type == BPF_MAP_TYPE_PERCPU_ARRAY;
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = flags);
	int fd = bpf_map_create(type, "bench", totals ? 4 : sizeof(struct tally_row_key),
				totals ? sizeof(struct tally_totals) : sizeof(struct tally_row),
				entries, &opts);

	if (fd < 0)
		bench_die("map");
	return fd;
}

/* What the agent writes before it attaches the programs. */
static void set_up(struct bench *b, const struct variant *v, const struct tally_rules *rules)
{
	struct exchange_bpf *s = b->skel;
	struct tally_settings settings = { .abi_version = TALLY_ABI_VERSION };
	struct tally_service service = { .slot = 0 };
	struct tally_epoch epoch = { .number = 1 };
	struct tally_clock clock = { .hour = 500000, .hour_start_ns = bench_now_ns() };
	int spill = map_new(BPF_MAP_TYPE_HASH, 16384, 0);
	int totals = map_new(BPF_MAP_TYPE_PERCPU_ARRAY, TALLY_TOTALS, 0);
	uint8_t wanted = 1;

	b->rows = map_new(BPF_MAP_TYPE_HASH, 2 * v->setup.rows + 16384, BPF_F_NO_PREALLOC);
	put(bpf_map__fd(s->maps.epochs_rows), 0, &b->rows);
	put(bpf_map__fd(s->maps.epochs_spill), 0, &spill);
	put(bpf_map__fd(s->maps.epochs_totals), 0, &totals);
	put(bpf_map__fd(s->maps.epoch), 0, &epoch);
	put(bpf_map__fd(s->maps.clock), 0, &clock);
	put(bpf_map__fd(s->maps.settings), 0, &settings);
	put(bpf_map__fd(s->maps.services), 0, &service);
	put(bpf_map__fd(s->maps.rulesets), 0, rules);
	put(bpf_map__fd(s->maps.ports), PORT_OF_TEST_SOCKET, &wanted);
	put(bpf_map__fd(s->maps.bench_setup), 0, &v->setup);
	close(spill);
	close(totals);
}

/* Each connection is new, belongs to service 0, and the stream begins at 1. */
static void make_connections(struct bench *b, const struct variant *v)
{
	int fd = bpf_map__fd(b->skel->maps.bench_conns);
	struct tally_conn *c = bench_must(calloc(1, sizeof(*c)));

	tally_conn_born(c, 1, 1);
	c->resolved = 1;
	for (uint32_t i = 0; i < v->setup.conns; i++)
		put(fd, i, c);
	free(c);
}

static double run(struct bench *b, int prog, uint32_t repeat)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = b->frame, .data_size_in = sizeof(b->frame),
		    .repeat = repeat);

	if (bpf_prog_test_run_opts(b->progs[prog], &opts))
		bench_die("BPF_PROG_TEST_RUN");
	if (opts.retval != 1) {
		fprintf(stderr, "%s: the meter did not take it\n", names[prog]);
		exit(1);
	}
	if (prog >= P_RESPONSE)
		b->exchanges += repeat;
	return opts.duration;
}

/* Requests in all rows, and how many rows there are, in places and in the hash. */
static uint64_t count(const struct bench *b, uint64_t *ret_rows)
{
	struct tally_row_key *keys = bench_must(calloc(BATCH, sizeof(*keys)));
	struct tally_row *rows = bench_must(calloc(BATCH, sizeof(*rows)));
	uint64_t sum = 0, batch = 0, n = 0;
	int err = 0;

	for (bool first = true; !err; first = false) {
		uint32_t got = BATCH;

		err = bpf_map_lookup_batch(b->rows, first ? NULL : &batch, &batch, keys, rows, &got,
					   NULL);
		if (err && errno != ENOENT)
			bench_die("batch");
		for (uint32_t i = 0; i < got; i++)
			sum += rows[i].requests;
		n += got;
	}
	free(keys);
	free(rows);
	for (uint32_t i = 0; i < TALLY_PLACES; i++) {
		sum += b->places[i].row.requests;
		n += b->places[i].epoch != 0;
	}
	*ret_rows = n;
	return sum;
}

/* The row of the first exchange: nothing else was booked. */
static struct tally_row_key first_key(const struct bench *b)
{
	for (uint32_t i = 0; i < TALLY_PLACES; i++)
		if (b->places[i].epoch)
			return b->places[i].key;
	bench_die("no row was made");
}

/* Has its connection's place room for it, as a program would find? */
static bool place_take(const struct bench *b, const struct tally_row_key *key)
{
	struct tally_row_place *p = &b->places[TALLY_PLACE_AT(0, key->conn)];

	if (p->epoch)
		return p->key.conn == key->conn;
	p->key = *key;
	p->epoch = 1;
	return true;
}

/* The rows that chance would make only in time: the first one's key with every connection. */
static void fill(struct bench *b, const struct variant *v)
{
	struct tally_row_key key = first_key(b), *keys = bench_must(calloc(BATCH, sizeof(*keys)));
	struct tally_row *rows = bench_must(calloc(BATCH, sizeof(*rows)));
	uint32_t n = 0;

	for (uint32_t i = 1; i <= v->setup.rows; i++) {
		key.conn = i;
		if (!place_take(b, &key))
			keys[n++] = key;
		if (n < BATCH && i < v->setup.rows)
			continue;
		LIBBPF_OPTS(bpf_map_batch_opts, opts, .elem_flags = BPF_ANY);
		if (n && bpf_map_update_batch(b->rows, keys, rows, &n, &opts))
			bench_die("fill");
		n = 0;
	}
	free(keys);
	free(rows);
}

static void open_variant(struct bench *b, const struct variant *v, const struct tally_rules *rules)
{
	struct exchange_bpf *s = bench_must(exchange_bpf__open());

	if (bpf_map__set_max_entries(s->maps.bench_conns, v->setup.conns) || exchange_bpf__load(s))
		bench_die("load");
	b->skel = s;
	b->places = mmap(NULL, PLACES_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
			 bpf_map__fd(s->maps.places), 0);
	if (b->places == MAP_FAILED)
		bench_die("places");
	b->exchanges = 0;
	b->progs[P_EMPTY] = bpf_program__fd(s->progs.bench_empty);
	b->progs[P_FRONT] = bpf_program__fd(s->progs.bench_front);
	b->progs[P_REQUEST] = bpf_program__fd(s->progs.bench_request);
	b->progs[P_RESPONSE] = bpf_program__fd(s->progs.bench_response);
	b->progs[P_EXCHANGE] = bpf_program__fd(s->progs.bench_exchange);
	bench_frame(b->frame);
	set_up(b, v, rules);
	make_connections(b, v);
}

static uint64_t warm_up(struct bench *b, const struct variant *v)
{
	uint64_t rows, before;

	run(b, P_EXCHANGE, 1); /* the key is learnt, the first row made */
	fill(b, v);
	b->exchanges = 0;
	before = count(b, &rows);
	for (int p = 0; p < P_RESPONSE; p++)
		run(b, p, b->repeat);
	run(b, P_EXCHANGE, v->setup.conns * 20); /* the fields that response needs, everywhere */
	return before;
}

static void measure(struct bench *b, const struct variant *v)
{
	uint64_t before = warm_up(b, v), after, rows;

	for (int round = 0; round < ROUNDS; round++)
		for (int p = 0; p < PROGS; p++)
			b->ns[p][round] = run(b, p, b->repeat);
	after = count(b, &rows);
	if (after - before != b->exchanges) {
		fprintf(stderr, "%s: %llu exchanges, %llu in the rows\n", v->name,
			(unsigned long long)b->exchanges, (unsigned long long)(after - before));
		exit(1);
	}
	printf("  \"%s\": {\"rows\": %llu, \"connections\": %u, \"exchanges\": %llu", v->name,
	       (unsigned long long)rows, v->setup.conns, (unsigned long long)b->exchanges);
	for (int p = 0; p < PROGS; p++)
		printf(",\n    \"%s\": {\"min_ns\": %.0f, \"median_ns\": %.0f}", names[p],
		       bench_quantile(b->ns[p], ROUNDS, 0), bench_quantile(b->ns[p], ROUNDS, 0.5));
	printf("}");
}

static void tell_lines(const struct bench *b, const char *path)
{
	FILE *out = fopen(path, "we");

	if (!out)
		bench_die(path);
	bench_lines(b->progs[P_EXCHANGE], out);
	if (fclose(out))
		bench_die(path);
	while (!access(path, F_OK))
		usleep(10000);
}

int main(int argc, char **argv)
{
	struct tally_rules *rules;
	static struct bench b;

	if (argc < 2) {
		fprintf(stderr, "usage: exchange RULES [VARIANT [REPEAT [LINES]]]\n");
		return 64;
	}
	rules = bench_rules(argv[1]);
	b.repeat = argc > 3 ? (uint32_t)atoi(argv[3]) : 20000;
	printf("{\n");
	for (size_t i = 0, n = 0; i < VARIANTS; i++) {
		if (argc > 2 && strcmp(variants[i].name, argv[2]) != 0)
			continue;
		printf("%s", n++ ? ",\n" : "");
		open_variant(&b, &variants[i], rules);
		if (argc > 4)
			tell_lines(&b, argv[4]);
		measure(&b, &variants[i]);
		fflush(stdout);
		close(b.rows);
		munmap(b.places, PLACES_BYTES);
		exchange_bpf__destroy(b.skel);
	}
	printf("\n}\n");
	free(rules);
	return 0;
}
