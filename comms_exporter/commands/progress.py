"""Say how far a command is, but only when it takes long."""

import time
from collections.abc import Callable

_INTERVAL_SECONDS = 2.0


class Progress:
    """Calls *show* with the latest text, at most once every two seconds."""

    def __init__(self, show: Callable[[str], None], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._show = show
        self._monotonic = monotonic
        self._next = monotonic() + _INTERVAL_SECONDS

    def __call__(self, text: str) -> None:
        """Show *text* if nothing was shown for a while."""
        now = self._monotonic()
        if now >= self._next:
            self._next = now + _INTERVAL_SECONDS
            self._show(text)
