"""Choosing among candidates, with a correction for having looked at several.

What belongs here: the rule, on per-query scores that the caller measured. What must not: measuring, training, verdicts about promotion (``release``).

The best of k equal candidates looks better than any of them is. The rule compares each with the simplest candidate, the one that changes least, on the same
queries. What the best gain would be by luck is known from the bootstrap of the centred differences (White's Reality Check, Econometrica 2000): the simplest
stays unless the best gain exceeds what luck gives on average by one standard error of it (the one-standard-error rule of Breiman et al. 1984, towards the
least change), and the gain that is reported is less by what luck gives to those that pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from predator_si.errors import BadInput
from predator_si.records import Record

_CHUNK = 4_000_000


@dataclass(frozen=True)
class Scored:
    """A candidate with its score on each query, in one order of queries for all.

    Attributes
    ----------
    change
        The smallest is the default, here called the simplest: by how far a candidate is from what is served now, or by an order fixed before anything was seen.
    scores
        One per query, higher is better.
    """

    name: str
    change: float
    scores: npt.NDArray[np.float64]


class Standing(Record):
    """One candidate as it was seen: mean score, mean gain over the simplest, and the standard error of that gain."""

    name: str
    change: float
    mean: float
    gain: float
    error: float


class Choice(Record):
    """What was chosen and what it may be said to have gained.

    Attributes
    ----------
    observed_gain
        Of the best candidate over the simplest one, as seen.
    bar
        What the observed gain had to exceed: the mean of the best gain among equal candidates plus one standard error.
    luck
        The mean of the best gain among equal candidates that exceed the bar.
    gain
        What may be reported: 0 when the simplest was chosen, else ``observed_gain - luck``. Over equal candidates its expectation is 0.
    p_value
        Share of worlds of equal candidates in which the best looks at least as good; 1 where there is one candidate.
    """

    chosen: str
    simplest: str
    observed_gain: float
    bar: float
    luck: float
    gain: float
    p_value: float
    n_queries: int
    standings: list[Standing]
    reason: str


def choose(candidates: Sequence[Scored], *, seed: int = 0, resamples: int = 4_000) -> Choice:
    """The candidate to go on with.

    Parameters
    ----------
    candidates
        At least one, each scored on the same two or more queries.

    Raises
    ------
    BadInput
        No candidate, two of one name, numbers of queries that differ or are below two, or a score that is not finite.
    """
    names = [candidate.name for candidate in candidates]
    if not names or len(set(names)) != len(names):
        raise BadInput(f"choosing needs candidates of different names, not {names}.")
    sizes = {len(candidate.scores) for candidate in candidates}
    if len(sizes) != 1 or min(sizes) < 2:
        raise BadInput(f"candidates {', '.join(names)} were scored on {sorted(sizes)} queries; score all on the same two or more.")
    if not all(np.isfinite(candidate.scores).all() for candidate in candidates):
        raise BadInput(f"candidates {', '.join(names)}: a score is not a number. Score them again.")
    simplest = min(candidates, key=lambda candidate: candidate.change)
    others = [candidate for candidate in candidates if candidate is not simplest]
    differences = np.stack([other.scores - simplest.scores for other in others], axis=1) if others else np.zeros((min(sizes), 0))
    n, standings = len(differences), [_standing(candidate, simplest) for candidate in candidates]
    if not others:
        reason = f"{simplest.name} is the only candidate"
        return Choice(
            chosen=simplest.name, simplest=simplest.name, observed_gain=0, bar=0, luck=0, gain=0, p_value=1, n_queries=n, standings=standings, reason=reason
        )
    gains = differences.mean(axis=0)
    best, observed = others[int(np.argmax(gains))], float(gains.max())
    lucky = _best_by_luck(differences - gains, seed, resamples)
    bar = float(lucky.mean() + lucky.std())
    beyond = lucky[lucky > bar]
    luck = float(beyond.mean()) if beyond.size else bar
    taken = observed > bar
    seen = f"{best.name} gains {observed:+.4f} over {simplest.name} on {n} queries; luck among {len(candidates)} equals gives {lucky.mean():+.4f}"
    return Choice(
        chosen=best.name if taken else simplest.name,
        simplest=simplest.name,
        observed_gain=observed,
        bar=bar,
        luck=luck,
        gain=observed - luck if taken else 0.0,
        p_value=float((1 + (lucky >= observed).sum()) / (1 + resamples)),
        n_queries=n,
        standings=standings,
        reason=f"{seen}, the bar is {bar:+.4f}: {'taken' if taken else f'{simplest.name} stays'}",
    )


def _standing(candidate: Scored, simplest: Scored) -> Standing:
    gain = candidate.scores - simplest.scores
    error = float(gain.std(ddof=1) / np.sqrt(len(gain)))
    return Standing(name=candidate.name, change=candidate.change, mean=float(candidate.scores.mean()), gain=float(gain.mean()), error=error)


def _best_by_luck(centred: npt.NDArray[np.float64], seed: int, resamples: int) -> npt.NDArray[np.float64]:
    """The largest mean gain in each of ``resamples`` worlds where no candidate differs; queries are drawn whole: candidates stay as alike as they are."""
    rng, n = np.random.default_rng(seed), len(centred)
    found = np.empty(resamples)
    step = max(1, _CHUNK // centred.size)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        found[start : start + rows] = centred[rng.integers(n, size=(rows, n))].mean(axis=1).max(axis=1)
    return found
