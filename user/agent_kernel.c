/* SPDX-License-Identifier: Apache-2.0 */
#include <linux/capability.h>

#include "agent_parts.h"
#include "base/exit.h"
#include "base/privileges.h"
#include "collect/probe.h"

/* Pinned programs would go on without them, and the agent would be half of one. */
static enum tally_tier tier_of(const struct tally_config *config)
{
	return tally_agent_exe_wanted(config) ? TALLY_TIER_EXECUTABLE : TALLY_TIER_PLAINTEXT;
}

static int check_capabilities(const struct tally_config *config)
{
	_cleanup_free_ struct tally_probe *probe = calloc(1, sizeof(*probe));

	if (!probe)
		return -ENOMEM;
	tally_probe_capabilities(probe);
	return tally_probe_missing(probe, tier_of(config)) ? -EPERM : 0;
}

static int open_load(struct tally_agent *agent, bool adopt)
{
	const struct tally_config_agent *config = &agent->config->agent;
	struct tally_load_options options = {
		.pin_dir = config->pin_dir,
		.connection_rows = config->limits.connection_rows,
		.rows = config->limits.rows,
		.keys = config->limits.keys,
	};
	int err = check_capabilities(agent->config);

	if (err)
		return err;
	if (adopt)
		return tally_load_adopt(&options, &agent->load);
	err = tally_probe_bpffs(config->pin_dir);
	return err ? err : tally_load_open(&options, &agent->load);
}

int tally_agent_kernel_open(struct tally_agent *agent, bool adopt)
{
	uint64_t now_ns;
	int err = open_load(agent, adopt);

	if (!err)
		err = tally_clock_open(agent->load, &agent->clock);
	if (err)
		return err;
	if (!agent->load->reused)
		tally_clock_sync(agent->clock);
	now_ns = tally_clock_now_ns(agent->clock);
	err = tally_ledger_open(agent->load, now_ns - now_ns % TALLY_NS_PER_S, &agent->ledger);
	if (!err)
		err = tally_rulesets_open(agent->load, &agent->rulesets);
	if (!err)
		err = tally_keys_open(agent->load, tally_ledger_number(agent->ledger),
				      &agent->keys);
	if (!err)
		err = tally_pieces_open(agent->load, &agent->pieces);
	agent->recovering = agent->load->reused;
	return err;
}

void tally_agent_kernel_close(struct tally_agent *agent)
{
	tally_pieces_close(agent->pieces);
	tally_keys_close(agent->keys);
	tally_rulesets_close(agent->rulesets);
	tally_ledger_close(agent->ledger);
	tally_clock_close(agent->clock);
	tally_load_close(agent->load);
	agent->pieces = NULL;
	agent->keys = NULL;
	agent->rulesets = NULL;
	agent->ledger = NULL;
	agent->clock = NULL;
	agent->load = NULL;
}

static int explain_missing(const struct tally_probe_item *item)
{
	tally_log_error("missing", "%s=%s needed_to=%s error=%s",
			item->is_capability ? "capability" : "feature", item->name, item->text,
			strerror(-item->error));
	return item->is_capability ? TALLY_EXIT_CAPABILITY : TALLY_EXIT_KERNEL;
}

/* What others use of this machine, and may give back. */
static bool is_shortage(int err)
{
	return err == -ENOMEM || err == -EMFILE || err == -ENFILE || err == -EAGAIN ||
	       err == -EINTR || err == -ENOBUFS || err == -ENOSPC || err == -EDQUOT;
}

int tally_agent_kernel_explain(const struct tally_agent *agent, int err, int otherwise)
{
	const struct tally_probe_item *item;
	struct tally_probe *probe;
	int code = is_shortage(err) ? TALLY_EXIT_UNAVAILABLE : otherwise;

	tally_log_error("meter_not_loaded", "pin_dir=%s error=%s", agent->config->agent.pin_dir,
			strerror(-err));
	if (err == -EBUSY || err == -EPROTO || err == -ENOENT) {
		tally_log_error("pins", "reason=%s",
				err == -EBUSY	 ? "another agent uses them: stop it first"
				: err == -EPROTO ? "they are of another version of tallyd: run "
						   "tallyd stop --detach with the version before, "
						   "then start this one"
						 : "nothing is pinned there");
		return TALLY_EXIT_UNAVAILABLE;
	}
	if (err == -EUCLEAN) {
		tally_log_error("pins", "reason=%s",
				"some were removed under the meter; "
				"tallyd stop --detach removes the rest");
		return TALLY_EXIT_UNAVAILABLE;
	}
	probe = is_shortage(err) ? NULL : calloc(1, sizeof(*probe));
	if (!probe)
		return code;
	tally_probe_run(probe);
	item = tally_probe_missing(probe, tier_of(agent->config));
	if (item)
		code = explain_missing(item);
	free(probe);
	return code;
}

/* What the loop still does: make maps, pin them, attach to cgroups; look at processes of others. The
 * verifier alone wants CAP_PERFMON, and has seen the programs. */
static uint64_t capabilities_for(const struct tally_config *config)
{
	uint64_t mask = TALLY_CAPABILITY(CAP_BPF) | TALLY_CAPABILITY(CAP_NET_ADMIN);

	for (size_t i = 0; i < config->n_services; i++)
		if (config->services[i].match.executable)
			mask |= TALLY_CAPABILITY(CAP_SYS_PTRACE) |
				TALLY_CAPABILITY(CAP_DAC_READ_SEARCH);
	return mask;
}

int tally_agent_kernel_drop(const struct tally_agent *agent)
{
	return tally_privileges_keep(capabilities_for(agent->config));
}

int tally_agent_kernel_confine(void)
{
	char have[128];
	int err = tally_privileges_confine();

	tally_privileges_text(tally_privileges_have(), have, sizeof(have));
	tally_log_at(err ? TALLY_LOG_WARNING : TALLY_LOG_INFO, "privileges",
		     "capabilities=%s system_calls=%s", have, err ? strerror(-err) : "filtered");
	return err == -ENOSYS ? 0 : err;
}

int tally_agent_kernel_enough(const struct tally_config *config)
{
	uint64_t have = tally_privileges_have();
	uint64_t missing =
		capabilities_for(config) & ~(have | TALLY_CAPABILITY(CAP_DAC_READ_SEARCH));
	char text[128];

	if (!missing)
		return 0;
	tally_privileges_text(missing, text, sizeof(text));
	tally_log_error("reload", "reason=%s missing=%s",
			"capabilities were given up at the start; restart the agent", text);
	return -EPERM;
}
