"""Clicks over expected clicks: how much a document, or a variant, is clicked compared with what its positions alone would give.

What belongs here: the ratio and its interval. What must not: a model of examination (``pbm``): COEC needs none, and says nothing about why a position is
clicked. It is 1 for what is as good as the usual content of its positions (Zhang and Jones, WWW 2007 companion; Chapelle and Zhang, WWW 2009, section 6).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.errors import BadInput
from predator_si.records import Interval
from predator_si.statistics import ratio_interval


def click_curve(shown: pl.DataFrame, k: int = 10) -> npt.NDArray[np.float64]:
    """Click-through rate of positions 1..k over all impressions; not a number where a position was never shown."""
    rates = {int(p): float(rate) for p, rate in shown.filter(pl.col("position") <= k).group_by("position").agg(pl.col("clicked").mean()).iter_rows()}
    return np.array([rates.get(p, float("nan")) for p in range(1, k + 1)])


def coec(
    shown: pl.DataFrame, by: Sequence[str] = ("query", "doc_id"), *, curve: npt.NDArray[np.float64] | None = None, confidence: float = 0.95
) -> pl.DataFrame:
    """Clicks over expected clicks of each group.

    Parameters
    ----------
    shown
        As :func:`~predator_si.monitor.judgments.impressions.impressions` gives it.
    by
        What makes a group: ``("query", "doc_id")``, or ``("variant",)``.
    curve
        Click-through rate of each position that is expected; of these impressions themselves where null.

    Returns
    -------
    pl.DataFrame
        The columns of ``by``, ``coec``, ``low``, ``high`` (from clients as clusters; null with fewer than two of them), ``impressions``, ``clicks``,
        ``expected``, ``clients``; most expected clicks first. A group whose positions are never clicked has no ``coec``.

    Raises
    ------
    BadInput
        The curve does not cover the positions.
    """
    rates = click_curve(shown, int(shown["position"].max() or 0)) if curve is None else curve  # type: ignore[arg-type, call-overload]
    beyond = shown.filter(pl.col("position") > len(rates)).height
    known = {p: float(rate) for p, rate in enumerate(rates, start=1) if np.isfinite(rate)}
    uncovered = shown.filter(~pl.col("position").is_in(list(known))).height
    if uncovered:
        raise BadInput(f"COEC: {uncovered} impressions are at positions without an expected click rate ({beyond} beyond position {len(rates)}).")
    totals = (
        shown.with_columns(expected=pl.col("position").replace_strict(known, return_dtype=pl.Float64))
        .group_by(*by, "client")
        .agg(clicks=pl.col("clicked").sum().cast(pl.Float64), expected=pl.col("expected").sum(), impressions=pl.len())
    )
    # The linearised interval of ratio_interval, for all groups at once: sum of (clicks - coec * expected)^2 over clients.
    clicks, expected, clients = pl.col("clicks"), pl.col("expected"), pl.len()
    residues = (clicks**2).sum() - 2.0 * pl.col("_ratio").first() * (clicks * expected).sum() + pl.col("_ratio").first() ** 2 * (expected**2).sum()
    grouped = (
        totals.with_columns(_ratio=(clicks.sum() / expected.sum()).over(*by))
        .group_by(*by)
        .agg(
            coec=pl.col("_ratio").first(),
            impressions=pl.col("impressions").sum(),
            clicks=clicks.sum(),
            expected=expected.sum(),
            clients=clients,
            _error=(clients / (clients - 1) * residues.clip(lower_bound=0.0)).sqrt() / expected.sum(),
        )
    )
    return (
        _bounded(grouped, confidence)
        .sort("expected", *by, descending=[True, *[False] * len(by)])
        .select(*by, "coec", "low", "high", "impressions", "clicks", "expected", "clients")
    )


def coec_of(shown: pl.DataFrame, curve: npt.NDArray[np.float64]) -> Interval:
    """Clicks over expected clicks of all the impressions together, clustered by client: one number for a window or an arm.

    Raises
    ------
    BadInput
        Fewer than two clients, or nothing is expected at the positions shown.
    """
    rates = {p: float(rate) for p, rate in enumerate(curve, start=1) if np.isfinite(rate)}
    covered = shown.filter(pl.col("position").is_in(list(rates))).with_columns(expected=pl.col("position").replace_strict(rates, return_dtype=pl.Float64))
    per = covered.group_by("client").agg(clicks=pl.col("clicked").sum().cast(pl.Float64), expected=pl.col("expected").sum()).sort("client")
    return ratio_interval(per["clicks"].to_numpy(), per["expected"].to_numpy())


def _bounded(grouped: pl.DataFrame, confidence: float) -> pl.DataFrame:
    from scipy.stats import t

    freedom = np.maximum(grouped["clients"].cast(pl.Float64).to_numpy() - 1.0, 1.0)
    half = pl.Series("_half", t.ppf((1.0 + confidence) / 2.0, freedom)) * grouped["_error"]
    fit = (pl.col("clients") > 1) & (pl.col("expected") > 0)
    return grouped.with_columns(_half=half, coec=pl.when(pl.col("expected") > 0).then(pl.col("coec"))).with_columns(
        low=pl.when(fit).then((pl.col("coec") - pl.col("_half")).clip(lower_bound=0.0)), high=pl.when(fit).then(pl.col("coec") + pl.col("_half"))
    )
