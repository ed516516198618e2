"""Which accounts share segments of the page: those that are polled at about the same time, and so change together."""

from collections.abc import Sequence
from operator import is_

from comms_exporter.collect.schedule import phase
from comms_exporter.expose.segments import AccountsSegment, Lines

# Up to so many accounts are one block; of more accounts, a block has between a half and all of this on average, as long as
# there are not too many blocks: each one is another piece in every family, to be joined for the next scrape.
BLOCK = 32
MAX_BLOCKS = 64


class Blocks:
    """The segments of a section, shared by the accounts of a block; those in which nothing has changed are used again."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._blocks: list[list[str]] = []
        self._segments: dict[int, AccountsSegment] = {}

    def of(self, names: list[str]) -> list[list[str]]:
        """Return *names* in blocks."""
        if names != self._names:
            self._names, self._blocks, self._segments = names, blocks_of(names), {}
        return self._blocks

    def segment(self, number: int, accounts: Sequence[Lines]) -> AccountsSegment:
        """Return the segment of block *number*, with the lines of *accounts*."""
        known = self._segments.get(number)
        if known is None or len(known.accounts) != len(accounts) or not all(map(is_, known.accounts, accounts)):
            self._segments[number] = known = AccountsSegment(accounts)
        return known


def blocks_of(names: Sequence[str]) -> list[list[str]]:
    """Return *names* in blocks, by the phase of the account; within a block they keep their order.

    The number of blocks is a power of two, so that adding an account seldom changes other blocks than its own.
    """
    count = 1
    while count * BLOCK < len(names) and count < MAX_BLOCKS:
        count *= 2
    blocks: list[list[str]] = [[] for _ in range(count)]
    for name in names:
        blocks[int(phase(name) * count)].append(name)
    return [block for block in blocks if block]
