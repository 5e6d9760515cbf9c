"""The trigger table as data, and the one question a tick asks: start a cycle, or not, and why.

What belongs here: which failed gate leads to what. What must not: thresholds (criteria), opening a cycle (control), the actions themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from predator_si.control.policy import Standing
from predator_si.control.policy import decide as ask_policy
from predator_si.records import Answer, Criterion, GateResult, MetricsSnapshot, Trigger


@dataclass(frozen=True)
class TriggerRule:
    """One row of CONTRACT.md section 3.

    Attributes
    ----------
    type
        The trigger's name: metric and direction.
    metrics
        Failed gates on any of these fire the row.
    actions
        In the order to try them.
    promotion_gate
        What must hold before the cycle's result is promoted, in words; the criteria are the evaluation's.
    rollback
        When the result is taken back: ``relative`` thresholds are against the baseline.
    react_within_seconds
        From fault to action; measured by ``bench react``.
    watched_each_minute
        Rows that must react within minutes are looked at by ``service_guard_sensor``, the others by the 15-minute tick.
    """

    type: str
    metrics: tuple[str, ...]
    actions: tuple[str, ...]
    promotion_gate: str
    rollback: Criterion | None
    react_within_seconds: float
    watched_each_minute: bool = False


def _back(metric: str, direction: Literal["min", "max"], threshold: float, kind: Literal["absolute", "relative"] = "absolute") -> Criterion:
    return Criterion(name=f"{metric}_rollback", metric=metric, direction=direction, kind=kind, threshold=threshold)


COST = TriggerRule(
    "cost_per_1k_requests_up",
    ("cost_per_1k_requests",),
    ("cheaper_variant", "fewer_replicas"),
    "NDCG non-inferior",
    _back("cost_per_1k_requests", "max", 0.5 * 1.2 / 0.8),
    1800.0,
)
"""Where ``kubecost.costOptimization`` is false its gate only tells people."""
TRIGGERS: tuple[TriggerRule, ...] = (
    TriggerRule(
        "error_rate_up",
        ("error_rate",),
        ("diagnose", "previous_model", "depth_zero"),
        "none: bring the service back",
        _back("error_rate", "max", 0.01),
        300.0,
        True,
    ),
    TriggerRule("index_errors_up", ("index_errors",), ("retry", "quarantine", "reindex"), "no document lost", _back("index_errors", "max", 10.0), 180.0, True),
    TriggerRule(
        "ndcg_at_10_down",
        ("ndcg_at_10",),
        ("diagnose", "augment", "retrain_reranker"),
        "NDCG superior (target +3%), guardrails non-inferior",
        _back("ndcg_at_10", "min", 0.0, "relative"),
        3600.0,
    ),
    TriggerRule(
        "recall_at_20_down",
        ("recall_at_20",),
        ("diagnose", "repair_index", "widen_candidates", "tune_fusion", "choose_embedder"),
        "cost within budget",
        _back("recall_at_20", "min", -0.02, "relative"),
        7200.0,
    ),
    TriggerRule(
        "p95_latency_ms_up",
        ("p95_latency_ms", "avg_latency_ms"),
        ("profile", "quantise", "cut_depth", "distil", "add_replicas"),
        "NDCG non-inferior, latency at most +15% of target",
        _back("p95_latency_ms", "max", 1000.0),
        300.0,
        True,
    ),
    TriggerRule("etl_lag_seconds_up", ("etl_lag_seconds",), ("add_workers",), "no events lost", _back("etl_lag_seconds", "max", 120.0), 600.0, True),
    TriggerRule(
        "user_satisfaction_down",
        ("user_satisfaction",),
        ("explain_worst_queries", "retrain_with_feedback"),
        "NDCG non-inferior",
        _back("user_satisfaction", "min", 3.5),
        86400.0,
    ),
    COST,
)
"""Most urgent first. A broken service comes before anything: no other number means much while it fails. Then relevance, because users get
wrong answers, before latency, because they wait for right ones; then lag, satisfaction (slow, and mostly an effect of the rows above) and
cost. The cost row rolls back at 120% of the budget of which its gate is 80%."""


@dataclass(frozen=True)
class GateState(Standing):
    """What :func:`decide` needs to know beside the gates: how the contour stands by policy, and how far its snapshots are believed."""

    snapshot_max_age: timedelta = timedelta(minutes=45)
    """Three ticks: an older snapshot means that monitoring itself has stopped."""
    mock_signals: bool = False
    """Whether this contour acts on made-up metrics."""
    cost_optimization: bool = True
    """Whether cost alone may start a cycle; where it may not, its gate only tells people."""


@dataclass(frozen=True)
class Start:
    """Open a cycle. ``also_failing`` are the gates that wait for a later one, ``rule`` is the row that fired."""

    trigger: Trigger
    rule: TriggerRule
    also_failing: tuple[GateResult, ...]
    reason: str


@dataclass(frozen=True)
class Skip:
    """Do nothing now: every reason, and when the last obstacle ends by itself (null when a person or an event must end it)."""

    reasons: tuple[str, ...]
    retry_at: datetime | None = None

    @property
    def reason(self) -> str:
        """The reasons in one line."""
        return "; ".join(self.reasons)


def decide(snapshot: MetricsSnapshot | None, gates: Sequence[GateResult], state: GateState, now: datetime, *, force: bool = False) -> Start | Skip:
    """Start a cycle for the most urgent failed gate that may start one, or skip.

    Only a failure with a value starts a cycle: an unknown gate, one that fails for lack of data, or one that is recovering, never does. When policy refuses a
    trigger only because its last cycle was fruitless (cool-down), the next failing row is tried. ``force`` is a person's insistence: it
    passes interval, cool-down and ``cost_optimization``, never the kill switch, and it does not make up a trigger.
    """
    if snapshot is None:
        return Skip(("there is no metrics snapshot yet",))
    age = now - snapshot.created_at
    if age > state.snapshot_max_age:
        limit = state.snapshot_max_age.total_seconds()
        return Skip((f"the newest snapshot is {age.total_seconds():.0f} s old, at most {limit:.0f} s are acted upon: look at the monitoring job",))
    if snapshot.mock and not state.mock_signals:
        return Skip(("the snapshot is made of mock signals, and this contour does not act on them",))

    doubts = tuple(f"unknown: {gate.reason}" for gate in gates if gate.answer is Answer.UNKNOWN)
    recovering = tuple(gate.reason for gate in gates if gate.recovering)
    failing = [gate for gate in gates if gate.answer is Answer.FAIL and not gate.recovering]
    ranked = [(rule, [gate for gate in failing if gate.value is not None and gate.criterion.metric in rule.metrics]) for rule in TRIGGERS]
    ranked = [(rule, fired) for rule, fired in ranked if fired]
    covered = {id(gate) for _, fired in ranked for gate in fired}
    idle = tuple(f"fails without a trigger: {gate.reason}" for gate in failing if id(gate) not in covered)
    if not (state.cost_optimization or force):
        idle += tuple(f"{rule.type} only tells people (kubecost.costOptimization is false): {fired[0].reason}" for rule, fired in ranked if rule is COST)
        ranked = [(rule, fired) for rule, fired in ranked if rule is not COST]
    if not ranked:
        passing = sum(gate.answer is Answer.PASS for gate in gates)
        switch = ("the kill switch is on",) if state.kill_switch else ()
        return Skip((f"no gate asks for a cycle: {passing} of {len(gates)} pass", *idle, *recovering, *doubts, *switch))

    reasons: list[str] = []
    retry_at: datetime | None = None
    for rule, fired in ranked:
        answer = ask_policy("start_cycle", state, now=now, trigger=rule.type, force=force)
        if answer.answer == "allow":
            also = tuple(gate for other, waiting in ranked if other is not rule for gate in waiting)
            trigger = _trigger(rule, fired)
            return Start(trigger, rule, also, trigger.reason + (f" (also failing: {', '.join(gate.criterion.name for gate in also)})" if also else ""))
        reasons.append(f"{rule.type} may not start a cycle: {answer.reason} ({fired[0].reason})")
        if answer.retry_at is not None:
            retry_at = answer.retry_at if retry_at is None else min(retry_at, answer.retry_at)
        if answer.rule != "cool_down":  # the other rules refuse every trigger alike
            reasons += [f"{other.type} waits as well ({waiting[0].reason})" for other, waiting in ranked[ranked.index((rule, fired)) + 1 :]]
            break
    return Skip((*reasons, *idle, *doubts), retry_at)


def _trigger(rule: TriggerRule, fired: Sequence[GateResult]) -> Trigger:
    """The trigger of a row, with the numbers of the gate on the row's own metric where it is among the failed ones."""
    gate = min(fired, key=lambda found: (rule.metrics.index(found.criterion.metric), found.criterion.kind != "relative"))
    delta = None if gate.value is None or gate.reference is None else gate.value - gate.reference
    return Trigger(
        type=rule.type,
        metric=gate.criterion.metric,
        value=gate.value,
        baseline=gate.reference,
        delta=delta,
        actions=rule.actions,
        reason="; ".join(found.reason for found in fired),
    )
