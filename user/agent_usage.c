/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sums for people: whoever looks sees the last closed window and the open one together, over
 * [begin of the last window, now]. The open one is read without freezing it, at most once a second, and
 * only while it is small: nobody who looks may keep the agent from closing its books.
 */
#include "agent_parts.h"

/* ---- sums ---- */

void tally_agent_by_usage(struct tally_row_key *key)
{
	key->conn = 0;
	key->hour = 0;
	key->status = 0;
	key->detail = 0;
	key->protocol = 0;
	key->origin = 0;
}

void tally_agent_by_connection(struct tally_row_key *key)
{
	*key = (struct tally_row_key){ .conn = key->conn, .service = key->service };
}

void tally_agent_by_key(struct tally_row_key *key)
{
	*key = (struct tally_row_key){ .key = key->key,
				       .attribution = key->key ? 0 : key->attribution };
}

void tally_agent_by_service(struct tally_row_key *key)
{
	*key = (struct tally_row_key){ .service = key->service };
}

void tally_agent_by_route(struct tally_row_key *key)
{
	*key = (struct tally_row_key){ .service = key->service,
				       .ruleset = key->ruleset,
				       .route = key->route,
				       .method = key->method };
}

/* Hashes of keys are secret already; the rest is ours. */
static uint64_t hash_of(const struct tally_row_key *key)
{
	const uint64_t odd = 0x9e3779b97f4a7c15ULL;
	uint64_t words[sizeof(*key) / sizeof(uint64_t)], hash = 0;

	memcpy(words, key, sizeof(words));
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(words); i++) {
		hash = (hash ^ words[i]) * odd;
		hash ^= hash >> 29;
	}
	return hash;
}

/* The slot with that key, or the free one where it belongs. */
static uint32_t *find_slot(const struct tally_agent_sums *sums, const struct tally_row_key *key)
{
	size_t i = hash_of(key) & (sums->n_slots - 1);

	while (sums->slots[i] && memcmp(&sums->items[sums->slots[i] - 1].key, key, sizeof(*key)))
		i = (i + 1) & (sums->n_slots - 1);
	return &sums->slots[i];
}

/* At most half full. */
static int make_room(struct tally_agent_sums *sums)
{
	size_t cap = sums->cap ? sums->cap * 2 : 256;
	struct tally_agent_sum *items;
	uint32_t *slots;

	if (sums->n < sums->cap)
		return 0;
	items = reallocarray(sums->items, cap, sizeof(*items));
	if (!items)
		return -ENOMEM;
	sums->items = items;
	slots = calloc(cap * 2, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	free(sums->slots);
	sums->slots = slots;
	sums->n_slots = cap * 2;
	sums->cap = cap;
	for (size_t i = 0; i < sums->n; i++)
		*find_slot(sums, &items[i].key) = i + 1;
	return 0;
}

static void add_sums(struct tally_row *into, const struct tally_row *from)
{
	into->requests += from->requests;
	into->incomplete += from->incomplete;
	into->request_bytes += from->request_bytes;
	into->response_bytes += from->response_bytes;
	into->duration_ns += from->duration_ns;
}

/* The sum that this row belongs to, made if there is none. NULL: there is no place for it. */
static int find_sum(struct tally_agent_sums *sums, const struct tally_row_key *row_key,
		    const struct tally_row *row, tally_agent_mask mask,
		    struct tally_agent_sum **ret_sum)
{
	struct tally_row_key key = *row_key;
	struct tally_agent_sum *sum;
	uint32_t *slot;
	int err = make_room(sums);

	if (err)
		return err;
	mask(&key);
	slot = find_slot(sums, &key);
	if (!*slot && sums->n == TALLY_AGENT_SUMS) {
		sums->left_out += row->requests;
		*ret_sum = NULL;
		return 0;
	}
	if (!*slot) {
		sum = &sums->items[sums->n];
		*sum = (struct tally_agent_sum){ .key = key,
						 .who = row_key->key,
						 .attribution = row_key->attribution };
		memcpy(sum->row.peer, row->peer, sizeof(sum->row.peer));
		sum->row.peer_port = row->peer_port;
		*slot = ++sums->n;
	}
	sum = &sums->items[*slot - 1];
	sum->keys += sum->who != row_key->key;
	add_sums(&sum->row, row);
	*ret_sum = sum;
	return 0;
}

int tally_agent_sums_add(struct tally_agent_sums *sums, const struct tally_frozen_row *rows,
			 size_t n, tally_agent_mask mask)
{
	struct tally_agent_sum *sum;

	for (size_t i = 0; i < n; i++) {
		unsigned int class = rows[i].key.status / 100;
		int err = find_sum(sums, &rows[i].key, &rows[i].row, mask, &sum);

		if (err)
			return err;
		if (sum)
			sum->by_class[class < TALLY_AGENT_CLASSES ? class : 0] +=
				rows[i].row.requests;
	}
	return 0;
}

int tally_agent_sums_fold(const struct tally_agent_sums *from, tally_agent_mask mask,
			  struct tally_agent_sums *ret_sums)
{
	struct tally_agent_sums sums = { .left_out = from->left_out,
					 .start_ns = from->start_ns,
					 .end_ns = from->end_ns };
	struct tally_agent_sum *sum;
	int err = 0;

	for (size_t i = 0; i < from->n && !err; i++) {
		const struct tally_agent_sum *item = &from->items[i];

		err = find_sum(&sums, &item->key, &item->row, mask, &sum);
		for (int c = 0; !err && sum && c < TALLY_AGENT_CLASSES; c++)
			sum->by_class[c] += item->by_class[c];
	}
	tally_agent_sums_sort(&sums);
	if (err) {
		tally_agent_sums_done(&sums);
		return err;
	}
	*ret_sums = sums;
	return 0;
}

static int compare_requests(const void *a, const void *b)
{
	uint64_t x = ((const struct tally_agent_sum *)a)->row.requests;
	uint64_t y = ((const struct tally_agent_sum *)b)->row.requests;

	return (x < y) - (x > y);
}

void tally_agent_sums_sort(struct tally_agent_sums *sums)
{
	free(sums->slots);
	sums->slots = NULL;
	sums->n_slots = 0;
	if (sums->n)
		qsort(sums->items, sums->n, sizeof(*sums->items), compare_requests);
}

void tally_agent_sums_done(struct tally_agent_sums *sums)
{
	free(sums->items);
	free(sums->slots);
	memset(sums, 0, sizeof(*sums));
}

/* ---- windows ---- */

/* Counters of one service are all u64. */
static void add_totals(struct tally_totals *into, const struct tally_totals *from)
{
	__u64 *a = (__u64 *)into;
	const __u64 *b = (const __u64 *)from;

	for (size_t i = 0; i < sizeof(*into) / sizeof(__u64); i++)
		a[i] += b[i];
}

static void count_row(struct tally_agent_counters *counters, const struct tally_frozen_row *row,
		      struct tally_agent_window *window)
{
	const struct tally_row_key *key = &row->key;
	unsigned int class = key->status / 100;

	class = class < TALLY_AGENT_CLASSES ? class : 0;
	window->classes[class] += row->row.requests;
	if (key->attribution != TALLY_ATTR_KEY)
		window->unattributed += row->row.requests;
	if (key->service >= TALLY_SERVICES || key->protocol >= TALLY_PROTO_COUNT)
		return;
	counters->requests[key->service][key->protocol] += row->row.requests;
	counters->classes[key->service][class] += row->row.requests;
	counters->duration_ns[key->service] += row->row.duration_ns;
}

static void count(struct tally_agent *agent, const struct tally_frozen *frozen)
{
	struct tally_agent_counters *counters = &agent->counters;
	struct tally_agent_live *live = &agent->live;
	struct tally_agent_window *window = &live->windows[live->window++ % TALLY_AGENT_WINDOWS];

	*window = (struct tally_agent_window){ .start_s = frozen->start_ns / TALLY_NS_PER_S,
					       .end_s = frozen->end_ns / TALLY_NS_PER_S,
					       .rows = frozen->n_rows };
	counters->windows++;
	counters->rows_last = frozen->n_rows;
	counters->map_rows_last = frozen->n_rows - frozen->n_placed;
	counters->rows += frozen->n_rows;
	for (size_t i = 0; i < frozen->n_services && i < TALLY_SERVICES; i++) {
		const struct tally_totals *totals = &frozen->totals[i];

		add_totals(&counters->totals[i], totals);
		counters->rows_overflow += totals->lost.requests;
		window->bytes[0] += totals->bytes[0];
		window->bytes[1] += totals->bytes[1];
	}
	for (size_t i = 0; i < frozen->n_rows; i++)
		count_row(counters, &frozen->rows[i], window);
}

/* Requests of keys that can be named by their fingerprint only. */
static uint64_t uncatalogued(struct tally_agent *agent, const struct tally_agent_sums *sums,
			     uint64_t time_s)
{
	struct tally_resolver resolver;
	uint64_t requests = 0;

	tally_agent_rules_resolver(agent, &resolver);
	for (size_t i = 0; i < sums->n; i++) {
		const struct tally_agent_sum *sum = &sums->items[i];
		struct tally_owner owner = {};

		if (sum->key.key && !resolver.owner(agent, sum->key.key, time_s, &owner) &&
		    owner.key_ref != TALLY_KEYREF_CATALOG)
			requests += sum->row.requests;
	}
	return requests;
}

/* Takes them from frozen. */
static void keep_rows(struct tally_agent_live *live, struct tally_frozen *frozen)
{
	free(live->rows);
	live->rows = frozen->rows;
	live->n_rows = TALLY_MIN(frozen->n_rows, (size_t)TALLY_AGENT_LIVE);
	live->n_left_out = frozen->n_rows - live->n_rows;
	frozen->rows = NULL;
	frozen->n_rows = 0;
	if (live->n_left_out) {
		void *less = reallocarray(live->rows, live->n_rows, sizeof(*live->rows));

		live->rows = less ? less : live->rows;
	}
}

void tally_agent_usage_sealed(struct tally_agent *agent, struct tally_frozen *frozen)
{
	struct tally_agent_live *live = &agent->live;
	struct tally_agent_sums *usage = &live->usage;

	count(agent, frozen);
	tally_agent_sums_done(usage);
	live->now_at_ns = 0;
	if (tally_agent_sums_add(usage, frozen->rows, frozen->n_rows, tally_agent_by_usage))
		tally_log_warning("usage", "reason=%s", "no memory for `top`");
	agent->counters.uncatalogued += uncatalogued(agent, usage, frozen->end_ns / TALLY_NS_PER_S);
	live->start_ns = usage->start_ns = frozen->start_ns;
	live->end_ns = usage->end_ns = frozen->end_ns;
	keep_rows(live, frozen);
}

/* ---- now ---- */

static int copy_sums(const struct tally_agent_sums *from, struct tally_agent_sums *ret_sums)
{
	struct tally_agent_sums sums = { .left_out = from->left_out };

	for (size_t i = 0; i < from->n; i++) {
		int err = make_room(&sums);

		if (err) {
			tally_agent_sums_done(&sums);
			return err;
		}
		sums.items[i] = from->items[i];
		*find_slot(&sums, &sums.items[i].key) = i + 1;
		sums.n++;
	}
	*ret_sums = sums;
	return 0;
}

/* Add the open window, unless it is too large to be read for that. */
static int add_open(struct tally_agent *agent, struct tally_agent_sums *sums, tally_agent_mask mask)
{
	const struct tally_agent_live *live = &agent->live;
	struct tally_frozen open = {};
	int err;

	(void)!tally_keys_poll(agent->keys); /* names of the newest keys; the tick says errors */
	err = tally_ledger_peek(agent->ledger, TALLY_AGENT_PEEK, &open);
	if (!err)
		err = tally_agent_sums_add(sums, open.rows, open.n_rows, mask);
	sums->start_ns = live->end_ns ? live->start_ns : tally_ledger_start_ns(agent->ledger);
	sums->end_ns = err == -E2BIG ? live->end_ns : tally_clock_now_ns(agent->clock);
	tally_ledger_frozen_done(&open);
	tally_agent_sums_sort(sums);
	return err == -E2BIG ? 0 : err;
}

int tally_agent_usage_now(struct tally_agent *agent, const struct tally_agent_sums **ret_sums)
{
	struct tally_agent_live *live = &agent->live;
	uint64_t now = tally_util_mono_ns();
	int err;

	if (!live->now_at_ns || now - live->now_at_ns >= TALLY_NS_PER_S) {
		tally_agent_sums_done(&live->now);
		live->now_at_ns = 0;
		err = copy_sums(&live->usage, &live->now);
		if (!err)
			err = add_open(agent, &live->now, tally_agent_by_usage);
		if (err)
			return err;
		live->now_at_ns = now;
	}
	*ret_sums = &live->now;
	return 0;
}

int tally_agent_usage_connections(struct tally_agent *agent, struct tally_agent_sums *ret_sums)
{
	const struct tally_agent_live *live = &agent->live;
	struct tally_agent_sums sums = {};
	int err = tally_agent_sums_add(&sums, live->rows, live->n_rows, tally_agent_by_connection);

	if (!err)
		err = add_open(agent, &sums, tally_agent_by_connection);
	if (err) {
		tally_agent_sums_done(&sums);
		return err;
	}
	*ret_sums = sums;
	return 0;
}

/* ---- seconds ---- */

/* What was counted since start; smaller than before while a closed window is not sealed. */
static float rate_of(struct tally_agent_live *live, int service, uint64_t seen, double seconds)
{
	uint64_t before = live->seen[service];

	if (seen < before)
		return 0;
	live->seen[service] = seen;
	return (float)((double)(seen - before) / seconds);
}

void tally_agent_usage_tick(struct tally_agent *agent)
{
	struct tally_agent_live *live = &agent->live;
	uint64_t now = tally_util_mono_ns();
	double seconds = (double)(now - live->second_at_ns) / 1e9;
	struct tally_frozen open = {};

	if (live->second_at_ns && seconds < 0.9)
		return; /* the start has taken one just now */
	if (tally_ledger_peek_totals(agent->ledger, &open))
		return;
	for (int i = 0; i < TALLY_SERVICES; i++) {
		uint64_t seen = agent->counters.totals[i].seen + open.totals[i].seen;
		float rate = rate_of(live, i, seen, seconds);

		if (live->second_at_ns)
			live->seconds[live->second % TALLY_AGENT_SECONDS][i] = rate;
	}
	if (live->second_at_ns)
		live->second++;
	live->second_at_ns = now;
	tally_ledger_frozen_done(&open);
}

void tally_agent_usage_close(struct tally_agent *agent)
{
	tally_agent_sums_done(&agent->live.usage);
	tally_agent_sums_done(&agent->live.now);
	free(agent->live.rows);
	agent->live.rows = NULL;
}
