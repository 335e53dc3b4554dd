/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The spool: what is between the kernel and the sinks, on disk.
 *
 *	state.0 state.1			numbers used up (state.h)
 *	sealed/e<first>-<last>		epochs without numbers
 *	batches/b<number>-s<seq>-r<records>-e<first>-<last>
 *	sinks/<name>			each sink's own checkpoint
 *	quarantine/			damaged or foreign files: never shipped, never deleted
 *	reserve				room to ship from a full disk (reserve.h)
 *
 *	epoch ──put──> sealed ──merge──> sealed ──build──> batch ──(acknowledged)──> gone
 *
 * Invariants: P1 every step writes its result durably before it removes its inputs; P2 after a
 * crash a file whose epochs another covers is removed, and a sealed file that was batched too; P3 a
 * file that does not prove itself (digest, agent, range) goes to quarantine; P4 after any failed
 * step whose outcome is not known, the folders are read again before anything else is done, but not after
 * a write that got no further than its temporary file; P5 a file that cannot be read now is neither damaged
 * nor passed over: nothing is sealed, batched or sent without knowing what it holds, and the log names it.
 */
#ifndef TALLY_DELIVER_SPOOL_H
#define TALLY_DELIVER_SPOOL_H

#include "account/batch.h"
#include "account/frozen.h"
#include "deliver/fs.h"
#include "deliver/reserve.h"
#include "deliver/sink.h"
#include "deliver/state.h"

/* Names in quarantine/ end with it: */
#define TALLY_DECLARED ".declared" /* given up, and the books say so */
#define TALLY_COVERED ".covered"   /* nothing of it is missing: other files held all its epochs */

#define TALLY_SPOOL_MERGE 4	    /* sealed files of one hour that are merged into one */
#define TALLY_SPOOL_ROWS (1u << 20) /* rows beyond which nothing is merged any more */

/* One file. */
struct tally_spool_entry {
	__u64 epoch_first, epoch_last;
	__u64 start_s, end_s;
	__u8 ledger[TALLY_LEDGER_ID]; /* of its last epoch, which is number_last of that ledger */
	__u64 number_last;
	__u64 records, connections;
	__u64 bytes;
	bool hole; /* metering was interrupted before it: begins a batch */
	bool by_connection;
	/* batches only: */
	__u64 number, seq_first;
	__u32 incarnation;
	__u8 chain[TALLY_CHAIN];
	char name[128];
};

struct tally_spool_list {
	struct tally_spool_entry *items;
	size_t n;
};

/* What batches are marked with. */
struct tally_spool_origin {
	const char *machine_id, *boot_id, *host, *version;
};

struct tally_spool {
	const struct tally_fs *fs;
	struct tally_spool_origin origin;
	struct tally_reserve reserve;
	struct tally_state state;
	enum tally_state_origin state_origin;
	struct tally_spool_list sealed, batches; /* by epoch; by number */
	__u64 quarantined;			 /* files there */
	bool reload;				 /* P4 */
	bool suspects;				 /* sealed files that do not prove themselves */
	bool released; /* the pins of the last epoch are gone: it may be batched */
};

/* Recovers. -EBUSY: locked. The texts of origin and fs stay the caller's. */
int tally_spool_open(struct tally_spool *spool, const struct tally_fs *fs,
		     const struct tally_spool_origin *origin) __attribute__((warn_unused_result));
void tally_spool_done(struct tally_spool *spool);

/* Reads the folders again if a failed write left them in doubt. */
int tally_spool_settle(struct tally_spool *spool) __attribute__((warn_unused_result));

/* An agent runs, and this window is open. Durable on 0; else nothing is changed: try again later. */
int tally_spool_opened(struct tally_spool *spool, const __u8 ledger[TALLY_LEDGER_ID], __u64 number)
	__attribute__((warn_unused_result));
bool tally_spool_has(const struct tally_spool *spool, const __u8 ledger[TALLY_LEDGER_ID],
		     __u64 number);
/* Names the epoch, writes it. Takes nothing. 0: durable; 1: it was already. */
int tally_spool_seal(struct tally_spool *spool, struct tally_sealed *sealed)
	__attribute__((warn_unused_result));
/* Merges sealed files of one hour when there are many. 1: something was done, 0, -errno. */
int tally_spool_compact(struct tally_spool *spool);
/* Makes the next batch of the oldest sealed files, but not of an epoch whose pins may still stand.
 * 1: made, 0: there is nothing to make one of, -errno. */
int tally_spool_build(struct tally_spool *spool, __u64 now_s);
/* A batch that only says what was lost; none if one that waits says it. */
int tally_spool_declare(struct tally_spool *spool, const struct tally_loss *loss, __u64 now_s)
	__attribute__((warn_unused_result));
/* Oldest batch with a number of at least `number`; NULL: none. */
const struct tally_spool_entry *tally_spool_find(const struct tally_spool *spool, __u64 number);
/* Reads and verifies it. -EBADMSG: it is in quarantine now. */
int tally_spool_load(struct tally_spool *spool, const struct tally_spool_entry *entry,
		     struct tally_batch **ret_batch) __attribute__((warn_unused_result));
/* Removes batches up to this number. */
int tally_spool_trim(struct tally_spool *spool, __u64 number);
/* A sink holds a batch we never made: our state is older than the sink's, as after the restore of a
 * backup. Numbers, chain and position continue behind it, in a new incarnation. What the sink is known to
 * hold is removed; what else has numbers goes to quarantine, as they may be in use there. Where the sink holds
 * only a part of its last batch, all that may be of it goes to quarantine. */
int tally_spool_overtaken(struct tally_spool *spool, const struct tally_checkpoint *at)
	__attribute__((warn_unused_result));

/* A sink found no room: it gets the reserve. */
void tally_spool_make_room(struct tally_spool *spool);

__u64 tally_spool_records(const struct tally_spool *spool);
__u64 tally_spool_bytes(const struct tally_spool *spool);
__u64 tally_spool_oldest_s(const struct tally_spool *spool);

#endif
