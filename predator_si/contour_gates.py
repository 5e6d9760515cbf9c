"""The quality gates of a contour and what else may speak about them: keys `qualityGates` and `evidence`.

What belongs here: their shape, their defaults (contour ``local``), and turning them into criteria. What must not: judging.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, model_validator

from predator_si.contour_types import Block, Duration, Fraction
from predator_si.records import Criterion, Hysteresis
from predator_si.signals import Signal


class GateHysteresis(Block):
    """When a gate changes its answer: ``fail_after`` missed windows in a row, ``clear_after`` met ones, or one met by ``margin`` (a fraction of the limit)."""

    fail_after: Annotated[int, Field(ge=1, le=96)] = 1
    """Missed windows in a row."""
    clear_after: Annotated[int, Field(ge=1, le=96)] = 2
    """Met windows in a row."""
    margin: Annotated[Fraction, Field(ge=0, le=1)] | None = None
    """Fraction of the limit by which one window clears at once; null: none does."""


class Gate(Block):
    """Limits of one metric: absolute ``min`` or ``max`` in its unit, ``relative`` as a fraction of the baseline ("-3%" is -0.03)."""

    min: float | None = None
    """Least value, in the metric's unit, of one that should be high."""
    max: float | None = None
    """Greatest value of one that should be low."""
    relative: Fraction | None = None
    """Greatest change against the baseline of past healthy windows: -3% is a drop by three hundredths."""
    min_sample: Annotated[int, Field(ge=1)] = 1
    """With fewer observations the value is unknown."""
    max_age: Duration | None = None
    """A value whose newest observation is older than this is unknown."""
    no_data: Literal["unknown", "fail", "not_applicable"] = "unknown"
    """What the gate answers without a value; never a pass."""
    critical: bool = True
    """Whether a trial or a waiting release ends when it fails."""
    unit: str | None = None
    """Only said to be checked: a limit in another unit than the metric's is refused."""
    hysteresis: GateHysteresis = GateHysteresis()

    @model_validator(mode="after")
    def _has_a_limit(self) -> Gate:
        if self.min is None and self.max is None and self.relative is None:
            raise ValueError("a gate needs min, max or relative")
        return self


class Evidence(Block):
    """Anomalies and drift: how often they may cry wolf, and whether they may turn an estimated loss into a failed gate. Alone they start nothing."""

    false_alarms_per_month: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Of the outlier scores together, and of the sequential change tests together, in a month of 15-minute windows."""
    drift_alpha: Annotated[float, Field(gt=0, le=0.2)] = 0.01
    """Chance that a drift report on equal windows calls any drift."""
    confirms: Annotated[tuple[Literal["change", "drift"], ...], Field(strict=False)] = ()
    """What turns a loss that is estimated, but not proven by one window, into a failure: a standing change alarm, or drift."""


DEFAULT_GATES: dict[str, Gate] = {
    "ndcg_at_10": Gate(relative=-0.03, min_sample=50, max_age=timedelta(hours=1)),
    "recall_at_20": Gate(relative=-0.05, min_sample=50, max_age=timedelta(hours=1)),
    "avg_latency_ms": Gate(max=500.0, min_sample=50, max_age=timedelta(minutes=30)),
    "p95_latency_ms": Gate(max=800.0, min_sample=50, max_age=timedelta(minutes=30)),
    "error_rate": Gate(max=0.01, min_sample=50, max_age=timedelta(minutes=30)),
    "cost_per_1k_requests": Gate(max=0.5, min_sample=50, max_age=timedelta(hours=1), critical=False),
    "etl_lag_seconds": Gate(max=60.0, max_age=timedelta(minutes=30)),
    "index_errors": Gate(max=3.0, max_age=timedelta(minutes=30)),
    "user_satisfaction": Gate(min=4.0, min_sample=30, max_age=timedelta(days=1), no_data="not_applicable", critical=False),
    "gpu_utilization": Gate(max=0.85, no_data="not_applicable", critical=False),
}


def check_gate(metric: Signal, gate: Gate) -> None:
    """Raise ``ValueError`` where a limit cannot be meant for this metric."""
    for limit in (gate.min, gate.max):
        if limit is not None and (limit < metric.low or (metric.high is not None and limit > metric.high)):
            upper = "" if metric.high is None else f" and at most {metric.high:g}"
            raise ValueError(f"{metric.name}: the limit {limit:g} cannot be; the metric is at least {metric.low:g}{upper} {metric.unit}".rstrip())
    if gate.unit is not None and gate.unit != metric.unit:
        raise ValueError(f"{metric.name}: the limit is given in {gate.unit!r}, the metric is in {metric.unit or 'no unit (a plain number)'}")
    if gate.min is not None and gate.max is not None:
        raise ValueError(f"{metric.name}: give min or max, not both")
    wrong = gate.max if metric.direction == "up" else gate.min
    if wrong is not None:
        better, needed = ("higher", "min") if metric.direction == "up" else ("lower", "max")
        raise ValueError(f"{metric.name}: {better} is better here, so its limit is {needed}")
    if gate.relative is not None:
        good = -1 < gate.relative <= 0 if metric.direction == "up" else gate.relative >= 0
        if not good:
            wanted = "a drop: between -1 and 0, like -0.03 or '-3%'" if metric.direction == "up" else "a rise: 0 or more, like 0.15 or '15%'"
            raise ValueError(f"{metric.name}: relative {gate.relative:g} must be {wanted}")


def criteria(metric: Signal, gate: Gate) -> list[Criterion]:
    """The criteria that a gate's limits make."""
    side: Literal["min", "max"] = "min" if metric.direction == "up" else "max"
    limits: list[tuple[str, Literal["absolute", "relative"], float | None]] = [
        (side, "absolute", gate.min if side == "min" else gate.max),
        ("relative", "relative", gate.relative),
    ]
    return [
        Criterion(
            name=f"{metric.name}_{suffix}",
            metric=metric.name,
            direction=side,
            kind=kind,
            threshold=threshold,
            min_sample=gate.min_sample,
            max_age_seconds=gate.max_age.total_seconds() if gate.max_age is not None else None,
            no_data=gate.no_data,
            critical=gate.critical,
            description={"en": metric.en, "uk": metric.uk},
            unit=metric.unit,
            hysteresis=Hysteresis(**gate.hysteresis.model_dump()),
        )
        for suffix, kind, threshold in limits
        if threshold is not None
    ]
