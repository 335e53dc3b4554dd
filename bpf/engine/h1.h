/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * HTTP/1.x framing and head parsing (RFC 9112), one direction of one connection: a resumable
 * machine that looks at up to 8 octets (32 while skipping) per step. Octets may arrive in any
 * pieces; the result does not depend on them.
 *
 *	START ─ start line ─ LINE ⇄ NAME/value ─ HEAD_LF ─┬─ START               (no body)
 *	                                                  ├─ BODY ─ START        (Content-Length)
 *	                                                  ├─ CHUNK_* ─ LINE ...  (chunked, trailers)
 *	                                                  └─ CLOSE / TUNNEL      (until the end)
 *
 * Invariants:
 *  H1 every octet is consumed exactly once and counted in `octets` of the message it belongs to;
 *  H2 `taint` only goes from 0 to a reason, and stays: what cannot be framed beyond doubt is never
 *     clean again (a response is the operator's own: it gives up instead). A doubt about whose one
 *     message is moves no boundary: it is a flag of that message, and the next one has none;
 *  H3 framing never searches for something that looks like a message;
 *  H4 key octets are kept only in key_text, and key_hash is of exactly the value's octets.
 */
#ifndef TALLY_ENGINE_H1_H
#define TALLY_ENGINE_H1_H

#include "cursor.h"
#include "event.h"
#include "tally/hash.h"
#include "tally/reasons.h"
#include "tally/rules.h"

enum tally_h1_state {
	/* Skipping states first: their remaining octets need not be loaded (tally_h1_skip). */
	H1_BODY,       /* `remain` octets of body */
	H1_CHUNK_DATA, /* `remain` octets of chunk */
	H1_CLOSE,      /* body until the connection ends */
	H1_TUNNEL,     /* no longer HTTP: 101, CONNECT */
	H1_BAD,	       /* gave up; octets are counted as unparsed */
	H1_SKIPPING = H1_BAD,
	/* Between messages. */
	H1_START,
	/* Request line. */
	H1_METHOD,
	H1_TARGET,
	H1_SCHEME,
	H1_AUTHORITY,
	H1_PATH,
	H1_PERCENT1,
	H1_PERCENT2,
	H1_QUERY_NAME,
	H1_QUERY_NAME_PERCENT1,
	H1_QUERY_NAME_PERCENT2,
	H1_QUERY_VALUE,
	H1_QUERY_PERCENT1,
	H1_QUERY_PERCENT2,
	H1_QUERY_SKIP,
	H1_VERSION,
	/* Status line. */
	H1_PROTOCOL,
	H1_STATUS,
	/* Header lines. */
	H1_LINE,
	H1_NAME,
	H1_COLON_SPACE,
	H1_OWS,
	H1_SKIP_LINE,
	H1_KEY,
	H1_AUTH_SCHEME,
	H1_BASIC,
	H1_LENGTH,
	H1_CODING,
	H1_VALUE_LF,
	H1_HEAD_LF,
	/* Chunked coding. */
	H1_CHUNK_SIZE,
	H1_CHUNK_EXT,
	H1_CHUNK_SIZE_LF,
	H1_CHUNK_CR,
	H1_CHUNK_LF,
};

enum tally_h1_flag {
	H1_F_RESPONSE = 1 << 0,	  /* this machine reads responses (for the whole connection) */
	H1_F_TRAILER = 1 << 1,	  /* header lines now are trailers */
	H1_F_AUTH_AGAIN = 1 << 2, /* this line is not the first of its header, which has schemes */
	H1_F_LENGTH = 1 << 3,	  /* a Content-Length was read */
	H1_F_LENGTH_BAD = 1 << 4, /* ... and is not one valid number */
	H1_F_CODING = 1 << 5,	  /* a Transfer-Encoding was read */
	H1_F_CHUNKED = 1 << 6,	  /* ... its last coding so far is chunked */
	H1_F_CHUNKED_ONCE = 1 << 7,   /* ... chunked occurred */
	H1_F_DIGITS = 1 << 8,	      /* digits of the current number were read */
	H1_F_VALUE_END = 1 << 9,      /* only white space may follow in this value */
	H1_F_KEY_DUPLICATE = 1 << 10, /* a second value of the same source: hash only */
	H1_F_KEY_OPEN = 1 << 11,      /* a key value is being read */
	H1_F_EMPTY_KEY = 1 << 12,     /* a key source was present and empty */
	H1_F_SEGMENT_OPEN = 1 << 13,  /* the path has a segment that is not yet looked up */
	H1_F_PATH_DEEP = 1 << 14,     /* ".." after more segments than are remembered */
	H1_F_KEY_LIMIT = 1 << 15,     /* the key is longer than can be kept */
	H1_F_KEY_SAME = 1 << 16,      /* so far the value is what is held from before */
	H1_F_KEY_DIFFERS = 1 << 17,
	H1_F_BASIC_DONE = 1 << 18, /* Basic: padding or white space was read: no digit may follow */
	H1_F_KEY_AMBIGUOUS = 1 << 19, /* of a response: its key source has two different values */
	H1_F_AUTH = 1 << 20, /* and up to 1 << 27, by name: a header with schemes has had a value */
	/* Doubts about whose this request is, or which route it has (h1_doubt). */
	H1_F_DOUBT_KEY = 1 << 28,    /* values that differ: servers take the first, or the last */
	H1_F_DOUBT_BASIC = 1 << 29,  /* Basic credentials that decoders read in different ways */
	H1_F_DOUBT_TARGET = 1 << 30, /* a '#' in the target: some servers cut there */
	H1_F_DOUBTS = H1_F_DOUBT_KEY | H1_F_DOUBT_BASIC | H1_F_DOUBT_TARGET,
};
TALLY_ASSERT(TALLY_NAMES <= 8, "a flag for each name");

struct tally_h1 {
	/* What every message touches stands in the first two cache lines. */
	/* Cursor: set by the driver for each chunk. */
	__u32 pos;
	__u32 end;
	__u8 state;
	__u8 event;
	__u8 taint;    /* enum tally_detail */
	__u8 protocol; /* enum tally_protocol */
	__u8 method;
	__u8 name;	     /* index in rules' names, TALLY_NAMES when none matches */
	__u8 key_priority;   /* of the key held; 0: none */
	__u8 value_priority; /* of the value being read */
	__u32 flags;	     /* enum tally_h1_flag */
	__u16 status;
	__u16 route;
	__u64 remain; /* octets of body or chunk */
	__u64 length; /* Content-Length */
	__u64 octets; /* of the current message, so far; the driver takes them away */
	__u32 blank;  /* of these: CR and LF before its first line, which belong to no message */
	/* The head read last, if the same octets may come again (h1_recall). */
	__u32 recall_ruleset;
	__u16 recall_len;   /* 0: there is none */
	__u8 recall_missed; /* how often in a row another head came instead */
	__u8 head_flags;    /* the driver's: what it found in the head (conn_head_flags) */
	__u32 spill_slot;   /* the driver's: where spilled octets are, a ticket; 0: none */
	__u32 key_spilled;  /* octets of the key that left key_text by SPILL */
	__u32 key_len;	    /* octets in key_text */
	__u64 key_hash;
	__u64 held_hash; /* of the text held from before, held_len octets; 0: none */
	__u32 held_len;
	__u32 kept_len;	   /* key_len of the first value, while a second one is read */
	__u64 pending;	   /* white space inside a key, kept back */
	__u32 pending_len; /* its octets; over 8: too long to keep */
	__u32 basic;	   /* base64 bits not yet octets: value | count << 24 */
	/* Start line and header names: text gathered so far, zero padded to a word. */
	__u32 fill;
	__u32 number; /* digits, status, chunk size nibbles */
	__u8 text[TALLY_HEADER_NAME + 16];
	/* Path. */
	struct tally_mix segment;
	__u16 route_state;
	__u16 depth;
	__u16 below[TALLY_PATH_DEPTH]; /* automaton states before each segment */
	/* Key. */
	struct tally_sip sip;
	__u8 key_text[TALLY_KEY_INLINE + 8];
};

TALLY_INLINE int tally_h1_is_response(const struct tally_h1 *p)
{
	return p->flags & H1_F_RESPONSE;
}

/* The flags that outlive a message. */
#define H1_F_KEEP H1_F_RESPONSE

TALLY_INLINE void h1_begin(struct tally_h1 *p, const struct tally_rules *r)
{
	p->flags &= H1_F_KEEP;
	p->recall_len = 0;
	p->protocol = TALLY_PROTO_UNKNOWN;
	p->method = 0;
	p->name = TALLY_NAMES;
	p->key_priority = 0;
	p->status = 0;
	p->route = 0;
	p->remain = 0;
	p->length = 0;
	p->fill = 0;
	p->number = 0;
	p->key_hash = 0;
	p->route_state = 1;
	p->depth = 0;
	tally_mix_init(&p->segment, r->secret[0]);
	p->state = tally_h1_is_response(p) ? H1_PROTOCOL : H1_METHOD;
}

TALLY_INLINE void tally_h1_init(struct tally_h1 *p, int response)
{
	p->state = H1_START;
	p->flags = response ? H1_F_RESPONSE : 0;
}

TALLY_INLINE void h1_taint(struct tally_h1 *p, __u8 detail)
{
	if (!p->taint)
		p->taint = detail;
}

/* Why this one request cannot be charged beyond doubt; 0: it can. The connection goes on. */
TALLY_INLINE __u8 h1_doubt(const struct tally_h1 *p)
{
	if (!(p->flags & H1_F_DOUBTS))
		return 0;
	if (p->flags & H1_F_DOUBT_KEY)
		return TALLY_DETAIL_AMBIGUOUS_KEY;
	return p->flags & H1_F_DOUBT_BASIC ? TALLY_DETAIL_BAD_BASIC : TALLY_DETAIL_BAD_START;
}

/* Octets that nobody reads. Behind a request of HTTP/0.9 there should be none. */
TALLY_INLINE void h1_ignored(struct tally_h1 *p)
{
	if (p->state == H1_BAD && p->protocol == TALLY_PROTO_HTTP09)
		h1_taint(p, TALLY_DETAIL_BAD_START);
}

/* Framing is lost. A request's connection is tainted; a response's is given up. */
TALLY_INLINE void h1_bad(struct tally_h1 *p, __u8 detail)
{
	h1_taint(p, detail);
	p->state = H1_BAD;
}

/*
 * The same in a body or in trailers. A request's octets up to here are its own (END makes the driver
 * take them), whatever pieces they came in; a response's stay with it to its end.
 */
TALLY_INLINE void h1_bad_body(struct tally_h1 *p)
{
	h1_bad(p, TALLY_DETAIL_BAD_CHUNK);
	if (!tally_h1_is_response(p))
		p->event = TALLY_EV_END;
}

/* Gather k (<= 8) octets of w, of which there may be TALLY_HEADER_NAME; more are only counted. */
TALLY_INLINE void h1_gather(struct tally_h1 *p, __u64 w, __u32 k)
{
	__u32 at = p->fill;

	if (at <= TALLY_HEADER_NAME - 8 + 7) {
		tally_opaque(at);
		at &= TALLY_HEADER_NAME - 1;
		*(tally_unaligned *)(p->text + at) = w;
		*(tally_unaligned *)(p->text + at + 8) = 0; /* an older text may stand there */
	}
	p->fill += k;
}

TALLY_INLINE __u64 h1_text(const struct tally_h1 *p, __u32 word)
{
	return *(const tally_unaligned *)(p->text + 8 * word);
}

/* ---- routes: one step of the automaton per segment ---- */

TALLY_INLINE __u16 route_next(const struct tally_rules *r, __u16 state, __u64 hash)
{
	__u32 slot = hash ^ state * TALLY_EDGE_MIX;

	for (__u32 i = 0; i < TALLY_EDGE_PROBES; i++) {
		__u32 at = slot + i;
		const struct tally_edge *e;

		tally_opaque(at);
		e = &r->edges[at & (TALLY_ROUTE_EDGES - 1)];
		if (e->state == state && e->hash == hash)
			return e->next;
		if (!e->state)
			break;
	}
	return r->other[state & (TALLY_ROUTE_STATES - 1)];
}

TALLY_INLINE void path_push(struct tally_h1 *p, __u16 next)
{
	__u32 depth = p->depth;

	if (depth < TALLY_PATH_DEPTH) {
		tally_opaque(depth);
		depth &= 63;
		if (depth < TALLY_PATH_DEPTH)
			p->below[depth] = p->route_state;
	}
	p->depth++;
	p->route_state = next;
}

TALLY_INLINE void path_pop(struct tally_h1 *p)
{
	__u32 depth = p->depth;

	if (!depth)
		return;
	depth--;
	p->depth = depth;
	if (depth >= TALLY_PATH_DEPTH) {
		p->flags |= H1_F_PATH_DEEP;
		return;
	}
	tally_opaque(depth);
	depth &= 63;
	if (depth < TALLY_PATH_DEPTH)
		p->route_state = p->below[depth];
}

/*
 * A path segment is complete; last: the path is, too. Dot segments are removed as RFC 3986 5.2.4
 * says: "/a/." and "/a/b/.." end in an empty segment. Slashes are merged before that, as servers that
 * merge them do: "/a//../b" is "/b" then.
 */
TALLY_GLOBAL int tally_h1_segment(struct tally_h1 *p, const struct tally_rules *r, int last)
{
	struct tally_mix *m;
	int dots = 0;

	if (!p || !r)
		return 0;
	m = &p->segment;
	if (!m->len && !last && r->flags & TALLY_RULES_MERGE_SLASHES)
		return 0;
	if (m->len == 1 && m->acc == '.')
		dots = 1;
	if (m->len == 2 && m->acc == ('.' | '.' << 8))
		dots = 2;
	if (dots == 2)
		path_pop(p);
	if (dots)
		tally_mix_init(m, r->secret[0]);
	if (!dots || last) {
		__u16 state = p->route_state;

		tally_opaque(state);
		path_push(p, route_next(r, state & (TALLY_ROUTE_STATES - 1),
					tally_mix_done(m, r->secret[1])));
	}
	tally_mix_init(m, r->secret[0]);
	if (last) {
		__u32 state = p->route_state, method = p->method;

		tally_opaque(state);
		tally_opaque(method);
		p->route =
			r->accept[state & (TALLY_ROUTE_STATES - 1)][method & (TALLY_METHODS - 1)];
		p->flags &= ~H1_F_SEGMENT_OPEN;
	}
	return 0;
}

/* ---- keys ---- */

/*
 * key_text and its hash stay with the connection from one message to the next: a value that is
 * octet by octet what is held needs no hashing (KEY_SAME, held_len), and two values of one source
 * are compared, not hashed.
 */

/* A value of a key source begins to have octets. priority: of the source, 1 is first. */
TALLY_INLINE void key_begin(struct tally_h1 *p, __u8 priority)
{
	p->flags &= ~(H1_F_KEY_DUPLICATE | H1_F_KEY_DIFFERS);
	p->flags |= H1_F_KEY_OPEN | H1_F_KEY_SAME;
	if (p->key_priority && p->key_priority == priority)
		p->flags |= H1_F_KEY_DUPLICATE;
	else
		p->flags &= ~(H1_F_KEY_LIMIT | H1_F_KEY_AMBIGUOUS);
	p->kept_len = p->key_len;
	p->key_len = 0;
	if (p->key_spilled && !(p->flags & H1_F_KEY_DUPLICATE)) {
		p->key_spilled = 0;
		p->held_len = 0;
	}
}

TALLY_INLINE tally_unaligned *key_word(struct tally_h1 *p, __u32 at)
{
	tally_opaque(at);
	at &= 2 * TALLY_KEY_INLINE - 1;
	return (tally_unaligned *)(p->key_text + (at <= TALLY_KEY_INLINE ? at : 0));
}

/* n (1..8) octets of the key. */
TALLY_INLINE void key_add(struct tally_h1 *p, __u64 w, __u32 n)
{
	__u32 at = p->key_len;
	tally_unaligned *t = key_word(p, at);

	p->key_len = at + n;
	if (p->flags & H1_F_KEY_SAME) {
		if (at + n <= p->held_len && tally_low(*t, n) == w)
			return;
		p->flags &= ~H1_F_KEY_SAME;
		p->flags |= H1_F_KEY_DIFFERS;
	}
	if (p->flags & H1_F_KEY_DUPLICATE)
		return;
	p->held_len = 0;
	*t = w;
	if (p->key_len > TALLY_KEY_INLINE - 8)
		p->event = TALLY_EV_SPILL;
}

/*
 * The octets in key_text, behind those that were spilled, into the hash. A loop of its own kind: behind
 * a bpf_loop there would be one call more than the kernel allows on top of each other.
 */
TALLY_GLOBAL int tally_h1_key_hash(struct tally_h1 *p, const struct tally_rules *r)
{
	if (!p || !r)
		return 0;
	if (!p->key_spilled)
		tally_sip_init(&p->sip, r->secret[0], r->secret[1]);
	for (__u32 at = 0; at <= TALLY_KEY_INLINE; at += 8) {
		__u32 n = p->key_len - at;

		if (at >= p->key_len)
			break;
		if (n > 8)
			n = 8;
		tally_sip_add(&p->sip, tally_low(*key_word(p, at), n), n);
	}
	return 0;
}

TALLY_INLINE void key_end(struct tally_h1 *p, const struct tally_rules *r)
{
	int same = p->flags & H1_F_KEY_SAME && p->key_len == p->held_len;

	if (!(p->flags & H1_F_KEY_OPEN))
		return;
	p->flags &= ~H1_F_KEY_OPEN;
	if (p->flags & H1_F_KEY_DUPLICATE) {
		/* A spilled first value cannot be compared: two such values are ambiguous. */
		if (!same && tally_h1_is_response(p))
			p->flags |= H1_F_KEY_AMBIGUOUS; /* of this answer only */
		else if (!same)
			p->flags |= H1_F_DOUBT_KEY;
		p->key_len = p->kept_len;
		return;
	}
	if (!p->key_spilled && !p->key_len) { /* nothing but octets that no key has */
		p->flags |= H1_F_EMPTY_KEY;
		return;
	}
	if (!same) {
		tally_h1_key_hash(p, r);
		p->held_hash = tally_sip_done(&p->sip);
		p->held_len = p->key_spilled ? 0 : p->key_len;
	}
	if (p->key_spilled + p->key_len > TALLY_KEY_MAX)
		p->flags |= H1_F_KEY_LIMIT;
	p->key_hash = p->held_hash;
	p->key_priority = p->value_priority;
}

/* Is a source of this priority worth reading, given what is held already? */
TALLY_INLINE int key_wanted(const struct tally_h1 *p, __u8 priority)
{
	return !p->key_priority || priority <= p->key_priority;
}

/* ---- header names ---- */

TALLY_INLINE __u64 h1_known(const struct tally_h1 *p, const struct tally_rules *r)
{
	return tally_h1_is_response(p) ? r->response_first : r->request_first;
}

TALLY_INLINE const struct tally_name *h1_name(const struct tally_h1 *p, const struct tally_rules *r,
					      __u32 i)
{
	tally_opaque(i);
	i &= TALLY_NAMES - 1;
	return tally_h1_is_response(p) ? &r->response[i] : &r->request[i];
}

/* The name in p->text is complete: which known name is it? All octets are compared. */
TALLY_GLOBAL int tally_h1_match_name(struct tally_h1 *p, const struct tally_rules *r)
{
	const struct tally_name *names;
	__u32 len;

	if (!p || !r)
		return 0;
	p->name = TALLY_NAMES;
	len = p->fill;
	if (!len || len > TALLY_HEADER_NAME || p->flags & H1_F_TRAILER)
		return 0;
	names = tally_h1_is_response(p) ? r->response : r->request;
	for (__u32 i = 0; i < TALLY_NAMES; i++) {
		const struct tally_name *n = &names[i];
		const tally_unaligned *t = (const tally_unaligned *)n->text;
		__u64 diff;

		if (n->len != len || t[0] != h1_text(p, 0))
			continue;
		diff = len > 8 ? t[1] ^ h1_text(p, 1) : 0;
		diff |= len > 16 ? t[2] ^ h1_text(p, 2) : 0;
		diff |= len > 24 ? t[3] ^ h1_text(p, 3) : 0;
		diff |= len > 32 ? t[4] ^ h1_text(p, 4) : 0;
		diff |= len > 40 ? t[5] ^ h1_text(p, 5) : 0;
		diff |= len > 48 ? t[6] ^ h1_text(p, 6) : 0;
		diff |= len > 56 ? t[7] ^ h1_text(p, 7) : 0;
		if (!diff) {
			p->name = i;
			break;
		}
	}
	return 0;
}

/*
 * The scheme in p->text, with its space, is complete: of the entries of this header, which stand in the
 * order of their priority, is one of that scheme, and worth reading? Then it is p->name, and 1 is returned.
 */
TALLY_GLOBAL int tally_h1_match_scheme(struct tally_h1 *p, const struct tally_rules *r)
{
	__u32 at;

	if (!p || !r)
		return 0;
	at = p->name;
	for (__u32 i = 0; i < TALLY_NAMES; i++) {
		const struct tally_name *n = h1_name(p, r, at);
		const tally_unaligned *t = (const tally_unaligned *)n->scheme;

		if (n->scheme_len == p->fill && t[0] == h1_text(p, 0) &&
		    (p->fill <= 8 || t[1] == h1_text(p, 1))) {
			p->name = at & (TALLY_NAMES - 1);
			p->value_priority = n->priority;
			return key_wanted(p, n->priority);
		}
		at = n->next;
		if (!at)
			break;
	}
	return 0;
}

/* A header's colon was read: where does its value go? */
TALLY_INLINE void h1_value_begin(struct tally_h1 *p, const struct tally_rules *r)
{
	p->state = H1_OWS;
	p->flags &= ~(H1_F_DIGITS | H1_F_VALUE_END | H1_F_AUTH_AGAIN | H1_F_BASIC_DONE);
	p->pending_len = 0;
	p->number = 0;
	p->fill = 0;
	p->basic = 0;
	if (p->name < TALLY_NAMES)
		p->value_priority = h1_name(p, r, p->name)->priority;
}

/* Servers take the first such line, or the last: what is in the second one must be the same. */
TALLY_INLINE void h1_auth_open(struct tally_h1 *p)
{
	__u32 seen = (__u32)H1_F_AUTH << (p->name & (TALLY_NAMES - 1));

	if (p->flags & seen)
		p->flags |= H1_F_AUTH_AGAIN;
	p->flags |= seen;
	p->state = H1_AUTH_SCHEME;
}

/* The first octet of a value stands at the cursor. */
TALLY_INLINE void h1_value_open(struct tally_h1 *p, const struct tally_rules *r)
{
	const struct tally_name *n = h1_name(p, r, p->name);

	switch (n->role) {
	case TALLY_NAME_LENGTH:
		if (p->flags & H1_F_LENGTH)
			h1_taint(p, TALLY_DETAIL_AMBIGUOUS_LENGTH);
		p->state = H1_LENGTH;
		break;
	case TALLY_NAME_CODING:
		p->flags |= H1_F_CODING;
		p->state = H1_CODING;
		break;
	case TALLY_NAME_KEY:
		p->state = H1_SKIP_LINE;
		if (!key_wanted(p, n->priority))
			break;
		key_begin(p, n->priority);
		p->state = H1_KEY;
		break;
	case TALLY_NAME_SCHEME:
	case TALLY_NAME_BASIC:
		p->state = H1_SKIP_LINE;
		if (key_wanted(p, n->priority))
			h1_auth_open(p);
		break;
	default:
		p->state = H1_SKIP_LINE;
	}
}

/* A coding of Transfer-Encoding is complete in p->text. */
TALLY_INLINE void h1_coding_done(struct tally_h1 *p)
{
	if (!p->fill)
		return;
	p->flags &= ~H1_F_CHUNKED;
	if (p->fill == 7 && h1_text(p, 0) == 0x64656b6e756863ULL) { /* "chunked" */
		if (p->flags & H1_F_CHUNKED_ONCE)
			h1_taint(p, TALLY_DETAIL_BAD_CODING);
		p->flags |= H1_F_CHUNKED | H1_F_CHUNKED_ONCE;
	}
	p->fill = 0;
}

/* A Content-Length value ended: one valid number, or not; the same as before, or not. */
TALLY_INLINE void h1_length_done(struct tally_h1 *p)
{
	if (!(p->flags & H1_F_DIGITS))
		p->flags |= H1_F_LENGTH_BAD;
	if (p->flags & H1_F_LENGTH && p->length != p->remain)
		p->flags |= H1_F_LENGTH_BAD;
	p->length = p->remain;
	p->flags |= H1_F_LENGTH;
	p->remain = 0;
}

/* The line of a header is complete, and the next one does not continue it. */
TALLY_INLINE void h1_value_done(struct tally_h1 *p, const struct tally_rules *r)
{
	if (p->name >= TALLY_NAMES)
		return;
	switch (h1_name(p, r, p->name)->role) {
	case TALLY_NAME_LENGTH:
		h1_length_done(p);
		break;
	case TALLY_NAME_CODING:
		p->flags |= H1_F_CODING;
		if (p->flags & H1_F_DIGITS)
			h1_taint(p, TALLY_DETAIL_BAD_CODING);
		h1_coding_done(p);
		break;
	case TALLY_NAME_NONE:
		break;
	default:
		if (!(p->flags & H1_F_KEY_OPEN))
			p->flags |= H1_F_EMPTY_KEY;
		if (p->flags & H1_F_AUTH_AGAIN &&
		    !(p->flags & H1_F_KEY_OPEN && p->flags & H1_F_KEY_DUPLICATE))
			p->flags |= H1_F_DOUBT_KEY;
		key_end(p, r);
	}
	p->name = TALLY_NAMES;
}

/* ---- heads ---- */

/* Request: which body follows (RFC 9112 6.3). */
TALLY_INLINE void h1_frame_request(struct tally_h1 *p)
{
	__u32 f = p->flags;

	p->state = H1_START;
	if (f & H1_F_CODING) {
		if (f & H1_F_LENGTH)
			h1_taint(p, TALLY_DETAIL_AMBIGUOUS_LENGTH);
		/* RFC 9112 6.1: in HTTP/1.0 its framing is faulty; some servers do not look at it. */
		if (!(f & H1_F_CHUNKED) || p->protocol == TALLY_PROTO_HTTP10)
			h1_taint(p, TALLY_DETAIL_BAD_CODING);
		if (f & H1_F_CHUNKED_ONCE)
			p->state = H1_CHUNK_SIZE;
	} else if (f & H1_F_LENGTH_BAD) {
		h1_bad(p, TALLY_DETAIL_BAD_LENGTH);
	} else if (p->length) {
		p->remain = p->length;
		p->state = H1_BODY;
	}
	p->number = 0;
	p->flags &= ~(H1_F_DIGITS | H1_F_VALUE_END);
}

/*
 * Response: which body follows. head_only: it answers HEAD; tunnel: 2xx to CONNECT, or 101.
 * The driver decides, for only it knows the request.
 */
TALLY_INLINE void tally_h1_frame_response(struct tally_h1 *p, int head_only, int tunnel)
{
	__u32 f = p->flags;

	p->number = 0;
	p->flags &= ~(H1_F_DIGITS | H1_F_VALUE_END);
	if (tunnel)
		p->state = H1_TUNNEL;
	else if (head_only || p->status < 200 || p->status == 204 || p->status == 304)
		p->state = H1_START;
	else if (f & H1_F_CODING)
		p->state = f & H1_F_CHUNKED ? H1_CHUNK_SIZE : H1_CLOSE;
	else if (!(f & H1_F_LENGTH) || f & H1_F_LENGTH_BAD)
		p->state = H1_CLOSE;
	else
		p->state = p->length ? H1_BODY : H1_START;
	p->remain = p->state == H1_BODY ? p->length : 0;
}

TALLY_INLINE void h1_head_done(struct tally_h1 *p)
{
	if (p->flags & H1_F_TRAILER) {
		p->state = H1_START;
		p->event = TALLY_EV_END;
		return;
	}
	if (!tally_h1_is_response(p))
		h1_frame_request(p);
	p->event = TALLY_EV_HEAD;
}

/* ---- heads that repeat themselves ---- */

/*
 * A client sends the same head again and again. The machine is a function of the octets, the rules and
 * its state at START; so if a head's octets are those of the head before it, under the same rules, what
 * was found then is what would be found now, and it still stands here: only a head without chunked coding,
 * of one chunk, of which nothing is in doubt, and with a short key is recalled, and bodies of a length
 * leave it alone.
 */
#define RECALL_PATIENCE 4 /* misses in a row, after which only every 16th head is tried */
#define RECALL_TURNS 16

/* Is it worth the try? turn counts messages of this direction. */
TALLY_INLINE int h1_recall_turn(const struct tally_h1 *p, __u32 turn)
{
	return p->recall_missed < RECALL_PATIENCE || !(turn & (RECALL_TURNS - 1));
}

/* A head of n octets, which began at the chunk's first one, has been read. Returns 1: it is remembered. */
TALLY_INLINE int h1_remember(struct tally_h1 *p, const struct tally_rules *r, __u32 n)
{
	if (p->taint || p->blank || p->key_spilled || p->spill_slot || n < 8 ||
	    p->flags & (H1_F_CODING | H1_F_LENGTH_BAD | H1_F_TRAILER | H1_F_DOUBTS |
			H1_F_KEY_LIMIT | H1_F_PATH_DEEP | H1_F_EMPTY_KEY))
		return 0;
	p->recall_len = n;
	p->recall_ruleset = r->ruleset;
	return 1;
}

/*
 * The same of a response's, whose framing is its own: it has `length` octets of body, unless the request asks
 * for none. An answer that names the customer, or has no end but the connection's, is not remembered.
 */
TALLY_INLINE int h1_remember_response(struct tally_h1 *p, const struct tally_rules *r, __u32 n)
{
	if (p->status < 200 || p->key_priority)
		return 0;
	if (p->status == 204 || p->status == 304)
		p->length = 0;
	else if (!(p->flags & H1_F_LENGTH))
		return 0;
	return h1_remember(p, r, n);
}

/* May a message begin here with the head that is remembered? 0: it may. */
TALLY_INLINE __u64 h1_not_recallable(const struct tally_h1 *p, const struct tally_rules *r)
{
	return (p->state ^ H1_START) | p->octets | p->taint | (p->recall_ruleset ^ r->ruleset) |
	       !p->recall_len;
}

/* The remembered head was read again, and behind it, in the same segment, n octets of its body. */
TALLY_INLINE void h1_recall(struct tally_h1 *p, __u32 n)
{
	p->recall_missed = 0;
	p->pos = 0;
	p->event = TALLY_EV_MORE;
	p->remain = p->length - n;
	p->state = p->remain ? H1_BODY : H1_START;
}

TALLY_INLINE void h1_recall_miss(struct tally_h1 *p)
{
	if (p->recall_missed < RECALL_PATIENCE)
		p->recall_missed++;
}

TALLY_INLINE __u64 same_word(const __u8 *a, const __u8 *b)
{
	return *(const tally_unaligned *)a ^ *(const tally_unaligned *)b;
}

/* Are n (8..room) octets the same? room is a power of two; 16 octets stand behind both. */
TALLY_INLINE int h1_same(const __u8 *a, const __u8 *b, __u32 n, __u32 room)
{
	__u32 at = 0, k;
	__u64 d;

	if (n < 8 || n > room)
		return 0;
	for (__u32 i = 0; i < room / 64; i++) {
		if (at + 64 > n)
			break;
		k = at;
		tally_opaque(k);
		k &= room - 64;
		d = same_word(a + k, b + k) | same_word(a + k + 8, b + k + 8) |
		    same_word(a + k + 16, b + k + 16) | same_word(a + k + 24, b + k + 24) |
		    same_word(a + k + 32, b + k + 32) | same_word(a + k + 40, b + k + 40) |
		    same_word(a + k + 48, b + k + 48) | same_word(a + k + 56, b + k + 56);
		if (d)
			return 0;
		at += 64;
	}
	for (__u32 i = 0; i < 8; i++) {
		if (at + 8 > n)
			break;
		k = at;
		tally_opaque(k);
		k &= room - 1;
		if (same_word(a + k, b + k))
			return 0;
		at += 8;
	}
	k = n - 8;
	tally_opaque(k);
	k &= room - 1;
	return !same_word(a + k, b + k);
}

/* n octets of the chunk, up to whole words, for the next response to be compared with. */
TALLY_INLINE void h1_keep_reply(struct tally_reply *to, const struct tally_chunk *from, __u32 n)
{
	for (__u32 i = 0; i < TALLY_REPLY / 8; i++) {
		__u32 k = 8 * i;

		if (k >= n)
			break;
		tally_opaque(k);
		k &= TALLY_REPLY - 8;
		*(tally_unaligned *)(to->b + k) = *(const tally_unaligned *)(from->b + k);
	}
}

/* ---- steps: each consumes at least one octet or changes the state ---- */

/* How many octets (0..8) stand at the cursor. */
TALLY_INLINE __u32 h1_left(const struct tally_h1 *p)
{
	__u32 left = p->end - p->pos;

	return left < 8 ? left : 8;
}

/* n octets of w stand at the cursor; k of them are consumed. */
TALLY_INLINE void h1_take(struct tally_h1 *p, __u32 k)
{
	p->pos += k;
}

TALLY_INLINE void step_start(struct tally_h1 *p, const struct tally_rules *r, __u64 w)
{
	__u8 c = tally_octet(w, 0);

	/* RFC 9112 2.2: empty lines before a request line are ignored. */
	if (!tally_h1_is_response(p) && (c == '\r' || c == '\n')) {
		h1_take(p, 1);
		p->blank++;
		return;
	}
	h1_begin(p, r);
}

TALLY_INLINE void step_method(struct tally_h1 *p, const struct tally_rules *r, __u64 w, __u32 n)
{
	__u64 mark = tally_mark_less(w, 0x21);
	__u32 k = mark ? tally_mark_first(mark) : n;

	if (k > n)
		k = n;
	if (k) {
		h1_gather(p, tally_low(w, k), k);
		h1_take(p, k);
	}
	if (k == n)
		return;
	if (tally_octet(w, k) != ' ' || !p->fill) {
		h1_bad(p, TALLY_DETAIL_BAD_START);
		return;
	}
	h1_take(p, 1);
	if (p->fill <= 8)
		for (__u32 i = 1; i < TALLY_METHODS; i++)
			if (r->method[i] == h1_text(p, 0)) {
				p->method = i;
				break;
			}
	p->state = H1_TARGET;
}

/*
 * First octet of the target: origin form, asterisk form, or absolute form (RFC 9112 3.2). More than one
 * space before it is an error that nginx and Node pass over, so that a request is answered here.
 */
TALLY_INLINE void step_target(struct tally_h1 *p, __u64 w)
{
	__u8 c = tally_octet(w, 0);

	p->fill = 0;
	p->number = 0;
	if (c == ' ') {
		h1_take(p, 1);
		h1_taint(p, TALLY_DETAIL_BAD_START);
	} else if (c < ' ') {
		h1_bad(p, TALLY_DETAIL_BAD_START);
	} else if (c == '/') {
		h1_take(p, 1);
		p->flags |= H1_F_SEGMENT_OPEN;
		p->state = H1_PATH;
	} else if (c == '*') {
		/* The text "\0*" stands for the asterisk form; no path can hold it. */
		h1_take(p, 1);
		tally_mix_add(&p->segment, (__u64)'*' << 8, 2);
		p->flags |= H1_F_SEGMENT_OPEN;
		p->state = H1_QUERY_SKIP;
	} else {
		p->state = H1_SCHEME;
	}
}

/* "scheme://authority": number counts slashes; the third begins the path. */
TALLY_INLINE void step_scheme(struct tally_h1 *p, __u64 w)
{
	__u8 c = tally_octet(w, 0);

	if (c <= ' ' || c == '?' || c == '#') {
		if (c == '#')
			p->flags |= H1_F_DOUBT_TARGET;
		p->state = H1_QUERY_SKIP;
		if (p->number >= 2 && c != '#')
			p->flags |= H1_F_SEGMENT_OPEN; /* empty path is "/" */
		return;
	}
	h1_take(p, 1);
	if (c != '/')
		return;
	p->number++;
	if (p->number == 3) {
		p->flags |= H1_F_SEGMENT_OPEN;
		p->state = H1_PATH;
	}
}

TALLY_INLINE void path_end(struct tally_h1 *p, const struct tally_rules *r)
{
	if (p->flags & H1_F_SEGMENT_OPEN)
		tally_h1_segment(p, r, 1);
}

#define PATH_WORDS 8 /* looked at in one step */

/*
 * Octets of the path up to one that needs more than a segment's end. Segments end here, in a loop.
 * Returns the number of octets in *w, which begins at the cursor; 0: the chunk is used up.
 */
TALLY_INLINE __u32 path_run(struct tally_h1 *p, const struct tally_chunk *chunk,
			    const struct tally_rules *r, __u64 *w)
{
	__u32 n = h1_left(p);

	for (__u32 i = 0; i < PATH_WORDS && n; i++) {
		__u64 v = tally_word(chunk, p->pos, n);
		__u64 mark = tally_mark_less(v, '0') | tally_mark_eq(v, '?');
		__u32 k = mark ? tally_mark_first(mark) : n;
		__u8 c;

		if (k > n)
			k = n;
		if (k) {
			tally_mix_add(&p->segment, tally_low(v, k), k);
			h1_take(p, k);
		}
		*w = v >> (8 * (k & 7));
		c = *w;
		if (k < n && c != '/')
			return n - k;
		if (k < n) {
			h1_take(p, 1);
			tally_h1_segment(p, r, 0);
		}
		n = h1_left(p);
	}
	return 0;
}

TALLY_INLINE void step_path(struct tally_h1 *p, const struct tally_chunk *chunk,
			    const struct tally_rules *r)
{
	__u64 w = 0;
	__u8 c;

	if (!path_run(p, chunk, r, &w))
		return;
	c = w;
	if (c == '%') {
		h1_take(p, 1);
		p->state = H1_PERCENT1;
	} else if (c == '?') {
		h1_take(p, 1);
		path_end(p, r);
		p->fill = 0;
		p->state = r->queries ? H1_QUERY_NAME : H1_QUERY_SKIP;
	} else if (c == ' ') {
		h1_take(p, 1);
		path_end(p, r);
		p->fill = 0;
		p->state = H1_VERSION;
	} else if (c < ' ' || c == '#') {
		if (c == '#') /* never in a target (RFC 9112 3.2): some servers cut there */
			p->flags |= H1_F_DOUBT_TARGET;
		path_end(p, r);
		p->state = H1_QUERY_SKIP;
	} else {
		tally_mix_add(&p->segment, c, 1);
		h1_take(p, 1);
	}
}

/* The value of a hexadecimal digit, or 255. */
TALLY_INLINE __u32 h1_hex(__u8 c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10u : 255;
}

TALLY_INLINE __u8 h1_hex_upper(__u8 c)
{
	return c >= 'a' && c <= 'f' ? c - 0x20 : c;
}

/* RFC 3986 2.3 */
TALLY_INLINE int h1_unreserved(__u8 c)
{
	__u8 l = c | 0x20;

	return (c >= '0' && c <= '9') || (l >= 'a' && l <= 'z') || c == '-' || c == '.' ||
	       c == '_' || c == '~';
}

/* '%' was read, and `number` is the first digit once that is. Bad escapes stay as they are. */
TALLY_INLINE void step_percent(struct tally_h1 *p, const struct tally_rules *r, __u64 w)
{
	__u8 c = tally_octet(w, 0);
	__u32 high = h1_hex(p->number), low = h1_hex(c);

	if (p->state == H1_PERCENT1) {
		if (low == 255) {
			tally_mix_add(&p->segment, '%', 1);
			p->state = H1_PATH;
			return;
		}
		p->number = c;
		p->state = H1_PERCENT2;
		h1_take(p, 1);
		return;
	}
	p->state = H1_PATH;
	if (low == 255) {
		tally_mix_add(&p->segment, '%' | (__u64)(__u8)p->number << 8, 2);
		return;
	}
	h1_take(p, 1);
	if ((high << 4 | low) == '/' && r->flags & TALLY_RULES_DECODE_SLASH)
		tally_h1_segment(p, r, 0);
	else if (h1_unreserved(high << 4 | low))
		tally_mix_add(&p->segment, high << 4 | low, 1);
	else
		tally_mix_add(&p->segment,
			      '%' | (__u64)h1_hex_upper(p->number) << 8 |
				      (__u64)h1_hex_upper(c) << 16,
			      3);
}

/* The octets of a query name, value or rest: everything up to the mark. */
TALLY_INLINE __u32 h1_query_run(__u64 w, __u32 n, int stop_at_equals)
{
	__u64 mark = tally_mark_less(w, 0x21) | tally_mark_eq(w, '&') | tally_mark_eq(w, '#');
	__u32 k;

	mark |= tally_mark_eq(w, '%');
	if (stop_at_equals)
		mark |= tally_mark_eq(w, '=');
	k = mark ? tally_mark_first(mark) : n;
	return k < n ? k : n;
}

/* The query name in p->text is complete: is it a key source worth reading? */
TALLY_INLINE void h1_query_match(struct tally_h1 *p, const struct tally_rules *r)
{
	p->state = H1_QUERY_VALUE;
	p->value_priority = 0;
	for (__u32 i = 0; i < TALLY_QUERY_NAMES; i++) {
		const struct tally_query_name *q = &r->query[i];
		const tally_unaligned *t = (const tally_unaligned *)q->text;
		__u64 diff;

		if (!q->len || q->len != p->fill)
			continue;
		diff = t[0] ^ h1_text(p, 0);
		diff |= q->len > 8 ? t[1] ^ h1_text(p, 1) : 0;
		diff |= q->len > 16 ? t[2] ^ h1_text(p, 2) : 0;
		diff |= q->len > 24 ? t[3] ^ h1_text(p, 3) : 0;
		if (!diff && key_wanted(p, q->priority))
			p->value_priority = q->priority;
	}
	if (!p->value_priority)
		p->state = H1_QUERY_SKIP;
}

/* A query name, percent-decoded: servers decode it before they look. */
TALLY_INLINE void step_query_name(struct tally_h1 *p, const struct tally_rules *r, __u64 w, __u32 n)
{
	__u32 k = h1_query_run(w, n, 1);
	__u8 c;

	if (k) {
		h1_gather(p, tally_low(w, k), k);
		h1_take(p, k);
	}
	if (k == n)
		return;
	c = tally_octet(w, k);
	if (c == '=') {
		h1_take(p, 1);
		h1_query_match(p, r);
	} else if (c == '%') {
		h1_take(p, 1);
		p->state = H1_QUERY_NAME_PERCENT1;
	} else {
		p->state = H1_QUERY_SKIP;
	}
}

TALLY_INLINE void step_query_name_percent(struct tally_h1 *p, __u64 w)
{
	__u8 c = tally_octet(w, 0);
	__u32 high = h1_hex(p->number), low = h1_hex(c);

	if (p->state == H1_QUERY_NAME_PERCENT1) {
		if (low == 255) {
			h1_gather(p, '%', 1);
			p->state = H1_QUERY_NAME;
			return;
		}
		p->number = c;
		p->state = H1_QUERY_NAME_PERCENT2;
		h1_take(p, 1);
		return;
	}
	p->state = H1_QUERY_NAME;
	if (low == 255) {
		h1_gather(p, '%' | (__u64)(__u8)p->number << 8, 2);
		return;
	}
	h1_take(p, 1);
	h1_gather(p, high << 4 | low, 1);
}

TALLY_INLINE void query_key_add(struct tally_h1 *p, const struct tally_rules *r, __u64 w, __u32 n)
{
	if (!(p->flags & H1_F_KEY_OPEN))
		key_begin(p, p->value_priority);
	key_add(p, w, n);
}

/* The value of a key's query parameter, percent-decoded ('+' stays). */
TALLY_INLINE void step_query_value(struct tally_h1 *p, const struct tally_rules *r, __u64 w,
				   __u32 n)
{
	__u32 k = h1_query_run(w, n, 0);

	if (k) {
		query_key_add(p, r, tally_low(w, k), k);
		h1_take(p, k);
	}
	if (k == n)
		return;
	if (tally_octet(w, k) == '%') {
		h1_take(p, 1);
		p->state = H1_QUERY_PERCENT1;
		return;
	}
	if (!(p->flags & H1_F_KEY_OPEN))
		p->flags |= H1_F_EMPTY_KEY;
	key_end(p, r);
	p->state = H1_QUERY_SKIP;
}

TALLY_INLINE void step_query_percent(struct tally_h1 *p, const struct tally_rules *r, __u64 w)
{
	__u8 c = tally_octet(w, 0);
	__u32 high = h1_hex(p->number), low = h1_hex(c);

	if (p->state == H1_QUERY_PERCENT1) {
		if (low == 255) {
			query_key_add(p, r, '%', 1);
			p->state = H1_QUERY_VALUE;
			return;
		}
		p->number = c;
		p->state = H1_QUERY_PERCENT2;
		h1_take(p, 1);
		return;
	}
	p->state = H1_QUERY_VALUE;
	if (low == 255) {
		query_key_add(p, r, '%' | (__u64)(__u8)p->number << 8, 2);
		return;
	}
	h1_take(p, 1);
	query_key_add(p, r, high << 4 | low, 1);
}

/*
 * The rest of a target: up to white space, or to what may have a key behind it: '&', and the first
 * '?'. A '#' never stands in a target: some servers cut there, some do not.
 */
TALLY_INLINE void step_query_skip(struct tally_h1 *p, const struct tally_rules *r, __u64 w, __u32 n)
{
	__u64 mark = tally_mark_less(w, 0x21);
	__u32 k;
	__u8 c;

	if (r->queries)
		mark |= tally_mark_eq(w, '&') | tally_mark_eq(w, '?') | tally_mark_eq(w, '#');
	k = mark ? tally_mark_first(mark) : n;
	if (k >= n) {
		h1_take(p, n);
		return;
	}
	h1_take(p, k);
	c = tally_octet(w, k);
	if (c == '#' || (c == '&' && p->flags & H1_F_SEGMENT_OPEN) ||
	    (c == '?' && !(p->flags & H1_F_SEGMENT_OPEN))) {
		if (c == '#')
			p->flags |= H1_F_DOUBT_TARGET;
		h1_take(p, 1);
		return;
	}
	path_end(p, r);
	p->fill = 0;
	if (c == '&' || c == '?') {
		h1_take(p, 1);
		p->state = H1_QUERY_NAME;
	} else if (c == ' ' || c == '\t') {
		if (c == '\t') /* for some it is part of the target */
			h1_taint(p, TALLY_DETAIL_BAD_START);
		h1_take(p, 1);
		p->state = H1_VERSION;
	} else if (c == '\r' || c == '\n') {
		p->state = H1_VERSION;
	} else {
		h1_bad(p, TALLY_DETAIL_BAD_START);
	}
}

/* "HTTP/1.1" CRLF; nothing at all is HTTP/0.9. */
TALLY_INLINE void h1_version_done(struct tally_h1 *p)
{
	__u64 t = h1_text(p, 0);

	if (!p->fill) {
		p->protocol = TALLY_PROTO_HTTP09;
		p->event = TALLY_EV_HEAD;
		p->state = H1_BAD; /* nothing may follow */
		return;
	}
	p->state = H1_LINE;
	if (p->fill == 8 && t == 0x312e312f50545448ULL) /* "HTTP/1.1" */
		p->protocol = TALLY_PROTO_HTTP11;
	else if (p->fill == 8 && t == 0x302e312f50545448ULL) /* "HTTP/1.0" */
		p->protocol = TALLY_PROTO_HTTP10;
	else
		h1_taint(p, TALLY_DETAIL_BAD_START);
	p->fill = 0;
}

/* VALUE_END: the CR was read. White space or CR elsewhere in the version is ambiguous. */
TALLY_INLINE void step_version(struct tally_h1 *p, const struct tally_chunk *chunk, __u64 w,
			       __u32 n)
{
	__u64 mark = tally_mark_less(w, 0x21);
	__u32 k = mark ? tally_mark_first(mark) : n;
	__u8 c;

	/* The usual case whole: "HTTP/1.1" CR LF. */
	if (w == 0x312e312f50545448ULL && !p->fill && p->end - p->pos >= 10 &&
	    tally_byte(chunk, p->pos + 8) == '\r' && tally_byte(chunk, p->pos + 9) == '\n' &&
	    !(p->flags & H1_F_VALUE_END)) {
		h1_take(p, 10);
		p->protocol = TALLY_PROTO_HTTP11;
		p->state = H1_LINE;
		return;
	}

	if (k > n)
		k = n;
	if (k) {
		if (p->flags & H1_F_VALUE_END)
			h1_taint(p, TALLY_DETAIL_BAD_START);
		h1_gather(p, tally_low(w, k), k);
		h1_take(p, k);
	}
	if (k == n)
		return;
	c = tally_octet(w, k);
	h1_take(p, 1);
	if (c == '\r' && k + 1 < n && tally_octet(w, k + 1) == '\n') {
		if (p->flags & H1_F_VALUE_END) /* a second CR */
			h1_taint(p, TALLY_DETAIL_BAD_START);
		h1_take(p, 1);
		c = '\n';
	}
	if (c == '\n') {
		p->flags &= ~H1_F_VALUE_END;
		h1_version_done(p);
	} else if (c != '\r' || p->flags & H1_F_VALUE_END) {
		h1_taint(p, TALLY_DETAIL_BAD_START);
	} else {
		p->flags |= H1_F_VALUE_END;
	}
}

/* "HTTP/1.x " at the beginning of a response; number counts the octets. */
TALLY_INLINE void step_protocol(struct tally_h1 *p, const struct tally_chunk *c, __u64 w, __u32 n)
{
	__u32 k = p->fill == 0 && n == 8 ? 8 : 1;
	__u64 t;

	/* The usual case whole: "HTTP/1.1 200 ". */
	if (w == 0x312e312f50545448ULL && !p->fill && p->end - p->pos >= 13) {
		t = tally_word(c, p->pos + 8, 5);
		if ((t & 0xff000000ffULL) == 0x2000000020ULL && tally_digits(t >> 8) == 3) {
			p->status = tally_decimal(t >> 8, 3);
			p->protocol = TALLY_PROTO_HTTP11;
			p->state = H1_SKIP_LINE;
			if (p->status < 100)
				h1_bad(p, TALLY_DETAIL_RESPONSE);
			h1_take(p, 12);
			return;
		}
	}

	h1_gather(p, tally_low(w, k), k);
	h1_take(p, k);
	if (p->fill < 9)
		return;
	t = h1_text(p, 0);
	p->number = 0;
	p->state = H1_STATUS;
	if (t == 0x312e312f50545448ULL)
		p->protocol = TALLY_PROTO_HTTP11;
	else if (t == 0x302e312f50545448ULL)
		p->protocol = TALLY_PROTO_HTTP10;
	else
		h1_bad(p, TALLY_DETAIL_RESPONSE);
	if ((h1_text(p, 1) & 0xff) != ' ')
		h1_bad(p, TALLY_DETAIL_RESPONSE);
	p->fill = 0;
}

/* Three digits, then a reason phrase that says nothing. */
TALLY_INLINE void step_status(struct tally_h1 *p, __u64 w, __u32 n)
{
	__u8 c;

	if (!p->number && n >= 4 && tally_digits(w) == 3) {
		p->status = tally_decimal(w, 3);
		p->number = 3;
		h1_take(p, 3);
		w >>= 24;
	}
	c = tally_octet(w, 0);
	if (p->number < 3 && (c < '0' || c > '9')) {
		h1_bad(p, TALLY_DETAIL_RESPONSE);
		return;
	}
	if (p->number == 3) {
		p->state = c >= '0' && c <= '9' ? H1_BAD : H1_SKIP_LINE;
		if (p->status < 100 || p->state == H1_BAD)
			h1_bad(p, TALLY_DETAIL_RESPONSE);
		return;
	}
	h1_take(p, 1);
	p->status = p->status * 10 + (c - '0');
	p->number++;
}

TALLY_INLINE void step_head_lf(struct tally_h1 *p, __u64 w)
{
	if (tally_octet(w, 0) != '\n') {
		if (p->flags & H1_F_TRAILER)
			h1_bad_body(p);
		else
			h1_bad(p, TALLY_DETAIL_BAD_HEADER);
		return;
	}
	h1_take(p, 1);
	h1_head_done(p);
}

/* Can a header line that begins with these four octets matter? Of one that cannot nothing is kept. */
TALLY_INLINE int h1_line_matters(__u64 known, __u32 first)
{
	return (__u8)first <= ' ' || known >> tally_name_filter(first) & 1;
}

/* obs-fold, RFC 9112 5.2: joined by one space, and never trusted. */
TALLY_INLINE void h1_fold(struct tally_h1 *p)
{
	h1_taint(p, TALLY_DETAIL_FOLDED);
	h1_take(p, 1);
	p->state = H1_SKIP_LINE;
	if (p->name >= TALLY_NAMES)
		return;
	p->pending = ' ';
	p->pending_len = 1;
	p->number = 1; /* a fold: white space here is not the value's */
	p->state = H1_OWS;
}

/* A line of a head begins: end of head, continuation, or a name. */
TALLY_INLINE void step_line(struct tally_h1 *p, const struct tally_chunk *chunk,
			    const struct tally_rules *r)
{
	__u32 left = p->end - p->pos;
	__u64 w = tally_whole(chunk, p->pos);
	__u8 c = w;

	if (c == ' ' || c == '\t') {
		h1_fold(p);
		return;
	}
	if (p->name < TALLY_NAMES)
		h1_value_done(p, r);
	p->fill = 0;
	if (c == '\r' || c == '\n') {
		h1_take(p, c == '\r');
		p->state = H1_HEAD_LF;
		if (c == '\r' && left >= 2)
			step_head_lf(p, w >> 8);
		return;
	}
	p->state = H1_NAME;
	if (left >= 4 && !h1_line_matters(h1_known(p, r), w))
		p->state = H1_SKIP_LINE;
}

TALLY_INLINE void step_name(struct tally_h1 *p, const struct tally_chunk *chunk,
			    const struct tally_rules *r, __u64 w, __u32 n)
{
	__u64 mark = tally_mark_less(w, 0x21) | tally_mark_eq(w, ':');
	__u32 k;
	__u8 c;

	for (__u32 i = 0; i < 3 && !mark; i++) { /* no mark: 8 octets */
		h1_gather(p, tally_lower(w), 8);
		h1_take(p, 8);
		n = h1_left(p);
		if (!n)
			return;
		w = tally_word(chunk, p->pos, n);
		mark = tally_mark_less(w, 0x21) | tally_mark_eq(w, ':');
	}
	k = mark ? tally_mark_first(mark) : n;
	if (k > n)
		k = n;
	if (k) {
		h1_gather(p, tally_lower(tally_low(w, k)), k);
		h1_take(p, k);
	}
	if (k == n)
		return;
	c = tally_octet(w, k);
	tally_h1_match_name(p, r);
	if (c == ':') {
		h1_take(p, 1);
		h1_value_begin(p, r);
		if (p->name >= TALLY_NAMES) {
			p->state = H1_SKIP_LINE;
		} else if (k + 2 < n && tally_octet(w, k + 1) == ' ' &&
			   tally_octet(w, k + 2) > ' ') {
			h1_take(p, 1);
			h1_value_open(p, r);
		}
		return;
	}
	/* White space before the colon, or no colon: not this header, and only worth a taint if it
	 * pretends to be one that matters. */
	if (p->name < TALLY_NAMES)
		h1_taint(p, TALLY_DETAIL_BAD_HEADER);
	p->name = TALLY_NAMES;
	p->state = H1_SKIP_LINE;
}

/* White space before a value. */
TALLY_INLINE void step_ows(struct tally_h1 *p, const struct tally_rules *r, __u64 w, __u32 n)
{
	__u8 c = tally_octet(w, 0);

	if (c == ' ' && n >= 2 && tally_octet(w, 1) > ' ') {
		h1_take(p, 1);
		c = tally_octet(w, 1);
	} else if (c == ' ' || c == '\t') {
		h1_take(p, 1);
		return;
	}
	if (c == '\r' || c == '\n') {
		p->state = H1_SKIP_LINE;
		return;
	}
	if (p->flags & H1_F_KEY_OPEN) {
		p->state = H1_KEY; /* a fold continues the key */
		return;
	}
	if (p->number == 1 && h1_name(p, r, p->name)->role == TALLY_NAME_LENGTH &&
	    p->flags & H1_F_DIGITS) {
		p->flags |= H1_F_LENGTH_BAD;
		p->state = H1_SKIP_LINE;
		return;
	}
	h1_value_open(p, r);
}

/* The end of a line at octet k of w: CR LF, bare LF; anything else below 0x10 is suspicious. */
TALLY_INLINE void h1_line_end(struct tally_h1 *p, __u64 w, __u32 n, __u32 k)
{
	__u8 c = tally_octet(w, k);

	if (c == '\n') {
		h1_take(p, k + 1);
		p->state = H1_LINE;
	} else if (c == '\r') {
		h1_take(p, k + 1);
		p->state = H1_VALUE_LF;
		if (k + 1 < n && tally_octet(w, k + 1) == '\n') {
			h1_take(p, 1);
			p->state = H1_LINE;
		}
	} else {
		h1_take(p, k + 1);
		if (c != '\t')
			h1_taint(p, TALLY_DETAIL_BAD_HEADER);
	}
}

#define SKIP_TURNS 32 /* of up to 16 octets, or one line's end, in one step */

/*
 * Lines that do not matter, the hot loop of every head: octets up to the end of the line, and on into
 * the next line if that cannot matter either. Stops at the end of a line that it cannot go past.
 */
TALLY_INLINE __u32 skip_lines(const struct tally_chunk *c, __u32 pos, __u32 end, __u64 known)
{
	for (__u32 i = 0; i < SKIP_TURNS && pos < end; i++) {
		__u64 w;
		__u32 k = tally_control(c, pos);

		pos += k;
		if (k == 16)
			continue;
		w = tally_whole(c, pos);
		if (pos + 6 > end || (__u16)w != ('\r' | '\n' << 8) ||
		    h1_line_matters(known, w >> 16))
			break;
		pos += 2;
	}
	return pos < end ? pos : end;
}

TALLY_INLINE void step_skip_line(struct tally_h1 *p, const struct tally_chunk *c,
				 const struct tally_rules *r)
{
	/* The end of a known header's line is for step_line(). */
	__u64 known = p->name < TALLY_NAMES ? ~0ULL : h1_known(p, r);
	__u32 end = p->end, pos = skip_lines(c, p->pos, end, known);
	__u64 w = tally_whole(c, pos);
	__u8 ch = w;

	p->pos = pos;
	if (pos >= end || ch >= 0x10)
		return;
	p->pos = pos + 1;
	if (ch == '\n') {
		p->state = H1_LINE;
	} else if (ch == '\r') {
		p->state = H1_VALUE_LF;
		if (pos + 1 < end && (__u8)(w >> 8) == '\n') {
			p->pos = pos + 2;
			p->state = H1_LINE;
		}
	} else if (ch != '\t') {
		h1_taint(p, TALLY_DETAIL_BAD_HEADER);
	}
}

/* CR was read in a line: LF ends it; else it was a bare CR. */
TALLY_INLINE void step_value_lf(struct tally_h1 *p, __u64 w)
{
	if (tally_octet(w, 0) == '\n') {
		h1_take(p, 1);
		p->state = H1_LINE;
		return;
	}
	h1_taint(p, TALLY_DETAIL_BAD_HEADER);
	p->state = H1_SKIP_LINE;
}

/* White space inside a key is kept back until it is known not to be trailing. */
TALLY_INLINE void key_pending(struct tally_h1 *p, __u8 c)
{
	if (p->pending_len < 8)
		p->pending =
			(p->pending_len ? p->pending : 0) | (__u64)c << (8 * (p->pending_len & 7));
	p->pending_len++;
}

#define KEY_WORDS 6 /* read in one step */

TALLY_INLINE void step_key(struct tally_h1 *p, const struct tally_chunk *chunk, __u64 w, __u32 n)
{
	__u64 mark = tally_mark_less(w, 0x21);
	__u32 k;
	__u8 c;

	for (__u32 i = 0; i < KEY_WORDS && !mark && !p->pending_len && !p->event; i++) {
		key_add(p, w, 8);
		h1_take(p, 8);
		n = h1_left(p);
		if (!n)
			return;
		w = tally_word(chunk, p->pos, n);
		mark = tally_mark_less(w, 0x21);
	}
	if (p->event)
		return;
	k = mark ? tally_mark_first(mark) : n;

	if (k > n)
		k = n;
	if (k && p->pending_len) {
		/* Behind a scheme there is a token68, which has none (RFC 9110 11.2, RFC 6750 2.1). */
		if (p->flags & H1_F_VALUE_END)
			p->flags |= H1_F_DOUBT_KEY;
		if (p->pending_len > 8)
			p->flags |= H1_F_KEY_LIMIT;
		else
			key_add(p, p->pending, p->pending_len);
		p->pending_len = 0;
		return; /* the octets themselves in the next step */
	}
	if (k) {
		key_add(p, tally_low(w, k), k);
		h1_take(p, k);
	}
	if (k == n)
		return;
	c = tally_octet(w, k);
	if (c == ' ' || c == '\t') {
		h1_take(p, 1);
		key_pending(p, c);
	} else if (c == '\r' || c == '\n') {
		h1_line_end(p, w >> (8 * k), n - k, 0);
	} else {
		h1_taint(p, TALLY_DETAIL_BAD_HEADER);
		h1_take(p, 1);
	}
}

/* "Bearer " or "Basic ": gathered up to its space, then compared. */
TALLY_INLINE void step_auth_scheme(struct tally_h1 *p, const struct tally_rules *r, __u64 w,
				   __u32 n)
{
	const struct tally_name *name = h1_name(p, r, p->name);
	__u64 mark = tally_mark_less(w, 0x21);
	__u32 k = mark ? tally_mark_first(mark) : n;

	if (p->flags & H1_F_VALUE_END) { /* matched: spaces, then the credentials */
		if (tally_octet(w, 0) == ' ' || tally_octet(w, 0) == '\t') {
			h1_take(p, 1);
			return;
		}
		if (tally_octet(w, 0) <= ' ') {
			p->state = H1_SKIP_LINE;
			return;
		}
		p->state = name->role == TALLY_NAME_BASIC ? H1_BASIC : H1_KEY;
		if (p->state == H1_KEY)
			key_begin(p, name->priority);
		return;
	}
	if (k > n)
		k = n;
	if (k) {
		h1_gather(p, tally_lower(tally_low(w, k)), k);
		h1_take(p, k);
	}
	if (k == n)
		return;
	p->state = H1_SKIP_LINE;
	if ((tally_octet(w, k) != ' ' && tally_octet(w, k) != '\t') || p->fill >= TALLY_SCHEME)
		return;
	/* The space belongs to the scheme's text, and its octet to p->text. */
	h1_gather(p, ' ', 1);
	h1_take(p, 1);
	if (tally_h1_match_scheme(p, r)) {
		p->flags |= H1_F_VALUE_END;
		p->state = H1_AUTH_SCHEME;
	}
}

/* The value of a base64 digit (RFC 4648 4), or 255. */
TALLY_INLINE __u32 h1_base64(__u8 c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26u;
	if (c >= '0' && c <= '9')
		return c - '0' + 52u;
	return c == '+' ? 62 : c == '/' ? 63 : 255;
}

/* Basic credentials, one base64 digit a step; the user part is the key (RFC 7617 2). */
TALLY_INLINE void step_basic(struct tally_h1 *p, const struct tally_rules *r, __u64 w)
{
	__u8 c = tally_octet(w, 0), octet;
	__u32 v = h1_base64(c), bits = p->basic >> 24, acc;

	if (v == 255 && c != '=' && c != ' ' && c != '\t') {
		/* decoders differ in what they skip and where they stop */
		if (c != '\r' && c != '\n')
			p->flags |= H1_F_DOUBT_BASIC;
		p->state = H1_SKIP_LINE;
		return;
	}
	h1_take(p, 1);
	if (v == 255) {
		p->flags |= H1_F_BASIC_DONE;
		return;
	}
	if (p->flags & H1_F_BASIC_DONE) {
		p->flags |= H1_F_DOUBT_BASIC;
		p->state = H1_SKIP_LINE;
		return;
	}
	acc = (p->basic & 0xffffff) << 6 | v;
	bits += 6;
	if (bits < 8) {
		p->basic = (acc & 0xffff) | bits << 24;
		return;
	}
	bits -= 8;
	octet = acc >> (bits & 7);
	p->basic = (acc & ((1u << (bits & 7)) - 1)) | bits << 24;
	if (octet == ':') {
		p->state = H1_SKIP_LINE;
		return;
	}
	if (!(p->flags & H1_F_KEY_OPEN))
		key_begin(p, p->value_priority);
	key_add(p, octet, 1);
}

#define LENGTH_MAX 1000000000000000000ULL

/* Content-Length: digits, then white space; `remain` holds the number. */
TALLY_INLINE void step_length(struct tally_h1 *p, __u64 w, __u32 n)
{
	__u32 k = tally_digits(w);
	__u8 c;

	if (k > n)
		k = n;
	if (k && !(p->flags & H1_F_VALUE_END)) {
		if (!(p->flags & H1_F_DIGITS))
			p->remain = 0;
		p->flags |= H1_F_DIGITS;
		/* 18 digits: those of the number, as servers count them, not zeros before it */
		if (p->remain >= LENGTH_MAX / 100000000 * tally_pow10(8 - k))
			p->flags |= H1_F_LENGTH_BAD;
		p->remain = p->remain * tally_pow10(k) + tally_decimal(w, k);
		h1_take(p, k);
		if (k == n)
			return;
	}
	c = tally_octet(w, k & 7);
	if (k && p->flags & H1_F_VALUE_END) {
		c = tally_octet(w, 0);
		k = 0;
	}
	if (c == ' ' || c == '\t') {
		h1_take(p, 1);
		p->flags |= H1_F_VALUE_END;
	} else if (c == '\r' || c == '\n') {
		h1_line_end(p, w >> (8 * (k & 7)), n - k, 0);
	} else {
		p->flags |= H1_F_LENGTH_BAD;
		p->state = H1_SKIP_LINE;
	}
}

/*
 * Transfer-Encoding: a list of codings, lower-cased into p->text one by one. VALUE_END: one is over, a
 * comma must follow; DIGITS: the comma was read, a coding must follow. Else servers differ.
 */
TALLY_INLINE void step_coding(struct tally_h1 *p, __u64 w, __u32 n)
{
	__u64 mark = tally_mark_less(w, 0x21) | tally_mark_eq(w, ',');
	__u32 k = mark ? tally_mark_first(mark) : n;
	__u8 c;

	if (k > n)
		k = n;
	if (k) {
		if (p->flags & H1_F_VALUE_END)
			h1_taint(p, TALLY_DETAIL_BAD_CODING);
		p->flags &= ~H1_F_DIGITS;
		h1_gather(p, tally_lower(tally_low(w, k)), k);
		h1_take(p, k);
	}
	if (k == n)
		return;
	c = tally_octet(w, k);
	if (c == ',') {
		if (!p->fill && !(p->flags & H1_F_VALUE_END))
			h1_taint(p, TALLY_DETAIL_BAD_CODING);
		h1_coding_done(p);
		p->flags &= ~H1_F_VALUE_END;
		p->flags |= H1_F_DIGITS;
		h1_take(p, 1);
	} else if (c == ' ' || c == '\t') {
		if (p->fill)
			p->flags |= H1_F_VALUE_END;
		h1_coding_done(p);
		h1_take(p, 1);
	} else if (c == '\r' || c == '\n') {
		h1_line_end(p, w >> (8 * k), n - k, 0);
	} else {
		h1_taint(p, TALLY_DETAIL_BAD_HEADER);
		h1_take(p, 1);
	}
}

/* ---- bodies ---- */

TALLY_INLINE void step_body(struct tally_h1 *p, __u32 left)
{
	__u64 k = p->remain < left ? p->remain : left;

	h1_take(p, k);
	p->remain -= k;
	if (p->remain)
		return;
	if (p->state == H1_CHUNK_DATA) {
		p->state = H1_CHUNK_CR;
		return;
	}
	p->state = H1_START;
	p->event = TALLY_EV_END;
}

/* Hexadecimal size (RFC 9112 7.1), then an extension or the end of the line. */
TALLY_INLINE void step_chunk_size(struct tally_h1 *p, __u64 w)
{
	__u8 c = tally_octet(w, 0);
	__u32 v = h1_hex(c);

	if (v != 255 && !(p->flags & H1_F_VALUE_END)) {
		h1_take(p, 1);
		if (p->remain >> 56) {
			h1_bad_body(p);
			return;
		}
		p->remain = p->remain << 4 | v;
		p->flags |= H1_F_DIGITS;
		return;
	}
	if (!(p->flags & H1_F_DIGITS)) {
		h1_bad_body(p);
	} else if (c == '\r') {
		h1_take(p, 1);
		p->state = H1_CHUNK_SIZE_LF;
	} else if (c == '\n') {
		if (!tally_h1_is_response(p))
			h1_taint(p, TALLY_DETAIL_BAD_CHUNK);
		p->state = H1_CHUNK_SIZE_LF;
	} else if (c == ';') {
		h1_take(p, 1);
		p->state = H1_CHUNK_EXT;
	} else if (c == ' ' || c == '\t') {
		h1_take(p, 1);
		p->flags |= H1_F_VALUE_END;
	} else if (p->flags & H1_F_VALUE_END) {
		/* nginx takes white space for the begin of an extension; others refuse it */
		if (!tally_h1_is_response(p))
			h1_taint(p, TALLY_DETAIL_BAD_CHUNK);
		p->state = H1_CHUNK_EXT;
	} else {
		h1_bad_body(p);
	}
}

TALLY_INLINE void step_chunk_ext(struct tally_h1 *p, __u64 w, __u32 n)
{
	__u64 mark = tally_mark_eq(w, '\n') | tally_mark_eq(w, '\r');
	__u32 k = mark ? tally_mark_first(mark) : n;

	if (k >= n) {
		h1_take(p, n);
		return;
	}
	if (tally_octet(w, k) == '\n' && !tally_h1_is_response(p))
		h1_taint(p, TALLY_DETAIL_BAD_CHUNK);
	h1_take(p, k + (tally_octet(w, k) == '\r'));
	p->state = H1_CHUNK_SIZE_LF;
}

TALLY_INLINE void step_chunk_size_lf(struct tally_h1 *p, __u64 w)
{
	if (tally_octet(w, 0) != '\n') {
		h1_bad_body(p);
		return;
	}
	h1_take(p, 1);
	p->flags &= ~(H1_F_DIGITS | H1_F_VALUE_END);
	if (p->remain) {
		p->state = H1_CHUNK_DATA;
		return;
	}
	p->flags |= H1_F_TRAILER;
	p->name = TALLY_NAMES;
	p->state = H1_LINE;
}

TALLY_INLINE void step_chunk_end(struct tally_h1 *p, __u64 w)
{
	__u8 c = tally_octet(w, 0);

	if (p->state == H1_CHUNK_CR && c == '\r') {
		h1_take(p, 1);
		p->state = H1_CHUNK_LF;
	} else if (c == '\n') {
		if (p->state == H1_CHUNK_CR && !tally_h1_is_response(p))
			h1_taint(p, TALLY_DETAIL_BAD_CHUNK);
		h1_take(p, 1);
		p->remain = 0;
		p->state = H1_CHUNK_SIZE;
	} else {
		h1_bad_body(p);
	}
}

/* ---- the machine ---- */

struct h1_run {
	struct tally_h1 *p;
	const struct tally_chunk *c;
	const struct tally_rules *r;
};

/* Nothing has happened yet that the driver must know, and there are octets left. */
TALLY_INLINE int h1_goes_on(const struct tally_h1 *p)
{
	return !p->event && p->pos < p->end;
}

TALLY_INLINE int h1_at(const struct tally_h1 *p, __u8 state)
{
	return p->state == state && h1_goes_on(p);
}

/* What a step that needs one word looks at. */
TALLY_INLINE __u64 h1_word(const struct tally_h1 *p, const struct tally_chunk *c)
{
	return tally_word(c, p->pos, h1_left(p));
}

/* The unusual states of a start line. */
TALLY_INLINE void h1_step_target(struct tally_h1 *p, const struct tally_rules *r, __u64 w, __u32 n)
{
	switch (p->state) {
	case H1_SCHEME:
		step_scheme(p, w);
		break;
	case H1_PERCENT1:
	case H1_PERCENT2:
		step_percent(p, r, w);
		break;
	case H1_QUERY_NAME:
		step_query_name(p, r, w, n);
		break;
	case H1_QUERY_NAME_PERCENT1:
	case H1_QUERY_NAME_PERCENT2:
		step_query_name_percent(p, w);
		break;
	case H1_QUERY_VALUE:
		step_query_value(p, r, w, n);
		break;
	case H1_QUERY_PERCENT1:
	case H1_QUERY_PERCENT2:
		step_query_percent(p, r, w);
		break;
	case H1_QUERY_SKIP:
		step_query_skip(p, r, w, n);
		break;
	case H1_STATUS:
		step_status(p, w, n);
		break;
	default:
		break;
	}
}

/* In the order in which states usually follow each other, so that one step takes a whole line. */
TALLY_INLINE void h1_step_start_line(struct tally_h1 *p, const struct tally_chunk *c,
				     const struct tally_rules *r)
{
	if (h1_at(p, H1_START))
		step_start(p, r, h1_word(p, c));
	if (h1_at(p, H1_PROTOCOL)) {
		step_protocol(p, c, h1_word(p, c), h1_left(p));
		return;
	}
	if (h1_at(p, H1_METHOD))
		step_method(p, r, h1_word(p, c), h1_left(p));
	if (h1_at(p, H1_TARGET))
		step_target(p, h1_word(p, c));
	if (h1_at(p, H1_PATH))
		step_path(p, c, r);
	else if (h1_goes_on(p))
		h1_step_target(p, r, h1_word(p, c), h1_left(p));
	if (h1_at(p, H1_VERSION))
		step_version(p, c, h1_word(p, c), h1_left(p));
}

TALLY_INLINE void h1_step_value(struct tally_h1 *p, const struct tally_chunk *c,
				const struct tally_rules *r, __u64 w, __u32 n)
{
	switch (p->state) {
	case H1_OWS:
		step_ows(p, r, w, n);
		break;
	case H1_KEY:
		step_key(p, c, w, n);
		break;
	case H1_AUTH_SCHEME:
		step_auth_scheme(p, r, w, n);
		break;
	case H1_BASIC:
		step_basic(p, r, w);
		break;
	case H1_LENGTH:
		step_length(p, w, n);
		break;
	case H1_CODING:
		step_coding(p, w, n);
		break;
	case H1_VALUE_LF:
		step_value_lf(p, w);
		break;
	case H1_HEAD_LF:
		step_head_lf(p, w);
		break;
	default:
		break;
	}
}

/* The same for header lines: all those that do not matter, and one that does. */
TALLY_INLINE void h1_step_header(struct tally_h1 *p, const struct tally_chunk *c,
				 const struct tally_rules *r)
{
	if (h1_at(p, H1_LINE))
		step_line(p, c, r);
	if (h1_at(p, H1_SKIP_LINE)) {
		step_skip_line(p, c, r);
		if (h1_at(p, H1_LINE))
			step_line(p, c, r);
	}
	if (h1_at(p, H1_NAME))
		step_name(p, c, r, h1_word(p, c), h1_left(p));
	if (h1_goes_on(p))
		h1_step_value(p, c, r, h1_word(p, c), h1_left(p));
}

TALLY_INLINE void h1_step_body(struct tally_h1 *p, __u64 w, __u32 n, __u32 left)
{
	switch (p->state) {
	case H1_BODY:
	case H1_CHUNK_DATA:
		step_body(p, left);
		break;
	case H1_CHUNK_SIZE:
		step_chunk_size(p, w);
		break;
	case H1_CHUNK_EXT:
		step_chunk_ext(p, w, n);
		break;
	case H1_CHUNK_SIZE_LF:
		step_chunk_size_lf(p, w);
		break;
	case H1_CHUNK_CR:
	case H1_CHUNK_LF:
		step_chunk_end(p, w);
		break;
	default: /* CLOSE, TUNNEL, BAD */
		h1_ignored(p);
		h1_take(p, left);
	}
}

TALLY_INLINE int h1_state_in(const struct tally_h1 *p, __u8 first, __u8 last)
{
	return p->state >= first && p->state <= last;
}

/* One or more steps. Returns 1 when there is nothing left to do. */
TALLY_INLINE int h1_step(struct tally_h1 *p, const struct tally_chunk *c,
			 const struct tally_rules *r)
{
	__u32 left = p->end - p->pos;

	if (!left || left > TALLY_CHUNK)
		return 1;
	if (h1_state_in(p, H1_START, H1_STATUS))
		h1_step_start_line(p, c, r);
	else if (!h1_state_in(p, H1_LINE, H1_HEAD_LF))
		h1_step_body(p, h1_word(p, c), h1_left(p), left);
	if (h1_state_in(p, H1_LINE, H1_HEAD_LF) && !p->event)
		h1_step_header(p, c, r);
	return !h1_goes_on(p);
}

static long h1_loop_step(__u32 i, void *ctx)
{
	struct h1_run *run = ctx;

	(void)i;
	return h1_step(run->p, run->c, run->r);
}

/*
 * Parse the octets pos..end of the chunk, up to the first event.
 * Returns enum tally_event; p->pos says how far. MORE: everything is consumed.
 */
TALLY_GLOBAL int tally_h1_run(struct tally_h1 *p, const struct tally_chunk *c,
			      const struct tally_rules *r)
{
	struct h1_run run = { p, c, r };
	__u32 before;

	if (!p || !c || !r)
		return 0;
	before = p->pos;
	p->event = TALLY_EV_MORE;
	tally_loop(4 * TALLY_CHUNK, h1_loop_step, &run);
	p->octets += p->pos - before;
	return p->event;
}

/*
 * Octets of the stream that need not be looked at: consume up to n of them. Returns how many.
 * The event END, if the message ends there, is left in p->event.
 */
TALLY_INLINE __u32 tally_h1_skip(struct tally_h1 *p, __u32 n)
{
	__u32 k = n;

	p->event = TALLY_EV_MORE;
	if (p->state > H1_SKIPPING)
		return 0;
	h1_ignored(p);
	if (p->state == H1_BODY || p->state == H1_CHUNK_DATA) {
		if (p->remain < n)
			k = p->remain;
		p->remain -= k;
		if (!p->remain && p->state == H1_BODY) {
			p->state = H1_START;
			p->event = TALLY_EV_END;
		} else if (!p->remain) {
			p->state = H1_CHUNK_CR;
		}
	}
	p->octets += k;
	return k;
}

#endif
