"""The status page: what it shows, in which order, and how it works in a real browser."""

import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer
from browser import browsing
from process import exporter, scrape, until

from comms_exporter.base.slices import run_to_completion
from comms_exporter.expose.negotiation import accepts_gzip, negotiate
from comms_exporter.simulator import Fate, World
from comms_exporter.simulator import make_app as simulated
from comms_exporter.web.app import make_app
from comms_exporter.web.status_page import render
from comms_exporter.web.status_page.assets import ASSETS, SCRIPT
from comms_exporter.web.status_page.model import (
    Account,
    Emails,
    Exporter,
    Funnel,
    HistoryPoint,
    Lost,
    LostAt,
    LostBy,
    OperationDetail,
    OperationRow,
    Owned,
    SharedAccounts,
    Status,
)
from comms_exporter.web.status_page.render import (
    chart_lines,
    format_duration,
    format_share,
    render_operation,
    render_page,
)
from comms_exporter.web.status_page.search import OperationList, Search

ROOT = Path(__file__).parents[2]
NOW = 1_800_000_000.0
HOSTILE = "\"><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> '{0} &amp;"
HEALTHY = Account(
    name="shop", good=True, success_age_seconds=3, next_poll_seconds=27, requests_a_day=2881, tracked=120, hidden=0
)

EMAILS = Emails(
    everything=True,
    good=True,
    success_age_seconds=130,
    lost_seconds=3900,
    tracked=12_345,
    unattributed=3,
    requests_a_day=900,
    lost=[
        LostBy("provider", [Lost("gmail", 1200, 12.34), Lost("yahoo", 7, 0.04)], 4),
        LostBy("tag campaign", [Lost("spring", 1207, None)], 0),
    ],
)


def row(name="op1", *, account="shop", status="PROCESSING", age=60, unchanged=30, **counts):
    funnel = {"total": 10, "sent": 9, "delivered": 8, "opened": 4, "failed": 0, "undelivered": 0, "canceled": 0}
    funnel.update(counts)
    return OperationRow(
        account,
        name,
        status,
        status in {"COMPLETED", "CANCELED"},
        NOW - age,
        NOW - unchanged,
        funnel["failed"] + funnel["undelivered"],
        lambda: Funnel(**funnel),
    )


def thousand_rows():
    return [row(f"op{n:04}", failed=n % 7, sent=8, delivered=7, age=n * 60, unchanged=n) for n in range(1000)]


def status(*accounts, operations=()):
    return Status(
        version="1.2.3", now=NOW, telemetry_path="/metrics", accounts=accounts or (HEALTHY,), operations=operations
    )


def page(*accounts, operations=(), **query):
    return run_to_completion(render_page(status(*accounts), find(operations, Search.from_query(query))))


SHARED = SharedAccounts(
    connected=True,
    exporters=[Exporter("left (process 1)", True, 7200, 1), Exporter("right <b>", False, 60, 2)],
    elsewhere=[Owned("news", "right <b>", 60), Owned("shop 2", "", 5)],
)


def shared_page(shared=SHARED, **query):
    search = Search.from_query(query)
    return run_to_completion(render_page(replace(status(), shared=shared), find((), search)))


def find(operations, search):
    return run_to_completion(run_to_completion(OperationList.collect(operations, NOW)).search(search))


def account_text(emails):
    return ParsedPage(page(replace(HEALTHY, emails=emails))).text


class ParsedPage(HTMLParser):
    """The text, tags, attributes, links and ids of a page."""

    def __init__(self, html):
        super().__init__()
        self.words, self.tags, self.links, self.ids, self.attributes = [], [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.links += [value for name, value in attrs if name in {"href", "src", "action"}]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_data(self, data):
        self.words.append(data)

    def handle_endtag(self, tag):
        if tag in {"p", "dt", "dd", "li", "h3"}:
            self.words.append(" ")

    @property
    def text(self):
        return " ".join("".join(self.words).split())


def shown_ids(html):
    return re.findall(r'<bdi class="id">(.*?)</bdi>', html)


class TestAccounts:
    def test_shows_the_state_of_polling(self):
        text = ParsedPage(page()).text

        for expected in ("1.2.3", "1 healthy", "shop healthy", "Last successful poll: 3 s ago.", "Next poll in 27 s."):
            assert expected in text
        assert "About 2,881 API requests per day." in text

    def test_shows_why_polls_fail_and_what_to_do(self):
        failing = replace(
            HEALTHY, good=False, success_age_seconds=7300, reason="auth", message="401: no", advice="compare the token"
        )

        text = ParsedPage(page(failing)).text

        assert "Last successful poll: 2 h 1 min ago." in text
        assert "Reason auth 401: no What to do Compare the token." in text

    def test_shows_who_is_lost_and_how_collecting_emails_goes(self):
        text = account_text(EMAILS)

        assert "Lost in the last 1 h 5 min, worst first: " in text
        assert "provider gmail 1,200 (12.3 %)yahoo 7 (< 0.1 %)4 more tag campaign spring 1,207 " in text
        assert "All emails were listed 2 min ago. 3 lost emails have not been found yet." in text
        assert "Listing them takes about 900 more API requests per day. Tracks 12,345 emails." in text

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"lost": [], "unattributed": 0}, "All emails were listed 2 min ago: none was lost in the last 1 h 5 min. Listing"),
            ({"everything": False, "unattributed": 1}, "Lost emails were listed 2 min ago. 1 lost email has not been found yet."),
            ({"good": None, "success_age_seconds": None}, "The emails are being listed for the first time."),
            ({"good": False, "success_age_seconds": None}, "Emails have not been listed completely since the exporter started."),
            ({"good": False, "reason": "forbidden", "message": "403: no", "advice": "ask for it"},
             "Emails cannot be listed forbidden 403: no What to do Ask for it."),
        ],
    )  # fmt: skip
    def test_shows_the_state_of_collecting_emails(self, changes, expected):
        assert expected in account_text(replace(EMAILS, **changes))

    def test_says_nothing_about_emails_where_they_are_not_collected(self):
        assert "Listing" not in account_text(None)

    def test_shows_accounts_with_problems_first(self):
        failing, new = Account(name="failing", good=False), Account(name="new", good=None)
        stopped = replace(HEALTHY, name="stopped", alive=False)

        html = page(HEALTHY, new, failing, stopped)

        assert ["stopped", "failing", "new", "shop"] == re.findall(r"<h3><bdi>(.*?)</bdi>", html)
        assert "<title>(2 failing) comms-exporter</title>" in html
        assert "1 healthy, 1 failing, 1 stopped, 1 starting" in html

    def test_says_that_no_poll_has_succeeded(self):
        assert "No poll has succeeded since the exporter started." in page(
            Account(name="new", good=False, reason="timeout")
        )

    def test_says_that_a_poll_is_running(self):
        assert "The first poll is in progress." in page(Account(name="new", good=None))
        assert "A poll is running or due." in page(replace(HEALTHY, next_poll_seconds=0))


class TestOperations:
    def test_shows_the_progress_of_an_operation(self):
        text = ParsedPage(page(operations=[row("01k", failed=1, undelivered=2, total=1000, sent=900)])).text

        assert "shop, 1 min old" in text
        assert "1,000 emails: 900 sent, 8 delivered, 4 opened, 3 failed or undelivered" in text

    def test_shows_failures_and_stuck_operations_first(self):
        operations = [
            row("done", status="COMPLETED"),
            row("stuck too", unchanged=8000),
            row("stuck", unchanged=9000),
            row("worst", failed=3, undelivered=4),
            row("fresh"),
            row("bad", failed=5),
        ]

        assert ["worst", "stuck", "bad", "stuck too", "fresh", "done"] == shown_ids(page(operations=operations))

    def test_can_sort_by_time_without_change(self):
        operations = [
            row("worst", failed=9),
            row("waits", status="SCHEDULED", unchanged=9e5),
            row("stuck", unchanged=9000),
            row("done", status="COMPLETED", unchanged=1e5),
        ]

        html = page(operations=operations, sort="stuck")

        assert ["stuck", "worst", "waits", "done"] == shown_ids(html)
        assert 1 == html.count("unchanged for 2 h 30 min")

    def test_links_to_the_stuck_operations(self):
        html = page(operations=[row(unchanged=9000)])

        assert '<a id="stuck" href="./?sort=stuck">1 unchanged for over 1 h</a>' in html

    def test_can_sort_by_age(self):
        operations = [row("old", age=90), row("new", age=1), row("middle", age=60)]

        assert ["new", "middle", "old"] == shown_ids(page(operations=operations, sort="newest"))

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"q": "OP2"}, ["op2"]),
            ({"q": " news "}, ["op2"]),
            ({"q": "completed"}, ["op3"]),
            ({"account": "shop"}, ["op1", "op3"]),
            ({"account": "sho"}, []),
            ({"account": "shop", "q": "op2"}, []),
        ],
    )
    def test_finds_operations_by_text_and_account(self, query, expected):
        operations = [row("op1"), row("op2", account="news"), row("op3", status="COMPLETED")]

        assert expected == shown_ids(page(operations=operations, **query))

    def test_repeats_the_search_in_the_form(self):
        html = page(operations=[row()], q='a"b', account="gone", sort="newest")

        assert 'value="a&#34;b"' in html
        assert '<option value="gone" selected>gone</option>' in html
        assert '<option value="newest" selected>' in html
        assert "No operations match the search." in html

    def test_says_that_there_are_no_operations(self):
        assert "No active operations." in page()

    def test_says_how_many_operations_are_not_listed(self):
        assert "1,234 more operations are not listed." in page(replace(HEALTHY, hidden=1234))

    def test_shows_fifty_operations_per_page(self):
        html = page(operations=thousand_rows(), q="op", page="2")

        assert 50 == len(shown_ids(html))
        assert "51 to 100 of 1,000 operations, 857 with failures" in ParsedPage(html).text
        assert "Page 2 of 20" in html
        assert 'rel="prev" href="./?q=op"' in html
        assert 'rel="next" href="./?q=op&amp;page=3"' in html

    @pytest.mark.parametrize("sort", ["worst", "stuck", "newest"])
    def test_shows_each_operation_on_one_page(self, sort):
        operations = [each._replace(updated=NOW - 10 * n) for n, each in enumerate(thousand_rows())]
        pages = [shown_ids(page(operations=operations, page=str(n), sort=sort)) for n in range(1, 21)]

        assert [50] * 20 == [len(names) for names in pages]
        assert 1000 == len({name for names in pages for name in names})

    def test_computes_funnels_only_for_rows_on_the_page(self):
        computed = []

        def operation(n):
            return row(f"op{n}")._replace(funnel=lambda: computed.append(n) or row().funnel())

        page(operations=[operation(n) for n in range(1000)])

        assert 50 == len(computed)

    @pytest.mark.parametrize("number", ["0", "-1", "x", "", "9" * 5000, "٣", "1e3"])
    def test_accepts_any_page_number(self, number):
        assert 50 == len(shown_ids(page(operations=thousand_rows(), page=number))) or number == "٣"

    def test_shows_the_last_page_if_a_later_one_is_requested(self):
        assert 20 == find(thousand_rows(), Search(page=99)).page

    @pytest.mark.parametrize(
        "counts",
        [
            {"total": 0, "sent": 0, "delivered": 0, "opened": 0},
            {"total": 10, "sent": 2, "delivered": 9, "opened": 12},
            {"total": 1_000_000, "sent": 999_999, "delivered": 999_998, "opened": 999_998, "failed": 1},
            {"total": 1, "sent": 0, "delivered": 0, "opened": 0, "failed": 2**53},
        ],
    )
    def test_never_draws_segments_beyond_the_bar(self, counts):
        html = page(operations=[row(**counts)])
        bar = html[html.index('<svg class="bar"') :]

        edges = [float(x) + float(width) for x, width in re.findall(r'x="([-.\d]+)" width="([-.\d]+)"', bar)]

        assert all(edge <= 100.01 for edge in edges)
        assert "-" not in "".join(re.findall(r'x="([^"]+)"', bar))


def detail(name="op1", **changes):
    funnels = [
        Funnel(total=10, sent=n, delivered=n // 2, opened=0, failed=1, undelivered=n // 3, canceled=0)
        for n in (0, 6, 9)
    ]
    known = {
        "version": "1.2.3", "now": NOW, "account": "shop", "id": name, "status": "PROCESSING", "finished": False,
        "created": NOW - 7200, "began": NOW - 600, "updated": NOW - 30, "gone": False, "funnel": funnels[-1],
        "history": [HistoryPoint(NOW - 600 + 100 * n, funnel) for n, funnel in enumerate(funnels)],
    }  # fmt: skip
    return OperationDetail(**known | changes)


class TestOperationPage:
    def test_is_linked_from_the_list(self):
        assert (
            "./operation?account=a%26b&id=op+1%22" in ParsedPage(page(operations=[row('op 1"', account="a&b")])).links
        )

    def test_shows_what_is_known_of_an_operation(self):
        text = ParsedPage(render_operation(detail())).text

        for expected in (
            "op1",
            "processing",
            "sent990.0 % of total",
            "undelivered333.3 % of sent",
            "10 min ago",
            "2 h ago",
        ):
            assert expected in text
        assert "comms-exporter operation op1" in text

    def test_says_how_many_are_lost_in_the_title(self):
        assert "<title>(4 lost) op1</title>" in render_operation(detail())
        assert "<title>op1</title>" in render_operation(
            detail(funnel=replace(detail().funnel, failed=0, undelivered=0))
        )

    def test_shows_the_history_newest_first(self):
        cells = re.findall(r"<th scope=\"row\"><time.*?>(.*?)</time></th>(.*)</tr>", render_operation(detail()))

        assert ["6 min ago", "8 min ago", "10 min ago"] == [when for when, _ in cells]
        assert ["9", "4", "0", "1", "3"] == re.findall("<td>(.*?)</td>", cells[0][1])

    @pytest.mark.parametrize(
        ("lost", "expected"),
        [
            ([LostAt("gmail", 1, 2), LostAt("yahoo", 0, 1)], "gmail12 yahoo01"),
            ([LostAt("gmail", 1, 0)], "1 of 4 lost emails was found since the exporter started."),
            ([], "None of 4 lost emails were found since the exporter started."),
        ],
    )
    def test_shows_the_providers_of_the_lost_emails_that_were_found(self, lost, expected):
        text = ParsedPage(render_operation(detail(lost=lost))).text

        assert "Lost by mailbox provider" in text
        assert expected in text

    def test_shows_no_providers_where_emails_are_not_collected_or_none_is_lost(self):
        none_lost = replace(detail().funnel, failed=0, undelivered=0)

        assert "mailbox provider" not in render_operation(detail())
        assert "mailbox provider" not in render_operation(detail(funnel=none_lost, lost=[]))

    def test_says_that_there_is_no_history(self):
        assert "No change since the exporter started" in render_operation(detail(history=[]))

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"updated": NOW - 7200}, "unchanged for 2 h"),
            ({"gone": True}, "no longer returned by the API"),
            ({"began": None, "status": "SCHEDULED"}, "scheduled"),
            ({"status": "ODD"}, "odd"),
        ],
    )
    def test_marks_what_is_unusual(self, changes, expected):
        assert expected in ParsedPage(render_operation(detail(**changes))).text

    @pytest.mark.parametrize("now", [NOW, NOW - 1e9, 0.0])
    def test_lines_stay_within_the_chart(self, now):
        for line in chart_lines(detail(), now):
            for point in line.points.split():
                x, y = map(float, point.split(","))
                assert 0 <= x <= 1000
                assert 0 <= y <= 200

    @pytest.mark.parametrize(
        ("percent", "expected"),
        [(0, "0.0 %"), (0.04, "< 0.1 %"), (33.33, "33.3 %"), (99.99, "> 99.9 %"), (100, "100.0 %")],
    )
    def test_a_share_never_hides_a_few(self, percent, expected):
        assert expected == format_share(percent)

    def test_hostile_text_is_never_markup(self):
        lost, harmless = [LostAt(HOSTILE, 1, 0)], ParsedPage(render_operation(detail(lost=[LostAt("a", 1, 0)])))
        html = render_operation(detail(HOSTILE, account=HOSTILE, status=HOSTILE, lost=lost))

        assert set(ParsedPage(html).tags) == set(harmless.tags)
        assert set(ParsedPage(html).attributes) == set(harmless.attributes)
        assert len(ParsedPage(html).ids) == len(set(ParsedPage(html).ids))


class TestHostileText:
    def test_is_never_markup(self):
        texts = {"reason": HOSTILE, "message": HOSTILE, "advice": HOSTILE}
        emails = replace(EMAILS, lost=[LostBy(HOSTILE, [Lost(HOSTILE, 1, 1.0)], 0)], **texts)
        account = Account(name=HOSTILE, good=False, **texts, emails=emails)
        operation = row(HOSTILE, account=HOSTILE, status=HOSTILE)

        harmless = ParsedPage(
            page(Account(name="a", good=False, reason="a", message="a", advice="a", emails=EMAILS), operations=[row()])
        )
        words = ParsedPage(page(account, operations=[operation, row("\0\r\n\x1b[0m")], account=HOSTILE, sort=HOSTILE))

        assert set(harmless.tags) >= set(words.tags)
        assert set(harmless.attributes) >= set(words.attributes)
        assert words.tags.count("script") == 1
        assert HOSTILE in "".join(words.words)

    def test_may_contain_bytes_that_are_not_utf_8(self):
        page(operations=[row()], q="\udcff", account="\ud800").encode()

    def test_the_page_loads_nothing_from_other_sites(self):
        words = ParsedPage(page(operations=thousand_rows()))

        outside = [link for link in words.links if "://" in link]
        assert ["https://www.twilio.com/docs/email/api/reference/email-operation-resource"] == outside
        assert not {"style", "onclick", "onload"} & set(words.attributes)
        assert "style" not in words.tags

    def test_ids_are_unique(self):
        ids = ParsedPage(page(operations=thousand_rows(), page="2")).ids

        assert len(ids) == len(set(ids))

    def test_the_script_stays_small(self):
        assert len(SCRIPT.text.splitlines()) <= 40


class TestDurations:
    @pytest.mark.parametrize(
        ("seconds", "expected"),
        [
            (-5, "0 s"),
            (59.9, "59 s"),
            (60, "1 min"),
            (3599, "59 min"),
            (3600, "1 h"),
            (3661, "1 h 1 min"),
            (40000, "11 h"),
            (172800, "2 days"),
        ],
    )
    def test_use_at_most_two_units(self, seconds, expected):
        assert expected == format_duration(seconds)


class TestManyAccounts:
    @pytest.fixture
    def accounts(self):
        """5,000 accounts, of which 30 fail and one has stopped."""
        failing = {number: {"good": False, "reason": "auth"} for number in range(100, 3100, 100)}
        changes = {**failing, 4999: {"alive": False}}
        return [replace(HEALTHY, name=f"account{number:04}", **changes.get(number, {})) for number in range(5000)]

    def names(self, html):
        return re.findall(r"<h3><bdi>(.*?)</bdi>", html)

    def test_are_counted_by_state_and_shown_in_pages_worst_first(self, accounts):
        html = page(*accounts)

        assert "4,969 healthy, 30 failing, 1 stopped; 1 to 20 of 5,000, worst first" in ParsedPage(html).text
        assert ["account4999", *(f"account{number:04}" for number in range(100, 2000, 100))] == self.names(html)
        assert "<title>(31 failing) comms-exporter</title>" in html
        assert len(html) < 50_000

    def test_each_is_on_one_page(self, accounts):
        pages = [self.names(page(*accounts[:50], accounts=str(number))) for number in range(1, 4)]

        assert [account.name for account in accounts[:50]] == [name for names in pages for name in names]
        assert pages[2] == self.names(page(*accounts[:50], accounts="99"))

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"name": "NT49", "accounts": "5"}, "81 to 100 of 100, worst first"),
            ({"health": "failing", "accounts": "2"}, "21 to 30 of 30, worst first"),
            ({"health": "failing", "name": "account01"}, "1 to 1 of 1, worst first"),
            ({"name": "nobody"}, "none matches the search"),
            ({"health": "nonsense"}, "1 to 20 of 5,000, worst first"),
        ],
    )
    def test_can_be_searched_by_name_and_state(self, accounts, query, expected):
        assert f"30 failing, 1 stopped; {expected}" in ParsedPage(page(*accounts, **query)).text

    def test_both_searches_of_the_page_keep_each_other(self, accounts):
        query = {"q": "op", "account": "a", "sort": "newest", "name": "account", "health": "healthy", "accounts": "3"}
        html = page(*accounts, operations=thousand_rows(), **query)
        kept = re.findall(r'<input type="hidden" name="(\w+)" value="(.*?)">', html)

        assert query == dict(kept)
        assert "./?q=op&amp;account=a&amp;sort=newest&amp;name=account&amp;health=healthy&amp;accounts=4" in html
        assert html.index('name="accounts" value="3"') > html.index("Active operations")

    def test_few_accounts_need_no_search(self, accounts):
        html = page(*accounts[:20])

        assert "Search accounts" not in html
        assert "Pages of accounts" not in html
        assert '<select id="account"' in html
        assert '<input type="search" id="account"' in page(*accounts[:21])

    def test_ids_are_unique(self, accounts):
        ids = ParsedPage(page(*accounts, accounts="3", name="a", operations=thousand_rows(), page="3")).ids

        assert sorted(set(ids)) == sorted(ids)


class TestSlices:
    def test_a_page_of_many_accounts_is_rendered_in_many_slices(self):
        """Scrapes are served between two slices, so no slice may take as long as a whole page."""
        accounts = [replace(HEALTHY, name=f"account{number}") for number in range(1000)]

        assert 10 < sum(1 for _ in render_page(status(*accounts), find([], Search())))


FROM_A_WHEEL = """
import sys
sys.path.insert(0, sys.argv[1])
from comms_exporter.base.slices import run_to_completion
from comms_exporter.web.status_page import assets, render, search
assert render.__file__.startswith(sys.argv[1]), render.__file__
from comms_exporter.web.status_page.model import Status
result = run_to_completion(search.OperationList([], now=0.0).search(search.Search()))
print(run_to_completion(render.render_page(Status(version="from a wheel", now=0.0, telemetry_path="/metrics"), result)))
print(*(asset.text for asset in assets.ASSETS))
"""


class TestPackage:
    def test_the_wheel_contains_template_and_assets_and_works_zipped(self, tmp_path):
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
        subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
        (wheel,) = tmp_path.glob("*.whl")

        printed = subprocess.run(
            [sys.executable, "-W", "error", "-c", FROM_A_WHEEL, str(wheel)], check=True, capture_output=True, text=True
        ).stdout

        assert "comms-exporter <small>from a wheel</small>" in printed
        for asset in ASSETS:
            assert asset.url in printed
            assert asset.text in printed


class Site:
    """A status page whose content the test changes; counts how often it is served."""

    def __init__(self):
        self.status = status()
        self.served = 0
        self.detail = detail(HOSTILE, account=HOSTILE, lost=[LostAt(HOSTILE, 1, 2)])

    def operation(self, account, operation_id):
        return self.detail if (account, operation_id) == (self.detail.account, self.detail.id) else None

    def current(self):
        self.served += 1
        return replace(self.status, version=f"served {self.served}")


def make_site_app(site):
    return make_app(
        telemetry_path="/metrics",
        write=None,
        negotiate=negotiate,
        accepts_gzip=accepts_gzip,
        healthy=lambda: True,
        ready=lambda: True,
        reload=None,
        operation=site.operation,
        status=site.current,
        settings=lambda: "",
    )


class TestExporter:
    async def test_shows_accounts_and_settings_without_secrets(self, tmp_path):
        """Both readings of the counters, an account with wrong credentials, and three ways to set a secret."""
        (tmp_path / "token").write_text("canary-in-a-file")
        accounts = [
            {"name": "shop", "account_sid": "ACcanary", "auth_token": "canary-token"},
            {"name": "key", "api_key": "SKcanary", "api_secret": "canary-secret"},
            {"name": "refused", "account_sid": "ACrefused", "auth_token_file": str(tmp_path / "token")},
        ]
        config = tmp_path / "comms.yml"
        config.write_text(json.dumps({"accounts": accounts, "api": {"timeout": "7s"}}))
        world = World(clock=time.time, reading="exclusive")
        world.send(fates=[Fate(sent=0, delivered=0, opened=0), Fate(sent=0, delivered=0), Fate(failed=0)])
        known = {"ACcanary": "canary-token", "SKcanary": "canary-secret"}
        async with (
            TestServer(simulated(world, credentials=known)) as api,
            exporter(
                str(api.make_url("/v1")),
                f"--config.file={config}",
                environ={"TWILIO_ACCOUNT_SID": "", "TWILIO_AUTH_TOKEN": ""},
            ) as process,
        ):
            await until(process.url, r'polls_total{account="refused"} [1-9]')
            await until(process.url, r'comms_up{account="shop"} 1')
            await until(process.url, r'comms_up{account="key"} 1')
            home, settings = await scrape(process.url, "/?account=shop"), await scrape(process.url, "/config")

        text = ParsedPage(home).text
        assert "3 emails: 2 sent, 2 delivered, 1 opened, 1 failed or undelivered" in text
        assert "1 to 1 of 1 operation, 1 with failures" in text
        assert "2 healthy, 1 failing" in text
        assert "What to do Twilio rejects the credentials:" in text
        assert re.search(r"Next poll in [12]?\d s\.", text)
        assert f"# Config file: {config}." in settings
        assert "api.timeout: 7s\n" in settings
        assert f"    secret: from {tmp_path}/token\n" in settings
        assert "canary" not in (home + settings).replace(str(tmp_path), "")


class TestInABrowser:
    async def test_shows_the_page_and_refreshes_it_in_place(self, tmp_path, monkeypatch):
        """One test, because starting a browser takes longer than everything else."""
        monkeypatch.setattr(render, "REFRESH_SECONDS", 0.3)
        site = Site()
        long = [Lost(text, 10**9, 33.3) for text in (HOSTILE, "w" * 250, "two words " * 30, "gmail")]
        emails = replace(EMAILS, lost=[LostBy(label, long, 3) for label in ("provider", "tag " + "k" * 64)])
        hostile = Account(
            name=HOSTILE, good=False, reason="server", message=HOSTILE, advice="see <b>there</b>", emails=emails
        )
        site.status = status(HEALTHY, hostile, operations=[row(HOSTILE, account=HOSTILE, failed=9), *thousand_rows()])
        async with TestServer(make_site_app(site)) as server, browsing(tmp_path) as tab:
            url = str(server.make_url("/"))
            await tab.open(url)

            # Hostile text is shown as text, and runs no script.
            assert HOSTILE == await tab.run("document.querySelector('.lost bdi').textContent")
            assert HOSTILE == await tab.run("document.querySelector('.account bdi').textContent")
            assert HOSTILE == await tab.run("document.querySelector('.id').textContent")
            assert "(1 failing) comms-exporter" == await tab.run("document.title")
            assert 0 == await tab.run("document.images.length")
            assert 50 == await tab.run("document.querySelectorAll('.operations > li').length")
            assert "1 to 50 of 1,001" in await tab.run("document.querySelector('#operations .count').textContent")

            # The style sheet works in light and dark mode, and the page fits on a phone.
            background = "getComputedStyle(document.body).backgroundColor"
            assert "rgb(255, 255, 255)" == await tab.run(background)
            await tab.resize(width=390, height=844, dark=True)
            assert "rgb(20, 23, 28)" == await tab.run(background)
            assert 390 == await tab.run("document.documentElement.scrollWidth")
            await tab.resize()

            # A refresh shows new data, and keeps the scroll position, the focus and an unfinished search.
            await tab.run("document.getElementById('q').value = 'unfinish'; document.getElementById('next').focus()")
            await tab.run("scrollTo(0, 700)")
            site.status = status(replace(HEALTHY, name="renamed"), operations=thousand_rows()[:60])
            await tab.until("document.querySelector('.account bdi').textContent === 'renamed'")
            kept = "[scrollY, document.getElementById('q').value, document.activeElement.id]"
            assert [700, "unfinish", "next"] == await tab.run(kept)
            assert "comms-exporter" == await tab.run("document.title")

            # The button pauses refreshes.
            await tab.run("document.getElementById('pause').click(); new Promise(resolve => setTimeout(resolve, 200))")
            served = site.served
            await tab.run("new Promise(resolve => setTimeout(resolve, 800))")
            assert served == site.served
            assert "true" == await tab.run("document.getElementById('pause').getAttribute('aria-pressed')")

            # Form and links work.
            await tab.open(f"{url}?page=2")
            await tab.run("document.getElementById('q').value = 'op0007'")
            await tab.follow("search")
            assert "op0007" in await tab.run("location.search")
            assert ["op0007"] == await tab.run("[...document.querySelectorAll('.id')].map(each => each.textContent)")

            # The browser reported no problems, and requested nothing from other sites.
            assert [] == tab.problems
            assert {url} == {request[: len(url)] for request in tab.requests}

    async def test_shows_the_page_of_an_operation_and_refreshes_it_in_place(self, tmp_path, monkeypatch):
        monkeypatch.setattr(render, "REFRESH_SECONDS", 0.3)
        site = Site()
        site.status = status(operations=[row(HOSTILE, account=HOSTILE)])
        async with TestServer(make_site_app(site)) as server, browsing(tmp_path) as tab:
            url = str(server.make_url("/"))
            await tab.open(url)
            link = await tab.run("document.querySelector('.operations a').getAttribute('href')")
            await tab.open(url + link.removeprefix("./"))

            assert HOSTILE == await tab.run("document.querySelector('h2').textContent")
            assert 4 == await tab.run("document.querySelectorAll('polyline').length")
            await tab.resize(width=390, height=844, dark=True)
            assert 390 == await tab.run("document.documentElement.scrollWidth")
            site.detail = detail(HOSTILE, account=HOSTILE, status="COMPLETED")
            await tab.until("document.querySelector('.badge').textContent === 'completed'")
            assert "" == await tab.run("document.getElementById('trouble').textContent")

            assert [] == tab.problems
            assert {url} == {request[: len(url)] for request in tab.requests}

    async def test_says_that_a_refresh_failed(self, tmp_path, monkeypatch):
        monkeypatch.setattr(render, "REFRESH_SECONDS", 0.2)
        site = Site()
        async with browsing(tmp_path) as tab:
            async with TestServer(make_site_app(site)) as server:
                await tab.open(str(server.make_url("/")))
            await tab.until("document.getElementById('trouble').textContent.startsWith('Update failed')")
            assert "shop" == await tab.run("document.querySelector('.account bdi').textContent")


class TestSharedAccounts:
    def test_the_exporters_and_the_accounts_of_others_are_listed(self):
        text = ParsedPage(shared_page()).text

        assert "2 exporters share the accounts:" in text
        assert "left (process 1) (this one): 1 account, running for 2 h" in text
        assert "right <b>: 2 accounts, running for 1 min" in text
        assert "2 accounts of others: news: right <b> for 1 min shop 2: nobody" in text

    def test_an_account_says_for_how_long_it_has_been_owned(self):
        text = ParsedPage(page(replace(HEALTHY, owned_seconds=7200))).text

        assert "This exporter has owned the account for 2 h." in text
        assert "has owned" not in ParsedPage(page(HEALTHY)).text

    def test_an_exporter_without_accounts_says_so(self):
        shown = replace(status(), shared=SHARED, accounts=())

        text = ParsedPage(run_to_completion(render_page(shown, find((), Search())))).text

        assert "This exporter polls no account at the moment." in text

    def test_the_search_for_accounts_finds_those_of_others(self):
        text = ParsedPage(shared_page(name="SHOP")).text

        assert "1 account of others matches the search: shop 2: nobody" in text
        assert "news" not in text

    def test_a_database_that_does_not_answer_is_said(self):
        assert "The database does not answer." in ParsedPage(shared_page(replace(SHARED, connected=False))).text

    def test_of_many_accounts_the_first_are_listed(self):
        many = [Owned(f"account {number}", "right", 1) for number in range(1000)]

        text = ParsedPage(shared_page(replace(SHARED, elsewhere=many))).text

        assert "1,000 accounts of others, the first 20 of them: account 0: right" in text
        assert "account 20:" not in text

    def test_without_a_database_there_is_nothing_of_it(self):
        assert "Exporters" not in ParsedPage(page()).text
