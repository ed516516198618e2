"""The command `operations`: the operations of an account, those that lost the most emails first."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from comms_exporter.api.client import CommsClient, Query
from comms_exporter.api.retries import RetryBudget
from comms_exporter.base.times import iso
from comms_exporter.commands.tables import age, share, table
from comms_exporter.model.operations import STATS, Operation
from comms_exporter.model.readings import stat

# Of each page. After a few seconds without a network, a person wants to know.
RETRIES = 4


@dataclass(frozen=True, slots=True)
class Row:
    """An operation of an account."""

    account: str
    operation: Operation

    @property
    def lost(self) -> int:
        """How many of its emails failed or were not delivered."""
        return sum(stat(self.operation.stats, name) or 0 for name in ("failed", "undelivered"))

    @property
    def emails(self) -> int:
        """How many emails it has."""
        return stat(self.operation.stats, "total") or 0


async def list_operations(
    account: str, client: CommsClient, *, status: str | None, since_seconds: float, progress: Callable[[str], None]
) -> list[Row]:
    """Return the operations created in the last *since_seconds*, in any order; *progress* is told when there are more pages."""
    created_after = client.now() - since_seconds
    found: dict[str, Operation] = {}
    budget = RetryBudget(RETRIES)
    async for page in client.pages(Query(created_after=created_after, status=status), budget):
        budget.retries_left = RETRIES
        # A server may ignore filters.
        found |= {
            each.id: each
            for each in page.operations
            if each.created >= created_after - 1 and status in {None, each.status}
        }
        if page.next is not None:
            progress(f"account {account}: {len(found):,} operations so far")
    return [Row(account, each) for each in found.values()]


def worst_first(rows: Iterable[Row]) -> list[Row]:
    """Return *rows* in the order of lost emails, and of those with as many the latest first."""
    return sorted(rows, key=lambda row: (-row.lost, -row.operation.created, row.operation.id))


def as_text(rows: Sequence[Row], *, now: float, width: int, several_accounts: bool) -> list[str]:
    """Return *rows* as a table."""
    if not rows:
        return ["no operations"]
    header = ["LOST", "SHARE", "EMAILS", "STATUS", "AGE", *(["ACCOUNT"] if several_accounts else []), "OPERATION"]
    cells = [
        [
            f"{row.lost:,}",
            share(row.lost, row.emails),
            f"{row.emails:,}",
            row.operation.status,
            age(now - row.operation.created),
            *([row.account] if several_accounts else []),
            row.operation.id,
        ]
        for row in rows
    ]
    return table(header, cells, width=width)


def as_json(row: Row) -> dict[str, object]:
    """Return *row* as a JSON value; a counter that the API left out is null."""
    operation = row.operation
    return {
        "account": row.account,
        "id": operation.id,
        "status": operation.status,
        "created": iso(operation.created),
        "updated": iso(operation.updated),
        "lost": row.lost,
        "stats": dict(zip(STATS, operation.stats, strict=True)),
    }
