/* SPDX-License-Identifier: Apache-2.0 */
#include "replay/flows.h"

#include <uthash.h>

#define FORGET_NS (60 * TALLY_NS_PER_S) /* what is closed, or never opened, is kept for so long */
#define IDLE_NS (600 * TALLY_NS_PER_S) /* the same of those that are open and never sent anything */
#define SWEEP_FROM (1u << 16)
#define WAIT_NS (TALLY_NS_PER_S / 5)
#define WAITING 32     /* packets of a flow whose cause has not come: it is lost */
#define FAR (1u << 24) /* further from the last octet than that is another connection */

#define DROP_TEXT(symbol, text) [TALLY_FLOWS_##symbol] = (text),
const char *const tally_flows_drop_texts[] = { TALLY_FLOWS_DROPS(DROP_TEXT) };

/* Hashed as a whole: no padding. */
struct flow_key {
	struct tally_capture_end client, server;
};

enum flow_state {
	FLOW_NEW,  /* nothing is known but the handshake's beginning, if that */
	FLOW_OPEN, /* born, or joined: conn comes with the first payload */
	FLOW_CLOSED,
	FLOW_IGNORED, /* the metered port called out */
};

/* Octets of the client from `base` on that no ACK has covered. */
struct unacked {
	uint8_t *data;
	uint32_t base, len, room;
};

/* A packet before which another one is missing. */
struct waiting {
	struct waiting *next;
	struct tally_capture_packet packet;
	int dir;
	uint8_t data[];
};

struct flow {
	struct flow_key key;
	enum flow_state state;
	bool midstream;
	bool syn_known; /* a SYN waits for its answer */
	bool una_known, nxt_known;
	bool reset; /* by the client, at a position that cannot be checked */
	bool fin_seen[2];
	uint32_t syn; /* position after that SYN */
	uint32_t rcv_nxt, snd_nxt, snd_una;
	uint32_t in_end; /* of the client's octets without a gap */
	uint32_t first[2];
	uint32_t fin[2];
	struct unacked unacked; /* in FLOW_NEW: what came with the SYN */
	struct tally_meter_conn *conn;
	struct waiting *waiting, **waiting_end;
	size_t n_waiting;
	uint64_t seen_ns;
	UT_hash_handle hh;
};

struct tally_flows {
	struct tally_meter *meter;
	const struct tally_rules *const *by_port;
	struct flow *table;
	size_t n_open, sweep_at;
	uint64_t now_ns, cookie;
	struct tally_flows_counts counts;
};

static bool after(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) > 0;
}

/* Octets that wait for their ACK ---------------------------------------------------------------- */

static void unacked_begin(struct unacked *u, uint32_t base)
{
	u->base = base;
	u->len = 0;
}

static void unacked_free(struct unacked *u)
{
	if (u->data)
		explicit_bzero(u->data, u->room);
	free(u->data);
	*u = (struct unacked){ 0 };
}

/* An ACK covers everything before `to`. */
static void unacked_trim(struct unacked *u, uint32_t to)
{
	uint32_t n = to - u->base;

	if (!after(to, u->base))
		return;
	n = TALLY_MIN(n, u->len);
	u->len -= n;
	if (u->len)
		memmove(u->data, u->data + n, u->len);
	u->base = to;
}

/* These octets follow. Beyond the cap nothing is kept, and nothing can be compared. */
static int unacked_add(struct unacked *u, const uint8_t *data, uint32_t n)
{
	uint8_t *more;

	if (u->len + n > TALLY_FLOWS_COMPARED) {
		u->base += u->len + n;
		u->len = 0;
		return 0;
	}
	if (u->len + n > u->room) {
		uint32_t room = TALLY_MIN(2 * (u->len + n), (uint32_t)TALLY_FLOWS_COMPARED);

		more = realloc(u->data, room);
		if (!more)
			return -ENOMEM;
		u->data = more;
		u->room = room;
	}
	if (n)
		memcpy(u->data + u->len, data, n);
	u->len += n;
	return 0;
}

/*
 * How many octets at the beginning of the segment need not be metered again: TCP has acknowledged
 * them, or they are here and the same. 0 as soon as one differs: the meter then decides.
 */
static uint32_t unacked_same(const struct unacked *u, uint32_t seq, const uint8_t *data, uint32_t n)
{
	uint32_t skip = after(u->base, seq) ? u->base - seq : 0, at, len;

	if (after(seq, u->base + u->len))
		return 0;
	if (skip >= n)
		return n;
	at = seq + skip - u->base;
	if (at >= u->len)
		return skip;
	len = TALLY_MIN(n - skip, u->len - at);
	return memcmp(u->data + at, data + skip, len) ? 0 : skip + len;
}

/* Flows ----------------------------------------------------------------------------------------- */

int tally_flows_new(struct tally_meter *meter, const struct tally_rules *const *by_port,
		    struct tally_flows **ret_flows)
{
	struct tally_flows *flows = calloc(1, sizeof(*flows));

	if (!flows)
		return -ENOMEM;
	flows->meter = meter;
	flows->by_port = by_port;
	flows->sweep_at = SWEEP_FROM;
	*ret_flows = flows;
	return 0;
}

static struct waiting *waiting_take(struct flow *flow, struct waiting **at)
{
	struct waiting *w = *at;

	*at = w->next;
	if (!w->next)
		flow->waiting_end = at;
	flow->n_waiting--;
	return w;
}

static void waiting_free(struct waiting *w)
{
	explicit_bzero(w->data, w->packet.captured);
	free(w);
}

static void flow_free(struct tally_flows *flows, struct flow *flow)
{
	HASH_DEL(flows->table, flow);
	unacked_free(&flow->unacked);
	while (flow->waiting)
		waiting_free(waiting_take(flow, &flow->waiting));
	free(flow);
}

/* Connections that are still open belong to the meter. */
void tally_flows_free(struct tally_flows *flows)
{
	struct flow *flow, *next;

	if (!flows)
		return;
	HASH_ITER(hh, flows->table, flow, next)
		flow_free(flows, flow);
	free(flows);
}

static struct flow *flow_find(struct tally_flows *flows, const struct tally_capture_end *client,
			      const struct tally_capture_end *server)
{
	struct flow_key key = { *client, *server };
	struct flow *flow;

	HASH_FIND(hh, flows->table, &key, sizeof(key), flow);
	return flow;
}

/* Forgets what has no connection and was not heard of for a while. */
static void sweep(struct tally_flows *flows)
{
	struct flow *flow, *next;

	HASH_ITER(hh, flows->table, flow, next) {
		uint64_t idle_ns;

		if (flow->seen_ns > flows->now_ns) /* what we are at was late */
			continue;
		idle_ns = flows->now_ns - flow->seen_ns;
		if (!flow->conn && !flow->waiting &&
		    idle_ns > (flow->state == FLOW_OPEN ? IDLE_NS : FORGET_NS))
			flow_free(flows, flow);
	}
	flows->sweep_at = TALLY_MAX(2 * (size_t)HASH_COUNT(flows->table), (size_t)SWEEP_FROM);
}

/* NULL: no memory, or (then *ret_full) too many. */
static struct flow *flow_new(struct tally_flows *flows, const struct tally_capture_end *client,
			     const struct tally_capture_end *server, bool *ret_full)
{
	struct flow *flow;

	if (HASH_COUNT(flows->table) >= flows->sweep_at)
		sweep(flows);
	if (HASH_COUNT(flows->table) >= TALLY_FLOWS_KNOWN) {
		*ret_full = true;
		return NULL;
	}
	flow = calloc(1, sizeof(*flow));
	if (!flow)
		return NULL;
	flow->key = (struct flow_key){ *client, *server };
	flow->waiting_end = &flow->waiting;
	HASH_ADD(hh, flows->table, key, sizeof(flow->key), flow);
	return flow;
}

/* Birth and death ------------------------------------------------------------------------------- */

/* What TCP knew, for a segment at `seq` in direction dir. Unknown positions prove nothing. */
static void tcp_state(const struct tally_flows *flows, const struct flow *flow,
		      struct tally_meter_segment *s)
{
	s->rcv_nxt = flow->rcv_nxt;
	s->snd_nxt = flow->snd_nxt;
	s->snd_una = flow->una_known ? flow->snd_una : flow->snd_nxt - 1;
	s->now_ns = flows->now_ns;
}

static int flow_close(struct tally_flows *flows, struct flow *flow)
{
	struct tally_meter_segment last = { 0 };
	int r = 0;

	tcp_state(flows, flow, &last);
	if (flow->conn) {
		r = tally_meter_close(flows->meter, TAKE_PTR(flow->conn), &last);
		flows->n_open--;
		flows->counts.closed++;
	}
	unacked_free(&flow->unacked);
	flow->syn_known = false;
	flow->state = FLOW_CLOSED;
	return r;
}

/* Both positions are known: what follows is metered from the first octet. */
static int flow_born(struct tally_flows *flows, struct flow *flow, uint32_t next_in,
		     uint32_t next_out)
{
	int r = flow->state == FLOW_OPEN ? flow_close(flows, flow) : 0;

	flow->state = FLOW_OPEN;
	flow->midstream = flow->syn_known = flow->reset = false;
	flow->fin_seen[0] = flow->fin_seen[1] = false;
	flow->una_known = flow->nxt_known = true;
	flow->first[TALLY_METER_IN] = flow->rcv_nxt = flow->in_end = next_in;
	flow->first[TALLY_METER_OUT] = flow->snd_nxt = flow->snd_una = next_out;
	if (flow->unacked.base != next_in)
		unacked_begin(&flow->unacked, next_in);
	return r;
}

static void flow_join(struct flow *flow, const struct tally_capture_packet *p, int dir)
{
	flow->state = FLOW_OPEN;
	flow->midstream = true;
	flow->reset = false;
	flow->fin_seen[0] = flow->fin_seen[1] = false;
	flow->una_known = flow->nxt_known = false;
	if (dir == TALLY_METER_IN) {
		flow->rcv_nxt = p->seq;
		flow->snd_nxt = flow->snd_una = p->ack;
		flow->una_known = flow->nxt_known = p->flags & TALLY_CAPTURE_ACK;
	} else {
		flow->rcv_nxt = p->ack;
		flow->snd_nxt = p->seq;
		flow->nxt_known = true;
	}
	flow->in_end = flow->rcv_nxt;
	unacked_begin(&flow->unacked, flow->rcv_nxt);
}

/* The meter's connection is made when there is something to meter. 0, -ENOMEM, -EUSERS: too many. */
static int flow_conn(struct tally_flows *flows, struct flow *flow)
{
	struct tally_meter_birth birth = {
		.rules = flows->by_port[flow->key.server.port],
		.cookie = flows->cookie + 1,
		.peer_port = flow->key.client.port,
		.midstream = flow->midstream,
		.next_in = flow->first[TALLY_METER_IN],
		.next_out = flow->first[TALLY_METER_OUT],
	};
	int r;

	if (flow->conn)
		return 0;
	if (flows->n_open >= TALLY_FLOWS_OPEN)
		return -EUSERS;
	memcpy(birth.peer, flow->key.client.addr, sizeof(birth.peer));
	r = tally_meter_open(flows->meter, &birth, &flow->conn);
	if (r)
		return r;
	flows->cookie++;
	flows->n_open++;
	if (flow->midstream)
		flows->counts.midstream++;
	else
		flows->counts.born++;
	return 0;
}

/* Segments -------------------------------------------------------------------------------------- */

static int drop(struct tally_flows *flows, const struct tally_capture_packet *p,
		enum tally_flows_drop why)
{
	flows->counts.dropped[why] += p->len != 0;
	return 0;
}

/* Octets from..to of the packet's payload to the meter. to is its end: and its FIN. */
static int meter_part(struct tally_flows *flows, struct flow *flow,
		      const struct tally_capture_packet *p, int dir, uint32_t from, uint32_t to)
{
	struct tally_meter_segment s = { .dir = (uint8_t)dir, .len = to - from };

	s.data = p->data + TALLY_MIN(from, p->captured);
	s.missing = from < p->captured ? 0 : s.len;
	s.seq = p->seq + from;
	s.fin = to == p->len && p->flags & TALLY_CAPTURE_FIN;
	s.urgent = p->flags & TALLY_CAPTURE_URG;
	tcp_state(flows, flow, &s);
	return tally_meter_segment(flows->meter, flow->conn, &s);
}

/*
 * Octets at..len of the packet's payload, and its FIN, to the meter. Those that were captured go first:
 * the meter takes all of what it looks at or nothing, and a head may end just before the cut.
 */
static int meter_payload(struct tally_flows *flows, struct flow *flow,
			 const struct tally_capture_packet *p, int dir, uint32_t at)
{
	bool cut = at < p->captured && p->captured < p->len;
	int r;

	if (!flow->conn && at == p->len && !(p->flags & TALLY_CAPTURE_FIN))
		return 0;
	r = flow_conn(flows, flow);
	if (r == -EUSERS)
		return drop(flows, p, TALLY_FLOWS_DROP_TOO_MANY);
	if (!r && cut)
		r = meter_part(flows, flow, p, dir, at, p->captured);
	return r ? r : meter_part(flows, flow, p, dir, cut ? p->captured : at, p->len);
}

static int from_client(struct tally_flows *flows, struct flow *flow,
		       const struct tally_capture_packet *p)
{
	struct unacked *u = &flow->unacked;
	uint32_t at = unacked_same(u, p->seq, p->data, p->captured);
	uint32_t end = p->seq + p->len + !!(p->flags & TALLY_CAPTURE_FIN);
	uint32_t have = u->base + u->len;
	int r;

	flows->counts.repeated += p->captured && after(flow->in_end, p->seq);
	r = meter_payload(flows, flow, p, TALLY_METER_IN, at);
	if (r)
		return r;
	if (!after(p->seq, flow->in_end) && after(end, flow->in_end))
		flow->in_end = end;
	if (!after(have, flow->in_end) && !after(p->seq, have) && after(p->seq + p->captured, have))
		return unacked_add(u, p->data + (have - p->seq), p->seq + p->captured - have);
	return 0;
}

static int from_server(struct tally_flows *flows, struct flow *flow,
		       const struct tally_capture_packet *p)
{
	uint32_t end = p->seq + p->len + !!(p->flags & TALLY_CAPTURE_FIN);
	int r = meter_payload(flows, flow, p, TALLY_METER_OUT, 0);

	if (!flow->nxt_known || after(end, flow->snd_nxt))
		flow->snd_nxt = end;
	flow->nxt_known = true;
	if (p->len)
		flow->reset = false; /* it lives */
	return r;
}

/* What an ACK says of the other side. */
static void take_ack(struct flow *flow, const struct tally_capture_packet *p, int dir)
{
	if (!(p->flags & TALLY_CAPTURE_ACK))
		return;
	if (dir == TALLY_METER_OUT) {
		if (!after(p->ack, flow->rcv_nxt))
			return;
		flow->rcv_nxt = p->ack;
		if (after(p->ack, flow->in_end))
			flow->in_end = p->ack;
		unacked_trim(&flow->unacked, p->ack);
		return;
	}
	if (!flow->una_known || after(p->ack, flow->snd_una))
		flow->snd_una = p->ack;
	if (!flow->nxt_known || after(p->ack, flow->snd_nxt))
		flow->snd_nxt = p->ack;
	flow->una_known = flow->nxt_known = true;
}

static void take_fin(struct flow *flow, const struct tally_capture_packet *p, int dir)
{
	if (!(p->flags & TALLY_CAPTURE_FIN))
		return;
	flow->fin_seen[dir] = true;
	flow->fin[dir] = p->seq + p->len;
}

/* Each side has the FIN of the other. */
static bool is_over(const struct flow *flow)
{
	return flow->fin_seen[TALLY_METER_IN] && flow->fin_seen[TALLY_METER_OUT] &&
	       after(flow->rcv_nxt, flow->fin[TALLY_METER_IN]) && flow->una_known &&
	       after(flow->snd_una, flow->fin[TALLY_METER_OUT]);
}

/* A client's RST counts where the server expects the next octet (RFC 5961 3.2). */
static int on_reset(struct tally_flows *flows, struct flow *flow,
		    const struct tally_capture_packet *p, int dir)
{
	if (flow->state == FLOW_NEW)
		flow->state = FLOW_CLOSED;
	if (flow->state != FLOW_OPEN)
		return 0;
	if (dir == TALLY_METER_OUT || p->seq == flow->rcv_nxt || p->seq == flow->in_end)
		return flow_close(flows, flow);
	flow->reset = after(p->seq, flow->in_end) || flow->reset;
	return 0;
}

/* Handshakes ------------------------------------------------------------------------------------ */

/* The handshake of the connection that is there, or was there last. */
static bool is_again(const struct flow *flow, int dir, const struct tally_capture_packet *p)
{
	return flow->state != FLOW_NEW && !flow->midstream && flow->first[dir] == p->seq + 1;
}

static int on_syn(struct flow *flow, const struct tally_capture_packet *p)
{
	if (flow->state == FLOW_OPEN) /* until the server agrees, the old connection lives */
		return 0;
	if (is_again(flow, TALLY_METER_IN, p))
		return 0;
	flow->syn = p->seq + 1;
	flow->syn_known = true;
	unacked_begin(&flow->unacked, flow->syn);
	return unacked_add(&flow->unacked, p->data, p->captured);
}

/* Octets that came with the SYN (RFC 7413), as far as the server took them. */
static int feed_early(struct tally_flows *flows, struct flow *flow, uint32_t ack)
{
	struct tally_capture_packet early = { .seq = flow->unacked.base,
					      .data = flow->unacked.data,
					      .len = ack - flow->unacked.base };

	early.captured = early.len;
	flow->rcv_nxt = flow->in_end = ack;
	return meter_payload(flows, flow, &early, TALLY_METER_IN, 0);
}

static int on_syn_ack(struct tally_flows *flows, struct flow *flow,
		      const struct tally_capture_packet *p)
{
	uint32_t early = flow->syn_known ? p->ack - flow->syn : 0;
	int r;

	if (is_again(flow, TALLY_METER_OUT, p))
		return 0;
	if (flow->state == FLOW_OPEN || early > flow->unacked.len)
		early = 0;
	r = flow_born(flows, flow, p->ack - early, p->seq + 1);
	if (!r && early)
		r = feed_early(flows, flow, p->ack);
	unacked_begin(&flow->unacked, p->ack);
	return r;
}

/* Packets --------------------------------------------------------------------------------------- */

/* The first that is seen of a 4-tuple, or after its end: how does it begin? 1: not with this. */
static int begin(struct tally_flows *flows, struct flow *flow, const struct tally_capture_packet *p,
		 int dir)
{
	if (p->flags & TALLY_CAPTURE_RST)
		return 1;
	if (flow->syn_known && dir == TALLY_METER_IN && p->flags & TALLY_CAPTURE_ACK &&
	    p->seq == flow->syn) /* the answer to the SYN is not in the capture */
		return flow_born(flows, flow, flow->syn, p->ack);
	if (flow->state == FLOW_CLOSED) {
		uint32_t from = dir == TALLY_METER_IN ? flow->in_end : flow->snd_nxt;

		if (!p->len || p->seq - from + FAR < 2 * FAR) {
			drop(flows, p, TALLY_FLOWS_DROP_CLOSED);
			return 1;
		}
	}
	flow_join(flow, p, dir);
	return 0;
}

static int on_segment(struct tally_flows *flows, struct flow *flow,
		      const struct tally_capture_packet *p, int dir)
{
	int r = 0;

	if (flow->state != FLOW_OPEN)
		r = begin(flows, flow, p, dir);
	if (r)
		return r < 0 ? r : 0;
	take_ack(flow, p, dir);
	take_fin(flow, p, dir);
	r = dir == TALLY_METER_IN ? from_client(flows, flow, p) : from_server(flows, flow, p);
	if (!r && is_over(flow))
		r = flow_close(flows, flow);
	return r;
}

/*
 * Whose packet is it? The flow, new or known, and the direction. NULL: of nobody who is metered, or
 * -errno in *ret_error.
 */
static struct flow *flow_of(struct tally_flows *flows, const struct tally_capture_packet *p,
			    int *ret_dir, int *ret_error)
{
	bool in = flows->by_port[p->dst.port], out = flows->by_port[p->src.port], full = false;
	bool syn = p->flags & TALLY_CAPTURE_SYN, ack = p->flags & TALLY_CAPTURE_ACK;
	struct flow *flow = in ? flow_find(flows, &p->src, &p->dst) : NULL;

	*ret_error = 0;
	*ret_dir = TALLY_METER_IN;
	if (flow && !(syn && ack && out))
		return flow;
	*ret_dir = TALLY_METER_OUT;
	flow = out ? flow_find(flows, &p->dst, &p->src) : NULL;
	if (flow && !(syn && !ack && in))
		return flow;
	if (!in && !out)
		return NULL;
	if (in && out && !syn) {
		drop(flows, p, TALLY_FLOWS_DROP_UNDIRECTED);
		return NULL;
	}
	/* The client is who sends the SYN. A metered port that does calls out. */
	*ret_dir = syn && in && out ? (ack ? TALLY_METER_OUT : TALLY_METER_IN)
				    : (in ? TALLY_METER_IN : TALLY_METER_OUT);
	flow = *ret_dir == TALLY_METER_IN ? flow_new(flows, &p->src, &p->dst, &full)
					  : flow_new(flows, &p->dst, &p->src, &full);
	if (flow && syn && (*ret_dir == TALLY_METER_IN) == ack)
		flow->state = FLOW_IGNORED;
	if (full)
		drop(flows, p, TALLY_FLOWS_DROP_TOO_MANY);
	else if (!flow)
		*ret_error = -ENOMEM;
	return flow;
}

static int flow_packet(struct tally_flows *flows, struct flow *flow,
		       const struct tally_capture_packet *packet, int dir)
{
	bool syn = packet->flags & TALLY_CAPTURE_SYN;

	flows->now_ns = packet->time_ns;
	if (flow->state == FLOW_IGNORED && !(syn && dir == TALLY_METER_IN))
		return 0;
	if (packet->flags & TALLY_CAPTURE_RST)
		return on_reset(flows, flow, packet, dir);
	if (syn && dir == TALLY_METER_IN)
		return on_syn(flow, packet);
	if (syn)
		return on_syn_ack(flows, flow, packet);
	return on_segment(flows, flow, packet, dir);
}

/* Order, and cause before effect ---------------------------------------------------------------- */

/* Everything before it, and everything that it acknowledges, was seen. */
static bool is_ready(const struct flow *flow, const struct tally_capture_packet *p, int dir)
{
	bool ack = p->flags & TALLY_CAPTURE_ACK;

	if (p->flags & TALLY_CAPTURE_SYN || flow->state == FLOW_CLOSED ||
	    flow->state == FLOW_IGNORED)
		return true;
	if (flow->state == FLOW_NEW) /* its handshake may be late */
		return false;
	if (dir == TALLY_METER_IN)
		return !after(p->seq, flow->in_end) &&
		       !(ack && flow->nxt_known && after(p->ack, flow->snd_nxt));
	return !(flow->nxt_known && after(p->seq, flow->snd_nxt)) &&
	       !(ack && after(p->ack, flow->in_end));
}

static int waiting_add(struct flow *flow, const struct tally_capture_packet *packet, int dir)
{
	struct waiting *w = malloc(sizeof(*w) + packet->captured);

	if (!w)
		return -ENOMEM;
	w->next = NULL;
	w->packet = *packet;
	w->packet.data = w->data;
	w->dir = dir;
	if (packet->captured)
		memcpy(w->data, packet->data, packet->captured);
	*flow->waiting_end = w;
	flow->waiting_end = &w->next;
	flow->n_waiting++;
	return 0;
}

/* The first one whose turn has come; too many or too late: the first of all. */
static struct waiting **waiting_next(struct flow *flow, uint64_t until_ns)
{
	for (struct waiting **at = &flow->waiting; *at; at = &(*at)->next)
		if (is_ready(flow, &(*at)->packet, (*at)->dir))
			return at;
	if (flow->waiting &&
	    (flow->n_waiting > WAITING || flow->waiting->packet.time_ns <= until_ns))
		return &flow->waiting;
	return NULL;
}

/* What waits since until_ns or longer waits no more. */
static int drain(struct tally_flows *flows, struct flow *flow, uint64_t until_ns)
{
	struct waiting **at;
	int r = 0;

	while (!r && (at = waiting_next(flow, until_ns))) {
		struct waiting *w = waiting_take(flow, at);

		r = flow_packet(flows, flow, &w->packet, w->dir);
		waiting_free(w);
	}
	return r;
}

int tally_flows_packet(struct tally_flows *flows, const struct tally_capture_packet *packet)
{
	struct flow *flow;
	int dir, r;

	flow = flow_of(flows, packet, &dir, &r);
	if (!flow)
		return r;
	flows->counts.segments++;
	flow->seen_ns = packet->time_ns;
	if (!flow->waiting && is_ready(flow, packet, dir))
		return flow_packet(flows, flow, packet, dir);
	r = waiting_add(flow, packet, dir);
	return r ? r
		 : drain(flows, flow, packet->time_ns > WAIT_NS ? packet->time_ns - WAIT_NS : 0);
}

int tally_flows_settle(struct tally_flows *flows, uint64_t now_ns)
{
	struct flow *flow, *next;
	int r = 0;

	HASH_ITER(hh, flows->table, flow, next)
		if (!r && flow->waiting)
			r = drain(flows, flow, now_ns > WAIT_NS ? now_ns - WAIT_NS : 0);
	return r;
}

int tally_flows_finish(struct tally_flows *flows)
{
	struct flow *flow, *next;
	int r = 0;

	HASH_ITER(hh, flows->table, flow, next) {
		if (!r)
			r = drain(flows, flow, UINT64_MAX);
		if (!r && flow->reset && flow->state == FLOW_OPEN)
			r = flow_close(flows, flow);
	}
	return r;
}

const struct tally_flows_counts *tally_flows_counts(const struct tally_flows *flows)
{
	return &flows->counts;
}

size_t tally_flows_held(const struct tally_flows *flows, struct tally_meter_held *ret_held)
{
	struct tally_meter_held sum = { 0 }, one;
	size_t n = 0;

	for (struct flow *flow = flows->table; flow; flow = flow->hh.next) {
		if (!flow->conn)
			continue;
		n++;
		tally_meter_held(flows->meter, flow->conn, &one);
		sum.exchanges += one.exchanges;
		for (int dir = 0; dir < 2; dir++) {
			sum.octets[dir] += one.octets[dir];
			sum.parked[dir] += one.parked[dir];
		}
	}
	*ret_held = sum;
	return n;
}
