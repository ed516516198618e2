"""The exposed operations of an account in segments, so that a poll writes anew only what it has changed.

A page has all samples of a family in one piece, so a segment keeps a text for each family, and each text as it goes out.
"""

from collections.abc import Sequence
from operator import is_

from comms_exporter.base.slices import SIZE, Steps, batched
from comms_exporter.expose.families import operation_texts
from comms_exporter.expose.gzipped import Piece, Sum, compress
from comms_exporter.model.operations import Operation

# Bytes that are sent in one go: the kernel takes them in less than a millisecond.
CHUNK = 2**19


class Segment:
    """Up to SIZE operations that are shown side by side, and what has been written of them."""

    __slots__ = ("_account", "_compressed", "_plain", "operations")

    def __init__(self, account: str, operations: Sequence[Operation]) -> None:
        self._account = account
        self.operations = operations
        self._plain: list[Piece] | None = None
        self._compressed: list[Piece] | None = None

    def write(self, *, gzip: bool) -> bool:
        """Write the sample lines of each of metrics.OPERATION_FAMILIES; say whether there was anything to do."""
        if gzip and self._compressed is None:
            self._compressed = [compress(piece.data) for piece in self._plain or self._written()]
        elif not gzip and self._plain is None:
            self._plain = self._written()
        else:
            return False
        return True

    def pieces(self, *, gzip: bool) -> list[Piece]:
        """Return the sample lines of each of metrics.OPERATION_FAMILIES."""
        self.write(gzip=gzip)
        return (self._compressed if gzip else self._plain) or []

    def drop(self, *, gzip: bool) -> None:
        """Keep no longer what nobody asks for."""
        if gzip:
            self._compressed = None
        else:
            self._plain = None

    def _written(self) -> list[Piece]:
        texts = [text.encode() for text in operation_texts(self._account, self.operations)]
        # Only a gzip file has sums.
        return [Piece(text, 0, len(text)) for text in texts]


def regroup(account: str, before: list[Segment], operations: Sequence[Operation]) -> Steps[list[Segment]]:
    """Return *operations* in segments: those of *before* that are as they were, and new ones."""
    left: dict[str, Operation] = {}
    for batch in batched(operations, 4 * SIZE):
        left.update((each.id, each) for each in batch)
        yield
    segments: list[Segment] = []
    for segment in before:
        staying = [left.pop(each.id) for each in segment.operations if each.id in left]
        if len(staying) == len(segment.operations) and all(map(is_, staying, segment.operations)):
            segments.append(segment)
        elif staying:
            _append(account, segments, staying)
        yield
    for batch in batched(left.values()):
        _append(account, segments, batch)
        yield
    if len(segments) == len(before) and all(map(is_, segments, before)):
        return before
    return segments


class Chunks:
    """Joins pieces to *done*, chunks that can be sent in one go.

    It is done before somebody asks, because it takes longer than sending. The pieces become parts of their chunks, so that
    nothing is in memory twice.
    """

    def __init__(self) -> None:
        self.done: list[bytes] = []
        self.total = Sum()
        self._open: list[tuple[list[Piece], int]] = []
        self._size = 0

    def add(self, pieces: list[Piece], index: int) -> bool:
        """Add the piece at *index* of *pieces*; say whether a chunk is complete."""
        piece = pieces[index]
        self.total = self.total.plus(piece)
        self._open.append((pieces, index))
        self._size += len(piece.data)
        if self._size < CHUNK:
            return False
        self.close()
        return True

    def close(self) -> None:
        """Join what is left."""
        chunk = b"".join([pieces[index].data for pieces, index in self._open])
        view, start = memoryview(chunk), 0
        for pieces, index in self._open:
            data, crc, length = pieces[index]
            pieces[index] = Piece(view[start : start + len(data)], crc, length)
            start += len(data)
        if chunk:
            self.done.append(chunk)
        self._open, self._size = [], 0


def _append(account: str, segments: list[Segment], operations: list[Operation]) -> None:
    """Add *operations* to *segments*, together with the last one if that has room."""
    last = segments[-1].operations if segments else ()
    if last and len(last) + len(operations) <= SIZE:
        segments[-1] = Segment(account, [*last, *operations])
    else:
        segments.append(Segment(account, operations))
