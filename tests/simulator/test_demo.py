"""The demo scenario: lively at every hour, with a failure spike that comes and goes."""

import ast
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from comms_exporter import simulator
from comms_exporter.simulator import Conditions, FailureSpike
from comms_exporter.simulator.demo import SPIKE_AFTER_SECONDS, SPIKE_EVERY_SECONDS, SPIKE_SECONDS, STORY, demo_world

MONDAY = 1_749_427_200.0  # 2025-06-09 00:00 UTC
HOUR = 3600.0
DAY = 24 * HOUR
STAGES = ("created", "sent", "delivered", "opened", "undelivered", "failed", "canceled")
STATUSES = {"SCHEDULED", "PROCESSING", "COMPLETED", "CANCELED"}
ACTIVE_SECONDS = 30.0


class Demo:
    """A demo on a simulated clock."""

    def __init__(self, started=MONDAY):
        self.now = self.started = started
        self.world = demo_world(lambda: self.now)

    def counts(self, seconds):
        """Return how many emails reached each stage *seconds* after the start."""
        self.now = self.started + seconds
        tally = self.world.tally()
        return {stage: getattr(tally, stage) for stage in STAGES}

    def failed_between(self, earlier, later):
        before = self.counts(earlier)["failed"]
        return self.counts(later)["failed"] - before

    def active(self, seconds):
        """Count the operations that the status page shows *seconds* after the start, by status."""
        self.now = self.started + seconds
        return Counter(
            operation.status(self.now)
            for operation in self.world.operations()
            if operation.status(self.now) in {"SCHEDULED", "PROCESSING"}
            or operation.updated(self.now) > self.now - ACTIVE_SECONDS
        )


@pytest.fixture(params=[hour * HOUR + hour % 7 * DAY for hour in range(24)], ids=lambda seconds: f"{seconds / HOUR:g}h")
def demo(request):
    """A demo that starts at each hour, and between them on each weekday, a little after the full hour."""
    return Demo(MONDAY + request.param + 123.456)


class TestAtEveryHour:
    def test_operations_are_in_every_state_from_the_first_second_on(self, demo):
        for seconds in range(60):
            active = demo.active(seconds)
            assert STATUSES == active.keys()
            # The status page has room for fifty.
            assert active.total() <= 70

    def test_counters_move_every_second(self, demo):
        previous = demo.counts(0)
        for seconds in range(1, 121):
            counts = demo.counts(seconds)
            assert counts != previous, f"nothing happened in second {seconds}"
            previous = counts

    def test_emails_fail_in_the_spike_and_no_longer_after_it(self, demo):
        before, during, after = (
            demo.failed_between(0, SPIKE_AFTER_SECONDS),
            demo.failed_between(SPIKE_AFTER_SECONDS, 90),
            demo.failed_between(90, 120),
        )

        assert before <= 2
        assert during >= 50
        assert after <= 2

    def test_all_runs_are_the_same(self, demo):
        reference = Demo()

        assert [reference.counts(seconds) for seconds in range(0, 120, 10)] == [
            {stage: pytest.approx(count, abs=1) for stage, count in demo.counts(seconds).items()}
            for seconds in range(0, 120, 10)
        ]


class TestLater:
    def test_the_spike_comes_back(self):
        demo = Demo()
        for round_ in range(1, 5):
            start = SPIKE_AFTER_SECONDS + round_ * SPIKE_EVERY_SECONDS
            during = demo.failed_between(start, start + 60)
            assert during > 5 * demo.failed_between(start + SPIKE_EVERY_SECONDS - 60, start + SPIKE_EVERY_SECONDS)

    def test_a_demo_that_is_left_running_stays_lively_and_small(self):
        demo = Demo()
        seen = Counter()
        for seconds in range(0, 3 * 3600, 60):
            seen += demo.active(seconds)
            assert len(list(demo.world.operations())) < 1200

        assert STATUSES == seen.keys()


class TestSpike:
    @pytest.mark.parametrize(
        ("moment", "failed"), [(99.9, 0.1), (100, 0.5), (129.9, 0.5), (130, 0.1), (340, 0.5), (370, 0.1)]
    )
    def test_replaces_the_share_that_fails_while_it_lasts(self, moment, failed):
        spike = FailureSpike(failed=0.5, starts=100, lasts=30, every=240)

        assert Conditions(failed=failed, opened=0.2) == spike.apply(Conditions(failed=0.1, opened=0.2), moment)

    def test_is_in_the_conditions_that_the_world_reports(self):
        demo = Demo()
        calm = demo.world.conditions
        demo.now += SPIKE_AFTER_SECONDS
        assert replace(calm, failed=0.5, opened=0.1) == demo.world.set_conditions(opened=0.1)
        demo.now += SPIKE_SECONDS
        assert replace(calm, opened=0.1) == demo.world.conditions


class TestStory:
    def test_names_the_times_of_the_spike(self):
        assert f"after {SPIKE_AFTER_SECONDS} s " in STORY
        assert f"for {SPIKE_SECONDS} seconds" in STORY
        assert f"every {SPIKE_EVERY_SECONDS // 60} minutes" in STORY


def test_the_simulator_imports_nothing_else_of_the_package():
    imported = set()
    for path in Path(simulator.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                imported.add(node.module)
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}

    assert set() == {name for name in imported if name.startswith("comms_exporter")} - {
        name for name in imported if name.startswith("comms_exporter.simulator")
    }
