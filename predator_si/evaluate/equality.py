"""May a fast backend score in another's place? Measured on judged queries, never assumed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from predator_si.evaluate.pair_scores import PairScores
from predator_si.evaluate.ranking import CandidateSource, gather, rerank_run
from predator_si.measures import per_query
from predator_si.records import Interval, Record, ServingConfig
from predator_si.search.rerank import Reranker
from predator_si.statistics import paired_interval


class Equality(Record):
    """How alike two rerankers score the same pairs. Score differences are in logits."""

    reference: str
    other: str
    backends: tuple[str, str]
    n_queries: int
    n_pairs: int
    max_abs_difference: float
    mean_abs_difference: float
    rank_correlation: float | None
    """Mean over queries of Kendall's tau-b; null where no query has two different scores on both sides."""
    same_top_share: float
    """Share of queries with the same first document."""
    ndcg_difference: Interval
    """Other less reference."""
    margin: float
    equal: bool
    """The whole interval of the NDCG@10 difference lies within plus or minus the margin (two one-sided tests; Schuirmann 1987)."""


def equality_check(
    reference: Reranker,
    other: Reranker,
    queries: pl.DataFrame,
    judgments: pl.DataFrame,
    candidates_for: CandidateSource,
    *,
    depth: int = 20,
    fusion_weight: float = 0.0,
    margin: float = 0.01,
    seed: int = 0,
    scores_cache: PairScores | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Equality:
    """Score the same pairs with both and compare scores, order and NDCG@10.

    Parameters
    ----------
    reference, other
        For example the fp32 model and its int8 export.
    queries, judgments, candidates_for
        As in :func:`~predator_si.evaluate.evaluate_model`; a few hundred queries, or the interval cannot fit within the margin.
    margin
        NDCG@10 points within which they count as equal.

    Raises
    ------
    BadInput
        Nothing is judged, or fewer than two queries.
    Refused
        ``should_stop`` said so.
    """
    judged = gather(queries, judgments, candidates_for, depth)
    runs, scores = [], []
    for reranker in (reference, other):
        config = ServingConfig(model=reranker.digest, depth=depth, fusion_weight=fusion_weight)
        run = rerank_run(judged, reranker, config, scores_cache, on_progress=on_progress, should_stop=should_stop)
        runs.append(run)
        scores.append(per_query(run, judged.judgments, ["nDCG@10"]))
    both = runs[0].drop_nulls("rerank_score").join(runs[1], on=["query_id", "doc_id"], suffix="_other")
    gap = (both["rerank_score"] - both["rerank_score_other"]).abs().to_numpy()
    tops = [run.filter(pl.col("rank") == 1).select("query_id", "doc_id") for run in runs]
    joined = scores[0].join(scores[1], on="query_id", suffix="_other", maintain_order="left")
    interval = paired_interval((joined["nDCG@10_other"] - joined["nDCG@10"]).to_numpy(), seed=seed)
    return Equality(
        reference=reference.digest,
        other=other.digest,
        backends=(reference.card.backend, other.card.backend),
        n_queries=joined.height,
        n_pairs=both.height,
        max_abs_difference=float(gap.max(initial=0.0)),
        mean_abs_difference=float(gap.mean()) if gap.size else 0.0,
        rank_correlation=_rank_correlation(both),
        same_top_share=tops[0].join(tops[1], on=["query_id", "doc_id"]).height / max(1, tops[0].height),
        ndcg_difference=interval,
        margin=margin,
        equal=-margin < interval.low and interval.high < margin,
    )


def _rank_correlation(both: pl.DataFrame) -> float | None:
    from scipy.stats import kendalltau

    found = []
    for _, own in both.group_by("query_id", maintain_order=True):
        if own["rerank_score"].n_unique() > 1 and own["rerank_score_other"].n_unique() > 1:
            found.append(float(kendalltau(own["rerank_score"].to_numpy(), own["rerank_score_other"].to_numpy()).statistic))
    return float(np.mean(found)) if found else None
