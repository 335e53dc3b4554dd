/* SPDX-License-Identifier: Apache-2.0 */
#include "identify/kubernetes_pod.h"

#include <ctype.h>

#include "identify/rules.h"
#include "tally/limits.h"

#define HASH_LEN 32   /* of a static pod's UID: MD5 in hex */
#define LABELS_MAX 64 /* kept of one pod */
#define TEXT_MAX 1024 /* of an annotation of ours */
#define PORTS_MAX 64  /* of one pod */
#define SERVICE_MAX 63
#define LABEL_NAME_MAX 317 /* DNS subdomain, '/', name */
#define LABEL_MAX 63	   /* also of a namespace and of a kind */
#define NAME_MAX_DNS 253   /* of a DNS subdomain, which names of objects are */

static const char *const kept_annotations[] = { "tallyd.io/service", "tallyd.io/ports",
						"tallyd.io/key", "tallyd.io/tls",
						"kubernetes.io/config.hash" };

/* ---- what is kept ---- */

/* No text has a NUL within: what others wrote may. */
static bool is_text(const json_t *value, size_t max)
{
	size_t len = json_string_length(value);

	return json_is_string(value) && len <= max && strlen(json_string_value(value)) == len;
}

static const char *text_in(const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);

	return is_text(value, SIZE_MAX) && json_string_length(value) ? json_string_value(value)
								     : NULL;
}

/*
 * What a name can be. Of its owners Kubernetes checks only that they have some, so whoever makes a pod writes
 * there what he likes, and names go into records.
 */
static const char *name_in(const json_t *object, const char *key, size_t max)
{
	const char *text = text_in(object, key);

	if (!text || strlen(text) > max)
		return NULL;
	for (const char *c = text; *c; c++)
		if (*c <= ' ' || *c >= 0x7f || *c == '/')
			return NULL;
	return text;
}

static json_t *keep_annotations(const json_t *annotations)
{
	json_t *out = json_object();

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(kept_annotations); i++) {
		const char *text = text_in(annotations, kept_annotations[i]);

		if (text && strlen(text) <= TEXT_MAX)
			json_object_set_new(out, kept_annotations[i], json_string(text));
	}
	return out;
}

static json_t *keep_labels(const json_t *labels)
{
	json_t *out = json_object(), *value;
	const char *name;

	json_object_foreach((json_t *)labels, name, value)
		if (json_object_size(out) < LABELS_MAX && strlen(name) <= LABEL_NAME_MAX &&
		    is_text(value, LABEL_MAX))
			json_object_set(out, name, value);
	return out;
}

/* Who made the pod: the one owner that controls it. */
static json_t *keep_owner(const json_t *owners)
{
	json_t *out = json_array(), *owner;
	size_t i;

	json_array_foreach(owners, i, owner) {
		const char *kind = name_in(owner, "kind", LABEL_MAX);
		const char *name = name_in(owner, "name", NAME_MAX_DNS);

		if (!json_is_true(json_object_get(owner, "controller")) || !kind || !name)
			continue;
		json_array_append_new(out, json_pack("{s:s,s:s,s:b}", "kind", kind, "name", name,
						     "controller", 1));
		break;
	}
	return out;
}

static json_t *keep(const json_t *metadata)
{
	return json_pack(
		"{s:{s:s,s:s,s:s,s:o,s:o,s:o}}", "metadata", "uid", text_in(metadata, "uid"),
		"namespace", text_in(metadata, "namespace"), "name", text_in(metadata, "name"),
		"labels", keep_labels(json_object_get(metadata, "labels")), "annotations",
		keep_annotations(json_object_get(metadata, "annotations")), "ownerReferences",
		keep_owner(json_object_get(metadata, "ownerReferences")));
}

/* ---- what it means ---- */

static bool is_hash(const char *text)
{
	return strlen(text) == HASH_LEN && strspn(text, "0123456789abcdef") == HASH_LEN;
}

/* Deployments make their pods through a ReplicaSet, named by the hash that is a label of the pod. */
static int find_workload(const json_t *metadata, char **ret_workload)
{
	const json_t *owner = json_array_get(json_object_get(metadata, "ownerReferences"), 0);
	const char *kind = text_in(owner, "kind"), *name = text_in(owner, "name");
	const char *hash = text_in(json_object_get(metadata, "labels"), "pod-template-hash");
	size_t len, hash_len = hash ? strlen(hash) : 0;

	if (!owner || !strcmp(kind, "Node"))
		return 0;
	len = strlen(name);
	if (!strcmp(kind, "ReplicaSet") && hash && len > hash_len + 1 &&
	    name[len - hash_len - 1] == '-' && !strcmp(name + len - hash_len, hash)) {
		kind = "Deployment";
		len -= hash_len + 1;
	}
	if (asprintf(ret_workload, "%s/%.*s", kind, (int)len, name) < 0) {
		*ret_workload = NULL;
		return -ENOMEM;
	}
	return 0;
}

/* P3: anybody can write the annotation, but only with the node as owner it is a mirror. */
static void find_folder(const json_t *metadata, char *out)
{
	const json_t *owner = json_array_get(json_object_get(metadata, "ownerReferences"), 0);
	const char *kind = text_in(owner, "kind");
	const char *hash =
		text_in(json_object_get(metadata, "annotations"), "kubernetes.io/config.hash");
	bool is_static = kind && !strcmp(kind, "Node") && hash && is_hash(hash);

	(void)snprintf(out, TALLY_KUBERNETES_UID, "%s",
		       is_static ? hash : text_in(metadata, "uid"));
}

static int fill(struct tally_kubernetes_pod *pod)
{
	const json_t *metadata = json_object_get(pod->object, "metadata");
	const json_t *annotations = json_object_get(metadata, "annotations");

	pod->uid = text_in(metadata, "uid");
	pod->namespace = text_in(metadata, "namespace");
	pod->name = text_in(metadata, "name");
	pod->app = text_in(json_object_get(metadata, "labels"), "app.kubernetes.io/name");
	pod->service = text_in(annotations, "tallyd.io/service");
	pod->ports = text_in(annotations, "tallyd.io/ports");
	pod->key = text_in(annotations, "tallyd.io/key");
	pod->tls = text_in(annotations, "tallyd.io/tls");
	find_folder(metadata, pod->folder);
	return find_workload(metadata, &pod->workload);
}

int tally_kubernetes_pod_parse(const json_t *object, struct tally_kubernetes_pod **ret_pod)
{
	const json_t *metadata = json_object_get(object, "metadata");
	const char *uid = name_in(metadata, "uid", TALLY_KUBERNETES_UID - 1);
	_cleanup_(tally_kubernetes_pod_freep) struct tally_kubernetes_pod *pod = NULL;
	int err;

	if (!uid || !name_in(metadata, "namespace", LABEL_MAX) ||
	    !name_in(metadata, "name", NAME_MAX_DNS))
		return -EINVAL;
	pod = calloc(1, sizeof(*pod));
	if (!pod)
		return -ENOMEM;
	pod->object = keep(metadata);
	if (!pod->object)
		return -ENOMEM;
	err = fill(pod);
	if (err)
		return err;
	*ret_pod = TAKE_PTR(pod);
	return 0;
}

void tally_kubernetes_pod_free(struct tally_kubernetes_pod *pod)
{
	if (!pod)
		return;
	json_decref(pod->object);
	free(pod->workload);
	free(pod);
}

bool tally_kubernetes_pod_equal(const struct tally_kubernetes_pod *a,
				const struct tally_kubernetes_pod *b)
{
	return json_equal(a->object, b->object);
}

const char *tally_kubernetes_pod_verdict(enum tally_kubernetes_verdict verdict)
{
#define TEXT(symbol, text, why) [TALLY_KUBERNETES_##symbol] = (text),
	static const char *const texts[] = { TALLY_KUBERNETES_VERDICTS(TEXT) };

	return texts[verdict];
}

const char *tally_kubernetes_pod_why_not(enum tally_kubernetes_verdict verdict)
{
#define WHY(symbol, text, why) [TALLY_KUBERNETES_##symbol] = (why),
	static const char *const texts[] = { TALLY_KUBERNETES_VERDICTS(WHY) };

	return texts[verdict];
}

/* ---- whose it is ---- */

const char *tally_kubernetes_pod_service(const struct tally_kubernetes_pod *pod)
{
	const char *name = pod->service ? pod->service : pod->app;

	if (!name || strlen(name) > SERVICE_MAX || !isalnum((unsigned char)*name))
		return NULL;
	for (const char *c = name; *c; c++)
		if (!isalnum((unsigned char)*c) && !strchr("._-", *c))
			return NULL;
	return name;
}

static bool has_labels(const struct tally_kubernetes_pod *pod,
		       const struct tally_config_pods *wanted)
{
	const json_t *labels = json_object_get(json_object_get(pod->object, "metadata"), "labels");

	for (size_t i = 0; i < wanted->n_labels; i++) {
		const char *value =
			json_string_value(json_object_get(labels, wanted->labels[i].name));

		if (!value || strcmp(value, wanted->labels[i].value) != 0)
			return false;
	}
	return true;
}

int tally_kubernetes_pod_claim(const struct tally_kubernetes_pod *pod,
			       const struct tally_config_service *service)
{
	const struct tally_config_pods *wanted = &service->match.pods;
	const char *name = tally_kubernetes_pod_service(pod);
	bool named = name && !strcmp(name, service->name);

	if (!wanted->place.line)
		return 0;
	if (wanted->namespace && strcmp(wanted->namespace, pod->namespace) != 0)
		return 0;
	if (!has_labels(pod, wanted))
		return 0;
	if (pod->service)
		return named ? 3 : 0;
	if (wanted->n_labels)
		return 2;
	return named ? 1 : 0;
}

/* ---- annotations ---- */

static int compare_ports(const void *a, const void *b)
{
	return *(const uint16_t *)a - *(const uint16_t *)b;
}

/* A copy of the word that ends at one of `ends`, without blanks around it. */
static const char *next_word(const char *text, const char *ends, char *word, size_t size)
{
	size_t len = strcspn(text, ends), n = len;
	const char *next = text + len;

	while (n && isspace((unsigned char)text[n - 1]))
		n--;
	while (n && isspace((unsigned char)*text)) {
		text++;
		n--;
	}
	(void)snprintf(word, size, "%.*s", (int)TALLY_MIN(n, size - 1), text);
	return next;
}

int tally_kubernetes_pod_ports(const char *text, struct tally_option_ports *ret_ports)
{
	uint16_t list[PORTS_MAX];
	size_t n = 0, kept = 0;
	char word[16];

	(void)next_word(text, "", word, sizeof(word));
	if (!strcmp(word, "all")) {
		*ret_ports = (struct tally_option_ports){ .set = true, .all = true };
		return 0;
	}
	do {
		uint64_t port;

		text = next_word(text, ",", word, sizeof(word));
		if (n == PORTS_MAX || tally_util_parse_u64(word, UINT16_MAX, &port) || !port)
			return -EINVAL;
		list[n++] = (uint16_t)port;
	} while (*text++);
	qsort(list, n, sizeof(*list), compare_ports);
	for (size_t i = 0; i < n; i++)
		if (!kept || list[kept - 1] != list[i])
			list[kept++] = list[i];
	*ret_ports = (struct tally_option_ports){ .set = true, .n = kept };
	ret_ports->list = calloc(kept, sizeof(*list));
	if (!ret_ports->list)
		return -ENOMEM;
	memcpy(ret_ports->list, list, kept * sizeof(*list));
	return 0;
}

/* Letters of a header's name, RFC 9110 5.6.2; a query parameter is as strict. */
static bool is_token(const char *text, size_t max)
{
	size_t len = strlen(text);

	return len && len <= max &&
	       strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") ==
		       len;
}

/* One source: KIND:NAME[;scheme=SCHEME] */
static int parse_key(const char *text, struct tally_config_key *key)
{
	char kind[24], name[TALLY_HEADER_NAME + 2], scheme[TALLY_SCHEME + 9];
	char **member = NULL;

	text = next_word(text, ":", kind, sizeof(kind));
	text = next_word(*text ? text + 1 : text, ";", name, sizeof(name));
	(void)next_word(*text ? text + 1 : text, "", scheme, sizeof(scheme));
	if (!strcmp(kind, "header"))
		member = &key->header;
	else if (!strcmp(kind, "query"))
		member = &key->query;
	else if (!strcmp(kind, "response_header"))
		member = &key->response_header;
	if (!member || !is_token(name, member == &key->query ? 32 : TALLY_HEADER_NAME))
		return -EINVAL;
	if (*text && (member != &key->header || strncmp(scheme, "scheme=", 7) != 0 ||
		      !is_token(scheme + 7, TALLY_SCHEME - 1)))
		return -EINVAL;
	*member = strdup(name);
	if (*text)
		key->scheme = strdup(scheme + 7);
	return *member && (!*text || key->scheme) ? 0 : -ENOMEM;
}

void tally_kubernetes_pod_keys_free(struct tally_config_key *keys, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(keys[i].header);
		free(keys[i].scheme);
		free(keys[i].query);
		free(keys[i].response_header);
	}
	free(keys);
}

/* What could not be compiled is wrong already here: it must not reach the rules of all others. */
static bool keys_fit(struct tally_config_key *keys, size_t n)
{
	const struct tally_config_service alone = { .key = keys, .n_key = n };

	return tally_rules_keys_fit(&alone);
}

int tally_kubernetes_pod_keys(const char *text, struct tally_config_key **ret_keys, size_t *ret_n)
{
	struct tally_config_key *keys = calloc(TALLY_KUBERNETES_KEYS, sizeof(*keys));
	char word[TALLY_HEADER_NAME + TALLY_SCHEME + 32];
	int err = keys ? 0 : -ENOMEM;
	size_t n = 0;

	while (!err) {
		text = next_word(text, ",", word, sizeof(word));
		err = n < TALLY_KUBERNETES_KEYS ? parse_key(word, &keys[n]) : -EINVAL;
		n += n < TALLY_KUBERNETES_KEYS;
		if (!*text++)
			break;
	}
	if (!err && !keys_fit(keys, n))
		err = -EINVAL;
	if (err) {
		tally_kubernetes_pod_keys_free(keys, n);
		return err;
	}
	*ret_keys = keys;
	*ret_n = n;
	return 0;
}
