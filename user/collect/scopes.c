/* SPDX-License-Identifier: Apache-2.0 */
#include "collect/scopes.h"

#include <bpf/bpf.h>

#include "tally/ledger.h"

#define PORTS 65536U
#define CHANGES_MAX 2048 /* written one by one */

static struct tally_scope_key key_of(const struct tally_scope_want *want)
{
	return (struct tally_scope_key){ .cgroup = want->cgroup, .port = want->port };
}

static int set_levels(struct tally_load *load, uint32_t mask)
{
	int fd = load->maps[TALLY_MAP_SETTINGS];
	struct tally_settings settings;
	__u32 zero = 0;

	if (bpf_map_lookup_elem(fd, &zero, &settings))
		return -errno;
	if (settings.levels_mask == mask)
		return 0;
	settings.levels_mask = mask;
	return bpf_map_update_elem(fd, &zero, &settings, BPF_ANY) ? -errno : 0;
}

static int get_levels(const struct tally_load *load, uint32_t *ret_mask)
{
	struct tally_settings settings;
	__u32 zero = 0;

	if (bpf_map_lookup_elem(load->maps[TALLY_MAP_SETTINGS], &zero, &settings))
		return -errno;
	*ret_mask = settings.levels_mask;
	return 0;
}

static uint32_t levels_of(const struct tally_scope_want *wanted, size_t n)
{
	uint32_t mask = 0;

	for (size_t i = 0; i < n; i++)
		if (wanted[i].cgroup && wanted[i].level < TALLY_SCOPE_LEVELS)
			mask |= 1U << wanted[i].level;
	return mask;
}

static int add_scopes(struct tally_load *load, const struct tally_scope_want *wanted, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct tally_scope_key key = key_of(&wanted[i]);
		struct tally_scope value = { .service = wanted[i].service,
					     .origin = wanted[i].origin };

		if (bpf_map_update_elem(load->maps[TALLY_MAP_SCOPES], &key, &value, BPF_ANY))
			return -errno;
	}
	return 0;
}

static bool is_wanted(const struct tally_scope_key *key, const struct tally_scope_want *wanted,
		      size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (wanted[i].cgroup == key->cgroup && wanted[i].port == key->port)
			return true;
	return false;
}

/* The keys are listed first: a walk of a hash that shrinks begins again. */
static int drop_scopes(struct tally_load *load, const struct tally_scope_want *wanted, size_t n)
{
	_cleanup_free_ struct tally_scope_key *keys = calloc(TALLY_SCOPES_MAX, sizeof(*keys));
	int fd = load->maps[TALLY_MAP_SCOPES];
	size_t count = 0;

	if (!keys)
		return -ENOMEM;
	while (count < TALLY_SCOPES_MAX &&
	       !bpf_map_get_next_key(fd, count ? &keys[count - 1] : NULL, &keys[count]))
		count++;
	for (size_t i = 0; i < count; i++)
		if (!is_wanted(&keys[i], wanted, n) && bpf_map_delete_elem(fd, &keys[i]) &&
		    errno != ENOENT)
			return -errno;
	return 0;
}

static void mark_ports(const struct tally_scope_want *wanted, size_t n, uint8_t *ports)
{
	for (size_t i = 0; i < n; i++) {
		if (wanted[i].port)
			ports[wanted[i].port] = 1;
		else
			memset(ports, 1, PORTS);
	}
}

static int write_all_ports(struct tally_load *load, const uint8_t *ports)
{
	_cleanup_free_ __u32 *keys = calloc(PORTS, sizeof(*keys));
	__u32 n = PORTS;

	if (!keys)
		return -ENOMEM;
	for (__u32 i = 0; i < PORTS; i++)
		keys[i] = i;
	return bpf_map_update_batch(load->maps[TALLY_MAP_PORTS], keys, ports, &n, NULL) ? -errno
											: 0;
}

static size_t count_changes(const uint8_t *old, const uint8_t *fresh)
{
	size_t n = 0;

	for (size_t i = 0; i < PORTS; i++)
		n += old[i] != fresh[i];
	return n;
}

static int write_changes(struct tally_load *load, const uint8_t *ports)
{
	for (__u32 i = 0; i < PORTS; i++)
		if (load->ports[i] != ports[i] &&
		    bpf_map_update_elem(load->maps[TALLY_MAP_PORTS], &i, &ports[i], BPF_ANY))
			return -errno;
	return 0;
}

/* All ports at once take tens of milliseconds, in which a new service would not be metered yet. */
static int write_ports(struct tally_load *load, uint8_t **ports)
{
	int err;

	if (load->ports && count_changes(load->ports, *ports) < CHANGES_MAX)
		err = write_changes(load, *ports);
	else
		err = write_all_ports(load, *ports);
	free(load->ports);
	load->ports = err ? NULL : TAKE_PTR(*ports);
	return err;
}

int tally_scopes_set(struct tally_load *load, const struct tally_scope_want *wanted, size_t n)
{
	_cleanup_free_ uint8_t *ports = calloc(1, PORTS);
	uint32_t before = 0, after = levels_of(wanted, n);
	int err, drop_err = 0;

	if (!ports)
		return -ENOMEM;
	if (n > TALLY_SCOPES_MAX)
		return -E2BIG;
	mark_ports(wanted, n, ports);
	err = get_levels(load, &before);
	if (!err)
		err = set_levels(load, before | after);
	if (!err)
		err = add_scopes(load, wanted, n);
	if (!err || err == -E2BIG) /* the new beside the old do not fit */
		drop_err = drop_scopes(load, wanted, n);
	if (err == -E2BIG && !drop_err)
		err = add_scopes(load, wanted, n);
	if (!err)
		err = drop_err;
	if (!err)
		err = write_ports(load, &ports);
	if (!err)
		err = set_levels(load, after);
	return err;
}
