"""Find the operations that a listing left out, and update those that can still change, with as few requests as possible."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple

from comms_exporter.api.client import Query
from comms_exporter.api.retries import RetryBudget
from comms_exporter.base.slices import SIZE, Steps, batched, run_in_slices
from comms_exporter.collect.listings import ListingReader
from comms_exporter.collect.schedule import HOUR, MARGIN, RETENTION
from comms_exporter.collect.state import AccountState, Listing
from comms_exporter.model.operations import Operation

# Whether the API's bounds are inclusive is undocumented, and its times are whole seconds.
_BOUND_SECONDS = 2.0


class LeftOut(NamedTuple):
    """What a listing left out: the operations *to_follow*, by id, and at least how many it should have had."""

    to_follow: dict[str, Operation]
    unlisted: int


def left_out(listing: Listing, state: AccountState) -> Steps[LeftOut]:
    """Return what *listing* left out of the operations in *state*.

    To follow are those that are unfinished, and those of before the listing whose emails made progress within the hour.
    """
    # The API may return an operation until it is 7 days old, and a sweep asks for a little more.
    since = max(listing.created_after, listing.ended - RETENTION + MARGIN) + _BOUND_SECONDS
    to_follow: dict[str, Operation] = {}
    unlisted = 0
    for batch in batched(state.recently_active(), 4 * SIZE):
        missing = [each.operation for each in batch if each.operation.id not in listing.ids]
        unlisted += sum(each.created >= since for each in missing)
        to_follow.update((each.id, each) for each in missing if each.unfinished)
        yield
    # What was created earlier need not be recently active: only how many there are is known without a look at each.
    whole_hours = sum(number for hour, number in state.created_by_hour.items() if hour * HOUR >= since)
    unlisted = max(unlisted, whole_hours - len(listing.ids))
    # Only those of before the listing: an API that returns empty lists must not be asked for every operation of the hour.
    in_delivery = yield from state.in_delivery(listing.ended, created_before=since)
    to_follow.update((each.id, each) for each in in_delivery if each.id not in listing.ids)
    return LeftOut(to_follow, unlisted)


class FollowUp:
    """Updates single operations of *state*: *apply* takes what the API returns, *mark_gone* what it no longer knows."""

    def __init__(
        self,
        reader: ListingReader,
        *,
        page_size: int,
        state: AccountState,
        apply: Callable[[Listing], Awaitable[None]],
        mark_gone: Callable[[str], None],
    ) -> None:
        self._reader = reader
        self._state = state
        self._page_size = page_size
        self._apply = apply
        self._mark_gone = mark_gone

    async def run(self, to_follow: Mapping[str, Operation], budget: RetryBudget) -> None:
        """Update the operations *to_follow*, in listings back to some of them and then one by one."""
        left = dict(to_follow)
        for status in ("PROCESSING", "SCHEDULED", None):
            if status is not None and "status" in self._reader.ignored_filters:
                continue
            created_after = await run_in_slices(self._reach(left, status))
            if created_after is not None:
                listing = await self._reader.read(Query(created_after=created_after, status=status), budget)
                await self._apply(listing)
                left = await run_in_slices(_without(left, listing.ids))
        for operation_id in left:
            found = await self._reader.read_operation(operation_id, budget)
            if found is None:
                self._mark_gone(operation_id)
            else:
                await self._apply(found)

    def _reach(self, wanted: Mapping[str, Operation], status: str | None) -> Steps[float | None]:
        """Return how far back a listing of *status* should reach; None if single requests are as cheap."""
        created = [each.created for each in wanted.values() if status in {None, each.status}]
        if len(created) < 2:
            return None
        if status is None:
            listed_by_hour = self._state.created_by_hour
        else:
            listed_by_hour = Counter()
            for batch in batched(self._state.unfinished(), 4 * SIZE):
                listed_by_hour.update(each.created // HOUR for each in batch if each.status == status)
                yield
        return cheapest_reach(created, listed_by_hour, page_size=self._page_size)


def cheapest_reach(wanted: Iterable[float], listed_by_hour: Mapping[float, int], *, page_size: int) -> float | None:
    """Return how far back to list so that few requests are needed for all creation times *wanted*; None for no listing.

    Those that are older take a request each. *listed_by_hour* is how many operations a listing has, by hour of creation.
    """
    wanted_by_hour: dict[float, list[float]] = {}
    for created in wanted:
        wanted_by_hour.setdefault(created // HOUR, []).append(created)
    fewest = older = sum(map(len, wanted_by_hour.values()))
    reach = None
    listed = 0
    for hour in sorted({*wanted_by_hour, *listed_by_hour}, reverse=True):
        listed += listed_by_hour.get(hour, 0)
        if hour in wanted_by_hour:
            older -= len(wanted_by_hour[hour])
            requests = 1 + listed // page_size + older
            if requests < fewest:
                fewest, reach = requests, min(wanted_by_hour[hour])
    return reach


def _without(operations: Mapping[str, Operation], ids: set[str]) -> Steps[dict[str, Operation]]:
    """Return the *operations* whose ids are not among *ids*."""
    left: dict[str, Operation] = {}
    for batch in batched(operations.values(), 4 * SIZE):
        left.update((each.id, each) for each in batch if each.id not in ids)
        yield
    return left
