/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing JSON into a buffer, exactly: no floats, no locale, no library version in the bytes. What
 * is written here is hashed and resent byte by byte, so its output for a given input never changes.
 */
#ifndef TALLY_ACCOUNT_JSON_H
#define TALLY_ACCOUNT_JSON_H

#include "account/buf.h"

#define TALLY_JSON_TIME 21 /* YYYY-MM-DDTHH:MM:SSZ and NUL */

/* A quoted text; bytes that are not UTF-8 become U+FFFD. NULL or "": null. */
void tally_json_text(struct tally_buf *buf, const char *text);
/* Quoted even when empty. */
void tally_json_quoted(struct tally_buf *buf, const char *text, size_t len);
/* amount * count / TALLY_UNIT_SCALE as an exact decimal, without quotes. */
void tally_json_decimal(struct tally_buf *buf, unsigned __int128 scaled);
/* UTC seconds since 1970 as RFC 3339; years up to 9999. */
void tally_json_time(__u64 s, char text[TALLY_JSON_TIME]);
/* The reverse; -EINVAL. */
int tally_json_parse_time(const char *text, __u64 *ret_s);

#endif
