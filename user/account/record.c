/* SPDX-License-Identifier: Apache-2.0 */
#include "account/record.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "account/json.h"
#include "account/peer.h"
#include "base/util.h"

#define CONNECTION_LEDGER \
	4 /* octets of the ledger's id that tell it from the one before a reboot */

#define TEXT(symbol, value, text) [value] = (text),
static const char *const attributions[] = { TALLY_ATTRIBUTIONS(TEXT) };
static const char *const details[] = { TALLY_DETAILS(TEXT) };
static const char *const protocols[] = { TALLY_PROTOCOLS(TEXT) };
static const char *const reasons[] = { TALLY_RECORD_REASONS(TEXT) };
static const char *const causes[] = { TALLY_CAUSES(TEXT) };
static const char *const modes[] = { TALLY_MODES(TEXT) };
static const char *const key_refs[] = { TALLY_KEY_REFS(TEXT) };
static const char *const unparsed[] = { TALLY_UNPARSED(TEXT) };
static const char *const gaps[] = { TALLY_GAPS(TEXT) };
static const char *const holes[] = { "none", "stopped", "lost" };
static const char *const classes[] = { "none", "1xx", "2xx", "3xx", "4xx", "5xx" };

#define USAGE_TYPE "io.tallyd.usage.v1"
#define CONTROL_TYPE "io.tallyd.usage.control.v1"
#define CONNECTION_TYPE "io.tallyd.usage.connections.v1"

static const char *status_class(__u16 status)
{
	return status < 600 ? classes[status / 100] : "none";
}

static void put_field(struct tally_buf *buf, const char *name, __u64 v)
{
	tally_buf_text(buf, name);
	tally_buf_dec(buf, v);
}

static void put_text(struct tally_buf *buf, const char *name, const char *text)
{
	tally_buf_text(buf, name);
	tally_json_text(buf, text);
}

static void put_time(struct tally_buf *buf, const char *name, __u64 s)
{
	char text[TALLY_JSON_TIME];

	tally_json_time(s, text);
	put_text(buf, name, text);
}

static void put_hex(struct tally_buf *buf, const char *name, const __u8 *chain)
{
	char text[TALLY_CHAIN_HEX + 1];

	if (chain)
		tally_util_hex(chain, TALLY_CHAIN, text);
	else
		memset(text, '0', TALLY_CHAIN_HEX);
	text[TALLY_CHAIN_HEX] = 0;
	put_text(buf, name, text);
}

static void put_agent(struct tally_buf *buf, const struct tally_batch_head *head)
{
	put_text(buf, ",\"agent\":{\"id\":", head->agent);
	put_text(buf, ",\"version\":", head->version);
	put_text(buf, ",\"host\":", head->host);
	put_text(buf, ",\"boot_id\":", head->boot_id);
	put_field(buf, "},\"incarnation\":", head->incarnation);
}

static void put_units(struct tally_buf *buf, const struct tally_sealed *sealed,
		      const struct tally_sealed_tariff *tariff, __u64 chargeable)
{
	tally_buf_text(buf, ",\"units\":{");
	for (__u32 i = 0; i < tariff->n; i++) {
		const struct tally_sealed_unit *unit = &sealed->units[tariff->first + i];

		tally_buf_text(buf, i ? "," : "");
		tally_json_quoted(buf, sealed->strings[unit->name],
				  strlen(sealed->strings[unit->name]));
		tally_buf_text(buf, ":\"");
		tally_json_decimal(buf, (unsigned __int128)unit->amount * chargeable);
		tally_buf_text(buf, "\"");
	}
	tally_buf_text(buf, "}");
}

static void put_identity(struct tally_buf *buf, const char *kind, const struct tally_sealed *sealed,
			 const struct tally_sealed_row *row)
{
	const struct tally_sealed_owner *owner = &sealed->owners[row->owner];
	const struct tally_sealed_shape *shape = &sealed->shapes[row->shape];

	put_time(buf, "{\"window_start\":", row->start_s);
	put_time(buf, ",\"window_end\":", row->end_s);
	put_text(buf, ",\"kind\":", kind);
	put_text(buf, ",\"customer_id\":", sealed->strings[owner->customer]);
	put_text(buf, ",\"api_key_id\":", sealed->strings[owner->api_key]);
	put_text(buf, ",\"key_ref\":", key_refs[owner->key_ref]);
	put_text(buf, ",\"mode\":", modes[owner->mode]);
	put_text(buf, ",\"service\":", sealed->strings[shape->service]);
	put_text(buf, ",\"method\":", sealed->strings[shape->method]);
	put_text(buf, ",\"route\":", sealed->strings[shape->route]);
	put_text(buf, ",\"protocol\":", protocols[shape->protocol]);
	put_field(buf, ",\"status\":", shape->status);
	put_text(buf, ",\"status_class\":", status_class(shape->status));
	tally_buf_text(buf, shape->billable ? ",\"billable\":true" : ",\"billable\":false");
	put_text(buf, ",\"reason\":", reasons[shape->reason]);
	put_text(buf, ",\"attribution\":", attributions[shape->attribution]);
	put_text(buf, ",\"attribution_detail\":", details[shape->detail]);
}

/* Only what was asked for; without any, no object. */
static void put_origin(struct tally_buf *buf, const struct tally_sealed *sealed,
		       const struct tally_sealed_shape *shape)
{
	const struct {
		const char *name;
		__u32 text;
	} fields[] = { { "\"namespace\":", shape->namespace },
		       { "\"workload\":", shape->workload },
		       { "\"pod\":", shape->pod },
		       { "\"node\":", shape->node } };
	const char *before = ",\"kubernetes\":{";

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(fields); i++) {
		if (fields[i].text == TALLY_NO_TEXT)
			continue;
		tally_buf_text(buf, before);
		put_text(buf, fields[i].name, sealed->strings[fields[i].text]);
		before = ",";
	}
	tally_buf_text(buf, *before == ',' && !before[1] ? "}" : "");
}

static void put_observed(struct tally_buf *buf, const struct tally_sealed_sums *sums)
{
	put_field(buf, ",\"requests\":", sums->requests);
	put_field(buf, ",\"incomplete\":", sums->incomplete);
	put_field(buf, ",\"request_bytes\":", sums->request_bytes);
	put_field(buf, ",\"response_bytes\":", sums->response_bytes);
	put_field(buf, ",\"duration_us\":", sums->duration_ns / 1000);
}

static void put_data(struct tally_buf *buf, const struct tally_batch *batch, __u64 index,
		     bool with_origin)
{
	const struct tally_sealed *sealed = &batch->sealed;
	const struct tally_sealed_row *row = &sealed->rows[index];
	const struct tally_sealed_shape *shape = &sealed->shapes[row->shape];

	put_identity(buf, "usage", sealed, row);
	put_observed(buf, &row->sums);
	put_units(buf, sealed, &sealed->tariffs[shape->tariff], row->sums.chargeable);
	if (with_origin)
		put_origin(buf, sealed, shape);
	put_agent(buf, &batch->head);
	put_field(buf, ",\"epoch\":", sealed->epoch_last);
	put_field(buf, ",\"seq\":", batch->head.seq_first + index);
	put_text(buf, ",\"close_cause\":", causes[sealed->cause]);
	put_text(buf, ",\"ruleset\":", sealed->strings[shape->ruleset]);
	tally_buf_text(buf, "}");
}

static void put_subject(const struct tally_sealed *sealed, const struct tally_sealed_row *row,
			struct tally_message *msg)
{
	const struct tally_sealed_owner *owner = &sealed->owners[row->owner];

	tally_buf_clear(&msg->subject);
	if (owner->customer) {
		tally_buf_text(&msg->subject, sealed->strings[owner->customer]);
	} else if (owner->api_key) {
		tally_buf_text(&msg->subject, "key:");
		tally_buf_text(&msg->subject, sealed->strings[owner->api_key]);
	} else {
		tally_buf_text(&msg->subject, "unattributed");
	}
}

static void set_source(const struct tally_batch *batch, struct tally_message *msg)
{
	(void)snprintf(msg->source, sizeof(msg->source), "/agents/%.12s",
		       batch->head.agent); /* fits */
}

static void set_usage_id(const struct tally_batch *batch, struct tally_message *msg)
{
	(void)snprintf(msg->id, sizeof(msg->id), "%.12s-%08x-%015llu", batch->head.agent,
		       batch->head.incarnation, (unsigned long long)msg->seq); /* at most 42 */
}

/* The attributes both types share, up to and including "data": */
static void put_envelope(const struct tally_batch *batch, const char *schema,
			 struct tally_message *msg)
{
	struct tally_buf *buf = &msg->value;

	tally_buf_clear(buf);
	put_text(buf, "{\"specversion\":\"1.0\",\"id\":", msg->id);
	put_text(buf, ",\"source\":", msg->source);
	put_text(buf, ",\"type\":", msg->type);
	put_text(buf, ",\"subject\":", msg->subject.data);
	put_text(buf, ",\"time\":", msg->time);
	put_text(buf, ",\"datacontenttype\":\"application/json\",\"dataschema\":", schema);
	put_text(buf, ",\"partitionkey\":", msg->key.data);
	put_text(buf, ",\"sequence\":", msg->id + TALLY_AGENT_ID + 1);
	put_time(buf, ",\"recordedtime\":", batch->head.recorded_s);
	tally_buf_text(buf, ",\"data\":");
}

/* OpenMeter's own payload; time in whole seconds, data a JSON text in a string. */
static void put_openmeter(const struct tally_batch *batch, __u64 index, bool with_origin,
			  struct tally_message *msg)
{
	struct tally_buf data = { 0 };
	struct tally_buf *buf = &msg->value;

	put_data(&data, batch, index, with_origin);
	tally_buf_clear(buf);
	put_text(buf, "{\"id\":", msg->id);
	put_text(buf, ",\"type\":", msg->type);
	put_text(buf, ",\"source\":", msg->source);
	put_text(buf, ",\"subject\":", msg->subject.data);
	put_field(buf, ",\"time\":", batch->sealed.rows[index].start_s);
	tally_buf_text(buf, ",\"data\":");
	if (data.error)
		buf->error = data.error;
	else
		tally_json_quoted(buf, data.data, data.len);
	tally_buf_text(buf, "}");
	tally_buf_done(&data);
}

static int finish(struct tally_message *msg)
{
	if (msg->value.error || msg->key.error || msg->subject.error)
		return -ENOMEM;
	return msg->value.len > TALLY_RECORD_MAX ? -EMSGSIZE : 0;
}

/* Whom it is about, since when, and the key that chooses its partition. */
static int set_row(const struct tally_batch *batch, const struct tally_sealed_row *row,
		   struct tally_message *msg)
{
	set_source(batch, msg);
	tally_json_time(row->start_s, msg->time);
	put_subject(&batch->sealed, row, msg);
	tally_buf_clear(&msg->key);
	tally_buf_put(&msg->key, msg->subject.data, msg->subject.len);
	return msg->subject.error || msg->key.error ? -ENOMEM : 0;
}

static int encode_usage(const struct tally_batch *batch, __u64 index, enum tally_format format,
			bool with_origin, struct tally_message *msg)
{
	if (format == TALLY_FORMAT_OPENMETER) {
		put_openmeter(batch, index, with_origin, msg);
		return finish(msg);
	}
	put_envelope(batch, "https://tallyd.io/schema/usage/v1.json", msg);
	put_data(&msg->value, batch, index, with_origin);
	tally_buf_text(&msg->value, "}");
	return finish(msg);
}

/*
 * Where it was answered is told by texts that others chose. A record that they make too long goes without
 * them, each time anew, rather than keep all behind it: such a one was in no batch before.
 */
int tally_record_usage(const struct tally_batch *batch, __u64 index, enum tally_format format,
		       struct tally_message *msg)
{
	const struct tally_sealed *sealed = &batch->sealed;
	int r;

	if (index >= sealed->n_rows)
		return -EINVAL;
	msg->type = USAGE_TYPE;
	msg->seq = batch->head.seq_first + index;
	set_usage_id(batch, msg);
	r = set_row(batch, &sealed->rows[index], msg);
	if (r == 0)
		r = encode_usage(batch, index, format, true, msg);
	return r == -EMSGSIZE ? encode_usage(batch, index, format, false, msg) : r;
}

/* The socket cookie is unique while the pins of the ledger stand, hence both. */
static void put_peer(struct tally_buf *buf, const struct tally_sealed *sealed,
		     const struct tally_sealed_peer *peer)
{
	char ledger[2 * CONNECTION_LEDGER + 1], address[TALLY_PEER_TEXT];

	if (!peer->conn) {
		tally_buf_text(buf, ",\"connection\":null");
	} else {
		tally_util_hex(sealed->ledger, CONNECTION_LEDGER, ledger);
		tally_buf_printf(buf, ",\"connection\":\"%s-%llu\"", ledger,
				 (unsigned long long)peer->conn);
	}
	if (!peer->prefix) {
		tally_buf_text(buf, ",\"peer\":null,\"peer_prefix\":0,\"peer_port\":null");
		return;
	}
	tally_peer_text(peer->address, address);
	put_text(buf, ",\"peer\":", address);
	put_field(buf, ",\"peer_prefix\":", peer->prefix);
	if (peer->port)
		put_field(buf, ",\"peer_port\":", peer->port);
	else
		tally_buf_text(buf, ",\"peer_port\":null");
}

/* The usage record it is a part of: the first of its names. Rows are sorted by them (S2). */
static __u64 whole_of(const struct tally_sealed *sealed, const struct tally_sealed_row *part)
{
	size_t low = 0, high = sealed->n_rows;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (tally_sealed_order(&sealed->rows[mid], part) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static void put_connection(struct tally_buf *buf, const struct tally_batch *batch, __u64 index,
			   bool with_origin)
{
	const struct tally_sealed *sealed = &batch->sealed;
	const struct tally_sealed_connection *one = &sealed->connections[index];
	const struct tally_sealed_shape *shape = &sealed->shapes[one->row.shape];

	put_identity(buf, "connection", sealed, &one->row);
	put_peer(buf, sealed, &one->peer);
	put_observed(buf, &one->row.sums);
	if (with_origin)
		put_origin(buf, sealed, shape);
	put_agent(buf, &batch->head);
	put_field(buf, ",\"epoch\":", sealed->epoch_last);
	put_field(buf, ",\"batch\":", batch->head.number);
	put_field(buf, ",\"index\":", index);
	put_field(buf, ",\"usage_seq\":", batch->head.seq_first + whole_of(sealed, &one->row));
	put_text(buf, ",\"close_cause\":", causes[sealed->cause]);
	put_text(buf, ",\"ruleset\":", sealed->strings[shape->ruleset]);
	tally_buf_text(buf, "}");
}

static int encode_connection(const struct tally_batch *batch, __u64 index, bool with_origin,
			     struct tally_message *msg)
{
	put_envelope(batch, "https://tallyd.io/schema/connections/v1.json", msg);
	put_connection(&msg->value, batch, index, with_origin);
	tally_buf_text(&msg->value, "}");
	return finish(msg);
}

int tally_record_connection(const struct tally_batch *batch, __u64 index, struct tally_message *msg)
{
	const struct tally_sealed *sealed = &batch->sealed;
	int r;

	if (index >= sealed->n_connections)
		return -EINVAL;
	msg->type = CONNECTION_TYPE;
	msg->seq = index;
	(void)snprintf(msg->id, sizeof(msg->id), "%.12s-%08x-n%014llu-%08llu", batch->head.agent,
		       batch->head.incarnation, (unsigned long long)batch->head.number,
		       (unsigned long long)index); /* fits */
	r = set_row(batch, &sealed->connections[index].row, msg);
	if (r == 0)
		r = encode_connection(batch, index, true, msg);
	return r == -EMSGSIZE ? encode_connection(batch, index, false, msg) : r;
}

/* Sums of what the records say: durations are rounded in each record before they are added. */
struct control_sums {
	struct tally_sealed_sums sums;
	__u64 duration_us;
	unsigned __int128 *units; /* by string index */
};

static int sum_records(const struct tally_sealed *sealed, struct control_sums *ret_sums)
{
	struct control_sums sums = { 0 };

	sums.units = calloc(sealed->n_strings + 1, sizeof(*sums.units));
	if (!sums.units)
		return -ENOMEM;
	tally_sealed_sum(sealed, &sums.sums);
	for (size_t i = 0; i < sealed->n_rows; i++) {
		const struct tally_sealed_row *row = &sealed->rows[i];
		const struct tally_sealed_tariff *tariff =
			&sealed->tariffs[sealed->shapes[row->shape].tariff];

		sums.duration_us += row->sums.duration_ns / 1000;
		for (__u32 u = 0; u < tariff->n; u++) {
			const struct tally_sealed_unit *unit = &sealed->units[tariff->first + u];

			sums.units[unit->name] +=
				(unsigned __int128)unit->amount * row->sums.chargeable;
		}
	}
	*ret_sums = sums;
	return 0;
}

/* Is this text the name of a unit of some tariff? */
static bool is_unit(const struct tally_sealed *sealed, size_t text)
{
	for (size_t i = 0; i < sealed->n_units; i++) {
		if (sealed->units[i].name == text)
			return true;
	}
	return false;
}

static int put_sums(struct tally_buf *buf, const struct tally_sealed *sealed)
{
	struct control_sums sums;
	const char *comma = "";
	int r = sum_records(sealed, &sums);

	if (r < 0)
		return r;
	put_field(buf, ",\"sums\":{\"requests\":", sums.sums.requests);
	put_field(buf, ",\"incomplete\":", sums.sums.incomplete);
	put_field(buf, ",\"request_bytes\":", sums.sums.request_bytes);
	put_field(buf, ",\"response_bytes\":", sums.sums.response_bytes);
	put_field(buf, ",\"duration_us\":", sums.duration_us);
	tally_buf_text(buf, ",\"units\":{");
	for (size_t i = 0; i < sealed->n_strings; i++) {
		if (!is_unit(sealed, i))
			continue;
		tally_buf_text(buf, comma);
		tally_json_quoted(buf, sealed->strings[i], strlen(sealed->strings[i]));
		tally_buf_text(buf, ":\"");
		tally_json_decimal(buf, sums.units[i]);
		tally_buf_text(buf, "\"");
		comma = ",";
	}
	tally_buf_text(buf, "}}");
	free(sums.units);
	return 0;
}

/* name: {"text": number, ...} */
static void put_counters(struct tally_buf *buf, const char *name, const char *const *texts,
			 const __u64 *counters, size_t n)
{
	tally_buf_text(buf, name);
	for (size_t i = 0; i < n; i++) {
		tally_buf_text(buf, i ? "," : "{");
		tally_json_text(buf, texts[i]);
		put_field(buf, ":", counters[i]);
	}
	tally_buf_text(buf, "}");
}

static void put_signed(struct tally_buf *buf, const char *name, __s64 v)
{
	tally_buf_text(buf, name);
	tally_buf_text(buf, v < 0 ? "-" : "");
	tally_buf_dec(buf, v < 0 ? 0 - (__u64)v : (__u64)v);
}

/* Batches of before there was MPTCP have "no-state" in its place, always 0, and their chain says so. */
static void put_unparsed(struct tally_buf *buf, const __u64 *bytes)
{
	const char *texts[TALLY_UNPARSED_COUNT];

	memcpy(texts, unparsed, sizeof(texts));
	if (!bytes[TALLY_UNPARSED_MPTCP])
		texts[TALLY_UNPARSED_MPTCP] = "no-state";
	put_counters(buf, ",\"unparsed\":", texts, bytes, TALLY_UNPARSED_COUNT);
}

static void put_kernel(struct tally_buf *buf, const struct tally_sealed *sealed)
{
	const struct tally_sealed_totals *t = &sealed->totals;
	__u64 bytes = 0;

	for (int i = 0; i < TALLY_UNPARSED_COUNT; i++)
		bytes += t->unparsed_bytes[i];
	put_field(buf, ",\"kernel\":{\"seen\":", t->seen);
	put_field(buf, ",\"attributed\":", t->attributed);
	put_field(buf, ",\"aborted\":", t->aborted);
	/* [0] is `key`, which is `attributed` */
	put_counters(buf, ",\"unattributed\":", attributions + 1, t->unattributed + 1,
		     TALLY_ATTR_COUNT - 1);
	put_signed(buf, ",\"held_before\":", sealed->held_before);
	put_signed(buf, ",\"held_after\":", sealed->held_after);
	put_field(buf, ",\"connections\":", t->connections);
	put_field(buf, ",\"unresolved\":", t->unresolved);
	put_field(buf, ",\"bytes\":{\"request\":", t->bytes[0]);
	put_field(buf, ",\"response\":", t->bytes[1]);
	put_field(buf, "},\"unparsed_bytes\":", bytes);
	put_unparsed(buf, t->unparsed_bytes);
	/* The last kind only where it is: batches of versions that did not know it keep their bytes. */
	put_counters(buf, ",\"gaps\":", gaps, t->gaps,
		     t->gaps[TALLY_GAP_GUESSES_FULL] ? TALLY_GAP_COUNT : TALLY_GAP_GUESSES_FULL);
	tally_buf_text(buf, "}");
}

static void put_spool(struct tally_buf *buf, const struct tally_batch_head *head)
{
	__u64 oldest = head->spool_oldest_s;
	__u64 age = oldest && head->recorded_s > oldest ? head->recorded_s - oldest : 0;

	put_field(buf, ",\"spool\":{\"records\":", head->spool_records);
	put_field(buf, ",\"bytes\":", head->spool_bytes);
	put_field(buf, ",\"oldest_s\":", age);
	tally_buf_text(buf, "}");
}

/* Only where they are kept. */
static void put_connections(struct tally_buf *buf, const struct tally_batch *batch)
{
	if (!batch->sealed.by_connection)
		return;
	put_field(buf, ",\"connections\":{\"records\":", tally_batch_connections(batch));
	put_hex(buf, ",\"digest\":", batch->connections);
	tally_buf_text(buf, "}");
}

static void put_hole(struct tally_buf *buf, const struct tally_sealed *sealed)
{
	if (!sealed->hole) {
		tally_buf_text(buf, ",\"hole\":null");
		return;
	}
	put_text(buf, ",\"hole\":{\"cause\":", holes[sealed->hole]);
	put_time(buf, ",\"from\":", sealed->hole_start_s);
	put_time(buf, ",\"to\":", sealed->hole_end_s);
	tally_buf_text(buf, "}");
}

static void put_loss(struct tally_buf *buf, const struct tally_batch_head *head)
{
	const struct tally_loss *loss = &head->loss;

	if (head->kind != TALLY_BATCH_LOST) {
		tally_buf_text(buf, ",\"lost\":null");
		return;
	}
	put_field(buf, ",\"lost\":{\"incarnation\":", loss->incarnation);
	put_field(buf, ",\"batch\":", loss->batch);
	put_field(buf, ",\"epoch_first\":", loss->epoch_first);
	put_field(buf, ",\"epoch_last\":", loss->epoch_last);
	put_field(buf, ",\"seq_first\":", loss->seq_first);
	put_field(buf, ",\"seq_last\":", loss->seq_last);
	tally_buf_text(buf, "}");
}

static int put_control(const struct tally_batch *batch, const __u8 *chain, struct tally_buf *buf)
{
	const struct tally_batch_head *head = &batch->head;
	const struct tally_sealed *sealed = &batch->sealed;
	int r;

	put_text(buf, "{\"kind\":", head->kind == TALLY_BATCH_LOST ? "lost" : "window");
	put_agent(buf, head);
	put_field(buf, ",\"batch\":", head->number);
	put_field(buf, ",\"epoch_first\":", sealed->epoch_first);
	put_field(buf, ",\"epoch_last\":", sealed->epoch_last);
	put_field(buf, ",\"windows\":", sealed->windows);
	put_time(buf, ",\"window_start\":", sealed->start_s);
	put_time(buf, ",\"complete_until\":", sealed->end_s);
	put_text(buf, ",\"close_cause\":", causes[sealed->cause]);
	put_field(buf, ",\"seq_first\":", head->seq_first);
	put_field(buf, ",\"seq_last\":", tally_batch_seq_last(batch));
	put_field(buf, ",\"records\":", tally_batch_records(batch));
	r = put_sums(buf, sealed);
	if (r < 0)
		return r;
	put_kernel(buf, sealed);
	put_spool(buf, head);
	put_connections(buf, batch);
	put_hole(buf, sealed);
	put_loss(buf, head);
	put_hex(buf, ",\"prev_chain\":", head->prev_chain);
	put_hex(buf, ",\"chain\":", chain);
	tally_buf_text(buf, "}");
	return 0;
}

int tally_record_control(const struct tally_batch *batch, const __u8 *chain,
			 struct tally_message *msg)
{
	int r;

	msg->type = CONTROL_TYPE;
	msg->seq = tally_batch_seq_last(batch);
	set_source(batch, msg);
	(void)snprintf(msg->id, sizeof(msg->id), "%.12s-%08x-c%014llu", batch->head.agent,
		       batch->head.incarnation, (unsigned long long)batch->head.number); /* fits */
	tally_json_time(batch->sealed.start_s, msg->time);
	tally_buf_clear(&msg->subject);
	tally_buf_text(&msg->subject, "agent:");
	tally_buf_text(&msg->subject, batch->head.agent);
	tally_buf_clear(&msg->key);
	tally_buf_text(&msg->key, batch->head.agent);
	if (msg->subject.error || msg->key.error)
		return -ENOMEM;
	put_envelope(batch, "https://tallyd.io/schema/control/v1.json", msg);
	r = put_control(batch, chain, &msg->value);
	if (r < 0)
		return r;
	tally_buf_text(&msg->value, "}");
	return finish(msg);
}
