"""The endpoints below /simulator, which read and change a running simulator."""

import dataclasses
import json
from collections import deque
from typing import Any

from aiohttp import web

from comms_exporter.simulator.api import LoggedRequest
from comms_exporter.simulator.conditions import Conditions
from comms_exporter.simulator.faults import Fault, Faults
from comms_exporter.simulator.send_requests import parse_timestamp
from comms_exporter.simulator.world import World


class Control:
    """The endpoints below /simulator."""

    def __init__(self, world: World, faults: Faults, requests: deque[LoggedRequest]) -> None:
        self._world = world
        self._faults = faults
        self._requests = requests

    def make_app(self) -> web.Application:
        """Return the application to be mounted at /simulator."""
        app = web.Application(middlewares=[_respond_to_errors])
        app.add_routes(
            [
                web.get("/tally", self._tally),
                web.get("/tally/emails", self._tally_emails),
                web.get("/faults", self._get_faults),
                web.post("/faults", self._add_fault),
                web.delete("/faults", self._clear_faults),
                web.get("/conditions", self._get_conditions),
                web.post("/conditions", self._set_conditions),
                web.delete("/conditions", self._reset_conditions),
                web.post("/freeze", self._freeze),
                web.post("/thaw", self._thaw),
                web.get("/requests", self._get_requests),
                web.delete("/requests", self._clear_requests),
            ]
        )
        return app

    async def _tally(self, request: web.Request) -> web.Response:
        return web.json_response(dataclasses.asdict(self._world.tally(_since(request))))

    async def _tally_emails(self, request: web.Request) -> web.Response:
        return web.json_response(dataclasses.asdict(self._world.email_tally(_since(request))))

    async def _get_faults(self, _request: web.Request) -> web.Response:
        return web.json_response({"faults": [dataclasses.asdict(fault) for fault in self._faults.active]})

    async def _add_fault(self, request: web.Request) -> web.Response:
        options = await _options(request, Fault)
        if "kind" not in options:
            raise ValueError("kind is required")
        self._faults.add(**options)
        return await self._get_faults(request)

    async def _clear_faults(self, request: web.Request) -> web.Response:
        self._faults.clear()
        return await self._get_faults(request)

    async def _get_conditions(self, _request: web.Request) -> web.Response:
        return web.json_response(dataclasses.asdict(self._world.conditions))

    async def _set_conditions(self, request: web.Request) -> web.Response:
        self._world.set_conditions(**await _options(request, Conditions))
        return await self._get_conditions(request)

    async def _reset_conditions(self, request: web.Request) -> web.Response:
        self._world.set_conditions(**dataclasses.asdict(Conditions()))
        return await self._get_conditions(request)

    async def _freeze(self, _request: web.Request) -> web.Response:
        self._world.freeze()
        return self._time()

    async def _thaw(self, _request: web.Request) -> web.Response:
        self._world.thaw()
        return self._time()

    def _time(self) -> web.Response:
        return web.json_response({"now": self._world.now(), "frozen": self._world.frozen})

    async def _get_requests(self, _request: web.Request) -> web.Response:
        return web.json_response({"requests": [dataclasses.asdict(logged) for logged in self._requests]})

    async def _clear_requests(self, request: web.Request) -> web.Response:
        self._requests.clear()
        return await self._get_requests(request)


@web.middleware
async def _respond_to_errors(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
    except ValueError as error:
        return web.json_response({"error": str(error)}, status=400)
    except web.HTTPError as error:
        return web.json_response({"error": error.reason}, status=error.status)
    return response


async def _options(request: web.Request, known: type[Fault | Conditions]) -> dict[str, Any]:
    try:
        options = json.loads(await request.read())
    except ValueError as error:
        raise ValueError("the body is not JSON") from error
    if not isinstance(options, dict):
        raise ValueError("the body is not a JSON object")  # noqa: TRY004 - one kind of error for every bad value
    names = [field.name for field in dataclasses.fields(known)]
    for name in options:
        if name not in names:
            raise ValueError(f"unknown option {name!r}: must be one of {', '.join(names)}")
    return options


def _since(request: web.Request) -> float | None:
    since = request.query.get("since")
    return None if since is None else _epoch_seconds(since)


def _epoch_seconds(text: str) -> float:
    for read in (float, parse_timestamp):
        try:
            return read(text)
        except ValueError:
            pass
    raise ValueError(f"since must be epoch seconds or an ISO 8601 date-time, not {text!r}")
