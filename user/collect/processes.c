/* SPDX-License-Identifier: Apache-2.0 */
#include "collect/processes.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <inttypes.h>
#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define DELETED " (deleted)"
#define LISTENERS 1024 /* sockets of one network namespace that are looked at */
#define TCP_LISTEN_STATE 0x0A
#define SOCKET_BYTES (1 << 20)

static int proc_path(pid_t pid, const char *name, char out[PATH_MAX])
{
	int n = snprintf(out, PATH_MAX, "/proc/%d/%s", (int)pid, name);

	return n < 0 || n >= PATH_MAX ? -ENAMETOOLONG : 0;
}

int tally_processes_exe(pid_t pid, struct tally_processes_exe *ret_exe)
{
	char path[PATH_MAX];
	struct stat st;
	int err = proc_path(pid, "exe", path);
	ssize_t n = err ? 0 : readlink(path, ret_exe->path, PATH_MAX - 1);

	if (err || n < 0)
		return err ? err : -errno;
	ret_exe->path[n] = 0;
	ret_exe->pid = pid;
	ret_exe->known = !stat(path, &st);
	ret_exe->dev = ret_exe->known ? st.st_dev : 0;
	ret_exe->ino = ret_exe->known ? st.st_ino : 0;
	return 0;
}

void tally_processes_file(const char *name, struct tally_processes_file *ret_file)
{
	struct stat st;

	if (!realpath(name, ret_file->path))
		(void)snprintf(ret_file->path, sizeof(ret_file->path), "%s", name);
	ret_file->known = !stat(name, &st);
	ret_file->dev = ret_file->known ? st.st_dev : 0;
	ret_file->ino = ret_file->known ? st.st_ino : 0;
}

int tally_processes_each(tally_processes_fn fn, void *ctx)
{
	_cleanup_closedir_ DIR *dir = opendir("/proc");
	struct tally_processes_exe exe;
	struct dirent *entry;
	int err = 0;

	if (!dir)
		return -errno;
	while (!err && (entry = readdir(dir))) {
		uint64_t pid;

		if (tally_util_parse_u64(entry->d_name, INT32_MAX, &pid))
			continue;
		if (!tally_processes_exe((pid_t)pid, &exe))
			err = fn(ctx, &exe);
	}
	return err;
}

bool tally_processes_runs(const struct tally_processes_exe *exe,
			  const struct tally_processes_file *file)
{
	size_t len = strlen(file->path);
	bool both = exe->known && file->known;

	if (both && exe->dev == file->dev && exe->ino == file->ino)
		return true;
	if (strncmp(exe->path, file->path, len) != 0 ||
	    (exe->path[len] && strcmp(exe->path + len, DELETED) != 0))
		return false;
	return !both || exe->dev == file->dev; /* else there is nothing to tell them apart by */
}

int tally_processes_cgroup(pid_t pid, char ret_path[PATH_MAX])
{
	_cleanup_free_ char *text = NULL;
	char path[PATH_MAX], *save = NULL;
	size_t bytes;
	int err = proc_path(pid, "cgroup", path);

	if (!err)
		err = tally_util_read_file(path, 1U << 20, &text, &bytes);
	if (err)
		return err;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (strncmp(line, "0::", 3) != 0)
			continue;
		if (!strncmp(line + 3, "/..", 3))
			return -EXDEV;
		if (strlen(line + 3) >= PATH_MAX)
			return -ENAMETOOLONG;
		strcpy(ret_path, line + 3);
		return 0;
	}
	return -ENOENT;
}

/* ---- listening ---- */

struct listener {
	uint64_t inode;
	uint16_t port;
};

struct listeners {
	struct listener items[LISTENERS];
	size_t n;
};

/* A line of /proc/PID/net/tcp: sl local remote st queues timer retransmits uid timeout inode */
static void add_listener(struct listeners *listeners, const char *line)
{
	unsigned int port, state;
	uint64_t inode;

	if (sscanf(line, " %*d: %*[0-9A-Fa-f]:%x %*s %x %*s %*s %*s %*d %*d %" SCNu64, &port,
		   &state, &inode) != 3)
		return;
	if (state == TCP_LISTEN_STATE && listeners->n < LISTENERS)
		listeners->items[listeners->n++] = (struct listener){ inode, (uint16_t)port };
}

static int read_listeners(pid_t pid, const char *name, struct listeners *listeners)
{
	_cleanup_free_ char *line = NULL;
	_cleanup_fclose_ FILE *file = NULL;
	char path[PATH_MAX];
	size_t cap = 0;
	int err = proc_path(pid, name, path);

	if (err)
		return err;
	file = fopen(path, "re");
	if (!file)
		return errno == ENOENT ? 0 : -errno;
	while (getline(&line, &cap, file) > 0)
		add_listener(listeners, line);
	return 0;
}

static void take_port(const struct listeners *listeners, uint64_t inode, uint16_t *ports, size_t *n)
{
	for (size_t i = 0; i < listeners->n; i++) {
		uint16_t port = listeners->items[i].port;
		size_t at = 0;

		if (listeners->items[i].inode != inode)
			continue;
		while (at < *n && ports[at] != port)
			at++;
		if (at == *n && *n < TALLY_PROCESSES_PORTS)
			ports[(*n)++] = port;
	}
}

static int match_descriptors(pid_t pid, const struct listeners *listeners, uint16_t *ports,
			     size_t *n)
{
	_cleanup_closedir_ DIR *dir = NULL;
	struct dirent *entry;
	char path[PATH_MAX], target[64];
	int err = proc_path(pid, "fd", path);

	if (err)
		return err;
	dir = opendir(path);
	if (!dir)
		return errno == ENOENT ? 0 : -errno;
	while ((entry = readdir(dir))) {
		ssize_t len = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);
		uint64_t inode;

		if (len < 0)
			continue;
		target[len] = 0;
		if (sscanf(target, "socket:[%" SCNu64 "]", &inode) == 1)
			take_port(listeners, inode, ports, n);
	}
	return 0;
}

int tally_processes_ports(pid_t pid, uint16_t ret_ports[TALLY_PROCESSES_PORTS], size_t *ret_n)
{
	_cleanup_free_ struct listeners *listeners = calloc(1, sizeof(*listeners));
	size_t n = 0;
	int err = listeners ? read_listeners(pid, "net/tcp", listeners) : -ENOMEM;

	if (!err)
		err = read_listeners(pid, "net/tcp6", listeners);
	if (!err && listeners->n)
		err = match_descriptors(pid, listeners, ret_ports, &n);
	if (err)
		return err;
	*ret_n = n;
	return 0;
}

/* ---- events ---- */

#define WHAT (NLMSG_HDRLEN + sizeof(struct cn_msg))
#define EVENT(member) (WHAT + offsetof(struct proc_event, event_data.member))

/* Only what somebody executes, and whole processes that end: not their threads, not forks. Words are
 * loaded in network order, and the kernel writes its own. */
static int set_filter(int fd)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, WHAT),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htonl(PROC_EVENT_EXEC), 5, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htonl(PROC_EVENT_EXIT), 0, 5),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, EVENT(exit.process_pid)),
		BPF_STMT(BPF_MISC | BPF_TAX, 0),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, EVENT(exit.process_tgid)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_X, 0, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog program = { TALLY_ARRAY_SIZE(code), code };

	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) ? -errno : 0;
}

static int subscribe(int fd)
{
	const enum proc_cn_mcast_op op = PROC_CN_MCAST_LISTEN;
	const struct cn_msg message = { .id = { CN_IDX_PROC, CN_VAL_PROC }, .len = sizeof(op) };
	char data[WHAT + sizeof(op)] = "";
	const struct nlmsghdr head = { .nlmsg_len = sizeof(data), .nlmsg_type = NLMSG_DONE };

	memcpy(data, &head, sizeof(head));
	memcpy(data + NLMSG_HDRLEN, &message, sizeof(message));
	memcpy(data + WHAT, &op, sizeof(op));
	return send(fd, data, sizeof(data), 0) < 0 ? -errno : 0;
}

int tally_processes_listen(int *ret_fd)
{
	struct sockaddr_nl address = { .nl_family = AF_NETLINK, .nl_groups = CN_IDX_PROC };
	_cleanup_close_ int fd =
		socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_CONNECTOR);
	int bytes = SOCKET_BYTES;
	int err;

	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)); /* or less */
	err = set_filter(fd);
	if (!err && bind(fd, (struct sockaddr *)&address, sizeof(address)))
		err = -errno;
	if (!err)
		err = subscribe(fd);
	if (err)
		return err;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static void take_event(const void *data, size_t bytes,
		       void (*fn)(void *ctx, enum tally_processes_event event, pid_t pid),
		       void *ctx)
{
	struct proc_event event = {};

	if (bytes < WHAT + offsetof(struct proc_event, event_data))
		return;
	memcpy(&event, (const char *)data + WHAT, TALLY_MIN(bytes - WHAT, sizeof(event)));
	if (event.what == PROC_EVENT_EXEC)
		fn(ctx, TALLY_PROCESSES_EXEC, event.event_data.exec.process_tgid);
	else if (event.what == PROC_EVENT_EXIT)
		fn(ctx, TALLY_PROCESSES_EXIT, event.event_data.exit.process_tgid);
}

/* Only the kernel has port 0. */
void tally_processes_read(int fd,
			  void (*fn)(void *ctx, enum tally_processes_event event, pid_t pid),
			  void *ctx)
{
	char data[4096] __attribute__((aligned(8)));
	struct sockaddr_nl from;
	socklen_t len;
	ssize_t n;

	for (;;) {
		len = sizeof(from);
		n = recvfrom(fd, data, sizeof(data), MSG_DONTWAIT, (struct sockaddr *)&from, &len);
		if (n < 0 && errno == ENOBUFS)
			fn(ctx, TALLY_PROCESSES_LOST, 0);
		else if (n < 0)
			return;
		else if (len == sizeof(from) && from.nl_pid == 0)
			take_event(data, (size_t)n, fn, ctx);
	}
}
