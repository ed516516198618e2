"""Operations in the API's responses, parsed leniently: a malformed entry does not fail its page.

The formats: https://www.twilio.com/docs/email/api/reference/email-operation-resource
"""

import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from comms_exporter.base.times import EARLIEST, LATEST, is_representable
from comms_exporter.model.operations import MAX_COUNT, STATS, STATUSES, Operation, Stats, pack

_FIELDS = frozenset({"id", "status", "stats", "createdAt", "updatedAt"})
_STAT_NAMES = frozenset(STATS)
# Three times the documented length. Ids are kept in memory, at up to four bytes a character.
MAX_ID_LENGTH = 128
_MAX_STATUS_LENGTH = 64
# The API's own limit is 1,000. An entry takes 5 microseconds, so millions would block the event loop for seconds.
MAX_ENTRIES = 20_000
# A page of 1,000 operations has 17,000. A value takes up to 120 bytes of memory, and 0.3 microseconds to decode.
MAX_JSON_VALUES = 500_000
# The token becomes part of a URL, and servers commonly refuse URLs of 8,000 characters.
_MAX_TOKEN_LENGTH = 4096


class MalformedEntryError(ValueError):
    """An entry is not an operation or an email; the message names the field."""


class BadPayloadError(ValueError):
    """A body is not a page of the listing."""


class TooManyValuesError(BadPayloadError):
    """A body has more entries or values than are read."""


class Page(NamedTuple):
    """One page of a listing.

    *malformed* has a message for each skipped entry; *unknown* counts unknown statuses, fields and counters.
    """

    operations: list[Operation]
    next: str | None
    malformed: list[str]
    unknown: Counter[str]


def read_page(body: bytes) -> Page:
    """Return the page in *body*, in any of the formats that Twilio has published."""
    try:
        documented = _DOCUMENTED_PAGE.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _read_page_leniently(body)
    operations = list(map(_from_documented, documented.operations))
    if not all(
        each.id.isprintable() and EARLIEST <= each.created <= LATEST >= each.updated >= EARLIEST for each in operations
    ):
        return _read_page_leniently(body)
    _check_length(len(operations))
    return Page(operations, documented.token(), [], Counter())


def read_single(body: bytes) -> Page:
    """Return the operation in *body* as a page of one."""
    page = Page([], None, [], Counter())
    _read_into(page, decode(body))
    return page


def decode(body: bytes, *, constant: Callable[[str], Any] = float) -> Any:
    """Return the JSON value in *body*; raise a BadPayloadError if it is invalid or has too many values.

    *constant* reads NaN and Infinity, which are not JSON, but which some servers write.
    """
    check_values(body)
    try:
        return json.loads(body, parse_constant=constant)
    except RecursionError:
        raise BadPayloadError("the JSON is nested too deeply") from None
    except ValueError:
        pass
    try:
        # int() refuses thousands of digits; such a number must fail only its operation, not the page.
        return json.loads(
            body, parse_int=lambda digits: int(digits) if len(digits) < 20 else float(digits), parse_constant=constant
        )
    except (ValueError, RecursionError) as error:
        raise BadPayloadError(f"invalid JSON: {error}") from None


def check_values(body: bytes) -> None:
    """Raise a TooManyValuesError if the JSON in *body* has too many values."""
    # Count before decoding: every value but one comes with a comma, a bracket or a brace. The depth needs no check, because
    # the decoder stops at a thousand levels.
    values = body.count(b",") + body.count(b"[") + body.count(b"{")
    if values > MAX_JSON_VALUES:
        raise TooManyValuesError(f"the JSON has {values} values, more than the limit of {MAX_JSON_VALUES}")


# The fast path: msgspec decodes and checks the documented format in one step, at a fifth of the cost of checking each value.
# Everything else is left to the lenient reader below. Where both accept a page, their results are equal.

_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
_DocumentedStats = msgspec.defstruct(
    "_DocumentedStats", [(name, _Count | None, None) for name in STATS], gc=False, forbid_unknown_fields=True
)
DocumentedTime = Annotated[datetime, msgspec.Meta(tz=True)]


class _DocumentedOperation(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]
    status: Literal["SCHEDULED", "PROCESSING", "COMPLETED", "CANCELED"]
    stats: _DocumentedStats  # type: ignore[valid-type]
    createdAt: DocumentedTime  # noqa: N815 - Twilio's name
    updatedAt: DocumentedTime  # noqa: N815


class _DocumentedPagination(msgspec.Struct, frozen=True, gc=False):
    next: str | None = None
    nextPageToken: str | None = None  # noqa: N815


class _DocumentedMeta(msgspec.Struct, frozen=True, gc=False):
    nextToken: str | None = None  # noqa: N815


class DocumentedEnvelope(msgspec.Struct, kw_only=True):
    """What every page has besides its entries."""

    pagination: _DocumentedPagination = _DocumentedPagination()
    meta: _DocumentedMeta = _DocumentedMeta()
    nextPageToken: str | None = None  # noqa: N815

    def token(self) -> str | None:
        """Return the token of the next page."""
        tokens = (self.pagination.next, self.pagination.nextPageToken, self.meta.nextToken, self.nextPageToken)
        return _token(next((each for each in tokens if each is not None), None))


# Only typed fields: msgspec skips the unknown ones, so their values need not be counted before decoding.
class _DocumentedPage(DocumentedEnvelope, kw_only=True):
    operations: list[_DocumentedOperation]


_DOCUMENTED_PAGE = msgspec.json.Decoder(_DocumentedPage)


def _from_documented(raw: _DocumentedOperation) -> Operation:
    return Operation(
        raw.id,
        raw.status,
        raw.createdAt.timestamp(),
        raw.updatedAt.timestamp(),
        pack(msgspec.structs.astuple(raw.stats)),
    )


def _read_page_leniently(body: bytes) -> Page:
    payload = decode(body)
    if not isinstance(payload, dict):
        raise BadPayloadError(f"the body is a JSON {_json_type(payload)}, not an object")
    page = Page([], next_token(payload), [], Counter())
    entries = _entries(payload)
    _check_length(len(entries))
    for raw in entries:
        _read_into(page, raw)
    return page


def _check_length(entries: int) -> None:
    if entries > MAX_ENTRIES:
        raise TooManyValuesError(f"the body lists {entries} operations; a page has at most 1000")


def _read_into(page: Page, raw: Any) -> None:
    try:
        page.operations.append(read_operation(raw, page.unknown))
    except MalformedEntryError as error:
        page.malformed.append(str(error))


def read_operation(raw: Any, unknown: Counter[str]) -> Operation:
    """Return *raw* as an operation, and count its unknown status, fields and counters in *unknown*."""
    if not isinstance(raw, dict):
        raise MalformedEntryError(f"an operation is a JSON {_json_type(raw)}, not an object")
    operation_id = read_id(raw.get("id"))
    status = read_status(raw.get("status"))
    counters = raw.get("stats")
    if not isinstance(counters, dict):
        raise MalformedEntryError(f"stats is a JSON {_json_type(counters)}, not an object")
    operation = Operation(
        operation_id, status, _timestamp(raw, "createdAt"), _timestamp(raw, "updatedAt"), pack(_read_stats(counters))
    )
    if status not in STATUSES:
        unknown["status"] += 1
    if not raw.keys() <= _FIELDS:
        unknown["operation"] += len(raw.keys() - _FIELDS)
    if not counters.keys() <= _STAT_NAMES:
        unknown["stats"] += len(counters.keys() - _STAT_NAMES)
    return operation


def _entries(payload: dict[str, Any]) -> list[Any]:
    meta = payload.get("meta")
    key = meta.get("key") if isinstance(meta, dict) else None
    for name in ("operations", "data", key):
        if isinstance(name, str) and isinstance(payload.get(name), list):
            return payload[name]  # type: ignore[no-any-return]
    arrays = [value for value in payload.values() if isinstance(value, list)]
    if len(arrays) != 1:
        raise BadPayloadError("the body has no list of operations")
    return arrays[0]


def next_token(payload: dict[str, Any]) -> str | None:
    """Return the token of the next page, from where any of the published formats has it."""
    for holder, name in (("pagination", "next"), ("pagination", "nextPageToken"), ("meta", "nextToken")):
        inner = payload.get(holder)
        if isinstance(inner, dict) and inner.get(name) is not None:
            return _token(inner[name])
    return _token(payload.get("nextPageToken"))


def _token(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadPayloadError(f"the page token is a JSON {_json_type(value)}, not a string")
    if len(value) > _MAX_TOKEN_LENGTH:
        raise BadPayloadError(f"the page token has {len(value)} characters, more than the limit of {_MAX_TOKEN_LENGTH}")
    return value.strip() or None


def _read_stats(counters: dict[str, Any]) -> Stats:
    values = tuple(map(counters.get, STATS))
    # Eleven integers, the normal case, are recognized by three calls in C.
    if set(map(type, values)) != {int}:
        values = tuple(map(_count, STATS, values))
    if any(not 0 <= value <= MAX_COUNT for value in values if value is not None):
        raise MalformedEntryError("stats contains a number that is not a count")
    return values


def _count(name: str, value: Any) -> int | None:
    if value is None or type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise MalformedEntryError(f"stats.{name} is a JSON {_json_type(value)}, not a count")


def read_id(value: Any) -> str:
    """Return *value* if it can be an id."""
    return _text(value, "id", MAX_ID_LENGTH)


def read_status(value: Any) -> str:
    """Return *value* in upper case if it can be a status."""
    return _text(value, "status", _MAX_STATUS_LENGTH).upper()


def _text(value: Any, name: str, max_length: int) -> str:
    if not isinstance(value, str):
        raise MalformedEntryError(f"{name} is a JSON {_json_type(value)}, not a string")
    # isprintable() also excludes half a surrogate pair, which JSON can contain and UTF-8 cannot encode.
    if not 0 < len(value) <= max_length or not value.isprintable():
        raise MalformedEntryError(f"{name} is empty, too long or contains control characters")
    return value


def _timestamp(raw: dict[str, Any], name: str) -> float:
    value = raw.get(name)
    if not isinstance(value, str):
        raise MalformedEntryError(f"{name} is a JSON {_json_type(value)}, not a string")
    try:
        moment = parse_time(value).timestamp()
    except (ValueError, OverflowError):
        raise MalformedEntryError(f"{name} is not an RFC 3339 time") from None
    if not is_representable(moment):
        raise MalformedEntryError(f"{name} is outside the years 1 to 9999")
    return moment


def parse_time(text: str) -> datetime:
    """Return the RFC 3339 time in *text*; raise a ValueError if it is none."""
    try:
        # First, because it rounds nanoseconds; fromisoformat() truncates them.
        moment = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        moment = datetime.fromisoformat(text.upper())
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    kinds: dict[type, str] = {dict: "object", list: "array", str: "string"}
    return kinds.get(type(value), "number")
