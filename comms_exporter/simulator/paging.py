"""Page tokens: opaque, and complete, so that the server keeps no state between pages."""

import base64
import binascii
import json
import zlib
from typing import NamedTuple

_LONGEST_TOKEN = 2048


class Page(NamedTuple):
    """One page of a listing: its filters, and the position it begins after."""

    listing: str
    size: int
    after: tuple[float, str, int]  # time of creation and id of an operation, and the index of its email
    start: float | None = None
    end: float | None = None
    status: str | None = None
    operation: str | None = None
    tags: str | None = None


def encode(page: Page) -> str:
    """Return the token of *page*: URL-safe, without padding, opaque."""
    return base64.urlsafe_b64encode(zlib.compress(json.dumps(page).encode())).rstrip(b"=").decode()


def decode(token: str, listing: str) -> Page:
    """Return the page of a token, or raise ValueError if it is not a token of this *listing*."""
    try:
        packed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        plain = zlib.decompressobj().decompress(packed, _LONGEST_TOKEN)
        kind, size, (created, identifier, index), *filters = json.loads(plain)
        page = Page(kind, int(size), (float(created), str(identifier), int(index)), *filters)
    except (binascii.Error, zlib.error, ValueError, TypeError) as error:
        raise ValueError("not a page token") from error
    if page.listing != listing:
        raise ValueError("a page token of another listing")
    return page
