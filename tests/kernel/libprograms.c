/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/kernel/libprograms.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <bpf/bpf.h>

#include "bpf/meter_types.h"
#include "tally/hash.h"
#include "tests/kernel/vectors.skel.h"

#define ETHERNET 14

void programs_die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

void programs_put(const struct bpf_map *map, const void *value)
{
	uint32_t zero = 0;

	if (bpf_map_update_elem(bpf_map__fd(map), &zero, value, BPF_ANY))
		programs_die(bpf_map__name(map));
}

static void may_be_mapped(struct bpf_map *map)
{
	if (bpf_map__set_map_flags(map, bpf_map__map_flags(map) | BPF_F_MMAPABLE))
		programs_die(bpf_map__name(map));
}

/* As the template of the inner map, which libbpf forgets when it has loaded. */
static int map_like(const struct bpf_map *outer, uint32_t n)
{
	const struct bpf_map *inner = bpf_map__inner_map((struct bpf_map *)outer);
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = bpf_map__map_flags(inner));
	int fd = bpf_map_create(bpf_map__type(inner), "vectors", bpf_map__key_size(inner),
				bpf_map__value_size(inner), n, &opts);

	if (fd < 0)
		programs_die("map");
	return fd;
}

/* What the agent writes before it attaches the programs. */
static void set_up(const struct programs *p)
{
	const struct vectors_bpf *s = p->skel;
	const struct tally_settings settings = { .abi_version = TALLY_ABI_VERSION };
	const struct tally_service service = { .slot = 0 };
	const struct tally_epoch epoch = { .number = 1 };
	const struct tally_clock clock = { .hour = 500000 };

	programs_put(s->maps.epochs_rows, &p->rows);
	programs_put(s->maps.epochs_spill, &p->spill);
	programs_put(s->maps.epochs_totals, &p->totals);
	programs_put(s->maps.epoch, &epoch);
	programs_put(s->maps.clock, &clock);
	programs_put(s->maps.settings, &settings);
	programs_put(s->maps.services, &service);
}

void programs_load(struct programs *ret_programs)
{
	struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };
	struct programs p = { .skel = vectors_bpf__open(), .cpus = libbpf_num_possible_cpus() };

	(void)setrlimit(RLIMIT_MEMLOCK, &all); /* only old kernels look at it */
	if (!p.skel)
		programs_die("open");
	p.rows = map_like(p.skel->maps.epochs_rows, PROGRAMS_ROWS);
	p.spill = map_like(p.skel->maps.epochs_spill, PROGRAMS_ROWS);
	p.totals = map_like(p.skel->maps.epochs_totals, TALLY_TOTALS);
	may_be_mapped(p.skel->maps.candidates);
	may_be_mapped(p.skel->maps.candidates_long);
	may_be_mapped(p.skel->maps.parked);
	if (bpf_map__set_max_entries(p.skel->maps.places, PROGRAMS_PLACES) ||
	    vectors_bpf__load(p.skel))
		programs_die("load");
	set_up(&p);
	p.places = mmap(NULL, PROGRAMS_PLACES * sizeof(*p.places), PROT_READ | PROT_WRITE,
			MAP_SHARED, bpf_map__fd(p.skel->maps.places), 0);
	if (p.places == MAP_FAILED)
		programs_die("places");
	*ret_programs = p;
}

void programs_unload(struct programs *programs)
{
	(void)munmap(programs->places, PROGRAMS_PLACES * sizeof(*programs->places));
	vectors_bpf__destroy(programs->skel);
}

void programs_run(const struct bpf_program *program, const struct vectors_segment *told,
		  const void *data, uint32_t n)
{
	uint8_t frame[ETHERNET + VECTORS_OFF + VECTORS_MAX] = { [12] = 8, [ETHERNET] = 0x45 };
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = frame,
		    .data_size_in = ETHERNET + VECTORS_OFF + n, .repeat = 1);

	memcpy(frame + ETHERNET + VECTORS_TOLD, told, sizeof(*told));
	if (n)
		memcpy(frame + ETHERNET + VECTORS_OFF, data, n);
	if (bpf_prog_test_run_opts(bpf_program__fd(program), &opts))
		programs_die("BPF_PROG_TEST_RUN");
	if (opts.retval != 1) {
		fprintf(stderr, "the program did not run to its end\n");
		exit(1);
	}
}

void programs_rows(const struct programs *programs, programs_visit *visit, void *ctx)
{
	struct tally_row_key key, at, *previous = NULL;
	struct tally_row row;

	for (int i = 0; i < PROGRAMS_PLACES; i++) {
		row = programs->places[i].row;
		tally_row_whole(&row);
		if (programs->places[i].epoch)
			visit(&programs->places[i].key, &row, ctx);
	}
	while (!bpf_map_get_next_key(programs->rows, previous, &key)) {
		at = key;
		previous = &at;
		if (bpf_map_lookup_elem(programs->rows, &at, &row))
			programs_die("rows");
		tally_row_whole(&row);
		visit(&at, &row, ctx);
	}
}

void programs_clear_rows(const struct programs *programs)
{
	struct tally_row_key key;

	memset(programs->places, 0, PROGRAMS_PLACES * sizeof(*programs->places));
	while (!bpf_map_get_next_key(programs->rows, NULL, &key))
		if (bpf_map_delete_elem(programs->rows, &key))
			programs_die("rows");
}

void programs_totals(const struct programs *programs, struct tally_totals *ret_sum)
{
	struct tally_totals *all = calloc((size_t)programs->cpus, sizeof(*all)), sum = { 0 };

	if (!all)
		abort();
	for (uint32_t level = 0; level <= TALLY_NEST; level++) {
		uint32_t at = TALLY_TOTALS_AT(level, 0);

		if (bpf_map_lookup_elem(programs->totals, &at, all))
			programs_die("totals");
		for (int cpu = 0; cpu < programs->cpus; cpu++)
			for (size_t i = 0; i < sizeof(sum) / sizeof(__u64); i++)
				((__u64 *)&sum)[i] += ((const __u64 *)&all[cpu])[i];
	}
	free(all);
	*ret_sum = sum;
}

uint64_t programs_know(const struct programs *programs, const struct tally_rules *rules,
		       const char *text)
{
	const __u64 secret[2] = { rules->secret[0], rules->secret[1] };
	const struct tally_key_entry entry = { .state = TALLY_KEY_RESOLVED };
	__u64 hash = tally_key_hash(text, (__u32)strlen(text), secret);

	if (bpf_map_update_elem(bpf_map__fd(programs->skel->maps.dictionary), &hash, &entry,
				BPF_ANY))
		programs_die("dictionary");
	return hash;
}
