"""Send what libraries and the interpreter report to our own logger: logging, warnings, and uncaught exceptions."""

import atexit
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from structlog.typing import FilteringBoundLogger

from comms_exporter.base.token_bucket import TokenBucket

# Lines of one logger and level that pass at once, and how long one more takes.
_BURST = 10
_REFILL_SECONDS = 10.0


def take_over_stdlib(log: FilteringBoundLogger, level: int) -> None:
    """Forward records of the standard library's loggers, from *level* up, to *log*."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _ForwardingHandler)]:
        root.removeHandler(handler)
        handler.close()
    root.addHandler(_ForwardingHandler(log))
    root.setLevel(level)
    # A line per scrape and probe adds nothing to the access log of a proxy.
    logging.getLogger("aiohttp.access").disabled = True


@contextmanager
def log_uncaught(log: FilteringBoundLogger) -> Iterator[None]:
    """Within the context, log what the interpreter would print itself, where a blocked stderr would stop the process."""

    def log_thread_exception(args: threading.ExceptHookArgs) -> None:
        log.error("thread crashed; please report this bug", exc_info=args.exc_value)

    def log_unraisable(args: Any) -> None:
        log.error("ignored exception", where=args.object, exc_info=args.exc_value)

    hooks_before = threading.excepthook, sys.unraisablehook
    threading.excepthook, sys.unraisablehook = log_thread_exception, log_unraisable
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        threading.excepthook, sys.unraisablehook = hooks_before


@dataclass(slots=True)
class _Limit:
    """The rate limit of one logger and level, and how many lines it has suppressed since the last one."""

    bucket: TokenBucket
    suppressed: int = 0


class _ForwardingHandler(logging.Handler):
    """Forwards records to our own logger, rate limited because strangers can cause them."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__()
        self._log = log
        self._limits: dict[tuple[str, int], _Limit] = {}
        # Reports what is still suppressed when the process ends.
        atexit.register(self.close)

    def emit(self, record: logging.LogRecord) -> None:
        limit = self._limits.get((record.name, record.levelno))
        if limit is None:
            bucket = TokenBucket(burst=_BURST, seconds_per_token=_REFILL_SECONDS, monotonic=time.monotonic)
            limit = self._limits[record.name, record.levelno] = _Limit(bucket)
        if not limit.bucket.take():
            limit.suppressed += 1
            return
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001  logging would print the arguments, including secrets
            message = str(record.msg)
        fields = {"suppressed": limit.suppressed} if limit.suppressed else {}
        limit.suppressed = 0
        write = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        write(message, logger=record.name, exc_info=record.exc_info, **fields)

    def close(self) -> None:
        atexit.unregister(self.close)
        for (name, _), limit in self._limits.items():
            if limit.suppressed:
                self._log.warning("suppressed similar log lines", logger=name, suppressed=limit.suppressed)
                limit.suppressed = 0
        super().close()
