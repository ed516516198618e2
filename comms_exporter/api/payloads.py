"""What the Comms API says about operations, read leniently: a page survives its worst entry.

Source of the shapes: https://www.twilio.com/docs/email/api/reference/email-operation-resource
"""

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from comms_exporter.base.times import EARLIEST, LATEST, is_representable
from comms_exporter.model.operations import MAX_COUNT, STATS, STATUSES, Operation, Stats, pack

_FIELDS = frozenset({"id", "status", "stats", "createdAt", "updatedAt"})
_STAT_NAMES = frozenset(STATS)
# Three times what the API documents: an id is kept several times, and in four bytes a character if it has one that needs them.
_LONGEST_ID = 128
_LONGEST_STATUS = 64
# The API's own limit is 1,000; millions of entries would hold the loop for as many microseconds times five.
_MOST_ENTRIES = 20_000
# A page of 1,000 operations has 17,000. A value takes up to 120 bytes of memory and 0.3 microseconds of the loop.
MOST_VALUES = 500_000
# It becomes part of an address, and no server reads one of 8,000 characters.
_LONGEST_TOKEN = 4096


class MalformedOperationError(ValueError):
    """An entry that cannot be an operation; its message names the field."""


class BadPayloadError(ValueError):
    """A body that is no page, or no JSON at all."""


class Page(NamedTuple):
    """One page of a listing; *unknown* counts, by field, what we read and do not know."""

    operations: list[Operation]
    next: str | None
    malformed: list[str]
    unknown: Counter[str]


def read_page(body: bytes) -> Page:
    """Return the operations in *body*, whichever published envelope they came in."""
    try:
        usual = _USUAL_PAGE.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _read_unusual_page(body)
    operations = list(map(_from_usual, usual.operations))
    if not all(
        each.id.isprintable() and EARLIEST <= each.created <= LATEST >= each.updated >= EARLIEST for each in operations
    ):
        return _read_unusual_page(body)
    _check_length(len(operations))
    pagination, meta = usual.pagination, usual.meta
    tokens = (pagination.next, pagination.nextPageToken, meta.nextToken, usual.nextPageToken)
    return Page(operations, _token(next((each for each in tokens if each is not None), None)), [], Counter())


def read_single(body: bytes) -> Page:
    """Return the operation in *body* as a page of one."""
    page = Page([], None, [], Counter())
    _read_into(page, decode(body))
    return page


def decode(body: bytes) -> Any:
    """Return the JSON value in *body*; BadPayloadError says why there is none, or that it would cost too much."""
    # Before it is decoded: there is a comma, a bracket or a brace for every value but one. Depth needs no look ahead,
    # since the decoder itself stops at the first thousand levels.
    values = body.count(b",") + body.count(b"[") + body.count(b"{")
    if values > MOST_VALUES:
        raise BadPayloadError(f"the JSON has {values} values; at most {MOST_VALUES} are read")
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


# What every answer looks like that Twilio documents, read and checked in one go: a fifth of the cost of looking at each
# value. Whatever is different in any way is left to the patient reader below, whose answer is the same where both have one.

_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
_UsualStats = msgspec.defstruct(
    "_UsualStats", [(name, _Count | None, None) for name in STATS], gc=False, forbid_unknown_fields=True
)
_Time = Annotated[datetime, msgspec.Meta(tz=True)]


class _UsualOperation(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=_LONGEST_ID)]
    status: Literal["SCHEDULED", "PROCESSING", "COMPLETED", "CANCELED"]
    stats: _UsualStats  # type: ignore[valid-type]
    createdAt: _Time  # noqa: N815 - Twilio's name
    updatedAt: _Time  # noqa: N815


class _UsualPagination(msgspec.Struct, frozen=True, gc=False):
    next: str | None = None
    nextPageToken: str | None = None  # noqa: N815


class _UsualMeta(msgspec.Struct, frozen=True, gc=False):
    nextToken: str | None = None  # noqa: N815


# No field is of any type: what is read here is not counted first, so nothing is kept of what is not expected.
class _UsualPage(msgspec.Struct):
    operations: list[_UsualOperation]
    pagination: _UsualPagination = _UsualPagination()
    meta: _UsualMeta = _UsualMeta()
    nextPageToken: str | None = None  # noqa: N815


_USUAL_PAGE = msgspec.json.Decoder(_UsualPage)


def _from_usual(usual: _UsualOperation) -> Operation:
    return Operation(
        usual.id,
        usual.status,
        usual.createdAt.timestamp(),
        usual.updatedAt.timestamp(),
        pack(msgspec.structs.astuple(usual.stats)),
    )


def _read_unusual_page(body: bytes) -> Page:
    payload = decode(body)
    if not isinstance(payload, dict):
        raise BadPayloadError(f"the body is a JSON {_kind(payload)}, not an object")
    page = Page([], _next_token(payload), [], Counter())
    items = _items(payload)
    _check_length(len(items))
    for raw in items:
        _read_into(page, raw)
    return page


def _check_length(entries: int) -> None:
    if entries > _MOST_ENTRIES:
        raise BadPayloadError(f"the body lists {entries} operations; a page has at most 1000")


def _read_into(page: Page, raw: Any) -> None:
    try:
        page.operations.append(read_operation(raw, page.unknown))
    except MalformedOperationError as error:
        page.malformed.append(str(error))


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
        operation_id, status, _epoch(raw, "createdAt"), _epoch(raw, "updatedAt"), pack(_read_stats(counters))
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
    if len(value) > _LONGEST_TOKEN:
        raise BadPayloadError(f"the page token has {len(value)} characters; at most {_LONGEST_TOKEN} are read")
    return value.strip() or None


def _read_stats(counters: dict[str, Any]) -> Stats:
    values = tuple(map(counters.get, STATS))
    # The usual answer, eleven plain integers, is let through by three calls in C.
    if set(map(type, values)) != {int}:
        values = tuple(map(_count, STATS, values))
    if any(not 0 <= value <= MAX_COUNT for value in values if value is not None):
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
    # No control characters, and no half of a surrogate pair, which JSON can spell and no page of ours could be encoded with.
    if not 0 < len(value) <= longest or not value.isprintable():
        raise MalformedOperationError(f"{name} is empty, too long or not text")
    return value


def _epoch(raw: dict[str, Any], name: str) -> float:
    value = raw.get(name)
    if not isinstance(value, str):
        raise MalformedOperationError(f"{name} is a JSON {_kind(value)}, not a string")
    try:
        moment = _moment(value).timestamp()
    except (ValueError, OverflowError):
        raise MalformedOperationError(f"{name} is no RFC 3339 time") from None
    if not is_representable(moment):
        raise MalformedOperationError(f"{name} is outside the years 1 to 9999")
    return moment


def _moment(text: str) -> datetime:
    try:
        # First, because it rounds nanoseconds, which fromisoformat() cuts off.
        moment = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        moment = datetime.fromisoformat(text.upper())
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    kinds: dict[type, str] = {dict: "object", list: "array", str: "string"}
    return kinds.get(type(value), "number")
