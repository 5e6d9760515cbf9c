"""A cycle as one tree of spans: the cycle, its jobs, their steps, and the functions that take time.

What belongs here: names, ids and places in the tree. What must not: sending (``trace_export``), reading Dagster (``orchestration.traces``).

The tree is made from records once a cycle has ended: jobs and steps from Dagster's event log, functions from ``spans.jsonl`` beside the cycle's artifacts, the
story from the ledger. So a process that is killed loses nothing that it had finished, a collector that is down holds nobody up, and with tracing off nothing
is written and no library is loaded. Ids follow from the cycle's id and a span's key: whoever makes the tree again makes the same one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from predator_si.privacy import redact
from predator_si.records import Cycle, LedgerRecord, Record

VARIABLE = "PREDATOR_SI_TRACES"
"""``mlflow:http://host:port`` (an MLflow server), or the address of any OTLP/HTTP collector's traces; ``off`` switches tracing off."""
STANDARD = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
LANGSMITH = "LANGSMITH_API_KEY"
FILE = "spans.jsonl"
_LONG = 500


def wanted(env: Mapping[str, str] = os.environ) -> bool:
    """Whether this process traces at all."""
    if env.get(VARIABLE, "").strip().lower() == "off" or env.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    return any(env.get(name, "").strip() for name in (VARIABLE, STANDARD, LANGSMITH))


class TimedCall(Record):
    """One line of ``spans.jsonl``: a function of a stage that took time."""

    key: str
    parent: str | None
    """Key of the call around it; null: the step of ``run_id``, or the cycle where there is none."""
    name: str
    start: datetime
    end: datetime
    run_id: str | None = None
    step: str | None = None
    error: str | None = None
    """Type of what it raised; never its message, which may quote a query."""


@dataclass(frozen=True)
class StepRun:
    """One step of a job."""

    key: str
    start: datetime
    end: datetime
    succeeded: bool


@dataclass(frozen=True)
class JobRun:
    """One Dagster run of a cycle."""

    run_id: str
    job: str
    status: str
    start: datetime
    end: datetime
    steps: Sequence[StepRun] = ()


@dataclass(frozen=True)
class SpanFact:
    """One node of the tree. ``parent`` is the key of another; null only for the root."""

    key: str
    parent: str | None
    name: str
    start: datetime
    end: datetime
    attributes: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    events: Sequence[tuple[datetime, str, Mapping[str, str | int | float | bool]]] = ()
    error: str | None = None


def trace_id(cycle_id: str) -> int:
    """128 bits that follow from the cycle's id: jobs in other processes, and later ones, join the same tree."""
    return int.from_bytes(hashlib.sha256(f"predator_si:{cycle_id}".encode()).digest()[:16], "big") or 1


def span_id(cycle_id: str, key: str) -> int:
    """64 bits that follow from the cycle's id and the span's key."""
    return int.from_bytes(hashlib.sha256(f"predator_si:{cycle_id}:{key}".encode()).digest()[:8], "big") or 1


def tree(cycle: Cycle, records: Sequence[LedgerRecord], runs: Iterable[JobRun], calls: Iterable[TimedCall], cost_usd: float | None) -> list[SpanFact]:
    """The nodes of a cycle, the root first, parents before children."""
    made: list[SpanFact] = []
    known = {"cycle"}
    end = max([cycle.updated_at, *(record.timestamp for record in records)])
    for run in sorted(runs, key=lambda one: one.start):
        key = f"run:{run.run_id}"
        failed = None if run.status == "SUCCESS" else run.status
        made.append(SpanFact(key, "cycle", run.job, run.start, run.end, {"dagster.run_id": run.run_id, "dagster.status": run.status}, error=failed))
        known.add(key)
        for step in run.steps:
            made.append(
                SpanFact(f"{key}:{step.key}", key, step.key, step.start, step.end, {"dagster.step": step.key}, error=None if step.succeeded else "FAILURE")
            )
            known.add(f"{key}:{step.key}")
        end = max(end, run.end)
    listed = list(calls)
    known |= {call.key for call in listed}
    for call in sorted(listed, key=lambda one: one.start):
        step_key = f"run:{call.run_id}:{call.step}"
        parent = call.parent if call.parent in known else step_key if step_key in known else "cycle"
        made.append(SpanFact(call.key, parent, call.name, call.start, call.end, {}, error=call.error))
    facts: dict[str, Any] = {
        "predator.cycle": cycle.cycle_id,
        "predator.contour": cycle.contour,
        "predator.outcome": cycle.state.value,
        "predator.trigger": cycle.trigger.type,
        "predator.trigger.value": cycle.trigger.value,
        "predator.trigger.baseline": cycle.trigger.baseline,
        "predator.actor": cycle.actor,
        "predator.total_cost_usd": cost_usd,
    }
    attributes = {name: value for name, value in facts.items() if value is not None}
    told = [(record.timestamp, record.action, _plain(record)) for record in records]
    return [SpanFact("cycle", None, f"cycle {cycle.cycle_id}", cycle.opened_at, end, attributes, told), *made]


def read_calls(lines: Iterable[str]) -> list[TimedCall]:
    """The calls of ``spans.jsonl``; a line that a killed process left half-written is left out."""
    found = []
    for line in lines:
        try:
            found.append(TimedCall.model_validate_json(line))
        except ValidationError:
            continue
    return found


def _plain(record: LedgerRecord) -> dict[str, str | int | float | bool]:
    """A ledger record's attributes: its numbers and short words; texts without personal data."""
    found: dict[str, str | int | float | bool] = {"ledger.seq": record.seq, "actor": record.actor, "reason": redact(record.reason)[:_LONG]}
    for name, value in record.payload.items():
        if isinstance(value, str):
            found[name] = redact(value)[:_LONG]
        elif isinstance(value, bool | int | float):
            found[name] = value
    return found
