/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Words of text: the parser looks at up to 8 octets at a time, the first in the low byte, octets
 * past the end being zero. A *mark* has the top bit of the byte set for each octet that a test
 * found; bits above the lowest mark may be wrong (borrows), the lowest never is.
 */
#ifndef TALLY_ENGINE_CURSOR_H
#define TALLY_ENGINE_CURSOR_H

#include "port.h"
#include "tally/limits.h"
#include "tally/pieces.h"

#define TALLY_BYTES(c) (0x0101010101010101ULL * (__u8)(c))
#define TALLY_TOPS 0x8080808080808080ULL

/* The word at pos; n (1..8) octets of it are valid. */
TALLY_INLINE __u64 tally_word(const struct tally_chunk *c, __u32 pos, __u32 n)
{
	__u64 w;

	tally_opaque(pos);
	w = *(const tally_unaligned *)(c->b + (pos & (TALLY_CHUNK - 1)));
	return n < 8 ? w & ((1ULL << (8 * (n & 7))) - 1) : w;
}

/* The 8 octets at pos, whether they are all valid or not (the chunk is padded). */
TALLY_INLINE __u64 tally_whole(const struct tally_chunk *c, __u32 pos)
{
	tally_opaque(pos);
	return *(const tally_unaligned *)(c->b + (pos & (TALLY_CHUNK - 1)));
}

TALLY_INLINE __u8 tally_byte(const struct tally_chunk *c, __u32 pos)
{
	tally_opaque(pos);
	return c->b[pos & (TALLY_CHUNK - 1)];
}

TALLY_INLINE __u64 tally_mark_less(__u64 w, __u8 n)
{
	return (w - TALLY_BYTES(n)) & ~w & TALLY_TOPS;
}

TALLY_INLINE __u64 tally_mark_eq(__u64 w, __u8 c)
{
	__u64 x = w ^ TALLY_BYTES(c);

	return (x - TALLY_BYTES(1)) & ~x & TALLY_TOPS;
}

/* Index of the lowest mark, 0..7. mark must not be 0. */
TALLY_INLINE __u32 tally_mark_first(__u64 mark)
{
	return ((mark & -mark) >> 7) * 0x0001020304050607ULL >> 56;
}

/* How many of the 16 octets at pos, valid or not, stand before the first one below 0x10. */
TALLY_INLINE __u32 tally_control(const struct tally_chunk *c, __u32 pos)
{
	const tally_unaligned *w;
	__u64 a, b;

	tally_opaque(pos);
	w = (const tally_unaligned *)(c->b + (pos & (TALLY_CHUNK - 1)));
	a = w[0];
	b = w[1];
	/* Octets from 0x90 on are found here, too: not in most heads. */
	if (!(((a - TALLY_BYTES(0x10)) | (b - TALLY_BYTES(0x10))) & TALLY_TOPS))
		return 16;
	a = tally_mark_less(a, 0x10);
	if (a)
		return tally_mark_first(a);
	b = tally_mark_less(b, 0x10);
	return b ? 8 + tally_mark_first(b) : 16;
}

TALLY_INLINE __u8 tally_octet(__u64 w, __u32 i)
{
	return w >> (8 * (i & 7));
}

/* The first k (0..8) octets of w. */
TALLY_INLINE __u64 tally_low(__u64 w, __u32 k)
{
	return k < 8 ? w & ((1ULL << (8 * (k & 7))) - 1) : w;
}

/* ASCII letters in lower case; every other octet as it is. */
TALLY_INLINE __u64 tally_lower(__u64 w)
{
	__u64 low = w & ~TALLY_TOPS;
	__u64 upper = (low + TALLY_BYTES(0x80 - 'A')) & ~(low + TALLY_BYTES(0x7f - 'Z'));

	return w | (upper & ~w & TALLY_TOPS) >> 2;
}

/* How many of the leading octets are ASCII digits, 0..8. */
TALLY_INLINE __u32 tally_digits(__u64 w)
{
	__u64 x = w ^ TALLY_BYTES('0');
	__u64 not = (x | ((x & ~TALLY_TOPS) + TALLY_BYTES(0x80 - 10))) & TALLY_TOPS;

	return not ? tally_mark_first(not ) : 8;
}

/* The number that the first k (1..8) octets, all digits, spell. */
TALLY_INLINE __u64 tally_decimal(__u64 w, __u32 k)
{
	__u64 x = (w ^ TALLY_BYTES('0')) << (8 * ((8 - k) & 7));

	x = (x * 10 + (x >> 8)) & 0x00ff00ff00ff00ffULL;
	x = (x * 100 + (x >> 16)) & 0x0000ffff0000ffffULL;
	return (x * 10000 + (x >> 32)) & 0xffffffffULL;
}

TALLY_INLINE __u64 tally_pow10(__u32 k)
{
	__u64 p = k & 1 ? 10 : 1;

	p *= k & 2 ? 100 : 1;
	p *= k & 4 ? 10000 : 1;
	return k & 8 ? p * 100000000 : p;
}

#endif
