"""Ranking measures of runs and judgments in long form, query by query, with the tie rule of trec_eval.

What belongs here: frames to arrays and back, what a run lacks. What must not: formulas (``scoring``), intervals (``statistics``), a model or service.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from predator_si.errors import BadInput
from predator_si.measures.measure import Measure
from predator_si.measures.scoring import Hits, Pool, score

Duplicates = Literal["refuse", "best", "last"]
_KEYS = ["query_id", "doc_id"]


@dataclass(frozen=True)
class Holes:
    """What judgments do not say about a run, and a run not about judgments.

    Attributes
    ----------
    per_query
        One row per query of the run: ``query_id``, ``shown`` (documents among the first k), ``unjudged`` (those of them without a judgment); a
        query without any judgment has all of them unjudged.
    missing
        Judged queries that the run lacks, sorted; they score 0.
    unjudged_queries
        Queries of the run without any judgment, sorted; they score nothing at all.
    """

    k: int
    per_query: pl.DataFrame
    missing: tuple[str, ...]
    unjudged_queries: tuple[str, ...]


def per_query(
    run: pl.DataFrame,
    judgments: pl.DataFrame,
    measures: Sequence[str] = ("nDCG@10",),
    *,
    min_relevance: float = 1.0,
    graded: bool = True,
    duplicates: Duplicates = "refuse",
) -> pl.DataFrame:
    """Every measure of every judged query.

    A judged query that the run lacks scores 0; a query without judgments is left out. Documents are ordered as trec_eval orders them: by
    descending score in single precision, ties by descending ``doc_id``. Where the run has no ``score`` its ``rank`` (1 is best) orders it.

    Parameters
    ----------
    run
        Columns ``query_id``, ``doc_id`` and ``score`` or ``rank``.
    judgments
        Columns ``query_id``, ``doc_id``, ``relevance``; a pair at most once. Relevance at or below 0 has no gain.
    measures
        Names, see :class:`~predator_si.measures.measure.Measure`. nDCG has linear gain (``relevance``), ``nDCG(exp)`` the gain ``2**relevance - 1``
        of Burges et al. 2005.
    min_relevance
        From which relevance a document counts as relevant for R, P, RR, AP and RBP; above 0.
    graded
        False makes every measure binary: relevance becomes 1 from ``min_relevance`` on, and 0 below.
    duplicates
        What to do with a document that stands twice in a query's ranking. ``refuse`` raises; ``best`` keeps the better placed one and closes the
        gap; ``last`` keeps the row that comes last in the frame, as the dictionaries of pytrec_eval and ir-measures do.

    Returns
    -------
    pl.DataFrame
        ``query_id`` in the judgments' order, then one Float64 column per measure, named as asked, each in 0..1 (``RBPres``: what RBP could still gain).

    Raises
    ------
    BadInput
        A column is missing, a score is null or NaN, a pair occurs twice, a measure is unknown, or a grade is above the one that ERR was told of.
    """
    wanted = [Measure.parse(name) for name in measures]
    if min_relevance <= 0:
        raise BadInput(f"min_relevance is {min_relevance:g}; relevant documents have a relevance above 0.")
    require(judgments, "judgments", [*_KEYS, "relevance"])
    refuse_doubles(judgments, "judgments")
    ranked = _ranked(run, duplicates)
    rows = judgments.select(pl.col("query_id").unique(maintain_order=True)).with_row_index("_row")
    judged = judgments.select(*_KEYS, relevance=_relevance(min_relevance, graded)).join(rows, on="query_id", maintain_order="left")
    places = _places(ranked.join(rows, on="query_id"), "_row")
    found = places.join(judged.drop("query_id"), on=["_row", "doc_id"], maintain_order="left")
    shown = np.bincount(places["_row"].to_numpy(), minlength=rows.height)
    hits = Hits.ordered(found["_row"].cast(pl.Int64).to_numpy(), found["_position"].cast(pl.Int64).to_numpy(), found["relevance"].to_numpy())
    pool = Pool(judged["_row"].cast(pl.Int64).to_numpy(), judged["relevance"].to_numpy())
    scores = score(hits, pool, shown, wanted, min_relevance if graded else 1.0)
    return rows.select("query_id", *(pl.Series(name, values, dtype=pl.Float64) for name, values in scores.items()))


def holes(run: pl.DataFrame, judgments: pl.DataFrame, k: int = 10, *, duplicates: Duplicates = "refuse") -> Holes:
    """What is not judged among the first ``k`` documents, and which queries only one side knows; arguments as in :func:`per_query`.

    Raises
    ------
    BadInput
        As :func:`per_query`.
    """
    require(judgments, "judgments", [*_KEYS, "relevance"])
    refuse_doubles(judgments, "judgments")
    top = _places(_ranked(run, duplicates), "query_id").filter(pl.col("_position") <= k)
    known = judgments.select(*_KEYS, _judged=pl.lit(1))
    counted = (
        top.join(known, on=_KEYS, how="left")
        .group_by("query_id")
        .agg(shown=pl.len().cast(pl.Int64), unjudged=pl.col("_judged").is_null().sum().cast(pl.Int64))
        .sort("query_id")
    )
    asked, judged = set(counted["query_id"]), set(judgments["query_id"])
    return Holes(k, counted, tuple(sorted(judged - asked)), tuple(sorted(asked - judged)))


def per_segment(scores: pl.DataFrame, segments: pl.DataFrame, by: str) -> pl.DataFrame:
    """Mean of every measure in every segment: ``by``, ``n``, one column per measure; queries without a segment stand under null. Sorted by ``by``.

    Parameters
    ----------
    scores
        What :func:`per_query` gave.
    segments
        ``query_id`` and the column ``by``; a query at most once.

    Raises
    ------
    BadInput
        A column is missing, or a query has two segments.
    """
    require(segments, "segments", ["query_id", by], numeric=False)
    if segments["query_id"].is_duplicated().any():
        raise BadInput("segments: a query stands twice; give each query one segment.")
    joined = scores.join(segments.select("query_id", by), on="query_id", how="left")
    return joined.group_by(by).agg(pl.len().cast(pl.Int64).alias("n"), *(pl.col(name).mean() for name in scores.columns[1:])).sort(by)


def require(frame: pl.DataFrame, what: str, columns: Sequence[str], *, numeric: bool = True) -> None:
    """Refuse a frame without ``columns``, or whose last one is not made of numbers.

    Raises
    ------
    BadInput
        The message names the column and what is there.
    """
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise BadInput(f"{what}: column {', '.join(missing)} is missing (there are {', '.join(frame.columns)}); it needs {', '.join(columns)}.")
    number = frame.get_column(columns[-1])
    if not numeric:
        return
    if not number.dtype.is_numeric():
        raise BadInput(f"{what}: column {columns[-1]} holds {number.dtype}, not numbers.")
    if number.null_count() or (number.dtype.is_float() and number.is_nan().any()):
        raise BadInput(f"{what}: column {columns[-1]} has empty or NaN values; a document without one cannot be placed. Remove or repair those rows.")


def refuse_doubles(frame: pl.DataFrame, what: str, remedy: str = "keep one row of each pair") -> None:
    """Refuse a frame in which a pair of ``query_id`` and ``doc_id`` stands twice.

    Raises
    ------
    BadInput
        The message names the first such pair.
    """
    if frame.select(pl.struct(_KEYS).n_unique()).item() != frame.height:
        pair = frame.filter(pl.struct(_KEYS).is_duplicated()).row(0, named=True)
        raise BadInput(f"{what}: document {pair['doc_id']!r} stands twice for query {pair['query_id']!r}; {remedy}.")


def _relevance(min_relevance: float, graded: bool) -> pl.Expr:
    relevance = pl.col("relevance").cast(pl.Float64)
    return relevance if graded else (relevance >= min_relevance).cast(pl.Float64)


def _ranked(run: pl.DataFrame, duplicates: Duplicates) -> pl.DataFrame:
    """The run with ``_key``, which descends along a ranking; a document once."""
    order = "score" if "score" in run.columns else "rank"
    require(run, "run", [*_KEYS, order])
    # trec_eval keeps scores as C floats, so scores that differ only beyond single precision tie there; follow it, or results differ on such runs.
    key = pl.col("score").cast(pl.Float32) if order == "score" else -pl.col("rank").cast(pl.Float64)
    ranked = run.select(*_KEYS, key.alias("_key"))
    if duplicates == "last":
        return ranked.unique(_KEYS, keep="last", maintain_order=True)
    if duplicates == "best":
        return ranked.group_by(_KEYS, maintain_order=True).agg(pl.col("_key").max())
    refuse_doubles(ranked, "run", "keep one row of each pair, or say duplicates='best' or 'last'")
    return ranked


def _places(ranked: pl.DataFrame, group: str) -> pl.DataFrame:
    ordered = ranked.sort(group, "_key", "doc_id", descending=[False, True, True])
    return ordered.with_columns(_position=pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over(group))
