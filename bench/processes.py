"""Child processes of the benchmark: their log, their CPU time, and their end in every case."""

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
# The longest calls: a poll of a million operations, and prometheus_client's scrape of a million series.
TIMEOUT_SECONDS = 300
STOPPING_SECONDS = 10


class ChildError(Exception):
    """A child exited or does not answer; the message contains the end of its log."""


class Child:
    """A process that runs *command* while a `with` block runs."""

    def __init__(self, *command, environ=None):
        # If the benchmark is killed, the kernel kills its children, where setpriv is available.
        die_with_parent = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        self._command = [*die_with_parent, *map(str, command)]
        self._environ = {**os.environ, **(environ or {})}
        self._process = None
        self._log = []
        self._log_grew = threading.Condition()
        self._replies = queue.SimpleQueue()
        self._readers = []

    def __enter__(self):
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=self._environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # Ctrl-C must reach only the benchmark, which stops its children one by one.
            start_new_session=True,
        )
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_log, self._read_replies)]
        for reader in self._readers:
            reader.start()
        try:
            self.started()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOPPING_SECONDS)
            except subprocess.TimeoutExpired:
                pass  # it ignores SIGTERM
            finally:
                # Also reached if Ctrl-C interrupts the wait.
                if self._process.poll() is None:
                    self._process.kill()
                    self._process.wait()
        for reader in self._readers:
            reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            try:
                stream.close()
            except BrokenPipeError:
                pass  # it exited before reading everything

    def started(self):
        """Wait until it is ready."""

    @property
    def pid(self):
        return self._process.pid

    def cpu_seconds(self):
        """Return the CPU time of all its threads, including finished ones."""
        # The CPU clock of another process as in clock_getcpuclockid(3), which Python lacks.
        return time.clock_gettime(~self.pid << 3 | 2)

    def resident_bytes(self):
        """Return its resident memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def peak_bytes(self):
        """Return the most memory that was resident at a time."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return 1024 * int(re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)[1])

    def ask(self, do, **order):
        """Call a handler of the child and return the result; see rpc.py."""
        self._process.stdin.write(json.dumps({"do": do, **order}) + "\n")
        self._process.stdin.flush()
        return self.reply()

    def reply(self):
        """Return its next reply."""
        try:
            line = self._replies.get(timeout=TIMEOUT_SECONDS)
        except queue.Empty:
            raise self._error(f"has not replied within {TIMEOUT_SECONDS} s") from None
        if not line:
            raise self._error("has exited")
        return json.loads(line)

    def lines(self):
        """Return all log lines, each with its time in seconds on the monotonic clock."""
        with self._log_grew:
            return list(self._log)

    def times(self, pattern):
        """Return the time of each log line that matches *pattern*, in seconds on the monotonic clock."""
        with self._log_grew:
            return [at for at, line in self._log if re.search(pattern, line)]

    def until(self, pattern, count=1):
        """Wait for the *count*-th log line that matches *pattern*, and return it."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        with self._log_grew:
            while True:
                found = [line for _, line in self._log if re.search(pattern, line)]
                if len(found) >= count:
                    return found[count - 1]
                if time.monotonic() > deadline or (
                    self._process.poll() is not None and not self._readers[0].is_alive()
                ):
                    raise self._error(f"has not logged {pattern!r}")
                self._log_grew.wait(0.2)

    def _error(self, what):
        log = "".join(line for _, line in self._log[-20:])
        return ChildError(f"{' '.join(self._command)} {what}:\n{log}")

    def _read_log(self):
        for line in self._process.stderr:
            with self._log_grew:
                self._log.append((time.monotonic(), line))
                self._log_grew.notify_all()

    def _read_replies(self):
        for line in self._process.stdout:
            self._replies.put(line)
        self._replies.put("")


class Worker(Child):
    """A module of this package in a process; its first reply is its *address*."""

    def __init__(self, module, *arguments, environ=None):
        super().__init__(sys.executable, "-m", f"bench.{module}", *arguments, environ=environ)
        self.address = None

    def started(self):
        self.address = self.reply()


def raise_keyboard_interrupt(*_):
    """Handle SIGTERM like Ctrl-C, so that every child is stopped."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt
