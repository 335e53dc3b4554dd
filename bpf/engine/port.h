/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The same source as BPF program and as native code. Loops over data go through tally_loop, whose
 * body must keep its state behind the pointers of its context: on Linux 6.1 the verifier looks at
 * the body of bpf_loop only once, so a context whose own fields change is silently miscompiled.
 */
#ifndef TALLY_ENGINE_PORT_H
#define TALLY_ENGINE_PORT_H

#include "tally/types.h"

#ifdef __bpf__

#include <bpf/bpf_helpers.h>

/*
 * Verified by itself, once; pointers to structs arrive unbounded by the caller's knowledge. Verified anew for
 * each way to a call, the programs are too large (tests/e2e/test_privileges.py defines it so).
 */
#ifndef TALLY_GLOBAL
#define TALLY_GLOBAL __attribute__((noinline))
#endif
#define tally_loop(n, body, ctx) bpf_loop(n, body, ctx, 0)
/* Keeps the compiler from removing a bound that it can prove and the verifier cannot. */
#define tally_opaque(x) asm volatile("" : "+r"(x))
/* A word at any address. BPF loads need no alignment where the kernel has efficient unaligned
 * access (x86-64, arm64); told so, the compiler would load octet by octet. */
typedef __u64 __attribute__((may_alias)) tally_unaligned;

#else

typedef __u64 __attribute__((aligned(1), may_alias)) tally_unaligned;

#define TALLY_GLOBAL static __attribute__((unused, noinline))
#define tally_opaque(x) ((void)(x))

static inline long tally_loop(__u32 n, long (*body)(__u32, void *), void *ctx)
{
	for (__u32 i = 0; i < n; i++)
		if (body(i, ctx))
			return i + 1;
	return n;
}

#endif

#define TALLY_INLINE static inline __attribute__((always_inline))

/* Do all processors see stores in the order in which one makes them (x86: SDM 3A 8.2.2)? */
#if defined(__TARGET_ARCH_x86) || (!defined(__bpf__) && defined(__x86_64__))
#define TALLY_STORES_IN_ORDER 1
#else
#define TALLY_STORES_IN_ORDER 0
#endif

/*
 * A word that says that all stores before it are done: who reads it may read them. Where stores keep their
 * order a store does; elsewhere the exchange is the only ordered one that BPF has on Linux 6.1.
 */
TALLY_INLINE void tally_publish(__u32 *at, __u32 value)
{
#if TALLY_STORES_IN_ORDER
	asm volatile("" ::: "memory");
	*(volatile __u32 *)at = value;
#else
	__sync_lock_test_and_set(at, value);
#endif
}

/* That word, for who reads what was stored before it. */
TALLY_INLINE __u32 tally_published(__u32 *at)
{
#if TALLY_STORES_IN_ORDER
	__u32 value = *(volatile __u32 *)at;

	asm volatile("" ::: "memory");
	return value;
#else
	return __sync_fetch_and_add(at, 0);
#endif
}

#endif
