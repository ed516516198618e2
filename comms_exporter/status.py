"""Build what the status page shows from the pollers."""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from heapq import nsmallest
from operator import sub

from comms_exporter import __version__
from comms_exporter.check import ADVICE
from comms_exporter.collect.emails.view import EmailsView
from comms_exporter.collect.poller import Poller
from comms_exporter.collect.sharing import Sharing
from comms_exporter.collect.state import AccountState
from comms_exporter.model.email_records import CODE, PROVIDER, SENDER_DOMAIN, STAGES, TAG_PREFIX, Counts, Series
from comms_exporter.model.operations import Operation, Stats, stats_of
from comms_exporter.model.readings import REACHED, Reading, reached
from comms_exporter.web.status_page.model import (
    Account,
    Emails,
    Exporter,
    Funnel,
    HistoryPoint,
    Lost,
    LostAt,
    LostBy,
    OperationDetail,
    OperationRow,
    Owned,
    SharedAccounts,
    Status,
)

# The values of a label that an account shows.
_WORST = 5
_NOTHING = (0,) * len(STAGES)


def current_status(pollers: Sequence[Poller], *, telemetry_path: str, sharing: Sharing | None = None) -> Status:
    """Return the status of all accounts and of their active operations at this moment."""
    owned = {} if sharing is None else {each.account: each.since for each in sharing.owners if each.owner == sharing.id}
    return Status(
        version=__version__,
        now=time.time(),
        telemetry_path=telemetry_path,
        accounts=(account_card(poller, owned_since=owned.get(poller.name)) for poller in pollers),
        operations=(row for poller in pollers for row in operation_rows(poller)),
        shared=None if sharing is None else _shared(sharing),
    )


def _shared(sharing: Sharing) -> SharedAccounts:
    now = time.time()
    own = len(sharing.claims.all())
    names = {each.id: each.name for each in sharing.members}
    return SharedAccounts(
        connected=sharing.connected,
        exporters=[
            Exporter(each.name, this, max(0.0, now - each.joined), own if this else each.accounts)
            for each in sharing.members
            for this in [each.id == sharing.id]
        ],
        elsewhere=[
            Owned(
                each.account,
                "" if each.owner is None else names.get(each.owner, "another exporter"),
                max(0.0, now - each.since),
            )
            for each in sharing.owners
            if each.owner != sharing.id
        ],
    )


def account_card(poller: Poller, *, owned_since: float | None = None) -> Account:
    """Return how polling goes for one account, owned by this exporter since *owned_since* if accounts are shared."""
    health = poller.health
    problem = health.problem
    return Account(
        name=poller.name,
        good=health.up if health.attempted else None,
        alive=poller.alive,
        success_age_seconds=time.monotonic() - health.last_success_monotonic if health.last_success else None,
        reason=problem.reason if problem else "",
        message=problem.message if problem else "",
        advice=ADVICE.get(problem.reason, "") if problem else "",
        next_poll_seconds=poller.next_poll_seconds,
        requests_a_day=24 * poller.requests_per_hour(),
        tracked=poller.view.tracked,
        hidden=poller.view.not_shown,
        emails=_emails(poller),
        owned_seconds=None if owned_since is None else max(0.0, time.time() - owned_since),
    )


def _emails(poller: Poller) -> Emails | None:
    view, recent = poller.view.emails, poller.recent_counts
    if view is None or recent is None:
        return None
    health = poller.email_health
    problem = health.problem
    before = recent.before
    now = time.time()
    return Emails(
        everything=view.all_stages,
        good=health.up if health.rounds else None,
        success_age_seconds=now - health.last_success if health.last_success else None,
        lost_seconds=now - before.time,
        reason=problem.reason if problem else "",
        message=problem.message if problem else "",
        advice=ADVICE.get(problem.reason, "") if problem else "",
        tracked=view.tracked,
        unattributed=sum(view.unattributed.values()),
        requests_a_day=24 * poller.email_requests_per_hour(),
        lost=_lost_by_label(view, before.counts),
    )


def _lost_by_label(view: EmailsView, before: Mapping[Series, Counts]) -> list[LostBy]:
    """Return who is lost since the counts were those in *before*."""
    by_label: dict[str, list[Lost]] = {}
    for (label, value), counts in view.counts.items():
        if label == CODE:
            continue
        sent, _, _, undelivered, failed = map(sub, counts, before.get((label, value), _NOTHING))
        if undelivered or failed:
            # Failed emails were not sent. Without `all`, nobody knows how many were.
            share = 100 * (undelivered + failed) / max(sent + failed, undelivered + failed) if view.all_stages else None
            by_label.setdefault(label, []).append(Lost(value, undelivered + failed, share))
    names = {PROVIDER: "provider", SENDER_DOMAIN: "sender"}
    return [
        LostBy(
            names.get(label) or f"tag {label.removeprefix(TAG_PREFIX)}",
            nsmallest(_WORST, by_label[label], key=lambda each: (-each.emails, each.value)),
            max(0, len(by_label[label]) - _WORST),
        )
        for label in (PROVIDER, SENDER_DOMAIN, *(TAG_PREFIX + key for key in view.tag_keys))
        if label in by_label
    ]


def operation_rows(poller: Poller) -> Iterator[OperationRow]:
    """Yield a row for each active operation of an account, within the limit."""
    for each in poller.view.shown:
        yield OperationRow(
            poller.name,
            each.id,
            each.status,
            not each.unfinished,
            each.created,
            each.updated,
            each.lost,
            partial(_funnel, poller.state, each),
        )


def operation_detail(pollers: Sequence[Poller], account: str, operation_id: str) -> OperationDetail | None:
    """Return what is known of an operation of *account*, or of any account if that is empty; None if nothing is."""
    for poller in pollers:
        if account in {"", poller.name} and (tracked := poller.state.tracked.get(operation_id)):
            operation = tracked.operation
            return OperationDetail(
                version=__version__,
                now=time.time(),
                account=poller.name,
                id=operation.id,
                status=operation.status,
                finished=not operation.unfinished,
                created=operation.created,
                began=tracked.began,
                updated=operation.updated,
                gone=tracked.gone,
                funnel=_funnel_of(operation.stats, tracked.reading),
                history=[
                    HistoryPoint(point.time, _funnel_of(stats_of(point.packed), tracked.reading))
                    for point in poller.history.points(operation)
                ],
                lost=None if poller.state.emails is None else _lost_at(poller.history.losses(operation.id)),
            )
    return None


def _lost_at(losses: Mapping[tuple[str, str], int]) -> list[LostAt]:
    rows = [
        LostAt(provider, losses.get((provider, "FAILED"), 0), losses.get((provider, "UNDELIVERED"), 0))
        for provider in {provider for provider, _ in losses}
    ]
    return sorted(rows, key=lambda each: (-each.failed - each.undelivered, each.provider))


def _funnel(state: AccountState, operation: Operation) -> Funnel:
    tracked = state.tracked.get(operation.id)
    return _funnel_of(operation.stats, tracked.reading if tracked else Reading.UNDECIDED)


def _funnel_of(stats: Stats, reading: Reading) -> Funnel:
    counts = reached(stats, reading)
    return Funnel(
        **{name: count for name, count in zip(REACHED, counts, strict=True) if name not in {"recipients", "attempts"}}
    )
