"""What drift and change alarms add to a gate that one window cannot answer.

What belongs here: how evidence meets a gate. What must not: measuring drift or change, starting anything.

The rule (facts: require drift AND estimated loss): a gate passes or fails by its own metric, and neither drift nor an alarm can make a passing gate fail.
They matter where a relative gate is unknown because its metric misses the limit while the interval still holds the baseline: a loss is estimated
but not proven by this window. A standing change alarm of the same metric is proof that many windows give together; drift of queries or documents is a cause
that makes the loss believable. Both are always written into the reason; they turn the answer into a failure only where the contour says so.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from predator_si.records import AnomalyReport, Answer, DriftReport, GateResult

Kind = Literal["change", "drift"]
QUALITY = frozenset({"ndcg_at_10", "recall_at_20", "mrr"})
"""Metrics whose estimated loss drift can explain."""


def weigh(
    results: Sequence[GateResult], anomalies: AnomalyReport | None, drift: DriftReport | None, champion: str | None, confirms: Collection[Kind] = ()
) -> list[GateResult]:
    """The gates with what else is known about an estimated loss.

    Parameters
    ----------
    anomalies, drift
        The newest reports; those of another champion are not evidence.
    confirms
        Which kinds turn an estimated loss into a failure; none by default.
    """
    ours = anomalies if anomalies is not None and anomalies.champion == champion else None
    moved = drift if drift is not None and drift.champion == champion else None
    return [_weighed(result, ours, moved, confirms) for result in results]


def _weighed(result: GateResult, anomalies: AnomalyReport | None, drift: DriftReport | None, confirms: Collection[Kind]) -> GateResult:
    if result.answer is not Answer.UNKNOWN or result.doubt != "interval":
        return result
    metric = result.criterion.metric
    found: list[tuple[Kind, str]] = []
    if anomalies is not None:
        found += [("change", change.reason) for change in anomalies.changes if change.metric == metric and change.active]
    if drift is not None and metric in QUALITY and drift.drifted:
        found.append(("drift", f"drifted: {', '.join(item.name for item in drift.items if item.drifted)}"))
    if not found:
        return result
    reason = "; ".join([result.reason, *(text for _, text in found)])
    if not any(kind in confirms for kind, _ in found):
        return result.model_copy(update={"reason": reason})
    return result.model_copy(update={"answer": Answer.FAIL, "doubt": None, "reason": f"{reason}; together this contour takes them for a failure"})
