/* SPDX-License-Identifier: Apache-2.0 */
/* What this process takes of the machine. What cannot be found out is 0. */
#ifndef TALLY_OBSERVE_PROCESS_H
#define TALLY_OBSERVE_PROCESS_H

#include <stdint.h>

struct tally_process {
	double cpu_seconds, start_seconds; /* the latter UTC */
	uint64_t resident_bytes, virtual_bytes, heap_bytes;
	uint64_t max_fds;
	uint32_t open_fds;
};

void tally_process_read(struct tally_process *ret_process);

#endif
