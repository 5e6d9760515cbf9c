"""All metrics of one window, each with its sample, interval, source and age, or null with the reason.

What belongs here: one small function per source of metrics. What must not: thresholds, baselines, reading files.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from predator_si.monitor.aggregate import Aggregate, CellKey
from predator_si.monitor.cell_metrics import Answerer, age, cell_metrics, cell_table, cost, named
from predator_si.monitor.probes import ProbeResult
from predator_si.monitor.requests import Plan, aggregate_frames
from predator_si.monitor.traffic import PriceTable, Traffic, check_window
from predator_si.records import Metric, MetricsSnapshot
from predator_si.search.events import EventFrames
from predator_si.statistics import bootstrap_mean_interval

FAILED_PROBES = 0.02
"""Above this share of failed probes the rest is a sample chosen by the fault: quality is unknown."""
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
    check_window(window_start, window_end)
    window = events.search.filter(pl.col("timestamp").is_between(window_start, window_end, closed="left"))
    found = aggregate_frames(window, events.actions, Plan(eta=position_bias))
    return snapshot_of(
        found,
        window_start,
        window_end,
        now,
        champion=champion,
        contour=contour,
        probes=probes,
        prices=prices,
        ingest=ingest,
        gpu_utilization=gpu_utilization,
        seed=seed,
        mock=mock,
        snapshot_id=snapshot_id,
        lost_events=events.lost,
        quarantined=events.quarantine.height,
    )


def snapshot_of(
    found: Aggregate,
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
    seed: int = 0,
    mock: bool = False,
    snapshot_id: str | None = None,
    lost_events: int = 0,
    quarantined: int = 0,
    revision: int = 1,
) -> MetricsSnapshot:
    """The metrics of an aggregate, as :func:`measure_window` names them; other arguments as there.

    Raises
    ------
    BadInput
        The window has no time zone or does not end after it starts.
    """
    check_window(window_start, window_end)
    own, others, probed = split_cells(found, champion)
    cell, who = found.cell(own), Answerer(champion, others, probed)
    metrics = [
        *_judged(probes, champion, now, seed),
        *cell_metrics(cell, who, now, eta=found.eta, seed=seed),
        cost(cell, prices, now, seed),
        *_ingest(ingest, now),
        _gpu(gpu_utilization),
    ]
    window = {"window_start": window_start, "window_end": window_end}
    return MetricsSnapshot(
        snapshot_id=snapshot_id or f"{contour}-{window_end.astimezone(UTC):%Y%m%dT%H%M%S}",
        contour=contour,
        created_at=now,
        window_start=window_start,
        window_end=window_end,
        champion=champion,
        metrics={metric.name: metric.model_copy(update=window if metric.window_start is None else {}) for metric in metrics},
        mock=mock,
        lost_events=lost_events,
        quarantined=quarantined,
        cells=cell_table(found.cells, now),
        revision=revision,
    )


def split_cells(found: Aggregate, digest: str | None, variant: str = "champion") -> tuple[list[CellKey], int, int]:
    """The cells of people's requests that the model ``digest`` answered in the role of ``variant``, the number of other people's requests, and of all
    others (probes, and answers of stand-ins).

    A failed request may name no model: it counts for the variant it names, or for the champion. With ``digest`` null every request of people counts.
    """
    people = [key for key in found.cells if key.kind == "person"]
    own = [key for key in people if digest is None or (key.model_digest == digest if key.model_digest is not None else (key.variant or "champion") == variant)]
    sizes = {key: cell.count("requests") for key, cell in found.cells.items()}
    others = sum(sizes[key] for key in people) - sum(sizes[key] for key in own)
    return own, others, sum(sizes.values()) - sum(sizes[key] for key in people)


def traffic_metrics(traffic: Traffic, digest: str | None, now: datetime, *, seed: int = 0, position_bias: float = 1.0) -> list[Metric]:
    """What one model's requests say: clicks, latency, errors, ratings; the same for the champion of a window and for an arm of a trial."""
    found = aggregate_frames(traffic.requests, traffic.actions, Plan(eta=position_bias))
    return cell_metrics(found.cell(found.cells), Answerer(digest, traffic.others, traffic.probes), now, eta=position_bias, seed=seed)


def _mean(name: str, values: pl.Series, seed: int, reason: str, **more: Any) -> Metric:
    """A mean with its bootstrap interval; null with ``reason`` where there is nothing, without interval where there is one value only."""
    n = len(values)
    if n == 0:
        return named(name, None, reason=reason, **more)
    if n == 1:
        return named(name, float(values[0]), n=n, **more)
    interval = bootstrap_mean_interval(values.to_numpy(), seed=seed, n_boot=_RESAMPLES)
    return named(name, interval.estimate, n=n, ci_low=interval.low, ci_high=interval.high, **more)


# --------------------------------------------------------------------------- quality


def _judged(probes: ProbeResult | None, champion: str | None, now: datetime, seed: int) -> list[Metric]:
    names = {"ndcg_at_10": "ndcg_at_10", "recall_at_20": "recall_at_20", "mrr": "rr_at_10"}
    source = "judged probes over HTTP"
    if probes is None:
        return [named(name, None, source=source, reason="no judged probes were sent in this window") for name in names]
    window: dict[str, Any] = {"window_start": probes.started_at, "window_end": probes.ended_at, "age_seconds": age(probes.ended_at, now)}
    source += f", {probes.panel}" if probes.panel else ""
    source += f", {probes.failed} of {probes.n} failed"
    problem = _probe_problem(probes, champion)
    if problem is not None:
        return [named(name, None, n=probes.n - probes.failed, source=source, reason=problem, **window) for name in names]
    return [
        named(name, None, n=probes.n, source=source, reason=f"probes asked for {probes.k} results, recall at 20 needs 20", **window)
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


# --------------------------------------------------------------------------- service


def _ingest(ingest: Mapping[str, Any] | None, now: datetime) -> list[Metric]:
    keys = {"etl_lag_seconds": "lag_seconds", "index_throughput": "documents_per_second", "index_errors": "dead_letters"}
    source = "ingest queue, GET /info"
    if ingest is None:
        return [named(name, None, source=source, reason="the service did not say how its ingest queue stands") for name in keys]
    observed = ingest.get("observed_at")
    old = age(datetime.fromisoformat(observed) if isinstance(observed, str) else observed, now) if observed is not None else 0.0
    found = []
    for name, key in keys.items():
        value = ingest.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            found.append(named(name, None, source=source, age_seconds=old, reason=f"the ingest queue reports no usable {key} ({value!r})"))
        else:
            found.append(named(name, float(value), n=1, source=source, age_seconds=old))
    return found


def _gpu(utilization: float | None) -> Metric:
    if utilization is None:
        return named("gpu_utilization", None, source="none", reason="not applicable: no GPU telemetry in this contour")
    return named("gpu_utilization", utilization, n=1, source="device telemetry", age_seconds=0.0)
