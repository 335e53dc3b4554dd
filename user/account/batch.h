/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A batch: sealed rows with numbers. Once written it never changes, and every record that is made
 * from it has the same id, key and bytes each time.
 *
 *	head	agent, incarnation, batch number, first seq, time of recording, version, host, ...
 *	body	sealed rows; record i has seq_first + i; perhaps connections; connection i is (batch, i)
 *	chain	SHA-256(previous chain, SHA-256(record 0), ..., SHA-256(control record with its own
 *		chain as zeros))
 *
 * Records are encoded from the rows when they are sent; `chain` proves that the bytes are those of
 * the first time, also after an upgrade (TALLY_ENCODER names the encoder).
 *
 * Connections are records of their own (their topic, readers and retention are others'), so neither `seq`
 * nor `chain` runs through them: who reads usage records alone sees what he would see without them.
 * The control record tells how many there are, and their digest = SHA-256(SHA-256(connection 0), ...), and
 * so the chain vouches for them, too. What is sent for a batch, in order:
 *
 *	message	0 .. records - 1	.. + connections - 1	then the control record
 *
 * A batch of kind LOST holds no rows: it says that a range of another batch is given up.
 */
#ifndef TALLY_ACCOUNT_BATCH_H
#define TALLY_ACCOUNT_BATCH_H

#include <stdbool.h>
#include <stddef.h>

#include "account/frame.h"
#include "account/seal.h"

#define TALLY_CHAIN 32
#define TALLY_CHAIN_HEX (2 * TALLY_CHAIN)
#define TALLY_ENCODER 1
#define TALLY_RECORD_ID 72
#define TALLY_SOURCE_TEXT 24
#define TALLY_RECORD_MAX 65536 /* bytes of one record */

enum tally_batch_kind { TALLY_BATCH_USAGE, TALLY_BATCH_LOST };
enum tally_format { TALLY_FORMAT_CLOUDEVENTS, TALLY_FORMAT_OPENMETER };

/* A range whose file is damaged, given up by the operator. */
struct tally_loss {
	__u64 batch;		       /* 0: a sealed file that never had numbers */
	__u64 epoch_first, epoch_last; /* 0: not known */
	__u64 seq_first, seq_last;     /* seq_last < seq_first: none */
	__u32 incarnation;
};

struct tally_batch_head {
	char agent[TALLY_AGENT_ID + 1];
	__u32 incarnation;
	__u64 number;
	__u64 seq_first;
	__u64 recorded_s;
	__u64 spool_records, spool_bytes, spool_oldest_s; /* as they were at that moment */
	__u8 prev_chain[TALLY_CHAIN];
	__u8 kind; /* enum tally_batch_kind */
	struct tally_loss loss;
	const char *version, *host, *boot_id;
};

struct tally_batch {
	int refs;
	struct tally_batch_head head; /* its texts point into `texts` */
	char *texts[3];
	__u8 encoder;
	__u8 chain[TALLY_CHAIN];
	__u8 connections[TALLY_SHA256]; /* digest of the connections, if they are kept */
	struct tally_sealed sealed;
};

/* One message, ready to be sent. Texts are NUL-terminated; done() frees. */
struct tally_message {
	struct tally_buf value, key, subject;
	char id[TALLY_RECORD_ID];
	char source[TALLY_SOURCE_TEXT];
	char time[32];
	const char *type;
	__u64 seq;
};

void tally_message_init(struct tally_message *msg);
void tally_message_done(struct tally_message *msg);

/* Takes the sealed rows (also on failure), splits what no JSON integer can hold, numbers, hashes. */
int tally_batch_new(const struct tally_batch_head *head, struct tally_sealed *sealed,
		    struct tally_batch **ret_batch) __attribute__((warn_unused_result));
/* Several may hold a batch, in several threads; the last free() counts. */
struct tally_batch *tally_batch_ref(struct tally_batch *batch);
void tally_batch_free(struct tally_batch *batch);

int tally_batch_encode(const struct tally_batch *batch, struct tally_buf *buf);
int tally_batch_decode(struct tally_reader *reader, const char *agent,
		       struct tally_batch **ret_batch) __attribute__((warn_unused_result));
/* Encodes all records again: -EBADMSG when the chain is not the stored one. */
int tally_batch_verify(const struct tally_batch *batch) __attribute__((warn_unused_result));

static inline __u64 tally_batch_records(const struct tally_batch *batch)
{
	return batch->sealed.n_rows;
}

static inline __u64 tally_batch_connections(const struct tally_batch *batch)
{
	return batch->sealed.n_connections;
}

/* All that is sent for it, but the control record. */
static inline __u64 tally_batch_messages(const struct tally_batch *batch)
{
	return tally_batch_records(batch) + tally_batch_connections(batch);
}

/* Last seq of the batch; seq_first - 1 when it has no records. */
static inline __u64 tally_batch_seq_last(const struct tally_batch *batch)
{
	return batch->head.seq_first + batch->sealed.n_rows - 1;
}

/* Overwrites msg. 0, -ENOMEM, -EMSGSIZE. */
int tally_batch_usage(const struct tally_batch *batch, __u64 index, enum tally_format format,
		      struct tally_message *msg);
/* One of tally_batch_connections(); CloudEvents, whatever the format of the others. */
int tally_batch_connection(const struct tally_batch *batch, __u64 index, struct tally_message *msg);
/* One of tally_batch_messages(). */
int tally_batch_message(const struct tally_batch *batch, __u64 index, enum tally_format format,
			struct tally_message *msg);
int tally_batch_control(const struct tally_batch *batch, struct tally_message *msg);

/* murmur2 of the key as Java's clients compute it, made positive: % partitions is the partition. */
__u32 tally_batch_murmur2(const void *key, size_t len);

#endif
