"""The tables in PostgreSQL: create and migrate them under a lock."""

from comms_exporter.store.errors import StoreError, StoreRefusedError
from comms_exporter.store.postgres.connection import Transaction

# One script per version of the schema. Released scripts never change.
MIGRATIONS = (
    """
    CREATE TABLE {}.schema_version (version integer NOT NULL);
    INSERT INTO {}.schema_version VALUES (0);
    -- Exporters that run.
    CREATE TABLE {}.members (
        id uuid PRIMARY KEY,
        name text NOT NULL,                   -- for people
        joined timestamptz NOT NULL DEFAULT clock_timestamp(),
        beats bigint NOT NULL DEFAULT 0       -- grows while the exporter runs
    ) WITH (fillfactor = 50);
    CREATE TABLE {}.accounts (
        id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text NOT NULL UNIQUE,
        owner uuid,                           -- a member
        epoch bigint NOT NULL DEFAULT 0,      -- grows whenever the owner changes
        since timestamptz,                    -- of the owner
        saves bigint NOT NULL DEFAULT 0,
        first_look double precision,          -- NULL until the first save; this and the following as in the state file
        horizon double precision,
        seen double precision,
        totals text,
        durations text
    ) WITH (fillfactor = 50);
    CREATE INDEX accounts_of_owner ON {}.accounts (owner);
    CREATE TABLE {}.operations (
        account integer NOT NULL,
        id text NOT NULL,
        status text NOT NULL,
        created double precision NOT NULL,
        updated double precision NOT NULL,
        began double precision,
        gone boolean NOT NULL,
        reading text NOT NULL,
        marks text NOT NULL,
        stats bytea NOT NULL,
        PRIMARY KEY (account, id)
    ) WITH (fillfactor = 80);
    ALTER TABLE {}.operations ALTER COLUMN stats SET STORAGE MAIN;
    CREATE TABLE {}.email_totals (account integer PRIMARY KEY, totals text NOT NULL);
    CREATE TABLE {}.email_counts (
        account integer NOT NULL,
        label text NOT NULL,
        value text NOT NULL,
        counts text NOT NULL,
        PRIMARY KEY (account, label, value)
    );
    CREATE TABLE {}.emails (
        account integer NOT NULL,
        id bytea NOT NULL,
        known bigint NOT NULL,
        PRIMARY KEY (account, id)
    ) WITH (fillfactor = 80);
    CREATE TABLE {}.email_errors (
        account integer NOT NULL,
        operation text NOT NULL,
        failed bigint NOT NULL,
        codes text NOT NULL,
        PRIMARY KEY (account, operation)
    );
    """,
)
# Any number that is the same in all exporters: two of them never migrate at the same time.
_MIGRATION_LOCK = 0x434F4D53


def require(transaction: Transaction, schema: str) -> None:
    """Refuse a *schema* whose tables are not of this version; change nothing."""
    _require_postgres(transaction)
    version = _version(transaction, schema)
    if version == 0:
        raise StoreRefusedError(f"--state.schema: there are no tables of the exporter in {schema}")
    if version != len(MIGRATIONS):
        raise StoreRefusedError(
            f"--state.schema: the tables in {schema} have version {version}, but this version of the exporter has {len(MIGRATIONS)}"
        )


def migrate(transaction: Transaction, schema: str) -> None:
    """Bring the tables in *schema* to the latest version, and create the schema if it is missing."""
    _require_postgres(transaction)
    if _version(transaction, schema) == len(MIGRATIONS):
        return
    transaction.execute("SELECT pg_advisory_xact_lock(%s)", [_MIGRATION_LOCK])
    # Another exporter may have migrated it meanwhile.
    version = _version(transaction, schema)
    if version > len(MIGRATIONS):
        raise StoreRefusedError(
            f"--state.schema: a newer version of the exporter has migrated {schema} to version {version} of the tables"
        )
    if not transaction.execute("SELECT true FROM pg_namespace WHERE nspname = %s", [schema]):
        transaction.execute("CREATE SCHEMA {}")
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        transaction.run_script(script)
        transaction.execute("UPDATE {}.schema_version SET version = %s", [number])


def _require_postgres(transaction: Transaction) -> None:
    ((server,),) = transaction.execute("SELECT version()")
    if "PostgreSQL" not in server or "Cockroach" in server:
        raise StoreRefusedError(f"--state.url: is not a PostgreSQL database; it says: {server[:60]}")
    ((encoding,),) = transaction.execute("SELECT current_setting('server_encoding')")
    # SQL_ASCII takes every byte as it is.
    if encoding not in {"UTF8", "SQL_ASCII"}:
        raise StoreRefusedError(
            f"--state.url: the database has the encoding {encoding}, which cannot store every name; create one with ENCODING 'UTF8'"
        )


def _version(transaction: Transaction, schema: str) -> int:
    """Return the version of the tables in *schema*, 0 if there are none."""
    # Not to_regclass(), which may remember from before the lock that there are none.
    exists = transaction.execute(
        "SELECT true FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE nspname = %s AND relname = 'schema_version'",
        [schema],
    )
    if not exists:
        return 0
    found = transaction.execute("SELECT version FROM {}.schema_version")
    if len(found) != 1:
        raise StoreError(
            f"--state.schema: the tables in {schema} have {len(found)} versions: a backup is being restored, or was restored over them"
        )
    ((version,),) = found
    return int(version)
