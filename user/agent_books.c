/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>

#include "agent_parts.h"

/* Windows are whole seconds and never empty, whatever the clock did. */
static void straighten(struct tally_frozen *frozen)
{
	frozen->start_ns -= frozen->start_ns % TALLY_NS_PER_S;
	frozen->end_ns -= frozen->end_ns % TALLY_NS_PER_S;
	if (frozen->end_ns <= frozen->start_ns)
		frozen->end_ns = frozen->start_ns + TALLY_NS_PER_S;
}

static int seal(struct tally_agent *agent, uint64_t number)
{
	struct tally_resolver resolver;
	struct tally_frozen frozen;
	uint64_t began = tally_util_mono_ns(), drained;
	int err = tally_ledger_drain(agent->ledger, number, &frozen);

	if (err)
		return err;
	drained = tally_util_mono_ns();
	straighten(&frozen);
	tally_agent_rules_resolver(agent, &resolver);
	err = tally_ship_seal(agent->ship, &frozen, &resolver);
	agent->counters.drain_ns += drained - began;
	agent->counters.seal_ns += tally_util_mono_ns() - drained;
	if (!err) {
		tally_log_debug("sealed", "epoch=%" PRIu64 " rows=%zu seconds=%" PRIu64, number,
				frozen.n_rows,
				(uint64_t)((frozen.end_ns - frozen.start_ns) / TALLY_NS_PER_S));
		tally_agent_usage_sealed(agent, &frozen);
	}
	tally_ledger_frozen_done(&frozen);
	return err;
}

static int settle_one(struct tally_agent *agent, uint64_t number)
{
	uint8_t id[TALLY_LEDGER_ID];
	int err = 0;

	tally_ledger_id(agent->ledger, id);
	if (!tally_ship_has(agent->ship, id, number))
		err = seal(agent, number);
	return err ? err : tally_ledger_release(agent->ledger, number);
}

int tally_agent_books_settle(struct tally_agent *agent)
{
	uint64_t number;
	int oldest, err;

	err = tally_keys_poll(agent->keys);
	while (!err) {
		oldest = tally_ledger_oldest(agent->ledger, &number);
		if (oldest == -ENOENT) { /* all are sealed: of a step that failed it says nothing */
			tally_ship_released(agent->ship);
			return 0;
		}
		err = oldest ? oldest : settle_one(agent, number);
	}
	agent->counters.seal_errors++;
	tally_log_error("not_sealed", "error=%s frozen=%u", strerror(-err),
			tally_ledger_frozen_count(agent->ledger));
	return err;
}

static int swap(struct tally_agent *agent, uint64_t end_ns, uint64_t next_ns,
		enum tally_close_cause cause)
{
	uint64_t began = tally_util_mono_ns();
	int err = tally_ledger_swap(agent->ledger, end_ns, next_ns, cause);
	uint64_t took = tally_util_mono_ns() - began;

	if (err) {
		agent->counters.swap_errors++;
		tally_log_error("window_not_closed", "error=%s", strerror(-err));
		return err;
	}
	agent->counters.swap_ns_last = took;
	agent->counters.swap_ns_max = TALLY_MAX(agent->counters.swap_ns_max, took);
	agent->recovering = false;
	return 0;
}

void tally_agent_books_open(struct tally_agent *agent)
{
	uint8_t id[TALLY_LEDGER_ID];
	int err;

	if (agent->opened)
		return;
	tally_ledger_id(agent->ledger, id);
	err = tally_ship_opened(agent->ship, id, tally_ledger_number(agent->ledger));
	if (err)
		tally_log_warning("not_opened", "error=%s", strerror(-err));
	agent->opened = !err;
}

/* A window of an agent before us, closed in order: that it is complete says more than when it began. */
static enum tally_close_cause cause_of(const struct tally_agent *agent,
				       enum tally_close_cause cause)
{
	return agent->recovering && cause != TALLY_CAUSE_SHUTDOWN ? TALLY_CAUSE_RECOVERED : cause;
}

static bool is_catalogued(void *ctx, const uint8_t sha256[TALLY_CATALOG_SHA])
{
	struct tally_agent *agent = ctx;

	return tally_catalog_has(agent->catalog, sha256);
}

int tally_agent_books_close(struct tally_agent *agent, uint64_t end_ns, uint64_t next_ns,
			    enum tally_close_cause cause)
{
	const struct tally_keys_catalog catalog = { is_catalogued, agent };
	int err = tally_agent_books_settle(agent); /* G2 */

	if (!err)
		err = tally_keys_drop_guesses(agent->keys, tally_ledger_number(agent->ledger),
					      &catalog);
	if (!err)
		err = swap(agent, end_ns, next_ns, cause_of(agent, cause));
	if (!err)
		err = tally_agent_books_settle(agent);
	if (!err)
		err = tally_keys_trim(agent->keys, tally_ledger_number(agent->ledger), &catalog);
	return err;
}

/* The end of the second that runs, and later than the window's begin. */
static uint64_t next_second(const struct tally_agent *agent, uint64_t now_ns)
{
	uint64_t end = now_ns - now_ns % TALLY_NS_PER_S + TALLY_NS_PER_S;

	return TALLY_MAX(end, tally_ledger_start_ns(agent->ledger) + TALLY_NS_PER_S);
}

int tally_agent_books_close_now(struct tally_agent *agent, enum tally_close_cause cause)
{
	uint64_t end = next_second(agent, tally_clock_now_ns(agent->clock));

	return tally_agent_books_close(agent, end, end, cause);
}

int tally_agent_books_clock(struct tally_agent *agent)
{
	int64_t drift = tally_clock_drift_ns(agent->clock);
	uint64_t end = next_second(agent, tally_clock_now_ns(agent->clock));
	uint64_t real = tally_util_real_ns();

	if (drift < (int64_t)TALLY_CLOCK_STEP_NS && drift > -(int64_t)TALLY_CLOCK_STEP_NS) {
		tally_clock_sync(agent->clock);
		return 0;
	}
	tally_log_notice("clock_step", "seconds=%" PRId64, drift / (int64_t)TALLY_NS_PER_S);
	/* The clock first: what is booked meanwhile belongs to the hours that are true now. */
	tally_clock_sync(agent->clock);
	return tally_agent_books_close(agent, end, real - real % TALLY_NS_PER_S, TALLY_CAUSE_CLOCK);
}
