"""Finding judged documents in rankings that lie as lists, as served requests do: fast, exact, in bounded memory.

What belongs here: matching ids. What must not: formulas (``scoring``), files, what an event is.

Documents are compared by a 64-bit hash within their own request only, and each match is confirmed letter by letter: equal ids have equal hashes, and unequal
ones with equal hashes are told apart, so the result is exact whatever the hash does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from predator_si.errors import BadInput
from predator_si.measures.scoring import Hits, Ints, Pool

_STEP = 1 << 13
"""Judgments compared at once: with twenty documents a ranking about what a processor's cache holds."""


@dataclass(frozen=True)
class Matched:
    """Judged documents found in some rankings.

    Attributes
    ----------
    hits
        Sorted by ranking and place; a document's first place only.
    repeated
        Ranking of each further place of a judged document in the same ranking: it gains nothing and keeps the place it takes.
    """

    hits: Hits
    repeated: Ints


def match(
    lengths: Ints, documents: pl.Series, pool: Pool, judged: pl.Series, hashes: np.ndarray | None = None, judged_hashes: np.ndarray | None = None
) -> Matched:
    """Where the judged documents of each ranking stand in it.

    Parameters
    ----------
    lengths
        Documents of each ranking, shape (n,).
    documents
        Ids of all rankings one after the other, best first, ``lengths.sum()`` of them.
    pool
        Judgments of the rankings' queries.
    judged
        The document of each judgment, in the pool's order.
    hashes, judged_hashes
        ``documents.hash()`` and ``judged.hash()``, where the caller has them already.

    Raises
    ------
    BadInput
        Lengths and documents, or pool and judged documents do not fit.
    """
    if int(lengths.sum()) != len(documents) or pool.row.size != len(judged):
        raise BadInput(
            f"match: {len(documents)} documents for lengths that add up to {int(lengths.sum())}, {len(judged)} documents for {pool.row.size} judgments."
        )
    order = None if bool((pool.row[1:] >= pool.row[:-1]).all()) else np.argsort(pool.row, kind="stable")
    row, relevance = (pool.row, pool.relevance) if order is None else (pool.row[order], pool.relevance[order])
    ids = judged if order is None else judged.gather(pl.Series(order))
    keys = ids.hash().to_numpy() if judged_hashes is None else judged_hashes if order is None else judged_hashes[order]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    found_judgment, found_place = _compare(offsets, lengths, documents.hash().to_numpy() if hashes is None else hashes, row, keys)
    same = (documents.gather(pl.Series(found_place)) == ids.gather(pl.Series(found_judgment))).to_numpy()
    if not same.all():
        found_judgment, found_place = found_judgment[same], found_place[same]
    first = np.concatenate([[True], found_judgment[1:] != found_judgment[:-1]])[: found_judgment.size]
    kept, place = found_judgment[first], found_place[first]
    position = place - offsets[row[kept]] + 1
    return Matched(Hits.ordered(row[kept], position, relevance[kept]), row[found_judgment[~first]])


def _compare(offsets: Ints, lengths: Ints, shown: np.ndarray, row: Ints, judged: np.ndarray) -> tuple[Ints, Ints]:
    """Every pair (judgment, place) with equal hashes, by judgment and place."""
    deepest = int(lengths.max(initial=0))
    if deepest == 0 or row.size == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    if (lengths == deepest).all():
        table = shown.reshape(-1, deepest)
    else:
        table = np.zeros((lengths.size, deepest), shown.dtype)
        table[np.arange(deepest) < lengths[:, None]] = shown
    judgments, places = [], []
    for start in range(0, row.size, _STEP):
        rows = row[start : start + _STEP]
        which, column = np.divmod(np.flatnonzero(table.take(rows, axis=0) == judged[start : start + _STEP, None]), deepest)
        inside = column < lengths[rows[which]]
        judgments.append(which[inside] + start)
        places.append(offsets[rows[which[inside]]] + column[inside])
    return np.concatenate(judgments), np.concatenate(places)
