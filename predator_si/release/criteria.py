"""What a decision asks: per signal the criteria of a promotion, and those whose failure is a proof that the challenger is worse.

What belongs here: the criteria as data, and what a contour and a candidate's share of the month's error make of their limits. What must not: numbers of a
candidate, verdicts (``decide``).
"""

from __future__ import annotations

from typing import Any, Literal

from predator_si.records import Criterion
from predator_si.release.latency import LATENCY_ALLOWANCE
from predator_si.statistics.design import DEFAULT_DESIGN

ALPHA = 0.05
"""Two-sided p-value of superiority where one judged set is used once. Used again and again it is the candidate's share of the month's error (``level``)."""
NDCG_MARGIN = 0.01
"""How much lower NDCG@10 may be and still count as not worse, where a contour says nothing else (``experiment.margin``)."""
ABOVE_ZERO = 1e-9
SLICE_QUERIES = 30
"""Judged queries from which a slice is asked."""


def _rule(name: str, metric: str, direction: Literal["min", "max"], threshold: float, en: str, uk: str, **more: Any) -> Criterion:
    return Criterion(name=name, metric=metric, direction=direction, threshold=threshold, description={"en": en, "uk": uk}, **more)


_SUPERIOR = (
    _rule("ndcg_superior", "ndcg_difference_low", "min", ABOVE_ZERO, "NDCG@10 is higher: the whole interval is above zero",
          "NDCG@10 вищий: увесь інтервал вище нуля", min_sample=30),
    _rule("ndcg_significant", "ndcg_p_value", "max", ALPHA, "Chance does not explain the difference (sign-flip test)",
          "Різницю не пояснити випадком (тест зміни знаків)", min_sample=30),
    _rule("ndcg_target", "ndcg_gain", "min", 0.03, "The gain reaches 3% of the champion's value",
          "Приріст сягає 3% від значення чемпіона", critical=False),
)  # fmt: skip
_NON_INFERIOR = (
    _rule("ndcg_non_inferior", "ndcg_difference_low", "min", -NDCG_MARGIN, "NDCG@10 is not lower by more than the margin",
          "NDCG@10 не нижчий більш ніж на допуск", min_sample=30),
)  # fmt: skip
_LATENCY_KEPT = (
    _rule("p95_kept", "p95_of_allowed", "max", 1.0, "P95 stays within 115% of the champion's, or within the contour's target",
          "P95 лишається в межах 115% від чемпіона або цілі контуру", min_sample=50),
)  # fmt: skip
_FASTER = (
    _rule("p95_improved", "p95_change_high", "max", -ABOVE_ZERO, "P95 is lower: the whole interval of the change is below zero",
          "P95 нижчий: увесь інтервал зміни нижче нуля", min_sample=60),
    _rule("p95_target", "p95_of_target", "max", 1.0 + LATENCY_ALLOWANCE, "P95 is at most 15% above the contour's target",
          "P95 не більш ніж на 15% вище цілі контуру", critical=False, no_data="not_applicable"),
)  # fmt: skip
_CHEAPER = (_rule("cost_lower", "cost_change_high", "max", -ABOVE_ZERO, "A search costs less", "Пошук коштує менше"),)
_RECALL_UP = (
    _rule("recall_superior", "recall_difference_low", "min", ABOVE_ZERO, "Recall@20 is higher: the whole interval is above zero",
          "Recall@20 вищий: увесь інтервал вище нуля", min_sample=30),
    _rule("recall_significant", "recall_p_value", "max", ALPHA, "Chance does not explain the difference (sign-flip test)",
          "Різницю не пояснити випадком (тест зміни знаків)", min_sample=30),
)  # fmt: skip

PROMOTION_CRITERIA: dict[str, tuple[Criterion, ...]] = {
    "ndcg_at_10": _SUPERIOR + _LATENCY_KEPT,
    "recall_at_20": _RECALL_UP + _NON_INFERIOR + _LATENCY_KEPT,
    "user_satisfaction": _NON_INFERIOR + _LATENCY_KEPT,
    "p95_latency_ms": _NON_INFERIOR + _FASTER,
    "cost_per_1k_requests": _NON_INFERIOR + _CHEAPER + _LATENCY_KEPT,
    "error_rate": (),
    "etl_lag_seconds": (),
    "index_errors": (),
    "replicas": (),
}
"""Signal that started the cycle -> what must hold (CONTRACT.md section 3). Those that are not critical are shown and do not decide."""
UNSPLIT = frozenset({"error_rate", "etl_lag_seconds", "index_errors", "replicas"})
"""Signals whose cycles bring the service back: nobody waits for a trial on a share of the clients, they are not about ranking, and the watch judges them.
``replicas`` stands for a cycle of any trigger that changes nothing but their number: every copy ranks alike."""

NAMES_NO_SUCCESS = frozenset({"user_satisfaction"})
"""Signals whose promotion criteria ask for no more than not being worse; what is released must be shown to be better in something all the same."""
_SHARES_THE_ERROR = frozenset({"ndcg_significant", "recall_significant"})
"""Claims of superiority on judged queries that every candidate of a month meets."""
_HAS_THE_MARGIN = frozenset({"ndcg_non_inferior", "ndcg_not_inferior"})

_WORSE = (_rule("ndcg_not_worse", "ndcg_difference_high", "min", 0.0, "NDCG@10 is not proven lower", "Не доведено, що NDCG@10 нижчий", min_sample=30),)
_INFERIOR = (
    _rule("ndcg_not_inferior", "ndcg_difference_high", "min", -NDCG_MARGIN, "NDCG@10 is not proven lower by more than the margin",
          "Не доведено, що NDCG@10 нижчий більш ніж на допуск", min_sample=30),
)  # fmt: skip
_SLOWER = (
    _rule("p95_not_slower", "p95_of_allowed_low", "max", 1.0, "P95 is not proven beyond what is allowed",
          "Не доведено, що P95 вищий за дозволений", min_sample=60, no_data="not_applicable"),
)  # fmt: skip

_SLICE_WORSE = (
    _rule("slices_not_worse", "slice_worse_p", "min", ALPHA, "No slice with enough queries is proven worse by more than the margin (Holm)",
          "Жоден зріз із достатньою кількістю запитів не є доведено гіршим понад допуск (Холм)", min_sample=SLICE_QUERIES, no_data="not_applicable"),
)  # fmt: skip

REJECTION_CRITERIA: dict[str, tuple[Criterion, ...]] = {
    "ndcg_at_10": _WORSE + _SLOWER + _SLICE_WORSE,
    "recall_at_20": _INFERIOR + _SLOWER + _SLICE_WORSE,
    "user_satisfaction": _INFERIOR + _SLOWER + _SLICE_WORSE,
    "p95_latency_ms": _INFERIOR + _SLOWER + _SLICE_WORSE,
    "cost_per_1k_requests": _INFERIOR + _SLOWER + _SLICE_WORSE,
    "error_rate": (),
    "etl_lag_seconds": (),
    "index_errors": (),
    "replicas": (),
}
"""What must not be shown: a failure here is a proof that the challenger is worse."""

SAMPLE_RATIO = _rule(
    "sample_ratio", "sample_ratio_p", "min", DEFAULT_DESIGN.sample_ratio_alpha, "Traffic was split as intended", "Трафік поділено, як задумано"
)


def criteria_of(signal: str, level: float | None, margin: float) -> tuple[list[Criterion], list[Criterion]]:
    """The promotion's and the rejection's criteria of a signal: superiority at ``level`` (null: :data:`ALPHA`), a loss of NDCG against ``margin``."""

    def limited(criterion: Criterion) -> Criterion:
        if level is not None and criterion.name in _SHARES_THE_ERROR:
            return criterion.model_copy(update={"threshold": level})
        return criterion.model_copy(update={"threshold": -margin}) if criterion.name in _HAS_THE_MARGIN else criterion

    return [limited(one) for one in PROMOTION_CRITERIA[signal]], [limited(one) for one in REJECTION_CRITERIA[signal]]
