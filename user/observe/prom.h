/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text for Prometheus: families with their help and type once, then samples. Label values are
 * escaped. Errors of the stream are the caller's to see, at its end.
 */
#ifndef TALLY_OBSERVE_PROM_H
#define TALLY_OBSERVE_PROM_H

#include <stdint.h>
#include <stdio.h>

struct tally_prom_label {
	const char *name, *value;
};

#define TALLY_PROM_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* type: counter, gauge. Name without the prefix tallyd_, which all families get. */
void tally_prom_family(FILE *out, const char *name, const char *type, const char *help);
/* A sample of that family; labels end with a NULL name, or are NULL. */
void tally_prom_sample(FILE *out, const char *name, const struct tally_prom_label *labels,
		       double value);
void tally_prom_count(FILE *out, const char *name, const struct tally_prom_label *labels,
		      uint64_t value);

#endif
