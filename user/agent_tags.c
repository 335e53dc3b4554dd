/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When it is looked which cgroups and ports are to be attached (agent_plan.c), and carrying it out.
 *
 *	a folder came, a file was executed	at once: its service may be about to answer
 *	a folder or process went		a moment later, with what follows
 *	nobody told				every ten seconds; every second, where folders are not watched
 *
 * A quarter of the time, at most, is spent on looking, whatever comes and goes: a short credit lets a
 * look be made at once, and no look waits for it longer than a second.
 */
#include <limits.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <time.h>

#include "agent_parts.h"

#define AGAIN_NS (TALLY_NS_PER_S / 4) /* for what does not listen yet */
#define GONE_NS (TALLY_NS_PER_S / 20) /* what went is looked at together */
#define SHARE 4			      /* one part of so many is spent on looking */
#define CREDIT_NS (int64_t)(TALLY_NS_PER_S / 10)
#define DEBT_NS (int64_t)(TALLY_NS_PER_S / SHARE)
#define PERIOD 10 /* ticks */

/* ---- how often ---- */

static void earn(struct tally_agent_tags *tags, uint64_t now_ns)
{
	tags->credit_ns += (int64_t)((now_ns - tags->credit_at_ns) / SHARE);
	tags->credit_ns = TALLY_MIN(tags->credit_ns, CREDIT_NS);
	tags->credit_at_ns = now_ns;
}

/* What a start takes is not spent. */
static void spend(struct tally_agent *agent, uint64_t start_ns)
{
	struct tally_agent_tags *tags = &agent->tags;
	uint64_t now_ns = tally_util_mono_ns();

	earn(tags, now_ns);
	tags->credit_ns -= (int64_t)(now_ns - start_ns);
	tags->credit_ns = agent->ready ? TALLY_MAX(tags->credit_ns, -DEBT_NS) : CREDIT_NS;
}

static void look_at(struct tally_agent *agent, uint64_t at_ns)
{
	struct tally_agent_tags *tags = &agent->tags;

	if (tags->again_ns && tags->again_ns <= at_ns)
		return;
	tags->again_ns = at_ns;
	(void)!tally_loop_set_timer(tags->again, at_ns, 0); /* else the slow tick does it */
}

void tally_agent_tags_soon(struct tally_agent *agent, bool gone)
{
	struct tally_agent_tags *tags = &agent->tags;
	uint64_t now_ns = tally_util_mono_ns();
	uint64_t at_ns = gone ? now_ns + GONE_NS : now_ns;

	earn(tags, now_ns);
	if (tags->credit_ns <= 0)
		at_ns = TALLY_MAX(at_ns, now_ns + (uint64_t)(1 - tags->credit_ns) * SHARE);
	if (at_ns == now_ns)
		(void)!tally_agent_tags_apply(agent); /* said there; the slow tick tries again */
	else
		look_at(agent, at_ns);
}

/* ---- carrying it out ---- */

/* Said once, and again when it is another trouble, or none any more. */
static void take_trouble(struct tally_agent *agent, const struct tally_config_service *service,
			 const struct tally_agent_trouble *all)
{
	const struct tally_agent_trouble *fresh;
	struct tally_agent_trouble *old;
	uint16_t index;

	if (tally_agent_rules_index(agent, service->name, &index))
		return;
	fresh = &all[index];
	old = &agent->tags.troubles[index];
	if (fresh->kind && fresh->kind != old->kind)
		tally_log_warning("service_not_attached", "service=%s reason=%s", service->name,
				  fresh->text);
	else if (old->kind && !fresh->kind)
		tally_log_notice("service_attached", "service=%s", service->name);
	if (fresh->kind)
		agent->tags.errors[fresh->kind]++;
}

static int carry_out(struct tally_agent *agent, struct tally_agent_plan *plan)
{
	struct tally_agent_tags *tags = &agent->tags;
	int err = tally_scopes_set(agent->load, plan->scopes, plan->n);

	if (!err)
		err = tally_attach_set(agent->load, &plan->cgroups, &tags->attached, &tags->failed);
	if (err)
		return err;
	tags->scopes = plan->n;
	tags->errors[TALLY_AGENT_UNTROUBLED] += tags->failed;
	for (size_t i = 0; i < agent->view.n_services; i++)
		take_trouble(agent, &agent->view.services[i], plan->troubles);
	memcpy(tags->troubles, plan->troubles, sizeof(tags->troubles));
	tally_cgroups_done(&tags->cgroups);
	tags->cgroups = plan->cgroups;
	memset(&plan->cgroups, 0, sizeof(plan->cgroups));
	return 0;
}

static void say(struct tally_agent *agent, int err, uint32_t before)
{
	struct tally_agent_tags *tags = &agent->tags;

	if (err) {
		tags->failures++;
		if (err != tags->error) /* else it was said */
			tally_log_error("attach", "error=%s", strerror(-err));
	} else if (before != tags->attached || tags->error) {
		tally_log_info("attach", "cgroups=%u scopes=%u failed=%u", tags->attached,
			       tags->scopes, tags->failed);
	}
	tags->error = err;
}

int tally_agent_tags_apply(struct tally_agent *agent)
{
	_cleanup_(tally_agent_plan_freep) struct tally_agent_plan *plan = NULL;
	struct tally_agent_tags *tags = &agent->tags;
	uint32_t before = tags->attached;
	uint64_t start_ns = tally_util_mono_ns();
	int err;

	tags->again_ns = 0;
	tags->watch.failed = 0;
	err = tally_agent_plan_make(agent, &plan);
	if (!err)
		err = carry_out(agent, plan);
	if (!err)
		err = tally_agent_rules_drop_gone(agent);
	say(agent, err, before);
	if (!err && tally_agent_exe_again(agent))
		look_at(agent, tally_util_mono_ns() + AGAIN_NS);
	spend(agent, start_ns);
	return err;
}

static int on_again(void *ctx, uint32_t events, uint64_t value)
{
	struct tally_agent *agent = ctx;

	if (agent->tags.again_ns)		      /* else there was a look meanwhile */
		(void)!tally_agent_tags_apply(agent); /* said there; the slow tick tries again */
	return 0;
}

/* ---- folders that come and go ---- */

/* What exactly does not matter: we look at all of it. */
static int on_watch(void *ctx, uint32_t events, uint64_t value)
{
	struct tally_agent *agent = ctx;
	char buffer[4096] __attribute__((aligned(8)));
	bool gone = true;
	ssize_t n;

	while ((n = read(agent->tags.watch.fd, buffer, sizeof(buffer))) > 0) {
		const struct inotify_event *event = (const void *)buffer;

		while ((const char *)event < buffer + n) {
			if (event->mask & (IN_CREATE | IN_MOVED_TO | IN_Q_OVERFLOW))
				gone = false;
			event = (const void *)((const char *)(event + 1) + event->len);
		}
	}
	tally_agent_tags_soon(agent, gone);
	return 0;
}

/* Without it folders are found later, not never: what there is of it may be in use by others. */
static int open_watch(struct tally_agent *agent)
{
	struct tally_cgroup_watch *watch = &agent->tags.watch;
	int err;

	watch->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (watch->fd < 0) {
		err = -errno;
		watch->fd = -1;
		return err;
	}
	err = tally_loop_add_fd(agent->loop, watch->fd, EPOLLIN, on_watch, agent,
				&agent->tags.watcher);
	if (err) {
		tally_util_close(watch->fd);
		watch->fd = -1;
	}
	return err;
}

bool tally_agent_tags_watched(const struct tally_agent *agent)
{
	return agent->tags.watch.fd >= 0 && !agent->tags.watch.failed;
}

void tally_agent_tags_tick(struct tally_agent *agent)
{
	const struct tally_agent_tags *tags = &agent->tags;
	bool again = tags->failed || tags->error || !tally_agent_tags_watched(agent);

	if (tags->watch.fd < 0 && !open_watch(agent))
		tally_log_notice("cgroups", "watched=%s", "again");
	if (again)
		tally_agent_tags_soon(agent, false);
	else if (!(agent->slow_at_ns / TALLY_NS_PER_S % PERIOD))
		(void)!tally_agent_tags_apply(agent); /* said there */
}

int tally_agent_tags_open(struct tally_agent *agent)
{
	struct tally_agent_tags *tags = &agent->tags;
	int err = tally_cgroup_mount(tags->mount, sizeof(tags->mount));

	if (!err)
		err = tally_loop_add_timer(agent->loop, CLOCK_MONOTONIC, on_again, agent,
					   &tags->again);
	if (err)
		return err;
	err = open_watch(agent);
	if (err)
		tally_log_warning("cgroups", "reason=%s error=%s",
				  "not watched: those that come are found within a second",
				  strerror(-err));
	return 0;
}

void tally_agent_tags_close(struct tally_agent *agent)
{
	tally_loop_remove(agent->tags.watcher);
	tally_loop_remove(agent->tags.again);
	if (agent->tags.watch.fd > 0)
		tally_util_close(agent->tags.watch.fd);
	tally_cgroups_done(&agent->tags.cgroups);
	memset(&agent->tags, 0, sizeof(agent->tags));
}
