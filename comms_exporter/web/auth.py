"""HTTP basic authentication and the rate limit of requests, as the web config file sets them."""

import asyncio
import base64
import binascii
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b

import bcrypt
from aiohttp import web
from aiohttp.typedefs import Handler

from comms_exporter.base.token_bucket import TokenBucket
from comms_exporter.web.web_config import RateLimit, WebConfig
from comms_exporter.web.web_config_file import WebConfigFile

_MAX_REJECTED = 100


def require_auth(app: web.Application, web_config: WebConfigFile, *, max_waiting: int) -> None:
    """Let *app* answer only requests that *web_config* allows; up to *max_waiting* passwords wait for verification."""
    passwords = PasswordVerifier(max_waiting=max_waiting)
    limiter = RequestLimiter()

    @web.middleware
    async def authenticated(request: web.Request, handler: Handler) -> web.StreamResponse:
        config = web_config.current().config
        if not limiter.allows(config.rate_limit):
            raise web.HTTPTooManyRequests
        if config.users:
            await _authenticate(request, config, passwords)
        return await handler(request)

    async def close(_: web.Application) -> None:
        passwords.close()

    app.middlewares.insert(0, authenticated)
    app.on_cleanup.append(close)


async def _authenticate(request: web.Request, config: WebConfig, passwords: "PasswordVerifier") -> None:
    try:
        valid = await passwords.verify(request.headers.get("Authorization", ""), config.users)
    except BusyError:
        raise web.HTTPServiceUnavailable(headers={"Retry-After": "5"}) from None
    if not valid:
        raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Basic"})


class BusyError(Exception):
    """Too many passwords are waiting for verification."""


class PasswordVerifier:
    """Verifies passwords: one bcrypt comparison at a time, and each only once."""

    def __init__(self, *, max_waiting: int, matches: Callable[[bytes, bytes], bool] | None = None) -> None:
        self._max_waiting = max_waiting
        self._matches = matches or _matches
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bcrypt")
        # Results are cached by a keyed hash, so that no password stays in memory.
        self._key = os.urandom(32)
        self._comparing: dict[bytes, asyncio.Future[bool]] = {}
        self._accepted: dict[bytes, bytes] = {}  # one per user, so that wrong passwords cannot evict it
        self._rejected: dict[bytes, None] = {}

    async def verify(self, authorization: str, users: Mapping[bytes, bytes]) -> bool:
        """Return whether the header has the name and password of one of *users*; an unknown name takes as long."""
        credentials = _parse_credentials(authorization)
        if credentials is None:
            return False
        user, password = credentials
        hashed = users.get(user) or self._decoy_hash(user, users)
        secret = b":".join(base64.b64encode(part) for part in (user, hashed, password))
        fingerprint = blake2b(secret, key=self._key).digest()
        if self._accepted.get(user) == fingerprint:
            return True
        if fingerprint in self._rejected:
            return False
        comparison = self._comparing.get(fingerprint)
        if comparison is None:
            if len(self._comparing) >= self._max_waiting:
                raise BusyError
            loop = asyncio.get_running_loop()
            comparison = loop.run_in_executor(self._thread, self._matches, password, hashed)
            self._comparing[fingerprint] = comparison
            comparison.add_done_callback(lambda _: self._comparing.pop(fingerprint))
        # Shielded because other requests may wait for the same comparison.
        if await asyncio.shield(comparison) and user in users:
            self._accepted[user] = fingerprint
            return True
        self._rejected[fingerprint] = None
        if len(self._rejected) > _MAX_REJECTED:
            del self._rejected[next(iter(self._rejected))]
        return False

    def close(self) -> None:
        """Verify no more passwords."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _decoy_hash(self, user: bytes, users: Mapping[bytes, bytes]) -> bytes:
        # With the bcrypt cost of a real user, always the same one for a name: the time does not reveal which names exist,
        # even if costs differ.
        costs = [hashed[4:6] for hashed in users.values()]
        number = int.from_bytes(blake2b(user, key=self._key).digest())
        return b"$2b$%b$%b" % (costs[number % len(costs)], b"." * 53)


def _matches(password: bytes, hashed: bytes) -> bool:
    # bcrypt ignores everything after 72 bytes, and Python's raises an error instead.
    return len(password) <= 72 and bcrypt.checkpw(password, hashed)


def _parse_credentials(authorization: str) -> tuple[bytes, bytes] | None:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded, validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return (user, password) if colon else None


class RequestLimiter:
    """Limits the rate of all requests together; a changed limit starts with a full burst."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._limit: RateLimit | None = None
        self._bucket: TokenBucket | None = None

    def allows(self, limit: RateLimit | None) -> bool:
        """Return whether *limit* allows another request now; None allows every request."""
        if limit != self._limit:
            self._limit = limit
            self._bucket = limit and TokenBucket(
                burst=limit.burst, seconds_per_token=limit.interval_seconds, monotonic=self._monotonic
            )
        return self._bucket is None or self._bucket.take()
