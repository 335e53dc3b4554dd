// SPDX-License-Identifier: Apache-2.0
/*
 * The configuration: a table of (text, what is said about it), defaults, secrets, examples and
 * schema as shipped. A case's text is exactly what `tallyd check-config` prints.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/config.h"
#include "base/manual.h"
#include "identify/catalog.h"
#include "identify/rules.h"

/* Parses; the diagnosis goes to out, the config (if any) to *ret_config. */
static int parse(const char *text, unsigned int flags, char *out, size_t bytes,
		 struct tally_config **ret_config)
{
	struct tally_diag diag;
	FILE *stream = fmemopen(out, bytes, "w");
	int r;

	tally_diag_init(&diag, "F");
	r = tally_config_parse(text, strlen(text), flags, &diag, ret_config);
	assert_int_equal(r<0, diag.errors> 0);
	tally_diag_print(&diag, stream);
	fputc('\0', stream);
	fclose(stream);
	tally_diag_done(&diag);
	return r;
}

#define SERVICE "services: [{name: a, match: {ports: 1}, key: [{header: K}], tainted: owner}]\n"
#define SINKS "sinks: [{stdout: }]\n"
#define SECRET \
	"F: warning: agent.fleet_secret: missing: ids of keys outside of the catalog differ from node to node; give all nodes the same one, as ${file:/path}\n"

static const struct {
	const char *text, *diagnosis;
} cases[] = {
	{ SERVICE SINKS, SECRET },
	{ "", "F: sinks: missing\n" SECRET "F: warning: services: none: nothing is metered\n" },
	{ SERVICE, SECRET "F:1:1: sinks: missing\n" },
	{ SERVICE
	  "sinks: [{kafka: {brokers: b, properties: {sasl.password: hunter2, sasl.username: u}}}]\n",
	  SECRET
	  "F:2:58: warning: sinks[0].kafka.properties.sasl.password: a secret stands here itself, where whoever reads this file sees it: write ${file:/path} or ${cred:NAME}\n" },
	{ SINKS "agent: {windw: 1s}\n",
	  "F:1:1: warning: services: none: nothing is metered\n"
	  "F:2:8: warning: agent.fleet_secret: missing: ids of keys outside of the catalog differ from node to node; give all nodes the same one, as ${file:/path}\n"
	  "F:2:9: agent.windw: unknown key; did you mean \"window\"?\n" },
	{ "a: [\n", "F:2:1: not YAML: did not find expected node content\n" },
	{ "a: 1\na: 2\n", "F:2:1: key \"a\" is there twice, first in line 1\n" },
	{ "a: *x\n", "F:1:4: no anchor of this name\n" },
	{ "a: &x [*x]\n", "F:1:8: an alias inside of what it names\n" },
	{ "a: !!str 1\n", "F:1:4: tags (!) are not supported\n" },
	{ "a: 1\n---\nb: 1\n", "F:2:1: a second document\n" },
	{ "? [a]\n: 1\n", "F:1:3: a key must be a text\n" },
	{ "a: \"x\\0y\"\n", "F:1:4: a NUL character in a text\n" },
};

static void test_cases(void **state)
{
	char out[4096];

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(cases); i++) {
		_cleanup_(tally_config_freep) struct tally_config *config = NULL;

		(void)parse(cases[i].text, 0, out, sizeof(out), &config);
		if (strncmp(cases[i].text, "a:", 2) != 0 && strncmp(cases[i].text, "?", 1) != 0)
			assert_string_equal(out, cases[i].diagnosis);
		else if (!strstr(out, cases[i].diagnosis))
			fail_msg("%s\n%s", cases[i].text, out);
	}
}

/* One value at a time, in the place of %s; each must be refused with this text. */
static const struct {
	const char *text, *why;
} faults[] = {
	{ "agent: {window: 7s}", "agent.window: must be whole seconds that divide an hour" },
	{ "agent: {window: 1500ms}", "agent.window: must be whole seconds" },
	{ "agent: {window: 2h}", "F:1:17: agent.window: must be from 1s to 1h" },
	{ "agent: {window: 10}", "agent.window: must be a duration, like 10s" },
	{ "agent: {window: 10s10}", "must be a duration" },
	{ "agent: {window: 99999999999999999999s}", "number too large" },
	{ "agent: {window: [1]}", "agent.window: must be a single value, not a list" },
	{ "agent: {window: {a: 1}}", "agent.window: must be a single value, not a mapping" },
	{ "agent: [1]", "agent: must be a mapping" },
	{ "agent: {state_dir: x}", "agent.state_dir: must be an absolute path" },
	{ "agent: {state_dir: ''}", "agent.state_dir: must not be empty" },
	{ "agent: {state_dir: \"${file:/x}\"}", "${...} is expanded only in secrets" },
	{ "agent: {limits: {rows: 1}}", "agent.limits.rows: must be from 1024 to 16777216" },
	{ "agent: {limits: {rows: -5}}", "must be a whole number" },
	{ "agent: {limits: {rows: 0x10}}", "must be a whole number" },
	{ "agent: {log: {level: warn}}", "did you mean \"warning\"?" },
	{ "agent: {metrics: {listen: nowhere}}", "must be ADDRESS:PORT or off" },
	{ "agent: {metrics: {listen: '::1:80'}}", "must be ADDRESS:PORT or off" },
	{ "agent: {metrics: {listen: 'node-1:9464'}}", "must be ADDRESS:PORT or off" },
	{ "agent: {metrics: {listen: '[zz]:0'}}", "must be ADDRESS:PORT or off" },
	{ "agent: {metrics: {listen: '127.0.0.1:65536'}}", "must be ADDRESS:PORT or off" },
	{ "kubernetes: {api: 'http://10.0.0.1:443'}", "kubernetes.api: must begin with https://" },
	{ "kubernetes: {api: 'http://localhost.evil'}",
	  "kubernetes.api: must begin with https://" },
	{ "kubernetes: {api: 'https://'}", "kubernetes.api: must begin with https://" },
	{ "agent: {fleet_secret: hunter2}", "must not stand here itself" },
	{ "agent: {fleet_secret: '${env:HOME}'}", "a secret is the whole value" },
	{ "agent: {fleet_secret: 'x${file:/x}'}", "a secret is the whole value" },
	{ "agent: {fleet_secret: '${cred:../x}'}", "a secret is the whole value" },
	{ "agent: {fleet_secret: '${cred:x}'}", "there is no CREDENTIALS_DIRECTORY" },
	{ "agent: {fleet_secret: '${file:/nonexistent}'}", "/nonexistent}: No such file" },
	{ "services: {}", "services: must be a list" },
	{ "services: [{}]", "services[0].name: missing" },
	{ "services: [{name: a}]", "services[0].match: missing" },
	{ "services: [{name: a, match: {cgroup: /x}}]", "services[0].match.ports: missing" },
	{ "services: [{name: a/b, match: {ports: 1}}]", "services[0].name: must begin with" },
	{ "services: [{name: a, match: {ports: 0}}]", "must be a port from 1 to 65535" },
	{ "services: [{name: a, match: {ports: [1, x]}}]", "F:1:41: services[0].match.ports" },
	{ "services: [{name: a, match: {ports: []}}]", "must be a port, a list of 1 to 256" },
	{ "services: [{name: a, match: {ports: all}}]", "ports: all needs cgroup" },
	{ "services: [{name: a, match: {ports: 1, cgroup: /x, unit: b.service}}]",
	  "at most one of cgroup, unit, executable" },
	{ "services: [{name: a, match: {ports: 1, cgroup: x}}]",
	  "F:1:48: services[0].match.cgroup: must be an absolute path" },
	{ "services: [{name: a, match: {ports: 1, executable: x}}]",
	  "F:1:52: services[0].match.executable: must be an absolute path" },
	{ "services: [{name: a, match: {ports: 1, unit: x}}]",
	  "F:1:46: services[0].match.unit: must be the whole name of a unit" },
	{ "services: [{name: a, match: {ports: 1}, key: [{}]}]",
	  "services[0].key[0]: must have exactly one of header, query, response_header" },
	{ "services: [{name: a, match: {ports: 1}, key: [{query: a, scheme: b}]}]",
	  "scheme needs header" },
	{ "services: [{name: a, match: {ports: 1}, tainted: yes}]", "unattributed, owner" },
	{ "services: [{name: a, match: {ports: 1}, routes: [{}]}]",
	  "services[0].routes[0].match: missing" },
	{ "services: [{name: a, match: {ports: 1}, routes: [{match: /, credit: 1}]}]",
	  "services[0].routes[0].credit: unknown key; did you mean \"credits\"?" },
	{ "services: [{name: a, ports: 1}]",
	  "services[0].ports: unknown key; did you mean \"match: {ports: ...}\"?" },
	{ "services: [{name: a, match: {ports: 1}, routes: [{match: /, credits: -1}]}]",
	  "must be a decimal number" },
	{ "services: [{name: a, match: {ports: 1}, routes: [{match: /, credits: 1e3}]}]",
	  "must be a decimal number" },
	{ "services: [{name: a, match: {ports: 1}, routes: [{match: /, credits: 0.0000000001}]}]",
	  "number too large or too exact" },
	{ "services: [{name: a, match: {ports: 1}, routes: [{match: /, credits: 99999999999}]}]",
	  "number too large or too exact" },
	{ "services: [{name: a, match: {ports: 1}, routes: [{match: /, health: yes}]}]",
	  "must be true or false" },
	{ "services: [{name: a, match: {ports: 1}, routes: [{match: /, health: 'true'}]}]",
	  "must be true or false" },
	{ "services: [{name: a, match: {ports: 1}, routes: [{match: /, billable: {404: 1}}]}]",
	  "services[0].routes[0].billable.404: must be true or false" },
	{ "records: {connections: true}", "records.connections: must be one of off, on" },
	{ "records: {conections: on}",
	  "records.conections: unknown key; did you mean \"connections\"?" },
	{ "records: {peer_prefix: {ipv4: 33}}", "records.peer_prefix.ipv4: must be from 0 to 32" },
	{ "records: {peer_prefix: {ipv6: 129}}",
	  "records.peer_prefix.ipv6: must be from 0 to 128" },
	{ "records: {peer_prefix: 24}", "records.peer_prefix: must be " },
	{ "sinks: []", "sinks: 0 entries; from 1 to 16" },
	{ "sinks: [{}]", "sinks[0]: must have exactly one of kafka, file, stdout" },
	{ "sinks: [{stdout: , file: {path: /x}}]", "must have exactly one of" },
	{ "sinks: [{name: out.tmp, stdout: }]", "sinks[0].name: must not end in .tmp" },
	{ "sinks: [{stdout: }, {stdout: }]", "sinks[1].name: sinks[0] is named \"stdout\", too" },
	{ "sinks: [{file: {path: /a}}, {name: b, file: {path: /a}}]", "has the same path" },
	{ "sinks: [{kafka: {brokers: b}}, {name: b, kafka: {brokers: b}}]",
	  "sinks[1].kafka.topics.records: sinks[0] has the same topic" },
	{ "sinks: [{kafka: {}}]", "sinks[0].kafka.brokers: missing" },
	{ "sinks: [{kafka: {brokers: b, format: json}}]", "cloudevents, openmeter" },
	{ "sinks: [{kafka: {brokers: b, properties: {a: [1]}}}]",
	  "sinks[0].kafka.properties.a: must be a single value, not a list" },
};

static void test_faults(void **state)
{
	char out[4096];

	(void)unsetenv("CREDENTIALS_DIRECTORY"); /* cannot fail on this name */
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(faults); i++) {
		_cleanup_(tally_config_freep) struct tally_config *config = NULL;

		assert_int_equal(parse(faults[i].text, 0, out, sizeof(out), &config), -EINVAL);
		assert_null(config);
		if (!strstr(out, faults[i].why))
			fail_msg("%s\nwants: %s\nsaid: %s", faults[i].text, faults[i].why, out);
	}
}

/* Pairs of services; does the second tie with the first? */
static const struct {
	const char *a, *b;
	bool tie;
} ties[] = {
	{ "ports: 1", "ports: 1", true },
	{ "ports: [1, 2]", "ports: [3, 2]", true },
	{ "ports: [1, 2]", "ports: [3, 4]", false },
	{ "ports: 1", "ports: 1, executable: /a", false },
	{ "ports: 1, executable: /a", "ports: 1, executable: /b", false },
	{ "ports: 1, executable: /a", "ports: all, executable: /a", true },
	{ "ports: 1, executable: /a", "ports: 1, unit: a.service", false },
	{ "ports: 1, unit: a.service", "ports: 1, unit: a.service", true },
	{ "ports: 1, unit: a.service", "ports: 2, unit: a.service", false },
	{ "ports: 1, unit: a.service", "ports: 1, unit: b.service", false },
	{ "ports: 1, unit: a.service", "ports: 1, cgroup: /system.slice/a.service", true },
	{ "ports: 1, unit: a.service", "ports: 1, cgroup: /system.slice/*.service", true },
	{ "ports: 1, unit: a.service", "ports: 1, cgroup: /system.slice/b*.service", false },
	{ "ports: 1, unit: a.service", "ports: 1, cgroup: /a.service", true },
	{ "ports: 1, unit: a.service", "ports: 1, cgroup: /x.slice/x-y.slice/a.service", true },
	{ "ports: 1, unit: a.service", "ports: 1, cgroup: /**/a.service", true },
	{ "ports: 1, unit: a.service", "ports: 1, cgroup: /**/x.scope/**/a.service", false },
	{ "ports: 1, unit: a.service", "ports: 1, cgroup: /docker/a.service", false },
	{ "ports: 1, unit: a.service", "ports: 1, cgroup: /docker/**/a.service", false },
	{ "ports: 1, unit: 'a\\x2db.service'", "ports: 1, unit: 'a\\x2db.service'", true },
	{ "ports: 1, unit: 'a\\x2db.service'", "ports: 1, unit: 'a\\x2dc.service'", false },
	{ "ports: 1, cgroup: /x/a*", "ports: 1, cgroup: /x/*b", true },
	{ "ports: 1, cgroup: /x/a*c", "ports: 1, cgroup: /x/*b", false },
	{ "ports: 1, cgroup: /x/a?c", "ports: 1, cgroup: /x/abc", true },
	{ "ports: 1, cgroup: /x/*", "ports: 1, cgroup: /x/y/z", false },
	{ "ports: 1, cgroup: /x/**", "ports: 1, cgroup: /x/y/z", true },
	{ "ports: 1, cgroup: /x/**", "ports: 1, cgroup: /x", true },
	{ "ports: 1, cgroup: /**/z", "ports: 1, cgroup: /x/*/z", true },
	{ "ports: 1, cgroup: /x", "ports: 1, cgroup: /x/y", false },
	{ "ports: 1, cgroup: '/x/[ab]'", "ports: 1, cgroup: /x/c", true },
};

static void test_ties(void **state)
{
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(ties); i++) {
		_cleanup_(tally_config_freep) struct tally_config *config = NULL;
		_cleanup_free_ char *text = NULL;
		char out[4096];
		bool tie;

		assert_true(
			asprintf(
				&text,
				"services:\n- {name: a, match: {%s}}\n- {name: b, match: {%s}}\n" SINKS,
				ties[i].a, ties[i].b) > 0);
		tie = parse(text, 0, out, sizeof(out), &config) == -EINVAL;
		if (tie != ties[i].tie ||
		    tie != !!strstr(
				   out,
				   "F:3:20: services[1].match: can match the same sockets as services[0] (line 2)"))
			fail_msg("{%s} {%s}: tie %d\n%s", ties[i].a, ties[i].b, tie, out);
	}
}

static void test_values(void **state)
{
	static const char text[] = "agent: {window: 1m, log: {level: debug, format: json}}\n"
				   "x-common: 1\n";
	static const char good[] =
		"agent: {window: 1m, log: {level: debug, format: json}}\n"
		"services:\n"
		"- name: a\n"
		"  match: {ports: [443, 80, 443]}\n"
		"  key: [{header: K, scheme: Bearer}]\n"
		"  tainted: owner\n"
		"  anonymous: {billable: true}\n"
		"  routes:\n"
		"  - &r {match: /a, credits: 0.25, billable: {4xx: true, \"404\": false}}\n"
		"- {name: b, match: {ports: 81}, routes: [*r]}\n"
		"sinks:\n"
		"- kafka: {brokers: b, properties: {linger.ms: 5}, transaction_timeout: 1m30s}\n"
		"- {name: copy, file: {path: /x, required: false}}\n";
	_cleanup_(tally_config_freep) struct tally_config *config = NULL, *none = NULL;
	char out[4096];

	assert_int_equal(parse(text, 0, out, sizeof(out), &none), -EINVAL);
	assert_int_equal(parse(good, 0, out, sizeof(out), &config), 0);
	assert_int_equal(config->agent.window_ns, 60 * TALLY_NS_PER_S);
	assert_int_equal(tally_config_log_level(config), TALLY_LOG_DEBUG);
	assert_int_equal(config->agent.log.format, TALLY_LOG_JSON);
	assert_string_equal(config->agent.state_dir, "/var/lib/tallyd");
	assert_string_equal(config->agent.pin_dir, "/sys/fs/bpf/tallyd");
	assert_int_equal(config->agent.limits.connection_rows, 262144);
	assert_int_equal(config->agent.limits.rows, 16384);
	assert_int_equal(config->agent.limits.keys, 65536);
	assert_null(config->agent.fleet_secret);
	assert_null(config->keys.file);
	assert_int_equal(config->n_services, 2);
	assert_int_equal(config->services[0].match.ports.n, 2);
	assert_int_equal(config->services[0].match.ports.list[0], 80);
	assert_int_equal(config->services[0].tainted, TALLY_CONFIG_TAINTED_OWNER);
	assert_true(config->services[0].anonymous.billable);
	assert_int_equal(config->services[1].routes[0].credits, TALLY_OPTION_DECIMAL / 4);
	assert_int_equal(config->services[1].routes[0].n_billable, 2);
	assert_string_equal(config->services[1].routes[0].billable[1].name, "404");
	assert_false(config->services[1].routes[0].billable[1].flag);
	assert_int_equal(config->services[1].routes[0].place.line, 9);
	assert_string_equal(config->sinks[0].name, "kafka");
	assert_string_equal(config->sinks[1].name, "copy");
	assert_int_equal(config->sinks[0].kafka.transaction_timeout_ns, 90 * TALLY_NS_PER_S);
	assert_string_equal(config->sinks[0].kafka.properties[0].value, "5");
	assert_string_equal(config->sinks[0].kafka.topics.records, "usage.records.v1");
	assert_string_equal(config->sinks[0].kafka.topics.connections, "usage.connections.v1");
	assert_int_equal(config->records.connections, TALLY_CONFIG_CONNECTIONS_OFF);
	assert_int_equal(config->records.peer_prefix.ipv4, 32);
	assert_int_equal(config->records.peer_prefix.ipv6, 128);
	assert_true(config->sinks[0].kafka.required);
	assert_false(config->sinks[1].file.required);
	assert_int_equal(config->sinks[1].kafka.place.line, 0);
}

/* Secrets are read, their newline taken off, and never said. */
static void test_secrets(void **state)
{
	_cleanup_(tally_config_freep) struct tally_config *config = NULL, *kept = NULL, *bad = NULL;
	char dir[] = "/tmp/test_config.XXXXXX", path[64], text[512], out[2048];

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/pw", dir);
	assert_int_equal(tally_util_write_file(path, "correct horse battery\n", 22, 0600), 0);
	assert_int_equal(setenv("CREDENTIALS_DIRECTORY", dir, 1), 0);
	snprintf(text, sizeof(text),
		 "agent: {fleet_secret: '${cred:pw}'}\n" SERVICE
		 "sinks: [{kafka: {brokers: b, properties: {sasl.password: '${file:%s}'}}}]\n",
		 path);
	assert_int_equal(parse(text, 0, out, sizeof(out), &config), 0);
	assert_string_equal(out, "");
	assert_string_equal(config->agent.fleet_secret, "correct horse battery");
	assert_string_equal(config->sinks[0].kafka.properties[0].value, "correct horse battery");
	assert_int_equal(parse(text, TALLY_CONFIG_NO_SECRETS, out, sizeof(out), &kept), 0);
	assert_string_equal(kept->agent.fleet_secret, "${cred:pw}");
	assert_int_equal(tally_util_write_file(path, "short pw", 8, 0600), 0);
	assert_int_equal(parse(text, 0, out, sizeof(out), &bad), -EINVAL);
	assert_non_null(strstr(out, "agent.fleet_secret: the secret has 8 bytes; at least 16"));
	assert_null(strstr(out, "short pw"));
	assert_int_equal(unlink(path), 0);
	/* not there yet: told from what is wrong in the file, unless that is there, too */
	assert_int_equal(parse(text, 0, out, sizeof(out), &bad), -ENOKEY);
	assert_non_null(strstr(out, "F:1:23: agent.fleet_secret: ${cred:pw}: No such file"));
	assert_null(bad);
	strcat(text, "nonsense: 1\n");
	assert_int_equal(parse(text, 0, out, sizeof(out), &bad), -EINVAL);
	assert_int_equal(rmdir(dir), 0);
	assert_int_equal(unsetenv("CREDENTIALS_DIRECTORY"), 0);
}

/* Without a unit's credentials a check at a prompt warns and goes on. */
static void test_check_only(void **state)
{
	_cleanup_(tally_config_freep) struct tally_config *config = NULL;
	char out[2048];

	assert_int_equal(parse("agent: {fleet_secret: '${cred:pw}'}\n" SERVICE SINKS,
			       TALLY_CONFIG_CHECK_ONLY, out, sizeof(out), &config),
			 0);
	assert_non_null(
		strstr(out, "F:1:23: warning: agent.fleet_secret: ${cred:pw} is not checked"));
	/* what reloads a unit is told of the folder, and must not look into it */
	tally_config_free(TAKE_PTR(config));
	assert_int_equal(setenv("CREDENTIALS_DIRECTORY", "/nonexistent", 1), 0);
	assert_int_equal(parse("agent: {fleet_secret: '${cred:pw}'}\n" SERVICE SINKS,
			       TALLY_CONFIG_CHECK_ONLY, out, sizeof(out), &config),
			 0);
	assert_non_null(strstr(out, "${cred:pw} is not checked"));
	assert_int_equal(unsetenv("CREDENTIALS_DIRECTORY"), 0);
}

/* Aliases that double again and again end at the cap of nodes, soon. */
static void test_billion_laughs(void **state)
{
	_cleanup_(tally_config_freep) struct tally_config *config = NULL;
	char text[4096] = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n", out[4096];

	for (int i = 1; i < 12; i++) {
		size_t n = strlen(text);

		snprintf(text + n, sizeof(text) - n,
			 "a%d: &a%d [*a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d]\n",
			 i, i, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1,
			 i - 1);
	}
	assert_int_equal(parse(text, 0, out, sizeof(out), &config), -EINVAL);
	assert_non_null(strstr(out, "aliases repeat too many values"));
}

static void test_deep(void **state)
{
	_cleanup_(tally_config_freep) struct tally_config *config = NULL;
	char text[4096], out[4096];

	memset(text, '[', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	assert_int_equal(parse(text, 0, out, sizeof(out), &config), -EINVAL);
	assert_non_null(strstr(out, "nested too deeply"));
}

/* More errors than are kept are counted. */
static void test_many_errors(void **state)
{
	_cleanup_(tally_config_freep) struct tally_config *config = NULL;
	static char text[16384], out[65536];
	size_t n = 0;

	for (int i = 0; i < 250; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "k%d: 1\n", i);
	assert_int_equal(parse(text, 0, out, sizeof(out), &config), -EINVAL);
	assert_non_null(strstr(out, "F:100:1: k99: unknown key"));
	assert_null(strstr(out, "k100: unknown"));
	assert_non_null(strstr(out, "F: 151 more errors\n"));
}

/* Tests run in the root of the sources. */
static void test_examples(void **state)
{
	static const char *const names[] = { "minimal",	   "full",  "openmeter",
					     "kubernetes", "units", "kafka" };

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(names); i++) {
		_cleanup_(tally_config_freep) struct tally_config *config = NULL;
		char path[128], id[TALLY_RULESET_ID];
		struct tally_diag diag;

		snprintf(path, sizeof(path), "deploy/examples/%s.yaml", names[i]);
		tally_diag_init(&diag, path);
		assert_int_equal(tally_config_load(path, TALLY_CONFIG_NO_SECRETS, &diag, &config),
				 0);
		assert_int_equal(tally_rules_check(config, &diag), 0);
		assert_int_equal(tally_rules_id(config, id), 0);
		tally_diag_done(&diag);
	}
}

/* What services of pods are made of is checked like a service. */
static void test_unlisted(void **state)
{
	static const char text[] = SERVICE SINKS "kubernetes:\n  unlisted:\n    key:\n"
						 "    - header: Content-Length\n"
						 "    - header: X-Key\n"
						 "    - header: x-key\n"
						 "    routes:\n"
						 "    - match: get v1/*/x\n"
						 "    - match: /a/{b}\n"
						 "    - match: /a/{c}\n"
						 "      billable: {4x: true}\n"
						 "    - match: /a//b\n";
	static const char *const said[] = {
		"F:6:7: kubernetes.unlisted.key[0]: this header frames messages",
		"F:8:7: kubernetes.unlisted.key[2]: names the same place",
		"F:10:7: kubernetes.unlisted.routes[0].match: ",
		"F:12:7: kubernetes.unlisted.routes[2].match: takes the same requests as routes[1]",
		"kubernetes.unlisted.routes[2].billable: must be a status",
		"F:14:7: kubernetes.unlisted.routes[3].match: slashes are merged",
	};
	_cleanup_(tally_config_freep) struct tally_config *config = NULL;
	FILE *stream;
	char out[4096];
	struct tally_diag diag;

	assert_int_equal(parse(text, 0, out, sizeof(out), &config), 0);
	tally_diag_init(&diag, "F");
	assert_int_equal(tally_rules_check(config, &diag), -EINVAL);
	stream = fmemopen(out, sizeof(out), "w");
	tally_diag_print(&diag, stream);
	fclose(stream);
	tally_diag_done(&diag);
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(said); i++)
		if (!strstr(out, said[i]))
			fail_msg("%s\n%s", said[i], out);
}

static void expect_schema(const struct tally_option_table *table, const char *path)
{
	json_t *made = tally_manual_schema(table), *kept = json_load_file(path, 0, NULL);

	if (!json_equal(made, kept))
		fail_msg(
			"%s is not what the option table says: make it anew with tallyd check-config --schema (or --catalog-schema)",
			path);
	json_decref(made);
	json_decref(kept);
}

static void test_schemas(void **state)
{
	expect_schema(&tally_config_table, "deploy/schema/config.schema.json");
	expect_schema(&tally_catalog_table, "deploy/schema/catalog.schema.json");
}

static void expect_help(const struct tally_option_table *table)
{
	for (size_t i = 0; i < table->n_options; i++) {
		assert_non_null(table->options[i].help);
		if (table->options[i].table)
			expect_help(table->options[i].table);
	}
}

/* Every option is explained, and the reference names it. */
static void test_reference(void **state)
{
	_cleanup_free_ char *text = NULL;
	size_t bytes = 0;
	FILE *out = open_memstream(&text, &bytes);

	expect_help(&tally_config_table);
	tally_manual_reference(&tally_config_table, out);
	assert_int_equal(fclose(out), 0);
	assert_non_null(strstr(text, "### sinks[].kafka.topics\n"));
	assert_non_null(strstr(text, "| `brokers` | text | **required** |"));
	assert_non_null(strstr(text, "| `window` | duration | `10s` |"));
}

/* Each text differs from the first in one value, or says the same otherwise. */
static void test_equal(void **state)
{
	static const char *const same[] = {
		"{name: s, kafka: {brokers: b, properties: {a: 1, c: d}}}",
		"{kafka: {properties: {a: '1', c: d}, brokers: 'b', required: true}, name: s}",
	};
	static const char *const others[] = {
		"{name: t, kafka: {brokers: b, properties: {a: 1, c: d}}}",
		"{name: s, kafka: {brokers: bb, properties: {a: 1, c: d}}}",
		"{name: s, kafka: {brokers: b, properties: {a: 2, c: d}}}",
		"{name: s, kafka: {brokers: b, properties: {a: 1}}}",
		"{name: s, kafka: {brokers: b}}",
		"{name: s, kafka: {brokers: b, properties: {a: 1, c: d}, required: false}}",
		"{name: s, kafka: {brokers: b, properties: {a: 1, c: d}, partitions: 7}}",
		"{name: s, kafka: {brokers: b, properties: {a: 1, c: d}, format: openmeter}}",
		"{name: s, kafka: {brokers: b, properties: {a: 1, c: d}, topics: {records: x}}}",
		"{name: s, kafka: {brokers: b, properties: {a: 1, c: d}, transaction_timeout: 5s}}",
		"{name: s, file: {path: /b}}",
		"{name: s, stdout: }",
	};
	struct tally_config *first = NULL, *config = NULL;
	char text[512], out[4096];

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(same) + TALLY_ARRAY_SIZE(others); i++) {
		bool is_same = i < TALLY_ARRAY_SIZE(same);

		snprintf(text, sizeof(text), SERVICE "sinks: [%s]\n",
			 is_same ? same[i] : others[i - TALLY_ARRAY_SIZE(same)]);
		assert_int_equal(parse(text, 0, out, sizeof(out), i ? &config : &first), 0);
		if (!i)
			continue;
		assert_int_equal(
			tally_option_equal(&tally_config_sink_table, first->sinks, config->sinks),
			is_same);
		assert_int_equal(tally_option_equal(&tally_config_table, first, config), is_same);
		tally_config_free(config);
	}
	tally_config_free(first);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cases),	       cmocka_unit_test(test_faults),
		cmocka_unit_test(test_ties),	       cmocka_unit_test(test_values),
		cmocka_unit_test(test_secrets),	       cmocka_unit_test(test_check_only),
		cmocka_unit_test(test_billion_laughs), cmocka_unit_test(test_deep),
		cmocka_unit_test(test_many_errors),    cmocka_unit_test(test_examples),
		cmocka_unit_test(test_schemas),	       cmocka_unit_test(test_reference),
		cmocka_unit_test(test_equal),	       cmocka_unit_test(test_unlisted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
