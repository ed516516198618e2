"""Days that go wrong in one way each, to see which alerts notice."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from comms_exporter.simulator.faults import Faults
from comms_exporter.simulator.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What changes, and what that is like in real life."""

    meaning: str
    conditions: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[Mapping[str, Any], ...] = ()

    def begin(self, world: World, faults: Faults) -> None:
        """Let it happen to *world* from now on."""
        if self.conditions:
            world.set_conditions(**self.conditions)
        for fault in self.faults:
            faults.add(**fault)


SCENARIOS = MappingProxyType(
    {
        "calm": Scenario(meaning="nothing goes wrong"),
        "failure-spike": Scenario(
            meaning="a third of the mail fails inside Twilio, as after a wrong template", conditions={"failed": 0.33}
        ),
        "bounce-storm": Scenario(
            meaning="a third of the mail bounces, as with a stale list", conditions={"undelivered": 0.33}
        ),
        "stuck": Scenario(meaning="Twilio takes mail and sends none", conditions={"stalled": True}),
        "outage": Scenario(meaning="the API answers 500 to everything", faults=({"kind": "500"},)),
        "throttled": Scenario(
            meaning="the API answers nearly everything with 429", faults=({"kind": "429", "share": 0.9},)
        ),
        "revoked-key": Scenario(meaning="the credentials are refused", faults=({"kind": "401"},)),
    }
)
