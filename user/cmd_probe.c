/* SPDX-License-Identifier: Apache-2.0 */
#include <jansson.h>

#include "cli.h"
#include "collect/probe.h"

static const char *format = "table";

static int exit_code(const struct tally_probe *probe)
{
	const struct tally_probe_item *missing = tally_probe_missing(probe, TALLY_TIER_PLAINTEXT);

	if (!missing)
		return TALLY_EXIT_OK;
	return missing->is_capability ? TALLY_EXIT_CAPABILITY : TALLY_EXIT_KERNEL;
}

/* All capabilities at once; of features the first, as others may follow from it. */
static void print_missing(const struct tally_probe *probe)
{
	const struct tally_probe_item *first = tally_probe_missing(probe, TALLY_TIER_PLAINTEXT);

	for (size_t i = 0; first && i < probe->n; i++) {
		const struct tally_probe_item *item = &probe->items[i];

		if (item == first ||
		    (first->is_capability && item->is_capability &&
		     item->verdict != TALLY_PROBE_YES && item->needed_for == TALLY_TIER_PLAINTEXT))
			printf("missing %s: %s\n", item->name, item->text);
	}
	if (first && first->is_capability)
		printf("root has all of them\n");
}

static void print_table(const struct tally_probe *probe)
{
	printf("%-20s %-8s %-10s %s\n", "WHAT", "HERE", "NEEDED FOR", "MEANING");
	for (size_t i = 0; i < probe->n; i++) {
		const struct tally_probe_item *item = &probe->items[i];
		const char *needed = item->needed_for == TALLY_TIER_NONE
					     ? "-"
					     : tally_probe_tier_name(item->needed_for);

		printf("%-20s %-8s %-10s %s", item->name, tally_probe_verdict_name(item->verdict),
		       needed, item->text);
		if (item->verdict != TALLY_PROBE_YES && !item->is_capability)
			printf(" (%s)", strerror(-item->error));
		printf("\n");
	}
	printf("\nkernel  %s\ncgroup2 %s\ntier    %s\n", probe->kernel,
	       *probe->cgroup_mount ? probe->cgroup_mount : "not mounted",
	       tally_probe_tier_name(probe->tier));
	print_missing(probe);
}

static json_t *item_json(const struct tally_probe_item *item)
{
	return json_pack("{s:s,s:s,s:s,s:s,s:b,s:i}", "name", item->name, "text", item->text,
			 "here", tally_probe_verdict_name(item->verdict), "needed_for",
			 item->needed_for ? tally_probe_tier_name(item->needed_for) : "nothing",
			 "capability", item->is_capability, "errno",
			 item->verdict == TALLY_PROBE_YES ? 0 : -item->error);
}

static int print_json(const struct tally_probe *probe)
{
	const struct tally_probe_item *missing = tally_probe_missing(probe, TALLY_TIER_PLAINTEXT);
	json_t *items = json_array();
	json_t *out;
	int err;

	for (size_t i = 0; i < probe->n; i++)
		json_array_append_new(items, item_json(&probe->items[i]));
	out = json_pack("{s:s,s:s,s:s,s:s?,s:o}", "tier", tally_probe_tier_name(probe->tier),
			"kernel", probe->kernel, "cgroup_mount", probe->cgroup_mount, "missing",
			missing ? missing->name : NULL, "items", items);
	if (!out)
		return TALLY_EXIT_BUG;
	err = json_dumpf(out, stdout, JSON_INDENT(1));
	printf("\n");
	json_decref(out);
	return err ? TALLY_EXIT_IO : TALLY_EXIT_OK;
}

static int run(int argc, char **argv)
{
	static struct tally_probe probe;
	int err = TALLY_EXIT_OK;

	tally_probe_run(&probe);
	if (!strcmp(format, "json"))
		err = print_json(&probe);
	else
		print_table(&probe);
	if (!err)
		err = tally_cli_flush();
	return err ? err : exit_code(&probe);
}

static const struct tally_cli_option options[] = {
	{ "output", 'o', TALLY_CLI_WORD, &format, "FORMAT", "how to print it",
	  tally_cli_table_words },
	{},
};

const struct tally_cli_command tally_cmd_probe = {
	.name = "probe",
	.args = "",
	.summary = "say what this kernel and these capabilities allow",
	.details = "Tries each feature; attaches nothing. Exit codes: 0 plaintext services can be "
		   "metered,\n71 the kernel lacks a feature, 77 a capability is missing.",
	.options = options,
	.run = run,
};
