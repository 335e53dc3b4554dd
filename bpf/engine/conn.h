/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * One connection: two parsers, and the queue of exchanges between them.
 *
 *	client ── h1[IN] ──► queue of exchanges ──► h1[OUT] ──► server's answer books the front one
 *
 * Responses pair with requests first in, first out (RFC 9112 9.3). The request side only produces
 * (head), the response side only consumes (tail); each has one writer at a time. Request octets go
 * to the exchange atomically; whoever finds it answered takes them to its row (taken by exchange
 * with 0, so once).
 *
 * Past TALLY_PIPELINE waiting requests, only what framing needs is kept (`over`): HEAD or CONNECT.
 *
 * Invariants:
 *  C1 every final response head is `seen` once and leads to exactly one booked request;
 *  C2 a tainted connection stays tainted, its responses still count; a request whose key alone is in
 *     doubt taints its own exchange: no boundary moves, and behind a proxy others' requests come next;
 *  C3 an exchange is charged to a key only if TCP took the whole head that names it (rcv_nxt).
 */
#ifndef TALLY_ENGINE_CONN_H
#define TALLY_ENGINE_CONN_H

#include "h1.h"
#include "tally/ledger.h"

enum { TALLY_IN, TALLY_OUT };

enum tally_closed {
	CONN_ENDED = 1,
	/* TCP takes octets that MPTCP then throws away: what the server reads cannot be known here. */
	CONN_MPTCP = 2,
};

#define TALLY_OVER 256 /* requests past TALLY_PIPELINE; a power of two */

enum tally_exchange_flag {
	EX_HEAD = 1 << 0,     /* answers carry no body */
	EX_CONNECT = 1 << 1,  /* 2xx makes a tunnel */
	EX_UNKNOWN = 1 << 2,  /* the key is not in the dictionary (yet) */
	EX_NO_LEARN = 1 << 3, /* the route does not check keys */
	EX_NO_ROOM = 1 << 4,  /* no candidate slot for the key's text */
	EX_ORPHAN = 1 << 5,   /* no request of its own */
	EX_TAINTED = 1 << 6,  /* in doubt, or read at or after the connection's taint: `detail` */
	EX_OVER = 1 << 7,     /* an orphan that stands for one past the depth */
	EX_NAMED = 1 << 8,    /* the key is the answer's, not the request's */
	EX_WHOLE = 1 << 9,    /* no octets of the request follow its head */
};

struct tally_exchange {
	__u64 key;
	__u64 start_ns;	     /* first octet received */
	__u64 request_bytes; /* not booked yet; shared, atomic */
	__u32 head_end;	     /* stream position after the head */
	__u32 ruleset;
	__u32 candidate; /* ticket of the slot with the key's text, 0: none */
	__u32 answered;	 /* shared: the row is known (final response head seen) */
	__u16 route;
	__u16 status;
	__u16 flags; /* enum tally_exchange_flag */
	__u8 method;
	__u8 protocol;
	__u8 attribution;
	__u8 detail;
	__u8 taken;	   /* IN: TCP has taken the whole head; positions say so for 2 GiB only */
	__u8 key_priority; /* of the request's key; 0: it has none */
	__u32 turn;	   /* IN: its index + 1, once it waits; last of all */
	__u8 touched[8];   /* says nothing (skb.h) */
};

#define CONN_MIDWAY 2 /* no mark of a port that is wanted: it is asked at each segment */
#define TALLY_HOLES 8 /* stretches of bodies, not looked at, that TCP has not taken yet */
#define TALLY_KEPT 16 /* pieces looked at that TCP has not taken yet; a power of two */

/* Stream positions from..to; empty: the same. */
struct tally_hole {
	__u32 from, to;
};

/* What the holder of a direction's lock writes, and nobody else. */
struct tally_way {
	__u32 lock; /* xchg try-lock */
	__u32 next; /* stream position expected next */
	/* Rules of the message under way: those that were in force when it began. */
	__u32 rules_slot, rules_id;
	__u32 fin; /* position of FIN, if fin_seen */
	__u32 pad;
	struct tally_h1 h1;
	__u8 to_line[40];
};

/*
 * The directions run on two processors: the client's, or its network queue's, and the server's. A cache line
 * that both write travels between them with each exchange, which takes longer than all that is done with it.
 * So what both read is seldom written and stands together; each direction writes to lines of its own; and an
 * exchange goes from one to the other in a line that holds nothing else (CONN_LINE).
 */
struct tally_conn {
	/* Read by both, seldom written. */
	__u32 service;
	/* Octets, not bits: each has its own writer, and the directions run at the same time. */
	union {
		struct {
			__u8 midstream; /* joined after its birth, no provable boundary yet; IN */
			__u8 closed;	/* enum tally_closed: nothing of it is framed any more */
			__u8 tunnel;	/* 101 or CONNECT; OUT */
			__u8 taint;	/* enum tally_detail: from the stream layer; sticky */
		};
		__u32 odd; /* any of them: its segments are no plain ones */
	};
	__u8 ignored;  /* of no service */
	__u8 resolved; /* mark of its port when its service was asked; CONN_MIDWAY; 0: not yet */
	__u8 counted;  /* in totals.connections */
	__u8 unborn;   /* no program saw its birth, and none will see its death */
	__u32 ended;   /* it is over, and who holds a lock closes it when done */
	__u64 cookie;
	__u64 unread; /* IN: position << 32 | length of octets that no place was left for; shared, atomic */
	__u32 parked_count[2];
	__u32 over_head, over_tail; /* free-running indices of over[] */
	__u32 origin;	/* of its scope; ignored: tally_settings.changes when it was asked */
	__u8 synced[2]; /* next is known */
	__u8 fin_seen[2];
	struct tally_exchange queue[TALLY_PIPELINE]; /* each a line */
	struct tally_exchange orphan;
	struct tally_way way[2];
	/* IN's. */
	__u32 head;	   /* index of the next request; free-running, as the other's */
	__u32 tail_seen;   /* tail, when it was asked last */
	__u64 begun_ns;	   /* when the current request's first octet came */
	__u64 known_key;   /* in the dictionary, when it was asked in the epoch of that number */
	__u32 known_epoch; /* 0: none */
	__u32 parsed_to;   /* octets from here on were skipped as body, never looked at */
	__u32 seen_at;	   /* stream position of seen.b[0] */
	__u32 seen_len;
	__u32 far; /* the greatest stream position behind an octet that was seen */
	__u32 kept_count;
	__u32 holes;	 /* some of hole[] are in use */
	__u32 sent_then; /* midstream: snd_nxt when octets of a request came last */
	__u32 kept_last; /* which of kept[] was filled last: octets that follow join it */
	__u8 in_over;	 /* the current request is past the depth */
	__u8 pad[3];
	__u64 over_bytes;		     /* octets of requests past the depth; shared, atomic */
	struct tally_chunk seen;	     /* the octets looked at last (R9) */
	struct tally_hole hole[TALLY_HOLES]; /* stretches skipped as body before parsed_to */
	__u32 kept[TALLY_KEPT]; /* octets looked at before `seen`, ids + 1 of pieces; 0: empty */
	__u8 over[TALLY_OVER];
	/* Seldom needed. */
	__u32 parked[2][TALLY_PARK_PIECES]; /* ids + 1; 0: empty. Shared, atomic */
	__u8 peer[16];
	__u16 peer_port;
	__u8 to_line[22];
	/* OUT's. */
	__u32 tail; /* index of the first request that waits */
	__u32 unused;
	__u64 last_key;		  /* for `tainted: owner` */
	__u8 owner_known;	  /* last_key is a key a response accepted */
	__u8 responding;	  /* a final head was read, its response goes on */
	__u8 on_orphan;		  /* the response under way, or the tunnel, is of `orphan` */
	struct tally_reply reply; /* the head read last, while its parser remembers it */
};

/* A storage of a socket stands at the begin of a line, behind a pointer of the kernel's (bpf_local_storage_data). */
#define CONN_LINE(field) (__builtin_offsetof(struct tally_conn, field) % 64 == 56)
TALLY_ASSERT(CONN_LINE(queue[0]) && CONN_LINE(queue[1]), "a line for each exchange");
TALLY_ASSERT(CONN_LINE(way[0]) && CONN_LINE(way[1]) && CONN_LINE(head) && CONN_LINE(tail),
	     "lines of one direction");

/* Do the octets of c->seen follow those of a kept piece, and fit in it? */
TALLY_INLINE int conn_joins(const struct tally_conn *c, __u32 seq, __u32 len)
{
	return seq + len == c->seen_at && len + c->seen_len <= TALLY_CHUNK;
}

/* What one run adds to the row of the current exchange. */
struct tally_delta {
	__u64 requests;
	__u64 incomplete;
	__u64 request_bytes;
	__u64 response_bytes;
	__u64 duration_ns;
	__u64 late_bytes; /* of the request, behind its answer: IN's */
};

/*
 * The index of a direction in an array of two: where the program is that of one direction a constant, and
 * costs nothing. A choice between two constant offsets would do elsewhere, but without CAP_PERFMON the
 * verifier wants the same bounds on every path to an addition.
 */
TALLY_INLINE __u32 conn_side(__u32 dir)
{
	if (__builtin_constant_p(dir))
		return dir;
	tally_opaque(dir);
	return dir & 1;
}

/* How many requests wait for the end of their answer. */
TALLY_INLINE __u32 conn_waiting(const struct tally_conn *c)
{
	return c->head - c->tail;
}

#define CONN_FEW 8

/*
 * For IN: may more than one wait? The other direction's index is in a line of its own, and asked for only when
 * so many requests came since. While fewer wait their heads are near, whether or not TCP was seen to take them
 * (meter_heads).
 */
TALLY_INLINE int conn_many_wait(struct tally_conn *c)
{
	if (c->head - c->tail_seen <= CONN_FEW)
		return 0;
	c->tail_seen = c->tail;
	return c->head - c->tail_seen > 1;
}

TALLY_INLINE struct tally_exchange *conn_slot(struct tally_conn *c, __u32 i)
{
	tally_opaque(i);
	return &c->queue[i & (TALLY_PIPELINE - 1)];
}

/*
 * The exchange of the response under way, chosen when its head was read: a request may be pushed
 * meanwhile, and is not what this response answers.
 */
TALLY_INLINE struct tally_exchange *conn_front(struct tally_conn *c)
{
	return c->on_orphan ? &c->orphan : conn_slot(c, c->tail);
}

/* The exchange that request octets belong to now: the one pushed last. */
TALLY_INLINE struct tally_exchange *conn_last(struct tally_conn *c)
{
	return conn_slot(c, c->head - 1);
}

TALLY_INLINE void tally_conn_init(struct tally_conn *c)
{
	tally_h1_init(&c->way[TALLY_IN].h1, 0);
	tally_h1_init(&c->way[TALLY_OUT].h1, 1);
}

/* Birth, with the stream positions of the first octets. */
TALLY_INLINE void tally_conn_born(struct tally_conn *c, __u32 next_in, __u32 next_out)
{
	tally_conn_init(c);
	c->way[TALLY_IN].next = next_in;
	c->way[TALLY_OUT].next = next_out;
	c->synced[TALLY_IN] = 1;
	c->synced[TALLY_OUT] = 1;
	c->parsed_to = next_in;
	c->seen_at = next_in;
	c->far = next_in;
}

/* The connection was there before the meter. */
TALLY_INLINE void tally_conn_join(struct tally_conn *c)
{
	tally_conn_init(c);
	c->midstream = 1;
	c->unborn = 1;
}

/* Nothing was read by this parser yet. */
TALLY_INLINE void conn_parser_again(struct tally_h1 *p)
{
	p->event = 0;
	p->taint = 0;
	p->octets = 0;
	p->blank = 0;
	p->recall_len = 0;
	p->spill_slot = 0;
	p->key_spilled = 0;
	p->held_len = 0;
}

/*
 * It was out of sight for a time, and begins anew midway. What was known of it is in the books; that its
 * octets were in doubt stays (C2), and so does where a FIN stands.
 */
TALLY_INLINE void tally_conn_again(struct tally_conn *c)
{
	tally_conn_join(c);
	conn_parser_again(&c->way[TALLY_IN].h1);
	conn_parser_again(&c->way[TALLY_OUT].h1);
	c->synced[TALLY_IN] = 0;
	c->synced[TALLY_OUT] = 0;
	c->closed = 0;
	c->responding = 0;
	c->tunnel = 0;
	c->on_orphan = 0;
	c->in_over = 0;
	c->owner_known = 0;
	if (c->taint != TALLY_DETAIL_CONFLICT)
		c->taint = 0;
	c->unread = 0;
	c->way[TALLY_IN].rules_id = 0;
	c->way[TALLY_OUT].rules_id = 0;
	c->begun_ns = 0;
	c->seen_len = 0;
	c->holes = 0;
	for (__u32 i = 0; i < TALLY_HOLES; i++)
		c->hole[i].to = c->hole[i].from;
}

/* Why nothing on this connection can be charged any more; 0: it can. */
TALLY_INLINE __u8 conn_taint(const struct tally_conn *c)
{
	return c->taint ? c->taint : c->way[TALLY_IN].h1.taint;
}

TALLY_INLINE void conn_attribute(struct tally_exchange *x, __u8 attribution, __u8 detail)
{
	x->attribution = attribution;
	x->detail = detail;
	if (attribution != TALLY_ATTR_KEY)
		x->key = 0;
}

/* Doubts about the key itself, and about the octets that hold it. */
#define CONN_KEYLESS                                                       \
	(1u << TALLY_DETAIL_AMBIGUOUS_KEY | 1u << TALLY_DETAIL_BAD_BASIC | \
	 1u << TALLY_DETAIL_CONFLICT | 1u << TALLY_DETAIL_GAP)
TALLY_ASSERT(TALLY_DETAIL_COUNT <= 32, "a bit for each detail");

/*
 * May a tainted exchange pay with its own key? Under `owner`, while the connection has no clean key: else
 * who spoils the first request pays for none.
 */
TALLY_INLINE int conn_own_key(const struct tally_conn *c, const struct tally_rules *r, __u8 detail)
{
	return r->flags & TALLY_RULES_TAINTED_OWNER && !c->owner_known &&
	       !(CONN_KEYLESS >> (detail & 31) & 1);
}

/*
 * Tainted: to nobody, or, where the operator chose so, to the connection's last clean key, or while there
 * is none to its own; that is looked up, and learnt, as any (tally_conn_request_head).
 */
TALLY_INLINE void conn_attribute_tainted(struct tally_conn *c, const struct tally_rules *r,
					 struct tally_exchange *x)
{
	__u8 detail = x->flags & EX_TAINTED && !c->taint ? x->detail : conn_taint(c);

	if (r->flags & TALLY_RULES_TAINTED_OWNER && c->owner_known) {
		x->key = c->last_key;
		x->attribution = TALLY_ATTR_KEY;
		x->detail = detail;
		x->flags &= ~EX_UNKNOWN;
	} else if (x->attribution == TALLY_ATTR_KEY && conn_own_key(c, r, detail)) {
		x->detail = detail;
	} else {
		conn_attribute(x, TALLY_ATTR_TAINTED, detail);
	}
}

/* Does the key of this exchange, if the server accepts it, become the connection's last clean one? */
TALLY_INLINE int conn_owns(const struct tally_conn *c, const struct tally_exchange *x)
{
	return !(x->flags & EX_TAINTED) || (!c->owner_known && !(x->flags & EX_NAMED));
}

/* x is answered. A key that the server has accepted is the connection's, for what is tainted later. */
TALLY_INLINE void conn_own(struct tally_conn *c, const struct tally_exchange *x)
{
	if (x->attribution != TALLY_ATTR_KEY || x->status == 401 || x->status == 403 ||
	    !conn_owns(c, x))
		return;
	c->last_key = x->key;
	c->owner_known = 1;
}

/* Was the key found in the dictionary in this epoch already? epoch 0: it is not told. */
TALLY_INLINE int conn_knows(const struct tally_conn *c, const struct tally_exchange *x, __u32 epoch)
{
	return epoch && c->known_epoch == epoch && c->known_key == x->key;
}

/* What the request's head alone says of its exchange: enum tally_exchange_flag. */
TALLY_INLINE __u8 conn_head_flags(const struct tally_h1 *p, const struct tally_rules *r)
{
	__u64 method = p->method ? r->method[p->method & (TALLY_METHODS - 1)] : 0;
	__u32 route = p->route;
	__u8 flags = 0;

	tally_opaque(route);
	if (method == 0x44414548ULL) /* HEAD */
		flags |= EX_HEAD;
	if (method == 0x5443454e4e4f43ULL)
		flags |= EX_CONNECT;
	if (r->route_flags[route & (TALLY_ROUTES - 1)] & TALLY_ROUTE_AUTH_NONE)
		flags |= EX_NO_LEARN;
	return flags;
}

/* What an exchange has from its request's head, but for whom it is charged to. */
TALLY_INLINE void conn_fill(const struct tally_conn *c, struct tally_exchange *x,
			    const struct tally_rules *r, __u32 head_end)
{
	const struct tally_h1 *p = &c->way[TALLY_IN].h1;

	x->key = p->key_hash;
	x->start_ns = c->begun_ns;
	x->request_bytes = 0;
	x->head_end = head_end;
	x->taken = 0;
	x->key_priority = p->key_priority;
	x->ruleset = r->ruleset;
	x->candidate = 0;
	x->answered = 0;
	x->route = p->route;
	x->status = 0;
	x->method = p->method;
	x->protocol = p->protocol;
	x->flags = p->head_flags | (p->state == H1_START ? EX_WHOLE : 0);
}

/* The exchange x in the next slot waits now for its answer. */
TALLY_INLINE void conn_push(struct tally_conn *c, struct tally_exchange *x)
{
	tally_publish(&c->head, c->head + 1);
	tally_publish(&x->turn, c->head);
}

/* For OUT: does x, in the slot of the tail, wait? Its own line says so. */
TALLY_INLINE int conn_waits(const struct tally_conn *c, struct tally_exchange *x)
{
	return tally_published(&x->turn) == c->tail + 1;
}

/* tally_conn_request_head() where the head was remembered, and there is room. */
TALLY_INLINE struct tally_exchange *
tally_conn_request_again(struct tally_conn *c, const struct tally_rules *r, __u32 head_end)
{
	struct tally_exchange *x = conn_slot(c, c->head);

	conn_fill(c, x, r, head_end);
	conn_attribute(x, x->key_priority ? TALLY_ATTR_KEY : TALLY_ATTR_ANONYMOUS, 0);
	if (x->key_priority)
		x->flags |= EX_UNKNOWN;
	return x;
}

/*
 * h1[IN] has read a whole head. Fills the exchange that the driver then pushes: returns it, or
 * NULL when the queue is full (the driver calls tally_conn_push_over then).
 * An exchange with EX_UNKNOWN has a key that the driver must look up.
 */
TALLY_INLINE struct tally_exchange *
tally_conn_request_head(struct tally_conn *c, const struct tally_rules *r, __u32 head_end)
{
	struct tally_h1 *p = &c->way[TALLY_IN].h1;
	__u8 taint = conn_taint(c);
	struct tally_exchange *x;

	x = conn_slot(c, c->head);
	if (conn_waiting(c) >= TALLY_PIPELINE || c->over_head != c->over_tail)
		return 0;
	conn_fill(c, x, r, head_end);
	if (p->flags & H1_F_KEY_LIMIT)
		conn_attribute(x, TALLY_ATTR_LIMIT, TALLY_DETAIL_KEY_TOO_LONG);
	else if (p->flags & H1_F_PATH_DEEP)
		conn_attribute(x, TALLY_ATTR_LIMIT, TALLY_DETAIL_PATH_DEPTH);
	else if (p->key_priority)
		conn_attribute(x, TALLY_ATTR_KEY, 0);
	else
		conn_attribute(x, TALLY_ATTR_ANONYMOUS,
			       p->flags & H1_F_EMPTY_KEY ? TALLY_DETAIL_EMPTY_KEY : 0);
	if (!taint)
		taint = h1_doubt(p);
	if (taint) {
		if (!conn_own_key(c, r, taint))
			conn_attribute(x, TALLY_ATTR_TAINTED, taint);
		x->detail = taint;
		x->flags |= EX_TAINTED;
	}
	if (x->attribution == TALLY_ATTR_KEY)
		x->flags |= EX_UNKNOWN;
	return x;
}

/* Past the depth: keep what framing needs. Returns 0, or -1: not even that fits. */
TALLY_INLINE int tally_conn_push_over(struct tally_conn *c)
{
	__u32 at = c->over_head;

	if (c->over_head - c->over_tail >= TALLY_OVER)
		return -1;
	tally_opaque(at);
	c->over[at & (TALLY_OVER - 1)] = c->way[TALLY_IN].h1.head_flags & (EX_HEAD | EX_CONNECT);
	c->over_head++;
	return 0;
}

/* The stand-in for a request that is not in the queue: past the depth, unreadable, or unseen. */
TALLY_INLINE struct tally_exchange *conn_orphan(struct tally_conn *c, const struct tally_rules *r,
						__u64 now)
{
	struct tally_exchange *x = &c->orphan;
	__u32 at = c->over_tail;

	x->key = 0;
	x->start_ns = c->begun_ns ? c->begun_ns : now;
	x->request_bytes = 0;
	x->ruleset = r->ruleset;
	x->candidate = 0;
	x->answered = 0;
	x->key_priority = 0;
	x->route = 0;
	x->method = 0;
	x->protocol = c->way[TALLY_OUT].h1.protocol;
	x->flags = EX_ORPHAN;
	conn_attribute(x, TALLY_ATTR_ANONYMOUS, TALLY_DETAIL_NO_REQUEST);
	if (c->over_head != c->over_tail) {
		tally_opaque(at);
		x->flags |= EX_OVER | c->over[at & (TALLY_OVER - 1)];
		x->start_ns = now;
		conn_attribute(x, TALLY_ATTR_LIMIT, TALLY_DETAIL_PIPELINE_DEPTH);
	}
	return x;
}

/* Has a head begun that is not complete? */
TALLY_INLINE int conn_half_head(const struct tally_h1 *p)
{
	return p->state > H1_START && p->state <= H1_HEAD_LF && !(p->flags & H1_F_TRAILER);
}

/* Has a request begun whose head is not complete? */
TALLY_INLINE int conn_in_head(const struct tally_conn *c)
{
	return c->parked_count[TALLY_IN] || conn_half_head(&c->way[TALLY_IN].h1);
}

/*
 * Has TCP taken the head of x? Said by positions while they are near each other; a long body behind the
 * head takes them further apart than they can tell, and the request side remembers.
 */
TALLY_INLINE int conn_head_taken(const struct tally_exchange *x, __u32 rcv_nxt)
{
	return x->taken || (__s32)(rcv_nxt - x->head_end) >= 0;
}

/* What an answer to a request that is not there says of the connection; 0: nothing. */
TALLY_INLINE __u8 conn_orphan_taint(const struct tally_conn *c, __u32 rcv_nxt)
{
	__u16 status = c->way[TALLY_OUT].h1.status;

	/* It answers what TCP took and nobody here saw. A FIN takes a position, too. */
	if (c->synced[TALLY_IN] && !c->parked_count[TALLY_IN] &&
	    (__s32)(rcv_nxt - c->way[TALLY_IN].next) > 1)
		return TALLY_DETAIL_GAP;
	/* It answers what was not read to its end: later answers would go one request astray. */
	if (conn_in_head(c))
		return TALLY_DETAIL_EARLY_RESPONSE;
	/* So they may behind a success that nobody asked for; a refusal, as of an idle client, has none. */
	return status >= 200 && status < 400 && !c->midstream ? TALLY_DETAIL_EARLY_RESPONSE : 0;
}

/* Does the answer say who the customer is, and count? Not where the request's own key stands before it. */
TALLY_INLINE int conn_named(const struct tally_conn *c, const struct tally_exchange *x)
{
	__u8 priority = c->way[TALLY_OUT].h1.key_priority;

	if (!priority || c->midstream)
		return 0;
	return !x->key_priority || priority < x->key_priority;
}

TALLY_INLINE void conn_attribute_named(const struct tally_h1 *p, struct tally_exchange *x)
{
	if (p->flags & H1_F_KEY_AMBIGUOUS) {
		/* The server names two: nobody is charged (R5), whoever owns what is tainted. */
		conn_attribute(x, TALLY_ATTR_TAINTED, TALLY_DETAIL_AMBIGUOUS_KEY);
		x->flags &= ~EX_UNKNOWN;
		return;
	}
	x->key = p->key_hash;
	x->attribution = TALLY_ATTR_KEY;
	x->detail = 0;
	x->flags |= EX_UNKNOWN | EX_NAMED;
	x->flags &= ~EX_NO_LEARN;
}

/*
 * h1[OUT] has read the head of a final response (status >= 200, or 101; or the first octets of an
 * answer to HTTP/0.9). Finds its exchange and decides whom it belongs to, but for the driver's part:
 * an exchange with EX_UNKNOWN set needs its key learnt. rcv_nxt: what TCP has taken.
 */
TALLY_INLINE struct tally_exchange *tally_conn_response_head(struct tally_conn *c,
							     const struct tally_rules *r,
							     __u32 rcv_nxt, __u64 now)
{
	struct tally_h1 *p = &c->way[TALLY_OUT].h1;
	struct tally_exchange *x;

	if (conn_waiting(c))
		x = conn_slot(c, c->tail);
	else
		x = conn_orphan(c, r, now);
	c->on_orphan = x->flags & EX_ORPHAN ? 1 : 0;
	x->status = p->status;
	if (!(x->flags & EX_ORPHAN) && !conn_head_taken(x, rcv_nxt))
		c->taint = TALLY_DETAIL_CONFLICT;
	/* A status line: the server read more than the line that has no version (Node does). */
	if (x->protocol == TALLY_PROTO_HTTP09 && p->protocol != TALLY_PROTO_HTTP09 && !c->taint)
		c->taint = TALLY_DETAIL_BAD_START;
	if (x->flags & EX_ORPHAN && c->over_head == c->over_tail && !conn_taint(c))
		c->taint = conn_orphan_taint(c, rcv_nxt);
	if (c->midstream) {
		conn_attribute(x, TALLY_ATTR_MIDSTREAM, 0);
	} else if (c->taint || x->flags & EX_TAINTED || (x->flags & EX_ORPHAN && conn_taint(c))) {
		/* Requests read before a taint keep their key, unless the bytes are in doubt. */
		conn_attribute_tainted(c, r, x);
	}
	if (conn_named(c, x))
		conn_attribute_named(p, x);
	c->responding = 1;
	return x;
}

/*
 * Does the response carry no body, by the request it answers? By status alone: the parser knows.
 * A length in a 2xx to CONNECT says that the server took it for a method like any other, and that
 * no tunnel follows (RFC 9110 9.3.6 forbids it in one). So do 204 and 205, which have no length: no
 * proxy says them of a tunnel, and a server that has a route for CONNECT goes on with the connection.
 */
TALLY_INLINE void tally_conn_frame_response(struct tally_conn *c, const struct tally_exchange *x)
{
	struct tally_h1 *p = &c->way[TALLY_OUT].h1;
	int tunnel = p->status == 101 || (x->flags & EX_CONNECT && p->status >= 200 &&
					  p->status < 300 && p->status != 204 && p->status != 205 &&
					  !(p->flags & (H1_F_LENGTH | H1_F_CODING)));

	tally_h1_frame_response(p, x->flags & EX_HEAD, tunnel);
	if (tunnel)
		c->tunnel = 1;
}

/* The row of an exchange. */
TALLY_INLINE void tally_conn_row_key(const struct tally_conn *c, const struct tally_exchange *x,
				     __u32 hour, struct tally_row_key *k)
{
	k->conn = c->cookie;
	k->key = x->key;
	k->hour = hour;
	k->ruleset = x->ruleset;
	k->service = c->service;
	k->route = x->route;
	k->status = x->status;
	k->method = x->method;
	k->attribution = x->attribution;
	k->detail = x->detail;
	k->protocol = x->protocol;
	k->pad[0] = k->pad[1] = 0;
	k->origin = c->origin;
}

/* The front exchange is booked: the next response belongs to the next one. */
TALLY_INLINE void tally_conn_pop(struct tally_conn *c, const struct tally_exchange *x)
{
	c->responding = 0;
	if (!(x->flags & EX_ORPHAN))
		c->tail++;
	else if (x->flags & EX_OVER)
		c->over_tail++;
}

#endif
