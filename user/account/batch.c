/* SPDX-License-Identifier: Apache-2.0 */
#include "account/batch.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "account/json.h"
#include "account/record.h"
#include "base/util.h"

__u32 tally_batch_murmur2(const void *key, size_t len)
{
	const __u32 m = 0x5bd1e995;
	const __u8 *p = key;
	__u32 h = 0x9747b28c ^ (__u32)len;

	for (; len >= 4; len -= 4, p += 4) {
		__u32 k = p[0] | (__u32)p[1] << 8 | (__u32)p[2] << 16 | (__u32)p[3] << 24;

		k *= m;
		k ^= k >> 24;
		h = h * m ^ k * m;
	}
	for (size_t i = len; i > 0; i--)
		h ^= (__u32)p[i - 1] << (8 * (i - 1));
	if (len)
		h *= m;
	h ^= h >> 13;
	h *= m;
	h ^= h >> 15;
	return h & 0x7fffffff;
}

void tally_message_init(struct tally_message *msg)
{
	*msg = (struct tally_message){ 0 };
}

void tally_message_done(struct tally_message *msg)
{
	tally_buf_done(&msg->value);
	tally_buf_done(&msg->key);
	tally_buf_done(&msg->subject);
}

struct tally_batch *tally_batch_ref(struct tally_batch *batch)
{
	(void)__atomic_add_fetch(&batch->refs, 1, __ATOMIC_RELAXED); /* the count is not needed */
	return batch;
}

static struct tally_batch *allocate(void)
{
	struct tally_batch *batch = calloc(1, sizeof(*batch));

	if (batch)
		batch->refs = 1;
	return batch;
}

void tally_batch_free(struct tally_batch *batch)
{
	if (!batch || __atomic_sub_fetch(&batch->refs, 1, __ATOMIC_ACQ_REL) > 0)
		return;
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(batch->texts); i++)
		free(batch->texts[i]);
	tally_sealed_done(&batch->sealed);
	free(batch);
}
TALLY_CLEANUP(struct tally_batch *, batch_freep, tally_batch_free)

static __u64 largest(const struct tally_sealed_sums *sums)
{
	__u64 most = TALLY_MAX(sums->requests, sums->request_bytes);

	return TALLY_MAX(TALLY_MAX(most, sums->response_bytes), sums->duration_ns / 1000);
}

static __u64 take_part(__u64 *v, __u64 most)
{
	__u64 part = TALLY_MIN(*v, most);

	*v -= part;
	return part;
}

/* The part of a row that JSON integers can hold; the rest stays. */
static void split_row(struct tally_sealed_row *row, struct tally_sealed_row *ret_part)
{
	struct tally_sealed_sums *sums = &row->sums;

	*ret_part = *row;
	ret_part->sums = (struct tally_sealed_sums){
		.requests = take_part(&sums->requests, TALLY_JSON_INT_MAX),
		.incomplete = take_part(&sums->incomplete, TALLY_JSON_INT_MAX),
		.request_bytes = take_part(&sums->request_bytes, TALLY_JSON_INT_MAX),
		.response_bytes = take_part(&sums->response_bytes, TALLY_JSON_INT_MAX),
		.duration_ns = take_part(&sums->duration_ns, TALLY_JSON_INT_MAX * 1000),
	};
	ret_part->sums.chargeable = take_part(&sums->chargeable, ret_part->sums.requests);
}

/* The same for connections: they still add up to their rows. */
static int split_connections(struct tally_sealed *sealed)
{
	struct tally_sealed_connection *old = sealed->connections;
	size_t n_old = sealed->n_connections, big = 0;
	int r = 0;

	for (size_t i = 0; i < n_old; i++)
		big += largest(&old[i].row.sums) > TALLY_JSON_INT_MAX;
	if (!big)
		return 0;
	sealed->connections = NULL;
	sealed->n_connections = 0;
	for (size_t i = 0; r == 0 && i < n_old; i++) {
		struct tally_sealed_connection part = old[i];

		while (r == 0 && largest(&old[i].row.sums) > TALLY_JSON_INT_MAX) {
			split_row(&old[i].row, &part.row);
			r = tally_sealed_add_connection(sealed, &part);
		}
		if (r == 0)
			r = tally_sealed_add_connection(sealed, &old[i]);
	}
	free(old);
	return r;
}

/* Rows no JSON integer can hold (over 9 petabytes) become several. Rare: one pass to see. */
static int split_rows(struct tally_sealed *sealed)
{
	struct tally_sealed_row *old = sealed->rows;
	size_t n_old = sealed->n_rows, big = 0;
	int r = 0;

	for (size_t i = 0; i < n_old; i++)
		big += largest(&old[i].sums) > TALLY_JSON_INT_MAX;
	if (!big)
		return 0;
	sealed->rows = NULL;
	sealed->n_rows = 0;
	for (size_t i = 0; r == 0 && i < n_old; i++) {
		struct tally_sealed_row part;

		while (r == 0 && largest(&old[i].sums) > TALLY_JSON_INT_MAX) {
			split_row(&old[i], &part);
			r = tally_sealed_add(sealed, &part);
		}
		if (r == 0)
			r = tally_sealed_add(sealed, &old[i]);
	}
	free(old);
	return r;
}

static int copy_head(struct tally_batch *batch, const struct tally_batch_head *head)
{
	const char *from[] = { head->version, head->host, head->boot_id };

	batch->head = *head;
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(from); i++) {
		batch->texts[i] = strdup(from[i] ? from[i] : "");
		if (!batch->texts[i])
			return -ENOMEM;
	}
	batch->head.version = batch->texts[0];
	batch->head.host = batch->texts[1];
	batch->head.boot_id = batch->texts[2];
	return 0;
}

static int hash_message(EVP_MD_CTX *md, const struct tally_message *msg)
{
	__u8 digest[TALLY_SHA256];

	tally_sha256(msg->value.data, msg->value.len, digest);
	return EVP_DigestUpdate(md, digest, sizeof(digest)) == 1 ? 0 : -ENOMEM;
}

/* Messages from..to of the batch, each by its digest. */
static int hash_messages(const struct tally_batch *batch, __u64 from, __u64 to, EVP_MD_CTX *md)
{
	struct tally_message msg;
	int r = 0;

	tally_message_init(&msg);
	for (__u64 i = from; r == 0 && i < to; i++) {
		r = tally_batch_message(batch, i, TALLY_FORMAT_CLOUDEVENTS, &msg);
		if (r == 0)
			r = hash_message(md, &msg);
	}
	tally_message_done(&msg);
	return r;
}

/* Zeros where they are not kept. */
static int digest_connections(const struct tally_batch *batch, __u8 ret_digest[TALLY_SHA256])
{
	EVP_MD_CTX *md;
	int r = -ENOMEM;

	memset(ret_digest, 0, TALLY_SHA256);
	if (!batch->sealed.by_connection)
		return 0;
	md = EVP_MD_CTX_new();
	if (md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1)
		r = hash_messages(batch, tally_batch_records(batch), tally_batch_messages(batch),
				  md);
	if (r == 0 && EVP_DigestFinal_ex(md, ret_digest, NULL) != 1)
		r = -ENOMEM;
	EVP_MD_CTX_free(md);
	return r;
}

static int hash_control(const struct tally_batch *batch, EVP_MD_CTX *md)
{
	struct tally_message msg;
	int r;

	tally_message_init(&msg);
	r = tally_record_control(batch, NULL, &msg);
	if (r == 0)
		r = hash_message(md, &msg);
	tally_message_done(&msg);
	return r;
}

static int compute_chain(const struct tally_batch *batch, __u8 ret_chain[TALLY_CHAIN])
{
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	int r = -ENOMEM;

	if (md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 &&
	    EVP_DigestUpdate(md, batch->head.prev_chain, TALLY_CHAIN) == 1)
		r = hash_messages(batch, 0, tally_batch_records(batch), md);
	if (r == 0)
		r = hash_control(batch, md);
	if (r == 0 && EVP_DigestFinal_ex(md, ret_chain, NULL) != 1)
		r = -ENOMEM;
	EVP_MD_CTX_free(md);
	return r;
}

int tally_batch_new(const struct tally_batch_head *head, struct tally_sealed *sealed,
		    struct tally_batch **ret_batch)
{
	_cleanup_(batch_freep) struct tally_batch *batch = allocate();
	int r;

	if (!batch) {
		tally_sealed_done(sealed);
		return -ENOMEM;
	}
	batch->sealed = *sealed;
	tally_sealed_init(sealed);
	batch->encoder = TALLY_ENCODER;
	r = copy_head(batch, head);
	if (r == 0)
		r = split_rows(&batch->sealed);
	if (r == 0)
		r = split_connections(&batch->sealed);
	if (r == 0)
		r = digest_connections(batch, batch->connections);
	if (r == 0)
		r = compute_chain(batch, batch->chain);
	if (r < 0)
		return r;
	*ret_batch = TAKE_PTR(batch);
	return 0;
}

int tally_batch_verify(const struct tally_batch *batch)
{
	__u8 chain[TALLY_CHAIN], connections[TALLY_SHA256];
	int r;

	if (batch->encoder != TALLY_ENCODER)
		return -EBADMSG;
	r = digest_connections(batch, connections);
	if (r == 0)
		r = compute_chain(batch, chain);
	if (r < 0)
		return r;
	if (memcmp(connections, batch->connections, sizeof(connections)) != 0)
		return -EBADMSG;
	return memcmp(chain, batch->chain, sizeof(chain)) == 0 ? 0 : -EBADMSG;
}

int tally_batch_encode(const struct tally_batch *batch, struct tally_buf *buf)
{
	const struct tally_batch_head *head = &batch->head;

	tally_buf_u8(buf, batch->encoder);
	tally_buf_u8(buf, head->kind);
	tally_buf_var(buf, head->incarnation);
	tally_buf_var(buf, head->number);
	tally_buf_var(buf, head->seq_first);
	tally_buf_var(buf, head->recorded_s);
	tally_buf_var(buf, head->spool_records);
	tally_buf_var(buf, head->spool_bytes);
	tally_buf_var(buf, head->spool_oldest_s);
	tally_buf_put(buf, head->prev_chain, TALLY_CHAIN);
	tally_buf_put(buf, batch->chain, TALLY_CHAIN);
	tally_buf_var(buf, head->loss.batch);
	tally_buf_var(buf, head->loss.epoch_first);
	tally_buf_var(buf, head->loss.epoch_last);
	tally_buf_var(buf, head->loss.seq_first);
	tally_buf_var(buf, head->loss.seq_last);
	tally_buf_var(buf, head->loss.incarnation);
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(batch->texts); i++)
		tally_buf_str(buf, batch->texts[i]);
	(void)tally_sealed_encode(&batch->sealed, buf); /* its error stays in buf */
	if (batch->sealed.by_connection)
		tally_buf_put(buf, batch->connections, sizeof(batch->connections));
	return buf->error;
}

static void get_bytes(struct tally_reader *in, __u8 *ret_bytes, size_t len)
{
	const void *p = tally_reader_get(in, len);

	if (p)
		memcpy(ret_bytes, p, len);
}

static void get_head(struct tally_reader *in, struct tally_batch *batch)
{
	struct tally_batch_head *head = &batch->head;

	batch->encoder = tally_reader_u8(in);
	head->kind = tally_reader_u8(in);
	head->incarnation = (__u32)tally_reader_below(in, 1ULL << 32);
	head->number = tally_reader_var(in);
	head->seq_first = tally_reader_var(in);
	head->recorded_s = tally_reader_var(in);
	head->spool_records = tally_reader_var(in);
	head->spool_bytes = tally_reader_var(in);
	head->spool_oldest_s = tally_reader_var(in);
	get_bytes(in, head->prev_chain, TALLY_CHAIN);
	get_bytes(in, batch->chain, TALLY_CHAIN);
	head->loss.batch = tally_reader_var(in);
	head->loss.epoch_first = tally_reader_var(in);
	head->loss.epoch_last = tally_reader_var(in);
	head->loss.seq_first = tally_reader_var(in);
	head->loss.seq_last = tally_reader_var(in);
	head->loss.incarnation = (__u32)tally_reader_below(in, 1ULL << 32);
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(batch->texts); i++)
		batch->texts[i] = tally_reader_str(in);
	head->version = batch->texts[0];
	head->host = batch->texts[1];
	head->boot_id = batch->texts[2];
}

int tally_batch_decode(struct tally_reader *reader, const char *agent,
		       struct tally_batch **ret_batch)
{
	_cleanup_(batch_freep) struct tally_batch *batch = allocate();
	int r;

	if (!batch)
		return -ENOMEM;
	get_head(reader, batch);
	(void)snprintf(batch->head.agent, sizeof(batch->head.agent), "%s", agent); /* 12 digits */
	if (reader->error)
		return reader->error;
	if (batch->head.kind > TALLY_BATCH_LOST || !batch->head.number || !batch->head.seq_first)
		return -EBADMSG;
	r = tally_sealed_decode(reader, &batch->sealed);
	if (r < 0)
		return r;
	if (batch->sealed.by_connection)
		get_bytes(reader, batch->connections, sizeof(batch->connections));
	if (reader->error || reader->pos != reader->len)
		return -EBADMSG;
	*ret_batch = TAKE_PTR(batch);
	return 0;
}

int tally_batch_usage(const struct tally_batch *batch, __u64 index, enum tally_format format,
		      struct tally_message *msg)
{
	return tally_record_usage(batch, index, format, msg);
}

int tally_batch_connection(const struct tally_batch *batch, __u64 index, struct tally_message *msg)
{
	return tally_record_connection(batch, index, msg);
}

int tally_batch_message(const struct tally_batch *batch, __u64 index, enum tally_format format,
			struct tally_message *msg)
{
	__u64 records = tally_batch_records(batch);

	return index < records ? tally_batch_usage(batch, index, format, msg)
			       : tally_batch_connection(batch, index - records, msg);
}

int tally_batch_control(const struct tally_batch *batch, struct tally_message *msg)
{
	return tally_record_control(batch, batch->chain, msg);
}
