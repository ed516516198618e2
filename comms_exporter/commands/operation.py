"""The command `operation`: everything that the API says about one operation and its lost emails."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from comms_exporter.api.client import CommsClient
from comms_exporter.api.email_payloads import DeliveryError, Receipt
from comms_exporter.api.emails import EmailFilter, EmailsClient
from comms_exporter.api.errors import CommsError
from comms_exporter.api.retries import RetryBudget
from comms_exporter.base.times import iso
from comms_exporter.commands.addresses import Addresses
from comms_exporter.commands.email import email_as_json, receipts_as_text, recipients_of
from comms_exporter.commands.operations import RETRIES
from comms_exporter.commands.tables import GrowingTable, age, share, table
from comms_exporter.model.emails import LOST, STATUSES, Email
from comms_exporter.model.operations import STATS, Operation
from comms_exporter.model.providers import Providers
from comms_exporter.model.readings import REACHED, detect_reading, reached, stat

# The rows of one breakdown; what is left is added up.
_MAX_ROWS = 10
_STAGES = ("sent", "delivered", "opened", "undelivered", "failed", "canceled")
# The widths of columns that are printed before all of their rows are known.
_STATUS_WIDTH = max(map(len, STATUSES))
_AGE_WIDTH = len("59m")
_EMAIL_ID_WIDTH = len("comms_email_01h9krwprkeee8fzqspvwy6nq8")


@dataclass(slots=True, kw_only=True)
class Report:
    """An operation, and what is known of its emails.

    *lost* are the lost ones by id, for the text only. *seen* are hashes of the ids of all emails that were listed, because a
    million ids would take much more memory. *times* are the first and the last change to each status, and how many there were.
    *errors* is None where the API does not have them. *problems* are the requests that failed.
    """

    account: str
    operation: Operation
    providers: Providers = field(default_factory=Providers)
    lost: dict[str, Email] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    times: dict[str, tuple[float, float, int]] = field(default_factory=dict)
    errors: list[DeliveryError] | None = None
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
            if (updated := email.updated_at) is not None:
                first, last, count = self.times.get(email.status, (updated, updated, 0))
                self.times[email.status] = min(first, updated), max(last, updated), count + 1
        return new


class ReportReader:
    """Asks the API about the operation of *report*, which is completed. When a listing fails, nothing more is listed."""

    def __init__(
        self, report: Report, emails: EmailsClient, *, show_addresses: bool = False, progress: Callable[[str], None]
    ) -> None:
        self.report = report
        self._emails = emails
        self._addresses = Addresses() if show_addresses else None
        self._progress = progress
        self._lists = True
        self._asks_for_receipts = True
        self._receipts = 0

    async def read_lost(self) -> AsyncIterator[list[Email]]:
        """Yield the lost emails, then read why they were lost."""
        report = self.report
        for status in sorted(status for status in LOST if _counted(report.operation, status)):
            async for emails in self._list(status):
                yield emails
        if report.counted_as_lost and self._lists:
            try:
                report.errors = await self._emails.list_errors(report.operation.id, RetryBudget(RETRIES))
            except CommsError as error:
                self._lists = False
                report.problems.append(error)

    async def read_others(self) -> AsyncIterator[list[Email]]:
        """Yield the emails that were not listed yet."""
        if self._lists:
            # The lost ones are listed again.
            self.report.malformed = 0
            async for emails in self._list(None):
                yield emails
                if self._addresses is not None:
                    # Those of emails that were listed before.
                    self._addresses.by_email.clear()

    async def read_receipts(self, email_ids: Iterable[str]) -> dict[str, list[Receipt]]:
        """Return the receipts of emails, which have several recipients; what the API does not have is left out."""
        found: dict[str, list[Receipt]] = {}
        for email_id in email_ids:
            if not self._asks_for_receipts or self._emails.offers_receipts() is False:
                break
            try:
                receipts = await self._emails.list_receipts(email_id, RetryBudget(RETRIES))
            except CommsError as error:
                self._asks_for_receipts = False
                self.report.problems.append(error)
                break
            if receipts is not None:
                found[email_id] = receipts
            self._receipts += 1
            self._progress(f"receipts of {self._receipts:,} emails so far")
        return found

    def recipients(self, email: Email) -> str:
        """Return the recipients of *email* as they are to be shown; their addresses are forgotten."""
        return recipients_of(email, self._addresses)

    async def _list(self, status: str | None) -> AsyncIterator[list[Email]]:
        if not self._lists:
            return
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
            self._lists = False
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
    async for emails in reader.read_lost():
        report.lost |= {each.id: each for each in emails}
    for section in losses_as_text(report, width=width):
        write_section(section)
    if all_emails:
        rows = GrowingTable(
            ["STATUS", "AGE", "EMAIL", "TO"], least=(_STATUS_WIDTH, _AGE_WIDTH, _EMAIL_ID_WIDTH, 0), width=width
        )
        # The latest first, as the API lists the others.
        lost = sorted(report.lost.values(), key=lambda each: -(each.updated_at or 0.0))
        write_section(rows.lines([_email(reader, each, now) for each in lost]))
        several = [each.id for each in lost if each.recipients > 1]
        async for emails in reader.read_others():
            write(rows.lines([_email(reader, each, now) for each in emails]))
            several += [each.id for each in emails if each.recipients > 1]
        receipts = await reader.read_receipts(several)
        write_section(receipts_as_text(receipts, width=width))
        if len(receipts) < len(several) and not report.problems:
            write_section(_missing_receipts(len(receipts), len(several), width))
    write_section(_timeline(report, width))
    write_section(_notes(report, width))


async def print_json(reader: ReportReader, *, all_emails: bool, write: Callable[[Sequence[str]], None]) -> None:
    """Write the report as a JSON object, each page of emails as soon as it is read; what the API does not have is null."""
    report = reader.report
    operation = report.operation
    head = {
        "account": report.account,
        "id": operation.id,
        "status": operation.status,
        "created": iso(operation.created),
        "updated": iso(operation.updated),
        "stats": dict(zip(STATS, operation.stats, strict=True)),
        "lost": report.counted_as_lost,
    }
    *lines, last, _ = json.dumps(head, indent=2).splitlines()
    write([*lines, f"{last},", '  "emails": ['])
    # Whether a comma follows a line is known when the next one is.
    held: list[str] = []
    async for emails in _pages(reader, all_emails=all_emails):
        several = [each.id for each in emails if each.recipients > 1] if all_emails else []
        receipts = await reader.read_receipts(several)
        for email in emails:
            entry = email_as_json(
                email,
                to=reader.recipients(email),
                provider=report.providers.provider_of(email.recipient_domain),
                receipts=(receipts.get(email.id) if email.recipients > 1 else []) if all_emails else None,
            )
            held.append(f"    {json.dumps(entry)}")
        write([f"{line}," for line in held[:-1]])
        del held[:-1]
    write(held)
    tail = {
        "errors": None if report.errors is None else [each._asdict() for each in report.errors],
        "malformed": report.malformed,
        "complete": not report.problems,
    }
    write(["  ],", *json.dumps(tail, indent=2).splitlines()[1:]])


async def _pages(reader: ReportReader, *, all_emails: bool) -> AsyncIterator[list[Email]]:
    async for emails in reader.read_lost():
        yield emails
    if all_emails:
        async for emails in reader.read_others():
            yield emails


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
    if listed != counted and not report.problems:
        notes.append([f"The operation counts {counted:,} lost emails, and the API lists {listed:,}."])
    if report.malformed:
        notes.append([f"{report.malformed:,} entries of the listing could not be read."])
    return table(["NOTE"], notes, width=width) if notes else []


def _email(reader: ReportReader, email: Email, now: float) -> list[str]:
    updated = "" if email.updated_at is None else age(now - email.updated_at)
    return [email.status, updated, email.id, reader.recipients(email)]


def _missing_receipts(found: int, several: int, width: int) -> list[str]:
    note = f"The API does not have the receipts of {several - found:,} of {several:,} emails."
    if not found:
        note = "The API does not have /Receipts of emails with several recipients."
    return table(["NOTE"], [[note]], width=width)


def _counted(operation: Operation, status: str) -> int:
    return stat(operation.stats, status.lower()) or 0
