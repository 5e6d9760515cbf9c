"""The sealed queries that a promotion is judged by: which ones this month, and what their use may claim.

What belongs here: the rotation of a sealed pool, a candidate's share of the month's error, what may be told of the scores. What must not: opening the seal (the
control database, in the ledger), deciding.

Neither training nor any choice sees these queries; they are opened for one candidate at a time, in its evaluation. Within a month all candidates meet the same
ones, and share the month's error (``statistics.budget``). The next month that opens them asks others, until the pool has been through; a pool that is too
small to be divided stays as it is, and says so.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from predator_si.corpora.text import stable_fraction
from predator_si.errors import BadInput
from predator_si.records import Evaluation, Holdout, SealedOpening
from predator_si.statistics import DEFAULT_DESIGN, Design, Ladder, candidate_level, climb, power_sentence


def holdout_queries(pool: pl.DataFrame, size: int, rotation: int, seed: int = 0) -> tuple[pl.DataFrame, int, int]:
    """The queries of a sealed pool that are this month's.

    The pool is put in an order that depends on ids and ``seed`` alone and cut into blocks of ``size``; months take them in turn, so that no query is asked in
    two months before all blocks were.

    Parameters
    ----------
    pool
        ``query_id`` and whatever else; each id once.
    rotation
        Earlier months in which the pool was opened.

    Returns
    -------
    tuple[pl.DataFrame, int, int]
        At most ``size`` queries, which block they are, and how many blocks the pool has.

    Raises
    ------
    BadInput
        An empty pool, or a size or rotation that cannot be.
    """
    if pool.height == 0 or size < 1 or rotation < 0:
        raise BadInput(f"a holdout of {size} queries from a pool of {pool.height} in rotation {rotation}: there must be queries to seal.")
    keyed = pool.with_columns(pl.col("query_id").map_elements(lambda query_id: stable_fraction(f"{seed}:{query_id}"), return_dtype=pl.Float64).alias("_order"))
    blocks = max(1, pool.height // size)
    block = rotation % blocks
    return keyed.sort("_order").slice(block * size, size).drop("_order"), block, blocks


def promotion_level(opening: SealedOpening, design: Design = DEFAULT_DESIGN) -> float:
    """The two-sided p-value that this candidate's superiority must reach: with it the chance of any false promotion in the month stays below the design's.

    Twice the candidate's share of the error, because only one of the two sides is a promotion.
    """
    return 2.0 * candidate_level(opening.candidate, design.promotion_alpha_per_month, design.promotion_candidates_per_month)


def seal_of(
    evaluation: Evaluation,
    per_query: pl.DataFrame,
    opening: SealedOpening,
    place: tuple[int, int],
    pool: int,
    told_before: dict[str, Any] | None,
    design: Design = DEFAULT_DESIGN,
) -> tuple[Holdout, dict[str, Any]]:
    """What an evaluation on sealed queries may claim and tell.

    Parameters
    ----------
    per_query
        ``ndcg_difference`` per query, as :func:`~predator_si.evaluate.compare` gives it.
    place
        (block, blocks) of :func:`holdout_queries`.
    told_before
        The month's state as this function returned it last; null at the month's first use. A cycle that is evaluated again starts from where it started.

    Returns
    -------
    Holdout
        For ``Evaluation.holdout``.
    dict
        The month's new state, to be kept as it is.
    """
    if told_before is None:  # the champion's own score is told first: whoever released it knows it
        start: dict[str, Any] = {"best": round(evaluation.ndcg_champion * evaluation.n_queries) / evaluation.n_queries, "rungs": 0, "uses": 0}
    else:
        start = told_before["before"] if told_before["cycle_id"] == evaluation.cycle_id else told_before["after"]
    ladder, rose = climb(Ladder(**start), evaluation.ndcg_challenger, per_query["ndcg_difference"].to_numpy())
    level = promotion_level(opening, design)
    found = Holdout(
        opening=opening,
        block=place[0],
        blocks=place[1],
        pool=pool,
        level=level,
        told=float(ladder.best or 0.0),
        rose=rose,
        power=power_sentence(evaluation.n_queries, evaluation.ndcg_difference.sd, level / 2.0),
        before=start,
        month_alpha=design.promotion_alpha_per_month,
        month_candidates=design.promotion_candidates_per_month,
    )
    after = {"best": ladder.best, "rungs": ladder.rungs, "uses": ladder.uses}
    return found, {"cycle_id": evaluation.cycle_id, "before": start, "after": after}


def seal_again(evaluation: Evaluation, per_query: pl.DataFrame) -> Holdout | None:
    """What :func:`seal_of` said, from what the record keeps of it; null where no seal was opened, as it is where an earlier version kept too little."""
    kept = evaluation.holdout
    if kept is None or kept.month_alpha is None or kept.month_candidates is None:
        return kept
    months = {"promotion_alpha_per_month": kept.month_alpha, "promotion_candidates_per_month": kept.month_candidates}
    told_before = {"cycle_id": evaluation.cycle_id, "before": kept.before, "after": {}}
    return seal_of(evaluation, per_query, kept.opening, (kept.block, kept.blocks), kept.pool, told_before, DEFAULT_DESIGN.replaced(months))[0]
