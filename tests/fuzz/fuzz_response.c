// SPDX-License-Identifier: Apache-2.0
/*
 * Any bytes as the server's answers to a few pipelined requests, whose methods the first byte chooses.
 */
#include "tests/fuzz/libengine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const requests[] = {
		"GET /v1/items HTTP/1.1\r\nX-API-Key: A\r\n\r\n",
		"HEAD /v1/items/7 HTTP/1.1\r\nX-API-Key: B\r\n\r\n",
		"POST /v1/items HTTP/1.1\r\nX-API-Key: C\r\nContent-Length: 3\r\n\r\nabc",
		"CONNECT x:1 HTTP/1.1\r\nX-API-Key: D\r\n\r\n",
	};
	static const uint8_t orders[][3] = { { 0, 0, 0 }, { 1, 0, 1 }, { 2, 1, 0 }, { 3, 0, 2 },
					     { 0, 3, 1 }, { 1, 1, 2 }, { 2, 2, 3 }, { 0, 1, 2 } };
	struct engine_script script = { 0 };
	const uint8_t *order;

	if (size < 2)
		return 0;
	order = orders[data[0] & 7];
	script.rules = engine_rules(data[0] & 8 ? "response" : "default");
	for (int i = 0; i < 3; i++)
		engine_add(&script, TALLY_METER_IN, requests[order[i]], strlen(requests[order[i]]));
	engine_add(&script, TALLY_METER_OUT, data + 1, size - 1);
	if (data[0] & 16)
		engine_fin(&script, TALLY_METER_OUT);
	engine_check(&script, data[0] + 256 * size);
	return 0;
}
