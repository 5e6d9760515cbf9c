"""Hard negatives from the live first stage: what the reranker will really see, minus what is relevant."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Protocol

import numpy as np

from predator_si.augment.recipe import Filters, Proposal, Sizes
from predator_si.errors import BadInput

LEGS = ("fused", "lexical", "dense")
_TEXT_CHARACTERS = 20_000
"""Of a document that a group keeps: several times what 512 tokens can hold in any script."""


class FirstStage(Protocol):
    """The part of ``search.retrieve.HybridIndex`` that mining needs."""

    doc_ids: list[str]

    def text(self, doc_id: str) -> str:
        """Title and text as the reranker sees them."""
        ...

    def candidates(self, queries: Sequence[str], depth: int) -> Sequence[Found]:
        """The first ``depth`` documents of each query, best first."""
        ...


class Found(Protocol):
    """Candidates of one query; optionally ``lexical_ids`` and ``dense_ids``, what each leg found, best first."""

    @property
    def doc_ids(self) -> list[str]:
        """Best first."""
        ...

    @property
    def texts(self) -> list[str]:
        """Aligned with ``doc_ids``."""
        ...


class NegativeMiner:
    """Fills ``first_rank`` and ``negatives`` of proposals.

    ``sizes.candidate_negatives`` are sampled from ranks ``sizes.negative_ranks`` of the legs in ``sizes.legs`` by turns ("hard" up to ``hard_until_rank``,
    "medium" below) and ``sizes.random_negatives`` from the rest of the index. The positive and everything clicked for the query never become negatives.
    Proposals without a document are the teacher's (``labels``); one that brings its negatives keeps them.

    What is drawn depends on the seed, the query and its document alone: with other filters or generators beside it, a group stays the same.

    Raises
    ------
    BadInput
        ``sizes.legs`` names a leg that there is not.
    """

    def __init__(self, index: FirstStage, sizes: Sizes, filters: Filters, seed: int) -> None:
        strange = [leg for leg in sizes.legs if leg not in LEGS]
        if strange or not sizes.legs:
            raise BadInput(f"legs of the negatives: {strange or 'none given'}; there are {', '.join(LEGS)}.")
        self._index = index
        self._sizes = sizes
        self._seed = seed
        self._depth = max(sizes.negative_ranks[1], filters.round_trip, filters.round_trip_targeted)
        self._texts: dict[str, str] = {}
        self.by_leg = dict.fromkeys((*LEGS, "random"), 0)
        """How many negatives each leg has given."""

    def fill(self, proposals: Sequence[Proposal]) -> None:
        """Give the negatives their texts: only those of groups that stay are worth the memory."""
        for proposal in proposals:
            proposal.negatives = [(doc_id, text or self.text(doc_id), kind, rank) for doc_id, text, kind, rank in proposal.negatives]

    def text(self, doc_id: str) -> str:
        """A document as it is kept in groups; each is kept once, however many groups it is in."""
        found = self._texts.get(doc_id)
        if found is None:
            found = self._texts[doc_id] = self._index.text(doc_id)[:_TEXT_CHARACTERS]
        return found

    def mine(self, proposals: Sequence[Proposal]) -> None:
        """Ask the first stage for all of them at once. Texts are still empty (see :meth:`fill`)."""
        new = [proposal for proposal in proposals if proposal.doc_id and not proposal.negatives]
        for proposal, found in zip(new, self._index.candidates([proposal.query for proposal in new], self._depth) if new else (), strict=True):
            ids = list(found.doc_ids)
            proposal.first_rank = ids.index(proposal.doc_id) + 1 if proposal.doc_id in ids else 0
            relevant = {proposal.doc_id, *proposal.excluded, *proposal.grades}
            rng = np.random.default_rng([self._seed, zlib.crc32(proposal.query.encode()), zlib.crc32(proposal.doc_id.encode())])
            chosen = self._from_legs(found, ids, relevant, rng)
            taken = relevant | set(ids) | {entry[0] for entry in chosen}
            graded = [(doc_id, "", "graded", ids.index(doc_id) + 1 if doc_id in ids else 0) for doc_id in proposal.grades]
            proposal.negatives = graded + chosen + self._random(taken, rng)

    def _from_legs(self, found: Found, ids: list[str], relevant: set[str], rng: np.random.Generator) -> list[tuple[str, str, str, int]]:
        low, high = self._sizes.negative_ranks
        ranked = {leg: getattr(found, f"{leg}_ids", None) or ids for leg in LEGS}
        pools = {leg: [(rank, ranked[leg][rank - 1]) for rank in range(low, min(high, len(ranked[leg])) + 1)] for leg in set(self._sizes.legs)}
        place = {doc_id: rank for rank, doc_id in enumerate(ids, 1)}
        chosen: list[tuple[str, str, str, int]] = []
        taken = relevant | set(ids[: low - 1])  # what all retrievers together put first is too often right
        for leg in islice(cycle(self._sizes.legs), self._sizes.candidate_negatives):
            pool = [(rank, doc_id) for rank, doc_id in pools[leg] if doc_id not in taken] or [
                (rank, doc_id) for own in pools.values() for rank, doc_id in own if doc_id not in taken
            ]
            if not pool:
                break
            rank, doc_id = pool[int(rng.integers(len(pool)))]
            taken.add(doc_id)
            chosen.append((doc_id, "", "hard" if rank <= self._sizes.hard_until_rank else "medium", place.get(doc_id, 0)))
            self.by_leg[leg] += 1
        return sorted(chosen, key=lambda entry: entry[3] or len(ids) + 1)

    def _random(self, taken: set[str], rng: np.random.Generator) -> list[tuple[str, str, str, int]]:
        """Documents from anywhere outside ``taken``; fewer when the index is that small."""
        count = self._sizes.random_negatives
        chosen: dict[str, None] = {}
        for _ in range(20 * count):
            if len(chosen) == count:
                break
            doc_id = self._index.doc_ids[int(rng.integers(len(self._index.doc_ids)))]
            if doc_id not in taken:
                chosen[doc_id] = None
        self.by_leg["random"] += len(chosen)
        return [(doc_id, "", "random", 0) for doc_id in chosen]
