// SPDX-License-Identifier: Apache-2.0
/* util, log, loop, option texts, the ruleset as the accounting reads it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <time.h>

#include "base/log.h"
#include "base/loop.h"
#include "base/option.h"
#include "base/text.h"

/* util ------------------------------------------------------------------------------------------ */

static size_t count_files(const char *dir)
{
	_cleanup_closedir_ DIR *d = opendir(dir);
	size_t n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	return n - 2;
}

static void test_write_file(void **state)
{
	char dir[] = "/tmp/test_base.XXXXXX", path[64], deep[64];
	_cleanup_free_ char *data = NULL;
	size_t bytes = 0;
	struct stat st;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/f", dir);
	assert_int_equal(tally_util_write_file(path, "one", 3, 0640), 0);
	assert_int_equal(tally_util_write_file(path, "twice", 5, 0600), 0);
	assert_int_equal(tally_util_read_file(path, 5, &data, &bytes), 0);
	assert_int_equal(bytes, 5);
	assert_string_equal(data, "twice");
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(count_files(dir), 1);
	free(TAKE_PTR(data));
	assert_int_equal(tally_util_read_file(path, 4, &data, &bytes), -EFBIG);
	assert_null(data);
	snprintf(deep, sizeof(deep), "%s/a/b", dir);
	assert_int_equal(tally_util_write_file(deep, "x", 1, 0600), -ENOENT);
	assert_int_equal(tally_util_mkdirs(deep, 0700), 0);
	assert_int_equal(tally_util_mkdirs(deep, 0700), 0);
	assert_int_equal(tally_util_mkdirs(path, 0700), -ENOTDIR);
	/* a folder in the place of the file: the old one stays, no temporary file is left */
	assert_int_equal(tally_util_write_file(deep, "x", 1, 0600), -EISDIR);
	assert_int_equal(count_files(dir), 2);
	assert_int_equal(rmdir(deep), 0);
	*strrchr(deep, '/') = '\0';
	assert_int_equal(count_files(deep), 0);
	assert_int_equal(rmdir(deep) | unlink(path) | rmdir(dir), 0);
}

static void test_texts(void **state)
{
	static const char *const list[] = { "credits", "match", "check-config", "top", NULL };
	unsigned char data[3];
	char text[7];
	uint64_t v;

	assert_int_equal(tally_util_unhex("00fFa1", data, 3), 0);
	tally_util_hex(data, 3, text);
	assert_string_equal(text, "00ffa1");
	assert_int_equal(tally_util_unhex("00ffa", data, 3), -EINVAL);
	assert_int_equal(tally_util_unhex("00ffg1", data, 3), -EINVAL);
	assert_int_equal(tally_util_parse_u64("18446744073709551615", UINT64_MAX, &v), 0);
	assert_int_equal(tally_util_parse_u64("18446744073709551616", UINT64_MAX, &v), -ERANGE);
	assert_int_equal(tally_util_parse_u64("+1", 10, &v), -EINVAL);
	assert_int_equal(tally_util_parse_u64("", 10, &v), -EINVAL);
	assert_string_equal(tally_util_nearest("credit", list), "credits");
	assert_string_equal(tally_util_nearest("cerdits", list), "credits");
	assert_string_equal(tally_util_nearest("chekc", list), "check-config");
	assert_string_equal(tally_util_nearest("tpo", list), "top");
	assert_null(tally_util_nearest("window", list));
	assert_null(tally_util_nearest("", list));
}

static void test_option_texts(void **state)
{
	uint64_t v;

	assert_int_equal(tally_option_duration("1h2m3s4ms5us6ns", &v), 0);
	assert_int_equal(v, 3723004005006ULL);
	assert_int_equal(tally_option_duration("0", &v), 0);
	assert_int_equal(v, 0);
	assert_int_equal(tally_option_duration("", &v), -EINVAL);
	assert_int_equal(tally_option_duration("10", &v), -EINVAL);
	assert_int_equal(tally_option_duration("s", &v), -EINVAL);
	assert_int_equal(tally_option_duration("1 s", &v), -EINVAL);
	assert_int_equal(tally_option_duration("6000000h", &v), -ERANGE);
	assert_int_equal(tally_option_decimal("0.000000001", &v), 0);
	assert_int_equal(v, 1);
	assert_int_equal(tally_option_decimal("18446744073.709551615", &v), 0);
	assert_int_equal(v, UINT64_MAX);
	assert_int_equal(tally_option_decimal("18446744073.709551616", &v), -ERANGE);
	assert_int_equal(tally_option_decimal("0.0000000001", &v), -ERANGE);
	assert_int_equal(tally_option_decimal(".5", &v), -EINVAL);
	assert_int_equal(tally_option_decimal("5.", &v), -EINVAL);
	assert_int_equal(tally_option_decimal("1.2.3", &v), -EINVAL);
	assert_int_equal(tally_option_decimal("", &v), -EINVAL);
}

/* log ------------------------------------------------------------------------------------------- */

/* What a function writes to stderr, which is a pipe meanwhile. */
static char *captured(void (*write_log)(void), bool journal)
{
	int saved = dup(STDERR_FILENO), pipes[2];
	size_t bytes = 0;
	char *text = NULL, name[64];
	struct stat st;

	assert_int_equal(pipe(pipes), 0);
	assert_int_equal(dup2(pipes[1], STDERR_FILENO), STDERR_FILENO);
	assert_int_equal(fstat(STDERR_FILENO, &st), 0);
	snprintf(name, sizeof(name), "%llu:%llu", (unsigned long long)st.st_dev,
		 (unsigned long long)st.st_ino);
	assert_int_equal(setenv("JOURNAL_STREAM", journal ? name : "1:1", 1), 0);
	write_log();
	assert_int_equal(dup2(saved, STDERR_FILENO), STDERR_FILENO);
	close(saved);
	close(pipes[1]);
	assert_int_equal(tally_util_read_fd(pipes[0], 65536, &text, &bytes), 0);
	close(pipes[0]);
	assert_int_equal(unsetenv("JOURNAL_STREAM"), 0);
	return text;
}

static void log_lines(void)
{
	tally_log_setup(TALLY_LOG_INFO, TALLY_LOG_AUTO);
	tally_log_warning("sink_failed", "sink=%s error=%s attempts=%u", "kafka", "no way \"out\"",
			  3);
	tally_log_debug("not_shown", "x=%d", 1);
	tally_log_error("bad", "value=%s empty=%s", "a\nb=c", "");
}

static void test_log_journal(void **state)
{
	_cleanup_free_ char *text = captured(log_lines, true);

	assert_string_equal(
		text, "<4>warning sink_failed sink=kafka error=\"no way \\\"out\\\"\" attempts=3\n"
		      "<3>error bad value=\"a\\x0ab=c\" empty=\"\"\n");
}

static void test_log_text(void **state)
{
	_cleanup_free_ char *text = captured(log_lines, false);

	/* 2026-01-31T10:00:00.000Z warning sink_failed ... */
	assert_int_equal(strspn(text, "0123456789-:.TZ"), 24);
	assert_int_equal(strncmp(text + 24, " warning sink_failed sink=kafka ", 32), 0);
}

static void log_json(void)
{
	tally_log_setup(TALLY_LOG_INFO, TALLY_LOG_JSON);
	tally_log_info("started", "path=%s bytes=%s", "/a b", "\xff");
	tally_log_setup(TALLY_LOG_INFO, TALLY_LOG_AUTO);
}

static void test_log_json(void **state)
{
	_cleanup_free_ char *text = captured(log_json, false);
	json_t *line = json_loads(text, 0, NULL);

	assert_non_null(line);
	assert_string_equal(json_string_value(json_object_get(line, "event")), "started");
	assert_string_equal(json_string_value(json_object_get(line, "level")), "info");
	assert_string_equal(json_string_value(json_object_get(line, "path")), "/a b");
	assert_string_equal(json_string_value(json_object_get(line, "bytes")), "?");
	json_decref(line);
}

static void log_often(void)
{
	tally_log_setup(TALLY_LOG_INFO, TALLY_LOG_AUTO);
	for (int i = 0; i < 1000; i++)
		tally_log_error("again", "n=%d", i);
	for (int i = 0; i < 3; i++)
		tally_log_once(TALLY_LOG_ERROR, "only", "n=%d", i);
}

static void test_log_rate(void **state)
{
	_cleanup_free_ char *text = captured(log_often, true);
	size_t lines = 0;

	for (const char *p = text; (p = strchr(p, '\n')); p++)
		lines++;
	assert_int_equal(lines, TALLY_LOG_BURST + 1);
	assert_non_null(strstr(text, "only n=0\n"));
	assert_null(strstr(text, "only n=1\n"));
}

/* loop ------------------------------------------------------------------------------------------ */

struct witness {
	struct tally_loop *loop;
	struct tally_loop_source *other;
	int calls;
	uint64_t value;
};

static int count_and_quit(void *ctx, uint32_t events, uint64_t value)
{
	struct witness *w = ctx;

	w->calls++;
	w->value = value;
	tally_loop_quit(w->loop, 17);
	return 0;
}

static int fail_call(void *ctx, uint32_t events, uint64_t value)
{
	return -EPROTO;
}

static void test_loop_timer(void **state)
{
	_cleanup_(tally_loop_freep) struct tally_loop *loop = NULL;
	struct tally_loop_source *timer = NULL;
	struct witness w = {};

	assert_int_equal(tally_loop_new(&loop), 0);
	w.loop = loop;
	assert_int_equal(tally_loop_add_timer(loop, CLOCK_MONOTONIC, count_and_quit, &w, &timer),
			 0);
	assert_int_equal(tally_loop_turn(loop, 0), 0);
	assert_int_equal(tally_loop_set_timer(timer, tally_util_mono_ns() + 1000000, 0), 0);
	assert_int_equal(tally_loop_run(loop), 17);
	assert_int_equal(w.calls, 1);
	assert_int_equal(w.value, 1);
	/* in the past: at once */
	assert_int_equal(tally_loop_set_timer(timer, 1, 0), 0);
	assert_int_equal(tally_loop_run(loop), 17);
	assert_int_equal(w.calls, 2);
}

static void test_loop_signal(void **state)
{
	static const int signals[] = { SIGUSR1, SIGUSR2, 0 };
	_cleanup_(tally_loop_freep) struct tally_loop *loop = NULL;
	struct tally_loop_source *source = NULL;
	struct witness w = {};
	sigset_t blocked;

	assert_int_equal(tally_loop_new(&loop), 0);
	w.loop = loop;
	assert_int_equal(tally_loop_add_signals(loop, signals, count_and_quit, &w, &source), 0);
	assert_int_equal(raise(SIGUSR2), 0);
	assert_int_equal(tally_loop_run(loop), 17);
	assert_int_equal(w.value, SIGUSR2);
	tally_loop_remove(source);
	assert_int_equal(sigprocmask(SIG_BLOCK, NULL, &blocked), 0);
	assert_false(sigismember(&blocked, SIGUSR1));
}

/* Of two ready sources each removes the other: only one is called, and nothing is used after free. */
static int remove_other(void *ctx, uint32_t events, uint64_t value)
{
	struct witness *w = ctx;

	w->calls++;
	tally_loop_remove(TAKE_PTR(w->other));
	return 0;
}

static void test_loop_remove(void **state)
{
	_cleanup_(tally_loop_freep) struct tally_loop *loop = NULL;
	struct tally_loop_source *first = NULL, *second = NULL;
	struct witness a = {}, b = {};
	int pipes[2];

	assert_int_equal(tally_loop_new(&loop), 0);
	assert_int_equal(pipe(pipes), 0);
	assert_int_equal(tally_loop_add_fd(loop, pipes[0], EPOLLIN, remove_other, &a, &first), 0);
	assert_int_equal(tally_loop_add_fd(loop, pipes[1], EPOLLOUT, remove_other, &b, &second), 0);
	a.other = second;
	b.other = first;
	assert_int_equal(write(pipes[1], "x", 1), 1);
	assert_true(tally_loop_turn(loop, -1) > 0);
	assert_int_equal(a.calls + b.calls, 1);
	assert_true(tally_loop_turn(loop, 0) > 0);
	assert_int_equal(a.calls + b.calls, 2);
	close(pipes[0]);
	close(pipes[1]);
}

static void test_loop_failure(void **state)
{
	_cleanup_(tally_loop_freep) struct tally_loop *loop = NULL;
	struct tally_loop_source *timer = NULL;

	assert_int_equal(tally_loop_new(&loop), 0);
	assert_int_equal(tally_loop_add_timer(loop, CLOCK_REALTIME, fail_call, NULL, &timer), 0);
	assert_int_equal(tally_loop_set_timer(timer, 1, 0), 0);
	assert_int_equal(tally_loop_run(loop), -EPROTO);
}

/* text ------------------------------------------------------------------------------------------ */

#define R "\357\277\275" /* U+FFFD */

/* C0, DEL, C1, octets that are no UTF-8: too long, a surrogate, above U+10FFFF, alone, cut off. */
static const struct {
	const char *text, *clean, *plain;
} others[] = {
	{ "", "", "" },
	{ "/v1/\303\251\342\202\254\360\237\230\200 ~",
	  "/v1/\303\251\342\202\254\360\237\230\200 ~",
	  "/v1/\303\251\342\202\254\360\237\230\200 ~" },
	{ "\033[2J\n\r\t\001\037\177", "\033[2J\n\r\t\001\037\177", R "[2J" R R R R R R },
	{ "\302\200\302\233\302\237\302\240", "\302\200\302\233\302\237\302\240",
	  R R R "\302\240" },
	{ "\233a\300\257b", R "a" R R "b", R "a" R R "b" },
	{ "\355\240\200", R R R, R R R },
	{ "\364\220\200\200", R R R R, R R R R },
	{ "a\342\202", "a" R R, "a" R R },
	/* U+202E turns the line, U+2066 isolates, U+200B and U+FEFF are not seen, U+E0041 is a tag */
	{ "a\342\200\256b\342\201\246", "a\342\200\256b\342\201\246", "a" R "b" R },
	{ "\342\200\213\357\273\277\363\240\201\201", "\342\200\213\357\273\277\363\240\201\201",
	  R R R },
};

static void test_texts_of_others(void **state)
{
	char out[64], few[8];

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(others); i++) {
		assert_string_equal(tally_text_clean(others[i].text, out, sizeof(out)),
				    others[i].clean);
		assert_string_equal(tally_text_plain(others[i].text, out, sizeof(out)),
				    others[i].plain);
	}
	assert_string_equal(tally_text_plain("123456\303\251", few, sizeof(few)), "123456");
	assert_string_equal(tally_text_plain("12345\303\251", few, sizeof(few)), "12345\303\251");
	assert_string_equal(tally_text_plain("12345\001", few, sizeof(few)), "12345");
}

static void test_cells(void **state)
{
	char out[64];

	assert_string_equal(tally_text_cell("", 3, out, sizeof(out)), "   ");
	assert_string_equal(tally_text_cell("\303\251", 3, out, sizeof(out)), "\303\251  ");
	assert_string_equal(tally_text_cell("\n", 2, out, sizeof(out)), R " ");
	assert_string_equal(tally_text_cell("abcdef", 6, out, sizeof(out)), "abcdef");
	assert_string_equal(tally_text_cell("abcdefg", 6, out, sizeof(out)), "a~defg");
	assert_string_equal(
		tally_text_cell("\303\251\303\251\303\251\303\251\303\251", 4, out, sizeof(out)),
		"\303\251~\303\251\303\251");
	assert_string_equal(tally_text_cell("ab", 1, out, sizeof(out)), "~");
}

#define WIDE "\345\256\242" /* U+5BA2, two columns */
#define ACUTE "\314\201"    /* U+0301, with the character before it */

static void test_cells_of_wide_characters(void **state)
{
	char out[64];

	assert_string_equal(tally_text_cell(WIDE, 3, out, sizeof(out)), WIDE " ");
	assert_string_equal(tally_text_cell(WIDE WIDE, 4, out, sizeof(out)), WIDE WIDE);
	assert_string_equal(tally_text_cell(WIDE WIDE WIDE, 5, out, sizeof(out)), "~" WIDE WIDE);
	assert_string_equal(tally_text_cell(WIDE "abcdefgh", 8, out, sizeof(out)), WIDE "~defgh");
	assert_string_equal(tally_text_cell("abc" WIDE WIDE WIDE, 8, out, sizeof(out)),
			    "ab~" WIDE WIDE " ");
	assert_string_equal(tally_text_cell("e" ACUTE, 2, out, sizeof(out)), "e" ACUTE " ");
	assert_string_equal(tally_text_cell("abcde" ACUTE "f", 3, out, sizeof(out)),
			    "~e" ACUTE "f");
	assert_string_equal(tally_text_cell("abcde" ACUTE "f", 2, out, sizeof(out)), "~f");
	assert_string_equal(tally_text_cell(WIDE WIDE, 1, out, sizeof(out)), "~");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_write_file),
		cmocka_unit_test(test_texts),
		cmocka_unit_test(test_option_texts),
		cmocka_unit_test(test_log_journal),
		cmocka_unit_test(test_log_text),
		cmocka_unit_test(test_log_json),
		cmocka_unit_test(test_log_rate),
		cmocka_unit_test(test_loop_timer),
		cmocka_unit_test(test_loop_signal),
		cmocka_unit_test(test_loop_remove),
		cmocka_unit_test(test_loop_failure),
		cmocka_unit_test(test_texts_of_others),
		cmocka_unit_test(test_cells),
		cmocka_unit_test(test_cells_of_wide_characters),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
