"""Append what the API returns to a file of JSON lines, from which a week can be played again.

A thread writes the file: a slow or full disk costs lines, not polls.
"""

import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec
from structlog.typing import FilteringBoundLogger

from comms_exporter.base.slices import batched
from comms_exporter.base.times import as_utc
from comms_exporter.model.operations import STATS, Operation
from comms_exporter.store.errors import StateInUseError, StoreError
from comms_exporter.store.files import check_path, keep_private, make_directory

# How long the end of the process waits for lines that are not written yet.
CLOSING_SECONDS = 2.0
# Lines that may wait for a slow disk, with 200 bytes each.
MAX_WAITING = 500_000
_FIRST_BYTES = b'{"time":'
# No line is longer.
_MAX_LINE = 2**16

Entry = dict[str, Any]


def check_recording(path: Path) -> None:
    """Raise a StoreError if a recording at *path* could not be written; creates nothing."""
    if path.is_symlink():
        raise _symbolic_link(path)
    check_path(path)


class Recording:
    """The file at *path*, of at most *max_bytes*; times are seconds since the epoch.

    No method but the constructor waits for the disk. *is_new* says that nothing was recorded before.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int,
        log: FilteringBoundLogger,
        clock: Callable[[], float] = time.time,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """Open or create the file; a StoreError says why that is impossible."""
        self._path = path
        self._max_bytes = max_bytes
        # A later, shorter line might fit, but after a gap nothing more can be played.
        self._is_full = False
        self._log = log
        self._clock = clock
        self._max_waiting = max_waiting
        self._file = -1
        try:
            self._file = self._open()
            self.is_new = os.fstat(self._file).st_size == 0
        except OSError as error:
            self._close_file()
            raise StoreError(f"{path}: {(error.strerror or str(error)).lower()}") from None
        except StoreError:
            self._close_file()
            raise
        self._queue: SimpleQueue[tuple[int, Iterable[Entry]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._fails = False
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)
        self._thread.start()

    def started(self, *, poll_interval: float, forgets: bool) -> None:
        """Record that the exporter has started; *forgets* means that it keeps no state."""
        at = self._clock()
        if self.is_new:
            self._put([{"time": _text(at), "poll_interval": poll_interval}])
        self._put([{"time": _text(at), "exporter": "up", **({"forgets": True} if forgets else {})}])

    def known(self, account: str, operations: Sequence[Operation]) -> None:
        """Record *operations* that the exporter knew before it started, so that a new file has their beginning."""
        if self.is_new and operations:
            # However many: they are in memory anyway.
            self._put(_changes(account, self._clock(), operations), 0)

    def changed(self, account: str, at: float, operations: Sequence[Operation]) -> None:
        """Record that the API returned *operations*, which are new or have changed."""
        self._put(_changes(account, at, operations), len(operations))

    def deleted(self, account: str, at: float, operation_id: str) -> None:
        """Record that the API no longer knows an operation."""
        self._put([{"time": _text(at), "account": account, "deleted": operation_id}])

    def answered(self, account: str, at: float, answer: int | str, retry_after: float | None) -> None:
        """Record how the API answers from now on: with a status code, "timeout", "connection" or "ok"."""
        wait = {} if retry_after is None else {"retry_after": retry_after}
        self._put([{"time": _text(at), "api": answer, "account": account, **wait}])

    def close(self) -> None:
        """Record that the exporter stops, and wait for the disk, but not for long."""
        self._put([{"time": _text(self._clock()), "exporter": "down"}])
        self._queue.put(None)
        self._thread.join(CLOSING_SECONDS)
        if self._thread.is_alive():
            self._log.error("recording is incomplete: the disk is too slow", file=str(self._path))
        else:
            self._close_file()

    def _open(self) -> int:
        make_directory(self._path.parent)
        # Non-blocking, or a named pipe would wait for its reader.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        try:
            self._file = os.open(self._path, flags, 0o600)
        except OSError as error:
            # FreeBSD has another error than Linux.
            if error.errno in {errno.ELOOP, errno.EMLINK}:
                raise _symbolic_link(self._path) from None
            raise
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise StoreError(f"{self._path} is not a regular file")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateInUseError(
                f"{self._path} is in use by another process; each process needs its own recording"
            ) from None
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, len(_FIRST_BYTES), 0) != _FIRST_BYTES:
            raise StoreError(f"{self._path} is not a recording")
        keep_private(self._file)
        if size:
            # A process that was killed may have left half a line.
            start = max(0, size - _MAX_LINE)
            last_lines = os.pread(self._file, _MAX_LINE, start)
            os.ftruncate(self._file, start + last_lines.rfind(b"\n") + 1)
        return self._file

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _put(self, entries: Iterable[Entry], number: int = 1) -> None:
        """Let the thread write *entries*, a *number* of lines that take memory until then."""
        if self._is_full:
            return
        with self._lock:
            fits = self._waiting + number <= self._max_waiting
            if fits:
                self._waiting += number
        if fits:
            self._queue.put((number, entries))
        else:
            self._report_failure("the disk is too slow")

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            number, entries = item
            for batch in batched(entries):
                self._append(b"".join([msgspec.json.encode(entry) + b"\n" for entry in batch]))
            with self._lock:
                self._waiting -= number

    def _append(self, lines: bytes) -> None:
        if self._is_full:
            return
        try:
            size = os.fstat(self._file).st_size
            if size + len(lines) > self._max_bytes:
                self._is_full = True
                self._log.error(
                    "recording has ended: the file has reached its maximum size",
                    file=str(self._path),
                    max_bytes=self._max_bytes,
                )
                return
            try:
                left = memoryview(lines)
                while left:
                    left = left[os.write(self._file, left) :]
            except OSError:
                # Without half a line at the end, whatever comes next can be read.
                with suppress(OSError):
                    os.ftruncate(self._file, size)
                raise
        except OSError as error:
            self._report_failure((error.strerror or str(error)).lower())
        else:
            if self._fails:
                self._fails = False
                self._log.info("recording continues", file=str(self._path))

    def _report_failure(self, error: str) -> None:
        if not self._fails:
            self._fails = True
            self._log.error("recording failed: changes are missing from the file", file=str(self._path), error=error)


def _symbolic_link(path: Path) -> StoreError:
    return StoreError(f"{path} is a symbolic link; its target would be written")


def _changes(account: str, at: float, operations: Sequence[Operation]) -> Iterator[Entry]:
    time_text = _text(at)
    for operation in operations:
        stats = zip(STATS, operation.stats, strict=True)
        yield {
            "time": time_text,
            "account": account,
            "operation": {
                "id": operation.id,
                "status": operation.status,
                "stats": {name: count for name, count in stats if count is not None},
                "createdAt": _text(operation.created),
                "updatedAt": _text(operation.updated),
            },
        }


def _text(moment: float) -> str:
    """Return *moment* in RFC 3339, with as many decimals as it has."""
    return as_utc(moment).isoformat().replace("+00:00", "Z")
