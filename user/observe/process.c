/* SPDX-License-Identifier: Apache-2.0 */
#include "observe/process.h"

#include <dirent.h>
#include <inttypes.h>
#include <malloc.h>
#include <sys/resource.h>
#include <time.h>

#include "base/util.h"

static void read_cpu(struct tally_process *process)
{
	struct rusage usage = {};

	(void)getrusage(RUSAGE_SELF, &usage); /* cannot fail */
	process->cpu_seconds = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
			       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* Size and resident pages come first in statm(5). */
static void read_memory(struct tally_process *process)
{
	_cleanup_free_ char *text = NULL;
	uint64_t pages[2], page = (uint64_t)sysconf(_SC_PAGESIZE);
	struct mallinfo2 heap = mallinfo2();
	size_t bytes;

	process->heap_bytes = heap.uordblks;
	if (tally_util_read_file("/proc/self/statm", 4096, &text, &bytes) ||
	    sscanf(text, "%" SCNu64 " %" SCNu64, &pages[0], &pages[1]) != 2)
		return;
	process->virtual_bytes = pages[0] * page;
	process->resident_bytes = pages[1] * page;
}

static void read_fds(struct tally_process *process)
{
	_cleanup_closedir_ DIR *dir = opendir("/proc/self/fd");
	struct rlimit limit = {};
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		process->open_fds += entry->d_name[0] != '.';
	if (!getrlimit(RLIMIT_NOFILE, &limit))
		process->max_fds = limit.rlim_cur;
}

/* Its 22nd field is the start in ticks after the boot; the second one may hold blanks. */
static void read_start(struct tally_process *process)
{
	_cleanup_free_ char *text = NULL;
	uint64_t ticks = 0;
	struct timespec boot, now;
	const char *field;
	size_t bytes;

	if (tally_util_read_file("/proc/self/stat", 4096, &text, &bytes))
		return;
	field = strrchr(text, ')');
	for (int i = 2; field && i < 22; i++)
		field = strchr(field + 1, ' ');
	if (!field || sscanf(field, "%" SCNu64, &ticks) != 1)
		return;
	clock_gettime(CLOCK_BOOTTIME, &boot);
	clock_gettime(CLOCK_REALTIME, &now);
	process->start_seconds = (double)(now.tv_sec - boot.tv_sec) +
				 (double)(now.tv_nsec - boot.tv_nsec) / 1e9 +
				 (double)ticks / (double)sysconf(_SC_CLK_TCK);
}

void tally_process_read(struct tally_process *ret_process)
{
	memset(ret_process, 0, sizeof(*ret_process));
	read_cpu(ret_process);
	read_memory(ret_process);
	read_fds(ret_process);
	read_start(ret_process);
}
