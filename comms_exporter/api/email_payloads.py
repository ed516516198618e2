"""Emails in the API's responses, parsed leniently; addresses are cut to their domains, and content is not even decoded.

The formats: https://docs.comms.twilio.com/comms-api-reference/emails/list and, where it contradicts itself, the guide
https://docs.comms.twilio.com/guides/track-an-email-operation. Those of /Errors and /Receipts are not published.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec

from comms_exporter.api.payloads import (
    MAX_ENTRIES,
    MAX_ID_LENGTH,
    BadPayloadError,
    DocumentedEnvelope,
    DocumentedTime,
    MalformedEntryError,
    TooManyValuesError,
    check_values,
    decode,
    next_token,
    parse_time,
    read_id,
    read_status,
)
from comms_exporter.base.redaction import mask_addresses
from comms_exporter.base.times import EARLIEST, LATEST, is_representable
from comms_exporter.model.emails import STATUSES, Email

Entry = TypeVar("Entry")

_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_DOMAIN_LENGTH = 253
# By the text after the at sign. Most emails go to few domains: reading each once saves time, and memory per email.
_known_domains: dict[str, str] = {}
_MAX_KNOWN_DOMAINS = 4096
_DOMAIN = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?")
# The API's limit for a filter. A tag with an at sign may be an address.
_MAX_TAGS = 10
_MAX_TAG_LENGTH = 128
_MAX_CODE_LENGTH = 64
_MAX_MESSAGE_LENGTH = 300
# How deep a list may be inside objects: {"data": {"errors": []}} has one level more than any published format.
_MAX_LIST_DEPTH = 3


class EmailPage(NamedTuple):
    """One page of a listing of emails.

    *malformed* has a message for each damaged entry, *mismatched* counts the entries that the filters exclude, *unknown*
    counts unknown statuses.
    """

    emails: list[Email]
    next: str | None
    malformed: list[str]
    mismatched: int
    unknown: Counter[str]


class DeliveryError(NamedTuple):
    """Why emails of an operation failed, as /Errors says; addresses in the message are masked."""

    code: str
    message: str


class Receipt(NamedTuple):
    """What became of an email for one of its recipients, as /Receipts says."""

    recipient_domain: str
    status: str
    code: str
    message: str


class EntryPage(NamedTuple):
    """One page of an unpublished format: its objects, and the token of the next page."""

    entries: list[dict[str, Any]]
    next: str | None


class _Entry(msgspec.Struct, gc=False):
    """The members of an email that are read; msgspec skips all others without decoding them."""

    id: Any = None
    status: Any = None
    sender: Any = msgspec.field(default=None, name="from")
    to: Any = None
    related: Any = None
    operation_id: Any = msgspec.field(default=None, name="operationId")
    tags: Any = None
    created_at: Any = msgspec.field(default=None, name="createdAt")
    updated_at: Any = msgspec.field(default=None, name="updatedAt")


_ENTRY = msgspec.json.Decoder(_Entry)
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_ANY = msgspec.json.Decoder()


# The fast path: as for operations, msgspec decodes and checks the documented formats in one step, at a third of the cost.
# Everything else is left to the lenient reader below. Where both accept a page, their results are equal.

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]
_TagText = Annotated[str, msgspec.Meta(min_length=1, max_length=_MAX_TAG_LENGTH)]
_DocumentedTags = Annotated[dict[_TagText, _TagText], msgspec.Meta(max_length=_MAX_TAGS)]


class _DocumentedAddress(msgspec.Struct, gc=False):
    address: str


class _DocumentedRelation(msgspec.Struct, gc=False):
    id: _Id
    name: str = ""
    type: str = ""


class _DocumentedEmail(msgspec.Struct, gc=False):
    id: _Id
    status: Literal[STATUSES]  # type: ignore[valid-type]
    sender: _DocumentedAddress | None = msgspec.field(default=None, name="from")
    to: list[_DocumentedAddress] | _DocumentedAddress | None = None
    related: list[_DocumentedRelation] | None = None
    operation_id: _Id | None = msgspec.field(default=None, name="operationId")
    tags: _DocumentedTags | None = None
    created_at: DocumentedTime | None = msgspec.field(default=None, name="createdAt")
    updated_at: DocumentedTime | None = msgspec.field(default=None, name="updatedAt")


class _DocumentedEmailPage(DocumentedEnvelope, kw_only=True):
    emails: list[_DocumentedEmail]


_DOCUMENTED_PAGE = msgspec.json.Decoder(_DocumentedEmailPage)


def read_email_page(body: bytes) -> EmailPage:
    """Return the page in *body*, in any of the formats that Twilio has published."""
    check_values(body)
    try:
        documented = _DOCUMENTED_PAGE.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _read_page_leniently(body)
    emails = list(map(_from_documented, documented.emails))
    # One check of all texts of a page costs next to nothing.
    texts = "".join([text for each in emails for text in (each.id, each.operation_id or "")])
    tags = "".join([text for each in emails for tag in each.tags for text in tag])
    times = [moment for each in emails for moment in (each.created_at, each.updated_at) if moment is not None]
    if not (
        (texts + tags).isprintable()
        and "@" not in tags
        and min(times, default=0.0) >= EARLIEST
        and max(times, default=0.0) <= LATEST
    ):
        return _read_page_leniently(body)
    _check_length(len(emails))
    return EmailPage(emails, documented.token(), [], 0, Counter())


def _from_documented(raw: _DocumentedEmail) -> Email:
    to, operation_id = raw.to, raw.operation_id
    if not isinstance(to, list):
        to = [] if to is None else [to]
    for each in raw.related or ():
        if "OPERATION" in {each.name.upper(), each.type.upper()}:
            operation_id = each.id
            break
    created, updated, sender, tags = raw.created_at, raw.updated_at, raw.sender, raw.tags
    return Email(
        raw.id,
        raw.status,
        operation_id,
        None if created is None else created.timestamp(),
        None if updated is None else updated.timestamp(),
        domain_of(to[0].address) if to else "",
        len(to),
        "" if sender is None else domain_of(sender.address),
        tuple(sorted(tags.items())) if tags else (),
    )


def _read_page_leniently(body: bytes) -> EmailPage:
    payload = decode_object(body)
    page = EmailPage([], _token(payload), [], 0, Counter())
    for raw in raw_entries(payload, "emails"):
        try:
            page.emails.append(_read_email(raw, page.unknown))
        except MalformedEntryError as error:
            page.malformed.append(str(error))
    return page


def read_email(body: bytes) -> EmailPage:
    """Return the email in *body* as a page of one."""
    page = EmailPage([], None, [], 0, Counter())
    try:
        page.emails.append(_read_email(body, page.unknown))
    except MalformedEntryError as error:
        page.malformed.append(str(error))
    return page


def decode_object(body: bytes) -> dict[str, msgspec.Raw]:
    """Return the members of the JSON object in *body*, undecoded."""
    check_values(body)
    try:
        return _OBJECT.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _decoded(_OBJECT.decode, _valid_json(body))


def raw_entries(payload: dict[str, msgspec.Raw], name: str) -> list[msgspec.Raw]:
    """Return the entries of the list in *payload* under *name*, or where other Twilio APIs have it, or the only list."""
    meta = _member(payload, "meta")
    key = meta.get("key") if isinstance(meta, dict) else None
    lists = {member: raw for member, raw in payload.items() if bytes(memoryview(raw)[:1]) == b"["}
    for member in (name, "data", key):
        if isinstance(member, str) and member in lists:
            return _entries(lists[member])
    if len(lists) != 1:
        raise BadPayloadError(f"the body has no list of {name}")
    return _entries(next(iter(lists.values())))


def read_delivery_errors(body: bytes) -> tuple[list[DeliveryError], str | None]:
    """Return the errors in *body*, which may be anywhere sensible, and the token of the next page."""
    entries, following = _unpublished(body, "errors")
    return [DeliveryError(_code(each), _message(each)) for each in entries if _code(each) or _message(each)], following


def read_receipts(body: bytes) -> tuple[list[Receipt], str | None]:
    """Return the receipts in *body*, which may be anywhere sensible, and the token of the next page."""
    entries, following = _unpublished(body, "receipts")
    return [Receipt(_recipient_domain(each), _status(each), _code(each), _message(each)) for each in entries], following


def domain_of(address: object) -> str:
    """Return the domain of *address* in lower case, empty if it has none."""
    if not isinstance(address, str):
        return ""
    _, at, text = address.rpartition("@")
    if not at:
        return ""
    known = _known_domains.get(text)
    if known is not None:
        return known
    domain = _domain(text)
    if domain:
        # Only valid ones, because other text may be personal.
        if len(_known_domains) >= _MAX_KNOWN_DOMAINS:
            _known_domains.clear()
        _known_domains[text] = domain
    return domain


def _domain(text: str) -> str:
    """Return what is after the at sign of an address as a domain, empty if it is none."""
    # Some servers write "Name <local@domain>".
    domain = text.strip().removesuffix(">").rstrip(".").lower()
    if len(domain) > _MAX_DOMAIN_LENGTH:
        return ""
    if not domain.isascii():
        try:
            domain = domain.encode("idna").decode()
        except UnicodeError:
            return ""
    return domain if _DOMAIN.fullmatch(domain) else ""


def addresses_of(value: Any) -> list[Any]:
    """Return the addresses in *value*: a list of objects or strings, or a single one."""
    listed = value if isinstance(value, list) else [] if value is None else [value]
    return [each.get("address", each.get("email")) if isinstance(each, dict) else each for each in listed]


def _read_email(raw: bytes | msgspec.Raw, unknown: Counter[str]) -> Email:
    try:
        entry = _ENTRY.decode(raw)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise MalformedEntryError("an email is not a valid JSON object") from None
    status = read_status(entry.status)
    if status not in STATUSES:
        unknown["status"] += 1
    recipients = addresses_of(entry.to)
    return Email(
        read_id(entry.id),
        status,
        _operation_id(entry),
        _time(entry.created_at),
        _time(entry.updated_at),
        domain_of(recipients[0]) if recipients else "",
        len(recipients),
        next(map(domain_of, addresses_of(entry.sender)), ""),
        _tags(entry.tags),
    )


def _operation_id(entry: _Entry) -> str | None:
    """Return the operation that *entry* says it belongs to; an unusable id is none."""
    related = entry.related if isinstance(entry.related, list) else [entry.related]
    named = [
        each.get("id")
        for each in related
        if isinstance(each, dict)
        and any(isinstance(kind := each.get(key), str) and kind.upper() == "OPERATION" for key in ("name", "type"))
    ]
    for candidate in (*named, entry.operation_id):
        try:
            return read_id(candidate)
        except MalformedEntryError:
            continue
    return None


def _time(value: Any) -> float | None:
    if not isinstance(value, str):
        return None
    try:
        moment = parse_time(value).timestamp()
    except (ValueError, OverflowError):
        return None
    return moment if is_representable(moment) else None


def _tags(value: Any) -> tuple[tuple[str, str], ...]:
    """Return the tags in *value*: an object, a list of objects or of `key:value`, or `key:value;` as in the filter."""
    # Most emails have none, or an object.
    if not value:
        return ()
    tags: dict[str, str] = {}
    for key, text in _tag_pairs(value):
        if len(tags) == _MAX_TAGS:
            break
        if _is_tag_text(key) and _is_tag_text(text):
            tags[key] = text
    return tuple(sorted(tags.items()))


def _tag_pairs(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        yield from value.items()
        return
    for each in value if isinstance(value, list) else value.split(";") if isinstance(value, str) else ():
        if isinstance(each, dict):
            yield each.get("key", each.get("name")), each.get("value")
        elif isinstance(each, str):
            key, colon, text = each.partition(":")
            if colon:
                yield key.strip(), text.strip()


def _is_tag_text(text: Any) -> bool:
    return isinstance(text, str) and 0 < len(text) <= _MAX_TAG_LENGTH and text.isprintable() and "@" not in text


# The unpublished formats


def _unpublished(body: bytes, name: str) -> EntryPage:
    payload = decode(body)
    entries = _find_list(payload, name, _MAX_LIST_DEPTH)
    if entries is None:
        raise BadPayloadError(f"the body has no list of {name}")
    if len(entries) > MAX_ENTRIES:
        raise TooManyValuesError(f"the body lists {len(entries)} {name}")
    following = next_token(payload) if isinstance(payload, dict) else None
    return EntryPage([each for each in entries if isinstance(each, dict)], following)


def _find_list(value: Any, name: str, depth: int) -> list[Any] | None:
    """Return the list in *value* under *name*, or else the first one, at most *depth* objects deep."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict) or not depth:
        return None
    members = [value.get(name), value.get("data"), *value.values()]
    lists = [each for each in members if isinstance(each, list)]
    if lists:
        return lists[0]
    return next(filter(None, (_find_list(each, name, depth - 1) for each in members)), None)


def _code(entry: dict[str, Any]) -> str:
    value = next((entry[key] for key in ("code", "errorCode") if isinstance(entry.get(key), str | int)), "")
    text = "" if isinstance(value, bool) else str(value)
    return text if len(text) <= _MAX_CODE_LENGTH and text.isprintable() and "@" not in text else ""


def _message(entry: dict[str, Any]) -> str:
    keys = ("message", "errorMessage", "detail", "reason")
    text = next((entry[key] for key in keys if isinstance(entry.get(key), str)), "")
    # JSON can contain half a surrogate pair, which cannot be encoded for a terminal or a log. Mask before cutting: a
    # part of an address would not be recognized.
    return mask_addresses(" ".join(text.encode("utf-8", "replace").decode().split()))[:_MAX_MESSAGE_LENGTH]


def _recipient_domain(entry: dict[str, Any]) -> str:
    for key in ("to", "recipient", "address", "email"):
        for address in addresses_of(entry.get(key)):
            if domain := domain_of(address):
                return domain
    return ""


def _status(entry: dict[str, Any]) -> str:
    try:
        return read_status(entry.get("status"))
    except MalformedEntryError:
        return ""


def _entries(raw: msgspec.Raw) -> list[msgspec.Raw]:
    entries: list[msgspec.Raw] = _decoded(_LIST.decode, raw)
    _check_length(len(entries))
    return entries


def _check_length(entries: int) -> None:
    if entries > MAX_ENTRIES:
        raise TooManyValuesError(f"the body lists {entries} emails")


def _valid_json(body: bytes) -> bytes:
    """Return the JSON in *body* without what msgspec refuses even where it skips.

    That is half a surrogate pair, which becomes NUL, and NaN and Infinity, which become null.
    """
    text = json.dumps(decode(body, constant=lambda _: None), ensure_ascii=False)
    return _SURROGATE.sub(r"\\u0000", text).encode()


def _token(payload: dict[str, msgspec.Raw]) -> str | None:
    return next_token({name: _member(payload, name) for name in ("pagination", "meta", "nextPageToken")})


def _member(payload: dict[str, msgspec.Raw], name: str) -> Any:
    raw = payload.get(name)
    return None if raw is None else _decoded(_ANY.decode, raw)


def _decoded(read: Callable[[Any], Entry], body: bytes | msgspec.Raw) -> Entry:
    try:
        return read(body)
    except RecursionError:
        raise BadPayloadError("the JSON is nested too deeply") from None
    except (msgspec.DecodeError, ValueError) as error:
        # The messages of msgspec name types and positions, never values.
        raise BadPayloadError(f"invalid JSON: {error}") from None
