// SPDX-License-Identifier: Apache-2.0
/*
 * The input is a list of decisions: send a request (method, key, target, body), or answer the oldest one
 * (interim answers, status, framing). Requests and answers are valid, bodies hold forged ones. A model
 * of a few lines says what must be booked: the n-th answer belongs to the n-th request, a key is known
 * once an answer has accepted it.
 */
#include "tests/fuzz/libengine.h"

#define EXCHANGES 28
#define OUTSTANDING TALLY_PIPELINE
#define TEXT 1200

struct target {
	const char *method, *path;
	unsigned int method_index, route; /* as the compiled rules number them */
	bool auth_none;
};

static struct target targets[] = {
	{ "GET", "/v1/items" },
	{ "HEAD", "/v1/items/7" },
	{ "POST", "/v1/items" },
	{ "PUT", "/v1/x/../y" },
	{ "GET", "/health", .auth_none = true },
	{ "FOO", "/none" },
	{ "OPTIONS", "*" },
};

static const char *const keys[] = { "A", "B", "a-longer-key-than-a-word", "D", NULL, "" };
static const unsigned int statuses[] = { 200, 204, 304, 401, 403, 404, 500, 201 };

struct request {
	const struct target *target;
	const char *key;
	size_t len;
};

struct model {
	const uint8_t *data;
	size_t size, at;
	struct engine_script script;
	struct request requests[EXCHANGES];
	size_t asked, answered;
	char texts[2 * EXCHANGES][TEXT];
	size_t n_texts;
	bool known[TALLY_ARRAY_SIZE(keys)];
	struct tally_meter_entry rows[2 * EXCHANGES];
	const char *row_keys[2 * EXCHANGES];
	size_t n_rows;
};

static unsigned int take(struct model *m, unsigned int n)
{
	return m->at < m->size ? m->data[m->at++] % n : 0;
}

/* What the rules call the targets: each alone through the meter. */
static void calibrate(const struct tally_rules *rules)
{
	static const struct engine_plan plan = { .isn = { 1, 2 } };
	static bool done;

	for (size_t i = 0; !done && i < TALLY_ARRAY_SIZE(targets); i++) {
		static const char answer[] = "HTTP/1.1 204 No\r\n\r\n";
		struct engine_script script = { .rules = rules };
		char text[128], *found;

		(void)snprintf(text, sizeof(text), "%s %s HTTP/1.1\r\n\r\n", targets[i].method,
			       targets[i].path);
		engine_add(&script, TALLY_METER_IN, text, strlen(text));
		engine_add(&script, TALLY_METER_OUT, answer, sizeof(answer) - 1);
		found = engine_play(&script, &plan);
		if (sscanf(found,
			   "key  (0, 0) attribution 1 detail 0 route %u method %u status 204",
			   &targets[i].route, &targets[i].method_index) != 2)
			abort();
		free(found);
	}
	done = true;
}

/* Texts ----------------------------------------------------------------------------------------- */

static const char forged[] = "GET /v1/items HTTP/1.1\r\nX-API-Key: D\r\n\r\n"
			     "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/* A body of n forged octets in one of three framings, with its header, behind a head. */
static void put_body(struct model *m, char *text, bool allowed)
{
	size_t n = take(m, sizeof(forged)), cut = n ? take(m, (unsigned int)n) : 0;
	unsigned int how = allowed ? take(m, 3) : 0;

	if (how == 0)
		strcat(text, allowed ? "Content-Length: 0\r\n\r\n" : "\r\n");
	else if (how == 1)
		sprintf(text + strlen(text), "Content-Length: %zu\r\n\r\n%.*s", n, (int)n, forged);
	else {
		strcat(text, "Transfer-Encoding: chunked\r\n\r\n");
		if (cut)
			sprintf(text + strlen(text), "%zx;x=y\r\n%.*s\r\n", cut, (int)cut, forged);
		if (n > cut)
			sprintf(text + strlen(text), "%zX\r\n%.*s\r\n", n - cut, (int)(n - cut),
				forged + cut);
		strcat(text, "0\r\nX-API-Key: D\r\n\r\n");
	}
}

static void ask(struct model *m)
{
	struct request *r = &m->requests[m->asked];
	char *text = m->texts[m->n_texts++];

	r->target = &targets[take(m, TALLY_ARRAY_SIZE(targets))];
	r->key = keys[take(m, TALLY_ARRAY_SIZE(keys))];
	sprintf(text, "%s %s HTTP/1.1\r\nHost: x\r\n", r->target->method, r->target->path);
	if (r->key)
		sprintf(text + strlen(text), "x-api-key:%s\r\n", r->key);
	put_body(m, text, take(m, 2));
	r->len = strlen(text);
	engine_add(&m->script, TALLY_METER_IN, text, r->len);
	m->asked++;
}

/* The model ------------------------------------------------------------------------------------- */

static void book(struct model *m, const struct request *r, unsigned int status, size_t len)
{
	struct tally_meter_entry *e = &m->rows[m->n_rows];
	bool has = r->key && *r->key, *known = NULL;

	for (size_t i = 0; has && i < TALLY_ARRAY_SIZE(keys); i++)
		if (keys[i] == r->key)
			known = &m->known[i];
	e->key.route = (uint16_t)r->target->route;
	e->key.method = (uint8_t)r->target->method_index;
	e->key.status = (uint16_t)status;
	e->key.protocol = TALLY_PROTO_HTTP11;
	e->key.attribution = TALLY_ATTR_ANONYMOUS;
	e->key.detail = r->key && !has ? TALLY_DETAIL_EMPTY_KEY : 0;
	if (has && !*known && status && status != 401 && status != 403 && !r->target->auth_none)
		*known = true;
	if (has && *known)
		e->key.attribution = TALLY_ATTR_KEY;
	else if (has)
		e->key.detail = status == 401 || status == 403 ? TALLY_DETAIL_REJECTED_KEY
							       : TALLY_DETAIL_UNVERIFIED_KEY;
	m->row_keys[m->n_rows++] = has && *known ? r->key : "";
	e->row.requests = 1;
	e->row.request_bytes = r->len;
	e->row.response_bytes = len;
}

static void answer(struct model *m)
{
	const struct request *r = &m->requests[m->answered++];
	char *text = m->texts[m->n_texts++];
	unsigned int interim = take(m, 3), status = statuses[take(m, TALLY_ARRAY_SIZE(statuses))];
	bool body = status != 204 && status != 304;

	*text = 0;
	for (unsigned int i = 0; i < interim; i++)
		strcat(text, i ? "HTTP/1.1 103 Early\r\nLink: <a>\r\n\r\n"
			       : "HTTP/1.1 100 Continue\r\n\r\n");
	sprintf(text + strlen(text), "HTTP/1.1 %u Reason\r\n", status);
	if (!strcmp(r->target->method, "HEAD") || !body)
		strcat(text, "Content-Length: 77\r\n\r\n");
	else
		put_body(m, text, true);
	engine_add(&m->script, TALLY_METER_OUT, text, strlen(text));
	book(m, r, status, strlen(text));
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool joins(const struct model *m, size_t a, size_t b)
{
	return !memcmp(&m->rows[a].key, &m->rows[b].key, sizeof(m->rows[a].key)) &&
	       !strcmp(m->row_keys[a], m->row_keys[b]);
}

/* Equal rows are one, as in the ledger. */
static void add_up(struct model *m)
{
	for (size_t i = 0; i < m->n_rows; i++)
		for (size_t j = 0; j < i && m->rows[i].row.requests; j++) {
			if (!joins(m, i, j) || !m->rows[j].row.requests)
				continue;
			m->rows[j].row.requests += m->rows[i].row.requests;
			m->rows[j].row.request_bytes += m->rows[i].row.request_bytes;
			m->rows[j].row.response_bytes += m->rows[i].row.response_bytes;
			m->rows[i].row.requests = 0;
		}
}

/* In the form of engine_play(). */
static char *expected(struct model *m)
{
	char *lines[2 * EXCHANGES], *text = NULL;
	size_t n = 0, bytes = 0;
	FILE *out = open_memstream(&text, &bytes);

	add_up(m);
	for (size_t i = 0; i < m->n_rows; i++) {
		const struct tally_meter_entry *e = &m->rows[i];

		if (!e->row.requests)
			continue;
		lines[n++] = engine_row(e, m->row_keys[i], strlen(m->row_keys[i]));
	}
	qsort(lines, n, sizeof(lines[0]), by_text);
	for (size_t i = 0; i < n; i++) {
		fprintf(out, "%s\n", lines[i]);
		free(lines[i]);
	}
	fclose(out);
	return text;
}

static void check(struct model *m, enum engine_cut cut, const char *want)
{
	struct engine_plan plan = { .cut = cut,
				    .seed = m->size * 977 + m->asked,
				    .isn = { -9u, 5 } };
	char *found = engine_play(&m->script, &plan);

	if (strcmp(want, found)) {
		fprintf(stderr, "cut %d; the model:\n%sthe meter:\n%s", cut, want, found);
		for (size_t i = 0; i < m->n_texts; i++)
			fprintf(stderr, "--- %s\n%s", m->script.steps[i].dir ? "server" : "client",
				m->texts[i]);
		abort();
	}
	free(found);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct model *m = calloc(1, sizeof(*m));
	char *want;

	if (!m)
		abort();
	m->data = data;
	m->size = size;
	m->script.rules = engine_rules("default");
	calibrate(m->script.rules);
	while (m->at < m->size && m->asked < EXCHANGES) {
		bool more = take(m, 2);

		if (m->asked == m->answered || (more && m->asked - m->answered < OUTSTANDING))
			ask(m);
		else
			answer(m);
	}
	while (m->answered < m->asked)
		answer(m);
	want = expected(m);
	for (int cut = ENGINE_WHOLE; cut <= ENGINE_REORDERED; cut++)
		check(m, (enum engine_cut)cut, want);
	free(want);
	free(m);
	return 0;
}
