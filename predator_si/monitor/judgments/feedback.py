"""What people say outright about a result: marks and 1 to 5 ratings, made into labels that no single client can write.

What belongs here: votes to labels, conflicts. What must not: reading events, clicks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import polars as pl

from predator_si.errors import BadInput
from predator_si.monitor.judgments.judgment_set import JudgmentSet

MIN_CLIENTS = 3
"""Clients that a label needs: with two, one of them decides."""
CLIENT_CAP = 50.0
"""Votes of one client that count in full; one who votes more spreads the same weight over all of them."""
_CONFLICT = 0.25


@dataclass(frozen=True)
class Feedback:
    """Labels, and what stood against making more of them.

    Attributes
    ----------
    judgments
        Labels of 0..1 by the weighted mean of votes.
    conflicts
        Pairs whose voters disagree: at least a quarter of the weight for (0.75 or more) and a quarter against (0.25 or less). Columns ``query_id``,
        ``doc_id``, ``mean``, ``clients``, ``against``, ``favour`` (shares of the weight). They are labelled all the same, by the mean.
    too_few
        Pairs with fewer than the least number of clients: no label.
    refused
        Votes that say nothing: no client, no document, or a value outside the scale.
    capped
        Clients whose votes were weighed down.
    """

    judgments: JudgmentSet
    conflicts: pl.DataFrame
    too_few: int
    refused: int
    capped: int


def feedback_judgments(
    votes: pl.DataFrame, *, origin: Literal["feedback", "human"] = "feedback", min_clients: int = MIN_CLIENTS, client_cap: float = CLIENT_CAP
) -> Feedback:
    """Labels from explicit votes.

    A client has one vote for each pair, the newest. A client with more than ``client_cap`` votes has each of them weighed by ``client_cap`` over their
    number, so that an eager one cannot write the labels of a whole collection; a label needs ``min_clients`` clients, and no voter has more than a vote.

    Parameters
    ----------
    votes
        ``query_id`` (of the query, not of the request), ``doc_id``, ``client``, ``timestamp``, ``kind`` (``mark``: 0 or 1; ``rating``: 1 to 5), ``value``;
        ``query`` (its text) where known.

    Raises
    ------
    BadInput
        A column is missing.
    """
    needed = ("query_id", "doc_id", "client", "timestamp", "kind", "value")
    lacking = [name for name in needed if name not in votes.columns]
    if lacking:
        raise BadInput(f"feedback: no column {', '.join(lacking)}; there are {', '.join(votes.columns)}.")
    known = votes if "query" in votes.columns else votes.with_columns(query=pl.lit(None, dtype=pl.String))
    value = pl.col("value").cast(pl.Float64)
    grade = (
        pl.when((pl.col("kind") == "mark") & value.is_in([0.0, 1.0]))
        .then(value)
        .when((pl.col("kind") == "rating") & value.is_between(1.0, 5.0))
        .then((value - 1) / 4)
    )
    usable = known.with_columns(grade=grade).drop_nulls(["query_id", "doc_id", "client", "grade"])
    newest = usable.sort("timestamp", maintain_order=True).unique(["query_id", "doc_id", "client"], keep="last", maintain_order=True)
    weighed = newest.with_columns(_votes=pl.len().over("client")).with_columns(weight=(client_cap / pl.col("_votes")).clip(upper_bound=1.0))
    weight = pl.col("weight")
    pairs = weighed.group_by("query_id", "doc_id", maintain_order=True).agg(
        pl.col("query").first(),
        mean=(pl.col("grade") * weight).sum() / weight.sum(),
        clients=pl.len(),
        against=weight.filter(pl.col("grade") <= _CONFLICT).sum() / weight.sum(),
        favour=weight.filter(pl.col("grade") >= 1.0 - _CONFLICT).sum() / weight.sum(),
    )
    kept = pairs.filter(pl.col("clients") >= min_clients)
    conflicts = kept.filter((pl.col("against") >= _CONFLICT) & (pl.col("favour") >= _CONFLICT))
    return Feedback(
        JudgmentSet(kept.select("query_id", "query", "doc_id", relevance=pl.col("mean").clip(0.0, 1.0), origin=pl.lit(origin), scale=pl.lit(1.0))),
        conflicts.select("query_id", "doc_id", "mean", "clients", "against", "favour"),
        pairs.height - kept.height,
        votes.height - usable.height,
        weighed.filter(weight < 1.0)["client"].n_unique(),
    )


def votes_of(requests: pl.DataFrame, actions: pl.DataFrame) -> pl.DataFrame:
    """The votes among action events, as :func:`feedback_judgments` takes them.

    Ratings that name a document which the request showed (a rating without one is about the whole search, and labels nothing). The query is known by its
    text, see :func:`~predator_si.monitor.judgments.quepid.text_id`.

    Parameters
    ----------
    requests
        Search events with readable ``user_query``, ``client_id`` and ``results``.
    actions
        Action events: ``action_name`` ``rating`` (1 to 5), or ``mark`` (0 or 1) where the source has them.
    """
    from predator_si.monitor.judgments.quepid import text_id

    shown = requests.filter(pl.col("user_query").is_not_null()).select(
        request="query_id",
        query="user_query",
        asker="client_id",
        ids=pl.col("results").list.eval(pl.element().struct.field("object_id")),
    )
    explicit = actions.filter(pl.col("action_name").is_in(["rating", "mark"]) & pl.col("object_id").is_not_null())
    joined = explicit.join(shown, left_on="query_id", right_on="request", how="inner").filter(pl.col("ids").list.contains(pl.col("object_id")))
    return joined.select(
        query_id=pl.col("query").map_elements(text_id, return_dtype=pl.String),
        query="query",
        doc_id="object_id",
        client=pl.coalesce("client_id", "asker"),
        timestamp="timestamp",
        kind="action_name",
        value="value",
    )
