"""Save, load and read state files in tests."""

import resource
import shutil
import sqlite3
import subprocess
import sys
from contextlib import contextmanager

from operations import NOW, restored

from comms_exporter.store import sqlite
from comms_exporter.store.sqlite import SqliteStore


class Damage:
    """Records what a store reports about a damaged file."""

    renamed_to = None
    reason = ""

    def __call__(self, renamed_to, reason):
        self.renamed_to, self.reason = renamed_to, reason


def save(store, state, name="shop"):
    store.save(name, state.snapshot())


def loaded(path, *names):
    """Return the states of accounts as a new process finds them, and the new name of the file if it was damaged."""
    damage = Damage()
    store = SqliteStore(path, clock=lambda: NOW, on_damage=damage)
    try:
        names = names or ("shop",)
        saved = store.load(names)
    finally:
        store.close()
    return {name: restored(saved.get(name)) for name in names}, damage.renamed_to


def memory(state):
    """Return everything in *state* that is saved."""
    durations = state.durations
    return (
        state.tracked,
        state.totals,
        state.first_look,
        state.horizon,
        state.last_full_listing,
        (durations.bounds, durations.counts, durations.sum),
    )


def email_memory(emails):
    """Return everything in *emails* that is saved."""
    delays = emails.delays
    return (
        emails.known,
        emails.counts.counts,
        emails.errors,
        (emails.losses, emails.deliveries, emails.inbound, emails.inbound_seen, emails.errors_since),
        (delays.bounds, delays.counts, delays.sum),
    )


def downgrade(connection, version):
    """Give a state file without emails the schema of an earlier *version*."""
    if version < 4:
        for table in ("email_totals", "email_counts", "emails", "email_errors"):
            connection.execute(f"DROP TABLE {table}")
    if version < 3:
        connection.execute("ALTER TABLE operations DROP COLUMN began")
    connection.execute(f"PRAGMA user_version = {version}")


@contextmanager
def database(path):
    """Give a connection to the state file, as another program would open it."""
    connection = sqlite3.connect(path)
    try:
        with connection:
            yield connection
    finally:
        connection.close()


def read_by_another(path):
    """Return the state that another reader of the file sees."""
    with database(path) as connection:
        return restored(sqlite._load(connection, "shop"))


def open_in_another_process(path):
    """Return the error output of another process that opens the file."""
    script = "import sys, pathlib; from comms_exporter.store.sqlite import SqliteStore; SqliteStore(pathlib.Path(sys.argv[1])).close()"
    run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    return run.stderr


def copied(path):
    """Return the path of a copy of the state file as `kill -9` would leave it."""
    copy = path.parent / "copy" / path.name
    copy.parent.mkdir()
    for file in (path, path.with_name(f"{path.name}-wal")):
        if file.exists():
            shutil.copy(file, copy.parent)
    return copy


@contextmanager
def no_file_longer_than(size):
    """Limit all files to *size* bytes, like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def disk_full():
    """Raise SQLite's error for a full disk."""
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    raise error
