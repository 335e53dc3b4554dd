/* SPDX-License-Identifier: Apache-2.0 */
#include <limits.h>
#include <poll.h>
#include <sys/epoll.h>
#include <time.h>

#include "agent_parts.h"
#include "sinks_check.h"

/*
 * First line of a small file that names this machine, or this boot of it. A machine that has none has the
 * fallback; a failure to read it is none of these: under another id all that is sealed would be a stranger's.
 */
static int read_id(const char *path, char *out, size_t size)
{
	_cleanup_free_ char *text = NULL;
	size_t bytes;
	int err = tally_util_read_file(path, 4096, &text, &bytes);

	if (err && err != -ENOENT && err != -EISDIR) {
		tally_log_error("start", "reason=%s file=%s error=%s", "an id cannot be read", path,
				strerror(-err));
		return err;
	}
	if (text)
		text[strcspn(text, "\n")] = 0;
	(void)snprintf(out, size, "%s", text && *text ? text : "unknown");
	return 0;
}

static int new_ship(struct tally_agent *agent)
{
	char machine[64], boot[64], host[HOST_NAME_MAX + 1] = "";
	struct tally_ship_config config = {
		.state_dir = agent->config->agent.state_dir,
		.machine_id = machine,
		.boot_id = boot,
		.host = host,
		.version = TALLY_VERSION,
		.max_bytes = agent->config->agent.limits.spool_bytes,
	};
	int err;

	err = read_id("/etc/machine-id", machine, sizeof(machine));
	if (!err)
		err = read_id("/proc/sys/kernel/random/boot_id", boot, sizeof(boot));
	if (err)
		return err;
	if (gethostname(host, sizeof(host) - 1))
		strcpy(host, "unknown");
	return tally_ship_new(&config, &agent->ship);
}

static int on_ship(void *ctx, uint32_t events, uint64_t value)
{
	tally_agent_sinks_step(ctx);
	return 0;
}

int tally_agent_sinks_open(struct tally_agent *agent)
{
	int err = new_ship(agent);

	if (!err)
		err = tally_loop_add_timer(agent->loop, CLOCK_MONOTONIC, on_ship, agent,
					   &agent->ship_timer);
	return err;
}

static int new_kafka(const struct tally_agent *agent, const struct tally_config_sink *sink,
		     struct tally_sink **ret_sink)
{
	_cleanup_free_ struct tally_kafka_option *options = NULL;
	_cleanup_free_ char *error = NULL;
	struct tally_kafka_config config;
	int err = tally_sinks_kafka(agent->config->agent.state_dir, sink, &config, &options);

	if (err)
		return err;
	err = tally_kafka_sink_new(&config, ret_sink, &error);
	if (err)
		tally_log_error("sink_refused", "sink=%s error=%s", sink->name,
				error ? error : strerror(-err));
	return err;
}

static int new_sink(const struct tally_agent *agent, const struct tally_config_sink *config,
		    struct tally_sink **ret_sink)
{
	const char *state_dir = agent->config->agent.state_dir;
	struct tally_sink *sink = NULL;
	bool required;
	int err = 0;

	if (config->kafka.place.line) {
		required = config->kafka.required;
		err = new_kafka(agent, config, &sink);
	} else if (config->file.place.line) {
		required = config->file.required;
		sink = tally_file_sink_new(config->name, config->file.path);
	} else {
		required = config->out.required;
		sink = tally_stdout_sink_new(config->name, state_dir);
	}
	if (err)
		return err;
	if (!sink)
		return -ENOMEM;
	sink->required = required;
	*ret_sink = sink;
	return 0;
}

int tally_agent_sinks_check(const struct tally_agent *agent)
{
	int err = 0;

	for (size_t i = 0; i < agent->config->n_sinks && !err; i++) {
		struct tally_sink *sink = NULL;

		err = new_sink(agent, &agent->config->sinks[i], &sink);
		if (!err)
			sink->ops->free(sink);
	}
	return err;
}

int tally_agent_sinks_add(struct tally_agent *agent)
{
	for (size_t i = 0; i < agent->config->n_sinks; i++) {
		struct tally_sink *sink;
		int err = new_sink(agent, &agent->config->sinks[i], &sink);

		if (!err)
			err = tally_ship_add(agent->ship, sink);
		if (err)
			return err;
	}
	return agent->ship_source || tally_ship_fd(agent->ship) < 0
		       ? 0
		       : tally_loop_add_fd(agent->loop, tally_ship_fd(agent->ship), EPOLLIN,
					   on_ship, agent, &agent->ship_source);
}

void tally_agent_sinks_step(struct tally_agent *agent)
{
	int wait_ms = -1;
	int err = tally_ship_step(agent->ship, &wait_ms);

	if (err)
		tally_log_warning("shipping", "error=%s", strerror(-err));
	if (err && wait_ms < 0)
		wait_ms = 1000;
	/* A timer at 1 has passed already: it fires at once. */
	err = tally_loop_set_timer(
		agent->ship_timer,
		wait_ms < 0 ? 0 : tally_util_mono_ns() + wait_ms * 1000000ULL + 1, 0);
	if (err)
		tally_log_warning("timer", "error=%s", strerror(-err));
}

void tally_agent_sinks_flush(struct tally_agent *agent, uint64_t grace_ns)
{
	uint64_t deadline = tally_util_mono_ns() + grace_ns;

	while (!tally_ship_idle(agent->ship) && tally_util_mono_ns() < deadline) {
		struct pollfd pfd = { .fd = tally_ship_fd(agent->ship), .events = POLLIN };
		int wait_ms = -1;

		if (tally_ship_step(agent->ship, &wait_ms))
			wait_ms = 100;
		if (tally_ship_idle(agent->ship))
			break;
		(void)poll(&pfd, 1, wait_ms < 0 || wait_ms > 100 ? 100 : wait_ms); /* any outcome */
	}
	if (!tally_ship_idle(agent->ship))
		tally_log_notice("spooled", "reason=%s", "not everything was shipped in time");
}

void tally_agent_sinks_close(struct tally_agent *agent)
{
	tally_loop_remove(agent->ship_source);
	tally_loop_remove(agent->ship_timer);
	if (agent->ship)
		tally_ship_free(agent->ship);
	agent->ship_source = NULL;
	agent->ship_timer = NULL;
	agent->ship = NULL;
}

/* ---- reload ---- */

static const struct tally_config_sink *same_sink(const struct tally_config *config,
						 const struct tally_config_sink *sink)
{
	for (size_t i = 0; i < config->n_sinks; i++)
		if (tally_option_equal(&tally_config_sink_table, &config->sinks[i], sink))
			return &config->sinks[i];
	return NULL;
}

void tally_agent_sinks_discard(struct tally_agent_sinks *sinks)
{
	for (size_t i = 0; i < sinks->n; i++)
		sinks->fresh[i]->ops->free(sinks->fresh[i]);
	sinks->n = 0;
}

int tally_agent_sinks_prepare(const struct tally_agent *agent, const struct tally_config *config,
			      struct tally_agent_sinks *ret_sinks)
{
	_cleanup_(tally_agent_sinks_discard) struct tally_agent_sinks sinks = {};

	if (config->n_sinks > TALLY_AGENT_SINKS)
		return -E2BIG;
	for (size_t i = 0; i < config->n_sinks; i++) {
		int err = 0;

		if (!same_sink(agent->config, &config->sinks[i]))
			err = new_sink(agent, &config->sinks[i], &sinks.fresh[sinks.n++]);
		if (err) {
			sinks.n--;
			return err;
		}
	}
	*ret_sinks = sinks;
	sinks.n = 0;
	return 0;
}

/* The sinks stay what they were: then so they are in the config that comes into force. */
static void keep_sinks(struct tally_config *from, struct tally_config *to)
{
	struct tally_config_sink *sinks = to->sinks;
	size_t n = to->n_sinks;

	to->sinks = from->sinks;
	to->n_sinks = from->n_sinks;
	from->sinks = sinks;
	from->n_sinks = n;
}

/* A changed sink keeps its name. */
int tally_agent_sinks_replace(struct tally_agent *agent, struct tally_config *config,
			      struct tally_agent_sinks *sinks)
{
	const char *old[TALLY_AGENT_SINKS];
	struct tally_ship_change change = { .old = old,
					    .fresh = sinks->fresh,
					    .n_fresh = sinks->n };
	int err;

	for (size_t i = 0; i < agent->config->n_sinks; i++)
		if (!same_sink(config, &agent->config->sinks[i]))
			old[change.n_old++] = agent->config->sinks[i].name;
	err = tally_ship_replace(agent->ship, &change);
	if (err) {
		tally_log_error("sinks", "error=%s sinks=unchanged", strerror(-err));
		keep_sinks(agent->config, config);
		return err;
	}
	sinks->n = 0;
	if (change.n_old || change.n_fresh)
		tally_log_notice("sinks", "removed=%zu added=%zu", change.n_old, change.n_fresh);
	tally_agent_sinks_step(agent);
	return 0;
}
