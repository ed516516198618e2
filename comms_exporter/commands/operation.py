"""The command `operation`: everything that the API says about one operation and its lost emails."""

import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from comms_exporter.api.client import CommsClient
from comms_exporter.api.email_payloads import DeliveryError, Receipt
from comms_exporter.api.emails import EmailFilter, EmailsClient
from comms_exporter.api.errors import CommsError
from comms_exporter.api.retries import RetryBudget
from comms_exporter.base.times import iso
from comms_exporter.commands.addresses import Addresses
from comms_exporter.commands.operations import RETRIES
from comms_exporter.commands.tables import GrowingTable, age, share, table
from comms_exporter.model.emails import LOST, STATUSES, Email
from comms_exporter.model.operations import STATS, Operation
from comms_exporter.model.providers import Providers
from comms_exporter.model.readings import REACHED, detect_reading, reached, stat

_OPERATION_ID = re.compile(r"comms_operation_([0-7][0-9a-hjkmnp-tv-z]{25,34})")
_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_RETENTION_SECONDS = 7 * 86400.0
# The rows of one breakdown; what is left is added up.
_MAX_ROWS = 10
_STAGES = ("sent", "delivered", "opened", "undelivered", "failed", "canceled")
# The widths of columns that are printed before all of their rows are known.
_STATUS_WIDTH = max(map(len, STATUSES))
_AGE_WIDTH = len("59m")
_EMAIL_ID_WIDTH = len("comms_email_01h9krwprkeee8fzqspvwy6nq8")


@dataclass(slots=True, kw_only=True)
class Report:
    """An operation and its lost emails, by id.

    *seen* are hashes of the ids of all emails that were listed, because a million ids would take much more memory. *times* are
    the first and the last change to each status, and how many there were. *errors* is None where the API does not have them, *no_receipts* how many
    of the emails with several recipients lack receipts. *problems* are the requests that failed.
    """

    account: str
    operation: Operation
    providers: Providers = field(default_factory=Providers)
    lost: dict[str, Email] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    times: dict[str, tuple[float, float, int]] = field(default_factory=dict)
    several_recipients: list[str] = field(default_factory=list)
    errors: list[DeliveryError] | None = None
    receipts: dict[str, list[Receipt]] = field(default_factory=dict)
    no_receipts: int = 0
    malformed: int = 0
    problems: list[CommsError] = field(default_factory=list)

    @property
    def counted_as_lost(self) -> int:
        """How many lost emails the operation counts."""
        return sum(_counted(self.operation, status) for status in LOST)

    def add(self, emails: Iterable[Email]) -> list[Email]:
        """Add *emails*, and return those that were not listed before."""
        new = []
        for email in emails:
            if hash(email.id) in self.seen:
                continue
            self.seen.add(hash(email.id))
            new.append(email)
            if email.status in LOST:
                self.lost[email.id] = email
            if email.recipients > 1:
                self.several_recipients.append(email.id)
            if (updated := email.updated_at) is not None:
                first, last, count = self.times.get(email.status, (updated, updated, 0))
                self.times[email.status] = min(first, updated), max(last, updated), count + 1
        return new


class ReportReader:
    """Asks the API about the operation of *report*, which is completed; the first request that fails is the last one."""

    def __init__(
        self, report: Report, emails: EmailsClient, *, show_addresses: bool = False, progress: Callable[[str], None]
    ) -> None:
        self.report = report
        self._emails = emails
        self._addresses = Addresses() if show_addresses else None
        self._progress = progress

    async def read_lost(self) -> None:
        """Read the lost emails, and why they were lost."""
        report = self.report
        for status in sorted(status for status in LOST if _counted(report.operation, status)):
            async for _ in self._list(status):
                pass
        if report.counted_as_lost and not report.problems:
            try:
                report.errors = await self._emails.list_errors(report.operation.id, RetryBudget(RETRIES))
            except CommsError as error:
                report.problems.append(error)

    async def read_others(self) -> AsyncIterator[list[Email]]:
        """Yield the emails that were not listed yet."""
        if not self.report.problems:
            # The lost ones are listed again.
            self.report.malformed = 0
            async for emails in self._list(None):
                yield emails

    async def read_receipts(self) -> None:
        """Read the receipts of the emails that have several recipients."""
        report = self.report
        several = report.several_recipients
        for count, email_id in enumerate(several):
            if report.problems or self._emails.offers_receipts() is False:
                break
            try:
                receipts = await self._emails.list_receipts(email_id, RetryBudget(RETRIES))
            except CommsError as error:
                report.problems.append(error)
            else:
                if receipts is not None:
                    report.receipts[email_id] = receipts
                self._progress(f"receipts of {count + 1:,} of {len(several):,} emails so far")
        report.no_receipts = len(several) - len(report.receipts)

    def recipients(self, email: Email) -> str:
        """Return the recipients of *email*: their addresses if they are to be shown, or else the domain of the first.

        The addresses are forgotten.
        """
        if self._addresses is not None and (addresses := self._addresses.by_email.pop(email.id, None)) is not None:
            return ", ".join(addresses)
        more = f" and {email.recipients - 1} more" if email.recipients > 1 else ""
        return f"***@{email.recipient_domain}{more}" if email.recipient_domain else "(unknown)"

    async def _list(self, status: str | None) -> AsyncIterator[list[Email]]:
        report = self.report
        budget = RetryBudget(RETRIES)
        listing = EmailFilter(operation_id=report.operation.id, status=status)
        on_body = None if self._addresses is None else self._addresses.read
        try:
            async for page in self._emails.list_emails(listing, budget, on_body=on_body):
                budget.retries_left = RETRIES
                report.malformed += len(page.malformed)
                yield report.add(page.emails)
                if page.next is not None:
                    self._progress(f"{len(report.seen):,} emails so far")
        except CommsError as error:
            report.problems.append(error)


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


async def print_text(
    reader: ReportReader, *, all_emails: bool, write: Callable[[Sequence[str]], None], now: float, width: int
) -> None:
    """Write the report as lines for a terminal, each part as soon as it is known."""
    report = reader.report
    write(_heading(report, now))

    def write_section(lines: Sequence[str]) -> None:
        if lines:
            write(["", *lines])

    write_section(_funnel(report, width))
    await reader.read_lost()
    for section in losses_as_text(report, width=width):
        write_section(section)
    if all_emails:
        rows = GrowingTable(
            ["STATUS", "AGE", "EMAIL", "TO"], least=(_STATUS_WIDTH, _AGE_WIDTH, _EMAIL_ID_WIDTH, 0), width=width
        )
        # The latest first, as the API lists the others.
        lost = sorted(report.lost.values(), key=lambda each: -(each.updated_at or 0.0))
        write_section(rows.lines([_email(reader, each, now) for each in lost]))
        async for emails in reader.read_others():
            write(rows.lines([_email(reader, each, now) for each in emails]))
        await reader.read_receipts()
        write_section(_receipts(report, width))
    write_section(_timeline(report, width))
    write_section(_notes(report, width))


async def read_json(reader: ReportReader, *, all_emails: bool) -> dict[str, object]:
    """Return the report as a JSON value; what the API does not have is null."""
    report = reader.report
    await reader.read_lost()
    emails = dict(report.lost)
    if all_emails:
        async for page in reader.read_others():
            emails |= {each.id: each for each in page}
        await reader.read_receipts()
    operation = report.operation
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
                "to": reader.recipients(each),
                "recipients": each.recipients,
                "recipient_domain": each.recipient_domain,
                "provider": report.providers.provider_of(each.recipient_domain),
                "sender_domain": each.sender_domain,
                "tags": dict(each.tags),
                "receipts": _receipts_as_json(report, each, asked=all_emails),
            }
            for each in emails.values()
        ],
    }


def losses_as_text(report: Report, *, width: int) -> list[list[str]]:
    """Return who is lost, by what they have in common, and why."""
    lost = list(report.lost.values())
    if not (report.counted_as_lost or lost):
        return []
    by: dict[str, Callable[[Email], Iterable[str]]] = {
        "PROVIDER": lambda each: [report.providers.provider_of(each.recipient_domain)],
        "RECIPIENT DOMAIN": lambda each: [each.recipient_domain],
        "SENDER DOMAIN": lambda each: [each.sender_domain],
        "TAG": lambda each: [f"{key}:{value}" for key, value in each.tags],
    }
    return [*(_breakdown(f"LOST BY {name}", lost, keys, width) for name, keys in by.items()), _errors(report, width)]


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
    events = [(operation.created, "operation created"), (operation.updated, "operation last updated")]
    for status, (first, last, count) in report.times.items():
        events.append((first, f"first email {status}"))
        if count > 1:
            events.append((last, f"last email {status}"))
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
        return (
            []
            if report.problems
            else ["The API does not say why emails failed: it does not have /Errors of this operation."]
        )
    if not report.errors:
        return ["The API says nothing about why emails failed: /Errors is empty."]
    ranked = Counter(report.errors).most_common(_MAX_ROWS)
    return table(["COUNT", "CODE", "ERROR"], [[f"{n:,}", each.code, each.message] for each, n in ranked], width=width)


def _notes(report: Report, width: int) -> list[str]:
    notes = []
    listed, counted = len(report.lost), report.counted_as_lost
    if report.no_receipts and not report.problems:
        notes.append([_missing_receipts(report)])
    if listed != counted and not report.problems:
        notes.append([f"The operation counts {counted:,} lost emails, and the API lists {listed:,}."])
    if report.malformed:
        notes.append([f"{report.malformed:,} entries of the listing could not be read."])
    return table(["NOTE"], notes, width=width) if notes else []


def _email(reader: ReportReader, email: Email, now: float) -> list[str]:
    updated = "" if email.updated_at is None else age(now - email.updated_at)
    return [email.status, updated, email.id, reader.recipients(email)]


def _missing_receipts(report: Report) -> str:
    if not report.receipts:
        return "The API does not have /Receipts of emails with several recipients."
    return f"The API does not have the receipts of {report.no_receipts:,} of {len(report.several_recipients):,} emails."


def _receipts(report: Report, width: int) -> list[str]:
    rows = [
        [each.status, each.code, each.recipient_domain, each.message, email_id]
        for email_id, receipts in report.receipts.items()
        for each in receipts
    ]
    return table(["RECEIPT", "CODE", "TO", "MESSAGE", "EMAIL"], rows, width=width) if rows else []


def _receipts_as_json(report: Report, email: Email, *, asked: bool) -> list[Mapping[str, str]] | None:
    if not asked or (email.recipients > 1 and email.id not in report.receipts):
        return None
    return [each._asdict() for each in report.receipts.get(email.id, [])]


def _counted(operation: Operation, status: str) -> int:
    return stat(operation.stats, status.lower()) or 0
