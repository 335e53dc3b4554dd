// SPDX-License-Identifier: Apache-2.0
/* check-config, keys id, audit and spool as a person calls them: what is said where, and with which exit code. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <ctype.h>
#include <jansson.h>

#include "libcommand.h"

#define KEY_SHA "8649cdebee753898fd50e01408a9e438aa5090249bc3e51b65f33dce973b0873"
#define KEY_KFP "kfp_73ng7bsoe3xptklhqmtj"

static int set_up(void **state)
{
	char text[2048];

	command_open();
	command_put("secret", "0123456789abcdef0123456789abcdef\n");
	command_put("keys.yaml", "keys: [{id: key_1, customer: cus_1, sha256: " KEY_SHA "}]\n");
	snprintf(text, sizeof(text),
		 "agent: {fleet_secret: '${file:%s/secret}', state_dir: %s}\n"
		 "services:\n"
		 "- {name: geo, match: {ports: [80, 81]}, key: [{header: X-Key}], tainted: owner,\n"
		 "   routes: [{match: /a}, {match: /b}]}\n"
		 "keys: {file: %s/keys.yaml}\n"
		 "sinks: [{stdout: }]\n",
		 command_dir, command_dir, command_dir);
	command_put("good.yaml", text);
	command_put("warn.yaml",
		    "services: [{name: a, match: {ports: 1}, key: [{header: K}], tainted: owner}]\n"
		    "sinks: [{stdout: }]\n");
	command_put("bad.yaml",
		    "services: [{name: a, match: {ports: 1}, routes: [{match: a}], tined: x}]\n");
	snprintf(text, sizeof(text), "agent: {state_dir: %s}\nsinks: [{stdout: }]\n", command_dir);
	command_put("own.yaml", text);
	command_put("fleet-secret", "0123456789abcdef0123456789abcdef");
	return 0;
}

static int tear_down(void **state)
{
	return command_close();
}

static void test_good(void **state)
{
	assert_int_equal(command_call("check-config good.yaml", ""), 0);
	assert_string_equal(command_err, "");
	assert_non_null(
		strstr(command_out, "service geo: ports 80,81; 2 routes\n  key 1: header X-Key\n"));
	assert_non_null(strstr(command_out, "keys.yaml: 1 keys\n"));
	assert_non_null(strstr(command_out, "MiB  in all\ngood.yaml: good\n"));
	assert_int_equal(command_call("check-config -q good.yaml", ""), 0);
	assert_string_equal(command_out, "");
}

/* As with the other commands. */
static void test_config_option(void **state)
{
	assert_int_equal(command_call("check-config --config good.yaml", ""), 0);
	assert_non_null(strstr(command_out, "good.yaml: good\n"));
	assert_int_equal(command_call("check-config -c bad.yaml", ""), 78);
	assert_non_null(strstr(command_err, "bad.yaml:1:"));
	assert_int_equal(command_call("check-config --config good.yaml good.yaml", ""), 64);
	assert_non_null(strstr(command_err, "not both"));
}

static void test_json(void **state)
{
	json_t *json;

	assert_int_equal(command_call("check-config good.yaml -o json", ""), 0);
	json = json_loads(command_out, 0, NULL);
	assert_non_null(json);
	assert_int_equal(json_integer_value(json_object_get(json, "catalog_keys")), 1);
	assert_int_equal(json_integer_value(json_object_get(json, "window_s")), 10);
	assert_int_equal(json_array_size(json_object_get(json, "services")), 1);
	json_decref(json);
}

/* By what a service is matched, whole. */
static void test_matches(void **state)
{
	char text[4096];
	size_t n = 0;

	command_put(
		"pods.yaml",
		"services:\n"
		"- {name: a, match: {pods: {namespace: geo, labels: {app: x, tier: y}}}, key: [{header: K}]}\n"
		"- {name: b, match: {ports: 80, pods: {labels: {app: z}}}, key: [{header: K}]}\n"
		"kubernetes: {}\nsinks: [{stdout: }]\n");
	assert_int_equal(command_call("check-config pods.yaml", ""), 0);
	assert_non_null(strstr(
		command_out, "service a: ports by annotation of pods in geo with app=x, tier=y; "));
	assert_non_null(strstr(command_out, "service b: port 80 of pods with app=z; "));
	n += (size_t)snprintf(
		text, sizeof(text),
		"sinks: [{stdout: }]\nservices: [{name: a, key: [{header: K}], match: {cgroup: /a, ports: [");
	for (int i = 0; i < 128; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%d", i ? "," : "", 10000 + i);
	(void)snprintf(text + n, sizeof(text) - n, "]}}]\n");
	command_put("ports.yaml", text);
	assert_int_equal(command_call("check-config ports.yaml", ""), 0);
	assert_non_null(strstr(command_out, ",10126,10127 of cgroup /a; "));
	assert_int_equal(command_call("check-config -o json ports.yaml", ""), 0);
	assert_non_null(strstr(command_out, ",10126,10127 of cgroup /a\""));
}

/* A file's name may be no UTF-8. */
static void test_json_of_any_name(void **state)
{
	json_t *json;

	command_put("x\377.yaml", "services: []\nsinks: [{stdout: }]\n");
	assert_int_equal(command_call("check-config -o json x\377.yaml", ""), 0);
	json = json_loads(command_out, 0, NULL);
	assert_string_equal(json_string_value(json_object_get(json, "file")), "x\357\277\275.yaml");
	json_decref(json);
}

/* All of them, in the order of the lines. */
static void test_bad(void **state)
{
	assert_int_equal(command_call("check-config bad.yaml", ""), TALLY_EXIT_CONFIG);
	assert_string_equal(command_out, "");
	assert_non_null(strstr(command_err, "bad.yaml:1:1: sinks: missing\n"));
	assert_non_null(
		strstr(command_err,
		       "bad.yaml:1:50: services[0].routes[0].match: a template begins with /"));
	assert_non_null(strstr(
		command_err,
		"bad.yaml:1:63: services[0].tined: unknown key; did you mean \"tainted\"?\n"));
	assert_int_equal(command_call("check-config none.yaml", ""), TALLY_EXIT_CONFIG);
	assert_string_equal(command_err, "none.yaml: cannot be read: No such file or directory\n");
}

/* Whoever has no catalog yet is told what the file is. */
static void test_no_catalog(void **state)
{
	char text[1024];

	snprintf(text, sizeof(text),
		 "agent: {state_dir: %s}\nkeys: {file: %s/none.yaml}\nsinks: [{stdout: }]\n",
		 command_dir, command_dir);
	command_put("nokeys.yaml", text);
	assert_int_equal(command_call("check-config -q nokeys.yaml", ""), TALLY_EXIT_CONFIG);
	assert_non_null(
		strstr(command_err,
		       "/none.yaml: the key catalog cannot be read: No such file or directory\n"));
}

/* One line each, in one manner; no line of a help is wider than what is looked at side by side. */
static void check_help(const struct tally_cli_command *command)
{
	const char *details = command->details ? command->details : "";

	assert_true(islower((unsigned char)command->summary[0]));
	assert_true(command->summary[strlen(command->summary) - 1] != '.');
	assert_null(strchr(command->summary, '\n'));
	if (*details)
		assert_true(details[strlen(details) - 1] != '\n');
	for (size_t n; *details; details += n + (details[n] == '\n')) {
		n = strcspn(details, "\n");
		if (n > 110)
			fail_msg("%s: %.*s", command->name, (int)n, details);
	}
	for (size_t i = 0; command->commands && command->commands[i]; i++)
		check_help(command->commands[i]);
}

static void test_helps(void **state)
{
	for (size_t i = 0; tally_cli_commands[i]; i++)
		check_help(tally_cli_commands[i]);
}

static void test_strict(void **state)
{
	assert_int_equal(command_call("check-config warn.yaml", ""), 0);
	assert_non_null(strstr(command_err, "warning: agent.fleet_secret"));
	assert_null(strstr(command_err, "--strict"));
	assert_int_equal(command_call("check-config --strict warn.yaml", ""), TALLY_EXIT_CONFIG);
	assert_non_null(
		strstr(command_err, "\ntallyd: warn.yaml: --strict: 1 warning is an error\n"));
}

/* What a start would refuse of a sink is refused here; what only the unit can read is not judged. */
static void test_clients(void **state)
{
	static const struct {
		const char *properties, *says; /* NULL: it is good */
	} cases[] = {
		{ "security.protocol: ssl, ssl.ca.location: /nonexistent", "ssl.ca.location" },
		{ "security.protocol: sasl_plaintext, sasl.mechanism: PLAIN, sasl.username: u",
		  "sasl.password" },
		{ "security.protocol: sasl_plaintext, sasl.mechanism: PLAIN, sasl.username: u, "
		  "sasl.password: '${cred:pw}'",
		  NULL },
		{ "security.protocol: ssl, ssl.ca.location: /run/credentials/tallyd.service/ca",
		  NULL },
		{ "security.protocol: ssl", NULL },
	};
	char text[512], line[64];

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(cases); i++) {
		snprintf(text, sizeof(text),
			 "agent: {state_dir: %s}\n"
			 "services: [{name: a, match: {ports: 1}, key: [{header: K}]}]\n"
			 "sinks:\n- stdout:\n- kafka: {brokers: b, properties: {%s}}\n",
			 command_dir, cases[i].properties);
		command_put("kafka.yaml", text);
		assert_int_equal(command_call("check-config kafka.yaml", ""),
				 cases[i].says ? TALLY_EXIT_CONFIG : 0);
		snprintf(line, sizeof(line), "kafka.yaml:5:10: sinks[1].kafka: ");
		assert_int_equal(strstr(command_err, line) != NULL, cases[i].says != NULL);
		assert_true(!cases[i].says || strstr(command_err, cases[i].says));
	}
}

static void test_bad_catalog(void **state)
{
	command_put("keys.yaml", "keys: [{id: key_1, customer: cus_1, sha256: sk_live_secret}]\n");
	assert_int_equal(command_call("check-config good.yaml", ""), TALLY_EXIT_CONFIG);
	assert_non_null(strstr(command_err, "/keys.yaml:1:8: keys[0]: sha256 must be 64"));
	assert_null(strstr(command_err, "sk_live"));
	command_put("keys.yaml", "keys: [{id: key_1, customer: cus_1, sha256: " KEY_SHA "}]\n");
}

static void test_schema(void **state)
{
	static const char *const calls[] = { "check-config --schema",
					     "check-config --catalog-schema" };

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(calls); i++) {
		json_t *json;

		assert_int_equal(command_call(calls[i], ""), 0);
		json = json_loads(command_out, 0, NULL);
		assert_non_null(json);
		json_decref(json);
	}
	assert_int_equal(command_call("check-config --reference", ""), 0);
	assert_int_equal(strncmp(command_out, "## Configuration of tallyd\n", 27), 0);
}

/* Whatever way the key comes, with its newline or without; with the fleet's secret or the agent's. */
static void test_keys_id(void **state)
{
	assert_int_equal(command_call("keys id --config good.yaml", "demo-key-acme"), 0);
	assert_string_equal(command_out, KEY_KFP "\ncatalog: id key_1, customer cus_1\n");
	assert_int_equal(command_call("keys id --config good.yaml", "demo-key-acme\n"), 0);
	assert_string_equal(command_out, KEY_KFP "\ncatalog: id key_1, customer cus_1\n");
	assert_int_equal(command_call("keys id -c good.yaml --sha256 " KEY_SHA, ""), 0);
	assert_string_equal(command_out, KEY_KFP "\ncatalog: id key_1, customer cus_1\n");
	assert_int_equal(command_call("keys id -c own.yaml -o json", "demo-key-acme"), 0);
	assert_string_equal(command_out,
			    "{\"kfp\":\"" KEY_KFP "\",\"id\":null,\"customer\":null}\n");
}

static void test_keys_id_faults(void **state)
{
	assert_int_equal(command_call("keys id -c good.yaml", ""), TALLY_EXIT_INPUT);
	assert_int_equal(command_call("keys id -c good.yaml --sha256 00", ""), TALLY_EXIT_USAGE);
	assert_int_equal(command_call("keys id -c good.yaml the-key", ""), TALLY_EXIT_USAGE);
	assert_int_equal(command_call("keys id -c none.yaml", "k"), TALLY_EXIT_CONFIG);
	assert_int_equal(command_call("keys", ""), TALLY_EXIT_USAGE);
	command_put("no-secret.yaml", "agent: {state_dir: /nowhere}\nsinks: [{stdout: }]\n");
	assert_int_equal(command_call("keys id -c no-secret.yaml", "k"), TALLY_EXIT_CONFIG);
	assert_non_null(strstr(command_err, " /nowhere/fleet-secret: No such file or directory\n"));
	command_put("unit.yaml", "agent: {fleet_secret: '${cred:fleet}'}\nsinks: [{stdout: }]\n");
	assert_int_equal(command_call("keys id -c unit.yaml", "k"), TALLY_EXIT_CONFIG);
	assert_non_null(
		strstr(command_err, "agent.fleet_secret: ${cred:fleet} can be read only by"));
}

/* The text with the test's folder for each @. */
static void in_dir(const char *text, char *ret_text, size_t bytes)
{
	size_t n = 0;

	for (; *text && n < bytes; text++)
		n += (size_t)snprintf(ret_text + n, bytes - n, "%.*s",
				      *text == '@' ? (int)strlen(command_dir) : 1,
				      *text == '@' ? command_dir : text);
	assert_true(n < bytes);
}

static int call_in_dir(const char *line, const char *said)
{
	char words[1024];
	int code;

	in_dir(line, words, sizeof(words));
	code = command_call(words, "");
	if (!strstr(command_err, said))
		fail_msg("%s: %s", words, command_err);
	return code;
}

/* librdkafka's refusal shows what reached it: nothing is asked of a broker. */
static void test_audit_properties(void **state)
{
	command_put("word", "nonsense\n");
	assert_int_equal(call_in_dir("audit -b 127.0.0.1:1 -X no.such=1 -X client.id=a", "no.such"),
			 TALLY_EXIT_USAGE);
	assert_int_equal(call_in_dir("audit -b 127.0.0.1:1 -X client.id=a -X no.such=1", "no.such"),
			 TALLY_EXIT_USAGE);
	assert_int_equal(call_in_dir("audit -b 127.0.0.1:1 -X hunter2", "wants NAME=VALUE"),
			 TALLY_EXIT_USAGE);
	assert_null(strstr(command_err, "hunter2"));
	assert_int_equal(
		call_in_dir("audit -b 127.0.0.1:1 -X security.protocol=${file:@/word}", "nonsense"),
		TALLY_EXIT_USAGE);
	assert_int_equal(call_in_dir("audit -b 127.0.0.1:1 -X sasl.password=${file:@/none}",
				     "/none}: No such file"),
			 TALLY_EXIT_CONFIG);
	assert_int_equal(call_in_dir("audit -b 127.0.0.1:1 -X sasl.password=${cred:pw}",
				     "CREDENTIALS_DIRECTORY"),
			 TALLY_EXIT_CONFIG);
	assert_int_equal(call_in_dir("audit -b 127.0.0.1:1 -X sasl.password=${env:PW}",
				     "a secret is the whole value"),
			 TALLY_EXIT_USAGE);
}

/* A fleet secret of the unit is nothing to an audit; a password of the unit has to be given otherwise. */
static void test_audit_config(void **state)
{
	char text[1024];

	command_put("word", "nonsense\n");
	in_dir("agent: {fleet_secret: '${cred:fleet}'}\n"
	       "sinks: [{kafka: {brokers: '127.0.0.1:1', properties: "
	       "{security.protocol: '${file:@/word}', sasl.password: '${cred:pw}'}}}]\n",
	       text, sizeof(text));
	command_put("kafka.yaml", text);
	command_put("two.yaml",
		    "sinks: [{name: a, kafka: {brokers: '127.0.0.1:1', topics: {records: a}}},"
		    " {name: b, kafka: {brokers: '127.0.0.1:1', properties: {no.such: 1}}}]\n");
	assert_int_equal(call_in_dir("audit -c kafka.yaml", "${cred:pw} cannot be read here"),
			 TALLY_EXIT_CONFIG);
	assert_int_equal(call_in_dir("audit -c kafka.yaml -X sasl.password=x", "nonsense"),
			 TALLY_EXIT_USAGE);
	assert_int_equal(call_in_dir("audit -c good.yaml", "no Kafka sink"), TALLY_EXIT_USAGE);
	assert_int_equal(call_in_dir("audit -c two.yaml", "more than one"), TALLY_EXIT_USAGE);
	assert_int_equal(call_in_dir("audit -c two.yaml --sink c", "named c"), TALLY_EXIT_USAGE);
	assert_int_equal(call_in_dir("audit -c two.yaml --sink b", "no.such"), TALLY_EXIT_USAGE);
	assert_int_equal(call_in_dir("audit -c bad.yaml", "did you mean"), TALLY_EXIT_CONFIG);
}

/* Of the secrets in a configuration, an audit reads those of its sink, and no other. */
static void test_audit_secrets(void **state)
{
	char text[1024];

	command_put("word", "nonsense\n");
	in_dir("agent: {fleet_secret: '${file:/nonexistent}'}\n"
	       "sinks:\n"
	       "- {name: a, kafka: {brokers: '127.0.0.1:1', topics: {records: a}, properties: "
	       "{security.protocol: '${file:@/word}'}}}\n"
	       "- {name: b, kafka: {brokers: '127.0.0.1:1', properties: "
	       "{sasl.password: '${file:/nonexistent-too}'}}}\n",
	       text, sizeof(text));
	command_put("secrets.yaml", text);
	assert_int_equal(call_in_dir("audit -c secrets.yaml --sink a", "nonsense"),
			 TALLY_EXIT_USAGE);
	assert_int_equal(call_in_dir("audit -c secrets.yaml --sink b",
				     "sasl.password: ${file:/nonexistent-too} cannot be read here: "
				     "No such file or directory; give it as --property"),
			 TALLY_EXIT_CONFIG);
	assert_int_equal(
		call_in_dir("audit -c secrets.yaml --sink b -X sasl.password=x -X no.such=1",
			    "no.such"),
		TALLY_EXIT_USAGE);
}

/* A folder that is no spool is not one without faults. */
static void test_spool_of_nothing(void **state)
{
	assert_int_equal(call_in_dir("spool verify -d @", "no spool"), TALLY_EXIT_IO);
	assert_int_equal(call_in_dir("spool ls -d @", "no spool"), TALLY_EXIT_IO);
	assert_string_equal(command_out, "");
	assert_int_equal(call_in_dir("spool verify -d @/none", "none: No such file"),
			 TALLY_EXIT_IO);
}

static void test_audit_file(void **state)
{
	command_put("junk", "\n{\"cut\": \"off\n{\"cut\": \"off\n");
	assert_int_equal(call_in_dir("audit -f junk", "junk:2: not a record"), TALLY_EXIT_INPUT);
	assert_null(strstr(command_err, "junk:3"));
	assert_int_equal(call_in_dir("audit -f junk --since then", "--since: not a time like"),
			 TALLY_EXIT_USAGE);
	assert_int_equal(call_in_dir("audit -f nowhere", "nowhere: No such file"),
			 TALLY_EXIT_INPUT);
}

/* What is no record may be anything: it is shown, and controls no terminal. */
static void test_audit_of_anything(void **state)
{
	json_t *json, *found;

	command_put("junk", "\033[2J\377junk\n");
	command_put("agents", "aaaaaaaaaa\377\033\n");
	assert_int_equal(command_call("audit -f junk -a agents", ""), TALLY_EXIT_DIFFERS);
	assert_null(strchr(command_out, '\033'));
	assert_non_null(strstr(command_out, "not a record: \357\277\275[2J\357\277\275junk\n"));
	assert_int_equal(command_call("audit -f junk -a agents -o json", ""), TALLY_EXIT_DIFFERS);
	json = json_loads(command_out, 0, NULL);
	found = json_object_get(json, "findings");
	assert_int_equal(json_array_size(found), 2);
	assert_int_equal(json_array_size(json_object_get(json, "agents")), 1);
	assert_string_equal(json_string_value(json_object_get(json_array_get(found, 0), "text")),
			    "not a record: \033[2J\357\277\275junk");
	json_decref(json);
}

/* Whoever must be there is missed, though nobody asks how far he is; blanks before an id hide nobody. */
static void test_audit_agents(void **state)
{
	command_put("empty", "");
	command_put("agents", "# all of them\n\taaaaaaaaaaaa # the first\n  bbbbbbbbbbbb\r\n\n");
	assert_int_equal(call_in_dir("audit -f empty", "no record was found"), TALLY_EXIT_INPUT);
	assert_int_equal(command_call("audit -f empty -a agents", ""), TALLY_EXIT_DIFFERS);
	assert_non_null(strstr(command_out, "behind: aaaaaaaaaaaa: "));
	assert_non_null(strstr(command_out, "behind: bbbbbbbbbbbb: "));
	assert_non_null(strstr(command_out, "the books do not balance\n"));
	command_put("agents", "aaaaaaaaaaaa bbbbbbbbbbbb\n");
	assert_int_equal(call_in_dir("audit -f empty -a agents", "'aaaaaaaaaaaa bbbbbbbbbbbb'"),
			 TALLY_EXIT_INPUT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_config_option),
		cmocka_unit_test(test_json),
		cmocka_unit_test(test_matches),
		cmocka_unit_test(test_json_of_any_name),
		cmocka_unit_test(test_bad),
		cmocka_unit_test(test_no_catalog),
		cmocka_unit_test(test_helps),
		cmocka_unit_test(test_strict),
		cmocka_unit_test(test_bad_catalog),
		cmocka_unit_test(test_clients),
		cmocka_unit_test(test_schema),
		cmocka_unit_test(test_keys_id),
		cmocka_unit_test(test_keys_id_faults),
		cmocka_unit_test(test_audit_properties),
		cmocka_unit_test(test_audit_config),
		cmocka_unit_test(test_audit_secrets),
		cmocka_unit_test(test_audit_file),
		cmocka_unit_test(test_audit_agents),
		cmocka_unit_test(test_audit_of_anything),
		cmocka_unit_test(test_spool_of_nothing),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
