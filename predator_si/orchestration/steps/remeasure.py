"""Windows that were measured before all their events had come: measured again, what was said before kept beside it.

What belongs here: which snapshots are concerned, and their revisions on disk. What must not: taking events in, counting them (``monitor``).

A corrected snapshot takes the place of the earlier one, ``snapshots/<id>.json``, with ``revision`` one higher; the earlier one goes to
``snapshots/revisions/<id>.r<revision>.json``. What cannot be observed afterwards (probes, the ingest queue, other services' numbers) stays as it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from predator_si.monitor import PriceTable
from predator_si.monitor.aggregate import Aggregate
from predator_si.monitor.intake import WINDOW, RawLayer, read_window, window_name
from predator_si.monitor.requests import Plan
from predator_si.monitor.snapshot import snapshot_of
from predator_si.monitor.windows import Windows
from predator_si.orchestration.loop import Loop
from predator_si.records import MetricsSnapshot
from predator_si.search.events import EventFrames

PLAN = Plan(segment="script")
"""How traffic is measured: by the script of the query, which is kept in the clear."""
_REACH = timedelta(hours=26)
"""Events are accepted for a day; snapshots that ended longer ago are not looked at."""
_FROM_EVENTS = ("search events", "clicks", "ratings", "estimated")
"""Beginnings of the sources of metrics that are made of events."""


def counted(loop: Loop, start: datetime, end: datetime, now: datetime) -> Aggregate:
    """All requests of a time: closed 15-minute windows that lie in it whole from their stored aggregates, the rest counted now."""
    return Windows(loop.home.telemetry, PLAN).between(start, end, now)


def measured(loop: Loop, found: Aggregate, events: EventFrames, old: MetricsSnapshot) -> MetricsSnapshot:
    """``old`` with what events say now; the same record where they say the same."""
    fresh = snapshot_of(
        found,
        old.window_start,
        old.window_end,
        old.created_at,
        champion=old.champion,
        contour=old.contour,
        prices=PriceTable(usd_per_vcpu_hour=loop.settings.prices.usd_per_vcpu_hour),
    )
    if _said(fresh) == _said(old) and (events.lost, events.quarantine.height) == (old.lost_events, old.quarantined):
        return old
    metrics = {
        name: fresh.metrics[name] if metric.source.startswith(_FROM_EVENTS) and name in fresh.metrics else metric for name, metric in old.metrics.items()
    }
    corrected = {"metrics": metrics, "cells": fresh.cells, "lost_events": events.lost, "quarantined": events.quarantine.height}
    return old.model_copy(update={**corrected, "revision": old.revision + 1})


def remeasure(loop: Loop, dirty: Sequence[datetime], now: datetime) -> list[MetricsSnapshot]:
    """Correct every snapshot that late events belong to, and the newest one, whose last clicks come after it; the corrected ones, oldest first.

    Parameters
    ----------
    dirty
        Starts of the closed windows that got events (``IntakeReport.dirty``); they are marked clean unless more came while they were measured.
    """
    known = [one for one in loop.snapshots() if one.window_end > now - _REACH and one.cells]
    concerned = [one for one in known if one is known[-1] or any(start < one.window_end and one.window_start < start + WINDOW for start in dirty)]
    before = {start: _files(loop, start) for start in dirty}
    corrected = []
    for old in concerned:
        events = read_window(loop.home.telemetry, old.window_start, old.window_end, events=loop.home.events, results=False)
        new = measured(loop, counted(loop, old.window_start, old.window_end, now), events, old)
        if new is not old:
            _replace(loop, old, new)
            corrected.append(new)
    settled = [start for start in dirty if _files(loop, start) == before[start]]
    if settled:
        RawLayer(loop.home.telemetry).mark_clean(settled)
    return corrected


def _said(snapshot: MetricsSnapshot) -> dict[tuple[str | None, str | None], Counter[str]]:
    """What the events of a snapshot add up to, by model and variant: any event that came or went changes a count."""
    found: dict[tuple[str | None, str | None], Counter[str]] = {}
    for cell in snapshot.cells:
        found.setdefault((cell.model_digest, cell.variant), Counter()).update(cell.counts)
    return found


def _files(loop: Loop, start: datetime) -> set[str]:
    name = f"window={window_name(start)}"
    return {str(path) for folder in (loop.home.telemetry_search, loop.home.telemetry_actions) for path in (folder / name).glob("*.parquet")}


def _replace(loop: Loop, old: MetricsSnapshot, new: MetricsSnapshot) -> None:
    """The old revision first: killed in between, the next tick corrects again and writes the same."""
    kept = loop.home.snapshots / "revisions"
    kept.mkdir(parents=True, exist_ok=True)
    for folder, name, record in ((kept, f"{old.snapshot_id}.r{old.revision}", old), (loop.home.snapshots, old.snapshot_id, new)):
        partial = folder / f".{name}.partial"
        partial.write_text(record.to_json())
        partial.replace(folder / f"{name}.json")


def revisions(loop: Loop, snapshot_id: str) -> Iterable[MetricsSnapshot]:
    """What a snapshot said before it was corrected, oldest first."""
    paths = (loop.home.snapshots / "revisions").glob(f"{snapshot_id}.r*.json")
    return sorted((MetricsSnapshot.read(path) for path in paths), key=lambda one: one.revision)
