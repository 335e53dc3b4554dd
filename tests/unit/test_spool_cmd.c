/* SPDX-License-Identifier: Apache-2.0 */
/* tallyd spool, as a person calls it: chains between batches, one file in memory at a time, names of anybody. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>

#include "deliver/fs.h"
#include "libcommand.h"
#include "libledger.h"

#define AGENT "9f2c71d4a0b1"
#define ROWS 400000 /* of a large file: 40 MB in memory */
#define LARGE 6

/* What is freed is given back at once: memory is measured here. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "quarantine_size_mb=0:thread_local_quarantine_size_kb=0";
}

static struct tally_fs fs;

static int set_up(void **state)
{
	static const char *const folders[] = { "batches", "sealed", TALLY_QUARANTINE };

	command_open();
	assert_int_equal(tally_fs_open(command_dir, &fs), 0);
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(folders); i++)
		assert_int_equal(fs.mkdir(fs.ctx, folders[i]), 0);
	return 0;
}

static int tear_down(void **state)
{
	fs.free(fs.ctx);
	return command_close();
}

static void put_octets(const char *folder, const char *name, const void *data, size_t len)
{
	const struct tally_fs_file file = { folder, name, data, len };
	bool doubt;

	assert_int_equal(tally_fs_put(&fs, &file, &doubt), 0);
}

static void put_file(const char *folder, const char *name, enum tally_frame_kind kind,
		     const struct tally_buf *payload)
{
	_cleanup_(tally_buf_done) struct tally_buf file = { 0 };

	assert_int_equal(tally_frame_put(&file, kind, AGENT, payload->data, payload->len), 0);
	put_octets(folder, name, file.data, file.len);
}

static void name_of(__u64 number, char name[64])
{
	(void)snprintf(name, 64, "b%llu-s%llu-r1-e%llu-%llu", (unsigned long long)number,
		       (unsigned long long)number, (unsigned long long)number,
		       (unsigned long long)number);
}

/* Batch n of one record. chain is that of the batch before, and becomes its own. */
static void put_batch(__u64 number, __u32 incarnation, __u8 chain[TALLY_CHAIN])
{
	_cleanup_(tally_buf_done) struct tally_buf payload = { 0 };
	struct tally_batch_head head = { .agent = AGENT,
					 .incarnation = incarnation,
					 .number = number,
					 .seq_first = number,
					 .recorded_s = LEDGER_START_S + number };
	struct tally_frozen_row row = ledger_row(1, 1, 200, number);
	struct tally_totals totals;
	struct tally_frozen frozen = ledger_epoch(number, &row, 1, &totals);
	struct tally_batch *batch = NULL;
	struct tally_sealed sealed;
	char name[64];

	ledger_close(&frozen, &sealed);
	memcpy(head.prev_chain, chain, TALLY_CHAIN);
	assert_int_equal(tally_batch_new(&head, &sealed, &batch), 0);
	assert_int_equal(tally_batch_encode(batch, &payload), 0);
	name_of(number, name);
	put_file("batches", name, TALLY_FRAME_BATCH, &payload);
	memcpy(chain, batch->chain, TALLY_CHAIN);
	tally_batch_free(batch);
}

/* Batches 1 to 12: numbers are compared as numbers. */
static void put_batches(void)
{
	__u8 chain[TALLY_CHAIN] = { 0 };

	for (__u64 n = 1; n <= 12; n++)
		put_batch(n, 1, chain);
}

static int spool(const char *what)
{
	char words[128];

	(void)snprintf(words, sizeof(words), "spool %s -d %s", what, command_dir);
	return command_call(words, "");
}

static void verify(int code, const char *said)
{
	assert_int_equal(spool("verify"), code);
	if (!strstr(command_out, said))
		fail_msg("%s", command_out);
}

static void away(__u64 number, const char *folder, const char *prefix)
{
	char name[64], to[128];

	name_of(number, name);
	(void)snprintf(to, sizeof(to), "%s%s", prefix, name);
	assert_int_equal(fs.rename(fs.ctx, "batches", name, folder, to), 0);
}

/* One that is missing among others is told; what was sent and removed is none. */
static void test_missing_batch(void **state)
{
	put_batches();
	verify(0, "12 files, 0 damaged\n");
	away(1, ".", "");
	away(2, ".", "");
	verify(0, "10 files, 0 damaged\n");
	away(11, ".", "");
	verify(TALLY_EXIT_DIFFERS,
	       "batches/b12-s12-r1-e12-12: batch 11, which goes before it, is missing\n"
	       "9 files, 1 damaged\n");
}

/* What is in quarantine says so itself (spool ls), damaged or given up. */
static void test_batch_in_quarantine(void **state)
{
	put_batches();
	away(7, TALLY_QUARANTINE, "0badcafe-");
	verify(0, "12 files, 0 damaged\n");
	away(8, ".", "");
	verify(TALLY_EXIT_DIFFERS,
	       "batches/b9-s9-r1-e9-9: batch 8, which goes before it, is missing\n");
}

/* Each file is whole, and yet they are of two histories. Another incarnation begins anew. */
static void test_broken_chain(void **state)
{
	__u8 chain[TALLY_CHAIN] = { 0 }, other[TALLY_CHAIN] = { 1 };

	put_batch(1, 1, chain);
	put_batch(2, 1, other);
	put_batch(3, 1, other);
	verify(TALLY_EXIT_DIFFERS, "batches/b2-s2-r1-e2-2: not chained to batch 1\n"
				   "3 files, 1 damaged\n");
	put_batch(2, 2, other);
	put_batch(3, 2, other);
	verify(0, "3 files, 0 damaged\n");
}

/* Sealed files of many rows. */
static void put_large(void)
{
	_cleanup_(tally_buf_done) struct tally_buf payload = { 0 };
	struct tally_frozen_row row = ledger_row(1, 1, 200, 1);
	struct tally_totals totals;
	struct tally_frozen frozen = ledger_epoch(1, &row, 1, &totals);
	struct tally_sealed sealed;
	char name[64];

	ledger_close(&frozen, &sealed);
	for (size_t i = 1; i < ROWS; i++) {
		struct tally_sealed_row copy = sealed.rows[0];

		assert_int_equal(tally_sealed_add(&sealed, &copy), 0);
	}
	assert_int_equal(tally_sealed_encode(&sealed, &payload), 0);
	for (int i = 1; i <= LARGE; i++) {
		(void)snprintf(name, sizeof(name), "e%d-%d", i, i);
		put_file("sealed", name, TALLY_FRAME_SEALED, &payload);
	}
	tally_sealed_done(&sealed);
}

/* Memory of a command that reads LARGE files, or one small one beside them: less than what two, or one, hold. */
static void test_memory(void **state)
{
	static const char *const all[] = { "ls", "ls -o json", "verify" };
	static const char *const one[] = { "show b1-s1-r1-e1-1", "export b1-s1-r1-e1-1" };
	long file_kb = ROWS / 1024 * (long)sizeof(struct tally_sealed_row), least_kb;
	__u8 chain[TALLY_CHAIN] = { 0 };

	put_batch(1, 1, chain);
	assert_int_equal(spool("ls"), 0);
	least_kb = command_peak_kb;
	put_large();
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(all); i++) {
		assert_int_equal(spool(all[i]), 0);
		assert_in_range(command_peak_kb, 0, least_kb + 2 * file_kb);
	}
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(one); i++) {
		assert_int_equal(spool(one[i]), 0);
		assert_in_range(command_peak_kb, 0, least_kb + file_kb);
	}
}

/* batches, quarantine, sealed; numbers as numbers. JSON has what a table has. */
static void test_order(void **state)
{
	char last[32] = "";
	json_t *list, *file;
	size_t i;

	put_batches();
	away(2, TALLY_QUARANTINE, "0badcafe-");
	assert_int_equal(spool("ls -o json"), 0);
	list = json_loads(command_out, 0, NULL);
	assert_int_equal(json_array_size(list), 12);
	json_array_foreach(list, i, file) {
		const char *folder = json_string_value(json_object_get(file, "folder"));
		long long number = json_integer_value(json_object_get(file, "batch"));

		assert_true(strcmp(last, folder) <= 0);
		(void)snprintf(last, sizeof(last), "%s", folder);
		assert_int_equal(number, i == 11 ? 2 : i ? i + 2 : 1);
		assert_string_equal(json_string_value(json_object_get(file, "state")), "ok");
	}
	json_decref(list);
}

/* A name is anybody's: a table shows no control character of it, JSON leaves no file out. */
static void test_names(void **state)
{
	json_t *list;

	put_octets("sealed", "e1\033[2J\302\233m\xff", "x", 1);
	assert_int_equal(spool("ls"), 0);
	assert_non_null(strstr(command_out, "e1\357\277\275[2J\357\277\275m\357\277\275 "));
	verify(TALLY_EXIT_DIFFERS, "sealed/e1\357\277\275[2J\357\277\275m\357\277\275: damaged\n");
	assert_int_equal(spool("ls -o json"), 0);
	list = json_loads(command_out, 0, NULL);
	assert_int_equal(json_array_size(list), 1);
	json_decref(list);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		TEST(test_missing_batch), TEST(test_batch_in_quarantine),
		TEST(test_broken_chain),  TEST(test_memory),
		TEST(test_order),	  TEST(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
