/* SPDX-License-Identifier: Apache-2.0 */
#include "sinks_check.h"

#include "deliver/ship.h"

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
