/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small HTTP server for GET /metrics, /healthz and /readyz, driven by the agent's loop: no thread
 * of its own. The caller writes the bodies.
 */
#ifndef TALLY_OBSERVE_HTTP_H
#define TALLY_OBSERVE_HTTP_H

#include "base/loop.h"
#include "base/util.h"

struct tally_http_reply {
	unsigned int status; /* 200, 503; 404 where the path is unknown */
	const char *type;    /* content type, static */
	char *body;	     /* freed here */
};

typedef void (*tally_http_fn)(void *ctx, const char *path, struct tally_http_reply *ret_reply);

struct tally_http;

/* listen: ADDRESS:PORT, [ADDRESS]:PORT. -EINVAL: it is not; -EADDRINUSE. */
TALLY_MUST int tally_http_open(struct tally_loop *loop, const char *listen, tally_http_fn fn,
			       void *ctx, struct tally_http **ret_http);
void tally_http_close(struct tally_http *http);

/* Connections that timed out are closed here: now and then. */
void tally_http_tick(struct tally_http *http);

#endif
