"""The exposed operations of an account in segments, so that a poll writes anew only what it has changed.

A page has all samples of a family in one piece, so a segment keeps a text for each family, and each text as it goes out.
"""

from collections.abc import Sequence
from operator import is_

from comms_exporter.gzipped import Piece, compress
from comms_exporter.metrics import operation_texts
from comms_exporter.models import Operation
from comms_exporter.slices import SIZE, Steps, parts


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


def regroup(account: str, before: Sequence[Segment], operations: Sequence[Operation]) -> Steps[list[Segment]]:
    """Return *operations* in segments: those of *before* that are as they were, and new ones."""
    left: dict[str, Operation] = {}
    for part in parts(operations, 4 * SIZE):
        left.update((each.id, each) for each in part)
        yield
    segments: list[Segment] = []
    for segment in before:
        staying = [left.pop(each.id) for each in segment.operations if each.id in left]
        if len(staying) == len(segment.operations) and all(map(is_, staying, segment.operations)):
            segments.append(segment)
        elif staying:
            _append(account, segments, staying)
        yield
    for part in parts(left.values()):
        _append(account, segments, part)
        yield
    return segments


def _append(account: str, segments: list[Segment], operations: list[Operation]) -> None:
    """Add *operations* to *segments*, together with the last one if that has room."""
    last = segments[-1].operations if segments else ()
    if last and len(last) + len(operations) <= SIZE:
        segments[-1] = Segment(account, [*last, *operations])
    else:
        segments.append(Segment(account, operations))
