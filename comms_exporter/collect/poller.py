"""Poll one account: update its state and health, save the changes, and publish a view."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from comms_exporter.api.client import CommsClient
from comms_exporter.api.emails import EmailsClient
from comms_exporter.api.errors import CommsError, ThrottledError
from comms_exporter.api.retries import RetryBudget
from comms_exporter.base.slices import run_in_slices
from comms_exporter.base.times import iso
from comms_exporter.collect.emails.collector import EmailCollector
from comms_exporter.collect.emails.cost import email_requests_per_hour
from comms_exporter.collect.emails.health import EmailHealth
from comms_exporter.collect.emails.recent_counts import RecentCounts
from comms_exporter.collect.emails.state import EmailState
from comms_exporter.collect.follow_up import FollowUp, left_out
from comms_exporter.collect.health import PollHealth, Problem
from comms_exporter.collect.history import AccountHistory, History
from comms_exporter.collect.listings import ListingReader
from comms_exporter.collect.recording import AccountRecording, Recorder
from comms_exporter.collect.schedule import DAY, HOUR, RETENTION, Schedule, requests_per_hour
from comms_exporter.collect.state import AccountState, Listing
from comms_exporter.collect.view import Exposes, View
from comms_exporter.model.operations import Operation
from comms_exporter.model.records import Snapshot
from comms_exporter.store.errors import DatabaseAwayError, NotOwnerError, StateLostError, StoreError

# A poll loop that is overdue by this much is considered dead.
GRACE_SECONDS = 300.0
# When the API throttles, the interval between polls doubles up to this factor.
MAX_STRETCH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailCollection:
    """Which emails to collect in the pauses between polls: see EmailCollector."""

    client: EmailsClient
    state: EmailState
    interval: float
    log_losses: bool


class Poller:
    """Polls one account: what to list, when, and what becomes of the responses."""

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
        exposes: Exposes = "active",
        max_tracked_operations: int,
        log: FilteringBoundLogger,
        mask: Callable[[str], str],
        save: Callable[[Snapshot], Awaitable[None]] | None = None,
        show_unsaved: bool = True,
        prepare: Callable[[str, Sequence[Operation]], Awaitable[None]] | None = None,
        on_change: Callable[["Poller"], None] = lambda _: None,
        recorder: Recorder | None = None,
        emails: EmailCollection | None = None,
        email_health: EmailHealth | None = None,
        history: AccountHistory | None = None,
        recent_counts: RecentCounts | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """Without *show_unsaved*, only what has been saved is published: others may own the account, and continue from there."""
        self.name = name
        self.state = state
        self.health = health
        self.request_stats = client.request_stats
        self.history = history or AccountHistory(History())
        # What scrapes see. It has been saved, so a crash never takes back what a scrape returned.
        self.view = view
        self._client = client
        self._save = save
        self._show_unsaved = show_unsaved
        self._prepare = prepare
        self._on_change = on_change
        self._interval = interval
        self._active_window = active_window
        self._max_operations = max_operations
        self._exposes = exposes
        self._log = log.bind(account=name)
        self._mask = mask
        self._clock = clock
        self._monotonic = monotonic
        self._sleep = sleep
        self._reader = ListingReader(
            client,
            state,
            max_tracked_operations=max_tracked_operations,
            on_progress=self._expect,
            log=self._log,
            clock=clock,
        )
        self._follow_up = FollowUp(
            self._reader, page_size=client.page_size, state=state, apply=self._apply, mark_gone=self._mark_gone
        )
        self._recording = AccountRecording(recorder, name, now=client.now)
        self.email_health = email_health or EmailHealth()
        self._email_collection = emails
        self._emails = None if emails is None else self._email_collector(emails)
        # None if emails are not collected.
        self.recent_counts = recent_counts
        if emails is not None and recent_counts is None:
            self.recent_counts = RecentCounts(emails.state.view().counts, clock())
        # How many requests the last poll needed besides its listing.
        self._follow_ups = 0
        # A new object after every change; None while anything may change.
        self._revision: object = object()
        now = monotonic()
        self._schedule = Schedule(interval=interval, now=now)
        # When the next poll is due, the earliest time that the API allows, and when the loop is considered dead.
        self._due = now
        self._not_before = now
        self._expected_by = now + GRACE_SECONDS
        self._stretch = 1
        self._save_fails = False

    @property
    def interval(self) -> float:
        """The seconds between two polls, unless the API throttles them."""
        return self._interval

    @property
    def alive(self) -> bool:
        """Whether the poll loop made progress in time; waiting for the API is progress."""
        return self._monotonic() <= self._expected_by

    @property
    def next_poll_seconds(self) -> float:
        """The time until the next poll; 0 during one."""
        return max(0.0, self._due - self._monotonic())

    @property
    def revision(self) -> object:
        """The same object as long as nothing but time changes what is shown of the account; None while anything may change."""
        return None if self.request_stats.backing_off else self._revision

    def requests_per_hour(self) -> float:
        """Return how many requests an hour of polls needs if the next week is like the last, and the next poll is, too."""
        interval = self.health.interval_seconds
        listings = requests_per_hour(self.view.tracked, interval=interval, page_size=self._client.page_size)
        return listings + self._follow_ups * HOUR / interval

    def email_requests_per_hour(self) -> float:
        """Return about how many requests an hour of listing emails needs; see requests_per_hour()."""
        collection = self._email_collection
        if collection is None:
            return 0.0
        return email_requests_per_hour(
            collection.state.traffic(self.view.tracked),
            all_stages=collection.state.options.all_stages,
            interval=max(collection.interval, self.health.interval_seconds),
            page_size=collection.client.page_size,
            receives=collection.state.last_inbound > self._reader.now() - DAY,
        )

    def take_over(self, before: "Poller") -> None:
        """Continue where *before* ended, including its backoff: a reload does not shorten that."""
        self.view = before.view
        self._not_before = before._not_before  # noqa: SLF001
        self._set_stretch(before._stretch)  # noqa: SLF001
        self._set_due(self._monotonic())

    async def run(
        self, *, first: float = 0.0, rhythm: float = 0.0, turn: AbstractAsyncContextManager[object] | None = None
    ) -> None:
        """Poll at every interval, one poll at a time, until cancelled.

        The first poll is due in *first* seconds. The others keep the rhythm of one in *rhythm* seconds, which may be negative.
        *turn* is entered for each poll, and limits how many accounts are polled at a time.
        """
        self._set_due(self._monotonic() + first)
        early = (first - rhythm) % self._interval
        try:
            while True:
                await self._sleep(max(0.0, self._due - self._monotonic()))
                # The polls that it waits for have to make progress themselves.
                self._expect(float("inf"))
                async with turn or nullcontext():
                    self._expect()
                    await self.poll()
                interval = self.health.interval_seconds
                # Skip the polls that a long one has missed.
                intervals = -(-(self._monotonic() - self._due + early) // interval)
                self._set_due(self._due - early + interval * max(1, intervals))
                early = 0.0
                await self.collect_emails(self._due - self._monotonic())
        finally:
            if self._emails is not None:
                await self._emails.close()

    async def collect_emails(self, seconds: float) -> None:
        """Collect emails for up to *seconds*, if that is due and the last poll succeeded."""
        if self._emails is not None and self.health.up:
            with self._changing():
                await self._emails.collect(seconds)

    async def poll(self) -> None:
        """Poll once; API failures are recorded in health, not raised."""
        with self._changing():
            await self._poll()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        self._revision = None
        try:
            yield
        finally:
            self._revision = object()
            self._on_change(self)

    async def _poll(self) -> None:
        began = self._monotonic()
        began_at = self._client.now()
        failure = None
        try:
            await self._collect()
        except CommsError as error:
            # The traceback refers to this frame, and so to the error: a cycle that would keep the listing in memory.
            failure = error.with_traceback(None)
        took = self._monotonic() - began
        self._recording.polled(failure, began=began_at)
        # Before health reports the poll as finished, its results are published.
        published = await self._save_and_publish()
        if failure is None and published:
            self._succeeded(took=took)
        elif failure is None:
            self.health.unsaved(took=took)
        else:
            self._failed(failure, took=took)

    def _email_collector(self, emails: EmailCollection) -> EmailCollector:
        return EmailCollector(
            emails.client,
            self.state,
            emails.state,
            health=self.email_health,
            interval=emails.interval,
            log_losses=emails.log_losses,
            publish=self._save_and_publish,
            on_losses=self.history.add_losses,
            expect=self._expect,
            now=self._reader.now,
            mask=self._mask,
            log=self._log,
            clock=self._clock,
            monotonic=self._monotonic,
        )

    async def _collect(self) -> None:
        budget = RetryBudget(before_wait=self._expect)
        now = self._monotonic()
        window = self._schedule.window(now, outage=self._outage(now))
        listing = await self._reader.read_window(window, budget)
        if listing.sweep:
            self._log_gap(listing)
        await self._apply(listing)
        self._schedule.listed(window, now)
        missing = await run_in_slices(left_out(listing, self.state))
        if listing.ids or missing.unlisted:
            self.state.listed, self.state.unlisted = len(listing.ids), missing.unlisted
        before = self.request_stats.requests.total()
        if missing.to_follow:
            await self._save_and_publish()
            await self._follow_up.run(missing.to_follow, budget)
        self._follow_ups = self.request_stats.requests.total() - before

    def _outage(self, now: float) -> float:
        """Return how many seconds ago a poll last succeeded; 0 if the last one did."""
        return 0.0 if self.health.up else max(0.0, now - self.health.last_success_monotonic)

    def _log_gap(self, sweep: Listing) -> None:
        last = self.state.last_full_listing
        if last is not None and sweep.started - last > RETENTION:
            self._log.warning(
                "counts may be missing: no complete listing for longer than Twilio keeps operations", since=iso(last)
            )

    async def _apply(self, listing: Listing) -> None:
        self._recording.listed(listing)
        await run_in_slices(self.state.apply(listing))
        if listing.malformed:
            self._log.warning("skipped malformed operations", count=listing.malformed, first=listing.first_malformed)

    def _mark_gone(self, operation_id: str) -> None:
        self._recording.gone(operation_id)
        self.state.mark_gone(operation_id)

    async def _save_and_publish(self) -> bool:
        """Save the changes, then publish them; return whether they were published."""
        self._expect()
        snapshot = self.state.snapshot()
        if snapshot is not None:
            self.history.look(snapshot.changed.values(), self._reader.now())
        if self._save is not None and snapshot is not None:
            try:
                await self._save(snapshot)
            except StoreError as error:
                self.state.requeue(snapshot)
                self._save_failed(error)
                if not self._show_unsaved:
                    return False
            except BaseException:
                # Cancelled: whether it was saved is unknown.
                self.state.requeue(snapshot)
                raise
            else:
                self._save_succeeded()
        view = await run_in_slices(
            self.state.view(
                now=self._reader.now(),
                active_window=self._active_window,
                limit=self._max_operations,
                exposes=self._exposes,
            )
        )
        if self._prepare is not None:
            await self._prepare(self.name, view.exposed)
        self.view = view
        if self.recent_counts is not None and view.emails is not None:
            self.recent_counts.look(view.emails.counts, self._clock())
        return True

    def _save_succeeded(self) -> None:
        self.health.last_save = self._clock()
        if self._save_fails:
            self._save_fails = False
            self._log.info("saves succeed again")

    def _save_failed(self, error: StoreError) -> None:
        if isinstance(error, NotOwnerError):
            # The poll loop is about to be stopped; see Sharing, which logs it once for all accounts.
            self._log.debug("another exporter owns the account")
            return
        if isinstance(error, StateLostError):
            self.state.requeue_all()
        self.health.save_failures += 1
        # Log a repeated failure only once, and that of a database that all accounts need nowhere but at its own place.
        away = isinstance(error, DatabaseAwayError)
        log = self._log.debug if away or self._save_fails else self._log.error
        self._save_fails = self._save_fails or not away
        what = "a crash before the next save loses counts" if self._show_unsaved else "nothing new is shown"
        log(f"saving the state failed: {what}", error=str(error))

    def _succeeded(self, *, took: float) -> None:
        recovered = self.health.problem
        self.health.succeeded(at=self._clock(), monotonic=self._monotonic(), took=took)
        self._set_stretch(max(1, self._stretch // 2))
        if recovered is not None:
            self._log.info("polls succeed again", after=recovered.reason)
        self._log.info("polled", tracked=self.view.tracked, exposed=len(self.view.exposed), seconds=round(took, 3))

    def _failed(self, error: CommsError, *, took: float) -> None:
        # The status page shows the message, and the API may repeat a secret in it.
        problem = Problem(error.reason, self._mask(str(error)))
        before = self.health.problem
        self.health.failed(problem, took=took)
        if isinstance(error, ThrottledError):
            self._set_stretch(min(MAX_STRETCH, self._stretch * 2))
            wait = self._interval * self._stretch if error.retry_after is None else error.retry_after
            self._not_before = self._monotonic() + wait
            self.request_stats.backoff_started(wait)
        # Log a repeated failure only once.
        log = self._log.debug if before is not None and before.reason == problem.reason else self._log.error
        log("poll failed", reason=problem.reason, error=problem.message, seconds=round(took, 3))

    def _set_stretch(self, stretch: int) -> None:
        self._stretch = stretch
        self.health.interval_seconds = self._interval * stretch

    def _set_due(self, due: float) -> None:
        """Make the next poll due at *due*, or as soon as the API allows it."""
        self._due = max(due, self._not_before)
        self._expect(max(0.0, self._due - self._monotonic()))

    def _expect(self, within: float = 0.0) -> None:
        """Expect progress *within* that many seconds."""
        self._expected_by = self._monotonic() + within + GRACE_SECONDS
