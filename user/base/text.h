/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Texts of others, for a terminal and for JSON. A text that a client, a pod or a file name brought along can
 * hold what redraws the terminal of who looks at a table, or what no JSON can hold.
 *
 *	tally_text_clean()	all is UTF-8 afterwards: for JSON, whose encoder escapes the rest
 *	tally_text_plain()	and nothing of it controls a terminal: for every text in a table
 *	tally_text_cell()	and it is as wide as its column
 *
 * What cannot stay becomes U+FFFD, one column wide: in a table controls, what turns the direction of writing, and
 * what is not seen. Where room is short, texts are cut between characters, and never before a combining one.
 * Widths are those of the C library; without its locale C.UTF-8, each character is one column.
 */
#ifndef TALLY_BASE_TEXT_H
#define TALLY_BASE_TEXT_H

#include "base/util.h"

/* Enough of a text for one line. */
#define TALLY_TEXT_LINE 1024
/* And with the blanks of a column; any number of characters may combine in one. */
#define TALLY_TEXT_CELL(columns) (TALLY_TEXT_LINE + (columns) + 1)

/* Length of the well-formed UTF-8 sequence at p (RFC 3629), or 0. */
size_t tally_text_utf8(const void *p, size_t left);

/* All of text that fits into out, which is returned. */
const char *tally_text_clean(const char *text, char *out, size_t bytes);
const char *tally_text_plain(const char *text, char *out, size_t bytes);

/*
 * Plain and of exactly that many columns, blanks included; out has TALLY_TEXT_CELL of them. What is too long
 * keeps its begin and its end, with ~ between: what tells routes, keys and addresses apart stands there.
 * Not for several threads at once.
 */
const char *tally_text_cell(const char *text, size_t width, char *out, size_t bytes);

#endif
