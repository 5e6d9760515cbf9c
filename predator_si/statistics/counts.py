"""Evidence from counts, looked at at any time: rates against a limit, wins of two rankings, traffic that was not split as intended.

What belongs here: beta-binomial and Dirichlet-multinomial mixtures. What must not: tests for one look (``proportions``), what is counted and why.

Where every observation counts one: the likelihood ratio of a mixture over the alternatives against the null is an e-process (Robbins 1970; Howard, Ramdas,
McAuliffe and Sekhon 2021, Annals of Statistics 49; for arms Lindon and Malek 2022, "Anytime-valid inference for multinomial count data", NeurIPS). One-sided
questions mix over the alternatives on that side only, which keeps it valid for every rate on the null side, not only at the limit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from predator_si.errors import BadInput
from predator_si.statistics.evidence import Alternative, Array, ArrayLike, needed

STRENGTH = 100.0
"""Pseudo-trials of the prior about the limit: alternatives within a few times the limit (or a tenth of a half) are found soonest."""
_BISECTIONS = 60


def rate_log_e(successes: ArrayLike, n: ArrayLike, limit: float, *, alternative: Alternative = "greater", strength: float = STRENGTH) -> Array:
    """Evidence that a rate lies above (below, off) ``limit``: failures, slow requests, wins of one ranking over another.

    The prior is a beta distribution of mean ``limit`` worth ``strength`` trials, cut to the side of the alternative.

    Parameters
    ----------
    successes, n
        Counts so far, arrays of one shape (..., looks), or numbers. Without trials the evidence is 0.
    limit
        0..1 exclusive. Wins without ties: .5. Failures of two arms that fall on the treated one: :func:`treated_share`.

    Returns
    -------
    Array
        ``log_e`` of the same shape.

    Raises
    ------
    BadInput
        Counts that cannot be, a ``limit`` or ``strength`` out of range.
    """
    from scipy.special import betainc, betaincc, betaln

    k, size = _counts(successes, n)
    if not 0.0 < limit < 1.0 or not strength > 0.0:
        raise BadInput(f"rate test against {limit} with a prior of {strength} trials: the limit lies between 0 and 1, the prior is positive.")
    a, b = strength * limit, strength * (1.0 - limit)
    log_e = betaln(a + k, b + size - k) - betaln(a, b) - k * np.log(limit) - (size - k) * np.log1p(-limit)
    if alternative != "two-sided":
        tail = betaincc if alternative == "greater" else betainc
        with np.errstate(divide="ignore"):
            log_e = log_e + np.log(tail(a + k, b + size - k, limit)) - np.log(tail(a, b, limit))
    return np.asarray(np.where(size > 0, log_e, 0.0), dtype=np.float64)


def rate_sequence(successes: ArrayLike, n: ArrayLike, alpha: float, *, prior: tuple[float, float] = (0.5, 0.5)) -> tuple[Array, Array]:
    """The confidence sequence of a rate: (low, high) at each look, all at once true with probability ``1 - alpha``.

    The rates whose likelihood is not ``1 / alpha`` times less than the beta-binomial mixture's with ``prior`` (Robbins 1970; Waudby-Smith and Ramdas 2020,
    "Confidence sequences for sampling without replacement", section 1). Without trials 0..1.

    Raises
    ------
    BadInput
        Counts that cannot be, or a prior that is not positive.
    """
    from scipy.special import betaln, xlog1py, xlogy

    k, size = _counts(successes, n)
    if min(prior) <= 0.0:
        raise BadInput(f"rate sequence: the prior {prior} must be two positive numbers.")
    marginal = betaln(prior[0] + k, prior[1] + size - k) - betaln(*prior) - needed(alpha)
    best = k / np.maximum(size, 1.0)

    def edge(outer: float) -> Array:
        inside, outside = best.copy(), np.full_like(best, outer)
        for _ in range(_BISECTIONS):
            middle = 0.5 * (inside + outside)
            kept = xlogy(k, middle) + xlog1py(size - k, -middle) > marginal
            inside, outside = np.where(kept, middle, inside), np.where(kept, outside, middle)
        return np.asarray(outside, dtype=np.float64)

    low = np.where(k > 0, edge(0.0), 0.0)
    high = np.where(k < size, edge(1.0), 1.0)
    return np.where(size > 0, low, 0.0), np.where(size > 0, high, 1.0)


def treated_share(split: float, ratio: float = 1.0) -> float:
    """Share of rare events that fall on the treated arm while its rate is ``ratio`` times the control's: the ``limit`` for two arms.

    Each event of either arm is then one trial, and one on the treated arm a success (the conditional test of Przyborowski and Wilenski 1940, kept at every
    look).

    Parameters
    ----------
    split
        Share of the requests that go to the treated arm, 0..1 exclusive.
    ratio
        Rate of the treated arm over that of the control that is still allowed.

    Raises
    ------
    BadInput
        A split or ratio out of range.
    """
    if not 0.0 < split < 1.0 or not ratio > 0.0:
        raise BadInput(f"share of events at split {split} and rate ratio {ratio}: the split lies between 0 and 1, the ratio is positive.")
    return split * ratio / (split * ratio + 1.0 - split)


def sample_ratio_log_e(counts: ArrayLike, shares: Sequence[float], *, strength: float = STRENGTH) -> Array:
    """Evidence that units were not split over the arms as intended (Lindon and Malek 2022, equation 5, with a Dirichlet prior of mean ``shares``).

    Parameters
    ----------
    counts
        Units (clients, where clients were assigned) per arm so far, shape (..., arms).
    shares
        Intended shares, positive; scaled to sum 1.
    strength
        Pseudo-units of the prior.

    Returns
    -------
    Array
        ``log_e`` of shape (...); 0 without units.

    Raises
    ------
    BadInput
        Fewer than two arms, another number of shares, negative or unknown counts, or a share that is not positive.
    """
    from scipy.special import gammaln

    seen = np.asarray(counts, dtype=np.float64)
    if seen.ndim == 0 or seen.shape[-1] != len(shares) or len(shares) < 2 or min(shares) <= 0.0 or not strength > 0.0:
        raise BadInput(f"sample ratio: shares {list(shares)} for counts of shape {seen.shape}; give one positive share per arm, two arms or more.")
    if not np.isfinite(seen).all() or (seen < 0).any():
        raise BadInput("sample ratio: a count is negative or unknown; count again.")
    share = np.asarray(shares, dtype=np.float64) / sum(shares)
    prior = strength * share
    mixed = (gammaln(prior + seen) - gammaln(prior)).sum(axis=-1) + gammaln(strength) - gammaln(strength + seen.sum(axis=-1))
    return np.asarray(mixed - (seen * np.log(share)).sum(axis=-1), dtype=np.float64)


def _counts(successes: ArrayLike, n: ArrayLike) -> tuple[Array, Array]:
    k, size = np.broadcast_arrays(np.asarray(successes, dtype=np.float64), np.asarray(n, dtype=np.float64))
    if not (np.isfinite(k).all() and np.isfinite(size).all()) or (k < 0).any() or (k > size).any():
        raise BadInput("counts: a number of events is negative, unknown or above its number of trials; count what happened among what could.")
    return k, size
