/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/diff/generate.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct maker {
	struct generated *g;
	uint64_t seed;
	bool odd; /* oddities are allowed */
	const char *eol;
};

static unsigned int below(struct maker *m, unsigned int n)
{
	return (unsigned int)(diff_random(&m->seed) % n);
}

static bool one_in(struct maker *m, unsigned int n)
{
	return !below(m, n);
}

/* One in n, where oddities are allowed; the stream is not clean then. */
static bool oddly(struct maker *m, unsigned int n)
{
	if (!m->odd || !one_in(m, n))
		return false;
	m->g->clean = false;
	return true;
}

static void put_octets(struct maker *m, const void *data, size_t n)
{
	struct stream *s = &m->g->stream;

	if (n > STREAM_MAX - s->len)
		n = STREAM_MAX - s->len;
	memcpy(m->g->octets + s->len, data, n);
	s->len += n;
}

static void __attribute__((format(printf, 2, 3))) put(struct maker *m, const char *fmt, ...)
{
	char text[2048];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	put_octets(m, text, n < (int)sizeof(text) ? (size_t)n : sizeof(text) - 1);
}

#define PICK(m, list) ((list)[below(m, sizeof(list) / sizeof((list)[0]))])

static void put_chars(struct maker *m, const char *alphabet, unsigned int n)
{
	for (size_t room = strlen(alphabet); n; n--)
		put_octets(m, alphabet + below(m, (unsigned int)room), 1);
}

static const char token_chars[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
				  "!#$%&'*+-.^_`|~";
static const char value_chars[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
				  " \t!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~\xc3\xa4\xff";
static const char path_chars[] = "abcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@";
static const char key_chars[] = "ABCDEFGHabcdefgh0123456789-._~+/=";

static void put_eol(struct maker *m)
{
	static const char *const odd[] = { "\n", "\r\r\n", "\r", " \r\n", "\n\r\n", "\v\r\n" };

	if (oddly(m, 40))
		put(m, "%s", PICK(m, odd));
	else
		put(m, "%s", m->eol);
}

/* Header lines ---------------------------------------------------------------------------------- */

static void put_ows(struct maker *m)
{
	static const char *const spaces[] = { "", " ", " ", " ", "  ", "\t", " \t " };

	put(m, "%s", PICK(m, spaces));
}

/* Name in any case, colon, value. */
static void put_line(struct maker *m, const char *name, const char *value)
{
	for (const char *c = name; *c; c++)
		put(m, "%c", one_in(m, 3) ? *c ^ (*c >= 'A' && (*c | 32) <= 'z' ? 32 : 0) : *c);
	if (oddly(m, 30))
		put(m, "%s", one_in(m, 2) ? " " : "\t");
	if (!oddly(m, 60))
		put(m, ":");
	put_ows(m);
	put(m, "%s", value);
	if (oddly(m, 40))
		put_octets(m, one_in(m, 2) ? "\0x" : "\rx", 2);
	if (oddly(m, 40))
		put(m, "\r\n%s%s", one_in(m, 2) ? " " : "\t", value);
	if (one_in(m, 4))
		put(m, "%s", oddly(m, 4) ? "\t" : " ");
	put_eol(m);
}

static void put_other_line(struct maker *m)
{
	static const char *const lines[] = { "Host: a.example",
					     "Accept: */*",
					     "X_Api_Key: Q",
					     "Cookie: a=b; c=\"d\"",
					     "Connection: keep-alive",
					     "X-Content-Length: 7",
					     "Content-Length-X: 3",
					     "Transfer-Encodin: chunked",
					     "X-API-Keys: Z",
					     "X: ",
					     "Expect: 100-continue",
					     "ETag: \"x\"",
					     "Empty:" };

	if (one_in(m, 2)) {
		put(m, "%s\r\n", PICK(m, lines));
		return;
	}
	put_chars(m, token_chars, 1 + below(m, one_in(m, 8) ? 90 : 20));
	put(m, ":");
	put_ows(m);
	if (one_in(m, 10))
		put_chars(m, value_chars, below(m, 1500));
	else
		put_chars(m, value_chars, below(m, 40));
	put_eol(m);
}

static void key_text(struct maker *m, char *text)
{
	unsigned int n = one_in(m, 10) ? 200 + below(m, 400) : below(m, 40);

	for (unsigned int i = 0; i < n; i++)
		text[i] = key_chars[below(m, sizeof(key_chars) - 1)];
	text[n] = 0;
}

static void put_key_lines(struct maker *m)
{
	char text[1024] = "Bearer ", *key = text + 7;

	if (one_in(m, 3))
		return;
	key_text(m, key);
	if (!one_in(m, 3))
		put_line(m, "X-API-Key", key);
	if (oddly(m, 12))
		put_line(m, "X-API-Key", one_in(m, 2) ? key : "another");
	if (one_in(m, 4)) {
		memcpy(text, one_in(m, 2) ? "Bearer " : "bEARER ", 7);
		put_line(m, "Authorization", one_in(m, 6) ? "Basic QTpi" : text);
	}
	if (oddly(m, 12))
		put_line(m, "Authorization", one_in(m, 2) ? "Bearer  other" : "Bearer");
}

/* Bodies ---------------------------------------------------------------------------------------- */

static void put_forged(struct maker *m, unsigned int n)
{
	static const char text[] =
		"GET /v1/items HTTP/1.1\r\nX-API-Key: F\r\n\r\nHTTP/1.1 200 OK\r\n"
		"Content-Length: 0\r\n\r\n0\r\n\r\n";

	for (unsigned int i = 0; i < n; i++)
		put_octets(m, text + i % (sizeof(text) - 1), 1);
}

static void put_extension(struct maker *m)
{
	static const char *const valid[] = { "", "", "", ";x", ";x=y", ";x=\"a b\"", ";a;b=c" };
	static const char *const odd[] = { " ", "\t", " ;x", ";", ";\xff", ";a\rb", "\r", "x" };

	put(m, "%s", oddly(m, 15) ? PICK(m, odd) : PICK(m, valid));
}

/* What stands before and behind a number that is none, or not a plain one. */
struct around {
	const char *before, *behind;
};

static void put_chunk_size(struct maker *m, unsigned int n)
{
	static const struct around odd[] = {
		{ "0x", "" }, { "+", "" }, { " ", "" },
		{ "-", "" },  { "", " " }, { "00000000000000000", "" }
	};
	struct around a = { one_in(m, 4) ? "00" : "", "" };

	if (oddly(m, 30))
		a = PICK(m, odd);
	if (one_in(m, 2))
		put(m, "%s%x%s", a.before, n, a.behind);
	else
		put(m, "%s%X%s", a.before, n, a.behind);
}

static void put_chunks(struct maker *m)
{
	for (unsigned int chunks = below(m, 4), n; chunks; chunks--) {
		n = 1 + below(m, one_in(m, 6) ? 1500 : 40);
		put_chunk_size(m, n);
		put_extension(m);
		put_eol(m);
		put_forged(m, n);
		if (!oddly(m, 30))
			put_eol(m);
	}
	put(m, "%s", one_in(m, 6) ? "000" : "0");
	put_extension(m);
	put_eol(m);
	if (one_in(m, 4))
		put(m, "X-Trailer: t\r\n");
	if (oddly(m, 8))
		put(m, "Content-Length: 5\r\nX-API-Key: T\r\n");
	put_eol(m);
}

static void put_length(struct maker *m, unsigned int n)
{
	static const struct around odd[] = { { "+", "" },   { "-", "" },
					     { "3, ", "" }, { "", "," },
					     { "0x", "" },  { "", ".0" },
					     { "1 ", "" },  { "\"", "\"" },
					     { "", "x" },   { "99999999999999999999", "" } };
	struct around a = { one_in(m, 8) ? "00" : "", "" };
	char text[64];

	if (oddly(m, 20))
		a = PICK(m, odd);
	(void)snprintf(text, sizeof(text), "%s%u%s", a.before, n, a.behind);
	put_line(m, "Content-Length", oddly(m, 60) ? "" : text);
	if (oddly(m, 20)) {
		(void)snprintf(text, sizeof(text), "%u", one_in(m, 2) ? n : n + 1);
		put_line(m, "Content-Length", text);
	}
}

static void put_coding(struct maker *m)
{
	static const char *const odd[] = { "gzip, chunked",
					   "chunked, identity",
					   "chunked, chunked",
					   "identity",
					   "xchunked",
					   "chunked,",
					   ",chunked",
					   "x chunked",
					   "chunked;q=1",
					   "\"chunked\"",
					   "gzip",
					   "chunke",
					   "chunked gzip" };

	put_line(m, "Transfer-Encoding", oddly(m, 8) ? PICK(m, odd) : "chunked");
	if (oddly(m, 25))
		put_line(m, "Transfer-Encoding", one_in(m, 2) ? "chunked" : "gzip");
}

enum body { BODY_NONE, BODY_LENGTH, BODY_CHUNKED };

/* The lines that say what body follows, among others. Returns the length. */
static unsigned int put_headers(struct maker *m, enum body body)
{
	unsigned int lines = below(m, 7), at = below(m, lines + 1), n = 0;

	for (unsigned int i = 0; i <= lines; i++) {
		if (i == at && body == BODY_LENGTH)
			put_length(m, n = below(m, one_in(m, 8) ? 3000 : 60));
		if (i == at && (body == BODY_CHUNKED || oddly(m, 40)))
			put_coding(m);
		if (i == at && body == BODY_CHUNKED && oddly(m, 12))
			put_length(m, below(m, 50));
		if (i < lines)
			put_other_line(m);
		if (i == at / 2 && !m->g->stream.response)
			put_key_lines(m);
	}
	put_eol(m);
	return n;
}

static void put_body(struct maker *m, enum body body, unsigned int n)
{
	if (body == BODY_LENGTH)
		put_forged(m, n);
	else if (body == BODY_CHUNKED)
		put_chunks(m);
}

/* Requests and responses ------------------------------------------------------------------------ */

static void put_target(struct maker *m)
{
	if (one_in(m, 12))
		put(m, "http://a.example:80");
	for (unsigned int i = 1 + below(m, 5); i; i--) {
		put(m, "/");
		put_chars(m, path_chars, below(m, 12));
		if (one_in(m, 8))
			put(m, "%s", one_in(m, 2) ? "%2e%2E" : "..");
	}
	if (one_in(m, 4))
		put(m, "?x=%u&api_key=Q%%4%x&z", below(m, 10), below(m, 10));
	if (oddly(m, 25))
		put_octets(m, "\xe4#\t\0 " + below(m, 5), 1);
}

static void put_request(struct maker *m)
{
	static const char *const methods[] = { "GET",	 "POST",    "PUT",   "HEAD",
					       "DELETE", "OPTIONS", "PATCH", "GET" };
	static const char *const odd_methods[] = { "FOO", "get", "G\tET", "", "GET," };
	static const char *const versions[] = { "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0" };
	static const char *const odd_versions[] = {
		"HTTP/2.0", "http/1.1", "HTTP/1.2", "HTTP/1.1 ",
		"",	    "HTTP/11",	"HTTP/0.9", "XTTP/1.1"
	};
	enum body body = (enum body)below(m, 3);
	unsigned int n;

	if (one_in(m, 10))
		put(m, "\r\n");
	put(m, "%s %s", oddly(m, 25) ? PICK(m, odd_methods) : PICK(m, methods),
	    oddly(m, 40) ? " " : "");
	put_target(m);
	if (body == BODY_CHUNKED && !oddly(m, 25)) /* in 1.0 it is ambiguous */
		put(m, " HTTP/1.1");
	else
		put(m, " %s", oddly(m, 25) ? PICK(m, odd_versions) : PICK(m, versions));
	put_eol(m);
	n = put_headers(m, body);
	put_body(m, body, n);
}

static void put_interim(struct maker *m)
{
	put(m, one_in(m, 2) ? "HTTP/1.1 100 Continue\r\n\r\n"
			    : "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
}

static void put_response(struct maker *m)
{
	static const unsigned int statuses[] = { 200, 200, 201, 204, 304, 404, 500, 401, 301, 206 };
	static const char *const odd[] = { "HTTP/1.1 20 OK",   "HTTP/1.1 2000 OK",
					   "HTTP/2.0 200 OK",  "HTTP/1.1  200 OK",
					   "HTTP/1.1\t200 OK", "HTP/1.1 200",
					   "HTTP/1.1 099 X" };
	struct stream *s = &m->g->stream;
	enum kind kind = one_in(m, 6) ? KIND_HEAD : KIND_OTHER;
	unsigned int status = PICK(m, statuses), n;
	enum body body = one_in(m, 2) ? BODY_LENGTH : BODY_CHUNKED;

	if (one_in(m, 8))
		put_interim(m);
	s->kinds[s->n_kinds++] = (uint8_t)kind;
	if (oddly(m, 20))
		put(m, "%s", PICK(m, odd));
	else
		put(m, "HTTP/1.%c %u%s", one_in(m, 8) ? '0' : '1', status,
		    one_in(m, 8)   ? ""
		    : one_in(m, 2) ? " "
				   : " Any Reason");
	put_eol(m);
	n = put_headers(m, body);
	if (kind != KIND_HEAD && status != 204 && status != 304)
		put_body(m, body, n);
}

/* Changes --------------------------------------------------------------------------------------- */

static void change(struct maker *m)
{
	static const char bytes[] = "\r\n \t:;,0123456789aAcCxX\0\xff/?%";
	struct stream *s = &m->g->stream;
	uint8_t *d = m->g->octets;
	size_t at = below(m, (unsigned int)s->len), n = 1 + below(m, 8);
	uint8_t octet = (uint8_t)bytes[below(m, sizeof(bytes) - 1)];

	n = n < s->len - at ? n : s->len - at;
	switch (below(m, 5)) {
	case 0:
		d[at] = octet;
		break;
	case 1:
		d[at] ^= (uint8_t)(1 << below(m, 8));
		break;
	case 2:
		memmove(d + at, d + at + n, s->len - at - n);
		s->len -= n;
		break;
	case 3:
		if (s->len == STREAM_MAX)
			break;
		memmove(d + at + 1, d + at, s->len - at);
		d[at] = octet;
		s->len++;
		break;
	default:
		memmove(d + at, d + below(m, (unsigned int)(s->len - n + 1)), n);
	}
}

void generate(uint64_t seed, bool response, struct generated *ret)
{
	struct maker m = { .g = ret, .seed = seed, .eol = "\r\n" };
	unsigned int messages, changes = 0;

	ret->stream = (struct stream){ .data = ret->octets, .response = response };
	ret->clean = true;
	messages = 1 + below(&m, 5);
	m.odd = below(&m, 3);
	if (oddly(&m, 12))
		m.eol = "\n";
	if (one_in(&m, 3))
		changes = 1 + below(&m, 3);
	for (unsigned int i = 0; i < messages; i++) {
		if (response)
			put_response(&m);
		else
			put_request(&m);
	}
	for (unsigned int i = 0; i < changes && ret->stream.len > 8; i++) {
		change(&m);
		ret->clean = false;
	}
}
