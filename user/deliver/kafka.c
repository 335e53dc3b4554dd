/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Kafka sink. librdkafka's transactional calls block, some for longer than they were told; so
 * each connection has a thread of its own, and the agent's thread passes messages to it:
 *
 *	agent's thread			worker
 *	open/send/confirm  ──order──>	tally_kafka_broker_*()
 *	poll  <──answer, log lines──	eventfd
 *	close  ──stop──>		destroys its client, however long that takes, and frees itself
 *
 * A connection that is closed is let go of at once: its worker is the reaper. The next connection's
 * init_transactions() fences it. How many may linger is capped.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>

#include "base/log.h"
#include "base/util.h"
#include "deliver/kafka_broker.h"
#include "deliver/ship.h"

#define LINES 16
#define LINE_BYTES 512
#define LINGER_MAX 8
#define SERVE_MS 200
#define FREE_MS 3000

enum order { NONE, OPEN, SEND, CONFIRM };

struct settings; /* a copy of the config that workers share */

/* Shared by the sink and one worker; freed by whoever leaves last. */
struct worker {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	int refs;
	int stop; /* atomic */
	int done; /* the thread has ended */
	int fd;	  /* eventfd of the sink, a duplicate */
	char agent[TALLY_AGENT_ID + 1];
	struct settings *settings;
	enum order order;
	struct tally_send send;
	struct tally_sink_event answer;
	char lines[LINES][LINE_BYTES];
	size_t n_lines, lost_lines;
};

struct settings {
	int refs;
	struct tally_kafka_config config;
	char *texts[9];
	struct tally_kafka_option *options;
	size_t n_options;
};

struct kafka_sink {
	struct tally_sink sink;
	struct settings *settings;
	struct worker *worker;
	struct worker *lingering[LINGER_MAX]; /* closed, perhaps not ended */
	bool closed;			      /* to be answered */
};

static void settings_put(struct settings *settings)
{
	if (!settings || __atomic_sub_fetch(&settings->refs, 1, __ATOMIC_ACQ_REL) > 0)
		return;
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(settings->texts); i++)
		free(settings->texts[i]);
	for (size_t i = 0; i < settings->n_options; i++) {
		free((char *)settings->options[i].name);
		free((char *)settings->options[i].value);
	}
	free(settings->options);
	free(settings);
}

static int copy_text(const char **text, char **ret_copy)
{
	if (!*text)
		return 0;
	*ret_copy = strdup(*text);
	*text = *ret_copy;
	return *ret_copy ? 0 : -ENOMEM;
}

static int copy_options(struct settings *settings, const struct tally_kafka_config *config)
{
	settings->options = calloc(config->n_options + 1, sizeof(*settings->options));
	if (!settings->options)
		return -ENOMEM;
	for (size_t i = 0; i < config->n_options; i++) {
		settings->options[i].name = strdup(config->options[i].name);
		settings->options[i].value = strdup(config->options[i].value);
		settings->n_options = i + 1;
		if (!settings->options[i].name || !settings->options[i].value)
			return -ENOMEM;
	}
	settings->config.options = settings->options;
	return 0;
}

static int settings_new(const struct tally_kafka_config *config, struct settings **ret_settings)
{
	struct settings *settings = calloc(1, sizeof(*settings));
	const char **texts[] = {
		&settings->config.name,		 &settings->config.state_dir,
		&settings->config.brokers,	 &settings->config.topic_records,
		&settings->config.topic_control, &settings->config.topic_progress,
		&settings->config.namespace,	 &settings->config.topic_connections,
	};
	int r = 0;

	if (!settings)
		return -ENOMEM;
	settings->refs = 1;
	settings->config = *config;
	for (size_t i = 0; r == 0 && i < TALLY_ARRAY_SIZE(texts); i++)
		r = copy_text(texts[i], &settings->texts[i]);
	if (r == 0)
		r = copy_options(settings, config);
	if (r < 0) {
		settings_put(settings);
		return r;
	}
	*ret_settings = settings;
	return 0;
}

static void worker_put(struct worker *worker)
{
	if (!worker || __atomic_sub_fetch(&worker->refs, 1, __ATOMIC_ACQ_REL) > 0)
		return;
	(void)pthread_mutex_destroy(&worker->lock); /* nobody holds it */
	(void)pthread_cond_destroy(&worker->wake);
	tally_batch_free(worker->send.batch);
	tally_util_close(worker->fd);
	settings_put(worker->settings);
	free(worker);
}

static void ring(const struct worker *worker)
{
	(void)eventfd_write(worker->fd, 1); /* can only fail when it is readable already */
}

/* A line for the agent's log; the agent's thread writes it. */
static void worker_tell(void *ctx, const char *text)
{
	struct worker *worker = ctx;

	(void)pthread_mutex_lock(&worker->lock);
	if (worker->n_lines < LINES)
		(void)snprintf(worker->lines[worker->n_lines++], LINE_BYTES, "%s", text); /* cut */
	else
		worker->lost_lines++;
	(void)pthread_mutex_unlock(&worker->lock);
	ring(worker);
}

static void reply(struct worker *worker, enum tally_sink_event_kind kind, int error,
		  const struct tally_checkpoint *at)
{
	(void)pthread_mutex_lock(&worker->lock);
	worker->answer = (struct tally_sink_event){ .kind = kind, .error = error };
	if (at)
		worker->answer.checkpoint = *at;
	(void)pthread_mutex_unlock(&worker->lock);
	ring(worker);
}

static void do_open(struct worker *worker, struct tally_kafka_broker **broker)
{
	const struct tally_kafka_broker_hooks hooks = { worker, worker_tell, &worker->stop };
	struct tally_checkpoint at;
	int r = 0;

	if (!*broker)
		r = tally_kafka_broker_new(&worker->settings->config, worker->agent, &hooks,
					   broker);
	if (r == 0)
		r = tally_kafka_broker_open(*broker, &at);
	reply(worker, r < 0 ? TALLY_SINK_FAILED : TALLY_SINK_OPENED, r, r < 0 ? NULL : &at);
}

static void do_send(struct worker *worker, struct tally_kafka_broker *broker)
{
	struct tally_checkpoint at = { 0 };

	switch (tally_kafka_broker_send(broker, &worker->send, &at)) {
	case TALLY_KAFKA_BROKER_DONE:
		reply(worker, TALLY_SINK_SENT, 0, &at);
		break;
	case TALLY_KAFKA_BROKER_FAILED:
		reply(worker, TALLY_SINK_FAILED, -EIO, NULL);
		break;
	case TALLY_KAFKA_BROKER_NO_ROOM:
		reply(worker, TALLY_SINK_FAILED, -ENOSPC, NULL);
		break;
	case TALLY_KAFKA_BROKER_DOUBT:
		reply(worker, TALLY_SINK_DOUBT, -EIO, NULL);
		break;
	}
}

static void do_confirm(struct worker *worker, struct tally_kafka_broker *broker)
{
	struct tally_checkpoint at;
	int r = tally_kafka_broker_confirm(broker, &at);

	reply(worker, r < 0 ? TALLY_SINK_FAILED : TALLY_SINK_CONFIRMED, r, r < 0 ? NULL : &at);
}

/* The next order, or NONE after a while or when it is over. */
static enum order next_order(struct worker *worker)
{
	__u64 until = tally_util_mono_ns() + SERVE_MS * 1000000ULL;
	const struct timespec at = { (time_t)(until / TALLY_NS_PER_S),
				     (long)(until % TALLY_NS_PER_S) };
	enum order order;

	(void)pthread_mutex_lock(&worker->lock);
	if (worker->order == NONE && !__atomic_load_n(&worker->stop, __ATOMIC_ACQUIRE))
		(void)pthread_cond_timedwait(&worker->wake, &worker->lock, &at);
	order = worker->order;
	worker->order = NONE;
	(void)pthread_mutex_unlock(&worker->lock);
	return order;
}

static void carry_out(struct worker *worker, enum order order, struct tally_kafka_broker **broker)
{
	switch (order) {
	case NONE:
		if (*broker)
			tally_kafka_broker_serve(*broker);
		break;
	case OPEN:
		do_open(worker, broker);
		break;
	case SEND:
		do_send(worker, *broker);
		break;
	case CONFIRM:
		do_confirm(worker, *broker);
		break;
	}
}

static void *worker_main(void *arg)
{
	struct tally_kafka_broker *broker = NULL;
	struct worker *worker = arg;

	while (!__atomic_load_n(&worker->stop, __ATOMIC_ACQUIRE))
		carry_out(worker, next_order(worker), &broker);
	tally_kafka_broker_free(broker);
	__atomic_store_n(&worker->done, 1, __ATOMIC_RELEASE);
	ring(worker);
	worker_put(worker);
	return NULL;
}

/* Signals stay with the agent's thread. */
static int start_thread(struct worker *worker)
{
	sigset_t all, old;
	pthread_t thread;
	int r;

	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&thread, NULL, worker_main, worker);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r)
		return -r;
	(void)pthread_detach(thread);
	return 0;
}

/* Waits by a clock that nobody sets: else an hour back is an hour of silence. */
static void init_wake(pthread_cond_t *wake)
{
	pthread_condattr_t attr;

	(void)pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	(void)pthread_cond_init(wake, &attr);
	(void)pthread_condattr_destroy(&attr); /* none of them can fail on Linux */
}

static int worker_new(struct kafka_sink *kafka, const char *agent, struct worker **ret_worker)
{
	struct worker *worker = calloc(1, sizeof(*worker));
	int r;

	if (!worker)
		return -ENOMEM;
	worker->refs = 2; /* the sink's and the thread's */
	(void)pthread_mutex_init(&worker->lock, NULL);
	init_wake(&worker->wake);
	(void)snprintf(worker->agent, sizeof(worker->agent), "%s", agent); /* 12 digits */
	worker->settings = kafka->settings;
	(void)__atomic_add_fetch(&kafka->settings->refs, 1, __ATOMIC_RELAXED);
	worker->fd = fcntl(kafka->sink.wake_fd, F_DUPFD_CLOEXEC, 3);
	r = worker->fd < 0 ? -errno : start_thread(worker);
	if (r < 0) {
		worker->refs = 1;
		worker_put(worker);
		return r;
	}
	*ret_worker = worker;
	return 0;
}

/* Forgets workers that have ended. How many have not? */
static size_t reap(struct kafka_sink *kafka)
{
	size_t n = 0;

	for (size_t i = 0; i < LINGER_MAX; i++) {
		struct worker *worker = kafka->lingering[i];

		if (worker && __atomic_load_n(&worker->done, __ATOMIC_ACQUIRE)) {
			worker_put(worker);
			kafka->lingering[i] = NULL;
		}
		n += kafka->lingering[i] != NULL;
	}
	return n;
}

static int give_order(struct kafka_sink *kafka, enum order order, const struct tally_send *send)
{
	struct worker *worker = kafka->worker;

	if (!worker)
		return -ENOTCONN;
	(void)pthread_mutex_lock(&worker->lock);
	worker->order = order;
	worker->answer.kind = TALLY_SINK_NOTHING;
	if (send) {
		tally_batch_free(worker->send.batch);
		worker->send = *send;
		(void)tally_batch_ref(send->batch);
	}
	(void)pthread_cond_signal(&worker->wake);
	(void)pthread_mutex_unlock(&worker->lock);
	return 0;
}

static int kafka_open(struct tally_sink *sink, const char *agent)
{
	struct kafka_sink *kafka = (struct kafka_sink *)sink;
	int r;

	if (reap(kafka) == LINGER_MAX)
		return -EBUSY;
	r = worker_new(kafka, agent, &kafka->worker);
	return r < 0 ? r : give_order(kafka, OPEN, NULL);
}

static int kafka_send(struct tally_sink *sink, const struct tally_send *send)
{
	return give_order((struct kafka_sink *)sink, SEND, send);
}

static int kafka_confirm(struct tally_sink *sink)
{
	return give_order((struct kafka_sink *)sink, CONFIRM, NULL);
}

static void write_log(struct kafka_sink *kafka, struct worker *worker)
{
	char lines[LINES][LINE_BYTES];
	size_t n, lost;

	(void)pthread_mutex_lock(&worker->lock);
	n = worker->n_lines;
	lost = worker->lost_lines;
	memcpy(lines, worker->lines, n * LINE_BYTES);
	worker->n_lines = worker->lost_lines = 0;
	(void)pthread_mutex_unlock(&worker->lock);
	for (size_t i = 0; i < n; i++)
		tally_log_warning("kafka", "sink=%s text=%s", kafka->sink.name, lines[i]);
	if (lost)
		tally_log_warning("kafka_lines", "sink=%s lines_lost=%zu", kafka->sink.name, lost);
}

static void stop_worker(struct worker *worker)
{
	__atomic_store_n(&worker->stop, 1, __ATOMIC_RELEASE);
	(void)pthread_mutex_lock(&worker->lock);
	(void)pthread_cond_signal(&worker->wake);
	(void)pthread_mutex_unlock(&worker->lock);
}

static int kafka_close(struct tally_sink *sink)
{
	struct kafka_sink *kafka = (struct kafka_sink *)sink;

	if (!kafka->worker)
		return -ENOTCONN;
	write_log(kafka, kafka->worker);
	stop_worker(kafka->worker);
	for (size_t i = 0; i < LINGER_MAX && kafka->worker; i++) {
		if (!kafka->lingering[i])
			kafka->lingering[i] = TAKE_PTR(kafka->worker);
	}
	kafka->closed = true;
	return 0;
}

static void kafka_poll(struct tally_sink *sink, struct tally_sink_event *ret_event)
{
	struct kafka_sink *kafka = (struct kafka_sink *)sink;
	struct worker *worker = kafka->worker;
	eventfd_t value;

	*ret_event = (struct tally_sink_event){ .kind = TALLY_SINK_NOTHING };
	(void)eventfd_read(sink->wake_fd, &value); /* EAGAIN: nothing rang */
	if (kafka->closed) {
		kafka->closed = false;
		ret_event->kind = TALLY_SINK_CLOSED;
		return;
	}
	if (!worker)
		return;
	write_log(kafka, worker);
	(void)pthread_mutex_lock(&worker->lock);
	*ret_event = worker->answer;
	worker->answer.kind = TALLY_SINK_NOTHING;
	(void)pthread_mutex_unlock(&worker->lock);
}

/* Workers get a moment to say goodbye to the cluster; what hangs then ends with the process. */
static void kafka_free(struct tally_sink *sink)
{
	struct kafka_sink *kafka = (struct kafka_sink *)sink;
	__u64 deadline = tally_util_mono_ns() + FREE_MS * 1000000ULL;

	if (!kafka)
		return;
	if (kafka->worker)
		(void)kafka_close(sink); /* there is one */
	while (reap(kafka) && tally_util_mono_ns() < deadline)
		(void)usleep(10000);
	for (size_t i = 0; i < LINGER_MAX; i++)
		worker_put(kafka->lingering[i]);
	worker_put(kafka->worker);
	settings_put(kafka->settings);
	tally_util_close(sink->wake_fd);
	free(sink->name);
	free(kafka);
}

static const struct tally_sink_ops kafka_ops = {
	.open = kafka_open,
	.send = kafka_send,
	.confirm = kafka_confirm,
	.close = kafka_close,
	.poll = kafka_poll,
	.free = kafka_free,
};

int tally_kafka_check(const struct tally_kafka_config *config, char **ret_error)
{
	return tally_kafka_broker_check(config, ret_error);
}

int tally_kafka_sink_new(const struct tally_kafka_config *config, struct tally_sink **ret_sink,
			 char **ret_error)
{
	struct kafka_sink *kafka;
	int r;

	*ret_error = NULL;
	r = tally_kafka_broker_check(config, ret_error);
	if (r < 0)
		return r;
	kafka = calloc(1, sizeof(*kafka));
	if (!kafka)
		return -ENOMEM;
	kafka->sink = (struct tally_sink){ .ops = &kafka_ops, .required = true };
	kafka->sink.patience_ms = tally_kafka_broker_patience_ms(config);
	kafka->sink.name = strdup(config->name);
	kafka->sink.in_state = true;
	kafka->sink.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = kafka->sink.wake_fd < 0 ? -errno : 0;
	if (r == 0)
		r = kafka->sink.name ? settings_new(config, &kafka->settings) : -ENOMEM;
	if (r < 0) {
		kafka_free(&kafka->sink);
		return r;
	}
	*ret_sink = &kafka->sink;
	return 0;
}
