"""What was shown where to whom, and whether it was clicked: the table that every click estimate starts from.

What belongs here: events to impressions. What must not: any estimate.
"""

from __future__ import annotations

import polars as pl

from predator_si.monitor.clicks import shown_clicks

SHOWN = 10
"""Positions that count: deeper ones have too few clicks to say anything."""


def impressions(requests: pl.DataFrame, actions: pl.DataFrame, *, k: int = SHOWN) -> pl.DataFrame:
    """One row for each document shown in the first ``k`` positions.

    Requests without readable text (erased, or sealed for good) say nothing about a pair and are left out.

    Parameters
    ----------
    requests
        Answered search events: ``query_id``, ``user_query``, ``client_id``, ``results``, and ``variant`` where there is one.
    actions
        Action events on them.

    Returns
    -------
    pl.DataFrame
        ``request``, ``client`` (the request itself where no client is known), ``variant``, ``query`` (the words, lower case, single spaces), ``doc_id``,
        ``position`` (from 1), ``clicked``.
    """
    usable = requests.filter(pl.col("user_query").is_not_null())
    shown = (
        usable.select(
            request="query_id",
            client=pl.coalesce("client_id", "query_id"),
            variant=pl.col("variant") if "variant" in usable.columns else pl.lit(None, dtype=pl.String),
            query=pl.col("user_query").str.to_lowercase().str.strip_chars().str.replace_all(r"\s+", " "),
            doc_id=pl.col("results").list.eval(pl.element().struct.field("object_id")).list.head(k),
        )
        .filter(pl.col("doc_id").list.len() > 0)
        .with_columns(position=pl.int_ranges(1, pl.col("doc_id").list.len() + 1))
        .explode("doc_id", "position")
    )
    clicked = shown_clicks(usable, actions, k).select(request="query_id", doc_id="object_id", clicked=pl.lit(True)).unique(["request", "doc_id"])
    return shown.join(clicked, on=["request", "doc_id"], how="left", maintain_order="left").with_columns(pl.col("clicked").fill_null(False))
