"""The path of a log event: structlog's processors, then the writer; libraries join it too."""

import logging
import sys
from collections.abc import Iterable
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import FilteringBoundLogger, Processor

from comms_exporter.base.redaction import Redactor
from comms_exporter.logs.rendering import add_header, masker, shorten, to_json, to_logfmt
from comms_exporter.logs.stdlib import take_over_stdlib
from comms_exporter.logs.writer import Writer, writer_for

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


def configure(
    level: str,
    format: Literal["logfmt", "json"],  # noqa: A002  the name of the flag
    stream: TextIO | None = None,
    redact: Iterable[str] | Redactor = (),
) -> FilteringBoundLogger:
    """Configure logging of this process to *stream*, by default stderr, and return its logger.

    To mask more secrets after a reload, pass a Redactor.
    """
    render: Processor = to_json if format == "json" else to_logfmt

    def render_dropped(count: int) -> str:
        event = add_header(None, "warning", {"event": "log lines dropped: stderr is blocked", "lines": count})
        return str(render(None, "warning", event))

    processors: list[Processor] = [
        add_header,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,  # a plain traceback, without local variables
        masker(redact if isinstance(redact, Redactor) else Redactor(redact)),
        shorten,
        render,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=_LineLoggerFactory(writer_for(stream or sys.stderr, render_dropped)),
        cache_logger_on_first_use=False,
    )
    log: FilteringBoundLogger = structlog.get_logger()
    take_over_stdlib(log, max(_LEVELS[level], logging.WARNING))
    return log


class _LineLogger:
    """The logger that structlog wraps: it writes rendered lines."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def msg(self, line: str) -> None:
        self._writer.write(line)

    debug = info = warning = error = critical = msg


class _LineLoggerFactory:
    def __init__(self, writer: Writer) -> None:
        self._logger = _LineLogger(writer)

    def __call__(self, *_: Any) -> _LineLogger:
        return self._logger
