// SPDX-License-Identifier: Apache-2.0
/* The command line: options in every form, suggestions, help, exit codes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cli.h"

static bool flag;
static const char *text, *word;
static uint64_t count;
static struct tally_cli_list list;
static int ran_with;
static char first_arg[32];

static const struct tally_cli_option options[] = {
	{ "flag", 'f', TALLY_CLI_FLAG, &flag, NULL, "a flag", NULL },
	{ "text", 't', TALLY_CLI_TEXT, &text, "TEXT", "a text", NULL },
	{ "count", 0, TALLY_CLI_COUNT, &count, "N", "a number", NULL },
	{ "output", 'o', TALLY_CLI_WORD, &word, "FORMAT", "format", tally_cli_table_words },
	{ "item", 'i', TALLY_CLI_LIST, &list, "ITEM", "items", NULL },
	{ NULL },
};

static int run(int argc, char **argv)
{
	ran_with = argc;
	snprintf(first_arg, sizeof(first_arg), "%s", argc ? argv[0] : "");
	return 7;
}

static const struct tally_cli_command act = {
	.name = "activate",
	.args = "[ARG]",
	.summary = "Act.",
	.options = options,
	.max_args = 1,
	.run = run,
};
static const struct tally_cli_command strict = {
	.name = "strict",
	.args = "A B",
	.summary = "Two.",
	.min_args = 2,
	.max_args = 2,
	.run = run,
};
static const struct tally_cli_command *const below[] = { &strict, NULL };
static const struct tally_cli_command group = {
	.name = "group",
	.args = "",
	.summary = "Group.",
	.commands = below,
};
static const struct tally_cli_command *const commands[] = { &act, &group, NULL };

/* Runs a line; *ret_out is what went to stdout and stderr. */
static int call(const char *line, char *out, size_t bytes)
{
	static char copy[256]; /* options point into it */
	char *argv[16], *rest = copy, *part;
	int argc = 0, code, saved[2] = { dup(1), dup(2) }, pipes[2];
	ssize_t n;

	flag = false;
	text = word = NULL;
	count = 0;
	list.n = 0;
	ran_with = -1;
	snprintf(copy, sizeof(copy), "tallyd%s%s", *line ? " " : "", line);
	while ((part = strsep(&rest, " ")))
		argv[argc++] = part;
	argv[argc] = NULL;
	assert_int_equal(pipe(pipes), 0);
	fflush(stdout);
	dup2(pipes[1], 1);
	dup2(pipes[1], 2);
	code = tally_cli_main(commands, argc, argv);
	fflush(stdout);
	dup2(saved[0], 1);
	dup2(saved[1], 2);
	close(pipes[1]);
	n = read(pipes[0], out, bytes - 1);
	out[n > 0 ? n : 0] = '\0';
	close(pipes[0]);
	close(saved[0]);
	close(saved[1]);
	return code;
}

static void test_options(void **state)
{
	char out[4096];

	assert_int_equal(call("activate -f --text=x --count 5 -ojson arg", out, sizeof(out)), 7);
	assert_true(flag);
	assert_string_equal(text, "x");
	assert_int_equal(count, 5);
	assert_string_equal(word, "json");
	assert_int_equal(ran_with, 1);
	assert_string_equal(first_arg, "arg");
	assert_int_equal(call("activate -t y -- --flag", out, sizeof(out)), 7);
	assert_string_equal(text, "y");
	assert_false(flag);
	assert_string_equal(first_arg, "--flag");
	assert_int_equal(call("activate -", out, sizeof(out)), 7);
	assert_string_equal(first_arg, "-");
	assert_int_equal(call("group strict a b", out, sizeof(out)), 7);
	assert_int_equal(call("activate -i a --item=b -ic", out, sizeof(out)), 7);
	assert_int_equal(list.n, 3);
	assert_string_equal(list.items[0], "a");
	assert_string_equal(list.items[2], "c");
}

static const struct {
	const char *line, *says;
} errors[] = {
	{ "activat",
	  "tallyd: unknown command \"activat\", did you mean \"activate\"?; see `tallyd --help`\n" },
	{ "zzz", "tallyd: unknown command \"zzz\"; see `tallyd --help`\n" },
	{ "activate --txt x",
	  "tallyd: unknown option --txt, did you mean --text?; see `tallyd activate --help`\n" },
	{ "activate -x", "tallyd: unknown option -x; see `tallyd activate --help`\n" },
	{ "activate --text", "tallyd: --text needs a value: TEXT\n" },
	{ "activate --flag=1", "tallyd: --flag takes no value\n" },
	{ "activate --count x", "tallyd: --count must be a whole number\n" },
	{ "activate -o jsn", "tallyd: --output cannot be \"jsn\", but table or json\n" },
	{ "activate a b", "tallyd: unexpected argument \"b\"; see `tallyd activate --help`\n" },
	{ "group strict a",
	  "tallyd: too few arguments; usage: tallyd group strict [OPTIONS] A B\n" },
	{ "group nope", "tallyd: unknown command \"nope\"; see `tallyd group --help`\n" },
};

static void test_errors(void **state)
{
	char out[4096];

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(errors); i++) {
		assert_int_equal(call(errors[i].line, out, sizeof(out)), TALLY_EXIT_USAGE);
		assert_string_equal(out, errors[i].says);
		assert_int_equal(ran_with, -1);
	}
}

static void test_help(void **state)
{
	static const char *const lines[] = { "activate --help", "activate -h", "help activate" };
	char out[4096];

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(lines); i++) {
		assert_int_equal(call(lines[i], out, sizeof(out)), 0);
		assert_non_null(strstr(out, "usage: tallyd activate [OPTIONS] [ARG]\n"));
		assert_non_null(strstr(out, "-o, --output FORMAT"));
		assert_non_null(strstr(out, "format: table, json\n"));
		assert_int_equal(ran_with, -1);
	}
	assert_int_equal(call("--help", out, sizeof(out)), 0);
	assert_non_null(strstr(out, "  activate       Act.\n"));
	assert_int_equal(call("group --help", out, sizeof(out)), 0);
	assert_non_null(strstr(out, "  strict         Two.\n"));
	assert_int_equal(call("", out, sizeof(out)), TALLY_EXIT_USAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_options),
		cmocka_unit_test(test_errors),
		cmocka_unit_test(test_help),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
