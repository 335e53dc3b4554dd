# SPDX-License-Identifier: Apache-2.0
"""Hours of load with restarts and kills in between: the difference stays 0, nothing grows."""

import os
import random
from pathlib import Path

import pytest

from lib import api
from lib.load import Load, mix
from lib.tallyd import differences, service

ROUND_S = 20


def footprint(agent):
    """(resident KiB, open descriptors) of the agent."""
    proc = Path(f"/proc/{agent.process.pid}")
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]), len(os.listdir(proc / "fd"))


@pytest.mark.soak
def test_soak(start, meter, sandbox, keys):
    templates = mix(keys)
    seconds = int(os.environ.get("TALLY_SOAK_S", "3600"))
    seed = int(os.environ.get("TALLY_SOAK_SEED", random.randrange(1 << 30)))
    print(f"TALLY_SOAK_SEED={seed}")
    chance = random.Random(seed)
    server = start("nginx", proxied=False)
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])
    truth, sizes = api.new_tally(), []
    for i in range(max(2, seconds // ROUND_S)):
        load = Load(sandbox, keys, server.port, templates, chance.choice((1, 50, 500)),
                    seconds=ROUND_S, one_per_connection=chance.random() < 0.3, seed=i)
        if chance.random() < 0.3:
            if chance.random() < 0.5:
                agent.kill()
            else:
                agent.stop(60)
            agent.start()
        for row, sums in load.result(ROUND_S + 60).items():
            api.add(truth, row, sums)
        assert load.lost == 0, load.report
        sizes.append(footprint(agent))
        print(f"round {i}: {api.total(truth).requests} requests, RSS {sizes[-1][0]} KiB")
    ledger = agent.stop(120)
    problems = differences(truth, ledger, "api")
    assert not problems, problems
    assert not ledger.audit()
    assert max(s[0] for s in sizes[len(sizes) // 2:]) < 2 * max(sizes[0][0], 20000), sizes
    assert max(s[1] for s in sizes) < sizes[0][1] + 64, sizes
