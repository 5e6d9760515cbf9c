"""What a proposal must survive, cheapest first, the teacher last: it is the only filter that costs seconds.

Each filter takes proposals and returns those that pass; ``Yield`` counts what is left by source after each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from predator_si.augment.minhash import NearDuplicates, character_shingles, jaccard, word_shingles
from predator_si.augment.recipe import SOURCES, Filters, Guard, Proposal
from predator_si.corpora.words import token_lists

Teacher = Callable[[list[tuple[str, str]]], np.ndarray]


class Yield:
    """Proposals left by source after each step, in the order of the steps; the sources are those of the first step."""

    def __init__(self) -> None:
        self.steps: dict[str, dict[str, int]] = {}

    def count(self, step: str, proposals: Sequence[Proposal]) -> None:
        """Write down what is left after ``step``."""
        left = Counter(proposal.source for proposal in proposals)
        known = next(iter(self.steps.values()), left)
        self.steps[step] = {source: left[source] for source in SOURCES if source in known}


def fit_length(proposals: Sequence[Proposal], bodies: Mapping[str, str], filters: Filters) -> list[Proposal]:
    """Queries of a sensible number of words; generated ones must not be a sentence copied from the body."""
    low, high = filters.words
    most, share = filters.copied_run
    words = token_lists([proposal.query for proposal in proposals])
    texts = token_lists([bodies.get(proposal.doc_id, "") if proposal.source != "clicks" else "" for proposal in proposals])
    kept = []
    for proposal, query, body in zip(proposals, words, texts, strict=True):
        run = longest_common_run(query, body) if proposal.source != "clicks" and len(query) > most else 0
        if low <= len(query) <= high and not (run > most and run > share * len(query)):
            kept.append(proposal)
    return kept


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


def without_leaks(proposals: Sequence[Proposal], guard: Guard, filters: Filters) -> tuple[list[Proposal], dict[str, int]]:
    """Drop queries that equal or resemble an evaluation query; generated queries also when their document is an evaluation document.

    A clicked document may be relevant to an evaluation query as well (real traffic does that): such positives stay and are counted.
    """
    exact = {" ".join(words) for words in token_lists(list(guard.eval_queries))}
    known = NearDuplicates(filters.leak_similarity)
    known.add_all(character_shingles(list(guard.eval_queries)))
    texts = [proposal.query for proposal in proposals]
    same = [" ".join(words) in exact for words in token_lists(texts)]
    near = known.similar(character_shingles(texts))
    foreign = [proposal.source != "clicks" and proposal.doc_id in guard.eval_doc_ids for proposal in proposals]
    kept = [proposal for proposal, *hits in zip(proposals, same, near, foreign, strict=True) if not any(hits)]
    return kept, {
        "exact": sum(same),
        "near": sum(n and not s for n, s in zip(near, same, strict=True)),
        "evaluation_documents": sum(foreign),
        "clicked_evaluation_documents_kept": sum(proposal.source == "clicks" and proposal.doc_id in guard.eval_doc_ids for proposal in kept),
    }


def without_near_duplicates(proposals: Sequence[Proposal], filters: Filters) -> list[Proposal]:
    """Of queries that resemble each other the first stays: clicks come before generated ones."""
    fresh = NearDuplicates(filters.duplicate_similarity).add_unless_similar(character_shingles([proposal.query for proposal in proposals]))
    return [proposal for proposal, new in zip(proposals, fresh, strict=True) if new]


def found_again(proposals: Sequence[Proposal], filters: Filters) -> list[Proposal]:
    """Round trip (Promptagator, arXiv 2209.11755): the first stage must find the seed document from the generated query.

    Clicked documents were served, so they pass.
    """

    def passes(proposal: Proposal) -> bool:
        limit = filters.round_trip_targeted if proposal.targeted else filters.round_trip
        return proposal.source == "clicks" or 0 < proposal.first_rank <= limit

    return [proposal for proposal in proposals if passes(proposal)]


def capped_per_document(proposals: Sequence[Proposal], filters: Filters) -> list[Proposal]:
    """No document is the positive of more than ``filters.per_document`` groups."""
    seen: Counter[str] = Counter()
    kept = []
    for proposal in proposals:
        if seen[proposal.doc_id] < filters.per_document:
            seen[proposal.doc_id] += 1
            kept.append(proposal)
    return kept


def drop_same_text(proposals: Sequence[Proposal], positives: Mapping[str, str], filters: Filters) -> int:
    """Take out negatives with nearly the text of the positive; how many."""
    shingles: dict[str, frozenset[int]] = {}
    texts = {doc_id: text for proposal in proposals for doc_id, text, _, _ in proposal.negatives}
    texts.update({proposal.doc_id: positives[proposal.doc_id] for proposal in proposals})
    shingles = dict(zip(texts, word_shingles(list(texts.values()), size=2), strict=True))
    dropped = 0
    for proposal in proposals:
        kept = [entry for entry in proposal.negatives if jaccard(shingles[entry[0]], shingles[proposal.doc_id]) < filters.same_text_similarity]
        dropped += len(proposal.negatives) - len(kept)
        proposal.negatives = kept
    return dropped


def drop_false_negatives(proposals: Sequence[Proposal], filters: Filters) -> tuple[list[Proposal], dict[str, int]]:
    """Judge by the teacher's scores: negatives that are probably relevant go, and generated queries whose document it finds irrelevant.

    The margin is in units of the median gap between a positive and the mean of its negatives over all proposals, so that it holds for logits and
    probabilities alike. A generated query goes when its document scores below the mean of its own negatives (the relevance floor of doc2query--,
    arXiv 2301.03266).
    """
    gaps = [float(p.teacher[0] - p.teacher[1:].mean()) for p in proposals if p.teacher is not None and len(p.teacher) > 1]
    scale = max(float(np.median(gaps)), 0.0) if gaps else 0.0
    kept, dropped, irrelevant = [], 0, 0
    for proposal in proposals:
        if proposal.teacher is None:
            kept.append(proposal)
            continue
        positive, negatives = float(proposal.teacher[0]), proposal.teacher[1:]
        if proposal.source != "clicks" and len(negatives) and positive < float(negatives.mean()):
            irrelevant += 1
            continue
        keep = negatives < positive - filters.false_negative_margin[proposal.source] * scale
        dropped += int((~keep).sum())
        proposal.negatives = [entry for entry, good in zip(proposal.negatives, keep, strict=True) if good]
        proposal.teacher = np.concatenate([proposal.teacher[:1], negatives[keep]])
        kept.append(proposal)
    return kept, {"negatives": dropped, "irrelevant_queries": irrelevant}


def enough_negatives(proposals: Sequence[Proposal], filters: Filters) -> list[Proposal]:
    """A group needs ``filters.min_negatives`` negatives to teach anything."""
    return [proposal for proposal in proposals if len(proposal.negatives) >= filters.min_negatives]
