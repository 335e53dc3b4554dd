/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <limits.h>

#include "agent_parts.h"

#define RULESETS_KEPT 256

static int ruleset_path(const struct tally_agent *agent, uint32_t generation, char *out)
{
	int n = snprintf(out, PATH_MAX, "%s/rulesets/%" PRIu32 ".json",
			 agent->config->agent.state_dir, generation);

	return n < 0 || n >= PATH_MAX ? -ENAMETOOLONG : 0;
}

/* ---- views of generations ---- */

static int read_json(const struct tally_agent *agent, uint32_t generation, char **ret_json,
		     size_t *ret_bytes)
{
	char path[PATH_MAX];
	int err = ruleset_path(agent, generation, path);

	return err ? err : tally_util_read_file(path, TALLY_RULESET_BYTES, ret_json, ret_bytes);
}

/* The view of a generation that is not in memory. What cannot be read now may be read the next time. */
static int load_view(const struct tally_agent *agent, uint32_t generation,
		     struct tally_ruleset_view **ret_view)
{
	_cleanup_free_ char *json = NULL;
	size_t bytes;
	int err = read_json(agent, generation, &json, &bytes);

	if (!err)
		err = tally_ruleset_load(json, bytes, ret_view);
	if (!err)
		return 0;
	tally_log_error("ruleset_unreadable", "generation=%" PRIu32 " error=%s", generation,
			strerror(-err));
	return err == -EINVAL ? -ENOENT : err; /* damaged: as good as gone */
}

/* Rows name few generations at a time: the newest ones stay in memory. -ENOENT: its file is gone. */
static int find_view(struct tally_agent *agent, uint32_t generation,
		     struct tally_ruleset_view **ret_view)
{
	struct tally_agent_rules *rules = &agent->rules;
	struct tally_agent_view *slot = &rules->views[rules->next_view % TALLY_AGENT_VIEWS];
	struct tally_ruleset_view *view;
	int err;

	for (size_t i = 0; i < TALLY_AGENT_VIEWS; i++) {
		if (rules->views[i].view && rules->views[i].generation == generation) {
			*ret_view = rules->views[i].view;
			return 0;
		}
	}
	err = load_view(agent, generation, &view);
	if (err)
		return err;
	tally_ruleset_free(slot->view);
	slot->view = view;
	slot->generation = generation;
	rules->next_view++;
	*ret_view = view;
	return 0;
}

/* ---- the resolver ---- */

static int owner_of(void *ctx, __u64 key_hash, __u64 time_s, struct tally_owner *ret_owner)
{
	struct tally_agent *agent = ctx;
	uint8_t sha256[TALLY_CATALOG_SHA];
	int err;

	err = tally_keys_find(agent->keys, key_hash, tally_ledger_number(agent->ledger), sha256);
	return err ? err
		   : tally_resolve_owner(&agent->rules.resolve, agent->catalog, agent->fleet_secret,
					 sha256, time_s, ret_owner);
}

static int terms_of(void *ctx, const struct tally_row_key *key, struct tally_terms *ret_terms)
{
	struct tally_agent *agent = ctx;
	struct tally_ruleset_view *view;
	int err = find_view(agent, key->ruleset, &view);

	if (err)
		return err;
	return tally_resolve_terms(&agent->rules.resolve, view, key, ret_terms);
}

static const char *service_of(void *ctx, __u16 service)
{
	struct tally_agent *agent = ctx;

	return service < TALLY_SERVICES ? agent->rules.names[service] : NULL;
}

void tally_agent_rules_resolver(struct tally_agent *agent, struct tally_resolver *ret_resolver)
{
	*ret_resolver =
		(struct tally_resolver){ agent,
					 owner_of,
					 terms_of,
					 service_of,
					 tally_agent_origins_find,
					 tally_resolve_connections(&agent->rules.resolve,
								   &agent->config->records) };
}

/* ---- indices of services ---- */

/* As struct tally_agent_rules has them; a copy, until what needs them is in force. */
struct names {
	char *of[TALLY_SERVICES];
};

static void names_done(struct names *names)
{
	for (size_t i = 0; i < TALLY_SERVICES; i++)
		free(names->of[i]);
}

static int copy_names(const struct tally_agent *agent, struct names *ret_names)
{
	for (size_t i = 0; i < TALLY_SERVICES; i++) {
		if (!agent->rules.names[i])
			continue;
		ret_names->of[i] = strdup(agent->rules.names[i]);
		if (!ret_names->of[i])
			return -ENOMEM;
	}
	return 0;
}

static int find_name(char *const *names, const char *name, uint16_t *ret_index)
{
	for (uint16_t i = 0; i < TALLY_SERVICES; i++) {
		if (names[i] && !strcmp(names[i], name)) {
			*ret_index = i;
			return 0;
		}
	}
	return -ENOENT;
}

int tally_agent_rules_index(const struct tally_agent *agent, const char *name, uint16_t *ret_index)
{
	return find_name(agent->rules.names, name, ret_index);
}

static bool is_wanted(const struct tally_config *config, const char *name)
{
	for (size_t i = 0; i < config->n_services; i++)
		if (!strcmp(config->services[i].name, name))
			return true;
	return false;
}

/* A place nobody had; when all are taken, one whose service is gone. */
static int take_index(char **names, const struct tally_config *config, const char *name,
		      uint16_t *ret_index)
{
	uint16_t place = TALLY_SERVICES;
	char *copy;

	for (uint16_t i = TALLY_SERVICES; i-- > 0;)
		if (names[i] && !is_wanted(config, names[i]))
			place = i;
	for (uint16_t i = TALLY_SERVICES; i-- > 0;)
		if (!names[i])
			place = i;
	if (place == TALLY_SERVICES)
		return -ENOSPC;
	copy = strdup(name);
	if (!copy)
		return -ENOMEM;
	free(names[place]);
	names[place] = copy;
	*ret_index = place;
	return 0;
}

static int assign_indices(char **names, const struct tally_config *config, uint16_t *indices)
{
	for (size_t i = 0; i < config->n_services; i++) {
		const char *name = config->services[i].name;
		int err = find_name(names, name, &indices[i]);

		if (err == -ENOENT)
			err = take_index(names, config, name, &indices[i]);
		if (err)
			return err;
	}
	return 0;
}

static bool is_renamed(const struct tally_agent *agent, const struct names *names, size_t i)
{
	return agent->rules.names[i] && strcmp(agent->rules.names[i], names->of[i]) != 0;
}

/* Sums since start are those of a service, not of its index; those of all never shrink. */
static void forget_sums(struct tally_agent *agent, size_t index)
{
	struct tally_agent_counters *sums = &agent->counters;
	const __u64 *from = (const __u64 *)&sums->totals[index];
	__u64 *into = (__u64 *)&sums->gone;

	for (size_t w = 0; w < sizeof(sums->gone) / sizeof(__u64); w++)
		into[w] += from[w];
	memset(&sums->totals[index], 0, sizeof(sums->totals[index]));
	memset(sums->requests[index], 0, sizeof(sums->requests[index]));
	memset(sums->classes[index], 0, sizeof(sums->classes[index]));
	sums->duration_ns[index] = 0;
	agent->tags.troubles[index].kind = TALLY_AGENT_UNTROUBLED;
	agent->live.seen[index] = 0;
	for (size_t i = 0; i < TALLY_AGENT_SECONDS; i++)
		agent->live.seconds[i][index] = 0;
	for (size_t i = 0; i < TALLY_SERVICES; i++)
		agent->hops.seen_s[i][index] = agent->hops.seen_s[index][i] = 0;
}

/* An agent before us put rules in force, and its file of them is gone. */
static bool is_lost(struct tally_agent *agent)
{
	uint32_t generation = tally_rulesets_newest(agent->rulesets);
	struct tally_ruleset_view *view;

	return !agent->rules.generation && generation &&
	       find_view(agent, generation, &view) == -ENOENT;
}

/* What the open window has was counted under the old names, or unknown ones: if it can be closed now. */
static void close_renamed(struct tally_agent *agent, const struct names *names)
{
	bool renamed = is_lost(agent);

	for (size_t i = 0; i < TALLY_SERVICES; i++)
		renamed = renamed || is_renamed(agent, names, i);
	if (renamed)
		(void)!tally_agent_books_close_now(agent, TALLY_CAUSE_RELOAD); /* said there */
}

static void take_names(struct tally_agent *agent, struct names *names)
{
	for (size_t i = 0; i < TALLY_SERVICES; i++) {
		char *old = agent->rules.names[i];

		if (is_renamed(agent, names, i))
			forget_sums(agent, i);
		agent->rules.names[i] = names->of[i];
		names->of[i] = old;
	}
}

/* ---- putting rules in force ---- */

/* 0: there is none. */
static int newest_file(const struct tally_agent *agent, uint32_t *ret_generation)
{
	_cleanup_closedir_ DIR *dir = NULL;
	char path[PATH_MAX];
	struct dirent *entry;
	uint32_t best = 0;

	(void)snprintf(path, sizeof(path), "%s/rulesets", agent->config->agent.state_dir);
	dir = opendir(path);
	if (!dir)
		return -errno;
	while (errno = 0, (entry = readdir(dir))) {
		uint32_t generation;
		int end = 0;

		if (sscanf(entry->d_name, "%" SCNu32 ".json%n", &generation, &end) == 1 && end &&
		    !entry->d_name[end])
			best = TALLY_MAX(best, generation);
	}
	if (errno) /* half a list may lack the newest */
		return -errno;
	*ret_generation = best;
	return 0;
}

/* Is exactly this in force already, in the kernel, too? */
static bool is_in_force(struct tally_agent *agent, const struct tally_config *config,
			const uint16_t *indices, const char *json)
{
	_cleanup_free_ char *old = NULL;
	uint32_t generation = tally_rulesets_newest(agent->rulesets);
	size_t bytes;

	if (!generation || read_json(agent, generation, &old, &bytes) || strcmp(old, json))
		return false;
	for (size_t i = 0; i < config->n_services; i++)
		if (tally_rulesets_generation(agent->rulesets, indices[i]) != generation)
			return false;
	agent->rules.generation = generation;
	return true;
}

static void unlink_old(const struct tally_agent *agent, uint32_t generation)
{
	char path[PATH_MAX];

	if (generation > RULESETS_KEPT && !ruleset_path(agent, generation - RULESETS_KEPT, path))
		(void)unlink(path); /* it costs only disk */
}

/* G3: first the file. */
static int write_json(struct tally_agent *agent, uint32_t generation, const char *json)
{
	char path[PATH_MAX];
	int err = ruleset_path(agent, generation, path);

	if (!err)
		err = tally_util_write_file(path, json, strlen(json), 0640);
	if (!err)
		unlink_old(agent, generation);
	return err;
}

static int compile_all(struct tally_agent *agent, const struct tally_config *config,
		       const uint16_t *indices, uint32_t generation, struct tally_rules *all)
{
	struct tally_rules_target target = { .generation = generation };
	int err = tally_load_secret(agent->load, target.secret);

	for (size_t i = 0; i < config->n_services && !err; i++) {
		target.service = indices[i];
		err = tally_rules_compile(&config->services[i], &target, &all[i]);
	}
	explicit_bzero(&target, sizeof(target));
	return err;
}

/* Not before the scopes are set: until then connections begin under the old index, under its rules. */
int tally_agent_rules_drop_gone(struct tally_agent *agent)
{
	for (uint32_t i = 0; i < TALLY_SERVICES; i++) {
		const char *name = agent->rules.names[i];
		int err = name && is_wanted(&agent->view, name)
				  ? 0
				  : tally_rulesets_drop(agent->rulesets, i);

		if (err)
			return err;
	}
	return 0;
}

static int put_all(struct tally_agent *agent, const struct tally_config *config,
		   const uint16_t *indices, const char *json)
{
	_cleanup_free_ struct tally_rules *all = calloc(config->n_services + 1, sizeof(*all));
	uint32_t generation;
	int err;

	if (!all)
		return -ENOMEM;
	if (strlen(json) > TALLY_RULESET_BYTES) {
		tally_log_error("rules", "reason=%s bytes=%zu most=%u", "too many routes",
				strlen(json), TALLY_RULESET_BYTES);
		return -EINVAL;
	}
	err = newest_file(agent, &generation);
	if (err)
		return err;
	generation = TALLY_MAX(generation, tally_rulesets_newest(agent->rulesets)) + 1;
	err = compile_all(agent, config, indices, generation, all);
	if (!err)
		err = write_json(agent, generation, json);
	for (size_t i = 0; i < config->n_services && !err; i++)
		err = tally_rulesets_put(agent->rulesets, &all[i]);
	if (err)
		return err;
	agent->rules.generation = generation;
	tally_log_info("rules", "generation=%" PRIu32 " services=%zu", generation,
		       config->n_services);
	return 0;
}

static int apply(struct tally_agent *agent, const struct tally_config *config)
{
	_cleanup_(names_done) struct names names = {};
	_cleanup_free_ char *json = NULL;
	uint16_t indices[TALLY_SERVICES];
	int err;

	if (config->n_services > TALLY_SERVICES)
		return -E2BIG;
	err = copy_names(agent, &names);
	if (!err)
		err = assign_indices(names.of, config, indices);
	if (!err)
		err = tally_rules_dump(config, indices, &json);
	if (err)
		return err;
	if (!is_in_force(agent, config, indices, json)) {
		close_renamed(agent, &names);
		err = put_all(agent, config, indices, json);
	}
	if (!err)
		take_names(agent, &names);
	return err;
}

int tally_agent_rules_apply(struct tally_agent *agent, const struct tally_config *config)
{
	struct tally_config view;
	int err = tally_agent_pods_view(agent, config, &view);

	if (err)
		return err;
	err = apply(agent, &view);
	/* No pod keeps the rules of all others from being in force. */
	if (err && tally_agent_pods_leave_out(agent, config, &view))
		err = apply(agent, &view);
	if (err)
		tally_agent_pods_view_done(config, &view);
	else
		tally_agent_pods_install(agent, config, &view);
	return err;
}

/* ---- key catalog and secret ---- */

int tally_agent_rules_read(struct tally_agent *agent, const struct tally_config *config,
			   struct tally_catalog **ret_catalog)
{
	struct tally_catalog *catalog = NULL;
	struct tally_diag diag;
	int err = 0;

	if (config->keys.file) {
		tally_diag_init(&diag, config->keys.file);
		err = tally_catalog_load(config->keys.file, &diag, &catalog);
		if (err)
			tally_log_error("catalog_refused", "file=%s error=%s", config->keys.file,
					tally_diag_first(&diag));
		tally_diag_done(&diag);
	}
	agent->counters.catalog_ok = !err;
	if (err)
		return err;
	*ret_catalog = catalog;
	return 0;
}

void tally_agent_rules_take(struct tally_agent *agent, struct tally_catalog *catalog)
{
	tally_catalog_free(agent->catalog);
	agent->catalog = catalog;
	tally_log_info("catalog", "keys=%zu", tally_catalog_count(catalog));
}

int tally_agent_rules_catalog(struct tally_agent *agent, const struct tally_config *config)
{
	struct tally_catalog *catalog;
	int err = tally_agent_rules_read(agent, config, &catalog);

	if (!err)
		tally_agent_rules_take(agent, catalog);
	return err;
}

/* Without a fleet secret the agent has one of its own, made with its state. */
static int open_secret(struct tally_agent *agent)
{
	char path[PATH_MAX], raw[32], text[2 * sizeof(raw) + 1];
	const char *fleet = agent->config->agent.fleet_secret;
	size_t bytes;
	int err;

	if (fleet) {
		agent->fleet_secret = strdup(fleet);
		return agent->fleet_secret ? 0 : -ENOMEM;
	}
	(void)snprintf(path, sizeof(path), "%s/fleet-secret", agent->config->agent.state_dir);
	err = tally_util_read_file(path, 4096, &agent->fleet_secret, &bytes);
	if (err != -ENOENT)
		return err;
	err = tally_util_random(raw, sizeof(raw));
	if (err)
		return err;
	tally_util_hex(raw, sizeof(raw), text);
	agent->fleet_secret = strdup(text);
	if (!agent->fleet_secret)
		return -ENOMEM;
	return tally_util_write_file(path, text, strlen(text), 0600);
}

/* Names as the newest generation had them, so that indices stay what they were. */
static int read_names(struct tally_agent *agent)
{
	struct tally_ruleset_view *view;
	uint32_t generation = 0;
	int err = newest_file(agent, &generation);

	if (err || !generation)
		return err;
	err = find_view(agent, generation, &view);
	if (err) /* gone: rows of that generation will be nameless; new ones are not */
		return err == -ENOENT ? 0 : err;
	for (uint16_t i = 0; i < TALLY_SERVICES; i++) {
		const char *name = tally_ruleset_service(view, i);

		if (!name)
			continue;
		agent->rules.names[i] = strdup(name);
		if (!agent->rules.names[i])
			return -ENOMEM;
	}
	return 0;
}

int tally_agent_rules_open(struct tally_agent *agent)
{
	char path[PATH_MAX];
	int err;

	(void)snprintf(path, sizeof(path), "%s/rulesets", agent->config->agent.state_dir);
	err = tally_util_mkdirs(path, 0750);
	if (!err)
		err = open_secret(agent);
	if (!err)
		err = read_names(agent);
	return err;
}

void tally_agent_rules_close(struct tally_agent *agent)
{
	for (size_t i = 0; i < TALLY_AGENT_VIEWS; i++)
		tally_ruleset_free(agent->rules.views[i].view);
	for (size_t i = 0; i < TALLY_SERVICES; i++)
		free(agent->rules.names[i]);
	tally_catalog_free(agent->catalog);
	tally_util_wipe_free(agent->fleet_secret);
	memset(&agent->rules, 0, sizeof(agent->rules));
	agent->catalog = NULL;
	agent->fleet_secret = NULL;
}
