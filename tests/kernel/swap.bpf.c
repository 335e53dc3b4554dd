/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The smallest program that books as the meter does: it reads the epoch's number once and adds one to
 * a row and to the totals of that epoch. Which row: the packet's first octet; odd ones have a place. The
 * second octet says how long it dawdles between the two, so that a freeze that does not wait for it is found
 * out.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

#include "bpf/place.h"
#include "tally/ledger.h"

#define INNER(name_, type_, key_, value_, n_, flags_) \
	struct name_ {                                \
		__uint(type, type_);                  \
		__uint(max_entries, n_);              \
		__uint(map_flags, flags_);            \
		__uint(key_size, sizeof(key_));       \
		__uint(value_size, sizeof(value_));   \
	}
#define OUTER(name_, inner_)                              \
	struct {                                          \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); \
		__uint(max_entries, 2);                   \
		__type(key, __u32);                       \
		__array(values, struct inner_);           \
	} name_ SEC(".maps")
#define ONE(name_, value_)                        \
	struct {                                  \
		__uint(type, BPF_MAP_TYPE_ARRAY); \
		__uint(max_entries, 1);           \
		__type(key, __u32);               \
		__type(value, value_);            \
	} name_ SEC(".maps")

INNER(rows, BPF_MAP_TYPE_HASH, struct tally_row_key, struct tally_row, 1024, BPF_F_NO_PREALLOC);
INNER(spill, BPF_MAP_TYPE_HASH, struct tally_row_key, struct tally_row, 1024, 0);
INNER(totals, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct tally_totals, TALLY_TOTALS, 0);
OUTER(epochs_rows, rows);
OUTER(epochs_spill, spill);
OUTER(epochs_totals, totals);
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tally_epoch);
} epoch SEC(".maps");
ONE(settings, struct tally_settings);

static struct tally_row *row_of(void *map, const struct tally_row_key *key)
{
	struct tally_row *row = bpf_map_lookup_elem(map, key);
	struct tally_row zero = {};

	if (row)
		return row;
	bpf_map_update_elem(map, key, &zero, BPF_NOEXIST);
	return bpf_map_lookup_elem(map, key);
}

static long dawdle(__u32 i, void *ctx)
{
	return 0;
}

/* Returns 0 when something was missing: the test then sees it in the return value. */
SEC("cgroup_skb/ingress")
int tally_swap(struct __sk_buff *skb)
{
	struct tally_row_key key = {};
	struct tally_totals *totals;
	struct tally_epoch *now;
	struct tally_row *row;
	__u32 zero = 0, index;
	__u64 number;
	__u8 octets[2];
	void *map;

	now = bpf_map_lookup_elem(&epoch, &zero);
	if (!now || bpf_skb_load_bytes(skb, 0, octets, sizeof(octets)))
		return 0;
	key.method = octets[0];
	key.conn = octets[0] & 1 ? octets[0] : 0; /* those have a place */
	number = *(const volatile __u64 *)&now->number;
	index = TALLY_EPOCH_INDEX(number);
	bpf_loop(octets[1] * 4096, dawdle, &zero, 0);
	map = bpf_map_lookup_elem(&epochs_rows, &index);
	if (!map)
		return 0;
	row = key.conn ? place_claim(index, number, &key) : 0;
	if (!row)
		row = row_of(map, &key);
	map = bpf_map_lookup_elem(&epochs_totals, &index);
	if (!map || !row)
		return 0;
	totals = bpf_map_lookup_elem(map, &zero);
	if (!totals)
		return 0;
	__sync_fetch_and_add(&row->requests, 1);
	totals->seen++;
	return 1;
}

char _license[] SEC("license") = "Dual BSD/GPL";
