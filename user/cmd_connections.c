/* SPDX-License-Identifier: Apache-2.0 */
#include "ask.h"
#include "base/text.h"

#define PEER 27	    /* columns, for any IPv4 address; IPv6 may take more */
#define PEER_MAX 64 /* [address]:port */
#define CELL TALLY_TEXT_CELL(PEER_MAX)

/* As in a URL: an IPv6 address has colons of its own. */
static void peer_text(json_t *row, char out[PEER_MAX])
{
	const char *peer = tally_ask_text(row, "peer");
	bool is_v6 = strchr(peer, ':');

	(void)snprintf(out, PEER_MAX, is_v6 ? "[%.46s]:%lld" : "%.46s:%lld", peer,
		       tally_ask_int(row, "peer_port")); /* INET6_ADDRSTRLEN - 1, and 5 digits */
}

/* All addresses stand whole below each other. */
static size_t peer_width(json_t *rows)
{
	size_t width = PEER, i;
	char peer[PEER_MAX];
	json_t *row;

	json_array_foreach(rows, i, row) {
		peer_text(row, peer);
		width = TALLY_MAX(width, strlen(peer));
	}
	return width;
}

static void print_row(json_t *row, size_t width)
{
	const char *key = json_string_value(json_object_get(row, "api_key_id"));
	char peer[PEER_MAX], in[16], out[16], cells[3][CELL];

	peer_text(row, peer);
	printf("%s %s %s %8lld %5s %6s\n", tally_text_cell(peer, width, cells[0], CELL),
	       tally_text_cell(tally_ask_text(row, "service"), 14, cells[1], CELL),
	       tally_text_cell(key ? key : tally_ask_text(row, "attribution"), 18, cells[2], CELL),
	       tally_ask_int(row, "requests"),
	       tally_ask_short(tally_ask_real(row, "request_bytes"), in),
	       tally_ask_short(tally_ask_real(row, "response_bytes"), out));
}

static void table(json_t *answer)
{
	json_t *row, *rows = json_object_get(answer, "rows");
	size_t i, width = peer_width(rows);

	printf("%-*s %-14s %-18s %8s %5s %6s\n", (int)width, "PEER", "SERVICE", "KEY", "REQUESTS",
	       "IN", "OUT");
	json_array_foreach(rows, i, row)
		print_row(row, width);
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
