"""Betting on the mean of a bounded variable: evidence without any assumption on its distribution, at any sample size.

What belongs here: e-processes for means of observations in ``low..high`` (paired NDCG differences in -1..1). What must not: means with
a normal approximation (``mixture``), change detection for ever (``change``).

Waudby-Smith and Ramdas (2024), "Estimating means of bounded random variables by betting", Journal of the Royal Statistical Society B 86: money grows by
``1 + bet (x - m)`` with each observation; while the mean is at most ``m`` no bettor gets rich. Here the money is divided over several constant bets, that is,
the mixture (their section on hedged and grid bettors; Cover's portfolio with a discrete prior): the end does not depend on the order of the observations, so
a replay of events that arrived in another order gives the same verdict. Observations need not be independent nor of one distribution: it is enough that each
mean given the past lies on the null side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from predator_si.errors import BadInput
from predator_si.statistics.evidence import Alternative, Array, ArrayLike

BETS = (0.05, 0.15, 0.4, 0.9)
"""Shares of the largest bet that cannot lose everything. Four cost at most log 4 = 1.4 of evidence and come near the best constant bet from 1/20 on."""


def bounded_mean_log_e(
    values: ArrayLike, null: float = 0.0, *, low: float = -1.0, high: float = 1.0, alternative: Alternative = "greater", bets: Sequence[float] = BETS
) -> Array:
    """Evidence after each observation that the mean is greater (less, other) than ``null``.

    Parameters
    ----------
    values
        Shape (..., n), in the order seen; each in ``low..high``.
    null
        The mean under the null hypothesis; where one-sided: or anything on the other side of it. Strictly between ``low`` and ``high``.
    bets
        Shares of the largest bet, each in 0..1; they divide the money equally, so that a bet named twice has twice as much.

    Returns
    -------
    Array
        ``log_e``, shape (..., n). ``two-sided`` is the mean of both one-sided processes.

    Raises
    ------
    BadInput
        A value outside ``low..high`` or not a number, a ``null`` that is not between them, or a bet outside 0..1.
    """
    x = _bounded(values, null, low, high, bets)
    if alternative == "two-sided":
        return np.asarray(np.logaddexp(_wealth(x, null, low, high, 1.0, bets), _wealth(x, null, low, high, -1.0, bets)) - np.log(2.0), dtype=np.float64)
    return _wealth(x, null, low, high, 1.0 if alternative == "greater" else -1.0, bets)


def _wealth(x: Array, null: float | Array, low: float, high: float, side: float, bets: Sequence[float]) -> Array:
    """Log of the mean money of the bettors after each observation; ``side`` +1 bets on more than ``null``, -1 on less."""
    room = null - low if side > 0 else high - null
    wealth = np.full(x.shape, -np.inf)
    for bet, times in sorted(Counter(bets).items()):
        np.logaddexp(wealth, np.cumsum(np.log1p(bet * side * (x - null) / room), axis=-1) + np.log(times / len(bets)), out=wealth)
    return wealth


def _bounded(values: ArrayLike, null: float, low: float, high: float, bets: Sequence[float]) -> Array:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim == 0:
        raise BadInput("a betting sequence needs a row of observations, one number is none.")
    if not low < null < high:
        raise BadInput(f"betting: the mean {null:g} must lie strictly between {low:g} and {high:g}, or nothing could be said about it.")
    if not bets or min(bets) <= 0.0 or max(bets) >= 1.0:
        raise BadInput(f"betting: the bets {tuple(bets)} must be shares strictly between 0 and 1; a bet of 1 can lose everything.")
    if x.size and not (np.isfinite(x).all() and x.min() >= low and x.max() <= high):
        raise BadInput(f"betting: an observation is not a number in {low:g}..{high:g}; find where it comes from, do not drop or cut it.")
    return x
