"""Writes the page that Prometheus reads: when something has changed, not when it is asked for.

What is said of single operations is written, and compressed, once per poll, and only where the poll has changed it;
a scrape sends these pieces as they are, after the little that is written for it alone.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import is_
from typing import Generic, NamedTuple, TypeVar

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CollectorRegistry, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from comms_exporter.base.slices import Steps, run_in_slices, run_to_completion
from comms_exporter.collect.health import Reloads
from comms_exporter.expose.families import (
    OPERATION_FAMILIES,
    Account,
    Shard,
    build_info,
    live_families,
    live_values,
    published_families,
    reload_families,
    shard_info,
)
from comms_exporter.expose.gzipped import HEADER, Piece, Sum, compress, trailer
from comms_exporter.expose.segments import Chunks, Segment, regroup
from comms_exporter.model.operations import Operation

# Seconds for which an encoding is kept ready that nobody has asked for again; nobody scrapes as rarely as that.
KEEP_SECONDS = 300.0
# The process is looked at once in so many: /proc takes longer than all the rest.
PROCESS_SECONDS = 1.0

_END = b"# EOF\n"

Segments = list[Segment]
T = TypeVar("T")


class Body(NamedTuple):
    """A page, in *chunks* that are *length* bytes together."""

    chunks: Sequence[bytes]
    length: int


class _Text(NamedTuple):
    """What is said of all single operations in *shown*, encoded in one way."""

    shown: list[Segments]
    chunks: list[bytes]
    size: int
    total: Sum


class Exposition:
    """The page of all *accounts*."""

    def __init__(
        self,
        accounts: Callable[[], Sequence[Account]],
        *,
        reloads: Reloads,
        shard: Callable[[], Shard] = Shard,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._accounts = accounts
        self._monotonic = monotonic
        process = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=process)
        self._parts = (
            _Part(lambda: int(monotonic() / PROCESS_SECONDS), lambda _: process.collect()),
            _Part(lambda: (reloads.successful, reloads.last_success, shard()), lambda _: _about_us(reloads, shard())),
            _Part(lambda: live_values(accounts(), now=monotonic()), live_families),
            _Part(
                lambda: [(account.name, account.view) for account in accounts()],
                lambda _: published_families(accounts()),
            ),
        )
        # Only a registry that knows its names can be asked for some of them.
        self._registry = CollectorRegistry(auto_describe=True)
        for part in self._parts:
            self._registry.register(part)
        self._compressed: dict[bool, tuple[bytes, Piece]] = {}
        # Of each account what is shown, and what is about to be: the operations, and the segments that they are in.
        self._shelves: dict[str, list[tuple[Sequence[Operation], Segments]]] = {}
        self._asked: dict[bool, float] = {}
        # Of each encoding what is sent now, and what will be after the next poll.
        self._texts: dict[bool, list[_Text]] = {}

    async def prepare(self, name: str, operations: Sequence[Operation]) -> None:
        """Write what is new in the *operations* of the account *name* before they are shown.

        It is written in those encodings that somebody has asked for lately.
        """
        segments = await run_in_slices(self._segments(name, operations))
        now = self._monotonic()
        for gzip in (False, True):
            if now - self._asked.get(gzip, float("-inf")) <= KEEP_SECONDS:
                await self._text(self._shown({name: segments}), gzip=gzip)
            else:
                self._texts.pop(gzip, None)
                for segment in segments:
                    segment.drop(gzip=gzip)

    async def body(self, *, openmetrics: bool, gzip: bool = False, names: Iterable[str] = ()) -> Body:
        """Return the page with all families, or those with a sample called one of *names*."""
        wanted = frozenset(names)
        self._asked[gzip] = self._monotonic()
        for account in self._accounts():
            await run_in_slices(self._segments(account.name, account.view.exposed))
        # Nothing can happen between these two, so both parts of the page are of the same polls.
        first = self._small(openmetrics, wanted)
        shown = self._shown({})
        if wanted:
            text = await self._joined(shown, gzip=gzip, wanted=wanted)
        else:
            text = await self._text(shown, gzip=gzip)
        head, tail = first, _END if openmetrics else b""
        if gzip:
            start, end = self._compress(openmetrics, first), compress(tail)
            total = Sum().plus(start).plus(text.total).plus(end)
            head, tail = b"".join([HEADER, start.data]), b"".join([end.data, trailer(total)])
        return Body([head, *text.chunks, tail], len(head) + text.size + len(tail))

    def _small(self, openmetrics: bool, wanted: frozenset[str]) -> bytes:  # noqa: FBT001
        """Return everything but single operations."""
        if wanted:
            families = self._registry.restricted_registry(wanted).collect()
            return b"".join(_by_the_library(family, openmetrics) for family in families)
        return b"".join([part.text(openmetrics) for part in self._parts])

    def _compress(self, openmetrics: bool, text: bytes) -> Piece:  # noqa: FBT001
        known = self._compressed.get(openmetrics)
        if known is None or known[0] != text:
            self._compressed[openmetrics] = known = text, compress(text)
        return known[1]

    def _shown(self, following: dict[str, Segments]) -> list[Segments]:
        """Return the segments of every account of which single operations are shown, or will be with those *following*."""
        now = self._monotonic()
        return [
            following[account.name]
            if account.name in following
            else run_to_completion(self._segments(account.name, account.view.exposed))
            for account in self._accounts()
            if account.name in following or not account.health.stale(now)
        ]

    async def _text(self, shown: list[Segments], *, gzip: bool) -> _Text:
        """Return what is said of *shown*, written and joined when it is first needed."""
        texts = self._texts.get(gzip, [])
        for number, known in enumerate(texts):
            if len(known.shown) == len(shown) and all(map(is_, known.shown, shown)):
                # What came before is over.
                self._texts[gzip] = texts[number:]
                return known
        text = await self._joined(shown, gzip=gzip)
        self._texts[gzip] = [*self._texts.get(gzip, [])[-1:], text]
        return text

    async def _joined(self, shown: list[Segments], *, gzip: bool, wanted: frozenset[str] = frozenset()) -> _Text:
        for segments in shown:
            await run_in_slices(_write(segments, gzip=gzip))
        return await run_in_slices(_join(shown, gzip=gzip, wanted=wanted))

    def _segments(self, name: str, operations: Sequence[Operation]) -> Steps[Segments]:
        """Return *operations*, which never change, in segments; they are made when they are first needed."""
        made = self._made(name, operations)
        if made is not None:
            return made
        shelf = self._shelves.get(name, [])
        segments = yield from regroup(name, shelf[-1][1] if shelf else [], operations)
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


class _Part(Collector, Generic[T]):
    """Families that follow from *key*, in the library's writing; they are built again only when it changes."""

    def __init__(self, key: Callable[[], T], families: Callable[[T], Iterable[Metric]]) -> None:
        self._key = key
        self._families = families
        self._texts: dict[bool, tuple[T, bytes]] = {}
        self._written: dict[tuple[bool, str], tuple[Metric, bytes]] = {}

    def collect(self) -> Iterable[Metric]:
        return self._families(self._key())

    def text(self, openmetrics: bool) -> bytes:  # noqa: FBT001
        key = self._key()
        known = self._texts.get(openmetrics)
        if known is None or known[0] != key:
            families = [self._write(openmetrics, family) for family in self._families(key)]
            self._texts[openmetrics] = known = key, b"".join(families)
        return known[1]

    def _write(self, openmetrics: bool, family: Metric) -> bytes:  # noqa: FBT001
        # The library takes as long for a sample as we for comparing fifty.
        known = self._written.get((openmetrics, family.name))
        if known is None or known[0] != family:
            known = family, _by_the_library(family, openmetrics)
            self._written[openmetrics, family.name] = known
        return known[1]


class _Only(Collector):
    """One family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return [self._family]


def _about_us(reloads: Reloads, shard: Shard) -> Iterator[Metric]:
    yield build_info()
    yield shard_info(shard)
    yield from reload_families(reloads)


def _by_the_library(family: Metric, openmetrics: bool) -> bytes:  # noqa: FBT001
    write = generate_openmetrics if openmetrics else generate_latest
    return write(_Only(family)).removesuffix(_END)


def _write(segments: Segments, *, gzip: bool) -> Steps[None]:
    for segment in segments:
        if segment.write(gzip=gzip):
            yield


def _join(shown: list[Segments], *, gzip: bool, wanted: frozenset[str]) -> Steps[_Text]:
    """Return all samples of each family after its HELP and TYPE, account by account."""
    lists = [segment.pieces(gzip=gzip) for segments in shown for segment in segments]
    if wanted:
        # These chunks are sent once: the pieces stay parts of those that are kept.
        lists = [pieces.copy() for pieces in lists]
    chunks = Chunks()
    for index, (name, text) in enumerate(OPERATION_FAMILIES):
        if wanted and name not in wanted:
            continue
        head = f"# HELP {name} {text}\n# TYPE {name} gauge\n".encode()
        chunks.add([compress(head) if gzip else Piece(head, 0, len(head))], 0)
        yield
        for pieces in lists:
            if chunks.add(pieces, index):
                yield
    chunks.close()
    return _Text(shown, chunks.done, sum(map(len, chunks.done)), chunks.total)
