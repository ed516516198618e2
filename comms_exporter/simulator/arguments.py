"""The simulator's command line."""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import get_args

from aiohttp import web

from comms_exporter.simulator.app import make_app
from comms_exporter.simulator.demo import demo_world
from comms_exporter.simulator.faults import KINDS, Fault, Faults
from comms_exporter.simulator.responses import Bounds, Dialect, EmailLink, EmailTo, Envelope, ErrorShape, Order
from comms_exporter.simulator.views import COUNTERS
from comms_exporter.simulator.world import WEEK_SECONDS, Reading, Retention, World

# What the demo decides itself, by the names of the parsed flags.
_WORLD_FLAGS = MappingProxyType(
    {
        "seed": "--seed",
        "speed": "--speed",
        "rate": "--rate",
        "no_history": "--no-history",
        "reading": "--reading",
        "omit": "--omit",
        "retention": "--retention",
    }
)


class WrongFlagError(Exception):
    """A flag is wrong; the message says in one line how to fix it."""


def build_parser(*, prog: str = "simulator") -> argparse.ArgumentParser:
    """Return the parser for all flags."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Simulate Twilio's Comms Email API.", allow_abbrev=False, exit_on_error=False
    )
    parser.add_argument(
        "--web.listen-address", dest="listen_address", default="127.0.0.1:10068", metavar="ADDRESS",
        help="address to listen on (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", default="0", help="random seed: the same seed produces the same emails (default %(default)s)"
    )
    parser.add_argument(
        "--speed",
        type=_positive,
        default=1.0,
        metavar="FACTOR",
        help="how many times faster than real life things happen (default %(default)g)",
    )
    parser.add_argument(
        "--rate", type=_rate, default=12.0, metavar="NUMBER",
        help="send requests per hour at speed 1; 0 for no traffic (default %(default)g)",
    )  # fmt: skip
    parser.add_argument("--no-history", action="store_true", help="start empty, without a week of history")
    parser.add_argument(
        "--demo", action="store_true",
        help="simulate the sender of the demo, who is busy at every hour and has a failure spike every few minutes; "
        "seed, speed, rate, history, counters and retention are those of the demo",
    )  # fmt: skip
    parser.add_argument(
        "--reading",
        choices=get_args(Reading),
        default="cumulative",
        help="whether counters are cumulative, or count each email only in its current state (default %(default)s)",
    )
    parser.add_argument(
        "--omit", choices=COUNTERS, action="append", default=[], metavar="COUNTER",
        help="omit a counter from the stats, as Twilio's guide does with recipients and attempts; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--retention", choices=get_args(Retention), default="gone",
        help="after 7 days operations are gone, or listed with counters of 0 (thin) (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--envelope", choices=get_args(Envelope), default="operations",
        help="envelope of lists: as in the API reference (operations) or in the guide (data) (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--errors",
        choices=get_args(ErrorShape),
        default="observed",
        help="format of error responses (default %(default)s)",
    )
    parser.add_argument(
        "--order",
        choices=get_args(Order),
        default="newest",
        help="which operations are listed first (default %(default)s)",
    )
    parser.add_argument(
        "--bounds", choices=get_args(Bounds), default="exclusive",
        help="whether operations created exactly at startDate or endDate are listed (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--ignore-filters", action="store_true", help="ignore all filters in list requests")
    parser.add_argument(
        "--email-to", choices=get_args(EmailTo), default="list",
        help="recipient of an email: as in the API reference (list) or in the guide (object) (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--email-link", choices=get_args(EmailLink), default="related",
        help="which field of an email names its operation (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--email-content", action="store_true", help="list emails with their content")
    parser.add_argument("--no-details", action="store_true", help="respond 404 to /Errors and /Receipts")
    parser.add_argument(
        "--fault", type=_fault, action="append", default=[], metavar="KIND[:SHARE]",
        help=f"inject a fault into a share of the requests (default 1); repeatable; KIND is one of {', '.join(KINDS)}",
    )  # fmt: skip
    parser.add_argument(
        "--credentials.file", dest="credentials", type=_credentials, metavar="PATH",
        help="file with USER:SECRET lines (default: accept any user and secret)",
    )  # fmt: skip
    return parser


def parse_arguments(argv: Sequence[str], *, prog: str = "simulator") -> argparse.Namespace:
    """Parse *argv*, or raise a WrongFlagError; only `--help` exits the process."""
    try:
        args, unknown = build_parser(prog=prog).parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise WrongFlagError(f"{error.argument_name}: {_reword(error.message)}") from None
    if unknown:
        flag = unknown[0].partition("=")[0]
        raise WrongFlagError(
            f"{flag}: unknown flag; see --help" if flag.startswith("--") else "unexpected argument; see --help"
        )
    if args.demo:
        defaults = build_parser().parse_args([])
        for name, flag in _WORLD_FLAGS.items():
            if getattr(args, name) != getattr(defaults, name):
                raise WrongFlagError(f"{flag}: cannot be combined with --demo")
    return args


def from_arguments(args: argparse.Namespace, *, clock: Callable[[], float] = time.time) -> web.Application:
    """Return the simulator that the arguments describe."""
    world = demo_world(clock) if args.demo else _world(args, clock)
    dialect = Dialect(
        envelope=args.envelope,
        errors=args.errors,
        order=args.order,
        bounds=args.bounds,
        ignore_filters=args.ignore_filters,
        email_to=args.email_to,
        email_link=args.email_link,
        email_content=args.email_content,
        details=not args.no_details,
    )
    return make_app(world, Faults(args.fault, seed=args.seed), dialect=dialect, credentials=args.credentials)


def _world(args: argparse.Namespace, clock: Callable[[], float]) -> World:
    return World(
        seed=args.seed,
        clock=clock,
        speed=args.speed,
        rate=args.rate,
        history_seconds=0.0 if args.no_history else WEEK_SECONDS,
        reading=args.reading,
        omit=args.omit,
        retention=args.retention,
    )


def _reword(message: str) -> str:
    if message == "expected one argument":
        return "needs a value; see --help"
    return "takes no value; see --help" if message.startswith("ignored explicit") else message


def _positive(text: str) -> float:
    number = _rate(text)
    if not number:
        raise argparse.ArgumentTypeError(f"must be more than 0, not {text}")
    return number


def _rate(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, not {text}")
    return number


def _fault(text: str) -> Fault:
    kind, colon, share = text.partition(":")
    try:
        return Fault(kind=kind, share=_share(share) if colon else 1.0)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"share must be a number, not {text!r}") from error


def _credentials(path: str) -> dict[str, str]:
    try:
        lines = Path(path).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"cannot read {path}: {error}") from error
    if not lines or not all(":" in line.strip(":") for line in lines):
        raise argparse.ArgumentTypeError(f"{path} must contain USER:SECRET lines")
    return {user: secret for user, _, secret in (line.partition(":") for line in lines)}
