/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the commands that ask a running agent have in common: where its socket is, the question, and
 * tables of the answer.
 */
#ifndef TALLY_ASK_H
#define TALLY_ASK_H

#include <jansson.h>

#include "cli.h"

/* The options --config and -o; static variables of ask.c. */
#define TALLY_ASK_OPTIONS                                                                      \
	{ "config",                                                                            \
	  'c',                                                                                 \
	  TALLY_CLI_TEXT,                                                                      \
	  &tally_ask_config,                                                                   \
	  "FILE",                                                                              \
	  "configuration of the agent, for its socket",                                        \
	  NULL },                                                                              \
	{                                                                                      \
		"output", 'o', TALLY_CLI_WORD, &tally_ask_format, "FORMAT", "how to print it", \
			tally_cli_table_words                                                  \
	}

extern const char *tally_ask_config;
extern const char *tally_ask_format;

/* Ask the agent. For a table, texts of the answer are plain (base/text.h). 0, or the exit code after a word to stderr. */
TALLY_MUST int tally_ask(const char *request, json_t **ret_answer);

/* For commands with one answer: ask, and print as JSON, or by table(). The exit code. */
int tally_ask_print(const char *request, void (*table)(json_t *answer));

/* Members, with 0 or "-" for what is not there. */
long long tally_ask_int(json_t *object, const char *name);
double tally_ask_real(json_t *object, const char *name);
const char *tally_ask_text(json_t *object, const char *name);

/* 1234567 as 1.2M; out has room for 8. */
const char *tally_ask_short(double value, char out[16]);

#endif
