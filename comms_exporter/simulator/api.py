"""The simulated API over HTTP: /v1/Emails as Twilio answers it, over a World."""

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
from comms_exporter.simulator.answers import Dialect, Refusal, bad_request, word_page, word_refusal
from comms_exporter.simulator.faults import Fault, Faults
from comms_exporter.simulator.operations import Operation
from comms_exporter.simulator.paging import Page
from comms_exporter.simulator.posting import moment, read_letter
from comms_exporter.simulator.trouble import NoAnswer, instead_of_answer, spoil_operation, spoil_page, spoiled
from comms_exporter.simulator.world import World

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Place = tuple[float, str, int]
Found = TypeVar("Found")

OPERATION_STATUSES = ("SCHEDULED", "PROCESSING", "COMPLETED", "CANCELED")
EMAIL_STATUSES = (
    "SCHEDULED", "QUEUED", "SENT", "DELIVERED", "UNDELIVERED", "OPENED", "FAILED", "CANCELED", "INBOUND",
)  # fmt: skip

_FAULT = web.RequestKey("fault", Fault)


@dataclass(slots=True)
class Served:
    """One request in the log; *code* is None as long as, and if, no answer came."""

    time: float
    method: str
    path: str
    account: str | None
    code: int | None = None


class Credentials(NamedTuple):
    """What a client sent as HTTP Basic."""

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
        requests: deque[Served],
    ) -> None:
        self._world = world
        self._faults = faults
        self._dialect = dialect
        self._credentials = credentials
        self._requests = requests
        self._stopping = asyncio.Event()

    def make_app(self) -> web.Application:
        """Make the application that answers below /v1."""
        app = web.Application(middlewares=[self._record, self._refuse, self._misbehave, self._authenticate])
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

    # Around every request

    @web.middleware
    async def _record(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        sent = _basic(request)
        served = Served(self._world.now(), request.method, request.path_qs, sent.account if sent else None)
        self._requests.append(served)
        response = await handler(request)
        served.code = None if isinstance(response, NoAnswer) else response.status
        return response

    @web.middleware
    async def _refuse(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refusal as refusal:
            return word_refusal(refusal, self._dialect.errors)
        except web.HTTPError as error:
            return word_refusal(Refusal(error.status), self._dialect.errors)

    @web.middleware
    async def _misbehave(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        fault = self._faults.draw(request.method, request.path)
        if fault is None:
            return await handler(request)
        instead = await instead_of_answer(
            fault, request, now=self._world.now(), errors=self._dialect.errors, stopping=self._stopping
        )
        if instead is not None:
            return instead
        request[_FAULT] = fault
        return await spoiled(fault, request, await handler(request))

    @web.middleware
    async def _authenticate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self._knows(_basic(request)):
            raise Refusal(401, headers={"WWW-Authenticate": 'Basic realm="Twilio API"'})
        return await handler(request)

    def _knows(self, sent: Credentials | None) -> bool:
        if sent is None or not sent.account or not sent.secret:
            return False
        if self._credentials is None:
            return True
        secret = self._credentials.get(sent.account)
        return secret is not None and hmac.compare_digest(secret.encode(), sent.secret.encode())

    # The endpoints

    async def _send(self, request: web.Request) -> web.StreamResponse:
        letter = read_letter(await request.read())
        operation = self._world.send(len(letter.message.to), message=letter.message, schedule=letter.schedule)
        location = views.operation_location(_origin(request), operation)
        return web.json_response({"operationId": operation.id, "operationLocation": location}, status=202)

    async def _fetch_operation(self, request: web.Request) -> web.StreamResponse:
        operation = self._world.find(request.match_info["id"])
        if operation is None:
            raise Refusal(404)
        view = views.operation_view(self._world, operation, self._world.now())
        if fault := request.get(_FAULT):
            spoil_operation(fault.kind, view)
        return web.json_response(view)

    async def _list_operations(self, request: web.Request) -> web.StreamResponse:
        now = self._world.advance()
        page = self._page(request, "operations", OPERATION_STATUSES, now)
        found = (one for one in self._operations(page, now) if page.status in {None, one.status(now)})
        listed, following = _cut(page, found, lambda operation: (*operation.key, 0))
        items = [views.operation_view(self._world, operation, now) for operation in listed]
        answer = self._word(page, items, following)
        if fault := request.get(_FAULT):
            spoil_page(fault.kind, answer, own=paging.encode(page))
        return web.json_response(answer)

    async def _list_emails(self, request: web.Request) -> web.StreamResponse:
        now = self._world.advance()
        page = self._page(request, "emails", EMAIL_STATUSES, now)
        found = (
            (operation, email)
            for operation, email in self._emails(page, now)
            if page.status in {None, operation.email_status(email, now)}
        )
        listed, following = _cut(page, found, lambda email: (*email[0].key, email[1]))
        items = [views.email_view(operation, email, now, origin=_origin(request)) for operation, email in listed]
        return web.json_response(self._word(page, items, following))

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
        """Which page is asked for: a token holds its filters, and wins over those beside it."""
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
        """The place before the first: newest first, whatever arrives later is beyond the listing."""
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
        _, begun, last = page.after
        for operation in self._mailings(page, now):
            first = last + 1 if operation.id == begun else 0
            if not self._world.expired(operation):
                yield from ((operation, email) for email in range(first, operation.total))

    def _mailings(self, page: Page, now: float) -> Iterator[Operation]:
        """The operations whose emails are to be listed: the one the last page ended in, and those beyond it."""
        if page.operation is not None:
            asked = [self._world.find(page.operation)]
            created_from, created_before = _range(page, inclusive=self._dialect.bounds == "inclusive")
            return (one for one in asked if one and created_from <= one.created < created_before)
        begun = self._world.find(page.after[1])
        return itertools.chain([begun] if begun else [], self._operations(page, now))

    def _word(self, page: Page, items: list[Any], following: Page | None) -> Any:
        return word_page(
            page.listing,
            items,
            own=paging.encode(page),
            following=paging.encode(following) if following else None,
            size=page.size,
            envelope=self._dialect.envelope,
        )


def _cut(page: Page, found: Iterator[Found], place: Callable[[Found], Place]) -> tuple[list[Found], Page | None]:
    """Take one page of what was found, and say where the next one begins, if there is one."""
    listed = list(itertools.islice(found, page.size))
    more = next(found, None) is not None
    return listed, page._replace(after=place(listed[-1])) if more else None


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
        return moment(text)
    except (ValueError, OverflowError) as error:
        raise bad_request(f"The parameter '{name}' must be an ISO 8601 date-time.", name) from error


def _range(page: Page, *, inclusive: bool) -> tuple[float, float]:
    """The creation times within the page's dates, which are compared with createdAt as shown: in whole seconds."""
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
