"""A poll lists the narrowest window that misses nothing."""

import pytest

from comms_exporter.collect.schedule import DAY, HOUR, MARGIN, RETENTION, Schedule, Window, requests_per_hour

INTERVAL = 30.0
SWEEP = Window(RETENTION + MARGIN, sweep=True)


@pytest.fixture
def schedule():
    """A schedule at time 0, whose first sweep has succeeded."""
    schedule = Schedule(interval=INTERVAL, now=0.0)
    schedule.listed(schedule.window(0.0, outage=0.0), 0.0)
    return schedule


def windows(schedule, polls):
    """Return the windows of that many successful polls after the first one."""
    found = []
    for n in range(1, polls + 1):
        window = schedule.window(n * INTERVAL, outage=0.0)
        schedule.listed(window, n * INTERVAL)
        found.append(window)
    return found


def test_the_first_window_is_a_sweep():
    assert SWEEP == Schedule(interval=INTERVAL, now=0.0).window(0.0, outage=0.0)


def test_a_sweep_stays_due_until_it_has_succeeded():
    schedule = Schedule(interval=INTERVAL, now=0.0)

    assert [SWEEP, SWEEP] == [schedule.window(now, outage=0.0) for now in (0.0, INTERVAL)]


def test_every_tenth_poll_lists_a_day_and_one_per_hour_everything(schedule):
    found = windows(schedule, 121)

    assert [*range(10, 120, 10)] == [n for n, window in enumerate(found, start=1) if window.seconds == DAY]
    assert [120] == [n for n, window in enumerate(found, start=1) if window.sweep]
    assert {Window(HOUR, False), Window(DAY, False), SWEEP} == set(found)


@pytest.mark.parametrize(
    ("outage", "window"),
    [
        (60.0, Window(HOUR + 60.0, False)),
        (299.0, Window(HOUR + 299.0, False)),
        (300.0, SWEEP),
        (9999.0, SWEEP),
    ],
)
def test_an_outage_makes_the_window_longer_and_after_ten_intervals_a_sweep(schedule, outage, window):
    assert window == schedule.window(INTERVAL, outage=outage)


@pytest.mark.parametrize(("operations", "requests"), [(100, 120), (10_000, 141), (1_000_000, 3222)])
def test_the_requests_per_hour_that_the_readme_states(operations, requests):
    assert requests == requests_per_hour(operations, interval=30, page_size=1000)
