"""What one client may say in a query log: nobody outvotes the others, and who clicks whatever it sees says nothing.

What belongs here: cutting a log down to fair shares. What must not: estimates from clicks (``generators.clicks``).
"""

from __future__ import annotations

import polars as pl

from predator_si.augment.recipe import Filters
from predator_si.corpora.words import token_lists


def fair_log(log: pl.DataFrame, filters: Filters) -> tuple[pl.DataFrame, dict[str, int]]:
    """The log without what a single client has too much of, and how much that was.

    In this order: of one client's searches for one query the first ``filters.client_searches`` stay; the clicks of a client that clicked more than
    ``filters.click_ratio`` of what it was shown go (its searches stay: they were asked); the clicks of a client beyond ``filters.client_share`` of all clicked
    searches go. Rows without a client are each somebody else's.

    Parameters
    ----------
    log
        ``text, clicked, impressions``, optionally ``dwell`` (lists aligned with ``clicked``) and ``client_id``. Without ``client_id`` nothing can be told
        apart: the log comes back as it is.

    Returns
    -------
    tuple
        The log, and ``clients, repeated_searches, indiscriminate_clients, indiscriminate_clicks, clicks_over_share``.
    """
    if log.is_empty() or "client_id" not in log.columns:
        return log, {}
    rows = log.with_row_index("row").with_columns(key=pl.Series([" ".join(words) for words in token_lists(log["text"].to_list())], dtype=pl.String))
    known = pl.col("client_id").is_not_null()
    repeats = pl.int_range(pl.len()).over("client_id", "key")
    fair = rows.filter(~known | (repeats < filters.client_searches))
    ratio, least = filters.click_ratio
    habits = (
        fair.filter(known)
        .group_by("client_id")
        .agg(shown=pl.col("impressions").list.len().sum(), clicks=pl.col("clicked").list.n_unique().sum())
        .sort("client_id")
    )
    clicks_all = habits.filter((pl.col("shown") >= least) & (pl.col("clicks") > ratio * pl.col("shown")))
    indiscriminate = pl.col("client_id").is_in(clicks_all["client_id"].to_list()).fill_null(False)
    clicked = pl.col("clicked").list.len() > 0
    honest = fair.filter(clicked & ~indiscriminate).height
    most = max(filters.client_least, int(filters.client_share * honest))
    order = pl.when(clicked).then(clicked.cum_sum().over("client_id")).otherwise(0)
    over = known & ~indiscriminate & (order > most)
    marked = fair.with_columns(mute=indiscriminate | over, over=over)
    counts = {
        "clients": rows["client_id"].drop_nulls().n_unique(),
        "repeated_searches": rows.height - fair.height,
        "indiscriminate_clients": clicks_all.height,
        "indiscriminate_clicks": int(clicks_all["clicks"].sum()),
        "clicks_over_share": int(marked.filter("over")["clicked"].list.len().sum()),
    }
    lists = [name for name in ("clicked", "dwell") if name in log.columns and isinstance(log.schema[name], pl.List)]
    silent = [pl.when("mute").then(pl.col(name).list.head(0)).otherwise(pl.col(name)).alias(name) for name in lists]
    return marked.with_columns(silent).select(log.columns), counts
