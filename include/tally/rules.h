/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause OR Apache-2.0 */
/*
 * A ruleset: everything the engine must know of one service to attribute an exchange. The agent
 * compiles it from the config (user/identify/rules.c); the kernel only reads it.
 *
 * Routes are a deterministic automaton over path segments. State 0 is dead (route _other), state 1
 * the start. One segment s in state q goes to the edge (q, hash(s)) if there is one, else to
 * other[q]. The empty segment has the hash of the empty text, like any other. At the end of the
 * path accept[q][method] is the route, 0 being _other. So `{param}` and `**` are already merged
 * with their literal siblings, and the kernel never goes back.
 *
 * Edges are an open-addressed table: slot = (hash ^ state * TALLY_EDGE_MIX) & (EDGES - 1), then the
 * next ones up to TALLY_EDGE_PROBES; state 0 marks a free slot.
 */
#ifndef TALLY_RULES_H
#define TALLY_RULES_H

#include "tally/limits.h"
#include "tally/types.h"

#define TALLY_EDGE_PROBES 8
#define TALLY_EDGE_MIX 0x9e3779b97f4a7c15ULL

/* What a header of a known name means to the parser. */
enum tally_name_role {
	TALLY_NAME_NONE,
	TALLY_NAME_LENGTH, /* Content-Length */
	TALLY_NAME_CODING, /* Transfer-Encoding */
	TALLY_NAME_KEY,	   /* the value is a key */
	TALLY_NAME_SCHEME, /* scheme SP key */
	TALLY_NAME_BASIC,  /* Basic SP base64(user ":" password): the user is the key */
};

/* A header name in lower case, zero padded; scheme with its one trailing space, lower case. */
struct tally_name {
	__u8 text[TALLY_HEADER_NAME];
	__u8 scheme[TALLY_SCHEME];
	__u8 len;
	__u8 scheme_len;
	__u8 role;     /* enum tally_name_role */
	__u8 priority; /* 1 is first; lower wins */
	__u8 next;     /* index of the same header with its next scheme; 0: there is none */
	__u8 pad[3];
};

/* A query parameter that carries the key: raw name, case-sensitive, zero padded. */
struct tally_query_name {
	__u8 text[32];
	__u8 len;
	__u8 priority;
	__u8 pad[6];
};

/*
 * Which bit of {request,response}_first stands for names that begin with these four octets (in
 * either case, the first in the low byte). A line whose bit is not set cannot be of interest and is
 * skipped whole. A ruleset that knows a shorter name has all bits set.
 */
static inline __attribute__((always_inline)) __u32 tally_name_filter(__u32 first)
{
	return (first | 0x20202020) * 0x9e3779b1U >> 26;
}

struct tally_edge {
	__u64 hash;  /* tally_text_hash of the segment, normalised */
	__u16 state; /* 0: free */
	__u16 next;
	__u32 pad;
};

enum tally_rules_flag {
	TALLY_RULES_TAINTED_OWNER =
		1, /* tainted exchanges go to the last clean key, or their own */
	TALLY_RULES_MERGE_SLASHES = 2, /* an empty segment counts at the end of a path only */
	TALLY_RULES_DECODE_SLASH = 4,  /* %2F ends a segment */
};

enum tally_route_flag {
	TALLY_ROUTE_AUTH_NONE = 1, /* the service does not check keys here: never learn one */
};

struct tally_rules {
	__u32 ruleset; /* generation, as in row keys */
	__u16 service;
	__u16 flags; /* enum tally_rules_flag */
	__u64 secret[2];
	__u64 request_first;			 /* bit tally_name_filter() of each request name */
	__u64 response_first;			 /* the same for response names */
	struct tally_name request[TALLY_NAMES];	 /* [0] Content-Length, [1] Transfer-Encoding */
	struct tally_name response[TALLY_NAMES]; /* the same; KEY: the customer's header */
	struct tally_query_name query[TALLY_QUERY_NAMES];
	__u32 queries; /* how many of `query` are set */
	__u32 pad;
	__u64 method[TALLY_METHODS]; /* up to 8 octets, little endian, zero padded; [0] is 0 */
	__u8 route_flags[TALLY_ROUTES];
	__u16 other[TALLY_ROUTE_STATES];
	__u16 accept[TALLY_ROUTE_STATES][TALLY_METHODS];
	struct tally_edge edges[TALLY_ROUTE_EDGES];
};

#endif
