"""An account is polled at every interval with as few requests as possible, and its health reports the results."""

import asyncio
import gc
import json
from urllib.parse import parse_qs, urlsplit

import pytest
from harness import HOUR, Clock, simulator_harness
from operations import NOW, rfc3339

from comms_exporter.api.errors import ConnectionLostError, ThrottledError
from comms_exporter.api.rate_limiter import RateLimiter
from comms_exporter.collect.state import Listing
from comms_exporter.simulator import Dialect, Fate
from comms_exporter.store.errors import StateLostError, StoreError

DAY = 24 * HOUR
SENT = Fate(sent=1, delivered=2)
QUEUED = Fate(queued=0)


def windows(paths):
    """Return the startDate and the status of each listing among *paths*."""
    queries = [parse_qs(urlsplit(path).query) for path in paths if not path.startswith("/")]
    return [(query["startDate"][0], query.get("status", [None])[0]) for query in queries]


def since(seconds):
    """Return the startDate of a window since *seconds*, with the second that makes its bound irrelevant."""
    return rfc3339(seconds - 1)


class TestRequests:
    async def test_the_first_poll_lists_everything_and_the_next_one_the_last_hour(self):
        async with simulator_harness() as harness:
            await harness.poll()
            assert [(since(harness.clock.now - 7 * DAY - HOUR), None)] == windows(harness.requested_paths())

            await harness.poll()
            assert [(since(harness.clock.now - HOUR), None)] == windows(harness.requested_paths())

    async def test_every_tenth_poll_lists_a_day_and_one_per_hour_everything(self):
        async with simulator_harness() as harness:
            lengths = []
            for _ in range(122):
                await harness.poll()
                ((start, _),) = windows(harness.requested_paths())
                lengths.append(
                    next(
                        n
                        for n, s in (("hour", HOUR), ("day", DAY), ("week", 7 * DAY + HOUR))
                        if start == since(harness.clock.now - s)
                    )
                )

        assert [0, 120] == [n for n, length in enumerate(lengths) if length == "week"]
        assert list(range(10, 120, 10)) == [n for n, length in enumerate(lengths) if length == "day"]

    async def test_everything_is_listed_until_that_has_succeeded_once(self):
        async with simulator_harness() as harness:
            harness.faults.add("500", times=2)
            for _ in range(3):
                await harness.poll()

        assert 3 == len({start for start, _ in windows(harness.requested_paths())})
        assert harness.poller.health.up

    @pytest.mark.parametrize(
        ("failures", "window"), [(1, HOUR + 60), (8, HOUR + 270), (9, 7 * DAY + HOUR), (100, 7 * DAY + HOUR)]
    )
    async def test_after_failures_the_window_is_longer_by_as_much_as_they_lasted(self, failures, window):
        """And everything after ten intervals. The next sweep may be an hour away."""
        async with simulator_harness() as harness:
            await harness.poll()
            harness.faults.add("500", times=failures)
            for _ in range(failures):
                await harness.poll()
            harness.requested_paths()
            harness.poller._schedule.next_day = float("inf")

            await harness.poll()
            await harness.poll()

        assert [since(harness.clock.now - 30 - window), since(harness.clock.now - HOUR)] == [
            start for start, _ in windows(harness.requested_paths())
        ]

    async def test_the_first_successful_poll_after_an_outage_counts_late_opens_of_old_operations(self):
        async with simulator_harness() as harness:
            await harness.poll()
            harness.world.send(fates=[Fate(sent=1, delivered=2, opened=2 * DAY + 300)])
            await harness.poll(after=2 * DAY)
            harness.faults.add("500", times=20)
            for _ in range(20):
                await harness.poll()
            assert "opened" not in harness.totals

            await harness.poll()

            assert 1 == harness.totals["opened"]

    async def test_an_old_unfinished_operation_is_fetched(self):
        async with simulator_harness() as harness:
            old = harness.world.send(at=NOW - 2 * HOUR, fates=[QUEUED])
            await harness.poll()
            harness.requested_paths()

            await harness.poll()

            assert [f"/{old.id}"] == [path for path in harness.requested_paths() if path.startswith("/")]

    async def test_many_old_unfinished_operations_are_listed_by_status(self):
        async with simulator_harness() as harness:
            for n in range(30):
                harness.world.send(at=NOW - 2 * HOUR - n, fates=[QUEUED])
                harness.world.send(at=NOW - 2 * HOUR - n, fates=[SENT])
            await harness.poll()
            harness.requested_paths()

            await harness.poll()

            paths = harness.requested_paths()
            assert [(since(harness.clock.now - HOUR), None), (since(NOW - 2 * HOUR - 29), "PROCESSING")] == windows(
                paths
            )
            assert 2 == len(paths)

    async def test_old_operations_that_finished_since_the_last_poll_are_updated(self):
        """They are missing from the listing of their old status: a few are fetched, many are listed."""
        async with simulator_harness(page_size=100) as harness:
            for n in range(30):
                harness.world.send(at=NOW - 2 * HOUR - n, fates=[Fate(sent=2 * HOUR + n + 45)])
            await harness.poll()

            await harness.poll()

            assert {"COMPLETED": 30} == harness.poller.view.by_status
            assert {"sent": 30, "attempts": 30, "operations_completed": 30} == harness.totals
            assert 4 == len(harness.requested_paths())

    async def test_an_operation_that_the_api_has_lost_is_not_fetched_again(self):
        async with simulator_harness() as harness:
            harness.world.send(at=NOW - 7 * DAY + 50, fates=[QUEUED])
            await harness.poll()
            await harness.poll()
            assert {} == harness.poller.view.by_status
            harness.requested_paths()

            await harness.poll()

            assert 1 == len(harness.requested_paths())
            assert harness.poller.health.up

    async def test_an_api_that_ignores_filters_is_logged_once_and_needs_no_extra_requests(self):
        async with simulator_harness(dialect=Dialect(ignore_filters=True), page_size=1000) as harness:
            for n in range(30):
                harness.world.send(at=NOW - 3 * HOUR - n, fates=[QUEUED])
                harness.world.send(at=NOW - 3 * HOUR - n, fates=[SENT])
            for _ in range(4):
                await harness.poll()
                assert 1 == len(harness.requested_paths())

        events = [fields["filter"] for level, _, fields in harness.log.entries if level == "warning"]
        assert ["startDate"] == events

    @pytest.mark.parametrize("operations", [0, 100, 3000])
    async def test_the_estimate_of_requests_per_hour_is_right(self, operations):
        async with simulator_harness(page_size=100) as harness:
            for n in range(operations):
                harness.world.send(at=NOW - (n + 0.5) * 7 * DAY / max(1, operations), fates=[SENT])
            await harness.poll()
            harness.requested_paths()
            for _ in range(120):
                await harness.poll()

            estimate = harness.poller.requests_per_hour()
            assert estimate * 0.95 <= len(harness.requested_paths()) <= estimate * 1.05


class TestListings:
    @pytest.mark.parametrize("reading", ["cumulative", "exclusive"])
    @pytest.mark.parametrize("envelope", ["operations", "data"])
    async def test_every_operation_of_every_page_is_tracked(self, reading, envelope):
        async with simulator_harness(reading=reading, dialect=Dialect(envelope=envelope)) as harness:
            for n in range(200):
                harness.world.send(at=NOW - n, fates=[Fate(sent=n + 40, delivered=n + 70, opened=n + 100)])
            await harness.poll()
            assert 5 == len(harness.requested_paths())
            assert {"PROCESSING": 200} == harness.poller.view.by_status

            for _ in range(3):
                await harness.poll()

            assert {"COMPLETED": 200} == harness.poller.view.by_status
            assert 200 == len(harness.poller.view.exposed)
            expected = dict.fromkeys(("attempts", "sent", "delivered", "opened", "operations_completed"), 200)
            assert expected == harness.totals

    async def test_an_incomplete_listing_is_not_applied(self):
        async with simulator_harness() as harness:
            await harness.poll()
            for _ in range(100):
                harness.world.send(fates=[SENT])
            await harness.poll(after=5)
            before = harness.totals

            harness.world.send(fates=[SENT])
            harness.faults.add("repeat-token", times=50)
            await harness.poll(after=5)

            assert before == harness.totals
            assert "bad_payload" == harness.poller.health.problem.reason

    async def test_a_rejected_listing_is_freed_at_once(self):
        async with simulator_harness(max_tracked_operations=50) as harness:
            for _ in range(60):
                harness.world.send(fates=[SENT])
            gc.collect()
            gc.disable()
            try:
                await harness.poll()
                listings = [each for each in gc.get_objects() if isinstance(each, Listing)]
            finally:
                gc.enable()

            assert "bad_payload" == harness.poller.health.problem.reason
            assert [] == listings

    async def test_a_malformed_operation_does_not_affect_the_others_of_its_page(self):
        async with simulator_harness() as harness:
            for _ in range(10):
                harness.world.send(fates=[SENT])
            harness.faults.add("malformed", times=1)

            await harness.poll()

            assert 9 == len(harness.poller.state.tracked)
            assert 1 == harness.poller.state.malformed
            assert harness.poller.health.up

    async def test_unknown_values_are_counted(self):
        async with simulator_harness() as harness:
            for _ in range(4):
                harness.world.send(fates=[SENT])
            for kind in ("unknown-field", "unknown-status", "unknown-counter"):
                harness.faults.add(kind, times=1)

            for _ in range(3):
                await harness.poll()

            assert {"status", "operation", "stats"} == set(harness.poller.state.unknown)


class TestHealth:
    @pytest.mark.parametrize(
        ("kind", "reason"),
        [
            ("401", "auth"),
            ("403", "forbidden"),
            ("404", "not_found"),
            ("429", "rate_limited"),
            ("500", "server"),
            ("502", "server"),
            ("503", "server"),
            ("reset", "connection"),
            ("reset-body", "connection"),
            ("truncated", "bad_payload"),
            ("empty", "bad_payload"),
        ],
    )
    async def test_every_fault_has_its_reason_and_polls_recover(self, kind, reason):
        async with simulator_harness() as harness:
            harness.world.send(fates=[SENT])
            harness.faults.add(kind)

            await harness.poll()
            assert (False, reason) == (harness.poller.health.up, harness.poller.health.problem.reason)
            assert {reason: 1} == harness.poller.health.failures

            harness.faults.clear()
            await harness.poll(after=60)
            assert harness.poller.health.up

    async def test_a_server_that_hangs_is_a_timeout(self):
        async with simulator_harness(request_timeout=0.05) as harness:
            harness.faults.add("hang")

            await harness.poll()

            assert "timeout" == harness.poller.health.problem.reason
            assert {"error": 3} == harness.poller.request_stats.requests

    async def test_a_repeated_failure_is_logged_once(self):
        async with simulator_harness() as harness:
            harness.faults.add("401", times=3)
            harness.faults.add("403", times=1)
            for _ in range(6):
                await harness.poll()

        assert [("poll failed", "auth"), ("poll failed", "forbidden")] == harness.log.events("error")
        assert [("polls succeed again", None), ("polled", None), ("polled", None)] == harness.log.events("info")

    async def test_the_message_of_the_api_is_shown(self):
        async with simulator_harness() as harness:
            harness.faults.add("401")
            await harness.poll()

        assert (
            "401: Authentication Error - invalid username or password (code 20003)"
            == harness.poller.health.problem.message
        )


class TestSaving:
    async def test_a_view_is_published_after_its_changes_are_saved(self):
        """A crash never takes back what a scrape returned."""
        async with simulator_harness() as harness:
            await harness.poll()
            published_while_saving = []

            async def save(snapshot):
                published_while_saving.append((harness.poller.view.totals[0], snapshot.totals[0]))

            harness.poller._save = save
            harness.world.send(fates=[SENT] * 5)
            await harness.poll()

            assert [(0, 5)] == published_while_saving
            assert 5 == harness.poller.view.totals[0]
            assert harness.clock.now == harness.poller.health.last_save

    async def test_failed_saves_do_not_stop_publishing_and_are_logged_once(self):
        async with simulator_harness() as harness:
            saved = []

            async def save(snapshot):
                if harness.clock.now < NOW + 100:
                    raise StoreError("disk is full")
                saved.append(snapshot)

            harness.poller._save = save
            for _ in range(4):
                harness.world.send(fates=[SENT])
                await harness.poll()

            assert harness.poller.health.up
            assert (3, 3) == (harness.poller.health.save_failures, harness.poller.view.totals[0])
            assert 4 == len(saved[0].changed)
            assert [("saving the state failed: a crash before the next save loses counts", None)] == harness.log.events(
                "error"
            )
            assert ("saves succeed again", None) in harness.log.events("info")

    async def test_everything_is_saved_again_if_the_store_has_lost_it(self):
        async with simulator_harness() as harness:
            snapshots = []

            async def save(snapshot):
                snapshots.append(len(snapshot.changed))
                if len(snapshots) == 2:
                    raise StateLostError("removed")

            harness.poller._save = save
            for _ in range(5):
                harness.world.send(fates=[SENT])
            for _ in range(3):
                await harness.poll(after=5)

            assert 5 == snapshots[2]

    async def test_a_gap_longer_than_the_retention_is_logged(self):
        async with simulator_harness() as harness:
            await harness.poll()
            await harness.poll(after=7 * DAY - 60)
            assert [] == harness.log.events("warning")

            await harness.poll(after=7 * DAY + 60)

            ((_, event, fields),) = [entry for entry in harness.log.entries if entry[0] == "warning"]
            assert event.startswith("counts may be missing")
            assert "2026-11-28T11:59:30+00:00" == fields["since"]


class TestLoop:
    async def run(self, harness, polls, **timing):
        """Run the loop for *polls* polls; return when each began, in seconds since the first."""
        began = []
        original = harness.poller.poll

        async def poll():
            if len(began) == polls:
                raise asyncio.CancelledError
            began.append(harness.clock.now)
            await original()

        harness.poller.poll = poll
        with pytest.raises(asyncio.CancelledError):
            await harness.poller.run(**timing)
        return [round(each - began[0], 3) for each in began]

    async def test_it_polls_at_once_and_then_at_every_interval(self):
        async with simulator_harness() as harness:
            assert [0, 30, 60, 90] == await self.run(harness, 4)

    @pytest.mark.parametrize(("first", "rhythm"), [(0, -20), (0, 10), (5, 15), (5, -75)])
    async def test_the_second_poll_is_in_the_rhythm(self, first, rhythm):
        async with simulator_harness() as harness:
            assert [0, 10, 40, 70] == await self.run(harness, 4, first=first, rhythm=rhythm)

    async def test_it_waits_for_its_turn_and_is_alive_meanwhile(self):
        async with simulator_harness() as harness:
            turn = asyncio.Semaphore(0)
            running = asyncio.create_task(self.run(harness, 1, turn=turn))
            await asyncio.sleep(0.01)
            harness.clock.now += 1000
            assert harness.poller.alive
            assert 0 == harness.poller.health.polls

            turn.release()
            assert [0] == await running
            assert 1 == harness.poller.health.polls

    async def test_its_revision_changes_with_every_poll_and_is_unknown_during_one(self):
        async with simulator_harness() as harness:
            revisions = [harness.poller.revision]
            original = harness.poller._collect

            async def collect():
                revisions.append(harness.poller.revision)
                await original()

            harness.poller._collect = collect
            await harness.poll()
            revisions.append(harness.poller.revision)
            harness.faults.add("429", times=1, retry_after=100)
            await harness.poll()
            revisions += [harness.poller.revision]
            harness.clock.now += 100
            revisions += [harness.poller.revision]

        assert [False, True, False, True, True, False] == [each is None for each in revisions]
        assert 3 == len({*revisions} - {None})

    async def test_polls_that_a_long_one_has_missed_are_skipped(self):
        async with simulator_harness() as harness:
            original = harness.poller._collect

            async def slow():
                harness.clock.now += 40
                await original()

            harness.poller._collect = slow
            assert [0, 60, 120] == await self.run(harness, 3)

    async def test_a_throttled_account_waits_for_retry_after(self):
        async with simulator_harness() as harness:
            harness.faults.add("429", times=1, retry_after=100)

            assert [0, 100, 130] == await self.run(harness, 3)
            assert 100 == harness.poller.request_stats.waited_seconds

    async def test_throttling_stretches_the_interval_and_success_shortens_it_again(self):
        async with simulator_harness() as harness:
            harness.faults.add("429", times=3, retry_after=1)
            intervals = []
            original = harness.poller.poll

            async def poll():
                await original()
                intervals.append(harness.poller.health.interval_seconds)

            harness.poller.poll = poll
            await self.run(harness, 7)

        assert [60, 120, 240, 120, 60, 30, 30] == intervals

    async def test_a_loop_without_progress_is_not_alive(self):
        async with simulator_harness() as harness:
            assert harness.poller.alive
            harness.clock.now += 301

            assert not harness.poller.alive

    @pytest.mark.parametrize("fault", ["hang", "429"])
    async def test_a_loop_that_waits_for_the_api_is_alive(self, fault):
        """Three requests of two minutes each, a Retry-After, or the rate limiter: a restart would not help."""
        async with simulator_harness() as harness:
            client = harness.poller._client
            client._timeout_seconds = 120
            alive, requests = [], 0

            async def request(*_):
                nonlocal requests
                requests += 1
                if fault == "429" and requests == 2:
                    raise ThrottledError("rate_limited", "429", 60.0)
                harness.clock.now += 119
                alive.append(harness.poller.alive)
                if fault == "hang":
                    raise ConnectionLostError("timeout", "no response")
                return json.dumps(
                    {"operations": [], "pagination": {"next": str(requests) if requests < 4 else None}}
                ).encode()

            async def sleep(seconds):
                harness.clock.now += seconds - 1
                alive.append(harness.poller.alive)
                harness.clock.now += 1

            client._request, client._sleep = request, sleep
            client._rate_limiter = RateLimiter(0.001, monotonic=harness.clock, sleep=sleep)
            began = harness.clock.now
            await harness.poller.poll()

            assert harness.clock.now - began > 600
            assert {True} == set(alive)
            assert 0 == harness.poller.next_poll_seconds

    async def test_a_wait_is_counted_while_it_lasts(self):
        """A Retry-After of 100 s counts 10 s after 10 s, and no more than 100 s."""
        async with simulator_harness() as harness:
            harness.faults.add("429", times=1, retry_after=100)
            await harness.poll()
            waited = []
            for _ in range(12):
                waited.append(harness.poller.request_stats.waited_seconds)
                harness.clock.now += 10

        assert [*range(0, 101, 10), 100] == waited

    async def test_staleness_does_not_depend_on_the_clock(self):
        """Setting the clock back or ahead neither keeps stale series nor removes current ones."""
        async with simulator_harness() as harness:
            await harness.poll()
            health = harness.poller.health
            harness.faults.add("500")
            for ahead in (-HOUR, HOUR):
                harness.poller._clock = Clock(harness.clock.now + ahead)
                await harness.poll()
                assert not health.stale(harness.clock.now)
            harness.clock.now += 301

            assert health.stale(harness.clock.now)
