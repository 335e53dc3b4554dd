/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a frozen epoch to sealed rows: adds up over connections, splits by hour, names everything
 * and puts a charge beside every sum. Pure: no files, no clock; what it must know comes through
 * the callbacks of a resolver, which the agent wires to the key catalog and to the rulesets.
 *
 * Invariants: A1 every row of the epoch, and every `lost` total, ends in exactly one sealed row;
 * A2 a name that cannot be resolved changes the attribution, never the sums; A3 the same epoch with
 * the same resolver gives the same sealed rows; A4 if connections are kept, each of these ends in
 * exactly one of them, too, under the same names: what has no connection is one without.
 */
#ifndef TALLY_ACCOUNT_ACCOUNT_H
#define TALLY_ACCOUNT_ACCOUNT_H

#include <stdbool.h>

#include "account/frozen.h"
#include "account/peer.h"
#include "account/seal.h"

/* Whom a key belongs to. Texts are copied before the next callback. */
struct tally_owner {
	const char *customer; /* NULL: not catalogued */
	const char *api_key;  /* public id, or kfp_... */
	enum tally_key_ref key_ref;
	enum tally_mode mode;
	bool billable; /* the catalog's flag; true where it says nothing */
};

/* One unit of a service's tariff: what one chargeable request adds. */
struct tally_unit {
	const char *name;
	__u64 amount; /* in units of 1/TALLY_UNIT_SCALE */
};

/* Names and rules of one row. Texts are copied before the next callback. */
struct tally_terms {
	const char *service;
	const char *route;     /* template; "_other" where none matched */
	const char *method;    /* "_other" for a method the ruleset does not know */
	const char *ruleset;   /* "sha256:..." */
	bool health;	       /* route marked so: never charged */
	bool billable;	       /* rules of route and service for this status and attribution */
	bool charge_truncated; /* false: incomplete responses are not charged */
	const struct tally_unit *units;
	size_t n_units; /* at most TALLY_UNITS_MAX */
};

/* Where a request was answered; NULL: not told. Texts are copied before the next callback. */
struct tally_origin {
	const char *namespace, *workload, *pod, *node;
};

struct tally_resolver {
	void *ctx;
	/* hash of the key's text -> owner, by the catalog in force at time_s. -ENOENT: the text is
	 * gone (no dictionary entry, or never resolved): the row becomes dictionary_full. */
	int (*owner)(void *ctx, __u64 key_hash, __u64 time_s, struct tally_owner *ret_owner);
	/* The terms for (ruleset generation, service, route, method, status, attribution).
	 * -ENOENT: the generation is unknown: names become "_unknown", nothing is charged. */
	int (*terms)(void *ctx, const struct tally_row_key *key, struct tally_terms *ret_terms);
	/* Name of a service index; NULL: unknown. */
	const char *(*service)(void *ctx, __u16 service);
	/* Of a row's origin, not 0; unknown: all NULL. May be NULL itself. */
	void (*origin)(void *ctx, __u32 origin, struct tally_origin *ret_origin);
	/* Not NULL: rows are kept by connection, too, and so much of an address is told. */
	const struct tally_peer_cut *connections;
};

/* Default rule of RECORD: success only. For the resolver's use. */
enum tally_reason tally_account_reason(__u16 status, enum tally_attribution attribution,
				       bool health);

/* 0, -ENOMEM, -EINVAL (window not whole seconds, or empty). *ret_sealed is tally_sealed_done()'s. */
int tally_account_close(const struct tally_frozen *frozen, const struct tally_resolver *resolver,
			struct tally_sealed *ret_sealed) __attribute__((warn_unused_result));

#endif
