"""Convert records to rows and back; a row with any value that this exporter would not write is unreadable.

Nothing here knows a database: the values are numbers, text and bytes.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from comms_exporter.base.times import EARLIEST, LATEST
from comms_exporter.model.histogram import Histogram
from comms_exporter.model.operations import MAX_COUNT, STATS, Operation, pack, unpack
from comms_exporter.model.readings import Reading
from comms_exporter.model.records import TOTALS, AccountRecord, Extras, SavedAccount, Tracked
from comms_exporter.store.errors import UnreadableError

T = TypeVar("T")
Row = Sequence[Any]

_NO_EXTRAS = Extras()
_PACKED_BYTES = len(pack((0,) * len(STATS)))

# The largest counts of a trillion operations.
_MAX_TOTAL = MAX_COUNT * 2**40
# Longer than any text that the API client accepts, even with every character masked.
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=2**16)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
# The stages of an operation are sums of its counters.
_Mark = Annotated[int, msgspec.Meta(ge=0, le=len(STATS) * MAX_COUNT)]
# The exporter computes times from the API's, and 0.1.0 saved operations up to a day beyond what datetime supports.
_SLACK = 30 * 86400.0
_Time = Annotated[float, msgspec.Meta(ge=EARLIEST - _SLACK, le=LATEST + _SLACK)]


class _AccountRow(msgspec.Struct, array_like=True):
    first_look: _Time
    horizon: _Time
    last_full_listing: _Time
    totals: str
    durations: str


class _Durations(msgspec.Struct, forbid_unknown_fields=True):
    bounds: list[float]
    counts: list[int]
    sum: Annotated[float, msgspec.Meta(ge=0, le=float(_MAX_TOTAL))]


class _OperationRow(msgspec.Struct, array_like=True, gc=False):
    id: _Text
    status: _Text
    created: _Time
    updated: _Time
    reading: Reading
    marks: str
    gone: Literal[0, 1]
    stats: Any
    began: _Time | None


def account_row(account: AccountRecord) -> Row:
    """Return *account* as first_look, horizon, last_full_listing, totals and durations."""
    durations = account.durations
    return (
        account.first_look,
        account.horizon,
        account.last_full_listing,
        json.dumps(dict(zip(TOTALS, account.totals, strict=True))),
        json.dumps({"bounds": durations.bounds, "counts": durations.counts, "sum": durations.sum}),
    )


def operation_row(account: str, tracked: Tracked) -> Row:
    """Return *tracked* as account, id, status, created, updated, stats, reading, marks, gone and began."""
    operation = tracked.operation
    extras = tracked.extras or _NO_EXTRAS
    return (
        account,
        operation.id,
        operation.status,
        operation.created,
        operation.updated,
        operation.packed,
        tracked.reading.value,
        json.dumps(extras.higher_marks) if extras.higher_marks else "",
        tracked.gone,
        extras.began,
    )


def read_account(row: Row, operations: Iterable[Row]) -> SavedAccount:
    """Return the account of a *row* as account_row() writes it, with *operations* as read_operation() takes them."""
    try:
        account = msgspec.convert(row, _AccountRow)
        return SavedAccount(
            first_look=account.first_look,
            horizon=account.horizon,
            last_full_listing=account.last_full_listing,
            totals=_read_totals(account.totals),
            durations=_read_durations(account.durations),
            tracked={each.operation.id: each for each in map(read_operation, operations) if each is not None},
        )
    except msgspec.MsgspecError as error:
        raise UnreadableError(str(error)) from None


def read_operation(row: Row) -> Tracked | None:
    """Return the operation in a *row* of id, status, created, updated, reading, marks, gone, stats and began.

    None stands for one that 0.1.0 saved and that the API client would reject by now: its time is out of range.
    """
    values = msgspec.convert(row, _OperationRow)
    if not (_is_text(values.id) and _is_text(values.status)):
        raise UnreadableError("the id or status of an operation is not printable")
    if not EARLIEST <= values.created <= LATEST >= values.updated >= EARLIEST:
        return None
    operation = Operation(
        values.id, sys.intern(values.status), values.created, values.updated, _read_stats(values.stats)
    )
    if values.marks:
        marks = _read_marks(values.marks)
        return Tracked.with_extras(operation, values.reading, marks, values.began, gone=bool(values.gone))
    if values.began is not None:
        return Tracked(operation, values.reading, Extras(None, values.began), bool(values.gone))
    return Tracked(operation, values.reading, None, bool(values.gone))


def read_names(rows: Iterable[Row]) -> list[str]:
    """Return the account names in *rows* of one column."""
    try:
        return [name for (name,) in msgspec.convert(rows, list[tuple[_Text]])]
    except msgspec.ValidationError as error:
        raise UnreadableError(str(error)) from None


def read_last_save(rows: Sequence[Row]) -> tuple[bytes, int]:
    """Return the only one of *rows*: the id of the file and the number of its saves."""
    try:
        ((file_id, saves),) = msgspec.convert(rows, list[tuple[bytes, _Count]])
    except (msgspec.ValidationError, ValueError):
        raise UnreadableError("the table that identifies the file is damaged") from None
    return file_id, saves


def _read_totals(text: str) -> tuple[int, ...]:
    totals = msgspec.json.decode(text, type=dict[str, int])
    if totals.keys() != set(TOTALS):
        raise UnreadableError("totals are missing or unknown")
    if not all(0 <= n <= _MAX_TOTAL for n in totals.values()):
        raise UnreadableError("a total is not a count")
    return tuple(totals[name] for name in TOTALS)


def _read_durations(text: str) -> Histogram:
    durations = msgspec.json.decode(text, type=_Durations)
    bounds, counts = durations.bounds, durations.counts
    if len(counts) != len(bounds) + 1 or bounds != sorted(set(bounds)):
        raise UnreadableError("durations do not match their bounds")
    if not all(0 <= n <= _MAX_TOTAL for n in counts):
        raise UnreadableError("durations contain a number that is not a count")
    return Histogram(tuple(bounds), counts, durations.sum)


def _read_stats(stats: object) -> bytes:
    if isinstance(stats, str):
        return pack(tuple(_of_length(STATS, msgspec.json.decode(stats, type=list[_Count | None]))))
    if not isinstance(stats, bytes) or len(stats) != _PACKED_BYTES:
        raise UnreadableError("the stats of an operation have the wrong size")
    counts = unpack(stats)
    if not -1 <= min(counts) <= max(counts) <= MAX_COUNT:
        raise UnreadableError("the stats of an operation contain a number that is not a count")
    return stats


def _read_marks(text: str) -> tuple[int, ...]:
    return tuple(_of_length(TOTALS, msgspec.json.decode(text, type=list[_Mark])))


def _of_length(names: Sequence[str], values: list[T]) -> list[T]:
    if len(values) != len(names):
        raise UnreadableError(f"{len(values)} numbers instead of {len(names)}")
    return values


def _is_text(value: str) -> bool:
    """Whether *value* contains only characters that the API client accepts."""
    return value.isascii() or value.isprintable()
