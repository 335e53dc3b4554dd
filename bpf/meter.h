/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The meter: segments of TCP in, rows of the ledger out. It puts segments in stream order, drives
 * the engine over them, and books what the engine finds. One source for the kernel (skb.h gives the
 * ports) and for native use (user/replay, tests).
 *
 *	segment ── place ─┬─ in order ── feed ── events ── book
 *	                  ├─ old: compared where TCP has not taken it yet (R9), else dropped
 *	                  ├─ ahead, in a body of known length: the gap is skipped by length
 *	                  └─ ahead: parked in pieces until the gap fills
 *
 * The ports, defined by whoever includes this file:
 *	port_load(pkt, run, chunk, off, n)	octets of the segment into a chunk
 *	port_row_add(run, c, key)		run->delta to the row of that key
 *	port_row_found(run, key, delta)		the same of a delta without late_bytes, if there is that row: 1, or 0
 *	port_key_known(run, hash)		is it in the dictionary?
 *	port_key_learn(run, hash, ticket, guess)	the candidate becomes an entry: 0, or -1: full
 *	port_key_guess(run)			one more may be learnt from an error: 0, or -1
 *	port_candidate_take(run, p, hash)	keep the key text of parser p: a ticket, or 0: no room
 *	port_candidate_drop(run, ticket)
 *	port_spill(run, p)			move p->key_text to p->spill_slot
 *	port_park(pkt, run, c, at)		keep octets from `at` on: 0, or -1: no room
 *	port_parked_at(run, c, i, &seq)		where piece i begins; 0: none
 *	port_parked(run, c, i, &seq, &len)	its octets; 0: none
 *	port_unpark(run, c, i)			piece i becomes the segment of the run; 0: none
 *	port_park_drop(run, c, i)
 *	port_keep(run, c)			copy c->seen to a piece of c->kept, if there is room
 *	port_kept(run, c, i, &seq, &len)	its octets; 0: none
 *	port_kept_drop(run, c, i)
 *
 * Invariants: M1 the direction's lock is held while its parser is touched; M2 every octet that
 * passes is in exactly one of: a row, an exchange or head not yet answered, unparsed_bytes.
 */
#ifndef TALLY_METER_H
#define TALLY_METER_H

#include "engine/conn.h"
#include "run.h"

#ifdef __bpf__
#define TALLY_PACKET struct __sk_buff
#else
#define TALLY_PACKET void
#endif

TALLY_INLINE __u64 meter_take(__u64 *v)
{
	return __sync_lock_test_and_set(v, 0);
}

/*
 * Octets for whoever takes them, perhaps at the same time. An addition whose old value is fetched is ordered
 * before what is read next; one without is not, on arm64 (the kernel's atomic_t.txt, "ORDERING").
 */
TALLY_INLINE void meter_share(__u64 *v, __u64 n)
{
	__u64 old = __sync_fetch_and_add(v, n);

	tally_opaque(old);
}

TALLY_INLINE struct tally_h1 *meter_parser(struct tally_conn *c, __u32 dir)
{
	return &c->way[conn_side(dir)].h1;
}

TALLY_INLINE __u32 meter_next(const struct tally_conn *c, __u32 dir)
{
	return c->way[conn_side(dir)].next;
}

TALLY_INLINE int meter_unparsed(struct tally_totals *t, __u32 dir, __u32 reason, __u64 n)
{
	t->unparsed_bytes[conn_side(dir)][reason] += n;
	return 0;
}

/* ---- booking ---- */

/* Add run->delta to the row of x, if there is anything to add. */
TALLY_INLINE void meter_add(struct tally_run *run, struct tally_conn *c, struct tally_exchange *x)
{
	struct tally_row_key key;
	struct tally_delta *d = &run->delta;

	if (!(d->requests | d->request_bytes | d->response_bytes | d->late_bytes))
		return;
	tally_conn_row_key(c, x, run->hour, &key);
	port_row_add(run, c, &key);
	d->requests = 0;
	d->incomplete = 0;
	d->request_bytes = 0;
	d->response_bytes = 0;
	d->duration_ns = 0;
	d->late_bytes = 0;
}

TALLY_GLOBAL int meter_book(struct tally_run *run, struct tally_conn *c, struct tally_exchange *x)
{
	if (run && c && x)
		meter_add(run, c, x);
	return 0;
}

/* Octets of requests that wait with x go to the delta; each octet is taken once. OUT's lock is held. */
TALLY_INLINE void meter_take_request_bytes(struct tally_run *run, struct tally_conn *c,
					   struct tally_exchange *x)
{
	/* Nobody adds to them; but the slot's next request must not find them zeroed late. */
	if (TALLY_STORES_IN_ORDER && x->flags & EX_WHOLE && !c->tunnel) {
		run->delta.request_bytes += x->request_bytes;
		x->request_bytes = 0;
	} else {
		run->delta.request_bytes += meter_take(&x->request_bytes);
	}
	if (x->flags & EX_ORPHAN)
		run->delta.request_bytes += meter_take(&c->over_bytes);
}

TALLY_INLINE void meter_count_booked(struct tally_totals *t, const struct tally_exchange *x)
{
	__u32 a = x->attribution;

	if (!x->status) {
		t->aborted++;
	} else if (a == TALLY_ATTR_KEY) {
		t->attributed++;
	} else {
		tally_opaque(a);
		t->unattributed[a & 7]++;
	}
}

/* The response of x is over: book it. incomplete: it was cut short. */
TALLY_GLOBAL int meter_end_response(struct tally_run *run, struct tally_conn *c,
				    struct tally_exchange *x, struct tally_totals *t,
				    int incomplete)
{
	struct tally_h1 *p;

	if (!run || !c || !x || !t)
		return 0;
	p = &c->way[TALLY_OUT].h1;
	meter_take_request_bytes(run, c, x);
	run->delta.requests = 1;
	run->delta.incomplete = incomplete;
	run->delta.response_bytes += p->octets;
	run->delta.duration_ns = run->now > x->start_ns ? run->now - x->start_ns : 0;
	p->octets = 0;
	t->held_leave++;
	meter_count_booked(t, x);
	meter_add(run, c, x);
	return 0;
}

/* ---- keys ---- */

/* The request's key: known, or kept as a candidate until the response says. */
TALLY_INLINE void meter_key_lookup(struct tally_run *run, struct tally_conn *c,
				   struct tally_exchange *x, struct tally_totals *t)
{
	struct tally_h1 *p = &c->way[TALLY_IN].h1;

	if (!(x->flags & EX_UNKNOWN))
		return;
	if (conn_knows(c, x, run->epoch_number) || port_key_known(run, x->key)) {
		x->flags &= ~EX_UNKNOWN;
		c->known_key = x->key;
		c->known_epoch = run->epoch_number;
		return;
	}
	x->candidate = port_candidate_take(run, p, x->key);
	if (!x->candidate) {
		x->flags |= EX_NO_ROOM;
		t->gaps[TALLY_GAP_CANDIDATE_FULL]++;
	}
}

/*
 * Anybody can have errors answered, 404 before a key is looked at: such an answer says little of the key, and
 * but so many are learnt from it. What the server names itself is no guess.
 */
TALLY_INLINE int meter_key_guessed(const struct tally_exchange *x)
{
	return x->status >= 400 && !(x->flags & EX_NAMED);
}

/* A response has answered a request whose key was unknown: learn it, or not. */
TALLY_INLINE void meter_key_decide(struct tally_run *run, struct tally_exchange *x,
				   struct tally_totals *t)
{
	if (x->attribution != TALLY_ATTR_KEY || port_key_known(run, x->key)) {
		;
	} else if (x->status == 401 || x->status == 403) {
		conn_attribute(x, TALLY_ATTR_ANONYMOUS, TALLY_DETAIL_REJECTED_KEY);
	} else if (x->flags & EX_NO_LEARN) {
		conn_attribute(x, TALLY_ATTR_ANONYMOUS, TALLY_DETAIL_UNVERIFIED_KEY);
	} else if (!x->candidate) {
		conn_attribute(x, TALLY_ATTR_DICTIONARY_FULL, TALLY_DETAIL_NO_CANDIDATE);
	} else if (meter_key_guessed(x) && port_key_guess(run)) {
		conn_attribute(x, TALLY_ATTR_ANONYMOUS, TALLY_DETAIL_UNVERIFIED_KEY);
		t->guesses_full++;
	} else if (port_key_learn(run, x->key, x->candidate, meter_key_guessed(x))) {
		conn_attribute(x, TALLY_ATTR_DICTIONARY_FULL, 0);
		t->gaps[TALLY_GAP_DICTIONARY_FULL]++;
	} else {
		x->candidate = 0;
	}
	x->flags &= ~EX_UNKNOWN;
}

/* ---- events ---- */

/* Empty lines before a request line (RFC 9112 2.2) are octets of no request. */
TALLY_INLINE void meter_take_blank(struct tally_h1 *p, struct tally_totals *t)
{
	if (!p->blank)
		return;
	meter_unparsed(t, TALLY_IN, TALLY_UNPARSED_BLANK, p->blank);
	p->octets -= p->blank;
	p->blank = 0;
}

TALLY_INLINE void meter_request_head(struct tally_run *run, struct tally_conn *c,
				     const struct tally_rules *r, struct tally_totals *t)
{
	struct tally_h1 *p = &c->way[TALLY_IN].h1;
	struct tally_exchange *x;

	p->head_flags = conn_head_flags(p, r);
	x = tally_conn_request_head(c, r, run->seq + run->at);
	meter_take_blank(p, t);
	if (p->octets == p->pos)
		h1_remember(p, r, p->pos);
	c->in_over = !x;
	if (x) {
		meter_key_lookup(run, c, x, t);
		x->request_bytes = p->octets;
		p->octets = 0;
		conn_push(c, x);
	} else {
		meter_share(&c->over_bytes, p->octets);
		p->octets = 0;
		if (tally_conn_push_over(c))
			h1_bad(p, TALLY_DETAIL_PIPELINE_DEPTH);
	}
	if (p->spill_slot) {
		port_candidate_drop(run, p->spill_slot);
		p->spill_slot = 0;
	}
}

/* Octets of a request whose head is known go to its exchange, and from there to its row. */
TALLY_INLINE void meter_request_octets(struct tally_run *run, struct tally_conn *c)
{
	struct tally_h1 *p = &c->way[TALLY_IN].h1;
	struct tally_exchange *x = c->tunnel ? conn_front(c) : conn_last(c);

	if (!p->octets)
		return;
	if (c->in_over && !c->tunnel) {
		meter_share(&c->over_bytes, p->octets);
		p->octets = 0;
		return;
	}
	if ((__s32)(run->rcv_nxt - x->head_end) >= 0)
		x->taken = 1;
	meter_share(&x->request_bytes, p->octets);
	p->octets = 0;
	if (x->answered) {
		run->delta.late_bytes += meter_take(&x->request_bytes);
		meter_book(run, c, x);
	}
}

TALLY_INLINE void meter_response_final(struct tally_run *run, struct tally_conn *c,
				       const struct tally_rules *r, struct tally_totals *t)
{
	struct tally_h1 *p = &c->way[TALLY_OUT].h1;
	struct tally_exchange *x;

	t->seen++;
	x = tally_conn_response_head(c, r, run->rcv_nxt, run->now);
	if (x->flags & EX_NAMED && x->attribution == TALLY_ATTR_KEY) {
		if (x->candidate)
			port_candidate_drop(run, x->candidate);
		x->candidate =
			port_key_known(run, x->key) ? 0 : port_candidate_take(run, p, x->key);
	}
	if (x->flags & EX_UNKNOWN)
		meter_key_decide(run, x, t);
	if (x->candidate)
		port_candidate_drop(run, x->candidate);
	x->candidate = 0;
	conn_own(c, x);
	/* Before octets are taken, by an exchange: who adds some behind it sees that it is answered. */
	tally_publish(&x->answered, 1);
	t->held_enter++;
}

TALLY_INLINE void meter_response_head(struct tally_run *run, struct tally_conn *c,
				      const struct tally_rules *r, struct tally_totals *t)
{
	struct tally_h1 *p = &c->way[TALLY_OUT].h1;
	struct tally_exchange *x;

	if (p->status < 200 && p->status != 101) {
		tally_h1_frame_response(p, 0, 0); /* interim: its octets wait for the final head */
		return;
	}
	meter_response_final(run, c, r, t);
	x = conn_front(c);
	tally_conn_frame_response(c, x);
	if (p->octets == p->pos && p->pos <= TALLY_REPLY && h1_recall_turn(p, c->tail) &&
	    h1_remember_response(p, r, p->pos))
		h1_keep_reply(&c->reply, &run->chunk, p->pos);
	if (p->state == H1_START) {
		meter_end_response(run, c, x, t, 0);
		tally_conn_pop(c, x);
	} else if (p->state == H1_TUNNEL) {
		meter_end_response(run, c, x, t, 0); /* counted once; then octets only */
		c->responding = 0;
	}
	if (p->spill_slot) {
		port_candidate_drop(run, p->spill_slot);
		p->spill_slot = 0;
	}
}

TALLY_GLOBAL int meter_event(struct tally_run *run, struct tally_conn *c,
			     const struct tally_rules *r, struct tally_totals *t)
{
	struct tally_h1 *p;
	__u8 event;

	if (!run || !c || !r || !t)
		return 0;
	p = meter_parser(c, run->dir);
	event = p->event;
	p->event = TALLY_EV_MORE;
	if (event == TALLY_EV_SPILL) {
		tally_h1_key_hash(p, r);
		port_spill(run, p);
	} else if (run->dir == TALLY_IN) {
		if (event == TALLY_EV_HEAD)
			meter_request_head(run, c, r, t);
		else
			meter_request_octets(run, c);
	} else if (event == TALLY_EV_HEAD) {
		meter_response_head(run, c, r, t);
	} else if (c->responding) {
		struct tally_exchange *x = conn_front(c);

		meter_end_response(run, c, x, t, 0);
		tally_conn_pop(c, x);
	}
	return 0;
}

/* ---- feeding ---- */

struct meter_loop {
	TALLY_PACKET *pkt;
	struct tally_run *run;
	struct tally_conn *c;
	const struct tally_rules *r;
	struct tally_totals *t;
};

/*
 * Octets of a stretch of a body, from..to, are not looked at. What TCP has not taken may come again, and
 * need not be compared then. Returns 0: too many such stretches.
 */
TALLY_INLINE int meter_hole(const struct tally_run *run, struct tally_conn *c, __u32 from, __u32 to)
{
	if ((__s32)(run->rcv_nxt - to) >= 0)
		return 1;
	for (__u32 i = 0; i < TALLY_HOLES; i++) {
		struct tally_hole *h = &c->hole[i];

		if (h->from != h->to && (__s32)(h->to - run->rcv_nxt) > 0)
			continue;
		h->from = from;
		h->to = to;
		c->holes = 1;
		return 1;
	}
	return 0;
}

/*
 * What was looked at makes room for octets from run->at on. If it came with an earlier segment and TCP
 * has not taken it yet, it is kept: it may come again, and differ (R9).
 */
TALLY_INLINE void meter_look_further(struct tally_run *run, struct tally_conn *c)
{
	__u32 at = run->seq + run->at;

	if (c->parsed_to != at)
		meter_hole(run, c, c->parsed_to, at);
	if (!run->loads && c->seen_len && (__s32)(c->seen_at + c->seen_len - run->rcv_nxt) > 0)
		port_keep(run, c);
	run->loads++;
}

/* The next octets of the segment into the chunk that the parser looks at. Returns 0, or -1. */
TALLY_GLOBAL int meter_load(TALLY_PACKET *pkt, struct tally_run *run, struct tally_conn *c)
{
	struct tally_chunk *chunk;
	struct tally_h1 *p;
	__u32 n;

	if (!run || !c)
		return -1;
	chunk = run->dir == TALLY_IN ? &c->seen : &run->chunk;
	p = meter_parser(c, run->dir);
	n = run->len - run->at;
	if (n > TALLY_CHUNK)
		n = TALLY_CHUNK;
	if (run->dir == TALLY_IN) {
		p->recall_len = 0;
		meter_look_further(run, c);
	}
	if (port_load(pkt, run, chunk, run->off + run->at, n))
		return -1;
	p->pos = 0;
	p->end = n;
	run->loaded = run->at;
	if (run->dir == TALLY_IN) {
		c->seen_at = run->seq + run->at;
		c->seen_len = n;
		c->parsed_to = c->seen_at + n;
	}
	return 0;
}

static long meter_feed_step(__u32 i, void *ctx)
{
	struct meter_loop *l = ctx;
	struct tally_run *run = l->run;
	struct tally_h1 *p = meter_parser(l->c, run->dir);

	(void)i;
	if (run->at >= run->len)
		return 1;
	if (p->state == H1_START && run->dir == TALLY_IN)
		l->c->begun_ns = run->now;
	if (p->pos < p->end) {
		if (run->dir == TALLY_IN)
			tally_h1_run(p, &l->c->seen, l->r);
		else
			tally_h1_run(p, &run->chunk, l->r);
		run->at = run->loaded + p->pos;
	} else if (p->state <= H1_SKIPPING) {
		run->at += tally_h1_skip(p, run->len - run->at);
	} else if (meter_load(l->pkt, run, l->c)) {
		l->t->gaps[TALLY_GAP_LOAD_FAILED]++;
		return 1;
	}
	if (p->event)
		meter_event(run, l->c, l->r, l->t);
	return 0;
}

/* Octets run->at .. run->len, which are in order, through the parser. */
TALLY_GLOBAL int meter_feed(TALLY_PACKET *pkt, struct tally_run *run, struct tally_conn *c,
			    const struct tally_rules *r, struct tally_totals *t)
{
	struct meter_loop l = { pkt, run, c, r, t };
	struct tally_h1 *p;

	if (!run || !c || !r || !t)
		return 0;
	p = meter_parser(c, run->dir);
	p->pos = 0;
	p->end = 0;
	run->loaded = run->at;
	run->loads = 0;
	tally_loop(1 << 18, meter_feed_step, &l);
	if (run->at < run->len)
		t->gaps[TALLY_GAP_LOOP_LIMIT]++;
	c->way[conn_side(run->dir)].next = run->seq + run->at;
	return 0;
}

/* ---- stream order ---- */

struct meter_compare_loop {
	struct tally_run *run;
	const struct tally_chunk *chunk;
};

static long meter_compare_step(__u32 i, void *ctx)
{
	struct meter_compare_loop *l = ctx;
	__u32 x = l->run->compare + i, y = i;

	tally_opaque(x);
	tally_opaque(y);
	if (l->chunk->b[x & (TALLY_CHUNK - 1)] != l->run->chunk.b[y & (TALLY_CHUNK - 1)]) {
		l->run->differs = 1;
		return 1;
	}
	return 0;
}

/*
 * Stream positions run->from..to of the segment against the chunk's octets, len of which stand at `at`;
 * run->from moves on past what was compared. Sets run->differs: they do, or cannot be read.
 */
TALLY_GLOBAL int meter_compare(TALLY_PACKET *pkt, struct tally_run *run,
			       const struct tally_chunk *chunk, __u32 at, __u32 len)
{
	struct meter_compare_loop l = { run, chunk };
	__u32 n;

	if (!run || !chunk)
		return 0;
	n = run->to - run->from;
	run->compare = run->from - at;
	if (n > len - run->compare)
		n = len - run->compare;
	if (n > TALLY_CHUNK ||
	    port_load(pkt, run, &run->chunk, run->off + (run->from - run->seq), n)) {
		run->differs = 1;
		return 0;
	}
	tally_loop(n & (2 * TALLY_CHUNK - 1), meter_compare_step, &l);
	run->from += n;
	return 0;
}

struct meter_repeat_loop {
	TALLY_PACKET *pkt;
	struct tally_run *run;
	struct tally_conn *c;
};

TALLY_INLINE int meter_within(__u32 pos, __u32 from, __u32 to)
{
	return (__s32)(pos - from) >= 0 && (__s32)(pos - to) < 0;
}

/* Compares with kept piece i, if run->from stands in it. */
static long meter_kept_step(__u32 i, void *ctx)
{
	struct meter_repeat_loop *l = ctx;
	const struct tally_chunk *chunk;
	__u32 seq, len;

	chunk = port_kept(l->run, l->c, i, &seq, &len);
	if (!chunk || !meter_within(l->run->from, seq, seq + len))
		return 0;
	meter_compare(l->pkt, l->run, chunk, seq, len);
	return 1;
}

/* Moves run->from on: over a stretch that was not looked at, or by comparing. */
static long meter_repeat_step(__u32 i, void *ctx)
{
	struct meter_repeat_loop *l = ctx;
	struct tally_run *run = l->run;
	struct tally_conn *c = l->c;
	__u32 from = run->from;

	(void)i;
	if (run->differs || (__s32)(run->to - from) <= 0)
		return 1;
	for (__u32 k = 0; k < TALLY_HOLES; k++)
		if (meter_within(run->from, c->hole[k].from, c->hole[k].to))
			run->from = c->hole[k].to;
	if (run->from != from)
		return 0;
	if (meter_within(from, c->seen_at, c->seen_at + c->seen_len))
		meter_compare(l->pkt, run, &c->seen, c->seen_at, c->seen_len);
	else
		tally_loop(TALLY_KEPT, meter_kept_step, l);
	run->differs |= run->from == from; /* nobody remembers these octets */
	return 0;
}

/*
 * A segment repeats octets that TCP has not taken yet (their first copy may have been refused: bad
 * checksum, old timestamp): they must be the same octets (R9). Octets skipped as body do not matter.
 * Returns 0: same, or nobody can tell a difference; 1: they differ, or cannot be compared.
 */
TALLY_GLOBAL int meter_conflicts(TALLY_PACKET *pkt, struct tally_run *run, struct tally_conn *c)
{
	struct meter_repeat_loop l = { pkt, run, c };

	if (!run || !c)
		return 0;
	run->differs = 0;
	run->from = run->seq;
	run->to = run->seq + run->len;
	if ((__s32)(run->from - run->rcv_nxt) < 0)
		run->from = run->rcv_nxt;
	if ((__s32)(run->to - c->way[TALLY_IN].next) > 0)
		run->to = c->way[TALLY_IN].next;
	if ((__s32)(run->to - c->parsed_to) > 0)
		run->to = c->parsed_to;
	tally_loop(2 * (TALLY_HOLES + TALLY_KEPT), meter_repeat_step, &l);
	return run->differs & 1;
}

static long meter_overlap_step(__u32 i, void *ctx)
{
	struct meter_repeat_loop *l = ctx;
	struct tally_run *run = l->run;
	const struct tally_chunk *chunk;
	__u32 seq, len;

	chunk = port_parked(run, l->c, i, &seq, &len);
	if (!chunk)
		return 0;
	run->from = run->seq;
	run->to = run->seq + run->len;
	if ((__s32)(seq - run->from) > 0)
		run->from = seq;
	if ((__s32)(run->rcv_nxt - run->from) > 0)
		run->from = run->rcv_nxt;
	if ((__s32)(seq + len - run->to) < 0)
		run->to = seq + len;
	if ((__s32)(run->to - run->from) <= 0)
		return 0;
	meter_compare(l->pkt, run, chunk, seq, len);
	return run->differs & 1;
}

/*
 * The same for octets that wait in parked pieces: of two copies of which TCP may have taken either,
 * neither is believed if they differ. So each pair is compared when its second copy comes.
 */
TALLY_GLOBAL int meter_overlaps(TALLY_PACKET *pkt, struct tally_run *run, struct tally_conn *c)
{
	struct meter_repeat_loop l = { pkt, run, c };

	if (!run || !c)
		return 0;
	run->differs = 0;
	tally_loop(TALLY_PARK_PIECES, meter_overlap_step, &l);
	return run->differs & 1;
}

/* Kept piece i is of no use any more once TCP has taken it. */
static long meter_forget_step(__u32 i, void *ctx)
{
	struct meter_repeat_loop *l = ctx;
	__u32 seq, len;

	if (port_kept(l->run, l->c, i, &seq, &len) && (__s32)(l->run->rcv_nxt - (seq + len)) >= 0)
		port_kept_drop(l->run, l->c, i);
	return 0;
}

/* So are stretches that were not looked at: 4 GiB later their positions are those of other octets. */
TALLY_GLOBAL int meter_forget(struct tally_run *run, struct tally_conn *c)
{
	struct meter_repeat_loop l = { 0, run, c };
	__u32 holes = 0;

	if (!run || !c)
		return 0;
	tally_loop(TALLY_KEPT, meter_forget_step, &l);
	for (__u32 i = 0; i < TALLY_HOLES; i++) {
		struct tally_hole *h = &c->hole[i];

		if ((__s32)(run->rcv_nxt - h->to) >= 0)
			h->from = h->to;
		holes |= h->from != h->to;
	}
	c->holes = holes;
	return 0;
}

/* Of all requests that wait: a long body behind their heads may be that of a later one. */
TALLY_GLOBAL int meter_heads(struct tally_run *run, struct tally_conn *c)
{
	if (!run || !c)
		return 0;
	for (__u32 i = 0; i < TALLY_PIPELINE; i++) {
		struct tally_exchange *x = conn_slot(c, c->tail + i);

		if (i == conn_waiting(c))
			break;
		if ((__s32)(run->rcv_nxt - x->head_end) >= 0)
			x->taken = 1;
	}
	return 0;
}

/* What TCP has taken is compared with nothing any more. */
TALLY_INLINE void meter_taken(struct tally_run *run, struct tally_conn *c)
{
	if (conn_waiting(c) > 1)
		meter_heads(run, c);
	if (c->kept_count | c->holes)
		meter_forget(run, c);
	if (!c->synced[TALLY_IN])
		return;
	if ((__s32)(run->rcv_nxt - c->parsed_to) > 0)
		c->parsed_to = (__s32)(run->rcv_nxt - c->way[TALLY_IN].next) > 0
				       ? c->way[TALLY_IN].next
				       : run->rcv_nxt;
	if ((__s32)(run->rcv_nxt - (c->seen_at + c->seen_len)) >= 0)
		c->seen_len = 0;
}

/* First segment of a direction whose position is not known: join where it begins. */
TALLY_INLINE void meter_join(struct tally_run *run, struct tally_conn *c, struct tally_totals *t)
{
	struct tally_h1 *p = meter_parser(c, run->dir);

	t->gaps[TALLY_GAP_MIDSTREAM_JOIN]++;
	if (run->dir == TALLY_IN) {
		c->way[TALLY_IN].next = run->seq;
		c->synced[TALLY_IN] = 1;
		c->parsed_to = run->seq;
		c->seen_at = run->seq;
		c->seen_len = 0;
		c->far = run->seq;
		if (run->snd_una != run->snd_nxt || run->seq != run->rcv_nxt)
			p->state = H1_BAD; /* an answer is under way: no boundary here */
	} else {
		c->way[TALLY_OUT].next = run->seq;
		c->synced[TALLY_OUT] = 1;
		if (run->snd_una != run->snd_nxt || run->seq != run->snd_nxt)
			p->state = H1_BAD;
	}
}

/* Octets of which nobody here knows what TCP made of them: a new beginning knows no more. */
TALLY_INLINE int meter_unsure(const struct tally_conn *c)
{
	return c->taint == TALLY_DETAIL_CONFLICT || c->taint == TALLY_DETAIL_GAP;
}

/*
 * Joined midway, and now a request begins at a provable boundary: all answers framed from their
 * first octet and acknowledged, no request waiting, none half read. From here on it is exact.
 */
TALLY_INLINE void meter_resync(struct tally_run *run, struct tally_conn *c, struct tally_totals *t)
{
	if (!c->midstream || run->dir != TALLY_IN || !c->synced[TALLY_OUT])
		return;
	if (c->way[TALLY_IN].h1.state != H1_START || c->way[TALLY_OUT].h1.state != H1_START)
		return;
	if (conn_waiting(c) || c->over_head != c->over_tail || c->way[TALLY_OUT].h1.octets)
		return;
	if (run->seq != run->rcv_nxt || run->seq != c->way[TALLY_IN].next)
		return;
	if (run->snd_una != run->snd_nxt || run->snd_nxt != c->way[TALLY_OUT].next)
		return;
	/* The last answer was to what was not seen: of that a body may still come. */
	if (c->on_orphan && !(c->orphan.flags & EX_OVER))
		return;
	/* A doubt of before: it may begin anew, without. */
	if (conn_taint(c) && !meter_unsure(c))
		return;
	c->midstream = 0;
	t->gaps[TALLY_GAP_RESYNC]++;
}

/* Nothing was asked that is not answered, and no message has begun. */
TALLY_INLINE int meter_rests(const struct tally_conn *c)
{
	__u8 in = c->way[TALLY_IN].h1.state, out = c->way[TALLY_OUT].h1.state;

	return !conn_waiting(c) && c->over_head == c->over_tail && !c->responding && !c->tunnel &&
	       (in == H1_START || in == H1_BAD) && (out == H1_START || out == H1_BAD);
}

/*
 * What was read of a connection joined midway is not so, if a client that waits for its answers asks again here:
 *  - answers can be told apart no more;
 *  - one is under way that has no end, or of which nothing came but its head though nobody saw its request (HEAD,
 *    for all that is known), or others wait behind it;
 *  - nobody can read requests, or what was read of them is in doubt;
 *  - a request is half read, and the server has answered another one than that.
 */
TALLY_GLOBAL int meter_astray(struct tally_conn *c)
{
	const struct tally_h1 *in, *out;
	__u32 waiting, unseen;
	int half;

	if (!c)
		return 0;
	in = &c->way[TALLY_IN].h1;
	out = &c->way[TALLY_OUT].h1;
	waiting = conn_waiting(c) + (c->over_head - c->over_tail);
	unseen = c->on_orphan && !(c->orphan.flags & EX_OVER);
	half = in->state != H1_START && in->state != H1_BAD;
	if (out->state == H1_BAD)
		return 1;
	if (c->responding && out->state == H1_CLOSE)
		return unseen || !half;
	if (c->responding)
		return !half && (waiting + unseen > 1 ||
				 (unseen && out->state == H1_BODY && out->remain == out->length));
	if (out->state != H1_START)
		return 0;
	if (in->state == H1_BAD)
		return 1;
	if (half)
		return !waiting && unseen && !out->octets;
	return !waiting && conn_taint(c);
}

/*
 * Joined where no message began, or read wrongly since, nothing can be read of it. Here a request may begin:
 * the server has sent something since octets of one came, and all of that is acknowledged. Not if TCP may hold
 * octets that nobody here does.
 */
TALLY_INLINE int meter_may_join(const struct tally_run *run, struct tally_conn *c)
{
	if (!c->midstream || !c->synced[TALLY_OUT] || run->dir != TALLY_IN || !run->len ||
	    c->tunnel || c->unread || meter_unsure(c))
		return 0;
	if (run->seq != run->rcv_nxt || run->snd_una != run->snd_nxt ||
	    run->snd_nxt == c->sent_then)
		return 0;
	/* It sends just now, on another CPU. */
	if ((__s32)(c->way[TALLY_OUT].next - run->snd_nxt) > 0)
		return 0;
	return meter_astray(c);
}

/*
 * Where the answers stood when octets of a request came last: only midway it matters. What came again, or too
 * early, says nothing of that.
 */
TALLY_INLINE void meter_asked(const struct tally_run *run, struct tally_conn *c)
{
	if (run->dir == TALLY_IN && (__s32)(run->seq - run->rcv_nxt) <= 0 &&
	    (__s32)(run->seq + run->len - run->rcv_nxt) > 0)
		c->sent_then = run->snd_nxt;
}

/* Octets between what was read and pos are gone: no packet will bring them any more. */
TALLY_INLINE void meter_lose(struct tally_run *run, struct tally_conn *c, struct tally_totals *t)
{
	struct tally_h1 *p = meter_parser(c, run->dir);

	t->gaps[TALLY_GAP_NEVER_FILLED]++;
	meter_unparsed(t, run->dir, TALLY_UNPARSED_GAP, run->seq - meter_next(c, run->dir));
	h1_bad(p, TALLY_DETAIL_GAP);
}

/*
 * Behind the last octet that is read for what it says, octets are counted as TCP takes them, whatever
 * order they come in: waiting for them would take room, and believing what comes early a decoy.
 * c->far keeps out the position that a FIN takes.
 */
TALLY_INLINE void meter_follow(struct tally_run *run, struct tally_conn *c, struct tally_totals *t)
{
	struct tally_h1 *p = &c->way[TALLY_IN].h1;
	__u32 to = run->rcv_nxt, next = c->way[TALLY_IN].next;

	if (c->tunnel)
		p->state = H1_TUNNEL;
	if ((p->state != H1_TUNNEL && p->state != H1_BAD) || !c->synced[TALLY_IN])
		return;
	if ((__s32)(to - c->far) > 0)
		to = c->far;
	if ((__s32)(to - next) <= 0)
		return;
	tally_h1_skip(p, to - next);
	c->way[TALLY_IN].next = to;
	t->bytes[TALLY_IN] += to - next;
}

TALLY_INLINE void meter_seen(const struct tally_run *run, struct tally_conn *c)
{
	if ((__s32)(run->seq + run->len - c->far) > 0)
		c->far = run->seq + run->len;
}

/*
 * TCP has taken octets that were not seen. A later copy of them is not what TCP took, and nothing says
 * that it is the same: of this segment only what stands behind them is read, with a gap before it.
 */
TALLY_INLINE void meter_cut(struct tally_run *run, const struct tally_conn *c)
{
	__u32 n = run->rcv_nxt - run->seq;

	if (!c->synced[TALLY_IN] || (__s32)(run->rcv_nxt - c->way[TALLY_IN].next) <= 0 ||
	    (__s32)n <= 0)
		return;
	n = n < run->len ? n : run->len;
	run->seq += n;
	run->off += n;
	run->len -= n;
}

enum meter_placed { PLACED_FEED, PLACED_NOTHING, PLACED_PARK };

/* Where the segment stands in the stream: sets run->at. Returns enum meter_placed. */
TALLY_GLOBAL int meter_place(struct tally_run *run, struct tally_conn *c,
			     const struct tally_rules *r, struct tally_totals *t)
{
	struct tally_h1 *p;
	__u32 next, taken;
	__s32 gap;

	if (!run || !c || !r || !t)
		return PLACED_NOTHING;
	p = meter_parser(c, run->dir);
	next = meter_next(c, run->dir);
	gap = run->seq - next;
	run->at = 0;
	if (gap <= 0) {
		__u32 old = next - run->seq;

		run->at = old < run->len ? old : run->len;
		return run->at < run->len ? PLACED_FEED : PLACED_NOTHING;
	}
	if ((__u32)gap > TALLY_WINDOW_MAX)
		return PLACED_NOTHING;
	if (run->dir == TALLY_IN && (p->state == H1_TUNNEL || p->state == H1_BAD))
		return PLACED_NOTHING; /* meter_follow() */
	/* A gap inside a body of known length, or in what is not looked at, is skipped by length. */
	if (p->state == H1_CLOSE || p->state == H1_TUNNEL || p->state == H1_BAD ||
	    ((p->state == H1_BODY || p->state == H1_CHUNK_DATA) && p->remain >= (__u32)gap &&
	     (run->dir == TALLY_OUT || meter_hole(run, c, next, run->seq)))) {
		tally_h1_skip(p, gap);
		if (p->event)
			meter_event(run, c, r, t);
		return PLACED_FEED;
	}
	taken = run->dir == TALLY_IN ? run->rcv_nxt : run->snd_una;
	if ((__s32)(taken - run->seq) >= 0 && !run->source) {
		meter_lose(run, c, t);
		return PLACED_FEED;
	}
	return PLACED_PARK;
}

/* ---- the end of a run ---- */

/* An answer to HTTP/0.9 has no head: its first octets are the response. */
TALLY_INLINE void meter_http09(struct tally_run *run, struct tally_conn *c,
			       const struct tally_rules *r, struct tally_totals *t)
{
	struct tally_h1 *p = &c->way[TALLY_OUT].h1;

	if (!conn_waiting(c) || conn_slot(c, c->tail)->protocol != TALLY_PROTO_HTTP09 || !p->octets)
		return;
	p->status = 200; /* nobody said so */
	p->protocol = TALLY_PROTO_HTTP09;
	p->key_priority = 0;
	conn_slot(c, c->tail)->flags |= EX_NO_LEARN;
	meter_response_final(run, c, r, t);
	p->state = H1_CLOSE;
}

/* The server has sent FIN, and everything before it was read. */
TALLY_INLINE void meter_out_fin(struct tally_run *run, struct tally_conn *c,
				const struct tally_rules *r, struct tally_totals *t)
{
	struct tally_h1 *p = &c->way[TALLY_OUT].h1;
	struct tally_exchange *x;

	if (p->state == H1_PROTOCOL || p->state == H1_STATUS)
		meter_http09(run, c, r, t);
	if (!c->responding)
		return;
	x = conn_front(c);
	meter_end_response(run, c, x, t, p->state != H1_CLOSE);
	tally_conn_pop(c, x);
	p->state = H1_BAD;
}

/* Octets of a direction that nobody can parse any more. */
TALLY_INLINE void meter_give_up(struct tally_conn *c, __u32 dir, struct tally_totals *t)
{
	struct tally_h1 *p = meter_parser(c, dir);

	if (p->state != H1_BAD || !p->octets)
		return;
	meter_unparsed(t, dir, c->midstream ? TALLY_UNPARSED_MIDSTREAM : TALLY_UNPARSED_GAVE_UP,
		       p->octets);
	p->octets = 0;
}

/* What a run over segments leaves: octets to their rows, FIN, octets that nobody can parse. */
TALLY_GLOBAL int meter_settle(struct tally_run *run, struct tally_conn *c,
			      const struct tally_rules *r, struct tally_totals *t)
{
	struct tally_h1 *p;

	if (!run || !c || !r || !t)
		return 0;
	p = meter_parser(c, run->dir);
	if (run->dir == TALLY_IN) {
		meter_take_blank(p, t);
		if (c->tunnel || p->state < H1_BAD || (p->state > H1_HEAD_LF) ||
		    p->flags & H1_F_TRAILER)
			meter_request_octets(run, c);
	} else {
		if (p->state == H1_BAD && !(c->responding | c->tunnel))
			meter_http09(run, c, r, t);
		if (c->fin_seen[TALLY_OUT] && c->way[TALLY_OUT].next == c->way[TALLY_OUT].fin)
			meter_out_fin(run, c, r, t);
		if ((c->responding | c->tunnel)) {
			struct tally_exchange *x = conn_front(c);

			run->delta.response_bytes += p->octets;
			p->octets = 0;
			meter_take_request_bytes(run, c, x);
			meter_book(run, c, x);
		}
	}
	if (run->dir == TALLY_OUT && p->state == H1_BAD && p->taint && !conn_taint(c))
		c->taint = p->taint; /* answers can be told apart no more */
	meter_give_up(c, run->dir, t);
	return 0;
}

/* Does meter_settle() find anything to do? */
TALLY_INLINE int meter_unsettled(const struct tally_run *run, const struct tally_conn *c)
{
	const struct tally_h1 *p = &c->way[conn_side(run->dir)].h1;

	if (run->dir == TALLY_IN)
		return p->blank || p->octets;
	return c->responding | c->tunnel | c->fin_seen[TALLY_OUT] || p->state == H1_BAD;
}

struct meter_pick_loop {
	struct tally_run *run;
	struct tally_conn *c;
};

static long meter_pick_step(__u32 i, void *ctx)
{
	struct meter_pick_loop *l = ctx;
	struct tally_run *run = l->run;
	__u32 next = meter_next(l->c, run->dir);
	__u32 seq;

	if (!port_parked_at(run, l->c, i, &seq))
		return 0;
	if (run->piece == TALLY_PARK_PIECES || (__s32)(seq - next) < run->nearest) {
		run->piece = i;
		run->nearest = seq - next;
	}
	return 0;
}

/* The parked piece that comes first in the stream, into run. Returns 1, or 0: there is none. */
TALLY_GLOBAL int meter_pick(struct tally_run *run, struct tally_conn *c)
{
	struct meter_pick_loop l = { run, c };

	if (!run || !c)
		return 0;
	run->piece = TALLY_PARK_PIECES;
	tally_loop(TALLY_PARK_PIECES, meter_pick_step, &l);
	if (run->piece >= TALLY_PARK_PIECES)
		return 0;
	return port_unpark(run, c, run->piece);
}

TALLY_INLINE void meter_conflict(struct tally_conn *c, struct tally_totals *t)
{
	c->taint = TALLY_DETAIL_CONFLICT;
	t->gaps[TALLY_GAP_CONFLICT]++;
}

/* Octets that were read before, and are not TCP's yet, must be the same. */
TALLY_INLINE void meter_again(TALLY_PACKET *pkt, struct tally_run *run, struct tally_conn *c,
			      struct tally_totals *t)
{
	__u32 next = c->way[TALLY_IN].next;

	if (c->synced[TALLY_IN] && (__s32)(run->seq - next) < 0 &&
	    (__s32)(run->rcv_nxt - next) < 0 && meter_conflicts(pkt, run, c))
		meter_conflict(c, t);
}

/*
 * A piece that came while somebody held the lock was compared with nothing: now it is, with what was read
 * and with what waits, as TCP stood when it came.
 */
TALLY_INLINE void meter_raw(TALLY_PACKET *pkt, struct tally_run *run, struct tally_conn *c,
			    struct tally_totals *t)
{
	__u32 rcv_nxt = run->rcv_nxt;

	run->rcv_nxt = run->came;
	if (meter_overlaps(pkt, run, c))
		meter_conflict(c, t);
	else
		meter_again(pkt, run, c, t);
	meter_cut(run, c);
	run->rcv_nxt = rcv_nxt;
}

static long meter_unpark_step(__u32 i, void *ctx)
{
	struct meter_loop *l = ctx;
	int placed;

	(void)i;
	if (!meter_pick(l->run, l->c))
		return 1;
	if (l->run->dir == TALLY_IN) {
		meter_seen(l->run, l->c);
		if (l->run->raw)
			meter_raw(l->pkt, l->run, l->c, l->t);
	}
	placed = l->run->len ? meter_place(l->run, l->c, l->r, l->t) : PLACED_NOTHING;
	if (placed == PLACED_PARK)
		return 1;
	if (placed == PLACED_FEED)
		meter_feed(l->pkt, l->run, l->c, l->r, l->t);
	port_park_drop(l->run, l->c, l->run->piece);
	return 0;
}

/* Parked pieces whose turn has come, in stream order. Leaves run->source set: the run is over. */
TALLY_INLINE void meter_unpark(struct meter_loop *l)
{
	if (l->run->dir == TALLY_IN && l->c->tunnel)
		l->c->way[TALLY_IN].h1.state = H1_TUNNEL;
	tally_loop(TALLY_PARK_PIECES, meter_unpark_step, l);
}

TALLY_INLINE __u32 meter_parked(const struct tally_conn *c, __u32 dir)
{
	return c->parked_count[conn_side(dir)];
}

/* All octets by which the stream went on, each once: what rows and unparsed_bytes must add up to. */
TALLY_INLINE void meter_count_octets(const struct tally_run *run, const struct tally_conn *c,
				     struct tally_totals *t, __u32 before)
{
	t->bytes[conn_side(run->dir)] += meter_next(c, run->dir) - before;
}

/*
 * Parked pieces of run->dir whose turn has come by now, and what follows from them. The lock of the
 * direction is held; the run is no segment's afterwards.
 */
TALLY_INLINE void meter_catch_up(struct meter_loop *l)
{
	__u32 before = meter_next(l->c, l->run->dir);

	meter_unpark(l);
	meter_count_octets(l->run, l->c, l->t, before);
	meter_settle(l->run, l->c, l->r, l->t);
}

/* The same before a segment is placed: what is parked may be what stands before it. */
TALLY_INLINE void meter_catch_up_first(struct meter_loop *l)
{
	struct tally_run *run = l->run;
	__u32 seq = run->seq, len = run->len, off = run->off;

	meter_catch_up(l);
	run->seq = seq;
	run->len = len;
	run->off = off;
	run->at = 0;
	run->source = 0;
	run->raw = 0;
}

/*
 * Without data, too, TCP takes note of where the urgent octet stands, which then is not in the stream that
 * the server reads. Far from where the stream is, it would not be TCP's.
 */
TALLY_INLINE int meter_urgent(const struct tally_run *run)
{
	__s32 ahead = run->seq - run->rcv_nxt;

	return run->flags & SEG_URG && ahead <= (__s32)TALLY_URGENT_REACH &&
	       ahead >= -(__s32)TALLY_URGENT_REACH;
}

/*
 * Are `len` octets of the client at `seq` body of known length, which nobody reads, or has read so far? Also
 * asked without the lock: then of octets that are ahead of all that the holder has seen, and what it has not
 * stored yet makes the answer no.
 */
TALLY_INLINE int meter_is_body(const struct tally_conn *c, __u32 seq, __u32 len, __u32 least)
{
	const struct tally_h1 *p = &c->way[TALLY_IN].h1;
	__s32 end = seq + len - *(const volatile __u32 *)&c->way[TALLY_IN].next;
	__u8 state = *(const volatile __u8 *)&p->state;

	return (state == H1_BODY || state == H1_CHUNK_DATA) && (__s32)(seq - least) >= 0 &&
	       (end <= 0 || (__u64)end <= *(const volatile __u64 *)&p->remain);
}

/*
 * TCP may have taken `len` octets of the client at `seq` that are not kept anywhere: what comes in their
 * place later can be compared with nothing. But in such a body nothing of the connection is believed any more.
 */
TALLY_INLINE void meter_unkept(struct tally_conn *c, __u32 seq, __u32 len)
{
	__u8 state = c->way[TALLY_IN].h1.state;

	if (c->taint || !c->synced[TALLY_IN] || state == H1_CLOSE || state == H1_TUNNEL ||
	    state == H1_BAD || meter_is_body(c, seq, len, c->parsed_to))
		return;
	c->taint = TALLY_DETAIL_GAP;
}

/* The same, of what came while somebody else held the lock. */
TALLY_INLINE void meter_unkept_before(struct tally_conn *c)
{
	__u64 unread;

	if (!c->unread)
		return;
	unread = __sync_lock_test_and_set(&c->unread, 0);
	if (unread)
		meter_unkept(c, unread >> 32, (__u32)unread);
}

#define UNKEPT_TRIES 4

/* For who has no lock. Of several such stretches the one that holds them all is remembered. */
TALLY_INLINE void meter_unkept_later(struct tally_conn *c, __u32 seq, __u32 len)
{
	for (int i = 0; i < UNKEPT_TRIES; i++) {
		__u64 old = *(volatile __u64 *)&c->unread;
		__u32 from = old >> 32, end = from + (__u32)old;

		if (!old || (__s32)(from - seq) > 0)
			from = seq;
		if (!old || (__s32)(seq + len - end) > 0)
			end = seq + len;
		if (__sync_val_compare_and_swap(&c->unread, old,
						(__u64)from << 32 | (end - from)) == old)
			return;
	}
	c->taint = TALLY_DETAIL_GAP;
}

/*
 * May a request's octets be others than those TCP takes? Then nothing of the connection is believed.
 */
TALLY_INLINE void meter_doubt(TALLY_PACKET *pkt, struct tally_run *run, struct tally_conn *c,
			      struct tally_totals *t)
{
	meter_taken(run, c);
	if (!run->len && !(run->flags & SEG_URG))
		return;
	if (meter_urgent(run) || (c->parked_count[TALLY_IN] && meter_overlaps(pkt, run, c)))
		meter_conflict(c, t);
	else
		meter_again(pkt, run, c, t);
}

TALLY_INLINE void meter_park(TALLY_PACKET *pkt, struct tally_run *run, struct tally_conn *c,
			     struct tally_totals *t)
{
	t->gaps[TALLY_GAP_PARKED]++;
	if (!port_park(pkt, run, c))
		return;
	t->gaps[TALLY_GAP_PARKED]--;
	t->gaps[TALLY_GAP_PARK_FULL]++;
	if (run->dir == TALLY_IN)
		meter_unkept(c, run->seq + run->at, run->len - run->at);
}

/* Where a FIN stands. Also of a segment that waits for the lock: whoever reads it looks here. */
TALLY_INLINE void meter_fin(const struct tally_run *run, struct tally_conn *c)
{
	__u32 side = conn_side(run->dir);

	if (!(run->flags & SEG_FIN))
		return;
	c->way[side].fin = run->seq + run->len;
	c->fin_seen[side] = 1;
}

/* ---- plain segments: a head that repeats itself, and nothing else is to be said ---- */

/* What nearly no segment has. 0: it is in order, and what the directions have in common says no more. */
TALLY_INLINE __u64 meter_not_plain(const struct tally_run *run, __u32 dir,
				   const struct tally_conn *c, const struct tally_rules *r)
{
	return c->odd | c->parked_count[TALLY_IN] | c->parked_count[TALLY_OUT] | c->unread |
	       (c->over_head ^ c->over_tail) | c->fin_seen[TALLY_OUT] | run->flags |
	       (run->seq ^ c->way[conn_side(dir)].next) | !c->synced[conn_side(dir)] |
	       h1_not_recallable(&c->way[conn_side(dir)].h1, r);
}

/* Is what follows the head in the segment body, and nothing but body? */
TALLY_INLINE int meter_fits(const struct tally_run *run, const struct tally_h1 *p)
{
	return run->len >= p->recall_len && run->len - p->recall_len <= p->length;
}

/*
 * A request whose head is the one before it, octet for octet: an exchange like that one. TCP has taken all
 * that came before, so that nothing needs to be kept for R9; c->seen already holds these octets. Returns 1,
 * or 0: it is not so plain, and nothing of it was read.
 */
TALLY_INLINE int meter_plain_request(TALLY_PACKET *pkt, struct tally_run *run, struct tally_conn *c,
				     const struct tally_rules *r, struct tally_totals *t)
{
	struct tally_h1 *p = &c->way[TALLY_IN].h1;
	__u32 n = p->recall_len, end = run->seq + run->len;
	struct tally_exchange *x;

	if (meter_not_plain(run, TALLY_IN, c, r) | (run->seq ^ run->rcv_nxt) | c->kept_count |
	    c->holes)
		return 0;
	if (!meter_fits(run, p) || conn_many_wait(c) || !h1_recall_turn(p, c->head) ||
	    port_load(pkt, run, &run->chunk, run->off, n))
		return 0;
	if (!h1_same(run->chunk.b, c->seen.b, n, TALLY_CHUNK)) {
		h1_recall_miss(p);
		return 0;
	}
	h1_recall(p, run->len - n);
	c->begun_ns = run->now;
	c->seen_at = run->seq;
	c->seen_len = n;
	c->parsed_to = run->seq + n;
	if ((__s32)(end - c->far) > 0)
		c->far = end;
	c->in_over = 0;
	x = tally_conn_request_again(c, r, run->seq + n);
	x->request_bytes = run->len;
	meter_key_lookup(run, c, x, t);
	conn_push(c, x);
	c->way[TALLY_IN].next = end;
	t->bytes[TALLY_IN] += run->len;
	return 1;
}

/* Is x a request like most, whose answer is framed by its own head alone, and whose key is decided? */
TALLY_INLINE int meter_plain_exchange(const struct tally_run *run, const struct tally_exchange *x)
{
	return !(x->flags & ~(EX_WHOLE | EX_NO_LEARN)) && !x->candidate &&
	       x->protocol != TALLY_PROTO_HTTP09 && conn_head_taken(x, run->rcv_nxt);
}

/*
 * The plain response to x ends where its segment does. Booked here if there is a row already; as any, if not:
 * who makes one has more to do.
 */
TALLY_INLINE void meter_plain_end(struct tally_run *run, struct tally_conn *c,
				  struct tally_exchange *x, struct tally_totals *t)
{
	struct tally_delta d = { .requests = 1, .response_bytes = run->len };

	meter_take_request_bytes(run, c, x);
	d.request_bytes = run->delta.request_bytes;
	d.duration_ns = run->now > x->start_ns ? run->now - x->start_ns : 0;
	tally_conn_row_key(c, x, run->hour, &run->key);
	if (port_row_found(run, &run->key, &d)) {
		run->delta.request_bytes = 0;
		t->held_leave++;
		meter_count_booked(t, x);
	} else {
		c->way[TALLY_OUT].h1.octets = run->len;
		meter_end_response(run, c, x, t, 0);
	}
}

/*
 * The same of a response. Whose turn it is was asked when a head was kept: what is remembered here is of the
 * response just before.
 */
TALLY_INLINE int meter_plain_response(TALLY_PACKET *pkt, struct tally_run *run,
				      struct tally_conn *c, const struct tally_rules *r,
				      struct tally_totals *t)
{
	struct tally_h1 *p = &c->way[TALLY_OUT].h1;
	__u32 n = p->recall_len;
	struct tally_exchange *x;

	if (meter_not_plain(run, TALLY_OUT, c, r) | c->responding)
		return 0;
	x = conn_slot(c, c->tail);
	if (!meter_fits(run, p) || !conn_waits(c, x))
		return 0;
	if (!meter_plain_exchange(run, x) || port_load(pkt, run, &run->chunk, run->off, n))
		return 0;
	if (!h1_same(run->chunk.b, c->reply.b, n, TALLY_REPLY)) {
		h1_recall_miss(p);
		return 0;
	}
	h1_recall(p, run->len - n);
	c->way[TALLY_OUT].next = run->seq + run->len;
	t->bytes[TALLY_OUT] += run->len;
	t->seen++;
	c->on_orphan = 0;
	x->status = p->status;
	conn_own(c, x);
	tally_publish(&x->answered, 1);
	t->held_enter++;
	if (p->state == H1_START) {
		meter_plain_end(run, c, x, t);
		c->tail++;
	} else {
		p->octets = run->len;
		c->responding = 1;
		meter_settle(run, c, r, t);
	}
	return 1;
}

/* ---- segments ---- */

/* Any segment, after what is plain. */
TALLY_GLOBAL int meter_any_segment(TALLY_PACKET *pkt, struct tally_run *run, struct tally_conn *c,
				   const struct tally_rules *r, struct tally_totals *t)
{
	struct meter_loop l = { pkt, run, c, r, t };
	int placed = PLACED_NOTHING;
	__u32 before;

	if (!run || !c || !r || !t)
		return 0;
	if (meter_parked(c, run->dir))
		meter_catch_up_first(&l);
	meter_fin(run, c);
	if (run->dir == TALLY_IN) {
		meter_unkept_before(c);
		meter_doubt(pkt, run, c, t);
	}
	if (run->len && !c->synced[conn_side(run->dir)])
		meter_join(run, c, t);
	if (run->dir == TALLY_IN) {
		if (run->len)
			meter_seen(run, c);
		meter_follow(run, c, t);
		meter_cut(run, c);
	}
	before = meter_next(c, run->dir);
	if (run->len) {
		meter_resync(run, c, t);
		placed = PLACED_FEED;
		run->at = 0;
		if (run->seq != before || !c->synced[conn_side(run->dir)])
			placed = meter_place(run, c, r, t);
	}
	if (placed == PLACED_FEED)
		meter_feed(pkt, run, c, r, t);
	else if (placed == PLACED_PARK)
		meter_park(pkt, run, c, t);
	if (meter_parked(c, run->dir))
		meter_unpark(&l);
	meter_count_octets(run, c, t, before);
	if (meter_unsettled(run, c))
		meter_settle(run, c, r, t);
	return 0;
}

/*
 * One segment of a connection whose service has rules r, if it is plain: returns 1; or 0: then
 * meter_any_segment() is to be called. The caller has filled run and holds the lock of the direction, dir,
 * which each program knows when it is compiled. What TCP has sent (snd_nxt, snd_una) is not asked for here.
 */
TALLY_INLINE int meter_plain_segment(TALLY_PACKET *pkt, struct tally_run *run, __u32 dir,
				     struct tally_conn *c, const struct tally_rules *r,
				     struct tally_totals *t)
{
	run->source = 0;
	return dir == TALLY_IN ? meter_plain_request(pkt, run, c, r, t)
			       : meter_plain_response(pkt, run, c, r, t);
}

/* ---- the end of a connection ---- */

static long meter_abort_step(__u32 i, void *ctx)
{
	struct meter_loop *l = ctx;
	struct tally_conn *c = l->c;
	struct tally_exchange *x = conn_slot(c, c->tail);

	(void)i;
	if (!conn_waiting(c))
		return 1;
	if (x->candidate)
		port_candidate_drop(l->run, x->candidate);
	x->candidate = 0;
	x->status = 0;
	if (c->midstream)
		conn_attribute(x, TALLY_ATTR_MIDSTREAM, 0);
	else if (c->taint || x->flags & EX_TAINTED)
		conn_attribute_tainted(c, l->r, x);
	if (x->flags & EX_UNKNOWN && x->attribution == TALLY_ATTR_KEY)
		conn_attribute(x, TALLY_ATTR_ANONYMOUS, TALLY_DETAIL_UNVERIFIED_KEY);
	if (!conn_head_taken(x, l->run->rcv_nxt)) {
		/* TCP never took this head: nobody has asked for anything. */
		meter_unparsed(l->t, TALLY_IN, TALLY_UNPARSED_GAVE_UP,
			       meter_take(&x->request_bytes));
		c->tail++;
		return 0;
	}
	meter_take_request_bytes(l->run, c, x);
	l->run->delta.requests = 1;
	l->run->delta.duration_ns = l->run->now > x->start_ns ? l->run->now - x->start_ns : 0;
	l->run->delta.response_bytes = c->way[TALLY_OUT].h1.octets;
	c->way[TALLY_OUT].h1.octets = 0;
	meter_count_booked(l->t, x);
	meter_book(l->run, c, x);
	c->tail++;
	return 0;
}

/* Octets that TCP took and nobody saw. A FIN takes a position, too. */
TALLY_INLINE void meter_missed(struct tally_run *run, struct tally_conn *c, struct tally_totals *t)
{
	__u32 n = run->rcv_nxt - c->way[TALLY_IN].next;

	if (c->fin_seen[TALLY_IN] && run->rcv_nxt == c->way[TALLY_IN].fin + 1)
		n--;
	if (!c->synced[TALLY_IN] || (__s32)n <= 0)
		return;
	t->gaps[TALLY_GAP_NEVER_FILLED]++;
	t->bytes[TALLY_IN] += n;
	meter_unparsed(t, TALLY_IN, TALLY_UNPARSED_GAP, n);
	c->way[TALLY_IN].next += n;
}

/*
 * The connection is gone: what was answered in part counts as incomplete, requests without an
 * answer as aborted, octets of half a head as unparsed. Both locks are held.
 */
TALLY_GLOBAL int meter_close(struct tally_run *run, struct tally_conn *c,
			     const struct tally_rules *r, struct tally_totals *t)
{
	struct meter_loop l = { 0, run, c, r, t };
	struct tally_h1 *p;

	if (!run || !c || !r || !t || c->closed)
		return 0;
	p = &c->way[TALLY_OUT].h1;
	meter_follow(run, c, t);
	meter_missed(run, c, t);
	meter_give_up(c, TALLY_IN, t);
	if (c->responding) {
		struct tally_exchange *x = conn_front(c);

		meter_end_response(run, c, x, t, 1);
		tally_conn_pop(c, x);
	}
	if (c->tunnel) {
		struct tally_exchange *x = conn_front(c);

		run->delta.request_bytes += c->way[TALLY_IN].h1.octets;
		run->delta.response_bytes += p->octets;
		c->way[TALLY_IN].h1.octets = 0;
		p->octets = 0;
		meter_take_request_bytes(run, c, x);
		meter_book(run, c, x);
		tally_conn_pop(c, x);
	}
	c->closed = CONN_ENDED;
	c->responding = 0;
	c->tunnel = 0;
	if (conn_waiting(c))
		tally_loop(TALLY_PIPELINE, meter_abort_step, &l);
	if (c->over_head != c->over_tail) {
		struct tally_exchange *x = conn_orphan(c, r, run->now);

		run->delta.requests = c->over_head - c->over_tail;
		run->delta.request_bytes = meter_take(&c->over_bytes);
		x->status = 0;
		t->aborted += run->delta.requests;
		meter_book(run, c, x);
		c->over_tail = c->over_head;
	}
	meter_unparsed(t, TALLY_IN, TALLY_UNPARSED_PARTIAL_HEAD,
		       c->way[TALLY_IN].h1.octets + meter_take(&c->over_bytes));
	meter_unparsed(t, TALLY_OUT, TALLY_UNPARSED_PARTIAL_HEAD, p->octets);
	c->way[TALLY_IN].h1.octets = 0;
	p->octets = 0;
	if (c->way[TALLY_IN].h1.spill_slot)
		port_candidate_drop(run, c->way[TALLY_IN].h1.spill_slot);
	if (p->spill_slot)
		port_candidate_drop(run, p->spill_slot);
	c->way[TALLY_IN].h1.spill_slot = 0;
	p->spill_slot = 0;
	return 0;
}

#endif
