/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Paths of the HTTP server. /metrics, /healthz and /readyz are for whoever reaches the address; what
 * shows the usage of customers is for this host alone, unless the config says otherwise, and never for
 * a page of another origin that has its name point here.
 */
#include "agent_parts.h"
#include "observe/page.h"
#include "observe/prom.h"

static void answer_metrics(struct tally_agent *agent, struct tally_http_reply *reply)
{
	reply->status = 200;
	reply->type = TALLY_PROM_TYPE;
	reply->body = tally_agent_metrics(agent);
}

static void answer_health(struct tally_agent *agent, struct tally_http_reply *reply)
{
	reply->status = 200;
	reply->fixed = "ok\n";
}

/* Readiness never depends on a sink: what cannot be shipped waits on disk. */
static void answer_ready(struct tally_agent *agent, struct tally_http_reply *reply)
{
	bool ready = agent->ready && !agent->stopping;

	reply->status = ready ? 200 : 503;
	reply->fixed = ready ? "ready\n" : "not ready\n";
}

static void answer_page(struct tally_agent *agent, struct tally_http_reply *reply)
{
	reply->status = 200;
	reply->type = "text/html; charset=utf-8";
	reply->policy = tally_page_policy();
	reply->fixed = tally_page_html();
}

static void answer_json(char *text, struct tally_http_reply *reply)
{
	reply->status = 200;
	reply->type = "application/json";
	reply->body = text;
}

static void answer_live(struct tally_agent *agent, struct tally_http_reply *reply)
{
	answer_json(tally_agent_page_live(agent), reply);
}

static void answer_history(struct tally_agent *agent, struct tally_http_reply *reply)
{
	answer_json(tally_agent_page_history(agent), reply);
}

static const struct path {
	const char *path;
	bool open; /* to everybody */
	void (*answer)(struct tally_agent *agent, struct tally_http_reply *reply);
} paths[] = { { "/metrics", true, answer_metrics }, { "/healthz", true, answer_health },
	      { "/readyz", true, answer_ready },    { "/", false, answer_page },
	      { "/live.json", false, answer_live }, { "/history.json", false, answer_history } };

static bool may_see(const struct tally_agent *agent, const struct tally_http_request *request)
{
	switch (agent->config->agent.metrics.page) {
	case TALLY_PAGE_ANY:
		return true;
	case TALLY_PAGE_LOCAL:
		return request->local && request->direct;
	default:
		return false;
	}
}

void tally_agent_http_answer(void *ctx, const struct tally_http_request *request,
			     struct tally_http_reply *ret_reply)
{
	struct tally_agent *agent = ctx;

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(paths); i++) {
		if (strcmp(request->path, paths[i].path) != 0)
			continue;
		if (paths[i].open || may_see(agent, request)) {
			paths[i].answer(agent, ret_reply);
			return;
		}
		ret_reply->status = 403;
		ret_reply->fixed = "The status page is shown to clients on this host that ask for "
				   "an address or localhost (agent.metrics.page).\n";
		return;
	}
	ret_reply->fixed = "There are /metrics, /healthz, /readyz, and / with the status page.\n";
}

void tally_agent_http_open(struct tally_agent *agent)
{
	const char *listen = agent->config->agent.metrics.listen;
	int err;

	if (agent->http || !strcmp(listen, "off"))
		return;
	err = tally_http_open(agent->loop, listen, tally_agent_http_answer, agent, &agent->http);
	if (err && !agent->http_awaited)
		tally_log_error("metrics_off", "listen=%s error=%s retry=%s", listen,
				strerror(-err), "each second");
	else if (!err && agent->http_awaited)
		tally_log_notice("metrics_on", "listen=%s", listen);
	agent->http_awaited = err != 0;
}
