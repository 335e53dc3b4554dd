// SPDX-License-Identifier: Apache-2.0
/* The key catalog: what is refused and how it is said, times, lookups, changes, kfp_ ids. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "identify/catalog.h"

#define A "0000000000000000000000000000000000000000000000000000000000000001"
#define B "0000000000000000000000000000000000000000000000000000000000000002"

static int parse(const char *text, char *out, size_t bytes, struct tally_catalog **ret_catalog)
{
	struct tally_diag diag;
	FILE *stream = fmemopen(out, bytes, "w");
	int r;

	tally_diag_init(&diag, "F");
	r = tally_catalog_parse(text, strlen(text), &diag, ret_catalog);
	tally_diag_print(&diag, stream);
	fputc('\0', stream);
	fclose(stream);
	tally_diag_done(&diag);
	return r;
}

static const struct {
	const char *text, *diagnosis;
} faults[] = {
	{ "", "F: keys: missing\n" },
	{ "keys: 1", "F:1:7: keys: must be a list\n" },
	{ "keys:\n- {id: a, sha256: " A "}", "F:2:3: keys[0].customer: missing\n" },
	{ "keys:\n- {id: a, customer: b, sha256: " A ", key: sk_live}",
	  "F:2:98: keys[0].key: unknown key\n" },
	{ "keys:\n- {id: a, customer: b, sha256: sk_live_4242}",
	  "F:2:3: keys[0]: sha256 must be 64 hexadecimal digits: the hash of the key, not the key\n" },
	{ "keys:\n- {id: a, customer: b, sha256: " A "}\n- {id: a, customer: b, sha256: " B "}",
	  "F:3:3: keys[1]: id \"a\" is taken by line 2\n" },
	{ "keys:\n- {id: a, customer: b, sha256: " A "}\n- {id: c, customer: b, sha256: " A "}",
	  "F:3:3: keys[1]: sha256 is the one of line 2\n" },
	{ "keys:\n- {id: kfp_a, customer: b, sha256: " A "}",
	  "F:2:3: keys[0]: ids that begin with kfp_ are those of keys without an entry\n" },
	{ "keys:\n- {id: a, customer: b, sha256: " A ", mode: prod}",
	  "F:2:104: keys[0].mode: must be one of none, live, test\n" },
	{ "keys:\n- {id: a, customer: b, sha256: " A ", valid_from: 2026-02-30}",
	  "F:2:3: keys[0].valid_from: must be a time like 2026-01-31 or 2026-01-31T10:00:00Z\n" },
	{ "keys:\n- {id: a, customer: b, sha256: " A ", valid_to: 2026-02-03T1:00:00Z}",
	  "F:2:3: keys[0].valid_to: must be a time like 2026-01-31 or 2026-01-31T10:00:00Z\n" },
	{ "keys:\n- {id: a, customer: b, sha256: " A
	  ", valid_from: 2026-02-03, valid_to: 2026-02-03}",
	  "F:2:3: keys[0]: valid_to is not after valid_from\n" },
	{ "{\"keys\": [{\"id\": \"a\", \"customer\": 7, \"sha256\": \"x\"}]}",
	  "F:1:11: keys[0]: sha256 must be 64 hexadecimal digits: the hash of the key, not the key\n" },
};

static void test_faults(void **state)
{
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(faults); i++) {
		_cleanup_(tally_catalog_freep) struct tally_catalog *catalog = NULL;
		char out[2048];

		assert_int_equal(parse(faults[i].text, out, sizeof(out), &catalog), -EINVAL);
		assert_null(catalog);
		assert_string_equal(out, faults[i].diagnosis);
	}
}

static const struct tally_catalog_key *find(const struct tally_catalog *catalog, const char *hex,
					    int64_t time_s)
{
	uint8_t sha256[TALLY_CATALOG_SHA];

	assert_int_equal(tally_util_unhex(hex, sha256, sizeof(sha256)), 0);
	return tally_catalog_find(catalog, sha256, time_s);
}

static bool has(const struct tally_catalog *catalog, const char *hex)
{
	uint8_t sha256[TALLY_CATALOG_SHA];

	assert_int_equal(tally_util_unhex(hex, sha256, sizeof(sha256)), 0);
	return tally_catalog_has(catalog, sha256);
}

static void test_lookup(void **state)
{
	_cleanup_(tally_catalog_freep) struct tally_catalog *catalog = NULL;
	const struct tally_catalog_key *key;
	char out[2048];

	assert_int_equal(parse("keys:\n"
			       "- {id: a, customer: x, sha256: " A
			       ", mode: test, billable: false}\n"
			       "- {id: b, customer: y, sha256: " B ",\n"
			       "   valid_from: 2026-01-01, valid_to: 2026-01-01T03:00:00+01:30}\n",
			       out, sizeof(out), &catalog),
			 0);
	assert_int_equal(tally_catalog_count(catalog), 2);
	key = find(catalog, A, 0);
	assert_non_null(key);
	assert_string_equal(key->id, "a");
	assert_string_equal(key->customer, "x");
	assert_int_equal(key->mode, TALLY_CATALOG_MODE_TEST);
	assert_false(key->billable);
	assert_null(find(catalog, B, 1767225599)); /* 2025-12-31T23:59:59Z */
	assert_true(has(catalog, B) && has(catalog, A) && !has(NULL, A));
	assert_non_null(find(catalog, B, 1767225600));
	assert_true(find(catalog, B, 1767225600)->billable);
	assert_non_null(find(catalog, B, 1767225600 + 5399));
	assert_null(find(catalog, B, 1767225600 + 5400));
	assert_null(find(catalog,
			 "ff"
			 "00000000000000000000000000000000000000000000000000000000000000",
			 0));
	assert_null(find(NULL, A, 0));
}

/* Many keys, each found. */
static void test_many(void **state)
{
	_cleanup_(tally_catalog_freep) struct tally_catalog *catalog = NULL;
	_cleanup_free_ char *text = NULL;
	char out[2048], hex[65], id[16];
	size_t bytes = 0;
	FILE *file = open_memstream(&text, &bytes);

	fputs("keys:\n", file);
	for (int i = 0; i < 5000; i++)
		fprintf(file, "- {id: k%d, customer: c%d, sha256: %064x}\n", i, i % 7, i);
	assert_int_equal(fclose(file), 0);
	assert_int_equal(parse(text, out, sizeof(out), &catalog), 0);
	for (int i = 0; i < 5000; i++) {
		snprintf(hex, sizeof(hex), "%064x", i);
		snprintf(id, sizeof(id), "k%d", i);
		assert_string_equal(find(catalog, hex, 0)->id, id);
	}
}

static void test_reload(void **state)
{
	static const char one[] = "keys: [{id: a, customer: x, sha256: " A "}]\n";
	_cleanup_(tally_catalog_freep) struct tally_catalog *catalog = NULL;
	char dir[] = "/tmp/test_catalog.XXXXXX", path[64];
	struct tally_catalog *other = NULL;
	struct tally_diag diag;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/keys.yaml", dir);
	tally_diag_init(&diag, path);
	assert_int_equal(tally_catalog_load(path, &diag, &catalog), -ENOENT);
	assert_int_equal(diag.errors, 1);
	assert_int_equal(tally_util_write_file(path, one, strlen(one), 0600), 0);
	assert_int_equal(tally_catalog_load(path, &diag, &catalog), 0);
	assert_int_equal(tally_util_write_file(path, "keys: [", 7, 0600), 0);
	assert_int_equal(tally_catalog_load(path, &diag, &other), -EINVAL);
	assert_null(other);
	assert_non_null(find(catalog, A, 0));
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rmdir(dir), 0);
	tally_diag_done(&diag);
}

/* By an independent implementation: Python's hmac, hashlib and base64. */
static void test_kfp(void **state)
{
	static const char secret[] = "0123456789abcdef0123456789abcdef";
	uint8_t sha256[TALLY_CATALOG_SHA];
	char kfp[TALLY_CATALOG_KFP], hex[65];

	assert_int_equal(tally_catalog_sha256("demo-key-acme", 13, sha256), 0);
	tally_util_hex(sha256, sizeof(sha256), hex);
	assert_string_equal(hex,
			    "8649cdebee753898fd50e01408a9e438aa5090249bc3e51b65f33dce973b0873");
	assert_int_equal(tally_catalog_kfp(sha256, secret, strlen(secret), kfp), 0);
	assert_string_equal(kfp, "kfp_73ng7bsoe3xptklhqmtj");
}

/* Tests run in the root of the sources. */
static void test_example(void **state)
{
	_cleanup_(tally_catalog_freep) struct tally_catalog *catalog = NULL;
	uint8_t sha256[TALLY_CATALOG_SHA];
	struct tally_diag diag;

	tally_diag_init(&diag, "deploy/examples/keys.yaml");
	assert_int_equal(tally_catalog_load("deploy/examples/keys.yaml", &diag, &catalog), 0);
	assert_int_equal(tally_catalog_sha256("demo-key-globex", 15, sha256), 0);
	assert_string_equal(tally_catalog_find(catalog, sha256, 1767225600)->customer,
			    "cus_globex");
	tally_diag_done(&diag);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_faults), cmocka_unit_test(test_lookup),
		cmocka_unit_test(test_many),   cmocka_unit_test(test_reload),
		cmocka_unit_test(test_kfp),    cmocka_unit_test(test_example),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
