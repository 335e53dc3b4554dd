/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/diff/fields.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "tally/hash.h"

void fields_begin(struct fields *f)
{
	f->name_len = f->value_len = 0;
	f->in_value = false;
	memset(f->has, 0, sizeof(f->has));
}

static void found(struct fields *f, int source, const char *text, size_t n)
{
	if (f->has[source] || !n)
		return;
	memcpy(f->key[source], text, n);
	f->key_len[source] = n;
	f->has[source] = true;
}

static bool is_name(const char *name, size_t n, const char *wanted)
{
	return n == strlen(wanted) && !strncasecmp(name, wanted, n);
}

static bool is_space(char c)
{
	return c == ' ' || c == '\t';
}

void fields_line(struct fields *f, const char *name, size_t n, const char *v, size_t len)
{
	while (len && is_space(*v)) {
		v++;
		len--;
	}
	while (len && is_space(v[len - 1]))
		len--;
	if (is_name(name, n, "X-API-Key"))
		found(f, 0, v, len);
	if (!is_name(name, n, "Authorization") || len < 8 || strncasecmp(v, "Bearer", 6) ||
	    !is_space(v[6]))
		return;
	for (v += 6, len -= 6; len && is_space(*v); len--)
		v++;
	found(f, 1, v, len);
}

static void flush(struct fields *f)
{
	if (f->in_value)
		fields_line(f, f->name, f->name_len, f->value, f->value_len);
	f->in_value = false;
	f->name_len = f->value_len = 0;
}

void fields_name(struct fields *f, const char *at, size_t n)
{
	if (f->in_value)
		flush(f);
	for (size_t i = 0; i < n; i++, f->name_len++)
		if (f->name_len < sizeof(f->name))
			f->name[f->name_len] = at[i];
}

void fields_value(struct fields *f, const char *at, size_t n)
{
	f->in_value = true;
	for (size_t i = 0; i < n && f->value_len < sizeof(f->value); i++)
		f->value[f->value_len++] = at[i];
}

static int hex(char c)
{
	return isdigit((unsigned char)c)    ? c - '0'
	       : isxdigit((unsigned char)c) ? (c | 32) - 'a' + 10
					    : -1;
}

/* Percent-decoded, as far as it is valid. Returns the length. */
static size_t decode(const char *at, size_t n, char *to)
{
	size_t k = 0;

	for (size_t i = 0; i < n; i++) {
		if (at[i] == '%' && i + 2 < n && hex(at[i + 1]) >= 0 && hex(at[i + 2]) >= 0) {
			to[k++] = (char)(hex(at[i + 1]) * 16 + hex(at[i + 2]));
			i += 2;
		} else {
			to[k++] = at[i];
		}
	}
	return k;
}

void fields_url(struct fields *f, const char *url, size_t n)
{
	const char *p = memchr(url, '?', n), *end = url + n;
	char name[16384], value[16384];

	while (p && p < end) {
		const char *next = memchr(p + 1, '&', (size_t)(end - p - 1));
		size_t len = (size_t)((next ? next : end) - p - 1);
		const char *equals = memchr(p + 1, '=', len);
		size_t k = equals ? decode(p + 1, (size_t)(equals - p - 1), name) : 0;

		if (k == 7 && !memcmp(name, "api_key", 7))
			found(f, 2, value,
			      decode(equals + 1, (size_t)((next ? next : end) - equals - 1),
				     value));
		p = next;
	}
}

void fields_end(struct fields *f, const struct tally_rules *rules, struct message *m)
{
	const __u64 secret[2] = { rules->secret[0], rules->secret[1] };

	flush(f);
	for (int i = 0; i < 3; i++) {
		if (!f->has[i])
			continue;
		m->has_key = true;
		m->key_hash = tally_key_hash(f->key[i], (__u32)f->key_len[i], secret);
		return;
	}
}
