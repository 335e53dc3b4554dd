/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plays a vector through the native meter, as TCP would deliver it: in order, cut anywhere, early,
 * twice, overlapping. The plan decides how; the outcome must not depend on it.
 *
 * The TCP it stands for: rcv_nxt passes what has come without a gap, at once, or (lag) only when the
 * step is over; the client acknowledges everything before it sends.
 */
#ifndef TALLY_TEST_PLAY_H
#define TALLY_TEST_PLAY_H

#include "tests/vectors/libvector.h"

enum play_mode {
	PLAY_WHOLE,  /* one segment a step */
	PLAY_SPLIT,  /* step `step` in two, before octet `at` */
	PLAY_BYTES,  /* one octet a segment */
	PLAY_PIECES, /* random pieces, in order */
	PLAY_SHUFFLE, /* random pieces, in any order, some twice or overlapping; old ones as garbage */
};

/* What is played to: the native meter, or another one. */
struct play_outcome {
	struct tally_meter_entry *rows;
	size_t n_rows;
	struct tally_totals totals;
	const void *(*key)(void *ctx, uint64_t hash, size_t *ret_bytes);
	void *ctx;
	size_t candidates, pieces; /* still in use */
	char *learned;
};

struct play_target {
	void (*open)(const struct vector *v, const struct vector_rules *rules,
		     const struct tally_meter_options *options,
		     const struct tally_meter_birth *birth);
	void (*segment)(const struct tally_meter_segment *segment);
	void (*window)(void); /* the ledger is swapped */
	/* rows and learned to free; the rest is valid until the next open(). */
	void (*close)(const struct tally_meter_segment *last, struct play_outcome *ret_outcome);
};
extern const struct play_target play_native;
/* For targets: rows and totals of one more window. */
void play_add(struct play_outcome *sum, const struct tally_meter_entry *rows, size_t n,
	      const struct tally_totals *totals);

struct play_plan {
	const struct play_target *target; /* NULL: native */
	enum play_mode mode;
	size_t step;
	uint64_t at;
	uint64_t seed;
	bool lag;
	uint32_t isn[2];
	uint8_t fill; /* behind the octets of a chunk */
};

struct play_result {
	char *text;    /* as vector_actual() */
	char *learned; /* "learned A B" */
	struct tally_totals totals;
	int broken; /* invariants that do not hold; each was printed */
};

void play(const struct vector *v, const struct vector_rules *rules, const struct play_plan *plan,
	  FILE *out, struct play_result *ret_result);
void play_done(struct play_result *result);

/* One line. */
void play_print_plan(const struct play_plan *plan, FILE *out);

/* A random number that the seed alone decides (splitmix64). */
uint64_t play_random(uint64_t *seed);

#endif
