/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The layout of the state of connections: what programs of one build leave in the kernel and programs
 * of another find there. It has a name, made of the C declarations of the values of the maps, and the
 * name is pinned:
 *
 *	PIN_DIR/conns, parked, deferred    in this layout
 *	PIN_DIR/layout-<16 hex digits>     its name
 *
 * A busy connection may thus be unparsed, by octets, until it ends. Exact would be that the old programs
 * stay attached for the connections they know, with empty scopes and ports, and that the new ones leave
 * alone what has an entry in the old map: they would have to look there once for each new socket.
 *
 * Invariants: L1 programs never see state of a layout that is not theirs: where the name is another,
 * or none is pinned, they get new maps, and connections are joined midway; L2 the old name goes
 * before the maps do, and the new one comes after them, so that a start that died is seen as a change.
 */
#ifndef TALLY_COLLECT_LAYOUT_H
#define TALLY_COLLECT_LAYOUT_H

#include <stdbool.h>

#include "base/util.h"

#define TALLY_LAYOUT_NAME 24

struct bpf_object;

/* Does this map hold state of connections? */
bool tally_layout_has(const char *map);

/* The name of the object's layout. -ENOENT: it has no such maps, or no BTF. */
TALLY_MUST int tally_layout_name(const struct bpf_object *obj, char ret_name[TALLY_LAYOUT_NAME]);

/* Is that the name that is pinned in this folder? */
bool tally_layout_is(int dir_fd, const char *name);

/* Remove the names that are pinned. */
TALLY_MUST int tally_layout_forget(int dir_fd);

#endif
