"""Inbound emails: replies, which belong to no operation."""

from typing import NamedTuple

from comms_exporter.simulator import ids
from comms_exporter.simulator.mail import Address


class InboundEmail(NamedTuple):
    """An email that somebody sent to the account; its id sorts it among those of the same moment."""

    created: float
    id: str
    sender: Address
    to: Address

    @property
    def key(self) -> tuple[float, str]:
        """Its place in the order of creation."""
        return self.created, self.id


def inbound_email(created: float, entropy: int, *, sender: Address, to: Address) -> InboundEmail:
    """Return the inbound email with the id that follows from its time of creation and 80 random bits."""
    return InboundEmail(created, ids.inbound_id(created, entropy), sender, to)
