"""Make operations, listings, states and views for tests; whatever a test does not set is irrelevant to it."""

from datetime import UTC, datetime

from comms_exporter.base.slices import run_to_completion
from comms_exporter.collect.emails.state import EmailOptions, EmailState
from comms_exporter.collect.state import AccountState, Listing
from comms_exporter.model.email_records import SavedEmails
from comms_exporter.model.emails import Email
from comms_exporter.model.histogram import Histogram
from comms_exporter.model.operations import STATS, Operation, pack
from comms_exporter.model.records import TOTALS, SavedAccount

# Saturday, 2026-11-21 12:00:00 UTC: unless a test says otherwise, it is now, and everything has just happened.
NOW = 1795262400.0


def stats(**counters):
    return tuple(counters.get(name, 0) for name in STATS)


def operation(name="a", *, status="PROCESSING", created=NOW, updated=None, **counters):
    return Operation(name, status, created, created if updated is None else updated, pack(stats(**counters)))


def email(name="e", *, status="DELIVERED", created=NOW, updated=None, of=None, to="gmail.com", sender="", **tags):
    return Email(
        name, status, of, created, created if updated is None else updated, to, 1, sender, tuple(sorted(tags.items()))
    )


def learn(state, *emails, at=NOW):
    """Let the account *state* count *emails*, and return the losses that counted."""
    created = {name: each.operation.created for name, each in state.tracked.items()}
    return run_to_completion(state.emails.apply(emails, created, at))


def account_with_emails(*, at=NOW - 60, **options):
    """Return the state of an account whose first looks at operations and emails found nothing."""
    state = AccountState(emails=EmailState(EmailOptions(**options)))
    apply(state, listing(sweep=True, at=at))
    state.emails.begin(at)
    state.emails.end_first_look()
    return state


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


def restored(saved, emails=None):
    """Return the state of a new process that finds the account *saved*; None if nothing was saved.

    *emails* are its EmailOptions, None if it collects no emails.
    """
    state = AccountState(emails=None if emails is None else EmailState(emails))
    if saved is not None:
        run_to_completion(state.restore(saved))
    return state


def restarted(state, **options):
    """Return the state of a new process after *state* was saved; *options* are those of its emails."""
    state.requeue_all()
    snapshot = state.snapshot()
    emails = snapshot.emails
    saved = SavedAccount(
        first_look=snapshot.first_look,
        horizon=snapshot.horizon,
        last_full_listing=snapshot.last_full_listing,
        totals=snapshot.totals,
        durations=snapshot.durations,
        tracked={name: each for name, each in snapshot.changed.items() if each is not None},
        emails=SavedEmails(
            totals=emails.totals,
            counts=emails.counts,
            # A store reads each as an object of its own.
            known={key: int(str(known)) for key, known in emails.known.items() if known is not None},
            errors={name: errors for name, errors in emails.errors.items() if errors is not None},
        ),
    )
    return restored(saved, EmailOptions(**options))


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
