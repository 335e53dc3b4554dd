/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Route templates, and the automaton that tells which of them a path matches.
 *
 *	"POST /v1/documents/{id}/extract"  ->  POST | v1 | documents | {id} | extract
 *
 * A path "/a/b" has the segments "a", "b"; "/" has one, empty; "/a/" has "a" and an empty one.
 * {name} takes one segment that is not empty; ** (last only) takes any number, also none. Where
 * several templates take a path, segments are compared from the left: literal, {name}, **; and then
 * a template with a method goes before the same one without. "OPTIONS *" is a target of its own.
 *
 * The automaton is built by subset construction: a state is the set of (route, position) that the
 * segments read so far lead to, so a step never goes back. Numbers of states: 0 is dead, 1 the start.
 */
#ifndef TALLY_IDENTIFY_ROUTE_H
#define TALLY_IDENTIFY_ROUTE_H

#include "base/diag.h"
#include "tally/limits.h"

#define TALLY_ROUTE_METHOD 8 /* longest method */
#define TALLY_ROUTE_SEGMENTS TALLY_PATH_DEPTH
#define TALLY_ROUTE_EDGES_USED (TALLY_ROUTE_EDGES / 2) /* half full: probes stay short */

enum tally_route_kind { TALLY_ROUTE_LITERAL, TALLY_ROUTE_PARAM, TALLY_ROUTE_REST };

struct tally_route_segment {
	enum tally_route_kind kind;
	char *text; /* LITERAL; PARAM: its name */
};

struct tally_route {
	char method[TALLY_ROUTE_METHOD + 1]; /* "": any */
	char *template;			     /* normalised; "*" for the asterisk form */
	bool asterisk;
	struct tally_route_segment segments[TALLY_ROUTE_SEGMENTS];
	size_t n_segments;
};

struct tally_route_edge {
	uint16_t state, next;
	const char *text; /* of a segment of the routes */
	bool asterisk;	  /* instead of text: the asterisk form */
};

struct tally_route_automaton {
	uint16_t n_states; /* with the dead one */
	uint16_t other[TALLY_ROUTE_STATES];
	uint16_t accept[TALLY_ROUTE_STATES][TALLY_METHODS]; /* 1 + index of the route */
	struct tally_route_edge edges[TALLY_ROUTE_EDGES_USED];
	size_t n_edges;
};

/* Names of methods by their index in a ruleset; [0] is "". */
struct tally_route_methods {
	char names[TALLY_METHODS][TALLY_ROUTE_METHOD + 1];
	size_t n;
};

/* -EINVAL: *ret_why says what is wrong with the text (static); -ENOMEM. */
TALLY_MUST int tally_route_parse(const char *match, struct tally_route *ret_route,
				 const char **ret_why);
void tally_route_done(struct tally_route *route);

/* Order of indices: by template, then by method. 0: the same text. */
int tally_route_compare(const struct tally_route *a, const struct tally_route *b);
/* Do they take exactly the same requests? (Names of parameters do not matter.) */
bool tally_route_same(const struct tally_route *a, const struct tally_route *b);

/* The fixed methods, then those of the routes, sorted. -E2BIG: more than there is room for. */
TALLY_MUST int tally_route_methods(const struct tally_route *routes, size_t n,
				   struct tally_route_methods *ret_methods);
/* Index of a method; 0: not told apart. */
uint8_t tally_route_method(const struct tally_route_methods *methods, const char *name);

/* -E2BIG: too many states; -ENOSPC: too many edges; -ENOMEM. The routes must outlive it. */
TALLY_MUST int tally_route_build(const struct tally_route *routes, size_t n,
				 const struct tally_route_methods *methods,
				 struct tally_route_automaton *ret_automaton);

#endif
