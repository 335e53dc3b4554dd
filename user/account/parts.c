/* SPDX-License-Identifier: Apache-2.0 */
#include "account/parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "account/frame.h"
#include "base/util.h"

#define DURATION 4
#define HOUR_TEXT 13 /* 2026-09-01T12 */

const char *const tally_parts_names[TALLY_PARTS_SUMS] = { "requests", "incomplete", "request_bytes",
							  "response_bytes", "duration_us" };

static const char *const names[] = { "customer_id", "api_key_id", "service",
				     "method",	    "route",	  "status",
				     "key_ref",	    "mode",	  "protocol",
				     "reason",	    "billable",	  "attribution",
				     "ruleset",	    "kubernetes", "attribution_detail" };
#define LABEL 6 /* so many of them are shown */

void tally_parts_done(struct tally_parts *parts)
{
	for (size_t i = 0; i < parts->n; i++)
		free(parts->list[i].label);
	free(parts->list);
	free(parts->slots);
	*parts = (struct tally_parts){ 0 };
}

/* ["2026-09-01T12","cus_acme","key_a",...]: the first `n` names. */
static char *text_of(const json_t *data, size_t n)
{
	const char *start = json_string_value(json_object_get(data, "window_start"));
	json_t *list = json_array();
	char *text;

	(void)json_array_append_new(
		list, json_stringn(start ? start : "", start ? strnlen(start, HOUR_TEXT) : 0));
	for (size_t i = 0; i < n; i++) {
		json_t *value = json_object_get(data, names[i]);

		(void)json_array_append(list, value ? value : json_null()); /* length is checked */
	}
	text = json_array_size(list) == n + 1 ? json_dumps(list, JSON_COMPACT | JSON_SORT_KEYS)
					      : NULL;
	json_decref(list);
	return text;
}

static int mark_of(const json_t *data, __u8 ret_mark[16])
{
	_cleanup_free_ char *text = text_of(data, TALLY_ARRAY_SIZE(names));
	__u8 digest[TALLY_SHA256];

	if (!text)
		return -ENOMEM;
	tally_sha256(text, strlen(text), digest);
	memcpy(ret_mark, digest, 16);
	return 0;
}

/* The slot with that mark, or the free one where it belongs. */
static __u32 *find_slot(const struct tally_parts *parts, const __u8 mark[16])
{
	size_t at;

	memcpy(&at, mark, sizeof(at));
	at &= parts->cap - 1;
	while (parts->slots[at] && memcmp(parts->list[parts->slots[at] - 1].mark, mark, 16) != 0)
		at = (at + 1) & (parts->cap - 1);
	return &parts->slots[at];
}

/* At most half full. */
static int make_room(struct tally_parts *parts)
{
	size_t cap = parts->cap ? parts->cap * 2 : 64;
	struct tally_part *list;
	__u32 *slots;

	if (2 * (parts->n + 1) <= parts->cap)
		return 0;
	list = realloc(parts->list, cap / 2 * sizeof(*list));
	if (!list)
		return -ENOMEM;
	parts->list = list;
	slots = calloc(cap, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	free(parts->slots);
	parts->slots = slots;
	parts->cap = cap;
	for (size_t i = 0; i < parts->n; i++)
		*find_slot(parts, parts->list[i].mark) = (__u32)i + 1;
	return 0;
}

static int get_part(struct tally_parts *parts, const json_t *data, struct tally_part **ret_part)
{
	__u8 mark[16];
	__u32 *slot;
	int r = mark_of(data, mark);

	if (r == 0)
		r = make_room(parts);
	if (r < 0)
		return r;
	slot = find_slot(parts, mark);
	if (!*slot) {
		struct tally_part *fresh = &parts->list[parts->n];

		*fresh = (struct tally_part){ .label = text_of(data, LABEL) };
		if (!fresh->label)
			return -ENOMEM;
		memcpy(fresh->mark, mark, sizeof(mark));
		*slot = (__u32)++parts->n;
	}
	*ret_part = &parts->list[*slot - 1];
	return 0;
}

int tally_parts_add(struct tally_parts *parts, const json_t *data, bool is_part)
{
	struct tally_part *part = NULL;
	int r = get_part(parts, data, &part);

	if (r < 0)
		return r;
	part->parts += is_part;
	for (int i = 0; i < TALLY_PARTS_SUMS; i++)
		(is_part ? part->sum : part->whole)[i] += (unsigned __int128)json_integer_value(
			json_object_get(data, tally_parts_names[i]));
	return 0;
}

int tally_parts_differs(const struct tally_part *part)
{
	for (int i = 0; i < DURATION; i++) {
		if (part->whole[i] != part->sum[i])
			return i;
	}
	if (part->sum[DURATION] > part->whole[DURATION] ||
	    part->whole[DURATION] - part->sum[DURATION] > part->parts)
		return DURATION;
	return -1;
}
