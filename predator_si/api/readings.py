"""What is read: status, metrics, gates, history, cycles, verdicts, from the control database, the snapshots and a cycle's files.

What belongs here: putting answers together from what is stored. What must not: changing anything, HTTP, Dagster.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from predator_si.api import answers
from predator_si.api.graphql import STARTS_CYCLES, TICK, LoopState
from predator_si.control.ledger import stamp
from predator_si.errors import Missing, PredatorError
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import observe
from predator_si.orchestration.trust import distrust
from predator_si.records import (
    CYCLE_ID,
    Answer,
    Cycle,
    CycleState,
    Decision,
    Evaluation,
    ExperimentResult,
    GateResult,
    MetricsSnapshot,
    WatchResult,
    utc_now,
)
from predator_si.reports.audit import audit_record
from predator_si.reports.verdicts import verdicts_in
from predator_si.signals import SIGNALS

if TYPE_CHECKING:
    from predator_si.records import GateOverride

_AUDITS: dict[tuple[str, str], tuple[tuple[str | None, int | None], dict[str, Any]]] = {}
_MOST_AUDITS = 500
_DAY = timedelta(hours=24)
_METRICS = tuple(name for name in answers.Metrics.model_fields if name in SIGNALS)


# --------------------------------------------------------------------------- status


def read_status(loop: Loop, dagster: LoopState | None, problem: str | None) -> answers.Status:
    """The status; ``dagster`` is null where it does not answer, and ``problem`` says so."""
    now = utc_now()
    control, contour, settings = loop.control, loop.contour, loop.settings
    switch = settings.kill_switch or control.kill_switch(contour)
    newest = control.page(1)
    active = control.active_cycle(contour)
    problems = [one for one in (problem, distrust(loop.home, contour, control)) if one is not None]
    sensor = None if dagster is None else dagster.sensors.get(STARTS_CYCLES)
    if dagster is not None:
        if dagster.unhealthy_daemons:
            names = ", ".join(dagster.unhealthy_daemons)
            problems.append(f"Dagster's daemon has not been heard of lately ({names}): nothing starts by itself. Run `predator-si up`")
        if sensor is None:
            problems.append(f"Dagster knows no {STARTS_CYCLES}: the code location is not loaded")
        elif settings.enabled and not switch and not sensor.running:
            problems.append(f"{STARTS_CYCLES} is stopped in Dagster: POST start lets it run")
    try:
        gates = gate_answers(loop)[1]
    except PredatorError as error:
        gates = []
        problems.append(f"the gates cannot be judged: {error}")
    running = settings.enabled and not switch and (sensor.running if sensor is not None else dagster is None)
    tick = dagster.schedules.get(TICK) if dagster is not None else None
    due = tick.next_tick if tick is not None and tick.running and running else None
    return answers.Status(
        is_running=running,
        total_optimizations_24h=control.cycles_since(contour, now - _DAY),
        actions_by_type=control.actions_since(now - _DAY),
        quality_gates_status=_overall(gates),
        next_cycle_in_minutes=None if due is None else round(max(0.0, due - now.timestamp()) / 60, 2),
        last_action=answers.LastAction(type=newest[0].action, timestamp=newest[0].timestamp, reason=newest[0].reason) if newest else None,
        contour=contour,
        champion=champion_of(loop),
        kill_switch=switch,
        current_cycle=None
        if active is None
        else answers.CurrentCycle(cycle_id=active.cycle_id, state=active.state.value, since=active.updated_at, reason=active.reason),
        unwatched_release=_unwatched(loop, active, dagster, problem),
        enabled=settings.enabled,
        problems=[text.replace(str(loop.home.path), "<home>") for text in problems],
    )


def _overall(gates: list[GateResult]) -> Literal["passing", "warning", "failing"]:
    said = {gate.answer for gate in gates}
    if Answer.FAIL in said:
        return "failing"
    return "warning" if Answer.UNKNOWN in said or not said else "passing"


def _unwatched(loop: Loop, active: Cycle | None, dagster: LoopState | None, problem: str | None) -> answers.UnwatchedRelease | None:
    if active is None or active.state not in (CycleState.RELEASED, CycleState.WATCHING):
        return None
    if dagster is None:
        why = problem or "Dagster does not answer"
    elif dagster.unhealthy_daemons:
        why = f"Dagster's {', '.join(dagster.unhealthy_daemons)} is not heard of"
    else:
        off = [name for name in ("cycle_advance_sensor", "rollback_sensor") if name not in dagster.sensors or not dagster.sensors[name].running]
        if not off:
            return None
        why = f"stopped in Dagster: {', '.join(off)}"
    return answers.UnwatchedRelease(cycle_id=active.cycle_id, digest=champion_of(loop), reason=why)


def champion_of(loop: Loop) -> str | None:
    """Digest that is in force here: of the applied release file, else of the champion history, else of the newest snapshot."""
    from predator_si.release.release_file import parse_release

    applied = loop.home.release_file(loop.contour)
    if applied.is_file():
        try:
            return parse_release(applied.read_text(encoding="utf-8"), applied.name).serving.model
        except (PredatorError, OSError):
            return None
    serving = [span for span in loop.control.champions(loop.contour, 1) if span.until is None]
    if serving:
        return serving[0].digest
    newest = newest_snapshot(loop)
    return None if newest is None else newest.champion


def newest_snapshot(loop: Loop) -> MetricsSnapshot | None:
    """The newest snapshot, where there is one."""
    found = loop.snapshots(1)
    return found[-1] if found else None


# --------------------------------------------------------------------------- metrics and gates


def read_metrics(loop: Loop) -> answers.Metrics:
    """The newest snapshot; ages are those of now, not of the moment it was taken."""
    snapshot = newest_snapshot(loop)
    if snapshot is None:
        return answers.Metrics(**dict.fromkeys(_METRICS), timestamp=None, details={}, mock=loop.settings.mock_signals, snapshot_id=None)  # type: ignore[arg-type]
    since = max(0.0, (utc_now() - snapshot.created_at).total_seconds())
    details = {
        name: answers.MetricDetail(
            n=metric.n,
            ci_low=metric.ci_low,
            ci_high=metric.ci_high,
            source=metric.source,
            age_seconds=None if metric.age_seconds is None else round(metric.age_seconds + since, 3),
            window={"start": metric.window_start or snapshot.window_start, "end": metric.window_end or snapshot.window_end},
            unit=metric.unit,
            reason=metric.reason,
        )
        for name, metric in sorted(snapshot.metrics.items())
    }
    values = {name: snapshot.metrics[name].value if name in snapshot.metrics else None for name in _METRICS}
    return answers.Metrics(**values, timestamp=snapshot.window_end, details=details, mock=snapshot.mock, snapshot_id=snapshot.snapshot_id)  # type: ignore[arg-type]


def gate_answers(loop: Loop) -> tuple[dict[str, GateOverride], list[GateResult]]:
    """Overrides in force, and every gate on the newest snapshot."""
    return loop.control.gate_overrides(loop.contour), observe.gates(loop, newest_snapshot(loop))


def read_gates(loop: Loop, language: Literal["en", "uk"] = "en") -> answers.Gates:
    """The gates by metric: the absolute one where there is one, further ones beside it."""
    overrides, results = gate_answers(loop)
    by_metric: dict[str, list[GateResult]] = {}
    for result in results:
        by_metric.setdefault(result.criterion.metric, []).append(result)
    details = {}
    for metric, found in by_metric.items():
        first, *more = sorted(found, key=lambda gate: gate.criterion.kind != "absolute")
        override = overrides.get(metric)
        details[metric] = answers.GateDetail(
            direction=first.criterion.direction,
            kind=first.criterion.kind,
            unit=first.criterion.unit,
            min_sample=first.criterion.min_sample,
            status=first.answer.value,
            value=first.value,
            threshold=first.criterion.threshold,
            reason=first.reason,
            critical=first.criterion.critical,
            override=None if override is None else override.model_dump(mode="json"),
            also=[{"kind": one.criterion.kind, "threshold": one.criterion.threshold, "status": one.answer.value, "reason": one.reason} for one in more],
        )
    described = {metric: getattr(SIGNALS[metric], language) if metric in SIGNALS else metric for metric in details}
    return answers.Gates(gates={metric: one.threshold for metric, one in details.items()}, description=described, details=details)


# --------------------------------------------------------------------------- history


def read_history(loop: Loop, limit: int, cursor: int | None, cycle_id: str | None = None) -> answers.History:
    """A page of the ledger, newest first."""
    found = loop.control.page(limit + 1, cursor, cycle_id)
    page, more = found[:limit], len(found) > limit
    audits: dict[str, dict[str, Any]] = {}
    entries = []
    for record in page:
        if record.cycle_id is not None and record.cycle_id not in audits:
            audits[record.cycle_id] = audit_of(loop, record.cycle_id)
        action = {"type": record.action, "reason": record.reason, **{key: value for key, value in record.payload.items() if key not in ("type", "reason")}}
        numbers = {key: float(value) for key, value in record.payload.items() if isinstance(value, int | float) and not isinstance(value, bool)}
        entries.append(
            answers.Entry(
                timestamp=record.timestamp,
                action=action,
                metrics=numbers,
                audit=audits.get(record.cycle_id or ""),
                hash=record.hash,
                previous_hash=record.previous_hash,
                seq=record.seq,
                actor=record.actor,
                cycle_id=record.cycle_id,
            )
        )
    total = loop.control.count_records()
    return answers.History(total=total, showing=len(entries), history=entries, next_cursor=str(page[-1].seq) if more and page else None)


def audit_of(loop: Loop, cycle_id: str) -> dict[str, Any]:
    """The audit record of a cycle (CONTRACT.md section 4), from the ledger; empty where the control database does not know the cycle.

    Kept as long as neither the ledger nor the cycle's files say anything new: a page of history names the same cycles again and again.
    """
    newest, folder = loop.control.page(1, cycle_id=cycle_id), loop.home.artifacts / cycle_id
    key = (loop.control.name, cycle_id)
    state = (newest[0].hash if newest else None, folder.stat().st_mtime_ns if folder.is_dir() else None)
    known = _AUDITS.get(key)
    if known is not None and known[0] == state:
        return known[1]
    try:
        cycle = loop.control.cycle(cycle_id)
    except Missing:
        return {}
    found = audit_record(cycle, loop.control.records(500, cycle_id=cycle_id), folder)
    while len(_AUDITS) >= _MOST_AUDITS:
        _AUDITS.pop(next(iter(_AUDITS)), None)
    _AUDITS[key] = (state, found)
    return found


# --------------------------------------------------------------------------- cycles


def read_cycles(loop: Loop, limit: int, cursor: str | None = None) -> answers.Cycles:
    """The cycles of the contour, newest first; with a cursor those opened before that cycle."""
    found = loop.control.cycles(limit + 1, loop.contour, cursor)
    rows = [_row(cycle) for cycle in found[:limit]]
    return answers.Cycles(cycles=rows, showing=len(rows), next_cursor=rows[-1].cycle_id if len(found) > limit else None)


def _row(cycle: Cycle) -> answers.CycleRow:
    return answers.CycleRow(**{**cycle.model_dump(exclude={"trigger", "state"}), "state": cycle.state.value, "trigger": cycle.trigger.type})


def folder_of(loop: Loop, cycle_id: str) -> Path:
    """The folder of a cycle's files, without making it.

    Raises
    ------
    Missing
        That is no cycle's id.
    """
    if not CYCLE_ID.fullmatch(cycle_id):
        raise Missing(f"{cycle_id!r} is no cycle: ids look like si_2026_01_31_001. GET cycles lists them.")
    return loop.home.artifacts / cycle_id


def read_cycle(loop: Loop, cycle_id: str) -> answers.CycleStory:
    """One cycle's story."""
    folder = folder_of(loop, cycle_id)
    cycle, ports = loop.control.cycle(cycle_id), loop.settings.ports
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")) if folder.is_dir() else []
    report = f"/cycles/{cycle_id}" if (folder / "report.html").is_file() else None
    return answers.CycleStory(
        cycle=_row(cycle),
        trigger=cycle.trigger.model_dump(mode="json"),
        audit=audit_of(loop, cycle_id),
        verdicts=verdicts_in(folder),
        improvements=improvements_of(folder),
        artifacts=[{"name": str(path.relative_to(folder)), "bytes": path.stat().st_size} for path in files],
        links={
            "dagster": f"http://127.0.0.1:{ports.dagster}/assets/cycle/evaluation?partition={cycle_id}",
            "mlflow": f"http://127.0.0.1:{ports.mlflow}/",
            "report": report,
        },
    )


def improvements_of(folder: Path) -> answers.Improvements:
    """What a cycle's evaluation measured; null until it did."""
    path = folder / "evaluation.json"
    if not path.is_file():
        return answers.Improvements(ndcg_delta=None, latency_delta=None)
    found = Evaluation.read(path)
    sides = [found.latency.get(side, {}).get("p95_ms") for side in ("champion", "challenger")]
    faster = None if None in sides else f"{round(sides[1] - sides[0]):+d}ms"
    return answers.Improvements(ndcg_delta=f"{found.ndcg_difference.estimate:+.2f}", latency_delta=faster)


def read_verdict(loop: Loop, cycle_id: str) -> answers.CycleVerdict:
    """The newest verdict of a cycle as it is stored; ``predator-si eval verdict`` recomputes it first, which takes long."""
    from predator_si.release.replay import analysis_of

    folder, cycle = folder_of(loop, cycle_id), loop.control.cycle(cycle_id)

    def newest(*names: str) -> Path | None:
        return next((folder / name for name in names if (folder / name).is_file()), None)

    decided, tried, watched = newest("decision-promote.json", "decision-trial.json"), newest("ab_test_results.json"), newest("watch.json")
    decision = Decision.read(decided) if decided is not None else None
    result = ExperimentResult.read(tried) if tried is not None else None
    watch = WatchResult.read(watched) if watched is not None else None
    said = analysis_of([], decision, result, watch)
    moments = [cycle.updated_at, *(one.created_at for one in (decision, watch) if one is not None), *([result.ended_at] if result is not None else [])]
    evidence = dict(decision.evidence) if decision is not None else dict(result.evidence) if result is not None else {}
    return answers.CycleVerdict(
        verdict=said["verdict"],
        evidence=evidence,
        digest=None if decision is None else decision.challenger.model,
        updated_at=max(moments),
        phase=cycle.state.value,
        value=said["value"],
        stage=said["stage"],
        reason=said["reason"],
        failed_gates=said["failed_gates"],
        requests=said["requests"],
        cycle_id=cycle_id,
    )


def read_approvals(loop: Loop, limit: int, now: datetime | None = None, cursor: str | None = None) -> answers.Approvals:
    """The queue of this contour and of the one to which its releases are promoted, newest first, with what each question was asked on."""
    now = now or utc_now()
    contours = loop.answered_here
    cycle_id, _, stage = (cursor or "").partition(":")
    found = loop.control.approvals(contours, limit=limit + 1, before=(cycle_id, stage) if cursor else None)
    rows = [{**one.model_dump(mode="json"), "state": one.state(now)} for one in found[:limit]]
    waiting = len(loop.control.approvals(contours, waiting=True, limit=1000, now=now))
    more = f"{rows[-1]['cycle_id']}:{rows[-1]['stage']}" if len(found) > limit else None
    return answers.Approvals(approvals=rows, waiting=waiting, next_cursor=more)


def read_champions(loop: Loop, limit: int, cursor: str | None = None) -> answers.Champions:
    """Who served when and why, newest first; with a cursor before the one that began then."""
    found = loop.control.champions(loop.contour, limit + 1, cursor)
    rows = [one.model_dump(mode="json") for one in found[:limit]]
    return answers.Champions(champions=rows, next_cursor=stamp(found[limit - 1].since) if len(found) > limit else None)
