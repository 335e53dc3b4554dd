/* SPDX-License-Identifier: Apache-2.0 */
/*
 * No sink for days, on a real folder: what waits for an hour that is over takes at most 64 bytes for
 * each of its rows, and in the end everything arrives, summed up within its hour.
 */
#include <dirent.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "tests/sim/world.h"

#define START_S 1788264000ULL /* a full hour */
#define WINDOW_S 600
#define WINDOWS (3600 / WINDOW_S)
#define BYTES_PER_ROW 64

struct outage {
	unsigned int keys, rows;
	__u64 now_s;
	bool up;
	__u64 sent_requests, sent_records, requests;
};

struct counting_sink {
	struct tally_sink sink;
	struct outage *outage;
	struct tally_checkpoint at;
	struct tally_sink_event event;
};

static void answer(struct counting_sink *sink, enum tally_sink_event_kind kind)
{
	sink->event =
		(struct tally_sink_event){ .kind = kind, .checkpoint = sink->at, .error = -5 };
}

static int sink_open(struct tally_sink *base, const char *agent)
{
	struct counting_sink *sink = (struct counting_sink *)base;

	(void)agent;
	answer(sink, sink->outage->up ? TALLY_SINK_OPENED : TALLY_SINK_FAILED);
	return 0;
}

static int sink_send(struct tally_sink *base, const struct tally_send *send)
{
	struct counting_sink *sink = (struct counting_sink *)base;
	struct tally_sealed_sums sums;

	tally_sealed_sum(&send->batch->sealed, &sums);
	sink->outage->sent_requests += sums.requests;
	sink->outage->sent_records += tally_batch_records(send->batch);
	tally_checkpoint_at(send->batch, tally_batch_records(send->batch), &sink->at);
	answer(sink, TALLY_SINK_SENT);
	return 0;
}

static int sink_confirm(struct tally_sink *base)
{
	answer((struct counting_sink *)base, TALLY_SINK_CONFIRMED);
	return 0;
}

static int sink_close(struct tally_sink *base)
{
	answer((struct counting_sink *)base, TALLY_SINK_CLOSED);
	return 0;
}

static void sink_poll(struct tally_sink *base, struct tally_sink_event *ret_event)
{
	struct counting_sink *sink = (struct counting_sink *)base;

	*ret_event = sink->event;
	sink->event.kind = TALLY_SINK_NOTHING;
}

static void sink_free(struct tally_sink *base)
{
	free(base->name);
	free(base);
}

static const struct tally_sink_ops counting_ops = {
	.open = sink_open,
	.send = sink_send,
	.confirm = sink_confirm,
	.close = sink_close,
	.poll = sink_poll,
	.free = sink_free,
};

static int owner(void *ctx, __u64 key, __u64 time_s, struct tally_owner *ret_owner)
{
	static char customer[32], id[32];

	(void)ctx;
	(void)time_s;
	(void)snprintf(customer, sizeof(customer), "customer-%06llu", (unsigned long long)key);
	(void)snprintf(id, sizeof(id), "kfp_%020llu", (unsigned long long)key);
	*ret_owner = (struct tally_owner){ customer, id, TALLY_KEYREF_HMAC, TALLY_MODE_LIVE, true };
	return 0;
}

static int terms(void *ctx, const struct tally_row_key *key, struct tally_terms *ret_terms)
{
	static const struct tally_unit unit = { "requests", TALLY_UNIT_SCALE };
	static char route[40];

	(void)ctx;
	(void)snprintf(route, sizeof(route), "/v1/documents/{id}/%u", key->route);
	*ret_terms = (struct tally_terms){ "geo-api", route, "POST", "sha256:5b1e90aa", false, true,
					   true,      &unit, 1 };
	return 0;
}

static const char *service(void *ctx, __u16 index)
{
	(void)ctx;
	(void)index;
	return "geo-api";
}

static const struct tally_resolver resolver = { NULL, owner, terms, service, NULL, NULL };

static int seal(struct outage *o, struct tally_ship *ship, __u64 number)
{
	struct tally_frozen_row *rows = calloc((size_t)o->keys * o->rows, sizeof(*rows));
	struct tally_totals totals = { 0 };
	struct tally_frozen frozen = {
		.ledger = "outage",
		.number = number,
		.start_ns = o->now_s * TALLY_NS_PER_S,
		.end_ns = (o->now_s + WINDOW_S) * TALLY_NS_PER_S,
		.rows = rows,
		.totals = &totals,
		.n_services = 1,
	};
	int r;

	for (__u64 key = 0; rows && key < o->keys; key++) {
		for (unsigned int i = 0; i < o->rows; i++) {
			struct tally_frozen_row *row = &rows[frozen.n_rows++];

			row->key = (struct tally_row_key){ .key = key + 1,
							   .hour = (__u32)(o->now_s / 3600),
							   .route = (__u16)i,
							   .status = 200 };
			row->row = (struct tally_row){ .requests = 1000 + key % 977,
						       .request_bytes = 400000 + key,
						       .response_bytes = 70000000 + key * 13,
						       .duration_ns = 45000000000 + key };
			o->requests += row->row.requests;
		}
	}
	r = rows ? tally_ship_seal(ship, &frozen, &resolver) : -ENOMEM;
	tally_ship_released(ship);
	free(rows);
	return r;
}

static __u64 utc_ns(void *ctx)
{
	return ((struct outage *)ctx)->now_s * TALLY_NS_PER_S;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)st;
	(void)kind;
	(void)ftw;
	return remove(path);
}

/* Hours pass; the running one is not over and not judged. Text of what is wrong, or NULL. */
static const char *wait_out(struct outage *o, struct tally_ship *ship, unsigned int hours)
{
	struct tally_ship_status status = { 0 };
	__u64 number = 0, least = ~0ULL, allowed;
	int wait_ms;

	for (unsigned int hour = 0; hour < hours; hour++) {
		for (int i = 0; i < WINDOWS; i++, o->now_s += WINDOW_S) {
			if (seal(o, ship, ++number) < 0)
				return "sealing failed";
			(void)tally_ship_step(ship, &wait_ms);
			tally_ship_status(ship, &status);
			if (i == 0) /* what the running hour takes is least now */
				least = status.spool_bytes;
		}
		allowed = (__u64)hour * o->keys * o->rows * BYTES_PER_ROW +
			  (__u64)o->keys * o->rows * BYTES_PER_ROW;
		if (least > allowed)
			return "more than 64 bytes a row and hour";
	}
	printf("%u hours without a sink: %llu files, %llu bytes on disk, %.1f for each row and hour\n",
	       hours, (unsigned long long)status.sealed_files, (unsigned long long)least,
	       (double)least / ((double)hours * o->keys * o->rows));
	return NULL;
}

static const char *ship_all(struct outage *o, struct tally_ship *ship, unsigned int hours)
{
	int wait_ms;

	o->up = true;
	for (int i = 0; i < 100000 && !tally_ship_idle(ship); i++)
		(void)tally_ship_step(ship, &wait_ms);
	printf("then %llu records, %llu requests of %llu\n", (unsigned long long)o->sent_records,
	       (unsigned long long)o->sent_requests, (unsigned long long)o->requests);
	if (!tally_ship_idle(ship) || o->sent_requests != o->requests)
		return "it did not ship whole";
	return o->sent_records == (__u64)hours * o->keys * o->rows ? NULL
								   : "hours were not summed up";
}

static __u64 fast_ns(void *ctx)
{
	static __u64 ns;

	(void)ctx;
	return ns += TALLY_NS_PER_S; /* no back-off is waited for */
}

int sim_outage(unsigned int hours, unsigned int keys, unsigned int rows_per_key)
{
	struct outage o = { .keys = keys, .rows = rows_per_key, .now_s = START_S };
	const struct tally_time time = { &o, utc_ns, fast_ns };
	char folder[] = "/tmp/tally-outage.XXXXXX";
	struct tally_ship_config config = { .state_dir = folder, .machine_id = "m", .time = &time };
	struct counting_sink *sink = calloc(1, sizeof(*sink));
	struct tally_ship *ship = NULL;
	const char *fault = "the first start failed";

	if (!mkdtemp(folder) || !sink)
		return 1;
	sink->sink = (struct tally_sink){ .ops = &counting_ops, .required = true, .wake_fd = -1 };
	sink->sink.name = strdup("sink");
	sink->outage = &o;
	if (tally_ship_new(&config, &ship) == 0 && tally_ship_add(ship, &sink->sink) == 0)
		fault = wait_out(&o, ship, hours);
	if (!fault)
		fault = ship_all(&o, ship, hours);
	tally_ship_free(ship);
	(void)nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS); /* leaves a folder at worst */
	if (fault)
		printf("FAIL %s\n", fault);
	return fault != NULL;
}
