"""Several collections together: how much of what labels would have given was had without them.

What belongs here: pooling of finished runs. What must not: any run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from predator_si.errors import BadInput
from predator_si.proof.adapt.gate import CANARY_MARGIN
from predator_si.records import Interval
from predator_si.statistics import bootstrap_mean_interval


def recovered(frames: Sequence[pl.DataFrame], seed: int = 0, resamples: int = 10_000) -> tuple[Interval | None, str | None]:
    """Gap recovery with its interval over the given collections: ``sum(adapted - zero_shot_fused) / sum(oracle - zero_shot_fused)`` of their means.

    Only collections whose oracle gain is clear of zero (the lower bound of its 95% interval) are in the sums: elsewhere there is no gap to recover. Queries
    are resampled within collections; which collections count is held fixed.

    Parameters
    ----------
    frames
        Per query: ``zero_shot_fused, adapted, oracle``.

    Returns
    -------
    (interval, why)
        The interval is null, with the reason, where no collection counts.
    """
    counted = []
    for frame in frames:
        gap = (frame["oracle"] - frame["zero_shot_fused"]).to_numpy()
        if len(gap) > 1 and bootstrap_mean_interval(gap, seed=seed, n_boot=resamples).low > 0:
            counted.append(((frame["adapted"] - frame["zero_shot_fused"]).to_numpy(), gap))
    if not counted:
        return None, "the oracle's gain is not clear of zero, so there is no gap to recover"
    rng = np.random.default_rng(seed)
    top, bottom = np.zeros(resamples), np.zeros(resamples)
    for gains, gap in counted:
        drawn = rng.integers(len(gap), size=(resamples, len(gap)), dtype=np.int32)
        top, bottom = top + gains[drawn].mean(axis=1), bottom + gap[drawn].mean(axis=1)
    ratios = np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1.0), np.where(top >= 0, np.inf, -np.inf))
    low, high = np.quantile(ratios, [0.025, 0.975], method="inverted_cdf")
    estimate = sum(float(gains.mean()) for gains, _ in counted) / sum(float(gap.mean()) for _, gap in counted)
    return Interval(estimate=estimate, low=float(low), high=float(high), n=sum(len(gap) for _, gap in counted)), None


def read_run(file: Path) -> tuple[dict[str, Any], pl.DataFrame]:
    """The figures of one run and its scores per query, which lie where the figures say or beside them.

    Raises
    ------
    BadInput
        Not the figures of an adaptation, or the scores are gone.
    """
    try:
        figures = json.loads(Path(file).read_text(encoding="utf-8"))
        places = (Path(figures["per_query"]), Path(file).with_name(Path(figures["per_query"]).name), Path(file).with_suffix(".parquet"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file}: not the figures of an adaptation ({error}). Make them with `predator-si adapt --corpus DIR --json {file}`.") from error
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise BadInput(f"{file}: its scores per query are neither at {places[0]} nor beside it. Copy the Parquet file along with the figures.")
    return figures, pl.read_parquet(found)


def summarise(runs: Sequence[tuple[Mapping[str, Any], pl.DataFrame]], seed: int = 0) -> dict[str, Any]:
    """What the runs say together.

    Returns
    -------
    dict
        ``collections`` (a row each), ``gap_recovery`` with ``gap_recovery_ci`` and the names that it stands on, ``gains_above_zero``, ``mean_fused_gain``
        (each collection counts alike), ``promoted_below_zero`` and ``promoted_canary_losses`` (names; empty is good).

    Raises
    ------
    BadInput
        No run, or runs of different label modes.
    """
    if not runs:
        raise BadInput("nothing to summarise: give the JSON files of finished runs.")
    modes = sorted({str(figures["labels"]) for figures, _ in runs})
    if len(modes) > 1:
        raise BadInput(f"runs with --labels {' and '.join(modes)} are different promises; summarise each apart.")
    recovery, why_not = recovered([frame for _, frame in runs], seed)
    keys = ("corpus", "zero_shot", "zero_shot_fused", "adapted", "oracle", "gain", "gain_ci", "fused_gain", "fused_gain_ci", "oracle_gain", "oracle_ci")
    rows = [{key: figures[key] for key in (*keys, "decision", "canary_mean", "n_test_queries", "examples", "seconds")} for figures, _ in runs]
    promoted = [row for row in rows if row["decision"] == "promoted"]
    return {
        "labels": modes[0],
        "collections": rows,
        "gap_recovery": None if recovery is None else recovery.estimate,
        "gap_recovery_ci": None if recovery is None else [recovery.low, recovery.high],
        "gap_recovery_unknown_because": why_not,
        "gap_recovery_over": [row["corpus"] for row in rows if row["oracle_ci"][0] > 0],
        "gains_above_zero": [row["corpus"] for row in rows if row["gain_ci"][0] > 0],
        "mean_gain": float(np.mean([row["gain"] for row in rows])),
        "mean_fused_gain": float(np.mean([row["fused_gain"] for row in rows])),
        "promoted": [row["corpus"] for row in promoted],
        "promoted_below_zero": [row["corpus"] for row in promoted if row["gain_ci"][1] < 0],
        "promoted_canary_losses": [row["corpus"] for row in promoted if row["canary_mean"] is not None and row["canary_mean"] < -CANARY_MARGIN],
        "seconds": sum(row["seconds"] for row in rows),
    }
