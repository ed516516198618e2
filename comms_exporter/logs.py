"""One line on stderr for each thing that happened, in logfmt or JSON, and never a credential in it."""

import atexit
import json
import logging
import os
import re
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from comms_exporter.base.printable import is_printable, printable
from comms_exporter.redaction import Secrets

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
_DEEPEST = 8  # deeper than anything we log; also ends what contains itself
# Characters of one value. A longer one keeps its beginning and its end: a traceback says the most there.
_LONGEST = 8000
# Bytes of lines that wait to be written while nobody reads them.
_MAX_WAITING_BYTES = 2**20
# For lines that still wait when the process ends.
_EXIT_SECONDS = 1.0
# Lines of one logger of a library that are let through at once, and how long it takes to earn another.
_BURST = 10
_REFILL_SECONDS = 10.0


class Redactor(Secrets):
    """A processor that masks credentials, however deep in an event they are and however they were encoded."""

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
    render: Processor = _to_json if format == "json" else _to_logfmt

    def dropped(count: int) -> str:
        event = _headed(None, "warning", {"event": "log lines were dropped because nobody read them", "lines": count})
        return str(render(None, "warning", event))

    processors: list[Processor] = [
        _headed,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,  # the plain traceback, which knows no local variables
        redact if isinstance(redact, Redactor) else Redactor(redact),
        _shortened,
        render,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=_LineFactory(_sink(stream or sys.stderr, dropped)),
        cache_logger_on_first_use=False,
    )
    log: FilteringBoundLogger = structlog.get_logger()
    _take_over_stdlib(log, max(_LEVELS[level], logging.WARNING))
    return log


@contextmanager
def uncaught(log: FilteringBoundLogger) -> Iterator[None]:
    """Log what the interpreter would print to stderr itself, where it would wait for a reader, within the context."""

    def thread_ended(args: threading.ExceptHookArgs) -> None:
        log.error("a thread has crashed; this is a bug", exc_info=args.exc_value)

    def not_raised(args: Any) -> None:
        log.error("an exception could not be raised", where=args.object, exc_info=args.exc_value)

    before = threading.excepthook, sys.unraisablehook
    threading.excepthook, sys.unraisablehook = thread_ended, not_raised
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        threading.excepthook, sys.unraisablehook = before


def _take_over_stdlib(log: FilteringBoundLogger, level: int) -> None:
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Forward)]:
        root.removeHandler(handler)
        handler.close()
    root.addHandler(_Forward(log))
    root.setLevel(level)
    # A line for every scrape and probe says nothing that the access log of a proxy doesn't say better.
    logging.getLogger("aiohttp.access").disabled = True


class RateLimit:
    """Lets *burst* lines through at once and another one every *seconds*, and counts those that it holds back."""

    def __init__(
        self, burst: int = _BURST, seconds: float = _REFILL_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._seconds = seconds
        self._clock = clock
        self._tokens = float(burst)
        self._filled = clock()
        self.suppressed = 0

    def admit(self) -> bool:
        """Say whether a line may be written now."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled) / self._seconds)
        self._filled = now
        if self._tokens < 1:
            self.suppressed += 1
            return False
        self._tokens -= 1
        return True


class _Forward(logging.Handler):
    """Hands what libraries log to our own logger, so that one pipeline sees everything.

    The rate is limited because a stranger may be the reason for a line.
    """

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__()
        self._log = log
        self._limits: dict[tuple[str, int], RateLimit] = {}
        # What was held back last is said at the end at the latest.
        atexit.register(self.close)

    def emit(self, record: logging.LogRecord) -> None:
        limit = self._limits.setdefault((record.name, record.levelno), RateLimit())
        if not limit.admit():
            return
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001  logging's own answer prints the arguments, secrets and all
            message = str(record.msg)
        fields = {"suppressed": limit.suppressed} if limit.suppressed else {}
        limit.suppressed = 0
        say = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        say(message, logger=record.name, exc_info=record.exc_info, **fields)

    def close(self) -> None:
        atexit.unregister(self.close)
        for (name, _), limit in self._limits.items():
            if limit.suppressed:
                self._log.warning("more lines like these were suppressed", logger=name, suppressed=limit.suppressed)
                limit.suppressed = 0
        super().close()


class _Sink(Protocol):
    """Takes a line, which it never waits for."""

    def write(self, line: str) -> None: ...


def _sink(stream: TextIO | None, dropped: Callable[[int], str]) -> _Sink:
    if stream is None:  # as sys.stderr is when the process was started without one
        return _Nowhere()
    try:
        return _Writer(stream.fileno(), stream.encoding, dropped)
    except (OSError, ValueError):
        return _Memory(stream)


class _Nowhere:
    def write(self, line: str) -> None:
        """Forget *line*."""


class _Memory:
    """A stream that is no file, and can be written to without waiting."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        try:
            try:
                self._stream.write(line + "\n")
            except UnicodeEncodeError:
                self._stream.write(line.encode("ascii", "backslashreplace").decode() + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass  # it was closed, and there is nobody left to tell


class _Writer:
    """Writes lines to a file in a thread of its own, so that the event loop never waits for whoever reads them.

    While nobody reads, the oldest lines are dropped; *dropped* says how many, as soon as there is somebody to tell.
    """

    def __init__(self, file: int, encoding: str, dropped: Callable[[int], str]) -> None:
        self._file = file
        self._encoding = encoding
        self._dropped = dropped
        self._lines: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._lost = 0
        self._writing = False
        # It can be entered again: a line may have to be written by what the garbage collector runs meanwhile.
        self._changed = threading.Condition(threading.RLock())
        threading.Thread(target=self._run, name="log", daemon=True).start()
        atexit.register(self.flush)

    def write(self, line: str) -> None:
        """Have *line* written."""
        data = self._encoded(line)
        with self._changed:
            self._lines.append(data)
            self._waiting_bytes += len(data)
            while self._waiting_bytes > _MAX_WAITING_BYTES and len(self._lines) > 1:
                self._waiting_bytes -= len(self._lines.popleft())
                self._lost += 1
            self._changed.notify_all()

    def flush(self, seconds: float = _EXIT_SECONDS) -> None:
        """Wait until everything is written, but no longer than *seconds*."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines and not self._writing, seconds)

    def _encoded(self, line: str) -> bytes:
        return f"{line}\n".encode(self._encoding, "backslashreplace")

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines)
                self._writing = True
            # Which line is written next is decided when there is room: until then, the oldest may be dropped.
            self._wait_for_room()
            with self._changed:
                lost, self._lost = self._lost, 0
                line = self._lines.popleft()
                self._waiting_bytes -= len(line)
            told = not lost or self._put(self._encoded(self._dropped(lost)))
            written = self._put(line)
            with self._changed:
                self._lost += (0 if told else lost) + (not written)

    def _wait_for_room(self) -> None:
        poll = select.poll()
        poll.register(self._file, select.POLLOUT)
        poll.poll()

    def _put(self, data: bytes) -> bool:
        """Say whether *data* could be written; a full disk or a closed pipe must not stop the exporter."""
        while data:
            try:
                data = data[os.write(self._file, data) :]
            except BlockingIOError:  # whoever started us may have made it so
                self._wait_for_room()
            except OSError:
                return False
        return True


class _Line:
    """What structlog calls a logger: the end of the pipeline, which writes a line."""

    def __init__(self, sink: _Sink) -> None:
        self._sink = sink

    def msg(self, line: str) -> None:
        self._sink.write(line)

    debug = info = warning = error = critical = msg


class _LineFactory:
    def __init__(self, sink: _Sink) -> None:
        self._line = _Line(sink)

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


def _shortened(logger: WrappedLogger, name: str, event_dict: EventDict) -> EventDict:  # noqa: ARG001
    """Bound every value, after secrets were masked: half of one would not be found."""
    return {key: _short(value) for key, value in event_dict.items()}


def _short(value: Any) -> Any:
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) <= _LONGEST:
        return value
    return f"{text[: _LONGEST // 4]} ... {text[-3 * _LONGEST // 4 :]}"


def _to_json(logger: WrappedLogger, name: str, event_dict: EventDict) -> str:  # noqa: ARG001
    return json.dumps(event_dict)


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
