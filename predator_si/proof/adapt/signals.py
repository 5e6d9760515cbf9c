"""What an adaptation may know of relevance beside the rankers' opinions: clicks of simulated users, or judgments; each votes as a member of the teacher.

What belongs here: turning clicks and judgments into votes. What must not: reading judgments (``labels``), training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.augment.generators.clicks import click_estimates
from predator_si.corpora.words import token_lists
from predator_si.search.clicks import ClickModel

CLICKS, JUDGMENTS = "clicks", "judgments"
WEIGHTS: Mapping[str, float] = {CLICKS: 1.0, JUDGMENTS: 2.0}
"""Votes are standardised within some 20 candidates, so one clicked document stands four standard deviations above the rest."""
CLICK_FLOOR = 0.25
"""Estimated attraction of the best document of a query below which its clicks are noise and do not vote."""
_SHOWN = 10


class Signal:
    """A member of ``augment.teacher.EnsembleTeacher`` that knows grades of some documents of some queries; silent on the others.

    Parameters
    ----------
    grades
        The words of a query (``key_of``) -> document id -> grade, above 0.
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


def judged_signal(queries: pl.DataFrame, judgments: pl.DataFrame) -> Signal:
    """Judgments as a member: grades above 0 by query."""
    grades: dict[str, dict[str, float]] = {}
    positive = judgments.filter(pl.col("relevance") > 0).join(queries, on="query_id", how="inner", maintain_order="left")
    for key, doc_id, grade in zip(keys_of(positive["text"].to_list()), positive["doc_id"], positive["relevance"], strict=True):
        grades.setdefault(key, {})[doc_id] = float(grade)
    return Signal(JUDGMENTS, grades)


def simulated_log(queries: pl.DataFrame, judgments: pl.DataFrame, shown: Sequence[Sequence[str]], searches: int, rng: np.random.Generator) -> pl.DataFrame:
    """A log of people who know what is relevant, look down the list with fading patience, and sometimes click by mistake (``search.clicks``).

    Parameters
    ----------
    queries
        ``query_id, text``.
    shown
        The ranking of each query, best first; its first ten are shown.
    searches
        How often each query is asked.

    Returns
    -------
    polars.DataFrame
        ``text, clicked, impressions, dwell``, one row a search.
    """
    grades: dict[str, dict[str, float]] = {}
    for query_id, doc_id, grade in judgments.select("query_id", "doc_id", "relevance").iter_rows():
        grades.setdefault(query_id, {})[doc_id] = float(grade)
    users = ClickModel(max_grade=max((grade for own in grades.values() for grade in own.values()), default=1.0) or 1.0)
    rows = []
    for query_id, text, ids in zip(queries["query_id"], queries["text"], shown, strict=True):
        impressions = list(ids[:_SHOWN])
        for _ in range(searches):
            clicks = users.clicks(impressions, grades.get(query_id, {}), rng)
            rows.append((text, [click.object_id for click in clicks], impressions, [click.dwell_seconds for click in clicks]))
    schema: dict[str, Any] = {"text": pl.String, "clicked": pl.List(pl.String), "impressions": pl.List(pl.String), "dwell": pl.List(pl.Float64)}
    return pl.DataFrame(rows, schema=schema, orient="row")


def click_signal(log: pl.DataFrame) -> Signal:
    """Clicks as a member: corrected for position and weighted by dwell; queries whose best estimate stays below ``CLICK_FLOOR`` do not vote."""
    estimates = click_estimates(log).filter((pl.col("key") != "") & (pl.col("estimate") > 0))
    sure = estimates.filter(pl.col("estimate").max().over("key") >= CLICK_FLOOR)
    grades: dict[str, dict[str, float]] = {}
    for key, doc_id, estimate in sure.select("key", "doc_id", "estimate").iter_rows():
        grades.setdefault(key, {})[doc_id] = float(estimate)
    return Signal(CLICKS, grades)
