/* SPDX-License-Identifier: Apache-2.0 */
#include "collect/clock.h"

#include <sys/mman.h>

#include "tally/ledger.h"

#define HOUR_NS (3600ULL * TALLY_NS_PER_S)

struct tally_clock_map {
	volatile struct tally_clock *shared;
	size_t size;
};

int tally_clock_open(const struct tally_load *load, struct tally_clock_map **ret_clock)
{
	_cleanup_free_ struct tally_clock_map *clock = calloc(1, sizeof(*clock));
	void *mapped = NULL;
	int err;

	if (!clock)
		return -ENOMEM;
	clock->size = sysconf(_SC_PAGESIZE);
	err = tally_load_map(load->maps[TALLY_MAP_CLOCK], clock->size, &mapped);
	if (err)
		return err;
	clock->shared = mapped;
	*ret_clock = TAKE_PTR(clock);
	return 0;
}

void tally_clock_close(struct tally_clock_map *clock)
{
	if (!clock)
		return;
	(void)munmap((void *)clock->shared, clock->size); /* cannot fail on what mmap gave */
	free(clock);
}

uint64_t tally_clock_now_ns(const struct tally_clock_map *clock)
{
	return tally_util_mono_ns() + clock->shared->offset_ns;
}

int64_t tally_clock_drift_ns(const struct tally_clock_map *clock)
{
	return (int64_t)(tally_util_real_ns() - tally_clock_now_ns(clock));
}

void tally_clock_sync(struct tally_clock_map *clock)
{
	uint64_t mono = tally_util_mono_ns();
	uint64_t utc = tally_util_real_ns();
	volatile struct tally_clock *shared = clock->shared;

	/* A begin in the far future is no hour at all: programs divide meanwhile. */
	__atomic_store_n(&shared->hour_start_ns, UINT64_MAX / 2, __ATOMIC_SEQ_CST);
	__atomic_store_n(&shared->offset_ns, utc - mono, __ATOMIC_SEQ_CST);
	__atomic_store_n(&shared->hour, (uint32_t)(utc / HOUR_NS), __ATOMIC_SEQ_CST);
	__atomic_store_n(&shared->hour_start_ns, mono - utc % HOUR_NS, __ATOMIC_SEQ_CST);
}

/* As short as a window can be, and on from where the clock is now: what it told before is not known here. */
static void close_ahead(uint64_t start_ns, uint64_t now_ns, struct tally_clock_close *ret_close)
{
	*ret_close = (struct tally_clock_close){
		.end_ns = start_ns - start_ns % TALLY_NS_PER_S + TALLY_NS_PER_S,
		.next_ns = now_ns - now_ns % TALLY_NS_PER_S,
		.cause = TALLY_CAUSE_CLOCK,
	};
}

bool tally_clock_due(uint64_t start_ns, uint64_t now_ns, uint64_t window_ns,
		     struct tally_clock_close *ret_close)
{
	uint64_t end = now_ns - now_ns % window_ns; /* the last boundary that has passed */

	if (start_ns > now_ns + TALLY_CLOCK_AHEAD_NS) {
		close_ahead(start_ns, now_ns, ret_close);
		return true;
	}
	if (end <= start_ns)
		return false;
	*ret_close = (struct tally_clock_close){ end, end, TALLY_CAUSE_INTERVAL };
	return true;
}
