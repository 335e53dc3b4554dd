// SPDX-License-Identifier: Apache-2.0
/*
 * load: an HTTP/1.1 load generator that knows the truth.
 *
 *	load -p PORT -f TEMPLATES -c CONNECTIONS -n REQUESTS [-a ADDRESS] [-1] [-s SECONDS] [-S SEED]
 *
 * One thread, epoll. Every request is one of the templates' exact bytes, chosen by a seeded
 * generator; every response is framed (Content-Length, chunked, none) and counted under
 * (template, status). -1: a connection per request, over the source addresses 127.0.0.1 to .32
 * so that ports do not run out. -s: stop starting requests after that time, whatever -n says;
 * SIGTERM: stop now. Answers that are under way are waited for.
 *
 * TEMPLATES, little endian: count u32, then per template: weight u32, is_head u32, length u32, bytes.
 * Output, JSON: {"rows":[{"template","status","requests","request_bytes","response_bytes"}],
 *	"lost":[{"template","requests","request_bytes"}], "connections", "errors", "seconds"}
 * *lost* are requests that were sent, in part or whole, and got no whole answer.
 *
 * A connection:  CONNECTING -> WRITING -> READING -> WRITING (keep-alive) ... -> closed
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_TEMPLATES 1024
#define MAX_STATUS 600
#define BUFFER_BYTES 65536
#define HEAD_BYTES 16384
#define SOURCES 32

struct template
{
	const uint8_t *bytes;
	uint32_t len, weight, is_head;
};

struct sums {
	uint64_t requests, request_bytes, response_bytes;
};

enum body { BODY_NONE, BODY_LENGTH, BODY_CHUNKED, BODY_CLOSE };
enum chunk { CHUNK_SIZE, CHUNK_DATA, CHUNK_END, CHUNK_TRAILER };
enum verdict { MORE, DONE, BAD };

struct conn {
	int fd;
	bool connected, must_close, in_body;
	uint32_t template, sent;
	uint32_t head_len;
	int status;
	enum body body;
	enum chunk chunk;
	uint64_t left, line_len, received;
	char head[HEAD_BYTES];
};

static struct {
	struct template templates[MAX_TEMPLATES];
	uint32_t count, weights;
	struct sums rows[MAX_TEMPLATES][MAX_STATUS];
	struct sums lost[MAX_TEMPLATES];
	uint64_t wanted, started, connections, errors;
	uint32_t open, limit;
	uint64_t random;
	double deadline;
	bool one_per_connection;
	struct sockaddr_in to;
	int epoll;
} g = { .wanted = 1, .limit = 1, .random = 88172645463325252ULL };

static volatile sig_atomic_t told_to_stop;
static uint8_t buffer[BUFFER_BYTES];

static void die(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static uint64_t random_next(void)
{
	g.random ^= g.random << 13;
	g.random ^= g.random >> 7;
	g.random ^= g.random << 17;
	return g.random;
}

static uint32_t pick_template(void)
{
	uint64_t at = random_next() % g.weights;
	uint32_t i;

	for (i = 0; at >= g.templates[i].weight; i++)
		at -= g.templates[i].weight;
	return i;
}

static uint32_t read_u32(FILE *f)
{
	uint8_t b[4];

	if (fread(b, 1, 4, f) != 4) {
		errno = EINVAL;
		die("templates end early");
	}
	return b[0] | b[1] << 8 | b[2] << 16 | (uint32_t)b[3] << 24;
}

static void read_templates(const char *path)
{
	FILE *f = fopen(path, "rb");
	uint32_t i;

	if (!f)
		die(path);
	g.count = read_u32(f);
	if (!g.count || g.count > MAX_TEMPLATES) {
		errno = EINVAL;
		die("number of templates");
	}
	for (i = 0; i < g.count; i++) {
		struct template *t = &g.templates[i];
		uint8_t *bytes;

		t->weight = read_u32(f);
		t->is_head = read_u32(f);
		t->len = read_u32(f);
		bytes = malloc(t->len);
		if (!bytes || fread(bytes, 1, t->len, f) != t->len)
			die("template");
		t->bytes = bytes;
		g.weights += t->weight;
	}
	fclose(f);
}

/* Requests ------------------------------------------------------------------------------------- */

static bool may_start(void)
{
	return !told_to_stop && g.started < g.wanted && (!g.deadline || now_s() < g.deadline);
}

static void begin_request(struct conn *c)
{
	g.started++;
	c->template = pick_template();
	c->sent = 0;
	c->head_len = 0;
	c->in_body = false;
	c->must_close = false;
	c->received = 0;
}

/* Returns 0, or -errno when the connection is of no use any more. */
static int write_request(struct conn *c)
{
	const struct template *t = &g.templates[c->template];

	while (c->sent < t->len) {
		ssize_t n = send(c->fd, t->bytes + c->sent, t->len - c->sent, MSG_NOSIGNAL);

		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		c->sent += n;
	}
	return 0;
}

/* Responses ------------------------------------------------------------------------------------ */

static bool header_is(const char *line, const char *name, const char **ret_value)
{
	size_t n = strlen(name);

	if (strncasecmp(line, name, n) || line[n] != ':')
		return false;
	*ret_value = line + n + 1 + strspn(line + n + 1, " \t");
	return true;
}

static void read_header(struct conn *c, const char *line)
{
	const char *value;

	if (header_is(line, "content-length", &value)) {
		c->body = BODY_LENGTH;
		c->left = strtoull(value, NULL, 10);
	} else if (header_is(line, "transfer-encoding", &value)) {
		if (!strncasecmp(value, "chunked", 7))
			c->body = BODY_CHUNKED;
	} else if (header_is(line, "connection", &value)) {
		c->must_close = !strncasecmp(value, "close", 5);
	}
}

/* The head is whole and ends with a NUL: decides how the body is framed. */
static enum verdict begin_body(struct conn *c)
{
	char *line = c->head, *end;

	if (strncmp(c->head, "HTTP/1.", 7) || c->head_len < 12)
		return BAD;
	c->status = atoi(c->head + 9);
	if (c->status < 100 || c->status >= MAX_STATUS)
		return BAD;
	c->head_len = 0;
	if (c->status < 200)
		return MORE;
	c->body = BODY_CLOSE;
	c->chunk = CHUNK_SIZE;
	c->left = 0;
	c->line_len = 0;
	while ((end = strstr(line, "\r\n"))) {
		*end = 0;
		read_header(c, line);
		line = end + 2;
	}
	if (g.templates[c->template].is_head || c->status == 204 || c->status == 304)
		c->body = BODY_NONE;
	c->in_body = true;
	if (c->body == BODY_NONE || (c->body == BODY_LENGTH && !c->left))
		return DONE;
	return MORE;
}

static enum verdict feed_head(struct conn *c, uint8_t byte)
{
	if (c->head_len + 1 >= HEAD_BYTES)
		return BAD;
	c->head[c->head_len++] = byte;
	if (byte != '\n' || c->head_len < 4 || memcmp(c->head + c->head_len - 4, "\r\n\r\n", 4))
		return MORE;
	c->head[c->head_len] = 0;
	return begin_body(c);
}

static enum verdict feed_chunk_line(struct conn *c, uint8_t byte)
{
	if (byte == '\n') {
		bool empty = !c->line_len;

		c->line_len = 0;
		if (c->chunk == CHUNK_SIZE)
			c->chunk = c->left ? CHUNK_DATA : CHUNK_TRAILER;
		else if (c->chunk == CHUNK_END)
			c->chunk = CHUNK_SIZE;
		else if (empty)
			return DONE;
		return MORE;
	}
	if (byte == '\r')
		return MORE;
	c->line_len++;
	if (c->chunk == CHUNK_SIZE) {
		int digit = byte <= '9' ? byte - '0' : (byte | 32) - 'a' + 10;

		if (digit < 0 || digit > 15)
			return BAD;
		c->left = c->left * 16 + digit;
	}
	return MORE;
}

static size_t skip_counted(struct conn *c, size_t n)
{
	size_t take = n < c->left ? n : c->left;

	c->left -= take;
	return take;
}

/* Consumes some of the n > 0 bytes at p. */
static enum verdict feed_body(struct conn *c, const uint8_t *p, size_t n, size_t *ret_used)
{
	*ret_used = 1;
	switch (c->body) {
	case BODY_CLOSE:
		*ret_used = n;
		return MORE;
	case BODY_LENGTH:
		*ret_used = skip_counted(c, n);
		return c->left ? MORE : DONE;
	case BODY_CHUNKED:
		if (c->chunk != CHUNK_DATA)
			return feed_chunk_line(c, *p);
		*ret_used = skip_counted(c, n);
		if (!c->left)
			c->chunk = CHUNK_END;
		return MORE;
	default:
		return BAD;
	}
}

static void count_answer(struct conn *c)
{
	struct sums *s = &g.rows[c->template][c->status];

	s->requests++;
	s->request_bytes += c->sent;
	s->response_bytes += c->received;
}

/* Life of a connection ------------------------------------------------------------------------- */

static void forget(struct conn *c)
{
	close(c->fd);
	c->fd = -1;
	g.open--;
}

static void lose(struct conn *c)
{
	struct sums *s = &g.lost[c->template];

	g.errors++;
	s->requests++;
	s->request_bytes += c->sent;
	forget(c);
}

static int open_socket(void)
{
	struct sockaddr_in from = { .sin_family = AF_INET };
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if ((ntohl(g.to.sin_addr.s_addr) >> 24) == 127) {
		setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
		from.sin_addr.s_addr = htonl(0x7f000001 + g.connections % SOURCES);
		if (bind(fd, (struct sockaddr *)&from, sizeof(from)))
			die("bind");
	}
	return fd;
}

static void start_conn(struct conn *c)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c };

	c->fd = open_socket();
	c->connected = false;
	g.open++;
	g.connections++;
	if (connect(c->fd, (struct sockaddr *)&g.to, sizeof(g.to)) && errno != EINPROGRESS)
		die("connect");
	if (epoll_ctl(g.epoll, EPOLL_CTL_ADD, c->fd, &event))
		die("epoll_ctl");
	begin_request(c);
}

/* The answer is whole. */
static void finish_exchange(struct conn *c)
{
	count_answer(c);
	if (c->must_close || g.one_per_connection || !may_start()) {
		forget(c);
		return;
	}
	begin_request(c);
	if (write_request(c))
		lose(c);
}

static enum verdict feed(struct conn *c, const uint8_t *p, size_t n)
{
	enum verdict verdict = MORE;
	size_t used;

	while (n && verdict == MORE) {
		used = 1;
		verdict = c->in_body ? feed_body(c, p, n, &used) : feed_head(c, *p);
		p += used;
		n -= used;
		c->received += used;
	}
	return verdict == DONE && n ? BAD : verdict;
}

static void readable(struct conn *c)
{
	while (c->fd >= 0) {
		ssize_t n = recv(c->fd, buffer, sizeof(buffer), 0);
		enum verdict verdict;

		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			if (!n && c->in_body && c->body == BODY_CLOSE) {
				c->must_close = true;
				finish_exchange(c);
			} else {
				lose(c);
			}
			return;
		}
		verdict = feed(c, buffer, n);
		if (verdict == DONE)
			finish_exchange(c);
		else if (verdict == BAD)
			lose(c);
	}
}

static void handle(struct conn *c, uint32_t events)
{
	if (c->fd < 0)
		return;
	if (events & EPOLLOUT)
		c->connected = true;
	if (c->connected && write_request(c)) {
		lose(c);
		return;
	}
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP))
		readable(c);
}

static void run(void)
{
	struct conn *conns = calloc(g.limit, sizeof(*conns));
	struct epoll_event events[256];
	uint32_t i;
	int n;

	if (!conns)
		die("calloc");
	for (i = 0; i < g.limit; i++)
		conns[i].fd = -1;
	do {
		for (i = 0; i < g.limit && g.open < g.limit && may_start(); i++) {
			if (conns[i].fd < 0)
				start_conn(&conns[i]);
		}
		n = epoll_wait(g.epoll, events, 256, 10000);
		if (n == 0) {
			fprintf(stderr, "load: %u connections wait for 10 s\n", g.open);
			break;
		}
		for (i = 0; n > 0 && i < (uint32_t)n; i++)
			handle(events[i].data.ptr, events[i].events);
	} while (g.open || may_start());
	for (i = 0; i < g.limit; i++) {
		if (conns[i].fd >= 0)
			lose(&conns[i]);
	}
	free(conns);
}

static void print_report(double seconds)
{
	const char *comma = "";

	printf("{\"rows\":[");
	for (uint32_t t = 0; t < g.count; t++) {
		for (int status = 0; status < MAX_STATUS; status++) {
			const struct sums *s = &g.rows[t][status];

			if (!s->requests)
				continue;
			printf("%s{\"template\":%u,\"status\":%d,\"requests\":%lu,"
			       "\"request_bytes\":%lu,\"response_bytes\":%lu}",
			       comma, t, status, s->requests, s->request_bytes, s->response_bytes);
			comma = ",";
		}
	}
	printf("],\"lost\":[");
	comma = "";
	for (uint32_t t = 0; t < g.count; t++) {
		if (!g.lost[t].requests)
			continue;
		printf("%s{\"template\":%u,\"requests\":%lu,\"request_bytes\":%lu}", comma, t,
		       g.lost[t].requests, g.lost[t].request_bytes);
		comma = ",";
	}
	printf("],\"connections\":%lu,\"errors\":%lu,\"seconds\":%.3f}\n", g.connections, g.errors,
	       seconds);
}

static void on_signal(int number)
{
	(void)number;
	told_to_stop = 1;
}

static void usage(void)
{
	fputs("usage: load -p PORT -f TEMPLATES -c CONNECTIONS -n REQUESTS [-a ADDRESS] [-1]"
	      " [-s SECONDS] [-S SEED]\n",
	      stderr);
	exit(2);
}

int main(int argc, char **argv)
{
	const char *templates = NULL;
	double start = now_s();
	int option;

	g.to = (struct sockaddr_in){ .sin_family = AF_INET };
	g.to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	while ((option = getopt(argc, argv, "a:p:f:c:n:s:S:1")) != -1) {
		switch (option) {
		case 'a':
			inet_pton(AF_INET, optarg, &g.to.sin_addr);
			break;
		case 'p':
			g.to.sin_port = htons(atoi(optarg));
			break;
		case 'f':
			templates = optarg;
			break;
		case 'c':
			g.limit = atoi(optarg);
			break;
		case 'n':
			g.wanted = strtoull(optarg, NULL, 10);
			break;
		case 's':
			g.deadline = start + atof(optarg);
			break;
		case 'S':
			g.random ^= strtoull(optarg, NULL, 10) * 0x9e3779b97f4a7c15ULL;
			break;
		case '1':
			g.one_per_connection = true;
			break;
		default:
			usage();
		}
	}
	if (!templates || !g.to.sin_port || !g.limit)
		usage();
	read_templates(templates);
	signal(SIGTERM, on_signal);
	g.epoll = epoll_create1(EPOLL_CLOEXEC);
	if (g.epoll < 0)
		die("epoll_create1");
	run();
	print_report(now_s() - start);
	return 0;
}
