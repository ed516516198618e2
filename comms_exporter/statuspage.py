"""The page for people who came to look: plain values in, HTML out.

What the page needs beside itself, a style sheet and a script, is here too, so that nothing is asked of anyone else.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from html import escape
from itertools import zip_longest
from typing import NamedTuple
from urllib.parse import urlencode

from comms_exporter.slices import SIZE, Steps, parts
from comms_exporter.times import EARLIEST, LATEST, as_utc, iso

PAGE_SIZE = 50
REFRESH_SECONDS = 10
# An unfinished operation that has not changed for so long is worth a look.
STUCK_SECONDS = 3600.0
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SORTS = {"worst": "Worst and stuck", "stuck": "Stuck", "newest": "Newest"}

_LONGEST_SEARCH = 200
_MOST_FOUND = 64
_KNOWN_STATUSES = frozenset({"SCHEDULED", "PROCESSING", "COMPLETED", "CANCELED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """How one account's polls are going.

    *good* is None before the first poll has ended; *next_poll_seconds* is 0 while a poll is under way.
    """

    name: str
    good: bool | None
    alive: bool = True
    success_age_seconds: float | None = None
    reason: str = ""
    message: str = ""
    advice: str = ""
    next_poll_seconds: float = 0.0
    requests_a_day: float = 0.0
    tracked: int = 0
    hidden: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """How many of an operation's emails reached a stage; who reached a later one is counted in those before too."""

    total: int
    sent: int
    delivered: int
    opened: int
    failed: int
    undelivered: int
    canceled: int


class Watched(NamedTuple):
    """What it takes to find an operation and put it in its place; only those on the page are asked for their *funnel*."""

    account: str
    id: str
    status: str
    finished: bool
    created: float
    updated: float
    trouble: int
    funnel: Callable[[], Funnel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """All that the page says; *operations* are collected by whoever goes through them."""

    version: str
    now: float
    telemetry_path: str
    accounts: Sequence[Account] = ()
    operations: Iterable[Watched] = ()


@dataclass(frozen=True, slots=True)
class Search:
    """What is asked of the page."""

    text: str = ""
    account: str = ""
    sort: str = "worst"
    page: int = 1

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Search":
        """Return what *query* asks for; what makes no sense in it asks for nothing."""
        page = query.get("page", "")
        sort = query.get("sort", "")
        return cls(
            _text(query.get("q", "")).strip()[:_LONGEST_SEARCH],
            _text(query.get("account", "")),
            sort if sort in SORTS else "worst",
            max(1, int(page)) if re.fullmatch("[0-9]{1,9}", page) else 1,
        )

    def url(self, **changes: str | int) -> str:
        """Return the address of the page that is asked for with *changes*, relative to the status page."""
        wanted: dict[str, str | int] = {
            "q": self.text,
            "account": self.account,
            "sort": self.sort,
            "page": self.page,
            **changes,
        }
        usual = {"q": "", "account": "", "sort": "worst", "page": 1}
        query = urlencode({key: value for key, value in wanted.items() if value != usual[key]})
        return f"./?{query}" if query else "./"

    def finds(self, operation: Watched) -> bool:
        """Whether *operation* is among those that are asked for."""
        if self.account and operation.account != self.account:
            return False
        if not self.text:
            return True
        text = self.text.casefold()
        return any(text in each.casefold() for each in (operation.id, operation.status, operation.account))


# The key of an operation, and its number, lest two of the same key be compared themselves.
_Ranked = tuple[tuple[float | str, ...], int, Watched]


@dataclass(slots=True)
class Found:
    """The operations that a search found, in order, and those of them that are on the page."""

    search: Search
    shown: list[Watched] = field(default_factory=list)
    watched: int = 0
    found: int = 0
    troubled: int = 0
    stuck: int = 0

    @property
    def pages(self) -> int:
        """How many pages there are; none is one empty page."""
        return max(1, -(-self.found // PAGE_SIZE))

    @property
    def page(self) -> int:
        """The page that is shown: the last one where a later one was asked for."""
        return min(self.search.page, self.pages)

    @property
    def first(self) -> int:
        """The number of the first operation on the page, from 0."""
        return (self.page - 1) * PAGE_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A file that the page needs, at a path that changes with what is in it."""

    name: str
    content_type: str
    text: str

    @property
    def url(self) -> str:
        """Where the page finds it, relative to the page: a copy in a cache is never one of another version."""
        return f"static/{self.name}?{sha256(self.text.encode()).hexdigest()[:12]}"


class Listing:
    """The operations as they were at one moment, for everybody who looks, and what was found among them."""

    def __init__(self, operations: Sequence[Watched], now: float) -> None:
        self._operations = operations
        self._now = now
        self._found: dict[Search, Found] = {}

    @classmethod
    def collect(cls, operations: Iterable[Watched], now: float) -> "Steps[Listing]":
        """Return a listing of *operations*."""
        collected: list[Watched] = []
        for part in parts(operations):
            collected += part
            yield
        return cls(collected, now)

    def find(self, search: Search) -> Steps[Found]:
        """Return what *search* finds; it is searched and ordered once, however many ask the same."""
        known = self._found.get(search)
        if known is not None:
            return known
        answer = Found(search, watched=len(self._operations))
        hits: list[Watched] = []
        for part in parts(self._operations):
            hits += [each for each in part if search.finds(each)]
            yield
        answer.found = len(hits)
        end = answer.first + PAGE_SIZE
        first = _First(end, _KEYS[search.sort])
        stuck = _First(end, _by_patience)
        for part in parts(hits):
            first.add(part)
            waiting = [each for each in part if _stuck(each, self._now)]
            if search.sort == "worst":
                stuck.add(waiting)
            answer.stuck += len(waiting)
            answer.troubled += sum(each.trouble > 0 for each in part)
            yield
        # They take turns, so that a hundred with failures do not bury the one that does not move.
        turns = (each for pair in zip_longest(first.taken(), stuck.taken()) for each in pair if each is not None)
        order = list({id(each): each for each in turns}.values())
        answer.shown = order[answer.first : end]
        if len(self._found) < _MOST_FOUND:
            self._found[search] = answer
        return answer


class _First:
    """The first *count* operations by *key*; to sort them all would take long where there are many."""

    def __init__(self, count: int, key: Callable[[Watched], tuple[float | str, ...]]) -> None:
        self._count = count
        self._key = key
        self._sorted: list[_Ranked] = []
        self._new: list[_Ranked] = []
        self._added = 0

    def add(self, operations: Sequence[Watched]) -> None:
        self._new += [(self._key(each), number, each) for number, each in enumerate(operations, self._added)]
        self._added += len(operations)
        if len(self._new) > max(4 * SIZE, self._count // 4):
            self._sort()

    def taken(self) -> list[Watched]:
        self._sort()
        return [each for _, _, each in self._sorted]

    def _sort(self) -> None:
        if len(self._sorted) == self._count:
            last = self._sorted[-1]
            self._new = [each for each in self._new if each < last]
        # What is in order already is only merged.
        self._sorted = sorted(self._sorted + sorted(self._new))[: self._count]
        self._new = []


def status_page(status: Status, answer: Found) -> str:
    """Return the page as HTML, with the operations of *answer*."""
    search = answer.search
    return _PAGE.format(
        css=escape(STYLE.url),
        js=escape(SCRIPT.url),
        icon=escape(ICON.url),
        seconds=REFRESH_SECONDS,
        version=escape(status.version),
        title=escape(_title(status.accounts)),
        iso=iso(status.now),
        clock=as_utc(status.now).strftime("%H:%M:%S UTC"),
        summary=escape(_summary(status.accounts)),
        accounts="\n".join(map(_account, _worst_first(status.accounts))),
        form=_form(search, [each.name for each in status.accounts]),
        operations=_operations(answer, status),
        metrics=escape(f".{status.telemetry_path}"),
    )


def ago(seconds: float) -> str:
    """Return a span in the words people use for it, in two units at most."""
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


def _text(value: str) -> str:
    # A request line may hold bytes that are no UTF-8, which no page could be encoded with.
    return value.encode("utf-8", "replace").decode()


def _line(value: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in value)


def _stuck(operation: Watched, now: float) -> bool:
    # What is scheduled waits because it was told to.
    return not operation.finished and operation.status != "SCHEDULED" and now - operation.updated > STUCK_SECONDS


def _by_trouble(operation: Watched) -> tuple[int, bool, float, str]:
    return -operation.trouble, operation.finished, _longest_unchanged(operation), operation.id


def _by_patience(operation: Watched) -> tuple[bool, bool, float, str]:
    waits = operation.status == "SCHEDULED"
    return operation.finished, waits, _longest_unchanged(operation), operation.id


def _by_age(operation: Watched) -> tuple[float, str]:
    return -operation.created, operation.id


def _longest_unchanged(operation: Watched) -> float:
    # What is finished will not change again: there the newest is the one to look at.
    return -operation.updated if operation.finished else operation.updated


_KEYS = {"worst": _by_trouble, "stuck": _by_patience, "newest": _by_age}


# The accounts.


def _health(account: Account) -> str:
    if not account.alive:
        return "stopped"
    return {True: "good", False: "failing", None: "starting"}[account.good]


def _worst_first(accounts: Iterable[Account]) -> list[Account]:
    return sorted(accounts, key=lambda each: ("stopped", "failing", "starting", "good").index(_health(each)))


def _title(accounts: Iterable[Account]) -> str:
    bad = sum(_health(each) in {"failing", "stopped"} for each in accounts)
    return f"({bad} failing) comms-exporter" if bad else "comms-exporter"


def _summary(accounts: Sequence[Account]) -> str:
    if not accounts:
        return "No account is configured."
    counts = Counter(_health(each) for each in accounts)
    words = {"good": "in good health", "failing": "failing", "stopped": "stopped", "starting": "starting"}
    return ", ".join(
        f"{'all' if counts[key] == len(accounts) > 1 else ''} {counts[key]} {word}".strip()
        for key, word in words.items()
        if counts[key]
    )


def _account(account: Account) -> str:
    health = _health(account)
    since = None if account.success_age_seconds is None else ago(account.success_age_seconds)
    success = "No poll has succeeded since the start." if since is None else f"Last success {since} ago."
    words = {
        "good": success,
        "failing": f"The last poll failed. {success}",
        "stopped": f"The poll loop has stopped: restart the exporter. {success}",
        "starting": "The first poll is under way.",
    }
    wait = account.next_poll_seconds
    soon = "A poll is under way or due." if wait < 1 else f"Next poll in {ago(wait)}."
    facts = [
        "" if health == "stopped" else soon,
        f"About {account.requests_a_day:,.0f} requests a day.",
        f"{account.tracked:,} {_plural(account.tracked, 'operation')} of the last 7 days known.",
    ]
    return (
        f'<li class="account {health}"><h3><bdi>{escape(account.name)}</bdi> <span class="badge {health}">{health}</span></h3>'
        f"<p>{escape(words[health])}</p>{_problem(account)}"
        f'<p class="facts">{"" if health == "starting" else " ".join(filter(None, facts))}</p></li>'
    )


def _problem(account: Account) -> str:
    if not account.reason:
        return ""
    advice = f"<dt>What to do</dt><dd>{escape(_sentence(account.advice))}</dd>" if account.advice else ""
    return f"<dl><dt>Reason</dt><dd><code>{escape(account.reason)}</code> {escape(account.message)}</dd>{advice}</dl>"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}{'' if text.endswith(('.', '?')) else '.'}"


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"


# The operations.


def _form(search: Search, names: Sequence[str]) -> str:
    # A link may name an account that is no more: the form says what is searched.
    accounts = [*names, search.account] if search.account and search.account not in names else names
    options = "".join(_option(name, name, search.account) for name in accounts)
    sorts = "".join(_option(value, words, search.sort) for value, words in SORTS.items())
    return (
        '<form role="search" method="get" action="./">'
        f'<p><label for="q">Search id, status or account</label>'
        f'<input type="search" id="q" name="q" maxlength="{_LONGEST_SEARCH}" value="{escape(search.text)}" autocomplete="off" spellcheck="false"></p>'
        f'<p><label for="account">Account</label><select id="account" name="account">{_option("", "All accounts", search.account)}{options}</select></p>'
        f'<p><label for="sort">Show first</label><select id="sort" name="sort">{sorts}</select></p>'
        '<p class="actions"><button id="search">Search</button> <a id="clear" href="./">Clear</a></p></form>'
    )


def _option(value: str, words: str, chosen: str) -> str:
    return f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>{escape(words)}</option>'


def _operations(answer: Found, status: Status) -> str:
    hidden = sum(each.hidden for each in status.accounts)
    note = (
        f'<p class="facts">{hidden:,} more {_plural(hidden, "operation")} not watched one by one: raise <code>--collect.max-operations</code> to see them.</p>'
        if hidden
        else ""
    )
    if not answer.found:
        words = "Nothing matches the search." if answer.watched else "No operation is being watched."
        return f'<p class="empty">{words}</p>{note}'
    rows = "\n".join(_operation(each, status.now) for each in answer.shown)
    return (
        f'<p class="count">{_count(answer)}</p>{_LEGEND}'
        f'<ol class="operations" role="list" start="{answer.first + 1}">\n{rows}\n</ol>{_pager(answer)}{note}'
    )


def _count(answer: Found) -> str:
    first, last = answer.first + 1, answer.first + len(answer.shown)
    parts = [f"{first:,} to {last:,} of {answer.found:,} {_plural(answer.found, 'operation')}"]
    if answer.troubled:
        parts.append(f"{answer.troubled:,} with failures")
    if answer.stuck:
        url = escape(answer.search.url(sort="stuck", page=1))
        parts.append(f'<a id="stuck" href="{url}">{answer.stuck:,} unchanged for over {ago(STUCK_SECONDS)}</a>')
    return ", ".join(parts)


def _operation(operation: Watched, now: float) -> str:
    funnel = operation.funnel()
    known = operation.status.lower() if operation.status in _KNOWN_STATUSES else "other"
    created = iso(operation.created)
    waiting = (
        f' <span class="badge stuck">unchanged {ago(now - operation.updated)}</span>' if _stuck(operation, now) else ""
    )
    return (
        f'<li><div class="who"><bdi class="id">{escape(operation.id)}</bdi>'
        f'<span class="facts"><bdi>{escape(operation.account)}</bdi>, '
        f'<time datetime="{created}" title="created {created}">{ago(now - operation.created)} old</time></span></div>'
        f'<div class="what"><span class="badge {known}">{escape(operation.status.lower())}</span>{waiting}</div>'
        f'<div class="funnel">{_bar(funnel)}<p>{_numbers(funnel)}</p></div></li>'
    )


def _bar(funnel: Funnel) -> str:
    bad = funnel.failed + funnel.undelivered
    parts = {
        "opened": funnel.opened,
        "delivered": funnel.delivered - funnel.opened,
        "sent": funnel.sent - funnel.delivered - funnel.undelivered,
        "bad": bad,
    }
    # Counters are read one page at a time and need not add up: the bar is never longer than itself.
    whole = max(funnel.total, sum(max(0, count) for count in parts.values()), 1)
    rects, left = [], 0.0
    for name, count in parts.items():
        if count > 0:
            # A few failures among a million emails would be thinner than a pixel, and are why people look.
            width = max(100 * count / whole, 1.0 if name == "bad" else 0.0)
            left = min(left, 100 - width)
            rects.append(f'<rect class="{name}" x="{left:.2f}" width="{width:.2f}" height="8"/>')
            left += width
    return (
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="rest" width="100" height="8"/>{"".join(rects)}</svg>'
    )


def _numbers(funnel: Funnel) -> str:
    bad = funnel.failed + funnel.undelivered
    words = [
        f"{funnel.sent:,} sent",
        f"{funnel.delivered:,} delivered",
        f"{funnel.opened:,} opened",
        f'<strong class="bad">{bad:,} failed or undelivered</strong>' if bad else "none failed",
    ]
    if funnel.canceled:
        words.append(f"{funnel.canceled:,} canceled")
    return f"{funnel.total:,} {_plural(funnel.total, 'email')}: {', '.join(words)}"


def _pager(answer: Found) -> str:
    if answer.pages == 1:
        return ""

    def link(words: str, name: str, page: int) -> str:
        if not 1 <= page <= answer.pages:
            return f"<span>{words}</span>"
        return f'<a id="{name}" rel="{name}" href="{escape(answer.search.url(page=page))}">{words}</a>'

    return (
        f'<nav aria-label="Pages of operations">{link("Previous", "prev", answer.page - 1)} '
        f'<span aria-current="page">Page {answer.page:,} of {answer.pages:,}</span> {link("Next", "next", answer.page + 1)}</nav>'
    )


_LEGEND = (
    '<p class="legend" aria-hidden="true">'
    + "".join(
        f'<span><svg viewBox="0 0 8 8"><rect class="{name}" width="8" height="8"/></svg> {words}</span>'
        for name, words in {
            "opened": "opened",
            "delivered": "delivered",
            "sent": "sent",
            "bad": "failed or undelivered",
            "rest": "yet to be sent, or canceled",
        }.items()
    )
    + "</p>"
)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" type="image/svg+xml" href="{icon}">
<link rel="stylesheet" href="{css}">
<script src="{js}" defer></script>
</head>
<body data-refresh="{seconds}">
<a class="skip" href="#operations">Skip to the operations</a>
<header>
<h1>comms-exporter <small>{version}</small></h1>
<p>Email operations of Twilio's Comms API as Prometheus metrics.</p>
<p class="updates"><span id="updated" data-live>Updated <time datetime="{iso}">{clock}</time>.</span>
<button id="pause" type="button" aria-pressed="false" hidden>Pause updates</button> <span id="trouble" role="status"></span></p>
</header>
<main>
<section aria-labelledby="accounts-title">
<h2 id="accounts-title">Accounts</h2>
<div id="accounts" data-live>
<p class="count">{summary}</p>
<ul class="accounts" role="list">
{accounts}
</ul>
</div>
</section>
<section aria-labelledby="operations-title">
<h2 id="operations-title">Operations being watched</h2>
{form}
<div id="operations" data-live tabindex="-1">
{operations}
</div>
</section>
<section aria-labelledby="links-title">
<h2 id="links-title">Where to look</h2>
<ul>
<li><a href="{metrics}">Metrics</a>: what Prometheus reads; every HELP line says what its metric means</li>
<li><a href="./-/healthy">Health</a>: whether the poll loops move</li>
<li><a href="./-/ready">Readiness</a>: whether every account was asked once</li>
<li><a href="./config">Settings</a>: what this exporter works with, without secrets</li>
<li>Documentation: <code>README.md</code> and <code>docs/</code> in the source of this version, <code>comms-exporter --help</code>,
and <a href="https://www.twilio.com/docs/email/api/reference/email-operation-resource" rel="noreferrer">Twilio's words on operations</a></li>
</ul>
</section>
</main>
</body>
</html>
"""

STYLE = Asset(
    name="status.css",
    content_type="text/css",
    text="""\
:root { color-scheme: light dark;
  --back: light-dark(#fff, #14171c); --card: light-dark(#f5f6f8, #1e232b); --line: light-dark(#d5d9e0, #39414d);
  --text: light-dark(#1b1f26, #e7eaf0); --soft: light-dark(#545c69, #a8b1bf); --link: light-dark(#0a58c2, #84b8ff);
  --good: light-dark(#176b33, #6bd88f); --bad: light-dark(#b3211a, #ff9088); --warn: light-dark(#8a4b00, #f3b95f);
  --opened: light-dark(#1a4f96, #9cc7ff); --delivered: light-dark(#4b8fdd, #4a86cf); --sent: light-dark(#a9cdf5, #2b4f7d);
  --rest: light-dark(#dfe3e9, #343b46); --fail: light-dark(#cf3027, #ff7269); }
* { box-sizing: border-box; }
body { background: var(--back); color: var(--text); font: 16px/1.5 system-ui, sans-serif; max-width: 76rem;
  margin: 0 auto; padding: 0 1rem 3rem; overflow-wrap: anywhere; }
header { border-bottom: 4px solid #e6522c; padding: 1rem 0 .5rem; }
h1, h2, h3, p, dl, dd { margin: 0; }
h1 { font-size: 1.5rem; }
h1 small { color: var(--soft); font-size: 1rem; font-weight: 400; }
h2 { font-size: 1.2rem; margin: 1.8rem 0 .4rem; }
h3 { font-size: 1rem; display: flex; flex-wrap: wrap; gap: .3rem .6rem; align-items: center; margin-bottom: .2rem; }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
#operations:focus { outline: none; }
.skip { position: absolute; left: -100vw; }
.skip:focus { position: static; }
.updates, .facts, .count, .legend { color: var(--soft); font-size: .875rem; }
.updates { display: flex; flex-wrap: wrap; gap: .3rem .8rem; align-items: center; margin-top: .3rem; }
#trouble, strong.bad { color: var(--bad); font-weight: 600; }
button, input, select { font: inherit; color: inherit; background: var(--back); border: 1px solid var(--soft);
  border-radius: 6px; padding: .35rem .7rem; min-height: 2.5rem; }
button { cursor: pointer; background: var(--card); }
.updates button { font-size: .875rem; min-height: 2rem; padding: .1rem .7rem; }
.badge { font-size: .8rem; font-weight: 600; border: 1px solid currentColor; border-radius: 99px; padding: 0 .6rem; display: inline-block; }
.badge.good, .badge.completed { color: var(--good); }
.badge.failing, .badge.stopped { color: var(--bad); }
.badge.stuck, .badge.other { color: var(--warn); }
.badge.starting, .badge.scheduled, .badge.canceled { color: var(--soft); }
.badge.processing { color: var(--link); }
.accounts { list-style: none; padding: 0; margin: .5rem 0 0; display: grid; gap: .8rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); }
.account { background: var(--card); border: 1px solid var(--line); border-left: 5px solid var(--soft); border-radius: 8px; padding: .7rem .9rem; }
.account.good { border-left-color: var(--good); }
.account.failing, .account.stopped { border-left-color: var(--bad); }
dl { margin: .3rem 0; }
dt { font-size: .8rem; font-weight: 600; color: var(--soft); }
form { display: flex; flex-wrap: wrap; gap: .6rem 1rem; align-items: end; margin: .3rem 0 .9rem; }
form p { flex: 0 1 auto; min-width: 0; }
form p:first-child { flex: 1 1 16rem; }
label { display: block; font-size: .875rem; color: var(--soft); }
input { width: 100%; }
select { max-width: 18rem; }
[aria-pressed=true] { background: var(--text); color: var(--back); }
.actions a { display: inline-block; padding: .5rem; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; }
.legend svg { width: .8rem; height: .8rem; vertical-align: -.05rem; }
.operations { list-style: none; padding: 0; margin: .5rem 0; border-top: 1px solid var(--line); }
.operations li { display: grid; grid-template-columns: minmax(0, 13fr) minmax(0, 7fr) minmax(0, 15fr); gap: .2rem 1.2rem;
  padding: .55rem 0; border-bottom: 1px solid var(--line); }
.operations p { font-size: .875rem; }
.id { font: .9rem ui-monospace, monospace; display: block; }
.bar { display: block; width: 100%; height: .7rem; border-radius: 4px; margin: .35rem 0 .15rem; }
rect.rest { fill: var(--rest); } rect.sent { fill: var(--sent); } rect.delivered { fill: var(--delivered); }
rect.opened { fill: var(--opened); } rect.bad { fill: var(--fail); }
nav { display: flex; gap: 1rem; justify-content: center; align-items: center; padding: .8rem 0; }
nav a, nav span { padding: .4rem .6rem; }
nav span { color: var(--soft); }
.empty { padding: 1rem; background: var(--card); border-radius: 8px; }
main > section > ul:last-child { padding-left: 1.2rem; }
@media (max-width: 44rem) {
  .operations li { grid-template-columns: minmax(0, 1fr); }
  .id { font-size: .8rem; }
  form p { flex: 1 1 8rem; }
  form p:first-child, form .actions { flex-basis: 100%; }
  select { width: 100%; max-width: 100%; padding-right: 0; }
}
""",
)

SCRIPT = Asset(
    name="status.js",
    content_type="text/javascript",
    text="""\
"use strict";
(() => {
  const pause = document.getElementById("pause");
  const trouble = document.getElementById("trouble");
  let paused = false;
  async function refresh() {
    // Whoever selects text wants to copy it.
    if (paused || document.hidden || getSelection().type === "Range") return;
    try {
      const answer = await fetch(location.origin + location.pathname + location.search, { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.statusText);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (!fresh.getElementById("operations")) throw new Error("another page");
      const [x, y, focused] = [scrollX, scrollY, document.activeElement];
      for (const part of document.querySelectorAll("[data-live]")) {
        part.replaceChildren(...fresh.getElementById(part.id).childNodes);
      }
      if (!focused.isConnected) document.getElementById(focused.id)?.focus({ preventScroll: true });
      scrollTo(x, y);
      document.title = fresh.title;
      trouble.textContent = "";
    } catch {
      trouble.textContent = "Not updated: the exporter does not answer.";
    }
  }
  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", paused);
    refresh();
  });
  document.addEventListener("visibilitychange", refresh);
  setInterval(refresh, document.body.dataset.refresh * 1000);
})();
""",
)

ICON = Asset(
    name="icon.svg",
    content_type="image/svg+xml",
    text='<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" fill="#e6522c"/>'
    '<path d="M3 5h10v7H3z M3 5l5 4 5-4" fill="none" stroke="#fff" stroke-width="1.4" stroke-linejoin="round"/></svg>\n',
)

ASSETS = (STYLE, SCRIPT, ICON)
