/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket: one request line, one JSON document, end.
 *
 *	client: "status\n"   agent: {...}\n and close
 *
 * The agent's side lives in its loop and waits for nobody: a client that is slow to ask or to read
 * has TALLY_CONTROL_CLIENTS others beside it, and is dropped when a newer one needs its place.
 */
#ifndef TALLY_OBSERVE_CONTROL_H
#define TALLY_OBSERVE_CONTROL_H

#include "base/loop.h"
#include "base/util.h"

#define TALLY_CONTROL_CLIENTS 8
#define TALLY_CONTROL_SOCKET "tallyd.sock"

/* The answer to a request: a new text, or NULL for an unknown request. */
typedef char *(*tally_control_fn)(void *ctx, const char *request);

struct tally_control;

/* Listen at runtime_dir/tallyd.sock; the folder is made. */
TALLY_MUST int tally_control_open(struct tally_loop *loop, const char *runtime_dir,
				  tally_control_fn fn, void *ctx,
				  struct tally_control **ret_control);
void tally_control_close(struct tally_control *control);

/* The client's side: ask, and wait at most timeout_ms for the whole answer. -ENOENT, -ECONNREFUSED:
 * no agent; -EPROTO: it does not know the request. */
TALLY_MUST int tally_control_ask(const char *runtime_dir, const char *request, int timeout_ms,
				 char **ret_answer);

#endif
