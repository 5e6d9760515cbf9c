"""The journal of the ingest queue: what was accepted, and what became of it.

What belongs here: durable lines and reading them back after any end of the process. What must not: the queue itself, indexing.

One JSON object a line: ``{"op": "put" | "delete", "seq", "doc_id", "title", "text", "at"}`` when accepted (fsynced before the client hears of it), and
``{"op": "done", "seqs": [...], "outcome": "applied" | "dead" | "superseded"}`` when the operation no longer waits. Killed between publishing an index and
writing ``done``, an operation is applied once more at the next start, which changes nothing: puts and deletes are idempotent.
"""

from __future__ import annotations

import fcntl
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
                else:
                    operation = Operation(int(row["seq"]), row["op"], row["doc_id"], row["title"], row["text"], float(row["at"]))
                    waiting[operation.seq] = operation
                    last = max(last, operation.seq)
            except (ValueError, KeyError, TypeError) as error:
                self.damaged += 1
                log.error("%s, line %d: damaged (%s); the operation on it is lost", self.path, number, error)
        if self.damaged:
            self.path.replace(self.path.with_name("journal.damaged.jsonl"))
        return list(waiting.values()), last

    def _rewritten(self, pending: Iterable[Operation], last_seq: int) -> int:
        """Replace the file by one with the waiting operations and the last number given; returns it opened."""
        rows = [{"op": "last", "seq": last_seq}, *(operation.as_row() for operation in pending)]
        temporary = self.path.with_name(".journal.tmp")
        with temporary.open("w") as stream:
            stream.writelines(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(self.path)
        sync_folder(self.path.parent)
        return os.open(self.path, os.O_RDWR)
