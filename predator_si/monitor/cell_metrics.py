"""What the requests of one cell say: clicks, latency, errors, ratings, cost; each with sample, interval, source and age, or null with the reason.

What belongs here: from sums to named metrics. What must not: counting (``requests``), which cells belong to whom (``snapshot``), judged probes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np

from predator_si.monitor.aggregate import Cell
from predator_si.monitor.traffic import PriceTable
from predator_si.records import Metric
from predator_si.signals import SIGNALS
from predator_si.statistics import wilson

FACTS: dict[str, tuple[str, Literal["up", "down"]]] = {
    **{name: (signal.unit, signal.direction) for name, signal in SIGNALS.items()},
    "ndcg_at_10_clicks": ("", "up"),
    "click_through": ("", "up"),
    "nps": ("points", "up"),
}
"""Unit and good direction of every metric in a snapshot."""
PERCENTILES = {"p50_latency_ms": 0.5, "p95_latency_ms": 0.95, "p99_latency_ms": 0.99}


@dataclass(frozen=True)
class Answerer:
    """Whose requests are measured, for the reason where there are none: ``digest`` (null: any model), and what was left out beside them."""

    digest: str | None
    others: int = 0
    probes: int = 0

    def nobody(self) -> str:
        """Why there is nothing to measure."""
        who = "any model" if self.digest is None else f"the champion {self.digest}"
        return f"no request was answered by {who} in this window ({self.others} by other models, {self.probes} probes, both left out)"


def cell_metrics(cell: Cell, who: Answerer, now: datetime, *, eta: float, seed: int = 0) -> list[Metric]:
    """Clicks, latency, errors and ratings of one cell; the same for the champion of a window and for an arm of a trial."""
    return [*_clicks(cell, who, now, seed, eta), *_latency(cell, who, now, seed), _errors(cell, who, now), *_ratings(cell, now, seed)]


def named(name: str, value: float | None, **more: Any) -> Metric:
    """A metric with its unit and good direction."""
    unit, direction = FACTS[name]
    return Metric(name=name, value=value, unit=unit, direction=direction, **more)


def age(newest: datetime | None, now: datetime) -> float | None:
    """Seconds since then; null where there is no such time."""
    return None if newest is None else max(0.0, (now - newest).total_seconds())


def mean_of(name: str, cell: Cell, family: str, column: str, reason: str, *, seed: int = 0, scale: float = 1.0, **more: Any) -> Metric:
    """A mean with its interval; null with ``reason`` where nothing was observed, without interval where there is one unit only."""
    totals = cell.families.get(family)
    found = None if totals is None else totals.interval(column, scale=scale, seed=seed)
    if found is None:
        return named(name, None, reason=reason, **more)
    bounds = {} if np.isnan(found.low) else {"ci_low": found.low, "ci_high": found.high}
    return named(name, found.estimate, n=found.n, **bounds, **more)


def cost(cell: Cell, prices: PriceTable | None, now: datetime, seed: int = 0) -> Metric:
    """USD for a thousand requests: price times measured CPU seconds."""
    name = "cost_per_1k_requests"
    if prices is None:
        return named(name, None, source="estimated", reason="no price table; set selfImprovement.prices")
    source = f"estimated: {prices.usd_per_vcpu_hour:g} USD per vCPU hour ({prices.origin}) x measured CPU seconds" + _simulated(cell)
    reason = f"none of {cell.count('served')} requests carries its CPU seconds"
    # USD per hour over 3600 is USD per second of one request; a thousand of them are asked for.
    scale = prices.usd_per_vcpu_hour / 3.6
    return mean_of(name, cell, "cpu", "cpu_seconds", reason, seed=seed, scale=scale, source=source, age_seconds=age(cell.newest.get("timed"), now))


def _simulated(cell: Cell) -> str:
    return " (simulated)" if cell.count("simulated") else ""


def _clicks(cell: Cell, who: Answerer, now: datetime, seed: int, eta: float) -> list[Metric]:
    n, simulated = cell.count("answered"), _simulated(cell)
    more: dict[str, Any] = {"age_seconds": age(cell.newest.get("answered"), now)}
    sources = {
        "ndcg_at_10_clicks": ("value", f"clicks, inverse-propensity DCG@10, position bias 1/r^{eta:g}{simulated}"),
        "click_through": ("clicked", f"clicks{simulated}"),
    }
    if n and not cell.count("clicked"):
        reason = f"none of {n} answered requests has a click: clicks are not recorded, or nobody found anything"
        return [named(name, None, n=n, source=source, reason=reason, **more) for name, (_, source) in sources.items()]
    return [mean_of(name, cell, "clicks", column, who.nobody(), seed=seed, source=source, **more) for name, (column, source) in sources.items()]


def _ratings(cell: Cell, now: datetime, seed: int) -> list[Metric]:
    """Mean of 1..5, and the share of 5 less the share of 1..3 in points: the net promoter score as adapted to five-point scales."""
    bad = cell.count("bad_ratings")
    source = "ratings" + (f", {bad} outside 1..5 left out" if bad else "") + _simulated(cell)
    shared: dict[str, Any] = {"source": source, "age_seconds": age(cell.newest.get("rated"), now), "seed": seed}
    reason = f"no ratings on {cell.count('requests')} requests of the champion"
    return [
        mean_of("user_satisfaction", cell, "ratings", "rating", reason, **shared),
        mean_of("nps", cell, "ratings", "promoter", reason, scale=100.0, **shared),
    ]


def _latency(cell: Cell, who: Answerer, now: datetime, seed: int) -> list[Metric]:
    shared: dict[str, Any] = {"source": "search events" + _simulated(cell), "age_seconds": age(cell.newest.get("answered"), now)}
    found = [mean_of("avg_latency_ms", cell, "latency", "latency_ms", who.nobody(), seed=seed, **shared)]
    if not cell.count("answered"):
        return found + [named(name, None, reason=who.nobody(), **shared) for name in PERCENTILES]
    if not cell.latencies.exact:
        shared["source"] += f", percentiles within {cell.latencies.sketch.accuracy:.1%} (sketch)"
    for name, row in zip(PERCENTILES, cell.latencies.percentiles(tuple(PERCENTILES.values())).iter_rows(named=True), strict=True):
        found.append(named(name, row["value"], n=row["n"], ci_low=row["low"], ci_high=row["high"], **shared))
    return found


def _errors(cell: Cell, who: Answerer, now: datetime) -> Metric:
    shared: dict[str, Any] = {"source": "search events" + _simulated(cell), "age_seconds": age(cell.newest.get("served"), now)}
    if not cell.count("served"):
        return named("error_rate", None, reason=who.nobody(), **shared)
    interval = wilson(cell.count("failed"), cell.count("served"))
    return named("error_rate", interval.estimate, n=interval.n, ci_low=interval.low, ci_high=interval.high, **shared)
