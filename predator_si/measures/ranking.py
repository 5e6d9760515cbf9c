"""Ranking measures, query by query, with the definitions and the tie rule of trec_eval.

What belongs here: formulas over a run and its judgments. What must not: means with intervals (``statistics``), any model or service.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import polars as pl

from predator_si.errors import BadInput

_NAME = re.compile(r"^(nDCG|R|P|RR|MRR)(\(exp\))?@([1-9]\d*)$")
_KEYS = ["query_id", "doc_id"]


@dataclass(frozen=True)
class Measure:
    """A ranking measure as a value: ``nDCG@10``, ``nDCG(exp)@10``, ``R@20``, ``P@10``, ``RR@10`` (``MRR@10`` is read as ``RR@10``)."""

    name: str
    family: Literal["nDCG", "R", "P", "RR"]
    cutoff: int
    exponential: bool = False

    @classmethod
    def parse(cls, name: str) -> Self:
        """The measure called ``name``.

        Raises
        ------
        BadInput
            No such measure.
        """
        found = _NAME.match(name)
        if not found or (found[2] and found[1] != "nDCG"):
            raise BadInput(f"unknown measure {name!r}. Known: nDCG@k, nDCG(exp)@k, R@k, P@k, RR@k (or MRR@k), with k from 1.")
        family = "RR" if found[1] == "MRR" else found[1]
        return cls(name=name, family=family, cutoff=int(found[3]), exponential=bool(found[2]))  # type: ignore[arg-type]


def discounts(n: int) -> np.ndarray:
    """``1 / log2(rank + 1)`` for ranks 1..n (Järvelin and Kekäläinen 2002, with the base and shift of trec_eval)."""
    return 1.0 / np.log2(np.arange(2, n + 2))


def per_query(run: pl.DataFrame, judgments: pl.DataFrame, measures: Sequence[str] = ("nDCG@10",), *, min_relevance: float = 1.0) -> pl.DataFrame:
    """Every measure of every judged query.

    A judged query that the run lacks scores 0; a query without judgments is left out. Documents are ordered as trec_eval orders them: by
    descending score in single precision, ties by descending ``doc_id``. Where the run has no ``score`` its ``rank`` (1 is best) orders it.

    Parameters
    ----------
    run
        Columns ``query_id``, ``doc_id`` and ``score`` or ``rank``; a document at most once per query.
    judgments
        Columns ``query_id``, ``doc_id``, ``relevance``; a pair at most once. Relevance at or below 0 has no gain.
    measures
        Names, see :class:`Measure`. nDCG has linear gain (``relevance``), ``nDCG(exp)`` the gain ``2**relevance - 1`` of Burges et al. 2005.
    min_relevance
        From which relevance a document counts as relevant for R, P and RR.

    Returns
    -------
    pl.DataFrame
        ``query_id`` in the judgments' order, then one Float64 column per measure, named as asked, each in 0..1.

    Raises
    ------
    BadInput
        A column is missing, a score is null or NaN, a pair occurs twice, or a measure is unknown.

    References
    ----------
    trec_eval 9.0.8 (NIST): ``m_ndcg_cut.c``, ``m_recall.c``, ``m_P.c``, ``m_recip_rank.c``, ``form_res_rels.c``.
    """
    wanted = [Measure.parse(name) for name in measures]
    _require(judgments, "judgments", [*_KEYS, "relevance"])
    order = "score" if "score" in run.columns else "rank"
    _require(run, "run", [*_KEYS, order])
    queries = judgments.select(pl.col("query_id").unique(maintain_order=True))
    if not wanted or queries.is_empty():
        return queries.with_columns(pl.Series(measure.name, [], dtype=pl.Float64) for measure in wanted)

    deepest = max(measure.cutoff for measure in wanted)
    relevance = pl.col("relevance").cast(pl.Float64)
    positive = judgments.select(*_KEYS, relevance).filter(relevance > 0)
    hits = _top(run.join(queries, on="query_id", how="semi"), order, deepest).join(positive, on=_KEYS, how="inner")
    found = hits.group_by("query_id").agg(_gathered(measure, min_relevance).alias(f"_{i}") for i, measure in enumerate(wanted))
    ideal = (
        positive.with_columns(position=pl.col("relevance").rank("ordinal", descending=True).over("query_id"))
        .group_by("query_id")
        .agg(_possible(measure, min_relevance).alias(f"_ideal{i}") for i, measure in enumerate(wanted))
    )
    frame = queries.join(found, on="query_id", how="left", maintain_order="left").join(ideal, on="query_id", how="left", maintain_order="left")
    return frame.select("query_id", *(_normalised(i, measure) for i, measure in enumerate(wanted)))


def _require(frame: pl.DataFrame, what: str, columns: list[str]) -> None:
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise BadInput(f"{what}: column {', '.join(missing)} is missing (there are {', '.join(frame.columns)}); it needs {', '.join(columns)}.")
    number = frame.get_column(columns[-1])
    if not number.dtype.is_numeric():
        raise BadInput(f"{what}: column {columns[-1]} holds {number.dtype}, not numbers.")
    if number.null_count() or (number.dtype.is_float() and number.is_nan().any()):
        raise BadInput(f"{what}: column {columns[-1]} has empty or NaN values; a document without one cannot be placed. Remove or repair those rows.")
    if frame.select(pl.struct(_KEYS).n_unique()).item() != frame.height:
        pair = frame.filter(pl.struct(_KEYS).is_duplicated()).row(0, named=True)
        raise BadInput(f"{what}: document {pair['doc_id']!r} stands twice for query {pair['query_id']!r}; keep one row of each pair.")


def _top(run: pl.DataFrame, order: str, deepest: int) -> pl.DataFrame:
    # trec_eval keeps scores as C floats, so scores that differ only beyond single precision tie there; follow it, or results differ on such runs.
    key = pl.col("score").cast(pl.Float32) if order == "score" else -pl.col("rank").cast(pl.Float64)
    ranked = run.select(*_KEYS, key.alias("_key")).sort("query_id", "_key", "doc_id", descending=[False, True, True])
    return ranked.select(*_KEYS, position=pl.int_range(1, pl.len() + 1, dtype=pl.UInt32).over("query_id")).filter(pl.col("position") <= deepest)


def _gain(measure: Measure) -> pl.Expr:
    return 2.0 ** pl.col("relevance") - 1.0 if measure.exponential else pl.col("relevance")


def _discounted(measure: Measure) -> pl.Expr:
    within = pl.col("position") <= measure.cutoff
    return pl.when(within).then(_gain(measure) / (pl.col("position") + 1.0).log(2)).otherwise(0.0).sum()


def _gathered(measure: Measure, min_relevance: float) -> pl.Expr:
    hit = (pl.col("position") <= measure.cutoff) & (pl.col("relevance") >= min_relevance)
    if measure.family == "nDCG":
        return _discounted(measure)
    if measure.family == "RR":
        return (1.0 / pl.col("position").filter(hit).min().cast(pl.Float64)).fill_null(0.0)
    return hit.sum().cast(pl.Float64)


def _possible(measure: Measure, min_relevance: float) -> pl.Expr:
    if measure.family == "nDCG":
        return _discounted(measure)
    return (pl.col("relevance") >= min_relevance).sum().cast(pl.Float64)


def _normalised(i: int, measure: Measure) -> pl.Expr:
    value, ideal = pl.col(f"_{i}").fill_null(0.0), pl.col(f"_ideal{i}").fill_null(0.0)
    if measure.family == "P":
        value = value / measure.cutoff
    elif measure.family in ("nDCG", "R"):
        value = pl.when(ideal > 0).then(value / ideal).otherwise(0.0)
    return value.cast(pl.Float64).alias(measure.name)
