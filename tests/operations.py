"""Make operations, listings, states and views for tests; whatever a test does not set is irrelevant to it."""

from datetime import UTC, datetime

from comms_exporter.base.slices import run_to_completion
from comms_exporter.collect.state import AccountState, Listing
from comms_exporter.model.histogram import Histogram
from comms_exporter.model.operations import STATS, Operation, pack
from comms_exporter.model.records import TOTALS, SavedAccount

# Saturday, 2026-11-21 12:00:00 UTC: unless a test says otherwise, it is now, and everything has just happened.
NOW = 1795262400.0


def stats(**counters):
    return tuple(counters.get(name, 0) for name in STATS)


def operation(name="a", *, status="PROCESSING", created=NOW, updated=None, **counters):
    return Operation(name, status, created, created if updated is None else updated, pack(stats(**counters)))


def listing(*operations, at=NOW, sweep=False, **other):
    return Listing({each.id: each for each in operations}, started=at, ended=at, sweep=sweep, **other)


def apply(state, listing):
    run_to_completion(state.apply(listing))


def saved_account(*tracked):
    """Return an account as a store loads it: it knows the operations *tracked* and has counted nothing."""
    return SavedAccount(
        first_look=NOW - 60,
        horizon=float("-inf"),
        last_full_listing=NOW - 60,
        totals=(0,) * len(TOTALS),
        durations=Histogram(()),
        tracked={each.operation.id: each for each in tracked},
    )


def restored(saved):
    """Return the state of a new process that finds the account *saved*; None if nothing was saved."""
    state = AccountState()
    if saved is not None:
        run_to_completion(state.restore(saved))
    return state


def view(state, **how):
    return run_to_completion(state.view(**how))


def at_once(coroutine):
    """Run *coroutine*, which only yields to other tasks, and return its result."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration as end:
        return end.value


def page_of(exposition, *, openmetrics=False, gzip=False, names=()):
    """Return the page that a scrape of *exposition* receives."""
    body = at_once(exposition.body(openmetrics=openmetrics, gzip=gzip, names=names))
    page = b"".join(body.chunks)
    assert len(page) == body.length
    return page


def rfc3339(moment):
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def as_json(operation):
    """Return *operation* as the API would return it."""
    return {
        "id": operation.id,
        "status": operation.status,
        "stats": {name: n for name, n in zip(STATS, operation.stats, strict=True) if n is not None},
        "createdAt": rfc3339(operation.created),
        "updatedAt": rfc3339(operation.updated),
    }
