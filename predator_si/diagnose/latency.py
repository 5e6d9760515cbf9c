"""Which stage of a search takes the time, over all requests and over the slow ones."""

from __future__ import annotations

from typing import Any

import polars as pl

STAGES = ("queue_ms", "retrieve_ms", "rerank_ms")


def latency_by_stage(events: pl.DataFrame, tail: float = 0.95) -> dict[str, Any]:
    """Share of the latency by stage.

    Parameters
    ----------
    events
        Search events with ``latency_ms`` and any of ``queue_ms, retrieve_ms, rerank_ms`` (milliseconds).
    tail
        Requests at or above this quantile of latency are the slow ones.

    Returns
    -------
    dict
        ``n`` requests that carry stage times, ``without_stages`` that do not, ``shares`` and ``tail_shares`` {stage: 0..1, "other": rest},
        ``slowest_stage`` of the tail (null when nothing is known), ``tail_from_ms``.
    """
    present = [stage for stage in STAGES if stage in events.columns]
    usable = events.filter(pl.col("latency_ms").is_not_null() & (pl.any_horizontal([pl.col(s).is_not_null() for s in present]) if present else pl.lit(False)))
    answer: dict[str, Any] = {"n": usable.height, "without_stages": events.height - usable.height}
    if usable.is_empty():
        return {**answer, "shares": {}, "tail_shares": {}, "slowest_stage": None, "tail_from_ms": None}
    limit = float(usable["latency_ms"].quantile(tail, interpolation="higher") or 0.0)
    tail_shares = _shares(usable.filter(pl.col("latency_ms") >= limit), present)
    return {
        **answer,
        "shares": _shares(usable, present),
        "tail_shares": tail_shares,
        "slowest_stage": max(tail_shares, key=lambda stage: tail_shares[stage]) if tail_shares else None,
        "tail_from_ms": limit,
    }


def _shares(events: pl.DataFrame, stages: list[str]) -> dict[str, float]:
    total = float(events["latency_ms"].sum())
    if total <= 0:
        return {}
    shares = {stage.removesuffix("_ms"): float(events[stage].fill_null(0.0).sum()) / total for stage in stages}
    return {**shares, "other": max(0.0, 1.0 - sum(shares.values()))}
