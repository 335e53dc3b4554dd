/* SPDX-License-Identifier: Apache-2.0 */
#include "collect/scopes.h"

#include <bpf/bpf.h>

#include "tally/ledger.h"

#define PORTS 65536U
#define CHANGES_MAX 2048 /* written one by one */

/* Of each port: some service wants it; a scope of it went; and its mark (tally/ledger.h). */
struct marks {
	uint8_t wanted[PORTS];
	uint8_t lost[PORTS];
	uint8_t fresh[PORTS];
	bool changed; /* a scope is new, or another's */
};

static struct tally_scope_key key_of(const struct tally_scope_want *want)
{
	return (struct tally_scope_key){ .cgroup = want->cgroup, .port = want->port };
}

/* Levels of tagged cgroups; changed: sockets that nobody wanted are to ask again. */
static int set_levels(struct tally_load *load, uint16_t mask, bool changed)
{
	int fd = load->maps[TALLY_MAP_SETTINGS];
	struct tally_settings settings;
	__u32 zero = 0;

	if (bpf_map_lookup_elem(fd, &zero, &settings))
		return -errno;
	if (settings.levels_mask == mask && !changed)
		return 0;
	settings.levels_mask = mask;
	settings.changes += changed;
	return bpf_map_update_elem(fd, &zero, &settings, BPF_ANY) ? -errno : 0;
}

static int get_levels(const struct tally_load *load, uint16_t *ret_mask)
{
	struct tally_settings settings;
	__u32 zero = 0;

	if (bpf_map_lookup_elem(load->maps[TALLY_MAP_SETTINGS], &zero, &settings))
		return -errno;
	*ret_mask = settings.levels_mask;
	return 0;
}

static uint16_t levels_of(const struct tally_scope_want *wanted, size_t n)
{
	uint16_t mask = 0;

	for (size_t i = 0; i < n; i++)
		if (wanted[i].cgroup && wanted[i].level < TALLY_SCOPE_LEVELS)
			mask |= (uint16_t)(1U << wanted[i].level);
	return mask;
}

/* A scope of this port (0: all) goes, or is another service's from now on. */
static void mark_lost(struct marks *marks, uint16_t port)
{
	if (port)
		marks->lost[port] = 1;
	else
		memset(marks->lost, 1, PORTS);
}

static int add_scopes(struct tally_load *load, const struct tally_scope_want *wanted, size_t n,
		      struct marks *marks)
{
	int fd = load->maps[TALLY_MAP_SCOPES];

	for (size_t i = 0; i < n; i++) {
		struct tally_scope_key key = key_of(&wanted[i]);
		struct tally_scope value = { .service = wanted[i].service,
					     .origin = wanted[i].origin };
		struct tally_scope old;
		bool is_there = !bpf_map_lookup_elem(fd, &key, &old);

		if (is_there && !memcmp(&old, &value, sizeof(value)))
			continue;
		if (bpf_map_update_elem(fd, &key, &value, BPF_ANY))
			return -errno;
		marks->changed = true;
		if (is_there && old.service != value.service)
			mark_lost(marks, key.port);
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

static bool has_scope(uint32_t service, const struct tally_scope_want *wanted, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (wanted[i].service == service)
			return true;
	return false;
}

/*
 * Of a service with all ports only its last scope counts: its cgroups come and go, and to write the marks
 * of all ports takes long.
 */
static int drop_scope(struct tally_load *load, const struct tally_scope_key *key,
		      const struct tally_scope_want *wanted, size_t n, struct marks *marks)
{
	int fd = load->maps[TALLY_MAP_SCOPES];
	struct tally_scope old;

	if (bpf_map_lookup_elem(fd, key, &old) || bpf_map_delete_elem(fd, key))
		return errno == ENOENT ? 0 : -errno;
	if (key->port || !has_scope(old.service, wanted, n))
		mark_lost(marks, key->port);
	return 0;
}

/* The keys are listed first: a walk of a hash that shrinks begins again. */
static int drop_scopes(struct tally_load *load, const struct tally_scope_want *wanted, size_t n,
		       struct marks *marks)
{
	_cleanup_free_ struct tally_scope_key *keys = calloc(TALLY_SCOPES_MAX, sizeof(*keys));
	int fd = load->maps[TALLY_MAP_SCOPES];
	size_t count = 0;

	if (!keys)
		return -ENOMEM;
	while (count < TALLY_SCOPES_MAX &&
	       !bpf_map_get_next_key(fd, count ? &keys[count - 1] : NULL, &keys[count]))
		count++;
	for (size_t i = 0; i < count; i++) {
		int err = is_wanted(&keys[i], wanted, n)
				  ? 0
				  : drop_scope(load, &keys[i], wanted, n, marks);

		if (err)
			return err;
	}
	return 0;
}

static void mark_wanted(const struct tally_scope_want *wanted, size_t n, struct marks *marks)
{
	for (size_t i = 0; i < n; i++) {
		if (wanted[i].port)
			marks->wanted[wanted[i].port] = TALLY_PORT_WANTED;
		else
			memset(marks->wanted, TALLY_PORT_WANTED, PORTS);
	}
}

/* An agent before this one wrote them: connections remember what they were. */
static int read_ports(struct tally_load *load)
{
	_cleanup_free_ __u32 *keys = calloc(PORTS, sizeof(*keys));
	_cleanup_free_ uint8_t *ports = calloc(1, PORTS);
	__u32 n = PORTS, at;

	if (!keys || !ports)
		return -ENOMEM;
	if (bpf_map_lookup_batch(load->maps[TALLY_MAP_PORTS], NULL, &at, keys, ports, &n, NULL) &&
	    errno != ENOENT) /* that was all */
		return -errno;
	load->ports = TAKE_PTR(ports);
	return 0;
}

/* The marks that follow those in force. */
static void raise_marks(const struct tally_load *load, struct marks *marks)
{
	for (size_t i = 0; i < PORTS; i++) {
		uint8_t old = load->ports[i];
		bool differs = (old & TALLY_PORT_WANTED) != marks->wanted[i];

		marks->fresh[i] = old + (differs ? 1 : marks->lost[i] && marks->wanted[i] ? 2 : 0);
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
static int write_ports(struct tally_load *load, struct marks *marks)
{
	int err = load->ports ? 0 : read_ports(load);

	if (err)
		return err;
	raise_marks(load, marks);
	if (count_changes(load->ports, marks->fresh) < CHANGES_MAX)
		err = write_changes(load, marks->fresh);
	else
		err = write_all_ports(load, marks->fresh);
	if (err) { /* some are written */
		free(load->ports);
		load->ports = NULL;
	} else {
		memcpy(load->ports, marks->fresh, PORTS);
	}
	return err;
}

int tally_scopes_set(struct tally_load *load, const struct tally_scope_want *wanted, size_t n)
{
	_cleanup_free_ struct marks *marks = calloc(1, sizeof(*marks));
	uint16_t before = 0, after = levels_of(wanted, n);
	int err, drop_err = 0;

	if (!marks)
		return -ENOMEM;
	if (n > TALLY_SCOPES_MAX)
		return -E2BIG;
	mark_wanted(wanted, n, marks);
	err = get_levels(load, &before);
	if (!err)
		err = set_levels(load, before | after, false);
	if (!err)
		err = add_scopes(load, wanted, n, marks);
	if (!err || err == -E2BIG) /* the new beside the old do not fit */
		drop_err = drop_scopes(load, wanted, n, marks);
	if (err == -E2BIG && !drop_err)
		err = add_scopes(load, wanted, n, marks);
	if (!err)
		err = drop_err;
	if (!err)
		err = write_ports(load, marks);
	if (!err)
		return set_levels(load, after, marks->changed);
	/* What was added stands, and is not new when this is tried again. */
	if (marks->changed)
		(void)!set_levels(load, before | after, true); /* err is what is told */
	return err;
}
