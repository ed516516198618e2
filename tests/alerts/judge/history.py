"""A history: what happens to accounts, to the API, to exporters and to Prometheus, one event after the other.

A history is a list of events in the order of their times, or a file of JSON lines that says the same (see docs/judge.md).
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from alerts.judge.exporter import STATS, MalformedEntryError, Operation, read_operation

API_ANSWERS = (400, 401, 403, 404, 429, 500, 503, "timeout", "connection", "empty", "ok")
# Seconds between polls, scrapes and evaluations before the time that matters: no more than a lookback of Prometheus.
COARSE = 300.0
EXPORTER_STATES = ("up", "down", "removed")


class HistoryError(Exception):
    """A line that is no event; the message names the line."""


class Change(NamedTuple):
    """From *time* on, the API answers *operation* of *account*; None means that it no longer knows *operation_id*."""

    time: float
    account: str
    operation_id: str
    operation: Operation | None


class Malformed(NamedTuple):
    """From *time* on, the API lists an entry for *account* that is no operation."""

    time: float
    account: str
    message: str


@dataclass(frozen=True, slots=True)
class Api:
    """From *time* on, the API answers *account* (None: every account) with *answer*, or *share* of the requests."""

    time: float
    answer: int | str
    account: str | None = None
    share: float = 1.0
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Exporter:
    """From *time* on, *instance* is up, down (the scrape fails) or removed (no target), and polls *accounts*.

    Without *accounts*, it polls those it polled before, and at first all there are. *forgets* means that it starts
    without its state file.
    """

    time: float
    state: str
    instance: str = "a"
    accounts: tuple[str, ...] | None = None
    forgets: bool = False


@dataclass(frozen=True, slots=True)
class Prometheus:
    """From *time* on, Prometheus scrapes and evaluates, or does not."""

    time: float
    up: bool


Event = Change | Malformed | Api | Exporter | Prometheus


@dataclass(frozen=True)
class History:
    """*events* from *start* to *end*, and how often is polled and scraped meanwhile.

    What comes before *fine_from* only shows what is usual: polls, scrapes and evaluations are COARSE there.
    """

    start: float
    end: float
    events: list[Event]
    poll_interval: float = 30
    scrape_interval: float = 30
    fine_from: float = float("-inf")

    @property
    def accounts(self) -> list[str]:
        """The accounts that anything is said of."""
        named = {event.account for event in self.events if isinstance(event, Change | Malformed)}
        for event in self.events:
            if isinstance(event, Exporter):
                named |= set(event.accounts or ())
            if isinstance(event, Api) and event.account is not None:
                named.add(event.account)
        return sorted(named)


def read_history(lines: Iterable[str]) -> History:
    """Return the history in *lines* of JSON; HistoryError names the line that is none."""
    events: list[Event] = []
    settings: dict[str, Any] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise HistoryError("not a JSON object")  # noqa: TRY301 - the line number is added in one place
            if "poll_interval" in entry or "scrape_interval" in entry:
                settings.update(entry)
            else:
                events.append(_event(entry))
        except (HistoryError, ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise HistoryError(f"line {number}: {what}") from None
    if not events:
        raise HistoryError("the history has no event")
    events.sort(key=lambda event: event.time)
    known = {"time", "end", "poll_interval", "scrape_interval"}
    if not settings.keys() <= known:
        raise HistoryError(f"unknown settings: {', '.join(sorted(settings.keys() - known))}")
    start = _moment(settings["time"]) if "time" in settings else events[0].time
    end = _moment(settings["end"]) if "end" in settings else events[-1].time
    return History(
        start, end, events, float(settings.get("poll_interval", 30)), float(settings.get("scrape_interval", 30))
    )


def write_history(history: History, file: TextIO) -> None:
    """Write *history* as read_history() reads it."""
    settings = {
        "time": _text(history.start),
        "end": _text(history.end),
        "poll_interval": history.poll_interval,
        "scrape_interval": history.scrape_interval,
    }
    file.writelines(
        json.dumps(entry, separators=(",", ":")) + "\n" for entry in (settings, *map(_entry, history.events))
    )


def load(path: Path) -> History:
    """Return the history in the file at *path*."""
    with path.open(encoding="utf-8") as lines:
        return read_history(lines)


def _event(entry: dict[str, Any]) -> Event:
    time = _moment(entry["time"])
    match entry:
        case {"account": str(account), "operation": raw}:
            try:
                operation = read_operation(raw, Counter())
            except MalformedEntryError as error:
                return Malformed(time, account, str(error))
            return Change(time, account, operation.id, operation)
        case {"account": str(account), "deleted": str(operation_id)}:
            return Change(time, account, operation_id, None)
        case {"api": int() | str() as answer}:
            if answer not in API_ANSWERS:
                raise HistoryError(f"api is {answer!r}; it can be {', '.join(map(str, API_ANSWERS))}")
            return Api(time, answer, entry.get("account"), float(entry.get("share", 1.0)), entry.get("retry_after"))
        case {"exporter": str(state)}:
            if state not in EXPORTER_STATES:
                raise HistoryError(f"exporter is {state!r}; it can be {', '.join(EXPORTER_STATES)}")
            accounts = entry.get("accounts")
            return Exporter(
                time,
                state,
                entry.get("instance", "a"),
                None if accounts is None else tuple(accounts),
                bool(entry.get("forgets")),
            )
        case {"prometheus": "up" | "down" as state}:
            return Prometheus(time, state == "up")
    raise HistoryError("it says nothing of an operation, the api, an exporter or prometheus")


def _entry(event: Event) -> dict[str, Any]:
    time = {"time": _text(event.time)}
    match event:
        case Change(account=account, operation=None):
            return {**time, "account": account, "deleted": event.operation_id}
        case Change(account=account, operation=operation):
            return {**time, "account": account, "operation": _as_the_api(operation)}
        case Malformed():
            return {**time, "account": event.account, "operation": {}}
        case Api():
            about = {"account": event.account, "retry_after": event.retry_after}
            share = {} if event.share == 1.0 else {"share": event.share}
            return {**time, "api": event.answer, **share, **{k: v for k, v in about.items() if v is not None}}
        case Exporter():
            more: dict[str, Any] = {} if event.accounts is None else {"accounts": list(event.accounts)}
            if event.forgets:
                more["forgets"] = True
            return {**time, "exporter": event.state, "instance": event.instance, **more}
        case Prometheus():
            return {**time, "prometheus": "up" if event.up else "down"}


def _as_the_api(operation: Operation) -> dict[str, Any]:
    return {
        "id": operation.id,
        "status": operation.status,
        "stats": {name: n for name, n in zip(STATS, operation.stats, strict=True) if n is not None},
        "createdAt": _text(operation.created),
        "updatedAt": _text(operation.updated),
    }


def _moment(text: str) -> float:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise HistoryError(f"the time {text} has no zone")
    return moment.timestamp()


def _text(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def events_by_time(*streams: Iterable[Event]) -> Iterator[Event]:
    """Yield the events of all *streams* in the order of their times."""
    yield from sorted((event for stream in streams for event in stream), key=lambda event: event.time)
