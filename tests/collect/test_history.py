"""The history of the counters of operations, which is bounded."""

from operations import email

from comms_exporter.collect.emails.state import Loss
from comms_exporter.collect.history import AccountHistory, History, Point
from comms_exporter.model.operations import Operation
from comms_exporter.model.readings import Reading
from comms_exporter.model.records import Tracked


def operation(name="op", updated=10.0, packed=b"0"):
    return Operation(name, "PROCESSING", 0.0, updated, packed)


def tracked(*operations):
    return [Tracked(each, Reading.UNDECIDED, None) for each in operations]


def loss(of="op", provider="gmail", status="FAILED"):
    return Loss(email=email(status=status, of=of), provider=provider, tags={}, delay=None)


def times(history, name="op"):
    return [point.time for point in history.points("a", name)]


class TestHistory:
    def test_has_a_point_for_each_change(self):
        history = History()
        for updated, packed in ((10.0, b"0"), (20.0, b"1"), (25.0, b"1"), (30.0, b"2")):
            history.add("a", [operation(updated=updated, packed=packed)], updated + 5)

        assert [Point(10.0, b"0"), Point(20.0, b"1"), Point(30.0, b"2")] == history.points("a", "op")

    def test_times_never_go_back_and_are_never_in_the_future(self):
        history = History()
        for updated, packed, now in ((99.0, b"0", 20.0), (10.0, b"1", 30.0), (25.0, b"2", 40.0)):
            history.add("a", [operation(updated=updated, packed=packed)], now)

        assert [20.0, 20.0, 25.0] == times(history)

    def test_each_owner_has_its_own(self):
        history = History()
        history.add("a", [operation()], 20.0)

        assert [] == history.points("b", "op")

    def test_gets_coarser_in_the_middle_when_it_grows(self):
        history = History(max_points=8)
        for moment in range(200):
            history.add("a", [operation(updated=float(moment), packed=b"%d" % moment)], 200.0)
            assert len(times(history)) <= 8

        assert (0.0, 199.0) == (times(history)[0], times(history)[-1])
        assert times(history) == sorted(times(history))

    def test_drops_the_operations_that_changed_longest_ago(self):
        history = History(max_operations=2)
        for name in ("one", "two", "one", "three"):
            history.add("a", [operation(name)], 20.0)

        assert [1, 0, 1] == [len(history.points("a", name)) for name in ("one", "two", "three")]


class TestAccountHistory:
    def test_ends_with_what_the_counters_are_now(self):
        account = AccountHistory(History())
        account.start(tracked(operation()), 15.0)

        assert [] == account.points(operation())
        assert [Point(10.0, b"0"), Point(20.0, b"1")] == account.points(operation(updated=20.0, packed=b"1"))

    def test_an_operation_that_has_not_changed_has_none(self):
        account = AccountHistory(History())
        account.look(tracked(operation()), 20.0)

        assert [] == account.points(operation())
        assert [] == account.points(operation("other"))

    def test_forgotten_operations_are_left_out(self):
        account = AccountHistory(History())
        account.look([None, *tracked(operation())], 20.0)

        assert 2 == len(account.points(operation(packed=b"1")))

    def test_a_poll_adds_at_most_as_many_operations_as_are_kept(self):
        history = History(max_operations=3)
        account = AccountHistory(history)
        names = [str(number) for number in range(10)]
        account.look(tracked(*map(operation, names)), 20.0)

        assert ["0", "1", "2"] == [each for each in names if account.points(operation(each, packed=b"1"))]

    def test_many_changes_are_followed_by_a_pause(self):
        account = AccountHistory(History(max_operations=30))

        def look(now, count):
            account.look(tracked(*(operation(f"op{n}", now, b"%d" % now) for n in range(count))), now)
            return [point.time for point in account.points(operation("op0", now, b"last"))][:-1]

        assert [10.0] == look(10.0, 30)
        assert [10.0] == look(11.0, 15)
        assert [10.0, 12.0] == look(12.0, 15)
        assert [10.0, 12.0, 13.0] == look(13.0, 1)

    def test_a_clock_that_is_set_back_ends_the_pause(self):
        account = AccountHistory(History())
        account.look(tracked(*(operation(str(n)) for n in range(1000))), 1000.0)
        account.look(tracked(operation("late")), 500.0)

        assert 2 == len(account.points(operation("late", packed=b"1")))


class TestLosses:
    def test_are_counted_by_operation_provider_and_status(self):
        account = AccountHistory(History())
        account.add_losses(
            [loss(), loss(), loss(status="UNDELIVERED"), loss(provider="yahoo"), loss("other"), loss(None)]
        )
        account.add_losses([loss()])

        assert {("gmail", "FAILED"): 3, ("gmail", "UNDELIVERED"): 1, ("yahoo", "FAILED"): 1} == account.losses("op")
        assert {} == account.losses("unknown")

    def test_each_account_has_its_own(self):
        history = History()
        account, other = AccountHistory(history), AccountHistory(history)
        account.add_losses([loss()])

        assert {} == other.losses("op")

    def test_those_of_the_operations_that_lost_emails_longest_ago_are_dropped(self):
        account = AccountHistory(History(max_operations=2))
        account.add_losses([loss("one"), loss("two"), loss("one"), loss("three")])

        assert [2, 0, 1] == [sum(account.losses(name).values()) for name in ("one", "two", "three")]
