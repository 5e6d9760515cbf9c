"""What a diagnosis compares with: the evidence kept with each snapshot, and the healthy window that is the reference.

What belongs here: keeping index facts and labels beside a snapshot, choosing the reference, putting a window together. What must not: any test.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from predator_si.diagnose import Window
from predator_si.orchestration.loop import Loop
from predator_si.records import MetricsSnapshot
from predator_si.search.events import EventFrames, read_events

_TOLERATED = 0.97
"""Share of the baseline's NDCG@10 that a window must have to serve as the reference (the drop that starts a cycle is 3%)."""


def keep_evidence(loop: Loop, snapshot_id: str, index: Mapping[str, Any] | None, judgments: pl.DataFrame | None) -> None:
    """Keep what the index was like and which labels were in force; a later window is compared with them."""
    folder = _folder(loop)
    folder.mkdir(parents=True, exist_ok=True)
    if index is not None:
        (folder / f"{snapshot_id}.index.json").write_text(json.dumps(dict(index)) + "\n")
    if judgments is not None:
        judgments.write_parquet(folder / f"{snapshot_id}.judgments.parquet")


def reference_of(loop: Loop, snapshots: Sequence[MetricsSnapshot]) -> MetricsSnapshot | None:
    """The newest window before the last of ``snapshots`` that had probes and the baseline's quality; null where there is none."""
    baseline = loop.baseline()
    expected = None if baseline is None else baseline.values.get("ndcg_at_10")
    for snapshot in reversed(snapshots[:-1]):
        metric = snapshot.metrics.get("ndcg_at_10")
        known = metric is not None and metric.value is not None and (loop.home.snapshots / f"{snapshot.snapshot_id}.parquet").is_file()
        if known and metric is not None and metric.value is not None and (expected is None or metric.value >= _TOLERATED * expected):
            return snapshot
    return None


def window_of(loop: Loop, snapshot: MetricsSnapshot, events: EventFrames | None = None) -> Window:
    """Everything that is known about a past window; labels of a window that kept none are the corpus' own."""
    folder = _folder(loop)
    facts, labels = folder / f"{snapshot.snapshot_id}.index.json", folder / f"{snapshot.snapshot_id}.judgments.parquet"
    seen = events or read_events(loop.home.events, snapshot.window_start, snapshot.window_end)
    people = seen.search.filter(~pl.col("probe") & pl.col("stands_for").is_null())
    return Window(
        snapshot=snapshot,
        probes=loop.probes(snapshot.snapshot_id),
        judgments=pl.read_parquet(labels) if labels.is_file() else loop.corpus.judgments(split="dev"),
        events=people,
        actions=seen.actions,
        index=json.loads(facts.read_text()) if facts.is_file() else None,
        queries=tuple(seen.search.filter(~pl.col("probe"))["user_query"].drop_nulls().to_list()),
    )


def _folder(loop: Loop) -> Path:
    return loop.home.snapshots / "evidence"
