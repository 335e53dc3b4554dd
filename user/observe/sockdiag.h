/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who on this host is connected to a port of this host: the kernel's socket monitoring (sock_diag(7))
 * names the cgroup of the client's socket. Sees this network namespace alone, and the moment alone.
 */
#ifndef TALLY_OBSERVE_SOCKDIAG_H
#define TALLY_OBSERVE_SOCKDIAG_H

#include <stddef.h>
#include <stdint.h>

#include "base/util.h"

#define TALLY_SOCKDIAG_MAX 16 /* cgroups told at a time */

/* Cgroups, each once, of the client ends of TCP connections from this host to its own port. */
TALLY_MUST int tally_sockdiag_clients(uint16_t port, uint64_t ret_cgroups[TALLY_SOCKDIAG_MAX],
				      size_t *ret_n);

#endif
