"""Lives of candidates before a release: how often one that is no better is promoted, how often and how soon one that is better is.

What belongs here: many candidates through the offline rule (``statistics.judge_difference`` at the level of one candidate of a month) and through the
sequential test of superiority. What must not: a rule of our own about when to promote.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from predator_si.proof.simulate import rivals
from predator_si.proof.simulate.counting import NEVER, first_true, least_count, rate, times
from predator_si.proof.simulate.world import Floats, Population, divided, shares
from predator_si.statistics.budget import candidate_level
from predator_si.statistics.counts import rate_log_e
from predator_si.statistics.design import Design
from predator_si.statistics.evidence import needed
from predator_si.statistics.margins import judge_difference

OnProgress = Callable[[int, int], None]
RULES = ("guide", "z_peeking", "mann_whitney")
JUDGED = (150, 300, 600)
"""Judged queries of an evaluation: a small home, the demo's, a large one; candidates are divided over them."""
_PORTION = 250
_FEW = 4
_LOOKS = 12
_SCREEN = 0.9
"""Share of the level's normal quantile from which a candidate is given to the exact test; ``agreement`` looks whether any below it would have passed."""
POWER = 0.8
RATIO = 1.75
"""Largest number of observations that looking at any time may cost, over that of a test that may look once."""


def levels(design: Design) -> Floats:
    """What each planned candidate of a month may cost of the month's chance of a false promotion, in their order."""
    planned = design.promotion_candidates_per_month
    return np.array([candidate_level(number, design.promotion_alpha_per_month, planned) for number in range(1, planned + 1)])


def promoted(differences: Floats, alphas: Floats, *, screen: bool = True) -> npt.NDArray[np.bool_]:
    """Which candidates the offline rule calls superior, each at its own level.

    Parameters
    ----------
    differences
        Shape (candidates, queries).
    alphas
        One-sided, shape (candidates,).
    screen
        Whether candidates far from their level are told without the exact test.
    """
    from scipy.special import ndtri

    size = np.sqrt((differences**2).sum(axis=1))
    z = np.divide(differences.sum(axis=1), size, out=np.zeros(differences.shape[0]), where=size > 0)
    answer = np.zeros(differences.shape[0], dtype=bool)
    for place in np.flatnonzero(z > (-_SCREEN * ndtri(alphas) if screen else 0.0)):
        answer[place] = judge_difference(differences[place], alpha=float(alphas[place])).standing == "superior"
    return answer


def false_promotions(design: Design, found: Sequence[Population], *, months: int, seed: int, on_progress: OnProgress | None = None) -> dict[str, Any]:
    """Months of candidates that are no better than the champion.

    Every candidate draws a population of its own with a mean difference of exactly 0: candidates of a month are then independent, which makes the chance of
    at least one false promotion as large as it can be among positively dependent ones (a judged set that they share).

    Returns
    -------
    dict
        ``month`` and ``candidate``: :func:`~predator_si.proof.simulate.counting.rate`; ``judged``: by number of judged queries; ``rules``: both for the others.
    """
    rng, size, alphas = np.random.default_rng(seed), design.promotion_candidates_per_month, levels(design)
    lives = months * size
    ours = np.zeros(lives, dtype=bool)
    others = {rule: np.full(lives, -1, dtype=np.int8) for rule in RULES}
    judged = np.zeros(lives, dtype=np.int64)
    # A month's candidates come from different populations: lives are dealt in random order.
    order = rng.permutation(lives)
    done = 0
    for turn, (population, some) in enumerate(divided(found, lives, _PORTION)):
        queries = JUDGED[turn % len(JUDGED)]
        place = order[done : done + some]
        draw = population.draw(rng, (some, queries))
        old, new = population.old[draw], population.new[draw]
        ours[place], judged[place] = promoted(new - old, alphas[place % size]), queries
        for rule, answer in _by_rivals(old, new).items():
            others[rule][place[: answer.size]] = answer
        done += some
        if on_progress is not None:
            on_progress(done, lives)
    by_month = ours.reshape(months, size).any(axis=1)
    return {
        "month": rate(int(by_month.sum()), months),
        "candidate": rate(int(ours.sum()), lives),
        "judged": {str(n): rate(int(ours[judged == n].sum()), int((judged == n).sum())) for n in JUDGED if (judged == n).any()},
        "levels": alphas.tolist(),
        "rules": {rule: _months(answer, size) for rule, answer in others.items()},
    }


def _months(answer: npt.NDArray[np.int8], size: int) -> dict[str, Any]:
    """Of a rule that saw all candidates, or some: those that it saw are put together to months."""
    seen = answer[answer >= 0]
    months = seen.size // size
    by_month = seen[: months * size].reshape(months, size).any(axis=1)
    return {"candidate": rate(int(seen.sum()), seen.size), "month": rate(int(by_month.sum()), months) if months else None}


def _by_rivals(old: Floats, new: Floats) -> dict[str, npt.NDArray[np.bool_]]:
    """Promote what looks better: the guide by the means, the z-test and the Mann-Whitney judge at the first of twelve looks at which they say so."""
    looks = [max(2, old.shape[1] * (look + 1) // _LOOKS) for look in range(_LOOKS)]
    return {
        "guide": (new - old).sum(axis=1) > 1e-12,
        "z_peeking": rivals.z_mean(new - old, looks, 1.0) != NEVER,
        "mann_whitney": rivals.mann_whitney(new[:_FEW], old[:_FEW], looks, lower_is_bad=True) != NEVER,
    }


def offline_power(design: Design, found: Sequence[Population], effect: float, *, lives: int, seed: int) -> dict[str, Any]:
    """How often a candidate that is better by ``effect`` passes the offline rule, by number of judged queries; its place in the month is drawn."""
    rng, alphas = np.random.default_rng(seed), levels(design)
    passed: dict[int, list[int]] = {n: [0, 0] for n in JUDGED}
    for queries in JUDGED:
        for population, some in divided(found, lives // len(JUDGED), _PORTION):
            draw = population.draw(rng, (some, queries))
            passed[queries][0] += int(promoted(population.difference[draw], rng.choice(alphas, some)).sum())
            passed[queries][1] += some
    return {"effect": effect, "judged": {str(n): rate(*count) for n, count in passed.items() if count[1]}}


def interleaving_power(design: Design, found: Sequence[Population], effect: float, *, lives: int, horizon: int, seed: int) -> dict[str, Any]:
    """How soon a candidate that is better by ``effect`` wins in interleaved lists, looked at after every decided one, against a fixed-N test.

    A merged list is decided for the ranking that answers its query better; queries that both answer alike decide nothing and are not counted. The fixed-N test
    has the same level and, on each population, as many decided lists as give it a power of 80% (normal theory); it may look only once. The ratio compares
    the number by which 80% of our lives were done with that.

    Returns
    -------
    dict
        ``effect``, ``probability`` within the horizon, ``median``, ``p80``, ``fixed_n`` and ``ratio_to_fixed_n`` (medians over populations), ``ratio_worst``;
        ``undecidable``: populations with the better mean that win no majority, which interleaving cannot find.
    """
    rng, alpha = np.random.default_rng(seed), design.interleaving_alpha
    wins = least_count(lambda k, n: rate_log_e(k, n, 0.5, strength=design.interleaving_strength) >= needed(alpha), horizon)
    chances = [_chance(population) for population in found]
    decidable = [(population, chance) for population, chance in zip(found, chances, strict=True) if chance > 0.5]
    every: list[npt.NDArray[np.int64]] = []
    ratios, sizes = [], []
    for (_, chance), some in zip(decidable, shares(lives, len(decidable)), strict=True):
        fixed = _fixed_wins(chance, alpha)
        first = first_true(np.cumsum(rng.random((some, horizon)) < chance, axis=1) >= wins)
        every.append(first)
        if fixed <= horizon / RATIO and some:
            done = times(first)["p80"]
            ratios.append(math.inf if done is None else done / fixed)
            sizes.append(fixed)
    together = times(np.concatenate(every)) if every else times(np.full(1, NEVER))
    ratio, worst = (float(pick(ratios)) if ratios else math.inf for pick in (np.median, np.max))
    return {
        "effect": effect,
        "test": "interleaving",
        **{key: together[key] for key in ("probability", "probability_lower", "median", "p80", "p95", "lives")},
        "fixed_n": float(np.median(sizes)) if sizes else None,
        "ratio_to_fixed_n": ratio if math.isfinite(ratio) else None,
        "ratio_worst": worst if math.isfinite(worst) else None,
        "populations": len(decidable),
        "undecidable": len(found) - len(decidable),
        "horizon": horizon,
    }


def _chance(population: Population) -> float:
    """Probability that a decided list is decided for the new ranking."""
    better, worse = (float(population.weight[mask].sum()) for mask in (population.difference > 0, population.difference < 0))
    return better / (better + worse)


def _fixed_wins(chance: float, alpha: float) -> int:
    """Decided lists of a one-sided binomial test with power 80%, by the normal approximation."""
    from scipy.special import ndtri

    top = float(-ndtri(alpha)) * 0.5 + float(ndtri(POWER)) * math.sqrt(chance * (1.0 - chance))
    return max(2, math.ceil((top / (chance - 0.5)) ** 2))
