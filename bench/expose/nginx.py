"""nginx for comparison: it serves the same bytes from files."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from bench.processes import ROOT, Child, ChildError

FETCHED = ROOT / ".tools" / "nginx" / "nginx"
_STARTING_SECONDS = 10
_CONFIGURATION = """\
daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {{ worker_connections 64; }}
http {{
    access_log off;
    default_type text/plain;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    client_body_temp_path temporary;
    proxy_temp_path temporary;
    fastcgi_temp_path temporary;
    uwsgi_temp_path temporary;
    scgi_temp_path temporary;
    server {{
        listen 127.0.0.1:{port};
        root .;
        gzip_static on;
    }}
}}
"""


class MissingError(Exception):
    """nginx is not available; the message says why."""


class Nginx(Child):
    """Serves the files in *folder*, and their .gz files to clients that accept gzip."""

    def __init__(self, program, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        (folder / "nginx.conf").write_text(_CONFIGURATION.format(port=self._port), encoding="utf-8")
        super().__init__(program, "-p", folder, "-c", "nginx.conf", "-e", "stderr")
        self.url = f"http://127.0.0.1:{self._port}"

    def started(self):
        deadline = time.monotonic() + _STARTING_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port)).close()
            except ConnectionRefusedError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise ChildError(f"nginx does not listen:\n{self._log}") from None
                time.sleep(0.02)
            else:
                return


def find():
    """Return the installed nginx, or one fetched from Debian into .tools; MissingError says why there is none."""
    installed = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if installed:
        return Path(installed)
    if not FETCHED.exists():
        _fetch()
    return FETCHED


def version(program):
    """Return its version."""
    done = subprocess.run([program, "-v"], capture_output=True, text=True, check=True)
    return done.stderr.strip().rpartition("/")[2]


def _fetch():
    """Unpack Debian's package without installing it, as tools/fetch-prometheus does."""
    if not shutil.which("apt-get"):
        raise MissingError("nginx is not installed, and there is no apt-get to fetch it with")
    with tempfile.TemporaryDirectory(prefix="nginx-") as work:
        for name in ("lists/partial", "cache/archives/partial"):
            Path(work, name).mkdir(parents=True)
        own = [
            *("-o", f"Dir::State::lists={work}/lists", "-o", f"Dir::Cache={work}/cache"),
            *("-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3"),
        ]
        try:
            # First with the package lists of the system. If that fails, with new lists.
            if not _succeeds(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", "nginx"], work):
                _succeeds(["apt-get", "-qq", *own, "update"], work)
                if not _succeeds(["apt-get", "-qq", *own, "download", "nginx"], work):
                    raise MissingError("nginx is not installed, and apt-get cannot fetch it")
            (package,) = Path(work).glob("nginx_*.deb")
            if not _succeeds(["dpkg-deb", "-x", package, f"{work}/root"], work):
                raise MissingError("Debian's nginx cannot be unpacked")
            program = Path(work, "root/usr/sbin/nginx")
            if not _succeeds([program, "-v"], work):
                raise MissingError("Debian's nginx does not run on this machine")
        except (FileNotFoundError, ValueError) as error:
            raise MissingError(f"nginx is not installed, and cannot be fetched: {error}") from None
        FETCHED.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(program, FETCHED)


def _succeeds(command, folder):
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0
