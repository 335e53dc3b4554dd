/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The audit: reads usage, connection and control records in any order, and says whether the books balance.
 *
 *	agent ── batch 1 ── batch 2 ── ...		one control record each
 *	            │           └ chain = SHA-256(chain of batch 1, its records, its control record)
 *	            ├ records [seq_first, seq_last], each once, their sums = sums
 *	            └ connections, each once, add up to the records (parts.h), their digest is told
 *
 * It starts, per agent, at the oldest control record that retention left (the anchor); records
 * before it are not judged, and those of an agent without any control record are a gap, unless retention
 * took control records as old, and of no period asked for. Control records may
 * outlive the records that they tell of: what is missing since retention took it is a note, unless it is of
 * the period asked for (tally_audit_since). Memory: 8 bytes for each record of complete batches, the text of those
 * whose batch is not complete yet.
 */
#ifndef TALLY_ACCOUNT_AUDIT_H
#define TALLY_ACCOUNT_AUDIT_H

#include <stdbool.h>
#include <stddef.h>
#include <linux/types.h>

#include "account/buf.h"

/* Kinds of findings, worst last; values are stable in -o json through their texts. */
#define TALLY_FINDINGS(X)                 \
	X(FIND_NOTE, 0, "note")           \
	X(FIND_DUPLICATE, 1, "duplicate") \
	X(FIND_LOSS, 2, "declared-loss")  \
	X(FIND_BEHIND, 3, "behind")       \
	X(FIND_GAP, 4, "gap")             \
	X(FIND_SUM, 5, "sum")             \
	X(FIND_IDENTITY, 6, "identity")   \
	X(FIND_CHAIN, 7, "chain")         \
	X(FIND_CONFLICT, 8, "conflict")   \
	X(FIND_UNREADABLE, 9, "unreadable")
#define TALLY_FINDING_ITEM(symbol, value, text) TALLY_##symbol = value,
enum tally_finding_kind { TALLY_FINDINGS(TALLY_FINDING_ITEM) TALLY_FIND_COUNT };

struct tally_finding {
	enum tally_finding_kind kind;
	char agent[13]; /* "" when not known */
	char *text;
};

struct tally_audit_agent {
	char id[13];
	char host[64];
	__u64 incarnations, batches, records, connections, duplicates, requests;
	__u64 pending; /* records without their control record yet */
	__u64 complete_until_s;
};

struct tally_audit;

int tally_audit_new(struct tally_audit **ret_audit) __attribute__((warn_unused_result));
void tally_audit_free(struct tally_audit *audit);
/* One record, its exact bytes. What is no record of ours is ignored. -ENOMEM. */
int tally_audit_feed(struct tally_audit *audit, const void *value, size_t len);
/* Records of connections are left out: for who may not read them, or whose copy has none. */
void tally_audit_without_connections(struct tally_audit *audit);
/* The books are still written: records of windows that ended since may wait for their control record. Older
 * ones are a gap where the agent has none at all, and behind where they follow its last one. */
void tally_audit_live_since(struct tally_audit *audit, __u64 since_s);
/* Does any control record so far tell of records of connections? */
bool tally_audit_told_connections(const struct tally_audit *audit);
/*
 * Usage records (or those of connections) written up to until_s may be gone, and none that were written later;
 * 0: none at all, UINT64_MAX: nobody knows until when. Where it is not said, those before the first
 * that is here may be, for each agent, and before the first of all where an agent has none.
 */
void tally_audit_gone(struct tally_audit *audit, bool connections, __u64 until_s);
/* Control records written up to until_s may be gone, too, and none that were written later. */
void tally_audit_gone_control(struct tally_audit *audit, __u64 until_s);
/* A period begins then that must be here as a whole: what is gone of it is a gap. */
void tally_audit_since(struct tally_audit *audit, __u64 since_s);
/* An agent that must be there, and have passed `until_s`. */
int tally_audit_expect(struct tally_audit *audit, const char *agent);
/* Judges; until_s 0: no deadline. Call once, after the last record. */
int tally_audit_close(struct tally_audit *audit, __u64 until_s);

size_t tally_audit_agents(const struct tally_audit *audit);
void tally_audit_agent(const struct tally_audit *audit, size_t index,
		       struct tally_audit_agent *ret_agent);
size_t tally_audit_findings(const struct tally_audit *audit);
const struct tally_finding *tally_audit_finding(const struct tally_audit *audit, size_t index);
const char *tally_audit_kind(enum tally_finding_kind kind);
/* Of all kinds; findings kept are at most TALLY_AUDIT_MAX. */
__u64 tally_audit_count(const struct tally_audit *audit, enum tally_finding_kind kind);

#define TALLY_AUDIT_MAX 1000

#endif
