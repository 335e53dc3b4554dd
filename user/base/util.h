/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ownership made visible, and the few file and clock operations everybody needs.
 *
 * A local that owns something carries _cleanup_*, is initialised, and leaves its function only
 * through TAKE_PTR or TAKE_FD. Files appear whole or not at all:
 *
 *	tmp file in the same folder -> write -> fsync -> rename -> fsync folder
 */
#ifndef TALLY_BASE_UTIL_H
#define TALLY_BASE_UTIL_H

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define TALLY_MUST __attribute__((warn_unused_result))
#define TALLY_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

#define TALLY_NS_PER_S 1000000000ULL
#define TALLY_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define TALLY_MIN(a, b) ((a) < (b) ? (a) : (b))
#define TALLY_MAX(a, b) ((a) > (b) ? (a) : (b))

#ifndef _cleanup_
#define _cleanup_(f) __attribute__((cleanup(f)))
#endif
#define _cleanup_free_ _cleanup_(tally_util_freep)
#define _cleanup_close_ _cleanup_(tally_util_closep)
#define _cleanup_fclose_ _cleanup_(tally_util_fclosep)
#define _cleanup_closedir_ _cleanup_(tally_util_closedirp)

/* The value, and the variable lets go of it. */
#ifndef TAKE_PTR
#define TAKE_PTR(p)                         \
	({                                  \
		__typeof__(p) _taken = (p); \
		(p) = NULL;                 \
		_taken;                     \
	})
#endif
#ifndef TAKE_FD
#define TAKE_FD(fd)                \
	({                         \
		int _taken = (fd); \
		(fd) = -1;         \
		_taken;            \
	})
#endif

/* For _cleanup_(name) of any type with a free function that takes NULL. */
#define TALLY_CLEANUP(type, name, free_fn)                       \
	static inline __attribute__((unused)) void name(type *p) \
	{                                                        \
		if (*p)                                          \
			free_fn(*p);                             \
	}

static inline void tally_util_freep(void *p)
{
	free(*(void **)p);
}

/* Closes and keeps errno. */
static inline void tally_util_close(int fd)
{
	int saved = errno;

	if (fd >= 0)
		(void)close(fd); /* nothing to be done: what must be durable was synced before */
	errno = saved;
}

static inline void tally_util_closep(int *fd)
{
	tally_util_close(*fd);
}

static inline void tally_util_fclosep(FILE **f)
{
	if (*f)
		(void)fclose(*f); /* readers only; writers check themselves */
}

static inline void tally_util_closedirp(DIR **d)
{
	if (*d)
		(void)closedir(*d); /* cannot fail on an open folder */
}

/* Clocks, in nanoseconds. mono is CLOCK_MONOTONIC, the clock of bpf_ktime_get_ns(). */
uint64_t tally_util_mono_ns(void);
uint64_t tally_util_real_ns(void);

/* Whole file, at most max_bytes, followed by a NUL that is not counted. -EFBIG, -errno. */
TALLY_MUST int tally_util_read_file(const char *path, size_t max_bytes, char **ret_data,
				    size_t *ret_bytes);
TALLY_MUST int tally_util_read_fd(int fd, size_t max_bytes, char **ret_data, size_t *ret_bytes);
/* All of it, or -errno. */
TALLY_MUST int tally_util_write_all(int fd, const void *data, size_t bytes);
/* Durable: after 0 the new content survives a power cut; after an error the old one does. */
TALLY_MUST int tally_util_write_file(const char *path, const void *data, size_t bytes, mode_t mode);
/* fsync of the folder itself. */
TALLY_MUST int tally_util_sync_dir(const char *path);
/* The folder and its parents. An existing folder is fine. */
TALLY_MUST int tally_util_mkdirs(const char *path, mode_t mode);

/* getrandom(2), whole. */
TALLY_MUST int tally_util_random(void *data, size_t bytes);
/* Lower-case hex and its NUL: text has room for 2 * bytes + 1. */
void tally_util_hex(const void *data, size_t bytes, char *text);
/* Exactly 2 * bytes hex digits of either case. -EINVAL. */
TALLY_MUST int tally_util_unhex(const char *text, void *data, size_t bytes);
/* Wipes before it frees; NULL is fine. */
void tally_util_wipe_free(char *secret);

/* The word of a NULL-terminated list that the writer probably meant; NULL: none is near. */
const char *tally_util_nearest(const char *word, const char *const *words);

/* Unsigned decimal number, whole text. -EINVAL, -ERANGE when above max. */
TALLY_MUST int tally_util_parse_u64(const char *text, uint64_t max, uint64_t *ret_value);

#endif
