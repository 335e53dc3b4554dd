/* SPDX-License-Identifier: Apache-2.0 */
/* What of the sinks can be judged without a connection and without a secret's value being told. */
#ifndef TALLY_SINKS_CHECK_H
#define TALLY_SINKS_CHECK_H

#include "base/config.h"

/* Properties of Kafka sinks that librdkafka does not know or take. -EINVAL: the diagnosis says which. */
TALLY_MUST int tally_sinks_check(const struct tally_config *config, struct tally_diag *diag);

#endif
