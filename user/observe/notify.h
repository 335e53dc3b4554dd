/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the service manager is told, by the protocol of sd_notify(3): one datagram per message to
 * $NOTIFY_SOCKET. Without that variable all of this does nothing.
 */
#ifndef TALLY_OBSERVE_NOTIFY_H
#define TALLY_OBSERVE_NOTIFY_H

#include <stdint.h>

#include "base/util.h"

/* Assignments like "READY=1", one a line. Failures are not worth an error: nobody depends on it. */
void tally_notify_send(const char *fmt, ...) TALLY_PRINTF(1, 2);

/* RELOADING=1 with the time stamp that newer managers want. */
void tally_notify_reloading(void);

/* How often the manager wants to hear WATCHDOG=1: half of what it allows. 0: never. */
uint64_t tally_notify_watchdog_ns(void);

#endif
