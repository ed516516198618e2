"""Long work on the event loop, cut into slices so short that a scrape hardly waits for one.

Threads would not do: whoever computes in one takes the interpreter from the loop for 5 ms at a time, at every turn.
"""

import asyncio
import gc
from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

# Operations in one slice: a millisecond or two of work.
SIZE = 256

# Work that can be interrupted wherever it yields, and what it comes to.
Steps = Generator[None, None, T]


def whole(steps: Steps[T]) -> T:
    """Return what *steps* come to, without a break."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


async def sliced(steps: Steps[T]) -> T:
    """Return what *steps* come to; others have their turn between two of them.

    Who is cancelled comes to the end first, at once: what is begun is never left half done.
    """
    try:
        while True:
            next(steps)
            await asyncio.sleep(0)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    except asyncio.CancelledError:
        whole(steps)
        raise


def spare() -> None:
    """Have the garbage collector leave alone what there is so far, modules above all: a pass over them takes 30 ms."""
    gc.collect()
    gc.freeze()


def parts(items: Iterable[T], size: int = SIZE) -> Iterator[list[T]]:
    """Yield *items*, some at a time."""
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part
