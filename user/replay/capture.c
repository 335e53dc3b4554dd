/* SPDX-License-Identifier: Apache-2.0 */
#include "replay/capture.h"

#include <pcap/pcap.h>

#define SNAP_MAX \
	(16u << 20) /* no packet is longer; libpcap would believe any length up to its own cap */
#define VLAN_TAGS 4
#define IP6_HEADERS 8

#ifndef DLT_LINUX_SLL2
#define DLT_LINUX_SLL2 276
#endif

#define SKIP_TEXT(symbol, text) [TALLY_CAPTURE_##symbol] = (text),
const char *const tally_capture_skip_texts[] = { TALLY_CAPTURE_SKIPS(SKIP_TEXT) };

struct tally_capture {
	pcap_t *pcap;
	int link;
	struct tally_capture_counts counts;
};

/* What is left of a packet: captured octets, and how many there were on the wire. The functions that
 * take headers off it return enum tally_capture_skip, 0 being success. */
struct view {
	const uint8_t *p;
	uint32_t captured, len;
};

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

/* n octets less; the caller has seen that they are there. */
static void advance(struct view *v, uint32_t n)
{
	v->p += n;
	v->captured -= n;
	v->len -= n;
}

/* No more than len octets belong to it. */
static void limit(struct view *v, uint32_t len)
{
	v->len = TALLY_MIN(v->len, len);
	v->captured = TALLY_MIN(v->captured, v->len);
}

/* Link layer ------------------------------------------------------------------------------------ */

#define ETHERTYPE_IP4 0x0800
#define ETHERTYPE_IP6 0x86dd

static bool is_vlan(uint16_t type)
{
	return type == 0x8100 || type == 0x88a8 || type == 0x9100;
}

/* v begins behind an EtherType; tags are taken off until IP is left. */
static int take_tags(struct view *v, uint16_t type)
{
	for (int i = 0; i < VLAN_TAGS && is_vlan(type); i++) {
		if (v->captured < 4)
			return TALLY_CAPTURE_SKIP_CUT;
		type = get16(v->p + 2);
		advance(v, 4);
	}
	return type == ETHERTYPE_IP4 || type == ETHERTYPE_IP6 ? 0 : TALLY_CAPTURE_SKIP_NOT_IP;
}

/* The header has `bytes` octets, and the EtherType stands at `type_at`. */
static int take_typed(struct view *v, uint32_t bytes, uint32_t type_at)
{
	uint16_t type;

	if (v->captured < bytes)
		return TALLY_CAPTURE_SKIP_CUT;
	type = get16(v->p + type_at);
	advance(v, bytes);
	return take_tags(v, type);
}

static int take_link(int link, struct view *v)
{
	switch (link) {
	case DLT_EN10MB:
		return take_typed(v, 14, 12);
	case DLT_LINUX_SLL:
		return take_typed(v, 16, 14);
	case DLT_LINUX_SLL2:
		return take_typed(v, 20, 0);
	case DLT_NULL:
	case DLT_LOOP:
		if (v->captured < 4)
			return TALLY_CAPTURE_SKIP_CUT;
		advance(v, 4); /* the family: the version of IP says the same */
		return 0;
	default:
		return 0;
	}
}

static bool link_known(int link)
{
	return link == DLT_EN10MB || link == DLT_LINUX_SLL || link == DLT_LINUX_SLL2 ||
	       link == DLT_NULL || link == DLT_LOOP || link == DLT_RAW || link == DLT_IPV4 ||
	       link == DLT_IPV6;
}

/* IP -------------------------------------------------------------------------------------------- */

#define PROTO_TCP 6

static void map_ip4(uint8_t addr[16], const uint8_t *p)
{
	memset(addr, 0, 10);
	addr[10] = addr[11] = 0xff;
	memcpy(addr + 12, p, 4);
}

static int take_ip4(struct view *v, struct tally_capture_packet *packet)
{
	uint32_t head, total;

	if (v->captured < 20)
		return TALLY_CAPTURE_SKIP_CUT;
	head = (uint32_t)(v->p[0] & 15) * 4;
	total = get16(v->p + 2);
	if (head < 20 || (total && total < head))
		return TALLY_CAPTURE_SKIP_MALFORMED;
	if (v->p[9] != PROTO_TCP)
		return TALLY_CAPTURE_SKIP_NOT_TCP;
	if (get16(v->p + 6) & 0x3fff)
		return TALLY_CAPTURE_SKIP_FRAGMENT;
	if (v->captured < head)
		return TALLY_CAPTURE_SKIP_CUT;
	map_ip4(packet->src.addr, v->p + 12);
	map_ip4(packet->dst.addr, v->p + 16);
	if (total) /* 0: longer than the field can say, as segmentation offload leaves it */
		limit(v, total);
	advance(v, head);
	return 0;
}

/* Extension headers, RFC 8200 4.1, up to TCP. */
static int take_ip6_headers(struct view *v, uint8_t next)
{
	for (int i = 0; i < IP6_HEADERS && next != PROTO_TCP; i++) {
		uint32_t bytes = 8;

		if (v->captured < 8)
			return TALLY_CAPTURE_SKIP_CUT;
		if (next == 44 && get16(v->p + 2) & 0xfff9)
			return TALLY_CAPTURE_SKIP_FRAGMENT;
		if (next == 0 || next == 43 || next == 60)
			bytes = 8 + 8 * (uint32_t)v->p[1];
		else if (next != 44)
			return TALLY_CAPTURE_SKIP_NOT_TCP;
		if (v->len < bytes)
			return TALLY_CAPTURE_SKIP_MALFORMED;
		if (v->captured < bytes)
			return TALLY_CAPTURE_SKIP_CUT;
		next = v->p[0];
		advance(v, bytes);
	}
	return next == PROTO_TCP ? 0 : TALLY_CAPTURE_SKIP_NOT_TCP;
}

static int take_ip6(struct view *v, struct tally_capture_packet *packet)
{
	uint32_t payload;
	uint8_t next;

	if (v->captured < 40)
		return TALLY_CAPTURE_SKIP_CUT;
	payload = get16(v->p + 4);
	next = v->p[6];
	memcpy(packet->src.addr, v->p + 8, 16);
	memcpy(packet->dst.addr, v->p + 24, 16);
	advance(v, 40);
	if (payload) /* 0: a jumbogram, RFC 2675 */
		limit(v, payload);
	return take_ip6_headers(v, next);
}

static int take_ip(int link, struct view *v, struct tally_capture_packet *packet)
{
	uint8_t version;

	if (!v->captured)
		return TALLY_CAPTURE_SKIP_CUT;
	version = v->p[0] >> 4;
	if (version == 4 && link != DLT_IPV6)
		return take_ip4(v, packet);
	if (version == 6 && link != DLT_IPV4)
		return take_ip6(v, packet);
	return TALLY_CAPTURE_SKIP_NOT_IP;
}

/* TCP ------------------------------------------------------------------------------------------- */

static int take_tcp(struct view *v, struct tally_capture_packet *packet)
{
	uint32_t head;

	if (v->len < 20)
		return TALLY_CAPTURE_SKIP_MALFORMED;
	if (v->captured < 20)
		return TALLY_CAPTURE_SKIP_CUT;
	head = (uint32_t)(v->p[12] >> 4) * 4;
	if (head < 20 || head > v->len)
		return TALLY_CAPTURE_SKIP_MALFORMED;
	packet->src.port = get16(v->p);
	packet->dst.port = get16(v->p + 2);
	packet->seq = get32(v->p + 4);
	packet->ack = get32(v->p + 8);
	packet->flags = v->p[13];
	/* Options that were not captured say nothing that is needed. */
	packet->len = v->len - head;
	packet->captured = v->captured > head ? v->captured - head : 0;
	packet->data = v->p + TALLY_MIN(head, v->captured);
	return 0;
}

static int take_packet(int link, struct view *v, struct tally_capture_packet *packet)
{
	int r = take_link(link, v);

	if (!r)
		r = take_ip(link, v, packet);
	return r ? r : take_tcp(v, packet);
}

/* Files ----------------------------------------------------------------------------------------- */

static int refuse(char **ret_error, const char *text)
{
	char *copy = strdup(text);

	if (!copy)
		return -ENOMEM;
	*ret_error = copy;
	return -EBADMSG;
}

static int set_filter(struct tally_capture *capture, const char *filter, char **ret_error)
{
	struct bpf_program program;
	int r = 0;

	if (!filter)
		return 0;
	if (pcap_compile(capture->pcap, &program, filter, 1, PCAP_NETMASK_UNKNOWN))
		return refuse(ret_error, pcap_geterr(capture->pcap));
	if (pcap_setfilter(capture->pcap, &program))
		r = refuse(ret_error, pcap_geterr(capture->pcap));
	pcap_freecode(&program);
	return r;
}

static int check_link(struct tally_capture *capture, char **ret_error)
{
	const char *name;
	char text[128];

	capture->link = pcap_datalink(capture->pcap);
	if (link_known(capture->link))
		return 0;
	name = pcap_datalink_val_to_name(capture->link);
	(void)snprintf(text, sizeof(text), "packets of link type %d (%s) are not understood",
		       capture->link, name ? name : "unknown"); /* cut is fine */
	return refuse(ret_error, text);
}

int tally_capture_from(FILE *in, const char *filter, struct tally_capture **ret_capture,
		       char **ret_error)
{
	_cleanup_(tally_capture_closep) struct tally_capture *capture = calloc(1, sizeof(*capture));
	char error[PCAP_ERRBUF_SIZE] = "";
	int r;

	if (capture)
		capture->pcap = pcap_fopen_offline_with_tstamp_precision(
			in, PCAP_TSTAMP_PRECISION_NANO, error);
	if (!capture || !capture->pcap) {
		(void)fclose(in); /* it was only read */
		return capture ? refuse(ret_error, error) : -ENOMEM;
	}
	r = check_link(capture, ret_error);
	if (!r)
		r = set_filter(capture, filter, ret_error);
	if (r)
		return r;
	*ret_capture = TAKE_PTR(capture);
	return 0;
}

int tally_capture_open(const char *path, const char *filter, struct tally_capture **ret_capture,
		       char **ret_error)
{
	int fd = strcmp(path, "-") ? -1 : dup(STDIN_FILENO);
	FILE *in = strcmp(path, "-") ? fopen(path, "re") : fd >= 0 ? fdopen(fd, "r") : NULL;

	if (in)
		return tally_capture_from(in, filter, ret_capture, ret_error);
	tally_util_close(fd);
	return errno == ENOMEM ? -ENOMEM : refuse(ret_error, strerror(errno));
}

void tally_capture_close(struct tally_capture *capture)
{
	if (!capture)
		return;
	if (capture->pcap)
		pcap_close(capture->pcap);
	free(capture);
}

/* What no clock showed when a packet came: before 1970, or later than the format of pcap can say (2106). */
static bool time_of(const struct pcap_pkthdr *head, uint64_t *ret_ns)
{
	/* tv_usec is nanoseconds here */
	if (head->ts.tv_sec < 0 || head->ts.tv_sec > UINT32_MAX || head->ts.tv_usec < 0 ||
	    (uint64_t)head->ts.tv_usec >= TALLY_NS_PER_S)
		return false;
	*ret_ns = (uint64_t)head->ts.tv_sec * TALLY_NS_PER_S + (uint64_t)head->ts.tv_usec;
	return true;
}

int tally_capture_next(struct tally_capture *capture, struct tally_capture_packet *ret_packet)
{
	struct tally_capture_packet packet;
	struct pcap_pkthdr *head;
	const u_char *data;
	int r;

	while ((r = pcap_next_ex(capture->pcap, &head, &data)) == 1) {
		struct view v = { data, head->caplen, TALLY_MAX(head->len, head->caplen) };

		capture->counts.packets++;
		packet = (struct tally_capture_packet){ 0 };
		r = v.len > SNAP_MAX || !time_of(head, &packet.time_ns)
			    ? TALLY_CAPTURE_SKIP_MALFORMED
			    : take_packet(capture->link, &v, &packet);
		if (r) {
			capture->counts.skipped[r]++;
			continue;
		}
		capture->counts.cut += packet.captured < packet.len;
		*ret_packet = packet;
		return 1;
	}
	return r == PCAP_ERROR_BREAK ? 0 : -EBADMSG;
}

const char *tally_capture_error(struct tally_capture *capture)
{
	return pcap_geterr(capture->pcap);
}

const struct tally_capture_counts *tally_capture_counts(const struct tally_capture *capture)
{
	return &capture->counts;
}
