// SPDX-License-Identifier: Apache-2.0
#include "base/secret.h"

bool tally_secret_is_reference(const char *text)
{
	return strstr(text, "${");
}

/* What stands behind "${<kind>:" and before the closing brace, as a new text; NULL: not that. */
static char *argument(const char *reference, const char *prefix)
{
	size_t n = strlen(prefix), len = strlen(reference);

	if (len < n + 2 || strncmp(reference, prefix, n) != 0 ||
	    strchr(reference, '}') != reference + len - 1)
		return NULL;
	return strndup(reference + n, len - n - 1);
}

static int path_of(const char *reference, char **ret_path)
{
	_cleanup_free_ char *path = argument(reference, "${file:");
	_cleanup_free_ char *name = argument(reference, "${cred:");
	const char *dir = getenv("CREDENTIALS_DIRECTORY");

	if (name) {
		if (strchr(name, '/') || name[0] == '.')
			return -EINVAL;
		if (!dir)
			return -ENXIO;
		if (asprintf(&path, "%s/%s", dir, name) < 0)
			return -ENOMEM;
	}
	if (!path || path[0] != '/')
		return -EINVAL;
	*ret_path = TAKE_PTR(path);
	return 0;
}

int tally_secret_read(const char *reference, char **ret_secret)
{
	_cleanup_free_ char *path = NULL;
	char *data = NULL;
	size_t bytes = 0;
	int r = path_of(reference, &path);

	if (r == 0)
		r = tally_util_read_file(path, TALLY_SECRET_MAX, &data, &bytes);
	if (r < 0)
		return r;
	if (bytes > 0 && data[bytes - 1] == '\n')
		data[--bytes] = '\0';
	if (bytes == 0 || strlen(data) != bytes) {
		explicit_bzero(data, bytes);
		free(data);
		return -ENODATA;
	}
	*ret_secret = data;
	return 0;
}
