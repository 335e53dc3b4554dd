/* SPDX-License-Identifier: Apache-2.0 */
#include "deliver/checkpoint.h"

#include "base/log.h"
#include "base/util.h"

#define FILE_MAX 4096
#define EXTRA_FIRST 4 /* what files had before there were connections; the rest stands at the end */

static int path_of(const char *state_dir, const char *name, char **ret_path)
{
	char *path = NULL;

	if (asprintf(&path, "%s/sinks/%s", state_dir, name) < 0)
		return -ENOMEM;
	*ret_path = path;
	return 0;
}

static int decode(struct tally_reader *in, struct tally_checkpoint_file *file)
{
	const void *chain;

	file->at.batch = tally_reader_var(in);
	file->at.seq = tally_reader_var(in);
	file->at.whole = tally_reader_u8(in);
	file->at.incarnation = (__u32)tally_reader_below(in, 1ULL << 32);
	chain = tally_reader_get(in, TALLY_CHAIN);
	if (chain)
		memcpy(file->at.chain, chain, TALLY_CHAIN);
	for (int i = 0; i < EXTRA_FIRST; i++)
		file->extra[i] = tally_reader_var(in);
	file->at.position.epoch = tally_reader_var(in);
	tally_position_get(in, &file->at.position);
	if (in->error || in->pos == in->len)
		return in->error;
	file->at.connections = tally_reader_var(in);
	for (int i = EXTRA_FIRST; i < TALLY_CHECKPOINT_EXTRA; i++)
		file->extra[i] = tally_reader_var(in);
	return in->error;
}

static int set_aside(const char *path)
{
	_cleanup_free_ char *to = NULL;

	if (asprintf(&to, "%s.damaged", path) < 0) {
		to = NULL;
		return -ENOMEM;
	}
	tally_log_error("sink_checkpoint_damaged", "file=%s moved_to=%s", path, to);
	return rename(path, to) < 0 ? -errno : -EBADMSG;
}

int tally_checkpoint_load_at(const char *path, const char *agent,
			     struct tally_checkpoint_file *ret_file)
{
	struct tally_checkpoint_file file = { 0 };
	_cleanup_free_ char *data = NULL;
	struct tally_reader reader;
	size_t len = 0;
	int r;

	r = tally_util_read_file(path, FILE_MAX, &data, &len);
	if (r < 0)
		return r;
	r = tally_frame_get(data, len, TALLY_FRAME_SINK, agent, NULL, &reader);
	if (r == -EXDEV)
		return -ENOENT;
	if (r == 0)
		r = decode(&reader, &file);
	if (r < 0)
		return set_aside(path);
	*ret_file = file;
	return 0;
}

int tally_checkpoint_load(const char *state_dir, const char *name, const char *agent,
			  struct tally_checkpoint_file *ret_file)
{
	_cleanup_free_ char *path = NULL;
	int r = path_of(state_dir, name, &path);

	return r < 0 ? r : tally_checkpoint_load_at(path, agent, ret_file);
}

/* Nothing where there are no connections: an agent that knows none reads the file, too. */
static void put_rest(const struct tally_checkpoint_file *file, struct tally_buf *buf)
{
	__u64 any = file->at.connections;

	for (int i = EXTRA_FIRST; i < TALLY_CHECKPOINT_EXTRA; i++)
		any |= file->extra[i];
	if (!any)
		return;
	tally_buf_var(buf, file->at.connections);
	for (int i = EXTRA_FIRST; i < TALLY_CHECKPOINT_EXTRA; i++)
		tally_buf_var(buf, file->extra[i]);
}

int tally_checkpoint_save_at(const char *path, const char *agent,
			     const struct tally_checkpoint_file *file)
{
	_cleanup_(tally_buf_done) struct tally_buf payload = { 0 };
	_cleanup_(tally_buf_done) struct tally_buf framed = { 0 };
	int r;

	tally_buf_var(&payload, file->at.batch);
	tally_buf_var(&payload, file->at.seq);
	tally_buf_u8(&payload, file->at.whole);
	tally_buf_var(&payload, file->at.incarnation);
	tally_buf_put(&payload, file->at.chain, TALLY_CHAIN);
	for (int i = 0; i < EXTRA_FIRST; i++)
		tally_buf_var(&payload, file->extra[i]);
	tally_buf_var(&payload, file->at.position.epoch);
	tally_position_put(&file->at.position, &payload);
	put_rest(file, &payload);
	if (payload.error)
		return payload.error;
	r = tally_frame_put(&framed, TALLY_FRAME_SINK, agent, payload.data, payload.len);
	return r < 0 ? r : tally_util_write_file(path, framed.data, framed.len, 0600);
}

int tally_checkpoint_save(const char *state_dir, const char *name, const char *agent,
			  const struct tally_checkpoint_file *file)
{
	_cleanup_free_ char *path = NULL;
	int r = path_of(state_dir, name, &path);

	return r < 0 ? r : tally_checkpoint_save_at(path, agent, file);
}
