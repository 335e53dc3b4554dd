// SPDX-License-Identifier: Apache-2.0
/*
 * inject: what a running process may still do, tried in its own name.
 *
 *	inject PID
 *
 * Stops the process by ptrace, makes it call each of the table's system calls at the place where it
 * stands, and lets it go on as if nothing had been. Output: `NAME RESULT` a line, RESULT as the kernel
 * returned it (a negative errno). What is asked for would do little if it were allowed: pointers are
 * null or lead to nothing; descriptors that were opened are closed again. x86-64.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define SCRATCH 0x5c5c5c5c /* stands for an address below the stack where "/bin/true" is */
#define TRIES 1000

struct attempt {
	const char *name;
	long call;
	long arguments[6];
};

static const struct attempt attempts[] = {
	/* what it may: without these the rest would prove nothing */
	{ "may_getpid", SYS_getpid, { 0 } },
	{ "may_socket_unix", SYS_socket, { AF_UNIX, SOCK_STREAM } },
	{ "may_socket_inet", SYS_socket, { AF_INET, SOCK_STREAM } },
	{ "may_map_read", SYS_mmap, { 0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1 } },
	{ "may_open", SYS_open, { SCRATCH, O_RDONLY } },
	/* programs and processes */
	{ "execve", SYS_execve, { SCRATCH, 0, 0 } },
	{ "execveat", SYS_execveat, { AT_FDCWD, SCRATCH, 0, 0, 0 } },
	{ "fork", SYS_fork, { 0 } },
	{ "vfork", SYS_vfork, { 0 } },
	{ "clone_process", SYS_clone, { SIGCHLD } },
	{ "clone_namespace", SYS_clone, { CLONE_NEWUSER | SIGCHLD } },
	{ "clone3", SYS_clone3, { 0, 0 } },
	{ "ptrace", SYS_ptrace, { PTRACE_TRACEME } },
	{ "process_vm_readv", SYS_process_vm_readv, { 1, 0, 0, 0, 0, 0 } },
	{ "process_vm_writev", SYS_process_vm_writev, { 1, 0, 0, 0, 0, 0 } },
	{ "kill_init", SYS_kill, { 1, 0 } },
	{ "tgkill_init", SYS_tgkill, { 1, 1, 0 } },
	{ "pidfd_open", SYS_pidfd_open, { 1, 0 } },
	/* code that was not there at the start */
	{ "map_write_exec",
	  SYS_mmap,
	  { 0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1 } },
	{ "make_exec", SYS_mprotect, { 0, 4096, PROT_READ | PROT_EXEC } },
	{ "memfd_create", SYS_memfd_create, { SCRATCH, 0 } },
	{ "bpf_prog_load", SYS_bpf, { BPF_PROG_LOAD, 0, 0 } },
	{ "bpf_btf_load", SYS_bpf, { BPF_BTF_LOAD, 0, 0 } },
	{ "perf_event_open", SYS_perf_event_open, { 0, -1, 0, -1, 0 } },
	{ "init_module", SYS_init_module, { 0, 0, 0 } },
	{ "finit_module", SYS_finit_module, { -1, 0, 0 } },
	{ "kexec_load", SYS_kexec_load, { 0, 0, 0, 0 } },
	{ "io_uring_setup", SYS_io_uring_setup, { 1, 0 } },
	{ "userfaultfd", SYS_userfaultfd, { 0 } },
	/* the machine and its users */
	{ "mount", SYS_mount, { 0, 0, 0, 0, 0 } },
	{ "umount", SYS_umount2, { SCRATCH, 0 } },
	{ "pivot_root", SYS_pivot_root, { SCRATCH, SCRATCH } },
	{ "chroot", SYS_chroot, { SCRATCH } },
	{ "unshare", SYS_unshare, { CLONE_NEWNS } },
	{ "setns", SYS_setns, { -1, 0 } },
	{ "setuid", SYS_setuid, { 65534 } },
	{ "setgroups", SYS_setgroups, { 0, 0 } },
	{ "chown", SYS_chown, { SCRATCH, -1, -1 } },
	{ "mknod", SYS_mknod, { SCRATCH, 0, 0 } },
	{ "socket_packet", SYS_socket, { AF_PACKET, SOCK_RAW } },
	{ "socket_raw", SYS_socket, { AF_INET, SOCK_RAW, 1 } },
	{ "socket_vsock", SYS_socket, { AF_VSOCK, SOCK_STREAM } },
	{ "reboot", SYS_reboot, { 0, 0, 0, 0 } },
	{ "sethostname", SYS_sethostname, { SCRATCH, -1 } },
	{ "settimeofday", SYS_settimeofday, { 0, 0 } },
	{ "clock_settime", SYS_clock_settime, { 0, 0 } },
	{ "swapon", SYS_swapon, { SCRATCH, 0 } },
	{ "iopl", SYS_iopl, { 3 } },
	{ "personality", SYS_personality, { 0x0040000 } },
	{ "keyctl", SYS_keyctl, { 0, 0, 0 } },
	{ "open_by_handle_at", SYS_open_by_handle_at, { -1, 0, 0 } },
	{ "be_dumped", SYS_prctl, { PR_SET_DUMPABLE, 1 } },
	{ "capset", SYS_capset, { 0, 0 } },
	{ "more_files", SYS_prlimit64, { 0, 7, SCRATCH, 0 } },
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void wait_for_stop(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		die("waitpid");
	if (!WIFSTOPPED(status)) {
		fprintf(stderr, "the process has ended: status %x\n", status);
		exit(2);
	}
}

/* Stop it where it waits in a system call, behind the instruction that made it. */
static struct user_regs_struct stop(pid_t pid)
{
	struct user_regs_struct regs;

	if (ptrace(PTRACE_SEIZE, pid, 0, 0))
		die("PTRACE_SEIZE");
	for (int i = 0; i < TRIES; i++) {
		if (ptrace(PTRACE_INTERRUPT, pid, 0, 0))
			die("PTRACE_INTERRUPT");
		wait_for_stop(pid);
		if (ptrace(PTRACE_GETREGS, pid, 0, &regs))
			die("PTRACE_GETREGS");
		if ((ptrace(PTRACE_PEEKTEXT, pid, regs.rip - 2, 0) & 0xffff) == 0x050f)
			return regs;
		if (ptrace(PTRACE_CONT, pid, 0, 0))
			die("PTRACE_CONT");
		usleep(1000);
	}
	fprintf(stderr, "it was never in a system call\n");
	exit(1);
}

static void put_text(pid_t pid, uint64_t address, const char *text)
{
	uint64_t words[2] = { 0 };

	memcpy(words, text, strlen(text));
	for (size_t i = 0; i < 2; i++)
		if (ptrace(PTRACE_POKEDATA, pid, address + 8 * i, words[i]))
			die("PTRACE_POKEDATA");
}

static long make_call(pid_t pid, const struct user_regs_struct *at, const struct attempt *attempt)
{
	uint64_t scratch = (at->rsp - 4096) & ~15ULL;
	struct user_regs_struct regs = *at;
	unsigned long long *places[] = { &regs.rdi, &regs.rsi, &regs.rdx,
					 &regs.r10, &regs.r8,  &regs.r9 };

	put_text(pid, scratch, "/bin/true");
	for (int i = 0; i < 6; i++)
		*places[i] = attempt->arguments[i] == SCRATCH ? scratch
							      : (uint64_t)attempt->arguments[i];
	regs.rax = attempt->call;
	regs.orig_rax = -1;
	regs.rip = at->rip - 2;
	if (ptrace(PTRACE_SETREGS, pid, 0, &regs) || ptrace(PTRACE_SINGLESTEP, pid, 0, 0))
		die("the call");
	wait_for_stop(pid);
	if (ptrace(PTRACE_GETREGS, pid, 0, &regs))
		die("PTRACE_GETREGS");
	return (long)regs.rax;
}

/* What an attempt has opened or mapped is closed again. */
static void undo(pid_t pid, const struct user_regs_struct *at, const struct attempt *done,
		 long result)
{
	struct attempt undoing = { "close", SYS_close, { result } };

	if (result < 0 || (done->call != SYS_socket && done->call != SYS_open &&
			   done->call != SYS_memfd_create && done->call != SYS_mmap))
		return;
	if (done->call == SYS_mmap)
		undoing = (struct attempt){ "unmap", SYS_munmap, { result, 4096 } };
	(void)make_call(pid, at, &undoing);
}

int main(int argc, char **argv)
{
	pid_t pid = argc == 2 ? (pid_t)atoi(argv[1]) : 0;
	struct user_regs_struct at;

	if (pid < 2) {
		fprintf(stderr, "usage: inject PID\n");
		return 64;
	}
	at = stop(pid);
	for (size_t i = 0; i < sizeof(attempts) / sizeof(attempts[0]); i++) {
		long result = make_call(pid, &at, &attempts[i]);

		printf("%s %ld\n", attempts[i].name, result);
		undo(pid, &at, &attempts[i], result);
	}
	if (ptrace(PTRACE_SETREGS, pid, 0, &at) || ptrace(PTRACE_DETACH, pid, 0, 0))
		die("letting it go");
	return 0;
}
