/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Folders of cgroup v2: where it is mounted, which folders a pattern names, and a watch that says
 * when the answer may have changed.
 *
 * Patterns are matched component by component from the mount with fnmatch(3): "/system.slice/geo*".
 * "**" stands for any number of components, none included. A backslash stands for itself, as names of
 * units hold some ("geo\x2deu.service"); "[*]" is an asterisk.
 * A unit is a folder of that name below slices only, as the system's manager makes it: whoever was given
 * a part of the tree (a user's manager, a container) can make folders of any name there, but such a part
 * begins at a service or scope.
 * A match is the folder itself; what lies below belongs to it.
 *
 * Level 0 is the root, as bpf_skb_ancestor_cgroup_id() counts.
 */
#ifndef TALLY_COLLECT_CGROUP_H
#define TALLY_COLLECT_CGROUP_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/util.h"

struct tally_cgroup {
	uint64_t id; /* inode number of the folder */
	uint32_t level;
	char *path;
};

struct tally_cgroups {
	struct tally_cgroup *items;
	size_t n;
	size_t cap;
	size_t left_out; /* matched, and did not fit */
};

/* Of folders that come and go. */
struct tally_cgroup_watch {
	int fd;		 /* inotify; -1: none */
	uint32_t failed; /* folders that could not be watched */
};

void tally_cgroups_done(struct tally_cgroups *cgroups);

/* Mount point of the cgroup v2 hierarchy that shows most of it. -ENOENT: it is not mounted. */
TALLY_MUST int tally_cgroup_mount(char *ret_path, size_t size);

/* The same, from a mountinfo file. */
TALLY_MUST int tally_cgroup_mount_in(const char *mountinfo, char *ret_path, size_t size);

/* The folder at path. level counts from mount. */
TALLY_MUST int tally_cgroup_get(const char *mount, const char *path,
				struct tally_cgroup *ret_cgroup);

/* Does a path (from the mount, "/a/b") match? */
bool tally_cgroup_matches(const char *pattern, const char *path);

/* Is it the folder of this unit (a glob)? */
bool tally_cgroup_is_unit(const char *unit, const char *path);

/*
 * Call fn for the folder at path ("" is the mount itself, then "/a/b") and, while it returns more
 * than 0, for the folders below; less than 0 ends the walk. With a watch, every
 * folder visited is watched for folders that come and go.
 */
typedef int (*tally_cgroup_fn)(void *ctx, const char *path);
TALLY_MUST int tally_cgroup_walk(const char *mount, const char *path,
				 struct tally_cgroup_watch *watch, tally_cgroup_fn fn, void *ctx);

/* Add the folder at path. 0, too, when it is not there. -E2BIG: more than TALLY_CGROUPS_MAX. */
#define TALLY_CGROUPS_MAX 4096
TALLY_MUST int tally_cgroup_add(const char *mount, const char *path, struct tally_cgroups *cgroups);

/* Add all folders that match, or those of a unit. More than TALLY_CGROUPS_MAX are counted as left out. */
TALLY_MUST int tally_cgroup_find(const char *mount, const char *pattern,
				 struct tally_cgroup_watch *watch, struct tally_cgroups *cgroups);
TALLY_MUST int tally_cgroup_find_unit(const char *mount, const char *unit,
				      struct tally_cgroup_watch *watch,
				      struct tally_cgroups *cgroups);

#endif
