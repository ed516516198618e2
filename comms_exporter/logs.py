"""One line on stderr for each thing that happened, in logfmt or JSON, and never a credential in it."""

import base64
import json
import logging
import re
import sys
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from comms_exporter.printable import is_printable, printable

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
_MASK = "***"
_DEEPEST = 8  # deeper than anything we log; also ends what contains itself


class Redactor:
    """A processor that masks credentials, however deep in an event they are and however they were encoded."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Mask these too from now on; those known already stay masked, since old ones still open doors for a while."""
        self._secrets.update(secret for secret in secrets if secret)
        forms = {form for secret in self._secrets for form in _forms(secret)}
        # The longest first, lest a secret that starts with another be masked by half.
        longest_first = sorted(forms, key=lambda form: (-len(form), form))
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if forms else None

    def mask(self, text: str) -> str:
        """Return *text* with every secret in it masked."""
        return self._pattern.sub(_MASK, text) if self._pattern else text

    def __call__(self, logger: WrappedLogger, name: str, event_dict: EventDict) -> EventDict:  # noqa: ARG002
        """Return the event with every secret in it masked, and nothing in it but what JSON has."""
        return {self.mask(str(key)): self._plain(value) for key, value in event_dict.items()}

    def _plain(self, value: Any, depth: int = 0) -> Any:
        """Turn *value* into what JSON has, masked: a renderer that asks an object for its repr could bring a secret back."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            text = _text(value)
            is_json = re.fullmatch(r"-?[0-9.]+(e[+-]?[0-9]+)?", text)  # unlike nan, inf, and what has too many digits
            return value if is_json and self.mask(text) == text else self.mask(text)
        if isinstance(value, Mapping) and depth < _DEEPEST:
            return {self.mask(_text(key)): self._plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset) and depth < _DEEPEST:
            return [self._plain(item, depth + 1) for item in value]
        return self.mask(_text(value))


def configure(
    level: str,
    format: Literal["logfmt", "json"],  # noqa: A002  as the flag is called
    stream: TextIO | None = None,
    redact: Iterable[str] | Redactor = (),
) -> FilteringBoundLogger:
    """Send all that this process logs to *stream*, stderr by default, and return the logger to say it with.

    Whoever wants more secrets masked later, after a reload, passes a Redactor and keeps it.
    """
    processors: list[Processor] = [
        _headed,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,  # the plain traceback, which knows no local variables
        redact if isinstance(redact, Redactor) else Redactor(redact),
        _to_json if format == "json" else _to_logfmt,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=_LineFactory(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )
    log: FilteringBoundLogger = structlog.get_logger()
    _take_over_stdlib(log, max(_LEVELS[level], logging.WARNING))
    return log


def _take_over_stdlib(log: FilteringBoundLogger, level: int) -> None:
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Forward)]:
        root.removeHandler(handler)
    root.addHandler(_Forward(log))
    root.setLevel(level)
    # A line for every scrape and probe says nothing that the access log of a proxy doesn't say better.
    logging.getLogger("aiohttp.access").disabled = True


class _Forward(logging.Handler):
    """Hands what libraries log to our own logger, so that one pipeline sees everything."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001  logging's own answer prints the arguments, secrets and all
            message = str(record.msg)
        say = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        say(message, logger=record.name, exc_info=record.exc_info)


class _Line:
    """What structlog calls a logger: the end of the pipeline, which writes a line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        try:
            try:
                self._stream.write(line + "\n")
            except UnicodeEncodeError:
                self._stream.write(line.encode("ascii", "backslashreplace").decode() + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass  # a full disk or a closed pipe must not stop the exporter, and there is nobody left to tell

    debug = info = warning = error = critical = msg


class _LineFactory:
    def __init__(self, stream: TextIO) -> None:
        self._line = _Line(stream)

    def __call__(self, *_: Any) -> _Line:
        return self._line


def _headed(logger: WrappedLogger, name: str, event_dict: EventDict) -> EventDict:  # noqa: ARG001
    """Put time, level and message first; a field of one of these names keeps its value under another."""
    head = {
        "ts": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": "warn" if name == "warning" else name,  # as --log.level says it
        "msg": event_dict.pop("event", ""),
    }
    return head | {f"{key}_" if key in head else key: value for key, value in event_dict.items()}


def _to_json(logger: WrappedLogger, name: str, event_dict: EventDict) -> str:  # noqa: ARG001
    return printable(json.dumps(event_dict))  # JSON leaves DEL as it is


def _to_logfmt(logger: WrappedLogger, name: str, event_dict: EventDict) -> str:  # noqa: ARG001
    # structlog's own renderer raises on some keys and leaves a bare carriage return as it is.
    return " ".join(f"{_key(key)}={_value(value)}" for key, value in event_dict.items())


def _key(text: str) -> str:
    return re.sub(r'[\s="]', "_", "".join(c if is_printable(c) else "_" for c in text)) or "_"


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if isinstance(value, str) and re.search(r'[\s="\\]', text) is None and is_printable(text):
        return text or '""'
    return text if not isinstance(value, str | dict | list) else _quoted(text)


def _quoted(text: str) -> str:
    return printable(json.dumps(text, ensure_ascii=False))


def _text(value: Any) -> str:
    try:
        if isinstance(value, bytes | bytearray):
            return value.decode("utf-8", "backslashreplace")
        return f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else str(value)
    except Exception:  # noqa: BLE001  a line with a hole is better than none
        return f"<a {type(value).__name__} that cannot be shown>"


def _forms(secret: str) -> Iterator[str]:
    """Yield what a secret looks like in the places where secrets turn up."""
    yield secret
    yield repr(secret)[1:-1]
    yield json.dumps(secret)[1:-1]
    yield urllib.parse.quote(secret, safe="")
    # Behind `user:` in a Basic header, the secret's Base64 depends on the length of the user by modulo 3 only.
    for offset, spoiled in ((0, 0), (1, 2), (2, 3)):
        encoded = base64.b64encode(b"." * offset + secret.encode("utf-8", "backslashreplace")).decode()
        core = encoded.rstrip("=")[spoiled:]
        if len(core) >= 8:  # shorter ones are parts of words
            yield core
