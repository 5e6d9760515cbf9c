"""Which words of a query decide between the right document and the wrong one above it: leave one word out and score again.

What belongs here: the margin of single queries with and without each word, and its mean over queries. What must not: loading a model, choosing what to train.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from predator_si.corpora.vocabulary import DocumentFrequency, frequency
from predator_si.corpora.words import tokens
from predator_si.diagnose.budget import Budget, cut_reason
from predator_si.errors import BadInput
from predator_si.statistics import bootstrap_mean_interval

Score = Callable[[str, Sequence[str]], npt.NDArray[Any]]
MAX_WORDS = 14
"""So many words of a query are left out one at a time: with the whole query at most 15 forward passes of its two documents."""
_PAIR = 2
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class MarginPair:
    """A query whose relevant document is not first: ``gold`` is its text, ``above`` that of the highest document over it which is not relevant."""

    query_id: str
    query: str
    gold: str
    above: str


@dataclass(frozen=True)
class Occlusion:
    """What leaving words out did.

    ``queries``: per query ``query_id, query, margin`` (score of the relevant document minus the wrong one's, logits) and ``words`` [{``word, effect``}].
    ``effect`` = margin with the word - margin without: above 0 the word helps the right document, below 0 it speaks for the wrong one.
    ``words``: per distinct word ``word, n`` (queries), ``mean`` effect, ``ci_low, ci_high`` (95%, null below two queries), worst first. ``groups``: the same
    for known and unindexed words and words with digits. ``reason``: what was cut short.
    """

    queries: list[dict[str, Any]]
    words: list[dict[str, Any]]
    groups: list[dict[str, Any]] = field(default_factory=list)
    forwards: int = 0
    reason: str | None = None


def occlude_margins(
    pairs: Sequence[MarginPair],
    score: Score,
    budget: Budget,
    *,
    max_queries: int = 50,
    share: float = 1.0,
    document_frequency: DocumentFrequency | None = None,
    seed: int = 0,
) -> Occlusion:
    """Leave each word of each query out and see how the margin between its two documents moves (Zeiler and Fergus 2014; Li et al. 2016, arXiv 1612.08220).

    Parameters
    ----------
    pairs
        Worst first: the budget takes them in this order.
    score
        Query, texts -> logits of shape ``(len(texts),)``; ``Reranker.score`` fits.
    budget
        Shared; a pair scored is one forward.
    share
        Of the whole budget that may be used up when this method ends.
    document_frequency
        Of a query with more than 14 words the rarest in the index are left out; without it the longest. Also tells the unindexed words.

    Raises
    ------
    BadInput
        The scores are not as many as the texts, or not finite.
    """
    queries: list[dict[str, Any]] = []
    forwards = 0
    planned = min(len(pairs), max_queries)
    slowest = 0.0
    for pair in pairs[:planned]:
        spans = _spans(pair.query, document_frequency)
        cost = _PAIR * (len(spans) + 1)
        if not budget.allows(cost, slowest, share):
            break
        begun = budget.spent_seconds
        margin = _margin(score, pair.query, pair)
        rows = []
        for start, end in spans:
            without = " ".join((pair.query[:start] + " " + pair.query[end:]).split())
            rows.append({"word": _folded(pair.query[start:end]), "effect": margin - _margin(score, without, pair)})
        budget.spend(cost)
        forwards += cost
        slowest = max(slowest, budget.spent_seconds - begun)
        queries.append({"query_id": pair.query_id, "query": pair.query, "margin": margin, "words": rows})
    return Occlusion(
        queries=queries,
        words=_aggregate([(row["word"], row["effect"]) for entry in queries for row in _once(entry["words"])], seed),
        groups=_aggregate([(kind, effect) for entry in queries for kind, effect in _by_kind(entry["words"], document_frequency)], seed),
        forwards=forwards,
        reason=cut_reason("queries", len(queries), planned, budget),
    )


def _spans(query: str, table: DocumentFrequency | None) -> list[tuple[int, int]]:
    """Where the words stand that are left out, in the query's order."""
    spans = [match.span() for match in _WORD.finditer(query)]
    if len(spans) <= MAX_WORDS:
        return spans

    def rarity(span: tuple[int, int]) -> tuple[float, int]:
        word = query[slice(*span)]
        return (float(frequency(table, _folded(word)) or 0) if table is not None else -float(len(word)), span[0])

    return sorted(sorted(spans, key=rarity)[:MAX_WORDS])


def _margin(score: Score, query: str, pair: MarginPair) -> float:
    scores = np.asarray(score(query, [pair.gold, pair.above]), dtype=np.float64).reshape(-1)
    if scores.shape != (_PAIR,) or not np.isfinite(scores).all():
        raise BadInput(f"{pair.query_id}: two finite scores were expected of the model, it gave {scores.tolist()}. Do not serve this model.")
    return float(scores[0] - scores[1])


def _folded(word: str) -> str:
    found = tokens(word)
    return found[0] if found else word


def _once(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A word that stands twice in a query counts once for it, with its mean effect."""
    effects: dict[str, list[float]] = {}
    for row in rows:
        effects.setdefault(row["word"], []).append(row["effect"])
    return [{"word": word, "effect": float(np.mean(values))} for word, values in effects.items()]


def _by_kind(rows: Sequence[dict[str, Any]], table: DocumentFrequency | None) -> list[tuple[str, float]]:
    """One mean effect a query for each kind of word in it."""
    kinds: dict[str, list[float]] = {}
    for row in rows:
        names = ["with digits"] if any(character.isdigit() for character in row["word"]) else []
        if table is not None:
            names.append("indexed words" if frequency(table, row["word"]) else "unindexed words")
        for name in names:
            kinds.setdefault(name, []).append(row["effect"])
    return [(name, float(np.mean(values))) for name, values in sorted(kinds.items())]


def _aggregate(effects: Sequence[tuple[str, float]], seed: int) -> list[dict[str, Any]]:
    by_word: dict[str, list[float]] = {}
    for word, effect in effects:
        by_word.setdefault(word, []).append(effect)
    rows = []
    for word, values in by_word.items():
        interval = bootstrap_mean_interval(values, seed=seed, n_boot=2_000) if len(values) > 1 else None
        low, high = (interval.low, interval.high) if interval is not None else (None, None)
        rows.append({"word": word, "n": len(values), "mean": float(np.mean(values)), "ci_low": low, "ci_high": high})
    return sorted(rows, key=lambda row: (row["mean"] * np.sqrt(row["n"]), row["word"]))
