"""Words of documents in any script, and how common they are: what says which words tell something.

What belongs here: cutting text into segments and terms, joining terms again, counting documents. What must not: choosing phrases, making queries. There are
no stop lists and no language models: common words are common by count.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

import polars as pl

READ = 4_000
"""Characters of a document that queries are made from: about the 512 tokens or more that a reranker reads. What stands below it cannot be learned."""
COMMON_SHARE = 0.1
"""A word in more than a tenth of the documents carries no topic and may not begin or end a phrase."""
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_TERM = rf"[{_UNSPACED}]\p{{M}}*|[\w--[{_UNSPACED}]]+"
_SEGMENT = r"\w+(?:(?:[ \t]+|-)\w+)*"
_UNSPACED_NAMES = ("CJK", "HIRAGANA", "IDEOGRAPHIC", "THAI", "LAO", "KHMER", "MYANMAR")
_BATCH = 2_048
_FEW, _LONGEST = 20, 40


def term_lists(texts: Sequence[str]) -> list[list[str]]:
    """The terms of each text, in order: words (as ``corpora.words``), but single characters where a script is written without spaces between words."""
    return pl.Series([_plain(text) for text in texts], dtype=pl.String).str.extract_all(_TERM).to_list()


def segment_lists(texts: Sequence[str]) -> list[list[list[str]]]:
    """The terms of each segment of each text; a segment ends at any punctuation, symbol or line end, so that no phrase reaches over one."""
    segments = pl.Series([_plain(text) for text in texts], dtype=pl.String).str.extract_all(_SEGMENT)
    counts = segments.list.len().to_list()
    found = iter(segments.explode().drop_nulls().str.extract_all(_TERM).to_list())
    return [[next(found) for _ in range(count)] for count in counts]


def joined(terms: Iterable[str]) -> str:
    """Terms as one would write them: a space between two, unless both are of a script without spaces."""
    out: list[str] = []
    before = False
    for term in terms:
        unspaced = unspaced_script(term)
        if out and not (unspaced and before):
            out.append(" ")
        out.append(term)
        before = unspaced
    return "".join(out)


def distinct(terms: Iterable[str]) -> list[str]:
    """Each word once, in order; characters of scripts without spaces stay, since they are parts of words."""
    seen: set[str] = set()
    kept = []
    for term in terms:
        if term not in seen or unspaced_script(term):
            kept.append(term)
            seen.add(term)
    return kept


def unspaced_script(term: str) -> bool:
    """Whether a term is a character of a script that is written without spaces between words."""
    return _unspaced(term[0]) if term else False


def keeps(text: str, limit: int = READ) -> str:
    """The beginning of a text, whole words where it has spaces."""
    if len(text) <= limit:
        return text
    cut = text.rfind(" ", limit // 2, limit)
    return text[: cut if cut > 0 else limit]


def one_line(text: str) -> str:
    """White space folded."""
    return re.sub(r"\s+", " ", text).strip()


class Terms:
    """In how many documents each term stands, of the beginning of each."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.documents = 0
        self.df: Counter[str] = Counter()
        batch: list[str] = []
        for text in texts:
            batch.append(keeps(text))
            if len(batch) == _BATCH:
                self._count(batch)
                batch = []
        self._count(batch)
        self._weights: dict[str, float] = {}

    def _count(self, texts: Sequence[str]) -> None:
        self.documents += len(texts)
        for words in term_lists(texts):
            self.df.update(set(words))

    def idf(self, word: str) -> float:
        """``ln(1 + (N - df + .5) / (df + .5))``, the weight of BM25 (Robertson and Zaragoza 2009): never negative.

        Words rarer than one document in a thousand weigh no more than those: hardly anybody asks with a word that only one document knows, and such a
        query teaches nothing.
        """
        known = self._weights.get(word)
        if known is None:
            count = max(self.df.get(word, 0), self.documents / 1000)
            known = self._weights[word] = math.log(1.0 + (self.documents - count + 0.5) / (count + 0.5))
        return known

    def telling(self, word: str) -> bool:
        """Whether a word can begin or end a phrase: not common, of 2 to 40 characters where words are spaced, with a letter."""
        rare = self.documents < _FEW or self.df.get(word, 0) <= COMMON_SHARE * self.documents
        return rare and (1 < len(word) <= _LONGEST or unspaced_script(word)) and any(character.isalpha() for character in word)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


@lru_cache(maxsize=50_000)
def _unspaced(character: str) -> bool:
    return not character.isascii() and unicodedata.name(character, "").startswith(_UNSPACED_NAMES)
