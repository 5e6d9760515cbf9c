"""The guide's success metrics before and after a moment, from stored snapshots: NDCG@10, P95, cost per 1,000 requests, downtime.

What belongs here: how windows are put together. What must not: measuring a window (``monitor``), releases (``stories``).

- NDCG@10 and cost: means over windows, weighted by their samples; the interval is Student's over windows, which are the sampling units (three at least).
- P95: the median of the windows' P95; percentiles of windows cannot be added, and the row says what it is.
- Downtime: the share of failed requests of a window times its length, summed, in minutes a day of measured time. Time without a window is told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from statistics import median
from typing import Literal

from predator_si.records import Metric, MetricsSnapshot, Record

Measured = Literal["ndcg_at_10", "p95_latency_ms", "cost_per_1k_requests", "downtime_minutes_per_day"]
Better = Literal["up", "down"]
MIN_WINDOWS = 3
"""Fewer windows have no interval."""


class Side(Record):
    """One metric over the windows of one side; null with the reason."""

    value: float | None
    low: float | None = None
    high: float | None = None
    windows: int
    observations: int
    reason: str | None = None


class BeforeAfterRow(Record):
    """One metric on both sides."""

    metric: Measured
    name: str
    unit: str
    better: Better
    how: str
    before: Side
    after: Side

    @property
    def difference(self) -> float | None:
        """After minus before; null where one is unknown."""
        return None if self.before.value is None or self.after.value is None else self.after.value - self.before.value

    @property
    def answer(self) -> Literal["better", "worse", "open"]:
        """Open where a side is unknown, where nothing differs, and where the intervals overlap."""
        difference = self.difference
        if difference is None or difference == 0:
            return "open"
        sides = (self.before, self.after)
        if all(side.low is not None and side.high is not None for side in sides) and self.before.low <= self.after.high and self.after.low <= self.before.high:  # type: ignore[operator]
            return "open"
        return "better" if (difference > 0) == (self.better == "up") else "worse"


class BeforeAfter(Record):
    """The table, and what it was made from."""

    start: datetime
    split: datetime
    end: datetime
    why_split: str
    rows: tuple[BeforeAfterRow, ...]
    mock: bool
    """Whether some of the windows have made-up metrics; then all of it says nothing about a service."""
    unmeasured_hours: float
    """Of the period: no window covers them."""


def before_after(snapshots: Sequence[MetricsSnapshot], start: datetime, end: datetime, split: datetime, why_split: str) -> BeforeAfter:
    """Compare the windows of ``[start, split)`` with those of ``[split, end)``; a window that reaches over the split is left out.

    Parameters
    ----------
    split
        A release, a rollback, or any other moment; ``why_split`` says which.
    """
    inside = [one for one in snapshots if one.window_start >= start and one.window_end <= end]
    sides = [one for one in inside if one.window_end <= split], [one for one in inside if one.window_start >= split]
    rows = []
    for name, title, unit, better, how, take in _ROWS:
        before, after = (take(side) for side in sides)
        rows.append(BeforeAfterRow(metric=name, name=title, unit=unit, better=better, how=how, before=before, after=after))
    measured = sum(_seconds(one) for one in inside)
    return BeforeAfter(
        start=start,
        split=split,
        end=end,
        why_split=why_split,
        rows=tuple(rows),
        mock=any(one.mock for one in inside),
        unmeasured_hours=max(0.0, ((end - start).total_seconds() - measured) / 3600),
    )


def _seconds(snapshot: MetricsSnapshot) -> float:
    return (snapshot.window_end - snapshot.window_start).total_seconds()


def _known(windows: Sequence[MetricsSnapshot], metric: str) -> list[tuple[float, int]]:
    found = [one.metrics.get(metric) for one in windows]
    return [(one.value, max(1, one.n)) for one in found if one is not None and one.value is not None]


def _none(windows: Sequence[MetricsSnapshot], metric: str) -> Side:
    reasons = [one.reason for window in windows if isinstance(one := window.metrics.get(metric), Metric) and one.reason]
    why = f"unknown in all {len(windows)} windows" + (f": {reasons[-1]}" if reasons else "") if windows else "no window on this side"
    return Side(value=None, windows=0, observations=0, reason=why)


def _weighted(metric: str) -> Callable[[Sequence[MetricsSnapshot]], Side]:
    def take(windows: Sequence[MetricsSnapshot]) -> Side:
        known = _known(windows, metric)
        if not known:
            return _none(windows, metric)
        total = sum(n for _, n in known)
        value = sum(v * n for v, n in known) / total
        low = high = None
        if len(known) >= MIN_WINDOWS:
            # ratio estimator over windows as clusters (Cochran 1977, 6.4)
            size = len(known)
            spread = sum((n * (v - value)) ** 2 for v, n in known) * size / (size - 1)
            half = _student(size - 1) * spread**0.5 / total
            low, high = value - half, value + half
        return Side(value=value, low=low, high=high, windows=len(known), observations=total)

    return take


def _middle(metric: str) -> Callable[[Sequence[MetricsSnapshot]], Side]:
    def take(windows: Sequence[MetricsSnapshot]) -> Side:
        known = _known(windows, metric)
        if not known:
            return _none(windows, metric)
        return Side(value=median(v for v, _ in known), windows=len(known), observations=sum(n for _, n in known))

    return take


def _downtime(windows: Sequence[MetricsSnapshot]) -> Side:
    found = [(one.metrics.get("error_rate"), _seconds(one)) for one in windows]
    known = [(rate.value, rate.n, seconds) for rate, seconds in found if rate is not None and rate.value is not None]
    if not known:
        return _none(windows, "error_rate")
    down, measured = sum(rate * seconds for rate, _, seconds in known), sum(seconds for *_, seconds in known)
    return Side(value=down / measured * 1440, windows=len(known), observations=sum(n for _, n, _ in known))


def _student(freedom: int) -> float:
    """The 97.5% point of Student's distribution."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


_ROWS: tuple[tuple[Measured, str, str, Better, str, Callable[[Sequence[MetricsSnapshot]], Side]], ...] = (
    ("ndcg_at_10", "NDCG@10", "", "up", "mean over windows, weighted by judged queries", _weighted("ndcg_at_10")),
    ("p95_latency_ms", "P95 latency", "ms", "down", "median of the windows' P95", _middle("p95_latency_ms")),
    ("cost_per_1k_requests", "Cost per 1,000 requests", "USD", "down", "mean over windows, weighted by requests", _weighted("cost_per_1k_requests")),
    ("downtime_minutes_per_day", "Downtime", "min/day", "down", "failed share of requests times measured time", _downtime),
)  # fmt: skip


def split_of(releases: Sequence[tuple[datetime, str]], start: datetime, end: datetime) -> tuple[datetime, str]:
    """Where a period is split: at its newest release or rollback, else in its middle, and why."""
    inside = [(at, what) for at, what in releases if start < at < end]
    if inside:
        return max(inside)
    return start + (end - start) / 2, "nothing was released or taken back in this period, so its halves are compared"


__all__ = ["BeforeAfter", "BeforeAfterRow", "Side", "before_after", "split_of"]
