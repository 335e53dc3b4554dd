#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The fault harness: real programs, seeded faults, and books that must close after every round.

    run.py [--seed N] [--count M] [--only KIND[,KIND]] [--round R]   M faults; one round again
    run.py --ci                                     at least 5 of each kind, 200 in all
    run.py --minutes M | --total N                  such runs, seed after seed, for so long, for so many
    run.py --every-call                             the listed calls, with SIGKILL and every error; all of
                                                    them, or the run fails (--minutes M: for so long;
                                                    --only call-kill,call-error,start-kill,start-error)
    run.py --list                                   the kinds

A round is up to 15 faults under traffic; then the books close. `--seed N --round R` makes the same
round again. `--jobs J` shares the rounds among J processes, each with a Kafka of its own: faults wait
more than they compute. Needs root, Java and Maven; without Kafka it is a SKIP, which CI does not accept.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

# pylint: disable=wrong-import-position
from world import BUILD, TOP, Broken, Consumer, HarnessError, World, wait_for  # noqa: E402
from cluster import PORT, Cluster, check_consumer  # noqa: E402
import calls  # noqa: E402
from lib import build  # noqa: E402
from kinds import KINDS  # noqa: E402

ROUND = 15
CALLS, TRIES = 60, 3           # of a list that is worked through: calls a round, how often one is tried
CI_EACH, CI_ALL = 5, 200       # how many of a kind, and of all, CI must have made
FLAVOURS = {"plain": {}, "topics": {}, "pins": {},
            "tiny": {"limits": {"connection_rows": 1024, "rows": 1024}, "customers": 145,
                     "window": "10s"}}
START = time.monotonic()


def say(text):
    print(f"[{time.monotonic() - START:6.1f}] {text}", flush=True)


def fetch():
    """The folder of Kafka's jars, or None and why."""
    done = subprocess.run([TOP / "scripts/fetch-kafka.sh"], capture_output=True, text=True,
                          check=False)
    return (done.stdout.strip(), "") if done.returncode == 0 else (None, done.stderr.strip()[-300:])


class Result:
    """What was made of it, of one process or of several."""

    def __init__(self):
        self.made, self.not_made = collections.Counter(), collections.Counter()
        self.listed = collections.Counter()     # what --every-call has to make
        self.figures = collections.Counter()    # stops, requests, bytes, records
        self.failed, self.seeds = [], []

    def add(self, text):
        other = json.loads(text)
        for name in ("made", "not_made", "listed", "figures"):
            getattr(self, name).update(other[name])
        self.failed += other["failed"]
        self.seeds = sorted({*self.seeds, *other["seeds"]})

    def text(self):
        return json.dumps({k: v for k, v in vars(self).items() if k[0] != "_"})

    def check_counts(self):
        """What CI promises to have made."""
        few = [f"{name} {self.made[name]}" for name in KINDS if self.made[name] < CI_EACH]
        if few:
            self.failed.append(f"fewer than {CI_EACH}: {', '.join(few)}")
        if sum(self.made.values()) < CI_ALL:
            self.failed.append(f"fewer than {CI_ALL} faults")

    def check_listed(self):
        """Of the lists that are worked through nothing may be left out."""
        for name, listed in self.listed.items():
            print(f"{name}: {self.made[name]} of {listed} listed made")
            if self.made[name] < listed:
                self.failed.append(f"{name}: {listed - self.made[name]} not made")

    def table(self):
        say("faults made, by kind:")
        for name in KINDS:
            print(f"  {name:16} {self.made[name]:6} made {self.not_made[name]:4} not made")
        for line in self.failed:
            print(f"FAIL {line}")
        figures = self.figures
        print(f"seeds {self.seeds[0]} to {self.seeds[-1]}: {sum(self.made.values())} faults, "
              f"{figures['stops']} stops with closed books, {figures['requests']} requests, "
              f"{figures['bytes']} bytes, {figures['records']} records: "
              + ("see FAIL above" if self.failed else "0 lost, 0 double"))
        print("left out: clock steps, as the machine's clock is everybody's; "
              "the simulator (tests/sim) steps its own")
        print(f"{figures['stops']} passed, {len(self.failed)} failed, 0 skipped", flush=True)


class Run(Result):
    """The rounds of this process."""

    def __init__(self, options, kafka):
        super().__init__()
        self._options, self._kafka, self._lists = options, kafka, None

    def world(self, name, flavour):
        """A world with traffic, and the lists of calls."""
        world = World(self._kafka, name, **FLAVOURS[flavour])
        world.forced, world.left = {}, set()
        try:
            world.agent.start()
            world.traffic.start()
            world.calls = self.lists(world) if flavour == "plain" else None
        except BaseException:
            world.close()
            raise
        return world

    def lists(self, world=None):
        """What the kinds for single calls draw from: recorded once, by the first process."""
        shared = Path(self._options.lists) if self._options.lists else None
        if self._lists is None and self._options.share[0] == 0:
            self._lists = calls.record(world, say)
            if shared:
                calls.save(shared, self._lists)
        elif self._lists is None:
            wait_for(shared.exists, 300, "the first process to record the calls")
            self._lists = calls.load(shared)
        return self._lists

    def round(self, number, names):
        """One world, these faults, the books. True: they closed."""
        dice = random.Random(f"{self._options.seed}/{number}")
        say(f"round {number}: {' '.join(names)}")

        def all_of(world, done):
            again = [name for name in names if not self.fault(world, dice, name, done)]
            for name in again:
                self.fault(world, dice, name, done)

        return self._round(number, KINDS[names[0]].flavour if names else "plain", all_of)

    def _round(self, number, flavour, faults):
        done, world = [], None
        try:
            self._kafka.revive()
            world = self.world(f"f{self._options.seed}-{number}", flavour)
            faults(world, done)
            figures = world.close_books()
            self.figures.update(figures, stops=1)
            say(f"round {number}: books closed: {figures}")
            return True
        except Exception as error:     # pylint: disable=broad-except
            self.report(number, done, world, error)
            return False
        finally:
            if world:
                world.close()

    def work_through(self, number, name, where, cases):
        """All these (call, error), as one kind of fault; after broken books the rest in a new world."""
        def all_of(world, done):
            world.forced = {where: cases}
            tries = collections.Counter()
            while cases:
                case = cases[0]
                tries[case] += 1
                made = self.fault(world, None, name, done)
                cases.pop(0)
                if not made and tries[case] < TRIES:
                    cases.append(case)

        while cases:
            before = len(cases)
            say(f"round {number}: {name}, {before} calls")
            self._round(number, "plain", all_of)
            if len(cases) == before:
                cases.pop(0)

    def fault(self, world, dice, name, done):
        """True: it was made."""
        began = time.monotonic()
        try:
            text = KINDS[name].make(world, dice)
        except HarnessError as error:
            self.not_made[name] += 1
            say(f"  {name}: not made: {str(error)[-2000:]}")
            world.kafka.proxy.set("pass")
            world.agent.ensure()
            return False
        self.made[name] += 1
        done.append(f"{name} {text}")
        say(f"  {name} {text} ({time.monotonic() - began:.1f} s)")
        return True

    def report(self, number, done, world, error):
        self.failed.append(f"seed {self._options.seed} round {number}: {str(error)[:3000]}")
        say(f"FAIL round {number} (again: --seed {self._options.seed} --round {number}): {error}")
        if not isinstance(error, Broken):
            traceback.print_exc()
        for line in done:
            say(f"  did {line}")
        if world:
            self.keep(number, world)

    def keep(self, number, world):
        """What may tell more: the spool, and what the last agents said."""
        folder = BUILD / "faults"
        folder.mkdir(exist_ok=True)
        with contextlib.suppress(Broken, HarnessError):
            for file in world.spool() if world.disk.mount.is_mount() else []:
                say(f"  spool: {file}")
        logs = world.sandbox.dir.glob("tallyd.*.out")
        for path in sorted(logs, key=lambda p: int(p.name.split(".")[1]))[-12:]:
            name = f"seed{self._options.seed}.round{number}.{path.name}"
            (folder / name).write_bytes(path.read_bytes()[-200000:])


def draw(options):
    """The rounds: lists of kinds. The same for the same seed and options."""
    dice = random.Random(options.seed)
    wanted = options.only.split(",") if options.only else list(KINDS)
    unknown = [k for k in wanted if k not in KINDS]
    if unknown:
        sys.exit(f"no kind {', '.join(unknown)}: {', '.join(KINDS)}")
    if options.exactly:
        names = wanted
    elif options.count:
        names = [dice.choices(wanted, [KINDS[k].in_ci for k in wanted])[0]
                 for _ in range(options.count)]
    else:
        names = [k for k in wanted for _ in range(KINDS[k].in_ci)]
        dice.shuffle(names)
    rounds = []
    for flavour in FLAVOURS:
        part = [name for name in names if KINDS[name].flavour == flavour]
        rounds += [part[i:i + ROUND] for i in range(0, len(part), ROUND)]
    return rounds


def every_call(run, options):
    """The calls of both lists, with SIGKILL and each error they can return; of a row of equal
    ones the first and the last."""
    if not run.round(0, []):
        return
    number, until = 0, START + 60 * (options.minutes or 1e6)
    for where, kinds in (("close", ("call-kill", "call-error")),
                         ("start", ("start-kill", "start-error"))):
        for name in kinds if not options.only else [k for k in kinds if k in options.only.split(",")]:
            listed = calls.every(run.lists()[where], name.endswith("error"))
            run.listed[name] = len(listed) if options.share[0] == 0 else 0
            say(f"{name}: {len(listed)} to make")
            for i in range(0, len(listed), CALLS):
                number += 1
                if time.monotonic() < until and mine(options, number):
                    run.work_through(number, name, where, listed[i:i + CALLS])


def mine(options, number):
    """Is this round for this process? Whoever comes first takes it."""
    if options.round is not None:
        return number == options.round and options.share[0] == 0
    if not options.lists:
        return True
    with contextlib.suppress(FileExistsError):
        os.close(os.open(f"{options.lists}.{options.seed}.{number}", os.O_CREAT | os.O_EXCL))
        return True
    return False


def all_rounds(run, options):
    """Once, or seed after seed until it is enough."""
    def enough():
        return options.minutes and time.monotonic() - START > 60 * options.minutes \
            or options.total and sum(run.made.values()) * options.jobs >= options.total

    while True:
        run.seeds.append(options.seed)
        for number, names in enumerate(draw(options)):
            if mine(options, number):
                run.round(number, names)
            if enough():
                return
        if not options.minutes and not options.total:
            return
        options.seed += 1
        say(f"seed {options.seed}")


def work(options, kafka):
    """One process: its rounds."""
    run = Run(options, kafka)
    say(f"seed {options.seed}")
    say(check_consumer(kafka, Consumer))
    if options.every_call:
        run.seeds.append(options.seed)
        every_call(run, options)
    else:
        all_rounds(run, options)
    return run


def alone(options, jars):
    with tempfile.TemporaryDirectory(prefix="tally-faults-") as folder:
        kafka = Cluster(jars, folder)
        try:
            return work(options, kafka)
        finally:
            kafka.close()


def relay(child, letter, result):
    """Its lines, marked; the last one is its result."""
    for line in child.stdout:
        if line.startswith("RESULT "):
            result.add(line[7:])
        else:
            print(f"{letter} {line}", end="", flush=True)


def together(options):
    """As many processes as asked for; ended with them."""
    result, children, threads = Result(), [], []
    folder = tempfile.TemporaryDirectory(prefix="tally-faults-")  # pylint: disable=consider-using-with
    try:
        for i in range(options.jobs):
            child = subprocess.Popen(       # pylint: disable=consider-using-with
                [sys.executable, __file__, *sys.argv[1:], "--share", str(i), "--lists",
                 folder.name + "/calls"],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                env={**os.environ, "FAULTS_PORT": str(PORT + 10 * i)})
            children.append(child)
            threads.append(threading.Thread(target=relay, args=(child, "abcdefgh"[i], result)))
            threads[-1].start()
        for child, thread in zip(children, threads):
            thread.join()
            if child.wait() > 1:
                result.failed.append(f"a process of the harness ended with {child.returncode}")
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait()
        folder.cleanup()
    return result


def options_of(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int)
    parser.add_argument("--only")
    parser.add_argument("--exactly", action="store_true", help="the kinds of --only, in this order")
    parser.add_argument("--round", type=int)
    parser.add_argument("--ci", action="store_true")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--total", type=int)
    parser.add_argument("--every-call", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--share", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--lists", help=argparse.SUPPRESS)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args(argv)
    options.share = (options.share or 0, options.jobs)
    options.child = "--share" in argv
    return options


def main():
    options = options_of(sys.argv[1:])
    if options.list:
        for kind in KINDS.values():
            print(f"{kind.name:16} {kind.in_ci:3} in CI  {kind.make.__doc__ or ''}".rstrip())
        return 0
    if os.geteuid() != 0:
        print("faults: needs root: it meters, mounts and kills", file=sys.stderr)
        return 2
    jars, why = fetch()
    if not jars:
        print(f"SKIP Kafka cannot be fetched: {why}")
        print("0 passed, 0 failed, 1 skipped")
        return 1 if os.environ.get("CI") == "true" else 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))     # nothing is left behind
    build.load()
    if options.jobs > 1 and not options.child:
        result = together(options)
    else:
        result = alone(options, jars)
    if options.child:
        print("RESULT " + result.text(), flush=True)
        return 0
    if options.ci:
        result.check_counts()
    if options.every_call and options.round is None:
        result.check_listed()
    result.table()
    return 1 if result.failed or not result.figures["stops"] else 0


if __name__ == "__main__":
    sys.exit(main())
