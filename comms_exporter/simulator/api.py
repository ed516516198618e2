"""The simulated API: the endpoints below /v1/Emails, served from a World."""

import asyncio
import base64
import binascii
import hmac
import itertools
import math
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from aiohttp import web

from comms_exporter.simulator import paging, views
from comms_exporter.simulator.fault_responses import (
    NoResponse,
    corrupt_body,
    corrupt_operation,
    corrupt_page,
    replacement_response,
)
from comms_exporter.simulator.faults import Fault, Faults
from comms_exporter.simulator.operations import Operation
from comms_exporter.simulator.paging import Page
from comms_exporter.simulator.responses import Dialect, Refusal, bad_request, error_response, page_body
from comms_exporter.simulator.send_requests import parse_send_request, parse_timestamp
from comms_exporter.simulator.world import World

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Position = tuple[float, str, int]
Item = TypeVar("Item")

OPERATION_STATUSES = ("SCHEDULED", "PROCESSING", "COMPLETED", "CANCELED")
EMAIL_STATUSES = (
    "SCHEDULED", "QUEUED", "SENT", "DELIVERED", "UNDELIVERED", "OPENED", "FAILED", "CANCELED", "INBOUND",
)  # fmt: skip

_FAULT = web.RequestKey("fault", Fault)


@dataclass(slots=True)
class LoggedRequest:
    """One request in the log; *code* is None until a response is sent."""

    time: float
    method: str
    path: str
    account: str | None
    code: int | None = None


class Credentials(NamedTuple):
    """What a client sent as HTTP Basic authentication."""

    account: str
    secret: str


class Api:
    """The endpoints below /v1."""

    def __init__(
        self,
        world: World,
        faults: Faults,
        *,
        dialect: Dialect,
        credentials: Mapping[str, str] | None,
        requests: deque[LoggedRequest],
    ) -> None:
        self._world = world
        self._faults = faults
        self._dialect = dialect
        self._credentials = credentials
        self._requests = requests
        self._stopping = asyncio.Event()

    def make_app(self) -> web.Application:
        """Return the application to be mounted at /v1."""
        app = web.Application(
            middlewares=[self._record, self._respond_to_errors, self._inject_fault, self._authenticate]
        )
        app.add_routes(
            [
                web.post("/Emails", self._send),
                web.get("/Emails", self._list_emails),
                web.get("/Emails/Operations", self._list_operations),
                web.get("/Emails/Operations/{id}", self._fetch_operation),
                web.get("/Emails/{id}", self._fetch_email),
            ]
        )
        app.on_shutdown.append(self._stop)
        return app

    async def _stop(self, _app: web.Application) -> None:
        self._stopping.set()

    # Middlewares

    @web.middleware
    async def _record(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        sent = _basic(request)
        logged = LoggedRequest(self._world.now(), request.method, request.path_qs, sent.account if sent else None)
        self._requests.append(logged)
        response = await handler(request)
        logged.code = None if isinstance(response, NoResponse) else response.status
        return response

    @web.middleware
    async def _respond_to_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refusal as refusal:
            return error_response(refusal, self._dialect.errors)
        except web.HTTPError as error:
            return error_response(Refusal(error.status), self._dialect.errors)

    @web.middleware
    async def _inject_fault(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        fault = self._faults.draw(request.method, request.path)
        if fault is None:
            return await handler(request)
        replacement = await replacement_response(
            fault, request, now=self._world.now(), errors=self._dialect.errors, stopping=self._stopping
        )
        if replacement is not None:
            return replacement
        request[_FAULT] = fault
        return await corrupt_body(fault, request, await handler(request))

    @web.middleware
    async def _authenticate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self._accepts(_basic(request)):
            raise Refusal(401, headers={"WWW-Authenticate": 'Basic realm="Twilio API"'})
        return await handler(request)

    def _accepts(self, sent: Credentials | None) -> bool:
        if sent is None or not sent.account or not sent.secret:
            return False
        if self._credentials is None:
            return True
        secret = self._credentials.get(sent.account)
        return secret is not None and hmac.compare_digest(secret.encode(), sent.secret.encode())

    # The endpoints

    async def _send(self, request: web.Request) -> web.StreamResponse:
        parsed = parse_send_request(await request.read())
        operation = self._world.send(len(parsed.message.to), message=parsed.message, schedule=parsed.schedule)
        location = views.operation_location(_origin(request), operation)
        return web.json_response({"operationId": operation.id, "operationLocation": location}, status=202)

    async def _fetch_operation(self, request: web.Request) -> web.StreamResponse:
        operation = self._world.find(request.match_info["id"])
        if operation is None:
            raise Refusal(404)
        view = views.operation_view(self._world, operation, self._world.now())
        if fault := request.get(_FAULT):
            corrupt_operation(fault.kind, view)
        return web.json_response(view)

    async def _list_operations(self, request: web.Request) -> web.StreamResponse:
        now = self._world.advance()
        page = self._page(request, "operations", OPERATION_STATUSES, now)
        found = (each for each in self._operations(page, now) if page.status in {None, each.status(now)})
        listed, next_page = _cut(page, found, lambda operation: (*operation.key, 0))
        items = [views.operation_view(self._world, operation, now) for operation in listed]
        body = self._page_body(page, items, next_page)
        if fault := request.get(_FAULT):
            corrupt_page(fault.kind, body, this_token=paging.encode(page))
        return web.json_response(body)

    async def _list_emails(self, request: web.Request) -> web.StreamResponse:
        now = self._world.advance()
        page = self._page(request, "emails", EMAIL_STATUSES, now)
        found = (
            (operation, email)
            for operation, email in self._emails(page, now)
            if page.status in {None, operation.email_status(email, now)}
        )
        listed, next_page = _cut(page, found, lambda email: (*email[0].key, email[1]))
        items = [views.email_view(operation, email, now, origin=_origin(request)) for operation, email in listed]
        return web.json_response(self._page_body(page, items, next_page))

    async def _fetch_email(self, request: web.Request) -> web.StreamResponse:
        found = self._world.find_email(request.match_info["id"])
        if found is None:
            raise Refusal(404)
        operation, email = found
        view = views.email_view(operation, email, self._world.now(), origin=_origin(request))
        content: dict[str, Any] = {"subject": operation.message.subject, "text": None, "html": None, "attachments": []}
        return web.json_response(view | {"content": content})

    # Listings

    def _page(self, request: web.Request, listing: str, statuses: Collection[str], now: float) -> Page:
        """Return the requested page; the filters in a token override those in the query."""
        size = _page_size(request)
        if token := request.query.get("pageToken"):
            try:
                page = paging.decode(token, listing)
            except ValueError as error:
                raise bad_request("The parameter 'pageToken' is not valid.", "pageToken") from error
            return page._replace(size=size or page.size)
        filters = {} if self._dialect.ignore_filters else _filters(request, statuses)
        return Page(listing, size or 50, self._first(now), operation=request.query.get("operationId"), **filters)

    def _first(self, now: float) -> tuple[float, str, int]:
        """Return the position before the first item; newest first, operations created later are not listed."""
        return (now, "~", 0) if self._dialect.order == "newest" else (-1.0, "", 0)

    def _operations(self, page: Page, now: float) -> Iterator[Operation]:
        created_from, created_before = _range(page, inclusive=self._dialect.bounds == "inclusive")
        return self._world.operations(
            created_from=created_from,
            created_before=min(created_before, math.nextafter(now, math.inf)),
            beyond=page.after[:2],
            newest_first=self._dialect.order == "newest",
        )

    def _emails(self, page: Page, now: float) -> Iterator[tuple[Operation, int]]:
        _, unfinished, last = page.after
        for operation in self._operations_of_emails(page, now):
            first = last + 1 if operation.id == unfinished else 0
            if not self._world.expired(operation):
                yield from ((operation, email) for email in range(first, operation.total))

    def _operations_of_emails(self, page: Page, now: float) -> Iterator[Operation]:
        """Return the operations whose emails to list: the one that the last page ended in, and those after it."""
        if page.operation is not None:
            operation = self._world.find(page.operation)
            created_from, created_before = _range(page, inclusive=self._dialect.bounds == "inclusive")
            is_listed = operation and created_from <= operation.created < created_before
            return iter([operation] if operation and is_listed else [])
        unfinished = self._world.find(page.after[1])
        return itertools.chain([unfinished] if unfinished else [], self._operations(page, now))

    def _page_body(self, page: Page, items: list[Any], next_page: Page | None) -> Any:
        return page_body(
            page.listing,
            items,
            this_token=paging.encode(page),
            next_token=paging.encode(next_page) if next_page else None,
            size=page.size,
            envelope=self._dialect.envelope,
        )


def _cut(page: Page, found: Iterator[Item], position: Callable[[Item], Position]) -> tuple[list[Item], Page | None]:
    """Return the items of one page, and the next page if there are more."""
    listed = list(itertools.islice(found, page.size))
    more = next(found, None) is not None
    return listed, page._replace(after=position(listed[-1])) if more else None


def _page_size(request: web.Request) -> int | None:
    text = request.query.get("pageSize")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:5]) <= 1000):
        raise bad_request("The parameter 'pageSize' must be between 1 and 1000.", "pageSize")
    return int(text)


def _filters(request: web.Request, statuses: Collection[str]) -> dict[str, Any]:
    status = request.query.get("status")
    if status is not None and status not in statuses:
        raise bad_request(f"The parameter 'status' must be one of {', '.join(statuses)}.", "status")
    return {"start": _date(request, "startDate"), "end": _date(request, "endDate"), "status": status}


def _date(request: web.Request, name: str) -> float | None:
    text = request.query.get(name)
    if text is None:
        return None
    try:
        return parse_timestamp(text)
    except (ValueError, OverflowError) as error:
        raise bad_request(f"The parameter '{name}' must be an ISO 8601 date-time.", name) from error


def _range(page: Page, *, inclusive: bool) -> tuple[float, float]:
    """Return the range of creation times; dates are compared with createdAt as shown, in whole seconds."""
    start, end = page.start, page.end
    low, high = -math.inf, math.inf
    if start is not None:
        low = math.ceil(start) if inclusive else math.floor(start) + 1
    if end is not None:
        high = math.floor(end) + 1 if inclusive else math.ceil(end)
    return low, high


def _basic(request: web.Request) -> Credentials | None:
    scheme, _, packed = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        account, colon, secret = base64.b64decode(packed, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return Credentials(account, secret) if colon else None


def _origin(request: web.Request) -> str:
    return f"{request.scheme}://{request.host}"
