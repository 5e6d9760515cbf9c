"""The ledger and the cycles page by page, newest first, as methods that ``Control`` has: each answers from an index, however long the ledger is.

What belongs here: reading for people. What must not: writing, verifying (``ledger``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

import sqlalchemy as sa

from predator_si.control import ledger, schema
from predator_si.control.ledger import stamp
from predator_si.control.segments import Segments, base_of
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


class Pages(Segments):
    """What people leaf through. ``Control`` is made of this; it has no life of its own."""

    def page(self, limit: int, before_seq: int | None = None, cycle_id: str | None = None) -> list[LedgerRecord]:
        """At most ``limit`` ledger records, newest first, older than ``before_seq`` where given."""
        query = sa.select(schema.ledger).order_by(schema.ledger.c.seq.desc()).limit(limit)
        if cycle_id is not None:
            query = query.where(schema.ledger.c.cycle_id == cycle_id)
        if before_seq is not None:
            query = query.where(schema.ledger.c.seq < before_seq)
        with self._database.reading() as connection:
            found = [ledger.from_row(row) for row in connection.execute(query).mappings()]
        return self._with_sealed(found, limit, self.sealed(before_seq=before_seq, newest_first=True, cycle_id=cycle_id))

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
            found = [ledger.from_row(row) for row in connection.execute(query).mappings()]
        older = self.sealed(before_seq=before_seq, newest_first=True, cycle_id=asked.cycle_id or None)
        return self._with_sealed(found, limit, (record for record in older if fits(record, asked)))

    def count_records(self) -> int:
        """Ledger records there are, the sealed ones among them."""
        with self._database.reading() as connection:
            last = connection.execute(sa.select(sa.func.max(schema.ledger.c.seq))).scalar()
            return int(last) if last is not None else base_of(connection)[0]

    def _with_sealed(self, found: list[LedgerRecord], limit: int, older: Iterator[LedgerRecord]) -> list[LedgerRecord]:
        """Records from the database, newest first, and behind them sealed ones, up to ``limit``; those are not read before they are needed."""
        return found + list(islice(older, max(0, limit - len(found))))

    def actions_since(self, since: datetime) -> dict[str, int]:
        """Ledger records since a moment by the wall clock, by action."""
        table = schema.ledger
        query = sa.select(table.c.action, sa.func.count()).where(table.c.timestamp >= stamp(since)).group_by(table.c.action).order_by(table.c.action)
        with self._database.reading() as connection:
            return {str(action): count for action, count in connection.execute(query).tuples()}

    def cycles_since(self, contour: str, since: datetime) -> int:
        """Cycles of a contour that were opened since a moment."""
        table = schema.cycles
        query = sa.select(sa.func.count()).where(table.c.contour == contour, table.c.opened_at >= stamp(since))
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar() or 0)


def _spellings(words: str) -> list[str]:
    """Words in the cases that people write them in: SQLite folds the case of ASCII only."""
    return list(dict.fromkeys((words, words.lower(), words.upper(), words.capitalize(), words.title()))) if not words.isascii() else [words]


def fits(record: LedgerRecord, asked: RecordQuery) -> bool:
    """Whether a record is one that is looked for; as the database says it."""
    if asked.cycle_id and record.cycle_id != asked.cycle_id:
        return False
    if (asked.since is not None and record.timestamp < asked.since) or (asked.until is not None and record.timestamp >= asked.until):
        return False
    for said, words in ((record.actor, asked.actor), (record.action, asked.action)):
        if words.casefold() not in said.casefold():
            return False
    text = asked.text.casefold()
    return text in record.reason.casefold() or text in json.dumps(record.payload, ensure_ascii=False).casefold()
