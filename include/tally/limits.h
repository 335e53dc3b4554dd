/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause OR Apache-2.0 */
/*
 * Every cap of the meter stands here, and every cap has a counter that says when it was hit
 * (reasons.h). Sizes are bytes unless the name says otherwise.
 */
#ifndef TALLY_LIMITS_H
#define TALLY_LIMITS_H

#define TALLY_SERVICES 64	  /* services of one agent */
#define TALLY_RULESET_SLOTS 128	  /* live rulesets: current and those still in use, per service */
#define TALLY_CHUNK 1024	  /* payload bytes parsed per load from the packet */
#define TALLY_CHUNK_PAD 16	  /* two words are read past the end of a chunk */
#define TALLY_REPLY 512		  /* longest response head that is compared with the next one */
#define TALLY_PIPELINE 16	  /* requests of one connection waiting for their response */
#define TALLY_PARK_PIECES 32	  /* parked pieces (TALLY_CHUNK each) per connection, direction */
#define TALLY_PARK_POOL 4096	  /* parked pieces in all */
#define TALLY_PARK_STRANGERS 1024 /* of these for data from before a handshake's end */
#define TALLY_KEY_INLINE 256	  /* key text kept in the connection while it is parsed */
#define TALLY_KEY_MAX 8192	  /* longest key */
#define TALLY_CANDIDATES 8192	  /* unknown keys waiting for acceptance or resolution */
#define TALLY_CANDIDATES_LONG 256 /* those longer than TALLY_KEY_INLINE */
#define TALLY_GUESSES 1024	  /* keys learnt from an error (400 and above), per window */
#define TALLY_HEADER_NAME 64	  /* longest header name that can be a key source */
#define TALLY_NAMES 8		  /* header names a ruleset knows, per direction */
#define TALLY_QUERY_NAMES 4	  /* query parameters that can carry a key */
#define TALLY_SCHEME 16		  /* longest authentication scheme, with its space */
#define TALLY_METHODS 16	  /* methods told apart; 0 is any other */
#define TALLY_ROUTES 512	  /* routes of one service; 0 is _other */
#define TALLY_ROUTE_STATES 512	  /* states of the compiled route automaton */
#define TALLY_ROUTE_EDGES 2048	  /* slots of its edge table, a power of two */
#define TALLY_PATH_DEPTH 48	  /* path segments remembered for "..", RFC 3986 5.2.4 */
#define TALLY_NEST 8		  /* programs interrupting each other on one CPU */
#define TALLY_SCOPE_LEVELS 16	  /* depth of cgroups a service can be tagged at */

#endif
