/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"

int main(int argc, char **argv)
{
	return tally_cli_main(tally_cli_commands, argc, argv);
}
