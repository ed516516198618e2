"""Collect the emails of one account between its polls, without making a poll wait.

A round asks for everything that is missing. It continues where the last pause between polls ended: a page that is still being
read when the next poll is due is read beside it, and counted after it.
"""

import asyncio
import heapq
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from structlog.typing import FilteringBoundLogger

from comms_exporter.api.email_payloads import DeliveryError, EmailPage
from comms_exporter.api.emails import EmailFilter, EmailsClient
from comms_exporter.api.errors import CommsError, ThrottledError
from comms_exporter.api.retries import RetryBudget
from comms_exporter.base.slices import Steps, batched, run_in_slices
from comms_exporter.collect.emails import plan
from comms_exporter.collect.emails.health import EmailHealth
from comms_exporter.collect.emails.state import EmailState, Loss
from comms_exporter.collect.health import Problem
from comms_exporter.collect.schedule import DAY, HOUR
from comms_exporter.collect.state import AccountState
from comms_exporter.model.emails import Email
from comms_exporter.model.records import TOTALS

# Emails that are counted and saved together.
_LOT = 5000
# The retries of one page.
_RETRIES = 2
# Questions that may fail in one round. A single operation whose emails cannot be listed must not end every round.
_MAX_FAILURES = 3
# Requests for errors in one round, and how often an operation is asked for the same failures.
_MAX_ERROR_REQUESTS = 20
_MAX_ERROR_ATTEMPTS = 3
# The part of a pause between polls that is used: counting what was read takes time, too.
_USED_SHARE = 0.9
_FAILED = TOTALS.index("failed")


class _Answer(NamedTuple):
    """A page, or the end of a question if there is no *page*; or the *errors* of an operation."""

    question: EmailFilter | None = None
    page: EmailPage | None = None
    operation_id: str | None = None
    errors: Sequence[DeliveryError] = ()


class EmailCollector:
    """Asks for emails of *account*, whose state counts them; *publish* saves and publishes that state."""

    def __init__(
        self,
        client: EmailsClient,
        account: AccountState,
        emails: EmailState,
        *,
        health: EmailHealth,
        interval: float,
        log_losses: bool,
        publish: Callable[[], Awaitable[object]],
        on_losses: Callable[[Sequence[Loss]], None],
        expect: Callable[[float], None],
        now: Callable[[], float],
        mask: Callable[[str], str],
        log: FilteringBoundLogger,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self.health = health
        self._client = client
        self._account = account
        self._emails = emails
        self._interval = interval
        self._log_losses = log_losses
        self._publish = publish
        self._on_losses = on_losses
        self._expect = expect
        self._now = now
        self._mask = mask
        self._log = log
        self._clock = clock
        self._monotonic = monotonic
        self._due = monotonic()
        self._reach = plan.Reach(self._due, self._due)
        self._next_inbound = self._due
        self._inbound_asked = 0.0
        # The questions of the first look that are still open; None before it begins in this process.
        self._first_look: list[EmailFilter] | None = None
        self._lists_by_operation = True
        self._error_attempts: dict[str, int] = {}
        self._next_errors = self._due
        # Operations in succession whose errors the API did not have.
        self._errors_missing = 0
        self._round: AsyncGenerator[_Answer] | None = None
        self._step: asyncio.Task[_Answer | None] | None = None
        self._lot: list[Email] = []
        # Whether errors were counted that are not saved.
        self._has_changes = False
        self._failures: list[CommsError] = []

    async def collect(self, seconds: float) -> None:
        """Collect emails for up to *seconds*; API failures are recorded in health, not raised."""
        until = self._monotonic() + seconds * _USED_SHARE
        if self._round is None:
            if self._monotonic() < self._due or self._monotonic() >= until:
                return
            self._failures = []
            self._due = self._monotonic() + self._interval
            self._round = self._ask()
        while (answer := await self._next(until)) is not None:
            await self._take(answer)
        await self._count_lot()
        if self._round is None:
            self._finish()

    async def close(self) -> None:
        """Stop the request that is being made."""
        step, self._step = self._step, None
        if step is not None:
            step.cancel()
            with suppress(asyncio.CancelledError):
                await step
        if self._round is not None:
            await self._round.aclose()
            self._round = None

    async def _next(self, until: float) -> _Answer | None:
        """Return the next answer; None if there is none *until* then, or if the round is over."""
        if self._round is None or (self._step is None and self._monotonic() >= until):
            return None
        if self._step is None:
            self._step = asyncio.create_task(_next_of(self._round), name="collect emails")
        await asyncio.wait([self._step], timeout=max(0.0, until - self._monotonic()))
        if not self._step.done():
            return None
        step, self._step = self._step, None
        answer = step.result()
        if answer is None:
            self._round = None
        return answer

    # What is asked. This also runs beside a poll, so it changes nothing but what is its own.

    async def _ask(self) -> AsyncGenerator[_Answer]:
        now, started = self._now(), self._monotonic()
        self._emails.begin(now)
        if not self._emails.first_look_complete:
            async for answer in self._ask_first_look(now):
                yield answer
            return
        reach = self._reach.seconds(started)
        questions = plan.missing_emails(
            self._emails.deficits,
            all_stages=self._emails.options.all_stages,
            since=now - reach,
            now=now,
            page_size=self._client.page_size,
            by_operation=self._lists_by_operation,
        )
        if started >= self._next_inbound and self._emails.inbound_seen is not None:
            questions.append(plan.inbound_emails(self._emails.inbound_seen))
            self._inbound_asked = now
        for question in questions:
            async for answer in self._list(question):
                yield answer
            if self._gave_up:
                return
        if not self._failures:
            self._reach = self._reach.asked(started, reach)
        if self._emails.options.errors and started >= self._next_errors:
            async for answer in self._ask_for_errors():
                yield answer

    async def _ask_first_look(self, now: float) -> AsyncIterator[_Answer]:
        if self._first_look is None:
            self._first_look = plan.first_look(
                self._emails.deficits,
                all_stages=self._emails.options.all_stages,
                now=now,
                page_size=self._client.page_size,
            )
        for question in list(self._first_look):
            async for answer in self._list(question):
                yield answer
            if self._gave_up:
                return

    async def _list(self, question: EmailFilter) -> AsyncIterator[_Answer]:
        """Yield the pages of *question*, and its end if all of them could be read."""
        budget = RetryBudget(_RETRIES, before_wait=self._expect)
        try:
            async for page in self._client.list_emails(question, budget):
                budget.retries_left = _RETRIES
                yield _Answer(question, page)
        except CommsError as error:
            self._failures.append(error.with_traceback(None))
        else:
            yield _Answer(question)

    async def _ask_for_errors(self) -> AsyncIterator[_Answer]:
        for operation_id in heapq.nlargest(_MAX_ERROR_REQUESTS, self._emails.errors_due, key=self._failed):
            try:
                errors = await self._client.list_errors(operation_id, RetryBudget(_RETRIES, before_wait=self._expect))
            except CommsError as error:
                self._failures.append(error.with_traceback(None))
                if self._gave_up:
                    return
                continue
            if errors is None:
                self._errors_missing += 1
                if self._errors_missing >= _MAX_ERROR_ATTEMPTS:
                    # The API does not offer them. It may one day.
                    self._next_errors = self._monotonic() + DAY
                    return
            else:
                self._errors_missing = 0
            yield _Answer(operation_id=operation_id, errors=errors or ())

    @property
    def _gave_up(self) -> bool:
        """Whether the round ends because of its failures."""
        return bool(self._failures) and (
            len(self._failures) >= _MAX_FAILURES
            or isinstance(self._failures[-1], ThrottledError)
            or self._failures[-1].reason in {"auth", "forbidden"}
        )

    # What becomes of the answers

    async def _take(self, answer: _Answer) -> None:
        if answer.operation_id is not None:
            self._take_errors(answer.operation_id, answer.errors)
        elif answer.page is not None:
            self._take_page(answer.question, answer.page)
            if len(self._lot) >= _LOT:
                await self._count_lot()
        elif answer.question is not None:
            await self._end_of(answer.question)

    def _take_page(self, question: EmailFilter | None, page: EmailPage) -> None:
        self._lot += page.emails
        self._account.unknown.update(page.unknown)
        if page.malformed:
            self._log.warning("skipped malformed emails", count=len(page.malformed), first=page.malformed[0])
        if page.mismatched and question is not None and question.operation_id is not None and self._lists_by_operation:
            self._lists_by_operation = False
            self._log.warning("API ignores a filter of emails: more requests are needed", filter="operationId")

    async def _end_of(self, question: EmailFilter) -> None:
        """Note that all emails of *question* were listed."""
        if question.status == plan.INBOUND_STATUS:
            await self._count_lot(inbound_seen=self._inbound_asked)
            # Most accounts receive nothing.
            receives = self._emails.last_inbound > self._now() - DAY
            self._next_inbound = self._monotonic() + (0.0 if receives else HOUR)
        elif self._first_look is not None and question in self._first_look:
            self._first_look.remove(question)
            if not self._first_look:
                await self._count_lot(first_look_ends=True)
                # What has been missed since is asked for at once.
                self._due = self._monotonic()

    def _take_errors(self, operation_id: str, errors: Sequence[DeliveryError]) -> None:
        failed = self._failed(operation_id)
        attempts = self._error_attempts.pop(operation_id, 0) + 1
        if len(errors) < failed and attempts < _MAX_ERROR_ATTEMPTS:
            # The others may be listed a little later.
            self._error_attempts[operation_id] = attempts
            failed = len(errors)
        else:
            self._emails.errors_due.pop(operation_id, None)
        self._emails.apply_errors(operation_id, failed, [each.code for each in errors])
        self._has_changes = True

    def _failed(self, operation_id: str) -> int:
        """Return how many emails of the operation failed."""
        tracked = self._account.tracked.get(operation_id)
        return tracked.marks[_FAILED] if tracked else 0

    async def _count_lot(self, *, inbound_seen: float | None = None, first_look_ends: bool = False) -> None:
        """Count the emails that were read and log the lost ones, then save and publish.

        Lost emails are logged before they are saved as counted, and even if this is cancelled, so that each is logged at least
        once. Those that were not saved are counted and logged again after a restart.
        """
        lot, self._lot = self._lot, []
        if not lot and not self._has_changes and inbound_seen is None and not first_look_ends:
            return
        self._has_changes = False
        tracked = self._account.tracked
        created = {
            each.operation_id: tracked[each.operation_id].operation.created
            for each in lot
            if each.operation_id in tracked
        }
        await run_in_slices(self._count(lot, created))
        if first_look_ends:
            self._emails.end_first_look()
        if inbound_seen is not None:
            self._emails.inbound_seen = inbound_seen
        await self._publish()

    def _count(self, lot: Sequence[Email], created: Mapping[str, float]) -> Steps[None]:
        losses = yield from self._emails.apply(lot, created, self._now())
        self._on_losses(losses)
        if self._log_losses:
            yield from self._log_all(losses)

    def _log_all(self, losses: Sequence[Loss]) -> Steps[None]:
        for batch in batched(losses, 32):
            for loss in batch:
                email = loss.email
                self._log.info(
                    "email lost",
                    email_id=email.id,
                    operation_id=email.operation_id,
                    status=email.status,
                    provider=loss.provider,
                    sender_domain=email.sender_domain,
                    delay=loss.delay,
                    **{f"tag_{key}": value for key, value in loss.tags.items()},
                )
            yield

    def _finish(self) -> None:
        before = self.health.problem
        self.health.rounds += 1
        if not self._failures:
            self.health.problem = None
            self.health.last_success = self._clock()
            if before is not None:
                self._log.info("emails can be listed again", after=before.reason)
            return
        error = self._failures[-1]
        self.health.problem = Problem(error.reason, self._mask(str(error)))
        if isinstance(error, ThrottledError) and error.retry_after is not None:
            self._due = max(self._due, self._monotonic() + error.retry_after)
        log = self._log.debug if before is not None and before.reason == error.reason else self._log.warning
        log("listing emails failed", reason=error.reason, error=self.health.problem.message)


async def _next_of(answers: AsyncIterator[_Answer]) -> _Answer | None:
    return await anext(answers, None)
