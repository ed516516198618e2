"""The status page as it is served: one viewer at a time, with a list of operations that all viewers share for a while."""

import asyncio
from collections.abc import Callable

from comms_exporter.base.slices import run_in_slices
from comms_exporter.web.status_page.model import Status
from comms_exporter.web.status_page.render import render_page
from comms_exporter.web.status_page.search import OperationList, Search

# All viewers within this time see the same list of operations.
LIST_SECONDS = 1.0


class StatusPage:
    """Renders what *status* returns, for one viewer at a time; lists the operations once every *list_seconds*."""

    def __init__(self, status: Callable[[], Status], *, list_seconds: float = LIST_SECONDS) -> None:
        self._status = status
        self._list_seconds = list_seconds
        self._lock = asyncio.Lock()
        self._operations: OperationList | None = None

    async def render(self, search: Search) -> str:
        """Return the page as HTML, with the operations that *search* finds."""
        async with self._lock:
            status = self._status()
            operations = self._operations
            if operations is None:
                operations = await run_in_slices(OperationList.collect(status.operations, status.now))
                self._operations = operations
                # Dropped when it expires, not at the next request: it may be large, and that request may never come.
                asyncio.get_running_loop().call_later(self._list_seconds, self._drop)
            return await run_in_slices(render_page(status, await run_in_slices(operations.search(search))))

    def _drop(self) -> None:
        self._operations = None
