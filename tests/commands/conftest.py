import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from commands.fake_api import Api


@pytest.fixture
async def api():
    api = Api()
    app = web.Application()
    app.router.add_get("/{path:.*}", api.answer)
    async with TestServer(app) as server:
        api.url = str(server.make_url("/v1"))
        yield api
