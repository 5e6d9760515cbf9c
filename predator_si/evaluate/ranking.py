"""Judged queries with their candidates, and the ranking that a model and a serving configuration make of them.

What belongs here: the offline twin of what the service does with candidates. What must not: statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.errors import BadInput
from predator_si.evaluate.pair_scores import CHUNK, PairScores, score_pairs
from predator_si.measures import per_query
from predator_si.records import ServingConfig
from predator_si.search.adaptive_depth import DepthRule, scored_head
from predator_si.search.rerank import Reranker, fuse
from predator_si.search.retrieve import Candidates

CandidateSource = Callable[[list[str], int], list[Candidates]] | Sequence[Candidates]
"""``HybridIndex.candidates``, or its answer for exactly these queries in their order."""
LEAST_DEPTH = 20
"""Candidates that are fetched at least, so that recall at 20 means the same for every depth."""


@dataclass(frozen=True)
class JudgedCandidates:
    """Judged queries (``query_id``, ``text``), their judgments, and one :class:`Candidates` per query."""

    queries: pl.DataFrame
    judgments: pl.DataFrame
    candidates: list[Candidates]


def gather(queries: pl.DataFrame, judgments: pl.DataFrame, candidates_for: CandidateSource, depth: int) -> JudgedCandidates:
    """The queries that have a relevant document, with candidates of at least ``depth`` (and 20).

    Raises
    ------
    BadInput
        A column is missing, no query is judged, a query stands twice, or the precomputed candidates are not one per query.
    """
    missing = [
        name
        for name, frame, want in (("queries", queries, {"query_id", "text"}), ("judgments", judgments, {"query_id", "doc_id", "relevance"}))
        if not want <= set(frame.columns)
    ]
    if missing:
        raise BadInput(f"{' and '.join(missing)} lack columns; queries need query_id and text, judgments query_id, doc_id and relevance.")
    if queries["query_id"].n_unique() != queries.height:
        raise BadInput("a query stands twice in the set; each query counts once in an evaluation. Remove the duplicates.")
    relevant = judgments.filter(pl.col("relevance") > 0).select("query_id").unique()
    judged = queries.select("query_id", "text").with_row_index("place").join(relevant, on="query_id", how="semi", maintain_order="left")
    if judged.is_empty():
        raise BadInput(f"none of the {queries.height} queries has a relevant document in the judgments; take both from the same corpus and split.")
    if callable(candidates_for):
        found = candidates_for(judged["text"].to_list(), max(depth, LEAST_DEPTH))
    else:
        if len(candidates_for) != queries.height:
            raise BadInput(f"{len(candidates_for)} candidate lists for {queries.height} queries; give one per query, in their order.")
        found = [candidates_for[place] for place in judged["place"].to_list()]
    if len(found) != judged.height:
        raise BadInput(f"the index answered {len(found)} of {judged.height} queries; every query needs its candidates.")
    kept = judgments.join(judged.select("query_id"), on="query_id", how="semi")
    return JudgedCandidates(judged.select("query_id", "text"), kept, list(found))


def rerank_run(
    judged: JudgedCandidates,
    reranker: Reranker,
    config: ServingConfig,
    store: PairScores | None = None,
    *,
    rule: DepthRule | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    chunk: int = CHUNK,
    skip_hopeless: bool = False,
) -> pl.DataFrame:
    """What the service would return: the first ``depth`` candidates by fused score, the rest below them in first-stage order.

    Parameters
    ----------
    rule
        When scoring stops before the depth: the documents below are then ranked as the service would. All are scored here, so that the store knows them.
    skip_hopeless
        A query with no relevant document among its first ``depth`` candidates keeps the first stage's order and is not scored: no order of documents that
        are all irrelevant changes a ranking measure.

    Returns
    -------
    pl.DataFrame
        ``query_id``, ``doc_id``, ``rank`` (from 1), ``rerank_score`` (null below the depth, and where nothing was scored).
    """
    heads = heads_to_score(judged, config.depth) if skip_hopeless else [candidates.texts[: config.depth] for candidates in judged.candidates]
    pairs = [(query, text) for query, texts in zip(judged.queries["text"], heads, strict=True) for text in texts]
    scores = score_pairs(reranker, pairs, store, on_progress=on_progress, should_stop=should_stop, chunk=chunk)
    ends = np.cumsum([len(texts) for texts in heads])
    rows: dict[str, list[object]] = {"query_id": [], "doc_id": [], "rank": [], "rerank_score": []}
    for query_id, candidates, own in zip(judged.queries["query_id"], judged.candidates, np.split(scores, ends[:-1]), strict=True):
        own = _settled(own, candidates, rule)
        order = [*_best_first(own, candidates, config), *range(len(own), len(candidates.doc_ids))]
        rows["query_id"] += [query_id] * len(order)
        rows["doc_id"] += [candidates.doc_ids[place] for place in order]
        rows["rank"] += range(1, len(order) + 1)
        rows["rerank_score"] += [float(own[place]) if place < len(own) else None for place in order]
    return pl.DataFrame(rows, schema={"query_id": pl.String, "doc_id": pl.String, "rank": pl.Int64, "rerank_score": pl.Float64})


def _settled(scores: npt.NDArray[np.float32], candidates: Candidates, rule: DepthRule | None) -> npt.NDArray[np.float32]:
    """The scores that the service would have computed."""
    if rule is None:
        return scores
    return scored_head(rule, candidates.scores, len(scores), lambda start, end: scores[start:end].astype(np.float64)).astype(np.float32)


def heads_to_score(judged: JudgedCandidates, depth: int) -> list[list[str]]:
    """Texts of the first ``depth`` candidates per query; none where they hold nothing relevant."""
    relevant: dict[str, set[str]] = {}
    for query_id, doc_id in judged.judgments.filter(pl.col("relevance") > 0).select("query_id", "doc_id").iter_rows():
        relevant.setdefault(query_id, set()).add(doc_id)
    return [
        candidates.texts[:depth] if relevant[query_id].intersection(candidates.doc_ids[:depth]) else []
        for query_id, candidates in zip(judged.queries["query_id"], judged.candidates, strict=True)
    ]


def _best_first(scores: npt.NDArray[np.float32], candidates: Candidates, config: ServingConfig) -> list[int]:
    fused = fuse(scores, candidates.scores[: len(scores)], config.fusion_weight)
    # Stable: equal scores keep the first stage's order, as in the service.
    return [int(place) for place in np.argsort(-fused, kind="stable")]


def candidate_recall(judged: JudgedCandidates) -> pl.DataFrame:
    """Share of each query's relevant documents among all its candidates, which no reranking can raise: ``query_id``, ``candidate_recall``."""
    pool = pl.DataFrame(
        {"query_id": judged.queries["query_id"], "doc_id": [candidates.doc_ids for candidates in judged.candidates]},
        schema={"query_id": pl.String, "doc_id": pl.List(pl.String)},
    )
    deepest = max(len(candidates.doc_ids) for candidates in judged.candidates)
    run = pool.filter(pl.col("doc_id").list.len() > 0).with_columns(rank=pl.int_ranges(1, pl.col("doc_id").list.len() + 1)).explode("doc_id", "rank")
    measure = f"R@{max(1, deepest)}"
    return per_query(run, judged.judgments, [measure]).rename({measure: "candidate_recall"})
