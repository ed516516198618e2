"""Trouble on demand: which requests go wrong, and in what way."""

import dataclasses
import random
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

from comms_exporter.simulator.fates import dice

OPERATIONS_PATH = "/v1/Emails/Operations"

RetryAfter = Literal["seconds", "date", "none"]

# Kinds that only make sense in an answer with operations, or with a page of them, wait for one.
_LIST_KINDS = {"repeat-token", "blank-token", "empty-page"}
_OPERATION_KINDS = {"malformed", "unknown-field", "unknown-status", "unknown-counter"}

KINDS = MappingProxyType(
    {
        "401": "credentials refused",
        "403": "not allowed",
        "404": "not found",
        "429": "too many requests, with Retry-After",
        "500": "internal error",
        "502": "a gateway's HTML page",
        "503": "unavailable, with Retry-After",
        "hang": "no answer while the client waits",
        "reset": "the connection is reset before the answer",
        "reset-body": "the connection is reset in the middle of the body",
        "truncated": "a 200 whose JSON ends in the middle",
        "empty": "a 200 without a body",
        "repeat-token": "the next page is this page",
        "blank-token": 'the last page says next: ""',
        "empty-page": "a page without operations, yet with a next one",
        "malformed": "one operation of the answer is not one",
        "unknown-field": "fields nobody has heard of",
        "unknown-status": "an operation with a new status",
        "unknown-counter": "operations with a new counter",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One kind of trouble: for *share* of the requests under *path*, and for at most *times* of them."""

    kind: str
    times: int | None = None
    share: float = 1.0
    path: str = "/"
    retry_after: int = 1
    retry_after_form: RetryAfter = "seconds"

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            raise ValueError(f"no fault {self.kind!r}: one of {', '.join(KINDS)}")
        if not _is_number(self.share) or not 0 < self.share <= 1:
            raise ValueError(f"share must be more than 0 and at most 1, not {self.share!r}")
        if self.times is not None and (not _is_whole(self.times) or self.times < 1):
            raise ValueError(f"times must be a whole number from 1, not {self.times!r}")
        if not isinstance(self.path, str) or not self.path.startswith("/"):
            raise ValueError(f"path must begin with /, not {self.path!r}")
        if not _is_whole(self.retry_after) or self.retry_after < 0:
            raise ValueError(f"retry_after must be a whole number of seconds from 0, not {self.retry_after!r}")
        if self.retry_after_form not in get_args(RetryAfter):
            raise ValueError(f"retry_after_form must be seconds, date or none, not {self.retry_after_form!r}")

    def concerns(self, method: str, path: str) -> bool:
        """Whether a request could meet with it."""
        if self.kind in _LIST_KINDS:
            fits = method == "GET" and path == OPERATIONS_PATH
        elif self.kind in _OPERATION_KINDS:
            fits = method == "GET" and path.startswith(OPERATIONS_PATH)
        else:
            fits = True
        return fits and path.startswith(self.path)


class Faults:
    """The faults in force, oldest first: each request meets with at most one."""

    def __init__(self, faults: Iterable[Fault] = (), *, seed: object = 0) -> None:
        self._rng = dice(f"{seed}/faults")
        self._active = list(faults)

    def add(self, kind: str, **options: Any) -> Fault:
        """Put a fault in force; the options are those of Fault."""
        fault = Fault(kind=kind, **options)
        self._active.append(fault)
        return fault

    def clear(self) -> None:
        """Be well again."""
        self._active.clear()

    @property
    def active(self) -> list[Fault]:
        """What is in force, and for how many requests more."""
        return list(self._active)

    def draw(self, method: str, path: str) -> Fault | None:
        """Decide what the next request meets with, if anything."""
        for place, fault in enumerate(self._active):
            if fault.concerns(method, path) and _strikes(fault, self._rng):
                self._use_up(place, fault)
                return fault
        return None

    def _use_up(self, place: int, fault: Fault) -> None:
        if fault.times == 1:
            del self._active[place]
        elif fault.times is not None:
            self._active[place] = dataclasses.replace(fault, times=fault.times - 1)


def _strikes(fault: Fault, rng: random.Random) -> bool:
    return fault.share == 1 or rng.random() < fault.share


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
