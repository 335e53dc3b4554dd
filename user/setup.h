/* SPDX-License-Identifier: Apache-2.0 */
/* What a command that is not the agent reads before it answers: config, catalog, fleet secret. */
#ifndef TALLY_SETUP_H
#define TALLY_SETUP_H

#include "base/config.h"
#include "identify/catalog.h"

/* Config and, if it names one, catalog; faults are printed. *ret_config may be set on failure, too. */
TALLY_MUST int tally_setup_load(const char *path, struct tally_config **ret_config,
				struct tally_catalog **ret_catalog);

/*
 * The fleet secret, or what the agent of this host made for itself without one; to be wiped. -ENXIO: it
 * stands elsewhere, and a command does not follow references.
 */
TALLY_MUST int tally_setup_secret(const struct tally_config *config, char **ret_secret);

#endif
