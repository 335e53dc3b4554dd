// SPDX-License-Identifier: Apache-2.0
#include "base/option.h"

#include <ctype.h>
#include <stdarg.h>

#include "base/secret.h"

#define PATH_TEXT 512
#define SUGGEST_MAX 64

struct decoder {
	struct tally_diag *diag;
	unsigned int flags;
	size_t path_len;
	char path[PATH_TEXT];
};

/* A value as read: text and what the YAML said of it. */
struct value {
	const char *text;
	bool plain;
	struct tally_place place;
};

static int decode_section(struct decoder *d, const struct tally_option_table *table,
			  const struct tally_yaml *node, struct tally_place parent, void *out);

/* Adds to the path; returns the length to go back to. A path too long is cut, nothing else. */
static size_t push(struct decoder *d, const char *fmt, ...) TALLY_PRINTF(2, 3);
static size_t push(struct decoder *d, const char *fmt, ...)
{
	size_t before = d->path_len, room = sizeof(d->path) - before;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(d->path + before, room, fmt, ap);
	va_end(ap);
	d->path_len = before + TALLY_MIN((size_t)TALLY_MAX(n, 0), room - 1);
	return before;
}

static void pop(struct decoder *d, size_t before)
{
	d->path_len = before;
	d->path[before] = '\0';
}

static size_t push_name(struct decoder *d, const char *name)
{
	return push(d, "%s%.64s", d->path_len ? "." : "", name);
}

#define fault(d, place, ...) tally_diag_error((d)->diag, place, (d)->path, __VA_ARGS__)

/* Texts to values ------------------------------------------------------------------------------ */

static const struct {
	const char *suffix;
	uint64_t ns;
} duration_units[] = {
	{ "h", 3600 * TALLY_NS_PER_S }, { "ms", 1000000 },	 { "us", 1000 }, { "ns", 1 },
	{ "m", 60 * TALLY_NS_PER_S },	{ "s", TALLY_NS_PER_S },
};

/* The unit that text begins with; "ms" stands before "m". 0: none. */
static uint64_t duration_unit(const char **text)
{
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(duration_units); i++) {
		size_t n = strlen(duration_units[i].suffix);

		if (strncmp(*text, duration_units[i].suffix, n) == 0) {
			*text += n;
			return duration_units[i].ns;
		}
	}
	return 0;
}

int tally_option_duration(const char *text, uint64_t *ret_ns)
{
	uint64_t sum = 0;

	if (strcmp(text, "0") == 0) {
		*ret_ns = 0;
		return 0;
	}
	if (!*text)
		return -EINVAL;
	while (*text) {
		uint64_t n = 0, unit;

		if (!isdigit((unsigned char)*text))
			return -EINVAL;
		for (; isdigit((unsigned char)*text); text++)
			if (__builtin_mul_overflow(n, (uint64_t)10, &n) ||
			    __builtin_add_overflow(n, (uint64_t)(*text - '0'), &n))
				return -ERANGE;
		unit = duration_unit(&text);
		if (!unit)
			return -EINVAL;
		if (__builtin_mul_overflow(n, unit, &n) || __builtin_add_overflow(sum, n, &sum))
			return -ERANGE;
	}
	*ret_ns = sum;
	return 0;
}

int tally_option_decimal(const char *text, uint64_t *ret_value)
{
	uint64_t v = 0, scale = TALLY_OPTION_DECIMAL;
	bool point = false, digit = false;

	for (; *text; text++) {
		if (*text == '.' && !point && digit) {
			point = true;
			digit = false;
			continue;
		}
		if (!isdigit((unsigned char)*text))
			return -EINVAL;
		if (point && scale == 1)
			return -ERANGE;
		if (point)
			scale /= 10;
		digit = true;
		if (__builtin_mul_overflow(v, (uint64_t)10, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*text - '0'), &v))
			return -ERANGE;
	}
	if (!digit)
		return -EINVAL;
	if (__builtin_mul_overflow(v, scale, &v))
		return -ERANGE;
	*ret_value = v;
	return 0;
}

static void duration_text(uint64_t ns, char *text, size_t bytes)
{
	static const char *const suffixes[] = { "h", "m", "s", "ms", "us" };
	static const uint64_t units[] = { 3600 * TALLY_NS_PER_S, 60 * TALLY_NS_PER_S,
					  TALLY_NS_PER_S, 1000000, 1000 };
	size_t i = 0;

	while (i + 1 < TALLY_ARRAY_SIZE(units) && ns % units[i] != 0)
		i++;
	snprintf(text, bytes, "%llu%s", (unsigned long long)(ns / units[i]), suffixes[i]);
}

static void check_range(struct decoder *d, const struct tally_option *option, struct value value,
			uint64_t n)
{
	char min[32], max[32];

	if (n >= option->min && (!option->max || n <= option->max))
		return;
	snprintf(min, sizeof(min), "%llu", (unsigned long long)option->min);
	snprintf(max, sizeof(max), "%llu", (unsigned long long)option->max);
	if (option->type == TALLY_OPTION_DURATION) {
		duration_text(option->min, min, sizeof(min));
		duration_text(option->max, max, sizeof(max));
	}
	if (option->max)
		fault(d, value.place, "must be from %s to %s", min, max);
	else
		fault(d, value.place, "must be at least %s", min);
}

static void decode_number(struct decoder *d, const struct tally_option *option, struct value value,
			  uint64_t *member)
{
	const char *what = "must be a whole number, like 65536";
	uint64_t n = 0;
	int r;

	if (option->type == TALLY_OPTION_DURATION) {
		what = "must be a duration, like 10s, 500ms or 1m30s";
		r = tally_option_duration(value.text, &n);
	} else if (option->type == TALLY_OPTION_DECIMAL_TEXT) {
		what = "must be a decimal number with at most 9 places, like 10 or 0.25";
		r = tally_option_decimal(value.text, &n);
	} else {
		r = tally_util_parse_u64(value.text, UINT64_MAX, &n);
	}
	if (r == -ERANGE)
		fault(d, value.place, "number too large or too exact; it %s", what);
	else if (r < 0)
		fault(d, value.place, "%s", what);
	else
		check_range(d, option, value, n);
	*member = n;
}

static void decode_bool(struct decoder *d, struct value value, bool *member)
{
	*member = strcmp(value.text, "true") == 0;
	if (!value.plain || (!*member && strcmp(value.text, "false") != 0))
		fault(d, value.place, "must be true or false");
}

static void decode_enum(struct decoder *d, const struct tally_option *option, struct value value,
			unsigned int *member)
{
	char list[256] = "";
	const char *near;

	for (unsigned int i = 0; option->words[i]; i++) {
		size_t n = strlen(list);

		if (strcmp(option->words[i], value.text) == 0) {
			*member = i;
			return;
		}
		snprintf(list + n, sizeof(list) - n, "%s%s", n ? ", " : "", option->words[i]);
	}
	near = tally_util_nearest(value.text, option->words);
	fault(d, value.place, "must be one of %s%s%s%s", list, near ? "; did you mean \"" : "",
	      near ? near : "", near ? "\"?" : "");
}

/* Nothing is wrong with what stands here: its file may come. */
static void unread(struct decoder *d, struct value value, int error)
{
	fault(d, value.place, "%.128s: %s", value.text, strerror(-error));
	d->diag->unread++;
}

/*
 * What could not be read, in words that never hold the secret. Of a unit's commands only those that start it
 * see its credentials: the one that reloads it knows their folder, and finds nothing there.
 */
static void secret_fault(struct decoder *d, struct value value, int error)
{
	bool is_file = error != -EINVAL && error != -ENODATA;

	if (is_file && d->flags & TALLY_OPTION_NO_UNIT && !strncmp(value.text, "${cred:", 7))
		tally_diag_warning(d->diag, value.place, d->path,
				   "%.128s is not checked: only a systemd unit has credentials",
				   value.text);
	else if (error == -ENXIO)
		fault(d, value.place,
		      "%.128s: there is no CREDENTIALS_DIRECTORY, which systemd sets for LoadCredential=",
		      value.text);
	else if (error == -EINVAL)
		fault(d, value.place, "a secret is the whole value: ${file:/path} or ${cred:NAME}");
	else if (error == -ENODATA)
		fault(d, value.place, "%.128s: empty, or not a text", value.text);
	else
		unread(d, value, error);
}

/* A new text: of the file it refers to, or itself. -ENOMEM. */
static int decode_secret(struct decoder *d, const struct tally_option *option, struct value value,
			 char **member)
{
	int r = 0;

	if (!tally_secret_is_reference(value.text) && option->flags & TALLY_OPTION_NO_LITERAL)
		fault(d, value.place,
		      "must not stand here itself: write ${file:/path} or ${cred:NAME}");
	else if (tally_secret_is_reference(value.text) &&
		 !(d->flags & TALLY_OPTION_KEEP_REFERENCES))
		r = tally_secret_read(value.text, member);
	if (r == -ENOMEM)
		return r;
	if (r < 0)
		secret_fault(d, value, r);
	if (!*member)
		*member = strdup(value.text);
	return *member ? 0 : -ENOMEM;
}

static int decode_text(struct decoder *d, const struct tally_option *option, struct value value,
		       char **member)
{
	size_t bytes = strlen(value.text);

	if (option->flags & TALLY_OPTION_SECRET)
		return decode_secret(d, option, value, member);
	if (bytes == 0)
		fault(d, value.place, "must not be empty");
	else if (option->max && bytes > option->max)
		fault(d, value.place, "%zu bytes long; at most %llu are possible", bytes,
		      (unsigned long long)option->max);
	else if (tally_secret_is_reference(value.text))
		fault(d, value.place, "${...} is expanded only in secrets");
	*member = strdup(value.text);
	return *member ? 0 : -ENOMEM;
}

static int decode_scalar(struct decoder *d, const struct tally_option *option, struct value value,
			 void *member)
{
	switch (option->type) {
	case TALLY_OPTION_BOOL:
		decode_bool(d, value, member);
		return 0;
	case TALLY_OPTION_ENUM:
		decode_enum(d, option, value, member);
		return 0;
	case TALLY_OPTION_TEXT:
		return decode_text(d, option, value, member);
	default:
		decode_number(d, option, value, member);
		return 0;
	}
}

/* Lists, ports and free mappings --------------------------------------------------------------- */

/* An array and its length lie side by side in the struct; the pointer's type is the section's. */
struct array {
	void *items;
	size_t n;
};

static void store_array(void *member, void *items, size_t n)
{
	struct array array = { items, n };

	memcpy(member, &array, sizeof(array));
}

static struct array load_array(const void *member)
{
	struct array array;

	memcpy(&array, member, sizeof(array));
	return array;
}

static void decode_port(struct decoder *d, const struct tally_yaml *node,
			struct tally_option_ports *ports)
{
	uint64_t port = 0;
	size_t i;

	if (node->kind != TALLY_YAML_SCALAR ||
	    tally_util_parse_u64(node->text, UINT16_MAX, &port) < 0 || port == 0) {
		fault(d, node->place, "must be a port from 1 to 65535, a list of them, or all");
		return;
	}
	for (i = ports->n; i > 0 && ports->list[i - 1] >= port; i--)
		if (ports->list[i - 1] == port)
			return;
	memmove(ports->list + i + 1, ports->list + i, (ports->n - i) * sizeof(*ports->list));
	ports->list[i] = (uint16_t)port;
	ports->n++;
}

static int decode_ports(struct decoder *d, const struct tally_option *option,
			const struct tally_yaml *node, struct tally_option_ports *ports)
{
	size_t n = node->kind == TALLY_YAML_SCALAR ? 1 : node->n_items;

	ports->set = true;
	if (node->kind == TALLY_YAML_SCALAR && strcmp(node->text, "all") == 0) {
		ports->all = true;
		return 0;
	}
	if (node->kind == TALLY_YAML_MAPPING || n == 0 || n > option->max) {
		fault(d, node->place, "must be a port, a list of 1 to %llu ports, or all",
		      (unsigned long long)option->max);
		return 0;
	}
	ports->list = calloc(n, sizeof(*ports->list));
	if (!ports->list)
		return -ENOMEM;
	if (node->kind == TALLY_YAML_SCALAR)
		decode_port(d, node, ports);
	for (size_t i = 0; i < node->n_items; i++)
		decode_port(d, node->items[i], ports);
	return 0;
}

static int decode_list(struct decoder *d, const struct tally_option *option,
		       const struct tally_yaml *node, void *member)
{
	char *items;
	int r = 0;

	if (node->kind != TALLY_YAML_SEQUENCE) {
		fault(d, node->place, "must be a list");
		return 0;
	}
	if (node->n_items < option->min || (option->max && node->n_items > option->max)) {
		fault(d, node->place, "%zu entries; from %llu to %llu are possible", node->n_items,
		      (unsigned long long)option->min, (unsigned long long)option->max);
		return 0;
	}
	items = calloc(node->n_items + 1, option->table->bytes);
	if (!items)
		return -ENOMEM;
	store_array(member, items, node->n_items);
	for (size_t i = 0; r == 0 && i < node->n_items; i++) {
		size_t before = push(d, "[%zu]", i);

		r = decode_section(d, option->table, node->items[i], node->items[i]->place,
				   items + i * option->table->bytes);
		pop(d, before);
	}
	return r;
}

static bool ends_like(const char *name, const char *const *ends)
{
	size_t bytes = strlen(name);

	for (; ends && *ends; ends++) {
		size_t n = strlen(*ends);

		if (n <= bytes && strcmp(name + bytes - n, *ends) == 0)
			return true;
	}
	return false;
}

static void fault_kind(struct decoder *d, const struct tally_yaml *node)
{
	fault(d, node->place,
	      node->kind == TALLY_YAML_MAPPING ? "must be a single value, not a mapping"
					       : "must be a single value, not a list");
}

static int decode_pair(struct decoder *d, const struct tally_option *option,
		       const struct tally_yaml *key, const struct tally_yaml *node,
		       struct tally_option_pair *pair)
{
	struct value value = { node->text, node->plain, node->place };

	pair->place = key->place;
	pair->name = strdup(key->text);
	if (!pair->name)
		return -ENOMEM;
	if (node->kind != TALLY_YAML_SCALAR) {
		fault_kind(d, node);
		return 0;
	}
	if (ends_like(key->text, option->words) && !tally_secret_is_reference(node->text))
		tally_diag_warning(
			d->diag, node->place, d->path,
			"a secret stands here itself, where whoever reads this file sees it: write ${file:/path} or ${cred:NAME}");
	if (option->type == TALLY_OPTION_TEXTS)
		return decode_text(d, option, value, &pair->value);
	decode_bool(d, value, &pair->flag);
	return 0;
}

static int decode_pairs(struct decoder *d, const struct tally_option *option,
			const struct tally_yaml *node, void *member)
{
	struct tally_option_pair *pairs;
	int r = 0;

	if (node->kind != TALLY_YAML_MAPPING) {
		fault(d, node->place, "must be a mapping");
		return 0;
	}
	pairs = calloc(node->n_items / 2 + 1, sizeof(*pairs));
	if (!pairs)
		return -ENOMEM;
	store_array(member, pairs, node->n_items / 2);
	for (size_t i = 0; r == 0 && i < node->n_items / 2; i++) {
		const struct tally_yaml *key = node->items[2 * i];
		size_t before = push_name(d, key->text);

		r = decode_pair(d, option, key, node->items[2 * i + 1], &pairs[i]);
		pop(d, before);
	}
	return r;
}

/* Sections ------------------------------------------------------------------------------------- */

static int decode_fallback(struct decoder *d, const struct tally_option *option,
			   struct tally_place place, void *member)
{
	struct value value = { option->fallback, true, place };

	if (option->flags & TALLY_OPTION_REQUIRED)
		fault(d, place, "missing");
	else if (option->type == TALLY_OPTION_SECTION && !(option->flags & TALLY_OPTION_OPTIONAL))
		return decode_section(d, option->table, NULL, place, member);
	if (!option->fallback)
		return 0;
	return decode_scalar(d, option, value, member);
}

static int decode_option(struct decoder *d, const struct tally_option *option,
			 const struct tally_yaml *node, struct tally_place parent, void *member)
{
	struct value value;

	if (!node)
		return decode_fallback(d, option, parent, member);
	switch (option->type) {
	case TALLY_OPTION_SECTION:
		return decode_section(d, option->table, node, node->place, member);
	case TALLY_OPTION_LIST:
		return decode_list(d, option, node, member);
	case TALLY_OPTION_TEXTS:
	case TALLY_OPTION_BOOLS:
		return decode_pairs(d, option, node, member);
	case TALLY_OPTION_PORTS:
		return decode_ports(d, option, node, member);
	default:
		break;
	}
	if (node->kind != TALLY_YAML_SCALAR) {
		fault_kind(d, node);
		return 0;
	}
	value = (struct value){ node->text, node->plain, node->place };
	return decode_scalar(d, option, value, member);
}

static bool known_key(const struct tally_option_table *table, const char *name)
{
	for (size_t i = 0; i < table->n_options; i++)
		if (strcmp(table->options[i].name, name) == 0)
			return true;
	return false;
}

/* The section of this table that knows the key, or NULL. */
static const char *section_of(const struct tally_option_table *table, const char *key)
{
	for (size_t i = 0; i < table->n_options; i++) {
		const struct tally_option *option = &table->options[i];

		if (option->type == TALLY_OPTION_SECTION && known_key(option->table, key))
			return option->name;
	}
	return NULL;
}

static void unknown_key(struct decoder *d, const struct tally_option_table *table,
			const struct tally_yaml *key)
{
	const char *words[SUGGEST_MAX + 1] = { NULL }, *near,
					*section = section_of(table, key->text);
	size_t before = push_name(d, key->text);

	for (size_t i = 0; i < table->n_options && i < SUGGEST_MAX; i++)
		words[i] = table->options[i].name;
	near = tally_util_nearest(key->text, words);
	if (section)
		fault(d, key->place, "unknown key; did you mean \"%s: {%s: ...}\"?", section,
		      key->text);
	else if (near)
		fault(d, key->place, "unknown key; did you mean \"%s\"?", near);
	else
		fault(d, key->place, "unknown key");
	pop(d, before);
}

/* An entry like `stdout:` has the empty text for a value: a mapping without keys. */
static bool is_empty(const struct tally_yaml *node)
{
	return node->kind == TALLY_YAML_SCALAR && node->plain &&
	       (!*node->text || strcmp(node->text, "null") == 0 || strcmp(node->text, "~") == 0);
}

static void check_one_of(struct decoder *d, const struct tally_option_table *table,
			 const struct tally_yaml *node, struct tally_place place)
{
	char list[128] = "";
	unsigned int found = 0;

	for (size_t i = 0; i < table->n_options; i++) {
		size_t n = strlen(list);

		if (table->options[i].type != TALLY_OPTION_SECTION)
			continue;
		found += node && tally_yaml_get(node, table->options[i].name);
		snprintf(list + n, sizeof(list) - n, "%s%s", n ? ", " : "", table->options[i].name);
	}
	if (found != 1)
		fault(d, place, "must have exactly one of %s", list);
}

static int decode_section(struct decoder *d, const struct tally_option_table *table,
			  const struct tally_yaml *node, struct tally_place parent, void *out)
{
	int r = 0;

	if (node && table->place != TALLY_OPTION_NO_PLACE)
		memcpy((char *)out + table->place, &node->place, sizeof(node->place));
	if (node && is_empty(node))
		node = NULL;
	if (node && node->kind != TALLY_YAML_MAPPING) {
		fault(d, node->place, "must be a mapping");
		return 0;
	}
	for (size_t i = 0; node && i + 1 < node->n_items; i += 2)
		if (!known_key(table, node->items[i]->text))
			unknown_key(d, table, node->items[i]);
	if (table->one_of)
		check_one_of(d, table, node, parent);
	for (size_t i = 0; r == 0 && i < table->n_options; i++) {
		const struct tally_option *option = &table->options[i];
		size_t before = push_name(d, option->name);

		r = decode_option(d, option, node ? tally_yaml_get(node, option->name) : NULL,
				  parent, (char *)out + option->offset);
		pop(d, before);
	}
	return r;
}

int tally_option_decode(const struct tally_option_table *table, const struct tally_yaml *node,
			unsigned int flags, void *out, struct tally_diag *diag)
{
	struct decoder d = { .diag = diag, .flags = flags };

	return decode_section(&d, table, node, node ? node->place : (struct tally_place){}, out);
}

/* Freeing -------------------------------------------------------------------------------------- */

static void free_list(const struct tally_option_table *table, struct array array)
{
	for (size_t i = 0; i < array.n; i++)
		tally_option_done(table, (char *)array.items + i * table->bytes);
	free(array.items);
}

static void free_pairs(struct array array)
{
	struct tally_option_pair *pairs = array.items;

	for (size_t i = 0; i < array.n; i++) {
		free(pairs[i].name);
		tally_util_wipe_free(pairs[i].value);
	}
	free(pairs);
}

static void free_member(const struct tally_option *option, void *member)
{
	switch (option->type) {
	case TALLY_OPTION_TEXT:
		tally_util_wipe_free(*(char **)member);
		break;
	case TALLY_OPTION_PORTS:
		free(((struct tally_option_ports *)member)->list);
		break;
	case TALLY_OPTION_SECTION:
		tally_option_done(option->table, member);
		break;
	case TALLY_OPTION_LIST:
		free_list(option->table, load_array(member));
		break;
	case TALLY_OPTION_TEXTS:
	case TALLY_OPTION_BOOLS:
		free_pairs(load_array(member));
		break;
	default:
		break;
	}
}

void tally_option_done(const struct tally_option_table *table, void *out)
{
	for (size_t i = 0; i < table->n_options; i++)
		free_member(&table->options[i], (char *)out + table->options[i].offset);
	memset(out, 0, table->bytes);
}

/* Comparing ------------------------------------------------------------------------------------ */

static bool same_text(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

static bool same_pairs(struct array a, struct array b)
{
	const struct tally_option_pair *x = a.items, *y = b.items;
	size_t i = 0;

	while (a.n == b.n && i < a.n && same_text(x[i].name, y[i].name) &&
	       same_text(x[i].value, y[i].value) && x[i].flag == y[i].flag)
		i++;
	return a.n == b.n && i == a.n;
}

static bool same_list(const struct tally_option_table *table, struct array a, struct array b)
{
	for (size_t i = 0; a.n == b.n && i < a.n; i++)
		if (!tally_option_equal(table, (char *)a.items + i * table->bytes,
					(char *)b.items + i * table->bytes))
			return false;
	return a.n == b.n;
}

static bool same_ports(const struct tally_option_ports *a, const struct tally_option_ports *b)
{
	return a->set == b->set && a->all == b->all && a->n == b->n &&
	       (!a->n || memcmp(a->list, b->list, a->n * sizeof(*a->list)) == 0);
}

/* A section that is left out is another than one with all defaults. */
static bool is_there(const struct tally_option_table *table, const void *section)
{
	const struct tally_place *place;

	if (table->place == TALLY_OPTION_NO_PLACE)
		return true;
	place = (const void *)((const char *)section + table->place);
	return place->line != 0;
}

static bool same_member(const struct tally_option *option, const void *a, const void *b)
{
	switch (option->type) {
	case TALLY_OPTION_BOOL:
		return *(const bool *)a == *(const bool *)b;
	case TALLY_OPTION_COUNT:
	case TALLY_OPTION_DURATION:
	case TALLY_OPTION_DECIMAL_TEXT:
		return *(const uint64_t *)a == *(const uint64_t *)b;
	case TALLY_OPTION_ENUM:
		return *(const unsigned int *)a == *(const unsigned int *)b;
	case TALLY_OPTION_TEXT:
		return same_text(*(char *const *)a, *(char *const *)b);
	case TALLY_OPTION_PORTS:
		return same_ports(a, b);
	case TALLY_OPTION_SECTION:
		return (!(option->flags & TALLY_OPTION_OPTIONAL) ||
			is_there(option->table, a) == is_there(option->table, b)) &&
		       tally_option_equal(option->table, a, b);
	case TALLY_OPTION_LIST:
		return same_list(option->table, load_array(a), load_array(b));
	case TALLY_OPTION_TEXTS:
	case TALLY_OPTION_BOOLS:
		return same_pairs(load_array(a), load_array(b));
	}
	return false;
}

bool tally_option_equal(const struct tally_option_table *table, const void *a, const void *b)
{
	for (size_t i = 0; i < table->n_options; i++) {
		size_t offset = table->options[i].offset;

		if (!same_member(&table->options[i], (const char *)a + offset,
				 (const char *)b + offset))
			return false;
	}
	return true;
}

const char *tally_option_type_name(enum tally_option_type type)
{
	static const char *const names[] = {
		[TALLY_OPTION_BOOL] = "true or false",
		[TALLY_OPTION_COUNT] = "number",
		[TALLY_OPTION_DURATION] = "duration",
		[TALLY_OPTION_DECIMAL_TEXT] = "decimal",
		[TALLY_OPTION_ENUM] = "word",
		[TALLY_OPTION_TEXT] = "text",
		[TALLY_OPTION_PORTS] = "ports or all",
		[TALLY_OPTION_SECTION] = "section",
		[TALLY_OPTION_LIST] = "list",
		[TALLY_OPTION_TEXTS] = "texts by name",
		[TALLY_OPTION_BOOLS] = "true or false, by name",
	};

	return names[type];
}
