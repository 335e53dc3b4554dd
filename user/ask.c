/* SPDX-License-Identifier: Apache-2.0 */
#include "ask.h"

#include "base/config.h"
#include "base/text.h"
#include "observe/control.h"

#define TIMEOUT_MS 10000

const char *tally_ask_config = TALLY_CONFIG_PATH;
const char *tally_ask_format = "table";

/* Only the socket's folder is wanted: faults elsewhere in the file do not matter, least of all now that
 * somebody asks what is wrong. */
static int runtime_dir(char *out, size_t size)
{
	_cleanup_(tally_config_freep) struct tally_config *config = NULL;
	struct tally_diag diag;
	int err;

	tally_diag_init(&diag, tally_ask_config);
	err = tally_config_load(tally_ask_config,
				TALLY_OPTION_KEEP_REFERENCES | TALLY_CONFIG_FAULTY_TOO, &diag,
				&config);
	if (err && (!config || !config->agent.runtime_dir))
		tally_diag_print(&diag, stderr);
	tally_diag_done(&diag);
	if (err && (!config || !config->agent.runtime_dir))
		return TALLY_EXIT_CONFIG;
	(void)snprintf(out, size, "%s", config->agent.runtime_dir);
	return TALLY_EXIT_OK;
}

/* Paths, names of keys and pods are anybody's: nothing in a table may control the terminal. */
static void make_plain(json_t *value)
{
	char plain[TALLY_TEXT_LINE];
	const char *name;
	json_t *item;
	size_t i;

	if (json_is_string(value)) {
		(void)tally_text_plain(json_string_value(value), plain, sizeof(plain));
		(void)json_string_set(value, plain); /* fails only without memory */
	}
	json_array_foreach(value, i, item)
		make_plain(item);
	json_object_foreach(value, name, item)
		make_plain(item);
}

static int fail(const char *dir, int err)
{
	const char *hint = "";

	if (err == -EACCES)
		hint = ": only root may ask it";
	else if (err == -ENOENT || err == -ECONNREFUSED)
		hint = ": none runs with this configuration (--config FILE names another)";
	return tally_cli_fail(TALLY_EXIT_UNAVAILABLE, "no agent answers at %s/%s: %s%s", dir,
			      TALLY_CONTROL_SOCKET, strerror(-err), hint);
}

int tally_ask(const char *request, json_t **ret_answer)
{
	_cleanup_free_ char *text = NULL;
	char dir[512];
	json_t *answer = NULL;
	int err, code = runtime_dir(dir, sizeof(dir));

	if (code)
		return code;
	err = tally_control_ask(dir, request, TIMEOUT_MS, &text);
	if (err)
		return fail(dir, err);
	answer = json_loads(text, 0, NULL);
	if (!answer)
		return tally_cli_fail(TALLY_EXIT_BUG, "the agent's answer is not JSON");
	if (strcmp(tally_ask_format, "json"))
		make_plain(answer);
	*ret_answer = answer;
	return TALLY_EXIT_OK;
}

int tally_ask_print(const char *request, void (*table)(json_t *answer))
{
	json_t *answer = NULL;
	int code = tally_ask(request, &answer);

	if (code)
		return code;
	if (!strcmp(tally_ask_format, "json")) {
		(void)json_dumpf(answer, stdout, JSON_INDENT(1)); /* flush tells */
		printf("\n");
	} else {
		table(answer);
	}
	json_decref(answer);
	return tally_cli_flush();
}

long long tally_ask_int(json_t *object, const char *name)
{
	return json_integer_value(json_object_get(object, name));
}

double tally_ask_real(json_t *object, const char *name)
{
	return json_number_value(json_object_get(object, name));
}

const char *tally_ask_text(json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text ? text : "-";
}

const char *tally_ask_short(double value, char out[16])
{
	static const char *const units[] = { "", "k", "M", "G", "T", "P" };
	size_t unit = 0;

	while (value >= 9999.5 && unit + 1 < TALLY_ARRAY_SIZE(units)) {
		value /= 1000;
		unit++;
	}
	(void)snprintf(out, 16, value < 9.95 && value != (int)value ? "%.1f%s" : "%.0f%s", value,
		       units[unit]);
	return out;
}
