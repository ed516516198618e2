"""Save the state of the accounts that this exporter owns in PostgreSQL.

Every transaction first proves that the account is still owned: it updates the account's row on the condition that member and
epoch are the claimed ones. Whoever takes the account over changes both, and waits for that row.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from comms_exporter.model.email_records import EmailsSnapshot, SavedEmails
from comms_exporter.model.records import SavedAccount, Snapshot
from comms_exporter.store import rows
from comms_exporter.store.errors import (
    DatabaseAwayError,
    NotOwnerError,
    StateLostError,
    StoreError,
    StoreRefusedError,
    UnreadableError,
)
from comms_exporter.store.postgres.claims import Claim, Claims
from comms_exporter.store.postgres.connection import Connection, Transaction

T = TypeVar("T")

# Rows in one statement: its parameters take a few megabytes.
_LOT = 5000
# An account that the database fails to read is tried again after so many seconds.
_RETRY_SECONDS = 30.0
_FENCE = "id = %s AND owner = %s AND epoch = %s"
# In the order of rows.account_row().
ACCOUNT_COLUMNS = "first_look, horizon, seen, totals, durations"
_EMAIL_TABLES = ("email_totals", "email_counts", "emails", "email_errors")


class PostgresStore:
    """The accounts among *claims* in *schema*; all methods but interrupt() block, so call them from one background thread."""

    def __init__(
        self,
        connection: Connection,
        claims: Claims,
        *,
        emails: bool = False,
        on_unreadable: Callable[[str, str], object] = lambda *_: None,
    ) -> None:
        """Without *emails*, those in the database are neither loaded nor changed; *on_unreadable* takes an account and why."""
        self._connection = connection
        self._claims = claims
        self._emails = emails
        self._on_unreadable = on_unreadable
        # How many saves the row of an account has had: two numbers if it is unknown whether a COMMIT succeeded. An account that
        # is missing here has to be saved completely.
        self._saves: dict[str, set[int]] = {}
        # When to try again to load the accounts that the database failed to read.
        self._retry_at: dict[str, float] = {}

    def load(self, names: Collection[str]) -> dict[str, SavedAccount]:
        """Return the saved accounts among *names*; one that is not owned, or unreadable, is given up and missing.

        One that the database fails to read is missing, too, and not held: the others need not wait for it.
        """
        saved: dict[str, SavedAccount] = {}
        for name in names:
            # Whatever is known of it counts no more, even if loading fails.
            self._claims.unload(name)
            claim = self._claims.get(name)
            if claim is None or time.monotonic() < self._retry_at.get(name, 0.0):
                continue
            self._saves.pop(name, None)
            try:
                found = self._connection.run_again(lambda transaction, claim=claim: self._load(transaction, claim))  # type: ignore[misc]
            except NotOwnerError:
                self._claims.lose(name, claim)
                continue
            except UnreadableError as error:
                self._claims.refuse(name, claim)
                self._on_unreadable(name, str(error)[:200])
                continue
            except (DatabaseAwayError, StoreRefusedError):
                raise
            except StoreError as error:
                if name not in self._retry_at:
                    self._on_unreadable(name, str(error)[:200])
                self._retry_at[name] = time.monotonic() + _RETRY_SECONDS
                continue
            self._retry_at.pop(name, None)
            self._claims.loaded(name, claim)
            if found is not None:
                saved[name], saves = found
                self._saves[name] = {saves}
        return saved

    def save(self, account: str, snapshot: Snapshot) -> None:
        """Write *snapshot* as a whole or not at all; when this returns, it survives a crash.

        NotOwnerError means that another exporter owns *account*, or has since it was loaded. StateLostError means that the
        database lacks earlier saves, for example because a backup was restored; it is raised until a snapshot is complete.
        """
        claim = self._claims.held(account)
        if claim is None:
            raise _not_owner(account)
        expected = self._saves.get(account)
        if expected is None and not snapshot.is_complete:
            raise StateLostError(f"the database lacks earlier saves of {account}; the next one rewrites it completely")
        saves = 0

        def work(transaction: Transaction) -> None:
            nonlocal saves
            saves = _prove(transaction, account, claim, snapshot)
            if expected is None:
                for table in ("operations", *(_EMAIL_TABLES if self._emails else ())):
                    transaction.execute(f"DELETE FROM {{}}.{table} WHERE account = %s", [claim.id])  # noqa: S608  constants
            elif saves - 1 not in expected:
                del self._saves[account]
                raise StateLostError(
                    f"the state of {account} was replaced in the database; the next save rewrites it completely"
                )
            else:
                # A COMMIT that fails may have reached the disk all the same.
                expected.add(saves)
            write_account(transaction, claim.id, snapshot)

        try:
            self._connection.run(work)
        except NotOwnerError:
            self._claims.lose(account, claim)
            raise
        self._saves[account] = {saves}

    def interrupt(self) -> None:
        """Make the current call, in another thread, fail soon."""
        self._connection.interrupt()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _load(self, transaction: Transaction, claim: Claim) -> tuple[SavedAccount, int] | None:
        found = transaction.execute(
            f"SELECT saves, {ACCOUNT_COLUMNS} FROM {{}}.accounts WHERE {_FENCE}",  # noqa: S608  constants
            [claim.id, claim.member, claim.epoch],
        )
        if not found:
            raise _not_owner("the account")
        saves, *account = found[0]
        return (
            None if account[0] is None else (read_account(transaction, claim.id, account, emails=self._emails), saves)
        )


def _prove(transaction: Transaction, account: str, claim: Claim, snapshot: Snapshot) -> int:
    """Write the account's row, which stays locked until the COMMIT, and return how many saves it has had."""
    found = transaction.execute(
        f"UPDATE {{}}.accounts SET saves = saves + 1, ({ACCOUNT_COLUMNS}) = (%s, %s, %s, %s, %s)"  # noqa: S608  constants
        f" WHERE {_FENCE} RETURNING saves",
        [*rows.account_row(snapshot), claim.id, claim.member, claim.epoch],
    )
    if not found:
        raise _not_owner(account)
    return int(found[0][0])


def read_account(transaction: Transaction, account: int, columns: Sequence[Any], *, emails: bool) -> SavedAccount:
    """Return the account with this id, whose row has these *columns*; an UnreadableError means that somebody has edited it."""
    saved_emails = _read_emails(transaction, account) if emails else None
    with transaction.stream(
        "SELECT id, status, created, updated, reading, marks, gone::int, stats, began FROM {}.operations WHERE account = %s",
        [account],
    ) as operations:
        return rows.read_account(columns, operations, saved_emails)


def _read_emails(transaction: Transaction, account: int) -> SavedEmails | None:
    totals = transaction.execute("SELECT totals FROM {}.email_totals WHERE account = %s", [account])
    if not totals:
        return None
    return rows.read_emails(
        totals[0],
        transaction.execute("SELECT label, value, counts FROM {}.email_counts WHERE account = %s", [account]),
        transaction.execute("SELECT id, known FROM {}.emails WHERE account = %s", [account]),
        transaction.execute("SELECT operation, failed, codes FROM {}.email_errors WHERE account = %s", [account]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """A table with rows of accounts: its columns with their types, and how many of the first identify a row of an account."""

    name: str
    columns: Mapping[str, str]
    keys: int = 1

    def write(self, transaction: Transaction, account: int, values: Iterable[Sequence[Any]]) -> None:
        """Insert or replace rows."""
        names = list(self.columns)
        updates = ", ".join(f"{name} = excluded.{name}" for name in names[self.keys :])
        arrays = ", ".join(f"%b::{kind}[]" for kind in self.columns.values())
        statement = (
            f"INSERT INTO {{}}.{self.name} (account, {', '.join(names)}) SELECT %b::int4, * FROM unnest({arrays})"  # noqa: S608  constants
            f" ON CONFLICT ({', '.join(['account', *names[: self.keys]])}) DO UPDATE SET {updates}"
        )
        for lot in _lots(values):
            transaction.execute(statement, [account, *map(list, zip(*lot, strict=True))])

    def delete(self, transaction: Transaction, account: int, keys: Iterable[Any]) -> None:
        """Delete the rows with *keys*."""
        name, kind = next(iter(self.columns.items()))
        statement = f"DELETE FROM {{}}.{self.name} WHERE account = %b::int4 AND {name} = ANY(%b::{kind}[])"  # noqa: S608  constants
        for lot in _lots(keys):
            transaction.execute(statement, [account, lot])


_OPERATIONS = _Table(
    name="operations",
    columns={
        "id": "text",
        "status": "text",
        "created": "float8",
        "updated": "float8",
        "stats": "bytea",
        "reading": "text",
        "marks": "text",
        "gone": "bool",
        "began": "float8",
    },
)
_EMAIL_TOTALS = _Table(name="email_totals", columns={"totals": "text"}, keys=0)
_EMAIL_COUNTS = _Table(name="email_counts", columns={"label": "text", "value": "text", "counts": "text"}, keys=2)
_EMAILS = _Table(name="emails", columns={"id": "bytea", "known": "int8"})
_EMAIL_ERRORS = _Table(name="email_errors", columns={"operation": "text", "failed": "int8", "codes": "text"})


def write_account(transaction: Transaction, account: int, snapshot: Snapshot) -> None:
    """Write the changes in *snapshot* to the account with this id, but not its row."""
    operations = (rows.operation_row("", each)[1:] for each in snapshot.changed.values() if each is not None)
    _OPERATIONS.write(transaction, account, operations)
    _OPERATIONS.delete(transaction, account, _missing(snapshot.changed))
    if snapshot.emails is not None:
        _write_emails(transaction, account, snapshot.emails)


def _write_emails(transaction: Transaction, account: int, snapshot: EmailsSnapshot) -> None:
    _EMAIL_TOTALS.write(transaction, account, [rows.email_totals_row(snapshot.totals)])
    counts = (rows.email_counts_row("", series, each)[1:] for series, each in snapshot.counts.items())
    _EMAIL_COUNTS.write(transaction, account, counts)
    known = ((rows.email_id(key), each) for key, each in snapshot.known.items() if each is not None)
    _EMAILS.write(transaction, account, known)
    _EMAILS.delete(transaction, account, map(rows.email_id, _missing(snapshot.known)))
    errors = (rows.email_errors_row("", each, of)[1:] for each, of in snapshot.errors.items() if of is not None)
    _EMAIL_ERRORS.write(transaction, account, errors)
    _EMAIL_ERRORS.delete(transaction, account, _missing(snapshot.errors))


def _missing(changes: Mapping[T, object]) -> Iterator[T]:
    """Yield what was forgotten."""
    return (key for key, value in changes.items() if value is None)


def _lots(values: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(values)
    while lot := list(islice(iterator, _LOT)):
        yield lot


def _not_owner(account: str) -> NotOwnerError:
    return NotOwnerError(f"another exporter owns {account}")
