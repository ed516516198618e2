"""Convert records to rows and back; a row with any value that this exporter would not write is unreadable.

Nothing here knows a database: the values are numbers, text and bytes.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from comms_exporter.base.times import EARLIEST, LATEST
from comms_exporter.model.email_records import (
    ALL_STAGES,
    CODE,
    PROVIDER,
    SENDER_DOMAIN,
    STAGES,
    TAG_PREFIX,
    Counts,
    EmailTotals,
    FirstLook,
    OperationErrors,
    SavedEmails,
    Series,
    unpack_email,
)
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


# Of email_key().
_KEY_BYTES = 16
# Minutes since the epoch.
_MAX_MINUTE = int((LATEST + _SLACK) // 60)


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


class _FirstLook(msgspec.Struct, forbid_unknown_fields=True):
    at: _Time
    complete: bool


class _EmailTotals(msgspec.Struct, forbid_unknown_fields=True):
    losses: _FirstLook | None
    deliveries: _FirstLook | None
    inbound: Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
    inbound_seen: _Time | None
    errors_since: _Time | None
    delays: _Durations


class _CountsRow(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    label: _Text
    value: _Text
    counts: str


class _EmailRow(msgspec.Struct, array_like=True, gc=False):
    id: bytes
    known: Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class _ErrorsRow(msgspec.Struct, array_like=True):
    operation: _Text
    failed: _Mark
    codes: str


def account_row(account: AccountRecord) -> Row:
    """Return *account* as first_look, horizon, last_full_listing, totals and durations."""
    return (
        account.first_look,
        account.horizon,
        account.last_full_listing,
        json.dumps(dict(zip(TOTALS, account.totals, strict=True))),
        json.dumps(_durations(account.durations)),
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


def email_totals_row(totals: EmailTotals) -> Row:
    """Return *totals* as one JSON object."""
    looks = (
        None if look is None else {"at": look.at, "complete": look.complete}
        for look in (totals.losses, totals.deliveries)
    )
    fields = zip(("losses", "deliveries"), looks, strict=True)
    return (
        json.dumps(
            {
                **dict(fields),
                "inbound": totals.inbound,
                "inbound_seen": totals.inbound_seen,
                "errors_since": totals.errors_since,
                "delays": _durations(totals.delays),
            }
        ),
    )


def email_counts_row(account: str, series: Series, counts: Counts) -> Row:
    """Return *counts* as account, label, value and counts."""
    return account, *series, json.dumps(counts)


def email_id(key: int) -> bytes:
    """Return the *key* of an email as a column holds it."""
    return key.to_bytes(_KEY_BYTES)


def email_errors_row(account: str, operation_id: str, errors: OperationErrors) -> Row:
    """Return *errors* as account, operation, failed and codes."""
    return account, operation_id, errors.failed, json.dumps(errors.codes)


def read_emails(totals: Row, counts: Iterable[Row], emails: Iterable[Row], errors: Iterable[Row]) -> SavedEmails:
    """Return the emails of an account from its rows, without the column of the account."""
    try:
        return SavedEmails(
            totals=_read_email_totals(*msgspec.convert(totals, tuple[str])),
            counts=dict(map(_read_email_counts, counts)),
            known=dict(map(_read_email, emails)),
            errors=dict(map(_read_email_errors, errors)),
        )
    except msgspec.MsgspecError as error:
        raise UnreadableError(str(error)) from None


def read_account(row: Row, operations: Iterable[Row], emails: SavedEmails | None = None) -> SavedAccount:
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
            emails=emails,
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


def _durations(histogram: Histogram) -> dict[str, Any]:
    return {"bounds": histogram.bounds, "counts": histogram.counts, "sum": histogram.sum}


def _read_durations(text: str) -> Histogram:
    return _histogram(msgspec.json.decode(text, type=_Durations))


def _histogram(durations: _Durations) -> Histogram:
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


def _read_email_totals(text: str) -> EmailTotals:
    totals = msgspec.json.decode(text, type=_EmailTotals)
    losses, deliveries = (
        None if look is None else FirstLook(look.at, look.complete) for look in (totals.losses, totals.deliveries)
    )
    return EmailTotals(
        losses=losses,
        deliveries=deliveries,
        inbound=totals.inbound,
        inbound_seen=totals.inbound_seen,
        errors_since=totals.errors_since,
        delays=_histogram(totals.delays),
    )


def _read_email_counts(row: Row) -> tuple[Series, Counts]:
    values = msgspec.convert(row, _CountsRow)
    if values.label not in {PROVIDER, SENDER_DOMAIN, CODE} and not values.label.startswith(TAG_PREFIX):
        raise UnreadableError("emails are counted by an unknown label")
    if not (_is_text(values.label) and _is_text(values.value)):
        raise UnreadableError("a label of emails is not printable")
    counts = msgspec.json.decode(values.counts, type=list[_Count])
    if len(counts) != (1 if values.label == CODE else len(STAGES)):
        raise UnreadableError("the counts of a label have the wrong number")
    return (values.label, values.value), tuple(counts)


def _read_email(row: Row) -> tuple[int, int]:
    values = msgspec.convert(row, _EmailRow)
    known = unpack_email(values.known)
    if len(values.id) != _KEY_BYTES or known.minute > _MAX_MINUTE or not 0 < known.stages <= ALL_STAGES:
        raise UnreadableError("an email has an impossible id, time or stage")
    return int.from_bytes(values.id), values.known


def _read_email_errors(row: Row) -> tuple[str, OperationErrors]:
    values = msgspec.convert(row, _ErrorsRow)
    codes = msgspec.json.decode(values.codes, type=dict[str, _Count])
    if not all(map(_is_text, (values.operation, *codes))):
        raise UnreadableError("an operation or a code of an error is not printable")
    return values.operation, OperationErrors(values.failed, codes)


def _of_length(names: Sequence[str], values: list[T]) -> list[T]:
    if len(values) != len(names):
        raise UnreadableError(f"{len(values)} numbers instead of {len(names)}")
    return values


def _is_text(value: str) -> bool:
    """Whether *value* contains only characters that the API client accepts."""
    return value.isascii() or value.isprintable()
