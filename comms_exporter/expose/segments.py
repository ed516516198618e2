"""The page in segments: a segment has the lines of some accounts, or of some operations of one, in every family of its section.

On the page, all samples of a family stand together, so a segment keeps one text per family, plain and compressed. Segments
never change: what changes is put into a new one, and the others are used again as they are.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from operator import is_

from comms_exporter.base.slices import SIZE, Steps, batched
from comms_exporter.expose.gzipped import Piece, compress
from comms_exporter.expose.operation_lines import operation_lines
from comms_exporter.model.operations import Operation

# The sample lines of an account, one text for each family of a section.
Lines = Sequence[bytes]


class Segment(ABC):
    """Sample lines that stand next to each other on the page, once they are rendered."""

    __slots__ = ("_compressed", "_plain")

    def __init__(self) -> None:
        self._plain: list[Piece] | None = None
        self._compressed: list[Piece] | None = None

    def render(self, *, gzip: bool) -> bool:
        """Render the lines unless they are rendered already; return whether there was anything to do."""
        if gzip and self._compressed is None:
            self._compressed = [compress(piece.data) for piece in self._plain or self._pieces()]
        elif not gzip and self._plain is None:
            self._plain = self._pieces()
        else:
            return False
        return True

    def pieces(self, *, gzip: bool) -> list[Piece]:
        """Return the lines, one piece for each family."""
        self.render(gzip=gzip)
        return (self._compressed if gzip else self._plain) or []

    def drop(self, *, gzip: bool) -> None:
        """Forget the lines in this encoding."""
        if gzip:
            self._compressed = None
        else:
            self._plain = None

    @abstractmethod
    def _lines(self) -> Lines: ...

    def _pieces(self) -> list[Piece]:
        # Only a gzip file needs a checksum.
        return [Piece(text, 0, len(text)) for text in self._lines()]


class AccountsSegment(Segment):
    """The lines of a few accounts."""

    __slots__ = ("accounts",)

    def __init__(self, accounts: Sequence[Lines]) -> None:
        super().__init__()
        self.accounts = accounts

    def _lines(self) -> Lines:
        return [b"".join(texts) for texts in zip(*self.accounts, strict=True)]


class OperationsSegment(Segment):
    """Up to SIZE operations of an account."""

    __slots__ = ("_account", "operations")

    def __init__(self, account: str, operations: Sequence[Operation]) -> None:
        super().__init__()
        self._account = account
        self.operations = operations

    def _lines(self) -> Lines:
        return encoded_lines(self._account, self.operations)


def encoded_lines(account: str, operations: Sequence[Operation]) -> Lines:
    """Return the lines of *operations*."""
    return [text.encode() for text in operation_lines(account, operations)]


Segments = list[OperationsSegment]


def regroup(account: str, before: Segments, operations: Sequence[Operation]) -> Steps[Segments]:
    """Return *operations* in segments, reusing those of *before* in which nothing has changed.

    Operations that change leave those that do not, and share a segment from then on: they are likely to change again, and
    the next time, only their segment has to be rendered.
    """
    left: dict[str, Operation] = {}
    for batch in batched(operations, 4 * SIZE):
        left.update((each.id, each) for each in batch)
        yield
    segments: Segments = []
    moved: list[Operation] = []
    for segment in before:
        present = [(each, left.pop(each.id)) for each in segment.operations if each.id in left]
        staying = [now for old, now in present if now is old]
        if len(staying) == len(segment.operations):
            segments.append(segment)
        elif 2 * len(staying) <= len(present):
            _append(account, segments, [now for _, now in present])
        else:
            _append(account, segments, staying)
            moved += [now for old, now in present if now is not old]
        yield
    for batch in batched(moved):
        # Not together with operations that have not changed for long, unless they are few.
        _append(account, segments, batch, limit=2 * len(batch))
        yield
    for batch in batched(left.values()):
        _append(account, segments, batch)
        yield
    if len(segments) > _SPARE_SEGMENTS + 2 * len(operations) // SIZE:
        segments = yield from _merged(account, segments)
    if len(segments) == len(before) and all(map(is_, segments, before)):
        return before
    return segments


# An account may have so many segments, besides two for every SIZE operations, before they are merged.
_SPARE_SEGMENTS = 4


def _append(account: str, segments: Segments, operations: list[Operation], *, limit: int = SIZE) -> None:
    """Add *operations* to the last of *segments* if it has room and is not larger than *limit*, or else in a new one."""
    if not operations:
        return
    last = segments[-1].operations if segments else ()
    if last and len(last) <= limit and len(last) + len(operations) <= SIZE:
        segments[-1] = OperationsSegment(account, [*last, *operations])
    else:
        segments.append(OperationsSegment(account, operations))


def _merged(account: str, before: Segments) -> Steps[Segments]:
    segments: Segments = []
    for segment in before:
        if segments and len(segments[-1].operations) + len(segment.operations) <= SIZE:
            _append(account, segments, list(segment.operations))
        else:
            segments.append(segment)
        yield
    return segments
