/* SPDX-License-Identifier: Apache-2.0 */
#include "observe/prom.h"

#include <inttypes.h>

void tally_prom_family(FILE *out, const char *name, const char *type, const char *help)
{
	(void)fprintf(out, "# HELP tallyd_%s %s\n# TYPE tallyd_%s %s\n", name, help, name, type);
}

static void put_escaped(FILE *out, const char *text)
{
	for (; *text; text++) {
		if (*text == '\n') {
			(void)fputs("\\n", out);
			continue;
		}
		if (*text == '\\' || *text == '"')
			(void)fputc('\\', out);
		(void)fputc(*text, out);
	}
}

static void put_name(FILE *out, const char *name, const struct tally_prom_label *labels)
{
	(void)fprintf(out, "tallyd_%s", name);
	for (int i = 0; labels && labels[i].name; i++) {
		(void)fprintf(out, "%s%s=\"", i ? "," : "{", labels[i].name);
		put_escaped(out, labels[i].value);
		(void)fputc('"', out);
		if (!labels[i + 1].name)
			(void)fputc('}', out);
	}
}

void tally_prom_sample(FILE *out, const char *name, const struct tally_prom_label *labels,
		       double value)
{
	put_name(out, name, labels);
	(void)fprintf(out, " %.9g\n", value);
}

void tally_prom_count(FILE *out, const char *name, const struct tally_prom_label *labels,
		      uint64_t value)
{
	put_name(out, name, labels);
	(void)fprintf(out, " %" PRIu64 "\n", value);
}
