"""How trouble looks on the wire."""

import asyncio
import math
import socket
import struct
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

from aiohttp import web

from comms_exporter.simulator.answers import ErrorShape, Refusal, word_refusal
from comms_exporter.simulator.faults import Fault

_REFUSALS = {"401", "403", "404", "429", "500", "503"}
_WITH_RETRY_AFTER = {"429", "503"}
_STILL_THERE_SECONDS = 0.5
_GATEWAY_PAGE = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>Bad Gateway</body>\r\n</html>\r\n"


class NoAnswer(web.Response):
    """Stands for the answer that the client never got."""


async def instead_of_answer(
    fault: Fault, request: web.Request, *, now: float, errors: ErrorShape, stopping: asyncio.Event
) -> web.StreamResponse | None:
    """What is sent instead of an answer, or None if this kind of trouble needs an answer to spoil."""
    if fault.kind in _REFUSALS:
        return word_refusal(Refusal(int(fault.kind), headers=_retry_after(fault, now)), errors)
    if fault.kind == "502":
        return web.Response(status=502, text=_GATEWAY_PAGE, content_type="text/html")
    if fault.kind == "empty":
        return web.Response(content_type="application/json")
    if fault.kind == "reset":
        return _reset(request)
    if fault.kind == "hang":
        return await _hang(request, stopping)
    return None


async def spoiled(fault: Fault, request: web.Request, answer: web.StreamResponse) -> web.StreamResponse:
    """What is sent of *answer* when its body breaks off."""
    body = answer.body if isinstance(answer, web.Response) and isinstance(answer.body, bytes) else b""
    half = body[: len(body) // 2]
    if fault.kind == "truncated":
        return web.Response(status=answer.status, body=half, content_type="application/json")
    if fault.kind == "reset-body":
        begun = web.StreamResponse(status=answer.status, headers={"Content-Type": "application/json"})
        begun.content_length = len(body)
        await begun.prepare(request)
        await begun.write(half)
        return _reset(request)
    return answer


def spoil_page(kind: str, page: dict[str, Any], *, own: str) -> None:
    """Spoil one page of operations in the way of *kind*."""
    pagination = page["pagination"]
    following = "next" if "next" in pagination else "nextPageToken"
    items = page["operations" if "operations" in page else "data"]
    if kind == "repeat-token":
        pagination[following] = own
    elif kind == "blank-token":
        pagination[following] = pagination[following] or ""
    elif kind == "empty-page":
        items.clear()
        pagination[following] = own
    elif kind == "unknown-field":
        page["warnings"] = [{"text": "made up by the simulator"}]
    if items:
        # In the middle, where skipping too much would be noticed.
        spoil_operation(kind, items[len(items) // 2])


def spoil_operation(kind: str, operation: dict[str, Any]) -> None:
    """Spoil one operation in the way of *kind*."""
    spoil = _SPOILERS.get(kind)
    if spoil:
        spoil(operation)


_SPOILERS: dict[str, Callable[[dict[str, Any]], None]] = {
    "malformed": lambda operation: operation.update(stats="none", createdAt="yesterday"),
    "unknown-field": lambda operation: operation.update(priority={"level": 3}),
    "unknown-status": lambda operation: operation.update(status="PAUSED"),
    "unknown-counter": lambda operation: operation["stats"].update(complained=1),
}


def _retry_after(fault: Fault, now: float) -> dict[str, str]:
    if fault.kind not in _WITH_RETRY_AFTER or fault.retry_after_form == "none":
        return {}
    if fault.retry_after_form == "date":
        return {"Retry-After": formatdate(math.ceil(now + fault.retry_after), usegmt=True)}
    return {"Retry-After": str(fault.retry_after)}


def _reset(request: web.Request) -> NoAnswer:
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        # Without lingering, closing sends a RST and not a FIN.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return NoAnswer()


async def _hang(request: web.Request, stopping: asyncio.Event) -> NoAnswer:
    # aiohttp tells a handler that its client has left only by cancelling it, and that is the caller's to switch on.
    while not stopping.is_set() and request.transport is not None:
        try:
            await asyncio.wait_for(stopping.wait(), _STILL_THERE_SECONDS)
        except TimeoutError:
            pass
    if request.transport is not None:
        request.transport.abort()
    return NoAnswer()
