/* SPDX-License-Identifier: Apache-2.0 */
#include "resolve.h"

int tally_resolve_owner(struct tally_resolve *resolve, const struct tally_catalog *catalog,
			const char *secret, const uint8_t sha256[TALLY_CATALOG_SHA],
			uint64_t time_s, struct tally_owner *ret_owner)
{
	static const enum tally_mode modes[] = { TALLY_MODE_NONE, TALLY_MODE_LIVE,
						 TALLY_MODE_TEST };
	const struct tally_catalog_key *key = tally_catalog_find(catalog, sha256, (int64_t)time_s);
	int err;

	if (key) {
		*ret_owner = (struct tally_owner){
			.customer = key->customer,
			.api_key = key->id,
			.key_ref = TALLY_KEYREF_CATALOG,
			.mode = modes[key->mode],
			.billable = key->billable,
		};
		return 0;
	}
	err = tally_catalog_kfp(sha256, secret, strlen(secret), resolve->kfp);
	if (err)
		return err;
	*ret_owner = (struct tally_owner){
		.api_key = resolve->kfp,
		.key_ref = TALLY_KEYREF_HMAC,
		.billable = true,
	};
	return 0;
}

const struct tally_peer_cut *tally_resolve_connections(struct tally_resolve *resolve,
						       const struct tally_config_records *records)
{
	if (records->connections != TALLY_CONFIG_CONNECTIONS_ON)
		return NULL;
	resolve->cut = (struct tally_peer_cut){ (__u8)records->peer_prefix.ipv4,
						(__u8)records->peer_prefix.ipv6 };
	return &resolve->cut;
}

int tally_resolve_terms(struct tally_resolve *resolve, const struct tally_ruleset_view *view,
			const struct tally_row_key *key, struct tally_terms *ret_terms)
{
	const struct tally_ruleset_query query = { key->service, key->route, key->status,
						   key->method, key->attribution };
	struct tally_ruleset_terms terms;
	int err = tally_ruleset_terms(view, &query, &terms);

	if (err)
		return err == -ENOMEM ? err : -ENOENT;
	*ret_terms = (struct tally_terms){
		.service = terms.service,
		.route = terms.route,
		.method = terms.method,
		.ruleset = terms.ruleset,
		.health = terms.health,
		.billable = terms.billable,
		.charge_truncated = terms.charge_truncated,
		.units = resolve->units,
		.n_units = TALLY_MIN(terms.n_units, (size_t)TALLY_UNITS_MAX),
	};
	for (size_t i = 0; i < ret_terms->n_units; i++)
		resolve->units[i] =
			(struct tally_unit){ terms.units[i].name, terms.units[i].amount };
	return 0;
}
