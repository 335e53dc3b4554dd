#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Builds the simulator and runs it; then plants one bug per stage and shows that it is found.

    tests/sim/run.py [--histories 100000] [--seed 1] [--outage 72] [--mutants] [--only-mutants] [--sanitize]

Planted bugs are exact replacements in a copy of user/; one that no longer matches its source fails.
The last line is `N passed, N failed, N skipped`.
"""
import argparse
import concurrent.futures
import glob
import os
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOURCES = ["user/account/*.c", "user/deliver/fs.c", "user/deliver/state.c", "user/deliver/reserve.c",
           "user/deliver/spool.c", "user/deliver/ship.c", "user/base/util.c", "user/base/text.c",
           "user/base/log.c"]

DAMAGED = ("--seed", "70009", "--every", "10")       # histories with damaged files only

# stage, file, what stands there, what is planted, and where to begin if not at seed 1
MUTANTS = [
    ("account: a row is forgotten", "user/account/account.c",
     "for (size_t i = 0; r == 0 && i < pile.n_rows; i++)",
     "for (size_t i = pile.n_rows > 3; r == 0 && i < pile.n_rows; i++)"),
    ("account: sums over connections are overwritten", "user/account/seal.c",
     "into->response_bytes += from->response_bytes;",
     "into->response_bytes = from->response_bytes;"),
    ("seal: the file is not synced", "user/deliver/fs.c",
     "r = fs->sync(fs->ctx, fd);", "r = 0;"),
    ("seal: the folder is not synced", "user/deliver/fs.c",
     "	return fs->sync_dir(fs->ctx, file->dir);\n}\n\nint tally_fs_quarantine",
     "	return 0;\n}\n\nint tally_fs_quarantine"),
    ("seal: an epoch found again is sealed again", "user/deliver/spool.c",
     "number <= last->number;", "number < last->number;"),
    ("seal: held is not carried on", "user/deliver/spool.c",
     "sealed->held_before = same ? last->held : 0;", "sealed->held_before = 0;"),
    ("merge: inputs are removed first", "user/deliver/spool.c",
     "	r = put_sealed(spool, &sealed, &entry);\n	tally_sealed_done(&sealed);",
     "	remove_group(spool, at, n - 1);\n	r = put_sealed(spool, &sealed, &entry);\n"
     "	tally_sealed_done(&sealed);\n	n = 1;"),
    ("batch: sealed files are removed before the batch is durable", "user/deliver/spool.c",
     "	fill_head(spool, now_s, &head);\n	place(",
     "	remove_group(spool, 0, n);\n	n = 0;\n	fill_head(spool, now_s, &head);\n	place("),
    ("batch: an epoch whose pins still stand is batched", "user/deliver/spool.c",
     "	if (!spool->released && is_last(", "	if (false && is_last(", DAMAGED),
    ("batch: numbers are not remembered", "user/deliver/spool.c",
     "	learn_batch(&spool->state, batch);\n	r = save_state(spool);",
     "	learn_batch(&spool->state, batch);\n	r = 0;"),
    ("ship: a doubt is taken for a failure to be retried at once", "user/deliver/ship.c",
     "		if (link->state != CLOSING)\n			fail_link(",
     "		if (event.kind == TALLY_SINK_DOUBT)\n			link->state = READY;\n"
     "		else if (link->state != CLOSING)\n			fail_link("),
    ("ship: after opening, one's own memory decides", "user/deliver/ship.c",
     "	link->at = link->acked = *at;\n	link->known = true;",
     "	link->acked = *at;\n	if (!link->at.batch)\n		link->at = *at;\n	link->known = true;"),
    ("ship: a batch is resumed one record too late", "user/deliver/ship.c",
     "at->seq - batch->head.seq_first + 1 + at", "at->seq - batch->head.seq_first + 2 + at"),
    ("ship: a batch is begun anew after a part of it", "user/deliver/ship.c",
     "	    at->seq < batch->head.seq_first)\n		return 0;",
     "	    at->seq >= batch->head.seq_first)\n		return 0;"),
    ("ship: records of connections that are there are sent again", "user/deliver/ship.c",
     "at->seq - batch->head.seq_first + 1 + at->connections", "at->seq - batch->head.seq_first + 1"),
    ("merge: files by connection and others become one", "user/deliver/spool.c",
     "next->by_connection != first->by_connection ||", "false ||"),
    ("trim: what was sent goes without being confirmed", "user/deliver/ship.c",
     "	ask(ship, link, CONFIRMING);\n",
     "	ask(ship, link, CONFIRMING);\n	link->acked = *at;\n	link->acked.batch++;\n"),
    ("trim: the quickest sink decides", "user/deliver/ship.c",
     "		least = TALLY_MIN(least, link->acked.batch ? have : 0);",
     "		least = any && least != ~0ULL ? TALLY_MAX(least, link->acked.batch ? have : 0) :\n"
     "						link->acked.batch ? have : 0;"),
    ("restore: what the sink holds is not adopted", "user/deliver/spool.c",
     "	if (r == 0 && at->position.epoch)\n", "	if (false)\n"),
    ("restore: numbers go on as if nothing were there", "user/deliver/ship.c",
     "	if (overtaken(&ship->spool, at)) {", "	if (false) {"),
    ("reserve: sealing does not leave the room that a batch needs", "user/deliver/spool.c",
     "		r = keep_room(spool, file.len);\n		if (r == 0)\n", "		if (r == 0)\n"),
    ("reserve: it is not given up", "user/deliver/spool.c",
     "	if (tally_reserve_is_full(r) && tally_reserve_release(&spool->reserve) && !*doubt)\n",
     "	if (false)\n"),
    ("recover: covered files stay", "user/deliver/spool.c",
     "		r = drop_covered(spool);", "		r = 0;"),
    ("recover: half a list is used", "user/deliver/spool.c",
     "	if (r < 0) { /* half a list is worse than none */",
     "	if (r < 0) {\n		spool->reload = false;\n		return 0;\n	}\n	if (r < 0) {"),
    ("recover: a damaged file is shipped", "user/account/frame.c",
     "	if (memcmp(digest, p + len - TALLY_SHA256, TALLY_SHA256) != 0)",
     "	if (memcmp(digest, p + len - TALLY_SHA256, 0) != 0)"),
    ("state: the older of two files is believed", "user/deliver/state.c",
     "two[1].generation > two[0].generation", "two[1].generation < two[0].generation"),
]


def sources_of(tree):
    return [path for pattern in SOURCES for path in sorted(glob.glob(os.path.join(tree, pattern)))] \
        + sorted(glob.glob(os.path.join(TOP, "tests/sim/*.c")))


def compile_one(source, tree, out, sanitize):
    flags = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"] if sanitize else ["-O2"]
    subprocess.run(["gcc", "-std=gnu11", "-g", "-D_GNU_SOURCE", *flags, "-w", "-c",
                    f"-I{TOP}/include", f"-I{tree}/user", f"-I{TOP}", "-o", out, source], check=True)


def link(objects, out, sanitize):
    flags = ["-fsanitize=address,undefined"] if sanitize else []
    subprocess.run(["gcc", *flags, "-o", out, *objects, "-ljansson", "-lcrypto", "-lpthread"],
                   check=True)


def compile_sim(folder, out, sanitize):
    """Everything; returns {source: object}, of which a mutant replaces one."""
    os.makedirs(folder)
    objects = {s: os.path.join(folder, f"{i}.o") for i, s in enumerate(sources_of(TOP))}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda s: compile_one(s, TOP, objects[s], sanitize), objects))
    link(objects.values(), out, sanitize)
    return objects


def run_sim(sim, histories, *where):
    return subprocess.run([sim, "--histories", str(histories), *where], check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=3600)


def plant(work, file, old, new):
    """The file with the bug in it, in a folder whose path ends as the original's."""
    with open(os.path.join(TOP, file), encoding="utf-8") as source:
        text = source.read()
    if text.count(old) != 1:
        raise LookupError(f"{text.count(old)} places match")
    path = os.path.join(work, file)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as out:
        out.write(text.replace(old, new))
    return path


def try_mutant(work, mutant, objects, histories):
    """Why it was not found, or None; and what the simulator said."""
    stage, file, old, new, *where = mutant
    with tempfile.TemporaryDirectory(dir=work) as folder:
        sim, other = os.path.join(folder, "sim"), os.path.join(folder, "mutant.o")
        try:
            compile_one(plant(folder, file, old, new), TOP, other, True)
            mixed = {**objects, os.path.join(TOP, file): other}
            link(mixed.values(), sim, True)
        except (LookupError, subprocess.CalledProcessError) as error:
            return f"cannot be planted: {error}", ""
        done = run_sim(sim, histories, *(where[0] if where else ()))
    last = [line for line in done.stdout.splitlines() if line.startswith(("FAIL", "==", "SUMMARY"))]
    if done.returncode == 0:
        return f"{histories} histories saw nothing", ""
    return None, last[0] if last else f"exit {done.returncode} ({stage})"


def try_mutants(work, histories):
    """(mutant, why, said) of each, two at a time."""
    objects = compile_sim(os.path.join(work, "san"), os.path.join(work, "sim-san"), True)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda m: try_mutant(work, m, objects, histories), MUTANTS)
        for mutant, (why, said) in zip(MUTANTS, found):
            yield mutant, why, said


def options_of():
    parser = argparse.ArgumentParser()
    parser.add_argument("--histories", type=int, default=100000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--outage", type=int, help="also a cluster that is down for so many hours")
    parser.add_argument("--mutants", action="store_true")
    parser.add_argument("--only-mutants", action="store_true")
    parser.add_argument("--sanitize", action="store_true")
    return parser.parse_args()


def start_program(args, work, pool):
    """The code as it is: its runs, under way."""
    sim = os.path.join(work, "sim")
    compile_sim(os.path.join(work, "plain"), sim, args.sanitize)
    runs = [pool.submit(run_sim, sim, args.histories, "--seed", str(args.seed))]
    if args.outage:
        runs.append(pool.submit(run_sim, sim, 0, "--outage", str(args.outage)))
    return runs


def main():
    args = options_of()
    passed = failed = 0
    with tempfile.TemporaryDirectory() as work, \
            concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = [] if args.only_mutants else start_program(args, work, pool)
        for mutant, why, said in try_mutants(work, 5000) if args.mutants or args.only_mutants else []:
            print(f"{'NOT FOUND' if why else 'found'}: {mutant[0]}: {why or said}", flush=True)
            passed, failed = passed + (why is None), failed + (why is not None)
        for done in (run.result() for run in runs):
            print(done.stdout, end="", flush=True)
            good = done.returncode == 0
            passed, failed = passed + good, failed + (not good)
    print(f"{passed} passed, {failed} failed, 0 skipped")
    sys.exit(failed != 0)


if __name__ == "__main__":
    main()
