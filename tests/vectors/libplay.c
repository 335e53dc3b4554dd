/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/vectors/libplay.h"

#include <sys/mman.h>

#define HUGE_SEGMENT (1u << 29)
#define PIECES_MAX 16 /* of one shuffled step: with as many repeats, not more than can be parked */
#define PIECES_LONG 8 /* of a step that fills most of what can be parked */
#define STEP_LONG 4096
#define NOW_NS 1790000000000000000ULL

/* One direction, as TCP sees it. Positions count octets of the stream from 0. */
struct stream {
	uint64_t begin; /* of the current step */
	uint64_t sent;	/* highest octet that went out, + 1 */
	uint64_t taken; /* rcv_nxt, or snd_una */
	uint8_t *came;	/* of the current step: octet i came */
	uint64_t len;
};

struct player {
	const struct vector *v;
	const struct play_plan *plan;
	const struct play_target *target;
	struct play_outcome outcome;
	struct stream s[2];
	uint64_t seed, now;
	const struct vector_step *held; /* its beginning has not come yet */
	uint64_t held_at;
	bool urgent, bodies; /* some request has a body */
	void *nothing;	     /* HUGE_SEGMENT octets that must not be read */
};

uint64_t play_random(uint64_t *seed)
{
	uint64_t z = *seed += 0x9e3779b97f4a7c15ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

static uint64_t below(struct player *p, uint64_t n)
{
	return play_random(&p->seed) % n;
}

static uint32_t seq_of(const struct player *p, int dir, uint64_t at)
{
	return p->plan->isn[dir] + (uint32_t)at;
}

static void must_be_0(int r)
{
	if (r)
		abort();
}

static void fill_tcp(struct player *p, struct tally_meter_segment *s)
{
	s->rcv_nxt = seq_of(p, VECTOR_CLIENT, p->s[VECTOR_CLIENT].taken);
	s->snd_nxt = seq_of(p, VECTOR_SERVER, p->s[VECTOR_SERVER].sent);
	s->snd_una = seq_of(p, VECTOR_SERVER, p->s[VECTOR_SERVER].taken);
	s->now_ns = p->now;
}

/* len octets at `at` of the step reach the meter; data 0: nobody may read them. */
static void deliver(struct player *p, int dir, const uint8_t *data, uint64_t at, uint32_t len)
{
	struct stream *s = &p->s[dir];
	struct tally_meter_segment seg = { .dir = (uint8_t)dir, .len = len, .urgent = p->urgent };
	uint8_t *copy = NULL;

	if (data) {
		copy = malloc(len); /* its end is ASan's */
		if (!copy)
			abort();
		memcpy(copy, data, len);
	}
	seg.data = copy ? copy : p->nothing;
	seg.seq = seq_of(p, dir, s->begin + at);
	fill_tcp(p, &seg);
	p->target->segment(&seg);
	p->now += 1000;
	free(copy);
	if (s->begin + at + len > s->sent)
		s->sent = s->begin + at + len;
}

/* TCP gets these octets. */
static void take(struct player *p, int dir, uint64_t at, uint64_t len)
{
	struct stream *s = &p->s[dir];

	if (!s->came) {
		s->taken = s->begin + at + len;
		return;
	}
	memset(s->came + at, 1, len);
	if (dir == VECTOR_CLIENT && !p->plan->lag)
		while (s->taken < s->begin + s->len && s->came[s->taken - s->begin])
			s->taken++;
}

static void send_piece(struct player *p, const struct vector_step *st, uint64_t at, uint64_t len)
{
	deliver(p, st->dir, st->data + at, at, (uint32_t)len);
	take(p, st->dir, at, len);
}

/* Shuffled -------------------------------------------------------------------------------------- */

struct piece {
	uint64_t at, len;
};

/* Cuts of the step at random places. Returns how many pieces. */
static size_t cut(struct player *p, const struct vector_step *st, struct piece *pieces)
{
	uint64_t most = st->len > STEP_LONG ? PIECES_LONG : PIECES_MAX, at[PIECES_MAX + 1], t;
	size_t n = 1 + below(p, TALLY_MIN(st->len, most));

	at[0] = 0;
	at[n] = st->len;
	for (size_t i = 1; i < n; i++)
		at[i] = 1 + below(p, st->len - 1);
	for (size_t i = 1; i < n; i++)
		for (size_t j = i; j > 1 && at[j - 1] > at[j]; j--) {
			t = at[j];
			at[j] = at[j - 1];
			at[j - 1] = t;
		}
	for (size_t i = 0; i < n; i++)
		pieces[i] = (struct piece){ at[i], at[i + 1] - at[i] };
	return n;
}

static void send_random(struct player *p, const struct vector_step *st)
{
	struct piece x;

	x.at = below(p, st->len);
	x.len = 1 + below(p, st->len - x.at);
	/* TCP itself parks what comes early; more than the meter can park is another test. */
	x.len = TALLY_MIN(x.len, (uint64_t)TALLY_CHUNK);
	send_piece(p, st, x.at, x.len);
}

/* What TCP has taken may come again as anything: it is dropped unread. */
static void send_garbage(struct player *p, const struct vector_step *st)
{
	uint64_t taken = p->s[st->dir].taken, at, len;
	uint8_t junk[512];

	if (st->dir != VECTOR_CLIENT || taken <= p->s[st->dir].begin)
		return;
	at = below(p, taken - p->s[st->dir].begin);
	len = TALLY_MIN(taken - p->s[st->dir].begin - at, (uint64_t)sizeof(junk));
	memset(junk, 'G', sizeof(junk));
	deliver(p, st->dir, junk, at, (uint32_t)len);
}

/*
 * Any octets again? Those that were looked at behind a gap in a body, which TCP does not have, can
 * be compared only with the last chunk (bpf/meter.h): then no.
 */
static bool may_repeat(const struct player *p, const struct vector_step *st)
{
	const struct stream *s = &p->s[st->dir];

	if (p->plan->lag || st->len > STEP_LONG)
		return false;
	return !p->bodies || st->dir == VECTOR_SERVER || s->sent == s->taken;
}

static void send_shuffled(struct player *p, const struct vector_step *st)
{
	struct piece pieces[PIECES_MAX], t;
	size_t n = cut(p, st, pieces);

	for (size_t i = n; i > 1; i--) {
		size_t j = below(p, i);

		t = pieces[i - 1];
		pieces[i - 1] = pieces[j];
		pieces[j] = t;
	}
	for (size_t i = 0; i < n; i++) {
		if (pieces[i].len)
			send_piece(p, st, pieces[i].at, pieces[i].len);
		if (!below(p, 4) && may_repeat(p, st))
			send_random(p, st);
		if (!below(p, 4))
			send_garbage(p, st);
	}
}

static void send_pieces(struct player *p, const struct vector_step *st)
{
	struct piece pieces[PIECES_MAX];
	size_t n = cut(p, st, pieces);

	for (size_t i = 0; i < n; i++)
		if (pieces[i].len)
			send_piece(p, st, pieces[i].at, pieces[i].len);
}

/* Steps ----------------------------------------------------------------------------------------- */

static void send_data(struct player *p, size_t index, const struct vector_step *st)
{
	const struct play_plan *plan = p->plan;

	if (plan->mode == PLAY_SPLIT && plan->step == index && plan->at < st->len) {
		send_piece(p, st, 0, plan->at);
		send_piece(p, st, plan->at, st->len - plan->at);
	} else if (plan->mode == PLAY_BYTES) {
		for (uint64_t i = 0; i < st->len; i++)
			send_piece(p, st, i, 1);
	} else if (plan->mode == PLAY_PIECES) {
		send_pieces(p, st);
	} else if (plan->mode == PLAY_SHUFFLE) {
		send_shuffled(p, st);
	} else {
		send_piece(p, st, 0, st->len);
	}
}

static void send_huge(struct player *p, const struct vector_step *st)
{
	if (!p->nothing) {
		p->nothing = mmap(NULL, HUGE_SEGMENT, PROT_NONE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (p->nothing == MAP_FAILED)
			abort();
	}
	for (uint64_t at = 0; at < st->len; at += HUGE_SEGMENT) {
		uint32_t n = (uint32_t)TALLY_MIN(st->len - at, (uint64_t)HUGE_SEGMENT);

		deliver(p, st->dir, NULL, at, n);
		take(p, st->dir, at, n);
	}
}

static void send_fin(struct player *p, const struct vector_step *st)
{
	struct tally_meter_segment seg = { .dir = (uint8_t)st->dir, .fin = true };

	seg.seq = seq_of(p, st->dir, p->s[st->dir].sent);
	fill_tcp(p, &seg);
	p->target->segment(&seg);
}

/* What was held of an earlier step comes now; TCP has all of it then. */
static void send_rest(struct player *p)
{
	struct stream *s = &p->s[VECTOR_CLIENT], now = *s;

	s->begin = p->held_at;
	deliver(p, VECTOR_CLIENT, p->held->data, 0, (uint32_t)(p->held->len - p->held->tail));
	*s = now;
	s->taken = s->begin;
	p->held = NULL;
}

/* The end of the step only. */
static void send_tail(struct player *p, const struct vector_step *st)
{
	uint64_t at = st->len - st->tail;

	deliver(p, st->dir, st->data + at, at, (uint32_t)st->tail);
	p->held = st;
	p->held_at = p->s[st->dir].begin;
}

/* While a step is held, its own decoys. */
static void send_decoy(struct player *p, const struct vector_step *st)
{
	struct stream *s = &p->s[st->dir], now = *s;

	if (p->held)
		s->begin = p->held_at;
	deliver(p, st->dir, st->data, st->ahead, (uint32_t)st->len);
	*s = now;
}

static void play_step(struct player *p, size_t index)
{
	const struct vector_step *st = &p->v->steps[index];
	struct stream *s = &p->s[st->dir];

	if (st->dir == VECTOR_CLIENT && !st->noack)
		p->s[VECTOR_SERVER].taken = p->s[VECTOR_SERVER].sent;
	s->begin = s->sent = s->begin + s->len;
	s->len = st->kind == VECTOR_DECOY ? 0 : st->len;
	p->urgent = st->urgent;
	s->came = st->kind == VECTOR_DATA ? calloc(1, st->len) : NULL;
	if (st->kind == VECTOR_DATA && !s->came)
		abort();
	if (st->tail)
		send_tail(p, st);
	else if (st->kind == VECTOR_DATA)
		send_data(p, index, st);
	else if (st->kind == VECTOR_REST)
		send_rest(p);
	else if (st->kind == VECTOR_HUGE)
		send_huge(p, st);
	else if (st->kind == VECTOR_FIN)
		send_fin(p, st);
	else if (st->kind == VECTOR_WINDOW)
		p->target->window();
	else if (st->kind == VECTOR_DECOY)
		send_decoy(p, st);
	s->sent = s->begin + s->len;
	if (st->dir == VECTOR_CLIENT && (s->len || st->kind == VECTOR_REST) && !p->held)
		s->taken = s->sent;
	free(s->came);
	s->came = NULL;
}

/* Judging --------------------------------------------------------------------------------------- */

struct checker {
	struct play_result *result;
	FILE *out;
};

static void check(struct checker *c, const char *what, uint64_t expected, uint64_t found)
{
	if (expected == found)
		return;
	fprintf(c->out, "%s: expected %ju, found %ju\n", what, (uintmax_t)expected,
		(uintmax_t)found);
	c->result->broken++;
}

static bool has_decoys(const struct vector *v)
{
	for (size_t i = 0; i < v->n_steps; i++)
		if (v->steps[i].kind == VECTOR_DECOY)
			return true;
	return false;
}

/* What holds for every connection that is over, whatever passed on it. */
static void check_books(struct player *p, struct checker *c)
{
	const struct tally_totals *t = &c->result->totals;
	uint64_t octets[2] = { 0, 0 }, answered = 0, aborted = 0, keyed = 0, others = 0;

	for (size_t i = 0; i < p->outcome.n_rows; i++) {
		const struct tally_meter_entry *e = &p->outcome.rows[i];

		octets[0] += e->row.request_bytes;
		octets[1] += e->row.response_bytes;
		if (!e->key.status)
			aborted += e->row.requests;
		else
			answered += e->row.requests;
		if (e->key.status && e->key.attribution == TALLY_ATTR_KEY)
			keyed += e->row.requests;
	}
	for (size_t i = 0; i < TALLY_UNPARSED_COUNT; i++) {
		octets[0] += t->unparsed_bytes[0][i];
		octets[1] += t->unparsed_bytes[1][i];
	}
	for (size_t i = 0; i < TALLY_ATTR_COUNT; i++)
		others += t->unattributed[i];
	check(c, "octets from the client, as counted", t->bytes[0], octets[0]);
	check(c, "octets from the server, as counted", t->bytes[1], octets[1]);
	if (!has_decoys(p->v))
		check(c, "octets from the client", vector_octets(p->v, VECTOR_CLIENT), octets[0]);
	check(c, "octets from the server", vector_octets(p->v, VECTOR_SERVER), octets[1]);
	check(c, "final heads seen", answered, t->seen);
	check(c, "attributed", keyed, t->attributed);
	check(c, "unattributed", answered - keyed, others);
	check(c, "aborted", aborted, t->aborted);
	check(c, "held at the end", t->held_enter, t->held_leave);
	check(c, "candidates in use", 0, p->outcome.candidates);
	check(c, "pieces in use", 0, p->outcome.pieces);
}

/* The rows of several hours and connections are one here. */
static void outcome_text(struct player *p, const struct vector_rules *rules,
			 struct play_result *result)
{
	size_t n = p->outcome.n_rows;
	const struct tally_meter_entry **rows = calloc(n + 1, sizeof(struct tally_meter_entry *));
	struct vector_outcome o = { .n_rows = n, .totals = &result->totals, .key = p->outcome.key };

	if (!rows)
		abort();
	for (size_t i = 0; i < n; i++)
		rows[i] = &p->outcome.rows[i];
	o.rows = rows;
	o.ctx = p->outcome.ctx;
	result->text = vector_actual(rules, &o);
	free(rows);
}

/* The native meter ------------------------------------------------------------------------------ */

#define LEARNED 64

static struct {
	struct tally_meter *meter;
	struct tally_meter_conn *conn;
	struct play_outcome sum; /* over the windows */
} native;

void play_add(struct play_outcome *sum, const struct tally_meter_entry *rows, size_t n,
	      const struct tally_totals *totals)
{
	sum->rows = reallocarray(sum->rows, sum->n_rows + n + 1, sizeof(*rows));
	if (!sum->rows)
		abort();
	if (n)
		memcpy(sum->rows + sum->n_rows, rows, n * sizeof(*rows));
	sum->n_rows += n;
	for (size_t i = 0; i < sizeof(*totals) / sizeof(__u64); i++)
		((__u64 *)&sum->totals)[i] += ((const __u64 *)totals)[i];
}

static void native_window(void)
{
	size_t n = tally_meter_rows(native.meter);

	play_add(&native.sum, NULL, 0, tally_meter_totals(native.meter, 0));
	for (size_t i = 0; i < n; i++)
		play_add(&native.sum, tally_meter_row(native.meter, i), 1,
			 &(struct tally_totals){ 0 });
	tally_meter_swap(native.meter);
}

static void native_open(const struct vector *v, const struct vector_rules *rules,
			const struct tally_meter_options *options,
			const struct tally_meter_birth *birth)
{
	tally_meter_free(native.meter);
	native.meter = NULL;
	free(native.sum.rows);
	native.sum = (struct play_outcome){ 0 };
	must_be_0(tally_meter_new(options, &native.meter));
	for (size_t i = 0; i < v->n_known; i++)
		must_be_0(tally_meter_know(native.meter, rules->rules, v->known[i],
					   strlen(v->known[i])));
	must_be_0(tally_meter_open(native.meter, birth, &native.conn));
}

static void native_segment(const struct tally_meter_segment *segment)
{
	must_be_0(tally_meter_segment(native.meter, native.conn, segment));
}

static const void *native_key(void *ctx, uint64_t hash, size_t *ret_bytes)
{
	return tally_meter_key(ctx, hash, ret_bytes);
}

static char *native_learned(void)
{
	const void *texts[LEARNED];
	size_t bytes[LEARNED], n = tally_meter_keys(native.meter);

	if (n > LEARNED)
		abort();
	for (size_t i = 0; i < n; i++)
		texts[i] = tally_meter_key_nth(native.meter, i, &bytes[i]);
	return vector_learned(texts, bytes, n);
}

static void native_close(const struct tally_meter_segment *last, struct play_outcome *ret_outcome)
{
	struct play_outcome o;

	must_be_0(tally_meter_close(native.meter, native.conn, last));
	native_window();
	o = native.sum;
	native.sum = (struct play_outcome){ 0 };
	o.key = native_key;
	o.ctx = native.meter;
	o.candidates = tally_meter_candidates(native.meter);
	o.pieces = tally_meter_pieces(native.meter);
	o.learned = native_learned();
	*ret_outcome = o;
}

const struct play_target play_native = { native_open, native_segment, native_window, native_close };

static void player_init(struct player *p, const struct vector *v, const struct vector_rules *rules,
			const struct play_plan *plan)
{
	struct tally_meter_options options = v->caps;
	struct tally_meter_birth birth = { .rules = rules->rules,
					   .cookie = 1,
					   .midstream = v->midstream,
					   .next_in = plan->isn[0],
					   .next_out = plan->isn[1] };

	*p = (struct player){ .v = v, .plan = plan, .seed = plan->seed, .now = NOW_NS };
	if (!options.candidates)
		options.candidates = 64; /* more would only take time */
	if (!options.pieces)
		options.pieces = 2 * TALLY_PARK_PIECES;
	options.guarded = true;
	options.fill = plan->fill;
	p->target = plan->target ? plan->target : &play_native;
	p->target->open(v, rules, &options, &birth);
	for (size_t i = 0; i < v->n_steps; i++)
		p->bodies |= v->steps[i].dir == VECTOR_CLIENT && v->steps[i].data &&
			     (memmem(v->steps[i].data, v->steps[i].len, "Content-Length", 14) ||
			      memmem(v->steps[i].data, v->steps[i].len, "Transfer-Encoding", 17));
}

void play(const struct vector *v, const struct vector_rules *rules, const struct play_plan *plan,
	  FILE *out, struct play_result *ret_result)
{
	struct tally_meter_segment last = { 0 };
	struct checker c = { ret_result, out };
	struct player p;

	*ret_result = (struct play_result){ 0 };
	player_init(&p, v, rules, plan);
	for (size_t i = 0; i < v->n_steps; i++)
		play_step(&p, i);
	p.s[VECTOR_SERVER].taken = p.s[VECTOR_SERVER].sent;
	fill_tcp(&p, &last);
	p.target->close(&last, &p.outcome);
	ret_result->totals = p.outcome.totals;
	ret_result->learned = p.outcome.learned;
	check_books(&p, &c);
	outcome_text(&p, rules, ret_result);
	if (p.nothing)
		munmap(p.nothing, HUGE_SEGMENT);
	free(p.outcome.rows);
}

void play_done(struct play_result *result)
{
	free(result->text);
	free(result->learned);
	*result = (struct play_result){ 0 };
}

void play_print_plan(const struct play_plan *plan, FILE *out)
{
	static const char *const modes[] = { "whole", "split", "octet by octet", "pieces",
					     "shuffled" };

	fprintf(out, "%s", modes[plan->mode]);
	if (plan->mode == PLAY_SPLIT)
		fprintf(out, " step %zu before octet %ju", plan->step, (uintmax_t)plan->at);
	if (plan->mode == PLAY_PIECES || plan->mode == PLAY_SHUFFLE)
		fprintf(out, " seed %ju", (uintmax_t)plan->seed);
	fprintf(out, "%s, positions from %u and %u, filled with %#x\n",
		plan->lag ? ", lagging" : "", plan->isn[0], plan->isn[1], plan->fill);
}
