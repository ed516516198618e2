"""Write log lines without ever blocking the event loop: a slow or absent reader costs lines, not scrapes."""

import atexit
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol, TextIO

# Bytes of lines that wait for a blocked stream.
MAX_QUEUED_BYTES = 2**20
# How long the end of the process waits for queued lines.
_EXIT_SECONDS = 1.0


class Writer(Protocol):
    """Accepts a line without blocking."""

    def write(self, line: str) -> None: ...  # noqa: D102


def writer_for(stream: TextIO | None, render_dropped: Callable[[int], str]) -> Writer:
    """Return a writer for *stream*; *render_dropped* renders the line that reports how many lines were dropped."""
    if stream is None:  # sys.stderr is None in a process that was started without one
        return _NullWriter()
    try:
        return _FileWriter(stream.fileno(), stream.encoding, render_dropped)
    except (OSError, ValueError):
        return _MemoryWriter(stream)


class _NullWriter:
    def write(self, line: str) -> None:
        """Discard *line*."""


class _MemoryWriter:
    """Writes to a stream that is not a file, and so never blocks."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        try:
            try:
                self._stream.write(line + "\n")
            except UnicodeEncodeError:
                self._stream.write(line.encode("ascii", "backslashreplace").decode() + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass  # the stream was closed; there is nowhere to report it


class _FileWriter:
    """A bounded queue of lines, written to a file by a thread.

    While the file is blocked, the oldest lines are dropped; their number is logged as soon as it is not.
    """

    def __init__(self, file: int, encoding: str, render_dropped: Callable[[int], str]) -> None:
        self._file = file
        self._encoding = encoding
        self._render_dropped = render_dropped
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._dropped = 0
        self._writing = False
        # Reentrant: the garbage collector may run a finalizer that logs while this thread holds the lock.
        self._changed = threading.Condition(threading.RLock())
        threading.Thread(target=self._run, name="log", daemon=True).start()
        atexit.register(self.flush)

    def write(self, line: str) -> None:
        """Queue *line*."""
        data = self._encode(line)
        with self._changed:
            self._queue.append(data)
            self._queued_bytes += len(data)
            while self._queued_bytes > MAX_QUEUED_BYTES and len(self._queue) > 1:
                self._queued_bytes -= len(self._queue.popleft())
                self._dropped += 1
            self._changed.notify_all()

    def flush(self, seconds: float = _EXIT_SECONDS) -> None:
        """Wait until all lines are written, for at most *seconds*."""
        with self._changed:
            self._changed.wait_for(lambda: not self._queue and not self._writing, seconds)

    def _encode(self, line: str) -> bytes:
        return f"{line}\n".encode(self._encoding, "backslashreplace")

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._queue)
                self._writing = True
            # Take a line only when it can be written: until then, the oldest may still be dropped.
            self._wait_until_writable()
            with self._changed:
                dropped, self._dropped = self._dropped, 0
                line = self._queue.popleft()
                self._queued_bytes -= len(line)
            reported = not dropped or self._write(self._encode(self._render_dropped(dropped)))
            written = self._write(line)
            with self._changed:
                self._dropped += (0 if reported else dropped) + (not written)

    def _wait_until_writable(self) -> None:
        poll = select.poll()
        poll.register(self._file, select.POLLOUT)
        poll.poll()

    def _write(self, data: bytes) -> bool:
        """Return whether *data* could be written; a full disk or a closed pipe must not stop the exporter."""
        while data:
            try:
                data = data[os.write(self._file, data) :]
            except BlockingIOError:  # the parent process may have made the file non-blocking
                self._wait_until_writable()
            except OSError:
                return False
        return True
