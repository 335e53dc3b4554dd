/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/diff/parsers.h"

#include <http_parser.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bpf/engine/h1.h"
#include "tests/diff/fields.h"

uint64_t diff_random(uint64_t *seed)
{
	uint64_t z = *seed += 0x9e3779b97f4a7c15ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

/* The engine ------------------------------------------------------------------------------------ */

struct engine {
	struct tally_h1 h1;
	struct tally_chunk chunk;
	const struct stream *s;
	const struct tally_rules *rules;
	struct reading *r;
	size_t finals; /* of responses */
};

static enum kind kind_of(const struct stream *s, size_t final)
{
	return final < s->n_kinds ? (enum kind)s->kinds[final] : KIND_OTHER;
}

/* As bpf/engine/conn.h frames a response. */
static void frame_response(struct engine *e)
{
	struct tally_h1 *p = &e->h1;
	enum kind kind = kind_of(e->s, e->finals);
	bool tunnel = p->status == 101 || (kind == KIND_CONNECT && p->status / 100 == 2 &&
					   !(p->flags & (H1_F_LENGTH | H1_F_CODING)));

	if (p->status < 200 && p->status != 101) {
		tally_h1_frame_response(p, 0, 0);
		return;
	}
	e->finals++;
	tally_h1_frame_response(p, kind == KIND_HEAD, tunnel);
}

/* Of the connection, or of this request alone. */
static uint8_t engine_doubt(const struct tally_h1 *p)
{
	return p->taint ? p->taint : h1_doubt(p);
}

static void engine_head(struct engine *e, size_t at)
{
	struct message *m = &e->r->m[e->r->n];
	struct tally_h1 *p = &e->h1;

	if (e->s->response)
		frame_response(e);
	if (e->r->n == MESSAGES)
		return;
	m->head_end = at;
	m->status = p->status;
	m->major = 1;
	m->minor = p->protocol == TALLY_PROTO_HTTP10   ? 0
		   : p->protocol == TALLY_PROTO_HTTP11 ? 1
						       : 9;
	if (!e->s->response && p->method)
		memcpy(m->method, &e->rules->method[p->method], 8);
	m->has_key = p->key_priority;
	m->key_hash = p->key_hash;
	m->taint = engine_doubt(p);
	m->end = p->state == H1_START ? at : 0;
	e->r->n++;
}

static void engine_event(struct engine *e, size_t at)
{
	struct tally_h1 *p = &e->h1;
	__u8 event = p->event;

	p->event = TALLY_EV_MORE;
	if (event == TALLY_EV_SPILL) {
		tally_h1_key_hash(p, e->rules);
		p->key_spilled += p->key_len;
		p->key_len = 0;
	} else if (event == TALLY_EV_HEAD) {
		engine_head(e, at);
		if (!e->s->response && p->spill_slot)
			p->spill_slot = 0;
	} else if (event == TALLY_EV_END && e->r->n && !e->r->m[e->r->n - 1].end) {
		e->r->m[e->r->n - 1].end = at;
		e->r->m[e->r->n - 1].taint = engine_doubt(p);
	}
}

void read_engine(const struct stream *s, const struct tally_rules *rules, uint64_t seed,
		 struct reading *ret)
{
	struct engine *e = calloc(1, sizeof(*e));

	if (!e)
		abort();
	memset(ret, 0, sizeof(*ret));
	e->s = s;
	e->rules = rules;
	e->r = ret;
	tally_h1_init(&e->h1, s->response);
	for (size_t at = 0, n; at < s->len && ret->n < MESSAGES; at += n) {
		n = 1 + diff_random(&seed) % (diff_random(&seed) % 3 ? 64 : TALLY_CHUNK);
		n = n < s->len - at ? n : s->len - at;
		memcpy(e->chunk.b, s->data + at, n);
		memset(e->chunk.b + n, (int)diff_random(&seed), TALLY_CHUNK_PAD);
		e->h1.pos = 0;
		e->h1.end = (__u32)n;
		while (e->h1.pos < e->h1.end && ret->n < MESSAGES)
			if (tally_h1_run(&e->h1, &e->chunk, rules))
				engine_event(e, at + e->h1.pos);
	}
	ret->bad = e->h1.state == H1_BAD;
	/* Responses are the operator's own: doubts do not count as long as they can be read. */
	for (size_t i = 0; s->response && i < ret->n; i++)
		ret->m[i].taint = 0;
	ret->taint = s->response && !ret->bad ? 0 : engine_doubt(&e->h1);
	ret->open = e->h1.state != H1_START;
	free(e);
}

/* http-parser ----------------------------------------------------------------------------------- */

struct other {
	http_parser p;
	const struct stream *s;
	const struct tally_rules *rules;
	struct reading *r;
	struct fields fields;
	char url[16384];
	size_t url_len, at, finals;
	bool stop;
};

static int on_begin(http_parser *p)
{
	struct other *o = p->data;

	fields_begin(&o->fields);
	o->url_len = 0;
	o->r->open = true;
	return 0;
}

static int on_url(http_parser *p, const char *at, size_t n)
{
	struct other *o = p->data;

	if (o->url_len + n <= sizeof(o->url)) {
		memcpy(o->url + o->url_len, at, n);
		o->url_len += n;
	}
	return 0;
}

static int on_name(http_parser *p, const char *at, size_t n)
{
	struct other *o = p->data;

	if (o->r->n == 0 || o->r->m[o->r->n - 1].end)
		fields_name(&o->fields, at, n);
	return 0;
}

static int on_value(http_parser *p, const char *at, size_t n)
{
	struct other *o = p->data;

	if (o->r->n == 0 || o->r->m[o->r->n - 1].end)
		fields_value(&o->fields, at, n);
	return 0;
}

static int on_head(http_parser *p)
{
	struct other *o = p->data;
	struct message *m = &o->r->m[o->r->n];
	enum kind kind = kind_of(o->s, o->finals);
	bool interim = o->s->response && p->status_code < 200 && p->status_code != 101;

	if (o->r->n == MESSAGES)
		return -1;
	m->head_end = o->at + 1;
	m->major = p->http_major;
	m->minor = p->http_minor;
	m->status = o->s->response ? p->status_code : 0;
	o->r->n++;
	if (!o->s->response) {
		(void)snprintf(m->method, sizeof(m->method), "%s",
			       http_method_str((enum http_method)p->method));
		fields_url(&o->fields, o->url, o->url_len);
		fields_end(&o->fields, o->rules, m);
		return 0;
	}
	o->finals += !interim;
	/* RFC 9112 6.3: the library leaves this to its user. */
	return interim || kind == KIND_HEAD || p->status_code == 204 || p->status_code == 304;
}

static int on_end(http_parser *p)
{
	struct other *o = p->data;

	o->r->m[o->r->n - 1].end = o->at + 1;
	o->r->open = false;
	/* Requests after an upgrade that the server does not take are requests. */
	if (p->upgrade && o->s->response)
		o->stop = true;
	return 0;
}

void read_http_parser(const struct stream *s, const struct tally_rules *rules, struct reading *ret)
{
	static const http_parser_settings settings = { .on_message_begin = on_begin,
						       .on_url = on_url,
						       .on_header_field = on_name,
						       .on_header_value = on_value,
						       .on_headers_complete = on_head,
						       .on_message_complete = on_end };
	struct other *o = calloc(1, sizeof(*o));

	if (!o)
		abort();
	memset(ret, 0, sizeof(*ret));
	o->s = s;
	o->rules = rules;
	o->r = ret;
	http_parser_init(&o->p, s->response ? HTTP_RESPONSE : HTTP_REQUEST);
	o->p.data = o;
	for (o->at = 0; o->at < s->len && !o->stop && ret->n < MESSAGES; o->at++) {
		(void)http_parser_execute(&o->p, &settings, (const char *)s->data + o->at, 1);
		if (HTTP_PARSER_ERRNO(&o->p) == HPE_OK)
			continue;
		ret->error_at = o->at;
		(void)snprintf(ret->error, sizeof(ret->error), "%s",
			       http_errno_name(HTTP_PARSER_ERRNO(&o->p)));
		break;
	}
	if (o->stop)
		(void)snprintf(ret->error, sizeof(ret->error), "upgraded");
	free(o);
}
