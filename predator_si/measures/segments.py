"""Segments of queries: what can be said about a query's text once the text itself is sealed away.

What belongs here: small classes of a text that name nobody. What must not: anything from which a text could be read again.
"""

from __future__ import annotations

import polars as pl

SCRIPTS = {"latin": r"\p{Latin}", "cyrillic": r"\p{Cyrillic}", "greek": r"\p{Greek}", "arabic": r"\p{Arabic}", "hebrew": r"\p{Hebrew}", "han": r"\p{Han}"}
"""Scripts that are told apart, with their Unicode class; other letters are ``other``."""


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
