"""A simulator of Twilio's Comms Email API, for the demo and the tests.

It imports nothing from the rest of the package.
"""

from comms_exporter.simulator.api import LoggedRequest
from comms_exporter.simulator.app import FAULTS, REQUESTS, WORLD, make_app
from comms_exporter.simulator.arguments import WrongFlagError, build_parser, from_arguments, parse_arguments
from comms_exporter.simulator.conditions import Conditions, FailureSpike
from comms_exporter.simulator.fates import NEVER, Fate
from comms_exporter.simulator.faults import Fault, Faults
from comms_exporter.simulator.inbound import InboundEmail
from comms_exporter.simulator.mail import Address, Message
from comms_exporter.simulator.operations import Operation
from comms_exporter.simulator.responses import Dialect
from comms_exporter.simulator.traffic import Sender
from comms_exporter.simulator.world import EmailTally, Tally, World

__all__ = [
    "FAULTS",
    "NEVER",
    "REQUESTS",
    "WORLD",
    "Address",
    "Conditions",
    "Dialect",
    "EmailTally",
    "FailureSpike",
    "Fate",
    "Fault",
    "Faults",
    "InboundEmail",
    "LoggedRequest",
    "Message",
    "Operation",
    "Sender",
    "Tally",
    "World",
    "WrongFlagError",
    "build_parser",
    "from_arguments",
    "make_app",
    "parse_arguments",
]
