/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stdout sink: for eyes and pipes. Its checkpoint stands in the state directory, and is written
 * after a batch went out: after a crash the last batch may be printed again, with the same ids. A
 * reader that is slow holds up this sink alone: no write may block. Where it may be a file whose disk
 * was full, a line that was torn ends before the next one begins.
 */
#include <limits.h>
#include <poll.h>

#include "base/util.h"
#include "deliver/checkpoint.h"
#include "deliver/ship.h"

#define PIECE_RECORDS 1000

struct stdout_sink {
	struct tally_sink sink;
	char *state_dir;
	char agent[TALLY_AGENT_ID + 1];
	struct tally_checkpoint_file saved;
	struct tally_checkpoint next; /* once `lines` is out */
	struct tally_buf lines;
	size_t written;
	bool torn; /* what stands there ends in the middle of a line */
	struct tally_sink_event event;
};

static void answer(struct stdout_sink *out, enum tally_sink_event_kind kind, int error)
{
	out->event = (struct tally_sink_event){
		.kind = kind,
		.error = error,
		.checkpoint = out->saved.at,
	};
}

static int stdout_open(struct tally_sink *sink, const char *agent)
{
	struct stdout_sink *out = (struct stdout_sink *)sink;
	int r;

	(void)snprintf(out->agent, sizeof(out->agent), "%s", agent); /* 12 digits */
	r = tally_checkpoint_load(out->state_dir, sink->name, agent, &out->saved);
	if (r == -ENOENT || r == -EBADMSG) {
		out->saved = (struct tally_checkpoint_file){ 0 };
		r = 0;
	}
	answer(out, r < 0 ? TALLY_SINK_FAILED : TALLY_SINK_OPENED, r);
	return 0;
}

static int encode(struct stdout_sink *out, const struct tally_send *send)
{
	__u64 total = tally_batch_messages(send->batch), to = send->from;
	struct tally_message msg;
	int r = 0;

	tally_message_init(&msg);
	for (; r == 0 && to < total && to - send->from < PIECE_RECORDS; to++) {
		r = tally_batch_message(send->batch, to, TALLY_FORMAT_CLOUDEVENTS, &msg);
		tally_buf_put(&out->lines, msg.value.data, msg.value.len);
		tally_buf_u8(&out->lines, '\n');
	}
	if (r == 0 && to == total) {
		r = tally_batch_control(send->batch, &msg);
		tally_buf_put(&out->lines, msg.value.data, msg.value.len);
		tally_buf_u8(&out->lines, '\n');
	}
	tally_message_done(&msg);
	tally_checkpoint_at(send->batch, to, &out->next);
	return r < 0 ? r : out->lines.error;
}

static int stdout_send(struct tally_sink *sink, const struct tally_send *send)
{
	struct stdout_sink *out = (struct stdout_sink *)sink;

	tally_buf_clear(&out->lines);
	out->written = 0;
	if (out->torn)
		tally_buf_u8(&out->lines, '\n');
	return encode(out, send);
}

/* Writes while nothing blocks: a pipe that polls writable takes PIPE_BUF bytes at once. */
static int drain(struct stdout_sink *out)
{
	struct pollfd pfd = { .fd = STDOUT_FILENO, .events = POLLOUT };

	while (out->written < out->lines.len) {
		size_t len = TALLY_MIN(out->lines.len - out->written, (size_t)PIPE_BUF);
		ssize_t n;

		if (poll(&pfd, 1, 0) != 1)
			return -EAGAIN;
		n = write(STDOUT_FILENO, out->lines.data + out->written, len);
		if (n < 0)
			return errno == EINTR ? -EAGAIN : -errno;
		out->written += (size_t)n;
		if (n > 0)
			out->torn = out->lines.data[out->written - 1] != '\n';
	}
	return 0;
}

static int finish(struct stdout_sink *out)
{
	int r = 0;

	out->saved.at = out->next;
	if (out->next.whole)
		r = tally_checkpoint_save(out->state_dir, out->sink.name, out->agent, &out->saved);
	tally_buf_clear(&out->lines);
	out->written = 0;
	return r;
}

static void stdout_poll(struct tally_sink *sink, struct tally_sink_event *ret_event)
{
	struct stdout_sink *out = (struct stdout_sink *)sink;
	int r;

	if (out->event.kind == TALLY_SINK_NOTHING && out->lines.len) {
		r = drain(out);
		if (r == 0)
			r = finish(out);
		if (r != -EAGAIN)
			answer(out, r < 0 ? TALLY_SINK_DOUBT : TALLY_SINK_SENT, r);
	}
	*ret_event = out->event;
	out->event.kind = TALLY_SINK_NOTHING;
}

static int stdout_confirm(struct tally_sink *sink)
{
	answer((struct stdout_sink *)sink, TALLY_SINK_CONFIRMED, 0);
	return 0;
}

static int stdout_close(struct tally_sink *sink)
{
	struct stdout_sink *out = (struct stdout_sink *)sink;

	tally_buf_clear(&out->lines);
	answer(out, TALLY_SINK_CLOSED, 0);
	return 0;
}

static void stdout_free(struct tally_sink *sink)
{
	struct stdout_sink *out = (struct stdout_sink *)sink;

	if (!out)
		return;
	tally_buf_done(&out->lines);
	free(out->state_dir);
	free(out->sink.name);
	free(out);
}

static const struct tally_sink_ops stdout_ops = {
	.open = stdout_open,
	.send = stdout_send,
	.confirm = stdout_confirm,
	.close = stdout_close,
	.poll = stdout_poll,
	.free = stdout_free,
};

struct tally_sink *tally_stdout_sink_new(const char *name, const char *state_dir)
{
	struct stdout_sink *out = calloc(1, sizeof(*out));

	if (!out)
		return NULL;
	out->sink = (struct tally_sink){ .ops = &stdout_ops, .wake_fd = -1 };
	out->sink.name = strdup(name);
	out->state_dir = strdup(state_dir);
	if (!out->sink.name || !out->state_dir) {
		stdout_free(&out->sink);
		return NULL;
	}
	return &out->sink;
}
