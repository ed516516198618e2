"""The whole simulator as one aiohttp application; the caller listens."""

from collections import deque
from collections.abc import Mapping

from aiohttp import web

from comms_exporter.simulator.answers import Dialect
from comms_exporter.simulator.api import Api, Served
from comms_exporter.simulator.control import Control
from comms_exporter.simulator.faults import KINDS, Faults
from comms_exporter.simulator.posting import MAX_BODY_BYTES
from comms_exporter.simulator.world import World

WORLD: web.AppKey[World] = web.AppKey("world", World)
FAULTS: web.AppKey[Faults] = web.AppKey("faults", Faults)
REQUESTS: web.AppKey[deque[Served]] = web.AppKey("requests", deque[Served])

_ABOUT = f"""\
A simulator of the email part of Twilio's Comms API. Nothing is sent and nothing is real.

The API: point a client at /v1 of this address, with any user name and password (HTTP Basic)
unless the simulator was started with credentials of its own.
    POST /v1/Emails
    GET  /v1/Emails/Operations            GET /v1/Emails/Operations/{{operationId}}
    GET  /v1/Emails?operationId=...       GET /v1/Emails/{{emailId}}

The controls:
    GET /simulator/tally                  what really happened; ?since=TIME
    GET POST DELETE /simulator/faults     {{"kind": "429", "times": 3}}
    GET POST DELETE /simulator/conditions {{"failed": 0.3}}
    POST /simulator/freeze  POST /simulator/thaw
    GET DELETE /simulator/requests        what was asked of the API

The kinds of faults:
{"".join(f"    {kind:<16}{text}{chr(10)}" for kind, text in KINDS.items())}"""


def make_app(
    world: World,
    faults: Faults | None = None,
    *,
    dialect: Dialect | None = None,
    credentials: Mapping[str, str] | None = None,
    log_size: int = 10_000,
) -> web.Application:
    """Make the simulator of *world*; *credentials* are secrets by user name, None lets anybody in who names some."""
    faults = faults if faults is not None else Faults()
    requests: deque[Served] = deque(maxlen=log_size)
    # Told here, because aiohttp reads bodies by the limit of the outermost application.
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app[WORLD], app[FAULTS], app[REQUESTS] = world, faults, requests
    api = Api(world, faults, dialect=dialect or Dialect(), credentials=credentials, requests=requests)
    app.add_subapp("/v1", api.make_app())
    app.add_subapp("/simulator", Control(world, faults, requests).make_app())
    app.router.add_get("/", _about)
    return app


async def _about(_request: web.Request) -> web.Response:
    return web.Response(text=_ABOUT)
