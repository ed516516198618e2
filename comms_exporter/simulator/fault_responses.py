"""How each fault changes a response."""

import asyncio
import math
import socket
import struct
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

from aiohttp import web

from comms_exporter.simulator.faults import Fault
from comms_exporter.simulator.responses import ErrorShape, Refusal, error_response

_REFUSALS = {"401", "403", "404", "429", "500", "503"}
_WITH_RETRY_AFTER = {"429", "503"}
_DISCONNECT_CHECK_SECONDS = 0.5
_GATEWAY_PAGE = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>Bad Gateway</body>\r\n</html>\r\n"


class NoResponse(web.Response):
    """Stands for a response that was never sent."""


async def replacement_response(
    fault: Fault, request: web.Request, *, now: float, errors: ErrorShape, stopping: asyncio.Event
) -> web.StreamResponse | None:
    """Return what is sent instead of the normal response, or None if the fault changes the normal one."""
    if fault.kind in _REFUSALS:
        return error_response(Refusal(int(fault.kind), headers=_retry_after(fault, now)), errors)
    if fault.kind == "502":
        return web.Response(status=502, text=_GATEWAY_PAGE, content_type="text/html")
    if fault.kind == "empty":
        return web.Response(content_type="application/json")
    if fault.kind == "reset":
        return _reset(request)
    if fault.kind == "hang":
        return await _hang(request, stopping)
    return None


async def corrupt_body(fault: Fault, request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Return *response* with its body cut in half, if that is what the fault does."""
    body = response.body if isinstance(response, web.Response) and isinstance(response.body, bytes) else b""
    half = body[: len(body) // 2]
    if fault.kind == "truncated":
        return web.Response(status=response.status, body=half, content_type="application/json")
    if fault.kind == "reset-body":
        partial = web.StreamResponse(status=response.status, headers={"Content-Type": "application/json"})
        partial.content_length = len(body)
        await partial.prepare(request)
        await partial.write(half)
        return _reset(request)
    return response


def corrupt_page(kind: str, page: dict[str, Any], *, this_token: str) -> None:
    """Apply a fault of *kind* to a page of any listing."""
    pagination = page["pagination"]
    token = "next" if "next" in pagination else "nextPageToken"
    items = next(page[name] for name in ("operations", "emails", "errors", "receipts", "data") if name in page)
    if kind == "repeat-token":
        pagination[token] = this_token
    elif kind == "blank-token":
        pagination[token] = pagination[token] or ""
    elif kind == "empty-page":
        items.clear()
        pagination[token] = this_token
    elif kind == "unknown-field":
        page["warnings"] = [{"text": "added by the simulator"}]
    if items:
        # In the middle, so that a client that skips the rest of the page is noticed.
        corrupt_item(kind, items[len(items) // 2])


def corrupt_item(kind: str, item: dict[str, Any]) -> None:
    """Apply a fault of *kind* to one operation or email."""
    corrupt = _CORRUPTIONS.get(kind)
    if corrupt:
        corrupt(item)


_CORRUPTIONS: dict[str, Callable[[dict[str, Any]], None]] = {
    "malformed": lambda item: item.update(
        {"stats": "none"} if "stats" in item else {"status": 7}, createdAt="yesterday"
    ),
    "unknown-field": lambda item: item.update(priority={"level": 3}),
    "unknown-status": lambda item: item.update(status="PAUSED"),
    "unknown-counter": lambda operation: operation["stats"].update(complained=1),
}


def _retry_after(fault: Fault, now: float) -> dict[str, str]:
    if fault.kind not in _WITH_RETRY_AFTER or fault.retry_after_form == "none":
        return {}
    if fault.retry_after_form == "date":
        return {"Retry-After": formatdate(math.ceil(now + fault.retry_after), usegmt=True)}
    return {"Retry-After": str(fault.retry_after)}


def _reset(request: web.Request) -> NoResponse:
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        # With a linger time of 0, closing sends RST instead of FIN.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return NoResponse()


async def _hang(request: web.Request, stopping: asyncio.Event) -> NoResponse:
    # aiohttp cancels a handler when its client disconnects only if the server enables that, so we check the transport.
    while not stopping.is_set() and request.transport is not None:
        try:
            await asyncio.wait_for(stopping.wait(), _DISCONNECT_CHECK_SECONDS)
        except TimeoutError:
            pass
    if request.transport is not None:
        request.transport.abort()
    return NoResponse()
