/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk in memory. Names and contents are two things:
 *
 *	content		durable once synced; a failed sync poisons it for ever (pages marked clean)
 *	names		changes wait in a list; syncing a folder makes its changes durable, in order
 *
 * A power cut keeps, for each folder, a random prefix of its waiting changes, and of contents that
 * were not synced a random part, sometimes with its end turned to zeros. A rename between folders
 * is one change. Killing the agent loses nothing. It may be small: files take whole blocks of it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "tests/sim/world.h"

#define NAMES 512
#define CHANGES 1024
#define FDS 16
#define DIRS 8
#define BLOCK 4096
#define LARGE (1ULL << 18) /* and never full */

struct content {
	char *data;
	size_t len;
	int refs;
	bool synced, poisoned;
};

struct name {
	int dir;
	char text[128];
	struct content *content;
};

struct names {
	struct name items[NAMES];
	size_t n;
};

enum change_kind { LINK, UNLINK, MOVE };

struct change {
	enum change_kind kind;
	int dir, to_dir; /* to_dir: MOVE */
	char text[128], to[128];
	struct content *content; /* LINK, MOVE */
};

struct sim_disk {
	struct sim_dice *dice;
	char dirs[DIRS][32];
	int n_dirs;
	struct names now, durable;
	struct change changes[CHANGES];
	size_t n_changes;
	struct content *open[FDS];
	int fuse;
	__u64 per_mille;
	__u64 bytes; /* 0: it is never full */
	bool dead;
};

__u64 sim_roll(struct sim_dice *dice, __u64 n)
{
	__u64 x = dice->state += 0x9e3779b97f4a7c15ULL;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
	return (x ^ x >> 31) % n;
}

bool sim_chance(struct sim_dice *dice, __u64 percent)
{
	return sim_roll(dice, 100) < percent;
}

static struct content *hold(struct content *content)
{
	content->refs++;
	return content;
}

static void let_go(struct content *content)
{
	if (!content || --content->refs > 0)
		return;
	free(content->data);
	free(content);
}

static struct content *content_new(void)
{
	struct content *content = calloc(1, sizeof(*content));

	content->refs = 1;
	return content;
}

static int dir_index(const struct sim_disk *disk, const char *dir)
{
	for (int i = 0; i < disk->n_dirs; i++) {
		if (strcmp(disk->dirs[i], dir) == 0)
			return i;
	}
	return -1;
}

static struct name *find(struct names *names, int dir, const char *text)
{
	for (size_t i = 0; i < names->n; i++) {
		if (names->items[i].dir == dir && strcmp(names->items[i].text, text) == 0)
			return &names->items[i];
	}
	return NULL;
}

static void unlink_name(struct names *names, int dir, const char *text)
{
	struct name *name = find(names, dir, text);

	if (!name)
		return;
	let_go(name->content);
	*name = names->items[--names->n];
}

static void link_name(struct names *names, int dir, const char *text, struct content *content)
{
	struct name *name;

	hold(content);
	unlink_name(names, dir, text);
	if (names->n == NAMES)
		abort();
	name = &names->items[names->n++];
	name->dir = dir;
	(void)snprintf(name->text, sizeof(name->text), "%s", text);
	name->content = content;
}

static void apply(struct names *names, const struct change *change)
{
	switch (change->kind) {
	case LINK:
		link_name(names, change->dir, change->text, change->content);
		break;
	case UNLINK:
		unlink_name(names, change->dir, change->text);
		break;
	case MOVE:
		link_name(names, change->to_dir, change->to, change->content);
		unlink_name(names, change->dir, change->text);
		break;
	}
}

static void make_durable(struct sim_disk *disk, size_t at)
{
	apply(&disk->durable, &disk->changes[at]);
	let_go(disk->changes[at].content);
	memmove(&disk->changes[at], &disk->changes[at + 1],
		(disk->n_changes - at - 1) * sizeof(disk->changes[0]));
	disk->n_changes--;
}

static void change(struct sim_disk *disk, const struct change *one)
{
	if (disk->n_changes == CHANGES) /* a disk does not wait for ever */
		make_durable(disk, 0);
	disk->changes[disk->n_changes] = *one;
	if (one->content)
		hold(one->content);
	disk->n_changes++;
	apply(&disk->now, one);
}

/* Before each operation: 0, or the error it ends with, having done nothing. */
static int luck(struct sim_disk *disk)
{
	static const int errors[] = { -EIO, -ENOSPC, -EINTR, -EMFILE };

	if (!disk->dead && disk->fuse >= 0 && disk->fuse-- == 0)
		disk->dead = true;
	if (disk->dead)
		return -EIO;
	if (disk->per_mille && sim_roll(disk->dice, 1000) < disk->per_mille)
		return errors[sim_roll(disk->dice, 4)];
	return 0;
}

static int sim_mkdir(void *ctx, const char *dir)
{
	struct sim_disk *disk = ctx;
	int r = luck(disk);

	if (r < 0 || dir_index(disk, dir) >= 0)
		return r;
	(void)snprintf(disk->dirs[disk->n_dirs++], sizeof(disk->dirs[0]), "%s", dir);
	return 0;
}

static __u64 blocks_of(size_t len)
{
	return (len + BLOCK - 1) / BLOCK * BLOCK;
}

static __u64 free_bytes(const struct sim_disk *disk)
{
	__u64 used = 0;

	if (!disk->bytes)
		return LARGE;
	for (size_t i = 0; i < disk->now.n; i++)
		used += blocks_of(disk->now.items[i].content->len);
	return disk->bytes > used ? disk->bytes - used : 0;
}

static bool has_room(const struct sim_disk *disk, const struct content *content, size_t len)
{
	return blocks_of(len) <= blocks_of(content->len) + free_bytes(disk);
}

static void resize(struct content *content, size_t len)
{
	content->data = realloc(content->data, len + 1);
	if (len > content->len)
		memset(content->data + content->len, 0, len - content->len);
	content->len = len;
	content->synced = false;
}

static int sim_create(void *ctx, const char *dir, const char *text, int *ret_fd)
{
	struct sim_disk *disk = ctx;
	struct change one = { .kind = LINK, .dir = dir_index(disk, dir) };
	int r = luck(disk);

	if (r < 0)
		return r;
	if (one.dir < 0 || find(&disk->now, one.dir, text))
		return one.dir < 0 ? -ENOENT : -EEXIST;
	for (int fd = 0; fd < FDS; fd++) {
		if (disk->open[fd])
			continue;
		one.content = disk->open[fd] = content_new();
		(void)snprintf(one.text, sizeof(one.text), "%s", text);
		change(disk, &one);
		*ret_fd = fd;
		return 0;
	}
	return -EMFILE;
}

static int sim_write(void *ctx, int fd, const void *data, size_t len)
{
	struct sim_disk *disk = ctx;
	struct content *content = disk->open[fd];
	size_t at = content->len;
	int r = luck(disk);

	if (r == 0 && !has_room(disk, content, at + len))
		r = -ENOSPC;
	if (r < 0) /* torn */
		len = disk->dead || !len ? 0 : sim_roll(disk->dice, len);
	if (!has_room(disk, content, at + len))
		len = 0;
	resize(content, at + len);
	memcpy(content->data + at, data, len);
	return r;
}

static int sim_sync(void *ctx, int fd)
{
	struct sim_disk *disk = ctx;
	int r = luck(disk);

	if (r < 0 && !disk->dead)
		disk->open[fd]->poisoned = true;
	if (r == 0)
		disk->open[fd]->synced = true;
	return r;
}

static int sim_close(void *ctx, int fd)
{
	struct sim_disk *disk = ctx;

	let_go(disk->open[fd]);
	disk->open[fd] = NULL;
	return luck(disk) < 0 && !disk->dead ? -EIO : 0;
}

static int sim_rename(void *ctx, const char *from_dir, const char *from, const char *to_dir,
		      const char *to)
{
	struct sim_disk *disk = ctx;
	struct change one = { .kind = MOVE };
	struct name *name;
	int r = luck(disk);

	if (disk->dead)
		return r;
	if (r < 0 && !sim_chance(disk->dice, 30)) /* else it is done, and an error told */
		return r;
	one.dir = dir_index(disk, from_dir);
	one.to_dir = dir_index(disk, to_dir);
	name = one.dir < 0 ? NULL : find(&disk->now, one.dir, from);
	if (!name || one.to_dir < 0)
		return -ENOENT;
	one.content = name->content;
	(void)snprintf(one.text, sizeof(one.text), "%s", from);
	(void)snprintf(one.to, sizeof(one.to), "%s", to);
	change(disk, &one);
	return r;
}

static bool touches(const struct change *one, int dir)
{
	return one->dir == dir || (one->kind == MOVE && one->to_dir == dir);
}

static int sim_sync_dir(void *ctx, const char *dir)
{
	struct sim_disk *disk = ctx;
	int index = dir_index(disk, dir), r = luck(disk);

	if (r < 0)
		return r;
	if (index < 0)
		return -ENOENT;
	for (size_t i = 0; i < disk->n_changes;) {
		if (touches(&disk->changes[i], index))
			make_durable(disk, i);
		else
			i++;
	}
	return 0;
}

static int sim_unlink(void *ctx, const char *dir, const char *text)
{
	struct sim_disk *disk = ctx;
	struct change one = { .kind = UNLINK, .dir = dir_index(disk, dir) };
	int r = luck(disk);

	if (r < 0)
		return r;
	if (one.dir < 0 || !find(&disk->now, one.dir, text))
		return -ENOENT;
	(void)snprintf(one.text, sizeof(one.text), "%s", text);
	change(disk, &one);
	return 0;
}

static int sim_read(void *ctx, const char *dir, const char *text, struct tally_buf *buf)
{
	struct sim_disk *disk = ctx;
	int index = dir_index(disk, dir), r = luck(disk);
	const struct name *name = index < 0 ? NULL : find(&disk->now, index, text);

	if (r < 0)
		return r;
	if (!name)
		return -ENOENT;
	tally_buf_put(buf, name->content->data, name->content->len);
	return buf->error;
}

static int sim_list(void *ctx, const char *dir,
		    int (*each)(void *arg, const char *name, __u64 size), void *arg)
{
	struct sim_disk *disk = ctx;
	int index = dir_index(disk, dir), r = luck(disk);

	if (index < 0)
		return r < 0 ? r : -ENOENT;
	for (size_t i = 0; r == 0 && i < disk->now.n; i++) {
		if (disk->now.items[i].dir == index)
			r = each(arg, disk->now.items[i].text, disk->now.items[i].content->len);
	}
	return r;
}

static int sim_lock(void *ctx, const char *name)
{
	(void)name;
	return luck(ctx);
}

static int sim_random(void *ctx, void *data, size_t len)
{
	struct sim_disk *disk = ctx;
	__u8 *p = data;

	for (size_t i = 0; i < len; i++)
		p[i] = (__u8)sim_roll(disk->dice, 256);
	return 0;
}

static int sim_room(void *ctx, __u64 *ret_total, __u64 *ret_free)
{
	struct sim_disk *disk = ctx;
	int r = luck(disk);

	if (r < 0)
		return r;
	*ret_total = disk->bytes ? disk->bytes : LARGE;
	*ret_free = free_bytes(disk);
	return 0;
}

static int sim_allocate(void *ctx, const char *text, __u64 bytes)
{
	struct sim_disk *disk = ctx;
	struct change one = { .kind = LINK };
	struct name *name = find(&disk->now, 0, text);
	struct content *content = name ? hold(name->content) : content_new();
	int r = luck(disk);

	if (r == 0 && bytes > content->len && !has_room(disk, content, bytes))
		r = -ENOSPC;
	if (r == 0 && bytes != content->len)
		resize(content, bytes);
	if (r == 0 && !name) {
		one.content = content;
		(void)snprintf(one.text, sizeof(one.text), "%s", text);
		change(disk, &one);
	}
	if (r == 0)
		content->synced = true;
	let_go(content);
	return r;
}

void sim_disk_fs(struct sim_disk *disk, struct tally_fs *ret_fs)
{
	*ret_fs = (struct tally_fs){
		.ctx = disk,
		.mkdir = sim_mkdir,
		.create = sim_create,
		.write = sim_write,
		.sync = sim_sync,
		.close = sim_close,
		.rename = sim_rename,
		.sync_dir = sim_sync_dir,
		.unlink = sim_unlink,
		.read = sim_read,
		.list = sim_list,
		.lock = sim_lock,
		.random = sim_random,
		.room = sim_room,
		.allocate = sim_allocate,
	};
}

struct sim_disk *sim_disk_new(struct sim_dice *dice)
{
	struct sim_disk *disk = calloc(1, sizeof(*disk));

	disk->dice = dice;
	disk->fuse = -1;
	disk->n_dirs = 1; /* "" */
	return disk;
}

static void names_free(struct names *names)
{
	while (names->n)
		let_go(names->items[--names->n].content);
}

void sim_disk_free(struct sim_disk *disk)
{
	if (!disk)
		return;
	names_free(&disk->now);
	names_free(&disk->durable);
	while (disk->n_changes)
		let_go(disk->changes[--disk->n_changes].content);
	for (int i = 0; i < FDS; i++)
		let_go(disk->open[i]);
	free(disk);
}

void sim_disk_size(struct sim_disk *disk, __u64 bytes)
{
	disk->bytes = bytes;
}

void sim_disk_fuse(struct sim_disk *disk, int operations)
{
	disk->fuse = operations;
}

void sim_disk_errors(struct sim_disk *disk, __u64 per_mille)
{
	disk->per_mille = per_mille;
}

bool sim_disk_dead(const struct sim_disk *disk)
{
	return disk->dead;
}

void sim_disk_revive(struct sim_disk *disk)
{
	disk->dead = false;
	disk->fuse = -1;
	for (int i = 0; i < FDS; i++) {
		let_go(disk->open[i]);
		disk->open[i] = NULL;
	}
}

/* What the platter holds of a content nobody synced. */
static void tear(struct sim_disk *disk, struct content *content)
{
	size_t keep = content->len ? sim_roll(disk->dice, content->len + 1) : 0;

	if (content->synced && !content->poisoned)
		return;
	if (sim_chance(disk->dice, 50))
		memset(content->data + keep, 0, content->len - keep);
	else
		content->len = keep;
	content->synced = true;
	content->poisoned = false;
}

void sim_disk_power_cut(struct sim_disk *disk)
{
	size_t seen[DIRS] = { 0 }, keep[DIRS];

	for (int dir = 0; dir < DIRS; dir++)
		keep[dir] = sim_roll(disk->dice, 12);
	for (size_t i = 0; i < disk->n_changes;) {
		const struct change *one = &disk->changes[i];
		bool kept = seen[one->dir]++ < keep[one->dir];

		if (one->kind == MOVE && one->to_dir != one->dir)
			kept |= seen[one->to_dir]++ < keep[one->to_dir];
		if (kept)
			make_durable(disk, i);
		else
			i++;
	}
	while (disk->n_changes)
		let_go(disk->changes[--disk->n_changes].content);
	names_free(&disk->now);
	for (size_t i = 0; i < disk->durable.n; i++) {
		const struct name *name = &disk->durable.items[i];

		tear(disk, name->content);
		link_name(&disk->now, name->dir, name->text, name->content);
	}
	sim_disk_revive(disk);
}

bool sim_disk_flip(struct sim_disk *disk, const char *dir)
{
	int index = dir_index(disk, dir);
	size_t n = sim_disk_count(disk, dir), pick = n ? sim_roll(disk->dice, n) : 0;

	for (size_t i = 0; n && i < disk->now.n; i++) {
		struct content *content = disk->now.items[i].content;

		if (disk->now.items[i].dir != index || pick--)
			continue;
		if (!content->len)
			return false;
		content->data[sim_roll(disk->dice, content->len)] ^=
			(char)(1 << sim_roll(disk->dice, 8));
		return true;
	}
	return false;
}

bool sim_disk_remove(struct sim_disk *disk, const char *dir, const char *name)
{
	int index = dir_index(disk, dir);

	if (index < 0 || !find(&disk->now, index, name))
		return false;
	unlink_name(&disk->now, index, name);
	unlink_name(&disk->durable, index, name);
	return true;
}

size_t sim_disk_count(const struct sim_disk *disk, const char *dir)
{
	int index = dir_index(disk, dir);
	size_t n = 0;

	for (size_t i = 0; i < disk->now.n; i++)
		n += disk->now.items[i].dir == index;
	return n;
}

/* As a backup would: what can be read now. */
struct sim_disk *sim_disk_copy(const struct sim_disk *disk)
{
	struct sim_disk *copy = sim_disk_new(disk->dice);

	memcpy(copy->dirs, disk->dirs, sizeof(copy->dirs));
	copy->n_dirs = disk->n_dirs;
	copy->bytes = disk->bytes;
	for (size_t i = 0; i < disk->now.n; i++) {
		const struct name *name = &disk->now.items[i];
		struct content *content = content_new();

		content->len = name->content->len;
		content->data = malloc(content->len + 1);
		memcpy(content->data, name->content->data, content->len);
		content->synced = true;
		link_name(&copy->now, name->dir, name->text, content);
		link_name(&copy->durable, name->dir, name->text, content);
		let_go(content);
	}
	return copy;
}
