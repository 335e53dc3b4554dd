/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The meter in the kernel: its maps and programs, loaded once and pinned, found again by the next
 * start. Everything else of collect/ works on the descriptors held here.
 *
 *	PIN_DIR/settings              the last pin of a first start: without it the folder is a ruin
 *	PIN_DIR/<map>                 as in include/tally/maps.h
 *	PIN_DIR/layout-<hex>          layout.h
 *	PIN_DIR/windows               ours: epoch number -> when it was open (ledger.h)
 *	PIN_DIR/epoch-<n>-<kind>      ledger.h
 *	PIN_DIR/tally_<program>       the programs in force
 *	PIN_DIR/link-<cgroup>-<hook>  attach.h
 *
 * Invariants: a folder belongs to one agent at a time (flock); pins of another ABI, or with ledgers of
 * another layout, are refused and left as they are; state of connections in another layout stays with
 * the programs that made it (layout.h); a new object that does not load changes nothing.
 * Descriptors are close-on-exec: a forked child that kept a link would double the count.
 */
#ifndef TALLY_COLLECT_LOAD_H
#define TALLY_COLLECT_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/util.h"

/* Maps pinned under their own name. The outer maps of the epochs are among them. */
#define TALLY_PINNED_MAPS(X)                \
	X(SETTINGS, settings)               \
	X(CONNS, conns)                     \
	X(EPOCH, epoch)                     \
	X(EPOCHS_ROWS, epochs_rows)         \
	X(EPOCHS_SPILL, epochs_spill)       \
	X(EPOCHS_TOTALS, epochs_totals)     \
	X(PLACES, places)                   \
	X(CLOCK, clock)                     \
	X(SERVICES, services)               \
	X(RULESETS, rulesets)               \
	X(SCOPES, scopes)                   \
	X(PORTS, ports)                     \
	X(DICTIONARY, dictionary)           \
	X(CANDIDATES, candidates)           \
	X(CANDIDATES_LONG, candidates_long) \
	X(PARKED, parked)                   \
	X(DEFERRED, deferred)

#define TALLY_MAP_ITEM(symbol, name) TALLY_MAP_##symbol,
enum tally_map { TALLY_PINNED_MAPS(TALLY_MAP_ITEM) TALLY_MAP_WINDOWS, TALLY_MAP_COUNT };

/* One program per hook; in the order in which a cgroup is hooked: the birth of connections last. */
enum tally_hook { TALLY_HOOK_INGRESS, TALLY_HOOK_EGRESS, TALLY_HOOK_SOCKOPS, TALLY_HOOK_COUNT };

struct tally_load_options {
	const char *pin_dir;
	uint32_t connection_rows; /* rows of one epoch with their connection */
	uint32_t rows;		  /* rows of one epoch without */
	uint32_t keys;		  /* capacity of the dictionary; fixed while the pins stand */
};

#define TALLY_LOAD_EXTRAS 16

struct tally_load {
	char pin_dir[256];
	int dir_fd;
	int maps[TALLY_MAP_COUNT];
	int progs[TALLY_HOOK_COUNT];
	struct tally_load_extra {
		char *name;
		int fd;
	} extras[TALLY_LOAD_EXTRAS]; /* maps of the programs' own */
	size_t n_extras;
	uint32_t connection_rows;
	uint32_t rows;
	uint32_t keys;
	uint8_t *ports;	 /* what scopes.c knows to stand in map `ports`; NULL: nothing */
	char layout[24]; /* TALLY_LAYOUT_NAME: of the state of connections */
	bool reused;	 /* the maps of an earlier start */
	bool before;	 /* and that one was of the ABI before ours */
	bool renewed;	 /* but for the state of connections, whose layout is another */
	bool stale;	 /* the object did not load: the programs of an earlier start count on */
};

/*
 * Load the object, on the maps that are pinned if there are any. tally_attach_update() then puts its
 * programs in the place of the pinned ones. -EBUSY: another agent has the folder; -EPROTO: the pins
 * are of another layout; -EUCLEAN: some of the pins are missing; else why the kernel refused.
 */
TALLY_MUST int tally_load_open(const struct tally_load_options *options,
			       struct tally_load **ret_load);

/* The pinned maps and programs as they are; loads nothing. -ENOENT: nothing is pinned; -EUCLEAN: only
 * parts are. */
TALLY_MUST int tally_load_adopt(const struct tally_load_options *options,
				struct tally_load **ret_load);

/* Close the descriptors. What is pinned goes on counting. */
void tally_load_close(struct tally_load *load);

/* Pin the programs in force, in the place of older ones: after the links were updated. */
TALLY_MUST int tally_load_pin_programs(struct tally_load *load);

/*
 * Pins were removed under us, one or all: what we hold is pinned again. *ret_repaired: it was so; epochs
 * and hooks then want the same. -EBUSY: somebody else has made the folder meanwhile.
 */
TALLY_MUST int tally_load_repair(struct tally_load *load, bool *ret_repaired);

/* Remove all that stands in a pin folder that tally_load_adopt() calls -EUCLEAN, hooks included. */
TALLY_MUST int tally_load_wipe(const char *pin_dir);

/* Remove every pin, and the folder: the end of the meter in this kernel. Links go first. */
TALLY_MUST int tally_load_remove(struct tally_load *load);

/* Name of a map as pinned; of a hook as in link pins; of a program as in the object. */
const char *tally_load_map_name(enum tally_map map);
const char *tally_load_hook_name(enum tally_hook hook);
const char *tally_load_prog_name(enum tally_hook hook);

/* Join folder and name into out, of size bytes. -ENAMETOOLONG. */
TALLY_MUST int tally_load_path(const struct tally_load *load, const char *name, char *out,
			       size_t size);

/* The values of an array that may be mapped, of so many bytes: shared with the programs, to be written, too. */
TALLY_MUST int tally_load_map(int fd, size_t bytes, void **ret_base);

/* Key of the hashes: made with the pins, the same while they stand. */
TALLY_MUST int tally_load_secret(const struct tally_load *load, uint64_t ret_secret[2]);

/* What a program has cost since it was loaded; 0 while kernel.bpf_stats_enabled is 0. */
void tally_load_cost(const struct tally_load *load, enum tally_hook hook, uint64_t *ret_runs,
		     uint64_t *ret_ns);

/* Kernel memory of the maps we hold, epochs not included. */
uint64_t tally_load_memory(const struct tally_load *load);

/* Room of a map, in entries. */
uint32_t tally_load_capacity(const struct tally_load *load, enum tally_map map);

#endif
