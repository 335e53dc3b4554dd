// SPDX-License-Identifier: Apache-2.0
#include "base/text.h"

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

size_t tally_text_utf8(const void *text, size_t left)
{
	const uint8_t *p = text;
	size_t n = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;

	if (n == 0 || n > left || p[0] > 0xf4)
		return 0;
	for (size_t i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	}
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
	    (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
		return 0;
	return n;
}

/* C0, DEL, and C1, which is U+0080 to U+009F: \xc2\x80 to \xc2\x9f. */
static bool is_control(const uint8_t *p)
{
	return p[0] < 0x20 || p[0] == 0x7f || (p[0] == 0xc2 && p[1] < 0xa0);
}

static const char *copy(const char *text, bool controls, char *out, size_t bytes)
{
	size_t left = strlen(text), used = 0;

	while (left) {
		const uint8_t *p = (const uint8_t *)text;
		size_t n = tally_text_utf8(p, left), skip = n ? n : 1;
		bool keep = n && (controls || !is_control(p));

		n = keep ? n : strlen(REPLACEMENT);
		if (n >= bytes - used)
			break;
		memcpy(out + used, keep ? text : REPLACEMENT, n);
		used += n;
		text += skip;
		left -= skip;
	}
	out[used] = 0;
	return out;
}

const char *tally_text_clean(const char *text, char *out, size_t bytes)
{
	return copy(text, true, out, bytes);
}

const char *tally_text_plain(const char *text, char *out, size_t bytes)
{
	return copy(text, false, out, bytes);
}

/* Of a text that is UTF-8: the octet where character n begins. */
static size_t offset_of(const char *text, size_t n)
{
	size_t at = 0;

	for (; n && text[at]; n--)
		at += tally_text_utf8(text + at, strlen(text + at));
	return at;
}

static size_t characters(const char *text)
{
	size_t n = 0;

	for (; *text; text++)
		n += (*text & 0xc0) != 0x80;
	return n;
}

const char *tally_text_cell(const char *text, size_t width, char *out, size_t bytes)
{
	char plain[TALLY_TEXT_LINE];
	size_t n, head = (width - 1) / 3;

	tally_text_plain(text, plain, sizeof(plain));
	n = characters(plain);
	if (n <= width)
		(void)snprintf(out, bytes, "%s%*s", plain, (int)(width - n), "");
	else
		(void)snprintf(out, bytes, "%.*s~%s", (int)offset_of(plain, head), plain,
			       plain + offset_of(plain, n - (width - 1 - head)));
	return out;
}
