/* SPDX-License-Identifier: Apache-2.0 */
#include "account/buf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void tally_buf_init(struct tally_buf *buf)
{
	*buf = (struct tally_buf){ 0 };
}

void tally_buf_done(struct tally_buf *buf)
{
	free(buf->data);
	*buf = (struct tally_buf){ 0 };
}

void tally_buf_clear(struct tally_buf *buf)
{
	buf->len = 0;
	buf->error = 0;
}

/* Room for len more bytes and a NUL. */
static bool reserve(struct tally_buf *buf, size_t len)
{
	size_t cap = buf->cap ? buf->cap : 256;
	char *data;

	if (buf->error)
		return false;
	if (len < buf->cap - buf->len && buf->data)
		return true;
	while (cap - buf->len <= len) {
		if (cap > (size_t)1 << 62) {
			buf->error = -ENOMEM;
			return false;
		}
		cap *= 2;
	}
	data = realloc(buf->data, cap);
	if (!data) {
		buf->error = -ENOMEM;
		return false;
	}
	buf->data = data;
	buf->cap = cap;
	return true;
}

void tally_buf_put(struct tally_buf *buf, const void *data, size_t len)
{
	if (!reserve(buf, len))
		return;
	if (len)
		memcpy(buf->data + buf->len, data, len);
	buf->len += len;
	buf->data[buf->len] = 0;
}

void tally_buf_text(struct tally_buf *buf, const char *text)
{
	tally_buf_put(buf, text, strlen(text));
}

void tally_buf_u8(struct tally_buf *buf, __u8 v)
{
	tally_buf_put(buf, &v, 1);
}

void tally_buf_u32(struct tally_buf *buf, __u32 v)
{
	__u8 b[4];

	for (int i = 0; i < 4; i++)
		b[i] = (__u8)(v >> (8 * i));
	tally_buf_put(buf, b, sizeof(b));
}

void tally_buf_u64(struct tally_buf *buf, __u64 v)
{
	tally_buf_u32(buf, (__u32)v);
	tally_buf_u32(buf, (__u32)(v >> 32));
}

void tally_buf_var(struct tally_buf *buf, __u64 v)
{
	__u8 b[10];
	size_t n = 0;

	while (v >= 0x80) {
		b[n++] = (__u8)(v | 0x80);
		v >>= 7;
	}
	b[n++] = (__u8)v;
	tally_buf_put(buf, b, n);
}

void tally_buf_str(struct tally_buf *buf, const char *text)
{
	size_t len = strlen(text);

	tally_buf_var(buf, len);
	tally_buf_put(buf, text, len);
}

void tally_buf_dec(struct tally_buf *buf, __u64 v)
{
	char text[20];
	size_t n = sizeof(text);

	do {
		text[--n] = (char)('0' + v % 10);
		v /= 10;
	} while (v);
	tally_buf_put(buf, text + n, sizeof(text) - n);
}

void tally_buf_printf(struct tally_buf *buf, const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(NULL, 0, fmt, args);
	va_end(args);
	if (n < 0 || !reserve(buf, (size_t)n))
		return;
	va_start(args, fmt);
	(void)vsnprintf(buf->data + buf->len, (size_t)n + 1, fmt, args); /* measured above */
	va_end(args);
	buf->len += (size_t)n;
}

void tally_reader_init(struct tally_reader *reader, const void *data, size_t len)
{
	*reader = (struct tally_reader){ .data = data, .len = len };
}

const void *tally_reader_get(struct tally_reader *reader, size_t len)
{
	const __u8 *p;

	if (reader->error)
		return NULL;
	if (len > reader->len - reader->pos) {
		reader->error = -EBADMSG;
		return NULL;
	}
	p = reader->data + reader->pos;
	reader->pos += len;
	return p;
}

__u8 tally_reader_u8(struct tally_reader *reader)
{
	const __u8 *p = tally_reader_get(reader, 1);

	return p ? *p : 0;
}

__u32 tally_reader_u32(struct tally_reader *reader)
{
	const __u8 *p = tally_reader_get(reader, 4);

	return p ? p[0] | (__u32)p[1] << 8 | (__u32)p[2] << 16 | (__u32)p[3] << 24 : 0;
}

__u64 tally_reader_u64(struct tally_reader *reader)
{
	__u64 low = tally_reader_u32(reader);

	return low | (__u64)tally_reader_u32(reader) << 32;
}

__u64 tally_reader_var(struct tally_reader *reader)
{
	__u64 v = 0;

	for (unsigned int shift = 0; shift < 64; shift += 7) {
		__u8 b = tally_reader_u8(reader);

		if (shift == 63 && b > 1)
			break;
		v |= (__u64)(b & 0x7f) << shift;
		if (!(b & 0x80))
			return reader->error ? 0 : v;
	}
	if (!reader->error)
		reader->error = -EBADMSG;
	return 0;
}

__u64 tally_reader_below(struct tally_reader *reader, __u64 limit)
{
	__u64 v = tally_reader_var(reader);

	if (!reader->error && v >= limit)
		reader->error = -EBADMSG;
	return reader->error ? 0 : v;
}

char *tally_reader_str(struct tally_reader *reader)
{
	__u64 len = tally_reader_var(reader);
	const char *p = tally_reader_get(reader, len);
	char *text;

	if (!p)
		return NULL;
	if (memchr(p, 0, len)) {
		reader->error = -EBADMSG;
		return NULL;
	}
	text = strndup(p, len);
	if (!text)
		reader->error = -ENOMEM;
	return text;
}
