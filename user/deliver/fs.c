/* SPDX-License-Identifier: Apache-2.0 */
#include "deliver/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/util.h"

#define READ_CHUNK 65536
#define FILE_MAX (1ULL << 30)

struct real {
	int root;
	int lock;
};

static int dir_open(const struct real *real, const char *dir, int *ret_fd)
{
	int fd = openat(real->root, *dir ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

static int real_mkdir(void *ctx, const char *dir)
{
	const struct real *real = ctx;

	if (mkdirat(real->root, dir, 0700) < 0 && errno != EEXIST)
		return -errno;
	return fsync(real->root) < 0 ? -errno : 0;
}

static int real_create(void *ctx, const char *dir, const char *name, int *ret_fd)
{
	_cleanup_close_ int folder = -1;
	int fd, r;

	r = dir_open(ctx, dir, &folder);
	if (r < 0)
		return r;
	fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

static int real_write(void *ctx, int fd, const void *data, size_t len)
{
	(void)ctx;
	return tally_util_write_all(fd, data, len);
}

static int real_sync(void *ctx, int fd)
{
	(void)ctx;
	return fsync(fd) < 0 ? -errno : 0;
}

static int real_close(void *ctx, int fd)
{
	(void)ctx;
	return close(fd) < 0 && errno != EINTR ? -errno : 0;
}

static int real_rename(void *ctx, const char *from_dir, const char *from, const char *to_dir,
		       const char *to)
{
	_cleanup_close_ int a = -1;
	_cleanup_close_ int b = -1;
	int r;

	r = dir_open(ctx, from_dir, &a);
	if (r == 0)
		r = dir_open(ctx, to_dir, &b);
	if (r < 0)
		return r;
	return renameat(a, from, b, to) < 0 ? -errno : 0;
}

static int real_sync_dir(void *ctx, const char *dir)
{
	_cleanup_close_ int folder = -1;
	int r = dir_open(ctx, dir, &folder);

	if (r < 0)
		return r;
	return fsync(folder) < 0 ? -errno : 0;
}

static int real_unlink(void *ctx, const char *dir, const char *name)
{
	_cleanup_close_ int folder = -1;
	int r = dir_open(ctx, dir, &folder);

	if (r < 0)
		return r;
	return unlinkat(folder, name, 0) < 0 ? -errno : 0;
}

static int read_fd(int fd, struct tally_buf *buf)
{
	_cleanup_free_ char *chunk = malloc(READ_CHUNK);
	__u64 total = 0;
	ssize_t n;

	if (!chunk)
		return -ENOMEM;
	for (;;) {
		n = read(fd, chunk, READ_CHUNK);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : 0;
		total += (__u64)n;
		if (total > FILE_MAX)
			return -EFBIG;
		tally_buf_put(buf, chunk, (size_t)n);
		if (buf->error)
			return buf->error;
	}
}

static int real_read(void *ctx, const char *dir, const char *name, struct tally_buf *buf)
{
	_cleanup_close_ int folder = -1;
	_cleanup_close_ int fd = -1;
	int r = dir_open(ctx, dir, &folder);

	if (r < 0)
		return r;
	fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -errno;
	return read_fd(fd, buf);
}

static int real_list(void *ctx, const char *dir,
		     int (*each)(void *arg, const char *name, __u64 size), void *arg)
{
	_cleanup_closedir_ DIR *stream = NULL;
	const struct dirent *entry;
	struct stat st;
	int folder = -1, r;

	r = dir_open(ctx, dir, &folder);
	if (r < 0)
		return r;
	stream = fdopendir(folder);
	if (!stream) {
		r = -errno;
		tally_util_close(folder);
		return r;
	}
	for (;;) {
		errno = 0;
		entry = readdir(stream);
		if (!entry)
			return -errno;
		r = fstatat(folder, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
		if (r == -ENOENT || (r == 0 && !S_ISREG(st.st_mode)))
			continue; /* removed beside us, or not ours */
		if (r < 0)	  /* passed over, it would soon look like one that a batch covers */
			return r;
		r = each(arg, entry->d_name, (__u64)st.st_size);
		if (r)
			return r;
	}
}

static int real_lock(void *ctx, const char *name)
{
	struct real *real = ctx;
	/* not for writing: the folder can then be remounted read-only beside us */
	int fd = openat(real->root, name, O_RDONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		int r = errno == EWOULDBLOCK ? -EBUSY : -errno;

		tally_util_close(fd);
		return r;
	}
	real->lock = fd;
	return 0;
}

static int real_random(void *ctx, void *data, size_t len)
{
	(void)ctx;
	return tally_util_random(data, len);
}

static int real_room(void *ctx, __u64 *ret_total, __u64 *ret_free)
{
	const struct real *real = ctx;
	struct statvfs st;

	if (fstatvfs(real->root, &st) < 0)
		return -errno;
	*ret_total = (__u64)st.f_blocks * st.f_frsize;
	/* What is kept for root is ours, too. */
	*ret_free = (__u64)(geteuid() ? st.f_bavail : st.f_bfree) * st.f_frsize;
	return 0;
}

/* Half of it is no use to anyone. */
static void take_back(const struct real *real, const char *name, int fd, off_t size)
{
	if (!size)
		(void)unlinkat(real->root, name, 0); /* the first error counts */
	else
		(void)!ftruncate(fd, size); /* likewise */
}

static int real_allocate(void *ctx, const char *name, __u64 bytes)
{
	const struct real *real = ctx;
	_cleanup_close_ int fd =
		openat(real->root, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	struct stat st;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (st.st_size > (off_t)bytes)
		r = ftruncate(fd, (off_t)bytes) < 0 ? -errno : 0;
	else
		r = -posix_fallocate(fd, 0, (off_t)bytes);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	if (r < 0)
		take_back(real, name, fd, st.st_size);
	return r;
}

static void real_free(void *ctx)
{
	struct real *real = ctx;

	tally_util_close(real->lock);
	tally_util_close(real->root);
	free(real);
}

int tally_fs_open(const char *root, struct tally_fs *ret_fs)
{
	_cleanup_free_ struct real *real = calloc(1, sizeof(*real));
	int r;

	if (!real)
		return -ENOMEM;
	r = tally_util_mkdirs(root, 0700);
	if (r < 0)
		return r;
	real->lock = -1;
	real->root = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (real->root < 0)
		return -errno;
	*ret_fs = (struct tally_fs){
		.ctx = TAKE_PTR(real),
		.mkdir = real_mkdir,
		.create = real_create,
		.write = real_write,
		.sync = real_sync,
		.close = real_close,
		.rename = real_rename,
		.sync_dir = real_sync_dir,
		.unlink = real_unlink,
		.read = real_read,
		.list = real_list,
		.lock = real_lock,
		.free = real_free,
		.random = real_random,
		.room = real_room,
		.allocate = real_allocate,
	};
	return 0;
}

bool tally_fs_is_tmp(const char *name)
{
	size_t len = strlen(name);

	return len > 4 && strcmp(name + len - 4, ".tmp") == 0;
}

static int fill(const struct tally_fs *fs, int fd, const struct tally_fs_file *file)
{
	int r, c;

	r = fs->write(fs->ctx, fd, file->data, file->len);
	if (r == 0)
		r = fs->sync(fs->ctx, fd);
	c = fs->close(fs->ctx, fd);
	return r < 0 ? r : c;
}

int tally_fs_put(const struct tally_fs *fs, const struct tally_fs_file *file, bool *ret_doubt)
{
	char tmp[40];
	__u64 salt = 0;
	int fd = -1, r;

	*ret_doubt = false;
	r = fs->random(fs->ctx, &salt, sizeof(salt));
	if (r < 0)
		return r;
	(void)snprintf(tmp, sizeof(tmp), "%016llx.tmp", (unsigned long long)salt); /* fits */
	r = fs->create(fs->ctx, file->dir, tmp, &fd);
	if (r < 0)
		return r;
	r = fill(fs, fd, file);
	*ret_doubt = r == 0;
	if (r == 0)
		r = fs->rename(fs->ctx, file->dir, tmp, file->dir, file->name);
	if (r < 0) { /* what stays recovery removes */
		*ret_doubt |= fs->unlink(fs->ctx, file->dir, tmp) < 0;
		return r;
	}
	return fs->sync_dir(fs->ctx, file->dir);
}

int tally_fs_quarantine(const struct tally_fs *fs, const char *dir, const char *name,
			const char *suffix)
{
	_cleanup_(tally_buf_done) struct tally_buf to = { 0 };
	__u64 salt = 0;
	int r;

	r = fs->random(fs->ctx, &salt, sizeof(salt));
	if (r < 0)
		return r;
	tally_buf_printf(&to, "%08x-%s%s", (unsigned int)salt, name, suffix);
	if (to.error)
		return to.error;
	r = fs->rename(fs->ctx, dir, name, TALLY_QUARANTINE, to.data);
	if (r == 0)
		r = fs->sync_dir(fs->ctx, TALLY_QUARANTINE);
	return r < 0 ? r : fs->sync_dir(fs->ctx, dir);
}
