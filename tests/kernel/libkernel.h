/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tests of collect/ share: a scratch folder in bpffs with the name of the test, gone before
 * and after it, and a scratch cgroup. Without root, or a bpf filesystem, the test is skipped and says so.
 */
#ifndef TALLY_TESTS_LIBKERNEL_H
#define TALLY_TESTS_LIBKERNEL_H

#include <bpf/bpf.h>
#include <stddef.h>
#include <stdint.h>

/* Made new; *ret_path lives until the next call. Ends the program with a SKIP where it cannot. */
const char *kernel_pin_dir(const char *name, int make);
/* Remove every pin below, and the folder. */
void kernel_unpin(const char *path);

/* A map of that shape, its descriptor; the test fails where it cannot be made. */
int kernel_map(enum bpf_map_type type, size_t key, size_t value, uint32_t n, uint32_t flags);

/* A cgroup of that name below the v2 mount; removed with kernel_cgroup_remove(). */
const char *kernel_cgroup_make(const char *name);
void kernel_cgroup_remove(const char *path);
/* This process goes there. */
void kernel_cgroup_enter(const char *path);

#endif
