/* SPDX-License-Identifier: Apache-2.0 */
#include "observe/page.h"

#include <openssl/evp.h>

#include "base/util.h"

/* The file, and a NUL. */
__asm__(".section .rodata\n"
	".global tally_page_text\n"
	"tally_page_text:\n"
	".incbin \"user/observe/page.html\"\n"
	".byte 0\n"
	".previous\n");
extern const char tally_page_text[];

/* 'sha256-<base64>' of what stands between <tag> and </tag>. */
static void hash_of(const char *open, const char *close, char *out, size_t size)
{
	const char *begin = strstr(tally_page_text, open), *end;
	unsigned char digest[32], base64[64];
	unsigned int len = 0;

	out[0] = 0;
	if (!begin)
		return;
	begin += strlen(open);
	end = strstr(begin, close);
	if (!end || !EVP_Digest(begin, end - begin, digest, &len, EVP_sha256(), NULL))
		return;
	(void)EVP_EncodeBlock(base64, digest, (int)len);
	(void)snprintf(out, size, "'sha256-%s'", (const char *)base64);
}

const char *tally_page_html(void)
{
	return tally_page_text;
}

const char *tally_page_policy(void)
{
	static char policy[512];
	char style[128], script[128];

	if (policy[0])
		return policy;
	hash_of("<style>", "</style>", style, sizeof(style));
	hash_of("<script>", "</script>", script, sizeof(script));
	(void)snprintf(policy, sizeof(policy),
		       "default-src 'none'; style-src %s; script-src %s; connect-src 'self'; "
		       "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
		       style, script);
	return policy;
}
