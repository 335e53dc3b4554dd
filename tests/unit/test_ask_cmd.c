/* SPDX-License-Identifier: Apache-2.0 */
/* top, services, connections, as a person calls them, of an agent that says what it is told to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pty.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "libcommand.h"

#define EVIL "\\u001b[2J\\u009b31m\\u0007\\n"

/* By its first letter. */
static const char *const answers[128] = {
	['t'] = "{\"seconds\":10,\"rows_total\":1,\"epoch\":1,\"rows\":[{\"service\":\"api\",\"method\":\"GET\","
		"\"route\":\"/v1/" EVIL "\",\"customer_id\":\"cus" EVIL "\",\"api_key_id\":\"k" EVIL
		"\",\"requests_per_s\":1.5,\"status_classes\":{\"2xx\":3},\"response_bytes\":10}]}",
	['s'] = "{\"rows\":[{\"service\":\"x" EVIL
		"\",\"attached\":true,\"ports\":[1,2],\"matched_by\":\"cgroup " EVIL
		"\",\"hooks\":[\"" EVIL "\"],\"cgroups\":[\"/a" EVIL "\"],\"called_by\":[\"" EVIL
		"\"]}],\"pods\":["
		"{\"namespace\":\"geo\",\"name\":\"good" EVIL
		"\",\"services\":[\"geo/a\",\"b\"],\"state\":\"metered\",\"why_not\":null},"
		"{\"namespace\":\"geo\",\"name\":\"bad\",\"services\":[],\"state\":\"bad_ports\","
		"\"why_not\":\"its annotation" EVIL "\"}]}",
	['c'] = "{\"seconds\":10,\"rows_total\":3,\"rows\":["
		"{\"service\":\"api\",\"api_key_id\":\"k" EVIL
		"\",\"peer\":\"2001:db8::1\",\"peer_port\":443},"
		"{\"service\":\"api\",\"api_key_id\":\"k\",\"peer\":\"192.0.2.1\",\"peer_port\":80},"
		"{\"service\":\"api\",\"api_key_id\":\"k\",\"peer\":\"2001:db8:1111:2222:3333:4444:5555:6666\","
		"\"peer_port\":65535}]}",
};

static pid_t agent;

static void answer(int listener)
{
	char request[64] = "";
	int fd = accept(listener, NULL, NULL);
	ssize_t n = recv(fd, request, sizeof(request) - 1, 0);
	const char *text = n > 0 ? answers[request[0] & 127] : NULL;

	if (text)
		(void)!send(fd, text, strlen(text), MSG_NOSIGNAL); /* who asked may be gone */
	close(fd);
}

static int set_up(void **state)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);
	char config[128];

	command_open();
	snprintf(config, sizeof(config), "agent: {runtime_dir: %s}\nsinks: [{stdout: }]\n",
		 command_dir);
	command_put("c.yaml", config);
	snprintf(at.sun_path, sizeof(at.sun_path), "%s/tallyd.sock", command_dir);
	assert_int_equal(bind(listener, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(listener, 8), 0);
	agent = fork();
	while (agent == 0)
		answer(listener);
	close(listener);
	return 0;
}

static int tear_down(void **state)
{
	kill(agent, SIGKILL);
	waitpid(agent, NULL, 0);
	return command_close();
}

static bool has_controls(const char *text)
{
	for (; *text; text++)
		if ((*text < ' ' && *text > 0 && *text != '\n') || *text == 0x7f ||
		    !strncmp(text, "\302\233", 2))
			return true;
	return false;
}

static size_t count_lines(const char *text)
{
	size_t n = 0;

	for (; *text; text++)
		n += *text == '\n';
	return n;
}

/* Routes, keys, cgroups of anybody: none moves the cursor, or makes a line. JSON has them as they are. */
static void test_no_text_controls_the_terminal(void **state)
{
	static const struct {
		const char *words;
		size_t lines;
	} calls[] = { { "top --once -c c.yaml", 4 },
		      { "services -c c.yaml", 11 },
		      { "connections -c c.yaml", 5 } };

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(calls); i++) {
		assert_int_equal(command_call(calls[i].words, ""), 0);
		assert_false(has_controls(command_out));
		assert_int_equal(count_lines(command_out), calls[i].lines);
		assert_non_null(strstr(command_out, "\357\277\275"));
	}
	assert_int_equal(command_call("top -o json -c c.yaml", ""), 0);
	assert_non_null(strstr(command_out, "\\u001B[2J\302\23331m\\u0007\\n"));
}

/* Who asks with another configuration than the agent's is told so. */
static void test_nobody_there(void **state)
{
	command_put("other.yaml", "agent: {runtime_dir: /nonexistent}\nsinks: [{stdout: }]\n");
	assert_int_equal(command_call("status -c other.yaml", ""), TALLY_EXIT_UNAVAILABLE);
	assert_string_equal(
		command_err,
		"tallyd: no agent answers at /nonexistent/tallyd.sock: No such file or directory: "
		"none runs with this configuration (--config FILE names another)\n");
}

/* What is not metered, and why, stands before what is. */
static void test_pods(void **state)
{
	const char *bad, *good;

	assert_int_equal(command_call("services -c c.yaml", ""), 0);
	bad = strstr(command_out, "\ngeo/bad                                  NOT METERED  -\n"
				  "  bad_ports: its annotation");
	good = strstr(command_out, "\ngeo/good");
	assert_non_null(bad);
	assert_non_null(good);
	assert_true(bad < good);
	assert_non_null(strstr(good, " metered      geo/a "));
	assert_non_null(strstr(good, "  and 1 more services\n"));
}

/* The column where the next one begins, the same in each row. */
static void test_peers(void **state)
{
	const char *line, *end;

	assert_int_equal(command_call("connections -c c.yaml", ""), 0);
	assert_non_null(strstr(command_out, "\n[2001:db8::1]:443 "));
	assert_non_null(strstr(command_out, "\n192.0.2.1:80 "));
	assert_non_null(
		strstr(command_out, "\n[2001:db8:1111:2222:3333:4444:5555:6666]:65535 api "));
	end = strchr(command_out, '\n');
	for (int i = 0; i < 3; i++) {
		line = end + 1;
		end = strchr(line, '\n');
		assert_int_equal(strstr(line, " api ") - line,
				 strstr(command_out, " SERVICE") - command_out);
	}
}

static void test_interval(void **state)
{
	assert_int_equal(command_call("top --interval 0 -c c.yaml", ""), TALLY_EXIT_USAGE);
	assert_string_equal(command_err, "tallyd: --interval must be 1 to 86400 seconds\n");
	assert_string_equal(command_out, "");
	assert_int_equal(command_call("top --interval 4294967296 -c c.yaml", ""), TALLY_EXIT_USAGE);
	assert_int_equal(command_call("top --interval 1 -c c.yaml", ""), 0);
}

/* On a terminal of this name, until a row has come and it is told to end. */
static void watch(const char *term, char *said, size_t bytes)
{
	char top[] = "top", option[] = "-c", config[64],
	     *argv[] = { command_dir, top, option, config, NULL };
	struct winsize size = { .ws_row = 24, .ws_col = 80 };
	size_t used = 0;
	ssize_t n = 1;
	int master = -1, status;
	pid_t pid;

	snprintf(config, sizeof(config), "%s/c.yaml", command_dir);
	setenv("TERM", term, 1);
	alarm(30); /* ends the test */
	fflush(stdout);
	pid = forkpty(&master, NULL, NULL, &size);
	if (pid == 0)
		_exit(tally_cli_main(tally_cli_commands, 4, argv));
	said[0] = 0;
	while (used + 1 < bytes && n > 0) {
		n = read(master, said + used, bytes - used - 1); /* EIO: it has ended */
		used += n > 0 ? (size_t)n : 0;
		said[used] = 0;
		if (strstr(said, "GET /"))
			kill(pid, SIGTERM);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	alarm(0);
	close(master);
}

static void test_dumb_terminal(void **state)
{
	char said[65536];

	watch("xterm", said, sizeof(said));
	assert_non_null(strstr(said, "\033[H\033[J"));
	assert_non_null(strstr(said, "\033[?25h"));
	watch("dumb", said, sizeof(said));
	assert_non_null(strstr(said, "GET /"));
	assert_null(strchr(said, '\033'));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_text_controls_the_terminal),
		cmocka_unit_test(test_peers),
		cmocka_unit_test(test_nobody_there),
		cmocka_unit_test(test_pods),
		cmocka_unit_test(test_interval),
		cmocka_unit_test(test_dumb_terminal),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
