/* SPDX-License-Identifier: Apache-2.0 */
#include "replay_books.h"

#include "identify/rules.h"
#include "resolve.h"

#define PORTS 65536
#define GENERATION 1

struct tally_replay {
	struct tally_replay_setup setup;
	struct tally_ruleset_view *view;
	struct tally_rules *rules; /* one a service */
	const struct tally_rules **by_port;
	struct tally_meter *meter;
	struct tally_flows *flows;
	struct tally_resolve resolve;
	uint64_t start_ns, end_ns; /* the open window; 0: none */
	uint64_t epoch, seq;
	int64_t held;
	uint8_t chain[TALLY_CHAIN];
	char id[TALLY_AGENT_ID + 1];
};

/* The rules ------------------------------------------------------------------------------------- */

static int explain(char **ret_error, const char *a, const char *b, unsigned int port)
{
	int n = b ? asprintf(ret_error,
			     "services %s and %s share ports (%u), and a capture does not tell "
			     "them apart: choose one with --service",
			     a, b, port)
		  : asprintf(ret_error, "no service is called %s", a);

	return n < 0 ? -ENOMEM : -EINVAL;
}

static bool has_port(const struct tally_option_ports *ports, unsigned int port)
{
	for (size_t i = 0; i < ports->n; i++)
		if (ports->list[i] == port)
			return true;
	return false;
}

static bool is_wanted(const struct tally_replay *replay, size_t i)
{
	const char *service = replay->setup.service;

	return !service || !strcmp(service, replay->setup.config->services[i].name);
}

/* A port that is named goes before `all`: assign_all() comes first. */
static int assign_named(struct tally_replay *replay, size_t i, char **ret_error)
{
	const struct tally_config_service *services = replay->setup.config->services;
	const struct tally_option_ports *ports = &services[i].match.ports;

	for (size_t j = 0; j < ports->n; j++) {
		const struct tally_rules *other = replay->by_port[ports->list[j]];

		if (other && has_port(&services[other->service].match.ports, ports->list[j]))
			return explain(ret_error, services[other->service].name, services[i].name,
				       ports->list[j]);
		replay->by_port[ports->list[j]] = &replay->rules[i];
	}
	return 0;
}

static int assign_all(struct tally_replay *replay, size_t i, char **ret_error)
{
	const struct tally_config_service *services = replay->setup.config->services;

	if (!services[i].match.ports.all)
		return 0;
	if (replay->by_port[0])
		return explain(ret_error, services[replay->by_port[0]->service].name,
			       services[i].name, 0);
	for (size_t port = 0; port < PORTS; port++)
		replay->by_port[port] = &replay->rules[i];
	return 0;
}

static int assign_ports(struct tally_replay *replay, char **ret_error)
{
	const struct tally_config *config = replay->setup.config;
	bool any = false;
	int r = 0;

	for (size_t i = 0; i < config->n_services; i++)
		any |= is_wanted(replay, i);
	if (!any)
		return explain(ret_error, replay->setup.service, NULL, 0);
	for (size_t i = 0; !r && i < config->n_services; i++)
		r = is_wanted(replay, i) ? assign_all(replay, i, ret_error) : 0;
	for (size_t i = 0; !r && i < config->n_services; i++)
		r = is_wanted(replay, i) ? assign_named(replay, i, ret_error) : 0;
	return r;
}

static int compile(struct tally_replay *replay)
{
	const struct tally_config *config = replay->setup.config;
	struct tally_rules_target target = { .generation = GENERATION };
	_cleanup_free_ char *json = NULL;
	int r = tally_util_random(target.secret, sizeof(target.secret));

	for (size_t i = 0; !r && i < config->n_services; i++) {
		target.service = (uint16_t)i;
		r = tally_rules_compile(&config->services[i], &target, &replay->rules[i]);
	}
	if (!r)
		r = tally_rules_dump(config, NULL, &json);
	return r ? r : tally_ruleset_load(json, strlen(json), &replay->view);
}

int tally_replay_new(const struct tally_replay_setup *setup, struct tally_replay **ret_replay,
		     char **ret_error)
{
	_cleanup_(tally_replay_freep) struct tally_replay *replay = calloc(1, sizeof(*replay));
	struct tally_meter_options options = setup->caps;
	int r;

	if (!replay)
		return -ENOMEM;
	if (!options.dictionary)
		options.dictionary =
			(uint32_t)TALLY_MIN(setup->config->agent.limits.keys, (uint64_t)UINT32_MAX);
	replay->setup = *setup;
	replay->seq = 1;
	replay->rules = calloc(setup->config->n_services, sizeof(*replay->rules));
	replay->by_port = calloc(PORTS, sizeof(struct tally_rules *));
	if (!replay->rules || !replay->by_port)
		return -ENOMEM;
	r = compile(replay);
	if (!r)
		r = assign_ports(replay, ret_error);
	if (!r)
		r = tally_meter_new(&options, &replay->meter);
	if (!r)
		r = tally_flows_new(replay->meter, replay->by_port, &replay->flows);
	if (r)
		return r;
	*ret_replay = TAKE_PTR(replay);
	return 0;
}

void tally_replay_free(struct tally_replay *replay)
{
	if (!replay)
		return;
	tally_flows_free(replay->flows);
	tally_meter_free(replay->meter);
	tally_ruleset_free(replay->view);
	free(replay->by_port);
	free(replay->rules);
	free(replay);
}

/* Names ----------------------------------------------------------------------------------------- */

static int owner_of(void *ctx, __u64 key_hash, __u64 time_s, struct tally_owner *ret_owner)
{
	struct tally_replay *replay = ctx;
	uint8_t sha256[TALLY_CATALOG_SHA];
	size_t bytes;
	const void *text = tally_meter_key(replay->meter, key_hash, &bytes);
	int r;

	if (!text)
		return -ENOENT;
	r = tally_catalog_sha256(text, bytes, sha256);
	return r ? r
		 : tally_resolve_owner(&replay->resolve, replay->setup.catalog,
				       replay->setup.secret, sha256, time_s, ret_owner);
}

static int terms_of(void *ctx, const struct tally_row_key *key, struct tally_terms *ret_terms)
{
	struct tally_replay *replay = ctx;

	return tally_resolve_terms(&replay->resolve, replay->view, key, ret_terms);
}

static const char *service_of(void *ctx, __u16 service)
{
	struct tally_replay *replay = ctx;

	return tally_ruleset_service(replay->view, service);
}

/* Windows --------------------------------------------------------------------------------------- */

/* As if of an agent: its id follows from the first packet. */
static void set_id(struct tally_replay *replay, const struct tally_capture_packet *p)
{
	uint8_t text[sizeof(p->time_ns) + 2 * sizeof(p->src) + 2 * sizeof(p->seq)], *to = text;
	__u8 digest[TALLY_SHA256];

	to = mempcpy(to, &p->time_ns, sizeof(p->time_ns));
	to = mempcpy(to, &p->src, sizeof(p->src));
	to = mempcpy(to, &p->dst, sizeof(p->dst));
	to = mempcpy(to, &p->seq, sizeof(p->seq));
	memcpy(to, &p->ack, sizeof(p->ack));
	tally_sha256(text, sizeof(text), digest);
	tally_util_hex(digest, TALLY_AGENT_ID / 2, replay->id);
}

/* Rows and totals of the window, copied. rows to free. */
static int freeze(struct tally_replay *replay, enum tally_close_cause cause,
		  struct tally_totals *totals, struct tally_frozen *ret_frozen)
{
	size_t n = tally_meter_rows(replay->meter);
	struct tally_frozen_row *rows = calloc(n ? n : 1, sizeof(*rows));

	if (!rows)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		const struct tally_meter_entry *e = tally_meter_row(replay->meter, i);

		rows[i] = (struct tally_frozen_row){ e->key, e->row };
	}
	for (uint16_t i = 0; i < TALLY_SERVICES; i++)
		totals[i] = *tally_meter_totals(replay->meter, i);
	*ret_frozen = (struct tally_frozen){
		.ledger = { 1 },
		.number = replay->epoch,
		.start_ns = replay->start_ns,
		.end_ns = replay->end_ns,
		.cause = cause,
		.rows = rows,
		.n_rows = n,
		.totals = totals,
		.n_services = TALLY_SERVICES,
	};
	return 0;
}

/* Takes the rows. */
static int ship(struct tally_replay *replay, struct tally_sealed *sealed)
{
	struct tally_batch_head head = {
		.incarnation = 1,
		.number = replay->epoch,
		.seq_first = replay->seq,
		.recorded_s = replay->end_ns / TALLY_NS_PER_S,
		.version = TALLY_VERSION,
		.host = "replay",
	};
	struct tally_batch *batch;
	int r;

	sealed->epoch_first = sealed->epoch_last = replay->epoch;
	sealed->held_before = replay->held;
	replay->held += (int64_t)(sealed->totals.held_enter - sealed->totals.held_leave);
	sealed->held_after = replay->held;
	memcpy(head.agent, replay->id, sizeof(head.agent));
	memcpy(head.prev_chain, replay->chain, sizeof(head.prev_chain));
	r = tally_batch_new(&head, sealed, &batch);
	if (r)
		return r;
	replay->seq += tally_batch_records(batch);
	memcpy(replay->chain, batch->chain, sizeof(replay->chain));
	r = replay->setup.batch(replay->setup.ctx, batch);
	tally_batch_free(batch);
	return r;
}

static bool is_idle(const struct tally_frozen *frozen)
{
	static const struct tally_totals none;

	for (size_t i = 0; i < frozen->n_services; i++)
		if (memcmp(&frozen->totals[i], &none, sizeof(none)))
			return false;
	return !frozen->n_rows;
}

static int close_window(struct tally_replay *replay, enum tally_close_cause cause)
{
	const struct tally_resolver resolver = {
		replay,
		owner_of,
		terms_of,
		service_of,
		NULL,
		tally_resolve_connections(&replay->resolve, &replay->setup.config->records)
	};
	struct tally_totals totals[TALLY_SERVICES];
	struct tally_sealed sealed;
	struct tally_frozen frozen;
	int r;

	replay->epoch++;
	r = freeze(replay, cause, totals, &frozen);
	if (r)
		return r;
	if (is_idle(&frozen)) {
		free(frozen.rows);
		replay->epoch--;
		return 0;
	}
	r = tally_account_close(&frozen, &resolver, &sealed);
	free(frozen.rows);
	tally_meter_swap(replay->meter);
	return r ? r : ship(replay, &sealed);
}

int tally_replay_packet(struct tally_replay *replay, const struct tally_capture_packet *packet)
{
	uint64_t window = replay->setup.config->agent.window_ns;
	int r = 0;

	if (!*replay->id)
		set_id(replay, packet);
	if (packet->time_ns >= replay->end_ns) {
		if (replay->end_ns)
			r = tally_flows_settle(replay->flows, packet->time_ns);
		if (replay->end_ns && !r)
			r = close_window(replay, TALLY_CAUSE_INTERVAL);
		replay->start_ns = packet->time_ns - packet->time_ns % window;
		replay->end_ns = replay->start_ns + window;
	}
	return r ? r : tally_flows_packet(replay->flows, packet);
}

int tally_replay_finish(struct tally_replay *replay)
{
	int r = tally_flows_finish(replay->flows);

	return r || !replay->end_ns ? r : close_window(replay, TALLY_CAUSE_SHUTDOWN);
}

const struct tally_flows_counts *tally_replay_counts(const struct tally_replay *replay)
{
	return tally_flows_counts(replay->flows);
}

size_t tally_replay_held(const struct tally_replay *replay, struct tally_meter_held *ret_held)
{
	return tally_flows_held(replay->flows, ret_held);
}
