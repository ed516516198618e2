"""Client for the Comms API: one request at a time, rate limited, with retries and classified errors."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp
from yarl import URL

from comms_exporter.api.credentials import Credentials
from comms_exporter.api.error_classification import classify_network_error, classify_response
from comms_exporter.api.errors import CommsError, ThrottledError, TooLargeError
from comms_exporter.api.paging import Cursor
from comms_exporter.api.payloads import BadPayloadError, Page, read_page, read_single
from comms_exporter.api.rate_limiter import RateLimiter
from comms_exporter.api.request_stats import RequestStats
from comms_exporter.api.retries import RetryBudget, retry_delay
from comms_exporter.base.aiohttp_internals import send_once
from comms_exporter.base.redaction import Redactor
from comms_exporter.base.times import parse_http_date, rfc3339

# Limits on a body, after decompression. A page of 1,000 operations has 0.3 MB and an operation 0.3 kB, which leaves room
# for many unknown fields; of an error, the first sentences are enough.
MAX_PAGE_BYTES = 8 * 2**20
MAX_OPERATION_BYTES = 256 * 2**10
MAX_ERROR_BYTES = 64 * 2**10


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """The filters of a listing; *created_after* is in seconds on the API's clock."""

    created_after: float | None = None
    status: str | None = None


class CommsClient:
    """Reads one account's operations: https://docs.comms.twilio.com/comms-api-reference/emails."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        base_url: str,
        credentials: Credentials,
        page_size: int,
        timeout: float,
        requests_per_second: float,
        request_stats: RequestStats,
        proxy: URL | None = None,
        redactor: Redactor | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._session = session
        send_once(session)
        self._base = URL(base_url)
        self._credentials = credentials
        self._proxy = proxy
        self.redactor = redactor or Redactor()
        self.page_size = page_size
        self._timeout_seconds = timeout
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._rate_limiter = RateLimiter(requests_per_second, monotonic=monotonic, sleep=sleep)
        self.request_stats = request_stats
        self._clock = clock
        self._monotonic = monotonic
        self._sleep = sleep
        self._jitter = jitter
        self._skew = 0.0

    def now(self) -> float:
        """Return the time on the API's clock, according to its last Date header."""
        return self._clock() + self._skew

    async def pages(self, query: Query, budget: RetryBudget) -> AsyncIterator[Page]:
        """Yield every page of the listing *query*; a listing without an end raises a CommsError."""
        cursor = Cursor(self.url_of("Operations"), mask=self.redactor.mask)
        parameters = _parameters(query, self.page_size)
        while True:
            body = await self.get(
                cursor.url(parameters), budget, max_bytes=MAX_PAGE_BYTES, within_listing=cursor.within_listing
            )
            # Let other tasks run: parsing a page is as much work as one turn of the loop should do.
            await asyncio.sleep(0)
            page = self._without_secrets(_parse(read_page, body))
            yield page
            if not cursor.advance(page.next):
                return

    async def operation(self, operation_id: str, budget: RetryBudget) -> Page | None:
        """Return the operation *operation_id* as a page of one, None if the API no longer has it."""
        try:
            url = self.url_of("Operations", operation_id)
        except ValueError as error:
            return Page([], None, [str(error)], Counter())
        try:
            body = await self.get(url, budget, max_bytes=MAX_OPERATION_BYTES)
        except CommsError as error:
            if error.reason == "not_found":
                return None
            raise
        return self._without_secrets(_parse(read_single, body))

    def url_of(self, *segments: str) -> URL:
        """Return the URL of *segments* below /Emails; raise a ValueError for an id that cannot be a segment."""
        url = self._base / "Emails"
        for segment in segments:
            # Whatever an id contains, it stays one segment of the path.
            quoted = quote(segment, safe="")
            if quoted in {"", ".", ".."}:
                raise ValueError(f"the id {quoted} cannot be used in a URL")
            url = url.joinpath(quoted, encoded=True)
        return url

    def _without_secrets(self, page: Page) -> Page:
        """Return *page* without operations whose id or status contains a secret: both are exposed and saved."""
        # One search in all names of a page costs next to nothing.
        names = [each.id for each in page.operations]
        if not self.redactor.finds_secret_in("\n".join([*names, *{each.status for each in page.operations}])):
            return page
        good = [each for each in page.operations if not self.redactor.finds_secret_in(f"{each.id}\n{each.status}")]
        malformed = ["id or status contains a secret"] * (len(page.operations) - len(good))
        return page._replace(operations=good, malformed=[*page.malformed, *malformed])

    async def get(self, url: URL, budget: RetryBudget, *, max_bytes: int, within_listing: bool = False) -> bytes:
        """Return the body of the response to *url*; the only place that retries.

        Giving up *within_listing* would lose the earlier pages, so there a throttled request waits, if not for long.
        """
        retries = 0
        reloaded = False
        delay: float | None
        while True:
            await self._rate_limiter.acquire(budget.before_wait)
            budget.before_wait(self._timeout_seconds)
            try:
                return await self._request(url, max_bytes)
            except CommsError as error:
                # After a 401, reload the credentials, and retry only if they changed.
                if error.reason == "auth" and not reloaded and self._credentials.refresh():
                    reloaded, delay = True, 0.0
                elif (
                    delay := retry_delay(error, retries=retries, jitter=self._jitter(), within_listing=within_listing)
                ) is None or not budget.take():
                    raise
                if isinstance(error, ThrottledError):
                    self.request_stats.backoff_started(delay)
            retries += 1
            self.request_stats.retries += 1
            budget.before_wait(delay)
            try:
                await self._sleep(delay)
            finally:
                self.request_stats.backoff_ended()

    async def _request(self, url: URL, max_bytes: int) -> bytes:
        started = self._monotonic()
        code = "error"
        try:
            async with self._session.get(
                url,
                headers={"Authorization": self._credentials.header(), "Accept": "application/json"},
                proxy=self._proxy,
                timeout=self._timeout,
                allow_redirects=False,
            ) as response:
                body = await _read_body(response, max_bytes)
                code = str(response.status)
                self._set_clock(response.headers)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise classify_network_error(error, self._timeout_seconds, mask=self.redactor.mask) from error
        finally:
            self.request_stats.requests[code] += 1
            self.request_stats.durations.observe(self._monotonic() - started)
        failure = classify_response(response.status, response.headers, body, now=self.now(), mask=self.redactor.mask)
        if failure is not None:
            raise failure
        return body

    def _set_clock(self, headers: Mapping[str, str]) -> None:
        date = parse_http_date(headers.get("Date", ""))
        if date is not None:
            self._skew = date - self._clock()


def _parameters(query: Query, page_size: int) -> dict[str, str]:
    parameters = {"pageSize": str(page_size)}
    if query.created_after is not None:
        # The documentation does not say whether the bound is inclusive; a second more costs nothing.
        parameters["startDate"] = rfc3339(query.created_after - 1)
    if query.status is not None:
        parameters["status"] = query.status
    return parameters


async def _read_body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Return the body of a 200, or the beginning of an error's; a 200 of more than *max_bytes* is a bad payload."""
    ok = response.status == 200
    limit = max_bytes if ok else MAX_ERROR_BYTES
    body = bytearray()
    async for chunk in response.content.iter_chunked(2**16):
        body += chunk
        if len(body) > limit:
            response.close()
            if not ok:
                del body[limit:]
                break
            raise TooLargeError(f"{response.status} with a body of more than {limit >> 10} KiB")
    return bytes(body)


def _parse(read: Callable[[bytes], Page], body: bytes) -> Page:
    try:
        return read(body)
    except BadPayloadError as error:
        raise CommsError("bad_payload", f"200 with an invalid body: {error}") from None
