"""Confidence intervals of one sample's mean or quantile, and of the difference between two samples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from predator_si.errors import BadInput
from predator_si.records import Interval
from predator_si.statistics.sample import Labels, Numbers, check_share, cluster_totals, finite

_CHUNK = 4_000_000
BOOTSTRAP_LIMIT = 5_000
"""From this many sampling units on a mean's bootstrap and Student intervals agree beyond what anybody acts on, and the bootstrap costs n x n_boot."""


def bootstrap_mean_interval(values: Numbers, seed: int = 0, n_boot: int = 10_000, confidence: float = 0.95, cluster: Labels | None = None) -> Interval:
    """The mean with its BCa bootstrap interval; above :data:`BOOTSTRAP_LIMIT` units with the Student (cluster-robust) interval.

    Bias-corrected and accelerated (Efron 1987; DiCiccio and Efron 1996, section 2): second-order accurate, and it follows the skew of
    bounded per-query scores. With ``cluster`` whole clusters are resampled and the mean is sum over size.

    Parameters
    ----------
    values
        n >= 2 finite numbers.
    seed, n_boot, confidence
        Of the resampling; the same arguments give the same interval.
    cluster
        One label per value where values are dependent (several requests of one client).

    Raises
    ------
    BadInput
        Fewer than two values or clusters, or a value that is not finite.
    """
    check_share(confidence, "confidence")
    array = finite(values, "mean interval", 2)
    sums, sizes = cluster_totals(array, cluster, "mean interval")
    low, high = _student(sums, sizes, confidence) if sums.size > BOOTSTRAP_LIMIT else _bca(sums, sizes, seed, n_boot, confidence)
    return Interval(estimate=float(array.mean()), low=low, high=high, n=int(array.size), sd=float(array.std(ddof=1)))


def bootstrap_t_interval(values: Numbers, seed: int = 0, n_boot: int = 10_000, confidence: float = 0.95, cluster: Labels | None = None) -> Interval:
    """The mean with its studentised bootstrap interval: every resample is divided by its own standard error (Efron and Tibshirani 1993, section 12.5).

    Second-order accurate like BCa, wider where units are few and skewed: resamples without spread count as infinitely far on the side of their mean.

    Parameters
    ----------
    values, seed, n_boot, confidence, cluster
        As in :func:`bootstrap_mean_interval`.

    Raises
    ------
    BadInput
        Fewer than two values or clusters, or a value that is not finite.
    """
    check_share(confidence, "confidence")
    array = finite(values, "mean interval", 2)
    sums, sizes = cluster_totals(array, cluster, "mean interval")
    estimate, error = float(sums.sum() / sizes.sum()), _standard_error(sums, sizes)
    low = high = estimate
    if np.ptp(sums / sizes) > 0.0:
        rng, units = np.random.default_rng(seed), sums.size
        t = np.empty(n_boot)
        step = max(1, _CHUNK // units)
        for start in range(0, n_boot, step):
            drawn = rng.integers(0, units, size=(min(step, n_boot - start), units), dtype=np.int32)
            top, bottom = sums[drawn], sizes[drawn]
            mean = top.sum(axis=1) / bottom.sum(axis=1)
            spread = np.sqrt(units / (units - 1) * ((top - bottom * mean[:, None]) ** 2).sum(axis=1)) / bottom.sum(axis=1)
            away = mean - estimate
            t[start : start + step] = np.where(spread > 0.0, away / np.where(spread > 0.0, spread, 1.0), np.copysign(np.inf, away))
        tails = np.quantile(t, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0], method="inverted_cdf")
        low, high = estimate - float(tails[1]) * error, estimate - float(tails[0]) * error
    return Interval(estimate=estimate, low=low, high=high, n=int(array.size), sd=float(array.std(ddof=1)))


def bootstrap_totals_interval(sums: Numbers, sizes: Numbers, seed: int = 0, n_boot: int = 10_000, confidence: float = 0.95) -> Interval:
    """The same as :func:`bootstrap_mean_interval` where only each unit's sum and size are known; the estimate is sum over size.

    Raises
    ------
    BadInput
        Fewer than two units, lengths that differ, or a number that is not finite.
    """
    check_share(confidence, "confidence")
    top, bottom = finite(sums, "mean interval", 2), finite(sizes, "mean interval", 2)
    if top.size != bottom.size:
        raise BadInput(f"mean interval: {top.size} sums for {bottom.size} sizes; give each unit both.")
    low, high = _student(top, bottom, confidence) if top.size > BOOTSTRAP_LIMIT else _bca(top, bottom, seed, n_boot, confidence)
    return Interval(estimate=float(top.sum() / bottom.sum()), low=low, high=high, n=round(float(bottom.sum())))


def moments_interval(total: float, size: float, residual_squares: float, units: int, confidence: float = 0.95) -> Interval:
    """The Student (cluster-robust) interval of ``total / size`` where only moments are known.

    Parameters
    ----------
    total, size
        Sum of the values, and how many they are.
    residual_squares
        Sum over units of ``(unit's sum - unit's size * total / size) ** 2``.
    units
        Clusters, or values where each stands for itself; at least 2.

    Raises
    ------
    BadInput
        Fewer than two units, or nothing to divide by.
    """
    from scipy.stats import t

    check_share(confidence, "confidence")
    if units < 2 or not size > 0.0:
        raise BadInput(f"mean interval: {units} units of {size:g} observations; at least two are needed.")
    estimate = total / size
    half = float(np.sqrt(units / (units - 1) * max(residual_squares, 0.0)) / size * t.ppf((1.0 + confidence) / 2.0, units - 1))
    return Interval(estimate=estimate, low=estimate - half, high=estimate + half, n=round(size))


def _bca(sums: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64], seed: int, n_boot: int, confidence: float) -> tuple[float, float]:
    from scipy.special import ndtr, ndtri

    estimate = float(sums.sum() / sizes.sum())
    if np.ptp(sums / sizes) == 0.0:
        return estimate, estimate
    rng, units = np.random.default_rng(seed), sums.size
    even = bool((sizes == sizes[0]).all())
    means = np.empty(n_boot)
    step = max(1, _CHUNK // units)
    for start in range(0, n_boot, step):
        drawn = rng.integers(0, units, size=(min(step, n_boot - start), units), dtype=np.int32)
        bottom = sizes[0] * units if even else sizes[drawn].sum(axis=1)
        means[start : start + step] = sums[drawn].sum(axis=1) / bottom
    # A tie with the estimate counts half, or many equal scores (zero differences) would look like bias; equal means differ by rounding only.
    noise = 1e-12 * max(1.0, abs(estimate))
    below = (means < estimate - noise).mean() + 0.5 * (np.abs(means - estimate) <= noise).mean()
    bias = float(ndtri(np.clip(below, 0.5 / n_boot, 1.0 - 0.5 / n_boot)))
    left_out = (sums.sum() - sums) / (sizes.sum() - sizes)
    deviation = left_out.mean() - left_out
    acceleration = float((deviation**3).sum() / (6.0 * (deviation**2).sum() ** 1.5))
    tails = bias + ndtri(np.array([(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0]))
    low, high = np.quantile(means, ndtr(bias + tails / (1.0 - acceleration * tails)))
    return float(low), float(high)


def _student(sums: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64], confidence: float) -> tuple[float, float]:
    from scipy.stats import t

    estimate, half = sums.sum() / sizes.sum(), _standard_error(sums, sizes) * t.ppf((1.0 + confidence) / 2.0, sums.size - 1)
    return float(estimate - half), float(estimate + half)


def _standard_error(sums: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64]) -> float:
    """Of a ratio of totals over clusters, by linearisation; for clusters of one it is sd / sqrt(n)."""
    residual = sums - sizes * (sums.sum() / sizes.sum())
    return float(np.sqrt(sums.size / (sums.size - 1) * (residual**2).sum()) / sizes.sum())


def quantile_interval(values: Numbers, q: float, confidence: float = 0.95) -> Interval:
    """A quantile with its order-statistic interval, valid for any distribution (David and Nagaraja 2003, section 7.1).

    A bound that the sample is too small to have is infinite: the 95% upper bound of p95 needs 72 values.

    Raises
    ------
    BadInput
        No values, one that is not finite, or ``q`` outside 0..1.
    """
    from scipy.stats import binom

    check_share(q, "quantile")
    check_share(confidence, "confidence")
    ordered = np.sort(finite(values, "quantile interval", 1))
    n, tail = int(ordered.size), (1.0 - confidence) / 2.0
    below, above = int(binom.ppf(tail, n, q)), int(binom.ppf(1.0 - tail, n, q)) + 1
    return Interval(
        estimate=float(np.quantile(ordered, q)),
        low=float(ordered[below - 1]) if below >= 1 else float("-inf"),
        high=float(ordered[above - 1]) if above <= n else float("inf"),
        n=n,
    )


def quantile_ratio_interval(control: Numbers, treated: Numbers, q: float, seed: int = 0, n_boot: int = 10_000, confidence: float = 0.95) -> Interval:
    """Treated over control quantile minus one (``-0.75`` = a quarter of the time), with a percentile bootstrap interval.

    The bootstrap distribution of an order statistic is known: the k-th of n resampled values is the order statistic at rank
    ``ceil(n B)``, B ~ Beta(k, n - k + 1), so nothing is resampled (Schultzberg and Ankargren 2022, arXiv:2202.10992, do the like for the
    Poisson bootstrap).
    A quantile near the edge of a small sample is bounded by its maximum and the interval is then too short: at least ``3 / (1 - q)``
    values per side (60 for p95) are asked for.

    Parameters
    ----------
    control, treated
        Positive values, any unit.
    q
        The quantile, 0..1 exclusive.

    Raises
    ------
    BadInput
        Too few values, one that is not finite, or a control quantile that is not positive.
    """
    check_share(q, "quantile")
    check_share(confidence, "confidence")
    # A hair below the exact figure, or 3 / (1 - .95) would be 61 by rounding.
    least = int(np.ceil(3.0 / min(q, 1.0 - q) - 1e-9))
    first, second = (np.sort(finite(values, f"{what} p{100 * q:g}", least)) for values, what in ((control, "control"), (treated, "treated")))
    if first[0] <= 0.0:
        raise BadInput(f"a ratio needs positive control values; the smallest is {first[0]}.")
    rng = np.random.default_rng(seed)

    def resampled(ordered: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        rank = int(np.ceil(ordered.size * q))
        drawn = np.ceil(ordered.size * rng.beta(rank, ordered.size - rank + 1, size=n_boot)).astype(np.int64)
        return ordered[np.clip(drawn, 1, ordered.size) - 1]

    ratios = resampled(second) / resampled(first) - 1.0
    low, high = np.quantile(ratios, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    estimate = float(np.quantile(second, q) / np.quantile(first, q) - 1.0)
    return Interval(estimate=estimate, low=float(low), high=float(high), n=int(first.size + second.size))


def welch(
    control: Numbers, treated: Numbers, confidence: float = 0.95, control_cluster: Labels | None = None, treated_cluster: Labels | None = None
) -> Interval:
    """Treated mean minus control mean with Welch's interval and two-sided p-value (Welch 1947).

    With clusters (several requests of one client) the variance is that of a ratio of cluster totals, by linearisation (the delta method
    of Deng, Knoblich and Lu 2018, arXiv:1803.06336), and the degrees of freedom count clusters.

    Raises
    ------
    BadInput
        A side has fewer than two values or clusters, or a value that is not finite.
    """
    from scipy.stats import t

    check_share(confidence, "confidence")
    first, second = finite(control, "control", 2), finite(treated, "treated", 2)
    sides = [cluster_totals(first, control_cluster, "control"), cluster_totals(second, treated_cluster, "treated")]
    variances = [_standard_error(*side) ** 2 for side in sides]
    estimate, total, n = float(second.mean() - first.mean()), sum(variances), int(first.size + second.size)
    if total == 0.0:
        return Interval(estimate=estimate, low=estimate, high=estimate, p_value=1.0 if estimate == 0.0 else 0.0, n=n)
    freedom = total**2 / sum(variance**2 / (side[0].size - 1) for variance, side in zip(variances, sides, strict=True))
    error = float(np.sqrt(total))
    half = float(t.ppf((1.0 + confidence) / 2.0, freedom)) * error
    return Interval(estimate=estimate, low=estimate - half, high=estimate + half, p_value=float(2.0 * t.sf(abs(estimate) / error, freedom)), n=n)
