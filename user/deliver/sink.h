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
 * After DOUBT or FAILED the shipper closes, opens again and decides by the checkpoint.
 */
#ifndef TALLY_DELIVER_SINK_H
#define TALLY_DELIVER_SINK_H

#include <stdbool.h>
#include <linux/types.h>

#define TALLY_AGENT_ID 12
#define TALLY_CHAIN 32

struct tally_batch;

/* What a sink durably has. batch 0: nothing yet. */
struct tally_checkpoint {
	__u64 batch;
	__u64 seq;	 /* last record there */
	bool whole;	 /* the batch's control record is there too */
	__u32 incarnation;
	__u8 chain[TALLY_CHAIN]; /* of the batch */
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
	struct tally_checkpoint checkpoint; /* OPENED, CONFIRMED */
	int error;			    /* FAILED, DOUBT: -errno */
};

/* One transaction: records [from, to) of a batch; `last`: the control record too. */
struct tally_send {
	const struct tally_batch *batch; /* stays valid until answered or closed */
	__u64 from, to;			 /* indices of records */
	bool last;
	struct tally_checkpoint checkpoint; /* true once this is applied */
};

struct tally_sink;
struct tally_sink_ops {
	int (*open)(struct tally_sink *sink);
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
	bool required; /* batches wait for it before they are trimmed */
	__u32 max_records;
	__u64 max_bytes;
	int wake_fd; /* becomes readable when poll() has something; -1: poll after each step */
};

#define TALLY_TXN_RECORDS 10000
#define TALLY_TXN_BYTES (8u << 20)

#endif
