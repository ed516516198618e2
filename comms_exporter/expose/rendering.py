"""Families as text, which prometheus_client renders; the families that are not of accounts are rendered again only when they have changed."""

from collections.abc import Callable, Container, Iterable

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

END = b"# EOF\n"


def render(family: Metric, *, openmetrics: bool) -> bytes:
    """Return the text of *family* in either format."""
    generate = generate_openmetrics if openmetrics else generate_latest
    return generate(_Single(family)).removesuffix(END)


def restricted(text: bytes, names: Container[str]) -> bytes:
    """Return the samples in *text* that are called one of *names*, with HELP and TYPE of their families."""
    kept: list[bytes] = []
    head: list[bytes] = []
    for line in text.split(b"\n"):
        if line.startswith(b"# HELP "):
            head = [line]
        elif line.startswith(b"#"):
            head.append(line)
        elif line and line.partition(b" ")[0].partition(b"{")[0].decode() in names:
            kept += [*head, line]
            head = []
    return b"\n".join([*kept, b""]) if kept else b""


class CachedFamilies:
    """The text of *families*, which do not change as long as *version* returns the same."""

    def __init__(self, families: Callable[[], Iterable[Metric]], *, version: Callable[[], object]) -> None:
        self._families = families
        self._version = version
        self._pages: dict[bool, tuple[object, bytes]] = {}
        self._texts: dict[tuple[bool, str], tuple[Metric, bytes]] = {}

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


class _Single(Collector):
    """One family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return [self._family]
