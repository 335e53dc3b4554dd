#!/usr/bin/python3 -I
# SPDX-License-Identifier: Apache-2.0
"""Copy stdin to stdout until the mark given in hex, or the end.

A guest's output reaches the host through qemu, which forgets what waits in it when it ends: the
mark says that all of it came. Nothing is held back but bytes that may begin the mark.
"""
import os
import sys


def undecided(data, mark):
    """How many of the last bytes of data may begin the mark."""
    for n in range(min(len(mark) - 1, len(data)), 0, -1):
        if data.endswith(mark[:n]):
            return n
    return 0


def write_all(data):
    while data:
        data = data[os.write(1, data):]


def main():
    mark = bytes.fromhex(sys.argv[1])
    data = b""
    while chunk := os.read(0, 65536):
        data += chunk
        before, found, _ = data.partition(mark)
        if found:
            return write_all(before)
        keep = undecided(data, mark)
        write_all(data[: len(data) - keep])
        data = data[len(data) - keep:]
    return write_all(data)


try:
    main()
except BrokenPipeError:
    sys.exit(1)
