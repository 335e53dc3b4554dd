/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The few file operations the spool is made of, as an interface, so that a simulator can stop
 * between any two of them. Folders are relative to a root; names never hold a slash.
 *
 * Durable write (the only way a file comes into being here):
 *	create tmp -> write -> fsync -> close -> rename -> fsync folder
 * A failure anywhere leaves at most a tmp file, which recovery removes; a second try takes a new
 * name, because after a failed fsync the pages of the first may be marked clean.
 */
#ifndef TALLY_DELIVER_FS_H
#define TALLY_DELIVER_FS_H

#include <stdbool.h>
#include <stddef.h>
#include <linux/types.h>

#include "account/buf.h"

struct tally_fs {
	void *ctx;
	int (*mkdir)(void *ctx, const char *dir);
	/* A new file, open for writing; -EEXIST. */
	int (*create)(void *ctx, const char *dir, const char *name, int *ret_fd);
	int (*write)(void *ctx, int fd, const void *data, size_t len);
	int (*sync)(void *ctx, int fd);
	int (*close)(void *ctx, int fd);
	int (*rename)(void *ctx, const char *from_dir, const char *from, const char *to_dir,
		      const char *to);
	int (*sync_dir)(void *ctx, const char *dir);
	int (*unlink)(void *ctx, const char *dir, const char *name);
	/* Whole file, appended to buf. */
	int (*read)(void *ctx, const char *dir, const char *name, struct tally_buf *buf);
	/* Calls back for each regular file; stops at the first non-zero answer. */
	int (*list)(void *ctx, const char *dir,
		    int (*each)(void *arg, const char *name, __u64 size), void *arg);
	/* Only one agent; held until free. -EBUSY. */
	int (*lock)(void *ctx, const char *name);
	void (*free)(void *ctx);
	int (*random)(void *ctx, void *buf, size_t len);
	/* Of the whole file system, and what of it is free to us. */
	int (*room)(void *ctx, __u64 *ret_total, __u64 *ret_free);
	/* A file of the root with so many bytes in blocks of its own, made, grown or cut; on failure as it was. */
	int (*allocate)(void *ctx, const char *name, __u64 bytes);
};

int tally_fs_open(const char *root, struct tally_fs *ret_fs);

struct tally_fs_file {
	const char *dir, *name;
	const void *data;
	size_t len;
};

/* The durable write. The target is replaced when it exists. On failure *ret_doubt: perhaps it was, or a
 * temporary file stays. */
int tally_fs_put(const struct tally_fs *fs, const struct tally_fs_file *file, bool *ret_doubt)
	__attribute__((warn_unused_result));

/* The name of a durable write that did not come to its end, or not yet. */
bool tally_fs_is_tmp(const char *name);

#define TALLY_QUARANTINE "quarantine"
/* Out of the way, under a new name that ends in the old one and `suffix`; never deleted. Durable on 0. */
int tally_fs_quarantine(const struct tally_fs *fs, const char *dir, const char *name,
			const char *suffix) __attribute__((warn_unused_result));

#endif
