// SPDX-License-Identifier: Apache-2.0
/*
 * Any bytes as the client's side of a connection, then a row of plain answers: how many requests there
 * were, whose, and on which route must not depend on the segments. The first byte chooses the rules.
 */
#include "tests/fuzz/libengine.h"

#define ANSWERS 6

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const names[] = { "default", "basic", "query", "owner", "none" };
	static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
	struct engine_script script = { 0 };

	if (size < 2)
		return 0;
	script.rules = engine_rules(names[data[0] % TALLY_ARRAY_SIZE(names)]);
	engine_add(&script, TALLY_METER_IN, data + 1, size - 1);
	for (int i = 0; i < ANSWERS; i++)
		engine_add(&script, TALLY_METER_OUT, answer, sizeof(answer) - 1);
	engine_check(&script, data[0] + 256 * size);
	return 0;
}
