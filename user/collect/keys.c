/* SPDX-License-Identifier: Apache-2.0 */
#include "collect/keys.h"

#include <bpf/bpf.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "tally/hash.h"
#include "tally/ledger.h"

/* The dictionary as we know it: open addressing, hash 0 is a free place. */
struct known {
	uint64_t hash;
	uint64_t
		epoch; /* last used, or dropped by us: the window that was open then may still hold it */
	uint8_t sha256[32];
	bool in_kernel;
	bool stranger;	/* dropped by us, and not catalogued then */
	bool forgotten; /* as soon as the table is made anew */
};

/* How long the same holder has had a candidate. */
struct watch {
	uint64_t since_s;
	uint32_t word; /* struct tally_candidate.state */
};

/* One of the two candidate arrays, mapped. */
struct pool {
	uint8_t *base;
	size_t bytes;
	size_t stride;
	uint32_t n;
	struct watch *watches;
};

struct tally_keys {
	struct tally_load *load;
	struct pool pools[2];
	struct known *table;
	size_t size; /* a power of two */
	size_t used;
	uint32_t in_kernel;
	uint32_t gone;	  /* dropped ones that were not catalogued */
	uint32_t trimmed; /* of in_kernel, left when room was made last */
	uint32_t capacity;
	uint64_t epoch;			     /* the latest one mentioned */
	uint64_t guesses[2 * TALLY_GUESSES]; /* of this window; what is beyond is no guess */
	size_t n_guesses;
	struct tally_keys_status status;
};

/* Hashes are SipHash values: already spread. */
static struct known *place(struct known *table, size_t size, uint64_t hash)
{
	size_t i = hash & (size - 1);

	while (table[i].hash && table[i].hash != hash)
		i = (i + 1) & (size - 1);
	return &table[i];
}

static bool every(const struct known *known, uint64_t epoch)
{
	return true;
}

/* Into a new table of that size, if it can be had, what is kept. */
static int rebuild(struct tally_keys *keys, size_t size,
		   bool (*kept)(const struct known *known, uint64_t epoch), uint64_t epoch)
{
	struct known *table;
	uint32_t gone = 0;
	size_t used = 0;

	if (!size) /* doubled too often */
		return -ENOMEM;
	table = calloc(size, sizeof(*table));
	if (!table)
		return -ENOMEM;
	for (size_t i = 0; i < keys->size; i++) {
		if (!keys->table[i].hash || !kept(&keys->table[i], epoch))
			continue;
		*place(table, size, keys->table[i].hash) = keys->table[i];
		gone += keys->table[i].stranger;
		used++;
	}
	free(keys->table);
	keys->table = table;
	keys->size = size;
	keys->used = used;
	keys->gone = gone;
	return 0;
}

static int remember(struct tally_keys *keys, uint64_t hash, const uint8_t *sha256)
{
	struct known *known;

	if (keys->used * 2 >= keys->size) {
		int err = rebuild(keys, keys->size * 2, every, 0);

		if (err)
			return err;
	}
	known = place(keys->table, keys->size, hash);
	keys->used += !known->hash;
	keys->in_kernel += !known->in_kernel;
	known->hash = hash;
	known->in_kernel = true;
	keys->gone -= known->stranger;
	known->stranger = false;
	known->forgotten = false;
	known->epoch = keys->epoch;
	memcpy(known->sha256, sha256, sizeof(known->sha256));
	return 0;
}

static int map_pool(struct pool *pool, int fd, size_t value_size, uint32_t n)
{
	size_t page = sysconf(_SC_PAGESIZE);
	void *base = NULL;
	int err;

	pool->stride = (value_size + 7) & ~(size_t)7;
	pool->n = n;
	pool->bytes = (pool->stride * n + page - 1) / page * page;
	pool->watches = calloc(n, sizeof(*pool->watches));
	if (!pool->watches)
		return -ENOMEM;
	err = tally_load_map(fd, pool->bytes, &base);
	if (err)
		return err;
	pool->base = base;
	/* Key texts: not in core dumps. Old kernels may refuse, which changes nothing else. */
	(void)madvise(base, pool->bytes, MADV_DONTDUMP);
	return 0;
}

/* What an earlier start resolved. Entries still NEW come by their candidates. */
static int read_dictionary(struct tally_keys *keys)
{
	int fd = keys->load->maps[TALLY_MAP_DICTIONARY];
	struct tally_key_entry entry;
	__u64 hash, *previous = NULL;

	while (!bpf_map_get_next_key(fd, previous, &hash)) {
		int err = 0;

		previous = &hash;
		/* Only an entry that is gone may be passed over: of another the key would have no name. */
		if (bpf_map_lookup_elem(fd, &hash, &entry))
			err = errno == ENOENT ? 0 : -errno;
		else if (entry.state == TALLY_KEY_RESOLVED)
			err = remember(keys, hash, entry.sha256);
		if (err)
			return err;
	}
	return errno == ENOENT ? 0 : -errno;
}

TALLY_CLEANUP(struct tally_keys *, keys_closep, tally_keys_close)

int tally_keys_open(struct tally_load *load, uint64_t epoch, struct tally_keys **ret_keys)
{
	_cleanup_(keys_closep) struct tally_keys *keys = calloc(1, sizeof(*keys));
	int err;

	if (!keys)
		return -ENOMEM;
	keys->load = load;
	keys->epoch = epoch;
	keys->capacity = tally_load_capacity(load, TALLY_MAP_DICTIONARY);
	err = rebuild(keys, 1024, every, 0);
	if (!err)
		err = map_pool(&keys->pools[0], load->maps[TALLY_MAP_CANDIDATES],
			       sizeof(struct tally_candidate), TALLY_CANDIDATES);
	if (!err)
		err = map_pool(&keys->pools[1], load->maps[TALLY_MAP_CANDIDATES_LONG],
			       sizeof(struct tally_candidate_long), TALLY_CANDIDATES_LONG);
	if (!err)
		err = read_dictionary(keys);
	if (err)
		return err;
	*ret_keys = TAKE_PTR(keys);
	return 0;
}

void tally_keys_close(struct tally_keys *keys)
{
	if (!keys)
		return;
	for (int i = 0; i < 2; i++) {
		if (keys->pools[i].base)
			(void)munmap(keys->pools[i].base, keys->pools[i].bytes); /* cannot fail */
		free(keys->pools[i].watches);
	}
	free(keys->table);
	free(keys);
}

/* Both kinds of candidates begin alike; only the room for the text differs. */
static struct tally_candidate_long *candidate_at(const struct pool *pool, uint32_t i)
{
	return (struct tally_candidate_long *)(pool->base + i * pool->stride);
}

static size_t text_room(const struct pool *pool)
{
	return pool->stride - offsetof(struct tally_candidate_long, text);
}

/* K2 */
static void set_free(struct pool *pool, uint32_t i)
{
	struct tally_candidate_long *candidate = candidate_at(pool, i);

	explicit_bzero(candidate->text, text_room(pool));
	candidate->hash = 0;
	candidate->len = 0;
	__atomic_store_n(&candidate->state, candidate->state & ~3u, __ATOMIC_RELEASE);
}

static bool is_guess(const struct tally_keys *keys, uint64_t hash)
{
	struct tally_key_entry entry;

	return !bpf_map_lookup_elem(keys->load->maps[TALLY_MAP_DICTIONARY], &hash, &entry) &&
	       entry.state == TALLY_KEY_GUESS;
}

static int resolve(struct tally_keys *keys, struct pool *pool, uint32_t i)
{
	struct tally_candidate_long *candidate = candidate_at(pool, i);
	struct tally_key_entry entry = { .state = TALLY_KEY_RESOLVED };
	__u64 hash = candidate->hash;
	uint32_t len = candidate->len;
	int err;

	if (len <= text_room(pool)) {
		bool guess =
			is_guess(keys, hash) && keys->n_guesses < TALLY_ARRAY_SIZE(keys->guesses);

		SHA256(candidate->text, len, entry.sha256);
		if (bpf_map_update_elem(keys->load->maps[TALLY_MAP_DICTIONARY], &hash, &entry,
					BPF_ANY))
			return -errno;
		err = remember(keys, hash, entry.sha256);
		if (err)
			return err;
		if (guess)
			keys->guesses[keys->n_guesses++] = hash;
		keys->status.resolved++;
	}
	set_free(pool, i);
	return 0;
}

/* Ours now, if its word is still the same: who held it before can do nothing with it any more. */
static bool take_over(struct pool *pool, uint32_t i, uint32_t word)
{
	uint32_t held = ((word & ~3u) + TALLY_CAND_NEXT) | TALLY_CAND_HELD;

	return __atomic_compare_exchange_n(&candidate_at(pool, i)->state, &word, held, false,
					   __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

static void check_stale(struct tally_keys *keys, struct pool *pool, uint32_t i, uint32_t word,
			uint64_t now_s)
{
	struct watch *watch = &pool->watches[i];

	keys->status.held++;
	if (watch->word != word)
		*watch = (struct watch){ .word = word, .since_s = now_s };
	if (now_s - watch->since_s < TALLY_KEYS_STALE_S || !take_over(pool, i, word))
		return;
	keys->status.stale++;
	set_free(pool, i);
}

/*
 * A candidate that no response accepted: the kernel frees it, and leaves the wiping of a long text to
 * us. We hold it meanwhile, like any owner.
 */
static void wipe_free(struct pool *pool, uint32_t i, uint32_t word)
{
	if (candidate_at(pool, i)->text[0] && take_over(pool, i, word))
		set_free(pool, i);
}

static int poll_pool(struct tally_keys *keys, struct pool *pool, uint64_t now_s)
{
	for (uint32_t i = 0; i < pool->n; i++) {
		uint32_t word = __atomic_load_n(&candidate_at(pool, i)->state, __ATOMIC_ACQUIRE);
		int err;

		switch (TALLY_CAND_STATE(word)) {
		case TALLY_CAND_HELD:
			check_stale(keys, pool, i, word, now_s);
			break;
		case TALLY_CAND_ACCEPTED:
			keys->status.accepted++;
			err = resolve(keys, pool, i);
			if (err)
				return err;
			break;
		default:
			wipe_free(pool, i, word);
		}
	}
	return 0;
}

int tally_keys_poll(struct tally_keys *keys)
{
	uint64_t now_s = tally_util_mono_ns() / TALLY_NS_PER_S;
	int err;

	keys->status.held = 0;
	keys->status.accepted = 0;
	err = poll_pool(keys, &keys->pools[0], now_s);
	return err ? err : poll_pool(keys, &keys->pools[1], now_s);
}

int tally_keys_find(struct tally_keys *keys, uint64_t hash, uint64_t epoch, uint8_t ret_sha256[32])
{
	struct known *known = place(keys->table, keys->size, hash);

	keys->epoch = TALLY_MAX(keys->epoch, epoch);
	if (!hash || !known->hash)
		return -ENOENT;
	known->epoch = TALLY_MAX(known->epoch, epoch);
	memcpy(ret_sha256, known->sha256, sizeof(known->sha256));
	return 0;
}

/* ---- making room ---- */

struct trim {
	struct tally_keys *keys;
	uint64_t epoch; /* open */
	const struct tally_keys_catalog *catalog;
	struct known **list;
	size_t n;
};

static bool is_idle(const struct known *known, uint64_t epoch)
{
	return known->epoch + TALLY_KEYS_IDLE < epoch;
}

/* Not what the kernel dropped and nobody used since. */
static bool is_kept(const struct known *known, uint64_t epoch)
{
	return known->in_kernel || !(known->forgotten || is_idle(known, epoch));
}

static bool is_stranger(const struct trim *trim, const struct known *known)
{
	return known->in_kernel && !trim->catalog->has(trim->catalog->ctx, known->sha256);
}

static bool is_gone_stranger(const struct trim *trim, const struct known *known)
{
	return !known->in_kernel && known->stranger;
}

static bool is_idle_in_kernel(const struct trim *trim, const struct known *known)
{
	return known->in_kernel && is_idle(known, trim->epoch);
}

static int by_epoch(const void *a, const void *b)
{
	const struct known *x = *(struct known *const *)a, *y = *(struct known *const *)b;

	return (x->epoch > y->epoch) - (x->epoch < y->epoch);
}

/* Those of the table that are such, the longest unused first. */
static void list(struct trim *trim, bool (*is_such)(const struct trim *, const struct known *))
{
	struct tally_keys *keys = trim->keys;

	trim->n = 0;
	for (size_t i = 0; i < keys->size; i++)
		if (keys->table[i].hash && is_such(trim, &keys->table[i]))
			trim->list[trim->n++] = &keys->table[i];
	qsort(trim->list, trim->n, sizeof(struct known *), by_epoch);
}

static int drop(struct trim *trim, struct known *known, bool stranger)
{
	struct tally_keys *keys = trim->keys;
	int fd = keys->load->maps[TALLY_MAP_DICTIONARY];

	if (bpf_map_delete_elem(fd, &known->hash) && errno != ENOENT)
		return -errno;
	known->in_kernel = false;
	known->stranger = stranger;
	known->epoch = trim->epoch;
	keys->in_kernel--;
	keys->gone += stranger;
	keys->status.dropped++;
	return 0;
}

static bool is_fuller(const struct tally_keys *keys, uint64_t percent)
{
	return (uint64_t)keys->in_kernel * 100 > (uint64_t)keys->capacity * percent;
}

/* Who has many keys in the catalog may stay above the half: not each window is all looked through then. */
static bool is_due(const struct tally_keys *keys)
{
	return keys->gone > keys->capacity || is_fuller(keys, TALLY_KEYS_FULL_PERCENT) ||
	       (is_fuller(keys, TALLY_KEYS_HALF_PERCENT) &&
		keys->in_kernel >= keys->trimmed + keys->capacity / TALLY_KEYS_NEW_PART);
}

static int drop_all(struct trim *trim)
{
	int err = 0;

	if (is_fuller(trim->keys, TALLY_KEYS_HALF_PERCENT))
		list(trim, is_stranger);
	for (size_t i = 0; !err && i < trim->n; i++)
		if (is_fuller(trim->keys, TALLY_KEYS_HALF_PERCENT))
			err = drop(trim, trim->list[i], true);
	if (err || !is_fuller(trim->keys, TALLY_KEYS_FULL_PERCENT))
		return err;
	list(trim, is_idle_in_kernel);
	for (size_t i = 0; !err && i < trim->n; i++)
		err = drop(trim, trim->list[i], false);
	return err;
}

/* K4 */
static void forget(struct trim *trim)
{
	if (trim->keys->gone <= trim->keys->capacity)
		return;
	list(trim, is_gone_stranger);
	for (size_t i = 0; i + trim->keys->capacity / 2 < trim->n; i++)
		trim->list[i]->forgotten = true;
}

int tally_keys_drop_guesses(struct tally_keys *keys, uint64_t epoch,
			    const struct tally_keys_catalog *catalog)
{
	struct trim trim = { .keys = keys, .epoch = epoch, .catalog = catalog };

	for (; keys->n_guesses; keys->n_guesses--) {
		uint64_t hash = keys->guesses[keys->n_guesses - 1];
		struct known *known = place(keys->table, keys->size, hash);
		int err = known->hash && is_stranger(&trim, known) ? drop(&trim, known, true) : 0;

		if (err)
			return err;
	}
	return 0;
}

int tally_keys_trim(struct tally_keys *keys, uint64_t epoch,
		    const struct tally_keys_catalog *catalog)
{
	struct trim trim = { .keys = keys, .epoch = epoch, .catalog = catalog };
	int err;

	if (!is_due(keys))
		return 0;
	trim.list = calloc(keys->used, sizeof(*trim.list));
	if (!trim.list)
		return -ENOMEM;
	err = drop_all(&trim);
	if (!err)
		forget(&trim);
	keys->trimmed = keys->in_kernel;
	free(trim.list);
	return err ? err : rebuild(keys, keys->size, is_kept, epoch);
}

void tally_keys_status(const struct tally_keys *keys, struct tally_keys_status *ret_status)
{
	*ret_status = keys->status;
	ret_status->entries = keys->in_kernel;
	ret_status->capacity = keys->capacity;
}
