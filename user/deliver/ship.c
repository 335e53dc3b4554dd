/* SPDX-License-Identifier: Apache-2.0 */
#include "deliver/ship.h"

#include <sys/epoll.h>
#include <time.h>

#include "base/log.h"
#include "base/util.h"
#include "deliver/spool.h"

#define BACKOFF_MIN_MS 200
#define BACKOFF_MAX_MS 10000
#define BUSY_MS 20 /* between polls of a sink that has no descriptor to wake us */
#define NS_PER_MS 1000000ULL
#define SINKS_MAX 16
#define TURNS_MAX 64 /* changes of state in one step, so that the loop stays awake */

/*
 * The life of one sink as the shipper sees it:
 *
 *	CLOSED -> OPENING -> READY -> SENDING -> READY ... -> CONFIRMING -> READY
 *	   ^         |                   |                        |
 *	   +-- CLOSING <-----------------+------------------------+   failure, doubt
 */
enum link_state { CLOSED, OPENING, READY, SENDING, CONFIRMING, CLOSING };

/* What failed is tried again later, and nothing else waits for that. */
struct retry {
	__u64 at_ns, ms;
};

struct link {
	struct tally_sink *sink;
	enum link_state state;
	struct tally_checkpoint at;    /* what the sink said last */
	struct tally_checkpoint acked; /* read back */
	bool known;		       /* `at` is the sink's own word in this connection */
	struct tally_batch *batch;     /* being sent */
	struct tally_sink_event held;  /* came while the folders were in doubt */
	struct retry load;
	__u64 next_try_ns, asked_ns;
	__u32 backoff_ms;
	__u64 failures, doubts, last_ack_s;
};

struct tally_ship {
	struct tally_fs own_fs;
	const struct tally_fs *fs;
	struct tally_time time;
	char *texts[4];
	struct tally_spool spool;
	struct link links[SINKS_MAX];
	size_t n_links;
	int epoll;
	__u32 batch_wait_ms, backoff_max_ms;
	__u64 max_bytes;
	struct retry settle, build, trim, compact;
	__u64 sealed_since_ns; /* when the oldest sealed file of now came */
	__u64 records_sealed, records_acked, connections_sealed, connections_shed;
	__u64 errors, imbalance;
	__u64 holes[TALLY_HOLE_LOST + 1];
	bool sealing_fails;
};

static __u64 real_utc(void *ctx)
{
	(void)ctx;
	return tally_util_real_ns();
}

static __u64 real_mono(void *ctx)
{
	(void)ctx;
	return tally_util_mono_ns();
}

static __u64 mono_ns(const struct tally_ship *ship)
{
	return ship->time.mono_ns(ship->time.ctx);
}

static __u64 utc_s(const struct tally_ship *ship)
{
	return ship->time.utc_ns(ship->time.ctx) / TALLY_NS_PER_S;
}

static int copy_texts(struct tally_ship *ship, const struct tally_ship_config *config,
		      struct tally_spool_origin *ret_origin)
{
	const char *from[] = { config->machine_id, config->boot_id, config->host, config->version };

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(from); i++) {
		ship->texts[i] = strdup(from[i] ? from[i] : "");
		if (!ship->texts[i])
			return -ENOMEM;
	}
	*ret_origin = (struct tally_spool_origin){ ship->texts[0], ship->texts[1], ship->texts[2],
						   ship->texts[3] };
	return 0;
}

static int open_fs(struct tally_ship *ship, const struct tally_ship_config *config)
{
	static const struct tally_time real = { .utc_ns = real_utc, .mono_ns = real_mono };
	int r = 0;

	ship->time = config->time ? *config->time : real;
	ship->fs = config->fs;
	if (!ship->fs) {
		r = tally_fs_open(config->state_dir, &ship->own_fs);
		ship->fs = &ship->own_fs;
	}
	return r;
}

int tally_ship_new(const struct tally_ship_config *config, struct tally_ship **ret_ship)
{
	struct tally_ship *ship = calloc(1, sizeof(*ship));
	struct tally_spool_origin origin;
	int r;

	if (!ship)
		return -ENOMEM;
	ship->batch_wait_ms = config->batch_wait_ms;
	ship->backoff_max_ms = config->backoff_max_ms ? config->backoff_max_ms : BACKOFF_MAX_MS;
	ship->max_bytes = config->max_bytes;
	ship->epoll = epoll_create1(EPOLL_CLOEXEC);
	r = ship->epoll < 0 ? -errno : copy_texts(ship, config, &origin);
	if (r == 0)
		r = open_fs(ship, config);
	if (r == 0)
		r = tally_spool_open(&ship->spool, ship->fs, &origin);
	if (r < 0) {
		tally_ship_free(ship);
		return r;
	}
	*ret_ship = ship;
	return 0;
}

static void free_link(struct link *link)
{
	link->sink->ops->free(link->sink);
	tally_batch_free(link->batch);
}

void tally_ship_free(struct tally_ship *ship)
{
	if (!ship)
		return;
	for (size_t i = 0; i < ship->n_links; i++)
		free_link(&ship->links[i]);
	tally_spool_done(&ship->spool);
	if (ship->own_fs.free)
		ship->own_fs.free(ship->own_fs.ctx);
	tally_util_close(ship->epoll);
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(ship->texts); i++)
		free(ship->texts[i]);
	free(ship);
}

static int watch(const struct tally_ship *ship, const struct tally_sink *sink)
{
	struct epoll_event event = { .events = EPOLLIN };

	if (sink->wake_fd < 0)
		return 0;
	return epoll_ctl(ship->epoll, EPOLL_CTL_ADD, sink->wake_fd, &event) < 0 ? -errno : 0;
}

/* The descriptor may have a twin in a thread that is still leaving, which would ring on. */
static void unwatch(const struct tally_ship *ship, const struct tally_sink *sink)
{
	if (sink->wake_fd >= 0)
		(void)epoll_ctl(ship->epoll, EPOLL_CTL_DEL, sink->wake_fd, NULL);
}

/* n_links: there is none */
static size_t find_link(const struct tally_ship *ship, const char *name)
{
	size_t i = 0;

	while (i < ship->n_links && strcmp(ship->links[i].sink->name, name) != 0)
		i++;
	return i;
}

int tally_ship_add(struct tally_ship *ship, struct tally_sink *sink)
{
	const struct tally_ship_change change = { .fresh = &sink, .n_fresh = 1 };

	return tally_ship_replace(ship, &change);
}

static bool is_old(const struct tally_ship_change *change, const char *name)
{
	for (size_t i = 0; i < change->n_old; i++) {
		if (strcmp(change->old[i], name) == 0)
			return true;
	}
	return false;
}

/* Does a sink that comes have its name from one that stays, or too many of them come? */
static int check_change(const struct tally_ship *ship, const struct tally_ship_change *change)
{
	size_t stay = 0;

	for (size_t i = 0; i < ship->n_links; i++)
		stay += !is_old(change, ship->links[i].sink->name);
	if (stay + change->n_fresh > SINKS_MAX)
		return -E2BIG;
	for (size_t i = 0; i < change->n_fresh; i++) {
		const char *name = change->fresh[i]->name;

		if (find_link(ship, name) < ship->n_links && !is_old(change, name))
			return -EEXIST;
		for (size_t j = 0; j < i; j++) {
			if (strcmp(change->fresh[j]->name, name) == 0)
				return -EEXIST;
		}
	}
	return 0;
}

int tally_ship_replace(struct tally_ship *ship, const struct tally_ship_change *change)
{
	int r = check_change(ship, change);
	size_t n = 0;

	while (r == 0 && n < change->n_fresh) {
		r = watch(ship, change->fresh[n]);
		n += r == 0;
	}
	while (r < 0 && n)
		unwatch(ship, change->fresh[--n]);
	if (r < 0)
		return r;
	for (size_t i = 0; i < change->n_old; i++)
		(void)tally_ship_remove(ship, change->old[i]); /* else it was not there */
	for (size_t i = 0; i < change->n_fresh; i++)
		ship->links[ship->n_links++] = (struct link){ .sink = change->fresh[i] };
	return 0;
}

int tally_ship_remove(struct tally_ship *ship, const char *name)
{
	size_t i = find_link(ship, name);

	if (i == ship->n_links)
		return -ENOENT;
	unwatch(ship, ship->links[i].sink);
	free_link(&ship->links[i]);
	ship->n_links--;
	memmove(&ship->links[i], &ship->links[i + 1], (ship->n_links - i) * sizeof(ship->links[0]));
	return 0;
}

bool tally_ship_has(const struct tally_ship *ship, const __u8 ledger[TALLY_LEDGER_ID], __u64 number)
{
	return tally_spool_has(&ship->spool, ledger, number);
}

int tally_ship_opened(struct tally_ship *ship, const __u8 ledger[TALLY_LEDGER_ID], __u64 number)
{
	return tally_spool_opened(&ship->spool, ledger, number);
}

__u64 tally_ship_end_s(const struct tally_ship *ship)
{
	return ship->spool.state.sealed.end_s;
}

/* |what is missing in held_before + seen = attributed + unattributed + held_after| */
static __u64 imbalance_of(const struct tally_sealed *sealed)
{
	const struct tally_sealed_totals *t = &sealed->totals;
	__s64 left = sealed->held_before + (__s64)t->seen;
	__s64 right = (__s64)t->attributed + sealed->held_after;

	for (int i = 0; i < TALLY_ATTR_COUNT; i++)
		right += (__s64)t->unattributed[i];
	return left > right ? (__u64)(left - right) : (__u64)(right - left);
}

static bool fills_beyond(const struct tally_ship *ship, __u64 bytes)
{
	return ship->max_bytes && tally_spool_bytes(&ship->spool) >= bytes;
}

static int seal(struct tally_ship *ship, const struct tally_frozen *frozen,
		const struct tally_resolver *resolver)
{
	struct tally_sealed sealed;
	int r;

	r = tally_account_close(frozen, resolver, &sealed);
	if (r < 0)
		return r;
	r = tally_spool_seal(&ship->spool, &sealed);
	if (r == 0) {
		ship->records_sealed += sealed.n_rows;
		ship->connections_sealed += sealed.n_connections;
		ship->imbalance += imbalance_of(&sealed);
		ship->holes[sealed.hole]++;
		if (ship->spool.sealed.n == 1)
			ship->sealed_since_ns = mono_ns(ship);
	}
	tally_sealed_done(&sealed);
	return r < 0 ? r : 0;
}

/* What is billed goes before its evidence: connections get half the spool, and no disk's last block. */
static int seal_what_fits(struct tally_ship *ship, const struct tally_frozen *frozen,
			  const struct tally_resolver *resolver)
{
	struct tally_resolver usage = *resolver;
	int r = -ENOSPC;

	if (tally_ship_has(ship, frozen->ledger, frozen->number))
		return 0;
	if (fills_beyond(ship, ship->max_bytes))
		return -ENOSPC;
	if (!resolver->connections || !fills_beyond(ship, ship->max_bytes / 2))
		r = seal(ship, frozen, resolver);
	if (r != -ENOSPC || !resolver->connections)
		return r;
	usage.connections = NULL;
	r = seal(ship, frozen, &usage);
	if (r == 0) {
		ship->connections_shed++;
		tally_log_warning("connections_not_kept", "reason=%s spool_bytes=%llu", "no room",
				  (unsigned long long)tally_spool_bytes(&ship->spool));
	}
	return r;
}

int tally_ship_seal(struct tally_ship *ship, const struct tally_frozen *frozen,
		    const struct tally_resolver *resolver)
{
	int r = seal_what_fits(ship, frozen, resolver);

	ship->sealing_fails = r < 0;
	if (r < 0)
		ship->errors++;
	return r;
}

void tally_ship_released(struct tally_ship *ship)
{
	ship->spool.released = true;
}

int tally_ship_fd(const struct tally_ship *ship)
{
	return ship->epoll;
}

static void drop_batch(struct link *link)
{
	tally_batch_free(link->batch);
	link->batch = NULL;
}

static void close_link(struct tally_ship *ship, struct link *link)
{
	__u64 wait = TALLY_MAX(link->backoff_ms, BACKOFF_MIN_MS);

	link->known = false;
	link->state = CLOSING;
	link->next_try_ns = mono_ns(ship) + wait * NS_PER_MS;
	link->backoff_ms = (__u32)TALLY_MIN(wait * 2, ship->backoff_max_ms);
	if (link->sink->ops->close(link->sink) < 0)
		link->state = CLOSED; /* it was not open */
}

static void fail_link(struct tally_ship *ship, struct link *link, int error, bool doubt)
{
	link->failures += !doubt;
	link->doubts += doubt;
	tally_log_warning("sink_failed", "sink=%s doubt=%s error=%s", link->sink->name,
			  doubt ? "yes" : "no", strerror(-error));
	if (link->sink->in_state && tally_reserve_is_full(error))
		tally_spool_make_room(&ship->spool);
	close_link(ship, link);
}

/* Does the sink hold what we never made? Then our state is older than the sink's. */
static bool overtaken(const struct tally_spool *spool, const struct tally_checkpoint *at)
{
	const struct tally_spool_entry *entry;

	if (!at->batch)
		return false;
	if (at->batch >= spool->state.next_batch || at->incarnation > spool->state.incarnation)
		return true;
	entry = tally_spool_find(spool, at->batch);
	return entry && entry->number == at->batch &&
	       memcmp(entry->chain, at->chain, sizeof(at->chain)) != 0;
}

static void link_opened(struct tally_ship *ship, struct link *link,
			const struct tally_checkpoint *at)
{
	int r = 0;

	if (overtaken(&ship->spool, at)) {
		tally_log_error("state_is_older_than_sink", "sink=%s batch=%llu next_batch=%llu",
				link->sink->name, (unsigned long long)at->batch,
				(unsigned long long)ship->spool.state.next_batch);
		r = tally_spool_overtaken(&ship->spool, at);
	}
	if (r < 0) {
		fail_link(ship, link, r, false);
		return;
	}
	link->at = link->acked = *at;
	link->known = true;
	link->state = READY;
	link->last_ack_s = utc_s(ship);
}

/* The sink's own word, read back, is what counts; what it lacks is sent again. */
static void link_confirmed(struct tally_ship *ship, struct link *link,
			   const struct tally_checkpoint *at)
{
	if (at->batch > link->acked.batch && link->batch)
		ship->records_acked += tally_batch_records(link->batch);
	link->at = link->acked = *at;
	link->state = READY;
	link->backoff_ms = 0; /* opening alone proves nothing */
	link->last_ack_s = utc_s(ship);
	drop_batch(link);
}

static void ask(const struct tally_ship *ship, struct link *link, enum link_state state)
{
	link->state = state;
	link->asked_ns = mono_ns(ship);
}

static bool is_asked(const struct link *link)
{
	return link->state == OPENING || link->state == SENDING || link->state == CONFIRMING;
}

static __u64 patience_ends_ns(const struct link *link)
{
	if (!is_asked(link) || !link->sink->patience_ms)
		return ~0ULL;
	return link->asked_ns + link->sink->patience_ms * NS_PER_MS;
}

static void link_sent(struct tally_ship *ship, struct link *link, const struct tally_checkpoint *at)
{
	int r;

	link->at = *at;
	link->state = READY;
	if (!at->whole)
		return;
	ask(ship, link, CONFIRMING);
	r = link->sink->ops->confirm(link->sink);
	if (r < 0)
		fail_link(ship, link, r, true);
}

/* Takes what the sink has to say, so that its descriptor is silent; there is one answer at most. */
static void listen(struct link *link)
{
	struct tally_sink_event event = { .kind = TALLY_SINK_NOTHING };

	if (link->state == CLOSED && link->sink->wake_fd < 0)
		return;
	link->sink->ops->poll(link->sink, &event);
	if (event.kind != TALLY_SINK_NOTHING && link->state != CLOSED)
		link->held = event;
}

/* One event. False: there is none. */
static bool take_event(struct tally_ship *ship, struct link *link)
{
	struct tally_sink_event event = link->held;

	link->held.kind = TALLY_SINK_NOTHING;
	switch (event.kind) {
	case TALLY_SINK_NOTHING:
		return false;
	case TALLY_SINK_OPENED:
		link_opened(ship, link, &event.checkpoint);
		return true;
	case TALLY_SINK_SENT:
		link_sent(ship, link, &event.checkpoint);
		return true;
	case TALLY_SINK_CONFIRMED:
		link_confirmed(ship, link, &event.checkpoint);
		return true;
	case TALLY_SINK_CLOSED:
		link->state = CLOSED;
		drop_batch(link);
		return true;
	case TALLY_SINK_FAILED:
	case TALLY_SINK_DOUBT:
		if (link->state != CLOSING)
			fail_link(ship, link, event.error, event.kind == TALLY_SINK_DOUBT);
		return true;
	}
	return false;
}

/* The sink promised to answer by now. Whether it did what it was asked nobody knows. */
static bool give_up_waiting(struct tally_ship *ship, struct link *link)
{
	if (mono_ns(ship) < patience_ends_ns(link))
		return false;
	fail_link(ship, link, -ETIMEDOUT, true);
	return true;
}

static bool open_link(struct tally_ship *ship, struct link *link)
{
	int r;

	if (mono_ns(ship) < link->next_try_ns)
		return false;
	ask(ship, link, OPENING);
	r = link->sink->ops->open(link->sink, ship->spool.state.agent);
	if (r < 0)
		fail_link(ship, link, r, false);
	return true;
}

static bool is_due(const struct tally_ship *ship, const struct retry *retry)
{
	return mono_ns(ship) >= retry->at_ns;
}

static void retry_later(struct tally_ship *ship, struct retry *retry, int r)
{
	ship->errors++;
	retry->ms =
		TALLY_MIN(TALLY_MAX(retry->ms * 2, BACKOFF_MIN_MS), (__u64)ship->backoff_max_ms);
	retry->at_ns = mono_ns(ship) + retry->ms * NS_PER_MS;
	tally_log_warning("spool_failed", "error=%s retry_ms=%llu", strerror(-r),
			  (unsigned long long)retry->ms);
}

/* Did it succeed? */
static bool settle_retry(struct tally_ship *ship, struct retry *retry, int r)
{
	if (r < 0)
		retry_later(ship, retry, r);
	else
		*retry = (struct retry){ 0 };
	return r >= 0;
}

/* Nothing is decided while the folders are in doubt. */
static bool spool_settled(struct tally_ship *ship)
{
	if (!ship->spool.reload)
		return true;
	return is_due(ship, &ship->settle) &&
	       settle_retry(ship, &ship->settle, tally_spool_settle(&ship->spool));
}

/* The batch that the sink needs next: the rest of the one it has in part, or a later one. NULL: it is to be
 * built. */
static const struct tally_spool_entry *next_batch(const struct tally_ship *ship,
						  const struct link *link)
{
	return tally_spool_find(&ship->spool,
				link->at.batch + (link->at.batch == 0 || link->at.whole));
}

static __u64 resume_at(const struct link *link)
{
	const struct tally_checkpoint *at = &link->at;
	const struct tally_batch *batch = link->batch;

	if (at->batch != batch->head.number || at->incarnation != batch->head.incarnation ||
	    at->seq < batch->head.seq_first)
		return 0;
	return TALLY_MIN(at->seq - batch->head.seq_first + 1 + at->connections,
			 tally_batch_messages(batch));
}

static bool send_link(struct tally_ship *ship, struct link *link)
{
	const struct tally_spool_entry *entry = next_batch(ship, link);
	struct tally_send send;
	int r;

	if (!entry)
		return false;
	if (!link->batch || link->batch->head.number != entry->number) {
		drop_batch(link);
		r = tally_spool_load(&ship->spool, entry, &link->batch);
		if (r == -EBADMSG)
			return true; /* quarantined: go on with the next one */
		if (!settle_retry(ship, &link->load, r))
			return false;
	}
	send = (struct tally_send){ .batch = link->batch, .from = resume_at(link) };
	ask(ship, link, SENDING);
	r = link->sink->ops->send(link->sink, &send);
	if (r < 0)
		fail_link(ship, link, r, false);
	return true;
}

/* One change of state. False: nothing can be done now. */
static bool step_link(struct tally_ship *ship, struct link *link)
{
	listen(link);
	if (!spool_settled(ship))
		return false;
	if (take_event(ship, link) || give_up_waiting(ship, link))
		return true;
	if (link->state == CLOSED)
		return open_link(ship, link);
	if (link->state == READY && is_due(ship, &link->load))
		return send_link(ship, link);
	return false;
}

/* Required; or, where none is, any. */
static bool awaited(const struct tally_ship *ship, const struct link *link)
{
	for (size_t i = 0; i < ship->n_links && !link->sink->required; i++) {
		if (ship->links[i].sink->required)
			return false;
	}
	return true;
}

/* What every required sink holds, by its own word, may go. */
static void trim(struct tally_ship *ship)
{
	__u64 least = ~0ULL;
	bool any = false;

	for (size_t i = 0; i < ship->n_links; i++) {
		const struct link *link = &ship->links[i];
		__u64 have = link->acked.whole ? link->acked.batch : link->acked.batch - 1;

		if (!awaited(ship, link))
			continue;
		any = true;
		least = TALLY_MIN(least, link->acked.batch ? have : 0);
	}
	if (any && least && ship->spool.batches.n && ship->spool.batches.items[0].number <= least &&
	    is_due(ship, &ship->trim))
		(void)settle_retry(ship, &ship->trim, tally_spool_trim(&ship->spool, least));
}

static bool may_build(const struct tally_ship *ship)
{
	bool wanted = false;

	for (size_t i = 0; i < ship->n_links; i++)
		wanted |= ship->links[i].state == READY && !next_batch(ship, &ship->links[i]);
	return wanted && ship->spool.sealed.n && is_due(ship, &ship->build) &&
	       (ship->spool.batches.n ||
		mono_ns(ship) >= ship->sealed_since_ns + ship->batch_wait_ms * NS_PER_MS);
}

/* After those were served for whom there is one, and what they have was trimmed. */
static bool build_batch(struct tally_ship *ship)
{
	int r;

	if (!may_build(ship) || !spool_settled(ship))
		return false;
	trim(ship);
	r = tally_spool_build(&ship->spool, utc_s(ship));
	return settle_retry(ship, &ship->build, r) && r > 0;
}

static void maintain(struct tally_ship *ship)
{
	if (!spool_settled(ship))
		return;
	trim(ship);
	if (spool_settled(ship) && is_due(ship, &ship->compact))
		(void)settle_retry(ship, &ship->compact, tally_spool_compact(&ship->spool));
}

static __u64 due_after(const struct retry *retry, __u64 now)
{
	return retry->at_ns > now ? retry->at_ns : ~0ULL;
}

static int wait_ms(const struct tally_ship *ship)
{
	__u64 now = mono_ns(ship), until = due_after(&ship->settle, now);

	until = TALLY_MIN(until, due_after(&ship->build, now));
	until = TALLY_MIN(until, due_after(&ship->trim, now));
	until = TALLY_MIN(until, due_after(&ship->compact, now));
	for (size_t i = 0; i < ship->n_links; i++) {
		const struct link *link = &ship->links[i];

		until = TALLY_MIN(until, patience_ends_ns(link));
		until = TALLY_MIN(until, due_after(&link->load, now));
		if (link->state == CLOSED)
			until = TALLY_MIN(until, link->next_try_ns);
		else if (link->state != READY && link->sink->wake_fd < 0)
			until = TALLY_MIN(until, now + BUSY_MS * NS_PER_MS);
	}
	if (ship->batch_wait_ms && ship->spool.sealed.n)
		until = TALLY_MIN(until, ship->sealed_since_ns + ship->batch_wait_ms * NS_PER_MS);
	if (until == ~0ULL)
		return -1;
	return until <= now ? 0 : (int)TALLY_MIN((until - now) / NS_PER_MS + 1, 60000ULL);
}

int tally_ship_step(struct tally_ship *ship, int *ret_wait_ms)
{
	bool busy = true;

	for (int turn = 0; busy && turn < TURNS_MAX; turn++) {
		busy = false;
		for (size_t i = 0; i < ship->n_links; i++)
			busy |= step_link(ship, &ship->links[i]);
		busy |= build_batch(ship);
	}
	maintain(ship);
	*ret_wait_ms = busy ? 0 : wait_ms(ship);
	return 0;
}

bool tally_ship_idle(const struct tally_ship *ship)
{
	if (ship->spool.sealed.n || ship->spool.reload)
		return false;
	for (size_t i = 0; i < ship->n_links; i++) {
		const struct link *link = &ship->links[i];

		if (!awaited(ship, link))
			continue;
		if (!link->known || link->state != READY)
			return false;
		if (tally_spool_find(&ship->spool, link->acked.batch + link->acked.whole +
							   (link->acked.batch == 0)))
			return false;
	}
	return true;
}

static __u64 last_ack_s(const struct tally_ship *ship)
{
	__u64 last = 0;

	for (size_t i = 0; i < ship->n_links; i++)
		last = TALLY_MAX(last, ship->links[i].last_ack_s);
	return last;
}

void tally_ship_status(const struct tally_ship *ship, struct tally_ship_status *ret_status)
{
	const struct tally_spool *spool = &ship->spool;
	const struct tally_state *state = &spool->state;

	*ret_status = (struct tally_ship_status){
		.incarnation = state->incarnation,
		.epoch_last = state->sealed.epoch,
		.seq_last = state->next_seq - 1,
		.batch_last = state->next_batch - 1,
		.sealed_files = spool->sealed.n,
		.batch_files = spool->batches.n,
		.quarantined_files = spool->quarantined,
		.spool_records = tally_spool_records(spool),
		.spool_bytes = tally_spool_bytes(spool),
		.oldest_s = tally_spool_oldest_s(spool),
		.records_sealed = ship->records_sealed,
		.connections_sealed = ship->connections_sealed,
		.connections_shed = ship->connections_shed,
		.records_acked = ship->records_acked,
		.errors = ship->errors,
		.last_ack_s = last_ack_s(ship),
		.held = state->sealed.held,
		.imbalance = ship->imbalance,
		.holes_stopped = ship->holes[TALLY_HOLE_STOPPED],
		.holes_lost = ship->holes[TALLY_HOLE_LOST],
		.sealing_fails = ship->sealing_fails,
	};
	memcpy(ret_status->agent, state->agent, sizeof(ret_status->agent));
}

int tally_ship_sink_status(const struct tally_ship *ship, size_t index,
			   struct tally_ship_sink_status *ret_status)
{
	const struct link *link;

	if (index >= ship->n_links)
		return -ENOENT;
	link = &ship->links[index];
	*ret_status = (struct tally_ship_sink_status){
		.name = link->sink->name,
		.required = link->sink->required,
		.connected = link->known,
		.acked = link->acked,
		.failures = link->failures,
		.doubts = link->doubts,
		.last_ack_s = link->last_ack_s,
	};
	return 0;
}
