"""Guardrails: what the challenger must not make worse, with margins, and the proof that each asks for.

What belongs here: a margin, the change of one metric (``changes``), and pass, fail or unknown from both. What must not: how a change is estimated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from predator_si.errors import BadInput
from predator_si.experiment.changes import Change, error_change, mean_change, p95_change
from predator_si.experiment.proofs import Levels
from predator_si.monitor import Traffic
from predator_si.records import Answer, Criterion, GateResult

METRICS = ("error_rate", "avg_latency_ms", "p95_latency_ms", "ndcg_at_10_clicks", "click_through")


@dataclass(frozen=True)
class Guardrail:
    """A criterion on the change from champion to challenger.

    Attributes
    ----------
    criterion
        ``threshold`` is the largest change that is accepted: in the metric's unit (``kind`` "absolute") or as a fraction of the champion's
        value ("relative"); ``min_sample`` counts requests of each arm.
    proof
        ``non_inferior``: the change must be shown to lie within the margin, at every look by one sequence. ``no_harm``: it is enough that no harm is seen; for
        trials too short to prove anything, which must then say so.
    """

    criterion: Criterion
    proof: Literal["non_inferior", "no_harm"] = "non_inferior"

    def __post_init__(self) -> None:
        """Refuse a metric that a trial does not measure, or a margin that is not one."""
        rule = self.criterion
        if rule.metric not in METRICS:
            raise BadInput(f"guardrail {rule.name}: a trial does not measure {rule.metric}; it measures {', '.join(METRICS)}.")
        if (rule.direction == "max") != (rule.threshold >= 0) and rule.threshold != 0:
            raise BadInput(
                f"guardrail {rule.name}: a {rule.direction} guardrail on {rule.metric} cannot allow a change of {rule.threshold:+g}; it has the wrong sign."
            )
        wanted = "absolute" if rule.metric == "error_rate" else "relative"
        if rule.kind != wanted:
            raise BadInput(f"guardrail {rule.name}: the margin of {rule.metric} is {wanted}, not {rule.kind}.")


def default_guardrails(contour: str) -> tuple[Guardrail, ...]:
    """Errors at most one point more, latency at most 15% more, clicks at most 5% fewer; all proven non-inferior.

    In ``local`` a trial has a few hundred requests, too few to prove anything about errors, tails or clicks: there only the mean latency
    must be proven, of the others no harm may be seen. Superiority comes from the judged evaluation in every contour.
    """
    short = contour == "local"
    proof: Literal["non_inferior", "no_harm"] = "no_harm" if short else "non_inferior"
    least = 20 if short else 200
    rules: list[tuple[str, Literal["min", "max"], Literal["absolute", "relative"], float, Literal["non_inferior", "no_harm"]]] = [
        ("error_rate", "max", "absolute", 0.01, proof),
        ("avg_latency_ms", "max", "relative", 0.15, "non_inferior"),
        ("p95_latency_ms", "max", "relative", 0.15, proof),
        ("ndcg_at_10_clicks", "min", "relative", -0.05, proof),
        ("click_through", "min", "relative", -0.05, proof),
    ]
    return tuple(
        Guardrail(Criterion(name=f"{metric}_{kept}", metric=metric, direction=side, kind=kind, threshold=margin, min_sample=least), kept)
        for metric, side, kind, margin, kept in rules
    )


@dataclass(frozen=True)
class Judged:
    """A guardrail's answer, and the change behind it; null where none could be measured."""

    gate: GateResult
    change: Change | None


def judge_guardrail(guardrail: Guardrail, champion: Traffic, challenger: Traffic, levels: Levels, *, position_bias: float = 1.0) -> Judged:
    """Pass, fail or unknown for one guardrail, at any look.

    Fail: the change is shown to be in the bad direction and is not shown to be within the margin. Pass: shown within the margin,
    or, with proof ``no_harm``, a sufficient sample without harm. Unknown: all else.

    Parameters
    ----------
    levels
        ``harm_alpha`` of each guardrail is its own: the sum over the guardrails is the chance of ending a harmless trial. Non-inferiority needs no
        correction, since all must pass (Schultzberg, Ankargren and Frånberg 2024, arXiv:2402.11609).
    """
    rule = guardrail.criterion
    sizes = (_sample(rule.metric, champion), _sample(rule.metric, challenger))
    n = min(sizes)
    early = rule.metric == "error_rate" and n > 0 and n < rule.min_sample
    if n < rule.min_sample and not early:
        reason = f"{rule.metric}: {sizes[0]} and {sizes[1]} usable requests, each arm needs {rule.min_sample}"
        return Judged(GateResult(criterion=rule, answer=Answer.UNKNOWN, value=None, n=n, reason=reason), None)
    found = measure(rule, champion, challenger, levels, position_bias)
    if isinstance(found, str):
        return Judged(GateResult(criterion=rule, answer=Answer.UNKNOWN, value=None, n=n, reason=f"{rule.metric}: {found}"), None)
    if found.harm and not found.inside:
        answer, why = Answer.FAIL, "harm"
    elif early:
        answer, why = Answer.UNKNOWN, f"each arm needs {rule.min_sample} requests"
    elif found.inside:
        answer, why = Answer.PASS, "within the margin"
    elif guardrail.proof == "no_harm":
        answer, why = Answer.PASS, "no harm seen; this sample cannot prove that it is within the margin"
    else:
        answer, why = Answer.UNKNOWN, "not yet proven within the margin"
    reason = f"{rule.metric} {found.shown}, margin {rule.threshold:+g}{' of the champion' if rule.kind == 'relative' else ''}: {why}"
    gate = GateResult(criterion=rule, answer=answer, value=found.estimate, reference=found.reference, limit=rule.threshold, n=n, reason=reason)
    return Judged(gate, found)


def measure(rule: Criterion, champion: Traffic, challenger: Traffic, levels: Levels, position_bias: float = 1.0) -> Change | str:
    """The change that a guardrail is about, or why it cannot be known."""
    arms = (champion, challenger)
    if rule.metric == "error_rate":
        return error_change(arms, rule.threshold, levels)
    if rule.metric == "p95_latency_ms":
        return p95_change(arms, rule.threshold, levels, least=rule.min_sample)
    return mean_change(rule.metric, arms, rule.threshold, rule.direction == "min", levels, least=rule.min_sample, position_bias=position_bias)


def _sample(metric: str, arm: Traffic) -> int:
    return arm.served.height if metric == "error_rate" else arm.answered.height
