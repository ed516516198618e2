"""Asks the Comms API, one request at a time and no faster than agreed, and says in our words what came back.

CommsError
+-- ConnectionLostError   nothing came back: the same request may be tried again
+-- ThrottledError        429 or 503: the account has to wait

The class decides whether to try again, *reason* is one of health.REASONS, the message is for people.
"""

import asyncio
import json
import random
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Protocol
from urllib.parse import quote

import aiohttp
from aiohttp.http_exceptions import ContentEncodingError
from yarl import URL

from comms_exporter.api.payloads import BadPayloadError, Page, read_page, read_single
from comms_exporter.api.rate_limiter import RateLimiter
from comms_exporter.api.request_stats import RequestStats
from comms_exporter.base.aiohttp_internals import send_once
from comms_exporter.base.redaction import Redactor
from comms_exporter.base.times import is_representable, rfc3339

# Bytes of a body that are read at most, unpacked. A page of 1,000 operations is 0.3 MB and one operation 0.3 kB, so
# there is room for many fields that we do not know; of an error, the first sentences say enough.
LARGEST_PAGE = 8 * 2**20
LARGEST_OPERATION = 256 * 2**10
LARGEST_ERROR = 64 * 2**10
# Twice the operations that anybody was ever reported to send in a week, at the largest page size.
MOST_PAGES = 20_000
LONGEST_WAIT = 3600.0
# Waits that a listing under way sits out rather than start again.
PATIENT_WAIT = 60.0
BACKOFF_BASE = 0.5
BACKOFF_LIMIT = 8.0

_REASON_BY_STATUS = {401: "auth", 403: "forbidden", 404: "not_found", 408: "timeout", 429: "rate_limited"}


class CommsError(Exception):
    """The API gave no usable answer; *reason* is one of health.REASONS."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ConnectionLostError(CommsError):
    """No complete answer came; asking again does no harm."""


class ThrottledError(CommsError):
    """The API asked for patience: *retry_after* seconds, None where it did not say how long."""

    def __init__(self, reason: str, message: str, retry_after: float | None) -> None:
        super().__init__(reason, message)
        self.retry_after = retry_after


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """Which operations a listing asks for; times are seconds on the API's clock."""

    created_after: float | None = None
    created_before: float | None = None
    status: str | None = None


@dataclass(slots=True)
class Patience:
    """How often one poll may still try again; shared by all its requests.

    *expect* is told how long the poll is about to wait at most, whether for an answer or for its turn.
    """

    tries_left: int = 2
    expect: Callable[[float], None] = lambda _: None

    def again(self) -> bool:
        """Take one more try, if there is one."""
        self.tries_left -= 1
        return self.tries_left >= 0


class Credentials(Protocol):
    """What a request is signed with."""

    def header(self) -> str:
        """Return the Authorization header."""

    def refresh(self) -> bool:
        """Read it again where it comes from, and say whether it is another."""


class CommsClient:
    """One account's view of https://docs.comms.twilio.com/comms-api-reference/emails, as far as we read it."""

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
        secrets: Redactor | None = None,
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
        self._secrets = secrets or Redactor()
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
        """Return the time on the API's clock, as far as its answers tell."""
        return self._clock() + self._skew

    async def pages(self, query: Query, patience: Patience) -> AsyncIterator[Page]:
        """Yield every page of the listing *query*; a token that comes twice is an error, not a loop."""
        url = self._base / "Emails" / "Operations"
        parameters = _parameters(query, self.page_size)
        # Their hashes: 20,000 tokens of the longest kind would be 80 MB.
        seen: set[int] = set()
        token: str | None = None
        while True:
            target = url.with_query(parameters if token is None else {**parameters, "pageToken": token})
            if token is not None and token.startswith(("http://", "https://")):
                target = self._same_origin(token)
            body = await self._get(target, patience, largest=LARGEST_PAGE, started=token is not None)
            # To read it is as much as one turn of the loop should hold.
            await asyncio.sleep(0)
            page = self._named_harmlessly(read(read_page, body))
            yield page
            token = page.next
            if token is None:
                return
            if hash(token) in seen:
                raise CommsError("bad_payload", "the listing repeats a page token; it would never end")
            seen.add(hash(token))
            if len(seen) >= MOST_PAGES:
                raise CommsError("bad_payload", f"the listing does not end within {MOST_PAGES} pages")

    async def operation(self, operation_id: str, patience: Patience) -> Page | None:
        """Return the operation *operation_id* as a page of one, None where the API no longer knows it."""
        # The id goes into the path: whatever it holds, it stays one segment.
        segment = quote(operation_id, safe="")
        if segment in {".", ".."}:
            return Page([], None, [f"the id {segment} cannot be asked for"], Counter())
        url = (self._base / "Emails" / "Operations").joinpath(segment, encoded=True)
        try:
            body = await self._get(url, patience, largest=LARGEST_OPERATION)
        except CommsError as error:
            if error.reason == "not_found":
                return None
            raise
        return self._named_harmlessly(read(read_single, body))

    def _named_harmlessly(self, page: Page) -> Page:
        """Return *page* without the operations that a secret of ours names, which would be shown, exported and saved."""
        # One look at all the names of a page, which are decoded by now, costs next to nothing.
        names = [each.id for each in page.operations]
        if not self._secrets.finds_secret_in("\n".join([*names, *{each.status for each in page.operations}])):
            return page
        good = [each for each in page.operations if not self._secrets.finds_secret_in(f"{each.id}\n{each.status}")]
        malformed = ["id or status holds a secret of ours"] * (len(page.operations) - len(good))
        return page._replace(operations=good, malformed=[*page.malformed, *malformed])

    async def _get(self, url: URL, patience: Patience, *, largest: int, started: bool = False) -> bytes:
        """Return the body of the answer at *url*, of *largest* bytes at most; the one place that decides to ask again.

        A listing that is *started* would lose its earlier pages, so it rather sits out a bearable wait.
        """
        attempt = 0
        refreshed = False
        while True:
            await self._rate_limiter.acquire(patience.expect)
            patience.expect(self._timeout_seconds)
            try:
                return await self._request(url, largest)
            except ConnectionLostError:
                if not patience.again():
                    raise
                wait = self._jitter() * min(BACKOFF_LIMIT, BACKOFF_BASE * 2**attempt)
            except ThrottledError as error:
                wait = self._jitter() * BACKOFF_LIMIT if error.retry_after is None else error.retry_after
                if not started or wait > PATIENT_WAIT or not patience.again():
                    raise
                self.request_stats.backoff_started(wait)
            except CommsError as error:
                # Rotated credentials heal by being read; the same ones are not tried twice.
                if error.reason != "auth" or refreshed or not self._credentials.refresh():
                    raise
                refreshed, wait = True, 0.0
            attempt += 1
            self.request_stats.retries += 1
            try:
                await self._wait(wait, patience)
            finally:
                self.request_stats.backoff_ended()

    async def _wait(self, seconds: float, patience: Patience) -> None:
        patience.expect(seconds)
        await self._sleep(seconds)

    async def _request(self, url: URL, largest: int) -> bytes:
        began = self._monotonic()
        code = "error"
        try:
            async with self._session.get(
                url,
                headers={"Authorization": self._credentials.header(), "Accept": "application/json"},
                proxy=self._proxy,
                timeout=self._timeout,
                allow_redirects=False,
            ) as response:
                body = await _body(response, largest)
                code = str(response.status)
                self._set_clock(response.headers)
                return decipher(response.status, response.headers, body, now=self.now(), mask=self._secrets.mask)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise explain(error, self._timeout_seconds, mask=self._secrets.mask) from error
        finally:
            self.request_stats.requests[code] += 1
            self.request_stats.durations.observe(self._monotonic() - began)

    def _set_clock(self, headers: Mapping[str, str]) -> None:
        date = _http_date(headers.get("Date", ""))
        if date is not None:
            self._skew = date - self._clock()

    def _same_origin(self, token: str) -> URL:
        """Return *token* as the address of the next page; credentials go nowhere else than to the API."""
        try:
            target = URL(token).with_user(None)
            origin = target.origin()
        except ValueError:
            raise CommsError("bad_payload", "the next page has no proper address") from None
        if origin != self._base.origin():
            raise CommsError("bad_payload", f"the next page is on another server: {self._secrets.mask(str(origin))}")
        return target


def decipher(
    status: int, headers: Mapping[str, str], body: bytes, *, now: float, mask: Callable[[str], str] = str
) -> bytes:
    """Return the *body* of a good answer; raise what any other answer means, with every secret in it masked.

    Statuses: https://www.twilio.com/docs/email/api/errors
    """
    if status == 200:
        return body
    message = f"{status}: {complaint(body, mask)}"
    if status in {429, 503}:
        reason = "rate_limited" if status == 429 else "server"
        raise ThrottledError(reason, message, retry_after(headers.get("Retry-After"), now=now))
    if status >= 500:
        raise CommsError("server", message)
    if status < 400:
        # Without its query, which may hold a page token.
        where = _line(headers.get("Location", "").partition("?")[0], mask)
        raise CommsError(
            "bad_payload", f"{status} instead of an answer" + (f", redirecting to {where}" if where else "")
        )
    raise CommsError(_REASON_BY_STATUS.get(status, "bad_request"), message)


def read(reader: Callable[[bytes], Page], body: bytes) -> Page:
    """Return *body* as *reader* understands it; one that is no page is the API's failure."""
    try:
        return reader(body)
    except BadPayloadError as error:
        raise CommsError("bad_payload", f"200, but {error}") from None


def complaint(body: bytes, mask: Callable[[str], str] = str) -> str:
    """Return what an error *body* says, in one line: Twilio's shapes first, then RFC 9457's, then text."""
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        return _text(body, mask)
    if not isinstance(payload, dict):
        return _text(body, mask)
    errors = payload.get("errors")
    entries = [each for each in errors if isinstance(each, dict)] if isinstance(errors, list) else []
    said = "; ".join(filter(None, map(_entry, entries or [payload])))
    return _line(said, mask) if said else _text(body, mask)


def retry_after(value: str | None, *, now: float) -> float | None:
    """Return the seconds that *value* asks for, as a number or as a date, at most an hour; None where it says nothing."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        # More digits than a float has are an hour all the same.
        return min(float(value[:20]), LONGEST_WAIT)
    date = _http_date(value)
    return None if date is None else min(max(0.0, date - now), LONGEST_WAIT)


def explain(error: BaseException, timeout: float, *, mask: Callable[[str], str] = str) -> CommsError:
    """Return what a failure of the network means, with every secret in it masked."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError | ssl.SSLError):
        return CommsError("tls", f"no trustworthy connection: {_line(str(error), mask)}")
    if isinstance(error, TimeoutError):
        return ConnectionLostError("timeout", f"no answer within {timeout:g} s")
    if isinstance(error, aiohttp.ClientResponseError):
        # Not str(error), which holds the address, and so the page token.
        return CommsError("bad_payload", f"not an HTTP answer: {_line(error.message, mask)}")
    if isinstance(error, aiohttp.InvalidURL):
        return CommsError("bad_payload", "the next page has no proper address")
    if isinstance(error, aiohttp.ClientPayloadError):
        if isinstance(error.__cause__, ContentEncodingError):
            return CommsError("bad_payload", "the body is not encoded as its Content-Encoding says")
        return ConnectionLostError("connection", "the connection was lost in the middle of an answer")
    return ConnectionLostError("connection", _line(str(error), mask) or type(error).__name__)


def _parameters(query: Query, page_size: int) -> dict[str, str]:
    parameters = {"pageSize": str(page_size)}
    # Whether the bounds are inclusive is not said: a second more on either side costs nothing.
    if query.created_after is not None:
        parameters["startDate"] = rfc3339(query.created_after - 1)
    if query.created_before is not None:
        parameters["endDate"] = rfc3339(query.created_before + 1)
    if query.status is not None:
        parameters["status"] = query.status
    return parameters


async def _body(response: aiohttp.ClientResponse, largest: int) -> bytes:
    """Return the body, of an error its beginning; one of more than *largest* bytes is a bad payload."""
    good = response.status == 200
    limit = largest if good else LARGEST_ERROR
    body = bytearray()
    async for chunk in response.content.iter_chunked(2**16):
        body += chunk
        if len(body) > limit:
            response.close()
            if not good:
                del body[limit:]
                break
            raise CommsError("bad_payload", f"{response.status} with a body of more than {limit >> 10} KiB")
    return bytes(body)


def _http_date(value: str) -> float | None:
    try:
        date = parsedate_to_datetime(value)
        # HTTP knows no other zone; without one, it would be taken for ours.
        moment = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    return moment if is_representable(moment) else None


def _entry(entry: dict[str, Any]) -> str:
    message = next((entry[key] for key in ("message", "detail", "title") if isinstance(entry.get(key), str)), "")
    code = entry.get("code")
    return f"{message} (code {code})" if message and isinstance(code, int | str) else message


def _text(body: bytes, mask: Callable[[str], str]) -> str:
    text = _line(body.decode("utf-8", "replace"), mask)
    if not text:
        return "no explanation"
    return "an HTML page" if text.startswith("<") else text


def _line(text: str, mask: Callable[[str], str]) -> str:
    # JSON can spell half a surrogate pair, which no page could be encoded with.
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    # Before it is cut, which would leave a part of a secret that nothing recognises.
    text = " ".join(mask(text).split())
    return text if len(text) <= 300 else text[:299] + "…"
