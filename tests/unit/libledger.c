/* SPDX-License-Identifier: Apache-2.0 */
#include "libledger.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/util.h"

static int owner(void *ctx, __u64 key, __u64 time_s, struct tally_owner *ret_owner)
{
	(void)ctx;
	assert_true(time_s >= LEDGER_START_S - 7200);
	if (key == 404)
		return -ENOENT;
	if (key == 2)
		*ret_owner = (struct tally_owner){ NULL, "kfp_b", TALLY_KEYREF_HMAC,
						   TALLY_MODE_LIVE, true };
	else
		*ret_owner =
			(struct tally_owner){ "cus_acme", key == 1 ? "key_a" : "key_c",
					      TALLY_KEYREF_CATALOG, TALLY_MODE_LIVE, key != 3 };
	return 0;
}

static int terms(void *ctx, const struct tally_row_key *key, struct tally_terms *ret_terms)
{
	static const char *const routes[] = { "_other", "/v1/a", "/health", "/v1/t" };
	static struct tally_unit units[2];

	(void)ctx;
	if (key->ruleset == 99)
		return -ENOENT;
	units[0] = (struct tally_unit){ "requests", TALLY_UNIT_SCALE };
	units[1] = (struct tally_unit){ "credits", key->route == 1   ? 10 * TALLY_UNIT_SCALE
						   : key->route == 3 ? TALLY_UNIT_SCALE / 4
								     : 0 };
	*ret_terms = (struct tally_terms){
		.service = "geo-api",
		.route = routes[key->route],
		.method = "POST",
		.ruleset = "sha256:5b1e90aa",
		.health = key->route == 2,
		.billable = key->status >= 200 && key->status < 400,
		.charge_truncated = key->route != 3,
		.units = units,
		.n_units = 2,
	};
	return 0;
}

static const char *service(void *ctx, __u16 index)
{
	(void)ctx;
	return index ? NULL : "geo-api";
}

/* 1 and 2; others are not told. */
static void origin(void *ctx, __u32 id, struct tally_origin *ret_origin)
{
	(void)ctx;
	if (id == 1)
		*ret_origin = (struct tally_origin){ "geo", "Deployment/geo-api", NULL, NULL };
	if (id == 2)
		*ret_origin =
			(struct tally_origin){ "geo", "Deployment/geo-api", "geo-api-1", "n" };
}

const struct tally_resolver ledger_resolver = { NULL, owner, terms, service, origin, NULL };

struct tally_frozen_row ledger_row(__u64 key, __u16 route, __u16 status, __u64 requests)
{
	return (struct tally_frozen_row){
		.key = { .conn = 7 + requests,
			 .key = key,
			 .hour = (__u32)(LEDGER_START_S / 3600),
			 .ruleset = 1,
			 .route = route,
			 .status = status,
			 .method = 2,
			 .attribution = key ? TALLY_ATTR_KEY : TALLY_ATTR_ANONYMOUS,
			 .protocol = TALLY_PROTO_HTTP11 },
		.row = { .requests = requests,
			 .request_bytes = requests * 100,
			 .response_bytes = requests * 1000,
			 .duration_ns = requests * 1500 },
	};
}

struct tally_frozen ledger_epoch(__u64 number, struct tally_frozen_row *rows, size_t n_rows,
				 struct tally_totals *totals)
{
	*totals = (struct tally_totals){ 0 };
	for (size_t i = 0; i < n_rows; i++) {
		__u64 n = rows[i].row.requests;

		if (!rows[i].key.status) {
			totals->aborted += n;
			continue;
		}
		totals->seen += n;
		totals->held_enter += n;
		totals->held_leave += n;
		*(rows[i].key.attribution ? &totals->unattributed[rows[i].key.attribution]
					  : &totals->attributed) += n;
	}
	return (struct tally_frozen){
		.ledger = "ledger",
		.number = number,
		.start_ns = (LEDGER_START_S + (number - 1) * 10) * TALLY_NS_PER_S,
		.end_ns = (LEDGER_START_S + number * 10) * TALLY_NS_PER_S,
		.rows = rows,
		.n_rows = n_rows,
		.totals = totals,
		.n_services = 1,
	};
}

void ledger_close(const struct tally_frozen *frozen, struct tally_sealed *ret_sealed)
{
	assert_int_equal(tally_account_close(frozen, &ledger_resolver, ret_sealed), 0);
	ret_sealed->epoch_first = ret_sealed->epoch_last = frozen->number;
}

void ledger_batch(const struct tally_frozen *frozen, __u64 number, struct tally_batch **ret_batch)
{
	struct tally_batch_head head = {
		.agent = "9f2c71d4a0b1",
		.incarnation = 12,
		.number = number,
		.seq_first = 48213,
		.recorded_s = LEDGER_START_S + 62,
		.version = "0.3.0",
		.host = "node-7",
		.boot_id = "0d3f6a52-6f0e-4f6e-9a41-7c1f3f0b2a11",
	};
	struct tally_sealed sealed;

	ledger_close(frozen, &sealed);
	assert_int_equal(tally_batch_new(&head, &sealed, ret_batch), 0);
}

void ledger_feed(struct tally_audit *audit, const struct tally_batch *batch, size_t index,
		 const char *from, const char *to)
{
	_cleanup_(tally_buf_done) struct tally_buf text = { 0 };
	struct tally_message msg;
	const char *at;

	tally_message_init(&msg);
	if (index == LEDGER_CONTROL)
		assert_int_equal(tally_batch_control(batch, &msg), 0);
	else
		assert_int_equal(tally_batch_message(batch, index, TALLY_FORMAT_CLOUDEVENTS, &msg),
				 0);
	at = from ? strstr(msg.value.data, from) : NULL;
	assert_true(!from || at);
	if (at) {
		tally_buf_put(&text, msg.value.data, (size_t)(at - msg.value.data));
		tally_buf_text(&text, to);
		tally_buf_text(&text, at + strlen(from));
		assert_int_equal(tally_audit_feed(audit, text.data, text.len), 0);
	} else {
		assert_int_equal(tally_audit_feed(audit, msg.value.data, msg.value.len), 0);
	}
	tally_message_done(&msg);
}

size_t ledger_damage(struct tally_buf *body)
{
	struct tally_reader reader;
	struct tally_sealed read;
	size_t whole_files = 0;

	for (size_t cut = 0; cut < body->len; cut++) {
		__u8 *exact = malloc(cut ? cut : 1);
		int r;

		memcpy(exact, body->data, cut);
		tally_reader_init(&reader, exact, cut);
		r = tally_sealed_decode(&reader, &read);
		if (r == 0) {
			assert_false(read.by_connection);
			tally_sealed_done(&read);
			whole_files++;
		} else {
			assert_int_equal(r, -EBADMSG);
		}
		free(exact);
	}
	for (size_t bit = 0; bit < body->len * 8; bit++) {
		body->data[bit / 8] ^= (char)(1 << bit % 8);
		tally_reader_init(&reader, body->data, body->len);
		if (tally_sealed_decode(&reader, &read) == 0)
			tally_sealed_done(&read);
		body->data[bit / 8] ^= (char)(1 << bit % 8);
	}
	return whole_files;
}

char *ledger_folder(void)
{
	char *folder = strdup("/tmp/tally-unit.XXXXXX");

	assert_non_null(folder);
	assert_non_null(mkdtemp(folder));
	return folder;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)st;
	(void)kind;
	(void)ftw;
	return remove(path);
}

void ledger_remove(char *folder)
{
	assert_int_equal(nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
	free(folder);
}
