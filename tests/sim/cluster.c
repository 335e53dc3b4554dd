/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A cluster with transactions, as the agent can know it. A piece that was sent is, at random,
 *
 *	applied and answered; applied, answer lost; not applied, answer lost; refused; hanging
 *
 * A hanging transaction is decided by the next open() (fencing), either way, before the checkpoint
 * is read. The sink of SIM_AT_LEAST_ONCE has no transactions: a lost answer may leave a part of the
 * piece behind, and the checkpoint stays where it was.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "tests/sim/world.h"

#define KEY_TEXT "key_"
#define BATCHES_MAX 4096

struct held_record {
	char id[TALLY_RECORD_ID];
	__u8 digest[8];
	__u64 copies;
	int key;	    /* -1: nobody's */
	bool connection;    /* a record of a connection, not of usage */
	bool by_connection; /* its batch has such */
	__u64 requests, bytes;
};

struct held_batch {
	__u64 number;
	__u8 prev[TALLY_CHAIN], chain[TALLY_CHAIN];
};

struct piece {
	struct tally_batch *batch;
	__u64 from, to;
	struct tally_checkpoint at;
};

struct sim_cluster {
	struct sim_dice *dice;
	enum sim_delivery delivery;
	bool healthy;
	__u64 trouble;
	struct held_record *records;
	size_t n_records;
	struct held_batch *batches;
	size_t n_batches;
	struct tally_checkpoint at;
	char agent[TALLY_AGENT_ID + 1]; /* whose checkpoint it is */
	struct piece hanging;
	const char *fault;
};

struct sim_sink {
	struct tally_sink sink;
	struct sim_cluster *cluster;
	bool open;
	struct tally_sink_event event;
	int delay;
};

struct sim_cluster *sim_cluster_new(struct sim_dice *dice, enum sim_delivery delivery)
{
	struct sim_cluster *cluster = calloc(1, sizeof(*cluster));

	cluster->dice = dice;
	cluster->delivery = delivery;
	cluster->healthy = true;
	return cluster;
}

void sim_cluster_free(struct sim_cluster *cluster)
{
	tally_batch_free(cluster->hanging.batch);
	free(cluster->records);
	free(cluster->batches);
	free(cluster);
}

void sim_cluster_health(struct sim_cluster *cluster, bool healthy, __u64 trouble_percent)
{
	cluster->healthy = healthy;
	cluster->trouble = trouble_percent;
}

static void fault(struct sim_cluster *cluster, const char *text)
{
	if (!cluster->fault)
		cluster->fault = text;
}

static struct held_record *find_record(struct sim_cluster *cluster, const char *id)
{
	for (size_t i = cluster->n_records; i > 0; i--) {
		if (strcmp(cluster->records[i - 1].id, id) == 0)
			return &cluster->records[i - 1];
	}
	return NULL;
}

static void new_record(struct sim_cluster *cluster, const struct held_record *record)
{
	size_t n = cluster->n_records;

	if (!n || (n >= 64 && !(n & (n - 1))))
		cluster->records = realloc(cluster->records, (n ? n * 2 : 64) * sizeof(*record));
	cluster->records[cluster->n_records++] = *record;
}

static const struct tally_sealed_row *row_of(const struct tally_batch *batch, __u64 index)
{
	const struct tally_sealed *sealed = &batch->sealed;

	return index < sealed->n_rows ? &sealed->rows[index]
				      : &sealed->connections[index - sealed->n_rows].row;
}

static int key_of(const struct tally_batch *batch, __u64 index)
{
	const struct tally_sealed *sealed = &batch->sealed;
	const struct tally_sealed_row *row = row_of(batch, index);
	const char *text = sealed->strings[sealed->owners[row->owner].api_key];

	return *text ? atoi(text + strlen(KEY_TEXT)) : -1;
}

/* A record arrives. The same id must mean the same bytes, for ever. */
static void take_record(struct sim_cluster *cluster, struct tally_batch *batch, __u64 index)
{
	struct held_record record = { .copies = 1,
				      .key = key_of(batch, index),
				      .connection = index >= tally_batch_records(batch),
				      .by_connection = batch->sealed.by_connection },
			   *old;
	__u8 digest[TALLY_SHA256];
	struct tally_message msg;

	tally_message_init(&msg);
	if (tally_batch_message(batch, index, TALLY_FORMAT_CLOUDEVENTS, &msg) < 0)
		abort();
	tally_sha256(msg.value.data, msg.value.len, digest);
	memcpy(record.digest, digest, sizeof(record.digest));
	memcpy(record.id, msg.id, sizeof(record.id));
	record.requests = row_of(batch, index)->sums.requests;
	record.bytes = row_of(batch, index)->sums.response_bytes;
	old = find_record(cluster, record.id);
	if (old && memcmp(old->digest, record.digest, sizeof(record.digest)) != 0)
		fault(cluster, "one id, two contents");
	if (old)
		old->copies++;
	else
		new_record(cluster, &record);
	tally_message_done(&msg);
}

static void take_control(struct sim_cluster *cluster, const struct tally_batch *batch)
{
	struct held_batch *held;

	cluster->batches =
		realloc(cluster->batches, (cluster->n_batches + 1) * sizeof(*cluster->batches));
	held = &cluster->batches[cluster->n_batches++];
	held->number = batch->head.number;
	memcpy(held->prev, batch->head.prev_chain, TALLY_CHAIN);
	memcpy(held->chain, batch->chain, TALLY_CHAIN);
}

static void apply(struct sim_cluster *cluster, const struct piece *piece, __u64 to)
{
	for (__u64 i = piece->from; i < to; i++)
		take_record(cluster, piece->batch, i);
	if (to < piece->to)
		return;
	if (piece->at.whole)
		take_control(cluster, piece->batch);
	cluster->at = piece->at;
}

static void settle_hanging(struct sim_cluster *cluster)
{
	if (!cluster->hanging.batch)
		return;
	if (sim_chance(cluster->dice, 50))
		apply(cluster, &cluster->hanging, cluster->hanging.to);
	tally_batch_free(cluster->hanging.batch);
	cluster->hanging.batch = NULL;
}

static void answer(struct sim_sink *sink, enum tally_sink_event_kind kind, int error)
{
	sink->event = (struct tally_sink_event){
		.kind = kind,
		.error = error,
		.checkpoint = sink->cluster->at,
	};
	sink->delay = (int)sim_roll(sink->cluster->dice, 3);
}

static bool trouble(struct sim_cluster *cluster)
{
	return !cluster->healthy || sim_chance(cluster->dice, cluster->trouble);
}

static int sim_open(struct tally_sink *base, const char *agent)
{
	struct sim_sink *sink = (struct sim_sink *)base;
	struct sim_cluster *cluster = sink->cluster;

	if (sink->open)
		fault(cluster, "opened twice");
	sink->open = true;
	if (trouble(cluster)) {
		answer(sink, TALLY_SINK_FAILED, -ENOTCONN);
		return 0;
	}
	settle_hanging(cluster);
	if (strcmp(cluster->agent, agent) != 0) { /* checkpoints are by agent */
		cluster->at = (struct tally_checkpoint){ 0 };
		(void)snprintf(cluster->agent, sizeof(cluster->agent), "%s", agent);
	}
	answer(sink, TALLY_SINK_OPENED, 0);
	return 0;
}

static void exactly_once(struct sim_sink *sink, struct piece *piece)
{
	struct sim_cluster *cluster = sink->cluster;

	switch (trouble(cluster) ? sim_roll(cluster->dice, 4) : 4) {
	case 0:
		answer(sink, TALLY_SINK_FAILED, -EIO);
		return;
	case 1:
		answer(sink, TALLY_SINK_DOUBT, -ETIMEDOUT);
		return;
	case 2:
		apply(cluster, piece, piece->to);
		answer(sink, TALLY_SINK_DOUBT, -ETIMEDOUT);
		return;
	case 3:
		tally_batch_free(cluster->hanging.batch);
		cluster->hanging = *piece;
		tally_batch_ref(piece->batch);
		answer(sink, TALLY_SINK_DOUBT, -ETIMEDOUT);
		return;
	default:
		apply(cluster, piece, piece->to);
		answer(sink, TALLY_SINK_SENT, 0);
	}
}

static void at_least_once(struct sim_sink *sink, struct piece *piece)
{
	struct sim_cluster *cluster = sink->cluster;
	__u64 part = piece->from + sim_roll(cluster->dice, piece->to - piece->from + 1);

	if (!trouble(cluster)) {
		apply(cluster, piece, piece->to);
		answer(sink, TALLY_SINK_SENT, 0);
		return;
	}
	if (part == piece->to)
		piece->to++; /* records arrived, the checkpoint did not */
	apply(cluster, piece, part);
	answer(sink, TALLY_SINK_DOUBT, -ETIMEDOUT);
}

static int sim_send(struct tally_sink *base, const struct tally_send *send)
{
	struct sim_sink *sink = (struct sim_sink *)base;
	struct sim_cluster *cluster = sink->cluster;
	__u64 left = tally_batch_messages(send->batch) - send->from;
	struct piece piece = { .batch = send->batch, .from = send->from };

	if (!sink->open)
		fault(cluster, "sent while closed");
	if (cluster->hanging.batch)
		fault(cluster, "sent after a doubt without opening again");
	if (send->from > tally_batch_messages(send->batch))
		fault(cluster, "sent from behind the end");
	piece.to = piece.from + (left ? 1 + sim_roll(cluster->dice, left) : 0);
	tally_checkpoint_at(send->batch, piece.to, &piece.at);
	if (cluster->delivery == SIM_EXACTLY_ONCE)
		exactly_once(sink, &piece);
	else
		at_least_once(sink, &piece);
	return 0;
}

static int sim_confirm(struct tally_sink *base)
{
	struct sim_sink *sink = (struct sim_sink *)base;

	if (trouble(sink->cluster))
		answer(sink, TALLY_SINK_FAILED, -EIO);
	else
		answer(sink, TALLY_SINK_CONFIRMED, 0);
	return 0;
}

static int sim_close(struct tally_sink *base)
{
	struct sim_sink *sink = (struct sim_sink *)base;

	sink->open = false;
	answer(sink, TALLY_SINK_CLOSED, 0);
	return 0;
}

static void sim_poll(struct tally_sink *base, struct tally_sink_event *ret_event)
{
	struct sim_sink *sink = (struct sim_sink *)base;

	ret_event->kind = TALLY_SINK_NOTHING;
	if (sink->delay-- > 0)
		return;
	*ret_event = sink->event;
	sink->event.kind = TALLY_SINK_NOTHING;
}

static void sim_free(struct tally_sink *base)
{
	free(base->name);
	free(base);
}

static const struct tally_sink_ops ops = {
	.open = sim_open,
	.send = sim_send,
	.confirm = sim_confirm,
	.close = sim_close,
	.poll = sim_poll,
	.free = sim_free,
};

struct tally_sink *sim_cluster_sink(struct sim_cluster *cluster, const char *name, bool required)
{
	struct sim_sink *sink = calloc(1, sizeof(*sink));

	sink->sink = (struct tally_sink){ .ops = &ops, .required = required, .wake_fd = -1 };
	sink->sink.name = strdup(name);
	sink->cluster = cluster;
	return &sink->sink;
}

const char *sim_cluster_fault(const struct sim_cluster *cluster)
{
	return cluster->fault;
}

void sim_cluster_sums(const struct sim_cluster *cluster, struct sim_sums *ret_sums, __u64 *ret_dups)
{
	*ret_sums = (struct sim_sums){ 0 };
	*ret_dups = 0;
	for (size_t i = 0; i < cluster->n_records; i++) {
		const struct held_record *record = &cluster->records[i];

		*ret_dups += record->copies - 1;
		if (record->connection || record->key < 0 || record->key >= SIM_KEYS)
			continue;
		ret_sums->requests[record->key] += record->requests;
		ret_sums->bytes[record->key] += record->bytes;
	}
}

bool sim_cluster_adds_up(const struct sim_cluster *cluster)
{
	struct sim_sums sums[2] = { 0 };

	for (size_t i = 0; i < cluster->n_records; i++) {
		const struct held_record *record = &cluster->records[i];
		struct sim_sums *into = &sums[record->connection];

		if (!record->by_connection || record->key < 0 || record->key >= SIM_KEYS)
			continue;
		into->requests[record->key] += record->requests;
		into->bytes[record->key] += record->bytes;
	}
	return memcmp(&sums[0], &sums[1], sizeof(sums[0])) == 0;
}

bool sim_cluster_contiguous(const struct sim_cluster *cluster)
{
	for (size_t i = 1; i < cluster->n_batches; i++) {
		const struct held_batch *a = &cluster->batches[i - 1], *b = &cluster->batches[i];

		if (a->number == b->number) /* at least once */
			continue;
		if (b->number != a->number + 1 || memcmp(a->chain, b->prev, TALLY_CHAIN) != 0)
			return false;
	}
	return true;
}
