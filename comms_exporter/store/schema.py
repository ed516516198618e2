"""The tables of a state file: create and migrate them, and recognize any that this exporter did not make."""

import sqlite3
from typing import Any

from comms_exporter.store.errors import UnreadableError

# "COMS", where SQLite's header names the application.
APPLICATION_ID = 0x434F4D53

# One script per version of the schema; a file is migrated by those it has not seen. SQLite stores the text of each CREATE,
# comments included, and a file with any other text is rejected: released scripts never change.
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
    # Stats may be packed as by operations.pack(), and marks empty if the stats imply them: a third of the size and of the
    # time to write. Rows of the first version are read as they are.
    "",
    # When the operation began to be sent, in seconds since the epoch; NULL if that was when it was created.
    "ALTER TABLE operations ADD COLUMN began REAL",
    # Of single emails, if they are collected.
    """
    CREATE TABLE email_totals (
        account TEXT PRIMARY KEY,
        totals TEXT NOT NULL        -- see rows.email_totals_row()
    ) WITHOUT ROWID;
    CREATE TABLE email_counts (
        account TEXT NOT NULL,
        label TEXT NOT NULL,        -- provider, sender_domain, tag:KEY or code
        value TEXT NOT NULL,
        counts TEXT NOT NULL,       -- in the order of email_records.STAGES
        PRIMARY KEY (account, label, value)
    ) WITHOUT ROWID;
    CREATE TABLE emails (
        account TEXT NOT NULL,
        id BLOB NOT NULL,           -- a digest of the id
        known INTEGER NOT NULL,     -- when it was created, and the stages it has reached, see email_records.KnownEmail
        PRIMARY KEY (account, id)
    ) WITHOUT ROWID;
    CREATE TABLE email_errors (
        account TEXT NOT NULL,
        operation TEXT NOT NULL,
        failed INTEGER NOT NULL,
        codes TEXT NOT NULL,        -- {code: count}
        PRIMARY KEY (account, operation)
    ) WITHOUT ROWID;
    """,
)


def check(connection: sqlite3.Connection, header: bytes, *, new: bool) -> None:
    """Raise an UnreadableError unless this version can read the file; changes nothing."""
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    owner, version = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    if empty and (owner, version) == (0, 0):
        if not new:
            raise UnreadableError("the database is empty")
        return
    if owner != APPLICATION_ID:
        raise UnreadableError("it is the database of another program")
    if not 0 < version <= len(MIGRATIONS):
        raise UnreadableError(f"a newer version of the exporter wrote it (schema {version})")
    if header[18:20] not in {b"\1\1", b"\2\2"}:
        # SQLite could read such a file, but not write it.
        raise UnreadableError("the file format is unknown")
    # Not quick_check, which does not notice rows that are out of order and so cannot be found.
    ((verdict,),) = connection.execute("PRAGMA integrity_check(1)")
    if verdict != "ok":
        raise UnreadableError(verdict)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables to the latest version, one transaction per version; raise an UnreadableError if they are not ours."""
    _run_migrations(connection)
    fresh = sqlite3.connect(":memory:", isolation_level=None)
    try:
        _run_migrations(fresh)
        # A trigger, for example, would change what a save writes.
        if _tables(connection) != _tables(fresh):
            raise UnreadableError("the tables are not those of the exporter")
    finally:
        fresh.close()


def _run_migrations(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(
            f"BEGIN IMMEDIATE; {script}; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number}; COMMIT;"
        )


def _tables(connection: sqlite3.Connection) -> list[Any]:
    # SQLite's own tables are named sqlite_*.
    return connection.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
    ).fetchall()
