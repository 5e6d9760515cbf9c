"""Queries from a document alone: its title, its first telling heading, its salient phrases. No stop lists: common words are common by count."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from predator_si.corpora.words import token_lists, tokens

_SEGMENT = re.compile(r"[.,;:!?()\[\]{}<>\"'`|=\n\r\t/\\]+|\s-\s|--+")
_UNDERLINED = re.compile(r"^[^\w\s]{3,}$")
_MARKED = re.compile(r"^#{1,6}\s+(.+?)\s*#*$")
COMMON_SHARE = 0.1
"""A word in more than a tenth of the documents carries no topic and may not begin or end a phrase."""


class Corpus:
    """Word statistics of the documents that queries are generated from."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.documents = len(texts)
        self.df: Counter[str] = Counter()
        for words in token_lists(texts):
            self.df.update(set(words))

    def idf(self, word: str) -> float:
        """``ln(1 + (N - df + .5) / (df + .5))``, the weight of BM25 (Robertson and Zaragoza 2009): never negative.

        Words rarer than one document in a thousand weigh no more than those: hardly anybody asks with a word that only one document knows, and such a
        query teaches nothing.
        """
        count = max(self.df.get(word, 0), self.documents / 1000)
        return math.log(1.0 + (self.documents - count + 0.5) / (count + 0.5))

    def telling(self, word: str) -> bool:
        """Whether a word can begin or end a phrase: not common, longer than one character, with a letter."""
        rare = self.documents < 20 or self.df.get(word, 0) <= COMMON_SHARE * self.documents
        return rare and len(word) > 1 and any(character.isalpha() for character in word)


def name_words(title: str) -> list[str]:
    """The words of a title or qualified name: split at punctuation, underscores and changes from small to capital letters."""
    pieces = []
    for run in re.findall(r"[^\W_]+", title):
        start = 0
        for at in range(1, len(run)):
            lower_upper = run[at].isupper() and not run[at - 1].isupper()
            acronym_end = at + 1 < len(run) and run[at].isupper() and run[at - 1].isupper() and run[at + 1].islower()
            if lower_upper or acronym_end:
                pieces.append(run[start:at])
                start = at
        pieces.append(run[start:])
    return [piece.casefold() for piece in pieces]


def headings(text: str) -> list[str]:
    """Lines that are underlined by punctuation, or marked by ``#``, in order."""
    lines = text.splitlines()
    found = []
    for index, line in enumerate(lines):
        marked = _MARKED.match(line.strip())
        if marked:
            found.append(marked[1])
        elif index + 1 < len(lines) and re.search(r"\w", line) and _UNDERLINED.match(lines[index + 1].strip()):
            found.append(line.strip())
    return found


def salient_phrases(text: str, corpus: Corpus, limit: int = 5, diversity: float = 0.5) -> list[str]:
    """The ``limit`` most telling phrases of one to three words, best first, chosen to differ.

    A phrase scores term frequency (log) x mean idf x position (earlier is better) x length (longer is more specific), the features of YAKE
    (Campos et al. 2020) and c-TF-IDF; the choice is by maximal marginal relevance (Carbonell and Goldstein 1998) with the share of common words as similarity.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    first: dict[tuple[str, ...], int] = {}
    position = 0
    for words in token_lists([segment for segment in _SEGMENT.split(text) if segment.strip()]):
        for at, word in enumerate(words):
            if corpus.telling(word):
                for size in (1, 2, 3):
                    phrase = tuple(words[at : at + size])
                    if len(phrase) == size and corpus.telling(phrase[-1]) and len(set(phrase)) == size:
                        counts[phrase] += 1
                        first.setdefault(phrase, position + at)
        position += len(words)
    if not counts:
        return []
    length = {1: 1.0, 2: 1.4, 3: 1.6}
    score = {
        phrase: (1.0 + math.log(count)) * float(np.mean([corpus.idf(word) for word in phrase])) * length[len(phrase)] / (1.0 + first[phrase] / max(position, 1))
        for phrase, count in counts.items()
    }
    pool = sorted(score, key=lambda phrase: (-score[phrase], phrase))[: 10 * limit]
    top, chosen = score[pool[0]], list[tuple[str, ...]]()
    while pool and len(chosen) < limit:
        best = max(pool, key=lambda phrase: score[phrase] / top - diversity * max((_overlap(phrase, other) for other in chosen), default=0.0))
        chosen.append(best)
        pool.remove(best)
    return [" ".join(phrase) for phrase in chosen]


def document_queries(title: str, text: str, corpus: Corpus, rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """(query, source, method) from one document, most reliable first; fewer where it has no heading or no telling phrase.

    Structure before salient spans: titles and headings trained rerankers best among the label-free sources (MacAvaney et al. 2019; AugTriever).
    """
    phrases = salient_phrases(text, corpus)
    named = name_words(title)
    telling = [word for word in dict.fromkeys(named) if corpus.telling(word) or word in named[-2:]]
    # The outer names of a qualified name are shared by hundreds of documents: its last ones say what this one is about. A sentence is taken from its start.
    telling = telling[:8] if len(title.split()) > 1 else telling[-6:]
    proposals: list[tuple[str, str, str]] = []
    if telling and phrases:
        novel = next((phrase for phrase in phrases if set(phrase.split()) - set(telling)), phrases[0])
        proposals.append((_joined([*telling, *novel.split()]), "title", "title"))
    for heading in headings(text):
        if sum(corpus.telling(word) for word in tokens(heading)) >= 2:
            proposals.append((_joined([*tokens(heading), *telling[-2:]]), "title", "heading"))
            break
    if len(phrases) >= 2:
        words = _joined(" ".join(phrases[:3]).split()).split()
        proposals.append((" ".join(_drop_terms(words, rng)), "phrase", "phrase"))
    return proposals


def _drop_terms(words: list[str], rng: np.random.Generator) -> list[str]:
    """Leave out 10 to 30% of the words, as people do; at least three stay."""
    drop = min(round(len(words) * rng.uniform(0.1, 0.3)), max(len(words) - 3, 0))
    keep = np.sort(rng.choice(len(words), len(words) - drop, replace=False))
    return [words[index] for index in keep]


def _joined(words: Sequence[str]) -> str:
    return " ".join(dict.fromkeys(words))


def _overlap(one: tuple[str, ...], other: tuple[str, ...]) -> float:
    return len(set(one) & set(other)) / min(len(one), len(other))
