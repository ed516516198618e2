"""What the Comms API says about operations, read leniently: a page survives its worst entry.

Source of the shapes: https://www.twilio.com/docs/email/api/reference/email-operation-resource
"""

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any, NamedTuple

STATS = (
    "total",
    "recipients",
    "attempts",
    "scheduled",
    "queued",
    "sent",
    "delivered",
    "opened",
    "undelivered",
    "failed",
    "canceled",
)
STATUSES = ("SCHEDULED", "PROCESSING", "COMPLETED", "CANCELED")
TERMINAL = frozenset({"COMPLETED", "CANCELED"})

Stats = tuple[int | None, ...]

_FIELDS = frozenset({"id", "status", "stats", "createdAt", "updatedAt"})
_STAT_NAMES = frozenset(STATS)
_LONGEST_ID = 256
_LONGEST_STATUS = 64
# The API's own limit is 1,000; millions of entries would hold the loop for as many microseconds times five.
_MOST_ENTRIES = 20_000
# Prometheus keeps floats: beyond this, a count is no longer exact.
_LARGEST_COUNT = 2**53


class MalformedOperationError(ValueError):
    """An entry that cannot be an operation; its message names the field."""


class BadPayloadError(ValueError):
    """A body that is no page, or no JSON at all."""


class Operation(NamedTuple):
    """One send request as the API last described it; *stats* follow STATS, None where the answer had no such counter."""

    id: str
    status: str
    created: float
    updated: float
    stats: Stats

    @property
    def unfinished(self) -> bool:
        """Whether more is to come; a status we do not know counts as unfinished."""
        return self.status not in TERMINAL


class Page(NamedTuple):
    """One page of a listing; *unknown* counts, by field, what we read and do not know."""

    operations: list[Operation]
    next: str | None
    malformed: list[str]
    unknown: Counter[str]


def decode(body: bytes) -> Any:
    """Return the JSON value in *body*; BadPayloadError says why there is none."""
    try:
        return json.loads(body)
    except RecursionError:
        raise BadPayloadError("the JSON is nested too deeply") from None
    except ValueError:
        pass
    try:
        # A number of thousands of digits is refused by int(); it must cost its operation, not the page.
        return json.loads(body, parse_int=lambda digits: int(digits) if len(digits) < 20 else float(digits))
    except (ValueError, RecursionError) as error:
        raise BadPayloadError(f"not JSON: {error}") from None


def read_page(payload: Any) -> Page:
    """Return the operations of *payload*, whichever published envelope it came in."""
    if not isinstance(payload, dict):
        raise BadPayloadError(f"the body is a JSON {_kind(payload)}, not an object")
    page = Page([], _next_token(payload), [], Counter())
    items = _items(payload)
    if len(items) > _MOST_ENTRIES:
        raise BadPayloadError(f"the body lists {len(items)} operations; a page has at most 1000")
    for raw in items:
        try:
            page.operations.append(read_operation(raw, page.unknown))
        except MalformedOperationError as error:
            page.malformed.append(str(error))
    return page


def read_operation(raw: Any, unknown: Counter[str]) -> Operation:
    """Return *raw* as an operation, adding to *unknown* what it holds that we do not know."""
    if not isinstance(raw, dict):
        raise MalformedOperationError(f"an operation is a JSON {_kind(raw)}, not an object")
    operation_id = _word(raw, "id", _LONGEST_ID)
    status = _word(raw, "status", _LONGEST_STATUS).upper()
    counters = raw.get("stats")
    if not isinstance(counters, dict):
        raise MalformedOperationError(f"stats is a JSON {_kind(counters)}, not an object")
    operation = Operation(
        operation_id, status, _epoch(raw, "createdAt"), _epoch(raw, "updatedAt"), _read_stats(counters)
    )
    if status not in STATUSES:
        unknown["status"] += 1
    if not raw.keys() <= _FIELDS:
        unknown["operation"] += len(raw.keys() - _FIELDS)
    if not counters.keys() <= _STAT_NAMES:
        unknown["stats"] += len(counters.keys() - _STAT_NAMES)
    return operation


def _items(payload: dict[str, Any]) -> list[Any]:
    meta = payload.get("meta")
    key = meta.get("key") if isinstance(meta, dict) else None
    for name in ("operations", "data", key):
        if isinstance(name, str) and isinstance(payload.get(name), list):
            return payload[name]  # type: ignore[no-any-return]
    arrays = [value for value in payload.values() if isinstance(value, list)]
    if len(arrays) != 1:
        raise BadPayloadError("the body has no list of operations")
    return arrays[0]


def _next_token(payload: dict[str, Any]) -> str | None:
    for holder, name in (("pagination", "next"), ("pagination", "nextPageToken"), ("meta", "nextToken")):
        inner = payload.get(holder)
        if isinstance(inner, dict) and inner.get(name) is not None:
            return _token(inner[name])
    return _token(payload.get("nextPageToken"))


def _token(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadPayloadError(f"the page token is a JSON {_kind(value)}, not a string")
    return value.strip() or None


def _read_stats(counters: dict[str, Any]) -> Stats:
    values = tuple(map(counters.get, STATS))
    # The usual answer, eleven plain integers, is let through by three calls in C.
    if set(map(type, values)) != {int}:
        values = tuple(map(_count, STATS, values))
    if any(not 0 <= value <= _LARGEST_COUNT for value in values if value is not None):
        raise MalformedOperationError("stats holds a number that is no count")
    return values


def _count(name: str, value: Any) -> int | None:
    if value is None or type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise MalformedOperationError(f"stats.{name} is a JSON {_kind(value)}, not a count")


def _word(raw: dict[str, Any], name: str, longest: int) -> str:
    value = raw.get(name)
    if not isinstance(value, str):
        raise MalformedOperationError(f"{name} is a JSON {_kind(value)}, not a string")
    # JSON can spell half a surrogate pair, which no page of ours could be encoded with.
    if not 0 < len(value) <= longest or not (value.isascii() or value.isprintable()):
        raise MalformedOperationError(f"{name} is empty, too long or not text")
    return value


def _epoch(raw: dict[str, Any], name: str) -> float:
    value = raw.get(name)
    if not isinstance(value, str):
        raise MalformedOperationError(f"{name} is a JSON {_kind(value)}, not a string")
    try:
        moment = datetime.fromisoformat(value.upper())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except ValueError:
        raise MalformedOperationError(f"{name} is no RFC 3339 time") from None


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    kinds: dict[type, str] = {dict: "object", list: "array", str: "string"}
    return kinds.get(type(value), "number")
