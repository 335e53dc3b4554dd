/* SPDX-License-Identifier: Apache-2.0 */
#include "account/audit.h"

#include <jansson.h>
#include <openssl/evp.h>
#include <stdarg.h>

#include "account/batch.h"
#include "account/json.h"
#include "account/parts.h"
#include "account/seal.h"
#include "base/util.h"

#define UNITS_MAX 64
#define RECORDS_MAX (1ULL << 32) /* of a batch */
#define SUMS TALLY_PARTS_SUMS
#define SEGMENT_S (7 * 86400) /* what a segment of Kafka's log spans at most, by default */

typedef unsigned __int128 u128;

struct unit {
	char *name;
	u128 told, found; /* scaled */
};

/* A record that waits for its batch: of usage, found by seq, or of a connection, by the batch's number. */
struct loose {
	bool connection;
	__u32 incarnation;
	__u64 seq, batch;
	__u64 index; /* of a connection */
	__u64 end_s; /* of its window */
	char *text;
	size_t len;
};

struct slot {
	bool present;
	__u8 digest[TALLY_SHA256];
};

/* Records told by a control record, and those that came. */
struct told {
	__u64 n, present;
	struct slot *slots; /* while they are not complete */
	__u64 *prints;	    /* 8 bytes of each digest, afterwards */
};

/* One control record, and what is known of its records. */
struct batch {
	__u64 number, seq_first, epoch_first, epoch_last;
	struct told usage, connections;
	bool by_connection;	  /* connections are told, perhaps none */
	struct tally_parts parts; /* until both are complete */
	__u32 incarnation;
	bool lost,
		wrapped; /* lost: it declares a loss; wrapped: not CloudEvents, no chain to check */
	struct tally_loss loss;
	char hole; /* 's'topped, 'l'ost or 0 */
	__u64 hole_start_s, hole_end_s, start_s, complete_until_s;
	__s64 held_before, held_after, seen, attributed, unattributed, unresolved;
	__u8 prev_chain[TALLY_CHAIN], chain[TALLY_CHAIN], digest[TALLY_SHA256];
	__u8 connections_digest[TALLY_SHA256];
	u128 told[SUMS], found[SUMS];
	struct unit *units;
	size_t n_units;
};

struct agent {
	char id[TALLY_AGENT_ID + 1];
	char host[64];
	struct batch *batches; /* by number */
	size_t n_batches;
	struct loose *loose;
	size_t n_loose, cap_loose;
	__u64 duplicates;
	bool expected;
	bool tangled; /* seq does not rise with the number: no search by halves */
};

/* Where retention left off: it may take records before it takes the control records that tell of them. */
struct gone {
	bool told;     /* by who read them */
	__u64 until_s; /* if told */
	__u64 oldest_s; /* the first batch of all agents that has a record here; UINT64_MAX: none has */
};

struct tally_audit {
	bool without_connections;
	struct gone gone[2];	/* usage, connections */
	bool asked;		/* for a period */
	__u64 since_s, first_s; /* where it begins; the end of the oldest batch */
	__u64 live_s;
	__u64 control_gone_s; /* 0: none is gone, or nobody knows until when */
	bool control_whole;   /* who read them says that none is gone */
	struct agent *agents;
	size_t n_agents, last;
	struct tally_finding *findings;
	size_t n_findings;
	__u64 counts[TALLY_FIND_COUNT];
};

int tally_audit_new(struct tally_audit **ret_audit)
{
	*ret_audit = calloc(1, sizeof(**ret_audit));
	if (!*ret_audit)
		return -ENOMEM;
	(*ret_audit)->live_s = UINT64_MAX;
	return 0;
}

static void batch_done(struct batch *batch)
{
	for (size_t i = 0; i < batch->n_units; i++)
		free(batch->units[i].name);
	free(batch->units);
	free(batch->usage.slots);
	free(batch->usage.prints);
	free(batch->connections.slots);
	free(batch->connections.prints);
	tally_parts_done(&batch->parts);
}

void tally_audit_free(struct tally_audit *audit)
{
	if (!audit)
		return;
	for (size_t i = 0; i < audit->n_agents; i++) {
		struct agent *agent = &audit->agents[i];

		for (size_t k = 0; k < agent->n_batches; k++)
			batch_done(&agent->batches[k]);
		for (size_t k = 0; k < agent->n_loose; k++)
			free(agent->loose[k].text);
		free(agent->batches);
		free(agent->loose);
	}
	for (size_t i = 0; i < audit->n_findings; i++)
		free(audit->findings[i].text);
	free(audit->findings);
	free(audit->agents);
	free(audit);
}

static void find(struct tally_audit *audit, enum tally_finding_kind kind, const char *agent,
		 const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* Counts always; keeps the text of the first ones. */
static void find(struct tally_audit *audit, enum tally_finding_kind kind, const char *agent,
		 const char *fmt, ...)
{
	struct tally_finding *findings, *finding;
	va_list args;

	audit->counts[kind]++;
	if (audit->n_findings == TALLY_AUDIT_MAX)
		return;
	findings = realloc(audit->findings, (audit->n_findings + 1) * sizeof(*findings));
	if (!findings)
		return;
	audit->findings = findings;
	finding = &findings[audit->n_findings];
	*finding = (struct tally_finding){ .kind = kind };
	(void)snprintf(finding->agent, sizeof(finding->agent), "%s", agent); /* 12 digits */
	va_start(args, fmt);
	if (vasprintf(&finding->text, fmt, args) < 0)
		finding->text = NULL;
	va_end(args);
	if (finding->text)
		audit->n_findings++;
}

static int get_agent(struct tally_audit *audit, const char *id, struct agent **ret_agent)
{
	struct agent *agents;

	if (audit->last < audit->n_agents && strcmp(audit->agents[audit->last].id, id) == 0) {
		*ret_agent = &audit->agents[audit->last];
		return 0;
	}
	for (audit->last = 0; audit->last < audit->n_agents; audit->last++) {
		if (strcmp(audit->agents[audit->last].id, id) == 0) {
			*ret_agent = &audit->agents[audit->last];
			return 0;
		}
	}
	agents = realloc(audit->agents, (audit->n_agents + 1) * sizeof(*agents));
	if (!agents)
		return -ENOMEM;
	audit->agents = agents;
	*ret_agent = &agents[audit->n_agents++];
	**ret_agent = (struct agent){ 0 };
	(void)snprintf((*ret_agent)->id, sizeof((*ret_agent)->id), "%s",
		       id); /* checked: 12 digits */
	return 0;
}

/* --- numbers and texts of a record --- */

static json_int_t integer(const json_t *object, const char *name)
{
	return json_integer_value(json_object_get(object, name));
}

static const char *text_of(const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text ? text : "";
}

static __u64 time_of(const json_t *object, const char *name)
{
	__u64 s = 0;

	(void)tally_json_parse_time(text_of(object, name), &s); /* 0: not there */
	return s;
}

/* A decimal string, scaled; false: it is none, or has more digits than are ours. */
static bool parse_units(const char *text, u128 *ret_v)
{
	int digits = -1;
	u128 v = 0;

	if (!*text)
		return false;
	for (; *text; text++) {
		if (*text == '.' && digits < 0) {
			digits = 0;
			continue;
		}
		if (*text < '0' || *text > '9' || digits == TALLY_UNIT_DIGITS)
			return false;
		v = v * 10 + (u128)(*text - '0');
		digits += digits >= 0;
	}
	for (digits = TALLY_MAX(digits, 0); digits < TALLY_UNIT_DIGITS; digits++)
		v *= 10;
	*ret_v = v;
	return true;
}

static int get_unit(struct batch *batch, const char *name, struct unit **ret_unit)
{
	struct unit *units;

	for (size_t i = 0; i < batch->n_units; i++) {
		if (strcmp(batch->units[i].name, name) == 0) {
			*ret_unit = &batch->units[i];
			return 0;
		}
	}
	if (batch->n_units == UNITS_MAX)
		return -E2BIG;
	units = realloc(batch->units, (batch->n_units + 1) * sizeof(*units));
	if (!units)
		return -ENOMEM;
	batch->units = units;
	units[batch->n_units] = (struct unit){ .name = strdup(name) };
	if (!units[batch->n_units].name)
		return -ENOMEM;
	*ret_unit = &units[batch->n_units++];
	return 0;
}

/* Adds the record's units to what was found, or the control record's to what was told. */
static int add_units(struct batch *batch, const json_t *units, bool told)
{
	const char *name;
	json_t *value;
	int r = 0;

	json_object_foreach((json_t *)units, name, value) {
		const char *text = json_string_value(value);
		struct unit *unit = NULL;
		u128 v = 0;

		if (!text || !parse_units(text, &v))
			return -EBADMSG;
		r = get_unit(batch, name, &unit);
		if (r < 0)
			return r;
		*(told ? &unit->told : &unit->found) += v;
	}
	return 0;
}

/* The data of a record: an object, or (OpenMeter) a JSON text in a string. New reference. */
static json_t *data_of(const json_t *root, bool *ret_wrapped)
{
	json_t *data = json_object_get(root, "data");

	*ret_wrapped = json_is_string(data);
	if (*ret_wrapped)
		return json_loadb(json_string_value(data), json_string_length(data), 0, NULL);
	return json_incref(data);
}

/* --- usage records --- */

static __u64 print_of(const __u8 digest[TALLY_SHA256])
{
	__u64 v;

	memcpy(&v, digest, sizeof(v));
	return v;
}

static bool holds(const struct batch *batch, __u32 incarnation, __u64 seq)
{
	return batch->incarnation == incarnation && seq >= batch->seq_first &&
	       seq - batch->seq_first < batch->usage.n;
}

static bool begins_after(const struct batch *batch, __u32 incarnation, __u64 seq)
{
	if (batch->incarnation != incarnation)
		return batch->incarnation > incarnation;
	return batch->seq_first > seq;
}

/* The last batch that does not begin after the record, if the record is in it. */
static struct batch *search(struct agent *agent, __u32 incarnation, __u64 seq)
{
	size_t low = 0, high = agent->n_batches;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (begins_after(&agent->batches[mid], incarnation, seq))
			high = mid;
		else
			low = mid + 1;
	}
	return low && holds(&agent->batches[low - 1], incarnation, seq) ? &agent->batches[low - 1]
									: NULL;
}

static struct batch *batch_of(struct agent *agent, __u32 incarnation, __u64 seq)
{
	if (!agent->tangled)
		return search(agent, incarnation, seq);
	for (size_t i = agent->n_batches; i > 0; i--) {
		if (holds(&agent->batches[i - 1], incarnation, seq))
			return &agent->batches[i - 1];
	}
	return NULL;
}

static int add_loose(struct agent *agent, const struct loose *loose)
{
	struct loose *list;
	size_t cap = agent->cap_loose ? agent->cap_loose * 2 : 256;

	if (agent->n_loose == agent->cap_loose) {
		list = realloc(agent->loose, cap * sizeof(*list));
		if (!list)
			return -ENOMEM;
		agent->loose = list;
		agent->cap_loose = cap;
	}
	agent->loose[agent->n_loose++] = *loose;
	return 0;
}

/* SHA-256 over what is put first, the digests of the records, and what is put last. */
static int digest_all(const struct told *told, const __u8 *first, const __u8 *last,
		      __u8 ret_digest[TALLY_SHA256])
{
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	bool ok = md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 &&
		  (!first || EVP_DigestUpdate(md, first, TALLY_SHA256) == 1);

	for (__u64 i = 0; ok && i < told->n; i++)
		ok = EVP_DigestUpdate(md, told->slots[i].digest, TALLY_SHA256) == 1;
	ok = ok && (!last || EVP_DigestUpdate(md, last, TALLY_SHA256) == 1) &&
	     EVP_DigestFinal_ex(md, ret_digest, NULL) == 1;
	EVP_MD_CTX_free(md);
	return ok ? 0 : -ENOMEM;
}

/* They are all here: only their prints are kept. */
static int keep_prints(struct told *told)
{
	told->prints = calloc(told->n + 1, sizeof(__u64));
	if (!told->prints)
		return -ENOMEM;
	for (__u64 i = 0; i < told->n; i++)
		told->prints[i] = print_of(told->slots[i].digest);
	free(told->slots);
	told->slots = NULL;
	return 0;
}

static int fold_usage(struct tally_audit *audit, const struct agent *agent, struct batch *batch)
{
	__u8 chain[TALLY_CHAIN];
	int r = digest_all(&batch->usage, batch->prev_chain, batch->digest, chain);

	if (r < 0)
		return r;
	if (!batch->wrapped && memcmp(chain, batch->chain, sizeof(chain)) != 0)
		find(audit, TALLY_FIND_CHAIN, agent->id,
		     "batch %llu: its records are not those its chain was made of",
		     (unsigned long long)batch->number);
	return keep_prints(&batch->usage);
}

static int fold_connections(struct tally_audit *audit, const struct agent *agent,
			    struct batch *batch)
{
	__u8 digest[TALLY_SHA256];
	int r = digest_all(&batch->connections, NULL, NULL, digest);

	if (r < 0)
		return r;
	if (memcmp(digest, batch->connections_digest, sizeof(digest)) != 0)
		find(audit, TALLY_FIND_CHAIN, agent->id,
		     "batch %llu: its connection records are not those its digest was made of",
		     (unsigned long long)batch->number);
	return keep_prints(&batch->connections);
}

static void compare_parts(struct tally_audit *audit, const struct agent *agent, struct batch *batch)
{
	for (size_t i = 0; i < batch->parts.n; i++) {
		const struct tally_part *part = &batch->parts.list[i];
		int at = tally_parts_differs(part);

		if (at < 0)
			continue;
		find(audit, TALLY_FIND_SUM, agent->id,
		     "batch %llu: %s of %s: its usage records hold %llu, those of its connections %llu",
		     (unsigned long long)batch->number, tally_parts_names[at], part->label,
		     (unsigned long long)part->whole[at], (unsigned long long)part->sum[at]);
	}
	tally_parts_done(&batch->parts);
}

/* After a record came: what is complete now? */
static int settle(struct tally_audit *audit, const struct agent *agent, struct batch *batch)
{
	bool usage = batch->usage.present == batch->usage.n;
	bool connections = batch->connections.present == batch->connections.n;
	int r = 0;

	if (usage && batch->usage.slots)
		r = fold_usage(audit, agent, batch);
	if (r == 0 && connections && batch->connections.slots)
		r = fold_connections(audit, agent, batch);
	if (r == 0 && usage && connections && batch->by_connection)
		compare_parts(audit, agent, batch);
	return r;
}

static void seen_again(struct tally_audit *audit, struct agent *agent, const struct told *told,
		       const struct loose *loose, const __u8 digest[TALLY_SHA256])
{
	bool same = told->slots
			    ? memcmp(told->slots[loose->index].digest, digest, TALLY_SHA256) == 0
			    : told->prints[loose->index] == print_of(digest);
	enum tally_finding_kind kind = same ? TALLY_FIND_DUPLICATE : TALLY_FIND_CONFLICT;
	const char *what = same ? "came again" : "has two contents";

	agent->duplicates++;
	if (loose->connection)
		find(audit, kind, agent->id, "connection record %llu of batch %llu %s",
		     (unsigned long long)loose->index, (unsigned long long)loose->batch, what);
	else
		find(audit, kind, agent->id, "seq %llu %s", (unsigned long long)loose->seq, what);
}

static void add_usage(struct tally_audit *audit, const struct agent *agent, struct batch *batch,
		      const json_t *data, const struct loose *loose)
{
	int r = data ? add_units(batch, json_object_get(data, "units"), false) : -EBADMSG;

	for (int i = 0; i < SUMS && data; i++)
		batch->found[i] += (u128)integer(data, tally_parts_names[i]);
	if (r < 0)
		find(audit, TALLY_FIND_UNREADABLE, agent->id, "seq %llu: its units",
		     (unsigned long long)loose->seq);
}

/* A record of this batch; its index is known. */
static int take(struct tally_audit *audit, struct agent *agent, struct batch *batch,
		const struct loose *loose)
{
	json_t *root = json_loadb(loose->text, loose->len, 0, NULL);
	bool wrapped = false;
	json_t *data = root ? data_of(root, &wrapped) : NULL;
	int r = 0;

	if (!loose->connection)
		add_usage(audit, agent, batch, data, loose);
	if (data && batch->by_connection && !audit->without_connections)
		r = tally_parts_add(&batch->parts, data, loose->connection);
	batch->wrapped |= wrapped;
	json_decref(data);
	json_decref(root);
	return r;
}

static int place(struct tally_audit *audit, struct agent *agent, struct batch *batch,
		 struct loose *loose)
{
	struct told *told = loose->connection ? &batch->connections : &batch->usage;
	__u8 digest[TALLY_SHA256];
	int r;

	if (!loose->connection)
		loose->index = loose->seq - batch->seq_first;
	tally_sha256(loose->text, loose->len, digest);
	if (!told->slots || told->slots[loose->index].present) {
		seen_again(audit, agent, told, loose, digest);
		return 0;
	}
	r = take(audit, agent, batch, loose);
	if (r < 0)
		return r;
	memcpy(told->slots[loose->index].digest, digest, sizeof(digest));
	told->slots[loose->index].present = true;
	told->present++;
	return settle(audit, agent, batch);
}

/* Places the record, or keeps it for when its batch is known. */
static int place_or_keep(struct tally_audit *audit, struct agent *agent, struct batch *batch,
			 struct loose *loose, const void *value)
{
	int r;

	loose->text = strndup(value, loose->len);
	if (!loose->text)
		return -ENOMEM;
	r = batch ? place(audit, agent, batch, loose) : add_loose(agent, loose);
	if (batch || r < 0)
		free(loose->text);
	return r;
}

static int feed_usage(struct tally_audit *audit, const json_t *data, const void *value, size_t len)
{
	struct loose loose = { .incarnation = (__u32)integer(data, "incarnation"),
			       .seq = (__u64)integer(data, "seq"),
			       .end_s = time_of(data, "window_end"),
			       .len = len };
	struct agent *agent = NULL;
	int r;

	r = get_agent(audit, text_of(json_object_get(data, "agent"), "id"), &agent);
	if (r < 0)
		return r;
	return place_or_keep(audit, agent, batch_of(agent, loose.incarnation, loose.seq), &loose,
			     value);
}

/* --- records of connections --- */

static struct batch *batch_numbered(struct agent *agent, __u32 incarnation, __u64 number)
{
	size_t low = 0, high = agent->n_batches;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		const struct batch *batch = &agent->batches[mid];

		if (batch->number > number ||
		    (batch->number == number && batch->incarnation > incarnation))
			high = mid;
		else
			low = mid + 1;
	}
	if (!low || agent->batches[low - 1].number != number ||
	    agent->batches[low - 1].incarnation != incarnation)
		return NULL;
	return &agent->batches[low - 1];
}

static int feed_connection(struct tally_audit *audit, const json_t *data, const void *value,
			   size_t len)
{
	struct loose loose = { .connection = true,
			       .incarnation = (__u32)integer(data, "incarnation"),
			       .batch = (__u64)integer(data, "batch"),
			       .index = (__u64)integer(data, "index"),
			       .end_s = time_of(data, "window_end"),
			       .len = len };
	struct agent *agent = NULL;
	struct batch *batch;
	int r;

	if (audit->without_connections)
		return 0;
	r = get_agent(audit, text_of(json_object_get(data, "agent"), "id"), &agent);
	if (r < 0)
		return r;
	batch = batch_numbered(agent, loose.incarnation, loose.batch);
	if (batch && loose.index >= batch->connections.n) {
		find(audit, TALLY_FIND_CONFLICT, agent->id,
		     "connection record %llu of batch %llu, which has %llu",
		     (unsigned long long)loose.index, (unsigned long long)loose.batch,
		     (unsigned long long)batch->connections.n);
		return 0;
	}
	return place_or_keep(audit, agent, batch, &loose, value);
}

/* --- control records --- */

/* The digest of the record with zeros in place of its own chain. */
static void digest_control(const char *value, size_t len, struct batch *batch)
{
	static const char mark[] = "\"chain\":\"";
	_cleanup_free_ char *copy = strndup(value, len);
	char *p, *last = NULL;

	if (!copy)
		return;
	for (p = strstr(copy, mark); p; p = strstr(p + 1, mark))
		last = p + strlen(mark);
	if (last && strlen(last) >= TALLY_CHAIN_HEX)
		memset(last, '0', TALLY_CHAIN_HEX);
	tally_sha256(copy, len, batch->digest);
}

static void read_loss(const json_t *lost, struct batch *batch)
{
	batch->lost = json_is_object(lost);
	if (!batch->lost)
		return;
	batch->loss = (struct tally_loss){
		.incarnation = (__u32)integer(lost, "incarnation"),
		.batch = (__u64)integer(lost, "batch"),
		.epoch_first = (__u64)integer(lost, "epoch_first"),
		.epoch_last = (__u64)integer(lost, "epoch_last"),
		.seq_first = (__u64)integer(lost, "seq_first"),
		.seq_last = (__u64)integer(lost, "seq_last"),
	};
}

static void read_kernel(const json_t *kernel, struct batch *batch)
{
	const char *name;
	json_t *value;

	batch->held_before = integer(kernel, "held_before");
	batch->held_after = integer(kernel, "held_after");
	batch->seen = integer(kernel, "seen");
	batch->attributed = integer(kernel, "attributed");
	batch->unresolved = integer(kernel, "unresolved");
	json_object_foreach(json_object_get(kernel, "unattributed"), name, value)
		batch->unattributed += json_integer_value(value);
}

static void read_connections(const json_t *told, struct batch *batch)
{
	batch->by_connection = json_is_object(told) &&
			       tally_util_unhex(text_of(told, "digest"), batch->connections_digest,
						TALLY_SHA256) == 0;
	if (batch->by_connection)
		batch->connections.n = (__u64)integer(told, "records");
}

static int read_control(const json_t *data, struct batch *batch)
{
	const json_t *hole = json_object_get(data, "hole"), *sums = json_object_get(data, "sums");

	batch->number = (__u64)integer(data, "batch");
	batch->incarnation = (__u32)integer(data, "incarnation");
	batch->seq_first = (__u64)integer(data, "seq_first");
	batch->usage.n = (__u64)integer(data, "records");
	batch->epoch_first = (__u64)integer(data, "epoch_first");
	batch->epoch_last = (__u64)integer(data, "epoch_last");
	batch->start_s = time_of(data, "window_start");
	batch->complete_until_s = time_of(data, "complete_until");
	if (json_is_object(hole)) {
		batch->hole = *text_of(hole, "cause");
		batch->hole_start_s = time_of(hole, "from");
		batch->hole_end_s = time_of(hole, "to");
	}
	read_connections(json_object_get(data, "connections"), batch);
	read_loss(json_object_get(data, "lost"), batch);
	read_kernel(json_object_get(data, "kernel"), batch);
	for (int i = 0; i < SUMS; i++)
		batch->told[i] = (u128)integer(sums, tally_parts_names[i]);
	if (!batch->number || !batch->seq_first || batch->usage.n > RECORDS_MAX ||
	    batch->connections.n > RECORDS_MAX ||
	    tally_util_unhex(text_of(data, "chain"), batch->chain, TALLY_CHAIN) < 0 ||
	    tally_util_unhex(text_of(data, "prev_chain"), batch->prev_chain, TALLY_CHAIN) < 0)
		return -EBADMSG;
	return add_units(batch, json_object_get(sums, "units"), true);
}

/* Where it belongs among the agent's; an equal one is a duplicate. */
static int insert_batch(struct tally_audit *audit, struct agent *agent, struct batch *batch,
			struct batch **ret_batch)
{
	struct batch *list;
	size_t at = agent->n_batches;

	while (at > 0 && (agent->batches[at - 1].number > batch->number ||
			  (agent->batches[at - 1].number == batch->number &&
			   agent->batches[at - 1].incarnation > batch->incarnation)))
		at--;
	if (at > 0 && agent->batches[at - 1].number == batch->number &&
	    agent->batches[at - 1].incarnation == batch->incarnation) {
		bool same = memcmp(agent->batches[at - 1].chain, batch->chain, TALLY_CHAIN) == 0;

		agent->duplicates++;
		find(audit, same ? TALLY_FIND_DUPLICATE : TALLY_FIND_CONFLICT, agent->id,
		     "control record of batch %llu %s", (unsigned long long)batch->number,
		     same ? "came again" : "has two contents");
		return 0;
	}
	list = realloc(agent->batches, (agent->n_batches + 1) * sizeof(*list));
	if (!list)
		return -ENOMEM;
	agent->batches = list;
	memmove(list + at + 1, list + at, (agent->n_batches - at) * sizeof(*list));
	list[at] = *batch;
	agent->n_batches++;
	if ((at > 0 && begins_after(&list[at - 1], batch->incarnation, batch->seq_first)) ||
	    (at + 1 < agent->n_batches &&
	     begins_after(batch, list[at + 1].incarnation, list[at + 1].seq_first)))
		agent->tangled = true;
	*ret_batch = &list[at];
	return 1;
}

static bool belongs(const struct batch *batch, const struct loose *loose)
{
	if (loose->connection)
		return loose->incarnation == batch->incarnation && loose->batch == batch->number &&
		       loose->index < batch->connections.n;
	return holds(batch, loose->incarnation, loose->seq);
}

/* Records that came before their control record. */
static int claim_loose(struct tally_audit *audit, struct agent *agent, struct batch *batch)
{
	size_t kept = 0;
	int r = 0;

	for (size_t i = 0; i < agent->n_loose; i++) {
		struct loose *loose = &agent->loose[i];

		if (r < 0 || !belongs(batch, loose)) {
			agent->loose[kept++] = *loose;
			continue;
		}
		r = place(audit, agent, batch, loose);
		free(loose->text);
	}
	agent->n_loose = kept;
	return r;
}

static int take_batch(struct tally_audit *audit, struct agent *agent, struct batch *batch)
{
	struct batch *mine = NULL;
	int r;

	batch->usage.slots = calloc(batch->usage.n + 1, sizeof(struct slot));
	if (batch->by_connection)
		batch->connections.slots = calloc(batch->connections.n + 1, sizeof(struct slot));
	r = batch->usage.slots && (batch->connections.slots || !batch->by_connection)
		    ? insert_batch(audit, agent, batch, &mine)
		    : -ENOMEM;
	if (r <= 0) {
		batch_done(batch);
		return r;
	}
	r = settle(audit, agent, mine);
	return r < 0 ? r : claim_loose(audit, agent, mine);
}

static int feed_control(struct tally_audit *audit, const json_t *data, const void *value,
			size_t len)
{
	const json_t *who = json_object_get(data, "agent");
	struct batch batch = { 0 };
	struct agent *agent = NULL;
	int r;

	r = get_agent(audit, text_of(who, "id"), &agent);
	if (r < 0)
		return r;
	(void)snprintf(agent->host, sizeof(agent->host), "%s", text_of(who, "host")); /* cut */
	r = read_control(data, &batch);
	if (r == -EBADMSG)
		find(audit, TALLY_FIND_UNREADABLE, agent->id, "a control record");
	if (r < 0) {
		batch_done(&batch);
		return r == -EBADMSG ? 0 : r;
	}
	digest_control(value, len, &batch);
	return take_batch(audit, agent, &batch);
}

int tally_audit_feed(struct tally_audit *audit, const void *value, size_t len)
{
	json_t *root = json_loadb(value, len, JSON_REJECT_DUPLICATES, NULL), *data;
	const char *type = text_of(root, "type");
	bool wrapped = false;
	int r = 0;

	data = root ? data_of(root, &wrapped) : NULL;
	if (!root || !*type) {
		find(audit, TALLY_FIND_UNREADABLE, "", "not a record: %.*s",
		     (int)TALLY_MIN(len, (size_t)40), (const char *)value);
	} else if (!data ||
		   strlen(text_of(json_object_get(data, "agent"), "id")) != TALLY_AGENT_ID) {
		r = 0; /* somebody else's event */
	} else if (strcmp(type, "io.tallyd.usage.v1") == 0) {
		r = feed_usage(audit, data, value, len);
	} else if (strcmp(type, "io.tallyd.usage.connections.v1") == 0) {
		r = feed_connection(audit, data, value, len);
	} else if (strcmp(type, "io.tallyd.usage.control.v1") == 0) {
		r = feed_control(audit, data, value, len);
	}
	json_decref(data);
	json_decref(root);
	return r;
}

void tally_audit_without_connections(struct tally_audit *audit)
{
	audit->without_connections = true;
}

void tally_audit_gone(struct tally_audit *audit, bool connections, __u64 until_s)
{
	audit->gone[connections].told = true;
	audit->gone[connections].until_s = until_s;
}

void tally_audit_gone_control(struct tally_audit *audit, __u64 until_s)
{
	audit->control_gone_s = until_s == UINT64_MAX ? 0 : until_s;
	audit->control_whole = !until_s;
}

void tally_audit_since(struct tally_audit *audit, __u64 since_s)
{
	audit->asked = true;
	audit->since_s = since_s;
}

void tally_audit_live_since(struct tally_audit *audit, __u64 since_s)
{
	audit->live_s = since_s;
}

bool tally_audit_told_connections(const struct tally_audit *audit)
{
	for (size_t i = 0; i < audit->n_agents; i++) {
		for (size_t k = 0; k < audit->agents[i].n_batches; k++) {
			if (audit->agents[i].batches[k].connections.n)
				return true;
		}
	}
	return false;
}

int tally_audit_expect(struct tally_audit *audit, const char *id)
{
	struct agent *agent = NULL;
	int r;

	if (strlen(id) != TALLY_AGENT_ID)
		return -EINVAL;
	r = get_agent(audit, id, &agent);
	if (r == 0)
		agent->expected = true;
	return r;
}

/* --- judgement --- */

/* Does a loss that was declared cover this batch? */
static bool declared_batch(const struct agent *agent, __u64 number)
{
	for (size_t i = 0; i < agent->n_batches; i++) {
		if (agent->batches[i].lost && agent->batches[i].loss.batch == number)
			return true;
	}
	return false;
}

static bool declared_epoch(const struct agent *agent, __u64 epoch)
{
	for (size_t i = 0; i < agent->n_batches; i++) {
		const struct batch *batch = &agent->batches[i];

		if (batch->lost && epoch >= batch->loss.epoch_first &&
		    epoch <= batch->loss.epoch_last)
			return true;
	}
	return false;
}

static void judge_sums(struct tally_audit *audit, const struct agent *agent,
		       const struct batch *batch)
{
	for (int i = 0; i < SUMS; i++) {
		if (batch->told[i] != batch->found[i])
			find(audit, TALLY_FIND_SUM, agent->id,
			     "batch %llu: %s is told as %llu, its records hold %llu",
			     (unsigned long long)batch->number, tally_parts_names[i],
			     (unsigned long long)batch->told[i],
			     (unsigned long long)batch->found[i]);
	}
	for (size_t i = 0; i < batch->n_units; i++) {
		if (batch->units[i].told != batch->units[i].found)
			find(audit, TALLY_FIND_SUM, agent->id,
			     "batch %llu: unit %s is not the sum of its records",
			     (unsigned long long)batch->number, batch->units[i].name);
	}
}

static void judge_batch(struct tally_audit *audit, const struct agent *agent,
			const struct batch *batch)
{
	__s64 in = batch->held_before + batch->seen;
	__s64 out = batch->attributed + batch->unattributed + batch->held_after;

	if (!batch->usage.slots || batch->usage.present == batch->usage.n)
		judge_sums(audit, agent, batch);
	if (in != out)
		find(audit, TALLY_FIND_IDENTITY, agent->id,
		     "batch %llu: held_before + seen = %lld, attributed + unattributed + held_after = %lld",
		     (unsigned long long)batch->number, (long long)in, (long long)out);
	if (batch->unresolved)
		find(audit, TALLY_FIND_LOSS, agent->id,
		     "batch %llu: %lld requests carry no units: whose key it was, or which rules held, could not be told any more",
		     (unsigned long long)batch->number, (long long)batch->unresolved);
	if (batch->lost)
		find(audit, TALLY_FIND_LOSS, agent->id,
		     "batch %llu, seq %llu to %llu, epochs %llu to %llu: given up",
		     (unsigned long long)batch->loss.batch,
		     (unsigned long long)batch->loss.seq_first,
		     (unsigned long long)batch->loss.seq_last,
		     (unsigned long long)batch->loss.epoch_first,
		     (unsigned long long)batch->loss.epoch_last);
}

static void judge_hole(struct tally_audit *audit, const struct agent *agent,
		       const struct batch *batch)
{
	char from[TALLY_JSON_TIME], to[TALLY_JSON_TIME];

	if (!batch->hole)
		return;
	tally_json_time(batch->hole_start_s, from);
	tally_json_time(batch->hole_end_s, to);
	find(audit, batch->hole == 's' ? TALLY_FIND_NOTE : TALLY_FIND_LOSS, agent->id,
	     "not metered from %s to %s: %s", from, to,
	     batch->hole == 's' ? "the agent was stopped in order"
				: "the open window went with the kernel");
}

static void judge_epochs(struct tally_audit *audit, const struct agent *agent,
			 const struct batch *before, const struct batch *batch)
{
	__u64 first = before->epoch_last + 1, end = batch->epoch_first;
	bool declared = true;

	if (first == end)
		return;
	if (end < first) {
		find(audit, TALLY_FIND_CONFLICT, agent->id,
		     "batch %llu repeats epochs from %llu on", (unsigned long long)batch->number,
		     (unsigned long long)end);
		return;
	}
	if (batch->hole && batch->hole != 's')
		return; /* said already */
	for (__u64 epoch = first; declared && epoch < end; epoch++)
		declared = declared_epoch(agent, epoch);
	if (!declared)
		find(audit, TALLY_FIND_GAP, agent->id, "epochs %llu to %llu are missing",
		     (unsigned long long)first, (unsigned long long)(end - 1));
}

/* What lies between two control records that follow each other. */
static void judge_link(struct tally_audit *audit, const struct agent *agent,
		       const struct batch *before, const struct batch *batch)
{
	bool linked = memcmp(before->chain, batch->prev_chain, TALLY_CHAIN) == 0, declared = true;

	if (linked && batch->incarnation != before->incarnation)
		find(audit, TALLY_FIND_NOTE, agent->id,
		     "incarnation %u follows %u at batch %llu; the chain holds", batch->incarnation,
		     before->incarnation, (unsigned long long)batch->number);
	if (linked)
		return;
	if (batch->number <= before->number) {
		find(audit, TALLY_FIND_CHAIN, agent->id,
		     "batch %llu is there twice, in incarnations %u and %u: the chain parts",
		     (unsigned long long)batch->number, before->incarnation, batch->incarnation);
		return;
	}
	if (batch->number == before->number + 1) {
		find(audit, TALLY_FIND_CHAIN, agent->id, "batch %llu is not chained to batch %llu",
		     (unsigned long long)batch->number, (unsigned long long)before->number);
		return;
	}
	for (__u64 n = before->number + 1; declared && n < batch->number; n++)
		declared = declared_batch(agent, n);
	if (!declared)
		find(audit, TALLY_FIND_GAP, agent->id,
		     "batches %llu to %llu are missing (seq %llu to %llu)",
		     (unsigned long long)before->number + 1, (unsigned long long)batch->number - 1,
		     (unsigned long long)(before->seq_first + before->usage.n),
		     (unsigned long long)batch->seq_first - 1);
}

/*
 * One that declares a loss adds nothing to what the batches before it hold, and so cannot be complete for
 * longer than they. Only where none between is missing: that one may have held more.
 */
static void judge_until(struct tally_audit *audit, const struct agent *agent,
			const struct batch *before, const struct batch *batch)
{
	char told[TALLY_JSON_TIME], held[TALLY_JSON_TIME];

	if (!batch->lost || batch->number != before->number + 1 ||
	    batch->complete_until_s <= before->complete_until_s)
		return;
	tally_json_time(batch->complete_until_s, told);
	tally_json_time(before->complete_until_s, held);
	find(audit, TALLY_FIND_IDENTITY, agent->id,
	     "batch %llu: complete_until is %s, and of the batch before, which it adds nothing to, %s",
	     (unsigned long long)batch->number, told, held);
}

static void judge_held(struct tally_audit *audit, const struct agent *agent,
		       const struct batch *before, const struct batch *batch)
{
	if (batch->hole || batch->epoch_first != before->epoch_last + 1 ||
	    batch->held_before == before->held_after)
		return;
	find(audit, TALLY_FIND_IDENTITY, agent->id,
	     "batch %llu: held_before is %lld, the batch before ended with %lld",
	     (unsigned long long)batch->number, (long long)batch->held_before,
	     (long long)before->held_after);
}

static const struct told *told_by(const struct batch *batch, bool connections)
{
	return connections ? &batch->connections : &batch->usage;
}

/* The first batch of which a record is here; 0: none is. */
static __u64 first_here(const struct agent *agent, bool connections)
{
	for (size_t i = 0; i < agent->n_batches; i++) {
		if (told_by(&agent->batches[i], connections)->present)
			return agent->batches[i].number;
	}
	return 0;
}

/* Did retention take what is missing? `here`: the agent's first batch that has a record. */
static bool is_gone(const struct tally_audit *audit, const struct batch *batch, bool connections,
		    __u64 here)
{
	const struct gone *gone = &audit->gone[connections];

	if (gone->told)
		return batch->complete_until_s <= gone->until_s;
	if (here)
		return batch->number < here;
	return gone->oldest_s != UINT64_MAX && batch->complete_until_s < gone->oldest_s;
}

static void missing(struct tally_audit *audit, const struct agent *agent, const struct batch *batch,
		    bool connections)
{
	const struct told *told = told_by(batch, connections);

	if (connections)
		find(audit, TALLY_FIND_GAP, agent->id,
		     "batch %llu: %llu of %llu connection records are missing",
		     (unsigned long long)batch->number,
		     (unsigned long long)(told->n - told->present), (unsigned long long)told->n);
	else
		find(audit, TALLY_FIND_GAP, agent->id,
		     "batch %llu (seq %llu to %llu): %llu of %llu records are missing",
		     (unsigned long long)batch->number, (unsigned long long)batch->seq_first,
		     (unsigned long long)(batch->seq_first + told->n - 1),
		     (unsigned long long)(told->n - told->present), (unsigned long long)told->n);
}

/* What retention took: a note, and a gap where it is of the period asked for. */
static void say_gone(struct tally_audit *audit, const struct agent *agent, bool connections,
		     __u64 batches, __u64 until_s)
{
	bool asked = audit->asked && until_s > audit->since_s;
	const char *what = connections ? "connection" : "usage";
	char until[TALLY_JSON_TIME], since[TALLY_JSON_TIME];

	tally_json_time(until_s, until);
	tally_json_time(audit->since_s, since);
	if (asked)
		find(audit, TALLY_FIND_GAP, agent->id,
		     "%s records of %llu batches are not here any more, up to %s: the period since %s is not whole",
		     what, (unsigned long long)batches, until, since);
	else if (batches)
		find(audit, TALLY_FIND_NOTE, agent->id,
		     "%s records of %llu batches are not here any more, up to %s", what,
		     (unsigned long long)batches, until);
}

static void judge_told(struct tally_audit *audit, const struct agent *agent, bool connections)
{
	__u64 here = first_here(agent, connections), batches = 0, until_s = 0;

	for (size_t i = 0; i < agent->n_batches; i++) {
		const struct batch *batch = &agent->batches[i];
		const struct told *told = told_by(batch, connections);

		if (told->present == told->n)
			continue;
		if (!is_gone(audit, batch, connections, here)) {
			missing(audit, agent, batch, connections);
			continue;
		}
		batches++;
		until_s = TALLY_MAX(until_s, batch->complete_until_s);
	}
	say_gone(audit, agent, connections, batches, until_s);
}

static bool declared_before(const struct agent *agent, __u64 number)
{
	bool declared = true;

	for (__u64 n = 1; declared && n < number; n++)
		declared = declared_batch(agent, n);
	return declared;
}

/*
 * Of the period asked for, control records may be gone, too. The first batch of all has none before it, and
 * those that were lost and declared have none.
 */
static void judge_since(struct tally_audit *audit, const struct agent *agent)
{
	static const __u8 none[TALLY_CHAIN];
	const struct batch *first = agent->batches;
	char from[TALLY_JSON_TIME], since[TALLY_JSON_TIME];

	if (!audit->asked || !agent->n_batches || first->start_s <= audit->since_s ||
	    memcmp(first->prev_chain, none, sizeof(none)) == 0 ||
	    declared_before(agent, first->number))
		return;
	tally_json_time(first->start_s, from);
	tally_json_time(audit->since_s, since);
	find(audit, TALLY_FIND_GAP, agent->id,
	     "its oldest control record is batch %llu, from %s on: the period since %s is not whole",
	     (unsigned long long)first->number, from, since);
}

/* What its last batch says: a clock that went ahead for a while does not make later windows complete. */
static __u64 complete_until(const struct agent *agent)
{
	for (size_t i = agent->n_batches; i > 0; i--) {
		if (!agent->batches[i - 1].lost)
			return agent->batches[i - 1].complete_until_s;
	}
	return 0;
}

static void judge_agent(struct tally_audit *audit, const struct agent *agent)
{
	const struct batch *before = NULL, *epochs = NULL;

	for (size_t i = 0; i < agent->n_batches; i++) {
		const struct batch *batch = &agent->batches[i];

		judge_batch(audit, agent, batch);
		judge_hole(audit, agent, batch);
		if (before) {
			judge_link(audit, agent, before, batch);
			judge_until(audit, agent, before, batch);
		}
		before = batch;
		if (batch->lost)
			continue;
		if (epochs) {
			judge_epochs(audit, agent, epochs, batch);
			judge_held(audit, agent, epochs, batch);
		}
		epochs = batch;
	}
	judge_since(audit, agent);
	judge_told(audit, agent, false);
	if (!audit->without_connections)
		judge_told(audit, agent, true);
}

static bool is_behind(const struct batch *last, const struct loose *loose)
{
	if (loose->incarnation != last->incarnation)
		return loose->incarnation > last->incarnation;
	return loose->connection ? loose->batch > last->number : loose->seq >= last->seq_first;
}

static bool is_before(const struct batch *first, const struct loose *loose)
{
	if (loose->incarnation != first->incarnation)
		return loose->incarnation < first->incarnation;
	return loose->connection ? loose->batch < first->number : loose->seq < first->seq_first;
}

/* Of a batch that was given up, in part sent before. */
static bool is_given_up(const struct agent *agent, const struct loose *loose)
{
	for (size_t i = 0; i < agent->n_batches; i++) {
		const struct tally_loss *loss = &agent->batches[i].loss;

		if (!agent->batches[i].lost || loss->incarnation != loose->incarnation)
			continue;
		if (loose->connection
			    ? loose->batch == loss->batch
			    : loose->seq >= loss->seq_first && loose->seq <= loss->seq_last)
			return true;
	}
	return false;
}

/* Records that no control record speaks of: before the anchor, or not yet. */
static __u64 count_pending(const struct agent *agent)
{
	__u64 n = 0;

	for (size_t i = 0; i < agent->n_loose; i++)
		n += !agent->n_batches ||
		     is_behind(&agent->batches[agent->n_batches - 1], &agent->loose[i]);
	return n;
}

static void look_back(struct tally_audit *audit, const struct agent *agent)
{
	for (size_t i = 0; i < agent->n_batches; i++) {
		const struct batch *batch = &agent->batches[i];

		audit->first_s = TALLY_MIN(audit->first_s, batch->complete_until_s);
		for (int k = 0; k < 2; k++) {
			if (told_by(batch, k)->present)
				audit->gone[k].oldest_s =
					TALLY_MIN(audit->gone[k].oldest_s, batch->complete_until_s);
		}
	}
}

/* If none of them is left, control records tell how far retention got: it left a segment of theirs. */
static void find_beginnings(struct tally_audit *audit)
{
	audit->first_s = UINT64_MAX;
	for (int k = 0; k < 2; k++)
		audit->gone[k].oldest_s = UINT64_MAX;
	for (size_t i = 0; i < audit->n_agents; i++)
		look_back(audit, &audit->agents[i]);
	for (int k = 0; k < 2 && audit->first_s != UINT64_MAX; k++) {
		if (audit->gone[k].until_s == UINT64_MAX)
			audit->gone[k].until_s = audit->first_s + SEGMENT_S;
	}
}

/*
 * A control record is written after the window of its records: retention took none that tells of a later
 * one. The period asked for must be here as a whole, whatever retention took.
 */
static bool is_unvouched(const struct tally_audit *audit, const struct loose *loose)
{
	__u64 gone_s = audit->asked ? audit->since_s : audit->control_gone_s;

	return !gone_s || loose->end_s > gone_s;
}

/* Without any control record there is no anchor: only what is new may still get its own. */
static void judge_uncovered(struct tally_audit *audit, const struct agent *agent)
{
	__u64 old = 0, unvouched = 0;

	for (size_t i = 0; i < agent->n_loose; i++) {
		if (agent->loose[i].end_s >= audit->live_s)
			continue;
		old++;
		unvouched += is_unvouched(audit, &agent->loose[i]);
	}
	if (unvouched)
		find(audit, TALLY_FIND_GAP, agent->id,
		     "%llu records, and no control record of this agent vouches for them",
		     (unsigned long long)unvouched);
	if (old > unvouched)
		find(audit, TALLY_FIND_NOTE, agent->id,
		     "control records of %llu records are not here any more",
		     (unsigned long long)(old - unvouched));
	if (agent->n_loose > old)
		find(audit, TALLY_FIND_NOTE, agent->id,
		     "%llu records are of a batch that is not complete yet",
		     (unsigned long long)(agent->n_loose - old));
}

/*
 * Records from before the agent's oldest control record. Retention took those that vouched for them; or it took
 * none, and they are gone. (A sink that is added begins in the middle of the chain, and has no such records.)
 */
static void judge_before(struct tally_audit *audit, const struct agent *agent, __u64 n)
{
	const struct batch *first = &agent->batches[0];
	bool vanished =
		audit->control_whole && !audit->asked && !declared_before(agent, first->number);

	if (n)
		find(audit, vanished ? TALLY_FIND_GAP : TALLY_FIND_NOTE, agent->id,
		     "%llu records are older than its oldest control record, of batch %llu%s",
		     (unsigned long long)n, (unsigned long long)first->number,
		     vanished ? ", though retention took none" : ": they are not judged");
}

/* With an anchor: before it nothing is judged, behind the last batch what is new may still get its own. */
static void judge_uncontrolled(struct tally_audit *audit, const struct agent *agent)
{
	const struct batch *first = &agent->batches[0],
			   *last = &agent->batches[agent->n_batches - 1];
	__u64 before = 0, pending = 0, late = 0, stray = 0;

	for (size_t i = 0; i < agent->n_loose; i++) {
		const struct loose *loose = &agent->loose[i];

		if (is_before(first, loose))
			before++;
		else if (is_behind(last, loose) && loose->end_s >= audit->live_s)
			pending++;
		else if (is_behind(last, loose))
			late++;
		else if (!is_given_up(agent, loose))
			stray++;
	}
	if (stray)
		find(audit, TALLY_FIND_GAP, agent->id,
		     "%llu records, and no control record of this agent vouches for them",
		     (unsigned long long)stray);
	if (late)
		find(audit, TALLY_FIND_BEHIND, agent->id,
		     "%llu records still wait for their control record", (unsigned long long)late);
	judge_before(audit, agent, before);
	if (pending)
		find(audit, TALLY_FIND_NOTE, agent->id,
		     "%llu records are of a batch that is not complete yet",
		     (unsigned long long)pending);
}

static void judge_pending(struct tally_audit *audit, const struct agent *agent)
{
	if (agent->n_batches)
		judge_uncontrolled(audit, agent);
	else
		judge_uncovered(audit, agent);
}

/* until: what its books are complete to; until_s: what they are wanted to, 0: nobody asks. */
static void judge_progress(struct tally_audit *audit, const struct agent *agent, __u64 until,
			   __u64 until_s)
{
	char text[TALLY_JSON_TIME] = "never";

	if (until)
		tally_json_time(until, text);
	if (until < until_s)
		find(audit, TALLY_FIND_BEHIND, agent->id, "complete until %s only", text);
	else if (agent->expected && !agent->n_batches)
		find(audit, TALLY_FIND_BEHIND, agent->id,
		     "it must be there, and there is no control record of it");
}

int tally_audit_close(struct tally_audit *audit, __u64 until_s)
{
	bool all = true;

	find_beginnings(audit);
	for (size_t i = 0; i < audit->n_agents; i++)
		all &= !audit->agents[i].expected;
	for (size_t i = 0; i < audit->n_agents; i++) {
		const struct agent *agent = &audit->agents[i];

		judge_agent(audit, agent);
		judge_progress(audit, agent, complete_until(agent),
			       all || agent->expected ? until_s : 0);
		judge_pending(audit, agent);
	}
	return 0;
}

size_t tally_audit_agents(const struct tally_audit *audit)
{
	return audit->n_agents;
}

void tally_audit_agent(const struct tally_audit *audit, size_t index,
		       struct tally_audit_agent *ret_agent)
{
	const struct agent *agent = &audit->agents[index];
	__u32 incarnation = 0;

	*ret_agent = (struct tally_audit_agent){ .duplicates = agent->duplicates,
						 .batches = agent->n_batches,
						 .pending = count_pending(agent),
						 .complete_until_s = complete_until(agent) };
	memcpy(ret_agent->id, agent->id, sizeof(ret_agent->id));
	memcpy(ret_agent->host, agent->host, sizeof(ret_agent->host));
	for (size_t i = 0; i < agent->n_batches; i++) {
		const struct batch *batch = &agent->batches[i];

		ret_agent->records += batch->usage.present;
		ret_agent->connections += batch->connections.present;
		ret_agent->requests += (__u64)batch->found[0];
		ret_agent->incarnations += batch->incarnation != incarnation;
		incarnation = batch->incarnation;
	}
}

size_t tally_audit_findings(const struct tally_audit *audit)
{
	return audit->n_findings;
}

const struct tally_finding *tally_audit_finding(const struct tally_audit *audit, size_t index)
{
	return &audit->findings[index];
}

const char *tally_audit_kind(enum tally_finding_kind kind)
{
#define TEXT(symbol, value, text) [value] = (text),
	static const char *const texts[] = { TALLY_FINDINGS(TEXT) };

	return texts[kind];
}

__u64 tally_audit_count(const struct tally_audit *audit, enum tally_finding_kind kind)
{
	return audit->counts[kind];
}
