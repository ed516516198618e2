"""A client of the simulated API, over real sockets, and a clock that stands still."""

import base64
from contextlib import asynccontextmanager

from aiohttp.test_utils import TestClient, TestServer

START = 1_750_000_000.0
DAY = 86400.0
OPERATIONS = "/v1/Emails/Operations"


class Clock:
    def __init__(self, now=START):
        self.now = now

    def __call__(self):
        return self.now


def basic(account, secret):
    return {"Authorization": f"Basic {base64.b64encode(f'{account}:{secret}'.encode()).decode()}"}


@asynccontextmanager
async def serving(app, headers=None):
    async with TestClient(TestServer(app), headers=basic("AC1", "secret") if headers is None else headers) as client:
        yield client


async def fetch(client, path=OPERATIONS, **query):
    async with client.get(path, params=query) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def pages(client, path=OPERATIONS, **query):
    """Follow the tokens to the end, as a client does: repeating the filters."""
    token = {}
    for _ in range(1000):
        page = await fetch(client, path, **query, **token)
        yield page
        if page["pagination"]["next"] is None:
            return
        token = {"pageToken": page["pagination"]["next"]}


async def ids(client, path=OPERATIONS, **query):
    key = "operations" if path == OPERATIONS else "emails"
    return [item["id"] async for page in pages(client, path, **query) for item in page[key]]


async def refusal(client, path=OPERATIONS, **query):
    async with client.get(path, params=query) as response:
        return response.status, (await response.json())["errors"][0]["message"]
