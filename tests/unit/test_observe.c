// SPDX-License-Identifier: Apache-2.0
/* The control socket, the HTTP server, text for Prometheus, messages to the service manager. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <pthread.h>
#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/loop.h"
#include "observe/control.h"
#include "observe/http.h"
#include "observe/notify.h"
#include "observe/prom.h"

/* prom ------------------------------------------------------------------------------------------ */

static void test_prom(void **state)
{
	struct tally_prom_label labels[] = { { "service", "a\"b\\c\nd" }, { "x", "" }, {} };
	_cleanup_free_ char *text = NULL;
	size_t bytes;
	FILE *out = open_memstream(&text, &bytes);

	tally_prom_family(out, "requests_total", "counter", "Help.");
	tally_prom_count(out, "requests_total", labels, UINT64_MAX);
	tally_prom_count(out, "requests_total", NULL, 0);
	tally_prom_sample(out, "seconds", NULL, 0.25);
	assert_int_equal(fclose(out), 0);
	assert_string_equal(text, "# HELP tallyd_requests_total Help.\n"
				  "# TYPE tallyd_requests_total counter\n"
				  "tallyd_requests_total{service=\"a\\\"b\\\\c\\nd\",x=\"\"} "
				  "18446744073709551615\n"
				  "tallyd_requests_total 0\n"
				  "tallyd_seconds 0.25\n");
}

/* control --------------------------------------------------------------------------------------- */

struct server {
	char dir[64];
	struct tally_loop *loop;
	struct tally_control *control;
	struct tally_http *http;
	pthread_t thread;
	int asked;
};

static int setup(void **state)
{
	struct server *s = calloc(1, sizeof(*s));

	assert_non_null(s);
	strcpy(s->dir, "/tmp/test_observe.XXXXXX");
	assert_non_null(mkdtemp(s->dir));
	assert_int_equal(tally_loop_new(&s->loop), 0);
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	struct server *s = *state;

	tally_control_close(s->control);
	tally_http_close(s->http);
	tally_loop_free(s->loop);
	assert_int_equal(rmdir(s->dir), 0); /* the socket is gone, too */
	free(s);
	return 0;
}

static char *answer(void *ctx, const char *request)
{
	struct server *s = ctx;
	char *text;

	s->asked++;
	if (!strcmp(request, "echo"))
		return strdup("{\"echo\":1}");
	if (strcmp(request, "long") != 0)
		return NULL;
	text = malloc(3000001);
	memset(text, 'x', 3000000);
	text[3000000] = 0;
	return text;
}

struct asking {
	const struct server *s;
	const char *request;
	char *text;
	int err;
	bool done;
};

static void *ask(void *ctx)
{
	struct asking *a = ctx;

	a->err = tally_control_ask(a->s->dir, a->request, 5000, &a->text);
	__atomic_store_n(&a->done, true, __ATOMIC_RELEASE);
	return NULL;
}

/* The client in a thread of its own, the loop here. */
static int converse(struct server *s, const char *request, char **ret_text)
{
	struct asking a = { .s = s, .request = request };
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, ask, &a), 0);
	while (!__atomic_load_n(&a.done, __ATOMIC_ACQUIRE))
		assert_true(tally_loop_turn(s->loop, 10) >= 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	*ret_text = a.text;
	return a.err;
}

static void test_control(void **state)
{
	struct server *s = *state;
	char *text = NULL;

	assert_int_equal(converse(s, "echo", &text), -ENOENT);
	assert_int_equal(tally_control_open(s->loop, s->dir, answer, s, &s->control), 0);
	assert_int_equal(converse(s, "echo", &text), 0);
	assert_string_equal(text, "{\"echo\":1}");
	free(TAKE_PTR(text));
	assert_int_equal(converse(s, "long", &text), 0);
	assert_int_equal(strlen(text), 3000000);
	free(TAKE_PTR(text));
	assert_int_equal(converse(s, "what", &text), -EPROTO);
	assert_int_equal(s->asked, 3);
	/* a second agent in the same folder takes the name over; this one is told by nobody */
	tally_control_close(TAKE_PTR(s->control));
	assert_int_equal(converse(s, "echo", &text), -ENOENT);
}

static int dial(const struct server *s)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(to.sun_path, sizeof(to.sun_path), "%s/%s", s->dir, TALLY_CONTROL_SOCKET);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	return fd;
}

/* Clients that connect and say nothing, or too much, keep nobody else from an answer. */
static void test_idle_clients(void **state)
{
	struct server *s = *state;
	int fds[TALLY_CONTROL_CLIENTS * 2];
	char flood[1024], *text = NULL;

	memset(flood, 'y', sizeof(flood));
	assert_int_equal(tally_control_open(s->loop, s->dir, answer, s, &s->control), 0);
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(fds); i++) {
		fds[i] = dial(s);
		while (tally_loop_turn(s->loop, 0) > 0)
			;
	}
	(void)!send(fds[TALLY_ARRAY_SIZE(fds) - 1], flood, sizeof(flood), MSG_NOSIGNAL);
	assert_int_equal(converse(s, "echo", &text), 0);
	assert_string_equal(text, "{\"echo\":1}");
	free(text);
	assert_int_equal(s->asked, 1);
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(fds); i++)
		close(fds[i]);
}

/* http ------------------------------------------------------------------------------------------ */

static void page(void *ctx, const struct tally_http_request *request,
		 struct tally_http_reply *ret_reply)
{
	char text[128];

	snprintf(text, sizeof(text), "%s local=%d direct=%d", request->path, request->local,
		 request->direct);
	if (!strcmp(request->path, "/fixed")) {
		ret_reply->status = 200;
		ret_reply->policy = "default-src 'none'";
		ret_reply->fixed = "stays";
	} else if (!strcmp(request->path, "/metrics")) {
		ret_reply->status = 200;
		ret_reply->type = TALLY_PROM_TYPE;
		ret_reply->body = strdup(text);
	} else {
		ret_reply->body = strdup("no\n");
	}
}

static bool without_six; /* as with ipv6.disable=1 */

/* In the place of libc's, for the server, too. */
int socket(int domain, int type, int protocol)
{
	if (domain == AF_INET6 && without_six) {
		errno = EAFNOSUPPORT;
		return -1;
	}
	return (int)syscall(SYS_socket, domain, type, protocol);
}

static uint16_t free_port(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&at, size), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &size), 0);
	close(fd);
	return ntohs(at.sin_port);
}

static void get(struct server *s, uint16_t port, const char *request, char *out, size_t size)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_port = htons(port),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	size_t used = 0;

	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	assert_int_equal(send(fd, request, strlen(request), 0), strlen(request));
	for (int i = 0; i < 1000; i++) {
		ssize_t n;

		assert_true(tally_loop_turn(s->loop, 5) >= 0);
		tally_http_tick(s->http);
		n = recv(fd, out + used, size - 1 - used, MSG_DONTWAIT);
		if (!n)
			break;
		used += n > 0 ? (size_t)n : 0;
	}
	out[used] = 0;
	close(fd);
}

static void test_http(void **state)
{
	struct server *s = *state;
	uint16_t port = free_port();
	char listen[32], out[2048];

	assert_int_equal(tally_http_open(s->loop, "127.0.0.1", page, s, &s->http), -EINVAL);
	assert_int_equal(tally_http_open(s->loop, "127.0.0.1:70000", page, s, &s->http), -ERANGE);
	assert_int_equal(tally_http_open(s->loop, "somewhere:80", page, s, &s->http), -EINVAL);
	snprintf(listen, sizeof(listen), "127.0.0.1:%u", port);
	assert_int_equal(tally_http_open(s->loop, listen, page, s, &s->http), 0);
	get(s, port, "GET /metrics HTTP/1.0\r\n\r\n", out, sizeof(out));
	assert_non_null(strstr(out, " 200 "));
	assert_non_null(strstr(out, "version=0.0.4"));
	assert_non_null(strstr(out, "\r\n\r\n/metrics local=1 direct=1"));
	assert_non_null(strstr(out, "X-Content-Type-Options: nosniff"));
	assert_null(strstr(out, "Content-Security-Policy"));
	get(s, port, "GET /fixed HTTP/1.0\r\n\r\n", out, sizeof(out));
	assert_non_null(strstr(out, "\r\n\r\nstays"));
	assert_non_null(strstr(out, "Content-Security-Policy: default-src 'none'"));
	get(s, port, "GET /other HTTP/1.0\r\n\r\n", out, sizeof(out));
	assert_non_null(strstr(out, " 404 "));
	get(s, port, "POST /metrics HTTP/1.0\r\nContent-Length: 0\r\n\r\n", out, sizeof(out));
	assert_non_null(strstr(out, " 405 "));
}

static int dial_six(uint16_t port)
{
	struct sockaddr_in6 to = { .sin6_family = AF_INET6,
				   .sin6_port = htons(port),
				   .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	int fd = socket(AF_INET6, SOCK_STREAM, 0);
	int err = connect(fd, (struct sockaddr *)&to, sizeof(to)) ? errno : 0;

	close(fd);
	return err;
}

/* One address for the kubelet's probes in every cluster, whichever family its pods have. */
static void test_http_any(void **state)
{
	struct server *s = *state;
	uint16_t port = free_port();
	char listen[32], out[2048];

	for (int six = 1; six >= 0; six--) {
		without_six = !six;
		snprintf(listen, sizeof(listen), "[::]:%u", port);
		assert_int_equal(tally_http_open(s->loop, listen, page, s, &s->http), 0);
		get(s, port, "GET /metrics HTTP/1.0\r\n\r\n", out, sizeof(out));
		assert_non_null(strstr(out, "/metrics local=1 direct=1"));
		without_six = false;
		assert_int_equal(dial_six(port), six ? 0 : ECONNREFUSED);
		tally_http_close(s->http);
		s->http = NULL;
	}
}

/* Sent to an address, or to a name that somebody may have pointed here. */
static void test_http_host(void **state)
{
	static const struct {
		const char *host;
		int direct;
	} cases[] = { { "127.0.0.1:9464", 1 },
		      { "localhost", 1 },
		      { "LOCALHOST:1", 1 },
		      { "[::1]:9464", 1 },
		      { "192.0.2.7", 1 },
		      { "evil.example:9464", 0 },
		      { "127.0.0.1.evil.example", 0 },
		      { "[::1", 0 },
		      { "", 0 },
		      { "localhost.evil.example", 0 },
		      { "[evil]:80", 0 } };
	struct server *s = *state;
	uint16_t port = free_port();
	char listen[32], request[256], out[2048], wanted[64];

	snprintf(listen, sizeof(listen), "127.0.0.1:%u", port);
	assert_int_equal(tally_http_open(s->loop, listen, page, s, &s->http), 0);
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(cases); i++) {
		snprintf(request, sizeof(request), "GET /metrics HTTP/1.0\r\nHost: %s\r\n\r\n",
			 cases[i].host);
		snprintf(wanted, sizeof(wanted), "direct=%d", cases[i].direct);
		get(s, port, request, out, sizeof(out));
		assert_non_null(strstr(out, wanted));
	}
}

#define SLOW "GET /metrics HTTP/1.1\r\nX-"

/* A client of 127.0.0.`last` that begins a request. */
static int dial_slowly(uint16_t port, uint32_t last)
{
	struct sockaddr_in from = { .sin_family = AF_INET,
				    .sin_addr.s_addr = htonl((INADDR_LOOPBACK & ~0xffU) + last) };
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_port = htons(port),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&from, sizeof(from)), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	assert_int_equal(send(fd, SLOW, strlen(SLOW), 0), strlen(SLOW));
	return fd;
}

static void turn_all(struct server *s)
{
	while (tally_loop_turn(s->loop, 5) > 0)
		;
}

/* Many clients that ask octet by octet, of one address or of many: a probe is answered all the same. */
static void test_http_slow_clients(void **state)
{
	static const uint32_t addresses[] = { 1, 32 };
	struct server *s = *state;
	uint16_t port = free_port();
	char listen[32], out[2048];
	int fds[160];

	snprintf(listen, sizeof(listen), "127.0.0.1:%u", port);
	assert_int_equal(tally_http_open(s->loop, listen, page, s, &s->http), 0);
	for (size_t n = 0; n < TALLY_ARRAY_SIZE(addresses); n++) {
		for (uint32_t i = 0; i < TALLY_ARRAY_SIZE(fds); i++) {
			fds[i] = dial_slowly(port, 1 + i % addresses[n]);
			turn_all(s);
		}
		for (int round = 0; round < 3; round++) {
			uint64_t began = tally_util_mono_ns();

			for (size_t i = 0; i < TALLY_ARRAY_SIZE(fds); i++)
				(void)!send(fds[i], "x", 1, MSG_NOSIGNAL);
			get(s, port, "GET /metrics HTTP/1.0\r\n\r\n", out, sizeof(out));
			assert_non_null(strstr(out, " 200 "));
			assert_true(tally_util_mono_ns() - began < TALLY_NS_PER_S);
		}
		for (size_t i = 0; i < TALLY_ARRAY_SIZE(fds); i++)
			close(fds[i]);
	}
}

static bool is_closed(int fd)
{
	char octet;

	return recv(fd, &octet, 1, MSG_DONTWAIT) == 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
}

/* Whoever sends an octet now and then is not idle, and leaves all the same. */
static void test_http_deadline(void **state)
{
	struct server *s = *state;
	uint64_t began, took = 0, sent = 0;
	uint16_t port = free_port();
	char listen[32];
	int fd;

	snprintf(listen, sizeof(listen), "127.0.0.1:%u", port);
	assert_int_equal(tally_http_open(s->loop, listen, page, s, &s->http), 0);
	fd = dial_slowly(port, 1);
	began = tally_util_mono_ns();
	while (!is_closed(fd)) {
		took = tally_util_mono_ns() - began;
		assert_true(took < 25 * TALLY_NS_PER_S);
		for (; took / TALLY_NS_PER_S > sent; sent++)
			(void)!send(fd, "x", 1, MSG_NOSIGNAL);
		(void)!tally_loop_turn(s->loop, 100);
		tally_http_tick(s->http);
	}
	assert_true(took > 10 * TALLY_NS_PER_S);
	close(fd);
}

/* notify ---------------------------------------------------------------------------------------- */

static void test_notify(void **state)
{
	struct server *s = *state;
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	char got[512] = "";

	unsetenv("NOTIFY_SOCKET");
	tally_notify_send("READY=1\n"); /* nobody asked */
	snprintf(at.sun_path, sizeof(at.sun_path), "%s/notify", s->dir);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	setenv("NOTIFY_SOCKET", at.sun_path, 1);
	tally_notify_send("READY=%d\nSTATUS=%s\n", 1, "fine");
	assert_true(recv(fd, got, sizeof(got) - 1, 0) > 0);
	assert_string_equal(got, "READY=1\nSTATUS=fine\n");
	memset(got, 0, sizeof(got));
	tally_notify_reloading();
	assert_true(recv(fd, got, sizeof(got) - 1, 0) > 0);
	assert_int_equal(strncmp(got, "RELOADING=1\nMONOTONIC_USEC=", 27), 0);
	close(fd);
	unlink(at.sun_path);
	tally_notify_send("READY=1\n"); /* and now nobody listens */
	unsetenv("NOTIFY_SOCKET");

	unsetenv("WATCHDOG_USEC");
	assert_int_equal(tally_notify_watchdog_ns(), 0);
	setenv("WATCHDOG_USEC", "20000000", 1);
	assert_int_equal(tally_notify_watchdog_ns(), 10 * TALLY_NS_PER_S);
	setenv("WATCHDOG_PID", "1", 1);
	assert_int_equal(tally_notify_watchdog_ns(), 0);
	unsetenv("WATCHDOG_PID");
	setenv("WATCHDOG_USEC", "soon", 1);
	assert_int_equal(tally_notify_watchdog_ns(), 0);
	unsetenv("WATCHDOG_USEC");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_prom),
					    TEST(test_control),
					    TEST(test_idle_clients),
					    TEST(test_http),
					    TEST(test_http_any),
					    TEST(test_http_host),
					    TEST(test_http_slow_clients),
					    TEST(test_http_deadline),
					    TEST(test_notify) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
