/* SPDX-License-Identifier: Apache-2.0 */
/* Pods: what their metadata means, whose they are, and which cgroup is whose. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "identify/kubernetes_cgroup.h"

#define UID "9f2c71d4-a0b1-4c5d-8e6f-0123456789ab"
#define UID_ "9f2c71d4_a0b1_4c5d_8e6f_0123456789ab"
#define HASH "0d3f6a526f0e4f6e9a417c1f3f0b2a11"
#define ID "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

/* ---- cgroups: each shape of path that Kubernetes makes ---- */

static const struct {
	const char *path, *uid; /* NULL: not a pod's */
} shapes[] = {
	/* systemd driver, by QoS; guaranteed has no folder of its own */
	{ "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" UID_ ".slice", UID },
	{ "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" UID_ ".slice", UID },
	{ "/kubepods.slice/kubepods-pod" UID_ ".slice", UID },
	/* cgroupfs driver */
	{ "/kubepods/burstable/pod" UID, UID },
	{ "/kubepods/besteffort/pod" UID, UID },
	{ "/kubepods/pod" UID, UID },
	/* kind */
	{ "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/"
	  "kubelet-kubepods-burstable-pod" UID_ ".slice",
	  UID },
	{ "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod" UID_ ".slice", UID },
	{ "/kubelet/kubepods/burstable/pod" UID, UID },
	/* the same, from the host of a node in a container */
	{ "/docker/" ID "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod" UID_ ".slice",
	  UID },
	{ "/system.slice/docker-" ID ".scope/kubelet.slice/kubelet-kubepods.slice/"
	  "kubelet-kubepods-pod" UID_ ".slice",
	  UID },
	/* systemd driver of the kubelet, cgroupfs of containerd: the containers' own folders */
	{ "/system.slice/containerd.service/kubepods-burstable-pod" UID_
	  ".slice:cri-containerd:" ID,
	  UID },
	{ "/system.slice/containerd.service/kubepods-pod" UID_ ".slice:cri-containerd:" ID, UID },
	{ "/system.slice/crio.service/kubepods-pod" UID_ ".slice:crio:" ID, UID },
	{ "/system.slice/crio.service/kubepods-pod" UID_ ".slice:crio-conmon:" ID, NULL },
	/* static pods: the hash of their file */
	{ "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" HASH ".slice", HASH },
	{ "/kubepods/burstable/pod" HASH, HASH },
	/* what is none */
	{ "/kubepods.slice/kubepods-podinfo.slice", NULL },
	{ "/system.slice/podman.service", NULL },
	{ "/kubepods/burstable/pod9f2c71d4-a0b1-4c5d-8e6f-0123456789a", NULL },
	{ "/kubepods/burstable/pod" UID "x", NULL },
	{ "/kubepods/burstable/pod9f2c71d4-a0b1-4c5d-8e6f-0123456789aB", NULL },
	{ "/user.slice/mypod" UID ".slice", NULL },
};

/* As the walk does: from above, going on only below folders that may have pods. */
static bool walk(const char *path, char *ret_uid)
{
	char part[1024] = "";

	for (size_t i = 0; i <= strlen(path); i++) {
		enum tally_kubernetes_folder kind;

		if (path[i] && path[i] != '/')
			continue;
		(void)snprintf(part, sizeof(part), "%.*s", (int)i, path);
		kind = tally_kubernetes_cgroup_of(part, ret_uid);
		if (kind != TALLY_KUBERNETES_ABOVE)
			return kind == TALLY_KUBERNETES_POD && !path[i];
	}
	return false;
}

static void test_cgroups(void **state)
{
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(shapes); i++) {
		char uid[TALLY_KUBERNETES_UID] = "";
		bool found = walk(shapes[i].path, uid);

		if (found != (shapes[i].uid != NULL) || (found && strcmp(uid, shapes[i].uid) != 0))
			fail_msg("%s: %s", shapes[i].path, found ? uid : "not a pod");
	}
}

/* A pod's folder is where the walk ends: what is in it (containers, conmon) is the pod's. */
static void test_cgroups_within_pods(void **state)
{
	static const char *const paths[] = {
		"/kubepods.slice/kubepods-pod" UID_ ".slice/cri-containerd-" ID ".scope",
		"/kubepods.slice/kubepods-pod" UID_ ".slice/crio-" ID ".scope",
		"/kubepods.slice/kubepods-pod" UID_ ".slice/crio-conmon-" ID ".scope",
		"/kubepods/burstable/pod" UID "/" ID,
	};
	char uid[TALLY_KUBERNETES_UID];

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(paths); i++)
		assert_false(walk(paths[i], uid));
}

/* ---- pods ---- */

static char *repeat(const char *text, size_t n)
{
	size_t len = strlen(text);
	char *out = malloc(n * len + 1);

	for (size_t i = 0; i < n; i++)
		memcpy(out + i * len, text, len);
	out[n * len] = 0;
	return out;
}

static struct tally_kubernetes_pod *parse(const char *metadata)
{
	json_t *object = json_pack("{s:o}", "metadata", json_loads(metadata, JSON_ALLOW_NUL, NULL));
	struct tally_kubernetes_pod *pod = NULL;

	assert_non_null(object);
	assert_int_equal(tally_kubernetes_pod_parse(object, &pod), 0);
	json_decref(object);
	return pod;
}

#define WHO "\"uid\":\"" UID "\",\"namespace\":\"geo\",\"name\":\"geo-api-7d9c-x2x\""

static void test_pod(void **state)
{
	_cleanup_(tally_kubernetes_pod_freep) struct tally_kubernetes_pod *pod = parse(
		"{" WHO
		",\"labels\":{\"app.kubernetes.io/name\":\"geo\",\"pod-template-hash\":\"7d9c\"},"
		"\"annotations\":{\"tallyd.io/service\":\"geo-api\",\"tallyd.io/ports\":\"8080\","
		"\"secret\":\"not kept\"},"
		"\"ownerReferences\":[{\"kind\":\"ReplicaSet\",\"name\":\"geo-api-7d9c\",\"controller\":true}]}");
	_cleanup_(tally_kubernetes_pod_freep) struct tally_kubernetes_pod *again = NULL;
	char *kept = json_dumps(pod->object, 0);

	assert_string_equal(pod->uid, UID);
	assert_string_equal(pod->folder, UID);
	assert_string_equal(pod->namespace, "geo");
	assert_string_equal(pod->workload, "Deployment/geo-api");
	assert_string_equal(pod->app, "geo");
	assert_string_equal(tally_kubernetes_pod_service(pod), "geo-api");
	assert_string_equal(pod->ports, "8080");
	assert_null(pod->key);
	assert_null(strstr(kept, "secret"));
	free(kept);
	assert_int_equal(tally_kubernetes_pod_parse(pod->object, &again), 0);
	assert_true(tally_kubernetes_pod_equal(pod, again));
}

static void test_workloads(void **state)
{
	static const struct {
		const char *owner, *workload, *folder;
	} cases[] = {
		{ "{\"kind\":\"StatefulSet\",\"name\":\"db\",\"controller\":true}",
		  "StatefulSet/db", UID },
		/* not named by the hash: made by hand */
		{ "{\"kind\":\"ReplicaSet\",\"name\":\"geo-api\",\"controller\":true}",
		  "ReplicaSet/geo-api", UID },
		{ "{\"kind\":\"ReplicaSet\",\"name\":\"-7d9c\",\"controller\":true}",
		  "ReplicaSet/-7d9c", UID },
		/* an owner that does not control it */
		{ "{\"kind\":\"ReplicaSet\",\"name\":\"geo-api-7d9c\"}", NULL, UID },
		/* a static pod's mirror: its cgroup is named by the hash of its file */
		{ "{\"kind\":\"Node\",\"name\":\"n1\",\"controller\":true}", NULL, HASH },
	};

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(cases); i++) {
		struct tally_kubernetes_pod *pod;
		char *text;

		assert_true(asprintf(&text,
				     "{" WHO ",\"labels\":{\"pod-template-hash\":\"7d9c\"},"
				     "\"annotations\":{\"kubernetes.io/config.hash\":\"" HASH "\"},"
				     "\"ownerReferences\":[%s]}",
				     cases[i].owner) > 0);
		pod = parse(text);
		assert_string_equal(pod->folder, cases[i].folder);
		if (cases[i].workload)
			assert_string_equal(pod->workload, cases[i].workload);
		else
			assert_null(pod->workload);
		tally_kubernetes_pod_free(pod);
		free(text);
	}
}

/* P4: an owner whose kind or name is no name is none. Kubernetes takes whatever is not empty. */
static void test_owners_without_a_name(void **state)
{
	static const struct {
		const char *fill; /* of kind or name, as JSON */
		size_t kind, name;
		bool taken;
	} cases[] = {
		{ "a", 63, 253, true },	       { "a", 64, 1, false },
		{ "a", 1, 254, false },	       { "a", 1, 70000, false },
		{ "\\u0001", 1, 2000, false }, { "\\u0001", 1, 1, false },
		{ "\\n", 1, 1, false },	       { "\\u0000", 1, 1, false },
		{ " ", 1, 1, false },	       { "\\u007f", 1, 1, false },
		{ "/", 1, 1, false },	       { "\u00e4", 1, 1, false },
	};

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(cases); i++) {
		_cleanup_(tally_kubernetes_pod_freep) struct tally_kubernetes_pod *pod = NULL;
		struct tally_kubernetes_pod *again = NULL;
		char *kind = repeat("K", cases[i].kind), *text;
		char *name = repeat(cases[i].fill, cases[i].name);

		assert_true(asprintf(&text,
				     "{" WHO
				     ",\"ownerReferences\":[{\"kind\":\"%s\",\"name\":\"%s\","
				     "\"controller\":true}]}",
				     kind, name) > 0);
		pod = parse(text);
		assert_int_equal(pod->workload != NULL, cases[i].taken);
		/* and what is kept can be read again */
		assert_int_equal(tally_kubernetes_pod_parse(pod->object, &again), 0);
		assert_true(tally_kubernetes_pod_equal(pod, again));
		tally_kubernetes_pod_free(again);
		free(text);
		free(kind);
		free(name);
	}
}

/* P3: a hash that is somebody's UID is not believed, not even of a mirror. */
static void test_pretender(void **state)
{
	_cleanup_(tally_kubernetes_pod_freep) struct tally_kubernetes_pod *pod = parse(
		"{" WHO
		",\"annotations\":{\"kubernetes.io/config.hash\":\"11111111-2222-3333-4444-555555555555\"},"
		"\"ownerReferences\":[{\"kind\":\"Node\",\"name\":\"n1\",\"controller\":true}]}");

	assert_string_equal(pod->folder, UID);
}

static void test_not_pods(void **state)
{
	static const char *const texts[] = {
		"{}",
		"{\"metadata\":{}}",
		"{\"metadata\":{\"uid\":\"a\",\"name\":\"b\"}}",
		"{\"metadata\":{\"uid\":\"0123456789012345678901234567890123456789\",\"namespace\":\"n\",\"name\":\"b\"}}",
		"{\"metadata\":{\"uid\":7,\"namespace\":\"n\",\"name\":\"b\"}}",
		"{\"metadata\":{\"uid\":\"a/b\",\"namespace\":\"n\",\"name\":\"b\"}}",
		"{\"metadata\":{\"uid\":\"a\",\"namespace\":\"n\\u0001\",\"name\":\"b\"}}",
		"{\"metadata\":{\"uid\":\"a\",\"namespace\":\"n\",\"name\":\"b\\n\"}}",
		"{\"metadata\":{\"uid\":\"a\",\"name\":\"b\",\"namespace\":"
		"\"0123456789012345678901234567890123456789012345678901234567890123\"}}",
	};

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(texts); i++) {
		json_t *object = json_loads(texts[i], 0, NULL);
		struct tally_kubernetes_pod *pod = NULL;

		assert_int_equal(tally_kubernetes_pod_parse(object, &pod), -EINVAL);
		assert_null(pod);
		json_decref(object);
	}
}

/* ---- services ---- */

static void test_claims(void **state)
{
	struct tally_option_pair labels[] = { { .name = "app", .value = "geo" } };
	struct tally_config_service s = { .name = "geo-api", .match.pods.place.line = 1 };
	_cleanup_(tally_kubernetes_pod_freep) struct tally_kubernetes_pod *annotated = parse(
		"{" WHO
		",\"labels\":{\"app\":\"geo\"},\"annotations\":{\"tallyd.io/service\":\"geo-api\"}}");
	_cleanup_(tally_kubernetes_pod_freep) struct tally_kubernetes_pod *other = parse(
		"{" WHO
		",\"labels\":{\"app\":\"geo\"},\"annotations\":{\"tallyd.io/service\":\"x\"}}");
	_cleanup_(tally_kubernetes_pod_freep) struct tally_kubernetes_pod *labelled = parse(
		"{" WHO ",\"labels\":{\"app\":\"geo\",\"app.kubernetes.io/name\":\"geo-api\"}}");

	assert_int_equal(tally_kubernetes_pod_claim(annotated, &s), 3);
	assert_int_equal(tally_kubernetes_pod_claim(labelled, &s), 1);
	assert_int_equal(tally_kubernetes_pod_claim(other, &s), 0);
	s.match.pods.labels = labels;
	s.match.pods.n_labels = 1;
	assert_int_equal(tally_kubernetes_pod_claim(labelled, &s), 2);
	assert_int_equal(tally_kubernetes_pod_claim(other, &s), 0);
	labels[0].value = "other";
	assert_int_equal(tally_kubernetes_pod_claim(annotated, &s), 0);
	labels[0].value = "geo";
	s.match.pods.namespace = "elsewhere";
	assert_int_equal(tally_kubernetes_pod_claim(annotated, &s), 0);
	s.match.pods.namespace = "geo";
	assert_int_equal(tally_kubernetes_pod_claim(annotated, &s), 3);
	s.match.pods.place.line = 0;
	assert_int_equal(tally_kubernetes_pod_claim(annotated, &s), 0);
}

/* ---- annotations ---- */

static void test_ports(void **state)
{
	static const char *const wrong[] = {
		"", "http", "0", "65536", "80,,", "80,", "80 81", "-1"
	};
	struct tally_option_ports ports = {};

	assert_int_equal(tally_kubernetes_pod_ports(" 8443, 8080,8443 ", &ports), 0);
	assert_true(ports.set && !ports.all);
	assert_int_equal(ports.n, 2);
	assert_int_equal(ports.list[0], 8080);
	assert_int_equal(ports.list[1], 8443);
	free(ports.list);
	assert_int_equal(tally_kubernetes_pod_ports("all", &ports), 0);
	assert_true(ports.set && ports.all && !ports.list);
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(wrong); i++) {
		ports = (struct tally_option_ports){};
		if (tally_kubernetes_pod_ports(wrong[i], &ports) != -EINVAL || ports.set)
			fail_msg("\"%s\" was taken", wrong[i]);
	}
}

static void test_keys(void **state)
{
	static const char *const wrong[] = {
		"",
		"header",
		"header:",
		"cookie:x",
		"header:a b",
		"header:x,",
		"query:x;scheme=b",
		"header:x;scheme=",
		"header:x;sch=b",
		"header:x\nq:y",
		"query:a,query:b,query:c,query:d,query:e,query:f,query:g,query:h,query:i,query:j,query:k",
		/* no rules can be made of these */
		"header:content-length",
		"header:Transfer-Encoding",
		"header:x,header:X",
		"header:x;scheme=b,header:x",
		"response_header:x,response_header:x",
		"query:a,query:b,query:c,query:d,query:e",
		"header:a,header:b,header:c,header:d,header:e,header:f,header:g",
	};
	struct tally_config_key *keys = NULL;
	size_t n = 0;

	assert_int_equal(tally_kubernetes_pod_keys("header:x-api-key, header:authorization;"
						   "scheme=bearer ,query:api_key,"
						   "response_header:x-customer",
						   &keys, &n),
			 0);
	assert_int_equal(n, 4);
	assert_string_equal(keys[0].header, "x-api-key");
	assert_null(keys[0].scheme);
	assert_string_equal(keys[1].header, "authorization");
	assert_string_equal(keys[1].scheme, "bearer");
	assert_string_equal(keys[2].query, "api_key");
	assert_string_equal(keys[3].response_header, "x-customer");
	tally_kubernetes_pod_keys_free(keys, n);
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(wrong); i++)
		if (tally_kubernetes_pod_keys(wrong[i], &keys, &n) != -EINVAL)
			fail_msg("\"%s\" was taken", wrong[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cgroups),
		cmocka_unit_test(test_cgroups_within_pods),
		cmocka_unit_test(test_pod),
		cmocka_unit_test(test_workloads),
		cmocka_unit_test(test_owners_without_a_name),
		cmocka_unit_test(test_pretender),
		cmocka_unit_test(test_not_pods),
		cmocka_unit_test(test_claims),
		cmocka_unit_test(test_ports),
		cmocka_unit_test(test_keys),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
