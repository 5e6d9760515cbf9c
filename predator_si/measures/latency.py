"""Latency distributions: percentiles with intervals that assume nothing about their shape, and histogram bins.

What belongs here: descriptions of one sample of times. What must not: comparisons of two (``statistics``), thresholds (``monitor.gates``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from predator_si.errors import BadInput


def percentiles(latencies: pl.Series | Sequence[float] | np.ndarray, qs: Sequence[float] = (0.5, 0.95, 0.99), confidence: float = 0.95) -> pl.DataFrame:
    """Quantiles of a sample with order-statistic intervals.

    The number of observations below the true quantile is binomial(n, q); the order statistics at its (1 - confidence) / 2 tails enclose
    the quantile with at least the asked confidence for any distribution (David and Nagaraja 2003, section 7.1).

    Parameters
    ----------
    latencies
        Finite numbers, any unit (the result has the same); n >= 1.
    qs
        Quantiles, each in 0..1 exclusive.
    confidence
        Coverage of the interval.

    Returns
    -------
    pl.DataFrame
        ``q``, ``value`` (linear interpolation, type 7 of Hyndman and Fan 1996), ``low``, ``high``, ``n``. A bound is null where the
        sample is too small to have it: the 95% upper bound of p99 needs 368 observations.

    Raises
    ------
    BadInput
        No observations, a value that is not finite, or a quantile outside 0..1.
    """
    values = np.sort(np.asarray(latencies, dtype=np.float64))
    if values.size == 0:
        raise BadInput("percentiles of no observations; check that the sample is not empty before asking.")
    if not np.isfinite(values).all():
        raise BadInput(f"{int((~np.isfinite(values)).sum())} of {values.size} observations are not finite numbers; quarantine them before taking percentiles.")
    n = int(values.size)
    rows = []
    for q in qs:
        below, above = order_ranks(n, q, confidence)
        low = float(values[below - 1]) if below >= 1 else None
        high = float(values[above - 1]) if above <= n else None
        rows.append({"q": float(q), "value": float(np.quantile(values, q)), "low": low, "high": high, "n": n})
    return pl.DataFrame(rows, schema={"q": pl.Float64, "value": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64})


def order_ranks(n: int, q: float, confidence: float) -> tuple[int, int]:
    """Ranks (from 1) of the order statistics that enclose the quantile; 0 or n + 1 where the sample is too small to have the bound.

    Raises
    ------
    BadInput
        The quantile is not between 0 and 1.
    """
    from scipy.stats import binom

    if not 0.0 < q < 1.0:
        raise BadInput(f"quantiles must lie between 0 and 1, got {q}.")
    tail = (1.0 - confidence) / 2.0
    # P(B < below) <= tail, so the order statistic of rank `below` may serve as lower bound; P(B >= above) <= tail.
    return int(binom.ppf(tail, n, q)), int(binom.ppf(1.0 - tail, n, q)) + 1


def latency_histogram(latencies: pl.Series | Sequence[float] | np.ndarray, bins_per_decade: int = 10) -> pl.DataFrame:
    """Counts in bins of equal ratio, which show a tail and a mode of one latency distribution at once.

    Edges are powers of ``10 ** (1 / bins_per_decade)``, the same for every sample, so histograms of two windows or arms can be laid over
    each other. Values below 0.001 fall into the first bin, from 0.

    Returns
    -------
    pl.DataFrame
        ``low`` (inclusive), ``high`` (exclusive), ``count``, ``share``; bins from the first to the last occupied one, empty ones between them included.

    Raises
    ------
    BadInput
        A negative or non-finite value, or ``bins_per_decade`` below 1.
    """
    values = np.asarray(latencies, dtype=np.float64)
    schema = {"low": pl.Float64, "high": pl.Float64, "count": pl.Int64, "share": pl.Float64}
    if bins_per_decade < 1:
        raise BadInput(f"bins_per_decade is {bins_per_decade}; it must be at least 1.")
    if values.size == 0:
        return pl.DataFrame(schema=schema)
    if not np.isfinite(values).all() or values.min() < 0:
        raise BadInput("latencies must be finite and not negative; quarantine other values first.")
    floor = -3 * bins_per_decade
    last = max(floor + 1, int(np.floor(np.log10(max(values.max(), 1e-3)) * bins_per_decade)) + 2)
    edges = np.concatenate([[0.0], 10.0 ** (np.arange(floor, last + 1) / bins_per_decade)])
    counts, _ = np.histogram(values, bins=edges)
    first, end = int(np.flatnonzero(counts)[0]), int(np.flatnonzero(counts)[-1]) + 1
    kept = counts[first:end]
    return pl.DataFrame({"low": edges[first:end], "high": edges[first + 1 : end + 1], "count": kept, "share": kept / values.size}, schema=schema)
