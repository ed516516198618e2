"""Response bodies that leave time for other tasks, and the headers of every response."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload
from aiohttp.typedefs import Handler

# Bytes to write at once. The rest of a response follows as the client reads it.
WRITE_SIZE = 2**16
DEFAULT_HEADERS = {
    "Server": "comms-exporter",  # without a version, so that clients cannot look up its vulnerabilities
    "X-Content-Type-Options": "nosniff",
}


class ChunkedBody(Payload):
    """A body that is written chunk by chunk, so that other tasks run in between; *buffers* are what it keeps in memory."""

    def __init__(self, chunks: Sequence[bytes | memoryview], size: int, *, buffers: Sequence[bytes]) -> None:
        super().__init__(chunks)
        self._size = size
        self.buffers = buffers

    @classmethod
    def split(cls, body: bytes) -> "ChunkedBody":
        """Return *body* in chunks; aiohttp would copy it into the connection's buffer as a whole."""
        view = memoryview(body)
        chunks = [view[start : start + WRITE_SIZE] for start in range(0, len(view), WRITE_SIZE)]
        return cls(chunks, len(body), buffers=[body])

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the body as text."""
        return b"".join(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the body."""
        for chunk in self._value:
            await writer.write(chunk)
            # write() pauses only if the client reads more slowly than we write.
            await asyncio.sleep(0)


def buffers_of(response: web.StreamResponse) -> Sequence[bytes]:
    """Return what *response* keeps in memory until it is sent."""
    body = response.body if isinstance(response, web.Response) else None
    if isinstance(body, ChunkedBody):
        return body.buffers
    return [body] if isinstance(body, bytes) else ()


def add_headers(app: web.Application, configured: Callable[[], Mapping[str, str]]) -> None:
    """Send the default headers and those that are *configured* with every response of *app*."""

    async def prepare(_: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(DEFAULT_HEADERS)
        response.headers.update(configured())

    app.on_response_prepare.append(prepare)


@web.middleware
async def split_large_bodies(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Send a large body in chunks."""
    response = await handler(request)
    if isinstance(response, web.Response) and isinstance(response.body, bytes) and len(response.body) > WRITE_SIZE:
        response.body = ChunkedBody.split(response.body)
    return response
