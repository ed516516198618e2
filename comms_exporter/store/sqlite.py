"""Save the state of all accounts in one SQLite file.

Totals and the operations they were counted from are written in one transaction, so the file always has both or neither.
"""

import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from comms_exporter.model.email_records import EmailsSnapshot, SavedEmails
from comms_exporter.model.records import SavedAccount, Snapshot
from comms_exporter.store import rows, schema
from comms_exporter.store.errors import StateLostError, StoreError, UnreadableError
from comms_exporter.store.files import StateFile

T = TypeVar("T")

# The write-ahead log is truncated to this size after a save; most saves need less.
_MAX_WAL_BYTES = 8 * 2**20
# The maximum size of a value or a row: a damaged file may claim any length.
_MAX_VALUE_BYTES = 2**20
_EMAIL_TABLES = ("email_totals", "email_counts", "emails", "email_errors")
# Seconds between two attempts to lock the database.
_LOCK_RETRY_SECONDS = 0.02

# Exceptions that can mean damage. SQLite's messages may quote the file, which may not be UTF-8: hence UnicodeDecodeError.
_DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError, UnreadableError)
# Primary result codes that blame the disk or another process, not the content of the file.
_NOT_DAMAGE = frozenset(
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


class SqliteStore:
    """The state file at *path*; all methods but interrupt() block, so call them from one background thread."""

    def __init__(
        self,
        path: Path,
        *,
        emails: bool = False,
        on_damage: Callable[[Path, str], object] | None = None,
        lock_timeout: float = 5.0,
        deadline: Callable[[], float] = lambda: float("inf"),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open or create the file; raise StateInUseError or StoreError if that is impossible.

        Without *emails*, those in the file are neither loaded nor changed by saves of the changes of operations.
        A damaged file is renamed and replaced by a new one; *on_damage* is called with its new name and the reason.
        *lock_timeout* is how many seconds to wait for a lock, for example during a backup. No call begins or waits after
        *deadline*, on the monotonic clock.
        """
        self.path = path
        self._file = StateFile(path)
        self._emails = emails
        self._on_damage = on_damage
        self._lock_timeout = lock_timeout
        self._deadline = deadline
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        # The id and the number of saves that the file should have. Two such pairs if it is unknown whether a COMMIT succeeded.
        self._expected: set[tuple[bytes, int]] = set()
        self._last_save = (b"", 0)
        # The accounts that the file holds completely, so that saving their changes is enough; and why it lacks the others.
        self._complete: set[str] = set()
        self._loss = "it lacks earlier saves"
        try:
            self._file.lock()
            self._open()
            self._expected = {self._last_save}
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise StoreError(f"{path}: {(error.strerror or str(error)).lower()}") from None
            if isinstance(error, sqlite3.Error):
                raise StoreError(f"{path}: {error}") from None
            raise

    def load(self, names: Collection[str]) -> dict[str, SavedAccount]:
        """Return the saved accounts among *names*; none if the file turns out to be damaged."""
        try:
            self._reopen_if_changed()
            with self._transaction() as connection:
                _check_accounts(connection)
                loaded = {name: _load(connection, name, emails=self._emails) for name in names}
        except (*_DAMAGE, OSError) as error:
            self._disconnect()
            self._recover(error)
            return {}
        saved = {name: account for name, account in loaded.items() if account is not None}
        self._complete |= saved.keys()
        return saved

    def names(self) -> list[str]:
        """Return the names of all saved accounts."""
        with self._reading() as connection:
            return _names(connection)

    def load_each(self) -> Iterator[tuple[str, SavedAccount]]:
        """Yield every saved account with its name, one at a time."""
        with self._reading() as connection:
            _check_accounts(connection)
            for name in _names(connection):
                account = _load(connection, name, emails=self._emails)
                if account is not None:
                    yield name, account

    def save(self, account: str, snapshot: Snapshot) -> None:
        """Write *snapshot* as a whole or not at all; when this returns, it is on disk.

        StateLostError means that the file lacks earlier saves of *account*; it is raised until a snapshot is complete.
        """
        try:
            self._reopen_if_changed()
            complete = account in self._complete
            if not complete and not snapshot.is_complete:
                raise self._state_lost()
            with self._transaction() as connection:
                if not complete:
                    for table in ("operations", *_EMAIL_TABLES):
                        connection.execute(f"DELETE FROM {table} WHERE account = ?", [account])  # noqa: S608  a constant
                _save(connection, account, snapshot)
                last_save = _last_save(connection)
                # A COMMIT that fails may have reached the disk all the same.
                self._expected.add(last_save)
            self._expected = {last_save}
            self._complete.add(account)
        except (*_DAMAGE, OSError) as error:
            # Reconnect for the next save.
            self._disconnect()
            self._recover(error)
            raise self._state_lost() from None

    def interrupt(self) -> None:
        """Make the current call, in another thread, fail soon."""
        connection = self._connection
        if connection is not None:
            with suppress(sqlite3.ProgrammingError):  # closed in the meantime
                connection.interrupt()

    def close(self) -> None:
        """Close the file, so that another process can use it."""
        self._release()
        self._file.unlock()

    def _state_lost(self) -> StateLostError:
        return StateLostError(f"{self.path}: {self._loss}; the next save rewrites it completely")

    def _recover(self, error: Exception) -> None:
        """Replace the file by a new one if *error* means that it is damaged; otherwise raise a StoreError."""
        try:
            if not _is_damage(error):
                raise error
            self._rename_damaged(error)
            self._open()
        except (*_DAMAGE, OSError) as failure:
            raise StoreError(f"{self.path}: {failure}") from None

    def _open(self) -> None:
        """Connect to the file, or to a new one if there is none or it is damaged."""
        try:
            new = self._claim()
            self._retry_while_locked(lambda: self._connect(new=new))
        except _DAMAGE as error:
            if not _is_damage(error):
                raise
            self._rename_damaged(error)
            self._claim()
            self._retry_while_locked(lambda: self._connect(new=True))

    def _claim(self) -> bool:
        """Open and lock the file for this process; return whether it is new."""
        self._release()
        return self._file.open()

    def _connect(self, *, new: bool) -> None:
        try:
            self._file.check(new=new)
            connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=0)
            self._connection = connection
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
            schema.check(connection, self._file.header(), new=new)
            connection.execute("PRAGMA journal_mode = WAL")
            # A commit is on disk before a scrape returns what it counted.
            connection.execute("PRAGMA synchronous = FULL")
            # After a large save, the log shrinks again.
            connection.execute(f"PRAGMA journal_size_limit = {_MAX_WAL_BYTES}")
            schema.migrate(connection)
            self._last_save = _last_save(connection)
            self._file.remember()
        except BaseException as error:
            self._disconnect()
            if new and not _is_busy(error):
                self._file.remove()
            raise

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _release(self) -> None:
        # In this order: closing any descriptor of a file releases all of SQLite's locks on it.
        self._disconnect()
        self._file.close()

    def _reopen_if_changed(self) -> None:
        """Reopen the file if it was removed, replaced or truncated, and notice if it lacks the last save."""
        if self._connection is not None and self._file.is_same():
            return
        # Closing the connection writes its log into the file, if that is still in its place.
        self._disconnect()
        self._open()
        if self._last_save not in self._expected:
            # For every account: each has to save everything again.
            self._lose("it was removed or replaced")
        self._expected = {self._last_save}

    def _rename_damaged(self, error: Exception) -> None:
        reason = (str(error) or type(error).__name__)[:200]
        self._disconnect()
        renamed_to = self._file.rename(self._clock())
        self._lose(reason)
        if self._on_damage is not None:
            self._on_damage(renamed_to, reason)

    def _lose(self, reason: str) -> None:
        # The first reason: after damage, the new file also looks like one that somebody replaced.
        if self._complete:
            self._loss = reason
        self._complete.clear()

    def _retry_while_locked(self, call: Callable[[], T]) -> T:
        """Return what *call* returns; while another process has the file locked, repeat it until the lock timeout."""
        give_up_at = time.monotonic() + self._lock_timeout
        while True:
            try:
                return call()
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() >= min(give_up_at, self._deadline()):
                    raise
            time.sleep(_LOCK_RETRY_SECONDS)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Begin a transaction that leaves a damaged file where it is: a StoreError says what is wrong."""
        try:
            with self._transaction() as connection:
                yield connection
        except _DAMAGE as error:
            raise StoreError(f"{self.path}: {error}") from None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        if connection is None or time.monotonic() > self._deadline():
            raise StoreError(f"{self.path} is closed")
        self._retry_while_locked(lambda: connection.execute("BEGIN IMMEDIATE"))
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _check_accounts(connection: sqlite3.Connection) -> None:
    """Raise an UnreadableError if an account has lost its name, and so its totals."""
    _names(connection)
    for table, known in (
        ("operations", "SELECT name FROM accounts"),
        ("email_totals", "SELECT name FROM accounts"),
        *((table, "SELECT account FROM email_totals") for table in _EMAIL_TABLES[1:]),
    ):
        orphan = f"SELECT 1 FROM {table} WHERE account NOT IN ({known}) LIMIT 1"  # noqa: S608  constants
        if connection.execute(orphan).fetchone() is not None:
            raise UnreadableError("some operations or emails belong to no account")


def _names(connection: sqlite3.Connection) -> list[str]:
    return rows.read_names(connection.execute("SELECT name FROM accounts ORDER BY name").fetchall())


def _load(connection: sqlite3.Connection, account: str, *, emails: bool = False) -> SavedAccount | None:
    row = connection.execute(
        "SELECT first_look, horizon, seen, totals, durations FROM accounts WHERE name = ?", [account]
    ).fetchone()
    if row is None:
        return None
    operations = connection.execute(
        "SELECT id, status, created, updated, reading, marks, gone, stats, began FROM operations WHERE account = ?",
        [account],
    )
    return rows.read_account(row, operations, _load_emails(connection, account) if emails else None)


def _load_emails(connection: sqlite3.Connection, account: str) -> SavedEmails | None:
    totals = connection.execute("SELECT totals FROM email_totals WHERE account = ?", [account]).fetchone()
    if totals is None:
        return None
    return rows.read_emails(
        totals,
        connection.execute("SELECT label, value, counts FROM email_counts WHERE account = ?", [account]),
        connection.execute("SELECT id, known FROM emails WHERE account = ?", [account]),
        connection.execute("SELECT operation, failed, codes FROM email_errors WHERE account = ?", [account]),
    )


def _save(connection: sqlite3.Connection, account: str, snapshot: Snapshot) -> None:
    connection.execute("UPDATE file SET saves = saves + 1")
    connection.execute(
        "INSERT OR REPLACE INTO accounts (name, first_look, horizon, seen, totals, durations) VALUES (?, ?, ?, ?, ?, ?)",
        [account, *rows.account_row(snapshot)],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO operations (account, id, status, created, updated, stats, reading, marks, gone, began)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (rows.operation_row(account, each) for each in snapshot.changed.values() if each is not None),
    )
    connection.executemany(
        "DELETE FROM operations WHERE account = ? AND id = ?",
        ((account, operation_id) for operation_id, each in snapshot.changed.items() if each is None),
    )
    if snapshot.emails is not None:
        _save_emails(connection, account, snapshot.emails)


def _save_emails(connection: sqlite3.Connection, account: str, snapshot: EmailsSnapshot) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO email_totals (account, totals) VALUES (?, ?)",
        [account, *rows.email_totals_row(snapshot.totals)],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO email_counts (account, label, value, counts) VALUES (?, ?, ?, ?)",
        (rows.email_counts_row(account, series, counts) for series, counts in snapshot.counts.items()),
    )
    connection.executemany(
        "INSERT OR REPLACE INTO emails (account, id, known) VALUES (?, ?, ?)",
        ((account, rows.email_id(key), known) for key, known in snapshot.known.items() if known is not None),
    )
    connection.executemany(
        "DELETE FROM emails WHERE account = ? AND id = ?",
        ((account, rows.email_id(key)) for key, known in snapshot.known.items() if known is None),
    )
    connection.executemany(
        "INSERT OR REPLACE INTO email_errors (account, operation, failed, codes) VALUES (?, ?, ?, ?)",
        (
            rows.email_errors_row(account, each, errors)
            for each, errors in snapshot.errors.items()
            if errors is not None
        ),
    )
    connection.executemany(
        "DELETE FROM email_errors WHERE account = ? AND operation = ?",
        ((account, each) for each, errors in snapshot.errors.items() if errors is None),
    )


def _last_save(connection: sqlite3.Connection) -> tuple[bytes, int]:
    """Return the id of the file and its number of saves, which identify the last save."""
    return rows.read_last_save(connection.execute("SELECT id, saves FROM file LIMIT 2").fetchall())


def _is_damage(error: Exception) -> bool:
    """Whether *error* is caused by the content of the file, not by the disk, another process, or a bug."""
    if isinstance(error, sqlite3.DatabaseError):
        # An error about text that is not UTF-8 has no code: Python raises it, not SQLite.
        return (
            not isinstance(error, sqlite3.ProgrammingError | sqlite3.NotSupportedError)
            and _primary_code(error) not in _NOT_DAMAGE
        )
    return isinstance(error, _DAMAGE)


def _is_busy(error: BaseException) -> bool:
    return _primary_code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _primary_code(error: BaseException) -> int | None:
    """Return SQLite's primary result code, which is the low byte of an extended one."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
