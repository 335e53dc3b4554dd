/* SPDX-License-Identifier: Apache-2.0 */
#include "agent.h"
#include "base/config.h"
#include "cli.h"

static const char *config_path = TALLY_CONFIG_PATH;

static int run(int argc, char **argv)
{
	return tally_agent_run(config_path);
}

static const struct tally_cli_option options[] = {
	{ "config", 'c', TALLY_CLI_TEXT, &config_path, "FILE",
	  "configuration (default: " TALLY_CONFIG_PATH ")", NULL },
	{},
};

const struct tally_cli_command tally_cmd_run = {
	.name = "run",
	.args = "",
	.summary = "meter the configured services until SIGTERM",
	.details = "SIGHUP, or a change of the file, reloads the configuration; an invalid one is "
		   "logged and changes nothing.\nSIGTERM closes, seals and ships the open window. "
		   "The kernel goes on counting for the next start;\n`tallyd stop --detach` ends "
		   "that.",
	.options = options,
	.run = run,
};
