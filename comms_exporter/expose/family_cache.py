"""Families as text that is rendered again only when their values have changed.

prometheus_client renders them; it takes as long for one sample as the comparison of fifty values.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import is_not
from typing import Any, NamedTuple

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from comms_exporter.expose.families import Account, AccountMetric
from comms_exporter.expose.samples import Buckets, Value

END = b"# EOF\n"

Values = tuple[Value, ...]


def render(family: Metric, *, openmetrics: bool) -> bytes:
    """Return the text of *family* in either format."""
    generate = generate_openmetrics if openmetrics else generate_latest
    return generate(_Single(family)).removesuffix(END)


class CachedFamilies(Collector):
    """The result of *families*, which does not change as long as *version* returns the same."""

    def __init__(self, families: Callable[[], Iterable[Metric]], *, version: Callable[[], object]) -> None:
        self._families = families
        self._version = version
        self._pages: dict[bool, tuple[object, bytes]] = {}
        self._texts: dict[tuple[bool, str], tuple[Metric, bytes]] = {}

    def collect(self) -> Iterable[Metric]:
        """Return all families."""
        return self._families()

    def text(self, *, openmetrics: bool) -> bytes:
        """Return the text of all families."""
        version = self._version()
        page = self._pages.get(openmetrics)
        if page is None or page[0] != version:
            texts = [self._text(family, openmetrics=openmetrics) for family in self._families()]
            self._pages[openmetrics] = page = version, b"".join(texts)
        return page[1]

    def _text(self, family: Metric, *, openmetrics: bool) -> bytes:
        known = self._texts.get((openmetrics, family.name))
        if known is None or known[0] != family:
            known = family, render(family, openmetrics=openmetrics)
            self._texts[openmetrics, family.name] = known
        return known[1]


class _Lines(NamedTuple):
    """The sample lines of one account, one text for each metric, and the values in them."""

    version: object
    values: Values
    texts: list[bytes]


class AccountFamilies(Collector):
    """The *metrics* of all *accounts*; only the lines of changed values are rendered again.

    As long as *version* returns the same for an account, its values are the same. By default they are compared themselves.
    *optional* families are absent as long as there are no accounts.
    """

    def __init__(
        self,
        metrics: Sequence[AccountMetric],
        accounts: Callable[[], Sequence[Account]],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        version: Callable[[Account, float], object] | None = None,
        optional: bool = False,
    ) -> None:
        self._optional = optional
        self._metrics = metrics
        self._accounts = accounts
        self._monotonic = monotonic
        self._version = version or self._values
        self._readers = [metric.read for metric in metrics]
        self._copies: list[tuple[int, Callable[[Any], Value]]] = [
            (index, dict.copy if metric.label else Buckets.of)
            for index, metric in enumerate(metrics)
            if metric.label or metric.type == "histogram"
        ]
        self._heads = {
            openmetrics: [render(metric.family([]), openmetrics=openmetrics) for metric in metrics]
            for openmetrics in (False, True)
        }
        self._lines: dict[bool, dict[str, _Lines]] = {False: {}, True: {}}
        self._pages = {openmetrics: b"" if optional else b"".join(heads) for openmetrics, heads in self._heads.items()}

    def describe(self) -> Iterator[Metric]:
        """Yield all families without samples."""
        return (metric.family([]) for metric in self._metrics)

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        now = self._monotonic()
        if self._optional and not self._accounts():
            return
        rows = [(account.name, self._values(account, now)) for account in self._accounts()]
        for index, metric in enumerate(self._metrics):
            yield metric.family([(name, values[index]) for name, values in rows])

    def text(self, *, openmetrics: bool) -> bytes:
        """Return the text of all families."""
        now = self._monotonic()
        known = self._lines[openmetrics]
        lines = {}
        for account in self._accounts():
            before = known.get(account.name)
            version = self._version(account, now)
            if before is None or before.version != version:
                lines[account.name] = self._rendered(account, now, version, before, openmetrics=openmetrics)
            else:
                lines[account.name] = before
        if list(lines) != list(known) or any(map(is_not, lines.values(), known.values())):
            self._lines[openmetrics] = lines
            self._pages[openmetrics] = b"".join(
                [
                    text
                    for index, head in enumerate(self._heads[openmetrics])
                    for text in (head, *[each.texts[index] for each in lines.values()])
                ]
                if lines or not self._optional
                else []
            )
        return self._pages[openmetrics]

    def _values(self, account: Account, now: float) -> Values:
        """Return the value of each metric; later changes of the account do not affect them."""
        values: list[Any] = [read(account, now) for read in self._readers]
        # All others are immutable.
        for index, copy in self._copies:
            values[index] = copy(values[index])
        return tuple(values)

    def _rendered(
        self, account: Account, now: float, version: object, before: _Lines | None, *, openmetrics: bool
    ) -> _Lines:
        values = self._values(account, now)
        texts = [
            before.texts[index]
            if before is not None and before.values[index] == value
            else render(self._metrics[index].family([(account.name, value)]), openmetrics=openmetrics).removeprefix(
                self._heads[openmetrics][index]
            )
            for index, value in enumerate(values)
        ]
        return _Lines(version, values, texts)


class _Single(Collector):
    """One family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return [self._family]
