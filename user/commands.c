/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"

const struct tally_cli_command *const tally_cli_commands[] = {
	&tally_cmd_run,		&tally_cmd_check,
	&tally_cmd_probe,	&tally_cmd_services,
	&tally_cmd_status,	&tally_cmd_top,
	&tally_cmd_connections, &tally_cmd_keys,
	&tally_cmd_audit,	&tally_cmd_replay,
	&tally_cmd_spool,	&tally_cmd_stop,
	&tally_cmd_version,	NULL,
};
