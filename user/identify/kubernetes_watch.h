/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pods of one node, as the API server tells them: a list, then a watch from there on, over one
 * HTTP connection in the agent's loop. The only user of libcurl.
 *
 *	        ┌────────── 410 Gone ──────────┐
 *	        v                              │
 *	 ┌─> list (pages) ──> watch (lines) ───┤
 *	 │      │                │  ^          │
 *	 │      │ fails          │  └─ ends: again, from the newest resourceVersion
 *	 │      v                v
 *	 └── wait (1 s, 2 s, ... 30 s, half of it by chance) ── then the watch again, if it had begun
 *
 * To that comes what the server asks for by Retry-After. Pods that ended (Succeeded, Failed) are not
 * asked for: one that ends is gone by an event. The kubelet says so when its containers are stopped; one
 * that is being stopped is still Running. Only metadata of pods is asked for (PartialObjectMetadata),
 * with verbs list and watch, and nothing else. The token is read from its file for each request, so that
 * a rotated one is taken.
 *
 * Invariants: W1 a server that cannot be reached takes nothing away: pods go only by an event, or
 * because a whole list does not hold them; W2 memory is bounded by a page or an event; what is larger
 * is refused and counted, and a page is asked for again with half as many pods; W3 the token is in no log,
 * and wiped after use; W4 no text of a pod, whatever is in it, takes the others away;
 * W5 the first list is asked of the API server's cache (resourceVersion=0), as a thousand nodes that start
 * must not all reach etcd, and later ones, and one too large for W2, of etcd by pages; a list that fails
 * begins anew, whatever page it had come to.
 */
#ifndef TALLY_IDENTIFY_KUBERNETES_WATCH_H
#define TALLY_IDENTIFY_KUBERNETES_WATCH_H

#include <jansson.h>

#include "base/loop.h"

#define TALLY_KUBERNETES_PAGE 100 /* pods of one page; fewer after one that was too large */
#define TALLY_KUBERNETES_BYTES (32U << 20) /* of one page, or one event */

#define TALLY_KUBERNETES_ERRORS(X)                                                        \
	X(CONNECT, "connect")	  /* no connection, or it broke */                        \
	X(TLS, "tls")		  /* no trust */                                          \
	X(TIMEOUT, "timeout")	  /* no answer in time */                                 \
	X(TOKEN, "token")	  /* its file cannot be read */                           \
	X(DENIED, "denied")	  /* 401, 403 */                                          \
	X(GONE, "gone")		  /* 410: the resourceVersion is too old; listed again */ \
	X(HTTP, "http")		  /* any other status */                                  \
	X(PARSE, "parse")	  /* not what the API promises */                         \
	X(TOO_LARGE, "too_large") /* a page or event beyond TALLY_KUBERNETES_BYTES */
#define TALLY_KUBERNETES_ERROR_ITEM(symbol, text) TALLY_KUBERNETES_ERROR_##symbol,
enum tally_kubernetes_error {
	TALLY_KUBERNETES_ERRORS(TALLY_KUBERNETES_ERROR_ITEM) TALLY_KUBERNETES_ERROR_COUNT
};

struct tally_kubernetes_watch;

/* Texts are copied. */
struct tally_kubernetes_watch_options {
	const char *api; /* https://HOST:PORT */
	const char *token_file, *ca_file;
	const char *node, *selector;
};

struct tally_kubernetes_events {
	void *ctx;
	void (*begin)(void *ctx);		       /* a list begins */
	void (*seen)(void *ctx, const json_t *object); /* a pod is there, new or changed */
	void (*gone)(void *ctx, const json_t *object); /* deleted, or no longer selected */
	void (*listed)(void *ctx);		       /* what was not seen since begin is gone */
};

struct tally_kubernetes_status {
	uint64_t lists, watches; /* requests */
	uint64_t events, bookmarks;
	uint64_t errors[TALLY_KUBERNETES_ERROR_COUNT];
	uint64_t synced_s; /* UTC of the newest answer that was good; 0: none yet */
	bool watching;
	uint64_t away_ns;			/* monotonic: since when not, or last not */
	enum tally_kubernetes_error last_error; /* if errors[] has any */
};

/* It begins at once, in the loop. */
TALLY_MUST int tally_kubernetes_watch_open(struct tally_loop *loop,
					   const struct tally_kubernetes_watch_options *options,
					   const struct tally_kubernetes_events *events,
					   struct tally_kubernetes_watch **ret_watch);
/* NULL is fine. Not from within an event. */
void tally_kubernetes_watch_close(struct tally_kubernetes_watch *watch);

void tally_kubernetes_watch_status(const struct tally_kubernetes_watch *watch,
				   struct tally_kubernetes_status *ret_status);
const char *tally_kubernetes_watch_error(enum tally_kubernetes_error error);

#endif
