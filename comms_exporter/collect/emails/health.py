"""How the collection of emails is going: it never affects the health of the polls."""

from dataclasses import dataclass

from comms_exporter.collect.health import Problem


@dataclass(slots=True)
class EmailHealth:
    """The results of one account's rounds; times are in seconds since the epoch, 0 for never."""

    rounds: int = 0
    problem: Problem | None = None
    last_success: float = 0.0

    @property
    def up(self) -> bool:
        """Whether the last round succeeded."""
        return self.rounds > 0 and self.problem is None
