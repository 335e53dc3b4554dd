/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The key dictionary, seen from user space. The kernel leaves the text of each newly accepted key in
 * a candidate; here it becomes its SHA-256 in the dictionary, and the text is wiped.
 *
 *	candidate: FREE ──kernel──> HELD ──kernel──> ACCEPTED ──resolve──> FREE (wiped)
 *	dictionary:                                  NEW ───────resolve──> RESOLVED
 *
 * Invariants: K1 texts are read in place and copied nowhere; K2 a candidate is freed by one store,
 * after its text is zero; K3 what was in the dictionary can be looked up here until it was unused for
 * TALLY_KEYS_IDLE epochs, also when it had to make room in the kernel. What had to is known in memory
 * alone: used in the window that is open then, and the agent dies before that window is sealed, it has no
 * name there (dictionary_full).
 */
#ifndef TALLY_COLLECT_KEYS_H
#define TALLY_COLLECT_KEYS_H

#include <stdint.h>

#include "base/util.h"
#include "collect/load.h"

#define TALLY_KEYS_IDLE 8640	   /* epochs: a day of windows of 10 s */
#define TALLY_KEYS_STALE_S 86400   /* a held candidate whose connection never came back */
#define TALLY_KEYS_FULL_PERCENT 90 /* above, unused entries make room */

struct tally_keys;

struct tally_keys_status {
	uint32_t entries, capacity;	   /* of the dictionary */
	uint32_t held, accepted;	   /* candidates, when last polled */
	uint64_t resolved, dropped, stale; /* since start */
};

TALLY_MUST int tally_keys_open(struct tally_load *load, uint64_t epoch,
			       struct tally_keys **ret_keys);
void tally_keys_close(struct tally_keys *keys);

/* Resolve all accepted candidates. Call it after a swap and before sealing, and in between. */
TALLY_MUST int tally_keys_poll(struct tally_keys *keys);

/* SHA-256 of the text that has this hash; marks it as used in `epoch`. -ENOENT: nobody knows. */
TALLY_MUST int tally_keys_find(struct tally_keys *keys, uint64_t hash, uint64_t epoch,
			       uint8_t ret_sha256[32]);

/* Make room when the dictionary is nearly full: drop what was not used since long before `epoch`. */
TALLY_MUST int tally_keys_trim(struct tally_keys *keys, uint64_t epoch);

void tally_keys_status(const struct tally_keys *keys, struct tally_keys_status *ret_status);

#endif
