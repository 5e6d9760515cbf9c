"""What a stream of proposals must survive before anything costly is done with it, batch by batch.

What belongs here: filters that need one batch and what was kept before it. What must not: filters that need the whole pool (``selection``) or the teacher
(``filters``).

The order is that of their worth for the reranker: first whether the query leads back to its document, then duplicates and leaks, then the wording.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from predator_si.augment.filters import Yield, longest_common_run
from predator_si.augment.language import Languages, main_scripts
from predator_si.augment.leaks import Leaks
from predator_si.augment.material import Material
from predator_si.augment.minhash import NearDuplicates, character_shingles
from predator_si.augment.negatives import NegativeMiner
from predator_si.augment.recipe import ASKED, Filters, Proposal
from predator_si.corpora.words import token_lists
from predator_si.privacy import redact

_SAMPLE = 2_000
"""Documents whose letters stand for the corpus."""
_MAY_COPY = ASKED | {"crop"}
_REMEMBERED = 4_096
"""Documents whose words are kept at hand: several queries come from one."""
Vectors = npt.NDArray[np.float32]


class Sieve:
    """Filters with a memory: what was kept makes later proposals duplicates.

    Parameters
    ----------
    miner
        Fills the negatives of what it is given, and tells at which rank the first stage finds the document.
    """

    def __init__(self, material: Material, filters: Filters, miner: NegativeMiner, tally: Yield) -> None:
        documents = material.documents
        self._material = material
        self._filters = filters
        self._miner = miner
        self._tally = tally
        self._known = set(material.index.doc_ids)
        self._bodies = dict(zip(documents["doc_id"].to_list(), range(documents.height), strict=True))
        self._texts = documents["text"].fill_null("")
        guarded = documents.filter(documents["doc_id"].is_in(list(material.guard.eval_doc_ids)))["text"].fill_null("")
        self.leaks = Leaks(material.guard, guarded.to_list(), filters, material.embed)
        sample = documents["text"].fill_null("").gather_every(max(1, documents.height // _SAMPLE)).to_list()
        self._languages = Languages(sample, material.log["text"].to_list() if material.log.height else [])
        self._duplicates = NearDuplicates(filters.duplicate_similarity)
        self._kept: Vectors = np.empty((0, 0), np.float32)
        self._count = 0
        self._words: dict[str, tuple[list[str], frozenset[str], frozenset[str]]] = {}

    def passed(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """Those of a batch that survive, their negatives mined; what is left after each step is counted.

        A query is a duplicate of what is kept: one that falls for another reason makes nothing a duplicate.
        """
        left = list(proposals)
        self._tally.count("proposed", left)
        left = self._step("indexed", left, [not p.doc_id or p.doc_id in self._known for p in left])
        self._miner.mine(left)
        left = self._step("round_trip", left, [self._found_again(p) for p in left])
        words = token_lists([p.query for p in left])
        vectors = self._material.embed([p.query for p in left]) if self._material.embed is not None and left else None
        low, high = self._filters.words
        alone = {
            "leakage": self.leaks.passed(left, [self._body(p.doc_id) for p in left], vectors),
            "length": [low <= len(own) <= high for own in words],
            "copy": [not self._copied(p, own) for p, own in zip(left, words, strict=True)],
            "language": [not self._foreign(p, own) for p, own in zip(left, words, strict=True)],
            "personal": [redact(p.query) == p.query for p in left],
        }
        clean = [all(name in self._filters.off or good[at] for name, good in alone.items()) for at in range(len(left))]
        fresh = self._fresh_by_letters(left, clean)
        new = self._fresh_by_meaning(vectors, [c and f for c, f in zip(clean, fresh, strict=True)])
        steps = {"near_duplicate": fresh, "embedding_duplicate": new, **alone}
        places = list(range(len(left)))
        for name, good in steps.items():
            places = [at for at in places if good[at] or name in self._filters.off]
            self._tally.count(name, [left[at] for at in places])
        return [left[at] for at in places]

    def _step(self, name: str, proposals: Sequence[Proposal], passed: Sequence[bool]) -> list[Proposal]:
        left = [p for p, good in zip(proposals, passed, strict=True) if good or name in self._filters.off]
        self._tally.count(name, left)
        return left

    def _found_again(self, proposal: Proposal) -> bool:
        """Round trip (Promptagator, arXiv 2209.11755): the first stage must find the document from the query. What people were served passes."""
        limit = self._filters.round_trip_targeted if proposal.targeted else self._filters.round_trip
        return proposal.source in ASKED or 0 < proposal.first_rank <= limit

    def _fresh_by_letters(self, proposals: Sequence[Proposal], clean: Sequence[bool]) -> list[bool]:
        """Of clean queries that resemble each other the first stays; sources come in the order of their worth."""
        if "near_duplicate" in self._filters.off:
            return [True] * len(proposals)
        chosen = [at for at, good in enumerate(clean) if good]
        fresh = self._duplicates.add_unless_similar(character_shingles([proposals[at].query for at in chosen]))
        old = {at for at, new in zip(chosen, fresh, strict=True) if not new}
        return [at not in old for at in range(len(proposals))]

    def _fresh_by_meaning(self, vectors: Vectors | None, clean: Sequence[bool]) -> list[bool]:
        """Of clean queries whose vectors nearly coincide the first stays; all do without an embedder."""
        if vectors is None or "embedding_duplicate" in self._filters.off:
            return [True] * len(clean)
        limit = self._filters.duplicate_cosine
        old = (vectors @ self._kept[: self._count].T).max(axis=1) if self._count else np.full(len(vectors), -1.0, np.float32)
        among = vectors @ vectors.T
        kept: list[int] = []
        fresh = [True] * len(clean)
        for at in np.flatnonzero(clean).tolist():
            fresh[at] = bool(old[at] < limit and (not kept or float(among[at, kept].max()) < limit))
            if fresh[at]:
                kept.append(at)
        self._remember(vectors[kept])
        return fresh

    def _remember(self, vectors: Vectors) -> None:
        """Add to a buffer that doubles: appending would copy everything each time."""
        needed = self._count + len(vectors)
        if not len(vectors):
            return
        if needed > len(self._kept):
            larger = np.empty((max(needed, 2 * len(self._kept)), vectors.shape[1]), np.float32)
            if self._count:
                larger[: self._count] = self._kept[: self._count]
            self._kept = larger
        self._kept[self._count : needed] = vectors
        self._count = needed

    def _body(self, doc_id: str) -> str:
        at = self._bodies.get(doc_id)
        return "" if at is None else str(self._texts[at])

    def _document(self, doc_id: str) -> tuple[list[str], frozenset[str], frozenset[str]]:
        """Words of the body in order, all words of the document, its main scripts."""
        if doc_id not in self._words:
            if len(self._words) >= _REMEMBERED:
                self._words.clear()
            body = self._body(doc_id)
            whole = self._material.index.text(doc_id) if doc_id in self._known else body
            ordered, every = token_lists([body, whole])
            self._words[doc_id] = (ordered, frozenset(every), main_scripts(whole))
        return self._words[doc_id]

    def _copied(self, proposal: Proposal, words: list[str]) -> bool:
        most, share = self._filters.copied_run
        if proposal.source in _MAY_COPY or len(words) <= most:
            return False
        run = longest_common_run(words, self._document(proposal.doc_id)[0])
        return run > most and run > share * len(words)

    def _foreign(self, proposal: Proposal, words: list[str]) -> bool:
        if proposal.source in ASKED:
            return False
        _, known, scripts = self._document(proposal.doc_id)
        return self._languages.foreign_share(words, known, scripts) > self._filters.foreign_words
