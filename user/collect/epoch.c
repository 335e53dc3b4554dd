/* SPDX-License-Identifier: Apache-2.0 */
#include "collect/epoch.h"

#include <bpf/bpf.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "tally/ledger.h"

static const char *const kind_names[] = { "rows", "spill", "totals" };

int tally_epoch_create_map(const struct tally_load *load, enum tally_epoch_kind kind, int *ret_fd)
{
	LIBBPF_OPTS(bpf_map_create_opts, lazy, .map_flags = BPF_F_NO_PREALLOC);
	int fd;

	if (kind == TALLY_EPOCH_TOTALS)
		fd = bpf_map_create(BPF_MAP_TYPE_PERCPU_ARRAY, "tally_totals", sizeof(__u32),
				    sizeof(struct tally_totals), TALLY_TOTALS, NULL);
	else if (kind == TALLY_EPOCH_SPILL)
		fd = bpf_map_create(BPF_MAP_TYPE_HASH, "tally_spill", sizeof(struct tally_row_key),
				    sizeof(struct tally_row), load->rows, NULL);
	else
		fd = bpf_map_create(BPF_MAP_TYPE_HASH, "tally_rows", sizeof(struct tally_row_key),
				    sizeof(struct tally_row), load->connection_rows, &lazy);
	if (fd < 0)
		return fd;
	*ret_fd = fd;
	return 0;
}

int tally_epoch_create_windows(int *ret_fd)
{
	int fd = bpf_map_create(BPF_MAP_TYPE_HASH, "tally_windows", sizeof(uint64_t),
				sizeof(struct tally_window), TALLY_WINDOWS, NULL);

	if (fd < 0)
		return fd;
	*ret_fd = fd;
	return 0;
}

static int pin_path(const struct tally_load *load, uint64_t number, int kind, char *out)
{
	char name[64];

	(void)snprintf(name, sizeof(name), "epoch-%" PRIu64 "-%s", number, kind_names[kind]);
	return tally_load_path(load, name, out, PATH_MAX);
}

void tally_epoch_close(int fds[TALLY_EPOCH_KINDS])
{
	for (int i = 0; i < TALLY_EPOCH_KINDS; i++) {
		if (fds[i] >= 0)
			(void)close(fds[i]); /* a reference, no data */
		fds[i] = -1;
	}
}

static int create_one(struct tally_load *load, uint64_t number, int kind, int *ret_fd)
{
	char path[PATH_MAX];
	int err = pin_path(load, number, kind, path);

	if (!err)
		err = tally_epoch_create_map(load, kind, ret_fd);
	if (!err && bpf_obj_pin(*ret_fd, path))
		err = -errno;
	return err;
}

/* `totals` is pinned last: its pin says that the epoch is whole. */
int tally_epoch_create(struct tally_load *load, uint64_t number, int ret_fds[TALLY_EPOCH_KINDS])
{
	int fds[TALLY_EPOCH_KINDS] = { -1, -1, -1 };
	int err = 0;

	for (int i = 0; i < TALLY_EPOCH_KINDS && !err; i++)
		err = create_one(load, number, i, &fds[i]);
	if (err) {
		tally_epoch_close(fds);
		return err; /* pins that stand already are removed by the next try */
	}
	memcpy(ret_fds, fds, sizeof(fds));
	return 0;
}

int tally_epoch_pin(struct tally_load *load, uint64_t number, const int fds[TALLY_EPOCH_KINDS])
{
	for (int i = 0; i < TALLY_EPOCH_KINDS; i++) {
		char path[PATH_MAX];
		int err = pin_path(load, number, i, path);

		if (err)
			return err;
		if (bpf_obj_pin(fds[i], path) && errno != EEXIST)
			return -errno;
	}
	return 0;
}

int tally_epoch_open(const struct tally_load *load, uint64_t number, int ret_fds[TALLY_EPOCH_KINDS])
{
	int fds[TALLY_EPOCH_KINDS] = { -1, -1, -1 };
	int err = 0;

	for (int i = 0; i < TALLY_EPOCH_KINDS && !err; i++) {
		char path[PATH_MAX];

		err = pin_path(load, number, i, path);
		if (err)
			break;
		fds[i] = bpf_obj_get(path);
		if (fds[i] < 0)
			err = -errno;
	}
	if (err) {
		tally_epoch_close(fds);
		return err;
	}
	memcpy(ret_fds, fds, sizeof(fds));
	return 0;
}

int tally_epoch_unpin(struct tally_load *load, uint64_t number)
{
	for (int i = TALLY_EPOCH_KINDS - 1; i >= 0; i--) {
		char path[PATH_MAX];
		int err = pin_path(load, number, i, path);

		if (err)
			return err;
		if (unlink(path) && errno != ENOENT)
			return -errno;
	}
	return 0;
}

int tally_epoch_next(const struct tally_load *load, uint64_t from, uint64_t *ret_number)
{
	_cleanup_closedir_ DIR *dir = opendir(load->pin_dir);
	struct dirent *entry;
	uint64_t best = UINT64_MAX;

	if (!dir)
		return -errno;
	while (errno = 0, (entry = readdir(dir))) {
		uint64_t number;
		char kind[16];

		if (sscanf(entry->d_name, "epoch-%" SCNu64 "-%15s", &number, kind) == 2 &&
		    number >= from && number < best)
			best = number;
	}
	if (errno) /* half a list would pass over an epoch */
		return -errno;
	if (best == UINT64_MAX)
		return -ENOENT;
	*ret_number = best;
	return 0;
}
