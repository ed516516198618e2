"""Serve an application on all addresses, with TLS, authentication and connection limits."""

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiohttp import web

from comms_exporter.web.auth import require_auth
from comms_exporter.web.connection_limiter import ConnectionLimiter
from comms_exporter.web.limits import Limits
from comms_exporter.web.responses import add_headers, split_large_bodies
from comms_exporter.web.sockets import Address, bind, url_of
from comms_exporter.web.web_config_file import WebConfigFile

_DEFAULT_LIMITS = Limits()


@asynccontextmanager
async def listening(
    app: web.Application,
    addresses: Sequence[Address],
    *,
    sockets: Sequence[socket.socket] = (),
    web_config: WebConfigFile | None = None,
    limits: Limits = _DEFAULT_LIMITS,
    shutdown_seconds: float = 2.0,
) -> AsyncIterator[list[str]]:
    """Serve *app* on all *addresses* and *sockets* within the context, and yield their URLs."""
    app.middlewares.insert(0, split_large_bodies)
    if web_config is not None:
        require_auth(app, web_config, max_waiting=limits.waiting_passwords)
    add_headers(app, lambda: web_config.current().config.headers if web_config else {})
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=shutdown_seconds)
    await runner.setup()
    assert runner.server is not None  # noqa: S101  since setup
    limiter = ConnectionLimiter(runner.server, web_config, limits)
    try:
        for listener in sockets:
            limiter.accept_from(listener)
        urls = [url_of(listener, limiter.scheme) for listener in sockets]
        for address in addresses:
            bound = await bind(address)
            for listener in bound:
                limiter.accept_from(listener)
            urls.append(url_of(bound[0], limiter.scheme, address.host or "localhost"))
        yield urls
    finally:
        await limiter.stop_accepting()
        await runner.cleanup()
        await limiter.disconnect_all()
