"""Turn a log event into one line: header, masked and bounded values, logfmt or JSON.

All functions are structlog processors or return one.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from structlog.typing import EventDict, Processor, WrappedLogger

from comms_exporter.base.printable import is_printable, printable
from comms_exporter.base.redaction import Redactor

# Deeper than anything we log; also bounds values that contain themselves.
_MAX_DEPTH = 8
# Characters of one value. A longer value keeps its beginning and its end, which say the most in a traceback.
_MAX_VALUE_LENGTH = 8000


def add_header(logger: WrappedLogger, name: str, event_dict: EventDict) -> EventDict:  # noqa: ARG001
    """Put time, level and message first; append an underscore to other fields with these names."""
    header = {
        "ts": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": "warn" if name == "warning" else name,  # the spelling of --log.level
        "msg": event_dict.pop("event", ""),
    }
    return header | {f"{key}_" if key in header else key: value for key, value in event_dict.items()}


def masker(redactor: Redactor) -> Processor:
    """Return a processor that converts an event to plain JSON values, at any depth, with every secret masked.

    No object is left in it: a renderer that calls repr() on one could bring a secret back.
    """

    def plain(value: Any, depth: int = 0) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            text = _text(value)
            is_json = re.fullmatch(
                r"-?[0-9.]+(e[+-]?[0-9]+)?", text
            )  # unlike nan, inf, and integers with too many digits
            return value if is_json and redactor.mask(text) == text else redactor.mask(text)
        if isinstance(value, Mapping) and depth < _MAX_DEPTH:
            return {redactor.mask(_text(key)): plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset) and depth < _MAX_DEPTH:
            return [plain(item, depth + 1) for item in value]
        return redactor.mask(_text(value))

    def mask(logger: WrappedLogger, name: str, event_dict: EventDict) -> EventDict:  # noqa: ARG001
        return {redactor.mask(str(key)): plain(value) for key, value in event_dict.items()}

    return mask


def shorten(logger: WrappedLogger, name: str, event_dict: EventDict) -> EventDict:  # noqa: ARG001
    """Bound the length of every value; runs after masking, because a truncated secret would not be masked."""
    return {key: _shortened(value) for key, value in event_dict.items()}


def to_json(logger: WrappedLogger, name: str, event_dict: EventDict) -> str:  # noqa: ARG001
    """Render the event as a JSON object."""
    return json.dumps(event_dict)


def to_logfmt(logger: WrappedLogger, name: str, event_dict: EventDict) -> str:  # noqa: ARG001
    """Render the event as logfmt."""
    # structlog's own renderer raises on some keys and does not escape a carriage return.
    return " ".join(f"{_logfmt_key(key)}={_logfmt_value(value)}" for key, value in event_dict.items())


def _text(value: Any) -> str:
    try:
        if isinstance(value, bytes | bytearray):
            return value.decode("utf-8", "backslashreplace")
        return f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else str(value)
    except Exception:  # noqa: BLE001  an incomplete line is better than none
        return f"<a {type(value).__name__} that cannot be shown>"


def _shortened(value: Any) -> Any:
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) <= _MAX_VALUE_LENGTH:
        return value
    return f"{text[: _MAX_VALUE_LENGTH // 4]} ... {text[-3 * _MAX_VALUE_LENGTH // 4 :]}"


def _logfmt_key(text: str) -> str:
    return re.sub(r'[\s="]', "_", "".join(c if is_printable(c) else "_" for c in text)) or "_"


def _logfmt_value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if isinstance(value, str) and re.search(r'[\s="\\]', text) is None and is_printable(text):
        return text or '""'
    return printable(json.dumps(text, ensure_ascii=False)) if isinstance(value, str | dict | list) else text
