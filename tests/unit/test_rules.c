// SPDX-License-Identifier: Apache-2.0
/*
 * Routes: the compiled automaton against a matcher that tries every template (model-based), the
 * order of precedence by examples, the caps, the kernel's form of key sources.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "identify/route.h"
#include "identify/rules.h"
#include "tally/hash.h"

/* What the kernel does with a struct tally_rules (bpf/engine/h1.h, route_next). ----------------- */

static uint16_t rules_next(const struct tally_rules *rules, uint16_t state, uint64_t hash)
{
	uint32_t slot = (uint32_t)(hash ^ state * TALLY_EDGE_MIX);

	for (uint32_t i = 0; i < TALLY_EDGE_PROBES; i++) {
		const struct tally_edge *e = &rules->edges[(slot + i) & (TALLY_ROUTE_EDGES - 1)];

		if (e->state == state && e->hash == hash)
			return e->next;
		if (!e->state)
			break;
	}
	return rules->other[state];
}

static uint8_t rules_method(const struct tally_rules *rules, const char *method)
{
	size_t n = strlen(method);

	for (uint8_t i = 1; n && n <= 8 && i < TALLY_METHODS; i++)
		if (rules->method[i] == tally_load((const __u8 *)method, (__u32)n))
			return i;
	return 0;
}

/* path: normalised already; "*": the asterisk form. */
static uint16_t rules_route(const struct tally_rules *rules, const char *method, const char *path)
{
	uint16_t state = 1;

	if (strcmp(path, "*") == 0) {
		state = rules_next(rules, state, tally_text_hash("\0*", 2, rules->secret));
		path = NULL;
	}
	while (path) {
		const char *begin = path + 1, *end = strchr(begin, '/');
		size_t n = end ? (size_t)(end - begin) : strlen(begin);

		state = rules_next(rules, state, tally_text_hash(begin, (__u32)n, rules->secret));
		path = end;
	}
	return rules->accept[state][rules_method(rules, method)];
}

/* Services made by hand ------------------------------------------------------------------------ */

struct fixture {
	struct tally_config_service service;
	struct tally_config config;
	struct tally_rules *rules;
	const char **order; /* match text by route index */
};

static const struct tally_rules_target target = { .generation = 7,
						  .service = 3,
						  .secret = { 0x0123456789abcdef, 0xfedcba98 } };

static void fixture_init(struct fixture *f, const char *const *matches, size_t n)
{
	memset(f, 0, sizeof(*f));
	f->service.name = strdup("svc");
	f->service.routes = calloc(n + 1, sizeof(*f->service.routes));
	f->service.n_routes = n;
	for (size_t i = 0; i < n; i++) {
		f->service.routes[i].match = strdup(matches[i]);
		f->service.routes[i].place = (struct tally_place){ (unsigned int)i + 1, 1 };
		f->service.routes[i].credits = (i + 1) * TALLY_OPTION_DECIMAL;
	}
	f->config.services = &f->service;
	f->config.n_services = 1;
	f->rules = calloc(1, sizeof(*f->rules));
}

static void fixture_done(struct fixture *f)
{
	for (size_t i = 0; i < f->service.n_routes; i++)
		free(f->service.routes[i].match);
	free(f->service.routes);
	free(f->service.name);
	free(f->rules);
}

static int view_of(const struct tally_config *config, struct tally_ruleset_view **ret_view)
{
	_cleanup_free_ char *json = NULL;
	int r = tally_rules_dump(config, NULL, &json);

	return r < 0 ? r : tally_ruleset_load(json, strlen(json), ret_view);
}

/*
 * The config's route that a request gets, found through the numbers in a row and the JSON kept with
 * the generation: 1 + its position, by its credits, which are its position in these tests. 0: _other.
 */
static size_t routed(const struct fixture *f, const struct tally_ruleset_view *view,
		     const char *method, const char *path)
{
	struct tally_ruleset_query query = { .service = 0,
					     .status = 200,
					     .route = rules_route(f->rules, method, path),
					     .method = rules_method(f->rules, method) };
	struct tally_ruleset_terms terms;

	if (tally_ruleset_terms(view, &query, &terms) != 0)
		fail_msg("no terms for %s %s: route %u, method %u", method, path, query.route,
			 query.method);
	return (size_t)(terms.units[1].amount / TALLY_OPTION_DECIMAL);
}

/* Precedence by examples ------------------------------------------------------------------------ */

static const char *const shop[] = {
	"/v1/**",			   /* 1 */
	"POST /v1/**",			   /* 2 */
	"/v1/documents/{id}",		   /* 3 */
	"/v1/documents/latest",		   /* 4 */
	"POST /v1/documents/{id}/extract", /* 5 */
	"/v1/{kind}/{id}/extract",	   /* 6 */
	"OPTIONS *",			   /* 7 */
	"/",				   /* 8 */
	"/dir/",			   /* 9 */
	"/dir",				   /* 10 */
	"PURGE /dir",			   /* 11 */
	"/%7euser/%2f%c3%a4",		   /* 12 */
	"/a//b",			   /* 13 */
	"/files/{name}/**",		   /* 14 */
	"GET /only/get",		   /* 15 */
};

static const struct {
	const char *method, *path;
	size_t route;
} examples[] = {
	{ "GET", "/v1", 1 },
	{ "GET", "/v1/", 1 },
	{ "GET", "/v1/x/y/z", 1 },
	{ "POST", "/v1/x/y/z", 2 },
	{ "GET", "/v1/documents/17", 3 },
	{ "GET", "/v1/documents/latest", 4 },
	/* the template comes first, the method second */
	{ "POST", "/v1/documents/17", 3 },
	{ "POST", "/v1/documents/17/extract", 5 },
	{ "GET", "/v1/documents/17/extract", 6 },
	{ "GET", "/v1/documents/latest/extract", 6 },
	{ "GET", "/v1/other/17/extract", 6 },
	/* a parameter is never empty */
	{ "GET", "/v1/documents/", 1 },
	{ "GET", "/v1/documents//extract", 1 },
	{ "OPTIONS", "*", 7 },
	{ "GET", "*", 0 },
	{ "OPTIONS", "/*", 0 },
	{ "GET", "/", 8 },
	{ "GET", "//", 0 },
	{ "GET", "/dir/", 9 },
	{ "GET", "/dir", 10 },
	{ "PURGE", "/dir", 11 },
	{ "PURGE", "/dir/", 9 },
	{ "UNHEARD", "/dir", 10 },
	{ "GET", "/~user/%2F%C3%A4", 12 },
	{ "GET", "/a//b", 13 },
	{ "GET", "/a/b", 0 },
	{ "GET", "/files", 0 },
	{ "GET", "/files/x", 14 },
	{ "GET", "/files/x/", 14 },
	{ "GET", "/files//x", 0 },
	{ "GET", "/only/get", 15 },
	{ "HEAD", "/only/get", 0 },
	{ "get", "/only/get", 0 },
};

static void test_precedence(void **state)
{
	_cleanup_(tally_ruleset_freep) struct tally_ruleset_view *view = NULL;
	struct fixture f;

	fixture_init(&f, shop, TALLY_ARRAY_SIZE(shop));
	assert_int_equal(tally_rules_compile(&f.service, &target, f.rules), 0);
	assert_int_equal(view_of(&f.config, &view), 0);
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(examples); i++) {
		size_t got = routed(&f, view, examples[i].method, examples[i].path);

		if (got != examples[i].route)
			fail_msg("%s %s: route %zu, not %zu", examples[i].method, examples[i].path,
				 got, examples[i].route);
	}
	assert_int_equal(f.rules->ruleset, 7);
	assert_int_equal(f.rules->service, 3);
	fixture_done(&f);
}

/* The asterisk form never ends in a wildcard. */
static void test_asterisk_alone(void **state)
{
	static const char *const matches[] = { "/**", "/{x}" };
	_cleanup_(tally_ruleset_freep) struct tally_ruleset_view *view = NULL;
	struct fixture f;

	fixture_init(&f, matches, 2);
	assert_int_equal(tally_rules_compile(&f.service, &target, f.rules), 0);
	assert_int_equal(view_of(&f.config, &view), 0);
	assert_int_equal(routed(&f, view, "OPTIONS", "*"), 0);
	assert_int_equal(routed(&f, view, "OPTIONS", "/*"), 2);
	assert_int_equal(routed(&f, view, "OPTIONS", "/*/*"), 1);
	fixture_done(&f);
}

/* The naive twin --------------------------------------------------------------------------------- */

/*
 * Tries one template on a path, segment by segment, and writes down how each was taken: 'E' the end
 * met the end, 'L' literal, 'P' parameter, 'R' rest. Compared as texts with E < L < P < R these say
 * which of two matches is closer.
 */
static bool naive_match(const char *template, const char *path, char *trace)
{
	const char *t = template + 1, *p = path + 1;
	size_t tn = strcspn(t, "/"), pn = strcspn(p, "/");

	if (!*template) {
		strcpy(trace, "E");
		return !*path;
	}
	if (strcmp(template, "/**") == 0) {
		strcpy(trace, "R");
		return true;
	}
	if (!*path)
		return false;
	if (*t == '{' && pn > 0)
		*trace = 'P';
	else if (*t != '{' && tn == pn && memcmp(t, p, tn) == 0)
		*trace = 'L';
	else
		return false;
	return naive_match(t + tn, p + pn, trace + 1);
}

/* Two matches of one path agree letter by letter until one is closer; E stands beside R only. */
static size_t naive_route(const char *const *matches, size_t n, const char *method,
			  const char *path)
{
	char best[80] = "";
	size_t found = 0;
	bool best_has_method = false;

	for (size_t i = 0; i < n; i++) {
		const char *blank = strchr(matches[i], ' ');
		const char *template = blank ? blank + 1 : matches[i];
		char trace[80] = "";
		int order;

		if (blank && (strlen(method) != (size_t)(blank - matches[i]) ||
			      strncmp(method, matches[i], strlen(method)) != 0))
			continue;
		if (!naive_match(template, path, trace))
			continue;
		order = found ? strcmp(trace, best) : -1;
		if (order < 0 || (order == 0 && blank && !best_has_method)) {
			strcpy(best, trace);
			best_has_method = blank;
			found = i + 1;
		}
	}
	return found;
}

static uint64_t random_state;

static uint32_t pick(uint32_t n)
{
	random_state = random_state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (uint32_t)(random_state >> 33) % n;
}

static const char *const words[] = { "a", "b", "c", "", "ab", "%2F" };
static const char *const methods[] = { "", "", "GET ", "POST ", "PURGE ", "LOCK " };

static void random_template(char *text)
{
	uint32_t n = 1 + pick(5);

	text = stpcpy(text, methods[pick(TALLY_ARRAY_SIZE(methods))]);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t kind = pick(10);

		*text++ = '/';
		if (kind < 3)
			text = stpcpy(text, "{x}");
		else if (kind < 5 && i + 1 == n)
			text = stpcpy(text, "**");
		else
			text = stpcpy(text, words[pick(TALLY_ARRAY_SIZE(words))]);
	}
}

static void random_path(char *text)
{
	uint32_t n = 1 + pick(6);

	for (uint32_t i = 0; i < n; i++) {
		*text++ = '/';
		text = stpcpy(text, pick(8) ? words[pick(TALLY_ARRAY_SIZE(words))] : "zzz");
	}
}

static bool is_taken(char (*texts)[64], size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(texts[i], texts[n]) == 0)
			return true;
	return false;
}

#define ROUTES 12

static void compare_once(uint32_t round)
{
	static const char *const asked[] = { "GET", "POST", "PURGE", "LOCK", "UNHEARD", "" };
	_cleanup_(tally_ruleset_freep) struct tally_ruleset_view *view = NULL;
	char texts[ROUTES][64], path[64];
	const char *matches[ROUTES];
	size_t n = 1 + pick(ROUTES);
	struct fixture f;

	for (size_t i = 0; i < n; i++) {
		do
			random_template(texts[i]);
		while (is_taken(texts, i));
		matches[i] = texts[i];
	}
	fixture_init(&f, matches, n);
	assert_int_equal(tally_rules_compile(&f.service, &target, f.rules), 0);
	assert_int_equal(view_of(&f.config, &view), 0);
	for (int i = 0; i < 60; i++) {
		const char *method = asked[pick(TALLY_ARRAY_SIZE(asked))];
		size_t want, got;

		random_path(path);
		want = naive_route(matches, n, method, path);
		got = routed(&f, view, method, path);
		if (want != got)
			fail_msg("round %u: \"%s %s\": naive says %s, the automaton %s", round,
				 method, path, want ? matches[want - 1] : "_other",
				 got ? matches[got - 1] : "_other");
	}
	fixture_done(&f);
}

static void test_against_naive(void **state)
{
	const char *seed = getenv("TALLY_SEED");

	random_state = seed ? strtoull(seed, NULL, 0) : tally_util_real_ns();
	print_message("TALLY_SEED=%llu\n", (unsigned long long)random_state);
	for (uint32_t round = 0; round < 2000; round++)
		compare_once(round);
}

/* Caps ------------------------------------------------------------------------------------------ */

static int check_text(struct fixture *f, char *out, size_t bytes)
{
	struct tally_diag diag;
	FILE *stream = fmemopen(out, bytes, "w");
	int r;

	tally_diag_init(&diag, "F");
	r = tally_rules_check(&f->config, &diag);
	tally_diag_print(&diag, stream);
	fclose(stream);
	tally_diag_done(&diag);
	return r;
}

/* As many routes as there can be, all placed, all found again. */
static void test_full_table(void **state)
{
	_cleanup_(tally_ruleset_freep) struct tally_ruleset_view *view = NULL;
	static char texts[TALLY_ROUTES - 1][32];
	const char *matches[TALLY_ROUTES - 1];
	struct fixture f;

	for (size_t i = 0; i < TALLY_ROUTES - 1; i++) {
		/* 1 start + 9 groups + 501 leaves = 511 states, dead one apart */
		snprintf(texts[i], sizeof(texts[i]), "/g%zu/leaf%zu", i % 9, i);
		matches[i] = texts[i];
	}
	fixture_init(&f, matches, 501);
	for (uint64_t secret = 1; secret <= 50; secret++) {
		struct tally_rules_target other = { .secret = { secret, ~secret } };

		assert_int_equal(tally_rules_compile(&f.service, &other, f.rules), 0);
		for (size_t i = 0; i < 501; i++)
			assert_int_not_equal(rules_route(f.rules, "GET", texts[i]), 0);
		assert_int_equal(rules_route(f.rules, "GET", "/g0/leaf1"), 0);
	}
	assert_int_equal(view_of(&f.config, &view), 0);
	for (size_t i = 0; i < 501; i++)
		assert_int_equal(routed(&f, view, "GET", texts[i]), i + 1);
	fixture_done(&f);
}

static void test_too_many_states(void **state)
{
	static char texts[TALLY_ROUTES - 1][32];
	const char *matches[TALLY_ROUTES - 1];
	char out[1024];
	struct fixture f;

	for (size_t i = 0; i < TALLY_ROUTES - 1; i++) {
		snprintf(texts[i], sizeof(texts[i]), "/g%zu/leaf%zu", i % 9, i);
		matches[i] = texts[i];
	}
	fixture_init(&f, matches, TALLY_ROUTES - 1);
	assert_int_equal(check_text(&f, out, sizeof(out)), -EINVAL);
	assert_non_null(strstr(
		out,
		"services[0].routes[501].match: one route too many: from here on they need more than 511 states"));
	assert_int_equal(tally_rules_compile(&f.service, &target, f.rules), -EINVAL);
	fixture_done(&f);
}

/* Templates that do not fit; the text of the fault is part of the interface. */
static const struct {
	const char *match, *why;
} bad_templates[] = {
	{ "v1/x", "a template begins with /" },
	{ "GET v1/x", "a template begins with /" },
	{ "", "a template begins with /" },
	{ "GET *", "a template begins with /" },
	{ "/v1/* ", "must be \"[METHOD] TEMPLATE\"" },
	{ "/v1/*", "* is not a wildcard" },
	{ "/v1/**/x", "** must be the last segment" },
	{ "/v1/{id", "a parameter is a whole segment" },
	{ "/v1/{}", "a parameter is a whole segment" },
	{ "/v1/{id}x", "a parameter is a whole segment" },
	{ "/v1/x{id}", "write it as %XX" },
	{ "/v1/{a b}", "must be \"[METHOD] TEMPLATE\"" },
	{ "/v1/{a!}", "the name of a parameter" },
	{ "/v1/%4", "two hexadecimal digits" },
	{ "/v1/%zz", "two hexadecimal digits" },
	{ "/v1/./x", "dot segments" },
	{ "/v1/%2e%2E", "dot segments" },
	{ "/v1?x=1", "write it as %XX" },
	{ "/v1#x", "write it as %XX" },
	{ "/\xc3\xa4", "write it as %XX" },
	{ "get /v1", "case-sensitive" },
	{ "PROPPATCH /v1", "more than 8 characters" },
	{ "GET  /v1 /x", "write it as %XX" },
};

static void test_bad_templates(void **state)
{
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(bad_templates); i++) {
		char out[512];
		struct fixture f;

		fixture_init(&f, &bad_templates[i].match, 1);
		assert_int_equal(check_text(&f, out, sizeof(out)), -EINVAL);
		if (!strstr(out, bad_templates[i].why) ||
		    strncmp(out, "F:1:1: services[0].routes[0].match: ", 36) != 0)
			fail_msg("\"%s\": %s", bad_templates[i].match, out);
		assert_int_equal(tally_rules_compile(&f.service, &target, f.rules), -EINVAL);
		fixture_done(&f);
	}
}

/* What the service's paths keep every request away from. */
static const struct {
	const char *match;
	bool merge_slashes, decode_slash;
	const char *why; /* NULL: it can be taken */
} slashes[] = {
	{ "/a//b", true, false, "// would never match" },
	{ "//a", true, true, "// would never match" },
	{ "/a//", true, true, "// would never match" },
	{ "/a//**", true, false, "// would never match" },
	{ "/a//b", false, true, NULL },
	{ "/a/", true, true, NULL },
	{ "/", true, true, NULL },
	{ "/**", true, true, NULL },
	{ "/a/{x}/", true, true, NULL },
	{ "/a%2fb", true, true, "%2F in paths is a slash" },
	{ "/a/%2F", false, true, "%2F in paths is a slash" },
	{ "/a%2fb", true, false, NULL },
	{ "/a%252Fb", true, true, NULL },
};

static void test_slashes(void **state)
{
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(slashes); i++) {
		int expected = slashes[i].why ? -EINVAL : 0, r;
		char out[512] = "";
		struct fixture f;

		fixture_init(&f, &slashes[i].match, 1);
		f.service.paths.merge_slashes = slashes[i].merge_slashes;
		f.service.paths.decode_slash = slashes[i].decode_slash;
		r = check_text(&f, out, sizeof(out));
		if (r != expected || (r && !strstr(out, slashes[i].why)) ||
		    (r && strncmp(out, "F:1:1: services[0].routes[0].match: ", 36) != 0))
			fail_msg("\"%s\": %d, %s", slashes[i].match, r, out);
		assert_int_equal(tally_rules_compile(&f.service, &target, f.rules), expected);
		if (!r)
			assert_int_equal(f.rules->flags,
					 slashes[i].merge_slashes * TALLY_RULES_MERGE_SLASHES |
						 slashes[i].decode_slash *
							 TALLY_RULES_DECODE_SLASH);
		fixture_done(&f);
	}
}

static void test_same_templates(void **state)
{
	static const char *const same[] = { "GET /v1/{a}/%7e", "GET /v1/{b}/~", "/v1/{b}/~" };
	char out[512];
	struct fixture f;

	fixture_init(&f, same, 3);
	assert_int_equal(check_text(&f, out, sizeof(out)), -EINVAL);
	assert_string_equal(out, "F:2:1: services[0].routes[1].match: takes the same requests as "
				 "routes[0] (line 1)\n");
	fixture_done(&f);
}

static void test_too_many_methods(void **state)
{
	static const char *const matches[] = { "A /", "B /", "C /", "D /", "E /", "F /", "G /" };
	char out[512];
	struct fixture f;

	fixture_init(&f, matches, 6);
	assert_int_equal(check_text(&f, out, sizeof(out)), 0);
	fixture_done(&f);
	fixture_init(&f, matches, 7);
	assert_int_equal(check_text(&f, out, sizeof(out)), -EINVAL);
	assert_non_null(strstr(out, "too many methods; 15 are possible"));
	fixture_done(&f);
}

/* Key sources ----------------------------------------------------------------------------------- */

static char x_api_key[] = "X-API-Key", authorization[] = "Authorization", bearer[] = "Bearer",
	    basic[] = "BASIC", api_key[] = "api_key", customer[] = "X-Customer", k[] = "k",
	    content_length[] = "Content-LENGTH", x_api_key2[] = "x-api-key", proxy[] = "Proxy-Auth";

static void test_key_sources(void **state)
{
	struct tally_config_key keys[] = { { .header = x_api_key },
					   { .header = authorization, .scheme = bearer },
					   { .query = api_key },
					   { .header = proxy, .scheme = basic },
					   { .response_header = customer },
					   { .header = k } };
	struct fixture f;
	struct tally_rules *r;

	fixture_init(&f, NULL, 0);
	f.service.key = keys;
	f.service.n_key = TALLY_ARRAY_SIZE(keys);
	f.service.tainted = TALLY_CONFIG_TAINTED_OWNER;
	r = f.rules;
	assert_int_equal(tally_rules_compile(&f.service, &target, r), 0);
	assert_string_equal((char *)r->request[0].text, "content-length");
	assert_int_equal(r->request[0].role, TALLY_NAME_LENGTH);
	assert_string_equal((char *)r->response[1].text, "transfer-encoding");
	assert_int_equal(r->response[1].role, TALLY_NAME_CODING);
	assert_string_equal((char *)r->request[2].text, "x-api-key");
	assert_int_equal(r->request[2].len, 9);
	assert_int_equal(r->request[2].priority, 1);
	assert_int_equal(r->request[2].role, TALLY_NAME_KEY);
	assert_string_equal((char *)r->request[3].text, "authorization");
	assert_string_equal((char *)r->request[3].scheme, "bearer ");
	assert_int_equal(r->request[3].scheme_len, 7);
	assert_int_equal(r->request[3].role, TALLY_NAME_SCHEME);
	assert_int_equal(r->request[4].role, TALLY_NAME_BASIC);
	assert_int_equal(r->request[4].priority, 4);
	assert_int_equal(r->request[5].len, 1);
	assert_int_equal(r->queries, 1);
	assert_string_equal((char *)r->query[0].text, "api_key");
	assert_int_equal(r->query[0].priority, 3);
	assert_string_equal((char *)r->response[2].text, "x-customer");
	assert_int_equal(r->response[2].priority, 5);
	/* "k" is shorter than what the filter looks at */
	assert_int_equal(r->request_first, UINT64_MAX);
	assert_true(r->response_first >>
			    tally_name_filter((uint32_t)tally_load((const __u8 *)"X-CU", 4)) &
		    1);
	assert_int_equal(__builtin_popcountll(r->response_first), 3);
	assert_int_equal(r->flags, TALLY_RULES_TAINTED_OWNER);
	fixture_done(&f);
}

static void expect_key_fault(struct tally_config_key *keys, size_t n, const char *why)
{
	char out[2048];
	struct fixture f;

	fixture_init(&f, NULL, 0);
	f.service.key = keys;
	f.service.n_key = n;
	assert_int_equal(check_text(&f, out, sizeof(out)), -EINVAL);
	if (!strstr(out, why))
		fail_msg("%s: %s", why, out);
	assert_int_equal(tally_rules_compile(&f.service, &target, f.rules), -EINVAL);
	fixture_done(&f);
}

/* One header may be named once for each scheme, and is then found by its first entry. */
static void test_two_schemes(void **state)
{
	static char other_case[] = "AUTHORIZATION", again[] = "BEARER";
	struct tally_config_key keys[3] = { { .header = authorization, .scheme = bearer },
					    { .header = x_api_key },
					    { .header = other_case, .scheme = basic } };
	const struct tally_rules *r;
	struct fixture f;

	fixture_init(&f, NULL, 0);
	f.service.key = keys;
	f.service.n_key = 3;
	assert_int_equal(tally_rules_compile(&f.service, &target, f.rules), 0);
	r = f.rules;
	assert_int_equal(r->request[2].next, 4);
	assert_int_equal(r->request[3].next, 0);
	assert_int_equal(r->request[4].next, 0);
	assert_int_equal(r->request[4].role, TALLY_NAME_BASIC);
	fixture_done(&f);
	keys[2].scheme = again;
	expect_key_fault(keys, 3, "services[0].key[2]: names the same place");
	keys[2].scheme = NULL;
	expect_key_fault(keys, 3, "services[0].key[2]: names the same place");
}

/* What a configuration may say is read back, and no usage is of an unknown service. */
static void test_largest_ruleset_is_read_back(void **state)
{
	enum { EACH = 480 };
	struct tally_config config = { .n_services = TALLY_SERVICES };
	struct tally_config_route *routes = calloc(EACH, sizeof(*routes));
	struct tally_ruleset_view *view = NULL;
	uint16_t indices[TALLY_SERVICES];
	struct tally_diag diag;
	char *json = NULL;

	for (int i = 0; i < EACH; i++) {
		assert_true(asprintf(&routes[i].match, "POST /v1/%0240d", i) > 0);
		routes[i].credits = 1000000000;
		routes[i].place.line = 1;
	}
	config.services = calloc(TALLY_SERVICES, sizeof(*config.services));
	for (uint16_t i = 0; i < TALLY_SERVICES; i++) {
		assert_true(asprintf(&config.services[i].name, "service-%d", i) > 0);
		config.services[i].routes = routes;
		config.services[i].n_routes = EACH;
		indices[i] = i;
	}
	tally_diag_init(&diag, "x");
	assert_int_equal(tally_rules_check(&config, &diag), 0);
	assert_int_equal(tally_rules_dump(&config, indices, &json), 0);
	assert_true(strlen(json) > 8U << 20 && strlen(json) <= TALLY_RULESET_BYTES);
	assert_int_equal(tally_ruleset_load(json, strlen(json), &view), 0);
	assert_string_equal(tally_ruleset_service(view, 1), "service-1");
	tally_ruleset_free(view);
	tally_diag_done(&diag);
	for (int i = 0; i < EACH; i++)
		free(routes[i].match);
	for (int i = 0; i < TALLY_SERVICES; i++)
		free(config.services[i].name);
	free(config.services);
	free(routes);
	free(json);
}

static void test_bad_keys(void **state)
{
	static char names[10][8], blank[] = "a b", amp[] = "a&b", percent[] = "a%41";
	struct tally_config_key keys[10] = { { .header = x_api_key }, { .header = x_api_key2 } };

	expect_key_fault(keys, 2, "services[0].key[1]: names the same place");
	keys[0] = (struct tally_config_key){ .header = content_length };
	expect_key_fault(keys, 1, "frames messages");
	keys[0] = (struct tally_config_key){ .header = blank };
	expect_key_fault(keys, 1, "not a header name");
	keys[0] = (struct tally_config_key){ .query = amp };
	expect_key_fault(keys, 1, "as it stands in a URL");
	keys[0] = (struct tally_config_key){ .query = percent };
	expect_key_fault(keys, 1, "as it stands in a URL");
	for (size_t i = 0; i < 10; i++) {
		snprintf(names[i], sizeof(names[i]), "n%zu", i);
		keys[i] = (struct tally_config_key){ .header = names[i] };
	}
	expect_key_fault(keys, 7, "services[0].key[6]: at most 6 headers");
	for (size_t i = 0; i < 10; i++)
		keys[i] = (struct tally_config_key){ .query = names[i] };
	expect_key_fault(keys, 5, "services[0].key[4]: at most 4 query parameters");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_precedence),
		cmocka_unit_test(test_asterisk_alone),
		cmocka_unit_test(test_against_naive),
		cmocka_unit_test(test_full_table),
		cmocka_unit_test(test_too_many_states),
		cmocka_unit_test(test_bad_templates),
		cmocka_unit_test(test_slashes),
		cmocka_unit_test(test_same_templates),
		cmocka_unit_test(test_too_many_methods),
		cmocka_unit_test(test_key_sources),
		cmocka_unit_test(test_bad_keys),
		cmocka_unit_test(test_largest_ruleset_is_read_back),
		cmocka_unit_test(test_two_schemes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
