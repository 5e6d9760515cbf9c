"""One query, one index, one model: the ranked documents and what they cost in time.

What belongs here: candidates, rerank, fuse, and what happens when the reranker fails. What must not: queues, variants (``answer``), events.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.privacy import trace
from predator_si.records import ScoredDocument
from predator_si.search.adaptive_depth import DepthRule, scored_head
from predator_si.search.rerank import Reranker, fuse
from predator_si.search.retrieve import Candidates
from predator_si.search.score_cache import Scorer

log = logging.getLogger(__name__)


class SearchIndex(Protocol):
    """What the service needs of an index (``retrieve.HybridIndex``)."""

    fingerprint: str

    @property
    def n_documents(self) -> int:
        """How many documents can be found."""
        ...

    def candidates(self, queries: Sequence[str], depth: int) -> list[Candidates]:
        """The best documents per query."""
        ...

    def title(self, doc_id: str) -> str:
        """Title of a document."""
        ...

    def documents(self) -> pl.DataFrame:
        """Columns doc_id, title, text."""
        ...

    def updated(self, upserts: pl.DataFrame, deletes: Sequence[str] = ()) -> Self:
        """A new index with changes applied."""
        ...

    def save(self, folder: Path) -> None:
        """Write to a folder."""
        ...


@dataclass(frozen=True, slots=True)
class Ordered:
    """Candidates in the order of one model, best first. ``degraded``: the model failed and this is the first stage's order."""

    results: tuple[ScoredDocument, ...]
    rerank_ms: float | None
    degraded: bool
    scored: int
    """Candidates that the reranker scored."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A result list, best first, with times in milliseconds. ``degraded``: the reranker failed and this is the first stage's order."""

    results: tuple[ScoredDocument, ...]
    titles: tuple[str, ...]
    retrieve_ms: float
    rerank_ms: float | None
    degraded: bool
    lexical_ids: list[str] | None = None
    dense_ids: list[str] | None = None
    scored: int = 0
    """Candidates that the reranker scored."""
    found: Candidates | None = None
    """What the first stage had brought."""


def rank(
    index: SearchIndex,
    model: Reranker | None,
    query: str,
    k: int,
    depth: int,
    fusion_weight: float,
    clock: Callable[[], float] = time.perf_counter,
    *,
    score: Scorer | None = None,
    rule: DepthRule | None = None,
    found: Candidates | None = None,
) -> Ranked:
    """The best ``k`` documents for ``query``, in the first stage's order where ``model`` is null; see ``ordered``.

    Parameters
    ----------
    found
        What ``index`` brought for this query already, at least ``max(depth, k)`` candidates or all there are; null: it is asked.

    Raises
    ------
    Exception
        Whatever the retrieval raises: without candidates there is no answer.
    """
    started = clock()
    found = found or index.candidates([query], max(depth, k))[0]
    retrieve_ms = (clock() - started) * 1e3
    made = ordered(found, model, query, k, depth, fusion_weight, clock, score=score, rule=rule)
    titles = tuple(index.title(result.object_id) for result in made.results)
    return Ranked(made.results, titles, retrieve_ms, made.rerank_ms, made.degraded, found.lexical_ids, found.dense_ids, made.scored, found)


def ordered(
    found: Candidates,
    model: Reranker | None,
    query: str,
    k: int,
    depth: int,
    fusion_weight: float,
    clock: Callable[[], float] = time.perf_counter,
    *,
    score: Scorer | None = None,
    rule: DepthRule | None = None,
) -> Ordered:
    """The best ``k`` of the candidates in the model's order, or in the first stage's where it is null.

    The cross-encoder reads the first ``depth`` candidates. When ``k`` exceeds ``depth``, the documents below follow in first-stage order: their
    ``rerank_score`` is null and their ``score`` goes on downwards from the last reranked one in steps of 1. Equal scores stay in first-stage order. When the
    reranker raises, or does not give one finite number a text, the first stage's order is served with its scores and ``degraded`` is set.

    Parameters
    ----------
    score
        ``finite_scores``, or a score cache around it.
    rule
        When to stop before ``depth`` candidates are scored; those that were not stand below in first-stage order. Null scores them all.
    """
    started = clock()
    first = np.asarray(found.scores, np.float64)
    n = min(depth, len(found.doc_ids)) if model is not None else 0
    scores: npt.NDArray[np.float64] | None = None
    if n and model is not None:
        try:
            scores = scored_head(rule, first, n, lambda start, end: (score or finite_scores)(model, query, found.texts[start:end]))
            n = len(scores)
        except Exception as error:
            log.error("reranking failed; model %s\n%s", model.digest, trace(error))
    rerank_ms = (clock() - started) * 1e3 if n else None
    if scores is None:
        order, final = np.arange(len(first)), first
    else:
        fused = fuse(scores, first[:n], fusion_weight)
        final = np.concatenate([fused, fused.min() - np.arange(1, len(first) - n + 1)])
        order = np.argsort(-final, kind="stable")
    return Ordered(
        results=tuple(
            ScoredDocument(
                object_id=found.doc_ids[position],
                score=float(final[position]),
                first_stage_score=float(first[position]),
                rerank_score=float(scores[position]) if scores is not None and position < n else None,
            )
            for position in order[:k].tolist()
        ),
        rerank_ms=rerank_ms,
        degraded=bool(n) and scores is None,
        scored=n if scores is not None else 0,
    )


def finite_scores(model: Reranker, query: str, texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """One score a text. Raises ValueError when the model gives another number of them, or one that is not finite."""
    scores = np.asarray(model.score(query, texts), np.float64).reshape(-1)
    if len(scores) != len(texts) or not np.isfinite(scores).all():
        raise ValueError(f"model {model.digest}: {len(scores)} scores for {len(texts)} texts, finite: {bool(np.isfinite(scores).all())}")
    return scores
