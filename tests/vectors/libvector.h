/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vectors: what passes on one connection, and what the meter must make of it. Files a person can read:
 *
 *	=== a request and its answer		title: one vector
 *	@config basic				settings, see below
 *	--- client				octets from the client, one segment or any pieces
 *	GET /v1/items HTTP/1.1			each line stands for itself and CR LF
 *	X-API-Key: A
 *
 *	--- server
 *	HTTP/1.1 204 No Content
 *
 *	--- expect
 *	key:A GET /v1/items 204 x1 req=c1 resp=s1
 *
 * Escapes: \r \n \t \0 \\ \xHH; \{TEXT*N} repeats TEXT; \ at the end of a line: no CR LF there.
 *
 * Steps:	--- client [noack|urgent|tail=N]
 *			noack: the client has not acknowledged what the server sent; urgent: the TCP flag
 *			tail=N: the last N octets come first, the others at the step `--- rest`
 *		--- server
 *		--- huge client|server N	N octets that the meter must never look at
 *		--- lost client|server	TCP took them, the meter did not see them
 *		--- decoy [ahead=N|back=N]	from the client; the meter sees them, TCP refuses them.
 *					N octets ahead of, or behind, what has been sent
 *		--- fin client|server
 *		--- window		the ledger is swapped: rows begin anew, and stand apart below
 *
 * Settings:	@config NAME	tests/vectors/NAME.yaml (default: default)
 *		@midstream	the connection was there before the meter
 *		@known KEY	the key is in the dictionary
 *		@candidates N, @dictionary N, @pieces N, @guesses N	smaller caps
 *		@whole WHY	only uncut, not in pieces, and why
 *		@native WHY	not in the kernel, and why
 *
 * Expectations, one row a line, in any order:
 *	WHO METHOD ROUTE STATUS xREQUESTS req=EXPR resp=EXPR [incomplete=N] [detail=D] [proto=P]
 *	unparsed client|server REASON EXPR
 *	gap REASON N			(only if asserted: counted in the uncut run)
 *	learned KEY...			the keys in the dictionary at the end (only if asserted)
 * WHO is key:TEXT or an attribution; STATUS of an aborted exchange is 0. EXPR adds and subtracts
 * numbers and the lengths of steps: c1 is the first of the client's, s2 the second of the server's.
 * The end of the vector is the end of the connection.
 */
#ifndef TALLY_TEST_VECTOR_H
#define TALLY_TEST_VECTOR_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "identify/ruleset.h"
#include "replay/meter.h"

#define VECTOR_STEPS 128
#define VECTOR_KNOWN 8

enum vector_dir { VECTOR_CLIENT, VECTOR_SERVER };
enum vector_kind {
	VECTOR_DATA,
	VECTOR_HUGE,
	VECTOR_LOST,
	VECTOR_DECOY,
	VECTOR_REST,
	VECTOR_FIN,
	VECTOR_WINDOW
};

struct vector_step {
	enum vector_kind kind;
	enum vector_dir dir;
	bool noack, urgent;
	uint64_t tail;	/* 0: all at once */
	uint64_t ahead; /* of a decoy */
	uint8_t *data;	/* NULL for HUGE */
	uint64_t len;
};

struct vector {
	const char *file;
	unsigned int line;
	char *title, *config;
	bool midstream, whole, native;
	char *known[VECTOR_KNOWN];
	size_t n_known;
	struct tally_meter_options caps;
	struct vector_step steps[VECTOR_STEPS];
	size_t n_steps;
	char *expect; /* as written */
};

struct vector_list {
	struct vector **items;
	size_t n;
	char **names;
	size_t n_names;
};

/* All of folder/X.http. Faults are printed, and end the program. */
void vector_load(const char *folder, struct vector_list *ret_list);
void vector_list_done(struct vector_list *list);

/* Rules of a config, compiled. Kept until vector_rules_done(). */
struct vector_rules {
	char *name;
	struct tally_rules *rules;
	struct tally_ruleset_view *view;
	struct vector_rules *next;
};
const struct vector_rules *vector_rules(const char *folder, const char *name);
void vector_rules_done(void);

/* Octets of the stream in this direction, decoys apart. */
uint64_t vector_octets(const struct vector *v, enum vector_dir dir);

/* What came out: rows over all connections added up, and totals. */
struct vector_outcome {
	const struct tally_meter_entry *const *rows;
	size_t n_rows;
	const struct tally_totals *totals;
	/* Text of an accepted key; NULL: unknown. */
	const void *(*key)(void *ctx, uint64_t hash, size_t *ret_bytes);
	void *ctx;
};

/* Both as sorted lines of the same form, to compare and to print. To free. */
char *vector_actual(const struct vector_rules *rules, const struct vector_outcome *outcome);
char *vector_expected(const struct vector *v);
/* "learned" and the texts of these keys, sorted, as a vector writes them. To free. */
char *vector_learned(const void *const *texts, const size_t *bytes, size_t n);
/* "gap" and "learned" lines that do not hold: printed to out. Returns how many. */
int vector_check_asserted(const struct vector *v, const struct tally_totals *totals,
			  const char *learned, FILE *out);

#endif
