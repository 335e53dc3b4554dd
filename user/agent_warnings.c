/* SPDX-License-Identifier: Apache-2.0 */
/* What is wrong now, in words: for the status page and `tallyd status`. Alerts say the same from metrics. */
#include <inttypes.h>
#include <stdarg.h>

#include "agent_parts.h"

#define FULL_PERCENT 80
#define STALLED_S 900
#define AWAY_S 60    /* an API server that is started again is no news */
#define WAITING_S 60 /* a pod's cgroup comes before its images */

static void warn(json_t *out, const char *level, const char *what, const char *fmt, ...)
	TALLY_PRINTF(4, 5);

static void warn(json_t *out, const char *level, const char *what, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap); /* cut short is good enough */
	va_end(ap);
	(void)!json_array_append_new(out, json_pack("{s:s,s:s,s:s}", "level", level, "what", what,
						    "text", text)); /* without memory: no warning */
}

static void warn_books(const struct tally_agent *agent, const struct tally_ship_status *s,
		       json_t *out)
{
	uint32_t frozen = tally_ledger_frozen_count(agent->ledger);

	if (s->imbalance)
		warn(out, "critical", "imbalance",
		     "The books do not balance, by %" PRIu64
		     " requests. `tallyd audit` names the windows.",
		     (uint64_t)s->imbalance);
	if (s->sealing_fails)
		warn(out, "critical", "sealing",
		     "The last window could not be written below %s. It waits in the kernel.",
		     agent->config->agent.state_dir);
	if (frozen > 3)
		warn(out, "critical", "frozen", "%" PRIu32 " closed windows wait in the kernel.",
		     frozen);
	if (s->quarantined_files)
		warn(out, "critical", "quarantine",
		     "%" PRIu64 " files of the spool are damaged or of another agent: "
		     "`tallyd spool ls`.",
		     (uint64_t)s->quarantined_files);
	if (s->holes_lost)
		warn(out, "critical", "hole",
		     "When this agent started the pins were gone: nobody metered for a while. "
		     "The control record says from when to when.");
}

static void warn_delivery(const struct tally_agent *agent, const struct tally_ship_status *s,
			  json_t *out)
{
	uint64_t capacity = agent->config->agent.limits.spool_bytes;
	uint64_t now_s = tally_util_real_ns() / TALLY_NS_PER_S;
	struct tally_ship_sink_status sink;

	if (s->oldest_s && s->oldest_s + STALLED_S < now_s)
		warn(out, "critical", "stalled", "Records have waited for %" PRIu64 " minutes.",
		     (uint64_t)((now_s - s->oldest_s) / 60));
	if (capacity && s->spool_bytes / FULL_PERCENT >= capacity / 100)
		warn(out, "critical", "spool", "The spool is more than %d %% full.", FULL_PERCENT);
	for (size_t i = 0; !tally_ship_sink_status(agent->ship, i, &sink); i++)
		if (!sink.connected && sink.failures) /* not just before its first attempt */
			warn(out, "warning", "sink", "Sink %s does not answer%s.", sink.name,
			     sink.required ? "; records wait on disk" : "");
}

static void warn_map(const char *name, uint64_t entries, uint64_t capacity, const char *option,
		     json_t *out)
{
	if (capacity && entries * 100 >= capacity * FULL_PERCENT)
		warn(out, "warning", "map", "%s: %" PRIu64 " of %" PRIu64 " used (%s).", name,
		     entries, capacity, option);
}

static void warn_kernel(const struct tally_agent *agent, json_t *out)
{
	struct tally_keys_status keys;

	tally_keys_status(agent->keys, &keys);
	warn_map("Keys known to the kernel", keys.entries, keys.capacity, "agent.limits.keys", out);
	warn_map("Rows of the last window", agent->counters.map_rows_last,
		 agent->load->connection_rows, "agent.limits.connection_rows", out);
	if (agent->load->stale)
		warn(out, "warning", "programs",
		     "The kernel refused the programs of this version; those of the version before "
		     "count on.");
	if (agent->counters.rows_overflow)
		warn(out, "warning", "overflow",
		     "%" PRIu64 " requests found no row, and are counted under no key "
		     "(agent.limits.rows).",
		     agent->counters.rows_overflow);
}

/* Since the start, windows that are closed. */
static void warn_mptcp(const struct tally_agent *agent, json_t *out)
{
	for (size_t i = 0; i < agent->view.n_services; i++) {
		const char *name = agent->view.services[i].name;
		uint16_t index;
		uint64_t bytes;

		if (tally_agent_rules_index(agent, name, &index))
			continue;
		bytes = tally_agent_mptcp_bytes(&agent->counters.totals[index]);
		if (bytes)
			warn(out, "warning", "mptcp",
			     "Clients of service %s use MPTCP, which is not metered: %" PRIu64
			     " bytes were of no request. Have it listen without (Go: "
			     "GODEBUG=multipathtcp=0), or switch MPTCP off where it runs "
			     "(sysctl net.mptcp.enabled=0), and restart it.",
			     name, bytes);
	}
}

static void warn_config(struct tally_agent *agent, json_t *out)
{
	if (!agent->counters.reload_ok)
		warn(out, "warning", "config",
		     "%s was refused; the one before is in force. `tallyd check-config` says why.",
		     agent->config_path);
	if (agent->counters.restart_for)
		warn(out, "warning", "restart",
		     "Restart pending: %s of %s comes into force by a restart.",
		     agent->counters.restart_for, agent->config_path);
	if (!agent->counters.catalog_ok)
		warn(out, "warning", "catalog", "%s was refused; the catalog before is in force.",
		     agent->config->keys.file);
	for (size_t i = 0; i < agent->view.n_services; i++) {
		const struct tally_config_service *service = &agent->view.services[i];
		const char *why = tally_agent_service_why_not(agent, service);

		if (why && !tally_agent_service_is_idle(agent, service))
			warn(out, "warning", "service", "Service %s is %s: %s.", service->name,
			     tally_agent_service_is_partly(agent, service) ? "metered in part only"
									   : "not metered",
			     why);
	}
	if (!tally_agent_tags_watched(agent))
		warn(out, "warning", "watch",
		     "The kernel does not tell of all cgroups that come (fs.inotify.max_user_instances, "
		     "max_user_watches): what a service answers in its first second may not be counted.");
	if (agent->tags.error)
		warn(out, "warning", "attach", "The last look for cgroups failed: %s.",
		     strerror(-agent->tags.error));
	if (!agent->view.n_services && !agent->config->kubernetes.place.line)
		warn(out, "note", "services", "No service is configured: nothing is metered.");
}

/* Is it missed, and for this reason? A cgroup is waited for for a while. */
static bool is_missed(const json_t *pod, enum tally_kubernetes_verdict verdict)
{
	const char *state = json_string_value(json_object_get(pod, "state"));

	if (json_is_true(json_object_get(pod, "gone")) ||
	    strcmp(state, tally_kubernetes_pod_verdict(verdict)) != 0)
		return false;
	return verdict != TALLY_KUBERNETES_WAITING ||
	       json_integer_value(json_object_get(pod, "not_metered_s")) >= WAITING_S;
}

/* One for each reason, however many pods there are. */
static void warn_verdict(const json_t *pods, enum tally_kubernetes_verdict verdict, json_t *out)
{
	const json_t *pod, *first = NULL;
	size_t i, n = 0;

	json_array_foreach(pods, i, pod) {
		if (!is_missed(pod, verdict))
			continue;
		n++;
		first = first ? first : pod;
	}
	if (n)
		warn(out, "warning", "pods",
		     "%zu %s to be metered and %s not (%s): %s. `tallyd services` lists them: %s/%s%s.",
		     n, n == 1 ? "pod asks" : "pods ask", n == 1 ? "is" : "are",
		     tally_kubernetes_pod_verdict(verdict), tally_kubernetes_pod_why_not(verdict),
		     json_string_value(json_object_get(first, "namespace")),
		     json_string_value(json_object_get(first, "name")), n == 1 ? "" : ", ...");
}

static void warn_pods(const struct tally_agent *agent, json_t *out)
{
	json_t *pods;

	if (agent->pods.refused && agent->pods.n == TALLY_AGENT_PODS)
		warn(out, "warning", "pods", "More than %d pods ask to be metered: some are not.",
		     TALLY_AGENT_PODS);
	if (agent->pods.verdicts[TALLY_KUBERNETES_METERED] == agent->pods.n)
		return;
	pods = tally_agent_pods_json(agent);
	for (int i = TALLY_KUBERNETES_METERED + 1; i < TALLY_KUBERNETES_VERDICT_COUNT; i++)
		warn_verdict(pods, (enum tally_kubernetes_verdict)i, out);
	json_decref(pods);
}

static void warn_kubernetes(const struct tally_agent *agent, json_t *out)
{
	struct tally_kubernetes_status s;
	uint64_t away_s;

	if (!agent->config->kubernetes.place.line)
		return;
	warn_pods(agent, out);
	if (!agent->pods.n)
		warn(out, "note", "pods", "No pod on node %s asks to be metered (%s).",
		     agent->pods.node, agent->config->kubernetes.selector);
	if (!agent->pods.watch) {
		warn(out, "warning", "kubernetes", "Pods are not watched; the log says why.");
		return;
	}
	tally_kubernetes_watch_status(agent->pods.watch, &s);
	away_s = (tally_util_mono_ns() - s.away_ns) / TALLY_NS_PER_S;
	if (!s.watching && away_s >= AWAY_S)
		warn(out, "warning", "kubernetes",
		     "The API server has not been heard for %" PRIu64 " minutes (%s): pods that "
		     "start now are not metered.",
		     away_s / 60, tally_kubernetes_watch_error(s.last_error));
}

static void warn_hops(const struct tally_agent *agent, json_t *out)
{
	for (size_t i = 0; i < agent->view.n_services; i++) {
		const char *name = agent->view.services[i].name;
		json_t *callers = tally_agent_hops_callers(agent, name), *caller;
		size_t n;

		json_array_foreach(callers, n, caller)
			warn(out, "note", "hops",
			     "Service %s calls service %s on this host: such a request is counted "
			     "in both. Invoice one of them.",
			     json_string_value(caller), name);
		json_decref(callers);
	}
}

static int rank(const json_t *warning)
{
	const char *level = json_string_value(json_object_get(warning, "level"));

	return *level == 'c' ? 0 : *level == 'w' ? 1 : 2;
}

json_t *tally_agent_warnings(struct tally_agent *agent)
{
	json_t *all = json_array(), *out = json_array(), *warning;
	struct tally_ship_status status;
	size_t i;

	tally_ship_status(agent->ship, &status);
	warn_books(agent, &status, all);
	warn_delivery(agent, &status, all);
	warn_kernel(agent, all);
	warn_config(agent, all);
	warn_mptcp(agent, all);
	warn_kubernetes(agent, all);
	warn_hops(agent, all);
	for (int level = 0; level < 3; level++)
		json_array_foreach(all, i, warning)
			if (rank(warning) == level)
				(void)!json_array_append(out, warning); /* as in warn() */
	json_decref(all);
	return out;
}
