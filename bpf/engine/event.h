/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the engine tells its driver (bpf/meter.h). A parser consumes octets until its chunk is used
 * up (MORE) or something happened that the other direction or the books must know.
 */
#ifndef TALLY_ENGINE_EVENT_H
#define TALLY_ENGINE_EVENT_H

enum tally_event {
	TALLY_EV_MORE,	/* chunk consumed */
	TALLY_EV_HEAD,	/* a head is complete; its octets, trailing CRLF included, are consumed */
	TALLY_EV_END,	/* the message is complete */
	TALLY_EV_SPILL, /* key_text is full: move it away, key_spilled says how much went before */
};

#endif
