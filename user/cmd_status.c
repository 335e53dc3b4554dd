/* SPDX-License-Identifier: Apache-2.0 */
#include "ask.h"

static void print_pods(json_t *kubernetes)
{
	if (json_is_object(kubernetes))
		printf("pods      %lld metered of %lld that ask for it; the API server %s\n",
		       tally_ask_int(kubernetes, "metered"), tally_ask_int(kubernetes, "pods"),
		       json_is_true(json_object_get(kubernetes, "watching")) ? "tells of them"
									     : "IS NOT HEARD");
}

static void print_sinks(json_t *sinks)
{
	json_t *sink;
	size_t i;

	json_array_foreach(sinks, i, sink)
		printf("sink      %s: %s, batch %lld, %lld failures\n",
		       tally_ask_text(sink, "name"),
		       json_is_true(json_object_get(sink, "connected")) ? "connected"
		       : tally_ask_int(sink, "failures")		? "no answer"
									: "not asked yet",
		       tally_ask_int(sink, "batch"), tally_ask_int(sink, "failures"));
}

static void print_warnings(json_t *warnings)
{
	json_t *warning;
	size_t i;

	json_array_foreach(warnings, i, warning)
		printf("%-9s %s\n", tally_ask_text(warning, "level"),
		       tally_ask_text(warning, "text"));
	if (!json_array_size(warnings))
		printf("state     good\n");
}

static void table(json_t *answer)
{
	json_t *kernel = json_object_get(answer, "kernel");
	json_t *spool = json_object_get(answer, "spool");

	printf("agent     %s, incarnation %lld, tallyd %s, pid %lld, up %lld s\n",
	       tally_ask_text(answer, "agent"), tally_ask_int(answer, "incarnation"),
	       tally_ask_text(answer, "version"), tally_ask_int(answer, "pid"),
	       tally_ask_int(answer, "uptime_s"));
	printf("config    %s, %s\n", tally_ask_text(answer, "config"),
	       json_is_true(json_object_get(answer, "config_ok"))
		       ? "in force"
		       : "REFUSED, the one before is in force");
	printf("metering  %lld services at %lld cgroups (%lld failed), rules %lld\n",
	       tally_ask_int(answer, "services"), tally_ask_int(answer, "cgroups_attached"),
	       tally_ask_int(answer, "cgroups_failed"),
	       tally_ask_int(answer, "ruleset_generation"));
	print_pods(json_object_get(answer, "kubernetes"));
	printf("kernel    epoch %lld, %lld frozen, %lld keys of %lld, %lld rows in the last window\n",
	       tally_ask_int(kernel, "epoch"), tally_ask_int(kernel, "frozen"),
	       tally_ask_int(kernel, "keys"), tally_ask_int(kernel, "keys_capacity"),
	       tally_ask_int(kernel, "rows_last_window"));
	printf("books     %lld windows closed, %lld exchanges held, imbalance %lld\n",
	       tally_ask_int(answer, "windows"), tally_ask_int(answer, "held"),
	       tally_ask_int(answer, "imbalance"));
	printf("spool     %lld records, %lld bytes; %lld sealed and %lld acknowledged since start%s\n",
	       tally_ask_int(spool, "records"), tally_ask_int(spool, "bytes"),
	       tally_ask_int(spool, "records_sealed"), tally_ask_int(spool, "records_acked"),
	       json_is_true(json_object_get(spool, "sealing_fails")) ? ", SEALING FAILS" : "");
	print_sinks(json_object_get(answer, "sinks"));
	print_warnings(json_object_get(answer, "warnings"));
}

static int run(int argc, char **argv)
{
	return tally_ask_print("status", table);
}

static const struct tally_cli_option options[] = { TALLY_ASK_OPTIONS, {} };

const struct tally_cli_command tally_cmd_status = {
	.name = "status",
	.args = "",
	.summary = "how the agent is: windows, spool, sinks",
	.options = options,
	.run = run,
};
