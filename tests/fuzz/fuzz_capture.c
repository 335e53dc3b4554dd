// SPDX-License-Identifier: Apache-2.0
/*
 * Any bytes as a packet capture, through everything that `tallyd replay` does. What could be read makes
 * books that balance: every final response head is booked or held, and every octet by which a stream
 * went on is in a row, in unparsed_bytes, or held by an open connection.
 */
#include "identify/rules.h"
#include "replay_books.h"

static const char config_text[] = "services:\n"
				  "  - name: a\n"
				  "    match: { ports: [80, 8080] }\n"
				  "    key: [ { header: X-API-Key }, { query: api_key } ]\n"
				  "    routes: [ { match: \"/v1/**\" } ]\n"
				  "sinks: [ { stdout: {} } ]\n";

struct sums {
	uint64_t booked[2], unparsed, passed[2];
};

static int take_batch(void *ctx, const struct tally_batch *batch)
{
	const struct tally_sealed *s = &batch->sealed;
	const struct tally_sealed_totals *t = &s->totals;
	struct tally_sealed_sums rows;
	struct sums *sums = ctx;
	uint64_t others = 0;

	for (int i = 0; i < TALLY_ATTR_COUNT; i++)
		others += t->unattributed[i];
	for (int i = 0; i < 8; i++)
		sums->unparsed += t->unparsed_bytes[i];
	if (s->held_before + (int64_t)t->seen != (int64_t)(t->attributed + others) + s->held_after)
		abort();
	tally_sealed_sum(s, &rows);
	sums->booked[0] += rows.request_bytes;
	sums->booked[1] += rows.response_bytes;
	sums->passed[0] += t->bytes[0];
	sums->passed[1] += t->bytes[1];
	return 0;
}

static struct tally_config *load(void)
{
	static struct tally_config *config;
	struct tally_diag diag;

	if (config)
		return config;
	tally_diag_init(&diag, "fuzz");
	if (tally_config_parse(config_text, sizeof(config_text) - 1, TALLY_CONFIG_NO_SECRETS, &diag,
			       &config) ||
	    tally_rules_check(config, &diag))
		abort();
	tally_diag_done(&diag);
	return config;
}

static void replay(struct tally_capture *capture)
{
	_cleanup_(tally_replay_freep) struct tally_replay *replay = NULL;
	_cleanup_free_ char *error = NULL;
	struct sums sums = { 0 };
	const struct tally_replay_setup setup = {
		.config = load(),
		.secret = "fuzz",
		.batch = take_batch,
		.ctx = &sums,
		.caps = { .candidates = 16, .pieces = 16 },
	};
	struct tally_capture_packet packet;
	struct tally_meter_held held;

	if (tally_replay_new(&setup, &replay, &error))
		abort();
	while (tally_capture_next(capture, &packet) == 1)
		if (tally_replay_packet(replay, &packet))
			abort();
	if (tally_replay_finish(replay))
		abort();
	tally_replay_held(replay, &held);
	if (sums.booked[0] + sums.booked[1] + sums.unparsed + held.octets[0] + held.octets[1] !=
	    sums.passed[0] + sums.passed[1])
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_(tally_capture_closep) struct tally_capture *capture = NULL;
	_cleanup_free_ char *error = NULL;
	FILE *in = size ? fmemopen((void *)(uintptr_t)data, size, "r") : NULL;
	int r;

	if (!in)
		return 0;
	r = tally_capture_from(in, NULL, &capture, &error);
	if ((r == -EBADMSG) != (error != NULL) || (r == 0) != (capture != NULL))
		abort();
	if (capture)
		replay(capture);
	return 0;
}
