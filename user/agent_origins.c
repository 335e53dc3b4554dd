/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where requests are answered, as records say it on request (kubernetes.dimensions): namespace, workload,
 * pod, node. Each combination that is asked for has a number, which the kernel puts into its rows; what
 * it stands for is kept in state_dir/origins.json, so that the rows of an earlier start can be named.
 *
 * A number is never given twice: after a start they begin above those in the file, and above the seconds
 * since 2020, should the newest ones not have reached the disk.
 *
 * The file is bounded: TALLY_AGENT_ORIGINS times TEXTS texts of at most TEXT_MAX octets.
 */
#include <limits.h>

#include "agent_parts.h"
#include "base/seeded.h"

#define FILE_MAX (64U << 20)
#define YEAR_2020 1577836800ULL
#define TEXTS 4
#define TEXT_MAX 320 /* a workload: kind, '/', name */

struct tally_agent_origin {
	uint32_t id;
	bool used;	    /* by a pod at the last look */
	char *name;	    /* the four texts, parted by newlines, which none of them has */
	char *texts[TEXTS]; /* NULL: not told */
	UT_hash_handle by_id, by_name;
};

static const char *const fields[TEXTS] = { "namespace", "workload", "pod", "node" };

static void free_origin(struct tally_agent_origin *origin)
{
	for (int i = 0; i < TEXTS; i++)
		free(origin->texts[i]);
	free(origin->name);
	free(origin);
}

static void drop(struct tally_agent_origins *origins, struct tally_agent_origin *origin)
{
	HASH_DELETE(by_id, origins->by_id, origin);
	HASH_DELETE(by_name, origins->by_name, origin);
	origins->n--;
	free_origin(origin);
}

static int name_of(const char *const texts[TEXTS], char **ret_name)
{
	if (asprintf(ret_name, "%s\n%s\n%s\n%s", texts[0] ? texts[0] : "", texts[1] ? texts[1] : "",
		     texts[2] ? texts[2] : "", texts[3] ? texts[3] : "") < 0) {
		*ret_name = NULL;
		return -ENOMEM;
	}
	return 0;
}

/* What no name is: not told. */
static const char *bounded(const char *text)
{
	return text && strlen(text) <= TEXT_MAX && !strchr(text, '\n') ? text : NULL;
}

/* Oldest first: uthash keeps the order in which they came. */
static void make_room(struct tally_agent_origins *origins)
{
	struct tally_agent_origin *origin, *next;

	HASH_ITER(by_id, origins->by_id, origin, next)
		if (origins->n > TALLY_AGENT_ORIGINS / 2 && !origin->used)
			drop(origins, origin);
}

static int hash_in(struct tally_agent_origins *origins, struct tally_agent_origin *origin)
{
	HASH_ADD(by_id, origins->by_id, id, sizeof(origin->id), origin);
	if (!origin->by_id.tbl)
		return -ENOMEM;
	HASH_ADD_KEYPTR(by_name, origins->by_name, origin->name, strlen(origin->name), origin);
	if (origin->by_name.tbl)
		return 0;
	HASH_DELETE(by_id, origins->by_id, origin);
	return -ENOMEM;
}

static int add(struct tally_agent_origins *origins, uint32_t id, const char *const texts[TEXTS],
	       struct tally_agent_origin **ret_origin)
{
	struct tally_agent_origin *origin = calloc(1, sizeof(*origin));
	int err = origin ? name_of(texts, &origin->name) : -ENOMEM;

	if (origin)
		origin->id = id;
	for (int i = 0; i < TEXTS && !err; i++) {
		origin->texts[i] = texts[i] && *texts[i] ? strdup(texts[i]) : NULL;
		if (texts[i] && *texts[i] && !origin->texts[i])
			err = -ENOMEM;
	}
	if (!err)
		err = hash_in(origins, origin);
	if (err) {
		if (origin)
			free_origin(origin);
		return err;
	}
	origins->n++;
	*ret_origin = origin;
	return 0;
}

/* ---- the file ---- */

static int file_path(const struct tally_agent *agent, char out[PATH_MAX])
{
	int n = snprintf(out, PATH_MAX, "%s/origins.json", agent->config->agent.state_dir);

	return n < 0 || n >= PATH_MAX ? -ENAMETOOLONG : 0;
}

static void load_one(struct tally_agent_origins *origins, const json_t *object)
{
	json_int_t id = json_integer_value(json_object_get(object, "id"));
	const char *texts[TEXTS];
	struct tally_agent_origin *origin;

	if (id <= 0 || id > UINT32_MAX || origins->n == TALLY_AGENT_ORIGINS)
		return;
	for (int i = 0; i < TEXTS; i++)
		texts[i] = bounded(json_string_value(json_object_get(object, fields[i])));
	if (!add(origins, (uint32_t)id, texts, &origin))
		origins->next = TALLY_MAX(origins->next, (uint32_t)id + 1);
}

int tally_agent_origins_load(struct tally_agent *agent)
{
	struct tally_agent_origins *origins = &agent->origins;
	uint64_t now_s = tally_util_real_ns() / TALLY_NS_PER_S;
	_cleanup_free_ char *text = NULL;
	json_t *root, *object;
	char path[PATH_MAX];
	size_t bytes, i;
	int err = file_path(agent, path);

	if (!err)
		err = seed_hash();
	if (err)
		return err;
	origins->next = now_s > YEAR_2020 ? (uint32_t)(now_s - YEAR_2020) : 1;
	err = tally_util_read_file(path, FILE_MAX, &text, &bytes);
	if (err == -EFBIG) {
		tally_log_warning("origins", "file=%s reason=%s", path,
				  "too large: rows of an earlier start do not say where");
		return 0;
	}
	if (err)
		return err == -ENOENT ? 0 : err;
	root = json_loadb(text, bytes, 0, NULL);
	json_array_foreach(json_object_get(root, "origins"), i, object)
		load_one(origins, object);
	json_decref(root);
	return 0;
}

static json_t *to_json(const struct tally_agent_origin *origin)
{
	json_t *object = json_pack("{s:I}", "id", (json_int_t)origin->id);

	for (int i = 0; i < TEXTS; i++)
		if (origin->texts[i])
			json_object_set_new(object, fields[i], json_string(origin->texts[i]));
	return object;
}

static int save(struct tally_agent *agent)
{
	json_t *list = json_array(), *root = json_pack("{s:o}", "origins", list);
	struct tally_agent_origin *origin, *next;
	_cleanup_free_ char *text = NULL;
	char path[PATH_MAX];
	int err = file_path(agent, path);

	HASH_ITER(by_id, agent->origins.by_id, origin, next)
		json_array_append_new(list, to_json(origin));
	text = root ? json_dumps(root, JSON_COMPACT) : NULL;
	json_decref(root);
	if (!text)
		return -ENOMEM;
	return err ? err : tally_util_write_file(path, text, strlen(text), 0640);
}

/* What cannot be kept is counted all the same; after a crash its rows would lack these fields. */
void tally_agent_origins_save(struct tally_agent *agent)
{
	int err = agent->origins.changed ? save(agent) : 0;

	if (err)
		tally_log_warning("origins", "reason=%s error=%s", "not saved", strerror(-err));
	else
		agent->origins.changed = false;
}

/* ---- numbers ---- */

uint32_t tally_agent_origins_of(struct tally_agent *agent, const struct tally_kubernetes_pod *pod)
{
	const struct tally_config_dimensions *asked = &agent->view.kubernetes.dimensions;
	const char *texts[TEXTS] = { bounded(asked->namespace ? pod->namespace : NULL),
				     bounded(asked->workload ? pod->workload : NULL),
				     bounded(asked->pod ? pod->name : NULL),
				     bounded(asked->node ? agent->pods.node : NULL) };
	struct tally_agent_origins *origins = &agent->origins;
	struct tally_agent_origin *origin = NULL;
	_cleanup_free_ char *name = NULL;

	if (!texts[0] && !texts[1] && !texts[2] && !texts[3])
		return 0;
	if (name_of(texts, &name))
		return 0;
	HASH_FIND(by_name, origins->by_name, name, strlen(name), origin);
	if (!origin) {
		if (origins->n == TALLY_AGENT_ORIGINS)
			make_room(origins);
		if (origins->n == TALLY_AGENT_ORIGINS ||
		    add(origins, origins->next, texts, &origin)) {
			origins->refused++;
			return 0;
		}
		origins->next++;
		origins->changed = true;
	}
	origin->used = true;
	return origin->id;
}

/* Before a look, which marks those in use. */
void tally_agent_origins_unmark(struct tally_agent *agent)
{
	struct tally_agent_origin *origin, *next;

	HASH_ITER(by_id, agent->origins.by_id, origin, next)
		origin->used = false;
}

void tally_agent_origins_find(void *ctx, __u32 id, struct tally_origin *ret_origin)
{
	struct tally_agent *agent = ctx;
	struct tally_agent_origin *origin = NULL;

	HASH_FIND(by_id, agent->origins.by_id, &id, sizeof(id), origin);
	if (origin)
		*ret_origin = (struct tally_origin){ origin->texts[0], origin->texts[1],
						     origin->texts[2], origin->texts[3] };
}

void tally_agent_origins_close(struct tally_agent *agent)
{
	struct tally_agent_origin *origin, *next;

	HASH_ITER(by_id, agent->origins.by_id, origin, next)
		drop(&agent->origins, origin);
	memset(&agent->origins, 0, sizeof(agent->origins));
}
