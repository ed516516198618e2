"""Finds out, step by step, whether an account can be read, and says what to do where it cannot."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from comms_exporter.api.client import CommsClient, Query
from comms_exporter.api.errors import CommsError
from comms_exporter.api.payloads import Page
from comms_exporter.api.retries import RetryBudget
from comms_exporter.base.printable import printable
from comms_exporter.collect.poller import requests_per_hour
from comms_exporter.collect.state import RETENTION

# More than this between our clock and the API's, and windows of time are no longer what they seem.
BEARABLE_SKEW = 30.0

ADVICE = {
    "auth": "the credentials are refused: compare account SID and token (or API key and secret) with the Console",
    "forbidden": "the credentials may not read operations: a trial account, or an API key without the permission",
    "not_found": "nothing is there: --api.base-url should end in /v1",
    "bad_request": "the API refuses the question: try a smaller --api.page-size, and report this",
    "rate_limited": "the account is throttled: wait, then lower --api.max-requests-per-second",
    "server": "the trouble is Twilio's: see status.twilio.com, and try again",
    "timeout": "no answer: raise --api.timeout, or look at proxies and firewalls",
    "connection": "no connection: look at --api.base-url, proxies and firewalls",
    "tls": "the certificate is not trusted: give your proxy's authority with --api.ca-file",
    "bad_payload": "that is no answer of this API: does a proxy answer in its place?",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was looked at, and what to do where it is not good."""

    name: str
    good: bool
    found: str
    advice: str = ""


@dataclass(slots=True)
class Report:
    """All that was looked at for one account."""

    account: str
    steps: list[Step] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing stands in the way."""
        return all(step.good for step in self.steps)


async def check(
    account: str,
    *,
    base_url: str,
    client: CommsClient,
    interval: float,
    proxied: bool,
    mask: Callable[[str], str],
    clock: Callable[[], float] = time.time,
    resolve: Callable[[str, int], Awaitable[int]] | None = None,
) -> Report:
    """Look at everything between us and the operations of *account*, with one request."""
    report = Report(account, [Step("settings", True, f"good; asks {base_url} every {interval:g} s")])
    url = urlsplit(base_url)
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    if proxied:
        report.steps.append(Step("name", True, f"{host} is the proxy's to resolve"))
    else:
        report.steps.append(await _name(host, port, resolve or _resolve))
    page = await _page(report, client, secure=url.scheme == "https", mask=mask)
    if page is not None:
        report.steps += [_clock(client.now() - clock()), _budget(page, interval, client.page_size)]
    return report


async def _name(host: str, port: int, resolve: Callable[[str, int], Awaitable[int]]) -> Step:
    try:
        found = await resolve(host, port)
    except OSError as error:
        return Step("name", False, f"{host}: {error.strerror or error}", "look at --api.base-url and at the resolver")
    return Step("name", True, f"{host} has {found} address{'es' if found != 1 else ''}")


async def _resolve(host: str, port: int) -> int:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return len({address[4][0] for address in found})


async def _page(report: Report, client: CommsClient, *, secure: bool, mask: Callable[[str], str]) -> Page | None:
    """Ask for one page, and tell by its failure how far we came."""
    failure, page = None, None
    try:
        async for answer in client.pages(Query(created_after=client.now() - RETENTION), RetryBudget()):
            page = answer
            break
    except CommsError as error:
        failure = error
    stages = {
        "connection": ({"connection", "timeout"}, "the API answers"),
        "TLS": ({"tls"}, "the certificate is trusted" if secure else "not used: the API is asked over plain HTTP"),
        "credentials": ({"auth"}, "accepted"),
        "permission": ({"forbidden"}, "operations may be read"),
        "page": (set(ADVICE), f"{len(page.operations) if page else 0} operations on the first page"),
    }
    for name, (reasons, found) in stages.items():
        if failure is not None and failure.reason in reasons:
            report.steps.append(Step(name, False, mask(str(failure)), ADVICE[failure.reason]))
            break
        report.steps.append(Step(name, True, found))
    return page


def _clock(skew: float) -> Step:
    if abs(skew) <= BEARABLE_SKEW:
        return Step("clock", True, "agrees with the API's")
    found = f"{abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'} the API's"
    return Step("clock", False, found, "set this machine's clock, for example with NTP")


def _budget(page: Page, interval: float, page_size: int) -> Step:
    count = len(page.operations)
    if page.next is not None and count > 1:
        # The rest of the week goes on as this page does.
        created = [operation.created for operation in page.operations]
        count = round(count * RETENTION / max(1.0, max(created) - min(created)))
    a_day = 24 * requests_per_hour(count, interval=interval, page_size=page_size)
    about = "" if page.next is None else "about "
    return Step("requests", True, f"about {a_day:,.0f} a day, for {about}{count:,} operations a week")


def as_text(reports: list[Report]) -> str:
    """Return a table for people, on whose terminal nothing of it does more than appear."""
    lines = []
    for report in reports:
        lines.append(f"account {report.account}")
        for step in report.steps:
            lines.append(f"  {'ok  ' if step.good else 'FAIL'}  {step.name:<12} {step.found}")
            if step.advice:
                lines.append(f"  {'':<6}{'':<12}-> {step.advice}")
    return "\n".join(map(printable, lines))


def as_json(reports: list[Report]) -> list[dict[str, object]]:
    """Return the same for machines."""
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
