"""How many emails the operations count, and how many of them are known, by hour of creation: what is missing is asked for.

Both are sums over what the API can still return, so a deficit needs no memory of its own: after a restart, a failed request
or the response of a lagging replica it is there until the emails are known.
"""

from collections.abc import Iterable, Mapping
from math import isinf

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


class Deficits:
    """What is missing of *stages*, the indexes of those that are collected."""

    def __init__(self, stages: Iterable[int]) -> None:
        self.stages = tuple(stages)
        # By hour since the epoch. The emails of an operation belong to the hour of the operation, as far as it is known.
        self._counted: dict[int, Sums] = {}
        self._known: dict[int, Sums] = {}
        self._created: dict[int, int] = {}
        # The operations whose counters have grown since nothing was missing; None if they are too many, or unknown.
        self._changed: dict[int, dict[str, Operation] | None] = {}
        self._first_hour = 0

    def operation_grew(self, operation: Operation, growth: Marks) -> None:
        """Add what an operation counts in addition."""
        hour = int(operation.created // HOUR)
        if hour < self._first_hour:
            return
        counted = growth[_FIRST:_END]
        self._created[hour] = self._created.get(hour, 0) + growth[_TOTAL]
        if not any(counted[stage] for stage in self.stages):
            return
        sums = self._counted.setdefault(hour, [0] * len(STAGES))
        for stage in self.stages:
            sums[stage] += counted[stage]
        changed = self._changed.setdefault(hour, {})
        if changed is not None:
            changed[operation.id] = operation
            if len(changed) > _MAX_CHANGED:
                self._changed[hour] = None

    def operation_restored(self, operation: Operation, marks: Marks) -> None:
        """Add an operation that was counted before; whether its emails are known is not."""
        self.operation_grew(operation, marks)
        hour = int(operation.created // HOUR)
        if hour in self._changed:
            self._changed[hour] = None

    def email_known(self, hour: int, stages: int) -> None:
        """Note that an email of an operation of that *hour* is known to have reached *stages*, as bits."""
        if hour < self._first_hour:
            return
        sums = self._known.setdefault(hour, [0] * len(STAGES))
        for stage in self.stages:
            sums[stage] += stages >> stage & 1

    def forget(self, horizon: float) -> None:
        """Drop the hours before *horizon*."""
        if isinf(horizon):
            return
        self._first_hour = int(horizon // HOUR) + 1
        for by_hour in (self._counted, self._known, self._created, self._changed):
            for hour in [hour for hour in by_hour if hour < self._first_hour]:
                del by_hour[hour]

    def missing(self) -> dict[int, Sums]:
        """Return how many emails of each stage are missing, by hour; the hours without any are left out.

        An email may have been created in the hour after its operation, if the API does not say which operation that is.
        """
        found: dict[int, Sums] = {}
        later, surplus = 0, [0] * len(STAGES)
        for hour in sorted({*self._counted, *self._known}, reverse=True):
            counted, known = self._counted.get(hour), self._known.get(hour)
            if hour + 1 != later:
                surplus = [0] * len(STAGES)
            missing = [
                (counted[stage] if counted else 0) - (known[stage] if known else 0) for stage in range(len(STAGES))
            ]
            balance = [own - more for own, more in zip(missing, surplus, strict=True)]
            if any(each > 0 for each in balance):
                found[hour] = [max(0, each) for each in balance]
            later, surplus = hour, [max(0, -own) for own in missing]
        return found

    def settle(self, missing: Mapping[int, Sums]) -> None:
        """Forget which operations of the hours that are not *missing* anything have changed."""
        for hour in [hour for hour in self._changed if hour not in missing]:
            del self._changed[hour]

    def changed(self, hour: int) -> list[Operation] | None:
        """Return the operations of *hour* to which all missing emails belong, None if that is unknown."""
        changed = self._changed.get(hour)
        return None if changed is None else list(changed.values())

    def asked_by_operation(self, hour: int) -> None:
        """Note that the changed operations of *hour* are asked for: if that does not explain everything, list the hour."""
        self._changed[hour] = None

    def listed_by_hour(self, stage: int | None) -> dict[int, int]:
        """Return how many emails a listing of one stage, or of all emails, has in each hour."""
        if stage is None:
            return self._created
        return {hour: sums[stage] for hour, sums in self._counted.items()}
