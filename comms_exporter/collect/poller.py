"""Asks for one account's operations, again and again, and keeps its state and its health up to date.

Operations are asked for in proportion to their age: those created within the hour, and all unfinished ones, at
every poll; a day's at every tenth; all that the API still returns every hour, and at the start. The first good poll after
failures looks further back by as long as they lasted, and at all after ten intervals of them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog

from comms_exporter.api.client import CommsClient, Query
from comms_exporter.api.errors import CommsError, ThrottledError
from comms_exporter.api.payloads import Page
from comms_exporter.api.retries import RetryBudget
from comms_exporter.base.slices import SIZE, Steps, batched, run_in_slices
from comms_exporter.base.times import iso
from comms_exporter.collect.health import PollHealth, Problem
from comms_exporter.collect.state import DAY, MARGIN, RETENTION, AccountState, Listing, View
from comms_exporter.model.operations import Operation
from comms_exporter.model.records import Snapshot
from comms_exporter.store.errors import StateLostError, StoreError

HOUR = 3600.0
# A poll that does nothing for this long, beyond what it said it would wait, has died, not slowed down.
GRACE = 300.0
# Seconds between our clock and the API's that no window minds.
BEARABLE_SKEW = 60.0
# Polls in a row that the API may stretch the interval: 2, 4, 8 times.
MOST_STRETCH = 8
# Polls from one look at the last day to the next.
DAY_POLLS = 10


def requests_per_hour(operations_a_week: int, *, interval: float, page_size: int) -> float:
    """Return how many requests an hour of polls takes, but for operations that stay unfinished for long."""

    def pages(window: float) -> int:
        return 1 + int(operations_a_week * window / (7 * DAY)) // page_size

    polls = HOUR / interval
    sweeps = min(1.0, polls)
    days = max(0.0, polls / DAY_POLLS - sweeps)
    return sweeps * pages(7 * DAY) + days * pages(DAY) + (polls - sweeps - days) * pages(HOUR)


def _unseen(operations: Iterable[Operation], seen: set[str]) -> Steps[dict[str, Operation]]:
    """Return those of *operations* that a listing has not shown, by their ids."""
    missing: dict[str, Operation] = {}
    for batch in batched(operations, 4 * SIZE):
        missing.update((each.id, each) for each in batch if each.id not in seen)
        yield
    return missing


@dataclass(slots=True)
class Plan:
    """When the two wider windows are due again, in seconds on the monotonic clock."""

    day: float = 0.0
    sweep: float = 0.0


class Poller:
    """One account: what is asked, when, and what becomes of the answers."""

    def __init__(
        self,
        name: str,
        *,
        client: CommsClient,
        state: AccountState,
        health: PollHealth,
        view: View,
        interval: float,
        active_window: float,
        max_operations: int,
        max_tracked_operations: int,
        log: structlog.typing.FilteringBoundLogger,
        mask: Callable[[str], str],
        save: Callable[[Snapshot], Awaitable[None]] | None = None,
        prepare: Callable[[str, Sequence[Operation]], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.state = state
        self.health = health
        self.request_stats = client.request_stats
        # What is shown has been saved: whatever a crash takes away, nobody has seen.
        self.view = view
        self._client = client
        self._save = save
        self._prepare = prepare
        self._interval = interval
        self._active_window = active_window
        self._max_operations = max_operations
        self._max_tracked_operations = max_tracked_operations
        self._log = log.bind(account=name)
        self._mask = mask
        self._clock = clock
        self._monotonic = monotonic
        self._sleep = sleep
        self._plan = Plan(day=monotonic(), sweep=monotonic())
        self._not_before = monotonic()
        self._stretch = 1
        self._due = monotonic()
        self._expected_by = monotonic() + GRACE
        self._save_fails = False
        self._ignored_filters: set[str] = set()

    @property
    def alive(self) -> bool:
        """Whether the loop has moved when it said it would; an API that does not answer in time leaves it alive."""
        return self._monotonic() <= self._expected_by

    @property
    def next_poll_seconds(self) -> float:
        """How long it is until the next poll; 0 during one."""
        return max(0.0, self._due - self._monotonic())

    def requests_per_hour(self) -> float:
        """Return how many requests an hour of polls takes, if the next week is like the last."""
        return requests_per_hour(
            self.view.tracked, interval=self.health.interval_seconds, page_size=self._client.page_size
        )

    def take_over(self, before: "Poller") -> None:
        """Go on in the place of *before*, which has ended: an account that has to wait is not excused by new settings."""
        self.view = before.view
        self._not_before = before._not_before  # noqa: SLF001
        self._set_stretch(before._stretch)  # noqa: SLF001
        self._schedule(self._monotonic())

    async def run(self) -> None:
        """Poll at once and then at every interval, in step and never two at a time, until cancelled."""
        self._schedule(self._monotonic())
        while True:
            await self._sleep(max(0.0, self._due - self._monotonic()))
            await self.poll()
            interval = self.health.interval_seconds
            # Turns that a long poll has missed are not made up for.
            missed = -(-(self._monotonic() - self._due) // interval)
            self._schedule(self._due + interval * max(1, missed))

    async def poll(self) -> None:
        """Bring state and health up to date; whatever the API does ends up in them, not in an exception."""
        began = self._monotonic()
        failure = None
        try:
            await self._collect()
        except CommsError as error:
            failure = error
        took = self._monotonic() - began
        # What the poll has brought is there before anybody is told that it is over.
        await self._settle()
        if failure is None:
            self._succeeded(took=took)
        else:
            self._failed(failure, took=took)

    async def _collect(self) -> None:
        budget = RetryBudget(before_wait=self._expect)
        now = self._monotonic()
        outage = self._outage(now)
        # What was missed for longer than any recent operation ever is may have moved, whatever its age.
        sweep = now >= self._plan.sweep or outage >= DAY_POLLS * self._interval
        listing = await self._list(budget, sweep=sweep, day=now >= self._plan.day, outage=outage)
        if listing.sweep:
            self._mention_gap(listing)
        await self._apply(listing)
        if listing.sweep:
            self._plan.sweep = now + HOUR
        if listing.sweep or now >= self._plan.day:
            self._plan.day = now + DAY_POLLS * self._interval
        missing = await run_in_slices(_unseen(self.state.unfinished(), listing.seen))
        if missing:
            await self._settle()
            await self._follow_up(missing, budget)

    def _outage(self, now: float) -> float:
        """Return how long no poll has succeeded, in seconds; 0 where the last one did."""
        return 0.0 if self.health.up else max(0.0, now - self.health.last_success_monotonic)

    def _mention_gap(self, sweep: Listing) -> None:
        seen = self.state.last_full_listing
        if seen is not None and sweep.started - seen > RETENTION:
            self._log.warning(
                "counts may be missing: nothing was seen for longer than Twilio keeps operations",
                since=iso(seen),
            )

    async def _settle(self) -> None:
        """Save what is new, then show it; a disk that fails costs safety, not sight."""
        self._expect()
        snapshot = self.state.snapshot()
        if self._save is not None and snapshot is not None:
            try:
                await self._save(snapshot)
            except StoreError as error:
                self.state.requeue(snapshot)
                self._not_saved(error)
            except BaseException:
                # Told to stop: whether it was saved is not known.
                self.state.requeue(snapshot)
                raise
            else:
                self._saved()
        view = await run_in_slices(
            self.state.view(now=self._ended(), active_window=self._active_window, limit=self._max_operations)
        )
        if self._prepare is not None:
            await self._prepare(self.name, view.exposed)
        self.view = view

    def _saved(self) -> None:
        self.health.last_save = self._clock()
        if self._save_fails:
            self._save_fails = False
            self._log.info("state is saved again")

    def _not_saved(self, error: StoreError) -> None:
        if isinstance(error, StateLostError):
            self.state.requeue_all()
        self.health.save_failures += 1
        say = self._log.debug if self._save_fails else self._log.error
        self._save_fails = True
        say("state is not saved: a crash now would cost counts", error=str(error))

    async def _list(self, budget: RetryBudget, *, sweep: bool, day: bool, outage: float) -> Listing:
        """Return all pages of the narrowest window that is due, and that reaches as far back as before an *outage*."""
        window = RETENTION + MARGIN if sweep else max(DAY if day else 0.0, HOUR + outage)
        asked = self._client.now()
        listing = await self._read(Query(created_after=asked - window), budget, sweep=sweep)
        if asked - listing.started > BEARABLE_SKEW:
            # Our clock was ahead, as the answer has told: the window began too late.
            window_start = self._client.now() - window
            listing = await self._read(Query(created_after=window_start), budget, sweep=sweep)
        return listing

    async def _follow_up(self, missing: dict[str, Operation], budget: RetryBudget) -> None:
        """Ask for the unfinished operations that a listing did not return, in as few requests as may be."""
        for status in ("PROCESSING", "SCHEDULED", None):
            if status is not None and "status" in self._ignored_filters:
                continue
            wanted = [each.created for each in missing.values() if status in {None, each.status}]
            if await run_in_slices(self._listing_is_cheaper(wanted, status)):
                answer = await self._read(Query(created_after=min(wanted), status=status), budget, sweep=False)
                await self._apply(answer)
                missing = await run_in_slices(_unseen(missing.values(), answer.seen))
        for operation_id in missing:
            await self._fetch(operation_id, budget)

    def _listing_is_cheaper(self, wanted: list[float], status: str | None) -> Steps[bool]:
        """Whether all operations with *status* since the oldest *wanted* one take fewer pages than these take fetches."""
        if len(wanted) < 2:
            return False
        oldest = min(wanted)
        listed = 0
        for batch in batched(self.state.tracked.values(), 4 * SIZE):
            operations = (each.operation for each in batch)
            listed += sum(each.created >= oldest and status in {None, each.status} for each in operations)
            yield
        return 1 + listed // self._client.page_size < len(wanted)

    async def _fetch(self, operation_id: str, budget: RetryBudget) -> None:
        page = await self._client.operation(operation_id, budget)
        self._expect()
        if page is None:
            self.state.mark_gone(operation_id)
        else:
            ended = self._ended()
            listing = Listing({}, started=ended, ended=ended)
            await run_in_slices(self._gather(page, listing))
            await self._apply(listing)

    async def _read(self, query: Query, budget: RetryBudget, *, sweep: bool) -> Listing:
        started = self._clock()
        before = self._client.now() - started
        listing = Listing({}, started=started, ended=started, sweep=sweep)
        async for page in self._client.pages(query, budget):
            await run_in_slices(self._gather(page, listing))
            self._check_length(listing)
            self._check_filters(query, page)
            self._expect()
        # The first answer may have told that our clock is wrong.
        listing.started += min(before, self._client.now() - self._clock())
        listing.ended = self._ended()
        return listing

    def _gather(self, page: Page, listing: Listing) -> Steps[None]:
        """Add what is new in *page* to *listing*."""
        listing.malformed += len(page.malformed)
        if page.malformed and not listing.first_malformed:
            listing.first_malformed = page.malformed[0]
        listing.unknown.update(page.unknown)
        # Even if there is nothing: connections that answer at once would never let others have the loop.
        yield
        for batch in batched(page.operations):
            for operation in batch:
                known = self.state.tracked.get(operation.id)
                if known is None and self.state.ignores(operation):
                    continue
                # Rather the id that is in memory already.
                listing.seen.add(operation.id if known is None else known.operation.id)
                if known is not None and known.operation == operation and not known.gone:
                    continue
                # Pages shift while they are read: what comes twice counts as it was last.
                earlier = listing.operations.get(operation.id)
                listing.new += known is None and earlier is None
                if earlier is None or operation.updated >= earlier.updated:
                    listing.operations[operation.id] = operation
            yield

    def _check_length(self, listing: Listing) -> None:
        """Reject a listing with which the account would have more operations than allowed."""
        tracked = len(self.state.tracked)
        # An account that was larger when it was saved has proved that its operations are real.
        limit = max(self._max_tracked_operations, 2 * self.state.restored)
        if tracked + listing.new > limit:
            raise CommsError(
                "bad_payload",
                f"the listing has at least {listing.new} new operations beside {tracked} tracked ones; the limit is "
                f"{limit}: raise --collect.max-tracked-operations if the account has more",
            )

    def _ended(self) -> float:
        # The earlier of two clocks: one odd Date must not make us forget what has yet to be counted.
        return min(self._clock(), self._client.now())

    def _check_filters(self, query: Query, page: Page) -> None:
        """Notice filters that the API ignores: what it returns is as good as any, but costs more pages."""
        operations = page.operations
        ignored = set()
        if query.created_after is not None and any(each.created < query.created_after - 2 for each in operations):
            ignored.add("startDate")
        if query.status is not None and any(each.status != query.status for each in operations):
            ignored.add("status")
        for name in sorted(ignored - self._ignored_filters):
            self._log.warning("the API ignores a filter: polls cost more than they should", filter=name)
        self._ignored_filters |= ignored

    async def _apply(self, listing: Listing) -> None:
        await run_in_slices(self.state.apply(listing))
        if listing.malformed:
            self._log.warning("skipped malformed operations", count=listing.malformed, first=listing.first_malformed)

    def _succeeded(self, *, took: float) -> None:
        recovered = self.health.problem
        self.health.succeeded(at=self._clock(), monotonic=self._monotonic(), took=took)
        self._set_stretch(max(1, self._stretch // 2))
        if recovered is not None:
            self._log.info("polls succeed again", after=recovered.reason)
        self._log.info("polled", tracked=self.view.tracked, exposed=len(self.view.exposed), seconds=round(took, 3))

    def _failed(self, error: CommsError, *, took: float) -> None:
        # The API may answer with our own secret, and the message is shown to anybody.
        problem = Problem(error.reason, self._mask(str(error)))
        before = self.health.problem
        self.health.failed(problem, took=took)
        if isinstance(error, ThrottledError):
            self._set_stretch(min(MOST_STRETCH, self._stretch * 2))
            wait = self._interval * self._stretch if error.retry_after is None else error.retry_after
            self._not_before = self._monotonic() + wait
            self.request_stats.backoff_started(wait)
        # The same trouble at every interval is one piece of news.
        say = self._log.debug if before is not None and before.reason == problem.reason else self._log.error
        say("poll failed", reason=problem.reason, error=problem.message, seconds=round(took, 3))

    def _set_stretch(self, stretch: int) -> None:
        self._stretch = stretch
        self.health.interval_seconds = self._interval * stretch

    def _schedule(self, due: float) -> None:
        """Have the next poll at *due*, or as soon as the API allows it."""
        self._due = max(due, self._not_before)
        self._expect(max(0.0, self._due - self._monotonic()))

    def _expect(self, after: float = 0.0) -> None:
        self._expected_by = self._monotonic() + after + GRACE
