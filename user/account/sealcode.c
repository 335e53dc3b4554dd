/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The compact form of sealed rows: tables first, then rows whose sorted columns are stored as
 * differences. About 30 bytes a row; FAULTS allows 64. Where rows were taken apart by connection, the
 * connections follow; where not, nothing does.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "account/peer.h"
#include "account/seal.h"

#define HOUR_S 3600
#define BY_CONNECTION 1 /* the octet after the rows, if there is one */

/* The last kind of gap stands where older files have a 0. */
static void put_totals(struct tally_buf *buf, const struct tally_sealed_totals *t)
{
	tally_buf_var(buf, t->seen);
	tally_buf_var(buf, t->held_enter);
	tally_buf_var(buf, t->held_leave);
	tally_buf_var(buf, t->attributed);
	tally_buf_var(buf, t->aborted);
	tally_buf_var(buf, t->connections);
	for (int i = 0; i < 7; i++)
		tally_buf_var(buf, t->unattributed[i]);
	tally_buf_var(buf, t->gaps[TALLY_GAP_GUESSES_FULL]);
	for (int i = 0; i < 8; i++)
		tally_buf_var(buf, t->unparsed_bytes[i]);
	tally_buf_var(buf, t->bytes[0]);
	tally_buf_var(buf, t->bytes[1]);
	for (int i = 0; i < 16; i++)
		tally_buf_var(buf, t->gaps[i]);
	tally_buf_var(buf, t->unresolved);
}

static void get_totals(struct tally_reader *in, struct tally_sealed_totals *t)
{
	t->seen = tally_reader_var(in);
	t->held_enter = tally_reader_var(in);
	t->held_leave = tally_reader_var(in);
	t->attributed = tally_reader_var(in);
	t->aborted = tally_reader_var(in);
	t->connections = tally_reader_var(in);
	for (int i = 0; i < 7; i++)
		t->unattributed[i] = tally_reader_var(in);
	t->gaps[TALLY_GAP_GUESSES_FULL] = tally_reader_var(in);
	for (int i = 0; i < 8; i++)
		t->unparsed_bytes[i] = tally_reader_var(in);
	t->bytes[0] = tally_reader_var(in);
	t->bytes[1] = tally_reader_var(in);
	for (int i = 0; i < 16; i++)
		t->gaps[i] = tally_reader_var(in);
	t->unresolved = tally_reader_var(in);
}

static void put_head(struct tally_buf *buf, const struct tally_sealed *s)
{
	tally_buf_var(buf, s->epoch_first);
	tally_buf_var(buf, s->epoch_last);
	tally_buf_var(buf, s->windows);
	tally_buf_var(buf, s->start_s);
	tally_buf_var(buf, s->end_s);
	tally_buf_put(buf, s->ledger, sizeof(s->ledger));
	tally_buf_var(buf, s->number);
	tally_buf_u8(buf, s->cause);
	tally_buf_u8(buf, s->hole);
	tally_buf_var(buf, s->hole_start_s);
	tally_buf_var(buf, s->hole_end_s);
	tally_buf_u64(buf, (__u64)s->held_before);
	tally_buf_u64(buf, (__u64)s->held_after);
	put_totals(buf, &s->totals);
}

static void get_head(struct tally_reader *in, struct tally_sealed *s)
{
	const void *ledger;

	s->epoch_first = tally_reader_var(in);
	s->epoch_last = tally_reader_var(in);
	s->windows = tally_reader_var(in);
	s->start_s = tally_reader_var(in);
	s->end_s = tally_reader_var(in);
	ledger = tally_reader_get(in, sizeof(s->ledger));
	if (ledger)
		memcpy(s->ledger, ledger, sizeof(s->ledger));
	s->number = tally_reader_var(in);
	s->cause = tally_reader_u8(in);
	s->hole = tally_reader_u8(in);
	s->hole_start_s = tally_reader_var(in);
	s->hole_end_s = tally_reader_var(in);
	s->held_before = (__s64)tally_reader_u64(in);
	s->held_after = (__s64)tally_reader_u64(in);
	get_totals(in, &s->totals);
	if (s->cause >= TALLY_CAUSE_COUNT || s->hole > TALLY_HOLE_LOST ||
	    s->epoch_last < s->epoch_first || s->end_s < s->start_s)
		in->error = in->error ? in->error : -EBADMSG;
}

static void put_tables(struct tally_buf *buf, const struct tally_sealed *s)
{
	tally_buf_var(buf, s->n_strings);
	for (size_t i = 1; i < s->n_strings; i++)
		tally_buf_str(buf, s->strings[i]);
	tally_buf_var(buf, s->n_owners);
	for (size_t i = 0; i < s->n_owners; i++) {
		tally_buf_var(buf, s->owners[i].customer);
		tally_buf_var(buf, s->owners[i].api_key);
		tally_buf_u8(buf, (__u8)(s->owners[i].key_ref << 4 | s->owners[i].mode));
	}
	tally_buf_var(buf, s->n_tariffs);
	for (size_t i = 0; i < s->n_tariffs; i++) {
		const struct tally_sealed_tariff *t = &s->tariffs[i];

		tally_buf_var(buf, t->n);
		for (__u32 u = 0; u < t->n; u++) {
			tally_buf_var(buf, s->units[t->first + u].name);
			tally_buf_var(buf, s->units[t->first + u].amount);
		}
	}
}

/* In the octet of reason and billable: four more strings follow. Files without them are as before. */
#define HAS_ORIGIN 0x80

static bool has_origin(const struct tally_sealed_shape *shape)
{
	return shape->namespace || shape->workload || shape->pod || shape->node;
}

static void put_origin(struct tally_buf *buf, const struct tally_sealed_shape *shape)
{
	tally_buf_var(buf, shape->namespace);
	tally_buf_var(buf, shape->workload);
	tally_buf_var(buf, shape->pod);
	tally_buf_var(buf, shape->node);
}

static void put_shapes(struct tally_buf *buf, const struct tally_sealed *s)
{
	tally_buf_var(buf, s->n_shapes);
	for (size_t i = 0; i < s->n_shapes; i++) {
		const struct tally_sealed_shape *shape = &s->shapes[i];

		tally_buf_var(buf, shape->service);
		tally_buf_var(buf, shape->route);
		tally_buf_var(buf, shape->method);
		tally_buf_var(buf, shape->ruleset);
		tally_buf_var(buf, shape->tariff);
		tally_buf_var(buf, shape->status);
		tally_buf_u8(buf, shape->protocol);
		tally_buf_u8(buf, shape->attribution);
		tally_buf_u8(buf, shape->detail);
		tally_buf_u8(buf, (__u8)(shape->reason << 1 | shape->billable |
					 (has_origin(shape) ? HAS_ORIGIN : 0)));
		if (has_origin(shape))
			put_origin(buf, shape);
	}
}

/* 0: none chargeable, 1: all, else the number + 2, which fits: it is below requests. */
static __u64 chargeable_code(const struct tally_sealed_sums *sums)
{
	if (!sums->chargeable)
		return 0;
	return sums->chargeable == sums->requests ? 1 : sums->chargeable + 2;
}

/* The sorted columns of the row before. */
struct column {
	__u64 hour, owner;
};

static void put_row(struct tally_buf *buf, const struct tally_sealed_row *row,
		    struct column *before)
{
	if (row->hour != before->hour)
		before->owner = 0;
	tally_buf_var(buf, row->hour - before->hour);
	tally_buf_var(buf, row->owner - before->owner);
	tally_buf_var(buf, row->shape);
	tally_buf_var(buf, row->start_s - (__u64)row->hour * HOUR_S);
	tally_buf_var(buf, row->end_s - row->start_s);
	tally_buf_var(buf, row->sums.requests);
	tally_buf_var(buf, row->sums.incomplete);
	tally_buf_var(buf, row->sums.request_bytes);
	tally_buf_var(buf, row->sums.response_bytes);
	tally_buf_var(buf, row->sums.duration_ns);
	tally_buf_var(buf, chargeable_code(&row->sums));
	*before = (struct column){ row->hour, row->owner };
}

static void put_rows(struct tally_buf *buf, const struct tally_sealed *s)
{
	struct column before = { 0 };

	tally_buf_var(buf, s->n_rows);
	for (size_t i = 0; i < s->n_rows; i++)
		put_row(buf, &s->rows[i], &before);
}

/* What of an address is told: 0 nothing; IPv4 its prefix; IPv6 its prefix and 32. */
static void put_peer(struct tally_buf *buf, const struct tally_sealed_peer *peer)
{
	bool four = tally_peer_is_ipv4(peer->address);

	tally_buf_var(buf, peer->conn);
	if (!peer->prefix) {
		tally_buf_u8(buf, 0);
		return;
	}
	tally_buf_u8(buf, (__u8)(peer->prefix + (four ? 0 : TALLY_PEER_IPV4)));
	tally_buf_put(buf, peer->address + (four ? 12 : 0), (peer->prefix + 7U) / 8);
	if (peer->prefix == (four ? TALLY_PEER_IPV4 : TALLY_PEER_IPV6))
		tally_buf_var(buf, peer->port);
}

static void put_connections(struct tally_buf *buf, const struct tally_sealed *s)
{
	struct column before = { 0 };

	if (!s->by_connection)
		return;
	tally_buf_u8(buf, BY_CONNECTION);
	tally_buf_var(buf, s->n_connections);
	for (size_t i = 0; i < s->n_connections; i++) {
		put_row(buf, &s->connections[i].row, &before);
		put_peer(buf, &s->connections[i].peer);
	}
}

int tally_sealed_encode(const struct tally_sealed *sealed, struct tally_buf *buf)
{
	put_head(buf, sealed);
	put_tables(buf, sealed);
	put_shapes(buf, sealed);
	put_rows(buf, sealed);
	put_connections(buf, sealed);
	return buf->error;
}

/* A count of elements that each take at least one byte of what is left. */
static size_t get_count(struct tally_reader *in)
{
	return (size_t)tally_reader_below(in, in->len - in->pos + 1);
}

static void *get_array(struct tally_reader *in, size_t n, size_t size)
{
	void *p = in->error ? NULL : calloc(n ? n : 1, size);

	if (!p && !in->error)
		in->error = -ENOMEM;
	return p;
}

static void get_strings(struct tally_reader *in, struct tally_sealed *s)
{
	size_t n = get_count(in);

	if (!n && !in->error)
		n = 1;
	s->strings = get_array(in, n, sizeof(char *));
	if (!s->strings)
		return;
	s->strings[0] = strdup("");
	if (!s->strings[0]) {
		in->error = -ENOMEM;
		return;
	}
	s->n_strings = 1;
	while (s->n_strings < n && !in->error) {
		char *text = tally_reader_str(in);

		if (text)
			s->strings[s->n_strings++] = text;
	}
}

static void get_owners(struct tally_reader *in, struct tally_sealed *s)
{
	size_t n = get_count(in);

	s->owners = get_array(in, n, sizeof(*s->owners));
	for (size_t i = 0; i < n && !in->error; i++) {
		struct tally_sealed_owner *owner = &s->owners[i];
		__u8 code;

		owner->customer = (__u32)tally_reader_below(in, s->n_strings);
		owner->api_key = (__u32)tally_reader_below(in, s->n_strings);
		code = tally_reader_u8(in);
		owner->key_ref = code >> 4;
		owner->mode = code & 15;
		if (owner->key_ref >= TALLY_KEYREF_COUNT || owner->mode >= TALLY_MODE_COUNT)
			in->error = -EBADMSG;
		s->n_owners = i + 1;
	}
}

static int get_unit(struct tally_reader *in, struct tally_sealed *s)
{
	struct tally_sealed_unit *units;

	units = realloc(s->units, (s->n_units + 1) * sizeof(*units));
	if (!units)
		return -ENOMEM;
	s->units = units;
	units[s->n_units] = (struct tally_sealed_unit){
		.name = (__u32)tally_reader_below(in, s->n_strings),
		.amount = tally_reader_var(in),
	};
	s->n_units++;
	return in->error;
}

static void get_tariffs(struct tally_reader *in, struct tally_sealed *s)
{
	size_t n = get_count(in);

	s->tariffs = get_array(in, n, sizeof(*s->tariffs));
	for (size_t i = 0; i < n && !in->error; i++) {
		__u32 units = (__u32)tally_reader_below(in, TALLY_UNITS_MAX + 1);

		s->tariffs[i] = (struct tally_sealed_tariff){ (__u32)s->n_units, units };
		s->n_tariffs = i + 1;
		for (__u32 u = 0; u < units && !in->error; u++)
			in->error = get_unit(in, s);
	}
}

static void get_origin(struct tally_reader *in, const struct tally_sealed *s,
		       struct tally_sealed_shape *shape)
{
	shape->namespace = (__u32)tally_reader_below(in, s->n_strings);
	shape->workload = (__u32)tally_reader_below(in, s->n_strings);
	shape->pod = (__u32)tally_reader_below(in, s->n_strings);
	shape->node = (__u32)tally_reader_below(in, s->n_strings);
	if (!has_origin(shape) && !in->error)
		in->error = -EBADMSG; /* S4 */
}

static void get_shape(struct tally_reader *in, const struct tally_sealed *s,
		      struct tally_sealed_shape *shape)
{
	__u8 code;

	shape->service = (__u32)tally_reader_below(in, s->n_strings);
	shape->route = (__u32)tally_reader_below(in, s->n_strings);
	shape->method = (__u32)tally_reader_below(in, s->n_strings);
	shape->ruleset = (__u32)tally_reader_below(in, s->n_strings);
	shape->tariff = (__u32)tally_reader_below(in, s->n_tariffs);
	shape->status = (__u16)tally_reader_below(in, 1 << 16);
	shape->protocol = tally_reader_u8(in);
	shape->attribution = tally_reader_u8(in);
	shape->detail = tally_reader_u8(in);
	code = tally_reader_u8(in);
	shape->reason = (code & ~HAS_ORIGIN) >> 1;
	shape->billable = code & 1;
	if (code & HAS_ORIGIN)
		get_origin(in, s, shape);
	if (shape->protocol >= TALLY_PROTO_COUNT || shape->attribution >= TALLY_ATTR_COUNT ||
	    shape->detail >= TALLY_DETAIL_COUNT || shape->reason >= TALLY_REASON_COUNT)
		in->error = in->error ? in->error : -EBADMSG;
}

static void get_shapes(struct tally_reader *in, struct tally_sealed *s)
{
	size_t n = get_count(in);

	s->shapes = get_array(in, n, sizeof(*s->shapes));
	for (size_t i = 0; i < n && !in->error; i++) {
		get_shape(in, s, &s->shapes[i]);
		s->n_shapes = i + 1;
	}
}

static void get_sums(struct tally_reader *in, struct tally_sealed_sums *sums)
{
	__u64 code;

	sums->requests = tally_reader_var(in);
	sums->incomplete = tally_reader_var(in);
	sums->request_bytes = tally_reader_var(in);
	sums->response_bytes = tally_reader_var(in);
	sums->duration_ns = tally_reader_var(in);
	code = tally_reader_var(in);
	if (code < 2)
		sums->chargeable = code ? sums->requests : 0;
	else
		sums->chargeable = code - 2;
	if (sums->chargeable > sums->requests && !in->error)
		in->error = -EBADMSG;
}

static void get_row(struct tally_reader *in, const struct tally_sealed *s, struct column *before,
		    struct tally_sealed_row *row)
{
	__u64 step = tally_reader_below(in, (1ULL << 32) - before->hour);
	__u64 hour = before->hour + step;
	__u64 owner = (step ? 0 : before->owner) + tally_reader_below(in, s->n_owners);

	if (owner >= s->n_owners && !in->error)
		in->error = -EBADMSG;
	row->hour = (__u32)hour;
	row->owner = (__u32)owner;
	row->shape = (__u32)tally_reader_below(in, s->n_shapes);
	row->start_s = hour * HOUR_S + tally_reader_below(in, HOUR_S);
	row->end_s = row->start_s + tally_reader_below(in, HOUR_S + 1);
	if (row->end_s > (hour + 1) * HOUR_S)
		in->error = -EBADMSG;
	get_sums(in, &row->sums);
	*before = (struct column){ hour, owner };
}

static void get_rows(struct tally_reader *in, struct tally_sealed *s)
{
	struct column before = { 0 };
	size_t n = get_count(in);

	s->rows = get_array(in, n, sizeof(*s->rows));
	for (size_t i = 0; i < n && !in->error; i++) {
		get_row(in, s, &before, &s->rows[i]);
		s->n_rows = i + 1;
	}
}

static void get_peer(struct tally_reader *in, struct tally_sealed_peer *peer)
{
	__u64 conn = tally_reader_var(in);
	__u8 code = tally_reader_u8(in);
	bool four = code <= TALLY_PEER_IPV4;
	const void *octets;

	peer->conn = conn;
	if (!code || code > TALLY_PEER_IPV4 + TALLY_PEER_IPV6) {
		in->error = in->error || !code ? in->error : -EBADMSG;
		return;
	}
	peer->prefix = (__u8)(code - (four ? 0 : TALLY_PEER_IPV4));
	octets = tally_reader_get(in, (peer->prefix + 7U) / 8);
	if (four)
		memset(peer->address + 10, 0xff, 2);
	if (octets)
		memcpy(peer->address + (four ? 12 : 0), octets, (peer->prefix + 7U) / 8);
	if (peer->prefix == (four ? TALLY_PEER_IPV4 : TALLY_PEER_IPV6))
		peer->port = (__u16)tally_reader_below(in, 1 << 16);
	if (tally_peer_is_ipv4(peer->address) != four || !tally_peer_is_valid(peer))
		in->error = in->error ? in->error : -EBADMSG; /* S4 */
}

/* Nothing in a file that is not by connection. In a batch nothing of its own comes between. */
static void get_connections(struct tally_reader *in, struct tally_sealed *s)
{
	struct column before = { 0 };
	size_t n;

	if (in->error || in->pos == in->len)
		return;
	s->by_connection = tally_reader_u8(in) == BY_CONNECTION;
	if (!s->by_connection) {
		in->error = -EBADMSG;
		return;
	}
	n = get_count(in);
	s->connections = get_array(in, n, sizeof(*s->connections));
	for (size_t i = 0; i < n && !in->error; i++) {
		get_row(in, s, &before, &s->connections[i].row);
		get_peer(in, &s->connections[i].peer);
		s->n_connections = i + 1;
	}
}

int tally_sealed_decode(struct tally_reader *reader, struct tally_sealed *ret_sealed)
{
	struct tally_sealed sealed = { 0 };

	get_head(reader, &sealed);
	get_strings(reader, &sealed);
	get_owners(reader, &sealed);
	get_tariffs(reader, &sealed);
	get_shapes(reader, &sealed);
	get_rows(reader, &sealed);
	get_connections(reader, &sealed);
	if (reader->error) {
		tally_sealed_done(&sealed);
		return reader->error;
	}
	*ret_sealed = sealed;
	return 0;
}

void tally_position_put(const struct tally_position *at, struct tally_buf *buf)
{
	tally_buf_put(buf, at->ledger, sizeof(at->ledger));
	tally_buf_var(buf, at->number);
	tally_buf_var(buf, at->end_s);
	tally_buf_u64(buf, (__u64)at->held);
	tally_buf_u8(buf, at->cause);
}

void tally_position_get(struct tally_reader *in, struct tally_position *at)
{
	const void *ledger = tally_reader_get(in, sizeof(at->ledger));

	if (ledger)
		memcpy(at->ledger, ledger, sizeof(at->ledger));
	at->number = tally_reader_var(in);
	at->end_s = tally_reader_var(in);
	at->held = (__s64)tally_reader_u64(in);
	at->cause = tally_reader_u8(in);
	if (!in->error && at->cause >= TALLY_CAUSE_COUNT)
		in->error = -EBADMSG;
}
