/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The spool by hand. All but declare-lost only read, and work beside a running agent, which makes and removes
 * files meanwhile. A spool can be larger than memory: one file is held at a time.
 */
#include <jansson.h>
#include <stdarg.h>

#include "account/batch.h"
#include "account/json.h"
#include "base/text.h"
#include "cli.h"
#include "deliver/spool.h"

#define NAME_MAX_BYTES 160

static const char *state_dir = "/var/lib/tallyd", *output;

#define BATCHES "batches"

static const char *const folders[] = { BATCHES, "sealed", TALLY_QUARANTINE };

/* A file of the spool; what stands below `bytes` is known between load() and file_done(). */
struct file {
	const char *folder;
	char name[NAME_MAX_BYTES];
	__u64 bytes;
	int error; /* 0, -EBADMSG, ... */
	char agent[TALLY_AGENT_ID + 1];
	struct tally_batch *batch;  /* or */
	struct tally_sealed sealed; /* with windows > 0 */
};

struct files {
	struct tally_fs fs;
	bool is_open;
	struct file *items;
	size_t n;
	const char *folder;
};

static void file_done(struct file *file)
{
	tally_batch_free(file->batch);
	file->batch = NULL;
	tally_sealed_done(&file->sealed);
	tally_sealed_init(&file->sealed);
}

static void files_done(struct files *files)
{
	if (files->is_open)
		files->fs.free(files->fs.ctx);
	free(files->items);
}

static const struct tally_sealed *rows_of(const struct file *file)
{
	return file->batch ? &file->batch->sealed : &file->sealed;
}

static int add_name(void *arg, const char *name, __u64 size)
{
	struct files *files = arg;
	struct file *items;

	if (strlen(name) >= NAME_MAX_BYTES || tally_fs_is_tmp(name))
		return 0;
	items = realloc(files->items, (files->n + 1) * sizeof(*items));
	if (!items)
		return -ENOMEM;
	files->items = items;
	items[files->n] = (struct file){ .folder = files->folder, .bytes = size };
	(void)snprintf(items[files->n++].name, NAME_MAX_BYTES, "%s", name); /* measured */
	return 0;
}

static int compare_files(const void *a, const void *b)
{
	const struct file *x = a, *y = b;
	int r = strcmp(x->folder, y->folder);

	return r ? r : strverscmp(x->name, y->name);
}

static int decode(struct file *file, const struct tally_buf *buf)
{
	struct tally_reader reader;
	int r;

	r = tally_frame_get(buf->data, buf->len, TALLY_FRAME_SEALED, NULL, file->agent, &reader);
	if (r == 0)
		return tally_sealed_decode(&reader, &file->sealed);
	r = tally_frame_get(buf->data, buf->len, TALLY_FRAME_BATCH, NULL, file->agent, &reader);
	if (r == 0)
		r = tally_batch_decode(&reader, file->agent, &file->batch);
	return r < 0 ? r : tally_batch_verify(file->batch);
}

static void load(const struct tally_fs *fs, struct file *file)
{
	_cleanup_(tally_buf_done) struct tally_buf buf = { 0 };

	file->error = fs->read(fs->ctx, file->folder, file->name, &buf);
	if (file->error == 0)
		file->error = decode(file, &buf);
}

/* Opening for reading must not make a state directory where there is none. */
static int open_fs(struct tally_fs *ret_fs)
{
	int r = access(state_dir, R_OK | X_OK) < 0 ? -errno : tally_fs_open(state_dir, ret_fs);

	return r < 0 ? tally_cli_fail(TALLY_EXIT_IO, "%s: %s", state_dir, strerror(-r)) : 0;
}

/* The names, in the order they are shown and looked for. */
static int list_files(struct files *files)
{
	int r = 0, code = 0, found = 0;

	code = open_fs(&files->fs);
	if (code)
		return code;
	files->is_open = true;
	for (size_t i = 0; r == 0 && i < TALLY_ARRAY_SIZE(folders); i++) {
		files->folder = folders[i];
		r = files->fs.list(files->fs.ctx, folders[i], add_name, files);
		found += r != -ENOENT;
		r = r == -ENOENT ? 0 : r;
	}
	if (!found)
		return tally_cli_fail(TALLY_EXIT_IO,
				      "%s: no spool: none of batches/, sealed/, quarantine/",
				      state_dir);
	if (files->n)
		qsort(files->items, files->n, sizeof(*files->items), compare_files);
	return r < 0 ? tally_cli_fail(TALLY_EXIT_IO, "%s: %s", state_dir, strerror(-r)) : 0;
}

static const char *judgement(const struct file *file)
{
	if (file->error == 0)
		return "ok";
	return file->error == -EBADMSG ? "damaged" : strerror(-file->error);
}

static json_t *file_json(const struct file *file)
{
	const struct tally_sealed *rows = rows_of(file);
	char name[3 * NAME_MAX_BYTES];

	return json_pack("{s:s,s:s,s:I,s:s,s:s,s:I,s:I,s:I,s:I,s:I}", "folder", file->folder,
			 "file", tally_text_clean(file->name, name, sizeof(name)), "bytes",
			 (json_int_t)file->bytes, "state", judgement(file), "agent", file->agent,
			 "epoch_first", (json_int_t)rows->epoch_first, "epoch_last",
			 (json_int_t)rows->epoch_last, "window", (json_int_t)rows->number,
			 "records", (json_int_t)rows->n_rows, "batch",
			 (json_int_t)(file->batch ? file->batch->head.number : 0));
}

static void print_json(struct files *files)
{
	json_t *list = json_array();

	for (size_t i = 0; i < files->n; i++) {
		load(&files->fs, &files->items[i]);
		json_array_append_new(list, file_json(&files->items[i]));
		file_done(&files->items[i]);
	}
	json_dumpf(list, stdout, JSON_INDENT(1));
	puts("");
	json_decref(list);
}

static void print_file(const struct file *file)
{
	char from[TALLY_JSON_TIME] = "", name[3 * NAME_MAX_BYTES];

	if (rows_of(file)->start_s)
		tally_json_time(rows_of(file)->start_s, from);
	printf("%-10s  %-44s %10llu %8zu  %-20s %s\n", file->folder,
	       tally_text_plain(file->name, name, sizeof(name)), (unsigned long long)file->bytes,
	       rows_of(file)->n_rows, from, judgement(file));
}

static void print_table(struct files *files)
{
	printf("%-10s  %-44s %10s %8s  %-20s %s\n", "FOLDER", "FILE", "BYTES", "RECORDS", "FROM",
	       "STATE");
	for (size_t i = 0; i < files->n; i++) {
		load(&files->fs, &files->items[i]);
		print_file(&files->items[i]);
		file_done(&files->items[i]);
	}
}

static int run_ls(int argc, char **argv)
{
	struct files files = { 0 };
	int code = list_files(&files);

	(void)argc;
	(void)argv;
	if (!code && output && strcmp(output, "json") == 0)
		print_json(&files);
	else if (!code)
		print_table(&files);
	files_done(&files);
	return code ? code : tally_cli_flush();
}

/* verify ---------------------------------------------------------------------------------------- */

/* The batch before, which the next one is chained to; number 0: none. */
struct link {
	char agent[TALLY_AGENT_ID + 1];
	__u32 incarnation;
	__u64 number;
	__u8 chain[TALLY_CHAIN];
};

static void complain(const struct file *file, const char *fmt, ...) TALLY_PRINTF(2, 3);
static void complain(const struct file *file, const char *fmt, ...)
{
	char name[3 * NAME_MAX_BYTES];
	va_list ap;

	printf("%s/%s: ", file->folder, tally_text_plain(file->name, name, sizeof(name)));
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

/* In quarantine a name has another before it, and a dash. */
static int is_batch(void *arg, const char *name, __u64 size)
{
	const char *begin = arg, *dash = strchr(name, '-');

	(void)size;
	return strncmp(name, begin, strlen(begin)) == 0 ||
	       (dash && strncmp(dash + 1, begin, strlen(begin)) == 0);
}

/* Is it here by now, or in quarantine, which says so itself? */
static bool is_known(const struct tally_fs *fs, __u64 number)
{
	char begin[32];

	(void)snprintf(begin, sizeof(begin), "b%llu-s", (unsigned long long)number);
	return fs->list(fs->ctx, BATCHES, is_batch, begin) == 1 ||
	       fs->list(fs->ctx, TALLY_QUARANTINE, is_batch, begin) == 1;
}

/* Batches are removed from the front, as sinks have them: nothing before the oldest is missed. 1: bad. */
static int verify_link(const struct tally_fs *fs, const struct link *before,
		       const struct file *file)
{
	const struct tally_batch_head *head = &file->batch->head;
	__u64 next = before->number + 1;

	if (!before->number || before->incarnation != head->incarnation ||
	    strcmp(before->agent, head->agent) != 0)
		return 0;
	while (next < head->number && is_known(fs, next))
		next++;
	if (head->number <= before->number)
		complain(file, "batch %llu is there twice", (unsigned long long)head->number);
	else if (next < head->number)
		complain(file, "batch %llu, which goes before it, is missing",
			 (unsigned long long)next);
	else if (head->number == before->number + 1 &&
		 memcmp(before->chain, head->prev_chain, TALLY_CHAIN) != 0)
		complain(file, "not chained to batch %llu", (unsigned long long)before->number);
	else
		return 0;
	return 1;
}

/* 1: bad. One that is gone was merged, or sent and removed, as was every batch before it. */
static int verify_file(const struct tally_fs *fs, struct file *file, struct link *before)
{
	bool in_batches = strcmp(file->folder, BATCHES) == 0;
	int bad;

	if (file->error == -ENOENT && in_batches)
		before->number = 0;
	if (file->error == -ENOENT || strcmp(file->folder, TALLY_QUARANTINE) == 0)
		return 0;
	if (file->error)
		complain(file, "%s", judgement(file));
	if (file->error || !in_batches || !file->batch)
		return file->error != 0;
	bad = verify_link(fs, before, file);
	*before = (struct link){ .incarnation = file->batch->head.incarnation,
				 .number = file->batch->head.number };
	memcpy(before->agent, file->batch->head.agent, sizeof(before->agent));
	memcpy(before->chain, file->batch->chain, sizeof(before->chain));
	return bad;
}

/* Everything outside of quarantine must be whole. */
static int run_verify(int argc, char **argv)
{
	struct link before = { 0 };
	struct files files = { 0 };
	int code = list_files(&files), bad = 0;

	(void)argc;
	(void)argv;
	for (size_t i = 0; !code && i < files.n; i++) {
		load(&files.fs, &files.items[i]);
		bad += verify_file(&files.fs, &files.items[i], &before);
		file_done(&files.items[i]);
	}
	if (!code)
		printf("%zu files, %d damaged\n", files.n, bad);
	files_done(&files);
	if (code)
		return code;
	return tally_cli_flush() ? TALLY_EXIT_IO : bad ? TALLY_EXIT_DIFFERS : TALLY_EXIT_OK;
}

/* show, export ---------------------------------------------------------------------------------- */

static const struct file *find_file(const struct files *files, const char *name)
{
	for (size_t i = 0; i < files->n; i++) {
		if (strcmp(files->items[i].name, name) == 0)
			return &files->items[i];
	}
	return NULL;
}

/* A file by its name, whichever folder it is in. */
static int load_one(const char *name, struct file *ret_file)
{
	struct files files = { 0 };
	int code = list_files(&files);
	const struct file *found = code ? NULL : find_file(&files, name);

	if (found) {
		*ret_file = *found;
		load(&files.fs, ret_file);
	}
	files_done(&files);
	if (!code && !found)
		code = tally_cli_fail(TALLY_EXIT_USAGE, "%s: no such file in the spool", name);
	if (!code && ret_file->error) {
		code = tally_cli_fail(TALLY_EXIT_INPUT, "%s: %s", name, judgement(ret_file));
		file_done(ret_file);
	}
	return code;
}

static void print_row(const struct tally_sealed *sealed, const struct tally_sealed_row *row)
{
	const struct tally_sealed_owner *owner = &sealed->owners[row->owner];
	const struct tally_sealed_shape *shape = &sealed->shapes[row->shape];
	const char *texts[] = { sealed->strings[owner->customer], sealed->strings[owner->api_key],
				sealed->strings[shape->service], sealed->strings[shape->method],
				sealed->strings[shape->route] };
	char from[TALLY_JSON_TIME], plain[TALLY_ARRAY_SIZE(texts)][TALLY_TEXT_LINE];

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(texts); i++)
		(void)tally_text_plain(texts[i], plain[i], sizeof(plain[i]));
	tally_json_time(row->start_s, from);
	printf("%s %4llus  %-16s %-26s %-12s %-8s %-28s %3u %10llu %14llu %14llu\n", from,
	       (unsigned long long)(row->end_s - row->start_s), plain[0], plain[1], plain[2],
	       plain[3], plain[4], shape->status, (unsigned long long)row->sums.requests,
	       (unsigned long long)row->sums.request_bytes,
	       (unsigned long long)row->sums.response_bytes);
}

static int run_show(int argc, char **argv)
{
	const struct tally_sealed *sealed;
	struct file file;
	int code = load_one(argv[0], &file);

	(void)argc;
	if (code)
		return code;
	sealed = rows_of(&file);
	printf("%s/%s: agent %s, epochs %llu to %llu, %zu rows, %llu bytes\n", file.folder,
	       file.name, file.agent, (unsigned long long)sealed->epoch_first,
	       (unsigned long long)sealed->epoch_last, sealed->n_rows,
	       (unsigned long long)file.bytes);
	if (file.batch)
		printf("batch %llu, incarnation %u, seq %llu to %llu\n",
		       (unsigned long long)file.batch->head.number, file.batch->head.incarnation,
		       (unsigned long long)file.batch->head.seq_first,
		       (unsigned long long)tally_batch_seq_last(file.batch));
	if (sealed->by_connection)
		printf("by connection: %zu more rows, shown by export alone\n",
		       sealed->n_connections);
	for (size_t i = 0; i < sealed->n_rows; i++)
		print_row(sealed, &sealed->rows[i]);
	file_done(&file);
	return tally_cli_flush();
}

static int export_batch(const struct tally_batch *batch)
{
	struct tally_message msg;
	int r = 0;

	tally_message_init(&msg);
	for (__u64 i = 0; r == 0 && i < tally_batch_messages(batch); i++) {
		r = tally_batch_message(batch, i, TALLY_FORMAT_CLOUDEVENTS, &msg);
		if (r == 0)
			printf("%s\n", msg.value.data);
	}
	if (r == 0)
		r = tally_batch_control(batch, &msg);
	if (r == 0)
		printf("%s\n", msg.value.data);
	tally_message_done(&msg);
	return r;
}

static int run_export(int argc, char **argv)
{
	struct file file;
	int code = load_one(argv[0], &file), r = -EINVAL;

	(void)argc;
	if (code)
		return code;
	if (file.batch)
		r = export_batch(file.batch);
	if (r == -EINVAL)
		code = tally_cli_fail(TALLY_EXIT_INPUT,
				      "%s has no numbers yet: only batches are exported", argv[0]);
	else if (r < 0)
		code = tally_cli_fail(TALLY_EXIT_BUG, "%s: %s", argv[0], strerror(-r));
	file_done(&file);
	return code ? code : tally_cli_flush();
}

/* What a quarantined file was, by the name it had. */
static int parse_loss(const char *name, struct tally_loss *ret_loss)
{
	unsigned long long b, s, n, first, last;
	struct tally_loss loss = { .seq_first = 1 };
	const char *dash = strchr(name, '-');

	if (!dash)
		return -EINVAL;
	if (sscanf(dash + 1, "b%llu-s%llu-r%llu-e%llu-%llu", &b, &s, &n, &first, &last) == 5) {
		loss.batch = b;
		loss.seq_first = s;
		loss.seq_last = s + n - 1;
	} else if (sscanf(dash + 1, "e%llu-%llu", &first, &last) != 2) {
		return -EINVAL;
	}
	loss.epoch_first = first;
	loss.epoch_last = last;
	*ret_loss = loss;
	return 0;
}

static int declare_in(struct tally_spool *spool, const char *name, struct tally_loss *loss)
{
	const struct tally_fs *fs = spool->fs;
	_cleanup_free_ char *declared = NULL;
	int r;

	if (asprintf(&declared, "%s" TALLY_DECLARED, name) < 0)
		return -ENOMEM;
	loss->incarnation = spool->state.incarnation;
	r = tally_spool_declare(spool, loss, tally_util_real_ns() / TALLY_NS_PER_S);
	if (r == 0)
		r = fs->rename(fs->ctx, TALLY_QUARANTINE, name, TALLY_QUARANTINE, declared);
	return r < 0 ? r : fs->sync_dir(fs->ctx, TALLY_QUARANTINE);
}

/* Whose state it is does not matter here: the agent will see to that. */
static int declare(const struct tally_fs *fs, const char *name, struct tally_loss *loss)
{
	char host[256] = "";
	const struct tally_spool_origin origin = { .boot_id = "",
						   .host = host,
						   .version = TALLY_VERSION };
	struct tally_spool spool;
	int r;

	(void)gethostname(host, sizeof(host) - 1); /* else empty */
	r = tally_spool_open(&spool, fs, &origin);
	if (r < 0)
		return r;
	r = declare_in(&spool, name, loss);
	tally_spool_done(&spool);
	return r;
}

static int is_there(void *arg, const char *name, __u64 size)
{
	(void)size;
	return strcmp(name, arg) == 0;
}

static int run_declare(int argc, char **argv)
{
	struct tally_loss loss;
	struct tally_fs fs;
	int code = open_fs(&fs), r;

	(void)argc;
	if (code)
		return code;
	r = fs.list(fs.ctx, TALLY_QUARANTINE, is_there, argv[0]);
	if (r != 1)
		code = tally_cli_fail(TALLY_EXIT_USAGE, "%s: no such file in quarantine", argv[0]);
	else if (strstr(argv[0], TALLY_COVERED))
		code = tally_cli_fail(
			TALLY_EXIT_USAGE,
			"%s: nothing is lost with it: other files held all its epochs", argv[0]);
	else if (strstr(argv[0], TALLY_DECLARED) || parse_loss(argv[0], &loss) < 0)
		code = tally_cli_fail(
			TALLY_EXIT_USAGE,
			"%s: not a sealed file or batch of this spool, or declared already",
			argv[0]);
	r = code ? 0 : declare(&fs, argv[0], &loss);
	fs.free(fs.ctx);
	if (r == -EBUSY)
		return tally_cli_fail(
			TALLY_EXIT_UNAVAILABLE,
			"an agent runs on %s: stop it first (the kernel counts on meanwhile)",
			state_dir);
	if (r < 0)
		return tally_cli_fail(TALLY_EXIT_IO, "%s: %s", state_dir, strerror(-r));
	if (!code)
		printf("declared lost: epochs %llu to %llu, batch %llu, seq %llu to %llu; "
		       "the next run of the agent ships it\n",
		       (unsigned long long)loss.epoch_first, (unsigned long long)loss.epoch_last,
		       (unsigned long long)loss.batch, (unsigned long long)loss.seq_first,
		       (unsigned long long)loss.seq_last);
	return code ? code : tally_cli_flush();
}

#define STATE_DIR_OPTION                                                                           \
	{                                                                                          \
		.name = "state-dir", .letter = 'd', .type = TALLY_CLI_TEXT, .value = &state_dir,   \
		.arg = "FOLDER", .help = "agent.state_dir of the config (default /var/lib/tallyd)" \
	}

static const struct tally_cli_option options[] = { STATE_DIR_OPTION, {} };
static const struct tally_cli_option table_options[] = {
	STATE_DIR_OPTION,
	{ .name = "output",
	  .letter = 'o',
	  .type = TALLY_CLI_WORD,
	  .value = &output,
	  .arg = "FORMAT",
	  .help = "how to print it",
	  .words = tally_cli_table_words },
	{},
};

static const struct tally_cli_command ls_command = {
	.name = "ls",
	.args = "",
	.summary = "list sealed files, batches and what is in quarantine",
	.options = table_options,
	.run = run_ls,
};
static const struct tally_cli_command show_command = {
	.name = "show",
	.args = "FILE",
	.summary = "print the rows of one file",
	.options = options,
	.min_args = 1,
	.max_args = 1,
	.run = run_show,
};
static const struct tally_cli_command verify_command = {
	.name = "verify",
	.args = "",
	.summary =
		"read all but quarantine, digests and chains included; exit 1 if anything is damaged or missing",
	.options = options,
	.run = run_verify,
};
static const struct tally_cli_command export_command = {
	.name = "export",
	.args = "FILE",
	.summary = "print the records of a batch as they are shipped, byte by byte (NDJSON)",
	.options = options,
	.min_args = 1,
	.max_args = 1,
	.run = run_export,
};
static const struct tally_cli_command declare_command = {
	.name = "declare-lost",
	.args = "FILE",
	.summary = "give up a quarantined file; the books then say so and go on",
	.details =
		"The file stays. The agent must be stopped; it ships the declaration as a control "
		"record of its own.",
	.options = options,
	.min_args = 1,
	.max_args = 1,
	.run = run_declare,
};

static const struct tally_cli_command *const commands[] = {
	&ls_command, &show_command, &verify_command, &export_command, &declare_command, NULL,
};

const struct tally_cli_command tally_cmd_spool = {
	.name = "spool",
	.args = "",
	.summary = "what waits on disk, by hand",
	.commands = commands,
};
