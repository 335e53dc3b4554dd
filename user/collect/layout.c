/* SPDX-License-Identifier: Apache-2.0 */
#include "collect/layout.h"

#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>

#define PREFIX "layout-"
#define FNV_OFFSET 0xcbf29ce484222325ULL
#define FNV_PRIME 0x100000001b3ULL

static const char *const maps[] = { "conns", "parked", "deferred" };

bool tally_layout_has(const char *map)
{
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(maps); i++)
		if (!strcmp(map, maps[i]))
			return true;
	return false;
}

/* No enemy chooses what is hashed: a plain hash will do. */
static void hash_bytes(uint64_t *hash, const void *data, size_t bytes)
{
	const uint8_t *p = data;

	for (size_t i = 0; i < bytes; i++)
		*hash = (*hash ^ p[i]) * FNV_PRIME;
}

static void hash_number(uint64_t *hash, uint32_t number)
{
	hash_bytes(hash, &number, sizeof(number));
}

static int hash_type(const struct btf *btf, uint32_t id, uint64_t *hash);

/* Members by name, too: two of one size that change places are another layout. */
static int hash_members(const struct btf *btf, const struct btf_type *type, uint64_t *hash)
{
	const struct btf_member *members = btf_members(type);
	int err = 0;

	for (uint32_t i = 0; i < btf_vlen(type) && !err; i++) {
		const char *name = btf__name_by_offset(btf, members[i].name_off);

		hash_bytes(hash, name, strlen(name) + 1);
		hash_number(hash, btf_member_bit_offset(type, i));
		err = hash_type(btf, members[i].type, hash);
	}
	return err;
}

/* There are no pointers in state, hence no circles. */
static int hash_type(const struct btf *btf, uint32_t id, uint64_t *hash)
{
	const struct btf_type *type = btf__type_by_id(btf, id);

	while (type && (btf_is_typedef(type) || btf_is_mod(type)))
		type = btf__type_by_id(btf, type->type);
	if (!type || btf_is_ptr(type))
		return -ENOENT;
	hash_number(hash, btf_kind(type));
	if (btf_is_array(type)) {
		hash_number(hash, btf_array(type)->nelems);
		return hash_type(btf, btf_array(type)->type, hash);
	}
	hash_number(hash, type->size);
	return btf_is_composite(type) ? hash_members(btf, type, hash) : 0;
}

int tally_layout_name(const struct bpf_object *obj, char ret_name[TALLY_LAYOUT_NAME])
{
	const struct btf *btf = bpf_object__btf(obj);
	uint64_t hash = FNV_OFFSET;

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(maps); i++) {
		const struct bpf_map *map = bpf_object__find_map_by_name(obj, maps[i]);
		uint32_t type = btf && map ? bpf_map__btf_value_type_id(map) : 0;
		int err = type ? hash_type(btf, type, &hash) : -ENOENT;

		if (err)
			return err;
		hash_number(&hash, bpf_map__max_entries(map));
	}
	(void)snprintf(ret_name, TALLY_LAYOUT_NAME, PREFIX "%016" PRIx64, hash); /* fits */
	return 0;
}

bool tally_layout_is(int dir_fd, const char *name)
{
	struct stat st;

	return !fstatat(dir_fd, name, &st, 0);
}

int tally_layout_forget(int dir_fd)
{
	_cleanup_close_ int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_closedir_ DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	if (!dir)
		return -errno;
	fd = -1; /* the folder's from here on */
	while ((entry = readdir(dir)))
		if (!strncmp(entry->d_name, PREFIX, strlen(PREFIX)) &&
		    unlinkat(dir_fd, entry->d_name, 0))
			return -errno;
	return 0;
}
