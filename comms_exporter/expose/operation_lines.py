"""The sample lines of single operations.

They are formatted here, because prometheus_client takes 17 microseconds for each series.
"""

from collections.abc import Sequence
from functools import lru_cache

from prometheus_client.utils import floatToGoString

from comms_exporter.model.operations import STATS, STATUSES, Operation

# The end of the HELP of every metric whose value comes from the last successful poll.
CACHED = "As of the last successful poll; see comms_exporter_last_poll_success_timestamp_seconds."
STATUS_FAMILY = "comms_email_operation_status"

_EMAILS = {
    "total": "Emails created by the operation.",
    "recipients": "Recipients targeted by the operation.",
    "attempts": "Send attempts by Twilio.",
    "scheduled": "Emails waiting for their scheduled time.",
    "queued": "Emails queued at Twilio.",
    "sent": "Emails sent by Twilio.",
    "delivered": "Emails delivered to the recipient's server.",
    "opened": "Emails opened; each recipient counts once.",
    "undelivered": "Emails sent but not delivered.",
    "failed": "Emails that failed inside Twilio.",
    "canceled": "Emails canceled by API request.",
}

# Name and HELP of the gauges of every exposed operation. The first has one series per status, the others, in the order of
# values(), one series each.
OPERATION_FAMILIES = (
    (STATUS_FAMILY, f"1 for the current status of the operation, 0 for every other status. {CACHED}"),
    *(
        (
            f"comms_email_operation_{'emails' if name == 'total' else name}",
            f"{_EMAILS[name]} stats.{name} as reported by the API; absent if not reported. {CACHED}",
        )
        for name in STATS
    ),
    ("comms_email_operation_created_timestamp_seconds", f"When the operation was created (createdAt). {CACHED}"),
    ("comms_email_operation_updated_timestamp_seconds", f"When the operation last changed (updatedAt). {CACHED}"),
)


def values(operation: Operation) -> tuple[float | None, ...]:
    """Return the value of *operation* in each of OPERATION_FAMILIES but the first; None if it has no series there."""
    return (*operation.stats, operation.created, operation.updated)


def operation_lines(account: str, operations: Sequence[Operation]) -> list[str]:
    """Return the sample lines of *operations*, one text for each of OPERATION_FAMILIES."""
    opening = f'{{account="{escape(account)}",operation_id="'
    labels = [f'{opening}{escape(each.id)}"' for each in operations]
    texts = ["".join(map(_status_lines, labels, [each.status for each in operations]))]
    for (name, _), column in zip(OPERATION_FAMILIES[1:], zip(*map(values, operations), strict=True), strict=True):
        pairs = zip(labels, column, strict=True)
        texts.append("".join([f"{name}{label}}} {number(n)}\n" for label, n in pairs if n is not None]))
    return texts


def _status_lines(labels: str, current: str) -> str:
    return "".join([f"{STATUS_FAMILY}{labels}{ending}" for ending in _status_endings(current)])


@lru_cache
def _status_endings(current: str) -> list[str]:
    statuses = STATUSES if current in STATUSES else (*STATUSES, current)
    return [f',status="{escape(status)}"}} {"1.0" if status == current else "0.0"}\n' for status in statuses]


def escape(value: str) -> str:
    """Return *value* escaped for the quotes of a label."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def number(value: float) -> str:
    """Return *value* as prometheus_client formats it."""
    if type(value) is int and value < 1_000_000:
        return f"{value}.0"
    return _formatted(value)


# Many operations share a few timestamps, and most are formatted again only because a neighbor in their segment changed.
@lru_cache(maxsize=4096)
def _formatted(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]
