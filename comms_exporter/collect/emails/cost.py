"""Estimate how many requests the emails of an account cost, from what its operations count.

An estimate is what an account needs at most while its operations are spread evenly over the week. Emails of a burst are listed
together, which usually takes fewer requests, but more on the day after a large one. tests/collect/emails/test_cost.py compares
estimates with what the simulator counts.
"""

from math import exp
from typing import NamedTuple

from comms_exporter.collect.schedule import DAY, HOUR, RETENTION

_WEEK_HOURS = RETENTION / HOUR
_DAY_HOURS = DAY / HOUR
# A round lists the emails of this and of the previous hour on the clock.
_ROUND_HOURS = 1.5
# Shares of the opened emails that are opened after a round no longer lists them, and after a day.
_OPENED_LATE = 0.35
_OPENED_NEXT_DAY = 0.03
# The rounds in which losses of one operation are new: most are known at once, and most others within minutes.
_ROUNDS_WITH_LOSSES = 2.0


class Traffic(NamedTuple):
    """How many operations and emails there are in a week, and how many of the emails reach each stage."""

    operations: float
    emails: float
    opened: float
    undelivered: float
    failed: float


def email_requests_per_hour(
    traffic: Traffic, *, all_stages: bool, interval: float, page_size: int, receives: bool = False
) -> float:
    """Return about how many requests an hour it takes to list the emails of *traffic*, in rounds every *interval* seconds.

    *receives* says whether the account receives emails, which are listed in every round, or else hourly.
    """
    rounds = HOUR / interval
    inbound = max(1.0, rounds) if receives else 1.0
    if not traffic.operations:
        return inbound
    return inbound + (
        _for_all(traffic, rounds, page_size)
        if all_stages
        else _for_losses(traffic, traffic.undelivered, rounds, page_size, come_late=True)
        + _for_losses(traffic, traffic.failed, rounds, page_size, come_late=False)
    )


def _for_losses(traffic: Traffic, lost: float, rounds: float, page_size: int, *, come_late: bool) -> float:
    """Return the requests for the emails of one status; bounces *come_late*: servers are asked for days."""
    per_hour = lost / _WEEK_HOURS
    each = lost / traffic.operations
    in_time = _hit(rounds, traffic.operations / _WEEK_HOURS * min(each, _ROUNDS_WITH_LOSSES))
    found = in_time * _pages(_ROUND_HOURS * per_hour, page_size)
    if come_late:
        found += _hit(1.0, per_hour) * _pages(_DAY_HOURS * per_hour, page_size)
        found += _hit(1.0, _DAY_HOURS * per_hour) * _pages(lost, page_size) / _DAY_HOURS
    return found


def _for_all(traffic: Traffic, rounds: float, page_size: int) -> float:
    operations, emails, opened = (each / _WEEK_HOURS for each in (traffic.operations, traffic.emails, traffic.opened))
    # An operation changes when its emails are sent, and then in the rounds before which some of them were opened.
    later = max(1.0, _ROUND_HOURS * rounds - 1)
    changes = 1 + _hit(later, opened / operations * (1 - _OPENED_LATE))
    in_time = min(rounds, operations * changes)
    # There is at least one operation where anything has changed.
    listed = max(_ROUND_HOURS * emails, emails / operations)
    # Of older operations, all emails since the oldest change are listed, or those of each operation that has changed.
    by_operation = 1 + emails / operations // page_size
    of_the_day = min(
        _pages(_DAY_HOURS * emails, page_size),
        by_operation * _hit(_DAY_HOURS * operations, opened * _OPENED_LATE),
    )
    of_the_week = min(
        _pages(_WEEK_HOURS * emails, page_size),
        by_operation * _hit(_WEEK_HOURS * operations, _DAY_HOURS * opened * _OPENED_NEXT_DAY),
    )
    return in_time * _pages(listed, page_size) + of_the_day + of_the_week / _DAY_HOURS


def _hit(things: float, events: float) -> float:
    """Return how many of *things* have one of *events* that hit any of them by chance."""
    return things * (1 - exp(-events / things))


def _pages(emails: float, page_size: int) -> float:
    """Return how many pages a listing of about that many emails has: the last one is half full."""
    return max(1.0, 0.5 + emails / page_size)
