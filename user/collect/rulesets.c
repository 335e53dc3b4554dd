/* SPDX-License-Identifier: Apache-2.0 */
#include "collect/rulesets.h"

#include <bpf/bpf.h>

#include "tally/ledger.h"

struct tally_rulesets {
	struct tally_load *load;
	uint32_t generations[TALLY_RULESET_SLOTS]; /* 0: free */
	uint32_t slots[TALLY_SERVICES];
	uint64_t secret[2];
};

static int read_slots(struct tally_rulesets *rulesets)
{
	_cleanup_free_ struct tally_rules *rules = calloc(1, sizeof(*rules));
	int fd = rulesets->load->maps[TALLY_MAP_RULESETS];

	if (!rules)
		return -ENOMEM;
	for (__u32 i = 0; i < TALLY_RULESET_SLOTS; i++) {
		if (bpf_map_lookup_elem(fd, &i, rules))
			return -errno;
		rulesets->generations[i] = rules->ruleset;
	}
	return 0;
}

/* A fresh array is all zero, which would name slot 0: a slot without generation is no slot. */
static int read_services(struct tally_rulesets *rulesets)
{
	struct tally_service service;
	int fd = rulesets->load->maps[TALLY_MAP_SERVICES];

	for (__u32 i = 0; i < TALLY_SERVICES; i++) {
		if (bpf_map_lookup_elem(fd, &i, &service))
			return -errno;
		rulesets->slots[i] = service.slot;
		if (service.slot < TALLY_RULESET_SLOTS && rulesets->generations[service.slot])
			continue;
		rulesets->slots[i] = TALLY_NO_SLOT;
		service.slot = TALLY_NO_SLOT;
		if (bpf_map_update_elem(fd, &i, &service, BPF_ANY))
			return -errno;
	}
	return 0;
}

int tally_rulesets_open(struct tally_load *load, struct tally_rulesets **ret_rulesets)
{
	_cleanup_free_ struct tally_rulesets *rulesets = calloc(1, sizeof(*rulesets));
	int err;

	if (!rulesets)
		return -ENOMEM;
	rulesets->load = load;
	err = read_slots(rulesets);
	if (!err)
		err = read_services(rulesets);
	if (!err)
		err = tally_load_secret(load, rulesets->secret);
	if (err)
		return err;
	*ret_rulesets = TAKE_PTR(rulesets);
	return 0;
}

void tally_rulesets_close(struct tally_rulesets *rulesets)
{
	if (!rulesets)
		return;
	explicit_bzero(rulesets->secret, sizeof(rulesets->secret));
	free(rulesets);
}

static bool in_force(const struct tally_rulesets *rulesets, uint32_t slot)
{
	for (int i = 0; i < TALLY_SERVICES; i++)
		if (rulesets->slots[i] == slot)
			return true;
	return false;
}

/* More slots than services: there always is one. */
static uint32_t free_slot(const struct tally_rulesets *rulesets)
{
	uint32_t best = TALLY_NO_SLOT;

	for (uint32_t i = 0; i < TALLY_RULESET_SLOTS; i++) {
		if (in_force(rulesets, i))
			continue;
		if (best == TALLY_NO_SLOT || rulesets->generations[i] < rulesets->generations[best])
			best = i;
	}
	return best;
}

static int point(struct tally_rulesets *rulesets, uint32_t service, uint32_t slot)
{
	struct tally_service value = { .slot = slot };

	if (bpf_map_update_elem(rulesets->load->maps[TALLY_MAP_SERVICES], &service, &value,
				BPF_ANY))
		return -errno;
	rulesets->slots[service] = slot;
	return 0;
}

int tally_rulesets_put(struct tally_rulesets *rulesets, struct tally_rules *rules)
{
	uint32_t slot = free_slot(rulesets);

	if (rules->service >= TALLY_SERVICES || slot == TALLY_NO_SLOT)
		return -EINVAL;
	memcpy(rules->secret, rulesets->secret, sizeof(rules->secret));
	if (bpf_map_update_elem(rulesets->load->maps[TALLY_MAP_RULESETS], &slot, rules, BPF_ANY))
		return -errno;
	rulesets->generations[slot] = rules->ruleset;
	return point(rulesets, rules->service, slot);
}

int tally_rulesets_drop(struct tally_rulesets *rulesets, uint32_t service)
{
	if (service >= TALLY_SERVICES)
		return -EINVAL;
	return rulesets->slots[service] == TALLY_NO_SLOT ? 0
							 : point(rulesets, service, TALLY_NO_SLOT);
}

uint32_t tally_rulesets_generation(const struct tally_rulesets *rulesets, uint32_t service)
{
	uint32_t slot = service < TALLY_SERVICES ? rulesets->slots[service] : TALLY_NO_SLOT;

	return slot < TALLY_RULESET_SLOTS ? rulesets->generations[slot] : 0;
}

uint32_t tally_rulesets_oldest(const struct tally_rulesets *rulesets)
{
	uint32_t best = 0;

	for (int i = 0; i < TALLY_RULESET_SLOTS; i++)
		if (rulesets->generations[i] && (!best || rulesets->generations[i] < best))
			best = rulesets->generations[i];
	return best;
}

uint32_t tally_rulesets_newest(const struct tally_rulesets *rulesets)
{
	uint32_t best = 0;

	for (int i = 0; i < TALLY_RULESET_SLOTS; i++)
		best = TALLY_MAX(best, rulesets->generations[i]);
	return best;
}
