"""Log to stderr in logfmt or JSON, one line per event, with credentials masked and without ever blocking."""

from comms_exporter.logs.pipeline import configure
from comms_exporter.logs.stdlib import log_uncaught

__all__ = ["configure", "log_uncaught"]
