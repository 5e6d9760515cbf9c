"""Metrics from a Prometheus: one PromQL expression each, evaluated at the end of the window.

What belongs here: the expressions for our own service, and reading answers strictly. What must not: precedence (``resolve``).

An empty answer means that nothing was measured: unknown, never 0. So do NaN (nothing over nothing) and infinities. Percentiles are ``histogram_quantile`` over
``sum(rate(..._bucket[w])) by (le)``: rates are summed over replicas before the quantile is taken, never quantiles averaged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from predator_si.contour import Credential, MetricSource
from predator_si.errors import BadInput, Unavailable
from predator_si.monitor.sources.access import Endpoint
from predator_si.monitor.sources.reading import Reading
from predator_si.records import Metric, Provenance
from predator_si.signals import SIGNALS

WINDOW = "$window"
"""In an expression: the window's length, like ``900s``."""
_TOTAL = '{stage="total",variant="champion"}'
_SERVED = 'predator_si_search_requests_total{variant="champion",status=~"2..|3..|5..|429"}'
_SEEN = f"sum(increase(predator_si_search_stage_seconds_count{_TOTAL}[{WINDOW}]))"


def _quantile(q: float) -> str:
    return f"1000 * histogram_quantile({q:g}, sum(rate(predator_si_search_stage_seconds_bucket{_TOTAL}[{WINDOW}])) by (le))"


_FAILED = (
    f'((sum(rate(predator_si_search_requests_total{{variant="champion",status=~"5..|429"}}[{WINDOW}])) or vector(0))'
    f' + (sum(rate(predator_si_search_degraded_total{{variant="champion"}}[{WINDOW}])) or vector(0)))'
)
EXPRESSIONS: dict[str, tuple[str, str | None]] = {
    "avg_latency_ms": (
        f"1000 * sum(rate(predator_si_search_stage_seconds_sum{_TOTAL}[{WINDOW}])) / sum(rate(predator_si_search_stage_seconds_count{_TOTAL}[{WINDOW}]))",
        _SEEN,
    ),
    "p50_latency_ms": (_quantile(0.5), _SEEN),
    "p95_latency_ms": (_quantile(0.95), _SEEN),
    "p99_latency_ms": (_quantile(0.99), _SEEN),
    "error_rate": (f"{_FAILED} / sum(rate({_SERVED}[{WINDOW}]))", f"sum(increase({_SERVED}[{WINDOW}]))"),
    "etl_lag_seconds": ("max(predator_si_ingest_lag_seconds)", None),
    "index_throughput": ("sum(predator_si_ingest_documents_per_second)", None),
    "index_errors": ("sum(predator_si_ingest_dead_letters_open)", None),
    "gpu_utilization": ("avg(DCGM_FI_DEV_GPU_UTIL) / 100", "count(DCGM_FI_DEV_GPU_UTIL)"),
}
"""By metric: the value, in the metric's unit, and the number of observations behind it. Names are those of our own service (``search.telemetry``) and of
NVIDIA's exporter."""
REQUESTS = f"sum(increase(predator_si_search_requests_total[{WINDOW}]))"
"""All requests of the window, whoever answered."""

_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_RANGE = re.compile(r"\[[^\]]*\]")
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|`[^`]*`')
_SELECTOR = re.compile(r"(?<![\w.:$\"])([A-Za-z_:][\w:]*)\s*(\{(?:[^{}\"']|\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')*\})?(\s*\()?")
_WORDS = frozenset({"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring", "group_left", "group_right", "inf", "nan", "start", "end"})


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus server, or anything with its HTTP API.

    Parameters
    ----------
    address
        ``http(s)://host:port[/path]``.
    wanted
        By metric: the entry of the contour, whose ``query`` and ``count`` win over ``EXPRESSIONS``.
    """

    address: str
    wanted: Mapping[str, MetricSource] = field(default_factory=dict)
    credential: Credential | None = None
    env: Mapping[str, str] | None = None
    timeout: float = 10.0
    name: str = "prometheus"

    def read(self, start: datetime, end: datetime) -> Reading:
        """Every wanted metric over the window, unknown with the reason where there is no one number."""
        metrics = self._all(start, end)
        ages = [metric.age_seconds for metric in metrics.values() if metric.age_seconds is not None]
        known = sum(metric.known for metric in metrics.values())
        reasons = tuple(dict.fromkeys(f"{metric.name}: {metric.reason}" for metric in metrics.values() if not metric.known))
        newest = end - timedelta(seconds=min(ages)) if ages else None
        found = Provenance(source=self.name, origin=self.address, window_start=start, window_end=end, newest=newest, rows_good=known, unknown=reasons)
        return Reading(found, metrics=metrics)

    def requests(self, start: datetime, end: datetime, expression: str = REQUESTS) -> Metric:
        """How many requests the window had; ``value`` is null with the reason where that is unknown."""
        try:
            with self._endpoint() as api:
                value, reason = _one(api, _filled(expression, start, end), end)
        except (BadInput, Unavailable) as error:
            value, reason = None, str(error)
        return Metric(name="requests", value=value, source=self.name, reason=reason, window_start=start, window_end=end)

    def _endpoint(self) -> Endpoint:
        return Endpoint(self.address, self.credential, env=self.env, timeout=self.timeout)

    def _all(self, start: datetime, end: datetime) -> dict[str, Metric]:
        metrics: dict[str, Metric] = {}
        down: str | None = None
        try:
            with self._endpoint() as api:
                for name, one in self.wanted.items():
                    if down is None:
                        try:
                            metrics[name] = self._metric(api, name, one, start, end)
                            continue
                        except BadInput as error:
                            metrics[name] = self._unknown(name, str(error), start, end)
                            continue
                        except Unavailable as error:
                            down = str(error)  # the others would only wait for the same time-out
                    metrics[name] = self._unknown(name, down, start, end)
        except Unavailable as error:
            return {name: self._unknown(name, str(error), start, end) for name in self.wanted}
        return metrics

    def _metric(self, api: Endpoint, name: str, one: MetricSource, start: datetime, end: datetime) -> Metric:
        default = EXPRESSIONS.get(name, (None, None))
        query, count = one.query or default[0], one.count if one.query is not None else one.count or default[1]
        if query is None:
            return self._unknown(name, f"no PromQL is known for {name}; give sources.metrics.{name}.query", start, end)
        filled = _filled(query, start, end)
        value, reason = _one(api, filled, end)
        if value is None:
            return self._unknown(name, f"{reason} ({filled})", start, end)
        facts = SIGNALS[name]
        if value < facts.low or (facts.high is not None and value > facts.high):
            return self._unknown(name, f"answers {value:g}, which {name} cannot be; check the unit of the expression ({filled})", start, end)
        n = 1.0 if count is None else _one(api, _filled(count, start, end), end)[0] or 0.0
        return Metric(
            name=name,
            value=value,
            n=int(n),
            unit=facts.unit,
            direction=facts.direction,
            window_start=start,
            window_end=end,
            source=f"prometheus: {filled}",
            age_seconds=_age(api, filled, end),
        )

    def _unknown(self, name: str, reason: str, start: datetime, end: datetime) -> Metric:
        facts = SIGNALS[name]
        return Metric(name=name, value=None, unit=facts.unit, direction=facts.direction, window_start=start, window_end=end, source="prometheus", reason=reason)


def selectors(expression: str) -> list[str]:
    """The series that a PromQL expression reads, as selectors: names with their label matchers, without functions, operators and groupings."""
    bare = _RANGE.sub("", _GROUPING.sub("", expression))
    found = []
    for match in _SELECTOR.finditer(bare):
        inside = any(text.start() < match.start() < text.end() for text in _TEXT.finditer(bare))
        if match[3] is None and not inside and match[1].lower() not in _WORDS:
            found.append(match[1] + (match[2] or ""))
    return list(dict.fromkeys(found))


def _filled(expression: str, start: datetime, end: datetime) -> str:
    return expression.replace(WINDOW, f"{max(1, round((end - start).total_seconds()))}s")


def _one(api: Endpoint, expression: str, at: datetime) -> tuple[float | None, str | None]:
    """The one number that an expression has at a moment, or why there is none.

    Raises
    ------
    Unavailable
        The server is down or refuses us.
    """
    body = api.ask("POST", "/api/v1/query", data={"query": expression, "time": f"{at.astimezone(UTC).timestamp():.3f}"})
    data = body.get("data") if body is not None and body.get("status") == "success" else None
    if not isinstance(data, dict):
        return None, f"answers no result: {str(body)[:200]}"
    kind, result = data.get("resultType"), data.get("result")
    if kind == "scalar" and isinstance(result, list):
        sample: Any = result
    elif kind == "vector" and isinstance(result, list):
        if not result:
            return None, "nothing was measured in this window: the answer is empty"
        if len(result) > 1:
            return None, f"answers with {len(result)} series; one number is needed, so aggregate it, by sum(...) or the like"
        sample = result[0].get("value")
    else:
        return None, f"answers a {kind}; an expression with one number is needed"
    try:
        value = float(sample[1])
    except (TypeError, ValueError, IndexError, KeyError):
        return None, f"answers no number: {str(sample)[:100]}"
    return (value, None) if math.isfinite(value) else (None, f"answers {value}: nothing to divide by in this window")


def _age(api: Endpoint, expression: str, at: datetime) -> float | None:
    """Age of the newest sample of each series that the expression reads, the oldest of these; null where that cannot be told."""
    ages = []
    for selector in selectors(expression):
        newest, _ = _one(api, f"max(timestamp({selector}))", at)
        if newest is not None:  # a series that has no sample may be one that never failed; those that have some tell the age
            ages.append(max(0.0, at.timestamp() - newest))
    return max(ages, default=None)
