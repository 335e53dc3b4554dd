/* SPDX-License-Identifier: Apache-2.0 */
#include "account/peer.h"

#include <stdio.h>
#include <string.h>

#define MAPPED 12 /* octets of ::ffff:0:0/96 */

static const __u8 mapped[MAPPED] = { [10] = 0xff, [11] = 0xff };
static const __u8 nowhere[16];

bool tally_peer_is_ipv4(const __u8 address[16])
{
	return memcmp(address, mapped, MAPPED) == 0;
}

static __u8 whole(const __u8 address[16])
{
	return tally_peer_is_ipv4(address) ? TALLY_PEER_IPV4 : TALLY_PEER_IPV6;
}

/* Zeros behind the first `bits` bits of all 16 octets. */
static void cut_behind(__u8 address[16], unsigned int bits)
{
	for (unsigned int i = 0; i < 16; i++) {
		unsigned int kept = bits > 8 * i ? bits - 8 * i : 0;

		if (kept < 8)
			address[i] &= (__u8)(0xff00 >> kept);
	}
}

static void cut_address(const __u8 from[16], __u8 prefix, __u8 address[16])
{
	unsigned int before = tally_peer_is_ipv4(from) ? 8 * MAPPED : 0;

	memset(address, 0, 16);
	if (!prefix)
		return;
	memcpy(address, from, 16);
	cut_behind(address, before + prefix);
}

void tally_peer_take(const struct tally_frozen_row *row, const struct tally_peer_cut *cut,
		     struct tally_sealed_peer *ret_peer)
{
	const __u8 *from = row->row.peer;

	*ret_peer = (struct tally_sealed_peer){ 0 };
	if (memcmp(from, nowhere, sizeof(nowhere)) == 0)
		return;
	ret_peer->conn = row->key.conn;
	ret_peer->prefix = tally_peer_is_ipv4(from) ? cut->ipv4 : cut->ipv6;
	cut_address(from, ret_peer->prefix, ret_peer->address);
	if (ret_peer->prefix == whole(from))
		ret_peer->port = row->row.peer_port;
}

bool tally_peer_is_valid(const struct tally_sealed_peer *peer)
{
	__u8 address[16];

	if (!peer->prefix)
		return !peer->port && memcmp(peer->address, nowhere, sizeof(nowhere)) == 0;
	if (peer->prefix > whole(peer->address) ||
	    (peer->port && peer->prefix != whole(peer->address)))
		return false;
	cut_address(peer->address, peer->prefix, address);
	return memcmp(address, peer->address, sizeof(address)) == 0;
}

static unsigned int group(const __u8 address[16], int i)
{
	return (unsigned int)address[2 * i] << 8 | address[2 * i + 1];
}

/* The longest run of zero groups, the first of equals, if there are two at least: RFC 5952, 4.2. */
static int longest_zeros(const __u8 address[16], int *ret_start)
{
	int best = 1;

	*ret_start = -1;
	for (int i = 0; i < 8; i++) {
		int n = 0;

		while (i + n < 8 && !group(address, i + n))
			n++;
		if (n > best) {
			best = n;
			*ret_start = i;
		}
	}
	return *ret_start < 0 ? 0 : best;
}

static void ipv6_text(const __u8 address[16], char text[TALLY_PEER_TEXT])
{
	int start, zeros = longest_zeros(address, &start);
	size_t n = 0;

	for (int i = 0; i < 8; i++) {
		if (i == start) {
			n += (size_t)snprintf(text + n, TALLY_PEER_TEXT - n, i ? ":" : "::");
			i += zeros - 1;
			continue;
		}
		n += (size_t)snprintf(text + n, TALLY_PEER_TEXT - n, "%x%s", group(address, i),
				      i < 7 ? ":" : "");
	}
}

void tally_peer_text(const __u8 address[16], char ret_text[TALLY_PEER_TEXT])
{
	if (tally_peer_is_ipv4(address))
		(void)snprintf(ret_text, TALLY_PEER_TEXT, "%u.%u.%u.%u", address[12], address[13],
			       address[14], address[15]); /* fits */
	else
		ipv6_text(address, ret_text);
}
