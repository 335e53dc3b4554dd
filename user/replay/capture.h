/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A packet capture, read down to TCP: link, VLAN, IP and TCP headers are taken off.
 *
 *	file ── libpcap ── link ── IPv4, IPv6 ── TCP ── struct tally_capture_packet
 *
 * What is no TCP segment, or cannot be told, is counted under a reason and passed over. Invariants:
 * P1 every packet of the file is either given out or counted as skipped; P2 no octet behind what was
 * captured is read; P3 lengths are those of the IP header, so that padding is no payload.
 */
#ifndef TALLY_REPLAY_CAPTURE_H
#define TALLY_REPLAY_CAPTURE_H

#include "base/util.h"

/* Why a packet is not looked at. */
#define TALLY_CAPTURE_SKIPS(X)                              \
	X(SKIP_NOT_IP, "not IP")                            \
	X(SKIP_NOT_TCP, "not TCP")                          \
	X(SKIP_FRAGMENT, "IP fragments")                    \
	X(SKIP_CUT, "cut before the end of the TCP header") \
	X(SKIP_MALFORMED, "malformed")

#define TALLY_CAPTURE_ITEM(symbol, text) TALLY_CAPTURE_##symbol,
enum tally_capture_skip {
	TALLY_CAPTURE_TAKEN,
	TALLY_CAPTURE_SKIPS(TALLY_CAPTURE_ITEM) TALLY_CAPTURE_SKIP_COUNT
};

enum tally_capture_flag {
	TALLY_CAPTURE_FIN = 1,
	TALLY_CAPTURE_SYN = 2,
	TALLY_CAPTURE_RST = 4,
	TALLY_CAPTURE_ACK = 16,
	TALLY_CAPTURE_URG = 32,
};

/* IPv4 mapped into IPv6; port in host order. Hashed and compared as a whole: no padding. */
struct tally_capture_end {
	uint8_t addr[16];
	uint16_t port;
};

/* One TCP segment. data is valid until the next one is read. */
struct tally_capture_packet {
	uint64_t time_ns;
	struct tally_capture_end src, dst;
	uint32_t seq, ack;
	uint8_t flags; /* enum tally_capture_flag */
	const uint8_t *data;
	uint32_t len;	   /* octets of payload, as sent */
	uint32_t captured; /* of these, the first ones in the file */
};

struct tally_capture_counts {
	uint64_t packets;
	uint64_t skipped[TALLY_CAPTURE_SKIP_COUNT];
	uint64_t cut; /* segments given out whose payload is not whole in the file */
};

struct tally_capture;

/* Texts of enum tally_capture_skip; [0] is NULL. */
extern const char *const tally_capture_skip_texts[];

/*
 * path "-": standard input. filter: as tcpdump takes it, or NULL. -EBADMSG: no capture, or a filter
 * that does not compile; *ret_error says why, to free. -ENOMEM.
 */
TALLY_MUST int tally_capture_open(const char *path, const char *filter,
				  struct tally_capture **ret_capture, char **ret_error);
/* The same from an open stream, which is closed with the capture, and on failure, too. */
TALLY_MUST int tally_capture_from(FILE *in, const char *filter, struct tally_capture **ret_capture,
				  char **ret_error);
void tally_capture_close(struct tally_capture *capture);

/* 1: *ret_packet; 0: the end; -EBADMSG: the file is damaged, tally_capture_error() says how. */
TALLY_MUST int tally_capture_next(struct tally_capture *capture,
				  struct tally_capture_packet *ret_packet);
const char *tally_capture_error(struct tally_capture *capture);
const struct tally_capture_counts *tally_capture_counts(const struct tally_capture *capture);

TALLY_CLEANUP(struct tally_capture *, tally_capture_closep, tally_capture_close)

#endif
