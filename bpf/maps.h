/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * All maps of the meter (include/tally/maps.h lists them with their meaning) but `places`, which stands in
 * place.h. Sizes that the config sets are set by the loader.
 */
#ifndef TALLY_BPF_MAPS_H
#define TALLY_BPF_MAPS_H

#include <bpf/bpf_helpers.h>

#include "meter_types.h"

#define ARRAY(name, n, type_)                     \
	struct {                                  \
		__uint(type, BPF_MAP_TYPE_ARRAY); \
		__uint(max_entries, n);           \
		__type(key, __u32);               \
		__type(value, type_);             \
	} name SEC(".maps")

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct tally_conn);
} conns SEC(".maps");

/* Sockets that this host opened itself: requests on them are somebody else's answers. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} outbound SEC(".maps");

/* Sizes, not types: clang 14 prunes the types of inner maps to forward declarations. */
struct rows_template {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__uint(key_size, sizeof(struct tally_row_key));
	__uint(value_size, sizeof(struct tally_row));
};

struct spill_template {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(key_size, sizeof(struct tally_row_key));
	__uint(value_size, sizeof(struct tally_row));
};

struct totals_template {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TALLY_TOTALS);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct tally_totals));
};

#define EPOCHS(name, template)                            \
	struct {                                          \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); \
		__uint(max_entries, 2);                   \
		__type(key, __u32);                       \
		__array(values, template);                \
	} name SEC(".maps")

EPOCHS(epochs_rows, struct rows_template);
EPOCHS(epochs_spill, struct spill_template);
EPOCHS(epochs_totals, struct totals_template);

ARRAY(epoch, 1, struct tally_epoch);
ARRAY(blank_row, 1, struct tally_row);	   /* stays zero: what a new row begins with */
ARRAY(blank_chunk, 1, struct tally_chunk); /* stays zero: what freed pieces are filled with */
ARRAY(clock, 1, struct tally_clock);
ARRAY(settings, 1, struct tally_settings);
ARRAY(services, TALLY_SERVICES, struct tally_service);
ARRAY(rulesets, TALLY_RULESET_SLOTS, struct tally_rules);
ARRAY(ports, 65536, __u8);
ARRAY(candidates, TALLY_CANDIDATES, struct tally_candidate);
ARRAY(candidates_long, TALLY_CANDIDATES_LONG, struct tally_candidate_long);
ARRAY(parked, TALLY_PARK_POOL, struct tally_parked);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tally_scope_key);
	__type(value, struct tally_scope);
} scopes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct tally_key_entry);
} dictionary SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tally_deferred_key);
	__type(value, struct tally_deferred);
} deferred SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TALLY_NEST);
	__type(key, __u32);
	__type(value, struct tally_scratch);
} scratch SEC(".maps");

#endif
