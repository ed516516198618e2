"""The simulator's world: what was sent, what becomes of it, and how it is told."""

import dataclasses
import math
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator_client import DAY, START, Clock

from comms_exporter.simulator import NEVER, Conditions, Fate, Tally, World, ids
from comms_exporter.simulator.fates import draw_fates, seeded_random
from comms_exporter.simulator.traffic import Traffic
from comms_exporter.simulator.views import operation_view

HOUR = 3600.0
STATES = ("scheduled", "queued", "sent", "delivered", "opened", "undelivered", "failed", "canceled")
REACHED = ("sent", "delivered", "opened", "undelivered", "failed", "canceled")


def view(world, operation):
    return operation_view(world, operation, world.now())


def everything(world):
    return [view(world, operation) for operation in world.operations()]


def count_emails(world, operation):
    """The same as the counters, but counted one email after the other."""
    return Counter(operation.email_status(email, world.now()) for email in range(operation.total))


# The same examples every time, and as long as they take: nothing here depends on the real clock.
repeatable = settings(derandomize=True, deadline=None, max_examples=40)

conditions = st.builds(
    Conditions,
    failed=st.floats(0, 1),
    undelivered=st.floats(0, 1),
    opened=st.floats(0, 1),
    canceled=st.floats(0, 1),
    delay=st.floats(0.01, 100),
)
mailings = st.lists(
    st.tuples(st.integers(1, 40), st.floats(0, 2 * DAY), conditions),
    min_size=1,
    max_size=5,
)
looks = st.lists(st.floats(0, 8 * DAY), min_size=1, max_size=8).map(sorted)


def mailed(mailing, **options):
    clock = Clock()
    world = World(clock=clock, **options)
    for recipients, wait, met in mailing:
        world.send(recipients, schedule=START + wait, conditions=met)
    return clock, world


class TestCounters:
    @repeatable
    @given(mailings, looks)
    def test_cumulative_ones_hold_every_email_that_came_so_far(self, mailing, looks):
        clock, world = mailed(mailing, reading="cumulative", retention_seconds=math.inf)
        for look in looks:
            clock.now = START + look
            for operation in everything(world):
                stats = operation["stats"]
                assert stats["opened"] <= stats["delivered"] <= stats["sent"] <= stats["total"]
                assert stats["delivered"] + stats["undelivered"] <= stats["sent"]
                assert stats["total"] == sum(
                    stats[name] for name in ("scheduled", "queued", "sent", "failed", "canceled")
                )
                assert min(stats.values()) >= 0

    @repeatable
    @given(mailings, looks)
    def test_exclusive_ones_hold_every_email_once(self, mailing, looks):
        clock, world = mailed(mailing, reading="exclusive", retention_seconds=math.inf)
        for look in looks:
            clock.now = START + look
            for operation in world.operations():
                stats = view(world, operation)["stats"]
                assert stats["total"] == sum(stats[state] for state in STATES)
                assert {state: stats[state] for state in STATES} == {
                    state: count_emails(world, operation)[state.upper()] for state in STATES
                }

    @repeatable
    @given(mailings, looks)
    def test_reached_counts_never_fall(self, mailing, looks):
        clock, world = mailed(mailing)
        before = Tally()
        for look in looks:
            clock.now = START + look
            now = world.tally()
            assert all(getattr(before, name) <= getattr(now, name) for name in (*REACHED, "attempts", "created"))
            before = now

    def test_a_scripted_history_reads_both_ways(self, clock):
        """The same three emails, as Twilio's reference and as Twilio's guide would tell of them."""
        fates = [Fate(sent=1, delivered=2, opened=9), Fate(sent=1, delivered=2), Fate(sent=1, undelivered=5)]
        stats = {}
        for reading in ("cumulative", "exclusive"):
            world = World(clock=Clock(), reading=reading)
            operation = world.send(fates=fates)
            stats[reading] = operation_view(world, operation, START + 10)["stats"]

        zero = {"scheduled": 0, "queued": 0, "failed": 0, "canceled": 0, "total": 3, "recipients": 3, "attempts": 3}
        assert stats["cumulative"] == zero | {"sent": 3, "delivered": 2, "opened": 1, "undelivered": 1}
        assert stats["exclusive"] == zero | {"sent": 0, "delivered": 1, "opened": 1, "undelivered": 1}

    def test_retries_make_more_attempts_than_recipients(self, world, clock):
        operation = world.send(fates=[Fate(sent=1, undelivered=100, retries=(10, 100))])
        seen = []
        for seconds in (0, 1, 10, 100):
            clock.now = START + seconds
            seen.append(view(world, operation)["stats"]["attempts"])
        assert seen == [0, 1, 2, 3]

    def test_some_may_be_left_out(self, clock):
        world = World(clock=clock, omit=["recipients", "attempts"])
        assert {"total", *STATES} == view(world, world.send())["stats"].keys()


class TestStatus:
    def test_goes_from_scheduled_to_processing_to_completed(self, world, clock):
        operation = world.send(schedule=START + HOUR, fates=[Fate(queued=HOUR, sent=HOUR + 5, delivered=HOUR + 9)])
        seen = []
        for seconds in (0, HOUR - 1, HOUR, HOUR + 4, HOUR + 5):
            clock.now = START + seconds
            seen.append(view(world, operation)["status"])
        assert seen == ["SCHEDULED", "SCHEDULED", "PROCESSING", "PROCESSING", "COMPLETED"]

    def test_begins_with_processing_if_nothing_is_scheduled(self, world):
        assert view(world, world.send())["status"] == "PROCESSING"

    def test_a_scheduled_operation_may_be_canceled_with_all_its_emails(self, world, clock):
        operation = world.send(7, schedule=START + HOUR, conditions=Conditions(canceled=1))
        assert view(world, operation)["status"] == "SCHEDULED"
        clock.now += HOUR
        answer = view(world, operation)
        assert answer["status"] == "CANCELED"
        assert (answer["stats"]["canceled"], answer["stats"]["scheduled"]) == (7, 0)
        assert answer["updatedAt"] < view(world, world.send())["createdAt"]

    def test_counters_still_move_after_completed(self, world, clock):
        operation = world.send(fates=[Fate(sent=1, delivered=2, opened=HOUR), Fate(sent=1, undelivered=2 * HOUR)])
        clock.now += 10
        early = view(world, operation)
        clock.now += 2 * HOUR
        late = view(world, operation)
        assert early["status"] == late["status"] == "COMPLETED"
        assert (early["stats"]["opened"], early["stats"]["undelivered"]) == (0, 0)
        assert (late["stats"]["opened"], late["stats"]["undelivered"]) == (1, 1)
        assert early["updatedAt"] < late["updatedAt"]

    def test_is_completed_when_everything_failed(self, world, clock):
        operation = world.send(3, conditions=Conditions(failed=1))
        clock.now += HOUR
        answer = view(world, operation)
        assert (answer["status"], answer["stats"]["failed"]) == ("COMPLETED", 3)


class TestTimestamps:
    def test_are_whole_seconds_of_the_clock_rounded_down(self, clock):
        clock.now = START + 0.9
        world = World(clock=clock, speed=1000)
        operation = world.send(fates=[Fate(sent=1.5, delivered=3.05)])
        clock.now += 60
        answer = view(world, operation)
        assert answer["createdAt"] == "2025-06-15T15:06:40Z"
        assert answer["updatedAt"] == "2025-06-15T15:06:43Z"

    def test_updated_is_created_until_something_happens(self, world, clock):
        operation = world.send(fates=[Fate(sent=60)])
        clock.now += 59
        answer = view(world, operation)
        assert answer["updatedAt"] == answer["createdAt"]


class TestSeed:
    def test_the_same_one_makes_the_same_world(self):
        worlds = [World(seed=7, clock=Clock(), rate=30, history_seconds=DAY / 2) for _ in range(2)]
        assert everything(worlds[0]) == everything(worlds[1])
        assert len(everything(worlds[0])) > 100

    def test_another_one_makes_another_world(self):
        worlds = [World(seed=seed, clock=Clock(), rate=30, history_seconds=DAY / 2) for seed in (7, 8)]
        assert everything(worlds[0]) != everything(worlds[1])

    @repeatable
    @given(st.lists(st.floats(1, 3000), min_size=1, max_size=10))
    def test_traffic_does_not_depend_on_who_looks_when(self, steps):
        clocks = [Clock(), Clock()]
        worlds = [World(seed=7, clock=clock, rate=10, speed=3) for clock in clocks]
        for step in steps:
            clocks[1].now = min(clocks[1].now + step, START + HOUR)
            worlds[1].advance()
        by_hand = worlds[1].send()
        for clock in clocks:
            clock.now = START + HOUR
        undisturbed, disturbed = map(everything, worlds)
        assert [view(worlds[1], by_hand)] == [answer for answer in disturbed if answer not in undisturbed]


class TestTraffic:
    def test_a_week_of_history_is_moderate_and_mixed(self):
        world = World(seed=3, clock=Clock(), rate=12, history_seconds=7 * DAY)
        operations = list(world.operations())
        sizes = [operation.total for operation in operations]
        assert 1000 < len(sizes) < 3000
        assert sizes.count(1) > len(sizes) / 2
        assert 7 <= sum(size >= 1000 for size in sizes) <= 70
        assert {"SCHEDULED", "COMPLETED", "CANCELED"} <= {operation.status(world.now()) for operation in operations}
        assert START - 7 * DAY < min(operation.created for operation in operations)
        assert max(operation.created for operation in operations) <= START

    def test_follows_the_day(self):
        world = World(seed=3, clock=Clock(), rate=100, history_seconds=2 * DAY)
        hours = Counter(int(operation.created % DAY // HOUR) for operation in world.operations())
        assert hours[15] > 3 * hours[3]

    def test_speed_brings_more_of_it_and_hurries_it(self):
        rates = {}
        for speed in (1, 60):
            clock = Clock()
            world = World(seed=3, clock=clock, rate=12, speed=speed)
            clock.now += DAY / 60
            rates[speed] = len(everything(world))
        assert rates[60] > 200
        assert rates[1] < 20

    def test_can_be_turned_down_and_up_again(self):
        clock = Clock()
        world = World(seed=3, clock=clock, rate=60)
        world.set_conditions(traffic=0)
        clock.now += DAY
        assert everything(world) == []
        world.set_conditions(traffic=1)
        clock.now += DAY
        assert 1000 < len(everything(world)) < 2000
        assert min(operation.created for operation in world.operations()) > START + DAY

    def test_stops_and_goes_on_at_the_moment_it_is_told(self, clock):
        world = World(seed=3, clock=clock, rate=3600)
        for moment, factor in ((100, 0), (200, 1), (300, 0)):
            clock.now = START + moment
            world.set_conditions(traffic=factor)
        created = [operation.created - START for operation in world.operations(newest_first=False)]
        assert [moment for moment in created if 100 < moment < 200] == []
        assert len([moment for moment in created if moment < 100]) > 10
        assert len([moment for moment in created if moment > 200]) > 10

    def test_keeps_its_rate(self):
        traffic = Traffic(seeded_random(3), rate=1.0, start=START, accelerated_from=START, speed=1.0)
        assert 7200 == pytest.approx(len(list(traffic.arrivals(START + 300 * DAY, 1.0))), rel=0.04)

    def test_there_is_none_unless_asked_for(self, world, clock):
        clock.now += DAY
        assert everything(world) == []


class TestConditions:
    def test_hold_for_what_is_sent_from_then_on(self, world, clock):
        before = world.send(2000)
        world.set_conditions(failed=0.5)
        after = world.send(2000)
        clock.now += HOUR
        assert view(world, before)["stats"]["failed"] < 40
        assert 900 < view(world, after)["stats"]["failed"] < 1100

    def test_the_shares_are_of_those_that_come_so_far(self, world, clock):
        operation = world.send(4000, conditions=Conditions(failed=0.5, undelivered=0.5, opened=0.5))
        clock.now += 6 * DAY
        stats = view(world, operation)["stats"]
        assert 1850 < stats["failed"] < 2150
        assert 900 < stats["undelivered"] < 1100
        assert 900 < stats["delivered"] < 1100
        assert 400 < stats["opened"] < 600

    def test_a_longer_delay_holds_mail_back(self, world, clock):
        usual, slow = world.send(100), world.send(100, conditions=Conditions(delay=100))
        clock.now += 30
        assert view(world, usual)["status"] == "COMPLETED"
        assert view(world, slow)["stats"]["sent"] < 50

    def test_stalled_mail_stays_queued_until_the_stall_ends(self, world, clock):
        flowing = world.send(10)
        world.set_conditions(stalled=True)
        stuck = world.send(10)
        clock.now += DAY
        assert view(world, flowing)["status"] == "COMPLETED"
        assert (view(world, stuck)["status"], view(world, stuck)["stats"]["queued"]) == ("PROCESSING", 10)
        world.set_conditions(stalled=False)
        assert view(world, stuck)["stats"]["queued"] == 10
        clock.now += HOUR
        assert view(world, stuck)["status"] == "COMPLETED"
        assert stuck.created + DAY < stuck.updated(world.now())

    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"failed": 1.5}, "failed must be between 0 and 1, not 1.5"),
            ({"opened": "all"}, "opened must be a number, not 'all'"),
            ({"delay": 0}, "delay must be more than 0, not 0"),
            ({"traffic": -1}, "traffic must be 0 or more, not -1"),
            ({"stalled": 1}, "stalled must be true or false, not 1"),
        ],
    )
    def test_that_cannot_be_are_refused_and_change_nothing(self, world, changes, complaint):
        before = world.conditions
        with pytest.raises(ValueError, match=complaint):
            world.set_conditions(**changes)
        assert before == world.conditions


class TestFates:
    @pytest.mark.parametrize(
        ("fate", "error"),
        [
            (Fate(sent=2, delivered=1), "delivered comes before sent"),
            (Fate(sent=1, opened=3), "opened comes before delivered"),
            (Fate(delivered=3), "delivered comes before sent"),
            (Fate(sent=1, failed=1), "a failed email is not sent"),
            (Fate(sent=1, delivered=2, undelivered=2), "delivered or undelivered, not both"),
            (Fate(canceled=1), "only a scheduled email can be canceled"),
            (Fate(queued=-1), "nothing can happen before the operation is created"),
            (Fate(sent=2, retries=(1,)), "a retry comes before sent"),
        ],
    )
    def test_that_cannot_be_are_refused(self, world, fate, error):
        with pytest.raises(ValueError, match=error):
            world.send(fates=[Fate(), fate])

    @repeatable
    @given(st.integers(), conditions, st.floats(0, DAY), st.floats(0.1, 1000))
    def test_drawn_ones_are_never_refused(self, seed, met, wait, speed):
        drawn = draw_fates(seeded_random(seed), 20, met, wait=wait, speed=speed)
        assert {None} == {fate.error() for fate in drawn}
        assert {None} == {fate.resumed(at=DAY).error() for fate in drawn}

    @pytest.mark.parametrize("recipients", [0, 10_001])
    def test_an_operation_has_1_to_10000_of_them(self, world, recipients):
        with pytest.raises(ValueError, match=f"1 to 10000 recipients, not {recipients}"):
            world.send(recipients)


class TestTally:
    @repeatable
    @given(mailings, st.floats(0, 6 * DAY))
    def test_equals_a_count_of_the_emails_one_by_one(self, mailing, look):
        clock, world = mailed(mailing)
        clock.now += look
        operations = list(world.operations())
        emails = sum((count_emails(world, operation) for operation in operations), Counter())
        statuses = Counter(view(world, operation)["status"] for operation in operations)
        tally = world.tally()
        assert dataclasses.asdict(tally) == {
            "created": emails.total(),
            "recipients": emails.total(),
            "attempts": sum(view(world, operation)["stats"]["attempts"] for operation in operations),
            "sent": emails["SENT"] + emails["DELIVERED"] + emails["OPENED"] + emails["UNDELIVERED"],
            "delivered": emails["DELIVERED"] + emails["OPENED"],
            "opened": emails["OPENED"],
            "undelivered": emails["UNDELIVERED"],
            "failed": emails["FAILED"],
            "canceled": emails["CANCELED"],
            "operations_created": len(mailing),
            "operations_completed": statuses["COMPLETED"],
            "operations_canceled": statuses["CANCELED"],
        }

    def test_is_the_same_under_either_reading(self):
        worlds = [
            World(clock=Clock(), rate=30, history_seconds=DAY / 2, reading=name) for name in ("cumulative", "exclusive")
        ]
        assert worlds[0].tally() == worlds[1].tally()

    def test_may_begin_after_a_moment(self, world, clock):
        world.send(3)
        clock.now += 1
        world.send(4)
        assert (world.tally().created, world.tally(since=START).created, world.tally(since=START + 1).created) == (
            7,
            4,
            0,
        )

    @pytest.mark.parametrize("retention", ["gone", "thin"])
    def test_keeps_what_the_api_has_forgotten(self, clock, retention):
        world = World(clock=clock, retention=retention)
        world.send(50)
        clock.now += 6.9 * DAY
        before = world.tally()
        clock.now += 30 * DAY
        assert before == world.tally()
        assert before.sent > 40


class TestFreezing:
    def test_stops_everything_until_it_thaws(self, clock):
        world = World(clock=clock, rate=600, speed=10)
        clock.now += 60
        world.freeze()
        frozen = everything(world), world.tally(), world.now()
        clock.now += 600
        assert frozen == (everything(world), world.tally(), world.now())
        world.thaw()
        assert len(everything(world)) > 2 * len(frozen[0])
        assert world.now() == clock.now

    def test_a_clock_that_steps_back_does_not_turn_time_back(self, world, clock):
        operation = world.send(fates=[Fate(sent=5)])
        clock.now += 10
        before = view(world, operation)
        clock.now -= 9
        assert before == view(world, operation)


class TestRetention:
    def test_ends_7_days_after_creation(self, world, clock):
        operation = world.send(2)
        clock.now += 7 * DAY - 1
        assert operation is world.find(operation.id)
        assert [operation] == list(world.operations())
        assert world.find_email(ids.email_id(operation.id, 1)) == (operation, 1)
        clock.now += 1
        assert world.find(operation.id) is None
        assert list(world.operations()) == []
        assert world.find_email(ids.email_id(operation.id, 1)) is None

    def test_may_leave_operations_with_thinner_counters(self, clock):
        world = World(clock=clock, retention="thin")
        operation = world.send(fates=[Fate(sent=1, delivered=2)] * 2)
        clock.now += 8 * DAY
        assert [operation] == list(world.operations())
        stats = view(world, world.find(operation.id))["stats"]
        assert (stats["total"], stats["sent"], stats["delivered"]) == (2, 0, 0)
        assert world.find_email(ids.email_id(operation.id, 1)) is None


class TestOrder:
    def test_is_that_of_creation_whatever_the_order_of_sending(self, world, clock):
        clock.now += 100
        for seconds in (50, 10, 90, 10):
            world.send(at=START + seconds)
        assert [90, 50, 10, 10] == [operation.created - START for operation in world.operations()]
        assert [10, 10, 50, 90] == [operation.created - START for operation in world.operations(newest_first=False)]

    def test_what_is_sent_in_the_future_is_not_there_yet(self, world, clock):
        operation = world.send(at=START + 10)
        assert (list(world.operations()), world.find(operation.id), world.tally().created) == ([], None, 0)
        clock.now += 10
        assert ([operation], operation, 1) == (
            list(world.operations()),
            world.find(operation.id),
            world.tally().created,
        )


class TestIds:
    @repeatable
    @given(st.floats(0, 4e9), st.integers(0, 2**80 - 1))
    def test_tell_the_time_of_creation_and_look_like_twilios(self, created, entropy):
        identifier = ids.operation_id(created, entropy)
        assert re.fullmatch("comms_operation_[0-7][a-hjkmnpqrstv-z0-9]{25}", identifier)
        milliseconds = 0
        for character in identifier.removeprefix("comms_operation_")[:10]:
            milliseconds = milliseconds * 32 + ids.ALPHABET.index(character)
        assert milliseconds == int(created * 1000)

    @repeatable
    @given(st.integers(0, 9999))
    def test_of_emails_name_their_place_in_the_operation(self, email):
        operation = ids.operation_id(START, 2**80 - 1)
        identifier = ids.email_id(operation, email)
        assert re.fullmatch("comms_email_[0-7][a-hjkmnpqrstv-z0-9]{25}", identifier)
        assert ids.email_index(identifier) == email
        assert ids.stem(identifier) == ids.stem(operation)

    @pytest.mark.parametrize(
        "identifier",
        [
            "",
            "x",
            "comms_email_",
            "comms_operation_01h9krwprkeee8fzqspvwy6nq8",
            "comms_email_01h9krwprkeee8fzqspvwy6nqü",
        ],
    )
    def test_of_something_else_name_no_email(self, world, identifier):
        assert ids.email_index(identifier) is None
        assert world.find_email(identifier) is None


class TestWorld:
    @pytest.mark.parametrize(("option", "value"), [("speed", 0), ("speed", math.inf), ("rate", -1), ("rate", math.nan)])
    def test_refuses_what_makes_no_sense(self, option, value):
        with pytest.raises(ValueError, match=f"{option} must be"):
            World(clock=Clock(), **{option: value})

    def test_never_is_a_fate_too(self, world, clock):
        operation = world.send(fates=[Fate(queued=NEVER)])
        clock.now += 6 * DAY
        assert view(world, operation)["status"] == "SCHEDULED"
