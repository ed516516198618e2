"""What happens if a request is malformed or its handler fails: a short response, and a log line without its content."""

import logging
from http import HTTPStatus
from pathlib import Path
from traceback import walk_tb

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError

from comms_exporter.web.responses import DEFAULT_HEADERS

# UnicodeEncodeError: bytes in the request's headers that are not UTF-8. Nothing else causes it.
_MALFORMED = (HttpProcessingError, web.RequestPayloadError, UnicodeEncodeError)

# Through logging of the standard library, where a rate limit applies: clients cause these lines.
_log = logging.getLogger(__name__)


def error_response(error: BaseException | None, status: int) -> web.Response:
    """Return the response to a request that is malformed, or whose handler failed with *error*."""
    headers = dict(DEFAULT_HEADERS)
    if isinstance(error, BadHttpMethod):
        # aiohttp has not parsed the path yet, so these are the methods of all paths.
        status, headers["Allow"] = 405, "GET, HEAD, POST, PUT"
    elif isinstance(error, _MALFORMED):
        status = 400
    response = web.Response(status=status, text=f"{status}: {HTTPStatus(status).phrase}\n", headers=headers)
    response.force_close()
    return response


def log_request_error(error: BaseException | None, client: str) -> None:
    """Log *error* in one line, without its message and variables, which may contain parts of the request."""
    if isinstance(error, _MALFORMED):
        _log.warning("malformed request from %s", client)
    elif not isinstance(error, ConnectionError):
        _log.error("request handler failed; please report this bug: %s", _origin(error))


def _origin(error: BaseException | None) -> str:
    """Return the type of *error* and the last calls that led to it, innermost first."""
    if error is None:
        return "no exception"
    calls = [
        f"{Path(frame.f_code.co_filename).name}:{line} {frame.f_code.co_name}"
        for frame, line in walk_tb(error.__traceback__)
    ]
    return " < ".join([type(error).__name__, *calls[:-6:-1]])
