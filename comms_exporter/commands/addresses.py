"""The addresses of emails, for the flag `--show-addresses` of the commands `operation` and `email`, and for nothing else.

Everywhere else an address is cut to its domain where it is read. Nothing here may be logged, saved or exposed.
"""

from typing import Any

import msgspec

from comms_exporter.api.email_payloads import addresses_of, decode_object, raw_entries


class _Entry(msgspec.Struct, gc=False):
    id: Any = None
    to: Any = None


_ENTRY = msgspec.json.Decoder(_Entry)


class Addresses:
    """The recipients' addresses by email id, from the bodies of the pages of a listing."""

    def __init__(self) -> None:
        self.by_email: dict[str, list[str]] = {}

    def read(self, body: bytes) -> None:
        """Add the addresses in *body*, a page that could be read."""
        for raw in raw_entries(decode_object(body), "emails"):
            self.read_single(raw)

    def read_single(self, body: bytes | msgspec.Raw) -> None:
        """Add the addresses in *body*, an email."""
        try:
            entry = _ENTRY.decode(body)
        except (msgspec.DecodeError, ValueError, RecursionError):
            # As malformed for the client, which counts it.
            return
        if isinstance(entry.id, str):
            self.by_email[entry.id] = [each for each in addresses_of(entry.to) if isinstance(each, str)]
