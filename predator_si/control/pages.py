"""The ledger and the cycles page by page, newest first, as methods that ``Control`` has: each answers from an index, however long the ledger is.

What belongs here: reading for people. What must not: writing, verifying (``ledger``).
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from predator_si.control import ledger, schema
from predator_si.control.ledger import stamp
from predator_si.records import LedgerRecord


class Pages:
    """What people leaf through. ``Control`` is made of this; it has no life of its own."""

    _database: schema.Database

    def page(self, limit: int, before_seq: int | None = None, cycle_id: str | None = None) -> list[LedgerRecord]:
        """At most ``limit`` ledger records, newest first, older than ``before_seq`` where given."""
        query = sa.select(schema.ledger).order_by(schema.ledger.c.seq.desc()).limit(limit)
        if cycle_id is not None:
            query = query.where(schema.ledger.c.cycle_id == cycle_id)
        if before_seq is not None:
            query = query.where(schema.ledger.c.seq < before_seq)
        with self._database.reading() as connection:
            return [ledger.from_row(row) for row in connection.execute(query).mappings()]

    def count_records(self) -> int:
        """Ledger records there are: the newest sequence number less those that retention took from the beginning."""
        with self._database.reading() as connection:
            first, last = _ends(connection)
        return 0 if first is None or last is None else last - first + 1

    def actions_since(self, since: datetime) -> dict[str, int]:
        """Ledger records since a moment, by action. The chain is in the order of time, so the first of them is found by halving."""
        table = schema.ledger
        wanted = stamp(since)
        with self._database.reading() as connection:
            low, high = _ends(connection)
            if low is None or high is None:
                return {}
            high += 1
            while low < high:
                middle = (low + high) // 2
                at = connection.execute(sa.select(table.c.timestamp).where(table.c.seq == middle)).scalar()
                low, high = (middle + 1, high) if at is not None and at < wanted else (low, middle)
            rows = connection.execute(sa.select(table.c.action, sa.func.count()).where(table.c.seq >= low).group_by(table.c.action).order_by(table.c.action))
            return {str(action): int(count) for action, count in rows}

    def cycles_since(self, contour: str, since: datetime) -> int:
        """Cycles of a contour that were opened since a moment."""
        table = schema.cycles
        query = sa.select(sa.func.count()).where(table.c.contour == contour, table.c.opened_at >= stamp(since))
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar() or 0)


def _ends(connection: sa.Connection) -> tuple[int | None, int | None]:
    """First and last sequence number; asked apart, since one question for both would read the whole table."""
    seq = schema.ledger.c.seq
    first, last = connection.execute(sa.select(sa.func.min(seq))).scalar(), connection.execute(sa.select(sa.func.max(seq))).scalar()
    return (None if first is None else int(first)), (None if last is None else int(last))
