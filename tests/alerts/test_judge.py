"""The judge plays histories as they are written, evaluates as Prometheus does, and today's rules pass its short form."""

import io
import json
import re

import pytest
import yaml
from alerts.judge.__main__ import make_parser
from alerts.judge.cases import SENDERS, calm_months, evidence, incidents
from alerts.judge.cost import cost
from alerts.judge.exporter import STATS, Operation, pack
from alerts.judge.history import (
    Api,
    Change,
    Exporter,
    History,
    HistoryError,
    Malformed,
    Prometheus,
    read_history,
    write_history,
)
from alerts.judge.notify import Alertmanager
from alerts.judge.player import STALE, Player
from alerts.judge.promstore import samples_of
from alerts.judge.rules import Alert, Firing, Rules, _states
from alerts.judge.run import ALERTMANAGER, RULE_FILES, judge
from alerts.judge.senders import DAY, HOUR, Effect, Mail
from alerts.judge.verdict import verdict
from operations import NOW
from prometheus import Binaries, error_output


def operation(name="a", *, status="PROCESSING", created=NOW, updated=None, **counters):
    packed = pack(tuple(counters.get(stat, 0) for stat in STATS))
    return Operation(name, status, created, created if updated is None else updated, packed)


def case_named(name):
    return next(case for case in [*incidents(), *calm_months()] if case.name == name)


class TestFile:
    def test_says_the_same_after_a_round_trip(self):
        events = [
            Exporter(NOW, "up", "a", ("shop",)),
            Change(NOW + 1, "shop", "x", operation("x", created=NOW, total=3, queued=3)),
            Change(NOW + 2, "shop", "x", None),
            Malformed(NOW + 3, "shop", "an operation without an id"),
            Api(NOW + 4, 503, "shop", 0.5, 60),
            Api(NOW + 5, "ok"),
            Exporter(NOW + 6, "down"),
            Exporter(NOW + 7, "up", forgets=True),
            Prometheus(NOW + 8, up=False),
            Prometheus(NOW + 9, up=True),
        ]
        file = io.StringIO()
        write_history(History(NOW, NOW + 60, events, 30, 15), file)
        again = read_history(file.getvalue().splitlines())

        assert (NOW, NOW + 60, 30, 15) == (again.start, again.end, again.poll_interval, again.scrape_interval)
        assert [event for event in events if not isinstance(event, Malformed)] == [
            event for event in again.events if not isinstance(event, Malformed)
        ]
        assert NOW + 3 == next(event.time for event in again.events if isinstance(event, Malformed))

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("{", "line 1: Expecting"),
            ("[]", "line 1: not a JSON object"),
            ('{"api":503}', "line 1: 'time' is missing"),
            ('{"time":"2026-11-21T12:00:00","api":503}', "line 1: the time 2026-11-21T12:00:00 has no zone"),
            ('{"time":"2026-11-21T12:00:00Z","api":418}', "line 1: api is 418; it can be 400,"),
            ('{"time":"2026-11-21T12:00:00Z","exporter":"gone"}', "line 1: exporter is 'gone'; it can be up,"),
            ('{"time":"2026-11-21T12:00:00Z","weather":"fine"}', "line 1: it says nothing of an operation,"),
            ("", "the history has no event"),
        ],
    )
    def test_names_the_line_that_is_no_event(self, line, said):
        with pytest.raises(HistoryError) as caught:
            read_history([line])

        assert str(caught.value).startswith(said)


class TestPlayer:
    def play(self, *events, names, lasting=600):
        history = History(NOW, NOW + lasting, list(events), 30, 30)
        played = Player(history, names).play()
        return {
            next(value for name, value in key if name == "__name__"): dict(
                zip([(moment - round(NOW * 1000)) / 1000 for moment in each.times], each.values, strict=True)
            )
            for key, each in played.series.items()
        }

    def test_scrapes_what_the_last_poll_saw(self):
        found = self.play(
            Change(NOW + 100, "shop", "x", operation("x", created=NOW + 100, total=3, queued=3)),
            Change(NOW + 200, "shop", "x", operation("x", status="COMPLETED", created=NOW + 100, total=3, sent=3)),
            names={"comms_emails_sent_total", "comms_emails_queued"},
        )

        # Polls come 7 seconds after each half minute.
        assert (0, 3) == (found["comms_emails_queued"][120], found["comms_emails_queued"][150])
        assert (0, 3) == (found["comms_emails_sent_total"][210], found["comms_emails_sent_total"][240])

    def test_a_restart_goes_on_from_the_state_file(self):
        found = self.play(
            Exporter(NOW, "up"),
            Change(NOW + 100, "shop", "x", operation("x", status="COMPLETED", created=NOW + 100, total=3, sent=3)),
            Exporter(NOW + 200, "down"),
            Exporter(NOW + 280, "up"),
            names={"comms_emails_sent_total", "up"},
        )

        assert (1, 0, 1) == (found["up"][180], found["up"][210], found["up"][300])
        assert (3, STALE, 3) == tuple(found["comms_emails_sent_total"][moment] for moment in (180, 210, 300))

    def test_the_api_fails_as_it_is_told_to(self):
        found = self.play(
            Change(NOW + 1, "shop", "x", operation("x", status="COMPLETED", created=NOW + 1, total=3, sent=3)),
            Api(NOW + 100, 503),
            Api(NOW + 400, "ok"),
            names={"comms_up", "comms_exporter_poll_interval_seconds"},
        )

        assert (1, 0, 1) == (found["comms_up"][90], found["comms_up"][150], found["comms_up"][570])
        assert (30, 60) == tuple(found["comms_exporter_poll_interval_seconds"][moment] for moment in (90, 150))


class TestMail:
    def test_an_effect_leaves_the_mail_before_it_alone(self):
        def mail(*effects):
            return Mail(SENDERS["small500"], begin=NOW, end=NOW + DAY, effects=effects, seed=3).changes()

        usual, surge = mail(), mail(Effect(NOW + DAY / 2, NOW + DAY, traffic=10, fail=1.0))

        def before(changes):
            return [each for each in changes if each.time < NOW + DAY / 2]

        assert before(usual) == before(surge)
        assert len(usual) * 2 < len(surge)

    @pytest.mark.parametrize("name", SENDERS)
    def test_every_email_is_somewhere_at_all_times(self, name):
        changes = Mail(SENDERS[name], begin=NOW, end=NOW + DAY / 4, seed=1).changes()

        for change in changes:
            total, _, _, scheduled, queued, sent, delivered, opened, undelivered, failed, canceled = (
                change.operation.stats
            )
            waiting = scheduled + queued + failed + canceled
            if SENDERS[name].exclusive:
                assert total == waiting + sent + delivered + opened + undelivered
            else:
                assert total == waiting + sent
                assert delivered + undelivered <= sent


class TestAlertStates:
    def alert(self, *, wait=0.0, keep=0.0, severity="critical", name="A"):
        return Alert(name, "x", wait, keep, {"severity": severity}, {})

    def times(self, alert, moments, *, away=(), end=1200):
        points = [(float(moment), 1.0) for moment in moments]
        return [(each.begin, each.end) for each in _states(alert, {}, points, away, end, 60.0)]

    def test_waits_and_keeps_firing(self):
        alert = self.alert(wait=120.0, keep=180.0)

        assert [(180.0, 480.0)] == self.times(alert, [60, 120, 180, 240])
        assert [(180.0, 600.0)] == self.times(alert, [60, 120, 180, 240, 360])
        assert [] == self.times(alert, [60, 120, 240, 300])

    def test_begins_to_wait_again_after_an_absence(self):
        alert = self.alert(wait=120.0)

        assert [(480.0, None)] == self.times(alert, [60, *range(360, 1201, 60)], away=[(120, 360)])


class TestMessages:
    def firing(self, name, severity, begin, end, **labels):
        alert = Alert(name, "", 0, 0, {"severity": severity}, {})
        return Firing(alert, {"alertname": name, "severity": severity, "job": "j", **labels}, begin, end, 1.0)

    def test_a_page_silences_the_ticket_of_the_same_alert(self):
        firings = [
            self.firing("CommsEmailFailureSpike", "critical", 0, 3600, account="a"),
            self.firing("CommsEmailFailureSpike", "warning", 300, 3600, account="a"),
            self.firing("CommsEmailFailureSpike", "warning", 300, 3600, account="b"),
        ]
        messages = Alertmanager(ALERTMANAGER).messages(firings)

        assert [("pager", 20.0, {"a"}), ("tickets", 330.0, {"b"})] == [
            (each.receiver, each.time, {one.account for one in each.alerts}) for each in messages
        ]

    def test_only_news_is_a_message(self):
        firings = [
            self.firing("X", "critical", 0, 7200, account="a", instance="1"),
            self.firing("X", "critical", 100, 7200, account="a", instance="2"),
            self.firing("X", "critical", 20000, None, account="a", instance="1"),
        ]

        assert [20.0, 320.0, 20020.0] == [each.time for each in Alertmanager(ALERTMANAGER).messages(firings)]


class TestEvaluation:
    @pytest.mark.timeout(300)
    def test_agrees_with_promtool(self, prometheus_binaries, tmp_path):
        """Weeks at once give what one evaluation after the other gives, state by state."""
        begin, step = NOW, 60
        end = begin + 9 * HOUR
        effects = [Effect(begin + 4 * HOUR, begin + 6 * HOUR, fail=0.6)]
        mail = Mail(SENDERS["mid5k"], begin=begin - DAY / 2, end=end, effects=effects).changes()
        trouble = [
            Exporter(begin, "up"),
            Exporter(begin + 2 * HOUR, "down"),
            Exporter(begin + 2.2 * HOUR, "up"),
            Api(begin + 7 * HOUR, 401),
            Api(begin + 7.5 * HOUR, "ok"),
        ]
        events = sorted([*mail, *trouble], key=lambda event: event.time)
        result = judge(History(begin, end, events, 60, 60), Rules(RULE_FILES), prometheus_binaries, step=step)
        firings = result.firings

        assert {"CommsEmailFailureSpike", "CommsExporterDown", "CommsExporterCredentialsRefused"} <= {
            each.alert.name for each in firings
        }
        assert "" == self.disagreement(prometheus_binaries, result, begin, end, step, tmp_path)

    def disagreement(self, binaries, result, begin, end, step, folder):
        turns = int((end - begin) / step) + 1
        checks = []
        for turn in range(5, turns):
            moment = begin + turn * step
            now = [each for each in result.firings if each.begin <= moment and (each.end is None or moment < each.end)]
            checks.append(
                {
                    "expr": 'ALERTS{alertstate="firing"}',
                    "eval_time": f"{turn * step}s",
                    "exp_samples": [
                        {"labels": selector({**each.labels, "__name__": "ALERTS", "alertstate": "firing"}), "value": 1}
                        for each in now
                    ],
                }
            )
        test = {
            "rule_files": [str(path) for path in RULE_FILES],
            "evaluation_interval": f"{step}s",
            # Or else promtool may evaluate alerts before what they are made of, one turn later than the judge.
            "group_eval_order": [
                group["name"] for path in RULE_FILES for group in yaml.safe_load(path.read_text())["groups"]
            ],
            "tests": [
                {
                    "interval": f"{step}s",
                    "input_series": [
                        {"series": selector(dict(key)), "values": written(dict(key), samples, begin, step, turns)}
                        for key, samples in result.played.series.items()
                    ],
                    "promql_expr_test": checks,
                }
            ],
        }
        file = folder / "judge.test.yml"
        file.write_text(json.dumps(test))
        return error_output(binaries.promtool, "test", "rules", file)


def selector(labels):
    inner = ",".join(f"{key}={json.dumps(value)}" for key, value in labels.items() if key != "__name__")
    return f"{labels['__name__']}{{{inner}}}"


def written(labels, samples, begin, step, turns):
    """Return *samples* as promtool reads them, on its clock, which begins at zero."""
    shift = begin if labels["__name__"].endswith("_timestamp_seconds") else 0
    values = {
        round((moment / 1000 - begin) / step): value
        for moment, value in zip(samples.times, samples.values, strict=True)
    }
    return " ".join(
        "_"
        if n not in values
        else "stale"
        if values[n] == STALE
        else format(values[n] - (shift if values[n] else 0), ".16g")
        for n in range(turns)
    )


def test_a_recorded_series_ends_where_a_step_is_missing():
    samples = samples_of([(60, 1.0), (120, 2.0), (300, 3.0)], 60, 600)

    assert [(60000, 1.0), (120000, 2.0), (180000, STALE), (300000, 3.0), (360000, STALE)] == list(
        zip(samples.times, samples.values, strict=True)
    )


# Few and short, since every change runs them; `make judge` runs all of them.
SHORT_INCIDENTS = ("api-key-revoked", "shard-down", "canceled")
SHORT_CALM = ("calm-young-small500",)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("prometheus_three")
@pytest.mark.parametrize("name", [*SHORT_INCIDENTS, *SHORT_CALM])
def test_short_form(name):
    case = case_named(name)
    history, begin, end = case.make(1, 1.5 * DAY)
    result = judge(history, Rules(RULE_FILES), Binaries.find(3), alerts_from=history.start if case.calm else begin)
    found = verdict(
        case,
        result.firings,
        Alertmanager(ALERTMANAGER).messages(result.firings),
        begin=begin,
        end=end,
        evidence=evidence(case, history, begin),
        took=0.0,
    )

    assert "" == found.reason


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("prometheus_three")
@pytest.mark.parametrize("name", ["fail-50-small500", "surge-10-small500", "slow-50-mid5k", "api-key-revoked"])
def test_vmalert_fires_the_same(name, victoria_metrics):
    """VictoriaMetrics evaluates the rules; it answers almost as Prometheus does, but not everywhere."""
    history, begin, _ = case_named(name).make(1, 9 * DAY)

    def fired(server=None):
        result = judge(history, Rules(RULE_FILES), Binaries.find(3), alerts_from=begin, victoria_metrics=server)
        return [(firing.alert.name, firing.severity, firing.account, firing.begin) for firing in result.firings]

    expected = fired()

    assert {name for name, *_ in expected} - {"CommsWatchdog"}
    assert expected == fired(victoria_metrics("victoria-metrics"))


def test_vmalert_accepts_the_rules(victoria_metrics):
    files = [f"-rule={path}" for path in RULE_FILES]

    assert "" == error_output(victoria_metrics("vmalert"), "-dryRun", *files)


def test_there_are_enough_cases():
    names = [case.name for case in [*incidents(), *calm_months()]]

    assert len(set(names)) == len(names)
    assert 75 <= len(incidents())
    assert 37 <= len(calm_months())


@pytest.mark.parametrize("text", ["0", "-5", "many", "1.5"])
def test_cost_needs_accounts(text, capsys):
    with pytest.raises(SystemExit):
        make_parser().parse_args([f"--cost={text}"])

    assert f"'{text}' is not a number of accounts; write a whole number of 1 or more" in capsys.readouterr().err


def test_cost_is_that_of_all_rules_and_accounts(prometheus_three, tmp_path):
    files = []
    for file in RULE_FILES:
        quick, groups = re.subn(
            r"  - name: (.*)\n(?:    interval: .*\n)?",
            r"  - name: \1\n    interval: 1s\n",
            file.read_text(encoding="utf-8"),
        )
        assert groups > 1
        files.append(tmp_path / file.name)
        files[-1].write_text(quick, encoding="utf-8")

    found = cost(2, files, prometheus_three, days=0.25, lasting=1)

    assert found.errors == []
    assert [1.0] * len(found.groups) == [interval for _, interval in found.groups.values()]
    assert found.scraped > 100
    assert found.recorded > found.scraped
    assert 0 < found.share < 2
    assert f"2 accounts, {found.scraped} series scraped" in str(found)
