/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/diff/fields.h"

static FILE *to, *from;
static pid_t child;

static void run_child(int in, int out)
{
	static char program[] = "node", script[] = "tests/diff/llhttp.js",
		    *argv[] = { program, script, NULL };

	(void)dup2(in, 0);
	(void)dup2(out, 1);
	(void)execvp(program, argv);
	_exit(127);
}

int llhttp_start(char *version, size_t bytes)
{
	int in[2], out[2];

	(void)signal(SIGPIPE, SIG_IGN);
	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
		return -errno;
	child = fork();
	if (child < 0)
		return -errno;
	if (!child)
		run_child(in[0], out[1]);
	(void)close(in[0]);
	(void)close(out[1]);
	to = fdopen(in[1], "w");
	from = fdopen(out[0], "r");
	if (!to || !from || !fgets(version, (int)bytes, from))
		return -ENOENT;
	version[strcspn(version, "\n")] = 0;
	return 0;
}

void llhttp_stop(void)
{
	if (to)
		(void)fclose(to);
	if (from)
		(void)fclose(from);
	if (child > 0)
		(void)waitpid(child, NULL, 0);
}

static void ask(const struct stream *s)
{
	if (s->response) {
		fputs("R ", to);
		for (size_t i = 0; i < s->n_kinds; i++)
			fputc('0' + s->kinds[i], to);
		fputs(s->n_kinds ? " " : "- ", to);
	} else {
		fputs("Q ", to);
	}
	for (size_t i = 0; i < s->len; i++)
		fprintf(to, "%02x", s->data[i]);
	fputc('\n', to);
	(void)fflush(to);
}

/* Hex digits up to another character. Returns the number of octets; *at is moved. */
static size_t unhex(char **at, char *text, size_t room)
{
	unsigned int octet;
	size_t n = 0;

	while (n < room && sscanf(*at, "%2x", &octet) == 1 && (*at)[0] != ',' && (*at)[1] > ' ') {
		text[n++] = (char)octet;
		*at += 2;
	}
	return n;
}

static void take_fields(struct fields *f, char *at)
{
	char name[4096], value[16384];

	while (*at && *at != ',') {
		size_t n = unhex(&at, name, sizeof(name)), len;

		at += *at == '=';
		len = unhex(&at, value, sizeof(value));
		fields_line(f, name, n, value, len);
		at += *at == '&';
	}
	if (*at == ',')
		at++;
	fields_url(f, value, unhex(&at, value, sizeof(value)));
}

static int take_message(char *text, const struct stream *s, const struct tally_rules *rules,
			struct reading *r)
{
	struct message *m = &r->m[r->n];
	struct fields *f;
	int end = 0;

	if (r->n == MESSAGES)
		return 0;
	if (sscanf(text, "%zu,%zu,%23[^,],%u,%u.%u,%n", &m->head_end, &m->end, m->method,
		   &m->status, &m->major, &m->minor, &end) != 6 ||
	    !end)
		return -1;
	r->n++;
	if (s->response) {
		m->method[0] = 0;
		return 0;
	}
	f = malloc(sizeof(*f));
	if (!f)
		abort();
	fields_begin(f);
	take_fields(f, text + end);
	fields_end(f, rules, m);
	free(f);
	return 0;
}

int read_llhttp(const struct stream *s, const struct tally_rules *rules, struct reading *ret)
{
	char *line = NULL, *stop, *save = NULL;
	size_t room = 0;

	memset(ret, 0, sizeof(*ret));
	ask(s);
	if (getline(&line, &room, from) <= 0)
		return -1;
	stop = strrchr(line, ' ');
	if (!stop || sscanf(stop, " %47[^,],%zu", ret->error, &ret->error_at) != 2)
		return -1;
	*stop = 0;
	if (!strcmp(ret->error, "-"))
		ret->error[0] = 0;
	for (char *m = strtok_r(line, ";", &save); m; m = strtok_r(NULL, ";", &save))
		if (take_message(m, s, rules, ret))
			return -1;
	free(line);
	return 0;
}
