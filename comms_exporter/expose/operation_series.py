"""The series of all exposed operations: rendered and compressed once after a poll, and only where the poll changed them."""

import time
from collections.abc import Callable, Sequence
from operator import is_
from typing import NamedTuple

from comms_exporter.base.slices import Steps, run_in_slices, run_to_completion
from comms_exporter.expose.chunks import Chunks
from comms_exporter.expose.families import Account
from comms_exporter.expose.gzipped import Piece, Sum, compress
from comms_exporter.expose.operation_lines import OPERATION_FAMILIES
from comms_exporter.expose.segments import Segments, regroup
from comms_exporter.model.operations import Operation

# Polls render an encoding for so many seconds after the last request for it; every scraper is more frequent.
KEEP_SECONDS = 300.0


class OperationText(NamedTuple):
    """The sample lines of the operations in *shown*, in one encoding: *chunks* of *size* bytes together."""

    shown: list[Segments]
    chunks: list[bytes]
    size: int
    total: Sum


class OperationSeries:
    """The series of the exposed operations of all *accounts*."""

    def __init__(
        self, accounts: Callable[[], Sequence[Account]], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._accounts = accounts
        self._monotonic = monotonic
        # For each account the operations of the current view, and those of the next one while it is prepared.
        self._segments_by_account: dict[str, list[tuple[Sequence[Operation], Segments]]] = {}
        self._last_requested: dict[bool, float] = {}
        # For each encoding the current text, and the next one while it is prepared.
        self._texts: dict[bool, list[OperationText]] = {}

    async def prepare(self, name: str, operations: Sequence[Operation]) -> None:
        """Render the *operations* of the account *name* before its next view publishes them.

        Only encodings that were requested recently are rendered.
        """
        segments = await run_in_slices(self._segments(name, operations))
        now = self._monotonic()
        for gzip in (False, True):
            if now - self._last_requested.get(gzip, float("-inf")) <= KEEP_SECONDS:
                await self._text(self._shown({name: segments}), gzip=gzip)
            else:
                self._texts.pop(gzip, None)
                for segment in segments:
                    segment.drop(gzip=gzip)

    async def request(self, *, gzip: bool) -> None:
        """Note a request for this encoding, and group operations that no poll has prepared."""
        self._last_requested[gzip] = self._monotonic()
        for account in self._accounts():
            await run_in_slices(self._segments(account.name, account.view.exposed))

    async def text(self, *, gzip: bool, names: frozenset[str] = frozenset()) -> OperationText:
        """Return the lines of the views that are current at the call, of all families or of those in *names*."""
        shown = self._shown({})
        if names:
            return await self._joined(shown, gzip=gzip, names=names)
        return await self._text(shown, gzip=gzip)

    def _shown(self, following: dict[str, Segments]) -> list[Segments]:
        """Return the segments of every account that is not stale, those in *following* instead of the current ones."""
        now = self._monotonic()
        return [
            following[account.name]
            if account.name in following
            else run_to_completion(self._segments(account.name, account.view.exposed))
            for account in self._accounts()
            if account.name in following or not account.health.stale(now)
        ]

    async def _text(self, shown: list[Segments], *, gzip: bool) -> OperationText:
        """Return the text of *shown*, which is rendered if it is not known."""
        texts = self._texts.get(gzip, [])
        for number, known in enumerate(texts):
            if len(known.shown) == len(shown) and all(map(is_, known.shown, shown)):
                # Older texts are no longer needed.
                self._texts[gzip] = texts[number:]
                return known
        text = await self._joined(shown, gzip=gzip)
        self._texts[gzip] = [*self._texts.get(gzip, [])[-1:], text]
        return text

    async def _joined(self, shown: list[Segments], *, gzip: bool, names: frozenset[str] = frozenset()) -> OperationText:
        for segments in shown:
            await run_in_slices(_render(segments, gzip=gzip))
        return await run_in_slices(_join(shown, gzip=gzip, names=names))

    def _segments(self, name: str, operations: Sequence[Operation]) -> Steps[Segments]:
        """Return *operations*, an immutable list, in segments; they are grouped only once."""
        known = self._known(name, operations)
        if known is not None:
            return known
        newest = self._segments_by_account.get(name, [])[-1:]
        segments = yield from regroup(name, newest[0][1] if newest else [], operations)
        # Another task may have grouped them in the meantime.
        known = self._known(name, operations)
        if known is not None:
            return known
        present = {name, *(account.name for account in self._accounts())}
        self._segments_by_account = {key: each for key, each in self._segments_by_account.items() if key in present}
        self._segments_by_account[name] = [*self._segments_by_account.get(name, [])[-1:], (operations, segments)]
        return segments

    def _known(self, name: str, operations: Sequence[Operation]) -> Segments | None:
        known = self._segments_by_account.get(name, ())
        return next((segments for grouped, segments in known if grouped is operations), None)


def _render(segments: Segments, *, gzip: bool) -> Steps[None]:
    for segment in segments:
        if segment.render(gzip=gzip):
            yield


def _join(shown: list[Segments], *, gzip: bool, names: frozenset[str]) -> Steps[OperationText]:
    """Return the HELP and TYPE of each family, followed by its samples, account by account."""
    lists = [segment.pieces(gzip=gzip) for segments in shown for segment in segments]
    if names:
        # These chunks are sent once. The pieces remain views of the chunks that are kept.
        lists = [pieces.copy() for pieces in lists]
    chunks = Chunks()
    for index, (name, text) in enumerate(OPERATION_FAMILIES):
        if names and name not in names:
            continue
        head = f"# HELP {name} {text}\n# TYPE {name} gauge\n".encode()
        chunks.add([compress(head) if gzip else Piece(head, 0, len(head))], 0)
        yield
        for pieces in lists:
            if chunks.add(pieces, index):
                yield
    chunks.close()
    return OperationText(shown, chunks.done, sum(map(len, chunks.done)), chunks.total)
