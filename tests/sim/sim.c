/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Seeded histories of the freeze-seal-ship core: traffic, windows, crashes between any two file
 * operations, power cuts, failing and small disks, doubtful clusters, clock steps, damaged files. After each
 * history everything heals, the spool drains, and the books must balance:
 *
 *	what consumers hold (deduplicated) + quarantine = what the kernel counted - power cuts
 *
 *	sim [--seed N] [--histories N] [--every N] [--verbose]		each N-th seed
 *	sim --outage HOURS	a cluster down so long, 10,000 keys with 6 rows each
 *
 * Exit 1 and the seed on the first broken invariant.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "tests/sim/world.h"

#define SMALL_DISK (20 * 4096ULL) /* some windows fill it */
#define START_S 1788263000ULL	  /* some minutes before a full hour */

struct sim_epoch {
	__u64 number, start_s, end_s;
	enum tally_close_cause cause;
	struct sim_sums sums;
	__u64 enter, leave;
	bool tried, sealed; /* by the agent */
};

/* Survives a kill, not a power cut. */
struct sim_kernel {
	__u64 ledger;
	struct sim_epoch live;
	struct sim_epoch pins[SIM_PINS];
	size_t n_pins;
	__u64 held;
};

enum mode { PLAIN, DAMAGE, ROLLBACK };

struct sim {
	struct sim_dice dice;
	enum mode mode;
	__u64 utc_s, mono_ms;
	struct sim_kernel kernel;
	struct sim_disk *disk;
	struct tally_fs fs;
	struct tally_time time;
	struct sim_cluster *clusters[SIM_SINKS];
	bool required[SIM_SINKS];
	size_t n_sinks;
	struct tally_ship *ship;
	struct sim_sums truth;
	struct sim_sums lost, perhaps; /* in power cuts; perhaps: the seal was under way */
	struct sim_disk *backup;
	bool damaged;
	__u64 crashes, cuts, epochs;
	const char *fault;
};

static bool verbose;

static void fault(struct sim *sim, const char *text)
{
	if (!sim->fault)
		sim->fault = text;
}

static void add_sums(struct sim_sums *into, const struct sim_sums *from)
{
	for (int i = 0; i < SIM_KEYS; i++) {
		into->requests[i] += from->requests[i];
		into->bytes[i] += from->bytes[i];
	}
}

static __u64 utc_ns(void *ctx)
{
	return ((struct sim *)ctx)->utc_s * TALLY_NS_PER_S;
}

static __u64 mono_ns(void *ctx)
{
	return ((struct sim *)ctx)->mono_ms * 1000000;
}

static int owner(void *ctx, __u64 key, __u64 time_s, struct tally_owner *ret_owner)
{
	static char text[16];

	(void)ctx;
	(void)time_s;
	(void)snprintf(text, sizeof(text), "key_%d", (int)key - 1);
	*ret_owner =
		(struct tally_owner){ "cus", text, TALLY_KEYREF_CATALOG, TALLY_MODE_LIVE, true };
	return 0;
}

static int terms(void *ctx, const struct tally_row_key *key, struct tally_terms *ret_terms)
{
	static const struct tally_unit unit = { "requests", TALLY_UNIT_SCALE };

	(void)ctx;
	(void)key;
	*ret_terms =
		(struct tally_terms){ "api", "/", "GET", "sha256:0", false, true, true, &unit, 1 };
	return 0;
}

static const char *service(void *ctx, __u16 index)
{
	(void)ctx;
	(void)index;
	return "api";
}

static const struct tally_peer_cut prefixes = { 24, 48 };

/* Records of connections are switched on and off again, some epochs each. */
static struct tally_resolver resolver_of(const struct sim_epoch *epoch)
{
	bool on = epoch->number / 5 % 2;

	return (struct tally_resolver){ NULL, owner, terms, service, NULL, on ? &prefixes : NULL };
}

/* --- kernel --- */

static void boot(struct sim *sim)
{
	sim->kernel = (struct sim_kernel){ .ledger = sim_roll(&sim->dice, ~0ULL) };
	sim->kernel.live = (struct sim_epoch){ .number = 1, .start_s = sim->utc_s };
}

static void traffic(struct sim *sim)
{
	struct sim_epoch *live = &sim->kernel.live;
	__u64 n = 1 + sim_roll(&sim->dice, 9),
	      booked = sim_roll(&sim->dice, sim->kernel.held + n + 1);
	int key = (int)sim_roll(&sim->dice, SIM_KEYS);
	struct sim_sums one = { 0 };

	one.requests[key] = booked;
	one.bytes[key] = booked * 100 + sim_roll(&sim->dice, 50);
	live->enter += n;
	live->leave += booked;
	sim->kernel.held += n - booked;
	add_sums(&live->sums, &one);
	add_sums(&sim->truth, &one);
}

static void power_cut(struct sim *sim)
{
	add_sums(&sim->lost, &sim->kernel.live.sums);
	for (size_t i = 0; i < sim->kernel.n_pins; i++) {
		const struct sim_epoch *pin = &sim->kernel.pins[i];

		if (!pin->sealed)
			add_sums(pin->tried ? &sim->perhaps : &sim->lost, &pin->sums);
	}
	boot(sim);
}

static void freeze(struct sim *sim, enum tally_close_cause cause)
{
	struct sim_kernel *kernel = &sim->kernel;

	if (kernel->n_pins == SIM_PINS)
		return;
	kernel->live.end_s = TALLY_MAX(sim->utc_s, kernel->live.start_s + 1);
	kernel->live.cause = cause;
	kernel->pins[kernel->n_pins++] = kernel->live;
	kernel->live = (struct sim_epoch){ .number = kernel->live.number + 1,
					   .start_s = TALLY_MIN(kernel->live.end_s, sim->utc_s) };
	sim->epochs++;
}

/* --- the agent --- */

/* Each key's usage is of two connections; in some epochs the second has no row of its own. */
static void split_row(const struct sim_epoch *epoch, __u64 i, struct tally_frozen_row rows[2])
{
	struct tally_row *first = &rows[0].row, *second = &rows[1].row;

	rows[1] = rows[0];
	rows[0].key.conn = 2 * i + 1;
	first->requests /= 3;
	first->response_bytes /= 3;
	memcpy(first->peer, (__u8[16]){ 0x20, 1, 0xd, 0xb8, 1, 2, 3, 4 }, 16);
	rows[1].key.conn = 2 * i + 2;
	second->requests -= first->requests;
	second->response_bytes -= first->response_bytes;
	if (epoch->number % 3)
		memcpy(second->peer, (__u8[16]){ [10] = 0xff, [11] = 0xff, 192, 0, 2, 1 }, 16);
}

static void frozen_of(const struct sim *sim, const struct sim_epoch *epoch,
		      struct tally_frozen_row rows[2 * SIM_KEYS], struct tally_totals *totals,
		      struct tally_frozen *ret_frozen)
{
	size_t n = 0;

	*totals = (struct tally_totals){ .seen = epoch->enter,
					 .held_enter = epoch->enter,
					 .held_leave = epoch->leave,
					 .attributed = epoch->leave };
	for (__u64 i = 0; i < SIM_KEYS; i++) {
		if (!epoch->sums.bytes[i])
			continue;
		rows[n] = (struct tally_frozen_row){
			.key = { .key = i + 1,
				 .ruleset = 1,
				 .status = 200,
				 .hour = (__u32)((i & 1 ? epoch->end_s : epoch->start_s) / 3600) },
			.row = { .requests = epoch->sums.requests[i],
				 .response_bytes = epoch->sums.bytes[i] },
		};
		split_row(epoch, i, &rows[n]);
		n += 2;
	}
	*ret_frozen = (struct tally_frozen){
		.number = epoch->number,
		.cause = epoch->cause,
		.rows = rows,
		.n_rows = n,
		.start_ns = epoch->start_s * TALLY_NS_PER_S,
		.end_ns = epoch->end_s * TALLY_NS_PER_S,
		.totals = totals,
		.n_services = 1,
	};
	memcpy(ret_frozen->ledger, &sim->kernel.ledger, sizeof(sim->kernel.ledger));
}

static void unpin(struct sim_kernel *kernel)
{
	kernel->n_pins--;
	memmove(&kernel->pins[0], &kernel->pins[1], kernel->n_pins * sizeof(kernel->pins[0]));
}

/* Seals what is pinned, in order; a crash between sealing and unpinning included. */
static void seal_pins(struct sim *sim)
{
	struct sim_kernel *kernel = &sim->kernel;

	while (kernel->n_pins) {
		struct tally_frozen_row rows[2 * SIM_KEYS];
		struct tally_totals totals;
		struct tally_resolver resolver = resolver_of(&kernel->pins[0]);
		struct tally_frozen frozen;

		frozen_of(sim, &kernel->pins[0], rows, &totals, &frozen);
		kernel->pins[0].tried = true;
		if (!tally_ship_has(sim->ship, frozen.ledger, frozen.number) &&
		    tally_ship_seal(sim->ship, &frozen, &resolver) < 0)
			return;
		kernel->pins[0].sealed = true;
		if (sim_chance(&sim->dice, 5))
			sim_disk_fuse(sim->disk, 0);
		if (sim_disk_dead(sim->disk) || sim_chance(&sim->dice, 3))
			return;
		unpin(kernel);
	}
	tally_ship_released(sim->ship);
}

static void stop(struct sim *sim)
{
	tally_ship_free(sim->ship);
	sim->ship = NULL;
	sim_disk_revive(sim->disk);
}

static int start(struct sim *sim)
{
	const struct tally_ship_config config = {
		.state_dir = "",
		.machine_id = "m",
		.boot_id = "b",
		.host = "h",
		.version = "v",
		.backoff_max_ms = 2000,
		.fs = &sim->fs,
		.time = &sim->time,
	};
	char name[24];
	int r;

	sim_disk_fs(sim->disk, &sim->fs);
	r = tally_ship_new(&config, &sim->ship);
	for (size_t i = 0; r == 0 && i < sim->n_sinks; i++) {
		(void)snprintf(name, sizeof(name), "s%zu", i);
		r = tally_ship_add(sim->ship,
				   sim_cluster_sink(sim->clusters[i], name, sim->required[i]));
	}
	if (r == 0)
		seal_pins(sim);
	return r;
}

static void step(struct sim *sim)
{
	int wait_ms = 0;

	(void)tally_ship_step(sim->ship, &wait_ms);
	sim->mono_ms += (__u64)TALLY_MAX(wait_ms, 1);
}

/* A new life; it may die while it recovers. */
static void restart(struct sim *sim, bool cut)
{
	sim->crashes++;
	stop(sim);
	if (cut) {
		sim->cuts++;
		sim_disk_power_cut(sim->disk);
		power_cut(sim);
	}
	for (int tries = 0; tries < 100; tries++) {
		if (sim_chance(&sim->dice, 30))
			sim_disk_fuse(sim->disk, (int)sim_roll(&sim->dice, 40));
		if (start(sim) == 0 && !sim_disk_dead(sim->disk))
			return;
		stop(sim);
		if (cut && sim_chance(&sim->dice, 30))
			sim_disk_power_cut(sim->disk);
		if (tries > 5)
			sim_disk_errors(sim->disk, 0);
	}
	fault(sim, "the agent does not start any more");
	sim_disk_errors(sim->disk, 0);
	(void)start(sim);
}

/* --- what happens --- */

static void damage(struct sim *sim)
{
	static const char *const dirs[] = { "sealed", "batches", "" };
	const char *dir = dirs[sim_roll(&sim->dice, 3)];

	stop(sim);
	if (!*dir && sim_chance(&sim->dice, 50))
		sim->damaged |= sim_disk_remove(sim->disk, "",
						sim_chance(&sim->dice, 50) ? "state.0" : "state.1");
	else
		sim->damaged |= sim_disk_flip(sim->disk, dir);
	restart(sim, false);
}

static void roll_back(struct sim *sim)
{
	if (!sim->backup) {
		sim->backup = sim_disk_copy(sim->disk);
		return;
	}
	stop(sim);
	sim_disk_free(sim->disk);
	sim->disk = TAKE_PTR(sim->backup);
	sim->damaged = true;
	restart(sim, false);
}

static void window(struct sim *sim)
{
	static const enum tally_close_cause causes[] = { TALLY_CAUSE_INTERVAL, TALLY_CAUSE_INTERVAL,
							 TALLY_CAUSE_CLOCK, TALLY_CAUSE_RELOAD };

	sim->utc_s += 1 + sim_roll(&sim->dice, sim_chance(&sim->dice, 3) ? 5000 : 20);
	if (!sim->kernel.n_pins)
		freeze(sim, causes[sim_roll(&sim->dice, 4)]);
	seal_pins(sim);
}

static void clock_step(struct sim *sim)
{
	__u64 by = 1 + sim_roll(&sim->dice, 4000);

	sim->utc_s += sim_chance(&sim->dice, 50) ? by : 0 - TALLY_MIN(by, sim->utc_s / 2);
}

static void weather(struct sim *sim)
{
	struct sim_cluster *cluster = sim->clusters[sim_roll(&sim->dice, sim->n_sinks)];

	sim_cluster_health(cluster, sim_chance(&sim->dice, 70), sim_roll(&sim->dice, 60));
	sim_disk_errors(sim->disk, sim_chance(&sim->dice, 70) ? 0 : sim_roll(&sim->dice, 60));
}

static void event(struct sim *sim)
{
	__u64 what = sim_roll(&sim->dice, 100);

	if (what < 30)
		traffic(sim);
	else if (what < 55)
		window(sim);
	else if (what < 85)
		step(sim);
	else if (what < 90)
		weather(sim);
	else if (what < 92 &&
		 sim->mode != ROLLBACK) /* there, of two boots the earlier has the lesser time */
		clock_step(sim);
	else if (what < 95)
		sim_disk_fuse(sim->disk, (int)sim_roll(&sim->dice, 40));
	else if (what < 97)
		restart(sim, false);
	else if (what < 98)
		restart(sim, true);
	else if (sim->mode == DAMAGE)
		damage(sim);
	else if (sim->mode == ROLLBACK)
		roll_back(sim);
	if (sim_disk_dead(sim->disk))
		restart(sim, sim_chance(&sim->dice, 30));
}

/* --- the oracle --- */

static void heal(struct sim *sim)
{
	for (size_t i = 0; i < sim->n_sinks; i++)
		sim_cluster_health(sim->clusters[i], true, 0);
	sim_disk_errors(sim->disk, 0);
	sim_disk_fuse(sim->disk, -1);
	sim->utc_s += 10;
	for (int i = 0; i < 20 && sim->kernel.n_pins; i++)
		seal_pins(sim); /* or the disk is full */
	sim_disk_fuse(sim->disk, -1);
	if (sim_disk_dead(sim->disk))
		restart(sim, false);
	freeze(sim, TALLY_CAUSE_INTERVAL);
	for (int i = 0; i < 3000 && sim->kernel.n_pins; i++) {
		seal_pins(sim);
		if (sim_disk_dead(sim->disk))
			restart(sim, false);
		sim_disk_fuse(sim->disk, -1);
		sim_disk_errors(sim->disk, 0);
		if (sim->kernel.n_pins) /* the disk is full */
			step(sim);
	}
	if (sim->kernel.n_pins)
		fault(sim, "it does not seal");
	for (int i = 0; i < 3000 && !tally_ship_idle(sim->ship); i++)
		step(sim);
	for (int i = 0; i < 100; i++) /* trimming, too, is tried again after a while */
		step(sim);
	if (!tally_ship_idle(sim->ship))
		fault(sim, "it does not drain");
}

/* A sink without transactions cannot tell a state that was put back how far it got. */
static void check_sums(struct sim *sim, const struct sim_cluster *cluster)
{
	struct sim_sums sums, want = sim->truth;
	bool less = false, more = false;
	__u64 dups;

	sim_cluster_sums(cluster, &sums, &dups);
	for (int i = 0; i < SIM_KEYS; i++) {
		want.requests[i] -= sim->lost.requests[i];
		want.bytes[i] -= sim->lost.bytes[i];
		less |= sums.requests[i] + sim->perhaps.requests[i] < want.requests[i] ||
			sums.bytes[i] + sim->perhaps.bytes[i] < want.bytes[i];
		if (verbose)
			printf("key %d: held %llu of %llu, perhaps lost %llu\n", i,
			       (unsigned long long)sums.requests[i],
			       (unsigned long long)want.requests[i],
			       (unsigned long long)sim->perhaps.requests[i]);
		more |= sums.requests[i] > want.requests[i] || sums.bytes[i] > want.bytes[i];
	}
	if (more && (sim->mode != ROLLBACK || cluster == sim->clusters[0]))
		fault(sim, "counted twice");
	if (less && !sim->damaged)
		fault(sim, "lost");
}

static void check(struct sim *sim)
{
	struct tally_ship_status status;
	bool any_required = false;
	__u64 dups;

	tally_ship_status(sim->ship, &status);
	if (status.imbalance)
		fault(sim, "kernel counters do not balance");
	if (status.quarantined_files && !sim->damaged)
		fault(sim, "a good file is in quarantine");
	if (!sim->damaged && status.held != (__s64)sim->kernel.held)
		fault(sim, "held is wrong");
	for (size_t i = 0; i < sim->n_sinks; i++)
		any_required |= sim->required[i];
	for (size_t i = 0; i < sim->n_sinks; i++) {
		struct sim_cluster *cluster = sim->clusters[i];
		struct sim_sums sums;

		/* What was delivered without a checkpoint cannot be known after a roll-back. */
		if (sim_cluster_fault(cluster) && (i == 0 || sim->mode != ROLLBACK))
			fault(sim, sim_cluster_fault(cluster));
		sim_cluster_sums(cluster, &sums, &dups);
		if (dups && i == 0 && sim->mode != ROLLBACK)
			fault(sim, "a record twice in a transactional topic");
		if (any_required && !sim->required[i])
			continue;
		check_sums(sim, cluster);
		if (!sim->damaged && (i == 0 || sim->mode != ROLLBACK) &&
		    !sim_cluster_adds_up(cluster))
			fault(sim, "records of connections do not add up to usage");
		if (!sim->damaged && !sim_cluster_contiguous(cluster))
			fault(sim, "batches or their chain are not contiguous");
	}
	if (!sim->damaged &&
	    (sim_disk_count(sim->disk, "sealed") || sim_disk_count(sim->disk, "batches")))
		fault(sim, "files are left over");
}

static void set_up(struct sim *sim, __u64 seed)
{
	*sim = (struct sim){ .dice = { seed * 0x9e3779b97f4a7c15ULL + 1 } };
	sim->mode = seed % 10 == 9 ? DAMAGE : seed % 50 == 8 ? ROLLBACK : PLAIN;
	sim->utc_s = START_S + sim_roll(&sim->dice, 1000);
	sim->time = (struct tally_time){ sim, utc_ns, mono_ns };
	sim->disk = sim_disk_new(&sim->dice);
	sim_disk_size(sim->disk, seed % 5 == 2 ? SMALL_DISK : 0);
	sim->n_sinks = 1 + sim_roll(&sim->dice, SIM_SINKS);
	for (size_t i = 0; i < sim->n_sinks; i++) {
		sim->clusters[i] =
			sim_cluster_new(&sim->dice, i ? SIM_AT_LEAST_ONCE : SIM_EXACTLY_ONCE);
		sim->required[i] = i == 0 || sim_chance(&sim->dice, 50);
	}
	boot(sim);
}

static void tear_down(struct sim *sim)
{
	tally_ship_free(sim->ship);
	for (size_t i = 0; i < sim->n_sinks; i++)
		sim_cluster_free(sim->clusters[i]);
	sim_disk_free(sim->disk);
	sim_disk_free(sim->backup);
}

static const char *history(__u64 seed, struct sim *sim)
{
	int events;

	set_up(sim, seed);
	if (start(sim) < 0)
		return "the first start failed";
	events = 20 + (int)sim_roll(&sim->dice, 150);
	for (int i = 0; i < events && !sim->fault; i++)
		event(sim);
	if (!sim->fault)
		heal(sim);
	if (!sim->fault)
		check(sim);
	return sim->fault;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", 1, NULL, 's' },   { "histories", 1, NULL, 'n' },
		{ "every", 1, NULL, 'e' },  { "verbose", 0, NULL, 'v' },
		{ "outage", 1, NULL, 'o' }, { NULL, 0, NULL, 0 }
	};
	__u64 seed = 1, n = 1000, every = 1, crashes = 0, cuts = 0, epochs = 0;
	static struct sim sim;
	const char *text;
	int c;

	tally_log_setup((enum tally_log_level)0, TALLY_LOG_TEXT);
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 's')
			seed = strtoull(optarg, NULL, 10);
		else if (c == 'n')
			n = strtoull(optarg, NULL, 10);
		else if (c == 'e')
			every = strtoull(optarg, NULL, 10);
		else if (c == 'v')
			verbose = true;
		else if (c == 'o')
			return sim_outage((unsigned int)strtoul(optarg, NULL, 10), 10000, 6);
		else
			return 64;
	}
	if (verbose)
		tally_log_setup(TALLY_LOG_DEBUG, TALLY_LOG_TEXT);
	for (__u64 i = seed; i < seed + n * every; i += every) {
		text = history(i, &sim);
		crashes += sim.crashes;
		cuts += sim.cuts;
		epochs += sim.epochs;
		tear_down(&sim);
		if (text) {
			printf("FAIL seed %llu: %s\n", (unsigned long long)i, text);
			return 1;
		}
	}
	printf("%llu histories (seeds %llu to %llu): %llu epochs, %llu crashes, of these %llu power cuts; "
	       "no invariant broken\n",
	       (unsigned long long)n, (unsigned long long)seed,
	       (unsigned long long)(seed + (n - 1) * every), (unsigned long long)epochs,
	       (unsigned long long)crashes, (unsigned long long)cuts);
	return 0;
}
