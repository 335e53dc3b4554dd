/* SPDX-License-Identifier: Apache-2.0 */
/* The watch of pods, against answers that an API server may give. With a real one: tests/k8s. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <pthread.h>
#include <sys/socket.h>

#include "base/log.h"
#include "identify/kubernetes_watch.h"

#define POD "{\"metadata\":{\"resourceVersion\":\"7\",\"uid\":\"%d\",\"name\":\"a%s\"}}"
#define LIST "{\"metadata\":{\"resourceVersion\":\"7\"},\"items\":[" POD "," POD "]}"

/* One request after another; the answer to the n-th is of the test's choice. */
struct server {
	int fd;
	pthread_t thread;
	char *(*answer)(int n);
	char requests[8][2048]; /* their heads */
	int n;
	struct tally_loop *loop;
	struct tally_kubernetes_watch *watch;
	int seen, listed;
	char dir[32], token[64], api[64];
};

/* Is it to stay open? So is what was answered with a head of its own. */
static bool serve_one(struct server *s, int fd)
{
	char *head = s->requests[s->n], *body, *text;
	size_t used = 0;
	bool whole;
	ssize_t n;

	while (!strstr(head, "\r\n\r\n")) {
		n = recv(fd, head + used, sizeof(s->requests[0]) - 1 - used, 0);
		if (n <= 0)
			return false;
		used += (size_t)n;
	}
	body = s->answer(s->n);
	__atomic_add_fetch(&s->n, 1, __ATOMIC_RELEASE);
	whole = !strncmp(body, "HTTP/", 5);
	if (whole)
		text = strdup(body);
	else
		assert_true(asprintf(&text, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n%s",
				     body) > 0);
	for (size_t at = 0, len = strlen(text); at < len; at += (size_t)n) {
		n = send(fd, text + at, len - at, MSG_NOSIGNAL);
		if (n <= 0)
			break;
	}
	free(text);
	free(body);
	return whole;
}

static void *serve(void *ctx)
{
	struct server *s = ctx;
	int fd, held[TALLY_ARRAY_SIZE(s->requests)], n_held = 0;

	while (s->n < (int)TALLY_ARRAY_SIZE(s->requests) && (fd = accept(s->fd, NULL, NULL)) >= 0) {
		if (serve_one(s, fd))
			held[n_held++] = fd;
		else
			close(fd);
	}
	while (n_held)
		close(held[--n_held]);
	return NULL;
}

static void on_begin(void *ctx)
{
}

static void on_pod(void *ctx, const json_t *object)
{
	((struct server *)ctx)->seen++;
}

static void on_listed(void *ctx)
{
	((struct server *)ctx)->listed++;
}

static void start(struct server *s, char *(*answer)(int n))
{
	const struct tally_kubernetes_events events = { s, on_begin, on_pod, on_pod, on_listed };
	struct tally_kubernetes_watch_options options = { .api = s->api,
							  .token_file = s->token,
							  .ca_file = s->token,
							  .node = "n",
							  .selector = "a=b" };
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(at);

	memset(s, 0, sizeof(*s));
	tally_log_setup((enum tally_log_level)0, TALLY_LOG_TEXT);
	s->answer = answer;
	strcpy(s->dir, "/tmp/test_watch.XXXXXX");
	assert_non_null(mkdtemp(s->dir));
	snprintf(s->token, sizeof(s->token), "%s/token", s->dir);
	assert_int_equal(tally_util_write_file(s->token, "t", 1, 0600), 0);
	s->fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(bind(s->fd, (struct sockaddr *)&at, size), 0);
	assert_int_equal(getsockname(s->fd, (struct sockaddr *)&at, &size), 0);
	assert_int_equal(listen(s->fd, 8), 0);
	snprintf(s->api, sizeof(s->api), "http://127.0.0.1:%u", ntohs(at.sin_port));
	assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
	assert_int_equal(tally_loop_new(&s->loop), 0);
	assert_int_equal(tally_kubernetes_watch_open(s->loop, &options, &events, &s->watch), 0);
}

static void stop(struct server *s)
{
	tally_kubernetes_watch_close(s->watch);
	tally_loop_free(s->loop);
	shutdown(s->fd, SHUT_RDWR);
	assert_int_equal(pthread_join(s->thread, NULL), 0);
	close(s->fd);
	assert_int_equal(unlink(s->token), 0);
	assert_int_equal(rmdir(s->dir), 0);
}

static void turn_until(struct server *s, const int *counter, int wanted)
{
	uint64_t deadline = tally_util_mono_ns() + 20 * TALLY_NS_PER_S;

	while (*counter < wanted) {
		assert_true(tally_util_mono_ns() < deadline);
		assert_true(tally_loop_turn(s->loop, 100) >= 0);
	}
}

static char *with_nul(int n)
{
	char *text = NULL;

	if (n)
		assert_true(asprintf(&text,
				     "{\"type\":\"ADDED\",\"object\":" POD
				     "}\n{\"type\":\"MODIFIED\",\"object\":" POD "}\n",
				     3, "\\u0000", 4, "") > 0);
	else
		assert_true(asprintf(&text, LIST, 1, "\\u0000b", 2, "") > 0);
	return text;
}

/* W4: JSON may have a NUL in a text, and Go takes it; no pod hides the others behind one. */
static void test_nul(void **state)
{
	struct tally_kubernetes_status status;
	struct server s;

	start(&s, with_nul);
	turn_until(&s, &s.listed, 1);
	turn_until(&s, &s.seen, 4);
	tally_kubernetes_watch_status(s.watch, &status);
	assert_int_equal(status.errors[TALLY_KUBERNETES_ERROR_PARSE], 0);
	stop(&s);
}

/* A pod whose metadata no parser of ours reads: nested too deeply, or with a NUL in a name. */
static char *unreadable(bool is_deep)
{
	size_t deep = is_deep ? 4000 : 1;
	char *text = NULL;
	size_t bytes;
	FILE *out = open_memstream(&text, &bytes);

	fputs("{\"metadata\":{\"uid\":\"9\",\"name\":\"}\\\"]{\",\"resourceVersion\":\"8\",\"x\":",
	      out);
	for (size_t i = 0; i < deep; i++)
		fputs(is_deep ? "{\"f:a\":" : "{\"f:a\\u0000\":", out);
	fputs("1", out);
	for (size_t i = 0; i < deep; i++)
		fputs("}", out);
	fputs("}}", out);
	assert_int_equal(fclose(out), 0);
	return text;
}

static char *among_others(int n)
{
	_cleanup_free_ char *deep = unreadable(true), *nul = unreadable(false);
	char *text = NULL;

	if (n)
		assert_true(
			asprintf(
				&text,
				"{\"type\":\"ADDED\",\"object\":%s}\n{\"type\":\"ADDED\",\"object\":" POD
				"}\n",
				deep, 4, "") > 0);
	else
		assert_true(asprintf(&text,
				     "{\"metadata\":{\"resourceVersion\":\"7\"},\"items\":[%s," POD
				     ",%s," POD "]}\n",
				     deep, 1, "", nul, 2, "") > 0);
	return text;
}

/* W4: it alone is left out, of a list and of a watch. */
static void test_unreadable_pods(void **state)
{
	struct tally_kubernetes_status status;
	struct server s;

	start(&s, among_others);
	turn_until(&s, &s.listed, 1);
	assert_int_equal(s.seen, 2);
	turn_until(&s, &s.seen, 3);
	tally_kubernetes_watch_status(s.watch, &status);
	assert_int_equal(status.errors[TALLY_KUBERNETES_ERROR_PARSE], 3);
	assert_int_equal(status.lists, 1);
	stop(&s);
}

static char *cut_off(int n)
{
	static const char *const texts[] = {
		"",
		"{}",
		"{\"metadata\":{\"resourceVersion\":\"7\"},\"items\":[{\"a\":1},{\"b",
		"{\"metadata\":{\"resourceVersion\":\"7\"},\"items\":[{\"a\":1}",
	};
	char *text = NULL;

	if (n < (int)TALLY_ARRAY_SIZE(texts))
		return strdup(texts[n]);
	assert_true(asprintf(&text, LIST, 1, "", 2, "") > 0);
	return text;
}

/* W1: what is no whole list takes nothing away, and nothing of it is believed. */
static void test_cut_off(void **state)
{
	struct server s;

	start(&s, cut_off);
	turn_until(&s, &s.n, 3);
	assert_int_equal(s.listed + s.seen, 0);
	stop(&s);
}

static char *too_large(int n)
{
	size_t len = TALLY_KUBERNETES_BYTES + 1;
	char *text = NULL;

	if (n < 2) {
		text = malloc(len + 1);
		memset(text, ' ', len);
		text[len] = 0;
		return text;
	}
	assert_true(asprintf(&text, LIST, 1, "", 2, "") > 0);
	return text;
}

/* W2, W5: what a cache answers whole and too large is listed by pages, and these in smaller ones. */
static void test_large_pods(void **state)
{
	struct server s;

	start(&s, too_large);
	turn_until(&s, &s.listed, 1);
	assert_int_equal(s.seen, 2);
	assert_non_null(strstr(s.requests[0], "limit=100&"));
	assert_non_null(strstr(s.requests[0], "&resourceVersion=0 "));
	assert_non_null(strstr(s.requests[1], "limit=100&"));
	assert_null(strstr(s.requests[1], "resourceVersion"));
	assert_non_null(strstr(s.requests[2], "limit=50&"));
	stop(&s);
}

static char *page_fails(int n)
{
	char *text = NULL;

	if (n == 1)
		return strdup(
			"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
	if (n)
		assert_true(asprintf(&text, LIST, 1, "", 2, "") > 0);
	else
		assert_true(asprintf(&text,
				     "{\"metadata\":{\"resourceVersion\":\"7\",\"continue\":\"t\"},"
				     "\"items\":[" POD "]}",
				     1, "") > 0);
	return text;
}

/* W5: a token that the server no longer takes is not tried for ever. */
static void test_page_fails(void **state)
{
	struct server s;

	start(&s, page_fails);
	turn_until(&s, &s.listed, 1);
	assert_non_null(strstr(s.requests[1], "&continue=t "));
	assert_null(strstr(s.requests[2], "continue"));
	stop(&s);
}

static char *too_busy(int n)
{
	char *text = NULL;

	if (!n)
		return strdup(
			"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3\r\nConnection: close\r\n"
			"Content-Length: 0\r\n\r\n");
	assert_true(asprintf(&text, LIST, 1, "", 2, "") > 0);
	return text;
}

/* The server's own word is kept to. */
static void test_retry_after(void **state)
{
	uint64_t began_ns = tally_util_mono_ns();
	struct server s;

	start(&s, too_busy);
	turn_until(&s, &s.listed, 1);
	assert_true(tally_util_mono_ns() - began_ns >= 3 * TALLY_NS_PER_S);
	stop(&s);
}

static char *quiet(int n)
{
	char *text = NULL;

	if (n) /* the head of a watch, whose body is to come */
		return strdup("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
	assert_true(asprintf(&text, LIST, 1, "", 2, "") > 0);
	return text;
}

/* Nothing happens on this node, and all is well. */
static void test_quiet_watch(void **state)
{
	struct tally_kubernetes_status status = {};
	uint64_t deadline;
	struct server s;

	start(&s, quiet);
	turn_until(&s, &s.listed, 1);
	deadline = tally_util_mono_ns() + 20 * TALLY_NS_PER_S;
	while (!status.watching) {
		assert_true(tally_util_mono_ns() < deadline);
		assert_true(tally_loop_turn(s.loop, 100) >= 0);
		tally_kubernetes_watch_status(s.watch, &status);
	}
	assert_int_equal(status.events + status.bookmarks, 0);
	assert_non_null(strstr(s.requests[1], "fieldSelector=spec.nodeName%3Dn%2Cstatus.phase%21%3D"
					      "Succeeded%2Cstatus.phase%21%3DFailed&"));
	stop(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nul),
		cmocka_unit_test(test_large_pods),
		cmocka_unit_test(test_unreadable_pods),
		cmocka_unit_test(test_cut_off),
		cmocka_unit_test(test_page_fails),
		cmocka_unit_test(test_retry_after),
		cmocka_unit_test(test_quiet_watch),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
