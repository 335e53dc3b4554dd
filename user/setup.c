/* SPDX-License-Identifier: Apache-2.0 */
#include "setup.h"

#include "base/diag.h"
#include "base/secret.h"

int tally_setup_load(const char *path, struct tally_config **ret_config,
		     struct tally_catalog **ret_catalog)
{
	struct tally_diag diag;
	int r;

	tally_diag_init(&diag, path);
	r = tally_config_load(path, TALLY_CONFIG_CHECK_ONLY, &diag, ret_config);
	if (r < 0)
		tally_diag_print(&diag, stderr);
	tally_diag_done(&diag);
	if (r < 0 || !(*ret_config)->keys.file)
		return r;
	tally_diag_init(&diag, (*ret_config)->keys.file);
	r = tally_catalog_load((*ret_config)->keys.file, &diag, ret_catalog);
	if (r < 0)
		tally_diag_print(&diag, stderr);
	tally_diag_done(&diag);
	return r;
}

int tally_setup_secret(const struct tally_config *config, char **ret_secret)
{
	const char *fleet = config->agent.fleet_secret;
	_cleanup_free_ char *path = NULL;
	size_t bytes;

	if (fleet && tally_secret_is_reference(fleet))
		return -ENXIO;
	if (fleet) {
		*ret_secret = strdup(fleet);
		return *ret_secret ? 0 : -ENOMEM;
	}
	if (asprintf(&path, "%s/fleet-secret", config->agent.state_dir) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	return tally_util_read_file(path, TALLY_SECRET_MAX, ret_secret, &bytes);
}
