/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernel time as UTC. Programs book each exchange under the hour in which it ended: their clock plus
 * the offset kept here. They read three words without a lock, so a change makes the cached hour
 * unusable first, and usable again last.
 */
#ifndef TALLY_COLLECT_CLOCK_H
#define TALLY_COLLECT_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "account/frozen.h"
#include "base/util.h"
#include "collect/load.h"

#define TALLY_CLOCK_STEP_NS TALLY_NS_PER_S /* a step closes the window; less is slewing */
/* Windows closed at once, one after the other, run ahead of the clock by a second each. Further ahead, the
 * clock went back, and the close that belonged to it failed, or its agent died before it. */
#define TALLY_CLOCK_AHEAD_NS (10 * TALLY_NS_PER_S)

struct tally_clock_map;

TALLY_MUST int tally_clock_open(const struct tally_load *load, struct tally_clock_map **ret_clock);
void tally_clock_close(struct tally_clock_map *clock);

/* UTC as the programs see it. */
uint64_t tally_clock_now_ns(const struct tally_clock_map *clock);

/* How far the system's clock is ahead of the programs' UTC. */
int64_t tally_clock_drift_ns(const struct tally_clock_map *clock);

/* Take the system's clock over, and refresh the cached hour. */
void tally_clock_sync(struct tally_clock_map *clock);

/* How a window ends, and where the next one begins. */
struct tally_clock_close {
	uint64_t end_ns, next_ns;
	enum tally_close_cause cause;
};

/* Is the window that began at start_ns to be closed now? All times are UTC. */
bool tally_clock_due(uint64_t start_ns, uint64_t now_ns, uint64_t window_ns,
		     struct tally_clock_close *ret_close);

#endif
