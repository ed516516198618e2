"""Follow a listing from page to page, and choose how many entries to ask for where their size is unknown."""

from collections.abc import Callable, Mapping

from yarl import URL

from comms_exporter.api.errors import CommsError

# Twice the highest weekly volume of operations that anyone has reported, at the largest page size.
MAX_PAGES = 20_000

# The API's default.
_FIRST_PAGE_SIZE = 50
# A page takes about this many bytes, an eighth of what a page may have: entries differ in size.
_TARGET_BYTES = 2**20
# A page that is too large says nothing about its real size. The second attempt should fit.
_SHRINK_BY = 8


class Cursor:
    """The position in one listing; a listing that repeats a page, leaves the API's server or has no end raises a CommsError."""

    def __init__(self, url: URL, *, mask: Callable[[str], str]) -> None:
        self._url = url
        self._mask = mask
        self._token: str | None = None
        # Hashes, because 20,000 tokens of the maximum length would take 80 MB.
        self._seen: set[int] = set()

    @property
    def within_listing(self) -> bool:
        """Whether there were pages before."""
        return self._token is not None

    def url(self, parameters: Mapping[str, str]) -> URL:
        """Return the URL of the page at this position, with *parameters*."""
        if self._token is None:
            return self._url.with_query(parameters)
        if self._token.startswith(("http://", "https://")):
            target = self._same_origin(self._token)
            size = parameters.get("pageSize")
            if size is None or target.query.get("pageSize", size) == size:
                return target
            # The parameters are the server's, but after a page that was too large, the next must be smaller.
            return target.update_query(pageSize=size)
        return self._url.with_query({**parameters, "pageToken": self._token})

    def advance(self, token: str | None) -> bool:
        """Go to the page *token*, and return whether there is one."""
        if token is None:
            return False
        if hash(token) in self._seen:
            raise CommsError("bad_payload", "the listing repeats a page token")
        self._seen.add(hash(token))
        if len(self._seen) >= MAX_PAGES:
            raise CommsError("bad_payload", f"the listing has more than {MAX_PAGES} pages")
        self._token = token
        return True

    def _same_origin(self, token: str) -> URL:
        """Return *token* as the URL of the next page; credentials are sent only to the API's own origin."""
        try:
            target = URL(token).with_user(None)
            origin = target.origin()
        except ValueError:
            raise CommsError("bad_payload", "the URL of the next page is invalid") from None
        if origin != self._url.origin():
            raise CommsError("bad_payload", f"the next page is on another server: {self._mask(str(origin))}")
        return target


class PageSize:
    """How many entries to ask for: few at first, then as many as fit according to the pages so far."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._limit = maximum
        self._fitting = _FIRST_PAGE_SIZE

    @property
    def size(self) -> int:
        """The number of entries to ask for."""
        return min(self._limit, self._fitting)

    def learn(self, *, size: int, entries: int) -> None:
        """Note that a page of *entries* had *size* bytes."""
        if entries:
            self._fitting = max(1, _TARGET_BYTES * entries // max(1, size))

    def shrink(self, size: int) -> int:
        """Note that a page of *size* entries was too large, and return how many to ask for instead."""
        self._limit = max(1, size // _SHRINK_BY)
        return self._limit

    def listed(self) -> None:
        """Note that a listing is complete: after pages that were too large, the size doubles with every listing."""
        self._limit = min(self._maximum, 2 * self._limit)
