/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Addresses of clients: cut to what may be told, and as texts. Pure.
 *
 *	kernel's row ── peer[16], port ──cut──> address with its first `prefix` bits, zeros behind
 *
 * Invariants: what was cut is in no sealed file, so in nothing that is made of one; a port is told only
 * with a whole address (beside a prefix it would still name a subscriber); a text depends on the bytes
 * alone and on no library, because records are hashed and sent again.
 */
#ifndef TALLY_ACCOUNT_PEER_H
#define TALLY_ACCOUNT_PEER_H

#include <stdbool.h>

#include "account/seal.h"

#define TALLY_PEER_TEXT 40 /* with its NUL */
#define TALLY_PEER_IPV4 32
#define TALLY_PEER_IPV6 128

/* How many bits of an address are told. */
struct tally_peer_cut {
	__u8 ipv4; /* 0 .. 32 */
	__u8 ipv6; /* 0 .. 128 */
};

/* An address of IPv4, mapped. */
bool tally_peer_is_ipv4(const __u8 address[16]);

/* Of a kernel's row. One without address (`spill`) has no connection, and its `conn` is a CPU's number. */
void tally_peer_take(const struct tally_frozen_row *row, const struct tally_peer_cut *cut,
		     struct tally_sealed_peer *ret_peer);

/* Its address, bits behind the prefix zero, port as take() leaves it? */
bool tally_peer_is_valid(const struct tally_sealed_peer *peer);

/* 192.0.2.0, or RFC 5952. */
void tally_peer_text(const __u8 address[16], char ret_text[TALLY_PEER_TEXT]);

#endif
