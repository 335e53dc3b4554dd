/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a table of options says about itself: the JSON schema for editors, the short help of the
 * command line, the reference and the man page for people. None of it is written by hand anywhere else.
 */
#ifndef TALLY_BASE_MANUAL_H
#define TALLY_BASE_MANUAL_H

#include <jansson.h>

#include "base/option.h"

/* JSON schema (2020-12) of the table as a whole document. NULL: out of memory. */
json_t *tally_manual_schema(const struct tally_option_table *table);
/* Markdown: a heading and a table per section, depth first. */
void tally_manual_reference(const struct tally_option_table *table, FILE *out);
/* The same in scdoc's language, sections only: the body of a man page. */
void tally_manual_page(const struct tally_option_table *table, FILE *out);
/* Markdown text as scdoc's: code is bold, emphasis underlined. */
void tally_manual_text(const char *markdown, FILE *out);
/* One line per option, indented by depth. */
void tally_manual_help(const struct tally_option_table *table, unsigned int depth, FILE *out);

#endif
