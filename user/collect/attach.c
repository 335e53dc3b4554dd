/* SPDX-License-Identifier: Apache-2.0 */
#include "collect/attach.h"

#include <bpf/bpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"

static const enum bpf_attach_type attach_types[] = { BPF_CGROUP_INET_INGRESS,
						     BPF_CGROUP_INET_EGRESS, BPF_CGROUP_SOCK_OPS };

static int link_path(const struct tally_load *load, uint64_t id, enum tally_hook hook, char *out)
{
	char name[64];

	(void)snprintf(name, sizeof(name), "link-%" PRIu64 "-%s", id, tally_load_hook_name(hook));
	return tally_load_path(load, name, out, PATH_MAX);
}

static bool parse_link(const char *name, uint64_t *ret_id, enum tally_hook *ret_hook)
{
	char hook[16];

	if (sscanf(name, "link-%" SCNu64 "-%15s", ret_id, hook) != 2)
		return false;
	for (int i = 0; i < TALLY_HOOK_COUNT; i++) {
		if (!strcmp(hook, tally_load_hook_name(i))) {
			*ret_hook = i;
			return true;
		}
	}
	return false;
}

/* Call back for each pinned link; the folder is listed first, so that pins may go meanwhile. */
static int each_link(struct tally_load *load,
		     int (*call)(void *ctx, uint64_t id, enum tally_hook h), void *ctx)
{
	struct dirent **entries = NULL;
	int n = scandir(load->pin_dir, &entries, NULL, alphasort);
	int err = 0;

	if (n < 0)
		return -errno;
	for (int i = 0; i < n; i++) {
		enum tally_hook hook;
		uint64_t id;

		if (!err && parse_link(entries[i]->d_name, &id, &hook))
			err = call(ctx, id, hook);
		free(entries[i]);
	}
	free(entries);
	return err;
}

static int drop_link(struct tally_load *load, uint64_t id, enum tally_hook hook)
{
	char path[PATH_MAX];
	int err = link_path(load, id, hook, path);

	if (err)
		return err;
	return unlink(path) && errno != ENOENT ? -errno : 0;
}

static int open_link(const struct tally_load *load, uint64_t id, enum tally_hook hook, int *ret_fd)
{
	char path[PATH_MAX];
	int fd, err;

	err = link_path(load, id, hook, path);
	if (err)
		return err;
	fd = bpf_obj_get(path);
	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

/* -ENOLINK: a removed cgroup severs its links a moment later; such a link names cgroup 0. */
static int check_link(int fd)
{
	struct bpf_link_info info = {};
	__u32 len = sizeof(info);

	if (bpf_obj_get_info_by_fd(fd, &info, &len))
		return -errno;
	return info.cgroup.cgroup_id ? 0 : -ENOLINK;
}

static int update_link(void *ctx, uint64_t id, enum tally_hook hook)
{
	struct tally_load *load = ctx;
	_cleanup_close_ int fd = -1;
	int err = open_link(load, id, hook, &fd);

	if (!err)
		err = check_link(fd);
	if (!err && bpf_link_update(fd, load->progs[hook], NULL))
		err = -errno;
	return err == -ENOLINK ? drop_link(load, id, hook) : err;
}

int tally_attach_update(struct tally_load *load)
{
	if (load->stale)
		return 0;
	return each_link(load, update_link, load);
}

/* 0: it counts. -ENOENT: there is none (a dead one is removed). Else it cannot be asked, and may. */
static int find_link(struct tally_load *load, uint64_t id, enum tally_hook hook)
{
	_cleanup_close_ int fd = -1;
	int err = open_link(load, id, hook, &fd);

	if (!err)
		err = check_link(fd);
	if (err != -ENOLINK)
		return err;
	err = drop_link(load, id, hook);
	return err ? err : -ENOENT;
}

static int attach_one(struct tally_load *load, const struct tally_cgroup *cgroup, int cgroup_fd,
		      enum tally_hook hook)
{
	_cleanup_close_ int fd = -1;
	char path[PATH_MAX];
	int err = find_link(load, cgroup->id, hook);

	if (err != -ENOENT)
		return err;
	err = link_path(load, cgroup->id, hook, path);
	if (err)
		return err;
	fd = bpf_link_create(load->progs[hook], cgroup_fd, attach_types[hook], NULL);
	if (fd < 0)
		return -errno;
	return bpf_obj_pin(fd, path) ? -errno : 0;
}

static int attach_cgroup(struct tally_load *load, const struct tally_cgroup *cgroup)
{
	_cleanup_close_ int fd = open(cgroup->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int err = 0;

	if (fd < 0)
		return -errno;
	for (int hook = 0; hook < TALLY_HOOK_COUNT && !err; hook++)
		err = attach_one(load, cgroup, fd, hook);
	return err;
}

/* H3: a folder is covered when one above it is wanted, too. Paths all begin at the mount. */
static bool is_covered(const struct tally_cgroups *wanted, size_t which)
{
	const struct tally_cgroup *cgroup = &wanted->items[which];

	for (size_t i = 0; i < wanted->n; i++) {
		const struct tally_cgroup *above = &wanted->items[i];
		size_t len;

		if (above->level >= cgroup->level && (above->id != cgroup->id || i >= which))
			continue;
		len = strlen(above->path);
		if (!strncmp(above->path, cgroup->path, len) &&
		    (cgroup->path[len] == '/' || !cgroup->path[len]))
			return true;
	}
	return false;
}

struct keep {
	struct tally_load *load;
	const struct tally_cgroups *wanted;
};

static int drop_unwanted(void *ctx, uint64_t id, enum tally_hook hook)
{
	const struct keep *keep = ctx;

	for (size_t i = 0; i < keep->wanted->n; i++)
		if (keep->wanted->items[i].id == id && !is_covered(keep->wanted, i))
			return 0;
	return drop_link(keep->load, id, hook);
}

int tally_attach_set(struct tally_load *load, const struct tally_cgroups *wanted,
		     uint32_t *ret_attached, uint32_t *ret_failed)
{
	struct keep keep = { load, wanted };
	uint32_t attached = 0, failed = 0;
	int err, last = 0;

	for (size_t i = 0; i < wanted->n; i++) {
		if (is_covered(wanted, i))
			continue;
		err = attach_cgroup(load, &wanted->items[i]);
		if (!err) {
			attached++;
			continue;
		}
		if (err == -ENOENT) /* it went a moment ago */
			continue;
		failed++;
		last = err;
		tally_log_warning("attach_failed", "cgroup=%s error=%s", wanted->items[i].path,
				  strerror(-err));
	}
	/* A folder may be covered by one that failed: then what is attached stays. */
	err = failed ? 0 : each_link(load, drop_unwanted, &keep);
	if (err)
		return err;
	*ret_attached = attached;
	*ret_failed = failed;
	return failed && !attached ? last : 0;
}

uint32_t tally_attach_hooks(const struct tally_load *load, uint64_t cgroup)
{
	char name[64], path[PATH_MAX];
	uint32_t hooks = 0;

	for (int hook = 0; hook < TALLY_HOOK_COUNT; hook++) {
		(void)snprintf(name, sizeof(name), "link-%" PRIu64 "-%s", cgroup,
			       tally_load_hook_name(hook));
		if (!tally_load_path(load, name, path, sizeof(path)) && !access(path, F_OK))
			hooks |= 1U << hook;
	}
	return hooks;
}

int tally_attach_clear(struct tally_load *load)
{
	struct tally_cgroups none = {};
	struct keep keep = { load, &none };

	return each_link(load, drop_unwanted, &keep);
}
