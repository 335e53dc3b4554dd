/* SPDX-License-Identifier: Apache-2.0 */
#include "agent.h"

#include <inttypes.h>
#include <signal.h>
#include <time.h>

#include "agent_parts.h"
#include "base/exit.h"
#include "base/privileges.h"
#include "base/secret.h"
#include "collect/probe.h"
#include "observe/notify.h"
#include "sinks_check.h"

/* ---- windows ---- */

static int arm_window(struct tally_agent *agent)
{
	uint64_t window = agent->config->agent.window_ns;
	uint64_t now = tally_util_real_ns();

	return tally_loop_set_timer(agent->window_timer, now - now % window + window, 0);
}

static void close_due(struct tally_agent *agent)
{
	struct tally_clock_close due;

	if (tally_clock_due(tally_ledger_start_ns(agent->ledger), tally_clock_now_ns(agent->clock),
			    agent->config->agent.window_ns, &due) &&
	    !tally_agent_books_close(agent, due.end_ns, due.next_ns, due.cause))
		tally_agent_sinks_step(agent);
}

/* Value 0: the system's clock was set. The programs' clock follows in both cases. */
static int on_window(void *ctx, uint32_t events, uint64_t value)
{
	struct tally_agent *agent = ctx;

	if (tally_agent_books_clock(agent))
		tally_log_warning("clock", "reason=%s", "the window could not be closed");
	close_due(agent);
	return arm_window(agent);
}

/* ---- reload ---- */

static bool same_limits(const struct tally_config_limits *a, const struct tally_config_limits *b)
{
	return a->connection_rows == b->connection_rows && a->rows == b->rows &&
	       a->keys == b->keys && a->spool_bytes == b->spool_bytes;
}

static bool same_text(const char *a, const char *b)
{
	return a == b || (a && b && !strcmp(a, b));
}

/* What of b comes into force by a restart alone; NULL: nothing. */
static const char *needs_restart(const struct tally_config *a, const struct tally_config *b)
{
	if (strcmp(a->agent.state_dir, b->agent.state_dir))
		return "agent.state_dir";
	if (strcmp(a->agent.pin_dir, b->agent.pin_dir))
		return "agent.pin_dir";
	if (strcmp(a->agent.runtime_dir, b->agent.runtime_dir))
		return "agent.runtime_dir";
	if (strcmp(a->agent.metrics.listen, b->agent.metrics.listen))
		return "agent.metrics.listen";
	if (!same_limits(&a->agent.limits, &b->agent.limits))
		return "agent.limits";
	return same_text(a->agent.fleet_secret, b->agent.fleet_secret) ? NULL
								       : "agent.fleet_secret";
}

static void swap_texts(char **a, char **b)
{
	char *text = *a;

	*a = *b;
	*b = text;
}

/* What is in use stays that of the start, so that the next config is compared with that. */
static void keep_started(struct tally_config_agent *old, struct tally_config_agent *fresh)
{
	swap_texts(&old->state_dir, &fresh->state_dir);
	swap_texts(&old->pin_dir, &fresh->pin_dir);
	swap_texts(&old->runtime_dir, &fresh->runtime_dir);
	swap_texts(&old->metrics.listen, &fresh->metrics.listen);
	swap_texts(&old->fleet_secret, &fresh->fleet_secret);
	fresh->limits = old->limits;
}

static int load_config(const char *path, struct tally_config **ret_config)
{
	_cleanup_(tally_config_freep) struct tally_config *config = NULL;
	struct tally_diag diag;
	int err;

	tally_diag_init(&diag, path);
	err = tally_config_load(path, 0, &diag, &config);
	if (!err)
		err = tally_rules_check(config, &diag);
	if (!err)
		err = tally_sinks_check(config, &diag);
	tally_diag_print(&diag, stderr);
	if (err)
		tally_log_error("config_refused", "file=%s errors=%zu first=%s", path, diag.errors,
				tally_diag_first(&diag));
	tally_diag_done(&diag);
	if (err)
		return err;
	*ret_config = TAKE_PTR(config);
	return 0;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_ino == b->st_ino && a->st_size == b->st_size &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* Before it is read: a change while we read is one to come. */
static void remember_file(const char *path, struct stat *ret_stat)
{
	if (!path || stat(path, ret_stat))
		memset(ret_stat, 0, sizeof(*ret_stat));
}

/*
 * Who writes it in place is not done yet, and what stands there until then may be good, and name others:
 * it is read when a look finds it as the look before did. One that never rests is read all the same.
 */
static bool file_changed(const char *path, const struct stat *old, struct tally_agent_look *look)
{
	const struct stat before = look->file;

	remember_file(path, &look->file);
	look->changes = same_file(&look->file, &before) ? 0 : look->changes + 1;
	return look->changes % TALLY_AGENT_LOOKS == 0 && look->file.st_ino &&
	       !same_file(&look->file, old);
}

/* What a reload will put in force. */
struct fresh {
	struct tally_config *config;
	struct tally_catalog *catalog;
	struct stat catalog_file;
	struct tally_agent_sinks sinks;
};

static void fresh_done(struct fresh *fresh)
{
	tally_config_free(fresh->config);
	tally_catalog_free(fresh->catalog);
	tally_agent_sinks_discard(&fresh->sinks);
}

static void forget_refused(struct tally_agent *agent)
{
	free(agent->refused.catalog);
	agent->refused.catalog = NULL;
}

static int read_catalog(struct tally_agent *agent, struct fresh *fresh)
{
	int err = tally_agent_rules_read(agent, fresh->config, &fresh->catalog);

	if (!err)
		return 0;
	agent->refused.catalog = strdup(fresh->config->keys.file); /* else SIGHUP is needed */
	agent->refused.file = fresh->catalog_file;
	return err;
}

/* G5: everything that can be refused. The rules come last, as they change the kernel's. */
static int prepare_reload(struct tally_agent *agent, struct fresh *fresh)
{
	int err;

	forget_refused(agent);
	remember_file(agent->config_path, &agent->config_file);
	err = load_config(agent->config_path, &fresh->config);
	if (err)
		return err == -ENOKEY ? -EINVAL
				      : err; /* it is not there now: somebody is to look */
	remember_file(fresh->config->keys.file, &fresh->catalog_file);
	err = tally_agent_kernel_enough(fresh->config);
	if (!err)
		err = read_catalog(agent, fresh);
	if (!err)
		err = tally_agent_sinks_prepare(agent, fresh->config, &fresh->sinks);
	return err ? err : tally_agent_rules_apply(agent, fresh->config);
}

/* The whole of it; what it says is not refused. */
static bool is_tried_again(int err)
{
	return err && err != -EINVAL && err != -EPERM;
}

/* The rules are in force: so is everything else, whatever fails from here on. */
static int take_fresh(struct tally_agent *agent, struct fresh *fresh, uint32_t generation)
{
	bool watched_others = !tally_agent_pods_equal(agent->config, fresh->config);
	int err, sinks_err;

	agent->counters.restart_for = needs_restart(agent->config, fresh->config);
	if (agent->counters.restart_for)
		tally_log_warning(
			"reload", "reason=%s changed=%s",
			"folders, metrics address, limits and fleet secret need a restart",
			agent->counters.restart_for);
	tally_log_setup(tally_config_log_level(fresh->config), fresh->config->agent.log.format);
	keep_started(&agent->config->agent, &fresh->config->agent);
	tally_agent_rules_take(agent, TAKE_PTR(fresh->catalog));
	agent->catalog_file = fresh->catalog_file;
	sinks_err = tally_agent_sinks_replace(agent, fresh->config, &fresh->sinks);
	tally_config_free(agent->config);
	agent->config = TAKE_PTR(fresh->config);
	if (watched_others)
		tally_agent_pods_reopen(agent);
	tally_agent_exe_open(agent);
	if (is_tried_again(sinks_err))
		memset(&agent->config_file, 0, sizeof(agent->config_file));
	err = tally_agent_tags_apply(agent); /* said there; the slow tick tries again */
	if (!err && generation != agent->rules.generation)
		(void)!tally_agent_books_close_now(agent, TALLY_CAUSE_RELOAD); /* likewise */
	if (arm_window(agent))
		tally_log_error("reload", "reason=%s", "the window's timer cannot be set");
	return sinks_err;
}

/* What was not refused for what it says is tried again: watch_files() does it. */
static int reload(struct tally_agent *agent, bool *ret_in_force)
{
	_cleanup_(fresh_done) struct fresh fresh = {};
	uint32_t generation = agent->rules.generation;
	bool catalog_ok = agent->counters.catalog_ok;
	int err = prepare_reload(agent, &fresh);

	*ret_in_force = !err;
	if (!err)
		return take_fresh(agent, &fresh, generation);
	agent->counters.catalog_ok = catalog_ok; /* that in force has not changed */
	if (is_tried_again(err))
		memset(&agent->config_file, 0, sizeof(agent->config_file));
	return err;
}

static void try_reload(struct tally_agent *agent)
{
	bool in_force;
	int err;

	tally_notify_reloading();
	err = reload(agent, &in_force);
	agent->counters.reloads++;
	agent->counters.reload_errors += err != 0;
	agent->counters.reload_ok = !err;
	if (err)
		tally_log_error("reload", "error=%s config=%s", strerror(-err),
				in_force ? "in_force" : "unchanged");
	else
		tally_log_notice("reload", "services=%zu generation=%" PRIu32,
				 agent->config->n_services, agent->rules.generation);
	tally_notify_send("READY=1\n");
}

/* What was tried and refused is tried again when it changes, or when we could not even read it. */
static void watch_files(struct tally_agent *agent)
{
	const char *catalog;
	int err;

	if (file_changed(agent->config_path, &agent->config_file, &agent->looks.config) ||
	    (agent->refused.catalog &&
	     file_changed(agent->refused.catalog, &agent->refused.file, &agent->looks.refused)))
		try_reload(agent);
	catalog = agent->config->keys.file; /* also when the reload was refused */
	if (catalog && file_changed(catalog, &agent->catalog_file, &agent->looks.catalog)) {
		remember_file(catalog, &agent->catalog_file);
		err = tally_agent_rules_catalog(agent, agent->config); /* said there */
		if (err && err != -EINVAL)
			memset(&agent->catalog_file, 0, sizeof(agent->catalog_file));
	}
}

/* ---- ticks ---- */

static void report_status(struct tally_agent *agent)
{
	struct tally_ship_status status;

	tally_ship_status(agent->ship, &status);
	tally_notify_send("STATUS=%zu services, %u cgroups, window %" PRIu64 ", %" PRIu64
			  " records waiting\n",
			  agent->config->n_services, agent->tags.attached,
			  tally_ledger_number(agent->ledger), (uint64_t)status.spool_records);
}

/* Somebody cleared the pin folder: pin and attach again. What passed in between was not seen. */
static void repair(struct tally_agent *agent)
{
	bool repaired = false;
	int err = tally_load_repair(agent->load, &repaired);

	if (!err && !repaired)
		return;
	if (!err)
		err = tally_ledger_repair(agent->ledger);
	if (!err)
		err = tally_agent_tags_apply(agent);
	tally_log_error("pins_removed", "pin_dir=%s again=%s", agent->config->agent.pin_dir,
			err ? strerror(-err) : "pinned and attached");
}

static void sweep_pieces(struct tally_agent *agent)
{
	int swept = tally_pieces_sweep(agent->pieces, tally_util_mono_ns());

	if (swept)
		tally_log_notice("pieces_swept", "pieces=%d", swept);
}

/* Once a second: what changes seldom. */
static void slow_tick(struct tally_agent *agent)
{
	uint64_t number;

	tally_agent_books_open(agent);
	repair(agent);
	watch_files(agent);
	if (!tally_ledger_oldest(agent->ledger, &number) && !tally_agent_books_settle(agent))
		tally_agent_sinks_step(agent);
	else if (tally_ledger_prepare(agent->ledger))
		tally_log_warning("prepare", "reason=%s", "no maps for the next window yet");
	tally_agent_pods_settle(agent);
	if (!(agent->slow_at_ns / TALLY_NS_PER_S % 10))
		sweep_pieces(agent);
	tally_agent_tags_tick(agent);
	tally_agent_usage_tick(agent);
	tally_agent_http_open(agent);
	tally_agent_hops_look(agent);
	report_status(agent);
}

static int on_tick(void *ctx, uint32_t events, uint64_t value)
{
	struct tally_agent *agent = ctx;
	uint64_t now = tally_util_mono_ns();

	if (tally_keys_poll(agent->keys))
		tally_log_warning("keys", "reason=%s", "the dictionary refused an entry");
	tally_http_tick(agent->http);
	if (agent->watchdog_ns && now >= agent->watchdog_at_ns) {
		tally_notify_send("WATCHDOG=1\n");
		agent->watchdog_at_ns = now + agent->watchdog_ns / 2;
	}
	if (now < agent->slow_at_ns)
		return 0;
	agent->slow_at_ns = now + TALLY_NS_PER_S;
	slow_tick(agent);
	return 0;
}

static int on_signal(void *ctx, uint32_t events, uint64_t value)
{
	struct tally_agent *agent = ctx;

	if (value == SIGHUP) {
		try_reload(agent);
		return 0;
	}
	tally_log_notice("stopping", "signal=%d", (int)value);
	tally_loop_quit(agent->loop, 0);
	return 0;
}

static int add_timers(struct tally_agent *agent)
{
	int err;

	agent->watchdog_ns = tally_notify_watchdog_ns();
	err = tally_loop_add_timer(agent->loop, CLOCK_REALTIME, on_window, agent,
				   &agent->window_timer);
	if (!err)
		err = tally_loop_add_timer(agent->loop, CLOCK_MONOTONIC, on_tick, agent,
					   &agent->tick_timer);
	if (!err)
		err = tally_loop_set_timer(agent->tick_timer,
					   tally_util_mono_ns() + TALLY_AGENT_TICK_NS,
					   TALLY_AGENT_TICK_NS);
	return err ? err : arm_window(agent);
}

/* ---- start ---- */

static int fail(int code, const char *what, int err)
{
	tally_log_error("start", "failed=%s error=%s", what, strerror(-err));
	if ((err == -EACCES || err == -EPERM) && geteuid() != 0)
		tally_log_error("start", "reason=%s",
				"start it as root, or as who may write there");
	return code;
}

static int start_process(struct tally_agent *agent)
{
	agent->started_ns = tally_util_mono_ns();
	agent->counters.reload_ok = true;
	agent->tags.watch.fd = -1;
	return tally_privileges_hide();
}

/* With what the config says of logging and folders. */
static int start_loop(struct tally_agent *agent)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP, 0 };
	int err;

	tally_log_setup(tally_config_log_level(agent->config), agent->config->agent.log.format);
	if (tally_probe_pin_dir(agent->config->agent.pin_dir) < 0) {
		tally_log_error("config_refused", "pin_dir=%s reason=%s",
				agent->config->agent.pin_dir,
				"is not on a bpf file system (mount -t bpf)");
		return TALLY_EXIT_CONFIG;
	}
	err = tally_loop_new(&agent->loop);
	if (!err) /* blocked before any library starts threads */
		err = tally_loop_add_signals(agent->loop, signals, on_signal, agent,
					     &agent->signals);
	if (!err && signal(SIGPIPE, SIG_IGN) == SIG_ERR)
		err = -errno;
	return err ? fail(TALLY_EXIT_BUG, "loop", err) : TALLY_EXIT_OK;
}

static int start_config(struct tally_agent *agent)
{
	int err = start_process(agent);

	if (err)
		return fail(TALLY_EXIT_BUG, "hiding memory", err);
	remember_file(agent->config_path, &agent->config_file);
	err = load_config(agent->config_path, &agent->config);
	if (err) /* a secret may come later: it is worth another start */
		return err == -ENOKEY ? TALLY_EXIT_UNAVAILABLE : TALLY_EXIT_CONFIG;
	remember_file(agent->config->keys.file, &agent->catalog_file);
	return start_loop(agent);
}

static int start_state(struct tally_agent *agent)
{
	const char *state_dir = agent->config->agent.state_dir;
	int err = tally_util_mkdirs(state_dir, 0750);

	if (!err)
		err = tally_agent_sinks_open(agent);
	if (err == -EBUSY) {
		tally_log_error("start", "reason=%s state_dir=%s",
				"another agent uses it: stop it first", state_dir);
		return TALLY_EXIT_UNAVAILABLE;
	}
	if (!err)
		err = tally_agent_rules_open(agent);
	if (!err)
		err = tally_agent_origins_load(agent);
	if (!err)
		err = tally_agent_pods_load(agent);
	return err ? fail(TALLY_EXIT_IO, state_dir, err) : TALLY_EXIT_OK;
}

/* G4 */
static int start_metering(struct tally_agent *agent)
{
	int err = tally_agent_rules_apply(agent, agent->config);

	if (err)
		return fail(TALLY_EXIT_IO, "rules", err);
	err = tally_attach_update(agent->load);
	if (!err)
		err = tally_agent_tags_open(agent);
	if (!err)
		err = tally_agent_tags_apply(agent);
	if (!err)
		err = tally_load_pin_programs(agent->load);
	return err ? tally_agent_kernel_explain(agent, err, TALLY_EXIT_UNAVAILABLE) : TALLY_EXIT_OK;
}

static int start_service(struct tally_agent *agent)
{
	const struct tally_config_agent *config = &agent->config->agent;
	int err = tally_control_open(agent->loop, config->runtime_dir, tally_agent_live_answer,
				     agent, &agent->control);

	if (err)
		return fail(TALLY_EXIT_UNAVAILABLE, config->runtime_dir, err);
	tally_agent_http_open(agent);
	tally_agent_usage_tick(agent); /* from here on it is our time */
	err = add_timers(agent);
	if (err)
		return fail(TALLY_EXIT_BUG, "timers", err);
	tally_agent_exe_open(agent);
	err = tally_agent_pods_open(agent);
	if (err)
		return fail(TALLY_EXIT_CONFIG, "kubernetes", err);
	err = tally_agent_kernel_confine();
	return err ? fail(TALLY_EXIT_CAPABILITY, "system call filter", err) : TALLY_EXIT_OK;
}

static int start_sinks(struct tally_agent *agent)
{
	int err = tally_agent_kernel_drop(agent);

	if (err)
		return fail(TALLY_EXIT_CAPABILITY, "dropping capabilities", err);
	err = tally_agent_sinks_add(agent);
	return err ? fail(TALLY_EXIT_CONFIG, "sinks", err) : TALLY_EXIT_OK;
}

static int start(struct tally_agent *agent)
{
	int err, code = start_config(agent);

	if (!code && tally_agent_rules_catalog(agent, agent->config))
		code = TALLY_EXIT_CONFIG;
	if (!code && tally_agent_sinks_check(agent))
		code = TALLY_EXIT_CONFIG; /* before anything is hooked */
	if (!code)
		code = start_state(agent);
	if (code)
		return code;
	err = tally_agent_kernel_open(agent, false);
	if (err)
		return tally_agent_kernel_explain(agent, err, TALLY_EXIT_KERNEL);
	if (tally_agent_books_clock(agent) || tally_agent_books_settle(agent))
		tally_log_warning("start", "reason=%s", "what was frozen before is not sealed yet");
	tally_agent_books_open(agent);
	code = start_metering(agent);
	if (!code)
		code = start_sinks(agent);
	if (!code)
		code = start_service(agent);
	return code;
}

/* ---- end ---- */

static void close_all(struct tally_agent *agent)
{
	tally_http_close(agent->http);
	tally_control_close(agent->control);
	tally_agent_tags_close(agent);
	tally_agent_pods_close(agent);
	tally_agent_exe_close(agent);
	tally_agent_origins_close(agent);
	tally_agent_sinks_close(agent);
	tally_agent_kernel_close(agent);
	tally_agent_rules_close(agent);
	tally_agent_usage_close(agent);
	tally_agent_page_close(agent);
	forget_refused(agent);
	tally_loop_free(agent->loop);
	tally_config_free(agent->config);
}

/* What the kernel counts from here on is the next start's. */
static int finish(struct tally_agent *agent)
{
	int err;

	agent->stopping = true;
	tally_notify_send("STOPPING=1\n");
	err = tally_agent_books_close_now(agent, TALLY_CAUSE_SHUTDOWN);
	if (err)
		tally_log_error("stop", "error=%s window=%s", strerror(-err), "left in the kernel");
	tally_agent_sinks_flush(agent, TALLY_AGENT_GRACE_NS);
	tally_log_notice("stopped", "windows=%" PRIu64 " counting=yes", agent->counters.windows);
	return err ? TALLY_EXIT_IO : TALLY_EXIT_OK;
}

int tally_agent_run(const char *config_path)
{
	struct tally_agent *agent = calloc(1, sizeof(*agent));
	int code, err;

	if (!agent)
		return TALLY_EXIT_BUG;
	agent->config_path = config_path;
	code = start(agent);
	if (!code) {
		agent->ready = true;
		tally_log_notice("ready",
				 "services=%zu cgroups=%u epoch=%" PRIu64
				 " reused=%d map_bytes=%" PRIu64,
				 agent->config->n_services, agent->tags.attached,
				 tally_ledger_number(agent->ledger), agent->load->reused,
				 tally_load_memory(agent->load));
		report_status(agent);
		tally_notify_send("READY=1\n");
		err = tally_loop_run(agent->loop);
		if (err)
			tally_log_error("loop", "error=%s", strerror(-err));
		code = finish(agent);
		if (!code && err)
			code = TALLY_EXIT_BUG;
	}
	close_all(agent);
	free(agent);
	return code;
}

/* ---- detach ---- */

/* A file that cannot be read at all says nothing of where the pins are; that of the package need not. */
static int default_config(const char *path, int err, struct tally_config **ret_config)
{
	struct tally_diag diag;

	if (strcmp(path, TALLY_CONFIG_PATH) != 0)
		return err;
	tally_log_warning("config_faulty", "file=%s reason=%s", path,
			  "says nothing: the folders are those of a file without any");
	tally_diag_init(&diag, path);
	err = tally_config_parse("", 0, TALLY_CONFIG_FAULTY_TOO, &diag, ret_config);
	tally_diag_done(&diag);
	return *ret_config ? 0 : err;
}

/* Mistakes, and secrets that only a unit has, are no reason to go on counting: *ret_whole is false. */
static int detach_config(const char *path, struct tally_config **ret_config, bool *ret_whole)
{
	_cleanup_(tally_config_freep) struct tally_config *config = NULL;
	struct tally_diag diag;
	int err;

	tally_diag_init(&diag, path);
	err = tally_config_load(path, TALLY_CONFIG_CHECK_ONLY | TALLY_CONFIG_FAULTY_TOO, &diag,
				&config);
	tally_diag_print(&diag, stderr);
	if (err)
		tally_log_error("config_faulty", "file=%s errors=%zu first=%s", path, diag.errors,
				tally_diag_first(&diag));
	tally_diag_done(&diag);
	*ret_whole = !err;
	if (!config || !config->agent.pin_dir || !config->agent.state_dir)
		return default_config(path, err, ret_config);
	if (err) /* perhaps they were to be cut */
		config->records.peer_prefix = (struct tally_config_prefix){ 0 };
	*ret_config = TAKE_PTR(config);
	return 0;
}

/* Ids of keys outside of the catalog: this host's own, where nobody can read the fleet's secret. */
static void forget_fleet_secret(struct tally_config *config)
{
	char *secret = config->agent.fleet_secret;

	if (!secret || !tally_secret_is_reference(secret))
		return;
	tally_log_warning("fleet_secret", "reason=%s",
			  "cannot be read here: ids of keys outside of the catalog are made with "
			  "the secret of this host");
	config->agent.fleet_secret = NULL;
	free(secret);
}

static bool secrets_known(const struct tally_config *config)
{
	for (size_t i = 0; i < config->n_sinks; i++) {
		const struct tally_config_kafka *kafka = &config->sinks[i].kafka;

		for (size_t k = 0; k < kafka->n_properties; k++)
			if (kafka->properties[k].value &&
			    tally_secret_is_reference(kafka->properties[k].value))
				return false;
	}
	return true;
}

/*
 * All sinks or none: what the others have confirmed would leave the spool, and the one left out would
 * never get it.
 */
static bool detach_sinks(struct tally_agent *agent, bool whole)
{
	if (whole && secrets_known(agent->config) && !tally_agent_sinks_check(agent) &&
	    !tally_agent_sinks_add(agent))
		return true;
	tally_log_warning("not_shipped", "state_dir=%s reason=%s", agent->config->agent.state_dir,
			  "a sink cannot be used here: what was not shipped waits in the spool for "
			  "the next start of the agent");
	return false;
}

static int remove_meter(struct tally_agent *agent, bool ship)
{
	int err = tally_attach_clear(agent->load);

	if (!err)
		err = tally_agent_books_close_now(agent, TALLY_CAUSE_SHUTDOWN);
	if (err) {
		tally_log_error("detach", "error=%s ledgers=%s", strerror(-err), "still pinned");
		return TALLY_EXIT_IO;
	}
	if (ship)
		tally_agent_sinks_flush(agent, TALLY_AGENT_GRACE_NS);
	err = tally_load_remove(agent->load);
	if (err)
		return fail(TALLY_EXIT_IO, "pins", err);
	tally_log_notice("detach", "reason=%s pin_dir=%s", "the programs are out of the kernel",
			 agent->config->agent.pin_dir);
	return TALLY_EXIT_OK;
}

static int detach_start(struct tally_agent *agent, bool *ret_whole)
{
	int err = start_process(agent);

	if (err)
		return fail(TALLY_EXIT_BUG, "hiding memory", err);
	if (detach_config(agent->config_path, &agent->config, ret_whole))
		return TALLY_EXIT_CONFIG;
	forget_fleet_secret(agent->config);
	return start_loop(agent);
}

static int detach(struct tally_agent *agent)
{
	bool whole = false;
	int err, code = detach_start(agent, &whole);

	if (code)
		return code;
	err = tally_agent_kernel_open(agent, true);
	if (err == -EUCLEAN) {
		tally_log_error("detach", "reason=%s pin_dir=%s",
				"pins were missing: what was counted last is lost",
				agent->config->agent.pin_dir);
		err = tally_load_wipe(agent->config->agent.pin_dir);
		return err ? fail(TALLY_EXIT_IO, "pins", err) : TALLY_EXIT_IO;
	}
	if (err == -ENOENT) {
		tally_log_notice("detach", "reason=%s pin_dir=%s", "nothing is pinned",
				 agent->config->agent.pin_dir);
		return whole ? TALLY_EXIT_OK : TALLY_EXIT_CONFIG; /* another folder was meant? */
	}
	if (err)
		return tally_agent_kernel_explain(agent, err, TALLY_EXIT_KERNEL);
	(void)!tally_agent_rules_catalog(agent, agent->config); /* keys stay fingerprints, then */
	code = start_state(agent);
	return code ? code : remove_meter(agent, detach_sinks(agent, whole));
}

int tally_agent_detach(const char *config_path)
{
	struct tally_agent *agent = calloc(1, sizeof(*agent));
	int code;

	if (!agent)
		return TALLY_EXIT_BUG;
	agent->config_path = config_path;
	code = detach(agent);
	close_all(agent);
	free(agent);
	return code;
}
