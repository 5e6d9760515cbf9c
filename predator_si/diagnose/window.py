"""What one window says, as the tree reads it; and one branch's answer.

What belongs here: the two records that the branches share, and the per-query numbers that several of them need. What must not: any verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.records import MetricsSnapshot

Floats = npt.NDArray[np.float64]
Gains = Mapping[str, float]
Quality = ("ndcg_at_10", "recall_at_20", "mrr", "user_satisfaction", "ndcg_at_10_clicks", "click_through")


@dataclass(frozen=True)
class Window:
    """Everything that a diagnosis may see of one window. What is null is unknown, and the branches that need it say so.

    Attributes
    ----------
    snapshot
        Its metrics.
    probes
        ``ProbeResult.per_query``: judged queries with what the service answered and, where it tells, what each leg found.
    judgments
        ``query_id, doc_id, relevance`` as in force then.
    events, actions
        Search and action events of people.
    index
        ``index`` of ``GET /info?facts=true``: ``version, built_at, documents, facts``.
    indexed_ids
        Ids of all indexed documents.
    queries
        Query texts of people.
    """

    snapshot: MetricsSnapshot
    probes: pl.DataFrame
    judgments: pl.DataFrame
    events: pl.DataFrame | None = None
    actions: pl.DataFrame | None = None
    index: Mapping[str, Any] | None = None
    indexed_ids: Sequence[str] | None = None
    queries: Sequence[str] = ()


@dataclass(frozen=True)
class Finding:
    """A branch's answer with its numbers.

    ``explained_loss`` is in points of NDCG@10 or its equivalent (a failed request counts as one without a relevant document), null where only the answer
    is known. ``p_value`` is one-sided, of the test that the branch names in ``test``.
    """

    cause: str
    detail: str
    answer: Literal["yes", "no", "unknown"]
    explained_loss: float | None = None
    p_value: float | None = None
    n: int = 0
    test: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None

    @property
    def name(self) -> str:
        """``cause:detail``."""
        return f"{self.cause}:{self.detail}" if self.detail else self.cause


def unknown(cause: str, detail: str, reason: str, **evidence: Any) -> Finding:
    """A branch that cannot answer."""
    return Finding(cause, detail, "unknown", reason=reason, evidence=evidence)


def ndcg(ranking: Sequence[str], gains: Gains, k: int = 10) -> float:
    """NDCG@k with linear gain (as ``measures``); 0 where nothing is relevant."""
    ideal = sorted((gain for gain in gains.values() if gain > 0), reverse=True)[:k]
    if not ideal:
        return 0.0
    got = sum(gains[doc] * _discount(rank) for rank, doc in enumerate(ranking[:k]) if doc in gains)
    return got / sum(gain * _discount(rank) for rank, gain in enumerate(ideal))


@cache
def _discount(rank: int) -> float:
    return 1.0 / math.log2(rank + 2)


def one_sided(differences: Floats, seed: int) -> float:
    """P-value of a positive mean difference under random signs: half the two-sided one where the mean is positive, else at least a half."""
    from predator_si.statistics import sign_flip_test

    if not len(differences) or not np.any(differences):
        return 1.0
    two = sign_flip_test(differences, seed=seed, n_flips=20_000)
    return two / 2.0 if differences.mean() > 0 else 1.0 - two / 2.0


def at_least(hits: int, n: int, share: float) -> float:
    """Chance of ``hits`` or more among ``n`` when each has probability ``share`` (binomial)."""
    from scipy.stats import binom

    return float(binom.sf(hits - 1, n, share)) if n else 1.0
