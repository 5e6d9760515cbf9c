"""Keeping the evaluation out of the training data: its queries, and documents relevant to them.

What belongs here: what counts as a leak. What must not: judgments, which only the caller's ``Guard`` has seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from predator_si.augment.material import Embed
from predator_si.augment.minhash import NearDuplicates, character_shingles, word_shingles
from predator_si.augment.recipe import ASKED, Filters, Guard, Proposal
from predator_si.corpora.words import token_lists

_CHARACTERS = 20_000
"""Of a document's text that is compared."""


class Leaks:
    """Says of proposals whether they resemble the evaluation.

    Parameters
    ----------
    texts
        The texts of the guard's documents that are known.
    embed
        Null: queries are compared by their letters only.
    """

    def __init__(self, guard: Guard, texts: Sequence[str], filters: Filters, embed: Embed | None = None) -> None:
        queries = list(guard.eval_queries)
        self._guard = guard
        self._filters = filters
        self._exact = {" ".join(words) for words in token_lists(queries)}
        self._near = NearDuplicates(filters.leak_similarity)
        self._near.add_all(character_shingles(queries))
        self._twins = NearDuplicates(filters.same_text_similarity)
        self._twins.add_all(word_shingles([text[:_CHARACTERS] for text in texts]))
        self._twin: dict[str, bool] = {}
        self._vectors = embed(queries) if embed is not None and queries else None
        self.counts: Counter[str] = Counter(exact=0, near=0, meaning=0, evaluation_documents=0, near_evaluation_documents=0, asked_evaluation_documents_kept=0)

    def sealed(self, doc_id: str, text: str) -> bool:
        """Whether a document is one of the evaluation's, or has nearly the text of one."""
        if doc_id not in self._twin:
            self._twin[doc_id] = doc_id not in self._guard.eval_doc_ids and self._twins.similar(word_shingles([text[:_CHARACTERS]]))[0]
        return doc_id in self._guard.eval_doc_ids or self._twin[doc_id]

    def passed(self, proposals: Sequence[Proposal], texts: Sequence[str], vectors: npt.NDArray[np.float32] | None) -> list[bool]:
        """For each proposal whether it may stay; what was refused is counted by reason.

        A query goes that equals an evaluation query, resembles one, or means nearly the same; a made-up query also when its document is an evaluation
        document or has nearly the text of one. A document that people clicked may be relevant to an evaluation query as well (real traffic does that): such
        positives stay and are counted.

        Parameters
        ----------
        texts
            Of the proposals' documents.
        vectors
            Unit vectors of the queries, a row each; null without an embedder.
        """
        queries = [proposal.query for proposal in proposals]
        near = self._near.similar(character_shingles(queries))
        closest = np.zeros(len(queries)) if vectors is None or self._vectors is None else (vectors @ self._vectors.T).max(axis=1)
        kept = []
        for proposal, words, text, similar, cosine in zip(proposals, token_lists(queries), texts, near, closest, strict=True):
            asked = proposal.source in ASKED
            reason = None
            if " ".join(words) in self._exact:
                reason = "exact"
            elif similar:
                reason = "near"
            elif cosine >= self._filters.leak_cosine:
                reason = "meaning"
            elif not asked and proposal.doc_id in self._guard.eval_doc_ids:
                reason = "evaluation_documents"
            elif not asked and self.sealed(proposal.doc_id, text):
                reason = "near_evaluation_documents"
            if reason is not None:
                self.counts[reason] += 1
            elif asked and proposal.doc_id in self._guard.eval_doc_ids:
                self.counts["asked_evaluation_documents_kept"] += 1
            kept.append(reason is None)
        return kept
