"""The table a manager reads: before, after, difference, from the artifacts of a cycle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from predator_si.records import ExperimentResult, Metric
from predator_si.reports.folder import CycleFolder
from predator_si.reports.language import Language, phrase


@dataclass(frozen=True)
class ComparisonRow:
    """One line of the table; null is unknown and shown as such. ``interval`` is the 95% interval of after minus before."""

    name: str
    before: float | None
    after: float | None
    unit: str = ""
    better: Literal["up", "down"] = "up"
    interval: tuple[float, float] | None = None
    source: str = ""
    before_of: int | None = None
    after_of: int | None = None
    """For counts: out of how many."""

    @property
    def difference(self) -> float | None:
        """After minus before; null when one is unknown, or when counts are out of different totals."""
        if self.before is None or self.after is None or self.before_of != self.after_of:
            return None
        return self.after - self.before

    @property
    def improved(self) -> bool | None:
        """Whether the difference is in the good direction, and surely so where there is an interval; null when that is open."""
        difference = self.difference
        if difference is None or difference == 0 or (self.interval is not None and self.interval[0] <= 0 <= self.interval[1]):
            return None
        return (difference > 0) == (self.better == "up")


def comparison_rows(folder: CycleFolder, lang: Language) -> list[ComparisonRow]:
    """NDCG@10, P95, cost per 1,000 and failed requests, as far as the artifacts know them."""
    evaluation, experiment, watch = folder.evaluation, folder.experiment, folder.watch
    rows = []
    if evaluation is None:
        rows += [ComparisonRow(phrase("ndcg", lang), None, None), ComparisonRow(phrase("p95", lang), None, None, "ms", "down")]
    else:
        gain = evaluation.ndcg_difference
        source = f"{evaluation.corpus}, {evaluation.split}, n={evaluation.n_queries}"
        rows.append(ComparisonRow(phrase("ndcg", lang), evaluation.ndcg_champion, evaluation.ndcg_challenger, interval=(gain.low, gain.high), source=source))
        sides = [evaluation.latency.get(side) or {} for side in ("champion", "challenger")]
        before, after = (side.get("p95_ms") for side in sides)
        counts = ", ".join(f"n={side['n']}" for side in sides if "n" in side)
        rows.append(ComparisonRow(phrase("p95", lang), before, after, "ms", "down", source=counts))
    price = [_arm(experiment, names, "cost_per_1k_requests") for names in (("champion",), ("candidate", "challenger"))]
    label = next((metric.source for metric in price if metric is not None), "")
    before_price, after_price = (None if metric is None else metric.value for metric in price)
    rows.append(ComparisonRow(phrase("cost", lang), before_price, after_price, "USD", "down", source=label))
    errors = _arm(experiment, ("champion",), "error_rate")
    known = errors is not None and errors.value is not None
    rows.append(
        ComparisonRow(
            phrase("failed", lang),
            round(errors.value * errors.n) if errors is not None and errors.value is not None else None,
            None if watch is None else watch.failed_requests,
            better="down",
            source=" / ".join(text for text, there in (("ab_test_results.json", known), ("watch.json", watch is not None)) if there),
            before_of=errors.n if errors is not None and known else None,
            after_of=None if watch is None else watch.requests,
        )
    )
    return rows


def _arm(experiment: ExperimentResult | None, names: tuple[str, ...], metric: str) -> Metric | None:
    if experiment is None:
        return None
    return next((experiment.arms[name].get(metric) for name in names if name in experiment.arms), None)


def outcome(folder: CycleFolder) -> tuple[str, Literal["good", "bad", "open"]]:
    """(key of a phrase, colour) for how the cycle stands, by its newest artifact."""
    if folder.rollback is not None:
        return ("outcome_rolled_back", "bad") if folder.rollback.verified else ("outcome_rollback_failed", "bad")
    released = folder.released
    if released is not None:
        if not released.confirmed:
            return "outcome_unconfirmed", "bad"
        return ("outcome_stable", "good") if folder.watch is not None and folder.watch.answer == "keep" else ("outcome_released", "open")
    decision = folder.decision
    if decision is None:
        return "outcome_unfinished", "open"
    if decision.allows_patch:
        return ("outcome_approved", "open") if decision.stage == "promote" else ("outcome_unfinished", "open")
    if decision.verdict.value == "promote":
        return "outcome_waiting", "open"
    return ("outcome_reject", "bad") if decision.verdict.value == "reject" else ("outcome_inconclusive", "open")
