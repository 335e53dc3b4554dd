/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints what people and shells read about tallyd, from the tables that the program itself is made
 * of, so that neither can say what the other does not:
 *
 *	manual tallyd.8 | tallyd.yaml.5 | tallyd-keys.yaml.5	a page in scdoc's language
 *	manual completion					for bash
 */
#include <ctype.h>

#include "base/config.h"
#include "base/manual.h"
#include "identify/catalog.h"
#include "cli.h"

static const struct {
	int code;
	const char *text;
} exit_codes[] = {
	{ TALLY_EXIT_OK, "Done." },
	{ TALLY_EXIT_DIFFERS,
	  "The command worked, and its answer is no (*audit*, *spool verify*)." },
	{ TALLY_EXIT_LOSSES, "*audit*: the books balance, but for losses that they declare." },
	{ TALLY_EXIT_USAGE, "Unknown command or option." },
	{ TALLY_EXIT_INPUT, "Input cannot be read as what it claims to be." },
	{ TALLY_EXIT_UNAVAILABLE,
	  "No agent runs, no broker answers or not for all that *audit* has to read; or another agent, or another version of tallyd, has the state or the pins; or *run* cannot read the file of a secret, perhaps not yet." },
	{ TALLY_EXIT_BUG, "An invariant of tallyd is broken." },
	{ TALLY_EXIT_KERNEL, "The kernel lacks a feature; its name is printed." },
	{ TALLY_EXIT_IO, "The spool or the state directory cannot be written." },
	{ TALLY_EXIT_CAPABILITY, "A capability is missing; its name is printed." },
	{ TALLY_EXIT_CONFIG, "The configuration or the key catalog is wrong." },
};

/* tallyd(8) ------------------------------------------------------------------------------------ */

static void put_header(const char *name, int section, const char *what)
{
	printf("%s(%d) \"tallyd %s\" \"tallyd\"\n\n# NAME\n\n%s - %s\n\n", name, section,
	       TALLY_VERSION, name, what);
}

/* A sentence, whether or not it was written as one. */
static void put_sentence(const char *text)
{
	char first[2] = { (char)toupper((unsigned char)*text), '\0' };
	size_t n = strlen(text);

	if (!n)
		return;
	tally_manual_text(first, stdout);
	tally_manual_text(text + 1, stdout);
	fputs(text[n - 1] == '.' ? "\n\n" : ".\n\n", stdout);
}

static void put_option(const struct tally_cli_option *option)
{
	if (option->letter)
		printf("*-%c*, ", option->letter);
	printf("*--%s*", option->name);
	if (option->arg)
		printf(" _%s_", option->arg);
	fputs("\n\t", stdout);
	tally_manual_text(option->help, stdout);
	for (size_t i = 0; option->words && option->words[i]; i++)
		printf("%s*%s*", i ? ", " : ": ", option->words[i]);
	fputs("\n\n", stdout);
}

static void put_command(const struct tally_cli_command *command, const char *above)
{
	const struct tally_cli_option *option = command->options;
	_cleanup_free_ char *name = NULL;

	if (asprintf(&name, "%s%s%s", above, *above ? " " : "", command->name) < 0)
		exit(TALLY_EXIT_BUG);
	for (size_t i = 0; command->commands && command->commands[i]; i++)
		put_command(command->commands[i], name);
	if (command->commands)
		return;
	/* A heading is taken as it stands. */
	printf("## %s%s%s\n\n", name, *command->args ? " " : "", command->args);
	put_sentence(command->summary);
	if (command->details) {
		tally_manual_text(command->details, stdout);
		fputs("\n\n", stdout);
	}
	for (; option && option->name; option++)
		put_option(option);
}

static void put_exit_codes(void)
{
	fputs("# EXIT STATUS\n\n", stdout);
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(exit_codes); i++)
		printf("*%d*\n\t%s\n\n", exit_codes[i].code, exit_codes[i].text);
}

static void put_program(void)
{
	put_header("tallyd", 8, "meters HTTP APIs from the kernel");
	fputs("# SYNOPSIS\n\n*tallyd* _COMMAND_ [_OPTION_]... [_ARGUMENT_]...\n\n# DESCRIPTION\n\n"
	      "tallyd counts the requests that the configured services answer, by customer, API key, "
	      "route and status, inside the kernel, and ships one exact usage record per window to "
	      "Kafka or a file. No service is changed.\n\n"
	      "What is counted stays in the kernel while the agent is stopped, restarted or "
	      "upgraded: stopping it does not stop the metering. *tallyd stop --detach* does.\n\n"
	      "Every command has *--help*.\n\n# COMMANDS\n\n",
	      stdout);
	for (size_t i = 0; tally_cli_commands[i]; i++)
		put_command(tally_cli_commands[i], "");
	fputs("# SIGNALS\n\n*SIGHUP*\n\tRead configuration and catalog again. What does not load "
	      "changes nothing.\n\n*SIGTERM*, *SIGINT*\n\tClose the open window, seal it, ship "
	      "for at most 20 seconds, end.\n\n",
	      stdout);
	put_exit_codes();
	printf("# FILES\n\n_%s_\n\tThe configuration, see *tallyd.yaml*(5).\n\n"
	       "_/etc/tallyd/keys.yaml_\n\tThe key catalog, see *tallyd-keys.yaml*(5).\n\n"
	       "_/var/lib/tallyd_\n\tSealed windows, batches, checkpoints, identity of the agent. "
	       "Keep it.\n\n_/run/tallyd/tallyd.sock_\n\tWhere *status*, *top*, *services* and "
	       "*connections* ask.\n\n_/sys/fs/bpf/tallyd_\n\tPrograms and maps that count on "
	       "without the agent.\n\n# SEE ALSO\n\n*tallyd.yaml*(5), *tallyd-keys.yaml*(5), "
	       "*systemctl*(1)\n",
	       TALLY_CONFIG_PATH);
}

/* Section 5 ------------------------------------------------------------------------------------ */

static void put_config(void)
{
	put_header("tallyd.yaml", 5, "configuration of tallyd");
	fputs("# DESCRIPTION\n\nA YAML file. *tallyd check-config* names file, line and column of "
	      "every mistake, and the nearest valid key. *systemctl reload tallyd* checks it, and "
	      "then puts it in force; the agent also reads it when it changes.\n\n"
	      "Durations are written *10s*, *500ms* or *1m30s*. Where a value may be a secret, "
	      "*${file:/path}* stands for the content of a file and *${cred:NAME}* for a "
	      "credential of the systemd unit (LoadCredential=); nowhere else is anything "
	      "expanded.\n\n# OPTIONS\n\n",
	      stdout);
	tally_manual_page(&tally_config_table, stdout);
	fputs("# SEE ALSO\n\n*tallyd*(8), *tallyd-keys.yaml*(5)\n", stdout);
}

static void put_catalog(void)
{
	put_header("tallyd-keys.yaml", 5, "key catalog of tallyd");
	fputs("# DESCRIPTION\n\nSays whose API key has which SHA-256; the keys themselves stand "
	      "nowhere. *printf %s \"$KEY\" | sha256sum* makes an entry's *sha256*. The agent reads "
	      "the file again when it changes.\n\n# OPTIONS\n\n",
	      stdout);
	tally_manual_page(&tally_catalog_table, stdout);
	fputs("# SEE ALSO\n\n*tallyd*(8), *tallyd.yaml*(5)\n", stdout);
}

/* Completion ----------------------------------------------------------------------------------- */

static void put_words(const struct tally_cli_command *const *commands)
{
	for (size_t i = 0; commands[i]; i++)
		printf("%s%s", i ? " " : "", commands[i]->name);
}

/* What stands behind an option: one of its words, or a text, for which files are offered. */
static void put_values(const struct tally_cli_option *option)
{
	puts("\t\tcase $last in");
	for (; option && option->name; option++) {
		if (option->type == TALLY_CLI_FLAG)
			continue;
		printf("\t\t--%s", option->name);
		if (option->letter)
			printf("|-%c", option->letter);
		printf(") words='");
		for (size_t i = 0; option->words && option->words[i]; i++)
			printf("%s%s", i ? " " : "", option->words[i]);
		puts("' ;;");
	}
	puts("\t\tesac");
}

static void put_cases(const struct tally_cli_command *const *commands, const char *above)
{
	for (size_t i = 0; commands[i]; i++) {
		const struct tally_cli_option *option = commands[i]->options;

		if (commands[i]->commands) {
			printf("\t%s) words='", commands[i]->name);
			put_words(commands[i]->commands);
			puts("' ;;");
			put_cases(commands[i]->commands, commands[i]->name);
			continue;
		}
		printf("\t'%s%s%s'|'%s%s%s '*) words='--help", above, *above ? " " : "",
		       commands[i]->name, above, *above ? " " : "", commands[i]->name);
		for (; option && option->name; option++)
			printf(" --%s", option->name);
		puts("'");
		if (commands[i]->max_args)
			puts("\t\t[[ $cur == -* ]] || words='' # files");
		put_values(commands[i]->options);
		puts("\t\t;;");
	}
}

static void put_completion(void)
{
	fputs("# bash completion of tallyd; made of its own tables\n_tallyd()\n{\n\tlocal words='",
	      stdout);
	put_words(tally_cli_commands);
	fputs("' cur=${COMP_WORDS[COMP_CWORD]}\n\tlocal before=\"${COMP_WORDS[*]:1:COMP_CWORD-1}\"\n"
	      "\tlocal last=${COMP_WORDS[COMP_CWORD-1]}\n\n"
	      "\tcase $before in\n\t''|help) ;;\n",
	      stdout);
	put_cases(tally_cli_commands, "");
	fputs("\t*) words='' ;;\n\tesac\n"
	      "\tmapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n}\n"
	      "complete -o default -F _tallyd tallyd\n",
	      stdout);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*put)(void);
	} pages[] = {
		{ "tallyd.8", put_program },
		{ "tallyd.yaml.5", put_config },
		{ "tallyd-keys.yaml.5", put_catalog },
		{ "completion", put_completion },
	};

	for (size_t i = 0; argc == 2 && i < TALLY_ARRAY_SIZE(pages); i++) {
		if (strcmp(argv[1], pages[i].name) != 0)
			continue;
		pages[i].put();
		return tally_cli_flush();
	}
	return tally_cli_usage_error(
		"usage: manual tallyd.8|tallyd.yaml.5|tallyd-keys.yaml.5|completion");
}
