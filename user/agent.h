/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent: closes the kernel's books window by window, seals them, ships them. The only place that
 * knows everybody; agent_parts.h says how it is divided.
 */
#ifndef TALLY_AGENT_H
#define TALLY_AGENT_H

/* Until SIGTERM or SIGINT. The exit code. */
int tally_agent_run(const char *config_path);

/*
 * Take the meter out of the kernel: detach, close the last window, seal and ship it while the grace
 * lasts, remove all pins. Refused while an agent runs. With mistakes in the file, or secrets that only a
 * unit has, nothing is shipped: the spool keeps it. The exit code.
 */
int tally_agent_detach(const char *config_path);

#endif
