/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Commands as a person calls them: in a child, because options are kept in static variables, and in a folder
 * of their own. What was said is kept until the next call.
 */
#ifndef TESTS_UNIT_LIBCOMMAND_H
#define TESTS_UNIT_LIBCOMMAND_H

#include "cli.h"

extern char command_dir[32], command_out[65536], command_err[65536];
extern long command_peak_kb;  /* of memory, of the last call */
extern bool command_returned; /* it did not end the process itself */

void command_open(void);
/* All of the folder goes. 0, -1. */
int command_close(void);
/* A file there. */
void command_put(const char *name, const char *text);
/* words are parted by blanks. The exit code. */
int command_call(const char *words, const char *input);

#endif
