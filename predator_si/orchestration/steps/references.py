"""What a window is judged against, kept from tick to tick: baseline, gate memory, anomaly and drift reports.

What belongs here: reading and writing those files around the pure functions of ``monitor``. What must not: deciding anything.

::

    <home>/baseline.json                    reference of the champion
    <home>/snapshots/held/gates.json        what each gate is held to be
    <home>/snapshots/anomalies/<id>.json    scores and sequential tests of a window
    <home>/snapshots/drift/<id>.json        drift of a window, and evidently's <id>.html
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import polars as pl

from predator_si.corpora.text import stable_fraction
from predator_si.monitor import (
    age_note,
    bend,
    cold_start,
    evaluate_gates,
    find_anomalies,
    healthy_windows,
    hold,
    probe_reference_of,
    remember,
    update_baseline,
    weigh,
)
from predator_si.monitor.judgments import with_panels
from predator_si.monitor.overrides import told
from predator_si.orchestration.loop import Loop
from predator_si.records import AnomalyReport, Criterion, DriftReport, GateMemory, GateResult, MetricsSnapshot, Record, utc_now

HISTORY = 4032
"""Windows that a baseline looks at: six weeks of ticks. An older home is thinned evenly over its whole life, so that a slow decline cannot
push the good weeks out."""
_PROBED = 16
"""Healthy windows, evenly over the champion's life, whose probes make the reference of each query."""


def refresh(loop: Loop, snapshot: MetricsSnapshot) -> None:
    """Bring baseline, anomalies and gate memory up to ``snapshot``; its anomalies are judged against the baseline of the windows before."""
    windows = history(loop)
    before = loop.baseline()
    if snapshot.champion is not None:
        found = update_baseline(windows, snapshot.champion)
        if found is not None:
            write(loop.home.path / "baseline.json", found)
        healthy, _ = healthy_windows((one for one in windows if one.window_end < snapshot.window_end), snapshot.champion)
        report = find_anomalies(
            snapshot,
            before,
            probes=_probes(loop, snapshot.snapshot_id),
            probe_reference=_probe_reference(loop, healthy),
            before=newest_anomalies(loop),
            false_alarms_per_month=loop.settings.values.evidence.false_alarms_per_month,
        )
        write(loop.home.snapshots / "anomalies" / f"{snapshot.snapshot_id}.json", report)
    write(_memory_path(loop), remember(_own_answers(loop, snapshot, snapshot.created_at), snapshot, _memory(loop)))


def history(loop: Loop) -> list[MetricsSnapshot]:
    """Snapshots of the home's whole life, oldest first, some :data:`HISTORY` of them at most, the newest among them."""
    paths = sorted(loop.home.snapshots.glob("*.json"))
    share = HISTORY / max(len(paths), 1)
    return [MetricsSnapshot.read(path) for path in paths if share >= 1.0 or path == paths[-1] or stable_fraction(path.stem) < share]


def judge(loop: Loop, snapshot: MetricsSnapshot | None, now: datetime | None = None) -> list[GateResult]:
    """The contour's gates on a snapshot: each one's own answer, other evidence with it, held to what the windows before made of it."""
    now = now or utc_now()
    if snapshot is None:
        return evaluate_gates(in_force(loop, now), None, loop.baseline(), now)
    own = with_panels(_own_answers(loop, snapshot, now), snapshot, loop.baseline())
    return told(hold(own, remember(own, snapshot, _memory(loop))))


def in_force(loop: Loop, now: datetime | None = None) -> tuple[Criterion, ...]:
    """The contour's gates as people have bent them for now."""
    return bend(loop.settings.quality_gates, loop.control.gate_overrides(loop.contour, now))


def newest_anomalies(loop: Loop) -> AnomalyReport | None:
    """The report of the newest window that has one."""
    paths = sorted((loop.home.snapshots / "anomalies").glob("*.json"))
    return AnomalyReport.read(paths[-1]) if paths else None


def anomalies(loop: Loop, snapshot_id: str) -> AnomalyReport | None:
    """What was found unusual about a window; null where it was not looked at."""
    path = loop.home.snapshots / "anomalies" / f"{snapshot_id}.json"
    return AnomalyReport.read(path) if path.is_file() else None


def baseline_note(loop: Loop, snapshot: MetricsSnapshot) -> str:
    """What the window was compared with, or why with nothing."""
    known = loop.baseline()
    if snapshot.champion is None:
        return "no baseline: the snapshot names no champion"
    if known is None or known.champion != snapshot.champion:
        return cold_start(history(loop), snapshot.champion) or "the baseline is written with the next snapshot"
    quality = known.references.get("ndcg_at_10")
    excuses = "".join(f"; {count} left out: {why}" for why, count in known.left_out.items())
    old = age_note(known, snapshot.created_at)
    return f"{known.windows} healthy windows" + (f"; ndcg_at_10: {quality.reason}" if quality is not None else "") + excuses + (f"; {old}" if old else "")


def newest_drift(loop: Loop) -> DriftReport | None:
    """The drift report of the newest window that has one."""
    paths = sorted((loop.home.snapshots / "drift").glob("*.json"))
    return DriftReport.read(paths[-1]) if paths else None


def write(path: Path, record: Record) -> None:
    """Write a record, whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(record.to_json())
    partial.replace(path)


def _own_answers(loop: Loop, snapshot: MetricsSnapshot, now: datetime) -> list[GateResult]:
    own = evaluate_gates(in_force(loop, now), snapshot, loop.baseline(), now)
    return weigh(own, newest_anomalies(loop), newest_drift(loop), snapshot.champion, loop.settings.values.evidence.confirms)


def _memory_path(loop: Loop) -> Path:
    return loop.home.snapshots / "held" / "gates.json"


def _memory(loop: Loop) -> GateMemory | None:
    path = _memory_path(loop)
    return GateMemory.read(path) if path.is_file() else None


def _probes(loop: Loop, snapshot_id: str) -> pl.DataFrame | None:
    return loop.probes(snapshot_id) if (loop.home.snapshots / f"{snapshot_id}.parquet").is_file() else None


def _probe_reference(loop: Loop, healthy: list[MetricsSnapshot]) -> pl.DataFrame:
    probed = [one.snapshot_id for one in healthy if (loop.home.snapshots / f"{one.snapshot_id}.parquet").is_file()]
    step = max(1, len(probed) // _PROBED)
    return probe_reference_of([loop.probes(name) for name in probed[::step][:_PROBED]])
