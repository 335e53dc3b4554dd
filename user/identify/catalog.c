// SPDX-License-Identifier: Apache-2.0
#include "identify/catalog.h"

#include <openssl/hmac.h>
#include <openssl/sha.h>
#include <time.h>

#include "base/seeded.h"

#define FILE_MAX (256u << 20)
#define PATH_TEXT 64

struct entry {
	const struct tally_catalog_key *key;
	UT_hash_handle by_sha, by_id;
};

/* What the table of options fills. */
struct content {
	struct tally_place place;
	struct tally_catalog_key *keys;
	size_t n_keys;
};

struct tally_catalog {
	struct content content;
	struct entry *entries;
	struct entry *by_sha, *by_id;
};

static const char *const mode_words[] = { "none", "live", "test", NULL };

#define AT(member) .offset = offsetof(struct tally_catalog_key, member)

static const struct tally_option key_options[] = {
	{ "id", TALLY_OPTION_TEXT, AT(id), TALLY_OPTION_REQUIRED, .max = 256,
	  .help = "Public id of the key; it stands in records." },
	{ "customer", TALLY_OPTION_TEXT, AT(customer), TALLY_OPTION_REQUIRED, .max = 256,
	  .help = "Id of the customer." },
	{ "sha256", TALLY_OPTION_TEXT, AT(sha256_text), TALLY_OPTION_REQUIRED, .max = 4096,
	  .help = "SHA-256 of the key's text, 64 hexadecimal digits." },
	{ "mode", TALLY_OPTION_ENUM, AT(mode), .fallback = "none", .words = mode_words,
	  .help = "Handed on in records." },
	{ "valid_from", TALLY_OPTION_TEXT, AT(valid_from), .max = 64,
	  .help = "Before it the entry does not hold: 2026-01-31, or 2026-01-31T10:00:00Z. A record's window is decided as a whole, by where it begins." },
	{ "valid_to", TALLY_OPTION_TEXT, AT(valid_to), .max = 64,
	  .help = "From then on the entry does not hold any more." },
	{ "billable", TALLY_OPTION_BOOL, AT(billable), .fallback = "true",
	  .help = "false: the key's usage is recorded without units." },
};

static const struct tally_option_table key_table = {
	.title = "Key",
	.options = key_options,
	.n_options = TALLY_ARRAY_SIZE(key_options),
	.bytes = sizeof(struct tally_catalog_key),
	.place = offsetof(struct tally_catalog_key, place),
};

static const struct tally_option content_options[] = {
	{ "keys", TALLY_OPTION_LIST, .offset = offsetof(struct content, keys),
	  TALLY_OPTION_REQUIRED, .max = TALLY_CATALOG_KEYS, .table = &key_table,
	  .help = "One entry a key." },
};

const struct tally_option_table tally_catalog_table = {
	.title = "Key catalog of tallyd",
	.options = content_options,
	.n_options = TALLY_ARRAY_SIZE(content_options),
	.bytes = sizeof(struct content),
	.place = offsetof(struct content, place),
};

void tally_catalog_free(struct tally_catalog *catalog)
{
	if (!catalog)
		return;
	HASH_CLEAR(by_sha, catalog->by_sha);
	HASH_CLEAR(by_id, catalog->by_id);
	free(catalog->entries);
	tally_option_done(&tally_catalog_table, &catalog->content);
	free(catalog);
}

/* Times ---------------------------------------------------------------------------------------- */

/* "Z", "+02:00"; seconds to take off the local time. */
static int parse_offset(const char *text, int64_t *ret_s)
{
	unsigned int h, m;
	int end = 0;

	*ret_s = 0;
	if (strcmp(text, "Z") == 0)
		return 0;
	if ((*text != '+' && *text != '-') || sscanf(text + 1, "%2u:%2u%n", &h, &m, &end) != 2 ||
	    end != 5 || text[6] || h > 23 || m > 59)
		return -EINVAL;
	*ret_s = (int64_t)(h * 3600 + m * 60) * (*text == '-' ? -1 : 1);
	return 0;
}

/* The form, digit by digit: sscanf alone takes signs and blanks. */
static bool has_form(const char *text, const char *form)
{
	for (; *form; form++, text++)
		if (*form == '0' ? *text < '0' || *text > '9' : *text != *form)
			return false;
	return true;
}

/* RFC 3339, or a date alone (midnight UTC). */
static int parse_time(const char *text, int64_t *ret_s)
{
	struct tm tm = {}, back;
	int64_t offset = 0;
	time_t t;
	int r = 0;

	if (!has_form(text, "0000-00-00") ||
	    sscanf(text, "%4d-%2d-%2d", &tm.tm_year, &tm.tm_mon, &tm.tm_mday) != 3)
		return -EINVAL;
	if (text[10]) {
		if (!has_form(text + 10, "T00:00:00") ||
		    sscanf(text + 11, "%2d:%2d:%2d", &tm.tm_hour, &tm.tm_min, &tm.tm_sec) != 3)
			return -EINVAL;
		r = parse_offset(text + 19, &offset);
	}
	tm.tm_year -= 1900;
	tm.tm_mon -= 1;
	back = tm;
	t = timegm(&back); /* puts 31 April right, which is how it is found out */
	if (r < 0 || back.tm_mday != tm.tm_mday || back.tm_mon != tm.tm_mon ||
	    back.tm_hour != tm.tm_hour || back.tm_min != tm.tm_min || back.tm_sec != tm.tm_sec)
		return -EINVAL;
	*ret_s = t - offset;
	return 0;
}

static void check_time(const char *text, const char *name, const struct tally_catalog_key *key,
		       size_t index, struct tally_diag *diag, int64_t *ret_s)
{
	char path[PATH_TEXT];

	if (!text || parse_time(text, ret_s) == 0)
		return;
	snprintf(path, sizeof(path), "keys[%zu].%s", index, name);
	tally_diag_error(diag, key->place, path,
			 "must be a time like 2026-01-31 or 2026-01-31T10:00:00Z");
}

/* Checks --------------------------------------------------------------------------------------- */

static void check_key(struct tally_catalog_key *key, size_t index, struct tally_diag *diag)
{
	char path[PATH_TEXT];

	key->from_s = INT64_MIN;
	key->to_s = INT64_MAX;
	check_time(key->valid_from, "valid_from", key, index, diag, &key->from_s);
	check_time(key->valid_to, "valid_to", key, index, diag, &key->to_s);
	snprintf(path, sizeof(path), "keys[%zu]", index);
	if (key->from_s >= key->to_s)
		tally_diag_error(diag, key->place, path, "valid_to is not after valid_from");
	if (key->id && strncmp(key->id, "kfp_", 4) == 0)
		tally_diag_error(diag, key->place, path,
				 "ids that begin with kfp_ are those of keys without an entry");
	if (key->sha256_text &&
	    tally_util_unhex(key->sha256_text, key->sha256, sizeof(key->sha256)))
		tally_diag_error(
			diag, key->place, path,
			"sha256 must be 64 hexadecimal digits: the hash of the key, not the key");
}

/* An entry that has the same value already, or NULL once this one is in. */
static int index_key(struct tally_catalog *catalog, struct entry *entry, size_t index,
		     struct tally_diag *diag)
{
	const struct tally_catalog_key *key = entry->key;
	struct entry *same = NULL, *other = NULL;
	char path[PATH_TEXT];

	snprintf(path, sizeof(path), "keys[%zu]", index);
	HASH_FIND(by_id, catalog->by_id, key->id, strlen(key->id), same);
	HASH_FIND(by_sha, catalog->by_sha, key->sha256, sizeof(key->sha256), other);
	if (same)
		tally_diag_error(diag, key->place, path, "id \"%.64s\" is taken by line %u",
				 key->id, same->key->place.line);
	if (other)
		tally_diag_error(diag, key->place, path, "sha256 is the one of line %u",
				 other->key->place.line);
	if (same || other)
		return 0;
	HASH_ADD_KEYPTR(by_id, catalog->by_id, key->id, strlen(key->id), entry);
	HASH_ADD_KEYPTR(by_sha, catalog->by_sha, key->sha256, sizeof(key->sha256), entry);
	return entry->by_id.tbl && entry->by_sha.tbl ? 0 : -ENOMEM;
}

/* before: faults of earlier uses of diag. */
static int check(struct tally_catalog *catalog, size_t before, struct tally_diag *diag)
{
	struct content *content = &catalog->content;
	int r = 0;

	for (size_t i = 0; i < content->n_keys; i++)
		check_key(&content->keys[i], i, diag);
	if (diag->out_of_memory)
		return -ENOMEM;
	if (diag->errors > before)
		return -EINVAL;
	catalog->entries = calloc(content->n_keys + 1, sizeof(*catalog->entries));
	if (!catalog->entries)
		return -ENOMEM;
	for (size_t i = 0; r == 0 && i < content->n_keys; i++) {
		catalog->entries[i].key = &content->keys[i];
		r = index_key(catalog, &catalog->entries[i], i, diag);
	}
	return r < 0 ? r : diag->errors > before ? -EINVAL : 0;
}

int tally_catalog_parse(const char *text, size_t bytes, struct tally_diag *diag,
			struct tally_catalog **ret_catalog)
{
	_cleanup_(tally_catalog_freep) struct tally_catalog *catalog = calloc(1, sizeof(*catalog));
	_cleanup_(tally_yaml_freep) struct tally_yaml *root = NULL;
	size_t before = diag->errors;
	int r;

	if (!catalog)
		return -ENOMEM;
	r = seed_hash();
	if (r == 0)
		r = tally_yaml_parse(text, bytes, diag, &root);
	if (r == 0)
		r = tally_option_decode(&tally_catalog_table, root, 0, &catalog->content, diag);
	if (r == 0)
		r = check(catalog, before, diag);
	if (r == 0)
		*ret_catalog = TAKE_PTR(catalog);
	return r;
}

int tally_catalog_load(const char *path, struct tally_diag *diag,
		       struct tally_catalog **ret_catalog)
{
	_cleanup_free_ char *text = NULL;
	size_t bytes = 0;
	int r = tally_util_read_file(path, FILE_MAX, &text, &bytes);

	if (r < 0) {
		tally_diag_error(diag, (struct tally_place){}, "",
				 "the key catalog cannot be read: %s", strerror(-r));
		return r;
	}
	return tally_catalog_parse(text, bytes, diag, ret_catalog);
}

static struct entry *entry_of(const struct tally_catalog *catalog,
			      const uint8_t sha256[TALLY_CATALOG_SHA])
{
	struct entry *entry = NULL;

	if (catalog)
		HASH_FIND(by_sha, catalog->by_sha, sha256, TALLY_CATALOG_SHA, entry);
	return entry;
}

bool tally_catalog_has(const struct tally_catalog *catalog, const uint8_t sha256[TALLY_CATALOG_SHA])
{
	return entry_of(catalog, sha256) != NULL;
}

const struct tally_catalog_key *tally_catalog_find(const struct tally_catalog *catalog,
						   const uint8_t sha256[TALLY_CATALOG_SHA],
						   int64_t time_s)
{
	struct entry *entry = entry_of(catalog, sha256);

	if (!entry || time_s < entry->key->from_s || time_s >= entry->key->to_s)
		return NULL;
	return entry->key;
}

size_t tally_catalog_count(const struct tally_catalog *catalog)
{
	return catalog ? catalog->content.n_keys : 0;
}

/* Ids of keys that are not catalogued ------------------------------------------------------------ */

int tally_catalog_sha256(const void *key, size_t bytes, uint8_t ret_sha256[TALLY_CATALOG_SHA])
{
	return SHA256(key, bytes, ret_sha256) ? 0 : -EIO;
}

/* RFC 4648 6, in lower case: the first n characters. */
static void base32(const unsigned char *data, size_t n, char *out)
{
	static const char digits[] = "abcdefghijklmnopqrstuvwxyz234567";

	for (size_t i = 0; i < n; i++) {
		size_t bit = 5 * i;
		unsigned int two = (unsigned int)data[bit / 8] << 8 | data[bit / 8 + 1];

		out[i] = digits[two >> (11 - bit % 8) & 31];
	}
	out[n] = '\0';
}

int tally_catalog_kfp(const uint8_t sha256[TALLY_CATALOG_SHA], const char *secret,
		      size_t secret_bytes, char ret_id[TALLY_CATALOG_KFP])
{
	unsigned char mac[EVP_MAX_MD_SIZE];

	if (secret_bytes > INT32_MAX ||
	    !HMAC(EVP_sha256(), secret, (int)secret_bytes, sha256, TALLY_CATALOG_SHA, mac, NULL))
		return -EIO;
	memcpy(ret_id, "kfp_", 4);
	base32(mac, 20, ret_id + 4);
	return 0;
}
