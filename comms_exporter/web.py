"""Answers over HTTP: the metrics, the probes, and a page for people who came to look."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Iterable
from html import escape
from typing import NamedTuple, Protocol

from aiohttp import web

# Below this, a body is not worth compressing.
_SMALL = 1024
# Above this, compressing takes longer than others should have to wait.
_LARGE = 2**16

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Writer(Protocol):
    """Writes the page in one of two formats."""

    def __call__(self, *, openmetrics: bool, names: Iterable[str]) -> bytes: ...  # noqa: D102


class Format(Protocol):
    """What a request's Accept header came to."""

    @property
    def openmetrics(self) -> bool: ...  # noqa: D102
    @property
    def content_type(self) -> str: ...  # noqa: D102


class Line(NamedTuple):
    """One account on the landing page: in good order or not, and a sentence."""

    name: str
    good: bool | None
    text: str


def make_app(
    *,
    version: str,
    telemetry_path: str,
    write: Writer,
    negotiate: Callable[[str], Format],
    accepts_gzip: Callable[[str], bool],
    healthy: Callable[[], bool],
    ready: Callable[[], bool],
    reload: Callable[[], Awaitable[str | None]],
    accounts: Callable[[], Iterable[Line]],
) -> web.Application:
    """Return the application; nothing that it answers asks the API anything.

    *reload* returns what is wrong with the settings, None where nothing is.
    """

    async def metrics(request: web.Request) -> web.Response:
        wanted = negotiate(request.headers.get("Accept", ""))
        body = write(openmetrics=wanted.openmetrics, names=request.query.getall("name[]", []))
        headers = {"Content-Type": wanted.content_type, "Vary": "Accept, Accept-Encoding"}
        if len(body) >= _SMALL and accepts_gzip(request.headers.get("Accept-Encoding", "")):
            headers["Content-Encoding"] = "gzip"
            body = await asyncio.to_thread(_gzip, body) if len(body) > _LARGE else _gzip(body)
        return web.Response(body=body, headers=headers)

    async def health(_: web.Request) -> web.Response:
        good = healthy()
        return web.Response(text="Healthy.\n" if good else "A poll loop has stopped.\n", status=200 if good else 503)

    async def readiness(_: web.Request) -> web.Response:
        good = ready()
        return web.Response(text="Ready.\n" if good else "The first poll is under way.\n", status=200 if good else 503)

    async def landing(_: web.Request) -> web.Response:
        page = _landing(version, telemetry_path, accounts())
        return web.Response(text=page, content_type="text/html", headers=_HEADERS)

    async def reloading(_: web.Request) -> web.Response:
        wrong = await reload()
        return web.Response(text="Reloaded.\n" if wrong is None else f"{wrong}\n", status=200 if wrong is None else 500)

    app = web.Application()
    app.router.add_get("/", landing)
    app.router.add_get(telemetry_path, metrics)
    app.router.add_get("/-/healthy", health)
    app.router.add_get("/-/ready", readiness)
    app.router.add_post("/-/reload", reloading)
    app.router.add_put("/-/reload", reloading)
    return app


def _gzip(body: bytes) -> bytes:
    return gzip.compress(body, compresslevel=1, mtime=0)


def _landing(version: str, telemetry_path: str, accounts: Iterable[Line]) -> str:
    rows = "\n".join(
        f'<tr><th scope="row">{escape(line.name)}</th>'
        f'<td class="{_CLASSES[line.good]}">{_WORDS[line.good]}</td><td>{escape(line.text)}</td></tr>'
        for line in accounts
    )
    return _PAGE.format(version=escape(version), path=escape(telemetry_path), rows=rows)


_CLASSES = {True: "good", False: "bad", None: "new"}
_WORDS = {True: "up", False: "failing", None: "starting"}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>comms-exporter</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 0 1rem 2rem; }}
header {{ border-bottom: 4px solid #e6522c; padding: 1rem 0 .5rem; }}
h1 {{ font-size: 1.4rem; margin: 0; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .4rem .8rem .4rem 0; vertical-align: top; border-bottom: 1px solid #8884; }}
td.good {{ color: light-dark(#1a7f37, #57d97b); }}
td.bad {{ color: light-dark(#c4221a, #ff7b72); font-weight: 600; }}
</style>
</head>
<body>
<header>
<h1>comms-exporter</h1>
<p>Email operations of Twilio's Comms API as Prometheus metrics. Version {version}.</p>
</header>
<main>
<h2>Accounts</h2>
<table>
{rows}
</table>
<h2>Where to look</h2>
<ul>
<li><a href="{path}">Metrics</a></li>
<li><a href="/-/healthy">Health</a>: whether the poll loops move</li>
<li><a href="/-/ready">Readiness</a>: whether every account was asked once</li>
</ul>
</main>
</body>
</html>
"""
