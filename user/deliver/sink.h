/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A sink: where batches go. The shipper drives it, one request at a time, and never waits: a
 * request returns at once, and its answer comes as an event, in poll(), in the shipper's thread.
 *
 *	request		answer
 *	open		OPENED (with the sink's own checkpoint) or FAILED
 *	send		SENT: records and checkpoint are there, both, or DOUBT: nobody knows
 *	confirm		CONFIRMED (checkpoint read back from the sink) or FAILED
 *	close		CLOSED
 *
 * After DOUBT or FAILED the shipper closes, opens again and decides by the checkpoint; likewise when an
 * answer does not come within patience_ms.
 */
#ifndef TALLY_DELIVER_SINK_H
#define TALLY_DELIVER_SINK_H

#include <stdbool.h>
#include <string.h>
#include <linux/types.h>

#include "account/batch.h"

#define TALLY_TXN_RECORDS 10000
#define TALLY_TXN_BYTES (8u << 20)

/* What a sink durably has. batch 0: nothing yet. */
struct tally_checkpoint {
	__u64 batch;
	__u64 seq;	   /* last usage record there */
	__u64 connections; /* records of connections there: they come behind the usage records */
	bool whole;	   /* the batch's control record is there too */
	__u32 incarnation;
	__u8 chain[TALLY_CHAIN];	/* of the batch */
	struct tally_position position; /* after the batch */
};

enum tally_sink_event_kind {
	TALLY_SINK_NOTHING,
	TALLY_SINK_OPENED,
	TALLY_SINK_SENT,
	TALLY_SINK_CONFIRMED,
	TALLY_SINK_CLOSED,
	TALLY_SINK_FAILED, /* surely nothing was sent */
	TALLY_SINK_DOUBT,  /* perhaps it was */
};

struct tally_sink_event {
	enum tally_sink_event_kind kind;
	struct tally_checkpoint checkpoint; /* OPENED, SENT, CONFIRMED */
	int error;			    /* FAILED, DOUBT: -errno */
};

/*
 * One transaction: messages of a batch from index `from`, as many as the sink's limits allow; when it
 * is all of them, the control record too. SENT carries the checkpoint that was applied with them.
 */
struct tally_send {
	struct tally_batch
		*batch; /* valid until answered or closed; longer only with a reference */
	__u64 from;
};

struct tally_sink;
struct tally_sink_ops {
	int (*open)(struct tally_sink *sink, const char *agent);
	int (*send)(struct tally_sink *sink, const struct tally_send *send);
	int (*confirm)(struct tally_sink *sink);
	int (*close)(struct tally_sink *sink);
	/* The next event, or NOTHING. Never waits. */
	void (*poll)(struct tally_sink *sink, struct tally_sink_event *ret_event);
	void (*free)(struct tally_sink *sink);
};

/* Embedded first in each implementation. */
struct tally_sink {
	const struct tally_sink_ops *ops;
	char *name;    /* unique; names its state file */
	bool required; /* batches wait for it before they are trimmed; set by the creator's caller */
	bool in_state; /* it writes below the state directory: what it finds full is the spool's disk */
	int wake_fd;	   /* becomes readable when poll() has something; -1: it always may */
	__u32 patience_ms; /* no answer takes longer; who still waits then waits in vain; 0: for ever */
};

/* The checkpoint after messages [.., to) of a batch. */
static inline void tally_checkpoint_at(const struct tally_batch *batch, __u64 to,
				       struct tally_checkpoint *ret_checkpoint)
{
	__u64 records = tally_batch_records(batch);

	*ret_checkpoint = (struct tally_checkpoint){
		.batch = batch->head.number,
		.seq = batch->head.seq_first + (to < records ? to : records) - 1,
		.connections = to > records ? to - records : 0,
		.whole = to == tally_batch_messages(batch),
		.incarnation = batch->head.incarnation,
	};
	memcpy(ret_checkpoint->chain, batch->chain, TALLY_CHAIN);
	(void)tally_sealed_position(&batch->sealed, &ret_checkpoint->position); /* else not known */
}

#endif
