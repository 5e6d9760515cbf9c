"""One total over another, when both come from the same dependent units."""

from __future__ import annotations

import numpy as np

from predator_si.errors import BadInput
from predator_si.records import Interval
from predator_si.statistics.sample import Labels, Numbers, check_share, finite


def ratio_interval(numerators: Numbers, denominators: Numbers, confidence: float = 0.95, cluster: Labels | None = None) -> Interval:
    """``sum(numerators) / sum(denominators)`` with the interval of its linearisation over clusters (Cochran 1977, section 6.3; Deng et al. 2018).

    Parameters
    ----------
    numerators, denominators
        One of each per observation; the denominators add up to more than 0.
    cluster
        One label per observation where observations depend on each other (requests of one client).

    Raises
    ------
    BadInput
        Lengths differ, fewer than two observations or clusters, a number that is not finite, or denominators that add up to nothing.
    """
    from scipy.stats import t

    check_share(confidence, "confidence")
    top, bottom = finite(numerators, "ratio", 2), finite(denominators, "ratio", 2)
    if top.shape != bottom.shape or (cluster is not None and len(cluster) != top.size):
        raise BadInput(f"ratio: {top.size} numerators, {bottom.size} denominators and their clusters must be as many.")
    if not bottom.sum() > 0.0:
        raise BadInput("ratio: the denominators add up to nothing, so there is no ratio; report it as unknown.")
    n = int(top.size)
    if cluster is not None:
        _, index = np.unique(np.asarray(cluster), return_inverse=True)
        top, bottom = (np.bincount(index, weights=x).astype(np.float64) for x in (top, bottom))
        if top.size < 2:
            raise BadInput(f"ratio: all {n} observations belong to one cluster, so nothing says how clusters differ; collect from at least two.")
    estimate = float(top.sum() / bottom.sum())
    error = float(np.sqrt(top.size / (top.size - 1) * ((top - estimate * bottom) ** 2).sum()) / bottom.sum())
    half = float(t.ppf((1.0 + confidence) / 2.0, top.size - 1)) * error
    return Interval(estimate=estimate, low=estimate - half, high=estimate + half, n=n)
