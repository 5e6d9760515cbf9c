"""The ledger and the cycles page by page, newest first, as methods that ``Control`` has: each answers from an index, however long the ledger is.

What belongs here: reading for people. What must not: writing, verifying (``ledger``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from predator_si.control import ledger, schema
from predator_si.control.ledger import stamp
from predator_si.records import LedgerRecord


@dataclass(frozen=True)
class RecordQuery:
    """What somebody looks for in the ledger; empty fields ask nothing. ``actor`` and ``action`` may be parts of a name.

    Attributes
    ----------
    since, until
        ``since <= t < until``, with time zone.
    text
        Words as they stand in the reason or in the payload; upper and lower case are the same.
    """

    cycle_id: str = ""
    actor: str = ""
    action: str = ""
    since: datetime | None = None
    until: datetime | None = None
    text: str = ""


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

    def search(self, asked: RecordQuery, limit: int, before_seq: int | None = None) -> list[LedgerRecord]:
        """At most ``limit`` ledger records that fit, newest first, older than ``before_seq`` where given."""
        table = schema.ledger
        query = sa.select(table).order_by(table.c.seq.desc()).limit(limit)
        if before_seq is not None:
            query = query.where(table.c.seq < before_seq)
        if asked.cycle_id:
            query = query.where(table.c.cycle_id == asked.cycle_id)
        if asked.since is not None:
            query = query.where(table.c.timestamp >= stamp(asked.since))
        if asked.until is not None:
            query = query.where(table.c.timestamp < stamp(asked.until))
        for column, words in ((table.c.actor, asked.actor), (table.c.action, asked.action)):
            if words:
                query = query.where(sa.or_(*(column.icontains(one, autoescape=True) for one in _spellings(words))))
        if asked.text:
            written = [json.dumps(one)[1:-1] for one in _spellings(asked.text)]  # payloads are kept as ASCII
            reasons = (table.c.reason.icontains(one, autoescape=True) for one in _spellings(asked.text))
            query = query.where(sa.or_(*reasons, *(table.c.payload.icontains(one, autoescape=True) for one in written)))
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
            return {str(action): count for action, count in rows.tuples()}

    def cycles_since(self, contour: str, since: datetime) -> int:
        """Cycles of a contour that were opened since a moment."""
        table = schema.cycles
        query = sa.select(sa.func.count()).where(table.c.contour == contour, table.c.opened_at >= stamp(since))
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar() or 0)


def _spellings(words: str) -> list[str]:
    """Words in the cases that people write them in: SQLite folds the case of ASCII only."""
    return list(dict.fromkeys((words, words.lower(), words.upper(), words.capitalize(), words.title()))) if not words.isascii() else [words]


def _ends(connection: sa.Connection) -> tuple[int | None, int | None]:
    """First and last sequence number; asked apart, since one question for both would read the whole table."""
    seq = schema.ledger.c.seq
    first, last = connection.execute(sa.select(sa.func.min(seq))).scalar(), connection.execute(sa.select(sa.func.max(seq))).scalar()
    return (None if first is None else int(first)), (None if last is None else int(last))
