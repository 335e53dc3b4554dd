/* SPDX-License-Identifier: Apache-2.0 */
#include "deliver/spool.h"

#include "base/log.h"
#include "base/util.h"

#define HOUR_S 3600

static const char *const folders[] = { "sealed", "batches", "sinks", TALLY_QUARANTINE };
#define SEALED folders[0]
#define BATCHES folders[1]

struct names {
	char (*items)[128];
	size_t n;
};

static void list_done(struct tally_spool_list *list)
{
	free(list->items);
	*list = (struct tally_spool_list){ 0 };
}

static int list_add(struct tally_spool_list *list, const struct tally_spool_entry *entry)
{
	struct tally_spool_entry *items;

	items = realloc(list->items, (list->n + 1) * sizeof(*items));
	if (!items)
		return -ENOMEM;
	list->items = items;
	items[list->n++] = *entry;
	return 0;
}

static void list_cut(struct tally_spool_list *list, size_t at, size_t n)
{
	memmove(list->items + at, list->items + at + n, (list->n - at - n) * sizeof(*list->items));
	list->n -= n;
}

static int collect_name(void *arg, const char *name, __u64 size)
{
	struct names *names = arg;
	char(*items)[128];

	(void)size;
	if (strlen(name) >= sizeof(*items))
		return 0; /* no name of ours: it stays where it is */
	items = realloc(names->items, (names->n + 1) * sizeof(*items));
	if (!items)
		return -ENOMEM;
	names->items = items;
	memcpy(items[names->n++], name, strlen(name) + 1);
	return 0;
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(a, b);
}

/* Sorted, so that a history repeats exactly. */
static int get_names(const struct tally_fs *fs, const char *dir, struct names *ret_names)
{
	struct names names = { 0 };
	int r = fs->list(fs->ctx, dir, collect_name, &names);

	if (r < 0) {
		free(names.items);
		return r;
	}
	if (names.n)
		qsort(names.items, names.n, sizeof(*names.items), compare_names);
	*ret_names = names;
	return 0;
}

static void sealed_entry(const struct tally_sealed *sealed, struct tally_spool_entry *entry)
{
	entry->epoch_first = sealed->epoch_first;
	entry->epoch_last = sealed->epoch_last;
	entry->start_s = sealed->start_s;
	entry->end_s = sealed->end_s;
	entry->records = sealed->n_rows;
	entry->connections = sealed->n_connections;
	entry->by_connection = sealed->by_connection;
	entry->hole = sealed->hole != TALLY_HOLE_NONE;
	entry->number_last = sealed->number;
	memcpy(entry->ledger, sealed->ledger, sizeof(entry->ledger));
}

static void sealed_name(const struct tally_sealed *sealed, struct tally_spool_entry *entry)
{
	(void)snprintf(entry->name, sizeof(entry->name), "e%llu-%llu", /* at most 42 */
		       (unsigned long long)sealed->epoch_first,
		       (unsigned long long)sealed->epoch_last);
}

static void batch_entry(const struct tally_batch *batch, struct tally_spool_entry *entry)
{
	sealed_entry(&batch->sealed, entry);
	entry->number = batch->head.number;
	entry->seq_first = batch->head.seq_first;
	entry->incarnation = batch->head.incarnation;
	memcpy(entry->chain, batch->chain, sizeof(entry->chain));
	(void)snprintf(entry->name, sizeof(entry->name), "b%llu-s%llu-r%llu-e%llu-%llu", /* fits */
		       (unsigned long long)batch->head.number,
		       (unsigned long long)batch->head.seq_first,
		       (unsigned long long)batch->sealed.n_rows,
		       (unsigned long long)batch->sealed.epoch_first,
		       (unsigned long long)batch->sealed.epoch_last);
}

/* Does the file prove itself wrong, rather than being out of reach for the moment? */
static bool is_damaged(int r)
{
	return r == -EBADMSG || r == -EXDEV || r == -EFBIG || r == -ELOOP;
}

/* P5; and what is listed and not there, P4 */
static int read_file(struct tally_spool *spool, const char *dir, const char *name,
		     struct tally_buf *buf)
{
	int r = spool->fs->read(spool->fs->ctx, dir, name, buf);

	spool->reload |= r == -ENOENT;
	if (r < 0 && !is_damaged(r))
		tally_log_error("spool_unreadable", "folder=%s file=%s error=%s", dir, name,
				strerror(-r));
	return r;
}

static int read_sealed(struct tally_spool *spool, const char *name, struct tally_sealed *ret_sealed,
		       __u64 *ret_bytes)
{
	_cleanup_(tally_buf_done) struct tally_buf buf = { 0 };
	struct tally_reader reader;
	struct tally_sealed sealed;
	int r;

	r = read_file(spool, SEALED, name, &buf);
	if (r == 0)
		r = tally_frame_get(buf.data, buf.len, TALLY_FRAME_SEALED, spool->state.agent, NULL,
				    &reader);
	if (r == 0)
		r = tally_sealed_decode(&reader, &sealed);
	if (r < 0)
		return r;
	if (reader.pos != reader.len) {
		tally_sealed_done(&sealed);
		return -EBADMSG;
	}
	*ret_sealed = sealed;
	*ret_bytes = buf.len;
	return 0;
}

static int read_batch(struct tally_spool *spool, const char *name, struct tally_batch **ret_batch,
		      __u64 *ret_bytes)
{
	_cleanup_(tally_buf_done) struct tally_buf buf = { 0 };
	struct tally_reader reader;
	int r;

	r = read_file(spool, BATCHES, name, &buf);
	if (r == 0)
		r = tally_frame_get(buf.data, buf.len, TALLY_FRAME_BATCH, spool->state.agent, NULL,
				    &reader);
	if (r == 0)
		r = tally_batch_decode(&reader, spool->state.agent, ret_batch);
	if (r == 0)
		*ret_bytes = buf.len;
	return r;
}

static int quarantine(struct tally_spool *spool, const char *dir, const char *name, int why)
{
	int r = tally_fs_quarantine(spool->fs, dir, name, "");

	if (r < 0) {
		spool->reload = true; /* it may be there already */
		return r;
	}
	spool->quarantined++;
	tally_log_error("spool_quarantined", "folder=%s file=%s reason=%s", dir, name,
			why == -EXDEV	 ? "foreign"
			: why == -ESTALE ? "diverged"
					 : "damaged");
	return 0;
}

static bool same_ledger(const __u8 a[TALLY_LEDGER_ID], const __u8 b[TALLY_LEDGER_ID])
{
	return memcmp(a, b, TALLY_LEDGER_ID) == 0;
}

static bool is_later(const struct tally_position *a, const struct tally_position *b)
{
	if (same_ledger(a->ledger, b->ledger))
		return a->number > b->number;
	return a->epoch > b->epoch;
}

/* A position known from a file that is newer than the state file. */
static void learn_sealed(struct tally_state *state, const struct tally_sealed *sealed)
{
	struct tally_position at;

	if (tally_sealed_position(sealed, &at) && is_later(&at, &state->sealed))
		state->sealed = at;
}

/* Whatever batch it is in: after a doubted state, its number may be below the one to come. */
static void learn_seq(struct tally_state *state, const struct tally_batch *batch)
{
	__u64 next = tally_batch_seq_last(batch) + 1;

	if (batch->head.incarnation < state->incarnation ||
	    (batch->head.incarnation == state->incarnation && next <= state->next_seq))
		return;
	state->incarnation = batch->head.incarnation;
	state->next_seq = next;
}

static void learn_batch(struct tally_state *state, const struct tally_batch *batch)
{
	struct tally_position at;

	learn_sealed(state, &batch->sealed);
	if (tally_sealed_position(&batch->sealed, &at) && at.epoch > state->batched.epoch)
		state->batched = at;
	learn_seq(state, batch);
	if (batch->head.number < state->next_batch)
		return;
	state->next_batch = batch->head.number + 1;
	memcpy(state->chain, batch->chain, sizeof(state->chain));
}

static const struct tally_spool_entry *sealed_with(const struct tally_spool *spool, __u64 epoch)
{
	for (size_t i = 0; i < spool->sealed.n; i++) {
		const struct tally_spool_entry *entry = &spool->sealed.items[i];

		if (entry->epoch_first <= epoch && epoch <= entry->epoch_last)
			return entry;
	}
	return NULL;
}

/*
 * Are all its epochs, which its name says, in other sealed files? A merge was cut short. Batches do not tell:
 * after a state was put back they may number the epochs of other files so (place()).
 */
static bool is_covered(const struct tally_spool *spool, const char *name)
{
	unsigned long long first, last;

	if (sscanf(name, "e%llu-%llu", &first, &last) != 2 || !first || first > last)
		return false;
	while (first <= last) {
		const struct tally_spool_entry *entry = sealed_with(spool, first);

		if (!entry)
			return false;
		first = entry->epoch_last + 1;
	}
	return true;
}

/* A damaged file is kept, though nothing of it is missing. */
static int set_aside(struct tally_spool *spool, const char *name)
{
	int r = tally_fs_quarantine(spool->fs, SEALED, name, TALLY_COVERED);

	if (r == 0)
		tally_log_error("spool_quarantined",
				"folder=%s file=%s reason=damaged text=other files hold all of it",
				SEALED, name);
	return r;
}

static int take_sealed(struct tally_spool *spool, const char *name)
{
	struct tally_spool_entry entry = { 0 };
	struct tally_sealed sealed;
	int r;

	r = read_sealed(spool, name, &sealed, &entry.bytes);
	if (r < 0)
		return r;
	sealed_entry(&sealed, &entry);
	sealed_name(&sealed, &entry);
	if (strcmp(entry.name, name) != 0) {
		r = -EBADMSG;
	} else {
		learn_sealed(&spool->state, &sealed);
		r = list_add(&spool->sealed, &entry);
	}
	tally_sealed_done(&sealed);
	return r;
}

static int scan_sealed(struct tally_spool *spool, const char *name)
{
	int r = take_sealed(spool, name);

	spool->suspects |= is_damaged(r);
	return is_damaged(r) ? 0 : r;
}

/* What scan_sealed() left out, once it is known what the others hold. */
static int scan_suspect(struct tally_spool *spool, const char *name)
{
	int r;

	for (size_t i = 0; i < spool->sealed.n; i++) {
		if (strcmp(spool->sealed.items[i].name, name) == 0)
			return 0;
	}
	r = take_sealed(spool, name);
	if (!is_damaged(r))
		return r;
	return r == -EBADMSG && is_covered(spool, name) ? set_aside(spool, name)
							: quarantine(spool, SEALED, name, r);
}

static int scan_batch(struct tally_spool *spool, const char *name)
{
	struct tally_spool_entry entry = { 0 };
	struct tally_batch *batch = NULL;
	int r;

	r = read_batch(spool, name, &batch, &entry.bytes);
	if (r < 0)
		return is_damaged(r) ? quarantine(spool, BATCHES, name, r) : r;
	batch_entry(batch, &entry);
	if (strcmp(entry.name, name) != 0) {
		r = quarantine(spool, BATCHES, name, -EBADMSG);
	} else {
		learn_batch(&spool->state, batch);
		r = list_add(&spool->batches, &entry);
	}
	tally_batch_free(batch);
	return r;
}

static int scan(struct tally_spool *spool, const char *dir,
		int (*each)(struct tally_spool *spool, const char *name))
{
	struct names names;
	int r = get_names(spool->fs, dir, &names);

	if (r < 0)
		return r;
	for (size_t i = 0; r == 0 && i < names.n; i++) {
		if (tally_fs_is_tmp(names.items[i]))
			r = spool->fs->unlink(spool->fs->ctx, dir, names.items[i]);
		else if (each)
			r = each(spool, names.items[i]);
	}
	free(names.items);
	return r;
}

static int compare_epochs(const void *a, const void *b)
{
	const struct tally_spool_entry *x = a, *y = b;

	if (x->epoch_first != y->epoch_first)
		return x->epoch_first < y->epoch_first ? -1 : 1;
	/* the wider range first */
	return x->epoch_last > y->epoch_last ? -1 : x->epoch_last < y->epoch_last;
}

static int compare_numbers(const void *a, const void *b)
{
	const struct tally_spool_entry *x = a, *y = b;

	return x->number < y->number ? -1 : x->number > y->number;
}

/* Of one ledger the number decides; of another, which was before, order and time. */
static bool is_batched(const struct tally_position *at, const struct tally_spool_entry *entry)
{
	if (same_ledger(at->ledger, entry->ledger))
		return entry->number_last <= at->number;
	return entry->epoch_last <= at->epoch && entry->end_s <= at->end_s;
}

/* Sealed files whose epochs are in a batch already, or in a wider sealed file. */
static int drop_covered(struct tally_spool *spool)
{
	struct tally_spool_list *list = &spool->sealed;
	__u64 covered = 0;
	int r;

	for (size_t i = 0; i < list->n;) {
		struct tally_spool_entry *entry = &list->items[i];

		if (entry->epoch_last > covered && !is_batched(&spool->state.batched, entry)) {
			covered = entry->epoch_last;
			i++;
			continue;
		}
		r = spool->fs->unlink(spool->fs->ctx, SEALED, entry->name);
		if (r < 0 && r != -ENOENT)
			return r;
		list_cut(list, i, 1);
	}
	return spool->fs->sync_dir(spool->fs->ctx, SEALED);
}

static int count_name(void *arg, const char *name, __u64 size)
{
	__u64 *count = arg;

	(void)size;
	*count += !strstr(name, TALLY_DECLARED) && !strstr(name, TALLY_COVERED);
	return 0;
}

static int save_state(struct tally_spool *spool)
{
	int r = tally_state_save(spool->fs, &spool->state);

	if (tally_reserve_is_full(r) && tally_reserve_release(&spool->reserve))
		r = tally_state_save(spool->fs, &spool->state);
	return r;
}

static bool same_state(const struct tally_state *a, const struct tally_state *b)
{
	return a->next_batch == b->next_batch && a->next_seq == b->next_seq &&
	       a->batched.epoch == b->batched.epoch && a->incarnation == b->incarnation;
}

static int load_state(struct tally_spool *spool, struct tally_state *ret_stored)
{
	enum tally_state_origin origin;
	int r;

	r = tally_state_load(spool->fs, spool->origin.machine_id, &spool->state, &origin);
	if (r < 0)
		return r;
	if (origin != TALLY_STATE_KEPT || !spool->state.generation)
		spool->state_origin = origin;
	/* Twice: see state.c on generations that stand alone. */
	for (int i = 0; r == 0 && i < 2 && origin != TALLY_STATE_KEPT; i++)
		r = save_state(spool);
	*ret_stored = spool->state;
	return r;
}

static int scan_all(struct tally_spool *spool)
{
	int r = 0;

	list_done(&spool->sealed);
	list_done(&spool->batches);
	spool->suspects = false;
	for (size_t i = 0; r == 0 && i < TALLY_ARRAY_SIZE(folders); i++)
		r = spool->fs->sync_dir(spool->fs->ctx, folders[i]);
	if (r == 0)
		r = scan(spool, "", NULL);
	if (r == 0)
		r = scan(spool, "sinks", NULL);
	if (r == 0)
		r = scan(spool, BATCHES, scan_batch);
	if (r == 0)
		r = scan(spool, SEALED, scan_sealed);
	if (r == 0 && spool->suspects)
		r = scan(spool, SEALED, scan_suspect);
	if (r < 0)
		return r;
	if (spool->sealed.n)
		qsort(spool->sealed.items, spool->sealed.n, sizeof(*spool->sealed.items),
		      compare_epochs);
	if (spool->batches.n)
		qsort(spool->batches.items, spool->batches.n, sizeof(*spool->batches.items),
		      compare_numbers);
	return 0;
}

static int recover(struct tally_spool *spool)
{
	struct tally_state stored;
	int r;

	spool->reload = true;
	r = load_state(spool, &stored);
	if (r == 0)
		r = scan_all(spool);
	/* Before anything is removed: the state must know what the files knew. */
	if (r == 0 && !same_state(&stored, &spool->state))
		r = save_state(spool);
	if (r == 0)
		r = drop_covered(spool);
	spool->quarantined = 0;
	if (r == 0)
		r = spool->fs->list(spool->fs->ctx, TALLY_QUARANTINE, count_name,
				    &spool->quarantined);
	if (r < 0) { /* half a list is worse than none */
		list_done(&spool->sealed);
		list_done(&spool->batches);
		return r;
	}
	spool->reload = false;
	return 0;
}

/* Of the files that are to become batches, one by one if need be. */
static __u64 largest(const struct tally_spool *spool)
{
	__u64 most = 0;

	for (size_t i = 0; i < spool->sealed.n; i++)
		most = TALLY_MAX(most, spool->sealed.items[i].bytes);
	return most;
}

int tally_spool_open(struct tally_spool *spool, const struct tally_fs *fs,
		     const struct tally_spool_origin *origin)
{
	int r = 0;

	*spool = (struct tally_spool){ .fs = fs, .origin = *origin };
	r = fs->lock(fs->ctx, "lock");
	for (size_t i = 0; r == 0 && i < TALLY_ARRAY_SIZE(folders); i++)
		r = fs->mkdir(fs->ctx, folders[i]);
	if (r == 0)
		r = tally_reserve_open(&spool->reserve, fs);
	if (r == 0)
		r = recover(spool);
	if (r < 0)
		tally_spool_done(spool);
	else
		tally_reserve_refill(&spool->reserve, largest(spool));
	return r;
}

void tally_spool_done(struct tally_spool *spool)
{
	list_done(&spool->sealed);
	list_done(&spool->batches);
}

int tally_spool_settle(struct tally_spool *spool)
{
	return spool->reload ? recover(spool) : 0;
}

bool tally_spool_has(const struct tally_spool *spool, const __u8 ledger[TALLY_LEDGER_ID],
		     __u64 number)
{
	const struct tally_position *last = &spool->state.sealed;

	return !spool->reload && last->epoch && same_ledger(last->ledger, ledger) &&
	       number <= last->number;
}

/* Has what an agent opened last been sealed? */
static bool is_closed(const struct tally_opening *opened, const struct tally_position *last)
{
	return !opened->number ||
	       (same_ledger(opened->ledger, last->ledger) && opened->number <= last->number);
}

/*
 * Before the first window of a ledger. Stopped only if the last window of the one before was closed in order,
 * and no agent has begun to run since: what it metered would be lost.
 */
static enum tally_hole hole_before(const struct tally_spool *spool,
				   const __u8 ledger[TALLY_LEDGER_ID])
{
	const struct tally_position *last = &spool->state.sealed;
	const struct tally_opening *opened = &spool->state.opened;

	bool known = same_ledger(opened->ledger, ledger);

	if (known && opened->hole)
		return opened->hole;
	if (last->cause != TALLY_CAUSE_SHUTDOWN || spool->state_origin == TALLY_STATE_DOUBTED)
		return TALLY_HOLE_LOST;
	return known || is_closed(opened, last) ? TALLY_HOLE_STOPPED : TALLY_HOLE_LOST;
}

int tally_spool_opened(struct tally_spool *spool, const __u8 ledger[TALLY_LEDGER_ID], __u64 number)
{
	const struct tally_position *last = &spool->state.sealed;
	struct tally_opening before, next = { .number = number };
	int r = tally_spool_settle(spool);

	if (r < 0)
		return r;
	memcpy(next.ledger, ledger, sizeof(next.ledger));
	if (last->epoch && !same_ledger(last->ledger, ledger))
		next.hole = hole_before(spool, ledger);
	before = spool->state.opened;
	spool->state.opened = next;
	r = save_state(spool);
	if (r < 0)
		spool->state.opened = before;
	return r;
}

/* The epoch's number among all of this agent, and what lies between it and the one before. */
static void name_epoch(const struct tally_spool *spool, struct tally_sealed *sealed)
{
	const struct tally_position *last = &spool->state.sealed;
	bool same = last->epoch && same_ledger(last->ledger, sealed->ledger);
	__u64 step = same ? sealed->number - last->number : 1;

	sealed->epoch_first = sealed->epoch_last = last->epoch + step;
	sealed->held_before = same ? last->held : 0;
	sealed->held_after = sealed->held_before + (__s64)sealed->totals.held_enter -
			     (__s64)sealed->totals.held_leave;
	sealed->hole = TALLY_HOLE_NONE;
	if (!last->epoch || (same && step == 1))
		return;
	sealed->hole = same ? TALLY_HOLE_LOST : (__u8)hole_before(spool, sealed->ledger);
	sealed->hole_start_s = last->end_s;
	sealed->hole_end_s = TALLY_MAX(sealed->start_s, last->end_s);
}

/*
 * Behind the last batch, whatever was believed when it was sealed: after a sink was ahead of our state,
 * epochs may have other numbers, held begins elsewhere, and what seemed lost is there.
 */
static void place(const struct tally_position *last, struct tally_sealed *sealed)
{
	__u64 span = sealed->epoch_last - sealed->epoch_first, first = sealed->number - span;
	bool same = same_ledger(last->ledger, sealed->ledger);

	if (!last->epoch || !sealed->windows)
		return;
	if (same && first == last->number + 1) {
		sealed->epoch_first = last->epoch + 1;
		sealed->hole = TALLY_HOLE_NONE;
		sealed->hole_start_s = sealed->hole_end_s = 0;
		sealed->held_before = last->held;
		sealed->held_after = last->held + (__s64)sealed->totals.held_enter -
				     (__s64)sealed->totals.held_leave;
	} else if (sealed->epoch_first <= last->epoch) {
		sealed->epoch_first = last->epoch + (same ? first - last->number : 1);
	}
	sealed->epoch_last = sealed->epoch_first + span;
	if (sealed->hole) {
		sealed->hole_start_s = TALLY_MAX(sealed->hole_start_s, last->end_s);
		sealed->hole_end_s = TALLY_MAX(sealed->hole_end_s, sealed->hole_start_s);
	}
}

/* Before a sealed file: the room that its batch will need. Sum of what becomes one. */
static int keep_room(struct tally_spool *spool, __u64 bytes)
{
	return tally_reserve_hold(&spool->reserve, TALLY_MAX(largest(spool), bytes), bytes);
}

/* While others wait for their sinks, whose checkpoints need room, a batch does not take the last. */
static int put_shipping(struct tally_spool *spool, const struct tally_fs_file *file, bool *doubt)
{
	int r;

	if (spool->batches.n && !tally_reserve_spares(&spool->reserve, file->len))
		return -ENOSPC;
	r = tally_fs_put(spool->fs, file, doubt);
	if (tally_reserve_is_full(r) && tally_reserve_give_batch(&spool->reserve) && !*doubt)
		r = tally_fs_put(spool->fs, file, doubt);
	return r;
}

/* Writes a file of the spool. */
static int put(struct tally_spool *spool, enum tally_frame_kind kind,
	       const struct tally_buf *payload, struct tally_spool_entry *entry)
{
	_cleanup_(tally_buf_done) struct tally_buf framed = { 0 };
	struct tally_fs_file file = { .name = entry->name };
	bool doubt = false;
	int r;

	r = tally_frame_put(&framed, kind, spool->state.agent, payload->data, payload->len);
	if (r < 0)
		return r;
	entry->bytes = file.len = framed.len;
	file.data = framed.data;
	if (kind == TALLY_FRAME_BATCH) {
		file.dir = BATCHES;
		r = put_shipping(spool, &file, &doubt);
	} else {
		file.dir = SEALED;
		r = keep_room(spool, file.len);
		if (r == 0)
			r = tally_fs_put(spool->fs, &file, &doubt);
	}
	spool->reload |= r < 0 && doubt;
	return r;
}

static int put_sealed(struct tally_spool *spool, const struct tally_sealed *sealed,
		      struct tally_spool_entry *ret_entry)
{
	_cleanup_(tally_buf_done) struct tally_buf payload = { 0 };
	int r;

	*ret_entry = (struct tally_spool_entry){ 0 };
	sealed_entry(sealed, ret_entry);
	sealed_name(sealed, ret_entry);
	r = tally_sealed_encode(sealed, &payload);
	return r < 0 ? r : put(spool, TALLY_FRAME_SEALED, &payload, ret_entry);
}

int tally_spool_seal(struct tally_spool *spool, struct tally_sealed *sealed)
{
	struct tally_spool_entry entry;
	int r;

	r = tally_spool_settle(spool);
	if (r < 0)
		return r;
	if (tally_spool_has(spool, sealed->ledger, sealed->number))
		return 1;
	name_epoch(spool, sealed);
	r = put_sealed(spool, sealed, &entry);
	if (r < 0)
		return r;
	r = list_add(&spool->sealed, &entry);
	if (r < 0) {
		spool->reload = true;
		return r;
	}
	learn_sealed(&spool->state, sealed);
	spool->released = false;
	return 0;
}

static __u64 rows_of(const struct tally_spool_entry *entry)
{
	return entry->records + entry->connections;
}

/* How many sealed files from `at` on may become one. */
static size_t group(const struct tally_spool *spool, size_t at)
{
	const struct tally_spool_entry *first = &spool->sealed.items[at], *last = first;
	__u64 rows = rows_of(first);
	size_t n = 1;

	while (at + n < spool->sealed.n) {
		const struct tally_spool_entry *next = &spool->sealed.items[at + n];

		rows += rows_of(next);
		if (next->hole || next->epoch_first != last->epoch_last + 1 ||
		    next->by_connection != first->by_connection ||
		    next->start_s / HOUR_S != first->start_s / HOUR_S || rows > TALLY_SPOOL_ROWS)
			break;
		last = next;
		n++;
	}
	return n;
}

/* Reads a group and adds it up. A damaged file goes to quarantine: -EAGAIN, group anew. */
static int merge_group(struct tally_spool *spool, size_t at, size_t n,
		       struct tally_sealed *ret_sealed)
{
	struct tally_sealed all, one;
	__u64 bytes;
	int r = 0;

	tally_sealed_init(&all);
	for (size_t i = at; r == 0 && i < at + n; i++) {
		r = read_sealed(spool, spool->sealed.items[i].name, &one, &bytes);
		if (is_damaged(r)) {
			r = quarantine(spool, SEALED, spool->sealed.items[i].name, r);
			if (r == 0)
				list_cut(&spool->sealed, i, 1);
			r = r < 0 ? r : -EAGAIN;
		} else if (r == 0) {
			r = tally_sealed_merge(&all, &one);
			tally_sealed_done(&one);
		}
	}
	if (r < 0) {
		tally_sealed_done(&all);
		return r;
	}
	tally_sealed_settle(&all);
	*ret_sealed = all;
	return 0;
}

/* The files are covered by a durable one: what cannot be removed now, the next reading removes. */
static void remove_group(struct tally_spool *spool, size_t at, size_t n)
{
	int r;

	for (size_t i = at; i < at + n; i++) {
		r = spool->fs->unlink(spool->fs->ctx, SEALED, spool->sealed.items[i].name);
		spool->reload |= r < 0 && r != -ENOENT;
	}
	list_cut(&spool->sealed, at, n);
}

/*
 * Gone for good before the batch is attempted: were they to come back after a power cut, only the
 * batch or the state would tell that they are counted, and either may be damaged.
 */
static int sync_removal(struct tally_spool *spool)
{
	int r = spool->fs->sync_dir(spool->fs->ctx, SEALED);

	spool->reload |= r < 0;
	return r;
}

static int compact_group(struct tally_spool *spool, size_t at, size_t n)
{
	struct tally_spool_entry entry;
	struct tally_sealed sealed;
	__u64 bytes = 0;
	int r;

	for (size_t i = at; i < at + n; i++)
		bytes += spool->sealed.items[i].bytes;
	r = keep_room(spool, bytes); /* before so much is read in vain */
	if (r == 0)
		r = merge_group(spool, at, n, &sealed);
	if (r < 0)
		return r == -EAGAIN ? 1 : r;
	r = put_sealed(spool, &sealed, &entry);
	tally_sealed_done(&sealed);
	if (r < 0)
		return r;
	remove_group(spool, at, n - 1);
	r = spool->fs->unlink(spool->fs->ctx, SEALED, spool->sealed.items[at].name);
	spool->reload |= r < 0 && r != -ENOENT;
	spool->sealed.items[at] = entry;
	return 1;
}

int tally_spool_compact(struct tally_spool *spool)
{
	size_t n;
	int r;

	r = tally_spool_settle(spool);
	if (r < 0)
		return r;
	for (size_t at = 0; at < spool->sealed.n; at += n) {
		n = group(spool, at);
		/* many; or all there will ever be of this hour */
		if (n >= TALLY_SPOOL_MERGE || (n > 1 && at + n < spool->sealed.n))
			return compact_group(spool, at, n);
	}
	return 0;
}

static void fill_head(const struct tally_spool *spool, __u64 now_s, struct tally_batch_head *head)
{
	const struct tally_state *state = &spool->state;

	*head = (struct tally_batch_head){
		.incarnation = state->incarnation,
		.number = state->next_batch,
		.seq_first = state->next_seq,
		.recorded_s = now_s,
		.spool_records = tally_spool_records(spool),
		.spool_bytes = tally_spool_bytes(spool),
		.spool_oldest_s = tally_spool_oldest_s(spool),
		.version = spool->origin.version,
		.host = spool->origin.host,
		.boot_id = spool->origin.boot_id,
	};
	memcpy(head->agent, state->agent, sizeof(head->agent));
	memcpy(head->prev_chain, state->chain, sizeof(head->prev_chain));
}

static int put_batch(struct tally_spool *spool, const struct tally_batch *batch)
{
	_cleanup_(tally_buf_done) struct tally_buf payload = { 0 };
	struct tally_spool_entry entry = { 0 };
	int r;

	batch_entry(batch, &entry);
	r = tally_batch_encode(batch, &payload);
	if (r == 0)
		r = put(spool, TALLY_FRAME_BATCH, &payload, &entry);
	if (r < 0)
		return r;
	r = list_add(&spool->batches, &entry);
	if (r < 0) {
		spool->reload = true;
		return r;
	}
	learn_batch(&spool->state, batch);
	r = save_state(spool);
	if (r < 0)
		spool->reload = true;
	return r;
}

/* The epoch that was sealed last: its pins may still stand. */
static bool is_last(const struct tally_spool *spool, const struct tally_spool_entry *entry)
{
	const struct tally_position *last = &spool->state.sealed;

	return entry->number_last == last->number && same_ledger(entry->ledger, last->ledger);
}

/* Of the first n sealed files. */
static int build(struct tally_spool *spool, size_t n, __u64 now_s)
{
	struct tally_batch *batch = NULL;
	struct tally_batch_head head;
	struct tally_sealed sealed;
	int r;

	r = merge_group(spool, 0, n, &sealed);
	if (r < 0)
		return r == -EAGAIN ? 1 : r;
	fill_head(spool, now_s, &head);
	place(&spool->state.batched, &sealed);
	if (sealed.hole == TALLY_HOLE_LOST) { /* a power cut, or a state put back: who knows */
		head.incarnation++;
		head.seq_first = 1;
	}
	r = tally_batch_new(&head, &sealed, &batch);
	if (r < 0)
		return r;
	r = put_batch(spool, batch);
	tally_batch_free(batch);
	if (r < 0)
		return r;
	remove_group(spool, 0, n);
	return sync_removal(spool) < 0 ? -EIO : 1;
}

int tally_spool_build(struct tally_spool *spool, __u64 now_s)
{
	size_t n;
	int r;

	r = tally_spool_settle(spool);
	if (r < 0 || !spool->sealed.n)
		return r;
	/* without a reserve there may be room for one, and not for all */
	n = tally_reserve_has_batch(&spool->reserve) ? group(spool, 0) : 1;
	if (!spool->released && is_last(spool, &spool->sealed.items[n - 1]) && --n == 0)
		return 0;
	r = build(spool, n, now_s);
	if (n > 1 && tally_reserve_is_full(r) && !spool->reload)
		r = build(spool, 1, now_s);
	return r;
}

/* Whoever declared it then had another incarnation, perhaps. */
static bool is_same_loss(const struct tally_loss *a, const struct tally_loss *b)
{
	return a->batch == b->batch && a->epoch_first == b->epoch_first &&
	       a->epoch_last == b->epoch_last && a->seq_first == b->seq_first &&
	       a->seq_last == b->seq_last;
}

/* Does a batch that waits say it already? Then somebody died after it. 1, 0, -errno. */
static int find_declared(struct tally_spool *spool, const struct tally_loss *loss)
{
	bool found = false;
	int r = 0;

	for (size_t i = 0; r == 0 && !found && i < spool->batches.n; i++) {
		const struct tally_spool_entry *entry = &spool->batches.items[i];
		struct tally_batch *batch = NULL;
		__u64 bytes;

		if (entry->epoch_last) /* what is lost is no epoch of its own */
			continue;
		r = read_batch(spool, entry->name, &batch, &bytes);
		if (r < 0)
			break;
		found = batch->head.kind == TALLY_BATCH_LOST &&
			is_same_loss(&batch->head.loss, loss);
		tally_batch_free(batch);
	}
	return r < 0 ? r : found;
}

/* It says no more than the batches before it: sealed files wait, and are sent after it. */
static int declare(struct tally_spool *spool, const struct tally_loss *loss, __u64 now_s)
{
	const struct tally_position *last = &spool->state.batched;
	struct tally_sealed sealed = {
		.start_s = last->end_s,
		.end_s = last->end_s,
		.held_before = last->held,
		.held_after = last->held,
	};
	struct tally_batch *batch = NULL;
	struct tally_batch_head head;
	int r;

	fill_head(spool, now_s, &head);
	head.kind = TALLY_BATCH_LOST;
	head.loss = *loss;
	r = tally_batch_new(&head, &sealed, &batch);
	if (r < 0)
		return r;
	r = put_batch(spool, batch);
	tally_batch_free(batch);
	return r;
}

int tally_spool_declare(struct tally_spool *spool, const struct tally_loss *loss, __u64 now_s)
{
	int r = tally_spool_settle(spool);

	if (r == 0)
		r = find_declared(spool, loss);
	return r ? TALLY_MIN(r, 0) : declare(spool, loss, now_s);
}

const struct tally_spool_entry *tally_spool_find(const struct tally_spool *spool, __u64 number)
{
	for (size_t i = 0; i < spool->batches.n; i++) {
		if (spool->batches.items[i].number >= number)
			return &spool->batches.items[i];
	}
	return NULL;
}

int tally_spool_load(struct tally_spool *spool, const struct tally_spool_entry *entry,
		     struct tally_batch **ret_batch)
{
	size_t at = (size_t)(entry - spool->batches.items);
	struct tally_batch *batch = NULL;
	__u64 bytes;
	int r;

	r = read_batch(spool, entry->name, &batch, &bytes);
	if (r == 0)
		r = tally_batch_verify(batch);
	if (r == 0 && memcmp(batch->chain, entry->chain, sizeof(entry->chain)) != 0)
		r = -EBADMSG;
	if (r == 0) {
		*ret_batch = batch;
		return 0;
	}
	tally_batch_free(batch);
	if (!is_damaged(r))
		return r;
	r = quarantine(spool, BATCHES, entry->name, r);
	if (r < 0)
		return r;
	list_cut(&spool->batches, at, 1);
	return -EBADMSG;
}

int tally_spool_trim(struct tally_spool *spool, __u64 number)
{
	size_t before = spool->batches.n;
	int r = tally_spool_settle(spool);

	while (r == 0 && spool->batches.n && spool->batches.items[0].number <= number) {
		r = spool->fs->unlink(spool->fs->ctx, BATCHES, spool->batches.items[0].name);
		if (r == -ENOENT)
			r = 0;
		if (r == 0)
			list_cut(&spool->batches, 0, 1);
	}
	if (spool->batches.n < before)
		tally_reserve_refill(&spool->reserve, largest(spool));
	return r;
}

void tally_spool_make_room(struct tally_spool *spool)
{
	(void)tally_reserve_release(&spool->reserve); /* or there is none */
}

/*
 * Batches the sink holds go; others under the numbers it uses step aside. So do all where it holds only a part
 * of its last one: which windows those were nobody can tell.
 */
static int clear_batches(struct tally_spool *spool, const struct tally_position *at, bool whole)
{
	int r = 0;

	while (r == 0 && spool->batches.n) {
		const struct tally_spool_entry *entry = &spool->batches.items[0];

		if (whole && at->epoch && is_batched(at, entry))
			r = spool->fs->unlink(spool->fs->ctx, BATCHES, entry->name);
		else
			r = quarantine(spool, BATCHES, entry->name, -ESTALE);
		if (r == 0)
			list_cut(&spool->batches, 0, 1);
	}
	return r;
}

/* Does the file hold a window at or before this position? */
static bool begins_by(const struct tally_spool_entry *entry, const struct tally_position *at)
{
	__u64 first = entry->number_last - (entry->epoch_last - entry->epoch_first);

	return is_batched(at, entry) ||
	       (same_ledger(entry->ledger, at->ledger) && first <= at->number);
}

/* Of what these files hold the sink has a part, and we cannot take them apart. */
static int clear_halves(struct tally_spool *spool, const struct tally_position *at)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < spool->sealed.n;) {
		const struct tally_spool_entry *entry = &spool->sealed.items[i];

		if (!begins_by(entry, at)) {
			i++;
			continue;
		}
		r = quarantine(spool, SEALED, entry->name, -ESTALE);
		if (r == 0)
			list_cut(&spool->sealed, i, 1);
	}
	return r;
}

/* Where sealing goes on: behind `at` and all that waits. */
static int follow(struct tally_spool *spool, const struct tally_position *at)
{
	struct tally_position last = *at, *mine = &spool->state.sealed;
	__u64 bytes;
	int r;

	for (size_t i = 0; i < spool->sealed.n; i++) {
		struct tally_sealed one;

		r = read_sealed(spool, spool->sealed.items[i].name, &one, &bytes);
		if (r < 0)
			return r; /* a damaged one, too: the next recovery sees to it */
		place(&last, &one);
		(void)tally_sealed_position(&one, &last); /* sealed files hold windows */
		tally_sealed_done(&one);
	}
	if (same_ledger(mine->ledger, last.ledger) &&
	    mine->number > last.number) /* it was batched for another sink */
		mine->epoch = last.epoch + mine->number - last.number;
	else
		*mine = last;
	return 0;
}

static int adopt(struct tally_spool *spool, const struct tally_position *at, bool whole)
{
	int r = 0;

	if (!whole)
		r = clear_halves(spool, at);
	spool->state.batched = *at;
	if (r == 0)
		r = drop_covered(spool);
	if (r == 0 && whole)
		r = clear_halves(spool, at);
	return r < 0 ? r : follow(spool, at);
}

int tally_spool_overtaken(struct tally_spool *spool, const struct tally_checkpoint *at)
{
	struct tally_state *state = &spool->state;
	int r = tally_spool_settle(spool);

	if (r == 0)
		r = clear_batches(spool, &at->position, at->whole);
	if (r == 0 && at->position.epoch)
		r = adopt(spool, &at->position, at->whole);
	if (r < 0) {
		spool->reload = true;
		return r;
	}
	state->opened.hole = TALLY_HOLE_NONE; /* it was judged by a position that is not the last */
	state->incarnation = TALLY_MAX(state->incarnation, at->incarnation);
	tally_state_bump(state);
	if (at->batch >= state->next_batch) {
		state->next_batch = at->batch + 1;
		memcpy(state->chain, at->chain, sizeof(state->chain));
	}
	r = save_state(spool);
	if (r < 0)
		spool->reload = true;
	return r;
}

static __u64 sum(const struct tally_spool_list *list, bool bytes)
{
	__u64 n = 0;

	for (size_t i = 0; i < list->n; i++)
		n += bytes ? list->items[i].bytes : list->items[i].records;
	return n;
}

__u64 tally_spool_records(const struct tally_spool *spool)
{
	return sum(&spool->sealed, false) + sum(&spool->batches, false);
}

__u64 tally_spool_bytes(const struct tally_spool *spool)
{
	return sum(&spool->sealed, true) + sum(&spool->batches, true);
}

__u64 tally_spool_oldest_s(const struct tally_spool *spool)
{
	if (spool->batches.n && spool->batches.items[0].start_s)
		return spool->batches.items[0].start_s;
	return spool->sealed.n ? spool->sealed.items[0].start_s : 0;
}
