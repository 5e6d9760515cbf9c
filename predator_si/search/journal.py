"""The journal of the ingest queue: what was accepted, and what became of it.

What belongs here: durable lines and reading them back after any end of the process. What must not: the queue itself, indexing.

One JSON object a line: ``{"op": "put" | "delete", "seq", "doc_id", "title", "text", "at"}`` when accepted (fsynced before the client hears of it), and
``{"op": "done", "seqs": [...], "outcome": "applied" | "dead" | "superseded"}`` when the operation no longer waits. Killed between publishing an index and
writing ``done``, an operation is applied once more at the next start, which changes nothing: puts and deletes are idempotent.

When the file is made smaller, what was accepted last for a document stays as ``{"op": "known", "doc_id", "seq", "digest"}`` (null for a delete), so that
``index_repair`` can tell what the index should hold. ``settled.jsonl`` names the dead letters that an index build has answered for.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from predator_si.errors import Unavailable
from predator_si.search.spool import sync_folder

log = logging.getLogger(__name__)
_COMPACT_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Operation:
    """One accepted change. ``at`` is seconds since 1970; ``title`` and ``text`` are empty for a delete."""

    seq: int
    op: Literal["put", "delete"]
    doc_id: str
    title: str
    text: str
    at: float

    def as_row(self) -> dict[str, Any]:
        """As it stands in the journal."""
        return {"op": self.op, "seq": self.seq, "doc_id": self.doc_id, "title": self.title, "text": self.text, "at": self.at}


def document_digest(title: str, text: str) -> str:
    """Short fingerprint of what is indexed of a document: 64 bits of BLAKE2b over title and text."""
    return hashlib.blake2b(f"{title}\n{text}".encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Known:
    """What was accepted last for a document: its number, and the fingerprint of its text (null: it was removed)."""

    seq: int
    digest: str | None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An operation that was given up, and why."""

    operation: Operation
    reason: str


@dataclass(frozen=True)
class JournalFacts:
    """A journal as another process reads it.

    Attributes
    ----------
    known
        What was accepted last, by document.
    texts
        Documents whose text is still in the journal or among the dead letters, by document: (title, text, fingerprint).
    dead
        Dead letters that nothing has answered for yet, oldest first.
    applied_through
        Up to this number nothing waits any more.
    """

    known: dict[str, Known]
    texts: dict[str, tuple[str, str, str]]
    dead: list[DeadLetter]
    applied_through: int


class Journal:
    """Append-only file of accepted operations.

    Parameters
    ----------
    folder
        ``journal.jsonl`` and ``dead.jsonl`` live here.

    Raises
    ------
    Unavailable
        The folder cannot be written, or another process holds it: two of them would each apply what the other accepted.
    """

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / "journal.jsonl"
        self.dead_path = Path(folder) / "dead.jsonl"
        self.settled_path = Path(folder) / "settled.jsonl"
        self.known: dict[str, Known] = {}
        self._lock = threading.Lock()
        self.damaged = 0
        """Lines that could not be read at the start."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._owner = os.open(self.path.with_name("lock"), os.O_RDWR | os.O_CREAT, 0o644)
            self._own()
            self.pending, self.last_seq = self._recover()
            self._descriptor = self._rewritten(self.pending, self.last_seq)
        except OSError as error:
            raise Unavailable(f"{self.path}: the ingest journal cannot be written ({error}). Make the folder writable and free some space.") from error

    def accept(self, operations: Sequence[Operation]) -> None:
        """Make operations durable; when this returns they survive ``kill -9`` and a power cut.

        Raises
        ------
        Unavailable
            They could not be written; none of them was accepted.
        """
        try:
            self._append([operation.as_row() for operation in operations])
        except OSError as error:
            raise Unavailable(f"{self.path}: documents cannot be accepted ({error}). Free some space and send them again.") from error
        self.known.update((operation.doc_id, _known(operation)) for operation in operations)

    def done(self, seqs: Sequence[int], outcome: Literal["applied", "dead", "superseded"]) -> None:
        """Note that operations no longer wait. Raises OSError when that cannot be written (they are then done again after a restart)."""
        if seqs:
            self._append([{"op": "done", "seqs": list(seqs), "outcome": outcome}])

    def bury(self, operation: Operation, reason: str, tries: int, at: float) -> None:
        """Keep an operation that cannot be applied, with the reason, for a person to look at."""
        row = json.dumps({**operation.as_row(), "reason": reason, "tries": tries, "buried_at": at}) + "\n"
        with self._lock, self.dead_path.open("a") as stream:
            stream.write(row)
            stream.flush()
            os.fsync(stream.fileno())
        self.done([operation.seq], "dead")

    def settle(self, seqs: Iterable[int]) -> int:
        """Note that an index build answers for these dead letters (it has them, or set them aside with a reason); how many are open then."""
        with self._lock, self.settled_path.open("a") as stream:
            stream.write(json.dumps(sorted(seqs)) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        return len(open_letters(self.path.parent))

    def shrink(self, pending: Iterable[Operation], last_seq: int) -> None:
        """Rewrite the file with only what still waits, once it has grown large; the caller sees to it that nothing is accepted meanwhile."""
        with self._lock:
            if os.fstat(self._descriptor).st_size > _COMPACT_BYTES:
                former, self._descriptor = self._descriptor, self._rewritten(pending, last_seq)
                os.close(former)

    def close(self) -> None:
        """Let go of the file and the lock."""
        with self._lock:
            os.close(self._descriptor)
            os.close(self._owner)

    def _own(self) -> None:
        try:
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._owner)
            raise Unavailable(f"{self.path.parent}: another search service works in this home. Stop it first, or choose another home.") from error

    def _append(self, rows: list[dict[str, Any]]) -> None:
        body = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows).encode()
        with self._lock:
            end = os.fstat(self._descriptor).st_size
            try:
                written = 0
                while written < len(body):
                    written += os.pwrite(self._descriptor, body[written:], end + written)
                os.fsync(self._descriptor)
            except OSError:
                os.ftruncate(self._descriptor, end)
                raise

    def _recover(self) -> tuple[list[Operation], int]:
        waiting: dict[int, Operation] = {}
        last = 0
        if not self.path.exists():
            return [], 0
        lines = self.path.read_bytes().split(b"\n")
        if lines.pop():
            log.warning("%s: the last line is torn; it was never acknowledged and is dropped", self.path)
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                if row["op"] == "done":
                    for seq in row["seqs"]:
                        waiting.pop(seq, None)
                elif row["op"] == "last":
                    last = max(last, int(row["seq"]))
                elif row["op"] == "known":
                    self.known[row["doc_id"]] = Known(int(row["seq"]), row["digest"])
                else:
                    operation = _operation(row)
                    waiting[operation.seq] = operation
                    self.known[operation.doc_id] = _known(operation)
                    last = max(last, operation.seq)
            except (ValueError, KeyError, TypeError) as error:
                self.damaged += 1
                log.error("%s, line %d: damaged (%s); the operation on it is lost", self.path, number, error)
        if self.damaged:
            self.path.replace(self.path.with_name("journal.damaged.jsonl"))
        return list(waiting.values()), last

    def _rewritten(self, pending: Iterable[Operation], last_seq: int) -> int:
        """Replace the file by one with the waiting operations and the last number given; returns it opened."""
        known = ({"op": "known", "doc_id": doc_id, "seq": one.seq, "digest": one.digest} for doc_id, one in self.known.items())
        rows = [{"op": "last", "seq": last_seq}, *known, *(operation.as_row() for operation in pending)]
        temporary = self.path.with_name(".journal.tmp")
        with temporary.open("w") as stream:
            stream.writelines(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(self.path)
        sync_folder(self.path.parent)
        return os.open(self.path, os.O_RDWR)


def read_journal(folder: Path) -> JournalFacts:
    """What the journal of a folder says, without holding it: for whoever is not the service. A line that cannot be read is passed over.

    A folder without a journal has accepted nothing.
    """
    known: dict[str, Known] = {}
    texts: dict[str, tuple[str, str, str]] = {}
    waiting: set[int] = set()
    last = 0
    dead = open_letters(folder)
    rows = [*_rows(Path(folder) / "dead.jsonl"), *_rows(Path(folder) / "journal.jsonl")]
    for row in rows:
        if row.get("op") == "known":
            known[row["doc_id"]] = Known(int(row["seq"]), row["digest"])
        elif row.get("op") in ("put", "delete"):
            operation = _operation(row)
            if operation.seq >= known.get(operation.doc_id, Known(0, None)).seq:
                known[operation.doc_id] = _known(operation)
            if "reason" not in row:
                waiting.add(operation.seq)
            if operation.op == "put":
                texts[operation.doc_id] = (operation.title, operation.text, document_digest(operation.title, operation.text))
        waiting.difference_update(row.get("seqs", ()))
        last = max(last, int(row.get("seq", 0)))
    return JournalFacts(known, texts, dead, min(waiting, default=last + 1) - 1)


def open_letters(folder: Path) -> list[DeadLetter]:
    """Dead letters of a folder that no index build has answered for, oldest first; of several for one document each."""
    settled = {seq for row in _rows(Path(folder) / "settled.jsonl") for seq in row}
    found = [DeadLetter(_operation(row), str(row["reason"])) for row in _rows(Path(folder) / "dead.jsonl")]
    return [letter for letter in found if letter.operation.seq not in settled]


def _rows(path: Path) -> list[Any]:
    if not path.is_file():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n"):
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue  # torn: it was never acknowledged
    return rows


def _operation(row: dict[str, Any]) -> Operation:
    return Operation(int(row["seq"]), row["op"], row["doc_id"], row["title"], row["text"], float(row["at"]))


def _known(operation: Operation) -> Known:
    return Known(operation.seq, document_digest(operation.title, operation.text) if operation.op == "put" else None)
