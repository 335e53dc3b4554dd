# SPDX-License-Identifier: Apache-2.0
"""Go's net/http; source in servers/go_api, built once."""

from .. import build
from .node import TabLog


class Go(TabLog):
    name = "go"
    sends_early_hints = True
    upgrades = True

    def launch(self):
        return self.sandbox.spawn(self.name, [build.go_api(), *self.arguments()],
                                  cgroup=self.cgroup, env=self.env)
