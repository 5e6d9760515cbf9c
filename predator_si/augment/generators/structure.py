"""Queries from what a document's author wrote above its text: its title, its headings, and questions that the text answers.

What belongs here: reading structure, in any script. What must not: choosing phrases by weight (``phrases``), looking at the log.

Structure before salient spans: titles and headings trained rerankers best among the label-free sources (MacAvaney et al. 2019, arXiv 1707.00189; AugTriever).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from predator_si.augment.generators.phrases import salient_phrases
from predator_si.augment.generators.seeds import Seeds, in_turn, seeds_of
from predator_si.augment.generators.terms import Terms, distinct, joined, one_line, segment_lists, term_lists, unspaced_script
from predator_si.augment.material import Material
from predator_si.augment.recipe import Proposal

_UNDERLINED = re.compile(r"^[^\w\s]{3,}$")
_MARKED = re.compile(r"^(?:#{1,6}|={2,6})\s+(.+?)\s*[#=]*$")
_SENTENCE_BEFORE = re.compile(r"[.!]\s+\S|[。！।։။]\s*\S")
_QUESTION_TERMS = (3, 40)
_TITLE_TERMS, _NAME_TERMS, _TITLE_CHARACTERS = 8, 6, 16


class Structure:
    """Questions first (they are what people ask), then titles with a phrase of the text, then headings."""

    source = "title"

    def propose(self, material: Material, wanted: int, rng: np.random.Generator) -> Iterator[Proposal]:
        """See ``material.Generator``."""
        seeds = seeds_of(material)
        yield from in_turn(self._documents(seeds, seeds.per_document(wanted), rng), wanted)

    def _documents(self, seeds: Seeds, most: int, rng: np.random.Generator) -> Iterator[list[Proposal]]:
        for places in seeds.batches(rng):
            titles, texts = seeds.read(places)
            for place, title, text, segments in zip(places.tolist(), titles, texts, segment_lists(texts), strict=True):
                found = structure_queries(title, text, segments, seeds)[:most]
                yield [Proposal(query, seeds.doc_ids[place], self.source, method, 1.0, bool(seeds.targeted[place])) for query, method in found]


def structure_queries(title: str, text: str, segments: list[list[str]], seeds: Seeds) -> list[tuple[str, str]]:
    """(query, method) from one document, most reliable first, each query once; none where it has no title, heading or question."""
    terms = seeds.terms
    found: list[tuple[str, str]] = [(question, "question") for question in questions(title, text)]
    telling = title_terms(title, terms)
    if telling and not is_question(title):
        phrases = salient_phrases(segments, terms, aimed=seeds.words)
        novel = next((phrase for phrase in phrases if set(phrase) - set(telling)), phrases[0] if phrases else ())
        if novel:
            said = set() if unspaced_script(novel[0]) else set(telling)
            found.append((f"{joined(telling)} {joined(word for word in novel if word not in said)}".strip(), "title"))
    for heading in headings(text):
        words = term_lists([heading])[0]
        if not is_question(heading) and sum(terms.telling(word) for word in words) >= 2:
            found.append((joined(distinct([*words, *telling[-2:]])), "heading"))
            break
    return list({query: (query, method) for query, method in reversed(found)}.values())[::-1]


def questions(title: str, text: str) -> list[str]:
    """Questions that the text answers, as they were written: a title, a heading or a line of its own that is one, with text after it."""
    found = [one_line(title)] if is_question(title) and text.strip() else []
    lines = [line.strip() for line in text.splitlines()]
    for at, line in enumerate(lines):
        bare = _MARKED.match(line)
        asked = bare[1] if bare else line
        if is_question(asked):
            after = next((other for other in lines[at + 1 :] if re.search(r"\w", other)), "")
            if after and not is_question(after):
                found.append(one_line(asked))
    return list(dict.fromkeys(found))


def is_question(text: str) -> bool:
    """Whether a line is one question: it ends with a question mark of any script (and perhaps closing marks), has no sentence before, and 3 to 40 words.

    Words that begin questions are not looked at: they differ from language to language. Languages without a question mark give no questions.
    """
    line = one_line(text)
    while line and not line[-1].isalnum() and not question_mark(line[-1]):
        line = line[:-1]
    if not line or not question_mark(line[-1]) or _SENTENCE_BEFORE.search(line):
        return False
    low, high = _QUESTION_TERMS
    return low <= len(term_lists([line])[0]) <= high


@lru_cache(maxsize=10_000)
def question_mark(character: str) -> bool:
    """Whether a character ends a question in some script: Unicode calls it a question mark. An inverted one begins a question."""
    name = unicodedata.name(character, "")
    return "QUESTION MARK" in name and "INVERTED" not in name and unicodedata.category(character) == "Po"


def title_terms(title: str, terms: Terms) -> list[str]:
    """The terms of a title that say what this document is about.

    The outer names of a qualified name are shared by hundreds of documents: its last ones are taken. A sentence is taken from its start, and one of a script
    without spaces as it is: its single characters say little.
    """
    named = name_words(title)
    if any(unspaced_script(term) for term in named):
        return named[:_TITLE_CHARACTERS]
    telling = [word for word in dict.fromkeys(named) if terms.telling(word) or word in named[-2:]]
    return telling[:_TITLE_TERMS] if len(title.split()) > 1 else telling[-_NAME_TERMS:]


def name_words(title: str) -> list[str]:
    """The words of a title or qualified name: split at punctuation, underscores and changes from small to capital letters."""
    pieces = []
    for run in "".join(character if character.isalnum() or unicodedata.category(character)[0] == "M" else " " for character in title).split():
        start = 0
        for at in range(1, len(run)):
            lower_upper = run[at].isupper() and not run[at - 1].isupper()
            acronym_end = at + 1 < len(run) and run[at].isupper() and run[at - 1].isupper() and run[at + 1].islower()
            if lower_upper or acronym_end:
                pieces.append(run[start:at])
                start = at
        pieces.append(run[start:])
    return [term for terms in term_lists(pieces) for term in terms]


def headings(text: str) -> list[str]:
    """Lines that are underlined by punctuation, or marked by ``#`` or ``=``, in order."""
    lines = text.splitlines()
    found = []
    for index, line in enumerate(lines):
        marked = _MARKED.match(line.strip())
        if marked:
            found.append(marked[1])
        elif index + 1 < len(lines) and re.search(r"\w", line) and _UNDERLINED.match(lines[index + 1].strip()):
            found.append(line.strip())
    return found
