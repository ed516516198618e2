"""Plays a history through the exporter's own poll loop, state and metric table, on a clock that nobody waits for."""

import heapq
import random
import sys
from array import array
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from itertools import count
from types import coroutine
from typing import Any

from alerts.judge.exporter import (
    LIVE,
    OPERATION_FAMILIES,
    PUBLISHED,
    RETENTION,
    STATUSES,
    CommsError,
    Operation,
    Page,
    Poller,
    PollHealth,
    Reloads,
    RequestStats,
    Shard,
    classify_response,
    exporter_families,
    read_value,
    restored,
    saved,
    values,
)
from alerts.judge.history import COARSE, Api, Change, Exporter, History, Malformed, Prometheus

# A value that says that a series has ended: Prometheus writes it when a series is missing from a scrape.
STALE = -sys.float_info.max
ACTIVE_WINDOW = 3600.0
# Seconds from the start of an instance to its first poll: no two instances poll at the same moment.
PHASE = 7.0
# Single operations that are written for each account: those that wait the longest, and those that lost the most.
MOST_OPERATIONS = 12
# Seconds after which an operation that does not change counts as waiting.
WAITING = 120.0

# Where an operation's packed counters have undelivered and failed.
_LOST = slice(64, 80)
_NONE_LOST = bytes(16)

Key = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Samples:
    """The samples of one series: times in milliseconds, and values; STALE ends it."""

    times: array = field(default_factory=lambda: array("q"))
    values: array = field(default_factory=lambda: array("d"))

    def add(self, time: float, value: float) -> None:
        """Append one sample."""
        self.times.append(round(time * 1000))
        self.values.append(value)

    def extend(self, other: "Samples") -> None:
        """Append later samples."""
        self.times.extend(other.times)
        self.values.extend(other.values)


Series = dict[Key, Samples]


@dataclass(frozen=True)
class Played:
    """What Prometheus scraped, and the periods during which it was away."""

    series: Series
    away: list[tuple[float, float]]


class Log:
    """Hears nothing."""

    def bind(self, **_):
        return self

    def __getattr__(self, level):
        return lambda *_, **__: None


class Account:
    """What the API knows of one account, and how it answers at the moment."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.operations: dict[str, Operation] = {}
        self.malformed: list[tuple[float, str]] = []
        self.api = Api(0.0, "ok")
        self._by_creation: list[tuple[float, str]] = []
        self._random = random.Random(f"{seed}-{name}")

    def change(self, operation_id: str, operation: Operation | None) -> None:
        """Answer *operation* from now on."""
        known = self.operations.pop(operation_id, None)
        if known is not None and (operation is None or operation.created != known.created):
            del self._by_creation[bisect_left(self._by_creation, (known.created, operation_id))]
            known = None
        if operation is not None:
            self.operations[operation_id] = operation
            if known is None:
                insort(self._by_creation, (operation.created, operation_id))

    def created_since(self, since: float) -> list[Operation]:
        """Return the operations that were created at *since* or later."""
        return [self.operations[name] for _, name in self._by_creation[bisect_left(self._by_creation, (since, "")) :]]

    def broken(self) -> bool:
        """Whether the next request is one of those that the trouble concerns."""
        return self.api.answer != "ok" and (self.api.share >= 1 or self._random.random() < self.api.share)


class Client:
    """Answers the poller as CommsClient does, from an account in this process."""

    page_size = 1000

    def __init__(self, account: Account, clock: Callable[[], float]) -> None:
        self.now = clock
        self.request_stats = RequestStats(monotonic=clock)
        self._account = account

    async def pages(self, query: Any, _: Any) -> AsyncIterator[Page]:
        """Yield the listing as one page."""
        if self._request():
            yield Page([], None, [], Counter())
            return
        since = max(query.created_after or 0.0, self.now() - RETENTION)
        listed = self._account.created_since(since)
        if query.status is not None:
            listed = [each for each in listed if each.status == query.status]
        yield Page(listed, None, [message for time, message in self._account.malformed if time >= since], Counter())

    async def operation(self, operation_id: str, _: Any) -> Page | None:
        """Return one operation, None for a 404."""
        operation = None if self._request() else self._account.operations.get(operation_id)
        return None if operation is None else Page([operation], None, [], Counter())

    def _request(self) -> bool:
        """Count a request and raise what it comes to; return whether the answer is empty."""
        api = self._account.api
        trouble = self._account.broken()
        answer = api.answer if trouble else "ok"
        code = "200" if answer in {"ok", "empty"} else str(answer) if isinstance(answer, int) else "error"
        self.request_stats.requests[code] += 1
        self.request_stats.durations.observe(0.08)
        if answer in {"timeout", "connection"}:
            raise CommsError(answer, "no answer")
        if code != "200":
            headers = {} if api.retry_after is None else {"Retry-After": f"{api.retry_after:g}"}
            raise classify_response(int(code), headers, b"{}", now=self.now())
        return answer == "empty"


@dataclass(slots=True)
class Instance:
    """One exporter: a process that can be away, and what outlives it."""

    name: str
    accounts: tuple[str, ...]
    # What its state file holds.
    records: dict[str, Any] = field(default_factory=dict)
    # None while it is down.
    pollers: dict[str, Poller] | None = None
    removed: bool = False
    started: int = 0
    loops: list[Coroutine[Any, Any, None]] = field(default_factory=list)
    reloads: Reloads | None = None
    scraped: frozenset[Key] = frozenset()
    pages: dict[str, tuple[Any, dict[Key, float]]] = field(default_factory=dict)
    metrics: dict[tuple[str, str], tuple[Any, dict[Key, float]]] = field(default_factory=dict)


@coroutine
def _until(moment: float):
    """Give up control until *moment*."""
    yield moment


class Player:
    """One run of a history; *names* are the metrics that are scraped."""

    def __init__(self, history: History, names: Iterable[str], *, seed: int = 0) -> None:
        self.history = history
        self.now = history.start
        self._names = frozenset(names)
        self._published = _wanted(PUBLISHED, self._names)
        self._live = _wanted(LIVE, self._names)
        self._operation_families = [
            (index, name) for index, (name, _) in enumerate(OPERATION_FAMILIES) if name in self._names
        ]
        self._lost_are_read = not self._names.isdisjoint(
            f"comms_email_operation_{stage}" for stage in ("failed", "undelivered")
        )
        self._accounts = {name: Account(name, seed) for name in history.accounts}
        self._instances: dict[str, Instance] = {}
        self._series: Series = {}
        self._up = True
        self._away: list[tuple[float, float]] = []
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def play(self) -> Played:
        """Return what Prometheus scraped."""
        history = self.history
        if not any(isinstance(event, Exporter) and event.time <= history.start for event in history.events):
            self._exporter(Exporter(history.start, "up"))
        self._at(history.start, self._scrape)
        for event in history.events:
            if event.time > history.end:
                break
            self._run_until(event.time)
            self.now = max(self.now, event.time)
            self._take(event)
        self._run_until(history.end)
        if not self._up:
            self._away[-1] = (self._away[-1][0], history.end)
        return Played(self._series, self._away)

    def clock(self) -> float:
        """Return the simulated time."""
        return self.now

    def _at(self, moment: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (moment, next(self._numbers), call))

    def _run_until(self, moment: float) -> None:
        agenda = self._agenda
        while agenda and agenda[0][0] < moment:
            self.now, _, call = heapq.heappop(agenda)
            call()

    def _take(self, event: Any) -> None:
        match event:
            case Change():
                self._accounts[event.account].change(event.operation_id, event.operation)
            case Malformed():
                self._accounts[event.account].malformed.append((event.time, event.message))
            case Api():
                for account in self._accounts.values():
                    if event.account in {None, account.name}:
                        account.api = event
            case Exporter():
                self._exporter(event)
            case Prometheus(up=True) if not self._up:
                self._up = True
                self._away[-1] = (self._away[-1][0], event.time)
            case Prometheus(up=False) if self._up:
                self._up = False
                self._away.append((event.time, event.time))

    def _exporter(self, event: Exporter) -> None:
        instance = self._instances.get(event.instance)
        if instance is None:
            accounts = tuple(self._accounts)
            instance = self._instances[event.instance] = Instance(event.instance, accounts)
        self._stop(instance)
        if event.accounts is not None:
            instance.accounts = event.accounts
        instance.removed = event.state == "removed"
        if event.forgets:
            instance.records.clear()
        if event.state == "up":
            self._start(instance)

    def _start(self, instance: Instance) -> None:
        instance.pollers = {}
        instance.pages.clear()
        instance.metrics.clear()
        instance.started += 1
        instance.reloads = Reloads(self.now)
        phase = PHASE * (1 + sorted(self._instances).index(instance.name))
        for name in instance.accounts:
            self._poll(instance, name, instance.records.get(name), self.now + phase)

    def _poll(self, instance: Instance, name: str, record: Any, moment: float) -> None:
        """Let *instance* show the account *name* as *record* has it, and poll it from *moment* on."""
        state = restored(record)
        poller = Poller(
            name,
            client=Client(self._accounts[name], self.clock),
            state=state,
            health=PollHealth(interval_seconds=self.history.poll_interval),
            view=state.view_of_totals(),
            interval=self.history.poll_interval,
            active_window=ACTIVE_WINDOW,
            max_operations=1000,
            max_tracked_operations=10_000_000,
            log=Log(),
            mask=str,
            save=_keep,
            clock=self.clock,
            monotonic=self.clock,
            sleep=self._sleep,
        )
        instance.pollers[name] = poller
        loop = poller.run()
        instance.loops.append(loop)
        self._at(moment, self._turn(instance, instance.started, loop))

    def _stop(self, instance: Instance) -> None:
        if instance.pollers is None:
            return
        for loop in instance.loops:
            loop.close()
        instance.loops.clear()
        for name, poller in instance.pollers.items():
            instance.records[name] = saved(poller.state)
        instance.pollers = None

    async def _sleep(self, seconds: float) -> None:
        if seconds > 0:
            # A poller whose sleep was long does not make up for the polls that it missed.
            coarse = self.now < self.history.fine_from
            await _until(self.now + (max(COARSE, seconds) if coarse else seconds))

    def _turn(self, instance: Instance, started: int, loop: Coroutine[Any, Any, None]) -> Callable[[], None]:
        """Return a call that runs *loop* until it sleeps, unless its process has ended."""

        def run() -> None:
            if instance.started != started or instance.pollers is None:
                return
            # asyncio.sleep(0) yields None: nobody else wants a turn.
            while (wake := loop.send(None)) is None:
                pass
            self._at(wake, run)

        return run

    def _scrape(self) -> None:
        coarse = self.now < self.history.fine_from
        self._at(self.now + (COARSE if coarse else self.history.scrape_interval), self._scrape)
        if not self._up:
            return
        for instance in self._instances.values():
            labels = (("instance", f"{instance.name}:10067"), ("job", "comms-exporter"))
            samples: dict[Key, float] = {}
            if not instance.removed:
                samples[(("__name__", "up"), *labels)] = float(instance.pollers is not None)
            if instance.pollers is not None:
                self._read(instance, labels, samples)
            for key in instance.scraped - samples.keys():
                self._add(key, STALE)
            for key, value in samples.items():
                self._add(key, value)
            instance.scraped = frozenset(samples)

    def _add(self, key: Key, value: float) -> None:
        samples = self._series.get(key)
        if samples is None:
            samples = self._series[key] = Samples()
        samples.add(self.now, value)

    def _read(self, instance: Instance, labels: Key, into: dict[Key, float]) -> None:
        """Add what a scrape of *instance* says to *into*; what has not changed is not written again."""
        into.update(self._keyed(exporter_families(instance.reloads, Shard()), labels))
        for name, poller in instance.pollers.items():
            view, page = instance.pages.get(name, (None, {}))
            if view is not poller.view:
                page = dict(self._operations(poller, labels))
                instance.pages[name] = poller.view, page
                self._refresh(instance, self._published, poller, labels)
            self._refresh(instance, self._live, poller, labels)
            into.update(page)
        for _, page in instance.metrics.values():
            into.update(page)

    def _refresh(self, instance: Instance, metrics: list[Any], poller: Poller, labels: Key) -> None:
        for metric in metrics:
            value = read_value(metric, poller, self.now)
            known = instance.metrics.get((poller.name, metric.name))
            if known is None or known[0] != value:
                page = dict(self._keyed([metric.family([(poller.name, value)])], labels))
                instance.metrics[poller.name, metric.name] = value, page

    def _keyed(self, found: Iterable[Any], labels: Key) -> Iterable[tuple[Key, float]]:
        for family in found:
            for sample in family.samples:
                if sample.name in self._names:
                    own = (("__name__", sample.name), *sample.labels.items(), *labels)
                    yield own, float(sample.value)

    def _operations(self, poller: Poller, labels: Key) -> Iterable[tuple[Key, float]]:
        if not self._operation_families or poller.health.stale(self.now):
            return
        for operation in self._notable(poller):
            about = (("account", poller.name), *labels, ("operation_id", operation.id))
            numbers = values(operation)
            for index, family in self._operation_families:
                if index == 0:
                    for status in STATUSES:
                        yield (("__name__", family), *about, ("status", status)), float(operation.status == status)
                elif numbers[index - 1] is not None:
                    yield (("__name__", family), *about), float(numbers[index - 1])

    def _notable(self, poller: Poller) -> Iterable[Operation]:
        """Return the few operations that an alert can be about."""
        unfinished = [
            each
            for each in poller.state.unfinished()
            if self.now - each.updated > WAITING and each.status != "SCHEDULED"
        ]
        chosen = sorted(unfinished, key=lambda each: (each.updated, each.id))[:MOST_OPERATIONS]
        if self._lost_are_read:
            lost = [each for each in poller.view.exposed if each.packed[_LOST] != _NONE_LOST]
            lost.sort(key=lambda each: (-(each.stats[8] or 0) - (each.stats[9] or 0), each.id))
            chosen += lost[: MOST_OPERATIONS // 2]
        return {each.id: each for each in chosen}.values()


def _wanted(metrics: Iterable[Any], names: frozenset[str]) -> list[Any]:
    """Return those of *metrics* that have a sample called one of *names*."""
    endings = ("", "_total", "_bucket", "_sum", "_count")
    return [metric for metric in metrics if any(metric.name + ending in names for ending in endings)]


async def _keep(_: Any) -> None:
    """The disk is fast and never full; what was saved is read back from the state itself."""
