/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/libengine.h"

#include "base/config.h"
#include "identify/rules.h"
#include "tally/hash.h"

#define NOW_NS 1790000000000000000ULL
#define PIECES 12 /* of one reordered step: fewer than can be parked */

struct player {
	const struct engine_plan *plan;
	const struct tally_rules *rules;
	struct tally_meter *meter;
	struct tally_meter_conn *conn;
	uint64_t seed;
	uint64_t sent[2]; /* octets of the stream so far */
	uint64_t rcv_nxt; /* of them, those of the client that TCP has */
};

/* TALLY_FUZZ_SHOW=1 prints what is played, and what came of it. */
static bool is_shown(void)
{
	return getenv("TALLY_FUZZ_SHOW") != NULL;
}

static void must(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "broken: %s\n", what);
	abort();
}

uint64_t engine_random(uint64_t *seed)
{
	uint64_t z = *seed += 0x9e3779b97f4a7c15ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

static uint64_t below(struct player *p, uint64_t n)
{
	return engine_random(&p->seed) % n;
}

/* Rules ----------------------------------------------------------------------------------------- */

struct loaded {
	char name[32];
	struct tally_rules rules;
	struct loaded *next;
};

static struct loaded *load(const char *name)
{
	static const struct tally_rules_target target = {
		.generation = 1, .secret = { 0x0123456789abcdefULL, 0xfedcba9876543210ULL }
	};
	_cleanup_(tally_config_freep) struct tally_config *config = NULL;
	struct loaded *l = calloc(1, sizeof(*l));
	struct tally_diag diag;
	char path[128];

	must(l, "memory");
	(void)snprintf(path, sizeof(path), "tests/vectors/%s.yaml", name);
	(void)snprintf(l->name, sizeof(l->name), "%s", name);
	tally_diag_init(&diag, path);
	must(!tally_config_load(path, TALLY_CONFIG_NO_SECRETS, &diag, &config), path);
	must(!tally_rules_check(config, &diag), path);
	must(!tally_rules_compile(&config->services[0], &target, &l->rules), path);
	tally_diag_done(&diag);
	return l;
}

const struct tally_rules *engine_rules(const char *name)
{
	static struct loaded *all;
	struct loaded *l;

	for (l = all; l; l = l->next)
		if (!strcmp(l->name, name))
			return &l->rules;
	l = load(name);
	l->next = all;
	all = l;
	return &l->rules;
}

/* Scripts --------------------------------------------------------------------------------------- */

void engine_add(struct engine_script *script, uint8_t dir, const void *data, size_t len)
{
	if (!len || script->n_steps == ENGINE_STEPS)
		return;
	script->steps[script->n_steps++] =
		(struct engine_step){ .kind = ENGINE_DATA, .dir = dir, .data = data, .len = len };
}

void engine_fin(struct engine_script *script, uint8_t dir)
{
	if (script->n_steps < ENGINE_STEPS)
		script->steps[script->n_steps++] =
			(struct engine_step){ .kind = ENGINE_FIN, .dir = dir };
}

/* Playing --------------------------------------------------------------------------------------- */

static void fill_tcp(struct player *p, struct tally_meter_segment *s)
{
	s->rcv_nxt = p->plan->isn[0] + (uint32_t)p->rcv_nxt;
	s->snd_nxt = s->snd_una = p->plan->isn[1] + (uint32_t)p->sent[1];
	s->now_ns = NOW_NS;
}

static void deliver(struct player *p, const struct engine_step *st, size_t at, size_t len)
{
	struct tally_meter_segment s = { .dir = st->dir, .len = (uint32_t)len };
	uint8_t *copy = malloc(len); /* its end is ASan's */

	must(copy, "memory");
	memcpy(copy, st->data + at, len);
	s.data = copy;
	s.seq = p->plan->isn[st->dir] + (uint32_t)(p->sent[st->dir] + at);
	fill_tcp(p, &s);
	must(!tally_meter_segment(p->meter, p->conn, &s), "segment");
	free(copy);
	if (st->dir == TALLY_METER_IN && p->rcv_nxt == p->sent[0] + at)
		p->rcv_nxt += len;
}

/* Pieces from front to back; the last piece ends the step. */
static void deliver_cut(struct player *p, const struct engine_step *st)
{
	for (size_t at = 0, n; at < st->len; at += n) {
		n = 1;
		if (p->plan->cut != ENGINE_BYTES)
			n += below(p, TALLY_MIN(st->len - at, below(p, 4) ? 40UL : 4000UL));
		n = TALLY_MIN(n, st->len - at);
		deliver(p, st, at, n);
	}
}

/* A few pieces in any order. TCP has a piece when all before it have come. */
static void deliver_reordered(struct player *p, const struct engine_step *st)
{
	size_t edges[PIECES + 1], order[PIECES],
		n = 1 + below(p, TALLY_MIN(st->len, (size_t)PIECES));
	bool came[PIECES] = { false };

	for (size_t i = 0; i <= n; i++)
		edges[i] = st->len * i / n;
	for (size_t i = 0; i < n; i++) {
		size_t j = below(p, i + 1);

		order[i] = order[j];
		order[j] = i;
	}
	for (size_t i = 0; i < n; i++) {
		uint64_t before = p->rcv_nxt;

		deliver(p, st, edges[order[i]], edges[order[i] + 1] - edges[order[i]]);
		came[order[i]] = true;
		p->rcv_nxt = before;
		for (size_t k = 0; st->dir == TALLY_METER_IN && k < n && came[k]; k++)
			p->rcv_nxt = p->sent[0] + edges[k + 1];
	}
}

static void play_step(struct player *p, const struct engine_step *st)
{
	struct tally_meter_segment fin = { .dir = st->dir, .fin = true };

	if (st->kind == ENGINE_FIN) {
		fin.seq = p->plan->isn[st->dir] + (uint32_t)p->sent[st->dir];
		fill_tcp(p, &fin);
		must(!tally_meter_segment(p->meter, p->conn, &fin), "segment");
		return;
	}
	if (p->plan->cut == ENGINE_WHOLE || st->whole)
		deliver(p, st, 0, st->len);
	else if (p->plan->cut == ENGINE_REORDERED)
		deliver_reordered(p, st);
	else
		deliver_cut(p, st);
	p->sent[st->dir] += st->len;
	if (st->dir == TALLY_METER_IN)
		p->rcv_nxt = p->sent[0];
}

/* Judging --------------------------------------------------------------------------------------- */

struct sums {
	uint64_t octets[2], answered, aborted, keyed;
};

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

char *engine_row(const struct tally_meter_entry *e, const char *key, size_t bytes)
{
	uint64_t sum = 0; /* of all octets: the beginning alone is printed */
	char *text, shown[65] = "";

	for (size_t i = 0; i < bytes; i++) {
		sum = (sum ^ (uint8_t)key[i]) * 0x100000001b3ULL;
		if (i + 1 < sizeof(shown))
			shown[i] = key[i] > ' ' && key[i] <= '~' ? key[i] : '?';
	}
	must(asprintf(&text,
		      "key %s (%zu, %jx) attribution %u detail %u route %u method %u status %u "
		      "protocol %u: %llu requests, %llu incomplete, %llu in, %llu out",
		      shown, bytes, (uintmax_t)sum, e->key.attribution, e->key.detail, e->key.route,
		      e->key.method, e->key.status, e->key.protocol, e->row.requests,
		      e->row.incomplete, e->row.request_bytes, e->row.response_bytes) > 0,
	     "memory");
	return text;
}

/* H4: the text is that of the hash, octet by octet. */
static char *row_text(struct player *p, const struct tally_meter_entry *e)
{
	const __u64 secret[2] = { p->rules->secret[0], p->rules->secret[1] };
	const char *key = NULL;
	size_t bytes = 0;

	if (e->key.attribution == TALLY_ATTR_KEY)
		key = tally_meter_key(p->meter, e->key.key, &bytes);
	must(e->key.attribution != TALLY_ATTR_KEY || key || !e->key.status, "a key without text");
	must(!key || tally_key_hash(key, (uint32_t)bytes, secret) == e->key.key,
	     "a key with another text");
	return engine_row(e, key, bytes);
}

static void add_up(struct player *p, struct sums *s)
{
	for (size_t i = 0; i < tally_meter_rows(p->meter); i++) {
		const struct tally_meter_entry *e = tally_meter_row(p->meter, i);

		s->octets[0] += e->row.request_bytes;
		s->octets[1] += e->row.response_bytes;
		if (!e->key.status)
			s->aborted += e->row.requests;
		else
			s->answered += e->row.requests;
		if (e->key.status && e->key.attribution == TALLY_ATTR_KEY)
			s->keyed += e->row.requests;
	}
}

/* M2, C1, and nothing left behind. */
static void check_books(struct player *p, const struct tally_totals *t)
{
	struct sums s = { .octets = { 0 } };
	uint64_t others = 0;

	add_up(p, &s);
	for (size_t i = 0; i < 8; i++) {
		s.octets[0] += t->unparsed_bytes[0][i];
		s.octets[1] += t->unparsed_bytes[1][i];
	}
	for (size_t i = 0; i < TALLY_ATTR_COUNT; i++)
		others += t->unattributed[i];
	for (int dir = 0; dir < 2; dir++) {
		must(t->bytes[dir] == p->sent[dir], "octets that passed");
		must(s.octets[dir] == p->sent[dir], "octets in exactly one place");
	}
	must(s.answered == t->seen, "final heads");
	must(s.keyed == t->attributed && s.answered - s.keyed == others, "attributed");
	must(s.aborted == t->aborted, "aborted");
	must(t->held_enter == t->held_leave, "held");
	must(!tally_meter_candidates(p->meter) && !tally_meter_pieces(p->meter), "leaks");
	must(!t->gaps[TALLY_GAP_LOOP_LIMIT] && !t->gaps[TALLY_GAP_LOAD_FAILED], "loops");
}

static char *outcome(struct player *p, const struct tally_totals *t)
{
	size_t n = tally_meter_rows(p->meter), bytes = 0;
	char **lines = calloc(n + 1, sizeof(char *)), *text = NULL;
	FILE *out = open_memstream(&text, &bytes);

	must(lines && out, "memory");
	for (size_t i = 0; i < n; i++)
		lines[i] = row_text(p, tally_meter_row(p->meter, i));
	qsort(lines, n, sizeof(lines[0]), by_text);
	for (size_t i = 0; i < n; i++) {
		fprintf(out, "%s\n", lines[i]);
		free(lines[i]);
	}
	for (int dir = 0; dir < 2; dir++)
		for (int i = 0; i < TALLY_UNPARSED_COUNT; i++)
			if (t->unparsed_bytes[dir][i])
				fprintf(out, "unparsed %d, reason %d: %llu\n", dir, i,
					t->unparsed_bytes[dir][i]);
	fclose(out);
	free(lines);
	return text;
}

static void show(const struct engine_script *script)
{
	for (size_t i = 0; i < script->n_steps; i++) {
		const struct engine_step *st = &script->steps[i];

		fprintf(stderr, "--- %s%s\n", st->kind == ENGINE_FIN ? "fin " : "",
			st->dir ? "server" : "client");
		for (size_t j = 0; j < st->len; j++) {
			uint8_t c = st->data[j];

			if (c == '\n')
				fputs("\\n\n", stderr);
			else if (c == '\r')
				fputs("\\r", stderr);
			else if (c < ' ' || c > '~' || c == '\\')
				fprintf(stderr, "\\x%02x", c);
			else
				fputc(c, stderr);
		}
		fputc('\n', stderr);
	}
}

char *engine_play(const struct engine_script *script, const struct engine_plan *plan)
{
	struct tally_meter_options options = { .candidates = 64,
					       .pieces = 2 * TALLY_PARK_PIECES,
					       .guarded = true,
					       .fill = plan->fill };
	struct tally_meter_birth birth = { .rules = script->rules,
					   .cookie = 1,
					   .midstream = script->midstream,
					   .next_in = plan->isn[0],
					   .next_out = plan->isn[1] };
	struct player p = { .plan = plan, .rules = script->rules, .seed = plan->seed };
	struct tally_meter_segment last = { 0 };
	char *text;

	if (is_shown() && plan->cut == ENGINE_WHOLE)
		show(script);
	must(!tally_meter_new(&options, &p.meter), "memory");
	must(!tally_meter_open(p.meter, &birth, &p.conn), "memory");
	for (size_t i = 0; i < script->n_steps; i++)
		play_step(&p, &script->steps[i]);
	fill_tcp(&p, &last);
	must(!tally_meter_close(p.meter, p.conn, &last), "close");
	text = outcome(&p, tally_meter_totals(p.meter, 0));
	if (is_shown())
		fprintf(stderr, "cut %d, seed %ju:\n%s", plan->cut, (uintmax_t)plan->seed, text);
	check_books(&p, tally_meter_totals(p.meter, 0));
	tally_meter_free(p.meter);
	return text;
}

static void compare(const struct engine_script *script, const char *expected,
		    const struct engine_plan *plan)
{
	static const char *const cuts[] = { "whole", "octet by octet", "in pieces", "reordered" };
	char *found = engine_play(script, plan);

	if (strcmp(expected, found)) {
		fprintf(stderr, "whole:\n%s%s (seed %ju, fill %#x):\n%s", expected, cuts[plan->cut],
			(uintmax_t)plan->seed, plan->fill, found);
		abort();
	}
	free(found);
}

void engine_check(const struct engine_script *script, uint64_t seed)
{
	struct engine_plan plan = { .isn = { 1, 2 } };
	char *expected = engine_play(script, &plan);

	plan.fill = (uint8_t)engine_random(&seed);
	plan.cut = ENGINE_BYTES;
	plan.isn[0] = -7u;
	plan.isn[1] = 0x7ffffff0;
	compare(script, expected, &plan);
	plan.cut = ENGINE_RANDOM;
	plan.seed = engine_random(&seed);
	plan.fill = (uint8_t)engine_random(&seed);
	compare(script, expected, &plan);
	free(expected);
}
