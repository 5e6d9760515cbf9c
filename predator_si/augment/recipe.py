"""What a data set is made to: sizes, thresholds, and what it must not touch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

SOURCES = ("log", "clicks", "title", "phrase", "template", "crop", "llm")


@dataclass(frozen=True)
class Sizes:
    """How much of what.

    A group is one query with one positive, ``candidate_negatives`` sampled from ranks ``negative_ranks`` of the live first stage and
    ``random_negatives`` from the whole index. Four from ranks 3 to 30 and one random raised NDCG@10 by .019 where the seven hardest lowered it by .013 (same
    model, labels and queries): the mix decides the sign.
    """

    click_groups: int = 2_000
    document_groups: int = 1_000
    candidate_negatives: int = 4
    random_negatives: int = 1
    negative_ranks: tuple[int, int] = (3, 30)
    hard_until_rank: int = 10
    queries_per_document: int = 2
    targeted_share: float = 0.5
    """At most this share of the document groups comes from the weak slices and words of the report: the rest keeps what the model knows."""
    surplus: float = 2.0
    """So many times more candidate queries than groups are generated, since filters remove some."""
    validation_share: float = 0.1


@dataclass(frozen=True)
class Filters:
    """Thresholds of the filters, in the order they run (see ``filters``)."""

    words: tuple[int, int] = (2, 64)
    copied_run: tuple[int, float] = (6, 0.6)
    """A generated query is a copy when more than so many words, and more than this share of it, stand in the body in one run."""
    leak_similarity: float = 0.7
    duplicate_similarity: float = 0.8
    round_trip: int = 10
    round_trip_targeted: int = 30
    """Looser for targeted documents: those that are hard to find are the ones to learn from."""
    per_document: int = 3
    false_negative_margin: dict[str, float] = field(default_factory=lambda: {"clicks": -0.5, "title": 0.05, "phrase": 0.05})
    """A negative goes when its teacher score exceeds the positive's minus margin x the median gap between positives and negatives. Negative for clicks: a
    person chose that positive, so a negative that the teacher likes a little better is what there is to learn."""
    same_text_similarity: float = 0.8
    min_negatives: int = 2


@dataclass(frozen=True)
class Guard:
    """Evaluation queries, and documents relevant to them: no training query may resemble the former or be generated from the latter."""

    eval_queries: Sequence[str]
    eval_doc_ids: frozenset[str] | set[str]


@dataclass
class Proposal:
    """One query with its positive, on its way through the filters."""

    query: str
    doc_id: str
    source: str
    method: str
    weight: float
    targeted: bool
    excluded: frozenset[str] = frozenset()
    """Documents that must not become its negatives: everything clicked for this query."""
    sealed: str | None = None
    """A client's query as it may be stored; null for a generated one, which is nobody's."""
    first_rank: int = 0
    negatives: list[tuple[str, str, str, int]] = field(default_factory=list)
    """(doc_id, text, kind, first-stage rank or 0)."""
    teacher: np.ndarray | None = None
    """Teacher's scores of the positive and then the negatives, once known."""
