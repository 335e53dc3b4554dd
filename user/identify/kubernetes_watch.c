/* SPDX-License-Identifier: Apache-2.0 */
#include "identify/kubernetes_watch.h"

#include <curl/curl.h>
#include <sys/epoll.h>
#include <time.h>

#include "base/log.h"

#define TOKEN_MAX 65536
#define RETRY_MIN_NS TALLY_NS_PER_S
#define RETRY_MAX_NS (30 * TALLY_NS_PER_S)
#define RETRY_AFTER_MAX_NS (300 * TALLY_NS_PER_S) /* what a server may ask for */
#define CONNECT_S 10L
#define LIST_S 60L    /* one page */
#define SILENCE_S 150 /* of a watch: bookmarks come every minute */
#define WATCH_S 300   /* and up to as much again: then the server ends it */

/* Of a pod that ended no process runs any more, however long its object stays. */
#define NOT_ENDED "%2Cstatus.phase%21%3DSucceeded%2Cstatus.phase%21%3DFailed"

enum step { STEP_LIST, STEP_WATCH };

struct buffer {
	char *data;
	size_t n, cap;
};

struct tally_kubernetes_watch {
	struct tally_loop *loop;
	struct tally_kubernetes_events events;
	struct tally_kubernetes_status status;
	char *api, *token_file, *ca_file, *node, *selector;

	CURLM *multi;
	CURL *easy;
	bool running; /* easy is in multi */
	struct curl_slist *headers;
	struct tally_loop_source *curl_timer, *retry_timer;

	enum step step;
	uint64_t began_ns; /* the request */
	char *version;	   /* newest resourceVersion; NULL: list first */
	char *next;	   /* `continue` of the next page */
	unsigned int page; /* pods of one */
	bool exact;	   /* W5: the list is not asked of a cache */
	uint64_t retry_ns;
	struct buffer body;
	int refused; /* enum tally_kubernetes_error + 1: why the body was refused */
};

const char *tally_kubernetes_watch_error(enum tally_kubernetes_error error)
{
#define TEXT(symbol, text) [TALLY_KUBERNETES_ERROR_##symbol] = (text),
	static const char *const texts[] = { TALLY_KUBERNETES_ERRORS(TEXT) };

	return texts[error];
}

/* ---- what arrives ---- */

static int append(struct buffer *buffer, const char *data, size_t n)
{
	if (n > TALLY_KUBERNETES_BYTES - buffer->n)
		return -E2BIG;
	if (buffer->n + n > buffer->cap) {
		size_t cap = TALLY_MAX(buffer->cap * 2, buffer->n + n + 4096);
		char *more = realloc(buffer->data, cap);

		if (!more)
			return -ENOMEM;
		buffer->data = more;
		buffer->cap = cap;
	}
	memcpy(buffer->data + buffer->n, data, n);
	buffer->n += n;
	return 0;
}

static int set_text(char **text, const char *value)
{
	char *copy = value && *value ? strdup(value) : NULL;

	if (value && *value && !copy)
		return -ENOMEM;
	free(*text);
	*text = copy;
	return 0;
}

static void set_watching(struct tally_kubernetes_watch *w, bool watching)
{
	if (!watching && w->status.watching)
		w->status.away_ns = tally_util_mono_ns();
	w->status.watching = watching;
}

static void note_good(struct tally_kubernetes_watch *w)
{
	w->status.synced_s = tally_util_real_ns() / TALLY_NS_PER_S;
	w->retry_ns = 0;
}

static const char *text_at(const json_t *object, const char *name)
{
	return json_string_value(json_object_get(json_object_get(object, "metadata"), name));
}

/* One line of a watch: {"type":"ADDED|MODIFIED|DELETED|BOOKMARK|ERROR","object":{...}} */
static int take_event(struct tally_kubernetes_watch *w, const json_t *event)
{
	const char *type = json_string_value(json_object_get(event, "type"));
	const json_t *object = json_object_get(event, "object");

	if (!type || !object)
		return TALLY_KUBERNETES_ERROR_PARSE + 1;
	if (!strcmp(type, "ERROR"))
		return json_integer_value(json_object_get(object, "code")) == 410
			       ? TALLY_KUBERNETES_ERROR_GONE + 1
			       : TALLY_KUBERNETES_ERROR_HTTP + 1;
	if (!text_at(object, "resourceVersion") ||
	    set_text(&w->version, text_at(object, "resourceVersion")))
		return TALLY_KUBERNETES_ERROR_PARSE + 1;
	note_good(w);
	if (!strcmp(type, "BOOKMARK")) {
		w->status.bookmarks++;
		return 0;
	}
	w->status.events++;
	if (!strcmp(type, "DELETED"))
		w->events.gone(w->events.ctx, object);
	else
		w->events.seen(w->events.ctx, object);
	return 0;
}

/* W4: what Go reads and we do not: nested too deeply, or with a NUL in a name. */
static void leave_out(struct tally_kubernetes_watch *w)
{
	w->status.errors[TALLY_KUBERNETES_ERROR_PARSE]++;
	tally_log_warning("kubernetes", "reason=%s",
			  "a pod is left out: its metadata cannot be read");
}

static int take_line(struct tally_kubernetes_watch *w, const char *line, size_t n)
{
	static const char begin[] = "{\"type\":\"";
	json_t *event = json_loadb(line, n, JSON_ALLOW_NUL, NULL); /* W4: texts are checked later */
	int refused = event ? take_event(w, event) : TALLY_KUBERNETES_ERROR_PARSE + 1;

	if (!event && n > strlen(begin) && !memcmp(line, begin, strlen(begin))) {
		leave_out(w);
		refused = 0;
	}
	json_decref(event);
	return refused;
}

/* Whole lines are taken, the rest waits. */
static int take_lines(struct tally_kubernetes_watch *w)
{
	char *at = w->body.data, *end = at + w->body.n, *newline;
	int refused = 0;

	while (!refused && at < end && (newline = memchr(at, '\n', (size_t)(end - at)))) {
		if (newline > at)
			refused = take_line(w, at, (size_t)(newline - at));
		at = newline + 1;
	}
	w->body.n = (size_t)(end - at);
	memmove(w->body.data, at, w->body.n);
	return refused;
}

static long status_of(struct tally_kubernetes_watch *w)
{
	long status = 0;

	return curl_easy_getinfo(w->easy, CURLINFO_RESPONSE_CODE, &status) ? 0 : status;
}

/* W2: a cache answers whole, not by pages; pods of up to some megabytes each are fewer to a page. */
static void refuse_size(struct tally_kubernetes_watch *w)
{
	w->refused = TALLY_KUBERNETES_ERROR_TOO_LARGE + 1;
	if (w->step == STEP_LIST && w->exact)
		w->page = TALLY_MAX(w->page / 2, 1U);
	w->exact |= w->step == STEP_LIST;
}

/* Returning less than n ends the transfer. */
static size_t on_body(char *data, size_t size, size_t n, void *ctx)
{
	struct tally_kubernetes_watch *w = ctx;

	if (append(&w->body, data, n))
		refuse_size(w);
	else if (w->step == STEP_WATCH && status_of(w) == 200)
		w->refused = take_lines(w);
	return w->refused ? 0 : n;
}

/* A watch is on when its head has come: on a quiet node the first line is a bookmark, a minute later. */
static size_t on_head(char *data, size_t size, size_t n, void *ctx)
{
	struct tally_kubernetes_watch *w = ctx;

	if (w->step == STEP_WATCH && n == 2 && status_of(w) == 200)
		set_watching(w, true);
	return n;
}

/* Behind the object that begins here; NULL: it does not end. */
static const char *end_of_object(const char *at, const char *end)
{
	bool quoted = false;
	size_t depth = 0;

	for (; at < end; at++) {
		if (quoted && *at == '\\')
			at++;
		else if (*at == '"')
			quoted = !quoted;
		else if (!quoted && *at == '{')
			depth++;
		else if (!quoted && *at == '}' && --depth == 0)
			return at + 1;
	}
	return NULL;
}

/* The pods of a page, as far as each can be read. 0, or -EBADMSG. */
static int read_pods(struct tally_kubernetes_watch *w, const char *at, json_t *items)
{
	const char *end = w->body.data + w->body.n;

	while (at < end && *at == '{') {
		const char *behind = end_of_object(at, end);
		json_t *item;

		if (!behind)
			return -EBADMSG;
		item = json_loadb(at, (size_t)(behind - at), JSON_ALLOW_NUL, NULL);
		if (!item)
			leave_out(w);
		else if (json_array_append_new(items, item))
			return -EBADMSG;
		at = behind + (behind < end && *behind == ',');
	}
	return at < end && *at == ']' ? 0 : -EBADMSG;
}

/* W4: before its pods a page has only words of the API server. */
static json_t *read_pod_by_pod(struct tally_kubernetes_watch *w)
{
	static const char begin[] = "\"items\":[";
	const char *at = w->body.n ? memmem(w->body.data, w->body.n, begin, strlen(begin)) : NULL;
	_cleanup_free_ char *head = NULL;
	json_t *list;

	if (!at)
		return NULL;
	at += strlen(begin);
	if (asprintf(&head, "%.*s]}", (int)(at - w->body.data), w->body.data) < 0)
		head = NULL;
	list = head ? json_loads(head, 0, NULL) : NULL;
	if (!list || !read_pods(w, at, json_object_get(list, "items")))
		return list;
	json_decref(list);
	return NULL;
}

static json_t *read_page(struct tally_kubernetes_watch *w)
{
	const char *body = w->body.data ? w->body.data : "";
	json_t *list = json_loadb(body, w->body.n, JSON_ALLOW_NUL, NULL); /* W4 */

	return list ? list : read_pod_by_pod(w);
}

static int take_page(struct tally_kubernetes_watch *w)
{
	json_t *list = read_page(w);
	json_t *items = json_object_get(list, "items"), *item;
	int refused = 0;
	size_t i;

	/* an empty list has null for items */
	if (!list || (items && !json_is_array(items) && !json_is_null(items)) ||
	    !text_at(list, "resourceVersion") || set_text(&w->next, text_at(list, "continue")) ||
	    set_text(&w->version, w->next ? NULL : text_at(list, "resourceVersion")))
		refused = TALLY_KUBERNETES_ERROR_PARSE + 1;
	json_array_foreach(items, i, item)
		if (!refused)
			w->events.seen(w->events.ctx, item);
	json_decref(list);
	if (refused)
		return refused;
	note_good(w);
	if (w->version) {
		w->step = STEP_WATCH;
		w->events.listed(w->events.ctx);
	}
	return 0;
}

/* ---- requests ---- */

static int add_escaped(struct tally_kubernetes_watch *w, FILE *url, const char *name,
		       const char *value)
{
	char *escaped = curl_easy_escape(w->easy, value, 0);

	if (!escaped)
		return -ENOMEM;
	(void)fprintf(url, "&%s%s", name, escaped); /* seen when it is closed */
	curl_free(escaped);
	return 0;
}

static uint32_t chance(uint32_t below)
{
	uint32_t value = 0;

	(void)!tally_util_random(&value, sizeof(value)); /* 0 is a value, too */
	return value % below;
}

static int make_url(struct tally_kubernetes_watch *w, char **ret_url)
{
	size_t bytes;
	FILE *url = open_memstream(ret_url, &bytes);
	int err;

	if (!url)
		return -ENOMEM;
	if (w->step == STEP_LIST)
		(void)fprintf(url, "%s/api/v1/pods?limit=%u", w->api, w->page);
	else
		(void)fprintf(url,
			      "%s/api/v1/pods?watch=1&allowWatchBookmarks=true&timeoutSeconds=%u",
			      w->api, WATCH_S + chance(WATCH_S));
	err = add_escaped(w, url, "fieldSelector=spec.nodeName%3D", w->node);
	(void)fputs(NOT_ENDED, url);
	if (!err)
		err = add_escaped(w, url, "labelSelector=", w->selector);
	if (!err && w->step == STEP_LIST && w->next)
		err = add_escaped(w, url, "continue=", w->next);
	else if (!err && w->step == STEP_LIST && !w->exact)
		(void)fputs("&resourceVersion=0", url);
	if (!err && w->step == STEP_WATCH)
		err = add_escaped(w, url, "resourceVersion=", w->version);
	if (fclose(url) && !err)
		err = -ENOMEM;
	return err;
}

static int make_headers(struct tally_kubernetes_watch *w)
{
	static const char accept[] = "Accept: application/json;as=PartialObjectMetadata%s;"
				     "g=meta.k8s.io;v=v1";
	char *token = NULL, *line = NULL, text[128];
	struct curl_slist *more;
	size_t bytes;
	int err = tally_util_read_file(w->token_file, TOKEN_MAX, &token, &bytes);

	if (err)
		return err;
	token[strcspn(token, " \t\r\n")] = 0;
	(void)snprintf(text, sizeof(text), accept, w->step == STEP_LIST ? "List" : "");
	if (asprintf(&line, "Authorization: Bearer %s", token) < 0)
		line = NULL;
	tally_util_wipe_free(token);
	curl_slist_free_all(w->headers);
	w->headers = line ? curl_slist_append(NULL, line) : NULL;
	more = w->headers ? curl_slist_append(w->headers, text) : NULL;
	tally_util_wipe_free(line);
	return more ? 0 : -ENOMEM;
}

/* Copies of the token go with the request. */
static void drop_headers(struct tally_kubernetes_watch *w)
{
	for (struct curl_slist *h = w->headers; h; h = h->next)
		explicit_bzero(h->data, strlen(h->data));
	curl_slist_free_all(w->headers);
	w->headers = NULL;
}

#define SET(option, value) (failed |= curl_easy_setopt(w->easy, option, value) != CURLE_OK)

static int set_options(struct tally_kubernetes_watch *w, const char *url)
{
	bool is_list = w->step == STEP_LIST;
	bool failed = false;

	SET(CURLOPT_URL, url);
	SET(CURLOPT_HTTPHEADER, w->headers);
	SET(CURLOPT_WRITEFUNCTION, on_body);
	SET(CURLOPT_WRITEDATA, w);
	SET(CURLOPT_HEADERFUNCTION, on_head);
	SET(CURLOPT_HEADERDATA, w);
	SET(CURLOPT_CAINFO, w->ca_file);
	SET(CURLOPT_CAPATH, NULL);
	SET(CURLOPT_CA_CACHE_TIMEOUT, 0L); /* it may have been renewed */
	SET(CURLOPT_PROTOCOLS_STR, "https,http");
	SET(CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
	SET(CURLOPT_PROXY, ""); /* whatever the environment says */
	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_USERAGENT, "tallyd");
	SET(CURLOPT_TCP_KEEPALIVE, 1L);
	SET(CURLOPT_CONNECTTIMEOUT, CONNECT_S);
	SET(CURLOPT_TIMEOUT, is_list ? LIST_S : 0L);
	SET(CURLOPT_LOW_SPEED_LIMIT, 1L);
	SET(CURLOPT_LOW_SPEED_TIME, is_list ? LIST_S : (long)SILENCE_S);
	return failed ? -EINVAL : 0;
}

/* Of a server that has too much to do: 429, 503. */
static uint64_t asked_wait_ns(struct tally_kubernetes_watch *w)
{
	curl_off_t seconds = 0;

	if (curl_easy_getinfo(w->easy, CURLINFO_RETRY_AFTER, &seconds) || seconds <= 0)
		return 0;
	return TALLY_MIN((uint64_t)seconds, RETRY_AFTER_MAX_NS / TALLY_NS_PER_S) * TALLY_NS_PER_S;
}

static void wait_and_retry(struct tally_kubernetes_watch *w)
{
	uint64_t wait_ns;

	w->retry_ns = w->retry_ns ? TALLY_MIN(w->retry_ns * 2, RETRY_MAX_NS) : RETRY_MIN_NS;
	wait_ns = asked_wait_ns(w) + w->retry_ns / 2 + w->retry_ns / 2000 * chance(1000);
	if (tally_loop_set_timer(w->retry_timer, tally_util_mono_ns() + wait_ns, 0))
		tally_log_error("kubernetes", "error=%s", "no timer: pods are no longer watched");
}

static void fail(struct tally_kubernetes_watch *w, enum tally_kubernetes_error error,
		 const char *text)
{
	w->status.errors[error]++;
	w->status.last_error = error;
	set_watching(w, false);
	(void)!set_text(&w->next, NULL); /* cannot fail; W5 */
	if (error == TALLY_KUBERNETES_ERROR_GONE) {
		(void)!set_text(&w->version, NULL); /* likewise */
		w->exact = true;
		tally_log_info("kubernetes", "reason=%s", "resourceVersion too old: listing again");
	} else {
		tally_log_warning("kubernetes", "api=%s failed=%s error=%s text=%s", w->api,
				  w->step == STEP_LIST ? "list" : "watch",
				  tally_kubernetes_watch_error(error), text);
	}
	wait_and_retry(w);
}

static void begin(struct tally_kubernetes_watch *w)
{
	_cleanup_free_ char *url = NULL;
	int err;

	w->step = w->version ? STEP_WATCH : STEP_LIST;
	w->body.n = 0;
	w->refused = 0;
	err = make_headers(w);
	if (err) {
		fail(w, TALLY_KUBERNETES_ERROR_TOKEN, strerror(-err));
		return;
	}
	err = make_url(w, &url);
	if (!err)
		err = set_options(w, url);
	if (!err && curl_multi_add_handle(w->multi, w->easy))
		err = -ENOMEM;
	if (err) {
		fail(w, TALLY_KUBERNETES_ERROR_CONNECT, strerror(-err));
		return;
	}
	w->running = true;
	w->began_ns = tally_util_mono_ns();
	w->status.lists += w->step == STEP_LIST;
	w->status.watches += w->step == STEP_WATCH;
	if (w->step == STEP_LIST && !w->next)
		w->events.begin(w->events.ctx);
}

static enum tally_kubernetes_error error_of_curl(CURLcode code)
{
	switch (code) {
	case CURLE_OPERATION_TIMEDOUT:
		return TALLY_KUBERNETES_ERROR_TIMEOUT;
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CONNECT_ERROR:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_ISSUER_ERROR:
	case CURLE_SSL_CERTPROBLEM:
		return TALLY_KUBERNETES_ERROR_TLS;
	default:
		return TALLY_KUBERNETES_ERROR_CONNECT;
	}
}

static enum tally_kubernetes_error error_of_status(long status)
{
	if (status == 410)
		return TALLY_KUBERNETES_ERROR_GONE;
	return status == 401 || status == 403 ? TALLY_KUBERNETES_ERROR_DENIED
					      : TALLY_KUBERNETES_ERROR_HTTP;
}

/* A page, or a watch that lasted, is followed by the next request at once. */
static void on_end(struct tally_kubernetes_watch *w, CURLcode code)
{
	long status = status_of(w);
	enum step was = w->step;
	char text[32];

	(void)snprintf(text, sizeof(text), "status %ld", status);
	if (!w->refused && code == CURLE_OK && status == 200 && w->step == STEP_LIST)
		w->refused = take_page(w);
	else if (!w->refused && code == CURLE_OK && status == 200)
		set_watching(w, false);
	if (w->refused)
		fail(w, (enum tally_kubernetes_error)(w->refused - 1), "body");
	else if (code != CURLE_OK)
		fail(w, error_of_curl(code), curl_easy_strerror(code));
	else if (status != 200)
		fail(w, error_of_status(status), text);
	else if (was == STEP_WATCH && tally_util_mono_ns() - w->began_ns < TALLY_NS_PER_S)
		wait_and_retry(w);
	else
		begin(w);
}

/* ---- libcurl in the loop ---- */

static void take_messages(struct tally_kubernetes_watch *w)
{
	CURLMsg *message;
	int left;

	while ((message = curl_multi_info_read(w->multi, &left))) {
		CURLcode code = message->data.result;

		if (message->msg != CURLMSG_DONE)
			continue;
		(void)curl_multi_remove_handle(w->multi, w->easy); /* it is in there */
		w->running = false;
		drop_headers(w);
		on_end(w, code);
	}
}

/* One connection of libcurl's. */
struct wire {
	struct tally_kubernetes_watch *watch;
	curl_socket_t fd;
	struct tally_loop_source *source;
};

static int on_wire(void *ctx, uint32_t events, uint64_t value)
{
	struct wire *wire = ctx;
	struct tally_kubernetes_watch *w = wire->watch;
	int running, mask = (events & EPOLLIN ? CURL_CSELECT_IN : 0) |
			    (events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
			    (events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0);

	(void)curl_multi_socket_action(w->multi, wire->fd, mask, &running); /* see messages */
	take_messages(w);
	return 0;
}

static int add_wire(struct tally_kubernetes_watch *w, curl_socket_t fd, uint32_t events)
{
	_cleanup_free_ struct wire *wire = calloc(1, sizeof(*wire));
	int err;

	if (!wire)
		return -ENOMEM;
	*wire = (struct wire){ .watch = w, .fd = fd };
	err = tally_loop_add_fd(w->loop, fd, events, on_wire, wire, &wire->source);
	if (err)
		return err;
	(void)curl_multi_assign(w->multi, fd, TAKE_PTR(wire)); /* libcurl just named it */
	return 0;
}

/* CURLMOPT_SOCKETFUNCTION. -1 makes libcurl fail the transfer. */
static int on_wires(CURL *easy, curl_socket_t fd, int what, void *ctx, void *socket)
{
	struct tally_kubernetes_watch *w = ctx;
	struct wire *wire = socket;
	uint32_t events =
		(what & CURL_POLL_IN ? EPOLLIN : 0) | (what & CURL_POLL_OUT ? EPOLLOUT : 0);

	if (what == CURL_POLL_REMOVE) {
		if (wire)
			tally_loop_remove(wire->source);
		free(wire);
		return 0;
	}
	if (wire)
		return tally_loop_set_events(wire->source, events) ? -1 : 0;
	return add_wire(w, fd, events) ? -1 : 0;
}

static int on_curl_timer(void *ctx, uint32_t events, uint64_t value)
{
	struct tally_kubernetes_watch *w = ctx;
	int running;

	(void)curl_multi_socket_action(w->multi, CURL_SOCKET_TIMEOUT, 0, &running); /* likewise */
	take_messages(w);
	return 0;
}

/* CURLMOPT_TIMERFUNCTION. It may come from within libcurl, which must not be entered again. */
static int on_deadline(CURLM *multi, long timeout_ms, void *ctx)
{
	struct tally_kubernetes_watch *w = ctx;
	uint64_t at_ns = 0;

	if (timeout_ms >= 0)
		at_ns = tally_util_mono_ns() + (uint64_t)timeout_ms * 1000000 + 1;
	return tally_loop_set_timer(w->curl_timer, at_ns, 0) ? -1 : 0;
}

static int on_retry(void *ctx, uint32_t events, uint64_t value)
{
	struct tally_kubernetes_watch *w = ctx;

	if (!w->running)
		begin(w);
	return 0;
}

/* ---- open, close ---- */

static int copy_options(struct tally_kubernetes_watch *w,
			const struct tally_kubernetes_watch_options *options)
{
	size_t len;

	if (set_text(&w->api, options->api) || set_text(&w->token_file, options->token_file) ||
	    set_text(&w->ca_file, options->ca_file) || set_text(&w->node, options->node) ||
	    set_text(&w->selector, options->selector))
		return -ENOMEM;
	if (!w->api || !w->token_file || !w->ca_file || !w->node || !w->selector)
		return -EINVAL;
	len = strlen(w->api);
	if (w->api[len - 1] == '/')
		w->api[len - 1] = 0;
	return 0;
}

static int open_curl(struct tally_kubernetes_watch *w)
{
	if (curl_global_init(CURL_GLOBAL_DEFAULT))
		return -ENOMEM;
	w->multi = curl_multi_init();
	w->easy = curl_easy_init();
	if (!w->multi || !w->easy)
		return -ENOMEM;
	if (curl_multi_setopt(w->multi, CURLMOPT_SOCKETFUNCTION, on_wires) ||
	    curl_multi_setopt(w->multi, CURLMOPT_SOCKETDATA, w) ||
	    curl_multi_setopt(w->multi, CURLMOPT_TIMERFUNCTION, on_deadline) ||
	    curl_multi_setopt(w->multi, CURLMOPT_TIMERDATA, w))
		return -EINVAL;
	return 0;
}

int tally_kubernetes_watch_open(struct tally_loop *loop,
				const struct tally_kubernetes_watch_options *options,
				const struct tally_kubernetes_events *events,
				struct tally_kubernetes_watch **ret_watch)
{
	struct tally_kubernetes_watch *w = calloc(1, sizeof(*w));
	int err;

	if (!w)
		return -ENOMEM;
	w->loop = loop;
	w->page = TALLY_KUBERNETES_PAGE;
	w->status.away_ns = tally_util_mono_ns();
	w->events = *events;
	err = copy_options(w, options);
	if (!err)
		err = open_curl(w);
	if (!err)
		err = tally_loop_add_timer(loop, CLOCK_MONOTONIC, on_curl_timer, w, &w->curl_timer);
	if (!err)
		err = tally_loop_add_timer(loop, CLOCK_MONOTONIC, on_retry, w, &w->retry_timer);
	if (!err)
		err = tally_loop_set_timer(w->retry_timer, 1, 0); /* long past: at once */
	if (err) {
		tally_kubernetes_watch_close(w);
		return err;
	}
	*ret_watch = w;
	return 0;
}

void tally_kubernetes_watch_close(struct tally_kubernetes_watch *w)
{
	if (!w)
		return;
	if (w->running)
		(void)curl_multi_remove_handle(w->multi, w->easy); /* it is in there */
	curl_easy_cleanup(w->easy);
	if (w->multi)
		(void)curl_multi_cleanup(w->multi); /* closes its connections: wires go */
	drop_headers(w);
	tally_loop_remove(w->curl_timer);
	tally_loop_remove(w->retry_timer);
	set_text(&w->version, NULL);
	set_text(&w->next, NULL);
	free(w->api);
	free(w->token_file);
	free(w->ca_file);
	free(w->node);
	free(w->selector);
	free(w->body.data);
	free(w);
}

void tally_kubernetes_watch_status(const struct tally_kubernetes_watch *w,
				   struct tally_kubernetes_status *ret_status)
{
	*ret_status = w->status;
}
