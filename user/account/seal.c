/* SPDX-License-Identifier: Apache-2.0 */
#include "account/seal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Open-addressed lookup: element index + 1, and enough of its hash to grow without the elements. */
struct slot {
	__u32 hash;
	__u32 index;
};

struct table {
	struct slot *slots;
	size_t cap; /* power of two, at most half full */
	size_t used;
};

struct tally_intern {
	struct table texts, owners, shapes;
};

typedef bool same_fn(const struct tally_sealed *sealed, __u32 index, const void *what);

static __u32 hash_bytes(const void *data, size_t len)
{
	const __u8 *p = data;
	__u64 h = 0xcbf29ce484222325ULL;

	for (size_t i = 0; i < len; i++)
		h = (h ^ p[i]) * 0x100000001b3ULL;
	h = (h ^ h >> 32) * 0xff51afd7ed558ccdULL;
	return (__u32)(h >> 32);
}

static int table_grow(struct table *table)
{
	size_t cap = table->cap ? table->cap * 2 : 64;
	struct slot *slots = calloc(cap, sizeof(*slots));

	if (!slots)
		return -ENOMEM;
	for (size_t i = 0; i < table->cap; i++) {
		size_t at = table->slots[i].hash & (cap - 1);

		if (!table->slots[i].index)
			continue;
		while (slots[at].index)
			at = (at + 1) & (cap - 1);
		slots[at] = table->slots[i];
	}
	free(table->slots);
	table->slots = slots;
	table->cap = cap;
	return 0;
}

/* The slot of an equal element, or the free one where it belongs. */
static int table_slot(struct table *table, __u32 hash, same_fn *same,
		      const struct tally_sealed *sealed, const void *what, struct slot **ret_slot)
{
	size_t at;

	if (table->used * 2 >= table->cap && table_grow(table) < 0)
		return -ENOMEM;
	at = hash & (table->cap - 1);
	while (table->slots[at].index) {
		const struct slot *slot = &table->slots[at];

		if (slot->hash == hash && same(sealed, slot->index - 1, what))
			break;
		at = (at + 1) & (table->cap - 1);
	}
	*ret_slot = &table->slots[at];
	return 0;
}

/* Room for one more element of an array that grows by doubling from 16. */
static int array_grow(void **array, size_t n, size_t size)
{
	void *p;

	if (n && (n < 16 || (n & (n - 1))))
		return 0;
	p = realloc(*array, (n ? n * 2 : 16) * size);
	if (!p)
		return -ENOMEM;
	*array = p;
	return 0;
}

void tally_sealed_init(struct tally_sealed *sealed)
{
	*sealed = (struct tally_sealed){ 0 };
}

void tally_sealed_done(struct tally_sealed *sealed)
{
	for (size_t i = 0; i < sealed->n_strings; i++)
		free(sealed->strings[i]);
	free(sealed->strings);
	free(sealed->owners);
	free(sealed->units);
	free(sealed->tariffs);
	free(sealed->shapes);
	free(sealed->rows);
	free(sealed->connections);
	if (sealed->intern) {
		free(sealed->intern->texts.slots);
		free(sealed->intern->owners.slots);
		free(sealed->intern->shapes.slots);
		free(sealed->intern);
	}
	*sealed = (struct tally_sealed){ 0 };
}

static bool same_text(const struct tally_sealed *sealed, __u32 index, const void *what)
{
	return strcmp(sealed->strings[index], what) == 0;
}

static bool same_owner(const struct tally_sealed *sealed, __u32 index, const void *what)
{
	return memcmp(&sealed->owners[index], what, sizeof(*sealed->owners)) == 0;
}

static bool same_shape(const struct tally_sealed *sealed, __u32 index, const void *what)
{
	return memcmp(&sealed->shapes[index], what, sizeof(*sealed->shapes)) == 0;
}

static int add_text(struct tally_sealed *sealed, const char *text)
{
	char *copy;

	if (array_grow((void **)&sealed->strings, sealed->n_strings, sizeof(char *)) < 0)
		return -ENOMEM;
	copy = strdup(text);
	if (!copy)
		return -ENOMEM;
	sealed->strings[sealed->n_strings++] = copy;
	return 0;
}

/* Lookup tables come with the first text; a decoded one has none and cannot be added to. */
static int building(struct tally_sealed *sealed)
{
	if (sealed->intern)
		return 0;
	if (sealed->n_strings)
		return -EINVAL;
	sealed->intern = calloc(1, sizeof(*sealed->intern));
	if (!sealed->intern)
		return -ENOMEM;
	return add_text(sealed, "");
}

int tally_sealed_text(struct tally_sealed *sealed, const char *text, __u32 *ret_index)
{
	struct slot *slot = NULL;
	__u32 hash;
	int r;

	r = building(sealed);
	if (r < 0)
		return r;
	if (!text || !*text) {
		*ret_index = TALLY_NO_TEXT;
		return 0;
	}
	hash = hash_bytes(text, strlen(text));
	r = table_slot(&sealed->intern->texts, hash, same_text, sealed, text, &slot);
	if (r < 0)
		return r;
	if (!slot->index) {
		r = add_text(sealed, text);
		if (r < 0)
			return r;
		*slot = (struct slot){ hash, (__u32)sealed->n_strings };
		sealed->intern->texts.used++;
	}
	*ret_index = slot->index - 1;
	return 0;
}

int tally_sealed_owner(struct tally_sealed *sealed, const struct tally_sealed_owner *owner,
		       __u32 *ret_index)
{
	__u32 hash = hash_bytes(owner, sizeof(*owner));
	struct slot *slot = NULL;
	int r;

	r = building(sealed);
	if (r < 0)
		return r;
	r = table_slot(&sealed->intern->owners, hash, same_owner, sealed, owner, &slot);
	if (r < 0)
		return r;
	if (!slot->index) {
		r = array_grow((void **)&sealed->owners, sealed->n_owners, sizeof(*owner));
		if (r < 0)
			return r;
		sealed->owners[sealed->n_owners++] = *owner;
		*slot = (struct slot){ hash, (__u32)sealed->n_owners };
		sealed->intern->owners.used++;
	}
	*ret_index = slot->index - 1;
	return 0;
}

int tally_sealed_shape(struct tally_sealed *sealed, const struct tally_sealed_shape *shape,
		       __u32 *ret_index)
{
	__u32 hash = hash_bytes(shape, sizeof(*shape));
	struct slot *slot = NULL;
	int r;

	r = building(sealed);
	if (r < 0)
		return r;
	r = table_slot(&sealed->intern->shapes, hash, same_shape, sealed, shape, &slot);
	if (r < 0)
		return r;
	if (!slot->index) {
		r = array_grow((void **)&sealed->shapes, sealed->n_shapes, sizeof(*shape));
		if (r < 0)
			return r;
		sealed->shapes[sealed->n_shapes++] = *shape;
		*slot = (struct slot){ hash, (__u32)sealed->n_shapes };
		sealed->intern->shapes.used++;
	}
	*ret_index = slot->index - 1;
	return 0;
}

static bool same_tariff(const struct tally_sealed *sealed, const struct tally_sealed_tariff *tariff,
			const struct tally_sealed_unit *units, size_t n_units)
{
	return tariff->n == n_units && (!n_units || memcmp(sealed->units + tariff->first, units,
							   n_units * sizeof(*units)) == 0);
}

/* Tariffs are as few as the routes' prices: a linear search will do. */
int tally_sealed_tariff(struct tally_sealed *sealed, const struct tally_sealed_unit *units,
			size_t n_units, __u32 *ret_index)
{
	struct tally_sealed_tariff tariff = { (__u32)sealed->n_units, (__u32)n_units };
	int r;

	for (size_t i = 0; i < sealed->n_tariffs; i++) {
		if (same_tariff(sealed, &sealed->tariffs[i], units, n_units)) {
			*ret_index = (__u32)i;
			return 0;
		}
	}
	r = array_grow((void **)&sealed->tariffs, sealed->n_tariffs, sizeof(tariff));
	for (size_t i = 0; r == 0 && i < n_units; i++) {
		r = array_grow((void **)&sealed->units, sealed->n_units, sizeof(*units));
		if (r == 0)
			sealed->units[sealed->n_units++] = units[i];
	}
	if (r < 0)
		return r;
	*ret_index = (__u32)sealed->n_tariffs;
	sealed->tariffs[sealed->n_tariffs++] = tariff;
	return 0;
}

int tally_sealed_add(struct tally_sealed *sealed, const struct tally_sealed_row *row)
{
	int r = building(sealed);

	if (r == 0)
		r = array_grow((void **)&sealed->rows, sealed->n_rows, sizeof(*row));
	if (r < 0)
		return r;
	sealed->rows[sealed->n_rows++] = *row;
	return 0;
}

int tally_sealed_add_connection(struct tally_sealed *sealed,
				const struct tally_sealed_connection *connection)
{
	int r = building(sealed);

	if (r == 0)
		r = array_grow((void **)&sealed->connections, sealed->n_connections,
			       sizeof(*connection));
	if (r < 0)
		return r;
	sealed->connections[sealed->n_connections++] = *connection;
	return 0;
}

static int compare_u64(__u64 a, __u64 b)
{
	return a < b ? -1 : a > b;
}

int tally_sealed_order(const struct tally_sealed_row *a, const struct tally_sealed_row *b)
{
	int r = compare_u64(a->hour, b->hour);

	if (!r)
		r = compare_u64(a->owner, b->owner);
	return r ? r : compare_u64(a->shape, b->shape);
}

static int compare_rows(const void *a, const void *b)
{
	return tally_sealed_order(a, b);
}

static int compare_connections(const void *a, const void *b)
{
	const struct tally_sealed_connection *x = a, *y = b;
	int r = tally_sealed_order(&x->row, &y->row);

	if (!r)
		r = compare_u64(x->peer.conn, y->peer.conn);
	return r ? r : memcmp(&x->peer, &y->peer, sizeof(x->peer));
}

static void sums_add(struct tally_sealed_sums *into, const struct tally_sealed_sums *from)
{
	into->requests += from->requests;
	into->incomplete += from->incomplete;
	into->request_bytes += from->request_bytes;
	into->response_bytes += from->response_bytes;
	into->duration_ns += from->duration_ns;
	into->chargeable += from->chargeable;
}

/* Could adding them wrap? Then the rows stay apart, and both are shipped. */
static bool sums_wrap(const struct tally_sealed_sums *a, const struct tally_sealed_sums *b)
{
	return a->requests + b->requests < a->requests ||
	       a->request_bytes + b->request_bytes < a->request_bytes ||
	       a->response_bytes + b->response_bytes < a->response_bytes ||
	       a->duration_ns + b->duration_ns < a->duration_ns;
}

static void row_add(struct tally_sealed_row *into, const struct tally_sealed_row *from)
{
	sums_add(&into->sums, &from->sums);
	if (from->start_s < into->start_s)
		into->start_s = from->start_s;
	if (from->end_s > into->end_s)
		into->end_s = from->end_s;
}

static void settle_connections(struct tally_sealed *sealed)
{
	struct tally_sealed_connection *list = sealed->connections;
	size_t out = 0;

	if (!sealed->n_connections)
		return;
	qsort(list, sealed->n_connections, sizeof(*list), compare_connections);
	for (size_t i = 1; i < sealed->n_connections; i++) {
		struct tally_sealed_connection *last = &list[out];

		if (compare_connections(last, &list[i]) ||
		    sums_wrap(&last->row.sums, &list[i].row.sums))
			list[++out] = list[i];
		else
			row_add(&last->row, &list[i].row);
	}
	sealed->n_connections = out + 1;
}

void tally_sealed_settle(struct tally_sealed *sealed)
{
	struct tally_sealed_row *rows = sealed->rows;
	size_t out = 0;

	settle_connections(sealed);
	if (!sealed->n_rows)
		return;
	qsort(rows, sealed->n_rows, sizeof(*rows), compare_rows);
	for (size_t i = 1; i < sealed->n_rows; i++) {
		struct tally_sealed_row *last = &rows[out];

		if (tally_sealed_order(last, &rows[i]) || sums_wrap(&last->sums, &rows[i].sums))
			rows[++out] = rows[i];
		else
			row_add(last, &rows[i]);
	}
	sealed->n_rows = out + 1;
}

bool tally_sealed_position(const struct tally_sealed *sealed, struct tally_position *ret_position)
{
	if (!sealed->windows)
		return false;
	*ret_position = (struct tally_position){
		.epoch = sealed->epoch_last,
		.number = sealed->number,
		.end_s = sealed->end_s,
		.held = sealed->held_after,
		.cause = sealed->cause,
	};
	memcpy(ret_position->ledger, sealed->ledger, sizeof(ret_position->ledger));
	return true;
}

void tally_sealed_sum(const struct tally_sealed *sealed, struct tally_sealed_sums *ret_sums)
{
	struct tally_sealed_sums sums = { 0 };

	for (size_t i = 0; i < sealed->n_rows; i++)
		sums_add(&sums, &sealed->rows[i].sums);
	*ret_sums = sums;
}

static void totals_add(struct tally_sealed_totals *into, const struct tally_sealed_totals *from)
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
		into->unparsed_bytes[i] += from->unparsed_bytes[i];
	into->bytes[0] += from->bytes[0];
	into->bytes[1] += from->bytes[1];
	for (int i = 0; i < TALLY_GAP_COUNT; i++)
		into->gaps[i] += from->gaps[i];
	into->unresolved += from->unresolved;
}

/* Indices of `from`'s tables in `into`'s. */
struct remap {
	__u32 *text, *owner, *tariff, *shape;
};

static void remap_done(struct remap *map)
{
	free(map->text);
	free(map->owner);
	free(map->tariff);
	free(map->shape);
}

static int remap_alloc(struct remap *map, const struct tally_sealed *from)
{
	map->text = calloc(from->n_strings + 1, sizeof(__u32));
	map->owner = calloc(from->n_owners + 1, sizeof(__u32));
	map->tariff = calloc(from->n_tariffs + 1, sizeof(__u32));
	map->shape = calloc(from->n_shapes + 1, sizeof(__u32));
	return map->text && map->owner && map->tariff && map->shape ? 0 : -ENOMEM;
}

static int merge_tariffs(struct tally_sealed *into, const struct tally_sealed *from,
			 struct remap *map)
{
	struct tally_sealed_unit units[TALLY_UNITS_MAX];
	int r = 0;

	for (size_t i = 0; r == 0 && i < from->n_tariffs; i++) {
		const struct tally_sealed_tariff *tariff = &from->tariffs[i];

		for (__u32 u = 0; u < tariff->n; u++) {
			units[u] = from->units[tariff->first + u];
			units[u].name = map->text[units[u].name];
		}
		r = tally_sealed_tariff(into, units, tariff->n, &map->tariff[i]);
	}
	return r;
}

static int merge_tables(struct tally_sealed *into, const struct tally_sealed *from,
			struct remap *map)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < from->n_strings; i++)
		r = tally_sealed_text(into, from->strings[i], &map->text[i]);
	for (size_t i = 0; r == 0 && i < from->n_owners; i++) {
		struct tally_sealed_owner owner = from->owners[i];

		owner.customer = map->text[owner.customer];
		owner.api_key = map->text[owner.api_key];
		r = tally_sealed_owner(into, &owner, &map->owner[i]);
	}
	if (r == 0)
		r = merge_tariffs(into, from, map);
	for (size_t i = 0; r == 0 && i < from->n_shapes; i++) {
		struct tally_sealed_shape shape = from->shapes[i];

		shape.service = map->text[shape.service];
		shape.route = map->text[shape.route];
		shape.method = map->text[shape.method];
		shape.ruleset = map->text[shape.ruleset];
		shape.namespace = map->text[shape.namespace];
		shape.workload = map->text[shape.workload];
		shape.pod = map->text[shape.pod];
		shape.node = map->text[shape.node];
		shape.tariff = map->tariff[shape.tariff];
		r = tally_sealed_shape(into, &shape, &map->shape[i]);
	}
	return r;
}

static void merge_head(struct tally_sealed *into, const struct tally_sealed *from)
{
	if (!into->windows) {
		into->epoch_first = from->epoch_first;
		into->start_s = from->start_s;
		into->hole = from->hole;
		into->hole_start_s = from->hole_start_s;
		into->hole_end_s = from->hole_end_s;
		into->held_before = from->held_before;
		into->by_connection = from->by_connection;
	}
	into->epoch_last = from->epoch_last;
	into->windows += from->windows;
	if (from->start_s < into->start_s)
		into->start_s = from->start_s;
	if (from->end_s > into->end_s)
		into->end_s = from->end_s;
	memcpy(into->ledger, from->ledger, sizeof(into->ledger));
	into->number = from->number;
	into->cause = from->cause;
	into->held_after = from->held_after;
	totals_add(&into->totals, &from->totals);
}

static int merge_rows(struct tally_sealed *into, const struct tally_sealed *from,
		      const struct remap *map)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < from->n_rows; i++) {
		struct tally_sealed_row row = from->rows[i];

		row.owner = map->owner[row.owner];
		row.shape = map->shape[row.shape];
		r = tally_sealed_add(into, &row);
	}
	for (size_t i = 0; r == 0 && i < from->n_connections; i++) {
		struct tally_sealed_connection one = from->connections[i];

		one.row.owner = map->owner[one.row.owner];
		one.row.shape = map->shape[one.row.shape];
		r = tally_sealed_add_connection(into, &one);
	}
	return r;
}

int tally_sealed_merge(struct tally_sealed *into, const struct tally_sealed *from)
{
	struct remap map = { 0 };
	int r;

	if (into->windows && (from->epoch_first != into->epoch_last + 1 || from->hole ||
			      from->by_connection != into->by_connection))
		return -EINVAL;
	r = remap_alloc(&map, from);
	if (r == 0)
		r = merge_tables(into, from, &map);
	if (r == 0)
		r = merge_rows(into, from, &map);
	remap_done(&map);
	if (r == 0)
		merge_head(into, from);
	return r;
}
