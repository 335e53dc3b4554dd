/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause OR Apache-2.0 */
/*
 * The closed lists of the contract with billing, each one table of (SYMBOL, value, "text").
 * Values are stable: rows of an old kernel ledger are read by a newer agent.
 */
#ifndef TALLY_REASONS_H
#define TALLY_REASONS_H

/* Whom an exchange belongs to. Record field `attribution`. */
#define TALLY_ATTRIBUTIONS(X)             \
	X(ATTR_KEY, 0, "key")             \
	X(ATTR_ANONYMOUS, 1, "anonymous") \
	X(ATTR_TAINTED, 2, "tainted")     \
	X(ATTR_LIMIT, 3, "limit")         \
	X(ATTR_MIDSTREAM, 4, "midstream") \
	X(ATTR_OVERFLOW, 5, "overflow")   \
	X(ATTR_DICTIONARY_FULL, 6, "dictionary_full")

/* Why. Record field `attribution_detail`; 0 is null. */
#define TALLY_DETAILS(X)                                  \
	X(DETAIL_NONE, 0, "")                             \
	X(DETAIL_REJECTED_KEY, 1, "rejected-key")         \
	X(DETAIL_UNVERIFIED_KEY, 2, "unverified-key")     \
	X(DETAIL_EMPTY_KEY, 3, "empty-key")               \
	X(DETAIL_NO_REQUEST, 4, "no-request")             \
	X(DETAIL_AMBIGUOUS_KEY, 5, "ambiguous-key")       \
	X(DETAIL_AMBIGUOUS_LENGTH, 6, "ambiguous-length") \
	X(DETAIL_BAD_LENGTH, 7, "bad-length")             \
	X(DETAIL_BAD_CODING, 8, "bad-transfer-coding")    \
	X(DETAIL_BAD_CHUNK, 9, "bad-chunk")               \
	X(DETAIL_BAD_HEADER, 10, "bad-header")            \
	X(DETAIL_BAD_START, 11, "bad-start-line")         \
	X(DETAIL_FOLDED, 12, "folded-header")             \
	X(DETAIL_CONFLICT, 13, "conflict")                \
	X(DETAIL_KEY_TOO_LONG, 14, "key-too-long")        \
	X(DETAIL_PIPELINE_DEPTH, 15, "pipeline-depth")    \
	X(DETAIL_PATH_DEPTH, 16, "path-depth")            \
	X(DETAIL_NO_CANDIDATE, 17, "no-candidate-slot")   \
	X(DETAIL_GAP, 18, "gap")                          \
	X(DETAIL_RESPONSE, 19, "bad-response")            \
	X(DETAIL_LEDGER_FULL, 20, "ledger-full")          \
	X(DETAIL_BAD_BASIC, 21, "bad-basic-credentials")  \
	X(DETAIL_EARLY_RESPONSE, 22, "response-before-request")

/*
 * Bytes that could not be given to any exchange. Control record `unparsed_bytes`. 7 was "no-state", of which
 * no version has counted an octet.
 */
#define TALLY_UNPARSED(X)                           \
	X(UNPARSED_MIDSTREAM, 0, "midstream")       \
	X(UNPARSED_GAVE_UP, 1, "gave-up")           \
	X(UNPARSED_PARTIAL_HEAD, 2, "partial-head") \
	X(UNPARSED_BLANK, 3, "blank-line")          \
	X(UNPARSED_GAP, 4, "gap")                   \
	X(UNPARSED_NO_SLOT, 5, "no-slot")           \
	X(UNPARSED_AFTER_CLOSE, 6, "after-close")   \
	X(UNPARSED_MPTCP, 7, "mptcp")

/* Events of the stream layer. Control record `gaps`. */
#define TALLY_GAPS(X)                                 \
	X(GAP_MIDSTREAM_JOIN, 0, "midstream-join")    \
	X(GAP_RESYNC, 1, "resync")                    \
	X(GAP_PARKED, 2, "parked")                    \
	X(GAP_PARK_FULL, 3, "park-full")              \
	X(GAP_NEVER_FILLED, 4, "never-filled")        \
	X(GAP_CONFLICT, 5, "conflict")                \
	X(GAP_LOCK_BUSY, 6, "lock-busy")              \
	X(GAP_NEST_FULL, 7, "nest-full")              \
	X(GAP_NO_STORAGE, 8, "no-storage")            \
	X(GAP_DEFER_FULL, 9, "defer-full")            \
	X(GAP_ROW_FULL, 10, "connection-rows-full")   \
	X(GAP_AGG_FULL, 11, "rows-full")              \
	X(GAP_DICTIONARY_FULL, 12, "dictionary-full") \
	X(GAP_CANDIDATE_FULL, 13, "candidates-full")  \
	X(GAP_LOAD_FAILED, 14, "load-failed")         \
	X(GAP_LOOP_LIMIT, 15, "loop-limit")           \
	X(GAP_GUESSES_FULL, 16, "guesses-full")

/* Protocol of an exchange. Record field `protocol`. */
#define TALLY_PROTOCOLS(X)             \
	X(PROTO_UNKNOWN, 0, "unknown") \
	X(PROTO_HTTP09, 1, "http/0.9") \
	X(PROTO_HTTP10, 2, "http/1.0") \
	X(PROTO_HTTP11, 3, "http/1.1") \
	X(PROTO_HTTP2, 4, "http/2")

#define TALLY_ENUM_ITEM(symbol, value, text) TALLY_##symbol = value,
enum tally_attribution { TALLY_ATTRIBUTIONS(TALLY_ENUM_ITEM) TALLY_ATTR_COUNT };
enum tally_detail { TALLY_DETAILS(TALLY_ENUM_ITEM) TALLY_DETAIL_COUNT };
enum tally_unparsed { TALLY_UNPARSED(TALLY_ENUM_ITEM) TALLY_UNPARSED_COUNT };
enum tally_gap { TALLY_GAPS(TALLY_ENUM_ITEM) TALLY_GAP_COUNT };
enum tally_protocol { TALLY_PROTOCOLS(TALLY_ENUM_ITEM) TALLY_PROTO_COUNT };

#endif
