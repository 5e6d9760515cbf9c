"""Latency of two arms as decisions take it: percentiles, and the change of P95 with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from predator_si.records import Metric
from predator_si.statistics import quantile_ratio_interval, welch

LATENCY_ALLOWANCE = 0.15
"""How much slower a challenger may be than the champion, or than the contour's target when that is larger."""
_COST_SAMPLE = 30
"""Searches of each side below which the change of their cost is unknown."""


def summarise_latency(
    champion_ms: Sequence[float], challenger_ms: Sequence[float], seed: int = 0, cpu_seconds: tuple[Sequence[float], Sequence[float]] | None = None
) -> dict[str, Any]:
    """What ``Evaluation.latency`` and ``latency.json`` hold.

    Parameters
    ----------
    champion_ms, challenger_ms
        Milliseconds of searches through the service, arms interleaved (``search.traffic.measure_latency``); at least 60 each.
    cpu_seconds
        Processor time of the champion's and the challenger's searches, which is what cost follows; null where it is not known.

    Returns
    -------
    dict
        ``champion`` and ``challenger``: ``p50_ms``, ``p95_ms``, ``p99_ms``, ``n``; ``p95_change``: ``estimate``, ``low``, ``high``, ``n`` of
        challenger over champion minus one, 95% interval. With ``cpu_seconds`` also ``cost_change``: the difference of the
        means with Welch's interval, as a share of the champion's.

    Raises
    ------
    BadInput
        Too few values, or one that is not a positive finite number.
    """
    change = quantile_ratio_interval(champion_ms, challenger_ms, 0.95, seed=seed)
    sides = {"champion": champion_ms, "challenger": challenger_ms}
    summary: dict[str, Any] = {
        side: {**{f"p{share}_ms": float(np.percentile(values, share)) for share in (50, 95, 99)}, "n": len(values)} for side, values in sides.items()
    }
    summary |= {"p95_change": {"estimate": change.estimate, "low": change.low, "high": change.high, "n": change.n}}
    if cpu_seconds is not None and min(map(len, cpu_seconds)) >= _COST_SAMPLE and sum(cpu_seconds[0]) > 0.0:
        spent = welch(cpu_seconds[0], cpu_seconds[1])
        mean = float(np.mean(cpu_seconds[0]))
        summary["cost_change"] = {"estimate": spent.estimate / mean, "low": spent.low / mean, "high": spent.high / mean, "n": min(map(len, cpu_seconds))}
    return summary


def latency_metrics(latency: Mapping[str, Any], target_ms: float | None) -> list[Metric]:
    """The numbers about latency and cost that criteria name; null with its reason what was not measured.

    ``p95_of_allowed`` is the challenger's p95 over what it may be: 115% of the champion's, or the target when that is more.
    """
    champion, challenger, change = (latency.get(part) or {} for part in ("champion", "challenger", "p95_change"))
    old, new = champion.get("p95_ms"), challenger.get("p95_ms")
    cost = latency.get("cost_change") or {}
    costs = known_or_not("cost_change_high", cost.get("high"), int(cost.get("n") or 0), "the processor time of both sides was not measured")
    n = min(int(champion.get("n") or 0), int(challenger.get("n") or 0))
    if not old or not new:
        names = ("p95_of_allowed", "p95_of_allowed_low", "p95_change_high", "p95_of_target")
        return [*(known_or_not(name, None, 0, "the p95 of both sides was not measured") for name in names), costs]
    allowed = max(old * (1.0 + LATENCY_ALLOWANCE), target_ms or 0.0)
    low, high = change.get("low"), change.get("high")
    missing = "no interval of the p95 change was computed"
    return [
        known_or_not("p95_of_allowed", new / allowed, n),
        known_or_not("p95_of_allowed_low", None if low is None else old * (1.0 + low) / allowed, n, missing),
        known_or_not("p95_change_high", high, n, missing),
        known_or_not("p95_of_target", new / target_ms if target_ms else None, n, "the contour has no p95 target"),
        costs,
    ]


def known_or_not(name: str, value: float | None, n: int, reason: str | None = None) -> Metric:
    """A metric with its value, or with the reason why there is none."""
    return Metric(name=name, value=value, n=n, reason=reason if value is None else None)
