#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Usage records beside the server's own access log.

    compare.py ACCESS_LOG <RECORDS

RECORDS: CloudEvents of type io.tallyd.usage.v1, one JSON document a line, as a Kafka consumer prints
them; seen twice counts once. ACCESS_LOG: who, method, route, status, request bytes, response bytes,
separated by tabs. Exit status: 0 when every number is the same, 1 when one is not.
"""
import collections
import json
import os
import sys

USAGE = "io.tallyd.usage.v1"
TTY = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def paint(code, text):
    return f"\033[{code}m{text}\033[0m" if TTY else text


class Sums:
    FIELDS = ("requests", "request_bytes", "response_bytes")

    def __init__(self):
        self.requests = self.request_bytes = self.response_bytes = self.credits = 0

    def add(self, requests, request_bytes, response_bytes, credits=0):
        self.requests += requests
        self.request_bytes += request_bytes
        self.response_bytes += response_bytes
        self.credits += credits

    def same(self, other):
        return all(getattr(self, f) == getattr(other, f) for f in self.FIELDS)


def who_of(data):
    """The name the access log uses: the key's id, `none`, or `rejected`."""
    if data["attribution"] == "key":
        return data["api_key_id"]
    if data["attribution"] == "anonymous":
        return "rejected" if data["attribution_detail"] == "rejected-key" else "none"
    return f"{data['attribution']}: {data['attribution_detail']}"


def read_records(lines):
    """Returns (rows by (who, method, route, status), customer by who, how many records)."""
    rows, customers, seen = collections.defaultdict(Sums), {}, set()
    for line in lines:
        record = json.loads(line)
        if record["type"] != USAGE or (record["source"], record["id"]) in seen:
            continue
        seen.add((record["source"], record["id"]))
        data = record["data"]
        who = who_of(data)
        customers[who] = data["customer_id"]
        rows[who, data["method"], data["route"], data["status"]].add(
            data["requests"], data["request_bytes"], data["response_bytes"],
            int(data["units"].get("credits", "0")))
    return rows, customers, len(seen)


def read_log(path):
    rows = collections.defaultdict(Sums)
    with open(path, encoding="utf-8") as log:
        for line in log:
            who, method, route, status, received, sent = line.rstrip("\n").split("\t")
            rows[who, method, route, int(status)].add(1, int(received), int(sent))
    return rows


def number(n):
    return f"{n:,}"


def line_of(route, status, counted, logged, credits=None):
    ok = counted.same(logged)
    text = (f"  {route:<31} {status:>4} {number(counted.requests):>9} {number(logged.requests):>9}"
            f" {number(counted.request_bytes):>12} {number(counted.response_bytes):>12}"
            f" {number(credits) if credits is not None else '':>9} ")
    return text + (paint("32", "=") if ok else paint("1;31", "DIFFERS"))


def print_difference(logged):
    print(paint("31", f"  {'the log says':<31} {'':>4} {'':>9} {number(logged.requests):>9}"
                      f" {number(logged.request_bytes):>12} {number(logged.response_bytes):>12}"))


def print_table(records, log, customers):
    """Returns how many rows differ."""
    print(paint("1", f"  {'route':<31} {'code':>4} {'requests':>9} {'nginx log':>9}"
                     f" {'bytes in':>12} {'bytes out':>12} {'credits':>9}"))
    keys = sorted(set(records) | set(log), key=lambda k: (customers.get(k[0]) or "~", k))
    previous, differing = None, 0
    for key in keys:
        who, method, route, status = key
        if who != previous:
            print(paint("1", title(who, customers.get(who))))
            previous = who
        print(line_of(f"{method} {route}", status, records[key], log[key], records[key].credits))
        if not records[key].same(log[key]):
            print_difference(log[key])
            differing += 1
    total, logged = Sums(), Sums()
    for sums, rows in ((total, records), (logged, log)):
        for row in rows.values():
            sums.add(row.requests, row.request_bytes, row.response_bytes, row.credits)
    print(line_of("all", "", total, logged, total.credits))
    return differing


def title(who, customer):
    names = {"none": "no key", "rejected": "a key the server refused"}
    if customer:
        return f"{customer}  {who}"
    return f"unattributed  {names.get(who, who)}"


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: compare.py ACCESS_LOG <RECORDS")
    records, customers, count = read_records(sys.stdin)
    log = read_log(sys.argv[1])
    differing = print_table(records, log, customers)
    print()
    if not count or not log:
        print(paint("1;31", f"nothing to compare: {count} records, {len(log)} kinds of log lines"))
        return 1
    if differing:
        print(paint("1;31", f"{differing} of {len(set(records) | set(log))} rows differ from nginx's access log"))
        return 1
    print(paint("1;32", f"{count} usage records agree with nginx's access log: every request, every byte."))
    return 0


if __name__ == "__main__":
    sys.exit(main())
