/* SPDX-License-Identifier: Apache-2.0 */
#include "observe/http.h"

#include <arpa/inet.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/listen.h"

#define CONNECTIONS 64
#define KEPT 48 /* of them; the others are room for who comes */
#define KEPT_OF_CLIENT 8
#define TIMEOUT_S 10
#define DEADLINE_NS (15 * TALLY_NS_PER_S)
#define NETWORK 16 /* octets of an IPv6 address */

/* A connection. Whoever comes last is served: the one that has gone longest without an answer makes room. */
struct visitor {
	struct MHD_Connection *connection; /* NULL: free */
	uint8_t client[NETWORK]; /* IPv4 mapped; of IPv6 the first half, which a client owns */
	uint64_t since_ns;	 /* it came, or was answered */
	bool shut;
};

struct tally_http {
	struct MHD_Daemon *daemon;
	struct tally_loop_source *source;
	tally_http_fn fn;
	void *ctx;
	struct visitor visitors[CONNECTIONS];
};

/* libmicrohttpd takes bodies that stay as if it could write to them; it does not. */
static struct MHD_Response *response_of(struct tally_http_reply *reply)
{
	struct MHD_Response *response;

	if (reply->fixed)
		return MHD_create_response_from_buffer(strlen(reply->fixed), (void *)reply->fixed,
						       MHD_RESPMEM_PERSISTENT);
	if (!reply->body)
		return NULL;
	response = MHD_create_response_from_buffer(strlen(reply->body), reply->body,
						   MHD_RESPMEM_MUST_FREE);
	if (!response)
		free(reply->body);
	return response;
}

static enum MHD_Result queue(struct MHD_Connection *connection, struct tally_http_reply *reply)
{
	const char *const headers[][2] = { { "Content-Type", reply->type },
					   { "Content-Security-Policy", reply->policy },
					   { "Cache-Control", "no-store" },
					   { "X-Content-Type-Options", "nosniff" },
					   { "Referrer-Policy", "no-referrer" } };
	struct MHD_Response *response = response_of(reply);
	enum MHD_Result result;

	if (!response)
		return MHD_NO;
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(headers); i++)
		if (headers[i][1] &&
		    MHD_add_response_header(response, headers[i][0], headers[i][1]) != MHD_YES) {
			MHD_destroy_response(response);
			return MHD_NO;
		}
	result = MHD_queue_response(connection, reply->status, response);
	MHD_destroy_response(response);
	return result;
}

static bool is_loopback(const struct sockaddr *address)
{
	const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)address;
	const struct sockaddr_in *four = (const struct sockaddr_in *)address;

	if (address->sa_family == AF_INET)
		return ntohl(four->sin_addr.s_addr) >> 24 == 127;
	if (address->sa_family != AF_INET6)
		return false;
	return IN6_IS_ADDR_LOOPBACK(&six->sin6_addr) ||
	       (IN6_IS_ADDR_V4MAPPED(&six->sin6_addr) && six->sin6_addr.s6_addr[12] == 127);
}

/* The host of the request without its port: an address, localhost, or not said at all (HTTP/1.0). */
static bool is_direct(const char *host)
{
	struct in6_addr six;
	struct in_addr four;
	char name[INET6_ADDRSTRLEN];
	size_t len;

	if (!host)
		return true;
	if (*host == '[') {
		len = strcspn(++host, "]");
		if (host[len] != ']')
			return false;
	} else {
		len = strcspn(host, ":");
	}
	if (len >= sizeof(name))
		return false;
	memcpy(name, host, len);
	name[len] = 0;
	return !strcasecmp(name, "localhost") || inet_pton(AF_INET, name, &four) == 1 ||
	       inet_pton(AF_INET6, name, &six) == 1;
}

static void describe(struct MHD_Connection *connection, const char *url,
		     struct tally_http_request *ret_request)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);

	ret_request->path = url;
	ret_request->local = info && is_loopback(info->client_addr);
	ret_request->direct =
		is_direct(MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Host"));
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *url,
				  const char *method, const char *version, const char *upload_data,
				  size_t *upload_data_size, void **req_cls)
{
	struct tally_http *http = cls;
	struct tally_http_reply reply = { .status = 404, .type = "text/plain; charset=utf-8" };
	struct tally_http_request request;

	if (strcmp(method, "GET") && strcmp(method, "HEAD")) {
		reply.status = 405;
		reply.body = strdup("only GET\n");
	} else {
		describe(connection, url, &request);
		http->fn(http->ctx, &request, &reply);
	}
	return queue(connection, &reply);
}

/* ---- who may stay ---- */

static void client_of(const struct sockaddr *address, uint8_t out[NETWORK])
{
	const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)address;
	const struct sockaddr_in *four = (const struct sockaddr_in *)address;

	memset(out, 0, NETWORK);
	if (address->sa_family == AF_INET) {
		out[10] = out[11] = 0xff;
		memcpy(out + 12, &four->sin_addr, sizeof(four->sin_addr));
	} else if (address->sa_family == AF_INET6) {
		memcpy(out, &six->sin6_addr,
		       IN6_IS_ADDR_V4MAPPED(&six->sin6_addr) ? NETWORK : NETWORK / 2);
	}
}

/* libmicrohttpd sees the end of it, and closes it, when it runs next. */
static void shut(struct visitor *visitor)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(visitor->connection, MHD_CONNECTION_INFO_CONNECTION_FD);

	visitor->shut = true;
	if (info)
		(void)shutdown(info->connect_fd, SHUT_RDWR); /* gone already: all the better */
}

/* Of all, or with `client` of its own, at most so many stay. */
static void make_room(struct tally_http *http, const uint8_t *client, size_t kept)
{
	struct visitor *oldest = NULL;
	size_t n = 0;

	for (size_t i = 0; i < CONNECTIONS; i++) {
		struct visitor *visitor = &http->visitors[i];

		if (!visitor->connection || visitor->shut ||
		    (client && memcmp(visitor->client, client, NETWORK) != 0))
			continue;
		n++;
		if (!oldest || visitor->since_ns < oldest->since_ns)
			oldest = visitor;
	}
	if (n > kept)
		shut(oldest);
}

static void welcome(struct tally_http *http, struct MHD_Connection *connection,
		    void **socket_context)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
	size_t i = 0;

	while (i < CONNECTIONS && http->visitors[i].connection)
		i++;
	if (i == CONNECTIONS)
		return; /* there are no more connections than that */
	http->visitors[i] =
		(struct visitor){ .connection = connection, .since_ns = tally_util_mono_ns() };
	if (info)
		client_of(info->client_addr, http->visitors[i].client);
	*socket_context = &http->visitors[i];
	make_room(http, http->visitors[i].client, KEPT_OF_CLIENT);
	make_room(http, NULL, KEPT);
}

static void on_connection(void *cls, struct MHD_Connection *connection, void **socket_context,
			  enum MHD_ConnectionNotificationCode what)
{
	struct visitor *visitor = *socket_context;

	if (what == MHD_CONNECTION_NOTIFY_STARTED)
		welcome(cls, connection, socket_context);
	else if (visitor)
		visitor->connection = NULL;
}

static void on_answered(void *cls, struct MHD_Connection *connection, void **req_cls,
			enum MHD_RequestTerminationCode how)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
	struct visitor *visitor = info ? info->socket_context : NULL;

	if (visitor)
		visitor->since_ns = tally_util_mono_ns();
}

/* Time is over for who asks octet by octet, or reads so. */
static void shut_late(struct tally_http *http)
{
	uint64_t now_ns = tally_util_mono_ns();

	for (size_t i = 0; i < CONNECTIONS; i++) {
		struct visitor *visitor = &http->visitors[i];

		if (visitor->connection && !visitor->shut &&
		    now_ns - visitor->since_ns >= DEADLINE_NS)
			shut(visitor);
	}
}

static int on_ready(void *ctx, uint32_t events, uint64_t value)
{
	struct tally_http *http = ctx;

	(void)MHD_run(http->daemon); /* its errors concern single connections */
	return 0;
}

void tally_http_tick(struct tally_http *http)
{
	if (!http)
		return;
	shut_late(http);
	(void)MHD_run(http->daemon); /* likewise */
}

/* ipv6.disable=1: not even a socket. */
static bool has_six(void)
{
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0)
		close(fd);
	return fd >= 0 || errno != EAFNOSUPPORT;
}

static bool is_any_six(const struct sockaddr_storage *address)
{
	const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)address;

	return address->ss_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&six->sin6_addr);
}

/* [::] is every address that there is, of both kinds; one kind where the host has no other. */
static unsigned int flags_of(struct sockaddr_storage *address)
{
	in_port_t port = ((const struct sockaddr_in6 *)address)->sin6_port;

	if (!is_any_six(address))
		return address->ss_family == AF_INET6 ? MHD_USE_IPv6 : 0;
	if (has_six())
		return MHD_USE_DUAL_STACK;
	*address = (struct sockaddr_storage){ .ss_family = AF_INET };
	((struct sockaddr_in *)address)->sin_port = port;
	return 0;
}

static int start(struct tally_http *http, struct sockaddr_storage *address)
{
	unsigned int flags = MHD_USE_EPOLL | flags_of(address);

	errno = 0;
	http->daemon =
		MHD_start_daemon(flags, 0, NULL, NULL, on_request, http, MHD_OPTION_SOCK_ADDR,
				 address, MHD_OPTION_CONNECTION_LIMIT, (unsigned int)CONNECTIONS,
				 MHD_OPTION_CONNECTION_TIMEOUT, (unsigned int)TIMEOUT_S,
				 MHD_OPTION_NOTIFY_CONNECTION, on_connection, http,
				 MHD_OPTION_NOTIFY_COMPLETED, on_answered, http, MHD_OPTION_END);
	if (http->daemon)
		return 0;
	return errno ? -errno : -EIO;
}

int tally_http_open(struct tally_loop *loop, const char *listen, tally_http_fn fn, void *ctx,
		    struct tally_http **ret_http)
{
	const union MHD_DaemonInfo *info;
	struct sockaddr_storage address;
	struct tally_http *http;
	int err = tally_listen_parse(listen, &address);

	if (err)
		return err;
	http = calloc(1, sizeof(*http));
	if (!http)
		return -ENOMEM;
	http->fn = fn;
	http->ctx = ctx;
	err = start(http, &address);
	if (!err) {
		info = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD);
		err = info ? tally_loop_add_fd(loop, info->epoll_fd, EPOLLIN, on_ready, http,
					       &http->source)
			   : -EIO;
	}
	if (err) {
		tally_http_close(http);
		return err;
	}
	*ret_http = http;
	return 0;
}

void tally_http_close(struct tally_http *http)
{
	if (!http)
		return;
	tally_loop_remove(http->source);
	if (http->daemon)
		MHD_stop_daemon(http->daemon);
	free(http);
}
