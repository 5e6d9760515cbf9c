"""Events in tables of another search service's PostgreSQL.

What belongs here: one read-only transaction per window, with a cursor on the server. What must not: anything that writes; joining or measuring.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from predator_si.contour import Credential, PostgresEvents
from predator_si.errors import PredatorError, Unavailable
from predator_si.monitor.sources.access import secret
from predator_si.monitor.sources.columns import UBI, from_documents
from predator_si.monitor.sources.reading import Reading, raw_frame, validated
from predator_si.monitor.sources.rules import Kind
from predator_si.records import Provenance

if TYPE_CHECKING:
    from psycopg import Connection

_TABLE: dict[Kind, str] = {"search": "searches", "action": "actions"}
FETCH = 10_000
"""Rows that the server hands over at a time."""


@dataclass(frozen=True)
class PostgresTables:
    """Tables or views of searches and actions.

    Parameters
    ----------
    values
        The contour's entry.
    credential
        User, and the name of the variable with the password; null leaves both to libpq (PGUSER, PGPASSFILE, peer).
    timeout
        Seconds for connecting; each statement may take three times as long.
    """

    values: PostgresEvents
    credential: Credential | None = None
    env: Mapping[str, str] | None = None
    timeout: float = 10.0
    name: str = "postgres"

    def read(self, start: datetime, end: datetime) -> Reading:
        """All rows with ``start <= timestamp < end``; a database that is down, or a table that is not as the contour says, is named in the provenance."""
        origin = self.values.address
        provenance = Provenance(source=self.name, origin=origin, window_start=start, window_end=end)
        frames: dict[Kind, list[pl.DataFrame]] = {"search": [], "action": []}
        tables: tuple[tuple[Kind, str | None], ...] = (("search", self.values.searches), ("action", self.values.actions))
        try:
            with self._session() as connection:
                for kind, table in tables:
                    if table is not None:
                        for rows in self._rows(connection, kind, table, start, end):
                            events = from_documents(rows, kind)
                            frames[kind].append(raw_frame(events, kind, source=self.name, origin=f"postgres:{table}", arrived=end))
        except PredatorError as error:
            return Reading(provenance.model_copy(update={"unknown": (str(error),)}), complete=False)
        return validated(provenance, frames)

    @contextmanager
    def _session(self) -> Iterator[Connection[dict[str, Any]]]:
        """A session that cannot write, whose statements end in time; the password is given to the driver, not to an address that would be printed."""
        try:
            import psycopg
            from psycopg.rows import dict_row
        except ImportError as error:
            raise Unavailable(f"{self.values.address}: the PostgreSQL driver is not installed; pip install 'predator_si[postgres]'") from error

        given: dict[str, Any] = {}
        if self.credential is not None:
            given = {"user": self.credential.user, "password": secret(self.credential, self.env)}
        limit = int(self.timeout * 3000)
        options = f"-c default_transaction_read_only=on -c statement_timeout={limit} -c idle_in_transaction_session_timeout={limit} -c timezone=UTC"
        try:
            connection = psycopg.connect(
                self.values.address,
                connect_timeout=max(2, int(self.timeout)),
                application_name="predator_si",
                options=options,
                row_factory=dict_row,
                **given,
            )
            with connection:
                yield connection
        except psycopg.Error as error:
            said = str(error).strip().splitlines()
            raise Unavailable(f"{self.values.address}: {said[0] if said else type(error).__name__}") from error

    def _rows(self, connection: Connection[dict[str, Any]], kind: Kind, table: str, start: datetime, end: datetime) -> Iterator[list[dict[str, Any]]]:
        """Rows of the window in order, so many at a time, by our names."""
        from psycopg import sql

        place = sql.Identifier(*table.split("."))
        there = self._columns(connection, table)
        mapping = {name: theirs for name in UBI[kind] if (theirs := self._place(kind, name)) in there}
        given = {name for name in UBI[kind] if f"{_TABLE[kind]}.{name}" in self.values.columns or name in self.values.columns}
        absent = sorted(self._place(kind, name) for name in (given | {"query_id", "timestamp"}) - set(mapping))
        if kind == "action" and "action_name" not in mapping:
            absent.append(self._place(kind, "action_name"))
        if absent:
            raise Unavailable(f"{self.values.address}: table {table} has no column {', '.join(absent)}; it has {', '.join(sorted(there))}. Map it in columns")
        chosen = sql.SQL(", ").join(sql.SQL("{} AS {}").format(sql.Identifier(theirs), sql.Identifier(ours)) for ours, theirs in mapping.items())
        time = sql.Identifier(mapping["timestamp"])
        query = sql.SQL("SELECT {} FROM {} WHERE {} >= %s AND {} < %s ORDER BY {}, {}").format(
            chosen, place, time, time, time, sql.Identifier(mapping["query_id"])
        )
        with connection.cursor(name=f"predator_si_{kind}") as cursor:  # a named cursor lives on the server
            cursor.itersize = FETCH
            cursor.execute(query, (start, end))
            while rows := cursor.fetchmany(FETCH):
                yield [{name: _plain(value) for name, value in row.items()} for row in rows]

    def _place(self, kind: Kind, name: str) -> str:
        return self.values.columns.get(f"{_TABLE[kind]}.{name}", self.values.columns.get(name, name))

    def _columns(self, connection: Connection[dict[str, Any]], table: str) -> set[str]:
        from psycopg import sql

        with connection.cursor() as cursor:
            cursor.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(sql.Identifier(*table.split("."))))
            return {column.name for column in cursor.description or ()}


def _plain(value: Any) -> Any:
    """A value as JSON would have it: PostgreSQL's exact numbers and UUIDs are numbers and text."""
    from decimal import Decimal
    from uuid import UUID

    if isinstance(value, Decimal):
        return float(value)
    return str(value) if isinstance(value, UUID) else value
