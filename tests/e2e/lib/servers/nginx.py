# SPDX-License-Identifier: Apache-2.0
"""nginx: sendfile, deferred accept, two workers; proxies what it cannot answer itself."""

import json
import re
import subprocess

from .. import api
from ..sandbox import need_program
from .base import Entry, Server, pick_key

CONFIG = """\
daemon off;
worker_processes 2;
pid {dir}/nginx.pid;
error_log {dir}/error.log warn;
load_module {modules}/ngx_http_echo_module.so;
events {{ worker_connections 9000; }}
http {{
    log_format witness escape=json
        '{{"key":"$http_x_api_key","auth":"$http_authorization","query":"$arg_api_key",'
        '"method":"$request_method","uri":"$request_uri","status":$status,'
        '"received":$request_length,"sent":$bytes_sent,"done":"$request_completion",'
        '"conn":$connection,"port":$server_port,'
        '"peer":"$remote_addr","peer_port":$remote_port}}';
    access_log {dir}/access.log witness;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout {idle}s;
    keepalive_requests 1000000;
    client_header_timeout {idle}s;
    client_body_timeout {idle}s;
    lingering_timeout 2s;
    client_max_body_size 0;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    map $http_upgrade $upgrade {{ default upgrade; '' ''; }}
    server {{
        listen unix:{dir}/inner.sock;
        access_log off;
        location / {{ return 200 "{e256}"; }}
    }}
    server {{
        {listen}
        location = /v1/enrich {{ proxy_pass http://unix:{dir}/inner.sock; }}
        location ~ ^/v1/documents/[^/]+/extract$ {{
            echo_read_request_body;
            echo_duplicate 512 x;
        }}
        location /v1/files/ {{ alias {files}/; }}
        location = /slow {{ echo_sleep $arg_s; echo ok; }}
        location ~ ^/chunked/(\\d+)$ {{ echo_duplicate $1 "0123456789abcde\\n"; }}
        location = /close {{ chunked_transfer_encoding off; keepalive_timeout 0; echo bye; }}
        {statuses}
        {upgrade}
        location / {{ echo_read_request_body; echo ok; }}
    }}
}}
"""
UPGRADE = """location = /upgrade {{
            proxy_pass http://127.0.0.1:{port};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $upgrade;
        }}"""


def modules_path():
    """Where this build of nginx keeps its modules."""
    told = subprocess.run([need_program("nginx"), "-V"], capture_output=True, text=True, check=True)
    found = re.search(r"--modules-path=(\S+)", told.stderr)
    return found[1] if found else "/usr/lib/nginx/modules"


class Nginx(Server):
    name = "nginx"

    def __init__(self, *args, origin=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.origin = origin
        self.upgrades = origin is not None

    def launch(self):
        statuses = "\n        ".join(
            f"location = /status/{code} {{ return {code}"
            + (";" if code in (204, 304) else ' "/";' if code in (301, 302) else f' "{code}\\n";')
            + " }" for code in api.STATUSES)
        config = self.write("nginx.conf", CONFIG.format(
            dir=self.dir, idle=self.idle_s, e256="e" * 256, statuses=statuses,
            files=self.make_files(), modules=modules_path(),
            listen="\n        ".join(f"listen {p} deferred backlog=65535;\n"
                                     f"        listen [::]:{p} deferred backlog=65535;"
                                     for p in self.ports),
            upgrade=UPGRADE.format(port=self.origin) if self.origin else ""))
        return self.sandbox.spawn(self.name, [need_program("nginx"), "-c", config,
                                              "-p", self.dir, "-e", self.dir / "error.log"],
                                  cgroup=self.cgroup)

    def stop(self, sig=None):
        super().stop(sig)
        (self.dir / "inner.sock").unlink(missing_ok=True)

    def parse_line(self, line):
        f = json.loads(line.replace("\\x", "\\u00"), strict=False)
        if f["sent"] == 0:
            return None
        key = pick_key(f["key"], f["auth"], f["query"])
        return Entry(key, f["method"], f["uri"], f["status"], f["received"], f["sent"], f["port"])
