/* SPDX-License-Identifier: Apache-2.0 */
#include "agent.h"
#include "base/config.h"
#include "cli.h"

static const char *config_path = TALLY_CONFIG_PATH;
static bool detach;

static int run(int argc, char **argv)
{
	if (!detach)
		return tally_cli_usage_error("stop wants --detach; the agent itself is stopped by "
					     "SIGTERM or its service manager");
	return tally_agent_detach(config_path);
}

static const struct tally_cli_option options[] = {
	{ "detach", 0, TALLY_CLI_FLAG, &detach, NULL,
	  "take the programs out of the kernel, and ship what they counted last", NULL },
	{ "config", 'c', TALLY_CLI_TEXT, &config_path, "FILE",
	  "configuration (default: " TALLY_CONFIG_PATH ")", NULL },
	{},
};

const struct tally_cli_command tally_cmd_stop = {
	.name = "stop",
	.args = "",
	.summary = "end the metering in the kernel (the agent must not run)",
	.details =
		"The programs count on when the agent ends, is killed or is upgraded. This is "
		"the only way to\nunhook them. What was counted and not shipped yet is sealed, "
		"and shipped if the sinks answer in time.\nMistakes in the configuration, or secrets "
		"that only the unit has (${cred:NAME}), do not keep the programs:\nwhat was not "
		"shipped then waits in the spool for the next start of the agent.",
	.options = options,
	.run = run,
};
