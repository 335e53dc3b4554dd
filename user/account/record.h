/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What leaves the agent: usage, connection and control records as CloudEvents 1.0, structured JSON, and
 * OpenMeter's payload of usage records. The bytes for given rows are part of the contract: records are
 * hashed into the chain and resent after upgrades. Changing them takes a new TALLY_ENCODER, beside the old
 * one.
 */
#ifndef TALLY_ACCOUNT_RECORD_H
#define TALLY_ACCOUNT_RECORD_H

#include "account/batch.h"

int tally_record_usage(const struct tally_batch *batch, __u64 index, enum tally_format format,
		       struct tally_message *msg);
int tally_record_connection(const struct tally_batch *batch, __u64 index,
			    struct tally_message *msg);
/* chain NULL: zeros in its place, the form that is hashed. */
int tally_record_control(const struct tally_batch *batch, const __u8 *chain,
			 struct tally_message *msg);

#endif
