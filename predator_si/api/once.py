"""Idempotency keys: the same POST with the same key is done once, and answered the same again for a day.

What belongs here: remembering answers. What must not: what was asked for.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from predator_si.errors import BadInput, Refused, Unavailable

KEPT_SECONDS = 86_400.0
LONGEST_KEY = 200
_SCHEMA = """CREATE TABLE IF NOT EXISTS answers (
  who TEXT NOT NULL, key TEXT NOT NULL, request TEXT NOT NULL, process TEXT NOT NULL, at REAL NOT NULL, status INTEGER, media_type TEXT, body BLOB,
  PRIMARY KEY (who, key))"""


@dataclass(frozen=True)
class Kept:
    """An answer that was given before."""

    status: int
    media_type: str
    body: bytes


class Answers:
    """Answers by identity and key, in one SQLite file.

    Parameters
    ----------
    path
        Made when missing.
    busy_seconds
        How long another process may hold the file.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time, *, busy_seconds: float = 5.0) -> None:
        self._path, self._clock, self._busy_seconds = path, clock, busy_seconds
        self._process = uuid.uuid4().hex

    def begin(self, who: str, key: str, request: bytes) -> Kept | None:
        """The answer to the same request before, or null: then it is to be done now, and ended by :meth:`finish` or :meth:`forget`.

        Raises
        ------
        BadInput
            The key is no key, or was used for another request.
        Refused
            The first request with this key is not answered yet.
        """
        if not 1 <= len(key) <= LONGEST_KEY or not key.isascii() or not key.isprintable():
            raise BadInput(f"Idempotency-Key is 1 to {LONGEST_KEY} printable ASCII characters.")
        digest, now = hashlib.sha256(request).hexdigest(), self._clock()
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM answers WHERE at < ?", (now - KEPT_SECONDS,))
            row = connection.execute("SELECT request, process, status, media_type, body FROM answers WHERE who = ? AND key = ?", (who, key)).fetchone()
            if row is None:
                connection.execute("INSERT INTO answers (who, key, request, process, at) VALUES (?, ?, ?, ?, ?)", (who, key, digest, self._process, now))
            connection.execute("COMMIT")
        if row is None:
            return None
        if row[0] != digest:
            raise BadInput("this Idempotency-Key was used for another request within the last day. Choose a new one.")
        if row[2] is None:
            lost = "" if row[1] == self._process else " by a process that has ended since; GET status and GET history say what became of it"
            raise Refused(f"the first request with this Idempotency-Key is not answered yet{lost}. Ask again later, or choose a new key.")
        return Kept(int(row[2]), str(row[3]), bytes(row[4]))

    def finish(self, who: str, key: str, status: int, media_type: str, body: bytes) -> None:
        """Remember the answer."""
        with self._open() as connection:
            connection.execute("UPDATE answers SET status = ?, media_type = ?, body = ? WHERE who = ? AND key = ?", (status, media_type, body, who, key))

    def forget(self, who: str, key: str) -> None:
        """The request was not done: the key is free again."""
        with self._open() as connection:
            connection.execute("DELETE FROM answers WHERE who = ? AND key = ?", (who, key))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=self._busy_seconds, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute(_SCHEMA)
                yield connection
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(f"{self._path.name}: idempotency keys cannot be kept ({error}). Send the request without one, or free the disk.") from error
