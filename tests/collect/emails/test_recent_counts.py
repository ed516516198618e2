"""The counts of about an hour ago, which the present ones are compared with."""

from comms_exporter.collect.emails.recent_counts import RecentCounts

HOUR = 3600


def test_begins_with_the_counts_of_the_start():
    recent = RecentCounts({}, 100)
    recent.look({("provider", "gmail"): (1,)}, 160)

    assert (100, {}) == recent.before


def test_is_an_hour_old_at_least_once_there_is_so_much_and_little_more():
    recent = RecentCounts(0, 0)
    for minute in range(1, 600):
        now = 60 * minute
        recent.look(now, now)
        assert recent.before.time == recent.before.counts
        if now > HOUR:
            assert HOUR <= now - recent.before.time <= 1.25 * HOUR


def test_keeps_a_few_counts_only():
    recent = RecentCounts(0, 0)
    for second in range(5 * HOUR):
        recent.look(second, second)

    assert len(recent._kept) <= 6


def test_a_clock_that_is_set_back_starts_again():
    recent = RecentCounts("start", 50_000)
    recent.look("later", 60_000)
    recent.look("back", 10_000)
    recent.look("after", 10_000 + 2 * HOUR)

    assert recent.before.time >= 10_000
