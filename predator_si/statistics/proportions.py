"""Counts: one proportion at one look."""

from __future__ import annotations

import numpy as np

from predator_si.errors import BadInput
from predator_si.records import Interval
from predator_si.statistics.sample import check_share


def _check(successes: int, n: int) -> None:
    if n < 1 or not 0 <= successes <= n:
        raise BadInput(f"{successes} of {n} is not a proportion; it needs n >= 1 and 0 <= successes <= n.")


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """A proportion with Wilson's score interval (1927), which stays sensible at 0 and 1 and at small n (Brown, Cai and DasGupta 2001).

    Raises
    ------
    BadInput
        ``n`` below 1 or ``successes`` outside 0..n.
    """
    from scipy.special import ndtri

    _check(successes, n)
    check_share(confidence, "confidence")
    z = float(ndtri((1.0 + confidence) / 2.0))
    share, weight = successes / n, 1.0 + z * z / n
    centre = (share + z * z / (2 * n)) / weight
    half = z / weight * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    # Exactly 0 and 1 at the ends: the formula gives them up to rounding.
    return Interval(estimate=share, low=0.0 if successes == 0 else centre - half, high=1.0 if successes == n else centre + half, n=n)
