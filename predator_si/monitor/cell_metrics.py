"""What the requests of one cell say: clicks, latency, errors, ratings, cost; each with sample, interval, source and age, or null with the reason.

What belongs here: from sums to named metrics. What must not: counting (``requests``), which cells belong to whom (``snapshot``), judged probes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np

from predator_si.monitor.aggregate import Cell, CellKey
from predator_si.monitor.traffic import PriceTable
from predator_si.records import CellMetrics, Metric
from predator_si.signals import SIGNALS
from predator_si.statistics import wilson

FACTS: dict[str, tuple[str, Literal["up", "down"]]] = {
    **{name: (signal.unit, signal.direction) for name, signal in SIGNALS.items()},
    "ndcg_at_10_clicks": ("", "up"),
    "click_through": ("", "up"),
    "nps": ("points", "up"),
}
"""Unit and good direction of every metric in a snapshot."""
TABLE_BOOTSTRAP = 200
"""In the table of cells, means over more clients than this have Student's interval: there are many cells and measures, and both agree by then."""
_TABLE = {"avg_latency_ms": ("latency", "latency_ms"), "ndcg_at_10_clicks": ("clicks", "value"), "click_through": ("clicks", "clicked")}
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


def cell_table(cells: Mapping[CellKey, Cell], now: datetime) -> tuple[CellMetrics, ...]:
    """Every cell of people's requests with all its means: judged measures under their own names, clicks, latency with percentiles, errors; and every cell of
    probes whose labels are known with its judged measures.
    """
    found = []
    for key, cell in sorted(cells.items(), key=lambda one: tuple(part or "" for part in one[0])):
        if key.kind != "person" and not (key.kind == "probe" and "judged" in cell.families):
            continue
        metrics = [_mean_of_table(cell, "judged", name, name, now) for name in (cell.families["judged"].names if "judged" in cell.families else ())]
        if key.kind == "person":
            metrics += [_mean_of_table(cell, family, column, name, now) for name, (family, column) in _TABLE.items() if family in cell.families]
            metrics += _percentiles(cell, {}) if "latency" in cell.families else []
            metrics += [_errors(cell, Answerer(key.model_digest), now)]
        facts: dict[str, Any] = {name: part for name, part in key._asdict().items() if name in CellMetrics.model_fields}
        found.append(CellMetrics(**facts, counts=dict(cell.counts), metrics={metric.name: metric for metric in metrics}))
    return tuple(found)


def _mean_of_table(cell: Cell, family: str, column: str, name: str, now: datetime) -> Metric:
    found = cell.families[family].interval(column, limit=TABLE_BOOTSTRAP)
    assert found is not None
    unit, direction = FACTS.get(name, ("", "down" if name.startswith("RBPres") else "up"))
    bounds = {} if np.isnan(found.low) else {"ci_low": found.low, "ci_high": found.high}
    newest = age(cell.newest.get("answered"), now)
    return Metric(name=name, value=found.estimate, n=found.n, unit=unit, direction=direction, age_seconds=newest, **bounds)  # type: ignore[arg-type]


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
    answered = cell.count("answered")
    reason = f"none of {answered} answered requests carries its latency" if answered else who.nobody()
    found = [mean_of("avg_latency_ms", cell, "latency", "latency_ms", reason, seed=seed, **shared)]
    if "latency" not in cell.families:
        return found + [named(name, None, reason=reason, **shared) for name in PERCENTILES]
    return found + _percentiles(cell, shared)


def _percentiles(cell: Cell, shared: dict[str, Any]) -> list[Metric]:
    more = dict(shared)
    if not cell.latencies.exact:
        more["source"] = more.get("source", "search events") + f", percentiles within {cell.latencies.sketch.accuracy:.1%} (sketch)"
    rows = cell.latencies.percentiles(tuple(PERCENTILES.values())).iter_rows(named=True)
    return [named(name, row["value"], n=row["n"], ci_low=row["low"], ci_high=row["high"], **more) for name, row in zip(PERCENTILES, rows, strict=True)]


def _errors(cell: Cell, who: Answerer, now: datetime) -> Metric:
    shared: dict[str, Any] = {"source": "search events" + _simulated(cell), "age_seconds": age(cell.newest.get("served"), now)}
    if not cell.count("served"):
        return named("error_rate", None, reason=who.nobody(), **shared)
    interval = wilson(cell.count("failed"), cell.count("served"))
    return named("error_rate", interval.estimate, n=interval.n, ci_low=interval.low, ci_high=interval.high, **shared)
