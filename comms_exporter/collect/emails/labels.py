"""Count emails by label, with a bounded number of label values whatever the mail is like.

Providers are a fixed list. Of sender domains, of the values of each tag, and of error codes, the first ones are admitted, those
with the most losses before the others; they stay, and all others are counted together. Half of the places are kept for values
that have losses.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping

from comms_exporter.model.email_records import CODE, LOSSES, PROVIDER, STAGES, Counts, Series
from comms_exporter.model.histogram import Exemplar
from comms_exporter.model.providers import OTHER

MAX_CODES = 20
# Of values that are waiting for admission. When there are more, the rarest are forgotten.
_MAX_CANDIDATES = 10_000
_NOTHING: Counts = (0,) * len(STAGES)


class LabelCounts:
    """The counts of each series; of every label, *max_values* values are admitted besides OTHER."""

    def __init__(self, max_values: int) -> None:
        self.max_values = max_values
        self.counts: dict[Series, Counts] = {}
        # By series and index of the stage.
        self.exemplars: dict[tuple[Series, int], Exemplar] = {}
        self._admitted: Counter[str] = Counter()
        self._unsaved: set[Series] = set()

    def restore(self, counts: Mapping[Series, Counts]) -> None:
        """Continue from saved counts."""
        self.counts = dict(counts)
        self._admitted = Counter(label for label, value in counts if value != OTHER)

    def admit(self, candidates: "Candidates") -> None:
        """Admit the values of *candidates* that lost the most, as far as there is room."""
        for label, losses in candidates.by_label.items():
            places = MAX_CODES if label == CODE else self.max_values
            room = max(0, places - self._admitted[label])
            unknown = ((-count, value) for value, count in losses.items() if (label, value) not in self.counts)
            for count, value in heapq.nsmallest(room, unknown):
                if count or self._admitted[label] < places // 2:
                    self._change((label, value), _NOTHING)

    def series(self, label: str, value: str) -> Series:
        """Return the series that counts *value*."""
        series = label, value
        return series if series in self.counts or label == PROVIDER else (label, OTHER)

    def add(self, series: Series, stages: int, exemplar: Exemplar | None = None) -> None:
        """Count one email that reached *stages*, as bits; *exemplar* is for those in which it was lost."""
        before = self.counts.get(series, _NOTHING)
        self._change(series, tuple(count + (stages >> index & 1) for index, count in enumerate(before)))
        if exemplar is not None:
            for index in range(len(STAGES)):
                if (stages & LOSSES) >> index & 1:
                    self.exemplars[series, index] = exemplar

    def add_errors(self, code: str, count: int) -> None:
        """Count *count* errors."""
        series = self.series(CODE, code)
        self._change(series, (self.counts.get(series, (0,))[0] + count,))

    def take_unsaved(self) -> dict[Series, Counts]:
        """Return the counts that have changed since the last call."""
        unsaved, self._unsaved = self._unsaved, set()
        return {series: self.counts[series] for series in unsaved}

    def requeue(self, series: Iterable[Series]) -> None:
        """Return the counts of *series* with the next unsaved ones."""
        self._unsaved.update(series)

    def _change(self, series: Series, counts: Counts) -> None:
        if series not in self.counts and series[1] != OTHER:
            self._admitted[series[0]] += 1
        self.counts[series] = counts
        self._unsaved.add(series)


class Candidates:
    """How many losses each value has that is not admitted; some have none."""

    def __init__(self) -> None:
        self.by_label: dict[str, Counter[str]] = {}

    def add(self, label: str, value: str, count: int = 1) -> None:
        """Count losses of *value*."""
        losses = self.by_label.setdefault(label, Counter())
        losses[value] += count
        if len(losses) > _MAX_CANDIDATES:
            self.by_label[label] = Counter(dict(losses.most_common(_MAX_CANDIDATES // 10)))
