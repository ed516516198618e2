"""Cost of the state in SQLite and in PostgreSQL: the stores alone, without an exporter."""

import random
import tempfile
import time
import uuid
from pathlib import Path
from statistics import median

from bench.tables import Table
from comms_exporter.collect.view import DURATION_BUCKETS
from comms_exporter.model.histogram import Histogram
from comms_exporter.model.operations import Operation, pack
from comms_exporter.model.readings import Reading
from comms_exporter.model.records import TOTALS, Snapshot, Tracked
from comms_exporter.store.postgres.claims import Claims
from comms_exporter.store.postgres.connection import Connection
from comms_exporter.store.postgres.membership import Membership
from comms_exporter.store.postgres.schema import migrate
from comms_exporter.store.postgres.store import PostgresStore
from comms_exporter.store.sqlite import SqliteStore
from tests import postgres

ACCOUNT = "account"
CHANGED = 1000
SAVES = 11


def measure(sizes, progress):
    """Return the table by database."""
    count = sizes.databases_operations
    table = Table(
        "Databases",
        f"One account with {count:,} operations. Time to save all of them, to save {CHANGED:,} that changed (median of {SAVES} "
        "saves), and to load all. Each save is on disk when it returns.",
        [
            "database",
            "save all, s",
            "save the newest, ms",
            "save evenly spread ones, ms",
            "load, s",
            "bytes per operation",
        ],
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        progress(f"{count:,} operations in SQLite")
        path = Path(folder, "state.db")
        sqlite = SqliteStore(path)
        figures = _measured(sqlite, count)
        table.add("SQLite", *figures, sum(each.stat().st_size for each in path.parent.iterdir()) / count)
        sqlite.close()
    if postgres.programs() is None:
        table.remarks.append("PostgreSQL is not installed on this machine.")
        return [table]
    with postgres.running() as server:
        progress(f"{count:,} operations in PostgreSQL")
        schema = f"bench_{uuid.uuid4().hex[:8]}"
        claims = Claims()
        own, connection = (Connection(server.url, schema=schema, name="bench", prepare=migrate) for _ in range(2))
        membership = Membership(own, claims, name="bench")
        membership.register([ACCOUNT])
        membership.beat()
        membership.claim(1)
        store = PostgresStore(connection, claims)
        store.load([ACCOUNT])
        figures = _measured(store, count)
        ((size,),) = own.run(
            lambda transaction: transaction.execute("SELECT pg_total_relation_size(%s)", [f"{schema}.operations"])
        )
        table.add(f"PostgreSQL {postgres.programs().parent.name}, on the same machine", *figures, size / count)
        store.close()
        membership.close()
    return [table]


def _measured(store, count):
    """Return the seconds to save everything, the milliseconds to save changes of both kinds, and the seconds to load."""
    ids = [f"comms_operation_01{number:024d}" for number in range(count)]
    all_of_them = _seconds(store.save, ACCOUNT, _snapshot(count, ids, 0))
    chance = random.Random(1)
    newest = [_seconds(store.save, ACCOUNT, _snapshot(count, ids[-CHANGED:], n)) for n in range(1, SAVES + 1)]
    spread = [
        _seconds(store.save, ACCOUNT, _snapshot(count, chance.sample(ids, min(CHANGED, count)), n))
        for n in range(SAVES + 1, 2 * SAVES + 1)
    ]
    return all_of_them, 1000 * median(newest), 1000 * median(spread), _seconds(store.load, [ACCOUNT])


def _seconds(call, *arguments):
    began = time.monotonic()
    call(*arguments)
    return time.monotonic() - began


def _snapshot(tracked, ids, delivered):
    created = 1_790_000_000.0
    operations = (
        Operation(
            each, "COMPLETED", created, created + delivered, pack((100, 100, 100, 0, 0, 95, delivered, 5, 3, 2, 0))
        )
        for each in ids
    )
    return Snapshot(
        first_look=created,
        horizon=created,
        last_full_listing=created,
        totals=(0,) * len(TOTALS),
        durations=Histogram(DURATION_BUCKETS),
        tracked=tracked,
        changed={each.id: Tracked(each, Reading.CUMULATIVE, None) for each in operations},
    )
