/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shipper: from frozen epochs to sinks. The agent's loop drives it; it never waits.
 *
 *	tally_ship_seal()    frozen epoch -> sealed file, durable on return: now remove the pins
 *	tally_ship_step()    sealed files -> batch (durable) -> sinks -> checkpoint read back -> trim
 *
 * Typical wiring:
 *	tally_ship_new(&config, &ship);            recovers the spool, takes the lock
 *	tally_ship_add(ship, sink);                for each sink of the config
 *	for each pinned epoch, oldest first: drain and seal unless tally_ship_has() it, then unpin it
 *	when none is pinned any more: tally_ship_released(ship)
 *	epoll on tally_ship_fd(ship); on wake-up or after *ret_wait_ms: tally_ship_step()
 *	at the end: tally_ship_step() until tally_ship_idle() or the grace is over; tally_ship_free()
 *
 * Invariants: D1 a batch is durable before any sink sees it, and never changes; D2 a sealed or batch
 * file is removed only when what replaces it is durable, or every required sink's own checkpoint,
 * read back, covers it; D3 numbers are never used twice: the state file and the files that carry
 * numbers are read together; D4 after doubt the sink is opened anew, and only its checkpoint decides.
 */
#ifndef TALLY_DELIVER_SHIP_H
#define TALLY_DELIVER_SHIP_H

#include <stdbool.h>

#include "account/account.h"
#include "deliver/fs.h"
#include "deliver/sink.h"

struct tally_ship;

/* Time, so that a simulator can be it. NULL in the config: the system's. */
struct tally_time {
	void *ctx;
	__u64 (*utc_ns)(void *ctx);
	__u64 (*mono_ns)(void *ctx);
};

struct tally_ship_config {
	const char *state_dir;	/* made if missing */
	const char *machine_id; /* text of /etc/machine-id; the state directory is bound to it */
	const char *boot_id;	/* /proc/sys/kernel/random/boot_id */
	const char *host;
	const char *version;
	__u32 batch_wait_ms;	   /* at most so long a sealed file waits for others; default 0 */
	__u32 backoff_max_ms;	   /* between attempts of a failing sink; default 10000 */
	__u64 max_bytes;	   /* of the spool; beyond it sealing answers -ENOSPC; 0: no cap */
	const struct tally_fs *fs; /* NULL: the real one */
	const struct tally_time *time; /* NULL: the real one */
};

struct tally_ship_status {
	char agent[TALLY_AGENT_ID + 1];
	__u32 incarnation;
	__u64 epoch_last; /* sealed so far */
	__u64 seq_last, batch_last;
	__u64 sealed_files, batch_files, quarantined_files;
	__u64 spool_records, spool_bytes;
	__u64 oldest_s; /* UTC start of the oldest window not trimmed; 0: none */
	__u64 records_sealed, records_acked; /* since start; usage */
	__u64 connections_sealed;	     /* since start: records of connections */
	__u64 connections_shed; /* since start: windows sealed without, for want of room */
	__u64 errors;
	__u64 last_ack_s;
	__s64 held;	 /* exchanges whose booking is open */
	__u64 imbalance; /* |held_before + seen - attributed - unattributed - held_after|, summed */
	__u64 holes_stopped, holes_lost; /* since start: time that nobody metered, by its cause */
	bool sealing_fails;		 /* the last tally_ship_seal() did */
};

struct tally_ship_sink_status {
	const char *name;
	bool required, connected;
	struct tally_checkpoint acked;
	__u64 failures, doubts;
	__u64 last_ack_s;
};

/* -EBUSY: another agent holds the state directory; other -errno of the file system. */
int tally_ship_new(const struct tally_ship_config *config, struct tally_ship **ret_ship)
	__attribute__((warn_unused_result));
/* Closes what is open, without waiting. */
void tally_ship_free(struct tally_ship *ship);
/* Owns the sink from here on. -EEXIST: its name is taken. */
int tally_ship_add(struct tally_ship *ship, struct tally_sink *sink)
	__attribute__((warn_unused_result));

/*
 * Let go of a sink. What it was sent last may be there or not: its own checkpoint says, should a sink of
 * that name and place come back. Not while a step runs. -ENOENT.
 */
int tally_ship_remove(struct tally_ship *ship, const char *name)
	__attribute__((warn_unused_result));

/*
 * Some sinks for others, the names of which they may have: all of it, or on failure nothing, and the fresh
 * ones are still the caller's. So nothing is trimmed that a required sink of before or after lacks. -EEXIST,
 * -E2BIG, -errno of epoll.
 */
struct tally_ship_change {
	const char *const *old; /* names; those that are not there are passed over */
	size_t n_old;
	struct tally_sink *const *fresh; /* owned from here on */
	size_t n_fresh;
};
int tally_ship_replace(struct tally_ship *ship, const struct tally_ship_change *change)
	__attribute__((warn_unused_result));

/* Is this epoch durable already? Then its pins are only in the way. */
bool tally_ship_has(const struct tally_ship *ship, const __u8 ledger[TALLY_LEDGER_ID],
		    __u64 number);
/* An agent runs, and this window is open: were the pins gone before it is sealed, that is a loss. Durable on
 * 0; else try again later. */
int tally_ship_opened(struct tally_ship *ship, const __u8 ledger[TALLY_LEDGER_ID], __u64 number)
	__attribute__((warn_unused_result));
/* UTC end of the last epoch sealed, in seconds; 0: none. */
__u64 tally_ship_end_s(const struct tally_ship *ship);
/* 0: durable, but perhaps without the connections, where there was no room. Else nothing happened and the
 * pins must stay: try again later. */
int tally_ship_seal(struct tally_ship *ship, const struct tally_frozen *frozen,
		    const struct tally_resolver *resolver) __attribute__((warn_unused_result));

/* The pins of what was sealed are gone. Until then the last epoch is not batched: sealed again after
 * a crash, it must not be counted twice. Epochs are sealed and unpinned one after the other. */
void tally_ship_released(struct tally_ship *ship);

int tally_ship_fd(const struct tally_ship *ship);
/* Does what can be done now. *ret_wait_ms: call again after so long at the latest; -1: on an event. */
int tally_ship_step(struct tally_ship *ship, int *ret_wait_ms);
/* Everything sealed is with every required sink. */
bool tally_ship_idle(const struct tally_ship *ship);
void tally_ship_status(const struct tally_ship *ship, struct tally_ship_status *ret_status);
/* -ENOENT past the last one. */
int tally_ship_sink_status(const struct tally_ship *ship, size_t index,
			   struct tally_ship_sink_status *ret_status);

/* The sinks. Texts are copied. */
struct tally_sink *tally_file_sink_new(const char *name, const char *path);
struct tally_sink *tally_stdout_sink_new(const char *name, const char *state_dir);

struct tally_kafka_option {
	const char *name, *value;
};
enum tally_kafka_delivery { TALLY_KAFKA_TRANSACTIONAL, TALLY_KAFKA_IDEMPOTENT };
enum tally_kafka_format { TALLY_KAFKA_CLOUDEVENTS, TALLY_KAFKA_OPENMETER };
struct tally_kafka_config {
	const char *name; /* of the sink */
	const char *state_dir;
	const char *brokers;
	const char *topic_records, *topic_control, *topic_progress; /* NULL: usage.*.v1 */
	const char *topic_connections; /* likewise; not looked for before there are any */
	const char *namespace;	       /* openmeter; NULL: "default" */
	enum tally_kafka_delivery delivery;
	enum tally_kafka_format format;
	bool create_topics;
	int partitions, replication;  /* of topics that are made; 0: 6 and the broker's default */
	__u32 transaction_timeout_ms; /* 0: 30000 */
	const struct tally_kafka_option *options; /* librdkafka settings, after ours */
	size_t n_options;
};
/* A setting of librdkafka by itself. -ENOENT: there is none of that name; -EINVAL: not that value. */
int tally_kafka_property_check(const char *name, const char *value);
/* Can a client be made of them? -EINVAL: an option is not accepted; *ret_error is then a text to free. */
int tally_kafka_check(const struct tally_kafka_config *config, char **ret_error);
/* It checks, too. */
int tally_kafka_sink_new(const struct tally_kafka_config *config, struct tally_sink **ret_sink,
			 char **ret_error);

#endif
