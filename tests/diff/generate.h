/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams by grammar (RFC 9112), then, as the seed says, with oddities that clients are known to send,
 * and with octets changed, added, removed or moved. A stream without either is *clean*: every parser must
 * read the same from it.
 */
#ifndef TALLY_DIFF_GENERATE_H
#define TALLY_DIFF_GENERATE_H

#include "tests/diff/parsers.h"

#define STREAM_MAX 16384

struct generated {
	uint8_t octets[STREAM_MAX];
	struct stream stream;
	bool clean;
};

void generate(uint64_t seed, bool response, struct generated *ret);

#endif
