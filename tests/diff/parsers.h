/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What three parsers say of one stream of octets: where messages begin and end, and what they say.
 *
 *	engine		bpf/engine/h1.h, cut into random pieces
 *	http-parser	the library that many servers use, octet by octet
 *	llhttp		Node's parser, in a Node process, octet by octet
 */
#ifndef TALLY_DIFF_PARSERS_H
#define TALLY_DIFF_PARSERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tally/rules.h"

#define MESSAGES 24
#define METHOD 24

/* Offsets are those behind the last octet; 0: not reached. */
struct message {
	size_t head_end, end;
	char method[METHOD]; /* as text; of methods that rules do not know "" in the engine's */
	unsigned int status, major, minor;
	bool has_key;
	uint64_t key_hash;
	uint8_t taint; /* engine: after this message, or while it goes on */
};

struct reading {
	struct message m[MESSAGES];
	size_t n; /* those whose head is complete; the last may have no end */
	/* Not the engine: it gave up, at which octet, and why: NULL: it did not. */
	char error[48];
	size_t error_at;
	/* Engine: gave up. */
	bool bad;
	uint8_t taint;
	bool open; /* a message has begun and is not over */
};

struct stream {
	const uint8_t *data;
	size_t len;
	bool response;
	uint8_t kinds[MESSAGES]; /* of the requests that the responses answer: enum kind */
	size_t n_kinds;
};

enum kind { KIND_OTHER, KIND_HEAD, KIND_CONNECT };

void read_engine(const struct stream *s, const struct tally_rules *rules, uint64_t seed,
		 struct reading *ret);
void read_http_parser(const struct stream *s, const struct tally_rules *rules, struct reading *ret);
/* 0, or -1: there is no such process. */
int read_llhttp(const struct stream *s, const struct tally_rules *rules, struct reading *ret);

/* Starts the process that read_llhttp() asks. 0, or -errno. */
int llhttp_start(char *version, size_t bytes);
void llhttp_stop(void);

uint64_t diff_random(uint64_t *seed);

#endif
