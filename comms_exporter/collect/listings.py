"""Read the pages of a query into one listing, and notice what is wrong with them."""

from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from comms_exporter.api.client import CommsClient, Query
from comms_exporter.api.errors import CommsError
from comms_exporter.api.payloads import Page
from comms_exporter.api.retries import RetryBudget
from comms_exporter.base.slices import Steps, batched, run_in_slices
from comms_exporter.collect.schedule import Window
from comms_exporter.collect.state import AccountState, Listing

# Clock skew up to this makes no difference: windows overlap by more.
MAX_SKEW_SECONDS = 60.0


class ListingReader:
    """Reads listings for *state*; *on_progress* is called after each response."""

    def __init__(
        self,
        client: CommsClient,
        state: AccountState,
        *,
        max_tracked_operations: int,
        on_progress: Callable[[], None],
        log: FilteringBoundLogger,
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._state = state
        self._max_tracked_operations = max_tracked_operations
        self._on_progress = on_progress
        self._log = log
        self._clock = clock
        # The filters that the API ignores: results are correct, but need more pages.
        self.ignored_filters: set[str] = set()

    def now(self) -> float:
        """Return the earlier of our time and the API's: a wrong Date header must not expire operations early."""
        return min(self._clock(), self._client.now())

    async def read_window(self, window: Window, budget: RetryBudget) -> Listing:
        """Return a listing of the operations created within *window*."""
        asked = self._client.now()
        listing = await self.read(Query(created_after=asked - window.seconds), budget, sweep=window.sweep)
        if asked - listing.started > MAX_SKEW_SECONDS:
            # The response shows that our clock was ahead, so the window began too late.
            created_after = self._client.now() - window.seconds
            listing = await self.read(Query(created_after=created_after), budget, sweep=window.sweep)
        return listing

    async def read(self, query: Query, budget: RetryBudget, *, sweep: bool = False) -> Listing:
        """Return all pages of *query*; a CommsError means that one could not be read, or that there are too many."""
        started = self._clock()
        skew = self._client.now() - started
        created_after = float("-inf") if query.created_after is None else query.created_after
        listing = Listing({}, started=started, ended=started, created_after=created_after, sweep=sweep)
        async for page in self._client.pages(query, budget):
            await run_in_slices(self._add(page, listing))
            self._check_length(listing)
            self._check_filters(query, page)
            self._on_progress()
        # The first response may have shown that our clock is wrong.
        listing.started += min(skew, self._client.now() - self._clock())
        listing.ended = self.now()
        return listing

    async def read_operation(self, operation_id: str, budget: RetryBudget) -> Listing | None:
        """Return the operation *operation_id* as a listing of its own; None if the API no longer knows it."""
        page = await self._client.operation(operation_id, budget)
        self._on_progress()
        if page is None:
            return None
        now = self.now()
        listing = Listing({}, started=now, ended=now)
        await run_in_slices(self._add(page, listing))
        return listing

    def _add(self, page: Page, listing: Listing) -> Steps[None]:
        """Add to *listing* what differs in *page* from the state."""
        listing.malformed += len(page.malformed)
        if page.malformed and not listing.first_malformed:
            listing.first_malformed = page.malformed[0]
        listing.unknown.update(page.unknown)
        # Even for an empty page: an API that responds at once must not keep other tasks from running.
        yield
        for batch in batched(page.operations):
            for operation in batch:
                known = self._state.tracked.get(operation.id)
                if known is None and self._state.ignores(operation):
                    continue
                # Reuse the id that is already in memory.
                listing.ids.add(operation.id if known is None else known.operation.id)
                if known is not None and known.operation == operation and not known.gone:
                    continue
                # Pages shift while they are read: of an operation that is listed twice, the later version counts.
                earlier = listing.operations.get(operation.id)
                listing.new += known is None and earlier is None
                if earlier is None or operation.updated >= earlier.updated:
                    listing.operations[operation.id] = operation
            yield

    def _check_length(self, listing: Listing) -> None:
        """Reject a listing that would exceed the limit of tracked operations."""
        tracked = len(self._state.tracked)
        # The operations of an account that was larger when it was saved have proved to be real.
        limit = max(self._max_tracked_operations, 2 * self._state.restored)
        if tracked + listing.new > limit:
            raise CommsError(
                "bad_payload",
                f"the listing has at least {listing.new} new operations beside {tracked} tracked ones; the limit is "
                f"{limit}: raise --collect.max-tracked-operations if the account has more",
            )

    def _check_filters(self, query: Query, page: Page) -> None:
        """Log each filter that the API ignores, once."""
        operations = page.operations
        ignored = set()
        if query.created_after is not None and any(each.created < query.created_after - 2 for each in operations):
            ignored.add("startDate")
        if query.status is not None and any(each.status != query.status for each in operations):
            ignored.add("status")
        for name in sorted(ignored - self.ignored_filters):
            self._log.warning("API ignores a filter: polls need more requests", filter=name)
        self.ignored_filters |= ignored
