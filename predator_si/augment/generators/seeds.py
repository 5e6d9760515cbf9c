"""Which documents queries are made from: those of the weak slices and words first, within a cap, spread over the topics, never those of the evaluation.

What belongs here: choosing and reading documents. What must not: making queries (the generators), filters of queries.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.augment.generators.terms import READ, Terms, keeps, term_lists
from predator_si.augment.material import Material
from predator_si.augment.minhash import NearDuplicates, word_shingles
from predator_si.augment.recipe import Filters, Proposal, Sizes
from predator_si.errors import BadInput
from predator_si.records import DiagnosticReport

Places = npt.NDArray[np.int64]
BATCH = 256
"""Documents read at once."""
_MOST_TOPICS = 64
_MOST_PER_DOCUMENT = 3
_UNKNOWN, _FREE, _TAKEN = -1, 0, 1


def target_tokens(report: DiagnosticReport) -> list[str]:
    """Words to aim at: those of the report's ``augment`` action, else its weak words, most important first.

    Where the report confirmed its findings on the other half of the probes (``targets_reproduced``), only the action's own words: there may be none.
    """
    actions = [action for action in report.recommended_actions if action.get("type") == "augment"]
    wanted = [token for action in actions for token in action.get("target_tokens", [])]
    confirmed = any(action.get("targets_reproduced") for action in actions)
    return list(dict.fromkeys(wanted if wanted or confirmed else list(report.xai_insights.importance_scores)))


def target_categories(report: DiagnosticReport) -> set[str]:
    """Categories and parts to aim at: the affected ones, or only those that the report confirmed on the other half of the probes."""
    confirmed = [action for action in report.recommended_actions if action.get("type") == "augment" and action.get("targets_reproduced")]
    return {category for action in confirmed for category in action["target"]} if confirmed else set(report.root_cause_analysis.affected_categories)


class Seeds:
    """The documents of a material as generators see them: their terms, which are aimed at, which may not be touched, in which order they come.

    A document is targeted when its category or part is a target of the report, or one of the report's words is in its text (words in more than a tenth of
    all documents do not count). A document of the guard, or with nearly the text of one, gives no query.

    Parameters
    ----------
    same_text
        Jaccard similarity of word triples from which two documents have nearly the same text.
    targeted_share
        At most this share of the documents at any point of an order is targeted, as long as there are others: the rest keeps what the model knows.
    """

    def __init__(self, material: Material, *, same_text: float = Filters().same_text_similarity, targeted_share: float = Sizes().targeted_share) -> None:
        self._frame, self._share = material.documents, targeted_share
        self.doc_ids: list[str] = material.documents["doc_id"].to_list()
        every = [np.arange(start, min(start + BATCH, len(self.doc_ids))) for start in range(0, len(self.doc_ids), BATCH)]
        self.terms = Terms(f"{title} {text}" for places in every for title, text in zip(*self.read(places), strict=True))
        self.words = frozenset(
            word for token in target_tokens(material.report) for word in term_lists([token])[0] if self.terms.df.get(word) and self.terms.telling(word)
        )
        affected = target_categories(material.report)
        parts = material.documents["part"].to_list() if "part" in material.documents.columns else [None] * len(self.doc_ids)
        self._groups = [material.categories.get(doc_id) or part or "" for doc_id, part in zip(self.doc_ids, parts, strict=True)]
        named = [material.categories.get(doc_id) in affected or part in affected for doc_id, part in zip(self.doc_ids, parts, strict=True)]
        self.targeted = np.array(named, dtype=bool)
        if self.words:
            for places in every:
                titles, texts = self.read(places)
                said = term_lists([f"{title} {text}" for title, text in zip(titles, texts, strict=True)])
                self.targeted[places] |= np.array([not self.words.isdisjoint(terms) for terms in said], dtype=bool)
        self.guarded = np.array([doc_id in material.guard.eval_doc_ids for doc_id in self.doc_ids], dtype=bool)
        self._state = np.where(self.guarded, _TAKEN, _UNKNOWN)
        self._guard = NearDuplicates(same_text)
        for places in np.array_split(np.flatnonzero(self.guarded), max(1, math.ceil(self.guarded.sum() / BATCH))):
            self._guard.add_all(word_shingles(self.read(places)[1]))
        self._indexed = frozenset(material.index.doc_ids)
        self._topics = self._clustered(material)

    def read(self, places: Places | Sequence[int]) -> tuple[list[str], list[str]]:
        """Titles and the beginnings of the texts of the documents at these places; null is empty."""
        rows = self._frame[np.asarray(places, dtype=np.int64)].select(pl.col("title").fill_null(""), pl.col("text").fill_null("").str.slice(0, READ + 1))
        return rows["title"].to_list(), [keeps(text) for text in rows["text"].to_list()]

    def vectors(self, material: Material, places: Places) -> npt.NDArray[np.float32]:
        """Unit vectors of these documents: the index's own where it has them all, else of the beginnings of their texts.

        Raises
        ------
        BadInput
            The material has no embedder.
        """
        ids = [self.doc_ids[place] for place in places.tolist()]
        if material.vectors is not None and self._indexed.issuperset(ids):
            return material.vectors(ids)
        if material.embed is None:
            raise BadInput("documents cannot be embedded: the material has neither vectors nor an embedder. Pass Material(embed=...).")
        return np.asarray(material.embed([f"{title}\n{text}" if title else text for title, text in zip(*self.read(places), strict=True)]), dtype=np.float32)

    def per_document(self, wanted: int) -> int:
        """How many queries to ask of each document, 1 to 3, so that ``wanted`` come together."""
        free = int((~self.guarded).sum())
        return max(1, min(_MOST_PER_DOCUMENT, math.ceil(wanted / max(free, 1))))

    def batches(self, rng: np.random.Generator) -> Iterator[Places]:
        """Places of all documents that may be used, targeted and others in turn, each spread over the topics; a new order for each ``rng``."""
        order = self._order(rng)
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            yield places[~self._twins(places)]

    def counts(self) -> dict[str, int]:
        """How the documents stand: for the manifest. Near copies of evaluation documents are counted among those looked at."""
        twins = (self._state == _TAKEN) & ~self.guarded
        return {
            "documents": len(self.doc_ids),
            "targeted_documents": int(self.targeted.sum()),
            "evaluation_documents_left_out": int(self.guarded.sum()),
            "near_evaluation_documents_left_out": int(twins.sum()),
            "seed_documents": int((self._state == _FREE).sum()),
            "targeted_seed_documents": int((self.targeted & (self._state == _FREE)).sum()),
        }

    def _twins(self, places: Places) -> npt.NDArray[np.bool_]:
        fresh = places[self._state[places] == _UNKNOWN]
        if len(fresh):
            self._state[fresh] = np.where(self._guard.similar(word_shingles(self.read(fresh)[1])), _TAKEN, _FREE)
        return np.asarray(self._state[places] == _TAKEN)

    def _order(self, rng: np.random.Generator) -> Places:
        free = ~self.guarded
        aimed, others = (self._spread(np.flatnonzero(mask & free), rng) for mask in (self.targeted, ~self.targeted))
        if not 0.0 < self._share < 1.0:
            return np.concatenate([aimed, others]) if self._share else np.concatenate([others, aimed])
        # When the nth other document comes, share / (1 - share) * n targeted ones have come.
        rank = np.concatenate([np.arange(1, len(aimed) + 1) / self._share, np.arange(1, len(others) + 1) / (1.0 - self._share)])
        return np.concatenate([aimed, others])[np.lexsort((np.arange(len(rank)), rank))]

    def _spread(self, places: Places, rng: np.random.Generator) -> Places:
        """In random order, the topics taking turns."""
        shuffled = rng.permutation(places)
        seen: Counter[int] = Counter()
        turn = np.empty(len(shuffled), dtype=np.int64)
        for at, topic in enumerate(self._topics[shuffled].tolist()):
            turn[at] = seen[topic]
            seen[topic] += 1
        return np.asarray(shuffled[np.argsort(turn, kind="stable")])

    def _clustered(self, material: Material) -> Places:
        """A topic for each document: k-means over the index's vectors (k about ``sqrt(n / 2)``; Mardia et al. 1979), else the category."""
        topics = min(_MOST_TOPICS, round(math.sqrt(len(self.doc_ids) / 2)))
        places = np.array([place for place, doc_id in enumerate(self.doc_ids) if doc_id in self._indexed], dtype=np.int64)
        if material.vectors is None or topics < 2 or len(places) < len(self.doc_ids) / 2:
            names = {name: number for number, name in enumerate(dict.fromkeys(self._groups))}
            return np.array([names[name] for name in self._groups], dtype=np.int64)
        from sklearn.cluster import MiniBatchKMeans

        found = np.full(len(self.doc_ids), topics, dtype=np.int64)
        found[places] = MiniBatchKMeans(topics, n_init=1, random_state=0).fit_predict(material.vectors([self.doc_ids[place] for place in places.tolist()]))
        return found


def in_turn(documents: Iterable[list[Proposal]], wanted: int) -> Iterator[Proposal]:
    """The first proposal of each document, then the second of each, and so on, at most ``wanted``: many documents before many queries of one.

    Documents are looked at one by one, as proposals are asked for; only the later proposals are kept, and no more than may still be wanted.
    """
    made = 0
    kept: list[list[Proposal]] = []
    if wanted <= 0:
        return
    for proposals in documents:
        for place, proposal in enumerate(proposals):
            if place == 0:
                yield proposal
                made += 1
                if made >= wanted:
                    return
            else:
                while len(kept) < place:
                    kept.append([])
                if sum(map(len, kept[:place])) + made < wanted:
                    kept[place - 1].append(proposal)
    for proposals in kept:
        for proposal in proposals[: wanted - made]:
            yield proposal
            made += 1


_KNOWN: WeakKeyDictionary[Material, Seeds] = WeakKeyDictionary()


def seeds_of(material: Material) -> Seeds:
    """The seeds of a material, worked out once for as long as the material lives: all generators share them."""
    found = _KNOWN.get(material)
    if found is None:
        found = _KNOWN[material] = Seeds(material)
    return found
