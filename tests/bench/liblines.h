/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TALLY_BENCH_LINES_H
#define TALLY_BENCH_LINES_H

#include <stdio.h>

/*
 * Where the machine code of a loaded program stands, and of which lines it is, a line each:
 *
 *	function ADDRESS OCTETS		each function; the program's own is the first
 *	line ADDRESS FILE NUMBER	code from there on is of that line
 *
 * Faults end the program.
 */
void bench_lines(int prog, FILE *out);

#endif
