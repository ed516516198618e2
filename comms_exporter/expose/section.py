"""A section of the page: families that follow one another, and the segments with their samples.

The page is joined from the segments when it is requested, at most once for the same segments.
"""

import asyncio
from collections.abc import Collection, Sequence
from operator import is_
from typing import NamedTuple

from comms_exporter.base.slices import Steps, run_in_slices
from comms_exporter.expose.chunks import Chunks
from comms_exporter.expose.gzipped import Piece, Sum, compress
from comms_exporter.expose.segments import Segment

# Adding so many pieces takes about a millisecond.
_PIECES_IN_A_STEP = 256


class SectionText(NamedTuple):
    """The text of the families *present* with the samples in *segments*, in one encoding: *chunks* of *size* bytes together."""

    segments: Sequence[Segment]
    present: Collection[int]
    chunks: list[bytes]
    size: int
    total: Sum

    def shows(self, segments: Sequence[Segment], present: Collection[int]) -> bool:
        """Whether it has exactly these families and samples."""
        return (
            len(self.segments) == len(segments) and all(map(is_, self.segments, segments)) and self.present == present
        )


class Section:
    """The families with *heads*, their HELP and TYPE."""

    def __init__(self, heads: Sequence[bytes]) -> None:
        self._heads = {False: [Piece(head, 0, len(head)) for head in heads], True: [compress(head) for head in heads]}
        self._texts: dict[bool, SectionText] = {}
        self._joining = asyncio.Lock()

    async def text(self, segments: Sequence[Segment], present: Collection[int], *, gzip: bool) -> SectionText:
        """Return the families with the indexes *present*; what is known of them is not joined again."""
        async with self._joining:
            known = self._texts.get(gzip)
            if known is not None and known.shows(segments, present):
                return known
            self._texts[gzip] = await self._joined(segments, present, gzip=gzip, keep=True)
            return self._texts[gzip]

    async def some(self, segments: Sequence[Segment], present: Collection[int], *, gzip: bool) -> SectionText:
        """Return the families with the indexes *present*, which are not kept."""
        return await self._joined(segments, present, gzip=gzip, keep=False)

    def drop(self, *, gzip: bool) -> None:
        """Forget the text in this encoding."""
        known = self._texts.pop(gzip, None)
        if known is not None:
            for segment in known.segments:
                segment.drop(gzip=gzip)

    async def _joined(
        self, segments: Sequence[Segment], present: Collection[int], *, gzip: bool, keep: bool
    ) -> SectionText:
        await run_in_slices(_render(segments, gzip=gzip))
        return await run_in_slices(self._join(segments, present, gzip=gzip, keep=keep))

    def _join(
        self, segments: Sequence[Segment], present: Collection[int], *, gzip: bool, keep: bool
    ) -> Steps[SectionText]:
        """Return the head of each family, followed by its samples, segment by segment."""
        lists = [segment.pieces(gzip=gzip) for segment in segments]
        if not keep:
            # These chunks are sent once. The pieces remain views of the chunks that are kept.
            lists = [pieces.copy() for pieces in lists]
        chunks = Chunks()
        added = 0
        for index in present:
            chunks.add([self._heads[gzip][index]], 0)
            for pieces in lists:
                added += 1
                if chunks.add(pieces, index) or added % _PIECES_IN_A_STEP == 0:
                    yield
        chunks.close()
        return SectionText(segments, present, chunks.done, sum(map(len, chunks.done)), chunks.total)


def _render(segments: Sequence[Segment], *, gzip: bool) -> Steps[None]:
    for segment in segments:
        if segment.render(gzip=gzip):
            yield
