"""The simulated API: the endpoints below /v1/Emails, served from a World."""

import asyncio
import base64
import binascii
import heapq
import hmac
import itertools
import math
import re
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from aiohttp import web

from comms_exporter.simulator import paging, views
from comms_exporter.simulator.fault_responses import (
    NoResponse,
    corrupt_body,
    corrupt_item,
    corrupt_page,
    replacement_response,
)
from comms_exporter.simulator.faults import Fault, Faults
from comms_exporter.simulator.inbound import InboundEmail
from comms_exporter.simulator.operations import Operation, SentEmail
from comms_exporter.simulator.paging import Page
from comms_exporter.simulator.responses import Dialect, Refusal, bad_request, error_response, page_body
from comms_exporter.simulator.send_requests import parse_send_request, parse_timestamp
from comms_exporter.simulator.world import World

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Position = tuple[float, str, int]
Item = TypeVar("Item")
AnyEmail = SentEmail | InboundEmail

OPERATION_STATUSES = ("SCHEDULED", "PROCESSING", "COMPLETED", "CANCELED")
EMAIL_STATUSES = (
    "SCHEDULED", "QUEUED", "SENT", "DELIVERED", "UNDELIVERED", "OPENED", "FAILED", "CANCELED", "INBOUND",
)  # fmt: skip

_TAGS_FILTER = re.compile(r"(?:[a-zA-Z0-9._~-]+:[a-zA-Z0-9._~-]+;){1,10}")
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
        if self._dialect.details:
            app.router.add_get("/Emails/Operations/{id}/Errors", self._list_errors)
            app.router.add_get("/Emails/{id}/Receipts", self._list_receipts)
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
        now = self._moment(request)
        operation = self._find_operation(request, now)
        return _item_response(request, views.operation_view(self._world, operation, now))

    async def _list_operations(self, request: web.Request) -> web.StreamResponse:
        now = self._moment(request)
        page = self._page(request, "operations", OPERATION_STATUSES, now)
        found = (each for each in self._operations(page, now) if page.status in {None, each.status(now)})
        listed, next_page = _cut(page, found, lambda operation: (*operation.key, 0))
        items = [views.operation_view(self._world, operation, now) for operation in listed]
        return self._page_response(request, page, items, next_page)

    async def _list_emails(self, request: web.Request) -> web.StreamResponse:
        now = self._moment(request)
        page = self._page(request, "emails", EMAIL_STATUSES, now)
        listed, next_page = _cut(page, self._emails(page, now), _email_position)
        items = [self._email_view(request, each, now, content=self._dialect.email_content) for each in listed]
        return self._page_response(request, page, items, next_page)

    async def _fetch_email(self, request: web.Request) -> web.StreamResponse:
        now = self._moment(request)
        return _item_response(request, self._email_view(request, self._find_email(request, now), now, content=True))

    async def _list_errors(self, request: web.Request) -> web.StreamResponse:
        now = self._moment(request)
        operation = self._find_operation(request, now)
        page = self._page(request, "errors", (), now)
        failed = operation.emails_with_status("FAILED", now, first=page.after[2])
        listed, next_page = _cut(page, iter(failed), lambda email: (operation.created, operation.id, email + 1))
        items = [views.error_view(operation, email) for email in listed]
        return self._page_response(request, page, items, next_page)

    async def _list_receipts(self, request: web.Request) -> web.StreamResponse:
        now = self._moment(request)
        email = self._find_email(request, now)
        if isinstance(email, InboundEmail):
            raise Refusal(404)
        page = self._page(request, "receipts", (), now)
        return self._page_response(request, page, [views.receipt_view(email, now)], None)

    # What is shown

    def _moment(self, request: web.Request) -> float:
        """Return the time that the response shows: now, or earlier if a replica lags behind."""
        now = self._world.advance()
        fault = request.get(_FAULT)
        return now - fault.lag if fault and fault.kind == "stale" else now

    def _find_operation(self, request: web.Request, now: float) -> Operation:
        operation = self._world.find(request.match_info["id"])
        if operation is None or operation.created > now:
            raise Refusal(404)
        return operation

    def _find_email(self, request: web.Request, now: float) -> AnyEmail:
        email = self._world.find_email(request.match_info["id"])
        if email is None or email.key[0] > now:
            raise Refusal(404)
        return email

    def _email_view(self, request: web.Request, email: AnyEmail, now: float, *, content: bool) -> dict[str, Any]:
        if isinstance(email, InboundEmail):
            view, subject = views.inbound_view(email, dialect=self._dialect), "Re: Simulated email"
        else:
            view = views.email_view(email, now, origin=_origin(request), dialect=self._dialect)
            subject = email.operation.message.subject
        return view | {"content": views.content_view(subject)} if content else view

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
        return Page(listing, size or 50, self._first(now), **filters)

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

    def _emails(self, page: Page, now: float) -> Iterator[AnyEmail]:
        sent, received = self._sent_emails(page, now), self._received_emails(page, now)
        newest_first = self._dialect.order == "newest"
        return heapq.merge(sent, received, key=lambda email: email.key, reverse=newest_first)

    def _sent_emails(self, page: Page, now: float) -> Iterator[AnyEmail]:
        if page.status == "INBOUND":
            return
        _, unfinished, last = page.after
        for operation in self._operations_of_emails(page, now):
            if self._world.expired(operation) or not _has_tags(operation, page.tags):
                continue
            first = last + 1 if operation.id == unfinished else 0
            for place in operation.emails_with_status(page.status, now, first=first):
                yield SentEmail(operation, place)

    def _received_emails(self, page: Page, now: float) -> Iterator[AnyEmail]:
        if page.operation is not None or page.tags or page.status not in {None, "INBOUND"}:
            return iter(())
        created_from, created_before = _range(page, inclusive=self._dialect.bounds == "inclusive")
        return self._world.inbound(
            created_from=created_from,
            created_before=min(created_before, math.nextafter(now, math.inf)),
            beyond=page.after[:2],
            newest_first=self._dialect.order == "newest",
        )

    def _operations_of_emails(self, page: Page, now: float) -> Iterator[Operation]:
        """Return the operations whose emails to list: the one that the last page ended in, and those after it."""
        if page.operation is not None:
            operation = self._world.find(page.operation)
            created_from, created_before = _range(page, inclusive=self._dialect.bounds == "inclusive")
            is_listed = operation and created_from <= operation.created < created_before
            return iter([operation] if operation and is_listed else [])
        unfinished = self._world.find(page.after[1])
        return itertools.chain([unfinished] if unfinished else [], self._operations(page, now))

    def _page_response(
        self, request: web.Request, page: Page, items: list[Any], next_page: Page | None
    ) -> web.StreamResponse:
        this_token = paging.encode(page)
        body = page_body(
            page.listing,
            items,
            this_token=this_token,
            next_token=paging.encode(next_page) if next_page else None,
            size=page.size,
            envelope=self._dialect.envelope,
        )
        if fault := request.get(_FAULT):
            corrupt_page(fault.kind, body, this_token=this_token)
        return web.json_response(body)


def _item_response(request: web.Request, view: dict[str, Any]) -> web.StreamResponse:
    if fault := request.get(_FAULT):
        corrupt_item(fault.kind, view)
    return web.json_response(view)


def _email_position(email: AnyEmail) -> Position:
    return (*email.key, email.place if isinstance(email, SentEmail) else 0)


def _has_tags(operation: Operation, wanted: str | None) -> bool:
    """Return whether the emails of *operation* have all tags in *wanted*, a value of the parameter `tags`."""
    if not wanted:
        return True
    own = operation.message.tags
    return all(own.get(key) == value for key, _, value in (tag.partition(":") for tag in wanted.split(";") if tag))


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
    tags = request.query.get("tags")
    if tags is not None and not _TAGS_FILTER.fullmatch(tags):
        raise bad_request("The parameter 'tags' must have 1 to 10 tags of the form key:value;", "tags")
    return {
        "start": _date(request, "startDate"),
        "end": _date(request, "endDate"),
        "status": status,
        "operation": request.query.get("operationId"),
        "tags": tags,
    }


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
