"""Is it better, is it at least not worse: one paired comparison against a margin, with its answer.

What belongs here: superiority and non-inferiority of a mean difference at one look. What must not: which metric has
which margin (``release.decide``, ``experiment``), sequential answers (``mixture``, ``betting``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from predator_si.errors import BadInput
from predator_si.statistics.intervals import bootstrap_mean_interval, bootstrap_t_interval
from predator_si.statistics.paired import sign_flip_test
from predator_si.statistics.power import resolvable_effect
from predator_si.statistics.sample import Labels, Numbers, check_share, cluster_totals

Standing = Literal["superior", "non_inferior", "inferior", "inconclusive", "unknown"]


@dataclass(frozen=True)
class MarginVerdict:
    """What a paired sample shows about a mean difference.

    Attributes
    ----------
    standing
        ``superior``: above zero. ``non_inferior``: above ``-margin``, not shown to be above zero. ``inferior``: below ``-margin``. ``inconclusive``: none of
        them shown. ``unknown``: the sample cannot show anything; ``reason`` says why.
    estimate, low, high
        Mean difference and its interval at ``confidence``; null where unknown.
    p_superior
        One-sided p-value against "not above zero", to be compared with ``alpha``.
    resolvable
        The true difference that a sample like this shows to be above zero with probability .8: "this set can resolve X points".
    """

    standing: Standing
    reason: str
    margin: float
    alpha: float
    confidence: float
    n: int
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    p_superior: float | None = None
    resolvable: float | None = None


def judge_difference(
    differences: Numbers,
    margin: float = 0.0,
    alpha: float = 0.025,
    *,
    confidence: float = 0.95,
    method: Literal["bca", "bootstrap_t"] = "bca",
    cluster: Labels | None = None,
    seed: int = 0,
    resamples: int = 10_000,
) -> MarginVerdict:
    """Superiority and non-inferiority of paired differences at once, as ``release.decide`` asks for them.

    Superior: the sign-flip test says so at ``alpha`` (a candidate's share of a month's error, say), and the whole interval lies above zero. Non-inferior: it
    lies above ``-margin``. The questions are nested, so that asking both costs nothing (Morikawa and Yoshida 1995).

    Parameters
    ----------
    differences
        New minus old, one per query.
    margin
        How much lower the mean may be and still not count as worse, >= 0.
    alpha
        One-sided, of superiority.
    confidence
        Of the interval, two-sided: non-inferiority is claimed at half of what is left.
    method
        Of the interval: BCa, or the studentised bootstrap where units are few and skewed.
    cluster
        One label per difference where they depend on each other (queries of one client, of one template).

    Raises
    ------
    BadInput
        A negative margin, an ``alpha`` or ``confidence`` out of range, or a difference that is not a finite number.
    """
    check_share(2.0 * alpha, "twice alpha")
    check_share(confidence, "confidence")
    if not margin >= 0.0:
        raise BadInput(f"margin {margin}: give how much lower the mean may be, 0 or more.")
    array = np.asarray(differences, dtype=np.float64).reshape(-1)
    why = _nothing_to_judge(array, cluster)
    if why is not None:
        return MarginVerdict("unknown", why, margin, alpha, confidence, int(array.size))
    bounds = bootstrap_mean_interval if method == "bca" else bootstrap_t_interval
    found = bounds(array, seed=seed, n_boot=resamples, confidence=confidence, cluster=cluster)
    both_sides = sign_flip_test(array, seed=seed, n_flips=resamples, cluster=cluster)
    p = both_sides / 2.0 if found.estimate > 0.0 else 1.0 - both_sides / 2.0
    sums, sizes = cluster_totals(array, cluster, "margin")
    spread = float(np.sqrt(((sums - sizes * found.estimate) ** 2).sum() / (sums.size - 1)) / sizes.mean())
    standing: Standing = "inconclusive"
    if p <= alpha and found.low > 0.0:
        standing = "superior"
    elif found.low > -margin:
        standing = "non_inferior"
    elif found.high < -margin:
        standing = "inferior"
    said = f"{found.estimate:+.4f}, {confidence:.0%} interval {found.low:+.4f} to {found.high:+.4f}, margin {margin:g}, p = {p:.2g}, n={array.size}"
    resolvable = resolvable_effect(sums.size, spread, alpha=alpha)
    return MarginVerdict(standing, said, margin, alpha, confidence, int(array.size), found.estimate, found.low, found.high, p, resolvable)


def power_sentence(n: int, sd: float | None, alpha: float = 0.05, power: float = 0.8, *, unit: str = "NDCG@10") -> str:
    """What a set of this size and spread can show, in words: "this set of 150 queries can resolve 5.1 points of NDCG@10 ...".

    Parameters
    ----------
    sd
        Standard deviation of the per-query difference, 0..1 scale; null or 0 where none was seen.
    alpha
        One-sided.
    """
    if n < 2 or sd is None or not sd > 0.0:
        return f"nobody can say what this set of {n} queries can resolve: no spread of the differences was seen"
    points = 100.0 * resolvable_effect(n, sd, alpha=alpha, power=power)
    return f"this set of {n} queries can resolve {points:.1f} points of {unit} (one-sided {alpha:.3g}, power {power:.0%})"


def _nothing_to_judge(array: np.ndarray[tuple[int, ...], np.dtype[np.float64]], cluster: Labels | None) -> str | None:
    if array.size and not np.isfinite(array).all():
        raise BadInput(f"margin: {int((~np.isfinite(array)).sum())} of {array.size} differences are not finite numbers; find where they come from.")
    units = array.size if cluster is None else len(set(np.asarray(cluster).tolist()))
    if units < 2:
        return f"{units} independent differences; at least two are needed to see how they differ"
    if np.ptp(array) == 0.0:
        return f"all {array.size} differences are {array[0]:+.4f}: no spread was seen, so nothing says how sure that is"
    return None
