// SPDX-License-Identifier: Apache-2.0
#include "cli.h"

#include <stdarg.h>

#define WORDS_MAX 64

const char *const tally_cli_table_words[] = { "table", "json", NULL };

static int vfail(int code, const char *fmt, va_list ap) TALLY_PRINTF(2, 0);
static int vfail(int code, const char *fmt, va_list ap)
{
	(void)fflush(stdout); /* so that both streams keep their order on a terminal */
	fputs("tallyd: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	return code;
}

int tally_cli_fail(int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	code = vfail(code, fmt, ap);
	va_end(ap);
	return code;
}

int tally_cli_usage_error(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfail(TALLY_EXIT_USAGE, fmt, ap);
	va_end(ap);
	return TALLY_EXIT_USAGE;
}

int tally_cli_flush(void)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return TALLY_EXIT_OK;
	return tally_cli_fail(TALLY_EXIT_IO, "standard output: %s", strerror(errno));
}

/* Help ----------------------------------------------------------------------------------------- */

static void put_commands(const struct tally_cli_command *const *commands)
{
	for (; *commands; commands++)
		printf("  %-14s %s\n", (*commands)->name, (*commands)->summary);
}

static void put_option(const struct tally_cli_option *option)
{
	char left[64], letter[8] = "    ";

	if (option->letter)
		snprintf(letter, sizeof(letter), "-%c, ", option->letter);
	snprintf(left, sizeof(left), "%s--%s%s%s", letter, option->name, option->arg ? " " : "",
		 option->arg ? option->arg : "");
	printf("  %-28s %s", left, option->help);
	for (size_t i = 0; option->words && option->words[i]; i++)
		printf("%s%s", i ? ", " : ": ", option->words[i]);
	putchar('\n');
}

static int put_help(const struct tally_cli_command *command, const char *name)
{
	const struct tally_cli_option *option = command->options;

	if (command->commands) {
		printf("usage: %s COMMAND [OPTIONS]\n\n%s\n\nCommands:\n", name, command->summary);
		put_commands(command->commands);
		printf("\n`%s COMMAND --help` tells more.\n", name);
		return tally_cli_flush();
	}
	printf("usage: %s [OPTIONS]%s%s\n\n%s\n", name, *command->args ? " " : "", command->args,
	       command->summary);
	if (command->details)
		printf("\n%s\n", command->details);
	puts("\nOptions:");
	for (; option && option->name; option++)
		put_option(option);
	printf("  %-28s %s\n", "-h, --help", "this text");
	if (command->more_help)
		command->more_help();
	return tally_cli_flush();
}

/* Options -------------------------------------------------------------------------------------- */

struct parse {
	const struct tally_cli_command *command;
	const char *name; /* "tallyd keys id" */
	int argc;	  /* still to be read */
	char **argv;
	int n_args; /* positional ones, moved to the front of args */
	char **args;
	bool help, only_args;
};

static int unknown_option(const struct parse *parse, const char *name)
{
	const struct tally_cli_option *option = parse->command->options;
	const char *words[WORDS_MAX] = { "help", NULL }, *near;

	for (size_t i = 1; option && option->name && i + 1 < WORDS_MAX; i++, option++)
		words[i] = option->name;
	near = tally_util_nearest(name, words);
	return tally_cli_usage_error("unknown option --%s%s%s%s; see `%s --help`", name,
				     near ? ", did you mean --" : "", near ? near : "",
				     near ? "?" : "", parse->name);
}

static int set_word(const struct tally_cli_option *option, const char *value)
{
	char words[128] = "";
	size_t n = 0;

	for (size_t i = 0; option->words[i]; i++) {
		if (strcmp(option->words[i], value) != 0)
			continue;
		*(const char **)option->value = option->words[i];
		return 0;
	}
	for (size_t i = 0; option->words[i]; i++)
		n += (size_t)snprintf(words + n, n < sizeof(words) ? sizeof(words) - n : 0, "%s%s",
				      i ? " or " : "", option->words[i]);
	return tally_cli_usage_error("--%s cannot be \"%s\", but %s", option->name, value, words);
}

static int add_item(const struct tally_cli_option *option, const char *value)
{
	struct tally_cli_list *list = option->value;

	if (list->n == TALLY_CLI_LIST_MAX)
		return tally_cli_usage_error("--%s was given more than %d times", option->name,
					     TALLY_CLI_LIST_MAX);
	list->items[list->n++] = value;
	return 0;
}

static int set_value(const struct tally_cli_option *option, const char *value)
{
	switch (option->type) {
	case TALLY_CLI_FLAG:
		*(bool *)option->value = true;
		return 0;
	case TALLY_CLI_TEXT:
		*(const char **)option->value = value;
		return 0;
	case TALLY_CLI_WORD:
		return set_word(option, value);
	case TALLY_CLI_LIST:
		return add_item(option, value);
	case TALLY_CLI_COUNT:
		if (tally_util_parse_u64(value, UINT64_MAX, option->value) < 0)
			return tally_cli_usage_error("--%s must be a whole number", option->name);
		return 0;
	}
	return TALLY_EXIT_BUG;
}

/* value: what stood behind '=' or the letter, or NULL: then it is the next word. */
static int apply(struct parse *parse, const struct tally_cli_option *option, const char *value)
{
	if (option->type == TALLY_CLI_FLAG) {
		if (value)
			return tally_cli_usage_error("--%s takes no value", option->name);
		return set_value(option, NULL);
	}
	if (!value) {
		if (parse->argc == 0)
			return tally_cli_usage_error("--%s needs a value: %s", option->name,
						     option->arg ? option->arg : "VALUE");
		value = *parse->argv++;
		parse->argc--;
	}
	return set_value(option, value);
}

static int read_long(struct parse *parse, const char *word)
{
	const struct tally_cli_option *option = parse->command->options;
	const char *equals = strchr(word, '=');
	size_t n = equals ? (size_t)(equals - word) : strlen(word);
	_cleanup_free_ char *name = strndup(word, n);

	if (!name)
		return TALLY_EXIT_BUG;
	if (strcmp(name, "help") == 0) {
		parse->help = true;
		return 0;
	}
	for (; option && option->name; option++)
		if (strcmp(option->name, name) == 0)
			return apply(parse, option, equals ? equals + 1 : NULL);
	return unknown_option(parse, name);
}

static int read_short(struct parse *parse, const char *word)
{
	const struct tally_cli_option *option = parse->command->options;

	if (strcmp(word, "h") == 0) {
		parse->help = true;
		return 0;
	}
	for (; option && option->name; option++)
		if (option->letter && option->letter == word[0])
			return apply(parse, option, word[1] ? word + 1 : NULL);
	return tally_cli_usage_error("unknown option -%c; see `%s --help`", word[0], parse->name);
}

static int read_word(struct parse *parse)
{
	char *word = *parse->argv++;

	parse->argc--;
	if (parse->only_args || word[0] != '-' || !word[1]) {
		parse->args[parse->n_args++] = word;
		return 0;
	}
	if (strcmp(word, "--") == 0) {
		parse->only_args = true;
		return 0;
	}
	return word[1] == '-' ? read_long(parse, word + 2) : read_short(parse, word + 1);
}

static int run_leaf(const struct tally_cli_command *command, const char *name, int argc,
		    char **argv)
{
	struct parse parse = {
		.command = command, .name = name, .argc = argc, .argv = argv, .args = argv
	};

	while (parse.argc > 0) {
		int code = read_word(&parse);

		if (code != 0)
			return code;
	}
	if (parse.help)
		return put_help(command, name);
	if (parse.n_args < command->min_args)
		return tally_cli_usage_error("too few arguments; usage: %s [OPTIONS] %s", name,
					     command->args);
	if (command->max_args >= 0 && parse.n_args > command->max_args)
		return tally_cli_usage_error("unexpected argument \"%s\"; see `%s --help`",
					     parse.args[command->max_args], name);
	return command->run(parse.n_args, parse.args);
}

/* Commands ------------------------------------------------------------------------------------- */

static bool is_help(const char *word)
{
	return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0;
}

static int unknown_command(const struct tally_cli_command *const *commands, const char *name,
			   const char *word)
{
	const char *words[WORDS_MAX] = { NULL }, *near;

	for (size_t i = 0; commands[i] && i + 1 < WORDS_MAX; i++)
		words[i] = commands[i]->name;
	near = tally_util_nearest(word, words);
	return tally_cli_usage_error("unknown command \"%s\"%s%s%s; see `%s --help`", word,
				     near ? ", did you mean \"" : "", near ? near : "",
				     near ? "\"?" : "", name);
}

static int dispatch(const struct tally_cli_command *group, const char *name, int argc, char **argv)
{
	if (argc < 1) {
		put_help(group, name);
		return TALLY_EXIT_USAGE;
	}
	if (is_help(argv[0]) && argc == 1)
		return put_help(group, name);
	if (is_help(argv[0])) { /* tallyd help COMMAND */
		static char help[] = "--help";

		argv[0] = argv[1];
		argv[1] = help;
		argc = 2;
	}
	for (size_t i = 0; group->commands[i]; i++) {
		const struct tally_cli_command *command = group->commands[i];
		_cleanup_free_ char *below = NULL;

		if (strcmp(command->name, argv[0]) != 0)
			continue;
		if (asprintf(&below, "%s %s", name, command->name) < 0)
			return TALLY_EXIT_BUG;
		return command->commands ? dispatch(command, below, argc - 1, argv + 1)
					 : run_leaf(command, below, argc - 1, argv + 1);
	}
	return unknown_command(group->commands, name, argv[0]);
}

int tally_cli_main(const struct tally_cli_command *const *commands, int argc, char **argv)
{
	static char version[] = "version";
	const struct tally_cli_command program = {
		.name = "tallyd",
		.args = "",
		.summary =
			"Meters APIs from the kernel: one exact usage record per window, customer, key, route and status.",
		.commands = commands,
	};

	if (argc > 1 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0))
		argv[1] = version;
	return dispatch(&program, "tallyd", argc - 1, argv + 1);
}
