"""What the current window is compared with: a robust reference over healthy windows of the same champion.

What belongs here: which windows count, the centre of each metric, its spread and its weekly season. What must not: storing it (the caller does), gates.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

from predator_si.records import Baseline, Metric, MetricsSnapshot, Reference

COLD_START = {"local": 1, "dev-mac": 1}
"""Healthy windows needed before a champion has a baseline, where it is not the default of 4 (an hour of 15-minute ticks)."""
DEFAULT_WINDOWS = 4
TOLERATED = {"ndcg_at_10": -0.03, "recall_at_20": -0.05}
"""Relative drop against the windows before it from which a window is no longer healthy: it must not pull its own reference down."""
GAUGES = frozenset({"etl_lag_seconds", "index_throughput", "index_errors", "gpu_utilization"})
"""Metrics that are one reading and not a mean: no sample size is asked of them."""
FAULTY = 0.01
"""Error rate above which a window says something about the fault, not about the champion."""
OLD = timedelta(days=14)
"""A baseline whose newest healthy window is older than this says so in every gate."""
KNOWN = 12
"""Windows (three hours) from which their spread is believed."""
TAIL = 0.05
"""Share of windows that count as a metric's tail."""

_WINDOWS_FOR_TAILS = 200
_WEEK = timedelta(days=7)
_WEEKS_FOR_SEASONS = 2
_HOURS = 168
_SCALE = 1.4826
"""Median absolute deviation to standard deviation, for a Gaussian."""
_MEDIAN_VARIANCE = math.pi / 2.0
"""Variance of a median over the variance of a mean, for a Gaussian."""
_HEAVIEST = 2.0
"""No window weighs more than so many windows of the usual sample: one flood of traffic must not be the reference alone."""

Floats = npt.NDArray[np.float64]


def update_baseline(
    history: Iterable[MetricsSnapshot],
    champion: str,
    *,
    min_windows: int | None = None,
    min_sample: int = 30,
    tolerated: Mapping[str, float] = TOLERATED,
    faulty: float = FAULTY,
) -> Baseline | None:
    """The baseline of ``champion``, or null while too few of its windows are healthy (:func:`cold_start` says how many).

    The centre is a median weighted by sample size (no weight above two usual windows), so less than half of the weight cannot move it
    beyond what the other half says. The spread is 1.4826 x MAD. Two weeks of windows give an hour-of-week season: each hour's median less
    the centre, shrunk towards nothing as far as sampling noise explains it (James and Stein's positive-part rule on the hours' medians).

    Parameters
    ----------
    history
        Snapshots in any order; those of other champions are skipped, and of several snapshots of one window the last revision counts.
    min_windows
        Healthy windows needed; default 1 in contours ``local`` and ``dev-mac`` (a demo has no hours to wait), 4 elsewhere.
    min_sample
        A metric's value counts when at least so many observations are behind it (a gauge, like lag, always does).
    tolerated, faulty
        As in :func:`healthy_windows`.
    """
    healthy, left_out = healthy_windows(history, champion, min_sample=min_sample, tolerated=tolerated, faulty=faulty)
    if not healthy or len(healthy) < _needed(healthy, min_windows):
        return None
    seen: dict[str, list[tuple[MetricsSnapshot, Metric]]] = {}
    for snapshot in healthy:
        for name, metric in snapshot.metrics.items():
            if _counts(metric, min_sample):
                seen.setdefault(name, []).append((snapshot, metric))
    references = {name: _reference(name, pairs) for name, pairs in sorted(seen.items())}
    return Baseline(
        champion=champion,
        created_at=healthy[-1].created_at,
        windows=len(healthy),
        values={name: reference.centre for name, reference in references.items()},
        sources={name: pairs[-1][1].source for name, pairs in sorted(seen.items())},
        references=references,
        oldest=healthy[0].window_start,
        newest=healthy[-1].window_end,
        left_out=left_out,
    )


def healthy_windows(
    history: Iterable[MetricsSnapshot],
    champion: str,
    *,
    min_sample: int = 30,
    tolerated: Mapping[str, float] = TOLERATED,
    faulty: float = FAULTY,
) -> tuple[list[MetricsSnapshot], dict[str, int]]:
    """The windows that a baseline may stand on, by time, and how many of the champion's were left out for which reason.

    A window is healthy when the champion is this one, it is not mock (unless all are), no event was lost, its error rate is known to be at
    most ``faulty`` or nobody asked anything, and no metric of ``tolerated`` lies below the median of the healthy windows before it by more
    than allowed. Because a degraded window never enters, a drop stays visible for as long as it lasts; because the median is over the
    champion's whole life and not a recent stretch, a slow decline does not become the norm. A new champion starts anew.

    Parameters
    ----------
    tolerated
        Metric -> allowed change as a fraction, negative for metrics whose good direction is up.
    """
    own = _last_revisions(snapshot for snapshot in history if snapshot.champion == champion)
    real = [snapshot for snapshot in own if not snapshot.mock]
    left_out: Counter[str] = Counter({"made of mock signals": len(own) - len(real)} if real and len(real) < len(own) else {})
    healthy: list[MetricsSnapshot] = []
    before: dict[str, list[float]] = {name: [] for name in tolerated}
    for snapshot in real or own:
        values = {name: metric.value for name, metric in snapshot.metrics.items() if metric.value is not None and _counts(metric, min_sample)}
        rate = snapshot.metrics.get("error_rate")
        fallen = [name for name, change in tolerated.items() if _dropped(before[name], values.get(name), change)]
        if not values:
            left_out["no metric with enough observations"] += 1
        elif snapshot.lost_events > 0:
            left_out["events were lost"] += 1
        elif rate is not None and rate.value is not None and rate.value > faulty:
            left_out[f"more than {faulty:.0%} errors"] += 1
        elif fallen:
            left_out[f"{fallen[0]} had fallen"] += 1
        else:
            healthy.append(snapshot)
            for name, earlier in before.items():
                if name in values:
                    earlier.append(values[name])
    return healthy, dict(left_out)


def cold_start(history: Iterable[MetricsSnapshot], champion: str, *, min_windows: int | None = None) -> str | None:
    """Why ``champion`` has no baseline yet, or null once it has one."""
    healthy, left_out = healthy_windows(history, champion)
    needed = _needed(healthy, min_windows) if healthy else min_windows
    if healthy and needed is not None and len(healthy) >= needed:
        return None
    wanted = "" if needed is None else f" of {needed}"
    excuses = "".join(f"; {count} left out: {why}" for why, count in left_out.items())
    return f"no baseline yet: {len(healthy)}{wanted} healthy windows of the champion{excuses}"


def expected(baseline: Baseline, metric: str, at: datetime) -> float | None:
    """What ``metric`` usually is at that time of the week; null where the baseline does not know it."""
    centre = baseline.values.get(metric)
    reference = baseline.references.get(metric)
    if centre is None or reference is None:
        return centre
    return centre + reference.season.get(hour_of_week(at), 0.0)


def hour_of_week(moment: datetime) -> int:
    """0 is Monday 00:00 to 01:00 UTC, 167 the last hour of Sunday."""
    utc = moment.astimezone(UTC)
    return utc.weekday() * 24 + utc.hour


def middle(snapshot: MetricsSnapshot) -> datetime:
    """The time a window stands for."""
    return snapshot.window_start + (snapshot.window_end - snapshot.window_start) / 2


def age_note(baseline: Baseline, now: datetime) -> str | None:
    """A sentence once the newest healthy window is older than :data:`OLD`, else null."""
    if baseline.newest is None or now - baseline.newest <= OLD:
        return None
    return f"the baseline's newest healthy window is {(now - baseline.newest).total_seconds() / 86400:.0f} days old"


def weighted_median(values: Floats, weights: Floats) -> float:
    """The value with half of the weight on either side; the mean of two where the halves meet between them. Equal weights give the plain median."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    half = total[-1] / 2.0
    at = int(np.searchsorted(total, half * (1.0 - 1e-12)))
    between = abs(total[at] - half) <= 1e-9 * half and at + 1 < order.size
    return float(values[order[at : at + 2]].mean()) if between else float(values[order[at]])


def standard_error(metric: Metric) -> float | None:
    """Of one window's value, from its own 95% interval; null where it has none."""
    if metric.ci_low is None or metric.ci_high is None or not math.isfinite(metric.ci_high - metric.ci_low):
        return None
    return (metric.ci_high - metric.ci_low) / (2.0 * 1.959964)


def usual_scale(spread: float | None, noise: float | None, windows: int) -> float | None:
    """Standard deviation of a window: the spread once :data:`KNOWN` windows show it, before that the larger of spread and sampling noise.

    A frozen set of probes strays less than its interval says, because every window asks the same queries: enough windows show it.
    """
    if spread and windows >= KNOWN:
        return spread
    return max((known for known in (spread, noise) if known), default=None)


def _tail(distances: Floats, spread: float | None) -> tuple[float, float] | None:
    """Threshold and mean excess of the outermost 5%, one standard error of the excess added: it is estimated from few windows."""
    if not spread or distances.size < _WINDOWS_FOR_TAILS:
        return None
    scaled = distances / spread
    start = float(np.quantile(scaled, 1.0 - TAIL))
    beyond = scaled[scaled > start] - start
    return start, float(beyond.mean() * (1.0 + 1.0 / math.sqrt(beyond.size))) if beyond.size else 0.0


def _reference(name: str, pairs: Sequence[tuple[MetricsSnapshot, Metric]]) -> Reference:
    values = np.array([metric.value for _, metric in pairs], dtype=np.float64)
    sizes = np.maximum([metric.n for _, metric in pairs], 1).astype(np.float64)
    heaviest = min(_HEAVIEST, 0.9 * max(len(pairs) - 1, 1))  # in the company of one or two, less than half of all weight
    weights = np.ones_like(sizes) if name in GAUGES else np.minimum(sizes, heaviest * np.median(sizes))
    centre = weighted_median(values, weights)
    times = [middle(snapshot) for snapshot, _ in pairs]
    season, reason = _season(values - centre, times)
    residual = values - centre - np.array([season.get(hour_of_week(time), 0.0) for time in times])
    errors = [error for error in (standard_error(metric) for _, metric in pairs) if error is not None]
    spread = _SCALE * weighted_median(np.abs(residual), weights) if len(pairs) >= 3 else None
    noise = float(np.median(errors)) if errors else None
    scale = usual_scale(spread, noise, len(pairs))
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    factor = _MEDIAN_VARIANCE if len(pairs) >= 3 else 1.0
    return Reference(
        metric=name,
        centre=centre,
        spread=spread,
        noise=noise,
        error=None if scale is None else scale * math.sqrt(factor / effective),
        windows=len(pairs),
        observations=int(sum(metric.n for _, metric in pairs)),
        mean=float((values * sizes).sum() / sizes.sum()),
        tail=_tail(np.abs(residual), spread),
        oldest=pairs[0][0].window_start,
        newest=pairs[-1][0].window_end,
        season=season,
        reason=reason,
    )


def _season(deviations: Floats, times: Sequence[datetime]) -> tuple[dict[int, float], str]:
    """Offset of each hour of the week and what they stand on; empty with the reason where the windows cannot tell."""
    span = times[-1] - times[0]
    windows = f"{len(times)} windows over {span / _WEEK:.1f} weeks"
    if span < _WEEKS_FOR_SEASONS * _WEEK * (1.0 - 1.0 / _HOURS):
        return {}, f"level only: {windows}; a season needs {_WEEKS_FOR_SEASONS} weeks"
    hours = np.array([hour_of_week(time) for time in times])
    weeks = np.array([(time - times[0]) // _WEEK for time in times])
    by_hour = {
        int(hour): np.array([np.median(deviations[(hours == hour) & (weeks == week)]) for week in np.unique(weeks[hours == hour])]) for hour in np.unique(hours)
    }
    known = [hour for hour, of_weeks in by_hour.items() if of_weeks.size >= _WEEKS_FOR_SEASONS]
    if len(known) < _HOURS // 2:
        return {}, f"level only: {windows}, but {len(known)} of {_HOURS} hours of the week were seen in {_WEEKS_FOR_SEASONS} weeks"
    medians = np.array([np.median(by_hour[hour]) for hour in known])
    # How far one week's hour lies from the next week's: windows of one hour resemble each other, so that weeks are counted, not windows.
    apart = np.concatenate([np.diff(by_hour[hour]) for hour in known])
    noise = (_SCALE * float(np.median(np.abs(apart)))) ** 2 / 2.0
    sampling = _MEDIAN_VARIANCE * noise / np.array([by_hour[hour].size for hour in known])
    between = (_SCALE * float(np.median(np.abs(medians - np.median(medians))))) ** 2
    # A season of few hours leaves the median deviation at the noise; the plain variance sees it, and must show it clearly.
    true = max(0.0, between - float(sampling.mean()), float(np.var(medians)) - 3.0 * float(sampling.mean()))
    shrunk = medians * (true / (true + sampling)) if true > 0.0 else np.zeros_like(medians)
    if not shrunk.any():
        return {}, f"level only: {windows} show no season beyond noise"
    kept = float((shrunk**2).sum() / max((medians**2).sum(), 1e-300)) ** 0.5
    return {int(hour): float(value) for hour, value in zip(known, shrunk, strict=True)}, f"season of {len(known)} hours from {windows}, {kept:.0%} of it kept"


def _needed(healthy: Sequence[MetricsSnapshot], min_windows: int | None) -> int:
    return COLD_START.get(healthy[-1].contour, DEFAULT_WINDOWS) if min_windows is None else min_windows


def _counts(metric: Metric, min_sample: int) -> bool:
    return metric.value is not None and (metric.n >= min_sample or metric.name in GAUGES)


def _last_revisions(snapshots: Iterable[MetricsSnapshot]) -> list[MetricsSnapshot]:
    """One snapshot of each window, the one made last: late events correct a window by measuring it again."""
    last: dict[tuple[datetime, datetime], MetricsSnapshot] = {}
    for snapshot in sorted(snapshots, key=lambda one: (one.window_end, int(getattr(one, "revision", 0)), one.created_at)):
        last[(snapshot.window_start, snapshot.window_end)] = snapshot
    return list(last.values())


def _dropped(before: list[float], value: float | None, change: float) -> bool:
    if not before or value is None:
        return False
    limit = float(np.median(before)) * (1.0 + change)
    return value < limit if change < 0 else value > limit
