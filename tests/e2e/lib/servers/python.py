# SPDX-License-Identifier: Apache-2.0
"""Python's http.server with a thread per connection; source in servers/python_api.py."""

import sys

from .node import SOURCES, TabLog


class Python(TabLog):
    name = "python"
    sends_early_hints = True
    upgrades = True

    def launch(self):
        return self.sandbox.spawn(self.name, [sys.executable, "-u", SOURCES / "python_api.py",
                                              *self.arguments()], cgroup=self.cgroup, env=self.env)
