/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause OR Apache-2.0 */
/*
 * The hashes both sides compute, as streams: text arrives in pieces of 1 to 8 bytes, in a word whose
 * unused high bytes are zero, and the result does not depend on the pieces.
 *
 *	tally_sip	SipHash-1-3 (Aumasson, Bernstein 2012), 64 bits: identity of keys
 *	tally_mix	a keyed multiplicative hash: path segments. Clients never see its values.
 */
#ifndef TALLY_HASH_H
#define TALLY_HASH_H

#include "tally/types.h"

#define TALLY_HASH_INLINE static inline __attribute__((always_inline))

struct tally_sip {
	__u64 v0, v1, v2, v3;
	__u64 acc; /* bytes not yet a whole word */
	__u32 len;
	__u32 pad;
};

TALLY_HASH_INLINE __u64 tally_rotl(__u64 x, int n)
{
	return x << n | x >> (64 - n);
}

TALLY_HASH_INLINE void tally_sip_round(struct tally_sip *s)
{
	__u64 v0 = s->v0, v1 = s->v1, v2 = s->v2, v3 = s->v3;

	v0 += v1;
	v1 = tally_rotl(v1, 13) ^ v0;
	v0 = tally_rotl(v0, 32);
	v2 += v3;
	v3 = tally_rotl(v3, 16) ^ v2;
	v0 += v3;
	v3 = tally_rotl(v3, 21) ^ v0;
	v2 += v1;
	v1 = tally_rotl(v1, 17) ^ v2;
	v2 = tally_rotl(v2, 32);
	s->v0 = v0;
	s->v1 = v1;
	s->v2 = v2;
	s->v3 = v3;
}

TALLY_HASH_INLINE void tally_sip_init(struct tally_sip *s, __u64 k0, __u64 k1)
{
	s->v0 = k0 ^ 0x736f6d6570736575ULL;
	s->v1 = k1 ^ 0x646f72616e646f6dULL;
	s->v2 = k0 ^ 0x6c7967656e657261ULL;
	s->v3 = k1 ^ 0x7465646279746573ULL;
	s->acc = 0;
	s->len = 0;
}

TALLY_HASH_INLINE void tally_sip_word(struct tally_sip *s, __u64 m)
{
	s->v3 ^= m;
	tally_sip_round(s);
	s->v0 ^= m;
}

/* Add n bytes (1..8): the low bytes of w, the others zero. */
TALLY_HASH_INLINE void tally_sip_add(struct tally_sip *s, __u64 w, __u32 n)
{
	__u32 have = s->len & 7;
	__u64 m = s->acc | w << (8 * have);

	s->len += n;
	if (have + n < 8) {
		s->acc = m;
		return;
	}
	tally_sip_word(s, m);
	s->acc = have ? w >> (8 * (8 - have)) : 0;
}

TALLY_HASH_INLINE __u64 tally_sip_done(struct tally_sip *s)
{
	tally_sip_word(s, s->acc | (__u64)s->len << 56);
	s->v2 ^= 0xff;
	tally_sip_round(s);
	tally_sip_round(s);
	tally_sip_round(s);
	return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

struct tally_mix {
	__u64 h;
	__u64 acc;
	__u32 len;
	__u32 pad;
};

TALLY_HASH_INLINE void tally_mix_init(struct tally_mix *m, __u64 seed)
{
	m->h = seed;
	m->acc = 0;
	m->len = 0;
}

TALLY_HASH_INLINE __u64 tally_mix_word(__u64 h, __u64 w)
{
	h = (h ^ w) * 0xff51afd7ed558ccdULL;
	return h ^ h >> 32;
}

TALLY_HASH_INLINE void tally_mix_add(struct tally_mix *m, __u64 w, __u32 n)
{
	__u32 have = m->len & 7;
	__u64 v = m->acc | w << (8 * have);

	m->len += n;
	if (have + n < 8) {
		m->acc = v;
		return;
	}
	m->h = tally_mix_word(m->h, v);
	m->acc = have ? w >> (8 * (8 - have)) : 0;
}

/* The seed enters twice, so that neither end can be solved for without it. */
TALLY_HASH_INLINE __u64 tally_mix_done(const struct tally_mix *m, __u64 seed)
{
	__u64 h = tally_mix_word(m->h, m->acc ^ (__u64)m->len << 56);

	return tally_mix_word(h ^ (seed << 1 | 1), m->len);
}

/* Whole texts, for user space: the same values the streams give. */
TALLY_HASH_INLINE __u64 tally_load(const __u8 *p, __u32 n)
{
	__u64 w = 0;

	for (__u32 i = 0; i < n; i++)
		w |= (__u64)p[i] << (8 * i);
	return w;
}

#ifndef __bpf__
static inline __u64 tally_key_hash(const void *text, __u32 len, const __u64 secret[2])
{
	const __u8 *p = text;
	struct tally_sip s;

	tally_sip_init(&s, secret[0], secret[1]);
	for (__u32 i = 0; i < len; i += 8)
		tally_sip_add(&s, tally_load(p + i, len - i < 8 ? len - i : 8),
			      len - i < 8 ? len - i : 8);
	return tally_sip_done(&s);
}

static inline __u64 tally_text_hash(const void *text, __u32 len, const __u64 secret[2])
{
	const __u8 *p = text;
	struct tally_mix m;

	tally_mix_init(&m, secret[0]);
	for (__u32 i = 0; i < len; i += 8)
		tally_mix_add(&m, tally_load(p + i, len - i < 8 ? len - i : 8),
			      len - i < 8 ? len - i : 8);
	return tally_mix_done(&m, secret[1]);
}
#endif

#endif
