"""Tables of the control database and how a connection to it is made.

SQLite runs in WAL mode; whoever reads in order to write says ``BEGIN IMMEDIATE`` first, so that two writers queue up instead of both
reading the old state. PostgreSQL gets the same effect from one advisory lock per transaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from predator_si.control import append_only, migrate
from predator_si.control.secrets import redacted
from predator_si.control.states import ACTIVE
from predator_si.errors import BadInput, PredatorError, Unavailable

SCHEMA_VERSION = 3
BUSY_SECONDS = 30.0
_ADVISORY_LOCK = 0x5052454441  # "PREDA": one writer at a time on PostgreSQL

metadata = sa.MetaData()


class Words(sa.types.TypeDecorator[str]):
    """What somebody wrote, without secrets. The ledger's own words are redacted before they are hashed (``ledger.append``)."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """The text as it is stored."""
        return None if value is None else redacted(value)


schema_version = sa.Table("schema_version", metadata, sa.Column("version", sa.Integer, primary_key=True))

cycles = sa.Table(
    "cycles",
    metadata,
    sa.Column("cycle_id", sa.String, primary_key=True),
    sa.Column("contour", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("trigger", sa.Text, nullable=False),
    sa.Column("opened_at", sa.String, nullable=False),
    sa.Column("updated_at", sa.String, nullable=False),
    sa.Column("reason", Words, nullable=False),
    sa.Column("actor", sa.String, nullable=False),
    # the ledger record that opened it: which of two cycles is the newer, whatever the wall clock said when
    sa.Column("opened_seq", sa.Integer, nullable=False, server_default="0"),
)
sa.Index("cycles_by_opening", cycles.c.opened_seq)
IS_ACTIVE = cycles.c.state.in_(sorted(state.value for state in ACTIVE))
# the rule "one cycle at a time" once more, where no program error can get past it
sa.Index("one_active_cycle", cycles.c.contour, unique=True, sqlite_where=IS_ACTIVE, postgresql_where=IS_ACTIVE)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("holder", sa.String, nullable=False),
    sa.Column("token", sa.Integer, nullable=False),
    sa.Column("expires_at", sa.String, nullable=True),
)

flags = sa.Table(
    "flags",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("contour", sa.String, primary_key=True),
    sa.Column("on", sa.Boolean, nullable=False),
)

notes = sa.Table(
    "notes",
    metadata,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("updated_at", sa.String, nullable=False),
)

sealed_openings = sa.Table(
    "sealed_openings",
    metadata,
    sa.Column("cycle_id", sa.String, primary_key=True),
    sa.Column("corpus", sa.String, primary_key=True),
    sa.Column("evaluation_id", sa.String, primary_key=True),
    sa.Column("ledger_seq", sa.Integer, nullable=False),
    sa.Column("opened_at", sa.String, nullable=False),
)

ledger = sa.Table(
    "ledger",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("timestamp", sa.String, nullable=False),
    sa.Column("action", sa.String, nullable=False, index=True),
    sa.Column("actor", sa.String, nullable=False),
    sa.Column("cycle_id", sa.String, nullable=True, index=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("previous_hash", sa.String, nullable=False),
    sa.Column("hash", sa.String, nullable=False),
)
sa.Index("ledger_by_time", ledger.c.timestamp, ledger.c.action)

ledger_segments = sa.Table(
    "ledger_segments",
    metadata,
    sa.Column("first_seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("last_seq", sa.Integer, nullable=False),
    sa.Column("previous_hash", sa.String, nullable=False),
    sa.Column("last_hash", sa.String, nullable=False),
    sa.Column("sha256", sa.String, nullable=False),
    sa.Column("file", sa.String, nullable=False),
    sa.Column("sealed_at", sa.String, nullable=False),
    sa.Column("anchor_commit", sa.String, nullable=False),
)

ledger_head = sa.Table(
    "ledger_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("hash", sa.String, nullable=False),
)

approvals = sa.Table(
    "approvals",
    metadata,
    sa.Column("cycle_id", sa.String, primary_key=True),
    sa.Column("stage", sa.String, primary_key=True),
    sa.Column("contour", sa.String, nullable=False),
    sa.Column("evidence_hash", sa.String, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
    sa.Column("asked_at", sa.String, nullable=False),
    sa.Column("expires_at", sa.String, nullable=False),
    sa.Column("decision", sa.String, nullable=True),
    sa.Column("actor", sa.String, nullable=True),
    sa.Column("reason", Words, nullable=False),
    sa.Column("at", sa.String, nullable=True),
)

gate_overrides = sa.Table(
    "gate_overrides",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("contour", sa.String, nullable=False),
    sa.Column("metric", sa.String, nullable=False),
    sa.Column("threshold", sa.Float, nullable=False),
    sa.Column("old", sa.Float, nullable=True),
    sa.Column("actor", sa.String, nullable=False),
    sa.Column("reason", Words, nullable=False),
    sa.Column("set_at", sa.String, nullable=False),
    sa.Column("expires_at", sa.String, nullable=False),
    sa.Column("ended_at", sa.String, nullable=True),
)
sa.Index("gate_overrides_of_a_contour", gate_overrides.c.contour, gate_overrides.c.expires_at)

champions = sa.Table(
    "champions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("contour", sa.String, nullable=False),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("cycle_id", sa.String, nullable=True),
    sa.Column("since", sa.String, nullable=False),
    sa.Column("until", sa.String, nullable=True),
    sa.Column("why", Words, nullable=False),
    sa.Column("commit", sa.String, nullable=True),
)
_serves_now = champions.c.until.is_(None)
sa.Index("one_champion", champions.c.contour, unique=True, sqlite_where=_serves_now, postgresql_where=_serves_now)

feature_flags = sa.Table(
    "feature_flags",
    metadata,
    sa.Column("contour", sa.String, primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("on", sa.Boolean, nullable=False),
    sa.Column("actor", sa.String, nullable=False),
    sa.Column("reason", Words, nullable=False),
    sa.Column("set_at", sa.String, nullable=False),
)


class Database:
    """An engine with two ways in, ``reading()`` and ``writing()``, and one clear message for whatever the driver raises."""

    def __init__(self, url_or_path: str | Path, busy_seconds: float = BUSY_SECONDS) -> None:
        text = str(url_or_path)
        if "://" in text:
            try:
                self._url = sa.make_url(text.replace("postgres://", "postgresql://", 1) if text.startswith("postgres://") else text)
            except sa.exc.ArgumentError as error:
                raise BadInput("this is not a database URL. Give a file path, sqlite:///FILE or postgresql://user:password@host/database.") from error
        else:
            self._url = sa.URL.create("sqlite", database=text)
        self._busy_seconds = busy_seconds
        self.sqlite = self._url.get_backend_name() == "sqlite"
        if not self.sqlite and self._url.get_backend_name() != "postgresql":
            raise BadInput(
                f"{self._url.render_as_string(hide_password=True)}: the control database is SQLite or PostgreSQL. Give a file path or postgresql://..."
            )
        if not self.sqlite and self._url.drivername == "postgresql":
            self._url = self._url.set(drivername="postgresql+psycopg")  # the driver that the extra 'postgres' brings
        self.name = str(self._url.database) if self.sqlite else self._url.render_as_string(hide_password=True)
        if self.sqlite:
            self._prepare_file()
        self._engine = self._make_engine()
        self.fence: Callable[[sa.Connection], None] | None = None
        if self.sqlite:
            self._switch_to_wal()
        self._create_tables()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A consistent view; nothing is written."""
        with self._speaking(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self, *, fenced: bool = True) -> Iterator[sa.Connection]:
        """A transaction that excludes every other writer from its first statement on; ``fence``, where set, may refuse it, unless ``fenced`` is false."""
        with self._speaking(), self._engine.connect().execution_options(predator_write=True) as connection, connection.begin():
            if not self.sqlite:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
            if fenced and self.fence is not None:
                self.fence(connection)
            yield connection

    # ------------------------------------------------------------------ opening

    def _prepare_file(self) -> None:
        if self._url.database in (None, "", ":memory:"):
            raise BadInput("the control database must be a file: an in-memory one would forget the ledger. Give a file path.")
        folder = Path(self.name).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"{folder}: cannot make the folder of the control database ({error.strerror}). Choose a folder you may write to.") from error

    def _make_engine(self) -> sa.Engine:
        # no pool: a connection must not cross a fork, and a fresh one costs well under a millisecond (a few with a server)
        if not self.sqlite:
            try:
                waits = {"connect_timeout": 10, "options": f"-c lock_timeout={int(self._busy_seconds * 1000)}"}
                return sa.create_engine(self._url, poolclass=NullPool, connect_args=waits)
            except (ImportError, sa.exc.NoSuchModuleError) as error:
                raise BadInput(f"{self.name}: no driver for this database ({error}). Install the extra 'postgres', or use a file path.") from error
        engine = sa.create_engine(self._url, poolclass=NullPool, connect_args={"timeout": self._busy_seconds, "check_same_thread": False})

        @event.listens_for(engine, "connect")
        def _configure(connection: Any, _record: Any) -> None:
            connection.isolation_level = None  # the driver must not begin transactions behind our back
            connection.execute(f"PRAGMA busy_timeout={int(self._busy_seconds * 1000)}")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")

        @event.listens_for(engine, "begin")
        def _begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("predator_write") else "BEGIN")

        return engine

    def _switch_to_wal(self) -> None:
        # the switch needs the file for itself and does not wait for a lock by busy_timeout alone, so processes that open a new file at once take turns here
        deadline = time.monotonic() + self._busy_seconds
        while True:
            try:
                with self._speaking():
                    raw = self._engine.raw_connection()
                    try:
                        mode = raw.cursor().execute("PRAGMA journal_mode").fetchone()
                        if mode is not None and mode[0] == "wal":
                            return
                        raw.cursor().execute("PRAGMA journal_mode=WAL")
                        return
                    finally:
                        raw.close()
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _create_tables(self) -> None:
        """Today's schema: made in a new database, reached by migration in an older one, refused in one from a later program."""
        with self.reading() as connection:
            if _version(connection) == SCHEMA_VERSION:
                return
        with self.writing() as connection:
            found = _version(connection)  # again: another process may have been first
            if found is None:
                metadata.create_all(connection)
                for statement in append_only.guards(connection.dialect.name):
                    connection.execute(sa.text(statement))
                connection.execute(schema_version.insert().values(version=SCHEMA_VERSION))
                migrate.mark(connection)
            elif found < SCHEMA_VERSION:
                migrate.upgrade(connection)
            elif found > SCHEMA_VERSION:
                raise BadInput(
                    f"{self.name}: schema version {found}, this program knows {SCHEMA_VERSION}. Use the version that wrote it, or another home folder."
                )

    # ------------------------------------------------------------------ errors

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except PredatorError:
            raise
        except DBAPIError as error:
            raise self._translate(str(error.orig)) from error
        except Exception as error:
            # raw sqlite3 errors reach us only from the WAL switch and the connect hook; anything else is a programming error and passes unchanged
            if type(error).__module__.split(".")[0] in ("sqlite3", "psycopg2", "psycopg"):
                raise self._translate(str(error)) from error
            raise

    def _translate(self, text: str) -> PredatorError:
        low = text.lower()
        if "not a database" in low or "malformed" in low or "corrupt" in low:
            return BadInput(f"{self.name}: not a usable control database ({text}). Restore it from a backup, or move it away to start a new ledger.")
        if "readonly" in low or "unable to open" in low or "permission" in low:
            return BadInput(f"{self.name}: cannot be opened for writing ({text}). Check that it is a file in a folder you may write to.")
        if "locked" in low or "busy" in low or "lock timeout" in low:
            return Unavailable(f"{self.name}: still locked by another process after {self._busy_seconds:g} s. Find who holds it, and try again.")
        if "disk i/o" in low or "full" in low:
            return Unavailable(f"{self.name}: the disk refuses ({text}). Free some space and try again.")
        return Unavailable(f"{self.name}: the control database answers with an error: {text}. See the database's own log; nothing was written.")


def _version(connection: sa.Connection) -> int | None:
    """The schema version of a database; null where it has no tables of ours."""
    if not sa.inspect(connection).has_table("schema_version"):
        return None
    found = connection.execute(sa.select(sa.func.max(schema_version.c.version))).scalar()
    return None if found is None else int(found)
