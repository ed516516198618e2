"""Incidents and calm months, each with what a reasonable person wants to hear of it.

What is expected here comes from what people need, not from what the rules can do: a case that the rules miss stays.
"""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from alerts.judge.history import Api, Change, Event, Exporter, History, Malformed, Prometheus
from alerts.judge.senders import (
    DAY,
    EVERY_DAY,
    FLAT,
    HOUR,
    MINUTE,
    NIGHT,
    OFFICE,
    SHIFT,
    SHIFT_DAYS,
    WORKING_DAYS,
    Campaign,
    Effect,
    Mail,
    Sender,
)

PAGE, TELL, SILENT = "page", "tell", "silence"
# Twice the weeks that "as usual" needs at least, and a day.
LEAD = 15 * DAY
# An account is older than its exporter: the API answers with what was there before.
BEFORE = 3 * DAY
INTERVAL = 60.0
# Before that, a look every five minutes shows what is usual.
FINE = 2 * HOUR


@dataclass(frozen=True)
class Expectation:
    """What has to happen: a page, a page or a warning (tell), or nothing.

    *within* seconds of the beginning, or of the moment when so many (*after*) emails have met the fate named by *stage*.
    """

    what: str
    within: float = 0.0
    stage: str = ""
    after: int = 0


@dataclass(frozen=True)
class Case:
    """One history to be judged: *make* takes a seed and how long the lead may be; *begin* and *end* say when the incident was."""

    name: str
    about: str
    expected: Expectation
    make: Callable[[int, float], tuple[History, float, float]]
    calm: bool = False

    def __repr__(self) -> str:
        return self.name


# All of this is past: Prometheus refuses samples from the future.
HOLIDAYS = {
    date(2024, 12, 24): 0.35,
    date(2024, 12, 25): 0.2,
    date(2024, 12, 26): 0.3,
    date(2024, 12, 31): 0.4,
    date(2025, 1, 1): 0.2,
    date(2025, 4, 18): 0.4,
    date(2025, 4, 21): 0.4,
    date(2025, 5, 1): 0.4,
    date(2025, 5, 29): 0.4,
    date(2025, 6, 9): 0.4,
}
SEASON = {date(2024, 11, 22) + timedelta(days=n): 1.4 + 0.25 * (n % 9) for n in range(30)}

SENDERS = {
    sender.name: sender
    for sender in (
        Sender("tiny50", 50, days=HOLIDAYS),
        Sender("small500", 500, opens=0.3, days=HOLIDAYS),
        Sender("office800", 800, hours=OFFICE, weekdays=WORKING_DAYS, days=HOLIDAYS),
        Sender("mid2k", 2_000, exclusive=True, opens=0.35, days=HOLIDAYS),
        Sender("mid5k", 5_000, days=HOLIDAYS),
        Sender("newyork5k", 5_000, zone="America/New_York", batch=2, growth=0.4),
        Sender("big50k", 50_000, batch=15, days=HOLIDAYS),
        Sender("huge3m", 3_000_000, batch=1_200, pace=60, bounce=0.012, days=HOLIDAYS),
        Sender("weekly200k", 150, campaigns=(Campaign(200_000, hours=2.0, bounce=0.03),)),
        Sender("weekly1m", 0, campaigns=(Campaign(1_000_000, weekday=3, hours=5.0, bounce=0.025),)),
        Sender("daily30k", 500, campaigns=(Campaign(30_000, weekday=None, hour=9.0, hours=0.7),)),
        Sender("nightly20k", 20_000, batch=20, hours=NIGHT, weekdays=EVERY_DAY),
        Sender("scheduled3k", 3_000, batch=12, scheduled=0.6),
        Sender("givesup5k", 5_000, batch=2, giving_up=0.012),
        Sender("flat1k", 1_000, hours=FLAT, weekdays=EVERY_DAY, zone="UTC"),
        Sender(
            "monthly", 40, campaigns=(Campaign(60_000, weekday=2, hour=8.0, hours=1.0, bounce=0.04),), zone="Asia/Tokyo"
        ),
        Sender("shift2k", 2_000, hours=SHIFT, weekdays=SHIFT_DAYS, days=HOLIDAYS),
    )
}


def _local(sender: Sender, day: date, hour: float) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(sender.zone)).timestamp() + hour * HOUR


def _day(name: str, seed: int, weekday: int) -> date:
    """Return a *weekday* of a usual week of 2025, another one for every case and seed."""
    source = random.Random(f"{seed}-{name}")
    week = source.choice([n for n in range(3, 44) if n not in {11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21}])
    return date(2025, 1, 6) + timedelta(weeks=week, days=weekday)


def _incident(
    name: str,
    sender: Sender,
    about: str,
    expected: Expectation,
    *,
    lasting: float,
    hour: float = 11.0,
    weekday: int = 1,
    lead: float = math.inf,
    after: float = 2 * HOUR,
    events: Callable[[float, float], Iterable[Event]] | None = None,
    others: Sequence[Sender] = (),
    others_too: bool = False,
    young: bool = False,
    interval: float = INTERVAL,
    fine: float = FINE,
    **effect,
) -> Case:
    """Return an incident of *sender* that begins at *hour* of *weekday*, after weeks of its usual mail."""

    def make(seed: int, longest: float = LEAD) -> tuple[History, float, float]:
        begin = _local(sender, _day(name, seed, weekday), hour)
        end = begin + lasting
        # Hours, so that a scrape and the full minute agree.
        start = (begin - min(lead, longest)) // HOUR * HOUR
        stop = end + after
        effects = [Effect(begin, end, **effect)] if effect else []
        changes: list[Event] = []
        for each in (sender, *others):
            own = effects if each is sender or others_too else []
            changes += Mail(each, begin=start if young else start - BEFORE, end=stop, effects=own, seed=seed).changes()
        extra = [] if events is None else [*events(begin, end)]
        if not any(isinstance(event, Exporter) and event.time <= start for event in extra):
            extra.append(Exporter(start, "up", "a", tuple(each.name for each in (sender, *others))))
        everything = sorted([*changes, *extra], key=lambda event: event.time)
        return History(start, stop, everything, interval, interval, begin - fine), begin, end

    return Case(name, about, expected, make)


def _calm(
    name: str,
    sender: Sender,
    about: str,
    start: date,
    *,
    days: int = 31,
    young: bool = False,
    trouble: str = "usual",
    others: Sequence[Sender] = (),
    interval: float = INTERVAL,
) -> Case:
    """Return a month in which nothing happens that a person should hear of."""

    def make(seed: int, longest: float = LEAD) -> tuple[History, float, float]:
        begin = datetime(start.year, start.month, start.day, tzinfo=ZoneInfo("UTC")).timestamp()
        end = begin + min(days * DAY, 2 * longest)
        changes: list[Event] = []
        for each in (sender, *others):
            changes += Mail(each, begin=begin if young else begin - BEFORE, end=end, seed=seed).changes()
        names = tuple(each.name for each in (sender, *others))
        events = [
            Exporter(begin, "up", "a", names),
            *_hiccups(trouble, begin, end, random.Random(f"{seed}-{name}"), names),
        ]
        everything = sorted([*changes, *events], key=lambda event: event.time)
        return History(begin, end, everything, interval, interval), begin, end

    return Case(name, about, Expectation(SILENT), make, calm=True)


def _hiccups(kind: str, begin: float, end: float, source: random.Random, names: tuple[str, ...]) -> Iterable[Event]:
    """Yield what happens in every month: restarts, and short trouble with the API and with Prometheus."""
    day = begin + 2 * DAY
    while day < end - DAY:
        moment = day + source.uniform(0, DAY)
        what = source.choice(
            {"usual": ["restart", "503", "500", "share", "timeout", "prometheus", "429"]}.get(kind, [kind])
        )
        if what == "restart":
            yield Exporter(moment, "down")
            yield Exporter(moment + source.uniform(20, 100), "up")
        elif what == "prometheus":
            yield Prometheus(moment, up=False)
            yield Prometheus(moment + source.uniform(60, 240), up=True)
        elif what == "replicas":
            yield Exporter(moment, "up", "b", names)
            yield Exporter(moment + source.uniform(HOUR, 20 * HOUR), "removed", "b")
        elif what == "share":
            yield Api(moment, 500, share=0.1)
            yield Api(moment + source.uniform(HOUR, 5 * HOUR), "ok")
        else:
            lasting = {"503": 20, "429": 6, "500": 6, "timeout": 5}[what] * MINUTE
            yield Api(moment, int(what) if what.isdigit() else what)
            yield Api(moment + lasting, "ok")
        day += source.uniform(2.5, 6) * DAY


def _failing(name: str, share: float, expected: Expectation, lasting: float, **how) -> Case:
    percent = f"{share:.0%}"
    at = f" at {how['hour']:g} h" if "hour" in how else ""
    return _incident(
        f"fail-{share * 100:g}-{name}{'-night' if how.get('hour', 9) < 6 else ''}{how.pop('suffix', '')}",
        SENDERS[name],
        f"{percent} of the emails of {name} fail{at}",
        expected,
        lasting=lasting,
        fail=share,
        **how,
    )


def _bouncing(name: str, share: float, expected: Expectation, lasting: float, **how) -> Case:
    return _incident(
        f"bounce-{share * 100:g}-{name}",
        SENDERS[name],
        f"{share:.0%} of the emails of {name} bounce",
        expected,
        lasting=lasting,
        bounce=share,
        **how,
    )


def _fifth(minutes: float = 3) -> Expectation:
    # A poll may come a whole interval after the fact, and so may the scrape and the evaluation.
    return Expectation(PAGE, minutes * MINUTE + INTERVAL, "failed", 5)


def _crash_loop(up: float, down: float) -> Callable[[float, float], Iterable[Event]]:
    def events(begin: float, end: float) -> Iterable[Event]:
        moment = begin
        while moment < end:
            yield Exporter(moment, "down")
            yield Exporter(min(end, moment + down), "up")
            moment += up + down

    return events


def _api(answer: int | str, *, share: float = 1.0, account: str | None = None, retry_after: float | None = None):
    return lambda begin, end: [Api(begin, answer, account, share, retry_after), Api(end, "ok", account)]


def _down(instance: str = "a", state: str = "down"):
    return lambda begin, end: [Exporter(begin, state, instance), Exporter(end, "up", instance)]


def _away(begin: float, end: float) -> list[Event]:
    return [Prometheus(begin, up=False), Prometheus(end, up=True)]


def _two(first: tuple[str, ...], second: tuple[str, ...], then: Callable[[float, float], Iterable[Event]]):
    """Two instances from the beginning, replicas or shards, and what happens *then*."""
    return lambda begin, end: [Exporter(0.0, "up", "a", first), Exporter(0.0, "up", "b", second), *then(begin, end)]


def incidents() -> list[Case]:
    """Return every incident."""
    s = SENDERS
    dozen = [replace(s["small500"], name=f"shop{n:02d}", per_day=200 + 150 * n, opens=0.0) for n in range(12)]
    trio = [replace(s["small500"], name=f"team{n}", per_day=900, opens=0.0) for n in range(3)]
    names = tuple(each.name for each in trio)
    return [
        # All mail fails
        _failing("tiny50", 1, _fifth(), 12 * HOUR),
        _failing("small500", 1, _fifth(), 5 * HOUR),
        _failing("office800", 1, _fifth(), 4 * HOUR),
        _failing("mid2k", 1, _fifth(), 4 * HOUR),
        _failing("mid2k", 1, _fifth(), 5 * HOUR, hour=2.0),
        _failing("mid5k", 1, _fifth(), 4 * HOUR),
        _failing("mid5k", 1, _fifth(), 4 * HOUR, hour=3.0),
        _failing("big50k", 1, _fifth(), 3 * HOUR),
        _failing("huge3m", 1, _fifth(), 2 * HOUR),
        _failing("weekly200k", 1, _fifth(), 3 * HOUR, hour=9.5),
        _failing("scheduled3k", 1, _fifth(), 4 * HOUR),
        _failing("nightly20k", 1, _fifth(), 3 * HOUR, hour=1.9),
        _failing("mid5k", 1, _fifth(), 10 * MINUTE, suffix="-10min", hour=15.0),
        _failing("small500", 1, _fifth(), 4 * HOUR, suffix="-first-day", lead=20 * HOUR, young=True),
        _failing("mid5k", 1, _fifth(), 3 * DAY, suffix="-3days"),
        # Some of it fails
        _failing("huge3m", 0.08, Expectation(PAGE, 6 * MINUTE + INTERVAL), 3 * HOUR),
        _failing("huge3m", 0.02, Expectation(TELL, HOUR), 2 * DAY),
        _failing("big50k", 0.08, Expectation(PAGE, 30 * MINUTE), 4 * HOUR),
        _failing("mid5k", 0.02, Expectation(TELL, 12 * HOUR), 2 * DAY),
        _failing("mid5k", 0.1, Expectation(TELL, HOUR), 6 * HOUR),
        _failing("mid5k", 0.3, Expectation(PAGE, 15 * MINUTE), 4 * HOUR),
        _failing("small500", 0.02, Expectation(TELL, 2 * DAY), 4 * DAY),
        _failing("small500", 0.1, Expectation(TELL, 4 * HOUR), DAY),
        _failing("small500", 0.5, Expectation(PAGE, 45 * MINUTE), 5 * HOUR),
        _failing("tiny50", 0.2, Expectation(TELL, DAY), 3 * DAY),
        _failing("weekly1m", 0.15, Expectation(PAGE, 15 * MINUTE), 5 * HOUR, weekday=3, hour=10.3),
        # Mail bounces
        _bouncing("tiny50", 1, Expectation(TELL, 6 * HOUR), 2 * DAY),
        _bouncing("small500", 1, Expectation(PAGE, 2 * HOUR), 10 * HOUR),
        _bouncing("small500", 0.08, Expectation(TELL, 2 * DAY), 4 * DAY),
        _bouncing("mid5k", 0.3, Expectation(PAGE, HOUR), 6 * HOUR),
        _bouncing("mid5k", 0.08, Expectation(TELL, 12 * HOUR), 2 * DAY),
        _bouncing("big50k", 0.12, Expectation(TELL, 2 * HOUR), 8 * HOUR),
        _bouncing("huge3m", 0.06, Expectation(TELL, 3 * HOUR), DAY),
        _bouncing("huge3m", 0.5, Expectation(PAGE, 15 * MINUTE), 3 * HOUR),
        _bouncing("weekly1m", 0.25, Expectation(PAGE, HOUR), 5 * HOUR, weekday=3, hour=10.3),
        _bouncing("weekly200k", 0.09, Expectation(TELL, 2 * HOUR), 4 * HOUR, hour=9.9),
        # The queue stands still, or is slow
        *(
            _incident(
                f"stuck-{name}{suffix}",
                s[name],
                f"nothing of {name} is handled ({suffix or 'by day'})",
                expected,
                lasting=lasting,
                hour=hour,
                pace=0.0,
            )
            for name, suffix, hour, lasting, expected in (
                ("tiny50", "", 11.0, 10 * HOUR, Expectation(TELL, 6 * HOUR)),
                ("small500", "", 11.0, 5 * HOUR, Expectation(TELL, 40 * MINUTE)),
                ("mid5k", "", 11.0, 3 * HOUR, Expectation(PAGE, 30 * MINUTE)),
                ("mid5k", "-night", 2.5, 4 * HOUR, Expectation(PAGE, HOUR)),
                ("big50k", "", 14.0, 3 * HOUR, Expectation(PAGE, 30 * MINUTE)),
                ("huge3m", "", 11.0, 2 * HOUR, Expectation(PAGE, 30 * MINUTE)),
                ("weekly200k", "", 10.5, 3 * HOUR, Expectation(PAGE, 30 * MINUTE)),
            )
        ),
        _incident(
            "slow-1-mid5k",
            s["mid5k"],
            "the queue of mid5k moves at 1 % of its pace",
            Expectation(PAGE, 45 * MINUTE),
            lasting=4 * HOUR,
            pace=0.01,
        ),
        _incident(
            "slow-50-mid5k",
            s["mid5k"],
            "the queue of mid5k moves at half of its pace",
            Expectation(TELL, 3 * HOUR),
            lasting=8 * HOUR,
            hour=9.0,
            pace=0.5,
        ),
        _incident(
            "slow-5-huge3m",
            s["huge3m"],
            "the queue of huge3m moves at 5 % of its pace",
            Expectation(PAGE, 30 * MINUTE),
            lasting=3 * HOUR,
            pace=0.05,
        ),
        _incident(
            "one-operation-stuck",
            s["weekly200k"],
            "one operation of a campaign stops halfway",
            Expectation(TELL, 2 * HOUR),
            lasting=6 * HOUR,
            hour=10.2,
            pace=0.0,
            one=True,
        ),
        _incident(
            "stuck-bad-polls",
            s["mid5k"],
            "nothing is handled, and a fifth of the polls fail",
            Expectation(PAGE, 45 * MINUTE),
            lasting=4 * HOUR,
            pace=0.0,
            events=_api(500, share=0.2),
        ),
        # Deliveries
        *(
            _incident(
                f"undelivered-{share * 100:g}-{name}{suffix}",
                s[name],
                f"{share:.0%} of the outcomes of {name} are missing ({suffix or 'by day'})",
                expected,
                lasting=lasting,
                hour=hour,
                outcomes=1 - share,
            )
            for name, suffix, share, hour, lasting, expected in (
                ("small500", "", 1.0, 11.0, 6 * HOUR, Expectation(TELL, HOUR)),
                ("mid5k", "", 1.0, 11.0, 3 * HOUR, Expectation(PAGE, 40 * MINUTE)),
                ("mid5k", "-night", 1.0, 2.5, 4 * HOUR, Expectation(PAGE, 70 * MINUTE)),
                ("huge3m", "", 1.0, 11.0, 3 * HOUR, Expectation(PAGE, 40 * MINUTE)),
                ("mid5k", "", 0.5, 10.0, 8 * HOUR, Expectation(TELL, 2 * HOUR)),
                ("big50k", "", 0.5, 10.0, 6 * HOUR, Expectation(TELL, HOUR)),
                ("huge3m", "", 0.5, 10.0, 6 * HOUR, Expectation(TELL, HOUR)),
            )
        ),
        # Far too much
        *(
            _incident(
                f"surge-{factor}-{name}{suffix}",
                s[name],
                f"{factor} times the traffic of {name} ({suffix or 'by day'})",
                expected,
                lasting=lasting,
                hour=hour,
                traffic=float(factor),
            )
            for name, suffix, factor, hour, lasting, expected in (
                ("tiny50", "", 10, 10.0, 8 * HOUR, Expectation(TELL, 4 * HOUR)),
                ("small500", "", 10, 10.0, 6 * HOUR, Expectation(TELL, 90 * MINUTE)),
                ("mid5k", "", 10, 10.0, 4 * HOUR, Expectation(TELL, HOUR)),
                ("mid5k", "-night", 30, 2.0, 3 * HOUR, Expectation(TELL, HOUR)),
                ("big50k", "", 10, 14.0, 3 * HOUR, Expectation(TELL, HOUR)),
                ("huge3m", "", 10, 14.0, 2 * HOUR, Expectation(TELL, HOUR)),
            )
        ),
        # Far too little
        *(
            _incident(
                f"traffic-{share * 100:g}-{name}{suffix}",
                s[name],
                f"{share:.0%} of the usual traffic of {name} ({suffix or 'by day'})",
                expected,
                lasting=lasting,
                hour=hour,
                traffic=share,
                **how,
            )
            for name, suffix, share, hour, lasting, expected, how in (
                ("tiny50", "", 0.0, 9.0, 30 * HOUR, Expectation(TELL, DAY), {}),
                ("small500", "", 0.0, 10.0, 12 * HOUR, Expectation(TELL, 4 * HOUR), {}),
                ("mid5k", "", 0.0, 11.0, 8 * HOUR, Expectation(TELL, 2 * HOUR), {}),
                ("mid5k", "-night", 0.0, 1.0, 8 * HOUR, Expectation(TELL, 4 * HOUR), {}),
                (
                    "mid5k",
                    "-first-week",
                    0.0,
                    11.0,
                    8 * HOUR,
                    Expectation(TELL, 6 * HOUR),
                    {"lead": 4 * DAY, "young": True},
                ),
                ("huge3m", "", 0.0, 11.0, 4 * HOUR, Expectation(TELL, 90 * MINUTE), {}),
                ("nightly20k", "", 0.0, 1.0, 12 * HOUR, Expectation(TELL, 6 * HOUR), {}),
                ("mid5k", "", 0.2, 10.0, 2 * DAY, Expectation(TELL, 6 * HOUR), {}),
                ("small500", "", 0.5, 10.0, 2 * DAY, Expectation(TELL, DAY), {}),
                ("mid5k", "", 0.5, 10.0, 2 * DAY, Expectation(TELL, 12 * HOUR), {}),
                ("big50k", "", 0.5, 10.0, 2 * DAY, Expectation(TELL, 12 * HOUR), {}),
            )
        ),
        _incident(
            "campaign-missing",
            s["weekly200k"],
            "the weekly campaign does not come",
            # It may be a day late, from ten o'clock on.
            Expectation(TELL, 30 * HOUR),
            lasting=30 * HOUR,
            hour=9.0,
            campaigns=0.0,
        ),
        # Schedules
        _incident(
            "schedules-stop",
            s["scheduled3k"],
            "scheduled operations wait on at their time",
            Expectation(TELL, 2 * HOUR),
            lasting=10 * HOUR,
            # How many leave in an hour is not seen in a look every five minutes.
            fine=8 * DAY,
            schedules=False,
        ),
        _incident(
            "canceled",
            s["scheduled3k"],
            "four fifths of the scheduled operations are canceled",
            Expectation(TELL, 20 * MINUTE),
            lasting=HOUR,
            cancel=0.8,
        ),
        # The exporter
        _incident(
            "exporter-down",
            s["mid5k"],
            "the exporter is down",
            Expectation(PAGE, 6 * MINUTE),
            lasting=2 * HOUR,
            events=_down(),
        ),
        _incident(
            "exporter-removed",
            s["mid5k"],
            "there is no target any more",
            Expectation(PAGE, 10 * MINUTE),
            lasting=2 * HOUR,
            events=_down(state="removed"),
        ),
        _incident(
            "crash-loop-2-of-4",
            s["mid5k"],
            "the exporter is up for 2 minutes of 4",
            Expectation(TELL, 20 * MINUTE),
            lasting=3 * HOUR,
            events=_crash_loop(120, 120),
        ),
        _incident(
            "crash-loop-2-of-12",
            s["mid5k"],
            "the exporter is up for 2 minutes of 12",
            Expectation(PAGE, 30 * MINUTE),
            lasting=3 * HOUR,
            events=_crash_loop(120, 600),
        ),
        _incident(
            "restarts-once",
            s["mid5k"],
            "the exporter is restarted, and up again after 90 seconds",
            Expectation(SILENT),
            lasting=HOUR,
            events=lambda begin, _: [Exporter(begin, "down"), Exporter(begin + 90, "up")],
        ),
        _incident(
            "state-lost",
            s["big50k"],
            "the exporter starts without its state file",
            Expectation(SILENT),
            lasting=6 * HOUR,
            events=lambda begin, _: [Exporter(begin, "down"), Exporter(begin + 40, "up", forgets=True)],
        ),
        _incident(
            "account-removed",
            trio[0],
            "one of three accounts is no longer polled",
            Expectation(TELL, HOUR),
            lasting=6 * HOUR,
            others=trio[1:],
            events=lambda begin, end: [Exporter(begin, "up", "a", names[1:]), Exporter(end, "up", "a", names)],
        ),
        _incident(
            "shard-removed",
            trio[0],
            "one of two targets is gone, and its account with it",
            Expectation(TELL, HOUR),
            lasting=6 * HOUR,
            others=trio[1:],
            events=_two(names[:1], names[1:], _down(state="removed")),
        ),
        _incident(
            "shard-down",
            trio[0],
            "one of two shards is down",
            Expectation(PAGE, 6 * MINUTE),
            lasting=3 * HOUR,
            others=trio[1:],
            events=_two(names[:1], names[1:], _down()),
        ),
        _incident(
            "shard-down-other-revoked",
            trio[0],
            "one shard is down, and the key of an account of another is revoked",
            Expectation(PAGE, 15 * MINUTE, "other"),
            lasting=3 * HOUR,
            others=trio[1:],
            events=_two(
                names[1:],
                names[:1],
                lambda begin, end: [*_down()(begin - 30 * MINUTE, end), *_api(401, account=names[0])(begin, end)],
            ),
        ),
        _incident(
            "account-twice",
            trio[0],
            "two instances that are no replicas poll the same account",
            Expectation(TELL, 2 * HOUR),
            lasting=8 * HOUR,
            others=trio[1:],
            events=lambda begin, end: [
                Exporter(0.0, "up", "a", names),
                Exporter(begin, "up", "b", names[:1]),
                Exporter(end, "removed", "b"),
            ],
        ),
        # The API
        _incident(
            "api-503-20min",
            s["mid5k"],
            "the API answers 503 for 20 minutes",
            Expectation(SILENT),
            lasting=20 * MINUTE,
            interval=30.0,
            events=_api(503),
        ),
        _incident(
            "api-503",
            s["mid5k"],
            "the API answers 503 for 3 hours",
            Expectation(PAGE, 40 * MINUTE),
            lasting=3 * HOUR,
            events=_api(503),
        ),
        _incident(
            "api-500",
            s["mid5k"],
            "the API answers 500 for 3 hours",
            Expectation(PAGE, 30 * MINUTE),
            lasting=3 * HOUR,
            events=_api(500),
        ),
        _incident(
            "api-timeouts",
            s["mid5k"],
            "the API does not answer for 3 hours",
            Expectation(PAGE, 30 * MINUTE),
            lasting=3 * HOUR,
            events=_api("timeout"),
        ),
        _incident(
            "api-429",
            s["mid5k"],
            "the API answers 429 for 6 hours",
            Expectation(TELL, 45 * MINUTE),
            lasting=6 * HOUR,
            events=_api(429),
        ),
        _incident(
            "api-key-revoked",
            s["small500"],
            "the API refuses the key",
            Expectation(PAGE, 10 * MINUTE),
            lasting=4 * HOUR,
            events=_api(401),
        ),
        _incident(
            "api-forbidden",
            s["small500"],
            "the API answers 403",
            Expectation(PAGE, 10 * MINUTE),
            lasting=4 * HOUR,
            events=_api(403),
        ),
        _incident(
            "api-empty",
            s["mid5k"],
            "the API answers with empty lists",
            Expectation(TELL, 2 * HOUR),
            lasting=8 * HOUR,
            events=_api("empty"),
        ),
        _incident(
            "api-malformed",
            s["mid5k"],
            "the API lists entries that are no operations",
            Expectation(TELL, 30 * MINUTE),
            lasting=HOUR,
            events=lambda begin, _: [Malformed(begin + n, "mid5k", "stats is missing") for n in range(20)],
        ),
        _incident(
            "api-half-the-polls",
            s["mid5k"],
            "half of the polls fail for 6 hours",
            Expectation(TELL, 2 * HOUR),
            lasting=6 * HOUR,
            events=_api(500, share=0.5),
        ),
        # Nobody looks
        _incident(
            "fail-while-prometheus-away",
            s["mid5k"],
            "all emails fail while Prometheus is away for 15 minutes",
            Expectation(TELL, 25 * MINUTE),
            lasting=15 * MINUTE,
            fail=1.0,
            events=_away,
        ),
        _incident(
            "fail-while-exporter-down",
            s["mid5k"],
            "all emails fail while the exporter is down for 30 minutes",
            Expectation(PAGE, 40 * MINUTE),
            lasting=30 * MINUTE,
            fail=1.0,
            events=_down(),
        ),
        _incident(
            "fail-while-api-away",
            s["mid5k"],
            "all emails fail while the API answers 503 for an hour",
            Expectation(PAGE, 75 * MINUTE),
            lasting=HOUR,
            fail=1.0,
            events=_api(503),
        ),
        _incident(
            "prometheus-away",
            s["mid5k"],
            "Prometheus is away for 15 minutes",
            Expectation(SILENT),
            lasting=15 * MINUTE,
            events=_away,
        ),
        # Replicas and many accounts
        _incident(
            "replica-down",
            s["mid5k"],
            "one of two replicas is down",
            Expectation(TELL, 15 * MINUTE),
            lasting=3 * HOUR,
            events=_two(("mid5k",), ("mid5k",), _down()),
        ),
        _incident(
            "replicas-fail-100",
            s["mid5k"],
            "all emails fail, seen by two replicas",
            _fifth(),
            lasting=3 * HOUR,
            fail=1.0,
            events=_two(("mid5k",), ("mid5k",), lambda *_: ()),
        ),
        _incident(
            "twelve-503",
            dozen[0],
            "the API answers 503 for 3 hours, to twelve accounts",
            Expectation(PAGE, 40 * MINUTE),
            lasting=3 * HOUR,
            others=dozen[1:],
            events=_api(503),
            lead=2 * DAY,
        ),
        _incident(
            "twelve-fail-100",
            dozen[0],
            "all emails of twelve accounts fail",
            Expectation(PAGE, 20 * MINUTE),
            lasting=3 * HOUR,
            others=dozen[1:],
            others_too=True,
            fail=1.0,
            lead=2 * DAY,
        ),
        *(
            _incident(
                f"twelve-{name}",
                dozen[0],
                f"{about}, of twelve accounts",
                expected,
                lasting=3 * HOUR,
                others=dozen[1:],
                others_too=True,
                lead=lead,
                **how,
            )
            for name, about, expected, lead, how in (
                ("fail-30", "30% of the emails fail", Expectation(PAGE, HOUR), 2 * DAY, {"fail": 0.3}),
                ("bounce-100", "all emails bounce", Expectation(PAGE, HOUR), 2 * DAY, {"bounce": 1.0}),
                ("stuck", "nothing is handled", Expectation(PAGE, 30 * MINUTE), 2 * DAY, {"pace": 0.0}),
                (
                    "undelivered-100",
                    "all outcomes are missing",
                    Expectation(PAGE, 40 * MINUTE),
                    2 * DAY,
                    {"outcomes": 0.0},
                ),
                ("traffic-0", "no email is asked for", Expectation(TELL, 4 * HOUR), 10 * DAY, {"traffic": 0.0}),
                (
                    "empty",
                    "the API answers with empty lists",
                    Expectation(TELL, 2 * HOUR),
                    2 * DAY,
                    {"events": _api("empty")},
                ),
            )
        ),
        _incident(
            "one-of-twelve-fails",
            dozen[3],
            "all emails of one of twelve accounts fail",
            _fifth(),
            lasting=3 * HOUR,
            others=[each for each in dozen if each is not dozen[3]],
            fail=1.0,
            lead=2 * DAY,
        ),
    ]


def calm_months() -> list[Case]:
    """Return every calm month."""
    s = SENDERS
    year = [
        date(2025, 1, 13),
        date(2025, 3, 10),
        date(2025, 5, 5),
        date(2025, 7, 7),
        date(2025, 10, 6),
        date(2024, 12, 9),
    ]
    months = [
        _calm(
            f"calm-{name}-{year[(n + k) % 6]:%b}".lower(),
            s[name],
            f"{name} in {year[(n + k) % 6]:%B}",
            year[(n + k) % 6],
        )
        for n, name in enumerate(s)
        for k in (
            (0, 3)
            if name
            in {
                "tiny50",
                "small500",
                "mid5k",
                "huge3m",
                "weekly200k",
                "weekly1m",
                "scheduled3k",
                "givesup5k",
                "daily30k",
            }
            else (1,)
        )
    ]
    season = replace(s["mid5k"], name="season5k", days={**HOLIDAYS, **SEASON})
    trio = [replace(s["small500"], name=f"team{n}", per_day=900, opens=0.0) for n in range(3)]
    return [
        *months,
        _calm("calm-season5k", season, "a shop before Christmas, up to 3.4 times as busy", date(2024, 11, 18)),
        _calm("calm-young-small500", s["small500"], "the first month of small500", date(2025, 6, 2), young=True),
        _calm("calm-young-mid5k", s["mid5k"], "the first month of mid5k", date(2025, 6, 2), young=True),
        _calm("calm-young-shift2k", s["shift2k"], "the first month of shift2k", date(2025, 6, 2), young=True),
        _calm("calm-young-weekly1m", s["weekly1m"], "the first month of weekly1m", date(2025, 6, 2), young=True),
        _calm(
            "calm-replicas-mid5k",
            s["mid5k"],
            "mid5k with a second replica now and then",
            date(2025, 2, 3),
            trouble="replicas",
        ),
        _calm(
            "calm-503-small500",
            s["small500"],
            "20 minutes of 503 twice a week",
            date(2025, 2, 3),
            trouble="503",
            interval=30.0,
        ),
        _calm("calm-restarts-big50k", s["big50k"], "restarts twice a week", date(2025, 9, 1), trouble="restart"),
        _calm("calm-clock-newyork5k", s["newyork5k"], "the clock changes in New York", date(2025, 2, 24)),
        _calm("calm-clock-flat1k", s["flat1k"], "no clock changes", date(2025, 10, 13)),
        _calm("calm-trio", trio[0], "three accounts in one exporter", date(2025, 6, 9), others=trio[1:]),
    ]


def evidence(case: Case, history: History, begin: float) -> float | None:
    """Return when so much had happened as *case* waits for; *begin* where it waits for nothing, None if it never did."""
    expected = case.expected
    if not expected.after:
        return begin
    index = {"failed": 9, "undelivered": 8}[expected.stage]
    before: dict[str, int] = {}
    total = 0
    for event in history.events:
        if isinstance(event, Change) and event.operation is not None:
            now = event.operation.stats[index] or 0
            growth = now - before.get(event.operation_id, 0)
            before[event.operation_id] = now
            if event.time >= begin and growth > 0:
                total += growth
                if total >= expected.after:
                    return event.time
    return None
