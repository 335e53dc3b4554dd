# SPDX-License-Identifier: Apache-2.0
"""Apache httpd: event MPM, mod_logio for bytes on the wire, mod_lua for the API, sendfile."""

import os
import re
from pathlib import Path

from ..sandbox import HarnessError, need_program
from .base import Entry, Server, pick_key, query_key_of

MODULES = ("mpm_event authz_core log_config logio alias setenvif lua proxy proxy_http "
           "proxy_wstunnel").split()
MODULE_DIRS = ("/usr/lib/apache2/modules", "/usr/lib64/httpd/modules", "/usr/lib/httpd/modules")
CONFIG = """\
ServerRoot "{dir}"
PidFile "{dir}/apache.pid"
DefaultRuntimeDir "{dir}"
ServerName api.test
ErrorLog "{dir}/error.log"
LogLevel warn
{modules}
{user}
{listen}
ListenBacklog 65535
ServerLimit 8
ThreadLimit 64
ThreadsPerChild 64
StartServers 2
MaxRequestWorkers 512
AsyncRequestWorkerFactor 64
MaxConnectionsPerChild 0
Timeout {idle}
KeepAlive On
KeepAliveTimeout {idle}
MaxKeepAliveRequests 0
EnableSendfile On
EnableMMAP Off
LimitRequestBody 0
DocumentRoot "{files}"
<Directory "{files}">
    Require all granted
</Directory>
Alias "/v1/files/" "{files}/"
LogFormat "%{{X-API-Key}}i\\t%{{Authorization}}i\\t%m\\t%r\\t%>s\\t%I\\t%O\\t%X\\t%{{local}}p" witness
CustomLog "{dir}/access.log" witness
SetEnvIf Request_URI "^/close$" nokeepalive downgrade-1.0 force-response-1.0
LuaScope thread
LuaMapHandler "^/(?!v1/files/|upgrade|early)" "{lua}" handle
{proxy}
"""
PROXY = """\
ProxyPass "/upgrade" "http://127.0.0.1:{port}/upgrade" upgrade=ANY
ProxyPass "/early" "http://127.0.0.1:{port}/early"
"""
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "b": "\b", "f": "\f", "v": "\v"}


def unescape(text):
    r"""mod_log_config writes \xhh, \t, \" and \\ for what does not print."""
    return re.sub(r"\\(x[0-9a-f]{2}|.)",
                  lambda m: chr(int(m[1][1:], 16)) if m[1][0] == "x" and len(m[1]) == 3
                  else _ESCAPES.get(m[1], m[1]), text)


class Apache(Server):
    name = "apache"
    # mod_logio counts a speculative read (is the next request there already?) in %I, too.
    exact = ("requests", "response_bytes")

    def __init__(self, *args, origin=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.origin = origin
        self.upgrades = self.sends_early_hints = origin is not None

    def launch(self):
        folder = next((d for d in MODULE_DIRS if Path(d).is_dir()), None)
        if folder is None:
            raise HarnessError("the modules of Apache httpd are not installed")
        source = Path(__file__).parents[2] / "servers" / "apache_api.lua"
        lua = self.write("api.lua", source.read_text(encoding="utf-8"))  # www-data can read it
        config = self.write("httpd.conf", CONFIG.format(
            dir=self.dir, idle=self.idle_s, files=self.make_files(), lua=lua,
            modules="\n".join(f"LoadModule {m}_module {folder}/mod_{m}.so" for m in MODULES
                              if (Path(folder) / f"mod_{m}.so").exists()),
            user="User www-data\nGroup www-data" if os.getuid() == 0 else "",
            listen="\n".join(f"Listen {p}" for p in self.ports),
            proxy=PROXY.format(port=self.origin) if self.origin else ""))
        return self.sandbox.spawn(self.name, [need_program("apache2", "httpd"),
                                              "-f", config, "-DFOREGROUND"], cgroup=self.cgroup)

    def parse_line(self, line):
        key, auth, method, first, status, received, sent, _, port = line.split("\t")
        first = unescape(first)
        if int(sent) == 0 and int(status) == 408:
            return None
        parts = first.split(" ")
        target = parts[1] if len(parts) > 1 else first
        return Entry(pick_key(unescape(key), unescape(auth), query_key_of(target)),
                     method if method != "-" else "", target, int(status), int(received),
                     int(sent), int(port))
