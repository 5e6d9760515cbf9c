"""Queries from the phrases that say most about a text: found by count, ranked by meaning, chosen to differ.

What belongs here: phrases of a document and queries made of them. What must not: titles and headings (``structure``), the log.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from predator_si.augment.generators.seeds import Places, Seeds, in_turn, seeds_of
from predator_si.augment.generators.terms import Terms, distinct, joined, segment_lists, unspaced_script
from predator_si.augment.material import Material
from predator_si.augment.recipe import Proposal

Phrase = tuple[str, ...]
AIMED = 1.5
"""A phrase with one of the report's words scores so many times more: it is what the queries that failed ask about."""
_LENGTH = {1: 1.0, 2: 1.4, 3: 1.6}
_POOL = 12
_DIVERSITY = 0.4
_BY_COUNT = 0.3
_PHRASES = 3
_QUERY_TERMS = (2, 6)


class Phrases:
    """Keyword queries: up to three phrases of the text, nearest to its meaning and far from each other, of 2 to 6 words, with terms left out as people do.

    Candidates come from counts (see ``scored_phrases``). Where there is an embedder, each is scored by its cosine with the document, standardised, plus a
    little of its standardised count score, and chosen by maximal marginal relevance (Carbonell and Goldstein 1998) with the cosine between phrases as
    similarity, as KeyBERT does. Without one the counts decide, and the share of common words is the similarity. On documents with a known train query the
    cosine of made and real query rose from .34 and .37 (counts alone; scifact, python-docs) over .44 (both alike) to .49 (counts as a little).
    """

    source = "phrase"

    def propose(self, material: Material, wanted: int, rng: np.random.Generator) -> Iterator[Proposal]:
        """See ``material.Generator``."""
        seeds = seeds_of(material)
        yield from in_turn(self._documents(material, seeds, seeds.per_document(wanted), rng), wanted)

    def _documents(self, material: Material, seeds: Seeds, most: int, rng: np.random.Generator) -> Iterator[list[Proposal]]:
        for places in seeds.batches(rng):
            for place, phrases in zip(places.tolist(), chosen_phrases(material, seeds, places, _PHRASES * most), strict=True):
                found = _queries(phrases, most, rng)
                yield [Proposal(query, seeds.doc_ids[place], self.source, "phrase", 1.0, bool(seeds.targeted[place])) for query in found]


def chosen_phrases(material: Material, seeds: Seeds, places: Places, limit: int) -> list[list[Phrase]]:
    """The ``limit`` best phrases of each document, best first, by meaning where there is an embedder and by count elsewhere."""
    _, texts = seeds.read(places)
    scored = [_best(scored_phrases(segments, seeds.terms, seeds.words), _POOL) for segments in segment_lists(texts)]
    if material.embed is None or not any(scored):
        return [_diverse(pool, limit) for pool in scored]
    vectors = np.asarray(material.embed([joined(phrase) for pool in scored for phrase, _ in pool]), dtype=np.float32)
    documents = seeds.vectors(material, places)
    chosen, start = [], 0
    for pool, document in zip(scored, documents, strict=True):
        own = vectors[start : start + len(pool)]
        start += len(pool)
        relevance = _standard(own @ document) + _BY_COUNT * _standard(np.log([score for _, score in pool])) if pool else np.zeros(0)
        chosen.append([pool[at][0] for at in marginal_relevance(relevance, own @ own.T, limit)])
    return chosen


def marginal_relevance(relevance: npt.NDArray[np.floating], similarity: npt.NDArray[np.floating], limit: int, diversity: float = _DIVERSITY) -> list[int]:
    """Items in the order of maximal marginal relevance (Carbonell and Goldstein 1998).

    ``(1 - diversity) relevance - diversity * (largest similarity with what was chosen)``, the relevance scaled to 0..1; ties go to the first.

    Parameters
    ----------
    relevance
        Shape ``(n,)``.
    similarity
        Shape ``(n, n)``, at most 1.
    """
    if not len(relevance):
        return []
    low, high = float(relevance.min()), float(relevance.max())
    scaled = (relevance - low) / (high - low) if high > low else np.ones(len(relevance))
    chosen: list[int] = []
    nearest = np.zeros(len(scaled))
    left = np.ones(len(scaled), dtype=bool)
    while left.any() and len(chosen) < limit:
        best = int(np.argmax(np.where(left, (1.0 - diversity) * scaled - diversity * nearest, -np.inf)))
        chosen.append(best)
        left[best] = False
        nearest = np.maximum(nearest, similarity[best])
    return chosen


def scored_phrases(segments: Sequence[Sequence[str]], terms: Terms, aimed: Collection[str] = ()) -> dict[Phrase, float]:
    """Phrases of one to three words (two to four characters where a script has no spaces) with how much they tell; common words begin or end none.

    Term frequency (log) x mean idf x position (earlier is better) x length (longer is more specific): the features of YAKE (Campos et al. 2020) and of
    c-TF-IDF. A phrase with one of the words ``aimed`` at scores ``AIMED`` times more.
    """
    counts: Counter[Phrase] = Counter()
    first: dict[Phrase, int] = {}
    position = 0
    for words in segments:
        telling = [terms.telling(word) for word in words]
        for at, word in enumerate(words):
            if telling[at]:
                extra = 1 if unspaced_script(word) else 0
                for size in (1 + extra, 2 + extra, 3 + extra):
                    if at + size <= len(words) and telling[at + size - 1]:
                        phrase = tuple(words[at : at + size])
                        if extra or len(set(phrase)) == size:
                            counts[phrase] += 1
                            first.setdefault(phrase, position + at)
        position += len(words)
    return {phrase: _score(phrase, count, first[phrase] / max(position, 1), terms, aimed) for phrase, count in counts.items()}


def salient_phrases(segments: Sequence[Sequence[str]], terms: Terms, limit: int = 5, *, aimed: Collection[str] = ()) -> list[Phrase]:
    """The ``limit`` most telling phrases by count alone, best first, chosen to differ."""
    return _diverse(_best(scored_phrases(segments, terms, aimed), 10 * limit), limit)


def without_some(terms: Sequence[str], rng: np.random.Generator, least: int) -> list[str]:
    """Leave out 10 to 30% of the words, as people do; at least ``least`` stay."""
    drop = min(round(len(terms) * rng.uniform(0.1, 0.3)), max(len(terms) - least, 0))
    if not drop:
        return list(terms)
    gone = set(rng.choice(len(terms), drop, replace=False).tolist())
    return [term for at, term in enumerate(terms) if at not in gone]


def _score(phrase: Phrase, count: int, position: float, terms: Terms, aimed: Collection[str]) -> float:
    weight = sum(terms.idf(word) for word in phrase) / len(phrase)
    length = _LENGTH.get(len(phrase), _LENGTH[3])
    return (1.0 + math.log(count)) * weight * length / (1.0 + position) * (AIMED if any(word in aimed for word in phrase) else 1.0)


def _best(scored: dict[Phrase, float], limit: int) -> list[tuple[Phrase, float]]:
    return sorted(scored.items(), key=lambda item: (-item[1], item[0]))[:limit]


def _diverse(pool: Sequence[tuple[Phrase, float]], limit: int, diversity: float = _DIVERSITY) -> list[Phrase]:
    left, chosen = dict(pool), list[Phrase]()
    top = max(left.values(), default=1.0)
    while left and len(chosen) < limit:
        best = max(left, key=lambda phrase: left[phrase] / top - diversity * max((_overlap(phrase, other) for other in chosen), default=0.0))
        chosen.append(best)
        del left[best]
    return chosen


def _overlap(one: Phrase, other: Phrase) -> float:
    return len(set(one) & set(other)) / min(len(set(one)), len(set(other)))


def _standard(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    numbers = np.asarray(values, dtype=np.float64)
    spread = numbers.std()
    return np.asarray((numbers - numbers.mean()) / spread) if spread > 1e-9 else np.zeros(len(numbers))


def _queries(phrases: Sequence[Phrase], most: int, rng: np.random.Generator) -> list[str]:
    """Phrases together, best first, as many as the longest query holds; a single one serves where it has two words."""
    low, high = _QUERY_TERMS
    made: dict[str, None] = {}
    for start in range(0, _PHRASES * most, _PHRASES):
        together = phrases[start : start + _PHRASES]
        if any(unspaced_script(term) for phrase in together for term in phrase):
            made[" ".join(joined(phrase) for phrase in together[: _PHRASES - 1])] = None
            continue
        words: list[str] = []
        for phrase in together:
            more = distinct([*words, *phrase])
            words = more if len(more) <= high else words
        if len(words) >= low:
            made[joined(without_some(words, rng, _PHRASES))] = None
    return list(made)
