"""One judged set used again and again: what each use may claim, and what may be told about it.

What belongs here: how a month's error is divided among its candidates, and the Ladder. What must not: where the state is kept (the ledger), which queries are
judged (``evaluate.holdout``).

Eighteen candidates that are as good as the champion, each tested at 5%, promote at least one of them with probability 60%. Two remedies stand side by side. A
month's error is spent in shares fixed beforehand, so that the chance of ANY false promotion stays below it, whatever the dependence between candidates
(Bonferroni; an infinite series of shares as in alpha investing, Foster and Stine 2008). And the best score of the set is told anew only when it is beaten by
more than its noise, so that what is learnt from being told cannot fit the set (Blum and Hardt 2015, "The Ladder: a reliable leaderboard for machine learning
competitions", arXiv:1502.04585).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from predator_si.errors import BadInput
from predator_si.statistics.sample import Numbers, check_share, finite


def candidate_level(candidate: int, alpha: float = 0.01, planned: int = 18) -> float:
    """The error that the ``candidate``-th promotion test of a month may spend; over all candidates they add up to ``alpha``.

    Its share is in proportion to ``1 / k`` up to the planned number and to ``planned / k^2`` beyond it: the first test meets queries that nobody has used and
    may spend most, and none is refused for coming late, it only needs better evidence.

    Parameters
    ----------
    candidate
        1 for the first test of the month on this set. A test that is repeated on the same evidence is the same test.
    alpha
        Chance of any false promotion in the month, one-sided.
    planned
        Candidates expected in a month.

    Raises
    ------
    BadInput
        ``candidate`` or ``planned`` below 1, or ``alpha`` outside 0..1.
    """
    check_share(alpha, "alpha")
    if candidate < 1 or planned < 1:
        raise BadInput(f"candidate {candidate} of {planned} planned: both count from 1.")
    within = range(1, planned + 1)
    whole = sum(1.0 / k for k in within) + planned * (math.pi**2 / 6.0 - sum(1.0 / k**2 for k in within))
    return alpha / whole * min(1.0 / candidate, planned / candidate**2)


@dataclass(frozen=True)
class Ladder:
    """The best score of a judged set that was told, in the form that is kept between uses. Start with ``Ladder()``.

    Attributes
    ----------
    best
        Told so far; null before the first use.
    rungs
        Times that it rose.
    uses
        Submissions so far.
    """

    best: float | None = None
    rungs: int = 0
    uses: int = 0


def climb(ladder: Ladder, score: float, differences: Numbers) -> tuple[Ladder, bool]:
    """The ladder after one more submission, and whether its score may be told (Blum and Hardt 2015, algorithm 2, without parameters).

    It may when it exceeds the best so far by more than ``sd / sqrt(n)`` of the per-query differences to what it replaces; it is then told to the nearest ``1
    / n``. Otherwise the best stays, and nothing is told but that.

    Parameters
    ----------
    score
        Mean over the set's queries.
    differences
        Per query, submission minus what was best (n >= 2).

    Raises
    ------
    BadInput
        Fewer than two differences, or a number that is not finite.
    """
    array = finite(differences, "ladder", 2)
    if not math.isfinite(score):
        raise BadInput(f"ladder: the score is {score}; report the comparison as failed instead.")
    step = float(array.std(ddof=1)) / math.sqrt(array.size)
    if ladder.best is not None and score <= ladder.best + step:
        return Ladder(ladder.best, ladder.rungs, ladder.uses + 1), False
    return Ladder(round(score * array.size) / array.size, ladder.rungs + 1, ladder.uses + 1), True
