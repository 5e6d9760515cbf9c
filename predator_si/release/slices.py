"""Judged queries by slice: no part of them with enough queries may be proven worse by more than the margin.

What belongs here: the one number that a decision asks for, from the per-query scores. What must not: choosing slices (the evaluation names them).
"""

from __future__ import annotations

import numpy as np
import polars as pl

from predator_si.evaluate import clusters_of
from predator_si.records import Metric
from predator_si.release.criteria import SLICE_QUERIES
from predator_si.statistics import holm, sign_flip_test


def slice_metric(scores: pl.DataFrame, margin: float, seed: int = 0, n_flips: int = 10_000) -> dict[str, Metric]:
    """``slice_worse_p``: how surprising the worst slice would be if no slice were worse by more than ``margin``.

    Each slice with at least 30 independent queries is asked by the sign-flip test of its differences plus the margin, two-sided, as the interval of all queries
    is; a slice whose mean is above the margin says 1. The least of the Holm-adjusted p-values is the metric, so that the chance of calling any slice worse when
    none is stays below half the level, however many slices there are.

    Parameters
    ----------
    scores
        Both sides' NDCG per query, ``slices``: the names of those that the query is in, and ``cluster``, if queries depend on each other: each counts once.
    margin
        How much lower a slice's NDCG@10 may be, >= 0.

    Returns
    -------
    dict[str, Metric]
        Empty where the scores name no slice with enough queries; ``source`` names the slice and its difference.
    """
    if "slices" not in scores.columns:
        return {}
    kept = [name for name in ("cluster",) if name in scores.columns]
    differences = scores.select("slices", *kept, difference=pl.col("ndcg_challenger") - pl.col("ndcg_champion")).explode("slices").drop_nulls("slices")
    known = {str(name[0]): own for name, own in differences.group_by("slices", maintain_order=True)}
    parts = {name: own for name, own in known.items() if (own["cluster"].n_unique() if kept else own.height) >= SLICE_QUERIES}
    if not parts:
        return {}
    names = sorted(parts)
    shifted = [parts[name]["difference"].to_numpy() + margin for name in names]
    said = [
        1.0 if values.mean() >= 0.0 else sign_flip_test(values, seed=seed, n_flips=n_flips, cluster=clusters_of(parts[name]))
        for name, values in zip(names, shifted, strict=True)
    ]
    adjusted = holm(said)
    worst = min(range(len(names)), key=lambda k: (float(adjusted[k]), float(np.mean(shifted[k]))))
    own = parts[names[worst]]["difference"].to_numpy()
    about = f"worst of {len(names)} slices: {names[worst]}, NDCG@10 {own.mean():+.4f}, margin {-margin:+.4f}"
    return {"slice_worse_p": Metric(name="slice_worse_p", value=float(adjusted[worst]), n=own.size, source=about)}
