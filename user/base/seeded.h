/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uthash with a seeded hash: who chooses the keys does not choose the buckets. Included in place of
 * <uthash.h>; an allocation that fails is told (HASH_NONFATAL_OOM).
 */
#ifndef TALLY_BASE_SEEDED_H
#define TALLY_BASE_SEEDED_H

#include "base/util.h"
#include "tally/hash.h"

static uint64_t hash_seed[2];

/* Before the first table is filled. 0, or -errno. */
static int seed_hash(void)
{
	return hash_seed[0] ? 0 : tally_util_random(hash_seed, sizeof(hash_seed));
}

static unsigned int seeded_hash(const void *key, size_t bytes)
{
	return (unsigned int)tally_key_hash(key, (__u32)bytes, (const __u64 *)hash_seed);
}

#define HASH_FUNCTION(keyptr, keylen, hashv) ((hashv) = seeded_hash(keyptr, keylen))
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#endif
