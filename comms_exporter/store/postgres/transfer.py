"""Move accounts between a state file and the database, one account at a time.

The state file is never changed: an import reads a copy, an export writes a new file.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NoReturn

from comms_exporter.model.email_records import EmailsSnapshot
from comms_exporter.model.records import AccountRecord, SavedAccount, Snapshot
from comms_exporter.store import rows
from comms_exporter.store.errors import DatabaseAwayError, StoreError, StoreRefusedError, UnreadableError
from comms_exporter.store.files import copy_unused, make_directory
from comms_exporter.store.postgres.claims import Claims, Member
from comms_exporter.store.postgres.connection import Connection, Transaction
from comms_exporter.store.postgres.membership import Membership
from comms_exporter.store.postgres.store import ACCOUNT_COLUMNS, read_account, write_account
from comms_exporter.store.sqlite import SqliteStore


@dataclass(frozen=True, slots=True)
class Transferred:
    """An account, its number of operations, and why it was not transferred, if it was not."""

    account: str
    operations: int
    problem: str = ""


def import_file(
    path: Path,
    connection: Connection,
    *,
    dead_after: float,
    on_wait: Callable[[float], object],
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[Transferred]:
    """Write the accounts in the state file at *path* into the database, and yield each of them.

    An account that already has a state in the database, or whose owner runs, is not imported. An owner runs if it has another
    beat within *dead_after* seconds; *on_wait* is called before that wait, which is only needed if an account has an owner.
    A StoreError means that the others were not imported, either.
    """
    with _opened_copy(path) as store:
        _bury_dead_owners(connection, store.names(), dead_after, on_wait, sleep)
        for name, account in store.load_each():
            problem = ""
            try:
                _import_account(connection, name, account)
            except (DatabaseAwayError, StoreRefusedError):
                raise
            except (_NotImportedError, StoreError) as error:
                problem = str(error)
            yield Transferred(name, len(account.tracked), problem)


def export_file(path: Path, connection: Connection) -> list[Transferred]:
    """Write all accounts with a state in the database, as of one moment, into a new state file at *path*.

    Any error leaves no file, except for an account that is unreadable: the others are exported.
    """
    if os.path.lexists(path):
        raise StoreError(f"{path}: the file exists; choose a new name")
    with _temporary(path, path.absolute().parent) as written:
        store = SqliteStore(written, emails=True)
        try:
            exported = connection.run(lambda transaction: _export(transaction, store))
        finally:
            store.close()
        # Unlike a rename, this never replaces a file that appeared meanwhile.
        os.link(written, path)
    return exported


def _export(transaction: Transaction, store: SqliteStore) -> list[Transferred]:
    transaction.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    accounts = transaction.execute(
        'SELECT id, name FROM {}.accounts WHERE first_look IS NOT NULL ORDER BY name COLLATE "C"'
    )
    return [_export_account(transaction, store, *account) for account in accounts]


def _export_account(transaction: Transaction, store: SqliteStore, account_id: int, name: str) -> Transferred:
    (columns,) = transaction.execute(f"SELECT {ACCOUNT_COLUMNS} FROM {{}}.accounts WHERE id = %s", [account_id])  # noqa: S608  constants
    try:
        account = read_account(transaction, account_id, columns, emails=True)
    except UnreadableError as error:
        return Transferred(name, 0, f"its state in the database is unreadable: {str(error)[:200]}")
    store.save(name, complete_snapshot(account))
    return Transferred(name, len(account.tracked))


def complete_snapshot(account: SavedAccount) -> Snapshot:
    """Return everything about *account* as a snapshot."""
    emails = account.emails
    return Snapshot(
        **{each.name: getattr(account, each.name) for each in fields(AccountRecord)},
        tracked=len(account.tracked),
        changed=dict(account.tracked),
        emails=None
        if emails is None
        else EmailsSnapshot(
            totals=emails.totals,
            counts=emails.counts,
            known=dict(emails.known),
            errors=dict(emails.errors),
            counts_in_all=len(emails.counts),
            known_in_all=len(emails.known),
            errors_in_all=len(emails.errors),
        ),
    )


class _NotImportedError(Exception):
    """Nothing of the account in the database was changed; the message says why."""


def _import_account(connection: Connection, name: str, account: SavedAccount) -> None:
    # In a transaction of its own: an exporter that starts meanwhile registers the same names, and would wait for this one.
    connection.run(
        lambda transaction: transaction.execute(
            "INSERT INTO {}.accounts (name) VALUES (%s) ON CONFLICT DO NOTHING", [name]
        )
    )
    snapshot = complete_snapshot(account)

    def work(transaction: Transaction) -> None:
        # Nobody can claim the account until the COMMIT.
        ((account_id, is_new, owner),) = transaction.execute(
            "SELECT id, first_look IS NULL, owner::text FROM {}.accounts WHERE name = %s FOR UPDATE", [name]
        )
        if not is_new:
            raise _NotImportedError("it already has a state in the database")
        if owner is not None:
            raise _NotImportedError(f"{_member_name(transaction, owner)} runs and owns it: stop it first")
        values = rows.account_row(snapshot)
        transaction.execute(
            f"UPDATE {{}}.accounts SET saves = saves + 1, ({ACCOUNT_COLUMNS}) = (%s, %s, %s, %s, %s) WHERE id = %s",  # noqa: S608  constants
            [*values, account_id],
        )
        write_account(transaction, account_id, snapshot)

    connection.run(work)


def _member_name(transaction: Transaction, member: str) -> str:
    found = transaction.execute("SELECT name FROM {}.members WHERE id = %s::uuid", [member])
    return f"the exporter {found[0][0]}" if found else "another exporter"


def _bury_dead_owners(
    connection: Connection,
    names: Sequence[str],
    dead_after: float,
    on_wait: Callable[[float], object],
    sleep: Callable[[float], object],
) -> None:
    """Free the accounts *names* without a state from owners that have died, as another exporter would."""
    owned = connection.run(
        lambda transaction: transaction.execute(
            "SELECT DISTINCT owner FROM {}.accounts WHERE name = ANY(%s::text[]) AND first_look IS NULL AND owner IS NOT NULL",
            [list(names)],
        )
    )
    if not owned:
        return
    owners = connection.run(
        lambda transaction: transaction.execute(
            "SELECT id, name, beats FROM {}.members WHERE id = ANY(%s::uuid[])", [[owner for (owner,) in owned]]
        )
    )
    on_wait(dead_after)
    sleep(dead_after)
    membership = Membership(connection, Claims(), name="state import")
    for member, name, beats in owners:
        membership.bury(Member(member, name, joined=0.0, beats=beats, accounts=0))


@contextmanager
def _opened_copy(path: Path) -> Iterator[SqliteStore]:
    """Open a copy of the state file at *path*; no exporter can use the file meanwhile."""

    def fail(_: Path, reason: str) -> NoReturn:
        raise StoreError(f"{path}: is damaged, or not a state file: {reason}")

    with _temporary(path, None) as copy, copy_unused(path, copy):
        store = SqliteStore(copy, emails=True, on_damage=fail)
        try:
            yield store
        finally:
            store.close()


@contextmanager
def _temporary(path: Path, directory: Path | None) -> Iterator[Path]:
    """Give the path of a file that stands for *path*, also in errors, in a new folder in *directory* that is removed."""
    try:
        if directory is not None:
            make_directory(directory)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=directory) as folder:
            temporary = Path(folder, "state.db")
            try:
                yield temporary
            except StoreError as error:
                raise type(error)(str(error).replace(str(temporary), str(path))) from None
    except OSError as error:
        raise StoreError(f"{path}: {(error.strerror or str(error)).lower()}") from None
