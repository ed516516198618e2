"""The simulator as one aiohttp application."""

from collections import deque
from collections.abc import Mapping

from aiohttp import web

from comms_exporter.simulator.api import Api, LoggedRequest
from comms_exporter.simulator.control import Control
from comms_exporter.simulator.faults import KINDS, Faults
from comms_exporter.simulator.responses import Dialect
from comms_exporter.simulator.send_requests import MAX_BODY_BYTES
from comms_exporter.simulator.world import World

WORLD: web.AppKey[World] = web.AppKey("world", World)
FAULTS: web.AppKey[Faults] = web.AppKey("faults", Faults)
REQUESTS: web.AppKey[deque[LoggedRequest]] = web.AppKey("requests", deque[LoggedRequest])

_ABOUT = f"""\
A simulator of Twilio's Comms Email API. It sends no email.

The API: use this address followed by /v1 as the base URL, with any user name and password
(HTTP Basic), or with those in --credentials.file if the simulator was started with it.
    POST /v1/Emails
    GET  /v1/Emails/Operations            GET /v1/Emails/Operations/{{operationId}}
    GET  /v1/Emails/Operations/{{operationId}}/Errors
    GET  /v1/Emails?operationId=...       GET /v1/Emails/{{emailId}}
    GET  /v1/Emails/{{emailId}}/Receipts

The controls:
    GET /simulator/tally                  the true counts; ?since=TIME
    GET /simulator/tally/emails           those of emails by provider, sender domain and tag; ?since=TIME
    GET POST DELETE /simulator/faults     {{"kind": "429", "times": 3}}
    GET POST DELETE /simulator/conditions {{"failed": 0.3}}
    POST /simulator/freeze  POST /simulator/thaw
    GET DELETE /simulator/requests        the requests that the API received

Fault kinds:
{"".join(f"    {kind:<16}{text}{chr(10)}" for kind, text in KINDS.items())}"""


def make_app(
    world: World,
    faults: Faults | None = None,
    *,
    dialect: Dialect | None = None,
    credentials: Mapping[str, str] | None = None,
    log_size: int = 10_000,
) -> web.Application:
    """Return the simulator of *world*; *credentials* are secrets by user name, None accepts any."""
    faults = faults if faults is not None else Faults()
    requests: deque[LoggedRequest] = deque(maxlen=log_size)
    # Set here because aiohttp applies the limit of the outermost application.
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app[WORLD], app[FAULTS], app[REQUESTS] = world, faults, requests
    api = Api(world, faults, dialect=dialect or Dialect(), credentials=credentials, requests=requests)
    app.add_subapp("/v1", api.make_app())
    app.add_subapp("/simulator", Control(world, faults, requests).make_app())
    app.router.add_get("/", _about)
    return app


async def _about(_request: web.Request) -> web.Response:
    return web.Response(text=_ABOUT)
