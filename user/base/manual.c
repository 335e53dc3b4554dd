// SPDX-License-Identifier: Apache-2.0
#include "base/manual.h"

#include <ctype.h>

#define PATTERN_DURATION "^(0|([0-9]+(h|m|s|ms|us|ns))+)$"
#define PATTERN_DECIMAL "^[0-9]+(\\.[0-9]{1,9})?$"
#define PATTERN_REFERENCE "^\\$\\{(file:/[^}]+|cred:[^}/.][^}/]*)\\}$"

static json_t *section_schema(const struct tally_option_table *table);

/* JSON schema ---------------------------------------------------------------------------------- */

static json_t *words_schema(const char *const *words)
{
	json_t *list = json_array();

	for (; list && *words; words++)
		if (json_array_append_new(list, json_string(*words)) < 0)
			return NULL;
	return json_pack("{s:o}", "enum", list);
}

static json_t *count_schema(const struct tally_option *option)
{
	json_t *schema =
		json_pack("{s:s,s:I}", "type", "integer", "minimum", (json_int_t)option->min);

	if (schema && option->max)
		json_object_set_new(schema, "maximum", json_integer((json_int_t)option->max));
	return schema;
}

static json_t *text_schema(const struct tally_option *option)
{
	if (option->flags & TALLY_OPTION_NO_LITERAL)
		return json_pack("{s:s,s:s}", "type", "string", "pattern", PATTERN_REFERENCE);
	if (option->max)
		return json_pack("{s:[s,s,s],s:i,s:I}", "type", "string", "number", "boolean",
				 "minLength", 1, "maxLength", (json_int_t)option->max);
	return json_pack("{s:[s,s,s],s:i}", "type", "string", "number", "boolean", "minLength", 1);
}

static json_t *ports_schema(const struct tally_option *option)
{
	const char *port = "{s:s,s:i,s:i}";
	json_t *one = json_pack(port, "type", "integer", "minimum", 1, "maximum", 65535);
	json_t *item = json_pack(port, "type", "integer", "minimum", 1, "maximum", 65535);

	return json_pack("{s:[{s:s},o,{s:s,s:o,s:i,s:I}]}", "oneOf", "const", "all", one, "type",
			 "array", "items", item, "minItems", 1, "maxItems",
			 (json_int_t)option->max);
}

static json_t *list_schema(const struct tally_option *option)
{
	json_t *schema =
		json_pack("{s:s,s:o,s:I}", "type", "array", "items", section_schema(option->table),
			  "minItems", (json_int_t)option->min);

	if (schema && option->max)
		json_object_set_new(schema, "maxItems", json_integer((json_int_t)option->max));
	return schema;
}

static json_t *value_schema(const struct tally_option *option)
{
	switch (option->type) {
	case TALLY_OPTION_BOOL:
		return json_pack("{s:s}", "type", "boolean");
	case TALLY_OPTION_COUNT:
		return count_schema(option);
	case TALLY_OPTION_DURATION:
		return json_pack("{s:[s,s],s:s,s:i}", "type", "string", "integer", "pattern",
				 PATTERN_DURATION, "maximum", 0);
	case TALLY_OPTION_DECIMAL_TEXT:
		return json_pack("{s:[s,s],s:s,s:i}", "type", "string", "number", "pattern",
				 PATTERN_DECIMAL, "minimum", 0);
	case TALLY_OPTION_ENUM:
		return words_schema(option->words);
	case TALLY_OPTION_TEXT:
		return text_schema(option);
	case TALLY_OPTION_PORTS:
		return ports_schema(option);
	case TALLY_OPTION_SECTION:
		return section_schema(option->table);
	case TALLY_OPTION_LIST:
		return list_schema(option);
	case TALLY_OPTION_TEXTS:
		return json_pack("{s:s,s:{s:[s,s,s]}}", "type", "object", "additionalProperties",
				 "type", "string", "number", "boolean");
	case TALLY_OPTION_BOOLS:
		return json_pack("{s:s,s:{s:s}}", "type", "object", "additionalProperties", "type",
				 "boolean");
	}
	return NULL;
}

static json_t *fallback_value(const struct tally_option *option)
{
	if (option->type == TALLY_OPTION_BOOL)
		return json_boolean(strcmp(option->fallback, "true") == 0);
	if (option->type == TALLY_OPTION_COUNT)
		return json_integer(strtoll(option->fallback, NULL, 10));
	return json_string(option->fallback);
}

static json_t *option_schema(const struct tally_option *option)
{
	json_t *schema = value_schema(option);

	if (schema && option->help)
		json_object_set_new(schema, "description", json_string(option->help));
	if (schema && option->fallback)
		json_object_set_new(schema, "default", fallback_value(option));
	return schema;
}

/* `stdout:` without anything is a section, too. */
static json_t *section_type(const struct tally_option_table *table)
{
	for (size_t i = 0; i < table->n_options; i++)
		if (table->options[i].flags & TALLY_OPTION_REQUIRED)
			return json_string("object");
	return table->one_of ? json_string("object") : json_pack("[s,s]", "object", "null");
}

static int add_one_of(json_t *schema, const struct tally_option_table *table)
{
	json_t *choices = json_array();

	for (size_t i = 0; choices && i < table->n_options; i++)
		if (table->options[i].type == TALLY_OPTION_SECTION)
			json_array_append_new(
				choices, json_pack("{s:[s]}", "required", table->options[i].name));
	return json_object_set_new(schema, "oneOf", choices);
}

static json_t *section_schema(const struct tally_option_table *table)
{
	json_t *properties = json_object(), *required = json_array();
	json_t *schema = json_pack("{s:o,s:b,s:o}", "type", section_type(table),
				   "additionalProperties", 0, "properties", properties);

	for (size_t i = 0; schema && required && i < table->n_options; i++) {
		const struct tally_option *option = &table->options[i];

		if (json_object_set_new(properties, option->name, option_schema(option)) < 0) {
			json_decref(schema);
			schema = NULL;
		} else if (option->flags & TALLY_OPTION_REQUIRED) {
			json_array_append_new(required, json_string(option->name));
		}
	}
	if (schema && json_array_size(required) > 0)
		json_object_set(schema, "required", required);
	json_decref(required);
	if (schema && table->one_of && add_one_of(schema, table) < 0) {
		json_decref(schema);
		return NULL;
	}
	return schema;
}

json_t *tally_manual_schema(const struct tally_option_table *table)
{
	json_t *section = section_schema(table);
	json_t *schema =
		json_pack("{s:s,s:s}", "$schema", "https://json-schema.org/draft/2020-12/schema",
			  "title", table->title);

	if (!section || !schema || json_object_update(schema, section) < 0) {
		json_decref(schema);
		schema = NULL;
	}
	json_decref(section);
	return schema;
}

/* Reference ------------------------------------------------------------------------------------ */

static bool has_table(const struct tally_option *option)
{
	return option->type == TALLY_OPTION_SECTION || option->type == TALLY_OPTION_LIST;
}

static void put_type(const struct tally_option *option, FILE *out)
{
	if (option->type != TALLY_OPTION_ENUM) {
		fputs(tally_option_type_name(option->type), out);
		return;
	}
	for (size_t i = 0; option->words[i]; i++)
		fprintf(out, "%s`%s`", i ? ", " : "", option->words[i]);
}

static void put_row(const struct tally_option *option, FILE *out)
{
	fprintf(out, "| `%s` | ", option->name);
	put_type(option, out);
	if (option->flags & TALLY_OPTION_REQUIRED)
		fputs(" | **required** | ", out);
	else if (option->fallback)
		fprintf(out, " | `%s` | ", option->fallback);
	else
		fputs(" | | ", out);
	for (const char *p = option->help ? option->help : ""; *p; p++)
		fprintf(out, *p == '|' ? "\\|" : "%c", *p);
	fputs(option->flags & TALLY_OPTION_SECRET ? " May be a secret, see above. |\n" : " |\n",
	      out);
}

/* The sections inside of this one, each with its path. */
static void each_below(const struct tally_option_table *table, const char *path, FILE *out,
		       void (*put)(const struct tally_option_table *, const char *, FILE *))
{
	for (size_t i = 0; i < table->n_options; i++) {
		const struct tally_option *option = &table->options[i];
		_cleanup_free_ char *below = NULL;

		if (!has_table(option))
			continue;
		if (asprintf(&below, "%s%s%s%s", path, *path ? "." : "", option->name,
			     option->type == TALLY_OPTION_LIST ? "[]" : "") < 0)
			below = NULL;
		else
			put(option->table, below, out);
	}
}

static void put_section(const struct tally_option_table *table, const char *path, FILE *out)
{
	fprintf(out, "\n### %s\n\n", *path ? path : "The file");
	fputs("| key | value | default | meaning |\n|---|---|---|---|\n", out);
	for (size_t i = 0; i < table->n_options; i++)
		put_row(&table->options[i], out);
	each_below(table, path, out, put_section);
}

void tally_manual_reference(const struct tally_option_table *table, FILE *out)
{
	fprintf(out, "## %s\n\n", table->title);
	fputs("Made by `tallyd check-config --reference`; do not edit.\n\n"
	      "Durations are written `10s`, `500ms` or `1m30s`. Where a value may be a secret, "
	      "`${file:/path}` stands for the content of a file and `${cred:NAME}` for a credential "
	      "of the systemd unit; nowhere else is anything expanded.\n",
	      out);
	put_section(table, "", out);
}

/* Man page ------------------------------------------------------------------------------------- */

/* What has a meaning in scdoc. */
static void put_escaped(char c, FILE *out)
{
	if (strchr("\\*_#[]|:<>", c))
		fputc('\\', out);
	fputc(c, out);
}

void tally_manual_text(const char *markdown, FILE *out)
{
	bool code = false, emphasis = false;

	for (const char *p = markdown; *p; p++) {
		bool toggles = !code && *p == '*' && (emphasis || isalpha((unsigned char)p[1]));

		if (*p == '`') {
			code = !code;
			fputc('*', out);
		} else if (toggles) {
			emphasis = !emphasis;
			fputc('_', out);
		} else {
			put_escaped(*p, out);
		}
	}
}

static void put_page_type(const struct tally_option *option, FILE *out)
{
	if (option->type != TALLY_OPTION_ENUM) {
		fprintf(out, "_%s_", tally_option_type_name(option->type));
		return;
	}
	for (size_t i = 0; option->words[i]; i++)
		fprintf(out, "%s*%s*", i ? ", " : "", option->words[i]);
}

static void put_entry(const struct tally_option *option, FILE *out)
{
	fputc('*', out);
	for (const char *p = option->name; *p; p++)
		put_escaped(*p, out);
	fputs(":* ", out);
	put_page_type(option, out);
	if (option->flags & TALLY_OPTION_REQUIRED)
		fputs(", required", out);
	else if (option->fallback) {
		fputs(", default ", out);
		for (const char *p = option->fallback; *p; p++)
			put_escaped(*p, out);
	}
	fputs("\n\t", out);
	tally_manual_text(option->help ? option->help : "", out);
	fputs(option->flags & TALLY_OPTION_SECRET ? " May be a secret.\n\n" : "\n\n", out);
}

static void put_page_section(const struct tally_option_table *table, const char *path, FILE *out)
{
	fprintf(out, "## %s\n\n", *path ? path : "THE FILE");
	for (size_t i = 0; i < table->n_options; i++)
		put_entry(&table->options[i], out);
	each_below(table, path, out, put_page_section);
}

void tally_manual_page(const struct tally_option_table *table, FILE *out)
{
	put_page_section(table, "", out);
}

void tally_manual_help(const struct tally_option_table *table, unsigned int depth, FILE *out)
{
	for (size_t i = 0; i < table->n_options; i++) {
		const struct tally_option *option = &table->options[i];
		int indent = (int)(2 * depth + 2);

		fprintf(out, "%*s%s%s:", indent, "", option->name,
			option->type == TALLY_OPTION_LIST ? "[]" : "");
		if (option->fallback)
			fprintf(out, " %s", option->fallback);
		else if (!has_table(option))
			fprintf(out, " <%s>", tally_option_type_name(option->type));
		fputs(option->flags & TALLY_OPTION_REQUIRED ? "  (required)\n" : "\n", out);
		if (has_table(option))
			tally_manual_help(option->table, depth + 1, out);
	}
}
