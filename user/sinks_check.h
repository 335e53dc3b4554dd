/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the sinks are told, and what of it can be judged without a connection and without a secret's value
 * being told.
 */
#ifndef TALLY_SINKS_CHECK_H
#define TALLY_SINKS_CHECK_H

#include "base/config.h"
#include "deliver/ship.h"

/* Properties of Kafka sinks that librdkafka does not know or take. -EINVAL: the diagnosis says which. */
TALLY_MUST int tally_sinks_check(const struct tally_config *config, struct tally_diag *diag);

/*
 * Settings that are right by themselves, and that a Kafka client does not take together, or whose files it
 * cannot read: what a start finds, too. For commands at a prompt: of a sink whose secrets are not known here
 * nothing is said. -EINVAL: the diagnosis says which; -ENOMEM.
 */
TALLY_MUST int tally_sinks_check_clients(const struct tally_config *config,
					 struct tally_diag *diag);

/* Settings of a Kafka sink; they point into the config and to *ret_options, which is to free. -ENOMEM. */
TALLY_MUST int tally_sinks_kafka(const char *state_dir, const struct tally_config_sink *sink,
				 struct tally_kafka_config *ret_config,
				 struct tally_kafka_option **ret_options);

#endif
