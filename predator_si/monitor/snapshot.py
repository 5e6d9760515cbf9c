"""All metrics of one window, each with its sample, interval, source and age, or null with the reason.

What belongs here: one small function per source of metrics. What must not: thresholds, baselines, reading files.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import polars as pl

from predator_si.measures import percentiles
from predator_si.monitor.clicks import click_quality
from predator_si.monitor.probes import ProbeResult
from predator_si.monitor.traffic import FAILED, PriceTable, Traffic, champion_traffic
from predator_si.records import Metric, MetricsSnapshot
from predator_si.search.events import EventFrames
from predator_si.signals import SIGNALS
from predator_si.statistics import bootstrap_mean_interval, wilson

FAILED_PROBES = 0.02
"""Above this share of failed probes the rest is a sample chosen by the fault: quality is unknown."""
_FACTS: dict[str, tuple[str, Literal["up", "down"]]] = {
    **{name: (signal.unit, signal.direction) for name, signal in SIGNALS.items()},
    "ndcg_at_10_clicks": ("", "up"),
    "click_through": ("", "up"),
    "nps": ("points", "up"),
}
"""Unit and good direction of every metric in a snapshot."""
_PERCENTILES = {"p50_latency_ms": 0.5, "p95_latency_ms": 0.95, "p99_latency_ms": 0.99}
_RESAMPLES = 2_000


def measure_window(
    events: EventFrames,
    window_start: datetime,
    window_end: datetime,
    now: datetime,
    *,
    champion: str | None,
    contour: str,
    probes: ProbeResult | None = None,
    prices: PriceTable | None = None,
    ingest: Mapping[str, Any] | None = None,
    gpu_utilization: float | None = None,
    position_bias: float = 1.0,
    seed: int = 0,
    mock: bool = False,
    snapshot_id: str | None = None,
) -> MetricsSnapshot:
    """The metrics of ``window_start <= t < window_end``, for the champion only: another model's requests and all probes are left out.

    Parameters
    ----------
    events
        What ``search.events.read_events`` gives for the window (it may reach beyond; ratings and clicks count where they fall on a request
        of the window).
    now
        Ages are counted to it.
    champion
        Digest that the release names; null counts every model's requests.
    probes
        Judged queries asked of the live service; null makes the judged metrics unknown.
    prices
        For ``cost_per_1k_requests``: USD per vCPU hour times the measured CPU seconds, labelled ``estimated``.
    ingest
        The ``ingest`` object of ``GET /info``: ``lag_seconds``, ``documents_per_second``, ``dead_letters`` (given up after repeated errors); what it
        lacks is unknown.
    gpu_utilization
        0..1 from a source that has a GPU.
    position_bias
        ``eta`` of :func:`~predator_si.monitor.clicks.click_quality`.
    seed
        Of the bootstrap intervals.
    mock
        The window was made up by mock signals.

    Raises
    ------
    BadInput
        The window has no time zone or does not end after it starts.
    """
    traffic = champion_traffic(events, window_start, window_end, champion)
    metrics = [
        *_judged(probes, champion, now, seed),
        *traffic_metrics(traffic, champion, now, seed=seed, position_bias=position_bias),
        _cost(traffic, prices, now, seed),
        *_ingest(ingest, now),
        _gpu(gpu_utilization),
    ]
    window = {"window_start": window_start, "window_end": window_end}
    return MetricsSnapshot(
        snapshot_id=snapshot_id or f"{contour}-{window_end.astimezone(UTC):%Y%m%dT%H%M%S}",
        contour=contour,
        created_at=now,
        **window,
        champion=champion,
        metrics={metric.name: metric.model_copy(update=window if metric.window_start is None else {}) for metric in metrics},
        mock=mock,
        lost_events=events.lost,
        quarantined=events.quarantine.height,
    )


def traffic_metrics(traffic: Traffic, digest: str | None, now: datetime, *, seed: int = 0, position_bias: float = 1.0) -> list[Metric]:
    """What one model's requests say: clicks, latency, errors, ratings; the same for the champion of a window and for an arm of a trial."""
    return [
        *_clicks(traffic, digest, now, seed, position_bias),
        *_latency(traffic, digest, now, seed),
        _errors(traffic, digest, now),
        *_ratings(traffic, now, seed),
    ]


def _metric(name: str, value: float | None, **more: Any) -> Metric:
    unit, direction = _FACTS[name]
    return Metric(name=name, value=value, unit=unit, direction=direction, **more)


def _age(newest: datetime | None, now: datetime) -> float | None:
    return None if newest is None else max(0.0, (now - newest).total_seconds())


def _newest(frame: pl.DataFrame, now: datetime) -> float | None:
    newest: Any = frame["timestamp"].max()
    return _age(newest, now)


def _mean(name: str, values: pl.Series, seed: int, reason: str, cluster: pl.Series | None = None, scale: float = 1.0, **more: Any) -> Metric:
    """A mean with its bootstrap interval; null with ``reason`` where there is nothing, without interval where there is one unit only."""
    n = len(values)
    if n == 0:
        return _metric(name, None, reason=reason, **more)
    numbers = values.to_numpy() * scale
    labels = None if cluster is None or cluster.n_unique() == n else cluster.to_numpy()
    if n == 1 or (labels is not None and len(set(labels)) == 1):
        return _metric(name, float(numbers.mean()), n=n, **more)
    interval = bootstrap_mean_interval(numbers, seed=seed, n_boot=_RESAMPLES, cluster=labels)
    return _metric(name, interval.estimate, n=n, ci_low=interval.low, ci_high=interval.high, **more)


# --------------------------------------------------------------------------- quality


def _judged(probes: ProbeResult | None, champion: str | None, now: datetime, seed: int) -> list[Metric]:
    names = {"ndcg_at_10": "ndcg_at_10", "recall_at_20": "recall_at_20", "mrr": "rr_at_10"}
    source = "judged probes over HTTP"
    if probes is None:
        return [_metric(name, None, source=source, reason="no judged probes were sent in this window") for name in names]
    window: dict[str, Any] = {"window_start": probes.started_at, "window_end": probes.ended_at, "age_seconds": _age(probes.ended_at, now)}
    source += f", {probes.failed} of {probes.n} failed"
    problem = _probe_problem(probes, champion)
    if problem is not None:
        return [_metric(name, None, n=probes.n - probes.failed, source=source, reason=problem, **window) for name in names]
    return [
        _metric(name, None, n=probes.n, source=source, reason=f"probes asked for {probes.k} results, recall at 20 needs 20", **window)
        if name == "recall_at_20" and probes.k < 20
        else _mean(name, probes.per_query[column].drop_nulls(), seed, "every probe failed", source=source, **window)
        for name, column in names.items()
    ]


def _probe_problem(probes: ProbeResult, champion: str | None) -> str | None:
    if probes.failed_share > FAILED_PROBES:
        first = str(probes.per_query["error"].drop_nulls()[0])
        return f"{probes.failed} of {probes.n} probes failed ({first}); more than {FAILED_PROBES:.0%} make the rest no fair sample"
    if len(probes.digests) > 1:
        return f"probes were answered by {len(probes.digests)} models ({', '.join(sorted(probes.digests))}); pin the variant or probe again after the swap"
    if champion is not None and probes.digests and champion not in probes.digests:
        return f"probes were answered by {next(iter(probes.digests))}, not by the champion {champion}"
    return None


def _clicks(traffic: Traffic, champion: str | None, now: datetime, seed: int, eta: float) -> list[Metric]:
    answered = traffic.answered
    quality = click_quality(answered, traffic.actions, eta=eta)
    simulated, age, cluster = _simulated(traffic), _newest(answered, now), quality["client"]
    sources = {"ndcg_at_10_clicks": f"clicks, inverse-propensity DCG@10, position bias 1/r^{eta:g}{simulated}", "click_through": f"clicks{simulated}"}
    if answered.height and not quality["clicked"].any():
        reason = f"none of {answered.height} answered requests has a click: clicks are not recorded, or nobody found anything"
        return [_metric(name, None, n=answered.height, source=source, reason=reason, age_seconds=age) for name, source in sources.items()]
    reason = _nobody(traffic, champion)
    values = {"ndcg_at_10_clicks": quality["value"], "click_through": quality["clicked"].cast(pl.Float64)}
    return [_mean(name, values[name], seed, reason, cluster, source=source, age_seconds=age) for name, source in sources.items()]


def _ratings(traffic: Traffic, now: datetime, seed: int) -> list[Metric]:
    """Mean of 1..5, and the share of 5 less the share of 1..3 in points: the net promoter score as adapted to five-point scales."""
    ratings = traffic.actions.filter(pl.col("action_name") == "rating")
    usable = ratings.filter(pl.col("value").is_between(1.0, 5.0))
    bad = ratings.height - usable.height
    source = "ratings" + (f", {bad} outside 1..5 left out" if bad else "") + _simulated(traffic)
    shared: dict[str, Any] = {"source": source, "age_seconds": _newest(usable, now)}
    promoters = (usable["value"] >= 4.5).cast(pl.Float64) - (usable["value"] < 3.5).cast(pl.Float64)
    cluster = usable.select(pl.coalesce("client_id", "query_id")).to_series()
    reason = f"no ratings on {traffic.requests.height} requests of the champion"
    return [
        _mean("user_satisfaction", usable["value"], seed, reason, cluster, **shared),
        _mean("nps", promoters, seed, reason, cluster, scale=100.0, **shared),
    ]


# --------------------------------------------------------------------------- service


def _simulated(traffic: Traffic) -> str:
    return " (simulated)" if traffic.simulated else ""


def _nobody(traffic: Traffic, champion: str | None) -> str:
    who = "any model" if champion is None else f"the champion {champion}"
    return f"no request was answered by {who} in this window ({traffic.others} by other models, {traffic.probes} probes, both left out)"


def _latency(traffic: Traffic, champion: str | None, now: datetime, seed: int) -> list[Metric]:
    answered = traffic.answered
    shared: dict[str, Any] = {"source": "search events" + _simulated(traffic), "age_seconds": _newest(answered, now)}
    reason = _nobody(traffic, champion)
    found = [_mean("avg_latency_ms", answered["latency_ms"], seed, reason, **shared)]
    if answered.is_empty():
        return found + [_metric(name, None, reason=reason, **shared) for name in _PERCENTILES]
    frame = percentiles(answered["latency_ms"], tuple(_PERCENTILES.values()))
    for name, row in zip(_PERCENTILES, frame.iter_rows(named=True), strict=True):
        found.append(_metric(name, row["value"], n=row["n"], ci_low=row["low"], ci_high=row["high"], **shared))
    return found


def _errors(traffic: Traffic, champion: str | None, now: datetime) -> Metric:
    served = traffic.served
    shared: dict[str, Any] = {"source": "search events" + _simulated(traffic), "age_seconds": _newest(served, now)}
    if served.is_empty():
        return _metric("error_rate", None, reason=_nobody(traffic, champion), **shared)
    interval = wilson(int(served.select(FAILED.sum()).item()), served.height)
    return _metric("error_rate", interval.estimate, n=interval.n, ci_low=interval.low, ci_high=interval.high, **shared)


def _cost(traffic: Traffic, prices: PriceTable | None, now: datetime, seed: int) -> Metric:
    timed = traffic.served.filter(pl.col("cpu_seconds").is_not_null())
    if prices is None:
        return _metric("cost_per_1k_requests", None, source="estimated", reason="no price table; set selfImprovement.prices")
    source = f"estimated: {prices.usd_per_vcpu_hour:g} USD per vCPU hour ({prices.origin}) x measured CPU seconds" + _simulated(traffic)
    reason = f"none of {traffic.served.height} requests carries its CPU seconds"
    # USD per hour over 3600 is USD per second of one request; a thousand of them are asked for.
    scale = prices.usd_per_vcpu_hour / 3.6
    return _mean("cost_per_1k_requests", timed["cpu_seconds"], seed, reason, scale=scale, source=source, age_seconds=_newest(timed, now))


def _ingest(ingest: Mapping[str, Any] | None, now: datetime) -> list[Metric]:
    keys = {"etl_lag_seconds": "lag_seconds", "index_throughput": "documents_per_second", "index_errors": "dead_letters"}
    source = "ingest queue, GET /info"
    if ingest is None:
        return [_metric(name, None, source=source, reason="the service did not say how its ingest queue stands") for name in keys]
    observed = ingest.get("observed_at")
    age = _age(datetime.fromisoformat(observed) if isinstance(observed, str) else observed, now) if observed is not None else 0.0
    found = []
    for name, key in keys.items():
        value = ingest.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            found.append(_metric(name, None, source=source, age_seconds=age, reason=f"the ingest queue reports no usable {key} ({value!r})"))
        else:
            found.append(_metric(name, float(value), n=1, source=source, age_seconds=age))
    return found


def _gpu(utilization: float | None) -> Metric:
    if utilization is None:
        return _metric("gpu_utilization", None, source="none", reason="not applicable: no GPU telemetry in this contour")
    return _metric("gpu_utilization", utilization, n=1, source="device telemetry", age_seconds=0.0)
