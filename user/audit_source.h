/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where `tallyd audit` reads: brokers, topics and settings of a Kafka sink in a configuration, and what
 * the command line says instead or besides. Secrets come from files, as in a configuration: a command
 * line can be seen by every user of the host.
 */
#ifndef TALLY_AUDIT_SOURCE_H
#define TALLY_AUDIT_SOURCE_H

#include "base/config.h"
#include "cli.h"
#include "deliver/ship.h"

#define TALLY_AUDIT_TOPICS 3 /* control, records, connections: the order they are read in */

struct tally_audit_source {
	const char *brokers;
	const char *topics[TALLY_AUDIT_TOPICS];
	struct tally_kafka_option *options;
	size_t n_options;
	struct tally_config *config;	 /* brokers, topics and options may stand in it */
	struct tally_option_pair *pairs; /* of the command line */
	size_t n_pairs;
};

/* What the command line says; NULL: nothing. */
struct tally_audit_words {
	const char *brokers, *config, *sink;
	const char *topics[TALLY_AUDIT_TOPICS];
	const struct tally_cli_list *properties;
};

/* source is zeroed. 0, or an exit code, said on stderr; to be done in both cases. */
TALLY_MUST int tally_audit_source_init(struct tally_audit_source *source,
				       const struct tally_audit_words *words);
void tally_audit_source_done(struct tally_audit_source *source);

#endif
