"""What the clicks of one window say under propensities that were fitted on a longer one: metrics, and labels.

What belongs here: turning a fit and a window into metrics with their sources. What must not: the fit (``pbm``), reading events.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from predator_si.errors import BadInput
from predator_si.monitor.clicks import CLIP, click_quality
from predator_si.monitor.judgments.coec import coec_of
from predator_si.monitor.judgments.impressions import SHOWN, impressions
from predator_si.monitor.judgments.judgment_set import SCHEMA, JudgmentSet
from predator_si.monitor.judgments.pbm import PositionBias, attractiveness
from predator_si.monitor.judgments.quepid import text_id
from predator_si.monitor.traffic import Traffic
from predator_si.records import Metric
from predator_si.statistics import bootstrap_mean_interval, ratio_interval

_EXAMINED = 5.0
"""Expected examinations that a click label needs."""
_RESAMPLES = 2_000


def click_metrics(traffic: Traffic, bias: PositionBias, now: datetime, *, k: int = SHOWN, seed: int = 0) -> list[Metric]:
    """Metrics of a window's clicks with fitted propensities; none where they are unknown, so that the assumed ones stay.

    ``ndcg_at_10_clicks`` as :func:`~predator_si.monitor.clicks.click_quality` defines it; ``ndcg_at_10_clicks_snips``, its self-normalised form: the mean
    discount of what attracts, 0..1, which does not move when people click more or less of everything; ``coec``, clicks over those that the positions
    would get at the rates of the fitted window. Intervals are clustered by client.
    """
    answered, weights = traffic.answered, bias.weights(k)
    simulated = " (simulated)" if traffic.simulated or bias.simulated else ""
    if weights is None or answered.is_empty():
        return []
    quality = click_quality(answered, traffic.actions, k=k, propensities=weights.tolist())
    if not quality["clicked"].any():
        return []
    newest: Any = answered["timestamp"].max()
    effective = float(quality["weight"].to_numpy().sum() ** 2 / quality["squares"].to_numpy().sum())
    how = (
        f"fitted propensities ({bias.shape} shape, {bias.requests} requests, {bias.moved_pairs} moved pairs"
        + (f", {bias.fitted_at:%Y-%m-%d %H:%M}" if bias.fitted_at else "")
        + f"), weights clipped at {CLIP:g}, {effective:.0f} effective clicks{simulated}"
    )
    shared: dict[str, Any] = {"age_seconds": max(0.0, (now - newest).total_seconds()), "direction": "up"}
    client = quality["client"].to_numpy()
    found = [
        Metric(
            name="ndcg_at_10_clicks",
            source=f"clicks, inverse-propensity DCG@{k}, {how}",
            n=quality.height,
            value=float(quality["value"].to_numpy().mean()),
            **shared,
        )
    ]
    if quality["client"].n_unique() > 1:
        interval = bootstrap_mean_interval(quality["value"].to_numpy(), seed=seed, n_boot=_RESAMPLES, cluster=client)
        found[0] = found[0].model_copy(update={"ci_low": interval.low, "ci_high": interval.high})
        ratio = ratio_interval(quality["value"].to_numpy(), quality["weight"].to_numpy(), cluster=client)
        found.append(_bounded("ndcg_at_10_clicks_snips", ratio, f"clicks, self-normalised discount@{k}, {how}", shared))
    curve = np.array([one.clicks / one.impressions if one.impressions and one.clicks else np.nan for one in bias.positions[:k]])
    try:
        over = coec_of(impressions(answered, traffic.actions, k=k), curve)
    except BadInput:
        return found
    when = f"{bias.window_start:%Y-%m-%d} to {bias.window_end:%Y-%m-%d}" if bias.window_start and bias.window_end else "the fitted window"
    return [*found, _bounded("coec", over, f"clicks over those expected at their positions, rates of {when}{simulated}", shared)]


def click_judgments(shown: pl.DataFrame, bias: PositionBias, *, k: int = SHOWN, min_clients: int = 3) -> JudgmentSet:
    """Labels of origin ``click``: how attractive a document is to a query, 0..1, where enough examinations and clients are behind it.

    The text of people's queries is not in them: a query is known by :func:`~predator_si.monitor.judgments.quepid.text_id`, and only where several
    clients asked it.
    """
    weights = bias.weights(k)
    if weights is None or shown.is_empty():
        return JudgmentSet(pl.DataFrame(schema=SCHEMA))
    common = shown.group_by("query").agg(pl.col("client").n_unique()).filter(pl.col("client") >= min_clients).select("query")
    found = attractiveness(shown.join(common, on="query", how="semi"), weights).filter(pl.col("examined") >= _EXAMINED)
    return JudgmentSet(
        found.select(
            query_id=pl.col("query").map_elements(text_id, return_dtype=pl.String),
            doc_id="doc_id",
            relevance="attractiveness",
            origin=pl.lit("click"),
            scale=pl.lit(1.0),
        )
    )


def _bounded(name: str, interval: Any, source: str, shared: dict[str, Any]) -> Metric:
    return Metric(name=name, value=interval.estimate, ci_low=interval.low, ci_high=interval.high, n=interval.n, source=source, **shared)
