/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine against other parsers, on streams made by a grammar and changed by chance.
 *
 *	diff [-s SEED] [-t SECONDS] [-n STREAMS] [-v] [-1]	(-1: only the stream of this seed, shown)
 *
 * What must hold, message by message, for as long as nobody has an objection:
 *
 *	E1 the same messages end at the same octets, with the same method, version and status;
 *	E2 a request that the engine does not doubt has the key that its header fields give;
 *	E3 on a clean stream nobody objects.
 *
 * Where one objects, the comparison ends, and the objection must be explained. The engine objects by a
 * taint, or gives up; then the oddity that the taint names must be in the octets (predicates.h), whatever
 * the other one says. Where the engine has no doubts and the other one objects:
 *
 *	start line, and		R4: the engine takes any token as a method and any octets as a target, and
 *	method, target		lets the server answer; odd versions taint
 *	header name		a line that does not matter is skipped whole, whatever it holds
 *	line ends		bare LF is accepted (case 7), as nginx and Go do
 *	TAB behind it		white space of either kind is no part of a value (R5)
 *	longer name		http-parser takes Transfer-EncodingX for the shorter name, and refuses it
 *	head not complete	the engine decides about framing at the end of the head
 *	trailer			trailers neither attribute nor frame (case 18)
 *	chunk extension		ignored, whatever it holds (case 15)
 *	chunk, lax		white space behind a chunk size: framed alike by whoever takes it
 *	head too large		there is no limit on heads (R6)
 *	response		R2: the operator's own server is trusted, and read leniently
 *	HTTP/0.9		case 20: one request, and nothing may follow
 *
 * After a close or an upgrade the other parser stops: what follows is decided by the responses (R4).
 *
 * Anything else is *unexplained* and fails, with the stream and both readings.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/config.h"
#include "identify/rules.h"
#include "tests/diff/generate.h"
#include "tests/diff/predicates.h"

#define CLASSES 64
#define STOP_AT 20 /* unexplained differences */
#define SHOWN 5	   /* of them, with their octets */

struct count {
	char what[64];
	unsigned long n;
};

struct run {
	struct tally_rules rules;
	bool llhttp, verbose;
	unsigned long streams, octets, messages[2], unexplained;
	struct count classes[CLASSES];
	size_t n_classes;
};

#define TEXT(symbol, value, text) [value] = (text),
static const char *const details[] = { TALLY_DETAILS(TEXT) };

static void count(struct run *run, const char *who, const char *what, const char *more)
{
	char text[64];
	size_t i = 0;

	(void)snprintf(text, sizeof(text), "%-11s %s%s", who, what, more); /* cut is fine */
	while (i < run->n_classes && strcmp(run->classes[i].what, text))
		i++;
	if (i == CLASSES)
		abort();
	if (i == run->n_classes)
		memcpy(run->classes[run->n_classes++].what, text, sizeof(text));
	run->classes[i].n++;
}

/* Explanations ---------------------------------------------------------------------------------- */

struct comparison {
	const struct stream *s;
	const struct reading *engine, *other;
	size_t at;	  /* message that they differ in */
	bool in_body;	  /* the other one objects behind the head */
	bool no_head;	  /* ... or before it has the head */
	bool engine_head; /* the engine has it */
	struct odd odd;
};

static bool in(const char *word, const char *list)
{
	char text[64];

	(void)snprintf(text, sizeof(text), " %s ", word);
	return strstr(list, text) != NULL;
}

/* The engine objects, at this message or before its head was complete. */
static bool engine_explained(const struct comparison *c, uint8_t taint)
{
	const struct odd *o = &c->odd;

	switch (taint) {
	case TALLY_DETAIL_AMBIGUOUS_KEY:
		return o->key || o->fold;
	case TALLY_DETAIL_AMBIGUOUS_LENGTH:
	case TALLY_DETAIL_BAD_LENGTH:
		return o->length || o->known_name || o->fold || o->control;
	case TALLY_DETAIL_BAD_CODING:
		return o->coding || o->fold || o->control;
	case TALLY_DETAIL_BAD_CHUNK:
		return o->chunk;
	case TALLY_DETAIL_BAD_HEADER:
		return o->control || o->known_name || o->chunk;
	case TALLY_DETAIL_BAD_START:
	case TALLY_DETAIL_RESPONSE:
		return o->start;
	case TALLY_DETAIL_FOLDED:
		return o->fold || o->chunk;
	default:
		return false;
	}
}

/* Does the line that the other one objects to have a `;` before that octet? */
static bool in_extension(const struct comparison *c)
{
	const uint8_t *end = c->s->data + c->other->error_at,
		      *line = memrchr(c->s->data, '\n', c->other->error_at);

	return line && memchr(line, ';', (size_t)(end - line));
}

/* The other one objects, and the engine has no doubts. NULL: unexplained. */
static const char *other_explained(const struct comparison *c)
{
	const char *e = c->other->error;
	const struct odd *o = &c->odd;

	if (in(e, " HPE_HEADER_OVERFLOW "))
		return "head too large";
	if (c->s->response)
		return "response";
	if (c->in_body && in(e, " HPE_INVALID_CONTENT_LENGTH HPE_UNEXPECTED_CONTENT_LENGTH "
				" HPE_INVALID_TRANSFER_ENCODING HPE_INVALID_HEADER_TOKEN "))
		return "trailer";
	if (o->longer && in(e, " HPE_UNEXPECTED_CONTENT_LENGTH HPE_INVALID_TRANSFER_ENCODING "))
		return "longer name";
	if (in(e, " HPE_INVALID_CONTENT_LENGTH HPE_INVALID_TRANSFER_ENCODING "))
		return !c->engine_head ? "head not complete" : o->tab ? "TAB behind it" : NULL;
	if (c->in_body && in_extension(c))
		return "chunk extension";
	if (c->in_body)
		return o->chunk_lax ? NULL : "chunk, lax";
	if (in(e, " HPE_INVALID_METHOD HPE_INVALID_URL HPE_INVALID_CONSTANT HPE_INVALID_VERSION "))
		return o->start ? "start line" : c->no_head ? "method, target" : NULL;
	if (!c->engine_head)
		return "head not complete";
	if (o->known_name)
		return NULL;
	if (o->bare_lf || o->control)
		return "line ends";
	return in(e, " HPE_INVALID_HEADER_TOKEN ") && (o->name || o->fold) ? "header name" : NULL;
}

/* Comparing ------------------------------------------------------------------------------------- */

static size_t begin_of(const struct reading *r, size_t i)
{
	return i ? r->m[i - 1].end : 0;
}

static bool same_head(const struct message *a, const struct message *b)
{
	return a->head_end == b->head_end && a->status == b->status && a->minor == b->minor &&
	       a->major == b->major && (!*a->method || !strcmp(a->method, b->method)) &&
	       a->has_key == b->has_key && (!a->has_key || a->key_hash == b->key_hash);
}

/* How many messages are whole and the same in both, without doubts. */
static size_t common(const struct reading *engine, const struct reading *other)
{
	size_t i = 0;

	while (i < engine->n && i < other->n && !engine->m[i].taint && engine->m[i].end &&
	       engine->m[i].end == other->m[i].end && same_head(&engine->m[i], &other->m[i]))
		i++;
	return i;
}

static bool is_odd(const struct odd *o)
{
	return o->start || o->fold || o->control || o->bare_lf || o->known_name || o->length ||
	       o->coding || o->name || o->chunk;
}

/* NULL: unexplained; "": they agree to the end. *ret_who objects. */
static const char *explain(struct comparison *c, const char **ret_who)
{
	const struct reading *e = c->engine, *o = c->other;
	const struct message *em = c->at < e->n ? &e->m[c->at] : NULL;
	const struct message *om = c->at < o->n ? &o->m[c->at] : NULL;
	uint8_t taint = em ? em->taint ? em->taint : em->end ? 0 : e->taint : e->taint;
	size_t begin = begin_of(e, c->at), head = em ? em->head_end : om ? om->head_end : c->s->len;
	bool objects = *o->error && !(om && om->end);
	bool doubts = taint || (e->bad && !(em && (em->end || em->minor == 9)));

	predicates(c->s->data + begin, head - begin, c->s->len - begin, c->s->response, &c->odd);
	c->in_body = om != NULL && o->error_at >= om->head_end;
	c->no_head = !om;
	c->engine_head = em != NULL;
	*ret_who = !doubts ? "objects: " : objects ? "and engine: " : "but engine: ";
	if (objects && in(o->error, " upgraded HPE_CLOSED_CONNECTION HPE_PAUSED_UPGRADE "))
		return "";
	if (em && om && em->status == 101 && same_head(em, om)) /* case 27: octets, no message */
		return "";
	if (em && om && em->status / 100 == 1 && same_head(em, om) && em->end && !om->end)
		return "response"; /* RFC 9112 6.3: 1xx has no body, whatever its fields say */
	if (em && em->minor == 9 && c->odd.start)
		return "HTTP/0.9";
	if (doubts && !c->s->response)
		return engine_explained(c, taint) ? details[taint] : NULL;
	if (doubts)
		return is_odd(&c->odd) ? "response" : NULL;
	if (objects)
		return other_explained(c);
	if (!em && !om)
		return "";
	*ret_who = "differs: ";
	if (em && om && same_head(em, om) && !em->end && !om->end)
		return "";
	if (c->odd.tab && em && om && same_head(em, om))
		return "TAB behind it";
	return c->s->response && is_odd(&c->odd) ? "response" : NULL;
}

static void show_octets(const struct stream *s, size_t from)
{
	for (size_t i = from; i < s->len; i++) {
		uint8_t c = s->data[i];

		if (c == '\n')
			printf("\\n\n");
		else if (c == '\r')
			printf("\\r");
		else if (c < ' ' || c > '~' || c == '\\')
			printf("\\x%02x", c);
		else
			putchar(c);
	}
	putchar('\n');
}

static void show_reading(const char *who, const struct reading *r)
{
	printf("%s:\n", who);
	for (size_t i = 0; i < r->n; i++) {
		const struct message *m = &r->m[i];

		printf("  head to %zu, end at %zu: %s %u, HTTP/%u.%u, key %s %016" PRIx64 "%s%s\n",
		       m->head_end, m->end, m->method, m->status, m->major, m->minor,
		       m->has_key ? "yes" : "no", m->key_hash, m->taint ? ", tainted: " : "",
		       details[m->taint]);
	}
	printf("  %s%s%s %zu\n", r->bad ? "gave up " : "", details[r->taint], r->error,
	       r->error_at);
}

static void compare(struct run *run, const struct generated *g, uint64_t seed, const char *who,
		    const struct reading *engine, const struct reading *other)
{
	struct comparison c = { .s = &g->stream, .engine = engine, .other = other };
	const char *why, *what = "";

	c.at = common(engine, other);
	run->messages[g->stream.response] += c.at;
	why = c.at == MESSAGES ? "" : explain(&c, &what);
	if (why && !*why)
		return;
	if (why && !g->clean) {
		count(run, who, what, why);
		return;
	}
	run->unexplained++;
	printf("FAIL seed %" PRIu64 " (%s): message %zu, %s (%s) against the engine (%s%s)%s\n",
	       seed, g->stream.response ? "responses" : "requests", c.at, who, other->error,
	       engine->bad ? "gave up " : "", details[engine->taint],
	       g->clean ? "; the stream is clean" : "");
	if (run->unexplained > SHOWN)
		return;
	show_octets(&g->stream, begin_of(engine, c.at));
	show_reading("engine", engine);
	show_reading(who, other);
}

static void one(struct run *run, uint64_t seed)
{
	struct generated *g = malloc(sizeof(*g));
	struct reading engine, other;

	if (!g)
		abort();
	generate(seed, seed & 1, g);
	read_engine(&g->stream, &run->rules, seed, &engine);
	if (run->verbose) {
		show_octets(&g->stream, 0);
		show_reading("engine", &engine);
	}
	read_http_parser(&g->stream, &run->rules, &other);
	compare(run, g, seed, "http-parser", &engine, &other);
	if (run->verbose)
		show_reading("http-parser", &other);
	if (run->llhttp) {
		if (read_llhttp(&g->stream, &run->rules, &other)) {
			printf("FAIL llhttp's process ended\n");
			exit(1);
		}
		compare(run, g, seed, "llhttp", &engine, &other);
		if (run->verbose)
			show_reading("llhttp", &other);
	}
	run->streams++;
	run->octets += g->stream.len;
	free(g);
}

/* Running --------------------------------------------------------------------------------------- */

static void load_rules(struct tally_rules *rules)
{
	static const struct tally_rules_target target = { .generation = 1, .secret = { 7, 9 } };
	_cleanup_(tally_config_freep) struct tally_config *config = NULL;
	struct tally_diag diag;

	tally_diag_init(&diag, "tests/vectors/default.yaml");
	if (tally_config_load("tests/vectors/default.yaml", TALLY_CONFIG_NO_SECRETS, &diag,
			      &config) ||
	    tally_rules_check(config, &diag) ||
	    tally_rules_compile(&config->services[0], &target, rules)) {
		tally_diag_print(&diag, stderr);
		exit(2);
	}
	tally_diag_done(&diag);
}

static int report(const struct run *run)
{
	printf("%lu streams, %lu octets; the same in two parsers: %lu requests, %lu responses\n",
	       run->streams, run->octets, run->messages[0], run->messages[1]);
	for (size_t i = 0; i < run->n_classes; i++)
		printf("  %8lu  %s\n", run->classes[i].n, run->classes[i].what);
	printf("%lu unexplained\n", run->unexplained);
	printf("%u passed, %u failed, 0 skipped\n", !run->unexplained + run->llhttp,
	       run->unexplained != 0);
	return run->unexplained || !run->messages[0] || !run->messages[1];
}

int main(int argc, char **argv)
{
	uint64_t seed = (uint64_t)time(NULL) * 1000003, seconds = 30, most = UINT64_MAX;
	struct run *run = calloc(1, sizeof(*run));
	char version[64] = "";
	uint64_t start;
	int c;

	if (!run)
		abort();
	while ((c = getopt(argc, argv, "s:t:n:v1")) != -1) {
		if (c == 'v' || c == '1')
			run->verbose = true;
		if (c == '1')
			most = 1;
		if ((c == 's' && tally_util_parse_u64(optarg, UINT64_MAX, &seed)) ||
		    (c == 't' && tally_util_parse_u64(optarg, 100000, &seconds)) ||
		    (c == 'n' && tally_util_parse_u64(optarg, UINT64_MAX, &most)) || c == '?')
			return 64;
	}
	load_rules(&run->rules);
	run->llhttp = !llhttp_start(version, sizeof(version));
	printf("seed %" PRIu64 ", http-parser, llhttp %s\n", seed, run->llhttp ? version : "-");
	if (!run->llhttp)
		printf("FAIL llhttp: node does not start\n");
	start = tally_util_mono_ns();
	for (uint64_t i = 0; i < most && run->unexplained < STOP_AT; i++) {
		one(run, seed + i);
		if (tally_util_mono_ns() - start > seconds * TALLY_NS_PER_S)
			break;
	}
	llhttp_stop();
	c = report(run) || !run->llhttp;
	free(run);
	return c;
}
