/* SPDX-License-Identifier: Apache-2.0 */
/* From frozen epochs to a file, with the real files and clock. Faults at large: tests/sim. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "account/audit.h"
#include "base/log.h"
#include "base/util.h"
#include "libledger.h"

struct place {
	char *folder;
	char path[128];
	struct tally_ship *ship;
};

static void start(struct place *p)
{
	const struct tally_ship_config config = {
		.state_dir = p->folder,
		.machine_id = "machine",
		.boot_id = "boot",
		.host = "host",
		.version = "1",
	};

	assert_int_equal(tally_ship_new(&config, &p->ship), 0);
	assert_int_equal(tally_ship_add(p->ship, tally_file_sink_new("file", p->path)), 0);
}

static int set_up(void **state)
{
	struct place *p = calloc(1, sizeof(*p));

	tally_log_setup((enum tally_log_level)0, TALLY_LOG_TEXT);
	p->folder = ledger_folder();
	snprintf(p->path, sizeof(p->path), "%s/usage.ndjson", p->folder);
	start(p);
	*state = p;
	return 0;
}

static int tear_down(void **state)
{
	struct place *p = *state;

	tally_ship_free(p->ship);
	ledger_remove(p->folder);
	free(p);
	return 0;
}

static int seal(struct place *p, __u64 number, size_t n_rows)
{
	struct tally_frozen_row *rows = calloc(n_rows + 1, sizeof(*rows));
	struct tally_totals totals;
	struct tally_frozen frozen;
	int r;

	for (size_t i = 0; i < n_rows; i++) {
		rows[i] = ledger_row(1, 1, (__u16)(200 + i % 100), number);
		rows[i].key.hour = (__u32)((LEDGER_START_S + (number - 1) * 10) / 3600);
	}
	frozen = ledger_epoch(number, rows, n_rows, &totals);
	r = tally_ship_seal(p->ship, &frozen, &ledger_resolver);
	tally_ship_released(p->ship);
	free(rows);
	return r;
}

static void ship_all(struct place *p)
{
	__u64 deadline = tally_util_mono_ns() + 20 * TALLY_NS_PER_S;
	int wait_ms;

	while (!tally_ship_idle(p->ship)) {
		struct pollfd pfd = { .fd = tally_ship_fd(p->ship), .events = POLLIN };

		assert_true(tally_util_mono_ns() < deadline);
		assert_int_equal(tally_ship_step(p->ship, &wait_ms), 0);
		(void)poll(&pfd, 1, wait_ms < 0 ? 10 : TALLY_MIN(wait_ms, 10));
	}
	assert_int_equal(tally_ship_step(p->ship, &wait_ms), 0);
}

/* What an auditor says of the file. */
static void audit(const struct place *p, struct tally_audit_agent *ret_agent, __u64 *ret_faults)
{
	struct tally_audit *books = NULL;
	FILE *in = fopen(p->path, "re");
	char *line = NULL;
	size_t cap = 0;
	ssize_t n;

	assert_non_null(in);
	assert_int_equal(tally_audit_new(&books), 0);
	while ((n = getline(&line, &cap, in)) > 0)
		assert_int_equal(tally_audit_feed(books, line, (size_t)n - 1), 0);
	assert_int_equal(tally_audit_close(books, 0), 0);
	assert_int_equal(tally_audit_agents(books), 1);
	tally_audit_agent(books, 0, ret_agent);
	*ret_faults = 0;
	for (int i = TALLY_FIND_DUPLICATE; i < TALLY_FIND_COUNT; i++)
		*ret_faults += tally_audit_count(books, (enum tally_finding_kind)i);
	tally_audit_free(books);
	free(line);
	fclose(in);
}

static void check(const struct place *p, __u64 requests, __u64 batches)
{
	struct tally_audit_agent agent;
	__u64 faults;

	audit(p, &agent, &faults);
	assert_int_equal(faults, 0);
	assert_int_equal(agent.requests, requests);
	if (batches)
		assert_int_equal(agent.batches, batches);
}

static void test_epochs_arrive_in_the_file(void **state)
{
	struct tally_ship_status status;
	struct place *p = *state;

	for (__u64 n = 1; n <= 5; n++)
		assert_int_equal(seal(p, n, 3), 0);
	ship_all(p);
	check(p, 3 * (1 + 2 + 3 + 4 + 5), 0);
	tally_ship_status(p->ship, &status);
	assert_int_equal(status.batch_files + status.sealed_files, 0);
	assert_int_equal(status.epoch_last, 5);
	assert_int_equal(status.imbalance, 0);
}

static void test_idle_windows_have_a_control_record(void **state)
{
	struct place *p = *state;

	for (__u64 n = 1; n <= 3; n++) {
		assert_int_equal(seal(p, n, 0), 0);
		ship_all(p);
	}
	check(p, 0, 3);
}

/* An epoch whose pins still stand after a crash is not counted again. */
static void test_sealing_again_changes_nothing(void **state)
{
	struct place *p = *state;

	assert_int_equal(seal(p, 1, 2), 0);
	assert_int_equal(seal(p, 1, 2), 0);
	assert_true(tally_ship_has(p->ship, (const __u8 *)"ledger\0\0\0\0\0\0\0\0\0\0", 1));
	ship_all(p);
	tally_ship_free(p->ship);
	start(p);
	assert_int_equal(seal(p, 1, 2), 0);
	ship_all(p);
	check(p, 2, 1);
}

static void write_file(const char *path, const char *mode, const char *text)
{
	FILE *out = fopen(path, mode);

	assert_non_null(out);
	assert_true(fputs(text, out) > 0);
	assert_int_equal(fclose(out), 0);
}

/* What was appended but not checkpointed is cut off, and written again. */
static void test_torn_tail_of_the_file_is_cut(void **state)
{
	struct place *p = *state;

	assert_int_equal(seal(p, 1, 2), 0);
	ship_all(p);
	tally_ship_free(p->ship);
	write_file(p->path, "ae", "{\"half\":");
	start(p);
	assert_int_equal(seal(p, 2, 2), 0);
	ship_all(p);
	check(p, 2 + 4, 2);
}

static void in_folder(const struct place *p, const char *words)
{
	_cleanup_free_ char *command = NULL;

	assert_true(asprintf(&command, "cd %s && %s", p->folder, words) > 0);
	assert_int_equal(system(command), 0); /* NOLINT(cert-env33-c): a path of ours */
}

/* What was delivered since stays, and no identity is used twice. */
static void test_old_state_cuts_nothing(void **state)
{
	struct place *p = *state;

	assert_int_equal(seal(p, 1, 2), 0);
	ship_all(p);
	tally_ship_free(p->ship);
	in_folder(p, "mkdir kept && cp -a state.* sealed batches sinks kept/");
	start(p);
	assert_int_equal(seal(p, 2, 2), 0);
	assert_int_equal(seal(p, 3, 2), 0);
	ship_all(p);
	tally_ship_free(p->ship);
	in_folder(p, "rm -r state.* sealed batches sinks && mv kept/* . && rmdir kept");
	start(p);
	ship_all(p);
	assert_int_equal(seal(p, 4, 2), 0);
	ship_all(p);
	check(p, 2 + 4 + 6 + 8, 0);
}

/* Another agent's half line: it stays, and ours begin behind it. */
static void test_first_line_begins_a_line(void **state)
{
	_cleanup_free_ char *text = NULL;
	struct place *p = *state;
	size_t bytes;

	write_file(p->path, "we", "{\"half\":");
	assert_int_equal(seal(p, 1, 2), 0);
	ship_all(p);
	assert_int_equal(tally_util_read_file(p->path, 1 << 20, &text, &bytes), 0);
	assert_int_equal(strncmp(text, "{\"half\":\n{\"specversion\"", 23), 0);
}

/* logrotate: the old file is left alone, a new one is begun. */
static void test_rotated_file_is_left_alone(void **state)
{
	struct place *p = *state;
	char old[160];
	struct stat st;
	off_t size;

	assert_int_equal(seal(p, 1, 2), 0);
	ship_all(p);
	snprintf(old, sizeof(old), "%s.1", p->path);
	assert_int_equal(rename(p->path, old), 0);
	assert_int_equal(stat(old, &st), 0);
	size = st.st_size;
	assert_int_equal(seal(p, 2, 2), 0);
	ship_all(p);
	check(p, 4, 1);
	assert_int_equal(stat(old, &st), 0);
	assert_int_equal(st.st_size, size);
}

/* logrotate's copytruncate loses what was written meanwhile, and no more: a torn tail is still cut. */
static void test_cut_file_goes_on_from_its_begin(void **state)
{
	struct place *p = *state;

	assert_int_equal(seal(p, 1, 40), 0);
	ship_all(p);
	assert_int_equal(truncate(p->path, 0), 0);
	assert_int_equal(seal(p, 2, 2), 0);
	ship_all(p);
	tally_ship_free(p->ship);
	write_file(p->path, "ae", "{\"half\":");
	start(p);
	assert_int_equal(seal(p, 3, 2), 0);
	ship_all(p);
	check(p, 4 + 6, 2);
}

/* Somebody wrote into our file: that is no reason to cut lines of ours behind it. */
static void test_strange_line_costs_none_of_ours(void **state)
{
	struct place *p = *state;

	assert_int_equal(seal(p, 1, 2), 0);
	ship_all(p);
	write_file(p->path, "ae", "{\"strange\":true}\n");
	assert_int_equal(seal(p, 2, 2), 0);
	ship_all(p);
	tally_ship_free(p->ship);
	start(p);
	assert_int_equal(seal(p, 3, 2), 0);
	ship_all(p);
	check(p, 2 + 4 + 6, 3);
}

/* Records of usage in lines that are whole; *ret_broken: lines that are not. */
static size_t whole_lines(const char *path, size_t *ret_broken)
{
	FILE *in = fopen(path, "re");
	char *line = NULL;
	size_t cap = 0, n = 0;

	assert_non_null(in);
	*ret_broken = 0;
	while (getline(&line, &cap, in) > 0) {
		json_t *event = json_loads(line, 0, NULL);
		const char *type = json_string_value(json_object_get(event, "type"));

		n += type && strcmp(type, "io.tallyd.usage.v1") == 0;
		*ret_broken += !event && *line != '\n';
		json_decref(event);
	}
	free(line);
	fclose(in);
	return n;
}

/* Standard output is a file, and its disk was full in the middle of a line: what is said again begins a line. */
static void test_output_torn_in_a_line(void **state)
{
	static char before[100000]; /* no other file is as long */
	const struct rlimit little = { sizeof(before) + 500, RLIM_INFINITY };
	const struct rlimit enough = { RLIM_INFINITY, RLIM_INFINITY };
	struct tally_ship_sink_status status = { 0 };
	struct place *p = *state;
	struct tally_sink *sink;
	int wait_ms, saved, fd;
	char path[128];
	size_t broken;

	snprintf(path, sizeof(path), "%s/output", p->folder);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	assert_true(fd >= 0 && signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
	memset(before, '\n', sizeof(before));
	assert_int_equal(tally_util_write_all(fd, before, sizeof(before)), 0);
	sink = tally_stdout_sink_new("stdout", p->folder);
	sink->required = true;
	assert_int_equal(tally_ship_remove(p->ship, "file"), 0);
	assert_int_equal(tally_ship_add(p->ship, sink), 0);
	assert_int_equal(seal(p, 1, 9), 0);
	assert_int_equal(fflush(stdout), 0);
	saved = dup(STDOUT_FILENO);
	assert_true(saved >= 0 && dup2(fd, STDOUT_FILENO) >= 0);
	(void)setrlimit(RLIMIT_FSIZE, &little);
	for (int i = 0; i < 100 && !status.doubts; i++) {
		(void)tally_ship_step(p->ship, &wait_ms);
		(void)tally_ship_sink_status(p->ship, 0, &status);
	}
	(void)setrlimit(RLIMIT_FSIZE, &enough);
	ship_all(p);
	(void)dup2(saved, STDOUT_FILENO);
	(void)close(saved);
	(void)close(fd);
	assert_int_equal(status.doubts, 1);
	assert_int_equal(whole_lines(path, &broken), 9);
	assert_int_equal(broken, 1);
}

static void test_spool_has_a_cap(void **state)
{
	struct place *p = *state;
	struct tally_ship_config config = { .state_dir = p->folder,
					    .machine_id = "machine",
					    .max_bytes = 600 };
	struct tally_ship_status status;
	__u64 n = 1;

	tally_ship_free(p->ship);
	assert_int_equal(tally_ship_new(&config, &p->ship), 0);
	while (seal(p, n, 1) == 0)
		assert_true(++n < 10);
	assert_int_equal(seal(p, n, 1), -ENOSPC);
	tally_ship_status(p->ship, &status);
	assert_true(status.sealing_fails);
	assert_int_equal(status.epoch_last, n - 1);
	tally_ship_free(p->ship);
	start(p);
	assert_int_equal(seal(p, n, 1), 0);
	ship_all(p);
	check(p, n * (n + 1) / 2, 0);
}

/* Connections have half of it; then usage alone is sealed, until there is no room for that either. */
static void test_usage_has_the_last_room(void **state)
{
	static const struct tally_peer_cut cut = { 32, 128 };
	struct place *p = *state;
	struct tally_ship_config config = { .state_dir = p->folder,
					    .machine_id = "machine",
					    .max_bytes = 2000 };
	struct tally_resolver resolver = ledger_resolver;
	struct tally_ship_status status;
	__u64 n = 0;
	int r = 0;

	resolver.connections = &cut;
	tally_ship_free(p->ship);
	assert_int_equal(tally_ship_new(&config, &p->ship), 0);
	while (r == 0) {
		struct tally_frozen_row row = ledger_row(1, 1, 200, n + 1);
		struct tally_totals totals;
		struct tally_frozen frozen = ledger_epoch(n + 1, &row, 1, &totals);

		r = tally_ship_seal(p->ship, &frozen, &resolver);
		n += r == 0;
		assert_true(n < 30);
	}
	assert_int_equal(r, -ENOSPC);
	tally_ship_status(p->ship, &status);
	assert_int_equal(status.records_sealed, n);
	assert_true(status.connections_sealed > 0 && status.connections_shed > 0);
	assert_int_equal(status.connections_sealed + status.connections_shed, n);
	tally_ship_free(p->ship);
	start(p);
	tally_ship_released(p->ship);
	ship_all(p);
	check(p, n * (n + 1) / 2, 0); /* the audit, too: a batch has them all, or none */
}

/* An epoch whose pins still stand is in no batch; the ones before it are. */
static void test_pinned_epoch_is_not_batched(void **state)
{
	struct tally_frozen frozen[2];
	struct tally_ship_status status;
	struct tally_totals totals[2];
	struct place *p = *state;
	int wait_ms;

	for (__u64 i = 0; i < 2; i++) {
		frozen[i] = ledger_epoch(i + 1, NULL, 0, &totals[i]);
		assert_int_equal(tally_ship_seal(p->ship, &frozen[i], &ledger_resolver), 0);
	}
	for (int i = 0; i < 10; i++)
		assert_int_equal(tally_ship_step(p->ship, &wait_ms), 0);
	tally_ship_status(p->ship, &status);
	assert_int_equal(status.batch_last, 1);
	assert_int_equal(status.sealed_files, 1);
	assert_false(tally_ship_idle(p->ship));
	tally_ship_released(p->ship);
	ship_all(p);
	check(p, 0, 2);
}

/* 60,000 rows, several pieces. */
static void test_large_batch(void **state)
{
	struct tally_frozen_row *rows = calloc(60000, sizeof(*rows));
	struct tally_totals totals;
	struct tally_frozen frozen;
	struct place *p = *state;

	for (size_t i = 0; i < 60000; i++) {
		rows[i] = ledger_row(1, 1, (__u16)(200 + i % 700), 1);
		rows[i].key.protocol = (__u8)(i / 700 % TALLY_PROTO_COUNT);
		rows[i].key.attribution = TALLY_ATTR_ANONYMOUS;
		rows[i].key.detail = (__u8)(i / 3500 % TALLY_DETAIL_COUNT);
		rows[i].key.key = 0;
	}
	frozen = ledger_epoch(1, rows, 60000, &totals);
	assert_int_equal(tally_ship_seal(p->ship, &frozen, &ledger_resolver), 0);
	tally_ship_released(p->ship);
	free(rows);
	ship_all(p);
	check(p, 60000, 1);
}

/* A sink that is not required and does not come holds nothing up. */
static void test_optional_sink_is_not_waited_for(void **state)
{
	struct tally_ship_status status;
	struct place *p = *state;
	struct tally_sink *sink;
	char path[128];

	snprintf(path, sizeof(path), "%s/missing/usage.ndjson", p->folder);
	sink = tally_file_sink_new("other", path);
	sink->required = false;
	assert_int_equal(tally_ship_add(p->ship, sink), 0);
	assert_int_equal(seal(p, 1, 2), 0);
	ship_all(p);
	check(p, 2, 1);
	tally_ship_status(p->ship, &status);
	assert_int_equal(status.batch_files, 0);
}

static size_t records_in(const char *path)
{
	_cleanup_free_ char *text = NULL;
	size_t bytes, n = 0;

	if (tally_util_read_file(path, 1 << 20, &text, &bytes) < 0)
		return 0;
	for (char *line = text; (line = strstr(line, "\"io.tallyd.usage.v1\"")); line++)
		n++;
	return n;
}

/* What the spool keeps for a required sink that never answers goes when the sink does. */
static void test_removed_sink_is_not_waited_for(void **state)
{
	struct tally_ship_status status;
	struct place *p = *state;
	char path[128];
	int wait_ms;

	snprintf(path, sizeof(path), "%s/missing/usage.ndjson", p->folder);
	assert_int_equal(tally_ship_add(p->ship, tally_file_sink_new("gone", path)), 0);
	assert_int_equal(seal(p, 1, 2), 0);
	for (int i = 0; i < 20; i++)
		assert_int_equal(tally_ship_step(p->ship, &wait_ms), 0);
	assert_int_equal(records_in(p->path), 2);
	assert_false(tally_ship_idle(p->ship));
	assert_int_equal(tally_ship_remove(p->ship, "nobody"), -ENOENT);
	assert_int_equal(tally_ship_remove(p->ship, "gone"), 0);
	assert_int_equal(tally_ship_remove(p->ship, "gone"), -ENOENT);
	ship_all(p);
	tally_ship_status(p->ship, &status);
	assert_int_equal(status.batch_files, 0);
	check(p, 2, 1);
}

/* A sink that comes late gets what is still there; one that comes back goes on where it was. */
static void test_sinks_come_and_go(void **state)
{
	struct place *p = *state;
	char path[128];

	snprintf(path, sizeof(path), "%s/other.ndjson", p->folder);
	assert_int_equal(seal(p, 1, 2), 0);
	ship_all(p);
	assert_int_equal(seal(p, 2, 3), 0);
	assert_int_equal(tally_ship_add(p->ship, tally_file_sink_new("other", path)), 0);
	assert_int_equal(tally_ship_remove(p->ship, "file"), 0);
	ship_all(p);
	assert_int_equal(records_in(p->path), 2);
	assert_int_equal(records_in(path), 3);
	assert_int_equal(tally_ship_remove(p->ship, "other"), 0);
	assert_int_equal(seal(p, 3, 4), 0);
	assert_int_equal(tally_ship_add(p->ship, tally_file_sink_new("other", path)), 0);
	assert_int_equal(tally_ship_add(p->ship, tally_file_sink_new("file", p->path)), 0);
	ship_all(p);
	assert_int_equal(records_in(path), 3 + 4);
	assert_int_equal(records_in(p->path), 2 + 4);
}

/* A sink that answers as it is told to. */
struct puppet {
	struct tally_sink sink;
	bool silent, refuses;
	__u64 opened, polled;
	struct tally_checkpoint at;
	struct tally_sink_event event;
};

static void answer(struct puppet *puppet, enum tally_sink_event_kind kind)
{
	if (puppet->silent)
		return;
	puppet->event =
		(struct tally_sink_event){ .kind = kind, .checkpoint = puppet->at, .error = -EIO };
	if (puppet->sink.wake_fd >= 0)
		assert_int_equal(eventfd_write(puppet->sink.wake_fd, 1), 0);
}

static int puppet_open(struct tally_sink *sink, const char *agent)
{
	struct puppet *puppet = (struct puppet *)sink;

	puppet->opened++;
	answer(puppet, TALLY_SINK_OPENED);
	return 0;
}

static int puppet_send(struct tally_sink *sink, const struct tally_send *send)
{
	struct puppet *puppet = (struct puppet *)sink;

	if (!puppet->refuses)
		tally_checkpoint_at(send->batch, tally_batch_messages(send->batch), &puppet->at);
	answer(puppet, puppet->refuses ? TALLY_SINK_FAILED : TALLY_SINK_SENT);
	return 0;
}

static int puppet_confirm(struct tally_sink *sink)
{
	answer((struct puppet *)sink, TALLY_SINK_CONFIRMED);
	return 0;
}

static int puppet_close(struct tally_sink *sink)
{
	struct puppet *puppet = (struct puppet *)sink;

	puppet->event.kind = TALLY_SINK_CLOSED;
	return 0;
}

static void puppet_poll(struct tally_sink *sink, struct tally_sink_event *ret_event)
{
	struct puppet *puppet = (struct puppet *)sink;
	eventfd_t value;

	puppet->polled++;
	if (sink->wake_fd >= 0)
		(void)eventfd_read(sink->wake_fd, &value); /* or nothing rang */
	*ret_event = puppet->event;
	puppet->event.kind = TALLY_SINK_NOTHING;
}

static void puppet_free(struct tally_sink *sink)
{
	if (sink->wake_fd >= 0)
		close(sink->wake_fd);
	free(sink->name);
	free(sink);
}

static struct puppet *new_puppet(const char *name, int wake_fd)
{
	static const struct tally_sink_ops ops = {
		.open = puppet_open,
		.send = puppet_send,
		.confirm = puppet_confirm,
		.close = puppet_close,
		.poll = puppet_poll,
		.free = puppet_free,
	};
	struct puppet *puppet = calloc(1, sizeof(*puppet));

	puppet->sink = (struct tally_sink){ .ops = &ops, .required = true, .wake_fd = wake_fd };
	puppet->sink.name = strdup(name);
	return puppet;
}

static __u64 puppet_ns;

static __u64 clock_ns(void *ctx)
{
	return puppet_ns;
}

/* A spool of its own clock, with one sink. */
static struct puppet *start_puppet(struct place *p, const struct tally_fs *fs)
{
	static const struct tally_time time = { NULL, clock_ns, clock_ns };
	const struct tally_ship_config config = {
		.state_dir = p->folder, .machine_id = "machine", .fs = fs, .time = &time
	};
	struct puppet *puppet = new_puppet("puppet", eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));

	puppet_ns = LEDGER_START_S * TALLY_NS_PER_S;
	tally_ship_free(p->ship);
	assert_int_equal(tally_ship_new(&config, &p->ship), 0);
	assert_int_equal(tally_ship_add(p->ship, &puppet->sink), 0);
	return puppet;
}

static struct tally_ship_sink_status puppet_status(const struct place *p)
{
	struct tally_ship_sink_status status;

	assert_int_equal(tally_ship_sink_status(p->ship, 0, &status), 0);
	return status;
}

/* Whose thread hangs is left alone with it, and asked again from the start. */
static void test_sink_that_never_answers_is_given_up(void **state)
{
	struct place *p = *state;
	struct puppet *puppet = start_puppet(p, NULL);
	int wait_ms;

	puppet->sink.patience_ms = 5000;
	assert_int_equal(seal(p, 1, 2), 0);
	assert_int_equal(tally_ship_step(p->ship, &wait_ms), 0);
	assert_true(puppet_status(p).connected);
	tally_ship_free(TAKE_PTR(p->ship));
	puppet = start_puppet(p, NULL);
	puppet->sink.patience_ms = 5000;
	puppet->silent = true;
	assert_int_equal(tally_ship_step(p->ship, &wait_ms), 0);
	assert_true(wait_ms > 0 && wait_ms <= 5001);
	puppet_ns += 4 * TALLY_NS_PER_S;
	assert_int_equal(tally_ship_step(p->ship, &wait_ms), 0);
	assert_int_equal(puppet_status(p).doubts, 0);
	puppet_ns += 2 * TALLY_NS_PER_S;
	assert_int_equal(tally_ship_step(p->ship, &wait_ms), 0);
	assert_int_equal(puppet_status(p).doubts, 1);
	puppet->silent = false;
	puppet_ns += TALLY_NS_PER_S;
	assert_int_equal(tally_ship_step(p->ship, &wait_ms), 0);
	assert_int_equal(puppet->opened, 2);
	assert_true(puppet_status(p).connected);
	assert_int_equal(puppet_status(p).doubts, 1);
}

/* It opens and cannot be written to: the waits grow all the same. */
static void test_opening_alone_does_not_end_the_back_off(void **state)
{
	struct place *p = *state;
	struct puppet *puppet = start_puppet(p, NULL);
	int wait_ms = 0;

	puppet->refuses = true;
	assert_int_equal(seal(p, 1, 2), 0);
	for (int i = 0; i < 60 * 20; i++) {
		assert_int_equal(tally_ship_step(p->ship, &wait_ms), 0);
		puppet_ns += TALLY_NS_PER_S / 20;
	}
	assert_in_range(puppet->opened, 5, 15);
	puppet->refuses = false;
	puppet_ns += 20 * TALLY_NS_PER_S;
	assert_int_equal(tally_ship_step(p->ship, &wait_ms), 0);
	assert_true(tally_ship_idle(p->ship));
	puppet->refuses = true;
	assert_int_equal(seal(p, 2, 2), 0);
	assert_int_equal(tally_ship_step(p->ship, &wait_ms), 0);
	assert_in_range(wait_ms, 1, 201); /* from the start again */
}

/* What a sink that is closed still rings with does not keep the loop awake. */
static void test_closed_sink_does_not_keep_the_loop_awake(void **state)
{
	struct place *p = *state;
	struct puppet *puppet = start_puppet(p, NULL);
	struct pollfd pfd = { .fd = tally_ship_fd(p->ship), .events = POLLIN };
	int wait_ms;

	puppet->refuses = true;
	assert_int_equal(seal(p, 1, 2), 0);
	assert_int_equal(tally_ship_step(p->ship, &wait_ms), 0);
	assert_true(wait_ms > 0);
	assert_int_equal(eventfd_write(puppet->sink.wake_fd, 1), 0);
	assert_int_equal(poll(&pfd, 1, 0), 1);
	assert_int_equal(tally_ship_step(p->ship, &wait_ms), 0);
	assert_int_equal(poll(&pfd, 1, 0), 0);
}

static struct failing_fs {
	struct tally_fs real, fs;
	bool fails;
} failing;

static int failing_sync_dir(void *ctx, const char *dir)
{
	return failing.fails ? -EIO : failing.real.sync_dir(ctx, dir);
}

static int failing_list(void *ctx, const char *dir,
			int (*each)(void *arg, const char *name, __u64 size), void *arg)
{
	return failing.fails ? -EIO : failing.real.list(ctx, dir, each, arg);
}

/* Nothing is decided while the folders are in doubt, and nobody spins: an answer waits until they are not. */
static void test_doubtful_folders_do_not_keep_the_loop_awake(void **state)
{
	struct place *p = *state;
	struct puppet *puppet;
	struct pollfd pfd = { .events = POLLIN };
	int wait_ms;

	assert_int_equal(tally_fs_open(p->folder, &failing.real), 0);
	failing.fs = failing.real;
	failing.fs.list = failing_list;
	failing.fs.sync_dir = failing_sync_dir;
	puppet = start_puppet(p, &failing.fs);
	puppet->silent = true;
	assert_int_equal(tally_ship_step(p->ship, &wait_ms), 0); /* asked to open */
	failing.fails = true;
	assert_true(seal(p, 1, 2) < 0);
	puppet->silent = false;
	answer(puppet, TALLY_SINK_OPENED);
	pfd.fd = tally_ship_fd(p->ship);
	assert_int_equal(tally_ship_step(p->ship, &wait_ms), 0);
	assert_true(wait_ms > 0);
	assert_int_equal(poll(&pfd, 1, 0), 0);
	assert_false(puppet_status(p).connected);
	failing.fails = false;
	puppet_ns += TALLY_NS_PER_S;
	assert_int_equal(tally_ship_step(p->ship, &wait_ms), 0);
	assert_true(puppet_status(p).connected);
	tally_ship_free(TAKE_PTR(p->ship));
	failing.real.free(failing.real.ctx);
}

/* A disk with one fault at a time. */
static struct faulty_fs {
	struct tally_fs real, fs;
	bool full;		/* no new batch finds room */
	int fails;		/* so often quarantine/ cannot be synced */
	const char *unreadable; /* names of batches that begin so */
	__u64 reads;
} faulty;

static int faulty_create(void *ctx, const char *dir, const char *name, int *ret_fd)
{
	return faulty.full && !strcmp(dir, "batches") ? -ENOSPC
						      : faulty.real.create(ctx, dir, name, ret_fd);
}

static int faulty_sync_dir(void *ctx, const char *dir)
{
	if (strcmp(dir, "quarantine") != 0 || !faulty.fails)
		return faulty.real.sync_dir(ctx, dir);
	faulty.fails--;
	return -EIO;
}

static int faulty_read(void *ctx, const char *dir, const char *name, struct tally_buf *buf)
{
	faulty.reads++;
	if (faulty.unreadable && !strncmp(name, faulty.unreadable, strlen(faulty.unreadable)))
		return -EIO;
	return faulty.real.read(ctx, dir, name, buf);
}

static struct puppet *start_faulty(struct place *p)
{
	memset(&faulty, 0, sizeof(faulty));
	assert_int_equal(tally_fs_open(p->folder, &faulty.real), 0);
	faulty.fs = faulty.real;
	faulty.fs.create = faulty_create;
	faulty.fs.sync_dir = faulty_sync_dir;
	faulty.fs.read = faulty_read;
	return start_puppet(p, &faulty.fs);
}

static void stop_faulty(struct place *p)
{
	tally_ship_free(TAKE_PTR(p->ship));
	faulty.real.free(faulty.real.ctx);
}

static struct puppet *add_puppet(struct place *p, const char *name)
{
	struct puppet *puppet = new_puppet(name, eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));

	assert_int_equal(tally_ship_add(p->ship, &puppet->sink), 0);
	return puppet;
}

static void pass(struct place *p, int seconds)
{
	int wait_ms;

	for (int i = 0; i < seconds * 4; i++) {
		assert_int_equal(tally_ship_step(p->ship, &wait_ms), 0);
		puppet_ns += TALLY_NS_PER_S / 4;
	}
}

/* A batch that cannot be made for one sink is no reason to send nothing to another, which would free room. */
static void test_full_disk_does_not_starve_the_others(void **state)
{
	struct place *p = *state;
	struct puppet *a = start_faulty(p), *b = add_puppet(p, "other");

	b->silent = true;
	assert_int_equal(seal(p, 1, 2), 0);
	pass(p, 5);
	assert_int_equal(a->at.batch, 1);
	assert_int_equal(seal(p, 2, 2), 0);
	faulty.full = true;
	b->silent = false;
	answer(b, TALLY_SINK_OPENED);
	pass(p, 60);
	assert_int_equal(b->at.batch, 1);
	faulty.full = false;
	pass(p, 60);
	assert_int_equal(a->at.batch, 2);
	assert_int_equal(b->at.batch, 2);
	stop_faulty(p);
}

static void test_unreadable_batch_does_not_starve_the_others(void **state)
{
	struct place *p = *state;
	struct puppet *a = start_faulty(p), *b = add_puppet(p, "other");

	a->refuses = true;
	assert_int_equal(seal(p, 1, 2), 0);
	pass(p, 5);
	assert_int_equal(b->at.batch, 1);
	faulty.unreadable = "b1-"; /* only the first sink needs it still */
	a->refuses = false;
	for (__u64 n = 2; n < 5; n++) {
		assert_int_equal(seal(p, n, 2), 0);
		pass(p, 60);
		assert_int_equal(b->at.batch, n);
	}
	assert_int_equal(a->at.batch, 0);
	faulty.unreadable = NULL;
	pass(p, 60);
	assert_int_equal(a->at.batch, 4);
	stop_faulty(p);
}

/* A file that was moved, though the disk said it was not, is no longer waited for. */
static void test_half_done_quarantine_goes_on(void **state)
{
	struct place *p = *state;
	struct puppet *a = start_faulty(p);

	a->refuses = true;
	assert_int_equal(seal(p, 1, 2), 0);
	pass(p, 5);
	in_folder(p, "printf XX | dd of=$(ls batches/*) bs=1 seek=60 conv=notrunc 2>/dev/null");
	faulty.fails = 1;
	a->refuses = false;
	assert_int_equal(seal(p, 2, 2), 0);
	pass(p, 60);
	assert_int_equal(faulty.fails, 0);
	assert_int_equal(a->at.batch, 2);
	stop_faulty(p);
}

/* Nor is one that somebody took away. */
static void test_missing_batch_goes_on(void **state)
{
	struct place *p = *state;
	struct puppet *a = start_faulty(p);

	a->refuses = true;
	assert_int_equal(seal(p, 1, 2), 0);
	pass(p, 5);
	in_folder(p, "rm batches/*");
	a->refuses = false;
	assert_int_equal(seal(p, 2, 2), 0);
	pass(p, 60);
	assert_int_equal(a->at.batch, 2);
	stop_faulty(p);
}

/* A write that found no room leaves nothing in doubt: what waits is not read again for it. */
static void test_full_disk_is_not_read_again(void **state)
{
	enum { WAITING = 50 };
	struct place *p = *state;
	struct puppet *a = start_faulty(p);

	a->silent = true;
	for (__u64 n = 1; n <= WAITING; n++) {
		assert_int_equal(seal(p, n * 2, 2), 0); /* each behind a hole: none are merged */
		pass(p, 1);
	}
	faulty.full = true;
	a->silent = false;
	answer(a, TALLY_SINK_OPENED);
	pass(p, 1);
	faulty.reads = 0;
	pass(p, 120);
	assert_true(faulty.reads < WAITING); /* one for each try of a batch */
	stop_faulty(p);
}

/* One 256 KiB large; no if it cannot be made. */
static bool small_disk(const struct place *p)
{
	return unshare(CLONE_NEWNS) == 0 &&
	       mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
	       mount("tmpfs", p->folder, "tmpfs", 0, "size=256k") == 0;
}

static int seal_hour(struct place *p, __u64 number)
{
	struct tally_frozen_row rows[40];
	struct tally_totals totals;
	struct tally_frozen frozen;
	int r;

	for (__u16 i = 0; i < 40; i++)
		rows[i] = ledger_row(1, 1, 200 + i, number);
	frozen = ledger_epoch(number, rows, 40, &totals);
	frozen.start_ns = (LEDGER_START_S + number * 3600) * TALLY_NS_PER_S;
	frozen.end_ns = frozen.start_ns + 10 * TALLY_NS_PER_S;
	r = tally_ship_seal(p->ship, &frozen, &ledger_resolver);
	if (r == 0)
		tally_ship_released(p->ship);
	return r;
}

/* The disk that the spool filled is freed by shipping, and sealing goes on: twice, as the reserve comes back. */
static void test_disk_that_the_spool_filled_drains(void **state)
{
	struct tally_ship_status status;
	struct place *p = *state;
	struct puppet *a;
	__u64 n = 0;

	tally_ship_free(TAKE_PTR(p->ship));
	if (!small_disk(p)) {
		start(p);
		skip();
	}
	a = start_puppet(p, NULL);
	for (int i = 0; i < 2; i++) {
		a->silent = true;
		while (seal_hour(p, n + 1) == 0) {
			assert_true(++n < 1000);
			pass(p, 1);
		}
		tally_ship_status(p->ship, &status);
		assert_true(status.sealed_files > 10);
		a->silent = false;
		answer(a, i ? TALLY_SINK_SENT : TALLY_SINK_OPENED);
		pass(p, 600);
		assert_true(tally_ship_idle(p->ship));
		tally_ship_status(p->ship, &status);
		assert_int_equal(status.epoch_last, n);
		assert_int_equal(status.spool_bytes, 0);
		in_folder(p, "test -s reserve");
	}
	tally_ship_free(TAKE_PTR(p->ship));
	assert_int_equal(umount2(p->folder, MNT_DETACH), 0);
}

/* All of it or nothing: a sink that cannot come does not cost the one that was there. */
static void test_sinks_are_replaced_as_a_whole(void **state)
{
	struct place *p = *state;
	struct puppet *good = new_puppet("file", -1);
	struct puppet *bad = new_puppet("bad", open(p->folder, O_RDONLY | O_CLOEXEC));
	struct tally_sink *const fresh[] = { &good->sink, &bad->sink };
	const char *const old[] = { "file", "nobody" };
	struct tally_ship_change change = { old, 2, fresh, 2 };

	assert_int_equal(tally_ship_replace(p->ship, &change),
			 -EPERM); /* a folder: not for epoll */
	assert_int_equal(seal(p, 1, 2), 0);
	ship_all(p);
	check(p, 2, 1);
	assert_int_equal(good->opened, 0);
	change.n_old = 0;
	change.n_fresh = 1;
	assert_int_equal(tally_ship_replace(p->ship, &change), -EEXIST);
	change.n_old = 2;
	assert_int_equal(tally_ship_replace(p->ship, &change), 0);
	assert_int_equal(seal(p, 2, 2), 0);
	ship_all(p);
	assert_int_equal(good->at.batch, 2);
	assert_int_equal(records_in(p->path), 2);
	puppet_free(&bad->sink);
}

static void long_origin(void *ctx, __u32 id, struct tally_origin *ret_origin)
{
	static char text[70001];

	memset(text, 'a', sizeof(text) - 1);
	*ret_origin = (struct tally_origin){ "geo", text, NULL, NULL };
}

/* One row that no record has room for stops nothing: not itself, and not what comes after. */
static void test_a_long_origin_stops_nothing(void **state)
{
	struct tally_frozen_row row = ledger_row(1, 1, 200, 3);
	struct tally_resolver resolver = ledger_resolver;
	struct place *p = *state;
	struct tally_totals totals;
	struct tally_frozen frozen;

	resolver.origin = long_origin;
	row.key.origin = 1;
	frozen = ledger_epoch(1, &row, 1, &totals);
	assert_int_equal(tally_ship_seal(p->ship, &frozen, &resolver), 0);
	tally_ship_released(p->ship);
	assert_int_equal(seal(p, 2, 1), 0);
	ship_all(p);
	check(p, 5, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		TEST(test_epochs_arrive_in_the_file),
		TEST(test_a_long_origin_stops_nothing),
		TEST(test_idle_windows_have_a_control_record),
		TEST(test_sealing_again_changes_nothing),
		TEST(test_torn_tail_of_the_file_is_cut),
		TEST(test_old_state_cuts_nothing),
		TEST(test_first_line_begins_a_line),
		TEST(test_rotated_file_is_left_alone),
		TEST(test_output_torn_in_a_line),
		TEST(test_cut_file_goes_on_from_its_begin),
		TEST(test_strange_line_costs_none_of_ours),
		TEST(test_spool_has_a_cap),
		TEST(test_usage_has_the_last_room),
		TEST(test_pinned_epoch_is_not_batched),
		TEST(test_large_batch),
		TEST(test_optional_sink_is_not_waited_for),
		TEST(test_removed_sink_is_not_waited_for),
		TEST(test_sinks_come_and_go),
		TEST(test_sink_that_never_answers_is_given_up),
		TEST(test_opening_alone_does_not_end_the_back_off),
		TEST(test_closed_sink_does_not_keep_the_loop_awake),
		TEST(test_doubtful_folders_do_not_keep_the_loop_awake),
		TEST(test_sinks_are_replaced_as_a_whole),
		TEST(test_full_disk_does_not_starve_the_others),
		TEST(test_unreadable_batch_does_not_starve_the_others),
		TEST(test_half_done_quarantine_goes_on),
		TEST(test_missing_batch_goes_on),
		TEST(test_full_disk_is_not_read_again),
		TEST(test_disk_that_the_spool_filled_drains),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
