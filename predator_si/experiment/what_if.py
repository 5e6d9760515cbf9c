"""What would change a trial's verdict, in words: the shortest way to another answer.

What belongs here: sentences from numbers that were measured. What must not: measuring, deciding.
"""

from __future__ import annotations

from collections.abc import Sequence

from predator_si.experiment.guardrails import Judged
from predator_si.records import Answer, GateResult, Verdict


def what_would_change(verdict: Verdict, quality: Sequence[GateResult], judged: Sequence[Judged], served: int, min_sample: int) -> list[str]:
    """One sentence for each thing that stands between this verdict and another one.

    Parameters
    ----------
    served, min_sample
        Requests so far and the least that a verdict needs.
    """
    broken = [gate for gate in quality if gate.answer is Answer.FAIL]
    if broken:
        return [f"Nothing that is measured: mend {gate.criterion.name} first ({gate.reason}), then try again from the beginning." for gate in broken]
    found = [f"{min_sample - served} more requests: the trial has {served} of {min_sample}."] if served < min_sample else []
    for one in judged:
        sentence = _sentence(one, verdict)
        if sentence is not None:
            found.append(sentence)
    return found


def _sentence(one: Judged, verdict: Verdict) -> str | None:
    rule, gate, change = one.gate.criterion, one.gate, one.change
    if gate.answer is Answer.NOT_APPLICABLE:
        return None
    if change is None:
        return f"{rule.metric} would have to be known: {gate.reason}." if gate.answer is Answer.UNKNOWN else None
    margin, now = _number(rule.threshold, rule.kind), _number(change.estimate, rule.kind)
    far = change.high if rule.direction == "max" else change.low
    side = "upper" if rule.direction == "max" else "lower"
    bound = _number(far, rule.kind) if abs(far) != float("inf") else "unbounded"
    if gate.answer is Answer.FAIL:
        return f"{rule.metric} is {now} and shown to be worse; only a sequence within {margin} would clear it, which this model is not expected to reach."
    if gate.answer is Answer.UNKNOWN:
        if change.needs is None:
            return f"{rule.metric} is {now}, its {side} bound {bound}: more of the same will not show that it is within {margin}; it would have to get better."
        return f"{rule.metric} is {now}, its {side} bound {bound} would have to pass {margin}: about {change.needs} requests in all, if the estimate holds."
    if verdict is Verdict.PROMOTE:
        return f"{rule.metric} is {now}; it would fail if it were shown to be worse than no change without lying within {margin}."
    return None


def _number(value: float, kind: str) -> str:
    return f"{value:+.1%}" if kind == "relative" else f"{value:+.4f}"
