"""The two engines that hold a warehouse, behind the few verbs that loading needs.

What belongs here: connections, writing a frame into a table, errors in words. What must not: what is loaded (``raw``), any model's SQL.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import polars as pl

from predator_si.errors import BadInput, Unavailable
from predator_si.home import Home

Target = Literal["duckdb", "postgres"]
"""Name of an output in ``project/profiles.yml``."""


class Warehouse(Protocol):
    """An open warehouse; the connection's transaction ends with the block that opened it."""

    target: Target

    def execute(self, sql: str) -> None:
        """Run statements that answer nothing."""
        ...

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        ...

    def answer(self, question: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Column names and rows of somebody's own query; times are UTC.

        Raises
        ------
        BadInput
            The engine refuses it; the message is the engine's.
        """
        ...

    def append(self, table: str, frame: pl.DataFrame) -> None:
        """Write a frame's rows into a table, column by name."""
        ...


class _Connected:
    """What both drivers answer alike."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def execute(self, sql: str) -> None:
        """Run statements that answer nothing."""
        self._connection.execute(sql)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        found: list[tuple[Any, ...]] = self._connection.execute(sql).fetchall()
        return found


class DuckDBFile(_Connected):
    """A warehouse in one DuckDB file. One process may write it, or several may read."""

    target: Target = "duckdb"

    def answer(self, question: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Column names and rows of somebody's own query; times are UTC."""
        import duckdb

        return _answer(self._connection, question, duckdb.Error)

    def append(self, table: str, frame: pl.DataFrame) -> None:
        """Write a frame's rows into a table, column by name."""
        if frame.height:
            self._connection.register("incoming", frame.to_arrow())
            self._connection.execute(f"insert into {table} by name select * from incoming")
            self._connection.unregister("incoming")


class PostgresDatabase(_Connected):
    """A warehouse in a PostgreSQL database, found by the variables that libpq reads (``PGHOST``, ``PGDATABASE``, ``PGUSER``, ``PGPASSWORD`` ...)."""

    target: Target = "postgres"

    def answer(self, question: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Column names and rows of somebody's own query; times are UTC."""
        import psycopg

        return _answer(self._connection, question, psycopg.Error)

    def append(self, table: str, frame: pl.DataFrame) -> None:
        """Write a frame's rows into a table by COPY; nested columns arrive as JSON."""
        if not frame.height:
            return
        nested = [name for name, kind in frame.schema.items() if kind.is_nested()]
        flat = frame.with_columns(pl.when(pl.col(name).is_null()).then(None).otherwise(_json(name)).alias(name) for name in nested)
        columns = ", ".join(f'"{name}"' for name in frame.columns)
        with self._connection.cursor().copy(f"copy {table} ({columns}) from stdin with (format csv)") as copy:
            copy.write(flat.write_csv(include_header=False, datetime_format="%Y-%m-%d %H:%M:%S%.6f").encode())


def _answer(connection: Any, question: str, refusal: type[Exception]) -> tuple[list[str], list[tuple[Any, ...]]]:
    try:
        cursor = connection.execute(question)
        rows = cursor.fetchall() if cursor.description else []
    except refusal as error:
        raise BadInput(f"the warehouse refuses this: {' '.join(str(error).split())[:500]}") from error
    zoned = [tuple(cell.replace(tzinfo=UTC) if isinstance(cell, datetime) and cell.tzinfo is None else cell for cell in row) for row in rows]
    return [column[0] for column in cursor.description or []], zoned


def _json(name: str) -> pl.Expr:
    """A nested column as JSON text: Polars encodes structs only, so the value is wrapped and unwrapped."""
    return pl.struct(pl.col(name)).struct.json_encode().str.strip_prefix(f'{{"{name}":').str.strip_suffix("}")


@contextmanager
def open_warehouse(home: Home, target: Target = "duckdb", *, read_only: bool = False) -> Iterator[Warehouse]:
    """Open the warehouse of an installation; what the block did is kept only when it ends well.

    Parameters
    ----------
    home
        Its ``warehouse`` folder holds the DuckDB file.
    target
        ``duckdb``, or ``postgres`` for the database that the ``PG...`` variables name.
    read_only
        Leave everything as it is, and let others read at the same time.

    Raises
    ------
    BadInput
        There is no warehouse to read, or ``PGDATABASE`` is not set.
    Unavailable
        The file is being written by another process, or the database does not answer.
    """
    if target == "duckdb":
        with _duckdb(home.warehouse_file, read_only) as connection:
            yield DuckDBFile(connection)
        return
    if not os.environ.get("PGDATABASE"):
        raise BadInput("PGDATABASE is not set: say where the PostgreSQL warehouse is with PGHOST, PGPORT, PGDATABASE, PGUSER and PGPASSWORD.")
    import psycopg

    try:
        connection = psycopg.connect(connect_timeout=10)
    except psycopg.OperationalError as error:
        said = str(error).splitlines()[0]
        raise Unavailable(f"PostgreSQL does not answer ({said}); is it running, are PGHOST, PGPORT, PGUSER and PGPASSWORD right?") from error
    with connection:
        connection.execute("set time zone 'UTC'")
        if read_only:
            connection.execute("set transaction read only")
        yield PostgresDatabase(connection)


@contextmanager
def _duckdb(file: Path, read_only: bool) -> Iterator[Any]:
    import duckdb

    if read_only and not file.is_file():
        raise BadInput(f"{file}: no warehouse yet. Run `predator-si warehouse build` first.")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        connection = duckdb.connect(str(file), read_only=read_only)
    except duckdb.IOException as error:
        raise Unavailable(f"{file}: in use by another process ({str(error).splitlines()[0]}). It is being built, or somebody reads it: try again.") from error
    try:
        connection.execute("begin")
        yield connection
        connection.execute("commit")
    finally:
        connection.close()  # an open transaction is rolled back


def text(value: str) -> str:
    """A string as an SQL literal, the same on both engines."""
    return "'" + value.replace("'", "''") + "'"


def environment(home: Home, target: Target) -> Mapping[str, str]:
    """What dbt finds in its environment beside the ``PG...`` variables: where the warehouse is, where it may write, and that it reports nothing home."""
    from predator_si.quiet import quiet_environment

    work = home.warehouse / f"target-{target}"
    return {
        **quiet_environment(),
        "PREDATOR_SI_WAREHOUSE_TARGET": target,
        "PREDATOR_SI_WAREHOUSE_FILE": str(home.warehouse_file),
        "DBT_PROJECT_DIR": str(PROJECT),
        "DBT_PROFILES_DIR": str(PROJECT),
        "DBT_TARGET_PATH": str(work),
        "DBT_LOG_PATH": str(work),
        "DBT_USE_COLORS": "false",
    }


PROJECT = Path(__file__).parent / "project"
"""The dbt project, as it was installed; dbt writes nothing into it."""
RAW_TABLES: Sequence[str] = ("windows", "loads", "search_events", "actions", "quarantine", "snapshots", "probes")
"""Relations of the schema ``raw``."""
