/* SPDX-License-Identifier: Apache-2.0 */
#include "observe/control.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define REQUEST_MAX 256
#define ANSWER_MAX (64U << 20)

struct client {
	struct tally_control *control;
	struct tally_loop_source *source; /* NULL: free */
	int fd;
	char request[REQUEST_MAX];
	size_t asked;
	char *answer;
	size_t bytes, sent;
	uint64_t since_ns;
};

struct tally_control {
	struct tally_loop *loop;
	struct tally_loop_source *source;
	int fd;
	struct sockaddr_un address;
	tally_control_fn fn;
	void *ctx;
	struct client clients[TALLY_CONTROL_CLIENTS];
};

static int make_address(const char *runtime_dir, struct sockaddr_un *ret_address)
{
	int n;

	memset(ret_address, 0, sizeof(*ret_address));
	ret_address->sun_family = AF_UNIX;
	n = snprintf(ret_address->sun_path, sizeof(ret_address->sun_path), "%s/%s", runtime_dir,
		     TALLY_CONTROL_SOCKET);
	return n < 0 || (size_t)n >= sizeof(ret_address->sun_path) ? -ENAMETOOLONG : 0;
}

static void drop(struct client *client)
{
	tally_loop_remove(client->source);
	tally_util_close(client->fd);
	free(client->answer);
	client->source = NULL;
	client->answer = NULL;
}

static int send_some(struct client *client)
{
	ssize_t n = send(client->fd, client->answer + client->sent, client->bytes - client->sent,
			 MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n > 0)
		client->sent += n;
	if (n < 0 || client->sent == client->bytes)
		drop(client);
	return 0;
}

static int answer(struct client *client)
{
	struct tally_control *control = client->control;

	client->answer = control->fn(control->ctx, client->request);
	if (!client->answer) {
		drop(client);
		return 0;
	}
	client->bytes = strlen(client->answer);
	client->sent = 0;
	if (tally_loop_set_events(client->source, EPOLLOUT))
		drop(client);
	return 0;
}

static int on_client(void *ctx, uint32_t events, uint64_t value)
{
	struct client *client = ctx;
	ssize_t n;

	if (client->answer)
		return send_some(client);
	n = recv(client->fd, client->request + client->asked, REQUEST_MAX - 1 - client->asked,
		 MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0) {
		drop(client);
		return 0;
	}
	client->asked += n;
	client->request[client->asked] = 0;
	if (strchr(client->request, '\n')) {
		*strchr(client->request, '\n') = 0;
		return answer(client);
	}
	if (client->asked == REQUEST_MAX - 1)
		drop(client);
	return 0;
}

/* A free place, or that of the oldest client. */
static struct client *take_place(struct tally_control *control)
{
	struct client *oldest = &control->clients[0];

	for (int i = 0; i < TALLY_CONTROL_CLIENTS; i++) {
		struct client *client = &control->clients[i];

		if (!client->source)
			return client;
		if (client->since_ns < oldest->since_ns)
			oldest = client;
	}
	drop(oldest);
	return oldest;
}

static int on_connection(void *ctx, uint32_t events, uint64_t value)
{
	struct tally_control *control = ctx;
	int fd = accept4(control->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct client *client;

	if (fd < 0)
		return 0; /* it went away, or we have no descriptors: it asks again */
	client = take_place(control);
	memset(client, 0, sizeof(*client));
	client->control = control;
	client->fd = fd;
	client->since_ns = tally_util_mono_ns();
	if (tally_loop_add_fd(control->loop, fd, EPOLLIN, on_client, client, &client->source))
		tally_util_close(fd);
	return 0;
}

static int listen_at(struct tally_control *control)
{
	control->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (control->fd < 0)
		return -errno;
	if (unlink(control->address.sun_path) && errno != ENOENT)
		return -errno;
	if (bind(control->fd, (struct sockaddr *)&control->address, sizeof(control->address)))
		return -errno;
	if (chmod(control->address.sun_path, 0660) || listen(control->fd, TALLY_CONTROL_CLIENTS))
		return -errno;
	return tally_loop_add_fd(control->loop, control->fd, EPOLLIN, on_connection, control,
				 &control->source);
}

int tally_control_open(struct tally_loop *loop, const char *runtime_dir, tally_control_fn fn,
		       void *ctx, struct tally_control **ret_control)
{
	struct tally_control *control = calloc(1, sizeof(*control));
	int err;

	if (!control)
		return -ENOMEM;
	control->loop = loop;
	control->fn = fn;
	control->ctx = ctx;
	control->fd = -1;
	err = make_address(runtime_dir, &control->address);
	if (!err)
		err = tally_util_mkdirs(runtime_dir, 0755);
	if (!err)
		err = listen_at(control);
	if (err) {
		tally_util_close(control->fd);
		free(control);
		return err;
	}
	*ret_control = control;
	return 0;
}

void tally_control_close(struct tally_control *control)
{
	if (!control)
		return;
	for (int i = 0; i < TALLY_CONTROL_CLIENTS; i++)
		if (control->clients[i].source)
			drop(&control->clients[i]);
	tally_loop_remove(control->source);
	tally_util_close(control->fd);
	(void)unlink(control->address.sun_path); /* a stale socket only refuses */
	free(control);
}

/* Wait until fd is readable; the deadline is on the monotonic clock. */
static int wait_for(int fd, short events, uint64_t deadline_ns)
{
	uint64_t now = tally_util_mono_ns();
	struct pollfd pfd = { .fd = fd, .events = events };
	int n;

	if (now >= deadline_ns)
		return -ETIMEDOUT;
	n = poll(&pfd, 1, (deadline_ns - now) / 1000000 + 1);
	return n < 0 && errno != EINTR ? -errno : 0;
}

static int read_answer(int fd, uint64_t deadline_ns, char **ret_answer)
{
	_cleanup_free_ char *text = NULL;
	size_t bytes = 0, room = 0;

	for (;;) {
		int err = wait_for(fd, POLLIN, deadline_ns);
		ssize_t n;

		if (err)
			return err;
		if (room - bytes < 4096) {
			char *more = realloc(text, room + 65536 + 1);

			if (!more || room > ANSWER_MAX)
				return -ENOMEM;
			text = more;
			room += 65536;
		}
		n = recv(fd, text + bytes, room - bytes, MSG_DONTWAIT);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		if (!n)
			break;
		bytes += n > 0 ? n : 0;
	}
	text[bytes] = 0;
	if (!bytes)
		return -EPROTO;
	*ret_answer = TAKE_PTR(text);
	return 0;
}

int tally_control_ask(const char *runtime_dir, const char *request, int timeout_ms,
		      char **ret_answer)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un to;
	char line[REQUEST_MAX];
	int n, err;

	if (fd < 0)
		return -errno;
	err = make_address(runtime_dir, &to);
	if (err)
		return err;
	n = snprintf(line, sizeof(line), "%s\n", request);
	if (n < 0 || (size_t)n >= sizeof(line))
		return -EINVAL;
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)))
		return -errno;
	if (send(fd, line, n, MSG_NOSIGNAL) != n)
		return -EIO;
	return read_answer(fd, tally_util_mono_ns() + timeout_ms * 1000000ULL, ret_answer);
}
