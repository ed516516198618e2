"""Keeps the state of every account in one SQLite file, so that a restart goes on where the last process stopped.

What was counted and the operations that it was counted from are written in one transaction: whatever stops the
process, or the machine, the file holds both or neither.
"""

import errno
import fcntl
import json
import os
import sqlite3
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from comms_exporter.models import STATS, Operation, pack
from comms_exporter.state import TOTALS, AccountState, Snapshot, Tracked
from comms_exporter.stats import Reading

# "COMS": whose file this is, in the place that SQLite has for it.
APPLICATION_ID = 0x434F4D53

# Bytes of SQLite's log that are kept for the next save; a usual one takes less.
_LARGEST_LOG = 8 * 2**20
_PACKED_BYTES = len(pack((0,) * len(STATS)))

# One script for each version of the schema; a file is brought forward by those it has not seen.
MIGRATIONS = (
    """
    CREATE TABLE file (
        id BLOB NOT NULL,           -- tells this file from any other
        saves INTEGER NOT NULL      -- and from its own past
    );
    INSERT INTO file VALUES (randomblob(16), 0);
    CREATE TABLE accounts (
        name TEXT PRIMARY KEY,
        first_look REAL NOT NULL,   -- when counting began, in seconds since the epoch
        horizon REAL NOT NULL,      -- what was created before it may have been counted and forgotten
        seen REAL NOT NULL,         -- when everything was last looked at
        totals TEXT NOT NULL,       -- {name: count}
        durations TEXT NOT NULL     -- {"bounds": [...], "counts": [...], "sum": seconds}
    ) WITHOUT ROWID;
    CREATE TABLE operations (
        account TEXT NOT NULL,
        id TEXT NOT NULL,
        status TEXT NOT NULL,
        created REAL NOT NULL,
        updated REAL NOT NULL,
        stats TEXT NOT NULL,        -- as the API last said them, in the order of models.STATS
        reading TEXT NOT NULL,
        marks TEXT NOT NULL,        -- the highest ever seen, in the order of state.TOTALS
        gone INTEGER NOT NULL,
        PRIMARY KEY (account, id)
    ) WITHOUT ROWID;
    """,
    # Stats may be packed, as models.pack() does, and marks empty where the stats say the same: a third of the size, and
    # of the time to write. Rows of the first version are read as they are.
    "",
)


class StoreError(Exception):
    """The state cannot be kept; the message says where and why."""


class StateInUseError(StoreError):
    """Another process keeps its state in this file."""


class StateLostError(StoreError):
    """The file is not the one that was written to before: everything has to be written again."""


class _UnreadableError(Exception):
    """The file holds no state that we could read."""


def check_path(path: Path) -> None:
    """Raise a StoreError where no state could be kept at *path*; nothing is made or opened."""
    # Lacking directories are made in the nearest one that there is.
    there = next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))
    if there == path and not path.is_file():
        number = errno.EISDIR if path.is_dir() else errno.EINVAL
    elif there != path and not there.is_dir():
        number = errno.ENOTDIR
    elif not os.access(there, os.R_OK | os.W_OK | (0 if there == path else os.X_OK)):
        number = errno.EROFS if os.statvfs(there).f_flag & os.ST_RDONLY else errno.EACCES
    else:
        return
    raise StoreError(f"{path}: {os.strerror(number).lower()}")


class Store:
    """The state file at *path*; all methods block, so they belong into a thread, one at a time.

    *put_aside* is where a file went that could not be read, and *why*; None where there was none.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time, patience: float = 5.0) -> None:
        """Open or make the file; StateInUseError and StoreError say why that cannot be.

        *patience*, in seconds, is for those who have it locked, such as a backup.
        """
        self.path = path
        self.put_aside: Path | None = None
        self.why = ""
        self._clock = clock
        self._patience = patience
        self._lock = -1
        self._connection: sqlite3.Connection | None = None
        self._inode = -1
        self._last_save: tuple[bytes, int] | None = None
        # The accounts of which this file holds everything, so that only what changes has to be written to it.
        self._complete: set[str] = set()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            self._open()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise StoreError(f"{path}: {(error.strerror or str(error)).lower()}") from None
            if isinstance(error, sqlite3.Error):
                raise StoreError(f"{path}: {error}") from None
            raise

    def load(self, states: dict[str, AccountState]) -> None:
        """Fill *states*, which are new, with what was saved of the accounts they are named by."""
        try:
            self._find_again()
            with self._transaction() as connection:
                loaded = {name: _load(connection, name, state) for name, state in states.items()}
        except (sqlite3.DatabaseError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            if _is_trouble_of_the_disk(error):
                raise StoreError(f"{self.path}: {error}") from None
            try:
                self._put_aside(error)
                self._connect()
            except (OSError, sqlite3.Error) as second:
                raise StoreError(f"{self.path}: {second}") from None
            return
        known = {name: state for name, state in loaded.items() if state is not None}
        self._complete |= known.keys()
        states.update(known)

    def save(self, account: str, snapshot: Snapshot) -> None:
        """Write *snapshot*, all of it or nothing; when this returns, it is on the disk.

        StateLostError says that the file lacks what was written before, until everything has been written again.
        """
        try:
            self._find_again()
            complete = account in self._complete
            if not complete and not _is_whole(snapshot):
                raise StateLostError(f"{self.path} was removed or replaced; everything is written again")
            with self._transaction() as connection:
                if not complete:
                    connection.execute("DELETE FROM operations WHERE account = ?", [account])
                _save(connection, account, snapshot)
                self._last_save = _last_save(connection)
            self._complete.add(account)
        except (sqlite3.Error, OSError) as error:
            if _is_trouble_of_the_disk(error):
                # The next save begins with a new connection, which knows nothing of it.
                self._disconnect()
                raise StoreError(f"{self.path}: {error}") from None
            self._put_aside(error)
            raise StateLostError(f"{self.path}: {error}; put aside as {self.put_aside}") from None

    def close(self) -> None:
        """Let another process have the file."""
        self._disconnect()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _take_lock(self) -> None:
        # A file beside it, because SQLite's own locks would also keep out who only wants to read or to back it up.
        self._lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateInUseError(f"{self.path} is in use by another process; give each its own") from None

    def _open(self) -> None:
        try:
            self._connect()
        except (sqlite3.DatabaseError, _UnreadableError) as error:
            if _is_trouble_of_the_disk(error):
                raise
            self._put_aside(error)
            self._connect()

    def _connect(self) -> None:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=self._patience)
        try:
            _check(connection)
            # FULL: a commit is on the disk before anybody is told of what it counted.
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            # A poll in which everything changed must not leave the log as long as it made it.
            connection.execute(f"PRAGMA journal_size_limit = {_LARGEST_LOG}")
            _migrate(connection)
            self._last_save = _last_save(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._inode = self.path.stat().st_ino

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _find_again(self) -> None:
        """Make sure that the connection is to the file that everybody sees, and that it holds what was saved last."""
        replaced = False
        if self._connection is not None:
            replaced = not self.path.exists() or self.path.stat().st_ino != self._inode
            if not replaced:
                return
        self._disconnect()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        expected = self._last_save
        self._open()
        if replaced or self._last_save != expected:
            # Every account has to be told, not only the one that comes first.
            self._complete.clear()

    def _put_aside(self, error: Exception) -> None:
        self._disconnect()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock()))
        target = self.path.with_name(f"{self.path.name}.corrupt-{stamp}")
        number = 1
        while target.exists():
            number += 1
            target = self.path.with_name(f"{self.path.name}.corrupt-{stamp}-{number}")
        # The log goes along: SQLite finds it by its name.
        for suffix in ("-wal", "-shm", ""):
            source = Path(f"{self.path}{suffix}")
            if source.exists():
                source.rename(f"{target}{suffix}")
        self._complete.clear()
        self.put_aside = target
        self.why = str(error) or type(error).__name__

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        if connection is None:
            raise StoreError(f"{self.path} is closed")
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _is_trouble_of_the_disk(error: Exception) -> bool:
    """Whether *error* says nothing of what the file holds: full, read-only, locked, unreachable."""
    if isinstance(error, sqlite3.OperationalError):
        return getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR
    return isinstance(error, OSError)


def _check(connection: sqlite3.Connection) -> None:
    """Raise where the file is not a state that this version can read; nothing of it is changed."""
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    owner, version = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    if empty and (owner, version) == (0, 0):
        return
    if owner != APPLICATION_ID:
        raise _UnreadableError("another program's database")
    if version > len(MIGRATIONS):
        raise _UnreadableError(f"written by a later version of the exporter (schema {version})")
    ((verdict,),) = connection.execute("PRAGMA quick_check(1)")
    if verdict != "ok":
        raise _UnreadableError(verdict)


def _migrate(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(
            f"BEGIN IMMEDIATE; {script}; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number}; COMMIT;"
        )


def _load(connection: sqlite3.Connection, account: str, empty: AccountState) -> AccountState | None:
    row = connection.execute(
        "SELECT first_look, horizon, seen, totals, durations FROM accounts WHERE name = ?", [account]
    ).fetchone()
    if row is None:
        return None
    first_look, horizon, seen, totals, durations = row
    saved = AccountState(forced_reading=empty.forced_reading)
    saved.first_look, saved.horizon, saved.seen = float(first_look), float(horizon), float(seen)
    counts = json.loads(totals)
    saved.totals = [int(counts.get(name, 0)) for name in TOTALS]
    saved.durations.restore(**json.loads(durations))
    tracked = []
    columns = "id, status, created, updated, stats, reading, marks, gone"
    for operation_id, status, created, updated, stats, reading, marks, gone in connection.execute(
        f"SELECT {columns} FROM operations WHERE account = ?",  # noqa: S608 - our own words
        [account],
    ):
        operation = Operation(operation_id, sys.intern(status), created, updated, _packed(stats))
        if marks:
            tracked.append(Tracked.of(operation, Reading(reading), _marks(marks), gone=bool(gone)))
        else:
            tracked.append(Tracked(operation, Reading(reading), None, bool(gone)))
    saved.restore(tracked)
    return saved


def _packed(stats: str | bytes) -> bytes:
    try:
        packed = stats if isinstance(stats, bytes) else pack(tuple(json.loads(stats)))
    except struct.error as error:
        raise ValueError(f"stats: {error}") from None
    if len(packed) != _PACKED_BYTES:
        raise ValueError(f"stats of {len(packed)} bytes")
    return packed


def _marks(text: str) -> tuple[int, ...]:
    marks = tuple(map(int, json.loads(text)))
    if len(marks) != len(TOTALS):
        raise ValueError(f"{len(marks)} marks where there should be {len(TOTALS)}")
    return marks


def _last_save(connection: sqlite3.Connection) -> tuple[bytes, int]:
    row = connection.execute("SELECT id, saves FROM file").fetchone()
    if row is None:
        raise _UnreadableError("it does not say which file it is")
    return row[0], row[1]


def _is_whole(snapshot: Snapshot) -> bool:
    return snapshot.tracked == sum(each is not None for each in snapshot.changed.values())


def _save(connection: sqlite3.Connection, account: str, snapshot: Snapshot) -> None:
    connection.execute("UPDATE file SET saves = saves + 1")
    connection.execute(
        "INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?, ?, ?)",
        [
            account,
            snapshot.first_look,
            snapshot.horizon,
            snapshot.seen,
            json.dumps(dict(zip(TOTALS, snapshot.totals, strict=True))),
            json.dumps(snapshot.durations),
        ],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO operations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (_row(account, each) for each in snapshot.changed.values() if each is not None),
    )
    connection.executemany(
        "DELETE FROM operations WHERE account = ? AND id = ?",
        ((account, name) for name, each in snapshot.changed.items() if each is None),
    )


def _row(account: str, tracked: Tracked) -> Sequence[object]:
    operation = tracked.operation
    return (
        account,
        operation.id,
        operation.status,
        operation.created,
        operation.updated,
        operation.packed,
        tracked.reading.value,
        json.dumps(tracked.exceptional) if tracked.exceptional else "",
        tracked.gone,
    )
