"""Handle signals in the event loop: as events, and as the end of a task."""

import asyncio
import signal
import socket
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def signal_events(events: Mapping[int, asyncio.Event]) -> Iterator[None]:
    """Within the context, each signal sets its event instead of its default action.

    The loop's own handlers would not do: while they are removed, a signal can still end the process.
    """
    loop = asyncio.get_running_loop()
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)

    def set_events() -> None:
        for number in reader.recv(4096):
            if number in events:
                events[number].set()

    with reader, writer:
        loop.add_reader(reader, set_events)
        # The interpreter writes signal numbers here, which wakes the loop even if it is about to sleep.
        wakeup_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        handlers_before = {number: signal.signal(number, lambda *_: None) for number in events}
        try:
            yield
        finally:
            for number, handler in handlers_before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup_before)
            loop.remove_reader(reader)


async def run_until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run *work* until it ends, or cancel it once *stop* is set."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    working.cancel()
    await asyncio.wait({working})
    if not working.cancelled():
        working.result()
