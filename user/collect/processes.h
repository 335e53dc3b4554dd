/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which processes run a file, where they are, and where they listen; and a socket that tells of
 * every process that executes a file or ends (the kernel's process connector, cn_proc).
 *
 * Reading what another user's process runs needs CAP_SYS_PTRACE; its descriptors need
 * CAP_DAC_READ_SEARCH, too. A process may end at any moment: what then cannot be read is passed over.
 */
#ifndef TALLY_COLLECT_PROCESSES_H
#define TALLY_COLLECT_PROCESSES_H

#include <limits.h>
#include <sys/types.h>

#include "base/util.h"

#define TALLY_PROCESSES_PORTS 64 /* of one process */

/* What a process runs. */
struct tally_processes_exe {
	pid_t pid;
	char path[PATH_MAX]; /* " (deleted)" behind it when it was replaced or removed meanwhile */
	bool known;	     /* the two below are */
	dev_t dev;
	ino_t ino;
};

/* A file that a process may run, as it is now; anew for each look, since it may be replaced. */
struct tally_processes_file {
	char path[PATH_MAX]; /* behind all links; as it was given, where there is none */
	bool known;
	dev_t dev;
	ino_t ino;
};

typedef int (*tally_processes_fn)(void *ctx, const struct tally_processes_exe *exe);

/* Call fn for each process whose file can be read; not 0 ends it, and is returned. */
TALLY_MUST int tally_processes_each(tally_processes_fn fn, void *ctx);

/* What a process runs now. */
TALLY_MUST int tally_processes_exe(pid_t pid, struct tally_processes_exe *ret_exe);

void tally_processes_file(const char *name, struct tally_processes_file *ret_file);

/* Is it this file, by whatever name? Or one that was there before, under its path: an upgrade replaces
 * it, and who runs the old one goes on. Of two files of one path (containers have their own) only the
 * one of this mount namespace counts. */
bool tally_processes_runs(const struct tally_processes_exe *exe,
			  const struct tally_processes_file *file);

/* Its cgroup, below the root that we see: "/system.slice/x.service". -EXDEV: it lies outside. */
TALLY_MUST int tally_processes_cgroup(pid_t pid, char ret_path[PATH_MAX]);

/* TCP ports that it listens on, in its own network namespace. -EACCES: CAP_DAC_READ_SEARCH. */
TALLY_MUST int tally_processes_ports(pid_t pid, uint16_t ret_ports[TALLY_PROCESSES_PORTS],
				     size_t *ret_n);

enum tally_processes_event { TALLY_PROCESSES_EXEC, TALLY_PROCESSES_EXIT, TALLY_PROCESSES_LOST };

/* -errno where the kernel has no such thing, or not for this namespace. */
TALLY_MUST int tally_processes_listen(int *ret_fd);
/* Call back for each event that waits; LOST (pid 0): some did not fit into the socket. */
void tally_processes_read(int fd,
			  void (*fn)(void *ctx, enum tally_processes_event event, pid_t pid),
			  void *ctx);

#endif
