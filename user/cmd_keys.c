// SPDX-License-Identifier: Apache-2.0
#include <jansson.h>
#include <time.h>

#include "cli.h"
#include "setup.h"

#define KEY_MAX 8192 /* as in the kernel: TALLY_KEY_MAX */

static const char *config_path = TALLY_CONFIG_PATH;
static const char *sha256_text, *output;

static const struct tally_cli_option options[] = {
	{ "config", 'c', TALLY_CLI_TEXT, &config_path, "FILE",
	  "configuration, for the fleet secret and the catalog", NULL },
	{ "sha256", 0, TALLY_CLI_TEXT, &sha256_text, "HEX",
	  "SHA-256 of the key, instead of the key on standard input", NULL },
	{ "output", 'o', TALLY_CLI_WORD, &output, "FORMAT", "of the answer",
	  tally_cli_table_words },
	{ NULL },
};

/* The key's SHA-256; the key itself is wiped as soon as it is hashed. */
static int read_key(uint8_t sha256[TALLY_CATALOG_SHA])
{
	char *key = NULL;
	size_t bytes = 0, all;
	int r = tally_util_read_fd(STDIN_FILENO, KEY_MAX + 1, &key, &bytes);

	if (r < 0)
		return tally_cli_fail(TALLY_EXIT_INPUT, "standard input: %s", strerror(-r));
	all = bytes;
	if (bytes > 0 && key[bytes - 1] == '\n')
		bytes--;
	r = bytes > 0 && bytes <= KEY_MAX ? tally_catalog_sha256(key, bytes, sha256) : -EINVAL;
	explicit_bzero(key, all);
	free(key);
	if (r < 0)
		return tally_cli_fail(TALLY_EXIT_INPUT,
				      "standard input must hold one key of 1 to %d bytes", KEY_MAX);
	return 0;
}

static int make_kfp(const uint8_t sha256[TALLY_CATALOG_SHA], char *secret, char *ret_kfp)
{
	int r = tally_catalog_kfp(sha256, secret, strlen(secret), ret_kfp);

	tally_util_wipe_free(secret);
	return r < 0 ? tally_cli_fail(TALLY_EXIT_BUG, "cannot compute the id") : 0;
}

static int print(const struct tally_catalog_key *entry, const char *kfp)
{
	if (output && strcmp(output, "json") == 0) {
		json_t *json =
			json_pack("{s:s,s:s?,s:s?}", "kfp", kfp, "id", entry ? entry->id : NULL,
				  "customer", entry ? entry->customer : NULL);

		(void)json_dumpf(json, stdout, JSON_COMPACT); /* seen by the flush */
		putchar('\n');
		json_decref(json);
	} else {
		puts(kfp);
		if (entry)
			printf("catalog: id %s, customer %s\n", entry->id, entry->customer);
	}
	return tally_cli_flush();
}

static int no_secret(const struct tally_config *config, int err)
{
	if (config->agent.fleet_secret)
		return tally_cli_fail(TALLY_EXIT_CONFIG,
				      "%s: agent.fleet_secret: %.128s can be read only by the unit",
				      config_path, config->agent.fleet_secret);
	return tally_cli_fail(TALLY_EXIT_CONFIG,
			      "%s has no agent.fleet_secret, and that of this host cannot be read: "
			      "%s/fleet-secret: %s",
			      config_path, config->agent.state_dir, strerror(-err));
}

static int run_id(int argc, char **argv)
{
	_cleanup_(tally_config_freep) struct tally_config *config = NULL;
	_cleanup_(tally_catalog_freep) struct tally_catalog *catalog = NULL;
	uint8_t sha256[TALLY_CATALOG_SHA];
	char kfp[TALLY_CATALOG_KFP], *secret = NULL;
	int r;

	if (sha256_text && tally_util_unhex(sha256_text, sha256, sizeof(sha256)) < 0)
		return tally_cli_usage_error("--sha256 must be 64 hexadecimal digits");
	if (tally_setup_load(config_path, &config, &catalog) < 0)
		return TALLY_EXIT_CONFIG;
	r = tally_setup_secret(config, &secret);
	if (r < 0)
		return no_secret(config, r);
	r = sha256_text ? 0 : read_key(sha256);
	if (r == 0)
		r = make_kfp(sha256, TAKE_PTR(secret), kfp);
	tally_util_wipe_free(secret);
	if (r != 0)
		return r;
	return print(tally_catalog_find(catalog, sha256, time(NULL)), kfp);
}

static const struct tally_cli_command id_command = {
	.name = "id",
	.args = "",
	.summary = "print the id under which a key that is in no catalog stands in records",
	.details =
		"The key is read from standard input, never from the command line, which every user can see.",
	.options = options,
	.run = run_id,
};

static const struct tally_cli_command *const commands[] = { &id_command, NULL };

const struct tally_cli_command tally_cmd_keys = {
	.name = "keys",
	.args = "",
	.summary = "ids of API keys",
	.commands = commands,
};
