/* SPDX-License-Identifier: Apache-2.0 */
#include "identify/kubernetes_cgroup.h"

#include <ctype.h>
#include <fnmatch.h>

#define UID_LEN 36
#define HASH_LEN 32

/* 8-4-4-4-12 hex digits, parted by '-' or '_'; or 32 hex digits. Its length, 0: none begins here. */
static size_t uid_at(const char *text, char *ret_uid)
{
	size_t len = strspn(text, "0123456789abcdef");

	if (len == HASH_LEN) {
		(void)snprintf(ret_uid, TALLY_KUBERNETES_UID, "%.*s", HASH_LEN, text);
		return HASH_LEN;
	}
	for (len = 0; len < UID_LEN; len++) {
		bool part = len == 8 || len == 13 || len == 18 || len == 23;

		if (part ? text[len] != '-' && text[len] != '_'
			 : !isdigit((unsigned char)text[len]) &&
				    !(text[len] >= 'a' && text[len] <= 'f'))
			return 0;
		ret_uid[len] = text[len];
		if (part)
			ret_uid[len] = '-';
	}
	ret_uid[UID_LEN] = 0;
	return UID_LEN;
}

/* "pod<UID>" at the begin, or after a '-'. What follows it: nothing, ".slice", ".slice:RUNTIME:ID". */
static bool is_pod(const char *name, char *ret_uid)
{
	char uid[TALLY_KUBERNETES_UID];

	for (const char *at = name; (at = strstr(at, "pod")); at++) {
		size_t len = at == name || at[-1] == '-' ? uid_at(at + 3, uid) : 0;
		const char *rest = at + 3 + len;

		if (!len)
			continue;
		if (!strncmp(rest, ".slice", 6))
			rest += 6;
		if (*rest && (*rest != ':' || strstr(rest, "conmon")))
			return false;
		(void)snprintf(ret_uid, TALLY_KUBERNETES_UID, "%s", uid);
		return true;
	}
	return false;
}

/* Folders that can have pods below them, wherever they stand among each other. */
static bool is_above(const char *name)
{
	static const char *const patterns[] = {
		"kube*",	  "*-kubepods*",	"burstable",	  "besteffort",
		"system.slice",	  "containerd.service", "crio.service",	  "cri-o.service",
		"k3s*.service",	  "rke2*.service",	"k0s*.service",	  "docker",
		"docker-*.scope", "machine.slice",	"libpod-*.scope", "libpod_parent",
	};

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(patterns); i++)
		if (!fnmatch(patterns[i], name, 0))
			return true;
	return strlen(name) == 64 && strspn(name, "0123456789abcdef") == 64; /* docker/<ID> */
}

/* The components before the last one were asked about before: whoever walks stops at OTHER. */
enum tally_kubernetes_folder tally_kubernetes_cgroup_of(const char *path,
							char ret_uid[TALLY_KUBERNETES_UID])
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;

	if (!*name)
		return TALLY_KUBERNETES_ABOVE;
	if (is_pod(name, ret_uid))
		return TALLY_KUBERNETES_POD;
	return is_above(name) ? TALLY_KUBERNETES_ABOVE : TALLY_KUBERNETES_OTHER;
}
