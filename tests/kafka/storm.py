#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Random faults against sealing and shipping with a real Apache Kafka, and an oracle at the end.

    tests/kafka/storm.py [--faults 200] [--seed 1] [--port 23060]

Kinds: agent-kill, agent-freeze (SIGSTOP past the transaction timeout), broker-kill, broker-stop,
broker-freeze, reply-lost (applied, and nobody told), half-open (nothing moves), reset, refuse, slow, disk-read-only
(a bind mount turned read-only under the agent; root), partitions-added. A read_committed consumer
that does no deduplication must hold the truth, `tallyd audit --strict` must agree.
"""
import argparse
import collections
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

# pylint: disable=wrong-import-position
import harness  # noqa: E402
from broker import Broker  # noqa: E402
from proxy import Proxy  # noqa: E402

# kind: weight
KINDS = {"agent-kill": 30, "agent-freeze": 3, "broker-kill": 4, "broker-stop": 3,
         "broker-freeze": 4, "reply-lost": 20, "half-open": 12, "reset": 20, "refuse": 8, "slow": 5,
         "disk-read-only": 6, "partitions-added": 3}
LISTENERS = """
listeners=PLAINTEXT://127.0.0.1:{0},CONTROLLER://127.0.0.1:{1},PROXIED://127.0.0.1:{2}
advertised.listeners=PLAINTEXT://127.0.0.1:{0},PROXIED://127.0.0.1:{3}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT
inter.broker.listener.name=PLAINTEXT"""
ROWS = 40


class Storm:
    """One agent, one broker, one proxy between them, and bad luck."""

    def __init__(self, folder, port, seed):
        self.dice = random.Random(seed)
        self.broker = Broker(harness.JARS, os.path.join(folder, "kafka"), port,
                             LISTENERS.format(port, port + 1, port + 2, port + 3))
        self.broker.start()
        self.proxy = Proxy(port + 3, ("127.0.0.1", port + 2))
        self.agent = harness.Agent(os.path.join(folder, "agent"), self.proxy.address, "storm", ROWS)
        self.mounted = False
        self.partitions = 6
        self.done = collections.Counter()

    def start_agent(self):
        if not self.agent.running():
            self.agent.start(10 ** 9, every_ms=25)

    def pause(self, low, high):
        time.sleep(self.dice.uniform(low, high))

    def agent_kill(self):
        self.agent.kill()

    def agent_freeze(self):
        self.agent.proc.send_signal(signal.SIGSTOP)
        self.pause(7, 9)
        self.agent.proc.send_signal(signal.SIGCONT)

    def broker_kill(self):
        self.broker.kill()
        self.pause(0, 2)
        self.broker.start()

    def broker_stop(self):
        self.broker.stop()
        self.broker.start()

    def broker_freeze(self):
        self.broker.pause()
        self.pause(1, 8)
        self.broker.resume()

    def _proxy(self, mode, low, high):
        self.proxy.set(mode)
        self.pause(low, high)
        self.proxy.cut(reset=self.dice.random() < 0.5)
        self.proxy.set("pass")

    def reply_lost(self):
        self._proxy("swallow", 0.05, 1.5)

    def half_open(self):
        self._proxy("stall", 0.2, 3)

    def reset(self):
        self.proxy.cut(reset=True)

    def refuse(self):
        self.proxy.set("refuse")
        self.proxy.cut()
        self.pause(0.1, 1.5)
        self.proxy.set("pass")

    def slow(self):
        self._proxy("slow", 0.5, 2)

    def disk_read_only(self):
        state = self.agent.state
        if not self.mounted:
            self.agent.kill()
            subprocess.run(["mount", "--bind", state, state], check=True)
            self.mounted = True
            self.start_agent()
            self.pause(0.3, 1)
        # busy while a file is being written: that moment passes
        while subprocess.run(["mount", "-o", "remount,ro,bind", state], check=False,
                             stderr=subprocess.DEVNULL).returncode:
            time.sleep(0.01)
        self.pause(0.3, 2)
        subprocess.run(["mount", "-o", "remount,rw,bind", state], check=True)

    def partitions_added(self):
        self.partitions += 1
        subprocess.run(self.broker.java(
            "org.apache.kafka.tools.TopicCommand", "--bootstrap-server", self.broker.address,
            "--alter", "--topic", "storm.records", "--partitions", str(self.partitions)),
            check=True, stdout=subprocess.DEVNULL)

    def fault(self, kind):
        getattr(self, kind.replace("-", "_"))()
        self.done[kind] += 1

    def run(self, faults):
        """At least 5 of each kind, the rest by weight, in random order."""
        plan = [kind for kind in KINDS for _ in range(5 if faults >= 5 * len(KINDS) else 1)]
        plan += self.dice.choices(list(KINDS), weights=list(KINDS.values()),
                                  k=max(0, faults - len(plan)))
        self.dice.shuffle(plan)
        self.start_agent()
        time.sleep(4)  # topics
        for number, kind in enumerate(plan, 1):
            self.start_agent()
            self.pause(0.1, 0.9)
            self.fault(kind)
            if number % 20 == 0:
                print(f"{number} faults", flush=True)

    def finish(self):
        """Heals all, ships all. The number of the last epoch sealed."""
        self.proxy.set("pass")
        if self.agent.running():
            self.agent.kill()
        self.agent.start(1, every_ms=0)  # seals nothing new: ships, and tells where it is
        if self.agent.wait(180) != 0:
            raise AssertionError("it does not drain:\n" + self.agent.tail())
        last = [line for line in self.agent.tail().splitlines() if line.startswith("driver: agent=")]
        return int(last[-1].split("epochs=")[1].split()[0])

    def close(self):
        if self.agent.running():
            self.agent.proc.send_signal(signal.SIGCONT)
            self.agent.kill()
        if self.mounted:
            subprocess.run(["umount", self.agent.state], check=True)
        self.proxy.stop()
        self.broker.erase()


def judge(storm, epochs):
    """Text of what is wrong, or None."""
    try:
        got = harness.check_exact(storm.broker.address, "storm", epochs, ROWS)
    except AssertionError as error:
        return f"consumers do not hold the truth: {error}"
    done = harness.audit(storm.broker.address, "storm", "--strict")
    if done.returncode != 0:
        return f"the audit says: {done.stdout}"
    print(f"{epochs} epochs, {len(got)} records, 0 lost, 0 twice")
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, default=23060)
    parser.add_argument("--keep", action="store_true", help="keep the folder when something is wrong")
    args = parser.parse_args()
    harness.prepare()
    folder = tempfile.mkdtemp(prefix="tally-storm-")
    storm = Storm(folder, args.port, args.seed)
    wrong, begin = "it did not end", time.monotonic()
    print(f"seed {args.seed}, {args.faults} faults", flush=True)
    try:
        storm.run(args.faults)
        wrong = judge(storm, storm.finish())
    finally:
        storm.close()
        if not (wrong and args.keep):
            shutil.rmtree(folder, ignore_errors=True)
    print(", ".join(f"{kind} {n}" for kind, n in sorted(storm.done.items())))
    print(f"{sum(storm.done.values())} faults in {time.monotonic() - begin:.0f} s, seed {args.seed}")
    if wrong:
        print(f"FAIL {wrong}" + (f"\nkept: {folder}" if args.keep else ""))
    print("0 passed, 1 failed, 0 skipped" if wrong else "1 passed, 0 failed, 0 skipped")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
