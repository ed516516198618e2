"""Who gets in, by which socket, and what the slow, the silent and the greedy cannot take from the others."""

import asyncio
import base64
import os
import re
import resource
import signal
import socket
import sys
import threading
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import bcrypt
import pytest
from aiohttp import web
from web.tls import MUTUAL, TLS, trusting

from comms_exporter.config import parse_listen_address
from comms_exporter.web import server as web_server
from comms_exporter.web.server import Bucket, BusyError, CannotListenError, Passwords, listening, systemd_sockets
from comms_exporter.web.web_config import Rate, WebConfigFile

PAGE = b"# a page\n" * 2_000_000  # more than the system takes off our hands for one connection

HUGE = bytes(25_000_000)


def make_app():
    app = web.Application()

    async def small(_):
        return web.Response(text="ok\n")

    async def large(_):
        return web.Response(body=PAGE)

    async def huge(_):
        return web.Response(body=HUGE)

    async def own(_):
        return web.Response(body=bytes(2**23))

    async def medium(_):
        return web.Response(body=b"x" * 60_000)

    async def read(request):
        return web.Response(text=str(len(await request.read())))

    async def broken(_):
        raise RuntimeError

    app.router.add_get("/", small)
    app.router.add_get("/large", large)
    app.router.add_get("/huge", huge)
    app.router.add_get("/own", own)
    app.router.add_get("/medium", medium)
    app.router.add_get("/broken", broken)
    app.router.add_post("/", small)
    app.router.add_post("/read", read)
    return app


@asynccontextmanager
async def serving(*addresses, **options):
    """Serve on *addresses*, one of this machine by default; gives the first URL."""
    wanted = [parse_listen_address(address) for address in addresses or ["127.0.0.1:0"]]
    async with listening(make_app(), wanted, **options) as urls:
        yield urls[0]


async def get(url, path="/", **options):
    async with aiohttp.ClientSession() as session, session.get(f"{url}{path}", **options) as response:
        return response.status, await response.text()


def port_of(url):
    return int(url.rpartition(":")[2])


async def connect(url, sent=b"", **options):
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url), **options)
    _connected.append(writer)  # which would close itself when forgotten
    writer.write(sent)
    return reader, writer


_connected = []
_stalling = []


@pytest.fixture(autouse=True)
async def hanging_up():
    """No client is left over for the next test."""
    yield
    while _connected:
        writer = _connected.pop()
        writer.transport.abort()
    while _stalling:
        _stalling.pop().close()
    await asyncio.sleep(0)


async def hung_up(reader):
    """Return what came before the other side hung up."""
    with suppress(ConnectionError):
        async with asyncio.timeout(10):
            return await reader.read()
    return b""


class TestListening:
    async def test_serves_on_every_address(self):
        addresses = [parse_listen_address(text) for text in ("127.0.0.1:0", "[::1]:0", "localhost:0")]
        async with listening(make_app(), addresses) as urls:
            assert [r"http://127.0.0.1", "http://[::1]", "http://localhost"] == [u.rpartition(":")[0] for u in urls]
            for url in urls:
                assert (200, "ok\n") == await get(url)

    async def test_is_on_one_port_for_both_families_where_no_host_is_named(self):
        async with serving(":0") as url:
            assert (200, "ok\n") == await get(f"http://127.0.0.1:{port_of(url)}")
            assert (200, "ok\n") == await get(f"http://[::1]:{port_of(url)}")

    @pytest.mark.parametrize("host", ["127.0.0.1", ""])
    async def test_says_which_address_is_taken(self, host):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"{host}:{taken.getsockname()[1]}"
            with pytest.raises(CannotListenError, match=f"^cannot listen on {address}: address already in use$"):
                async with serving("127.0.0.1:0", address):
                    pass

    async def test_says_which_name_is_unknown(self):
        with pytest.raises(CannotListenError, match=r"^cannot listen on no\.invalid:0: .*not known"):
            async with serving("no.invalid:0"):
                pass

    async def test_takes_sockets_that_others_have_made(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as one, socket.socket(socket.AF_UNIX) as two:
            two.bind(str(tmp_path / "web.sock"))
            two.listen()
            async with listening(make_app(), [], sockets=[one, two]) as urls:
                assert [f"http://127.0.0.1:{one.getsockname()[1]}", f"http+unix:{tmp_path}/web.sock"] == urls
                assert (200, "ok\n") == await get(urls[0])
                connector = aiohttp.UnixConnector(str(tmp_path / "web.sock"))
                async with aiohttp.ClientSession(connector=connector) as session, session.get("http://x/") as response:
                    assert 200 == response.status

    async def test_hangs_up_on_everybody_at_the_end(self):
        async with serving(shutdown_seconds=0.1) as url:
            idle, _ = await connect(url)
            half, _ = await connect(url, b"GET / HT")
            stalled, _ = await connect(url, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n", limit=1024)
            await stalled.readexactly(10)
        assert b"" == await hung_up(idle)
        assert b"" == await hung_up(half)
        with pytest.raises(OSError, match="Connect call failed"):
            await connect(url)


SYSTEMD = """
import asyncio, os, sys
from aiohttp import web
from comms_exporter.web.server import listening, systemd_sockets
# What systemd does before it starts us.
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
    async def test_are_served_on(self):
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
    def test_are_missed(self, environ):
        with pytest.raises(CannotListenError, match="systemd has passed no socket"):
            systemd_sockets(environ, 7)

    @pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, None])
    def test_can_be_connected_to(self, monkeypatch, tmp_path, kind):
        with socket.socket(type=kind) if kind else (tmp_path / "file").open("w") as passed:
            number = os.dup(passed.fileno())  # which becomes the property of what is made of it
            monkeypatch.setattr(web_server, "_SYSTEMD_FIRST", number)
            with pytest.raises(CannotListenError, match="nothing can connect to"):
                systemd_sockets({"LISTEN_PID": "7", "LISTEN_FDS": "1"}, 7)
            if kind is None:
                os.close(number)


@asynccontextmanager
async def secured(directory, text, log):
    """Serve as a file with *text* says; gives the URL and the path of the file."""
    path = directory / "web.yml"
    path.write_text(text)
    async with serving("127.0.0.1:0", security=WebConfigFile(path, log=log.log), shutdown_seconds=0.1) as url:
        yield url, path


class TestTls:
    async def test_is_spoken(self, here, made, log):
        async with secured(here, TLS, log) as (url, _):
            assert url.startswith("https://")
            assert (200, "ok\n") == await get(url, ssl=trusting(made / "server.pem"))
            with pytest.raises(aiohttp.ClientError):
                await get(url.replace("https", "http"))
            assert (200, "ok\n") == await get(url, ssl=trusting(made / "server.pem"))

    async def test_shows_a_new_certificate_and_drops_nobody(self, here, made, log):
        async with secured(here, TLS, log) as (url, _):
            early = aiohttp.TCPConnector(ssl=trusting(made / "server.pem"), limit=1)
            async with aiohttp.ClientSession(connector=early) as session:
                for _ in range(2):
                    async with session.get(url) as response:
                        assert "ok\n" == await response.text()
                    for name, source in (("cert.pem", "other.pem"), ("key.pem", "other.key")):
                        (here / name).write_bytes((made / source).read_bytes())
                    assert (200, "ok\n") == await get(url, ssl=trusting(made / "other.pem"))
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await get(url, ssl=trusting(made / "server.pem"))

    async def test_is_for_those_who_are_named(self, here, made, log):
        text = f"{MUTUAL}  client_allowed_sans: [prometheus.example]\n"
        async with secured(here, text, log) as (url, _):
            for stranger in (None, made / "stranger", made / "guest"):
                with pytest.raises((aiohttp.ClientError, ConnectionError)):
                    await get(url, ssl=trusting(made / "server.pem", stranger))
            assert (200, "ok\n") == await get(url, ssl=trusting(made / "server.pem", made / "friend"))

    async def test_waits_for_no_half_handshake(self, here, made, log, monkeypatch):
        monkeypatch.setattr(web_server, "HANDSHAKE_SECONDS", 0.2)
        async with secured(here, TLS, log) as (url, _):
            silent, _ = await connect(url)
            nonsense, _ = await connect(url, b"\x16\x03\x01\x02\x00")
            assert b"" == await hung_up(silent)
            assert b"" == await hung_up(nonsense)
            assert (200, "ok\n") == await get(url, ssl=trusting(made / "server.pem"))

    async def test_that_is_broken_off_is_not_logged(self, here, made, log, caplog):
        async with secured(here, TLS, log) as (url, _):
            for sent in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\0" * 9999):
                reader, _ = await connect(url, sent)
                await hung_up(reader)
                _, writer = await connect(url, ssl=trusting(made / "server.pem"))
                with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as below:
                    below.send(sent)
                assert (200, "ok\n") == await get(url, ssl=trusting(made / "server.pem"))
        assert [] == [(each.name, each.getMessage()) for each in caplog.records]

    async def test_shows_out_half_handshakes_first(self, here, made, log, monkeypatch):
        monkeypatch.setattr(web_server, "MAX_TLS_CONNECTIONS", 5)
        async with secured(here, TLS, log) as (url, _):
            crowd = [await connect(url) for _ in range(20)]
            assert (200, "ok\n") == await get(url, ssl=trusting(made / "server.pem"))
            for reader, _ in crowd[:15]:
                assert b"" == await hung_up(reader)


def hashed(password, cost=4):
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode().replace("$2b$", "$2y$")


def users(**passwords):
    return "basic_auth_users:\n" + "".join(f"  {name}: {hashed(text)}\n" for name, text in passwords.items())


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class TestPasswords:
    @pytest.fixture
    async def passwords(self):
        passwords = Passwords(matches=self.compare)
        self.compared = []
        yield passwords
        passwords.close()

    def compare(self, password, hash_):
        self.compared.append((password, hash_))
        return bcrypt.checkpw(password, hash_)

    @pytest.mark.parametrize("prefix", [b"$2a$", b"$2b$", b"$2y$"])
    async def test_know_the_right_one(self, passwords, prefix):
        known = {b"alice": hashed("wonder").encode().replace(b"$2y$", prefix)}
        assert await passwords.accept(basic("alice", "wonder"), known)
        assert not await passwords.accept(basic("alice", "wander"), known)
        assert not await passwords.accept(basic("bob", "wonder"), known)

    async def test_are_compared_once(self, passwords):
        known = {b"alice": hashed("wonder").encode()}
        for _ in range(3):
            assert await passwords.accept(basic("alice", "wonder"), known)
            assert not await passwords.accept(basic("alice", "wander"), known)
            assert not await passwords.accept(basic("bob", "wander"), known)
        assert 3 == len(self.compared)
        self.compared.clear()
        together = [passwords.accept(basic("alice", "both"), known) for _ in range(9)]
        assert [False] * 9 == await asyncio.gather(*together)
        assert 1 == len(self.compared)

    async def test_that_were_right_are_forgotten_with_their_hash(self, passwords):
        assert await passwords.accept(basic("alice", "old"), {b"alice": hashed("old").encode()})
        known = {b"alice": hashed("new").encode()}
        assert not await passwords.accept(basic("alice", "old"), known)
        assert await passwords.accept(basic("alice", "new"), known)
        assert not await passwords.accept(basic("alice", "new"), {b"bob": hashed("new").encode()})

    async def test_cost_as_much_for_somebody_unknown(self, passwords):
        costs = {4: "alice", 5: "bob", 6: "carol"}
        known = {name.encode(): hashed("wonder", cost).encode() for cost, name in costs.items()}
        names = [f"nobody{number}" for number in range(30)]
        for name in names:
            assert not await passwords.accept(basic(name, "wonder"), known)
        given = [hash_[4:6] for _, hash_ in self.compared]
        assert {b"04", b"05", b"06"} == set(given), "each cost is somebody's"
        for name in names:
            assert not await passwords.accept(basic(name, "another"), known)
        assert given + given == [hash_[4:6] for _, hash_ in self.compared], "and stays so for a name"

    async def test_are_not_kept(self, passwords):
        known = {b"alice": hashed("wonder").encode()}
        await passwords.accept(basic("alice", "wonder"), known)
        await passwords.accept(basic("alice", "wander"), known)
        assert b"wonder" not in repr(vars(passwords)).encode()
        assert b"wander" not in repr(vars(passwords)).encode()

    async def test_that_are_wrong_displace_none_that_are_right(self, passwords):
        known = {b"alice": hashed("wonder").encode()}
        assert await passwords.accept(basic("alice", "wonder"), known)
        for number in range(150):
            await passwords.accept(basic("alice", f"{number}"), known)
        assert 100 == len(passwords._wrong)
        self.compared.clear()
        assert await passwords.accept(basic("alice", "wonder"), known)
        assert [] == self.compared

    async def test_wait_one_by_one_and_not_without_end(self, monkeypatch):
        monkeypatch.setattr(web_server, "MAX_COMPARING", 3)
        go, inside, most = threading.Event(), [], []

        def slow(*_):
            inside.append(1)
            most.append(len(inside))
            go.wait(10)
            inside.pop()
            return False

        passwords = Passwords(matches=slow)
        known = {b"alice": hashed("wonder").encode()}
        waiting = [asyncio.create_task(passwords.accept(basic("alice", f"{n}"), known)) for n in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await passwords.accept(basic("alice", "3"), known)
        go.set()
        assert [False] * 3 == await asyncio.gather(*waiting)
        assert [1, 1, 1] == most
        assert not await passwords.accept(basic("alice", "3"), known)
        passwords.close()

    @pytest.mark.parametrize(
        "header", ["", "Basic", "Basic !", "Basic é", "Bearer abc", "Basic " + base64.b64encode(b"alice").decode()]
    )
    async def test_may_be_missing(self, passwords, header):
        assert not await passwords.accept(header, {b"alice": hashed("wonder").encode()})
        assert [] == self.compared

    async def test_may_have_colons_and_other_alphabets(self, passwords):
        assert await passwords.accept(basic("ålice", "wön:der"), {"ålice".encode(): hashed("wön:der").encode()})
        assert await passwords.accept(basic("", "x").replace("Basic", "bAsIc"), {b"": hashed("x").encode()})


class TestBasicAuth:
    async def test_is_asked_for_everywhere(self, tmp_path, log):
        async with secured(tmp_path, users(alice="wonder-canary"), log) as (url, _), aiohttp.ClientSession() as session:
            for path in ("/", "/large", "/-/healthy", "/nowhere"):
                for header in ({}, {"Authorization": basic("alice", "wander-canary")}, {"Authorization": "Basic ?"}):
                    async with session.get(f"{url}{path}", headers=header) as response:
                        assert (401, "Basic") == (response.status, response.headers["WWW-Authenticate"])
                        assert "canary" not in await response.text()
            right = {"Authorization": basic("alice", "wonder-canary")}
            assert (200, "ok\n") == await get(url, headers=right)
            assert 404 == (await get(url, "/nowhere", headers=right))[0]
        assert [] == log.lines

    @pytest.mark.parametrize("password", ["x" * 73, "x" * 5000, "a\0b"])
    async def test_is_refused_where_no_hash_could_match(self, tmp_path, log, password):
        async with secured(tmp_path, users(alice="x" * 72), log) as (url, _):
            assert 401 == (await get(url, headers={"Authorization": basic("alice", password)}))[0]
            assert 200 == (await get(url, headers={"Authorization": basic("alice", "x" * 72)}))[0]

    async def test_follows_the_file(self, tmp_path, log):
        old, new = ({"Authorization": basic("alice", text)} for text in ("old", "newer"))
        async with secured(tmp_path, users(alice="old"), log) as (url, path):
            assert 200 == (await get(url, headers=old))[0]
            path.write_text(users(alice="newer", bob="x"))
            assert [401, 200] == [(await get(url, headers=each))[0] for each in (old, new)]
            path.write_text("basic_auth_users:\n  alice: newer-canary\n")
            assert [401, 200] == [(await get(url, headers=each))[0] for each in (old, new)]
            path.write_text("")
            assert 200 == (await get(url))[0]
        assert ["info", "error", "info"] == [level for level, *_ in log.lines]
        assert "canary" not in repr(log.lines)

    async def test_turns_away_whom_it_has_no_time_for(self, tmp_path, log, monkeypatch):
        monkeypatch.setattr(web_server, "MAX_COMPARING", 0)
        async with secured(tmp_path, users(alice="x"), log) as (url, _):
            assert 503 == (await get(url, headers={"Authorization": basic("alice", "x")}))[0]


class TestHeaders:
    async def test_are_on_every_answer(self, tmp_path, log, caplog):
        text = (
            f"{users(alice='x')}http_server_config:\n  headers:\n    X-Frame-Options: deny\n    X-XSS-Protection: 0\n"
        )
        async with secured(tmp_path, text, log) as (url, _), aiohttp.ClientSession() as session:
            for path, user, status in (
                ("/", "alice", 200),
                ("/large", "alice", 200),
                ("/nowhere", "alice", 404),
                ("/broken", "alice", 500),
                ("/", "bob", 401),
            ):
                async with session.get(f"{url}{path}", headers={"Authorization": basic(user, "x")}) as response:
                    found = response.headers
                    assert (status, "deny", "0") == (
                        response.status,
                        found["X-Frame-Options"],
                        found["X-XSS-Protection"],
                    )
                    assert "comms-exporter" == found["Server"]

    async def test_do_not_tell_what_we_are_made_of(self):
        async with serving() as url, aiohttp.ClientSession() as session, session.get(url) as response:
            assert "comms-exporter" == response.headers["Server"]


class TestRate:
    async def test_is_kept(self, tmp_path, log):
        async with secured(tmp_path, "rate_limit:\n  interval: 1h\n  burst: 2\n", log) as (url, path):
            assert [200, 200, 429, 429] == [(await get(url))[0] for _ in range(4)]
            path.write_text("rate_limit:\n  interval: 1h\n  burst: 10\n")
            assert 200 == (await get(url))[0]

    def test_fills_with_time(self):
        now = [0.0]
        bucket = Bucket(lambda: now[0])
        rate = Rate(0.5, 2)
        assert [True, True, False] == [bucket.allows(rate) for _ in range(3)]
        now[0] = 0.25
        assert not bucket.allows(rate)
        now[0] = 0.5
        assert [True, False] == [bucket.allows(rate) for _ in range(2)]
        now[0] = 100
        assert [True, True, False] == [bucket.allows(rate) for _ in range(3)]
        assert bucket.allows(None)


class TestSlowClients:
    async def test_must_say_what_they_want(self, monkeypatch):
        monkeypatch.setattr(web_server, "REQUEST_SECONDS", 0.2)
        async with serving() as url:
            silent, _ = await connect(url)
            assert b"" == await hung_up(silent)

    async def test_gain_nothing_by_dripping(self, monkeypatch):
        monkeypatch.setattr(web_server, "REQUEST_SECONDS", 0.3)
        async with serving() as url:
            reader, writer = await connect(url, b"GET / HTTP/1.1\r\n")

            async def drip():
                while True:
                    writer.write(b"X-A: b\r\n")
                    await asyncio.sleep(0.01)

            dripping = asyncio.create_task(drip())
            assert b"" == await hung_up(reader)
            dripping.cancel()

    async def test_may_come_back_but_not_stay_for_ever(self, monkeypatch):
        monkeypatch.setattr(web_server, "REQUEST_SECONDS", 0.2)
        monkeypatch.setattr(web_server, "KEEPALIVE_SECONDS", 0.8)
        request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        async with serving() as url:
            reader, writer = await connect(url, request)
            assert b"ok\n" in await reader.readuntil(b"ok\n")
            began = time.monotonic()
            assert b"" == await hung_up(reader)
            assert time.monotonic() - began > 0.4, "longer than for a request that has begun"
            reader, writer = await connect(url, request)
            assert b"ok\n" in await reader.readuntil(b"ok\n")
            writer.write(b"GET / HT")
            began = time.monotonic()
            assert b"" == await hung_up(reader)
            assert time.monotonic() - began < 0.7

    async def test_that_do_not_read_are_not_waited_for(self, monkeypatch):
        monkeypatch.setattr(web_server, "READING_SECONDS", 0.2)
        async with serving() as url:
            reader, _ = await connect(url, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n", limit=1024)
            await reader.readexactly(10)
            # Whoever reads is served meanwhile, and reads it all.
            assert PAGE.decode() == (await get(url, "/large"))[1]
            while len(server_connections(url)) > 0:  # noqa: ASYNC110  the other process is the system
                await asyncio.sleep(0.02)
            assert len(await hung_up(reader)) < len(PAGE)

    async def test_that_do_not_read_the_end_are_not_waited_for(self, monkeypatch):
        """Though all of it is in our buffer, and the connection is as good as closed."""
        monkeypatch.setattr(web_server, "READING_SECONDS", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            async with listening(make_app(), [], sockets=[listener]) as [url]:
                client.connect(("127.0.0.1", port_of(url)))
                client.sendall(b"GET /medium HTTP/1.0\r\n\r\n")
                while len(server_connections(url)) == 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                while len(server_connections(url)) > 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                client.settimeout(5)
                read = 0
                with suppress(ConnectionError):
                    while piece := client.recv(2**16):
                        read += len(piece)
                assert read < 60_000

    async def test_read_at_their_own_pace_if_they_do_read(self, monkeypatch):
        monkeypatch.setattr(web_server, "READING_SECONDS", 0.5)
        async with serving() as url:
            reader, writer = await connect(
                url, b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", limit=2**16
            )
            read = 0
            while piece := await reader.read(2**16):
                read += len(piece)
                await asyncio.sleep(0.002)
            assert read > len(PAGE)
            writer.close()

    async def test_have_answers_to_head(self):
        async with serving() as url, aiohttp.ClientSession() as session, session.head(f"{url}/large") as response:
            assert (200, str(len(PAGE))) == (response.status, response.headers["Content-Length"])


def server_connections(url):
    """The established connections of the server at *url*, as the system knows them: its own ends."""
    port = f":{port_of(url):04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [words for words in lines if words[1].endswith(port) and words[3] == "01"]


class TestEveryAnswer:
    @pytest.mark.parametrize(
        ("request_line", "status"),
        [
            (b"GET / HTTP/1.1", b"200 OK"),
            (b"GET /nowhere HTTP/1.1", b"404 Not Found"),
            (b"DELETE / HTTP/1.1", b"405 Method Not Allowed"),
            (b"PURR / HTTP/1.1", b"405 Method Not Allowed"),
            (b"GET / HTTP/1.1\r\nX", b"400 Bad Request"),
        ],
    )
    async def test_is_of_the_type_that_it_says(self, request_line, status):
        async with serving() as url:
            reader, _ = await connect(url, request_line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await hung_up(reader)

        assert status == answer.split(b"\r\n")[0].partition(b" ")[2]
        assert 1 == answer.count(b"\r\nX-Content-Type-Options: nosniff\r\n")

    @pytest.mark.parametrize("method", [b"PURR", b"get", b"Get", b"M-SEARCHED", b"DELETE", b"PROPFIND"])
    async def test_to_an_unknown_method_says_which_are_known(self, method):
        async with serving() as url:
            reader, _ = await connect(url, method + b" / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await hung_up(reader)

        assert b"405 Method Not Allowed" == answer.split(b"\r\n")[0].partition(b" ")[2]
        (allowed,) = re.findall(rb"\r\nAllow: (.*)\r\n", answer)
        assert {b"GET", b"HEAD"} <= set(allowed.replace(b" ", b"").split(b","))


class TestGreedyClients:
    @pytest.mark.parametrize(
        "flood",
        [
            b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
            b"GET / HTTP/1.1\r\nX: " + b"y" * 10_000 + b"\r\n\r\n",
            b"GET /" + b"y" * 10_000 + b" HTTP/1.1\r\n\r\n",
        ],
        ids=["many headers", "a long header", "a long path"],
    )
    async def test_are_told_that_it_is_too_much(self, flood):
        async with serving() as url:
            reader, _ = await connect(url, flood)
            assert (await hung_up(reader)).startswith(b"HTTP/1.0 400 Bad Request")

    @pytest.mark.parametrize("line", [b"X-%d: y\r\n", b"X-%d: " + b"y" * 2000 + b"\r\n"], ids=["short", "long"])
    async def test_cannot_send_headers_without_end(self, line):
        async with serving() as url:
            _reader, writer = await connect(url, b"GET / HTTP/1.1\r\n")

            async def flood():
                for number in range(1_000_000):
                    writer.write(line % number)
                    await writer.drain()

            with pytest.raises(ConnectionError):
                await flood()
            assert (200, "ok\n") == await get(url)

    async def test_may_send_a_body_that_is_read(self):
        async with serving() as url, aiohttp.ClientSession() as session:
            async with session.post(f"{url}/read", data=b"x" * 900_000) as response:
                assert "900000" == await response.text()
            async with session.get(url) as response:
                assert 200 == response.status

    async def test_cannot_send_bodies_without_end(self):
        async with serving() as url:
            reader, writer = await connect(url, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
            with suppress(ConnectionError):
                for _ in range(10_000):
                    writer.write(b"x" * 10_000)
                    await writer.drain()
            assert len(await hung_up(reader)) < 1000
            assert (200, "ok\n") == await get(url)

    async def test_are_shown_out_by_those_who_come_later(self, monkeypatch):
        monkeypatch.setattr(web_server, "MAX_CONNECTIONS", 10)
        async with serving() as url, aiohttp.ClientSession() as session:
            idle = [await connect(url) for _ in range(9)]
            for _ in range(3):
                async with session.get(url) as response:
                    assert "ok\n" == await response.text()
                idle += [await connect(url) for _ in range(9)]
                assert (200, "ok\n") == await get(url)
            for reader, _ in idle[:-10]:
                assert b"" == await hung_up(reader)

    async def test_hold_few_pages(self, monkeypatch):
        monkeypatch.setattr(web_server, "MAX_STALLED", 3)
        async with serving(shutdown_seconds=0.1) as url:
            readers = []
            for _ in range(10):
                reader, _ = await connect(url, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n", limit=1024)
                await reader.readexactly(10)
                readers.append(reader)
            assert PAGE.decode() == (await get(url, "/large"))[1]
            while len(server_connections(url)) > 3:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def stall(url, path):
    """Ask for *path*, and read nothing of it."""
    loop = asyncio.get_running_loop()
    client = socket.socket()
    _stalling.append(client)
    client.setblocking(False)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await loop.sock_connect(client, ("127.0.0.1", port_of(url)))
    await loop.sock_sendall(client, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


async def take(url, path, *, megabits):
    """Return the size of all that a link of so many *megabits* a second brings."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        await loop.sock_connect(client, ("127.0.0.1", port_of(url)))
        await loop.sock_sendall(client, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        began, taken = loop.time(), 0
        with suppress(ConnectionError):
            while piece := await loop.sock_recv(client, 65536):
                taken += len(piece)
                await asyncio.sleep(began + taken * 8 / (megabits * 1e6) - loop.time())
    return taken


class TestProgress:
    """Who takes an answer is not shown out for the sake of those who take none."""

    async def test_is_enough_amid_40_who_stall(self):
        async def crowd(url):
            while True:
                for _ in range(40):
                    await stall(url, "/huge")
                await asyncio.sleep(0.2)

        async with serving(shutdown_seconds=0.1) as url:
            crowding = asyncio.create_task(crowd(url))
            try:
                assert await take(url, "/huge", megabits=100) > len(HUGE)
            finally:
                crowding.cancel()

    async def test_is_enough_amid_newcomers(self, monkeypatch):
        monkeypatch.setattr(web_server, "MAX_CONNECTIONS", 10)
        async with serving(shutdown_seconds=0.1) as url:
            taking = asyncio.create_task(take(url, "/large", megabits=300))
            while not taking.done():
                await connect(url)
                await asyncio.sleep(0.002)
            assert await taking > len(PAGE)
            assert (200, "ok\n") == await get(url)

    async def test_is_enough_at_any_speed(self, monkeypatch):
        monkeypatch.setattr(web_server, "READING_SECONDS", 0.5)
        monkeypatch.setattr(web_server, "STALLED_SECONDS", 0.4)
        monkeypatch.setattr(web_server, "MAX_STALLED", 0)
        async with serving(shutdown_seconds=0.1) as url:
            taking = asyncio.create_task(take(url, "/large", megabits=1))
            await asyncio.sleep(2)
            assert not taking.done(), "shown out at a megabit a second"
            taking.cancel()

    async def test_of_the_slowest_ends_where_their_pages_need_too_much_memory(self, monkeypatch):
        monkeypatch.setattr(web_server, "MAX_HELD_BYTES", 1)
        monkeypatch.setattr(web_server, "STALLED_SECONDS", 60)
        async with serving(shutdown_seconds=0.1) as url:
            taking = asyncio.create_task(take(url, "/large", megabits=100))
            for _ in range(20):
                await stall(url, "/own")
            while len(server_connections(url)) > 9:  # noqa: ASYNC110  18 MB allow four times as much
                await asyncio.sleep(0.02)
            assert await taking > len(PAGE)


CROWDED = """
import asyncio, signal
from aiohttp import web
from comms_exporter.config import parse_listen_address
from comms_exporter.web.server import listening
async def main():
    app = web.Application()
    async def page(_): return web.Response(body=b"comms_operations 1234567890\\n" * 300_000)
    app.router.add_get("/metrics", page)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with listening(app, [parse_listen_address("127.0.0.1:0")], shutdown_seconds=0.5) as urls:
        print(*urls, flush=True)
        await stop.wait()
asyncio.run(main())
"""
CROWDED_PAGE = b"comms_operations 1234567890\n" * 300_000  # 8.4 MB


class Crowded:
    """A server in a process of its own."""

    async def __aenter__(self):
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", CROWDED),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self.url = (await self.process.stdout.readline()).decode().strip()
        return self

    async def __aexit__(self, *_):
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def end(self):
        """Have it end by itself, and return all that it has to complain about."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            _, said = await self.process.communicate()
        return self.process.returncode, said.decode()

    def megabytes(self, field="VmRSS"):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)[1]) / 1000

    def files(self):
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    async def scrape(self):
        """Return how long a scrape takes, by somebody who comes anew."""
        began = time.monotonic()
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session,
            session.get(f"{self.url}/metrics") as response,
        ):
            assert await response.read() == CROWDED_PAGE
        return time.monotonic() - began

    async def client(self, sent=b""):
        loop = asyncio.get_running_loop()
        client = socket.socket()
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(client, ("127.0.0.1", port_of(self.url)))
        await loop.sock_sendall(client, sent)
        return client


@pytest.fixture
def many_files():
    """As many open files as 5,000 clients need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 6000:
        pytest.skip(f"this machine lets a process open {hard} files, and 5,000 clients need 6,000")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 6000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class TestCrowd:
    async def test_of_5000_who_say_nothing_and_200_who_do_not_read_stops_no_scrape(self, many_files, capsys):
        """And the later of them are still there: they need not go for a scrape to come in."""
        clients, took = [], {}
        async with Crowded() as server:
            await server.scrape()
            took["alone"] = await server.scrape()
            before, files = server.megabytes(), server.files()
            try:
                for number in range(5000):
                    clients.append(await server.client((b"", b"GET /metrics HTTP/1.1\r\nX-Half: ")[number % 2]))
                    if number % 1000 == 999:
                        await server.scrape()
                took["amid the idle"] = await server.scrape()
                idle_peak = server.megabytes("VmHWM")
                assert web_server.MAX_CONNECTIONS - 5 <= server.files() - files <= web_server.MAX_CONNECTIONS

                for number in range(200):
                    clients.append(await server.client(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"))
                    if number % 50 == 49:
                        await server.scrape()
                took["amid the slow"] = await server.scrape()
                peak = server.megabytes("VmHWM")
            finally:
                for client in clients:
                    client.close()
            while server.files() > files:  # noqa: ASYNC110  until it has seen that they are gone
                await asyncio.sleep(0.02)
            took["afterwards"] = await server.scrape()
            after = server.megabytes()
            with capsys.disabled():
                print(  # noqa: T201
                    f"\n5,000 idle, 200 slow readers of {len(CROWDED_PAGE) / 1e6:.1f} MB: a scrape takes",
                    ", ".join(f"{seconds:.3f} s {when}" for when, seconds in took.items()),
                    f"; memory is {before:.0f} MB before, {idle_peak:.0f} MB at most with the idle,",
                    f"{peak:.0f} MB at most with the slow, {after:.0f} MB after",
                )
            # A page for each slow reader would be 1,680 MB. Python's memory is not always given back at once.
            assert peak - before < 4 * web_server.MAX_STALLED * len(CROWDED_PAGE) / 1e6
            assert (0, "") == await server.end()

    async def test_of_half_handshakes_stops_no_scrape(self, here, made, log, many_files, monkeypatch):
        async with secured(here, TLS, log) as (url, _):
            crowd = [await connect(url) for _ in range(1000)]
            assert (200, "ok\n") == await get(url, ssl=trusting(made / "server.pem"))
            assert 1000 == len(crowd)

    async def test_gets_in_where_few_files_may_be_open(self, tmp_path):
        """With the limit of 256 that some systems begin with, by leaving half of them to others."""
        async with Crowded() as server:
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (256, 256))
            clients = [await server.client() for _ in range(600)]
            await server.scrape()
            for client in clients:
                client.close()
            assert (0, "") == await server.end()
