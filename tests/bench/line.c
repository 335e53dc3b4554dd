// SPDX-License-Identifier: Apache-2.0
/*
 * line: how long a cache line that one processor has written takes to another one, in nanoseconds, as JSON.
 * Two threads, on the first two processors, take turns in writing it. On a virtual machine it depends on where
 * the host runs its processors, and changes within minutes.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "tests/bench/libbench.h"

#define TURNS 200000
#define ROUNDS 5

static _Alignas(128) atomic_int turn;

static void run_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		bench_die("a second processor");
}

static void take(int own)
{
	while (atomic_load_explicit(&turn, memory_order_acquire) != own)
		;
	atomic_store_explicit(&turn, own + 1, memory_order_release);
}

static void *other(void *ctx)
{
	(void)ctx;
	run_on(1);
	for (int i = 0; i < TURNS; i++)
		take(2 * i + 1);
	return NULL;
}

static double round_ns(void)
{
	uint64_t start;
	pthread_t thread;

	turn = 1;
	if (pthread_create(&thread, NULL, other, NULL))
		bench_die("thread");
	while (atomic_load(&turn) == 1) /* it runs */
		;
	start = bench_now_ns();
	for (int i = 1; i < TURNS; i++)
		take(2 * i);
	pthread_join(thread, NULL);
	return (double)(bench_now_ns() - start) / (2.0 * TURNS);
}

int main(void)
{
	double ns[ROUNDS];

	if (sysconf(_SC_NPROCESSORS_ONLN) < 2) {
		puts("{\"one_way_ns\": null}");
		return 0;
	}
	run_on(0);
	for (int i = 0; i < ROUNDS; i++)
		ns[i] = round_ns();
	printf("{\"one_way_ns\": %.0f}\n", bench_quantile(ns, ROUNDS, 0.5));
	return 0;
}
