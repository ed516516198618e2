"""How exporters share the accounts in a database: who runs, who owns what, and who takes over from whom.

Each exporter is a member with a beat, a number that grows. A member whose beat stands still is buried: its row is deleted
and its accounts are free, in one transaction. It then cannot commit anything any more, and joins anew if it still runs.
"""

from collections.abc import Collection
from uuid import uuid4

from comms_exporter.store.postgres.claims import Claim, Claims, Member, Ownership
from comms_exporter.store.postgres.connection import Connection, Transaction


class Membership:
    """The part of one exporter in sharing. All methods but interrupt() block, so call them from one background thread."""

    def __init__(self, connection: Connection, claims: Claims, *, name: str) -> None:
        self._connection = connection
        self._claims = claims
        self._name = name
        self.id = uuid4()
        self._joined = False
        # The ids of the accounts that this exporter may own.
        self._ids: dict[str, int] = {}

    def register(self, names: Collection[str]) -> None:
        """Take part in sharing the accounts *names*, and in no others."""

        def work(transaction: Transaction) -> dict[str, int]:
            transaction.execute(
                "INSERT INTO {}.accounts (name) SELECT unnest(%s::text[]) EXCEPT SELECT name FROM {}.accounts"
                " ORDER BY 1 ON CONFLICT DO NOTHING",
                [list(names)],
            )
            return dict(
                transaction.execute("SELECT name, id FROM {}.accounts WHERE name = ANY(%s::text[])", [list(names)])
            )

        self._ids = self._connection.run_again(work)

    def beat(self) -> list[Member]:
        """Say that this exporter runs, find out which accounts it owns, and return all members.

        Whoever was buried meanwhile owns nothing, and joins under a new id.
        """

        def work(transaction: Transaction) -> tuple[list[Member], dict[str, Claim]]:
            # Nothing is lost if the server forgets the last beats.
            transaction.execute("SET LOCAL synchronous_commit = off")
            alive = transaction.execute(
                "UPDATE {}.members SET beats = beats + 1 WHERE id = %s RETURNING true", [self.id]
            )
            if not alive:
                self.id = uuid4()
                transaction.execute("INSERT INTO {}.members (id, name) VALUES (%s, %s)", [self.id, self._name])
            transaction.execute(
                "UPDATE {}.accounts SET owner = NULL, epoch = epoch + 1, since = clock_timestamp()"
                " WHERE owner = %s AND NOT id = ANY(%s::int4[])",
                [self.id, list(self._ids.values())],
            )
            owned = transaction.execute("SELECT name, id, epoch FROM {}.accounts WHERE owner = %s", [self.id])
            members = transaction.execute(
                "SELECT m.id, m.name, extract(epoch FROM joined)::float8, beats,"
                " (SELECT count(*) FROM {}.accounts WHERE owner = m.id) FROM {}.members m ORDER BY joined, m.id",
                [],
            )
            claims = {name: Claim(account, self.id, epoch) for name, account, epoch in owned}
            return [Member(*row) for row in members], claims

        members, claims = self._connection.run_again(work)
        self._joined = True
        for name, claim in self._claims.all().items():
            if name not in self._ids:
                # Nobody has taken it.
                self._claims.give_up(name, claim)
        self._claims.replace(claims)
        return members

    def bury(self, member: Member) -> bool:
        """Free the accounts of *member*, unless it has had another beat; return whether it did not."""

        def work(transaction: Transaction) -> bool:
            if not transaction.execute(
                "DELETE FROM {}.members WHERE id = %s AND beats = %s RETURNING true",
                [member.id, member.beats],
            ):
                return False
            transaction.execute(
                "UPDATE {}.accounts SET owner = NULL, epoch = epoch + 1, since = clock_timestamp() WHERE owner = %s",
                [member.id],
            )
            return True

        return self._connection.run(work)

    def claim(self, limit: int) -> int:
        """Own up to *limit* more accounts that nobody owns, and return how many."""

        def work(transaction: Transaction) -> dict[str, Claim]:
            # Nobody can be buried while claiming: the accounts would belong to the dead.
            if not transaction.execute("SELECT true FROM {}.members WHERE id = %s FOR SHARE", [self.id]):
                return {}
            claimed = transaction.execute(
                "UPDATE {}.accounts SET owner = %s, epoch = epoch + 1, since = clock_timestamp() WHERE id IN ("
                " SELECT id FROM {}.accounts WHERE owner IS NULL AND id = ANY(%s::int4[])"
                " ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING name, id, epoch",
                [self.id, list(self._ids.values()), limit],
            )
            return {name: Claim(account, self.id, epoch) for name, account, epoch in claimed}

        claims = self._connection.run(work)
        self._claims.add(claims)
        return len(claims)

    def release(self, names: Collection[str]) -> None:
        """Stop owning the accounts *names*."""
        claims = {name: claim for name in names if (claim := self._claims.get(name))}
        for name, claim in claims.items():
            self._claims.give_up(name, claim)

        def work(transaction: Transaction) -> None:
            transaction.execute(
                "UPDATE {}.accounts SET owner = NULL, epoch = epoch + 1, since = clock_timestamp()"
                " WHERE owner = %s AND id = ANY(%s::int4[])",
                [self.id, [claim.id for claim in claims.values() if claim.member == self.id]],
            )

        self._connection.run_again(work)

    def ownerships(self) -> list[Ownership]:
        """Return who owns each of the registered accounts."""

        def work(transaction: Transaction) -> list[Ownership]:
            found = transaction.execute(
                "SELECT name, owner, coalesce(extract(epoch FROM since), 0)::float8 FROM {}.accounts"
                " WHERE id = ANY(%s::int4[]) ORDER BY name",
                [list(self._ids.values())],
            )
            return [Ownership(*row) for row in found]

        return self._connection.run_again(work)

    def leave(self) -> None:
        """Free all accounts at once, so that others need not wait; does nothing if this exporter has not joined."""

        def work(transaction: Transaction) -> None:
            transaction.execute("DELETE FROM {}.members WHERE id = %s", [self.id])
            transaction.execute(
                "UPDATE {}.accounts SET owner = NULL, epoch = epoch + 1, since = clock_timestamp() WHERE owner = %s",
                [self.id],
            )

        for name, claim in self._claims.all().items():
            self._claims.give_up(name, claim)
        if self._joined:
            self._connection.run_again(work)

    def interrupt(self) -> None:
        """Make the current call, in another thread, fail soon."""
        self._connection.interrupt()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
