/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ADDRESS:PORT as a person writes it: an IPv4 address, an IPv6 address in brackets, or localhost. Names
 * are not looked up: where one listens must not depend on who answers.
 */
#ifndef TALLY_BASE_LISTEN_H
#define TALLY_BASE_LISTEN_H

#include <sys/socket.h>

#include "base/util.h"

/* -EINVAL, -ERANGE: not that. */
TALLY_MUST int tally_listen_parse(const char *text, struct sockaddr_storage *ret_address);

#endif
