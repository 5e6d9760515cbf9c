"""What people's behaviour or judgments say of documents for a query, as a member of the ensemble teacher: it votes where something is known.

What belongs here: known grades as votes. What must not: estimating them (``generators.clicks``), rankers (``teacher``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.augment.generators.clicks import click_estimates
from predator_si.augment.teacher import CLICKS
from predator_si.corpora.words import token_lists

CLICK_FLOOR = 0.25
"""Estimated attraction of the best document of a query below which its clicks are noise and do not vote."""


class Signal:
    """A member of ``teacher.EnsembleTeacher`` that knows grades of some documents of some queries; silent on the others.

    Parameters
    ----------
    grades
        The words of a query (:func:`keys_of`) -> document id -> grade, above 0.
    """

    def __init__(self, name: str, grades: Mapping[str, Mapping[str, float]]) -> None:
        self.name = name
        self.grades = grades

    def score(self, queries: Sequence[str], doc_ids: Sequence[Sequence[str]], texts: Sequence[Sequence[str]]) -> list[npt.NDArray[np.float64] | None]:
        """The grades, 0 where none is known."""
        known = [self.grades.get(key) for key in keys_of(queries)]
        return [None if own is None or not ids else np.array([own.get(doc_id, 0.0) for doc_id in ids]) for own, ids in zip(known, doc_ids, strict=True)]


def keys_of(queries: Sequence[str]) -> list[str]:
    """The words of each query: how the click log names it."""
    return [" ".join(words) for words in token_lists(list(queries))]


def click_signal(log: pl.DataFrame, propensities: Sequence[float] | None = None) -> Signal:
    """Clicks as a member: corrected for position and weighted by dwell; queries whose best estimate stays below ``CLICK_FLOOR`` do not vote.

    Parameters
    ----------
    log, propensities
        As :func:`predator_si.augment.generators.clicks.click_estimates` wants them.
    """
    estimates = click_estimates(log, propensities=propensities).filter((pl.col("key") != "") & (pl.col("estimate") > 0))
    sure = estimates.filter(pl.col("estimate").max().over("key") >= CLICK_FLOOR)
    grades: dict[str, dict[str, float]] = {}
    for key, doc_id, estimate in sure.select("key", "doc_id", "estimate").iter_rows():
        grades.setdefault(key, {})[doc_id] = float(estimate)
    return Signal(CLICKS, grades)
