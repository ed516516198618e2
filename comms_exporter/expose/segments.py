"""The exposed operations of an account in segments, so that a poll renders only the segments that it has changed.

On the page, all samples of a family stand together, so a segment keeps one text per family, plain and compressed.
"""

from collections.abc import Sequence
from operator import is_

from comms_exporter.base.slices import SIZE, Steps, batched
from comms_exporter.expose.gzipped import Piece, compress
from comms_exporter.expose.operation_lines import operation_lines
from comms_exporter.model.operations import Operation


class Segment:
    """Up to SIZE operations, whose lines stand next to each other on the page, and these lines once they are rendered."""

    __slots__ = ("_account", "_compressed", "_plain", "operations")

    def __init__(self, account: str, operations: Sequence[Operation]) -> None:
        self._account = account
        self.operations = operations
        self._plain: list[Piece] | None = None
        self._compressed: list[Piece] | None = None

    def render(self, *, gzip: bool) -> bool:
        """Render the sample lines unless they are rendered already; return whether there was anything to do."""
        if gzip and self._compressed is None:
            self._compressed = [compress(piece.data) for piece in self._plain or self._lines()]
        elif not gzip and self._plain is None:
            self._plain = self._lines()
        else:
            return False
        return True

    def pieces(self, *, gzip: bool) -> list[Piece]:
        """Return the sample lines, one piece for each of OPERATION_FAMILIES."""
        self.render(gzip=gzip)
        return (self._compressed if gzip else self._plain) or []

    def drop(self, *, gzip: bool) -> None:
        """Forget the lines in this encoding."""
        if gzip:
            self._compressed = None
        else:
            self._plain = None

    def _lines(self) -> list[Piece]:
        texts = [text.encode() for text in operation_lines(self._account, self.operations)]
        # Only a gzip file needs a checksum.
        return [Piece(text, 0, len(text)) for text in texts]


Segments = list[Segment]


def regroup(account: str, before: Segments, operations: Sequence[Operation]) -> Steps[Segments]:
    """Return *operations* in segments, reusing those of *before* in which nothing has changed."""
    left: dict[str, Operation] = {}
    for batch in batched(operations, 4 * SIZE):
        left.update((each.id, each) for each in batch)
        yield
    segments: Segments = []
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


def _append(account: str, segments: Segments, operations: list[Operation]) -> None:
    """Add *operations* to the last of *segments* if it has room, or else in a new one."""
    last = segments[-1].operations if segments else ()
    if last and len(last) + len(operations) <= SIZE:
        segments[-1] = Segment(account, [*last, *operations])
    else:
        segments.append(Segment(account, operations))
