/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The key of a request as a server would find it, from the header fields that a parser gives; written
 * for the rules of tests/vectors/default.yaml, without a line of the engine: X-API-Key, then
 * Authorization: Bearer, then the query parameter api_key.
 */
#ifndef TALLY_DIFF_FIELDS_H
#define TALLY_DIFF_FIELDS_H

#include "tests/diff/parsers.h"

struct fields {
	char name[128], value[16384];
	size_t name_len, value_len;
	bool in_value;
	/* per source: header, bearer, query */
	char key[3][16384];
	size_t key_len[3];
	bool has[3];
};

void fields_begin(struct fields *f);
void fields_name(struct fields *f, const char *at, size_t n);
void fields_value(struct fields *f, const char *at, size_t n);
void fields_line(struct fields *f, const char *name, size_t name_len, const char *value,
		 size_t value_len);
void fields_url(struct fields *f, const char *url, size_t n);
void fields_end(struct fields *f, const struct tally_rules *rules, struct message *m);

#endif
