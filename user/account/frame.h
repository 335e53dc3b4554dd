/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The frame around every file of the spool:
 *
 *	magic[8] "tally-S1"  agent[12]  u64 length  payload[length]  sha256[32] of all before
 *
 * The digest finds torn, flipped and truncated files; the agent finds files of somebody else.
 */
#ifndef TALLY_ACCOUNT_FRAME_H
#define TALLY_ACCOUNT_FRAME_H

#include <stddef.h>

#include "account/buf.h"

#define TALLY_SHA256 32
#define TALLY_AGENT_ID 12 /* hex digits */

enum tally_frame_kind {
	TALLY_FRAME_SEALED,
	TALLY_FRAME_BATCH,
	TALLY_FRAME_STATE,
	TALLY_FRAME_SINK
};

/* Appends a whole file to buf. */
int tally_frame_put(struct tally_buf *buf, enum tally_frame_kind kind, const char *agent,
		    const void *payload, size_t len);
/* A reader over the payload, in place. -EBADMSG: damaged, or not of this kind; -EXDEV: of another
 * agent (agent NULL: any will do, and is copied to ret_agent if that is not NULL). */
int tally_frame_get(const void *data, size_t len, enum tally_frame_kind kind, const char *agent,
		    char *ret_agent, struct tally_reader *ret_reader);

void tally_sha256(const void *data, size_t len, __u8 ret_digest[TALLY_SHA256]);

#endif
