// SPDX-License-Identifier: Apache-2.0
#include "base/config.h"

#include <ctype.h>

#include "base/listen.h"
#include "base/secret.h"

#define FILE_MAX (4u << 20)
#define GLOB_MAX TALLY_CONFIG_GLOB
#define SECRET_MIN 16

/* Checks that concern more than one value ------------------------------------------------------- */

#define PATH_TEXT 160

static void check_absolute(struct tally_diag *diag, struct tally_place place, const char *path,
			   const char *value)
{
	if (value && *value && value[0] != '/')
		tally_diag_error(diag, place, path, "must be an absolute path");
}

static bool is_name(const char *text)
{
	if (!isalnum((unsigned char)*text))
		return false;
	for (; *text; text++)
		if (!isalnum((unsigned char)*text) && !strchr("._-", *text))
			return false;
	return true;
}

static bool is_listen(const char *text)
{
	struct sockaddr_storage address;

	return strcmp(text, "off") == 0 || tally_listen_parse(text, &address) == 0;
}

/* Where a value stands, or its section when it is not written. */
static struct tally_place place_in(const struct tally_yaml *root, const char *section,
				   const char *name)
{
	const struct tally_yaml *node = root, *value = NULL;

	if (node && node->kind == TALLY_YAML_MAPPING)
		node = tally_yaml_get(node, section);
	if (node && node->kind == TALLY_YAML_MAPPING)
		value = tally_yaml_get(node, name);
	if (value)
		return value->place;
	return node ? node->place : (struct tally_place){};
}

static void check_agent(const struct tally_config *config, const struct tally_yaml *root,
			struct tally_diag *diag)
{
	const struct tally_config_agent *agent = &config->agent;
	uint64_t window_s = agent->window_ns / TALLY_NS_PER_S;

	if (window_s == 0 || agent->window_ns % TALLY_NS_PER_S != 0 || 3600 % window_s != 0)
		tally_diag_error(diag, place_in(root, "agent", "window"), "agent.window",
				 "must be whole seconds that divide an hour, like 10s, 30s or 1m");
	check_absolute(diag, place_in(root, "agent", "state_dir"), "agent.state_dir",
		       agent->state_dir);
	check_absolute(diag, place_in(root, "agent", "runtime_dir"), "agent.runtime_dir",
		       agent->runtime_dir);
	check_absolute(diag, place_in(root, "agent", "pin_dir"), "agent.pin_dir", agent->pin_dir);
	check_absolute(diag, place_in(root, "keys", "file"), "keys.file", config->keys.file);
	if (agent->metrics.listen && !is_listen(agent->metrics.listen))
		tally_diag_error(
			diag, agent->metrics.place, "agent.metrics.listen",
			"must be ADDRESS:PORT or off; the address in numbers, one of IPv6 in brackets");
	if (!agent->fleet_secret)
		tally_diag_warning(
			diag, place_in(root, "agent", "fleet_secret"), "agent.fleet_secret",
			"missing: ids of keys outside of the catalog differ from node to node; give all nodes the same one, as ${file:/path}");
	else if (!tally_secret_is_reference(agent->fleet_secret) && /* else not read: see flags */
		 strlen(agent->fleet_secret) < SECRET_MIN)
		tally_diag_error(diag, place_in(root, "agent", "fleet_secret"),
				 "agent.fleet_secret",
				 "the secret has %zu bytes; at least %d are needed",
				 strlen(agent->fleet_secret), SECRET_MIN);
}

static void check_key(const struct tally_config_key *key, const char *path, struct tally_diag *diag)
{
	int sources = !!key->header + !!key->query + !!key->response_header;

	if (sources != 1)
		tally_diag_error(diag, key->place, path,
				 "must have exactly one of header, query, response_header");
	if (key->scheme && !key->header)
		tally_diag_error(diag, key->place, path, "scheme needs header");
}

static bool by_pods(const struct tally_config_match *match)
{
	return match->pods.place.line != 0;
}

/* ret_path: that of a key below path. */
static void path_below(const char *path, const char *name, char ret_path[PATH_TEXT])
{
	(void)snprintf(ret_path, PATH_TEXT, "%.*s.%s", PATH_TEXT - (int)strlen(name) - 2, path,
		       name);
}

/* The keys that narrow a match, each at its own place. node: of the service, or NULL. */
static void check_narrow(const struct tally_config_match *match, const char *path,
			 const struct tally_yaml *node, struct tally_diag *diag)
{
	char below[PATH_TEXT];

	path_below(path, "cgroup", below);
	check_absolute(diag, place_in(node, "match", "cgroup"), below, match->cgroup);
	path_below(path, "executable", below);
	check_absolute(diag, place_in(node, "match", "executable"), below, match->executable);
	path_below(path, "unit", below);
	if (match->unit && (strchr(match->unit, '/') || !strchr(match->unit, '.')))
		tally_diag_error(diag, place_in(node, "match", "unit"), below,
				 "must be the whole name of a unit, like geo.service");
}

static void check_match(const struct tally_config_match *match, const char *path,
			const struct tally_yaml *node, struct tally_diag *diag)
{
	int narrow = !!match->cgroup + !!match->unit + !!match->executable + by_pods(match);
	char ports[PATH_TEXT];

	if (narrow > 1)
		tally_diag_error(diag, match->place, path,
				 "must have at most one of cgroup, unit, executable, pods");
	if (match->ports.all && narrow == 0)
		tally_diag_error(diag, match->place, path,
				 "ports: all needs cgroup, unit, executable or pods beside it");
	path_below(path, "ports", ports);
	if (!match->ports.set && !by_pods(match))
		tally_diag_error(diag, match->place, ports, "missing");
	check_narrow(match, path, node, diag);
}

static void check_service(const struct tally_config *config, size_t index,
			  const struct tally_yaml *node, struct tally_diag *diag)
{
	const struct tally_config_service *service = &config->services[index];
	char path[PATH_TEXT];

	for (size_t i = 0; i < service->n_key; i++) {
		snprintf(path, sizeof(path), "services[%zu].key[%zu]", index, i);
		check_key(&service->key[i], path, diag);
	}
	snprintf(path, sizeof(path), "services[%zu].match", index);
	if (service->match.place.line)
		check_match(&service->match, path, node, diag);
	snprintf(path, sizeof(path), "services[%zu].tainted", index);
	if (node && node->kind == TALLY_YAML_MAPPING && !tally_yaml_get(node, "tainted"))
		tally_diag_warning(
			diag, service->place, path,
			"not set, so unattributed: a client can have requests counted and not charged by sending one that servers understand in different ways; say `owner` where clients connect directly, or `unattributed` to accept this");
	snprintf(path, sizeof(path), "services[%zu].key", index);
	if (service->n_key == 0)
		tally_diag_warning(diag, service->place, path,
				   "none: all requests of this service are anonymous");
	snprintf(path, sizeof(path), "services[%zu].name", index);
	if (service->name && *service->name && !is_name(service->name))
		tally_diag_error(
			diag, service->place, path,
			"must begin with a letter or digit and have only these, '.', '-' and '_'");
	for (size_t i = 0; i < index && service->name; i++)
		if (config->services[i].name &&
		    strcmp(config->services[i].name, service->name) == 0)
			tally_diag_error(diag, service->place, path,
					 "\"%s\" is the name of services[%zu], too", service->name,
					 i);
}

/* Ties ------------------------------------------------------------------------------------------ */

#define PARTS_MAX (GLOB_MAX / 2 + 8)

/* A cgroup pattern, component by component, as collect/cgroup.h matches it. */
struct pattern {
	char text[GLOB_MAX + 8];
	const char *parts[PARTS_MAX];
	size_t n;
};

/* Any number of slices: above a unit there is nothing else. */
static const char slices[] = "*.slice";

static void split(const struct tally_config_match *match, struct pattern *pattern)
{
	char *rest = pattern->text, *part;

	snprintf(pattern->text, sizeof(pattern->text), "%s",
		 match->cgroup ? match->cgroup : match->unit);
	pattern->n = 0;
	if (match->unit)
		pattern->parts[pattern->n++] = slices;
	while ((part = strsep(&rest, "/")) && pattern->n < PARTS_MAX)
		if (*part)
			pattern->parts[pattern->n++] = part;
}

/* Is there a text that both globs match? Exact for * and ?; what else fnmatch(3) knows counts as
 * a yes. */
static bool globs_meet(const char *a, const char *b)
{
	bool rows[2][GLOB_MAX + 8];
	size_t la = strlen(a), lb = strlen(b);

	if (strchr(a, '[') || strchr(b, '['))
		return true;
	for (size_t i = la + 1; i-- > 0;) {
		bool *row = rows[i % 2], *below = rows[(i + 1) % 2];

		for (size_t j = lb + 1; j-- > 0;) {
			bool meet = i == la && j == lb;

			if (i < la && a[i] == '*')
				meet = below[j] || (j < lb && row[j + 1]);
			if (!meet && j < lb && b[j] == '*')
				meet = row[j + 1] || (i < la && below[j]);
			if (!meet && i < la && j < lb && a[i] != '*' && b[j] != '*')
				meet = (a[i] == b[j] || a[i] == '?' || b[j] == '?') && below[j + 1];
			row[j] = meet;
		}
	}
	return rows[0][0];
}

static bool is_many(const char *part)
{
	return part == slices || strcmp(part, "**") == 0;
}

/* many: can it stand for the other, among others? What stands for many may stand for none. */
static bool takes(const char *many, const char *other)
{
	return many != slices || is_many(other) || globs_meet(many, other);
}

/* The same, with components for characters and ** for *. */
static bool patterns_meet(const struct pattern *a, const struct pattern *b)
{
	bool rows[2][PARTS_MAX + 1];

	for (size_t i = a->n + 1; i-- > 0;) {
		bool *row = rows[i % 2], *below = rows[(i + 1) % 2];
		bool rest_a = i < a->n && is_many(a->parts[i]);

		for (size_t j = b->n + 1; j-- > 0;) {
			bool rest_b = j < b->n && is_many(b->parts[j]);
			bool meet = i == a->n && j == b->n;

			if (rest_a)
				meet = below[j] ||
				       (j < b->n && takes(a->parts[i], b->parts[j]) && row[j + 1]);
			if (!meet && rest_b)
				meet = row[j + 1] ||
				       (i < a->n && takes(b->parts[j], a->parts[i]) && below[j]);
			if (!meet && i < a->n && j < b->n && !rest_a && !rest_b)
				meet = below[j + 1] && globs_meet(a->parts[i], b->parts[j]);
			row[j] = meet;
		}
	}
	return rows[0][0];
}

/* Ports left to the pods can be any. */
static bool ports_meet(const struct tally_option_ports *a, const struct tally_option_ports *b)
{
	size_t i = 0, j = 0;

	if (a->all || b->all || !a->set || !b->set)
		return true;
	while (i < a->n && j < b->n) {
		if (a->list[i] == b->list[j])
			return true;
		if (a->list[i] < b->list[j])
			i++;
		else
			j++;
	}
	return false;
}

static const char *label_of(const struct tally_config_pods *pods, const char *name)
{
	for (size_t i = 0; i < pods->n_labels; i++)
		if (strcmp(pods->labels[i].name, name) == 0)
			return pods->labels[i].value;
	return NULL;
}

/* Can one pod be of both? Services without labels are told apart by their names, and labels win
 * over names. */
static bool pods_meet(const struct tally_config_pods *a, const struct tally_config_pods *b)
{
	if (!a->n_labels || !b->n_labels)
		return false;
	if (a->namespace && b->namespace && strcmp(a->namespace, b->namespace) != 0)
		return false;
	for (size_t i = 0; i < a->n_labels; i++) {
		const char *other = label_of(b, a->labels[i].name);

		if (other && strcmp(other, a->labels[i].value) != 0)
			return false;
	}
	return true;
}

enum precedence { BY_PORT, BY_EXECUTABLE, BY_CGROUP, BY_PODS };

static enum precedence precedence_of(const struct tally_config_match *match)
{
	if (by_pods(match))
		return BY_PODS; /* of the same rank as BY_CGROUP; a pod's folder is its own */
	if (match->cgroup || match->unit)
		return BY_CGROUP;
	return match->executable ? BY_EXECUTABLE : BY_PORT;
}

static bool tie(const struct tally_config_match *a, const struct tally_config_match *b)
{
	struct pattern pattern_a, pattern_b;

	if (precedence_of(a) != precedence_of(b) || !ports_meet(&a->ports, &b->ports))
		return false;
	switch (precedence_of(a)) {
	case BY_PORT:
		return true;
	case BY_EXECUTABLE:
		return strcmp(a->executable, b->executable) == 0;
	case BY_CGROUP:
		split(a, &pattern_a);
		split(b, &pattern_b);
		return patterns_meet(&pattern_a, &pattern_b);
	case BY_PODS:
		return pods_meet(&a->pods, &b->pods);
	}
	return false;
}

static void check_ties(const struct tally_config *config, struct tally_diag *diag)
{
	char path[PATH_TEXT];

	for (size_t i = 0; i < config->n_services; i++) {
		for (size_t j = 0; j < i; j++) {
			if (!tie(&config->services[i].match, &config->services[j].match))
				continue;
			snprintf(path, sizeof(path), "services[%zu].match", i);
			tally_diag_error(
				diag, config->services[i].match.place, path,
				"can match the same sockets as services[%zu] (line %u), with equal precedence",
				j, config->services[j].match.place.line);
		}
	}
}

/* Kubernetes ------------------------------------------------------------------------------------ */

/* A token is sent there: in plain text it does not leave this host. */
static bool is_api(const char *text)
{
	static const char *const plain[] = { "http://127.0.0.1", "http://localhost",
					     "http://[::1]" };

	if (strncmp(text, "https://", 8) == 0)
		return text[8] != 0;
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(plain); i++) {
		size_t n = strlen(plain[i]);

		if (strncmp(text, plain[i], n) == 0 && strchr(":/", text[n]))
			return true;
	}
	return false;
}

static void check_kubernetes(const struct tally_config *config, struct tally_diag *diag)
{
	const struct tally_config_kubernetes *kubernetes = &config->kubernetes;
	struct tally_place place = kubernetes->place;
	char path[PATH_TEXT];

	for (size_t i = 0; i < config->n_services; i++) {
		const struct tally_config_match *match = &config->services[i].match;

		snprintf(path, sizeof(path), "services[%zu].match.pods", i);
		if (by_pods(match) && !place.line)
			tally_diag_error(diag, match->pods.place, path,
					 "needs the section kubernetes, which looks for pods");
	}
	if (!place.line)
		return;
	if (kubernetes->api && *kubernetes->api && !is_api(kubernetes->api))
		tally_diag_error(diag, place, "kubernetes.api",
				 "must begin with https://; http:// is for this host alone");
	check_absolute(diag, place, "kubernetes.token_file", kubernetes->token_file);
	check_absolute(diag, place, "kubernetes.ca_file", kubernetes->ca_file);
	check_absolute(diag, place, "kubernetes.cgroup_root", kubernetes->cgroup_root);
	for (size_t i = 0; i < kubernetes->unlisted.n_key; i++) {
		snprintf(path, sizeof(path), "kubernetes.unlisted.key[%zu]", i);
		check_key(&kubernetes->unlisted.key[i], path, diag);
	}
}

/* Sinks ----------------------------------------------------------------------------------------- */

static const char *kind_of(const struct tally_config_sink *sink)
{
	if (sink->kafka.place.line)
		return "kafka";
	return sink->file.place.line ? "file" : "stdout";
}

/* Two sinks into one topic: each record would be there twice. Checkpoints alone are told apart. */
static void check_topics(const struct tally_config *config, size_t index, struct tally_diag *diag)
{
	const struct tally_config_kafka *kafka = &config->sinks[index].kafka;
	char path[PATH_TEXT];

	snprintf(path, sizeof(path), "sinks[%zu].kafka.topics.records", index);
	for (size_t i = 0; i < index; i++) {
		const struct tally_config_kafka *other = &config->sinks[i].kafka;

		if (kafka->brokers && other->brokers && kafka->topics.records &&
		    other->topics.records && strcmp(kafka->brokers, other->brokers) == 0 &&
		    strcmp(kafka->topics.records, other->topics.records) == 0)
			tally_diag_error(diag, kafka->place, path,
					 "sinks[%zu] has the same topic, too", i);
	}
}

static void check_sink(const struct tally_config *config, size_t index, struct tally_diag *diag)
{
	const struct tally_config_sink *sink = &config->sinks[index];
	char path[PATH_TEXT];

	snprintf(path, sizeof(path), "sinks[%zu].file.path", index);
	check_absolute(diag, sink->file.place, path, sink->file.path);
	for (size_t i = 0; i < index; i++)
		if (sink->file.path && config->sinks[i].file.path &&
		    strcmp(sink->file.path, config->sinks[i].file.path) == 0)
			tally_diag_error(diag, sink->file.place, path,
					 "sinks[%zu] has the same path", i);
	check_topics(config, index, diag);
	snprintf(path, sizeof(path), "sinks[%zu].name", index);
	if (!is_name(sink->name))
		tally_diag_error(
			diag, sink->place, path,
			"must begin with a letter or digit and have only these, '.', '-' and '_'");
	/* Its checkpoint is a file of that name, and such files are removed at a start. */
	if (strlen(sink->name) >= 4 && !strcmp(sink->name + strlen(sink->name) - 4, ".tmp"))
		tally_diag_error(diag, sink->place, path, "must not end in .tmp");
	for (size_t i = 0; i < index; i++)
		if (strcmp(config->sinks[i].name, sink->name) == 0)
			tally_diag_error(diag, sink->place, path,
					 "sinks[%zu] is named \"%s\", too: give one of them a name",
					 i, sink->name);
}

static int name_sinks(struct tally_config *config)
{
	for (size_t i = 0; i < config->n_sinks; i++) {
		struct tally_config_sink *sink = &config->sinks[i];

		if (!sink->name)
			sink->name = strdup(kind_of(sink));
		if (!sink->name)
			return -ENOMEM;
	}
	return 0;
}

static int check(struct tally_config *config, const struct tally_yaml *root,
		 struct tally_diag *diag)
{
	const struct tally_yaml *services = NULL;
	int r = name_sinks(config);

	if (r < 0)
		return r;
	if (root && root->kind == TALLY_YAML_MAPPING)
		services = tally_yaml_get(root, "services");
	check_agent(config, root, diag);
	for (size_t i = 0; i < config->n_services; i++)
		check_service(config, i, services->items[i], diag);
	for (size_t i = 0; i < config->n_sinks; i++)
		check_sink(config, i, diag);
	check_ties(config, diag);
	check_kubernetes(config, diag);
	if (config->n_services == 0 && !config->kubernetes.unlisted.place.line)
		tally_diag_warning(diag, config->place, "services", "none: nothing is metered");
	return diag->out_of_memory ? -ENOMEM : 0;
}

/* Reading --------------------------------------------------------------------------------------- */

int tally_config_parse(const char *text, size_t bytes, unsigned int flags, struct tally_diag *diag,
		       struct tally_config **ret_config)
{
	_cleanup_(tally_config_freep) struct tally_config *config = calloc(1, sizeof(*config));
	_cleanup_(tally_yaml_freep) struct tally_yaml *root = NULL;
	size_t before = diag->errors, unread = diag->unread;
	int r;

	if (!config)
		return -ENOMEM;
	r = tally_yaml_parse(text, bytes, diag, &root);
	if (r < 0)
		return r;
	r = tally_option_decode(&tally_config_table, root, flags, config, diag);
	if (r == 0)
		r = check(config, root, diag);
	if (r == 0 && diag->errors > before)
		r = diag->errors - before == diag->unread - unread ? -ENOKEY : -EINVAL;
	if (r < 0 && ((r != -EINVAL && r != -ENOKEY) || !(flags & TALLY_CONFIG_FAULTY_TOO)))
		return r;
	config->path = strdup(diag->file ? diag->file : "");
	if (!config->path)
		return -ENOMEM;
	*ret_config = TAKE_PTR(config);
	return r;
}

int tally_config_load(const char *path, unsigned int flags, struct tally_diag *diag,
		      struct tally_config **ret_config)
{
	_cleanup_free_ char *text = NULL;
	size_t bytes = 0;
	int r = tally_util_read_file(path, FILE_MAX, &text, &bytes);

	if (r < 0) {
		tally_diag_error(diag, (struct tally_place){}, "", "cannot be read: %s",
				 strerror(-r));
		return r;
	}
	return tally_config_parse(text, bytes, flags, diag, ret_config);
}

void tally_config_free(struct tally_config *config)
{
	if (!config)
		return;
	free(config->path);
	tally_option_done(&tally_config_table, config);
	free(config);
}

enum tally_log_level tally_config_log_level(const struct tally_config *config)
{
	return (enum tally_log_level)(TALLY_LOG_ERROR + config->agent.log.level);
}
