"""Where a relevant document was lost: before the reranker saw it, or by the reranker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

OUTCOMES = ("hit", "rerank_miss", "retrieval_miss")


@dataclass(frozen=True)
class Misses:
    """Counts over all judged probes, and the frame they were counted from.

    ``per_query``: ``query_id, outcome`` (hit, rerank_miss, retrieval_miss), ``beyond_depth`` (a relevant document was retrieved, but deeper
    than the reranker looks), ``reachable`` (the NDCG@k a perfect reranker would reach), ``loss_retrieval`` = 1 - reachable, ``loss_rerank`` =
    reachable - NDCG@k: the two add up to the query's whole loss.
    """

    per_query: pl.DataFrame
    counts: dict[str, Any]


def count_misses(
    probes: pl.DataFrame, relevant: Mapping[str, Mapping[str, float]], *, k: int = 10, depth: int | None = None, indexed: Sequence[str] | None = None
) -> Misses:
    """Retrieval miss: no relevant document among the candidates. Rerank miss: among them, but not in the top ``k``.

    A probe that failed (null NDCG) is counted as failed and judged no further. Where ``candidate_ids`` is null the outcome is known only for probes with a
    relevant document among the results; the others are ``undecided``.

    Parameters
    ----------
    probes
        ``query_id, ndcg_at_10, result_ids, candidate_ids``; rows without a relevant document in ``relevant`` are counted as unjudged.
    relevant
        Query id -> document id -> relevance > 0.
    depth
        How many candidates the reranker scores; ``None`` is all of ``candidate_ids``.
    indexed
        Ids of all indexed documents, or ``None`` when unknown: then ``relevant_not_indexed`` is null.
    """
    rows: list[dict[str, Any]] = []
    unjudged = failed = without_candidates = absent = pairs = 0
    known = None if indexed is None else set(indexed)
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    for query_id, ndcg, results, candidates in probes.select("query_id", "ndcg_at_10", "result_ids", "candidate_ids").iter_rows():
        gains = {doc: value for doc, value in relevant.get(query_id, {}).items() if value > 0}
        unjudged += not gains
        failed += bool(gains) and ndcg is None
        if not gains or ndcg is None:
            continue
        pairs += len(gains)
        absent += 0 if known is None else sum(doc not in known for doc in gains)
        without_candidates += candidates is not None and not candidates
        shown = list(results or ())
        seen = None if candidates is None else list(candidates)[:depth]
        found = [doc for doc in dict.fromkeys(seen or ()) if doc in gains]
        outcome: str | None = None
        if any(doc in gains for doc in shown[:k]):
            outcome = "hit"
        elif found or any(doc in gains for doc in shown):
            outcome = "rerank_miss"
        elif seen is not None:
            outcome = "retrieval_miss"
        reachable = None if seen is None else _dcg([gains[doc] for doc in found], discount) / _dcg(list(gains.values()), discount)
        rows.append(
            {
                "query_id": query_id,
                "outcome": outcome,
                "beyond_depth": outcome == "retrieval_miss" and any(doc in gains for doc in list(candidates or ())[len(seen or ()) :]),
                "reachable": reachable,
                "loss_retrieval": None if reachable is None else 1.0 - reachable,
                "loss_rerank": None if reachable is None else reachable - float(ndcg),
            }
        )
    schema = {
        "query_id": pl.String,
        "outcome": pl.String,
        "beyond_depth": pl.Boolean,
        "reachable": pl.Float64,
        "loss_retrieval": pl.Float64,
        "loss_rerank": pl.Float64,
    }
    frame = pl.DataFrame(rows, schema=schema)
    outcomes = {outcome: int((frame["outcome"] == outcome).sum()) for outcome in OUTCOMES}
    counts: dict[str, Any] = {
        "queries": frame.height,
        "unjudged": unjudged,
        "failed_probes": failed,
        "undecided": int(frame["outcome"].is_null().sum()),
        "k": k,
        "depth": depth,
        "found_in_candidates": outcomes["hit"] + outcomes["rerank_miss"],
        "hits": outcomes["hit"],
        "retrieval_misses": outcomes["retrieval_miss"],
        "beyond_depth": int(frame["beyond_depth"].sum()),
        "rerank_misses": outcomes["rerank_miss"],
        "without_candidates": without_candidates,
        "relevant_pairs": pairs,
        "relevant_not_indexed": None if known is None else absent,
        "mean_loss_retrieval": _mean(frame["loss_retrieval"]),
        "mean_loss_rerank": _mean(frame["loss_rerank"]),
    }
    return Misses(frame, counts)


def relevant_documents(judgments: pl.DataFrame) -> dict[str, dict[str, float]]:
    """Query id -> document id -> relevance, for relevance above zero."""
    table: dict[str, dict[str, float]] = {}
    for query_id, doc_id, relevance in judgments.filter(pl.col("relevance") > 0).select("query_id", "doc_id", "relevance").iter_rows():
        table.setdefault(query_id, {})[doc_id] = float(relevance)
    return table


def _dcg(gains: list[float], discount: np.ndarray) -> float:
    best = np.sort(np.asarray(gains, dtype=np.float64))[::-1][: len(discount)]
    return float(best @ discount[: len(best)])


def _mean(values: pl.Series) -> float | None:
    clean = values.drop_nulls()
    return float(clean.to_numpy().mean()) if len(clean) else None
