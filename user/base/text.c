// SPDX-License-Identifier: Apache-2.0
#include "base/text.h"

#include <locale.h>
#include <wchar.h>

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

static uint32_t code_point(const uint8_t *p, size_t n)
{
	uint32_t code = n == 1 ? p[0] : p[0] & (0x7fU >> n);

	for (size_t i = 1; i < n; i++)
		code = code << 6 | (p[i] & 0x3fU);
	return code;
}

/* C0, DEL and C1; and what orders or joins others and shows nothing itself (Unicode's Cf, Zl and Zp). */
static bool is_control(uint32_t code)
{
	static const uint32_t ranges[][2] = {
		{ 0, 0x1f },	      { 0x7f, 0x9f },	    { 0xad, 0xad },
		{ 0x61c, 0x61c },     { 0x180e, 0x180e },   { 0x200b, 0x200f },
		{ 0x2028, 0x202e },   { 0x2060, 0x206f },   { 0xfeff, 0xfeff },
		{ 0xfff9, 0xfffb },   { 0x1bca0, 0x1bca3 }, { 0x1d173, 0x1d17a },
		{ 0xe0000, 0xe0fff },
	};

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(ranges); i++)
		if (code >= ranges[i][0] && code <= ranges[i][1])
			return true;
	return false;
}

static const char *copy(const char *text, bool controls, char *out, size_t bytes)
{
	size_t left = strlen(text), used = 0;

	while (left) {
		const uint8_t *p = (const uint8_t *)text;
		size_t n = tally_text_utf8(p, left), skip = n ? n : 1;
		bool keep = n && (controls || !is_control(code_point(p, n)));

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

/* Of a text that is UTF-8: octets and columns of its first character. Where no locale tells: one column. */
static size_t step(const char *text, size_t *ret_columns)
{
	size_t n = tally_text_utf8(text, strnlen(text, 4));
	int width = wcwidth((wchar_t)code_point((const uint8_t *)text, n));

	*ret_columns = width < 0 ? 1 : (size_t)width;
	return n;
}

/* Octets of its begin that take so many columns at most, and how many they take. */
static size_t begin_of(const char *text, size_t columns, size_t *ret_columns)
{
	size_t at = 0, used = 0, width;

	while (text[at]) {
		size_t n = step(text + at, &width);

		if (used + width > columns)
			break;
		used += width;
		at += n;
	}
	*ret_columns = used;
	return at;
}

/* Where its end begins that takes so many columns at most: not with what combines with the one before. */
static const char *end_of(const char *text, size_t columns, size_t *ret_columns)
{
	size_t left, width;

	(void)begin_of(text, SIZE_MAX, &left);
	while (*text) {
		size_t n = step(text, &width);

		if (left <= columns && width)
			break;
		left -= width;
		text += n;
	}
	*ret_columns = left;
	return text;
}

static void fill_cell(const char *plain, size_t width, char *out, size_t bytes)
{
	size_t columns, head, tail, n = begin_of(plain, width, &columns);
	const char *end;

	if (!plain[n]) {
		(void)snprintf(out, bytes, "%s%*s", plain, (int)(width - columns), "");
		return;
	}
	n = begin_of(plain, (width - 1) / 3, &head);
	end = end_of(plain, width - 1 - head, &tail);
	(void)snprintf(out, bytes, "%.*s~%s%*s", (int)n, plain, end, (int)(width - head - 1 - tail),
		       "");
}

/* Loaded once, as that reads files; 0: there is none. */
static locale_t get_utf8(void)
{
	static locale_t utf8;
	static bool tried;

	if (!tried)
		utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
	tried = true;
	return utf8;
}

const char *tally_text_cell(const char *text, size_t width, char *out, size_t bytes)
{
	locale_t before = uselocale(get_utf8());
	char plain[TALLY_TEXT_LINE];

	fill_cell(tally_text_plain(text, plain, sizeof(plain)), width, out, bytes);
	(void)uselocale(before);
	return out;
}
