"""Why the API may not have what a person asks for by its id."""

import re
from collections.abc import Sequence

from comms_exporter.base.times import iso

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_ULID = re.compile(f"[0-7][{_CROCKFORD}]{{25,34}}")
_RETENTION_SECONDS = 7 * 86400.0
_EXAMPLE = "01h9krwprkeee8fzqspvwy6nq8"
_PREFIXES = {"operation": "comms_operation_", "email": "comms_email_"}


def why_not_found(kind: str, wanted: str, accounts: Sequence[str], *, now: float) -> str:
    """Return why none of *accounts* may have the *kind* of thing with the id *wanted*, in one line."""
    for other, prefix in _PREFIXES.items():
        if other != kind and wanted.startswith(prefix):
            return f"{wanted} is the id of an {other}, not of an {kind}; use `comms-exporter {other} {wanted}`"
    prefix = _PREFIXES[kind]
    ulid = wanted.removeprefix(prefix)
    if not wanted.startswith(prefix) or not _ULID.fullmatch(ulid):
        return f'there is no {kind} "{wanted}": ids look like {prefix}{_EXAMPLE}'
    created = _created(ulid)
    if now - created > _RETENTION_SECONDS:
        return f"{wanted} has expired: it is from {iso(created)}, and Twilio keeps {kind}s for 7 days"
    found = f"account {accounts[0]} does not have" if len(accounts) == 1 else f"no account ({', '.join(accounts)}) has"
    return f"{found} {wanted}: it may belong to another account"


def _created(ulid: str) -> float:
    """Return the time in the first ten characters of *ulid*."""
    milliseconds = 0
    for character in ulid[:10]:
        milliseconds = 32 * milliseconds + _CROCKFORD.index(character)
    return milliseconds / 1000
