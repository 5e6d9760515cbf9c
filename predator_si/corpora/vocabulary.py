"""Did the words of the queries change? New tokens, coverage, and whether there are more of them than sampling alone brings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from predator_si.corpora.words import token_lists

DocumentFrequency = Callable[[str], int] | Mapping[str, int]


@dataclass(frozen=True)
class Vocabulary:
    """What current queries say that the reference did not.

    ``new_tokens``: ``token, count`` (distinct current queries with it), ``df`` (indexed documents with it; null when unknown), most frequent
    first. ``coverage`` is the share of current query tokens that the reference knows, ``new_rate`` = 1 - coverage, ``expected_new_rate`` the
    Good-Turing estimate of the rate among further queries of the reference itself; ``p_value`` is one-sided. All null, with ``reason``, where
    one of the logs is empty.
    """

    new_tokens: list[dict[str, Any]] = field(default_factory=list)
    known: frozenset[str] = frozenset()
    coverage: float | None = None
    new_rate: float | None = None
    expected_new_rate: float | None = None
    p_value: float | None = None
    reason: str | None = None
    error: float | None = None
    """Standard error of ``new_rate - expected_new_rate``."""
    queries: tuple[int, int] = (0, 0)
    """Distinct queries with a word in the reference and in the current log."""


def new_vocabulary(
    reference: Sequence[str], current: Sequence[str], document_frequency: DocumentFrequency | None = None, listable: Container[str] | None = None
) -> Vocabulary:
    """Compare two query logs by their words.

    All words count; where ``listable`` is given, ``new_tokens`` names only those in it (see :func:`shared_words`).

    Repeated queries count once: a replayed log would otherwise look like a known language. The expected rate is that of Good (1953), the
    share of tokens that occur in one reference query only; the difference is tested with a z-test whose standard errors are taken over
    queries, since the tokens of one query depend on each other.
    """
    old, new = _distinct(reference), _distinct(current)
    if not old or not new:
        return Vocabulary(reason="no query with a word in the " + ("reference" if not old else "current") + " window")
    in_reference = Counter(token for query in old for token in query)
    known = frozenset(in_reference)
    fresh = Counter(token for query in new for token in query if token not in known)
    new_rate, new_error = _rate([(sum(token not in known for token in query), len(query)) for query in new])
    expected, expected_error = _rate([(sum(in_reference[token] == 1 for token in query), len(query)) for query in old])
    error = math.hypot(new_error, expected_error)
    difference = new_rate - expected
    p_value = 0.5 * math.erfc(difference / error / math.sqrt(2)) if error > 0 else (0.0 if difference > 0 else 1.0)
    ordered = sorted(((token, count) for token, count in fresh.items() if listable is None or token in listable), key=lambda item: (-item[1], item[0]))
    found = [{"token": token, "count": count, "df": frequency(document_frequency, token)} for token, count in ordered]
    return Vocabulary(found, known, 1.0 - new_rate, new_rate, expected, p_value, error=error, queries=(len(old), len(new)))


def shared_words(texts: Sequence[str | None], askers: Sequence[str], least: int) -> frozenset[str]:
    """Words that so many different askers used: what of people's queries may be listed (k-anonymity; Sweeney 2002, with ``least`` as k).

    Parameters
    ----------
    texts
        Queries; null is a text that cannot be read any more.
    askers
        Who asked each: a client, or the request itself where no client is known.
    """
    there = [(text, asker) for text, asker in zip(texts, askers, strict=True) if text]
    who: dict[str, set[str]] = {}
    for words, (_, asker) in zip(token_lists([text for text, _ in there]), there, strict=True):
        for word in set(words):
            who.setdefault(word, set()).add(asker)
    return frozenset(word for word, people in who.items() if len(people) >= least)


def frequency(table: DocumentFrequency | None, token: str) -> int | None:
    """In how many indexed documents the token occurs; null when there is no table."""
    if table is None:
        return None
    return int(table.get(token, 0)) if isinstance(table, Mapping) else int(table(token))


def _distinct(queries: Sequence[str]) -> list[tuple[str, ...]]:
    return sorted({tuple(sorted(set(words))) for words in token_lists(queries) if words})


def _rate(pairs: list[tuple[int, int]]) -> tuple[float, float]:
    """Ratio of sums and its standard error by linearisation (Cochran 1977, section 6.4)."""
    n, total = len(pairs), sum(size for _, size in pairs)
    ratio = sum(hits for hits, _ in pairs) / total
    residual = sum((hits - ratio * size) ** 2 for hits, size in pairs)
    return ratio, math.sqrt(residual * n / max(n - 1, 1)) / total
