"""The conditions that emails meet, and failure spikes that come and go."""

import dataclasses
import math
from dataclasses import dataclass

from comms_exporter.simulator.mail import OTHER_PROVIDER, PROVIDERS, Message

# No block is complete.
_LOST = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What emails meet from the moment they are sent; each share is of the emails that reach that point."""

    failed: float = 0.004
    undelivered: float = 0.025
    opened: float = 0.35
    canceled: float = 0.1  # of the scheduled operations
    delay: float = 1.0  # multiplies the time that sending and delivering take
    stalled: bool = False  # emails stay queued until this is false again
    traffic: float = 1.0  # multiplies the rate of send requests; 0 stops them
    refusing_provider: str = ""  # nearly all emails to this mailbox provider bounce
    broken_sender: str = ""  # nearly all emails from this domain fail
    bad_tag: str = ""  # nearly all emails with this tag bounce, written as key:value

    def __post_init__(self) -> None:
        for name in ("failed", "undelivered", "opened", "canceled"):
            if not 0 <= _number(name, getattr(self, name)) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, not {getattr(self, name)}")
        if not 0 < _number("delay", self.delay) < math.inf:
            raise ValueError(f"delay must be more than 0, not {self.delay}")
        if not 0 <= _number("traffic", self.traffic) < math.inf:
            raise ValueError(f"traffic must be 0 or more, not {self.traffic}")
        if not isinstance(self.stalled, bool):
            raise ValueError(f"stalled must be true or false, not {self.stalled!r}")  # noqa: TRY004 - one kind of error for every bad value
        for name in ("refusing_provider", "broken_sender", "bad_tag"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a string, not {getattr(self, name)!r}")  # noqa: TRY004 - one kind of error for every bad value
        if self.refusing_provider not in {"", OTHER_PROVIDER, *PROVIDERS}:
            raise ValueError(
                f"unknown refusing_provider {self.refusing_provider!r}: must be one of "
                f"{', '.join([*PROVIDERS, OTHER_PROVIDER])}"
            )
        if self.bad_tag and ":" not in self.bad_tag:
            raise ValueError(f"bad_tag must be key:value, not {self.bad_tag!r}")

    @property
    def concern_a_part(self) -> bool:
        """Whether a part of the mail meets other conditions."""
        return bool(self.refusing_provider or self.broken_sender or self.bad_tag)

    def for_message(self, message: Message) -> "Conditions":
        """Return the conditions for the emails of *message*, whoever receives them."""
        conditions = self
        if self.broken_sender and message.sender.domain == self.broken_sender:
            conditions = dataclasses.replace(conditions, failed=_LOST)
        key, _, value = self.bad_tag.partition(":")
        if key and message.tags.get(key) == value:
            conditions = conditions.refusing()
        return conditions

    def refusing(self) -> "Conditions":
        """Return the conditions for emails that the recipient's provider refuses."""
        return dataclasses.replace(self, undelivered=_LOST)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureSpike:
    """A share of emails that fails for a while, again and again; times are in seconds of the world's clock."""

    failed: float
    starts: float
    lasts: float
    every: float

    def apply(self, conditions: Conditions, moment: float) -> Conditions:
        """Return the conditions for an email sent at *moment*."""
        if moment < self.starts or (moment - self.starts) % self.every >= self.lasts:
            return conditions
        return dataclasses.replace(conditions, failed=self.failed)


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, not {value!r}")  # noqa: TRY004 - one kind of error for every bad value
    return value
