"""What the current window is compared with: a median over healthy windows of the same champion.

What belongs here: which windows count, and the median. What must not: storing it (the caller does), gates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from predator_si.records import Baseline, MetricsSnapshot

COLD_START = {"local": 1, "dev-mac": 1}
"""Healthy windows needed before a champion has a baseline, where it is not the default of 4 (an hour of 15-minute ticks)."""
DEFAULT_WINDOWS = 4
TOLERATED = {"ndcg_at_10": -0.03, "recall_at_20": -0.05}
"""Relative drop against the windows before it from which a window is no longer healthy: it must not pull its own reference down."""
GAUGES = frozenset({"etl_lag_seconds", "index_throughput", "index_errors", "gpu_utilization"})
"""Metrics that are one reading and not a mean: no sample size is asked of them."""
FAULTY = 0.01
"""Error rate above which a window says something about the fault, not about the champion."""


def update_baseline(
    history: Sequence[MetricsSnapshot],
    champion: str,
    *,
    min_windows: int | None = None,
    min_sample: int = 30,
    tolerated: Mapping[str, float] = TOLERATED,
    faulty: float = FAULTY,
) -> Baseline | None:
    """The baseline of ``champion``, or null while too few of its windows are healthy.

    A window is healthy when the champion is this one, it is not mock (unless all are), no event was lost, its error rate is known to be at
    most ``faulty`` or nobody asked anything, and no metric of ``tolerated`` lies below the median of the healthy windows before it by more
    than allowed. Because a degraded window never enters, a drop stays visible for as long as it lasts; because the median is over the
    champion's whole life and not a recent stretch, a slow decline does not become the norm. A new champion starts anew.

    Parameters
    ----------
    history
        Snapshots in any order; those of other champions are skipped.
    min_windows
        Healthy windows needed; default 1 in contours ``local`` and ``dev-mac`` (a demo has no hours to wait), 4 elsewhere.
    min_sample
        A metric's value counts when at least so many observations are behind it (a gauge, like lag, always does).
    tolerated
        Metric -> allowed change as a fraction, negative for metrics whose good direction is up.
    """
    own = sorted((snapshot for snapshot in history if snapshot.champion == champion), key=lambda snapshot: snapshot.window_end)
    own = [snapshot for snapshot in own if not snapshot.mock] or own
    healthy: list[MetricsSnapshot] = []
    seen: dict[str, list[float]] = {}
    sources: dict[str, str] = {}
    for snapshot in own:
        values = {name: metric.value for name, metric in snapshot.metrics.items() if metric.value is not None and (metric.n >= min_sample or name in GAUGES)}
        if not values or _faulty(snapshot, faulty) or any(_dropped(seen.get(name), values.get(name), change) for name, change in tolerated.items()):
            continue
        healthy.append(snapshot)
        for name, value in values.items():
            seen.setdefault(name, []).append(value)
            sources[name] = snapshot.metrics[name].source
    if not healthy:
        return None
    needed = COLD_START.get(healthy[-1].contour, DEFAULT_WINDOWS) if min_windows is None else min_windows
    if len(healthy) < needed:
        return None
    medians = {name: float(np.median(numbers)) for name, numbers in sorted(seen.items())}
    return Baseline(champion=champion, created_at=healthy[-1].created_at, windows=len(healthy), values=medians, sources=dict(sorted(sources.items())))


def _faulty(snapshot: MetricsSnapshot, limit: float) -> bool:
    rate = snapshot.metrics.get("error_rate")
    return snapshot.lost_events > 0 or (rate is not None and rate.value is not None and rate.value > limit)


def _dropped(before: list[float] | None, value: float | None, change: float) -> bool:
    if not before or value is None:
        return False
    limit = float(np.median(before)) * (1.0 + change)
    return value < limit if change < 0 else value > limit
