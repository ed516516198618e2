"""Children of the benchmark: their log, their CPU to the nanosecond, and their end, whatever else ends."""

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
# A poll of a million operations, or a scrape of as many series by prometheus_client, is the longest that anything takes.
PATIENCE_SECONDS = 300
STOPPING_SECONDS = 10


class ChildError(Exception):
    """A child ended or fell silent; the message has its last words."""


class Child:
    """The process of *command*, for as long as a `with` lasts."""

    def __init__(self, *command, environ=None):
        # Should the benchmark be killed, its children go with it, where Linux can do that.
        leash = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        self._command = [*leash, *map(str, command)]
        self._environ = {**os.environ, **(environ or {})}
        self._process = None
        self._log = []
        self._heard = threading.Condition()
        self._answers = queue.SimpleQueue()
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
            # Ctrl-C is for the benchmark, which stops them one by one.
            start_new_session=True,
        )
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_log, self._read_answers)]
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
                pass  # it does not listen
            finally:
                # Here too when we are interrupted while waiting.
                if self._process.poll() is None:
                    self._process.kill()
                    self._process.wait()
        for reader in self._readers:
            reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            try:
                stream.close()
            except BrokenPipeError:
                pass  # it went before it had read all

    def started(self):
        """Return once it can be used."""

    @property
    def pid(self):
        return self._process.pid

    def cpu_seconds(self):
        """Return the CPU that all its threads have used, past ones included."""
        # The kernel's clock of another process: clock_getcpuclockid(3), which Python does not have.
        return time.clock_gettime(~self.pid << 3 | 2)

    def resident_bytes(self):
        """Return the memory that it has at the moment."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def ask(self, do, **order):
        """Return what comes of an order; see rpc.py."""
        self._process.stdin.write(json.dumps({"do": do, **order}) + "\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self):
        """Return the next thing that it tells."""
        try:
            line = self._answers.get(timeout=PATIENCE_SECONDS)
        except queue.Empty:
            raise self._trouble("gives no answer") from None
        if not line:
            raise self._trouble("has ended")
        return json.loads(line)

    def times(self, pattern):
        """Return when its log had each line with *pattern*, in seconds on the monotonic clock."""
        with self._heard:
            return [at for at, line in self._log if re.search(pattern, line)]

    def until(self, pattern, count=1):
        """Return the *count*-th line of its log with *pattern*, once it is there."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        with self._heard:
            while True:
                found = [line for _, line in self._log if re.search(pattern, line)]
                if len(found) >= count:
                    return found[count - 1]
                if time.monotonic() > deadline or (
                    self._process.poll() is not None and not self._readers[0].is_alive()
                ):
                    raise self._trouble(f"does not say {pattern!r}")
                self._heard.wait(0.2)

    def _trouble(self, what):
        said = "".join(line for _, line in self._log[-20:])
        return ChildError(f"{' '.join(self._command)} {what}:\n{said}")

    def _read_log(self):
        for line in self._process.stderr:
            with self._heard:
                self._log.append((time.monotonic(), line))
                self._heard.notify_all()

    def _read_answers(self):
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")


class Worker(Child):
    """A module of this package as a process; what it first tells is its *address*."""

    def __init__(self, module, *arguments, environ=None):
        super().__init__(sys.executable, "-m", f"bench.{module}", *arguments, environ=environ)
        self.address = None

    def started(self):
        self.address = self.answer()


def end_as_by_interrupt(*_):
    """Let SIGTERM unwind like Ctrl-C, so that every child is stopped."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt
