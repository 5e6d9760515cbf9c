"""Hard negatives from the live first stage: what the reranker will really see, minus what is relevant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from predator_si.augment.recipe import Filters, Proposal, Sizes

_BATCH = 256


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
    """Candidates of one query."""

    @property
    def doc_ids(self) -> list[str]:
        """Best first."""
        ...

    @property
    def texts(self) -> list[str]:
        """Aligned with ``doc_ids``."""
        ...


def mine_hard_negatives(
    proposals: Sequence[Proposal], index: FirstStage, sizes: Sizes, filters: Filters, rng: np.random.Generator, step: Callable[[int], None] = lambda done: None
) -> None:
    """Fill ``first_rank`` and ``negatives`` of each proposal.

    ``sizes.candidate_negatives`` are sampled from ranks ``sizes.negative_ranks`` ("hard" up to ``hard_until_rank``, "medium" below) and
    ``sizes.random_negatives`` from the rest of the index. The positive and everything clicked for the query never become negatives.
    """
    low, high = sizes.negative_ranks
    depth = max(high, filters.round_trip, filters.round_trip_targeted)
    for start in range(0, len(proposals), _BATCH):
        batch = proposals[start : start + _BATCH]
        for proposal, found in zip(batch, index.candidates([proposal.query for proposal in batch], depth), strict=True):
            ids = list(found.doc_ids)
            relevant = {proposal.doc_id, *proposal.excluded}
            proposal.first_rank = ids.index(proposal.doc_id) + 1 if proposal.doc_id in ids else 0
            pool = [rank for rank in range(low, min(high, len(ids)) + 1) if ids[rank - 1] not in relevant]
            ranks = sorted(rng.choice(pool, min(sizes.candidate_negatives, len(pool)), replace=False).tolist()) if pool else []
            chosen = [(ids[rank - 1], found.texts[rank - 1], "hard" if rank <= sizes.hard_until_rank else "medium", rank) for rank in ranks]
            proposal.negatives = chosen + _random(index, relevant | set(ids), sizes.random_negatives, rng)
        step(start + len(batch))


def _random(index: FirstStage, taken: set[str], count: int, rng: np.random.Generator) -> list[tuple[str, str, str, int]]:
    """Documents from anywhere outside ``taken``; fewer when the index is that small."""
    chosen: dict[str, None] = {}
    for _ in range(20 * count):
        if len(chosen) == count:
            break
        doc_id = index.doc_ids[int(rng.integers(len(index.doc_ids)))]
        if doc_id not in taken:
            chosen[doc_id] = None
    return [(doc_id, index.text(doc_id), "random", 0) for doc_id in chosen]
