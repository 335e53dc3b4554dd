/* SPDX-License-Identifier: Apache-2.0 */
#include "deliver/kafka_broker.h"

#include <jansson.h>
#include <librdkafka/rdkafka.h>
#include <stdarg.h>

#include "base/util.h"
#include "deliver/checkpoint.h"
#include "deliver/kafka_wait.h"
#include "deliver/reserve.h"

#define META_MS 10000	/* metadata, topic creation, ends of partitions */
#define READ_MS 45000	/* reading the checkpoint, at least */
#define HANG_MS 15000	/* and so much longer than a transaction may hang */
#define ORDER_MS 120000 /* an order as a whole, beside transactions and reading */
#define QUEUE_MS 30000	/* waiting for room in the queue */
#define ABORT_MS 10000
#define TXN_MS 30000
#define SOCKET_MS 10000u
#define CONTENT "application/cloudevents+json; charset=UTF-8"
#define RETENTION_45_DAYS "3888000000"
#define HEADERS 8u

/* sinks/<name>: what is remembered of the cluster. */
enum extra {
	HINT_PARTITION,
	HINT_OFFSET,
	PARTITIONS,
	PARTITIONS_BATCH,
	CONNECTION_PARTITIONS, /* of the same batch; 0: it has none, or they were not looked for */
};

#define KEY_MAX (TALLY_AGENT_ID + 1 + 128)

struct tally_kafka_broker {
	const struct tally_kafka_config *config;
	struct tally_kafka_broker_hooks hooks;
	char agent[TALLY_AGENT_ID + 1];
	char key[KEY_MAX + 1];					/* of our checkpoints: agent/sink */
	const char *records, *control, *progress, *connections; /* topics */
	__u32 txn_ms;
	rd_kafka_t *producer, *reader;
	struct tally_checkpoint_file saved, stored; /* stored: as the file has it */
	struct tally_checkpoint seen;		    /* last own checkpoint read */
	struct tally_checkpoint old; /* and the last under the agent alone, as once all were */
	__u64 until_ms;		     /* the end of this order */
	bool pins_checked;	     /* against the topics, in this connection */
	__u64 failed;		     /* messages of this piece that were not delivered */
	__s64 progress_offset;	     /* of the last checkpoint sent; -1: not known */
	__s32 progress_partition;
};

static void tell(const struct tally_kafka_broker *broker, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static void tell(const struct tally_kafka_broker *broker, const char *fmt, ...)
{
	char text[512];
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, args); /* cut when longer */
	va_end(args);
	broker->hooks.tell(broker->hooks.ctx, text);
}

static __u64 now_ms(void)
{
	return tally_kafka_wait_now_ms();
}

/* No longer than the order lasts. */
static struct tally_kafka_wait wait_until(const struct tally_kafka_broker *broker,
					  __u64 deadline_ms)
{
	return (struct tally_kafka_wait){ .until_ms = TALLY_MIN(deadline_ms, broker->until_ms),
					  .stop = broker->hooks.stop };
}

/* For calls that go on where they were when they are made again. */
static int left_ms(const struct tally_kafka_broker *broker, __u64 deadline_ms)
{
	const struct tally_kafka_wait wait = wait_until(broker, deadline_ms);

	return (int)TALLY_MIN(tally_kafka_wait_rest_ms(&wait), (__u64)TALLY_KAFKA_SLICE_MS);
}

static void on_log(const rd_kafka_t *rk, int level, const char *fac, const char *buf)
{
	const struct tally_kafka_broker *broker = rd_kafka_opaque(rk);

	(void)level;
	tell(broker, "librdkafka %s: %s", fac, buf);
}

static void on_error(rd_kafka_t *rk, int err, const char *reason, void *opaque)
{
	(void)rk;
	tell(opaque, "%s: %s", rd_kafka_err2name((rd_kafka_resp_err_t)err), reason);
}

/* The delivery report is the only truth. */
static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *msg, void *opaque)
{
	struct tally_kafka_broker *broker = opaque;

	(void)rk;
	if (msg->err) {
		broker->failed++;
		tell(broker, "a record was not delivered: %s", rd_kafka_err2str(msg->err));
		return;
	}
	if (msg->_private != &broker->progress_offset)
		return;
	broker->progress_offset = msg->offset;
	broker->progress_partition = msg->partition;
}

static const char *delivery_setting(const struct tally_kafka_config *config)
{
	return config->delivery == TALLY_KAFKA_TRANSACTIONAL ? "5" : "1";
}

/* Everything we depend on; the user's own options come after, and may change what they like. */
static int set_all(rd_kafka_conf_t *conf, const char *const (*settings)[2], char *error,
		   size_t error_size)
{
	for (; (*settings)[0]; settings++) {
		if (rd_kafka_conf_set(conf, (*settings)[0], (*settings)[1], error, error_size) !=
		    RD_KAFKA_CONF_OK)
			return -EINVAL;
	}
	return 0;
}

static int set_user(rd_kafka_conf_t *conf, const struct tally_kafka_config *config, char *error,
		    size_t error_size)
{
	for (size_t i = 0; i < config->n_options; i++) {
		const struct tally_kafka_option *option = &config->options[i];

		if (rd_kafka_conf_set(conf, option->name, option->value, error, error_size) !=
		    RD_KAFKA_CONF_OK)
			return -EINVAL;
	}
	return 0;
}

static __u32 txn_ms_of(const struct tally_kafka_config *config)
{
	return config->transaction_timeout_ms ? config->transaction_timeout_ms : TXN_MS;
}

static __u32 read_ms_of(const struct tally_kafka_config *config)
{
	return TALLY_MAX((__u32)READ_MS, txn_ms_of(config) + HANG_MS);
}

/* Opening: topics, then whoever hangs is fenced, then all is read, perhaps twice. Sending: two
 * flushes, or a commit and what undoes it. */
static __u32 order_ms_of(const struct tally_kafka_config *config)
{
	return ORDER_MS + 2 * txn_ms_of(config) + 2 * read_ms_of(config);
}

__u32 tally_kafka_broker_patience_ms(const struct tally_kafka_config *config)
{
	return order_ms_of(config) + META_MS; /* and the last slice */
}

static int common_conf(const struct tally_kafka_config *config, rd_kafka_conf_t *conf, char *error,
		       size_t error_size)
{
	char socket[16];
	const char *const settings[][2] = {
		{ "bootstrap.servers", config->brokers }, { "client.id", "tallyd" },
		{ "socket.timeout.ms", socket },	  { "socket.keepalive.enable", "true" },
		{ "reconnect.backoff.ms", "100" },	  { "reconnect.backoff.max.ms", "10000" },
		{ "allow.auto.create.topics", "false" },  { NULL, NULL },
	};

	/* librdkafka refuses one above the transaction's */
	(void)snprintf(socket, sizeof(socket), "%u", TALLY_MIN(txn_ms_of(config), SOCKET_MS));
	rd_kafka_conf_set_log_cb(conf, on_log);
	rd_kafka_conf_set_error_cb(conf, on_error);
	return set_all(conf, settings, error, error_size);
}

static int producer_conf(const struct tally_kafka_config *config, __u32 txn_ms, const char *id,
			 rd_kafka_conf_t *conf, char *error, size_t error_size)
{
	char txn[16], message[16];
	const char *const settings[][2] = {
		{ "acks", "all" },
		{ "enable.idempotence", "true" },
		{ "max.in.flight.requests.per.connection", delivery_setting(config) },
		{ "message.timeout.ms", message },
		{ "linger.ms", "20" },
		{ "compression.codec", "lz4" },
		{ "batch.size", "262144" },
		{ "queue.buffering.max.messages", "20000" },
		{ "queue.buffering.max.kbytes", "32768" },
		{ "partitioner", "murmur2" },
		{ NULL, NULL },
	};
	const char *const transactional[][2] = {
		{ "transaction.timeout.ms", txn },
		{ "transactional.id", id },
		{ NULL, NULL },
	};
	int r;

	(void)snprintf(txn, sizeof(txn), "%u", txn_ms); /* fits */
	(void)snprintf(message, sizeof(message), "%u", txn_ms - txn_ms / 6);
	rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
	r = common_conf(config, conf, error, error_size);
	if (r == 0)
		r = set_all(conf, settings, error, error_size);
	if (r == 0 && config->delivery == TALLY_KAFKA_TRANSACTIONAL)
		r = set_all(conf, transactional, error, error_size);
	return r < 0 ? r : set_user(conf, config, error, error_size);
}

/* librdkafka's own text of a value would tell the value, which may be a secret. */
int tally_kafka_property_check(const char *name, const char *value)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char error[512];
	rd_kafka_conf_res_t found = rd_kafka_conf_set(conf, name, value, error, sizeof(error));

	rd_kafka_conf_destroy(conf);
	if (found == RD_KAFKA_CONF_OK)
		return 0;
	return found == RD_KAFKA_CONF_UNKNOWN ? -ENOENT : -EINVAL;
}

int tally_kafka_broker_check(const struct tally_kafka_config *config, char **ret_error)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char error[512] = "no brokers";
	rd_kafka_t *client = NULL;
	int r = -EINVAL;

	if (config->brokers && *config->brokers)
		r = producer_conf(config, txn_ms_of(config), "check", conf, error, sizeof(error));
	/* Some settings are judged only beside others, when a client is made. */
	rd_kafka_conf_set_log_cb(conf, NULL);
	rd_kafka_conf_set_error_cb(conf, NULL);
	if (r == 0)
		client = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof(error));
	if (client) {
		rd_kafka_destroy(client);
		return 0;
	}
	rd_kafka_conf_destroy(conf);
	*ret_error = strdup(error);
	return -EINVAL;
}

static int make_client(struct tally_kafka_broker *broker, rd_kafka_type_t type,
		       rd_kafka_conf_t *conf, int r, char *error, rd_kafka_t **ret_client)
{
	rd_kafka_t *client = NULL;

	if (r == 0) {
		rd_kafka_conf_set_opaque(conf, broker);
		client = rd_kafka_new(type, conf, error, 512);
	}
	if (!client) {
		rd_kafka_conf_destroy(conf);
		tell(broker, "cannot make a Kafka client: %s", error);
		return -EINVAL;
	}
	*ret_client = client;
	return 0;
}

static int make_producer(struct tally_kafka_broker *broker)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char error[512] = "", id[128];
	int r;

	(void)snprintf(id, sizeof(id), "tallyd-%s-%s", broker->agent, broker->config->name);
	r = producer_conf(broker->config, broker->txn_ms, id, conf, error, sizeof(error));
	return make_client(broker, RD_KAFKA_PRODUCER, conf, r, error, &broker->producer);
}

static const char *consumer_word(const char *name)
{
	/* What a user sets for the connection holds for reading, too. */
	static const char *const prefixes[] = { "security.", "sasl.", "ssl.",	   "socket.",
						"broker.",   "debug", "metadata.", "client." };

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(prefixes); i++) {
		if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
			return name;
	}
	return NULL;
}

static int make_reader(struct tally_kafka_broker *broker, const char *isolation,
		       rd_kafka_t **ret_reader)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char error[512] = "";
	const char *const settings[][2] = {
		{ "group.id", "tallyd-checkpoint" },	 { "enable.auto.commit", "false" },
		{ "enable.auto.offset.store", "false" }, { "enable.partition.eof", "true" },
		{ "auto.offset.reset", "earliest" },	 { "isolation.level", isolation },
		{ "fetch.wait.max.ms", "50" },		 { NULL, NULL },
	};
	int r;

	r = common_conf(broker->config, conf, error, sizeof(error));
	if (r == 0)
		r = set_all(conf, settings, error, sizeof(error));
	for (size_t i = 0; r == 0 && i < broker->config->n_options; i++) {
		const struct tally_kafka_option *option = &broker->config->options[i];

		if (consumer_word(option->name) &&
		    rd_kafka_conf_set(conf, option->name, option->value, error, sizeof(error)) !=
			    RD_KAFKA_CONF_OK)
			r = -EINVAL;
	}
	r = make_client(broker, RD_KAFKA_CONSUMER, conf, r, error, ret_reader);
	if (r == 0)
		(void)rd_kafka_poll_set_consumer(*ret_reader); /* cannot fail on a consumer */
	return r;
}

int tally_kafka_broker_new(const struct tally_kafka_config *config, const char *agent,
			   const struct tally_kafka_broker_hooks *hooks,
			   struct tally_kafka_broker **ret_broker)
{
	struct tally_kafka_broker *broker = calloc(1, sizeof(*broker));
	int r;

	if (!broker)
		return -ENOMEM;
	broker->config = config;
	broker->hooks = *hooks;
	(void)snprintf(broker->agent, sizeof(broker->agent), "%s", agent); /* 12 digits */
	r = snprintf(broker->key, sizeof(broker->key), "%s/%s", agent, config->name);
	if (r < 0 || (size_t)r >= sizeof(broker->key)) {
		free(broker);
		return -ENAMETOOLONG;
	}
	broker->records = config->topic_records ? config->topic_records : "usage.records.v1";
	broker->control = config->topic_control ? config->topic_control : "usage.control.v1";
	broker->progress = config->topic_progress ? config->topic_progress : "usage.progress.v1";
	broker->connections =
		config->topic_connections ? config->topic_connections : "usage.connections.v1";
	broker->txn_ms = txn_ms_of(config);
	broker->progress_offset = -1;
	r = make_producer(broker);
	if (r == 0)
		r = make_reader(broker, "read_committed", &broker->reader);
	if (r < 0) {
		tally_kafka_broker_free(broker);
		return r;
	}
	*ret_broker = broker;
	return 0;
}

void tally_kafka_broker_free(struct tally_kafka_broker *broker)
{
	if (!broker)
		return;
	if (broker->producer) {
		(void)rd_kafka_purge(broker->producer,
				     RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
		rd_kafka_destroy_flags(broker->producer, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	}
	if (broker->reader)
		rd_kafka_destroy_flags(broker->reader, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	free(broker);
}

void tally_kafka_broker_serve(struct tally_kafka_broker *broker)
{
	rd_kafka_message_t *msg = rd_kafka_consumer_poll(broker->reader, 0);

	if (msg)
		rd_kafka_message_destroy(msg);
	(void)rd_kafka_poll(broker->producer, 0); /* number of events: of no interest */
}

/* Number of partitions; -ENOENT: no such topic. */
static int count_partitions(struct tally_kafka_broker *broker, const char *topic, int *ret_n)
{
	const struct rd_kafka_metadata *meta = NULL;
	rd_kafka_topic_t *handle = rd_kafka_topic_new(broker->producer, topic, NULL);
	const struct tally_kafka_wait wait = wait_until(broker, now_ms() + META_MS);
	rd_kafka_resp_err_t err;
	int r = -EIO;

	if (!handle)
		return -ENOMEM;
	err = tally_kafka_wait_metadata(broker->producer, handle, &wait, &meta);
	rd_kafka_topic_destroy(handle);
	if (err) {
		tell(broker, "no broker of %s answers: %s", broker->config->brokers,
		     rd_kafka_err2str(err));
		return -ENOTCONN;
	}
	if (meta->topic_cnt == 1 && !meta->topics[0].err && meta->topics[0].partition_cnt > 0) {
		*ret_n = meta->topics[0].partition_cnt;
		r = 0;
	} else if (meta->topic_cnt == 1 &&
		   meta->topics[0].err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) {
		r = -ENOENT;
	} else if (meta->topic_cnt == 1) {
		tell(broker, "topic %s: %s", topic, rd_kafka_err2str(meta->topics[0].err));
	}
	rd_kafka_metadata_destroy(meta);
	return r;
}

static rd_kafka_resp_err_t created(rd_kafka_event_t *event)
{
	const rd_kafka_CreateTopics_result_t *result = rd_kafka_event_CreateTopics_result(event);
	const rd_kafka_topic_result_t **topics;
	size_t n = 0;

	if (rd_kafka_event_error(event) || !result)
		return rd_kafka_event_error(event);
	topics = rd_kafka_CreateTopics_result_topics(result, &n);
	return n == 1 ? rd_kafka_topic_result_error(topics[0]) : RD_KAFKA_RESP_ERR__FAIL;
}

static rd_kafka_resp_err_t request_topic(struct tally_kafka_broker *broker,
					 rd_kafka_NewTopic_t *topic)
{
	rd_kafka_AdminOptions_t *options =
		rd_kafka_AdminOptions_new(broker->producer, RD_KAFKA_ADMIN_OP_CREATETOPICS);
	rd_kafka_queue_t *queue = rd_kafka_queue_new(broker->producer);
	rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR__TIMED_OUT;
	__u64 deadline = now_ms() + META_MS;
	rd_kafka_event_t *event = NULL;
	int left;

	(void)rd_kafka_AdminOptions_set_request_timeout(options, META_MS, NULL, 0); /* in range */
	rd_kafka_CreateTopics(broker->producer, &topic, 1, options, queue);
	while (!event && (left = left_ms(broker, deadline)) > 0)
		event = rd_kafka_queue_poll(queue, left);
	if (event) {
		err = created(event);
		rd_kafka_event_destroy(event);
	}
	rd_kafka_queue_destroy(queue);
	rd_kafka_AdminOptions_destroy(options);
	return err;
}

static int create_topic(struct tally_kafka_broker *broker, const char *name)
{
	const struct tally_kafka_config *config = broker->config;
	bool compact = name == broker->progress;
	rd_kafka_NewTopic_t *topic;
	rd_kafka_resp_err_t err;
	char error[256] = "";

	topic = rd_kafka_NewTopic_new(name, config->partitions ? config->partitions : 6,
				      config->replication ? config->replication : -1, error,
				      sizeof(error));
	if (!topic) {
		tell(broker, "topic %s: %s", name, error);
		return -EINVAL;
	}
	(void)rd_kafka_NewTopic_set_config(topic, "cleanup.policy", compact ? "compact" : "delete");
	if (!compact)
		(void)rd_kafka_NewTopic_set_config(topic, "retention.ms", RETENTION_45_DAYS);
	err = request_topic(broker, topic);
	rd_kafka_NewTopic_destroy(topic);
	if (err && err != RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS) {
		tell(broker, "topic %s does not exist and cannot be created: %s", name,
		     rd_kafka_err2str(err));
		return -EACCES;
	}
	tell(broker, "topic %s created", name);
	return 0;
}

static int ensure_topic(struct tally_kafka_broker *broker, const char *name, int *ret_n)
{
	__u64 deadline = now_ms() + META_MS;
	int r = count_partitions(broker, name, ret_n);

	if (r != -ENOENT)
		return r;
	if (!broker->config->create_topics) {
		tell(broker, "topic %s does not exist; create it, or allow create_topics", name);
		return r;
	}
	r = create_topic(broker, name);
	if (r < 0)
		return r;
	do {
		r = count_partitions(broker, name, ret_n);
	} while (r == -ENOENT && left_ms(broker, deadline) > 0 && usleep(50000) == 0);
	return r;
}

/* Fences every earlier producer of this agent, and ends what it left open. */
static int init_transactions(struct tally_kafka_broker *broker)
{
	__u64 deadline = now_ms() + 2ULL * broker->txn_ms;
	rd_kafka_error_t *error = NULL;
	int left;

	if (broker->config->delivery != TALLY_KAFKA_TRANSACTIONAL)
		return 0;
	while ((left = left_ms(broker, deadline)) > 0) {
		error = rd_kafka_init_transactions(broker->producer, left);
		if (!error)
			return 0;
		if (!rd_kafka_error_is_retriable(error))
			break;
		rd_kafka_error_destroy(error);
		error = NULL;
	}
	tell(broker, "init_transactions: %s", error ? rd_kafka_error_string(error) : "no answer");
	if (error)
		rd_kafka_error_destroy(error);
	return -EIO;
}

/* "position":{...}, or nothing: then it is not known. */
static int parse_position(json_t *object, struct tally_position *ret_position)
{
	struct tally_position at = { 0 };
	json_int_t epoch = 0, number = 0, end_s = 0, held = 0;
	const char *ledger = NULL;
	int cause = 0;

	if (!object)
		return 0;
	if (json_unpack(object, "{s:I,s:s,s:I,s:I,s:I,s:i}", "epoch", &epoch, "ledger", &ledger,
			"number", &number, "end_s", &end_s, "held", &held, "cause", &cause) != 0 ||
	    tally_util_unhex(ledger, at.ledger, sizeof(at.ledger)) < 0 || cause < 0 ||
	    cause >= TALLY_CAUSE_COUNT)
		return -EBADMSG;
	at.epoch = (__u64)epoch;
	at.number = (__u64)number;
	at.end_s = (__u64)end_s;
	at.held = held;
	at.cause = (__u8)cause;
	*ret_position = at;
	return 0;
}

/* {"agent":...,"incarnation":...,"batch":...,"seq":...,"whole":...,"chain":...,"position":...}; and
 * "connections":... where there are any */
static int parse_checkpoint(const void *value, size_t len, struct tally_checkpoint *ret_at)
{
	struct tally_checkpoint at = { 0 };
	json_t *root = json_loadb(value, len, 0, NULL);
	json_int_t batch = 0, seq = 0, incarnation = 0, connections = 0;
	const char *chain = NULL;
	int whole = 0, r = -EBADMSG;

	if (root &&
	    json_unpack(root, "{s:I,s:I,s:I,s:b,s:s,s?I}", "incarnation", &incarnation, "batch",
			&batch, "seq", &seq, "whole", &whole, "chain", &chain, "connections",
			&connections) == 0 &&
	    tally_util_unhex(chain, at.chain, sizeof(at.chain)) == 0 &&
	    parse_position(json_object_get(root, "position"), &at.position) == 0) {
		at.batch = (__u64)batch;
		at.seq = (__u64)seq;
		at.connections = (__u64)connections;
		at.whole = whole;
		at.incarnation = (__u32)incarnation;
		*ret_at = at;
		r = 0;
	}
	json_decref(root);
	return r;
}

static bool is_later(const struct tally_checkpoint *a, const struct tally_checkpoint *b)
{
	if (a->batch != b->batch)
		return a->batch > b->batch;
	if (a->incarnation != b->incarnation)
		return a->incarnation > b->incarnation;
	if (a->seq != b->seq)
		return a->seq > b->seq;
	if (a->connections != b->connections)
		return a->connections > b->connections;
	return a->whole && !b->whole;
}

static bool has_key(const rd_kafka_message_t *msg, const char *key)
{
	return msg->key && msg->key_len == strlen(key) && memcmp(msg->key, key, msg->key_len) == 0;
}

static void take_message(struct tally_kafka_broker *broker, const rd_kafka_message_t *msg)
{
	bool own = has_key(msg, broker->key);
	struct tally_checkpoint *last = own ? &broker->seen : &broker->old;
	struct tally_checkpoint at;

	if ((!own && !has_key(msg, broker->agent)) || !msg->payload)
		return;
	if (parse_checkpoint(msg->payload, msg->len, &at) < 0) {
		tell(broker, "a checkpoint at offset %lld of %s cannot be read",
		     (long long)msg->offset, broker->progress);
		return;
	}
	if (is_later(&at, last))
		*last = at;
	if (!own)
		return;
	broker->saved.extra[HINT_PARTITION] = (__u64)msg->partition;
	broker->saved.extra[HINT_OFFSET] = (__u64)msg->offset;
}

/* The end of a partition, open transactions of others included. */
static int high_watermark(struct tally_kafka_broker *broker, rd_kafka_t *client, int partition,
			  __s64 *ret_high)
{
	const struct tally_kafka_wait wait = wait_until(broker, now_ms() + META_MS);
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
	rd_kafka_topic_partition_t *end =
		rd_kafka_topic_partition_list_add(list, broker->progress, partition);
	rd_kafka_resp_err_t err;

	err = tally_kafka_wait_offsets(client, list, RD_KAFKA_OFFSET_END, &wait);
	if (err)
		tell(broker, "end of %s[%d]: %s", broker->progress, partition,
		     rd_kafka_err2str(err));
	else
		*ret_high = end->offset;
	rd_kafka_topic_partition_list_destroy(list);
	return err ? -EIO : 0;
}

static int assign(struct tally_kafka_broker *broker, int partition, __s64 offset)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
	rd_kafka_resp_err_t err;

	rd_kafka_topic_partition_list_add(list, broker->progress, partition)->offset = offset;
	err = rd_kafka_assign(broker->reader, list);
	rd_kafka_topic_partition_list_destroy(list);
	return err ? -EIO : 0;
}

/* One message, or what came in its place; *at: read up to there. */
static int take(struct tally_kafka_broker *broker, const rd_kafka_message_t *msg, __s64 high,
		__s64 *at)
{
	if (!msg->err) {
		take_message(broker, msg);
		*at = msg->offset + 1;
		return 0;
	}
	if (msg->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
		*at = msg->offset;
		if (*at < high && usleep(20000) == 0) /* somebody's transaction is open */
			return assign(broker, msg->partition, *at);
		return 0;
	}
	if (tally_kafka_wait_is_passing(msg->err))
		return 0;
	tell(broker, "the checkpoint in %s cannot be read: %s", broker->progress,
	     rd_kafka_message_errstr(msg)); /* told once only: waiting for another is in vain */
	return -EIO;
}

/* Reads from `offset` on until everything below `high` is decided and seen. */
static int read_partition(struct tally_kafka_broker *broker, int partition, __s64 offset,
			  __s64 high)
{
	__u64 deadline = now_ms() + read_ms_of(broker->config);
	__s64 at = offset;
	int left, r = assign(broker, partition, offset);

	while (r == 0 && at < high) {
		rd_kafka_message_t *msg;

		left = left_ms(broker, deadline);
		if (!left) {
			tell(broker, "the checkpoint in %s[%d] cannot be read in time",
			     broker->progress, partition);
			r = -ETIMEDOUT;
			break;
		}
		msg = rd_kafka_consumer_poll(broker->reader, left);
		if (!msg)
			continue;
		r = take(broker, msg, high, &at);
		rd_kafka_message_destroy(msg);
	}
	(void)rd_kafka_assign(broker->reader, NULL); /* stops fetching what others write */
	return r;
}

/* Where our checkpoint stood last, if its key still leads there. */
static bool has_hint(const struct tally_kafka_broker *broker, int n)
{
	return broker->saved.extra[HINT_OFFSET] > 0 &&
	       broker->saved.extra[HINT_PARTITION] ==
		       tally_batch_murmur2(broker->key, strlen(broker->key)) % (__u32)n;
}

static int read_all(struct tally_kafka_broker *broker, rd_kafka_t *client, int n)
{
	bool hinted = has_hint(broker, n);
	int hint = hinted ? (int)broker->saved.extra[HINT_PARTITION] : -1;
	int r = 0;

	for (int i = 0; r == 0 && i < n; i++) {
		__s64 high = 0, from = 0;

		if (hinted && i != hint)
			continue;
		r = high_watermark(broker, client, i, &high);
		if (hinted && (__s64)broker->saved.extra[HINT_OFFSET] < high)
			from = (__s64)broker->saved.extra[HINT_OFFSET];
		if (r == 0)
			r = read_partition(broker, i, from, high);
	}
	return r;
}

/* What the cluster holds of us. Where our checkpoint stood last is only a hint. */
static int read_checkpoint(struct tally_kafka_broker *broker, int n)
{
	bool hinted = has_hint(broker, n);
	rd_kafka_t *client = NULL;
	int r;

	broker->seen = broker->old = (struct tally_checkpoint){ 0 };
	r = make_reader(broker, "read_uncommitted", &client);
	if (r == 0)
		r = read_all(broker, client, n);
	if (r == 0 && !broker->seen.batch && hinted) {
		broker->saved.extra[HINT_OFFSET] = 0; /* made anew, or emptied: look everywhere */
		r = read_all(broker, client, n);
	}
	if (client)
		rd_kafka_destroy_flags(client, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	return r;
}

static int save(struct tally_kafka_broker *broker)
{
	int r;

	broker->saved.at = broker->seen;
	r = tally_checkpoint_save(broker->config->state_dir, broker->config->name, broker->agent,
				  &broker->saved);
	if (r < 0)
		tell(broker, "sinks/%s cannot be written: %s", broker->config->name, strerror(-r));
	else
		broker->stored = broker->saved;
	return r;
}

static void begin_order(struct tally_kafka_broker *broker)
{
	broker->until_ms = now_ms() + order_ms_of(broker->config);
}

/* Was this sink here before? Then a checkpoint of the agent alone may be its own, of an older version;
 * a new sink would believe another's, and lack what it never got. */
static int load_saved(struct tally_kafka_broker *broker, bool *ret_known)
{
	int r = tally_checkpoint_load(broker->config->state_dir, broker->config->name,
				      broker->agent, &broker->saved);

	if (r == -ENOENT || r == -EBADMSG)
		broker->saved = (struct tally_checkpoint_file){ 0 };
	else if (r < 0)
		return r;
	broker->stored = broker->saved;
	*ret_known = r != -ENOENT;
	return 0;
}

/*
 * One transaction further, which we may have ended before we could note it? Sinks of the same topic wrote under
 * the agent alone, too: what is further is another's, and this one would never get what lies between.
 */
static bool is_a_step(const struct tally_checkpoint *from, const struct tally_checkpoint *to)
{
	__u64 before = from->seq + from->connections, after = to->seq + to->connections;
	bool next = to->batch == from->batch + 1 && (from->whole || !from->batch);

	if (to->batch != from->batch && !next)
		return false;
	if (next) /* numbers go on, or begin anew */
		before = to->incarnation == from->incarnation ? from->seq : 0;
	return after >= before && after - before <= TALLY_TXN_RECORDS;
}

int tally_kafka_broker_open(struct tally_kafka_broker *broker,
			    struct tally_checkpoint *ret_checkpoint)
{
	int records = 0, control = 0, progress = 0, r;
	bool known = false;

	begin_order(broker);
	broker->pins_checked = false;
	r = load_saved(broker, &known);
	if (r < 0)
		return r;
	r = ensure_topic(broker, broker->records, &records);
	if (r == 0)
		r = ensure_topic(broker, broker->control, &control);
	if (r == 0)
		r = ensure_topic(broker, broker->progress, &progress);
	if (r == 0)
		r = init_transactions(broker);
	if (r == 0)
		r = read_checkpoint(broker, progress);
	if (r == 0 && known && !broker->seen.batch && is_a_step(&broker->saved.at, &broker->old))
		broker->seen = broker->old;
	/* The topic of checkpoints was lost: what was read back once is still true. */
	if (r == 0 && is_later(&broker->saved.at, &broker->seen))
		broker->seen = broker->saved.at;
	if (r < 0)
		return r;
	(void)save(broker); /* told there; what the cluster has is the truth */
	*ret_checkpoint = broker->seen;
	return 0;
}

static bool is_pinned(const struct tally_kafka_broker *broker, const struct tally_batch *batch)
{
	const __u64 *extra = broker->saved.extra;

	return extra[PARTITIONS_BATCH] == batch->head.number && extra[PARTITIONS] &&
	       (extra[CONNECTION_PARTITIONS] || !tally_batch_connections(batch));
}

/* What was pinned holds, unless the topic was made anew with fewer: what it had is gone with it. */
static __u64 pin(__u64 pinned, int n)
{
	return pinned ? TALLY_MIN(pinned, (__u64)n) : (__u64)n;
}

/* Pins that the file has already hold without being written again. */
static int save_pins(struct tally_kafka_broker *broker)
{
	size_t bytes = sizeof(broker->saved.extra) - PARTITIONS * sizeof(broker->saved.extra[0]);
	int r = save(broker);

	return memcmp(&broker->saved.extra[PARTITIONS], &broker->stored.extra[PARTITIONS], bytes)
		       ? r
		       : 0;
}

/* The numbers of partitions are fixed for a batch before its first attempt. */
static int pin_partitions(struct tally_kafka_broker *broker, const struct tally_batch *batch)
{
	bool pinned = is_pinned(broker, batch);
	int records = 0, connections = 0, r;
	__u64 *extra = broker->saved.extra;

	if (pinned && broker->pins_checked)
		return 0;
	r = count_partitions(broker, broker->records, &records);
	if (r == 0 && tally_batch_connections(batch))
		r = ensure_topic(broker, broker->connections, &connections);
	if (r < 0)
		return r;
	broker->pins_checked = true;
	extra[PARTITIONS] = pin(pinned ? extra[PARTITIONS] : 0, records);
	extra[CONNECTION_PARTITIONS] = pin(pinned ? extra[CONNECTION_PARTITIONS] : 0, connections);
	extra[PARTITIONS_BATCH] = batch->head.number;
	return save_pins(broker);
}

static rd_kafka_headers_t *make_headers(const struct tally_kafka_broker *broker,
					const struct tally_message *msg, bool usage)
{
	const char *namespace = broker->config->namespace ? broker->config->namespace : "default";
	const char *const headers[HEADERS][2] = {
		{ "content-type", CONTENT },  { "ce_specversion", "1.0" },
		{ "ce_id", msg->id },	      { "ce_type", msg->type },
		{ "ce_source", msg->source }, { "ce_subject", msg->subject.data },
		{ "ce_time", msg->time },     { "namespace", namespace },
	};
	bool openmeter = usage && broker->config->format == TALLY_KAFKA_OPENMETER;
	rd_kafka_headers_t *list = rd_kafka_headers_new(HEADERS);

	for (size_t i = openmeter ? HEADERS - 1 : 0; i < HEADERS - (openmeter ? 0u : 1u); i++) {
		if (rd_kafka_header_add(list, headers[i][0], -1, headers[i][1], -1)) {
			rd_kafka_headers_destroy(list);
			return NULL;
		}
	}
	return list;
}

/* Where a message goes; partition -1: by its key. */
struct target {
	const char *topic;
	__s32 partition;
	void *opaque;
};

/* Queue full means serve reports and retry, never drop. */
static int produce(struct tally_kafka_broker *broker, const struct target *to,
		   const struct tally_message *msg, rd_kafka_headers_t *headers)
{
	__u64 deadline = now_ms() + QUEUE_MS;
	rd_kafka_resp_err_t err;

	do {
		err = rd_kafka_producev(broker->producer, RD_KAFKA_V_TOPIC(to->topic),
					RD_KAFKA_V_PARTITION(to->partition < 0
								     ? RD_KAFKA_PARTITION_UA
								     : to->partition),
					RD_KAFKA_V_KEY(msg->key.data, msg->key.len),
					RD_KAFKA_V_VALUE(msg->value.data, msg->value.len),
					RD_KAFKA_V_HEADERS(headers), RD_KAFKA_V_OPAQUE(to->opaque),
					RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
		if (err == RD_KAFKA_RESP_ERR__QUEUE_FULL)
			(void)rd_kafka_poll(broker->producer, 50); /* serves reports */
	} while (err == RD_KAFKA_RESP_ERR__QUEUE_FULL && left_ms(broker, deadline) > 0);
	if (!err)
		return 0;
	if (headers)
		rd_kafka_headers_destroy(headers);
	tell(broker, "a record for %s is refused: %s", to->topic, rd_kafka_err2str(err));
	return -EIO;
}

static int produce_record(struct tally_kafka_broker *broker, const struct target *to,
			  const struct tally_message *msg, bool usage)
{
	rd_kafka_headers_t *headers = make_headers(broker, msg, usage);

	return headers ? produce(broker, to, msg, headers) : -ENOMEM;
}

static void put_position(const struct tally_position *at, struct tally_buf *buf)
{
	char ledger[2 * TALLY_LEDGER_ID + 1];

	if (!at->epoch)
		return;
	tally_util_hex(at->ledger, sizeof(at->ledger), ledger);
	tally_buf_printf(buf,
			 ",\"position\":{\"epoch\":%llu,\"ledger\":\"%s\",\"number\":%llu,"
			 "\"end_s\":%llu,\"held\":%lld,\"cause\":%u}",
			 (unsigned long long)at->epoch, ledger, (unsigned long long)at->number,
			 (unsigned long long)at->end_s, (long long)at->held, at->cause);
}

static int produce_checkpoint(struct tally_kafka_broker *broker, const struct tally_checkpoint *at)
{
	const struct target to = { broker->progress, -1, &broker->progress_offset };
	char chain[TALLY_CHAIN_HEX + 1];
	struct tally_message msg;
	int r;

	tally_message_init(&msg);
	tally_util_hex(at->chain, sizeof(at->chain), chain);
	tally_buf_text(&msg.key, broker->key);
	tally_buf_printf(&msg.value,
			 "{\"agent\":\"%s\",\"incarnation\":%u,\"batch\":%llu,\"seq\":%llu,"
			 "\"whole\":%s,\"chain\":\"%s\"",
			 broker->agent, at->incarnation, (unsigned long long)at->batch,
			 (unsigned long long)at->seq, at->whole ? "true" : "false", chain);
	put_position(&at->position, &msg.value);
	if (at->connections)
		tally_buf_printf(&msg.value, ",\"connections\":%llu",
				 (unsigned long long)at->connections);
	tally_buf_text(&msg.value, "}");
	r = msg.key.error ? msg.key.error : msg.value.error;
	broker->progress_offset = -1;
	if (r == 0)
		r = produce(broker, &to, &msg, NULL);
	tally_message_done(&msg);
	return r;
}

/* Records go where their key says, under the number of partitions fixed for the batch. */
static int produce_one(struct tally_kafka_broker *broker, const struct tally_message *msg,
		       bool usage)
{
	const __u64 *extra = broker->saved.extra;
	__u32 hash = tally_batch_murmur2(msg->key.data, msg->key.len);
	const struct target target = {
		.topic = usage ? broker->records : broker->connections,
		.partition = (__s32)(hash % extra[usage ? PARTITIONS : CONNECTION_PARTITIONS]),
	};

	return produce_record(broker, &target, msg, usage);
}

/* Messages from send->from on, within the limits of a transaction. */
static int produce_messages(struct tally_kafka_broker *broker, const struct tally_send *send,
			    __u64 *ret_to)
{
	enum tally_format format = broker->config->format == TALLY_KAFKA_OPENMETER
					   ? TALLY_FORMAT_OPENMETER
					   : TALLY_FORMAT_CLOUDEVENTS;
	__u64 total = tally_batch_messages(send->batch), to = send->from, bytes = 0;
	struct tally_message msg;
	int r = 0;

	tally_message_init(&msg);
	while (r == 0 && to < total && to - send->from < TALLY_TXN_RECORDS &&
	       bytes < TALLY_TXN_BYTES - TALLY_RECORD_MAX) {
		r = tally_batch_message(send->batch, to, format, &msg);
		if (r < 0)
			break;
		r = produce_one(broker, &msg, to < tally_batch_records(send->batch));
		bytes += msg.value.len;
		to++;
	}
	tally_message_done(&msg);
	*ret_to = to;
	return r;
}

static int produce_control(struct tally_kafka_broker *broker, const struct tally_batch *batch)
{
	const struct target target = { broker->control, -1, NULL };
	struct tally_message msg;
	int r;

	tally_message_init(&msg);
	r = tally_batch_control(batch, &msg);
	if (r == 0)
		r = produce_record(broker, &target, &msg, false);
	tally_message_done(&msg);
	return r;
}

/* All delivered? */
static int flush(struct tally_kafka_broker *broker)
{
	rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR__TIMED_OUT;
	__u64 deadline = now_ms() + broker->txn_ms;
	int left;

	while (err && (left = left_ms(broker, deadline)) > 0)
		err = rd_kafka_flush(broker->producer, left);
	return err || broker->failed ? -EIO : 0;
}

static int produce_piece(struct tally_kafka_broker *broker, const struct tally_send *send,
			 struct tally_checkpoint *ret_at)
{
	bool idempotent = broker->config->delivery == TALLY_KAFKA_IDEMPOTENT;
	__u64 to = send->from;
	int r;

	r = produce_messages(broker, send, &to);
	tally_checkpoint_at(send->batch, to, ret_at);
	if (r == 0 && ret_at->whole)
		r = produce_control(broker, send->batch);
	/* Without transactions the checkpoint follows what it vouches for. */
	if (r == 0 && idempotent)
		r = flush(broker);
	if (r == 0)
		r = produce_checkpoint(broker, ret_at);
	if (r == 0 && idempotent)
		r = flush(broker);
	return r;
}

static enum tally_kafka_broker_outcome abort_piece(struct tally_kafka_broker *broker)
{
	__u64 deadline = now_ms() + ABORT_MS;
	rd_kafka_error_t *error;
	bool retry = true;
	int left;

	while (retry && (left = left_ms(broker, deadline)) > 0) {
		error = rd_kafka_abort_transaction(broker->producer, left);
		if (!error)
			return TALLY_KAFKA_BROKER_FAILED;
		retry = rd_kafka_error_is_retriable(error);
		rd_kafka_error_destroy(error);
	}
	return TALLY_KAFKA_BROKER_DOUBT;
}

static enum tally_kafka_broker_outcome commit_piece(struct tally_kafka_broker *broker)
{
	__u64 deadline = now_ms() + broker->txn_ms + ABORT_MS;
	rd_kafka_error_t *error;
	bool retry = true, may_abort = false;
	int left;

	while (retry && (left = left_ms(broker, deadline)) > 0) {
		error = rd_kafka_commit_transaction(broker->producer, left);
		if (!error)
			return TALLY_KAFKA_BROKER_DONE;
		may_abort = rd_kafka_error_txn_requires_abort(error);
		retry = !may_abort && rd_kafka_error_is_retriable(error);
		if (!retry)
			tell(broker, "commit: %s", rd_kafka_error_string(error));
		rd_kafka_error_destroy(error);
	}
	return may_abort ? abort_piece(broker) : TALLY_KAFKA_BROKER_DOUBT;
}

static enum tally_kafka_broker_outcome send_transaction(struct tally_kafka_broker *broker,
							const struct tally_send *send,
							struct tally_checkpoint *ret_at)
{
	rd_kafka_error_t *error = rd_kafka_begin_transaction(broker->producer);

	if (error) {
		tell(broker, "begin: %s", rd_kafka_error_string(error));
		rd_kafka_error_destroy(error);
		return TALLY_KAFKA_BROKER_FAILED;
	}
	if (produce_piece(broker, send, ret_at) < 0)
		return abort_piece(broker);
	return commit_piece(broker);
}

enum tally_kafka_broker_outcome tally_kafka_broker_send(struct tally_kafka_broker *broker,
							const struct tally_send *send,
							struct tally_checkpoint *ret_checkpoint)
{
	struct tally_checkpoint at = { 0 };
	enum tally_kafka_broker_outcome outcome;
	int r;

	begin_order(broker);
	broker->failed = 0;
	r = pin_partitions(broker, send->batch);
	if (r < 0)
		return tally_reserve_is_full(r) ? TALLY_KAFKA_BROKER_NO_ROOM
						: TALLY_KAFKA_BROKER_FAILED;
	if (broker->config->delivery == TALLY_KAFKA_TRANSACTIONAL)
		outcome = send_transaction(broker, send, &at);
	else
		outcome = produce_piece(broker, send, &at) < 0 ? TALLY_KAFKA_BROKER_DOUBT
							       : TALLY_KAFKA_BROKER_DONE;
	if (outcome == TALLY_KAFKA_BROKER_DONE)
		*ret_checkpoint = at;
	return outcome;
}

int tally_kafka_broker_confirm(struct tally_kafka_broker *broker,
			       struct tally_checkpoint *ret_checkpoint)
{
	int r;

	begin_order(broker);
	if (broker->progress_offset < 0)
		return -EIO; /* its delivery report never came */
	r = read_partition(broker, broker->progress_partition, broker->progress_offset,
			   broker->progress_offset + 1);
	if (r < 0)
		return r;
	(void)save(broker); /* likewise: see tally_kafka_broker_open() */
	*ret_checkpoint = broker->seen;
	return 0;
}
