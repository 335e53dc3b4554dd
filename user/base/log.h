/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Logging: one event with key=value pairs, to stderr.
 *
 *	tally_log_warning("sink_failed", "sink=%s error=%s attempts=%u", name, strerror(e), n);
 *	-> warning sink_failed sink=kafka error="Connection refused" attempts=3
 *
 * The blanks of the *format* part the pairs, so a value may hold blanks and needs no quoting by the
 * caller. When stderr is the journal, lines begin with its priority (<4>) and carry no time; with
 * format json each event is one JSON object.
 *
 * Invariants: L1 never payload bytes, never a key; L2 one call site writes at most TALLY_LOG_BURST
 * lines in TALLY_LOG_INTERVAL_S seconds, then says how many it swallowed; L3 a value cannot begin a
 * new line. Functions of libraries return, callers log once.
 */
#ifndef TALLY_BASE_LOG_H
#define TALLY_BASE_LOG_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/util.h"

#define TALLY_LOG_BURST 10
#define TALLY_LOG_INTERVAL_S 10

/* Values are journald's priorities. */
enum tally_log_level {
	TALLY_LOG_ERROR = 3,
	TALLY_LOG_WARNING = 4,
	TALLY_LOG_NOTICE = 5,
	TALLY_LOG_INFO = 6,
	TALLY_LOG_DEBUG = 7,
};

enum tally_log_format { TALLY_LOG_AUTO, TALLY_LOG_TEXT, TALLY_LOG_JSON };

/* One per call site. */
struct tally_log_site {
	uint64_t since_ns;
	uint32_t count;
	uint32_t swallowed;
};

/* AUTO: journal form when stderr is the journal (JOURNAL_STREAM), else text with a time. */
void tally_log_setup(enum tally_log_level level, enum tally_log_format format);
bool tally_log_enabled(enum tally_log_level level);

/* Use the macros below. */
void tally_log_write(enum tally_log_level level, struct tally_log_site *site, const char *event,
		     const char *fmt, ...) TALLY_PRINTF(4, 5);
/* For the output of libraries: one line of theirs, as the value of `text`. */
void tally_log_foreign(enum tally_log_level level, const char *library, const char *fmt, va_list ap)
	TALLY_PRINTF(3, 0);

#define tally_log_at(level, event, fmt, ...)                               \
	do {                                                               \
		static struct tally_log_site _site;                        \
		tally_log_write(level, &_site, event, fmt, ##__VA_ARGS__); \
	} while (0)
/* Only the first time. */
#define tally_log_once(level, event, fmt, ...)                                   \
	do {                                                                     \
		static bool _said;                                               \
		if (!_said)                                                      \
			tally_log_write(level, NULL, event, fmt, ##__VA_ARGS__); \
		_said = true;                                                    \
	} while (0)

#define tally_log_error(event, fmt, ...) tally_log_at(TALLY_LOG_ERROR, event, fmt, ##__VA_ARGS__)
#define tally_log_warning(event, fmt, ...) \
	tally_log_at(TALLY_LOG_WARNING, event, fmt, ##__VA_ARGS__)
#define tally_log_notice(event, fmt, ...) tally_log_at(TALLY_LOG_NOTICE, event, fmt, ##__VA_ARGS__)
#define tally_log_info(event, fmt, ...) tally_log_at(TALLY_LOG_INFO, event, fmt, ##__VA_ARGS__)
#define tally_log_debug(event, fmt, ...) tally_log_at(TALLY_LOG_DEBUG, event, fmt, ##__VA_ARGS__)

#endif
