"""Parse a URL to connect to."""

from yarl import URL


def parse_connectable_url(text: str) -> URL:
    """Return *text* as aiohttp parses it; raise a ValueError if aiohttp could not connect to it."""
    text.encode()  # half a surrogate pair cannot be sent
    url = URL(text)
    # The resolver raises no OSError but this error if a label is empty or too long.
    (url.raw_host or "").encode("idna")
    return url
