"""What was answered and what it cost, in one SQLite file.

What belongs here: answers by the hash of their question, spending by cycle. What must not: the question: neither prompt nor document nor query is stored.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Self

from predator_si.errors import BadInput


class AnswerStore:
    """Answers by key, and spending by cycle. What is kept of an answer is the caller's to choose: what survived its checks, not what a model said.

    Parameters
    ----------
    path
        The file; it is made where there is none.

    Raises
    ------
    BadInput
        The file is something else.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, timeout=30.0, check_same_thread=False)  # the conversation lets one thread in at a time
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = normal")
            self._db.execute("create table if not exists answers (key text primary key, answer text not null)")
            self._db.execute("create table if not exists spent (cycle text not null, usd real not null, tokens integer not null)")
            self._db.execute("create index if not exists spent_by_cycle on spent (cycle)")
        except sqlite3.DatabaseError as error:
            raise BadInput(f"{path}: not a cache of a language model's answers ({error}); delete it, and the model is asked again.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._db.close()

    def known(self, key: str) -> str | None:
        """What was kept of the answer to this question; null where it was never answered well."""
        row = self._db.execute("select answer from answers where key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def pay(self, cycle: str, usd: float, tokens: int, key: str | None = None, answer: str | None = None) -> None:
        """Write down what a call cost, and with it, in one transaction, what is kept of its answer."""
        with self._db:
            self._db.execute("insert into spent values (?, ?, ?)", (cycle, usd, tokens))
            if key is not None and answer is not None:
                self._db.execute("insert or replace into answers values (?, ?)", (key, answer))

    def spent(self, cycle: str) -> tuple[float, int]:
        """USD and tokens that a cycle has spent."""
        usd, tokens = self._db.execute("select coalesce(sum(usd), 0.0), coalesce(sum(tokens), 0) from spent where cycle = ?", (cycle,)).fetchone()
        return float(usd), int(tokens)
