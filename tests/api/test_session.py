"""How the exporter connects to the API: CA certificates and proxies."""

import re
import ssl
import subprocess
import time

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st
from process import CREDENTIALS, exporter, run_to_end, scrape, until

from comms_exporter.api.session import parse_proxy_url, proxy_for
from comms_exporter.base.redaction import Redactor
from comms_exporter.simulator import World, make_app


class TestProxyUrl:
    @pytest.mark.parametrize(
        ("text", "host", "user", "password"),
        [
            ("http://proxy:3128", "proxy", None, None),
            ("https://proxy.example/", "proxy.example", None, None),
            ("HTTP://[::1]:3128\n", "::1", None, None),
            ("http://me:p%40ss@proxy:3128", "proxy", "me", "p@ss"),
            ("http://me:p@ss@proxy:3128", "proxy", "me", "p@ss"),
        ],
    )
    def test_a_url_is_parsed(self, text, host, user, password):
        url = parse_proxy_url(text)
        assert (host, user, password) == (url.host, url.user, url.password)

    @pytest.mark.parametrize(
        "text",
        [
            "", " ", "proxy:3128", "proxy.example:3128", "//proxy:3128", "http:proxy:3128", "http:/proxy", "http://",
            "http://:3128", "http://[::1", "http://proxy:99999", "http://proxy:port", "socks5://proxy:1080",
            "socks5h://proxy:1080", "ftp://proxy", "file:///etc/passwd", "http://pro xy:3128", "http://pro\0xy:3128",
            "http://a..b:3128", f"http://{'a' * 64}:3128", "http://pro\\xy:3128", "http://me:can/ary@proxy:3128",
            "http://me:can#ary@proxy:3128", "http://a%3Ab:canary@proxy:3128", "http://me:%E2%82%AC@proxy:3128",
            "http://me:\udcff@proxy:3128",
        ],
    )  # fmt: skip
    def test_an_invalid_url_is_rejected_without_showing_it(self, text):
        with pytest.raises(ValueError, match=r"^is not the URL of an HTTP proxy; write one such as \S+3128$"):
            parse_proxy_url(text)

    @given(st.text() | st.from_regex(r"https?://[^/]*", fullmatch=True))
    def test_any_text_is_a_url_or_a_value_error(self, text):
        try:
            taken = bool(parse_proxy_url(text).host)
        except ValueError as error:
            taken = str(error).startswith("is not the URL of an HTTP proxy")
        assert taken


class TestProxyFor:
    @pytest.mark.parametrize(
        ("base_url", "host"),
        [
            ("https://comms.example/v1", "proxy"),
            ("http://10.0.0.1/v1", "proxy"),
            ("http://localhost.example/v1", "proxy"),
            ("http://127.0.0.1:8080/v1", None),
            ("http://127.9.9.9/v1", None),
            ("http://[::1]:8080/v1", None),
            ("http://LOCALHOST/v1", None),
        ],
    )
    def test_this_machine_is_asked_without_a_proxy(self, monkeypatch, base_url, host):
        for variable in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(variable, "http://proxy:3128")
        monkeypatch.setenv("no_proxy", "")

        proxy = proxy_for(base_url, Redactor())

        assert host == (proxy and proxy.host)


@pytest.fixture
def certificate(tmp_path):
    """A self-signed certificate for 127.0.0.1."""
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    return files


class TestConnections:
    async def test_a_self_signed_certificate_is_trusted_only_as_the_ca_file(self, certificate):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
        server = TestServer(make_app(World(clock=time.time)), scheme="https")
        await server.start_server(ssl=context)
        try:
            url = str(server.make_url("/v1"))
            async with exporter(url, "--collect.interval=100ms") as process:
                await until(process.url, '^comms_exporter_poll_failures_total.*reason="tls"} [1-9]')
            async with exporter(url, "--collect.interval=100ms", f"--api.ca-file={certificate[0]}") as process:
                await until(process.url, "^comms_up.* 1")
        finally:
            await server.close()

    async def test_an_invalid_ca_file_is_reported(self, tmp_path):
        (tmp_path / "ca.pem").write_text("nothing")
        code, _, stderr = await run_to_end(f"--api.ca-file={tmp_path}/ca.pem", "--state.path=", environ=CREDENTIALS)

        assert 2 == code
        assert f"--api.ca-file: {tmp_path}/ca.pem" in stderr

    async def test_the_proxy_in_the_environment_is_used(self):
        requests = []

        async def forward(request):
            requests.append((str(request.url), request.headers.get("Proxy-Authorization")))
            return web.json_response({"operations": [], "pagination": {"next": None}})

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", forward)
        async with TestServer(app) as proxy:
            environ = {"http_proxy": f"http://me:proxy-canary@127.0.0.1:{proxy.port}"}
            async with exporter("http://comms.example/v1", "--collect.interval=100ms", environ=environ) as process:
                await until(process.url, "^comms_up.* 1")
                assert "proxy-canary" not in process.stderr

        address, authorization = requests[0]
        assert address.startswith("http://comms.example/v1/Emails/Operations?")
        assert aiohttp.encode_basic_auth("me", "proxy-canary") == authorization

    async def test_a_proxy_that_returns_its_password_does_not_reveal_it(self):
        """Neither as written in the URL, nor as sent, nor decoded from Base64."""
        sent = []

        async def refuse(request):
            sent.append(request.headers["Proxy-Authorization"])
            password = aiohttp.BasicAuth.decode(sent[-1]).password
            message = f"{'x' * 230} {sent[-1]} {password} p%40ss%2Fw0rd-c4n4ry p%40ss/w0rd-c4n4ry"
            return web.json_response({"message": message}, status=407)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", refuse)
        async with TestServer(app) as proxy:
            environ = {"http_proxy": f"http://me:p%40ss%2Fw0rd-c4n4ry@127.0.0.1:{proxy.port}"}
            base_url = "http://comms.example/v1"
            async with exporter(base_url, "--collect.interval=100ms", environ=environ) as process:
                await until(process.url, r"^comms_exporter_polls_total.* [2-9]")
                seen = [process.stderr, *[await scrape(process.url, path) for path in ("/", "/metrics")]]
            seen += (await run_to_end("check", f"--api.base-url={base_url}", environ={**CREDENTIALS, **environ}))[1:]

        assert "407: xxx" in seen[0]
        assert "Basic bW" in seen[0]  # the user, which is not a secret
        assert {aiohttp.encode_basic_auth("me", "p@ss/w0rd-c4n4ry")} == set(sent)
        assert [] == [text for text in seen if re.search("w0rd|c4n|MHJkL|WM0bjR|p%40", text)]
