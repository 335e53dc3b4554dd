/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"
#include "tally/ledger.h"

static int run(int argc, char **argv)
{
	printf("tallyd %s\n", TALLY_VERSION);
	printf("kernel layout %d\n", TALLY_ABI_VERSION);
	return tally_cli_flush();
}

const struct tally_cli_command tally_cmd_version = {
	.name = "version",
	.args = "",
	.summary = "print the version",
	.run = run,
};
