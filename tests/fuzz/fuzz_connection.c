// SPDX-License-Identifier: Apache-2.0
/*
 * Both sides of a connection, interleaved as the input says: byte 0 chooses the rules and whether the
 * connection was there before; then steps of (direction and length, octets). What the books say must
 * not depend on how a step is cut.
 */
#include "tests/fuzz/libengine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const names[] = { "default", "response", "owner", "basic" };
	struct engine_script script = { 0 };
	const uint8_t *last[2] = { 0 };
	size_t last_len[2] = { 0 }, at = 1;

	if (size < 2)
		return 0;
	script.rules = engine_rules(names[data[0] & 3]);
	while (at + 1 < size && script.n_steps < ENGINE_STEPS) {
		uint8_t dir = data[at] & 1;
		size_t len = (size_t)(data[at] >> 2) * 4 + 1;

		if (data[at] >= 0xfe) {
			engine_fin(&script, dir);
			at++;
			continue;
		}
		if (data[at] >=
		    0xfc) { /* the same again: heads that repeat are recalled, not read */
			if (last_len[dir])
				engine_add(&script, dir, last[dir], last_len[dir]);
			at++;
			continue;
		}
		at++;
		len = TALLY_MIN(len, size - at);
		engine_add(&script, dir, data + at, len);
		last[dir] = data + at;
		last_len[dir] = len;
		at += len;
	}
	engine_check(&script, data[0] + 256 * size);
	return 0;
}
