"""Answers over HTTP: the metrics, the probes, and a page for people who came to look."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from comms_exporter.base.slices import run_in_slices
from comms_exporter.web.status_page.assets import ASSETS, Asset
from comms_exporter.web.status_page.model import Status
from comms_exporter.web.status_page.render import render_page
from comms_exporter.web.status_page.search import OperationList, Search

# Scrapes at a time that are being written; the others wait for their turn. Neither they nor probes wait for people.
MAX_SCRAPES = 16
# A list of the operations serves everybody who looks within so many seconds.
LISTING_SECONDS = 1.0

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Body(Protocol):
    """A page of *length* bytes, in chunks."""

    @property
    def chunks(self) -> Sequence[bytes]: ...  # noqa: D102
    @property
    def length(self) -> int: ...  # noqa: D102


class Writer(Protocol):
    """Writes the page in one of two formats."""

    async def __call__(self, *, openmetrics: bool, gzip: bool, names: Iterable[str]) -> Body: ...  # noqa: D102


class Format(Protocol):
    """What a request's Accept header came to."""

    @property
    def openmetrics(self) -> bool: ...  # noqa: D102
    @property
    def content_type(self) -> str: ...  # noqa: D102


def make_app(
    *,
    telemetry_path: str,
    write: Writer,
    negotiate: Callable[[str], Format],
    accepts_gzip: Callable[[str], bool],
    healthy: Callable[[], bool],
    ready: Callable[[], bool],
    reload: Callable[[], Awaitable[str | None]],
    status: Callable[[], Status],
    settings: Callable[[], str],
) -> web.Application:
    """Return the application; nothing that it answers asks the API anything.

    *reload* returns what is wrong with the settings, None where nothing is; *settings* is what may be told of them.
    """
    scraping = asyncio.Semaphore(MAX_SCRAPES)
    status_page = _StatusPage(status)

    async def metrics(request: web.Request) -> web.Response:
        wanted = negotiate(request.headers.get("Accept", ""))
        gzip = accepts_gzip(request.headers.get("Accept-Encoding", ""))
        async with scraping:
            body = await write(openmetrics=wanted.openmetrics, gzip=gzip, names=request.query.getall("name[]", []))
        headers = {"Content-Type": wanted.content_type, "Vary": "Accept, Accept-Encoding"}
        if gzip:
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=_Chunks(body), headers=headers)

    async def health(_: web.Request) -> web.Response:
        good = healthy()
        return web.Response(text="Healthy.\n" if good else "A poll loop has stopped.\n", status=200 if good else 503)

    async def readiness(_: web.Request) -> web.Response:
        good = ready()
        return web.Response(text="Ready.\n" if good else "The first poll is under way.\n", status=200 if good else 503)

    async def landing(request: web.Request) -> web.Response:
        page = await status_page.render(Search.from_query(request.query))
        return web.Response(text=page, content_type="text/html", headers=_HEADERS)

    async def configuration(_: web.Request) -> web.Response:
        return web.Response(text=settings(), headers=_HEADERS)

    async def reloading(request: web.Request) -> web.Response:
        if _is_cross_site(request.headers):
            return web.Response(text="A page of another site may not reload.\n", status=403)
        wrong = await reload()
        return web.Response(text="Reloaded.\n" if wrong is None else f"{wrong}\n", status=200 if wrong is None else 500)

    app = web.Application()
    # First, so that the metrics are where the settings say, whatever of ours is there too.
    app.router.add_get(telemetry_path, metrics)
    app.router.add_get("/", landing)
    app.router.add_get("/config", configuration)
    for asset in ASSETS:
        app.router.add_get(f"/static/{asset.name}", _serve(asset))
    app.router.add_get("/-/healthy", health)
    app.router.add_get("/-/ready", readiness)
    app.router.add_post("/-/reload", reloading)
    app.router.add_put("/-/reload", reloading)
    return app


def _is_cross_site(headers: Mapping[str, str]) -> bool:
    """Whether a browser sends the request on behalf of a page that is not ours; what is no browser sends neither header."""
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in {"same-origin", "none"}
    # Over plain HTTP, browsers send this one alone. A proxy in front of us may have ended TLS: the scheme says nothing.
    origin = headers.get("Origin")
    return origin is not None and origin.partition("://")[2].lower() != headers.get("Host", "").lower()


class _StatusPage:
    """Renders the status page, one viewer at a time; lists the operations once in LISTING_SECONDS for all of them."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status
        self._turn = asyncio.Lock()
        self._operations: OperationList | None = None

    async def render(self, search: Search) -> str:
        """Return the page with the operations that *search* finds."""
        async with self._turn:
            status = self._status()
            operations = self._operations
            if operations is None:
                self._operations = operations = await run_in_slices(
                    OperationList.collect(status.operations, status.now)
                )
                # Dropped when it expires rather than at the next request: it may be large, and nobody may look again.
                asyncio.get_running_loop().call_later(LISTING_SECONDS, self._drop)
            return await run_in_slices(render_page(status, await run_in_slices(operations.search(search))))

    def _drop(self) -> None:
        self._operations = None


class _Chunks(Payload):
    """A body that gives way to others between its chunks."""

    def __init__(self, body: Body) -> None:
        super().__init__(body)
        self._size = body.length
        self.chunks = body.chunks

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._value.chunks).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        for chunk in self._value.chunks:
            await writer.write(chunk)
            # A client as fast as we are would never have us wait.
            await asyncio.sleep(0)


def _serve(asset: Asset) -> Callable[[web.Request], Awaitable[web.Response]]:
    # Its address changes with it, so a browser may keep it.
    headers = {**_HEADERS, "Cache-Control": "public, max-age=86400, immutable"}

    async def serve(_: web.Request) -> web.Response:
        return web.Response(text=asset.text, content_type=asset.content_type, headers=headers)

    return serve
