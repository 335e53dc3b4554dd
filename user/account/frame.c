/* SPDX-License-Identifier: Apache-2.0 */
#include "account/frame.h"

#include <errno.h>
#include <openssl/sha.h>
#include <string.h>

#define MAGIC 8
#define HEAD (MAGIC + TALLY_AGENT_ID + 8)

static const char *const magics[] = {
	[TALLY_FRAME_SEALED] = "tally-S1",
	[TALLY_FRAME_BATCH] = "tally-B1",
	[TALLY_FRAME_STATE] = "tally-A1",
	[TALLY_FRAME_SINK] = "tally-C1",
};

void tally_sha256(const void *data, size_t len, __u8 ret_digest[TALLY_SHA256])
{
	(void)SHA256(data, len, ret_digest); /* returns its own argument */
}

int tally_frame_put(struct tally_buf *buf, enum tally_frame_kind kind, const char *agent,
		    const void *payload, size_t len)
{
	size_t start = buf->len;
	__u8 digest[TALLY_SHA256];

	if (strlen(agent) != TALLY_AGENT_ID)
		return -EINVAL;
	tally_buf_put(buf, magics[kind], MAGIC);
	tally_buf_put(buf, agent, TALLY_AGENT_ID);
	tally_buf_u64(buf, len);
	tally_buf_put(buf, payload, len);
	if (buf->error)
		return buf->error;
	tally_sha256(buf->data + start, buf->len - start, digest);
	tally_buf_put(buf, digest, sizeof(digest));
	return buf->error;
}

int tally_frame_get(const void *data, size_t len, enum tally_frame_kind kind, const char *agent,
		    char *ret_agent, struct tally_reader *ret_reader)
{
	const char *p = data;
	struct tally_reader reader;
	__u8 digest[TALLY_SHA256];

	if (len < HEAD + TALLY_SHA256 || memcmp(p, magics[kind], MAGIC) != 0)
		return -EBADMSG;
	tally_reader_init(&reader, p + MAGIC + TALLY_AGENT_ID, 8);
	if (tally_reader_u64(&reader) != len - HEAD - TALLY_SHA256)
		return -EBADMSG;
	tally_sha256(p, len - TALLY_SHA256, digest);
	if (memcmp(digest, p + len - TALLY_SHA256, TALLY_SHA256) != 0)
		return -EBADMSG;
	if (agent && memcmp(p + MAGIC, agent, TALLY_AGENT_ID) != 0)
		return -EXDEV;
	if (ret_agent) {
		memcpy(ret_agent, p + MAGIC, TALLY_AGENT_ID);
		ret_agent[TALLY_AGENT_ID] = 0;
	}
	tally_reader_init(ret_reader, p + HEAD, len - HEAD - TALLY_SHA256);
	return 0;
}
