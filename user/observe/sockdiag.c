/* SPDX-License-Identifier: Apache-2.0 */
#include "observe/sockdiag.h"

#include <arpa/inet.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <sys/socket.h>

#define CGROUP_ATTRIBUTE 21 /* INET_DIAG_CGROUP_ID: Linux 5.8 */
#define ANSWERS_MAX 64	    /* datagrams read of one dump */

/* States in which a socket still has an owner. */
#define STATES                                                                                    \
	(1U << TCP_ESTABLISHED | 1U << TCP_SYN_SENT | 1U << TCP_FIN_WAIT1 | 1U << TCP_FIN_WAIT2 | \
	 1U << TCP_CLOSE_WAIT | 1U << TCP_LAST_ACK | 1U << TCP_CLOSING)

struct found {
	uint64_t *cgroups;
	size_t n;
};

static int ask(int fd, int family, uint16_t port)
{
	struct {
		struct nlmsghdr head;
		struct inet_diag_req_v2 request;
	} message = { .head = { .nlmsg_len = sizeof(message),
				.nlmsg_type = SOCK_DIAG_BY_FAMILY,
				.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
		      .request = { .sdiag_family = family,
				   .sdiag_protocol = IPPROTO_TCP,
				   .idiag_states = STATES,
				   .id.idiag_dport = htons(port) } };

	return send(fd, &message, sizeof(message), 0) == sizeof(message) ? 0 : -errno;
}

/* Both ends here: the loopback's addresses, or one address at both. */
static bool is_here(const struct inet_diag_msg *socket)
{
	if (socket->idiag_family == AF_INET && ntohl(socket->id.idiag_dst[0]) >> 24 == 127)
		return true;
	return !memcmp(socket->id.idiag_src, socket->id.idiag_dst, sizeof(socket->id.idiag_src));
}

static void add(struct found *found, uint64_t cgroup)
{
	for (size_t i = 0; i < found->n; i++)
		if (found->cgroups[i] == cgroup)
			return;
	if (found->n < TALLY_SOCKDIAG_MAX)
		found->cgroups[found->n++] = cgroup;
}

static void take(const struct nlmsghdr *head, struct found *found)
{
	const struct inet_diag_msg *socket = NLMSG_DATA(head);
	int left = (int)(head->nlmsg_len - NLMSG_LENGTH(sizeof(*socket)));
	uint64_t cgroup;

	if (head->nlmsg_len < NLMSG_LENGTH(sizeof(*socket)) || !is_here(socket))
		return;
	for (const struct rtattr *a = (const struct rtattr *)(socket + 1); RTA_OK(a, left);
	     a = RTA_NEXT(a, left)) {
		if (a->rta_type != CGROUP_ATTRIBUTE || RTA_PAYLOAD(a) < sizeof(cgroup))
			continue;
		memcpy(&cgroup, RTA_DATA(a), sizeof(cgroup));
		add(found, cgroup);
	}
}

/* NLMSG_OK, whose comparison is of different signs. */
static bool is_whole(const struct nlmsghdr *head, int left)
{
	return left >= (int)sizeof(*head) && head->nlmsg_len >= sizeof(*head) &&
	       head->nlmsg_len <= (uint32_t)left;
}

/* false: the dump is over. */
static bool take_all(const char *buffer, ssize_t bytes, struct found *found)
{
	int left = (int)bytes;

	for (const struct nlmsghdr *head = (const struct nlmsghdr *)buffer; is_whole(head, left);
	     head = NLMSG_NEXT(head, left)) {
		if (head->nlmsg_type == NLMSG_DONE || head->nlmsg_type == NLMSG_ERROR)
			return false;
		take(head, found);
	}
	return true;
}

static int dump(int family, uint16_t port, struct found *found)
{
	_cleanup_close_ int fd =
		socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
	_Alignas(struct nlmsghdr) char buffer[8192];
	int err = fd < 0 ? -errno : ask(fd, family, port);

	for (int i = 0; !err && i < ANSWERS_MAX; i++) {
		/* the kernel answers while we ask: there is nothing to wait for */
		ssize_t n = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT);

		if (n <= 0 || !take_all(buffer, n, found))
			return n < 0 ? -errno : 0;
	}
	return err;
}

int tally_sockdiag_clients(uint16_t port, uint64_t ret_cgroups[TALLY_SOCKDIAG_MAX], size_t *ret_n)
{
	struct found found = { .cgroups = ret_cgroups };
	int err = dump(AF_INET, port, &found);

	if (!err)
		err = dump(AF_INET6, port, &found);
	*ret_n = found.n;
	return err;
}
