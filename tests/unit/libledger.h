/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tests of account/ and deliver/ share: rows by hand, a resolver that knows a few keys, and
 * a folder of their own.
 *
 *	key 1	cus_acme, key_a, live	key 2	not catalogued: kfp_b
 *	key 3	cus_acme, key_c, not billable	key 404	gone from the dictionary
 *	route 1 /v1/a, 10 credits; 2 /health; 3 /v1/t: truncated is not charged; ruleset 99: unknown
 */
#ifndef TESTS_UNIT_LIBLEDGER_H
#define TESTS_UNIT_LIBLEDGER_H

#include "account/account.h"
#include <stdint.h>

#include "account/audit.h"
#include "account/batch.h"
#include "deliver/ship.h"

#define LEDGER_START_S 1788264000ULL /* 2026-09-01T12:00:00Z, a full hour */

extern const struct tally_resolver ledger_resolver;

/* key 0: anonymous. Of hour LEDGER_START_S. */
struct tally_frozen_row ledger_row(__u64 key, __u16 route, __u16 status, __u64 requests);
/* An epoch of ten seconds, the n-th from LEDGER_START_S. Its totals balance. */
struct tally_frozen ledger_epoch(__u64 number, struct tally_frozen_row *rows, size_t n_rows,
				 struct tally_totals *totals);
/* One epoch closed; aborts the test on an error. */
void ledger_close(const struct tally_frozen *frozen, struct tally_sealed *ret_sealed);
void ledger_batch(const struct tally_frozen *frozen, __u64 number, struct tally_batch **ret_batch);

#define LEDGER_CONTROL SIZE_MAX
/* Message `index` of a batch, or its control record; `from` in its text becomes `to` (NULL: it stays). */
void ledger_feed(struct tally_audit *audit, const struct tally_batch *batch, size_t index,
		 const char *from, const char *to);
/* No input may do harm: every cut and every flipped bit of a body. How many cuts can be read as a whole
 * file, which is then one without connections. */
size_t ledger_damage(struct tally_buf *body);

/* A new empty folder below /tmp, and its removal. */
char *ledger_folder(void);
void ledger_remove(char *folder);

#endif
