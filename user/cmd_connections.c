/* SPDX-License-Identifier: Apache-2.0 */
#include "ask.h"

static void table(json_t *answer)
{
	json_t *row, *rows = json_object_get(answer, "rows");
	char peer[64], in[16], out[16];
	size_t i;

	printf("%-27s %-14s %-18s %8s %5s %6s\n", "PEER", "SERVICE", "KEY", "REQUESTS", "IN",
	       "OUT");
	json_array_foreach(rows, i, row) {
		const char *key = json_string_value(json_object_get(row, "api_key_id"));

		(void)snprintf(peer, sizeof(peer), "%s:%lld", tally_ask_text(row, "peer"),
			       tally_ask_int(row, "peer_port"));
		printf("%-27s %-14.14s %-18.18s %8lld %5s %6s\n", peer,
		       tally_ask_text(row, "service"),
		       key ? key : tally_ask_text(row, "attribution"),
		       tally_ask_int(row, "requests"),
		       tally_ask_short(tally_ask_real(row, "request_bytes"), in),
		       tally_ask_short(tally_ask_real(row, "response_bytes"), out));
	}
	printf("%zu of %lld connections of the last %.0f s\n", json_array_size(rows),
	       tally_ask_int(answer, "rows_total"), tally_ask_real(answer, "seconds"));
}

static int run(int argc, char **argv)
{
	return tally_ask_print("connections", table);
}

static const struct tally_cli_option options[] = { TALLY_ASK_OPTIONS, {} };

const struct tally_cli_command tally_cmd_connections = {
	.name = "connections",
	.args = "",
	.summary = "connections that were active in this window or the last, and their keys",
	.details = "A connection appears when it has booked something. KEY is the id of the key it "
		   "used, never the key.",
	.options = options,
	.run = run,
};
