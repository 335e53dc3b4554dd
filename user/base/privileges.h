/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this process may do, given up step by step and never taken back:
 *
 *	hide()		at the start: no core dump, nobody but root reads its memory
 *	keep(mask)	before the first thread: these capabilities and no others, no new ones by exec
 *	confine()	when all is set up: the system calls of privileges_calls.h, in every thread
 *
 * A call that is not on the list fails with EPERM, and the kernel's audit log names it; it does not
 * end the agent, which would be a way to stop the books from being closed. Programs cannot be started,
 * new BPF programs not loaded, memory not be made executable.
 */
#ifndef TALLY_BASE_PRIVILEGES_H
#define TALLY_BASE_PRIVILEGES_H

#include <stdint.h>

#include "base/util.h"

/* A set of capabilities: bits as in linux/capability.h. */
#define TALLY_CAPABILITY(bit) (1ULL << (bit))

TALLY_MUST int tally_privileges_hide(void);

/* Of those we have, keep these. */
TALLY_MUST int tally_privileges_keep(uint64_t mask);
/* Those we have. */
uint64_t tally_privileges_have(void);
/* "CAP_BPF,CAP_NET_ADMIN"; a cut text when it does not fit. */
void tally_privileges_text(uint64_t mask, char *out, size_t size);

/* -ENOSYS: this kernel has no seccomp filters. */
TALLY_MUST int tally_privileges_confine(void);

#endif
