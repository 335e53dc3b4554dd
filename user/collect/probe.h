/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this kernel and these capabilities allow. Features are tried, never derived from a version.
 *
 *	tier plaintext	CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, and the features marked so
 *	tier executable	more: CAP_SYS_PTRACE, for services matched by executable
 *	tier tls	more: uprobes
 *
 * Nothing is attached, and nothing stays loaded.
 */
#ifndef TALLY_COLLECT_PROBE_H
#define TALLY_COLLECT_PROBE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/util.h"

enum tally_tier { TALLY_TIER_NONE, TALLY_TIER_PLAINTEXT, TALLY_TIER_EXECUTABLE, TALLY_TIER_TLS };
enum tally_verdict { TALLY_PROBE_YES, TALLY_PROBE_NO, TALLY_PROBE_UNKNOWN };

struct tally_probe_item {
	const char *name;
	const char *text;	    /* one line for a person */
	enum tally_tier needed_for; /* the lowest tier that needs it; NONE: only told */
	bool is_capability;
	enum tally_verdict verdict; /* UNKNOWN: a capability is missing to find out */
	int error;		    /* -errno of the attempt */
};

#define TALLY_PROBE_ITEMS 24

struct tally_probe {
	struct tally_probe_item items[TALLY_PROBE_ITEMS];
	size_t n;
	char cgroup_mount[256]; /* "" when there is none */
	char kernel[200];
	enum tally_tier tier;
};

/* Look at everything. Loading the object takes a second on a slow machine. */
void tally_probe_run(struct tally_probe *ret_probe);

/* Add what capabilities this thread has. */
void tally_probe_capabilities(struct tally_probe *probe);

/* The first thing missing for a tier: a capability before a feature. NULL: nothing is. */
const struct tally_probe_item *tally_probe_missing(const struct tally_probe *probe,
						   enum tally_tier tier);

const char *tally_probe_tier_name(enum tally_tier tier);
const char *tally_probe_verdict_name(enum tally_verdict verdict);

/* Can pins be there, once /sys/fs/bpf is mounted? -ENOTDIR. Changes nothing. */
TALLY_MUST int tally_probe_pin_dir(const char *pin_dir);
/* A bpf filesystem at /sys/fs/bpf, mounted if need be. */
TALLY_MUST int tally_probe_bpffs(const char *pin_dir);

#endif
