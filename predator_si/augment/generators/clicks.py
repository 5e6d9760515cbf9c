"""Positives from the query log: clicks corrected for where the result stood and weighted by how long it was read."""

from __future__ import annotations

import polars as pl

from predator_si.augment.recipe import Proposal
from predator_si.corpora.words import token_lists
from predator_si.errors import BadInput

LOG_COLUMNS = ("text", "clicked", "impressions")
SATISFIED_SECONDS = 30.0
"""A click with at least 30 s on the result counts in full (Fox et al., TOIS 2005), a shorter one by the square of its share: people leave a useless
result at once. Against the proportional weight the square halves the wrong positives at the same number of right ones (on replayed traffic)."""


def click_estimates(log: pl.DataFrame, *, eta: float = 1.0, clip: float = 10.0, prior: float = 1.0) -> pl.DataFrame:
    """How attractive each shown document is for each query, were it examined.

    Under the position-based model (Craswell et al., WSDM 2008) with examination ``1 / rank**eta`` (Joachims et al., WSDM 2017), the weighted clicks over
    repeated showings are divided by the expected number of examinations plus ``prior``: inverse propensity, normalised by itself and shrunk, so that a
    single click far down does not outweigh everything.

    Parameters
    ----------
    log
        One row per search: ``text``, ``clicked`` and ``impressions`` (document ids, best first), optionally ``dwell`` (seconds: a list aligned with
        ``clicked``, or one number for all of the row's clicks; null is unknown and counts in full) and ``sealed`` (the stored token of ``text``).
    eta
        Position bias, 0 (none) or more.
    clip
        No examination probability is taken below ``1 / clip``.

    Returns
    -------
    polars.DataFrame
        ``key`` (the query's words), ``query`` (its most frequent spelling), ``doc_id, impressions, clicks, examination, estimate`` (0..1), and ``sealed``: the
        token of one search with that spelling, from the log's column of this name (null without one).

    Raises
    ------
    BadInput
        A column is missing.
    """
    lacking = [column for column in LOG_COLUMNS if column not in log.columns]
    if lacking:
        there = ", ".join(log.columns)
        raise BadInput(f"query log: no column {', '.join(lacking)}; there are {there}. Build the log with text, clicked, impressions and dwell.")
    rows = log.with_columns(key=pl.Series([" ".join(words) for words in token_lists(log["text"].to_list())], dtype=pl.String)).with_row_index("row")
    token = pl.col("sealed").drop_nulls().first() if "sealed" in log.columns else pl.lit(None, pl.String)
    spelling = (
        rows.group_by("key", "text", maintain_order=True)
        .agg(pl.len(), sealed=token)
        .sort(["len", "text"], descending=[True, False])
        .unique("key", keep="first", maintain_order=True)
    )
    shown = (
        rows.select("row", "key", pl.col("impressions").alias("doc_id"))
        .filter(pl.col("doc_id").list.len() > 0)
        .with_columns(rank=pl.int_ranges(1, pl.col("doc_id").list.len() + 1))
        .explode("doc_id", "rank")
        .unique(["row", "doc_id"], keep="first", maintain_order=True)
        .with_columns(examination=(1.0 / pl.col("rank").cast(pl.Float64).pow(eta)).clip(lower_bound=1.0 / clip))
    )
    joined = shown.join(_clicked(rows), on=["row", "doc_id"], how="left", maintain_order="left")
    totals = joined.group_by("key", "doc_id", maintain_order=True).agg(
        impressions=pl.len(),
        clicks=pl.col("weight").is_not_null().sum(),
        examination=pl.col("examination").sum(),
        weight=pl.col("weight").fill_null(0.0).sum(),
    )
    return (
        totals.with_columns(estimate=(pl.col("weight") / (pl.col("examination") + prior)).clip(0.0, 1.0))
        .join(spelling.select("key", "sealed", query="text"), on="key", how="left", maintain_order="left")
        .select("key", "query", "doc_id", "impressions", "clicks", "examination", "estimate", "sealed")
    )


def propose_from_clicks(log: pl.DataFrame, targets: frozenset[str], *, floor: float = 0.25, eta: float = 1.0) -> tuple[list[Proposal], dict[str, int]]:
    """One proposal per distinct query with a document above ``floor``, surest first, and how many queries the log gave.

    ``targets`` are the words of the report: queries with one of them are marked as targeted.
    """
    estimates = click_estimates(log, eta=eta).filter(pl.col("key") != "")
    clicked = estimates.filter(pl.col("clicks") > 0)
    excluded = {key: frozenset(ids) for key, ids in clicked.group_by("key").agg("doc_id").iter_rows()}
    best = (
        clicked.filter(pl.col("estimate") >= floor)
        .sort(["estimate", "clicks", "key", "doc_id"], descending=[True, True, False, False])
        .unique("key", keep="first", maintain_order=True)
    )
    proposals = [
        Proposal(query, doc_id, "clicks", "clicks", float(estimate), not targets.isdisjoint(key.split()), excluded[key], sealed=sealed)
        for key, query, doc_id, estimate, sealed in best.select("key", "query", "doc_id", "estimate", "sealed").iter_rows()
    ]
    distinct, with_click = estimates["key"].n_unique(), clicked["key"].n_unique()
    return proposals, {"searches": log.height, "distinct_queries": distinct, "clicked_queries": with_click, "above_floor": best.height}


def _clicked(rows: pl.DataFrame) -> pl.DataFrame:
    """(row, doc_id, weight) of each clicked result."""
    if "dwell" in rows.columns and isinstance(rows.schema["dwell"], pl.List):
        ragged = rows.filter(pl.col("dwell").is_not_null() & (pl.col("dwell").list.len() != pl.col("clicked").list.len()))
        if not ragged.is_empty():
            raise BadInput(f"query log: row {ragged['row'][0]}: dwell does not have one value per clicked document. Fill unknown dwell with null.")
        unknown = pl.lit(None, dtype=pl.Float64).repeat_by(pl.col("clicked").list.len())
        clicks = rows.select("row", "clicked", pl.coalesce(pl.col("dwell").cast(pl.List(pl.Float64)), unknown).alias("dwell"))
        clicks = clicks.filter(pl.col("clicked").list.len() > 0).explode("clicked", "dwell")
    else:
        dwell = pl.col("dwell").cast(pl.Float64) if "dwell" in rows.columns else pl.lit(None, dtype=pl.Float64).alias("dwell")
        clicks = rows.select("row", "clicked", dwell).filter(pl.col("clicked").list.len() > 0).explode("clicked")
    weight = (pl.col("dwell") / SATISFIED_SECONDS).clip(0.0, 1.0).pow(2).fill_null(1.0)
    return clicks.with_columns(weight=weight).group_by("row", pl.col("clicked").alias("doc_id"), maintain_order=True).agg(pl.col("weight").max())
