"""Who shares the accounts, and which of them this exporter owns, as far as it knows."""

from dataclasses import dataclass
from threading import Lock
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Claim:
    """A right to write the account *id*: it is lost when the database says another member or epoch."""

    id: int
    member: UUID
    epoch: int


@dataclass(frozen=True, slots=True)
class Member:
    """An exporter that runs, or did until a moment ago: *joined* in seconds since the epoch, and how many accounts it owns.

    Its *beats* grow while it runs.
    """

    id: UUID
    name: str
    joined: float
    beats: int
    accounts: int


@dataclass(frozen=True, slots=True)
class Ownership:
    """An account and who owns it, since when in seconds since the epoch; nobody if *owner* is None."""

    account: str
    owner: UUID | None
    since: float


class Claims:
    """The claims by account name, shared by threads.

    An account is held if it was loaded under its present claim: what is known of it may be saved and shown.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._claims: dict[str, Claim] = {}
        self._loaded: dict[str, Claim] = {}
        self._refused: set[Claim] = set()
        # Grows with every account that is lost: what was read before may show one.
        self.losses = 0
        # How many of them others have taken.
        self.taken = 0

    def get(self, name: str) -> Claim | None:
        """Return the claim to the account *name*, None if this exporter does not own it."""
        return self._claims.get(name)

    def held(self, name: str) -> Claim | None:
        """Return the claim to the account *name* if the account was loaded under it."""
        claim = self._claims.get(name)
        return claim if claim is not None and self._loaded.get(name) == claim else None

    def all(self) -> dict[str, Claim]:
        """Return a copy of all claims."""
        return self._claims.copy()

    def replace(self, claims: dict[str, Claim]) -> None:
        """Own exactly *claims*, but for those that were refused."""
        with self._lock:
            self._refused &= set(claims.values())
            claims = {name: claim for name, claim in claims.items() if claim not in self._refused}
            before, self._claims = self._claims, claims
            taken = sum(claims.get(name) != claim for name, claim in before.items())
            self.taken += taken
            self.losses += taken

    def add(self, claims: dict[str, Claim]) -> None:
        """Own *claims*, too."""
        with self._lock:
            self._claims.update(claims)

    def loaded(self, name: str, claim: Claim) -> None:
        """Hold the account *name* as long as *claim* is the claim to it."""
        self._loaded[name] = claim

    def unload(self, name: str) -> None:
        """Do not hold the account *name* before it is loaded again."""
        self._loaded.pop(name, None)

    def lose(self, name: str, claim: Claim) -> None:
        """Note that another exporter owns the account *name*, unless it was claimed again since."""
        with self._lock:
            self.taken += self._remove(name, claim)

    def give_up(self, name: str, claim: Claim) -> None:
        """Stop owning the account *name*, unless it was claimed again since."""
        with self._lock:
            self._remove(name, claim)

    def refuse(self, name: str, claim: Claim) -> None:
        """Never hold the account *name* under *claim*: it cannot be read."""
        with self._lock:
            self._refused.add(claim)
            self._remove(name, claim)

    def _remove(self, name: str, claim: Claim) -> bool:
        if self._claims.get(name) != claim:
            return False
        del self._claims[name]
        self.losses += 1
        return True
