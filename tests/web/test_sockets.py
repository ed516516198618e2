"""Which sockets the exporter listens on, and what it says if it cannot."""

import asyncio
import os
import socket
import sys
from contextlib import suppress

import aiohttp
import pytest
from web.serving import connect, get, make_app, port_of, read_until_closed, serving

from comms_exporter.config import parse_listen_address
from comms_exporter.web import sockets
from comms_exporter.web.server import listening
from comms_exporter.web.sockets import CannotListenError, systemd_sockets


class TestListening:
    async def test_serves_on_every_address(self):
        addresses = [parse_listen_address(text) for text in ("127.0.0.1:0", "[::1]:0", "localhost:0")]
        async with listening(make_app(), addresses) as urls:
            assert ["http://127.0.0.1", "http://[::1]", "http://localhost"] == [url.rpartition(":")[0] for url in urls]
            for url in urls:
                assert (200, "ok\n") == await get(url)

    async def test_uses_one_port_for_ipv4_and_ipv6_without_a_host(self):
        async with serving(":0") as url:
            assert (200, "ok\n") == await get(f"http://127.0.0.1:{port_of(url)}")
            assert (200, "ok\n") == await get(f"http://[::1]:{port_of(url)}")

    @pytest.mark.parametrize("host", ["127.0.0.1", ""])
    async def test_names_an_address_that_is_in_use(self, host):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"{host}:{taken.getsockname()[1]}"
            with pytest.raises(CannotListenError, match=f"^cannot listen on {address}: address already in use$"):
                async with serving("127.0.0.1:0", address):
                    pass

    async def test_names_a_host_that_is_unknown(self):
        with pytest.raises(CannotListenError, match=r"^cannot listen on no\.invalid:0: .*not known"):
            async with serving("no.invalid:0"):
                pass

    async def test_serves_on_sockets_that_it_is_given(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
            unix.bind(str(tmp_path / "web.sock"))
            unix.listen()
            async with listening(make_app(), [], sockets=[tcp, unix]) as urls:
                assert [f"http://127.0.0.1:{tcp.getsockname()[1]}", f"http+unix:{tmp_path}/web.sock"] == urls
                assert (200, "ok\n") == await get(urls[0])
                connector = aiohttp.UnixConnector(str(tmp_path / "web.sock"))
                async with aiohttp.ClientSession(connector=connector) as session, session.get("http://x/") as response:
                    assert 200 == response.status

    async def test_closes_all_connections_at_the_end(self):
        async with serving(shutdown_seconds=0.1) as url:
            idle, _ = await connect(url)
            incomplete, _ = await connect(url, b"GET / HT")
            stalled, _ = await connect(url, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n", limit=1024)
            await stalled.readexactly(10)
        assert b"" == await read_until_closed(idle)
        assert b"" == await read_until_closed(incomplete)
        with pytest.raises(OSError, match="Connect call failed"):
            await connect(url)

    @pytest.mark.parametrize("turns", range(5))
    async def test_closes_a_connection_that_arrives_while_it_stops(self, turns):
        """Whatever the event loop has done with it so far, no socket is left to the garbage collector."""
        async with serving(shutdown_seconds=0.1) as url:
            assert (200, "ok\n") == await get(url)  # so that the server is waiting for connections
            client = socket.create_connection(("127.0.0.1", port_of(url)))
            for _ in range(turns):
                await asyncio.sleep(0)
        with client, suppress(ConnectionResetError):
            client.settimeout(5)
            assert b"" == client.recv(1)


SYSTEMD = """
import asyncio, os, sys
from aiohttp import web
from comms_exporter.web.server import listening
from comms_exporter.web.sockets import systemd_sockets
# What systemd does before it starts a service.
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
async def main():
    app = web.Application()
    async def ok(_): return web.Response(text="by systemd")
    app.router.add_get("/", ok)
    async with listening(app, [], sockets=systemd_sockets(os.environ, os.getpid())) as urls:
        print(*urls, flush=True)
        await asyncio.to_thread(input)
asyncio.run(main())
"""


class TestSystemdSockets:
    async def test_serves_on_a_socket_from_systemd(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            number = listener.fileno()
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-W", "error", "-c", SYSTEMD, str(number)),
                pass_fds=[number],
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            url = (await child.stdout.readline()).decode().strip()
            assert f"http://127.0.0.1:{listener.getsockname()[1]}" == url
            assert (200, "by systemd") == await get(url)
            await child.communicate(b"\n")
            assert 0 == child.returncode

    @pytest.mark.parametrize(
        "environ", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_PID": "7", "LISTEN_FDS": "0"}]
    )
    def test_says_that_systemd_passed_no_socket(self, environ):
        with pytest.raises(CannotListenError, match="systemd passed no socket"):
            systemd_sockets(environ, 7)

    @pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, None])
    def test_rejects_a_socket_that_accepts_no_connections(self, monkeypatch, tmp_path, kind):
        with socket.socket(type=kind) if kind else (tmp_path / "file").open("w") as passed:
            number = os.dup(passed.fileno())  # systemd_sockets() owns it from now on
            monkeypatch.setattr(sockets, "_SYSTEMD_FIRST", number)
            with pytest.raises(CannotListenError, match="does not accept connections"):
                systemd_sockets({"LISTEN_PID": "7", "LISTEN_FDS": "1"}, 7)
            if kind is None:
                os.close(number)
