"""Sum up what was imported or exported."""

from dataclasses import dataclass


@dataclass(slots=True)
class Summary:
    """How many accounts there are, how many of them were transferred, and with how many operations."""

    accounts: int = 0
    transferred: int = 0
    operations: int = 0

    def add(self, operations: int, *, problem: str) -> None:
        """Count an account with its *operations*; it was not transferred if there is a *problem*."""
        self.accounts += 1
        if not problem:
            self.transferred += 1
            self.operations += operations

    @property
    def complete(self) -> bool:
        """Whether all accounts were transferred."""
        return self.transferred == self.accounts

    def text(self, verb: str) -> str:
        """Return for example "imported 2 of 3 accounts with 4,000 operations"."""
        count = f"{self.accounts:,}" if self.complete else f"{self.transferred:,} of {self.accounts:,}"
        return f"{verb} {count} account{'' if self.accounts == 1 else 's'} with {self.operations:,} operations"
