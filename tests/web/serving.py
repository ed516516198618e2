"""A small application on the real server, and clients that connect to it."""

import asyncio
import socket
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
from aiohttp import web

from comms_exporter.config import parse_listen_address
from comms_exporter.web.server import listening
from comms_exporter.web.web_config_file import WebConfigFile

# Larger than the system's buffers for one connection.
PAGE = b"# a page\n" * 2_000_000
HUGE = bytes(25_000_000)
UNSHARED_SIZE = 2**23


def make_app():
    app = web.Application()

    async def small(_):
        return web.Response(text="ok\n")

    async def large(_):
        return web.Response(body=PAGE)

    async def huge(_):
        return web.Response(body=HUGE)

    async def unshared(_):
        return web.Response(body=bytes(UNSHARED_SIZE))

    async def medium(_):
        return web.Response(body=b"x" * 60_000)

    async def read(request):
        return web.Response(text=str(len(await request.read())))

    async def broken(_):
        raise RuntimeError

    app.router.add_get("/", small)
    app.router.add_get("/large", large)
    app.router.add_get("/huge", huge)
    app.router.add_get("/unshared", unshared)
    app.router.add_get("/medium", medium)
    app.router.add_get("/broken", broken)
    app.router.add_post("/", small)
    app.router.add_post("/read", read)
    return app


@asynccontextmanager
async def serving(*addresses, **options):
    """Serve on *addresses*, by default on a free port of 127.0.0.1; yields the first URL."""
    wanted = [parse_listen_address(address) for address in addresses or ["127.0.0.1:0"]]
    async with listening(make_app(), wanted, **options) as urls:
        yield urls[0]


@asynccontextmanager
async def configured(directory, text, log, **options):
    """Serve with *text* as the web config file; yields the URL and the path of the file."""
    path = directory / "web.yml"
    path.write_text(text)
    web_config = WebConfigFile(path, log=log.log)
    async with serving("127.0.0.1:0", web_config=web_config, shutdown_seconds=0.1, **options) as url:
        yield url, path


async def get(url, path="/", **options):
    async with aiohttp.ClientSession() as session, session.get(f"{url}{path}", **options) as response:
        return response.status, await response.text()


def port_of(url):
    return int(url.rpartition(":")[2])


# A connection that is garbage collected closes itself.
_connections = []


async def connect(url, sent=b"", **options):
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url), **options)
    _connections.append(writer)
    writer.write(sent)
    return reader, writer


async def stall(url, path):
    """Request *path*, and read nothing of the response."""
    loop = asyncio.get_running_loop()
    client = socket.socket()
    _connections.append(client)
    client.setblocking(False)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await loop.sock_connect(client, ("127.0.0.1", port_of(url)))
    await loop.sock_sendall(client, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


async def disconnect_all():
    """Close all connections that *connect* and *stall* opened."""
    while _connections:
        connection = _connections.pop()
        if isinstance(connection, socket.socket):
            connection.close()
        else:
            connection.transport.abort()
    await asyncio.sleep(0)


async def read_until_closed(reader):
    """Return what the server sends before it closes the connection."""
    with suppress(ConnectionError):
        async with asyncio.timeout(10):
            return await reader.read()
    return b""


def server_connections(url):
    """Return the server's ends of its established connections, as the system lists them."""
    port = f":{port_of(url):04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [words for words in lines if words[1].endswith(port) and words[3] == "01"]
