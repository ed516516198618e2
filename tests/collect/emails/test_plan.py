"""Emails are asked for in as few pages as possible."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from operations import NOW, operation

from comms_exporter.collect.emails.deficits import Deficits
from comms_exporter.collect.emails.plan import Reach, cheapest_reach, first_look, windows
from comms_exporter.model.email_records import STAGES

HOUR = 3600
DAY = 24 * HOUR
FAILED = STAGES.index("failed")


class TestReach:
    def test_a_day_is_asked_for_hourly_and_a_week_daily(self):
        reach, asked = Reach(0, 0), []
        for now in range(0, 2 * DAY, 300):
            seconds = reach.seconds(now)
            asked.append(seconds)
            reach = reach.asked(now, seconds)

        assert 2 == sum(seconds > DAY for seconds in asked)
        assert 46 == asked.count(DAY)
        assert 2 * 288 - 48 == asked.count(HOUR)


class TestWindows:
    def test_reach_from_the_oldest_hour_until_now_without_a_gap(self):
        listed = {100 + hour: 4 * hour for hour in range(10)}

        found = windows(100, listed, status="FAILED", now=109.5 * HOUR, page_size=3)

        bounds = [(each.created_after / HOUR, each.created_before and each.created_before / HOUR) for each in found]
        assert [(109, None), (108, 109), (107, 108), (106, 107), (105, 106), (103, 105), (100, 103)] == bounds

    @given(st.dictionaries(st.integers(0, 50), st.integers(0, 500)), st.integers(0, 50), st.integers(1, 100))
    def test_cover_every_moment_once(self, listed, oldest, page_size):
        found = windows(oldest, listed, status=None, now=50.5 * HOUR, page_size=page_size)

        assert found[0].created_before is None
        assert oldest * HOUR == found[-1].created_after
        assert [each.created_after for each in found[:-1]] == [each.created_before for each in found[1:]]

    def test_of_a_quiet_week_are_one_listing(self):
        deficits = Deficits([FAILED])

        assert [("UNDELIVERED", None), ("FAILED", None)] == [
            (each.status, each.created_before) for each in first_look(deficits, all_stages=False, now=NOW, page_size=50)
        ]


class TestCheapestReach:
    def pages(self, oldest, hours, listed, single, page_size):
        """Return how many pages are needed if everything since the hour *oldest* is listed."""
        older = [hour for hour in hours if oldest is None or hour < oldest]
        pages = 0 if oldest is None else 1 + sum(n for hour, n in listed.items() if hour >= oldest) // page_size
        for hour in older:
            if hour not in single:
                return float("inf")
            pages += sum(1 + each.stats[-2] // page_size for each in single[hour])
        return pages

    @given(st.data())
    def test_no_other_needs_fewer_pages(self, data):
        hours = data.draw(st.lists(st.integers(0, 9), unique=True, min_size=1))
        listed = data.draw(st.dictionaries(st.integers(0, 9), st.integers(0, 300)))
        known = data.draw(st.lists(st.sampled_from(hours), unique=True))
        sizes = st.lists(st.integers(1, 90), max_size=5)
        single = {
            hour: [operation(f"{hour} {n}", failed=size) for n, size in enumerate(data.draw(sizes))] for hour in known
        }

        reach = cheapest_reach(hours, listed, single, stage=FAILED, page_size=40)

        fewest = min(self.pages(each, hours, listed, single, 40) for each in (None, *hours))
        assert fewest == self.pages(reach, hours, listed, single, 40)

    @pytest.mark.parametrize(("listed", "expected"), [(39, 5), (2 * 40, None)])
    def test_two_operations_of_one_hour_are_listed_if_that_is_one_page(self, listed, expected):
        single = {5: [operation("a", failed=1), operation("b", failed=1)]}

        assert expected == cheapest_reach([5], {5: listed}, single, stage=FAILED, page_size=40)


class TestDeficits:
    def test_operations_are_asked_for_one_by_one_only_while_all_that_changed_are_known(self):
        deficits = Deficits([FAILED])
        hour = int(NOW // HOUR)
        growth = (1, 1, 1, 0, 0, 0, 0, 1, 0, 1, 0, 0)
        for n in range(50):
            deficits.operation_grew(operation(f"{n}"), growth)
        assert 50 == len(deficits.changed(hour))
        deficits.operation_grew(operation("one more"), growth)
        assert deficits.changed(hour) is None

        deficits.settle({})
        deficits.operation_grew(operation("later"), growth)
        assert ["later"] == [each.id for each in deficits.changed(hour)]

    def test_a_scan_of_the_past_does_not_know_what_changed(self):
        deficits = Deficits([FAILED])
        deficits.operation_restored(operation("a"), (1, 1, 1, 0, 0, 0, 0, 1, 0, 1, 0, 0))

        assert deficits.changed(int(NOW // HOUR)) is None
