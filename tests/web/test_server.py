"""Responses of the server: their headers, errors, and TLS."""

import os
import re
import socket

import aiohttp
import pytest
from web.certificates import MUTUAL, TLS, trusting
from web.serving import PAGE, configured, connect, get, read_until_closed, serving
from web.test_auth import basic, users

from comms_exporter.web.limits import Limits


class TestEveryResponse:
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
    async def test_forbids_content_sniffing(self, request_line, status):
        async with serving() as url:
            reader, _ = await connect(url, request_line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await read_until_closed(reader)

        assert status == answer.split(b"\r\n")[0].partition(b" ")[2]
        assert 1 == answer.count(b"\r\nX-Content-Type-Options: nosniff\r\n")

    @pytest.mark.parametrize("method", [b"PURR", b"get", b"Get", b"M-SEARCHED", b"DELETE", b"PROPFIND"])
    async def test_to_an_unknown_method_lists_the_known_ones(self, method):
        async with serving() as url:
            reader, _ = await connect(url, method + b" / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await read_until_closed(reader)

        assert b"405 Method Not Allowed" == answer.split(b"\r\n")[0].partition(b" ")[2]
        (allowed,) = re.findall(rb"\r\nAllow: (.*)\r\n", answer)
        assert {b"GET", b"HEAD"} <= set(allowed.replace(b" ", b"").split(b","))

    async def test_has_the_configured_headers(self, tmp_path, log, caplog):
        text = (
            f"{users(alice='x')}http_server_config:\n  headers:\n    X-Frame-Options: deny\n    X-XSS-Protection: 0\n"
        )
        async with configured(tmp_path, text, log) as (url, _), aiohttp.ClientSession() as session:
            for path, user, status in (
                ("/", "alice", 200),
                ("/large", "alice", 200),
                ("/nowhere", "alice", 404),
                ("/broken", "alice", 500),
                ("/", "bob", 401),
            ):
                async with session.get(f"{url}{path}", headers={"Authorization": basic(user, "x")}) as response:
                    headers = response.headers
                    assert (status, "deny", "0") == (
                        response.status,
                        headers["X-Frame-Options"],
                        headers["X-XSS-Protection"],
                    )
                    assert "comms-exporter" == headers["Server"]

    async def test_does_not_reveal_the_server_library(self):
        async with serving() as url, aiohttp.ClientSession() as session, session.get(url) as response:
            assert "comms-exporter" == response.headers["Server"]

    async def test_to_head_has_the_length_but_no_body(self):
        async with serving() as url, aiohttp.ClientSession() as session, session.head(f"{url}/large") as response:
            assert (200, str(len(PAGE))) == (response.status, response.headers["Content-Length"])


class TestTls:
    async def test_is_required_if_configured(self, here, made, log):
        async with configured(here, TLS, log) as (url, _):
            assert url.startswith("https://")
            assert (200, "ok\n") == await get(url, ssl=trusting(made / "server.pem"))
            with pytest.raises(aiohttp.ClientError):
                await get(url.replace("https", "http"))
            assert (200, "ok\n") == await get(url, ssl=trusting(made / "server.pem"))

    async def test_uses_a_new_certificate_and_keeps_open_connections(self, here, made, log):
        async with configured(here, TLS, log) as (url, _):
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

    async def test_rejects_clients_without_an_allowed_name(self, here, made, log):
        text = f"{MUTUAL}  client_allowed_sans: [prometheus.example]\n"
        async with configured(here, text, log) as (url, _):
            for client in (None, made / "stranger", made / "guest"):
                with pytest.raises((aiohttp.ClientError, ConnectionError)):
                    await get(url, ssl=trusting(made / "server.pem", client))
            assert (200, "ok\n") == await get(url, ssl=trusting(made / "server.pem", made / "friend"))

    async def test_ends_a_handshake_that_takes_too_long(self, here, made, log):
        async with configured(here, TLS, log, limits=Limits(handshake_seconds=0.2)) as (url, _):
            silent, _ = await connect(url)
            incomplete, _ = await connect(url, b"\x16\x03\x01\x02\x00")
            assert b"" == await read_until_closed(silent)
            assert b"" == await read_until_closed(incomplete)
            assert (200, "ok\n") == await get(url, ssl=trusting(made / "server.pem"))

    async def test_logs_no_protocol_errors_of_clients(self, here, made, log, caplog):
        async with configured(here, TLS, log) as (url, _):
            for sent in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\0" * 9999):
                reader, _ = await connect(url, sent)
                await read_until_closed(reader)
                _, writer = await connect(url, ssl=trusting(made / "server.pem"))
                # The same bytes in the middle of an encrypted connection.
                with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as below:
                    below.send(sent)
                assert (200, "ok\n") == await get(url, ssl=trusting(made / "server.pem"))
        assert [] == [(each.name, each.getMessage()) for each in caplog.records]
