/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which local sockets belong to which service: maps `scopes` and `ports`, and the levels of tagged
 * cgroups in `settings`. New entries are written before old ones go (as far as there is room), and a
 * scope that stays is never missing. What tells connections that this has changed is written behind it:
 * settings.changes, for those that nobody wanted, and the marks of ports, for those that may have been out
 * of sight. Marks outlive the agent: the next one raises what it finds.
 */
#ifndef TALLY_COLLECT_SCOPES_H
#define TALLY_COLLECT_SCOPES_H

#include <stddef.h>
#include <stdint.h>

#include "base/util.h"
#include "collect/load.h"

#define TALLY_SCOPES_MAX 4096

struct tally_scope_want {
	uint64_t cgroup; /* 0: any */
	uint32_t level;	 /* of the cgroup */
	uint32_t service;
	uint16_t port;	 /* 0: any */
	uint32_t origin; /* for the rows of its sockets; 0: none */
};

/* Make the scopes exactly these. -E2BIG: more than the map holds. */
TALLY_MUST int tally_scopes_set(struct tally_load *load, const struct tally_scope_want *wanted,
				size_t n);

#endif
