/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pods of this node: known from the API server's watch, kept in state_dir/pods.json so that a start
 * without an API server meters what was metered before; given to services of the config, or to
 * services of their own; found in the cgroup tree by their UIDs.
 *
 * An event only changes the table. A moment later, once for many events: save it, put rules in force
 * where services came or went, and look for cgroups (G4: rules before scopes, scopes before hooks).
 */
#include <limits.h>
#include <time.h>

#include "agent_parts.h"
#include "base/seeded.h"

#define FILE_MAX (64U << 20)
#define SETTLE_NS (TALLY_NS_PER_S / 50)
#define OWN_MAX 128 /* NAMESPACE/NAME */

struct tally_agent_pod {
	struct tally_kubernetes_pod *pod;
	enum tally_kubernetes_verdict verdict;
	uint64_t gone_ns;   /* when the API said so, monotonic; 0: it is there */
	uint64_t missed_ns; /* since when it is not metered; 0: it is */
	bool seen;	    /* in the list that is being read */
	bool unfit;	    /* no rules can be made of its service */
	struct tally_agent_claim claims[TALLY_AGENT_CLAIMS];
	size_t n_claims;
	struct tally_option_ports own_ports; /* of the annotation */
	json_t *cgroups;		     /* paths, of the last look */
	UT_hash_handle by_uid, by_folder;
};

static bool is_on(const struct tally_config *config)
{
	return config->kubernetes.place.line != 0;
}

/* ---- the table ---- */

static struct tally_agent_pod *find(const struct tally_agent_pods *pods, const char *uid)
{
	struct tally_agent_pod *entry;

	HASH_FIND(by_uid, pods->by_uid, uid, strlen(uid), entry);
	return entry;
}

static void free_entry(struct tally_agent_pod *entry)
{
	tally_kubernetes_pod_free(entry->pod);
	json_decref(entry->cgroups);
	free(entry->own_ports.list);
	free(entry);
}

static void remove_entry(struct tally_agent_pods *pods, struct tally_agent_pod *entry)
{
	HASH_DELETE(by_uid, pods->by_uid, entry);
	HASH_DELETE(by_folder, pods->by_folder, entry);
	pods->n--;
	free_entry(entry);
}

static void remove_all(struct tally_agent_pods *pods)
{
	struct tally_agent_pod *entry, *next;

	HASH_ITER(by_uid, pods->by_uid, entry, next)
		remove_entry(pods, entry);
}

/* Takes the pod, also when there is no memory. Ports that cannot be read stay unset. */
static struct tally_agent_pod *new_entry(struct tally_kubernetes_pod *pod)
{
	struct tally_agent_pod *entry = calloc(1, sizeof(*entry));

	if (!entry) {
		tally_kubernetes_pod_free(pod);
		return NULL;
	}
	entry->pod = pod;
	entry->cgroups = json_array();
	entry->seen = true;
	entry->verdict = TALLY_KUBERNETES_WAITING;
	entry->missed_ns = tally_util_mono_ns();
	if (pod->ports && tally_kubernetes_pod_ports(pod->ports, &entry->own_ports) == -ENOMEM) {
		free_entry(entry);
		return NULL;
	}
	return entry;
}

static int add_entry(struct tally_agent_pods *pods, struct tally_kubernetes_pod *pod)
{
	struct tally_agent_pod *entry;

	if (pods->n == TALLY_AGENT_PODS) {
		pods->refused++;
		tally_kubernetes_pod_free(pod);
		return -E2BIG;
	}
	entry = new_entry(pod);
	if (!entry)
		return -ENOMEM;
	HASH_ADD_KEYPTR(by_uid, pods->by_uid, pod->uid, strlen(pod->uid), entry);
	if (entry->by_uid.tbl)
		HASH_ADD_KEYPTR(by_folder, pods->by_folder, pod->folder, strlen(pod->folder),
				entry);
	if (!entry->by_uid.tbl || !entry->by_folder.tbl) {
		if (entry->by_uid.tbl)
			HASH_DELETE(by_uid, pods->by_uid, entry);
		free_entry(entry);
		return -ENOMEM;
	}
	pods->n++;
	return 0;
}

/* A pod that came, or that changed: then it takes the place of the old one. *ret_new: not known so. */
static int put_pod(struct tally_agent_pods *pods, const json_t *object, bool *ret_new)
{
	struct tally_kubernetes_pod *pod = NULL;
	struct tally_agent_pod *old;
	int err = tally_kubernetes_pod_parse(object, &pod);

	if (err)
		return err;
	old = find(pods, pod->uid);
	if (old && tally_kubernetes_pod_equal(old->pod, pod)) {
		*ret_new = old->gone_ns != 0;
		old->gone_ns = 0;
		old->seen = true;
		tally_kubernetes_pod_free(pod);
		return 0;
	}
	if (old)
		remove_entry(pods, old);
	*ret_new = true;
	return add_entry(pods, pod);
}

/* ---- the file ---- */

static int file_path(const struct tally_agent *agent, char out[PATH_MAX])
{
	int n = snprintf(out, PATH_MAX, "%s/pods.json", agent->config->agent.state_dir);

	return n < 0 || n >= PATH_MAX ? -ENAMETOOLONG : 0;
}

static int save(struct tally_agent *agent)
{
	json_t *list = json_array(), *root = json_pack("{s:o}", "pods", list);
	struct tally_agent_pod *entry, *next;
	_cleanup_free_ char *text = NULL;
	char path[PATH_MAX];
	int err = file_path(agent, path);

	HASH_ITER(by_uid, agent->pods.by_uid, entry, next)
		if (!entry->gone_ns)
			json_array_append(list, entry->pod->object);
	text = root ? json_dumps(root, JSON_COMPACT) : NULL;
	json_decref(root);
	if (!text)
		return -ENOMEM;
	return err ? err : tally_util_write_file(path, text, strlen(text), 0640);
}

static void find_node(struct tally_agent *agent)
{
	const char *name = agent->config->kubernetes.node;
	char *out = agent->pods.node;

	if (!name)
		name = getenv("NODE_NAME");
	if (name && *name)
		(void)snprintf(out, sizeof(agent->pods.node), "%s", name);
	else if (gethostname(out, sizeof(agent->pods.node) - 1))
		out[0] = 0;
}

int tally_agent_pods_load(struct tally_agent *agent)
{
	_cleanup_free_ char *text = NULL;
	json_t *root, *list, *object;
	char path[PATH_MAX];
	size_t bytes, i;
	bool is_new;
	int err = file_path(agent, path);

	if (!err)
		err = seed_hash();
	if (err || !is_on(agent->config))
		return err;
	find_node(agent);
	err = tally_util_read_file(path, FILE_MAX, &text, &bytes);
	if (err == -ENOENT)
		return 0;
	root = err ? NULL : json_loadb(text, bytes, 0, NULL);
	list = json_object_get(root, "pods");
	if (!json_is_array(list))
		tally_log_warning("pods", "file=%s error=%s", path,
				  "cannot be read: pods are known when the API server answers");
	json_array_foreach(list, i, object)
		(void)!put_pod(&agent->pods, object, &is_new); /* what is wrong is left out */
	json_decref(root);
	tally_log_info("pods", "known=%zu file=%s", agent->pods.n, path);
	return 0;
}

/* ---- events ---- */

static void settle_at(struct tally_agent *agent, uint64_t at_ns)
{
	struct tally_agent_pods *pods = &agent->pods;

	if (pods->timer_ns && pods->timer_ns <= at_ns)
		return;
	pods->timer_ns = at_ns;
	(void)!tally_loop_set_timer(pods->timer, at_ns, 0); /* else the slow tick does it */
}

static void changed(struct tally_agent *agent)
{
	agent->pods.changed = true;
	settle_at(agent, tally_util_mono_ns() + SETTLE_NS);
}

static void on_begin(void *ctx)
{
	struct tally_agent *agent = ctx;
	struct tally_agent_pod *entry, *next;

	HASH_ITER(by_uid, agent->pods.by_uid, entry, next)
		entry->seen = false;
}

static void on_seen(void *ctx, const json_t *object)
{
	struct tally_agent *agent = ctx;
	bool is_new = false;
	int err = put_pod(&agent->pods, object, &is_new);

	if (err)
		tally_log_warning("pods", "reason=%s error=%s", "a pod is left out",
				  strerror(-err));
	if (!err && is_new)
		changed(agent);
}

static void now_gone(struct tally_agent *agent, struct tally_agent_pod *entry)
{
	if (entry->gone_ns)
		return;
	entry->gone_ns = tally_util_mono_ns();
	changed(agent);
}

static void on_gone(void *ctx, const json_t *object)
{
	struct tally_agent *agent = ctx;
	const char *uid =
		json_string_value(json_object_get(json_object_get(object, "metadata"), "uid"));
	struct tally_agent_pod *entry = uid ? find(&agent->pods, uid) : NULL;

	if (entry)
		now_gone(agent, entry);
}

static void on_listed(void *ctx)
{
	struct tally_agent *agent = ctx;
	struct tally_agent_pod *entry, *next;

	HASH_ITER(by_uid, agent->pods.by_uid, entry, next)
		if (!entry->seen)
			now_gone(agent, entry);
	tally_log_info("pods", "listed=%zu", agent->pods.n);
}

/* ---- services of pods ---- */

static void own_done(const struct tally_config *view, struct tally_config_service *service)
{
	free(service->name);
	if (service->key != view->kubernetes.unlisted.key)
		tally_kubernetes_pod_keys_free(service->key, service->n_key);
}

static void view_done(struct tally_config *view, size_t own)
{
	for (size_t i = own; i < view->n_services; i++)
		own_done(view, &view->services[i]);
	free(view->services);
	view->services = NULL;
	view->n_services = 0;
}

/* The service of the config that claims the pod most firmly; those that claim it as much share it. */
static int claim_of_config(const struct tally_config *config,
			   const struct tally_kubernetes_pod *pod)
{
	int best = 0;

	for (size_t i = 0; i < config->n_services; i++)
		best = TALLY_MAX(best, tally_kubernetes_pod_claim(pod, &config->services[i]));
	return best;
}

static bool own_name(const struct tally_kubernetes_pod *pod, char out[OWN_MAX])
{
	const char *name = tally_kubernetes_pod_service(pod);
	int n = name ? snprintf(out, OWN_MAX, "%s/%s", pod->namespace, name) : -1;

	return n > 0 && n < OWN_MAX;
}

static struct tally_config_service *find_own(const struct tally_config *view, size_t own,
					     const char *name)
{
	for (size_t i = own; i < view->n_services; i++)
		if (!strcmp(view->services[i].name, name))
			return &view->services[i];
	return NULL;
}

/* What a pod asks for that no service of the config claims. */
struct wish {
	enum tally_kubernetes_verdict verdict; /* WAITING: nothing is wrong with it */
	char service[OWN_MAX];
	struct tally_config_key *keys; /* of the annotation */
	size_t n_keys;
};

static void wish_done(struct wish *wish)
{
	tally_kubernetes_pod_keys_free(wish->keys, wish->n_keys);
}

/* -ENOMEM. */
static int read_wish(const struct tally_config_unlisted *unlisted,
		     const struct tally_agent_pod *entry, struct wish *ret_wish)
{
	const struct tally_kubernetes_pod *pod = entry->pod;
	struct wish wish = { .verdict = TALLY_KUBERNETES_WAITING };
	int err = 0;

	if (!pod->service && !pod->app)
		wish.verdict = TALLY_KUBERNETES_NO_SERVICE;
	else if (!own_name(pod, wish.service))
		wish.verdict = TALLY_KUBERNETES_BAD_SERVICE;
	else if (!unlisted->place.line)
		wish.verdict = TALLY_KUBERNETES_NOT_LISTED;
	else if (pod->ports && !entry->own_ports.set)
		wish.verdict = TALLY_KUBERNETES_BAD_PORTS;
	else if (pod->key && (err = tally_kubernetes_pod_keys(pod->key, &wish.keys, &wish.n_keys)))
		wish.verdict = TALLY_KUBERNETES_BAD_KEY;
	else if (!entry->own_ports.set && !unlisted->ports.set)
		wish.verdict = TALLY_KUBERNETES_NO_PORTS;
	if (err == -ENOMEM)
		return err;
	*ret_wish = wish;
	return 0;
}

/* One header with another scheme is there, too: rules have one or the other. */
static bool has_key(const struct tally_config_service *service, const struct tally_config_key *key)
{
	for (size_t i = 0; i < service->n_key; i++)
		if (tally_rules_same_place(&service->key[i], key))
			return true;
	return false;
}

static bool has_keys(const struct tally_config_service *service, const struct wish *wish)
{
	for (size_t i = 0; i < wish->n_keys; i++)
		if (!has_key(service, &wish->keys[i]))
			return false;
	return true;
}

/* Can rules be made of the keys of both? */
static bool keys_fit(const struct tally_config_service *service, const struct wish *wish)
{
	struct tally_config_key keys[2 * TALLY_KUBERNETES_KEYS];
	struct tally_config_service both = { .key = keys, .n_key = service->n_key };

	memcpy(keys, service->key, service->n_key * sizeof(*keys));
	for (size_t i = 0; i < wish->n_keys; i++)
		if (!has_key(service, &wish->keys[i]))
			keys[both.n_key++] = wish->keys[i];
	return both.n_key <= TALLY_KUBERNETES_KEYS && tally_rules_keys_fit(&both);
}

/*
 * While a deployment rolls from one annotation to another, both places count. Keys that do not fit
 * those before them are left out, all of the pod: judge_own() misses them.
 */
static void add_keys(struct tally_config_service *service, struct wish *wish)
{
	if (!service->key) {
		service->key = TAKE_PTR(wish->keys);
		service->n_key = wish->n_keys;
		wish->n_keys = 0;
		return;
	}
	if (!keys_fit(service, wish))
		return;
	for (size_t i = 0; i < wish->n_keys; i++) {
		if (has_key(service, &wish->keys[i]))
			continue;
		service->key[service->n_key++] = wish->keys[i];
		memset(&wish->keys[i], 0, sizeof(wish->keys[i]));
	}
}

static int new_own(const struct tally_config_kubernetes *kubernetes, const char *name,
		   struct tally_config *view, struct tally_config_service **ret_service)
{
	struct tally_config_service *service = &view->services[view->n_services];

	*service = (struct tally_config_service){
		.place = kubernetes->unlisted.place,
		.name = strdup(name),
		.match.place = kubernetes->unlisted.place,
		.match.pods.place = kubernetes->unlisted.place,
		.routes = kubernetes->unlisted.routes,
		.n_routes = kubernetes->unlisted.n_routes,
		.paths = kubernetes->unlisted.paths,
		.tainted = kubernetes->unlisted.tainted,
		.anonymous = kubernetes->unlisted.anonymous,
	};
	if (!service->name)
		return -ENOMEM;
	view->n_services++;
	*ret_service = service;
	return 0;
}

/* Is the pod metered by a service of its own? Then that service is in the view. */
static int add_own(const struct tally_config *config, const struct tally_agent_pod *entry,
		   struct tally_config *view)
{
	_cleanup_(wish_done) struct wish wish = {};
	struct tally_config_service *service;
	int err;

	if (claim_of_config(config, entry->pod))
		return 0;
	err = read_wish(&config->kubernetes.unlisted, entry, &wish);
	if (err || wish.verdict != TALLY_KUBERNETES_WAITING)
		return err; /* judge() says why */
	service = find_own(view, config->n_services, wish.service);
	if (!service && view->n_services == TALLY_SERVICES)
		return 0;
	if (!service)
		err = new_own(&config->kubernetes, wish.service, view, &service);
	if (!err && wish.n_keys)
		add_keys(service, &wish);
	return err;
}

static int compare_pods(struct tally_agent_pod *a, struct tally_agent_pod *b)
{
	int order = strcmp(a->pod->namespace, b->pod->namespace);

	if (!order)
		order = strcmp(a->pod->name, b->pod->name);
	return order ? order : strcmp(a->pod->uid, b->pod->uid);
}

/* Who has a place keeps it: services in force, then those of before a restart, then new ones. */
enum rank { IN_FORCE, KNOWN, NEW, RANKS };

static enum rank rank_of(const struct tally_agent *agent, const struct tally_agent_pod *entry)
{
	char name[OWN_MAX];
	uint16_t index;

	if (!own_name(entry->pod, name))
		return NEW;
	if (find_own(&agent->view, agent->view_own, name))
		return IN_FORCE;
	return tally_agent_rules_index(agent, name, &index) ? NEW : KNOWN;
}

static int add_all(struct tally_agent *agent, const struct tally_config *config, enum rank rank,
		   struct tally_config *view)
{
	struct tally_agent_pod *entry, *next;
	int err = 0;

	HASH_ITER(by_uid, agent->pods.by_uid, entry, next)
		if (!err && rank_of(agent, entry) == rank)
			err = add_own(config, entry, view);
	return err;
}

/* The same pods in whatever order make the same view, hence the same ruleset. */
int tally_agent_pods_view(struct tally_agent *agent, const struct tally_config *config,
			  struct tally_config *ret_view)
{
	struct tally_config view = *config;
	struct tally_agent_pod *entry, *next;
	int err = 0;

	HASH_ITER(by_uid, agent->pods.by_uid, entry, next)
		entry->unfit = false;

	view.services = calloc(TALLY_SERVICES, sizeof(*view.services));
	if (!view.services)
		return -ENOMEM;
	if (config->n_services)
		memcpy(view.services, config->services,
		       config->n_services * sizeof(*view.services));
	HASH_SRT(by_uid, agent->pods.by_uid, compare_pods);
	for (int rank = 0; rank < RANKS && !err && is_on(config); rank++)
		err = add_all(agent, config, (enum rank)rank, &view);
	for (size_t i = config->n_services; i < view.n_services; i++) {
		if (view.services[i].key)
			continue;
		view.services[i].key = config->kubernetes.unlisted.key;
		view.services[i].n_key = config->kubernetes.unlisted.n_key;
	}
	if (err) {
		view_done(&view, config->n_services);
		return err;
	}
	*ret_view = view;
	return 0;
}

static void leave_out(struct tally_agent *agent, struct tally_config *view, size_t index)
{
	struct tally_config_service *service = &view->services[index];
	struct tally_agent_pod *entry, *next;
	char name[OWN_MAX];

	tally_log_error("pods", "service=%s reason=%s", service->name,
			"left out: no rules can be made of it");
	HASH_ITER(by_uid, agent->pods.by_uid, entry, next)
		entry->unfit |= own_name(entry->pod, name) && !strcmp(name, service->name);
	own_done(view, service);
	view->n_services--;
	memmove(service, service + 1, (view->n_services - index) * sizeof(*service));
}

size_t tally_agent_pods_leave_out(struct tally_agent *agent, const struct tally_config *config,
				  struct tally_config *view)
{
	static const struct tally_rules_target target = { .generation = 1 };
	_cleanup_free_ struct tally_rules *rules = malloc(sizeof(*rules));
	size_t n = 0;

	for (size_t i = view->n_services; rules && i-- > config->n_services;) {
		int err = tally_rules_compile(&view->services[i], &target, rules);

		if (!err || err == -ENOMEM)
			continue;
		leave_out(agent, view, i);
		n++;
	}
	return n;
}

/* Claims name services of the old one. */
void tally_agent_pods_install(struct tally_agent *agent, const struct tally_config *config,
			      struct tally_config *view)
{
	struct tally_agent_pod *entry, *next;

	HASH_ITER(by_uid, agent->pods.by_uid, entry, next)
		entry->n_claims = 0;
	view_done(&agent->view, agent->view_own);
	agent->view = *view;
	agent->view_own = config->n_services;
	memset(view, 0, sizeof(*view));
}

void tally_agent_pods_view_done(const struct tally_config *config, struct tally_config *view)
{
	view_done(view, config->n_services);
}

/* ---- judging ---- */

static void claim(struct tally_agent_pod *entry, const struct tally_config_service *service,
		  const struct tally_option_ports *ports)
{
	if (!ports->set) {
		entry->verdict =
			entry->pod->ports ? TALLY_KUBERNETES_BAD_PORTS : TALLY_KUBERNETES_NO_PORTS;
		return;
	}
	if (entry->n_claims < TALLY_AGENT_CLAIMS)
		entry->claims[entry->n_claims++] =
			(struct tally_agent_claim){ service->name, 0, ports };
}

/* P2: what the config says wins over the annotation. */
static const struct tally_option_ports *ports_of(const struct tally_agent_pod *entry,
						 const struct tally_option_ports *ports)
{
	return ports->set ? ports : &entry->own_ports;
}

static void judge_own(const struct tally_config *view, size_t own, struct tally_agent_pod *entry)
{
	const struct tally_config_unlisted *unlisted = &view->kubernetes.unlisted;
	const struct tally_option_ports *ports =
		entry->own_ports.set ? &entry->own_ports : &unlisted->ports;
	_cleanup_(wish_done) struct wish wish = {};
	const struct tally_config_service *service;

	if (read_wish(unlisted, entry, &wish))
		return; /* no memory: by the next look */
	service = find_own(view, own, wish.service);
	if (wish.verdict != TALLY_KUBERNETES_WAITING)
		entry->verdict = wish.verdict;
	else if (entry->unfit || (service && !has_keys(service, &wish)))
		entry->verdict = TALLY_KUBERNETES_BAD_KEY;
	else if (service)
		claim(entry, service, ports);
	else if (view->n_services == TALLY_SERVICES)
		entry->verdict = TALLY_KUBERNETES_SERVICES_FULL;
}

static void judge(const struct tally_config *view, size_t own, struct tally_agent_pod *entry)
{
	int best = 0;

	entry->verdict = TALLY_KUBERNETES_WAITING;
	entry->n_claims = 0;
	json_array_clear(entry->cgroups);
	for (size_t i = 0; i < own; i++)
		best = TALLY_MAX(best, tally_kubernetes_pod_claim(entry->pod, &view->services[i]));
	for (size_t i = 0; i < own && best; i++) {
		const struct tally_config_service *service = &view->services[i];

		if (tally_kubernetes_pod_claim(entry->pod, service) == best)
			claim(entry, service, ports_of(entry, &service->match.ports));
	}
	if (!best)
		judge_own(view, own, entry);
}

static void set_origin(struct tally_agent *agent, struct tally_agent_pod *entry)
{
	uint32_t origin = tally_agent_origins_of(agent, entry->pod);

	for (size_t i = 0; i < entry->n_claims; i++)
		entry->claims[i].origin = origin;
}

/* ---- cgroups ---- */

struct look {
	struct tally_agent *agent;
	tally_agent_pods_fn fn;
	void *ctx;
	size_t skip; /* of a path: the kubelet's root */
};

/* One claim that is left out says what becomes of the pod; the others are metered nevertheless. */
static int on_pod(const struct look *look, struct tally_agent_pod *entry, const char *path)
{
	bool metered = false;

	entry->verdict = TALLY_KUBERNETES_METERED;
	for (size_t i = 0; i < entry->n_claims; i++) {
		int err = look->fn(look->ctx, path, &entry->claims[i]);

		if (err == -E2BIG)
			entry->verdict = TALLY_KUBERNETES_SCOPES_FULL;
		else if (err == -EADDRINUSE)
			entry->verdict = TALLY_KUBERNETES_TAKEN;
		else if (err)
			return err;
		else
			metered = true;
	}
	if (metered)
		json_array_append_new(entry->cgroups,
				      json_sprintf("%s%s", look->agent->tags.mount, path));
	return 0;
}

static int on_folder(void *ctx, const char *path)
{
	const struct look *look = ctx;
	struct tally_agent_pod *entry = NULL;
	char uid[TALLY_KUBERNETES_UID];

	switch (tally_kubernetes_cgroup_of(path + look->skip, uid)) {
	case TALLY_KUBERNETES_ABOVE:
		return 1;
	case TALLY_KUBERNETES_OTHER:
		return 0;
	case TALLY_KUBERNETES_POD:
		break;
	}
	HASH_FIND(by_folder, look->agent->pods.by_folder, uid, strlen(uid), entry);
	return entry && entry->n_claims ? on_pod(look, entry, path) : 0;
}

static void count_verdicts(struct tally_agent_pods *pods)
{
	struct tally_agent_pod *entry, *next;

	memset(pods->verdicts, 0, sizeof(pods->verdicts));
	HASH_ITER(by_uid, pods->by_uid, entry, next) {
		pods->verdicts[entry->verdict]++;
		if (entry->verdict == TALLY_KUBERNETES_METERED)
			entry->missed_ns = 0;
		else if (!entry->missed_ns)
			entry->missed_ns = tally_util_mono_ns();
	}
}

int tally_agent_pods_look(struct tally_agent *agent, tally_agent_pods_fn fn, void *ctx)
{
	const struct tally_config *view = &agent->view;
	const char *root = view->kubernetes.cgroup_root;
	struct look look = { agent, fn, ctx, 0 };
	struct tally_agent_pod *entry, *next;
	int err;

	if (!is_on(view))
		return 0;
	tally_agent_origins_unmark(agent);
	HASH_ITER(by_uid, agent->pods.by_uid, entry, next) {
		judge(view, agent->view_own, entry);
		set_origin(agent, entry);
	}
	tally_agent_origins_save(agent);
	if (!strcmp(root, "/"))
		root = "";
	look.skip = strlen(root);
	err = tally_cgroup_walk(agent->tags.mount, root, &agent->tags.watch, on_folder, &look);
	count_verdicts(&agent->pods);
	return err;
}

/* ---- settling ---- */

/* Who is gone for long enough, or has no cgroup any more. */
static void expire(struct tally_agent *agent, uint64_t now_ns)
{
	uint64_t linger_ns = agent->config->kubernetes.linger_ns;
	struct tally_agent_pod *entry, *next;

	HASH_ITER(by_uid, agent->pods.by_uid, entry, next) {
		if (!entry->gone_ns)
			continue;
		if (now_ns - entry->gone_ns >= linger_ns || !json_array_size(entry->cgroups)) {
			remove_entry(&agent->pods, entry);
			agent->pods.changed = true;
		} else {
			settle_at(agent, entry->gone_ns + linger_ns);
		}
	}
}

void tally_agent_pods_settle(struct tally_agent *agent)
{
	struct tally_agent_pods *pods = &agent->pods;
	int err;

	expire(agent, tally_util_mono_ns());
	if (!pods->changed)
		return;
	pods->changed = false;
	err = save(agent);
	if (err)
		tally_log_warning("pods", "reason=%s error=%s", "not saved", strerror(-err));
	err = tally_agent_rules_apply(agent, agent->config);
	if (err)
		tally_log_error("pods", "reason=%s error=%s", "rules not in force", strerror(-err));
	if (!err)
		err = tally_agent_tags_apply(agent); /* said there */
	pods->changed = err != 0;		     /* the slow tick tries again */
}

static int on_timer(void *ctx, uint32_t events, uint64_t value)
{
	struct tally_agent *agent = ctx;

	agent->pods.timer_ns = 0;
	tally_agent_pods_settle(agent);
	return 0;
}

/* ---- open, reload, close ---- */

static int default_api(char *out, size_t size)
{
	const char *host = getenv("KUBERNETES_SERVICE_HOST");
	const char *port = getenv("KUBERNETES_SERVICE_PORT");
	bool six = host && strchr(host, ':');

	if (!host || !port)
		return -ENOENT;
	return snprintf(out, size, "https://%s%s%s:%s", six ? "[" : "", host, six ? "]" : "",
			port) < (int)size
		       ? 0
		       : -ENAMETOOLONG;
}

static int open_watch(struct tally_agent *agent)
{
	const struct tally_config_kubernetes *kubernetes = &agent->config->kubernetes;
	const struct tally_kubernetes_events events = { agent, on_begin, on_seen, on_gone,
							on_listed };
	struct tally_kubernetes_watch_options options = {
		.api = kubernetes->api,
		.token_file = kubernetes->token_file,
		.ca_file = kubernetes->ca_file,
		.node = agent->pods.node,
		.selector = kubernetes->selector,
	};
	char api[512];

	find_node(agent);
	if (!options.api && default_api(api, sizeof(api)))
		return -EDESTADDRREQ;
	if (!options.api)
		options.api = api;
	tally_log_info("kubernetes", "api=%s node=%s selector=%s", options.api, options.node,
		       options.selector);
	return tally_kubernetes_watch_open(agent->loop, &options, &events, &agent->pods.watch);
}

int tally_agent_pods_open(struct tally_agent *agent)
{
	int err;

	if (!is_on(agent->config))
		return 0;
	if (!agent->pods.timer)
		err = tally_loop_add_timer(agent->loop, CLOCK_MONOTONIC, on_timer, agent,
					   &agent->pods.timer);
	else
		err = 0;
	if (!err)
		err = open_watch(agent);
	if (err == -EDESTADDRREQ)
		tally_log_error("kubernetes", "reason=%s",
				"no kubernetes.api, and no KUBERNETES_SERVICE_HOST: not in a pod");
	return err;
}

static bool same(const char *a, const char *b)
{
	return a == b || (a && b && !strcmp(a, b));
}

bool tally_agent_pods_equal(const struct tally_config *a, const struct tally_config *b)
{
	const struct tally_config_kubernetes *x = &a->kubernetes, *y = &b->kubernetes;

	return is_on(a) == is_on(b) && same(x->api, y->api) && same(x->node, y->node) &&
	       same(x->token_file, y->token_file) && same(x->ca_file, y->ca_file) &&
	       same(x->selector, y->selector);
}

/* The table stays until the new watch has listed: what is attached stays attached. */
void tally_agent_pods_reopen(struct tally_agent *agent)
{
	tally_kubernetes_watch_close(agent->pods.watch);
	agent->pods.watch = NULL;
	if (!is_on(agent->config))
		remove_all(&agent->pods);
	if (tally_agent_pods_open(agent))
		tally_log_error("kubernetes", "reason=%s", "pods are not watched");
}

void tally_agent_pods_close(struct tally_agent *agent)
{
	tally_kubernetes_watch_close(agent->pods.watch);
	tally_loop_remove(agent->pods.timer);
	remove_all(&agent->pods);
	view_done(&agent->view, agent->view_own);
	memset(&agent->pods, 0, sizeof(agent->pods));
}

/* ---- what is told ---- */

static json_t *pod_row(const struct tally_agent_pod *entry)
{
	uint64_t missed_ns = entry->missed_ns ? tally_util_mono_ns() - entry->missed_ns : 0;
	json_t *services = json_array();

	for (size_t i = 0; i < entry->n_claims; i++)
		json_array_append_new(services, json_string(entry->claims[i].service));
	return json_pack("{s:s,s:s,s:s,s:s?,s:o,s:s,s:s?,s:I,s:b,s:b,s:O}", "namespace",
			 entry->pod->namespace, "name", entry->pod->name, "uid", entry->pod->uid,
			 "workload", entry->pod->workload, "services", services, "state",
			 tally_kubernetes_pod_verdict(entry->verdict), "why_not",
			 tally_kubernetes_pod_why_not(entry->verdict), "not_metered_s",
			 (json_int_t)(missed_ns / TALLY_NS_PER_S), "gone", entry->gone_ns != 0,
			 "tls_not_metered", entry->pod->tls && strcmp(entry->pod->tls, "off") != 0,
			 "cgroups", entry->cgroups);
}

json_t *tally_agent_pods_json(const struct tally_agent *agent)
{
	struct tally_agent_pod *entry, *next;
	json_t *out = json_array();

	HASH_ITER(by_uid, agent->pods.by_uid, entry, next)
		json_array_append_new(out, pod_row(entry));
	return out;
}

json_t *tally_agent_pods_status(const struct tally_agent *agent)
{
	const struct tally_agent_pods *pods = &agent->pods;
	struct tally_kubernetes_status status = {};

	if (!is_on(agent->config))
		return json_null();
	if (pods->watch)
		tally_kubernetes_watch_status(pods->watch, &status);
	return json_pack("{s:I,s:I,s:b,s:I}", "pods", (json_int_t)pods->n, "metered",
			 (json_int_t)pods->verdicts[TALLY_KUBERNETES_METERED], "watching",
			 status.watching, "last_answer", (json_int_t)status.synced_s);
}

json_t *tally_agent_pods_cgroups(const struct tally_agent *agent, const char *service)
{
	struct tally_agent_pod *entry, *next;
	json_t *out = json_array();

	HASH_ITER(by_uid, agent->pods.by_uid, entry, next)
		for (size_t i = 0; i < entry->n_claims; i++)
			if (!strcmp(entry->claims[i].service, service))
				json_array_extend(out, entry->cgroups);
	return out;
}
