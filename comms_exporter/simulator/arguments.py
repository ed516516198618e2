"""The simulator's command line."""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from aiohttp import web

from comms_exporter.simulator.answers import Bounds, Dialect, Envelope, ErrorShape, Order
from comms_exporter.simulator.app import make_app
from comms_exporter.simulator.faults import KINDS, Fault, Faults
from comms_exporter.simulator.views import COUNTERS
from comms_exporter.simulator.world import WEEK_SECONDS, Reading, Retention, World


class WrongFlagError(Exception):
    """Says in one line which flag is wrong, and what would be right."""


def build_parser(*, prog: str = "simulator") -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Simulate Twilio's Comms Email API.", allow_abbrev=False, exit_on_error=False
    )
    parser.add_argument(
        "--web.listen-address", dest="listen_address", default="127.0.0.1:10068", metavar="ADDRESS",
        help="where to listen (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", default="0", help="the same seed makes the same mail (default %(default)s)")
    parser.add_argument(
        "--speed", type=_positive, default=1.0, metavar="FACTOR", help="how fast life goes (default %(default)g)"
    )
    parser.add_argument(
        "--rate", type=_rate, default=12.0, metavar="NUMBER",
        help="send requests an hour at speed 1; 0 for no traffic (default %(default)g)",
    )  # fmt: skip
    parser.add_argument("--no-history", action="store_true", help="begin with nothing instead of a week of mail")
    parser.add_argument(
        "--reading", choices=get_args(Reading), default="cumulative", help="what counters count (default %(default)s)"
    )
    parser.add_argument(
        "--omit", choices=COUNTERS, action="append", default=[], metavar="COUNTER",
        help="leave a counter out of the stats, as Twilio's guide does with recipients and attempts; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--retention", choices=get_args(Retention), default="gone",
        help="what becomes of operations after 7 days: gone, or still there with thin counters (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--envelope", choices=get_args(Envelope), default="operations",
        help="what lists are wrapped in: the reference's way or the guide's (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--errors", choices=get_args(ErrorShape), default="observed", help="the shape of errors (default %(default)s)"
    )
    parser.add_argument(
        "--order", choices=get_args(Order), default="newest", help="what lists begin with (default %(default)s)"
    )
    parser.add_argument(
        "--bounds", choices=get_args(Bounds), default="exclusive",
        help="whether startDate and endDate themselves are within (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--ignore-filters", action="store_true", help="list everything, whatever is asked for")
    parser.add_argument(
        "--fault", type=_fault, action="append", default=[], metavar="KIND[:SHARE]",
        help=f"make a share of the requests (default 1) go wrong; repeatable; KIND is one of {', '.join(KINDS)}",
    )  # fmt: skip
    parser.add_argument(
        "--credentials.file", dest="credentials", type=_credentials, metavar="PATH",
        help="a file of USER:SECRET lines; without it any user and secret are accepted",
    )  # fmt: skip
    return parser


def parse_arguments(argv: Sequence[str], *, prog: str = "simulator") -> argparse.Namespace:
    """Return what *argv* asks for, or raise a WrongFlagError; only `--help` ends the process."""
    try:
        args, unknown = build_parser(prog=prog).parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise WrongFlagError(f"{error.argument_name}: {_in_our_words(error.message)}") from None
    if unknown:
        flag = unknown[0].partition("=")[0]
        raise WrongFlagError(
            f"{flag}: unknown flag; see --help"
            if flag.startswith("--")
            else "a word on the command line is neither a flag nor the value of one; see --help"
        )
    return args


def from_arguments(args: argparse.Namespace, *, clock: Callable[[], float] = time.time) -> web.Application:
    """Make the simulator that the arguments ask for."""
    world = World(
        seed=args.seed,
        clock=clock,
        speed=args.speed,
        rate=args.rate,
        history_seconds=0.0 if args.no_history else WEEK_SECONDS,
        reading=args.reading,
        omit=args.omit,
        retention=args.retention,
    )
    dialect = Dialect(
        envelope=args.envelope,
        errors=args.errors,
        order=args.order,
        bounds=args.bounds,
        ignore_filters=args.ignore_filters,
    )
    return make_app(world, Faults(args.fault, seed=args.seed), dialect=dialect, credentials=args.credentials)


def _in_our_words(message: str) -> str:
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
        raise argparse.ArgumentTypeError(f"must be a number from 0, not {text}")
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
        raise argparse.ArgumentTypeError(f"{path} must hold lines of USER:SECRET")
    return {user: secret for user, _, secret in (line.partition(":") for line in lines)}
