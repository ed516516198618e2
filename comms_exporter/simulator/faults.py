"""Faults on demand: which requests fail, and how."""

import dataclasses
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

from comms_exporter.simulator.fates import seeded_random

RetryAfter = Literal["seconds", "date", "none"]

# The responses that each of these kinds applies to; all others apply to every request.
_PAGES = frozenset({"operations", "emails"})
_ITEMS = _PAGES | {"operation", "email"}
_APPLIES_TO = MappingProxyType(
    {
        **dict.fromkeys(("repeat-token", "blank-token", "empty-page"), _PAGES),
        **dict.fromkeys(("malformed", "unknown-field", "unknown-status", "stale"), _ITEMS),
        "unknown-counter": frozenset({"operations", "operation"}),
    }
)

KINDS = MappingProxyType(
    {
        "401": "invalid credentials",
        "403": "not authorized",
        "404": "not found",
        "429": "too many requests, with Retry-After",
        "500": "internal error",
        "502": "bad gateway, with an HTML body",
        "503": "unavailable, with Retry-After",
        "hang": "no response until the client disconnects",
        "reset": "the connection is reset before the response",
        "reset-body": "the connection is reset in the middle of the body",
        "truncated": "status 200 with incomplete JSON",
        "empty": "status 200 without a body",
        "repeat-token": "the next page is the same page again",
        "blank-token": 'the last page has "" as its next token',
        "empty-page": "an empty page that is not the last one",
        "malformed": "one operation or email has values of the wrong types",
        "unknown-field": "undocumented fields",
        "unknown-status": "one operation or email has an undocumented status",
        "unknown-counter": "one operation has an undocumented counter",
        "stale": "the response of a replica that lags behind",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One kind of fault, for a *share* of the requests under *path*, at most *times* times."""

    kind: str
    times: int | None = None
    share: float = 1.0
    path: str = "/"
    retry_after: int = 1
    retry_after_form: RetryAfter = "seconds"
    lag: float = 30.0  # seconds that a stale response is behind

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            raise ValueError(f"unknown fault kind {self.kind!r}: must be one of {', '.join(KINDS)}")
        if not _is_number(self.share) or not 0 < self.share <= 1:
            raise ValueError(f"share must be more than 0 and at most 1, not {self.share!r}")
        if self.times is not None and (not _is_integer(self.times) or self.times < 1):
            raise ValueError(f"times must be an integer of at least 1, not {self.times!r}")
        if not isinstance(self.path, str) or not self.path.startswith("/"):
            raise ValueError(f"path must begin with /, not {self.path!r}")
        if not _is_integer(self.retry_after) or self.retry_after < 0:
            raise ValueError(f"retry_after must be an integer of at least 0, not {self.retry_after!r}")
        if not _is_number(self.lag) or not 0 <= self.lag < math.inf:
            raise ValueError(f"lag must be a number of at least 0, not {self.lag!r}")
        if self.retry_after_form not in get_args(RetryAfter):
            raise ValueError(f"retry_after_form must be seconds, date or none, not {self.retry_after_form!r}")

    def applies_to(self, method: str, path: str) -> bool:
        """Whether the fault can apply to a request."""
        kinds = _APPLIES_TO.get(self.kind)
        fits = kinds is None or (method == "GET" and _kind_of_response(path) in kinds)
        return fits and path.startswith(self.path)


class Faults:
    """The active faults, oldest first; each request gets at most one."""

    def __init__(self, faults: Iterable[Fault] = (), *, seed: object = 0) -> None:
        self._rng = seeded_random(f"{seed}/faults")
        self._active = list(faults)

    def add(self, kind: str, **options: Any) -> Fault:
        """Activate a fault; the options are the fields of Fault."""
        fault = Fault(kind=kind, **options)
        self._active.append(fault)
        return fault

    def clear(self) -> None:
        """Remove all faults."""
        self._active.clear()

    @property
    def active(self) -> list[Fault]:
        """The active faults, each with the number of times that remain."""
        return list(self._active)

    def draw(self, method: str, path: str) -> Fault | None:
        """Return the fault for the next request, or None."""
        for place, fault in enumerate(self._active):
            if fault.applies_to(method, path) and _strikes(fault, self._rng):
                self._use_up(place, fault)
                return fault
        return None

    def _use_up(self, place: int, fault: Fault) -> None:
        if fault.times == 1:
            del self._active[place]
        elif fault.times is not None:
            self._active[place] = dataclasses.replace(fault, times=fault.times - 1)


def _kind_of_response(path: str) -> str:
    """Return what a GET of *path* is answered with."""
    match path.split("/")[2:]:
        case ["Emails"]:
            return "emails"
        case ["Emails", "Operations"]:
            return "operations"
        case ["Emails", "Operations", _]:
            return "operation"
        case ["Emails", _]:
            return "email"
    return "details"


def _strikes(fault: Fault, rng: random.Random) -> bool:
    return fault.share == 1 or rng.random() < fault.share


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
