"""Render the status page from template.html, and an operation's own page from operation.html."""

from collections import Counter
from collections.abc import Sequence
from shlex import quote
from typing import NamedTuple, get_args
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined

from comms_exporter.base.slices import Steps, batched
from comms_exporter.base.times import EARLIEST, LATEST, as_utc, iso
from comms_exporter.web.status_page.assets import ICON, SCRIPT, STYLE
from comms_exporter.web.status_page.model import (
    STUCK_SECONDS,
    Funnel,
    Health,
    OperationDetail,
    OperationRow,
    Status,
)
from comms_exporter.web.status_page.search import (
    ACCOUNTS_PAGE_SIZE,
    MAX_SEARCH_LENGTH,
    SORTS,
    Search,
    SearchResult,
    find_accounts,
)

REFRESH_SECONDS = 10

# The template comes in pieces, some 25 for each account: this many take about half a millisecond.
_PIECES_IN_A_STEP = 2048
_KNOWN_STATUSES = frozenset({"SCHEDULED", "PROCESSING", "COMPLETED", "CANCELED"})


class Segment(NamedTuple):
    """A part of an operation's bar; both numbers are percent of the bar's width."""

    name: str
    left: float
    width: float


class Line(NamedTuple):
    """One line of a chart; *points* are as in an SVG polyline."""

    name: str
    points: str


def render_page(status: Status, result: SearchResult) -> Steps[str]:
    """Return the page as HTML, with the operations of *result*."""
    accounts = yield from find_accounts(status.accounts, result.search)
    names = accounts.names
    selected = result.search.account
    pieces = _template.generate(
        now=status.now,
        version=status.version,
        telemetry_path=status.telemetry_path,
        result=result,
        search=result.search,
        accounts=accounts,
        # A link may name an account that no longer exists. The form still shows the search.
        account_names=[*names, selected] if selected and selected not in names else names,
        health_counts=accounts.health_counts,
        hidden=accounts.hidden,
        shared=status.shared,
        max_elsewhere=ACCOUNTS_PAGE_SIZE,
        refresh_seconds=REFRESH_SECONDS,
    )
    html: list[str] = []
    for batch in batched(pieces, _PIECES_IN_A_STEP):
        html += batch
        yield
    return "".join(html)


def render_operation(detail: OperationDetail) -> str:
    """Return the page of one operation as HTML."""
    return _operation_template.render(
        operation=detail,
        now=detail.now,
        version=detail.version,
        account_url=Search(account=detail.account).url(),
        refresh_seconds=REFRESH_SECONDS,
    )


def operation_url(row: OperationRow) -> str:
    """Return the address of the operation's page, relative to the status page."""
    return f"./operation?{urlencode({'account': row.account, 'id': row.id})}"


def chart_lines(detail: OperationDetail, now: float) -> list[Line]:
    """Return the lines of an operation's chart, 1000 wide and 200 high; they rise when a change was seen."""
    history = detail.history
    start = history[0].time
    seconds = max(now - start, 1.0)
    values = {
        "sent": [each.funnel.sent for each in history],
        "delivered": [each.funnel.delivered for each in history],
        "opened": [each.funnel.opened for each in history],
        "bad": [each.funnel.failed + each.funnel.undelivered for each in history],
    }
    highest = max(1, *map(max, values.values()))
    # Both ends leave room for the width of a line.
    columns = [1000 * min(max(each.time - start, 0) / seconds, 1) for each in history]
    lines = []
    for name, counts in values.items():
        heights = [197 - 194 * count / highest for count in counts]
        corners = [(columns[0], heights[0])]
        for column, before, height in zip(columns[1:], heights, heights[1:], strict=False):
            corners += [(column, before), (column, height)]
        corners.append((1000, heights[-1]))
        lines.append(Line(name, " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)))
    return lines


def format_share(percent: float) -> str:
    """Return a share so that neither a small one looks like none, nor nearly all like all."""
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %"


def format_duration(seconds: float) -> str:
    """Return *seconds* in readable form, in at most two units."""
    seconds = int(max(0.0, min(seconds, LATEST - EARLIEST)))
    if seconds < 60:
        return f"{seconds} s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 60:
        return f"{minutes} min"
    if hours < 10:
        return f"{hours} h {minutes % 60} min" if minutes % 60 else f"{hours} h"
    if hours < 48:
        return f"{hours} h"
    return f"{days} days"


def bar_segments(funnel: Funnel) -> list[Segment]:
    """Return the parts of an operation's bar from left to right; together they are never wider than the bar."""
    failures = funnel.failed + funnel.undelivered
    counts = {
        "opened": funnel.opened,
        "delivered": funnel.delivered - funnel.opened,
        "sent": funnel.sent - funnel.delivered - funnel.undelivered,
        "bad": failures,
    }
    # Counters are read one page at a time and need not add up.
    whole = max(funnel.total, sum(max(0, count) for count in counts.values()), 1)
    segments: list[Segment] = []
    left = 0.0
    for name, count in counts.items():
        if count > 0:
            # A few failures among a million emails would be thinner than a pixel, but they matter most.
            width = max(100 * count / whole, 1.0 if name == "bad" else 0.0)
            left = min(left, 100 - width)
            segments.append(Segment(name, left, width))
            left += width
    return segments


def _summary(counts: Counter[Health]) -> str:
    """Return for example "2 healthy, 1 failing"."""
    total = counts.total()
    if not total:
        return "No accounts are configured."
    order: Sequence[Health] = ("healthy", "failing", "stopped", "starting")
    return ", ".join(
        f"{'all ' if counts[health] == total > 1 else ''}{counts[health]:,} {health}"
        for health in order
        if counts[health]
    )


def _number(number: float) -> str:
    return f"{number:,.0f}" if isinstance(number, float) else f"{number:,}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}{'' if text.endswith(('.', '?')) else '.'}"


def _status_class(status: str) -> str:
    return status.lower() if status in _KNOWN_STATUSES else "other"


_environment = Environment(
    # The files live beside this module. auto_reload would look for changes at every request.
    loader=PackageLoader("comms_exporter.web.status_page", "."),
    auto_reload=False,
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= {
    "clock": lambda moment: as_utc(moment).strftime("%H:%M:%S UTC"),
    "duration": format_duration,
    "lines": chart_lines,
    "operation_url": operation_url,
    "share": format_share,
    "shell_word": quote,
    "iso": iso,
    "number": _number,
    "percent": "{:.2f}".format,
    "segments": bar_segments,
    "sentence": _sentence,
    "status_class": _status_class,
    "summary": _summary,
    "utc": lambda moment: as_utc(moment).strftime("%Y-%m-%d %H:%M:%S UTC"),
}
_environment.globals |= {
    "icon": ICON,
    "healths": get_args(Health),
    "many_accounts": ACCOUNTS_PAGE_SIZE,
    "max_search_length": MAX_SEARCH_LENGTH,
    "script": SCRIPT,
    "sorts": SORTS,
    "stuck_seconds": STUCK_SECONDS,
    "style": STYLE,
}
_template = _environment.get_template("template.html")
_operation_template = _environment.get_template("operation.html")
