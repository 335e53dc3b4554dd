/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is wrong with a file a person wrote, in the order of its lines:
 *
 *	FILE:LINE:COL: services[0].routes[1].credit: unknown key; did you mean "credits"?
 *	FILE:LINE:COL: warning: ...
 *
 * All faults are collected, not only the first. Line and column count from 1; line 0: the whole
 * file. After a fault the parser goes on, so the texts must not hold secrets: values of options
 * that are secret, and of anything that looks like a key, are never quoted.
 */
#ifndef TALLY_BASE_DIAG_H
#define TALLY_BASE_DIAG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "base/util.h"

#define TALLY_DIAG_MAX 100 /* what comes after is only counted */

struct tally_place {
	unsigned int line, column;
};

struct tally_diag_item {
	struct tally_place place;
	bool warning;
	char *path; /* services[0].routes[1].credits; "" for the file */
	char *text;
};

struct tally_diag {
	char *file;
	struct tally_diag_item *items;
	size_t n_items;
	size_t errors, warnings; /* all of them, also those past the maximum */
	size_t unread; /* errors that are files of secrets which cannot be read, perhaps yet */
	bool out_of_memory;
	char *first; /* tally_diag_first()'s */
};

void tally_diag_init(struct tally_diag *diag, const char *file);
void tally_diag_done(struct tally_diag *diag);

void tally_diag_error(struct tally_diag *diag, struct tally_place place, const char *path,
		      const char *fmt, ...) TALLY_PRINTF(4, 5);
void tally_diag_warning(struct tally_diag *diag, struct tally_place place, const char *path,
			const char *fmt, ...) TALLY_PRINTF(4, 5);

/* Sorted by place, one line each. */
void tally_diag_print(struct tally_diag *diag, FILE *out);
/* The first error as one line, for a log; "" when there is none. Valid until done. */
const char *tally_diag_first(struct tally_diag *diag);

#endif
