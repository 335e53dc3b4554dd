/* SPDX-License-Identifier: Apache-2.0 */
#include "replay/meter.h"

#include <sys/mman.h>

#include <uthash.h>

#include "bpf/meter_types.h"

#define container_of(p, type, member) ((type *)((char *)(p)-offsetof(type, member)))

/* Memory ---------------------------------------------------------------------------------------- */

/* guarded: the last octet stands before a page that cannot be touched. */
struct block {
	void *map;
	size_t map_bytes;
	void *data;
};

static int block_init(struct block *b, size_t bytes, bool guarded)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (bytes + page - 1) / page * page;

	*b = (struct block){ 0 };
	if (!guarded) {
		b->data = calloc(1, bytes);
		return b->data ? 0 : -ENOMEM;
	}
	b->map =
		mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b->map == MAP_FAILED)
		return -ENOMEM;
	b->map_bytes = room + page;
	(void)mprotect((char *)b->map + room, page, PROT_NONE); /* else the test tests less */
	b->data = (char *)b->map + room - bytes;
	return 0;
}

static void block_done(struct block *b)
{
	if (b->map_bytes)
		(void)munmap(b->map, b->map_bytes); /* it is ours: cannot fail */
	else
		free(b->data);
	*b = (struct block){ 0 };
}

/* The meter's own state ------------------------------------------------------------------------- */

struct entry {
	struct tally_meter_entry e;
	UT_hash_handle hh;
};

struct known {
	uint64_t hash;
	size_t bytes;
	uint8_t *text;
	UT_hash_handle hh;
};

struct candidate {
	uint8_t *text; /* NULL: free; else TALLY_KEY_MAX + 8 octets */
	uint32_t len;
};

/* The run that ports are called with, and the way from it to the meter. */
struct env {
	struct tally_meter *meter;
	uint32_t present; /* octets of the segment that data holds */
	struct tally_run run;
};

struct tally_meter {
	struct tally_meter_options options;
	struct entry *rows;
	struct entry **order;
	size_t n_rows, room;
	struct known *keys;
	struct candidate *candidates; /* ids are index + 1, as in the kernel's maps */
	uint32_t n_candidates;	      /* in use */
	struct tally_parked *pieces;
	uint32_t n_pieces;
	uint32_t guesses; /* of this window */
	struct tally_totals totals[TALLY_SERVICES];
	struct tally_meter_conn *conns;
	struct block env_block;
	struct env *env;
	int failed; /* -ENOMEM: sticky */
};

struct tally_meter_conn {
	struct block block;
	struct tally_conn *c;
	const struct tally_rules *rules;
	struct tally_meter_conn *next, **link;
};

static struct tally_meter *meter_of(struct tally_run *run)
{
	return container_of(run, struct env, run)->meter;
}

/* Are n octets at off of the segment there, and not only known to have been? */
static bool is_present(struct tally_run *run, uint32_t off, uint32_t n)
{
	return (uint64_t)off + n <= container_of(run, struct env, run)->present;
}

/* Ports: octets --------------------------------------------------------------------------------- */

static int port_load(const void *pkt, struct tally_run *run, struct tally_chunk *chunk, __u32 off,
		     __u32 n)
{
	struct tally_meter *m = meter_of(run);
	const uint8_t *from = pkt;

	if (n > TALLY_CHUNK || (!run->source && !is_present(run, off, n)))
		return -1;
	if (run->source)
		from = m->pieces[run->source - 1].data.b;
	memcpy(chunk->b, from + off, n);
	if (m->options.guarded)
		memset(chunk->b + n, m->options.fill, sizeof(chunk->b) - n);
	return 0;
}

/* Ports: rows ----------------------------------------------------------------------------------- */

static struct entry *row_new(struct tally_meter *m, const struct tally_row_key *key)
{
	struct entry *e;

	if (m->n_rows == m->room) {
		size_t room = m->room ? 2 * m->room : 64;
		struct entry **order = reallocarray(m->order, room, sizeof(struct entry *));

		if (!order)
			return NULL;
		m->order = order;
		m->room = room;
	}
	e = calloc(1, sizeof(*e));
	if (!e)
		return NULL;
	e->e.key = *key;
	HASH_ADD(hh, m->rows, e.key, sizeof(e->e.key), e);
	m->order[m->n_rows++] = e;
	return e;
}

static void entry_add(struct entry *e, const struct tally_delta *d)
{
	e->e.row.requests += d->requests;
	e->e.row.incomplete += d->incomplete;
	e->e.row.request_bytes += d->request_bytes + d->late_bytes;
	e->e.row.response_bytes += d->response_bytes;
	e->e.row.duration_ns += d->duration_ns;
}

static int port_row_found(struct tally_run *run, const struct tally_row_key *key,
			  const struct tally_delta *d)
{
	struct entry *e;

	HASH_FIND(hh, meter_of(run)->rows, key, sizeof(*key), e);
	if (e)
		entry_add(e, d);
	return e != NULL;
}

static void port_row_add(struct tally_run *run, struct tally_conn *c, struct tally_row_key *key)
{
	struct tally_meter *m = meter_of(run);
	struct entry *e;

	HASH_FIND(hh, m->rows, key, sizeof(*key), e);
	if (!e) {
		e = row_new(m, key);
		if (!e) {
			m->failed = -ENOMEM;
			return;
		}
		memcpy(e->e.row.peer, c->peer, sizeof(c->peer));
		e->e.row.peer_port = c->peer_port;
	}
	entry_add(e, &run->delta);
}

/* Ports: keys ----------------------------------------------------------------------------------- */

static struct known *key_find(const struct tally_meter *m, uint64_t hash)
{
	struct known *k;

	HASH_FIND(hh, m->keys, &hash, sizeof(hash), k);
	return k;
}

static int key_insert(struct tally_meter *m, uint64_t hash, const void *text, size_t bytes)
{
	struct known *k;

	if (HASH_COUNT(m->keys) >= m->options.dictionary)
		return -ENOSPC;
	k = calloc(1, sizeof(*k));
	if (!k)
		return -ENOMEM;
	k->text = malloc(bytes ? bytes : 1);
	if (!k->text) {
		free(k);
		return -ENOMEM;
	}
	k->hash = hash;
	k->bytes = bytes;
	memcpy(k->text, text, bytes);
	HASH_ADD(hh, m->keys, hash, sizeof(k->hash), k);
	return 0;
}

static int port_key_known(struct tally_run *run, __u64 hash)
{
	return key_find(meter_of(run), hash) != NULL;
}

static __u32 candidate_new(struct tally_meter *m)
{
	if (m->n_candidates == m->options.candidates)
		return 0;
	for (uint32_t i = 0; i < m->options.candidates; i++) {
		if (m->candidates[i].text)
			continue;
		m->candidates[i].text = calloc(1, TALLY_KEY_MAX + 8);
		m->candidates[i].len = 0;
		if (!m->candidates[i].text) {
			m->failed = -ENOMEM;
			return 0;
		}
		m->n_candidates++;
		return i + 1;
	}
	return 0;
}

#define SPILL_LOST 0xffffffff

static void port_candidate_drop(struct tally_run *run, __u32 id)
{
	struct tally_meter *m = meter_of(run);
	struct candidate *k;

	if (!id || id == SPILL_LOST)
		return;
	k = &m->candidates[id - 1];
	explicit_bzero(k->text, TALLY_KEY_MAX + 8);
	free(k->text);
	*k = (struct candidate){ 0 };
	m->n_candidates--;
}

/* p->key_text behind what the slot holds. 0, or -1: too long, or nowhere to put it. */
static int candidate_append(struct tally_meter *m, __u32 id, const struct tally_h1 *p)
{
	struct candidate *k;

	if (id == SPILL_LOST || p->key_spilled + p->key_len > TALLY_KEY_MAX)
		return -1;
	k = &m->candidates[id - 1];
	memcpy(k->text + p->key_spilled, p->key_text, p->key_len);
	k->len = p->key_spilled + p->key_len;
	return 0;
}

static void port_spill(struct tally_run *run, struct tally_h1 *p)
{
	struct tally_meter *m = meter_of(run);

	if (!p->spill_slot)
		p->spill_slot = candidate_new(m);
	if (!p->spill_slot)
		p->spill_slot = SPILL_LOST;
	if (p->key_spilled + p->key_len > TALLY_KEY_MAX)
		p->flags |= H1_F_KEY_LIMIT;
	(void)candidate_append(m, p->spill_slot,
			       p); /* without its text a known key is known, too */
	p->key_spilled += p->key_len;
	p->key_len = 0;
}

static __u32 port_candidate_take(struct tally_run *run, struct tally_h1 *p, __u64 hash)
{
	struct tally_meter *m = meter_of(run);
	__u32 id = p->key_spilled ? p->spill_slot : candidate_new(m);

	(void)hash;
	if (!id || candidate_append(m, id, p))
		return 0;
	if (p->key_spilled)
		p->spill_slot = 0;
	return id;
}

static int port_key_learn(struct tally_run *run, __u64 hash, __u32 id, int guess)
{
	struct tally_meter *m = meter_of(run);
	const struct candidate *k = &m->candidates[id - 1];
	int r;

	if (!key_find(m, hash)) {
		r = key_insert(m, hash, k->text, k->len);
		if (r == -ENOMEM)
			m->failed = r;
		if (r)
			return -1;
	}
	port_candidate_drop(run, id);
	return 0;
}

static int port_key_guess(struct tally_run *run)
{
	struct tally_meter *m = meter_of(run);

	if (m->guesses >= m->options.guesses)
		return -1;
	m->guesses++;
	return 0;
}

/* Ports: parked pieces -------------------------------------------------------------------------- */

static __u32 piece_new(struct tally_meter *m)
{
	for (uint32_t i = 0; m->n_pieces < m->options.pieces && i < m->options.pieces; i++) {
		if (m->pieces[i].busy)
			continue;
		m->pieces[i].busy = 1;
		m->n_pieces++;
		return i + 1;
	}
	return 0;
}

static void piece_free(struct tally_meter *m, __u32 id)
{
	memset(&m->pieces[id - 1], 0, sizeof(m->pieces[id - 1]));
	m->n_pieces--;
}

static int port_park(const void *pkt, struct tally_run *run, struct tally_conn *c)
{
	struct tally_meter *m = meter_of(run);
	__u32 *slots = c->parked[run->dir];

	run->at = 0;
	for (uint32_t i = 0; i < TALLY_PARK_PIECES && run->at < run->len; i++) {
		__u32 n = TALLY_MIN(run->len - run->at, (__u32)TALLY_CHUNK);
		struct tally_parked *k;

		if (slots[i])
			continue;
		slots[i] = is_present(run, run->off + run->at, n) ? piece_new(m) : 0;
		if (!slots[i])
			return -1;
		c->parked_count[run->dir]++;
		k = &m->pieces[slots[i] - 1];
		k->seq = run->seq + run->at;
		k->len = n;
		k->since_ns = run->now;
		memcpy(k->data.b, (const uint8_t *)pkt + run->off + run->at, k->len);
		run->at += k->len;
	}
	return run->at < run->len ? -1 : 0;
}

static int port_parked_at(struct tally_run *run, struct tally_conn *c, __u32 i, __u32 *seq)
{
	__u32 id = c->parked[run->dir][i];

	if (!id)
		return 0;
	*seq = meter_of(run)->pieces[id - 1].seq;
	return 1;
}

static struct tally_chunk *port_parked(struct tally_run *run, struct tally_conn *c, __u32 i,
				       __u32 *seq, __u32 *len)
{
	__u32 id = c->parked[run->dir][i];
	struct tally_parked *k;

	if (!id)
		return NULL;
	k = &meter_of(run)->pieces[id - 1];
	*seq = k->seq;
	*len = k->len;
	return &k->data;
}

static int port_unpark(struct tally_run *run, struct tally_conn *c, __u32 i)
{
	__u32 id = c->parked[run->dir][i];
	const struct tally_parked *k;

	if (!id)
		return 0;
	k = &meter_of(run)->pieces[id - 1];
	run->source = id;
	run->raw = 0; /* no locks, hence always compared */
	run->seq = k->seq;
	run->len = k->len;
	run->off = 0;
	run->at = 0;
	return 1;
}

static void port_park_drop(struct tally_run *run, struct tally_conn *c, __u32 i)
{
	__u32 id = c->parked[run->dir][i];

	if (!id)
		return;
	c->parked[run->dir][i] = 0;
	c->parked_count[run->dir]--;
	piece_free(meter_of(run), id);
}

/* Ports: octets looked at that TCP has not taken yet ------------------------------------------- */

/* Behind the octets that were kept last, if these follow them. */
static bool kept_join(struct tally_meter *m, struct tally_conn *c)
{
	uint32_t id = c->kept[c->kept_last];
	struct tally_parked *k = id ? &m->pieces[id - 1] : NULL;

	if (!k || !conn_joins(c, k->seq, k->len))
		return false;
	memcpy(k->data.b + k->len, c->seen.b, c->seen_len);
	k->len += c->seen_len;
	return true;
}

static void port_keep(struct tally_run *run, struct tally_conn *c)
{
	struct tally_meter *m = meter_of(run);
	struct tally_parked *k;
	uint32_t i = 0;

	if (kept_join(m, c))
		return;
	while (i < TALLY_KEPT && c->kept[i])
		i++;
	if (i == TALLY_KEPT)
		return;
	c->kept[i] = piece_new(m);
	if (!c->kept[i])
		return;
	c->kept_last = i;
	c->kept_count++;
	k = &m->pieces[c->kept[i] - 1];
	k->seq = c->seen_at;
	k->len = c->seen_len;
	memcpy(k->data.b, c->seen.b, k->len);
}

static struct tally_chunk *port_kept(struct tally_run *run, struct tally_conn *c, __u32 i,
				     __u32 *seq, __u32 *len)
{
	struct tally_parked *k = c->kept[i] ? &meter_of(run)->pieces[c->kept[i] - 1] : NULL;

	if (!k)
		return NULL;
	*seq = k->seq;
	*len = k->len;
	return &k->data;
}

static void port_kept_drop(struct tally_run *run, struct tally_conn *c, __u32 i)
{
	if (!c->kept[i])
		return;
	piece_free(meter_of(run), c->kept[i]);
	c->kept[i] = 0;
	c->kept_count--;
}

#include "bpf/meter.h"

/* The meter ------------------------------------------------------------------------------------- */

int tally_meter_new(const struct tally_meter_options *options, struct tally_meter **ret_meter)
{
	_cleanup_(tally_meter_freep) struct tally_meter *m = calloc(1, sizeof(*m));
	int r;

	if (!m)
		return -ENOMEM;
	if (options)
		m->options = *options;
	if (!m->options.candidates)
		m->options.candidates = TALLY_CANDIDATES;
	if (!m->options.dictionary)
		m->options.dictionary = UINT32_MAX;
	if (!m->options.pieces)
		m->options.pieces = TALLY_PARK_POOL;
	if (!m->options.guesses)
		m->options.guesses = TALLY_GUESSES;
	m->candidates = calloc(m->options.candidates, sizeof(*m->candidates));
	m->pieces = calloc(m->options.pieces, sizeof(*m->pieces));
	if (!m->candidates || !m->pieces)
		return -ENOMEM;
	r = block_init(&m->env_block, sizeof(*m->env), m->options.guarded);
	if (r)
		return r;
	m->env = m->env_block.data;
	m->env->meter = m;
	*ret_meter = TAKE_PTR(m);
	return 0;
}

static void conn_free(struct tally_meter_conn *conn)
{
	*conn->link = conn->next;
	if (conn->next)
		conn->next->link = conn->link;
	block_done(&conn->block);
	free(conn);
}

void tally_meter_free(struct tally_meter *meter)
{
	struct known *k, *next;

	if (!meter)
		return;
	while (meter->conns)
		conn_free(meter->conns);
	tally_meter_swap(meter);
	HASH_ITER(hh, meter->keys, k, next) {
		HASH_DEL(meter->keys, k);
		explicit_bzero(k->text, k->bytes);
		free(k->text);
		free(k);
	}
	for (uint32_t i = 0; meter->candidates && i < meter->options.candidates; i++)
		free(meter->candidates[i].text);
	free(meter->candidates);
	free(meter->pieces);
	free(meter->order);
	block_done(&meter->env_block);
	free(meter);
}

void tally_meter_swap(struct tally_meter *meter)
{
	struct entry *e, *next;

	HASH_ITER(hh, meter->rows, e, next) {
		HASH_DEL(meter->rows, e);
		free(e);
	}
	meter->n_rows = 0;
	meter->guesses = 0;
	memset(meter->totals, 0, sizeof(meter->totals));
}

int tally_meter_open(struct tally_meter *meter, const struct tally_meter_birth *birth,
		     struct tally_meter_conn **ret_conn)
{
	struct tally_meter_conn *conn = calloc(1, sizeof(*conn));
	int r;

	if (!conn)
		return -ENOMEM;
	r = block_init(&conn->block, sizeof(*conn->c), meter->options.guarded);
	if (r) {
		free(conn);
		return r;
	}
	conn->c = conn->block.data;
	conn->rules = birth->rules;
	if (birth->midstream)
		tally_conn_join(conn->c);
	else
		tally_conn_born(conn->c, birth->next_in, birth->next_out);
	conn->c->service = birth->rules->service;
	conn->c->cookie = birth->cookie;
	memcpy(conn->c->peer, birth->peer, sizeof(birth->peer));
	conn->c->peer_port = birth->peer_port;
	conn->next = meter->conns;
	conn->link = &meter->conns;
	if (conn->next)
		conn->next->link = &conn->next;
	meter->conns = conn;
	*ret_conn = conn;
	return 0;
}

static void run_begin(struct tally_run *run, const struct tally_meter_segment *s)
{
	run->now = s->now_ns;
	run->hour = (__u32)(s->now_ns / (3600 * TALLY_NS_PER_S));
	run->rcv_nxt = s->rcv_nxt;
	run->snd_nxt = s->snd_nxt;
	run->snd_una = s->snd_una;
	run->flags = 0;
	run->source = 0;
	run->at = 0;
}

/* Early request octets whose turn may have come by now: read before the answer to them. */
static void catch_up(struct tally_meter *meter, struct tally_meter_conn *conn)
{
	struct tally_totals *t = &meter->totals[conn->c->service % TALLY_SERVICES];
	struct tally_run *run = &meter->env->run;
	struct meter_loop l = { NULL, run, conn->c, conn->rules, t };

	run->dir = TALLY_IN;
	meter_catch_up(&l);
}

static void drop_pieces(struct tally_run *run, struct tally_conn *c)
{
	for (uint32_t dir = 0; dir < 2; dir++)
		for (uint32_t i = 0; i < TALLY_PARK_PIECES; i++) {
			run->dir = dir;
			port_park_drop(run, c, i);
		}
	for (uint32_t i = 0; i < TALLY_KEPT; i++)
		port_kept_drop(run, c, i);
}

/* Joined midway: here it may begin anew. What was known of it ends in the books. */
static void join_again(struct tally_meter *meter, struct tally_meter_conn *conn)
{
	struct tally_totals *t = &meter->totals[conn->c->service % TALLY_SERVICES];
	struct tally_run *run = &meter->env->run;
	__u32 dir = run->dir;

	if (meter_may_join(run, conn->c)) {
		meter_close(run, conn->c, conn->rules, t);
		drop_pieces(run, conn->c);
		run->dir = dir;
		tally_conn_again(conn->c);
	}
	meter_asked(run, conn->c);
}

int tally_meter_segment(struct tally_meter *meter, struct tally_meter_conn *conn,
			const struct tally_meter_segment *segment)
{
	struct tally_totals *t = &meter->totals[conn->c->service % TALLY_SERVICES];
	struct tally_run *run = &meter->env->run;
	void *data = (void *)(uintptr_t)segment->data; /* ports only read it */

	meter->env->present = segment->len - segment->missing;
	run_begin(run, segment);
	if (segment->dir == TALLY_METER_OUT && conn->c->parked_count[TALLY_IN])
		catch_up(meter, conn);
	run_begin(run, segment);
	run->dir = segment->dir;
	run->seq = segment->seq;
	run->len = segment->len;
	run->off = 0;
	run->flags = (segment->fin ? SEG_FIN : 0) | (segment->urgent ? SEG_URG : 0);
	if (conn->c->midstream)
		join_again(meter, conn);
	t->connections += !conn->c->counted;
	conn->c->counted = 1;
	if (segment->len || segment->fin || segment->urgent || conn->c->parked_count[TALLY_IN] ||
	    conn->c->parked_count[TALLY_OUT])
		if (!meter_plain_segment(data, run, run->dir, conn->c, conn->rules, t))
			meter_any_segment(data, run, conn->c, conn->rules, t);
	return meter->failed;
}

int tally_meter_close(struct tally_meter *meter, struct tally_meter_conn *conn,
		      const struct tally_meter_segment *last)
{
	struct tally_totals *t = &meter->totals[conn->c->service % TALLY_SERVICES];
	struct tally_run *run = &meter->env->run;

	run_begin(run, last);
	meter_close(run, conn->c, conn->rules, t);
	drop_pieces(run, conn->c);
	conn_free(conn);
	return meter->failed;
}

/* What it holds --------------------------------------------------------------------------------- */

void tally_meter_held(const struct tally_meter *meter, const struct tally_meter_conn *conn,
		      struct tally_meter_held *ret_held)
{
	const struct tally_conn *c = conn->c;
	struct tally_meter_held held = { 0 };

	held.exchanges = conn_waiting(c) + (c->over_head - c->over_tail);
	if (c->responding && !conn_waiting(c))
		held.exchanges++;
	held.octets[TALLY_IN] =
		c->way[TALLY_IN].h1.octets + c->over_bytes + c->orphan.request_bytes;
	held.octets[TALLY_OUT] = c->way[TALLY_OUT].h1.octets;
	for (uint32_t i = 0; i < TALLY_PIPELINE; i++)
		held.octets[TALLY_IN] += c->queue[i].request_bytes;
	for (uint32_t dir = 0; dir < 2; dir++)
		for (uint32_t i = 0; i < TALLY_PARK_PIECES; i++)
			if (c->parked[dir][i])
				held.parked[dir] += meter->pieces[c->parked[dir][i] - 1].len;
	*ret_held = held;
}

size_t tally_meter_rows(const struct tally_meter *meter)
{
	return meter->n_rows;
}

const struct tally_meter_entry *tally_meter_row(const struct tally_meter *meter, size_t i)
{
	return i < meter->n_rows ? &meter->order[i]->e : NULL;
}

const struct tally_totals *tally_meter_totals(const struct tally_meter *meter, uint16_t service)
{
	return &meter->totals[service % TALLY_SERVICES];
}

const void *tally_meter_key(const struct tally_meter *meter, uint64_t hash, size_t *ret_bytes)
{
	const struct known *k = key_find(meter, hash);

	if (!k)
		return NULL;
	*ret_bytes = k->bytes;
	return k->text;
}

size_t tally_meter_keys(const struct tally_meter *meter)
{
	return HASH_COUNT(meter->keys);
}

const void *tally_meter_key_nth(const struct tally_meter *meter, size_t n, size_t *ret_bytes)
{
	const struct known *k = meter->keys;

	while (k && n--)
		k = k->hh.next;
	if (!k)
		return NULL;
	*ret_bytes = k->bytes;
	return k->text;
}

int tally_meter_know(struct tally_meter *meter, const struct tally_rules *rules, const void *text,
		     size_t bytes)
{
	const __u64 secret[2] = { rules->secret[0], rules->secret[1] };
	uint64_t hash = tally_key_hash(text, (__u32)bytes, secret);

	return key_find(meter, hash) ? 0 : key_insert(meter, hash, text, bytes);
}

size_t tally_meter_candidates(const struct tally_meter *meter)
{
	return meter->n_candidates;
}

size_t tally_meter_pieces(const struct tally_meter *meter)
{
	return meter->n_pieces;
}
