"""Normal-mixture e-processes and confidence sequences for means: any look is allowed, the error holds over all of them together.

What belongs here: means of one stream (paired differences, log ratios) from n, sum and sum of squares, and any estimate with a standard error. What must
not: bounded means without asymptotics (``betting``), rates (``counts``), which metric is judged against which margin.

For one stream the standardised effect gets a normal prior of variance ``1 / prior`` (a half-normal one for a one-sided question) and the unknown spread
gets its invariant prior; both integrate out in closed form (Lai 1976, "On confidence sequences"; Wang and Ramdas 2024, "Anytime-valid t-tests and confidence
sequences for Gaussian means with unknown variance", arXiv:2310.03722). With ``R = S^2 / (n Q)``, ``S`` and ``Q`` the sums of ``x - m`` and of its square:

    e = sqrt(prior / (n + prior)) (1 - n R / (n + prior))^(-n/2)             two-sided
    e times 2 F_n(+-n sqrt(R / (n + prior - n R)))                            one-sided, F_n Student's distribution function

Exact at every n for Gaussian observations: at n = 1 it says nothing. For others it is asymptotic, in the sense of Waudby-Smith, Arbour, Sinha, Kennedy and
Ramdas (2024), "Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics 52 (arXiv:2103.06476), whose normal mixture is
its limit; hence a burn-in, before which nothing is said. For an estimate with a standard error (two arms, clusters) that limit itself is used: Howard,
Ramdas, McAuliffe and Sekhon (2021), "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49, section 3.2 (their boundary
bounds the one-sided mixture; here it is solved exactly).

Nothing is said, that is ``log_e = 0`` and infinite bounds, before the burn-in and where all observations are equal: a spread that was never seen is not zero.
"""

from __future__ import annotations

import math

import numpy as np

from predator_si.errors import BadInput
from predator_si.statistics.evidence import Alternative, Array, ArrayLike, needed
from predator_si.statistics.sample import check_share

BURN_IN = 20
"""Observations before which a mean's sequence says nothing: chosen for paired NDCG differences and log latency ratios, and tried by ``predator-si
simulate``."""
_NO_SPREAD = 1e-13
_BISECTIONS = 60


def running_sums(values: ArrayLike) -> tuple[Array, Array, Array]:
    """(n, sum, sum of squares) after each observation along the last axis; each of the shape of ``values``.

    Raises
    ------
    BadInput
        A value that is not a finite number, or no axis to run along.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim == 0 or not np.isfinite(x).all():
        raise BadInput("running sums need a row of finite numbers; find where the others come from, do not drop them.")
    n = np.broadcast_to(np.arange(1, x.shape[-1] + 1, dtype=np.float64), x.shape)
    return n, np.cumsum(x, axis=-1), np.cumsum(x * x, axis=-1)


def prior_size(alpha: float, n: float, alternative: Alternative = "two-sided") -> float:
    """The ``prior`` that makes the sequence tightest about ``n`` observations (arXiv:2103.06476, appendix B.2; twice ``alpha`` where one-sided).

    Raises
    ------
    BadInput
        ``alpha`` not between 0 and 1/2, or ``n`` not positive.
    """
    check_share(2.0 * alpha, "twice alpha")
    if not n > 0.0:
        raise BadInput(f"a sequence cannot be tuned for {n} observations; give a positive number.")
    budget = 2.0 * needed(alpha if alternative == "two-sided" else 2.0 * alpha)
    return n / (budget + math.log1p(budget))


def mean_log_e(
    n: ArrayLike, total: ArrayLike, squares: ArrayLike, null: float = 0.0, *, prior: float, alternative: Alternative = "greater", burn_in: int = BURN_IN
) -> Array:
    """Evidence that a mean is greater (less, other) than ``null``.

    Parameters
    ----------
    n, total, squares
        Number, sum and sum of squares so far; arrays of one shape (..., looks), or numbers.
    null
        The mean under the null hypothesis; where one-sided: or anything on the other side of it.
    prior
        Pseudo-observations: the standardised effect is expected about ``1 / sqrt(prior)``. See :func:`prior_size`.
    burn_in
        Looks with fewer observations say nothing.

    Returns
    -------
    Array
        ``log_e``, of the shape of the inputs; 0 where nothing is said.

    Raises
    ------
    BadInput
        Sums that cannot be (not finite, negative n, squares below ``total ** 2 / n``), or a ``prior`` that is not positive.
    """
    size, mean, variance = _moments(n, total, squares, prior)
    speaks = (size >= max(burn_in, 2)) & (variance > 0.0)
    count = np.where(speaks, size, 2.0)
    centred = np.where(speaks, mean - null, 0.0)
    square = centred**2
    share = square / np.where(speaks, square + variance, 1.0)
    return np.where(speaks, _student_log_e(share, np.sign(centred), count, prior, alternative), 0.0)


def mean_sequence(
    n: ArrayLike, total: ArrayLike, squares: ArrayLike, alpha: float, *, prior: float, alternative: Alternative = "two-sided", burn_in: int = BURN_IN
) -> tuple[Array, Array]:
    """The confidence sequence of a mean: (low, high) at each look, all at once true with probability ``1 - alpha``.

    The set of means that :func:`mean_log_e` does not reject. ``greater`` bounds from below only (high is infinite), ``less`` from above only.

    Parameters
    ----------
    n, total, squares, prior, burn_in
        As in :func:`mean_log_e`.

    Raises
    ------
    BadInput
        As in :func:`mean_log_e`.
    """
    size, mean, variance = _moments(n, total, squares, prior)
    speaks = (size >= max(burn_in, 2)) & (variance > 0.0)
    share = _student_share(np.where(speaks, size, 2.0), prior, needed(alpha), alternative)
    speaks &= share < 1.0
    half = np.where(speaks, np.sqrt(variance * share / (1.0 - np.where(speaks, share, 0.0))), np.inf)
    return _sides(mean, half, alternative)


def estimate_log_e(estimate: ArrayLike, error: ArrayLike, n: ArrayLike, null: float = 0.0, *, prior: float, alternative: Alternative = "greater") -> Array:
    """Evidence from an asymptotically normal estimate with its standard error: the difference of two arms, a ratio over clusters.

    Parameters
    ----------
    estimate, error
        Arrays of one shape (..., looks). Where ``error`` is 0 or infinite nothing is said.
    n
        How much was seen, in the unit of ``prior``: it must grow as ``1 / error ** 2`` does. For two arms ``n1 n2 / (n1 + n2)``.

    Returns
    -------
    Array
        ``log_e``; with ``z = (estimate - null) / error`` and ``w = n / (n + prior)``: ``z^2 w / 2 + log(1 - w) / 2``, and one-sided
        ``+ log(2 Phi(+-z sqrt(w)))``.

    Raises
    ------
    BadInput
        A number that is nan, a negative error or n, or a ``prior`` that is not positive.
    """
    from scipy.special import log_ndtr

    value, spread, size = _estimate(estimate, error, n, prior)
    speaks = (size > 0.0) & (spread > 0.0) & np.isfinite(spread) & np.isfinite(value)
    z = (np.where(speaks, value, null) - null) / np.where(speaks, spread, 1.0)
    w = size / (size + prior)
    log_e = 0.5 * z**2 * w + 0.5 * np.log1p(-w)
    if alternative != "two-sided":
        log_e = log_e + math.log(2.0) + log_ndtr(_direction(alternative) * z * np.sqrt(w))
    return np.where(speaks, log_e, 0.0)


def estimate_sequence(
    estimate: ArrayLike, error: ArrayLike, n: ArrayLike, alpha: float, *, prior: float, alternative: Alternative = "two-sided"
) -> tuple[Array, Array]:
    """The confidence sequence that belongs to :func:`estimate_log_e`: (low, high) at each look.

    Raises
    ------
    BadInput
        As in :func:`estimate_log_e`.
    """
    from scipy.special import log_ndtr

    value, spread, size = _estimate(estimate, error, n, prior)
    w = size / (size + prior)
    with np.errstate(divide="ignore", invalid="ignore"):
        top = needed(alpha) - 0.5 * np.log1p(-w)
        x = np.sqrt(2.0 * top)
        if alternative != "two-sided":  # x^2 / 2 + log(2 Phi(x)) = top, which lies between the two-sided solutions at 2 alpha and at alpha
            low, high = np.sqrt(np.maximum(2.0 * (top - math.log(2.0)), 0.0)), x
            for _ in range(_BISECTIONS):
                x = 0.5 * (low + high)
                over = 0.5 * x**2 + math.log(2.0) + log_ndtr(x) >= top
                low, high = np.where(over, low, x), np.where(over, x, high)
            x = high
        half = spread * x / np.sqrt(w)
    speaks = (size > 0.0) & (spread > 0.0) & np.isfinite(spread) & np.isfinite(value)
    return _sides(np.where(speaks, value, 0.0), np.where(speaks, half, np.inf), alternative)


def _student_log_e(share: Array, sign: Array, n: Array, prior: float, alternative: Alternative) -> Array:
    """``log_e`` where ``share`` is R of the module's docstring, 0..1, and ``sign`` the side of the mean."""
    from scipy.special import stdtr

    log_e = 0.5 * np.log(prior / (n + prior)) - 0.5 * n * np.log1p(-n * share / (n + prior))
    if alternative == "two-sided":
        return np.asarray(log_e, dtype=np.float64)
    student = stdtr(n, _direction(alternative) * sign * n * np.sqrt(share / (n + prior - n * share)))
    with np.errstate(divide="ignore"):
        return np.asarray(log_e + np.log(2.0 * student), dtype=np.float64)


def _student_share(n: Array, prior: float, top: float, alternative: Alternative) -> Array:
    """The R at which ``log_e`` reaches ``top``; 1 where none does."""

    def two_sided(evidence: float) -> Array:
        return np.asarray(-np.expm1((np.log(prior / (n + prior)) - 2.0 * evidence) / n) * (n + prior) / n, dtype=np.float64)

    high = np.minimum(two_sided(top), 1.0)
    if alternative == "two-sided":
        return high
    low, up = np.clip(two_sided(top - math.log(2.0)), 0.0, 1.0), np.ones_like(n)
    reachable = _student_log_e(up, up, n, prior, "greater") >= top
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        over = _student_log_e(middle, up, n, prior, "greater") >= top
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    return np.where(reachable, high, 1.0)


def _direction(alternative: Alternative) -> float:
    return 1.0 if alternative == "greater" else -1.0


def _sides(middle: Array, half: Array, alternative: Alternative) -> tuple[Array, Array]:
    low, high = middle - half, middle + half
    nothing = np.full_like(half, np.inf)
    return (-nothing if alternative == "less" else low), (nothing if alternative == "greater" else high)


def _moments(n: ArrayLike, total: ArrayLike, squares: ArrayLike, prior: float) -> tuple[Array, Array, Array]:
    """(n, mean, mean squared deviation); a spread within rounding of zero is zero."""
    size, top, power = np.broadcast_arrays(*(np.asarray(one, dtype=np.float64) for one in (n, total, squares)))
    if not prior > 0.0:
        raise BadInput(f"prior is {prior}; give a positive number of pseudo-observations (prior_size chooses one).")
    if not (np.isfinite(size).all() and np.isfinite(top).all() and np.isfinite(power).all()) or (size < 0).any() or (power < 0).any():
        raise BadInput("sums of a mean's sequence are not finite, or a number or a square is negative; find where they come from.")
    count = np.maximum(size, 1.0)
    mean, raw = top / count, power / count
    variance = raw - mean**2
    if (variance < -1e-9 * np.maximum(raw, 1e-300)).any():
        raise BadInput("a sum of squares is smaller than its sum allows (squares >= total ** 2 / n); the sums do not belong together.")
    return size, mean, np.where(variance > _NO_SPREAD * raw, variance, 0.0)


def _estimate(estimate: ArrayLike, error: ArrayLike, n: ArrayLike, prior: float) -> tuple[Array, Array, Array]:
    value, spread, size = np.broadcast_arrays(*(np.asarray(one, dtype=np.float64) for one in (estimate, error, n)))
    if not prior > 0.0:
        raise BadInput(f"prior is {prior}; give a positive number of pseudo-observations (prior_size chooses one).")
    if np.isnan(value).any() or np.isnan(spread).any() or not np.isfinite(size).all() or (spread < 0).any() or (size < 0).any():
        raise BadInput("an estimate, its standard error or its size is not a number, or negative; report the metric as unknown instead.")
    return value, spread, size
