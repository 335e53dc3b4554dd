// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <jansson.h>
#include <sys/stat.h>
#include <time.h>

#define LINE_MAX_BYTES 2048
#define PAIR_END '\x1f' /* stands for the format's blanks while values are put in */

static enum tally_log_level level_max = TALLY_LOG_INFO;
static bool as_json, to_journal;

static const char *level_name(enum tally_log_level level)
{
	switch (level) {
	case TALLY_LOG_ERROR:
		return "error";
	case TALLY_LOG_WARNING:
		return "warning";
	case TALLY_LOG_NOTICE:
		return "notice";
	case TALLY_LOG_INFO:
		return "info";
	case TALLY_LOG_DEBUG:
		return "debug";
	}
	return "?";
}

/* systemd names the journal's socket as DEVICE:INODE. */
static bool stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;

	return stream && sscanf(stream, "%llu:%llu", &dev, &ino) == 2 &&
	       fstat(STDERR_FILENO, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}

void tally_log_setup(enum tally_log_level level, enum tally_log_format format)
{
	level_max = level;
	as_json = format == TALLY_LOG_JSON;
	to_journal = stderr_is_journal();
}

bool tally_log_enabled(enum tally_log_level level)
{
	return level <= level_max;
}

/* Values with blanks, quotes or control characters are quoted; L3. */
static void put_value(FILE *out, const char *value)
{
	const char *p = value;

	for (; *p; p++)
		if ((unsigned char)*p <= 0x20 || *p == '"' || *p == '\\' || *p == 0x7f)
			break;
	if (!*p && *value) {
		fputs(value, out);
		return;
	}
	fputc('"', out);
	for (p = value; *p; p++) {
		unsigned char c = (unsigned char)*p;

		if (c == '"' || c == '\\')
			fprintf(out, "\\%c", c);
		else if (c < 0x20 || c == 0x7f)
			fprintf(out, "\\x%02x", c);
		else
			fputc(c, out);
	}
	fputc('"', out);
}

/* Takes the next `key=value` off the text, which is cut in pieces. false: nothing left. */
static bool next_pair(char **text, char **ret_key, char **ret_value)
{
	char *pair = *text, *end, *equals;

	if (!pair || !*pair)
		return false;
	end = strchr(pair, PAIR_END);
	if (end)
		*end = '\0';
	*text = end ? end + 1 : NULL;
	equals = strchr(pair, '=');
	if (equals)
		*equals = '\0';
	*ret_key = equals ? pair : "text";
	*ret_value = equals ? equals + 1 : pair;
	return true;
}

static void time_text(char *text, size_t bytes)
{
	uint64_t ns = tally_util_real_ns();
	time_t s = (time_t)(ns / TALLY_NS_PER_S);
	struct tm tm;

	gmtime_r(&s, &tm);
	snprintf(text, bytes, "%04d-%02d-%02dT%02d:%02d:%02d.%03uZ", tm.tm_year + 1900,
		 tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
		 (unsigned int)(ns % TALLY_NS_PER_S / 1000000));
}

static void put_text_line(FILE *out, enum tally_log_level level, const char *event, char *pairs)
{
	char *key, *value, when[64];

	if (to_journal) {
		fprintf(out, "<%d>", level);
	} else {
		time_text(when, sizeof(when));
		fprintf(out, "%s ", when);
	}
	fprintf(out, "%s %s", level_name(level), event);
	while (next_pair(&pairs, &key, &value)) {
		fprintf(out, " %s=", key);
		put_value(out, value);
	}
	fputc('\n', out);
}

/* Without memory a member is missing; what remains is still a line. */
static void put_json_value(json_t *line, const char *key, char *value)
{
	if (json_object_set_new(line, key, json_string(value)) == 0)
		return;
	for (char *p = value; *p; p++) /* not UTF-8 */
		if ((unsigned char)*p >= 0x80)
			*p = '?';
	(void)json_object_set_new(line, key, json_string(value));
}

static void put_json_line(FILE *out, enum tally_log_level level, const char *event, char *pairs)
{
	char *key, *value, when[64];
	json_t *line = json_object();

	time_text(when, sizeof(when));
	(void)json_object_set_new(line, "time", json_string(when));
	(void)json_object_set_new(line, "level", json_string(level_name(level)));
	(void)json_object_set_new(line, "event", json_string(event));
	while (next_pair(&pairs, &key, &value))
		put_json_value(line, key, value);
	if (to_journal)
		fprintf(out, "<%d>", level);
	(void)json_dumpf(line, out, JSON_COMPACT);
	fputc('\n', out);
	json_decref(line);
}

/* One write(2) per line, so that lines of several processes do not mix. */
static void put_line(enum tally_log_level level, const char *event, char *pairs)
{
	_cleanup_free_ char *line = NULL;
	size_t bytes = 0;
	FILE *out = open_memstream(&line, &bytes);

	if (!out)
		return;
	if (as_json)
		put_json_line(out, level, event, pairs);
	else
		put_text_line(out, level, event, pairs);
	if (fclose(out) != 0 || tally_util_write_all(STDERR_FILENO, line, bytes) < 0)
		return; /* there is nowhere else to say it */
}

/* The format with its blanks replaced, so that those inside of values can be told from them. */
static void mark_pairs(const char *fmt, char *marked, size_t bytes)
{
	size_t i = 0;

	for (; fmt[i] && i + 1 < bytes; i++)
		marked[i] = fmt[i] == ' ' ? PAIR_END : fmt[i];
	marked[i] = '\0';
}

/* L2. */
static bool may_write(struct tally_log_site *site, uint32_t *ret_swallowed)
{
	uint64_t now = tally_util_mono_ns();

	*ret_swallowed = 0;
	if (!site)
		return true;
	if (now - site->since_ns >= TALLY_LOG_INTERVAL_S * TALLY_NS_PER_S || site->since_ns == 0) {
		*ret_swallowed = site->swallowed;
		*site = (struct tally_log_site){ .since_ns = now };
	}
	if (site->count >= TALLY_LOG_BURST) {
		site->swallowed++;
		return false;
	}
	site->count++;
	return true;
}

void tally_log_write(enum tally_log_level level, struct tally_log_site *site, const char *event,
		     const char *fmt, ...)
{
	char marked[512], pairs[LINE_MAX_BYTES];
	uint32_t swallowed;
	va_list ap;
	int n, saved = errno;

	if (!tally_log_enabled(level) || !may_write(site, &swallowed))
		return;
	mark_pairs(fmt, marked, sizeof(marked));
	va_start(ap, fmt);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	n = vsnprintf(pairs, sizeof(pairs), marked, ap);
#pragma GCC diagnostic pop
	va_end(ap);
	n = n < 0 ? 0 : TALLY_MIN(n, (int)sizeof(pairs) - 1);
	pairs[n] = '\0';
	if (swallowed)
		snprintf(pairs + n, sizeof(pairs) - (size_t)n, "%cswallowed=%u", PAIR_END,
			 swallowed);
	put_line(level, event, pairs);
	errno = saved;
}

void tally_log_foreign(enum tally_log_level level, const char *library, const char *fmt, va_list ap)
{
	char text[1024];
	int n;

	if (!tally_log_enabled(level))
		return;
	n = vsnprintf(text, sizeof(text), fmt, ap);
	n = n < 0 ? 0 : TALLY_MIN(n, (int)sizeof(text) - 1);
	while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' '))
		n--;
	text[n] = '\0';
	for (char *p = text; *p; p++)
		if (*p == PAIR_END)
			*p = '?';
	tally_log_write(level, NULL, library, "text=%s", text);
}
