"""The audit trail: every record carries the hash of the one before.

``hash = sha256(canonical JSON of the record without its hash)``, where the record holds ``previous_hash``; the first one holds 64 zeros.

What verification detects: an edited field, a record removed from the middle, records put in another order, a record inserted, and a cut
tail (the head row remembers the newest sequence number and hash). What it cannot detect: somebody who may write to the database and
rewrites the chain from some record to the end and the head row with it, or swaps the whole file for an older copy. Against that, copy
``Control.head()`` out of reach from time to time and compare.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from predator_si.control import schema
from predator_si.control.secrets import redacted, redacted_values
from predator_si.errors import BadInput
from predator_si.records import LedgerRecord

GENESIS = "0" * 64
LOG = logging.getLogger("AutoOptimizer")
"""The loop's logger: each record becomes one line of it once it is committed."""


def stamp(moment: datetime) -> str:
    """UTC text with microseconds: sorts as time sorts, and is the same for the same moment.

    Raises
    ------
    BadInput
        The moment has no time zone.
    """
    if moment.tzinfo is None:
        raise BadInput(f"{moment!r} has no time zone. Give a UTC moment.")
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def unstamp(text: str) -> datetime:
    """The moment that ``stamp`` wrote."""
    return datetime.fromisoformat(text)


def canonical_json(value: Any, what: str) -> str:
    """One spelling for one value: sorted keys, no blanks, ASCII, no NaN."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{what} is not plain JSON ({error}). Use text, numbers, booleans, null, lists and objects with text keys.") from error


def ledger_hash(record: LedgerRecord) -> str:
    """The hash that ``record`` must carry: 64 hex digits."""
    body = {
        "seq": record.seq,
        "timestamp": stamp(record.timestamp),
        "action": record.action,
        "actor": record.actor,
        "cycle_id": record.cycle_id,
        "reason": record.reason,
        "payload": record.payload,
        "previous_hash": record.previous_hash,
    }
    return hashlib.sha256(canonical_json(body, f"ledger record {record.seq}").encode("ascii")).hexdigest()


def chain_problems(records: Iterable[LedgerRecord], head: tuple[int, str] | None, base: tuple[int, str] = (0, GENESIS), *, tail: bool = True) -> list[str]:
    """Every break in the chain, in words; an empty list means that the chain is whole.

    Parameters
    ----------
    records
        In the order of their ``seq``.
    head
        Sequence number and hash of the newest record as stored apart; ``None`` when the ledger never had one.
    base
        Number and hash of the record before the first one here: the last sealed one.
    tail
        Whether ``records`` go up to the head; false: a piece from the middle.
    """
    problems: list[str] = []
    expected_seq, previous = base[0] + 1, base[1]
    for record in records:
        if record.seq != expected_seq:
            missing = f"record {expected_seq} is" if record.seq == expected_seq + 1 else f"records {expected_seq} to {record.seq - 1} are"
            problems.append(f"{missing} missing" if record.seq > expected_seq else f"record {record.seq} stands after record {expected_seq - 1}")
        elif record.previous_hash != previous:
            problems.append(f"record {record.seq} does not follow record {record.seq - 1}: one of them was changed")
        if ledger_hash(record) != record.hash:
            problems.append(f"record {record.seq} was changed: its content does not give its hash")
        expected_seq, previous = record.seq + 1, record.hash
    newest = expected_seq - 1
    if not tail:
        return problems
    if head is None:
        if newest:
            problems.append(f"the head row is missing, the newest record is {newest}")
    elif head[0] > newest:
        problems.append(f"the tail was cut: the head row names record {head[0]}, the newest one here is {newest}")
    elif head[0] < newest:
        problems.append(f"records after {head[0]} were not written by this program: the head row does not know them")
    elif head[1] != previous:
        problems.append(f"the head row does not agree with record {newest}: one of them was changed")
    return problems


# --------------------------------------------------------------------------- in the database


def append(connection: sa.Connection, *, now: datetime, action: str, actor: str, cycle_id: str | None, reason: str, payload: Mapping[str, Any]) -> LedgerRecord:
    """Write the next record; the caller's connection must be a writing one."""
    for name, text in (("action", action), ("actor", actor)):
        if not text or not text.strip():
            raise BadInput(f"a ledger record needs an {name}, got {text!r}.")
    for name, text in (("action", action), ("actor", actor), ("reason", reason), ("cycle_id", cycle_id or "")):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadInput(f"a ledger record's {name} is not valid Unicode text ({error.reason}).") from error
        if "\0" in text:
            raise BadInput(f"a ledger record's {name} holds a NUL character. Remove it.")
    reason, text = redacted(reason), canonical_json(redacted_values(dict(payload)), "a ledger record's payload")  # before hashing: the chain holds no secret
    newest = head(connection)
    seq, previous = (newest[0] + 1, newest[1]) if newest else (1, GENESIS)
    moment = unstamp(stamp(now))
    said: dict[str, Any] = {"seq": seq, "action": action, "actor": actor, "cycle_id": cycle_id, "reason": reason, "previous_hash": previous}
    record = LedgerRecord(**said, timestamp=moment, payload=json.loads(text), hash="")
    record = record.model_copy(update={"hash": ledger_hash(record)})
    connection.execute(schema.ledger.insert().values(**said, timestamp=stamp(moment), payload=text, hash=record.hash))
    sa.event.listen(connection, "commit", lambda _: LOG.info("%s", line_of(record)), once=True)
    if newest is None:
        connection.execute(schema.ledger_head.insert().values(id=1, seq=seq, hash=record.hash))
    else:
        connection.execute(schema.ledger_head.update().where(schema.ledger_head.c.id == 1).values(seq=seq, hash=record.hash))
    return record


def line_of(record: LedgerRecord) -> str:
    """A record as one line of the loop's log."""
    moved = f" {record.payload['from']} -> {record.payload['to']}" if {"from", "to"} <= record.payload.keys() else ""
    verdict = f" verdict={record.payload['verdict']}" if "verdict" in record.payload else ""
    reason = " ".join(record.reason.split())[:300]
    return f"{record.cycle_id or '-'} {record.action}{moved}{verdict} by {record.actor}: {reason}"


def head(connection: sa.Connection) -> tuple[int, str] | None:
    """Sequence number and hash of the newest record."""
    row = connection.execute(sa.select(schema.ledger_head.c.seq, schema.ledger_head.c.hash).where(schema.ledger_head.c.id == 1)).first()
    return None if row is None else (int(row[0]), str(row[1]))


def from_row(row: sa.RowMapping) -> LedgerRecord:
    """A stored row as a record.

    Raises
    ------
    BadInput
        The row cannot be read at all, which means that somebody edited it.
    """
    try:
        return LedgerRecord(**{**row, "timestamp": unstamp(row["timestamp"]), "payload": json.loads(row["payload"])})
    except ValueError as error:
        why = str(error).splitlines()[0]
        raise BadInput(f"ledger record {row['seq']} cannot be read ({why}): it was edited outside this program. Run `predator-si audit verify`.") from error
