"""The same history gives the same counts, whether its counters are cumulative or exclusive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comms_exporter.model.operations import STATS
from comms_exporter.model.readings import REACHED, Reading, decreased_stages, detect_reading, reached, reached_at_most

CUMULATIVE, EXCLUSIVE, UNDECIDED = Reading.CUMULATIVE, Reading.EXCLUSIVE, Reading.UNDECIDED


def stats(**counters):
    return tuple(counters.get(name, 0) for name in STATS)


def named(values):
    return {name: value for name, value in zip(REACHED, values, strict=True) if value}


# Every sample that Twilio has published, by page (S1 is docs.comms.twilio.com/.../fetch-operation).
SAMPLES = [
    pytest.param(
        stats(total=3, recipients=3, attempts=3, sent=3, delivered=3, opened=2),
        CUMULATIVE,
        {"total": 3, "recipients": 3, "attempts": 3, "sent": 3, "delivered": 3, "opened": 2},
        id="S1 fetch an operation",
    ),
    pytest.param(
        stats(total=5, recipients=5, attempts=5, sent=5, delivered=5, opened=3),
        CUMULATIVE,
        {"total": 5, "recipients": 5, "attempts": 5, "sent": 5, "delivered": 5, "opened": 3},
        id="S2 list operations, completed",
    ),
    pytest.param(
        stats(total=3, recipients=3, scheduled=3),
        UNDECIDED,
        {"total": 3, "recipients": 3},
        id="S3 list operations, scheduled",
    ),
    pytest.param(
        (2, None, None, 0, 0, 0, 2, 0, 0, 0, 0),
        EXCLUSIVE,
        {"total": 2, "sent": 2, "delivered": 2},
        id="S4 the email tracking guide",
    ),
    pytest.param(
        stats(total=1, delivered=1), EXCLUSIVE, {"total": 1, "sent": 1, "delivered": 1}, id="S5 S6 S11 other guides"
    ),
    pytest.param(
        stats(
            total=10, recipients=10, attempts=12, scheduled=2, queued=5, sent=3, delivered=3, opened=1, undelivered=1
        ),
        CUMULATIVE,
        {
            "total": 10,
            "recipients": 10,
            "attempts": 12,
            "sent": 3,
            "delivered": 3,
            "opened": 1,
            "undelivered": 1,
        },
        id="S7 list operations of messages",
    ),
    pytest.param(stats(total=1, attempts=1), UNDECIDED, {"total": 1, "attempts": 1}, id="S8 between states"),
    pytest.param(
        stats(total=147, scheduled=20, queued=50, sent=70, failed=5, canceled=2),
        UNDECIDED,
        {"total": 147, "sent": 70, "failed": 5, "canceled": 2},
        id="S9 a clean partition, nothing delivered",
    ),
    pytest.param(
        stats(total=300, sent=295, failed=5), UNDECIDED, {"total": 300, "sent": 295, "failed": 5}, id="S10 the same"
    ),
]


@pytest.mark.parametrize(("counters", "reading", "expected"), SAMPLES)
def test_reads_every_published_sample(counters, reading, expected):
    assert reading == detect_reading(counters)
    assert expected == named(reached(counters, reading))


@st.composite
def emails(draw):
    """Return one operation's emails, each as the stages that it has reached."""
    return draw(
        st.lists(
            st.sampled_from(
                [
                    (),
                    ("queued",),
                    ("sent",),
                    ("sent", "delivered"),
                    ("sent", "delivered", "opened"),
                    ("sent", "undelivered"),
                    ("failed",),
                    ("canceled",),
                ]
            ).map(lambda stages: stages or ("scheduled",)),
            min_size=1,
            max_size=20,
        )
    )


def cumulative(history):
    return stats(
        total=len(history),
        recipients=len(history),
        **{name: sum(name in stages for stages in history) for name in STATS[3:]},
    )


def exclusive(history):
    return stats(
        total=len(history),
        recipients=len(history),
        **{name: sum(name == stages[-1] for stages in history) for name in STATS[3:]},
    )


@given(emails())
def test_the_same_history_counts_the_same_under_both_readings(history):
    under_one, under_other = cumulative(history), exclusive(history)

    assert reached(under_one, detect_reading(under_one)) == reached(under_other, detect_reading(under_other))


@given(emails())
def test_no_reading_is_mistaken_for_the_other(history):
    assert detect_reading(cumulative(history)) is not EXCLUSIVE
    assert detect_reading(exclusive(history)) is not CUMULATIVE


@given(st.lists(st.none() | st.integers(0, 50), min_size=11, max_size=11).map(tuple))
def test_the_bounds_of_undecided_counters_hold_under_both_readings(counters):
    for reading in (CUMULATIVE, EXCLUSIVE):
        for low, true, high in zip(
            reached(counters, UNDECIDED), reached(counters, reading), reached_at_most(counters, UNDECIDED), strict=True
        ):
            assert low <= true <= high


class TestDecreasedStages:
    def test_names_the_stages_that_decreased(self):
        assert ["sent", "delivered"] == decreased_stages(
            stats(sent=5, delivered=4), stats(sent=4, delivered=3), CUMULATIVE
        )

    def test_an_email_that_moves_on_decreases_no_stage(self):
        assert [] == decreased_stages(stats(sent=5), stats(sent=1, delivered=3, undelivered=1), EXCLUSIVE)

    def test_undecided_counters_must_decrease_under_both_readings(self):
        assert [] == decreased_stages(stats(sent=5), stats(sent=1, delivered=4), UNDECIDED)
        assert ["sent"] == decreased_stages(stats(sent=5), stats(sent=4), UNDECIDED)

    def test_a_missing_counter_is_no_decrease(self):
        missing = (5, None, None, 0, 0, None, 3, 0, 0, 0, 0)

        assert [] == decreased_stages(
            stats(total=5, recipients=5, attempts=9, sent=5, delivered=3), missing, CUMULATIVE
        )
