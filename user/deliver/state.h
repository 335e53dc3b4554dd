/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an agent must remember between two lives: who it is and which numbers are used up.
 *
 * Two files, state.0 and state.1, written in turn, each whole and durable; the higher generation is
 * the truth. One of them damaged or gone: the other may be one step old, continuity cannot be proven,
 * and the incarnation goes up. Both gone, or bound to another machine: a new agent.
 */
#ifndef TALLY_DELIVER_STATE_H
#define TALLY_DELIVER_STATE_H

#include "account/batch.h"
#include "deliver/fs.h"

/*
 * The window that was open when an agent began to run: until that one is sealed as closed in order, pins
 * that are gone are a loss, whatever the window before it says.
 */
struct tally_opening {
	__u8 ledger[TALLY_LEDGER_ID]; /* of it */
	__u64 number;		      /* 0: of a version that did not write it */
	__u8 hole; /* enum tally_hole: what the first window of this ledger will say; none: it is not known */
};

struct tally_state {
	char agent[TALLY_AGENT_ID + 1];
	__u8 machine[TALLY_SHA256]; /* digest of the machine's id */
	__u64 generation;
	__u32 incarnation;
	__u64 next_seq, next_batch;
	__u8 chain[TALLY_CHAIN];
	struct tally_position batched; /* up to here epochs are in a batch, or were */
	struct tally_position sealed;  /* the last epoch known */
	struct tally_opening opened;
};

enum tally_state_origin {
	TALLY_STATE_KEPT,    /* as it was left */
	TALLY_STATE_DOUBTED, /* present, but continuity cannot be proven: incarnation raised */
	TALLY_STATE_NEW,     /* none was there */
	TALLY_STATE_MOVED,   /* of another machine: a new agent */
};

/* Reads or makes; nothing is written but by save. machine_id NULL: whoever it belongs to; -ENOENT
 * when nobody. */
int tally_state_load(const struct tally_fs *fs, const char *machine_id,
		     struct tally_state *ret_state, enum tally_state_origin *ret_origin)
	__attribute__((warn_unused_result));
/* Durable on 0; raises the generation. */
int tally_state_save(const struct tally_fs *fs, struct tally_state *state)
	__attribute__((warn_unused_result));
/* A new incarnation: seq begins at 1 again. */
void tally_state_bump(struct tally_state *state);

#endif
