/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one loop of the one thread: descriptors, timers and signals over epoll, timerfd, signalfd.
 *
 * Invariants: callbacks run one after another in the thread that calls tally_loop_run(); a source
 * removed in a callback is not called again, not even for an event already fetched; a callback's
 * negative return ends the loop, which returns it. Signals are blocked while a loop takes them.
 */
#ifndef TALLY_BASE_LOOP_H
#define TALLY_BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/util.h"

struct tally_loop;
struct tally_loop_source;

/* events: EPOLLIN, ...; 0 for timers. value: the expirations of a timer, the signal's number. */
typedef int (*tally_loop_fn)(void *ctx, uint32_t events, uint64_t value);

TALLY_MUST int tally_loop_new(struct tally_loop **ret_loop);
/* Removes what sources are left. */
void tally_loop_free(struct tally_loop *loop);

/* Watch a descriptor, which stays the caller's. */
TALLY_MUST int tally_loop_add_fd(struct tally_loop *loop, int fd, uint32_t events, tally_loop_fn fn,
				 void *ctx, struct tally_loop_source **ret_source);
TALLY_MUST int tally_loop_set_events(struct tally_loop_source *source, uint32_t events);

/* A timer, unset. clock: CLOCK_MONOTONIC, or CLOCK_REALTIME, which also fires with value 0 when
 * the clock is set (so that windows stay aligned and steps are seen). */
TALLY_MUST int tally_loop_add_timer(struct tally_loop *loop, int clock, tally_loop_fn fn, void *ctx,
				    struct tally_loop_source **ret_source);
/* at_ns: absolute on the timer's clock, 0 stops it; every_ns: 0 for once. */
TALLY_MUST int tally_loop_set_timer(struct tally_loop_source *source, uint64_t at_ns,
				    uint64_t every_ns);

/* Take these signals (zero-terminated). */
TALLY_MUST int tally_loop_add_signals(struct tally_loop *loop, const int *signals, tally_loop_fn fn,
				      void *ctx, struct tally_loop_source **ret_source);

/* NULL is fine. Its descriptor is closed if the loop made it. */
void tally_loop_remove(struct tally_loop_source *source);

/* Until tally_loop_quit() or a callback's negative return. The quit value, or -errno. */
int tally_loop_run(struct tally_loop *loop);
/* One round of at most timeout_ms (-1: any time). Number of events, or -errno. */
int tally_loop_turn(struct tally_loop *loop, int timeout_ms);
void tally_loop_quit(struct tally_loop *loop, int value);

TALLY_CLEANUP(struct tally_loop *, tally_loop_freep, tally_loop_free)

#endif
