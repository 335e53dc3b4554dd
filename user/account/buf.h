/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Growing byte buffer, and a reader that never runs past its end. Errors are sticky: a sequence of
 * puts or gets is checked once, at its end.
 *
 * Integers are little endian or varints (7 bits a byte, low first). A text is a varint length and
 * its bytes.
 */
#ifndef TALLY_ACCOUNT_BUF_H
#define TALLY_ACCOUNT_BUF_H

#include <stddef.h>
#include <linux/types.h>

struct tally_buf {
	char *data; /* always followed by a NUL once something was put */
	size_t len, cap;
	int error; /* 0 or -ENOMEM */
};

struct tally_reader {
	const __u8 *data;
	size_t len, pos;
	int error; /* 0 or -EBADMSG */
};

void tally_buf_init(struct tally_buf *buf);
void tally_buf_done(struct tally_buf *buf);
void tally_buf_clear(struct tally_buf *buf);
void tally_buf_put(struct tally_buf *buf, const void *data, size_t len);
void tally_buf_text(struct tally_buf *buf, const char *text);
void tally_buf_u8(struct tally_buf *buf, __u8 v);
void tally_buf_u32(struct tally_buf *buf, __u32 v);
void tally_buf_u64(struct tally_buf *buf, __u64 v);
void tally_buf_var(struct tally_buf *buf, __u64 v);
void tally_buf_str(struct tally_buf *buf, const char *text);
void tally_buf_dec(struct tally_buf *buf, __u64 v);
void tally_buf_printf(struct tally_buf *buf, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

void tally_reader_init(struct tally_reader *reader, const void *data, size_t len);
/* len bytes in place, or NULL and a sticky error. */
const void *tally_reader_get(struct tally_reader *reader, size_t len);
__u8 tally_reader_u8(struct tally_reader *reader);
__u32 tally_reader_u32(struct tally_reader *reader);
__u64 tally_reader_u64(struct tally_reader *reader);
__u64 tally_reader_var(struct tally_reader *reader);
/* A varint that must be below `limit`. */
__u64 tally_reader_below(struct tally_reader *reader, __u64 limit);
/* A new string; NULL on error (-EBADMSG when it holds a NUL, -ENOMEM). */
char *tally_reader_str(struct tally_reader *reader);

#endif
