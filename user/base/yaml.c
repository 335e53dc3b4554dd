// SPDX-License-Identifier: Apache-2.0
#include "base/yaml.h"

#include <yaml.h>

#define ANCHORS_MAX 256

struct anchor {
	char *name;
	const struct tally_yaml *node; /* NULL while it is still open: no node holds itself */
};

struct reader {
	yaml_parser_t parser;
	struct tally_diag *diag;
	size_t copies;
	struct anchor anchors[ANCHORS_MAX];
	size_t n_anchors;
};

static struct tally_place place_of(yaml_mark_t mark)
{
	return (struct tally_place){ (unsigned int)mark.line + 1, (unsigned int)mark.column + 1 };
}

void tally_yaml_free(struct tally_yaml *node)
{
	if (!node)
		return;
	for (size_t i = 0; i < node->n_items; i++)
		tally_yaml_free(node->items[i]);
	tally_util_wipe_free(node->text);
	free(node->items);
	free(node);
}

const struct tally_yaml *tally_yaml_get(const struct tally_yaml *mapping, const char *key)
{
	for (size_t i = 0; i + 1 < mapping->n_items; i += 2)
		if (strcmp(mapping->items[i]->text, key) == 0)
			return mapping->items[i + 1];
	return NULL;
}

static int fault(struct reader *reader, struct tally_place place, const char *text)
{
	tally_diag_error(reader->diag, place, "", "%s", text);
	return -EINVAL;
}

static int new_node(enum tally_yaml_kind kind, struct tally_place place,
		    struct tally_yaml **ret_node)
{
	struct tally_yaml *node = calloc(1, sizeof(*node));

	if (!node)
		return -ENOMEM;
	node->kind = kind;
	node->place = place;
	*ret_node = node;
	return 0;
}

/* Owns item from here on, also on failure. Room doubles: n_items at powers of two. */
static int append(struct tally_yaml *node, struct tally_yaml *item)
{
	struct tally_yaml **items = node->items;
	size_t n = node->n_items;

	if ((n & (n - 1)) == 0)
		items = reallocarray(items, n ? 2 * n : 1, sizeof(struct tally_yaml *));
	if (!items) {
		tally_yaml_free(item);
		return -ENOMEM;
	}
	node->items = items;
	node->items[node->n_items++] = item;
	return 0;
}

/* An alias becomes a copy; its faults are told where the anchor stands. */
static int copy(struct reader *reader, const struct tally_yaml *from, struct tally_yaml **ret_node)
{
	_cleanup_(tally_yaml_freep) struct tally_yaml *node = NULL;
	int r;

	if (++reader->copies > TALLY_YAML_COPIES)
		return fault(reader, from->place, "aliases repeat too many values");
	r = new_node(from->kind, from->place, &node);
	if (r < 0)
		return r;
	node->plain = from->plain;
	if (from->text && !(node->text = strdup(from->text)))
		return -ENOMEM;
	for (size_t i = 0; i < from->n_items; i++) {
		struct tally_yaml *item = NULL;

		r = copy(reader, from->items[i], &item);
		if (r == 0)
			r = append(node, item);
		if (r < 0)
			return r;
	}
	*ret_node = TAKE_PTR(node);
	return 0;
}

static int next_event(struct reader *reader, yaml_event_t *ret_event)
{
	yaml_parser_t *p = &reader->parser;
	struct tally_place place;

	if (yaml_parser_parse(p, ret_event))
		return 0;
	if (p->error == YAML_MEMORY_ERROR)
		return -ENOMEM;
	place = place_of(p->problem_mark);
	if (p->error == YAML_READER_ERROR)
		place.line = 0; /* libyaml knows only the offset */
	tally_diag_error(reader->diag, place, "", "not YAML: %s%s", p->problem ? p->problem : "?",
			 p->problem && strstr(p->problem, "cannot start any token")
				 ? " (a tab? YAML indents with blanks)"
				 : "");
	return -EINVAL;
}

static int open_anchor(struct reader *reader, const yaml_char_t *name, struct tally_place place,
		       size_t *ret_index)
{
	struct anchor *anchor = &reader->anchors[reader->n_anchors];

	if (reader->n_anchors == ANCHORS_MAX)
		return fault(reader, place, "too many anchors");
	anchor->name = strdup((const char *)name);
	if (!anchor->name)
		return -ENOMEM;
	anchor->node = NULL;
	*ret_index = reader->n_anchors++;
	return 0;
}

/* The latest of that name, as YAML says. */
static int read_alias(struct reader *reader, const yaml_event_t *event,
		      struct tally_yaml **ret_node)
{
	struct tally_place place = place_of(event->start_mark);

	for (size_t i = reader->n_anchors; i-- > 0;) {
		struct anchor *anchor = &reader->anchors[i];

		if (strcmp(anchor->name, (const char *)event->data.alias.anchor) != 0)
			continue;
		if (!anchor->node)
			return fault(reader, place, "an alias inside of what it names");
		return copy(reader, anchor->node, ret_node);
	}
	return fault(reader, place, "no anchor of this name");
}

static int read_scalar(struct reader *reader, const yaml_event_t *event,
		       struct tally_yaml **ret_node)
{
	_cleanup_(tally_yaml_freep) struct tally_yaml *node = NULL;
	const char *value = (const char *)event->data.scalar.value;
	struct tally_place place = place_of(event->start_mark);
	int r = new_node(TALLY_YAML_SCALAR, place, &node);

	if (r < 0)
		return r;
	if (strlen(value) != event->data.scalar.length)
		return fault(reader, place, "a NUL character in a text");
	node->plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
	node->text = strdup(value);
	if (!node->text)
		return -ENOMEM;
	*ret_node = TAKE_PTR(node);
	return 0;
}

static int read_node(struct reader *reader, yaml_event_t *event, unsigned int depth,
		     struct tally_yaml **ret_node);

/* Appends the node that event begins; the event is used up. */
static int read_item(struct reader *reader, yaml_event_t *event, unsigned int depth,
		     struct tally_yaml *parent)
{
	struct tally_yaml *item = NULL;
	int r = read_node(reader, event, depth, &item);

	return r < 0 ? r : append(parent, item);
}

/* After a key was appended: a text, and a new one. Quadratic, so only for mappings of people. */
static int check_key(struct reader *reader, const struct tally_yaml *mapping)
{
	const struct tally_yaml *key = mapping->items[mapping->n_items - 1];

	if (key->kind != TALLY_YAML_SCALAR)
		return fault(reader, key->place, "a key must be a text");
	if (mapping->n_items > 2 * 1024)
		return fault(reader, key->place, "too many keys in one mapping");
	for (size_t i = 0; i + 1 < mapping->n_items; i += 2) {
		if (strcmp(mapping->items[i]->text, key->text) != 0)
			continue;
		tally_diag_error(reader->diag, key->place, "",
				 "key \"%.64s\" is there twice, first in line %u", key->text,
				 mapping->items[i]->place.line);
		return -EINVAL;
	}
	return 0;
}

static int read_items(struct reader *reader, unsigned int depth, struct tally_yaml *node)
{
	int r = depth < TALLY_YAML_DEPTH ? 0 : fault(reader, node->place, "nested too deeply");

	while (r == 0) {
		yaml_event_t event;

		r = next_event(reader, &event);
		if (r < 0)
			break;
		if (event.type == YAML_SEQUENCE_END_EVENT || event.type == YAML_MAPPING_END_EVENT) {
			yaml_event_delete(&event);
			return 0;
		}
		r = read_item(reader, &event, depth + 1, node);
		if (r == 0 && node->kind == TALLY_YAML_MAPPING && node->n_items % 2 == 1)
			r = check_key(reader, node);
	}
	return r;
}

static int read_collection(struct reader *reader, const yaml_event_t *event, unsigned int depth,
			   struct tally_yaml **ret_node)
{
	enum tally_yaml_kind kind =
		event->type == YAML_MAPPING_START_EVENT ? TALLY_YAML_MAPPING : TALLY_YAML_SEQUENCE;
	_cleanup_(tally_yaml_freep) struct tally_yaml *node = NULL;
	int r = new_node(kind, place_of(event->start_mark), &node);

	if (r == 0)
		r = read_items(reader, depth, node);
	if (r < 0)
		return r;
	*ret_node = TAKE_PTR(node);
	return 0;
}

static const yaml_char_t *anchor_of(const yaml_event_t *event)
{
	switch (event->type) {
	case YAML_SCALAR_EVENT:
		return event->data.scalar.anchor;
	case YAML_SEQUENCE_START_EVENT:
		return event->data.sequence_start.anchor;
	case YAML_MAPPING_START_EVENT:
		return event->data.mapping_start.anchor;
	default:
		return NULL;
	}
}

static bool has_tag(const yaml_event_t *event)
{
	switch (event->type) {
	case YAML_SCALAR_EVENT:
		return event->data.scalar.tag;
	case YAML_SEQUENCE_START_EVENT:
		return event->data.sequence_start.tag;
	case YAML_MAPPING_START_EVENT:
		return event->data.mapping_start.tag;
	default:
		return false;
	}
}

static int read_node_kept(struct reader *reader, const yaml_event_t *event, unsigned int depth,
			  struct tally_yaml **ret_node)
{
	const yaml_char_t *name = anchor_of(event);
	size_t anchor = 0;
	int r = 0;

	if (has_tag(event))
		return fault(reader, place_of(event->start_mark), "tags (!) are not supported");
	if (name)
		r = open_anchor(reader, name, place_of(event->start_mark), &anchor);
	if (r < 0)
		return r;
	if (event->type == YAML_ALIAS_EVENT)
		return read_alias(reader, event, ret_node);
	if (event->type == YAML_SCALAR_EVENT)
		r = read_scalar(reader, event, ret_node);
	else
		r = read_collection(reader, event, depth, ret_node);
	if (r == 0 && name)
		reader->anchors[anchor].node = *ret_node;
	return r;
}

static int read_node(struct reader *reader, yaml_event_t *event, unsigned int depth,
		     struct tally_yaml **ret_node)
{
	int r = read_node_kept(reader, event, depth, ret_node);

	yaml_event_delete(event);
	return r;
}

/* Stream start, document start, a node, document end, stream end. */
static int read_document(struct reader *reader, struct tally_yaml **ret_root)
{
	yaml_event_t event;
	int r;

	for (;;) {
		yaml_event_type_t type;

		r = next_event(reader, &event);
		if (r < 0)
			return r;
		type = event.type;
		if (type == YAML_STREAM_START_EVENT || type == YAML_DOCUMENT_END_EVENT) {
			yaml_event_delete(&event);
			continue;
		}
		if (type == YAML_DOCUMENT_START_EVENT && *ret_root)
			r = fault(reader, place_of(event.start_mark), "a second document");
		if (type == YAML_DOCUMENT_START_EVENT || type == YAML_STREAM_END_EVENT) {
			yaml_event_delete(&event);
			if (r < 0 || type == YAML_STREAM_END_EVENT)
				return r;
			continue;
		}
		r = read_node(reader, &event, 0, ret_root);
		if (r < 0)
			return r;
	}
}

int tally_yaml_parse(const char *text, size_t bytes, struct tally_diag *diag,
		     struct tally_yaml **ret_root)
{
	_cleanup_(tally_yaml_freep) struct tally_yaml *root = NULL;
	_cleanup_free_ struct reader *reader = calloc(1, sizeof(*reader));
	int r;

	if (!reader || !yaml_parser_initialize(&reader->parser))
		return -ENOMEM;
	reader->diag = diag;
	yaml_parser_set_encoding(&reader->parser, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&reader->parser, (const unsigned char *)text, bytes);
	r = read_document(reader, &root);
	yaml_parser_delete(&reader->parser);
	for (size_t i = 0; i < reader->n_anchors; i++)
		free(reader->anchors[i].name);
	if (r < 0)
		return r;
	*ret_root = TAKE_PTR(root);
	return 0;
}
