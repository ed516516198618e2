"""Classify failed requests: pure functions that turn a response or a network error into a CommsError.

Where they take *mask*, it masks the secrets in a text that comes from outside.
"""

import json
import ssl
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
from aiohttp.http_exceptions import ContentEncodingError

from comms_exporter.api.errors import CommsError, ConnectionLostError, ThrottledError
from comms_exporter.base.redaction import mask_addresses
from comms_exporter.base.times import parse_http_date

MAX_RETRY_AFTER_SECONDS = 3600.0

_MAX_MESSAGE_CHARACTERS = 300
_REASON_BY_STATUS = {401: "auth", 403: "forbidden", 404: "not_found", 408: "timeout", 429: "rate_limited"}


def classify_response(
    status: int, headers: Mapping[str, str], body: bytes, *, now: float, mask: Callable[[str], str] = str
) -> CommsError | None:
    """Return the error that a response stands for, None for a 200.

    Statuses: https://www.twilio.com/docs/email/api/errors
    """
    if status == 200:
        return None
    message = f"{status}: {error_message(body, mask)}"
    if status in {429, 503}:
        reason = "rate_limited" if status == 429 else "server"
        return ThrottledError(reason, message, parse_retry_after(headers.get("Retry-After"), now=now))
    if status >= 500:
        return CommsError("server", message)
    if status < 400:
        # Without the query, which may contain a page token.
        target = _one_line(headers.get("Location", "").partition("?")[0], mask)
        return CommsError(
            "bad_payload", f"{status}: unexpected redirect to {target}" if target else f"{status} instead of 200"
        )
    return CommsError(_REASON_BY_STATUS.get(status, "bad_request"), message, status=status)


def classify_network_error(error: BaseException, timeout: float, *, mask: Callable[[str], str] = str) -> CommsError:
    """Return the error that *error* stands for, an exception of aiohttp or of the operating system."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError | ssl.SSLError):
        return CommsError("tls", f"TLS failed: {_one_line(str(error), mask)}")
    if isinstance(error, TimeoutError):
        return ConnectionLostError("timeout", f"no response within {timeout:g} s")
    if isinstance(error, aiohttp.ClientResponseError):
        # Not str(error), which contains the URL and so the page token.
        return CommsError("bad_payload", f"invalid HTTP response: {_one_line(error.message, mask)}")
    if isinstance(error, aiohttp.InvalidURL):
        return CommsError("bad_payload", "the URL of the next page is invalid")
    if isinstance(error, aiohttp.ClientPayloadError):
        if isinstance(error.__cause__, ContentEncodingError):
            return CommsError("bad_payload", "the body does not match its Content-Encoding")
        return ConnectionLostError("connection", "the connection was lost while reading the response")
    return ConnectionLostError("connection", _one_line(str(error), mask) or type(error).__name__)


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Return the seconds that *value* asks for, as a number or as a date, at most an hour; None if it is invalid."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        # int() refuses thousands of digits; twenty are far more than an hour.
        return min(float(value[:20]), MAX_RETRY_AFTER_SECONDS)
    date = parse_http_date(value)
    return None if date is None else min(max(0.0, date - now), MAX_RETRY_AFTER_SECONDS)


def error_message(body: bytes, mask: Callable[[str], str] = str) -> str:
    """Return the message in an error *body* in one line, whether it is Twilio's JSON, RFC 9457's, or text."""
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        return _text_message(body, mask)
    if not isinstance(payload, dict):
        return _text_message(body, mask)
    errors = payload.get("errors")
    entries = [each for each in errors if isinstance(each, dict)] if isinstance(errors, list) else []
    messages = "; ".join(filter(None, map(_json_message, entries or [payload])))
    return _one_line(messages, mask) if messages else _text_message(body, mask)


def _json_message(entry: dict[str, Any]) -> str:
    message = next((entry[key] for key in ("message", "detail", "title") if isinstance(entry.get(key), str)), "")
    code = entry.get("code")
    return f"{message} (code {code})" if message and isinstance(code, int | str) else message


def _text_message(body: bytes, mask: Callable[[str], str]) -> str:
    text = _one_line(body.decode("utf-8", "replace"), mask)
    if not text:
        return "empty body"
    return "an HTML page" if text.startswith("<") else text


def _one_line(text: str, mask: Callable[[str], str]) -> str:
    # JSON can contain half a surrogate pair, which cannot be encoded for a page or a log.
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    # Mask before cutting: the mask would not recognize a part of a secret.
    text = mask_addresses(" ".join(mask(text).split()))
    return text if len(text) <= _MAX_MESSAGE_CHARACTERS else text[: _MAX_MESSAGE_CHARACTERS - 1] + "…"
