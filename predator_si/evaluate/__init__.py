"""Champion against challenger on the same judged queries, candidates, depth and fusion rule, query by query.

Does: ``compare`` (an Evaluation with the interval of the difference), ``evaluate_model`` (one model's per-query scores), ``equality_check``
(may a fast backend score in another's place), ``PairScores`` (pair scores shared across stages); ``holdout_queries``, ``promotion_level``, ``seal_of`` (which
sealed queries judge this month, and what their use may claim), ``seal_again``, ``slice_differences`` and ``clusters_of`` (the same from what is
stored).
Does not: choose other queries, open sealed sets, measure latency (the caller fills it in from the live service), decide.
"""

from __future__ import annotations

from predator_si.evaluate.compare import clusters_of, compare, evaluate_model, slice_differences
from predator_si.evaluate.equality import Equality, equality_check
from predator_si.evaluate.holdout import holdout_queries, promotion_level, seal_again, seal_of
from predator_si.evaluate.pair_scores import PairScores, score_pairs

__all__ = [
    "Equality",
    "PairScores",
    "clusters_of",
    "compare",
    "equality_check",
    "evaluate_model",
    "holdout_queries",
    "promotion_level",
    "score_pairs",
    "seal_again",
    "seal_of",
    "slice_differences",
]
