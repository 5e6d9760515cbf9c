"""What is kept of a query's text in the clear once the text itself is sealed: classes that many queries share.

What belongs here: segments by which a metric may be split. What must not: anything from which a text, or the one person who asked it, could be told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from predator_si.privacy.vault import Vault

SEGMENTS: dict[str, Any] = {"query_words": pl.Int64, "script": pl.String, "query_bucket": pl.Int64}
"""Columns that :func:`segments` gives."""
BUCKETS = 2**20
"""Equal queries share a bucket, and so do many different ones: enough to tell the head of a quarter of an hour from its tail (among 1,000 different
queries 0.1% share one by chance), too few to name a text."""
SCRIPTS = {"latin": r"\p{Latin}", "cyrillic": r"\p{Cyrillic}", "greek": r"\p{Greek}", "arabic": r"\p{Arabic}", "hebrew": r"\p{Hebrew}", "han": r"\p{Han}"}
"""Scripts that are told apart, with their Unicode class; other letters are ``other``."""


def segments(texts: pl.Series, vault: Vault | None = None) -> pl.DataFrame:
    """Segments of readable queries, a row each in their order: the columns of ``SEGMENTS``, null for a null.

    Parameters
    ----------
    texts
        Strings.
    vault
        Its salt makes the buckets; without one they are null.
    """
    frame = texts.cast(pl.String).alias("text").to_frame()
    found = frame.select(query_words=words("text"), script=script("text"))
    if vault is None:
        return found.with_columns(query_bucket=pl.lit(None, pl.Int64))
    plain = frame.select(pl.col("text").str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars())["text"]
    known = plain.unique().drop_nulls()
    buckets = pl.DataFrame({"text": known, "query_bucket": pl.Series([vault.query_bucket(text, BUCKETS) for text in known], dtype=pl.Int64)})
    return found.hstack(plain.to_frame().join(buckets, on="text", how="left", maintain_order="left").select("query_bucket"))


def words(column: str) -> pl.Expr:
    """Words of a text, split at white space; null for a null."""
    return pl.col(column).str.count_matches(r"\S+").cast(pl.Int64)


def script(column: str) -> pl.Expr:
    """The one script of a text's letters, ``mixed`` for more than one, ``none`` without letters; null for a null."""
    text = pl.col(column)
    known = "".join(SCRIPTS.values())
    found = {name: text.str.contains(pattern) for name, pattern in SCRIPTS.items()}
    found["other"] = text.str.contains(rf"[\p{{L}}--[{known}]]")
    several = pl.sum_horizontal(expression.cast(pl.Int8) for expression in found.values())
    single = pl.coalesce([pl.when(expression).then(pl.lit(name)) for name, expression in found.items()])
    return pl.when(text.is_null()).then(None).when(several > 1).then(pl.lit("mixed")).otherwise(pl.coalesce(single, pl.lit("none"))).cast(pl.String)
