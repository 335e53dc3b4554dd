// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/liblines.h"

#include <stdlib.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>

#include "tests/bench/libbench.h"

/* Room for what the kernel tells of n things. */
static __u64 room(uint32_t n, size_t bytes)
{
	return (__u64)(uintptr_t)bench_must(calloc(n + 1, bytes));
}

static void *told(__u64 pointer)
{
	return (void *)(uintptr_t)pointer;
}

void bench_lines(int prog, FILE *out)
{
	struct bpf_prog_info n = { 0 }, info = { 0 };
	__u32 len = sizeof(n);
	struct btf *btf;

	if (bpf_obj_get_info_by_fd(prog, &n, &len))
		bench_die("program");
	info.nr_jited_ksyms = n.nr_jited_ksyms;
	info.jited_ksyms = room(n.nr_jited_ksyms, sizeof(__u64));
	info.nr_jited_func_lens = n.nr_jited_func_lens;
	info.jited_func_lens = room(n.nr_jited_func_lens, sizeof(__u32));
	info.nr_jited_line_info = n.nr_jited_line_info;
	info.jited_line_info_rec_size = sizeof(__u64);
	info.jited_line_info = room(n.nr_jited_line_info, sizeof(__u64));
	info.nr_line_info = n.nr_line_info;
	info.line_info_rec_size = sizeof(struct bpf_line_info);
	info.line_info = room(n.nr_line_info, sizeof(struct bpf_line_info));
	len = sizeof(info);
	if (bpf_obj_get_info_by_fd(prog, &info, &len))
		bench_die("program");
	btf = bench_must(btf__load_from_kernel_by_id(info.btf_id));
	for (__u32 i = 0; i < info.nr_jited_ksyms; i++)
		fprintf(out, "function %llx %u\n",
			(unsigned long long)((__u64 *)told(info.jited_ksyms))[i],
			((__u32 *)told(info.jited_func_lens))[i]);
	for (__u32 i = 0; i < info.nr_jited_line_info; i++) {
		struct bpf_line_info *l = (struct bpf_line_info *)told(info.line_info) + i;

		fprintf(out, "line %llx %s %u\n",
			(unsigned long long)((__u64 *)told(info.jited_line_info))[i],
			btf__name_by_offset(btf, l->file_name_off),
			BPF_LINE_INFO_LINE_NUM(l->line_col));
	}
	btf__free(btf);
	free(told(info.jited_ksyms));
	free(told(info.jited_func_lens));
	free(told(info.jited_line_info));
	free(told(info.line_info));
}
