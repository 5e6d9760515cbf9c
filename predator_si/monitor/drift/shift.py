"""Shifts of one number or of a mix of categories between two windows: test, effect, interval.

What belongs here: plain samples in, one :class:`~predator_si.records.DriftItem` out. What must not: events, thresholds of a contour.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from predator_si.records import DriftItem

FEWEST = 20
_RESAMPLES = 500
_DEALS = 4999
_BINS = 10

Floats = npt.NDArray[np.float64]


def number_shift(name: str, reference: Floats, current: Floats, least: float, seed: int = 0) -> DriftItem:
    """The largest difference of two distribution functions (Kolmogorov and Smirnov), with its test and a bootstrap interval.

    ``details``: ``cliffs_delta`` (chance that a current value is higher less the chance that it is lower, -1..1), ``psi`` (population stability
    index over the reference's deciles, half a count added to each), ``js`` (Jensen-Shannon divergence over the same bins, bits, 0..1), both medians.
    The bootstrap interval of a distance leans upwards for distances near zero, where it is not used: smaller ones than ``least`` are no drift.
    """
    from scipy.stats import ks_2samp

    first, second = (np.sort(side[np.isfinite(side)]) for side in (reference, current))
    n = (int(first.size), int(second.size))
    measure = "largest difference of the distribution functions"
    if min(n) < FEWEST:
        return DriftItem(name=name, statistic=None, measure=measure, n=n, threshold=least, reason=f"{name}: {n[0]} and {n[1]} values, {FEWEST} each are needed")
    test = ks_2samp(first, second)
    rng = np.random.default_rng(seed)
    drawn = [_distance(np.sort(rng.choice(first, n[0])), np.sort(rng.choice(second, n[1]))) for _ in range(_RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    psi, js = _binned(first, second)
    delta = float((np.searchsorted(first, second, "left").sum() - (n[0] - np.searchsorted(first, second, "right")).sum()) / (n[0] * n[1]))
    medians = float(np.median(first)), float(np.median(second))
    return DriftItem(
        name=name,
        statistic=float(test.statistic),
        measure=measure,
        interval=(float(low), float(high)),
        p=float(test.pvalue),
        threshold=least,
        n=n,
        reason=f"{name}: median {medians[0]:.4g} before, {medians[1]:.4g} now",
        details={"cliffs_delta": delta, "psi": psi, "js": js, "reference_median": medians[0], "current_median": medians[1]},
    )


def mix_shift(name: str, reference: Mapping[str, int], current: Mapping[str, int], least: float, seed: int = 0) -> DriftItem:
    """Total variation between two mixes (the share that would have to change category), with a permutation test and a bootstrap interval.

    ``details``: both mixes as shares, and ``js`` in bits.
    """
    kinds = sorted({*reference, *current})
    first, second = (np.array([side.get(kind, 0) for kind in kinds], dtype=np.int64) for side in (reference, current))
    n = (int(first.sum()), int(second.sum()))
    measure = "share that changed its category"
    if min(n) < FEWEST:
        return DriftItem(name=name, statistic=None, measure=measure, n=n, threshold=least, reason=f"{name}: {n[0]} and {n[1]} texts, {FEWEST} each are needed")
    statistic = float(_variation(first, second))
    rng = np.random.default_rng(seed)
    dealt = rng.multivariate_hypergeometric(first + second, n[0], size=_DEALS)
    null = _variation(dealt, first + second - dealt)
    low, high = np.quantile(_variation(rng.multinomial(n[0], first / n[0], _RESAMPLES), rng.multinomial(n[1], second / n[1], _RESAMPLES)), [0.025, 0.975])
    shares = [dict(zip(kinds, (side / side.sum()).round(4).tolist(), strict=True)) for side in (first, second)]
    moved = max(kinds, key=lambda kind: shares[1][kind] - shares[0][kind])  # the one that grew most
    return DriftItem(
        name=name,
        statistic=statistic,
        measure=measure,
        interval=(float(low), float(high)),
        null_interval=(float(np.quantile(null, 0.025)), float(np.quantile(null, 0.975))),
        p=(1 + int((null >= statistic - 1e-12).sum())) / (_DEALS + 1),
        threshold=least,
        n=n,
        reason=f"{name}: {moved} {shares[0][moved]:.0%} before, {shares[1][moved]:.0%} now",
        details={"reference": shares[0], "current": shares[1], "js": _jensen_shannon(first / n[0], second / n[1])},
    )


def _distance(first: Floats, second: Floats) -> float:
    both = np.concatenate([first, second])
    return float(np.abs(np.searchsorted(first, both, "right") / first.size - np.searchsorted(second, both, "right") / second.size).max())


def _variation(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    gap = np.abs(first / first.sum(-1, keepdims=True) - second / second.sum(-1, keepdims=True)).sum(-1) / 2.0
    return np.asarray(gap, dtype=np.float64)


def _binned(first: Floats, second: Floats) -> tuple[float, float]:
    edges = np.unique(np.quantile(first, np.linspace(0.0, 1.0, _BINS + 1)[1:-1]))
    # A value that many share may be an edge itself: it gets a bin of its own, so that moving off it in either direction shows.
    bins = [np.searchsorted(edges, side, "left") + np.searchsorted(edges, side, "right") for side in (first, second)]
    counts = np.stack([np.bincount(side, minlength=2 * edges.size + 1) for side in bins])
    counts = counts[:, counts.any(axis=0)]
    p, q = ((side + 0.5) / (side.sum() + 0.5 * side.size) for side in counts)
    return float(((q - p) * np.log(q / p)).sum()), _jensen_shannon(counts[0] / first.size, counts[1] / second.size)


def _jensen_shannon(p: Floats, q: Floats) -> float:
    middle = (p + q) / 2.0
    halves = [np.where(side > 0, side * np.log2(np.where(side > 0, side, 1.0) / np.where(middle > 0, middle, 1.0)), 0.0).sum() for side in (p, q)]
    return float(sum(halves) / 2.0)
