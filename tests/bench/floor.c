// SPDX-License-Identifier: Apache-2.0
/*
 * floor CGROUP empty|least: attaches the programs of that kind to a cgroup, says `ready`, and waits for the
 * end of its input. Then it prints what the kernel's run statistics say of them meanwhile, as JSON; they
 * must be on (kernel.bpf_stats_enabled).
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "tests/bench/floor.skel.h"
#include "tests/bench/libbench.h"

static struct bpf_prog_info statistics_of(const struct bpf_program *prog)
{
	struct bpf_prog_info info = { 0 };
	__u32 size = sizeof(info);

	if (bpf_obj_get_info_by_fd(bpf_program__fd(prog), &info, &size))
		bench_die("statistics of a program");
	return info;
}

/* From `ready` to the end of input, programs in and out together. */
static void measure(struct bpf_program *in, struct bpf_program *out)
{
	struct bpf_prog_info a = statistics_of(in), b = statistics_of(out), a1, b1;
	char unused[64];

	puts("ready");
	fflush(stdout);
	while (read(STDIN_FILENO, unused, sizeof(unused)) > 0)
		;
	a1 = statistics_of(in);
	b1 = statistics_of(out);
	printf("{\"runs\": %llu, \"ns\": %llu}\n",
	       (unsigned long long)(a1.run_cnt - a.run_cnt + b1.run_cnt - b.run_cnt),
	       (unsigned long long)(a1.run_time_ns - a.run_time_ns + b1.run_time_ns -
				    b.run_time_ns));
}

int main(int argc, char **argv)
{
	struct floor_bpf *s = bench_must(floor_bpf__open_and_load());
	int least = argc == 3 && strcmp(argv[2], "least") == 0;
	struct bpf_program *in = least ? s->progs.floor_least_in : s->progs.floor_empty_in;
	struct bpf_program *out = least ? s->progs.floor_least_out : s->progs.floor_empty_out;
	struct bpf_link *links[2];
	int cgroup;

	if (argc != 3) {
		fprintf(stderr, "usage: floor CGROUP empty|least\n");
		return 2;
	}
	cgroup = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (cgroup < 0)
		bench_die(argv[1]);
	links[0] = bench_must(bpf_program__attach_cgroup(in, cgroup));
	links[1] = bench_must(bpf_program__attach_cgroup(out, cgroup));
	measure(in, out);
	bpf_link__destroy(links[0]);
	bpf_link__destroy(links[1]);
	close(cgroup);
	floor_bpf__destroy(s);
	return 0;
}
