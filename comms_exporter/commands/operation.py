"""The command `operation`: everything that the API says about one operation and its lost emails."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from comms_exporter.api.client import CommsClient
from comms_exporter.api.email_payloads import DeliveryError, Receipt
from comms_exporter.api.emails import EmailFilter, EmailsClient
from comms_exporter.api.errors import CommsError
from comms_exporter.api.retries import RetryBudget
from comms_exporter.base.times import iso
from comms_exporter.commands.addresses import Addresses
from comms_exporter.commands.operations import RETRIES
from comms_exporter.commands.tables import age, share, table
from comms_exporter.model.emails import LOST, Email
from comms_exporter.model.operations import STATS, Operation
from comms_exporter.model.readings import REACHED, detect_reading, reached, stat

_OPERATION_ID = re.compile(r"comms_operation_([0-7][0-9a-hjkmnp-tv-z]{25,34})")
_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_RETENTION_SECONDS = 7 * 86400.0
# The rows of one breakdown; what is left is added up.
_MAX_ROWS = 10
_STAGES = ("sent", "delivered", "opened", "undelivered", "failed", "canceled")


@dataclass(slots=True, kw_only=True)
class Report:
    """An operation and its emails by id: the lost ones, or all.

    *errors* and *receipts* are None where the API does not offer them; *problems* are the requests that failed.
    """

    account: str
    operation: Operation
    emails: dict[str, Email] = field(default_factory=dict)
    with_all_emails: bool = False
    addresses: Mapping[str, list[str]] = field(default_factory=dict)
    errors: list[DeliveryError] | None = None
    receipts: dict[str, list[Receipt]] | None = None
    malformed: int = 0
    problems: list[CommsError] = field(default_factory=list)

    @property
    def lost(self) -> list[Email]:
        """The emails that failed or were not delivered."""
        return [each for each in self.emails.values() if each.status in LOST]

    @property
    def counted_as_lost(self) -> int:
        """How many lost emails the operation counts."""
        return sum(_counted(self.operation, status) for status in LOST)


async def read_report(
    account: str,
    operation: Operation,
    *,
    emails: EmailsClient,
    all_emails: bool,
    show_addresses: bool,
    progress: Callable[[str], None],
) -> Report:
    """Ask the API about *operation* and its emails; a failed request leaves a gap in the report and is listed in it."""
    report = Report(account=account, operation=operation, with_all_emails=all_emails)
    addresses = Addresses()
    report.addresses = addresses.by_email
    wanted = [None] if all_emails else sorted(status for status in LOST if _counted(operation, status))
    try:
        for status in wanted:
            budget = RetryBudget(RETRIES)
            listing = EmailFilter(operation_id=operation.id, status=status)
            async for page in emails.list_emails(listing, budget, on_body=addresses.read if show_addresses else None):
                budget.retries_left = RETRIES
                report.emails |= {each.id: each for each in page.emails}
                report.malformed += len(page.malformed)
                if page.next is not None:
                    progress(f"{len(report.emails):,} emails so far")
        if report.counted_as_lost:
            report.errors = await emails.list_errors(operation.id, RetryBudget(RETRIES))
        if all_emails:
            report.receipts = await _read_receipts(report, emails, progress)
    except CommsError as error:
        report.problems.append(error)
    return report


async def _read_receipts(
    report: Report, emails: EmailsClient, progress: Callable[[str], None]
) -> dict[str, list[Receipt]] | None:
    """Return the receipts of every email with several recipients, None if the API does not offer them."""
    several = [each for each in report.emails.values() if each.recipients > 1]
    found: dict[str, list[Receipt]] = {}
    for email in several:
        receipts = await emails.list_receipts(email.id, RetryBudget(RETRIES))
        if receipts is None:
            return None
        found[email.id] = receipts
        progress(f"receipts of {len(found):,} of {len(several):,} emails so far")
    return found


async def find_operation(client: CommsClient, operation_id: str) -> Operation | None:
    """Return the operation, None if the account does not have it; raise a CommsError if it cannot be read."""
    try:
        client.url_of(operation_id)
    except ValueError:
        return None
    page = await client.operation(operation_id, RetryBudget(RETRIES))
    if page is None:
        return None
    if not page.operations:
        raise CommsError("bad_payload", "; ".join(page.malformed))
    return page.operations[0]


def why_not_found(operation_id: str, accounts: Sequence[str], *, now: float) -> str:
    """Return why the API may not have the operation, in one line."""
    if operation_id.startswith("comms_email_"):
        return f"{operation_id} is the id of an email, not of an operation"
    match = _OPERATION_ID.fullmatch(operation_id)
    if match is None:
        return f'there is no operation "{operation_id}": ids look like comms_operation_01h9krwprkeee8fzqspvwy6nq8'
    created = _created(match[1])
    if now - created > _RETENTION_SECONDS:
        return f"{operation_id} has expired: it is from {iso(created)}, and Twilio keeps operations for 7 days"
    found = f"account {accounts[0]} does not have" if len(accounts) == 1 else f"no account ({', '.join(accounts)}) has"
    return f"{found} {operation_id}: it may belong to another account"


def _created(ulid: str) -> float:
    """Return the time in the first ten characters of *ulid*."""
    milliseconds = 0
    for character in ulid[:10]:
        milliseconds = 32 * milliseconds + _CROCKFORD.index(character)
    return milliseconds / 1000


def as_text(report: Report, *, now: float, width: int) -> list[str]:
    """Return the report as lines for a terminal."""
    sections = [_heading(report, now), _funnel(report, width), _timeline(report, width)]
    if report.counted_as_lost or report.lost:
        sections += [
            _breakdown("LOST BY RECIPIENT DOMAIN", report.lost, lambda each: [each.recipient_domain], width),
            _breakdown("LOST BY SENDER DOMAIN", report.lost, lambda each: [each.sender_domain], width),
            _breakdown("LOST BY TAG", report.lost, lambda each: [f"{key}:{value}" for key, value in each.tags], width),
            _errors(report, width),
        ]
    sections += [_notes(report, width)]
    if report.with_all_emails:
        sections += [_emails(report, now, width), _receipts(report, width)]
    lines: list[str] = []
    for section in filter(None, sections):
        lines += ["", *section] if lines else section
    return lines


def _heading(report: Report, now: float) -> list[str]:
    operation = report.operation
    return [
        f"operation  {operation.id}",
        f"account    {report.account}",
        f"status     {operation.status}",
        f"created    {iso(operation.created)} ({age(now - operation.created)} ago)",
        f"updated    {iso(operation.updated)} ({age(now - operation.updated)} ago)",
    ]


def _funnel(report: Report, width: int) -> list[str]:
    stats = report.operation.stats
    stages = dict(zip(REACHED, reached(stats, detect_reading(stats)), strict=True))
    waiting = (stat(stats, "scheduled") or 0) + (stat(stats, "queued") or 0)
    total = stages["total"]
    rows = [["emails", f"{total:,}", ""], ["waiting", f"{waiting:,}", share(waiting, total)]]
    rows += [[name, f"{stages[name]:,}", share(stages[name], total)] for name in _STAGES]
    return table(["STAGE", "EMAILS", "SHARE"], rows, width=width)


def _timeline(report: Report, width: int) -> list[str]:
    operation = report.operation
    times: dict[str, list[float]] = {}
    for email in report.emails.values():
        if email.updated_at is not None:
            times.setdefault(email.status, []).append(email.updated_at)
    events = [(operation.created, "operation created"), (operation.updated, "operation last updated")]
    for status, moments in times.items():
        events.append((min(moments), f"first email {status}"))
        if len(moments) > 1:
            events.append((max(moments), f"last email {status}"))
    rows = [[iso(moment), f"+{age(moment - operation.created)}", what] for moment, what in sorted(events)]
    return table(["TIME", "AFTER", "EVENT"], rows, width=width)


def _breakdown(title: str, emails: Sequence[Email], keys: Callable[[Email], Iterable[str]], width: int) -> list[str]:
    counts: Counter[str] = Counter()
    by_status: Counter[tuple[str, str]] = Counter()
    for email in emails:
        for key in keys(email):
            counts[key] += 1
            by_status[key, email.status] += 1
    if not counts:
        return []
    ranked = [key for key, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    rows = [
        [f"{by_status[key, 'FAILED']:,}", f"{by_status[key, 'UNDELIVERED']:,}", key or "(unknown)"]
        for key in ranked[:_MAX_ROWS]
    ]
    if rest := ranked[_MAX_ROWS:]:
        failed, undelivered = (sum(by_status[key, each] for key in rest) for each in ("FAILED", "UNDELIVERED"))
        rows.append([f"{failed:,}", f"{undelivered:,}", f"({len(rest):,} others)"])
    return table(["FAILED", "UNDELIVERED", title], rows, width=width)


def _errors(report: Report, width: int) -> list[str]:
    if report.errors is None:
        return [] if report.problems else ["The API does not say why emails failed: it does not offer /Errors."]
    if not report.errors:
        return ["The API says nothing about why emails failed: /Errors is empty."]
    ranked = Counter(report.errors).most_common(_MAX_ROWS)
    return table(["COUNT", "CODE", "ERROR"], [[f"{n:,}", each.code, each.message] for each, n in ranked], width=width)


def _notes(report: Report, width: int) -> list[str]:
    notes = []
    listed, counted = len(report.lost), report.counted_as_lost
    if listed != counted and not report.problems:
        notes.append([f"The operation counts {counted:,} lost emails, and the API lists {listed:,}."])
    if report.malformed:
        notes.append([f"{report.malformed:,} entries of the listing could not be read."])
    return table(["NOTE"], notes, width=width) if notes else []


def _emails(report: Report, now: float, width: int) -> list[str]:
    # Lost ones first, then the latest.
    emails = sorted(report.emails.values(), key=lambda each: (each.status not in LOST, -(each.updated_at or 0.0)))
    rows = [
        [each.status, "" if each.updated_at is None else age(now - each.updated_at), recipients(each, report), each.id]
        for each in emails
    ]
    return table(["STATUS", "AGE", "TO", "EMAIL"], rows, width=width)


def _receipts(report: Report, width: int) -> list[str]:
    if report.receipts is None:
        return [] if report.problems else ["The API does not offer /Receipts."]
    rows = [
        [each.status, each.code, each.recipient_domain, each.message, email_id]
        for email_id, receipts in report.receipts.items()
        for each in receipts
    ]
    return table(["RECEIPT", "CODE", "TO", "MESSAGE", "EMAIL"], rows, width=width) if rows else []


def recipients(email: Email, report: Report) -> str:
    """Return the recipients of *email*: their addresses if they are to be shown, or else the domain of the first."""
    if email.id in report.addresses:
        return ", ".join(report.addresses[email.id])
    more = f" and {email.recipients - 1} more" if email.recipients > 1 else ""
    return f"***@{email.recipient_domain}{more}" if email.recipient_domain else "(unknown)"


def as_json(report: Report) -> dict[str, object]:
    """Return the report as a JSON value; what the API does not offer is null."""
    operation = report.operation
    listed = report.emails.values() if report.with_all_emails else report.lost
    receipts = report.receipts
    return {
        "account": report.account,
        "id": operation.id,
        "status": operation.status,
        "created": iso(operation.created),
        "updated": iso(operation.updated),
        "stats": dict(zip(STATS, operation.stats, strict=True)),
        "lost": report.counted_as_lost,
        "complete": not report.problems,
        "malformed": report.malformed,
        "errors": None if report.errors is None else [each._asdict() for each in report.errors],
        "emails": [
            {
                "id": each.id,
                "status": each.status,
                "created": None if each.created_at is None else iso(each.created_at),
                "updated": None if each.updated_at is None else iso(each.updated_at),
                "to": recipients(each, report),
                "recipients": each.recipients,
                "recipient_domain": each.recipient_domain,
                "sender_domain": each.sender_domain,
                "tags": dict(each.tags),
                "receipts": None if receipts is None else [one._asdict() for one in receipts.get(each.id, [])],
            }
            for each in listed
        ],
    }


def _counted(operation: Operation, status: str) -> int:
    return stat(operation.stats, status.lower()) or 0
