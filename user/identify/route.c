// SPDX-License-Identifier: Apache-2.0
#include "identify/route.h"

#include <ctype.h>

/* Templates ------------------------------------------------------------------------------------ */

void tally_route_done(struct tally_route *route)
{
	for (size_t i = 0; i < route->n_segments; i++)
		free(route->segments[i].text);
	free(route->template);
	*route = (struct tally_route){};
}

static int hex_value(char c)
{
	if (isdigit((unsigned char)c))
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* RFC 3986 2.3 */
static bool is_unreserved(char c)
{
	return isalnum((unsigned char)c) || (c && strchr("-._~", c));
}

/* RFC 3986 3.3: what may stand in a segment as it is. */
static bool is_pchar(char c)
{
	return is_unreserved(c) || (c && strchr("!$&'()*+,;=:@", c));
}

/* A %XX becomes what every path becomes: unreserved characters themselves, else upper-case hex. */
static size_t normalise_escape(const char *text, char *out)
{
	int high = hex_value(text[1]), low = high < 0 ? -1 : hex_value(text[2]);
	char c;

	if (low < 0)
		return 0;
	c = (char)(high << 4 | low);
	if (is_unreserved(c)) {
		*out = c;
		return 1;
	}
	out[0] = '%';
	out[1] = (char)toupper((unsigned char)text[1]);
	out[2] = (char)toupper((unsigned char)text[2]);
	return 3;
}

/* Literal text, normalised in place. Returns what is wrong, or NULL. */
static const char *normalise_literal(char *text)
{
	char *out = text;

	while (*text) {
		size_t n = 1;

		if (*text == '%') {
			n = normalise_escape(text, out);
			text += 3;
			if (n == 0)
				return "% must be followed by two hexadecimal digits";
		} else if (!is_pchar(*text)) {
			return "a character that a path cannot hold as it is: write it as %XX";
		} else {
			*out = *text++;
		}
		out += n;
	}
	*out = '\0';
	return NULL;
}

static const char *parse_param(struct tally_route_segment *segment)
{
	size_t n = strlen(segment->text);

	if (segment->text[n - 1] != '}' || n < 3)
		return "a parameter is a whole segment, like {id}";
	for (size_t i = 1; i + 1 < n; i++)
		if (!isalnum((unsigned char)segment->text[i]) && !strchr("_-.", segment->text[i]))
			return "the name of a parameter has letters, digits, '_', '-' and '.' only";
	segment->kind = TALLY_ROUTE_PARAM;
	return NULL;
}

static const char *parse_segment(struct tally_route_segment *segment, bool last)
{
	const char *why;

	if (strcmp(segment->text, "**") == 0) {
		segment->kind = TALLY_ROUTE_REST;
		return last ? NULL : "** must be the last segment";
	}
	if (segment->text[0] == '{')
		return parse_param(segment);
	segment->kind = TALLY_ROUTE_LITERAL;
	if (strcmp(segment->text, "*") == 0)
		return "* is not a wildcard: write {name} for one segment, ** for all that follow";
	why = normalise_literal(segment->text);
	if (!why && (strcmp(segment->text, ".") == 0 || strcmp(segment->text, "..") == 0))
		return "dot segments are removed from paths, so this would never match";
	return why;
}

/* path begins with '/'. */
static int parse_path(const char *path, struct tally_route *route, const char **ret_why)
{
	while (path) {
		const char *begin = path + 1, *end = strchr(begin, '/');
		struct tally_route_segment *segment = &route->segments[route->n_segments];
		const char *why;

		if (route->n_segments == TALLY_ROUTE_SEGMENTS) {
			*ret_why = "more than 48 segments";
			return -EINVAL;
		}
		segment->text = end ? strndup(begin, (size_t)(end - begin)) : strdup(begin);
		if (!segment->text)
			return -ENOMEM;
		route->n_segments++;
		why = parse_segment(segment, !end);
		if (why) {
			*ret_why = why;
			return -EINVAL;
		}
		path = end;
	}
	return 0;
}

static int write_template(struct tally_route *route)
{
	size_t bytes = 1;
	char *p;

	for (size_t i = 0; i < route->n_segments; i++)
		bytes += 1 + strlen(route->segments[i].text);
	p = route->template = malloc(bytes);
	if (!p)
		return -ENOMEM;
	*p = '\0';
	for (size_t i = 0; i < route->n_segments; i++) {
		*p++ = '/';
		p = stpcpy(p, route->segments[i].text);
	}
	return 0;
}

/* RFC 9110 5.6.2 */
static bool is_token(const char *text, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)text[i]) && !strchr("!#$%&'*+-.^_`|~", text[i]))
			return false;
	return n > 0;
}

static bool has_lower(const char *text, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (islower((unsigned char)text[i]))
			return true;
	return false;
}

/* An optional method and the blanks after it; returns the target. */
static const char *parse_method(const char *match, struct tally_route *route, const char **ret_why)
{
	size_t n = strcspn(match, " \t");

	*ret_why = NULL;
	if (!match[n])
		return match;
	if (!is_token(match, n))
		*ret_why = "must be \"[METHOD] TEMPLATE\", and a template begins with /";
	else if (n > TALLY_ROUTE_METHOD)
		*ret_why = "methods of more than 8 characters cannot be told apart";
	else if (has_lower(match, n))
		*ret_why = "methods are case-sensitive: write it in capitals";
	else
		memcpy(route->method, match, n);
	return match + n + strspn(match + n, " \t");
}

static int parse_target(const char *target, struct tally_route *route, const char **ret_why)
{
	int r;

	if (strcmp(target, "*") == 0 && strcmp(route->method, "OPTIONS") == 0) {
		route->asterisk = true;
		route->template = strdup("*");
		return route->template ? 0 : -ENOMEM;
	}
	if (target[0] != '/') {
		*ret_why = "a template begins with / (or is \"OPTIONS *\")";
		return -EINVAL;
	}
	r = parse_path(target, route, ret_why);
	return r < 0 ? r : write_template(route);
}

int tally_route_parse(const char *match, struct tally_route *ret_route, const char **ret_why)
{
	struct tally_route route = {};
	const char *target = parse_method(match, &route, ret_why);
	int r = *ret_why ? -EINVAL : parse_target(target, &route, ret_why);

	if (r < 0) {
		tally_route_done(&route);
		return r;
	}
	*ret_route = route;
	return 0;
}

int tally_route_compare(const struct tally_route *a, const struct tally_route *b)
{
	int order = strcmp(a->template, b->template);

	return order ? order : strcmp(a->method, b->method);
}

/* What a segment says of a path, and how closely: smaller is closer. Past the end is closest. */
static int rank_at(const struct tally_route *route, size_t i)
{
	return i < route->n_segments ? (int)route->segments[i].kind : -1;
}

/* < 0: a goes before b wherever both match. */
static int compare_closeness(const struct tally_route *a, const struct tally_route *b)
{
	size_t n = TALLY_MAX(a->n_segments, b->n_segments);
	int order = (int)b->asterisk - (int)a->asterisk;

	for (size_t i = 0; !order && i < n; i++) {
		order = rank_at(a, i) - rank_at(b, i);
		if (!order && rank_at(a, i) == TALLY_ROUTE_LITERAL)
			order = strcmp(a->segments[i].text, b->segments[i].text);
	}
	return order ? order : (int)!*a->method - (int)!*b->method;
}

bool tally_route_same(const struct tally_route *a, const struct tally_route *b)
{
	return compare_closeness(a, b) == 0 && strcmp(a->method, b->method) == 0;
}

/* Methods -------------------------------------------------------------------------------------- */

static const char *const fixed_methods[] = { "",       "GET",	  "HEAD",    "POST",  "PUT",
					     "DELETE", "CONNECT", "OPTIONS", "PATCH", "TRACE" };

uint8_t tally_route_method(const struct tally_route_methods *methods, const char *name)
{
	for (size_t i = 1; i < methods->n; i++)
		if (strcmp(methods->names[i], name) == 0)
			return (uint8_t)i;
	return 0;
}

/* Keeps those behind the fixed ones sorted. */
static int add_method(struct tally_route_methods *methods, const char *name)
{
	size_t i = methods->n;

	if (!*name || tally_route_method(methods, name))
		return 0;
	if (methods->n == TALLY_METHODS)
		return -E2BIG;
	for (; i > TALLY_ARRAY_SIZE(fixed_methods); i--) {
		if (strcmp(methods->names[i - 1], name) < 0)
			break;
		memcpy(methods->names[i], methods->names[i - 1], sizeof(methods->names[i]));
	}
	snprintf(methods->names[i], sizeof(methods->names[i]), "%s", name);
	methods->n++;
	return 0;
}

int tally_route_methods(const struct tally_route *routes, size_t n,
			struct tally_route_methods *ret_methods)
{
	struct tally_route_methods methods = { .n = TALLY_ARRAY_SIZE(fixed_methods) };
	int r = 0;

	for (size_t i = 0; i < methods.n; i++)
		snprintf(methods.names[i], sizeof(methods.names[i]), "%s", fixed_methods[i]);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = add_method(&methods, routes[i].method);
	if (r == 0)
		*ret_methods = methods;
	return r;
}

/* Automaton ------------------------------------------------------------------------------------ */

/* After k segments a route is at position k, or waits at its **: at most one item per route. */
struct item {
	uint16_t route, position;
};

struct state {
	struct item *items;
	size_t n;
};

/* A segment to step by: one of the routes' literals, the empty one, or any other. */
struct step {
	const char *text; /* NULL: any that is no literal and not empty */
};

struct builder {
	const struct tally_route *routes;
	size_t n_routes;
	const struct tally_route_methods *methods;
	struct tally_route_automaton *out;
	struct state states[TALLY_ROUTE_STATES];
	struct item scratch[TALLY_ROUTES];
};

static const struct tally_route_segment *segment_at(const struct builder *b, struct item item)
{
	const struct tally_route *route = &b->routes[item.route];

	return item.position < route->n_segments ? &route->segments[item.position] : NULL;
}

static bool takes(const struct tally_route_segment *segment, struct step step)
{
	switch (segment->kind) {
	case TALLY_ROUTE_LITERAL:
		return step.text && strcmp(segment->text, step.text) == 0;
	case TALLY_ROUTE_PARAM:
		return !step.text || *step.text;
	case TALLY_ROUTE_REST:
		return true;
	}
	return false;
}

/* The number of the state that has these items, made if it is new. 0 for none at all. */
static int intern(struct builder *b, const struct item *items, size_t n, uint16_t *ret_state)
{
	struct state *fresh = &b->states[b->out->n_states];

	if (n == 0) {
		*ret_state = 0;
		return 0;
	}
	for (uint16_t i = 1; i < b->out->n_states; i++) {
		if (b->states[i].n != n ||
		    memcmp(b->states[i].items, items, n * sizeof(*items)) != 0)
			continue;
		*ret_state = i;
		return 0;
	}
	if (b->out->n_states == TALLY_ROUTE_STATES)
		return -E2BIG;
	fresh->items = malloc(n * sizeof(*items));
	if (!fresh->items)
		return -ENOMEM;
	memcpy(fresh->items, items, n * sizeof(*items));
	fresh->n = n;
	*ret_state = b->out->n_states++;
	return 0;
}

static int step_from(struct builder *b, const struct state *state, struct step step,
		     uint16_t *ret_next)
{
	size_t n = 0;

	for (size_t i = 0; i < state->n; i++) {
		const struct tally_route_segment *segment = segment_at(b, state->items[i]);

		if (!segment || !takes(segment, step))
			continue;
		b->scratch[n] = state->items[i];
		if (segment->kind != TALLY_ROUTE_REST)
			b->scratch[n].position++;
		n++;
	}
	return intern(b, b->scratch, n, ret_next);
}

static int add_edge(struct builder *b, struct tally_route_edge edge)
{
	if (b->out->n_edges == TALLY_ROUTE_EDGES_USED)
		return -ENOSPC;
	b->out->edges[b->out->n_edges++] = edge;
	return 0;
}

/* An edge where this segment leads elsewhere than any other one. */
static int add_step(struct builder *b, uint16_t state, const char *text)
{
	uint16_t next = 0;
	int r = step_from(b, &b->states[state], (struct step){ text }, &next);

	if (r < 0 || next == b->out->other[state])
		return r;
	return add_edge(b, (struct tally_route_edge){ .state = state, .next = next, .text = text });
}

/* The literal that the i-th item waits for, if no item before it waits for the same. */
static const char *new_literal(const struct builder *b, const struct state *state, size_t i)
{
	const struct tally_route_segment *segment = segment_at(b, state->items[i]), *earlier;

	if (!segment || segment->kind != TALLY_ROUTE_LITERAL || !*segment->text)
		return NULL;
	for (size_t j = 0; j < i; j++) {
		earlier = segment_at(b, state->items[j]);
		if (earlier && earlier->kind == TALLY_ROUTE_LITERAL &&
		    strcmp(earlier->text, segment->text) == 0)
			return NULL;
	}
	return segment->text;
}

static int expand(struct builder *b, uint16_t state)
{
	int r = step_from(b, &b->states[state], (struct step){ NULL }, &b->out->other[state]);

	if (r == 0)
		r = add_step(b, state, "");
	for (size_t i = 0; r == 0 && i < b->states[state].n; i++) {
		const char *text = new_literal(b, &b->states[state], i);

		if (text)
			r = add_step(b, state, text);
	}
	return r;
}

/* Is the path over, as far as this item is concerned? ** takes nothing, too. */
static bool is_final(const struct builder *b, struct item item)
{
	const struct tally_route_segment *segment = segment_at(b, item);

	return !segment || segment->kind == TALLY_ROUTE_REST;
}

/* The closest of the state's routes that are through, for each method. */
static void set_accept(struct builder *b, uint16_t state)
{
	for (size_t i = 0; i < b->states[state].n; i++) {
		struct item item = b->states[state].items[i];
		const struct tally_route *route = &b->routes[item.route];

		for (size_t m = 0; is_final(b, item) && m < b->methods->n; m++) {
			uint16_t *best = &b->out->accept[state][m];

			if (*route->method && strcmp(route->method, b->methods->names[m]) != 0)
				continue;
			if (!*best || compare_closeness(route, &b->routes[*best - 1]) < 0)
				*best = (uint16_t)(item.route + 1);
		}
	}
}

/* From the start, the asterisk form leads to its own state, or to the dead one: never to where
 * {name} or ** would take it. */
static int add_asterisk(struct builder *b)
{
	struct tally_route_edge edge = { .state = 1, .asterisk = true };

	for (size_t i = 0; i < b->n_routes; i++) {
		struct item item = { .route = (uint16_t)i };
		int r;

		if (!b->routes[i].asterisk)
			continue;
		r = intern(b, &item, 1, &edge.next);
		if (r < 0)
			return r;
	}
	return add_edge(b, edge);
}

static int build(struct builder *b)
{
	uint16_t start = 0;
	size_t n = 0;
	int r;

	b->out->n_states = 1;
	for (size_t i = 0; i < b->n_routes; i++)
		if (!b->routes[i].asterisk)
			b->scratch[n++] = (struct item){ .route = (uint16_t)i };
	r = intern(b, b->scratch, n, &start);
	if (r < 0)
		return r;
	if (!start)
		b->out->n_states = 2; /* a start that leads nowhere */
	r = add_asterisk(b);
	for (uint16_t i = 1; r == 0 && i < b->out->n_states; i++) {
		r = expand(b, i);
		set_accept(b, i);
	}
	return r;
}

int tally_route_build(const struct tally_route *routes, size_t n,
		      const struct tally_route_methods *methods,
		      struct tally_route_automaton *ret_automaton)
{
	struct builder *b = calloc(1, sizeof(*b));
	int r;

	if (!b)
		return -ENOMEM;
	b->routes = routes;
	b->n_routes = n;
	b->methods = methods;
	b->out = ret_automaton;
	memset(ret_automaton, 0, sizeof(*ret_automaton));
	r = build(b);
	for (size_t i = 0; i < TALLY_ROUTE_STATES; i++)
		free(b->states[i].items);
	free(b);
	return r;
}
