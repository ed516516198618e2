"""Operations and emails as JSON values, at a given time."""

import math
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from comms_exporter.simulator import ids
from comms_exporter.simulator.operations import Address, Operation
from comms_exporter.simulator.world import Reading, World

COUNTERS = (
    "total", "recipients", "attempts", "scheduled", "queued", "sent",
    "delivered", "opened", "undelivered", "failed", "canceled",
)  # fmt: skip


def operation_view(world: World, operation: Operation, now: float) -> dict[str, Any]:
    """Return the operation as the API shows it."""
    stats = operation_stats(operation, now, reading=world.reading)
    if world.expired(operation):
        # One reading of "may return incomplete results": the emails are deleted, so their counters are 0.
        stats |= dict.fromkeys(stats.keys() - {"total", "recipients", "attempts"}, 0)
    return {
        "id": operation.id,
        "status": operation.status(now),
        "stats": _without(stats, world.omit),
        "createdAt": timestamp(operation.created),
        "updatedAt": timestamp(operation.updated(now)),
    }


def operation_stats(operation: Operation, now: float, *, reading: Reading) -> dict[str, int]:
    """Return the counters: of emails that ever reached a stage, or (exclusive) that are in it now."""
    reached = operation.reached(now)
    exclusive = reading == "exclusive"
    return {
        "total": operation.total,
        "recipients": operation.total,
        "attempts": operation.attempts(now),
        "scheduled": operation.total - reached.queued - reached.canceled,
        "queued": reached.queued - reached.sent - reached.failed,
        "sent": reached.sent - (reached.delivered + reached.undelivered if exclusive else 0),
        "delivered": reached.delivered - (reached.opened if exclusive else 0),
        "opened": reached.opened,
        "undelivered": reached.undelivered,
        "failed": reached.failed,
        "canceled": reached.canceled,
    }


def email_view(operation: Operation, email: int, now: float, *, origin: str) -> dict[str, Any]:
    """Return the email as the API shows it in a list."""
    return {
        "id": ids.email_id(operation.id, email),
        "from": _address(operation.message.sender),
        "to": [_address(recipient(operation, email))],
        "status": operation.email_status(email, now),
        "related": [{"name": "OPERATION", "id": operation.id, "uri": operation_location(origin, operation)}],
        "tags": operation.message.tags,
        "scheduledFor": None if operation.schedule is None else timestamp(operation.schedule),
        "createdAt": timestamp(operation.created),
        "updatedAt": timestamp(operation.email_updated(email, now)),
        "deletedAt": None,
    }


def operation_location(origin: str, operation: Operation) -> str:
    """Return the URL of the operation."""
    return f"{origin}/v1/Emails/Operations/{operation.id}"


def recipient(operation: Operation, email: int) -> Address:
    """Return the recipient of the email."""
    to = operation.message.to
    return to[email] if to else Address(f"recipient{email + 1}@example.com")


def timestamp(moment: float) -> str:
    """Return *moment* in whole seconds, rounded down, as in the API's samples."""
    return datetime.fromtimestamp(math.floor(moment), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _address(address: Address) -> dict[str, str | None]:
    return {"address": address.address, "name": address.name}


def _without(stats: dict[str, int], omit: Collection[str]) -> dict[str, int]:
    return {name: count for name, count in stats.items() if name not in omit}
