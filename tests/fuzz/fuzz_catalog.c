// SPDX-License-Identifier: Apache-2.0
/* Any bytes as a key catalog. What loads has its entries findable; what does not says why. */
#include "identify/catalog.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_(tally_catalog_freep) struct tally_catalog *catalog = NULL;
	uint8_t sha256[TALLY_CATALOG_SHA] = {};
	const struct tally_catalog_key *key;
	struct tally_diag diag;
	int r;

	tally_diag_init(&diag, "fuzz");
	r = tally_catalog_parse((const char *)data, size, &diag, &catalog);
	if ((r < 0) != (diag.errors > 0) || (r == 0) != (catalog != NULL))
		abort();
	sha256[TALLY_CATALOG_SHA - 1] = 1; /* the hash that the corpus uses */
	key = tally_catalog_find(catalog, sha256, 0);
	if (key && (key->from_s > 0 || key->to_s <= 0 || !key->id || !key->customer))
		abort();
	tally_diag_done(&diag);
	return 0;
}
