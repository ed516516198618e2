"""A simulator of Twilio's Comms Email API, to see the exporter work without an account and to test it against."""

from comms_exporter.simulator.answers import Dialect
from comms_exporter.simulator.api import Served
from comms_exporter.simulator.app import FAULTS, REQUESTS, WORLD, make_app
from comms_exporter.simulator.arguments import WrongFlagError, build_parser, from_arguments, parse_arguments
from comms_exporter.simulator.fates import NEVER, Conditions, Fate
from comms_exporter.simulator.faults import Fault, Faults
from comms_exporter.simulator.operations import Operation
from comms_exporter.simulator.world import Tally, World

__all__ = [
    "FAULTS",
    "NEVER",
    "REQUESTS",
    "WORLD",
    "Conditions",
    "Dialect",
    "Fate",
    "Fault",
    "Faults",
    "Operation",
    "Served",
    "Tally",
    "World",
    "WrongFlagError",
    "build_parser",
    "from_arguments",
    "make_app",
    "parse_arguments",
]
