"""Emails: what the exporter knows of a single one, without its addresses, names, subject and content.

Source: https://docs.comms.twilio.com/comms-api-reference/emails/list
"""

import msgspec

STATUSES = ("SCHEDULED", "QUEUED", "SENT", "DELIVERED", "UNDELIVERED", "OPENED", "FAILED", "CANCELED", "INBOUND")
# The statuses of an email that did not arrive.
LOST = frozenset({"FAILED", "UNDELIVERED"})


class Email(msgspec.Struct, frozen=True, gc=False):
    """One email as the API last described it; times are seconds since the epoch, None if missing or invalid.

    *operation_id* is None if the listing does not say it. *recipient_domain* is that of the first recipient; both domains
    are in lower case, and empty if unknown. *status* is in upper case, and may be one that is not in STATUSES.
    """

    id: str
    status: str
    operation_id: str | None
    created_at: float | None
    updated_at: float | None
    recipient_domain: str
    recipients: int
    sender_domain: str
    tags: tuple[tuple[str, str], ...]
