/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is odd about the octets of one message, by plain search, without any parser: a difference is
 * only explained by an oddity that is there.
 */
#ifndef TALLY_DIFF_PREDICATES_H
#define TALLY_DIFF_PREDICATES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct odd {
	bool start;	 /* not METHOD SP TARGET SP HTTP/1.x, or HTTP/1.x SP 3DIGIT [SP ...] */
	bool fold;	 /* a line begins with white space */
	bool control;	 /* a control octet but TAB in a line, or CR without LF */
	bool bare_lf;	 /* a line ends with LF alone */
	bool known_name; /* a line that pretends to be one that matters, and is not quite */
	bool key;	 /* two key values of one source, or white space in a token */
	bool length;	 /* not exactly one plain Content-Length, or beside a Transfer-Encoding */
	bool tab;	 /* TAB behind a Content-Length or a Transfer-Encoding */
	bool coding;	 /* not exactly one Transfer-Encoding: chunked, or in HTTP/1.0 */
	bool longer;	 /* a name begins with Transfer-Encoding, and goes on */
	bool name;	 /* a line without a valid name and colon */
	bool chunk;	 /* the chunked body is not as RFC 9112 7.1 has it, to the letter */
	bool chunk_lax;	 /* the same, and not even with bare LFs and white space behind sizes */
};

/* The head is data..head_end; the body goes up to len, or further. */
void predicates(const uint8_t *data, size_t head_end, size_t len, bool response, struct odd *ret);

#endif
