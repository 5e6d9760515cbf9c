"""The shapes of requests and answers (CONTRACT.md section 1), with examples: what the OpenAPI document is made of.

What belongs here: keys, types, ranges, examples of what is asked of the loop; those about cycles and people come from ``stories``. What must not: filling
them (``readings``, ``optimizer``).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from predator_si.api.shape import Answer, Asked, ProblemDocument, Text, example
from predator_si.api.stories import (
    AlertsAnswer,
    ApprovalAnswer,
    ApprovalRequest,
    Approvals,
    Champions,
    CycleRow,
    Cycles,
    CycleStory,
    CycleVerdict,
    Entry,
    FeedbackAnswer,
    FeedbackRequest,
    History,
    Improvements,
)

# --------------------------------------------------------------------------- status


class LastAction(Answer):
    """The newest ledger record."""

    type: str
    timestamp: datetime
    reason: str


class CurrentCycle(Answer):
    """The cycle that keeps the contour busy."""

    cycle_id: str
    state: str
    since: datetime
    reason: str


class UnwatchedRelease(Answer):
    """A release that should be watched and is not."""

    cycle_id: str
    digest: str | None
    reason: str


class Status(Answer):
    """``GET status``."""

    model_config = example(
        is_running=True, total_optimizations_24h=2, actions_by_type={"cycle_opened": 2, "patch_promote": 1}, quality_gates_status="passing",
        next_cycle_in_minutes=7.5, last_action={"type": "patch_promote", "timestamp": "2026-11-23T10:15:00Z", "reason": "committed 3f2a"}, contour="local",
        champion="sha256:6f1e", kill_switch=False, current_cycle=None, unwatched_release=None, enabled=True, problems=[],
    )  # fmt: skip
    is_running: bool
    """The contour enables the loop, the kill switch is off, and the sensor that starts cycles runs."""
    total_optimizations_24h: int
    """Cycles opened in the last 24 hours."""
    actions_by_type: dict[str, int]
    """Ledger records of the last 24 hours, by action."""
    quality_gates_status: Literal["passing", "warning", "failing"]
    next_cycle_in_minutes: float | None
    """Minutes until the next tick, as Dagster plans it; null where nothing is planned or Dagster does not answer."""
    last_action: LastAction | None
    contour: str
    champion: str | None
    kill_switch: bool
    current_cycle: CurrentCycle | None
    unwatched_release: UnwatchedRelease | None
    enabled: bool
    problems: list[str]
    """What is wrong besides, in words."""


# --------------------------------------------------------------------------- trigger, start, stop, rollback


class TriggerRequest(Asked):
    """``POST trigger``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, json_schema_extra={"examples": [{"force": True}, {"target": "models", "wait": 60.0}]})
    force: bool = False
    """Insist: passes the interval between cycles, and needs no failed gate. Never the kill switch."""
    target: Literal["all", "models", "infrastructure"] | None = None
    reason: Text = ""
    wait: float = Field(default=0.0, ge=0, le=600, allow_inf_nan=False)
    """Seconds to wait for the cycle's end."""


class TriggerAnswer(Answer):
    """What ``POST trigger`` did."""

    model_config = example(
        status="started", message="si_2026_11_23_001 is opened: a person insists: no reason given", target="all", cycle_id="si_2026_11_23_001",
        actions_taken=["cycle_opened", "cycle_prepare_job launched"], improvements={"ndcg_delta": None, "latency_delta": None}, run_id="8c0f", state="opened",
    )  # fmt: skip
    status: Literal["completed", "started", "skipped", "refused"]
    message: str
    target: Literal["all", "models", "infrastructure"]
    cycle_id: str | None
    actions_taken: list[str]
    improvements: Improvements
    run_id: str | None = None
    state: str | None = None


class Because(Asked):
    """Why; it goes into the ledger."""

    reason: Text = ""


class Started(Answer):
    """``POST start``."""

    model_config = example(status="started", message="the loop runs: the kill switch is off and quality_gate_sensor is on", interval_minutes=15)
    status: Literal["started", "already_running"]
    message: str
    interval_minutes: int


class Stopped(Answer):
    """``POST stop``: the kill switch."""

    model_config = example(status="stopped", message="the kill switch is on; watch and rollback go on", terminated_runs=["8c0f"], asked_runs=[])
    status: Literal["stopped"]
    message: str
    terminated_runs: list[str]
    """Runs that were told to end."""
    asked_runs: list[str]
    """Runs that could not be told, and end when they look at the kill switch next."""


class RollbackRequest(Asked):
    """``POST rollback``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, json_schema_extra={"examples": [{"environment": "local", "reason": "users complain"}]})
    environment: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    """The contour whose newest release is taken back: the one that this API serves."""
    to_version: Annotated[str, StringConstraints(min_length=6, max_length=80)] | None = None
    """Digest (or its first characters) that must serve afterwards; refused where the way back leads elsewhere."""
    reason: Text = ""


class RollbackAnswer(Answer):
    """What ``POST rollback`` did."""

    model_config = example(
        status="completed",
        cycle_id="si_2026_11_23_001",
        from_digest="sha256:9b2c",
        to_digest="sha256:6f1e",
        revert_commit="3f2a",
        seconds=2.4,
        message="taken back",
    )
    status: Literal["completed", "started"]
    cycle_id: str
    from_digest: str | None
    to_digest: str | None
    revert_commit: str | None
    seconds: float | None
    message: str


# --------------------------------------------------------------------------- metrics, gates


class MetricDetail(Answer):
    """What stands behind a number."""

    n: int
    ci_low: float | None
    ci_high: float | None
    source: str
    age_seconds: float | None
    window: dict[str, datetime | None]
    unit: str = ""
    reason: str | None = None


class Metrics(Answer):
    """``GET metrics``: the newest snapshot; unknown is null."""

    model_config = example(
        ndcg_at_10=0.705, avg_latency_ms=130.2, p95_latency_ms=200.0, error_rate=0.0, cost_per_1k_requests=0.0038, user_satisfaction=None,
        etl_lag_seconds=0.0, index_throughput=None, gpu_utilization=None, timestamp="2026-11-23T10:15:00Z",
        details={"ndcg_at_10": {"n": 160, "ci_low": 0.68, "ci_high": 0.73, "source": "probes", "age_seconds": 12.0,
                                "window": {"start": "2026-11-23T10:00:00Z", "end": "2026-11-23T10:15:00Z"}, "unit": "", "reason": None}},
        recall_at_20=0.91, mock=False, snapshot_id="local-20261123T101500000000",
    )  # fmt: skip
    ndcg_at_10: float | None
    avg_latency_ms: float | None
    p95_latency_ms: float | None
    error_rate: float | None
    cost_per_1k_requests: float | None
    user_satisfaction: float | None
    """Mean of ratings from 1 to 5."""
    etl_lag_seconds: float | None
    index_throughput: float | None
    gpu_utilization: float | None
    timestamp: datetime | None
    """End of the window; null before the first snapshot."""
    details: dict[str, MetricDetail]
    recall_at_20: float | None
    mock: bool
    snapshot_id: str | None


class GateDetail(Answer):
    """One gate: what it wants, what it says now."""

    direction: Literal["min", "max"]
    kind: Literal["absolute", "relative"]
    unit: str | None
    min_sample: int
    status: Literal["pass", "fail", "unknown", "not_applicable"]
    value: float | None
    threshold: float
    reason: str
    critical: bool
    override: dict[str, Any] | None = None
    also: list[dict[str, Any]] = Field(default_factory=list)
    """Further gates on the same metric."""


class Gates(Answer):
    """``GET quality-gates``."""

    model_config = example(
        gates={"error_rate": 0.01}, description={"error_rate": "Share of searches that failed"},
        details={"error_rate": {"direction": "max", "kind": "absolute", "unit": "", "min_sample": 50, "status": "pass", "value": 0.0, "threshold": 0.01,
                                "reason": "error_rate 0 meets <= 0.01", "critical": True, "override": None, "also": []}},
    )  # fmt: skip
    gates: dict[str, float]
    description: dict[str, str]
    details: dict[str, GateDetail]


class GateChanged(Answer):
    """``POST quality-gates/{metric}``: another threshold for a time."""

    model_config = example(
        metric="ndcg_at_10",
        old_threshold=0.75,
        new_threshold=0.7,
        updated_at="2026-11-23T10:15:00Z",
        expires_at="2026-11-24T10:15:00Z",
        reason="",
        actor="api:anna",
    )
    metric: str
    old_threshold: float | None
    """The absolute threshold before; null where the contour has none for this metric."""
    new_threshold: float
    updated_at: datetime
    expires_at: datetime
    reason: str
    actor: str


class GateEnded(Answer):
    """An override that was taken back."""

    model_config = example(metric="ndcg_at_10", status="ended", threshold=0.75, reason="the holidays are over", actor="api:anna")
    metric: str
    status: Literal["ended", "none"]
    """``none``: there was no override in force."""
    threshold: float | None
    """The absolute threshold in force now; null where the contour has none for this metric."""
    reason: str
    actor: str


# --------------------------------------------------------------------------- readiness


class PartProblem(Answer):
    """A part that does not work."""

    part: str
    problem: str
    still_works: str
    """What does all the same."""


class Ready(Answer):
    """``GET /ready``."""

    model_config = example(
        status="degraded",
        problems=[{"part": "dagster", "problem": "Dagster's webserver does not answer", "still_works": "every GET, stop, quality-gates, approvals, feedback"}],
    )
    status: Literal["ready", "degraded", "unavailable"]
    problems: list[PartProblem]


__all__ = [
    "AlertsAnswer",
    "Answer",
    "ApprovalAnswer",
    "ApprovalRequest",
    "Approvals",
    "Asked",
    "Because",
    "Champions",
    "CurrentCycle",
    "CycleRow",
    "CycleStory",
    "CycleVerdict",
    "Cycles",
    "Entry",
    "FeedbackAnswer",
    "FeedbackRequest",
    "GateChanged",
    "GateDetail",
    "GateEnded",
    "Gates",
    "History",
    "Improvements",
    "LastAction",
    "MetricDetail",
    "Metrics",
    "PartProblem",
    "ProblemDocument",
    "Ready",
    "RollbackAnswer",
    "RollbackRequest",
    "Started",
    "Status",
    "Stopped",
    "TriggerAnswer",
    "TriggerRequest",
    "UnwatchedRelease",
]
