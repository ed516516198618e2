"""Content negotiation: picks the format and the encoding of the page from the headers of a request.

prometheus_client's own negotiation ignores quality values and raises on some headers, so this is our own:
https://prometheus.io/docs/instrumenting/content_negotiation/
"""

from typing import NamedTuple

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPINGS = frozenset({"allow-utf-8", "underscores", "dots", "values"})


class Format(NamedTuple):
    """The format of a page, and its Content-Type."""

    openmetrics: bool
    content_type: str


def negotiate(accept: str) -> Format:
    """Return the format that the header *accept* prefers, or text 0.0.4, which every client reads, if it names none of ours.

    Our metric names need no escaping, so every escaping scheme gives the same page. The response only has to repeat the scheme.
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
    """Whether the header *accept_encoding* allows gzip; an entry for gzip takes precedence over "*"."""
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
        # OpenMetrics 0.0.1 was a draft. Clients that accept it read text, too.
        case ("application/openmetrics-text", "0.0.1") | ("text/plain", None | "0.0.4") | ("text/*" | "*/*", _):
            return Format(False, _TEXT)
    return None


def _parse(element: str) -> tuple[str, dict[str, str]]:
    """Return the value of a header's *element* and its parameters, in lower case."""
    value, *rest = element.split(";")
    pairs = (each.partition("=") for each in rest)
    return value.strip().lower(), {key.strip().lower(): text.strip().strip('"').lower() for key, _, text in pairs}


def _quality(parameters: dict[str, str]) -> float:
    try:
        quality = float(parameters.get("q", "1"))
    except ValueError:
        return 0.0
    return quality if 0 <= quality <= 1 else 0.0
