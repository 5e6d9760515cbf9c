"""Promoted or rejected: judged dev, opened once, and other collections that must not lose.

What belongs here: the rule and its evidence. What must not: training, the sealed test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from predator_si.proof.adapt.arms import Workshop
from predator_si.records import Interval
from predator_si.release.criteria import NDCG_MARGIN
from predator_si.search.retrieve import Candidates
from predator_si.statistics import paired_interval

CANARY_MARGIN = 0.005
LEAST_SAMPLE = 30


@dataclass(frozen=True)
class Canary:
    """Judged queries of another collection that the adaptation is not about: ``queries`` (query_id, text) with their labels and candidates."""

    name: str
    queries: pl.DataFrame
    judgments: pl.DataFrame
    candidates: list[Candidates]


@dataclass(frozen=True)
class Verdict:
    """``decision`` is promoted or rejected; ``rules`` say each rule's figure, limit and whether it held."""

    decision: str
    reason: str
    dev: Interval
    canaries: dict[str, Interval]
    canary_mean: float | None
    rules: list[dict[str, Any]] = field(default_factory=list)


def difference(
    workshop: Workshop,
    before: str,
    after: str,
    queries: pl.DataFrame,
    judgments: pl.DataFrame,
    candidates: Sequence[Candidates],
    on_progress: Callable[[int, int], None] | None = None,
) -> Interval:
    """NDCG@10 of ``after`` less ``before``, both fused, query by query, with its 95% interval."""
    weight = workshop.plan.fusion_weight
    scores = [workshop.per_query(digest, queries, judgments, candidates, weight, on_progress)["ndcg_at_10"].to_numpy() for digest in (before, after)]
    return paired_interval(scores[1] - scores[0], seed=workshop.plan.seed)


def judge(dev: Interval, canaries: dict[str, Interval]) -> Verdict:
    """Every rule must hold.

    - dev: the lower bound of the gain is above minus ``NDCG_MARGIN`` (non-inferior, as in ``release``), on at least 30 queries, and the gain itself is not
      below zero: a change that gains nothing is not worth its risk;
    - canaries: their mean loss, each collection counting alike, is at most ``CANARY_MARGIN``, and none is proven to lose more than that (its loss
      exceeds the margin and its interval lies below zero).
    """
    mean = float(np.mean([found.estimate for found in canaries.values()])) if canaries else None
    lost = [name for name, found in canaries.items() if found.estimate < -CANARY_MARGIN and found.high < 0.0]
    rules: list[dict[str, Any]] = [
        {"rule": "dev_sample", "value": dev.n, "limit": LEAST_SAMPLE, "held": dev.n >= LEAST_SAMPLE},
        {"rule": "dev_non_inferior", "value": dev.low, "limit": -NDCG_MARGIN, "held": dev.low >= -NDCG_MARGIN},
        {"rule": "dev_gain", "value": dev.estimate, "limit": 0.0, "held": dev.estimate >= 0.0},
        {"rule": "canary_loss", "value": None if mean is None else -mean, "limit": CANARY_MARGIN, "held": mean is not None and mean >= -CANARY_MARGIN},
        {"rule": "no_canary_proven_to_lose", "value": len(lost), "limit": 0, "held": not lost, "which": lost},
    ]
    failed = [str(rule["rule"]) for rule in rules if not rule["held"]]
    said = f"dev NDCG@10 {dev.estimate:+.4f} [{dev.low:+.4f}, {dev.high:+.4f}], n={dev.n}; canaries {'unknown' if mean is None else f'{mean:+.4f}'}"
    return Verdict("rejected" if failed else "promoted", f"{said}{'; failed: ' + ', '.join(failed) if failed else ''}", dev, canaries, mean, rules)
