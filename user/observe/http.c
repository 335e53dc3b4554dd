/* SPDX-License-Identifier: Apache-2.0 */
#include "observe/http.h"

#include <arpa/inet.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define CONNECTIONS 16
#define TIMEOUT_S 10

struct tally_http {
	struct MHD_Daemon *daemon;
	struct tally_loop_source *source;
	tally_http_fn fn;
	void *ctx;
};

static enum MHD_Result queue(struct MHD_Connection *connection, struct tally_http_reply *reply)
{
	struct MHD_Response *response;
	enum MHD_Result result;

	if (!reply->body)
		return MHD_NO;
	response = MHD_create_response_from_buffer(strlen(reply->body), reply->body,
						   MHD_RESPMEM_MUST_FREE);
	if (!response) {
		free(reply->body);
		return MHD_NO;
	}
	(void)MHD_add_response_header(response, "Content-Type", reply->type); /* optional */
	result = MHD_queue_response(connection, reply->status, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *url,
				  const char *method, const char *version, const char *upload_data,
				  size_t *upload_data_size, void **req_cls)
{
	struct tally_http *http = cls;
	struct tally_http_reply reply = { .status = 404, .type = "text/plain; charset=utf-8" };

	if (strcmp(method, "GET") && strcmp(method, "HEAD")) {
		reply.status = 405;
		reply.body = strdup("only GET\n");
	} else {
		http->fn(http->ctx, url, &reply);
	}
	return queue(connection, &reply);
}

static int on_ready(void *ctx, uint32_t events, uint64_t value)
{
	tally_http_tick(ctx);
	return 0;
}

void tally_http_tick(struct tally_http *http)
{
	if (http)
		(void)MHD_run(http->daemon); /* its errors concern single connections */
}

static int parse_port(const char *text, in_port_t *ret_port)
{
	uint64_t port;
	int err = tally_util_parse_u64(text, 65535, &port);

	if (!err)
		*ret_port = htons(port);
	return err;
}

/* ADDRESS:PORT; an IPv6 address stands in brackets. */
static int parse_listen(const char *text, struct sockaddr_storage *ret_address)
{
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)ret_address;
	struct sockaddr_in *four = (struct sockaddr_in *)ret_address;
	const char *colon = strrchr(text, ':');
	char host[INET6_ADDRSTRLEN + 2];
	size_t len = colon ? (size_t)(colon - text) : 0;

	if (!len || len >= sizeof(host))
		return -EINVAL;
	memset(ret_address, 0, sizeof(*ret_address));
	memcpy(host, text, len);
	host[len] = 0;
	if (host[0] == '[' && host[len - 1] == ']') {
		host[len - 1] = 0;
		six->sin6_family = AF_INET6;
		return inet_pton(AF_INET6, host + 1, &six->sin6_addr) == 1
			       ? parse_port(colon + 1, &six->sin6_port)
			       : -EINVAL;
	}
	four->sin_family = AF_INET;
	if (!strcmp(host, "localhost"))
		strcpy(host, "127.0.0.1");
	return inet_pton(AF_INET, host, &four->sin_addr) == 1
		       ? parse_port(colon + 1, &four->sin_port)
		       : -EINVAL;
}

static int start(struct tally_http *http, const struct sockaddr_storage *address)
{
	unsigned int flags = MHD_USE_EPOLL | (address->ss_family == AF_INET6 ? MHD_USE_IPv6 : 0);

	errno = 0;
	http->daemon = MHD_start_daemon(flags, 0, NULL, NULL, on_request, http,
					MHD_OPTION_SOCK_ADDR, address, MHD_OPTION_CONNECTION_LIMIT,
					(unsigned int)CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT,
					(unsigned int)TIMEOUT_S, MHD_OPTION_END);
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
	int err = parse_listen(listen, &address);

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
