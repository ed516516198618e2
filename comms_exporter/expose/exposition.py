"""The page that Prometheus reads.

Polls prepare the series of single operations, which are nearly all of the page. A scrape renders only the rest.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CollectorRegistry

from comms_exporter.collect.emails.view import EmailsView
from comms_exporter.collect.health import Reloads
from comms_exporter.expose.email_families import EMAIL_DELIVERIES, EMAIL_ERRORS, EMAIL_LOSSES
from comms_exporter.expose.families import LIVE, PUBLISHED, Account, Shard, exporter_families
from comms_exporter.expose.family_cache import END, AccountFamilies, CachedFamilies, render
from comms_exporter.expose.gzipped import HEADER, Piece, Sum, compress, trailer
from comms_exporter.expose.operation_series import OperationSeries
from comms_exporter.model.operations import Operation

# The metrics of the process are read at most once in so many seconds: reading /proc takes longer than all the rest.
PROCESS_SECONDS = 1.0


class Body(NamedTuple):
    """A page in *chunks*, which have *length* bytes together."""

    chunks: Sequence[bytes]
    length: int


class Exposition:
    """The page with the metrics of all *accounts*."""

    def __init__(
        self,
        accounts: Callable[[], Sequence[Account]],
        *,
        reloads: Reloads,
        shard: Callable[[], Shard] = Shard,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        process = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=process)
        self._parts = (
            CachedFamilies(process.collect, version=lambda: int(monotonic() / PROCESS_SECONDS)),
            CachedFamilies(
                lambda: exporter_families(reloads, shard()),
                version=lambda: (reloads.successful, reloads.last_success, shard()),
            ),
            AccountFamilies(LIVE, accounts, monotonic=monotonic),
            AccountFamilies(PUBLISHED, accounts, monotonic=monotonic, version=lambda account, _: account.view),
            AccountFamilies(
                EMAIL_LOSSES,
                lambda: _with_emails(accounts()),
                monotonic=monotonic,
                version=_email_version,
                optional=True,
            ),
            AccountFamilies(
                EMAIL_DELIVERIES,
                lambda: _with_emails(accounts(), lambda emails: emails.all_stages),
                monotonic=monotonic,
                version=_email_version,
                optional=True,
            ),
            AccountFamilies(
                EMAIL_ERRORS,
                lambda: _with_emails(accounts(), lambda emails: emails.with_errors),
                monotonic=monotonic,
                version=_email_version,
                optional=True,
            ),
        )
        # Only a registry that knows the names of its families can be restricted to some of them.
        self._registry = CollectorRegistry(auto_describe=True)
        for part in self._parts:
            self._registry.register(part)
        self._compressed: dict[bool, tuple[bytes, Piece]] = {}
        self._operations = OperationSeries(accounts, monotonic=monotonic)

    async def prepare(self, name: str, operations: Sequence[Operation]) -> None:
        """Render the *operations* of the account *name* before its next view publishes them."""
        await self._operations.prepare(name, operations)

    async def body(self, *, openmetrics: bool, gzip: bool = False, names: Iterable[str] = ()) -> Body:
        """Return the page with all families, or those with a sample called one of *names*."""
        wanted = frozenset(names)
        await self._operations.request(gzip=gzip)
        # Nothing is awaited between these two, so both parts of the page show the same polls.
        rest = self._rest(wanted, openmetrics=openmetrics)
        operations = await self._operations.text(gzip=gzip, names=wanted)
        head, tail = rest, END if openmetrics else b""
        if gzip:
            start, end = self._compress(rest, openmetrics=openmetrics), compress(tail)
            total = Sum().plus(start).plus(operations.total).plus(end)
            head, tail = b"".join([HEADER, start.data]), b"".join([end.data, trailer(total)])
        return Body([head, *operations.chunks, tail], len(head) + operations.size + len(tail))

    def _rest(self, wanted: frozenset[str], *, openmetrics: bool) -> bytes:
        """Return everything but single operations."""
        if wanted:
            families = self._registry.restricted_registry(wanted).collect()
            return b"".join(render(family, openmetrics=openmetrics) for family in families)
        return b"".join([part.text(openmetrics=openmetrics) for part in self._parts])

    def _compress(self, text: bytes, *, openmetrics: bool) -> Piece:
        known = self._compressed.get(openmetrics)
        if known is None or known[0] != text:
            self._compressed[openmetrics] = known = text, compress(text)
        return known[1]


def _with_emails(
    accounts: Sequence[Account], wanted: Callable[[EmailsView], bool] = lambda _: True
) -> Sequence[Account]:
    """Return the accounts whose emails are collected, as far as they are *wanted*."""
    return [account for account in accounts if account.view.emails is not None and wanted(account.view.emails)]


def _email_version(account: Account, _: float) -> object:
    return account.view, account.email_health.up, account.email_health.last_success
