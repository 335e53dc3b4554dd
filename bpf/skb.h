/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The plaintext front end: cgroup_skb programs on ingress and egress. It finds the connection of a
 * packet, and gives meter.h its ports over maps and helpers.
 *
 * What the hook really gives (each pinned by a test in tests/kernel):
 *  - the payload is not in the linear part: bpf_skb_load_bytes only; skb->len is the true length;
 *  - data with the handshake comes with the listener's socket: kept by 4-tuple (`deferred`);
 *  - programs nest and are preempted on one CPU: scratch slots are taken by exchange;
 *  - the hook sees segments that TCP then refuses: meter.h compares (R9).
 */
#ifndef TALLY_BPF_SKB_H
#define TALLY_BPF_SKB_H

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "maps.h"
#include "place.h"

#define PROBES 8
#define HOUR_NS 3600000000000ULL

enum { PASS = 1 };

/*
 * Kernel -> UTC hour, with the agent's cached hour against a division. now: kernel time, 0: the clock is read,
 * which takes as long as all else that is done before the octets.
 */
static __always_inline void run_clock(struct tally_run *run, __u64 now)
{
	__u32 zero = 0;
	struct tally_clock *k = bpf_map_lookup_elem(&clock, &zero);

	run->now = now ? now : bpf_ktime_get_ns();
	if (!k)
		return;
	if (run->now - k->hour_start_ns < HOUR_NS) {
		run->hour = k->hour;
		return;
	}
	if (now) /* paced segments depart later: the hour is the one that IN would find */
		run->now = bpf_ktime_get_ns();
	run->hour = (run->now + k->offset_ns) / HOUR_NS;
}

/* A slot is its taker's alone until it is given back; so are the totals of its level. */
static __always_inline struct tally_scratch *scratch_take(void)
{
	for (__u32 i = 0; i < TALLY_NEST; i++) {
		__u32 key = i;
		struct tally_scratch *s = bpf_map_lookup_elem(&scratch, &key);

		if (!s || __sync_lock_test_and_set(&s->busy, 1))
			continue;
		s->run.level = i;
		return s;
	}
	return 0;
}

/* Its next taker runs on this CPU: no other needs to see what was done before. */
static __always_inline void scratch_give(struct tally_scratch *s)
{
	*(volatile __u32 *)&s->busy = 0;
}

static __always_inline struct tally_totals *totals_in(__u32 index, __u32 level, __u32 service)
{
	void *inner = bpf_map_lookup_elem(&epochs_totals, &index);
	__u32 at = TALLY_TOTALS_AT(level, service);

	return inner ? bpf_map_lookup_elem(inner, &at) : 0;
}

/* Reads the epoch's number, once per run: everything of the run is booked under it, in places, too. */
static __always_inline struct tally_totals *totals_of(struct tally_run *run, __u32 service)
{
	__u32 zero = 0;
	struct tally_epoch *e = bpf_map_lookup_elem(&epoch, &zero);
	__u64 number;

	if (!e)
		return 0;
	number = *(const volatile __u64 *)&e->number;
	run->epoch_number = number;
	run->epoch = TALLY_EPOCH_INDEX(number);
	return totals_in(run->epoch, run->level, service);
}

/* ---- ports ---- */

/* n as a length that helpers take: 1..TALLY_CHUNK, for the verifier, too. */
static __always_inline __u32 chunk_len(__u32 n)
{
	n--;
	n &= TALLY_CHUNK - 1;
	tally_opaque(n);
	return (n & (TALLY_CHUNK - 1)) + 1;
}

/*
 * n octets of a chunk in a map, from `at` on, to the begin of another. Copying is the helpers' work: a
 * loop here costs the verifier more than all the rest.
 */
static __always_inline int chunk_copy(struct tally_chunk *to, struct tally_chunk *from, __u32 at,
				      __u32 n)
{
	struct bpf_dynptr all;

	if (bpf_dynptr_from_mem(from->b, sizeof(from->b), 0, &all))
		return -1;
	return bpf_dynptr_read(to->b, chunk_len(n), &all, at, 0);
}

/* The same to a chunk in a map, where it stands `at`, from anywhere. */
static __always_inline int chunk_store(struct tally_chunk *to, __u32 at, struct tally_chunk *from,
				       __u32 n)
{
	struct bpf_dynptr all;

	if (bpf_dynptr_from_mem(to->b, sizeof(to->b), 0, &all))
		return -1;
	return bpf_dynptr_write(&all, at, from->b, chunk_len(n), 0);
}

/* Payload may hold secrets: nothing of it stays in memory that nobody owns. */
static __noinline int chunk_wipe(struct tally_chunk *c)
{
	__u32 zero = 0;
	struct tally_chunk *blank = bpf_map_lookup_elem(&blank_chunk, &zero);

	return blank && c ? chunk_copy(c, blank, 0, TALLY_CHUNK) : -1;
}

static __noinline int chunk_load(struct tally_run *run, struct tally_chunk *chunk, __u32 off,
				 __u32 n)
{
	__u32 id = run->source - 1;
	struct tally_parked *piece = bpf_map_lookup_elem(&parked, &id);

	return piece && chunk ? chunk_copy(chunk, &piece->data, off, n) : -1;
}

static __always_inline int port_load(struct __sk_buff *skb, struct tally_run *run,
				     struct tally_chunk *chunk, __u32 off, __u32 n)
{
	if (run->source)
		return chunk_load(run, chunk, off, n);
	return bpf_skb_load_bytes(skb, off, chunk->b, chunk_len(n));
}

/* A connection's row is written by who holds its OUT lock; but for late_bytes (row_book), which are IN's. */
static __always_inline void row_add(struct tally_row *row, const struct tally_delta *d)
{
	if (!(d->requests | d->request_bytes | d->response_bytes))
		return;
	row->requests += d->requests;
	row->incomplete += d->incomplete;
	row->request_bytes += d->request_bytes;
	row->response_bytes += d->response_bytes;
	row->duration_ns += d->duration_ns;
}

/* One without connection is anybody's on this CPU, and programs interrupt each other. */
static __always_inline void row_add_shared(struct tally_row *row, const struct tally_delta *d)
{
	if (d->requests)
		__sync_fetch_and_add(&row->requests, d->requests);
	if (d->incomplete)
		__sync_fetch_and_add(&row->incomplete, d->incomplete);
	if (d->request_bytes)
		__sync_fetch_and_add(&row->request_bytes, d->request_bytes);
	if (d->response_bytes)
		__sync_fetch_and_add(&row->response_bytes, d->response_bytes);
	if (d->duration_ns)
		__sync_fetch_and_add(&row->duration_ns, d->duration_ns);
}

/* What the run adds. c: the row is its connection's; NULL: it is anybody's. */
static __always_inline void row_add_run(struct tally_row *row, struct tally_run *run,
					const struct tally_conn *c)
{
	if (run->delta.late_bytes)
		__sync_fetch_and_add(&row->late_bytes, run->delta.late_bytes);
	if (c)
		row_add(row, &run->delta);
	else
		row_add_shared(row, &run->delta);
}

static __always_inline void row_name(struct tally_row *row, const struct tally_conn *c)
{
	__builtin_memcpy(row->peer, c->peer, 16);
	row->peer_port = c->peer_port;
}

/*
 * To the row in the connection's place. Late octets are those of IN, who does not hold OUT's lock, and claims
 * none. Returns 0, or -1: it has no place.
 */
static __always_inline int row_place(struct tally_run *run, const struct tally_conn *c,
				     const struct tally_row_key *key)
{
	struct tally_row *row = run->delta.late_bytes
					? place_find(run->epoch, run->epoch_number, key)
					: place_claim(run->epoch, run->epoch_number, key);

	if (!row)
		return -1;
	if (!row->requests && !run->delta.late_bytes)
		row_name(row, c);
	row_add_run(row, run, c);
	return 0;
}

/*
 * Add to the row, making it if needed. Returns 0, or -1: the map refuses. Keys and values of maps
 * come from the stack or from map values: 6.1 takes them from nowhere else.
 */
static __always_inline int row_book(void *map, const struct tally_row_key *key,
				    struct tally_run *run, const struct tally_conn *c)
{
	struct tally_row *row = bpf_map_lookup_elem(map, key);

	if (!row) {
		__u32 zero = 0;
		struct tally_row *fresh = bpf_map_lookup_elem(&blank_row, &zero);

		if (!fresh)
			return -1;
		bpf_map_update_elem(map, key, fresh, BPF_NOEXIST);
		row = bpf_map_lookup_elem(map, key);
		if (!row)
			return -1;
		if (c)
			row_name(row, c);
	}
	row_add_run(row, run, c);
	return 0;
}

/* Connection's place, or row; else the row without connection; else the totals, which cannot refuse. */
static __always_inline void port_row_add(struct tally_run *run, struct tally_conn *c,
					 struct tally_row_key *key)
{
	struct tally_totals *t;
	__u32 e = run->epoch;
	void *map;

	if (!row_place(run, c, key))
		return;
	map = bpf_map_lookup_elem(&epochs_rows, &e);
	if (map && !row_book(map, key, run, c))
		return;
	t = totals_in(e, run->level, c->service);
	if (t)
		t->gaps[TALLY_GAP_ROW_FULL]++;
	key->conn = bpf_get_smp_processor_id();
	map = bpf_map_lookup_elem(&epochs_spill, &e);
	if (map && !row_book(map, key, run, 0))
		return;
	if (!t)
		return;
	t->gaps[TALLY_GAP_AGG_FULL]++;
	if (key->status) {
		__u32 a = key->attribution;

		tally_opaque(a);
		t->lost.answered[a & 7] += run->delta.requests;
	}
	t->lost.requests += run->delta.requests;
	t->lost.incomplete += run->delta.incomplete;
	t->lost.request_bytes += run->delta.request_bytes + run->delta.late_bytes;
	t->lost.response_bytes += run->delta.response_bytes;
	t->lost.duration_ns += run->delta.duration_ns;
}

static __always_inline int port_row_found(struct tally_run *run, const struct tally_row_key *key,
					  const struct tally_delta *d)
{
	struct tally_row *row = place_find(run->epoch, run->epoch_number, key);

	if (!row) {
		__u32 e = run->epoch;
		void *map = bpf_map_lookup_elem(&epochs_rows, &e);

		row = map ? bpf_map_lookup_elem(map, key) : 0;
	}
	if (row)
		row_add(row, d);
	return row != 0;
}

static __always_inline int port_key_known(struct tally_run *run, __u64 hash)
{
	return bpf_map_lookup_elem(&dictionary, &hash) != 0;
}

/* FREE -> HELD, one generation on. Returns the word that says so, 0: it is not free. */
static __always_inline __u32 candidate_hold(__u32 *state)
{
	__u32 old = *(volatile __u32 *)state, held = (old + TALLY_CAND_NEXT) | TALLY_CAND_HELD;

	if (TALLY_CAND_STATE(old) != TALLY_CAND_FREE ||
	    __sync_val_compare_and_swap(state, old, held) != old)
		return 0;
	return held;
}

static __always_inline int candidate_holds(__u32 word, __u32 ticket)
{
	return TALLY_CAND_STATE(word) == TALLY_CAND_HELD &&
	       (word >> 2 & TALLY_CAND_GENERATION) == ticket >> TALLY_CAND_ID_BITS;
}

/* HELD -> `to`, if the ticket is the holder's. Returns 0, or -1: it is somebody else's by now. */
static __always_inline int candidate_turn(__u32 *state, __u32 ticket, __u32 to)
{
	__u32 old = *(volatile __u32 *)state;

	if (!candidate_holds(old, ticket))
		return -1;
	return __sync_val_compare_and_swap(state, old, (old & ~3u) | to) == old ? 0 : -1;
}

static __always_inline __u32 candidate_take_long(void)
{
	__u32 start = bpf_get_prandom_u32();

	for (__u32 i = 0; i < PROBES; i++) {
		__u32 id = (start + i) % TALLY_CANDIDATES_LONG, word;
		struct tally_candidate_long *k = bpf_map_lookup_elem(&candidates_long, &id);

		word = k ? candidate_hold(&k->state) : 0;
		if (word)
			return TALLY_CAND_TICKET(TALLY_CANDIDATES + id, word);
	}
	return 0;
}

/* The octets of p->key_text behind those already spilled. Returns 0, or -1: too long. */
static __always_inline int long_append(struct tally_candidate_long *k, struct tally_h1 *p)
{
	__u32 at = p->key_spilled;

	if (at + p->key_len > TALLY_KEY_MAX)
		return -1;
	for (__u32 i = 0; i < TALLY_KEY_INLINE; i += 8) {
		__u32 to = at + i;

		if (i >= p->key_len)
			break;
		tally_opaque(to);
		to &= TALLY_KEY_MAX - 1;
		*(tally_unaligned *)(k->text + to) = *(tally_unaligned *)(p->key_text + i);
	}
	return 0;
}

#define SPILL_LOST 0xffffffff

static __always_inline struct tally_candidate_long *long_of(__u32 ticket)
{
	__u32 id = TALLY_CAND_ID(ticket) - TALLY_CANDIDATES;

	return ticket == SPILL_LOST ? 0 : bpf_map_lookup_elem(&candidates_long, &id);
}

static __always_inline void port_spill(struct tally_run *run, struct tally_h1 *p)
{
	struct tally_candidate_long *k;

	if (!p->spill_slot)
		p->spill_slot = candidate_take_long();
	if (!p->spill_slot)
		p->spill_slot = SPILL_LOST; /* still hashed: a known key needs no text */
	k = long_of(p->spill_slot);
	if (p->key_spilled + p->key_len > TALLY_KEY_MAX)
		p->flags |= H1_F_KEY_LIMIT;
	else if (k)
		long_append(k, p);
	p->key_spilled += p->key_len;
	p->key_len = 0;
}

static __always_inline __u32 candidate_keep_long(struct tally_h1 *p, __u64 hash)
{
	struct tally_candidate_long *k = long_of(p->spill_slot);
	__u32 slot = p->spill_slot;

	if (!k || long_append(k, p))
		return 0;
	k->len = p->key_spilled + p->key_len;
	k->hash = hash;
	p->spill_slot = 0;
	return slot;
}

static __always_inline __u32 port_candidate_take(struct tally_run *run, struct tally_h1 *p,
						 __u64 hash)
{
	__u32 start = bpf_get_prandom_u32();

	if (p->key_spilled)
		return candidate_keep_long(p, hash);
	for (__u32 i = 0; i < PROBES; i++) {
		__u32 id = (start + i) % TALLY_CANDIDATES, word;
		struct tally_candidate *k = bpf_map_lookup_elem(&candidates, &id);

		word = k ? candidate_hold(&k->state) : 0;
		if (!k || !word)
			continue;
		k->len = p->key_len;
		k->hash = hash;
		__builtin_memcpy(k->text, p->key_text, sizeof(k->text));
		return TALLY_CAND_TICKET(id, word);
	}
	return 0;
}

/* HELD -> `to`. Returns 0, or -1: the ticket is worth nothing (any more). */
static __always_inline int candidate_leave(__u32 ticket, __u32 to)
{
	__u32 id = TALLY_CAND_ID(ticket);

	if (id >= TALLY_CANDIDATES) {
		struct tally_candidate_long *k = long_of(ticket);

		return k ? candidate_turn(&k->state, ticket, to) : -1;
	} else {
		struct tally_candidate *k = bpf_map_lookup_elem(&candidates, &id);

		return k ? candidate_turn(&k->state, ticket, to) : -1;
	}
}

static __always_inline void port_candidate_drop(struct tally_run *run, __u32 ticket)
{
	__u32 id = TALLY_CAND_ID(ticket);

	/* A long text is too much to wipe here: the next holder or the agent overwrites it. */
	if (id < TALLY_CANDIDATES) {
		struct tally_candidate *k = bpf_map_lookup_elem(&candidates, &id);

		if (!k || !candidate_holds(k->state, ticket))
			return;
		__builtin_memset(k->text, 0, sizeof(k->text));
	}
	candidate_leave(ticket, TALLY_CAND_FREE);
}

static __noinline int port_key_learn(struct tally_run *run, __u64 hash, __u32 ticket, int guess)
{
	struct tally_key_entry e = { .state = guess ? TALLY_KEY_GUESS : TALLY_KEY_NEW,
				     .slot = ticket };

	if (!bpf_map_update_elem(&dictionary, &hash, &e, BPF_NOEXIST)) {
		if (!candidate_leave(ticket, TALLY_CAND_ACCEPTED))
			return 0;
		bpf_map_delete_elem(&dictionary, &hash); /* its text is gone */
		return -1;
	}
	if (!bpf_map_lookup_elem(&dictionary, &hash))
		return -1;
	port_candidate_drop(run, ticket); /* another connection was first */
	return 0;
}

/* The swap sets the count back. Beyond the cap it is read only: all processors read what stands beside it. */
static __noinline int port_key_guess(struct tally_run *run)
{
	__u32 zero = 0;
	struct tally_epoch *e = bpf_map_lookup_elem(&epoch, &zero);

	if (!run || !e || e->guesses >= TALLY_GUESSES)
		return -1;
	return __sync_fetch_and_add(&e->guesses, 1) < TALLY_GUESSES ? 0 : -1;
}

/* ---- parking ---- */

/* Who has not finished a handshake may be anybody: the others' room is not theirs. */
static __always_inline __u32 piece_take(__u64 now, __u64 owner)
{
	__u32 start = bpf_get_prandom_u32();
	__u32 room = owner ? TALLY_PARK_POOL : TALLY_PARK_STRANGERS;

	for (__u32 i = 0; i < PROBES; i++) {
		__u32 id = (start + i) % room;
		struct tally_parked *k = bpf_map_lookup_elem(&parked, &id);

		if (!k || __sync_val_compare_and_swap(&k->busy, 0, 1))
			continue;
		k->since_ns = now;
		k->owner = owner;
		return id + 1;
	}
	return 0;
}

/* The piece, if it is still its owner's. */
static __always_inline struct tally_parked *piece_of(__u32 slot, __u64 owner)
{
	__u32 id = slot - 1;
	struct tally_parked *k = slot ? bpf_map_lookup_elem(&parked, &id) : 0;

	return k && k->owner == owner ? k : 0;
}

static __always_inline void piece_free(__u32 slot, __u64 owner)
{
	struct tally_parked *k = piece_of(slot, owner);

	if (!k)
		return;
	chunk_wipe(&k->data);
	k->since_ns = 0; /* whoever takes it next may be looked at before it has set its own */
	__sync_lock_test_and_set(&k->busy, 0);
}

/* One piece of the segment at offset `at`: a slot, or 0. */
static __always_inline __u32 piece_fill(struct __sk_buff *skb, struct tally_run *run, __u32 at,
					__u64 owner)
{
	__u32 slot = piece_take(run->now, owner), n = run->len - at;
	struct tally_parked *k = piece_of(slot, owner);

	if (!k)
		return 0;
	if (n > TALLY_CHUNK)
		n = TALLY_CHUNK;
	k->seq = run->seq + at;
	k->len = n;
	k->raw = run->raw;
	k->rcv_nxt = run->rcv_nxt;
	if (bpf_skb_load_bytes(skb, run->off + at, k->data.b, chunk_len(n))) {
		piece_free(slot, owner);
		return 0;
	}
	return slot;
}

struct park_loop {
	struct __sk_buff *skb;
	struct tally_run *run;
	struct tally_conn *c;
};

static __always_inline __u32 *parked_at(struct tally_conn *c, __u32 dir, __u32 i)
{
	tally_opaque(i);
	i &= TALLY_PARK_PIECES - 1;
	return &c->parked[conn_side(dir)][i];
}

static long park_step(__u32 i, void *ctx)
{
	struct park_loop *l = ctx;
	__u32 *at = parked_at(l->c, l->run->dir, i), slot;

	if (l->run->at >= l->run->len)
		return 1;
	if (*at)
		return 0;
	slot = piece_fill(l->skb, l->run, l->run->at, l->c->cookie);
	if (!slot)
		return 1;
	if (__sync_val_compare_and_swap(at, 0, slot)) {
		piece_free(slot, l->c->cookie);
		return 0;
	}
	__sync_fetch_and_add(&l->c->parked_count[conn_side(l->run->dir)], 1);
	l->run->at += TALLY_CHUNK;
	return 0;
}

#define PARK_OCTETS (TALLY_PARK_PIECES * TALLY_CHUNK)

static __noinline int park_segment(struct __sk_buff *skb, struct tally_run *run,
				   struct tally_conn *c)
{
	struct park_loop l = { skb, run, c };

	run->at = 0;
	bpf_loop(TALLY_PARK_PIECES, park_step, &l, 0);
	return run->at >= run->len ? 0 : -1;
}

static __always_inline int port_park(struct __sk_buff *skb, struct tally_run *run,
				     struct tally_conn *c)
{
	return park_segment(skb, run, c);
}

static __always_inline int port_parked_at(struct tally_run *run, struct tally_conn *c, __u32 i,
					  __u32 *seq)
{
	__u32 slot = *parked_at(c, run->dir, i);
	struct tally_parked *k = piece_of(slot, c->cookie);

	if (!k)
		return 0;
	*seq = k->seq;
	return 1;
}

static __always_inline struct tally_chunk *port_parked(struct tally_run *run, struct tally_conn *c,
						       __u32 i, __u32 *seq, __u32 *len)
{
	__u32 slot = *parked_at(c, run->dir, i);
	struct tally_parked *k = piece_of(slot, c->cookie);

	if (!k)
		return 0;
	*seq = k->seq;
	*len = k->len;
	return &k->data;
}

static __always_inline int port_unpark(struct tally_run *run, struct tally_conn *c, __u32 i)
{
	__u32 slot = *parked_at(c, run->dir, i);
	struct tally_parked *k = piece_of(slot, c->cookie);

	if (!k)
		return 0;
	run->source = slot;
	run->seq = k->seq;
	run->len = k->len;
	run->raw = k->raw;
	run->came = k->rcv_nxt;
	run->off = 0;
	run->at = 0;
	return 1;
}

static __always_inline void port_park_drop(struct tally_run *run, struct tally_conn *c, __u32 i)
{
	__u32 slot = __sync_lock_test_and_set(parked_at(c, run->dir, i), 0);

	if (!slot)
		return;
	piece_free(slot, c->cookie);
	__sync_fetch_and_sub(&c->parked_count[conn_side(run->dir)], 1);
}

/* ---- octets looked at that TCP has not taken yet ---- */

static __always_inline __u32 *kept_at(struct tally_conn *c, __u32 i)
{
	tally_opaque(i);
	return &c->kept[i & (TALLY_KEPT - 1)];
}

/* Behind the octets that were kept last, if these follow them: a client may send octet by octet. */
static __always_inline int kept_join(struct tally_conn *c)
{
	struct tally_parked *k = piece_of(*kept_at(c, c->kept_last), c->cookie);

	if (!k || !conn_joins(c, k->seq, k->len) ||
	    chunk_store(&k->data, k->len, &c->seen, c->seen_len))
		return -1;
	k->len += c->seen_len;
	return 0;
}

/* Else into a place of c->kept that is free; without one, repeated octets will be a conflict. */
static __noinline int port_keep(struct tally_run *run, struct tally_conn *c)
{
	__u32 slot, place = TALLY_KEPT;
	struct tally_parked *k;

	if (!kept_join(c))
		return 0;
	for (__u32 i = 0; i < TALLY_KEPT; i++)
		if (!c->kept[i])
			place = i;
	if (place == TALLY_KEPT)
		return -1;
	slot = piece_take(run->now, c->cookie);
	k = piece_of(slot, c->cookie);
	if (!k)
		return -1;
	chunk_store(&k->data, 0, &c->seen, c->seen_len);
	k->seq = c->seen_at;
	k->len = c->seen_len;
	*kept_at(c, place) = slot;
	c->kept_last = place;
	c->kept_count++;
	return 0;
}

static __always_inline struct tally_chunk *port_kept(struct tally_run *run, struct tally_conn *c,
						     __u32 i, __u32 *seq, __u32 *len)
{
	struct tally_parked *k = piece_of(*kept_at(c, i), c->cookie);

	if (!k)
		return 0;
	*seq = k->seq;
	*len = k->len;
	return &k->data;
}

static __always_inline void port_kept_drop(struct tally_run *run, struct tally_conn *c, __u32 i)
{
	piece_free(*kept_at(c, i), c->cookie);
	*kept_at(c, i) = 0;
	c->kept_count--;
}

#include "meter.h"

/* ---- the packet ---- */

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16
#define TCP_URG 32

struct packet_head {
	__u32 seq; /* host order */
	__u32 ack; /* valid with TCP_ACK */
	__u32 off; /* of the payload */
	__u32 len; /* of the payload */
	__u8 flags;
};

#define IP6_HEADERS 8 /* extension headers of a packet that are looked behind */

/*
 * Where the TCP header begins, 0: not TCP, or not understood. Extension headers: RFC 8200 4.1. A fragment
 * that is a whole packet (RFC 6946) comes with its header; of others the kernel has taken it away.
 */
static __always_inline __u32 tcp_offset(struct __sk_buff *skb)
{
	__u8 b[4], next;
	__u32 off = 40;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, 0, b, 1) || bpf_skb_load_bytes(skb, 9, &next, 1) ||
		    next != IPPROTO_TCP)
			return 0;
		return (b[0] & 15) * 4;
	}
	if (skb->protocol != bpf_htons(ETH_P_IPV6) || bpf_skb_load_bytes(skb, 6, b, 1))
		return 0;
	next = b[0];
	for (int i = 0; i <= IP6_HEADERS; i++) {
		if (next == IPPROTO_TCP)
			return off;
		if ((next != 0 && next != 43 && next != 44 && next != 60) ||
		    bpf_skb_load_bytes(skb, off, b, 4))
			return 0;
		if (next == 44 && (b[2] | (b[3] & 0xf9)))
			return 0;
		off += next == 44 ? 8 : 8 + 8 * b[1];
		next = b[0];
	}
	return 0;
}

/* The TCP header, 16 octets of it at tcp, stands at off. Returns 0, or -1: this is no packet. */
static __always_inline int packet_tcp(const __u8 *tcp, __u32 off, __u32 len, struct packet_head *h)
{
	h->seq = bpf_ntohl(*(const __u32 *)(tcp + 4));
	h->ack = bpf_ntohl(*(const __u32 *)(tcp + 8));
	h->flags = tcp[13];
	h->off = off + (tcp[12] >> 4) * 4;
	if (h->off > len)
		return -1;
	h->len = len - h->off;
	return 0;
}

/* Headers that are not in the linear part, or have options or extensions. */
static __noinline int packet_parse_slowly(struct __sk_buff *skb, struct packet_head *h)
{
	__u8 tcp[16] __attribute__((aligned(8)));
	__u32 off = tcp_offset(skb);

	if (!off || bpf_skb_load_bytes(skb, off, tcp, sizeof(tcp)))
		return -1;
	return packet_tcp(tcp, off, skb->len, h);
}

/* Headers nearly always stand in the linear part, without options of IP. */
static __always_inline int packet_parse(struct __sk_buff *skb, struct packet_head *h)
{
	__u8 *ip = (__u8 *)(long)skb->data, *end = (__u8 *)(long)skb->data_end;

	if (ip + 20 + 16 <= end && skb->protocol == bpf_htons(ETH_P_IP) && ip[0] == 0x45 &&
	    ip[9] == IPPROTO_TCP)
		return packet_tcp(ip + 20, 20, skb->len, h);
	if (ip + 40 + 16 <= end && skb->protocol == bpf_htons(ETH_P_IPV6) && ip[6] == IPPROTO_TCP)
		return packet_tcp(ip + 40, 40, skb->len, h);
	return packet_parse_slowly(skb, h);
}

/* ---- the connection ---- */

static __always_inline void peer_of(struct bpf_sock *sk, __u8 *peer, __u16 *port)
{
	__u32 *w = (__u32 *)peer;
	/* Context fields are read one by one, at fixed offsets: never through a chosen pointer. */
	__u32 ip4 = sk->dst_ip4, a = sk->dst_ip6[0], b = sk->dst_ip6[1], c = sk->dst_ip6[2],
	      d = sk->dst_ip6[3];
	int v4 = sk->family == AF_INET;

	tally_opaque(ip4);
	tally_opaque(a);
	tally_opaque(b);
	tally_opaque(c);
	tally_opaque(d);
	w[0] = v4 ? 0 : a;
	w[1] = v4 ? 0 : b;
	w[2] = v4 ? bpf_htonl(0xffff) : c;
	w[3] = v4 ? ip4 : d;
	*port = bpf_ntohs(sk->dst_port);
}

static __always_inline struct tally_scope *scope_find(__u64 cgroup, __u16 port)
{
	struct tally_scope_key k = { .cgroup = cgroup, .port = port };

	return bpf_map_lookup_elem(&scopes, &k);
}

struct scope_loop {
	struct bpf_sock *sk;
	struct tally_settings *set;
};

/* The scope of a cgroup that many levels below the deepest at which services can be tagged. */
static __noinline struct tally_scope *scope_above(struct bpf_sock *sk, struct tally_settings *set,
						  __u32 i)
{
	__u32 level = TALLY_SCOPE_LEVELS - 1 - i;
	struct tally_scope *scope;
	__u64 cgroup;

	if (level >= TALLY_SCOPE_LEVELS || !(set->levels_mask >> (level & 31) & 1))
		return 0;
	cgroup = bpf_sk_ancestor_cgroup_id(sk, level);
	if (!cgroup)
		return 0;
	scope = scope_find(cgroup, sk->src_port);
	return scope ? scope : scope_find(cgroup, 0);
}

static long scope_step(__u32 i, void *ctx)
{
	struct scope_loop *l = ctx;

	return scope_above(l->sk, l->set, i) != 0;
}

/*
 * The one scope that owns a socket: the deepest tagged cgroup with its port, else the port. The loop
 * only tells where it stopped: what it wrote the verifier of Linux 6.1 would not see.
 */
static __noinline struct tally_scope *scope_of(struct bpf_sock *sk)
{
	__u32 zero = 0;
	struct scope_loop l = { sk, bpf_map_lookup_elem(&settings, &zero) };
	struct tally_scope *scope;

	if (!l.set)
		return 0;
	scope = scope_above(sk, l.set, bpf_loop(TALLY_SCOPE_LEVELS, scope_step, &l, 0) - 1);
	return scope ? scope : scope_find(0, sk->src_port);
}

/*
 * Is this a subflow of MPTCP? The kernel decides that, once, when it makes the child: a client that asked for
 * it and did not get it has an ordinary connection.
 */
static __always_inline int sk_is_mptcp(struct bpf_sock *sk)
{
	return bpf_core_type_exists(struct mptcp_sock) && bpf_skc_to_mptcp_sock(sk);
}

static __always_inline __u8 port_mark(__u32 port)
{
	__u8 *mark = bpf_map_lookup_elem(&ports, &port);

	return mark ? *mark : 0;
}

static __always_inline __u32 scope_changes(void)
{
	__u32 zero = 0;
	struct tally_settings *set = bpf_map_lookup_elem(&settings, &zero);

	return set ? set->changes : 0;
}

/*
 * Whom the connection belongs to, decided at its first packet, and again when that may have changed. What
 * says so is read before the scopes are, and written after them. Somebody may still be at work for the
 * service it had, so that stays while nobody wants it.
 */
static __noinline int conn_resolve(struct bpf_sock *sk, struct __sk_buff *skb, struct tally_conn *c)
{
	__u32 changes = scope_changes();
	__u8 mark = port_mark(sk->src_port);
	struct tally_scope *scope = scope_of(sk);

	if (scope && scope->service < TALLY_SERVICES) {
		if (c->service != scope->service)
			c->counted = 0;
		c->service = scope->service;
		c->origin = scope->origin;
		c->ignored = 0;
	} else {
		c->origin = changes;
		c->ignored = 1;
	}
	c->cookie = bpf_get_socket_cookie(skb);
	peer_of(sk, c->peer, &c->peer_port);
	if (sk_is_mptcp(sk))
		c->closed = CONN_MPTCP;
	c->resolved = c->midstream ? CONN_MIDWAY : mark;
	return !c->ignored;
}

/* Rules in force, and the slot they stand in. */
static __always_inline const struct tally_rules *rules_of(__u32 service, __u32 *ret_slot)
{
	struct tally_service *s = bpf_map_lookup_elem(&services, &service);

	*ret_slot = s ? s->slot : TALLY_RULESET_SLOTS;
	return bpf_map_lookup_elem(&rulesets, ret_slot);
}

/* Rules that a message of this direction began under, if they still stand where they did. */
static __noinline const struct tally_rules *rules_before(const struct tally_conn *c, __u32 dir)
{
	__u32 slot = c->way[conn_side(dir)].rules_slot;
	const struct tally_rules *r = bpf_map_lookup_elem(&rulesets, &slot);

	return r && r->ruleset == c->way[conn_side(dir)].rules_id ? r : 0;
}

/*
 * The rules for what comes next in a direction, whose lock is held: those in force, but a head is read to
 * its end under those it began under; so is all that is left of a service that is gone (r is NULL).
 */
static __always_inline const struct tally_rules *conn_rules(struct tally_conn *c, __u32 dir,
							    const struct tally_rules *r, __u32 slot)
{
	__u32 side = conn_side(dir);
	const struct tally_rules *old;

	if (r && c->way[side].rules_id == r->ruleset)
		return r;
	if (!r || (c->way[side].rules_id && conn_half_head(&c->way[side].h1))) {
		old = rules_before(c, dir);
		/* Nothing came this way yet: it is the answer to what came the other way. */
		if (!r && !old)
			old = rules_before(c, !dir);
		if (old || !r)
			return old;
		/* Its slot was taken: so many reloads ago. */
		h1_bad(&c->way[side].h1, TALLY_DETAIL_GAP);
	}
	c->way[side].rules_slot = slot;
	c->way[side].rules_id = r->ruleset;
	return r;
}

static __always_inline __u32 *conn_lock(struct tally_conn *c, __u32 dir)
{
	return &c->way[conn_side(dir)].lock;
}

static __noinline int defer_park(struct __sk_buff *skb, struct tally_scratch *s,
				 struct bpf_sock *sk, __u32 port);

#define LOCK_TRIES 4096

/* The last turn only says that all others failed. */
static long lock_step(__u32 i, void *ctx)
{
	__u32 *lock = *(__u32 **)ctx;

	return i == LOCK_TRIES - 1 || !__sync_lock_test_and_set(lock, 1);
}

/*
 * Waits, within bounds, for the lock of a direction: its holder is another CPU in the middle of one
 * segment. Returns 1: it is held now; 0: it is not.
 */
static __always_inline int conn_wait(struct tally_conn *c, __u32 dir)
{
	__u32 *lock = conn_lock(c, dir);

	if (!__sync_lock_test_and_set(lock, 1))
		return 1;
	return bpf_loop(LOCK_TRIES, lock_step, &lock, 0) < LOCK_TRIES;
}

static __always_inline void conn_unlock(struct tally_conn *c, __u32 dir)
{
	tally_publish(conn_lock(c, dir), 0);
}

/*
 * Request octets that wait although TCP has them are read before the answer to them. Whoever has the
 * lock may be reading just these, so it is waited for.
 */
static __noinline int catch_up(struct __sk_buff *skb, struct tally_run *run, struct tally_conn *c,
			       struct tally_totals *t)
{
	__u32 slot;
	const struct tally_rules *r = rules_of(c->service, &slot);
	struct meter_loop l = { skb, run, c, r, t };

	if (!conn_wait(c, TALLY_IN)) {
		t->gaps[TALLY_GAP_LOCK_BUSY]++;
		return 0;
	}
	run->dir = TALLY_IN;
	run->flags = 0;
	l.r = conn_rules(c, TALLY_IN, r, slot);
	if (l.r)
		meter_catch_up(&l);
	meter_unkept_before(c);
	conn_unlock(c, TALLY_IN);
	return 0;
}

/* ---- the end of a connection ---- */

static long drop_parked_step(__u32 i, void *ctx)
{
	struct tally_conn *c = *(struct tally_conn **)ctx;
	__u32 in, out;

	tally_opaque(i);
	i &= TALLY_PARK_PIECES - 1;
	in = __sync_lock_test_and_set(&c->parked[TALLY_IN][i], 0);
	out = __sync_lock_test_and_set(&c->parked[TALLY_OUT][i], 0);
	if (in) {
		piece_free(in, c->cookie);
		__sync_fetch_and_sub(&c->parked_count[TALLY_IN], 1);
	}
	if (out) {
		piece_free(out, c->cookie);
		__sync_fetch_and_sub(&c->parked_count[TALLY_OUT], 1);
	}
	return 0;
}

static __always_inline int conn_wait_both(struct tally_conn *c)
{
	if (!conn_wait(c, TALLY_IN))
		return 0;
	if (conn_wait(c, TALLY_OUT))
		return 1;
	conn_unlock(c, TALLY_IN);
	return 0;
}

/*
 * Both locks are held now; or, 0: somebody holds one for longer than can be waited for (a virtual processor
 * that does not run), and will see that the connection has ended, because that is looked at behind each unlock.
 * On x86 that look may overtake the store that unlocks, but not by as long as the second wait here takes.
 */
static __always_inline int conn_take_whole(struct tally_conn *c)
{
	if (conn_wait_both(c))
		return 1;
	__sync_lock_test_and_set(&c->ended, 1);
	return conn_wait_both(c);
}

/* What is under way is booked, and nothing that is kept for it stays. Both locks are held. */
static __noinline int conn_clear(struct tally_run *run, struct tally_conn *c,
				 const struct tally_rules *r, struct tally_totals *t)
{
	meter_close(run, c, r, t);
	if (c->parked_count[TALLY_IN] | c->parked_count[TALLY_OUT])
		bpf_loop(TALLY_PARK_PIECES, drop_parked_step, &c, 0);
	if (!c->kept_count)
		return 0;
	run->rcv_nxt = c->seen_at + c->seen_len;
	meter_forget(run, c);
	return 0;
}

/*
 * The connection is over: nothing of it stays, and its locks stay taken. Parked pieces are not read here:
 * every packet before this moment, the FIN or RST included, had its chance to (on_packet), so what is left
 * has a gap before it.
 */
static __noinline int conn_end(struct tally_run *run, struct tally_conn *c,
			       const struct tally_rules *r, struct tally_totals *t)
{
	if (!run || !c || !r || !t)
		return 0;
	if (c->closed || !conn_take_whole(c))
		return 0;
	return conn_clear(run, c, r, t);
}

/*
 * sock_ops tells the end of a connection whose birth it saw. Of others the packets do: the server has
 * sent all it will, or somebody has reset the connection (RFC 5961 3: at exactly rcv_nxt).
 */
static __always_inline int conn_is_over(const struct tally_conn *c, const struct packet_head *h,
					const struct tally_run *run, __u32 dir)
{
	if (!c->unborn || c->closed)
		return 0;
	if (h->flags & TCP_RST)
		return dir == TALLY_OUT || h->seq == run->rcv_nxt;
	return c->fin_seen[TALLY_OUT] &&
	       (c->way[TALLY_OUT].next == c->way[TALLY_OUT].fin || !c->synced[TALLY_OUT]);
}

static __always_inline void run_packet(struct tally_run *run, const struct packet_head *h,
				       __u32 dir)
{
	run->dir = dir;
	run->seq = h->seq;
	run->len = h->len;
	run->off = h->off;
	run->at = 0;
	run->source = 0;
	run->raw = 0;
	run->flags = 0;
	if (h->flags & (TCP_SYN | TCP_FIN | TCP_URG)) {
		run->seq += h->flags & TCP_SYN ? 1 : 0;
		run->flags =
			(h->flags & TCP_FIN ? SEG_FIN : 0) | (h->flags & TCP_URG ? SEG_URG : 0);
	}
}

/* What TCP knows before it sees this segment, and the acknowledgement that a request brings along. */
static __always_inline void run_tcp(struct tally_run *run, struct bpf_tcp_sock *tcp,
				    const struct packet_head *h, __u32 dir)
{
	run->rcv_nxt = tcp->rcv_nxt;
	run->snd_nxt = tcp->snd_nxt;
	run->snd_una = tcp->snd_una;
	if (dir == TALLY_IN && h->flags & TCP_ACK && (__s32)(h->ack - run->snd_una) > 0 &&
	    (__s32)(run->snd_nxt - h->ack) >= 0)
		run->snd_una = h->ack;
}

/* The same of a segment that goes out, whoever asks for it late. */
static __noinline int run_tcp_out(struct __sk_buff *skb, struct tally_run *run)
{
	struct bpf_sock *sk = skb->sk;
	struct bpf_tcp_sock *tcp = sk ? bpf_tcp_sock(sk) : 0;

	if (tcp)
		run_tcp(run, tcp, 0, TALLY_OUT);
	return 0;
}

/*
 * A segment that goes out acknowledges what TCP has taken. Where it is likely to be a plain one (meter.h) that
 * is all that is asked, and saves a call; where it is not, run_tcp_out() follows.
 */
static __always_inline int out_is_plain(const struct tally_conn *c, const struct packet_head *h,
					__u8 mark)
{
	return c->resolved == mark &&
	       (h->flags & (TCP_FIN | TCP_SYN | TCP_RST | TCP_URG | TCP_ACK)) == TCP_ACK &&
	       !(c->odd | c->ended | c->parked_count[TALLY_IN] | c->parked_count[TALLY_OUT]);
}

/*
 * Near enough for TCP to look at the segment: RFC 5961 5. Its snd_nxt may grow until then. Who knows nothing
 * of a connection but its addresses guesses no acknowledgement.
 */
static __always_inline int ack_is_near(const struct tally_run *run, const struct packet_head *h)
{
	return h->flags & TCP_ACK && h->ack - (run->snd_una - TALLY_URGENT_REACH) <=
					     run->snd_nxt - run->snd_una + 2 * TALLY_URGENT_REACH;
}

#define COUNT_TRIES 4 /* another CPU may have a segment of the same direction */

/* How far a subflow goes with this segment, behind `from`. What comes early counts when TCP has it. */
static __always_inline __u32 reach_mptcp(const struct tally_run *run, const struct tally_conn *c,
					 __u32 from)
{
	__u32 taken = run->rcv_nxt, end = run->seq + run->len;

	/* A FIN takes a position, too. */
	if (c->fin_seen[TALLY_IN] && taken == c->way[TALLY_IN].fin + 1)
		taken--;
	if (run->dir == TALLY_IN && (__s32)(taken - from) > 0)
		from = taken;
	if (run->dir == TALLY_IN && (__s32)(run->seq - from) > 0)
		return from;
	return (__s32)(end - from) > 0 ? end : from;
}

/*
 * Octets of a subflow, each once. No lock: where the connection was closed when MPTCP was found they are
 * taken.
 */
static __noinline int count_mptcp(struct tally_run *run, struct tally_conn *c,
				  struct tally_totals *t)
{
	__u32 side = conn_side(run->dir), *next = &c->way[side].next, from, to;

	meter_fin(run, c);
	if (!c->synced[side]) {
		*next = run->seq;
		c->synced[side] = 1;
	}
	for (int i = 0; i < COUNT_TRIES; i++) {
		from = *(volatile __u32 *)next;
		to = reach_mptcp(run, c, from);
		if (to == from)
			return 0;
		if (__sync_val_compare_and_swap(next, from, to) != from)
			continue;
		t->bytes[side] += to - from;
		meter_unparsed(t, side, TALLY_UNPARSED_MPTCP, to - from);
		return 0;
	}
	return 0;
}

/* Nobody's level of the totals, for who has no scratch slot: add atomically. */
static __always_inline struct tally_totals *totals_shared(__u32 service)
{
	__u32 zero = 0;
	struct tally_epoch *e = bpf_map_lookup_elem(&epoch, &zero);

	if (!e || service >= TALLY_SERVICES)
		return 0;
	return totals_in(TALLY_EPOCH_INDEX(*(const volatile __u64 *)&e->number), TALLY_NEST,
			 service);
}

static __always_inline void gap_shared(struct tally_totals *t, __u32 gap)
{
	if (t)
		__sync_fetch_and_add(&t->gaps[gap], 1);
}

/* ---- connections that were out of sight ---- */

/* Is a stream further than what was seen of it? A FIN takes a position, too. */
static __always_inline int conn_beyond(const struct tally_conn *c, __u32 dir, __u32 pos, __u32 seen)
{
	__u32 side = conn_side(dir), n = pos - seen;

	if (c->fin_seen[side] && pos == c->way[side].fin + 1)
		n--;
	/* What was seen may be ahead, by a window: else it is the stream, however far. */
	return c->synced[side] && !c->parked_count[side] && n && n < -TALLY_WINDOW_MAX;
}

/* Octets have passed, and are acknowledged, that no program saw. */
static __always_inline int conn_missed(const struct tally_run *run, const struct tally_conn *c)
{
	return conn_beyond(c, TALLY_IN, run->rcv_nxt, c->far) ||
	       conn_beyond(c, TALLY_OUT, run->snd_una, c->way[TALLY_OUT].next);
}

/*
 * What was under way when it was seen last ends in the books there. How long it took nobody saw, nor are
 * the octets since then the service's. Both locks are held.
 */
static __noinline int conn_settle(struct tally_run *run, struct tally_conn *c)
{
	__u32 slot, rcv_nxt = run->rcv_nxt;
	const struct tally_rules *r = rules_of(c->service, &slot);
	struct tally_totals *t;

	if (!r)
		r = rules_before(c, TALLY_IN);
	run_clock(run, 0);
	t = totals_of(run, c->service);
	run->now = 0;
	if (c->synced[TALLY_IN] && (__s32)(rcv_nxt - c->far) > 0)
		run->rcv_nxt = c->far;
	if (r && t)
		conn_clear(run, c, r, t);
	run->rcv_nxt = rcv_nxt;
	return 0;
}

/* Somebody with both locks has asked whose it is. Returns 1: it is metered, from here on. */
static __always_inline int conn_asked(struct tally_conn *c)
{
	conn_unlock(c, TALLY_OUT);
	conn_unlock(c, TALLY_IN);
	return !c->ignored;
}

/* Returns 1: it is metered, from here on. */
static __noinline int conn_begin_again(struct __sk_buff *skb, struct bpf_sock *sk,
				       struct tally_run *run, struct tally_conn *c)
{
	if (!conn_wait_both(c)) {
		gap_shared(totals_shared(c->service), TALLY_GAP_LOCK_BUSY);
		return 0;
	}
	if (!c->closed && (conn_missed(run, c) || meter_may_join(run, c))) {
		conn_settle(run, c);
		tally_conn_again(c);
		conn_resolve(sk, skb, c);
	}
	return conn_asked(c);
}

/* A scope of its port came or went, and it missed nothing: what is under way ends where it began. */
static __noinline int conn_owner_again(struct __sk_buff *skb, struct bpf_sock *sk,
				       struct tally_conn *c)
{
	__u8 mark = port_mark(sk->src_port);
	struct tally_scope *scope = scope_of(sk);

	if (scope && scope->service == c->service) {
		c->resolved = mark;
		return 1;
	}
	if (!meter_rests(c) || !conn_wait_both(c))
		return 1;
	if (!c->closed && meter_rests(c))
		conn_resolve(sk, skb, c);
	return conn_asked(c);
}

/*
 * The mark of its port is not the one under which its service was found, or it was joined midway and is not
 * exact yet. Returns 1: it is metered.
 */
static __noinline int conn_again(struct __sk_buff *skb, struct bpf_sock *sk, struct tally_run *run,
				 struct tally_conn *c)
{
	int metered = 1;

	if (c->closed | c->ended)
		return 1;
	if (conn_missed(run, c) || meter_may_join(run, c))
		metered = conn_begin_again(skb, sk, run, c);
	else if (!c->midstream && !conn_beyond(c, TALLY_OUT, run->snd_nxt, c->way[TALLY_OUT].next))
		return conn_owner_again(skb, sk, c); /* nothing unseen is under way, either */
	meter_asked(run, c);
	return metered;
}

/* Nobody wanted it when it was asked. Asked once more for each change of scopes. Returns 1: somebody does. */
static __noinline int conn_wanted(struct __sk_buff *skb, struct bpf_sock *sk, struct tally_conn *c)
{
	if (scope_changes() == c->origin || !conn_wait_both(c))
		return 0;
	if (c->ignored) {
		bpf_loop(TALLY_PARK_PIECES, drop_parked_step, &c, 0);
		tally_conn_again(c);
		conn_resolve(sk, skb, c);
	}
	return conn_asked(c);
}

/*
 * Somebody else holds the lock. Of a large segment there may be less room than it has octets: what the
 * connection is like is looked at first, while the holder has seen nothing behind this segment. What TCP has
 * by then it does not take from here.
 */
static __noinline int park_busy(struct __sk_buff *skb, struct tally_run *run, struct tally_conn *c,
				struct tally_totals *t)
{
	__u32 rest, from, is_body;

	if (!run || !c || !t)
		return 0;
	rest = run->len > PARK_OCTETS ? run->len - PARK_OCTETS : 0;
	is_body = rest &&
		  meter_is_body(c, run->seq + PARK_OCTETS, rest, *(const volatile __u32 *)&c->far);
	if (!park_segment(skb, run, c))
		return 0;
	t->gaps[TALLY_GAP_PARK_FULL]++;
	if (run->dir == TALLY_OUT || (is_body && run->at >= PARK_OCTETS))
		return 0;
	from = run->seq + run->at;
	if ((__s32)(run->rcv_nxt - from) > 0)
		from = run->rcv_nxt;
	rest = run->seq + run->len - from;
	if ((__s32)rest > 0)
		meter_unkept_later(c, from, rest);
	return 0;
}

/*
 * A segment that is plain (meter.h), as nearly all are: returns 1, and nothing else is to be done. Who holds
 * the lock, and what a connection has besides, is asked where it is not.
 */
static __always_inline int packet_plain(struct __sk_buff *skb, struct tally_run *run,
					struct tally_conn *c, const struct packet_head *h,
					__u32 dir, const struct tally_rules *r,
					struct tally_totals *t)
{
	int plain = 0;

	if (h->flags & (TCP_FIN | TCP_SYN | TCP_RST | TCP_URG) || !r || !c->counted ||
	    __sync_lock_test_and_set(conn_lock(c, dir), 1))
		return 0;
	/* The line of the exchange, which the other direction has had: it is on its way while octets are read. */
	*(volatile __u8 *)&conn_slot(c, dir == TALLY_IN ? c->head : c->tail)
		 ->touched[conn_side(dir)] = 1;
	if (c->way[conn_side(dir)].rules_id == r->ruleset && !c->ended)
		plain = meter_plain_segment(skb, run, dir, c, r, t);
	conn_unlock(c, dir);
	return plain;
}

/* Behind the unlock: has the connection ended meanwhile, or with this segment? */
static __always_inline void packet_end(struct __sk_buff *skb, struct tally_run *run,
				       struct tally_conn *c, const struct packet_head *h, __u32 dir,
				       const struct tally_rules *r, struct tally_totals *t)
{
	if (!(c->ended | conn_is_over(c, h, run, dir)))
		return;
	if (dir == TALLY_OUT)
		run_tcp_out(skb, run);
	conn_end(run, c, r, t);
}

/* Any segment, after what is plain. */
static __always_inline int packet_any(struct __sk_buff *skb, struct tally_run *run,
				      struct tally_conn *c, const struct packet_head *h, __u32 dir,
				      const struct tally_rules *r, __u32 slot,
				      struct tally_totals *t)
{
	if (dir == TALLY_OUT)
		run_tcp_out(skb, run);
	if (!c->counted) {
		c->counted = 1;
		t->connections++;
	}
	if (dir == TALLY_OUT && (c->parked_count[TALLY_IN] || c->unread) && !c->closed) {
		catch_up(skb, run, c, t);
		run_packet(run, h, dir); /* it has read other octets */
	}
	if (run->flags & SEG_URG && !ack_is_near(run, h))
		run->flags &= ~SEG_URG;
	if (c->closed) {
		if (c->closed != CONN_MPTCP)
			meter_unparsed(t, dir, TALLY_UNPARSED_AFTER_CLOSE, h->len);
		else if (h->len || h->flags & TCP_FIN)
			count_mptcp(run, c, t);
		return 0;
	}
	if (__sync_lock_test_and_set(conn_lock(c, dir), 1)) {
		t->gaps[TALLY_GAP_LOCK_BUSY]++;
		meter_fin(run, c);
		if (dir == TALLY_IN && meter_urgent(run))
			c->taint = TALLY_DETAIL_CONFLICT;
		run->raw = 1;
		park_busy(skb, run, c, t);
		return 0;
	}
	r = conn_rules(c, dir, r, slot);
	if (r)
		meter_any_segment(skb, run, c, r, t);
	conn_unlock(c, dir);
	if (r)
		packet_end(skb, run, c, h, dir, r, t);
	return 0;
}

static __always_inline int packet_meter(struct __sk_buff *skb, struct tally_scratch *s,
					struct tally_conn *c, const struct packet_head *h,
					__u32 dir)
{
	struct tally_run *run = &s->run;
	const struct tally_rules *r;
	struct tally_totals *t;
	__u32 slot;

	r = rules_of(c->service, &slot);
	/* TCP has written down when a segment departs (__tcp_transmit_skb; since Linux 4.20 by this clock). */
	run_clock(run, dir == TALLY_OUT ? skb->tstamp : 0);
	t = totals_of(run, c->service);
	if (!t)
		return 0;
	run_packet(run, h, dir);
	if (!packet_plain(skb, run, c, h, dir, r, t))
		packet_any(skb, run, c, h, dir, r, slot, t);
	else if (c->ended | c->fin_seen[TALLY_OUT])
		packet_end(skb, run, c, h, dir, r, t);
	return 0;
}

/*
 * Where a segment is counted that could not be metered at all: what it did to the stream shows as a gap
 * later.
 */
static __noinline struct tally_totals *totals_missed(struct bpf_sock *sk)
{
	struct tally_scope *scope = scope_of(sk);

	return scope ? totals_shared(scope->service) : 0;
}

/* Data that came with the listener waits for the connection to be born. Returns 0, or -1: not all of it. */
static __always_inline int on_listener(struct __sk_buff *skb, struct bpf_sock *sk,
				       const struct packet_head *h)
{
	struct tally_scratch *s = scratch_take();
	int r;

	if (!s)
		return -1;
	run_packet(&s->run, h, TALLY_IN);
	r = defer_park(skb, s, sk, sk->src_port);
	scratch_give(s);
	return r;
}

/* A birth follows the packet to the listener that made it, on its CPU: it asks what became of that one. */
static __always_inline void listener_lost(int lost)
{
	__u32 zero = 0;
	struct tally_scratch *s = bpf_map_lookup_elem(&scratch, &zero);

	if (s)
		s->unkept = lost;
}

static __always_inline int listener_has_lost(void)
{
	__u32 zero = 0;
	struct tally_scratch *s = bpf_map_lookup_elem(&scratch, &zero);

	return s && s->unkept;
}

/* Asked only of packets that were not understood: who asks for the protocol needs the whole socket, a call. */
static __noinline int sk_is_tcp(struct bpf_sock *sk)
{
	sk = bpf_sk_fullsock(sk);
	return sk && sk->protocol == IPPROTO_TCP;
}

/* A segment that TCP reads and the meter cannot: nothing of its connection is believed any more. */
static __noinline int packet_unread(struct bpf_sock *sk)
{
	struct tally_conn *c = bpf_sk_storage_get(&conns, sk, 0, 0);

	if (!c || c->ignored)
		return 0;
	c->taint = TALLY_DETAIL_GAP;
	gap_shared(totals_missed(sk), TALLY_GAP_LOAD_FAILED);
	return 0;
}

/* Neither born nor joined yet? So it is for a moment, while another CPU makes it. */
static __always_inline int conn_is_new(const struct tally_conn *c)
{
	return !c->synced[TALLY_IN] && !c->unborn;
}

/*
 * Its birth is told under the socket's lock, but a packet comes without it, and may be first: the child is
 * found by packets before its birth is told. Whoever is first does it; unborn until it is told.
 */
static __noinline int conn_birth(struct tally_conn *c, __u32 rcv_nxt, __u32 snd_nxt, __u32 told)
{
	if (!c || !conn_wait(c, TALLY_IN))
		return 0;
	if (conn_is_new(c)) {
		tally_conn_born(c, rcv_nxt, snd_nxt);
		c->unborn = 1;
	}
	if (told && !c->midstream)
		c->unborn = 0;
	conn_unlock(c, TALLY_IN);
	return 0;
}

static __noinline int conn_join(struct tally_conn *c)
{
	if (!c || !conn_wait(c, TALLY_IN))
		return 0;
	if (conn_is_new(c))
		tally_conn_join(c);
	conn_unlock(c, TALLY_IN);
	return 0;
}

/* Of a child of Fast Open TCP has taken data already, before anybody could look. */
static __noinline int conn_begin(struct bpf_sock *sk, struct tally_conn *c)
{
	struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);

	if (tcp && sk->state == BPF_TCP_SYN_RECV && !tcp->bytes_received)
		conn_birth(c, tcp->rcv_nxt, tcp->snd_nxt, 0);
	else
		conn_join(c);
	return 0;
}

/* The connection of a packet that matters to it, or NULL. */
static __always_inline struct tally_conn *conn_of(struct __sk_buff *skb, struct bpf_sock *sk,
						  const struct packet_head *h)
{
	struct tally_conn *c = bpf_sk_storage_get(&conns, sk, 0, 0);

	if (!h->len && !(h->flags & (TCP_FIN | TCP_RST | TCP_URG)) &&
	    (!c || (!c->parked_count[TALLY_IN] && !c->parked_count[TALLY_OUT])))
		return 0;
	if (!c) {
		if (!bpf_tcp_sock(sk) || bpf_sk_storage_get(&outbound, sk, 0, 0))
			return 0;
		c = bpf_sk_storage_get(&conns, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (!c) {
			gap_shared(totals_missed(sk), TALLY_GAP_NO_STORAGE);
			return 0;
		}
	}
	if (conn_is_new(c))
		conn_begin(sk, c);
	if (!c->resolved && !conn_resolve(sk, skb, c))
		return 0;
	return !c->ignored || conn_wanted(skb, sk, c) ? c : 0;
}

/*
 * Cache lines that this packet will need are asked for together: many other connections have had them since,
 * and behind a lock they would come one after the other.
 */
static __always_inline void conn_touch(struct tally_conn *c, __u32 dir)
{
	const struct tally_h1 *p = &c->way[conn_side(dir)].h1;

	(void)*(volatile const __u8 *)&p->state;
	(void)*(volatile const __u64 *)&p->held_hash;
	if (dir == TALLY_IN) {
		(void)*(volatile const __u32 *)&c->head;
		(void)*(volatile const __u8 *)c->seen.b;
	} else {
		(void)*(volatile const __u32 *)&c->tail;
		(void)*(volatile const __u8 *)c->reply.b;
	}
}

/*
 * Another program of sock_ops, in a cgroup above, may have set the socket's flags to what it needs itself:
 * then nobody will tell the connection's death, and packets must.
 */
static __noinline int conn_check_death(struct bpf_sock *sk, struct tally_conn *c)
{
	struct tcp_sock *tcp;

	if (!sk || !c || c->unborn)
		return 0;
	tcp = bpf_skc_to_tcp_sock(sk);
	if (tcp && !(tcp->bpf_sock_ops_cb_flags & BPF_SOCK_OPS_STATE_CB_FLAG))
		c->unborn = 1;
	return 0;
}

static __always_inline int on_packet(struct __sk_buff *skb, __u32 dir)
{
	struct bpf_sock *sk = skb->sk;
	struct bpf_tcp_sock *tcp;
	struct tally_scratch *s;
	struct packet_head h;
	struct tally_conn *c;
	__u32 port;
	__u8 *wanted, mark;
	int unread, plain, metered = 1;

	if (!sk)
		return PASS;
	port = sk->src_port;
	wanted = bpf_map_lookup_elem(&ports, &port);
	if (!wanted || !(*wanted & TALLY_PORT_WANTED))
		return PASS;
	unread = packet_parse(skb, &h);
	if (unread && !sk_is_tcp(sk))
		return PASS;
	if (sk->state == BPF_TCP_LISTEN) {
		if (dir == TALLY_OUT)
			return PASS;
		if (!unread && (h.len || h.flags & TCP_URG))
			unread = on_listener(skb, sk, &h);
		listener_lost(unread);
		return PASS;
	}
	if (unread) {
		packet_unread(sk);
		return PASS;
	}
	c = conn_of(skb, sk, &h);
	if (!c)
		return PASS;
	conn_touch(c, dir);
	mark = *(volatile const __u8 *)wanted;
	plain = dir == TALLY_OUT && out_is_plain(c, &h, mark);
	tcp = plain ? 0 : bpf_tcp_sock(sk);
	if (!plain && !tcp)
		return PASS;
	s = scratch_take();
	if (!s) {
		gap_shared(totals_missed(sk), TALLY_GAP_NEST_FULL);
		return PASS;
	}
	if (h.flags & (TCP_FIN | TCP_RST))
		conn_check_death(sk, c);
	if (tcp)
		run_tcp(&s->run, tcp, &h, dir);
	else
		s->run.rcv_nxt = h.ack;
	/* A plain one asked for nothing that could tell: the next packet will, should it have changed. */
	if (!plain && c->resolved != mark) {
		run_packet(&s->run, &h, dir);
		metered = conn_again(skb, sk, &s->run, c);
	}
	if (metered)
		packet_meter(skb, s, c, &h, dir);
	scratch_give(s);
	return PASS;
}

/* ---- data that comes with the listener ---- */

static long defer_step(__u32 i, void *ctx)
{
	struct {
		struct __sk_buff *skb;
		struct tally_scratch *s;
	} *l = ctx;
	struct tally_run *run = &l->s->run;
	__u32 slot;

	if (run->at >= run->len)
		return 1;
	slot = piece_fill(l->skb, run, run->at, 0);
	if (!slot)
		return 1;
	tally_opaque(i);
	l->s->deferred.piece[i & (TALLY_PARK_PIECES - 1)] = slot;
	l->s->deferred.count = (i & (TALLY_PARK_PIECES - 1)) + 1;
	run->at += TALLY_CHUNK;
	return 0;
}

static long defer_drop_step(__u32 i, void *ctx)
{
	struct tally_deferred *d = *(struct tally_deferred **)ctx;

	tally_opaque(i);
	i &= TALLY_PARK_PIECES - 1;
	if (d->piece[i])
		piece_free(d->piece[i], 0);
	d->piece[i] = 0;
	return 0;
}

#define CHUNK_WORDS (TALLY_CHUNK / 8)

struct defer_pair {
	struct tally_deferred *a, *b;
};

/*
 * Octets 8i.. of both segments, as far as both go: one that comes again may be cut elsewhere. Stops where
 * they differ. Pieces of both are full but for the last, so that those of one begin are pairs.
 */
static long defer_compare_step(__u32 i, void *ctx)
{
	struct defer_pair *l = ctx;
	__u32 at = i / CHUNK_WORDS, word = i, n;
	struct tally_parked *a, *b;
	__u64 differs;

	tally_opaque(at);
	tally_opaque(word);
	at &= TALLY_PARK_PIECES - 1;
	word &= CHUNK_WORDS - 1;
	a = piece_of(l->a->piece[at], 0);
	b = piece_of(l->b->piece[at], 0);
	if (!a || !b)
		return 0;
	if (a->seq != b->seq) /* disjoint: TCP wants the other one again; else who knows */
		return (__s32)(a->seq + a->len - b->seq) > 0 &&
		       (__s32)(b->seq + b->len - a->seq) > 0;
	n = (a->len < b->len ? a->len : b->len) - 8 * word;
	if ((__s32)n <= 0)
		return 0;
	differs = *(tally_unaligned *)(a->data.b + 8 * word) ^
		  *(tally_unaligned *)(b->data.b + 8 * word);
	return n < 8 ? tally_low(differs, n) != 0 : differs != 0;
}

/* How far both go is told by where the loop stopped: 6.1 does not see what a loop writes. */
static __noinline int defer_same(struct tally_deferred *a, struct tally_deferred *b)
{
	struct defer_pair l = { a, b };
	__u32 n = (a->count < b->count ? a->count : b->count) * CHUNK_WORDS;

	return bpf_loop(n + 1, defer_compare_step, &l, 0) > n;
}

static __noinline int defer_full(struct bpf_sock *sk)
{
	gap_shared(totals_missed(sk), TALLY_GAP_DEFER_FULL);
	return 0;
}

static __always_inline __u32 defer_seq(const struct tally_deferred *d)
{
	struct tally_parked *k = piece_of(d->piece[0], 0);

	return k ? k->seq : 0;
}

struct defer_extend_loop {
	struct tally_deferred *to, *from;
};

/* Piece i of both, and what follows, change places from the last one of `to` on. */
static long defer_extend_step(__u32 i, void *ctx)
{
	struct defer_extend_loop *l = ctx;
	__u32 kept;

	if (i >= l->from->count)
		return 1;
	if (i + 1 < l->to->count)
		return 0;
	tally_opaque(i);
	i &= TALLY_PARK_PIECES - 1;
	kept = l->to->piece[i];
	l->to->piece[i] = l->from->piece[i];
	l->from->piece[i] = kept;
	return 0;
}

enum defer_place { DEFER_FREE, DEFER_ELSEWHERE, DEFER_MET };

/* A segment at seq, with d what was kept of it; whole: all that can be. */
struct defer_segment {
	struct tally_deferred *d;
	__u32 seq, len;
	__u32 whole;
};

/* Is an octet of the segment in what waits? Without a piece it is about the stream as a whole. */
static __always_inline int defer_meets(const struct tally_deferred *old,
				       const struct defer_segment *g)
{
	__u32 seq = defer_seq(old);

	return !old->count ||
	       ((__s32)(seq + old->len - g->seq) > 0 && (__s32)(g->seq + g->len - seq) > 0);
}

/*
 * What waits was not taken, or it would not come again; with more behind it, what it is now will be. What is
 * of no use stays in g->d. What meets and is not the same, or was not compared, is a conflict.
 */
static __noinline int defer_again(const struct tally_deferred_key *k, struct defer_segment *g,
				  int merged)
{
	struct tally_deferred *old = bpf_map_lookup_elem(&deferred, k);
	struct defer_extend_loop l = { old, g->d };

	if (!old)
		return DEFER_FREE;
	if (!defer_meets(old, g))
		return DEFER_ELSEWHERE;
	if (merged || !g->whole || g->d->conflict || !old->count || defer_seq(old) != g->seq ||
	    !defer_same(old, g->d)) {
		old->conflict = 1;
		return DEFER_MET;
	}
	if (g->len > old->len || g->d->count > old->count) {
		bpf_loop(TALLY_PARK_PIECES, defer_extend_step, &l, 0);
		old->count = g->d->count;
		old->len = g->len;
	}
	old->fin |= g->d->fin;
	return DEFER_MET;
}

enum defer_result { DEFER_STORED = 1, DEFER_LOST = 2 };

/* Returns enum defer_result: its pieces are the map's now; octets are lost, and nothing there says so. */
static __noinline int defer_keep(struct tally_deferred_key *k, struct defer_segment *g)
{
	int first = defer_again(k, g, 0), second;

	k->nth = 1;
	second = defer_again(k, g, first == DEFER_MET);
	if (first == DEFER_MET || second == DEFER_MET)
		return 0;
	k->nth = first == DEFER_FREE ? 0 : 1;
	if ((first == DEFER_FREE || second == DEFER_FREE) && (g->d->count || g->d->conflict) &&
	    !bpf_map_update_elem(&deferred, k, g->d, BPF_NOEXIST))
		return g->whole ? DEFER_STORED : DEFER_STORED | DEFER_LOST;
	return DEFER_LOST;
}

static __noinline int defer_park(struct __sk_buff *skb, struct tally_scratch *s,
				 struct bpf_sock *sk, __u32 port)
{
	struct {
		struct __sk_buff *skb;
		struct tally_scratch *s;
	} l = { skb, s };
	struct tally_deferred *d = &s->deferred;
	struct tally_deferred_key k = { .port = port };
	struct defer_segment g = { d, s->run.seq, s->run.len, 0 };
	int kept;

	/* The listener's socket has no peer: the packet has. */
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		__u32 *w = (__u32 *)k.peer;

		if (bpf_skb_load_bytes(skb, 12, w + 3, 4))
			return -1;
		w[2] = bpf_htonl(0xffff);
	} else if (bpf_skb_load_bytes(skb, 8, k.peer, 16)) {
		return -1;
	}
	{
		__u16 sport;
		__u32 off = tcp_offset(skb);

		if (!off || bpf_skb_load_bytes(skb, off, &sport, 2))
			return -1;
		k.peer_port = bpf_ntohs(sport);
	}
	s->run.now = bpf_ktime_get_ns();
	__builtin_memset(d, 0, sizeof(*d));
	d->since_ns = s->run.now;
	d->conflict = !!(s->run.flags & SEG_URG);
	d->fin = !!(s->run.flags & SEG_FIN);
	d->len = g.len;
	g.len += !g.len; /* an urgent mark alone */
	bpf_loop(TALLY_PARK_PIECES, defer_step, &l, 0);
	g.whole = s->run.at >= s->run.len || d->count == TALLY_PARK_PIECES;
	kept = defer_keep(&k, &g);
	if (kept & DEFER_LOST)
		defer_full(sk);
	if (!(kept & DEFER_STORED))
		bpf_loop(TALLY_PARK_PIECES, defer_drop_step, &d, 0);
	return kept & DEFER_LOST ? -1 : 0;
}

#endif
