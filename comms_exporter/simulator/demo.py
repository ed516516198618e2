"""The demo scenario: a sender that is busy at every hour, with a failure spike every few minutes.

Nothing in it depends on the time of day, so every run looks the same.
"""

from collections.abc import Callable

from comms_exporter.simulator.conditions import Conditions, FailureSpike
from comms_exporter.simulator.traffic import Sender
from comms_exporter.simulator.world import World

SPIKE_AFTER_SECONDS = 30
SPIKE_SECONDS = 30
SPIKE_EVERY_SECONDS = 240

STORY = f"""\
now          Operations in every state are on the status page, which refreshes itself.
             Reload the metrics: the comms_emails_*_total counters move every second.
after {SPIKE_AFTER_SECONDS} s   Half of all new emails fail, for {SPIKE_SECONDS} seconds. Their operations go to the top of the status
             page, comms_emails_failed_total rises, and the account's card says who is lost.
after 2 min  comms_emails_failed_total is flat again, and the operations with failures leave the page
             one by one. The spike comes back every {SPIKE_EVERY_SECONDS // 60} minutes.
"""

# This seed has every state among the first fifty operations for the first five minutes; others lack one now and then.
_SEED = 36
_REQUESTS_PER_HOUR = 10.0
_SENDER = Sender(
    daily_wave=0.0,
    groups=0.7,
    campaigns_per_day=6.0,
    campaign_recipients=200.0,
    scheduled=0.45,
    schedule_seconds=(900.0, 9000.0),
)
# Readers and schedules are fast, so that openings and cancellations happen within a minute; the delay keeps sending
# slow enough to watch.
_SPEED = 180.0
_CONDITIONS = Conditions(delay=600.0, failed=0.002, undelivered=0.01, canceled=0.55)
_STARTED_SECONDS_AGO = 900.0
# Short, so that a demo that is left running stays small.
_RETENTION_SECONDS = 1800.0


def demo_world(clock: Callable[[], float]) -> World:
    """Return a world that has been busy for a while, and whose first failure spike starts in half a minute."""
    now = clock()
    return World(
        seed=_SEED,
        clock=clock,
        speed=_SPEED,
        rate=_REQUESTS_PER_HOUR,
        sender=_SENDER,
        since=now - _STARTED_SECONDS_AGO,
        conditions=_CONDITIONS,
        spike=FailureSpike(
            failed=0.5, starts=now + SPIKE_AFTER_SECONDS, lasts=SPIKE_SECONDS, every=SPIKE_EVERY_SECONDS
        ),
        retention_seconds=_RETENTION_SECONDS,
    )
