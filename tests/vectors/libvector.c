/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/vectors/libvector.h"

#include <ctype.h>
#include <glob.h>
#include <stdarg.h>

#include "base/config.h"
#include "identify/rules.h"

#define FILE_MAX (4u << 20)

/* Where parsing stands. Faults end the program: a vector that cannot be read proves nothing. */
struct reader {
	const char *file;
	unsigned int line;
	char *at, *end;
};

static void __attribute__((noreturn, format(printf, 2, 3)))
fault(const struct reader *r, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "%s:%u: ", r->file, r->line);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(2);
}

static void *must(void *p)
{
	if (!p)
		abort();
	return p;
}

/* The next line without its LF, terminated; NULL at the end. */
static char *next_line(struct reader *r)
{
	char *line = r->at, *lf;

	if (r->at >= r->end)
		return NULL;
	lf = memchr(line, '\n', (size_t)(r->end - line));
	r->at = lf ? lf + 1 : r->end;
	if (lf)
		*lf = 0;
	r->line++;
	return line;
}

/* Octets of steps ------------------------------------------------------------------------------- */

struct octets {
	uint8_t *data;
	size_t len, room;
};

static void put(struct octets *o, const void *data, size_t n)
{
	if (o->len + n > o->room) {
		o->room = 2 * (o->len + n) + 64;
		o->data = must(realloc(o->data, o->room));
	}
	memcpy(o->data + o->len, data, n);
	o->len += n;
}

static void put_octet(struct octets *o, int c)
{
	uint8_t octet = (uint8_t)c;

	put(o, &octet, 1);
}

static const char *put_escape(struct reader *r, struct octets *o, const char *p);

/* "{TEXT*N}" stands at p; TEXT may hold escapes. Returns what follows it. */
static const char *put_repeated(struct reader *r, struct octets *o, const char *p)
{
	const char *close = strchr(p, '}'),
		   *star = close ? memrchr(p, '*', (size_t)(close - p)) : NULL;
	struct octets text = { 0 };

	if (!star)
		fault(r, "\\{TEXT*N} is not closed");
	for (p++; p < star;) {
		if (*p == '\\')
			p = put_escape(r, &text, p + 1);
		else
			put_octet(&text, *p++);
	}
	for (unsigned long n = strtoul(star + 1, NULL, 10); n; n--)
		put(o, text.data, text.len);
	free(text.data);
	return close + 1;
}

/* One escape; p stands behind the backslash. */
static const char *put_escape(struct reader *r, struct octets *o, const char *p)
{
	static const char letters[] = "r\rn\nt\t\\\\";
	const char *letter = strchr(letters, *p);
	uint8_t octet;
	char hex[3];

	if (*p == '0') {
		put_octet(o, 0);
		return p + 1;
	}
	if (*p == '{')
		return put_repeated(r, o, p);
	if (*p == 'x') {
		hex[0] = p[1];
		hex[1] = p[1] ? p[2] : 0;
		hex[2] = 0;
		if (tally_util_unhex(hex, &octet, 1))
			fault(r, "\\x wants two hex digits");
		put_octet(o, octet);
		return p + 3;
	}
	if (!*p || !letter || (letter - letters) % 2)
		fault(r, "unknown escape \\%c", *p);
	put_octet(o, letter[1]);
	return p + 1;
}

static void put_line(struct reader *r, struct octets *o, const char *p)
{
	while (*p) {
		if (*p != '\\') {
			put_octet(o, *p++);
			continue;
		}
		if (!*++p)
			return; /* no CR LF */
		p = put_escape(r, o, p);
	}
	put(o, "\r\n", 2);
}

/* Steps and settings ---------------------------------------------------------------------------- */

static enum vector_dir dir_of(struct reader *r, const char *word)
{
	if (word && !strcmp(word, "client"))
		return VECTOR_CLIENT;
	if (!word || strcmp(word, "server"))
		fault(r, "client or server is missing");
	return VECTOR_SERVER;
}

static void step_option(struct reader *r, struct vector_step *s, const char *word)
{
	if (!strcmp(word, "noack"))
		s->noack = true;
	else if (!strcmp(word, "urgent"))
		s->urgent = true;
	else if (!strncmp(word, "tail=", 5) && !tally_util_parse_u64(word + 5, 1000000, &s->tail))
		return;
	else if (!strncmp(word, "back=", 5) && !tally_util_parse_u64(word + 5, 1000000, &s->ahead))
		s->ahead = -s->ahead;
	else if (strncmp(word, "ahead=", 6) || tally_util_parse_u64(word + 6, 1000000, &s->ahead))
		fault(r, "unknown word %s", word);
}

static void step_words(struct reader *r, struct vector_step *s, char *words)
{
	char *save = NULL, *kind = strtok_r(words, " ", &save), *more = strtok_r(NULL, " ", &save);

	if (!strcmp(kind, "client") || !strcmp(kind, "server")) {
		s->kind = VECTOR_DATA;
		s->dir = dir_of(r, kind);
		if (more)
			step_option(r, s, more);
	} else if (!strcmp(kind, "huge")) {
		s->kind = VECTOR_HUGE;
		s->dir = dir_of(r, more);
		more = strtok_r(NULL, " ", &save);
		if (!more || tally_util_parse_u64(more, UINT64_MAX, &s->len))
			fault(r, "huge wants a number");
	} else if (!strcmp(kind, "lost")) {
		s->kind = VECTOR_LOST;
		s->dir = dir_of(r, more);
	} else if (!strcmp(kind, "decoy")) {
		s->kind = VECTOR_DECOY;
		s->dir = VECTOR_CLIENT;
		if (more)
			step_option(r, s, more);
	} else if (!strcmp(kind, "rest")) {
		s->kind = VECTOR_REST;
		s->dir = VECTOR_CLIENT;
	} else if (!strcmp(kind, "fin")) {
		s->kind = VECTOR_FIN;
		s->dir = dir_of(r, more);
	} else if (!strcmp(kind, "window")) {
		s->kind = VECTOR_WINDOW;
		s->dir = VECTOR_SERVER;
	} else {
		fault(r, "unknown step %s", kind);
	}
}

static void caps_of(struct reader *r, struct vector *v, const char *name, const char *value)
{
	uint64_t n;

	if (tally_util_parse_u64(value, UINT32_MAX, &n))
		fault(r, "@%s wants a number", name);
	if (!strcmp(name, "candidates"))
		v->caps.candidates = (uint32_t)n;
	else if (!strcmp(name, "dictionary"))
		v->caps.dictionary = (uint32_t)n;
	else if (!strcmp(name, "pieces"))
		v->caps.pieces = (uint32_t)n;
	else if (!strcmp(name, "guesses"))
		v->caps.guesses = (uint32_t)n;
	else
		fault(r, "unknown setting @%s", name);
}

static void setting(struct reader *r, struct vector *v, char *line)
{
	char *value = strchr(line, ' ');

	if (value)
		*value++ = 0;
	if (!strcmp(line, "midstream")) {
		v->midstream = true;
		return;
	}
	if (!value)
		fault(r, "@%s wants a value", line);
	if (!strcmp(line, "config")) {
		free(v->config);
		v->config = must(strdup(value));
	} else if (!strcmp(line, "whole")) {
		v->whole = true;
	} else if (!strcmp(line, "native")) {
		v->native = true;
	} else if (!strcmp(line, "known")) {
		if (v->n_known == VECTOR_KNOWN)
			fault(r, "too many @known");
		v->known[v->n_known++] = must(strdup(value));
	} else {
		caps_of(r, v, line, value);
	}
}

static bool ends_text(const struct reader *r)
{
	size_t left = (size_t)(r->end - r->at);

	return !left || (left >= 4 && (!memcmp(r->at, "--- ", 4) || !memcmp(r->at, "=== ", 4)));
}

static void read_step(struct reader *r, struct vector *v, char *words)
{
	struct vector_step *s = &v->steps[v->n_steps++];
	struct octets o = { 0 };

	if (v->n_steps == VECTOR_STEPS)
		fault(r, "too many steps");
	step_words(r, s, words);
	while (!ends_text(r))
		put_line(r, &o, next_line(r));
	if (s->kind == VECTOR_HUGE || s->kind == VECTOR_FIN || s->kind == VECTOR_REST ||
	    s->kind == VECTOR_WINDOW) {
		free(o.data);
		return;
	}
	if (!o.len)
		fault(r, "a step without octets");
	s->data = o.data;
	s->len = o.len;
}

static void read_expect(struct reader *r, struct vector *v)
{
	struct octets o = { 0 };
	char *line;

	while (!ends_text(r)) {
		line = next_line(r);
		if (!*line || *line == '#')
			continue;
		put(&o, line, strlen(line));
		put(&o, "\n", 1);
	}
	put(&o, "", 1);
	v->expect = (char *)o.data;
}

static struct vector *read_vector(struct reader *r, const char *title)
{
	struct vector *v = must(calloc(1, sizeof(*v)));
	char *line;

	v->file = r->file;
	v->line = r->line;
	v->title = must(strdup(title));
	v->config = must(strdup("default"));
	while (!v->expect) {
		line = next_line(r);
		if (!line || !strncmp(line, "=== ", 4))
			fault(r, "\"%s\" expects nothing", v->title);
		if (!*line || *line == '#')
			continue;
		if (*line == '@')
			setting(r, v, line + 1);
		else if (!strcmp(line, "--- expect"))
			read_expect(r, v);
		else if (!strncmp(line, "--- ", 4))
			read_step(r, v, line + 4);
		else
			fault(r, "text outside of a step: %s", line);
	}
	return v;
}

static void read_file(struct vector_list *list, const char *name)
{
	struct reader r = { .file = name };
	_cleanup_free_ char *text = NULL;
	size_t bytes = 0;
	char *line;

	if (tally_util_read_file(name, FILE_MAX, &text, &bytes))
		fault(&r, "cannot be read");
	r.at = text;
	r.end = text + bytes;
	while ((line = next_line(&r))) {
		if (!*line || *line == '#')
			continue;
		if (strncmp(line, "=== ", 4))
			fault(&r, "text outside of a vector");
		list->items = must(reallocarray(list->items, list->n + 1, sizeof(struct vector *)));
		list->items[list->n++] = read_vector(&r, line + 4);
	}
}

void vector_load(const char *folder, struct vector_list *ret_list)
{
	struct vector_list list = { 0 };
	char pattern[4096];
	glob_t g = { 0 };

	snprintf(pattern, sizeof(pattern), "%s/*.http", folder);
	if (glob(pattern, 0, NULL, &g)) {
		fprintf(stderr, "%s: no vectors\n", pattern);
		exit(2);
	}
	list.names = must(calloc(g.gl_pathc, sizeof(char *)));
	for (size_t i = 0; i < g.gl_pathc; i++) {
		list.names[i] = must(strdup(g.gl_pathv[i]));
		read_file(&list, list.names[i]);
	}
	list.n_names = g.gl_pathc;
	globfree(&g);
	*ret_list = list;
}

static void vector_free(struct vector *v)
{
	for (size_t i = 0; i < v->n_steps; i++)
		free(v->steps[i].data);
	for (size_t i = 0; i < v->n_known; i++)
		free(v->known[i]);
	free(v->title);
	free(v->config);
	free(v->expect);
	free(v);
}

void vector_list_done(struct vector_list *list)
{
	for (size_t i = 0; i < list->n; i++)
		vector_free(list->items[i]);
	for (size_t i = 0; i < list->n_names; i++)
		free(list->names[i]);
	free(list->items);
	free(list->names);
	*list = (struct vector_list){ 0 };
}

uint64_t vector_octets(const struct vector *v, enum vector_dir dir)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < v->n_steps; i++)
		if (v->steps[i].dir == dir && v->steps[i].kind != VECTOR_DECOY)
			sum += v->steps[i].len;
	return sum;
}

/* Rules ----------------------------------------------------------------------------------------- */

static struct vector_rules *all_rules;

static struct vector_rules *rules_load(const char *path)
{
	static const struct tally_rules_target target = { .generation = 1,
							  .service = 0,
							  .secret = { 0x0123456789abcdefULL,
								      0xfedcba9876543210ULL } };
	struct vector_rules *v = must(calloc(1, sizeof(*v)));
	_cleanup_(tally_config_freep) struct tally_config *config = NULL;
	_cleanup_free_ char *json = NULL;
	struct tally_diag diag;

	tally_diag_init(&diag, path);
	v->rules = must(calloc(1, sizeof(*v->rules)));
	if (tally_config_load(path, TALLY_CONFIG_NO_SECRETS, &diag, &config) ||
	    tally_rules_check(config, &diag) ||
	    tally_rules_compile(&config->services[0], &target, v->rules) ||
	    tally_rules_dump(config, NULL, &json) ||
	    tally_ruleset_load(json, strlen(json), &v->view)) {
		tally_diag_print(&diag, stderr);
		exit(2);
	}
	tally_diag_done(&diag);
	return v;
}

const struct vector_rules *vector_rules(const char *folder, const char *name)
{
	struct vector_rules *v;
	char path[4096];

	for (v = all_rules; v; v = v->next)
		if (!strcmp(v->name, name))
			return v;
	snprintf(path, sizeof(path), "%s/%s.yaml", folder, name);
	v = rules_load(path);
	v->name = must(strdup(name));
	v->next = all_rules;
	all_rules = v;
	return v;
}

void vector_rules_done(void)
{
	while (all_rules) {
		struct vector_rules *v = all_rules;

		all_rules = v->next;
		tally_ruleset_free(v->view);
		free(v->rules);
		free(v->name);
		free(v);
	}
}

/* Outcomes as text ------------------------------------------------------------------------------ */

#define TEXT_ITEM(symbol, value, text) [value] = text,
static const char *const attributions[] = { TALLY_ATTRIBUTIONS(TEXT_ITEM) };
static const char *const details[] = { TALLY_DETAILS(TEXT_ITEM) };
static const char *const unparsed[] = { TALLY_UNPARSED(TEXT_ITEM) };
static const char *const protocols[] = { TALLY_PROTOCOLS(TEXT_ITEM) };
static const char *const gaps[] = { TALLY_GAPS(TEXT_ITEM) };

/* One row of the common form. */
struct line {
	char who[TALLY_KEY_MAX + 64];
	char method[16], route[256], detail[64], proto[32];
	uint64_t status, requests, incomplete, request_bytes, response_bytes;
};

static void print_row(FILE *out, const struct line *l)
{
	fprintf(out, "%s %s %s %ju x%ju req=%ju resp=%ju", l->who, l->method, l->route, l->status,
		l->requests, l->request_bytes, l->response_bytes);
	if (l->incomplete)
		fprintf(out, " incomplete=%ju", l->incomplete);
	if (*l->detail)
		fprintf(out, " detail=%s", l->detail);
	if (strcmp(l->proto, "http/1.1"))
		fprintf(out, " proto=%s", l->proto);
	fputc('\n', out);
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The lines of text, sorted. Takes text. */
static char *sorted(char *text)
{
	char *lines[4096], *save = NULL, *result = NULL;
	size_t n = 0, bytes = 0;
	FILE *out = must(open_memstream(&result, &bytes));

	for (char *l = strtok_r(text, "\n", &save); l && n < 4096; l = strtok_r(NULL, "\n", &save))
		lines[n++] = l;
	qsort(lines, n, sizeof(lines[0]), by_text);
	for (size_t i = 0; i < n; i++)
		fprintf(out, "%s\n", lines[i]);
	fclose(out);
	free(text);
	return result;
}

/* Printable octets as they are; others as \xHH; runs of one octet as {c*N}. */
static void key_text(char *to, size_t room, const uint8_t *text, size_t bytes)
{
	size_t at = 0;

	for (size_t i = 0; i < bytes && at + 32 < room;) {
		size_t run = 1;

		while (i + run < bytes && text[i + run] == text[i])
			run++;
		if (run >= 16)
			at += (size_t)snprintf(to + at, room - at, "{%c*%zu}", text[i], run);
		else if (isgraph(text[i]))
			to[at++] = (char)text[i];
		else
			at += (size_t)snprintf(to + at, room - at, "\\x%02x", text[i]);
		i += run >= 16 ? run : 1;
	}
	to[at] = 0;
}

char *vector_learned(const void *const *texts, const size_t *bytes, size_t n)
{
	char *words[256], *text = NULL;
	size_t len = 0;
	FILE *out = must(open_memstream(&text, &len));

	for (size_t i = 0; i < n && i < TALLY_ARRAY_SIZE(words); i++) {
		words[i] = must(malloc(TALLY_KEY_MAX + 64));
		key_text(words[i], TALLY_KEY_MAX + 64, texts[i], bytes[i]);
	}
	qsort(words, TALLY_MIN(n, TALLY_ARRAY_SIZE(words)), sizeof(words[0]), by_text);
	fputs("learned", out);
	for (size_t i = 0; i < n && i < TALLY_ARRAY_SIZE(words); i++) {
		fprintf(out, " %s", words[i]);
		free(words[i]);
	}
	fclose(out);
	return text;
}

static void line_of(const struct vector_rules *rules, const struct vector_outcome *o,
		    const struct tally_meter_entry *e, struct line *l)
{
	const struct tally_ruleset_query q = { e->key.service, e->key.route, e->key.status,
					       e->key.method, e->key.attribution };
	struct tally_ruleset_terms terms;
	const void *text = NULL;
	size_t bytes = 0;

	memset(l, 0, sizeof(*l));
	snprintf(l->who, sizeof(l->who), "%s",
		 e->key.attribution < TALLY_ATTR_COUNT ? attributions[e->key.attribution] : "?");
	if (e->key.attribution == TALLY_ATTR_KEY) {
		text = o->key(o->ctx, e->key.key, &bytes);
		strcat(l->who, ":");
		key_text(l->who + 4, sizeof(l->who) - 4, text ? text : (const void *)"(unknown)",
			 text ? bytes : 9);
	}
	if (tally_ruleset_terms(rules->view, &q, &terms)) {
		strcpy(l->method, "?");
		strcpy(l->route, "?");
	} else {
		snprintf(l->method, sizeof(l->method), "%s",
			 !strcmp(terms.method, "_other") ? "-" : terms.method);
		snprintf(l->route, sizeof(l->route), "%s",
			 !strcmp(terms.route, "_other") ? "-" : terms.route);
	}
	strcpy(l->detail, e->key.detail < TALLY_DETAIL_COUNT ? details[e->key.detail] : "?");
	strcpy(l->proto, e->key.protocol < TALLY_PROTO_COUNT ? protocols[e->key.protocol] : "?");
	l->status = e->key.status;
	l->requests = e->row.requests;
	l->incomplete = e->row.incomplete;
	l->request_bytes = e->row.request_bytes;
	l->response_bytes = e->row.response_bytes;
}

char *vector_actual(const struct vector_rules *rules, const struct vector_outcome *outcome)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *out = must(open_memstream(&text, &bytes));
	struct line *l = must(malloc(sizeof(*l)));

	for (size_t i = 0; i < outcome->n_rows; i++) {
		line_of(rules, outcome, outcome->rows[i], l);
		print_row(out, l);
	}
	free(l);
	for (int dir = 0; dir < 2; dir++)
		for (size_t i = 0; i < TALLY_UNPARSED_COUNT; i++)
			if (outcome->totals->unparsed_bytes[dir][i])
				fprintf(out, "unparsed %s %s %llu\n", dir ? "server" : "client",
					unparsed[i], outcome->totals->unparsed_bytes[dir][i]);
	fclose(out);
	return sorted(text);
}

/* "c1+s2-10" */
static uint64_t expression(const struct reader *r, const struct vector *v, const char *p)
{
	uint64_t sum = 0;
	int sign = 1;

	while (*p) {
		char *end;
		uint64_t n;
		int dir = *p == 'c' ? VECTOR_CLIENT : *p == 's' ? VECTOR_SERVER : -1;

		n = strtoull(p + (dir >= 0), &end, 10);
		if (end == p + (dir >= 0))
			fault(r, "bad expression at %s", p);
		if (dir >= 0) {
			uint64_t nth = n;

			n = UINT64_MAX;
			for (size_t i = 0; i < v->n_steps && nth; i++)
				if ((int)v->steps[i].dir == dir &&
				    v->steps[i].kind != VECTOR_DECOY &&
				    v->steps[i].kind != VECTOR_REST &&
				    v->steps[i].kind != VECTOR_FIN &&
				    v->steps[i].kind != VECTOR_WINDOW && !--nth)
					n = v->steps[i].len;
			if (n == UINT64_MAX)
				fault(r, "no such step: %s", p);
		}
		sum += sign > 0 ? n : -n;
		sign = *end == '-' ? -1 : 1;
		if (*end && *end != '+' && *end != '-')
			fault(r, "bad expression at %s", end);
		p = *end ? end + 1 : end;
	}
	return sum;
}

static const char *value_of(const char *word, const char *name)
{
	size_t n = strlen(name);

	return !strncmp(word, name, n) ? word + n : NULL;
}

static void expected_word(const struct reader *r, const struct vector *v, struct line *l,
			  const char *w)
{
	const char *x;

	if (*w == 'x')
		l->requests = expression(r, v, w + 1);
	else if ((x = value_of(w, "req=")))
		l->request_bytes = expression(r, v, x);
	else if ((x = value_of(w, "resp=")))
		l->response_bytes = expression(r, v, x);
	else if ((x = value_of(w, "incomplete=")))
		l->incomplete = expression(r, v, x);
	else if ((x = value_of(w, "detail=")))
		snprintf(l->detail, sizeof(l->detail), "%s", x);
	else if ((x = value_of(w, "proto=")))
		snprintf(l->proto, sizeof(l->proto), "%s", x);
	else
		fault(r, "unknown word %s", w);
}

static void expected_row(const struct reader *r, const struct vector *v, char *text, FILE *out)
{
	struct line *l = must(calloc(1, sizeof(*l)));
	char *save = NULL, *w[4];

	for (int i = 0; i < 4; i++) {
		w[i] = strtok_r(i ? NULL : text, " ", &save);
		if (!w[i])
			fault(r, "a row wants WHO METHOD ROUTE STATUS");
	}
	snprintf(l->who, sizeof(l->who), "%s", w[0]);
	snprintf(l->method, sizeof(l->method), "%s", w[1]);
	snprintf(l->route, sizeof(l->route), "%s", w[2]);
	l->status = expression(r, v, w[3]);
	strcpy(l->proto, "http/1.1");
	for (char *x = strtok_r(NULL, " ", &save); x; x = strtok_r(NULL, " ", &save))
		expected_word(r, v, l, x);
	print_row(out, l);
	free(l);
}

static void expected_unparsed(const struct reader *r, const struct vector *v, char *text, FILE *out)
{
	char *save = NULL, *dir, *reason, *n;

	(void)strtok_r(text, " ", &save);
	dir = strtok_r(NULL, " ", &save);
	reason = strtok_r(NULL, " ", &save);
	n = strtok_r(NULL, " ", &save);
	if (!n)
		fault(r, "unparsed wants client or server, a reason, and a number");
	fprintf(out, "unparsed %s %s %ju\n", dir, reason, (uintmax_t)expression(r, v, n));
}

char *vector_expected(const struct vector *v)
{
	const struct reader r = { .file = v->file, .line = v->line };
	char *text = must(strdup(v->expect)), *save = NULL, *result = NULL;
	size_t bytes = 0;
	FILE *out = must(open_memstream(&result, &bytes));

	for (char *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
		if (!strncmp(l, "gap ", 4) || !strncmp(l, "learned", 7))
			continue;
		if (!strncmp(l, "unparsed ", 9))
			expected_unparsed(&r, v, l, out);
		else
			expected_row(&r, v, l, out);
	}
	free(text);
	fclose(out);
	return sorted(result);
}

static int check_gap(const struct reader *r, const struct tally_totals *totals, const char *line,
		     FILE *out)
{
	unsigned long long n;
	char name[64];

	if (sscanf(line, "gap %63s %llu", name, &n) != 2)
		fault(r, "gap wants a reason and a number");
	for (size_t i = 0; i < TALLY_GAP_COUNT; i++) {
		if (strcmp(gaps[i], name))
			continue;
		if (tally_totals_gap(totals, i) == n)
			return 0;
		fprintf(out, "gap %s: expected %llu, found %llu\n", name, n,
			tally_totals_gap(totals, i));
		return 1;
	}
	fault(r, "no gap is called %s", name);
}

int vector_check_asserted(const struct vector *v, const struct tally_totals *totals,
			  const char *learned, FILE *out)
{
	const struct reader r = { .file = v->file, .line = v->line };
	char *text = must(strdup(v->expect)), *save = NULL;
	int bad = 0;

	for (char *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
		if (!strncmp(l, "gap ", 4))
			bad += check_gap(&r, totals, l, out);
		if (!strncmp(l, "learned", 7) && learned && strcmp(l, learned)) {
			fprintf(out, "expected \"%s\", found \"%s\"\n", l, learned);
			bad++;
		}
	}
	free(text);
	return bad;
}
