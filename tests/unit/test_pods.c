/* SPDX-License-Identifier: Apache-2.0 */
/* Pods of a node: the services of their own they make, and what becomes of the others' beside them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "agent_parts.h"

#define UNLISTED "kubernetes: {api: 'https://x', unlisted: {key: [{header: K}]}}\n"
#define HEADERS7 "header:a,header:b,header:c,header:d,header:e,header:f,header:g"

/* An agent that has just read pods.json; its "cgroup tree" is a folder. */
struct fixture {
	char dir[32];
	const char *namespace; /* of the next pod */
	struct tally_config *config;
	struct tally_config view;
	json_t *pods;
	struct tally_agent agent;
};

static void setup(struct fixture *f, const char *yaml)
{
	_cleanup_free_ char *text = NULL;
	struct tally_diag diag;

	memset(f, 0, sizeof(*f));
	f->namespace = "ns";
	strcpy(f->dir, "/tmp/test_pods.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	assert_true(asprintf(&text, "agent: {state_dir: %s}\nsinks: [{stdout: }]\n%s", f->dir,
			     yaml) > 0);
	tally_diag_init(&diag, "F");
	assert_int_equal(tally_config_parse(text, strlen(text), 0, &diag, &f->config), 0);
	tally_diag_done(&diag);
	f->agent.config = f->config;
	f->agent.tags.watch.fd = -1;
	(void)snprintf(f->agent.tags.mount, sizeof(f->agent.tags.mount), "%s", f->dir);
	f->pods = json_array();
}

static void teardown(struct fixture *f)
{
	_cleanup_free_ char *command = NULL;

	tally_agent_pods_view_done(f->config, &f->view);
	tally_agent_pods_close(&f->agent);
	json_decref(f->pods);
	tally_config_free(f->config);
	assert_true(asprintf(&command, "rm -r %s", f->dir) > 0);
	assert_int_equal(system(command), 0);
}

/* Numbered from 0; ports or key NULL: no such annotation. */
static void add_pod(struct fixture *f, const char *service, const char *ports, const char *key)
{
	size_t n = json_array_size(f->pods);
	_cleanup_free_ char *folder = NULL;
	char uid[40], name[16];

	(void)snprintf(uid, sizeof(uid), "9f2c71d4-a0b1-4c5d-8e6f-%012zx", n);
	(void)snprintf(name, sizeof(name), "pod-%zu", n);
	json_array_append_new(f->pods, json_pack("{s:{s:s,s:s,s:s,s:{s:s,s:s*,s:s*}}}", "metadata",
						 "uid", uid, "namespace", f->namespace, "name",
						 name, "annotations", "tallyd.io/service", service,
						 "tallyd.io/ports", ports, "tallyd.io/key", key));
	assert_true(asprintf(&folder, "%s/kubepods/pod%s", f->dir, uid) > 0);
	assert_int_equal(tally_util_mkdirs(folder, 0750), 0);
}

/* As at a start: the table is read, and a view is made of it. */
static void view(struct fixture *f)
{
	json_t *root = json_pack("{s:O}", "pods", f->pods);
	_cleanup_free_ char *path = NULL;

	assert_true(asprintf(&path, "%s/pods.json", f->dir) > 0);
	assert_int_equal(json_dump_file(root, path, 0), 0);
	json_decref(root);
	assert_int_equal(tally_agent_pods_load(&f->agent), 0);
	assert_int_equal(tally_agent_pods_view(&f->agent, f->config, &f->view), 0);
}

/* As tally_agent_rules_apply() does; all can be compiled. */
static void put_in_force(struct fixture *f)
{
	static const struct tally_rules_target target = { .generation = 1 };
	_cleanup_free_ struct tally_rules *rules = malloc(sizeof(*rules));

	for (size_t i = 0; i < f->view.n_services; i++)
		assert_int_equal(tally_rules_compile(&f->view.services[i], &target, rules), 0);
	tally_agent_pods_install(&f->agent, f->config, &f->view);
}

static int on_cgroup(void *ctx, const char *path, const struct tally_agent_claim *c)
{
	return 0;
}

static void expect_state(struct fixture *f, size_t pod, const char *state)
{
	json_t *list, *row;
	char name[16];
	size_t i;

	(void)snprintf(name, sizeof(name), "pod-%zu", pod);
	assert_int_equal(tally_agent_pods_look(&f->agent, on_cgroup, NULL), 0);
	list = tally_agent_pods_json(&f->agent);
	json_array_foreach(list, i, row) {
		const char *told = json_string_value(json_object_get(row, "state"));

		if (!strcmp(json_string_value(json_object_get(row, "name")), name) &&
		    strcmp(told, state) != 0)
			fail_msg("%s: %s, not %s", name, told, state);
	}
	assert_true(json_array_size(list) > pod);
	json_decref(list);
}

static const struct tally_config_service *service(const struct fixture *f, const char *name)
{
	for (size_t i = 0; i < f->agent.view.n_services; i++)
		if (!strcmp(f->agent.view.services[i].name, name))
			return &f->agent.view.services[i];
	return NULL;
}

/* What one pod says of itself is its own harm; its neighbours are metered, and the agent starts. */
static void test_bad_key(void **state)
{
	static const char *const keys[] = {
		"header:content-length",
		"header:Transfer-Encoding",
		"header:x,header:X",
		"header:x,header:x;scheme=basic",
		"query:a,query:b,query:c,query:d,query:e",
		HEADERS7,
	};

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(keys); i++) {
		struct fixture f;

		setup(&f, UNLISTED);
		add_pod(&f, "wrong", "80", keys[i]);
		add_pod(&f, "right", "80", "header:x-api-key");
		view(&f);
		put_in_force(&f);
		expect_state(&f, 0, "bad_key");
		expect_state(&f, 1, "metered");
		assert_null(service(&f, "ns/wrong"));
		teardown(&f);
	}
}

/* A deployment rolls to another scheme: one of both stands, and both its pods are metered. */
static void test_scheme_rolls(void **state)
{
	struct fixture f;

	setup(&f, UNLISTED);
	add_pod(&f, "geo", "80", "header:authorization");
	add_pod(&f, "geo", "80", "header:Authorization;scheme=bearer,query:key");
	view(&f);
	put_in_force(&f);
	expect_state(&f, 0, "metered");
	expect_state(&f, 1, "metered");
	assert_int_equal(service(&f, "ns/geo")->n_key, 2);
	assert_null(service(&f, "ns/geo")->key[0].scheme);
	assert_string_equal(service(&f, "ns/geo")->key[1].query, "key");
	teardown(&f);
}

/* Names of query parameters have a case. */
static void test_query_case(void **state)
{
	struct fixture f;

	setup(&f, UNLISTED);
	add_pod(&f, "geo", "80", "query:key");
	add_pod(&f, "geo", "80", "query:Key");
	view(&f);
	put_in_force(&f);
	assert_int_equal(service(&f, "ns/geo")->n_key, 2);
	teardown(&f);
}

/* Each fits, and together they do not: the later one is told. */
static void test_keys_do_not_fit(void **state)
{
	struct fixture f;

	setup(&f, UNLISTED);
	add_pod(&f, "geo", "80", "query:a,query:b,query:c");
	add_pod(&f, "geo", "80", "header:x,query:d,query:e");
	add_pod(&f, "geo", "80", "query:d,query:a");
	add_pod(&f, "geo", "80", NULL);
	view(&f);
	put_in_force(&f);
	assert_int_equal(service(&f, "ns/geo")->n_key, 4);
	expect_state(&f, 0, "metered");
	expect_state(&f, 1, "bad_key");
	expect_state(&f, 2, "metered");
	expect_state(&f, 3, "metered");
	teardown(&f);
}

/* Should rules fail that were thought to fit: that service alone is left out. */
static void test_left_out(void **state)
{
	struct fixture f;

	setup(&f, UNLISTED "services: [{name: own, match: {ports: 1}}]\n");
	add_pod(&f, "a", "80", NULL);
	add_pod(&f, "b", "80", "header:x");
	add_pod(&f, "c", "80", "header:x");
	view(&f);
	assert_int_equal(f.view.n_services, 4);
	assert_int_equal(tally_agent_pods_leave_out(&f.agent, f.config, &f.view), 0);
	free(f.view.services[2].key->header);
	f.view.services[2].key->header = strdup("content-length");
	assert_int_equal(tally_agent_pods_leave_out(&f.agent, f.config, &f.view), 1);
	put_in_force(&f);
	assert_non_null(service(&f, "own"));
	expect_state(&f, 0, "metered");
	expect_state(&f, 1, "bad_key");
	expect_state(&f, 2, "metered");
	teardown(&f);
}

static void fill(struct fixture *f)
{
	char name[16];

	f->namespace = "b";
	for (int i = 0; i < TALLY_SERVICES; i++) {
		(void)snprintf(name, sizeof(name), "s%d", i);
		add_pod(f, name, "80", NULL);
	}
}

/* Whose service is metered keeps its place, whatever comes later is named. */
static void test_full(void **state)
{
	struct fixture f;

	setup(&f, UNLISTED);
	fill(&f);
	view(&f);
	put_in_force(&f);
	f.namespace = "a";
	add_pod(&f, "new", "80", NULL);
	view(&f);
	put_in_force(&f);
	assert_null(service(&f, "a/new"));
	expect_state(&f, TALLY_SERVICES, "services_full");
	for (int i = 0; i < TALLY_SERVICES; i++)
		expect_state(&f, (size_t)i, "metered");
	teardown(&f);
}

/* After a restart, too: names of services are known from the newest ruleset. */
static void test_full_restarted(void **state)
{
	char name[16];
	struct fixture f;

	setup(&f, UNLISTED);
	fill(&f);
	f.namespace = "a";
	add_pod(&f, "new", "80", NULL);
	for (int i = 0; i < TALLY_SERVICES; i++) {
		(void)snprintf(name, sizeof(name), "b/s%d", i);
		f.agent.rules.names[i] = strdup(name);
	}
	view(&f);
	put_in_force(&f);
	expect_state(&f, TALLY_SERVICES, "services_full");
	tally_agent_rules_close(&f.agent);
	teardown(&f);
}

/* A pod that is not metered takes no service's place. */
static void test_no_place_for_nothing(void **state)
{
	struct fixture f;

	setup(&f, UNLISTED);
	add_pod(&f, "no-ports", NULL, NULL);
	add_pod(&f, "bad-ports", "http", NULL);
	add_pod(&f, "bad-key", "80", "cookie:x");
	add_pod(&f, "good", "80", NULL);
	view(&f);
	put_in_force(&f);
	assert_int_equal(f.agent.view.n_services, 1);
	expect_state(&f, 0, "no_ports");
	expect_state(&f, 1, "bad_ports");
	expect_state(&f, 2, "bad_key");
	expect_state(&f, 3, "metered");
	teardown(&f);
}

/* As whole as those of tally_cgroup_add(), which hooks and hops are found by. */
static void test_cgroups(void **state)
{
	_cleanup_free_ char *path = NULL;
	json_t *cgroups;
	struct fixture f;

	setup(&f, UNLISTED);
	add_pod(&f, "geo", "80", NULL);
	view(&f);
	put_in_force(&f);
	expect_state(&f, 0, "metered");
	cgroups = tally_agent_service_cgroups(&f.agent, service(&f, "ns/geo"));
	assert_int_equal(json_array_size(cgroups), 1);
	assert_true(asprintf(&path, "%s/kubepods/pod9f2c71d4-a0b1-4c5d-8e6f-000000000000", f.dir) >
		    0);
	assert_string_equal(json_string_value(json_array_get(cgroups, 0)), path);
	json_decref(cgroups);
	teardown(&f);
}

/* ---- origins.json ---- */

static void write_origins(struct fixture *f, const char *text)
{
	_cleanup_free_ char *path = NULL;

	assert_true(asprintf(&path, "%s/origins.json", f->dir) > 0);
	assert_int_equal(tally_util_write_file(path, text, strlen(text), 0640), 0);
}

static void look(struct fixture *f)
{
	view(f);
	put_in_force(f);
	assert_int_equal(tally_agent_pods_look(&f->agent, on_cgroup, NULL), 0);
}

#define ASKED \
	"kubernetes: {api: 'https://x', unlisted: {}, dimensions: {namespace: true, workload: true}}\n"

/* What pods say of themselves does not grow the file that a start must read. */
static void test_origins_are_bounded(void **state)
{
	_cleanup_free_ char *path = NULL, *text = NULL, *name = calloc(1, 1000001);
	struct tally_origin at = {};
	struct fixture f;
	size_t bytes;

	setup(&f, ASKED);
	memset(name, 'a', 1000000);
	assert_int_equal(tally_agent_origins_load(&f.agent), 0);
	for (size_t i = 0; i < 3; i++) {
		add_pod(&f, "geo", "80", NULL);
		name[i] = 'b';
		json_object_set_new(json_object_get(json_array_get(f.pods, i), "metadata"),
				    "ownerReferences",
				    json_pack("[{s:s,s:s,s:b}]", "kind", i ? "ReplicaSet" : name,
					      "name", i ? name : "x", "controller", 1));
	}
	look(&f);
	assert_true(asprintf(&path, "%s/origins.json", f.dir) > 0);
	assert_int_equal(tally_util_read_file(path, 4096, &text, &bytes), 0);
	assert_non_null(strstr(text, "\"namespace\":\"ns\""));
	assert_null(strstr(text, "workload"));
	tally_agent_origins_find(&f.agent, f.agent.origins.next - 1, &at);
	assert_string_equal(at.namespace, "ns");
	assert_null(at.workload);
	tally_agent_origins_close(&f.agent);
	teardown(&f);
}

/* A file of a version that did not bound it keeps no agent from starting. */
static void test_origins_of_before(void **state)
{
	_cleanup_free_ char *text = NULL, *name = calloc(1, (65 << 20) + 1);
	struct tally_origin at = {};
	struct fixture f;

	setup(&f, ASKED);
	memset(name, 'a', 65 << 20);
	write_origins(&f, name);
	assert_int_equal(tally_agent_origins_load(&f.agent), 0);
	assert_true(f.agent.origins.next > 0);
	name[70000] = 0;
	assert_true(asprintf(&text,
			     "{\"origins\":[{\"id\":7,\"namespace\":\"ns\",\"workload\":\"%s\"}]}",
			     name) > 0);
	write_origins(&f, text);
	assert_int_equal(tally_agent_origins_load(&f.agent), 0);
	tally_agent_origins_find(&f.agent, 7, &at);
	assert_string_equal(at.namespace, "ns");
	assert_null(at.workload);
	tally_agent_origins_close(&f.agent);
	teardown(&f);
}

/* The operator's folder and the pod's own service: one of them has the port, and the other is told so. */
static void test_taken(void **state)
{
	static const char yaml[] =
		"services: [{name: glob, match: {cgroup: '/kubepods/pod*', ports: [8080, 8081]}}]\n" UNLISTED;
	_cleanup_(tally_agent_plan_freep) struct tally_agent_plan *plan = NULL;
	struct fixture f;
	char glob[] = "glob", own[] = "ns/own", free_[] = "ns/free";

	setup(&f, yaml);
	add_pod(&f, "own", "8080", NULL);
	add_pod(&f, "free", "9090", NULL);
	add_pod(&f, "own", "all", NULL);
	view(&f);
	put_in_force(&f);
	f.agent.rules.names[3] = glob;
	f.agent.rules.names[1] = own;
	f.agent.rules.names[2] = free_;
	assert_int_equal(tally_agent_plan_make(&f.agent, &plan), 0);
	assert_int_equal(plan->n, 3 * 2 + 1); /* each folder's ports of glob; 9090 */
	for (size_t i = 0; i < plan->n; i++)
		assert_int_equal(plan->scopes[i].service, plan->scopes[i].port == 9090 ? 2 : 3);
	assert_int_equal(plan->cgroups.n, 3);
	assert_int_equal(plan->troubles[1].kind, TALLY_AGENT_TAKEN);
	assert_int_equal(plan->troubles[1].left_out, 2);
	assert_non_null(
		strstr(plan->troubles[1].text, "service glob has the ports of /kubepods/pod"));
	assert_int_equal(plan->troubles[2].kind, TALLY_AGENT_UNTROUBLED);
	assert_int_equal(plan->troubles[3].kind, TALLY_AGENT_UNTROUBLED);
	assert_int_equal(f.agent.pods.verdicts[TALLY_KUBERNETES_TAKEN], 2);
	assert_int_equal(f.agent.pods.verdicts[TALLY_KUBERNETES_METERED], 1);
	teardown(&f);
}

/* Who does not fit whole comes last, and has what is left; pods and small services are as ever. */
static void test_one_does_not_fit(void **state)
{
	enum { FOLDERS = 45, PORTS = 100, LEFT = TALLY_SCOPES_MAX - 2 };
	static const char before[] = "services:\n- {name: wide, match: {cgroup: '/w*', ports: [";
	static const char after[] =
		"]}}\n- {name: small, match: {cgroup: '/kubepods', ports: 1}}\n" UNLISTED;
	_cleanup_(tally_agent_plan_freep) struct tally_agent_plan *plan = NULL;
	char yaml[4096], wide[] = "wide", small[] = "small", own[] = "ns/own";
	struct fixture f;
	size_t used = sizeof(before) - 1;

	strcpy(yaml, before);
	for (int i = 0; i < PORTS; i++)
		used += (size_t)snprintf(yaml + used, sizeof(yaml) - used, "%d,", 10000 + i);
	(void)snprintf(yaml + used - 1, sizeof(yaml) - used, "%s", after);
	setup(&f, yaml);
	add_pod(&f, "own", "8080", NULL);
	for (int i = 0; i < FOLDERS; i++) {
		char path[64];

		(void)snprintf(path, sizeof(path), "%s/w%d", f.dir, i);
		assert_int_equal(mkdir(path, 0700), 0);
	}
	view(&f);
	put_in_force(&f);
	f.agent.rules.names[0] = wide;
	f.agent.rules.names[1] = small;
	f.agent.rules.names[2] = own;
	assert_int_equal(tally_agent_plan_make(&f.agent, &plan), 0);
	assert_int_equal(plan->n, 2 + LEFT / PORTS * PORTS);
	assert_int_equal(plan->troubles[0].kind, TALLY_AGENT_FULL);
	assert_int_equal(plan->troubles[0].left_out, (FOLDERS - LEFT / PORTS) * PORTS);
	assert_int_equal(plan->troubles[1].kind, TALLY_AGENT_UNTROUBLED);
	assert_int_equal(plan->troubles[2].kind, TALLY_AGENT_UNTROUBLED);
	assert_int_equal(f.agent.pods.verdicts[TALLY_KUBERNETES_METERED], 1);
	teardown(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_taken),
		cmocka_unit_test(test_one_does_not_fit),
		cmocka_unit_test(test_bad_key),
		cmocka_unit_test(test_scheme_rolls),
		cmocka_unit_test(test_query_case),
		cmocka_unit_test(test_left_out),
		cmocka_unit_test(test_keys_do_not_fit),
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_full_restarted),
		cmocka_unit_test(test_no_place_for_nothing),
		cmocka_unit_test(test_cgroups),
		cmocka_unit_test(test_origins_are_bounded),
		cmocka_unit_test(test_origins_of_before),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
