"""What we use of aiohttp although it is not documented, all in one place.

Any minor version may change it. So pyproject.toml bounds aiohttp, and tests/base/test_aiohttp_internals.py names each part.
"""

import asyncio

import aiohttp
from aiohttp import web


def send_once(session: aiohttp.ClientSession) -> None:
    """Have *session* send each request once: by itself it sends some again, uncounted and past the rate limit."""
    session._retry_connection = False  # noqa: SLF001  there is no public switch


class Connection(web.RequestHandler):
    """The server's end of a connection, which can tell how far its next request has come."""

    def __init__(
        self, server: web.Server, *, keepalive_seconds: float, lingering_seconds: float, max_headers: int
    ) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=keepalive_seconds,
            access_log=None,  # type: ignore[arg-type]
            lingering_time=lingering_seconds,
            max_headers=max_headers,
        )

    @property
    def requests_received(self) -> int:
        """How many requests have come so far, each with all its headers."""
        return self._request_count

    @property
    def waits_for_request(self) -> bool:
        """Whether everything that has come is answered, and the next request is not complete."""
        return self._waiter is not None and not self._waiter.done()
