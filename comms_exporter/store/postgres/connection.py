"""A connection to PostgreSQL that is opened when it is needed, and again after it broke."""

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psycopg
from psycopg import conninfo, errors, sql
from psycopg.rows import TupleRow

from comms_exporter.store.errors import DatabaseAwayError, StoreError, StoreRefusedError

T = TypeVar("T")
Session = psycopg.Connection[TupleRow]

# Rows that a stream reads at a time.
_STREAMED = 5000

# What libpq uses unless the URL or the environment says otherwise: a network that drops every packet is noticed within seconds.
_DEFAULTS = {
    "connect_timeout": "3",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
    # A standby accepts connections, but no writes.
    "target_session_attrs": "read-write",
}
# The variables of libpq that come before them; the others have none.
_VARIABLES = {"connect_timeout": "PGCONNECT_TIMEOUT", "target_session_attrs": "PGTARGETSESSIONATTRS"}
# A pooler accepts a connection even if no database is behind it, and then makes its client wait for minutes.
_ANSWER_SECONDS = 3.0
# Locks are held for milliseconds, unless their owner was stopped.
_LOCK_TIMEOUT = "3s"
# After failing to connect, the next attempt waits for so many seconds, doubled up to the second number, or to the patience.
_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 0.5, 5.0
# What the server, or a pooler before it, says while it starts, stops or has no connection left. These pass by themselves.
_PASSING = (
    "the database system is",
    "too many",
    "remaining connection slots",
    "Connection refused",
    "timeout",
    "connect failed",
    "try again later",
    "no more connections",
)


class Transaction:
    """A transaction on the tables in *schema*; in each statement, {} stands for that schema."""

    def __init__(self, session: Session, schema: str) -> None:
        self._session = session
        self._schema = sql.Identifier(schema)

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run *statement* and return its rows."""
        cursor = self._session.execute(self._composed(statement), parameters or None, binary=True)
        return cursor.fetchall() if cursor.description else []

    def run_script(self, statements: str) -> None:
        """Run *statements*, which take no parameters and return no rows."""
        self._session.execute(self._composed(statements))

    @contextmanager
    def stream(self, statement: str, parameters: Sequence[Any]) -> Iterator[Iterator[tuple[Any, ...]]]:
        """Run *statement* and give its rows one by one: a million of them do not fit into memory twice.

        The transaction goes on after the context, however many rows were read; within it, no other statement can run.
        """
        with self._session.cursor(binary=True) as cursor:
            # Before version 17, libpq reads one row at a time.
            size = _STREAMED if psycopg.capabilities.has_stream_chunked() else 1
            found = cursor.stream(self._composed(statement), parameters, size=size)
            try:
                yield found
            finally:
                # The session stays locked until the last row was read. To close the cursor would cancel the whole transaction.
                if self._session.info.transaction_status is psycopg.pq.TransactionStatus.ACTIVE:
                    deque(found, maxlen=0)

    def _composed(self, statement: str) -> sql.Composed:
        return sql.SQL(statement).format(*[self._schema] * statement.count("{}"))


class Connection:
    """Runs transactions, one at a time, in the calling thread.

    Nothing depends on the session between two transactions, so a connection pooler may use another one for each.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str,
        name: str,
        patience: float = 5.0,
        prepare: Callable[[Transaction, str], None] = lambda *_: None,
        deadline: Callable[[], float] = lambda: float("inf"),
    ) -> None:
        """Connect to *url* as application *name*, and *prepare* the *schema* in each new session.

        No transaction begins after *deadline*.
        The server rolls a transaction back if the next statement does not come within *patience* seconds. Two attempts to connect
        are not further apart than that, so that others, who are quicker, do not take this exporter for dead.
        """
        try:
            given = conninfo.conninfo_to_dict(url)
        except psycopg.Error:
            # The message may repeat a part of a password.
            raise StoreError(
                "is not a URL that libpq understands; percent-encode special characters in the password"
            ) from None
        defaults = {key: value for key, value in _DEFAULTS.items() if _VARIABLES.get(key, "") not in os.environ}
        self._parameters: dict[str, Any] = {**defaults, "application_name": name, **given}
        self._limits = sql.SQL(
            "SET LOCAL lock_timeout = {}; SET LOCAL idle_in_transaction_session_timeout = {}"
        ).format(_LOCK_TIMEOUT, f"{max(1000, round(1000 * patience))}ms")
        self._max_pause = min(_MAX_BACKOFF_SECONDS, patience)
        self._server = f"PostgreSQL at {given.get('host', 'the default host')}"
        self._schema = schema
        self._prepare = prepare
        self._deadline = deadline
        self._session: Session | None = None
        self._closed = False
        # After failing to connect: why, until when to say so without another attempt, and how long the pause was.
        self._refusal: StoreError | None = None
        self._retry_at = float("-inf")
        self._pause = 0.0

    def run(self, work: Callable[[Transaction], T]) -> T:
        """Return what *work* returns, committed; a StoreError means that it may have been committed or not."""
        with self._errors():
            session = self._open()
            with session.transaction():
                # The server waits neither for locks nor for a client that was stopped in the middle.
                session.execute(self._limits)
                return work(Transaction(session, self._schema))

    def run_again(self, work: Callable[[Transaction], T]) -> T:
        """Run *work* like run(), and once more in a new session if the old one has broken."""
        had_session = self._session is not None
        try:
            return self.run(work)
        except StoreError:
            if not had_session or self._session is not None:
                raise
        return self.run(work)

    def check(self) -> None:
        """Connect; StoreRefusedError means that this will not succeed later, either."""
        self.run(lambda _: None)

    def interrupt(self) -> None:
        """Make the current transaction, in another thread, fail soon, even if the network drops every packet."""
        session = self._session
        if session is None:
            return
        with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(session.fileno())) as connected:
            connected.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the session, and open no other."""
        self._closed = True
        self._disconnect()

    def _open(self) -> Session:
        if self._closed or time.monotonic() > self._deadline():
            raise DatabaseAwayError(f"{self._server}: the connection is closed")
        return self._connect() if self._session is None else self._session

    def _connect(self) -> Session:
        if self._refusal is not None and time.monotonic() < self._retry_at:
            # Whoever waits for this thread may have a thousand accounts to save.
            raise type(self._refusal)(str(self._refusal))
        try:
            with self._errors():
                try:
                    # Otherwise text is bytes if the database has no encoding of its own.
                    session = psycopg.connect(
                        **{**self._parameters, "client_encoding": "utf8"}, autocommit=True, prepare_threshold=None
                    )
                except OSError as error:
                    # Psycopg needs a file descriptor for waiting.
                    raise psycopg.OperationalError(str(error)) from None
                # Before anything that may hang, so that interrupt() finds it.
                self._session = session
                # Whatever is the default there: a statement has to see what was committed while it waited for a lock.
                session.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
                with self._interrupted_after(_ANSWER_SECONDS):
                    session.execute("SELECT 1")
                with session.transaction():
                    session.execute(self._limits)
                    self._prepare(Transaction(session, self._schema), self._schema)
        except StoreError as error:
            self._disconnect()
            self._pause = min(self._max_pause, self._pause * 2 or _BACKOFF_SECONDS)
            self._retry_at, self._refusal = time.monotonic() + self._pause, error
            raise
        self._pause, self._refusal = 0.0, None
        return session

    def _disconnect(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    @contextmanager
    def _interrupted_after(self, seconds: float) -> Iterator[None]:
        timer = threading.Timer(seconds, self.interrupt)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise a StoreError for each error of the database, and drop a session that is broken."""
        try:
            yield
        except psycopg.Error as error:
            problem = f"{self._server}: {_first_line(error)}"
            kind = StoreRefusedError if _is_lasting(error) else StoreError
            if isinstance(error, errors.ReadOnlySqlTransaction):
                # Another server may accept writes by now; only a new session asks for it.
                self._disconnect()
        else:
            return
        finally:
            away = self._session is None or self._session.closed
            if away:
                self._disconnect()
        if away and kind is StoreError:
            kind = DatabaseAwayError
        # Outside the except block: libpq's message may repeat what is secret, and would be chained.
        raise kind(problem)


def _first_line(error: psycopg.Error) -> str:
    message = str(error).strip()
    # libpq begins with the address, and the server's own words follow on the same line.
    return message.splitlines()[0] if message else type(error).__name__


def _is_lasting(error: psycopg.Error) -> bool:
    """Whether the server has answered, and waiting will not change its mind: a wrong password, no such database."""
    if isinstance(error, errors.InsufficientPrivilege | errors.InvalidSchemaName | errors.FeatureNotSupported):
        return True
    message = str(error)
    return "FATAL" in message and not any(each in message for each in _PASSING)
