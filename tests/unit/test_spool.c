/* SPDX-License-Identifier: Apache-2.0 */
/* The spool on a real file system: recovery, quarantine, whose it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <glob.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/log.h"
#include "base/util.h"
#include "deliver/spool.h"
#include "libledger.h"

struct place {
	char *folder;
	struct tally_fs fs;
	struct tally_spool spool;
	struct tally_spool_origin origin;
};

static void open_spool(struct place *p, const char *machine)
{
	p->origin = (struct tally_spool_origin){ machine, "boot", "host", "1" };
	assert_int_equal(tally_fs_open(p->folder, &p->fs), 0);
	assert_int_equal(tally_spool_open(&p->spool, &p->fs, &p->origin), 0);
}

static void close_spool(struct place *p)
{
	tally_spool_done(&p->spool);
	p->fs.free(p->fs.ctx);
}

/* An epoch at whose end so many more are held. */
static void seal_held(struct place *p, __u64 number, __u64 held)
{
	struct tally_frozen_row row = ledger_row(1, 1, 200, number);
	struct tally_totals totals;
	struct tally_frozen frozen = ledger_epoch(number, &row, 1, &totals);
	struct tally_sealed sealed;

	totals.seen += held;
	totals.held_enter += held;
	ledger_close(&frozen, &sealed);
	assert_int_equal(tally_spool_seal(&p->spool, &sealed), 0);
	p->spool.released = true;
	tally_sealed_done(&sealed);
}

static void seal(struct place *p, __u64 number)
{
	seal_held(p, number, 0);
}

static int set_up(void **state)
{
	struct place *p = calloc(1, sizeof(*p));

	tally_log_setup((enum tally_log_level)0, TALLY_LOG_TEXT);
	p->folder = ledger_folder();
	open_spool(p, "machine-a");
	*state = p;
	return 0;
}

static int tear_down(void **state)
{
	struct place *p = *state;

	close_spool(p);
	ledger_remove(p->folder);
	free(p);
	return 0;
}

/* The only file that matches, or fails. */
static char *path_of(const struct place *p, const char *pattern)
{
	char text[256];
	glob_t found;
	char *path;

	snprintf(text, sizeof(text), "%s/%s", p->folder, pattern);
	assert_int_equal(glob(text, 0, NULL, &found), 0);
	path = strdup(found.gl_pathv[0]);
	globfree(&found);
	return path;
}

static size_t count(const struct place *p, const char *pattern)
{
	char text[256];
	glob_t found;
	size_t n;

	snprintf(text, sizeof(text), "%s/%s", p->folder, pattern);
	n = glob(text, 0, NULL, &found) == 0 ? found.gl_pathc : 0;
	globfree(&found);
	return n;
}

static void flip(const char *path, long at)
{
	_cleanup_fclose_ FILE *f = fopen(path, "r+");
	int c;

	assert_non_null(f);
	assert_int_equal(fseek(f, at, SEEK_SET), 0);
	c = fgetc(f);
	assert_int_equal(fseek(f, at, SEEK_SET), 0);
	assert_int_equal(fputc(c ^ 0x10, f), c ^ 0x10);
}

static void test_goes_on_where_it_was(void **state)
{
	struct place *p = *state;
	char agent[TALLY_AGENT_ID + 1];

	seal(p, 1);
	seal(p, 2);
	assert_int_equal(tally_spool_build(&p->spool, LEDGER_START_S), 1);
	seal(p, 3);
	memcpy(agent, p->spool.state.agent, sizeof(agent));
	close_spool(p);
	open_spool(p, "machine-a");
	assert_int_equal(p->spool.state_origin, TALLY_STATE_KEPT);
	assert_string_equal(p->spool.state.agent, agent);
	assert_int_equal(p->spool.state.incarnation, 1);
	assert_int_equal(p->spool.state.next_batch, 2);
	assert_int_equal(p->spool.state.next_seq, 2);
	assert_int_equal(p->spool.state.sealed.epoch, 3);
	assert_int_equal(p->spool.batches.n, 1);
	assert_int_equal(p->spool.sealed.n, 1);
	assert_true(tally_spool_has(&p->spool, (const __u8 *)"ledger\0\0\0\0\0\0\0\0\0\0", 3));
	assert_false(tally_spool_has(&p->spool, (const __u8 *)"ledger\0\0\0\0\0\0\0\0\0\0", 4));
}

/* Each byte of a sealed file and of a batch flipped: quarantined, never shipped, never deleted. */
static void test_every_flipped_byte_is_found(void **state)
{
	struct place *p = *state;
	const char *const patterns[] = { "batches/b*", "sealed/e*" };
	struct stat st;

	seal(p, 1);
	assert_int_equal(tally_spool_build(&p->spool, LEDGER_START_S), 1);
	seal(p, 2);
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(patterns); i++) {
		_cleanup_free_ char *path = path_of(p, patterns[i]);
		char *moved;

		assert_int_equal(stat(path, &st), 0);
		for (long at = 0; at < st.st_size; at++) {
			flip(path, at);
			close_spool(p);
			open_spool(p, "machine-a");
			assert_int_equal(i ? p->spool.sealed.n : p->spool.batches.n, 0);
			assert_int_equal(p->spool.quarantined, 1);
			moved = path_of(p, "quarantine/*");
			flip(moved, at);
			assert_int_equal(rename(moved, path), 0);
			free(moved);
		}
		close_spool(p);
		open_spool(p, "machine-a");
		assert_int_equal(p->spool.quarantined, 0);
	}
	assert_int_equal(p->spool.batches.n, 1);
	assert_int_equal(p->spool.sealed.n, 1);
}

static void test_truncated_file_is_quarantined(void **state)
{
	struct place *p = *state;
	_cleanup_free_ char *path = NULL;

	seal(p, 1);
	path = path_of(p, "sealed/e*");
	assert_int_equal(truncate(path, 50), 0);
	close_spool(p);
	open_spool(p, "machine-a");
	assert_int_equal(p->spool.sealed.n, 0);
	assert_int_equal(count(p, "quarantine/*-e1-1"), 1);
}

/* A file that rots while the agent runs is found when it is read to be sent. */
static void test_batch_is_verified_before_it_is_sent(void **state)
{
	struct place *p = *state;
	struct tally_batch *batch = NULL;
	_cleanup_free_ char *path = NULL;

	seal(p, 1);
	assert_int_equal(tally_spool_build(&p->spool, LEDGER_START_S), 1);
	path = path_of(p, "batches/b*");
	flip(path, 100);
	assert_int_equal(tally_spool_load(&p->spool, tally_spool_find(&p->spool, 1), &batch),
			 -EBADMSG);
	assert_null(tally_spool_find(&p->spool, 1));
	assert_int_equal(count(p, "quarantine/*-b1-*"), 1);
}

/* A cloned disk: another agent, and what lies there is not its own to ship. */
static void test_other_machine_is_another_agent(void **state)
{
	struct place *p = *state;
	char agent[TALLY_AGENT_ID + 1], second[TALLY_AGENT_ID + 1];

	seal(p, 1);
	assert_int_equal(tally_spool_build(&p->spool, LEDGER_START_S), 1);
	seal(p, 2);
	memcpy(agent, p->spool.state.agent, sizeof(agent));
	close_spool(p);
	open_spool(p, "machine-b");
	assert_int_equal(p->spool.state_origin, TALLY_STATE_MOVED);
	assert_string_not_equal(p->spool.state.agent, agent);
	assert_int_equal(p->spool.sealed.n + p->spool.batches.n, 0);
	assert_int_equal(count(p, "quarantine/*-b1-*") + count(p, "quarantine/*-e2-2"), 2);
	memcpy(second, p->spool.state.agent, sizeof(second));
	close_spool(p);
	open_spool(p, "machine-b");
	assert_string_equal(p->spool.state.agent, second);
	assert_int_equal(p->spool.state_origin, TALLY_STATE_KEPT);
}

static void test_lost_state_is_another_agent(void **state)
{
	struct place *p = *state;
	char agent[TALLY_AGENT_ID + 1], path[256];

	seal(p, 1);
	memcpy(agent, p->spool.state.agent, sizeof(agent));
	close_spool(p);
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/state.%d", p->folder, i);
		assert_int_equal(unlink(path), 0);
	}
	open_spool(p, "machine-a");
	assert_int_equal(p->spool.state_origin, TALLY_STATE_NEW);
	assert_string_not_equal(p->spool.state.agent, agent);
	assert_int_equal(p->spool.sealed.n, 0);
	assert_int_equal(count(p, "quarantine/*-e1-1"), 1);
}

/* One of the two state files gone or damaged: same agent, next incarnation, seq from 1. */
static void test_half_a_state_raises_the_incarnation(void **state)
{
	struct place *p = *state;
	char agent[TALLY_AGENT_ID + 1], path[256];

	for (int i = 0; i < 2; i++) {
		seal(p, (__u64)i + 1);
		assert_int_equal(tally_spool_build(&p->spool, LEDGER_START_S), 1);
		memcpy(agent, p->spool.state.agent, sizeof(agent));
		assert_int_equal(tally_spool_trim(&p->spool, 100), 0);
		snprintf(path, sizeof(path), "%s/state.%d", p->folder, i);
		close_spool(p);
		if (i)
			flip(path, 60);
		else
			assert_int_equal(unlink(path), 0);
		open_spool(p, "machine-a");
		assert_int_equal(p->spool.state_origin, TALLY_STATE_DOUBTED);
		assert_string_equal(p->spool.state.agent, agent);
		assert_int_equal(p->spool.state.incarnation, 3 + 2 * i);
		assert_int_equal(p->spool.state.next_seq, 1);
	}
}

static void test_only_one_agent_at_a_time(void **state)
{
	struct place *p = *state;
	struct tally_spool spool;
	struct tally_fs fs;

	assert_int_equal(tally_fs_open(p->folder, &fs), 0);
	assert_int_equal(tally_spool_open(&spool, &fs, &p->origin), -EBUSY);
	fs.free(fs.ctx);
}

static void test_unsent_epochs_of_an_hour_become_one_batch(void **state)
{
	struct place *p = *state;

	for (__u64 n = 1; n <= 400; n++) {
		seal(p, n); /* the hour changes after 360 */
		assert_true(tally_spool_compact(&p->spool) >= 0);
		assert_true(p->spool.sealed.n <= 2 * TALLY_SPOOL_MERGE);
	}
	assert_int_equal(tally_spool_build(&p->spool, LEDGER_START_S), 1);
	assert_int_equal(p->spool.batches.items[0].epoch_last, 360);
	/* ledger_row() keeps its hour: only the window moves; so the next hour has a row of its own */
	assert_int_equal(tally_spool_build(&p->spool, LEDGER_START_S), 1);
	assert_int_equal(p->spool.batches.items[1].epoch_first, 361);
	assert_int_equal(p->spool.batches.items[1].epoch_last, 400);
	assert_int_equal(tally_spool_build(&p->spool, LEDGER_START_S), 0);
}

/* The kernel was reset: a hole, said in the record, lost or stopped. */
static void test_reset_ledger_is_a_hole(void **state)
{
	static const enum tally_close_cause causes[] = { TALLY_CAUSE_INTERVAL,
							 TALLY_CAUSE_SHUTDOWN };
	static const enum tally_hole holes[] = { TALLY_HOLE_LOST, TALLY_HOLE_STOPPED };
	struct place *p = *state;

	for (size_t i = 0; i < 2; i++) {
		struct tally_totals totals;
		struct tally_frozen frozen = ledger_epoch(1, NULL, 0, &totals);
		struct tally_sealed sealed;

		snprintf((char *)frozen.ledger, sizeof(frozen.ledger), "first %zu", i);
		frozen.cause = causes[i];
		ledger_close(&frozen, &sealed);
		assert_int_equal(tally_spool_seal(&p->spool, &sealed), 0);
		tally_sealed_done(&sealed);
		snprintf((char *)frozen.ledger, sizeof(frozen.ledger), "second %zu", i);
		frozen.start_ns += 100 * TALLY_NS_PER_S;
		frozen.end_ns += 100 * TALLY_NS_PER_S;
		ledger_close(&frozen, &sealed);
		assert_int_equal(tally_spool_seal(&p->spool, &sealed), 0);
		assert_int_equal(sealed.hole, holes[i]);
		assert_int_equal(sealed.hole_start_s, LEDGER_START_S + 10);
		assert_int_equal(sealed.hole_end_s, LEDGER_START_S + 100);
		tally_sealed_done(&sealed);
	}
}

/* Closes a window of this ledger. What hole is before it? */
static int hole_before(struct place *p, const char *ledger, __u64 number,
		       enum tally_close_cause cause)
{
	struct tally_totals totals;
	struct tally_frozen frozen = ledger_epoch(number, NULL, 0, &totals);
	struct tally_sealed sealed;
	int hole;

	memset(frozen.ledger, 0, sizeof(frozen.ledger));
	snprintf((char *)frozen.ledger, sizeof(frozen.ledger), "%s", ledger);
	frozen.cause = cause;
	ledger_close(&frozen, &sealed);
	assert_int_equal(tally_spool_seal(&p->spool, &sealed), 0);
	hole = sealed.hole;
	tally_sealed_done(&sealed);
	return hole;
}

/* An agent starts, with this window open. */
static void start(struct place *p, const char *ledger, __u64 number)
{
	__u8 id[TALLY_LEDGER_ID] = { 0 };

	snprintf((char *)id, sizeof(id), "%s", ledger);
	close_spool(p);
	open_spool(p, "machine-a");
	assert_int_equal(tally_spool_opened(&p->spool, id, number), 0);
}

#define SHUTDOWN TALLY_CAUSE_SHUTDOWN
#define INTERVAL TALLY_CAUSE_INTERVAL

/* Closed in order counts as the last word only if no agent ran since. */
static void test_an_open_window_is_lost(void **state)
{
	struct place *p = *state;

	start(p, "a", 1);
	assert_int_equal(hole_before(p, "a", 1, SHUTDOWN), TALLY_HOLE_NONE);
	start(p, "a", 2); /* the same pins, and the window is never closed */
	start(p, "b", 1);
	assert_int_equal(hole_before(p, "b", 1, SHUTDOWN), TALLY_HOLE_LOST);
	start(p, "c", 1); /* new pins, and its first window is never closed */
	start(p, "d", 1);
	start(p, "d", 1); /* killed, and started on the same pins */
	assert_int_equal(hole_before(p, "d", 1, INTERVAL), TALLY_HOLE_LOST);
}

static void test_every_window_closed_in_order_is_a_stop(void **state)
{
	struct place *p = *state;

	start(p, "a", 1);
	assert_int_equal(hole_before(p, "a", 1, SHUTDOWN), TALLY_HOLE_NONE);
	start(p, "a", 2);
	assert_int_equal(hole_before(p, "a", 2, SHUTDOWN), TALLY_HOLE_NONE);
	start(p, "b", 1);
	start(p, "b", 1); /* killed: the hole before it is what it was */
	assert_int_equal(hole_before(p, "b", 1, INTERVAL), TALLY_HOLE_STOPPED);
	/* nobody told that b is open still, but its last window was no end */
	start(p, "c", 1);
	assert_int_equal(hole_before(p, "c", 1, SHUTDOWN), TALLY_HOLE_LOST);
	start(p, "c", 2);
	assert_int_equal(hole_before(p, "c", 2, INTERVAL), TALLY_HOLE_NONE);
	close_spool(p); /* killed; `stop --detach` closes the books, and is no agent */
	open_spool(p, "machine-a");
	assert_int_equal(hole_before(p, "c", 3, SHUTDOWN), TALLY_HOLE_NONE);
	start(p, "d", 1);
	assert_int_equal(hole_before(p, "d", 1, INTERVAL), TALLY_HOLE_STOPPED);
}

/* The newer of two states is damaged: whether an agent ran since, only that one said. */
static void test_doubted_state_tells_no_stop(void **state)
{
	struct place *p = *state;
	char *newer;

	start(p, "a", 1);
	assert_int_equal(hole_before(p, "a", 1, SHUTDOWN), TALLY_HOLE_NONE);
	start(p, "a", 2);
	newer = path_of(p, p->spool.state.generation & 1 ? "state.1" : "state.0");
	flip(newer, 40);
	free(newer);
	start(p, "b", 1);
	assert_int_equal(hole_before(p, "b", 1, INTERVAL), TALLY_HOLE_LOST);
}

static void test_declared_loss_is_a_batch(void **state)
{
	const struct tally_loss loss = { .batch = 3,
					 .seq_first = 7,
					 .seq_last = 9,
					 .epoch_first = 4,
					 .epoch_last = 5,
					 .incarnation = 1 };
	struct place *p = *state;
	struct tally_batch *batch = NULL;

	seal(p, 1);
	assert_int_equal(tally_spool_build(&p->spool, LEDGER_START_S), 1);
	assert_int_equal(tally_spool_declare(&p->spool, &loss, LEDGER_START_S), 0);
	close_spool(p);
	open_spool(p, "machine-a");
	assert_int_equal(tally_spool_load(&p->spool, tally_spool_find(&p->spool, 2), &batch), 0);
	assert_int_equal(batch->head.kind, TALLY_BATCH_LOST);
	assert_int_equal(batch->head.loss.seq_last, 9);
	assert_int_equal(tally_batch_records(batch), 0);
	tally_batch_free(batch);
	seal(p, 2);
	assert_int_equal(p->spool.state.sealed.epoch, 2);
}

/* In an outage: sealed files wait, and are sent after what is declared now. */
static void test_declared_loss_says_no_more_than_was_batched(void **state)
{
	const struct tally_loss loss = { .epoch_first = 4, .epoch_last = 5, .seq_first = 1 };
	struct place *p = *state;
	struct tally_batch *batch = NULL;

	seal(p, 1);
	assert_int_equal(tally_spool_build(&p->spool, LEDGER_START_S), 1);
	seal_held(p, 2, 7);
	assert_int_equal(p->spool.state.sealed.held, 7);
	assert_int_equal(tally_spool_declare(&p->spool, &loss, LEDGER_START_S), 0);
	assert_int_equal(tally_spool_load(&p->spool, tally_spool_find(&p->spool, 2), &batch), 0);
	assert_int_equal(batch->sealed.start_s, LEDGER_START_S + 10);
	assert_int_equal(batch->sealed.end_s, LEDGER_START_S + 10);
	assert_int_equal(batch->sealed.held_before, 0);
	assert_int_equal(batch->sealed.held_after, 0);
	tally_batch_free(batch);
}

/* Whoever declared it died before the file was marked so, and declares it again. */
static void test_loss_is_declared_once(void **state)
{
	struct tally_loss loss = { .batch = 3, .seq_first = 7, .seq_last = 9, .incarnation = 1 };
	struct place *p = *state;

	seal(p, 1);
	assert_int_equal(tally_spool_build(&p->spool, LEDGER_START_S), 1);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(tally_spool_declare(&p->spool, &loss, LEDGER_START_S), 0);
		assert_int_equal(p->spool.batches.n, 2);
		assert_int_equal(p->spool.state.next_batch, 3);
		close_spool(p);
		open_spool(p, "machine-a");
	}
	loss.seq_last++;
	assert_int_equal(tally_spool_declare(&p->spool, &loss, LEDGER_START_S), 0);
	assert_int_equal(p->spool.batches.n, 3);
}

static void copy(const char *from, const char *to)
{
	pid_t pid = fork();
	int status = -1;

	if (pid == 0) {
		(void)execlp("cp", "cp", "-aT", from, to, NULL);
		_exit(127);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* A copy beside the folder; put back, it takes its place. */
static char *keep(const struct place *p)
{
	char *kept;

	assert_true(asprintf(&kept, "%s.kept", p->folder) > 0);
	copy(p->folder, kept);
	return kept;
}

static void put_back(struct place *p, char *kept)
{
	ledger_remove(p->folder);
	p->folder = kept;
}

/* A sink's checkpoint after the newest batch, and everything trimmed. */
static void ship_all(struct place *p, struct tally_checkpoint *ret_at)
{
	struct tally_batch *batch = NULL;
	__u64 number;

	assert_int_equal(tally_spool_build(&p->spool, LEDGER_START_S), 1);
	number = p->spool.batches.items[p->spool.batches.n - 1].number;
	assert_int_equal(tally_spool_load(&p->spool, tally_spool_find(&p->spool, number), &batch),
			 0);
	tally_checkpoint_at(batch, tally_batch_records(batch), ret_at);
	tally_batch_free(batch);
	assert_int_equal(tally_spool_trim(&p->spool, number), 0);
}

/*
 * The state of yesterday is put back under a kernel that went on: what the sink holds is not sent
 * again, nothing is called lost that was not, and no number is used twice.
 */
static void test_state_put_back(void **state)
{
	struct place *p = *state;
	struct tally_checkpoint at;
	struct tally_batch *batch = NULL;
	char *kept;

	seal(p, 1);
	ship_all(p, &at);
	seal(p, 2); /* waits in the backup, and is shipped later */
	kept = keep(p);
	seal(p, 3);
	seal(p, 4);
	ship_all(p, &at);
	assert_int_equal(at.position.epoch, 4);
	close_spool(p);
	put_back(p, kept);
	open_spool(p, "machine-a");
	assert_int_equal(count(p, "sealed/e2-2"), 1);
	seal(p, 5);
	assert_int_equal(tally_spool_overtaken(&p->spool, &at), 0);
	assert_int_equal(count(p, "sealed/*"), 1);
	assert_int_equal(p->spool.quarantined, 0);
	assert_int_equal(tally_spool_build(&p->spool, LEDGER_START_S), 1);
	assert_int_equal(tally_spool_load(&p->spool, tally_spool_find(&p->spool, 1), &batch), 0);
	assert_int_equal(batch->head.number, at.batch + 1);
	assert_int_equal(batch->head.incarnation, 2);
	assert_int_equal(batch->head.seq_first, 1);
	assert_memory_equal(batch->head.prev_chain, at.chain, TALLY_CHAIN);
	assert_int_equal(batch->sealed.epoch_first, 5);
	assert_int_equal(batch->sealed.epoch_last, 5);
	assert_int_equal(batch->sealed.hole, TALLY_HOLE_NONE);
	assert_int_equal(batch->sealed.held_before, at.position.held);
	tally_batch_free(batch);
	seal(p, 6);
	assert_int_equal(count(p, "sealed/e6-6"), 1);
}

/* ... and of its last batch the sink holds a part: what may be the rest is kept. */
static void test_state_put_back_behind_half_a_batch(void **state)
{
	struct place *p = *state;
	struct tally_checkpoint at;
	char *kept;

	seal(p, 1);
	ship_all(p, &at);
	seal(p, 2);
	kept = keep(p);
	seal(p, 3);
	ship_all(p, &at);
	at.whole = false;
	close_spool(p);
	put_back(p, kept);
	open_spool(p, "machine-a");
	seal(p, 4);
	assert_int_equal(tally_spool_overtaken(&p->spool, &at), 0);
	assert_int_equal(count(p, "sealed/*"), 1);
	assert_int_equal(count(p, "quarantine/*-e2-2"), 1);
	assert_int_equal(p->spool.quarantined, 1);
	assert_int_equal(tally_spool_build(&p->spool, LEDGER_START_S), 1);
	assert_int_equal(p->spool.batches.items[0].number, at.batch + 1);
	assert_int_equal(p->spool.batches.items[0].epoch_first, 4);
}

/* The kernel lost a window: nobody knows what else was lost, so numbers begin anew. */
static void test_hole_raises_the_incarnation(void **state)
{
	struct place *p = *state;

	seal(p, 1);
	assert_int_equal(tally_spool_build(&p->spool, LEDGER_START_S), 1);
	seal(p, 3);
	assert_int_equal(tally_spool_build(&p->spool, LEDGER_START_S), 1);
	assert_int_equal(p->spool.batches.items[0].incarnation, 1);
	assert_int_equal(p->spool.batches.items[1].incarnation, 2);
	assert_int_equal(p->spool.batches.items[1].seq_first, 1);
	assert_int_equal(p->spool.state.next_seq, 2);
}

/* State files that know less than the batches, and then only one of them: raised as far as they were. */
static void test_doubted_state_learns_from_batches(void **state)
{
	struct place *p = *state;
	char from[256], to[256];

	for (__u64 number = 1; number <= 5; number += 2) {
		seal(p, number);
		assert_int_equal(tally_spool_build(&p->spool, LEDGER_START_S), 1);
		snprintf(from, sizeof(from), "%s/state.1", p->folder);
		snprintf(to, sizeof(to), "%s/kept", p->folder);
		if (number == 1)
			copy(from, to);
	}
	assert_int_equal(p->spool.state.incarnation, 3);
	close_spool(p);
	copy(to, from);
	snprintf(from, sizeof(from), "%s/state.0", p->folder);
	assert_int_equal(unlink(from), 0);
	open_spool(p, "machine-a");
	assert_int_equal(p->spool.state_origin, TALLY_STATE_DOUBTED);
	assert_int_equal(p->spool.batches.n, 3);
	assert_int_equal(p->spool.state.incarnation, 3);
	assert_int_equal(p->spool.state.next_seq, 2);
	assert_true(p->spool.state.next_batch > 3);
}

/* A merge was cut short: its result and an input are there. One of them damaged is kept, and not lost. */
static void test_damaged_file_that_others_cover_is_not_lost(void **state)
{
	const char *const files[] = { "sealed/e2-2", "sealed/e1-4" };
	struct place *p = *state;
	char from[256], to[256];
	char *kept;

	for (__u64 n = 1; n <= TALLY_SPOOL_MERGE; n++)
		seal(p, n);
	kept = keep(p);
	assert_int_equal(tally_spool_compact(&p->spool), 1);
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(files); i++) {
		close_spool(p);
		for (int n = 1; n <= TALLY_SPOOL_MERGE; n++) {
			snprintf(from, sizeof(from), "%s/sealed/e%d-%d", kept, n, n);
			snprintf(to, sizeof(to), "%s/sealed/e%d-%d", p->folder, n, n);
			copy(from, to);
		}
		snprintf(to, sizeof(to), "%s/%s", p->folder, files[i]);
		flip(to, 60);
		open_spool(p, "machine-a");
		assert_int_equal(p->spool.sealed.n, i ? TALLY_SPOOL_MERGE : 1);
		assert_int_equal(p->spool.quarantined, 0);
		assert_int_equal(count(p, "quarantine/*.covered"), i + 1);
	}
	/* the same damage where nothing else holds the epoch */
	close_spool(p);
	snprintf(to, sizeof(to), "%s/sealed/e2-2", p->folder);
	flip(to, 60);
	open_spool(p, "machine-a");
	assert_int_equal(p->spool.quarantined, 1);
	assert_int_equal(count(p, "quarantine/*-e2-2"), 1);
	ledger_remove(kept);
}

/* An epoch of a ledger made later: ten seconds, some after LEDGER_START_S. */
static void seal_later(struct place *p, __u64 number, __u64 after_s)
{
	struct tally_totals totals;
	struct tally_frozen frozen = ledger_epoch(number, NULL, 0, &totals);
	struct tally_sealed sealed;

	strcpy((char *)frozen.ledger, "later");
	frozen.start_ns = (LEDGER_START_S + after_s) * TALLY_NS_PER_S;
	frozen.end_ns = frozen.start_ns + 10 * TALLY_NS_PER_S;
	ledger_close(&frozen, &sealed);
	assert_int_equal(tally_spool_seal(&p->spool, &sealed), 0);
	p->spool.released = true;
	tally_sealed_done(&sealed);
}

/*
 * The state of yesterday is put back. What waits is named by it, but numbered behind what the sink holds: the
 * batch of the first hour numbers its epochs 6 to 9, and the files 6 and 7 of the next hour are not in it.
 */
static void test_damaged_file_is_not_covered_by_numbers_of_others(void **state)
{
	struct place *p = *state;
	struct tally_checkpoint at;
	char path[256], *kept;

	seal(p, 1);
	ship_all(p, &at);
	kept = keep(p);
	for (__u64 n = 2; n <= 5; n++)
		seal(p, n);
	ship_all(p, &at);
	close_spool(p);
	put_back(p, kept);
	open_spool(p, "machine-a");
	for (__u64 n = 1; n <= 6; n++)
		seal_later(p, n, (n > 4 ? 7200 : 3600) + n * 10);
	assert_int_equal(tally_spool_overtaken(&p->spool, &at), 0);
	assert_int_equal(tally_spool_build(&p->spool, LEDGER_START_S), 1);
	assert_int_equal(p->spool.batches.items[0].epoch_first, 6);
	assert_int_equal(p->spool.batches.items[0].epoch_last, 9);
	close_spool(p);
	snprintf(path, sizeof(path), "%s/sealed/e6-6", p->folder);
	flip(path, 60);
	open_spool(p, "machine-a");
	assert_int_equal(p->spool.quarantined, 1);
	assert_int_equal(count(p, "quarantine/*-e6-6"), 1);
}

static const char *out_of_reach; /* the file that the disk does not give now */
static int (*read_any)(void *ctx, const char *dir, const char *name, struct tally_buf *buf);

static int read_within_reach(void *ctx, const char *dir, const char *name, struct tally_buf *buf)
{
	return strcmp(name, out_of_reach) == 0 ? -EIO : read_any(ctx, dir, name, buf);
}

/* What a start says that fails because of this file. */
static char *try_without(struct place *p, const char *name)
{
	int saved = dup(STDERR_FILENO);
	char path[256], *text = NULL;
	FILE *log;
	size_t len;

	snprintf(path, sizeof(path), "%s/log", p->folder);
	log = fopen(path, "w");
	assert_non_null(log);
	assert_int_equal(tally_fs_open(p->folder, &p->fs), 0);
	out_of_reach = name;
	read_any = p->fs.read;
	p->fs.read = read_within_reach;
	tally_log_setup(TALLY_LOG_ERROR, TALLY_LOG_TEXT);
	assert_int_equal(dup2(fileno(log), STDERR_FILENO), STDERR_FILENO);
	assert_int_equal(tally_spool_open(&p->spool, &p->fs, &p->origin), -EIO);
	assert_int_equal(dup2(saved, STDERR_FILENO), STDERR_FILENO);
	tally_log_setup((enum tally_log_level)0, TALLY_LOG_TEXT);
	p->fs.free(p->fs.ctx);
	close(saved);
	fclose(log);
	assert_int_equal(tally_util_read_file(path, 65536, &text, &len), 0);
	return text;
}

/* It may be a good one: nothing goes on without it, and who repairs the disk is told which it is. */
static void test_file_out_of_reach_is_named(void **state)
{
	static const char *const names[] = { "e2-2", "b1-s1-r1-e1-1", "state.0", "state.1" };
	struct place *p = *state;

	seal(p, 1);
	assert_int_equal(tally_spool_build(&p->spool, LEDGER_START_S), 1);
	seal(p, 2);
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(names); i++) {
		_cleanup_free_ char *text = NULL;
		char want[64];

		close_spool(p);
		text = try_without(p, names[i]);
		snprintf(want, sizeof(want), "file=%s error=\"%s\"", names[i], strerror(EIO));
		open_spool(p, "machine-a");
		assert_non_null(strstr(text, want));
		assert_int_equal(p->spool.sealed.n + p->spool.batches.n, 2);
		assert_int_equal(p->spool.quarantined, 0);
	}
}

/* A write that was cut short is nobody's file. */
static void test_unfinished_writes_are_removed(void **state)
{
	struct place *p = *state;
	_cleanup_free_ char *path = NULL;
	_cleanup_free_ char *tmp = NULL;

	seal(p, 1);
	path = path_of(p, "sealed/e1-1");
	assert_true(asprintf(&tmp, "%s/sealed/0123456789abcdef.tmp", p->folder) > 0);
	copy(path, tmp);
	close_spool(p);
	open_spool(p, "machine-a");
	assert_int_equal(count(p, "sealed/*"), 1);
	assert_int_equal(count(p, "sealed/e1-1"), 1);
}

/* A full disk on which somebody else takes what is given up, but for one write. */
static struct {
	struct tally_fs inner;
	bool full, silent;
	int writes;
} thief;

static int thief_write(void *ctx, int fd, const void *data, size_t len)
{
	if (thief.full && !thief.writes)
		return -ENOSPC;
	thief.writes -= thief.full;
	return thief.inner.write(ctx, fd, data, len);
}

static int thief_unlink(void *ctx, const char *dir, const char *name)
{
	thief.writes += strcmp(name, "reserve") == 0;
	return thief.inner.unlink(ctx, dir, name);
}

static int thief_allocate(void *ctx, const char *name, __u64 bytes)
{
	if (thief.full && bytes > 1 << 20)
		return -ENOSPC;
	thief.writes += thief.full;
	return thief.inner.allocate(ctx, name, bytes);
}

static int thief_room(void *ctx, __u64 *ret_total, __u64 *ret_free)
{
	int r = thief.inner.room(ctx, ret_total, ret_free);

	if (thief.full)
		*ret_free = 0;
	if (thief.silent)
		*ret_total = *ret_free = 0;
	return r;
}

static void use_thief(struct place *p)
{
	memset(&thief, 0, sizeof(thief));
	thief.inner = p->fs;
	p->fs.write = thief_write;
	p->fs.unlink = thief_unlink;
	p->fs.allocate = thief_allocate;
	p->fs.room = thief_room;
}

/* The batch takes its part of the reserve; the state behind it still finds the spare room. */
static void test_others_take_what_the_reserve_gave_up(void **state)
{
	struct place *p = *state;

	use_thief(p);
	seal(p, 1);
	seal(p, 2);
	thief.full = true;
	assert_int_equal(tally_spool_build(&p->spool, 100), 1);
	assert_int_equal(tally_spool_settle(&p->spool), 0);
	assert_int_equal(p->spool.batches.n, 1);
	assert_int_equal(p->spool.sealed.n, 0);
	thief.full = false;
}

static void test_file_system_that_tells_no_size(void **state)
{
	struct place *p = *state;

	use_thief(p);
	thief.silent = true;
	seal(p, 1);
	assert_int_equal(tally_spool_build(&p->spool, 100), 1);
	assert_int_equal(p->spool.batches.n, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		TEST(test_goes_on_where_it_was),
		TEST(test_every_flipped_byte_is_found),
		TEST(test_truncated_file_is_quarantined),
		TEST(test_batch_is_verified_before_it_is_sent),
		TEST(test_other_machine_is_another_agent),
		TEST(test_lost_state_is_another_agent),
		TEST(test_half_a_state_raises_the_incarnation),
		TEST(test_doubted_state_learns_from_batches),
		TEST(test_only_one_agent_at_a_time),
		TEST(test_unsent_epochs_of_an_hour_become_one_batch),
		TEST(test_reset_ledger_is_a_hole),
		TEST(test_an_open_window_is_lost),
		TEST(test_every_window_closed_in_order_is_a_stop),
		TEST(test_doubted_state_tells_no_stop),
		TEST(test_declared_loss_is_a_batch),
		TEST(test_declared_loss_says_no_more_than_was_batched),
		TEST(test_loss_is_declared_once),
		TEST(test_state_put_back),
		TEST(test_state_put_back_behind_half_a_batch),
		TEST(test_hole_raises_the_incarnation),
		TEST(test_damaged_file_that_others_cover_is_not_lost),
		TEST(test_damaged_file_is_not_covered_by_numbers_of_others),
		TEST(test_file_out_of_reach_is_named),
		TEST(test_unfinished_writes_are_removed),
		TEST(test_others_take_what_the_reserve_gave_up),
		TEST(test_file_system_that_tells_no_size),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
