"""Finds out in which format, and how encoded, somebody wants a page.

prometheus_client's own negotiation ignores preferences and can be made to fail by a header, so this is our own:
https://prometheus.io/docs/instrumenting/content_negotiation/
"""

from typing import NamedTuple

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPINGS = frozenset({"allow-utf-8", "underscores", "dots", "values"})


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
