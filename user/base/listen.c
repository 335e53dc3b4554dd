// SPDX-License-Identifier: Apache-2.0
#include "base/listen.h"

#include <arpa/inet.h>
#include <netinet/in.h>

static int parse_port(const char *text, in_port_t *ret_port)
{
	uint64_t port;
	int err = tally_util_parse_u64(text, UINT16_MAX, &port);

	if (!err)
		*ret_port = htons((uint16_t)port);
	return err;
}

static int parse_six(const char *host, const char *port, struct sockaddr_storage *address)
{
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)address;

	six->sin6_family = AF_INET6;
	return inet_pton(AF_INET6, host, &six->sin6_addr) == 1 ? parse_port(port, &six->sin6_port)
							       : -EINVAL;
}

static int parse_four(const char *host, const char *port, struct sockaddr_storage *address)
{
	struct sockaddr_in *four = (struct sockaddr_in *)address;

	four->sin_family = AF_INET;
	if (strcmp(host, "localhost") == 0)
		host = "127.0.0.1";
	return inet_pton(AF_INET, host, &four->sin_addr) == 1 ? parse_port(port, &four->sin_port)
							      : -EINVAL;
}

int tally_listen_parse(const char *text, struct sockaddr_storage *ret_address)
{
	struct sockaddr_storage address = { 0 };
	const char *colon = strrchr(text, ':');
	char host[INET6_ADDRSTRLEN + 2];
	size_t len = colon ? (size_t)(colon - text) : 0;
	int err;

	if (!len || len >= sizeof(host))
		return -EINVAL;
	memcpy(host, text, len);
	host[len] = 0;
	if (host[0] == '[' && host[len - 1] == ']') {
		host[len - 1] = 0;
		err = parse_six(host + 1, colon + 1, &address);
	} else {
		err = parse_four(host, colon + 1, &address);
	}
	if (!err)
		*ret_address = address;
	return err;
}
