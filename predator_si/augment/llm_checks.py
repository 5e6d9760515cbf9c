"""What a query that a model wrote must look like before anything of it is kept: text of strangers, until proven to be a query.

What belongs here: checks that need the query, its document and the examples only. What must not: the filters that all made-up queries pass later (``sieve``).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from predator_si.augment.filters import longest_common_run
from predator_si.augment.language import main_scripts
from predator_si.augment.minhash import character_shingles, jaccard
from predator_si.augment.recipe import Filters
from predator_si.corpora.words import tokens
from predator_si.privacy import redact

VERSION = "1"
"""Part of every key in the cache: what is kept of an answer depends on these checks."""
REASONS = ("characters", "length", "markup", "address", "personal", "copy", "language", "echo")
"""Why a query is dropped, in the order in which it is looked at."""
_LETTERS = (3, 300)
_HIDDEN = frozenset({"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"
"""They belong to the spelling of Persian and of Indic scripts."""
_MARKUP = re.compile(r"</?[A-Za-z!]|<\||\]\(|[`{}]|\[/?INST|^\s*(?:system|assistant|user)\s*:", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.\-]*://|\bwww\.|\b(?:mailto|javascript|data):\S|\b[\w\-]+\.(?:com|net|org|ru|ua|biz|xyz)\b", re.IGNORECASE)
_ECHO = 0.7


def fault_of(query: str, document: str, examples: Sequence[str]) -> str | None:
    """The first of ``REASONS`` that speaks against a query; null for none.

    Parameters
    ----------
    query
        As the model wrote it.
    document
        The text that it was written for.
    examples
        People's queries that the model was shown: one of them repeated is still theirs, and may not go into a data set as if it were nobody's.
    """
    if any(unicodedata.category(letter) in _HIDDEN and letter not in _JOINERS for letter in query):
        return "characters"
    words, filters = tokens(query), Filters()
    low, high = filters.words
    dense = any(main_scripts(word) & {"CJK", "THAI", "LAO", "KHMER", "MYANMAR"} for word in words)  # no spaces between words
    if not _LETTERS[0] <= len(query.strip()) <= _LETTERS[1] or not (1 if dense else low) <= len(words) <= high:
        return "length"
    if _MARKUP.search(query):
        return "markup"
    if _ADDRESS.search(query):
        return "address"
    if redact(query) != query:
        return "personal"
    most, share = filters.copied_run
    if len(words) > most and (run := longest_common_run(words, tokens(document))) > most and run > share * len(words):
        return "copy"
    welcome = main_scripts(document) | main_scripts(" ".join(examples))
    if welcome and main_scripts(query).isdisjoint(welcome):
        return "language"
    bag, *shown = character_shingles([query, *examples])
    return "echo" if any(jaccard(bag, other) >= _ECHO for other in shown) else None
