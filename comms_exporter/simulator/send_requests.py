"""Parsing and validation of POST /v1/Emails, with the documented limits."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from comms_exporter.simulator.mail import Address, Message
from comms_exporter.simulator.responses import Issue, Refusal
from comms_exporter.simulator.world import MAX_RECIPIENTS

MAX_BODY_BYTES = 5 * 1024**2

_TAG = re.compile(r"[a-zA-Z0-9._~-]+")
_ADDRESS = re.compile(r"[^@\s]+@[^@\s]+")


class SendRequest(NamedTuple):
    """A valid request to send a message."""

    message: Message
    schedule: float | None


def parse_send_request(body: bytes) -> SendRequest:
    """Parse the body of a send request, or raise a Refusal that lists everything wrong with it."""
    try:
        payload = json.loads(body)
    except ValueError as error:
        raise Refusal(400, [Issue("The request body is not valid JSON.")]) from error
    if not isinstance(payload, dict):
        raise Refusal(400, [Issue("The request body must be a JSON object.")])
    if issues := [issue for check in _CHECKS for issue in check(payload)]:
        raise Refusal(400, issues)
    message = Message(
        sender=_address(payload["from"]),
        to=tuple(map(_address, payload["to"])),
        subject=payload["content"]["subject"],
        tags=payload.get("tags") or {},
    )
    return SendRequest(message, _send_at(payload.get("schedule")))


def parse_timestamp(text: str) -> float:
    """Parse an ISO 8601 date-time, in UTC unless it has an offset; raise ValueError if it is invalid."""
    parsed = datetime.fromisoformat(text)
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def _check_sender(payload: dict[str, Any]) -> Iterator[Issue]:
    sender = payload.get("from")
    if sender is None:
        yield Issue("The parameter 'from' is required.", "$.from")
    elif not _is_address(sender):
        yield Issue("The parameter 'from' must be an object with a valid 'address'.", "$.from.address")
    elif not sender["address"].isascii():
        yield Issue("The address in 'from' must not contain Unicode characters.", "$.from.address")


def _check_recipients(payload: dict[str, Any]) -> Iterator[Issue]:
    to = payload.get("to")
    if not isinstance(to, list) or not to:
        yield Issue("The parameter 'to' is required and must be a non-empty array.", "$.to")
    elif len(to) > MAX_RECIPIENTS:
        yield Issue(f"The parameter 'to' must not have more than {MAX_RECIPIENTS} entries.", "$.to")
    else:
        for place, entry in enumerate(to):
            if not _is_address(entry):
                yield Issue(f"Entry {place} of 'to' must have a valid 'address'.", f"$.to[{place}].address")
            elif not isinstance(entry.get("variables", {}), dict):
                yield Issue(f"The 'variables' of entry {place} of 'to' must be an object.", f"$.to[{place}].variables")


def _check_content(payload: dict[str, Any]) -> Iterator[Issue]:
    content = payload.get("content")
    if not isinstance(content, dict):
        yield Issue("The parameter 'content' is required.", "$.content")
        return
    for name in ("subject", "html"):
        if not isinstance(content.get(name), str) or not content[name]:
            yield Issue(f"The parameter 'content.{name}' is required.", f"$.content.{name}")
    if not isinstance(content.get("text", ""), str):
        yield Issue("The parameter 'content.text' must be a string.", "$.content.text")
    headers = content.get("headers") or {}
    if not isinstance(headers, dict):
        yield Issue("The parameter 'content.headers' must be an object.", "$.content.headers")
        return
    for name in headers:
        if name.lower() == "reply-to":
            yield Issue(f"The header '{name}' is restricted and cannot be overridden.", f"$.content.headers.{name}")


def _check_tags(payload: dict[str, Any]) -> Iterator[Issue]:
    tags = payload.get("tags") or {}
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
        yield Issue("The parameter 'tags' must be an object of strings.", "$.tags")
        return
    if len(tags) > 10:
        yield Issue("The parameter 'tags' must not have more than 10 entries.", "$.tags")
    for key, value in tags.items():
        if not (_is_tag(key, 128) and _is_tag(value, 256)):
            yield Issue(f"The tag '{key}' is too long or has characters that are not allowed.", f"$.tags.{key}")


def _check_schedule(payload: dict[str, Any]) -> Iterator[Issue]:
    try:
        _send_at(payload.get("schedule"))
    except (TypeError, ValueError, KeyError, OverflowError):
        yield Issue("The parameter 'schedule.sendAt' must be an array of date-time expressions.", "$.schedule.sendAt")


def _check_pool(payload: dict[str, Any]) -> Iterator[Issue]:
    pool = payload.get("ipPoolName")
    if pool is not None and not (isinstance(pool, str) and 2 <= len(pool) <= 64):
        yield Issue("The parameter 'ipPoolName' must have 2 to 64 characters.", "$.ipPoolName")


_CHECKS: tuple[Callable[[dict[str, Any]], Iterator[Issue]], ...] = (
    _check_sender,
    _check_recipients,
    _check_content,
    _check_tags,
    _check_schedule,
    _check_pool,
)


def _send_at(schedule: Any) -> float | None:
    """Return when to send; all expressions apply, so the latest one decides."""
    if schedule is None:
        return None
    expressions = schedule["sendAt"]
    if not isinstance(expressions, list):
        raise TypeError("sendAt is not an array")
    return max(map(parse_timestamp, expressions))


def _is_address(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("address"), str):
        return False
    return _ADDRESS.fullmatch(entry["address"]) is not None and isinstance(entry.get("name"), str | None)


def _is_tag(text: str, longest: int) -> bool:
    return len(text) <= longest and _TAG.fullmatch(text) is not None


def _address(entry: dict[str, Any]) -> Address:
    return Address(entry["address"], entry.get("name"))
