/* SPDX-License-Identifier: Apache-2.0 */
#include "account/json.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "account/seal.h"
#include "base/text.h"

#define DAY_S 86400ULL
#define LAST_S 253402300799ULL /* 9999-12-31T23:59:59Z */

static void put_escaped(struct tally_buf *buf, __u8 c)
{
	static const char hex[] = "0123456789abcdef";
	char text[6] = { '\\', 'u', '0', '0', hex[c >> 4], hex[c & 15] };

	if (c == '"' || c == '\\') {
		text[1] = (char)c;
		tally_buf_put(buf, text, 2);
		return;
	}
	tally_buf_put(buf, text, sizeof(text));
}

void tally_json_quoted(struct tally_buf *buf, const char *text, size_t len)
{
	const __u8 *p = (const __u8 *)text;
	size_t plain = 0, n;

	tally_buf_u8(buf, '"');
	for (size_t i = 0; i < len; i += n) {
		n = p[i] < 0x80 ? 1 : tally_text_utf8(p + i, len - i);
		if (n && p[i] >= 0x20 && p[i] != '"' && p[i] != '\\' && p[i] != 0x7f)
			continue;
		tally_buf_put(buf, p + plain, i - plain);
		if (n)
			put_escaped(buf, p[i]);
		else
			tally_buf_put(buf, "\xef\xbf\xbd", 3);
		n = 1;
		plain = i + 1;
	}
	tally_buf_put(buf, p + plain, len - plain);
	tally_buf_u8(buf, '"');
}

void tally_json_text(struct tally_buf *buf, const char *text)
{
	if (!text || !*text)
		tally_buf_text(buf, "null");
	else
		tally_json_quoted(buf, text, strlen(text));
}

static void put_u128(struct tally_buf *buf, unsigned __int128 v)
{
	char text[40];
	size_t n = sizeof(text);

	do {
		text[--n] = (char)('0' + (int)(v % 10));
		v /= 10;
	} while (v);
	tally_buf_put(buf, text + n, sizeof(text) - n);
}

void tally_json_decimal(struct tally_buf *buf, unsigned __int128 scaled)
{
	__u64 part = (__u64)(scaled % TALLY_UNIT_SCALE);
	char text[TALLY_UNIT_DIGITS];
	size_t n = sizeof(text);

	put_u128(buf, scaled / TALLY_UNIT_SCALE);
	if (!part)
		return;
	for (size_t i = n; i > 0; i--) {
		text[i - 1] = (char)('0' + part % 10);
		part /= 10;
	}
	while (text[n - 1] == '0')
		n--;
	tally_buf_u8(buf, '.');
	tally_buf_put(buf, text, n);
}

static void put_digits(char *text, __u64 v, int n)
{
	while (n-- > 0) {
		text[n] = (char)('0' + v % 10);
		v /= 10;
	}
}

/* Days to civil date: H. Hinnant, "chrono-compatible low-level date algorithms". */
void tally_json_time(__u64 s, char text[TALLY_JSON_TIME])
{
	__u64 z, era, doe, yoe, doy, mp, day, month, year;

	if (s > LAST_S)
		s = LAST_S;
	z = s / DAY_S + 719468;
	era = z / 146097;
	doe = z - era * 146097;
	yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	mp = (5 * doy + 2) / 153;
	day = doy - (153 * mp + 2) / 5 + 1;
	month = mp < 10 ? mp + 3 : mp - 9;
	year = yoe + era * 400 + (month <= 2);
	memcpy(text, "0000-00-00T00:00:00Z", TALLY_JSON_TIME);
	put_digits(text, year, 4);
	put_digits(text + 5, month, 2);
	put_digits(text + 8, day, 2);
	put_digits(text + 11, s % DAY_S / 3600, 2);
	put_digits(text + 14, s % 3600 / 60, 2);
	put_digits(text + 17, s % 60, 2);
}

static bool get_digits(const char *text, int n, __u64 *ret_v)
{
	__u64 v = 0;

	for (int i = 0; i < n; i++) {
		if (text[i] < '0' || text[i] > '9')
			return false;
		v = v * 10 + (__u64)(text[i] - '0');
	}
	*ret_v = v;
	return true;
}

int tally_json_parse_time(const char *text, __u64 *ret_s)
{
	char again[TALLY_JSON_TIME];
	__u64 y, m, d, h, i, s, era, yoe, doy, days;

	if (strlen(text) != TALLY_JSON_TIME - 1 || !get_digits(text, 4, &y) ||
	    !get_digits(text + 5, 2, &m) || !get_digits(text + 8, 2, &d) ||
	    !get_digits(text + 11, 2, &h) || !get_digits(text + 14, 2, &i) ||
	    !get_digits(text + 17, 2, &s) || y < 1970 || m < 1 || m > 12)
		return -EINVAL;
	y -= m <= 2;
	era = y / 400;
	yoe = y - era * 400;
	doy = (153 * (m > 2 ? m - 3 : m + 9) + 2) / 5 + d - 1;
	days = era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
	s += days * DAY_S + h * 3600 + i * 60;
	tally_json_time(s, again);
	if (strcmp(again, text) != 0)
		return -EINVAL;
	*ret_s = s;
	return 0;
}
