// SPDX-License-Identifier: Apache-2.0
/* A ruleset as the accounting reads it: who is charged what, and what its id depends on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "identify/rules.h"

#define HEAD "sinks: [{stdout: }]\nservices:\n"
#define API                                                                           \
	"- name: api\n"                                                               \
	"  match: {ports: 1}\n"                                                       \
	"  key: [{header: X-Key}]\n"                                                  \
	"  tainted: owner\n"                                                          \
	"  routes:\n"                                                                 \
	"  - {match: GET /a, credits: 0.25, billable: {4xx: true, \"404\": false}}\n" \
	"  - {match: GET /b, health: true, credits: 3}\n"                             \
	"  - {match: GET /c, truncated: unbillable, auth: none}\n"
#define OPEN                              \
	"- name: open\n"                  \
	"  match: {ports: 2}\n"           \
	"  tainted: unattributed\n"       \
	"  anonymous: {billable: true}\n" \
	"  routes: [{match: LOCK /z}]\n"

static struct tally_config *load(const char *text)
{
	struct tally_config *config = NULL;
	struct tally_diag diag;

	tally_diag_init(&diag, "F");
	if (tally_config_parse(text, strlen(text), 0, &diag, &config) < 0)
		tally_diag_print(&diag, stderr);
	assert_non_null(config);
	assert_int_equal(tally_rules_check(config, &diag), 0);
	tally_diag_done(&diag);
	return config;
}

static struct tally_ruleset_view *view_of(const char *text, const uint16_t *indices)
{
	_cleanup_(tally_config_freep) struct tally_config *config = load(text);
	struct tally_ruleset_view *view = NULL;
	_cleanup_free_ char *json = NULL;

	assert_int_equal(tally_rules_dump(config, indices, &json), 0);
	assert_int_equal(tally_ruleset_load(json, strlen(json), &view), 0);
	return view;
}

enum { OTHER, A, B, C }; /* routes by index: sorted by template */
#define GET 1

static const struct {
	uint16_t route, status;
	uint8_t attribution;
	bool billable;
} verdicts[] = {
	{ A, 200, TALLY_ATTR_KEY, true },      { A, 101, TALLY_ATTR_KEY, true },
	{ A, 304, TALLY_ATTR_KEY, true },      { A, 400, TALLY_ATTR_KEY, true },
	{ A, 404, TALLY_ATTR_KEY, false },     { A, 500, TALLY_ATTR_KEY, false },
	{ A, 0, TALLY_ATTR_KEY, false },       { A, 100, TALLY_ATTR_KEY, false },
	{ A, 999, TALLY_ATTR_KEY, false },     { A, 200, TALLY_ATTR_ANONYMOUS, false },
	{ A, 200, TALLY_ATTR_TAINTED, false }, { A, 200, TALLY_ATTR_DICTIONARY_FULL, false },
	{ B, 200, TALLY_ATTR_KEY, false },     { C, 200, TALLY_ATTR_KEY, true },
	{ C, 404, TALLY_ATTR_KEY, false },     { OTHER, 200, TALLY_ATTR_KEY, true },
	{ OTHER, 429, TALLY_ATTR_KEY, false },
};

static void test_billable(void **state)
{
	_cleanup_(tally_ruleset_freep) struct tally_ruleset_view *view =
		view_of(HEAD API OPEN, NULL);
	struct tally_ruleset_terms terms;

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(verdicts); i++) {
		struct tally_ruleset_query query = { 0, verdicts[i].route, verdicts[i].status, GET,
						     verdicts[i].attribution };

		assert_int_equal(tally_ruleset_terms(view, &query, &terms), 0);
		if (terms.billable != verdicts[i].billable)
			fail_msg("case %zu", i);
	}
}

static void test_names(void **state)
{
	_cleanup_(tally_ruleset_freep) struct tally_ruleset_view *view =
		view_of(HEAD API OPEN, NULL);
	struct tally_ruleset_query query = { 0, A, 200, GET, TALLY_ATTR_KEY };
	struct tally_ruleset_terms terms;

	assert_int_equal(tally_ruleset_terms(view, &query, &terms), 0);
	assert_string_equal(terms.service, "api");
	assert_string_equal(terms.route, "/a");
	assert_string_equal(terms.method, "GET");
	assert_string_equal(terms.ruleset, tally_ruleset_id(view));
	assert_int_equal(terms.n_units, 2);
	assert_string_equal(terms.units[0].name, "requests");
	assert_int_equal(terms.units[0].amount, TALLY_OPTION_DECIMAL);
	assert_string_equal(terms.units[1].name, "credits");
	assert_int_equal(terms.units[1].amount, TALLY_OPTION_DECIMAL / 4);
	query = (struct tally_ruleset_query){ 1, 0, 200, 0, TALLY_ATTR_ANONYMOUS };
	assert_int_equal(tally_ruleset_terms(view, &query, &terms), 0);
	assert_string_equal(terms.route, "_other");
	assert_string_equal(terms.method, "_other");
	assert_int_equal(terms.units[1].amount, 0);
	assert_true(terms.billable); /* anonymous, but the service says so */
	query.method = 10;	     /* behind the fixed ones: LOCK */
	assert_int_equal(tally_ruleset_terms(view, &query, &terms), 0);
	assert_string_equal(terms.method, "LOCK");
	query.method = 11;
	assert_int_equal(tally_ruleset_terms(view, &query, &terms), -ENOENT);
	query = (struct tally_ruleset_query){ 0, 4, 200, 0, TALLY_ATTR_KEY };
	assert_int_equal(tally_ruleset_terms(view, &query, &terms), -ENOENT);
	query = (struct tally_ruleset_query){ 2, 0, 200, 0, TALLY_ATTR_KEY };
	assert_int_equal(tally_ruleset_terms(view, &query, &terms), -ENOENT);
	query.service = 65535;
	assert_int_equal(tally_ruleset_terms(view, &query, &terms), -ENOENT);
	assert_null(tally_ruleset_service(view, 2));
}

static void test_charge(void **state)
{
	_cleanup_(tally_ruleset_freep) struct tally_ruleset_view *view =
		view_of(HEAD API OPEN, NULL);
	struct tally_ruleset_query query = { 0, A, 200, GET, TALLY_ATTR_KEY };
	struct tally_ruleset_charge charge;

	assert_int_equal(tally_ruleset_charge(view, &query, 10, 3, &charge), 0);
	assert_true(charge.billable);
	assert_int_equal(charge.requests, 10);
	query.route = C;
	assert_int_equal(tally_ruleset_charge(view, &query, 10, 3, &charge), 0);
	assert_int_equal(charge.requests, 7);
	query.route = B;
	assert_int_equal(tally_ruleset_charge(view, &query, 10, 3, &charge), 0);
	assert_false(charge.billable);
	assert_int_equal(charge.requests, 0);
}

/* Indices as the kernel has them; a place may be empty. */
static void test_indices(void **state)
{
	static const uint16_t indices[] = { 5, 0 };
	_cleanup_(tally_ruleset_freep) struct tally_ruleset_view *view =
		view_of(HEAD API OPEN, indices);

	assert_string_equal(tally_ruleset_service(view, 0), "open");
	assert_null(tally_ruleset_service(view, 1));
	assert_string_equal(tally_ruleset_service(view, 5), "api");
}

static void id_of(const char *text, const uint16_t *indices, char id[TALLY_RULESET_ID])
{
	_cleanup_(tally_ruleset_freep) struct tally_ruleset_view *view = view_of(text, indices);

	snprintf(id, TALLY_RULESET_ID, "%s", tally_ruleset_id(view));
	assert_int_equal(strlen(id), 15);
	assert_int_equal(strncmp(id, "sha256:", 7), 0);
}

static void test_id(void **state)
{
	static const uint16_t indices[] = { 5, 0 };
	char id[TALLY_RULESET_ID], other[TALLY_RULESET_ID];

	id_of(HEAD API OPEN, NULL, id);
	/* order, indices, ports, spelling: the same ruleset */
	id_of(HEAD OPEN API, NULL, other);
	assert_string_equal(id, other);
	id_of(HEAD API OPEN, indices, other);
	assert_string_equal(id, other);
	id_of(HEAD
	      "- {name: a, match: {ports: 1}, tainted: owner, key: [{header: X-A}], routes: [{match: /%7e}, {match: /b}]}\n",
	      NULL, id);
	id_of(HEAD
	      "- {name: a, match: {ports: [7]}, tainted: owner, key: [{header: x-a}], routes: [{match: /b, credits: 0}, {match: /~}]}\n",
	      NULL, other);
	assert_string_equal(id, other);
	/* how slashes are read, a price, a rule, a key source: another one */
	id_of(HEAD
	      "- {name: a, match: {ports: 1}, tainted: owner, paths: {decode_slash: false}, key: [{header: X-A}], routes: [{match: /~}, {match: /b}]}\n",
	      NULL, other);
	assert_string_not_equal(id, other);
	id_of(HEAD
	      "- {name: a, match: {ports: 1}, tainted: owner, paths: {merge_slashes: false}, key: [{header: X-A}], routes: [{match: /~}, {match: /b}]}\n",
	      NULL, other);
	assert_string_not_equal(id, other);
	id_of(HEAD
	      "- {name: a, match: {ports: 1}, tainted: owner, key: [{header: X-A}], routes: [{match: /~, credits: 1}, {match: /b}]}\n",
	      NULL, other);
	assert_string_not_equal(id, other);
	id_of(HEAD
	      "- {name: a, match: {ports: 1}, tainted: owner, key: [{header: X-B}], routes: [{match: /~}, {match: /b}]}\n",
	      NULL, other);
	assert_string_not_equal(id, other);
}

/* The id is in records and on disk: a change of the canonical form must be seen. */
static void test_id_golden(void **state)
{
	_cleanup_(tally_config_freep) struct tally_config *config = load(HEAD API OPEN);
	_cleanup_free_ char *json = NULL;

	assert_int_equal(tally_rules_dump(config, NULL, &json), 0);
	assert_string_equal(
		json,
		"{\"id\":\"sha256:cc1dfd0d\",\"indices\":[\"api\",\"open\"],\"services\":{"
		"\"api\":{\"decode_slash\":true,\"key\":[{\"header\":\"x-key\"}],\"merge_slashes\":true,\"routes\":["
		"{\"billable\":{\"404\":false,\"4xx\":true},\"credits\":\"0.25\",\"method\":\"GET\",\"template\":\"/a\"},"
		"{\"credits\":\"3\",\"health\":true,\"method\":\"GET\",\"template\":\"/b\"},"
		"{\"auth\":\"none\",\"method\":\"GET\",\"template\":\"/c\",\"truncated\":\"unbillable\"}],"
		"\"tainted\":\"owner\"},"
		"\"open\":{\"anonymous_billable\":true,\"decode_slash\":true,\"key\":[],\"merge_slashes\":true,\"routes\":[{\"method\":\"LOCK\",\"template\":\"/z\"}]}}}");
}

static void test_not_a_ruleset(void **state)
{
	static const char *const texts[] = {
		"",
		"[]",
		"{}",
		"{\"id\":\"x\",\"services\":{},\"indices\":{}}",
		"{\"id\":\"x\",\"services\":{},\"indices\":[\"a\"]}",
		"{\"id\":\"x\",\"services\":{},\"indices\":[1]}",
		"{\"id\":\"01234567890123456\",\"services\":{},\"indices\":[]}",
		"{\"id\":\"x\",\"services\":{\"a\":{}},\"indices\":[\"a\"]}",
		"{\"id\":\"x\",\"services\":{\"a\":{\"routes\":[{}]}},\"indices\":[\"a\"]}",
		"{\"id\":\"x\",\"services\":{\"a\":{\"routes\":[{\"template\":\"x\"}]}},\"indices\":[\"a\"]}",
		"{\"id\":\"x\",\"services\":{\"a\":{\"routes\":[{\"template\":\"/\",\"credits\":\"-1\"}]}},\"indices\":[\"a\"]}",
		"{\"id\":\"x\",\"services\":{\"a\":{\"routes\":[{\"template\":\"/\",\"billable\":{\"9\":true}}]}},\"indices\":[\"a\"]}",
		"{\"id\":\"x\",\"services\":{\"a\":{\"routes\":[{\"template\":\"/\",\"billable\":[]}]}},\"indices\":[\"a\"]}",
	};

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(texts); i++) {
		struct tally_ruleset_view *view = NULL;
		int r = tally_ruleset_load(texts[i], strlen(texts[i]), &view);

		if (r != -EINVAL)
			fail_msg("%s: %d", texts[i], r);
		assert_null(view);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_billable),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_charge),
		cmocka_unit_test(test_indices),
		cmocka_unit_test(test_id),
		cmocka_unit_test(test_id_golden),
		cmocka_unit_test(test_not_a_ruleset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
