"""Operations and emails as JSON values, at a given time."""

import math
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from comms_exporter.simulator import ids
from comms_exporter.simulator.inbound import InboundEmail
from comms_exporter.simulator.mail import ERRORS, REFUSED_RECEIPT, Address
from comms_exporter.simulator.operations import Operation, SentEmail
from comms_exporter.simulator.responses import Dialect
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


def email_view(email: SentEmail, now: float, *, origin: str, dialect: Dialect) -> dict[str, Any]:
    """Return the email as the API shows it in a list, but for its content."""
    operation, place = email
    message = operation.message
    to = _address(message.recipient(place))
    related = {"name": "OPERATION", "id": operation.id, "uri": operation_location(origin, operation)}
    view = {
        "id": ids.email_id(operation.id, place),
        "from": _address(message.sender),
        "to": to if dialect.email_to == "object" else [to],
        "status": operation.email_status(place, now),
        "related": [related] if dialect.email_link == "related" else [],
        "tags": message.tags,
        "scheduledFor": None if operation.schedule is None else timestamp(operation.schedule),
        "createdAt": timestamp(operation.created),
        "updatedAt": timestamp(operation.email_updated(place, now)),
        "deletedAt": None,
    }
    return view | {"operationId": operation.id} if dialect.email_link == "operationId" else view


def inbound_view(email: InboundEmail, *, dialect: Dialect) -> dict[str, Any]:
    """Return an inbound email as the API shows it in a list, but for its content."""
    to = _address(email.to)
    return {
        "id": email.id,
        "from": _address(email.sender),
        "to": to if dialect.email_to == "object" else [to],
        "status": "INBOUND",
        "related": [],
        "tags": {},
        "scheduledFor": None,
        "createdAt": timestamp(email.created),
        "updatedAt": timestamp(email.created),
        "deletedAt": None,
    }


def content_view(subject: str) -> dict[str, Any]:
    """Return the content of an email; a listing that has it is much larger."""
    return {"subject": subject, "text": f"{subject}\n", "html": f"<p>{subject}</p>\n" * 40, "attachments": []}


def error_view(operation: Operation, email: int) -> dict[str, Any]:
    """Return why the email failed, in the shape that the API's error responses have."""
    code = operation.message.error(email)
    return {
        "code": int(code),
        "message": ERRORS[code],
        "infoUrl": f"https://www.twilio.com/docs/api/errors/{code}",
        "context": ids.email_id(operation.id, email),
    }


def receipt_view(email: SentEmail, now: float) -> dict[str, Any]:
    """Return what became of the email for its recipient."""
    operation, place = email
    status = operation.email_status(place, now)
    code, text = REFUSED_RECEIPT if status == "UNDELIVERED" else (None, None)
    if status == "FAILED":
        code = operation.message.error(place)
        text = ERRORS[code]
    return {
        "to": _address(operation.message.recipient(place)),
        "status": status,
        "code": code,
        "message": text,
        "updatedAt": timestamp(operation.email_updated(place, now)),
    }


def operation_location(origin: str, operation: Operation) -> str:
    """Return the URL of the operation."""
    return f"{origin}/v1/Emails/Operations/{operation.id}"


def timestamp(moment: float) -> str:
    """Return *moment* in whole seconds, rounded down, as in the API's samples."""
    return datetime.fromtimestamp(math.floor(moment), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _address(address: Address) -> dict[str, str | None]:
    return {"address": address.address, "name": address.name}


def _without(stats: dict[str, int], omit: Collection[str]) -> dict[str, int]:
    return {name: count for name, count in stats.items() if name not in omit}
