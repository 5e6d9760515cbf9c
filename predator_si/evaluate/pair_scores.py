"""Scores of (query, text) pairs, remembered across stages: a cross-encoder pass is what a cycle's minutes are made of.

What belongs here: the store, and scoring through it. What must not: ranking, measures.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from predator_si.errors import BadInput, Refused, Unavailable
from predator_si.records import ModelCard
from predator_si.search.rerank import Reranker

Pair = tuple[str, str]
CHUNK = 1_024
"""Pairs scored before the store is written and a stop is noticed: some 20 s of the slowest model."""
_LOOKUP = 500
_BUSY_SECONDS = 30.0


class PairScores:
    """Scores by model and pair in one SQLite file.

    The key is a sha256 over model digest, backend, maximal length and both texts: the same weights give other numbers under another backend
    or truncation. One process writes at a time (others wait for up to 30 s), any number read; a write is whole or absent after a crash.

    Parameters
    ----------
    path
        The file; it and its folder are made when missing.

    Raises
    ------
    BadInput
        The file is there and is no such store.
    Unavailable
        The file cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Stages score in one thread and write in it too, but a progress thread may hold the store: SQLite itself serialises the calls.
            self._connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")  # with WAL: a power cut may lose the newest writes, never damage the file
            self._connection.execute("CREATE TABLE IF NOT EXISTS pair_scores (key BLOB PRIMARY KEY, score REAL NOT NULL) WITHOUT ROWID")

    def get(self, card: ModelCard, pairs: Sequence[Pair]) -> npt.NDArray[np.float32]:
        """Known scores in the pairs' order, NaN where there is none."""
        keys = _keys(card, pairs)
        found: dict[bytes, float] = {}
        with self._explained():
            for start in range(0, len(keys), _LOOKUP):
                some = keys[start : start + _LOOKUP]
                marks = ",".join("?" * len(some))
                found.update(self._connection.execute(f"SELECT key, score FROM pair_scores WHERE key IN ({marks})", some))
        return np.array([found.get(key, np.nan) for key in keys], dtype=np.float32)

    def put(self, card: ModelCard, pairs: Sequence[Pair], scores: Sequence[float] | npt.NDArray[np.floating]) -> None:
        """Remember scores, all or none.

        Raises
        ------
        BadInput
            Not one score per pair, or a score that is not finite.
        """
        values = np.asarray(scores, dtype=np.float64).reshape(-1)
        if values.size != len(pairs) or not np.isfinite(values).all():
            raise BadInput(f"{len(pairs)} pairs and {values.size} scores, {int((~np.isfinite(values)).sum())} of them not finite: nothing was stored.")
        rows = sorted(zip(_keys(card, pairs), values.tolist(), strict=True))  # in key order the tree is filled page by page
        with self._explained():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany("INSERT OR REPLACE INTO pair_scores VALUES (?, ?)", rows)
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise

    def __len__(self) -> int:
        with self._explained():
            return int(self._connection.execute("SELECT count(*) FROM pair_scores").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> PairScores:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            raise Unavailable(
                f"{self.path}: the store of pair scores does not answer ({error}). End other writers, make the folder writable, free some space."
            ) from error
        except sqlite3.DatabaseError as error:
            raise BadInput(f"{self.path}: not a store of pair scores ({error}). It holds nothing that cannot be computed again: delete it.") from error


def _keys(card: ModelCard, pairs: Sequence[Pair]) -> list[bytes]:
    start = hashlib.sha256(f"{card.digest}\0{card.backend}\0{card.max_length}\0".encode())
    keys = []
    for query, text in pairs:
        key = start.copy()
        raw = query.encode()
        key.update(f"{len(raw)}\0".encode() + raw + text.encode())  # the length keeps ("ab", "c") and ("a", "bc") apart
        keys.append(key.digest()[:20])
    return keys


def score_pairs(
    reranker: Reranker,
    pairs: Sequence[Pair],
    store: PairScores | None = None,
    *,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    chunk: int = CHUNK,
) -> npt.NDArray[np.float32]:
    """Logits of ``pairs`` in their order; what the store knows is not computed, equal pairs are computed once.

    Parameters
    ----------
    store
        Read first, and written after every ``chunk`` computed pairs, so that a stopped or killed run goes on where it was.
    on_progress
        Called with (known pairs, all pairs).
    should_stop
        Asked before every chunk.

    Raises
    ------
    Refused
        ``should_stop`` said so; what was computed so far is in the store.
    BadInput
        The reranker did not give one finite score per pair.
    """
    scores = np.full(len(pairs), np.nan, dtype=np.float32) if store is None else store.get(reranker.card, pairs)
    missing = np.flatnonzero(np.isnan(scores))
    places: dict[Pair, list[int]] = {}
    for index in missing.tolist():
        places.setdefault(pairs[index], []).append(index)
    # Texts of like length together: a batch costs as much as its longest pair.
    todo = sorted(places, key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
    done = len(pairs) - missing.size
    for start in range(0, len(todo), chunk):
        if should_stop is not None and should_stop():
            raise Refused(f"scoring was stopped after {done} of {len(pairs)} pairs" + ("; they are kept." if store is not None else "."))
        some = todo[start : start + chunk]
        fresh = np.asarray(reranker.score_pairs(some), dtype=np.float32).reshape(-1)
        if fresh.size != len(some) or not np.isfinite(fresh).all():
            raise BadInput(
                f"model {reranker.digest}: {fresh.size} scores for {len(some)} pairs, {int((~np.isfinite(fresh)).sum())} not finite. Export or train it again."
            )
        if store is not None:
            store.put(reranker.card, some, fresh)
        for pair, score in zip(some, fresh, strict=True):
            scores[places[pair]] = score
            done += len(places[pair])
        if on_progress is not None:
            on_progress(done, len(pairs))
    return scores
