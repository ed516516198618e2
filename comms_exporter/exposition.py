"""Writes the page that Prometheus reads: when something has changed, not when it is asked for.

What is said of single operations is written, and compressed, once per poll, and only where the poll has changed it;
a scrape sends these pieces as they are, after the little that is written for it alone.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import is_
from typing import NamedTuple

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CollectorRegistry, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from comms_exporter.gzipped import HEADER, Piece, Sum, compress, trailer
from comms_exporter.health import Reloads
from comms_exporter.metrics import (
    OPERATION_FAMILIES,
    Account,
    Shard,
    build_info,
    live_families,
    published_families,
    reload_families,
    shard_info,
)
from comms_exporter.models import Operation
from comms_exporter.segments import Segment, regroup
from comms_exporter.slices import SIZE, Steps, sliced, whole
from comms_exporter.state import View

# Seconds for which an encoding is kept ready that nobody has asked for again; nobody scrapes as rarely as that.
KEEP_SECONDS = 300.0
# Bytes that are sent in one go: the kernel takes them in less than a millisecond.
CHUNK = 2**17

_END = b"# EOF\n"

Segments = list[Segment]


class Body(NamedTuple):
    """A page, in *pieces* of all sizes that are *length* bytes together."""

    pieces: Sequence[bytes]
    length: int

    def chunks(self) -> Iterator[bytes]:
        """Yield the page in pieces of about CHUNK bytes."""
        some: list[bytes] = []
        size = 0
        for piece in self.pieces:
            some.append(piece)
            size += len(piece)
            if size >= CHUNK:
                yield b"".join(some)
                some, size = [], 0
        if some:
            yield b"".join(some)


class _Text(NamedTuple):
    """What is said of all single operations, encoded in one way."""

    pieces: list[bytes]
    size: int
    total: Sum


class Exposition:
    """The page of all *accounts*."""

    def __init__(
        self,
        accounts: Callable[[], Sequence[Account]],
        *,
        reloads: Reloads,
        clock: Callable[[], float],
        shard: Shard | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._accounts = accounts
        self._clock = clock
        self._monotonic = monotonic
        # Only a registry that knows its names can be asked for some of them.
        self._registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._registry.register(_Families(lambda: _about_us(reloads, shard or Shard())))
        self._registry.register(_Families(lambda: live_families(accounts(), now=clock())))
        self._views = CollectorRegistry(auto_describe=True)
        self._views.register(_Families(lambda: published_families(accounts())))
        self._written: dict[tuple[bool, str], tuple[Metric, bytes]] = {}
        self._written_views: dict[bool, tuple[list[View], bytes]] = {}
        # Of each account what is shown, and what is about to be: the operations, and the segments that they are in.
        self._shelves: dict[str, list[tuple[Sequence[Operation], Segments]]] = {}
        self._asked: dict[bool, float] = {}
        self._texts: dict[bool, tuple[list[Segments], _Text]] = {}

    async def prepare(self, name: str, operations: Sequence[Operation]) -> None:
        """Write what is new in the *operations* of the account *name* before they are shown.

        It is written in those encodings that somebody has asked for lately.
        """
        segments = await sliced(self._segments(name, operations))
        now = self._monotonic()
        for gzip in (False, True):
            if now - self._asked.get(gzip, float("-inf")) <= KEEP_SECONDS:
                await sliced(_write(segments, gzip=gzip))
            else:
                self._texts.pop(gzip, None)
                for segment in segments:
                    segment.drop(gzip=gzip)

    async def body(self, *, openmetrics: bool, gzip: bool = False, names: Iterable[str] = ()) -> Body:
        """Return the page with all families, or those with a sample called one of *names*."""
        wanted = frozenset(names)
        self._asked[gzip] = self._monotonic()
        for account in self._accounts():
            await sliced(self._segments(account.name, account.view.exposed))
        # From here to the last of `shown` nothing else can happen, so both parts of the page are of the same polls.
        first = self._small(openmetrics, wanted)
        now = self._clock()
        shown = [
            whole(self._segments(account.name, account.view.exposed))
            for account in self._accounts()
            if not account.health.stale(now)
        ]
        text = await self._text(shown, gzip=gzip, wanted=wanted)
        last = _END if openmetrics else b""
        if gzip:
            start, end = compress(first), compress(last)
            total = Sum().plus(start).plus(text.total).plus(end)
            before, after = [HEADER, start.data], [end.data, trailer(total)]
        else:
            before, after = [first], [last]
        return Body([*before, *text.pieces, *after], sum(map(len, before)) + text.size + sum(map(len, after)))

    def _small(self, openmetrics: bool, wanted: frozenset[str]) -> bytes:  # noqa: FBT001
        """Return everything but single operations; what is as it was is not written again."""
        if wanted:
            registries = (self._registry, self._views)
            restricted = [each.restricted_registry(wanted) for each in registries]
            return b"".join(_by_the_library(family, openmetrics) for each in restricted for family in each.collect())
        parts = []
        for family in self._registry.collect():
            key = openmetrics, family.name
            known = self._written.get(key)
            if known is None or known[0] != family:
                self._written[key] = known = family, _by_the_library(family, openmetrics)
            parts.append(known[1])
        return b"".join([*parts, self._published(openmetrics)])

    def _published(self, openmetrics: bool) -> bytes:  # noqa: FBT001
        """Return what every account's view says of all its operations, written once for each view."""
        views = [account.view for account in self._accounts()]
        known = self._written_views.get(openmetrics)
        if known is None or len(known[0]) != len(views) or not all(map(is_, known[0], views)):
            families = self._views.collect()
            known = views, b"".join(_by_the_library(family, openmetrics) for family in families)
            self._written_views[openmetrics] = known
        return known[1]

    async def _text(self, shown: list[Segments], *, gzip: bool, wanted: frozenset[str]) -> _Text:
        known = self._texts.get(gzip)
        if not wanted and known is not None and len(known[0]) == len(shown) and all(map(is_, known[0], shown)):
            return known[1]
        for segments in shown:
            await sliced(_write(segments, gzip=gzip))
        text = await sliced(_joined(shown, gzip=gzip, wanted=wanted))
        if not wanted:
            self._texts[gzip] = shown, text
        return text

    def _segments(self, name: str, operations: Sequence[Operation]) -> Steps[Segments]:
        """Return *operations*, which never change, in segments; they are made when they are first needed."""
        made = self._made(name, operations)
        if made is not None:
            return made
        shelf = self._shelves.get(name, [])
        segments = yield from regroup(name, shelf[-1][1] if shelf else (), operations)
        # Somebody else may have made them meanwhile.
        made = self._made(name, operations)
        if made is not None:
            return made
        present = {name, *(account.name for account in self._accounts())}
        self._shelves = {key: each for key, each in self._shelves.items() if key in present}
        self._shelves[name] = [*self._shelves.get(name, [])[-1:], (operations, segments)]
        return segments

    def _made(self, name: str, operations: Sequence[Operation]) -> Segments | None:
        return next((segments for known, segments in self._shelves.get(name, ()) if known is operations), None)


class _Families(Collector):
    """Families, as the library wants them."""

    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families()


def _about_us(reloads: Reloads, shard: Shard) -> Iterator[Metric]:
    yield build_info()
    yield shard_info(shard)
    yield from reload_families(reloads)


def _by_the_library(family: Metric, openmetrics: bool) -> bytes:  # noqa: FBT001
    write = generate_openmetrics if openmetrics else generate_latest
    return write(_Families(lambda: [family])).removesuffix(_END)


def _write(segments: Segments, *, gzip: bool) -> Steps[None]:
    for segment in segments:
        if segment.write(gzip=gzip):
            yield


def _joined(shown: list[Segments], *, gzip: bool, wanted: frozenset[str]) -> Steps[_Text]:
    """Return all samples of each family after its HELP and TYPE, account by account."""
    pieces: list[bytes] = []
    total = Sum()
    for index, (name, text) in enumerate(OPERATION_FAMILIES):
        if wanted and name not in wanted:
            continue
        head = f"# HELP {name} {text}\n# TYPE {name} gauge\n".encode()
        family = [compress(head) if gzip else Piece(head, 0, len(head))]
        family += [segment.pieces(gzip=gzip)[index] for segments in shown for segment in segments]
        for number, piece in enumerate(family):
            pieces.append(piece.data)
            if gzip:
                total = total.plus(piece)
            if number % SIZE == SIZE - 1:
                yield
        yield
    return _Text(pieces, sum(map(len, pieces)), total)
