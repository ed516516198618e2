"""Scenarios with one problem each, to see which alerts fire."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from comms_exporter.simulator.faults import Faults
from comms_exporter.simulator.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A problem: what it means in real life, and what it changes in the simulator."""

    meaning: str
    conditions: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[Mapping[str, Any], ...] = ()

    def begin(self, world: World, faults: Faults) -> None:
        """Change *world* and *faults* from now on."""
        if self.conditions:
            world.set_conditions(**self.conditions)
        for fault in self.faults:
            faults.add(**fault)


SCENARIOS = MappingProxyType(
    {
        "calm": Scenario(meaning="nothing goes wrong"),
        "failure-spike": Scenario(
            meaning="a third of the emails fail inside Twilio, as with a broken template", conditions={"failed": 0.33}
        ),
        "bounce-storm": Scenario(
            meaning="a third of the emails bounce, as with an outdated list", conditions={"undelivered": 0.33}
        ),
        "provider-block": Scenario(
            meaning="one mailbox provider refuses the sender, so its emails bounce",
            conditions={"refusing_provider": "gmail"},
        ),
        "sender-broken": Scenario(
            meaning="emails from one sender domain fail, as with a removed DNS record",
            conditions={"broken_sender": "news.example.com"},
        ),
        "bad-campaign": Scenario(
            meaning="the emails of one campaign bounce, as with a bought list",
            conditions={"bad_tag": "campaign:newsletter"},
        ),
        "stuck": Scenario(meaning="Twilio accepts emails and sends none", conditions={"stalled": True}),
        "outage": Scenario(meaning="the API responds 500 to every request", faults=({"kind": "500"},)),
        "throttled": Scenario(
            meaning="the API responds 429 to nine requests in ten", faults=({"kind": "429", "share": 0.9},)
        ),
        "revoked-key": Scenario(meaning="the API rejects the credentials", faults=({"kind": "401"},)),
    }
)
