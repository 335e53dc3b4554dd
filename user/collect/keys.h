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
 * name there (dictionary_full); K4 who is in the catalog need not make room for who is not: these get half
 * the dictionary at most, and what an error answered first one window. Of those that had to go, the last
 * ones are looked up here, half as many as the dictionary holds or more: a flood of keys ends there.
 */
#ifndef TALLY_COLLECT_KEYS_H
#define TALLY_COLLECT_KEYS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/util.h"
#include "collect/load.h"

#define TALLY_KEYS_IDLE 8640	   /* epochs: a day of windows of 10 s */
#define TALLY_KEYS_STALE_S 86400   /* a held candidate whose connection never came back */
#define TALLY_KEYS_FULL_PERCENT 90 /* above, unused entries make room */
#define TALLY_KEYS_HALF_PERCENT 50 /* above, those do that the catalog does not know */
#define TALLY_KEYS_NEW_PART 64	   /* which is looked at when so much of it is new */

struct tally_keys;

struct tally_keys_catalog {
	bool (*has)(void *ctx, const uint8_t sha256[32]);
	void *ctx;
};

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

/*
 * Make room, `epoch` being open: when the dictionary is more than half full, drop what is not catalogued, the
 * longest unused first, until it is half full; when it is nearly full then, what was not used since long.
 */
TALLY_MUST int tally_keys_trim(struct tally_keys *keys, uint64_t epoch,
			       const struct tally_keys_catalog *catalog);

/* `epoch` is about to be closed: drop what was learnt from errors in it and is not catalogued. */
TALLY_MUST int tally_keys_drop_guesses(struct tally_keys *keys, uint64_t epoch,
				       const struct tally_keys_catalog *catalog);

void tally_keys_status(const struct tally_keys *keys, struct tally_keys_status *ret_status);

#endif
