"""The web application: metrics, probes, reloads, the status page and the effective settings."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol

from aiohttp import web

from comms_exporter.web.request_limit import TrackedResponse, limit_requests
from comms_exporter.web.responses import ChunkedBody
from comms_exporter.web.status_page.assets import ASSETS, Asset
from comms_exporter.web.status_page.model import OperationDetail, Status
from comms_exporter.web.status_page.page import StatusPage
from comms_exporter.web.status_page.render import render_operation
from comms_exporter.web.status_page.search import Search, valid_text

# Responses to scrapes that are prepared at a time. Probes and viewers of the status page do not count.
MAX_SCRAPES = 16

Handler = Callable[[web.Request], Awaitable[web.Response]]

_UNKNOWN_OPERATION = "The exporter does not know this operation: it is older than 7 days, belongs to another account, or does not exist.\n"
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Body(Protocol):
    """An exposition of *length* bytes, in chunks."""

    @property
    def chunks(self) -> Sequence[bytes]: ...  # noqa: D102
    @property
    def length(self) -> int: ...  # noqa: D102


class Writer(Protocol):
    """Writes the exposition in one of two formats; *names*, if there are any, select the metrics."""

    async def __call__(self, *, openmetrics: bool, gzip: bool, names: Iterable[str]) -> Body: ...  # noqa: D102


class Format(Protocol):
    """The format that an Accept header asks for."""

    @property
    def openmetrics(self) -> bool: ...  # noqa: D102
    @property
    def content_type(self) -> str: ...  # noqa: D102


async def _nothing() -> None:
    pass


def make_app(
    *,
    telemetry_path: str,
    max_requests: int = 0,
    write: Writer,
    negotiate: Callable[[str], Format],
    accepts_gzip: Callable[[str], bool],
    healthy: Callable[[], bool],
    ready: Callable[[], bool],
    reload: Callable[[], Awaitable[str | None]],
    status: Callable[[], Status],
    operation: Callable[[str, str], OperationDetail | None],
    settings: Callable[[], str],
    verify: Callable[[], Awaitable[None]] = _nothing,
) -> web.Application:
    """Return the application; no request to it causes a request to the API.

    At most *max_requests* scrapes are answered at a time, any number if it is 0. *reload* returns an error message, or None
    after a success; *settings* returns the effective settings without secrets. *operation* returns what is known of an
    operation by its account and id; without an account, any may have it. *verify* is awaited before *status* and *operation*.
    """
    scrapes = asyncio.Semaphore(MAX_SCRAPES)
    status_page = StatusPage(status)

    async def get_metrics(request: web.Request) -> TrackedResponse:
        wanted = negotiate(request.headers.get("Accept", ""))
        gzip = accepts_gzip(request.headers.get("Accept-Encoding", ""))
        async with scrapes:
            body = await write(openmetrics=wanted.openmetrics, gzip=gzip, names=request.query.getall("name[]", []))
        headers = {"Content-Type": wanted.content_type, "Vary": "Accept, Accept-Encoding"}
        if gzip:
            headers["Content-Encoding"] = "gzip"
        return TrackedResponse(body=ChunkedBody(body.chunks, body.length, buffers=body.chunks), headers=headers)

    async def get_health(_: web.Request) -> web.Response:
        good = healthy()
        return web.Response(text="Healthy.\n" if good else "A poll loop is overdue.\n", status=200 if good else 503)

    async def get_readiness(_: web.Request) -> web.Response:
        good = ready()
        return web.Response(
            text="Ready.\n" if good else "The first poll has not finished.\n", status=200 if good else 503
        )

    async def get_status_page(request: web.Request) -> web.Response:
        await verify()
        page = await status_page.render(Search.from_query(request.query))
        return web.Response(text=page, content_type="text/html", headers=_PAGE_HEADERS)

    async def get_settings(_: web.Request) -> web.Response:
        return web.Response(text=settings(), headers=_PAGE_HEADERS)

    async def post_reload(request: web.Request) -> web.Response:
        if _is_cross_site(request.headers):
            return web.Response(text="Pages of other sites may not reload the configuration.\n", status=403)
        error = await reload()
        return web.Response(text="Reloaded.\n" if error is None else f"{error}\n", status=200 if error is None else 500)

    app = web.Application()
    # First, so that the telemetry path may be any path, even one of those below.
    app.router.add_get(telemetry_path, limit_requests(get_metrics, max_requests) if max_requests else get_metrics)
    app.router.add_get("/", get_status_page)
    app.router.add_get("/operation", _serve_operation(operation, verify))
    app.router.add_get("/config", get_settings)
    for asset in ASSETS:
        app.router.add_get(f"/static/{asset.name}", _serve(asset))
    app.router.add_get("/-/healthy", get_health)
    app.router.add_get("/-/ready", get_readiness)
    app.router.add_post("/-/reload", post_reload)
    app.router.add_put("/-/reload", post_reload)
    return app


def _serve_operation(
    find: Callable[[str, str], OperationDetail | None], verify: Callable[[], Awaitable[None]]
) -> Handler:
    async def serve(request: web.Request) -> web.Response:
        await verify()
        account, operation_id = (valid_text(request.query.get(name, "")) for name in ("account", "id"))
        detail = find(account, operation_id)
        if detail is None:
            return web.Response(text=_UNKNOWN_OPERATION, status=404, headers=_PAGE_HEADERS)
        return web.Response(text=render_operation(detail), content_type="text/html", headers=_PAGE_HEADERS)

    return serve


def _is_cross_site(headers: Mapping[str, str]) -> bool:
    """Whether a browser sends the request for a page of another site; other clients send neither of these headers."""
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in {"same-origin", "none"}
    # Over plain HTTP, browsers send only Origin. Its scheme is ignored, because a proxy may terminate TLS.
    origin = headers.get("Origin")
    return origin is not None and origin.partition("://")[2].lower() != headers.get("Host", "").lower()


def _serve(asset: Asset) -> Handler:
    # Its URL changes with its content, so a browser may cache it.
    headers = {**_PAGE_HEADERS, "Cache-Control": "public, max-age=86400, immutable"}

    async def serve(_: web.Request) -> web.Response:
        return web.Response(text=asset.text, content_type=asset.content_type, headers=headers)

    return serve
