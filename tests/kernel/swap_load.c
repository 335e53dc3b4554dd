// SPDX-License-Identifier: Apache-2.0
/*
 * Pins: found again, kept from two owners, refused when they are of another layout. Hooks: attached
 * where wanted, never twice on one path, forgotten when their cgroup is gone. And programs replaced
 * under traffic: not one exchange missed, not one twice.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/config.h"
#include "collect/attach.h"
#include "collect/clock.h"
#include "collect/ledger.h"
#include "collect/rulesets.h"
#include "collect/scopes.h"
#include "identify/rules.h"
#include "libkernel.h"
#include "tally/ledger.h"

#define PORT 18972
#define REQUESTS 40000
#define UPDATES 50

static struct tally_load_options options_of(const char *pin_dir)
{
	return (struct tally_load_options){ pin_dir, 4096, 4096, 1024 };
}

static struct tally_load *open_load(const char *pin_dir)
{
	struct tally_load_options options = options_of(pin_dir);
	struct tally_load *load = NULL;

	assert_int_equal(tally_load_open(&options, &load), 0);
	assert_false(load->stale);
	return load;
}

static int exists(const struct tally_load *load, const char *name)
{
	char path[PATH_MAX];

	assert_int_equal(tally_load_path(load, name, path, sizeof(path)), 0);
	return !access(path, F_OK);
}

static void test_reuse(void **state)
{
	const char *dir = kernel_pin_dir("load", 0);
	struct tally_load_options options = options_of(dir);
	struct tally_load *load, *other = NULL;
	uint64_t before[2], after[2];

	assert_int_equal(tally_load_adopt(&options, &other), -ENOENT);
	load = open_load(dir);
	assert_false(load->reused);
	assert_true(exists(load, "settings"));
	assert_int_equal(tally_load_secret(load, before), 0);
	assert_true(before[0] && before[1]);
	assert_int_equal(tally_load_pin_programs(load), 0);
	/* one owner at a time */
	assert_int_equal(tally_load_open(&options, &other), -EBUSY);
	assert_int_equal(tally_load_adopt(&options, &other), -EBUSY);
	tally_load_close(load);

	load = open_load(dir);
	assert_true(load->reused);
	assert_int_equal(tally_load_secret(load, after), 0);
	assert_memory_equal(before, after, sizeof(before));
	assert_int_equal(tally_load_capacity(load, TALLY_MAP_DICTIONARY), 1024);
	tally_load_close(load);

	assert_int_equal(tally_load_adopt(&options, &load), 0);
	assert_int_equal(tally_load_remove(load), 0);
	tally_load_close(load);
	assert_int_equal(access(dir, F_OK), -1);
}

static void write_abi(struct tally_load *load, uint32_t abi)
{
	struct tally_settings settings;
	__u32 zero = 0;
	int fd = load->maps[TALLY_MAP_SETTINGS];

	assert_int_equal(bpf_map_lookup_elem(fd, &zero, &settings), 0);
	settings.abi_version = abi;
	assert_int_equal(bpf_map_update_elem(fd, &zero, &settings, BPF_ANY), 0);
}

/* Another layout is refused, and stays as it is. */
static void test_other_abi(void **state)
{
	const char *dir = kernel_pin_dir("abi", 0);
	struct tally_load_options options = options_of(dir);
	struct tally_load *load = open_load(dir), *other = NULL;

	write_abi(load, TALLY_ABI_VERSION + 1);
	tally_load_close(load);
	assert_int_equal(tally_load_open(&options, &other), -EPROTO);
	assert_int_equal(access(dir, F_OK), 0);
	kernel_unpin(dir);
}

/* Of the version before: read, and from our first start on no longer its own. */
static void test_abi_before(void **state)
{
	const char *dir = kernel_pin_dir("before", 0);
	struct tally_load_options options = options_of(dir);
	struct tally_load *load = open_load(dir);
	struct tally_settings settings;
	struct tally_ledger *ledger;
	char path[PATH_MAX];
	bool repaired;
	__u32 zero = 0;

	write_abi(load, TALLY_ABI_BEFORE);
	assert_int_equal(tally_load_path(load, "places", path, sizeof(path)), 0);
	assert_int_equal(unlink(path), 0);
	tally_load_close(load);
	assert_int_equal(tally_load_adopt(&options, &load), 0);
	assert_int_equal(load->maps[TALLY_MAP_PLACES], -1);
	assert_int_equal(tally_load_repair(load, &repaired), 0);
	assert_false(repaired);
	assert_int_equal(tally_ledger_open(load, TALLY_NS_PER_S, &ledger), 0);
	assert_int_equal(tally_ledger_swap(ledger, 2 * TALLY_NS_PER_S, 2 * TALLY_NS_PER_S,
					   TALLY_CAUSE_INTERVAL),
			 0);
	assert_int_equal(tally_ledger_release(ledger, 1), 0);
	tally_ledger_close(ledger);
	tally_load_close(load);
	load = open_load(dir);
	assert_true(load->reused);
	assert_int_equal(access(path, F_OK), 0);
	assert_int_equal(bpf_map_lookup_elem(load->maps[TALLY_MAP_SETTINGS], &zero, &settings), 0);
	assert_int_equal(settings.abi_version, TALLY_ABI_VERSION);
	tally_load_close(load);
	kernel_unpin(dir);
}

/* A start that died before its last pin left nothing that counts; with a hook it would. */
static void test_ruin(void **state)
{
	const char *dir = kernel_pin_dir("ruin", 0);
	struct tally_load_options options = options_of(dir);
	struct tally_load *load = open_load(dir), *other = NULL;
	char path[PATH_MAX];

	assert_int_equal(tally_load_path(load, "settings", path, sizeof(path)), 0);
	assert_int_equal(unlink(path), 0);
	tally_load_close(load);
	load = open_load(dir);
	assert_false(load->reused);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(tally_load_path(load, "link-1-ingress", path, sizeof(path)), 0);
	assert_int_equal(bpf_obj_pin(load->maps[TALLY_MAP_EPOCH], path), 0);
	tally_load_close(load);
	assert_int_equal(tally_load_open(&options, &other), -EUCLEAN);
	assert_int_equal(tally_load_adopt(&options, &other), -EUCLEAN);
	assert_int_equal(tally_load_wipe(dir), 0);
	assert_int_equal(access(dir, F_OK), -1);
}

/* Somebody removed one pin and left the others: nobody counts into what is left, and it stays as it is. */
static void test_missing(void **state)
{
	const char *dir = kernel_pin_dir("missing", 0);
	struct tally_load_options options = options_of(dir);
	struct tally_load *load = open_load(dir), *other = NULL;

	assert_int_equal(tally_load_pin_programs(load), 0);
	for (int i = 0; i < TALLY_MAP_COUNT; i++) {
		char path[PATH_MAX];

		if (i == TALLY_MAP_SETTINGS) /* a ruin: test_ruin() */
			continue;
		assert_int_equal(tally_load_path(load, tally_load_map_name((enum tally_map)i), path,
						 sizeof(path)),
				 0);
		assert_int_equal(unlink(path), 0);
		tally_load_close(load);
		assert_int_equal(tally_load_open(&options, &other), -EUCLEAN);
		assert_int_equal(tally_load_adopt(&options, &other), -EUCLEAN);
		assert_int_equal(access(path, F_OK), -1);
		assert_int_equal(tally_load_wipe(dir), 0);
		load = open_load(dir);
		assert_int_equal(tally_load_pin_programs(load), 0);
	}
	assert_int_equal(tally_load_remove(load), 0);
	tally_load_close(load);
}

/* Somebody removes a pin of a running agent, or all of them. */
static void test_repair(void **state)
{
	const char *dir = kernel_pin_dir("repair", 0);
	struct tally_load *load = open_load(dir);
	bool repaired = true;

	assert_int_equal(tally_load_pin_programs(load), 0);
	assert_int_equal(tally_load_repair(load, &repaired), 0);
	assert_false(repaired);
	for (int i = 0; i <= TALLY_MAP_COUNT; i++) {
		char path[PATH_MAX];

		if (i == TALLY_MAP_COUNT) {
			kernel_unpin(dir);
		} else {
			assert_int_equal(tally_load_path(load,
							 tally_load_map_name((enum tally_map)i),
							 path, sizeof(path)),
					 0);
			assert_int_equal(unlink(path), 0);
		}
		assert_int_equal(tally_load_repair(load, &repaired), 0);
		assert_true(repaired);
		assert_int_equal(tally_load_repair(load, &repaired), 0);
		assert_false(repaired);
	}
	tally_load_close(load);
	load = open_load(dir);
	assert_true(load->reused);
	assert_int_equal(tally_load_remove(load), 0);
	tally_load_close(load);
}

/* hooks ----------------------------------------------------------------------------------------- */

static void want(struct tally_cgroups *wanted, const char *path)
{
	char mount[256];

	assert_int_equal(tally_cgroup_mount(mount, sizeof(mount)), 0);
	assert_int_equal(tally_cgroup_find(mount, path + strlen(mount), NULL, wanted), 0);
}

static size_t links(const struct tally_load *load)
{
	_cleanup_closedir_ DIR *dir = opendir(load->pin_dir);
	struct dirent *entry;
	size_t n = 0;

	while ((entry = readdir(dir)))
		n += !strncmp(entry->d_name, "link-", 5);
	return n;
}

static void set(struct tally_load *load, const struct tally_cgroups *wanted, uint32_t expected)
{
	uint32_t attached = 0, failed = 0;

	assert_int_equal(tally_attach_set(load, wanted, &attached, &failed), 0);
	assert_int_equal(attached, expected);
	assert_int_equal(failed, 0);
	assert_int_equal(links(load), expected * TALLY_HOOK_COUNT);
}

static void test_hooks(void **state)
{
	struct tally_load *load = open_load(kernel_pin_dir("hooks", 0));
	const char *top = kernel_cgroup_make("hooks");
	struct tally_cgroups wanted = {}, none = {};
	char below[PATH_MAX];

	snprintf(below, sizeof(below), "%s/below", top);
	assert_int_equal(mkdir(below, 0755), 0);
	want(&wanted, below);
	set(load, &wanted, 1);
	set(load, &wanted, 1);
	/* the folder above covers the one below */
	want(&wanted, top);
	set(load, &wanted, 1);
	assert_int_equal(tally_attach_update(load), 0);
	/* named twice is attached once */
	want(&wanted, top);
	set(load, &wanted, 1);
	set(load, &none, 0);
	/* a cgroup that goes away takes its hooks with it */
	tally_cgroups_done(&wanted);
	want(&wanted, below);
	set(load, &wanted, 1);
	kernel_cgroup_remove(below);
	set(load, &none, 0);
	assert_int_equal(tally_attach_clear(load), 0);
	kernel_cgroup_remove(top);
	tally_cgroups_done(&wanted);
	assert_int_equal(tally_load_remove(load), 0);
	tally_load_close(load);
}

/* replacing under traffic ----------------------------------------------------------------------- */

static const char request[] = "GET /v1/search HTTP/1.1\r\nHost: a\r\n\r\n";
static const char response[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

static void read_all(int fd, size_t bytes)
{
	char buffer[256];

	while (bytes) {
		ssize_t n = recv(fd, buffer, TALLY_MIN(bytes, sizeof(buffer)), 0);

		if (n <= 0)
			_exit(2);
		bytes -= (size_t)n;
	}
}

static int listener(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_port = htons(PORT),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    bind(fd, (struct sockaddr *)&at, sizeof(at)) || listen(fd, 8))
		_exit(3);
	return fd;
}

static int dial(void)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_port = htons(PORT),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (connect(fd, (struct sockaddr *)&to, sizeof(to)))
		_exit(4);
	return fd;
}

/* A server and its client in this process, of that cgroup; a new connection every 100 requests. */
static void serve(const char *cgroup)
{
	int at, client = -1, server = -1;

	kernel_cgroup_enter(cgroup);
	at = listener();
	for (int i = 0; i < REQUESTS; i++) {
		if (i % 100 == 0) {
			tally_util_close(client);
			tally_util_close(server);
			client = dial();
			server = accept(at, NULL, NULL);
		}
		if (send(client, request, sizeof(request) - 1, 0) < 0)
			_exit(5);
		read_all(server, sizeof(request) - 1);
		if (send(server, response, sizeof(response) - 1, 0) < 0)
			_exit(6);
		read_all(client, sizeof(response) - 1);
	}
	close(client);
	close(server);
}

/*
 * In a process of its own. The lock of the pin folder, programs, maps: none of them is that
 * process's, and here nothing goes on until it has let go of them: the pipe ends with the rest.
 */
static pid_t start_traffic(const char *cgroup)
{
	int ends[2];
	char none;
	pid_t pid;

	assert_int_equal(pipe(ends), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		if (close_range(3, ~0U, 0))
			_exit(1);
		serve(cgroup);
		_exit(0);
	}
	close(ends[1]);
	assert_int_equal(read(ends[0], &none, 1), 0);
	close(ends[0]);
	return pid;
}

static const char config_text[] = "agent: {state_dir: /nowhere}\n"
				  "services:\n"
				  "  - name: api\n"
				  "    match: {ports: [18972]}\n"
				  "    key: [{header: X-API-Key}]\n"
				  "    routes: [{match: \"/v1/**\"}]\n"
				  "sinks: [{stdout: {}}]\n";

static void compile(struct tally_load *load, struct tally_rules *ret_rules)
{
	struct tally_rules_target target = { .generation = 1 };
	struct tally_config *config = NULL;
	struct tally_diag diag;

	tally_diag_init(&diag, "test");
	assert_int_equal(tally_config_parse(config_text, strlen(config_text), 0, &diag, &config),
			 0);
	assert_int_equal(tally_load_secret(load, target.secret), 0);
	assert_int_equal(tally_rules_compile(&config->services[0], &target, ret_rules), 0);
	tally_config_free(config);
	tally_diag_done(&diag);
}

static void put_rules(struct tally_load *load, const struct tally_cgroups *cgroups)
{
	struct tally_scope_want scope = { cgroups->items[0].id, cgroups->items[0].level, 0, PORT,
					  0 };
	struct tally_rules *rules = calloc(1, sizeof(*rules));
	struct tally_rulesets *rulesets;

	assert_non_null(rules);
	compile(load, rules);
	assert_int_equal(tally_rulesets_open(load, &rulesets), 0);
	assert_int_equal(tally_rulesets_put(rulesets, rules), 0);
	assert_int_equal(tally_rulesets_generation(rulesets, 0), 1);
	assert_int_equal(tally_scopes_set(load, &scope, 1), 0);
	tally_rulesets_close(rulesets);
	free(rules);
}

/* As many as the map holds, then as many others: there is no room for both, and all are there. */
static void test_scopes_full(void **state)
{
	struct tally_load *load = open_load(kernel_pin_dir("scopes", 0));
	struct tally_scope_want *scopes = calloc(TALLY_SCOPES_MAX + 1, sizeof(*scopes));
	struct tally_scope value;

	assert_non_null(scopes);
	for (uint64_t round = 1; round <= 3; round++) {
		for (uint64_t i = 0; i <= TALLY_SCOPES_MAX; i++)
			scopes[i] = (struct tally_scope_want){ .cgroup = round << 32 | i,
							       .level = 1,
							       .port = PORT };
		assert_int_equal(tally_scopes_set(load, scopes, TALLY_SCOPES_MAX), 0);
		assert_int_equal(tally_scopes_set(load, scopes, TALLY_SCOPES_MAX + 1), -E2BIG);
		for (uint64_t i = 0; i < TALLY_SCOPES_MAX; i++) {
			struct tally_scope_key key = { .cgroup = scopes[i].cgroup, .port = PORT };

			assert_int_equal(
				bpf_map_lookup_elem(load->maps[TALLY_MAP_SCOPES], &key, &value), 0);
		}
	}
	free(scopes);
	assert_int_equal(tally_load_remove(load), 0);
	tally_load_close(load);
}

static uint8_t mark_of(struct tally_load *load, uint32_t port)
{
	uint8_t mark;

	assert_int_equal(bpf_map_lookup_elem(load->maps[TALLY_MAP_PORTS], &port, &mark), 0);
	return mark;
}

static uint16_t changes_of(struct tally_load *load)
{
	struct tally_settings settings;
	uint32_t zero = 0;

	assert_int_equal(bpf_map_lookup_elem(load->maps[TALLY_MAP_SETTINGS], &zero, &settings), 0);
	return settings.changes;
}

/* Whoever was out of sight, or wanted by nobody, is told; nobody else is, and nothing twice. */
static void test_scopes_told(void **state)
{
	const char *dir = kernel_pin_dir("told", 0);
	struct tally_load *load = open_load(dir);
	struct tally_scope_want all = { .cgroup = 9, .level = 1, .service = 2 };
	struct tally_scope_want two[] = {
		{ .cgroup = 7, .level = 1, .service = 0, .port = PORT },
		{ .cgroup = 8, .level = 15, .service = 1, .port = PORT },
	};

	assert_int_equal(mark_of(load, PORT), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(tally_scopes_set(load, two, 2), 0);
		assert_int_equal(mark_of(load, PORT), 1);
		assert_int_equal(changes_of(load), 1);
	}
	assert_int_equal(tally_scopes_set(load, two, 1), 0); /* one of them goes */
	assert_int_equal(mark_of(load, PORT), 3);
	assert_int_equal(changes_of(load), 1);
	two[0].service = 1; /* is renamed */
	assert_int_equal(tally_scopes_set(load, two, 1), 0);
	assert_int_equal(mark_of(load, PORT), 5);
	assert_int_equal(changes_of(load), 2);
	two[0].origin = 3;
	assert_int_equal(tally_scopes_set(load, two, 1), 0);
	assert_int_equal(mark_of(load, PORT), 5);
	assert_int_equal(tally_scopes_set(load, two, 0), 0);
	assert_int_equal(mark_of(load, PORT), 6);
	tally_load_close(load);
	load = open_load(dir); /* the next agent */
	assert_int_equal(tally_scopes_set(load, two, 1), 0);
	assert_int_equal(mark_of(load, PORT), 7);
	assert_int_equal(mark_of(load, PORT + 1), 0);
	assert_int_equal(tally_scopes_set(load, &all, 1), 0);
	assert_int_equal(mark_of(load, PORT), 9);
	assert_int_equal(mark_of(load, PORT + 1), 1);
	all.cgroup++; /* its cgroups come and go */
	assert_int_equal(tally_scopes_set(load, &all, 1), 0);
	assert_int_equal(mark_of(load, PORT), 9);
	assert_int_equal(tally_load_remove(load), 0);
	tally_load_close(load);
}

static uint64_t count(struct tally_load *load, struct tally_ledger *ledger)
{
	struct tally_frozen frozen;
	uint64_t requests = 0;

	assert_int_equal(tally_ledger_swap(ledger, 9 * TALLY_NS_PER_S, 9 * TALLY_NS_PER_S,
					   TALLY_CAUSE_INTERVAL),
			 0);
	assert_int_equal(tally_ledger_drain(ledger, 1, &frozen), 0);
	for (size_t i = 0; i < frozen.n_rows; i++)
		requests += frozen.rows[i].row.requests;
	assert_int_equal(frozen.totals[0].seen, requests);
	tally_ledger_frozen_done(&frozen);
	return requests;
}

static void test_replace(void **state)
{
	const char *dir = kernel_pin_dir("replace", 0);
	struct tally_load *load = open_load(dir);
	const char *cgroup = kernel_cgroup_make("replace");
	struct tally_cgroups wanted = {};
	struct tally_clock_map *clock;
	struct tally_ledger *ledger;
	int status, updates = 0;
	pid_t pid;

	assert_int_equal(tally_clock_open(load, &clock), 0);
	tally_clock_sync(clock);
	assert_int_equal(tally_ledger_open(load, TALLY_NS_PER_S, &ledger), 0);
	want(&wanted, cgroup);
	put_rules(load, &wanted);
	set(load, &wanted, 1);
	pid = start_traffic(cgroup);
	while (!waitpid(pid, &status, WNOHANG)) {
		assert_int_equal(tally_attach_update(load), 0);
		assert_int_equal(tally_load_pin_programs(load), 0);
		updates++;
		/* now and then by a new agent, with programs of its own */
		if (updates % UPDATES == 0) {
			tally_ledger_close(ledger);
			tally_clock_close(clock);
			tally_load_close(load);
			load = open_load(dir);
			assert_int_equal(tally_clock_open(load, &clock), 0);
			assert_int_equal(tally_ledger_open(load, TALLY_NS_PER_S, &ledger), 0);
		}
	}
	assert_int_equal(status, 0);
	print_message("%d updates under %d requests\n", updates, REQUESTS);
	assert_true(updates > 10);
	assert_int_equal(count(load, ledger), REQUESTS);
	assert_int_equal(tally_attach_clear(load), 0);
	tally_cgroups_done(&wanted);
	tally_ledger_close(ledger);
	tally_clock_close(clock);
	assert_int_equal(tally_load_remove(load), 0);
	tally_load_close(load);
	kernel_cgroup_remove(cgroup);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reuse),	    cmocka_unit_test(test_other_abi),
		cmocka_unit_test(test_abi_before),  cmocka_unit_test(test_ruin),
		cmocka_unit_test(test_missing),	    cmocka_unit_test(test_hooks),
		cmocka_unit_test(test_repair),	    cmocka_unit_test(test_scopes_full),
		cmocka_unit_test(test_scopes_told), cmocka_unit_test(test_replace),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
