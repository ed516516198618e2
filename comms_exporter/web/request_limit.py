"""Limit how many requests are answered at a time; more get a 503."""

from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter


class TrackedResponse(web.Response):
    """A response that calls *ended* once, when it has been written or has failed."""

    ended: Callable[[], None] | None = None

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write the headers."""
        try:
            return await super().prepare(request)
        except BaseException:
            self._end()
            raise

    async def write_eof(self, data: bytes = b"") -> None:
        """Write the body."""
        try:
            await super().write_eof(data)
        finally:
            self._end()

    def _end(self) -> None:
        ended, self.ended = self.ended, None
        if ended is not None:
            ended()


def limit_requests(
    handler: Callable[[web.Request], Awaitable[TrackedResponse]], limit: int
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return *handler* for at most *limit* requests at a time, each of which counts until its response is written."""
    in_flight = 0

    def ended() -> None:
        nonlocal in_flight
        in_flight -= 1

    async def serve(request: web.Request) -> web.Response:
        nonlocal in_flight
        if in_flight >= limit:
            return web.Response(text=f"Limit of concurrent requests reached ({limit}), try again later.\n", status=503)
        in_flight += 1
        try:
            response = await handler(request)
        except BaseException:
            ended()
            raise
        response.ended = ended
        return response

    return serve
