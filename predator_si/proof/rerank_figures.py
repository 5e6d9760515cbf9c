"""From per-query scores and times to the figures of `bench rerank`.

What belongs here: differences, intervals, ratios. What must not: running anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from predator_si.errors import BadInput
from predator_si.evaluate.timing import Timing
from predator_si.records import Interval
from predator_si.search.rerank import chip_has_bf16
from predator_si.statistics import paired_interval, power_sentence, quantile_ratio_interval

USER = "sentence-transformers fp32"
SAME = "same weights, length and depth"
FUSED = "zero-shot, fused with the first stage"
MARGIN = 0.01


def alone(name: str) -> str:
    """The column of an arm's NDCG without the first stage's share."""
    return f"{name}, not fused"


def rerank_figures(
    table: pl.DataFrame, timings: Mapping[str, Timing], facts: Mapping[str, dict[str, Any]], *, best: str, cut: str | None, seed: int
) -> dict[str, Any]:
    """Keys of CONTRACT.md section 7 and more.

    Parameters
    ----------
    table
        NDCG@10 per query: ``collection``, ``query_id``, a column for each arm under its name and under :func:`alone`, and ``FUSED``.
    timings
        By arm, ``USER`` and ``SAME`` among them.
    facts
        What each of our arms is.
    best, cut
        The arm that was chosen before any of these scores was read; the arm of the reference at its input length, null where that is the reference's own.
    """
    user = timings[USER]
    rows = []
    for name, timing in timings.items():
        row = {"name": name, "p50_ms": timing.percentile(50), "p95_ms": timing.percentile(95), "p99_ms": timing.percentile(99),
               "pairs_per_second": timing.pairs_per_second, "ndcg": _mean(table, name), "ndcg_not_fused": _mean(table, alone(name)),
               "timed_queries": len(timing.ms), "scored_per_query": float(np.mean(timing.scored)), "cpu_seconds": float(np.mean(timing.cpu_seconds)),
               "p95_ratio": user.percentile(95) / timing.percentile(95), **facts.get(name, {})}  # fmt: skip
        if name in table.columns and name != USER:
            gap = _difference(table, name, USER, seed)
            row |= {"ndcg_difference": gap.estimate, "ndcg_difference_ci": [gap.low, gap.high], "non_inferior": gap.low > -MARGIN}
        rows.append(row)
    gap = _difference(table, best, USER, seed)
    corpora = []
    for (collection,), part in table.group_by("collection", maintain_order=True):
        local = _difference(part, best, USER, seed)
        means = {"ndcg_reference": USER, "ndcg": best, "ndcg_reference_fused": FUSED, "ndcg_not_fused": alone(best)}
        said = {"name": collection, "n_queries": part.height, "ndcg_difference": local.estimate, "ci": [local.low, local.high]}
        corpora.append({**said, **{key: _mean(part, column) for key, column in means.items()}})
    same_length = timings[cut] if cut is not None else user
    fused = _difference(table, best, FUSED, seed)
    return {
        "p95_ratio": user.percentile(95) / timings[best].percentile(95),
        "p95_ratio_ci": _ratio_interval(user, timings[best], seed),
        "p95_ratio_same_weights": user.percentile(95) / timings[SAME].percentile(95),
        "p95_ratio_same_length": same_length.percentile(95) / timings[best].percentile(95),
        "bf16": chip_has_bf16(),
        "ndcg_difference": gap.estimate,
        "ndcg_difference_ci": [gap.low, gap.high],
        "ndcg_noninferior": gap.low > -MARGIN,
        "power": power_sentence(gap.n, gap.sd),
        "ndcg_difference_to_fused": fused.estimate,
        "ndcg_difference_to_fused_ci": [fused.low, fused.high],
        "margin": MARGIN,
        "n_queries": table.height,
        "corpora": corpora,
        "chosen": best,
        "variants": rows,
    }


def _mean(table: pl.DataFrame, column: str) -> float | None:
    return float(table[column].to_numpy().mean()) if column in table.columns else None


def _difference(table: pl.DataFrame, one: str, other: str, seed: int) -> Interval:
    return paired_interval((table[one] - table[other]).to_numpy(), seed=seed)


def _ratio_interval(user: Timing, ours: Timing, seed: int) -> list[float] | None:
    """How many times faster the P95 is, with its 95% interval; null with fewer timed queries than a P95 asks for."""
    try:
        found = quantile_ratio_interval(np.asarray(user.ms), np.asarray(ours.ms), 0.95, seed=seed)
    except BadInput:
        return None
    return [1.0 / (1.0 + found.high), 1.0 / (1.0 + found.low)]
