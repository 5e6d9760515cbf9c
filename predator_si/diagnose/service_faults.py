"""Is the service itself the cause: requests that fail, a stage that takes longer, searches that wait.

What belongs here: answers from events and metrics of both windows. What must not: anything about relevance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from predator_si.diagnose.latency import STAGES
from predator_si.diagnose.window import Finding, Window, at_least, unknown

if TYPE_CHECKING:
    from predator_si.diagnose.tree import Levels

_LEAST = 30
"""Requests on each side, below which shares and quantiles say nothing."""
_TAIL = 0.9
_FIELDS = ("status", "latency_ms")


def errors(reference: Window, current: Window, levels: Levels) -> Finding:
    """Failed requests (5xx, 429, degraded) above the limit and above the reference's own share, by a binomial test; the stage by what failed."""
    if current.events is None or current.events.is_empty():
        return unknown("service_fault", "errors", "no search events of the current window were given")
    now, then = _failures(current.events), None if reference.events is None else _failures(reference.events)
    expected = max(levels.limits.error_rate, then["share"] if then is not None and then["n"] >= _LEAST else 0.0)
    p_value = at_least(now["failed"], now["n"], expected)
    hit = now["n"] >= _LEAST and p_value <= levels.each and now["share"] > expected
    stage = max(("retrieval", "reranker", "queue"), key=lambda name: now[name]) if now["failed"] else None
    quality = current.snapshot.metrics.get("ndcg_at_10")
    level = quality.value if quality is not None and quality.value is not None else 1.0
    return Finding(
        "service_fault",
        "errors",
        "yes" if hit else "no" if now["n"] >= _LEAST else "unknown",
        explained_loss=max(0.0, now["share"] - (then["share"] if then else 0.0)) * level,
        p_value=p_value,
        n=now["n"],
        test=f"binomial against a share of {expected:g}",
        evidence={"stage": stage, "current": now, "reference": then},
        reason=None if now["n"] >= _LEAST else f"{now['n']} requests; at least {_LEAST} are needed",
    )


def _failures(events: pl.DataFrame) -> dict[str, Any]:
    degraded = events["degraded"].fill_null(False) if "degraded" in events.columns else pl.Series([False] * events.height)
    status = events["status"] if "status" in events.columns else pl.Series([200] * events.height)
    queue, broken = int(status.is_in([429, 503]).sum()), int(((status >= 500) & (status != 503)).sum())
    served = int(((status < 400) | (status >= 500) | (status == 429)).sum())
    reranker = int((degraded & (status < 400)).sum())
    failed = queue + broken + reranker
    return {"n": served, "failed": failed, "share": failed / served if served else 0.0, "queue": queue, "retrieval": broken, "reranker": reranker}


def slow_stage(reference: Window, current: Window, levels: Levels, seed: int) -> Finding:
    """Latency's 90th percentile up by more than the tolerance, and which stage most of the added time sits in.

    The interval is that of the ratio of quantiles; the tolerance stands for what differs between two windows of one healthy machine, which no test inside a
    window can know.
    """
    from predator_si.statistics import quantile_ratio_interval

    sides = [_timed(window.events) for window in (reference, current)]
    if any(side is None or side.height < _LEAST for side in sides):
        heights = [0 if side is None else side.height for side in sides]
        return unknown("latency", "", f"requests with stage times: {heights[0]} in the reference and {heights[1]} now; at least {_LEAST} are needed of each")
    then, now = sides
    assert then is not None and now is not None
    stages = [stage for stage in STAGES if stage in then.columns and stage in now.columns]
    ratio = quantile_ratio_interval(then["latency_ms"].to_numpy(), now["latency_ms"].to_numpy(), _TAIL, seed=seed, confidence=1.0 - 2.0 * levels.each)
    added = {}
    for stage in stages:
        # From the median to the 98th percentile: a stage that is slow for all, or for a third, does not escape, and one pause of the machine does.
        quantiles = np.linspace(0.5, 0.98, 13)
        added[stage.removesuffix("_ms")] = float(
            (np.quantile(now[stage].fill_null(0.0).to_numpy(), quantiles) - np.quantile(then[stage].fill_null(0.0).to_numpy(), quantiles)).mean()
        )
    total = sum(max(0.0, value) for value in added.values())
    slowest = max(added, key=lambda name: added[name]) if total > 0 else None
    share = max(0.0, added[slowest]) / total if slowest else None
    hit = ratio.low > levels.slower and slowest is not None
    return Finding(
        "latency",
        slowest or "",
        "yes" if hit else "no",
        explained_loss=None,
        n=int(ratio.n),
        test=f"interval of the ratio of 90th percentiles, tolerance {levels.slower:.0%}",
        evidence={
            "ratio_minus_one": ratio.estimate,
            "low": ratio.low,
            "high": ratio.high,
            "added_ms": added,
            "share_of_added": share,
            "stage": slowest,
            "p90_reference_ms": float(then["latency_ms"].quantile(_TAIL) or 0.0),
            "p90_current_ms": float(now["latency_ms"].quantile(_TAIL) or 0.0),
        },
    )


def _timed(events: pl.DataFrame | None) -> pl.DataFrame | None:
    if events is None or "latency_ms" not in events.columns:
        return None
    stages = [stage for stage in STAGES if stage in events.columns]
    good = pl.col("status") < 400 if "status" in events.columns else pl.lit(True)
    return events.filter(good & (pl.col("latency_ms") > 0) & (pl.any_horizontal([pl.col(s).is_not_null() for s in stages]) if stages else pl.lit(False)))
