// SPDX-License-Identifier: Apache-2.0
#include "libbench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/config.h"
#include "base/diag.h"
#include "identify/rules.h"

const char bench_request[] = "GET /v1/documents/4711/pages HTTP/1.1\r\n"
			     "Host: api.example.com\r\n"
			     "X-API-Key: demo_51Hx9QmZ7wLr2TtVb8NcKpYe\r\n"
			     "User-Agent: Mozilla/5.0 (X11; Linux) Gecko/20100101\r\n"
			     "Accept: application/json, text/plain, */*\r\n"
			     "Accept-Language: en-US,en;q=0.9\r\n"
			     "Accept-Encoding: gzip, deflate\r\n"
			     "Cache-Control: no-cache\r\n"
			     "Origin: https://app.example\r\n"
			     "Referer: https://app.example/console\r\n"
			     "X-Request-Id: 8f14e45f-ceea-467f\r\n"
			     "Connection: keep-alive\r\n"
			     "\r\n";

const char bench_response[] =
	"HTTP/1.1 200 OK\r\n"
	"Server: nginx/1.22.1\r\n"
	"Date: Mon, 01 Jan 2024 00:00:00 GMT\r\n"
	"Content-Type: application/json\r\n"
	"Content-Length: 64\r\n"
	"Connection: keep-alive\r\n"
	"X-Request-Id: 8f14e45f-ceea-467f-aab1d2c3b4a\r\n"
	"\r\n"
	"{\"id\":4711,\"pages\":12,\"title\":\"a document\",\"state\":\"extracted\"}\n";

_Static_assert(sizeof(bench_request) - 1 == BENCH_REQUEST, "the request's head");
_Static_assert(sizeof(bench_response) - 1 == BENCH_RESPONSE, "the response");

void bench_frame(uint8_t frame[BENCH_FRAME])
{
	uint8_t *ip = frame + 14, *tcp = ip + 20, *payload = tcp + 20, *key;

	memset(frame, 0, BENCH_FRAME);
	frame[12] = 0x08; /* IPv4 */
	ip[0] = 0x45;
	ip[2] = BENCH_PACKET >> 8;
	ip[3] = BENCH_PACKET & 0xff;
	ip[9] = 6; /* TCP */
	tcp[12] = 5 << 4;
	memcpy(payload, bench_request, BENCH_REQUEST);
	memcpy(payload + BENCH_REQUEST, bench_request, BENCH_REQUEST);
	memcpy(payload + 2 * (size_t)BENCH_REQUEST, bench_response, BENCH_RESPONSE);
	key = memmem(payload + BENCH_REQUEST, BENCH_REQUEST, "demo_", 5);
	key[5] = '6';
}

struct tally_rules *bench_rules(const char *path)
{
	static const struct tally_rules_target target = { .generation = 1,
							  .service = 0,
							  .secret = { 0x0123456789abcdefULL,
								      0xfedcba9876543210ULL } };
	struct tally_rules *rules = bench_must(calloc(1, sizeof(*rules)));
	_cleanup_(tally_config_freep) struct tally_config *config = NULL;
	struct tally_diag diag;

	tally_diag_init(&diag, path);
	if (tally_config_load(path, TALLY_CONFIG_NO_SECRETS, &diag, &config) ||
	    tally_rules_check(config, &diag) ||
	    tally_rules_compile(&config->services[0], &target, rules)) {
		tally_diag_print(&diag, stderr);
		exit(1);
	}
	tally_diag_done(&diag);
	return rules;
}

void bench_die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

void *bench_must(void *pointer)
{
	if (!pointer)
		bench_die("memory");
	return pointer;
}

uint64_t bench_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double bench_quantile(double *values, size_t n, double share)
{
	qsort(values, n, sizeof(*values), by_value);
	return values[(size_t)(share * (double)(n - 1) + 0.5)];
}
