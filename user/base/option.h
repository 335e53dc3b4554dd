/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables of options. One table of a section makes the parser into a C struct, the defaults, the
 * JSON schema, the short help, the reference manual, and the function that frees it all.
 *
 *	struct tally_option_table		one section
 *	  options[]: name, type, offset --->	a member of the section's struct
 *	  SECTION, LIST: table ----------->	the section below
 *
 * Members by type:
 *	BOOL bool | COUNT uint64_t | DURATION uint64_t ns | DECIMAL uint64_t 10^-9 | ENUM unsigned int
 *	TEXT char * | PORTS struct tally_option_ports | SECTION the struct itself
 *	LIST T *x; size_t n_x | TEXTS, BOOLS struct tally_option_pair *x; size_t n_x (a free mapping)
 */
#ifndef TALLY_BASE_OPTION_H
#define TALLY_BASE_OPTION_H

#include "base/yaml.h"

#define TALLY_OPTION_DECIMAL 1000000000ULL /* a DECIMAL of 1 */

enum tally_option_type {
	TALLY_OPTION_BOOL,
	TALLY_OPTION_COUNT,
	TALLY_OPTION_DURATION,
	TALLY_OPTION_DECIMAL_TEXT,
	TALLY_OPTION_ENUM,
	TALLY_OPTION_TEXT,
	TALLY_OPTION_PORTS,
	TALLY_OPTION_SECTION,
	TALLY_OPTION_LIST,
	TALLY_OPTION_TEXTS,
	TALLY_OPTION_BOOLS,
};

enum tally_option_flag {
	TALLY_OPTION_REQUIRED = 1,
	TALLY_OPTION_OPTIONAL = 2,   /* SECTION: without it no defaults are filled in */
	TALLY_OPTION_SECRET = 4,     /* ${file:...} and ${cred:...} are expanded; never quoted */
	TALLY_OPTION_NO_LITERAL = 8, /* must be one of the two */
};

enum tally_option_decode_flag {
	TALLY_OPTION_KEEP_REFERENCES = 1, /* ${...} stays as it is */
	TALLY_OPTION_NO_UNIT = 2, /* a ${cred:...} outside of a unit is a warning, and stays */
};

struct tally_option_ports {
	bool set, all;
	uint16_t *list; /* sorted, each once */
	size_t n;
};

struct tally_option_pair {
	char *name;
	char *value; /* TEXTS */
	bool flag;   /* BOOLS */
	struct tally_place place;
};

struct tally_option {
	const char *name;
	enum tally_option_type type;
	size_t offset;
	unsigned int flags;   /* enum tally_option_flag */
	const char *fallback; /* as one would write it; NULL: none */
	uint64_t min,
		max; /* COUNT, DURATION, LIST and PORTS (entries), TEXT (bytes); max 0: none */
	/* ENUM; TEXTS of which some are secrets: how the names of these end. NULL-terminated. */
	const char *const *words;
	const struct tally_option_table *table; /* SECTION, LIST */
	const char *help;			/* Markdown, one paragraph, no newline */
};

#define TALLY_OPTION_NO_PLACE ((size_t)-1)

struct tally_option_table {
	const char *title; /* for the manual */
	bool one_of;	   /* exactly one of its sections must be there */
	const struct tally_option *options;
	size_t n_options;
	size_t bytes; /* of the struct */
	size_t place; /* offset of a struct tally_place, which says that the section is there */
};

/*
 * Fill *out, which is zeroed, from node (NULL: defaults only). Faults go to diag; what could be read
 * is filled in all the same. -ENOMEM is the only failure.
 */
TALLY_MUST int tally_option_decode(const struct tally_option_table *table,
				   const struct tally_yaml *node, unsigned int flags, void *out,
				   struct tally_diag *diag);
/* Frees what decode made and zeroes the struct; texts are wiped. */
void tally_option_done(const struct tally_option_table *table, void *out);

/* Do two structs that decode filled say the same? Places in the file are not compared, but whether an
 * optional section is there. */
bool tally_option_equal(const struct tally_option_table *table, const void *a, const void *b);

/* Of a type, in the manual. */
const char *tally_option_type_name(enum tally_option_type type);

/* "10s", "500ms", "1m30s", "2h"; "0". -EINVAL, -ERANGE. */
TALLY_MUST int tally_option_duration(const char *text, uint64_t *ret_ns);
/* "10", "0.25", at most 9 decimals. -EINVAL, -ERANGE. */
TALLY_MUST int tally_option_decimal(const char *text, uint64_t *ret_value);

#endif
