"""Quantiles looked at at any time: the confidence sequence of a P95.

What belongs here: order statistics whose ranks hold over all looks. What must not: quantiles for one look (``intervals``), latency limits.

Howard and Ramdas (2022), "Sequential estimation of quantiles with applications to A/B testing and best-arm identification", Bernoulli 28: observations at most
the true quantile are Bernoulli trials of known rate, so a sequence for their count (theirs is the beta-binomial mixture for one fixed quantile, as here)
names the ranks between which the quantile lies, whatever the distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from predator_si.errors import BadInput
from predator_si.statistics.counts import STRENGTH, rate_log_e
from predator_si.statistics.evidence import Array, ArrayLike, needed
from predator_si.statistics.sample import check_share


def quantile_ranks(n: ArrayLike, q: float, alpha: float, *, strength: float = STRENGTH) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The ranks (1 = smallest) between which the quantile lies at every sample size at once, with probability ``1 - alpha``.

    Returns
    -------
    tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
        Lower rank, 0 where there is none yet; upper rank, ``n + 1`` where there is none yet.
    """
    check_share(q, "quantile")
    size = np.asarray(n, dtype=np.int64)
    top = needed(alpha / 2.0)
    above = _first(size, lambda k: rate_log_e(k, size, q, alternative="greater", strength=strength) >= top)
    kept = _first(size, lambda k: rate_log_e(k, size, q, alternative="less", strength=strength) < top)
    return kept, above


def quantile_sequence(values: ArrayLike, q: float, alpha: float, looks: Sequence[int] | None = None, *, strength: float = STRENGTH) -> tuple[Array, Array]:
    """The confidence sequence of a quantile: (low, high) at the looks; infinite while the sample is too small to bound it.

    Parameters
    ----------
    values
        Shape (..., n), in the order seen; infinity is allowed (a request without an answer).
    looks
        Sample sizes to look at, 1..n each; default: all of it, once.

    Returns
    -------
    tuple[Array, Array]
        Shape (..., looks) each.

    Raises
    ------
    BadInput
        A value that is not a number, or a look outside 1..n.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim == 0 or np.isnan(x).any():
        raise BadInput("a quantile's sequence needs a row of numbers; a time that is not known is no time.")
    sizes = [x.shape[-1]] if looks is None else list(looks)
    if any(not 1 <= size <= x.shape[-1] for size in sizes):
        raise BadInput(f"looks {sizes} at {x.shape[-1]} observations: a look is a number of observations that are there.")
    low_rank, high_rank = quantile_ranks(sizes, q, alpha, strength=strength)
    shape = (*x.shape[:-1], len(sizes))
    low, high = np.full(shape, -np.inf), np.full(shape, np.inf)
    for place, size in enumerate(sizes):
        ordered = np.sort(x[..., :size], axis=-1)
        if low_rank[place] >= 1:
            low[..., place] = ordered[..., low_rank[place] - 1]
        if high_rank[place] <= size:
            high[..., place] = ordered[..., high_rank[place] - 1]
    return low, high


def _first(size: npt.NDArray[np.int64], holds: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.bool_]]) -> npt.NDArray[np.int64]:
    """The smallest count 0..size for which a monotone condition holds; ``size + 1`` where none does."""
    low, high = np.zeros_like(size), size + 1
    while (low < high).any():
        middle = (low + high) // 2
        good = holds(np.minimum(middle, size)) & (middle <= size)
        going = low < high
        low, high = np.where(going & ~good, middle + 1, low), np.where(going & good, middle, high)
    return np.asarray(low, dtype=np.int64)
