// SPDX-License-Identifier: Apache-2.0
#include "identify/ruleset.h"

#include <jansson.h>

#include "base/option.h"
#include "identify/route.h"

/* What a route says of a status: nothing, no, yes. */
enum verdict { VERDICT_NONE, VERDICT_NO, VERDICT_YES };

struct exact {
	uint16_t status;
	bool billable;
};

struct route {
	struct tally_route parsed;
	struct tally_ruleset_unit units[TALLY_RULESET_UNITS];
	bool health, auth_none, truncated_unbillable;
	uint8_t classes[6]; /* enum verdict, by the first digit of the status */
	struct exact *exact;
	size_t n_exact;
};

struct service {
	char *name;
	bool anonymous_billable;
	struct tally_route_methods methods;
	struct route *routes; /* [0] is _other */
	size_t n_routes;
};

struct tally_ruleset_view {
	char id[TALLY_RULESET_ID];
	struct service services[TALLY_SERVICES]; /* by index; name NULL: none */
};

void tally_ruleset_free(struct tally_ruleset_view *view)
{
	if (!view)
		return;
	for (size_t i = 0; i < TALLY_SERVICES; i++) {
		struct service *service = &view->services[i];

		for (size_t j = 0; j < service->n_routes; j++) {
			tally_route_done(&service->routes[j].parsed);
			free(service->routes[j].exact);
		}
		free(service->routes);
		free(service->name);
	}
	free(view);
}

/* Reading -------------------------------------------------------------------------------------- */

static int read_billable(json_t *billable, struct route *route)
{
	const char *pattern;
	json_t *flag;

	if (!billable)
		return 0;
	if (!json_is_object(billable))
		return -EINVAL;
	route->exact = calloc(json_object_size(billable) + 1, sizeof(*route->exact));
	if (!route->exact)
		return -ENOMEM;
	json_object_foreach(billable, pattern, flag) {
		uint64_t status;

		if (strlen(pattern) != 3 || pattern[0] < '1' || pattern[0] > '5')
			return -EINVAL;
		if (strcmp(pattern + 1, "xx") == 0)
			route->classes[pattern[0] - '0'] =
				json_is_true(flag) ? VERDICT_YES : VERDICT_NO;
		else if (tally_util_parse_u64(pattern, 599, &status) < 0)
			return -EINVAL;
		else
			route->exact[route->n_exact++] =
				(struct exact){ .status = (uint16_t)status,
						.billable = json_is_true(flag) };
	}
	return 0;
}

static void set_units(struct route *route, uint64_t credits)
{
	route->units[0] = (struct tally_ruleset_unit){ "requests", TALLY_OPTION_DECIMAL };
	route->units[1] = (struct tally_ruleset_unit){ "credits", credits };
}

static int parse_match(const char *method, const char *template, struct tally_route *ret_route)
{
	_cleanup_free_ char *match = NULL;
	const char *why;

	if (asprintf(&match, "%s%s%s", method, *method ? " " : "", template) < 0)
		return -ENOMEM;
	return tally_route_parse(match, ret_route, &why);
}

static int read_route(json_t *json, struct route *route)
{
	const char *template = NULL, *method = "", *credits = "0", *auth = "", *truncated = "";
	json_t *billable = NULL;
	uint64_t amount = 0;
	int health = 0, r;

	if (json_unpack(json, "{s:s,s?s,s?s,s?o,s?b,s?s,s?s}", "template", &template, "method",
			&method, "credits", &credits, "billable", &billable, "health", &health,
			"auth", &auth, "truncated", &truncated) < 0)
		return -EINVAL;
	r = parse_match(method, template, &route->parsed);
	if (r == 0)
		r = tally_option_decimal(credits, &amount) < 0 ? -EINVAL : 0;
	if (r == 0)
		r = read_billable(billable, route);
	set_units(route, amount);
	route->health = health;
	route->auth_none = strcmp(auth, "none") == 0;
	route->truncated_unbillable = strcmp(truncated, "unbillable") == 0;
	return r;
}

/* Names of methods follow from the routes, as they do in rules.c. */
static int read_methods(struct service *service)
{
	struct tally_route *plain = calloc(service->n_routes, sizeof(*plain));
	int r;

	if (!plain)
		return -ENOMEM;
	for (size_t i = 0; i < service->n_routes; i++)
		plain[i] = service->routes[i].parsed; /* borrowed */
	r = tally_route_methods(plain, service->n_routes, &service->methods);
	free(plain);
	return r < 0 ? -EINVAL : 0;
}

static int read_service(json_t *json, const char *name, struct service *service)
{
	json_t *routes = json_object_get(json, "routes"), *route;
	size_t i;
	int r = 0;

	if (!json_is_array(routes) || json_array_size(routes) >= TALLY_ROUTES)
		return -EINVAL;
	service->name = strdup(name);
	service->routes = calloc(json_array_size(routes) + 1, sizeof(*service->routes));
	if (!service->name || !service->routes)
		return -ENOMEM;
	service->anonymous_billable = json_is_true(json_object_get(json, "anonymous_billable"));
	service->n_routes = 1;
	set_units(&service->routes[0], 0);
	json_array_foreach(routes, i, route) {
		service->n_routes++;
		r = read_route(route, &service->routes[i + 1]);
		if (r < 0)
			return r;
	}
	return read_methods(service);
}

static int read_view(json_t *json, struct tally_ruleset_view *view)
{
	json_t *services = json_object_get(json, "services"), *name;
	const char *id = json_string_value(json_object_get(json, "id"));
	json_t *indices = json_object_get(json, "indices");
	size_t i;
	int r = 0;

	if (!id || strlen(id) >= sizeof(view->id) || !json_is_object(services) ||
	    !json_is_array(indices) || json_array_size(indices) > TALLY_SERVICES)
		return -EINVAL;
	strcpy(view->id, id);
	json_array_foreach(indices, i, name) {
		json_t *service;

		if (json_is_null(name))
			continue;
		service = json_is_string(name) ? json_object_get(services, json_string_value(name))
					       : NULL;
		r = service ? read_service(service, json_string_value(name), &view->services[i])
			    : -EINVAL;
		if (r < 0)
			return r;
	}
	return r;
}

int tally_ruleset_load(const char *json, size_t bytes, struct tally_ruleset_view **ret_view)
{
	_cleanup_(tally_ruleset_freep) struct tally_ruleset_view *view = calloc(1, sizeof(*view));
	json_t *root = json_loadb(json, bytes, JSON_REJECT_DUPLICATES, NULL);
	int r = !view ? -ENOMEM : !root ? -EINVAL : read_view(root, view);

	json_decref(root);
	if (r == 0)
		*ret_view = TAKE_PTR(view);
	return r;
}

/* Answering ------------------------------------------------------------------------------------ */

const char *tally_ruleset_id(const struct tally_ruleset_view *view)
{
	return view->id;
}

const char *tally_ruleset_service(const struct tally_ruleset_view *view, uint16_t service)
{
	return service < TALLY_SERVICES ? view->services[service].name : NULL;
}

/* A status before its class before the default: what succeeded. */
static bool status_billable(const struct route *route, uint16_t status)
{
	unsigned int class = status / 100;

	if (status < 100 || status > 599)
		return false;
	for (size_t i = 0; i < route->n_exact; i++)
		if (route->exact[i].status == status)
			return route->exact[i].billable;
	if (route->classes[class] != VERDICT_NONE)
		return route->classes[class] == VERDICT_YES;
	return status == 101 || class == 2 || class == 3;
}

static bool attribution_billable(const struct service *service, uint8_t attribution)
{
	return attribution == TALLY_ATTR_KEY ||
	       (attribution == TALLY_ATTR_ANONYMOUS && service->anonymous_billable);
}

int tally_ruleset_terms(const struct tally_ruleset_view *view,
			const struct tally_ruleset_query *query,
			struct tally_ruleset_terms *ret_terms)
{
	const struct service *service;
	const struct route *route;

	if (query->service >= TALLY_SERVICES)
		return -ENOENT;
	service = &view->services[query->service];
	if (!service->name || query->route >= service->n_routes ||
	    query->method >= service->methods.n)
		return -ENOENT;
	route = &service->routes[query->route];
	*ret_terms = (struct tally_ruleset_terms){
		.ruleset = view->id,
		.service = service->name,
		.route = query->route ? route->parsed.template : TALLY_RULESET_OTHER,
		.method =
			query->method ? service->methods.names[query->method] : TALLY_RULESET_OTHER,
		.health = route->health,
		.auth_none = route->auth_none,
		.billable = !route->health && status_billable(route, query->status) &&
			    attribution_billable(service, query->attribution),
		.charge_truncated = !route->truncated_unbillable,
		.units = route->units,
		.n_units = TALLY_RULESET_UNITS,
	};
	return 0;
}

int tally_ruleset_charge(const struct tally_ruleset_view *view,
			 const struct tally_ruleset_query *query, uint64_t requests,
			 uint64_t incomplete, struct tally_ruleset_charge *ret_charge)
{
	struct tally_ruleset_terms terms;
	int r = tally_ruleset_terms(view, query, &terms);

	if (r < 0)
		return r;
	if (!terms.charge_truncated)
		requests -= TALLY_MIN(incomplete, requests);
	*ret_charge = (struct tally_ruleset_charge){
		.billable = terms.billable,
		.requests = terms.billable ? requests : 0,
		.units = terms.units,
		.n_units = terms.n_units,
	};
	return 0;
}
