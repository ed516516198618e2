"""Find the accounts and the operations that a request asks for, and sort them."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import get_args
from urllib.parse import urlencode

from comms_exporter.base.slices import SIZE, Steps, batched
from comms_exporter.web.status_page.model import Account, Health, OperationRow

PAGE_SIZE = 50
ACCOUNTS_PAGE_SIZE = 20
MAX_SEARCH_LENGTH = 200
SORTS = {"worst": "Failures and stuck", "stuck": "Stuck", "newest": "Newest"}

_MAX_CACHED_RESULTS = 64
# Describing so many accounts takes about a millisecond.
_ACCOUNTS_IN_A_STEP = 32
_WORST_FIRST = get_args(Health)

_Key = tuple[float | str, ...]
# With the number, rows with equal keys are never compared.
_Ranked = tuple[_Key, int, OperationRow]


@dataclass(frozen=True, slots=True)
class Search:
    """Which operations a request asks for, in which order, and which page of them.

    And which accounts: those with *name* in their name, in the state *health*, page *accounts* of them.
    """

    text: str = ""
    account: str = ""
    sort: str = "worst"
    page: int = 1
    name: str = ""
    health: str = ""
    accounts: int = 1

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> "Search":
        """Return the search that *query* describes; invalid values count as absent."""
        sort, health = query.get("sort", ""), query.get("health", "")
        return cls(
            valid_text(query.get("q", "")).strip()[:MAX_SEARCH_LENGTH],
            valid_text(query.get("account", "")),
            sort if sort in SORTS else "worst",
            _page_number(query.get("page", "")),
            valid_text(query.get("name", "")).strip()[:MAX_SEARCH_LENGTH],
            health if health in _WORST_FIRST else "",
            _page_number(query.get("accounts", "")),
        )

    def url(self, **changes: str | int) -> str:
        """Return the address of this search with *changes*, relative to the status page."""
        values: dict[str, str | int] = {
            "q": self.text,
            "account": self.account,
            "sort": self.sort,
            "page": self.page,
            "name": self.name,
            "health": self.health,
            "accounts": self.accounts,
            **changes,
        }
        defaults = {"q": "", "account": "", "sort": "worst", "page": 1, "name": "", "health": "", "accounts": 1}
        query = urlencode({key: value for key, value in values.items() if value != defaults[key]})
        return f"./?{query}" if query else "./"

    def filter(self, rows: list[OperationRow]) -> list[OperationRow]:
        """Return those of *rows* that match."""
        if self.account:
            rows = [row for row in rows if row.account == self.account]
        if text := self.text.casefold():
            rows = [row for row in rows if any(text in each.casefold() for each in (row.id, row.status, row.account))]
        return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountsResult:
    """One page of the accounts that matched, worst first, and how many of all accounts are in each state.

    *names* are those of all accounts, *hidden* is how many of their operations are not listed.
    """

    rows: list[Account]
    page: int
    matching: int
    health_counts: Counter[Health]
    names: list[str]
    hidden: int

    @property
    def pages(self) -> int:
        """How many pages there are, at least one."""
        return _pages(self.matching, ACCOUNTS_PAGE_SIZE)

    @property
    def first(self) -> int:
        """The number of the first row among all that matched, from 1."""
        return (self.page - 1) * ACCOUNTS_PAGE_SIZE + 1


def find_accounts(accounts: Iterable[Account], search: Search) -> Steps[AccountsResult]:
    """Return the page of *accounts* that *search* asks for, or the last page if there are fewer."""
    matching: list[Account] = []
    counts: Counter[Health] = Counter()
    names: list[str] = []
    hidden = 0
    text = search.name.casefold()
    for batch in batched(accounts, _ACCOUNTS_IN_A_STEP):
        for account in batch:
            health = account.health
            counts[health] += 1
            names.append(account.name)
            hidden += account.hidden
            if text in account.name.casefold() and search.health in {"", health}:
                matching.append(account)
        yield
    matching.sort(key=lambda account: _WORST_FIRST.index(account.health))
    page = min(search.accounts, _pages(len(matching), ACCOUNTS_PAGE_SIZE))
    return AccountsResult(
        rows=matching[(page - 1) * ACCOUNTS_PAGE_SIZE : page * ACCOUNTS_PAGE_SIZE],
        page=page,
        matching=len(matching),
        health_counts=counts,
        names=names,
        hidden=hidden,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """One page of the operations that matched, and counts over all of them.

    *searched* counts the operations before the search, *matching* those that it found.
    """

    search: Search
    rows: list[OperationRow]
    searched: int
    matching: int
    with_failures: int
    stuck: int

    @property
    def page(self) -> int:
        """The number of the page in *rows*: the last page if a later one was asked for."""
        return min(self.search.page, self.pages)

    @property
    def pages(self) -> int:
        """How many pages there are, at least one."""
        return _pages(self.matching)

    @property
    def first(self) -> int:
        """The number of the first row among all that matched, from 1."""
        return (self.page - 1) * PAGE_SIZE + 1


class OperationList:
    """The operations at one moment, shared by all viewers, and the results of their searches."""

    def __init__(self, rows: Sequence[OperationRow], now: float) -> None:
        self._rows = rows
        self._now = now
        self._results: dict[Search, SearchResult] = {}

    @classmethod
    def collect(cls, operations: Iterable[OperationRow], now: float) -> "Steps[OperationList]":
        """Return a list of *operations*."""
        rows: list[OperationRow] = []
        for batch in batched(operations):
            rows += batch
            yield
        return cls(rows, now)

    def search(self, search: Search) -> Steps[SearchResult]:
        """Return the page of operations that *search* asks for, from the cache if possible."""
        if search in self._results:
            return self._results[search]
        matching: list[OperationRow] = []
        for batch in batched(self._rows):
            matching += search.filter(batch)
            yield
        end = min(search.page, _pages(len(matching))) * PAGE_SIZE
        first = _FirstRows(end, _ORDERS[search.sort])
        first_stuck = _FirstRows(end, _by_waiting)
        with_failures = stuck = 0
        for batch in batched(matching):
            first.add(batch)
            stuck_batch = [row for row in batch if row.is_stuck(self._now)]
            if search.sort == "worst":
                first_stuck.add(stuck_batch)
            stuck += len(stuck_batch)
            with_failures += sum(row.failures > 0 for row in batch)
            yield
        # Alternate, so that a hundred operations with failures do not bury the one that is stuck.
        pairs = zip_longest(first.rows(), first_stuck.rows())
        alternating = (row for pair in pairs for row in pair if row is not None)
        result = SearchResult(
            search=search,
            rows=list({id(row): row for row in alternating}.values())[end - PAGE_SIZE : end],
            searched=len(self._rows),
            matching=len(matching),
            with_failures=with_failures,
            stuck=stuck,
        )
        if len(self._results) < _MAX_CACHED_RESULTS:
            self._results[search] = result
        return result


class _FirstRows:
    """The first *count* of the added rows by *key*, without sorting all of them, which would take long."""

    def __init__(self, count: int, key: Callable[[OperationRow], _Key]) -> None:
        self._count = count
        self._key = key
        self._sorted: list[_Ranked] = []
        self._new: list[_Ranked] = []
        self._added = 0

    def add(self, rows: Sequence[OperationRow]) -> None:
        self._new += [(self._key(row), number, row) for number, row in enumerate(rows, self._added)]
        self._added += len(rows)
        if len(self._new) > max(4 * SIZE, self._count // 4):
            self._sort()

    def rows(self) -> list[OperationRow]:
        self._sort()
        return [row for _, _, row in self._sorted]

    def _sort(self) -> None:
        if len(self._sorted) == self._count:
            last = self._sorted[-1]
            self._new = [ranked for ranked in self._new if ranked < last]
        # The sorted rows are merged rather than sorted again.
        self._sorted = sorted(self._sorted + sorted(self._new))[: self._count]
        self._new = []


def valid_text(value: str) -> str:
    """Return *value* of a query so that it can be encoded into a page."""
    # A request line may hold bytes that are not UTF-8. They arrive as surrogates, which cannot be encoded into a page.
    return value.encode("utf-8", "replace").decode()


def _page_number(text: str) -> int:
    return max(1, int(text)) if re.fullmatch("[0-9]{1,9}", text) else 1


def _pages(matching: int, size: int = PAGE_SIZE) -> int:
    return max(1, -(-matching // size))


def _by_failures(row: OperationRow) -> tuple[int, bool, float, str]:
    return -row.failures, row.finished, _longest_unchanged(row), row.id


def _by_waiting(row: OperationRow) -> tuple[bool, bool, float, str]:
    return row.finished, row.status == "SCHEDULED", _longest_unchanged(row), row.id


def _by_age(row: OperationRow) -> tuple[float, str]:
    return -row.created, row.id


def _longest_unchanged(row: OperationRow) -> float:
    # A finished operation never changes again: among those, the latest comes first.
    return -row.updated if row.finished else row.updated


_ORDERS: dict[str, Callable[[OperationRow], _Key]] = {"worst": _by_failures, "stuck": _by_waiting, "newest": _by_age}
