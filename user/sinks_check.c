/* SPDX-License-Identifier: Apache-2.0 */
#include "sinks_check.h"

#include "base/secret.h"

#define CREDENTIALS "/run/credentials/" /* of systemd: each unit sees its own */

static int check_property(const struct tally_option_pair *pair, size_t sink,
			  struct tally_diag *diag)
{
	char path[128];
	int r = tally_kafka_property_check(pair->name, pair->value);

	if (r == 0)
		return 0;
	(void)snprintf(path, sizeof(path), "sinks[%zu].kafka.properties.%.80s", sink, pair->name);
	tally_diag_error(diag, pair->place, path,
			 r == -ENOENT ? "librdkafka has no such setting"
				      : "librdkafka does not accept this value");
	return -EINVAL;
}

int tally_sinks_check(const struct tally_config *config, struct tally_diag *diag)
{
	int r = 0;

	for (size_t i = 0; i < config->n_sinks; i++) {
		const struct tally_config_kafka *kafka = &config->sinks[i].kafka;

		for (size_t k = 0; k < kafka->n_properties; k++) {
			if (check_property(&kafka->properties[k], i, diag) < 0)
				r = -EINVAL;
		}
	}
	return r;
}

int tally_sinks_kafka(const char *state_dir, const struct tally_config_sink *sink,
		      struct tally_kafka_config *ret_config,
		      struct tally_kafka_option **ret_options)
{
	const struct tally_config_kafka *kafka = &sink->kafka;
	struct tally_kafka_option *options = calloc(kafka->n_properties + 1, sizeof(*options));

	if (!options)
		return -ENOMEM;
	for (size_t i = 0; i < kafka->n_properties; i++)
		options[i] = (struct tally_kafka_option){ kafka->properties[i].name,
							  kafka->properties[i].value };
	*ret_config = (struct tally_kafka_config){
		.name = sink->name,
		.state_dir = state_dir,
		.brokers = kafka->brokers,
		.topic_records = kafka->topics.records,
		.topic_control = kafka->topics.control,
		.topic_progress = kafka->topics.progress,
		.topic_connections = kafka->topics.connections,
		.namespace = kafka->namespace,
		.delivery = kafka->delivery == TALLY_CONFIG_IDEMPOTENT ? TALLY_KAFKA_IDEMPOTENT
								       : TALLY_KAFKA_TRANSACTIONAL,
		.format = kafka->format == TALLY_CONFIG_OPENMETER ? TALLY_KAFKA_OPENMETER
								  : TALLY_KAFKA_CLOUDEVENTS,
		.create_topics = kafka->create_topics,
		.partitions = (int)kafka->partitions,
		.replication = (int)kafka->replication,
		.transaction_timeout_ms = (__u32)(kafka->transaction_timeout_ns / 1000000),
		.options = options,
		.n_options = kafka->n_properties,
	};
	*ret_options = options;
	return 0;
}

/* A secret, or a file, that only the unit sees. */
static bool is_hidden(const char *value)
{
	return tally_secret_is_reference(value) ||
	       (!strncmp(value, CREDENTIALS, strlen(CREDENTIALS)) && access(value, R_OK));
}

static bool is_known(const struct tally_config_kafka *kafka)
{
	for (size_t i = 0; i < kafka->n_properties; i++)
		if (is_hidden(kafka->properties[i].value))
			return false;
	return true;
}

static int check_client(const struct tally_config *config, size_t index, struct tally_diag *diag)
{
	_cleanup_free_ struct tally_kafka_option *options = NULL;
	_cleanup_free_ char *error = NULL;
	struct tally_kafka_config settings;
	char path[64];
	int r = tally_sinks_kafka(config->agent.state_dir, &config->sinks[index], &settings,
				  &options);

	if (r < 0 || tally_kafka_check(&settings, &error) == 0)
		return r;
	(void)snprintf(path, sizeof(path), "sinks[%zu].kafka", index);
	tally_diag_error(diag, config->sinks[index].kafka.place, path, "no client can be made: %s",
			 error ? error : strerror(ENOMEM));
	return -EINVAL;
}

int tally_sinks_check_clients(const struct tally_config *config, struct tally_diag *diag)
{
	int r = 0;

	for (size_t i = 0; i < config->n_sinks && r != -ENOMEM; i++) {
		const struct tally_config_kafka *kafka = &config->sinks[i].kafka;

		if (!kafka->place.line || !is_known(kafka))
			continue;
		r = TALLY_MIN(r, check_client(config, i, diag));
	}
	return r;
}
