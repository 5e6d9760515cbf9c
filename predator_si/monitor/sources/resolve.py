"""Which source a metric is taken from: the first fresh one of those that the contour names; the others stay as evidence.

What belongs here: precedence and age. What must not: asking a source, gates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from predator_si.contour import MetricSource, Sources
from predator_si.records import Metric, MetricCandidate, MetricsSnapshot
from predator_si.signals import SIGNALS

_EVENTS, _PROBES, _SERVICE = MetricSource(source="events"), MetricSource(source="probes"), MetricSource(source="service")
_PRICES, _PROMETHEUS = MetricSource(source="prices"), MetricSource(source="prometheus")
PRECEDENCE: dict[str, tuple[MetricSource, ...]] = {
    **dict.fromkeys(("ndcg_at_10", "recall_at_20", "mrr"), (_PROBES,)),
    **dict.fromkeys(("avg_latency_ms", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms", "error_rate"), (_EVENTS, _PROMETHEUS)),
    **dict.fromkeys(("etl_lag_seconds", "index_throughput", "index_errors"), (_SERVICE, _PROMETHEUS)),
    "cost_per_1k_requests": (_PRICES,),
    "user_satisfaction": (_EVENTS,),
    "gpu_utilization": (_PROMETHEUS,),
}
"""Sources of a metric in a contour that names none: what was counted from single events is exact and comes first."""
_FOREIGN = frozenset(name for name, wanted in PRECEDENCE.items() if wanted[0] is _PROMETHEUS)
"""Metrics that ``measure_window`` has no source of its own for; it has the others from the first one of ``PRECEDENCE``."""


def plan(sources: Sources) -> dict[str, tuple[MetricSource, ...]]:
    """For every metric the sources that this contour has, in order; none where it has no such source."""
    there = {"prometheus": sources.prometheus is not None, "opencost": sources.opencost is not None}
    return {name: tuple(one for one in sources.metrics.get(name, PRECEDENCE.get(name, (_EVENTS,))) if there.get(one.source, True)) for name in SIGNALS}


def resolve(name: str, wanted: Sequence[MetricSource], found: Mapping[str, Metric]) -> tuple[Metric, tuple[MetricCandidate, ...]]:
    """The metric from the first of its sources that has a fresh value, and what all of them said.

    Parameters
    ----------
    wanted
        As ``plan`` gives it.
    found
        By source: what it says; a source that was not asked is not there.

    Returns
    -------
    metric, candidates
        Without a fresh value the metric is null, with every source's reason; without any source it is ``not applicable`` (source ``none``).
    """
    facts = SIGNALS[name]
    candidates: list[MetricCandidate] = []
    taken: Metric | None = None
    for one in wanted:
        metric = found.get(one.source)
        problem = _problem(metric, one.max_age)
        chosen = problem is None and taken is None
        if chosen:
            taken = metric
        candidates.append(
            MetricCandidate(
                source=one.source,
                chosen=chosen,
                value=metric.value if metric is not None else None,
                n=metric.n if metric is not None else 0,
                age_seconds=metric.age_seconds if metric is not None else None,
                reason="" if chosen else problem or f"{candidates[_first(candidates)].source} comes first and has a fresh value",
            )
        )
    if taken is not None:
        return taken, tuple(candidates)
    if len(wanted) == 1 and (only := found.get(wanted[0].source)) is not None and only.value is None:
        return only, tuple(candidates)
    source = ", ".join(one.source for one in wanted) or "none"
    reason = "; ".join(f"{one.source}: {one.reason}" for one in candidates) or f"not applicable: this contour has no source for {name}"
    n = max((one.n for one in candidates), default=0)
    return Metric(name=name, value=None, n=n, unit=facts.unit, direction=facts.direction, source=source, reason=reason), tuple(candidates)


def resolve_snapshot(snapshot: MetricsSnapshot, sources: Sources, others: Mapping[str, Mapping[str, Metric]]) -> MetricsSnapshot:
    """The snapshot with every metric taken from the source that comes first and is fresh.

    Parameters
    ----------
    snapshot
        As ``measure_window`` made it: from events, probes, the service's own words and the price table.
    others
        Metrics by source: of ``prometheus``, ``opencost``.
    """
    metrics, candidates = dict(snapshot.metrics), dict(snapshot.candidates)
    window = {"window_start": snapshot.window_start, "window_end": snapshot.window_end}
    for name, wanted in plan(sources).items():
        found = {source: said[name] for source, said in others.items() if name in said}
        if name in snapshot.metrics and name not in _FOREIGN:
            found[PRECEDENCE.get(name, (_EVENTS,))[0].source] = snapshot.metrics[name]
        metric, said_by = resolve(name, wanted, found)
        metrics[name] = metric if metric.window_start is not None else metric.model_copy(update=window)
        if len(said_by) > 1:
            candidates[name] = said_by
    return snapshot.model_copy(update={"metrics": metrics, "candidates": candidates})


def _first(candidates: Sequence[MetricCandidate]) -> int:
    return next(index for index, one in enumerate(candidates) if one.chosen)


def _problem(metric: Metric | None, max_age: timedelta | None) -> str | None:
    if metric is None:
        return "unknown: it does not have this metric"
    if metric.value is None:
        reason = metric.reason or "no value"
        return reason if reason.startswith(("not applicable", "unknown")) else f"unknown: {reason}"
    if max_age is None:
        return None
    if metric.age_seconds is None:
        return "stale: nothing says how old it is"
    limit = max_age.total_seconds()
    return f"stale: {metric.age_seconds:.0f} s old, at most {limit:.0f} s are asked for" if metric.age_seconds > limit else None
