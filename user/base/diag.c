// SPDX-License-Identifier: Apache-2.0
#include "base/diag.h"

#include <stdarg.h>

void tally_diag_init(struct tally_diag *diag, const char *file)
{
	*diag = (struct tally_diag){};
	diag->file = strdup(file);
	diag->out_of_memory = !diag->file;
}

void tally_diag_done(struct tally_diag *diag)
{
	for (size_t i = 0; i < diag->n_items; i++) {
		free(diag->items[i].path);
		free(diag->items[i].text);
	}
	free(diag->items);
	free(diag->file);
	free(diag->first);
	*diag = (struct tally_diag){};
}

/* A text of the file must not begin lines or move the cursor of a terminal. */
static void make_printable(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < 0x20 || *text == 0x7f)
			*text = '?';
}

static bool add(struct tally_diag *diag, struct tally_diag_item item, const char *path,
		const char *fmt, va_list ap) TALLY_PRINTF(4, 0);
static bool add(struct tally_diag *diag, struct tally_diag_item item, const char *path,
		const char *fmt, va_list ap)
{
	_cleanup_free_ char *text = NULL, *where = strdup(path);
	struct tally_diag_item *items;

	if (vasprintf(&text, fmt, ap) < 0)
		text = NULL;
	items = reallocarray(diag->items, diag->n_items + 1, sizeof(*items));
	if (items)
		diag->items = items;
	if (!text || !where || !items)
		return false;
	make_printable(text);
	make_printable(where);
	item.text = TAKE_PTR(text);
	item.path = TAKE_PTR(where);
	items[diag->n_items++] = item;
	return true;
}

void tally_diag_error(struct tally_diag *diag, struct tally_place place, const char *path,
		      const char *fmt, ...)
{
	va_list ap;

	if (diag->errors++ >= TALLY_DIAG_MAX)
		return;
	va_start(ap, fmt);
	if (!add(diag, (struct tally_diag_item){ .place = place }, path, fmt, ap))
		diag->out_of_memory = true;
	va_end(ap);
}

void tally_diag_warning(struct tally_diag *diag, struct tally_place place, const char *path,
			const char *fmt, ...)
{
	va_list ap;

	if (diag->warnings++ >= TALLY_DIAG_MAX)
		return;
	va_start(ap, fmt);
	if (!add(diag, (struct tally_diag_item){ .place = place, .warning = true }, path, fmt, ap))
		diag->out_of_memory = true;
	va_end(ap);
}

/* Insertion sort: stable, and there are at most 200. */
static void sort(struct tally_diag *diag)
{
	for (size_t i = 1; i < diag->n_items; i++) {
		struct tally_diag_item item = diag->items[i];
		size_t j = i;

		for (; j > 0; j--) {
			struct tally_place *p = &diag->items[j - 1].place;

			if (p->line < item.place.line ||
			    (p->line == item.place.line && p->column <= item.place.column))
				break;
			diag->items[j] = diag->items[j - 1];
		}
		diag->items[j] = item;
	}
}

void tally_diag_print(struct tally_diag *diag, FILE *out)
{
	sort(diag);
	for (size_t i = 0; i < diag->n_items; i++) {
		const struct tally_diag_item *item = &diag->items[i];

		fprintf(out, "%s:", diag->file ? diag->file : "?");
		if (item->place.line)
			fprintf(out, "%u:%u:", item->place.line, item->place.column);
		fprintf(out, " %s%s%s%s\n", item->warning ? "warning: " : "", item->path,
			*item->path ? ": " : "", item->text);
	}
	if (diag->errors > TALLY_DIAG_MAX)
		fprintf(out, "%s: %zu more errors\n", diag->file, diag->errors - TALLY_DIAG_MAX);
	if (diag->warnings > TALLY_DIAG_MAX)
		fprintf(out, "%s: %zu more warnings\n", diag->file,
			diag->warnings - TALLY_DIAG_MAX);
	if (diag->out_of_memory)
		fprintf(out, "%s: out of memory\n", diag->file ? diag->file : "?");
}

const char *tally_diag_first(struct tally_diag *diag)
{
	const struct tally_diag_item *item = diag->items;
	size_t n = diag->n_items;

	sort(diag);
	for (; n > 0 && item->warning; n--)
		item++;
	free(TAKE_PTR(diag->first));
	if (n == 0)
		return diag->out_of_memory ? "out of memory" : "";
	if (asprintf(&diag->first, "%s:%u:%u: %s%s%s", diag->file ? diag->file : "?",
		     item->place.line, item->place.column, item->path, *item->path ? ": " : "",
		     item->text) < 0)
		diag->first = NULL;
	return diag->first ? diag->first : "out of memory";
}
