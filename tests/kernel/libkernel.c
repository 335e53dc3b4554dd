/* SPDX-License-Identifier: Apache-2.0 */
#include "libkernel.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "collect/cgroup.h"
#include "collect/probe.h"

static void skip(const char *why)
{
	printf("SKIP %s\n", why);
	exit(0);
}

static void fail(const char *what, const char *path)
{
	fprintf(stderr, "%s %s: %s\n", what, path, strerror(errno));
	exit(1);
}

void kernel_unpin(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	char name[PATH_MAX];

	while (dir && (entry = readdir(dir))) {
		(void)snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
		if (entry->d_name[0] != '.' && unlink(name))
			fail("unlink", name);
	}
	if (dir)
		(void)closedir(dir);
	if (rmdir(path) && errno != ENOENT)
		fail("rmdir", path);
}

const char *kernel_pin_dir(const char *name, int make)
{
	static char path[PATH_MAX];

	if (geteuid())
		skip("kernel tests want root");
	(void)snprintf(path, sizeof(path), "/sys/fs/bpf/tallyd-agent-%s-%d", name, getpid());
	if (tally_probe_bpffs(path))
		skip("no bpf filesystem");
	kernel_unpin(path);
	if (make && mkdir(path, 0700))
		fail("mkdir", path);
	return path;
}

const char *kernel_cgroup_make(const char *name)
{
	static char path[PATH_MAX];
	char mount[256];

	if (tally_cgroup_mount(mount, sizeof(mount)))
		skip("cgroup v2 is not mounted");
	(void)snprintf(path, sizeof(path), "%s/tallyd-agent-%s-%d", mount, name, getpid());
	if (mkdir(path, 0755))
		fail("mkdir", path);
	return path;
}

/* A cgroup empties a moment after its last process was waited for. */
void kernel_cgroup_remove(const char *path)
{
	for (int i = 0; rmdir(path); i++) {
		if (errno != EBUSY || i == 500)
			fail("rmdir", path);
		(void)usleep(10000);
	}
}

void kernel_cgroup_enter(const char *path)
{
	char file[PATH_MAX];
	FILE *out;

	(void)snprintf(file, sizeof(file), "%s/cgroup.procs", path);
	out = fopen(file, "we");
	if (!out || fprintf(out, "%d\n", getpid()) < 0 || fclose(out))
		fail("enter", path);
}

int kernel_map(enum bpf_map_type type, size_t key, size_t value, uint32_t n, uint32_t flags)
{
	LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = flags);
	int fd = bpf_map_create(type, "tally_test", (__u32)key, (__u32)value, n, &options);

	if (fd < 0)
		fail("map", "tally_test");
	return fd;
}
