"""All undocumented parts of aiohttp that we use.

Any minor version may change them. So pyproject.toml sets an upper bound, and tests/base/test_aiohttp_internals.py names each.
"""

import asyncio

import aiohttp
from aiohttp import web


def send_once(session: aiohttp.ClientSession) -> None:
    """Make *session* send each request once: by default it retries some, without counting them or respecting the rate limit."""
    session._retry_connection = False  # noqa: SLF001  there is no public switch


class ServerConnection(web.RequestHandler):
    """The server's end of a connection, which knows whether it is receiving a request."""

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
        """How many requests have arrived so far, each with all its headers."""
        return self._request_count

    @property
    def waits_for_request(self) -> bool:
        """Whether all requests have been answered, and the next one is not complete."""
        return self._waiter is not None and not self._waiter.done()
