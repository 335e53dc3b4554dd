/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Secrets stand in files, not in the config: ${file:/path}, or ${cred:NAME} for what systemd gives a
 * unit (LoadCredential=). Such a reference is the whole value. Environment variables are never read:
 * every process of the user can see them.
 */
#ifndef TALLY_BASE_SECRET_H
#define TALLY_BASE_SECRET_H

#include "base/util.h"

#define TALLY_SECRET_MAX 65536

/* Does the text hold a reference, well-formed or not? */
bool tally_secret_is_reference(const char *text);

/*
 * Read what the reference names, without the newline at its end. -EINVAL: not a reference;
 * -ENXIO: ${cred:...} outside of a unit; -ENODATA: empty, or with a NUL; -errno of the file.
 */
TALLY_MUST int tally_secret_read(const char *reference, char **ret_secret);

#endif
