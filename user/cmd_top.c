/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 80 columns, and what a wider terminal has goes to the route:
 * KEY             CUSTOMER     SERVICE    ROUTE             REQ/S   2XX  ERR OUT/S
 */
#include <signal.h>
#include <sys/ioctl.h>

#include "ask.h"
#include "base/text.h"

#define ROUTE_MAX 120 /* columns */
#define CELL TALLY_TEXT_CELL(ROUTE_MAX)
#define INTERVAL_MAX 86400

static bool once;
static uint64_t interval_s = 2;
static volatile sig_atomic_t ended;

static void on_signal(int signal)
{
	ended = 1;
}

/* The route has what the others leave: 17 of 80 columns. */
static int route_width(void)
{
	struct winsize size;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) || size.ws_col <= 80)
		return 17;
	return TALLY_MIN(size.ws_col - 63, ROUTE_MAX);
}

static void print_row(json_t *row, double period, int width)
{
	json_t *classes = json_object_get(row, "status_classes");
	const char *key = json_string_value(json_object_get(row, "api_key_id"));
	char rate[16], good[16], bad[16], bytes[16], route[1200], texts[4][CELL];

	(void)snprintf(route, sizeof(route), "%s %s", tally_ask_text(row, "method"),
		       tally_ask_text(row, "route"));
	printf("%s %s %s %s %5s %5s %4s %5s\n",
	       tally_text_cell(key ? key : tally_ask_text(row, "attribution"), 15, texts[0], CELL),
	       tally_text_cell(tally_ask_text(row, "customer_id"), 12, texts[1], CELL),
	       tally_text_cell(tally_ask_text(row, "service"), 10, texts[2], CELL),
	       tally_text_cell(route, width, texts[3], CELL),
	       tally_ask_short(tally_ask_real(row, "requests_per_s"), rate),
	       tally_ask_short(tally_ask_real(classes, "2xx"), good),
	       tally_ask_short(tally_ask_real(classes, "4xx") + tally_ask_real(classes, "5xx"),
			       bad),
	       tally_ask_short(period > 0 ? tally_ask_real(row, "response_bytes") / period : 0,
			       bytes));
}

static void print_page(json_t *answer, size_t max_rows)
{
	json_t *row, *rows = json_object_get(answer, "rows");
	double period = tally_ask_real(answer, "seconds"), rate = 0;
	int width = route_width();
	char total[16];
	size_t i;

	json_array_foreach(rows, i, row)
		rate += tally_ask_real(row, "requests_per_s");
	printf("tallyd: %s requests/s over the last %.0f s, %lld rows, window %lld\n\n",
	       tally_ask_short(rate, total), period, tally_ask_int(answer, "rows_total"),
	       tally_ask_int(answer, "epoch"));
	printf("%-15s %-12s %-10s %-*s %5s %5s %4s %5s\n", "KEY", "CUSTOMER", "SERVICE", width,
	       "ROUTE", "REQ/S", "2XX", "ERR", "OUT/S");
	json_array_foreach(rows, i, row) {
		if (i == max_rows)
			break;
		print_row(row, period, width);
	}
}

static void table(json_t *answer)
{
	print_page(answer, SIZE_MAX);
}

static size_t terminal_rows(void)
{
	struct winsize size;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) || size.ws_row < 8)
		return 20;
	return size.ws_row - 4;
}

/* What knows no escapes gets one page below the other. */
static bool is_dumb(void)
{
	const char *term = getenv("TERM");

	return !term || !*term || !strcmp(term, "dumb");
}

/* The whole page in one go, from the top left; what is left of the old one is erased. */
static int show(void)
{
	json_t *answer;
	int code = tally_ask("top", &answer);

	if (code)
		return code;
	printf("%s", is_dumb() ? "" : "\033[H\033[J");
	print_page(answer, terminal_rows());
	json_decref(answer);
	return tally_cli_flush();
}

static int watch(void)
{
	struct sigaction action = { .sa_handler = on_signal };
	int code = TALLY_EXIT_OK;

	if (sigaction(SIGINT, &action, NULL) || sigaction(SIGTERM, &action, NULL))
		return tally_cli_fail(TALLY_EXIT_BUG, "signals: %s", strerror(errno));
	printf("%s", is_dumb() ? "" : "\033[?25l");
	while (!ended && !code) {
		code = show();
		if (!ended && !code)
			(void)sleep((unsigned int)interval_s); /* a signal ends it */
	}
	printf("%s\n", is_dumb() ? "" : "\033[?25h");
	return code ? code : tally_cli_flush();
}

static int run(int argc, char **argv)
{
	if (!interval_s || interval_s > INTERVAL_MAX)
		return tally_cli_usage_error("--interval must be 1 to %d seconds", INTERVAL_MAX);
	if (once || !strcmp(tally_ask_format, "json") || !isatty(STDOUT_FILENO))
		return tally_ask_print("top", table);
	return watch();
}

static const struct tally_cli_option options[] = {
	{ "once", 0, TALLY_CLI_FLAG, &once, NULL, "print one page and end", NULL },
	{ "interval", 0, TALLY_CLI_COUNT, &interval_s, "SECONDS",
	  "between pages, at least 1 (default: 2)", NULL },
	TALLY_ASK_OPTIONS,
	{},
};

const struct tally_cli_command tally_cmd_top = {
	.name = "top",
	.args = "",
	.summary = "live rates per key, customer, service and route",
	.details = "Rates are over the last closed window and the open one. 2XX and ERR (4xx, 5xx) "
		   "count responses\nin that time. KEY is the id of a key, or why there is none. "
		   "Into a file or pipe it prints one page.",
	.options = options,
	.run = run,
};
