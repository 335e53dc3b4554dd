/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names behind the numbers of a ledger row, for the resolver of account/account.h: the key catalog and
 * a ruleset, whoever closes the books (the agent, or replay).
 */
#ifndef TALLY_RESOLVE_H
#define TALLY_RESOLVE_H

#include "account/account.h"
#include "base/config.h"
#include "identify/catalog.h"
#include "identify/ruleset.h"

/* Where texts of an answer live until the next one. */
struct tally_resolve {
	char kfp[TALLY_CATALOG_KFP];
	struct tally_unit units[TALLY_UNITS_MAX];
	struct tally_peer_cut cut;
};

/* catalog may be NULL. secret: of the fleet, for keys that are not catalogued. */
TALLY_MUST int tally_resolve_owner(struct tally_resolve *resolve,
				   const struct tally_catalog *catalog, const char *secret,
				   const uint8_t sha256[TALLY_CATALOG_SHA], uint64_t time_s,
				   struct tally_owner *ret_owner);
/* -ENOENT: the ruleset does not know such a row. */
TALLY_MUST int tally_resolve_terms(struct tally_resolve *resolve,
				   const struct tally_ruleset_view *view,
				   const struct tally_row_key *key, struct tally_terms *ret_terms);
/* For the resolver's `connections`: NULL where records of connections are not asked for. */
const struct tally_peer_cut *tally_resolve_connections(struct tally_resolve *resolve,
						       const struct tally_config_records *records);

#endif
