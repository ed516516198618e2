"""Writes the page that Prometheus reads, in the format that it asks for.

prometheus_client's own negotiation ignores preferences and can be made to fail by a header, so this is our own:
https://prometheus.io/docs/instrumenting/content_negotiation/
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CollectorRegistry, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from comms_exporter.gzipped import Piece, compress, join
from comms_exporter.health import Reloads
from comms_exporter.metrics import Account, Shard, build_info, families, operation_text, reload_families, shard_info
from comms_exporter.models import Operation

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPINGS = frozenset({"allow-utf-8", "underscores", "dots", "values"})
_END = b"# EOF\n"


class Format(NamedTuple):
    """How a page is to be written, and what its Content-Type says."""

    openmetrics: bool
    content_type: str


def negotiate(accept: str) -> Format:
    """Return the format that the header *accept* prefers; text 0.0.4, which everybody reads, where it names none of ours.

    Our names need no escaping, so whichever scheme is asked for is met; the answer only has to repeat it.
    """
    best, best_quality = Format(False, _TEXT), 0.0
    for media_range in accept.split(","):
        media_type, parameters = _parse(media_range)
        quality = _quality(parameters)
        offered = _offer(media_type, parameters)
        if offered is not None and quality > best_quality:
            best, best_quality = offered, quality
    return best


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether the header *accept_encoding* allows gzip; what names it counts before what names everything."""
    qualities = {coding: _quality(parameters) for coding, parameters in map(_parse, accept_encoding.split(","))}
    return qualities.get("gzip", qualities.get("*", 0.0)) > 0


class Exposition:
    """The page of all *accounts*; what is said of single operations is written once per poll."""

    def __init__(
        self,
        accounts: Callable[[], Sequence[Account]],
        *,
        reloads: Reloads,
        clock: Callable[[], float],
        shard: Shard | None = None,
    ) -> None:
        self._accounts = accounts
        self._clock = clock
        # Only a registry that knows its names can be asked for some of them.
        self._registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._registry.register(_Own(accounts, reloads, shard or Shard(), clock))
        self._shown: list[tuple[str, Sequence[Operation]]] = []
        self._blocks = [
            (name, f"# HELP {name} {text}\n# TYPE {name} gauge\n".encode()) for name, text, _ in operation_text(())
        ]
        self._compressed: tuple[list[tuple[str, bytes]], Piece] | None = None

    def page(self, *, openmetrics: bool, names: Iterable[str] = ()) -> bytes:
        """Return all families, or those with a sample called one of *names*."""
        wanted = frozenset(names)
        operations = [block for name, block in self._operation_blocks() if not wanted or name in wanted]
        return b"".join([self._small(openmetrics, wanted), *operations, _END if openmetrics else b""])

    async def gzipped(self, *, openmetrics: bool, names: Iterable[str] = ()) -> bytes:
        """Return the same compressed; what has not changed since the last time has not to be compressed again."""
        wanted = frozenset(names)
        if wanted:
            return await asyncio.to_thread(
                lambda page: join([compress(page)]), self.page(openmetrics=openmetrics, names=wanted)
            )
        blocks = self._operation_blocks()
        if self._compressed is None or self._compressed[0] is not blocks:
            text = b"".join(block for _, block in blocks)
            self._compressed = blocks, await asyncio.to_thread(compress, text)
        end = compress(_END if openmetrics else b"")
        return join([compress(self._small(openmetrics, wanted)), self._compressed[1], end])

    def _small(self, openmetrics: bool, wanted: frozenset[str]) -> bytes:  # noqa: FBT001
        registry = self._registry.restricted_registry(wanted) if wanted else self._registry
        return (generate_openmetrics if openmetrics else generate_latest)(registry).removesuffix(_END)

    def _operation_blocks(self) -> list[tuple[str, bytes]]:
        """Return the families of single operations with their text, which is the same in both formats."""
        now = self._clock()
        shown: list[tuple[str, Sequence[Operation]]] = [
            (each.name, () if each.health.stale(now) else each.view.exposed) for each in self._accounts()
        ]
        # A poll replaces the list it exposes, so the same list is the same operations.
        if [(name, id(operations)) for name, operations in shown] != [(name, id(old)) for name, old in self._shown]:
            self._blocks = [
                (name, "".join([f"# HELP {name} {text}\n# TYPE {name} gauge\n", *lines]).encode())
                for name, text, lines in operation_text(shown)
            ]
            self._shown = shown
        return self._blocks


class _Own(Collector):
    """What prometheus_client writes for us."""

    def __init__(
        self, accounts: Callable[[], Sequence[Account]], reloads: Reloads, shard: Shard, clock: Callable[[], float]
    ) -> None:
        self._accounts = accounts
        self._reloads = reloads
        self._shard = shard
        self._clock = clock

    def collect(self) -> Iterable[Metric]:
        yield build_info()
        yield shard_info(self._shard)
        yield from reload_families(self._reloads)
        yield from families(self._accounts(), now=self._clock())


def _offer(media_type: str, parameters: dict[str, str]) -> Format | None:
    version = parameters.get("version")
    escaping = parameters.get("escaping")
    suffix = f"; escaping={escaping}" if escaping in _ESCAPINGS else ""
    match media_type, version:
        case "application/openmetrics-text", None | "1.0.0":
            return Format(True, f"application/openmetrics-text; version=1.0.0; charset=utf-8{suffix}")
        case "text/plain", "1.0.0":
            return Format(False, f"text/plain; version=1.0.0; charset=utf-8{suffix}")
        # OpenMetrics 0.0.1 was a draft; who reads it reads text, too.
        case ("application/openmetrics-text", "0.0.1") | ("text/plain", None | "0.0.4") | ("text/*" | "*/*", _):
            return Format(False, _TEXT)
    return None


def _parse(element: str) -> tuple[str, dict[str, str]]:
    """Return the lower-case value of a header's *element*, and its parameters."""
    value, *rest = element.split(";")
    pairs = (each.partition("=") for each in rest)
    return value.strip().lower(), {key.strip().lower(): text.strip().strip('"').lower() for key, _, text in pairs}


def _quality(parameters: dict[str, str]) -> float:
    try:
        quality = float(parameters.get("q", "1"))
    except ValueError:
        return 0.0
    return quality if 0 <= quality <= 1 else 0.0
