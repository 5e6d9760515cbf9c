"""What the operations page shows, as plain functions of a loop: each part is read, or says why it cannot be.

What belongs here: gathering for people. What must not: HTML, words (``texts``), changing anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from predator_si.api import answers, readings
from predator_si.control import ACTIVE
from predator_si.control.states import ROAD
from predator_si.errors import PredatorError
from predator_si.monitor import Start
from predator_si.orchestration.links import cycle_urls, pages_at
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.metering import spent_in_month
from predator_si.orchestration.steps import observe, week
from predator_si.orchestration.steps.approve import WAITING, WaitingLook
from predator_si.records import ChampionSpan, Cycle, CycleState, Decision, GateOverride, GateResult, LedgerRecord, utc_now
from predator_si.reports.before_after import BeforeAfter
from predator_si.reports.costs import read_costs
from predator_si.reports.stories import KeyFigures
from predator_si.reports.verdicts import verdicts_in
from predator_si.signals import SIGNALS

T = TypeVar("T")
WINDOWS = 60
"""Newest windows in a curve."""
_RECENT_CYCLES = 12
_RECENT_RECORDS = 8
_ANSWERED = 5
_MESSAGES = 8


@dataclass(frozen=True)
class Told(Generic[T]):
    """A part of the page, or why it is not known."""

    value: T | None
    why: str | None = None


def attempt(loop: Loop, read: Callable[[], T]) -> Told[T]:
    """What ``read`` gives; an error of ours becomes the reason, without this machine's folders."""
    try:
        return Told(read())
    except PredatorError as error:
        return Told(None, str(error).replace(str(loop.home.path), "<home>"))


# --------------------------------------------------------------------------- now


@dataclass(frozen=True)
class Now:
    """What the loop does at this moment.

    Attributes
    ----------
    kind
        Key of the sentence: ``now_<kind>`` in ``texts``.
    reasons
        Why a cycle starts or does not, in the loop's own words; empty while one is under way.
    """

    kind: str
    reasons: tuple[str, ...]
    retry_at: datetime | None
    starts: bool


def now_of(loop: Loop, status: answers.Status, active: Cycle | None) -> Now:
    """What the loop does, and why it does not start a cycle."""
    if not (loop.home.path / "plan.json").is_file():
        return Now("unprepared", (), None, False)
    answer = None if active is not None else observe.next_step(loop)
    starts = isinstance(answer, Start)
    reasons = () if answer is None else (answer.reason,) if isinstance(answer, Start) else answer.reasons
    retry_at = None if answer is None or isinstance(answer, Start) else answer.retry_at
    if status.kill_switch:
        kind = "stopped"
    elif active is not None and active.state is CycleState.AWAITING_APPROVAL:
        kind = "waiting"
    elif active is not None and active.state in (CycleState.RELEASED, CycleState.WATCHING):
        kind = "watching"
    elif active is not None:
        kind = "cycle"
    elif not status.enabled:
        kind = "disabled"
    elif not status.is_running or status.problems:
        kind = "silent"
    else:
        kind = "starting" if starts else "idle"
    return Now(kind, reasons, retry_at, starts and kind == "starting")


# --------------------------------------------------------------------------- a cycle


@dataclass(frozen=True)
class Step:
    """One step of a cycle's road. ``standing``: ``done``, ``current``, ``skipped`` or ``ahead``."""

    state: str
    standing: str
    at: datetime | None


def steps_of(cycle: Cycle, records: Sequence[LedgerRecord]) -> list[Step]:
    """The road of a cycle with the moments from its ledger records; where it ended off the road, that end is the last step."""
    reached = {record.payload["to"]: record.timestamp for record in records if record.action.startswith("cycle_") and "to" in record.payload}
    ended = cycle.state not in ROAD
    last = max((index for index, state in enumerate(ROAD) if state.value in reached or state is cycle.state), default=0)
    found = []
    for index, state in enumerate(ROAD):
        if state is cycle.state:
            standing = "current" if state in ACTIVE else "done"
        elif state.value in reached:
            standing = "done"
        else:
            standing = "skipped" if index < last else "ahead"
        if not (ended and standing == "ahead"):
            found.append(Step(state.value, standing, reached.get(state.value, cycle.updated_at if state is cycle.state else None)))
    return [*found, Step(cycle.state.value, "done", reached.get(cycle.state.value, cycle.updated_at))] if ended else found


@dataclass(frozen=True)
class Story:
    """One cycle as its page tells it."""

    cycle: Cycle
    steps: list[Step]
    records: list[LedgerRecord]
    verdicts: Told[list[dict[str, Any]]]
    gain: Told[answers.Improvements]
    cost_usd: Told[float | None]
    links: Mapping[str, str]
    overrides: list[GateOverride]
    waiting: Told[list[Waiting]]


def story_of(loop: Loop, cycle_id: str) -> Story:
    """Everything that the page of a cycle shows.

    Raises
    ------
    Missing
        No such cycle.
    """
    folder = readings.folder_of(loop, cycle_id)
    cycle = loop.control.cycle(cycle_id)
    records = loop.control.records(500, cycle_id=cycle_id)

    def cost() -> float | None:
        costs = read_costs(folder)
        return None if costs is None else costs.total_cost_usd

    links = _links(loop, cycle_id)
    links["dagster"] = f"http://127.0.0.1:{loop.settings.ports.dagster}/locations/predator_si/asset-groups/cycle/lineage"
    return Story(
        cycle=cycle,
        steps=steps_of(cycle, records),
        records=records,
        verdicts=attempt(loop, lambda: verdicts_in(folder)),
        gain=attempt(loop, lambda: readings.improvements_of(folder)),
        cost_usd=attempt(loop, cost),
        links=links,
        overrides=loop.control.overrides_of_cycle(cycle_id),
        waiting=attempt(loop, lambda: [one for one in waiting(loop) if one.cycle_id == cycle_id]),
    )


# --------------------------------------------------------------------------- approvals


@dataclass(frozen=True)
class Waiting:
    """A question to a person, with what it was judged by. ``expires_at`` is null where no limit was recorded."""

    contour: str
    cycle_id: str
    stage: str
    asked_at: datetime
    expires_at: datetime | None
    evidence: Mapping[str, Any]
    links: Mapping[str, str]
    look: Mapping[str, Any] | None = None
    """``approval-watch.json``: what the newest look at trial and gates says while nobody has answered."""


def waiting(loop: Loop, now: datetime | None = None) -> list[Waiting]:
    """What a person may answer now, newest first: questions of this contour, and of the one to which its releases are promoted.

    A cycle that waits without a question in the queue (an older home, a program that died between the two) is shown with its decision as evidence.
    """
    asked = loop.control.approvals(loop.answered_here, waiting=True, now=now or utc_now())
    found = [
        Waiting(one.contour, one.cycle_id, one.stage, one.asked_at, one.expires_at, one.evidence, _links(loop, one.cycle_id), _look(loop, one.cycle_id))
        for one in asked
    ]
    active = loop.control.active_cycle(loop.contour)
    if active is None or active.state is not CycleState.AWAITING_APPROVAL or loop.control.approval(active.cycle_id) is not None:
        return found
    decision = Decision.read(loop.home.artifacts / active.cycle_id / "decision-promote.json")
    if decision.approved_by is not None:
        return found
    evidence = {
        "verdict": decision.verdict.value,
        "reason": decision.reason,
        "gates": [{"gate": gate.criterion.name, "answer": gate.answer.value, "reason": gate.reason} for gate in decision.gates],
    }
    return [*found, Waiting(loop.contour, active.cycle_id, "promote", active.updated_at, None, evidence, _links(loop, active.cycle_id))]


def _links(loop: Loop, cycle_id: str) -> dict[str, str]:
    """Where to look besides; pages of this host without its name, since nobody knows by which one it is asked."""
    base = pages_at(loop.settings)
    return {name: url.removeprefix(base) for name, url in cycle_urls(loop.settings, cycle_id).items() if name != "operations_page"}


def _look(loop: Loop, cycle_id: str) -> Mapping[str, Any] | None:
    path = loop.home.artifacts / cycle_id / WAITING
    return WaitingLook.read(path).model_dump(mode="json") if path.is_file() else None


# --------------------------------------------------------------------------- gates


@dataclass(frozen=True)
class GateLine:
    """A gate on the newest window, with the windows before."""

    result: GateResult
    unit: str
    name: Mapping[str, str]
    history: Sequence[float | None]
    line: float | None
    """Where the limit lies in the unit of the values; null where it cannot be said."""
    override: GateOverride | None


def gate_lines(loop: Loop, windows: Sequence[Mapping[str, float | None]]) -> list[GateLine]:
    """Every gate of the contour: its answer, its limit, its history; the failing ones first, those that do not apply last."""
    overrides, results = readings.gate_answers(loop)
    found = []
    for gate in results:
        metric = gate.criterion.metric
        facts = SIGNALS.get(metric)
        name = {"en": facts.en, "uk": facts.uk} if facts is not None else {"en": metric, "uk": metric}
        line = gate.limit if gate.limit is not None else gate.criterion.threshold if gate.criterion.kind == "absolute" else None
        history = [one.get(metric) for one in windows]
        found.append(GateLine(gate, facts.unit if facts is not None else "", name, history, line, overrides.get(metric)))
    order = ("fail", "unknown", "pass", "not_applicable")
    return sorted(found, key=lambda one: order.index(one.result.answer.value))


def window_values(snapshots: Path, contour: str, limit: int = WINDOWS) -> list[Mapping[str, float | None]]:
    """Metric -> value of a contour's newest windows, oldest first; one that cannot be read has no values, which a curve shows as a gap."""
    newest = sorted(snapshots.glob(f"{contour}-????????T*.json"), key=lambda path: path.name)[-limit:]
    return [_values(path, path.stat().st_mtime_ns) for path in newest]


@lru_cache(maxsize=512)
def _values(path: Path, version: int) -> Mapping[str, float | None]:
    try:
        metrics = json.loads(path.read_bytes())["metrics"]
        return {str(name): None if one["value"] is None else float(one["value"]) for name, one in metrics.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


# --------------------------------------------------------------------------- costs, messages


@dataclass(frozen=True)
class Costs:
    """What this month's cycles cost so far, what they may, and what a thousand searches cost in the newest window (USD; null is unknown, with the reason)."""

    month_usd: Told[float]
    budget_usd: float | None
    per_1k_usd: float | None
    per_1k_why: str | None


def costs_of(loop: Loop, now: datetime) -> Costs:
    """The costs."""
    metrics = readings.read_metrics(loop)
    detail = metrics.details.get("cost_per_1k_requests")
    why = detail.reason if detail is not None else None
    return Costs(
        month_usd=attempt(loop, lambda: spent_in_month(loop, now)),
        budget_usd=loop.settings.budget.usd_per_month,
        per_1k_usd=metrics.cost_per_1k_requests,
        per_1k_why=why,
    )


@dataclass(frozen=True)
class Messages:
    """What people were told, newest first, and how many messages no channel has taken yet."""

    waiting: int
    told: list[dict[str, Any]]


def messages_of(loop: Loop) -> Messages:
    """The outbox; a home that never sent anything has none, and looking makes none."""
    if not loop.home.outbox.is_file():
        return Messages(0, [])
    return Messages(loop.outbox.waiting(), loop.outbox.history(_MESSAGES))


# --------------------------------------------------------------------------- the page


@dataclass(frozen=True)
class Overview:
    """Everything on the first page."""

    status: answers.Status
    now: Told[Now]
    measured_at: datetime | None
    mock: bool
    current: Cycle | None
    current_steps: list[Step]
    last: Cycle | None
    waiting: Told[list[Waiting]]
    answered: Told[list[dict[str, Any]]]
    gates: Told[list[GateLine]]
    champions: Told[list[ChampionSpan]]
    cycles: list[Cycle]
    costs: Told[Costs]
    messages: Told[Messages]
    records: list[LedgerRecord]
    records_total: int


def overview(loop: Loop, status: answers.Status, now: datetime | None = None) -> Overview:
    """The first page.

    Parameters
    ----------
    status
        As ``GET status`` tells it.
    """
    moment = now or utc_now()
    cycles = loop.control.cycles(_RECENT_CYCLES, loop.contour)
    active = loop.control.active_cycle(loop.contour)
    metrics = attempt(loop, lambda: readings.read_metrics(loop)).value
    answered = attempt(loop, lambda: [row for row in readings.read_approvals(loop, 20, moment).approvals if row["state"] != "waiting"][:_ANSWERED])
    return Overview(
        status=status,
        now=attempt(loop, lambda: now_of(loop, status, active)),
        measured_at=metrics.timestamp if metrics is not None else None,
        mock=metrics is not None and metrics.mock and metrics.timestamp is not None,
        current=active,
        current_steps=[] if active is None else steps_of(active, loop.control.records(500, cycle_id=active.cycle_id)),
        last=next((cycle for cycle in cycles if active is None or cycle.cycle_id != active.cycle_id), None),
        waiting=attempt(loop, lambda: waiting(loop, moment)),
        answered=answered,
        gates=attempt(loop, lambda: gate_lines(loop, window_values(loop.home.snapshots, loop.contour))),
        champions=attempt(loop, lambda: loop.control.champions(loop.contour, 10)),
        cycles=cycles,
        costs=attempt(loop, lambda: costs_of(loop, moment)),
        messages=attempt(loop, lambda: messages_of(loop)),
        records=loop.control.page(_RECENT_RECORDS),
        records_total=loop.control.count_records(),
    )


# --------------------------------------------------------------------------- results


def results(loop: Loop, days: int, now: datetime | None = None) -> tuple[Told[BeforeAfter], Told[KeyFigures]]:
    """What the newest ``days`` brought: the table before and after, and the key figures."""
    end = now or utc_now()
    start = end - timedelta(days=days)
    return attempt(loop, lambda: week.compare(loop, start, end)), attempt(loop, lambda: week.figures(loop, start, end))


def took(cycle: Cycle) -> timedelta:
    """From the opening of a cycle to its last change."""
    return cycle.updated_at - cycle.opened_at
