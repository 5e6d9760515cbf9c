"""What production asks of its evidence: levels, margins and tuning, in one place, so that ``predator-si simulate`` proves what the loop runs.

What belongs here: numbers with their reason. What must not: formulas, reading of settings (a contour's ``experiment.*`` and ``watch.*`` go through
:meth:`Design.replaced`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from predator_si.errors import BadInput
from predator_si.statistics.mixture import prior_size

_RETIRED = frozenset({"ndcg_margin", "ndcg_tuned_for", "ndcg_burn_in", "trial_tuned_for", "trial_burn_in"})


@dataclass(frozen=True)
class Design:
    """Levels, margins and tuning of every decision by evidence.

    Every alpha is one-sided and holds over all looks of one question. The three watch questions together spend ``errors_alpha + latency_alpha + ndcg_alpha``
    per deployment; each guardrail of a trial spends its own.
    """

    # The watch after a deployment: false rollbacks over all metrics together at most .001, about .0005 spent.
    errors_alpha: float = 0.00005
    latency_alpha: float = 0.00005
    ndcg_alpha: float = 0.0004
    """The largest part: relevance is the noisiest question of the three, and an error ten times rarer costs the others few requests."""
    errors_strength: float = 100.0
    slow_strength: float = 100.0
    latency_margin: float = 1.05
    """Geometric mean of the released model's time over the old champion's on the same request, which is still no regression."""
    latency_tuned_for: int = 40
    latency_burn_in: int = 15
    ndcg_bets: tuple[float, ...] = (0.25, 0.9, 0.9, 0.9)
    """Paired NDCG differences are small beside the -1..1 that they could be, so the best bet on a drop of some points lies near the largest allowed one (the
    mean over the mean square); a quarter of the money stays for drops that are small beside their noise. Chosen among five: against half of the money on each
    and a level of .0003, the P95 to find -.05 fell from 339 to 319 pairs on Gaussian and from 436 to 413 on sparse differences of standard deviation .15 (800
    lives each)."""

    # A trial on live traffic.
    superiority_alpha: float = 0.01
    non_inferiority_alpha: float = 0.05
    """Per guardrail, uncorrected: ALL must be shown, and a conjunction of tests keeps the level of one (Berger 1982; Schultzberg et al. 2024,
    arXiv:2402.11609)."""
    harm_alpha: float = 0.001
    """Per guardrail: chance of ending a harmless trial because of it."""
    interleaving_alpha: float = 0.01
    interleaving_strength: float = 10.0
    """Of 10, 20, 30, 50, 100 and 200 the one that stays within 1.8 times a fixed-N test for shares of wins from .55 to .9 (1,000 lives each, at level .01)."""
    sample_ratio_alpha: float = 0.001
    sample_ratio_strength: float = 100.0

    # Promotion on judged queries that are used again and again.
    promotion_alpha_per_month: float = 0.008
    """Promised is 1%. The sign-flip test is exact for symmetric differences only: on real, skewed ones .01 made false promotions in .80% (95% interval .68% to
    .93%) of 20,000 months on the stored tables and in .90% (.77% to 1.04%) on earlier ones, though the planned candidates' shares add up to .78%."""
    promotion_candidates_per_month: int = 18

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name.endswith("_alpha") or (one.name.endswith("_per_month") and isinstance(value, float)):
                good = 0.0 < value < 0.5
            elif one.name == "latency_margin":
                good = value >= 1.0
            elif one.name == "ndcg_bets":
                good = len(value) > 0 and all(0.0 < bet < 1.0 for bet in value)
            else:
                good = math.isfinite(value) and value >= 1
            if not good:
                raise BadInput(f"design: {one.name} is {value}, which is out of range; see predator_si/statistics/design.py for what it means.")

    @property
    def watch_alpha(self) -> float:
        """Chance of rolling back a deployment that is as good as the old one, over all questions and looks."""
        return self.errors_alpha + self.latency_alpha + self.ndcg_alpha

    @property
    def latency_prior(self) -> float:
        """Pseudo-observations of the mean test on log latency."""
        return prior_size(self.latency_alpha, self.latency_tuned_for, "less")

    @classmethod
    def kept(cls, stored: Mapping[str, Any]) -> Design:
        """As a record keeps it; names that a design had once, and that nothing asked for, are left out.

        Raises
        ------
        BadInput
            As :meth:`replaced`.
        """
        return cls().replaced({name: value for name, value in stored.items() if name not in _RETIRED})

    def replaced(self, changes: Mapping[str, Any]) -> Design:
        """With some numbers changed, by name.

        Raises
        ------
        BadInput
            A name that does not exist, or a number out of range.
        """
        unknown = sorted(set(changes) - set(asdict(self)))
        if unknown:
            raise BadInput(f"design has no {', '.join(unknown)}; it has {', '.join(sorted(asdict(self)))}.")
        numbers: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
        return replace(self, **numbers)


DEFAULT_DESIGN = Design()
"""What production uses where a contour says nothing else."""
