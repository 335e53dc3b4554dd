/* SPDX-License-Identifier: Apache-2.0 */
#include "ask.h"
#include "base/text.h"

#define CGROUPS_SHOWN 4
#define CELL TALLY_TEXT_CELL(22)

static void print_ports(json_t *ports, char *out, size_t size)
{
	size_t used = 0, i;
	json_t *port;

	if (json_is_string(ports)) {
		(void)snprintf(out, size, "%s", json_string_value(ports));
		return;
	}
	out[0] = 0;
	json_array_foreach(ports, i, port) {
		int n = snprintf(out + used, size - used, "%s%lld", i ? "," : "",
				 (long long)json_integer_value(port));

		if (n < 0 || (size_t)n >= size - used)
			return;
		used += n;
	}
}

static const char *state_of(const json_t *row)
{
	if (json_is_true(json_object_get(row, "attached")))
		return "metered";
	return json_is_true(json_object_get(row, "partly")) ? "PARTLY" : "NOT METERED";
}

/* Below its name: by what it is matched, where it is attached; or why it is not. */
static void print_where(json_t *row)
{
	json_t *cgroups = json_object_get(row, "cgroups"), *hooks = json_object_get(row, "hooks");
	json_t *hook;
	size_t i;

	if (!json_is_true(json_object_get(row, "attached")))
		printf("  not metered: %s\n", tally_ask_text(row, "why_not"));
	if (!strcmp(state_of(row), "NOT METERED")) {
		printf("  wanted by %s\n", tally_ask_text(row, "matched_by"));
		return;
	}
	printf("  by %s; hooks", tally_ask_text(row, "matched_by"));
	json_array_foreach(hooks, i, hook)
		printf("%s %s", i ? "," : "", json_string_value(hook));
	printf("%s\n", json_array_size(hooks) ? "" : " none");
	if (tally_ask_int(row, "bytes_mptcp"))
		printf("  %lld bytes of MPTCP connections, which are not metered: `tallyd status`\n",
		       tally_ask_int(row, "bytes_mptcp"));
	json_array_foreach(json_object_get(row, "called_by"), i, hook)
		printf("  called by service %s on this host: such requests are counted in both\n",
		       json_string_value(hook));
	for (i = 0; i < json_array_size(cgroups) && i < CGROUPS_SHOWN; i++)
		printf("  %s\n", json_string_value(json_array_get(cgroups, i)));
	if (i < json_array_size(cgroups))
		printf("  and %zu more cgroups\n", json_array_size(cgroups) - i);
}

static void table(json_t *answer)
{
	json_t *row, *rows = json_object_get(answer, "rows");
	char ports[64], cells[2][CELL], responses[16], in[16], out[16];
	size_t i;

	printf("%-22s %-12s %-17s %7s %6s %5s %5s\n", "SERVICE", "STATE", "PORTS", "CONNS", "RESP",
	       "IN", "OUT");
	json_array_foreach(rows, i, row) {
		print_ports(json_object_get(row, "ports"), ports, sizeof(ports));
		printf("%s %-12s %s %7lld %6s %5s %5s\n",
		       tally_text_cell(tally_ask_text(row, "service"), 22, cells[0], CELL),
		       state_of(row), tally_text_cell(ports, 17, cells[1], CELL),
		       tally_ask_int(row, "connections"),
		       tally_ask_short(tally_ask_real(row, "responses"), responses),
		       tally_ask_short(tally_ask_real(row, "bytes_in"), in),
		       tally_ask_short(tally_ask_real(row, "bytes_out"), out));
		print_where(row);
	}
}

/* Below it: why not. */
static void print_pod(json_t *pod)
{
	bool gone = json_is_true(json_object_get(pod, "gone"));
	const char *why = json_string_value(json_object_get(pod, "why_not"));
	json_t *services = json_object_get(pod, "services");
	const char *first = json_string_value(json_array_get(services, 0));
	char name[TALLY_TEXT_LINE], cells[2][TALLY_TEXT_CELL(40)];

	(void)snprintf(name, sizeof(name), "%s/%s", tally_ask_text(pod, "namespace"),
		       tally_ask_text(pod, "name"));
	printf("%s %-12s %s\n", tally_text_cell(name, 40, cells[0], sizeof(cells[0])),
	       gone  ? "gone"
	       : why ? "NOT METERED"
		     : "metered",
	       first ? tally_text_cell(first, 26, cells[1], sizeof(cells[1])) : "-");
	if (why)
		printf("  %s: %s\n", tally_ask_text(pod, "state"), why);
	if (json_array_size(services) > 1)
		printf("  and %zu more services\n", json_array_size(services) - 1);
	if (json_is_true(json_object_get(pod, "tls_not_metered")))
		printf("  tallyd.io/tls: what it answers over TLS is not metered\n");
}

/* Those that are not metered first. */
static void print_pods(json_t *pods)
{
	json_t *pod;
	size_t i;

	if (!json_array_size(pods))
		return;
	printf("\n%-40s %-12s %s\n", "POD", "STATE", "SERVICE");
	json_array_foreach(pods, i, pod)
		if (json_is_string(json_object_get(pod, "why_not")))
			print_pod(pod);
	json_array_foreach(pods, i, pod)
		if (!json_is_string(json_object_get(pod, "why_not")))
			print_pod(pod);
}

static void print_all(json_t *answer)
{
	table(answer);
	print_pods(json_object_get(answer, "pods"));
}

static int run(int argc, char **argv)
{
	return tally_ask_print("services", print_all);
}

static const struct tally_cli_option options[] = { TALLY_ASK_OPTIONS, {} };

const struct tally_cli_command tally_cmd_services = {
	.name = "services",
	.args = "",
	.summary = "the metered services, where they are attached, and their totals",
	.details =
		"For each: by what it is matched, its cgroups, the hooks attached there, what was counted since\n"
		"the agent's start (responses and bytes of the stream), or why it is not metered.\n"
		"With the section `kubernetes`, the pods of this node that ask for it, too: to which service each\n"
		"belongs, or why it is not metered; those first.",
	.options = options,
	.run = run,
};
