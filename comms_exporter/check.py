"""Test step by step whether an account can be read, and say how to fix what fails."""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from comms_exporter.api.client import CommsClient, Query
from comms_exporter.api.errors import CommsError
from comms_exporter.api.payloads import Page
from comms_exporter.api.retries import RetryBudget
from comms_exporter.base.printable import printable
from comms_exporter.collect.emails.cost import Traffic, email_requests_per_hour
from comms_exporter.collect.schedule import RETENTION, requests_per_hour
from comms_exporter.model.readings import REACHED, detect_reading, reached

# Of more accounts, text shows only what failed.
MANY_ACCOUNTS = 20
# Seconds. With more clock skew than this, polls list the wrong time window.
MAX_CLOCK_SKEW = 30.0

ADVICE = {
    "auth": "Twilio rejects the credentials: compare the account SID and auth token (or API key and secret) with the Console",
    "forbidden": "the credentials have no permission to read operations: upgrade a trial account, or give the API key email permissions",
    "not_found": "the URL does not exist: check that --api.base-url ends in /v1",
    "bad_request": "the API rejects the request: try a smaller --api.page-size, and report this",
    "rate_limited": "Twilio limits the account's requests: lower --api.max-requests-per-second or raise --collect.interval",
    "server": "a problem at Twilio: check status.twilio.com and try again later",
    "timeout": "no response in time: raise --api.timeout, or check proxies and firewalls",
    "connection": "cannot connect: check --api.base-url, DNS, proxies and firewalls",
    "tls": "the certificate is not trusted: if a proxy intercepts TLS, set --api.ca-file to its CA certificate",
    "bad_payload": "this is not a response of the API: check --api.base-url, and whether a proxy responds in its place",
}


@dataclass(frozen=True, slots=True)
class Step:
    """The result of one test, and how to fix it if it failed."""

    name: str
    good: bool
    found: str
    advice: str = ""


@dataclass(slots=True)
class Report:
    """The results of all tests of one account."""

    account: str
    steps: list[Step] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether all tests passed."""
        return all(step.good for step in self.steps)


async def check(
    account: str,
    *,
    base_url: str,
    client: CommsClient,
    interval: float,
    emails_collect: str,
    emails_interval: float,
    proxied: bool,
    mask: Callable[[str], str],
    clock: Callable[[], float] = time.time,
    resolve: Callable[[str, int], Awaitable[int]] | None = None,
) -> Report:
    """Run all tests for *account* with one API request."""
    report = Report(account, [Step("settings", True, f"valid; polls {base_url} every {interval:g} s")])
    url = urlsplit(base_url)
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    if proxied:
        report.steps.append(Step("DNS", True, f"the proxy resolves {host}"))
    else:
        report.steps.append(await _test_dns(host, port, resolve or _resolve))
    page = await _request_page(report, client, secure=url.scheme == "https", mask=mask)
    if page is not None:
        week = _extrapolate(page)
        report.steps += [
            _test_clock(client.now() - clock()),
            _estimate_requests(week, interval, client.page_size, about=page.next is not None),
            _estimate_email_requests(
                week, emails_collect, interval=max(interval, emails_interval), page_size=client.page_size
            ),
        ]
    return report


async def _test_dns(host: str, port: int, resolve: Callable[[str, int], Awaitable[int]]) -> Step:
    try:
        found = await resolve(host, port)
    except OSError as error:
        return Step("DNS", False, f"{host}: {error.strerror or error}", "check --api.base-url and DNS")
    return Step("DNS", True, f"{host} has {found} address{'es' if found != 1 else ''}")


async def _resolve(host: str, port: int) -> int:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return len({address[4][0] for address in found})


async def _request_page(
    report: Report, client: CommsClient, *, secure: bool, mask: Callable[[str], str]
) -> Page | None:
    """Request one page; derive from a failure which tests passed before it."""
    failure, page = None, None
    try:
        async for answer in client.pages(Query(created_after=client.now() - RETENTION), RetryBudget()):
            page = answer
            break
    except CommsError as error:
        failure = error
    stages = {
        "connection": ({"connection", "timeout"}, "connected"),
        "TLS": ({"tls"}, "the certificate is trusted" if secure else "not used: --api.base-url is plain HTTP"),
        "credentials": ({"auth"}, "accepted"),
        "permission": ({"forbidden"}, "can read operations"),
        "page": (set(ADVICE), f"{len(page.operations) if page else 0} operations on the first page"),
    }
    for name, (reasons, found) in stages.items():
        if failure is not None and failure.reason in reasons:
            report.steps.append(Step(name, False, mask(str(failure)), ADVICE[failure.reason]))
            break
        report.steps.append(Step(name, True, found))
    return page


def _test_clock(skew: float) -> Step:
    if abs(skew) <= MAX_CLOCK_SKEW:
        return Step("clock", True, "in sync with the API")
    found = f"{abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'} the API"
    return Step("clock", False, found, "set this machine's clock, for example with NTP")


def _extrapolate(page: Page) -> Traffic:
    """Return what a week of operations sends, judged by the first page."""
    operations = page.operations
    weeks = 1.0
    if page.next is not None and len(operations) > 1:
        created = [operation.created for operation in operations]
        weeks = max(1.0, max(created) - min(created)) / RETENTION
    sums = dict.fromkeys(REACHED, 0)
    for operation in operations:
        for name, count in zip(REACHED, reached(operation.stats, detect_reading(operation.stats)), strict=True):
            sums[name] += count
    emails, opened, undelivered, failed = (sums[name] for name in ("total", "opened", "undelivered", "failed"))
    return Traffic(*(each / weeks for each in (len(operations), emails, opened, undelivered, failed)))


def _estimate_requests(week: Traffic, interval: float, page_size: int, *, about: bool) -> Step:
    count = round(week.operations)
    a_day = 24 * requests_per_hour(count, interval=interval, page_size=page_size)
    return Step(
        "requests",
        True,
        f"about {a_day:,.0f} requests a day for {'about ' if about else ''}{count:,} operations a week",
    )


def _estimate_email_requests(week: Traffic, collect: str, *, interval: float, page_size: int) -> Step:
    lost, everything = (
        24 * email_requests_per_hour(week, all_stages=all_stages, interval=interval, page_size=page_size)
        for all_stages in (False, True)
    )
    needs = f"lost takes about {lost:,.0f} more requests a day, all {everything:,.0f}"
    return Step("emails", True, f"--emails.collect is {collect}; {needs}, for {week.emails:,.0f} emails a week")


def as_text(reports: list[Report]) -> str:
    """Return the reports as text, escaped for a terminal; of many, only what failed, and how many did not."""
    if len(reports) <= MANY_ACCOUNTS:
        lines = [line for report in reports for line in _report_lines(report, report.steps)]
    else:
        lines = [line for report in _failed(reports) for line in _report_lines(report, _failed_steps(report))]
        lines.append(_summary(reports))
    return "\n".join(map(printable, lines))


def _failed(reports: list[Report]) -> list[Report]:
    """Return the reports of accounts with a failed step; those that fail alike stand together."""
    failed = [report for report in reports if not report.good]
    return sorted(failed, key=lambda report: _failed_steps(report)[0].name)


def _failed_steps(report: Report) -> list[Step]:
    return [step for step in report.steps if not step.good]


def _report_lines(report: Report, steps: list[Step]) -> Iterator[str]:
    yield f"account {report.account}"
    for step in steps:
        yield f"  {'ok  ' if step.good else 'FAIL'}  {step.name:<12} {step.found}"
        if step.advice:
            yield f"  {'':<6}{'':<12}-> {step.advice}"


def _summary(reports: list[Report]) -> str:
    """Return for example "5,000 accounts: 4,993 ok, 7 failed (credentials 5, connection 2)"."""
    by_step = Counter(_failed_steps(report)[0].name for report in reports if not report.good)
    failed = by_step.total()
    steps = f" ({', '.join(f'{name} {count:,}' for name, count in by_step.most_common())})" if failed else ""
    return f"{len(reports):,} accounts: {len(reports) - failed:,} ok, {failed:,} failed{steps}"


def as_json(reports: list[Report]) -> list[dict[str, object]]:
    """Return the reports as JSON values."""
    return [
        {
            "account": report.account,
            "good": report.good,
            "steps": [
                {"name": step.name, "good": step.good, "found": step.found, "advice": step.advice}
                for step in report.steps
            ],
        }
        for report in reports
    ]
