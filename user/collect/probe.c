/* SPDX-License-Identifier: Apache-2.0 */
#include "collect/probe.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/vfs.h>

#include "collect/cgroup.h"
#include "meter.skel.h"

#define BPFFS "/sys/fs/bpf"

static void add(struct tally_probe *probe, const char *name, const char *text, enum tally_tier tier,
		int result)
{
	struct tally_probe_item *item;

	if (probe->n == TALLY_PROBE_ITEMS)
		return;
	item = &probe->items[probe->n++];
	item->name = name;
	item->text = text;
	item->needed_for = tier;
	item->error = result;
	item->verdict = !result		   ? TALLY_PROBE_YES
			: result == -EPERM ? TALLY_PROBE_UNKNOWN
					   : TALLY_PROBE_NO;
}

/* ---- capabilities ---- */

static const struct {
	int bit;
	const char *name, *text;
	enum tally_tier tier;
} capabilities[] = {
	{ CAP_BPF, "CAP_BPF", "load programs and make maps", TALLY_TIER_PLAINTEXT },
	{ CAP_NET_ADMIN, "CAP_NET_ADMIN", "attach to cgroups' packets", TALLY_TIER_PLAINTEXT },
	/* Without it the verifier masks pointer arithmetic, and refuses what it cannot mask. */
	{ CAP_PERFMON, "CAP_PERFMON", "have the verifier accept our pointer arithmetic",
	  TALLY_TIER_PLAINTEXT },
	{ CAP_SYS_PTRACE, "CAP_SYS_PTRACE", "see what other users' processes run",
	  TALLY_TIER_EXECUTABLE },
	{ CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "uprobes by perf events, where links of many are missing",
	  TALLY_TIER_NONE },
	{ CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH",
	  "libraries and descriptors that only others may read", TALLY_TIER_NONE },
};

/* CAP_SYS_ADMIN stands for the capabilities that were split from it. */
static bool has_capability(const struct __user_cap_data_struct *data, int bit)
{
	bool admin = data[CAP_TO_INDEX(CAP_SYS_ADMIN)].effective & CAP_TO_MASK(CAP_SYS_ADMIN);

	if (data[CAP_TO_INDEX(bit)].effective & CAP_TO_MASK(bit))
		return true;
	return admin && (bit == CAP_BPF || bit == CAP_PERFMON);
}

void tally_probe_capabilities(struct tally_probe *probe)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};

	if (syscall(SYS_capget, &header, data))
		memset(data, 0, sizeof(data)); /* cannot tell: then we have none */
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(capabilities); i++) {
		add(probe, capabilities[i].name, capabilities[i].text, capabilities[i].tier,
		    has_capability(data, capabilities[i].bit) ? 0 : -ENOENT);
		probe->items[probe->n - 1].is_capability = true;
	}
}

/* ---- features ---- */

static int try_bpf_syscall(void)
{
	int fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "tally_probe", 4, 4, 1, NULL);

	tally_util_close(fd);
	return fd < 0 ? fd : 0;
}

/* libbpf answers 1 yes, 0 no, or -errno; without the capability every attempt looks like a no. */
static int try_prog(enum bpf_prog_type type)
{
	int answer = libbpf_probe_bpf_prog_type(type, NULL);

	return answer == 1 ? 0 : answer ? answer : -EOPNOTSUPP;
}

static int try_helper(enum bpf_prog_type type, enum bpf_func_id helper)
{
	int answer = libbpf_probe_bpf_helper(type, helper, NULL);

	return answer == 1 ? 0 : answer ? answer : -EOPNOTSUPP;
}

static int try_map(enum bpf_map_type type)
{
	int answer = libbpf_probe_bpf_map_type(type, NULL);

	return answer == 1 ? 0 : answer ? answer : -EOPNOTSUPP;
}

/* A kernel that knows links says what is wrong with the descriptor. */
static int try_link(void)
{
	int fd = bpf_link_create(-1, -1, BPF_CGROUP_INET_INGRESS, NULL);

	tally_util_close(fd);
	return errno == EBADF ? 0 : -EOPNOTSUPP;
}

static int try_batch(void)
{
	int fd = bpf_map_create(BPF_MAP_TYPE_HASH, "tally_probe", 8, 8, 4, NULL);
	__u64 key = 1, value = 1, keys[4], values[4];
	__u32 cursor = 0, n = 4;
	int err;

	if (fd < 0)
		return fd;
	err = bpf_map_update_elem(fd, &key, &value, BPF_ANY) ? -errno : 0;
	if (!err && bpf_map_lookup_batch(fd, NULL, &cursor, keys, values, &n, NULL) &&
	    errno != ENOENT)
		err = -EOPNOTSUPP;
	if (!err && n != 1)
		err = -EOPNOTSUPP;
	tally_util_close(fd);
	return err;
}

/* Programs ask by it whether the kernel knows MPTCP. */
static int try_btf(void)
{
	struct btf *btf = btf__load_vmlinux_btf();

	if (!btf)
		return -errno;
	btf__free(btf);
	return 0;
}

/* The verifier's opinion of our own programs decides in the end. */
static int try_object(void)
{
	struct meter_bpf *skel = meter_bpf__open();
	int err;

	if (!skel)
		return -errno;
	err = meter_bpf__load(skel);
	meter_bpf__destroy(skel);
	return err;
}

/* From who lacks capabilities the kernel refuses what it can do, and libbpf takes that for an answer. */
static int answer(bool able, int result)
{
	return able ? result : -EPERM;
}

static void probe_features(struct tally_probe *probe)
{
	const enum bpf_prog_type skb = BPF_PROG_TYPE_CGROUP_SKB;
	const enum tally_tier t = TALLY_TIER_PLAINTEXT;
	const bool able = !tally_probe_missing(probe, t);

	add(probe, "bpf", "bpf system call", t, try_bpf_syscall());
	add(probe, "cgroup2", "cgroup v2 is mounted", t,
	    tally_cgroup_mount(probe->cgroup_mount, sizeof(probe->cgroup_mount)));
	add(probe, "bpffs", "bpf filesystem for pins", t, tally_probe_bpffs(BPFFS));
	add(probe, "cgroup_skb", "programs on the packets of a cgroup", t,
	    answer(able, try_prog(skb)));
	add(probe, "sock_ops", "programs on the births and deaths of sockets", t,
	    answer(able, try_prog(BPF_PROG_TYPE_SOCK_OPS)));
	add(probe, "cgroup_link", "links to cgroups, replaceable in place", t, try_link());
	add(probe, "sk_storage", "state kept with a socket", t,
	    answer(able, try_helper(skb, BPF_FUNC_sk_storage_get)));
	add(probe, "bpf_loop", "bounded loops", t, answer(able, try_helper(skb, BPF_FUNC_loop)));
	add(probe, "ancestor_cgroup", "the cgroups above a socket's", t,
	    answer(able, try_helper(skb, BPF_FUNC_skb_ancestor_cgroup_id)));
	add(probe, "map_in_map", "maps swapped whole", t,
	    answer(able, try_map(BPF_MAP_TYPE_ARRAY_OF_MAPS)));
	add(probe, "batch", "maps read in batches", t, try_batch());
	add(probe, "btf", "the kernel describes its types", t, try_btf());
	add(probe, "programs", "our programs pass the verifier", t, try_object());
	add(probe, "uprobes", "programs on functions of libraries", TALLY_TIER_TLS,
	    answer(able, try_prog(BPF_PROG_TYPE_KPROBE)));
}

static int silent(enum libbpf_print_level level, const char *format, va_list args)
{
	return 0;
}

static enum tally_tier tier_of(const struct tally_probe *probe)
{
	if (tally_probe_missing(probe, TALLY_TIER_PLAINTEXT))
		return TALLY_TIER_NONE;
	if (tally_probe_missing(probe, TALLY_TIER_EXECUTABLE))
		return TALLY_TIER_PLAINTEXT;
	return tally_probe_missing(probe, TALLY_TIER_TLS) ? TALLY_TIER_EXECUTABLE : TALLY_TIER_TLS;
}

void tally_probe_run(struct tally_probe *ret_probe)
{
	libbpf_print_fn_t before = libbpf_set_print(silent);
	struct utsname name;

	memset(ret_probe, 0, sizeof(*ret_probe));
	if (!uname(&name))
		(void)snprintf(ret_probe->kernel, sizeof(ret_probe->kernel), "%s %s %s",
			       name.sysname, name.release, name.machine);
	tally_probe_capabilities(ret_probe);
	probe_features(ret_probe);
	ret_probe->tier = tier_of(ret_probe);
	(void)libbpf_set_print(before); /* the silent one */
}

const struct tally_probe_item *tally_probe_missing(const struct tally_probe *probe,
						   enum tally_tier tier)
{
	const struct tally_probe_item *feature = NULL;

	for (size_t i = 0; i < probe->n; i++) {
		const struct tally_probe_item *item = &probe->items[i];

		if (item->verdict == TALLY_PROBE_YES || item->needed_for == TALLY_TIER_NONE ||
		    item->needed_for > tier)
			continue;
		if (item->is_capability)
			return item;
		if (!feature)
			feature = item;
	}
	return feature;
}

const char *tally_probe_tier_name(enum tally_tier tier)
{
	static const char *const names[] = { "none", "plaintext", "executable", "tls" };

	return names[tier];
}

const char *tally_probe_verdict_name(enum tally_verdict verdict)
{
	static const char *const names[] = { "yes", "no", "unknown" };

	return names[verdict];
}

static bool is_bpffs(const char *path)
{
	struct statfs fs;

	return !statfs(path, &fs) && fs.f_type == BPF_FS_MAGIC;
}

int tally_probe_pin_dir(const char *pin_dir)
{
	char path[PATH_MAX];
	char *slash;

	if (strncmp(pin_dir, BPFFS "/", strlen(BPFFS) + 1) == 0)
		return 0;
	(void)snprintf(path, sizeof(path), "%s", pin_dir);
	while (!is_bpffs(path)) {
		slash = strrchr(path, '/');
		if (access(path, F_OK) == 0 || !slash || slash == path)
			return -ENOTDIR;
		*slash = 0;
	}
	return 0;
}

/* Pins live below BPFFS; the folder itself may not exist yet. */
int tally_probe_bpffs(const char *pin_dir)
{
	char parent[PATH_MAX];
	char *slash;

	if (is_bpffs(pin_dir))
		return 0;
	(void)snprintf(parent, sizeof(parent), "%s", pin_dir);
	slash = strrchr(parent, '/');
	if (slash && slash != parent)
		*slash = 0;
	if (is_bpffs(parent))
		return 0;
	if (strncmp(pin_dir, BPFFS, strlen(BPFFS)) != 0)
		return -ENOTDIR;
	if (is_bpffs(BPFFS))
		return 0;
	return mount("bpf", BPFFS, "bpf", 0, "mode=0700") ? -errno : 0;
}
