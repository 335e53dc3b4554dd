/* SPDX-License-Identifier: Apache-2.0 */
#include "base/privileges.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

/* Nothing of a namespace, and never a process. */
#define CLONE_REFUSED                                                                  \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | \
	 CLONE_NEWPID | CLONE_NEWNET | CLONE_VFORK)

/*
 * Recorded from the running agent with every kind of sink, through reloads, broken connections and
 * ends (tests/e2e/record-calls.sh), and what other versions and machines call in their place: `open`
 * or `openat`, `poll` or `ppoll`. A name that a machine has not is passed over.
 */
static const char *const free_calls[] = {
	/* files */
	"access",
	"chmod",
	"close",
	"close_range",
	"creat",
	"dup",
	"dup2",
	"dup3",
	"faccessat",
	"faccessat2",
	"fadvise64",
	"fallocate",
	"fchmod",
	"fchmodat",
	"fcntl",
	"fdatasync",
	"flock",
	"fstat",
	"fstatfs",
	"fsync",
	"ftruncate",
	"getcwd",
	"getdents",
	"getdents64",
	"link",
	"linkat",
	"lseek",
	"lstat",
	"mkdir",
	"mkdirat",
	"newfstatat",
	"open",
	"openat",
	"openat2",
	"pread64",
	"preadv",
	"pwrite64",
	"pwritev",
	"read",
	"readlink",
	"readlinkat",
	"readv",
	"rename",
	"renameat",
	"renameat2",
	"rmdir",
	"stat",
	"statfs",
	"statx",
	"sync_file_range",
	"syncfs",
	"umask",
	"unlink",
	"unlinkat",
	"write",
	"writev",
	/* the file system's news */
	"inotify_add_watch",
	"inotify_init1",
	"inotify_rm_watch",
	"name_to_handle_at",
	/* memory */
	"brk",
	"madvise",
	"membarrier",
	"mincore",
	"mremap",
	"munmap",
	/* threads and signals */
	"exit",
	"exit_group",
	"futex",
	"get_robust_list",
	"gettid",
	"restart_syscall",
	"rseq",
	"rt_sigaction",
	"rt_sigpending",
	"rt_sigprocmask",
	"rt_sigreturn",
	"rt_sigtimedwait",
	"sched_getaffinity",
	"sched_yield",
	"set_robust_list",
	"set_tid_address",
	"sigaltstack",
	"signalfd4",
	/* waiting, and time */
	"clock_getres",
	"clock_gettime",
	"clock_nanosleep",
	"epoll_create1",
	"epoll_ctl",
	"epoll_pwait",
	"epoll_pwait2",
	"epoll_wait",
	"eventfd2",
	"getitimer",
	"gettimeofday",
	"nanosleep",
	"pipe",
	"pipe2",
	"poll",
	"ppoll",
	"pselect6",
	"select",
	"time",
	"timerfd_create",
	"timerfd_gettime",
	"timerfd_settime",
	"times",
	/* connections */
	"accept",
	"accept4",
	"bind",
	"connect",
	"getpeername",
	"getsockname",
	"getsockopt",
	"listen",
	"recvfrom",
	"recvmmsg",
	"recvmsg",
	"sendfile",
	"sendmmsg",
	"sendmsg",
	"sendto",
	"setsockopt",
	"shutdown",
	"socketpair",
	/* who and where we are */
	"capget",
	"getcpu",
	"getegid",
	"geteuid",
	"getgid",
	"getgroups",
	"getpgid",
	"getpgrp",
	"getpid",
	"getppid",
	"getrandom",
	"getresgid",
	"getresuid",
	"getrlimit",
	"getrusage",
	"getuid",
	"sysinfo",
	"uname",
};

/* Allowed when (argument & mask) == value. */
static const struct limited_call {
	const char *name;
	unsigned int argument;
	uint64_t mask, value;
} limited_calls[] = {
	{ "socket", 0, UINT32_MAX, AF_UNIX },
	{ "socket", 0, UINT32_MAX, AF_INET },
	{ "socket", 0, UINT32_MAX, AF_INET6 },
	{ "socket", 0, UINT32_MAX, AF_NETLINK }, /* name resolution asks for our addresses */
	{ "ioctl", 1, UINT32_MAX, FIONBIO },
	{ "ioctl", 1, UINT32_MAX, FIONREAD },
	{ "ioctl", 1, UINT32_MAX, TCGETS },
	{ "ioctl", 1, UINT32_MAX, TIOCGWINSZ },
	{ "prctl", 0, UINT32_MAX, PR_SET_NAME },
	{ "prctl", 0, UINT32_MAX, PR_GET_NAME },
	{ "prlimit64", 2, UINT64_MAX, 0 }, /* asks only */
	{ "clone", 0, CLONE_THREAD | CLONE_REFUSED, CLONE_THREAD },
	/* libraries may come late; what can be written is never run */
	{ "mmap", 2, PROT_EXEC, 0 },
	{ "mmap", 2, PROT_WRITE, 0 },
	{ "mprotect", 2, PROT_EXEC, 0 },
	/* maps, pins and links; no new program */
	{ "bpf", 0, UINT32_MAX, BPF_MAP_CREATE },
	{ "bpf", 0, UINT32_MAX, BPF_MAP_LOOKUP_ELEM },
	{ "bpf", 0, UINT32_MAX, BPF_MAP_UPDATE_ELEM },
	{ "bpf", 0, UINT32_MAX, BPF_MAP_DELETE_ELEM },
	{ "bpf", 0, UINT32_MAX, BPF_MAP_GET_NEXT_KEY },
	{ "bpf", 0, UINT32_MAX, BPF_MAP_LOOKUP_AND_DELETE_ELEM },
	{ "bpf", 0, UINT32_MAX, BPF_MAP_LOOKUP_BATCH },
	{ "bpf", 0, UINT32_MAX, BPF_MAP_LOOKUP_AND_DELETE_BATCH },
	{ "bpf", 0, UINT32_MAX, BPF_MAP_UPDATE_BATCH },
	{ "bpf", 0, UINT32_MAX, BPF_MAP_DELETE_BATCH },
	{ "bpf", 0, UINT32_MAX, BPF_OBJ_PIN },
	{ "bpf", 0, UINT32_MAX, BPF_OBJ_GET },
	{ "bpf", 0, UINT32_MAX, BPF_OBJ_GET_INFO_BY_FD },
	{ "bpf", 0, UINT32_MAX, BPF_LINK_CREATE },
	{ "bpf", 0, UINT32_MAX, BPF_LINK_UPDATE },
	{ "bpf", 0, UINT32_MAX, BPF_LINK_DETACH },
};

/* Capabilities --------------------------------------------------------------------------------- */

static const char *const names[] = {
	[CAP_CHOWN] = "CAP_CHOWN",
	[CAP_DAC_OVERRIDE] = "CAP_DAC_OVERRIDE",
	[CAP_DAC_READ_SEARCH] = "CAP_DAC_READ_SEARCH",
	[CAP_NET_ADMIN] = "CAP_NET_ADMIN",
	[CAP_NET_RAW] = "CAP_NET_RAW",
	[CAP_SYS_PTRACE] = "CAP_SYS_PTRACE",
	[CAP_SYS_ADMIN] = "CAP_SYS_ADMIN",
	[CAP_PERFMON] = "CAP_PERFMON",
	[CAP_BPF] = "CAP_BPF",
};

static int capabilities(long call, struct __user_cap_data_struct *data)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };

	return syscall(call, &header, data) ? -errno : 0;
}

uint64_t tally_privileges_have(void)
{
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};

	if (capabilities(SYS_capget, data))
		return 0;
	return data[0].permitted | (uint64_t)data[1].permitted << 32;
}

/* Without CAP_SETPCAP, it is the service manager's business, and no harm: nothing of us is executed. */
static int bound(uint64_t mask)
{
	for (int bit = 0; bit < 64; bit++) {
		if (mask & TALLY_CAPABILITY(bit) || !prctl(PR_CAPBSET_DROP, bit, 0, 0, 0))
			continue;
		return errno == EINVAL || errno == EPERM ? 0 : -errno;
	}
	return 0;
}

int tally_privileges_keep(uint64_t mask)
{
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
	int err;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
		return -errno;
	err = bound(mask);
	if (!err)
		err = capabilities(SYS_capget, data);
	for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
		data[i].permitted &= (uint32_t)(mask >> (32 * i));
		data[i].effective = data[i].permitted;
		data[i].inheritable = 0;
	}
	return err ? err : capabilities(SYS_capset, data);
}

void tally_privileges_text(uint64_t mask, char *out, size_t size)
{
	size_t n = 0;

	(void)snprintf(out, size, "none");
	for (int bit = 0; bit < 64 && n < size; bit++) {
		bool named = (size_t)bit < TALLY_ARRAY_SIZE(names) && names[bit];

		if (!(mask & TALLY_CAPABILITY(bit)))
			continue;
		n += (size_t)(named ? snprintf(out + n, size - n, "%s%s", n ? "," : "", names[bit])
				    : snprintf(out + n, size - n, "%s%d", n ? "," : "", bit));
	}
}

/* The rest ------------------------------------------------------------------------------------- */

int tally_privileges_hide(void)
{
	struct rlimit none = {};

	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) || setrlimit(RLIMIT_CORE, &none))
		return -errno;
	return 0;
}

static int allow(scmp_filter_ctx filter, const char *name, const struct scmp_arg_cmp *when)
{
	int call = seccomp_syscall_resolve_name(name);
	int err;

	if (call == __NR_SCMP_ERROR)
		return 0;
	err = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, call, when ? 1 : 0, when);
	return err == -EDOM ? 0 : err; /* not on this machine */
}

static int add_rules(scmp_filter_ctx filter)
{
	int err = 0;

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(free_calls) && !err; i++)
		err = allow(filter, free_calls[i], NULL);
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(limited_calls) && !err; i++) {
		const struct limited_call *call = &limited_calls[i];
		struct scmp_arg_cmp when = { call->argument, SCMP_CMP_MASKED_EQ, call->mask,
					     call->value };

		err = allow(filter, call->name, &when);
	}
	/* what abort() and raise() use */
	if (!err)
		err = allow(filter, "tgkill",
			    &(struct scmp_arg_cmp){ 0, SCMP_CMP_EQ, (scmp_datum_t)getpid(), 0 });
	return err ? err : allow(filter, "clone3", NULL); /* see clone_by_flags() */
}

/* Every thread is bound; the order of calls is a tree. */
static int load_filter(uint32_t otherwise, bool log, int (*add)(scmp_filter_ctx filter))
{
	scmp_filter_ctx filter = seccomp_init(otherwise);
	int err;

	if (!filter)
		return -ENOMEM;
	err = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
	if (!err)
		err = seccomp_attr_set(filter, SCMP_FLTATR_CTL_LOG, log);
	if (!err)
		err = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	if (!err)
		err = add(filter);
	if (!err)
		err = seccomp_load(filter);
	seccomp_release(filter);
	return err;
}

/*
 * The flags of clone3 lie in memory, where no filter can look. Without it the C library falls back to
 * clone, at every thread it makes: a filter of its own, so that this is not logged as a refusal.
 */
static int clone_by_flags(scmp_filter_ctx filter)
{
	return seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
}

int tally_privileges_confine(void)
{
	int err;

	if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) < 0)
		return -ENOSYS;
	err = load_filter(SCMP_ACT_ALLOW, false, clone_by_flags);
	return err ? err : load_filter(SCMP_ACT_ERRNO(EPERM), true, add_rules);
}
