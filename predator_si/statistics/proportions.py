"""Counts: one proportion, two proportions, and whether traffic was split as intended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from predator_si.errors import BadInput
from predator_si.records import Interval
from predator_si.statistics.sample import check_share

_EXACT_TOTAL = 100_000


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


def two_proportion(control_successes: int, control_n: int, treated_successes: int, treated_n: int, confidence: float = 0.95) -> Interval:
    """Treated minus control proportion: Newcombe's hybrid score interval (1998, method 10) and Fisher's exact two-sided p-value.

    Raises
    ------
    BadInput
        A side that is not a proportion.
    """
    from scipy.stats import fisher_exact

    control, treated = wilson(control_successes, control_n, confidence), wilson(treated_successes, treated_n, confidence)
    estimate = treated.estimate - control.estimate
    low = estimate - float(np.hypot(treated.estimate - treated.low, control.high - control.estimate))
    high = estimate + float(np.hypot(treated.high - treated.estimate, control.estimate - control.low))
    table = [[control_successes, control_n - control_successes], [treated_successes, treated_n - treated_successes]]
    return Interval(estimate=estimate, low=low, high=high, p_value=float(fisher_exact(table).pvalue), n=control_n + treated_n)


def sample_ratio_p(counts: Sequence[int], shares: Sequence[float]) -> float:
    """How well arm sizes fit the intended split: p-value of the sample-ratio check (Fabijan et al. 2019, KDD, who act below .001).

    Exact binomial for two arms up to 100,000 units in all, else Pearson's chi-squared.

    Parameters
    ----------
    counts
        Units (clients, where clients were assigned) per arm.
    shares
        Intended shares, positive; scaled to sum 1.

    Raises
    ------
    BadInput
        Different lengths, fewer than two arms, no units at all, or a share that is not positive.
    """
    from scipy.stats import binomtest, chisquare

    if len(counts) != len(shares) or len(counts) < 2 or min(shares) <= 0.0:
        raise BadInput(f"sample ratio needs one positive share per arm and two arms or more; got counts {list(counts)} and shares {list(shares)}.")
    total = sum(counts)
    if total < 1 or min(counts) < 0:
        raise BadInput(f"sample ratio of {list(counts)}: there are no units to compare with the split {list(shares)}.")
    if len(counts) == 2 and total <= _EXACT_TOTAL:
        return float(binomtest(counts[0], total, shares[0] / sum(shares)).pvalue)
    return float(chisquare(counts, [total * share / sum(shares) for share in shares]).pvalue)
