"""The page that Prometheus reads.

A poll renders the series of its own account. The next scrape joins the page.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CollectorRegistry

from comms_exporter.base.slices import Steps, run_in_slices, run_to_completion
from comms_exporter.collect.emails.view import EmailsView
from comms_exporter.collect.health import Reloads
from comms_exporter.collect.sharing import Shares
from comms_exporter.expose.account_series import AccountSeries, AccountText, Table
from comms_exporter.expose.blocks import Blocks
from comms_exporter.expose.email_families import EMAIL_DELIVERIES, EMAIL_ERRORS, EMAIL_LOSSES
from comms_exporter.expose.families import LIVE, PUBLISHED, Account, Shard, exporter_families
from comms_exporter.expose.gzipped import HEADER, Piece, Sum, compress, trailer
from comms_exporter.expose.operation_lines import OPERATION_FAMILIES
from comms_exporter.expose.operation_series import NOTHING, Exposed, OperationSeries
from comms_exporter.expose.rendering import END, CachedFamilies, restricted
from comms_exporter.expose.section import Section
from comms_exporter.expose.segments import Segment
from comms_exporter.model.operations import Operation

# The metrics of the process are read at most once in so many seconds: reading /proc takes longer than all the rest.
PROCESS_SECONDS = 1.0
# An encoding or a format is kept for so many seconds after the last request for it; every scraper is more frequent.
KEEP_SECONDS = 300.0

_OPERATION_HEADS = [f"# HELP {name} {text}\n# TYPE {name} gauge\n".encode() for name, text in OPERATION_FAMILIES]
# So many accounts are looked at, or have changed, before other tasks run.
_LOOKED_AT = 256
_CHANGED = 4


class Body(NamedTuple):
    """A page in *chunks*, which have *length* bytes together."""

    chunks: Sequence[bytes]
    length: int


class _Row(NamedTuple):
    """What the page says of one account, all of it of the same poll."""

    account: AccountText
    exposed: Exposed


class Exposition:
    """The page with the metrics of all *accounts*, and *with_process* those of the exporter's process."""

    def __init__(
        self,
        accounts: Callable[[], Sequence[Account]],
        *,
        reloads: Reloads,
        shard: Callable[[], Shard] = Shard,
        shares: Callable[[], Shares | None] = lambda: None,
        with_process: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        process = CollectorRegistry()
        if with_process:
            for collector in (ProcessCollector, PlatformCollector, GCCollector):
                collector(registry=process)
        self._accounts = accounts
        self._monotonic = monotonic
        self._first = (
            CachedFamilies(process.collect, version=lambda: int(monotonic() / PROCESS_SECONDS)),
            CachedFamilies(
                lambda: exporter_families(reloads, shard(), shares()),
                version=lambda: (reloads.successful, reloads.last_success, shard(), shares()),
            ),
        )
        self._compressed: dict[bool, tuple[bytes, Piece]] = {}
        tables = (
            Table(LIVE),
            Table(PUBLISHED, version=lambda account: account.view),
            Table(EMAIL_LOSSES, version=_email_version, applies=_has_emails(lambda _: True)),
            Table(EMAIL_DELIVERIES, version=_email_version, applies=_has_emails(lambda emails: emails.all_stages)),
            Table(EMAIL_ERRORS, version=_email_version, applies=_has_emails(lambda emails: emails.with_errors)),
        )
        self._series = {each: AccountSeries(tables, openmetrics=each) for each in (False, True)}
        self._account_sections = {each: Section(self._series[each].heads) for each in (False, True)}
        self._operations = OperationSeries()
        self._operation_section = Section(_OPERATION_HEADS)
        self._account_blocks = {each: Blocks() for each in (False, True)}
        self._operation_blocks = Blocks()
        self._names: list[str] = []
        # When each format and each encoding was last requested.
        self._requested: dict[tuple[bool, bool], float] = {}

    async def prepare(self, name: str, operations: Sequence[Operation]) -> None:
        """Render the *operations* of the account *name* before its next view publishes them.

        Only encodings that were requested recently are rendered.
        """
        encodings = self._encodings()
        if encodings:
            await run_in_slices(self._operations.prepare(name, operations, encodings=encodings))

    def refresh(self, account: Account) -> None:
        """Render what has changed of *account*, in the formats that were requested recently."""
        self._encodings()
        for openmetrics in {each for each, _ in self._requested}:
            self._series[openmetrics].text(account, self._monotonic())

    async def body(self, *, openmetrics: bool, gzip: bool = False, names: Iterable[str] = ()) -> Body:
        """Return the page with all families, or those with a sample called one of *names*."""
        wanted = frozenset(names)
        self._requested[openmetrics, gzip] = self._monotonic()
        self._encodings()
        rows = await run_in_slices(self._rows(openmetrics=openmetrics))
        operation_segments = self._operation_segments(rows)
        first = b"".join([part.text(openmetrics=openmetrics) for part in self._first])
        series = self._series[openmetrics]
        if wanted:
            lines = self._some_lines(rows, series.indexes(wanted), openmetrics=openmetrics)
            first = restricted(first + lines, wanted)
            some = [index for index, (name, _) in enumerate(OPERATION_FAMILIES) if name in wanted]
            sections = [await self._operation_section.some(operation_segments, some, gzip=gzip)]
        else:
            account_segments = self._account_segments(rows, openmetrics=openmetrics)
            present = series.present([row.account for row in rows.values()])
            everything = range(len(OPERATION_FAMILIES))
            sections = [
                await self._account_sections[openmetrics].text(account_segments, present, gzip=gzip),
                await self._operation_section.text(operation_segments, everything, gzip=gzip),
            ]
        head, tail = first, END if openmetrics else b""
        if gzip:
            start, end = self._compress(first, openmetrics=openmetrics), compress(tail)
            total = Sum().plus(start)
            for section in sections:
                total = total.plus(section.total)
            head, tail = b"".join([HEADER, start.data]), b"".join([end.data, trailer(total.plus(end))])
        chunks = [head, *[chunk for section in sections for chunk in section.chunks], tail]
        return Body(chunks, sum(map(len, chunks)))

    def _rows(self, *, openmetrics: bool) -> Steps[dict[str, _Row]]:
        """Return what the page says of every account; nothing is interrupted while that of one account is read."""
        rows: dict[str, _Row] = {}
        series = self._series[openmetrics]
        accounts = self._accounts()
        self._forget_removed(accounts)
        changed = 0
        for number, account in enumerate(accounts, 1):
            if self._operations.current(account.name, account.view.exposed) is None:
                yield from self._operations.exposed(account.name, account.view.exposed)
            before = series.known(account.name)
            text = series.text(account, self._monotonic())
            exposed = self._operations.current(account.name, account.view.exposed)
            if exposed is None:
                exposed = run_to_completion(self._operations.exposed(account.name, account.view.exposed))
            rows[account.name] = _Row(text, NOTHING if text.stale else exposed)
            changed += text is not before
            if changed == _CHANGED or number % _LOOKED_AT == 0:
                changed = 0
                yield
        return rows

    def _account_segments(self, rows: dict[str, _Row], *, openmetrics: bool) -> list[Segment]:
        blocks = self._account_blocks[openmetrics]
        return [
            blocks.segment(number, [rows[name].account.lines for name in names])
            for number, names in enumerate(blocks.of(list(rows)))
        ]

    def _operation_segments(self, rows: dict[str, _Row]) -> list[Segment]:
        """Return the operations of all accounts: for each block one segment of those that have few, and then the others'."""
        segments: list[Segment] = []
        for number, names in enumerate(self._operation_blocks.of(list(rows))):
            exposed = [rows[name].exposed for name in names]
            if few := [each.lines for each in exposed if each.lines is not None]:
                segments.append(self._operation_blocks.segment(number, few))
            segments += [segment for each in exposed for segment in each.segments]
        return segments

    def _some_lines(self, rows: dict[str, _Row], indexes: Iterable[int], *, openmetrics: bool) -> bytes:
        heads = self._series[openmetrics].heads
        texts = [row.account.lines for row in rows.values()]
        return b"".join([text for index in indexes for text in (heads[index], *[lines[index] for lines in texts])])

    def _forget_removed(self, accounts: Sequence[Account]) -> None:
        if self._names != (following := [account.name for account in accounts]):
            self._names = following
            names = frozenset(following)
            self._operations.keep(names)
            for series in self._series.values():
                series.keep(names)

    def _encodings(self) -> set[bool]:
        """Return the encodings that were requested recently, and forget the pages in other ones."""
        since = self._monotonic() - KEEP_SECONDS
        for old in [each for each, at in self._requested.items() if at < since]:
            del self._requested[old]
            openmetrics, gzip = old
            self._account_sections[openmetrics].drop(gzip=gzip)
            if gzip not in {encoding for _, encoding in self._requested}:
                self._operation_section.drop(gzip=gzip)
            if openmetrics not in {each for each, _ in self._requested}:
                self._series[openmetrics].keep(())
                self._account_blocks[openmetrics] = Blocks()
        return {gzip for _, gzip in self._requested}

    def _compress(self, text: bytes, *, openmetrics: bool) -> Piece:
        known = self._compressed.get(openmetrics)
        if known is None or known[0] != text:
            self._compressed[openmetrics] = known = text, compress(text)
        return known[1]


def _has_emails(wanted: Callable[[EmailsView], bool]) -> Callable[[Account], bool]:
    """Return whether the emails of an account are collected, as far as they are *wanted*."""
    return lambda account: account.view.emails is not None and wanted(account.view.emails)


def _email_version(account: Account) -> object:
    return account.view, account.email_health.up, account.email_health.last_success
