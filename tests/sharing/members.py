"""An exporter's part in a shared database, without the exporter."""

from contextlib import suppress

from comms_exporter.store.errors import StoreError
from comms_exporter.store.postgres.claims import Claims
from comms_exporter.store.postgres.connection import Connection
from comms_exporter.store.postgres.membership import Membership
from comms_exporter.store.postgres.schema import migrate
from comms_exporter.store.postgres.store import PostgresStore


def connection(server, schema, **arguments):
    return Connection(server.url, **{"schema": schema, "name": "test", "prepare": migrate, **arguments})


class Exporter:
    """A member with a store, whose *connections* are closed by close()."""

    def __init__(self, server, schema, *accounts, name="test", **store):
        self.claims = Claims()
        self.connections = connection(server, schema), connection(server, schema)
        self.membership = Membership(self.connections[0], self.claims, name=name)
        self.store = PostgresStore(self.connections[1], self.claims, **store)
        self.membership.register(accounts)
        self.membership.beat()

    def own(self, *names):
        """Claim everything that is free, and return what is saved of the accounts *names*."""
        self.membership.claim(1000)
        return self.store.load(names or list(self.claims.all()))

    def close(self):
        for each in self.connections:
            with suppress(StoreError):
                each.close()


def rows(server, schema, statement):
    """Return what *statement* finds; in it, {} stands for the schema."""
    database = connection(server, schema)
    try:
        return database.run(lambda transaction: transaction.execute(statement))
    finally:
        database.close()
