"""What the judge uses of the exporter, in one place: its state, its poller, its metric table and its state file."""

from comms_exporter.api.client import CommsError, ThrottledError, decipher
from comms_exporter.api.payloads import STATS, MalformedOperationError, Operation, Page, pack, read_operation
from comms_exporter.api.request_stats import RequestStats
from comms_exporter.collect.health import PollHealth, Reloads
from comms_exporter.collect.poller import Poller
from comms_exporter.collect.state import RETENTION, AccountState, View
from comms_exporter.expose import families
from comms_exporter.store.sqlite import Store

__all__ = [
    "RETENTION",
    "STATS",
    "AccountState",
    "CommsError",
    "MalformedOperationError",
    "Operation",
    "Page",
    "PollHealth",
    "Poller",
    "Reloads",
    "RequestStats",
    "Store",
    "ThrottledError",
    "View",
    "decipher",
    "families",
    "pack",
    "read_operation",
]
