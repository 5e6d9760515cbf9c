"""What an adaptation may know of relevance beside the rankers' opinions: clicks of simulated users, or judgments; each votes as a member of the teacher.

What belongs here: turning judgments into votes, and simulating users who know them. What must not: reading judgments (``labels``), training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from predator_si.augment.signals import Signal, keys_of
from predator_si.augment.teacher import CLICKS
from predator_si.search.clicks import ClickModel

JUDGMENTS = "judgments"
WEIGHTS: Mapping[str, float] = {CLICKS: 1.0, JUDGMENTS: 2.0}
"""Votes are standardised within some 20 candidates, so one clicked document stands four standard deviations above the rest."""
_SHOWN = 10


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
