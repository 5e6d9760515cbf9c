"""Criteria as data, and what they say about a snapshot: pass, fail, unknown, or not applicable.

What belongs here: one rule about one metric. What must not: what to do about it (``triggers``), where the rules come from (settings).
The same :class:`~predator_si.records.Criterion` serves the asset check, the patch asset and the REST verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, cast

from predator_si.monitor.baseline import age_note, expected, middle
from predator_si.records import Answer, Baseline, Criterion, GateResult, Hysteresis, Metric, MetricsSnapshot
from predator_si.signals import SIGNALS

Doubt = Literal["missing", "stale", "unit", "no_baseline", "sample", "interval", "pending"]
_HOUR, _HALF_HOUR, _DAY = 3600.0, 1800.0, 86400.0
PROPORTIONS = frozenset({"error_rate"})
"""Metrics whose interval is Wilson's, valid at any sample size: one that lies wholly beyond the limit needs no minimum sample."""
NO_SOURCE, NOT_APPLICABLE = "none", "not applicable: "
"""``source`` and beginning of ``reason`` by which a snapshot marks a metric that this contour has no source for."""
HYSTERESIS = Hysteresis(clear_after=2)
"""A contour's gates fail at once and clear after two windows, or as its values say."""


def default_criteria(contour: str) -> tuple[Criterion, ...]:
    """The gates of CONTRACT.md section 3 for a contour; its values file may set others.

    In ``local`` NDCG is gated against the baseline only: corpora differ too much for one absolute limit. Names are ``<metric>_min``,
    ``<metric>_max`` and ``<metric>_relative``.
    """
    absolute = [] if contour == "local" else [_criterion("ndcg_at_10", "absolute", 0.75, 50, _HOUR)]
    return (
        *absolute,
        _criterion("ndcg_at_10", "relative", -0.03, 50, _HOUR),
        _criterion("recall_at_20", "relative", -0.05, 50, _HOUR),
        _criterion("avg_latency_ms", "absolute", 500.0, 50, _HALF_HOUR),
        _criterion("p95_latency_ms", "absolute", 800.0, 50, _HALF_HOUR),
        _criterion("error_rate", "absolute", 0.01, 50, _HALF_HOUR),
        _criterion("cost_per_1k_requests", "absolute", 0.5, 50, _HOUR, critical=False),
        _criterion("etl_lag_seconds", "absolute", 60.0, 1, _HALF_HOUR),
        _criterion("index_errors", "absolute", 3.0, 1, _HALF_HOUR),
        _criterion("user_satisfaction", "absolute", 4.0, 30, _DAY, critical=False, no_data="not_applicable"),
        _criterion("gpu_utilization", "absolute", 0.85, 1, None, critical=False, no_data="not_applicable"),
    )


def _criterion(
    metric: str,
    kind: Literal["absolute", "relative"],
    threshold: float,
    min_sample: int,
    max_age: float | None,
    *,
    critical: bool = True,
    no_data: Literal["unknown", "fail", "not_applicable"] = "unknown",
) -> Criterion:
    facts = SIGNALS[metric]
    side: Literal["min", "max"] = "min" if facts.direction == "up" else "max"
    return Criterion(
        name=f"{metric}_{side if kind == 'absolute' else kind}",
        metric=metric,
        direction=side,
        kind=kind,
        threshold=threshold,
        min_sample=min_sample,
        max_age_seconds=max_age,
        no_data=no_data,
        critical=critical,
        description={"en": facts.en, "uk": facts.uk},
        unit=facts.unit,
        hysteresis=HYSTERESIS,
    )


def evaluate_gate(criterion: Criterion, snapshot: MetricsSnapshot | None, baseline: Baseline | None, now: datetime) -> GateResult:
    """What ``criterion`` says about ``snapshot``.

    Absolute: the value beyond the limit fails. Relative: the value beyond ``baseline * (1 + threshold)`` fails when its 95% interval also
    excludes the baseline; a drop that the sample cannot tell from no drop is unknown, not a failure. Unknown as well: a missing value, one
    older than ``max_age_seconds`` (its age when measured plus the snapshot's), a sample below ``min_sample`` (except a proportion whose
    interval lies wholly beyond the limit: three failures in three requests are news), no baseline or another champion's.

    The baseline is the one of the window's hour of the week where the season is known. A metric in another unit than the limit is unknown.
    ``no_data`` changes the answer where nothing can be known: "fail" turns every unknown into a failure, "not_applicable" excuses a metric
    that has no value at all. A metric that this contour has no source for (source "none", or a reason that begins with "not applicable: ")
    does not apply, whatever the other gates say; only "fail" insists on it.
    """
    metric = None if snapshot is None else snapshot.metrics.get(criterion.metric)
    if snapshot is None or metric is None or metric.value is None:
        what = "there is no snapshot" if snapshot is None else "the snapshot lacks it" if metric is None else metric.reason or "no value"
        sourceless = metric is not None and (metric.source == NO_SOURCE or (metric.reason or "").startswith(NOT_APPLICABLE))
        if sourceless and criterion.no_data != "fail":
            why = what if what.startswith(NOT_APPLICABLE) else NOT_APPLICABLE + what
            return GateResult(criterion=criterion, answer=Answer.NOT_APPLICABLE, value=None, reason=why)
        return _unknown(criterion, metric, f"{criterion.metric} is unknown: {what}", "missing")
    known = baseline is not None and baseline.champion == snapshot.champion
    reference = expected(baseline, criterion.metric, middle(snapshot)) if baseline is not None and known else None
    relative = criterion.kind == "relative"
    limit = criterion.threshold if not relative else None if reference is None else reference * (1.0 + criterion.threshold)
    numbers: dict[str, Any] = {"value": metric.value, "reference": reference, "limit": limit, "n": metric.n}

    if criterion.unit is not None and metric.unit and metric.unit != criterion.unit:
        wanted = criterion.unit or "a plain number"
        return _unknown(criterion, metric, f"{criterion.metric} is given in {metric.unit}, the gate's limit is in {wanted}", "unit", **numbers)
    stale = _stale(criterion, metric, snapshot, now)
    if stale is not None:
        return _unknown(criterion, metric, stale, "stale", **numbers)
    if limit is None:
        return _unknown(criterion, metric, _no_baseline(criterion, snapshot, baseline), "no_baseline", **numbers)
    if metric.n < criterion.min_sample and not (not relative and criterion.metric in PROPORTIONS and _beyond(criterion, _nearest(criterion, metric), limit)):
        return _unknown(criterion, metric, f"{criterion.metric}: {metric.n} observations, the gate needs {criterion.min_sample}", "sample", **numbers)
    shown = f"{criterion.metric} {metric.value:.4g} {_interval(metric)}"
    sign = ">=" if criterion.direction == "min" else "<="
    wanted = f"{sign} {limit:.4g}" + (f" ({criterion.threshold:+.0%} of baseline {reference:.4g})" if relative else "")
    old = age_note(baseline, now) if relative and baseline is not None else None
    tail = f"; {old}" if old else ""
    if not _beyond(criterion, metric.value, limit):
        return GateResult(criterion=criterion, answer=Answer.PASS, reason=f"{shown} meets {wanted}{tail}", **numbers)
    if relative:
        assert reference is not None  # limit was computed from it
        nearest = _nearest(criterion, metric)
        if nearest is None or not _beyond(criterion, nearest, reference):
            why = "it has no interval" if nearest is None else "its interval still holds the baseline"
            said = f"{shown} misses {wanted}, but {why}: more observations are needed to call it a drop{tail}"
            return _unknown(criterion, metric, said, "interval", **numbers)
    return GateResult(criterion=criterion, answer=Answer.FAIL, reason=f"{shown} misses {wanted}{tail}", **numbers)


def evaluate_gates(criteria: Sequence[Criterion], snapshot: MetricsSnapshot | None, baseline: Baseline | None, now: datetime) -> list[GateResult]:
    """:func:`evaluate_gate` for each criterion, in their order."""
    return [evaluate_gate(criterion, snapshot, baseline, now) for criterion in criteria]


def quality_gates_status(results: Sequence[GateResult]) -> Literal["passing", "warning", "failing"]:
    """``failing`` when a gate fails, ``warning`` when one is unknown or there is none; gates that do not apply do not count."""
    answers = [result.answer for result in results if result.answer is not Answer.NOT_APPLICABLE]
    if Answer.FAIL in answers:
        return "failing"
    return "warning" if Answer.UNKNOWN in answers or not answers else "passing"


def _beyond(criterion: Criterion, value: float | None, limit: float) -> bool:
    """Whether ``value`` is on the bad side of ``limit``; meeting it exactly is good."""
    if value is None:
        return False
    return value < limit if criterion.direction == "min" else value > limit


def _nearest(criterion: Criterion, metric: Metric) -> float | None:
    """The end of the interval that speaks best for the metric."""
    return metric.ci_high if criterion.direction == "min" else metric.ci_low


def _interval(metric: Metric) -> str:
    if metric.ci_low is None or metric.ci_high is None:
        return f"(n={metric.n})"
    return f"[{metric.ci_low:.4g}, {metric.ci_high:.4g}] (n={metric.n})"


def _stale(criterion: Criterion, metric: Metric, snapshot: MetricsSnapshot, now: datetime) -> str | None:
    if criterion.max_age_seconds is None:
        return None
    if metric.age_seconds is None:
        return f"{criterion.metric}: nothing says how old it is, the gate takes at most {criterion.max_age_seconds:.0f} s"
    age = metric.age_seconds + max(0.0, (now - snapshot.created_at).total_seconds())
    return (
        f"{criterion.metric} is stale: {age:.0f} s old, the gate takes at most {criterion.max_age_seconds:.0f} s" if age > criterion.max_age_seconds else None
    )


def _no_baseline(criterion: Criterion, snapshot: MetricsSnapshot, baseline: Baseline | None) -> str:
    if baseline is None:
        return f"{criterion.metric}: no baseline yet; it forms after enough healthy windows of the champion"
    if baseline.champion != snapshot.champion:
        return f"{criterion.metric}: the baseline belongs to {baseline.champion}, the snapshot to {snapshot.champion}"
    return f"{criterion.metric}: the baseline has no value for it (it was unknown in every healthy window)"


def _unknown(criterion: Criterion, metric: Metric | None, reason: str, doubt: Doubt, **numbers: Any) -> GateResult:
    answer, why = Answer.UNKNOWN, cast("Doubt | None", doubt)
    if criterion.no_data == "fail":
        answer = Answer.FAIL
        reason += "; this gate fails without data"
        numbers["value"] = None  # a failure without a value: it refuses a promotion, and `decide` never starts a cycle from it
    elif doubt == "missing" and criterion.no_data == "not_applicable":
        answer, why = Answer.NOT_APPLICABLE, None
    given: dict[str, Any] = {"value": None, "n": 0 if metric is None else metric.n} | numbers
    return GateResult(criterion=criterion, answer=answer, reason=reason, doubt=why, **given)
