#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Upgrades under load: SIGTERM and a start, again and again, without a pause in the traffic.

    upgrades.py [--count 1000] [--every 50]

Each start loads its own programs and puts them into the links in place of the old ones. After each
--every upgrades the books close: 0 missed, 0 doubled, for every key, route and status, in requests
and bytes. Needs root.
"""

import argparse
import os
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

# pylint: disable=wrong-import-position
from run import fetch, say  # noqa: E402
from world import Broken, World  # noqa: E402
from cluster import Cluster  # noqa: E402


def upgrade(world):
    agent = world.agent
    code = agent.process.stop(15, 60)
    if code != 0:
        raise Broken(f"SIGTERM: exit {code}: {agent.log()[-2000:]}")
    agent.start()
    if "reused=1" not in agent.log():
        raise Broken(f"it did not find the pinned meter: {agent.log()[-2000:]}")


def part(kafka, number, count):
    """One world, so many upgrades, the books. Its figures."""
    world = World(kafka, f"u{number}")
    try:
        world.agent.start()
        world.traffic.start()
        for _ in range(count):
            upgrade(world)
        return world.close_books()
    finally:
        world.close()


def run(kafka, args):
    done = requests = 0
    while done < args.count:
        count = min(args.every, args.count - done)
        figures = part(kafka, done, count)
        done += count
        requests += figures["requests"]
        say(f"{done} upgrades, books closed: {figures}")
    print(f"{done} upgrades under load, {requests} requests: 0 missed, 0 doubled")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--every", type=int, default=50)
    args = parser.parse_args()
    jars, why = fetch()
    if not jars:
        print(f"SKIP Kafka cannot be fetched: {why}\n0 passed, 0 failed, 1 skipped")
        return 1 if os.environ.get("CI") == "true" else 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tally-upgrades-") as folder:
        kafka = Cluster(jars, folder)
        try:
            run(kafka, args)
        except Broken as error:
            print(f"FAIL {error}\n0 passed, 1 failed, 0 skipped")
            return 1
        finally:
            kafka.close()
    print(f"{time.monotonic() - began:.0f} s\n1 passed, 0 failed, 0 skipped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
