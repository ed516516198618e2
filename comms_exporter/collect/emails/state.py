"""What the exporter knows about the emails of one account, and what it has counted of them.

An email counts for a stage once, when it is first seen to have reached it. Nothing here does I/O or awaits.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import floor

from comms_exporter.base.printable import printable
from comms_exporter.base.slices import SIZE, Steps, batched
from comms_exporter.collect.emails.cost import Traffic
from comms_exporter.collect.emails.deficits import Deficits
from comms_exporter.collect.emails.labels import Candidates, LabelCounts
from comms_exporter.collect.emails.view import EmailsView
from comms_exporter.collect.schedule import HOUR
from comms_exporter.collect.view import DURATION_BUCKETS
from comms_exporter.model.email_records import (
    ALL_STAGES,
    CODE,
    DELIVERIES,
    INBOUND,
    LOSSES,
    MAX_HOURS_AFTER,
    PROVIDER,
    REACHED_BY_STATUS,
    SENDER_DOMAIN,
    STAGES,
    TAG_PREFIX,
    EmailsSnapshot,
    EmailTotals,
    FirstLook,
    KnownEmail,
    OperationErrors,
    SavedEmails,
    email_key,
    unpack_email,
)
from comms_exporter.model.emails import LOST, Email
from comms_exporter.model.histogram import Exemplar, Histogram
from comms_exporter.model.operations import Operation
from comms_exporter.model.providers import OTHER, Providers
from comms_exporter.model.records import TOTALS, Marks

_UNDELIVERED = 1 << STAGES.index("undelivered")
_FAILED_MARK = TOTALS.index("failed")
_MINUTE = 60.0
# More than an account with ten million emails a week has, because only the newest emails change.
_MAX_SHARED = 2**17


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A lost email that was counted; *delay* is how many seconds after its creation it was lost, if that is known."""

    email: Email
    provider: str
    tags: Mapping[str, str]
    delay: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailOptions:
    """What to count besides losses, and by which labels; *tags* are the keys that become labels."""

    all_stages: bool = False
    tags: tuple[str, ...] = ()
    max_values: int = 20
    providers: Providers = field(default_factory=Providers)
    errors: bool = False


class EmailState:
    """The emails of one account that the API can still return, and the counts, which outlive them."""

    def __init__(self, options: EmailOptions) -> None:
        collected = ALL_STAGES if options.all_stages else LOSSES | INBOUND
        self._stages_by_status = {status: stages & collected for status, stages in REACHED_BY_STATUS.items()}
        self.counts = LabelCounts(options.max_values)
        self.options = options
        self.deficits = Deficits(index for index in range(len(STAGES)) if collected >> index & 1)
        # By email_key(), see KnownEmail.packed().
        self.known: dict[int, int] = {}
        # Values of it, each once: many emails of a minute reach the same stages, and an object for each takes 32 bytes.
        self._shared: dict[int, int] = {}
        self.losses: FirstLook | None = None
        self.deliveries: FirstLook | None = None
        self.inbound = 0
        self.inbound_seen: float | None = None
        self.last_inbound = float("-inf")
        self.delays = Histogram(DURATION_BUCKETS)
        self.errors: dict[str, OperationErrors] = {}
        self.errors_since: float | None = None
        # The operations whose errors to ask for.
        self.errors_due: dict[str, None] = {}
        self._horizon = float("-inf")
        # What was sent and lost before the first look decides which values are admitted at its end.
        self._earlier = Candidates()
        self._unsaved: dict[int, int | None] = {}
        self._unsaved_errors: dict[str, OperationErrors | None] = {}

    def configure(self, options: EmailOptions) -> None:
        """Count with *options* from now on; whether all stages are counted cannot change."""
        self.options = replace(options, all_stages=self.options.all_stages)
        self.counts.max_values = options.max_values

    @property
    def first_look_complete(self) -> bool:
        """Whether all emails of before the first look are known."""
        looks = [self.losses, self.deliveries] if self.options.all_stages else [self.losses]
        return all(look is not None and look.complete for look in looks)

    def begin(self, now: float) -> None:
        """Note that counting begins *now*, unless it has begun before."""
        self.losses = self.losses or FirstLook(now, complete=False)
        if self.options.all_stages:
            self.deliveries = self.deliveries or FirstLook(now, complete=False)
        if self.inbound_seen is None:
            self.inbound_seen = now
        if self.options.errors and self.errors_since is None:
            self.errors_since = now

    def end_first_look(self) -> None:
        """Note that all earlier emails are known."""
        self.losses = self.losses and self.losses._replace(complete=True)
        if self.options.all_stages:
            self.deliveries = self.deliveries and self.deliveries._replace(complete=True)
        self.counts.admit(self._earlier)
        self._earlier = Candidates()

    def traffic(self, operations: int) -> Traffic:
        """Return what the *operations* of the last week sent, as far as the API still returns them."""
        emails, reached = self.deficits.sums()
        opened, undelivered, failed = (reached[STAGES.index(name)] for name in ("opened", "undelivered", "failed"))
        return Traffic(operations, emails, opened, undelivered, failed)

    # What operations say

    def operation_grew(self, operation: Operation, growth: Marks) -> None:
        """Note that an operation counts more emails than before."""
        self.deficits.operation_grew(operation, growth)
        if self.options.errors and growth[_FAILED_MARK] and self._counts_errors_of(operation):
            self.errors_due[operation.id] = None

    def operation_restored(self, operation: Operation, marks: Marks) -> None:
        """Note what an operation counted when it was saved."""
        self.deficits.operation_restored(operation, marks)
        known = self.errors.get(operation.id)
        if marks[_FAILED_MARK] > (known.failed if known else 0) and self._counts_errors_of(operation):
            self.errors_due[operation.id] = None

    # What emails say

    def apply(
        self, emails: Iterable[Email], created_by_operation: Mapping[str, float], now: float
    ) -> Steps[list[Loss]]:
        """Count what *emails* reached that they were not known to have reached, and return the lost ones that were counted.

        *created_by_operation* is when the operations of the emails were created.
        """
        grown: list[tuple[Email, int]] = []
        candidates = Candidates()
        known, stages_by_status = self.known, self._stages_by_status
        for batch in batched(emails):
            for email in batch:
                # Most emails are listed again unchanged.
                reached = stages_by_status.get(email.status, 0)
                if not reached or not reached & ~known.get(key := email_key(email.id), 0):
                    continue
                counted = self._learn(key, email, reached, created_by_operation, now)
                if counted is None:
                    continue
                if counted & ~INBOUND:
                    grown.append((email, counted))
                if email.status != "INBOUND":
                    self._nominate(email, candidates if counted else self._earlier)
            yield
        self.counts.admit(candidates)
        losses: list[Loss] = []
        for some in batched(grown):
            losses += filter(None, (self._count(email, counted, now) for email, counted in some))
            yield
        return losses

    def _learn(
        self, key: int, email: Email, reached: int, created_by_operation: Mapping[str, float], now: float
    ) -> int | None:
        """Remember that *email* has *reached* new stages; return those that count, None if it is too old to be known."""
        packed = self.known.get(key)
        added = reached if packed is None else reached & ~packed
        if packed is None:
            created = email.created_at if email.created_at is not None else email.updated_at
            # A time in the future is wrong, and the email would be kept until then.
            created = now if created is None else min(created, now)
            minute = int(created // _MINUTE)
            if minute * _MINUTE < self._horizon:
                # It may have been counted and forgotten.
                return None
            known = KnownEmail(minute, _hours_after(created, created_by_operation.get(email.operation_id or "")), added)
            packed = known.packed()
        else:
            known = unpack_email(packed)
            packed |= added
        self.known[key] = self._unsaved[key] = self._share(packed)
        if added & ~INBOUND:
            self.deficits.email_known(known.minute // 60 - known.hours_after, added)
        counted = added & ~self._reached_earlier(email, known)
        if counted & INBOUND:
            self.inbound += 1
        if added & INBOUND:
            self.last_inbound = max(self.last_inbound, known.minute * _MINUTE)
        return counted

    def _share(self, packed: int) -> int:
        """Return the object that stands for *packed* in all emails."""
        if len(self._shared) > _MAX_SHARED:
            self._shared.clear()
        return self._shared.setdefault(packed, packed)

    def _reached_earlier(self, email: Email, known: KnownEmail) -> int:
        """Return the stages that the email reached before they were first looked at, as far as that can be told."""
        earlier = 0
        for look, stages in ((self.losses, LOSSES), (self.deliveries, DELIVERIES)):
            if look is None:
                earlier |= stages
                continue
            # The API truncates times to seconds.
            since = floor(look.at)
            created = email.created_at if email.created_at is not None else known.minute * _MINUTE
            if created < since:
                if not look.complete or (email.updated_at is not None and email.updated_at < since):
                    earlier |= stages
                if look is self.losses:
                    earlier |= INBOUND
        return earlier

    def _nominate(self, email: Email, candidates: Candidates) -> None:
        losses = int(email.status in LOST)
        if email.sender_domain and self.counts.series(SENDER_DOMAIN, email.sender_domain)[1] == OTHER:
            candidates.add(SENDER_DOMAIN, email.sender_domain, losses)
        for key, value in self._tags(email):
            if self.counts.series(TAG_PREFIX + key, value)[1] == OTHER:
                candidates.add(TAG_PREFIX + key, value, losses)

    def _tags(self, email: Email) -> Iterator[tuple[str, str]]:
        return ((key, printable(value)) for key, value in email.tags if key in self.options.tags)

    def _count(self, email: Email, counted: int, now: float) -> Loss | None:
        exemplar = Exemplar(email.id, 1, now, "email_id") if counted & LOSSES else None
        provider = self.options.providers.provider_of(email.recipient_domain)
        tags = dict(self._tags(email))
        self.counts.add((PROVIDER, provider), counted, exemplar)
        self.counts.add(self.counts.series(SENDER_DOMAIN, email.sender_domain or OTHER), counted, exemplar)
        for key, value in tags.items():
            self.counts.add(self.counts.series(TAG_PREFIX + key, value), counted, exemplar)
        if exemplar is None:
            return None
        delay = None
        if email.created_at is not None and email.updated_at is not None:
            delay = max(0.0, email.updated_at - email.created_at)
            if counted & _UNDELIVERED:
                self.delays.observe(delay, Exemplar(email.id, delay, now, "email_id"))
        return Loss(email=email, provider=provider, tags=tags, delay=delay)

    # What /Errors says

    def _counts_errors_of(self, operation: Operation) -> bool:
        """Whether the errors of *operation* count: nobody knows which of the earlier operations' errors are new."""
        since = self.errors_since
        return self.options.errors and since is not None and operation.created >= floor(since)

    def apply_errors(self, operation_id: str, failed: int, codes: Sequence[str]) -> None:
        """Count the errors in *codes* beyond those that the operation was known to have."""
        before = self.errors.get(operation_id, OperationErrors(0, {}))
        candidates = Candidates()
        for code in codes:
            candidates.add(CODE, printable(code) or OTHER)
        self.counts.admit(candidates)
        listed: dict[str, int] = {}
        for code, count in candidates.by_label.get(CODE, {}).items():
            admitted = self.counts.series(CODE, code)[1]
            listed[admitted] = listed.get(admitted, 0) + count
        highest = dict(before.codes)
        for code, count in listed.items():
            if count > highest.get(code, 0):
                self.counts.add_errors(code, count - highest.get(code, 0))
                highest[code] = count
        self.errors[operation_id] = self._unsaved_errors[operation_id] = OperationErrors(
            max(failed, before.failed), highest
        )

    # Memory

    def forget(self, horizon: float, operations: Mapping[str, object]) -> Steps[None]:
        """Forget the emails created before *horizon*, and the errors of operations that are not among *operations*."""
        self._horizon = max(self._horizon, horizon)
        self.deficits.forget(self._horizon)
        expired: list[int] = []
        for batch in batched(self.known.items(), 4 * SIZE):
            expired += [key for key, packed in batch if (packed >> 16) * _MINUTE < self._horizon]
            yield
        for some in batched(expired, 4 * SIZE):
            for key in some:
                del self.known[key]
                self._unsaved[key] = None
            yield
        for operation_id in [each for each in self.errors if each not in operations]:
            del self.errors[operation_id]
            self._unsaved_errors[operation_id] = None
        for operation_id in [each for each in self.errors_due if each not in operations]:
            del self.errors_due[operation_id]

    def restore(self, saved: SavedEmails | None, horizon: float) -> Steps[None]:
        """Continue from *saved*; the state must be new, and operations are restored afterwards."""
        self._horizon = horizon
        self.deficits.forget(horizon)
        if saved is None:
            return
        totals = saved.totals
        self.losses, self.deliveries = totals.losses, totals.deliveries
        self.inbound, self.inbound_seen = totals.inbound, totals.inbound_seen
        self.errors_since = totals.errors_since
        self.delays.add(totals.delays)
        self.counts.restore(saved.counts)
        self.known, self.errors = saved.known, saved.errors
        for batch in batched(self.known.items()):
            for key, packed in batch:
                self.known[key] = self._share(packed)
                known = unpack_email(packed)
                self.deficits.email_known(known.minute // 60 - known.hours_after, known.stages)
                if known.stages & INBOUND:
                    self.last_inbound = max(self.last_inbound, known.minute * _MINUTE)
            yield

    def snapshot(self) -> EmailsSnapshot | None:
        """Return the changes since the last snapshot; None before the first look."""
        if self.losses is None:
            return None
        known, self._unsaved = self._unsaved, {}
        errors, self._unsaved_errors = self._unsaved_errors, {}
        return EmailsSnapshot(
            totals=EmailTotals(
                losses=self.losses,
                deliveries=self.deliveries,
                inbound=self.inbound,
                inbound_seen=self.inbound_seen,
                errors_since=self.errors_since,
                delays=self.delays.copy(),
            ),
            counts=self.counts.take_unsaved(),
            known=known,
            errors=errors,
            counts_in_all=len(self.counts.counts),
            known_in_all=len(self.known),
            errors_in_all=len(self.errors),
        )

    def requeue(self, snapshot: EmailsSnapshot) -> None:
        """Include the changes of *snapshot* in the next one: it may not have been saved."""
        self._unsaved = {**snapshot.known, **self._unsaved}
        self._unsaved_errors = {**snapshot.errors, **self._unsaved_errors}
        self.counts.requeue(snapshot.counts)

    def requeue_all(self) -> None:
        """Make the next snapshot complete: the store has lost what was saved."""
        self._unsaved = {**self._unsaved, **self.known}
        self._unsaved_errors = {**self._unsaved_errors, **self.errors}
        self.counts.requeue(self.counts.counts)

    def view(self) -> EmailsView:
        """Return what to publish."""
        missing = self.deficits.missing().values() if self.first_look_complete else []
        return EmailsView(
            all_stages=self.options.all_stages,
            providers=self.options.providers.names,
            tag_keys=self.options.tags,
            with_errors=self.options.errors,
            counts=self.counts.counts.copy(),
            exemplars=self.counts.exemplars.copy(),
            inbound=self.inbound,
            delays=self.delays.copy(),
            unattributed={
                outcome: sum(sums[STAGES.index(outcome)] for sums in missing) for outcome in ("failed", "undelivered")
            },
            tracked=len(self.known),
        )


def _hours_after(created: float, operation_created: float | None) -> int:
    if operation_created is None:
        return 0
    return max(0, min(MAX_HOURS_AFTER, int(created // HOUR - operation_created // HOUR)))
