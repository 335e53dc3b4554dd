/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the programs are hooked: cgroup links, pinned as PIN_DIR/link-<cgroup id>-<hook>, so that the
 * pin folder is the list of what is attached, for us and for the next start.
 *
 * Invariants: H1 a program is replaced in its link, never detached and attached again; H2 what is
 * new is attached before anything is detached; H3 a folder below an attached folder is not attached
 * (its packets already pass ours); H4 a link whose cgroup is gone is forgotten.
 */
#ifndef TALLY_COLLECT_ATTACH_H
#define TALLY_COLLECT_ATTACH_H

#include <stdint.h>

#include "base/util.h"
#include "collect/cgroup.h"
#include "collect/load.h"

/* Put the programs of load into every pinned link. The first error stops it. */
TALLY_MUST int tally_attach_update(struct tally_load *load);

/*
 * Make the attached folders exactly these (those below others are left out). What cannot be attached
 * is skipped and counted in *ret_failed; the last reason is returned when all failed.
 */
TALLY_MUST int tally_attach_set(struct tally_load *load, const struct tally_cgroups *wanted,
				uint32_t *ret_attached, uint32_t *ret_failed);

/* Bit n: enum tally_hook n is pinned for this cgroup. */
uint32_t tally_attach_hooks(const struct tally_load *load, uint64_t cgroup);

/* Detach everything. */
TALLY_MUST int tally_attach_clear(struct tally_load *load);

#endif
