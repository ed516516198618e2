"""Client for single emails: their listings, what Twilio says about failures, and receipts.

It sends its requests through the account's CommsClient, so they share its rate limiter, retries, statistics and limits.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TypeVar

from structlog.typing import FilteringBoundLogger

from comms_exporter.api.client import MAX_OPERATION_BYTES, MAX_PAGE_BYTES, CommsClient
from comms_exporter.api.email_payloads import (
    DeliveryError,
    EmailPage,
    Receipt,
    read_delivery_errors,
    read_email,
    read_email_page,
    read_receipts,
)
from comms_exporter.api.errors import CommsError, TooLargeError
from comms_exporter.api.paging import Cursor, PageSize
from comms_exporter.api.payloads import BadPayloadError, TooManyValuesError
from comms_exporter.api.retries import RetryBudget
from comms_exporter.base.times import rfc3339
from comms_exporter.model.emails import Email

Parsed = TypeVar("Parsed")
Detail = TypeVar("Detail", bound=tuple[str, ...])

# Errors and receipts: what is needed are the codes of an operation, and the recipients of one email.
_MAX_DETAIL_PAGES = 20
# Resources in succession that lack details, with a 404, until they are taken for not offered.
_NOT_OFFERED_AFTER = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class EmailFilter:
    """Which emails to list; times are seconds on the API's clock. Entries that a server should have left out are dropped."""

    operation_id: str | None = None
    status: str | None = None
    created_after: float | None = None
    created_before: float | None = None
    tags: tuple[tuple[str, str], ...] = ()

    def parameters(self) -> dict[str, str]:
        """Return the filter as query parameters."""
        given = {
            "operationId": self.operation_id,
            "status": self.status,
            "startDate": None if (start := self._first_second()) is None else rfc3339(start),
            "endDate": None if (end := self._last_second()) is None else rfc3339(end),
            "tags": "".join(f"{key}:{value};" for key, value in self.tags) or None,
        }
        return {name: value for name, value in given.items() if value is not None}

    def matches(self, email: Email) -> bool:
        """Return whether *email* may be what was asked for; what it does not say cannot exclude it, but for tags."""
        start, end = self._first_second(), self._last_second()
        return (
            (self.operation_id is None or email.operation_id in {None, self.operation_id})
            and (self.status is None or email.status == self.status)
            and (start is None or email.created_at is None or email.created_at >= start)
            and (end is None or email.created_at is None or email.created_at <= end)
            and (not self.tags or set(self.tags) <= set(email.tags))
        )

    # The documentation does not say whether the bounds are inclusive, and creation times are in whole seconds. A second
    # more at each end costs nothing.

    def _first_second(self) -> float | None:
        return None if self.created_after is None else math.floor(self.created_after - 1)

    def _last_second(self) -> float | None:
        return None if self.created_before is None else math.floor(self.created_before + 2)


class EmailsClient:
    """Reads one account's emails: https://docs.comms.twilio.com/comms-api-reference/emails."""

    def __init__(self, client: CommsClient, *, log: FilteringBoundLogger) -> None:
        self._client = client
        self._log = log
        self._page_size = PageSize(client.page_size)
        self._offers: dict[str, _Offer] = {}

    @property
    def page_size(self) -> int:
        """How many emails a page of the next listing has."""
        return self._page_size.size

    async def list_emails(
        self, wanted: EmailFilter, budget: RetryBudget, *, on_body: Callable[[bytes], None] | None = None
    ) -> AsyncIterator[EmailPage]:
        """Yield every page of the emails *wanted*; an operation that the API does not know has none.

        A first page that is much smaller than it could be is asked for again in a better size, because a token need not
        survive a change of the size. For the same reason only a page that is too large changes the size within a listing.
        *on_body* is called with the body of each page before it is yielded.
        """
        cursor = Cursor(self._client.url_of(), mask=self._client.redactor.mask)
        parameters = wanted.parameters()
        size = self._page_size.size
        may_grow = True
        while True:
            url = cursor.url({**parameters, "pageSize": str(size)})
            try:
                body = await self._client.get(
                    url, budget, max_bytes=MAX_PAGE_BYTES, within_listing=cursor.within_listing
                )
                # Let other tasks run: parsing a page is as much work as one turn of the loop should do.
                await asyncio.sleep(0)
                page = _parse(read_email_page, body)
            except TooLargeError:
                if size == 1:
                    raise
                size, may_grow = self._page_size.shrink(size), False
                continue
            except CommsError as error:
                if error.reason == "not_found" and wanted.operation_id is not None and not cursor.within_listing:
                    return
                raise
            self._page_size.learn(size=len(body), entries=len(page.emails) + len(page.malformed))
            if may_grow and page.next is not None and self._page_size.size > 2 * size:
                size, may_grow = self._page_size.size, False
                continue
            may_grow = False
            if on_body is not None:
                on_body(body)
            del body
            yield self._only(wanted, self._without_secrets(page))
            if not cursor.advance(page.next):
                self._page_size.listed()
                return

    async def get_email(
        self, email_id: str, budget: RetryBudget, *, on_body: Callable[[bytes], None] | None = None
    ) -> EmailPage | None:
        """Return the email *email_id* as a page of one, None if the API does not have it; *on_body* is called with the body."""
        try:
            # It has its content, so it can be as large as a page.
            body = await self._client.get(self._client.url_of(email_id), budget, max_bytes=MAX_PAGE_BYTES)
        except CommsError as error:
            if error.reason == "not_found":
                return None
            raise
        if on_body is not None:
            on_body(body)
        return self._without_secrets(_parse(read_email, body))

    async def list_errors(self, operation_id: str, budget: RetryBudget) -> list[DeliveryError] | None:
        """Return why emails of the operation failed, None if the API does not have that."""
        return await self._details(read_delivery_errors, ("Operations", operation_id, "Errors"), budget)

    async def list_receipts(self, email_id: str, budget: RetryBudget) -> list[Receipt] | None:
        """Return what became of the email for each of its recipients, None if the API does not have that."""
        return await self._details(read_receipts, (email_id, "Receipts"), budget)

    async def _details(
        self,
        read: Callable[[bytes], tuple[list[Detail], str | None]],
        segments: tuple[str, ...],
        budget: RetryBudget,
    ) -> list[Detail] | None:
        cursor = Cursor(self._client.url_of(*segments), mask=self._client.redactor.mask)
        offer = self._offers.setdefault(segments[-1], _Offer())
        found: list[Detail] = []
        for _ in range(_MAX_DETAIL_PAGES):
            try:
                body = await self._client.get(
                    cursor.url({}), budget, max_bytes=MAX_OPERATION_BYTES, within_listing=cursor.within_listing
                )
            except CommsError as error:
                if error.status in {404, 405} and not cursor.within_listing:
                    if offer.missed(error.status):
                        self._log.info("the API does not offer these details", path=f"/{segments[-1]}")
                    return None
                raise
            offer.offered = True
            entries, token = _parse(read, body)
            found += (each for each in entries if not self._client.redactor.finds_secret_in("\n".join(each)))
            if not cursor.advance(token):
                break
        return found

    def offers_receipts(self) -> bool | None:
        """Return whether the API offers receipts; None if too few were asked for to tell."""
        offer = self._offers.get("Receipts")
        return None if offer is None else offer.offered

    def _only(self, wanted: EmailFilter, page: EmailPage) -> EmailPage:
        emails = [each for each in page.emails if wanted.matches(each)]
        return page._replace(emails=emails, mismatched=len(page.emails) - len(emails))

    def _without_secrets(self, page: EmailPage) -> EmailPage:
        """Return *page* without emails that contain a secret: what is left of them is exposed, logged and saved."""
        finds_secret_in = self._client.redactor.finds_secret_in
        # One search in all texts of a page costs next to nothing.
        if not finds_secret_in("\n".join(map(_texts, page.emails))):
            return page
        good = [each for each in page.emails if not finds_secret_in(_texts(each))]
        malformed = ["an email contains a secret"] * (len(page.emails) - len(good))
        return page._replace(emails=good, malformed=[*page.malformed, *malformed])


class _Offer:
    """Whether the API offers one kind of details: *offered* is None until that is known."""

    def __init__(self) -> None:
        self.offered: bool | None = None
        self._missing = 0

    def missed(self, status: int | None) -> bool:
        """Note a response without the details, and return whether that is how we know that none are offered."""
        self._missing += 1
        # Another resource may have them, unless the method itself is not allowed.
        if self.offered is None and (status == 405 or self._missing >= _NOT_OFFERED_AFTER):
            self.offered = False
            return True
        return False


def _texts(email: Email) -> str:
    """Return everything in *email* that came as text."""
    tags = (text for tag in email.tags for text in tag)
    return "\n".join(
        (email.id, email.status, email.operation_id or "", email.recipient_domain, email.sender_domain, *tags)
    )


def _parse(read: Callable[[bytes], Parsed], body: bytes) -> Parsed:
    try:
        return read(body)
    except TooManyValuesError as error:
        raise TooLargeError(f"200 with an invalid body: {error}") from None
    except BadPayloadError as error:
        raise CommsError("bad_payload", f"200 with an invalid body: {error}") from None
