/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection through the native meter, for fuzz targets: steps of octets, each delivered whole or cut
 * by a plan, and what came out as text. The target aborts when two plans differ, or when the books of
 * one do not balance.
 */
#ifndef TALLY_FUZZ_ENGINE_H
#define TALLY_FUZZ_ENGINE_H

#include "replay/meter.h"

#define ENGINE_STEPS 64

enum engine_kind { ENGINE_DATA, ENGINE_FIN };

struct engine_step {
	enum engine_kind kind;
	uint8_t dir; /* TALLY_METER_IN, TALLY_METER_OUT */
	bool whole;  /* never cut */
	const uint8_t *data;
	size_t len;
};

struct engine_script {
	const struct tally_rules *rules;
	bool midstream;
	struct engine_step steps[ENGINE_STEPS];
	size_t n_steps;
};

enum engine_cut { ENGINE_WHOLE, ENGINE_BYTES, ENGINE_RANDOM, ENGINE_REORDERED };

struct engine_plan {
	enum engine_cut cut;
	uint64_t seed;
	uint32_t isn[2];
	uint8_t fill; /* behind the octets of a chunk */
};

/* Rules of tests/vectors/NAME.yaml, compiled; kept. */
const struct tally_rules *engine_rules(const char *name);

void engine_add(struct engine_script *script, uint8_t dir, const void *data, size_t len);
void engine_fin(struct engine_script *script, uint8_t dir);

/* Plays it; aborts when the books do not balance. One line a row, sorted; to free. */
char *engine_play(const struct engine_script *script, const struct engine_plan *plan);

/* A row as engine_play() writes it; to free. */
char *engine_row(const struct tally_meter_entry *e, const char *key, size_t bytes);

/* Whole, octet by octet, and as the seed says: aborts, with a diff, when they differ. */
void engine_check(const struct engine_script *script, uint64_t seed);

uint64_t engine_random(uint64_t *seed);

#endif
