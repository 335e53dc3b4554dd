/* SPDX-License-Identifier: Apache-2.0 */
#include "ask.h"

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

static void table(json_t *answer)
{
	json_t *row, *rows = json_object_get(answer, "rows");
	char ports[64], in[16], out[16];
	size_t i;

	printf("%-16s %-12s %7s %7s %9s %7s %7s %6s\n", "SERVICE", "PORTS", "CGROUPS", "CONNS",
	       "RESPONSES", "IN", "OUT", "ROUTES");
	json_array_foreach(rows, i, row) {
		json_t *cgroups = json_object_get(row, "cgroups");

		print_ports(json_object_get(row, "ports"), ports, sizeof(ports));
		printf("%-16s %-12s %7zu %7lld %9lld %7s %7s %6lld%s\n",
		       tally_ask_text(row, "service"), ports, json_array_size(cgroups),
		       tally_ask_int(row, "connections"), tally_ask_int(row, "responses"),
		       tally_ask_short(tally_ask_real(row, "bytes_in"), in),
		       tally_ask_short(tally_ask_real(row, "bytes_out"), out),
		       tally_ask_int(row, "routes"),
		       json_is_true(json_object_get(row, "attached")) ? "" : "  NOT ATTACHED");
	}
}

static int run(int argc, char **argv)
{
	return tally_ask_print("services", table);
}

static const struct tally_cli_option options[] = { TALLY_ASK_OPTIONS, {} };

const struct tally_cli_command tally_cmd_services = {
	.name = "services",
	.args = "",
	.summary = "the metered services, where they are attached, and their totals",
	.details = "Totals are since the agent's start. IN and OUT are bytes of the stream.",
	.options = options,
	.run = run,
};
