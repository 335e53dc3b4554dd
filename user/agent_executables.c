/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Services matched by executable. The kernel's hooks know cgroups and ports, not files, so a process
 * that runs the file stands for its cgroup:
 *
 *	ports listed			(cgroup, each port), as soon as the process is there
 *	ports: all, cgroup all its own	(cgroup, any port)
 *	ports: all, cgroup shared	(cgroup, each port that such a process listens on)
 *
 * The kernel tells of each process that executes a file or ends, so that a service is found before it
 * answers; where it does not, all are looked for every ten seconds. A shared cgroup is looked at again
 * for a while after a start, since nobody tells of a listen(2).
 */
#include <limits.h>
#include <sys/epoll.h>
#include <sys/stat.h>

#include "agent_parts.h"
#include "collect/processes.h"

#define TRIES 60 /* for a process that does not listen yet */

/* One process that runs a service's file. */
struct runner {
	pid_t pid;
	dev_t dev; /* of the file */
	ino_t ino;
	size_t service; /* of the view */
	char *cgroup;	/* path */
};

struct look {
	struct tally_agent *agent;
	struct tally_processes_file *files; /* of the services of the view */
	struct runner *runners;
	size_t n, cap;
	tally_agent_exe_fn fn;
	void *ctx;
};

static bool is_wanted(const struct tally_config *config)
{
	for (size_t i = 0; i < config->n_services; i++)
		if (config->services[i].match.executable)
			return true;
	return false;
}

bool tally_agent_exe_wanted(const struct tally_config *config)
{
	return is_wanted(config);
}

/* ---- who runs what ---- */

static int add_runner(struct look *look, const struct tally_processes_exe *process, size_t service)
{
	char cgroup[PATH_MAX];
	int err = tally_processes_cgroup(process->pid, cgroup);

	if (err == -EXDEV)
		tally_log_once(TALLY_LOG_WARNING, "service_not_attached",
			       "service=%s pid=%d reason=%s",
			       look->agent->view.services[service].name, (int)process->pid,
			       "its cgroup is outside of ours");
	if (err)
		return 0; /* it ended, too */
	if (look->n == TALLY_AGENT_RUNNERS) {
		look->agent->exe.refused++;
		return 0;
	}
	if (look->n == look->cap) {
		size_t cap = look->cap ? look->cap * 2 : 16;
		struct runner *more = reallocarray(look->runners, cap, sizeof(*more));

		if (!more)
			return -ENOMEM;
		look->runners = more;
		look->cap = cap;
	}
	look->runners[look->n] = (struct runner){ process->pid, process->dev, process->ino, service,
						  strdup(cgroup) };
	if (!look->runners[look->n].cgroup)
		return -ENOMEM;
	look->n++;
	return 0;
}

static int find_files(struct look *look)
{
	const struct tally_config *view = &look->agent->view;

	look->files = calloc(view->n_services, sizeof(*look->files));
	if (!look->files)
		return -ENOMEM;
	for (size_t i = 0; i < view->n_services; i++)
		if (view->services[i].match.executable)
			tally_processes_file(view->services[i].match.executable, &look->files[i]);
	return 0;
}

/* Links are moved, too: who ran the file at the last look does so still. */
static bool ran(const struct tally_agent_exe *exe, const struct tally_processes_exe *process,
		const char *service)
{
	for (size_t i = 0; i < exe->n_runs; i++)
		if (exe->runs[i].pid == process->pid && exe->runs[i].dev == process->dev &&
		    exe->runs[i].ino == process->ino && !strcmp(exe->runs[i].service, service))
			return process->known;
	return false;
}

static int on_process(void *ctx, const struct tally_processes_exe *process)
{
	struct look *look = ctx;
	const struct tally_config *view = &look->agent->view;
	int err = 0;

	for (size_t i = 0; i < view->n_services && !err; i++)
		if (view->services[i].match.executable &&
		    (tally_processes_runs(process, &look->files[i]) ||
		     ran(&look->agent->exe, process, view->services[i].name)))
			err = add_runner(look, process, i);
	return err;
}

/* ---- whose a cgroup is ---- */

static bool is_runner(const struct look *look, pid_t pid, size_t service)
{
	for (size_t i = 0; i < look->n; i++)
		if (look->runners[i].pid == pid && look->runners[i].service == service)
			return true;
	return false;
}

/* No process of another file, and no folder below in which there could be one. */
static bool is_all_its_own(const struct look *look, const struct runner *runner)
{
	_cleanup_fclose_ FILE *file = NULL;
	char path[PATH_MAX];
	struct stat st;
	int pid, n;

	n = snprintf(path, sizeof(path), "%s%s", look->agent->tags.mount, runner->cgroup);
	if (n < 0 || n >= PATH_MAX || stat(path, &st) || st.st_nlink > 2)
		return false;
	n = snprintf(path, sizeof(path), "%s%s/cgroup.procs", look->agent->tags.mount,
		     runner->cgroup);
	if (n < 0 || n >= PATH_MAX)
		return false;
	file = fopen(path, "re");
	while (file && fscanf(file, "%d", &pid) == 1)
		if (!is_runner(look, pid, runner->service))
			return false;
	return file != NULL;
}

/* ---- what is to be attached ---- */

static void note_cgroup(struct look *look, const struct runner *runner)
{
	const char *name = look->agent->view.services[runner->service].name;
	json_t *list = json_object_get(look->agent->exe.cgroups, name), *old;
	char path[PATH_MAX];
	size_t i;

	if (!list) {
		list = json_array();
		json_object_set_new(look->agent->exe.cgroups, name, list);
	}
	(void)snprintf(path, sizeof(path), "%s%s", look->agent->tags.mount, runner->cgroup);
	json_array_foreach(list, i, old)
		if (!strcmp(json_string_value(old), path))
			return;
	json_array_append_new(list, json_string(path));
}

static int give(struct look *look, const struct runner *runner, uint16_t port)
{
	note_cgroup(look, runner);
	return look->fn(look->ctx, runner->cgroup, look->agent->view.services[runner->service].name,
			port);
}

static int give_listening(struct look *look, const struct runner *runner)
{
	uint16_t ports[TALLY_PROCESSES_PORTS];
	size_t n = 0;
	int err = tally_processes_ports(runner->pid, ports, &n);

	if (err == -EACCES)
		tally_log_once(TALLY_LOG_WARNING, "service_not_attached", "service=%s reason=%s",
			       look->agent->view.services[runner->service].name,
			       "name its ports, or give CAP_DAC_READ_SEARCH to find them");
	if (err || !n) {
		look->agent->exe.unresolved = true;
		return err == -ENOMEM ? err : 0;
	}
	for (size_t i = 0; i < n && !err; i++)
		err = give(look, runner, ports[i]);
	return err;
}

static int give_runner(struct look *look, struct runner *runner)
{
	const struct tally_option_ports *ports =
		&look->agent->view.services[runner->service].match.ports;
	int err = 0;

	if (ports->all) {
		err = is_all_its_own(look, runner) ? give(look, runner, 0) : -EEXIST;
		return err == -EEXIST ? give_listening(look, runner) : err;
	}
	for (size_t i = 0; i < ports->n && !err; i++)
		err = give(look, runner, ports->list[i]);
	return err;
}

static int remember(struct look *look)
{
	struct tally_agent_exe *exe = &look->agent->exe;
	struct tally_agent_run *runs = calloc(look->n + 1, sizeof(*runs));

	if (!runs)
		return -ENOMEM;
	for (size_t i = 0; i < look->n; i++) {
		const struct runner *runner = &look->runners[i];

		runs[i] = (struct tally_agent_run){ runner->pid, runner->dev, runner->ino, "" };
		(void)snprintf(runs[i].service, sizeof(runs[i].service), "%s",
			       look->agent->view.services[runner->service].name);
	}
	free(exe->runs);
	exe->runs = runs;
	exe->n_runs = look->n;
	return 0;
}

int tally_agent_exe_look(struct tally_agent *agent, tally_agent_exe_fn fn, void *ctx)
{
	struct look look = { .agent = agent, .fn = fn, .ctx = ctx };
	int err = 0;

	agent->exe.unresolved = false;
	if (!is_wanted(&agent->view))
		return 0;
	json_decref(agent->exe.cgroups);
	agent->exe.cgroups = json_object();
	err = find_files(&look);
	if (!err)
		err = tally_processes_each(on_process, &look);
	for (size_t i = 0; i < look.n && !err; i++)
		err = give_runner(&look, &look.runners[i]);
	if (!err)
		err = remember(&look);
	for (size_t i = 0; i < look.n; i++)
		free(look.runners[i].cgroup);
	free(look.runners);
	free(look.files);
	return err;
}

bool tally_agent_exe_again(struct tally_agent *agent)
{
	return agent->exe.unresolved && agent->exe.tries < TRIES && ++agent->exe.tries;
}

json_t *tally_agent_exe_cgroups(const struct tally_agent *agent, const char *service)
{
	json_t *list = json_object_get(agent->exe.cgroups, service);

	return list ? json_incref(list) : json_array();
}

/* ---- events ---- */

struct news {
	struct tally_agent *agent;
	bool look, gone; /* because of a start; of an end */
};

static bool is_known(const struct tally_agent_exe *exe, pid_t pid)
{
	for (size_t i = 0; i < exe->n_runs; i++)
		if (exe->runs[i].pid == pid)
			return true;
	return false;
}

static bool is_ours(const struct tally_agent *agent, pid_t pid)
{
	const struct tally_config *view = &agent->view;
	struct tally_processes_exe exe;
	struct tally_processes_file file;

	if (tally_processes_exe(pid, &exe))
		return false;
	for (size_t i = 0; i < view->n_services; i++) {
		if (!view->services[i].match.executable)
			continue;
		tally_processes_file(view->services[i].match.executable, &file);
		if (tally_processes_runs(&exe, &file))
			return true;
	}
	return false;
}

static void on_event(void *ctx, enum tally_processes_event event, pid_t pid)
{
	struct news *news = ctx;
	struct tally_agent_exe *exe = &news->agent->exe;

	exe->events++;
	exe->lost += event == TALLY_PROCESSES_LOST;
	if (event == TALLY_PROCESSES_LOST ||
	    (event == TALLY_PROCESSES_EXEC && is_ours(news->agent, pid)))
		news->look = true;
	else if (is_known(exe, pid))
		news->gone = true;
}

static int on_news(void *ctx, uint32_t events, uint64_t value)
{
	struct tally_agent *agent = ctx;
	struct news news = { agent, false, false };

	tally_processes_read(agent->exe.fd, on_event, &news);
	if (!news.look && !news.gone)
		return 0;
	agent->exe.tries = 0;
	tally_agent_tags_soon(agent, !news.look);
	return 0;
}

/* Without events it is found later, not never. */
void tally_agent_exe_open(struct tally_agent *agent)
{
	struct tally_agent_exe *exe = &agent->exe;
	int err;

	if (exe->source || !is_wanted(agent->config))
		return;
	err = tally_processes_listen(&exe->fd);
	if (!err) {
		err = tally_loop_add_fd(agent->loop, exe->fd, EPOLLIN, on_news, agent,
					&exe->source);
		if (err)
			tally_util_close(exe->fd);
	}
	if (err)
		tally_log_warning("executables", "reason=%s error=%s",
				  "the kernel tells of no new processes: found within 10 seconds",
				  strerror(-err));
}

void tally_agent_exe_close(struct tally_agent *agent)
{
	tally_loop_remove(agent->exe.source);
	if (agent->exe.source)
		tally_util_close(agent->exe.fd);
	free(agent->exe.runs);
	json_decref(agent->exe.cgroups);
	memset(&agent->exe, 0, sizeof(agent->exe));
}
