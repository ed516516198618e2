"""The command `email`: what the API says about one email, such as one from a log line or an exemplar."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from comms_exporter.api.email_payloads import Receipt
from comms_exporter.api.emails import EmailsClient
from comms_exporter.api.errors import CommsError
from comms_exporter.api.retries import RetryBudget
from comms_exporter.base.times import iso
from comms_exporter.commands.addresses import Addresses
from comms_exporter.commands.operations import RETRIES
from comms_exporter.commands.tables import age, table
from comms_exporter.model.emails import Email


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailReport:
    """An email, its recipients *to* as they are to be shown, and what became of it for each of them.

    *receipts* is None where the API does not have them, and *problem* why they could not be read.
    """

    email: Email
    to: str
    receipts: Sequence[Receipt] | None
    problem: CommsError | None


async def find_email(client: EmailsClient, email_id: str, *, show_addresses: bool) -> EmailReport | None:
    """Return the email and its receipts, None if the account does not have it; raise a CommsError if it cannot be read."""
    addresses = Addresses() if show_addresses else None
    on_body = None if addresses is None else addresses.read_single
    try:
        page = await client.get_email(email_id, RetryBudget(RETRIES), on_body=on_body)
    except ValueError:
        # An id that cannot be part of a URL.
        return None
    if page is None:
        return None
    if not page.emails:
        raise CommsError("bad_payload", "; ".join(page.malformed))
    (email,) = page.emails
    receipts = problem = None
    try:
        receipts = await client.list_receipts(email.id, RetryBudget(RETRIES))
    except CommsError as error:
        problem = error
    return EmailReport(email=email, to=recipients_of(email, addresses), receipts=receipts, problem=problem)


def as_text(report: EmailReport, *, account: str, provider: str, now: float, width: int) -> list[str]:
    """Return *report* as lines for a terminal."""
    email = report.email
    lines = [
        f"email      {email.id}",
        f"account    {account}",
        f"operation  {email.operation_id or '(unknown)'}",
        f"status     {email.status}",
        f"created    {_moment(email.created_at, now)}",
        f"updated    {_moment(email.updated_at, now)}",
        f"to         {report.to}",
        f"provider   {provider}",
        f"sender     {email.sender_domain or '(unknown)'}",
        *(f"tag        {key}:{value}" for key, value in email.tags),
    ]
    if report.receipts:
        return [*lines, "", *receipts_as_text({email.id: report.receipts}, width=width)]
    return (
        lines
        if report.problem
        else [*lines, "", "The API does not say more: it does not have /Receipts of this email."]
    )


def as_json(report: EmailReport, *, account: str, provider: str) -> dict[str, object]:
    """Return *report* as a JSON value; what the API does not have is null."""
    email = report.email
    described = email_as_json(email, to=report.to, provider=provider, receipts=report.receipts)
    return {"account": account, "operation": email.operation_id, **described, "complete": report.problem is None}


def email_as_json(email: Email, *, to: str, provider: str, receipts: Iterable[Receipt] | None) -> dict[str, object]:
    """Return *email* as a JSON value."""
    return {
        "id": email.id,
        "status": email.status,
        "created": None if email.created_at is None else iso(email.created_at),
        "updated": None if email.updated_at is None else iso(email.updated_at),
        "to": to,
        "recipients": email.recipients,
        "recipient_domain": email.recipient_domain,
        "provider": provider,
        "sender_domain": email.sender_domain,
        "tags": dict(email.tags),
        "receipts": None if receipts is None else [each._asdict() for each in receipts],
    }


def receipts_as_text(receipts: Mapping[str, Iterable[Receipt]], *, width: int) -> list[str]:
    """Return *receipts* by the ids of their emails as a table."""
    rows = [
        [each.status, each.code, each.recipient_domain, each.message, email_id]
        for email_id, some in receipts.items()
        for each in some
    ]
    return table(["RECEIPT", "CODE", "TO", "MESSAGE", "EMAIL"], rows, width=width) if rows else []


def recipients_of(email: Email, addresses: Addresses | None) -> str:
    """Return the recipients of *email*: their *addresses* if these are to be shown, or else the domain of the first.

    The addresses are forgotten.
    """
    if addresses is not None and (shown := addresses.by_email.pop(email.id, None)) is not None:
        return ", ".join(shown)
    more = f" and {email.recipients - 1} more" if email.recipients > 1 else ""
    return f"***@{email.recipient_domain}{more}" if email.recipient_domain else "(unknown)"


def _moment(moment: float | None, now: float) -> str:
    return "(unknown)" if moment is None else f"{iso(moment)} ({age(now - moment)} ago)"
