"""The ledger's beginning, sealed into files: records older than the contour keeps in the database, with the chain unbroken.

A segment is ``ledger/<first>-<last>.jsonl.gz`` in the home folder: one record a line, as ``audit export`` writes it. The order of steps makes a kill harmless:
the file is written and read again; then the ledger says so (``ledger_sealed``); then an anchor in Git holds the list of all segments with their hashes; only
then, in one transaction, the row of the segment appears and its records go, which is all that the database's own guards allow (``append_only``).

What belongs here: sealing, and reading what is sealed. What must not: when it is due and the anchor itself (``orchestration.steps.seal``).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from predator_si.control import ledger, schema
from predator_si.control.ledger import GENESIS, stamp
from predator_si.control.states import ACTIVE
from predator_si.errors import BadInput, Missing, Unavailable
from predator_si.records import LedgerRecord


@dataclass(frozen=True)
class Segment:
    """A sealed piece of the ledger. ``sha256`` is the file's."""

    first_seq: int
    last_seq: int
    previous_hash: str
    last_hash: str
    sha256: str
    file: str


class Segments:
    """The sealed beginning of the ledger. ``Control`` is made of this; it has no life of its own."""

    _database: schema.Database
    _clock: Callable[[], datetime]
    archive: Path | None
    """Folder of the files; null where this database was opened without a home."""

    def segments(self) -> list[Segment]:
        """Sealed pieces, oldest first."""
        with self._database.reading() as connection:
            return segments_in(connection)

    def sealable(self, before: datetime, up_to: int) -> tuple[int, int] | None:
        """First and last record that may be sealed: older than a moment, anchored (up to ``up_to``), of cycles that have ended; null where there is none."""
        records, cycles = schema.ledger.c, schema.cycles.c
        with self._database.reading() as connection:
            first = connection.execute(sa.select(sa.func.min(records.seq))).scalar()
            newest = ledger.head(connection)
            if first is None or newest is None:
                return None
            young = connection.execute(sa.select(sa.func.min(records.seq)).where(records.timestamp >= stamp(before))).scalar()
            active = sa.select(cycles.cycle_id).where(cycles.state.in_([state.value for state in ACTIVE]))
            busy = connection.execute(sa.select(sa.func.min(records.seq)).where(records.cycle_id.in_(active))).scalar()
        last = min(up_to, newest[0] - 1, *(int(seq) - 1 for seq in (young, busy) if seq is not None))
        return (int(first), last) if last >= first else None

    def write_segment(self, first: int, last: int) -> Segment:
        """Write records ``first`` to ``last`` into a file, whole or not at all, read it again and verify its chain. Nothing in the database changes.

        Raises
        ------
        BadInput
            The chain of these records is not whole: it is not sealed.
        Unavailable
            The file cannot be written.
        """
        folder = self._folder()
        name = f"{first}-{last}.jsonl.gz"
        partial = folder / f".{name}.partial"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as raw:
                with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed:
                    for record in self._stored(first, last):
                        packed.write((json.dumps(record.model_dump(mode="json"), sort_keys=True) + "\n").encode())
                raw.flush()
                os.fsync(raw.fileno())
            before = self.base()
            problems, found = _read_again(partial, first, last, before)
            if problems:
                raise BadInput(f"ledger records {first} to {last} are not sealed: {'; '.join(problems[:3])}. Run `predator-si audit verify`.")
            partial.replace(folder / name)
            folder_handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(folder_handle)
            finally:
                os.close(folder_handle)
        except OSError as error:
            raise Unavailable(f"{folder / name}: cannot be written ({error.strerror}). Free some space, or see who owns the folder.") from error
        finally:
            partial.unlink(missing_ok=True)
        return Segment(first, last, before[1], found, sha256_of(folder / name), name)

    def drop_sealed(self, segment: Segment, anchor_commit: str) -> None:
        """Take the records of a segment out of the database, now that its file and an anchor hold them; nothing where that was done already."""
        table, records = schema.ledger_segments, schema.ledger.c
        if sha256_of(self._folder() / segment.file) != segment.sha256:
            raise BadInput(f"{self._folder() / segment.file}: is not the file that was sealed. Nothing was removed; seal again.")
        with self._database.writing() as connection:
            if any(known.last_seq >= segment.last_seq for known in segments_in(connection)):
                return
            row = {**asdict(segment), "sealed_at": stamp(self._clock()), "anchor_commit": anchor_commit}
            connection.execute(table.insert().values(**row))
            connection.execute(schema.ledger.delete().where(records.seq.between(segment.first_seq, segment.last_seq)))

    def base(self) -> tuple[int, str]:
        """Number and hash of the last sealed record: where the chain in the database begins."""
        with self._database.reading() as connection:
            return base_of(connection)

    def sealed(
        self, *, after_seq: int = 0, before_seq: int | None = None, newest_first: bool = False, cycle_id: str | None = None, action: str | None = None
    ) -> Iterator[LedgerRecord]:
        """Sealed records between two numbers, both apart, of one cycle or one action where given; a file is opened only where it can hold one.

        Raises
        ------
        Missing, BadInput
            The file of a segment is gone, or cannot be read.
        """
        known = self.segments()
        for segment in known[::-1] if newest_first else known:
            if segment.last_seq <= after_seq or (before_seq is not None and segment.first_seq >= before_seq):
                continue
            path = self._folder() / segment.file
            if (cycle_id is not None or action is not None) and not {cycle_id, action} - {None} <= _named_in(path, segment.sha256):
                continue
            found: Iterable[LedgerRecord] = read_segment(path)
            for record in list(found)[::-1] if newest_first else found:
                between = record.seq > after_seq and (before_seq is None or record.seq < before_seq)
                if between and cycle_id in (None, record.cycle_id) and action in (None, record.action):
                    yield record

    def segment_problems(self, *, full: bool = False, anchored: list[dict[str, Any]] | None = None) -> list[str]:
        """What is wrong with the sealed beginning, in words: a file that is gone or was changed, an order that does not fit; with ``full`` also each record.

        Parameters
        ----------
        anchored
            What the newest anchor says about the segments; null: nothing was anchored about them.
        """
        problems: list[str] = []
        base = (0, GENESIS)
        known = self.segments()
        for segment in known:
            path = self._folder() / segment.file
            where = f"segment {segment.file}"
            if (segment.first_seq, segment.previous_hash) != (base[0] + 1, base[1]):
                problems.append(f"{where} does not follow record {base[0]}: a segment is missing, or was put in another's place")
            base = (segment.last_seq, segment.last_hash)
            if not path.is_file():
                problems.append(f"{where} is missing: put {path} back from a backup")
            elif sha256_of(path) != segment.sha256:
                problems.append(f"{where} was changed: its content does not give its hash")
            elif full:
                said, _ = _read_again(path, segment.first_seq, segment.last_seq, (segment.first_seq - 1, segment.previous_hash))
                problems += [f"{where}: {one}" for one in said]
        for said_there in anchored or []:
            mine = next((asdict(segment) for segment in known if segment.first_seq == said_there.get("first_seq")), None)
            if mine is not None and mine != said_there:
                problems.append(f"segment {said_there.get('file')} is not the one that was anchored: it was changed")
            elif mine is None and self._first_here() > int(said_there.get("first_seq", 0)):
                problems.append(f"segment {said_there.get('file')} was anchored and is not known here")
        return problems

    def _first_here(self) -> int:
        with self._database.reading() as connection:
            found = connection.execute(sa.select(sa.func.min(schema.ledger.c.seq))).scalar()
        return 1 if found is None else int(found)

    def _stored(self, first: int, last: int) -> Iterator[LedgerRecord]:
        table = schema.ledger
        query = sa.select(table).where(table.c.seq.between(first, last)).order_by(table.c.seq).execution_options(yield_per=1000)
        with self._database.reading() as connection:
            for row in connection.execute(query).mappings():
                yield ledger.from_row(row)

    def _folder(self) -> Path:
        if self.archive is None:
            raise BadInput("this control database was opened without a home folder, where sealed records lie. Open it by `open_control`.")
        return self.archive


def segments_in(connection: sa.Connection) -> list[Segment]:
    """The rows of a connection, oldest first."""
    table = schema.ledger_segments
    query = sa.select(*(table.c[name] for name in Segment.__dataclass_fields__)).order_by(table.c.first_seq)
    return [Segment(**row) for row in connection.execute(query).mappings()]


def base_of(connection: sa.Connection) -> tuple[int, str]:
    """Number and hash of the last sealed record."""
    known = segments_in(connection)
    return (known[-1].last_seq, known[-1].last_hash) if known else (0, GENESIS)


def read_segment(path: Path) -> Iterator[LedgerRecord]:
    """The records of a file, oldest first."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield LedgerRecord.model_validate_json(line)
    except FileNotFoundError as error:
        raise Missing(f"{path}: the ledger's older records lie in this file, and it is gone. Put it back from a backup.") from error
    except (OSError, EOFError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read ({str(error).splitlines()[0]}): it was damaged. Put it back from a backup.") from error


@lru_cache(maxsize=256)
def _named_in(path: Path, _: str) -> frozenset[str | None]:
    """Cycles and actions of a file; it never changes while it has its hash, so it is read for this once."""
    named: set[str | None] = set()
    for record in read_segment(path):
        named |= {record.cycle_id, record.action}
    return frozenset(named)


def sha256_of(path: Path) -> str:
    """64 hex digits of a file's content."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise Missing(f"{path}: is gone. Put it back from a backup.") from error


def _read_again(path: Path, first: int, last: int, base: tuple[int, str]) -> tuple[list[str], str]:
    """Problems of a file's chain, and the hash of its last record."""
    newest = (base[0], base[1])

    def passing() -> Iterator[LedgerRecord]:
        nonlocal newest
        for record in read_segment(path):
            newest = (record.seq, record.hash)
            yield record

    try:
        problems = ledger.chain_problems(passing(), None, base, tail=False)
    except BadInput as error:
        return [str(error)], ""
    if newest[0] != last:
        problems.append(f"it ends with record {newest[0]}, not {last}")
    return problems, newest[1]
