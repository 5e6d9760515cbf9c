"""Two systems on the same queries: the difference, how sure it is, and whether chance explains it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from predator_si.records import Interval
from predator_si.statistics.intervals import bootstrap_mean_interval
from predator_si.statistics.sample import Labels, Numbers, cluster_totals, finite

_CHUNK = 4_000_000
_EXACT_UNITS = 13
_NORMAL_UNITS = 20_000


def paired_interval(differences: Numbers, seed: int = 0, n_boot: int = 10_000, confidence: float = 0.95, cluster: Labels | None = None) -> Interval:
    """Mean per-query difference with its BCa bootstrap interval and the two-sided sign-flip p-value.

    The interval is :func:`~predator_si.statistics.bootstrap_mean_interval`'s, the p-value :func:`sign_flip_test`'s. Near the border they
    may disagree by a rounding: they are two procedures. Decide by one of them, named beforehand.

    Parameters
    ----------
    differences
        Challenger minus champion, one per query (n >= 2); a query that one side lacks counts with that side's 0, it is never dropped.
    seed, n_boot, confidence
        Of the resampling; ``n_boot`` is also the number of sign flips.
    cluster
        One label per difference where queries depend on each other (paraphrases, one user).

    Raises
    ------
    BadInput
        Fewer than two differences or clusters, or one that is not finite.
    """
    interval = bootstrap_mean_interval(differences, seed=seed, n_boot=n_boot, confidence=confidence, cluster=cluster)
    return interval.model_copy(update={"p_value": sign_flip_test(differences, seed=seed, n_flips=n_boot, cluster=cluster)})


def sign_flip_test(differences: Numbers, seed: int = 0, n_flips: int = 10_000, cluster: Labels | None = None) -> float:
    """Two-sided p-value of the mean under random signs (Fisher's randomisation test; for ranking: Smucker, Allan and Carterette 2007).

    ``(1 + flips at least as extreme) / (1 + flips)``, which is never 0 and keeps its level (Phipson and Smyth 2010). Up to 13 nonzero
    units all sign patterns are counted exactly; above 20,000 the sum of random signs is taken as normal. Where no flip was as extreme, Hoeffding's bound of the
    flips' tail, ``2 exp(-sum^2 / (2 sum of squares))`` (1963, theorem 2), is taken if it is smaller than ``1 / (1 + flips)``: a small level needs no more
    flips, and the level is kept, because below ``1 / (1 + flips)`` the bound alone speaks. With ``cluster`` a cluster's differences flip together.

    Raises
    ------
    BadInput
        No differences, or one that is not finite.
    """
    sums, _ = cluster_totals(finite(differences, "sign-flip test", 1), cluster, "sign-flip test")
    moved = sums[sums != 0.0]  # the sign of a zero changes nothing
    if moved.size == 0:
        return 1.0
    observed = abs(moved.sum())
    border = observed - 1e-12 * np.abs(moved).sum()  # sums of the same numbers in another order differ by rounding: they are ties
    if moved.size <= _EXACT_UNITS:
        patterns = (np.arange(2**moved.size)[:, None] >> np.arange(moved.size)) & 1
        return float((np.abs(_signed(patterns, moved)) >= border).mean())
    if moved.size > _NORMAL_UNITS:
        from scipy.special import ndtr

        return float(2.0 * ndtr(-observed / np.sqrt((moved**2).sum())))
    rng, extreme = np.random.default_rng(seed), 0
    step = max(1, _CHUNK // moved.size)
    for start in range(0, n_flips, step):
        rows = min(step, n_flips - start)
        bits = np.unpackbits(rng.integers(0, 256, size=(rows, -(-moved.size // 8)), dtype=np.uint8), axis=1, count=moved.size)
        extreme += int((np.abs(_signed(bits, moved)) >= border).sum())
    p = (1 + extreme) / (1 + n_flips)
    return p if extreme else min(p, 2.0 * math.exp(-0.5 * float(observed) ** 2 / float((moved**2).sum())))


def _signed(bits: npt.NDArray[np.integer], values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(2.0 * (bits.astype(np.float64) @ values) - values.sum(), dtype=np.float64)
