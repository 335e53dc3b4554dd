/* SPDX-License-Identifier: Apache-2.0 */
#include "deliver/state.h"

#include "base/log.h"
#include "base/util.h"

/* Batch numbers passed over when the state may be a step old: sinks compare by them. */
#define SKIP 16

static const char *const names[] = { "state.0", "state.1" };

static void encode(const struct tally_state *state, struct tally_buf *buf)
{
	tally_buf_put(buf, state->machine, sizeof(state->machine));
	tally_buf_var(buf, state->generation);
	tally_buf_var(buf, state->incarnation);
	tally_buf_var(buf, state->next_seq);
	tally_buf_var(buf, state->next_batch);
	tally_buf_put(buf, state->chain, sizeof(state->chain));
	tally_buf_var(buf, state->batched.epoch);
	tally_buf_var(buf, state->sealed.epoch);
	tally_position_put(&state->sealed, buf);
	tally_position_put(&state->batched, buf);
	tally_buf_put(buf, state->opened.ledger, sizeof(state->opened.ledger));
	tally_buf_var(buf, state->opened.number);
	tally_buf_u8(buf, state->opened.hole);
}

static void get_bytes(struct tally_reader *in, __u8 *ret_bytes, size_t len)
{
	const void *p = tally_reader_get(in, len);

	if (p)
		memcpy(ret_bytes, p, len);
}

static void get_opened(struct tally_reader *in, struct tally_opening *opened)
{
	get_bytes(in, opened->ledger, sizeof(opened->ledger));
	opened->number = tally_reader_var(in);
	opened->hole = (__u8)tally_reader_below(in, TALLY_HOLE_LOST + 1);
}

static int decode(struct tally_reader *in, struct tally_state *state)
{
	get_bytes(in, state->machine, sizeof(state->machine));
	state->generation = tally_reader_var(in);
	state->incarnation = (__u32)tally_reader_below(in, 1ULL << 32);
	state->next_seq = tally_reader_var(in);
	state->next_batch = tally_reader_var(in);
	get_bytes(in, state->chain, sizeof(state->chain));
	state->batched.epoch = tally_reader_var(in);
	state->sealed.epoch = tally_reader_var(in);
	tally_position_get(in, &state->sealed);
	if (!in->error && in->pos < in->len) /* else of a version that did not write it */
		tally_position_get(in, &state->batched);
	else if (state->batched.epoch == state->sealed.epoch)
		state->batched = state->sealed;
	if (!in->error && in->pos < in->len)
		get_opened(in, &state->opened);
	return in->error;
}

static bool unreadable(int r)
{
	return r < 0 && r != -ENOENT && r != -EBADMSG;
}

/* -ENOENT: not there, -EBADMSG: damaged. */
static int load_one(const struct tally_fs *fs, const char *name, struct tally_state *ret_state)
{
	_cleanup_(tally_buf_done) struct tally_buf buf = { 0 };
	struct tally_state state = { 0 };
	struct tally_reader reader;
	int r;

	r = fs->read(fs->ctx, "", name, &buf);
	if (unreadable(r))
		tally_log_error("spool_unreadable", "file=%s error=%s", name, strerror(-r));
	if (r == 0)
		r = tally_frame_get(buf.data, buf.len, TALLY_FRAME_STATE, NULL, state.agent,
				    &reader);
	if (r == 0)
		r = decode(&reader, &state);
	if (r == 0)
		*ret_state = state;
	return r;
}

static int make(const struct tally_fs *fs, const __u8 *machine, struct tally_state *ret_state)
{
	struct tally_state state = { .incarnation = 1, .next_seq = 1, .next_batch = 1 };
	__u8 id[TALLY_AGENT_ID / 2];
	int r;

	r = fs->random(fs->ctx, id, sizeof(id));
	if (r < 0)
		return r;
	tally_util_hex(id, sizeof(id), state.agent);
	memcpy(state.machine, machine, sizeof(state.machine));
	*ret_state = state;
	return 0;
}

void tally_state_bump(struct tally_state *state)
{
	state->incarnation++;
	state->next_seq = 1;
}

/* What is not ours, or damaged, steps aside before anything is written in its place. */
static int set_aside(const struct tally_fs *fs, int a, int b, bool foreign)
{
	int r = 0;

	if (a == -EBADMSG || (a == 0 && foreign))
		r = tally_fs_quarantine(fs, "", names[0], "");
	if (r == 0 && (b == -EBADMSG || (b == 0 && foreign)))
		r = tally_fs_quarantine(fs, "", names[1], "");
	return r;
}

int tally_state_load(const struct tally_fs *fs, const char *machine_id,
		     struct tally_state *ret_state, enum tally_state_origin *ret_origin)
{
	struct tally_state two[2] = { 0 }, *best;
	__u8 machine[TALLY_SHA256];
	bool foreign;
	int a, b, r;

	if (machine_id)
		tally_sha256(machine_id, strlen(machine_id), machine);
	a = load_one(fs, names[0], &two[0]);
	b = load_one(fs, names[1], &two[1]);
	if (unreadable(a) || unreadable(b))
		return unreadable(a) ? a : b;
	if (!machine_id && a < 0 && b < 0)
		return -ENOENT;
	best = a < 0 || (b == 0 && two[1].generation > two[0].generation) ? &two[1] : &two[0];
	foreign = machine_id && (a == 0 || b == 0) &&
		  memcmp(best->machine, machine, sizeof(machine)) != 0;
	r = set_aside(fs, a, b, foreign);
	if (r < 0)
		return r;
	if (foreign || (a < 0 && b < 0)) {
		*ret_origin = foreign ? TALLY_STATE_MOVED : TALLY_STATE_NEW;
		return make(fs, machine, ret_state);
	}
	*ret_origin = TALLY_STATE_KEPT;
	/* Only a first generation stands alone: a new agent saves twice before it numbers. */
	if ((a < 0 || b < 0) && best->generation != 1) {
		*ret_origin = TALLY_STATE_DOUBTED;
		best->incarnation++; /* the step that is missing may have raised it */
		tally_state_bump(best);
		best->next_batch += SKIP;
	}
	*ret_state = *best;
	return 0;
}

int tally_state_save(const struct tally_fs *fs, struct tally_state *state)
{
	_cleanup_(tally_buf_done) struct tally_buf payload = { 0 };
	_cleanup_(tally_buf_done) struct tally_buf framed = { 0 };
	struct tally_state next = *state;
	struct tally_fs_file file;
	bool doubt;
	int r;

	next.generation++;
	encode(&next, &payload);
	if (payload.error)
		return payload.error;
	r = tally_frame_put(&framed, TALLY_FRAME_STATE, next.agent, payload.data, payload.len);
	if (r < 0)
		return r;
	file = (struct tally_fs_file){ "", names[next.generation & 1], framed.data, framed.len };
	r = tally_fs_put(fs, &file, &doubt); /* the same once more settles any doubt */
	if (r == 0)
		state->generation = next.generation;
	return r;
}
