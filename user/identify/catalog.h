/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The key catalog: a file that says whose keys have which SHA-256, never the keys.
 *
 *	keys:
 *	  - {id: key_7Q2M, customer: cus_acme, sha256: <64 hex>, mode: live,
 *	     valid_from: 2026-01-01, valid_to: 2026-12-31T23:00:00Z, billable: true}
 *
 * Invariants: a loaded catalog never changes; ids and hashes are unique; a file with a fault gives
 * no catalog, so the caller keeps the old one. An entry outside of its time is not found.
 */
#ifndef TALLY_IDENTIFY_CATALOG_H
#define TALLY_IDENTIFY_CATALOG_H

#include <sys/stat.h>

#include "base/option.h"

#define TALLY_CATALOG_SHA 32
#define TALLY_CATALOG_KFP 25 /* "kfp_", 20 characters, NUL */
#define TALLY_CATALOG_KEYS 400000

enum tally_catalog_mode {
	TALLY_CATALOG_MODE_NONE,
	TALLY_CATALOG_MODE_LIVE,
	TALLY_CATALOG_MODE_TEST,
};

struct tally_catalog_key {
	struct tally_place place;
	char *id, *customer;
	char *sha256_text;
	unsigned int mode; /* enum tally_catalog_mode */
	char *valid_from, *valid_to;
	bool billable;
	/* found in the texts above */
	uint8_t sha256[TALLY_CATALOG_SHA];
	int64_t from_s, to_s; /* half open */
};

struct tally_catalog;

/* Of the file; for its JSON schema. */
extern const struct tally_option_table tally_catalog_table;

/* -EINVAL: faults in diag; -errno of reading, said in diag too. */
TALLY_MUST int tally_catalog_load(const char *path, struct tally_diag *diag,
				  struct tally_catalog **ret_catalog);
TALLY_MUST int tally_catalog_parse(const char *text, size_t bytes, struct tally_diag *diag,
				   struct tally_catalog **ret_catalog);
void tally_catalog_free(struct tally_catalog *catalog);

/* The key's entry, if it is in force at time_s (UTC). NULL; also for a NULL catalog. */
const struct tally_catalog_key *tally_catalog_find(const struct tally_catalog *catalog,
						   const uint8_t sha256[TALLY_CATALOG_SHA],
						   int64_t time_s);
/* Does it have an entry of that key, be it in force or not? */
bool tally_catalog_has(const struct tally_catalog *catalog,
		       const uint8_t sha256[TALLY_CATALOG_SHA]);
size_t tally_catalog_count(const struct tally_catalog *catalog);

/* kfp_ id of a key that is not catalogued. */
TALLY_MUST int tally_catalog_kfp(const uint8_t sha256[TALLY_CATALOG_SHA], const char *secret,
				 size_t secret_bytes, char ret_id[TALLY_CATALOG_KFP]);
TALLY_MUST int tally_catalog_sha256(const void *key, size_t bytes,
				    uint8_t ret_sha256[TALLY_CATALOG_SHA]);

TALLY_CLEANUP(struct tally_catalog *, tally_catalog_freep, tally_catalog_free)

#endif
