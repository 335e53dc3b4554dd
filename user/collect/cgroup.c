/* SPDX-License-Identifier: Apache-2.0 */
#include "collect/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"

void tally_cgroups_done(struct tally_cgroups *cgroups)
{
	for (size_t i = 0; i < cgroups->n; i++)
		free(cgroups->items[i].path);
	free(cgroups->items);
	memset(cgroups, 0, sizeof(*cgroups));
}

/* How far above the reader a mount begins: "/" is 0 as is any folder below, "/.." is 1. */
static int height(const char *root)
{
	int n = 0;

	while (!strncmp(root, "/..", 3)) {
		n++;
		root += 3;
	}
	return n;
}

/* One line: id parent dev root mount options [tags] - type source options, proc(5). */
static bool parse_mount(char *line, char **ret_root, char **ret_path)
{
	char *save = NULL, *fields[5];
	char *type = strstr(line, " - cgroup2 ");

	if (!type)
		return false;
	for (int i = 0; i < 5; i++) {
		fields[i] = strtok_r(i ? NULL : line, " ", &save);
		if (!fields[i])
			return false;
	}
	*ret_root = fields[3];
	*ret_path = fields[4];
	return true;
}

int tally_cgroup_mount_in(const char *mountinfo, char *ret_path, size_t size)
{
	FILE *file = fopen(mountinfo, "re");
	_cleanup_free_ char *line = NULL;
	char *root, *path;
	size_t cap = 0;
	int best = -1;

	if (!file)
		return -errno;
	while (getline(&line, &cap, file) > 0) {
		if (!parse_mount(line, &root, &path) || strlen(path) >= size)
			continue;
		if (strcmp(root, "/") && !height(root))
			continue; /* a part of the tree only */
		if (height(root) <= best)
			continue;
		best = height(root);
		strcpy(ret_path, path);
	}
	(void)fclose(file); /* only read */
	return best < 0 ? -ENOENT : 0;
}

int tally_cgroup_mount(char *ret_path, size_t size)
{
	return tally_cgroup_mount_in("/proc/self/mountinfo", ret_path, size);
}

static uint32_t level_of(const char *path)
{
	uint32_t n = 0;

	for (; *path; path++)
		n += path[0] == '/' && path[1] && path[1] != '/';
	return n;
}

int tally_cgroup_get(const char *mount, const char *path, struct tally_cgroup *ret_cgroup)
{
	_cleanup_free_ char *full = NULL;
	struct stat st;

	if (asprintf(&full, "%s%s", mount, strcmp(path, "/") ? path : "") < 0) {
		full = NULL;
		return -ENOMEM;
	}
	if (stat(full, &st))
		return -errno;
	if (!S_ISDIR(st.st_mode))
		return -ENOTDIR;
	ret_cgroup->id = st.st_ino;
	ret_cgroup->level = level_of(path);
	ret_cgroup->path = TAKE_PTR(full);
	return 0;
}

static size_t component(const char *path)
{
	return strcspn(path, "/");
}

/*
 * Match by components. *ret_below: a folder below this one could still match, so go on there.
 * Recursion is as deep as the pattern has "**".
 */
static bool match(const char *pattern, const char *path, bool *ret_below)
{
	char want[NAME_MAX + 1], have[NAME_MAX + 1];

	for (;;) {
		pattern += strspn(pattern, "/");
		path += strspn(path, "/");
		if (!strncmp(pattern, "**", 2) && component(pattern) == 2) {
			*ret_below = true;
			if (match(pattern + 2, path, ret_below))
				return true;
			if (!*path)
				return false;
			path += component(path);
			continue;
		}
		if (!*path) {
			*ret_below |= *pattern != 0;
			return !*pattern;
		}
		if (!*pattern || component(pattern) > NAME_MAX || component(path) > NAME_MAX)
			return false;
		(void)snprintf(want, sizeof(want), "%.*s", (int)component(pattern), pattern);
		(void)snprintf(have, sizeof(have), "%.*s", (int)component(path), path);
		if (fnmatch(want, have, FNM_NOESCAPE)) /* names of units hold backslashes */
			return false;
		pattern += component(pattern);
		path += component(path);
	}
}

bool tally_cgroup_matches(const char *pattern, const char *path)
{
	bool below = false;

	return match(pattern, path, &below);
}

static bool is_slice(const char *name, size_t n)
{
	return n >= 6 && !strncmp(name + n - 6, ".slice", 6);
}

/* As match(). */
static bool match_unit(const char *unit, const char *path, bool *ret_below)
{
	const char *name = strrchr(path, '/');
	size_t n;

	for (const char *above = path; name && above < name; above += n) {
		above += strspn(above, "/");
		n = component(above);
		if (above < name && !is_slice(above, n))
			return false;
	}
	name = name ? name + 1 : path;
	if (*name && !fnmatch(unit, name, FNM_NOESCAPE))
		return true;
	n = strlen(name);
	*ret_below = !n || is_slice(name, n);
	return false;
}

bool tally_cgroup_is_unit(const char *unit, const char *path)
{
	bool below = false;

	return match_unit(unit, path, &below);
}

int tally_cgroup_add(const char *mount, const char *path, struct tally_cgroups *cgroups)
{
	struct tally_cgroup *items = cgroups->items;
	int err;

	if (cgroups->n == TALLY_CGROUPS_MAX)
		return -E2BIG;
	if (cgroups->n == cgroups->cap) {
		size_t cap = cgroups->cap ? cgroups->cap * 2 : 16;

		items = reallocarray(items, cap, sizeof(*items));
		if (!items)
			return -ENOMEM;
		cgroups->items = items;
		cgroups->cap = cap;
	}
	err = tally_cgroup_get(mount, path, &items[cgroups->n]);
	if (err) /* what cannot be looked at is not gone: it stays attached */
		return err == -ENOENT || err == -ENOTDIR ? 0 : err;
	cgroups->n++;
	return 0;
}

struct walk {
	const char *mount;
	struct tally_cgroup_watch *watch;
	tally_cgroup_fn fn;
	void *ctx;
};

/* Without a watch (there is a limit) it is found by the next look. */
static void watch(struct tally_cgroup_watch *watch, const char *folder)
{
	if (watch && watch->fd >= 0 &&
	    inotify_add_watch(watch->fd, folder, IN_CREATE | IN_DELETE | IN_MOVE | IN_ONLYDIR) <
		    0 &&
	    errno != ENOENT)
		watch->failed++;
}

static int visit(const struct walk *walk, const char *path);

static int visit_children(const struct walk *walk, const char *path)
{
	_cleanup_free_ char *full = NULL;
	struct dirent *entry;
	int err = 0;
	DIR *dir;

	if (asprintf(&full, "%s%s", walk->mount, path) < 0) {
		full = NULL;
		return -ENOMEM;
	}
	watch(walk->watch, full);
	dir = opendir(full);
	if (!dir)
		return errno == ENOENT ? 0 : -errno;
	while (!err && (entry = readdir(dir))) {
		_cleanup_free_ char *child = NULL;

		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		if (asprintf(&child, "%s/%s", path, entry->d_name) < 0) {
			child = NULL;
			err = -ENOMEM;
			break;
		}
		err = visit(walk, child);
	}
	(void)closedir(dir); /* only read */
	return err;
}

/* Paths are "" for the mount itself, then "/a", "/a/b". Recursion is as deep as the tree. */
static int visit(const struct walk *walk, const char *path)
{
	int below = walk->fn(walk->ctx, path);

	return below > 0 ? visit_children(walk, path) : below;
}

int tally_cgroup_walk(const char *mount, const char *path, struct tally_cgroup_watch *watch,
		      tally_cgroup_fn fn, void *ctx)
{
	struct walk walk = { mount, watch, fn, ctx };

	return visit(&walk, path);
}

struct find {
	const char *mount;
	const char *pattern;
	bool (*match)(const char *pattern, const char *path, bool *ret_below);
	struct tally_cgroups *cgroups;
};

static int on_found(void *ctx, const char *path)
{
	const struct find *find = ctx;
	bool below = false;
	int err;

	if (!find->match(find->pattern, path, &below))
		return below;
	err = tally_cgroup_add(find->mount, *path ? path : "/", find->cgroups);
	if (err == -E2BIG)
		find->cgroups->left_out++;
	return err == -E2BIG ? 0 : err;
}

int tally_cgroup_find(const char *mount, const char *pattern, struct tally_cgroup_watch *watch,
		      struct tally_cgroups *cgroups)
{
	struct find find = { mount, pattern, match, cgroups };

	return tally_cgroup_walk(mount, "", watch, on_found, &find);
}

int tally_cgroup_find_unit(const char *mount, const char *unit, struct tally_cgroup_watch *watch,
			   struct tally_cgroups *cgroups)
{
	struct find find = { mount, unit, match_unit, cgroups };

	return tally_cgroup_walk(mount, "", watch, on_found, &find);
}
