"""Ranking quality as clicks tell it: position-debiased, per request, labelled as what it is.

What belongs here: estimates from clicks on what was shown. What must not: simulated users (``search.clicks``), decisions.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from predator_si.errors import BadInput


def shown_clicks(requests: pl.DataFrame, actions: pl.DataFrame, k: int) -> pl.DataFrame:
    """Clicks on documents in the first ``k`` results, each document once per request: ``query_id``, ``object_id``, ``position`` (from 1).

    The position is the one at which the document was shown; what the client says about it is not believed. A click on something that was
    not shown does not count.
    """
    clicks = actions.filter(pl.col("action_name") == "click").select("query_id", "object_id").drop_nulls().unique()
    shown = (
        requests.join(clicks.select("query_id").unique(), on="query_id", how="semi")
        .select("query_id", pl.col("results").list.eval(pl.element().struct.field("object_id")).list.head(k).alias("object_id"))
        .filter(pl.col("object_id").list.len() > 0)
        .with_columns(position=pl.int_ranges(1, pl.col("object_id").list.len() + 1))
        .explode("object_id", "position")
    )
    return clicks.join(shown, on=["query_id", "object_id"], how="inner").sort("query_id", "position")


CLIP = 50.0
"""Largest weight of one click under fitted propensities: a small bias against a variance without bound."""


def click_quality(
    requests: pl.DataFrame, actions: pl.DataFrame, *, k: int = 10, eta: float = 1.0, propensities: Sequence[float] | None = None, clip: float = CLIP
) -> pl.DataFrame:
    """Inverse-propensity DCG@k of every request, from its clicks.

    For a request with clicks at the set C of positions ``r <= k``: ``sum over C of w(r) / log2(r + 1)`` with ``w(r) = 1 / p(r)`` and the examination
    probability ``p`` of the position-based model; a request without clicks is 0. Its expectation is the DCG@k of the
    clicks that full examination would give (Joachims, Swaminathan and Schnabel, WSDM 2017): where every query has one
    relevant document, which alone attracts, it is NDCG@k. One request may exceed 1, the mean is what estimates; it moves with NDCG but is
    not on its scale where clicks are noisy. Without fitted propensities ``p(r) = 1 / r**eta`` is assumed, which never goes below ``1 / k**eta``.

    Parameters
    ----------
    requests
        Answered search events: ``query_id``, ``client_id``, ``results``.
    actions
        Action events.
    eta
        Strength of the assumed position bias, 0 (none) or more; not used with ``propensities``.
    propensities
        Fitted examination of positions 1..k at least, in (0, 1] (``judgments.fit_position_bias``).
    clip
        With ``propensities``: no click weighs more.

    Returns
    -------
    pl.DataFrame
        One row a request: ``query_id``, ``client`` (``client_id``, or the request itself where there is none), ``value``, ``clicked``, and of its clicks
        ``weight`` (sum of ``w``) and ``squares`` (sum of ``w**2``): ``sum(value) / sum(weight)`` is the self-normalised estimate (SNIPS, Swaminathan and
        Joachims, NeurIPS 2015), ``sum(weight)**2 / sum(squares)`` the effective number of clicks (Kish).

    Raises
    ------
    BadInput
        Fewer than k propensities, or one outside (0, 1].
    """
    position = pl.col("position").cast(pl.Float64)
    weight = position**eta
    if propensities is not None:
        if len(propensities) < k or not all(0.0 < p <= 1.0 for p in propensities[:k]):
            raise BadInput(f"click quality at {k} needs as many propensities in (0, 1]; there are {list(propensities)}.")
        weight = pl.col("position").replace_strict({r: min(1.0 / p, clip) for r, p in enumerate(propensities[:k], start=1)}, return_dtype=pl.Float64)
    clicks = shown_clicks(requests, actions, k).with_columns(_weight=weight, _gain=1.0 / (position + 1.0).log(2))
    gained = clicks.group_by("query_id").agg(
        value=(pl.col("_weight") * pl.col("_gain")).sum(), weight=pl.col("_weight").sum(), squares=(pl.col("_weight") ** 2).sum()
    )
    return (
        requests.select("query_id", client=pl.coalesce("client_id", "query_id"))
        .join(gained, on="query_id", how="left", maintain_order="left")
        .with_columns(clicked=pl.col("value").is_not_null())
        .select("query_id", "client", "clicked", *(pl.col(name).fill_null(0.0) for name in ("value", "weight", "squares")))
    )


def click_through(requests: pl.DataFrame, actions: pl.DataFrame, *, k: int = 10) -> pl.DataFrame:
    """Whether each request got a click in its first ``k`` results: ``query_id``, ``client``, ``value`` (0 or 1)."""
    return click_quality(requests, actions, k=k, eta=0.0).select("query_id", "client", value=pl.col("clicked").cast(pl.Float64))
