/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sealed rows: the rows of one epoch (or of several, merged), named, charged, not yet numbered.
 * The same structure is written to sealed files and, with numbers in front, to batch files.
 *
 *	sealed ── strings[]	every text once
 *	       ├─ owners[]	(customer, api key, key_ref, mode)
 *	       ├─ tariffs[]	(unit, amount per chargeable request)...
 *	       ├─ shapes[]	(service, route, method, ruleset, status, ..., tariff): what owners share
 *	       ├─ rows[]	(hour, owner, shape, window, sums), sorted, unique
 *	       ├─ totals	kernel counters of the epochs, for the control record
 *	       └─ connections[]	the same rows taken apart by connection, where that is asked for
 *
 * Invariants: S1 indices are in range; S2 rows are sorted by (hour, owner, shape) and unique; S3 a
 * window lies within its hour; S4 reading what was written gives the same bytes when written again;
 * S5 with connections, those of each (hour, owner, shape) add up to its row; without, the file has not
 * one byte more than before there were any.
 */
#ifndef TALLY_ACCOUNT_SEAL_H
#define TALLY_ACCOUNT_SEAL_H

#include <stdbool.h>
#include <stddef.h>

#include "account/buf.h"
#include "account/frozen.h"
#include "tally/reasons.h"

#define TALLY_UNIT_SCALE 1000000000ULL /* amounts are multiples of 10^-9 */
#define TALLY_UNIT_DIGITS 9
#define TALLY_UNITS_MAX 32
#define TALLY_JSON_INT_MAX ((1ULL << 53) - 1)
#define TALLY_NO_TEXT 0 /* string index of null */

#define TALLY_KEY_REFS(X)               \
	X(KEYREF_NONE, 0, "")           \
	X(KEYREF_CATALOG, 1, "catalog") \
	X(KEYREF_HMAC, 2, "hmac")
enum tally_key_ref { TALLY_KEY_REFS(TALLY_ENUM_ITEM) TALLY_KEYREF_COUNT };

#define TALLY_MODES(X)          \
	X(MODE_NONE, 0, "")     \
	X(MODE_LIVE, 1, "live") \
	X(MODE_TEST, 2, "test")
enum tally_mode { TALLY_MODES(TALLY_ENUM_ITEM) TALLY_MODE_COUNT };

#define TALLY_RECORD_REASONS(X)                   \
	X(REASON_UNATTRIBUTED, 0, "unattributed") \
	X(REASON_ABORTED, 1, "aborted")           \
	X(REASON_HEALTH, 2, "health")             \
	X(REASON_SUCCESS, 3, "success")           \
	X(REASON_AUTH, 4, "auth")                 \
	X(REASON_RATE_LIMITED, 5, "rate_limited") \
	X(REASON_CLIENT_ERROR, 6, "client_error") \
	X(REASON_SERVER_ERROR, 7, "server_error")
enum tally_reason { TALLY_RECORD_REASONS(TALLY_ENUM_ITEM) TALLY_REASON_COUNT };

struct tally_sealed_owner {
	__u32 customer; /* string index */
	__u32 api_key;
	__u8 key_ref; /* enum tally_key_ref */
	__u8 mode;    /* enum tally_mode */
	__u8 pad[2];
};

struct tally_sealed_unit {
	__u32 name;
	__u32 pad;
	__u64 amount;
};

struct tally_sealed_tariff {
	__u32 first; /* into units[] */
	__u32 n;
};

struct tally_sealed_shape {
	__u32 service, route, method, ruleset; /* string indices */
	__u32 namespace, workload, pod, node;  /* likewise: where it was answered, if it is told */
	__u32 tariff;
	__u16 status;
	__u8 protocol, attribution, detail, reason; /* enums */
	__u8 billable;
	__u8 pad;
};

struct tally_sealed_sums {
	__u64 requests, incomplete, request_bytes, response_bytes, duration_ns;
	__u64 chargeable; /* requests the tariff multiplies */
};

struct tally_sealed_row {
	__u32 hour, owner, shape, pad;
	__u64 start_s, end_s; /* half open, UTC */
	struct tally_sealed_sums sums;
};

/* Who was at the other end, as far as it may be told. */
struct tally_sealed_peer {
	__u64 conn; /* socket cookie, unique per boot; 0: the kernel kept no row per connection */
	__u8 address[16]; /* IPv4 mapped into IPv6; bits behind the prefix are zero */
	__u16 port;	  /* 0 unless the whole address is told */
	__u8 prefix;	  /* bits of the address that are told; 0: it is not */
	__u8 pad[5];
};

/* A part of a row: what one connection added to it. */
struct tally_sealed_connection {
	struct tally_sealed_row row;
	struct tally_sealed_peer peer;
};

/* What the kernel counted, whatever became of the rows. */
struct tally_sealed_totals {
	__u64 seen, held_enter, held_leave, attributed, aborted, connections;
	__u64 unattributed[7];
	__u64 unparsed_bytes[8]; /* both directions */
	__u64 bytes[2];
	__u64 gaps[17];
	__u64 unresolved; /* requests whose key or ruleset could not be named */
};

/* Where the books stand: the last epoch that is in them. epoch 0: not known. */
struct tally_position {
	__u64 epoch; /* of the agent */
	__u8 ledger[TALLY_LEDGER_ID];
	__u64 number; /* of the ledger */
	__u64 end_s;
	__s64 held;
	__u8 cause; /* enum tally_close_cause: how it ended */
};

/* Time nobody metered between this sealed piece and the one before. */
enum tally_hole { TALLY_HOLE_NONE, TALLY_HOLE_STOPPED, TALLY_HOLE_LOST };

struct tally_sealed {
	__u64 epoch_first, epoch_last; /* of the agent, not of the ledger; given by the spool */
	__u64 windows;
	__u64 start_s, end_s;
	__u8 ledger[TALLY_LEDGER_ID]; /* of the last epoch */
	__u64 number;		      /* kernel's number of the last epoch */
	__u8 cause;		      /* enum tally_close_cause, of the last epoch */
	__u8 hole;		      /* enum tally_hole: before the first epoch */
	__u64 hole_start_s, hole_end_s;
	__s64 held_before, held_after;
	struct tally_sealed_totals totals;

	char **strings; /* [0] is "" and stands for null */
	size_t n_strings;
	struct tally_sealed_owner *owners;
	size_t n_owners;
	struct tally_sealed_unit *units;
	size_t n_units;
	struct tally_sealed_tariff *tariffs;
	size_t n_tariffs;
	struct tally_sealed_shape *shapes;
	size_t n_shapes;
	struct tally_sealed_row *rows;
	size_t n_rows;
	bool by_connection; /* `connections` is kept: all epochs in here, or none */
	struct tally_sealed_connection *connections;
	size_t n_connections;
	struct tally_intern *intern; /* lookup tables while it is being built */
};

void tally_sealed_init(struct tally_sealed *sealed);
void tally_sealed_done(struct tally_sealed *sealed);

/* Building: each returns the index of an equal element, new or old. -ENOMEM. */
int tally_sealed_text(struct tally_sealed *sealed, const char *text, __u32 *ret_index);
int tally_sealed_owner(struct tally_sealed *sealed, const struct tally_sealed_owner *owner,
		       __u32 *ret_index);
int tally_sealed_tariff(struct tally_sealed *sealed, const struct tally_sealed_unit *units,
			size_t n_units, __u32 *ret_index);
int tally_sealed_shape(struct tally_sealed *sealed, const struct tally_sealed_shape *shape,
		       __u32 *ret_index);
int tally_sealed_add(struct tally_sealed *sealed, const struct tally_sealed_row *row);
int tally_sealed_add_connection(struct tally_sealed *sealed,
				const struct tally_sealed_connection *connection);
/* By (hour, owner, shape): below 0, 0, above 0. */
int tally_sealed_order(const struct tally_sealed_row *a, const struct tally_sealed_row *b);
/* Sorts rows and connections and adds up equal ones. */
void tally_sealed_settle(struct tally_sealed *sealed);

/* Adds everything of `from` (later epochs) to `into`. 0, -ENOMEM, -EINVAL: they do not follow, or one of
 * both is by connection (into unchanged in value only when 0 is returned: discard it otherwise). Settle
 * afterwards. */
int tally_sealed_merge(struct tally_sealed *into, const struct tally_sealed *from)
	__attribute__((warn_unused_result));

/* After its last epoch. False: it holds none. */
bool tally_sealed_position(const struct tally_sealed *sealed, struct tally_position *ret_position);

/* Sums over all rows. */
void tally_sealed_sum(const struct tally_sealed *sealed, struct tally_sealed_sums *ret_sums);

/* Codec of a position, its epoch excepted. Read: sticky errors of the reader. */
void tally_position_put(const struct tally_position *at, struct tally_buf *buf);
void tally_position_get(struct tally_reader *in, struct tally_position *at);

/* Codec of the body: everything but the file's frame. Read: -EBADMSG for what is not valid. */
int tally_sealed_encode(const struct tally_sealed *sealed, struct tally_buf *buf);
int tally_sealed_decode(struct tally_reader *reader, struct tally_sealed *ret_sealed)
	__attribute__((warn_unused_result));

#endif
