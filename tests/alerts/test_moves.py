"""An account that moves from one exporter to another, and one that two exporters poll: what Prometheus makes of it."""

from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from alerts.judge.cases import SENDERS
from alerts.judge.exporter import saved
from alerts.judge.history import Exporter, History
from alerts.judge.player import Player
from alerts.judge.promstore import Server
from alerts.judge.rules import Firing, Rules
from alerts.judge.run import RULE_FILES
from alerts.judge.senders import DAY, HOUR, MINUTE, Effect, Mail

STEP = 30.0
BUSY = SENDERS["mid5k"]
QUIET = [replace(SENDERS["small500"], name=f"shop{n}") for n in range(2)]
ACCOUNTS = (BUSY, *QUIET)
# A Tuesday morning, in the past: Prometheus refuses samples from the future.
BEGIN = datetime(2025, 3, 11, 11, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()
START = BEGIN - 8 * HOUR
END = BEGIN + 60 * MINUTE


@dataclass(frozen=True)
class Move:
    """From *time* on, *source* does not show the account any more; *gap* seconds later, *target* shows and polls it."""

    time: float
    account: str
    source: str
    target: str
    gap: float = 0.0


class MovingPlayer(Player):
    """Plays a history and *moves*."""

    def __init__(self, history, names, moves):
        super().__init__(history, names)
        for move in moves:
            self._at(move.time, lambda move=move: self._move(move))

    def _move(self, move):
        source, target = self._instances[move.source], self._instances[move.target]
        record = saved(source.pollers.pop(move.account).state)
        source.pages.pop(move.account, None)
        source.metrics = {key: value for key, value in source.metrics.items() if key[0] != move.account}
        self._at(self.now + move.gap, lambda: self._poll(target, move.account, record, self.now + 2.0))


@dataclass(frozen=True)
class Outcome:
    """What fired, and what the rules recorded: points by series."""

    firings: list[Firing]
    recorded: dict[str, list[tuple[dict[str, str], list[tuple[float, float]]]]]

    def fired(self, *, info=False):
        """Return what fired beside the watchdog."""
        severities = {"critical", "warning", *(["info"] if info else [])}
        return {
            (each.alert.name, each.severity)
            for each in self.firings
            if each.severity in severities and each.alert.name != "CommsWatchdog"
        }


@cache
def mail(*effects):
    """Return the mail of all accounts; only the busy one has *effects*."""
    return [
        change
        for sender in ACCOUNTS
        for change in Mail(
            sender, begin=START - DAY, end=END, effects=list(effects) if sender is BUSY else [], seed=1
        ).changes()
    ]


def judged(binaries, folder, exporters, moves=(), effects=()):
    """Play *exporters* and *moves*, and evaluate all rules."""
    rules = Rules(RULE_FILES)
    events = sorted([*mail(*effects), *exporters], key=lambda event: event.time)
    fine_from = BEGIN - 30 * MINUTE
    history = History(START, END, events, STEP, STEP, fine_from)
    played = MovingPlayer(history, rules.names, moves).play()
    with Server(binaries, folder) as server:
        server.write(played.series)
        rules.record(server, played, [(START, fine_from - 300, 300), (fine_from, END, STEP)])
        names = sorted({rule["record"] for level in rules.levels for rule in level if rule["record"][:8] == "account:"})
        return Outcome(
            rules.fire(server, played, fine_from, END, STEP),
            {
                name: server.query_range(name, fine_from, END, STEP)
                for name in names
                if name.endswith((":total", ":count", ":present")) and "usual" not in name
            },
        )


def up(names, *, at=START, accounts=()):
    return [Exporter(at, "up", name, tuple(accounts)) for name in names]


def shared_by(names):
    """Return exporters that share the accounts from the beginning."""
    return [
        Exporter(START, "up", name, tuple(each.name for each in ACCOUNTS[n :: len(names)]))
        for n, name in enumerate(names)
    ]


def replacement(begin, *, gap):
    """Return events and moves of a rolling replacement of a, b and c: a new pod gets its share, then an old one hands over the rest."""
    owners = {each.name: "abc"[n % 3] for n, each in enumerate(ACCOUNTS)}
    events, moves, now = [], [], begin
    for old, new in zip("abc", "def", strict=True):
        events += up([new], at=now)
        others = [name for name in "abcdef" if name != old and (name in owners.values() or name == new)]
        # The busy account moves whenever one does.
        for account in sorted(owners, key=lambda name: name != BUSY.name)[:2]:
            if owners[account] != new:
                now += 20
                moves.append(Move(now, account, owners[account], new, gap))
                owners[account] = new
        now += 60
        for account in sorted(name for name in owners if owners[name] == old):
            target = others[len(moves) % len(others)]
            moves.append(Move(now, account, old, target, gap))
            owners[account] = target
        now += 2
        events += [Exporter(now, "removed", old)]
    return events, moves


@pytest.fixture
def judge(prometheus_binaries, tmp_path):
    def run(*arguments, **options):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        return judged(prometheus_binaries, folder, *arguments, **options)

    return run


def by_account(outcome, name):
    """Return {labels: {time: value}} of a recorded series."""
    return {
        tuple(sorted((key, value) for key, value in labels.items() if key not in {"__name__", "job"})): dict(points)
        for labels, points in outcome.recorded[name]
    }


@dataclass(frozen=True)
class Difference:
    """A recorded value that is not between *least* and *most*, as it is with a single owner."""

    name: str
    labels: tuple[tuple[str, str], ...]
    minutes: float
    value: float
    least: float
    most: float


def differences(outcome, expected):
    """Yield where *outcome* differs by more than what a poll some seconds earlier or later makes of it."""
    for name in expected.recorded:
        values, usual = by_account(outcome, name), by_account(expected, name)
        for labels in usual.keys() | values.keys():
            for moment, value in values.get(labels, {}).items():
                if moment > END - 4 * STEP:
                    # What comes afterwards is not known.
                    continue
                near = [usual.get(labels, {}).get(moment + STEP * n) for n in range(-4, 5)]
                near = [each for each in near if each is not None] or [0.0]
                least, most = min(near), max(near)
                if not name.endswith(":total"):
                    least, most = 0.95 * least - 3, 1.05 * most + 3
                if not least <= value <= most:
                    yield Difference(name, labels, (moment - BEGIN) / 60, value, least, most)
            # After a gap, the values are there again.
            if labels in usual and labels not in values:
                yield Difference(name, labels, 0.0, 0.0, 1.0, 1.0)


@pytest.mark.timeout(300)
class TestMove:
    def test_is_seen_by_nobody(self, judge):
        """The account goes on with the same totals, after a gap of one or two scrapes, or without any."""
        moves = [
            Move(BEGIN + 601, BUSY.name, "a", "b"),
            Move(BEGIN + 1201, BUSY.name, "b", "c", 30.0),
            Move(BEGIN + 1801, BUSY.name, "c", "a", 60.0),
            Move(BEGIN + 2401, "shop1", "c", "b", 60.0),
            Move(BEGIN + 2701, "shop1", "b", "a"),
        ]
        moved, alone = judge(shared_by("abc"), moves), judge(shared_by("abc"))

        assert set() == moved.fired(info=True)
        assert [] == list(differences(moved, alone))
        totals = by_account(moved, "account:comms_emails_handled:total")
        for points in totals.values():
            assert all(before <= after for (_, before), (_, after) in pairwise(sorted(points.items())))

    @pytest.mark.parametrize("gap", [0.0, 30.0, 60.0])
    def test_a_spike_during_a_rolling_replacement_is_paged_within_two_minutes(self, judge, gap):
        """And nothing else is."""
        events, moves = replacement(BEGIN - 60, gap=gap)
        spike = Effect(BEGIN, END, fail=1.0)
        outcome = judge([*shared_by("abc"), *events], moves, (spike,))
        page = next(each for each in outcome.firings if each.severity == "critical")
        failed = min(
            event.time
            for event in mail(spike)
            if event.account == BUSY.name and event.time > BEGIN and failures(mail(spike), event.time) >= 5
        )

        assert {("CommsEmailFailureSpike", "critical")} == outcome.fired()
        assert BUSY.name == page.account
        assert page.begin - failed <= 120, page.begin - failed


def failures(changes, until):
    """Return how many emails of the busy account have failed from BEGIN to *until*."""
    before, now = {}, {}
    for change in changes:
        if change.account == BUSY.name and change.time <= until and change.operation is not None:
            (before if change.time < BEGIN else now)[change.operation_id] = change.operation.stats[9] or 0
    return sum(count - before.get(name, 0) for name, count in now.items())


@pytest.mark.timeout(300)
class TestTwoIndependentExporters:
    """Two exporters with a state file each poll the same accounts; one has counted for longer."""

    @pytest.mark.parametrize("ending", ["a", "b"])
    def test_neither_double_nor_page_when_one_ends(self, judge, ending):
        names = [each.name for each in ACCOUNTS]
        second = up("b", at=START + 4 * HOUR, accounts=names)
        both = judge([*up("a", accounts=names), *second, Exporter(BEGIN + 40 * MINUTE, "removed", ending)])
        alone = judge(up("a", accounts=names))

        assert set() == both.fired()
        assert {("CommsAccountDuplicated", "info")} == both.fired(info=True)
        assert [] == [each for each in differences(both, alone) if each.value > each.most]
