"""Words of a text in any script: Unicode word characters with their combining marks, case-folded. No stop words, no stemming."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import polars as pl


def token_lists(texts: Sequence[str]) -> list[list[str]]:
    r"""The words of each text, in order, with repetitions.

    The pattern is ``\w+`` as Unicode TR18 annex C defines it (letters, marks, digits, connectors): unlike Python's ``re`` it keeps the
    vowel signs of Indic scripts inside their word. Texts are brought to NFKC and case-folded first.
    """
    folded = pl.Series("text", [unicodedata.normalize("NFKC", text).casefold() for text in texts], dtype=pl.String)
    return folded.str.extract_all(r"\w+").to_list()


def tokens(text: str) -> list[str]:
    """The words of one text, in order (see :func:`token_lists`)."""
    return token_lists([text])[0]
