"""What is kept of a query's text in the clear once the text itself is sealed: classes that many queries share.

What belongs here: segments by which a metric may be split. What must not: anything from which a text, or the one person who asked it, could be told.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from predator_si.privacy.vault import Vault

SEGMENTS: dict[str, Any] = {"query_words": pl.Int64, "script": pl.String, "query_bucket": pl.Int64}
"""Columns that :func:`segments` gives."""
BUCKETS = 2**20
"""Equal queries of a day share a bucket, and so do many different ones: enough to tell the head of a quarter of an hour from its tail (among 1,000 different
queries 0.1% share one by chance), too few to name a text. Who guesses a text can check the guess only with the day's salt, which is destroyed within days."""
SCRIPTS = {"latin": r"\p{Latin}", "cyrillic": r"\p{Cyrillic}", "greek": r"\p{Greek}", "arabic": r"\p{Arabic}", "hebrew": r"\p{Hebrew}", "han": r"\p{Han}"}
"""Scripts that are told apart, with their Unicode class; other letters are ``other``."""
_WORD = re.compile(r"[^\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
"""What Polars' ``\\S+`` finds: runs without Unicode's White_Space. Python's own class differs in four control characters."""
_SCRIPT_OF: dict[str, str] = {}
_CHARACTERS = 20_000


def segments(texts: pl.Series, vault: Vault | None = None, days: pl.Series | None = None) -> pl.DataFrame:
    """Segments of readable queries, a row each in their order: the columns of ``SEGMENTS``, null for a null.

    Parameters
    ----------
    texts
        Strings.
    vault, days
        Whose salt of a text's day (``date.toordinal``, a row each) makes the bucket; without them, and for a day whose salt is gone, it is null.
    """
    frame = texts.cast(pl.String).alias("text").to_frame()
    found = frame.select(query_words=words("text"), script=script("text"))
    if vault is None or days is None:
        return found.with_columns(query_bucket=pl.lit(None, pl.Int64))
    asked = frame.with_columns(day=days.cast(pl.Int64))
    known = asked.unique().drop_nulls()
    buckets = [vault.query_bucket(_plain(text), BUCKETS, day) for text, day in known.iter_rows()]
    named = known.with_columns(query_bucket=pl.Series(buckets, dtype=pl.Int64))
    return found.hstack(asked.join(named, on=["text", "day"], how="left", maintain_order="left").select("query_bucket"))


def segments_of(text: str, vault: Vault, day: int) -> dict[str, Any]:
    """``segments`` of one text, in microseconds: for a search that somebody waits for."""
    scripts = {_SCRIPT_OF[character] if character in _SCRIPT_OF else _script_of(character) for character in set(text)}
    scripts.discard("none")
    found = "none" if not scripts else scripts.pop() if len(scripts) == 1 else "mixed"
    return {"query_words": len(_WORD.findall(text)), "script": found, "query_bucket": vault.query_bucket(_plain(text), BUCKETS, day)}


def _plain(text: str) -> str:
    return " ".join(_WORD.findall(text.lower()))


def _script_of(character: str) -> str:
    """The script of a character as the column's expression tells it, so that there is one definition; asked once for each."""
    if len(_SCRIPT_OF) > _CHARACTERS:
        _SCRIPT_OF.clear()
    found = str(pl.select(script(pl.lit(character)))["script"][0]) if not character.isascii() else "latin" if character.isalpha() else "none"
    _SCRIPT_OF[character] = found
    return found


def words(column: str) -> pl.Expr:
    """Words of a text, split at white space; null for a null."""
    return pl.col(column).str.count_matches(r"\S+").cast(pl.Int64)


def script(column: str | pl.Expr) -> pl.Expr:
    """The one script of a text's letters, ``mixed`` for more than one, ``none`` without letters; null for a null."""
    text = pl.col(column) if isinstance(column, str) else column
    known = "".join(SCRIPTS.values())
    found = {name: text.str.contains(pattern) for name, pattern in SCRIPTS.items()}
    found["other"] = text.str.contains(rf"[\p{{L}}--[{known}]]")
    several = pl.sum_horizontal(expression.cast(pl.Int8) for expression in found.values())
    single = pl.coalesce([pl.when(expression).then(pl.lit(name)) for name, expression in found.items()])
    return (
        pl.when(text.is_null())
        .then(None)
        .when(several > 1)
        .then(pl.lit("mixed"))
        .otherwise(pl.coalesce(single, pl.lit("none")))
        .cast(pl.String)
        .alias("script")
    )
