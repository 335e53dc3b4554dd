/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole and its parts: do the records of connections add up to the usage records of their batch?
 *
 *	names, UTC hour ──> sums of usage records, sums of connection records
 *
 * Records are told apart by everything but what is counted, by their window's length and by the peer. All
 * sums must be equal but the duration's, which each record rounds down by itself.
 */
#ifndef TALLY_ACCOUNT_PARTS_H
#define TALLY_ACCOUNT_PARTS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <linux/types.h>

#define TALLY_PARTS_SUMS 5 /* requests, incomplete, request_bytes, response_bytes, duration_us */

extern const char *const tally_parts_names[TALLY_PARTS_SUMS];

struct tally_part {
	__u8 mark[16]; /* of the names */
	char *label;   /* for people */
	__u64 parts;
	unsigned __int128 whole[TALLY_PARTS_SUMS], sum[TALLY_PARTS_SUMS];
};

struct tally_parts {
	struct tally_part *list;
	size_t n;
	__u32 *slots; /* index + 1 */
	size_t cap;
};

void tally_parts_done(struct tally_parts *parts);
/* The data of a record: a usage record's (the whole), or a connection record's. -ENOMEM. */
int tally_parts_add(struct tally_parts *parts, const json_t *data, bool is_part)
	__attribute__((warn_unused_result));
/* Index of the first sum that differs; negative: none does. */
int tally_parts_differs(const struct tally_part *part);

#endif
