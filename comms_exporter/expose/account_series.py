"""The series of accounts, rendered again only where a value has changed.

prometheus_client renders them; it takes as long for one sample as the comparison of fifty values.
"""

from collections.abc import Callable, Container, Sequence
from operator import is_
from typing import Any, NamedTuple

from comms_exporter.expose.families import Account, AccountMetric
from comms_exporter.expose.rendering import render
from comms_exporter.expose.samples import Buckets, Value
from comms_exporter.expose.segments import Lines

Values = tuple[Value, ...]


class Table:
    """The *metrics* of all accounts for which *applies* is true.

    As long as *version* returns the same for an account, its values are the same. By default they are compared themselves.
    """

    def __init__(
        self,
        metrics: Sequence[AccountMetric],
        *,
        version: Callable[[Account], object] | None = None,
        applies: Callable[[Account], bool] | None = None,
    ) -> None:
        self.metrics = metrics
        self.version = version
        self.applies = applies
        self._readers = [metric.read for metric in metrics]
        self._copies: list[tuple[int, Callable[[Any], Value]]] = [
            (index, dict.copy if metric.label else Buckets.of)
            for index, metric in enumerate(metrics)
            if metric.label or metric.type == "histogram"
        ]

    def values(self, account: Account, now: float) -> Values:
        """Return the value of each metric; later changes of the account do not affect them."""
        values: list[Any] = [read(account, now) for read in self._readers]
        # All others are immutable.
        for index, copy in self._copies:
            values[index] = copy(values[index])
        return tuple(values)


class _Rendered(NamedTuple):
    """The sample lines of one account in one table, and the values in them."""

    version: object
    values: Values
    lines: Lines


class AccountText(NamedTuple):
    """The sample lines of one account, one text for each family, and for each table whether it applies.

    They stay the same as long as the account has this *revision*, unless that is None, and is *stale* or not.
    """

    revision: object
    stale: bool
    applies: tuple[bool, ...]
    parts: tuple[_Rendered | None, ...]
    lines: Lines


class AccountSeries:
    """The series in *tables* of all accounts, in one of the two formats."""

    def __init__(self, tables: Sequence[Table], *, openmetrics: bool) -> None:
        self._tables = tables
        self._openmetrics = openmetrics
        self._heads = [
            [render(metric.family([]), openmetrics=openmetrics) for metric in table.metrics] for table in tables
        ]
        self._texts: dict[str, AccountText] = {}

    @property
    def heads(self) -> Lines:
        """HELP and TYPE of each family."""
        return [head for heads in self._heads for head in heads]

    def present(self, texts: Sequence[AccountText]) -> list[int]:
        """Return the indexes of the families that a page with these *texts* has: those of optional tables only if one applies."""
        present: list[int] = []
        first = 0
        for number, table in enumerate(self._tables):
            following = first + len(table.metrics)
            if table.applies is None or any(text.applies[number] for text in texts):
                present += range(first, following)
            first = following
        return present

    def indexes(self, names: Container[str]) -> list[int]:
        """Return the indexes of the families that may have a sample called one of *names*."""
        metrics = [metric for table in self._tables for metric in table.metrics]
        endings = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
        return [
            index
            for index, metric in enumerate(metrics)
            if any(metric.name + ending in names for ending in endings[metric.type])
        ]

    def known(self, name: str) -> AccountText | None:
        """Return the last text of the account *name*."""
        return self._texts.get(name)

    def text(self, account: Account, now: float) -> AccountText:
        """Return the lines of *account*; its text is the same object as long as nothing has changed."""
        known = self._texts.get(account.name)
        revision, stale = account.revision, account.health.stale(now)
        if known is not None and revision is not None and known.revision is revision and known.stale == stale:
            return known
        applies = tuple(table.applies is None or table.applies(account) for table in self._tables)
        parts = tuple(
            self._rendered(number, account, now, known.parts[number] if known is not None else None)
            if applies[number]
            else None
            for number in range(len(self._tables))
        )
        if known is not None and all(map(is_, parts, known.parts)):
            text = known._replace(revision=revision, stale=stale)
        else:
            lines = [
                line
                for heads, part in zip(self._heads, parts, strict=True)
                for line in (part.lines if part is not None else [b""] * len(heads))
            ]
            text = AccountText(revision, stale, applies, parts, lines)
        self._texts[account.name] = text
        return text

    def keep(self, names: Container[str]) -> None:
        """Forget all accounts but those in *names*."""
        self._texts = {name: text for name, text in self._texts.items() if name in names}

    def _rendered(self, number: int, account: Account, now: float, before: _Rendered | None) -> _Rendered:
        table, heads = self._tables[number], self._heads[number]
        version = table.version(account) if table.version is not None else None
        if before is not None and version is not None and before.version == version:
            return before
        values = table.values(account, now)
        if before is not None and before.values == values:
            return _Rendered(version, values, before.lines) if version is not None else before
        lines = [
            before.lines[index]
            if before is not None and before.values[index] == value
            else render(
                table.metrics[index].family([(account.name, value)]), openmetrics=self._openmetrics
            ).removeprefix(heads[index])
            for index, value in enumerate(values)
        ]
        return _Rendered(version, values, lines)
