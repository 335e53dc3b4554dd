/* SPDX-License-Identifier: Apache-2.0 */
#include "libcommand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <ftw.h>
#include <sys/resource.h>
#include <sys/wait.h>

char command_dir[32], command_out[65536], command_err[65536];
long command_peak_kb;
bool command_returned;

static void path_of(const char *name, char *path, size_t bytes)
{
	snprintf(path, bytes, "%s/%s", command_dir, name);
}

void command_open(void)
{
	snprintf(command_dir, sizeof(command_dir), "/tmp/test_command.XXXXXX");
	assert_non_null(mkdtemp(command_dir));
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

int command_close(void)
{
	return nftw(command_dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

void command_put(const char *name, const char *text)
{
	char path[128];

	path_of(name, path, sizeof(path));
	assert_int_equal(tally_util_write_file(path, text, strlen(text), 0600), 0);
}

static void get(const char *name, char *text, size_t bytes)
{
	_cleanup_free_ char *data = NULL;
	char path[128];
	size_t n = 0;

	path_of(name, path, sizeof(path));
	assert_int_equal(tally_util_read_file(path, bytes - 1, &data, &n), 0);
	memcpy(text, data, n + 1);
}

static void redirect(const char *name, int flags, int fd)
{
	char path[128];
	int from;

	path_of(name, path, sizeof(path));
	from = open(path, flags, 0600);
	if (from < 0 || dup2(from, fd) < 0)
		_exit(99);
}

static void run(int argc, char **argv)
{
	int status;

	redirect("in", O_RDONLY, 0);
	redirect("out", O_WRONLY | O_CREAT | O_TRUNC, 1);
	redirect("err", O_WRONLY | O_CREAT | O_TRUNC, 2);
	if (chdir(command_dir) < 0)
		_exit(99);
	status = tally_cli_main(tally_cli_commands, argc, argv);
	fflush(stdout);
	_exit(creat("returned", 0600) < 0 ? 99 : status);
}

int command_call(const char *words, const char *input)
{
	char copy[1024], *argv[16] = { command_dir }, *rest = copy, *part;
	struct rusage usage;
	int argc = 1, status;
	pid_t pid;

	snprintf(copy, sizeof(copy), "%s", words);
	while ((part = strsep(&rest, " ")))
		argv[argc++] = part;
	command_put("in", input);
	fflush(stdout);
	fflush(stderr);
	pid = fork();
	if (pid == 0)
		run(argc, argv);
	assert_int_equal(wait4(pid, &status, 0, &usage), pid);
	assert_true(WIFEXITED(status));
	command_peak_kb = usage.ru_maxrss;
	snprintf(copy, sizeof(copy), "%s/returned", command_dir);
	command_returned = unlink(copy) == 0;
	get("out", command_out, sizeof(command_out));
	get("err", command_err, sizeof(command_err));
	return WEXITSTATUS(status);
}
