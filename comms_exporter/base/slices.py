"""Run long work on the event loop in slices so short that a scrape hardly waits for one.

A thread would not help: one that computes holds the interpreter lock for 5 ms at a time, and the loop waits as long.
"""

import asyncio
import gc
from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

# Operations in one slice: a millisecond or two of work.
SIZE = 256

# Work that may be interrupted at every yield, and returns its result.
Steps = Generator[None, None, T]


async def run_in_slices(steps: Steps[T]) -> T:
    """Return the result of *steps*, and let other tasks run between two of them.

    If cancelled, run the remaining steps at once before raising, so that no work is left half done.
    """
    try:
        while True:
            next(steps)
            await asyncio.sleep(0)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    except asyncio.CancelledError:
        run_to_completion(steps)
        raise


def run_to_completion(steps: Steps[T]) -> T:
    """Return the result of *steps*, without a pause."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def batched(items: Iterable[T], size: int = SIZE) -> Iterator[list[T]]:
    """Yield *items* in lists of up to *size*."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def freeze_gc() -> None:
    """Exempt all current objects from garbage collection: a full pass over the imported modules takes 30 ms."""
    gc.collect()
    gc.freeze()
