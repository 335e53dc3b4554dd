// SPDX-License-Identifier: Apache-2.0
#include "base/util.h"

#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec ts;

	if (clock_gettime(clock, &ts) < 0)
		abort(); /* both clocks exist on every Linux */
	return (uint64_t)ts.tv_sec * TALLY_NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t tally_util_mono_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

uint64_t tally_util_real_ns(void)
{
	return clock_ns(CLOCK_REALTIME);
}

/* Room for at least one more byte and a NUL, never more than max_bytes + 2. */
static int grow(char **data, size_t *cap, size_t used, size_t max_bytes)
{
	size_t want = *cap ? *cap * 2 : 4096;
	char *bigger;

	if (used + 2 <= *cap)
		return 0;
	want = TALLY_MIN(want, max_bytes + 2);
	bigger = realloc(*data, want);
	if (!bigger)
		return -ENOMEM;
	*data = bigger;
	*cap = want;
	return 0;
}

int tally_util_read_fd(int fd, size_t max_bytes, char **ret_data, size_t *ret_bytes)
{
	_cleanup_free_ char *data = NULL;
	size_t cap = 0, used = 0;

	for (;;) {
		ssize_t n;
		int r = grow(&data, &cap, used, max_bytes);

		if (r < 0)
			return r;
		n = read(fd, data + used, cap - used - 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		used += (size_t)n;
		if (used > max_bytes)
			return -EFBIG;
	}
	data[used] = '\0';
	*ret_data = TAKE_PTR(data);
	*ret_bytes = used;
	return 0;
}

int tally_util_read_file(const char *path, size_t max_bytes, char **ret_data, size_t *ret_bytes)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

	if (fd < 0)
		return -errno;
	return tally_util_read_fd(fd, max_bytes, ret_data, ret_bytes);
}

int tally_util_write_all(int fd, const void *data, size_t bytes)
{
	const char *p = data;

	while (bytes > 0) {
		ssize_t n = write(fd, p, bytes);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		bytes -= (size_t)n;
	}
	return 0;
}

int tally_util_sync_dir(const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	return fsync(fd) < 0 ? -errno : 0;
}

/* The folder that holds path, as a new text. */
static char *parent(const char *path)
{
	const char *slash = strrchr(path, '/');

	if (!slash)
		return strdup(".");
	return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

static int write_temporary(const char *path, const void *data, size_t bytes, mode_t mode)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	int r;

	if (fd < 0)
		return -errno;
	r = tally_util_write_all(fd, data, bytes);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	/* Some file systems report a failed write only here. */
	if (close(TAKE_FD(fd)) < 0 && r == 0)
		r = -errno;
	return r;
}

int tally_util_write_file(const char *path, const void *data, size_t bytes, mode_t mode)
{
	_cleanup_free_ char *dir = parent(path);
	_cleanup_free_ char *tmp = NULL;
	uint64_t unique;
	int r;

	r = tally_util_random(&unique, sizeof(unique));
	if (r < 0)
		return r;
	if (!dir || asprintf(&tmp, "%s.%016llx.tmp", path, (unsigned long long)unique) < 0)
		return -ENOMEM;
	r = write_temporary(tmp, data, bytes, mode);
	if (r == 0 && rename(tmp, path) < 0)
		r = -errno;
	if (r < 0) {
		if (r != -EEXIST)
			(void)unlink(tmp); /* a leftover is harmless, and the first error counts */
		return r;
	}
	return tally_util_sync_dir(dir);
}

int tally_util_mkdirs(const char *path, mode_t mode)
{
	char buf[PATH_MAX];
	size_t len = strlen(path);
	struct stat st;

	if (len == 0 || len >= sizeof(buf))
		return len ? -ENAMETOOLONG : -EINVAL;
	memcpy(buf, path, len + 1);
	for (char *p = buf + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		if (mkdir(buf, mode) < 0 && errno != EEXIST)
			return -errno;
		*p = '/';
	}
	if (mkdir(buf, mode) < 0 && errno != EEXIST)
		return -errno;
	if (stat(buf, &st) < 0)
		return -errno;
	return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

int tally_util_random(void *data, size_t bytes)
{
	char *p = data;

	while (bytes > 0) {
		ssize_t n = getrandom(p, bytes, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		bytes -= (size_t)n;
	}
	return 0;
}

void tally_util_hex(const void *data, size_t bytes, char *text)
{
	static const char digits[] = "0123456789abcdef";
	const unsigned char *p = data;

	for (size_t i = 0; i < bytes; i++) {
		text[2 * i] = digits[p[i] >> 4];
		text[2 * i + 1] = digits[p[i] & 15];
	}
	text[2 * bytes] = '\0';
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int tally_util_unhex(const char *text, void *data, size_t bytes)
{
	unsigned char *p = data;

	if (strlen(text) != 2 * bytes)
		return -EINVAL;
	for (size_t i = 0; i < bytes; i++)
		if (hex_digit(text[2 * i]) < 0 || hex_digit(text[2 * i + 1]) < 0)
			return -EINVAL;
	for (size_t i = 0; i < bytes; i++)
		p[i] = (unsigned char)(hex_digit(text[2 * i]) << 4 | hex_digit(text[2 * i + 1]));
	return 0;
}

void tally_util_wipe_free(char *secret)
{
	if (secret)
		explicit_bzero(secret, strlen(secret));
	free(secret);
}

#define WORD_MAX 40

/* Edits that turn a into b: insert, delete, replace, swap of neighbours (each 1). */
static unsigned int distance(const char *a, const char *b)
{
	unsigned int rows[3][WORD_MAX + 1];
	size_t la = strlen(a), lb = strlen(b);

	if (la > WORD_MAX || lb > WORD_MAX)
		return UINT_MAX;
	for (size_t j = 0; j <= lb; j++)
		rows[0][j] = (unsigned int)j;
	for (size_t i = 1; i <= la; i++) {
		unsigned int *row = rows[i % 3], *up = rows[(i + 2) % 3], *up2 = rows[(i + 1) % 3];

		row[0] = (unsigned int)i;
		for (size_t j = 1; j <= lb; j++) {
			unsigned int d = up[j - 1] + (a[i - 1] != b[j - 1]);

			d = TALLY_MIN(d, TALLY_MIN(up[j], row[j - 1]) + 1);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				d = TALLY_MIN(d, up2[j - 2] + 1);
			row[j] = d;
		}
	}
	return rows[la % 3][lb];
}

/* To the whole word, or, a bit farther, to its beginning. */
static unsigned int distance_or_prefix(const char *word, const char *candidate)
{
	unsigned int d = distance(word, candidate);
	char beginning[WORD_MAX + 1] = "";
	size_t n = strlen(word);

	if (n < 3 || n >= sizeof(beginning) || strlen(candidate) <= n)
		return d;
	memcpy(beginning, candidate, n);
	return TALLY_MIN(d, distance(word, beginning) + 1);
}

const char *tally_util_nearest(const char *word, const char *const *words)
{
	unsigned int limit = (unsigned int)strlen(word) / 3 + 1, best = limit + 1;
	const char *nearest = NULL;

	for (; *words; words++) {
		unsigned int d = distance_or_prefix(word, *words);

		/* all of it replaced is no likeness */
		if (d < best && d < strlen(*words)) {
			best = d;
			nearest = *words;
		}
	}
	return nearest;
}

int tally_util_parse_u64(const char *text, uint64_t max, uint64_t *ret_value)
{
	uint64_t v = 0;

	if (!*text)
		return -EINVAL;
	for (const char *p = text; *p; p++)
		if (!isdigit((unsigned char)*p))
			return -EINVAL;
	for (; *text; text++) {
		if (__builtin_mul_overflow(v, (uint64_t)10, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*text - '0'), &v))
			return -ERANGE;
	}
	if (v > max)
		return -ERANGE;
	*ret_value = v;
	return 0;
}
