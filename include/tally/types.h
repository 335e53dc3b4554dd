/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause OR Apache-2.0 */
/*
 * Fixed-width integers for code that compiles for BPF and natively alike. In BPF programs the
 * types come from bpf/vmlinux.h, in user space from <linux/types.h>.
 */
#ifndef TALLY_TYPES_H
#define TALLY_TYPES_H

#ifdef __bpf__
#include "vmlinux.h"
#else
#include <linux/types.h>
#endif

#ifndef TALLY_ASSERT
#define TALLY_ASSERT(cond, text) _Static_assert(cond, text)
#endif

#endif
