/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause OR Apache-2.0 */
/*
 * The ledger: what the kernel writes and the agent reads. One *epoch* is three maps, swapped in one
 * cut:
 *
 *	rows     hash,         row_key -> row      one row per connection, key, route, ... (row_key.conn)
 *	(places                                    some of these rows: below)
 *	spill    hash,         row_key -> row      the same without connection (conn = CPU): used when
 *	                                           `rows` refuses; preallocated
 *	totals   per-CPU array, nest and service   cannot refuse; control counters (TALLY_TOTALS_AT)
 *	                        -> totals
 *
 *	epochs_rows[2] ┐
 *	epochs_spill[2]├─ arrays of maps, indexed by TALLY_EPOCH_INDEX of the number that a program reads once per run
 *	epochs_totals[2]┘
 *
 * Invariants: counters only grow inside an epoch; a program books everything of one run into one
 * epoch; after the swap returned nobody writes the old maps (kernel: map_update_elem on an array of
 * maps waits for a grace period, commit 1ae80cf31938).
 */
#ifndef TALLY_LEDGER_H
#define TALLY_LEDGER_H

#include "tally/limits.h"
#include "tally/reasons.h"
#include "tally/types.h"

#define TALLY_ABI_VERSION 5
#define TALLY_ABI_BEFORE 4 /* it has no places: its rows are read by us, but ours not all by it */

/* Identity of a row. All bytes are significant: it is a hash key, so padding is zero. */
struct tally_row_key {
	__u64 conn;	  /* socket cookie; in `spill`: the CPU's number */
	__u64 key;	  /* SipHash of the key's text; 0 unless attribution is KEY */
	__u32 hour;	  /* hours since 1970-01-01T00:00Z, when booked */
	__u32 ruleset;	  /* generation of the rules in force when the head was matched */
	__u16 service;	  /* index of the service */
	__u16 route;	  /* index in the ruleset; 0 is _other */
	__u16 status;	  /* HTTP status; 0: no final response head left the server */
	__u8 method;	  /* index in the ruleset's methods; 0 is any other */
	__u8 attribution; /* enum tally_attribution */
	__u8 detail;	  /* enum tally_detail */
	__u8 protocol;	  /* enum tally_protocol */
	__u8 pad[2];
	__u32 origin; /* of the scope: the agent's number of where it was answered; 0: not told */
};
TALLY_ASSERT(sizeof(struct tally_row_key) == 40, "ABI: row key");

/*
 * What is added up. A connection's row has one writer at a time, who holds its lock of what the server
 * sends; late_bytes belong to the other direction. Rows without connection are added to atomically.
 */
struct tally_row {
	__u64 requests;
	__u64 incomplete;    /* of these: response cut short after its head */
	__u64 request_bytes; /* octets of heads and bodies, in stream order, each once */
	__u64 response_bytes;
	__u64 duration_ns; /* first request byte received .. last response byte first sent */
	__u64 late_bytes; /* of requests, behind their answers; the agent adds them to request_bytes */
	__u64 units[1];	 /* reserved: unit counters from response headers */
	__u8 peer[16];	 /* client address (IPv4 mapped into IPv6), set when the row is made */
	__u16 peer_port; /* host order */
	__u8 pad[6];
};
TALLY_ASSERT(sizeof(struct tally_row) == 80, "ABI: row");

/* Whoever has read a row from its map adds up what two writers counted apart. */
static inline void tally_row_whole(struct tally_row *row)
{
	row->request_bytes += row->late_bytes;
	row->late_bytes = 0;
}

/* Sums that found no row at all. */
struct tally_lost {
	__u64 answered[8]; /* of `requests`: booked with a status, by enum tally_attribution */
	__u64 requests;
	__u64 incomplete;
	__u64 request_bytes;
	__u64 response_bytes;
	__u64 duration_ns;
};

/* Control counters of one service, one epoch, one CPU. */
struct tally_totals {
	__u64 seen;		    /* final response heads, counted before anything is paired */
	__u64 held_enter;	    /* exchanges that got their final head */
	__u64 held_leave;	    /* exchanges booked after it */
	__u64 attributed;	    /* booked with attribution KEY, status not 0 */
	__u64 aborted;		    /* booked with status 0 */
	__u64 connections;	    /* connections born */
	__u64 unattributed[7];	    /* booked, by enum tally_attribution, status not 0 */
	__u64 guesses_full;	    /* TALLY_GAP_GUESSES_FULL: `gaps` has no room for it */
	__u64 unparsed_bytes[2][8]; /* [0] from clients, [1] from servers */
	__u64 bytes[2];		    /* all stream bytes that passed, each direction */
	__u64 gaps[16];		    /* enum tally_gap; read them by tally_totals_gap() */
	struct tally_lost lost;	    /* rows and spill both refused */
};
TALLY_ASSERT((int)TALLY_ATTR_COUNT <= 7 && (int)TALLY_GAP_COUNT == 17, "ABI: totals");

static inline __u64 tally_totals_gap(const struct tally_totals *totals, __u32 gap)
{
	return gap == TALLY_GAP_GUESSES_FULL ? totals->guesses_full : totals->gaps[gap];
}

/*
 * A row of `rows` that stands where its connection's number says. Half of the map is the open epoch's, by its
 * slot; a place is used once per epoch, by whichever key comes first, and freed by the agent when the epoch is
 * released. Two cache lines, from the begin of a page on.
 */
struct tally_row_place {
	struct tally_row_key key; /* conn 0: free */
	__u32 epoch;		  /* low half of its number; another: not written yet */
	__u32 pad;
	struct tally_row row;
};
TALLY_ASSERT(sizeof(struct tally_row_place) == 128, "ABI: place");

#define TALLY_PLACES 16384 /* of one half; a power of two */
#define TALLY_PLACE_AT(index, conn) ((index)*TALLY_PLACES + ((__u32)(conn) & (TALLY_PLACES - 1)))

/*
 * Programs interrupt each other on one CPU (a softirq comes while a task sends; a task is preempted).
 * Each has a scratch slot of its own while it runs, and counts, without atomics, in the totals of that
 * slot; one more level is for those that got no slot, which add atomically. A service's totals are the
 * sum over levels and CPUs.
 */
#define TALLY_TOTALS (TALLY_SERVICES * (TALLY_NEST + 1))
#define TALLY_TOTALS_AT(level, service) ((level)*TALLY_SERVICES + (service))

/* Which of the two slots an epoch is written in. */
#define TALLY_EPOCH_INDEX(number) ((__u32)((number)-1) & 1)

/* What every program reads once per run: the number, from which the slot follows. */
struct tally_epoch {
	__u32 index; /* that slot, for programs of ABI 4 */
	__u32 guesses; /* keys learnt from an error: programs count up to TALLY_GUESSES, each swap begins anew */
	__u64 number; /* counts epochs since the pins were made, from 1 */
};

/* How kernel time becomes UTC: utc_ns = bpf_ktime_get_ns() + offset_ns. Kept by the agent. */
struct tally_clock {
	__u64 offset_ns;
	__u64 hour_start_ns; /* kernel time at which `hour` began; a cache against a division */
	__u32 hour;
	__u32 pad;
};

/*
 * Key dictionary: hash of the text -> who. The kernel inserts an entry when a response has accepted
 * an unknown key; `slot` then names the candidate that holds the text. The agent replaces the text
 * by its SHA-256, sets state RESOLVED, wipes and frees the candidate. GUESS is NEW of a key that an error
 * answered: it stays for one window, unless it is in the catalog.
 */
enum tally_key_state { TALLY_KEY_NEW = 1, TALLY_KEY_RESOLVED = 2, TALLY_KEY_GUESS = 3 };

struct tally_key_entry {
	__u32 state; /* enum tally_key_state */
	__u32 slot;  /* ticket of the candidate; 0 when resolved */
	__u8 sha256[32];
};
TALLY_ASSERT(sizeof(struct tally_key_entry) == 40, "ABI: key entry");

/*
 * A candidate: the text of a key no response has accepted yet. Ids below TALLY_CANDIDATES are
 * `candidates`; above, `candidates_long` (id - TALLY_CANDIDATES). `state` has the state in its low bits
 * and above them a generation that grows with every holder: it changes by compare-and-exchange only, so
 * who was forgotten, and its slot given to another, can neither free nor accept the other's key.
 */
enum tally_candidate_state { TALLY_CAND_FREE, TALLY_CAND_HELD, TALLY_CAND_ACCEPTED };
#define TALLY_CAND_STATE(word) ((word)&3)
#define TALLY_CAND_NEXT 4     /* one generation on */
#define TALLY_CAND_ID_BITS 14 /* a ticket: id + 1, and the generation above it */
#define TALLY_CAND_GENERATION ((1u << (32 - TALLY_CAND_ID_BITS)) - 1)
#define TALLY_CAND_TICKET(id, word) \
	(((id) + 1) | ((word) >> 2 & TALLY_CAND_GENERATION) << TALLY_CAND_ID_BITS)
#define TALLY_CAND_ID(ticket) (((ticket) & ((1u << TALLY_CAND_ID_BITS) - 1)) - 1)
TALLY_ASSERT(TALLY_CANDIDATES + TALLY_CANDIDATES_LONG < 1 << TALLY_CAND_ID_BITS, "tickets");

struct tally_candidate {
	__u32 state; /* enum tally_candidate_state, and the generation */
	__u32 len;
	__u64 hash;
	__u8 text[TALLY_KEY_INLINE + 8];
};

struct tally_candidate_long {
	__u32 state;
	__u32 len;
	__u64 hash;
	__u8 text[TALLY_KEY_MAX + 8];
};

/* Which service a local socket belongs to. cgroup 0: any; port 0: any. */
struct tally_scope_key {
	__u64 cgroup; /* id of the cgroup's folder (its inode number) */
	__u16 port;   /* host order */
	__u8 pad[6];
};
struct tally_scope {
	__u32 service;
	__u32 origin; /* as in row keys */
};

/* Settings programs read at run time; the agent writes them, pinned programs keep them. */
struct tally_settings {
	__u32 abi_version;
	__u16 levels_mask; /* bit n: some service is tagged at cgroup depth n */
	__u16 changes;	   /* of `scopes`: whom nobody wanted asks again when it is another */
	__u64 secret[2];   /* SipHash key, made once per boot, the same while the pins stand */
};

TALLY_ASSERT(TALLY_SCOPE_LEVELS <= 16, "levels_mask");
TALLY_ASSERT(sizeof(struct tally_settings) == 24, "ABI: settings");

/*
 * A port's mark: odd, some service wants it. It grows whenever that changes, and by 2 when a scope of the
 * port goes or becomes another service's: connections may have been out of sight meanwhile. One that
 * was out of sight for a multiple of 128 such changes, and for all between, does not see any.
 */
#define TALLY_PORT_WANTED 1

/* Per service: which slot of `rulesets` is in force. slot 0xffffffff: service is gone. */
struct tally_service {
	__u32 slot;
	__u32 flags;
};

#endif
