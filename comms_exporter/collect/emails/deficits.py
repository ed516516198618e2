"""How many emails the operations count, and how many of them are known, by hour of creation: what is missing is asked for.

Both are sums over what the API can still return, so a deficit needs no memory of its own: after a restart, a failed request
or the response of a lagging replica it is there until the emails are known.
"""

from collections.abc import Iterable, Mapping
from math import isinf

from comms_exporter.base.slices import SIZE
from comms_exporter.collect.schedule import HOUR
from comms_exporter.model.email_records import STAGES
from comms_exporter.model.operations import Operation
from comms_exporter.model.records import TOTALS, Marks

# In Marks.
_FIRST, _END, _TOTAL = TOTALS.index(STAGES[0]), TOTALS.index(STAGES[-1]) + 1, TOTALS.index("total")
# Of an hour in which more operations than this have changed, all emails are listed anyway.
_MAX_CHANGED = 50

# How many emails of each of STAGES.
Sums = list[int]


class _Hour:
    """What is counted and known of the operations that were created in one hour, and of their emails."""

    __slots__ = ("_sums", "changed", "grown", "known")

    def __init__(self) -> None:
        self._sums = [0] * len(TOTALS)
        # Not added up yet: many together take a fraction of the time.
        self.grown: list[Marks] = []
        self.known = [0] * len(STAGES)
        # The operations whose counters have grown since nothing was missing; None if they are too many, or unknown.
        self.changed: dict[str, Operation] | None = {}

    @property
    def counted(self) -> Sums:
        """How many emails of each stage the operations count, also of the stages that are not collected."""
        return self.add_up()[_FIRST:_END]

    @property
    def total(self) -> int:
        """How many emails the operations have."""
        return self.add_up()[_TOTAL]

    def add_up(self) -> list[int]:
        """Return the sums of everything that has grown."""
        if self.grown:
            self._sums = list(map(sum, zip(self._sums, *self.grown, strict=True)))
            self.grown = []
        return self._sums


class Deficits:
    """What is missing of *stages*, the indexes of those that are collected."""

    def __init__(self, stages: Iterable[int]) -> None:
        self.stages = tuple(stages)
        # By hour since the epoch. The emails of an operation belong to the hour of the operation, as far as it is known.
        self._hours: dict[int, _Hour] = {}
        self._first_hour = 0

    def operation_grew(self, operation: Operation, growth: Marks) -> None:
        """Add what an operation counts in addition. Polls do this for every operation that has changed."""
        # A float that is whole finds the int.
        hour = self._hours.get(operation.created // HOUR)  # type: ignore[call-overload]
        if hour is None and (hour := self._hour(int(operation.created // HOUR))) is None:
            return
        hour.grown.append(growth)
        if len(hour.grown) >= SIZE:
            hour.add_up()
        if hour.changed is not None and any(growth[_FIRST + stage] for stage in self.stages):
            hour.changed[operation.id] = operation
            if len(hour.changed) > _MAX_CHANGED:
                hour.changed = None

    def operation_restored(self, operation: Operation, marks: Marks) -> None:
        """Add an operation that was counted before; whether its emails are known is not."""
        self.operation_grew(operation, marks)
        hour = self._hours.get(int(operation.created // HOUR))
        if hour is not None and hour.changed:
            hour.changed = None

    def email_known(self, hour: int, stages: int) -> None:
        """Note that an email of an operation of that *hour* is known to have reached *stages*, as bits."""
        found = self._hours.get(hour) or self._hour(hour)
        if found is not None:
            for stage in self.stages:
                found.known[stage] += stages >> stage & 1

    def forget(self, horizon: float) -> None:
        """Drop the hours before *horizon*."""
        if isinf(horizon):
            return
        self._first_hour = int(horizon // HOUR) + 1
        for hour in [hour for hour in self._hours if hour < self._first_hour]:
            del self._hours[hour]

    def _hour(self, hour: int) -> _Hour | None:
        """Return a new *hour*, None if it is before the horizon."""
        return None if hour < self._first_hour else self._hours.setdefault(hour, _Hour())

    def sums(self) -> tuple[int, Sums]:
        """Return how many emails the operations have, and how many of them reached each stage."""
        by_hour = [hour.add_up() for hour in self._hours.values()]
        sums = list(map(sum, zip([0] * len(TOTALS), *by_hour, strict=True)))
        return sums[_TOTAL], sums[_FIRST:_END]

    def missing(self) -> dict[int, Sums]:
        """Return how many emails of each stage are missing, by hour; the hours without any are left out.

        An email may have been created in the hour after its operation, if the API does not say which operation that is.
        """
        found: dict[int, Sums] = {}
        later, surplus = 0, [0] * len(STAGES)
        for number in sorted(self._hours, reverse=True):
            hour = self._hours[number]
            if number + 1 != later:
                surplus = [0] * len(STAGES)
            counted = hour.counted
            missing = [
                counted[stage] - hour.known[stage] if stage in self.stages else 0 for stage in range(len(STAGES))
            ]
            balance = [own - more for own, more in zip(missing, surplus, strict=True)]
            if any(each > 0 for each in balance):
                found[number] = [max(0, each) for each in balance]
            later, surplus = number, [max(0, -own) for own in missing]
        return found

    def settle(self, missing: Mapping[int, Sums]) -> None:
        """Forget which operations of the hours that are not *missing* anything have changed."""
        for number, hour in self._hours.items():
            if number not in missing:
                hour.changed = {}

    def changed(self, hour: int) -> list[Operation] | None:
        """Return the operations of *hour* to which all missing emails belong, None if that is unknown."""
        found = self._hours.get(hour)
        return list(found.changed.values()) if found and found.changed else None

    def asked_by_operation(self, hour: int) -> None:
        """Note that the changed operations of *hour* are asked for: if that does not explain everything, list the hour."""
        self._hours[hour].changed = None

    def listed_by_hour(self, stage: int | None) -> dict[int, int]:
        """Return how many emails a listing of one stage, or of all emails, has in each hour."""
        return {number: hour.total if stage is None else hour.counted[stage] for number, hour in self._hours.items()}
