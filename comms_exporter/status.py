"""Build what the status page shows from the pollers."""

import time
from collections.abc import Iterator, Sequence
from functools import partial

from comms_exporter import __version__
from comms_exporter.check import ADVICE
from comms_exporter.collect.poller import Poller
from comms_exporter.collect.state import AccountState
from comms_exporter.model.operations import Operation, Stats, stats_of
from comms_exporter.model.readings import REACHED, Reading, reached, stat
from comms_exporter.web.status_page.model import Account, Funnel, HistoryPoint, OperationDetail, OperationRow, Status


def current_status(pollers: Sequence[Poller], *, telemetry_path: str) -> Status:
    """Return the status of all accounts and of their exposed operations at this moment."""
    return Status(
        version=__version__,
        now=time.time(),
        telemetry_path=telemetry_path,
        accounts=[account_card(poller) for poller in pollers],
        operations=(row for poller in pollers for row in operation_rows(poller)),
    )


def account_card(poller: Poller) -> Account:
    """Return how polling goes for one account."""
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
        hidden=poller.view.hidden,
    )


def operation_rows(poller: Poller) -> Iterator[OperationRow]:
    """Yield a row for each exposed operation of an account."""
    for each in poller.view.exposed:
        failures = (stat(each.stats, "failed") or 0) + (stat(each.stats, "undelivered") or 0)
        yield OperationRow(
            poller.name,
            each.id,
            each.status,
            not each.unfinished,
            each.created,
            each.updated,
            failures,
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
            )
    return None


def _funnel(state: AccountState, operation: Operation) -> Funnel:
    tracked = state.tracked.get(operation.id)
    return _funnel_of(operation.stats, tracked.reading if tracked else Reading.UNDECIDED)


def _funnel_of(stats: Stats, reading: Reading) -> Funnel:
    counts = reached(stats, reading)
    return Funnel(
        **{name: count for name, count in zip(REACHED, counts, strict=True) if name not in {"recipients", "attempts"}}
    )
