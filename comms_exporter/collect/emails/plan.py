"""Which emails to ask for: those of the hours in which some are missing, in as few pages as possible."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from comms_exporter.api.emails import EmailFilter
from comms_exporter.collect.emails.deficits import Deficits
from comms_exporter.collect.schedule import DAY, HOUR, MARGIN, RETENTION
from comms_exporter.model.email_records import STAGES
from comms_exporter.model.operations import Operation, Stats
from comms_exporter.model.readings import stat

# A longer listing is split, so that a failed request does not cost all of it.
_MAX_PAGES = 10
# Inbound emails may be listed this much later than others that were created after them.
_INBOUND_OVERLAP = 600.0

INBOUND_STATUS = "INBOUND"


class Reach(NamedTuple):
    """How far back emails are asked for; times are on the monotonic clock."""

    next_day: float
    next_week: float

    def seconds(self, now: float) -> float:
        """Return how far back to ask *now*: the last hour, and a day and a week when they are due."""
        if now >= self.next_week:
            return RETENTION + MARGIN
        return DAY if now >= self.next_day else HOUR

    def asked(self, now: float, seconds: float) -> "Reach":
        """Return the reach after everything of the last *seconds* was asked for *now*."""
        return Reach(
            now + HOUR if seconds >= DAY else self.next_day,
            now + DAY if seconds > DAY else self.next_week,
        )


def first_look(deficits: Deficits, *, all_stages: bool, now: float, page_size: int) -> list[EmailFilter]:
    """Return what to ask for once, to know every email of before the first look."""
    oldest = int((now - RETENTION - MARGIN) // HOUR)
    return [
        each
        for status, stage in _listings(all_stages=all_stages)
        for each in windows(oldest, deficits.listed_by_hour(stage), status=status, now=now, page_size=page_size)
    ]


def missing_emails(
    deficits: Deficits, *, all_stages: bool, since: float, now: float, page_size: int, by_operation: bool
) -> list[EmailFilter]:
    """Return what to ask for to know the missing emails created *since* then; newest first.

    *by_operation* says whether the API can list the emails of one operation.
    """
    missing = deficits.missing()
    deficits.settle(missing)
    questions: list[EmailFilter] = []
    asked_by_operation: set[int] = set()
    for status, stage in _listings(all_stages=all_stages):
        hours = [
            hour
            for hour, sums in missing.items()
            if hour >= int(since // HOUR) and (any(sums) if stage is None else sums[stage])
        ]
        single = {
            hour: [operation for operation in changed if status is None or stat(operation.stats, status.lower())]
            for hour in hours
            if by_operation and (changed := deficits.changed(hour)) is not None
        }
        listed = deficits.listed_by_hour(stage)
        oldest = cheapest_reach(hours, listed, single, stage=stage, page_size=page_size)
        if oldest is not None:
            questions += windows(oldest, listed, status=status, now=now, page_size=page_size)
        for hour in hours:
            if oldest is None or hour < oldest:
                questions += [EmailFilter(operation_id=operation.id, status=status) for operation in single[hour]]
                asked_by_operation.add(hour)
    for hour in asked_by_operation:
        deficits.asked_by_operation(hour)
    return questions


def cheapest_reach(
    hours: Sequence[int],
    listed_by_hour: Mapping[int, int],
    single: Mapping[int, Sequence[Operation]],
    *,
    stage: int | None,
    page_size: int,
) -> int | None:
    """Return the oldest hour to list so that few pages are needed for all *hours*; None for no listing.

    The emails of older hours are asked for by operation: those in *single*, which lacks the hours where that is impossible.
    """
    costs = dict.fromkeys(hours, float("inf"))
    for hour, operations in single.items():
        costs[hour] = sum(1 + _emails(operation.stats, stage) // page_size for operation in operations)
    # While one of them is infinite, sums cannot be reduced by subtraction.
    by_operation = list(accumulate((costs[hour] for hour in sorted(hours)), initial=0.0))
    fewest, reach = by_operation[-1], None
    listed = 0
    for hour in sorted({*hours, *listed_by_hour}, reverse=True):
        listed += listed_by_hour.get(hour, 0)
        if hour in costs:
            by_operation.pop()
            pages = 1 + listed // page_size + by_operation[-1]
            if pages < fewest:
                fewest, reach = pages, hour
    return reach


def windows(
    oldest: int, listed_by_hour: Mapping[int, int], *, status: str | None, now: float, page_size: int
) -> list[EmailFilter]:
    """Return listings of a few pages each that together reach from the hour *oldest* until now; newest first."""
    found: list[EmailFilter] = []
    newest = int(now // HOUR)
    end: float | None = None
    listed = 0
    for hour in range(max(newest, oldest), oldest - 1, -1):
        listed += listed_by_hour.get(hour, 0)
        if hour == oldest or listed + listed_by_hour.get(hour - 1, 0) > _MAX_PAGES * page_size:
            found.append(EmailFilter(status=status, created_after=hour * HOUR, created_before=end))
            end, listed = hour * HOUR, 0
    return found


def inbound_emails(seen: float) -> EmailFilter:
    """Return what to ask for to know the inbound emails since all of them were *seen*."""
    return EmailFilter(status=INBOUND_STATUS, created_after=seen - _INBOUND_OVERLAP)


def _listings(*, all_stages: bool) -> list[tuple[str | None, int | None]]:
    """Return the statuses to list, None for all, and the index of the stage whose emails such a listing has."""
    if all_stages:
        return [(None, None)]
    return [(status, STAGES.index(status.lower())) for status in ("UNDELIVERED", "FAILED")]


def _emails(stats: Stats, stage: int | None) -> int:
    return stat(stats, "total" if stage is None else STAGES[stage]) or 0
