# SPDX-License-Identifier: Apache-2.0
"""Real servers from their real packages, each with its own log as a witness."""

from .apache import Apache
from .golang import Go
from .haproxy import Haproxy
from .nginx import Nginx
from .node import Node
from .python import Python

ALL = {cls.name: cls for cls in (Nginx, Apache, Haproxy, Node, Python, Go)}
PROXIES = (Nginx, Apache, Haproxy)


def start(name, sandbox, keys, proxied=True, **options):
    """Starts the named server; one that also proxies gets a Python server as its origin."""
    cls = ALL[name]
    if cls is Haproxy or (proxied and cls in PROXIES):
        origin = Python(sandbox, keys)
        origin.name, origin.dir = "origin", sandbox.dir / "origin"
        origin.dir.mkdir(exist_ok=True)
        origin.log = origin.dir / "access.log"
        options["origin"] = origin.start().port
    return cls(sandbox, keys, **options).start()
