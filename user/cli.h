/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line: a table of commands, each with a table of options that makes its parser and its
 * --help. A command lives in cmd_<name>.c and exports one struct tally_cli_command.
 *
 *	tallyd COMMAND [SUBCOMMAND] [OPTIONS] [ARGUMENTS]
 *
 * Long options only take `--name value` or `--name=value`; short ones `-o value`; `--` ends them.
 * Unknown words get the nearest known one and exit 64. Usage errors go to stderr, help to stdout.
 */
#ifndef TALLY_CLI_H
#define TALLY_CLI_H

#include <stdint.h>

#include "base/exit.h"
#include "base/util.h"

enum tally_cli_type {
	TALLY_CLI_FLAG,	 /* bool */
	TALLY_CLI_TEXT,	 /* const char * */
	TALLY_CLI_COUNT, /* uint64_t */
	TALLY_CLI_WORD,	 /* const char *, one of words */
	TALLY_CLI_LIST,	 /* struct tally_cli_list: may be given again and again */
};

#define TALLY_CLI_LIST_MAX 64 /* one more is a usage error */

struct tally_cli_list {
	const char *items[TALLY_CLI_LIST_MAX];
	size_t n;
};

struct tally_cli_option {
	const char *name; /* without dashes; NULL ends the table */
	char letter;	  /* 0: none */
	enum tally_cli_type type;
	void *value;	 /* a static variable of the command */
	const char *arg; /* FILE, SECONDS: for the help */
	const char *help;
	const char *const *words; /* WORD: NULL-terminated */
};

struct tally_cli_command {
	const char *name;
	const char *args;			/* of the usage line: "[FILE]", "" */
	const char *summary;			/* one line */
	const char *details;			/* more lines for its --help, or NULL */
	const struct tally_cli_option *options; /* NULL: only --help */
	int min_args, max_args;			/* positional; max -1: any */
	/* argv[0..argc) are the positional arguments. Returns the exit code. */
	int (*run)(int argc, char **argv);
	const struct tally_cli_command *const
		*commands;	 /* subcommands (NULL-terminated), or NULL */
	void (*more_help)(void); /* printed at the end of --help, or NULL */
};

/* The whole program: finds the command, parses, runs. The exit code. */
int tally_cli_main(const struct tally_cli_command *const *commands, int argc, char **argv);

/* "tallyd: ..." to stderr; returns TALLY_EXIT_USAGE. */
int tally_cli_usage_error(const char *fmt, ...) TALLY_PRINTF(1, 2);
/* "tallyd: ..." to stderr; returns code. */
int tally_cli_fail(int code, const char *fmt, ...) TALLY_PRINTF(2, 3);

/* Everything printed has left: TALLY_EXIT_OK, or TALLY_EXIT_IO and a word of why. */
int tally_cli_flush(void);

/* For -o: the words of a command that prints a table. */
extern const char *const tally_cli_table_words[]; /* table, json */

/* Those that exist, in the order of the help; NULL ends it. The manual is made of it, too. */
extern const struct tally_cli_command *const tally_cli_commands[];

/* Each in its own file. */
extern const struct tally_cli_command tally_cmd_run;
extern const struct tally_cli_command tally_cmd_check;
extern const struct tally_cli_command tally_cmd_probe;
extern const struct tally_cli_command tally_cmd_replay;
extern const struct tally_cli_command tally_cmd_services;
extern const struct tally_cli_command tally_cmd_status;
extern const struct tally_cli_command tally_cmd_top;
extern const struct tally_cli_command tally_cmd_connections;
extern const struct tally_cli_command tally_cmd_audit;
extern const struct tally_cli_command tally_cmd_keys;
extern const struct tally_cli_command tally_cmd_spool;
extern const struct tally_cli_command tally_cmd_stop;
extern const struct tally_cli_command tally_cmd_version;

#endif
