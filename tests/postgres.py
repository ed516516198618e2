"""A PostgreSQL server of the tests: on a free port, with its files in a temporary directory, gone afterwards."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

# PostgreSQL refuses to run as root. Debian's package creates this user.
_USER = "postgres"


def programs():
    """Return the folder with PostgreSQL's server programs, None if it is not installed."""
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parent.name))]
    if found := shutil.which("initdb"):
        folders.append(Path(found).parent)
    return next((folder for folder in folders if (folder / "pg_ctl").exists() and (folder / "initdb").exists()), None)


def _can_run():
    if programs() is None:
        return False
    try:
        pwd.getpwnam(_USER)
    except KeyError:
        return os.getuid() != 0
    return os.getuid() == 0 or pwd.getpwuid(os.getuid()).pw_name == _USER


needs_postgres = pytest.mark.skipif(not _can_run(), reason="needs PostgreSQL's server programs")


class Server:
    """A PostgreSQL server in *folder*."""

    def __init__(self, folder):
        self.folder = Path(folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql://comms@127.0.0.1:{self.port}/postgres"

    def run(self, program, *arguments):
        """Run one of the server's programs as its user."""
        as_user = ["runuser", "-u", _USER, "--"] if os.getuid() == 0 else []
        subprocess.run(
            [*as_user, programs() / program, *arguments],
            check=True,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )

    def start(self):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        self.run("pg_ctl", "-D", self.folder / "data", "-w", "-o", options, "-l", self.folder / "log", "start")

    def stop(self, mode="fast"):
        self.run("pg_ctl", "-D", self.folder / "data", "-w", "-m", mode, "stop")

    def send(self, number):
        """Send a signal to the server and to all its sessions: SIGSTOP makes it hang, as a stalled disk does."""
        server = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        for each in [server, *map(int, children)]:
            with suppress(ProcessLookupError):
                os.kill(each, number)

    def schema(self):
        """Return the name of a schema that nobody else uses."""
        return f"test_{uuid.uuid4().hex[:12]}"


@contextmanager
def running():
    """Run a server within the context."""
    # Where its user can reach it, which a TMPDIR of root's may prevent.
    place = "/tmp" if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="comms-postgres-", dir=place, ignore_cleanup_errors=True) as folder:
        server = Server(folder)
        if os.getuid() == 0:
            shutil.chown(folder, _USER)
        server.run("initdb", "-D", server.folder / "data", "-A", "trust", "-U", "comms", "--no-sync")
        server.start()
        try:
            yield server
        finally:
            try:
                server.stop("immediate")
            except subprocess.CalledProcessError:
                # A test has stopped it.
                pass
