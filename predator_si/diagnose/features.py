"""What is known about each query besides its words: binned features for conjunctions.

What belongs here: turning queries, candidates and documents into a few named bins. What must not: scores, tests. A feature that cannot be known is left out
with a reason; a single query for which it is unknown has null.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from predator_si.corpora.vocabulary import DocumentFrequency, frequency
from predator_si.corpora.words import token_lists

Bins = list[str | None]
EARLY_WORDS = 32
"""A query word among the first so many words of the document stands early in it."""
_OVERLAP_DEPTH = 10
_LETTERS = {"uk": frozenset("іїєґ"), "ru": frozenset("ыэъё")}


@dataclass(frozen=True)
class Features:
    """``bins``: feature -> one bin per query (null: unknown for it). ``left_out``: feature -> why there is none."""

    bins: dict[str, Bins]
    left_out: dict[str, str] = field(default_factory=dict)


def query_features(
    judged: pl.DataFrame,
    words: Sequence[Sequence[str]],
    relevant: Mapping[str, Mapping[str, float]],
    *,
    document_frequency: DocumentFrequency | None = None,
    log: Sequence[str] = (),
    topics: Sequence[str] | None = None,
    text_of: Callable[[str], str | None] | None = None,
    age_of: Mapping[str, float] | None = None,
    depth: int | None = None,
) -> Features:
    """Bins of each judged query.

    Parameters
    ----------
    judged
        ``query_id, text, candidate_ids`` and optionally ``lexical_ids, dense_ids`` (each leg's documents, best first).
    words
        The words of each query.
    relevant
        Query id -> document id -> relevance.
    document_frequency
        For words that no document has (``unindexed``).
    log
        Query texts of the current window, for head and tail.
    topics
        Label of each query's topic.
    text_of
        Document id -> its text (title and body), null where there is none.
    age_of
        Document id -> age in days.
    depth
        Candidates that the reranker scores.

    Returns
    -------
    Features
        ``length`` (short, middle, long: terciles of words), ``digits``, ``unindexed`` (none, some, many: more than a third of the words), ``topic``,
        ``frequency`` (head: asked twice or more in the log; torso: once; tail: never), ``language`` (as far as letters tell), ``gold`` (retrieved, partly,
        missed), ``legs``
        (both, lexical, dense, none: which leg has the document), ``agreement`` of the legs' top 10 (low, high: median), ``document length``, ``document age``
        (terciles), ``exact match`` (all, most, few: query words in the document), ``first match`` (early, late, none).
    """
    texts, ids = judged["text"].to_list(), judged["query_id"].to_list()
    gold = [_best(relevant.get(query_id, {})) for query_id in ids]
    bins: dict[str, Bins] = {
        "length": _terciles([len(query) for query in words], ("short", "middle", "long")),
        "digits": ["yes" if any(character.isdigit() for character in text) else "no" for text in texts],
        "language": [language(text) for text in texts],
    }
    left_out: dict[str, str] = {}
    if document_frequency is None:
        left_out["unindexed"] = "the words of the index are not known"
    else:
        shares = [sum(frequency(document_frequency, word) == 0 for word in query) / max(len(query), 1) for query in words]
        bins["unindexed"] = ["none" if share == 0 else "some" if share <= 1 / 3 else "many" for share in shares]
    if log:
        asked = Counter(tuple(query) for query in token_lists(log))
        bins["frequency"] = ["tail" if not asked[tuple(query)] else "torso" if asked[tuple(query)] == 1 else "head" for query in words]
    else:
        left_out["frequency"] = "no query log of the window"
    if topics is not None:
        bins["topic"] = list(topics)
    _add_candidates(bins, left_out, judged, ids, relevant, depth)
    _add_documents(bins, left_out, words, gold, text_of, age_of)
    constant = [name for name, values in bins.items() if len(set(values) - {None}) < 2]
    for name in constant:
        del bins[name]
        left_out[name] = "the same for all queries"
    return Features(bins, left_out)


def language(text: str) -> str | None:
    """The language as far as its letters tell: ``uk`` or ``ru`` by letters that only one of them has, else the script's name; null without letters.

    A Cyrillic text with letters of neither (or of both) is ``cyrillic``. Latin languages are not told apart.
    """
    letters = [character for character in text.casefold() if character.isalpha()]
    if not letters:
        return None
    script = Counter(unicodedata.name(character, "UNKNOWN").split()[0].lower() for character in letters).most_common(1)[0][0]
    if script != "cyrillic":
        return script
    marks = [name for name, own in _LETTERS.items() if own & set(letters)]
    return marks[0] if len(marks) == 1 else "cyrillic"


def _add_candidates(
    bins: dict[str, Bins], left_out: dict[str, str], judged: pl.DataFrame, ids: list[str], relevant: Mapping[str, Mapping[str, float]], depth: int | None
) -> None:
    gains = [{doc for doc, value in relevant.get(query_id, {}).items() if value > 0} for query_id in ids]
    found: Bins = []
    for wanted, candidates in zip(gains, judged["candidate_ids"].to_list(), strict=True):
        got = None if candidates is None else len(wanted & set(candidates[:depth]))
        found.append(None if got is None or not wanted else "missed" if got == 0 else "retrieved" if got == len(wanted) else "partly")
    if any(value is not None for value in found):
        bins["gold"] = found
    else:
        left_out["gold"] = "the candidates of no query are known"
    if not {"lexical_ids", "dense_ids"} <= set(judged.columns) or judged["lexical_ids"].is_null().all() or judged["dense_ids"].is_null().all():
        left_out["legs"] = left_out["agreement"] = "the service does not say what each leg found"
        return
    legs: Bins = []
    overlap: list[float | None] = []
    for wanted, lexical, dense in zip(gains, judged["lexical_ids"].to_list(), judged["dense_ids"].to_list(), strict=True):
        if lexical is None or dense is None:
            legs.append(None)
            overlap.append(None)
            continue
        hits = (bool(wanted & set(lexical)), bool(wanted & set(dense)))
        legs.append({(True, True): "both", (True, False): "lexical", (False, True): "dense", (False, False): "none"}[hits])
        overlap.append(len(set(lexical[:_OVERLAP_DEPTH]) & set(dense[:_OVERLAP_DEPTH])) / _OVERLAP_DEPTH)
    middle = float(np.median([value for value in overlap if value is not None]))
    bins["legs"] = legs
    bins["agreement"] = [None if value is None else "high" if value > middle else "low" for value in overlap]


def _add_documents(
    bins: dict[str, Bins],
    left_out: dict[str, str],
    words: Sequence[Sequence[str]],
    gold: list[str | None],
    text_of: Callable[[str], str | None] | None,
    age_of: Mapping[str, float] | None,
) -> None:
    texts = [None if text_of is None or doc is None else text_of(doc) for doc in gold]
    if any(text is not None for text in texts):
        bodies = token_lists([text or "" for text in texts])
        there = [text is not None for text in texts]
        bins["document length"] = _terciles([len(body) if known else None for body, known in zip(bodies, there, strict=True)], ("short", "middle", "long"))
        pairs = list(zip(words, bodies, there, strict=True))
        bins["exact match"] = [_exact(query, body) if known else None for query, body, known in pairs]
        bins["first match"] = [_first(query, body) if known else None for query, body, known in pairs]
    else:
        for name in ("document length", "exact match", "first match"):
            left_out[name] = "the texts of the relevant documents are not known"
    ages = [None if age_of is None or doc is None else age_of.get(doc) for doc in gold]
    if any(age is not None for age in ages):
        bins["document age"] = _terciles(ages, ("new", "middle", "old"))
    else:
        left_out["document age"] = "the documents have no dates"


def _best(gains: Mapping[str, float]) -> str | None:
    return min(gains, key=lambda doc: (-gains[doc], doc)) if gains else None


def _terciles(values: Sequence[float | None], names: tuple[str, str, str]) -> Bins:
    known = [value for value in values if value is not None]
    low, high = np.quantile(known, [1 / 3, 2 / 3]) if known else (0.0, 0.0)
    return [None if value is None else names[0] if value <= low else names[2] if value > high else names[1] for value in values]


def _exact(query: Sequence[str], body: Sequence[str]) -> str | None:
    if not query:
        return None
    share = len(set(query) & set(body)) / len(set(query))
    return "all" if share == 1.0 else "most" if share >= 0.5 else "few"


def _first(query: Sequence[str], body: Sequence[str]) -> str:
    """Where the longest query word that the document has stands first in it: common short words would nearly always be early."""
    shared = sorted(set(query) & set(body), key=lambda word: (-len(word), word))
    if not shared:
        return "none"
    return "early" if list(body).index(shared[0]) < EARLY_WORDS else "late"
