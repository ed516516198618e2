"""Keeps the state of every account in one SQLite file, so that a restart goes on where the last process stopped.

What was counted and the operations that it was counted from are written in one transaction: whatever stops the
process, or the machine, the file holds both or neither.
"""

import errno
import fcntl
import json
import os
import sqlite3
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from comms_exporter.base.times import EARLIEST, LATEST
from comms_exporter.collect.state import DAY, TOTALS, AccountState, Snapshot, Tracked
from comms_exporter.model.operations import MAX_COUNT, STATS, Operation, pack, unpack
from comms_exporter.model.readings import Reading

# "COMS": whose file this is, in the place that SQLite has for it.
APPLICATION_ID = 0x434F4D53

# Bytes of SQLite's log that are kept for the next save; a usual one takes less.
_LARGEST_LOG = 8 * 2**20
# Bytes of a value or a row: a damaged file may claim any length.
_LARGEST_VALUE = 2**20
_PACKED_BYTES = len(pack((0,) * len(STATS)))
# The byte of the file that our lock is on. SQLite's own locks are at 2**30, and nothing is written at either.
_LOCKED_BYTE = 2**40
# Seconds between two attempts to get at a file that somebody else has locked.
_PAUSE = 0.02
# What SQLite says of the disk and of other processes, not of what the file holds.
_TROUBLE = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_AUTH,
    }
)

T = TypeVar("T")

# One script for each version of the schema; a file is brought forward by those it has not seen. SQLite keeps the text of
# each CREATE, comments included, and a file with any other text is not trusted: released scripts never change.
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
    """The file holds no state that we can trust."""


# What SQLite has to say of a damaged file may quote it, and so be no text.
_DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError, _UnreadableError)


# What a row may hold: all that this version and earlier ones write, and nothing that anything of ours could not bear.

# Longer than models lets anything be, even if every letter of it was masked.
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=2**16)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
# The stages of an operation are sums of its counters.
_Mark = Annotated[int, msgspec.Meta(ge=0, le=len(STATS) * MAX_COUNT)]
# The largest counts of a trillion operations.
_LARGEST_TOTAL = MAX_COUNT * 2**40
# Our own times are computed from the API's, and 0.1.0 kept operations up to a day beyond what is representable.
_SLACK = 30 * DAY
_Time = Annotated[float, msgspec.Meta(ge=EARLIEST - _SLACK, le=LATEST + _SLACK)]


class _Account(msgspec.Struct, array_like=True):
    first_look: _Time
    horizon: _Time
    seen: _Time
    totals: str
    durations: str


class _Durations(msgspec.Struct, forbid_unknown_fields=True):
    bounds: list[float]
    counts: list[int]
    sum: Annotated[float, msgspec.Meta(ge=0, le=float(_LARGEST_TOTAL))]


class _Operation(msgspec.Struct, array_like=True, gc=False):
    id: _Text
    status: _Text
    created: _Time
    updated: _Time
    reading: Reading
    marks: str
    gone: Literal[0, 1]
    stats: Any


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
    """The state file at *path*; all methods but interrupt() block, so they belong into a thread, one at a time.

    *put_aside* is where a file went that could not be read, and *why*; None where there was none.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        patience: float = 5.0,
        until: Callable[[], float] = lambda: float("inf"),
    ) -> None:
        """Open or make the file; StateInUseError and StoreError say why that cannot be.

        *patience*, in seconds, is for those who have it locked, such as a backup. It is over at *until*, in seconds on the
        monotonic clock, whatever is left of it; nothing is begun afterwards.
        """
        self.path = path
        self.put_aside: Path | None = None
        self.why = ""
        self._clock = clock
        self._patience = patience
        self._until = until
        # The file beside it that is locked, and the file itself.
        self._lock = -1
        self._file = -1
        self._connection: sqlite3.Connection | None = None
        self._size = 0
        self._log: tuple[int, int] | None = None
        # What the file says was saved last, and what it may say: both of two saves, if the second failed at its end.
        self._last_save: tuple[bytes, int] | None = None
        self._expected: set[tuple[bytes, int] | None] = set()
        # The accounts of which this file holds everything, so that only what changes has to be written to it.
        self._complete: set[str] = set()
        try:
            _make_directory(path.parent)
            self._take_lock()
            self._open()
            self._expected = {self._last_save}
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
                _check_accounts(connection)
                loaded = {name: _load(connection, name, state) for name, state in states.items()}
        except (*_DAMAGE, OSError) as error:
            self._disconnect()
            self._recover(error)
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
                loss = "it was removed or replaced" if self.put_aside is None else self.why
                raise StateLostError(f"{self.path}: {loss}; everything is written again")
            with self._transaction() as connection:
                if not complete:
                    connection.execute("DELETE FROM operations WHERE account = ?", [account])
                _save(connection, account, snapshot)
                saved = _last_save(connection)
                # Whether a COMMIT that fails has reached the disk is not known.
                self._expected.add(saved)
            self._expected = {saved}
            self._complete.add(account)
        except (*_DAMAGE, OSError) as error:
            # The next save begins with a new connection, which knows nothing of what went wrong.
            self._disconnect()
            self._recover(error)
            raise StateLostError(f"{self.path}: {self.why}; everything is written again") from None

    def interrupt(self) -> None:
        """Have what another thread does here fail, so that it ends soon."""
        connection = self._connection
        if connection is not None:
            with suppress(sqlite3.ProgrammingError):  # closed meanwhile
                connection.interrupt()

    def close(self) -> None:
        """Let another process have the file."""
        self._release()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _recover(self, error: Exception) -> None:
        """Put the file aside and begin another, if *error* says that it is damaged; StoreError if that is not so."""
        try:
            if not _is_damage(error):
                raise error
            self._put_aside(error)
            self._open()
        except (*_DAMAGE, OSError) as trouble:
            raise StoreError(f"{self.path}: {trouble}") from None

    def _take_lock(self) -> None:
        # By its name, so that nobody takes the place of a file that is being replaced.
        name = Path(f"{self.path}.lock")
        if name.is_symlink():
            raise StoreError(f"{name} is a symbolic link; remove it")
        self._lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        _keep_private(self._lock)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._in_use() from None

    def _in_use(self) -> StateInUseError:
        return StateInUseError(f"{self.path} is in use by another process; give each its own")

    def _open(self) -> None:
        """Connect to the file, or to a new one where there is none or it is damaged."""
        try:
            new = self._claim()
            self._patiently(lambda: self._connect(new=new))
        except _DAMAGE as error:
            if not _is_damage(error):
                raise
            self._put_aside(error)
            self._claim()
            self._patiently(lambda: self._connect(new=True))

    def _claim(self) -> bool:
        """Open and lock the file itself, made where there is none; say whether it is new."""
        _make_directory(self.path.parent)
        self._release()
        new = not self.path.exists()
        if new and Path(f"{self.path}-wal").exists():
            raise _UnreadableError("the file is missing, and its log is not")
        if self.path.is_symlink() and new:
            raise StoreError(f"{self.path} is a symbolic link to nothing; remove it or make the file it leads to")
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK
        # Whoever finds an empty file later knows that it was not always empty.
        self._file = os.open(self.path, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW if new else flags, 0o600)
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise StoreError(f"{self.path} is not a regular file")
        if not _lock_itself(self._file):
            raise self._in_use()
        _keep_private(self._file)
        return new

    def _connect(self, *, new: bool) -> None:
        try:
            self._check_files(new=new)
            connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=0)
            self._connection = connection
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST_VALUE)
            _check(connection, os.pread(self._file, 100, 0), new=new)
            # FULL: a commit is on the disk before anybody is told of what it counted.
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            # A poll in which everything changed must not leave the log as long as it made it.
            connection.execute(f"PRAGMA journal_size_limit = {_LARGEST_LOG}")
            _migrate(connection)
            _check_schema(connection)
            self._last_save = _last_save(connection)
            self._size, self._log = os.fstat(self._file).st_size, _identity(f"{self._real}-wal")
        except BaseException as error:
            self._disconnect()
            if new and not _is_busy(error):
                # Nothing is in it yet; the next start must not take it for one that was emptied.
                for suffix in ("-wal", "-shm", ""):
                    Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            raise

    def _check_files(self, *, new: bool) -> None:
        """Raise where SQLite would do what it should not, without a word."""
        if not new and os.fstat(self._file).st_size == 0:
            raise _UnreadableError("the file is empty")
        for suffix in ("-wal", "-shm", "-journal"):
            if Path(f"{self._real}{suffix}").is_symlink():
                raise StoreError(f"{self._real}{suffix} is a symbolic link; remove it")

    @property
    def _real(self) -> str:
        """Where the file is; SQLite keeps its log there, too."""
        return os.path.realpath(self.path)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _release(self) -> None:
        # In this order: to close any descriptor of a file ends SQLite's own locks on it.
        self._disconnect()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _find_again(self) -> None:
        """Make sure that the connection is to the file that everybody sees, and that it holds what was saved last."""
        if self._connection is not None and self._is_as_it_was():
            return
        # Closing the connection writes its log into the file, if that is still where it was.
        self._disconnect()
        self._open()
        if self._last_save not in self._expected:
            # Every account has to be told, not only the one that comes first.
            self._complete.clear()
        self._expected = {self._last_save}

    def _is_as_it_was(self) -> bool:
        """Whether nobody has removed, replaced or shortened the file, or taken away its log."""
        try:
            now = self.path.stat()
        except FileNotFoundError:
            return False
        before, self._size = self._size, now.st_size
        return (
            os.path.samestat(now, os.fstat(self._file))
            and now.st_size >= before
            and _identity(f"{self._real}-wal") == self._log
        )

    def _put_aside(self, error: Exception) -> None:
        self._release()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock()))
        target = self.path.with_name(f"{self.path.name}.corrupt-{stamp}")
        number = 1
        while os.path.lexists(target) or os.path.lexists(f"{target}-wal"):
            number += 1
            target = self.path.with_name(f"{self.path.name}.corrupt-{stamp}-{number}")
        # The log goes along: SQLite finds it by its name.
        for suffix in ("-wal", "-shm", ""):
            source = Path(f"{self.path}{suffix}")
            if os.path.lexists(source):
                source.rename(f"{target}{suffix}")
        self._complete.clear()
        self.put_aside = target
        self.why = (str(error) or type(error).__name__)[:200]

    def _patiently(self, call: Callable[[], T]) -> T:
        """Return what *call* returns, made again as long as somebody has the file locked and patience lasts."""
        ends = time.monotonic() + self._patience
        while True:
            try:
                return call()
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() >= min(ends, self._until()):
                    raise
            time.sleep(_PAUSE)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        if connection is None or time.monotonic() > self._until():
            raise StoreError(f"{self.path} is closed")
        self._patiently(lambda: connection.execute("BEGIN IMMEDIATE"))
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _make_directory(path: Path) -> None:
    """Make the directory *path* where there is none, and those above it, for nobody but us."""
    if not path.is_dir():
        _make_directory(path.parent)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)


def _keep_private(file: int) -> None:
    """Take *file* away from everybody, if everybody can read or write it; whoever gave it to a group meant that."""
    if os.fstat(file).st_mode & 0o007:
        with suppress(PermissionError):  # somebody else's
            os.fchmod(file, 0o600)


def _lock_itself(file: int) -> bool:
    """Lock *file*, whatever it is called, until it is closed; False if another process has it.

    Not by flock(), which some file systems turn into a lock of the whole file that SQLite could not get past.
    """
    try:
        # Unlike a process's lock, an open file's is not lost when SQLite closes the file.
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _LOCKED_BYTE, 1, 0))
    except BlockingIOError:
        return False
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        # Only Linux has them.
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _LOCKED_BYTE)
        except (BlockingIOError, PermissionError):
            return False
    return True


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _code(error: BaseException) -> int | None:
    """Return SQLite's code for *error*, without what makes it more precise."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _is_busy(error: BaseException) -> bool:
    return _code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _is_damage(error: Exception) -> bool:
    """Whether *error* is about what the file holds: not about the disk, another process, or a bug of ours."""
    if isinstance(error, sqlite3.DatabaseError):
        # What is no UTF-8 has no code: Python says it, not SQLite.
        return (
            not isinstance(error, sqlite3.ProgrammingError | sqlite3.NotSupportedError) and _code(error) not in _TROUBLE
        )
    return isinstance(error, _DAMAGE)


def _check(connection: sqlite3.Connection, header: bytes, *, new: bool) -> None:
    """Raise where the file is not a state that this version can read; nothing of it is changed."""
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    owner, version = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    if empty and (owner, version) == (0, 0):
        if not new:
            raise _UnreadableError("there is nothing in the file")
        return
    if owner != APPLICATION_ID:
        raise _UnreadableError("another program's database")
    if not 0 < version <= len(MIGRATIONS):
        raise _UnreadableError(f"written by a later version of the exporter (schema {version})")
    if header[18:20] not in {b"\1\1", b"\2\2"}:
        # SQLite would read it, and never write it.
        raise _UnreadableError("the format is not known")
    # Not quick_check, which does not see that rows are out of order and so would not be found again.
    ((verdict,),) = connection.execute("PRAGMA integrity_check(1)")
    if verdict != "ok":
        raise _UnreadableError(verdict)


def _check_schema(connection: sqlite3.Connection) -> None:
    """Raise where a table is not as we make it, or there is anything else, such as a trigger."""
    fresh = sqlite3.connect(":memory:", isolation_level=None)
    try:
        _migrate(fresh)
        if _schema(connection) != _schema(fresh):
            raise _UnreadableError("the tables are not those of the exporter")
    finally:
        fresh.close()


def _schema(connection: sqlite3.Connection) -> list[Any]:
    # What SQLite keeps for itself is named after it.
    return connection.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
    ).fetchall()


def _migrate(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(
            f"BEGIN IMMEDIATE; {script}; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number}; COMMIT;"
        )


def _check_accounts(connection: sqlite3.Connection) -> None:
    """Raise where an account has lost its name, and with it what it has counted."""
    try:
        msgspec.convert(connection.execute("SELECT name FROM accounts").fetchall(), list[tuple[_Text]])
    except msgspec.ValidationError as error:
        raise _UnreadableError(str(error)) from None
    stray = "SELECT 1 FROM operations WHERE account NOT IN (SELECT name FROM accounts) LIMIT 1"
    if connection.execute(stray).fetchone() is not None:
        raise _UnreadableError("there are operations of an account that is missing")


def _load(connection: sqlite3.Connection, account: str, empty: AccountState) -> AccountState | None:
    row = connection.execute(
        "SELECT first_look, horizon, seen, totals, durations FROM accounts WHERE name = ?", [account]
    ).fetchone()
    if row is None:
        return None
    saved = AccountState(forced_reading=empty.forced_reading)
    try:
        known = msgspec.convert(row, _Account)
        saved.first_look, saved.horizon, saved.seen = known.first_look, known.horizon, known.seen
        saved.totals = _totals(known.totals)
        durations = _durations(known.durations)
        saved.durations.restore(bounds=durations.bounds, counts=durations.counts, sum=durations.sum)
        rows = connection.execute(
            "SELECT id, status, created, updated, reading, marks, gone, stats FROM operations WHERE account = ?",
            [account],
        )
        saved.restore(filter(None, map(_tracked, rows)))
    except msgspec.MsgspecError as error:
        raise _UnreadableError(str(error)) from None
    return saved


def _totals(text: str) -> list[int]:
    totals = msgspec.json.decode(text, type=dict[str, int])
    if totals.keys() != set(TOTALS):
        raise _UnreadableError("totals are missing, or not known")
    if not all(0 <= n <= _LARGEST_TOTAL for n in totals.values()):
        raise _UnreadableError("a total is no count")
    return [totals[name] for name in TOTALS]


def _durations(text: str) -> _Durations:
    durations = msgspec.json.decode(text, type=_Durations)
    if len(durations.counts) != len(durations.bounds) + 1 or durations.bounds != sorted(set(durations.bounds)):
        raise _UnreadableError("durations do not match their bounds")
    if not all(0 <= n <= _LARGEST_TOTAL for n in durations.counts):
        raise _UnreadableError("durations hold a number that is no count")
    return durations


def _tracked(row: tuple[Any, ...]) -> Tracked | None:
    """Return the operation in *row*; None if it is one that the API's answers are no longer allowed to bring."""
    known = msgspec.convert(row, _Operation)
    if not (_is_text(known.id) and _is_text(known.status)):
        raise _UnreadableError("an operation's id or status is not text")
    if not EARLIEST <= known.created <= LATEST >= known.updated >= EARLIEST:
        return None
    operation = Operation(known.id, sys.intern(known.status), known.created, known.updated, _packed(known.stats))
    if known.marks:
        return Tracked.of(operation, known.reading, _marks(known.marks), gone=bool(known.gone))
    return Tracked(operation, known.reading, None, bool(known.gone))


def _is_text(value: str) -> bool:
    """Whether the API can have said it, see models."""
    return value.isascii() or value.isprintable()


def _packed(stats: object) -> bytes:
    if isinstance(stats, str):
        return pack(tuple(_of_length(STATS, msgspec.json.decode(stats, type=list[_Count | None]))))
    if not isinstance(stats, bytes) or len(stats) != _PACKED_BYTES:
        raise _UnreadableError("an operation's stats are not as they are packed")
    counts = unpack(stats)
    if not -1 <= min(counts) <= max(counts) <= MAX_COUNT:
        raise _UnreadableError("an operation's stats hold a number that is no count")
    return stats


def _marks(text: str) -> tuple[int, ...]:
    return tuple(_of_length(TOTALS, msgspec.json.decode(text, type=list[_Mark])))


def _of_length(names: Sequence[str], values: list[T]) -> list[T]:
    if len(values) != len(names):
        raise _UnreadableError(f"{len(values)} numbers where there should be {len(names)}")
    return values


def _last_save(connection: sqlite3.Connection) -> tuple[bytes, int]:
    rows = connection.execute("SELECT id, saves FROM file LIMIT 2").fetchall()
    try:
        ((name, saves),) = msgspec.convert(rows, list[tuple[bytes, _Count]])
    except (msgspec.ValidationError, ValueError):
        raise _UnreadableError("it does not say which file it is") from None
    return name, saves


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
