"""Guardrails: what the challenger must not make worse, with margins, and the proof that each asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.errors import BadInput
from predator_si.monitor import Traffic, click_quality, click_through
from predator_si.monitor.traffic import FAILED
from predator_si.records import Answer, Criterion, GateResult
from predator_si.statistics import quantile_ratio_interval, two_proportion, welch

METRICS = ("error_rate", "avg_latency_ms", "p95_latency_ms", "ndcg_at_10_clicks", "click_through")
_P95_SAMPLE = 60
"""Per arm, for an interval of a p95 ratio (see ``quantile_ratio_interval``)."""
EARLY_CONFIDENCE = 0.999
"""At which errors end a trial before its minimum sample."""


@dataclass(frozen=True)
class Guardrail:
    """A criterion on the change from champion to challenger.

    Attributes
    ----------
    criterion
        ``threshold`` is the largest change that is accepted: in the metric's unit (``kind`` "absolute") or as a fraction of the champion's
        value ("relative"); ``min_sample`` counts requests of each arm.
    proof
        ``non_inferior``: the 95% interval of the change must lie within the margin. ``no_harm``: it is enough that no harm is seen; for
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
class _Change:
    """A change as the guardrail sees it, positive is good: estimate and what the intervals say."""

    estimate: float
    reference: float
    inside: bool
    """The 95% interval lies within the margin."""
    harm: bool
    """The harm interval lies wholly on the bad side of no change."""
    shown: str


def judge_guardrail(
    guardrail: Guardrail, champion: Traffic, challenger: Traffic, *, harm_confidence: float, seed: int = 0, position_bias: float = 1.0
) -> GateResult:
    """Pass, fail or unknown for one guardrail.

    Fail: the change is in the bad direction at ``harm_confidence`` and is not shown to be within the margin. Pass: shown within the margin,
    or, with proof ``no_harm``, a sufficient sample without harm. Unknown: all else.

    Parameters
    ----------
    harm_confidence
        Of the two-sided interval that must exclude no change: corrected by the caller for the number of guardrails, while the
        non-inferiority side needs no correction, since all must pass (Schultzberg, Ankargren and Frånberg 2024, arXiv:2402.11609).
    """
    rule = guardrail.criterion
    sizes = (_sample(rule.metric, champion), _sample(rule.metric, challenger))
    n = min(sizes)
    early = rule.metric == "error_rate" and n > 0 and n < rule.min_sample
    if n < rule.min_sample and not early:
        reason = f"{rule.metric}: {sizes[0]} and {sizes[1]} usable requests, each arm needs {rule.min_sample}"
        return GateResult(criterion=rule, answer=Answer.UNKNOWN, value=None, n=n, reason=reason)
    found = _change(rule, champion, challenger, max(harm_confidence, EARLY_CONFIDENCE) if early else harm_confidence, seed, position_bias)
    if isinstance(found, str):
        return GateResult(criterion=rule, answer=Answer.UNKNOWN, value=None, n=n, reason=f"{rule.metric}: {found}")
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
    return GateResult(criterion=rule, answer=answer, value=found.estimate, reference=found.reference, limit=rule.threshold, n=n, reason=reason)


def _sample(metric: str, arm: Traffic) -> int:
    return arm.served.height if metric == "error_rate" else arm.answered.height


def _change(rule: Criterion, champion: Traffic, challenger: Traffic, harm_confidence: float, seed: int, eta: float) -> _Change | str:
    if rule.metric == "error_rate":
        return _errors(rule, champion, challenger, harm_confidence)
    if rule.metric == "p95_latency_ms":
        return _p95(rule, champion, challenger, harm_confidence, seed)
    sides = [_values(rule.metric, arm, eta) for arm in (champion, challenger)]
    if any(frame["client"].n_unique() < 2 for frame in sides):
        return "an arm has fewer than two clients, so nothing says how clients differ"
    if rule.metric != "avg_latency_ms" and not any((frame["value"] > 0).any() for frame in sides):
        return "no click in either arm; are clicks recorded?"
    values: list[npt.NDArray[np.float64]] = [frame["value"].to_numpy() for frame in sides]
    clusters: dict[str, Any] = {"control_cluster": sides[0]["client"].to_numpy(), "treated_cluster": sides[1]["client"].to_numpy()}
    reference = float(values[0].mean())
    if reference <= 0:
        return "the champion's mean is 0, a relative change has no meaning"
    # A margin relative to an estimated mean: compare with the champion's values times (1 + margin), so that its error is counted too.
    moved = welch(values[0] * (1.0 + rule.threshold), values[1], **clusters)
    plain = welch(values[0], values[1], **clusters)
    harm = welch(values[0], values[1], confidence=harm_confidence, **clusters)
    estimate, low, high = (number / reference for number in (plain.estimate, plain.low, plain.high))
    up = rule.direction == "min"
    return _Change(
        estimate=estimate,
        reference=reference,
        inside=moved.low > 0 if up else moved.high < 0,
        harm=harm.high < 0 if up else harm.low > 0,
        shown=f"{reference:.4g} -> {values[1].mean():.4g} ({estimate:+.1%}, 95% {low:+.1%} to {high:+.1%})",
    )


def _values(metric: str, arm: Traffic, eta: float) -> pl.DataFrame:
    if metric == "avg_latency_ms":
        return arm.answered.select(client=pl.coalesce("client_id", "query_id"), value="latency_ms")
    return click_through(arm.answered, arm.actions) if metric == "click_through" else click_quality(arm.answered, arm.actions, eta=eta)


def _errors(rule: Criterion, champion: Traffic, challenger: Traffic, harm_confidence: float) -> _Change:
    counts = [number for arm in (champion, challenger) for number in (int(arm.served.select(FAILED.sum()).item()), arm.served.height)]
    change = two_proportion(counts[0], counts[1], counts[2], counts[3])
    harm = two_proportion(counts[0], counts[1], counts[2], counts[3], confidence=harm_confidence)
    return _Change(
        estimate=change.estimate,
        reference=counts[0] / counts[1],
        inside=change.high < rule.threshold,
        # Newcombe's interval is approximate for a handful of failures; Fisher's exact test must agree before somebody is blamed.
        harm=harm.low > 0 and (harm.p_value or 0.0) < 1.0 - harm_confidence,
        shown=f"{counts[0]}/{counts[1]} -> {counts[2]}/{counts[3]} ({change.estimate:+.2%}, 95% {change.low:+.2%} to {change.high:+.2%})",
    )


def _p95(rule: Criterion, champion: Traffic, challenger: Traffic, harm_confidence: float, seed: int) -> _Change | str:
    first, second = (arm.answered["latency_ms"].to_numpy() for arm in (champion, challenger))
    reference, other = float(np.quantile(first, 0.95)), float(np.quantile(second, 0.95))
    if reference <= 0:
        return "the champion's p95 is 0, a relative change has no meaning"
    shown, estimate = f"{reference:.4g} -> {other:.4g} ms", other / reference - 1.0
    if min(first.size, second.size) < _P95_SAMPLE:
        # Too few for an interval of the ratio: ask instead whether more of the challenger's requests are slower than the champion's p95.
        over = two_proportion(int((first > reference).sum()), first.size, int((second > reference).sum()), second.size, confidence=harm_confidence)
        shown += f" ({estimate:+.1%}; {over.estimate:+.1%} more requests above the champion's p95; an interval needs {_P95_SAMPLE} a side)"
        return _Change(estimate, reference, inside=False, harm=over.low > 0 and (over.p_value or 0.0) < 1.0 - harm_confidence, shown=shown)
    change = quantile_ratio_interval(first, second, 0.95, seed=seed)
    harm = quantile_ratio_interval(first, second, 0.95, seed=seed, confidence=harm_confidence)
    shown += f" ({estimate:+.1%}, 95% {change.low:+.1%} to {change.high:+.1%})"
    return _Change(estimate, reference, inside=change.high < rule.threshold, harm=harm.low > 0, shown=shown)
