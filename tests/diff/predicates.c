/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/diff/predicates.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define KEPT 240 /* of longer keys two cannot be compared (TALLY_KEY_INLINE): never the same */

struct line {
	const char *at;
	size_t len; /* without its end */
};

struct counts {
	unsigned int lengths, codings, keys, bearers,
		others; /* others: Authorization without a token */
	bool plain_length, plain_coding, has_key, key_differs;
	char key[2][600];
};

static bool is_token(char c)
{
	return c && (isalnum((unsigned char)c) || strchr("!#$%&'*+-.^_`|~", c));
}

/* Lines up to the empty one; *at moves behind each. */
static bool next_line(const char **at, const char *end, struct line *line, struct odd *odd)
{
	const char *lf = memchr(*at, '\n', (size_t)(end - *at));

	line->at = *at;
	line->len = (size_t)((lf ? lf : end) - *at);
	*at = lf ? lf + 1 : end;
	if (line->len && line->at[line->len - 1] == '\r')
		line->len--;
	else if (lf)
		odd->bare_lf = true;
	for (size_t i = 0; i < line->len; i++)
		if (((unsigned char)line->at[i] < ' ' && line->at[i] != '\t') ||
		    line->at[i] == 0x7f)
			odd->control = true;
	return line->len || *at < end;
}

static bool is_version(const char *p, size_t n)
{
	return n == 8 && (!memcmp(p, "HTTP/1.1", 8) || !memcmp(p, "HTTP/1.0", 8));
}

static void start_line(const struct line *l, bool response, struct odd *odd)
{
	const char *sp = memchr(l->at, ' ', l->len), *end = l->at + l->len, *sp2;

	odd->start = true;
	if (!sp || sp == l->at)
		return;
	if (response) {
		odd->start = !is_version(l->at, (size_t)(sp - l->at)) || end - sp < 4 ||
			     !isdigit((unsigned char)sp[1]) || !isdigit((unsigned char)sp[2]) ||
			     !isdigit((unsigned char)sp[3]) || (end - sp > 4 && sp[4] != ' ') ||
			     sp[1] == '0';
		return;
	}
	sp2 = memchr(sp + 1, ' ', (size_t)(end - sp - 1));
	for (const char *p = l->at; p < sp; p++)
		if (!is_token(*p))
			return;
	for (const char *p = sp + 1; sp2 && p < sp2; p++)
		if ((unsigned char)*p <= ' ' || *p == '#' || *p == 0x7f)
			return;
	odd->start = !sp2 || sp2 == sp + 1 || !is_version(sp2 + 1, (size_t)(end - sp2 - 1));
}

/* Does the name, but for white space and controls at its ends, spell this one? */
static bool spells(const char *p, size_t n, const char *name)
{
	while (n && (unsigned char)*p <= ' ') {
		p++;
		n--;
	}
	while (n && (unsigned char)p[n - 1] <= ' ')
		n--;
	return n == strlen(name) && !strncasecmp(p, name, n);
}

static bool matters(const char *p, size_t n)
{
	return spells(p, n, "Content-Length") || spells(p, n, "Transfer-Encoding") ||
	       spells(p, n, "X-API-Key") || spells(p, n, "Authorization");
}

static void take_key(struct counts *c, int source, unsigned int nth, const char *v, size_t n)
{
	char text[600];

	(void)snprintf(text, sizeof(text), "%.*s", (int)n, v);
	if (nth && strcmp(text, c->key[source]))
		c->key_differs = true;
	memcpy(c->key[source], text, sizeof(text));
	c->key_differs |= n >= KEPT;
}

static void take_value(struct counts *c, const char *name, size_t n, const char *v, size_t len)
{
	if (spells(name, n, "Content-Length")) {
		c->plain_length = len && len < 19;
		for (size_t i = 0; i < len; i++)
			c->plain_length &= isdigit((unsigned char)v[i]) != 0;
		c->lengths++;
	} else if (spells(name, n, "Transfer-Encoding")) {
		c->plain_coding = len == 7 && !strncasecmp(v, "chunked", 7);
		c->codings++;
	} else if (spells(name, n, "X-API-Key") && len) {
		take_key(c, 0, c->keys++, v, len);
	} else if (spells(name, n, "Authorization") && len > 7 && !strncasecmp(v, "Bearer", 6)) {
		for (v += 6, len -= 6; len && (*v == ' ' || *v == '\t'); len--)
			v++;
		if (len)
			take_key(c, 1, c->bearers++, v, len);
		for (size_t i = 0; i < len; i++)
			c->key_differs |= v[i] == ' ' || v[i] == '\t'; /* no token68 */
	} else if (spells(name, n, "Authorization") && len) {
		c->others++;
	}
	c->key_differs |= c->others && c->others + c->bearers > 1;
}

static void header_line(const struct line *l, struct counts *c, struct odd *odd)
{
	const char *colon = memchr(l->at, ':', l->len), *v;
	size_t n = colon ? (size_t)(colon - l->at) : l->len, len;
	bool valid = colon && n;

	for (size_t i = 0; i < n; i++)
		valid &= is_token(l->at[i]);
	odd->name |= !valid;
	odd->longer |= n > 17 && !strncasecmp(l->at, "Transfer-Encoding", 17);
	if (!valid && matters(l->at, n))
		odd->known_name = true;
	/* "Content-Length 5": the name ends at the white space for some. */
	for (size_t i = 1; !valid && i < n; i++)
		if ((unsigned char)l->at[i] <= ' ' && matters(l->at, i))
			odd->known_name = true;
	if (!colon)
		return;
	v = colon + 1;
	len = l->len - n - 1;
	while (len && (*v == ' ' || *v == '\t')) {
		v++;
		len--;
	}
	while (len && (v[len - 1] == ' ' || v[len - 1] == '\t')) {
		len--;
		odd->tab |= v[len] == '\t' && (spells(l->at, n, "Content-Length") ||
					       spells(l->at, n, "Transfer-Encoding"));
	}
	take_value(c, l->at, n, v, len);
}

/* Chunked bodies -------------------------------------------------------------------------------- */

struct body {
	const char *at, *end;
	bool lax;
};

enum got { GOT_LINE, GOT_END, GOT_WRONG };

/* One line of the coding. END: its end is not there, and it could be right so far. */
static enum got body_line(struct body *b, struct line *line)
{
	const char *cr = memchr(b->at, '\r', (size_t)(b->end - b->at));
	bool whole = memchr(b->at, '\n', (size_t)(b->end - b->at)) != NULL;
	struct odd odd = { 0 };
	const char *at = b->at;

	(void)next_line(&at, b->end, line, &odd);
	if (!whole)
		return (!cr || cr + 1 == b->end) && (b->lax || !odd.control) ? GOT_END : GOT_WRONG;
	b->at = at;
	if (b->lax)
		return memchr(line->at, '\r', line->len) ? GOT_WRONG : GOT_LINE;
	return odd.control || odd.bare_lf ? GOT_WRONG : GOT_LINE;
}

/* The size that the line begins with; -1: it is none. */
static long long chunk_size(struct body *b, struct line *l)
{
	size_t digits = 0;

	while (digits < l->len && isxdigit((unsigned char)l->at[digits]))
		digits++;
	for (; digits > 1 && *l->at == '0'; digits--) {
		l->at++;
		l->len--;
	}
	if (!digits || digits > 15)
		return -1;
	if (digits < l->len && l->at[digits] != ';' &&
	    !(b->lax && (l->at[digits] == ' ' || l->at[digits] == '\t')))
		return -1;
	return (long long)strtoull(l->at, NULL, 16);
}

/* Is there a digit, and behind the digits nothing that cannot be there? */
static bool begins_chunk(const struct body *b)
{
	const char *p = b->at;

	while (p < b->end && isxdigit((unsigned char)*p))
		p++;
	return p > b->at && (p == b->end || (*p && strchr(b->lax ? "; \t\r\n" : ";\r\n", *p)));
}

/* Up to the last chunk. LINE: trailers follow. */
static enum got chunks(struct body *b)
{
	struct line l;
	enum got got;
	long long n;

	while (b->at < b->end) {
		if (!begins_chunk(b))
			return GOT_WRONG;
		got = body_line(b, &l);
		if (got != GOT_LINE)
			return got;
		n = chunk_size(b, &l);
		if (n <= 0)
			return n ? GOT_WRONG : GOT_LINE;
		if (n >= b->end - b->at)
			return GOT_END;
		b->at += n;
		got = body_line(b, &l);
		if (got != GOT_LINE || l.len)
			return got == GOT_LINE					    ? GOT_WRONG
			       : got == GOT_END && b->at < b->end && *b->at != '\r' ? GOT_WRONG
										    : got;
	}
	return GOT_END;
}

/* true: good, or it ends before it could be wrong. */
static bool is_chunked(struct body *b)
{
	enum got got = chunks(b);
	struct line l;

	while (got == GOT_LINE && b->at < b->end) {
		if (*b->at == ' ' || *b->at == '\t')
			return false;
		got = body_line(b, &l);
		if (got != GOT_LINE || !l.len)
			break;
		if (!b->lax && !memchr(l.at, ':', l.len))
			return false;
	}
	return got != GOT_WRONG;
}

void predicates(const uint8_t *data, size_t head_end, size_t len, bool response, struct odd *ret)
{
	const char *at = (const char *)data, *end = at + head_end;
	struct body strict = { end, at + len, false }, lax = { end, at + len, true };
	struct counts c = { 0 };
	struct line l = { 0 };
	bool old;

	*ret = (struct odd){ 0 };
	while (!response && at < end && (*at == '\r' || *at == '\n'))
		at++;
	(void)next_line(&at, end, &l, ret);
	start_line(&l, response, ret);
	old = l.len >= 8 && memmem(l.at, l.len, "HTTP/1.0", 8);
	while (next_line(&at, end, &l, ret)) {
		if (l.len && (*l.at == ' ' || *l.at == '\t'))
			ret->fold = true;
		else if (l.len)
			header_line(&l, &c, ret);
	}
	ret->key = c.key_differs;
	ret->length = (c.lengths && (c.lengths > 1 || !c.plain_length)) || (c.lengths && c.codings);
	ret->coding = c.codings && (c.codings > 1 || !c.plain_coding || old);
	ret->chunk = !is_chunked(&strict);
	ret->chunk_lax = !is_chunked(&lax);
}
