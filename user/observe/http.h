/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small HTTP server for GET, driven by the agent's loop: no thread of its own. The caller writes the
 * bodies. Answers are never stored by caches, and never guessed to be of another type.
 *
 * Invariant: who asks is answered, however many others ask slowly or not at all. Connections have an end
 * (15 s without a whole exchange), and beyond so many, of all or of one client, the oldest makes room.
 */
#ifndef TALLY_OBSERVE_HTTP_H
#define TALLY_OBSERVE_HTTP_H

#include <stdbool.h>

#include "base/loop.h"
#include "base/util.h"

struct tally_http_request {
	const char *path;
	bool local; /* it comes from this host */
	bool direct; /* it was sent to an address or to localhost, not to a name, which a web page elsewhere
			could have pointed here */
};

struct tally_http_reply {
	unsigned int status; /* 200, 503; 404 where the path is unknown */
	const char *type;    /* content type, static */
	const char *policy;  /* Content-Security-Policy, or NULL */
	const char *fixed;   /* a body that stays; else */
	char *body;	     /* freed here */
};

typedef void (*tally_http_fn)(void *ctx, const struct tally_http_request *request,
			      struct tally_http_reply *ret_reply);

struct tally_http;

/* listen: ADDRESS:PORT, [ADDRESS]:PORT; [::]:PORT is IPv4, too, and alone where there is no IPv6.
 * -EINVAL: it is not; -EADDRINUSE. */
TALLY_MUST int tally_http_open(struct tally_loop *loop, const char *listen, tally_http_fn fn,
			       void *ctx, struct tally_http **ret_http);
void tally_http_close(struct tally_http *http);

/* Connections that timed out are closed here: now and then. */
void tally_http_tick(struct tally_http *http);

#endif
