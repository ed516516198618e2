"""The fixture that replaces the API in tests of the client."""

import aiohttp
import pytest
from aiohttp import test_utils, web
from aioresponses import core

URL = "https://example.test/emails"


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def unchanged():
    before = aiohttp.ClientSession._request, core.ClientResponse
    yield
    assert before == (aiohttp.ClientSession._request, core.ClientResponse)


class TestAioresponses:
    async def test_status_headers_and_body(self, aioresponses, session):
        aioresponses.get(URL, status=429, headers={"Retry-After": "7"}, payload={"code": 20429})

        async with session.get(URL) as response:
            assert 429 == response.status
            assert "7" == response.headers["Retry-After"]
            assert "application/json" == response.content_type
            assert {"code": 20429} == await response.json()

    async def test_post(self, aioresponses, session):
        aioresponses.post(URL, status=202, body="accepted")

        async with session.post(URL, json={"to": "someone"}) as response:
            assert (202, "accepted") == (response.status, await response.text())
        aioresponses.assert_called_once_with(URL, method="POST", json={"to": "someone"})

    async def test_exception(self, aioresponses, session):
        aioresponses.get(URL, exception=aiohttp.ClientConnectionError("reset"))

        with pytest.raises(aiohttp.ClientConnectionError, match="reset"):
            await session.get(URL)

    async def test_responds_once(self, aioresponses, session):
        """A second request to the same URL is refused, like one to an unknown URL."""
        aioresponses.get(URL)

        async with session.get(URL):
            pass
        with pytest.raises(aiohttp.ClientConnectionError, match="refused"):
            await session.get(URL)

    async def test_repeated(self, aioresponses, session):
        aioresponses.get(URL, payload=[1], repeat=True)

        for _ in range(3):
            async with session.get(URL) as response:
                assert [1] == await response.json()

    async def test_callback(self, aioresponses, session):
        def echo(url, **_):
            return core.CallbackResult(payload={"page": url.query["page"]})

        aioresponses.get(f"{URL}?page=2", callback=echo)

        async with session.get(URL, params={"page": "2"}) as response:
            assert {"page": "2"} == await response.json()

    async def test_passes_requests_to_this_machine_through(self, aioresponses, session):
        async def answer(request):
            return web.Response(text="real")

        app = web.Application()
        app.router.add_get("/", answer)
        async with (
            test_utils.TestServer(app, host="127.0.0.1") as server,
            session.get(server.make_url("/")) as response,
        ):
            assert "real" == await response.text()

    async def test_leaves_nothing_behind(self, unchanged, aioresponses):
        """aiohttp and aioresponses are unpatched after the test; *unchanged* checks that last."""
        assert aiohttp.ClientResponse is not core.ClientResponse
