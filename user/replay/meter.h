/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel's meter over plain memory: the engine and the sequence code of bpf/, with ports that
 * are hash tables instead of maps. For captures (replay), for tests and for fuzzing.
 *
 *	tally_meter ──┬─ rows          (connection, key, route, ...) -> struct tally_row
 *	              ├─ totals        per service
 *	              ├─ dictionary    hash -> text of keys that a response accepted
 *	              └─ connections   each with its parsers, queue and parked pieces
 *
 * Invariants: N1 no state outside of the meter: any number of them may be used side by side, each by
 * one thread; N2 what the kernel does to a segment is done here by the same lines, not by a copy of
 * them; N3 the caps are the kernel's, unless the options say less.
 */
#ifndef TALLY_REPLAY_METER_H
#define TALLY_REPLAY_METER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/util.h"
#include "tally/ledger.h"
#include "tally/rules.h"

enum { TALLY_METER_IN, TALLY_METER_OUT }; /* from the client, from the server */

struct tally_meter_options {
	/* Caps; 0: the kernel's. */
	uint32_t candidates, dictionary, pieces, guesses;
	/* For tests: parser memory ends at a page that cannot be touched, and memory behind the
	 * octets of a chunk is filled with this octet. */
	bool guarded;
	uint8_t fill;
};

/* One TCP segment, with what TCP knew before it (rcv_nxt, snd_nxt, snd_una of the server's socket). */
struct tally_meter_segment {
	const void *data;
	uint32_t len;
	uint32_t missing; /* of these, the last ones are not in data: they can only be skipped */
	uint32_t seq;	  /* of the first octet of data */
	uint8_t dir;
	bool fin, urgent;
	uint32_t rcv_nxt, snd_nxt, snd_una;
	uint64_t now_ns; /* UTC */
};

struct tally_meter_birth {
	const struct tally_rules *rules; /* must outlive the connection */
	uint64_t cookie;		 /* unique */
	uint8_t peer[16];
	uint16_t peer_port;
	bool midstream;		    /* it was there before the meter: positions are not known */
	uint32_t next_in, next_out; /* positions of the first octets */
};

struct tally_meter;
struct tally_meter_conn;

TALLY_MUST int tally_meter_new(const struct tally_meter_options *options,
			       struct tally_meter **ret_meter);
void tally_meter_free(struct tally_meter *meter);

TALLY_MUST int tally_meter_open(struct tally_meter *meter, const struct tally_meter_birth *birth,
				struct tally_meter_conn **ret_conn);
/* 0, or -ENOMEM: the books are not whole any more. */
TALLY_MUST int tally_meter_segment(struct tally_meter *meter, struct tally_meter_conn *conn,
				   const struct tally_meter_segment *segment);
/* TCP has closed: what is left is booked, and conn is freed. segment: dir, data, len are ignored. */
TALLY_MUST int tally_meter_close(struct tally_meter *meter, struct tally_meter_conn *conn,
				 const struct tally_meter_segment *last);

/* What the connection holds and no row has yet, by direction: octets in order, and parked ones. */
struct tally_meter_held {
	uint64_t exchanges; /* requests without a final response head, and the response under way */
	uint64_t octets[2];
	uint64_t parked[2];
};
void tally_meter_held(const struct tally_meter *meter, const struct tally_meter_conn *conn,
		      struct tally_meter_held *ret_held);

/* Rows in the order they were made. */
struct tally_meter_entry {
	struct tally_row_key key;
	struct tally_row row;
};
size_t tally_meter_rows(const struct tally_meter *meter);
const struct tally_meter_entry *tally_meter_row(const struct tally_meter *meter, size_t i);
/* Forgets the rows and totals, as a swap of the ledger does. Connections go on. */
void tally_meter_swap(struct tally_meter *meter);

const struct tally_totals *tally_meter_totals(const struct tally_meter *meter, uint16_t service);

/* The text of an accepted key; NULL: it never was. */
const void *tally_meter_key(const struct tally_meter *meter, uint64_t hash, size_t *ret_bytes);
size_t tally_meter_keys(const struct tally_meter *meter);
/* The nth of them, in the order they were accepted; NULL: there are not so many. */
const void *tally_meter_key_nth(const struct tally_meter *meter, size_t n, size_t *ret_bytes);
/* Makes a key known beforehand, as an agent's dictionary does. */
TALLY_MUST int tally_meter_know(struct tally_meter *meter, const struct tally_rules *rules,
				const void *text, size_t bytes);
/* Resources in use, for leak checks: candidates held, pieces parked. */
size_t tally_meter_candidates(const struct tally_meter *meter);
size_t tally_meter_pieces(const struct tally_meter *meter);

TALLY_CLEANUP(struct tally_meter *, tally_meter_freep, tally_meter_free)

#endif
