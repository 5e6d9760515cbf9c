"""What the counts and means of two arms show at each look, as arrays: asked by ``changes`` for one trial, and by ``proof.simulate`` for thousands at once.

What belongs here: evidence against its level. What must not: events, frames, estimates for people.

Each array has the looks on its last axis. An answer that was shown at one look stays shown: whoever asks takes ``any`` or the first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from predator_si.statistics.counts import rate_log_e, rate_sequence, treated_share
from predator_si.statistics.design import Design
from predator_si.statistics.evidence import Alternative, Array, ArrayLike, claims
from predator_si.statistics.mixture import estimate_log_e, prior_size
from predator_si.statistics.quantiles import quantile_sequence

EVENTS_STRENGTH = 10.0
"""Pseudo-events of the prior on whose arm a failure falls: failures are few, and a broken model takes nearly all of them."""
FIRST = 60
"""Answered requests that say what slow is."""
LOOKS = 24
"""Points of a path: any number would be allowed."""
LEAST_CLIENTS = 10
"""Effective clients of an arm below which nothing is said about its mean: with fewer the normal approximation is none."""
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Levels:
    """Chances of a wrong word, each over all looks, and what the sequences are tuned for.

    Attributes
    ----------
    design
        Of the contour.
    split
        The challenger's share of the requests.
    planned
        Requests of both arms for which the sequences are tightest.
    harm_alpha
        Of calling harm; the design's, divided where more than one question is asked.
    """

    design: Design
    split: float
    planned: int
    harm_alpha: float

    @property
    def prior(self) -> float:
        """Pseudo-requests of the sequences for means, on the scale ``n1 n2 / (n1 + n2)``."""
        return prior_size(self.design.non_inferiority_alpha, max(2.0, self.split * (1.0 - self.split) * self.planned), "greater")


def look_places(observations: int) -> npt.NDArray[np.int64]:
    """Which of so many observations, in the order of time, a look goes through: at most :data:`LOOKS`, equally far apart, the last one among them."""
    return np.unique(np.linspace(0, observations - 1, LOOKS + 1)[1:].round().astype(np.int64))


@dataclass(frozen=True)
class Proofs:
    """Whether each look shows the change to lie within the margin (``inside``), to be worse than none, worse than the margin, or better than none."""

    inside: Flags
    harm: Flags
    beyond: Flags
    better: Flags


def mean_proofs(means: Array, errors: Array, sizes: Array, margin: float, up: bool, levels: Levels) -> Proofs:
    """Of a mean: a margin relative to the champion's is tested on ``challenger - (1 + margin) champion``, so that the error of the champion's mean counts too.

    Parameters
    ----------
    means, errors, sizes
        Champion's and challenger's mean, its standard error (infinite: nothing is said) and requests, shape (2, ..., looks).
    margin
        Largest accepted change as a share of the champion's mean, with its sign.
    up
        Whether more is better.
    """
    size = sizes[0] * sizes[1] / np.maximum(sizes.sum(axis=0), 1.0)
    good: Alternative = "greater" if up else "less"
    bad: Alternative = "less" if up else "greater"

    def shown(factor: float, alternative: Alternative, alpha: float) -> Flags:
        change = means[1] - factor * means[0]
        found = estimate_log_e(
            np.where(np.isfinite(change), change, 0.0), np.hypot(errors[1], factor * errors[0]), size, 0.0, prior=levels.prior, alternative=alternative
        )
        return claims(found, alpha)

    return Proofs(
        inside=shown(1.0 + margin, good, levels.design.non_inferiority_alpha),
        harm=shown(1.0, bad, levels.harm_alpha),
        beyond=shown(1.0 + margin, bad, levels.harm_alpha),
        better=shown(1.0, good, levels.design.superiority_alpha),
    )


def failure_proofs(failed: Array, sizes: Array, margin: float, levels: Levels) -> Proofs:
    """Of the failure rate: the margin by two exact sequences of the rates, harm by whose failures they are.

    Parameters
    ----------
    failed, sizes
        Failures and requests of champion and challenger, shape (2, ..., looks).
    margin
        Largest accepted rise, in points of the rate.
    """

    def sides(alpha: float) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        return rate_sequence(failed[0], sizes[0], alpha / 2.0), rate_sequence(failed[1], sizes[1], alpha / 2.0)

    (low, _), (_, high) = sides(levels.design.non_inferiority_alpha)
    (_, over), (under, _) = sides(levels.harm_alpha)
    total, design = failed.sum(axis=0), levels.design
    return Proofs(
        inside=high - low < margin,
        harm=claims(events_log_e(failed[1], total, levels.split), levels.harm_alpha),
        beyond=under - over > margin,
        better=claims(events_log_e(failed[0], total, 1.0 - levels.split), design.superiority_alpha),
    )


def events_log_e(theirs: ArrayLike, events: ArrayLike, split: float) -> Array:
    """Evidence that more of the events (failures, slow requests) fall on an arm than its share ``split`` of the requests."""
    return rate_log_e(theirs, events, treated_share(split), strength=EVENTS_STRENGTH)


def slow_limit(first: Array) -> float:
    """Milliseconds above which a request is slow: the P95 of both arms' first :data:`FIRST` ones, which do not count."""
    return float(np.quantile(first, 0.95))


def p95_bounds(values: tuple[Array, Array], counts: npt.NDArray[np.int64], alpha: float, least: int) -> tuple[Array, Array, Array, Array]:
    """Bounds of the champion's P95 (low, high) and of the challenger's, all at once true with probability ``1 - alpha``; infinite below ``least`` requests.

    Parameters
    ----------
    values
        Each arm's milliseconds in the order of time.
    counts
        How many of them each look has, shape (2, looks).
    """
    found: list[Array] = []
    for own, sizes in zip(values, counts, strict=True):
        low, high = quantile_sequence(own, 0.95, alpha / 2.0, np.maximum(sizes, 1).tolist())
        found += [np.where(sizes >= least, low, -np.inf), np.where(sizes >= least, high, np.inf)]
    return found[0], found[1], found[2], found[3]


def p95_inside(values: tuple[Array, Array], counts: npt.NDArray[np.int64], margin: float, levels: Levels, least: int) -> Flags:
    """At which looks the challenger's P95 is shown to lie within ``margin`` of the champion's."""
    low, _, _, high = p95_bounds(values, counts, levels.design.non_inferiority_alpha, least)
    return np.asarray(np.where(low > 0, high - (1.0 + margin) * low, np.inf) < 0.0)
