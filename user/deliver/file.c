/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file sink: one record a line (NDJSON), usage, connection and control records in one file.
 *
 *	usage.ndjson  .usage.ndjson.checkpoint
 *
 * Exactly once: a piece is appended and fsynced, then the checkpoint with the file's new length is
 * written; on opening, what lies behind the checkpointed length is cut off. The checkpoint stands
 * beside the file and not in the state directory: a state directory of yesterday that is put back
 * must not make us cut lines that were delivered since. A file that was rotated away (another inode)
 * is left alone and a new one begun; one that is shorter than the checkpoint says goes on from its end.
 * The file is ours alone: what others append to it is cut off before the next piece.
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/util.h"
#include "deliver/checkpoint.h"
#include "deliver/ship.h"

#define PIECE_RECORDS 4000 /* keeps one step of the loop short */

enum extra { OFFSET, INODE, DEVICE };

struct file_sink {
	struct tally_sink sink;
	char *path, *checkpoint;
	char agent[TALLY_AGENT_ID + 1];
	int fd;
	struct tally_checkpoint_file saved;
	struct tally_sink_event event; /* the answer to be polled */
};

static void answer(struct file_sink *file, enum tally_sink_event_kind kind, int error)
{
	file->event = (struct tally_sink_event){
		.kind = kind,
		.error = error,
		.checkpoint = file->saved.at,
	};
}

/* Is it the file of the checkpoint, with all that was checkpointed? */
static bool continues(const struct tally_checkpoint_file *saved, const struct stat *st)
{
	return saved->extra[INODE] == st->st_ino && saved->extra[DEVICE] == st->st_dev &&
	       (__u64)st->st_size >= saved->extra[OFFSET];
}

/* Somebody else's last line may be half of one: ours begins on its own. Takes the size along. */
static int end_line(int fd, struct stat *st)
{
	char last = '\n';
	int r;

	if (st->st_size && pread(fd, &last, 1, st->st_size - 1) != 1)
		return -EIO;
	if (last == '\n')
		return 0;
	r = tally_util_write_all(fd, "\n", 1);
	if (r == 0)
		st->st_size++;
	return r;
}

/*
 * What lies behind the checkpointed length is cut off. In a file that is new to us nothing is; where
 * it ends now is remembered before the first line is written.
 */
static int settle(struct file_sink *file)
{
	struct tally_checkpoint_file *saved = &file->saved;
	struct stat st;
	int r = 0;

	if (fstat(file->fd, &st) < 0)
		return -errno;
	if (continues(saved, &st)) {
		r = ftruncate(file->fd, (off_t)saved->extra[OFFSET]) < 0 ? -errno : 0;
	} else {
		r = end_line(file->fd, &st);
		saved->extra[OFFSET] = (__u64)st.st_size;
		saved->extra[INODE] = st.st_ino;
		saved->extra[DEVICE] = st.st_dev;
		if (r == 0)
			r = tally_checkpoint_save_at(file->checkpoint, file->agent, saved);
	}
	if (r == 0 && fsync(file->fd) < 0)
		r = -errno;
	return r;
}

static int sync_parent(const char *path)
{
	_cleanup_free_ char *dir = strdup(path);
	char *slash = dir ? strrchr(dir, '/') : NULL;

	if (!dir)
		return -ENOMEM;
	if (!slash)
		return tally_util_sync_dir(".");
	slash[slash == dir] = 0;
	return tally_util_sync_dir(dir);
}

static int open_file(struct file_sink *file)
{
	int r;

	r = tally_checkpoint_load_at(file->checkpoint, file->agent, &file->saved);
	if (r < 0 && r != -ENOENT && r != -EBADMSG)
		return r;
	if (r < 0)
		file->saved = (struct tally_checkpoint_file){ 0 };
	file->fd = open(file->path, O_RDWR | O_CREAT | O_CLOEXEC | O_APPEND, 0640);
	if (file->fd < 0)
		return -errno;
	r = settle(file);
	return r < 0 ? r : sync_parent(file->path);
}

static int file_open(struct tally_sink *sink, const char *agent)
{
	struct file_sink *file = (struct file_sink *)sink;
	int r;

	(void)snprintf(file->agent, sizeof(file->agent), "%s", agent); /* 12 digits */
	r = open_file(file);
	answer(file, r < 0 ? TALLY_SINK_FAILED : TALLY_SINK_OPENED, r);
	return 0;
}

/* Lines of records [from, ...), and how far they went. */
static int encode(const struct tally_send *send, struct tally_buf *lines, __u64 *ret_to)
{
	__u64 total = tally_batch_messages(send->batch), to = send->from;
	struct tally_message msg;
	int r = 0;

	tally_message_init(&msg);
	while (r == 0 && to < total && to - send->from < PIECE_RECORDS &&
	       lines->len < TALLY_TXN_BYTES) {
		r = tally_batch_message(send->batch, to, TALLY_FORMAT_CLOUDEVENTS, &msg);
		tally_buf_put(lines, msg.value.data, msg.value.len);
		tally_buf_u8(lines, '\n');
		to++;
	}
	if (r == 0 && to == total) {
		r = tally_batch_control(send->batch, &msg);
		tally_buf_put(lines, msg.value.data, msg.value.len);
		tally_buf_u8(lines, '\n');
	}
	tally_message_done(&msg);
	*ret_to = to;
	return r < 0 ? r : lines->error;
}

/*
 * Rotated by somebody: the path no longer names what we write to. Or its length is not the one we know,
 * as it was cut short or written to by others: the next checkpoint would name a place amid our lines.
 */
static bool changed(const struct file_sink *file)
{
	struct stat st;

	return stat(file->path, &st) < 0 || st.st_ino != file->saved.extra[INODE] ||
	       st.st_dev != file->saved.extra[DEVICE] ||
	       (__u64)st.st_size != file->saved.extra[OFFSET];
}

static int append(struct file_sink *file, const struct tally_send *send)
{
	_cleanup_(tally_buf_done) struct tally_buf lines = { 0 };
	struct tally_checkpoint_file next = file->saved;
	__u64 to = 0;
	int r;

	if (changed(file))
		return -ESTALE;
	r = encode(send, &lines, &to);
	if (r == 0)
		r = tally_util_write_all(file->fd, lines.data, lines.len);
	if (r == 0 && fsync(file->fd) < 0)
		r = -errno;
	if (r < 0)
		return r;
	tally_checkpoint_at(send->batch, to, &next.at);
	next.extra[OFFSET] += lines.len;
	r = tally_checkpoint_save_at(file->checkpoint, file->agent, &next);
	if (r == 0)
		file->saved = next;
	return r;
}

static int file_send(struct tally_sink *sink, const struct tally_send *send)
{
	struct file_sink *file = (struct file_sink *)sink;
	int r = append(file, send);

	answer(file, r < 0 ? TALLY_SINK_DOUBT : TALLY_SINK_SENT, r);
	return 0;
}

static int file_confirm(struct tally_sink *sink)
{
	struct file_sink *file = (struct file_sink *)sink;
	struct tally_checkpoint_file saved;
	int r;

	r = tally_checkpoint_load_at(file->checkpoint, file->agent, &saved);
	if (r == 0)
		file->saved = saved;
	answer(file, r < 0 ? TALLY_SINK_FAILED : TALLY_SINK_CONFIRMED, r);
	return 0;
}

static int file_close(struct tally_sink *sink)
{
	struct file_sink *file = (struct file_sink *)sink;

	tally_util_close(file->fd);
	file->fd = -1;
	answer(file, TALLY_SINK_CLOSED, 0);
	return 0;
}

static void file_poll(struct tally_sink *sink, struct tally_sink_event *ret_event)
{
	struct file_sink *file = (struct file_sink *)sink;

	*ret_event = file->event;
	file->event.kind = TALLY_SINK_NOTHING;
}

static void file_free(struct tally_sink *sink)
{
	struct file_sink *file = (struct file_sink *)sink;

	if (!file)
		return;
	tally_util_close(file->fd);
	free(file->path);
	free(file->checkpoint);
	free(file->sink.name);
	free(file);
}

static const struct tally_sink_ops file_ops = {
	.open = file_open,
	.send = file_send,
	.confirm = file_confirm,
	.close = file_close,
	.poll = file_poll,
	.free = file_free,
};

/* In the folder of the file, under a name that no rotation of it matches. */
static char *checkpoint_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	int dir = slash ? (int)(slash - path) + 1 : 0;
	char *text = NULL;

	return asprintf(&text, "%.*s.%s.checkpoint", dir, path, path + dir) < 0 ? NULL : text;
}

struct tally_sink *tally_file_sink_new(const char *name, const char *path)
{
	struct file_sink *file = calloc(1, sizeof(*file));

	if (!file)
		return NULL;
	file->sink = (struct tally_sink){ .ops = &file_ops, .required = true, .wake_fd = -1 };
	file->fd = -1;
	file->sink.name = strdup(name);
	file->path = strdup(path);
	file->checkpoint = checkpoint_of(path);
	if (!file->sink.name || !file->path || !file->checkpoint) {
		file_free(&file->sink);
		return NULL;
	}
	return &file->sink;
}
