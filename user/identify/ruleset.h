/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ruleset as the accounting needs it: names and terms behind the numbers of a ledger row. It is
 * read from the JSON that tally_rules_dump() wrote when the generation was put in force, not from
 * the config of today.
 *
 *	{"id":"sha256:5b1e90aa","indices":["geo-api",null,...],"services":{"geo-api":{...},...}}
 */
#ifndef TALLY_IDENTIFY_RULESET_H
#define TALLY_IDENTIFY_RULESET_H

#include "base/util.h"
#include "tally/reasons.h"

#define TALLY_RULESET_ID 16 /* with its NUL */
#define TALLY_RULESET_UNITS 2
#define TALLY_RULESET_OTHER "_other"

struct tally_ruleset_view;

/* Which row: numbers of struct tally_row_key. */
struct tally_ruleset_query {
	uint16_t service, route, status;
	uint8_t method, attribution;
};

struct tally_ruleset_unit {
	const char *name;
	uint64_t amount; /* of one chargeable request, 10^-9 */
};

/* Texts live as long as the view. */
struct tally_ruleset_terms {
	const char *ruleset;
	const char *service;
	const char *route;  /* template without method, or _other */
	const char *method; /* or _other */
	bool health;
	bool auth_none;
	bool billable;	       /* by status and attribution; false for health and status 0 */
	bool charge_truncated; /* an incomplete response is charged like a whole one */
	const struct tally_ruleset_unit *units; /* requests, credits */
	size_t n_units;
};

/* What a row may be charged. */
struct tally_ruleset_charge {
	bool billable;
	uint64_t requests; /* chargeable */
	const struct tally_ruleset_unit *units;
	size_t n_units;
};

/* -EINVAL: not such a JSON; -ENOMEM. */
TALLY_MUST int tally_ruleset_load(const char *json, size_t bytes,
				  struct tally_ruleset_view **ret_view);
void tally_ruleset_free(struct tally_ruleset_view *view);

/* -ENOENT: no such service, route or method in this ruleset. */
TALLY_MUST int tally_ruleset_terms(const struct tally_ruleset_view *view,
				   const struct tally_ruleset_query *query,
				   struct tally_ruleset_terms *ret_terms);
/* The terms applied to a row of so many requests, of which so many were cut short. */
TALLY_MUST int tally_ruleset_charge(const struct tally_ruleset_view *view,
				    const struct tally_ruleset_query *query, uint64_t requests,
				    uint64_t incomplete, struct tally_ruleset_charge *ret_charge);

const char *tally_ruleset_id(const struct tally_ruleset_view *view);
/* NULL: this ruleset has no service of that index. */
const char *tally_ruleset_service(const struct tally_ruleset_view *view, uint16_t service);

TALLY_CLEANUP(struct tally_ruleset_view *, tally_ruleset_freep, tally_ruleset_free)

#endif
