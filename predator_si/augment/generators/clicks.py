"""Answers that people chose: clicks corrected for where the result stood and weighted by how long it was read.

What belongs here: estimates from the query log, and the proposals made of them. What must not: fitting examination propensities
(``monitor.judgments.fit_position_bias``; they come in as numbers), queries without clicks (``log``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from predator_si.augment.generators.seeds import target_tokens
from predator_si.augment.material import Material
from predator_si.augment.recipe import Proposal
from predator_si.corpora.words import token_lists
from predator_si.errors import BadInput

LOG_COLUMNS = ("text", "clicked", "impressions")
SATISFIED_SECONDS = 30.0
"""A click with at least 30 s on the result counts in full (Fox et al., TOIS 2005), a shorter one by the square of its share: people leave a useless
result at once. Against the proportional weight the square halves the wrong positives at the same number of right ones (on replayed traffic)."""


class ClickedAnswers:
    """Queries of the log with the document that people chose for them.

    Parameters
    ----------
    propensities
        Examination of positions 1, 2, ... relative to the first, as fitted (``PositionBias.weights``) or as :func:`click_rates` gives them; null: ``1 / rank``
        is assumed.
    floor
        Least estimate of an answer, 0 to 1.

    Attributes
    ----------
    counts
        Of the last call: ``searches, distinct_queries, clicked_queries, above_floor``.
    """

    source = "clicks"

    def __init__(self, propensities: Sequence[float] | None = None, floor: float = 0.25) -> None:
        self._propensities = propensities
        self._floor = floor
        self.counts: dict[str, int] = {}

    def propose(self, material: Material, wanted: int, rng: np.random.Generator) -> Iterator[Proposal]:
        """At most ``wanted`` proposals: those with a weak word of the report first, then the surest. ``weight`` is the estimate; chance has no part in it."""
        self.counts = {"searches": 0}
        if material.log.is_empty():
            return
        weak = frozenset(target_tokens(material.report))
        found, self.counts = propose_from_clicks(material.log, weak, floor=self._floor, propensities=self._propensities)
        yield from sorted(found, key=lambda proposal: not proposal.targeted)[: max(wanted, 0)]


def click_estimates(
    log: pl.DataFrame, *, propensities: Sequence[float] | None = None, eta: float = 1.0, clip: float = 10.0, prior: float = 1.0
) -> pl.DataFrame:
    """How attractive each shown document is for each query, were it examined.

    Under the position-based model (Craswell et al., WSDM 2008) with examination ``propensities``, or ``1 / rank**eta`` (Joachims et al., WSDM 2017) where
    they were not fitted, the weighted clicks over repeated showings are divided by the expected number of examinations plus ``prior``: inverse propensity,
    normalised by itself and shrunk, so that a single click far down does not outweigh everything.

    Parameters
    ----------
    log
        One row per search: ``text``, ``clicked`` and ``impressions`` (document ids, best first), optionally ``dwell`` (seconds: a list aligned with
        ``clicked``, or one number for all of the row's clicks; null is unknown and counts in full) and ``sealed`` (the stored token of ``text``).
    propensities
        Examination of positions 1, 2, ..., each above 0. What is shown or clicked below the last of them has no part in the estimates.
    eta
        Assumed position bias, 0 (none) or more.
    clip
        No examination probability is taken below ``1 / clip``.

    Returns
    -------
    polars.DataFrame
        ``key`` (the query's words), ``query`` (its most frequent spelling), ``doc_id, impressions, clicks`` (in all), ``examination, estimate`` (0..1), and
        ``sealed``: the token of one search with that spelling, from the log's column of this name (null without one).

    Raises
    ------
    BadInput
        A column is missing, or a propensity is not above 0.
    """
    rows = _searches(log)
    token = pl.col("sealed").drop_nulls().first() if "sealed" in log.columns else pl.lit(None, pl.String)
    spelling = (
        rows.group_by("key", "text", maintain_order=True)
        .agg(pl.len(), sealed=token)
        .sort(["len", "text"], descending=[True, False])
        .unique("key", keep="first", maintain_order=True)
    )
    joined = (
        _shown(rows)
        .with_columns(examination=_examination(propensities, eta).clip(lower_bound=1.0 / clip))
        .join(_clicked(rows), on=["row", "doc_id"], how="left", maintain_order="left")
    )
    totals = joined.group_by("key", "doc_id", maintain_order=True).agg(
        impressions=pl.len(),
        clicks=pl.col("weight").is_not_null().sum(),
        examination=pl.col("examination").sum(),
        weight=pl.col("weight").filter(pl.col("examination").is_not_null()).sum(),
    )
    return (
        totals.with_columns(estimate=(pl.col("weight") / (pl.col("examination") + prior)).clip(0.0, 1.0))
        .join(spelling.select("key", "sealed", query="text"), on="key", how="left", maintain_order="left")
        .select("key", "query", "doc_id", "impressions", "clicks", "examination", "estimate", "sealed")
    )


def click_rates(log: pl.DataFrame, least: int = 30) -> list[float] | None:
    """Click-through rate of each position relative to the first; null where position 1 has fewer than ``least`` clicks.

    Taken as ``propensities``, they make the estimate clicks over expected clicks (COEC; Zhang and Jones, WWW 2007 companion) up to a factor, where positions
    cannot be told from attraction because nothing ever moved. Rates end at the first position with fewer than ``least`` clicks, and never rise: what a
    position has more than one above it is due to its documents.
    """
    rows = _searches(log)
    per = _shown(rows).join(_clicked(rows), on=["row", "doc_id"], how="left").group_by("rank").agg(pl.len(), clicks=pl.col("weight").is_not_null().sum())
    rates: list[float] = []
    for place, (rank, shown, clicks) in enumerate(per.sort("rank").iter_rows(), start=1):
        if rank != place or clicks < least:
            break
        rates.append(min(clicks / shown, rates[-1] if rates else 1.0))
    return [rate / rates[0] for rate in rates] or None


def propose_from_clicks(
    log: pl.DataFrame, targets: frozenset[str], *, floor: float = 0.25, eta: float = 1.0, propensities: Sequence[float] | None = None
) -> tuple[list[Proposal], dict[str, int]]:
    """One proposal per distinct query with a document above ``floor``, surest first, and how many queries the log gave.

    ``targets`` are the words of the report: queries with one of them are marked as targeted.
    """
    estimates = click_estimates(log, eta=eta, propensities=propensities).filter(pl.col("key") != "")
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
    return proposals, {
        "searches": log.height,
        "distinct_queries": estimates["key"].n_unique(),
        "clicked_queries": clicked["key"].n_unique(),
        "above_floor": best.height,
    }


def _searches(log: pl.DataFrame) -> pl.DataFrame:
    """The searches with ``row`` and ``key``."""
    lacking = [column for column in LOG_COLUMNS if column not in log.columns]
    if lacking:
        there = ", ".join(log.columns)
        raise BadInput(f"query log: no column {', '.join(lacking)}; there are {there}. Build the log with text, clicked, impressions and dwell.")
    keys = pl.Series([" ".join(words) for words in token_lists(log["text"].to_list())], dtype=pl.String)
    return log.with_columns(key=keys).with_row_index("row")


def _shown(rows: pl.DataFrame) -> pl.DataFrame:
    """(row, key, doc_id, rank) of each showing; a document twice in one list counts where it stood first."""
    return (
        rows.select("row", "key", pl.col("impressions").alias("doc_id"))
        .filter(pl.col("doc_id").list.len() > 0)
        .with_columns(rank=pl.int_ranges(1, pl.col("doc_id").list.len() + 1))
        .explode("doc_id", "rank")
        .unique(["row", "doc_id"], keep="first", maintain_order=True)
    )


def _examination(propensities: Sequence[float] | None, eta: float) -> pl.Expr:
    """How likely each ``rank`` is examined, relative to the first; null below the last known position."""
    if propensities is None:
        return 1.0 / pl.col("rank").cast(pl.Float64).pow(eta)
    known = [float(value) for value in propensities]
    if not known or not all(0.0 < value < float("inf") for value in known):
        raise BadInput(f"click propensities {known}: each position needs a number above 0. Pass those of a fit that knows them, or none.")
    return pl.col("rank").cast(pl.Int64).replace_strict(list(range(1, len(known) + 1)), known, default=None, return_dtype=pl.Float64)


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
