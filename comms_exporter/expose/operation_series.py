"""The series of the exposed operations: a poll renders those of its own account, and only where it has changed them."""

from collections.abc import Container, Sequence
from operator import is_
from typing import NamedTuple

from comms_exporter.base.slices import Steps
from comms_exporter.expose.segments import Lines, Segments, encoded_lines, regroup
from comms_exporter.model.operations import Operation

# Up to so many operations of an account share segments with those of other accounts; more have segments of their own.
FEW = 32


class Exposed(NamedTuple):
    """The exposed *operations* of an account, as *lines* if there are few, or else in *segments*."""

    operations: Sequence[Operation]
    lines: Lines | None
    segments: Segments


NOTHING = Exposed((), None, [])


class OperationSeries:
    """The series of the exposed operations, by account."""

    def __init__(self) -> None:
        # For each account the operations of the current view, and those of the next one while it is prepared.
        self._exposed: dict[str, list[Exposed]] = {}

    def prepare(self, name: str, operations: Sequence[Operation], *, encodings: Container[bool]) -> Steps[None]:
        """Render the *operations* of the account *name* in these *encodings*: compressed, plain, both or none."""
        exposed = yield from self.exposed(name, operations)
        for gzip in (False, True):
            for segment in exposed.segments:
                if gzip not in encodings:
                    segment.drop(gzip=gzip)
                elif segment.render(gzip=gzip):
                    yield

    def exposed(self, name: str, operations: Sequence[Operation]) -> Steps[Exposed]:
        """Return *operations*, an immutable list; they are grouped only once."""
        known = self.known(name, operations)
        if known is not None:
            return known
        newest = self._exposed.get(name, [NOTHING])[-1]
        if len(operations) <= FEW:
            same = len(newest.operations) == len(operations) and all(map(is_, newest.operations, operations))
            lines = newest.lines if same else encoded_lines(name, operations)
            exposed = Exposed(operations, lines, [])
        else:
            exposed = Exposed(operations, None, (yield from regroup(name, newest.segments, operations)))
            # Another task may have grouped them in the meantime.
            known = self.known(name, operations)
            if known is not None:
                return known
        self._exposed[name] = [*self._exposed.get(name, [])[-1:], exposed]
        return exposed

    def known(self, name: str, operations: Sequence[Operation]) -> Exposed | None:
        """Return *operations* if they have been grouped."""
        if not operations:
            return NOTHING
        known = self._exposed.get(name, ())
        return next((each for each in known if each.operations is operations), None)

    def current(self, name: str, operations: Sequence[Operation]) -> Exposed | None:
        """Return the *operations* of the current view if they have been grouped, and forget those of the view before."""
        known = self.known(name, operations)
        every = self._exposed.get(name, ())
        if len(every) > 1 and every[-1] is known:
            self._exposed[name] = every[-1:]
        return known

    def keep(self, names: Container[str]) -> None:
        """Forget all accounts but those in *names*."""
        self._exposed = {name: each for name, each in self._exposed.items() if name in names}
