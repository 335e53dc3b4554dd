/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vectors inside this kernel: the programs' own code under BPF_PROG_TEST_RUN (vectors.bpf.c), whole,
 * and cut as the seed says. Each run must give what the vector says, and the totals and keys that the native
 * meter has after the same run.
 *
 *	vectors [-v] [-s SEED] [-n CUTS] [WORD...]	SEED, CUTS: also TALLYD_SEED, TALLYD_CUTS
 *
 * Not here: vectors marked @native, and those with smaller caps, which are constants of the programs.
 */
#include <sys/mman.h>
#include <time.h>

#include <bpf/bpf.h>

#include "bpf/meter_types.h"
#include "tests/kernel/libprograms.h"
#include "tests/kernel/vectors.skel.h"
#include "tests/vectors/libplay.h"

#define FOLDER "tests/vectors"
#define CUTS 24 /* of each vector, by default */
#define KEYS 64

/* An array of the programs, as they see it. */
struct pool {
	uint8_t *at;
	size_t n, bytes;
};

static struct {
	struct programs p;
	struct pool candidates, candidates_long, pieces;
	const struct tally_rules *rules;	/* in the kernel now */
	bool cut;				/* some segment was played as more packets */
	struct tally_candidate_long keys[KEYS]; /* learnt, or known beforehand */
	size_t n_keys;
	struct play_outcome sum; /* over the windows */
} k;

static int fd_of(const struct bpf_map *map)
{
	return bpf_map__fd(map);
}

/* Loading --------------------------------------------------------------------------------------- */

static void *pool_at(const struct pool *pool, size_t i)
{
	return pool->at + i * pool->bytes;
}

/* Mapped: a look-up of each of its slots, by a call, would take most of the time. */
static void pool_map(const struct bpf_map *map, struct pool *ret_pool)
{
	struct pool pool = { .n = bpf_map__max_entries(map),
			     .bytes = (bpf_map__value_size(map) + 7) / 8 * 8 };

	pool.at =
		mmap(NULL, pool.n * pool.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_of(map), 0);
	if (pool.at == MAP_FAILED)
		programs_die(bpf_map__name(map));
	*ret_pool = pool;
}

static void load(void)
{
	programs_load(&k.p);
	pool_map(k.p.skel->maps.candidates, &k.candidates);
	pool_map(k.p.skel->maps.candidates_long, &k.candidates_long);
	pool_map(k.p.skel->maps.parked, &k.pieces);
}

/* Between vectors ------------------------------------------------------------------------------- */

static void clear_hash(int fd, size_t key_bytes)
{
	uint8_t key[64];

	if (key_bytes > sizeof(key))
		abort();
	while (!bpf_map_get_next_key(fd, NULL, key))
		if (bpf_map_delete_elem(fd, key))
			programs_die("clear");
}

static void clear_totals(void)
{
	struct tally_totals *none = calloc((size_t)k.p.cpus, sizeof(*none));

	if (!none)
		abort();
	for (uint32_t level = 0; level <= TALLY_NEST; level++) {
		uint32_t at = TALLY_TOTALS_AT(level, 0);

		if (bpf_map_update_elem(k.p.totals, &at, none, BPF_ANY))
			programs_die("totals");
	}
	free(none);
}

/* Every slot free: states are the low bits. Returns how many were held without being accepted. */
static size_t clear_pool(const struct pool *pool)
{
	size_t held = 0;

	for (size_t i = 0; i < pool->n; i++) {
		uint32_t *state = pool_at(pool, i);

		held += TALLY_CAND_STATE(*state) == TALLY_CAND_HELD;
		if (TALLY_CAND_STATE(*state))
			memset(state, 0, pool->bytes);
	}
	return held;
}

static size_t count_pieces(void)
{
	size_t busy = 0;

	for (size_t i = 0; i < k.pieces.n; i++)
		busy += ((const struct tally_parked *)pool_at(&k.pieces, i))->busy != 0;
	return busy;
}

/* Playing --------------------------------------------------------------------------------------- */

static void know(const struct tally_rules *rules, const char *text)
{
	struct tally_candidate_long *key = &k.keys[k.n_keys++];

	key->len = (__u32)strlen(text);
	memcpy(key->text, text, key->len);
	key->hash = programs_know(&k.p, rules, text);
}

static void kernel_open(const struct vector *v, const struct vector_rules *rules,
			const struct tally_meter_options *options,
			const struct tally_meter_birth *birth)
{
	struct tally_conn *c = calloc(1, sizeof(*c));

	if (!c)
		abort();
	if (k.rules != rules->rules)
		programs_put(k.p.skel->maps.rulesets, rules->rules);
	k.rules = rules->rules;
	programs_clear_rows(&k.p);
	clear_hash(fd_of(k.p.skel->maps.dictionary), sizeof(__u64));
	clear_totals();
	k.n_keys = 0;
	k.cut = false;
	for (size_t i = 0; i < v->n_known; i++)
		know(rules->rules, v->known[i]);
	if (birth->midstream)
		tally_conn_join(c);
	else
		tally_conn_born(c, birth->next_in, birth->next_out);
	c->cookie = birth->cookie;
	c->resolved = 1;
	programs_put(k.p.skel->maps.vectors_conn, c);
	free(c);
}

static void one_packet(const struct tally_meter_segment *s, uint32_t at, uint32_t n)
{
	bool last = at + n == s->len;
	struct vectors_segment told = {
		.seq = s->seq + at,
		.len = n,
		.flags = (s->fin && last ? 1u : 0) | (s->urgent ? 32u : 0),
		.rcv_nxt = s->rcv_nxt,
		.snd_nxt = s->snd_nxt,
		.snd_una = s->snd_una,
	};
	size_t payload = n <= VECTORS_MAX ? n : 0; /* of a huge one nothing may be read */

	programs_run(s->dir == TALLY_METER_IN ? k.p.skel->progs.vectors_in
					      : k.p.skel->progs.vectors_out,
		     &told, (const uint8_t *)s->data + at, (uint32_t)payload);
}

/* Longer ones as more packets: the answer must not depend on it (R8). */
static void kernel_segment(const struct tally_meter_segment *s)
{
	uint32_t most = s->len >= 1u << 20 ? s->len : VECTORS_MAX, at = 0;

	k.cut |= s->len > most;
	do {
		uint32_t n = TALLY_MIN(s->len - at, most);

		one_packet(s, at, n);
		at += n;
	} while (at < s->len);
}

/* What came out --------------------------------------------------------------------------------- */

static void add_row(const struct tally_row_key *key, const struct tally_row *row, void *ctx)
{
	const struct tally_meter_entry e = { .key = *key, .row = *row };

	play_add(ctx, &e, 1, &(struct tally_totals){ 0 });
}

static void kernel_window(void)
{
	struct tally_totals totals;

	programs_totals(&k.p, &totals);
	play_add(&k.sum, NULL, 0, &totals);
	programs_rows(&k.p, add_row, &k.sum);
	programs_clear_rows(&k.p);
	clear_totals();
}

/* The texts behind dictionary entries, as the agent finds them. */
static void read_keys(void)
{
	struct tally_key_entry entry;
	__u64 hash, *previous = NULL;

	while (!bpf_map_get_next_key(fd_of(k.p.skel->maps.dictionary), previous, &hash)) {
		struct tally_candidate_long *key = &k.keys[k.n_keys];
		uint32_t id;

		previous = &hash;
		if (bpf_map_lookup_elem(fd_of(k.p.skel->maps.dictionary), &hash, &entry))
			programs_die("dictionary");
		if (entry.state == TALLY_KEY_RESOLVED)
			continue;
		if (k.n_keys++ == KEYS)
			abort();
		id = TALLY_CAND_ID(entry.slot);
		if (id < TALLY_CANDIDATES)
			memcpy(key, pool_at(&k.candidates, id), k.candidates.bytes);
		else
			memcpy(key, pool_at(&k.candidates_long, id - TALLY_CANDIDATES),
			       sizeof(*key));
	}
}

static const void *kernel_key(void *ctx, uint64_t hash, size_t *ret_bytes)
{
	for (size_t i = 0; i < k.n_keys; i++) {
		if (k.keys[i].hash != hash)
			continue;
		*ret_bytes = k.keys[i].len;
		return k.keys[i].text;
	}
	return NULL;
}

static char *kernel_learned(void)
{
	const void *texts[KEYS];
	size_t bytes[KEYS];

	for (size_t i = 0; i < k.n_keys; i++) {
		texts[i] = k.keys[i].text;
		bytes[i] = k.keys[i].len;
	}
	return vector_learned(texts, bytes, k.n_keys);
}

static void kernel_close(const struct tally_meter_segment *last, struct play_outcome *ret_outcome)
{
	struct play_outcome o;
	const struct vectors_segment told = { .rcv_nxt = last->rcv_nxt,
					      .snd_nxt = last->snd_nxt,
					      .snd_una = last->snd_una };

	programs_run(k.p.skel->progs.vectors_close, &told, NULL, 0);
	kernel_window();
	o = k.sum;
	k.sum = (struct play_outcome){ 0 };
	o.key = kernel_key;
	read_keys();
	o.learned = kernel_learned();
	o.candidates = clear_pool(&k.candidates) + clear_pool(&k.candidates_long);
	o.pieces = count_pieces();
	*ret_outcome = o;
}

static const struct play_target kernel = { kernel_open, kernel_segment, kernel_window,
					   kernel_close };

/* Running --------------------------------------------------------------------------------------- */

/* A vector played once in the kernel and once natively: does the kernel say what it should? */
struct run {
	const struct vector *v;
	struct play_plan plan;
	struct play_result kernel, native;
	FILE *why;
};

static bool same_totals(struct run *r)
{
	const __u64 *a = (const __u64 *)&r->kernel.totals, *b = (const __u64 *)&r->native.totals;
	bool same = true;

	if (k.cut) /* more segments, of which more may wait */
		r->kernel.totals.gaps[TALLY_GAP_PARKED] = r->native.totals.gaps[TALLY_GAP_PARKED];
	for (size_t i = 0; i < sizeof(r->kernel.totals) / sizeof(__u64); i++) {
		if (a[i] == b[i])
			continue;
		fprintf(r->why, "totals, octet %zu: %llu in the kernel, %llu natively\n",
			i * sizeof(__u64), a[i], b[i]);
		same = false;
	}
	return same;
}

static bool is_good(struct run *r, const char *expected)
{
	bool good = !r->kernel.broken && !strcmp(r->kernel.text, expected);

	if (r->plan.mode == PLAY_WHOLE &&
	    vector_check_asserted(r->v, &r->kernel.totals, r->kernel.learned, r->why))
		good = false;
	if (strcmp(r->kernel.learned, r->native.learned)) {
		fprintf(r->why, "natively \"%s\", here \"%s\"\n", r->native.learned,
			r->kernel.learned);
		good = false;
	}
	return same_totals(r) && good;
}

static bool play_once(const struct vector *v, const struct play_plan *plan, const char *expected)
{
	struct run r = { .v = v, .plan = *plan };
	char *why = NULL;
	size_t bytes = 0;
	bool good;

	r.why = open_memstream(&why, &bytes);
	if (!r.why)
		abort();
	play(v, vector_rules(FOLDER, v->config), &r.plan, r.why, &r.kernel);
	r.plan.target = &play_native;
	play(v, vector_rules(FOLDER, v->config), &r.plan, r.why, &r.native);
	good = is_good(&r, expected);
	fclose(r.why);
	if (!good) {
		printf("FAIL %s:%u: %s\n     ", v->file, v->line, v->title);
		play_print_plan(plan, stdout);
		printf("%s  expected:\n%s  found:\n%s", why, expected, r.kernel.text);
	}
	free(why);
	play_done(&r.kernel);
	play_done(&r.native);
	return good;
}

static bool play_cuts(const struct vector *v, uint64_t *seed, unsigned long cuts,
		      unsigned long *runs)
{
	static const enum play_mode modes[] = { PLAY_SPLIT, PLAY_PIECES, PLAY_SHUFFLE, PLAY_SPLIT };
	char *expected = vector_expected(v);
	struct play_plan plan = { .target = &kernel, .isn = { 0xfffffff0, 0x7ffffff8 } };
	bool good = play_once(v, &plan, expected);

	for (unsigned long i = 0; good && !v->whole && i < cuts; i++) {
		plan.mode = modes[i % TALLY_ARRAY_SIZE(modes)];
		plan.seed = play_random(seed);
		plan.step = play_random(seed) % v->n_steps;
		plan.at = 1 + play_random(seed) %
				      (v->steps[plan.step].len ? v->steps[plan.step].len : 1);
		plan.isn[0] = (uint32_t)play_random(seed);
		plan.isn[1] = (uint32_t)play_random(seed);
		good = play_once(v, &plan, expected);
		++*runs;
	}
	++*runs;
	free(expected);
	return good;
}

static bool fits(const struct vector *v)
{
	return !v->native && !v->caps.candidates && !v->caps.dictionary && !v->caps.pieces &&
	       !v->caps.guesses;
}

static bool wanted(const struct vector *v, int argc, char **argv)
{
	for (int i = optind; i < argc; i++)
		if (strstr(v->title, argv[i]) || strstr(v->file, argv[i]))
			return true;
	return optind >= argc;
}

static uint64_t number(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);
	uint64_t n = otherwise;

	if (text && tally_util_parse_u64(text, UINT64_MAX, &n)) {
		fprintf(stderr, "vectors: %s is no number\n", name);
		exit(64);
	}
	return n;
}

int main(int argc, char **argv)
{
	uint64_t seed = number("TALLYD_SEED", (uint64_t)time(NULL));
	uint64_t cuts = number("TALLYD_CUTS", CUTS);
	unsigned int passed = 0, failed = 0, others = 0;
	unsigned long runs = 0;
	struct vector_list list;
	bool verbose = false;
	int c;

	while ((c = getopt(argc, argv, "vs:n:")) != -1) {
		if (c == 'v')
			verbose = true;
		else if ((c == 's' && tally_util_parse_u64(optarg, UINT64_MAX, &seed)) ||
			 (c == 'n' && tally_util_parse_u64(optarg, 1000, &cuts)) || c == '?')
			return 64;
	}
	printf("seed %ju\n", (uintmax_t)seed);
	load();
	vector_load(FOLDER, &list);
	for (size_t i = 0; i < list.n; i++) {
		const struct vector *v = list.items[i];
		bool good;

		if (!wanted(v, argc, argv) || !fits(v)) {
			others += !fits(v);
			continue;
		}
		good = play_cuts(v, &seed, cuts, &runs);
		passed += good;
		failed += !good;
		if (verbose)
			printf("%s %s\n", good ? "ok  " : "FAIL", v->title);
	}
	printf("%u vectors in the kernel, %lu runs; %u are native only\n", passed + failed, runs,
	       others);
	printf("%u passed, %u failed, 0 skipped\n", passed, failed);
	vector_list_done(&list);
	vector_rules_done();
	programs_unload(&k.p);
	return failed || !passed;
}
