/* SPDX-License-Identifier: Apache-2.0 */
#include "observe/notify.h"

#include <inttypes.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/un.h>

/* An abstract address begins with '@' in the variable and with a zero byte in the address. */
static int address(struct sockaddr_un *ret_address, socklen_t *ret_size)
{
	const char *path = getenv("NOTIFY_SOCKET");
	size_t len = path ? strlen(path) : 0;

	if (len < 2 || len >= sizeof(ret_address->sun_path) || (*path != '/' && *path != '@'))
		return -ENOENT;
	memset(ret_address, 0, sizeof(*ret_address));
	ret_address->sun_family = AF_UNIX;
	memcpy(ret_address->sun_path, path, len);
	if (*path == '@')
		ret_address->sun_path[0] = 0;
	*ret_size = offsetof(struct sockaddr_un, sun_path) + len;
	return 0;
}

void tally_notify_send(const char *fmt, ...)
{
	_cleanup_close_ int fd = -1;
	struct sockaddr_un to;
	char text[512];
	socklen_t size;
	va_list ap;
	int n;

	if (address(&to, &size))
		return;
	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= sizeof(text))
		return;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return;
	/* a manager that does not listen has its own ways to find out */
	(void)!sendto(fd, text, n, MSG_NOSIGNAL, (struct sockaddr *)&to, size);
}

void tally_notify_reloading(void)
{
	tally_notify_send("RELOADING=1\nMONOTONIC_USEC=%" PRIu64 "\n", tally_util_mono_ns() / 1000);
}

uint64_t tally_notify_watchdog_ns(void)
{
	const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
	uint64_t value;

	if (!usec || tally_util_parse_u64(usec, UINT64_MAX / 1000, &value))
		return 0;
	if (pid && strtol(pid, NULL, 10) != getpid())
		return 0;
	return value * 1000 / 2;
}
