/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rules in force: map `rulesets` holds the compiled rules, map `services` says which slot each
 * service uses. A slot is written whole before a service points to it, and is taken again only when
 * no service points to it, the oldest generation first: connections finish under the rules their
 * request was matched by, and know a slot that was taken from them by its generation.
 */
#ifndef TALLY_COLLECT_RULESETS_H
#define TALLY_COLLECT_RULESETS_H

#include <stdint.h>

#include "base/util.h"
#include "collect/load.h"
#include "tally/rules.h"

#define TALLY_NO_SLOT 0xffffffffU

struct tally_rulesets;

/* Reads back what an earlier start left. */
TALLY_MUST int tally_rulesets_open(struct tally_load *load, struct tally_rulesets **ret_rulesets);
void tally_rulesets_close(struct tally_rulesets *rulesets);

/* Put rules in force for their service. The secret is filled in here. */
TALLY_MUST int tally_rulesets_put(struct tally_rulesets *rulesets, struct tally_rules *rules);

/* The service is gone. */
TALLY_MUST int tally_rulesets_drop(struct tally_rulesets *rulesets, uint32_t service);

/* Generation in force for a service; 0: none. */
uint32_t tally_rulesets_generation(const struct tally_rulesets *rulesets, uint32_t service);

/* Smallest and greatest generation that stands in any slot; 0: none. */
uint32_t tally_rulesets_oldest(const struct tally_rulesets *rulesets);
uint32_t tally_rulesets_newest(const struct tally_rulesets *rulesets);

#endif
