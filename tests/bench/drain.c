// SPDX-License-Identifier: Apache-2.0
/*
 * drain [ROWS [connections]]: what it takes to close the books over a full ledger, as JSON; with
 * connections, a record for each row is kept and made, too.
 *
 * The ledger is the real one, pinned in a folder of its own; its rows are written by the thousand:
 * as many connections as keys, one row for each pair. Each step is the very function that the agent
 * calls. The sums of what was written must come out again, or nothing is told.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "account/account.h"
#include "account/batch.h"
#include "collect/epoch.h"
#include "collect/ledger.h"
#include "collect/load.h"
#include "tests/bench/libbench.h"

#define BATCH 4096
#define START_NS (1800000000 * TALLY_NS_PER_S)

struct bench {
	uint32_t rows, keys;
	struct tally_load *load;
	struct tally_ledger *ledger;
	uint64_t map_bytes;
	uint64_t swap_ns, drain_ns, account_ns, encode_ns, release_ns;
	uint64_t batch_ns; /* numbered, each record made and hashed: after the release */
	bool connections;
	size_t sealed_rows, sealed_bytes;
};

static void must(int err, const char *what)
{
	if (!err)
		return;
	fprintf(stderr, "drain: %s: %s\n", what, strerror(-err));
	exit(1);
}

static void write_batch(int fd, struct tally_row_key *keys, struct tally_row *rows, uint32_t n)
{
	LIBBPF_OPTS(bpf_map_batch_opts, opts, .elem_flags = BPF_ANY);

	if (n && bpf_map_update_batch(fd, keys, rows, &n, &opts))
		bench_die("batch");
}

/* Row i: connection i / keys, key i % keys; i + 1 requests. */
static void fill(struct bench *b)
{
	struct tally_row_key *keys = bench_must(calloc(BATCH, sizeof(*keys)));
	struct tally_row *rows = bench_must(calloc(BATCH, sizeof(*rows)));
	int fds[TALLY_EPOCH_KINDS];
	uint32_t n = 0;

	must(tally_epoch_open(b->load, tally_ledger_number(b->ledger), fds), "epoch");
	for (uint32_t i = 0; i < b->rows; i++) {
		keys[n] = (struct tally_row_key){ .conn = 1 + i / b->keys,
						  .key = 0x9e3779b97f4a7c15ULL * (1 + i % b->keys),
						  .hour = START_NS / TALLY_NS_PER_S / 3600,
						  .status = 200,
						  .protocol = TALLY_PROTO_HTTP11 };
		rows[n++] = (struct tally_row){
			.requests = i + 1,
			.request_bytes = 417ULL * (i + 1),
			.response_bytes = 1500ULL * (i + 1),
			.duration_ns = 450123ULL * (i + 1),
			.peer = { [10] = 0xff, [11] = 0xff, 192, 0, (__u8)(i >> 8), (__u8)i },
			.peer_port = (__u16)(1024 + i % 60000)
		};
		if (n == BATCH) {
			write_batch(fds[TALLY_EPOCH_ROWS], keys, rows, n);
			n = 0;
		}
	}
	write_batch(fds[TALLY_EPOCH_ROWS], keys, rows, n);
	tally_epoch_close(fds);
	free(keys);
	free(rows);
}

/* ---- names: as many customers as keys ---- */

static int owner(void *ctx, __u64 key_hash, __u64 time_s, struct tally_owner *ret_owner)
{
	static char customer[32], key[32];

	snprintf(customer, sizeof(customer), "cus_%016llx", key_hash);
	snprintf(key, sizeof(key), "key_%016llx", key_hash);
	*ret_owner =
		(struct tally_owner){ customer, key, TALLY_KEYREF_CATALOG, TALLY_MODE_LIVE, true };
	return 0;
}

static int terms(void *ctx, const struct tally_row_key *key, struct tally_terms *ret_terms)
{
	*ret_terms = (struct tally_terms){ .service = "bench",
					   .route = "/v1/**",
					   .method = "GET",
					   .ruleset = "sha256:00",
					   .billable = true };
	return 0;
}

static const char *service(void *ctx, __u16 index)
{
	return "bench";
}

static uint64_t lap(uint64_t *since_ns)
{
	uint64_t now = bench_now_ns(), took = now - *since_ns;

	*since_ns = now;
	return took;
}

static void check(const struct bench *b, const struct tally_frozen *frozen,
		  const struct tally_sealed *sealed)
{
	uint64_t expected = (uint64_t)b->rows * (b->rows + 1) / 2;
	struct tally_sealed_sums sums;

	tally_sealed_sum(sealed, &sums);
	if (frozen->n_rows == b->rows && sums.requests == expected)
		return;
	fprintf(stderr, "drain: %zu rows of %u, %llu requests of %llu\n", frozen->n_rows, b->rows,
		(unsigned long long)sums.requests, (unsigned long long)expected);
	exit(1);
}

/* Takes the rows. */
static void number(struct bench *b, struct tally_sealed *sealed)
{
	const struct tally_batch_head head = {
		.agent = "0123456789ab", .incarnation = 1, .number = 1, .seq_first = 1
	};
	struct tally_batch *batch = NULL;
	uint64_t at = bench_now_ns();

	must(tally_batch_new(&head, sealed, &batch), "batch");
	b->batch_ns = lap(&at);
	tally_batch_free(batch);
}

static void close_books(struct bench *b)
{
	static const struct tally_peer_cut cut = { 32, 128 };
	const struct tally_resolver resolver = { NULL,	  owner, terms,
						 service, NULL,	 b->connections ? &cut : NULL };
	uint64_t end_ns = START_NS + 10 * TALLY_NS_PER_S;
	uint64_t epoch = tally_ledger_number(b->ledger), at;
	struct tally_buf buf = {};
	struct tally_frozen frozen;
	struct tally_sealed sealed;

	must(tally_ledger_prepare(b->ledger), "prepare");
	at = bench_now_ns();
	must(tally_ledger_swap(b->ledger, end_ns, end_ns, TALLY_CAUSE_INTERVAL), "swap");
	b->swap_ns = lap(&at);
	must(tally_ledger_drain(b->ledger, epoch, &frozen), "drain");
	b->drain_ns = lap(&at);
	must(tally_account_close(&frozen, &resolver, &sealed), "account");
	b->account_ns = lap(&at);
	must(tally_sealed_encode(&sealed, &buf), "encode");
	b->encode_ns = lap(&at);
	must(tally_ledger_release(b->ledger, epoch), "release");
	b->release_ns = lap(&at);
	check(b, &frozen, &sealed);
	b->sealed_rows = sealed.n_rows;
	b->sealed_bytes = buf.len;
	tally_buf_done(&buf);
	number(b, &sealed);
	tally_ledger_frozen_done(&frozen);
}

static void print(const struct bench *b)
{
	uint64_t sum = b->drain_ns + b->account_ns + b->encode_ns + b->release_ns;
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	printf("{\"rows\": %u, \"keys\": %u, \"sealed_rows\": %zu, \"sealed_bytes\": %zu,\n",
	       b->rows, b->keys, b->sealed_rows, b->sealed_bytes);
	printf(" \"swap_ms\": %.2f, \"drain_ms\": %.1f, \"account_ms\": %.1f, \"encode_ms\": %.1f,\n",
	       (double)b->swap_ns / 1e6, (double)b->drain_ns / 1e6, (double)b->account_ns / 1e6,
	       (double)b->encode_ns / 1e6);
	printf(" \"release_ms\": %.1f, \"ns_per_row\": %.0f, \"resident_max_bytes\": %lld,\n",
	       (double)b->release_ns / 1e6, (double)sum / b->rows,
	       (long long)usage.ru_maxrss * 1024);
	printf(" \"batch_ms\": %.1f, \"maps_without_epochs_bytes\": %llu}\n",
	       (double)b->batch_ns / 1e6, (unsigned long long)b->map_bytes);
}

int main(int argc, char **argv)
{
	struct bench b = { .rows = argc > 1 ? (uint32_t)atoi(argv[1]) : 1000000,
			   .keys = 1000,
			   .connections = argc > 2 };
	struct tally_load_options options = { .rows = 16384, .keys = 65536 };
	char dir[64];

	if (!b.rows)
		return 64;
	snprintf(dir, sizeof(dir), "/sys/fs/bpf/tallyd-bench-%d", getpid());
	options.pin_dir = dir;
	options.connection_rows = b.rows + 16384;
	must(tally_load_open(&options, &b.load), "load");
	must(tally_ledger_open(b.load, START_NS, &b.ledger), "ledger");
	b.map_bytes = tally_load_memory(b.load);
	fill(&b);
	close_books(&b);
	tally_ledger_close(b.ledger);
	must(tally_load_remove(b.load), "remove");
	tally_load_close(b.load);
	print(&b);
	return 0;
}
