/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the services of a config to what the kernel reads (include/tally/rules.h) and to what the
 * accounting reads (ruleset.h).
 *
 * Indices. A route's index is 1 + its rank among the routes of its service, sorted by template and
 * then by method; 0 is _other. A method's index is its place in: 0 any other, GET HEAD POST PUT
 * DELETE CONNECT OPTIONS PATCH TRACE, then those that routes name, sorted. Both follow from the
 * canonical JSON alone, so an old ledger can be read by an agent that has the JSON.
 *
 * The id of a ruleset is SHA-256 over the canonical JSON of services sorted by name: key sources,
 * routes, credits, billable rules. Where a service runs is not part of it.
 */
#ifndef TALLY_IDENTIFY_RULES_H
#define TALLY_IDENTIFY_RULES_H

#include "base/config.h"
#include "identify/ruleset.h"
#include "tally/rules.h"

/* Of a ruleset's JSON: what is larger is not written, as it could not be read back. */
#define TALLY_RULESET_BYTES (64U << 20)

/* What the kernel's copy is made for. */
struct tally_rules_target {
	uint32_t generation;
	uint16_t service; /* index of the service */
	uint64_t secret[2];
};

/* Do two key sources read the same place? Then a service can have only one of them. */
bool tally_rules_same_place(const struct tally_config_key *a, const struct tally_config_key *b);
/* Can the key sources of a service be compiled? */
bool tally_rules_keys_fit(const struct tally_config_service *service);

/* Everything that can be wrong with routes and key sources, also of kubernetes.unlisted, as faults. */
TALLY_MUST int tally_rules_check(const struct tally_config *config, struct tally_diag *diag);

/* -EINVAL: what tally_rules_check() says; -ENOMEM. struct tally_rules is 70 KB: not for a stack. */
TALLY_MUST int tally_rules_compile(const struct tally_config_service *service,
				   const struct tally_rules_target *target,
				   struct tally_rules *ret_rules);

/* "sha256:" and 8 hex digits, as in records. */
TALLY_MUST int tally_rules_id(const struct tally_config *config, char ret_id[TALLY_RULESET_ID]);

/*
 * The text to keep as state_dir/rulesets/<generation>.json. indices[i]: the index that the kernel
 * knows config->services[i] by; NULL: i. To free.
 */
TALLY_MUST int tally_rules_dump(const struct tally_config *config, const uint16_t *indices,
				char **ret_json);

#endif
