"""The shapes of what is told about cycles and people: history, cycles, verdicts, approvals, champions, feedback.

What belongs here: keys, types, ranges, examples. What must not: filling them (``readings``, ``optimizer``).
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, field_validator

from predator_si.api.shape import Answer, Asked, example

_A_WORD = r"[^\s\x1c-\x1f\x85\ufeff]"
"""Anything but blanks, and the same anything by the rules of JSON Schema and of Python, whose blanks differ."""


class Improvements(Answer):
    """What a cycle gained, in words; null until measured."""

    ndcg_delta: str | None
    latency_delta: str | None


class Entry(Answer):
    """One ledger record as people read it."""

    timestamp: datetime
    action: dict[str, Any]
    metrics: dict[str, float]
    audit: dict[str, Any] | None
    """The audit record of its cycle (CONTRACT.md section 4); null where it belongs to none."""
    hash: str
    previous_hash: str
    seq: int
    actor: str
    cycle_id: str | None


class History(Answer):
    """``GET history``: newest first; ``next_cursor`` leads to older ones, null at the end."""

    model_config = example(
        total=41, showing=1,
        history=[{"timestamp": "2026-11-23T10:15:00Z", "action": {"type": "kill_switch_off", "reason": "freeze is over"}, "metrics": {}, "audit": None,
                  "hash": "9f" * 32, "previous_hash": "3a" * 32, "seq": 41, "actor": "api:anna", "cycle_id": None}],
        next_cursor="41",
    )  # fmt: skip
    total: int
    showing: int
    history: list[Entry]
    next_cursor: str | None


class CycleRow(Answer):
    """A cycle in a list."""

    cycle_id: str
    contour: str
    state: str
    trigger: str
    opened_at: datetime
    updated_at: datetime
    reason: str
    actor: str


class Cycles(Answer):
    """``GET cycles``, newest first."""

    model_config = example(
        cycles=[{"cycle_id": "si_2026_11_23_001", "contour": "local", "state": "stable", "trigger": "ndcg_at_10_down", "opened_at": "2026-11-23T10:15:00Z",
                 "updated_at": "2026-11-23T10:40:00Z", "reason": "4 checks", "actor": "quality_gate_sensor"}],
        showing=1, next_cursor=None,
    )  # fmt: skip
    cycles: list[CycleRow]
    showing: int
    next_cursor: str | None
    """Leads to older ones; null at the end."""


class CycleStory(Answer):
    """``GET cycles/{cycle_id}``."""

    model_config = example(
        cycle={"cycle_id": "si_2026_11_23_001", "contour": "local", "state": "stable", "trigger": "ndcg_at_10_down", "opened_at": "2026-11-23T10:15:00Z",
               "updated_at": "2026-11-23T10:40:00Z", "reason": "4 checks", "actor": "quality_gate_sensor"},
        trigger={"type": "ndcg_at_10_down", "metric": "ndcg_at_10", "value": 0.4, "baseline": 0.6}, audit={"cycle_id": "si_2026_11_23_001"},
        verdicts=[{"stage": "promotion", "file": "decision-promote.json", "answer": "promote", "reason": "superior"}],
        improvements={"ndcg_delta": "+0.04", "latency_delta": "-50ms"}, artifacts=[{"name": "evaluation.json", "bytes": 4096}],
        links={"dagster": "http://127.0.0.1:3000/assets/cycle/evaluation?partition=si_2026_11_23_001", "mlflow": None, "report": None},
    )  # fmt: skip
    cycle: CycleRow
    trigger: dict[str, Any]
    audit: dict[str, Any]
    verdicts: list[dict[str, Any]]
    improvements: Improvements
    artifacts: list[dict[str, Any]]
    links: dict[str, str | None]


class CycleVerdict(Answer):
    """``GET cycles/{cycle_id}/verdict``: what an analysis of Argo Rollouts asks."""

    model_config = example(
        verdict="inconclusive", evidence={"decision-trial.json": "9f" * 32}, digest="sha256:9b2c", updated_at="2026-11-23T10:15:00Z", phase="on_trial",
        value=0.5, stage="trial", reason="120 of 200 requests", failed_gates=[], requests=120, cycle_id="si_2026_11_23_001",
    )  # fmt: skip
    verdict: Literal["promote", "reject", "inconclusive"]
    evidence: dict[str, str]
    """File -> sha256 of what the verdict was computed from."""
    digest: str | None
    """Of the challenger."""
    updated_at: datetime
    phase: str
    """State of the cycle."""
    value: float
    """1 promote, 0 reject, 0.5 otherwise."""
    stage: str
    reason: str
    failed_gates: list[str]
    requests: int
    cycle_id: str


class Approvals(Answer):
    """``GET approvals``: the queue with its evidence, newest first."""

    model_config = example(
        approvals=[{"cycle_id": "si_2026_11_23_001", "stage": "promote", "state": "waiting", "asked_at": "2026-11-23T10:15:00Z",
                    "expires_at": "2026-11-26T10:15:00Z", "evidence_hash": "9f" * 32, "evidence": {"verdict": "promote"}, "actor": None, "reason": ""}],
        waiting=1, next_cursor=None,
    )  # fmt: skip
    approvals: list[dict[str, Any]]
    waiting: int
    """Of the whole queue, not of this page."""
    next_cursor: str | None
    """Leads to older ones; null at the end."""


class ApprovalRequest(Asked):
    """``POST approvals/{cycle_id}``."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, json_schema_extra={"examples": [{"decision": "approve", "reason": "the interval convinces me"}]}
    )
    decision: Literal["approve", "reject"]
    reason: Annotated[str, StringConstraints(min_length=1, max_length=2000), Field(json_schema_extra={"pattern": _A_WORD})]

    @field_validator("reason")
    @classmethod
    def _says_something(cls, value: str) -> str:
        if re.search(_A_WORD, value) is None:
            raise ValueError("says why, in words")
        return value


class ApprovalAnswer(Answer):
    """The decision, and whose it is."""

    model_config = example(cycle_id="si_2026_11_23_001", decision="approve", actor="api:anna", reason="the interval convinces me", state="awaiting_approval")
    cycle_id: str
    decision: Literal["approve", "reject"]
    actor: str
    reason: str
    state: str


class Champions(Answer):
    """``GET champions``: who served when and why, newest first."""

    model_config = example(
        champions=[
            {"contour": "local", "digest": "sha256:6f1e", "cycle_id": None, "since": "2026-11-23T10:15:00Z", "until": None, "why": "seeded", "commit": None}
        ],
        next_cursor=None,
    )
    champions: list[dict[str, Any]]
    next_cursor: str | None
    """Leads to older ones; null at the end."""


class FeedbackRequest(Asked):
    """``POST feedback``: a score of a whole answer, or a mark of one document; it feeds user_satisfaction and judgments."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True,
        json_schema_extra={"examples": [{"query_id": "4f0c", "score": 5}, {"query_id": "4f0c", "document_id": "json.dumps", "relevant": True}]},
    )  # fmt: skip
    query_id: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    score: int | None = Field(default=None, ge=1, le=5)
    document_id: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = None
    relevant: bool | None = None
    client_id: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None


class AlertsAnswer(Answer):
    """Alerts of somebody else that were taken into the outbox."""

    model_config = example(status="accepted", alerts=2, told=1)
    status: Literal["accepted"]
    alerts: int
    told: int
    """Of these, the ones that were not told a moment ago."""


class FeedbackAnswer(Answer):
    """Feedback that the search service took."""

    model_config = example(status="accepted", query_id="4f0c", known_query=True)
    status: Literal["accepted"]
    query_id: str
    known_query: bool
    """Whether the service remembers issuing this id; it is recorded in any case."""
