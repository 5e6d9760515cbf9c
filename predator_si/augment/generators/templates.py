"""Queries as people put them: real query templates of the log, with phrases of a document in their slots.

What belongs here: learning templates that nobody can be told from, filling them. What must not: the words of one client or of a few queries. A template holds
only words that are common in the log, and only when enough different queries (and clients) share it; what stood in its slots is forgotten.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from predator_si.augment.generators.phrases import Phrase, chosen_phrases
from predator_si.augment.generators.seeds import BATCH, Places, Seeds, in_turn, seeds_of
from predator_si.augment.generators.terms import Terms, joined, term_lists
from predator_si.augment.material import Material
from predator_si.augment.recipe import Proposal

LEAST_QUERIES = 3
"""A word is common, and a template is one, when so many different queries have it."""
LEAST_CLIENTS = 3
"""So many different clients, where the log knows clients (``privacy.minClients`` of the contour)."""
_COMMON_SHARE = 0.002
"""A template's word stands in at least this share of the different queries: words of one topic are slots, not templates."""
_MOST_SLOTS = 2
_MOST_WORDS = 12


@dataclass(frozen=True)
class Template:
    """A query with gaps.

    Attributes
    ----------
    words
        Its words in order; null is a slot.
    queries
        How many different queries have this form.
    slot_words
        Mean number of words that stood in a slot.
    """

    words: tuple[str | None, ...]
    queries: int
    slot_words: float

    @property
    def slots(self) -> int:
        """How many gaps."""
        return self.words.count(None)

    def telling(self, terms: Terms) -> frozenset[str]:
        """Its words that carry a topic in the documents: a document must have them to be asked for with this template."""
        return frozenset(word for word in self.words if word is not None and terms.df.get(word, 0) and terms.telling(word))

    def filled(self, phrases: Sequence[Phrase]) -> str:
        """The query with ``phrases`` in its slots, in order."""
        left = iter(phrases)
        return joined(term for word in self.words for term in ((word,) if word is not None else next(left)))


class Templates:
    """Each document's phrases in templates that fit it, more common templates more often.

    A template fits a document when each of its topical words stands in the document's text, so that "install X on linux" is not asked of a text that knows no
    linux; the more of them it has, the likelier it is taken, since it was asked about such documents.

    Parameters
    ----------
    least_queries, least_clients
        See ``LEAST_QUERIES`` and ``LEAST_CLIENTS``.
    """

    source = "template"

    def __init__(self, *, least_queries: int = LEAST_QUERIES, least_clients: int = LEAST_CLIENTS) -> None:
        self.least_queries, self.least_clients = least_queries, least_clients

    def propose(self, material: Material, wanted: int, rng: np.random.Generator) -> Iterator[Proposal]:
        """See ``material.Generator``; nothing where the log has no templates."""
        templates = log_templates(material.log, least_queries=self.least_queries, least_clients=self.least_clients)
        if not templates or wanted <= 0:
            return
        seeds = seeds_of(material)
        yield from in_turn(self._documents(material, seeds, _Bank(templates, seeds.terms), seeds.per_document(wanted), rng), wanted)

    def _documents(self, material: Material, seeds: Seeds, bank: _Bank, most: int, rng: np.random.Generator) -> Iterator[list[Proposal]]:
        for places, fitting in _fitting(seeds, bank, rng):
            phrases = chosen_phrases(material, seeds, places, 2 * _MOST_SLOTS)
            for place, templates, found in zip(places.tolist(), fitting, phrases, strict=True):
                queries = dict.fromkeys(bank.filled(templates, found, most, rng))
                yield [Proposal(query, seeds.doc_ids[place], self.source, "template", 1.0, bool(seeds.targeted[place])) for query in queries]


def log_templates(log: pl.DataFrame, *, least_queries: int = LEAST_QUERIES, least_clients: int = LEAST_CLIENTS) -> list[Template]:
    """The templates of a query log, most common first.

    Words that stand in at least ``least_queries`` different queries, in ``_COMMON_SHARE`` of them, and with ``least_clients`` different clients where the log
    has ``client_id``, are common; runs of others become slots. A template has one or two slots and at least as many common words, and is kept when at least
    ``least_queries`` different queries with different slots have it, asked by ``least_clients`` clients where those are known. A search without a client
    counts as nobody's then.
    """
    if log.is_empty() or "text" not in log.columns:
        return []
    askers = _askers(log)
    texts = list(askers)
    queries: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for text, words in zip(texts, term_lists(texts), strict=True):
        if 0 < len(words) <= _MOST_WORDS:
            queries[tuple(words)] |= askers[text]
    known = "client_id" in log.columns
    common = shared_terms(queries, least_queries, least_clients if known else 0)
    rooted: dict[tuple[str | None, ...], list[tuple[str, ...]]] = defaultdict(list)
    for query in queries:
        form = _form(query, common)
        if 0 < form.count(None) <= min(_MOST_SLOTS, len(form) - form.count(None)):
            rooted[form].append(query)
    kept = []
    for form, members in rooted.items():
        people = set().union(*(queries[member] for member in members))
        if len(members) >= least_queries and (not known or len(people) >= least_clients):
            gaps = sum(len(member) for member in members) - len(members) * (len(form) - form.count(None))
            kept.append(Template(form, len(members), gaps / (len(members) * form.count(None))))
    return sorted(kept, key=lambda template: (-template.queries, [word or "" for word in template.words]))


def shared_terms(queries: Mapping[tuple[str, ...], set[str]], least_queries: int, least_clients: int, least_share: float = _COMMON_SHARE) -> frozenset[str]:
    """Words of enough different queries (a number, and a share of all), asked by enough different clients (0: not looked at)."""
    count: Counter[str] = Counter()
    people: dict[str, set[str]] = defaultdict(set)
    for words, askers in queries.items():
        for word in set(words):
            count[word] += 1
            if least_clients:
                people[word] |= askers
    least = max(least_queries, least_share * len(queries))
    return frozenset(word for word, n in count.items() if n >= least and (not least_clients or len(people[word]) >= least_clients))


class _Bank:
    """Templates by what a document must have to be asked for with them."""

    def __init__(self, templates: Sequence[Template], terms: Terms) -> None:
        self.templates = templates
        self.needs = [template.telling(terms) for template in templates]
        self.weights = np.array([template.queries * (1 + len(need)) ** 2 for template, need in zip(templates, self.needs, strict=True)], dtype=np.float64)
        self.free = np.array([place for place, need in enumerate(self.needs) if not need], dtype=np.int64)
        self.by_word: dict[str, list[int]] = defaultdict(list)
        for place, need in enumerate(self.needs):
            for word in need:
                self.by_word[word].append(place)

    def fitting(self, said: frozenset[str]) -> Places:
        """Which templates a document with these words may be asked for with."""
        bound = sorted({place for word in said if word in self.by_word for place in self.by_word[word] if self.needs[place] <= said})
        return np.concatenate([self.free, np.array(bound, dtype=np.int64)])

    def filled(self, fitting: Places, phrases: Sequence[Phrase], count: int, rng: np.random.Generator) -> Iterator[str]:
        """At most ``count`` of these templates with a document's phrases in their slots, drawn by weight."""
        weights = self.weights[fitting]
        made = 0
        for place in fitting[rng.choice(len(fitting), len(fitting), replace=False, p=weights / weights.sum())].tolist():
            if made == count:
                return
            template = self.templates[place]
            taken = {word for word in template.words if word is not None}
            fitted = sorted((p for p in phrases if taken.isdisjoint(p)), key=lambda phrase: abs(len(phrase) - template.slot_words))
            if len(fitted) >= template.slots:
                yield template.filled(fitted[: template.slots])
                made += 1


def _fitting(seeds: Seeds, bank: _Bank, rng: np.random.Generator) -> Iterator[tuple[Places, list[Places]]]:
    """Batches of the documents that some template fits, each with its templates: phrases, which cost most, are looked for in no others."""
    kept: list[tuple[int, Places]] = []
    for places in seeds.batches(rng):
        titles, texts = seeds.read(places)
        for place, words in zip(places.tolist(), term_lists([f"{title} {text}" for title, text in zip(titles, texts, strict=True)]), strict=True):
            templates = bank.fitting(frozenset(words))
            if len(templates):
                kept.append((place, templates))
        while len(kept) >= BATCH:
            yield np.array([place for place, _ in kept[:BATCH]], dtype=np.int64), [templates for _, templates in kept[:BATCH]]
            kept = kept[BATCH:]
    if kept:
        yield np.array([place for place, _ in kept], dtype=np.int64), [templates for _, templates in kept]


def _form(query: Sequence[str], common: frozenset[str]) -> tuple[str | None, ...]:
    form: list[str | None] = []
    for word in query:
        if word in common:
            form.append(word)
        elif not form or form[-1] is not None:
            form.append(None)
    return tuple(form)


def _askers(log: pl.DataFrame) -> dict[str, set[str]]:
    """Who asked each text; nobody is known where the log has no clients."""
    if "client_id" not in log.columns:
        return {text: set() for text in log["text"].drop_nulls().unique(maintain_order=True).to_list()}
    grouped = log.drop_nulls("text").group_by("text", maintain_order=True).agg(pl.col("client_id").drop_nulls().unique())
    return {text: set(clients) for text, clients in grouped.iter_rows()}
