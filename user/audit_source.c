/* SPDX-License-Identifier: Apache-2.0 */
#include "audit_source.h"

#include "base/secret.h"

static int secret_failed(const char *name, const char *reference, int err)
{
	if (err == -EINVAL)
		return tally_cli_usage_error("--property %s: a secret is the whole value: "
					     "${file:/path} or ${cred:NAME}",
					     name);
	if (err == -ENXIO)
		return tally_cli_fail(TALLY_EXIT_CONFIG,
				      "--property %s: %.128s: there is no CREDENTIALS_DIRECTORY, "
				      "which systemd sets for LoadCredential=",
				      name, reference);
	return tally_cli_fail(TALLY_EXIT_CONFIG, "--property %s: %.128s: %s", name, reference,
			      err == -ENODATA ? "empty, or not a text" : strerror(-err));
}

/* NAME=VALUE; the text is never shown: a value can be a password. */
static int read_property(const char *text, struct tally_option_pair *pair)
{
	const char *equals = strchr(text, '=');
	int err = 0;

	if (!equals || equals == text)
		return tally_cli_usage_error("--property wants NAME=VALUE");
	pair->name = strndup(text, (size_t)(equals - text));
	if (!pair->name)
		return tally_cli_fail(TALLY_EXIT_BUG, "out of memory");
	if (tally_secret_is_reference(equals + 1))
		err = tally_secret_read(equals + 1, &pair->value);
	else
		pair->value = strdup(equals + 1);
	if (err)
		return secret_failed(pair->name, equals + 1, err);
	return pair->value ? 0 : tally_cli_fail(TALLY_EXIT_BUG, "out of memory");
}

/* Secrets stay references: those of other sections need not be readable where books are audited. */
static int load_config(const char *path, struct tally_config **ret_config)
{
	struct tally_diag diag;
	int err;

	tally_diag_init(&diag, path);
	err = tally_config_load(path, TALLY_CONFIG_NO_SECRETS, &diag, ret_config);
	if (err)
		tally_diag_print(&diag, stderr);
	tally_diag_done(&diag);
	return err ? TALLY_EXIT_CONFIG : 0;
}

/* The sink of that name; without one, the only Kafka sink there is. */
static int find_sink(const struct tally_config *config, const char *name,
		     const struct tally_config_kafka **ret_kafka)
{
	const struct tally_config_kafka *found = NULL;
	size_t n = 0;

	for (size_t i = 0; i < config->n_sinks; i++) {
		const struct tally_config_sink *sink = &config->sinks[i];

		if (!sink->kafka.place.line || (name && strcmp(sink->name, name) != 0))
			continue;
		found = &sink->kafka;
		n++;
	}
	if (n == 0)
		return tally_cli_usage_error("%s: no Kafka sink%s%s", config->path,
					     name ? " is named " : "", name ? name : "");
	if (n > 1)
		return tally_cli_usage_error("%s: more than one Kafka sink: name one with --sink",
					     config->path);
	*ret_kafka = found;
	return 0;
}

static bool on_command_line(const struct tally_audit_source *source, const char *name)
{
	for (size_t i = 0; i < source->n_pairs; i++)
		if (strcmp(source->pairs[i].name, name) == 0)
			return true;
	return false;
}

static void add_option(struct tally_audit_source *source, const struct tally_option_pair *pair)
{
	source->options[source->n_options++] =
		(struct tally_kafka_option){ pair->name, pair->value };
}

/* -ENXIO: only the unit can read it. */
static int unreadable(const char *path, const struct tally_option_pair *pair, int err)
{
	return tally_cli_fail(TALLY_EXIT_CONFIG,
			      "%s: %s: %.128s cannot be read here%s%s; give it as "
			      "--property %s='${file:/path}'",
			      path, pair->name, pair->value, err == -ENXIO ? "" : ": ",
			      err == -ENXIO	? ""
			      : err == -ENODATA ? "empty, or not a text"
			      : err == -EINVAL	? "a secret is the whole value"
						: strerror(-err),
			      pair->name);
}

/* The text is the configuration's, which is this audit's own. */
static int expand(const char *path, struct tally_option_pair *pair)
{
	char *secret = NULL;
	int err = 0;

	if (tally_secret_is_reference(pair->value))
		err = tally_secret_read(pair->value, &secret);
	if (err)
		return unreadable(path, pair, err);
	if (secret) {
		free(pair->value);
		pair->value = secret;
	}
	return 0;
}

static int take_properties(struct tally_audit_source *source,
			   const struct tally_config_kafka *kafka)
{
	int code = 0;

	for (size_t i = 0; i < kafka->n_properties && !code; i++) {
		if (on_command_line(source, kafka->properties[i].name))
			continue;
		code = expand(source->config->path, &kafka->properties[i]);
		if (!code)
			add_option(source, &kafka->properties[i]);
	}
	return code;
}

static int take_sink(struct tally_audit_source *source, const struct tally_audit_words *words)
{
	const struct tally_config_kafka *kafka = NULL;
	int code = load_config(words->config ? words->config : TALLY_CONFIG_PATH, &source->config);

	if (!code)
		code = find_sink(source->config, words->sink, &kafka);
	if (code)
		return code;
	source->brokers = kafka->brokers;
	source->topics[0] = kafka->topics.control;
	source->topics[1] = kafka->topics.records;
	source->topics[2] = kafka->topics.connections;
	source->options =
		calloc(kafka->n_properties + source->n_pairs + 1, sizeof(*source->options));
	if (!source->options)
		return tally_cli_fail(TALLY_EXIT_BUG, "out of memory");
	return take_properties(source, kafka);
}

static int take_defaults(struct tally_audit_source *source)
{
	source->topics[0] = "usage.control.v1";
	source->topics[1] = "usage.records.v1";
	source->topics[2] = "usage.connections.v1";
	source->options = calloc(source->n_pairs + 1, sizeof(*source->options));
	return source->options ? 0 : tally_cli_fail(TALLY_EXIT_BUG, "out of memory");
}

static int read_properties(struct tally_audit_source *source, const struct tally_cli_list *list)
{
	int code = 0;

	source->pairs = calloc(list->n + 1, sizeof(*source->pairs));
	if (!source->pairs)
		return tally_cli_fail(TALLY_EXIT_BUG, "out of memory");
	for (size_t i = 0; i < list->n && !code; i++)
		code = read_property(list->items[i], &source->pairs[source->n_pairs++]);
	return code;
}

int tally_audit_source_init(struct tally_audit_source *source,
			    const struct tally_audit_words *words)
{
	int code = read_properties(source, words->properties);

	if (!code)
		code = words->config || words->sink ? take_sink(source, words)
						    : take_defaults(source);
	if (code)
		return code;
	for (size_t i = 0; i < source->n_pairs; i++)
		add_option(source, &source->pairs[i]);
	if (words->brokers)
		source->brokers = words->brokers;
	for (size_t i = 0; i < TALLY_AUDIT_TOPICS; i++)
		if (words->topics[i])
			source->topics[i] = words->topics[i];
	return 0;
}

void tally_audit_source_done(struct tally_audit_source *source)
{
	for (size_t i = 0; i < source->n_pairs; i++) {
		free(source->pairs[i].name);
		tally_util_wipe_free(source->pairs[i].value);
	}
	free(source->pairs);
	free(source->options);
	tally_config_free(source->config);
	*source = (struct tally_audit_source){ 0 };
}
