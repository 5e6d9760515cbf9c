"""What a group must survive once its negatives and, where there is one, the teacher's scores are known; and the account of all filters.

Each filter takes proposals and returns those that pass; ``Yield`` counts what is left by source after each.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from predator_si.augment.minhash import jaccard, word_shingles
from predator_si.augment.recipe import ASKED, SOURCES, Filters, Proposal


class Yield:
    """Proposals left by source after each step, in the order of the steps; a stream's batches add up. The sources are those that proposed anything."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}

    def count(self, step: str, proposals: Sequence[Proposal]) -> None:
        """Write down what is left of a batch after ``step``."""
        self._counts.setdefault(step, Counter()).update(proposal.source for proposal in proposals)

    @property
    def steps(self) -> dict[str, dict[str, int]]:
        """Step -> source -> left."""
        first: Mapping[str, int] = next(iter(self._counts.values()), Counter())
        return {step: {source: counts[source] for source in SOURCES if source in first} for step, counts in self._counts.items()}

    def greediest(self) -> tuple[str, int, int] | None:
        """The step that took most: its name, how many it took, of how many; null where nothing was taken."""
        totals = [(step, counts.total()) for step, counts in self._counts.items()]
        losses = [(before - after, step, before) for (_, before), (step, after) in itertools.pairwise(totals)]
        taken, step, of = max(losses, key=lambda loss: loss[0], default=(0, "", 0))
        return (step, taken, of) if taken else None


def longest_common_run(query: Sequence[str], body: Sequence[str]) -> int:
    """Length in words of the longest run that stands in both."""
    best = 0
    starts: dict[str, list[int]] = {}
    for at, word in enumerate(body):
        starts.setdefault(word, []).append(at)
    for begin in range(len(query)):
        for at in starts.get(query[begin], ()):
            size = 0
            while begin + size < len(query) and at + size < len(body) and query[begin + size] == body[at + size]:
                size += 1
            best = max(best, size)
    return best


def drop_same_text(proposals: Sequence[Proposal], positives: Mapping[str, str], filters: Filters) -> int:
    """Take out negatives with nearly the text of the positive; how many. Log queries have no positive yet and keep theirs."""
    if "same_text" in filters.off:
        return 0
    answered = [proposal for proposal in proposals if proposal.doc_id]
    texts = {doc_id: text for proposal in answered for doc_id, text, _, _ in proposal.negatives}
    texts.update({proposal.doc_id: positives[proposal.doc_id] for proposal in answered})
    shingles = dict(zip(texts, word_shingles(list(texts.values()), size=2), strict=True))
    dropped = 0
    for proposal in answered:
        kept = [entry for entry in proposal.negatives if jaccard(shingles[entry[0]], shingles[proposal.doc_id]) < filters.same_text_similarity]
        dropped += len(proposal.negatives) - len(kept)
        proposal.negatives = kept
    return dropped


def above_floor(proposals: Sequence[Proposal], filters: Filters) -> list[Proposal]:
    """Made-up queries go when the teacher scores their document below the mean of its own negatives (the floor of doc2query--, arXiv 2301.03266)."""

    def passes(proposal: Proposal) -> bool:
        scores = proposal.teacher
        return proposal.source in ASKED or scores is None or len(scores) < 2 or float(scores[0]) >= float(scores[1:].mean())

    return [proposal for proposal in proposals if "teacher" in filters.off or passes(proposal)]


def drop_false_negatives(proposals: Sequence[Proposal], filters: Filters) -> int:
    """Take out negatives that are probably relevant by the teacher's scores; how many.

    The margin is in units of the median gap between a positive and the mean of its negatives over all proposals, so that it holds for logits and
    probabilities alike. Groups of a log query keep all: their scores are the labels.
    """
    if "teacher" in filters.off:
        return 0
    gaps = [float(p.teacher[0] - p.teacher[1:].mean()) for p in proposals if p.teacher is not None and len(p.teacher) > 1]
    scale = max(float(np.median(gaps)), 0.0) if gaps else 0.0
    dropped = 0
    for proposal in proposals:
        if proposal.teacher is None or proposal.source == "log":
            continue
        graded = np.array([proposal.grades.get(entry[0], 0.0) > 0 for entry in proposal.negatives], dtype=bool)  # their label says that they are relevant
        keep = graded | (proposal.teacher[1:] < float(proposal.teacher[0]) - filters.false_negative_margin[proposal.source] * scale)
        dropped += int((~keep).sum())
        proposal.negatives = [entry for entry, good in zip(proposal.negatives, keep, strict=True) if good]
        proposal.teacher = np.concatenate([proposal.teacher[:1], proposal.teacher[1:][keep]])
    return dropped


def enough_negatives(proposals: Sequence[Proposal], filters: Filters) -> list[Proposal]:
    """A group needs ``filters.min_negatives`` negatives to teach anything."""
    return [proposal for proposal in proposals if len(proposal.negatives) >= filters.min_negatives]
