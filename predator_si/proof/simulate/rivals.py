"""What others do, on the same lives: the guide's rule, a fixed-N test that is peeked at, a Mann-Whitney canary judge.

What belongs here: other people's decision rules, vectorised over lives. What must not: ours.

- ``guide``: roll back when the new model's mean is below the old one's (`new_ndcg < baseline_ndcg`), when P95 is above its limit, when the failure rate is
  above its limit: points, no spread. Promote otherwise.
- ``z_peeking``: a one-sided z-test at 5%, made for one look, at every check.
- ``mann_whitney``: the judge of Spinnaker's Kayenta (its NetflixACAJudge): a metric is bad when the 98% interval of the shift between both samples lies
  beyond a quarter of the Hodges-Lehmann estimate on the bad side; made for one look, at every check, the samples taken as independent. The interval is that of
  order statistics of all pairwise differences (Hollander, Wolfe and Chicken 2014, section 4.3), without ties' correction.

Arrays have shape (lives, observations); ``looks`` are numbers of observations. Answers are how much was seen when the rule first called it bad.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from predator_si.proof.simulate.counting import first_true
from predator_si.proof.simulate.world import Floats

Firsts = npt.NDArray[np.int64]
Z_LEVEL = 1.6448536269514722
"""Normal quantile of one-sided 5%."""
_Z_MANN_WHITNEY = 2.3263478740408408
_TOLERANCE = 0.25


def guide_ndcg(old: Floats, new: Floats, looks: Sequence[int]) -> Firsts:
    """The new mean is below the old one."""
    gap = np.stack([(new[:, :n] - old[:, :n]).sum(axis=1) for n in looks], axis=1)
    return first_true(gap < -1e-12, np.asarray(looks))


def guide_share(bad: npt.NDArray[np.bool_], limit: float, looks: Sequence[int]) -> Firsts:
    """More than a share ``limit`` is bad: failures, or requests above the P95 limit (5% of them)."""
    share = np.stack([bad[:, :n].mean(axis=1) for n in looks], axis=1)
    return first_true(share > limit, np.asarray(looks))


def z_mean(values: Floats, looks: Sequence[int], side: float) -> Firsts:
    """The z-test finds a mean below (``side`` -1) or above (+1) zero."""
    hits = []
    for n in looks:
        part = values[:, :n]
        spread = part.std(axis=1, ddof=1)
        z = np.divide(side * part.mean(axis=1) * np.sqrt(n), spread, out=np.zeros(part.shape[0]), where=spread > 0)
        hits.append(z > Z_LEVEL)
    return first_true(np.stack(hits, axis=1), np.asarray(looks))


def z_share(bad: npt.NDArray[np.bool_], limit: float, looks: Sequence[int]) -> Firsts:
    """The z-test of one proportion finds it above ``limit``."""
    hits = [(bad[:, :n].mean(axis=1) - limit) / np.sqrt(limit * (1.0 - limit) / n) > Z_LEVEL for n in looks]
    return first_true(np.stack(hits, axis=1), np.asarray(looks))


def mann_whitney(old: Floats, new: Floats, looks: Sequence[int], *, lower_is_bad: bool) -> Firsts:
    """The judge calls the new sample low (or high, where high is bad). Values come from a finite table, so the pairwise differences are counted by value."""
    values, codes = np.unique(np.concatenate([old, new], axis=1), return_inverse=True)
    codes = codes.reshape(old.shape[0], -1)
    pairs, place = np.unique(values[:, None] - values[None, :], return_inverse=True)
    order = np.argsort(place.reshape(-1), kind="stable")
    starts = np.searchsorted(place.reshape(-1)[order], np.arange(pairs.size))
    found = np.full((old.shape[0], len(looks)), False)
    for life in range(old.shape[0]):
        for column, n in enumerate(looks):
            first = np.bincount(codes[life, :n], minlength=values.size)
            second = np.bincount(codes[life, old.shape[1] : old.shape[1] + n], minlength=values.size)
            mass = np.add.reduceat(np.outer(second, first).reshape(-1)[order], starts)
            below = np.cumsum(mass) / (n * n)
            half = _Z_MANN_WHITNEY * np.sqrt((2 * n + 1) / (12.0 * n * n))
            estimate, low, high = (pairs[min(int(np.searchsorted(below, share)), pairs.size - 1)] for share in (0.5, 0.5 - half, 0.5 + half))
            found[life, column] = high < -_TOLERANCE * abs(estimate) if lower_is_bad else low > _TOLERANCE * abs(estimate)
    return first_true(found, np.asarray(looks))
