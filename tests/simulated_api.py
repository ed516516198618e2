"""A simulated API, and a config file whose accounts use it."""

import json
import re
import time

import aiohttp
from aiohttp.test_utils import TestServer

from comms_exporter.simulator import Fate, Faults, World, make_app

SENT = [Fate(sent=0, delivered=0)]
# No credentials in the environment: the accounts are in a config file.
NO_CREDENTIALS = {"TWILIO_ACCOUNT_SID": "", "TWILIO_AUTH_TOKEN": ""}


class SimulatedApi:
    """A simulated API on a free port."""

    def __init__(self, credentials=None):
        self.world = World(clock=time.time)
        self.faults = Faults()
        self.server = TestServer(make_app(self.world, self.faults, credentials=credentials))

    async def __aenter__(self):
        await self.server.start_server()
        self.url = str(self.server.make_url("/v1"))
        return self

    async def __aexit__(self, *_):
        await self.server.close()


class ConfigFile:
    """A config file that lists accounts, and the flags of an exporter that uses it."""

    def __init__(self, path):
        self.path = path
        self.flags = (f"--config.file={path}", f"--state.path={path.parent / 'state.db'}", "--collect.interval=100ms")

    def write(self, *accounts, **settings):
        listed = [{"account_sid": "ACtest", "auth_token": "canary-token-9", **account} for account in accounts]
        # JSON is YAML.
        self.path.write_text(json.dumps({"accounts": listed, **settings}))


async def reload(process):
    async with aiohttp.ClientSession() as session, session.post(f"{process.url}/-/reload") as response:
        return response.status, await response.text()


def sample(page, series):
    """Return the value of *series* on a metrics page."""
    return float(re.search(rf"^{re.escape(series)} (\S+)$", page, re.MULTILINE)[1])
