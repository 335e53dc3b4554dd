/* SPDX-License-Identifier: Apache-2.0 */
#include "collect/load.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/util.h"
#include "collect/epoch.h"
#include "collect/layout.h"
#include "meter.skel.h"
#include "tally/ledger.h"

#define MAP_NAME_ITEM(symbol, name) [TALLY_MAP_##symbol] = #name,
static const char *const map_names[] = {
	TALLY_PINNED_MAPS(MAP_NAME_ITEM)[TALLY_MAP_WINDOWS] = "windows",
};
static const char *const hook_names[] = { "ingress", "egress", "sockops" };
static const char *const prog_names[] = { "tally_ingress", "tally_egress", "tally_sockops" };

const char *tally_load_map_name(enum tally_map map)
{
	return map_names[map];
}

const char *tally_load_hook_name(enum tally_hook hook)
{
	return hook_names[hook];
}

const char *tally_load_prog_name(enum tally_hook hook)
{
	return prog_names[hook];
}

int tally_load_path(const struct tally_load *load, const char *name, char *out, size_t size)
{
	int n = snprintf(out, size, "%s/%s", load->pin_dir, name);

	return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

static struct tally_load *load_new(const struct tally_load_options *options)
{
	struct tally_load *load = calloc(1, sizeof(*load));

	if (!load)
		return NULL;
	if (strlen(options->pin_dir) >= sizeof(load->pin_dir)) {
		free(load);
		return NULL;
	}
	strcpy(load->pin_dir, options->pin_dir);
	load->connection_rows = options->connection_rows;
	load->rows = options->rows;
	load->keys = options->keys;
	load->dir_fd = -1;
	for (int i = 0; i < TALLY_MAP_COUNT; i++)
		load->maps[i] = -1;
	for (int i = 0; i < TALLY_HOOK_COUNT; i++)
		load->progs[i] = -1;
	return load;
}

void tally_load_close(struct tally_load *load)
{
	if (!load)
		return;
	for (int i = 0; i < TALLY_MAP_COUNT; i++)
		if (load->maps[i] >= 0)
			(void)close(load->maps[i]); /* read-only use: nothing to lose */
	for (int i = 0; i < TALLY_HOOK_COUNT; i++)
		if (load->progs[i] >= 0)
			(void)close(load->progs[i]);
	for (size_t i = 0; i < load->n_extras; i++) {
		(void)close(load->extras[i].fd);
		free(load->extras[i].name);
	}
	if (load->dir_fd >= 0)
		(void)close(load->dir_fd); /* and with it the lock */
	free(load->ports);
	free(load);
}

static void load_closep(struct tally_load **load)
{
	tally_load_close(*load);
}

/* Open the pin folder and keep others out. */
static int lock_dir(struct tally_load *load)
{
	load->dir_fd = open(load->pin_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (load->dir_fd < 0)
		return -errno;
	if (flock(load->dir_fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? -EBUSY : -errno;
	return 0;
}

static int open_pin(const struct tally_load *load, const char *name, int *ret_fd)
{
	char path[PATH_MAX];
	int fd, err;

	err = tally_load_path(load, name, path, sizeof(path));
	if (err)
		return err;
	fd = bpf_obj_get(path);
	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

static int pin(const struct tally_load *load, int fd, const char *name)
{
	char path[PATH_MAX];
	int err = tally_load_path(load, name, path, sizeof(path));

	if (err)
		return err;
	return bpf_obj_pin(fd, path) ? -errno : 0;
}

/* Maps that carry nothing from one run of a program to the next belong to their object alone. */
static bool is_private(const struct bpf_map *map)
{
	return bpf_map__is_internal(map) || bpf_map__type(map) == BPF_MAP_TYPE_PERCPU_ARRAY;
}

static int same_layout(const struct bpf_map *map, const struct bpf_map_info *info)
{
	bool sized = bpf_map__type(map) == BPF_MAP_TYPE_ARRAY ||
		     bpf_map__type(map) == BPF_MAP_TYPE_ARRAY_OF_MAPS;

	if (info->type == bpf_map__type(map) && info->key_size == bpf_map__key_size(map) &&
	    info->value_size == bpf_map__value_size(map) &&
	    (!sized || info->max_entries == bpf_map__max_entries(map)))
		return 0;
	tally_log_error("pinned_map_differs", "map=%s", bpf_map__name(map));
	return -EPROTO;
}

/* One of those without which the others have no meaning? All of them stand, or none. */
static bool is_essential(const char *name)
{
	for (int i = 0; i < TALLY_MAP_COUNT; i++)
		if (!strcmp(name, map_names[i]))
			return true;
	return false;
}

/*
 * Of a pin that is not there. A map that is new in this object is made by the load, and pinned after it; so are
 * places on pins of the version before.
 */
static int check_absent(const struct tally_load *load, const char *name)
{
	if (!is_essential(name) || (load->before && !strcmp(name, map_names[TALLY_MAP_PLACES])))
		return 0;
	tally_log_error("pin_missing", "map=%s", name);
	return -EUCLEAN;
}

static int reuse_map(struct tally_load *load, struct bpf_map *map)
{
	struct bpf_map_info info = {};
	__u32 len = sizeof(info);
	_cleanup_close_ int fd = -1;
	int err;

	err = open_pin(load, bpf_map__name(map), &fd);
	if (err == -ENOENT)
		return check_absent(load, bpf_map__name(map));
	if (err)
		return err;
	if (bpf_obj_get_info_by_fd(fd, &info, &len))
		return -errno;
	err = same_layout(map, &info);
	if (err)
		return err;
	return bpf_map__reuse_fd(map, fd);
}

/* State of connections in another layout than ours stays with the programs that made it. */
static int reuse_maps(struct tally_load *load, struct bpf_object *obj)
{
	struct bpf_map *map;

	load->renewed = !tally_layout_is(load->dir_fd, load->layout);
	bpf_object__for_each_map(map, obj) {
		bool fresh =
			is_private(map) || (load->renewed && tally_layout_has(bpf_map__name(map)));
		int err = fresh ? 0 : reuse_map(load, map);

		if (err)
			return err;
	}
	return 0;
}

/* Is there a meter already, and can we talk to it? */
static int check_pins(struct tally_load *load, bool *ret_exists)
{
	struct tally_settings settings;
	_cleanup_close_ int fd = -1;
	__u32 zero = 0;
	int err;

	err = open_pin(load, map_names[TALLY_MAP_SETTINGS], &fd);
	if (err == -ENOENT) {
		*ret_exists = false;
		return 0;
	}
	if (err)
		return err;
	if (bpf_map_lookup_elem(fd, &zero, &settings))
		return -errno;
	if (settings.abi_version != TALLY_ABI_VERSION && settings.abi_version != TALLY_ABI_BEFORE) {
		tally_log_error("pinned_abi_differs", "pin_dir=%s pinned=%u ours=%u", load->pin_dir,
				settings.abi_version, TALLY_ABI_VERSION);
		return -EPROTO;
	}
	load->before = settings.abi_version == TALLY_ABI_BEFORE;
	*ret_exists = true;
	return 0;
}

static bool has_links(const struct tally_load *load)
{
	_cleanup_closedir_ DIR *dir = opendir(load->pin_dir);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (!strncmp(entry->d_name, "link-", 5))
			return true;
	return false;
}

/* Pins without `settings` are a start that died: nothing was attached yet, so they count nothing. */
static int clear_ruin(struct tally_load *load)
{
	_cleanup_closedir_ DIR *dir = opendir(load->pin_dir);
	struct dirent *entry;

	if (!dir)
		return -errno;
	if (has_links(load))
		return -EUCLEAN; /* somebody removed pins under a meter that counts */
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.' && unlinkat(load->dir_fd, entry->d_name, 0))
			return -errno;
	return 0;
}

/* The templates of the inner maps: libbpf wants them open until the load. */
static int set_inner(struct meter_bpf *skel, const struct tally_load *load,
		     int ret_fds[TALLY_EPOCH_KINDS])
{
	struct bpf_map *outers[] = { skel->maps.epochs_rows, skel->maps.epochs_spill,
				     skel->maps.epochs_totals };
	int err = 0;

	for (int kind = 0; kind < TALLY_EPOCH_KINDS && !err; kind++) {
		err = tally_epoch_create_map(load, kind, &ret_fds[kind]);
		if (!err)
			err = bpf_map__set_inner_map_fd(outers[kind], ret_fds[kind]);
	}
	return err;
}

static int set_sizes(struct meter_bpf *skel, const struct tally_load *load)
{
	int err;

	err = bpf_map__set_max_entries(skel->maps.dictionary, load->keys);
	/* Candidates are freed word by word in place: an update would race with a new owner. */
	if (!err)
		err = bpf_map__set_map_flags(skel->maps.candidates, BPF_F_MMAPABLE);
	if (!err)
		err = bpf_map__set_map_flags(skel->maps.candidates_long, BPF_F_MMAPABLE);
	if (!err)
		err = bpf_map__set_map_flags(skel->maps.clock, BPF_F_MMAPABLE);
	if (!err)
		err = bpf_map__set_map_flags(skel->maps.epoch, BPF_F_MMAPABLE);
	if (!err)
		err = bpf_map__set_map_flags(skel->maps.parked, BPF_F_MMAPABLE);
	return err;
}

static int keep_fd(int fd, int *slot)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	if (copy < 0)
		return -errno;
	*slot = copy;
	return 0;
}

static int keep_extra(struct tally_load *load, const struct bpf_map *map)
{
	struct tally_load_extra *extra = &load->extras[load->n_extras];
	int err;

	if (is_essential(bpf_map__name(map)))
		return 0;
	if (load->n_extras == TALLY_LOAD_EXTRAS)
		return -E2BIG;
	err = keep_fd(bpf_map__fd(map), &extra->fd);
	if (err)
		return err;
	extra->name = strdup(bpf_map__name(map));
	load->n_extras++;
	return extra->name ? 0 : -ENOMEM;
}

static int keep_maps(struct tally_load *load, struct bpf_object *obj)
{
	struct bpf_map *map;

	bpf_object__for_each_map(map, obj) {
		int err = is_private(map) ? 0 : keep_extra(load, map);

		if (err)
			return err;
	}
	for (int i = 0; i < TALLY_MAP_WINDOWS; i++) {
		int fd = bpf_object__find_map_fd_by_name(obj, map_names[i]);
		int err = fd < 0 ? fd : keep_fd(fd, &load->maps[i]);

		if (err)
			return err;
	}
	return 0;
}

static int keep_programs(struct tally_load *load, const struct meter_bpf *skel)
{
	const struct bpf_program *progs[] = { skel->progs.tally_ingress, skel->progs.tally_egress,
					      skel->progs.tally_sockops };

	for (int i = 0; i < TALLY_HOOK_COUNT; i++) {
		int err = keep_fd(bpf_program__fd(progs[i]), &load->progs[i]);

		if (err)
			return err;
	}
	return 0;
}

/* Everything but `settings`, whose pin says that the others are there. */
static int pin_maps(struct tally_load *load, struct bpf_object *obj)
{
	struct bpf_map *map;

	bpf_object__for_each_map(map, obj) {
		int err;

		if (is_private(map) || !strcmp(bpf_map__name(map), map_names[TALLY_MAP_SETTINGS]))
			continue;
		err = pin(load, bpf_map__fd(map), bpf_map__name(map));
		if (err && !(err == -EEXIST && load->reused))
			return err;
	}
	return 0;
}

static int make_settings(struct tally_load *load)
{
	struct tally_settings settings = { .abi_version = TALLY_ABI_VERSION };
	__u32 zero = 0;

	if (getrandom(settings.secret, sizeof(settings.secret), 0) != sizeof(settings.secret))
		return -EIO;
	if (bpf_map_update_elem(load->maps[TALLY_MAP_SETTINGS], &zero, &settings, BPF_ANY))
		return -errno;
	return pin(load, load->maps[TALLY_MAP_SETTINGS], map_names[TALLY_MAP_SETTINGS]);
}

/* Our programs are about to count in rows that an agent of the version before would read wrongly. */
static int raise_abi(struct tally_load *load)
{
	struct tally_settings settings;
	__u32 zero = 0;

	if (bpf_map_lookup_elem(load->maps[TALLY_MAP_SETTINGS], &zero, &settings))
		return -errno;
	if (settings.abi_version == TALLY_ABI_VERSION)
		return 0;
	settings.abi_version = TALLY_ABI_VERSION;
	return bpf_map_update_elem(load->maps[TALLY_MAP_SETTINGS], &zero, &settings, BPF_ANY)
		       ? -errno
		       : 0;
}

static int open_windows(struct tally_load *load)
{
	int *fd = &load->maps[TALLY_MAP_WINDOWS];
	int err = open_pin(load, map_names[TALLY_MAP_WINDOWS], fd);

	if (err != -ENOENT)
		return err;
	if (load->reused)
		return check_absent(load, map_names[TALLY_MAP_WINDOWS]);
	err = tally_epoch_create_windows(fd);
	return err ? err : pin(load, *fd, map_names[TALLY_MAP_WINDOWS]);
}

static void skel_destroyp(struct meter_bpf **skel)
{
	meter_bpf__destroy(*skel);
}

/* On the pinned maps, or with maps of its own. */
static int load_skeleton(struct tally_load *load, struct meter_bpf *skel)
{
	int fds[TALLY_EPOCH_KINDS] = { -1, -1, -1 };
	int err = set_sizes(skel, load);

	if (!err)
		err = tally_layout_name(skel->obj, load->layout);
	if (!err)
		err = set_inner(skel, load, fds);
	if (!err && load->reused)
		err = reuse_maps(load, skel->obj);
	if (!err)
		err = meter_bpf__load(skel);
	tally_epoch_close(fds);
	return err;
}

/* Load our object, and pin what is new of it. */
static int load_object(struct tally_load *load)
{
	_cleanup_(skel_destroyp) struct meter_bpf *skel = meter_bpf__open();
	int err;

	if (!skel)
		return -errno;
	err = load_skeleton(load, skel);
	if (!err)
		err = keep_maps(load, skel->obj);
	if (!err)
		err = keep_programs(load, skel);
	if (!err)
		err = pin_maps(load, skel->obj);
	if (!err)
		err = open_windows(load);
	if (!err && !load->reused)
		err = pin(load, load->maps[TALLY_MAP_CONNS], load->layout);
	if (!err && !load->reused)
		err = make_settings(load);
	return err;
}

static int adopt_maps(struct tally_load *load)
{
	for (int i = 0; i < TALLY_MAP_COUNT; i++) {
		int err = load->maps[i] >= 0 ? 0 : open_pin(load, map_names[i], &load->maps[i]);

		if (err == -ENOENT && load->before && i == TALLY_MAP_PLACES)
			continue; /* programs of the version before count on without */
		if (err)
			return err;
	}
	return 0;
}

static int adopt_programs(struct tally_load *load)
{
	for (int i = 0; i < TALLY_HOOK_COUNT; i++) {
		int err = load->progs[i] >= 0 ? 0 : open_pin(load, prog_names[i], &load->progs[i]);

		if (err)
			return err;
	}
	return 0;
}

static void drop_programs(struct tally_load *load)
{
	for (int i = 0; i < TALLY_HOOK_COUNT; i++) {
		if (load->progs[i] >= 0)
			(void)close(load->progs[i]);
		load->progs[i] = -1;
	}
}

/* Ours, made for programs that are not used. */
static void drop_maps(struct tally_load *load)
{
	for (int i = 0; i < TALLY_MAP_COUNT; i++)
		tally_util_close(TAKE_FD(load->maps[i]));
	for (size_t i = 0; i < load->n_extras; i++) {
		(void)close(load->extras[i].fd);
		free(load->extras[i].name);
	}
	load->n_extras = 0;
	load->renewed = false;
}

/* The object did not load. If an older one counts, that one goes on. */
static int fall_back(struct tally_load *load, int err)
{
	if (!load->reused || err == -EPROTO || err == -EPERM)
		return err;
	drop_programs(load);
	drop_maps(load);
	if (adopt_maps(load) || adopt_programs(load))
		return err;
	tally_log_error("programs_refused", "error=%s counting=old", strerror(-err));
	load->stale = true;
	return 0;
}

/* The verifier's log is long; what it dislikes stands in the line before its figures. */
static const char *verdict_of(char *text)
{
	char *end = strstr(text, "\nprocessed ");
	char *line;

	if (!end)
		return text;
	*end = 0;
	line = strrchr(text, '\n');
	return line ? line + 1 : text;
}

static int print_libbpf(enum libbpf_print_level level, const char *format, va_list args)
{
	_cleanup_free_ char *text = NULL;

	if (level == LIBBPF_DEBUG)
		return 0;
	if (vasprintf(&text, format, args) < 0) {
		text = NULL;
		return 0;
	}
	if (level == LIBBPF_WARN)
		tally_log_warning("libbpf", "text=%s", verdict_of(text));
	else
		tally_log_debug("libbpf", "text=%s", text);
	return 0;
}

int tally_load_open(const struct tally_load_options *options, struct tally_load **ret_load)
{
	_cleanup_(load_closep) struct tally_load *load = load_new(options);
	int err;

	if (!load)
		return -ENOMEM;
	(void)libbpf_set_print(print_libbpf); /* the one before */
	if (mkdir(load->pin_dir, 0700) && errno != EEXIST)
		return -errno;
	err = lock_dir(load);
	if (!err)
		err = check_pins(load, &load->reused);
	if (!err && !load->reused)
		err = clear_ruin(load);
	if (err)
		return err;
	err = load_object(load);
	if (!err)
		err = raise_abi(load);
	if (err)
		err = fall_back(load, err);
	if (err)
		return err;
	*ret_load = TAKE_PTR(load);
	return 0;
}

int tally_load_adopt(const struct tally_load_options *options, struct tally_load **ret_load)
{
	_cleanup_(load_closep) struct tally_load *load = load_new(options);
	int err;

	if (!load)
		return -ENOMEM;
	err = lock_dir(load);
	if (!err)
		err = check_pins(load, &load->reused);
	if (!err && !load->reused)
		err = has_links(load) ? -EUCLEAN : -ENOENT;
	if (!err)
		err = adopt_maps(load);
	if (err == -ENOENT && load->reused)
		err = -EUCLEAN;
	if (!err)
		err = adopt_programs(load);
	if (err && (err != -ENOENT || !load->reused)) /* their pins are for the next start alone */
		return err;
	*ret_load = TAKE_PTR(load);
	return 0;
}

/* bpffs refuses dots in names; rename replaces a pin in one step. */
static int pin_over(struct tally_load *load, int fd, const char *name)
{
	char fresh[64];
	int err;

	(void)snprintf(fresh, sizeof(fresh), "%s-new", name); /* fits */
	if (unlinkat(load->dir_fd, fresh, 0) && errno != ENOENT)
		return -errno;
	err = pin(load, fd, fresh);
	if (err)
		return err;
	if (renameat(load->dir_fd, fresh, load->dir_fd, name))
		return -errno;
	return 0;
}

/* L2. The old maps live on in the old programs, until the last of those has ended. */
static int pin_layout(struct tally_load *load)
{
	int err = tally_layout_forget(load->dir_fd);

	for (int i = 0; i < TALLY_MAP_WINDOWS && !err; i++)
		if (tally_layout_has(map_names[i]))
			err = pin_over(load, load->maps[i], map_names[i]);
	if (!err)
		err = pin(load, load->maps[TALLY_MAP_CONNS], load->layout);
	if (err)
		return err;
	tally_log_notice("layout_changed", "layout=%s open_connections=%s", load->layout,
			 "joined midway");
	load->renewed = false;
	return 0;
}

int tally_load_pin_programs(struct tally_load *load)
{
	int err = load->renewed ? pin_layout(load) : 0;

	for (int i = 0; i < TALLY_HOOK_COUNT && !load->stale && !err; i++)
		err = pin_over(load, load->progs[i], prog_names[i]);
	return err;
}

static int pin_again(struct tally_load *load, int fd, const char *name)
{
	int err = fd < 0 ? 0 : pin(load, fd, name);

	return err == -EEXIST ? 0 : err;
}

/* Of those whose absence the next start would refuse. */
static int look_for_pins(const struct tally_load *load, bool *ret_all)
{
	bool all = true;

	for (int i = 0; i < TALLY_MAP_COUNT; i++) {
		char path[PATH_MAX];
		int err = tally_load_path(load, map_names[i], path, sizeof(path));

		if (err)
			return err;
		all &= load->maps[i] < 0 || !access(path, F_OK);
	}
	*ret_all = all;
	return 0;
}

/* `settings` last, as at the first start. */
int tally_load_repair(struct tally_load *load, bool *ret_repaired)
{
	bool all;
	int err = look_for_pins(load, &all);

	if (err)
		return err;
	if (all) {
		*ret_repaired = false;
		return 0;
	}
	if (mkdir(load->pin_dir, 0700) && errno != EEXIST)
		return -errno;
	tally_util_close(TAKE_FD(load->dir_fd));
	err = lock_dir(load);
	for (size_t i = 0; i < load->n_extras && !err; i++)
		err = pin_again(load, load->extras[i].fd, load->extras[i].name);
	for (int i = TALLY_MAP_COUNT - 1; i >= 0 && !err; i--)
		err = pin_again(load, load->maps[i], map_names[i]);
	for (int i = 0; i < TALLY_HOOK_COUNT && !err; i++)
		err = pin_again(load, load->progs[i], prog_names[i]);
	if (!err && !load->stale)
		err = pin_again(load, load->maps[TALLY_MAP_CONNS], load->layout);
	if (err)
		return err;
	*ret_repaired = true;
	return 0;
}

int tally_load_wipe(const char *pin_dir)
{
	_cleanup_closedir_ DIR *dir = opendir(pin_dir);
	struct dirent *entry;

	if (!dir)
		return -errno;
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.' && unlinkat(dirfd(dir), entry->d_name, 0))
			return -errno;
	return rmdir(pin_dir) ? -errno : 0;
}

int tally_load_remove(struct tally_load *load)
{
	int err;

	if (unlinkat(load->dir_fd, map_names[TALLY_MAP_SETTINGS], 0) && errno != ENOENT)
		return -errno;
	err = clear_ruin(load);
	if (err)
		return err;
	return rmdir(load->pin_dir) ? -errno : 0;
}

int tally_load_map(int fd, size_t bytes, void **ret_base)
{
	void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (base == MAP_FAILED)
		return -errno;
	*ret_base = base;
	return 0;
}

int tally_load_secret(const struct tally_load *load, uint64_t ret_secret[2])
{
	struct tally_settings settings;
	__u32 zero = 0;

	if (bpf_map_lookup_elem(load->maps[TALLY_MAP_SETTINGS], &zero, &settings))
		return -errno;
	memcpy(ret_secret, settings.secret, sizeof(settings.secret));
	return 0;
}

void tally_load_cost(const struct tally_load *load, enum tally_hook hook, uint64_t *ret_runs,
		     uint64_t *ret_ns)
{
	struct bpf_prog_info info = {};
	__u32 len = sizeof(info);
	bool known = !bpf_obj_get_info_by_fd(load->progs[hook], &info, &len);

	*ret_runs = known ? info.run_cnt : 0;
	*ret_ns = known ? info.run_time_ns : 0;
}

static uint64_t memory_of(int fd)
{
	_cleanup_free_ char *text = NULL;
	unsigned long long bytes;
	char path[64];
	char *line;
	size_t size;

	(void)snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	if (fd < 0 || tally_util_read_file(path, 4096, &text, &size))
		return 0;
	line = strstr(text, "memlock:");
	return line && sscanf(line, "memlock: %llu", &bytes) == 1 ? bytes : 0;
}

uint64_t tally_load_memory(const struct tally_load *load)
{
	uint64_t sum = 0;

	for (int i = 0; i < TALLY_MAP_COUNT; i++)
		sum += memory_of(load->maps[i]);
	for (size_t i = 0; i < load->n_extras; i++)
		sum += memory_of(load->extras[i].fd);
	return sum;
}

uint32_t tally_load_capacity(const struct tally_load *load, enum tally_map map)
{
	struct bpf_map_info info = {};
	__u32 len = sizeof(info);

	return bpf_obj_get_info_by_fd(load->maps[map], &info, &len) ? 0 : info.max_entries;
}
