// SPDX-License-Identifier: Apache-2.0
#include "identify/rules.h"

#include <ctype.h>
#include <jansson.h>
#include <openssl/sha.h>

#include "identify/route.h"
#include "tally/hash.h"

#define PATH_TEXT 96
#define SHUFFLES 64 /* attempts to place the edges */

/* A service's routes in the order of their indices: routes[i] is source[i] of the config. */
struct route_table {
	struct tally_route *routes;
	const struct tally_config_route **source;
	size_t n;
	struct tally_route_methods methods;
};

static void route_table_done(struct route_table *table)
{
	for (size_t i = 0; i < table->n; i++)
		tally_route_done(&table->routes[i]);
	free(table->routes);
	free(table->source);
	*table = (struct route_table){};
}

static void insert(struct route_table *table, struct tally_route *route,
		   const struct tally_config_route *source)
{
	size_t i = table->n++;

	for (; i > 0 && tally_route_compare(route, &table->routes[i - 1]) < 0; i--) {
		table->routes[i] = table->routes[i - 1];
		table->source[i] = table->source[i - 1];
	}
	table->routes[i] = *route;
	table->source[i] = source;
}

/* Where faults are told, and below what; a NULL diag tells nobody. */
struct teller {
	struct tally_diag *diag;
	char at[PATH_TEXT / 2];
};

static void route_fault(const struct teller *teller, const struct tally_config_service *service,
			const struct tally_config_route *source, const char *what)
{
	char path[PATH_TEXT];

	if (!teller->diag)
		return;
	snprintf(path, sizeof(path), "%s.routes[%zu].match", teller->at,
		 (size_t)(source - service->routes));
	tally_diag_error(teller->diag, source->place, path, "%s", what);
}

/* What keeps every path away from a template, for all that it is one; NULL: nothing. */
static const char *unreachable(const struct tally_route *route,
			       const struct tally_config_paths *paths)
{
	for (size_t i = 0; i < route->n_segments; i++) {
		const struct tally_route_segment *segment = &route->segments[i];

		if (segment->kind != TALLY_ROUTE_LITERAL)
			continue;
		if (paths->merge_slashes && !*segment->text && i + 1 < route->n_segments)
			return "slashes are merged in paths, so // would never match: write one, or say `paths: { merge_slashes: false }`";
		if (paths->decode_slash && strstr(segment->text, "%2F"))
			return "%2F in paths is a slash, so this would never match: write /, or say `paths: { decode_slash: false }`";
	}
	return NULL;
}

static int add_route(struct route_table *table, const struct tally_config_service *service,
		     const struct tally_config_route *source, const struct teller *teller)
{
	struct tally_route route = {};
	char text[128];
	const char *why = NULL;
	int r = tally_route_parse(source->match, &route, &why);

	if (r == 0)
		why = unreachable(&route, &service->paths);
	if (why)
		route_fault(teller, service, source, why);
	if (why || r < 0) {
		tally_route_done(&route);
		return why ? -EINVAL : r;
	}
	for (size_t i = 0; i < table->n; i++) {
		if (!tally_route_same(&route, &table->routes[i]))
			continue;
		snprintf(text, sizeof(text), "takes the same requests as routes[%zu] (line %u)",
			 (size_t)(table->source[i] - service->routes),
			 table->source[i]->place.line);
		route_fault(teller, service, source, text);
		tally_route_done(&route);
		return -EINVAL;
	}
	insert(table, &route, source);
	return 0;
}

/* All routes, or -EINVAL after all faults were told. */
static int route_table_init(const struct tally_config_service *service, const struct teller *teller,
			    struct route_table *table)
{
	int r, worst = 0;

	*table = (struct route_table){};
	if (service->n_routes >= TALLY_ROUTES)
		return -EINVAL;
	table->routes = calloc(service->n_routes + 1, sizeof(*table->routes));
	table->source = calloc(service->n_routes + 1, sizeof(*table->source));
	if (!table->routes || !table->source)
		return -ENOMEM;
	for (size_t i = 0; i < service->n_routes; i++) {
		if (!service->routes[i].match)
			continue; /* told by the decoder */
		r = add_route(table, service, &service->routes[i], teller);
		if (r == -ENOMEM)
			return r;
		worst = TALLY_MIN(worst, r);
	}
	r = tally_route_methods(table->routes, table->n, &table->methods);
	if (r == -E2BIG && teller->diag)
		tally_diag_error(
			teller->diag, service->place, "",
			"service \"%s\": the routes name too many methods; %d are possible",
			service->name ? service->name : teller->at, TALLY_METHODS - 1);
	return r == -E2BIG ? -EINVAL : TALLY_MIN(worst, r);
}

/* Key sources ---------------------------------------------------------------------------------- */

static bool is_header_name(const char *text)
{
	for (; *text; text++)
		if (!isalnum((unsigned char)*text) && !strchr("!#$%&'*+-.^_`|~", *text))
			return false;
	return true;
}

/* Framing belongs to the engine: these two can carry no key. */
static bool is_framing(const char *name)
{
	return strcasecmp(name, "content-length") == 0 ||
	       strcasecmp(name, "transfer-encoding") == 0;
}

static const char *header_fault(const char *name, size_t used)
{
	if (strlen(name) > TALLY_HEADER_NAME)
		return "header names of more than 64 characters are not supported";
	if (!is_header_name(name))
		return "not a header name";
	if (is_framing(name))
		return "this header frames messages and can carry no key";
	if (used >= TALLY_NAMES - 2)
		return "at most 6 headers of a direction can be key sources";
	return NULL;
}

static const char *query_fault(const char *name, size_t used)
{
	if (strlen(name) > sizeof(((struct tally_query_name *)NULL)->text))
		return "query names of more than 32 characters are not supported";
	for (; *name; name++)
		if (!isgraph((unsigned char)*name) || strchr("&=%#+", *name))
			return "not the name of a query parameter as it stands in a URL";
	return used >= TALLY_QUERY_NAMES ? "at most 4 query parameters can be key sources" : NULL;
}

static bool same_text(const char *a, const char *b, bool fold)
{
	return a && b && (fold ? strcasecmp(a, b) : strcmp(a, b)) == 0;
}

/* A header may be named once for each scheme: Authorization with Bearer, and with Basic. */
static bool same_header(const struct tally_config_key *a, const struct tally_config_key *b)
{
	return same_text(a->header, b->header, true) &&
	       (!a->scheme || !b->scheme || strcasecmp(a->scheme, b->scheme) == 0);
}

bool tally_rules_same_place(const struct tally_config_key *a, const struct tally_config_key *b)
{
	return same_header(a, b) || same_text(a->query, b->query, false) ||
	       same_text(a->response_header, b->response_header, true);
}

/* How many sources before the i-th have its kind; *ret_same: one of them has its name. */
static size_t sources_before(const struct tally_config_service *service, size_t i, bool *ret_same)
{
	const struct tally_config_key *key = &service->key[i];
	size_t used = 0;

	*ret_same = false;
	for (size_t j = 0; j < i; j++) {
		const struct tally_config_key *other = &service->key[j];

		used += (key->header && other->header) || (key->query && other->query) ||
			(key->response_header && other->response_header);
		*ret_same |= tally_rules_same_place(key, other);
	}
	return used;
}

static const char *key_fault(const struct tally_config_service *service, size_t i)
{
	const struct tally_config_key *key = &service->key[i];
	bool same;
	size_t used = sources_before(service, i, &same);

	if (same)
		return "names the same place as an earlier entry";
	if (key->scheme && strlen(key->scheme) > TALLY_SCHEME - 1)
		return "schemes of more than 15 characters are not supported";
	if (key->scheme && (!*key->scheme || !is_header_name(key->scheme)))
		return "scheme must be one word, like Bearer";
	if (key->header)
		return header_fault(key->header, used);
	if (key->response_header)
		return header_fault(key->response_header, used);
	return key->query ? query_fault(key->query, used) : NULL;
}

static void check_keys(const struct tally_config_service *service, const struct teller *teller)
{
	char path[PATH_TEXT];

	for (size_t i = 0; i < service->n_key; i++) {
		const char *why = key_fault(service, i);

		snprintf(path, sizeof(path), "%s.key[%zu]", teller->at, i);
		if (why)
			tally_diag_error(teller->diag, service->key[i].place, path, "%s", why);
	}
}

/* Billable rules ------------------------------------------------------------------------------- */

/* "404", or "4xx". */
static bool is_status_pattern(const char *text)
{
	if (strlen(text) != 3 || text[0] < '1' || text[0] > '5')
		return false;
	return strcmp(text + 1, "xx") == 0 ||
	       (isdigit((unsigned char)text[1]) && isdigit((unsigned char)text[2]));
}

static void check_billable(const struct tally_config_service *service, const struct teller *teller)
{
	char path[PATH_TEXT];

	for (size_t i = 0; i < service->n_routes; i++) {
		const struct tally_config_route *route = &service->routes[i];

		snprintf(path, sizeof(path), "%s.routes[%zu].billable", teller->at, i);
		for (size_t j = 0; j < route->n_billable; j++)
			if (!is_status_pattern(route->billable[j].name))
				tally_diag_error(
					teller->diag, route->billable[j].place, path,
					"must be a status like \"404\" or a class like \"4xx\"");
	}
}

/* Of the routes before the n-th of the configuration. */
static int build_first(const struct tally_config_service *service, const struct route_table *table,
		       size_t n, struct tally_route_automaton *automaton)
{
	_cleanup_free_ struct tally_route *some = calloc(table->n + 1, sizeof(*some));
	size_t n_some = 0;

	if (!some)
		return -ENOMEM;
	for (size_t i = 0; i < table->n; i++)
		if (table->source[i] < service->routes + n)
			some[n_some++] = table->routes[i];
	return tally_route_build(some, n_some, &table->methods, automaton);
}

/* The first route that is one too many: those before it can be compiled, and with it they cannot. */
static int first_too_many(const struct tally_config_service *service,
			  const struct route_table *table, struct tally_route_automaton *automaton,
			  size_t *ret_index)
{
	size_t good = 0, bad = service->n_routes;

	while (bad - good > 1) {
		size_t middle = good + (bad - good) / 2;
		int r = build_first(service, table, middle, automaton);

		if (r == -ENOMEM)
			return r;
		if (r < 0)
			bad = middle;
		else
			good = middle;
	}
	*ret_index = bad - 1;
	return 0;
}

static int tell_too_many(const struct tally_config_service *service,
			 const struct route_table *table, const struct teller *teller,
			 struct tally_route_automaton *automaton)
{
	char path[PATH_TEXT];
	size_t first = 0;
	int r = first_too_many(service, table, automaton, &first);

	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "%s.routes[%zu].match", teller->at, first);
	tally_diag_error(
		teller->diag, service->routes[first].place, path,
		"one route too many: from here on they need more than %d states or %d edges (one for each segment that no other route has in its place; many, where {name} or ** stands beside literals); write several as one with {name} or **, or give some to a service of their own",
		TALLY_ROUTE_STATES - 1, TALLY_ROUTE_EDGES_USED);
	return 0;
}

static int check_automaton(const struct tally_config_service *service,
			   const struct route_table *table, const struct teller *teller)
{
	_cleanup_free_ struct tally_route_automaton *automaton = malloc(sizeof(*automaton));
	int r;

	if (!automaton)
		return -ENOMEM;
	r = tally_route_build(table->routes, table->n, &table->methods, automaton);
	if (r == -E2BIG || r == -ENOSPC)
		r = tell_too_many(service, table, teller, automaton);
	return r == -ENOMEM ? r : 0;
}

static int check_service(const struct tally_config_service *service, const struct teller *teller)
{
	struct route_table table;
	int r = route_table_init(service, teller, &table);

	if (r == 0)
		r = check_automaton(service, &table, teller);
	route_table_done(&table);
	if (r == -ENOMEM)
		return r;
	check_keys(service, teller);
	check_billable(service, teller);
	return 0;
}

/* Services of pods are made of it. */
static int check_unlisted(const struct tally_config_unlisted *unlisted, struct tally_diag *diag)
{
	const struct tally_config_service service = {
		.place = unlisted->place,
		.key = unlisted->key,
		.n_key = unlisted->n_key,
		.paths = unlisted->paths,
		.routes = unlisted->routes,
		.n_routes = unlisted->n_routes,
	};
	const struct teller teller = { .diag = diag, .at = "kubernetes.unlisted" };

	return unlisted->place.line ? check_service(&service, &teller) : 0;
}

int tally_rules_check(const struct tally_config *config, struct tally_diag *diag)
{
	size_t before = diag->errors;
	int r = 0;

	for (size_t i = 0; i < config->n_services && r == 0; i++) {
		struct teller teller = { .diag = diag };

		snprintf(teller.at, sizeof(teller.at), "services[%zu]", i);
		r = check_service(&config->services[i], &teller);
	}
	if (r == 0)
		r = check_unlisted(&config->kubernetes.unlisted, diag);
	if (r < 0)
		return r;
	return diag->errors > before ? -EINVAL : 0;
}

/* The kernel's form ---------------------------------------------------------------------------- */

static void lower(const char *text, unsigned char *out, size_t n)
{
	for (size_t i = 0; i < n; i++)
		out[i] = (unsigned char)tolower((unsigned char)text[i]);
}

static void set_name(struct tally_name *name, const char *text, uint8_t role, uint8_t priority)
{
	name->len = (uint8_t)strlen(text);
	lower(text, name->text, name->len);
	name->role = role;
	name->priority = priority;
}

static void set_scheme(struct tally_name *name, const char *scheme)
{
	size_t n = strlen(scheme);

	lower(scheme, name->scheme, n);
	name->scheme[n] = ' ';
	name->scheme_len = (uint8_t)(n + 1);
	name->role = strcasecmp(scheme, "basic") == 0 ? TALLY_NAME_BASIC : TALLY_NAME_SCHEME;
}

/* The one before it of the same header, if any, leads to entry i. */
static void link_schemes(struct tally_name *names, size_t i)
{
	for (size_t j = i; j-- > 0;)
		if (names[j].len == names[i].len &&
		    memcmp(names[j].text, names[i].text, sizeof(names[j].text)) == 0) {
			names[j].next = (uint8_t)i;
			return;
		}
}

static uint64_t filter_of(const struct tally_name *names)
{
	uint64_t bits = 0;

	for (size_t i = 0; i < TALLY_NAMES; i++) {
		if (!names[i].len)
			continue;
		if (names[i].len < 4)
			return UINT64_MAX;
		bits |= 1ULL << tally_name_filter((uint32_t)tally_load(names[i].text, 4));
	}
	return bits;
}

static void set_keys(const struct tally_config_service *service, struct tally_rules *rules)
{
	size_t requests = 2, responses = 2;

	set_name(&rules->request[0], "content-length", TALLY_NAME_LENGTH, 0);
	set_name(&rules->request[1], "transfer-encoding", TALLY_NAME_CODING, 0);
	memcpy(rules->response, rules->request, 2 * sizeof(rules->request[0]));
	for (size_t i = 0; i < service->n_key; i++) {
		const struct tally_config_key *key = &service->key[i];
		uint8_t priority = (uint8_t)(i + 1);

		if (key->header) {
			set_name(&rules->request[requests], key->header, TALLY_NAME_KEY, priority);
			if (key->scheme)
				set_scheme(&rules->request[requests], key->scheme);
			link_schemes(rules->request, requests);
			requests++;
		} else if (key->response_header) {
			set_name(&rules->response[responses++], key->response_header,
				 TALLY_NAME_KEY, priority);
		} else {
			struct tally_query_name *query = &rules->query[rules->queries++];

			query->len = (uint8_t)strlen(key->query);
			memcpy(query->text, key->query, query->len);
			query->priority = priority;
		}
	}
	rules->request_first = filter_of(rules->request);
	rules->response_first = filter_of(rules->response);
}

static void set_methods(const struct tally_route_methods *methods, struct tally_rules *rules)
{
	for (size_t i = 1; i < methods->n; i++)
		rules->method[i] = tally_load((const __u8 *)methods->names[i],
					      (__u32)strlen(methods->names[i]));
}

/* The slot where a probe for this edge begins. */
static uint32_t home_of(const struct tally_edge *edge)
{
	return (uint32_t)(edge->hash ^ edge->state * TALLY_EDGE_MIX) & (TALLY_ROUTE_EDGES - 1);
}

static uint32_t distance_of(const struct tally_edge *edge, uint32_t slot)
{
	return (slot - home_of(edge)) & (TALLY_ROUTE_EDGES - 1);
}

/*
 * Linear probing where the edge farther from its home keeps the slot ("Robin Hood"): the longest
 * probe becomes as short as it can be, and no free slot stands between an edge and its home.
 */
static bool place(struct tally_edge *edges, struct tally_edge edge)
{
	uint32_t slot = home_of(&edge);

	while (edges[slot].state) {
		struct tally_edge other = edges[slot];

		if (distance_of(&other, slot) < distance_of(&edge, slot)) {
			edges[slot] = edge;
			edge = other;
		}
		slot = (slot + 1) & (TALLY_ROUTE_EDGES - 1);
		if (distance_of(&edge, slot) >= TALLY_EDGE_PROBES)
			return false;
	}
	edges[slot] = edge;
	return true;
}

/* Numbers of states, other ones in each attempt; 0 and 1 keep theirs. */
static void number_states(uint16_t n, uint32_t attempt, uint16_t *numbers)
{
	uint32_t random = attempt * 2654435761u + 1;

	for (uint16_t i = 0; i < n; i++)
		numbers[i] = i;
	for (uint16_t i = n; attempt && i-- > 3;) {
		uint16_t j, swap = numbers[i];

		random = random * 1664525u + 1013904223u;
		j = (uint16_t)(2 + (random >> 16) % (i - 1u));
		numbers[i] = numbers[j];
		numbers[j] = swap;
	}
}

static bool place_all(const struct tally_route_automaton *automaton, const uint16_t *numbers,
		      struct tally_rules *rules)
{
	memset(rules->edges, 0, sizeof(rules->edges));
	for (size_t i = 0; i < automaton->n_edges; i++) {
		const struct tally_route_edge *from = &automaton->edges[i];
		/* "\0*" is no segment of any path. */
		const char *text = from->asterisk ? "\0*" : from->text;
		__u32 len = from->asterisk ? 2 : (__u32)strlen(from->text);
		struct tally_edge edge = { .hash = tally_text_hash(text, len, rules->secret),
					   .state = numbers[from->state],
					   .next = numbers[from->next] };

		if (!place(rules->edges, edge))
			return false;
	}
	return true;
}

static int set_automaton(const struct route_table *table, struct tally_rules *rules)
{
	_cleanup_free_ struct tally_route_automaton *automaton = malloc(sizeof(*automaton));
	uint16_t numbers[TALLY_ROUTE_STATES] = {};
	int r;

	if (!automaton)
		return -ENOMEM;
	r = tally_route_build(table->routes, table->n, &table->methods, automaton);
	if (r < 0)
		return r == -ENOMEM ? r : -EINVAL;
	for (uint32_t attempt = 0;; attempt++) {
		if (attempt == SHUFFLES)
			return -ENOSPC;
		number_states(automaton->n_states, attempt, numbers);
		if (place_all(automaton, numbers, rules))
			break;
	}
	for (uint16_t i = 0; i < automaton->n_states; i++) {
		rules->other[numbers[i]] = numbers[automaton->other[i]];
		memcpy(rules->accept[numbers[i]], automaton->accept[i], sizeof(rules->accept[0]));
	}
	return 0;
}

bool tally_rules_keys_fit(const struct tally_config_service *service)
{
	for (size_t i = 0; i < service->n_key; i++)
		if (key_fault(service, i))
			return false;
	return true;
}

int tally_rules_compile(const struct tally_config_service *service,
			const struct tally_rules_target *target, struct tally_rules *ret_rules)
{
	_cleanup_free_ struct tally_rules *rules = calloc(1, sizeof(*rules));
	struct teller silent = {};
	struct route_table table;
	int r;

	if (!rules)
		return -ENOMEM;
	if (!tally_rules_keys_fit(service))
		return -EINVAL;
	rules->ruleset = target->generation;
	rules->service = target->service;
	memcpy(rules->secret, target->secret, sizeof(rules->secret));
	if (service->tainted == TALLY_CONFIG_TAINTED_OWNER)
		rules->flags |= TALLY_RULES_TAINTED_OWNER;
	if (service->paths.merge_slashes)
		rules->flags |= TALLY_RULES_MERGE_SLASHES;
	if (service->paths.decode_slash)
		rules->flags |= TALLY_RULES_DECODE_SLASH;
	set_keys(service, rules);
	r = route_table_init(service, &silent, &table);
	if (r == 0) {
		set_methods(&table.methods, rules);
		r = set_automaton(&table, rules);
	}
	for (size_t i = 0; r == 0 && i < table.n; i++)
		if (table.source[i]->auth == TALLY_CONFIG_AUTH_NONE)
			rules->route_flags[i + 1] |= TALLY_ROUTE_AUTH_NONE;
	route_table_done(&table);
	if (r == 0)
		*ret_rules = *rules;
	return r;
}

/* The canonical JSON ---------------------------------------------------------------------------- */

static void decimal_text(uint64_t value, char *text, size_t bytes)
{
	uint64_t fraction = value % TALLY_OPTION_DECIMAL;
	int n = snprintf(text, bytes, "%llu.%09llu",
			 (unsigned long long)(value / TALLY_OPTION_DECIMAL),
			 (unsigned long long)fraction);

	while (n > 0 && text[n - 1] == '0')
		text[--n] = '\0';
	if (n > 0 && text[n - 1] == '.')
		text[n - 1] = '\0';
}

/* Sticky: an id made of half a JSON would be another ruleset's. Owns value. */
static void set(json_t *object, const char *name, json_t *value, bool *failed)
{
	if (json_object_set_new(object, name, value) < 0)
		*failed = true;
}

static void append(json_t *array, json_t *value, bool *failed)
{
	if (json_array_append_new(array, value) < 0)
		*failed = true;
}

/* What says nothing new is left out, so that an option of a later version changes no id. */
static json_t *route_json(const struct tally_route *route, const struct tally_config_route *source,
			  bool *failed)
{
	json_t *out = json_object(), *billable = json_object();
	char credits[48];

	decimal_text(source->credits, credits, sizeof(credits));
	for (size_t i = 0; i < source->n_billable; i++)
		set(billable, source->billable[i].name, json_boolean(source->billable[i].flag),
		    failed);
	set(out, "template", json_string(route->template), failed);
	if (*route->method)
		set(out, "method", json_string(route->method), failed);
	if (source->credits)
		set(out, "credits", json_string(credits), failed);
	if (json_object_size(billable) > 0)
		set(out, "billable", json_incref(billable), failed);
	if (source->health)
		set(out, "health", json_true(), failed);
	if (source->auth == TALLY_CONFIG_AUTH_NONE)
		set(out, "auth", json_string("none"), failed);
	if (source->truncated == TALLY_CONFIG_TRUNCATED_UNBILLABLE)
		set(out, "truncated", json_string("unbillable"), failed);
	json_decref(billable);
	return out;
}

static void set_lower(json_t *out, const char *name, const char *value, bool *failed)
{
	char text[TALLY_HEADER_NAME + 1] = "";

	if (!value || strlen(value) > TALLY_HEADER_NAME)
		return;
	lower(value, (unsigned char *)text, strlen(value));
	set(out, name, json_string(text), failed);
}

static json_t *key_json(const struct tally_config_key *key, bool *failed)
{
	json_t *out = json_object();

	set_lower(out, "header", key->header, failed);
	set_lower(out, "scheme", key->scheme, failed);
	set_lower(out, "response_header", key->response_header, failed);
	if (key->query)
		set(out, "query", json_string(key->query), failed);
	return out;
}

static json_t *table_json(const struct tally_config_service *service,
			  const struct route_table *table, bool *failed)
{
	json_t *keys = json_array(), *routes = json_array(), *out = json_object();

	for (size_t i = 0; i < service->n_key; i++)
		append(keys, key_json(&service->key[i], failed), failed);
	for (size_t i = 0; i < table->n; i++)
		append(routes, route_json(&table->routes[i], table->source[i], failed), failed);
	set(out, "key", keys, failed);
	set(out, "routes", routes, failed);
	if (service->paths.merge_slashes)
		set(out, "merge_slashes", json_true(), failed);
	if (service->paths.decode_slash)
		set(out, "decode_slash", json_true(), failed);
	if (service->tainted == TALLY_CONFIG_TAINTED_OWNER)
		set(out, "tainted", json_string("owner"), failed);
	if (service->anonymous.billable)
		set(out, "anonymous_billable", json_true(), failed);
	return out;
}

static int add_service(json_t *services, const struct tally_config_service *service)
{
	struct teller silent = {};
	struct route_table table;
	bool failed = false;
	int r = route_table_init(service, &silent, &table);

	if (r == 0)
		set(services, service->name, table_json(service, &table, &failed), &failed);
	route_table_done(&table);
	return failed ? -ENOMEM : r;
}

/* {"services": {NAME: ...}} */
static int canonical(const struct tally_config *config, json_t **ret_json)
{
	json_t *services = json_object(), *out = json_object();
	bool failed = false;
	int r = 0;

	for (size_t i = 0; r == 0 && i < config->n_services; i++)
		r = add_service(services, &config->services[i]);
	set(out, "services", services, &failed);
	if (failed)
		r = -ENOMEM;
	if (r == 0)
		*ret_json = out;
	else
		json_decref(out);
	return r;
}

static int id_of(const json_t *rules, char *ret_id)
{
	char *text = json_dumps(rules, JSON_COMPACT | JSON_SORT_KEYS);
	unsigned char sha[SHA256_DIGEST_LENGTH];

	if (!text)
		return -ENOMEM;
	SHA256((const unsigned char *)text, strlen(text), sha);
	free(text);
	memcpy(ret_id, "sha256:", 7);
	tally_util_hex(sha, 4, ret_id + 7);
	return 0;
}

int tally_rules_id(const struct tally_config *config, char ret_id[TALLY_RULESET_ID])
{
	json_t *rules = NULL;
	int r = canonical(config, &rules);

	if (r == 0)
		r = id_of(rules, ret_id);
	json_decref(rules);
	return r;
}

/* names[index of a service] -> its name, null where there is none. */
static json_t *indices_json(const struct tally_config *config, const uint16_t *indices,
			    bool *failed)
{
	json_t *names = json_array();

	for (size_t i = 0; i < config->n_services && !*failed; i++) {
		size_t index = indices ? indices[i] : i;

		while (json_array_size(names) <= index && !*failed)
			append(names, json_null(), failed);
		if (json_array_set_new(names, index, json_string(config->services[i].name)) < 0)
			*failed = true;
	}
	return names;
}

int tally_rules_dump(const struct tally_config *config, const uint16_t *indices, char **ret_json)
{
	char id[TALLY_RULESET_ID], *text = NULL;
	json_t *rules = NULL;
	bool failed = false;
	int r = canonical(config, &rules);

	if (r == 0)
		r = id_of(rules, id);
	if (r == 0) {
		set(rules, "id", json_string(id), &failed);
		set(rules, "indices", indices_json(config, indices, &failed), &failed);
		text = failed ? NULL : json_dumps(rules, JSON_COMPACT | JSON_SORT_KEYS);
	}
	json_decref(rules);
	if (r == 0 && !text)
		return -ENOMEM;
	if (r == 0)
		*ret_json = text;
	return r;
}
