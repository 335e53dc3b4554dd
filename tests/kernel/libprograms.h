/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The programs' own code under BPF_PROG_TEST_RUN (vectors.bpf.c), loaded and given what the agent gives them
 * before it attaches: one service, one ruleset, one epoch. What fails ends the test.
 */
#ifndef TALLY_TESTS_LIBPROGRAMS_H
#define TALLY_TESTS_LIBPROGRAMS_H

#include <stdint.h>

#include <bpf/libbpf.h>

#include "tally/ledger.h"
#include "tally/rules.h"
#include "tests/kernel/vectors.h"

#define PROGRAMS_ROWS 4096

struct vectors_bpf;

#define PROGRAMS_PLACES 64 /* connections with a greater number have none */

struct programs {
	struct vectors_bpf *skel;
	int rows, spill, totals, cpus;
	struct tally_row_place *places; /* mapped */
};

typedef void programs_visit(const struct tally_row_key *key, const struct tally_row *row,
			    void *ctx);

void __attribute__((noreturn)) programs_die(const char *what);

/* The pools of candidates and pieces can be mapped. */
void programs_load(struct programs *ret_programs);
void programs_unload(struct programs *programs);

/* The first element of an array. */
void programs_put(const struct bpf_map *map, const void *value);
/* One segment with these octets through one program. Any thread may. */
void programs_run(const struct bpf_program *program, const struct vectors_segment *told,
		  const void *data, uint32_t n);
/* Each row of the connections, wherever it stands, late octets added. */
void programs_rows(const struct programs *programs, programs_visit *visit, void *ctx);
void programs_clear_rows(const struct programs *programs);
/* Over all levels and processors. */
void programs_totals(const struct programs *programs, struct tally_totals *ret_sum);
/* A key whose text the agent has resolved. Returns its hash. */
uint64_t programs_know(const struct programs *programs, const struct tally_rules *rules,
		       const char *text);

#endif
