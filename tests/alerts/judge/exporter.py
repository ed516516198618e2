"""What the judge uses of the exporter, in one place: its state, its poller, its metric table and its records."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from comms_exporter.api.error_classification import classify_response
from comms_exporter.api.errors import CommsError
from comms_exporter.api.payloads import MalformedEntryError, Page, read_operation
from comms_exporter.api.request_stats import RequestStats
from comms_exporter.base.slices import run_to_completion
from comms_exporter.collect.health import PollHealth, Reloads
from comms_exporter.collect.poller import Poller
from comms_exporter.collect.schedule import RETENTION
from comms_exporter.collect.state import AccountState
from comms_exporter.expose.families import LIVE, PUBLISHED, Shard, exporter_families
from comms_exporter.expose.operation_lines import OPERATION_FAMILIES, values
from comms_exporter.expose.samples import Buckets
from comms_exporter.model.histogram import Histogram
from comms_exporter.model.operations import STATS, STATUSES, Operation, pack
from comms_exporter.model.records import AccountRecord, SavedAccount

__all__ = [
    "LIVE",
    "OPERATION_FAMILIES",
    "PUBLISHED",
    "RETENTION",
    "STATS",
    "STATUSES",
    "AccountState",
    "CommsError",
    "MalformedEntryError",
    "Operation",
    "Page",
    "PollHealth",
    "Poller",
    "Reloads",
    "RequestStats",
    "Shard",
    "classify_response",
    "exporter_families",
    "pack",
    "read_operation",
    "read_value",
    "restored",
    "saved",
    "values",
]


def saved(state: AccountState) -> SavedAccount | None:
    """Return what a store holds of *state* after its last save, None before the first look."""
    state.requeue_all()
    snapshot = state.snapshot()
    if snapshot is None:
        return None
    tracked = {name: each for name, each in snapshot.changed.items() if each is not None}
    common = {each.name: getattr(snapshot, each.name) for each in fields(AccountRecord)}
    return SavedAccount(**common, tracked=tracked)


def restored(record: SavedAccount | None) -> AccountState:
    """Return the state of a process that has just started."""
    state = AccountState()
    if record is not None:
        run_to_completion(state.restore(record))
    return state


def read_value(metric: Any, account: Any, now: float) -> Any:
    """Return the value of *metric* as it is *now*: later changes leave it alone."""
    value = metric.read(account, now)
    if isinstance(value, Histogram):
        return Buckets.of(value)
    return dict(value) if isinstance(value, Mapping) else value
