/* SPDX-License-Identifier: Apache-2.0 */
#include "account/account.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NS_PER_S 1000000000ULL
#define HOUR_S 3600ULL

/* What became of a row of the pile: names, window, and how it is charged. */
struct named {
	struct tally_sealed_row row;
	bool billable, charge_truncated;
};

/* Rows added up over connections: a hash table of indices into `rows`. */
struct pile {
	struct tally_frozen_row *rows;
	size_t n_rows;
	__u32 *slots; /* index + 1 */
	size_t cap;
	/* Only if connections are kept: */
	__u32 *place; /* of each row of the epoch in `rows` */
	struct named *named;
};

/* What one epoch is closed with. */
struct closing {
	const struct tally_frozen *frozen;
	const struct tally_resolver *resolver;
	struct tally_sealed *sealed;
	__u64 start_s, end_s;
};

enum tally_reason tally_account_reason(__u16 status, enum tally_attribution attribution,
				       bool health)
{
	if (attribution != TALLY_ATTR_KEY)
		return TALLY_REASON_UNATTRIBUTED;
	if (status == 0)
		return TALLY_REASON_ABORTED;
	if (health)
		return TALLY_REASON_HEALTH;
	if (status < 400)
		return TALLY_REASON_SUCCESS;
	if (status == 401 || status == 403 || status == 407)
		return TALLY_REASON_AUTH;
	if (status == 429)
		return TALLY_REASON_RATE_LIMITED;
	return status < 500 ? TALLY_REASON_CLIENT_ERROR : TALLY_REASON_SERVER_ERROR;
}

static void pile_done(struct pile *pile)
{
	free(pile->rows);
	free(pile->slots);
	free(pile->place);
	free(pile->named);
}

static int pile_init(struct pile *pile, size_t n, bool by_connection)
{
	pile->cap = 64;
	while (pile->cap < n * 2)
		pile->cap *= 2;
	pile->rows = calloc(n ? n : 1, sizeof(*pile->rows));
	pile->slots = calloc(pile->cap, sizeof(*pile->slots));
	if (by_connection) {
		pile->place = calloc(n ? n : 1, sizeof(*pile->place));
		pile->named = calloc(n ? n : 1, sizeof(*pile->named));
	}
	return pile->rows && pile->slots && (!by_connection || (pile->place && pile->named))
		       ? 0
		       : -ENOMEM;
}

static __u64 key_hash(const struct tally_row_key *key)
{
	__u64 words[sizeof(*key) / 8], h = 0x9e3779b97f4a7c15ULL;

	memcpy(words, key, sizeof(words));
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		h = (h ^ words[i]) * 0xff51afd7ed558ccdULL;
		h ^= h >> 32;
	}
	return h;
}

static bool wraps(const struct tally_row *a, const struct tally_row *b)
{
	return a->requests + b->requests < a->requests ||
	       a->request_bytes + b->request_bytes < a->request_bytes ||
	       a->response_bytes + b->response_bytes < a->response_bytes ||
	       a->duration_ns + b->duration_ns < a->duration_ns;
}

/* A sum that would wrap starts a row of its own: both are shipped. Returns the row's place. */
static __u32 pile_add(struct pile *pile, const struct tally_frozen_row *row)
{
	struct tally_frozen_row one = *row;
	struct tally_row *sum;
	size_t at;

	one.key.conn = 0;
	at = key_hash(&one.key) & (pile->cap - 1);
	while (pile->slots[at] &&
	       memcmp(&pile->rows[pile->slots[at] - 1].key, &one.key, sizeof(one.key)) != 0)
		at = (at + 1) & (pile->cap - 1);
	sum = pile->slots[at] ? &pile->rows[pile->slots[at] - 1].row : NULL;
	if (!sum || wraps(sum, &one.row)) {
		pile->rows[pile->n_rows++] = one;
		pile->slots[at] = (__u32)pile->n_rows;
		return pile->slots[at] - 1;
	}
	sum->requests += one.row.requests;
	sum->incomplete += one.row.incomplete;
	sum->request_bytes += one.row.request_bytes;
	sum->response_bytes += one.row.response_bytes;
	sum->duration_ns += one.row.duration_ns;
	return pile->slots[at] - 1;
}

/*
 * The window clipped to the row's hour. A row booked while the window was being closed, or under a
 * clock that was corrected since, can lie in an hour that the window does not touch: it gets the
 * second of its hour that is nearest to the window.
 */
static void clip(const struct closing *c, __u32 hour, struct tally_sealed_row *row)
{
	__u64 first = hour * HOUR_S, end = first + HOUR_S;

	row->hour = hour;
	row->start_s = c->start_s > first ? c->start_s : first;
	row->end_s = c->end_s < end ? c->end_s : end;
	if (row->start_s < row->end_s)
		return;
	row->start_s = c->end_s <= first ? first : end - 1;
	row->end_s = row->start_s + 1;
}

/* A key is valid, or not, when the row begins: a window can last for days. */
static int add_owner(struct closing *c, struct tally_row_key *key, __u64 time_s, bool *ret_billable,
		     __u32 *ret_index)
{
	struct tally_sealed_owner owner = { 0 };
	struct tally_owner who = { 0 };
	int r;

	*ret_billable = true;
	if (key->attribution == TALLY_ATTR_KEY) {
		r = c->resolver->owner(c->resolver->ctx, key->key, time_s, &who);
		if (r < 0 && r != -ENOENT)
			return r;
		if (r == -ENOENT) {
			who = (struct tally_owner){ 0 };
			key->attribution = TALLY_ATTR_DICTIONARY_FULL;
			key->detail = TALLY_DETAIL_NO_CANDIDATE;
		} else {
			*ret_billable = who.billable;
			owner.key_ref = (__u8)who.key_ref;
			owner.mode = (__u8)who.mode;
		}
	}
	r = tally_sealed_text(c->sealed, who.customer, &owner.customer);
	if (r == 0)
		r = tally_sealed_text(c->sealed, who.api_key, &owner.api_key);
	return r < 0 ? r : tally_sealed_owner(c->sealed, &owner, ret_index);
}

static int add_tariff(struct closing *c, const struct tally_terms *terms, __u32 *ret_index)
{
	struct tally_sealed_unit units[TALLY_UNITS_MAX] = { 0 };
	int r = 0;

	if (terms->n_units > TALLY_UNITS_MAX)
		return -EINVAL;
	for (size_t i = 0; r == 0 && i < terms->n_units; i++) {
		units[i].amount = terms->units[i].amount;
		r = tally_sealed_text(c->sealed, terms->units[i].name, &units[i].name);
	}
	return r < 0 ? r : tally_sealed_tariff(c->sealed, units, terms->n_units, ret_index);
}

static int add_names(struct closing *c, const struct tally_terms *terms,
		     struct tally_sealed_shape *shape)
{
	int r;

	r = tally_sealed_text(c->sealed, terms->service, &shape->service);
	if (r == 0)
		r = tally_sealed_text(c->sealed, terms->route, &shape->route);
	if (r == 0)
		r = tally_sealed_text(c->sealed, terms->method, &shape->method);
	if (r == 0)
		r = tally_sealed_text(c->sealed, terms->ruleset, &shape->ruleset);
	return r < 0 ? r : add_tariff(c, terms, &shape->tariff);
}

static int add_origin(struct closing *c, __u32 origin, struct tally_sealed_shape *shape)
{
	struct tally_origin o = { 0 };
	int r;

	if (!origin || !c->resolver->origin)
		return 0;
	c->resolver->origin(c->resolver->ctx, origin, &o);
	r = tally_sealed_text(c->sealed, o.namespace, &shape->namespace);
	if (r == 0)
		r = tally_sealed_text(c->sealed, o.workload, &shape->workload);
	if (r == 0)
		r = tally_sealed_text(c->sealed, o.pod, &shape->pod);
	return r < 0 ? r : tally_sealed_text(c->sealed, o.node, &shape->node);
}

static void unknown_terms(struct closing *c, __u16 service, struct tally_terms *ret_terms)
{
	const char *name = c->resolver->service(c->resolver->ctx, service);

	*ret_terms = (struct tally_terms){
		.service = name ? name : "_unknown",
		.route = "_unknown",
		.method = "_unknown",
	};
}

static int get_terms(struct closing *c, const struct tally_row_key *key, __u64 requests,
		     struct tally_terms *ret_terms)
{
	int r = c->resolver->terms(c->resolver->ctx, key, ret_terms);

	if (r != -ENOENT)
		return r;
	unknown_terms(c, key->service, ret_terms);
	c->sealed->totals.unresolved += requests;
	return 0;
}

/* Only what has a known payer, or is anonymous by the service's own choice, is ever charged. */
static bool chargeable(const struct tally_row_key *key, const struct tally_terms *terms)
{
	return terms->billable && !terms->health && key->status != 0 &&
	       (key->attribution == TALLY_ATTR_KEY || key->attribution == TALLY_ATTR_ANONYMOUS);
}

static void take_sums(const struct tally_row *row, bool billable, bool charge_truncated,
		      struct tally_sealed_sums *sums)
{
	__u64 whole = row->requests > row->incomplete ? row->requests - row->incomplete : 0;

	sums->requests = row->requests;
	sums->incomplete = row->incomplete;
	sums->request_bytes = row->request_bytes;
	sums->response_bytes = row->response_bytes;
	sums->duration_ns = row->duration_ns;
	if (billable)
		sums->chargeable = charge_truncated ? row->requests : whole;
}

/* What the kernel counted as one thing, and the books say is another. Attribution KEY is `attributed`. */
static void move(struct tally_sealed_totals *totals, __u8 from, __u8 to, __u64 requests)
{
	*(from == TALLY_ATTR_KEY ? &totals->attributed : &totals->unattributed[from]) -= requests;
	*(to == TALLY_ATTR_KEY ? &totals->attributed : &totals->unattributed[to]) += requests;
}

/* The same for a row: aborted requests (status 0) are in neither. */
static void move_answered(struct tally_sealed_totals *totals, const struct tally_row_key *key,
			  __u8 attribution, __u64 requests)
{
	if (key->status != 0 && key->attribution < TALLY_ATTR_COUNT)
		move(totals, key->attribution, attribution, requests);
}

static int add_row(struct closing *c, const struct tally_frozen_row *from, struct named *ret_named)
{
	struct tally_row_key key = from->key;
	struct tally_sealed_shape shape = { 0 };
	struct tally_sealed_row row = { 0 };
	struct tally_terms terms = { 0 };
	bool billable;
	int r;

	if (key.attribution >= TALLY_ATTR_COUNT)
		key.attribution = TALLY_ATTR_LIMIT;
	if (key.detail >= TALLY_DETAIL_COUNT)
		key.detail = TALLY_DETAIL_NONE;
	clip(c, key.hour, &row);
	r = add_owner(c, &key, row.start_s, &billable, &row.owner);
	if (r == 0)
		r = get_terms(c, &key, from->row.requests, &terms);
	if (r == 0)
		r = add_names(c, &terms, &shape);
	if (r == 0)
		r = add_origin(c, key.origin, &shape);
	if (r < 0)
		return r;
	if (from->key.attribution != key.attribution) {
		c->sealed->totals.unresolved += from->row.requests;
		move_answered(&c->sealed->totals, &from->key, key.attribution, from->row.requests);
	}
	billable = billable && chargeable(&key, &terms);
	shape.status = key.status;
	shape.protocol = key.protocol < TALLY_PROTO_COUNT ? key.protocol : TALLY_PROTO_UNKNOWN;
	shape.attribution = key.attribution;
	shape.detail = key.detail;
	shape.reason = (__u8)tally_account_reason(key.status, key.attribution, terms.health);
	shape.billable = billable;
	take_sums(&from->row, billable, terms.charge_truncated, &row.sums);
	r = tally_sealed_shape(c->sealed, &shape, &row.shape);
	*ret_named = (struct named){ row, billable, terms.charge_truncated };
	return r < 0 ? r : tally_sealed_add(c->sealed, &row);
}

/* A row of the epoch as its connection's part of the sealed row it went into. */
static int add_connection(struct closing *c, const struct tally_frozen_row *from,
			  const struct named *named)
{
	struct tally_sealed_connection one = { .row = named->row };

	take_sums(&from->row, named->billable, named->charge_truncated, &one.row.sums);
	tally_peer_take(from, c->resolver->connections, &one.peer);
	return tally_sealed_add_connection(c->sealed, &one);
}

/* The whole row is of no connection that is known. */
static int add_unconnected(struct closing *c, const struct tally_sealed_row *row)
{
	const struct tally_sealed_connection one = { .row = *row };

	return c->resolver->connections ? tally_sealed_add_connection(c->sealed, &one) : 0;
}

/* Sums that found no row: they keep the service, and the books still close. */
static int add_lost(struct closing *c, __u16 service, const struct tally_lost *lost)
{
	struct tally_sealed_owner owner = { 0 };
	struct tally_sealed_shape shape = {
		.attribution = TALLY_ATTR_OVERFLOW,
		.detail = TALLY_DETAIL_LEDGER_FULL,
		.reason = TALLY_REASON_UNATTRIBUTED,
	};
	struct tally_sealed_row row = {
		.sums = { .requests = lost->requests,
			  .incomplete = lost->incomplete,
			  .request_bytes = lost->request_bytes,
			  .response_bytes = lost->response_bytes,
			  .duration_ns = lost->duration_ns },
	};
	struct tally_terms terms;
	int r;

	unknown_terms(c, service, &terms);
	terms.route = "_other";
	terms.method = "_other";
	clip(c, (__u32)(c->start_s / HOUR_S), &row);
	for (int i = 0; i < TALLY_ATTR_COUNT; i++)
		move(&c->sealed->totals, (__u8)i, TALLY_ATTR_OVERFLOW, lost->answered[i]);
	r = tally_sealed_owner(c->sealed, &owner, &row.owner);
	if (r == 0)
		r = add_names(c, &terms, &shape);
	if (r == 0)
		r = tally_sealed_shape(c->sealed, &shape, &row.shape);
	if (r == 0)
		r = add_unconnected(c, &row);
	return r < 0 ? r : tally_sealed_add(c->sealed, &row);
}

static void add_totals(struct tally_sealed_totals *into, const struct tally_totals *from)
{
	into->seen += from->seen;
	into->held_enter += from->held_enter;
	into->held_leave += from->held_leave;
	into->attributed += from->attributed;
	into->aborted += from->aborted;
	into->connections += from->connections;
	for (int i = 0; i < TALLY_ATTR_COUNT; i++)
		into->unattributed[i] += from->unattributed[i];
	for (int i = 0; i < 8; i++)
		into->unparsed_bytes[i] += from->unparsed_bytes[0][i] + from->unparsed_bytes[1][i];
	into->bytes[0] += from->bytes[0];
	into->bytes[1] += from->bytes[1];
	for (__u32 i = 0; i < TALLY_GAP_COUNT; i++)
		into->gaps[i] += tally_totals_gap(from, i);
}

static int close_services(struct closing *c)
{
	static const struct tally_lost none;
	int r = 0;

	for (size_t i = 0; r == 0 && i < c->frozen->n_services; i++) {
		const struct tally_totals *totals = &c->frozen->totals[i];

		add_totals(&c->sealed->totals, totals);
		if (memcmp(&totals->lost, &none, sizeof(none)) != 0)
			r = add_lost(c, (__u16)i, &totals->lost);
	}
	return r;
}

static int close_rows(struct closing *c)
{
	bool by_connection = c->resolver->connections != NULL;
	const struct tally_frozen_row *rows = c->frozen->rows;
	size_t n = c->frozen->n_rows;
	struct pile pile = { 0 };
	int r = pile_init(&pile, n, by_connection);

	for (size_t i = 0; r == 0 && i < n; i++) {
		__u32 place = pile_add(&pile, &rows[i]);

		if (by_connection)
			pile.place[i] = place;
	}
	for (size_t i = 0; r == 0 && i < pile.n_rows; i++) {
		struct named named;

		r = add_row(c, &pile.rows[i], &named);
		if (r == 0 && by_connection)
			pile.named[i] = named;
	}
	for (size_t i = 0; r == 0 && by_connection && i < n; i++)
		r = add_connection(c, &rows[i], &pile.named[pile.place[i]]);
	pile_done(&pile);
	return r;
}

int tally_account_close(const struct tally_frozen *frozen, const struct tally_resolver *resolver,
			struct tally_sealed *ret_sealed)
{
	struct tally_sealed sealed;
	struct closing c = {
		.frozen = frozen,
		.resolver = resolver,
		.sealed = &sealed,
		.start_s = frozen->start_ns / NS_PER_S,
		.end_s = (frozen->end_ns + NS_PER_S - 1) / NS_PER_S,
	};
	int r;

	if (c.end_s <= c.start_s || frozen->cause >= TALLY_CAUSE_COUNT)
		return -EINVAL;
	tally_sealed_init(&sealed);
	sealed.by_connection = resolver->connections != NULL;
	r = close_rows(&c);
	if (r == 0)
		r = close_services(&c);
	if (r < 0) {
		tally_sealed_done(&sealed);
		return r;
	}
	tally_sealed_settle(&sealed);
	sealed.windows = 1;
	sealed.start_s = c.start_s;
	sealed.end_s = c.end_s;
	memcpy(sealed.ledger, frozen->ledger, sizeof(sealed.ledger));
	sealed.number = frozen->number;
	sealed.cause = (__u8)frozen->cause;
	*ret_sealed = sealed;
	return 0;
}
