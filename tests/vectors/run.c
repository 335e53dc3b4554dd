/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every vector, natively, under ASan and UBSan, parser memory before a guard page: whole, cut at
 * every place of every step, octet by octet, in random pieces, and in any order with repetitions.
 * All must give what the vector says.
 *
 *	run [-v] [-s SEED] [WORD...]	only vectors whose title contains a WORD
 */
#include <time.h>

#include "tests/vectors/libplay.h"

#define FOLDER "tests/vectors"
#define SPLITS_MAX 100 /* of one step; of longer ones a sample, by the seed */
#define RANDOM_RUNS 6

struct runner {
	bool verbose;
	uint64_t seed;
	unsigned long runs;
	unsigned int passed, failed;
};

/* Plays once. Prints what differs. Returns whether all is as it should be. */
static bool play_once(struct runner *r, const struct vector *v, const struct play_plan *plan,
		      const char *expected)
{
	const struct vector_rules *rules = vector_rules(FOLDER, v->config);
	struct play_result result;
	char *why = NULL;
	size_t bytes = 0;
	FILE *out = open_memstream(&why, &bytes);
	bool good;

	if (!out)
		abort();
	r->runs++;
	play(v, rules, plan, out, &result);
	if (plan->mode == PLAY_WHOLE)
		result.broken += vector_check_asserted(v, &result.totals, result.learned, out);
	fclose(out);
	good = !result.broken && !strcmp(result.text, expected);
	if (!good) {
		printf("FAIL %s:%u: %s\n     ", v->file, v->line, v->title);
		play_print_plan(plan, stdout);
		printf("%s  expected:\n%s  found:\n%s", why, expected, result.text);
	}
	free(why);
	play_done(&result);
	return good;
}

static bool play_splits(struct runner *r, const struct vector *v, const char *expected)
{
	struct play_plan plan = { .mode = PLAY_SPLIT, .isn = { 100, 200 }, .fill = 0xa5 };

	for (plan.step = 0; plan.step < v->n_steps; plan.step++) {
		const struct vector_step *s = &v->steps[plan.step];
		uint64_t stride = s->len / SPLITS_MAX + 1;

		if (s->kind != VECTOR_DATA)
			continue;
		for (plan.at = 1; plan.at < s->len;) {
			plan.fill = (uint8_t)(plan.at & 1 ? '\n' : ' ');
			if (!play_once(r, v, &plan, expected))
				return false;
			plan.at += stride == 1 || plan.at < 20 || s->len - plan.at < 20
					   ? 1
					   : 1 + play_random(&r->seed) % (2 * stride);
		}
	}
	return true;
}

static bool play_random_cuts(struct runner *r, const struct vector *v, const char *expected)
{
	struct play_plan plan = { .isn = { 0 }, .fill = 0 };

	for (int i = 0; i < RANDOM_RUNS; i++) {
		plan.mode = i % 2 ? PLAY_SHUFFLE : PLAY_PIECES;
		plan.lag = i % 4 >= 2;
		plan.seed = play_random(&r->seed);
		plan.isn[0] = (uint32_t)play_random(&r->seed);
		plan.isn[1] = i % 3 ? (uint32_t)play_random(&r->seed) : -1u - (uint32_t)i;
		plan.fill = (uint8_t)play_random(&r->seed);
		if (!play_once(r, v, &plan, expected))
			return false;
	}
	return true;
}

static bool play_all(struct runner *r, const struct vector *v, const char *expected)
{
	static const uint8_t fills[] = { 0, '\r', '\n', ' ', ':', 'a', 0xff };
	struct play_plan whole = { .isn = { 0xfffffff0, 0x7ffffff8 } };
	struct play_plan octets = { .mode = PLAY_BYTES, .isn = { -3u, -20u }, .fill = '\n' };

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(fills); i++) {
		whole.fill = fills[i];
		if (!play_once(r, v, &whole, expected))
			return false;
	}
	if (v->whole)
		return true;
	if (!play_once(r, v, &octets, expected))
		return false;
	octets.lag = true;
	octets.fill = 0x80;
	return play_once(r, v, &octets, expected) && play_splits(r, v, expected) &&
	       play_random_cuts(r, v, expected);
}

static void run_vector(struct runner *r, const struct vector *v)
{
	char *expected = vector_expected(v);
	unsigned long before = r->runs;
	bool good = play_all(r, v, expected);

	if (good)
		r->passed++;
	else
		r->failed++;
	if (r->verbose)
		printf("%s %s (%lu runs)\n", good ? "ok  " : "FAIL", v->title, r->runs - before);
	free(expected);
}

static bool wanted(const struct vector *v, int argc, char **argv)
{
	for (int i = optind; i < argc; i++)
		if (strstr(v->title, argv[i]) || strstr(v->file, argv[i]))
			return true;
	return optind >= argc;
}

int main(int argc, char **argv)
{
	struct runner r = { .seed = (uint64_t)time(NULL) };
	struct vector_list list;
	int c;

	while ((c = getopt(argc, argv, "vs:")) != -1) {
		if (c == 'v')
			r.verbose = true;
		else if (c != 's' || tally_util_parse_u64(optarg, UINT64_MAX, &r.seed))
			return 64;
	}
	printf("seed %ju\n", (uintmax_t)r.seed);
	vector_load(FOLDER, &list);
	for (size_t i = 0; i < list.n; i++)
		if (wanted(list.items[i], argc, argv))
			run_vector(&r, list.items[i]);
	printf("%u vectors, %lu runs\n", r.passed + r.failed, r.runs);
	printf("%u passed, %u failed, 0 skipped\n", r.passed, r.failed);
	vector_list_done(&list);
	vector_rules_done();
	return r.failed || !r.passed;
}
